"""Attention and patches for other programs: nothing is lost on the way, and all lies where the model looked."""

import json
import math
from itertools import pairwise

import pytest
import torch

from atslib.export import attention_raster, geojson, patch_table
from atslib.patches import PatchGeometry

GEOMETRIES = {
    "padded": PatchGeometry((60, 90), (6, 9), (6, 9), patch_size=20, stride=1, padding=1, receptive_field=3),
    "strided": PatchGeometry((120, 150), (36, 45), (7, 10), patch_size=(20, 30), stride=4, receptive_field=9),
    "uneven": PatchGeometry((101, 67), (12, 8), (12, 8), patch_size=9, stride=1, padding=3, receptive_field=7),
    "hanging over": PatchGeometry((80, 80), (8, 8), (3, 3), patch_size=40, stride=3, receptive_field=3),
    "one": PatchGeometry((50, 50), (5, 5), (1, 1), patch_size=50, stride=5, receptive_field=5),
}


def log_attention(geometry, seed=0):
    height, width = geometry.map_size
    return torch.randn(1, height * width, generator=torch.Generator().manual_seed(seed)).log_softmax(1).view(height, width)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("shrink", [1, 2, 3.7])
def test_a_raster_has_all_of_the_attention_and_in_its_place(geometry, shrink):
    """Rectangle by rectangle and pixel by pixel."""
    size = tuple(max(1, int(side / shrink)) for side in geometry.image_size)
    given = log_attention(geometry)
    raster = attention_raster(geometry, given, size)
    assert raster.shape == size and raster.dtype == torch.float32 and raster.sum().item() == pytest.approx(1, abs=1e-5)
    expected = torch.zeros(size, dtype=torch.float64)
    centres = geometry.centre(torch.arange(given.numel())[None])[0].tolist()
    for share, centre in zip(given.flatten().double().exp(), centres, strict=True):
        counts = [over(*axis) for axis in zip(centre, geometry.image_size, geometry.low_size, size, strict=True)]
        expected += share * torch.outer(*(torch.tensor(some, dtype=torch.float64) for some in counts))
    torch.testing.assert_close(raster.double(), expected, rtol=1e-5, atol=1e-9)


def over(centre, side, low, pixels):
    """Of a location's rectangle, the shares over each pixel of a raster, where it lies in the image."""
    start, stop = max(0, centre - STRIDES[side] * side / low / 2), min(side, centre + STRIDES[side] * side / low / 2)
    edges = [place * side / pixels for place in range(pixels + 1)]
    return [max(0, min(stop, b) - max(start, a)) / (stop - start) for a, b in pairwise(edges)]


STRIDES = {side: geometry.stride for geometry in GEOMETRIES.values() for side in geometry.image_size}  # no two share a side


def test_locations_that_tile_the_image_are_its_view():
    geometry = GEOMETRIES["padded"]
    given = log_attention(geometry)
    raster = attention_raster(geometry, given)
    torch.testing.assert_close(raster, given.exp().repeat_interleave(10, 0).repeat_interleave(10, 1) / 100)
    torch.testing.assert_close(attention_raster(geometry, given, (6, 9)), given.exp())


def test_attention_beyond_the_border_is_in_the_pixels_at_the_border():
    """A map that is larger than the view, by more padding than the field has use for."""
    geometry = PatchGeometry((40, 40), (4, 4), (8, 8), patch_size=20, stride=1, padding=3, receptive_field=3)
    given = log_attention(geometry)
    raster = attention_raster(geometry, given, 4)  # locations 2 to 5 have a pixel each, 0 and 1 lie before, 6 and 7 behind
    expected = torch.zeros(4, 4).index_put_(
        torch.meshgrid(place := torch.tensor([0, 0, 0, 1, 2, 3, 3, 3]), place, indexing="ij"), given.exp(), accumulate=True
    )
    torch.testing.assert_close(raster, expected)


@pytest.mark.parametrize(
    "given, size, message",
    [
        (torch.zeros(1, 6, 9), None, r"log_attention of shape \(1, 6, 9\): expected the geometry's map"),
        (torch.full((6, 9), 1 / 54), None, r"log_attention of up to 0\.01852: expected a logarithm"),
        (torch.full((6, 9), 1 / 54).log(), (60, 91), r"a raster of \(60, 91\) of an image of \(60, 90\): expected one no larger"),
        (torch.full((6, 9), 1 / 54).log(), 0, "size 0: expected a whole number of pixels"),
    ],
)
def test_bad_rasters(given, size, message):
    with pytest.raises(ValueError, match=message):
        attention_raster(GEOMETRIES["padded"], given, size)


def test_patches_as_a_table_and_as_rectangles():
    geometry = GEOMETRIES["strided"]
    index = torch.tensor([0, 34, 34])
    attention = log_attention(geometry).flatten()[index].exp()
    rows = patch_table(geometry, index, attention=attention, score=torch.tensor([1.0, math.nan, 2]))
    assert [(row["top"], row["left"]) for row in rows] == [tuple(corner) for corner in geometry.top_left(index[None])[0].tolist()]
    assert [row["attention"] for row in rows] == attention.tolist() and rows[1] | dict(score=2.0) == rows[2]
    found = json.loads(json.dumps(geojson(rows, objectType="annotation"), allow_nan=False))
    assert found["type"] == "FeatureCollection" and len(found["features"]) == 3
    first, second, _ = found["features"]
    (ring,) = first["geometry"]["coordinates"]
    assert ring[0] == ring[-1] == [rows[0]["left"], rows[0]["top"]]
    left, top = ring[0]
    assert {tuple(point) for point in ring} == {(x, y) for x in (left, left + 30) for y in (top, top + 20)}
    assert first["properties"] == dict(location=0, attention=rows[0]["attention"], score=1.0, objectType="annotation")
    assert second["properties"]["score"] is None
    assert patch_table(geometry, index[:0]) == []


def test_a_row_without_a_place():
    with pytest.raises(ValueError, match="row 1 has no 'width': expected rows as patch_table gives them"):
        geojson([dict(top=0, left=0, height=1, width=1), dict(top=0, left=0, height=1)])


@pytest.mark.parametrize(
    "index, values, message",
    [
        (torch.zeros(1, 2).long(), {}, r"index of shape \(1, 2\): expected \(N,\)"),
        (torch.zeros(2).long(), dict(left=torch.zeros(2)), "a value named 'left', as what says where a patch lies"),
        (torch.zeros(2).long(), dict(score=torch.zeros(3)), r"score of shape \(3,\) for 2 patches: expected one number for each"),
    ],
)
def test_bad_tables(index, values, message):
    with pytest.raises(ValueError, match=message):
        patch_table(GEOMETRIES["padded"], index, **values)
