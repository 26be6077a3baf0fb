"""Images of different sizes, continued up to one."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset, TensorDataset

from atslib.data import DataError, GeneratedHistology, ImageFiles, LabelledImages, Padded, largest_size
from atslib.experiments.parts import described


class Some(LabelledImages):
    """Images of these shapes and this type, of numbers that all differ."""

    classes = ("a", "b")

    def __init__(self, *shapes, dtype=torch.uint8):
        self.images = [torch.arange(c * h * w).view(c, h, w).to(dtype) for c, h, w in shapes]
        self.labels = torch.arange(len(shapes)) % 2

    def __getitem__(self, number):
        return self.images[number], int(self.labels[number])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32, torch.bfloat16, torch.bool], ids=str)
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 1, 9), (2, 9, 2), (3, 9, 9)], ids=str)
def test_mirrors_as_numpy_does(shape, dtype):
    images = Some(shape, dtype=dtype)
    padded, label = Padded(images, 9)[0]
    expected = np.pad(images[0][0].float().numpy(), [(0, 0), (0, 9 - shape[1]), (0, 9 - shape[2])], mode="symmetric")
    assert padded.dtype == dtype and label == 0
    np.testing.assert_array_equal(padded.float(), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float16], ids=str)
def test_a_colour(dtype):
    images = Some((3, 4, 5), dtype=dtype)
    padded, _ = Padded(images, (6, 5), fill=7)[0]
    assert padded.dtype == dtype
    assert torch.equal(padded[:, :4].float(), images[0][0].float()) and (padded[:, 4:].float() == 7).all()


def test_a_set_like_the_one_it_is_made_of():
    images = Some((1, 2, 3), (1, 4, 2), (1, 3, 3))
    padded = Padded(images, largest_size(images))
    assert padded.size == (4, 3) and len(padded) == 3 and padded.classes == ("a", "b")
    assert padded.class_counts().tolist() == [2, 1]
    batch, labels = next(iter(DataLoader(padded, batch_size=3, num_workers=1)))
    assert batch.shape == (3, 1, 4, 3) and labels.tolist() == [0, 1, 0]


def test_the_largest_of_files_are_read_from_their_headers(tmp_path, monkeypatch):
    for name, size in (("a", (30, 20)), ("b", (10, 40))):
        (tmp_path / name).mkdir()
        Image.new("RGB", size).save(tmp_path / name / "0.png")
    files = ImageFiles.from_folder(tmp_path)
    twice = ImageFiles.from_folder(tmp_path, read=read_twice_as_high)
    assert largest_size(twice) == (80, 30)
    monkeypatch.setattr(ImageFiles, "_read", None)  # is not called
    assert largest_size(files) == (40, 30)
    assert [largest_size(some) for some in (files.part([0]), Subset(files, [1]), Subset(files.part([1, 0]), [1]))] == [
        *((20, 30), (40, 10), (20, 30))
    ]
    (tmp_path / "a" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="no readable image"):
        largest_size(files)


def read_twice_as_high(path):
    width, height = Image.open(path).size
    return torch.zeros(3, 2 * height, width, dtype=torch.uint8)


def test_a_digest_that_says_size_and_fill(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (3, 2)).save(tmp_path / "a" / "0.png")
    files = ImageFiles.from_folder(tmp_path)
    digests = {Padded(files, size, fill=fill).digest() for size in (4, (4, 5)) for fill in ("mirror", 0)}
    assert len(digests) == 4
    parts = [files.part(numbers).digest() for numbers in ([0], [0, 0])]
    assert len({*parts, files.digest()}) == 3 and files.part([0]).digest() == parts[0]
    assert Padded(files.part([0]), 4).digest() not in digests
    assert Padded(Subset(files, [0]), 4).digest() == Padded(files.part([0]), 4).digest()
    drawn = Padded(GeneratedHistology("test", 2, size=128), 130)
    with pytest.raises(AttributeError, match="GeneratedHistology has no digest"):
        drawn.digest()
    assert len(described("drawn", drawn, drawn).describe()["digest"]) == 16  # of some images


@pytest.mark.parametrize(
    ("shape", "size", "options", "message"),
    [
        ((3, 4, 5), (3, 5), {}, r"image 0 of \(4, 5\) pixels: expected some, and no more than \(3, 5\)"),
        ((3, 0, 5), (3, 5), {}, r"image 0 of \(0, 5\) pixels: expected some"),
        ((3, 4, 5), 9, dict(fill="reflect"), "fill='reflect': expected 'mirror' or a number"),
        ((3, 4, 5), 9, dict(fill=0.5), "fill=0.5 for a uint8 image: expected a whole number, 0 … 255"),
        ((3, 4, 5), 0, {}, "size 0: expected a whole number of pixels"),
    ],
)
def test_refusals(shape, size, options, message):
    with pytest.raises(ValueError, match=message):
        Padded(Some(shape), size, **options)[0]


def test_a_subset_keeps_its_labels():
    padded = Padded(Subset(Some((1, 2, 3), (1, 4, 2), (1, 3, 3)), [1, 2]), 4)
    assert padded.labels.tolist() == [1, 0] and padded.classes == ("a", "b") and padded[0][1] == 1


def test_an_image_of_that_size_is_not_copied():
    images = Some((1, 4, 4))
    assert Padded(images, 4)[0][0] is images[0][0]


def test_a_set_without_labels():
    with pytest.raises(TypeError, match="a set of type TensorDataset without labels"):
        Padded(TensorDataset(torch.zeros(2, 3, 4, 4)), 5)


@pytest.mark.parametrize(("image", "said"), [(torch.zeros(4, 4), r"shape \(4, 4\)"), (np.zeros((3, 4, 4)), "type ndarray")])
def test_an_image_that_is_none(image, said):
    images = Some((3, 4, 4))
    images.images = [image]
    with pytest.raises(ValueError, match=f"image 0 of {said}: expected a tensor"):
        Padded(images, 5)[0]


def test_no_images():
    with pytest.raises(ValueError, match="no images"):
        largest_size()
