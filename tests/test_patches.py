"""Patches and views against plain references."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from atslib.networks import AttentionNetwork
from atslib.patches import (
    PatchGeometry,
    _weights_on,
    check_aspect,
    distinct_patches,
    downsample,
    extract_patches,
    low_size,
    overlaps,
    pair,
)
from atslib.profiling import peak_memory

DTYPES = [torch.uint8, torch.uint16, torch.uint64, torch.int16, torch.float32, torch.float64, torch.bfloat16, torch.bool]


def by_padding_and_slicing(image, top_left, size, fill):
    """What extract_patches must equal: pad a copy so far that every patch is inside, then cut them out one by one."""
    height, width = size
    reach = int(top_left.abs().max()) + max(height, width)
    batch, channels, rows, columns = image.shape
    padded = torch.full((batch, channels, rows + 2 * reach, columns + 2 * reach), fill, dtype=image.dtype)
    padded[:, :, reach : reach + rows, reach : reach + columns] = image
    return torch.stack(
        [
            torch.stack(
                [padded[b, :, y + reach : y + reach + height, x + reach : x + reach + width] for y, x in corners.tolist()]
            )
            for b, corners in enumerate(top_left)
        ]
    )


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 20), st.integers(1, 20)),
    n=st.integers(1, 5),
    fraction=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    dtype=st.sampled_from(DTYPES),
    fill=st.sampled_from([0, 1]),
    reach=st.sampled_from([0, 3, 1000]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=300, deadline=None)
def test_extract_patches_equals_padding_and_slicing(shape, n, fraction, dtype, fill, reach, seed):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 200, shape, generator=generator).to(dtype)
    size = tuple(max(1, round(f * side)) for f, side in zip(fraction, shape[2:], strict=True))
    corners = torch.stack(
        [torch.randint(-reach - 1, side + reach, (shape[0], n), generator=generator) for side in shape[2:]], dim=-1
    )
    patches = extract_patches(image, corners, size, fill=fill)
    assert patches.dtype == dtype
    assert torch.equal(patches, by_padding_and_slicing(image, corners, size, fill))


def test_a_fill_of_the_upper_half_of_an_unsigned_type():
    image = torch.zeros(1, 1, 4, 4).to(torch.uint16)
    patch = extract_patches(image, torch.tensor([[[3, 3]]]), 2, fill=65535)[0, 0, 0]
    assert patch.dtype == torch.uint16 and patch.int().tolist() == [[0, 65535], [65535, 65535]]


def test_extract_patches_works_on_views_of_a_larger_tensor():
    base = torch.arange(2 * 3 * 8 * 10).view(2, 8, 10, 3)
    image = base.permute(0, 3, 1, 2)[..., ::2]  # neither contiguous nor channels first
    corners = torch.tensor([[[-1, -1], [5, 2]], [[0, 0], [7, 4]]])
    assert torch.equal(extract_patches(image, corners, (3, 2)), by_padding_and_slicing(image.contiguous(), corners, (3, 2), 0))


def test_extract_patches_takes_no_copy_of_the_image():
    """Reading from an image that is one repeated pixel: a copy of its 4 × 10^12 pixels would not fit anywhere."""
    image = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(1, 1, 2_000_000, 2_000_000)
    patches = extract_patches(image, torch.tensor([[[-25, 1_999_975], [7, 7]]]), 50, fill=3)
    assert patches[0, 0, 0].bool().sum() == 50 * 50 - 25 * 25
    assert not patches[0, 1].any()


def test_extract_patches_is_differentiable_in_the_image():
    image = torch.rand(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    corners = torch.tensor([[[-1, 0], [2, 3]]])
    assert torch.autograd.gradcheck(lambda x: extract_patches(x, corners, 3), image)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex128])
@pytest.mark.parametrize("length", range(1, 10))
def test_distinct_patches_of_any_type_and_length(dtype, length):
    """Eight bytes are compared at a time, and patches need not end with one of these."""
    values = torch.randint(0, 2, (30, 3, 1, length)).to(dtype)
    for patches in (values, values[:, 1:2], values[..., -1:]):  # the second is no row of its memory
        seen, expected = [], []
        for patch in patches.tolist():
            if patch not in seen:
                seen.append(patch)
            expected.append(seen.index(patch))
        first, which = distinct_patches(patches)
        assert which.tolist() == expected and [patches[number].tolist() for number in first] == seen


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("channels_last", [True, False])
def test_distinct_patches_by_comparing_all_pairs(dtype, channels_last):
    torch.manual_seed(0)
    patches = torch.randint(0, 2, (40, 2, 1, 2)).to(dtype)  # 16 kinds
    if channels_last:
        patches = patches.contiguous(memory_format=torch.channels_last)
    equal = (patches[:, None] == patches).flatten(2).all(2)
    firsts = equal.int().argmax(1)  # of each patch, the first that is equal to it
    first, which = distinct_patches(patches)
    assert first.tolist() == sorted(set(firsts.tolist())) and len(first) < 40
    assert torch.equal(first[which], firsts)


def test_distinct_patches_are_told_by_their_bits():
    patches = torch.tensor([0.0, -0.0, torch.nan, 0.0, torch.nan, 1.0]).view(6, 1, 1, 1)
    assert [part.tolist() for part in distinct_patches(patches)] == [[0, 1, 2, 5], [0, 1, 2, 0, 2, 3]]
    assert [part.tolist() for part in distinct_patches(patches[:0])] == [[], []]
    with pytest.raises(ValueError, match=r"patches of shape \(1, 2, 3, 9, 9\): expected rank 4"):
        distinct_patches(torch.zeros(1, 2, 3, 9, 9))
    one_pixel = torch.zeros(2, 3, 9, 9, dtype=torch.uint8)
    one_pixel[1, 2, 8, 8] = 1
    assert [part.tolist() for part in distinct_patches(one_pixel)] == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    "image, corners, size, message",
    [
        (torch.zeros(3, 8, 8), torch.zeros(1, 1, 2).long(), 2, r"image of shape \(3, 8, 8\): expected rank 4"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(2, 1, 2).long(), 2, r"top_left of shape \(2, 1, 2\).*B = 1"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 2).long(), 2, r"top_left of shape \(1, 2\)"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 2).long(), 9, r"patch of 9 × 9 pixels from an image of 8 × 8"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 2).long(), (2, 0), r"size \(2, 0\): expected a whole number of pixels"),
    ],
)
def test_extract_patches_refuses(image, corners, size, message):
    with pytest.raises(ValueError, match=message):
        extract_patches(image, corners, size)


# ---------------------------------------------------------------------------------------------------------------------
# Geometry


def test_patches_are_centred_on_the_locations_pixel():
    """Stride 1, no padding, one view pixel a cell: the patch's middle is the middle of what that pixel shows."""
    geometry = PatchGeometry((1500, 1500), (180, 180), (180, 180), 50)
    corners = geometry.top_left(torch.tensor([[0, 179, 180 * 90 + 45]]))[0]
    pixel = 1500 / 180
    for (top, left), (row, column) in zip(corners.tolist(), [(0, 0), (0, 179), (90, 45)], strict=True):
        assert abs(top + 25 - (row + 0.5) * pixel) <= 0.5
        assert abs(left + 25 - (column + 0.5) * pixel) <= 0.5


@given(
    image=st.integers(40, 400),
    ratio=st.floats(1, 9),
    patch=st.integers(1, 40),
    stride=st.integers(1, 4),
    padding=st.integers(0, 3),
    field=st.integers(1, 9),
)
@settings(max_examples=200, deadline=None)
def test_geometry_rounds_the_formula(image, ratio, patch, stride, padding, field):
    low = max(10, round(image / ratio))
    cells = (low + 2 * padding - field) // stride + 1
    geometry = PatchGeometry((image, image), (low, low), (cells, cells), patch, stride, padding, field)
    index = torch.arange(cells * cells)[None]
    exact = geometry.centre(index) - patch / 2
    assert ((geometry.top_left(index) - exact).abs() <= 0.5 + 1e-9).all()
    expected = (torch.arange(cells).double() * stride - padding + field / 2) * image / low
    torch.testing.assert_close(geometry.centre(index)[0, :cells, 1], expected)


def test_locations_of_any_whole_type():
    """A pixel of the image times the view's side is beyond 32 bits."""
    geometry = PatchGeometry((100_000, 100_000), (30_000, 30_000), (30_000, 30_000), patch_size=50)
    index = torch.tensor([[0, 30_000**2 - 1]])
    assert torch.equal(geometry.top_left(index.int()), geometry.top_left(index))
    assert torch.equal(geometry.centre(index.int()), geometry.centre(index))
    with pytest.raises(ValueError, match=r"index of type torch.float32: expected whole numbers"):
        geometry.top_left(index.float())


def test_geometry_of_a_map_that_is_not_square():
    geometry = PatchGeometry((960, 1280), (288, 384), (35, 47), 100, stride=8, padding=0, receptive_field=16)
    index = torch.tensor([[0, 46, 34 * 47]])
    # cell (r, c) is centred on view pixel edge (8r + 8, 8c + 8), 10/3 image pixels each
    expected = torch.tensor([[8, 8], [8, 46 * 8 + 8], [34 * 8 + 8, 8]], dtype=torch.float64) * 10 / 3
    torch.testing.assert_close(geometry.centre(index)[0], expected)
    assert geometry.top_left(index)[0].tolist() == [[-23, -23], [-23, 1203], [883, -23]]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (((100, 100), (10, 10), (10, 10), 101), "patch of 101 × 101 pixels from an image of 100 × 100"),
        (((100, 200), (10, 10), (10, 10), 5), r"view of size \(10, 10\) of an image of \(100, 200\): the aspects differ"),
        (((100, 100), (10, 10), (12, 12), 5), r"attention map of size \(12, 12\).*cannot give it"),
        (((100, 100), (10, 10), (5, 5), 5), r"attention map of size \(5, 5\).*stride 1, .*cannot give it"),  # it was 2
        (((100, 100), (10, 10), (10, 9), 5), r"attention map of size \(10, 9\).*cannot give it"),
    ],
)
def test_geometry_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        PatchGeometry(*arguments)


@given(st.integers(20, 3000), st.integers(20, 3000), st.floats(0.05, 1))
@settings(max_examples=200, deadline=None)
def test_a_view_made_at_any_scale_has_the_images_aspect(height, width, scale):
    check_aspect((height, width), low_size((height, width), scale))


# ---------------------------------------------------------------------------------------------------------------------
# Views


def by_overlaps(image, size):
    """What downsample must equal: every output pixel as the mean over the area it covers, one overlap at a time."""

    def overlaps(fine, coarse):
        edge = fine / coarse
        return torch.tensor(
            [[max(0, min(j + 1, (i + 1) * edge) - max(j, i * edge)) / edge for j in range(fine)] for i in range(coarse)],
            dtype=torch.float64,
        )

    down, across = (overlaps(fine, coarse) for fine, coarse in zip(image.shape[2:], size, strict=True))
    return down @ image.double() @ across.T


@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
    fraction=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    kind=st.sampled_from([torch.uint8, torch.float32, torch.float64]),
)
@settings(max_examples=150, deadline=None)
def test_downsample_is_the_mean_over_the_area(shape, fraction, kind):
    size = tuple(max(1, round(f * side)) for f, side in zip(fraction, shape[2:], strict=True))
    image = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255).to(kind)
    expected = by_overlaps(image, size) / (255 if kind == torch.uint8 else 1)
    view = downsample(image, size)
    assert view.dtype == (torch.float32 if kind == torch.uint8 else kind)
    torch.testing.assert_close(view.double(), expected, rtol=1e-5, atol=1e-5)


def test_downsample_keeps_every_stroke():
    """A line one pixel wide keeps its mass wherever it lies; picking the nearest pixel would drop most such lines."""
    for column in range(60):
        image = torch.zeros(1, 1, 60, 60)
        image[..., column] = 1
        assert downsample(image, (7, 7)).mean().item() == pytest.approx(1 / 60)


@pytest.mark.parametrize("size", [(30, 45), (31, 37)])  # columns in 45 groups of 20, and in one of 900
def test_downsample_makes_the_weights_of_columns_once(size, monkeypatch):
    image, calls = torch.rand(1, 2, 600, 900), []
    expected = downsample(image, size)

    def counted(fine, coarse, *part):
        calls.append(fine)
        return overlaps(fine, coarse, *part)

    monkeypatch.setattr("atslib.patches.overlaps", counted)
    monkeypatch.setattr("atslib.patches._STRIP", 1 << 14)  # some ten rows at a time
    torch.testing.assert_close(downsample(image, size), expected)
    assert sum(fine in (900, 20) for fine in calls) <= 2  # in two blocks; in groups, beside those of the rows, of 20 pixels, too


def test_downsample_in_strips_is_the_same(monkeypatch):
    image = torch.randint(0, 256, (2, 3, 70, 50), dtype=torch.uint8)
    whole = downsample(image, (21, 15))
    monkeypatch.setattr("atslib.patches._STRIP", 1)
    torch.testing.assert_close(downsample(image, (21, 15)), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape, size", [((61, 47), (9, 40)), ((97, 101), (97, 1)), ((64, 96), (8, 13)), ((50, 50), (7, 7))])
def test_downsample_where_the_weights_hardly_repeat(shape, size, monkeypatch):
    image = torch.randint(0, 256, (2, 2, *shape), dtype=torch.uint8)
    expected = by_overlaps(image, size) / 255
    for strip in (1, 1000, 1 << 20):
        monkeypatch.setattr("atslib.patches._LONG", 4)
        monkeypatch.setattr("atslib.patches._STRIP", strip)
        torch.testing.assert_close(downsample(image, size).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [300, 241, 240])  # of 7919, a prime: the weights never repeat; of 8000: every 100 rows
def test_downsample_needs_no_copy_of_a_large_image(size):
    side = 8000 if size == 240 else 7919
    image = torch.zeros(1, 1, side, side, dtype=torch.uint8)
    assert peak_memory(lambda: downsample(image, (size, size))) - image.nbytes < 0.2 * image.nbytes


@pytest.mark.parametrize("layout, saved", [("channels last", 0.25), ("expanded", 0.8)])  # share of the pixels
def test_downsample_needs_no_copy_of_a_batch_in_another_layout(layout, saved):
    image = torch.randint(0, 256, (2, 3, 1000, 1000), dtype=torch.uint8)
    last, expanded = image.contiguous(memory_format=torch.channels_last), image[:1, :1].expand(8, 3, -1, -1)
    image = last if layout == "channels last" else expanded
    expected = downsample(image.contiguous(), (100, 100))
    torch.testing.assert_close(downsample(image, (100, 100)), expected, rtol=0, atol=1e-7)
    held = image.untyped_storage().nbytes()
    taken = peak_memory(lambda: downsample(image, (100, 100))) - held
    copied = peak_memory(lambda: downsample(image.contiguous(), (100, 100))) - held
    assert copied - taken > saved * image.numel()


def test_downsample_of_a_batch_in_another_layout_can_be_compiled():
    image = torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    made = torch.compile(lambda x: downsample(x, (16, 16)), backend="eager")(image)
    torch.testing.assert_close(made, downsample(image, (16, 16)))


def test_downsample_is_not_rounded_by_autocast():
    image = torch.randint(0, 256, (1, 1, 60, 60), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        view = downsample(image, (7, 7))
    torch.testing.assert_close(view, downsample(image, (7, 7)), rtol=0, atol=0)


@pytest.mark.parametrize(
    "image, size, message",
    [
        (torch.zeros(8, 8), (2, 2), r"image of shape \(8, 8\): expected rank 4"),
        (torch.zeros(1, 1, 8, 8), (9, 9), r"view of size \(9, 9\) from an image of \(8, 8\)"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.int32), (2, 2), r"image of type torch.int32: expected uint8 or floating"),
    ],
)
def test_downsample_refuses(image, size, message):
    with pytest.raises(ValueError, match=message):
        downsample(image, size)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_patches_of_an_image_that_stays_in_the_computers_memory():
    image = torch.randint(0, 256, (2, 1, 60, 60), dtype=torch.uint8)
    top_left = torch.tensor([[[1, 2], [50, -3]], [[0, 0], [7, 7]]])
    there = extract_patches(image, top_left.cuda(), 12)
    assert there.is_cuda and torch.equal(there.cpu(), extract_patches(image, top_left, 12))


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("side", range(20, 29))
def test_geometry_takes_the_map_of_any_chain_of_windows(side, ceil_mode):
    pool = nn.MaxPool2d(3, 2, ceil_mode=ceil_mode)
    network = AttentionNetwork(nn.Conv2d(1, 1, 3, stride=2), pool, nn.Conv2d(1, 1, 3, padding=1))
    cells = tuple(network(torch.zeros(1, 1, side, side)).shape[1:])
    PatchGeometry((side, side), (side, side), cells, 4, network.stride, network.padding, network.receptive_field)


def test_sizes_and_fills_as_other_libraries_give_them():
    image, corner = torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.tensor([[[-2, 0]]])
    assert extract_patches(image, corner, np.int64(4), fill=255)[0, 0, 0, 0].tolist() == [255] * 4
    for fill in (-1, 256, 0.5):
        with pytest.raises(ValueError, match=f"fill={fill} for a uint8 image: expected a whole number, 0 … 255"):
            extract_patches(image, corner, 4, fill=fill)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_downsample_of_half_precision_is_the_rounded_mean(dtype):
    image = torch.rand(1, 2, 50, 41, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(downsample(image, (7, 9)), downsample(image.double(), (7, 9)).to(dtype))
    assert torch.equal(downsample(torch.ones(1, 1, 100, 100, dtype=dtype), (7, 7)), torch.ones(1, 1, 7, 7, dtype=dtype))


def test_downsample_of_no_image_is_none():
    assert downsample(torch.zeros(0, 3, 8, 8), (2, 2)).shape == (0, 3, 2, 2)


@pytest.mark.parametrize("size", [20.0, 0, -5, (4, 4, 4), (4.0, 4.0), "4", None])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(ValueError, match="expected a whole number of pixels, at least 1, or two, height and width"):
        pair(size)


@pytest.mark.parametrize("dtype, fill", [(torch.int16, 0.5), (torch.int8, 300), (torch.uint8, -1)])
def test_a_fill_that_does_not_fit_is_refused(dtype, fill):
    with pytest.raises(ValueError, match=f"fill={fill} for a {str(dtype)[6:]} image: expected a whole number"):
        extract_patches(torch.zeros(1, 1, 8, 8, dtype=dtype), torch.zeros(1, 1, 2, dtype=torch.long), 4, fill=fill)


def test_corners_are_whole_numbers():
    with pytest.raises(ValueError, match=r"top_left of type torch\.float64: expected whole numbers"):
        extract_patches(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 2, dtype=torch.double), 4)


def test_the_size_of_a_view_is_rounded_halves_up_and_at_least_a_pixel():
    assert low_size((25, 35), 0.1) == (3, 4) and low_size((4, 30), 0.1) == (1, 3)


def test_a_patch_wider_than_the_image_is_refused():
    with pytest.raises(ValueError, match="patch of 4 × 13 pixels from an image of 8 × 12"):
        extract_patches(torch.zeros(1, 3, 8, 12), torch.zeros(1, 1, 2).long(), (4, 13))


@pytest.mark.parametrize(
    "function", [lambda image: downsample(image, 2), lambda image: extract_patches(image, torch.zeros(1, 1, 2).long(), 2)]
)
def test_an_array_is_named(function):
    with pytest.raises(ValueError, match=r"image of type ndarray: expected a tensor; torch\.from_numpy makes one"):
        function(np.zeros((1, 1, 4, 4), np.uint8))


def test_weights_that_are_kept_serve_training_whoever_asked_first():
    """Those of a GPU are made once; a tensor of inference mode could not be saved for a backward pass."""
    _weights_on.cache_clear()
    with torch.inference_mode():
        weights = _weights_on(6, 4, 0, None, torch.device("cpu"), torch.float32)
    assert not weights.is_inference() and weights is _weights_on(6, 4, 0, None, torch.device("cpu"), torch.float32)
    assert torch.equal(weights, overlaps(6, 4).float())
