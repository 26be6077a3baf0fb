r"""How often a draw of patches sees what gives an image its label: numbers for chapter 10, in which that is a sign (§4.4).

A patch *shows* a sign if it holds at least half of the sign's box. Draws are systematic along a Hilbert curve through the map
(:class:`atslib.estimators.Systematic`), for which the chance that one of them falls on a set of locations has a closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from atslib.estimators import hilbert_curve

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the image


def patch_corners(model: nn.Module, image: Tensor) -> tuple[Int[np.ndarray, "K 2"], tuple[int, int]]:
    """Row and column of the first pixel of the patch around each location that a model may look at, and the shape of its map.

    Args:
        model: :class:`atslib.models.AttentionSampling`, :class:`atslib.models.UniformSampling` or :class:`atslib.models.DeepMIL`.
        image: (1, C, H, W), of which the size counts only.
    """
    if hasattr(model, "grid"):  # Deep MIL reads all patches of a grid
        return model.top_left(image)[0].numpy(), tuple(model.grid)
    low = model.view(image)
    with torch.no_grad():
        geometry = model.geometry(image, low, model.attention(low))
    every = torch.arange(geometry.map_size[0] * geometry.map_size[1])
    return geometry.top_left(every[None])[0].numpy(), tuple(geometry.map_size)


def shows_sign(corners: Int[np.ndarray, "K 2"], patch: int, boxes: Sequence[Box], share: float = 0.5) -> Bool[np.ndarray, "K"]:
    """For each location whether its patch holds at least this share of the area of one of the boxes.

    Args:
        corners: row and column of the patches' first pixels, :func:`patch_corners`.
        patch: side of a patch in pixels.
        boxes: left, top, right and bottom of each sign.

    Raises:
        ValueError: a box without area.

    >>> shows_sign(np.array([[0, 0], [0, 6]]), 10, [(4, 0, 8, 10)])
    array([ True,  True])
    >>> shows_sign(np.array([[0, 0], [0, 7]]), 10, [(4, 0, 8, 10)])
    array([ True, False])
    """
    shows = np.zeros(len(corners), bool)
    for left, top, right, bottom in boxes:
        if not (right > left and bottom > top):
            raise ValueError(f"box {(left, top, right, bottom)}: expected left < right and top < bottom")
        down = np.minimum(corners[:, 0] + patch, bottom) - np.maximum(corners[:, 0], top)
        across = np.minimum(corners[:, 1] + patch, right) - np.maximum(corners[:, 1], left)
        shows |= down.clip(0) * across.clip(0) >= share * (right - left) * (bottom - top)
    return shows


def chance_to_see(attention: Float[np.ndarray, "h w"], shows: Bool[np.ndarray, "h*w"], n: int) -> float:
    r"""Probability that ``n`` systematic draws fall on at least one location that shows the sign; exact.

    Laid end to end along the curve, the attention of the locations fills [0, 1), and the draws are the points
    :math:`(u + i)/n`, :math:`i = 0 … n-1`, with one uniform :math:`u`. One of them is in a location's stretch if :math:`u/n`
    is in that stretch, shifted back by a multiple of :math:`1/n` to the beginning. So the chance is the length of the union of
    the shifted stretches, over :math:`1/n`.

    Args:
        attention: of all locations; adds up to one.
        shows: whether each location shows it, row by row.

    Raises:
        ValueError: numbers of locations differ, or attention does not add up to one.

    >>> chance_to_see(np.full((2, 2), 0.25), np.array([True, False, False, False]), 2)
    0.5
    """
    curve = hilbert_curve(*attention.shape).numpy()
    if shows.size != attention.size:
        raise ValueError(f"{shows.size} locations that may show the sign: expected {attention.size}, as the attention has")
    if not abs(attention.sum() - 1) < 1e-6:
        raise ValueError(f"attention adds up to {attention.sum():g}: expected 1")
    along, shown = attention.astype(float).ravel()[curve], np.asarray(shows).ravel()[curve]
    end = np.cumsum(along)
    pieces, period = [], 1 / n
    for start, stop in zip((end - along)[shown], end[shown], strict=True):
        if stop - start >= period:
            return 1.0
        start, length = start % period, stop - start
        pieces += [(start, min(start + length, period)), (0.0, start + length - period)]  # the second, where it wraps around
    covered = reached = 0.0
    for start, stop in sorted(pieces):
        covered += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return float(covered / period)


def attention_on(log_attention: Float[Tensor, "h w"], shows: Bool[np.ndarray, "h*w"], n: int = 5) -> tuple[float, float, float]:
    """Attention on the locations that show the sign; that of a uniform map; the chance that ``n`` draws see it."""
    attention = log_attention.double().exp().numpy()
    chance = chance_to_see(attention, shows, n)  # or a ValueError, if the two do not fit
    return float(attention.ravel()[shows].sum()), float(shows.mean()), chance


@dataclass
class Chances:
    """Of the images of a set that have a sign, in their order.

    Attributes:
        locations: how many locations show a sign, (images,).
        uniform: number of draws -> the chance that as many uniform ones see a sign, (images,).
        prior: the same with the attention of a network; None if none was given.
        map_size: rows and columns of the map.
    """

    locations: Int[np.ndarray, "I"]
    uniform: dict[int, Float[np.ndarray, "I"]]
    prior: dict[int, Float[np.ndarray, "I"]] | None
    map_size: tuple[int, int]


@torch.no_grad()
def chances_to_see(dataset, model: nn.Module, counts: Sequence[int] = (5, 10), prior: nn.Module | None = None) -> Chances:
    """How often draws see a sign before anything has been learned.

    Args:
        dataset: images of one size, with ``boxes(number)``; those without a box are left out.
        model: gives view, locations and size of a patch.
        counts: numbers of draws.
        prior: an attention network; of each image its attention is computed, too.

    Raises:
        ValueError: no image has a sign.
    """
    numbers = [number for number in range(len(dataset)) if dataset.boxes(number)]
    if not numbers:
        raise ValueError("no image with a sign: there is nothing to see")
    corners, map_size = patch_corners(model, dataset[numbers[0]][0][None])
    even = np.full(map_size, 1 / np.prod(map_size))
    shows = [shows_sign(corners, model.patch_size, dataset.boxes(number)) for number in numbers]
    uniform = {n: np.array([chance_to_see(even, some, n) for some in shows]) for n in counts}
    of_prior = None
    if prior is not None:
        logits = [prior(model.view(dataset[number][0][None]))[0].double() for number in numbers]
        maps = [each.flatten().softmax(0).view(each.shape).numpy() for each in logits]
        of_prior = {n: np.array([chance_to_see(a, some, n) for a, some in zip(maps, shows, strict=True)]) for n in counts}
    return Chances(np.array([some.sum() for some in shows]), uniform, of_prior, map_size)


@torch.no_grad()
def answers_by_sight(
    model: nn.Module, image: Tensor, boxes: Sequence[Box], label: int, draws: int, generator: torch.Generator | None = None
) -> tuple[Bool[np.ndarray, "draws"], Bool[np.ndarray, "draws"]]:
    """Look at an image again and again: whether one of the patches shows a sign, and whether the answer is right; by draw.

    Args:
        image: (C, H, W).
        boxes: of its signs.
        label: the right answer.
        draws: how many times to look, each time with as many patches as the model draws.
    """
    out = model(image[None].expand(draws, *image.shape), generator=generator)
    shows = torch.from_numpy(shows_sign(patch_corners(model, image[None])[0], model.patch_size, boxes))
    return shows[out.index].any(1).numpy(), (out.logits.argmax(1) == label).numpy()
