"""Estimators of an attention-weighted sum from a handful of its terms.

An attention model pools :math:`K` features :math:`f_i` with weights :math:`a_i` on the simplex,

.. math::  \\mu = \\sum_{i=1}^{K} a_i f_i ,

and attention sampling estimates :math:`\\mu` from ``n`` of them. Every unbiased estimator here is two things: how the
indices :math:`i_1 … i_n` are drawn, and weights :math:`W_1 … W_n` such that

.. math::  \\mathbb{E}\\Big[\\sum_m \\tfrac{W_m}{a_{i_m}}\\, h(i_m)\\Big] = \\sum_i h(i)
           \\quad\\text{for every } h \\text{ that is zero where } a_i \\text{ is}. \\qquad (*)

The value and the gradient then follow from one line, with sg the stop-gradient:

.. math::  z = \\sum_m \\mathrm{sg}(W_m)\\,\\bigl(1 + \\log a_{i_m} - \\mathrm{sg}(\\log a_{i_m})\\bigr)\\, f_{i_m} .

Its value is :math:`\\sum_m W_m f_{i_m}`, which is :math:`\\mu` on average by (*) with :math:`h = a f`. Its derivative is
:math:`\\sum_m W_m\\,(\\partial f_{i_m} + f_{i_m}\\,\\partial \\log a_{i_m})`, which is :math:`\\partial\\mu` on average by
(*) with :math:`h = \\partial(a f)`, if :math:`\\partial a_i = 0` where :math:`a_i = 0`: no draw finds such a location. Behind a
softmax or a mask that holds. So the draw itself needs no gradient and no estimator needs a custom backward.

Attention enters as ``log_attention``, the output of a ``log_softmax``, either flat ``(B, K)`` or as the map
``(B, h, w)`` whose locations are numbered row by row. Everything is computed in log space and in float32 at least.

>>> import torch
>>> log_attention = torch.tensor([[0.5, 0.3, 0.2]]).log()
>>> estimator = ESTIMATORS["des_raj"]
>>> index = estimator.sample(log_attention, 2, generator=torch.Generator().manual_seed(0))  # two different locations
>>> features = torch.eye(3)[index]  # (1, 2, 3): compute features at those two locations only
>>> estimator(log_attention, index, features).shape
torch.Size([1, 3])
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atslib.arguments import is_whole

# Attention that sums to something else than one by more than this (in log space) was not normalised. The loose bound
# lets a log_softmax computed in bfloat16 through.
_NORMALISATION_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}


class Estimator:
    """How to draw ``n`` locations and how to weigh what is found there.

    A subclass says how, in ``_sample(flat, log_attention, n, generator)``: ``flat`` is the log-attention ``(B, K)`` that
    :meth:`sample` has checked, in float32 or float64, and what is returned are indices ``(B, n)``, int64; and with which weights
    (:meth:`weights`). The value and the gradient follow.

    Attributes:
        name: the key in :data:`ESTIMATORS`; a subclass that gives none has its class's name.
        biased: whether the value or a gradient is wrong on average. True for the two published gradients only.
        distinct: whether the locations of one draw all differ.
    """

    name: str
    biased: bool = False
    distinct: bool = False

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "name" not in vars(cls):
            cls.name = cls.__name__

    def sample(
        self, log_attention: Float[Tensor, "B *K"], n: int, *, generator: torch.Generator | None = None
    ) -> Int[Tensor, "B n"]:
        """Draw ``n`` locations for each image.

        Args:
            log_attention: normalised log-attention, ``(B, K)`` or the map ``(B, h, w)``.
            n: number of locations per image.
            generator: source of randomness, on the device of ``log_attention``.

        Returns:
            Flat (row-major) indices, int64, in order of drawing.

        Raises:
            ValueError: attention with NaN, all zero or not normalised; ``n`` < 1; for draws of distinct locations,
                ``n`` larger than the number of locations whose attention is not zero.

        Looks at values, so that it cannot be mapped by ``torch.func.vmap``; for gradients by image, loop.
        """
        with torch.no_grad():
            return self._sample(check_log_attention(log_attention, n, self.distinct), log_attention, int(n), generator)

    def _sample(self, flat: Tensor, log_attention: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
        """The draw itself: ``flat`` is the checked ``(B, K)`` log-attention, float32 or float64."""
        raise TypeError(f"{type(self).__name__} does not say how it draws, by _sample(); use one of {list(ESTIMATORS)}")

    @torch.no_grad()
    def weights(self, log_attention: Float[Tensor, "B *K"], index: Int[Tensor, "B n"]) -> Float[Tensor, "B n"]:
        """Weights :math:`W_m` of the drawn locations, without gradient: condition (*) of the module's docstring.

        Here :math:`W_m = 1/n` (eq. 4), which serves every draw that holds location i :math:`n a_i` times on average.
        """
        return torch.full_like(index, 1 / index.shape[1], dtype=_working_dtype(log_attention))

    def __call__(
        self,
        log_attention: Float[Tensor, "B *K"],
        index: Int[Tensor, "B n"],
        features: Float[Tensor, "B n D"],
        baseline: Float[Tensor, "..."] | str | None = None,
    ) -> Float[Tensor, "B D"]:
        """Estimate :math:`\\sum_i a_i f_i` from the drawn locations, differentiably in attention and features.

        Args:
            log_attention: what ``index`` was drawn from; gradients flow into it.
            index: the draw, as :meth:`sample` returned it.
            features: the features at those locations.
            baseline: lowers the variance of the attention's gradient and changes no value and no expectation. A
                tensor that broadcasts to ``(B, D)`` and does not depend on the draw (such as a running mean of the
                features) is subtracted from the features in the score term; ``"built_in"`` asks for the estimator's
                own baseline, made of the draw itself, where it has one.

        Returns:
            The estimate, in float32 (float64 if the inputs are).

        Raises:
            ValueError: shapes that do not fit, a draw of no location, or a built-in baseline of an estimator that has none; on
                the CPU also attention above one at the locations drawn, so that it is no logarithm of a distribution, or distinct
                draws that are not.

        Derivatives of any order are unbiased where the first is. The factor is computed as
        :math:`\\exp(\\log a - \\mathrm{sg}(\\log a)) = a / \\mathrm{sg}(a)`: it has the value and the first derivative of the one
        in the module's formula, whose second derivative would lack :math:`(\\partial \\log a)^2`.
        """
        _check_draw(log_attention, index, features)
        log_a = log_attention.flatten(1).gather(1, index).to(_working_dtype(log_attention))  # (B, n)
        _check_drawn(log_a, log_attention.dtype, index, self.distinct)
        ratio = (log_a - log_a.detach()).exp()[..., None]  # a over a held constant: one, and its gradient is the score
        weights = self.weights(log_attention, index)[..., None]  # (B, n, 1)
        features = features.to(torch.promote_types(features.dtype, weights.dtype))
        estimate = (weights * ratio * features).sum(1)  # no matmul: autocast would round it to bfloat16
        if baseline is None:
            return estimate
        return estimate - ((ratio - 1) * self._control(log_attention, index, features.detach(), baseline)).sum(1)

    def _control(self, log_attention: Tensor, index: Tensor, features: Tensor, baseline: Tensor | str) -> Tensor:
        """The control variate: coefficients ``(B, n, D)`` of the scores whose sum is zero on average."""
        if isinstance(baseline, str):
            if baseline != "built_in":
                raise ValueError(f"baseline={baseline!r}: expected a tensor (B, D), 'built_in' or None")
            return self._built_in_control(log_attention, index, features)
        shape = features[:, 0].shape
        try:
            baseline = baseline.detach().expand(shape)
        except (AttributeError, RuntimeError):
            what = f"of shape {tuple(baseline.shape)}" if isinstance(baseline, Tensor) else repr(baseline)
            raise ValueError(
                f"baseline {what}: expected a tensor that broadcasts to (B, D) = {tuple(shape)}, 'built_in' or None"
            ) from None
        return self.weights(log_attention, index)[..., None] * baseline[:, None]

    def _built_in_control(self, log_attention: Tensor, index: Tensor, features: Tensor) -> Tensor:
        raise ValueError(
            f"the estimator {self.name!r} has no built-in baseline (its draws are not independent in a way that would "
            "leave it unbiased): pass a tensor that does not depend on the draw, or use with_replacement, des_raj or murthy"
        )

    def stderr(
        self, log_attention: Float[Tensor, "B *K"], index: Int[Tensor, "B n"], features: Float[Tensor, "B n D"]
    ) -> Float[Tensor, "B D"] | None:
        """Standard error of the estimate, in its precision, from the draw itself: its *square* is right on average.

        None where one draw does not tell it: of fewer than two locations; systematic and π-ps, where with one uniform number some
        pairs of locations are never drawn together; stratified, where one draw of a stratum tells nothing of the variance inside
        it. Also for eq. 14 and for estimators of one's own, for which nothing is implemented.
        """
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class WithReplacement(Estimator):
    """Independent draws from the attention, plain average: eqs. 4 and 12 of the paper.

    .. math::  z = \\frac1n \\sum_m f_{i_m}, \\qquad i_m \\sim a \\text{ i.i.d.}, \\qquad W_m = 1/n

    Its built-in baseline is leave-one-out: the mean of the *other* features of the draw, which are independent of
    this one (Kool, van Hoof & Welling, *Buy 4 REINFORCE samples, get a baseline for free!*, 2019).
    """

    name = "with_replacement"

    def _sample(self, flat, log_attention, n, generator):
        uniform = torch.rand(len(flat), n, dtype=torch.float64, device=flat.device, generator=generator)
        return _invert(_cumulative(flat), uniform)

    def _built_in_control(self, log_attention, index, features):
        n = index.shape[1]
        if n < 2:
            raise ValueError("baseline='built_in' averages the other features of a draw: it needs n >= 2, got n = 1")
        return (features.sum(1, keepdim=True) - features) / (n - 1) / n  # (B, n, D)

    def stderr(self, log_attention, index, features):
        n = index.shape[1]
        working = torch.promote_types(features.dtype, _working_dtype(log_attention))
        return features.detach().to(working).std(1) / math.sqrt(n) if n > 1 else None


class _Successive(Estimator):
    """Draws one location after the other from what is left (eq. 13), as the top n of Gumbel-perturbed log-attention.

    The keys are those of a race: location i rings at a time :math:`E_i/a_i`, E exponential, whose negative logarithm is the
    log-attention plus a Gumbel. The rings of all locations together come from independent draws, and the first n different
    ones are the top n; so n keys are found without making all K. Where a fair number of draws holds fewer than n
    different locations (attention on less than about n of them), the race is run to its end among the others: their keys
    begin anew, since an exponential has no memory. On a GPU, where K keys are made at once, all of them are.

    Source: Kool, van Hoof & Welling, *Stochastic beams and where to find them*, ICML 2019; Efraimidis & Spirakis, *Weighted
    random sampling with a reservoir*, 2006.
    """

    distinct = True

    def _sample(self, flat, log_attention, n, generator):
        if flat.device.type != "cpu":  # whether a few draws have sufficed a GPU's host would have to wait to hear
            return _gumbel_top(flat, n, generator)
        tries = 4 * n + 16
        uniform = torch.rand(len(flat), tries, dtype=torch.float64, device=flat.device, generator=generator)
        drawn = _invert(_cumulative(flat), uniform)  # (B, tries)
        in_order, position = drawn.sort(dim=1, stable=True)
        repeated = torch.zeros_like(drawn, dtype=torch.bool)
        repeated.scatter_(1, position[:, 1:], in_order[:, 1:] == in_order[:, :-1])  # all but the first ring of a location
        index = drawn.gather(1, repeated.sort(dim=1, stable=True).indices[:, :n])  # (B, n), repeats last
        found = tries - repeated.sum(1, keepdim=True)
        if (found < n).any():
            rest = _gumbel_top(flat.scatter(1, index, -math.inf), n, generator)
            step = torch.arange(n, device=flat.device)
            index = torch.cat([index, rest], dim=1).gather(1, torch.where(step < found, step, n + step - found))
        return index


class Eq14(_Successive):
    """Sampling without replacement exactly as printed in eq. 14: only the last step of the sequence is used.

    .. math::  z = \\sum_{m<n} a_{i_m} f_{i_m} + w_n f_{i_n}, \\qquad W_m = a_{i_m},\\; W_n = w_n = 1 - \\sum_{m<n} a_{i_m}

    Unbiased, and exact for n = K, but of high variance unless attention is peaked: nearly all of the weight lies on
    one feature.
    """

    name = "eq14"

    @torch.no_grad()
    def weights(self, log_attention, index):
        """:math:`W_m = a_{i_m}` for m < n, and :math:`W_n = w_n`, the mass left before the last draw."""
        log_a, log_w = _log_masses(log_attention, index)
        return torch.cat([log_a[:, :-1], log_w[:, -1:]], dim=1).exp()


class DesRaj(_Successive):
    """Sampling without replacement, the mean of the n estimators that eq. 14 gives after 1, 2, …, n draws.

    .. math::  z = \\frac1n \\sum_{m=1}^n t_m, \\qquad t_m = \\sum_{k<m} a_{i_k} f_{i_k} + w_m f_{i_m}, \\qquad
               W_m = \\frac{w_m + (n - m)\\, a_{i_m}}{n}

    with :math:`w_m` the mass left before draw m. Each :math:`t_m` has mean :math:`\\mu` whatever was drawn before, so
    they are uncorrelated and their spread is a free error bar, whose square is unbiased (:meth:`stderr`). Their mean is
    what the paper's released code computes as its value; its gradient there is another matter (:class:`LegacyIdiap`).

    The built-in baseline is predictable: before draw m, the mean of the features already seen (zero at first).

    Source: Des Raj, *Some estimators in sampling with varying probabilities without replacement*, JASA 1956.
    """

    name = "des_raj"

    @torch.no_grad()
    def weights(self, log_attention, index):
        """:math:`W_m = (w_m + (n - m)\\, a_{i_m}) / n`, with :math:`w_m` the mass left before draw m."""
        log_a, log_w = _log_masses(log_attention, index)
        n = index.shape[1]
        later = torch.arange(n - 1, -1, -1, dtype=log_a.dtype, device=log_a.device)  # n - m
        return (log_w.exp() + later * log_a.exp()) / n

    @torch.no_grad()
    def prefix_estimates(self, log_attention, index, features) -> Float[Tensor, "B n D"]:
        """The n uncorrelated estimators :math:`t_1 … t_n` of which this one is the mean."""
        log_a, log_w = _log_masses(log_attention, index)
        seen = log_a.exp()[..., None] * features  # (B, n, D)
        return seen.cumsum(1) - seen + log_w.exp()[..., None] * features

    @torch.no_grad()
    def stderr(self, log_attention, index, features):
        n = index.shape[1]
        if n < 2:
            return None
        return self.prefix_estimates(log_attention, index, features).std(1) / math.sqrt(n)

    @torch.no_grad()
    def _built_in_control(self, log_attention, index, features):
        # With b_m known before draw m, (w_m s_m + sum_{k<m} a_k s_k) b_m has mean zero (s the scores): what is left
        # of the attention changes by minus the change of what was drawn. Collect the coefficient of each s_m.
        log_a, log_w = _log_masses(log_attention, index)
        a, w = log_a.exp()[..., None], log_w.exp()[..., None]  # (B, n, 1)
        n = index.shape[1]
        count = torch.arange(n, dtype=a.dtype, device=a.device).clamp(min=1)[:, None]
        baseline = (features.cumsum(1) - features) / count  # b_m: mean of the features before m; b_1 = 0
        later = baseline.flip(1).cumsum(1).flip(1) - baseline  # sum of b_k over k > m
        return (w * baseline + a * later) / n


class Murthy(_Successive):
    """Sampling without replacement, averaged over the order of drawing: Murthy's estimator, the unordered set estimator.

    .. math::  z = \\sum_{m} a_{i_m} R_m\\, f_{i_m}, \\qquad
               R_m = \\frac{P(S \\mid i_m \\text{ drawn first})}{P(S)}
                   = \\frac{\\int_0^1 \\prod_{j \\in S \\setminus m} (1 - v^{c_j})\\, dv}
                          {\\int_0^1 \\prod_{j \\in S} (1 - v^{c_j})\\, dv},
               \\qquad c_j = \\frac{a_j}{1 - \\sum_{i \\in S} a_i}

    with S the set of the n locations drawn; :math:`W_m = a_{i_m} R_m`, and the weights sum to one. The mean of eq. 14's and of
    :class:`DesRaj`'s estimate over all orders in which S can have been drawn is this one, so its variance is at most theirs
    (Rao–Blackwell). Not every unbiased estimator leads here: one that does not look at the order, as Horvitz and Thompson's, is
    its own mean.

    The error bar (n >= 2) is made of pairs, with :math:`R_{ij} = P(S \\mid i, j \\text{ drawn first}) / P(S)`:

    .. math::  \\mathrm{stderr}^2 = \\sum_{i < j \\in S} a_i a_j\\, (R_{ij} - R_i R_j)\\, (f_i - f_j)^2

    All these are moments of :math:`g_m(v) = a_{i_m} / (1 - v^{c_m})` under the density of v given S, which is proportional to
    :math:`\\prod_{j \\in S} (1 - v^{c_j})`: :math:`W_m = \\mathbb{E}[g_m]`, :math:`a_i a_j R_{ij} = \\mathbb{E}[g_i g_j]` and
    :math:`a_i a_j (R_{ij} - R_i R_j) = \\mathrm{Cov}(g_i, g_j)`.

    The built-in baseline (n >= 2) is the mean of :class:`DesRaj`'s second estimate, given the set and that m was drawn first:

    .. math::  b_m = \\mathbb{E}[t_2 \\mid S, m \\text{ first}]
                   = a_m f_m + \\sum_{j \\in S \\setminus m} a_j \\frac{R_{mj}}{R_m} f_j

    Source: Murthy, *Ordered and unordered estimators in sampling without replacement*, Sankhyā 1957; Kool, van Hoof &
    Welling, *Estimating gradients for discrete random variables by sampling without replacement*, ICLR 2020.
    """

    name = "murthy"

    @torch.no_grad()
    def weights(self, log_attention, index):
        """:math:`W_m = a_{i_m} R_m`; they sum to one."""
        density, g = self._given_set(log_attention, index)
        return (density * g).sum(-1).to(_working_dtype(log_attention))

    @torch.no_grad()
    def _built_in_control(self, log_attention, index, features):
        n = index.shape[1]
        if n < 2:
            raise ValueError(f"baseline='built_in' averages the other features of a draw: it needs n >= 2, got n = {n}")
        density, g = self._given_set(log_attention, index)
        # W_m b_m = Σ_j E[g_m g_j] f_j, but for j = m: (B, n, n); float64, which autocast leaves alone
        control = (density * g) @ g.mT
        a = _normalised(log_attention).double().gather(1, index).exp()
        control.diagonal(dim1=1, dim2=2).copy_((density * g).sum(-1) * a)  # W_m a_m f_m
        return (control @ features.double()).to(features.dtype)

    @torch.no_grad()
    def stderr(self, log_attention, index, features):
        if index.shape[1] < 2:
            return None
        density, g = self._given_set(log_attention, index)
        off = g - (density * g).sum(-1, keepdim=True)
        # a_i a_j (R_ij - R_i R_j), not as a difference: a covariance, of two functions that rise with v, so that it is positive.
        covariance = (density * off) @ off.mT  # (B, n, n); float64, which autocast leaves alone
        seen = features.double()
        seen = seen - seen.mean(1, keepdim=True)  # only differences count: a shared part would cancel at the price of digits
        variance = (covariance.sum(2, keepdim=True) * seen.square() - seen * (covariance @ seen)).sum(1)
        return variance.clamp(min=0).sqrt().to(torch.promote_types(features.dtype, _working_dtype(log_attention)))

    def _given_set(self, log_attention: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """The density of v given S, as weights of the points (B, 1, T), and the g_m at these (B, n, T)."""
        log_a, log_density, log_factors = self._integrand(log_attention, index)
        density = (log_density + log_factors.sum(1, keepdim=True)).softmax(-1)
        return density, (log_a[..., None] - log_factors).exp()

    @staticmethod
    def _integrand(log_attention: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log a (B, n); the log density of the integration variable (T,); the log factors of the product (B, n, T).

        With :math:`v = e^{-e^s}` the integrals run over the real line and their integrand is
        :math:`e^{s - e^s} \\prod_j (1 - \\exp(-c_j e^s))`: analytic for :math:`|\\mathrm{Im}\\, s| < \\pi/2`, falling off like
        :math:`e^s` on the left and doubly exponentially on the right. For small :math:`c_j` it is :math:`e^{(n + 1) s - e^s}`,
        the density of the logarithm of a Gamma(n + 1) variable, with its peak at log(n + 1) and a width of about
        :math:`1/\\sqrt{n + 1}`; the larger the c_j, the broader it is and the more to the left, whatever they are: tiny, or
        beyond all bounds when S holds all the mass. The plain trapezoid rule with step h is off by about
        :math:`e^{-(n + 1)(t \\arctan t - \\log(1 + t^2) / 2)}`, :math:`t = 2 \\pi / ((n + 1) h)`: double precision for
        this h.
        """
        flat = _normalised(log_attention).double()
        log_a = flat.gather(1, index)
        never_drawn = flat.scatter(1, index, -math.inf).logsumexp(1, keepdim=True)
        peak = index.shape[1] + 1
        h = min(0.15, 0.56 / math.sqrt(peak))
        left, right = -40, math.log(peak + 12 * math.sqrt(peak) + 45)  # what lies beyond is below rounding
        s = torch.arange(math.floor(left / h), math.ceil(right / h) + 1, dtype=torch.float64, device=flat.device) * h  # (T,)
        exponent = (log_a - never_drawn)[..., None] + s  # log(c_j e^s), +inf once nothing is left: (B, n, T)
        # log(1 - exp(-e^x)), which is x itself to rounding for x far below zero, where e^x would vanish.
        log_factors = torch.where(exponent < -40, exponent, (-(-exponent.clamp(min=-40).exp()).expm1()).log())
        return log_a, s - s.exp(), log_factors


class _AlongCurve(Estimator):
    """Points spread over the cumulative attention, taken along a curve through the map.

    Args:
        order: ``"hilbert"`` (needs the attention as a map) or ``"raster"`` (row by row).
    """

    _uniforms_per_draw = 1  # 1, or n for one of each stratum

    def __init__(self, order: str = "hilbert"):
        if order not in ("hilbert", "raster"):
            raise ValueError(f"order={order!r}: expected 'hilbert' or 'raster'")
        self.order = order

    def _sample(self, flat, log_attention, n, generator):
        columns = n if self._uniforms_per_draw == "n" else 1
        uniform = torch.rand(len(flat), columns, dtype=torch.float64, device=flat.device, generator=generator)
        return self.place(log_attention, uniform, n)

    def place(self, log_attention: Float[Tensor, "B *K"], uniform: Float[Tensor, "B u"], n: int) -> Int[Tensor, "B n"]:
        """The draw that belongs to given numbers in [0, 1): one per image, or for strata one per draw."""
        steps = torch.arange(n, dtype=torch.float64, device=uniform.device)
        cumulative = self.cumulative(log_attention, n)
        return _invert(cumulative, (uniform + steps) / n, curve_order(log_attention, self.order))

    def cumulative(self, log_attention: Float[Tensor, "B *K"], n: int) -> Float[Tensor, "B K"]:
        """What the points are spread over, along the curve and in float64: here the cumulative attention."""
        flat = log_attention.detach().flatten(1).to(_working_dtype(log_attention))
        return _cumulative(flat, curve_order(log_attention, self.order))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(order={self.order!r})"


class Systematic(_AlongCurve):
    """One uniform number places n equally spaced points on the cumulative attention: systematic sampling.

    .. math::  i_m = F^{-1}\\Big(\\frac{u + m - 1}{n}\\Big), \\qquad u \\sim \\mathcal U(0, 1), \\qquad W_m = 1/n

    with :math:`F` the cumulative attention along ``order``. The n points together cover [0, 1) evenly, so the plain mean is
    unbiased; and they are spread out, so that a stretch of mass s gets ns draws, rounded up or down. Along a Hilbert curve,
    which stays inside a region before it leaves for the next, a stretch is an object.

    Source: Madow & Madow, *On the theory of systematic sampling*, Annals of Mathematical Statistics 1944.
    """

    name = "systematic"


class Stratified(_AlongCurve):
    """One independent point in each of n equal parts of the cumulative attention: stratified sampling.

    .. math::  i_m = F^{-1}\\Big(\\frac{u_m + m - 1}{n}\\Big), \\qquad u_m \\sim \\mathcal U(0, 1) \\text{ i.i.d.}, \\qquad
               W_m = 1/n

    Never of higher variance than independent draws (:class:`WithReplacement`): the variance between the parts is gone.
    """

    name = "stratified"
    _uniforms_per_draw = "n"


class PPS(_AlongCurve):
    """n different locations, each included with probability proportional to its attention: systematic π-ps sampling.

    .. math::  z = \\sum_m \\frac{a_{i_m}}{\\pi_{i_m}} f_{i_m}, \\qquad \\pi_i = \\min(1, c\\, a_i), \\quad
               \\sum_i \\pi_i = n, \\qquad W_m = a_{i_m} / \\pi_{i_m}

    A location that would be expected more than once is taken for certain and counts with its attention itself; the others
    share what remains. The draw is systematic on the cumulative π along ``order``.

    Source: Madow, *On the theory of systematic sampling, II*, 1949; Horvitz & Thompson, JASA 1952.
    """

    name = "pps"
    distinct = True

    @torch.no_grad()
    def weights(self, log_attention, index):
        """:math:`W_m = a_{i_m} / \\pi_{i_m}`."""
        log_a = _normalised(log_attention).double().gather(1, index)
        log_pi = self._log_inclusion(log_attention, index.shape[1]).gather(1, index)
        return (log_a - log_pi).exp().to(_working_dtype(log_attention))

    def cumulative(self, log_attention, n):
        return _cumulative(self._log_inclusion(log_attention, n), curve_order(log_attention, self.order))

    @staticmethod
    def _log_inclusion(log_attention: Tensor, n: int) -> Float[Tensor, "B K"]:
        """log π of all locations, with :math:`\\pi_i = \\min(1, c\\, a_i)` and c such that they sum to n.

        With the k largest taken for certain, c = (n - k) / (mass of the others); k is the smallest for which the largest of
        the others then needs no more than certainty.
        """
        flat = log_attention.detach().flatten(1).double()
        flat = flat - flat.logsumexp(1, keepdim=True)  # to float64: the inclusions are to sum to n
        # Masked by the least number of a type, not by -inf: beside 1e38 how many others there are would be lost to rounding.
        flat = flat.clamp(min=-1e6).masked_fill(flat == -math.inf, -math.inf)
        largest = flat.topk(n, dim=1).indices
        log_a, log_left = _log_masses(flat, largest)  # (B, n): of the (k + 1)-th largest, and without the k largest
        certain = torch.arange(n, dtype=flat.dtype, device=flat.device)
        log_rate = (n - certain).log() - log_left
        enough = log_rate + log_a <= 1e-12
        enough[:, -1] = True  # one draw from what is left never needs more than certainty
        return (flat + log_rate.gather(1, enough.int().argmax(1, keepdim=True))).clamp(max=0)


class LegacyIdiap(DesRaj):
    """The estimator of the paper's released code: Des Raj's value and feature gradient, a *wrong* attention gradient.

    Kept to compare with, never to train with unknowingly (``biased`` is True). With :math:`t_m` the prefix estimators
    of :class:`DesRaj`, the code returns as derivative with respect to :math:`a_{i_m}`

    .. math::  \\frac1n\\Big(\\frac{w_m}{a_{i_m}}\\, t_m + \\sum_{k<m} f_{i_k} - (m - 1) f_{i_m}\\Big)

    where the chain rule has later steps depend on earlier ones the wrong way round.

    Source: github.com/idiap/attention-sampling, ``ats/core/expectation.py`` (2019); re-derived here in log space.
    """

    name = "legacy_idiap"
    biased = True
    _inclusive = False  # whether cumulative sums over the draw include the current one

    def __call__(self, log_attention, index, features, baseline=None):
        if baseline is not None:
            raise ValueError(f"{self.name} reproduces published code, which has no baseline; got baseline={baseline!r}")
        _check_draw(log_attention, index, features)
        log_a = log_attention.flatten(1).gather(1, index).to(_working_dtype(log_attention))
        _check_drawn(log_a, log_attention.dtype, index, self.distinct)
        features = features.to(torch.promote_types(features.dtype, log_a.dtype))
        with torch.no_grad():
            a, mass = (m.exp()[..., None] for m in _log_masses(log_attention.detach(), index))  # (B, n, 1)
            n = index.shape[1]
            steps = torch.arange(n, dtype=a.dtype, device=a.device)[:, None]  # m - 1
            fixed = features.detach()  # no_grad alone would not keep forward-mode derivatives out
            prefix = self.prefix_estimates(log_attention.detach(), index, fixed)
            seen = fixed.cumsum(1)
            if self._inclusive:
                mass = mass - a  # the port's "mass left before the draw" is the mass left after it
            else:
                seen = seen - fixed
            to_features = (mass + (n - 1 - steps) * a) / n
            to_score = (mass * prefix + a * (seen - steps * fixed)) / n
            value = prefix.mean(1)
        score = log_a - log_a.detach()
        value = value + (to_features * (features - features.detach())).sum(1)
        return value + (score[..., None] * to_score).sum(1)

    def _built_in_control(self, log_attention, index, features):
        raise ValueError(f"{self.name} reproduces published code, which has no baseline")


class LegacyPort(LegacyIdiap):
    """The estimator of the most used PyTorch port: the released code's error and one more (``biased`` is True).

    Inclusive cumulative sums stand where exclusive ones belong. The value survives (the slips cancel), the feature
    gradient does not.

    Source: github.com/sara-nl/attention-sampling-pytorch, ``ats/core/expectation.py`` (2020).
    """

    name = "legacy_port"
    _inclusive = True


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def check_log_attention(
    log_attention: Float[Tensor, "B *K"], n: int = 1, distinct: bool = False
) -> Float[Tensor, "B K"]:
    """The log-attention as ``(B, K)`` in float32 or float64, or a one-line error that says what is wrong with it.

    Costs one pass and, on a GPU, one synchronisation. In a compiled model, and within :func:`trusting`, shapes are checked and
    values are not.
    """
    if log_attention.ndim not in (2, 3) or not log_attention.is_floating_point():
        raise ValueError(
            f"log_attention of shape {tuple(log_attention.shape)} and type {log_attention.dtype}: "
            "expected floating point (B, K) or the map (B, h, w)"
        )
    if not log_attention.numel():
        raise ValueError(f"log_attention of shape {tuple(log_attention.shape)}: expected at least one image and one location")
    if log_attention.device.type == "mps":
        raise ValueError("attention on mps, which lacks the float64 in which locations are drawn: expected cpu or cuda")
    flat = log_attention.detach().flatten(1).to(_working_dtype(log_attention))
    locations = flat.shape[1]
    if not (is_whole(n) and n >= 1):
        raise ValueError(f"n = {n!r} locations to draw: expected a whole number n >= 1")
    if distinct and n > locations:
        raise ValueError(
            f"n = {n} distinct locations asked for, but attention has K = {locations}: draw n <= K, or with replacement"
        )
    if torch.compiler.is_compiling() or (_trusted.get() and not distinct):  # values are not known yet, or looked at elsewhere
        return flat
    possible = (flat > -math.inf).sum(1).min()
    total = flat.logsumexp(1)
    lowest, highest, fewest = torch.stack([total.min(), total.max(), possible.to(total.dtype)]).tolist()
    if math.isnan(lowest) or math.isnan(highest) or highest == math.inf:
        raise ValueError(
            "log_attention holds NaN or +inf: look for NaN in the image, at the attention network's output before the "
            "log_softmax, and at a prior's saliency, which must not be negative"
        )
    if lowest == -math.inf:
        raise ValueError("attention is zero at every location (log_attention is all -inf): expected it to sum to 1")
    _check_sum(lowest, highest, locations, log_attention.dtype)
    if distinct and n > fewest:
        raise ValueError(
            f"n = {n} distinct locations asked for, but only {int(fewest)} of {locations} have attention above zero: "
            "draw fewer, smooth the attention, let a mask allow more, or draw with repetition (systematic, with_replacement)"
        )
    return flat


def check_is_logarithm(log_attention: Float[Tensor, "*K"]) -> None:
    """Raise a ValueError for attention that cannot be a logarithm, as probabilities, which would look like a map of nothing."""
    if log_attention.numel() and (most := float(log_attention.max())) > 1e-5:  # but for rounding
        raise ValueError(f"log_attention of up to {most:.4g}: expected a logarithm, at most 0, as out.log_attention[0] is")


def _check_sum(lowest: float, highest: float, locations: int, given: torch.dtype) -> None:
    """Whether attention sums to one, by the least and the largest logarithm of the images' sums."""
    worst = lowest if abs(lowest) > abs(highest) else highest
    if abs(worst) > _NORMALISATION_TOLERANCE.get(given, 1e-3):
        raise ValueError(
            f"attention sums to {math.exp(min(worst, 700)):.4g} over its {locations} locations, expected 1: "
            "normalise with log_softmax over all of them"
        )


def _check_drawn(log_a: Float[Tensor, "B n"], given: torch.dtype, index: Int[Tensor, "B n"], distinct: bool) -> None:
    """What the drawn locations alone tell of attention that is no log-attention, and of a draw that is another estimator's.

    On the CPU only: a GPU would have to wait.
    """
    if not _can_look(log_a):
        return
    if distinct and (index.sort(1).values.diff(dim=1) == 0).any():
        raise ValueError("the draw holds a location twice: expected distinct ones, as this estimator's own sample() draws them")
    attention = log_a.detach().exp()
    most = (attention.sum(1) if distinct else attention.amax(1)).max().item() if attention.numel() else 0.0
    if most > math.exp(_NORMALISATION_TOLERANCE.get(given, 1e-3)):
        raise ValueError(
            f"attention of {most:.4g} at the locations drawn, expected at most 1: log_attention is to be the logarithm, "
            "normalised with log_softmax over all locations"
        )


def _can_look(values: Tensor) -> bool:
    """Whether looking at values costs nothing: not on a GPU, which would have to wait, nor where they are not known yet, in a
    compiled model or mapped by ``torch.func``, of which PyTorch has no public sign."""
    if not values.is_cpu or torch.compiler.is_compiling():
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(values)


def _check_draw(log_attention: Tensor, index: Tensor, features: Tensor) -> None:
    """Shapes only: nothing here looks at values, so that a GPU need not wait."""
    if index.ndim == 2 and not index.shape[1]:
        raise ValueError(f"index of shape {tuple(index.shape)} holds no location: expected n >= 1 for each image")
    if features.ndim != 3 or features.shape[:2] != index.shape:
        raise ValueError(
            f"features of shape {tuple(features.shape)} do not go with index of shape {tuple(index.shape)}: "
            f"expected (B, n, D) = ({', '.join(map(str, index.shape))}, D)"
        )
    if len(log_attention) != len(index):
        raise ValueError(
            f"log_attention is a batch of {len(log_attention)}, index of {len(index)}: expected the batch it was drawn from"
        )


def _working_dtype(log_attention: Tensor) -> torch.dtype:
    """float64 stays, everything else is worked on in float32: half precision cannot hold a small attention's logarithm."""
    return torch.float64 if log_attention.dtype == torch.float64 else torch.float32


def _normalised(log_attention: Tensor) -> Float[Tensor, "B K"]:
    """As ``(B, K)``, held constant and in at least float32, what half precision rounds made to sum to one again.

    So all estimators have the same target: those that weigh by 1/n draw from the normalised attention anyway.
    """
    flat = log_attention.detach().flatten(1).to(_working_dtype(log_attention))
    return flat if flat.dtype == log_attention.dtype else flat - flat.logsumexp(1, keepdim=True)


# ---------------------------------------------------------------------------------------------------------------------
# Masses and draws


def _log_masses(log_attention: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of :math:`a_{i_m}` and of the mass left before each draw, :math:`w_m = 1 - \\sum_{k<m} a_{i_k}`: (B, n) each.

    ``1 - cumsum`` cancels once attention is peaked: w_m is summed from what remains instead, the locations never drawn
    and the draws from m on. Where those drawn hold at most half of the mass nothing cancels, and on the CPU the pass over all
    locations is saved.
    """
    flat = _normalised(log_attention)
    log_a = flat.gather(1, index)  # (B, n)
    drawn = log_a.exp().sum(1)
    never_drawn = drawn.neg().log1p_()[:, None]  # (B, 1)
    if not _can_look(log_a):
        never_drawn = flat.scatter(1, index, -math.inf).logsumexp(1, keepdim=True)
    elif len(rows := (drawn > 0.5).nonzero()[:, 0]):
        never_drawn[rows] = flat[rows].scatter_(1, index[rows], -math.inf).logsumexp(1, keepdim=True)
    from_the_end = torch.cat([never_drawn, log_a.flip(1)], dim=1)  # (B, 1 + n)
    return log_a, from_the_end.logcumsumexp(1)[:, 1:].flip(1)


_trusted: ContextVar[bool] = ContextVar("trusted", default=False)


@contextmanager
def trusting(yes: bool = True) -> Iterator[None]:
    """Draw without a look at the attention's values, at which a GPU's host would have to wait: for who looks at the outcome.

    What draws distinct locations looks all the same whether there are as many with attention above zero.
    """
    before = _trusted.set(yes)
    try:
        yield
    finally:
        _trusted.reset(before)


def _cumulative(flat: Float[Tensor, "B K"], order: Int[Tensor, " K"] | None = None) -> Float[Tensor, "B K"]:
    """Cumulative attention, in ``order``. In float64: in float32 the tail of 32,400 locations would vanish in rounding."""
    attention = flat.exp()
    attention = attention if order is None else attention.index_select(1, order)
    if attention.device.type != "cpu" and torch.are_deterministic_algorithms_enabled():
        return _whole_cumsum(attention)  # a GPU adds floating point up in any order, which PyTorch then refuses
    return attention.cumsum(1, dtype=torch.float64)


def _whole_cumsum(attention: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """The cumulative sum in whole multiples of 2⁻⁵², whose order does not matter."""
    return (attention.double() * 2**52).round().long().cumsum(1).double() / 2**52


def _invert(
    cumulative: Float[Tensor, "B K"], points: Float[Tensor, "B n"], order: Int[Tensor, " K"] | None = None
) -> Int[Tensor, "B n"]:
    """Locations whose step of the cumulative attention covers each point of [0, 1)."""
    total = cumulative[:, -1:]
    below_total = torch.nextafter(total, torch.zeros_like(total))  # a point rounded up to the total would fall off the end
    position = torch.searchsorted(cumulative, torch.minimum(points * total, below_total), right=True)
    position = position.clamp(max=cumulative.shape[1] - 1)  # of NaN, which a compiled model does not look for, it is one too many
    return position if order is None else order[position]


def _gumbel_top(flat: Float[Tensor, "B K"], n: int, generator: torch.Generator | None) -> Int[Tensor, "B n"]:
    """The n largest of the log-attention plus independent Gumbels, largest first; locations of zero attention last."""
    # A standard Gumbel is -log E, with E = -log(1 - u) exponential. The largest keys belong to the smallest E, so u must
    # be finely resolved near zero and never be zero, or that location would be drawn whatever its attention: a
    # float32 uniform, a multiple of 2^-24, is zero once in 500 images of 180 x 180 locations. Take the middles
    # of 2^31 cells of (0, 1), scaled by 1 - 2^-24 so that the last ones do not round to one.
    bits = torch.empty(flat.shape, dtype=torch.int32, device=flat.device).random_(generator=generator)
    noise = bits.float().mul_(-(2.0**-31) * (1 - 2.0**-24)).sub_(2.0**-32)  # -u
    noise.log1p_().neg_().log_()  # log E, between -22.2 and 2.9
    return (flat - noise).topk(n, dim=1, sorted=True).indices


def curve_order(log_attention: Float[Tensor, "B *K"], order: str) -> Int[Tensor, " K"] | None:
    """The locations of the map in the order in which the curve visits them; None for raster order.

    Raises:
        ValueError: a Hilbert curve through attention that came flat: its map's shape is not known.
    """
    if order == "raster":
        return None
    if log_attention.ndim != 3:
        raise ValueError(
            f"log_attention of shape {tuple(log_attention.shape)} has no map to run a Hilbert curve through: "
            "pass it as (B, h, w), or use order='raster'"
        )
    curve = _hilbert_curve_on if math.prod(log_attention.shape[1:]) <= _SMALL_MAP else _large_hilbert_curve_on
    if torch.compiler.is_compiling():  # the compiler would trace the recursion, without its caches, for minutes
        curve = torch.compiler.disable(curve)
    return curve(log_attention.device, *log_attention.shape[1:])


@lru_cache(maxsize=32)
def _hilbert_curve_on(device: torch.device, height: int, width: int) -> Int[Tensor, " height*width"]:
    """The curve, made once, and copied to a GPU once; not to be changed."""
    with torch.inference_mode(False):  # kept, so that it must not be a tensor that no training may use
        return hilbert_curve(height, width).to(device)


# Of large maps the last one only: 32 of a thousand locations squared are 256 MB.
_SMALL_MAP = 2**17
_large_hilbert_curve_on = lru_cache(maxsize=1)(_hilbert_curve_on.__wrapped__)


def hilbert_curve(height: int, width: int) -> Int[Tensor, " height*width"]:
    """Row-major indices of a ``height × width`` map along a Hilbert curve, generalised to any rectangle.

    Successive locations touch (by a side; at odd sizes, a few by a corner), and a stretch of the curve fills a compact
    region, so that equal steps along it are spread evenly over the map.

    Raises:
        ValueError: a side below 1.

    Source: the recursion of J. Červený, *Generalized Hilbert space-filling curve for rectangular domains*, 2018.

    >>> hilbert_curve(2, 2).tolist()
    [0, 2, 3, 1]
    """
    if min(height, width) < 1:
        raise ValueError(f"a map of {height} × {width}: expected at least one location")
    if width >= height:
        x, y = _hilbert(width, height)
    else:
        y, x = _hilbert(height, width)
    _hilbert.cache_clear()  # blocks of one curve are alike; those of another map would pile up
    return y * width + x


@cache
def _hilbert(width: int, height: int) -> tuple[Tensor, Tensor]:
    """The curve through a width × height block from its corner (0, 0) to its corner (width - 1, 0): x and y."""
    if height == 1 or width == 1:
        step = torch.arange(max(width, height))
        return (step, torch.zeros_like(step)) if height == 1 else (torch.zeros_like(step), step)
    if 2 * width > 3 * height:  # long: two blocks side by side, of even width where possible
        half = width // 2 + (width // 2 % 2 if width > 2 else 0)
        (x1, y1), (x2, y2) = _hilbert(half, height), _hilbert(width - half, height)
        return torch.cat([x1, x2 + half]), torch.cat([y1, y2])
    # One step up on the left, all the way across above, one step down on the right.
    up = height // 2 + (height // 2 % 2 if height > 2 else 0)
    left = width // 2
    (y1, x1), (x2, y2), (y3, x3) = _hilbert(up, left), _hilbert(width, height - up), _hilbert(up, width - left)
    return torch.cat([x1, x2, width - 1 - x3]), torch.cat([y1, y2 + up, up - 1 - y3])


# ---------------------------------------------------------------------------------------------------------------------
# What users ask for by name

ESTIMATORS: dict[str, Estimator] = {
    estimator.name: estimator
    for estimator in (
        WithReplacement(), Eq14(), DesRaj(), Murthy(), Systematic(), Stratified(), PPS(), LegacyIdiap(), LegacyPort()
    )
}
# It costs what independent draws cost, takes any number of patches, and on maps with objects has the least error that chapter 5
# measures at that cost. Where the standard error of a draw is needed, it is to be another.
DEFAULT_ESTIMATOR = "systematic"


def get_estimator(estimator: str | Estimator) -> Estimator:
    """The estimator of that name, or the one given: ``get_estimator("des_raj")``, ``get_estimator(Systematic("raster"))``.

    Raises:
        ValueError: there is no estimator of that name.
    """
    if isinstance(estimator, Estimator):
        return estimator
    if not isinstance(estimator, str) or estimator not in ESTIMATORS:
        raise ValueError(f"unknown estimator {estimator!r}: expected one of {', '.join(ESTIMATORS)}")
    return ESTIMATORS[estimator]


def entropy(log_attention: Float[Tensor, "B *K"]) -> Float[Tensor, " B"]:
    """Entropy of each attention distribution in nats, :math:`H(a) = -\\sum_i a_i \\log a_i` (eq. 21).

    Ranges from 0 (one location) to log K (uniform); of half precision it is that of the attention made to sum to one again, as
    the estimators' weights are. Locations of zero attention contribute nothing, nor do they to the gradient by the log-attention.
    (By an ``a`` of which the caller took the logarithm, the gradient at a = 0 is NaN: 0 times the logarithm's infinite slope.)

    Raises:
        ValueError: on the CPU, attention that does not sum to one, because it is no logarithm, say, or logits.
    """
    flat = log_attention.flatten(1).to(_working_dtype(log_attention))
    if _can_look(flat) and flat.numel():
        total = flat.detach().logsumexp(1)
        _check_sum(total.min().item(), total.max().item(), flat.shape[1], log_attention.dtype)
    if flat.dtype != log_attention.dtype:
        flat = flat - flat.logsumexp(1, keepdim=True)  # with its gradient, unlike _normalised()
    return -(flat.exp() * flat.clamp(min=torch.finfo(flat.dtype).min)).sum(1)
