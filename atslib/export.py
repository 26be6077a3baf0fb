"""Where a model looked, for other programs: attention as a raster in the image's coordinates, patches as a table or as GeoJSON.

>>> import torch
>>> from atslib.patches import PatchGeometry
>>> geometry = PatchGeometry((40, 60), low_size=(4, 6), map_size=(4, 6), patch_size=20)  # model.geometry(image, out)
>>> attention_raster(geometry, torch.full((4, 6), 1 / 24).log(), (2, 3))
tensor([[0.1667, 0.1667, 0.1667],
        [0.1667, 0.1667, 0.1667]])
>>> patch_table(geometry, torch.tensor([0, 7]), score=torch.tensor([0.5, -1.0]))[1]
{'top': 5, 'left': 5, 'height': 20, 'width': 20, 'location': 7, 'score': -1.0}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from atslib.estimators import check_is_logarithm
from atslib.patches import PatchGeometry, pair


def attention_raster(
    geometry: PatchGeometry, log_attention: Float[Tensor, "h w"], size: int | tuple[int, int] | None = None
) -> Float[Tensor, "H W"]:
    """The attention as a picture in the image's own coordinates, one value a pixel, which sum to one.

    Each location's attention is spread evenly over a rectangle around its middle, as high and wide as locations are apart
    (stride times image over view), where that lies in the image; pixels get the part of it that they cover, exactly.

    Args:
        geometry: of the map in the image, ``model.geometry(image, out)``.
        log_attention: of one image, ``out.log_attention[0]``.
        size: of the raster; the image's, unless given. One pixel then covers several of the image, as one of its view does.

    Returns:
        float32, on the device of ``log_attention``. Small numbers: for a picture of 8 bits divide by the largest, for a file of
        floating point write it as it is.

    Raises:
        ValueError: a map of another size than the geometry's, a batch of maps, say; attention that is no logarithm; a raster
            larger than the image.
    """
    if tuple(log_attention.shape) != tuple(geometry.map_size):
        raise ValueError(f"log_attention of shape {tuple(log_attention.shape)}: expected the geometry's map, {geometry.map_size}")
    check_is_logarithm(log_attention)
    size = geometry.image_size if size is None else pair(size)
    if any(pixels > side for pixels, side in zip(size, geometry.image_size, strict=True)):
        raise ValueError(f"a raster of {size} of an image of {tuple(geometry.image_size)}: expected one no larger")
    height, width = geometry.map_size
    middles = geometry.centre(torch.arange(height * width, device="cpu")[None])[0].unflatten(0, (height, width))
    rows, columns = (
        _shares(along, geometry.stride * side / low, side, pixels).to(log_attention.device)
        for along, side, low, pixels in zip(
            (middles[:, 0, 0], middles[0, :, 1]), geometry.image_size, geometry.low_size, size, strict=True
        )
    )
    return (rows @ log_attention.detach().double().exp() @ columns.T).float()


def _shares(middles: Float[Tensor, " cells"], length: float, side: int, pixels: int) -> Float[Tensor, "pixels cells"]:
    """Of each cell, an interval of the axis around its middle, the share in each pixel of the raster; they sum to one."""
    # Of an interval that begins or ends outside, what lies inside; of one that lies outside, the pixel at the border.
    last = side / pixels
    start = (middles - length / 2).clamp(0, side - last)
    stop = (middles + length / 2).clamp(last, side)
    edges = torch.arange(pixels + 1, dtype=torch.float64, device="cpu") * side / pixels
    inside = torch.minimum(stop, edges[1:, None]) - torch.maximum(start, edges[:-1, None])  # (pixels, cells)
    return inside.clamp(min=0) / (stop - start)


def patch_table(
    geometry: PatchGeometry, index: Int[Tensor, " N"], **values: Shaped[Tensor, " N"]
) -> list[dict[str, int | float]]:
    """The patches that were looked at, one row each, in the order of the draw: for ``csv.DictWriter``, or ``pandas.DataFrame``.

    Args:
        geometry: of the image, ``model.geometry(image, out)``.
        index: locations in it, ``out.index[0]``; of the draw, so that one may come several times.
        values: a number for each, under its name: the attention ``out.log_attention[0].flatten()[index].exp()``, the weights
            ``model.estimator.weights(out.log_attention, out.index)[0]``, a score.

    Returns:
        Of each patch ``top`` and ``left`` (its first pixel, in pixels of the image; negative where it begins outside),
        ``height``, ``width``, ``location`` (row-major in the map) and the values.

    Raises:
        ValueError: locations of several images; values that are not one for each, or named as a place is.
    """
    if index.ndim != 1:
        raise ValueError(f"index of shape {tuple(index.shape)}: expected (N,), the locations in one image, out.index[0]")
    numbers = {}
    for name, some in values.items():
        some = torch.as_tensor(some)
        if some.shape != index.shape:
            raise ValueError(f"{name} of shape {tuple(some.shape)} for {len(index)} patches: expected one number for each")
        numbers[name] = some.tolist()
    if taken := {"top", "left", "height", "width", "location"} & numbers.keys():
        raise ValueError(f"a value named {min(taken)!r}, as what says where a patch lies: expected another name")
    numbers = dict(location=index.tolist()) | numbers
    corners, (height, width) = geometry.top_left(index[None])[0].tolist(), pair(geometry.patch_size)
    places = [dict(top=top, left=left, height=height, width=width) for top, left in corners]
    return [place | {name: some[k] for name, some in numbers.items()} for k, place in enumerate(places)]


def geojson(rows: Sequence[Mapping[str, object]], **properties: object) -> dict:
    """Patches as a GeoJSON ``FeatureCollection`` (RFC 7946) of rectangles, for viewers of slides and maps: ``json.dump`` it.

    Coordinates are (x, y) in pixels of the image, y downwards, as such viewers have them, and no degrees.

    Args:
        rows: as :func:`patch_table` gives them; what is beside the place becomes the properties of a rectangle. Numbers that
            JSON has not, NaN and infinity, become null.
        properties: the same for all, ``objectType="annotation"``, say.

    Raises:
        ValueError: a row that does not say where its patch lies.

    >>> geojson([dict(top=5, left=10, height=20, width=30, score=0.5)])["features"][0]["geometry"]["coordinates"]
    [[[10, 5], [40, 5], [40, 25], [10, 25], [10, 5]]]
    """
    place = ("top", "left", "height", "width")
    features = []
    for number, row in enumerate(rows):
        if lacking := [name for name in place if name not in row]:
            raise ValueError(f"row {number} has no {lacking[0]!r}: expected rows as patch_table gives them")
        top, left, height, width = (row[name] for name in place)
        right, bottom = left + width, top + height
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        about = {name: None if _is_no_number(value) else value for name, value in row.items() if name not in place}
        polygon = dict(type="Polygon", coordinates=[ring])
        features.append(dict(type="Feature", geometry=polygon, properties=about | properties))
    return dict(type="FeatureCollection", features=features)


def _is_no_number(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
