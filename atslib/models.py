"""The model of the paper: attention on a small view, features of a few full-resolution patches, one classifier.

>>> import torch
>>> from atslib.networks import Classifier, LeNetFeatures, MegapixelMNISTAttention
>>> model = AttentionSampling(MegapixelMNISTAttention(), LeNetFeatures(), Classifier(32, 10), patch_size=50, n_patches=10)
>>> image = torch.zeros(1, 1, 1500, 1500, dtype=torch.uint8)
>>> out = model(image)
>>> tuple(out.logits.shape), tuple(out.log_attention.shape), tuple(out.index.shape)
((1, 10), (1, 180, 180), (1, 10))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from atslib.estimators import DEFAULT_ESTIMATOR, Estimator, get_estimator
from atslib.patches import PatchGeometry, check_aspect, downsample, extract_patches, low_size


@dataclass
class Output:
    """What a model says about a batch of images.

    Attributes:
        logits: class scores, ``(B, classes)``.
        log_attention: normalised log-attention over the map, ``(B, h, w)``.
        index: the locations looked at, row-major in the map, ``(B, N)``; None where all were.
        pooled: the (estimated) attention-weighted feature that was classified, ``(B, D)``.
        stderr: standard error of ``pooled`` due to the sampling, ``(B, D)``, where the estimator can tell.
        patches: what was seen at ``index``, ``(B, N, C, h, w)``, on request.
    """

    logits: Float[Tensor, "B classes"]
    log_attention: Float[Tensor, "B h w"]
    index: Int[Tensor, "B N"] | None
    pooled: Float[Tensor, "B D"]
    stderr: Float[Tensor, "B D"] | None = None
    patches: Shaped[Tensor, "B N C h w"] | None = None


class AttentionSampling(nn.Module):
    """Classify a large image from its low-resolution view and ``n_patches`` patches (eqs. 19 and 20).

    .. math::  \\Psi(x) = g\\Big(\\sum_i a(V(x, s))_i\\, f(P(x, i))\\Big) \\approx g(z)

    where :math:`V(x, s)` is the view at ``scale`` s, a the attention, P(x, i) the patch around location i, f the features, g
    the classifier, and z the estimate of the sum from the drawn patches (:mod:`atslib.estimators`). Sampling goes on in
    evaluation mode: it is what makes the model cheap. :meth:`exact` computes the sum itself.

    Args:
        attention: network from the view ``(B, C, h, w)`` to logits ``(B, h', w')``, with attributes ``stride``, ``padding`` and
            ``receptive_field`` (:class:`atslib.networks.AttentionNetwork` has them).
        features: network from patches ``(M, C, p, p)`` to features ``(M, D)``, of unit length for least variance.
        classifier: network from the pooled feature ``(B, D)`` to logits ``(B, classes)``.
        patch_size: in image pixels, one number or (height, width).
        n_patches: N, patches looked at in each image.
        scale: size of the view relative to the image.
        estimator: a name in :data:`atslib.estimators.ESTIMATORS`, or an estimator.
        fill: value of patch pixels outside the image, in the image's own range.

    Images may be ``uint8`` (0 … 255), which the networks see as [0, 1] and which is never converted as a whole, or floating
    point, which they see as it is.
    """

    def __init__(
        self,
        attention: nn.Module,
        features: nn.Module,
        classifier: nn.Module,
        patch_size: int | tuple[int, int] = 50,
        n_patches: int = 10,
        scale: float = 0.12,
        estimator: str | Estimator = DEFAULT_ESTIMATOR,
        fill: float = 0,
    ):
        super().__init__()
        if n_patches < 1:
            raise ValueError(f"n_patches={n_patches}: expected at least 1")
        if not 0 < scale <= 1:
            raise ValueError(f"scale={scale}: expected a number in (0, 1], the view's size relative to the image")
        for attribute in ("stride", "padding", "receptive_field"):
            if not hasattr(attention, attribute):
                raise ValueError(
                    f"the attention network {type(attention).__name__} has no attribute {attribute!r}: wrap its layers in "
                    "atslib.networks.AttentionNetwork, which works out its geometry, or set stride, padding and receptive_field"
                )
        self.attention, self.features, self.classifier = attention, features, classifier
        self.patch_size, self.n_patches, self.scale, self.fill = patch_size, n_patches, scale, fill
        self.estimator = get_estimator(estimator)

    def forward(
        self,
        image: Shaped[Tensor, "B C H W"],
        low: Float[Tensor, "B C h w"] | None = None,
        *,
        n_patches: int | None = None,
        return_patches: bool = False,
        generator: torch.Generator | None = None,
    ) -> Output:
        """Look and answer.

        Args:
            image: the full-resolution images.
            low: their low-resolution views, where they are at hand; else they are computed.
            n_patches: overrides the model's N: looking more often needs no retraining.
            return_patches: put what was seen into the output.
            generator: source of randomness of the draw.

        Raises:
            ValueError: an image of the wrong rank, a view of another aspect, a patch larger than the image, more distinct
                patches than locations, attention that is not finite.
        """
        low, log_attention = self._attend(image, low)
        geometry = self.geometry(image, low, log_attention)
        n = self.n_patches if n_patches is None else n_patches
        index = self.estimator.sample(log_attention, n, generator=generator)  # (B, N)
        seen = extract_patches(image, geometry.top_left(index), self.patch_size, fill=self.fill)  # (B, N, C, h, w)
        features = self._features(seen)  # (B, N, D)
        pooled = self.estimator(log_attention, index, features)
        return Output(
            logits=self.classifier(pooled),
            log_attention=log_attention,
            index=index,
            pooled=pooled,
            stderr=self.estimator.stderr(log_attention, index, features),
            patches=seen if return_patches else None,
        )

    def exact(
        self, image: Shaped[Tensor, "B C H W"], low: Float[Tensor, "B C h w"] | None = None, *, chunk: int = 512
    ) -> Output:
        """The full model (eq. 1): the features of all K locations, weighed by the attention.

        Differentiable; without gradients, memory is bounded by ``chunk`` patches at a time. This is what attention sampling
        avoids: K is 32,400 in the paper's first experiment.
        """
        low, log_attention = self._attend(image, low)
        geometry = self.geometry(image, low, log_attention)
        attention = log_attention.flatten(1).exp()  # (B, K)
        per_image = max(1, chunk // len(image))
        pooled = 0
        for index in torch.arange(attention.shape[1], device=image.device).split(per_image):
            index = index.expand(len(image), -1)  # (B, chunk)
            seen = extract_patches(image, geometry.top_left(index), self.patch_size, fill=self.fill)
            pooled = pooled + (attention.gather(1, index)[..., None] * self._features(seen)).sum(1)
        return Output(logits=self.classifier(pooled), log_attention=log_attention, index=None, pooled=pooled)

    def view(self, image: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """The low-resolution view from which attention is computed, :math:`V(x, s)`."""
        _check_image(image)
        return downsample(image, low_size(image.shape[2:], self.scale))

    def geometry(self, image: Tensor, low: Tensor, log_attention: Tensor) -> PatchGeometry:
        """Where in the image each location of the attention map lies."""
        return PatchGeometry(
            image_size=tuple(image.shape[2:]),
            low_size=tuple(low.shape[2:]),
            map_size=tuple(log_attention.shape[1:]),
            patch_size=self.patch_size,
            stride=self.attention.stride,
            padding=self.attention.padding,
            receptive_field=self.attention.receptive_field,
        )

    def _attend(self, image: Tensor, low: Tensor | None) -> tuple[Tensor, Tensor]:
        """The view and the log-attention over its map, (B, h, w), in float32 whatever the autocast."""
        _check_image(image)
        if low is None:
            low = self.view(image)
        elif low.ndim != 4 or low.shape[:2] != image.shape[:2]:
            raise ValueError(
                f"low-resolution view of shape {tuple(low.shape)} for an image of shape {tuple(image.shape)}: "
                "expected the same batch and channels, (B, C, h, w)"
            )
        check_aspect(tuple(image.shape[2:]), tuple(low.shape[2:]))
        logits = self.attention(low)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return low, logits.flatten(1).log_softmax(1).view_as(logits)

    def _features(self, patches: Shaped[Tensor, "B N C h w"]) -> Float[Tensor, "B N D"]:
        flat = patches.flatten(0, 1)
        if flat.dtype == torch.uint8:
            flat = flat.to(torch.get_default_dtype()) / 255
        features = self.features(flat)
        return features.view(*patches.shape[:2], -1)

    def extra_repr(self) -> str:
        return f"patch_size={self.patch_size}, n_patches={self.n_patches}, scale={self.scale}, estimator={self.estimator}"


def _check_image(image: Tensor) -> None:
    if image.ndim != 4:
        raise ValueError(f"image of shape {tuple(image.shape)}: expected rank 4, (B, C, H, W); add the axes it lacks")
    if not (image.is_floating_point() or image.dtype == torch.uint8):
        raise ValueError(f"image of type {image.dtype}: expected uint8 or floating point")
