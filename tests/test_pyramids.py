"""Images in files: the same patches, views and answers as the tensor with the same pixels, and only what is asked for is read."""

import copy
import os
import pickle
import threading
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset

from atslib import AttentionSampling, DeepMIL, DownsampledCNN, NestedSampling, UniformSampling, downsample, extract_patches
from atslib.data import Augmentation, DataError, ImagePyramid, pyramids
from atslib.data.pyramids import _SlideLevel, _whole_place
from atslib.loading import InMemory, Loader, collate
from atslib.networks import AttentionNetwork, Classifier, MILAttention
from atslib.patches import ImageBatch, overlaps
from atslib.training import Settings, evaluate, train

tifffile = pytest.importorskip("tifffile")
zarr = pytest.importorskip("zarr")
openslide = pytest.importorskip("openslide")


def pixels_of(height, width, channels=3, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, 200, (height, width, channels)).astype(dtype)


def as_tensor(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def halved(pixels):
    """The next level: means of 2 × 2 pixels."""
    height, width, channels = pixels.shape
    return pixels.reshape(height // 2, 2, width // 2, 2, channels).mean((1, 3)).astype(pixels.dtype)


def write_tiff(path, pixels, levels=3, inside=True, **options):
    """A tiled TIFF whose lower resolutions lie in SubIFDs of the first, or come after it."""
    with tifffile.TiffWriter(path, bigtiff=options.pop("bigtiff", False)) as writer:
        for level in range(levels):
            place = dict(subfiletype=1) if level else dict(subifds=levels - 1) if inside else {}
            writer.write(pixels, tile=(64, 64), photometric="rgb", compression="zlib", **place, **options)
            pixels = halved(pixels)
    return path


class Recorder:
    """An array that remembers what was asked of it."""

    def __init__(self, pixels, chunks=None):
        self.pixels, self.shape, self.dtype, self.chunks, self.read = pixels, pixels.shape, pixels.dtype, chunks, []

    def __getitem__(self, slices):
        part = self.pixels[slices]
        self.read.append(part.size)
        return part


@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 4)),
    n=st.integers(1, 5),
    fraction=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    first=st.booleans(),
    fill=st.sampled_from([0, 255]),
    dtype=st.sampled_from([np.uint8, np.float32, np.float64]),
    reach=st.sampled_from([0, 3, 1000]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=300, deadline=None)
def test_patches_and_views_are_those_of_the_tensor(shape, n, fraction, first, fill, dtype, reach, seed):
    pixels = pixels_of(*shape, seed=seed, dtype=dtype)
    image = as_tensor(pixels)
    pyramid = ImagePyramid([pixels.transpose(2, 0, 1) if first else pixels], channels_first=first)
    assert pyramid.shape == image.shape and pyramid.dtype == image.dtype
    size = tuple(max(1, round(f * side)) for f, side in zip(fraction, shape[:2], strict=True))
    generator = torch.Generator().manual_seed(seed)
    corners = torch.stack([torch.randint(-reach - 1, side + reach, (1, n), generator=generator) for side in shape[:2]], dim=-1)
    expected = extract_patches(image, corners, size, fill=fill)
    found = extract_patches(pyramid, corners, size, fill=fill)
    assert found.dtype == expected.dtype and torch.equal(found, expected)
    view = downsample(pyramid, size)
    assert view.dtype == downsample(image, size).dtype
    torch.testing.assert_close(view, downsample(image, size))


@pytest.mark.parametrize("chunks", [None, (50, 2000, 1), (128, 128, 1)])
def test_a_view_of_many_blocks_makes_weights_of_columns_once_and_only_those_that_count(chunks, monkeypatch):
    monkeypatch.setattr("atslib.data.pyramids._BLOCK", 1 << 16)
    made = []

    def recorded(fine, coarse, first=0, last=None):
        made.append(overlaps(fine, coarse, first, last))
        return made[-1]

    monkeypatch.setattr("atslib.data.pyramids.overlaps", recorded)
    pixels = pixels_of(2000, 2000, 1)
    recorder = Recorder(pixels, chunks)
    view = downsample(ImagePyramid([recorder]), 100)
    torch.testing.assert_close(view, downsample(as_tensor(pixels), 100))
    blocks_of_rows = len(recorder.read) if chunks != (128, 128, 1) else round(len(recorder.read) ** 0.5)
    assert len(recorder.read) > 20 and len(made) <= blocks_of_rows + 20
    assert max(weights.numel() for weights in made) <= 32 * 640


@pytest.mark.parametrize("chunks", [(64, 64, 3), (32, 397, 3), (301, 397, 3), None])
def test_a_view_of_many_blocks(monkeypatch, chunks):
    monkeypatch.setattr("atslib.data.pyramids._BLOCK", 3 * 500)  # some twenty pixels of the view at a time
    pixels = pixels_of(301, 397)
    recorder = Recorder(pixels, chunks)
    view = downsample(ImagePyramid([recorder]), (61, 83))
    torch.testing.assert_close(view, downsample(as_tensor(pixels), (61, 83)))
    if chunks == (64, 64, 3):
        assert len(recorder.read) > 100 and max(recorder.read) < 4 * 3 * 500
    else:  # strips are read whole, once but for those that two pixels of the view share
        rows = chunks[0] if chunks else 1
        assert len(recorder.read) <= -(-301 // rows) + 1 and sum(recorder.read) < pixels.size + len(recorder.read) * 397 * 3


def test_a_level_that_is_a_pixel_short_is_fine_enough():
    slope = np.arange(403)[:, None, None] * 0.3 + np.arange(403)[:, None] * 0.2 + np.zeros(3)
    finest = Recorder(slope.astype(np.uint8))
    level = Recorder(slope[:400, :400].reshape(100, 4, 100, 4, 3).mean((1, 3)).astype(np.uint8))
    view = downsample(ImagePyramid([finest, level]), 101)  # 403 / 4 is rounded down by the scanner, up by the scale
    assert not finest.read and level.read
    torch.testing.assert_close(255 * view, 255 * downsample(as_tensor(finest.pixels), 101), atol=2.5, rtol=0)  # two pixels' slope
    torch.testing.assert_close(downsample(ImagePyramid([finest, level]), 102), downsample(as_tensor(finest.pixels), 102))


def test_only_what_is_looked_at_is_read():
    finest = Recorder(pixels_of(640, 640))
    middle, coarsest = Recorder(halved(finest.pixels)), Recorder(halved(halved(finest.pixels)))
    pyramid = ImagePyramid([finest, middle, coarsest])
    view = downsample(pyramid, 200)
    assert not finest.read and not coarsest.read and sum(middle.read) >= middle.pixels.size
    torch.testing.assert_close(view, downsample(as_tensor(middle.pixels), 200))
    torch.testing.assert_close(downsample(pyramid, 160), as_tensor(coarsest.pixels) / 255)
    assert not finest.read
    corners = torch.tensor([[[0, 0], [600, 630], [0, 0], [-5, 700]]])  # one twice, one partly and one wholly outside
    extract_patches(pyramid, corners, 50)
    assert sorted(finest.read) == [40 * 10 * 3, 50 * 50 * 3]


def test_levels_may_be_tensors():
    image = as_tensor(pixels_of(16, 16))
    pyramid = ImagePyramid([image[0]], channels_first=True)
    assert torch.equal(extract_patches(pyramid, torch.tensor([[[2, 3]]]), 8), extract_patches(image, torch.tensor([[[2, 3]]]), 8))
    copied = pickle.loads(pickle.dumps(pyramid))
    assert torch.equal(extract_patches(copied, torch.tensor([[[2, 3]]]), 8), image[:, None, :, 2:10, 3:11])


def test_views_are_kept_and_are_the_callers_own():
    recorder = Recorder(pixels_of(64, 64))
    pyramid = ImagePyramid([recorder])
    first = downsample(pyramid, 8)
    expected = first.clone()
    first.zero_()
    read = len(recorder.read)
    assert torch.equal(downsample(pyramid, 8), expected) and len(recorder.read) == read
    assert downsample(pyramid, 4).shape == (1, 3, 4, 4)
    pyramid.close()
    assert torch.equal(downsample(pyramid, 8), expected) and len(recorder.read) > read + 1  # made again


def test_whole_numbers_of_more_bits_want_a_white():
    pixels = np.array([[0, 2048], [4095, 1]], ">u2")  # of the other byte order, too
    pyramid = ImagePyramid([pixels], white=4095)
    assert pyramid.dtype == torch.float32
    expected = torch.tensor([[0, 2048], [4095, 1]]).float() / 4095
    torch.testing.assert_close(extract_patches(pyramid, torch.tensor([[[0, 0]]]), 2)[0, 0, 0], expected)
    torch.testing.assert_close(downsample(pyramid, 1).squeeze(), expected.mean())
    with pytest.raises(ValueError, match=r"uint16, white=None: expected white=…, the value that networks see as 1"):
        ImagePyramid([pixels.astype(np.uint16)])


@pytest.mark.parametrize(
    ("levels", "options", "message"),
    [
        ([], {}, "0 levels"),
        ([np.zeros((4, 4, 3, 1), np.uint8)], {}, r"shape \(4, 4, 3, 1\): expected \(H, W\) or \(H, W, C\)"),
        ([np.zeros((4, 4), np.uint8)], dict(channels_first=True), r"expected \(C, H, W\)"),
        ([np.zeros((4, 4), np.uint8), np.zeros((2, 2), np.int16)], {}, "expected the same image at a lower resolution"),
        ([np.zeros((4, 4), np.uint8), np.zeros((8, 8), np.uint8)], {}, "expected the finest first"),
        ([np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)], {}, "expected the finest first"),
        ("slide.svs", {}, r"expected a list of arrays; ImagePyramid.open\('slide.svs'\) reads a file"),
        (np.zeros((3, 4, 4), np.uint8), {}, r"levels of shape \(3, 4, 4\): expected a list of arrays"),
        ([np.zeros((40, 40), np.uint8), np.zeros((20, 10), np.uint8)], {}, "the aspects differ"),
        ([np.zeros((4, 4), np.float32)], dict(white=2.0), "expected uint8 or floating point as they are"),
        ([np.zeros((4, 4), np.uint8)], dict(white=-1), "above 0"),
        ([np.zeros((4, 4), bool)], {}, "pixels of type bool"),
    ],
)
def test_what_is_no_pyramid(levels, options, message):
    with pytest.raises(ValueError, match=message):
        ImagePyramid(levels, **options)


def test_bad_patches_of_a_pyramid_are_named_as_those_of_a_tensor():
    pyramid = ImagePyramid([pixels_of(10, 10)])
    with pytest.raises(ValueError, match="patch no larger than the image"):
        extract_patches(pyramid, torch.zeros(1, 1, 2, dtype=torch.int64), 11)
    with pytest.raises(ValueError, match="the image's batch B = 1"):
        extract_patches(pyramid, torch.zeros(2, 1, 2, dtype=torch.int64), 5)
    with pytest.raises(ValueError, match=r"fill=0\.5"):
        extract_patches(pyramid, torch.zeros(1, 1, 2, dtype=torch.int64), 5, fill=0.5)
    with pytest.raises(ValueError, match="expected 1 … the image's size"):
        downsample(pyramid, 11)


# Files


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_tiff_with_levels(tmp_path, bigtiff, inside):
    pixels = pixels_of(256, 320)
    pyramid = ImagePyramid.open(write_tiff(tmp_path / "tissue.tif", pixels, inside=inside, bigtiff=bigtiff))
    assert [tuple(level.shape) for level in pyramid.levels] == [(256, 320, 3), (128, 160, 3), (64, 80, 3)]
    assert "tissue.tif: 3 channels, torch.uint8, 256 × 320, 128 × 160, 64 × 80" in repr(pyramid)
    corners = torch.tensor([[[0, 0], [100, 260], [-20, 300]]])
    assert torch.equal(extract_patches(pyramid, corners, 60), extract_patches(as_tensor(pixels), corners, 60))
    torch.testing.assert_close(downsample(pyramid, (64, 80)), as_tensor(halved(halved(pixels))) / 255)


def test_the_finest_level_alone(tmp_path):
    pixels = pixels_of(256, 320)
    path = write_tiff(tmp_path / "tissue.tif", pixels)
    pyramid = ImagePyramid.open(path, levels=1)
    for again in (pyramid, pickle.loads(pickle.dumps(pyramid))):
        assert len(again.levels) == 1
        torch.testing.assert_close(downsample(again, (64, 80)), downsample(as_tensor(pixels), (64, 80)))
        again.close()
        assert len(again.levels) == 1
    for levels in (0, 1.5):
        with pytest.raises(ValueError, match=f"levels={levels}"):
            ImagePyramid.open(path, levels=levels)


def write_zarr(path, pixels):
    """OME-Zarr of three levels."""
    group = zarr.open_group(str(path), mode="w")
    for name in "012":
        made = zarr.open(str(path / name), mode="w", shape=pixels.shape, chunks=(64, 64, 3), dtype=np.uint8)
        made[:], pixels = pixels, halved(pixels)
    axes = [dict(name=name) for name in "yxc"]
    group.attrs.update(dict(multiscales=[dict(datasets=[dict(path=name) for name in "012"], axes=axes)]))
    return path


@pytest.mark.parametrize("kind", ["tiff", "zarr", "openslide"])
def test_a_slide_begins_at_the_level_that_is_named(tmp_path, monkeypatch, kind):
    if kind == "openslide":
        monkeypatch.setattr("atslib.data.pyramids._TIFF", ())
    pixels = pixels_of(256, 320)
    path = write_zarr(tmp_path / "slide", pixels) if kind == "zarr" else write_tiff(tmp_path / "slide", pixels, inside=False)
    half = halved(pixels)
    corners = torch.tensor([[[0, 0], [100, 130], [-20, 140]]])
    opened = ImagePyramid.open(path, finest=1)
    sub_pyramid = ImagePyramid(ImagePyramid.open(path).levels[1:])
    for image in (opened, pickle.loads(pickle.dumps(opened)), copy.deepcopy(opened), copy.copy(opened),
                  sub_pyramid, pickle.loads(pickle.dumps(sub_pyramid)), copy.deepcopy(sub_pyramid)):  # fmt: skip
        for _ in range(2):
            assert [level.shape for level in image.levels] == [(128, 160, 3), (64, 80, 3)] and image.shape == (1, 3, 128, 160)
            assert torch.equal(extract_patches(image, corners, 30), extract_patches(as_tensor(half), corners, 30))
            torch.testing.assert_close(downsample(image, (64, 80)), as_tensor(halved(half)) / 255)
            image.close()
    only = ImagePyramid.open(path, finest=1, levels=1)
    assert len(only.levels) == len(pickle.loads(pickle.dumps(only)).levels) == 1
    torch.testing.assert_close(downsample(only, (64, 80)), downsample(as_tensor(half), (64, 80)))
    assert ImagePyramid.open(path, finest=0).shape == (1, 3, 256, 320)
    with pytest.raises(DataError, match="slide: finest=3 of 3 levels: expected 0 to 2, the number of the finest level to use"):
        ImagePyramid.open(path, finest=3)
    for finest in (-1, 0.5):
        with pytest.raises(ValueError, match=f"finest={finest}: expected a whole number"):
            ImagePyramid.open(path, finest=finest)


def test_a_file_of_one_level_begins_there(tmp_path):
    path = write_tiff(tmp_path / "tissue.tif", pixels_of(64, 64), levels=1)
    with pytest.raises(DataError, match=r"finest=1 of 1 level: expected 0"):
        ImagePyramid.open(path, finest=1)
    assert path not in open_files()


def test_of_several_images_in_a_file_the_largest(tmp_path):
    pixels = pixels_of(256, 320)
    with tifffile.TiffWriter(tmp_path / "slide.tif") as writer:
        for image in (pixels[::8, ::8], pixels):  # an overview first
            writer.write(image, photometric="rgb", tile=(64, 64), metadata=None)
    assert ImagePyramid.open(tmp_path / "slide.tif").shape == (1, 3, 256, 320)


@pytest.mark.parametrize(
    ("axes", "shape", "index", "channels_first"),
    [
        ("YX", (80, 96), np.s_[:, :, None], False),
        ("CYX", (5, 80, 96), np.s_[:, :, :], True),
        ("ZYX", (3, 80, 96), np.s_[0, :, :, None], False),
        ("TCZYX", (2, 3, 2, 80, 96), np.s_[0, :, 0], True),
        ("ZYXS", (2, 80, 96, 3), np.s_[0], False),
    ],
)
def test_tiff_with_other_axes(tmp_path, axes, shape, index, channels_first):
    array = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    tifffile.imwrite(tmp_path / "cells.ome.tif", array, ome=True, metadata={"axes": axes}, tile=(32, 32))
    left_out = [f"the first of {side} along {axis}" for axis, side in zip(axes, shape, strict=True) if axis in "TZ"]
    with pytest.warns(UserWarning, match=" and ".join(left_out)) if left_out else nullcontext([]) as said:
        pyramid = ImagePyramid.open(tmp_path / "cells.ome.tif", white=65535)
    assert all(warning.filename == __file__ for warning in said)
    expected = torch.from_numpy(array[index].astype(np.float32) / 65535)
    expected = (expected if channels_first else expected.permute(2, 0, 1))[None]
    assert pyramid.shape == expected.shape
    torch.testing.assert_close(extract_patches(pyramid, torch.tensor([[[7, 11]]]), 40)[:, 0], expected[..., 7:47, 11:51])


def test_zarr_array_and_ome_zarr(tmp_path):
    pixels = pixels_of(64, 80)
    corners = torch.tensor([[[3, 5]]])
    expected = extract_patches(as_tensor(pixels), corners, 20)
    for name, array in (("last", pixels), ("first", pixels.transpose(2, 0, 1))):
        stored = zarr.open(str(tmp_path / f"{name}.zarr"), mode="w", shape=array.shape, chunks=(3, 3, 3), dtype=np.uint8)
        stored[:] = array
        assert torch.equal(extract_patches(ImagePyramid.open(tmp_path / f"{name}.zarr"), corners, 20), expected)
    group = zarr.open_group(str(tmp_path / "ome.zarr"), mode="w")
    for name, level in (("0", pixels), ("1", halved(pixels))):
        array = level.transpose(2, 0, 1)[None, :, None]  # t, c, z, y, x
        made = zarr.open(str(tmp_path / "ome.zarr" / name), mode="w", shape=array.shape, chunks=(1, 1, 1, 16, 16), dtype=np.uint8)
        made[:] = array
    axes = [dict(name=name) for name in "tczyx"]
    for attributes in (
        dict(multiscales=[dict(datasets=[dict(path="0"), dict(path="1")], axes=axes)]),
        dict(ome=dict(multiscales=[dict(datasets=[dict(path="0"), dict(path="1")], axes=axes)])),
    ):
        group.attrs.clear()
        group.attrs.update(attributes)
        pyramid = ImagePyramid.open(tmp_path / "ome.zarr")
        assert torch.equal(extract_patches(pyramid, corners, 20), expected)
        torch.testing.assert_close(downsample(pyramid, (32, 40)), as_tensor(halved(pixels)) / 255)
    group.attrs.clear()
    with pytest.raises(DataError, match="OME-Zarr with multiscales"):
        ImagePyramid.open(tmp_path / "ome.zarr")


def test_a_zarr_array_whose_channels_are_not_known(tmp_path):
    zarr.open(str(tmp_path / "many.zarr"), mode="w", shape=(30, 31, 32), chunks=(8, 8, 8), dtype=np.uint8)
    with pytest.raises(DataError, match=r"\(30, 31, 32\).*channels_first"):
        ImagePyramid.open(tmp_path / "many.zarr")


def test_a_slide_by_openslide(tmp_path, monkeypatch):
    pixels = pixels_of(256, 320)
    path = write_tiff(tmp_path / "slide.tif", pixels, inside=False)
    monkeypatch.setattr("atslib.data.pyramids._TIFF", ())  # as if it were of a kind that only OpenSlide knows
    pyramid = ImagePyramid.open(path)
    assert [level.shape for level in pyramid.levels] == [(256, 320, 3), (128, 160, 3), (64, 80, 3)]
    corners = torch.tensor([[[0, 0], [100, 260], [-20, 300]]])
    assert torch.equal(extract_patches(pyramid, corners, 60), extract_patches(as_tensor(pixels), corners, 60))
    torch.testing.assert_close(downsample(pyramid, (128, 160)), as_tensor(halved(pixels)) / 255)
    level = pyramid.levels[1]  # away from the corner, where a place is not the same in all levels
    assert np.array_equal(level[40:70, 31:81], halved(pixels)[40:70, 31:81])


def test_places_between_the_pixels_of_the_finest_level():
    for scale in (1.0, 2.004, 4.0, 1003 / 250, 9.0):
        for start in (0, 1, 7, 300, 999):
            place, dropped = _whole_place(start, scale)
            assert 0 <= dropped < 64 and 0 <= start - dropped
            assert (
                abs((start - dropped) * scale - place)
                <= min(abs(k * scale - round(k * scale)) for k in range(max(0, start - 63), start + 1)) + 1e-3
            )


def test_what_was_not_scanned_has_the_background_colour():
    class Slide:
        level_dimensions = ((4, 2),)
        level_downsamples = (1.0,)
        properties = MappingProxyType({"openslide.background-color": "0000ff"})

        def read_region(self, place, level, size):
            assert (place, level, size) == ((1, 0), 0, (2, 2))
            region = np.zeros((2, 2, 4), np.uint8)
            region[0, 0] = 200, 100, 50, 255
            return region

    found = _SlideLevel(Slide(), 0)[0:2, 1:3]
    assert found[0, 0].tolist() == [200, 100, 50] and found[1, 1].tolist() == [0, 0, 255]


def test_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match=r"absent\.tif: No such file or directory"):
        ImagePyramid.open(tmp_path / "absent.tif")
    (tmp_path / "notes.svs").write_text("no image")
    with pytest.raises(DataError, match=r"notes.svs: no readable image .*read_image reads photographs"):
        ImagePyramid.open(tmp_path / "notes.svs")
    (tmp_path / "cut.tif").write_bytes(write_tiff(tmp_path / "whole.tif", pixels_of(256, 256)).read_bytes()[:40])
    with pytest.raises(DataError, match=r"cut\.tif"):
        ImagePyramid.open(tmp_path / "cut.tif")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="folder: no readable image"):
        ImagePyramid.open(tmp_path / "folder")


@pytest.mark.parametrize("kind", ["palette", "miniswhite", "separated", "ycbcr"])
def test_colours_that_are_no_rgb(tmp_path, kind):
    channels = dict(separated=4, ycbcr=3).get(kind)
    pixels = pixels_of(64, 64, channels or 1)
    options = dict(colormap=np.zeros((3, 256), np.uint16)) if kind == "palette" else {}
    tifffile.imwrite(tmp_path / "scan.tif", pixels if channels else pixels[..., 0], photometric=kind, **options)
    with pytest.raises(DataError, match=rf"scan\.tif: colours of the kind {kind.upper()}"):
        ImagePyramid.open(tmp_path / "scan.tif")
    assert tmp_path / "scan.tif" not in open_files()


def test_jpeg_is_decoded_to_rgb(tmp_path):
    pixels = np.zeros((64, 64, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
    tifffile.imwrite(tmp_path / "scan.tif", pixels, photometric="rgb", compression="jpeg", tile=(64, 64))
    found = extract_patches(ImagePyramid.open(tmp_path / "scan.tif"), torch.tensor([[[0, 0]]]), 16)[0, 0].double().mean((1, 2))
    assert torch.allclose(found, torch.tensor([200.0, 100.0, 50.0]).double(), atol=3)


def test_a_missing_decoder_is_named(tmp_path, monkeypatch):
    path = write_tiff(tmp_path / "tissue.tif", pixels_of(256, 256))
    pyramid = ImagePyramid.open(path)

    def without(*_):
        raise ValueError("<COMPRESSION.JPEG: 7> requires the 'imagecodecs' package")

    monkeypatch.setattr("atslib.data.pyramids._Plane.__getitem__", without)
    with pytest.raises(ImportError, match=r"pip install 'atslib\[slides\]'"):
        extract_patches(pyramid, torch.tensor([[[0, 0]]]), 32)


def test_files_are_closed(tmp_path):
    """When a pyramid goes, and when it could not be made."""
    path = write_tiff(tmp_path / "tissue.tif", pixels_of(256, 256))
    pyramid = ImagePyramid.open(path)
    del pyramid
    assert path not in open_files()
    tifffile.imwrite(tmp_path / "deep.tif", np.zeros((64, 64), np.uint16))
    with pytest.raises(ValueError, match="white"):
        ImagePyramid.open(tmp_path / "deep.tif")
    assert tmp_path / "deep.tif" not in open_files()


def open_files():
    """Of this process, where the system tells; OpenSlide opens its own at each look."""
    folder = Path("/proc/self/fd")
    return [file.resolve() for file in folder.iterdir()] if folder.is_dir() else []


@pytest.mark.parametrize("by_openslide", [False, True])
def test_a_closed_file_opens_when_it_is_looked_at(tmp_path, monkeypatch, by_openslide):
    if by_openslide:
        monkeypatch.setattr("atslib.data.pyramids._TIFF", ())
    pixels = pixels_of(256, 320)
    path = write_tiff(tmp_path / "tissue.tif", pixels)
    pyramid = ImagePyramid.open(path)
    corners = torch.tensor([[[100, 260]]])
    for _ in range(2):
        assert torch.equal(extract_patches(pyramid, corners, 60), extract_patches(as_tensor(pixels), corners, 60))
        assert by_openslide or not Path("/proc/self/fd").is_dir() or path in open_files()
        pyramid.close()
        pyramid.close()
        assert path not in open_files()
    ImagePyramid([pixels]).close()  # has nothing to close


def test_any_number_of_slides_stays_open(tmp_path, monkeypatch):
    """As far as who looks can tell; also in several threads, of which some let go of what others read."""
    monkeypatch.setattr("atslib.data.pyramids._MOST_OPEN", 2)
    pixels = [pixels_of(64, 80, seed=k) for k in range(6)]
    files = [write_tiff(tmp_path / f"{k}.tif", some, levels=1) for k, some in enumerate(pixels)]
    slides = [ImagePyramid.open(file) for file in files]
    kept, corners = slides[0].levels[0], torch.tensor([[[10, 20]]])
    expected = [extract_patches(as_tensor(some), corners, 16) for some in pixels]

    def count():
        return len(set(files) & set(open_files()))

    assert count() <= 2
    for _ in range(2):
        for slide, patches in zip(slides, expected, strict=True):
            assert torch.equal(extract_patches(slide, corners, 16), patches) and count() <= 2
    assert np.array_equal(kept[0:64, 0:80], pixels[0])
    wrong = []

    def look(slide, patches):
        for _ in range(20):
            if not torch.equal(extract_patches(slide, corners, 16), patches):
                wrong.append(slide)

    threads = [threading.Thread(target=look, args=pair) for pair in zip(slides, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and count() <= 2
    del slides, slide, kept, threads, thread
    assert not count()


@pytest.mark.parametrize(("allowed", "expected"), [(1024, 256), (256, 128), (1, 1), (None, 256)])
def test_half_of_the_files_that_the_system_allows_are_for_others(monkeypatch, allowed, expected):
    resource = pytest.importorskip("resource")
    limit = resource.RLIM_INFINITY if allowed is None else allowed
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    assert pyramids._most_open() == expected
    monkeypatch.setattr(pyramids, "resource", None)
    assert pyramids._most_open() == 256


def test_another_file_in_its_place_is_named(tmp_path):
    path = write_tiff(tmp_path / "tissue.tif", pixels_of(256, 320))
    pyramid = ImagePyramid.open(path)
    pyramid.close()
    write_tiff(path, pixels_of(128, 160))
    with pytest.raises(DataError, match=r"tissue\.tif: not the image that it was when it was opened first"):
        extract_patches(pyramid, torch.tensor([[[0, 0]]]), 16)
    pyramid.close()
    path.unlink()
    with pytest.raises(DataError, match=r"tissue\.tif: No such file or directory; expected an image file"):
        extract_patches(pyramid, torch.tensor([[[0, 0]]]), 16)


def test_views_in_a_folder(tmp_path, monkeypatch):
    pixels = pixels_of(128, 160)
    path = write_tiff(tmp_path / "tissue.tif", pixels)
    made, make = [], ImagePyramid._make_view
    monkeypatch.setattr(ImagePyramid, "_make_view", lambda *args: made.append(args[1:]) or make(*args))

    def look(size=(12, 15), **options):
        """The view, and how often it was made."""
        made.clear()
        return downsample(ImagePyramid.open(path, cache=tmp_path / "views", **options), size), len(made)

    view, times = look()
    torch.testing.assert_close(view, downsample(as_tensor(halved(halved(pixels))), (12, 15)))
    assert times == 1
    (place,) = (tmp_path / "views").iterdir()
    again, times = look()
    assert torch.equal(again, view) and times == 0
    assert look((12, 14))[1] == look(levels=1)[1] == look(white=200)[1] == look(missing=9)[1] == 1
    assert look(finest=1)[1] == 0  # of the same level
    place.write_bytes(place.read_bytes()[:-1])
    again, times = look()
    assert torch.equal(again, view) and times == 1
    os.utime(path, (1, 1))  # it has changed
    assert look()[1] == 1
    pyramid = pickle.loads(pickle.dumps(ImagePyramid.open(path, cache=tmp_path / "views")))
    made.clear()
    assert torch.equal(downsample(pyramid, (12, 15)), view) and not made


def test_the_view_of_a_zarr_array_that_has_changed_is_made_anew(tmp_path):
    """Its folder's own time stays when the files in it change."""
    stored = zarr.open(str(tmp_path / "a.zarr"), mode="w", shape=(64, 80, 3), chunks=(16, 16, 3), dtype=np.uint8)
    for value in (10, 200):
        stored[:] = value
        pyramid = ImagePyramid.open(tmp_path / "a.zarr", cache=tmp_path / "views")
        torch.testing.assert_close(downsample(pyramid, (8, 10)), torch.full((1, 3, 8, 10), value / 255))


def test_a_damaged_tile_is_named(tmp_path):
    path = write_tiff(tmp_path / "tissue.tif", pixels_of(256, 256), levels=1)
    with tifffile.TiffFile(path) as file:
        offset, length = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * length)
    with pytest.raises(DataError, match=r"tissue\.tif: rows 0 to 32, columns 0 to 32 cannot be read"):
        extract_patches(ImagePyramid.open(path), torch.tensor([[[0, 0]]]), 32)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    path = write_tiff(tmp_path / "tissue.tif", pixels_of(256, 256))
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(ImportError, match=r"needs tifffile: pip install 'atslib\[slides\]'"):
        ImagePyramid.open(path)


# Models and training


def networks(classes=2):
    attention = AttentionNetwork(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
    features = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return attention, features, Classifier(8, classes)


def models():
    torch.manual_seed(0)
    attention, features, classifier = networks()
    within = AttentionSampling(attention, features, nn.Identity(), 16, n_patches=3, scale=0.25)
    return dict(
        ats=AttentionSampling(attention, features, classifier, 16, n_patches=5, scale=0.125),
        nested=NestedSampling(attention, within, classifier, 64, n_regions=3, scale=0.125),
        uniform=UniformSampling(features, classifier, 16, n_patches=5, scale=0.125),
        deep_mil=DeepMIL(MILAttention(8), features, classifier, 16, (7, 8), chunk=9),
        cnn=DownsampledCNN(features, classifier, 0.5),
        whole=DownsampledCNN(features, classifier, 1.0),
    )


@pytest.mark.parametrize("name", ["ats", "nested", "uniform", "deep_mil", "cnn", "whole"])
def test_every_model_answers_as_for_the_tensor(name):
    model = models()[name]
    pixels = [pixels_of(128, 160, seed=seed) for seed in (0, 1)]
    images = torch.cat([as_tensor(some) for some in pixels])
    batch = ImageBatch([ImagePyramid([some]) for some in pixels])
    assert batch.shape == images.shape and len(batch) == 2
    draws = (torch.Generator().manual_seed(1) for _ in range(2))
    expected, found = (model(x, generator=g) for x, g in zip((images, batch), draws, strict=True))
    torch.testing.assert_close(found.logits, expected.logits)
    if name in ("ats", "uniform", "nested"):
        assert torch.equal(found.index, expected.index)
    if name == "ats":
        torch.testing.assert_close(model.exact(batch).logits, model.exact(images).logits)


def test_images_of_different_kinds_make_no_batch():
    with pytest.raises(ValueError, match="take batches of one image"):
        ImageBatch([ImagePyramid([pixels_of(8, 8)]), ImagePyramid([pixels_of(8, 9)])])
    with pytest.raises(ValueError, match="0 images"):
        ImageBatch([])
    with pytest.raises(ValueError, match=r"type Tensor in a batch of sources: torch\.stack"):
        ImageBatch([as_tensor(pixels_of(8, 8))])


class Slides(Dataset):
    """Files that are opened when they are asked for; or, kept open, once."""

    def __init__(self, files, keep=False):
        self.files, self.kept = files, [ImagePyramid.open(file) for file in files] if keep else None

    def __len__(self):
        return len(self.files)

    def __getitem__(self, number):
        return (self.kept[number] if self.kept else ImagePyramid.open(self.files[number])), number % 2


class Tensors(Slides):
    def __getitem__(self, number):
        return as_tensor(tifffile.imread(self.files[number]))[0], number % 2


@pytest.fixture
def slide_files(tmp_path):
    return [write_tiff(tmp_path / f"{k}.tif", pixels_of(128, 160, seed=k), levels=1) for k in range(4)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("keep", [False, True])
def test_training_is_that_of_the_tensors(slide_files, workers, keep):
    options = Settings(epochs=2, batch_size=2, learning_rate=0.01)
    losses = []
    for dataset in (Tensors(slide_files), Slides(slide_files, keep)):
        model = models()["ats"]
        curve = train(model, dataset, dataset, options, workers=workers, progress=False)
        losses.append([entry["train_loss"] for entry in curve] + [evaluate(model, dataset, progress=False)["loss"]])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


class Looks(Dataset):
    """Patches of a pyramid that was opened, and looked at, before the workers were forked."""

    def __init__(self, path):
        self.pyramid = ImagePyramid.open(path)
        extract_patches(self.pyramid, torch.zeros(1, 1, 2, dtype=torch.int64), 8)

    def __len__(self):
        return 60

    def __getitem__(self, number):
        corner = torch.randint(0, 192, (1, 3, 2), generator=torch.Generator().manual_seed(number))
        return corner, extract_patches(self.pyramid, corner, 64)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_several_processes_do_not_share_a_position_in_the_file(tmp_path):
    pixels = pixels_of(256, 256)
    tifffile.imwrite(
        tmp_path / "raw.tif", pixels, tile=(64, 64), photometric="rgb"
    )  # uncompressed: wrong pixels would be no error
    expected = as_tensor(pixels)
    loader = DataLoader(Looks(tmp_path / "raw.tif"), batch_size=None, num_workers=2, multiprocessing_context="fork")
    for corner, patches in loader:
        assert torch.equal(patches, extract_patches(expected, corner, 64))


def test_a_view_made_by_a_worker_is_not_made_again(tmp_path):
    path = write_tiff(tmp_path / "tissue.tif", pixels_of(256, 256), levels=1)

    class Viewed(Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, number):
            pyramid = ImagePyramid.open(path)
            downsample(pyramid, 32)
            return pyramid, 0

    for images, _ in Loader(Viewed(), torch.device("cpu"), workers=1).batches([[0], [1]]):
        assert images.images[0]._view.shape == (3, 32, 32)


class Unsendable(Recorder):
    """As an array of HDF5."""

    def __reduce__(self):
        raise TypeError("h5py objects cannot be pickled")


@pytest.mark.parametrize("own", [False, True])
def test_what_a_worker_cannot_send_is_said(own):
    """And nobody waits for it."""
    slides = [(ImagePyramid([Unsendable(pixels_of(16, 16))]), 0)] * 2
    said = r"type ImagePyramid cannot be sent from a worker \(h5py objects cannot be pickled\): expected workers=0, or Image"
    for workers in (0, 1):
        if own:
            batches = DataLoader(slides, 2, num_workers=workers, collate_fn=collate, timeout=60 * workers)
        else:
            loader = Loader(slides, "cpu", workers=workers)
            loader._loader.timeout = 60 * workers
            batches = loader.batches([[0, 1]])
        with pytest.raises(ValueError, match=said) if workers else nullcontext():
            assert [len(images) for images, _ in batches] == [2]


def test_pixels_are_not_put_together_twice_for_that(monkeypatch):
    class Pixels(np.ndarray):
        def __reduce_ex__(self, protocol):
            raise AssertionError("pixels are copied")

    monkeypatch.setattr("atslib.loading.get_worker_info", lambda: "a worker")
    images, _ = collate([(ImagePyramid([pixels_of(16, 16).view(Pixels)]), 0)])
    assert images.shape == (1, 3, 16, 16)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["files", "arrays", "tensors"])
def test_a_loader_of_ones_own(slide_files, kind, workers):
    read = dict(files=ImagePyramid.open, arrays=lambda file: ImagePyramid([tifffile.imread(file)]), tensors=None)[kind]
    expected = list(DataLoader(Tensors(slide_files), 3))
    items = [(read(file), k % 2) for k, file in enumerate(slide_files)] if read else Tensors(slide_files)
    found = list(DataLoader(items, 3, num_workers=workers, collate_fn=collate, timeout=60 * (workers > 0)))
    assert [len(images) for images, _ in found] == [3, 1]
    for (images, labels), (tensors, numbers) in zip(found, expected, strict=True):
        assert isinstance(images, ImageBatch if read else torch.Tensor) and torch.equal(labels, numbers)
        corners = torch.full((len(images), 1, 2), 7)
        assert torch.equal(extract_patches(images, corners, 16), extract_patches(tensors, corners, 16))


def test_an_open_file_travels_as_its_path_and_views(slide_files):
    pyramid = ImagePyramid.open(slide_files[0])
    view = downsample(pyramid, (16, 20))
    copy = pickle.loads(pickle.dumps(pyramid))
    slide_files[0].unlink()  # the view is there without the file
    assert copy.shape == pyramid.shape and torch.equal(copy.read_view((16, 20)), view)
    copy.close()
    assert "128 × 160" in repr(copy)


def test_what_needs_tensors_says_so(slide_files):
    both = [(ImagePyramid.open(slide_files[0]), 0), (torch.zeros(3, 128, 160, dtype=torch.uint8), 1)]
    with pytest.raises(ValueError, match="tensors and images in files in one batch"):
        next(Loader(both, torch.device("cpu")).batches([[0, 1]]))
    with pytest.raises(ValueError, match="expected tensors, to keep in memory"):
        InMemory(Slides(slide_files))
    with pytest.raises(ValueError, match=r"augment=.*read patch by patch"):
        train(models()["ats"], Slides(slide_files), None, Settings(epochs=1), augment=Augmentation(), progress=False)


def test_uniform_draws_happen_where_the_model_is():
    """A source has no device to be moved to, and uniform attention no parameters that would tell."""
    model = models()["uniform"].to("meta")
    assert model.attend(ImagePyramid([pixels_of(128, 160)]))[1].device.type == "meta"


def test_a_pyramid_is_drawn_by_its_view():
    widgets = pytest.importorskip("atslib.widgets")
    pyramid = ImagePyramid([pixels_of(128, 160)])
    figure, probabilities = widgets.draw_patches(models()["ats"], pyramid, 3, generator=torch.Generator().manual_seed(0))
    (picture,) = figure.axes[0].images
    assert picture.get_array().shape[:2] == (16, 20) and picture.get_extent() == [-0.5, 159.5, 127.5, -0.5]
    assert len(figure.axes[0].patches) == 3 and probabilities.sum() == pytest.approx(1)


def test_a_memory_map_goes_to_another_process_without_its_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    pixels.tofile(tmp_path / "image.raw")
    mapped = np.memmap(tmp_path / "image.raw", np.uint8, "r", 0, pixels.shape)
    whole = pickle.dumps(ImagePyramid([mapped]))
    assert len(whole) < 2000
    there = pickle.loads(whole)
    place, size = torch.tensor([[[10, 20], [290, 390]]]), (16, 16)
    expected = ImagePyramid([pixels]).read_patches(place, size, 7)
    assert torch.equal(there.read_patches(place, size, 7), expected)
    below = np.memmap(tmp_path / "image.raw", np.uint8, "r", 400 * 3 * 100, (200, 400, 3))  # with an offset
    assert torch.equal(pickle.loads(pickle.dumps(ImagePyramid([below]))).read_patches(place, size, 7),
                       ImagePyramid([pixels[100:]]).read_patches(place, size, 7))  # fmt: skip
    # A part of a map, or one with changes that only this process knows, goes with its pixels.
    assert len(pickle.dumps(ImagePyramid([mapped[:100]]))) > 100 * 400 * 3
    changed = np.memmap(tmp_path / "image.raw", np.uint8, "c", 0, pixels.shape)
    changed[:] = 5
    assert pickle.loads(pickle.dumps(ImagePyramid([changed]))).read_patches(place, size, 5).unique().tolist() == [5]


def test_a_shape_that_looks_like_channels_first_has_to_be_said():
    channels_first = torch.zeros(3, 50, 60, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"shape \(3, 50, 60\): \(C, H, W\), or 60 channels\? expected channels_first"):
        ImagePyramid([channels_first])
    assert ImagePyramid([channels_first], channels_first=True).shape == (1, 3, 50, 60)
    assert ImagePyramid([channels_first], channels_first=False).shape == (1, 60, 3, 50)
    assert ImagePyramid([channels_first.movedim(0, -1)]).shape == (1, 3, 50, 60)
    many = np.zeros((12, 300, 400), np.uint8)
    with pytest.raises(ValueError, match=r"shape \(12, 300, 400\): \(C, H, W\), or 400 channels\? expected channels_first"):
        ImagePyramid([many])
    assert ImagePyramid([many], channels_first=True).shape == (1, 12, 300, 400)
    coarser = [many.transpose(1, 2, 0)[::step, ::step] for step in (1, 50)]  # (6, 8, 12) alone might be either
    assert ImagePyramid(coarser).shape == (1, 12, 300, 400)
    with pytest.raises(ValueError, match=r"shape \(6, 8, 12\): \(C, H, W\), or 12 channels"):
        ImagePyramid(coarser[1:])
    assert ImagePyramid([np.zeros((3, 400), np.uint8)]).shape == (1, 1, 3, 400)
    assert ImagePyramid([np.zeros((3, 40, 4), np.uint8)]).shape == (1, 4, 3, 40)


def test_tiles_that_a_file_lacks_have_the_value_that_is_named(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[32:, 32:64] = 100
    path = tmp_path / "sparse.tif"
    tifffile.imwrite(path, pixels, tile=(32, 32), photometric="rgb")
    with tifffile.TiffFile(path, mode="r+b") as file:
        for code in (324, 325):  # offsets and byte counts: all tiles but one are taken away
            tag = file.pages[0].tags[code]
            tag.overwrite([value if number == 4 else 0 for number, value in enumerate(tag.value)])
    with pytest.warns(UserWarning, match=r"sparse\.tif: 5 tiles are not in the file and are read as 0; name what stands") as said:
        black = ImagePyramid.open(path)
    assert [warning.filename for warning in said] == [__file__]
    assert downsample(black, (2, 3))[0, 0].mul(255).round().tolist() == [[0, 0, 0], [0, 100, 0]]
    white = ImagePyramid.open(path, missing=240)
    for image in (white, pickle.loads(pickle.dumps(white))):
        assert downsample(image, (2, 3))[0, 0].mul(255).round().tolist() == [[240, 240, 240], [240, 100, 240]]
        assert extract_patches(image, torch.tensor([[[31, 31]]]), 2)[0, 0, 0].tolist() == [[240, 240], [240, 100]]


def test_values_that_do_not_fill_their_type_want_a_white(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    path = tmp_path / "four.tif"
    tifffile.imwrite(path, np.full((16, 16), 15, np.uint8), bitspersample=4)
    with pytest.raises(ValueError, match="values of 4 bits: expected white=15"):
        ImagePyramid.open(path)
    assert (downsample(ImagePyramid.open(path, white=15), 2) == 1).all()


def test_an_orientation_that_is_not_applied_is_said(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "side.tif"
    tifffile.imwrite(path, np.zeros((8, 10), np.uint8), extratags=[(274, "H", 1, 6, True)])
    with pytest.warns(UserWarning, match="the file's orientation is not applied") as said:
        assert ImagePyramid.open(path).shape == (1, 1, 8, 10)
    assert [warning.filename for warning in said] == [__file__]
