"""Every draw that an estimator can make, with its probability: expectations without noise.

For small K and n there are few draws. Summing over all of them in float64 gives means, biases and variances to rounding, so
that "unbiased" can be checked instead of believed. Draws made from one continuous uniform number are handled by cutting its
range where the draw changes.

>>> import torch
>>> from atslib import ESTIMATORS
>>> log_attention = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
>>> index, probability = every_draw(ESTIMATORS["des_raj"], log_attention, 2)
>>> [f"{tuple(i)}: {p:.3f}" for i, p in zip(index.tolist(), probability.tolist())]
['(0, 1): 0.300', '(0, 2): 0.200', '(1, 0): 0.214', '(1, 2): 0.086', '(2, 0): 0.125', '(2, 1): 0.075']
"""

from __future__ import annotations

import math
from itertools import permutations, product

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atslib.estimators import (
    PPS,
    Estimator,
    Stratified,
    Systematic,
    WithReplacement,
    _Successive,
    check_log_attention,
)

_MOST_DRAWS = 1_000_000


def every_draw(
    estimator: Estimator, log_attention: Float[Tensor, "*K"], n: int
) -> tuple[Int[Tensor, "M n"], Float[Tensor, " M"]]:
    """All M draws of ``n`` locations that have a chance, and their probabilities (which sum to one), in float64.

    Args:
        estimator: says how it draws.
        log_attention: of one image, ``(K,)`` or the map ``(h, w)``.
        n: locations per draw.

    Raises:
        ValueError: attention that is not normalised, n out of range, or more than a million draws: K^n with repetition,
            K! / (K - n)! of distinct locations, the product of the locations in each stratum.
        TypeError: an estimator whose way of drawing is not known here.
    """
    log_attention = log_attention.detach().double()
    check_log_attention(log_attention[None], n, estimator.distinct)
    log_attention = log_attention - log_attention.flatten().logsumexp(0)  # which may be off by rounding
    attention = log_attention.flatten().exp()
    possible = attention.nonzero()[:, 0].tolist()
    if estimator.distinct and len(possible) < n:
        raise ValueError(f"n = {n} distinct locations, but only {len(possible)} have attention that float64 can tell from zero")
    if not _draws_as_known(estimator):
        raise TypeError(f"do not know how {estimator!r} draws: cannot enumerate it")
    if isinstance(estimator, (Systematic, PPS)):
        return _one_uniform(estimator, log_attention, n)
    if isinstance(estimator, Stratified):
        return _one_uniform_per_stratum(estimator, log_attention, n)
    _check_number(math.perm(len(possible), n) if estimator.distinct else len(possible) ** n, len(possible), n)
    draws = permutations(possible, n) if estimator.distinct else product(possible, repeat=n)
    index = torch.tensor(list(draws)).reshape(-1, n)
    drawn = attention[index]
    if estimator.distinct:
        # eq. 13: each step draws from what is left. Summed from what is left, so that a peaked attention stays exact.
        some = max(1, 10_000_000 // len(attention))  # draws at a time: they take K numbers each
        left = torch.cat([attention.expand(len(rows), -1).scatter(1, rows, 0).sum(1) for rows in index.split(some)])
        left = left[:, None] + drawn.flip(1).cumsum(1).flip(1)
        drawn = drawn / left
    return index, drawn.prod(1)


def _draws_as_known(estimator: Estimator) -> bool:
    """Whether it draws as one of those below, and not in a way of its own."""
    kinds, ways = (Systematic, PPS, Stratified, WithReplacement, _Successive), ("_sample", "place", "cumulative")
    return any(
        isinstance(estimator, kind) and all(getattr(type(estimator), way, None) is getattr(kind, way, None) for way in ways)
        for kind in kinds
    )


def exact_mean(
    estimator: Estimator,
    log_attention: Float[Tensor, "*K"],
    features: Float[Tensor, "K D"],
    n: int,
    baseline: Tensor | str | None = None,
) -> Float[Tensor, " D"]:
    """The estimate averaged over every draw; its gradient is the gradient averaged over every draw.

    The probabilities of the draws are constants here, as they are to an optimiser that only ever sees one draw.

    Args:
        log_attention: normalised, ``(K,)`` or ``(h, w)``; ``features``: those of every location.
    """
    index, probability = every_draw(estimator, log_attention, n)
    everywhere = log_attention[None].expand(len(index), *log_attention.shape)
    estimates = estimator(everywhere, index, features[index], baseline)  # (M, D)
    return (probability[:, None] * estimates).sum(0)


def _one_uniform(estimator: Systematic | PPS, log_attention: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """As the uniform number u grows, the draw changes where one of its points passes a cumulative sum."""
    batch = log_attention[None]
    cumulative = estimator.cumulative(batch, n)[0]  # (K,), along the curve
    cuts = torch.cat([cumulative.new_tensor([0.0, 1.0]), (cumulative / cumulative[-1] * n).frac()]).unique()
    middle, length = (cuts[1:] + cuts[:-1]) / 2, cuts.diff()
    index = estimator.place(batch.expand(len(middle), *log_attention.shape), middle[:, None], n)
    if estimator.distinct:  # a location taken for certain is a whole unit long: rounding may leave a sliver that has it twice
        possible = (index.sort(1).values.diff(dim=1) > 0).all(1)
        index, length = index[possible], length[possible]
    return index, length


def _one_uniform_per_stratum(estimator: Stratified, log_attention: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The strata are independent: cut each where its location changes, then combine them in every way."""
    batch = log_attention[None]
    cumulative = estimator.cumulative(batch, n)[0]
    borders = torch.arange(n + 1, dtype=torch.float64)
    cuts = torch.cat([borders, cumulative / cumulative[-1] * n]).unique()  # in units of a stratum
    middle, length = (cuts[1:] + cuts[:-1]) / 2, cuts.diff()
    # Put a piece's middle into every stratum: only the one it lies in is read off.
    placed = estimator.place(batch.expand(len(middle), *log_attention.shape), middle.frac()[:, None].expand(-1, n), n)
    stratum = middle.floor().long()
    location = placed.gather(1, stratum[:, None])[:, 0]
    pieces = [(stratum == m).nonzero()[:, 0].tolist() for m in range(n)]
    _check_number(math.prod(map(len, pieces)), log_attention.numel(), n)
    chosen = torch.tensor(list(product(*pieces)))  # (M, n)
    return location[chosen], length[chosen].prod(1)


def _check_number(draws: int, locations: int, n: int) -> None:
    """Before the list is made: it would fill the memory."""
    if draws > _MOST_DRAWS:
        raise ValueError(f"{locations} locations, n = {n}: over {_MOST_DRAWS:,} draws; enumerate a smaller case")
