"""Attention sampling within attention sampling, for images whose small view is still too large or shows too little.

The paper ends with it: "a nested model of attention sampling can be used to efficiently learn to discover informative regions
and classify up to gigapixel images using a single GPU" (§5). It gives no model; this is the plain one, the same sum twice.

>>> import torch
>>> from torch import nn
>>> from atslib.models import AttentionSampling
>>> from atslib.networks import Classifier, LeNetFeatures, MegapixelMNISTAttention
>>> within = AttentionSampling(MegapixelMNISTAttention(), LeNetFeatures(), nn.Identity(), patch_size=50, n_patches=2, scale=0.12)
>>> model = NestedSampling(MegapixelMNISTAttention(), within, Classifier(32, 10), region_size=720, n_regions=5, scale=0.01)
>>> out = model(torch.zeros(1, 1, 6000, 6000, dtype=torch.uint8))
>>> tuple(out.logits.shape), tuple(out.log_attention.shape), tuple(out.index.shape)  # of the regions
((1, 10), (1, 60, 60), (1, 5))
>>> tuple(out.within.log_attention.shape), tuple(out.within.index.shape)  # of the patches in each
((5, 86, 86), (5, 2))
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from atslib.arguments import is_whole
from atslib.estimators import DEFAULT_ESTIMATOR, Estimator, WithReplacement
from atslib.models import AttentionSampling, Output
from atslib.patches import ImageSource, low_size, pair


class NestedSampling(AttentionSampling):
    """Classify a huge image from its view, the views of a few regions, and a few patches in each of them.

    .. math::  \\Psi(x) = g\\Big(\\sum_m a_m \\sum_k b_{k|m}\\, f\\bigl(P(R(x, m), k)\\bigr)\\Big), \\qquad
               a = a(V(x, s)), \\quad b_{\\cdot|m} = b\\bigl(V(R(x, m), s')\\bigr)

    where :math:`R(x, m)` is the region around location m of the map of the whole. The inner sum is the feature of a region;
    ``within``, itself an :class:`~atslib.models.AttentionSampling`, estimates it, and the outer sum is estimated from the drawn
    regions' estimates. With unbiased estimators at both levels the pooled feature and its gradient are unbiased: both are linear
    in the regions' features, which, given the regions, are right on average. ``within`` may be nested again.

    The entropy of eq. 21 becomes that of the pair, :math:`H(a) + \\sum_m a_m H(b_{\\cdot|m})`; its second part is one more
    thing pooled over regions and estimated from the same draw (:meth:`atslib.models.Output.entropy`).

    Args:
        attention: network for the view of the whole, as for :class:`~atslib.models.AttentionSampling`.
        within: looks at each region; its classifier is to be ``nn.Identity()``, since what is asked of it is the pooled feature.
        classifier: network from the pooled feature ``(B, D)`` to logits ``(B, classes)``.
        region_size: in image pixels, one number or (height, width). A region should show all that it was chosen for: it should be
            as wide as what the attention network sees around a location, ``attention.receptive_field / scale``. Patches at its
            border see nothing of the image beyond it, but ``within.fill``.
        n_regions: M, regions looked at in each image.
        scale: size of the view of the whole, relative to the image.
        estimator: of the outer sum; the inner one is ``within``'s.
        fill: value of a region's pixels outside the image.

    Raises:
        ValueError: ``within`` is not an AttentionSampling, or classifies, or its patches are larger than a region; and as
            :class:`~atslib.models.AttentionSampling` does.

    Source: §5 of the paper names the idea; the conditional attention is the hierarchical softmax of one pair (region, location).
    """

    def __init__(
        self,
        attention: nn.Module,
        within: AttentionSampling,
        classifier: nn.Module,
        region_size: int | tuple[int, int],
        n_regions: int = 5,
        scale: float = 0.03,
        estimator: str | Estimator = DEFAULT_ESTIMATOR,
        fill: float = 0,
    ):
        if not isinstance(within, AttentionSampling):
            raise ValueError(f"within={type(within).__name__}: expected an AttentionSampling, which looks at each region")
        if not isinstance(within.classifier, nn.Identity):
            raise ValueError(
                f"within classifies, by {type(within.classifier).__name__}: expected classifier=nn.Identity(); only what is "
                "pooled over all regions is classified"
            )
        if not (is_whole(n_regions) and n_regions >= 1):
            raise ValueError(f"n_regions={n_regions!r}: expected a whole number, at least 1")
        region, patch = pair(region_size), pair(within.patch_size)
        if patch[0] > region[0] or patch[1] > region[1]:
            raise ValueError(
                f"patches of {patch[0]} × {patch[1]} in regions of {region[0]} × {region[1]}: expected regions that hold a patch"
            )
        super().__init__(attention, within, classifier, region_size, n_regions, scale, estimator, fill)

    @property
    def within(self) -> AttentionSampling:
        """What looks at each region."""
        return self.features

    @property
    def share_equal(self) -> bool | None:
        """That of :attr:`within`, since it is patches that are shared. Regions are not, since what is drawn in each differs."""
        return self.within.share_equal

    @share_equal.setter
    def share_equal(self, share_equal: bool | None) -> None:
        self.within.share_equal = share_equal

    @property
    def n_regions(self) -> int:
        """M, another name of ``n_patches``, since regions take the place of patches in this model."""
        return self.n_patches

    @n_regions.setter
    def n_regions(self, n_regions: int) -> None:
        self.n_patches = n_regions

    def forward(
        self,
        image: Shaped[Tensor, "B C H W"] | ImageSource,
        low: Float[Tensor, "B C h w"] | None = None,
        *,
        log_attention: Float[Tensor, "B h2 w2"] | None = None,
        n_patches: int | None = None,
        return_patches: bool = False,
        generator: torch.Generator | None = None,
    ) -> Output:
        """Look at the whole, at regions, at patches, and answer.

        Args:
            image: the full-resolution images. Of one that lies in a file (``torch.from_numpy(numpy.memmap(…))``) only the drawn
                regions are read, if ``low`` is given.
            low: their low-resolution views, where they are at hand: of an image pyramid, say.
            log_attention: that over the regions, with its view, as for :class:`atslib.models.AttentionSampling`.
            n_patches: overrides the number of regions, M; the patches in each are ``within``'s.
            return_patches: put the patches into the output's ``within``, and the regions into the output.
            generator: source of randomness of both draws.

        Returns:
            ``index`` and ``log_attention`` are of the regions. ``within`` is the output of the inner model for all regions, the
            images' regions one after the other, ``B·M`` in all. ``stderr`` is given for regions drawn with replacement: only of
            independent ones does the spread tell what both levels contribute.

        Raises:
            ValueError: as :meth:`atslib.models.AttentionSampling.forward` does, of either level.
        """
        view_size, log_attention, index, regions = self._draw(image, low, n_patches, generator, log_attention)
        # (B, h, w), (B, M), (B, M, C, r, r)
        within = self.within(regions.flatten(0, 1), return_patches=return_patches, generator=generator)
        features = within.pooled.unflatten(0, index.shape)  # (B, M, D)
        entropies = within.entropy().unflatten(0, index.shape)[..., None]  # (B, M, 1)
        pooled = self.estimator(log_attention, index, features)
        return Output(
            logits=self._classify(pooled),
            log_attention=log_attention,
            index=index,
            pooled=pooled,
            stderr=self.estimator.stderr(log_attention, index, features) if isinstance(self.estimator, WithReplacement) else None,
            patches=regions if return_patches else None,
            within=within,
            within_entropy=self.estimator(log_attention, index, entropies)[:, 0],
            view_size=view_size,
        )

    def within_top_left(
        self, image: Shaped[Tensor, "B C H W"] | ImageSource, out: Output, low: Float[Tensor, "B C h w"] | None = None
    ) -> Int[Tensor, "B M N 2"]:
        """Row and column in the image of the first pixel of each patch of each region, as :meth:`top_left` has the regions'.

        What lies outside its region, a patch has not seen; there it holds ``within.fill``.
        """
        regions = self.top_left(image, out, low)  # (B, M, 2)
        region = pair(self.patch_size)
        size = out.within.view_size or low_size(region, self.within.scale)
        geometry = self.within._geometry_of(region, size, tuple(out.within.log_attention.shape[1:]))
        return regions[:, :, None] + geometry.top_left(out.within.index).unflatten(0, out.index.shape)

    def exact(
        self, image: Shaped[Tensor, "B C H W"] | ImageSource, low: Float[Tensor, "B C h w"] | None = None, *, chunk: int = 512
    ) -> Output:
        """The full model: every patch of every region, weighed by the attention at both levels.

        For checks on small images: what lies in several regions is looked at once in each.

        Args:
            chunk: at most so many regions at a time, and so many patches of these.
        """
        low, log_attention = self.attend(image, low)
        pooled = spread = 0
        for attention, regions in self._everywhere(image, low, log_attention, chunk):
            within = self.within.exact(regions.flatten(0, 1), chunk=chunk)
            pooled = pooled + (attention[..., None] * within.pooled.unflatten(0, attention.shape)).sum(1)
            spread = spread + (attention * within.entropy().unflatten(0, attention.shape)).sum(1)
        logits, view_size = self._classify(pooled), tuple(low.shape[2:])
        return Output(logits, log_attention, index=None, pooled=pooled, within_entropy=spread, view_size=view_size)

    def extra_repr(self) -> str:
        return (
            f"region_size={self.patch_size}, n_regions={self.n_patches}, scale={self.scale}, estimator={self.estimator}, "
            f"fill={self.fill}"
        )
