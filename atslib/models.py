"""The model of the paper: attention on a small view, features of a few full-resolution patches, one classifier.

And what the paper compares it with: :class:`UniformSampling` (patches from anywhere), :class:`DeepMIL` (all patches of a grid),
:class:`DownsampledCNN` (one network for the image as a whole). All are called alike, ``model(image, generator=None)``, with
uint8 or floating-point images ``(B, C, H, W)``, and return an :class:`Output`, so that an experiment swaps them by name.

>>> import torch
>>> from atslib.networks import Classifier, LeNetFeatures, MegapixelMNISTAttention
>>> model = AttentionSampling(MegapixelMNISTAttention(), LeNetFeatures(), Classifier(32, 10), patch_size=50, n_patches=10)
>>> image = torch.zeros(1, 1, 1500, 1500, dtype=torch.uint8)
>>> out = model(image)
>>> tuple(out.logits.shape), tuple(out.log_attention.shape), tuple(out.index.shape)
((1, 10), (1, 180, 180), (1, 10))
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from atslib.arguments import is_whole
from atslib.dependence import counts_batch, depends_on
from atslib.estimators import DEFAULT_ESTIMATOR, Estimator, entropy, get_estimator
from atslib.networks import UniformAttention, check_geometry
from atslib.patches import ImageSource, PatchGeometry, check_aspect, distinct_patches, downsample, extract_patches, low_size, pair
from atslib.warned import warn

_LOOKED_AT: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # attention networks whose first answer has been checked
_MEASURED: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # models of which it is known whether they see the image's rim


@dataclass
class Output:
    """What a model says about a batch of images.

    Attributes:
        logits: class scores, ``(B, classes)``.
        log_attention: normalised log-attention over the map, or over the grid of patches, ``(B, h, w)``; None where a model has
            none (:class:`DownsampledCNN`): no entropy is to be added to its loss.
        index: the locations looked at, row-major in the map, ``(B, N)``; None where all were.
        pooled: the (estimated) attention-weighted feature that was classified, ``(B, D)``.
        stderr: standard error of ``pooled`` due to the sampling, ``(B, D)``, where the estimator can tell: with replacement, Des
            Raj, Murthy.
        patches: what was seen at ``index``, ``(B, N, C, h, w)``, on request.
        within: of a nested model (:class:`atslib.nested.NestedSampling`): what the inner model says about the regions.
        within_entropy: of a nested model: the estimate of the mean entropy of the inner model's attention, ``(B,)``.
        view_size: height and width of the view that the attention saw; None where it saw none, or where a model of one's own
            does not say: then it is taken to be the image's at the model's scale.
    """

    logits: Float[Tensor, "B classes"]
    log_attention: Float[Tensor, "B h w"] | None
    index: Int[Tensor, "B N"] | None
    pooled: Float[Tensor, "B D"]
    stderr: Float[Tensor, "B D"] | None = None
    patches: Shaped[Tensor, "B N C h w"] | None = None
    within: Output | None = None
    within_entropy: Float[Tensor, " B"] | None = None
    view_size: tuple[int, int] | None = None

    def entropy(self) -> Float[Tensor, " B"] | None:
        """Entropy of the attention in nats, H(a) of eq. 21; None where a model has none.

        Of a nested model that of region and location together, by the chain rule :math:`H(a) + \\sum_m a_m H(b_{\\cdot|m})`.
        """
        if self.log_attention is None:
            return None
        own = entropy(self.log_attention)
        return own if self.within_entropy is None else own + self.within_entropy


class AttentionSampling(nn.Module):
    """Classify a large image from its low-resolution view and ``n_patches`` patches (eqs. 19 and 20).

    .. math::  \\Psi(x) = g\\Big(\\sum_i a(V(x, s))_i\\, f(P(x, i))\\Big) \\approx g(z)

    where :math:`V(x, s)` is the view at ``scale`` s, a the attention, P(x, i) the patch around location i, f the features, g
    the classifier, and z the estimate of the sum from the drawn patches (:mod:`atslib.estimators`). Sampling goes on in
    evaluation mode: it is what makes the model cheap. :meth:`exact` computes the sum itself.

    Args:
        attention: network from the view ``(B, C, h, w)`` to logits ``(B, h', w')``, with attributes ``stride``, ``padding`` and
            ``receptive_field`` (:class:`atslib.networks.AttentionNetwork` has them).
        features: network from patches ``(M, C, p, p)`` to features ``(M, D)``, of unit length for least variance. The patches
            lie channels last in memory, so that it needs ``flatten`` or ``reshape`` where it might have had ``view``.
        classifier: network from the pooled feature ``(B, D)`` to logits ``(B, classes)``.
        patch_size: in image pixels, one number or (height, width).
        n_patches: N, patches looked at in each image.
        scale: size of the view relative to the image.
        estimator: a name in :data:`atslib.estimators.ESTIMATORS`, or an estimator.
        fill: value of patch pixels outside the image, in the image's own range.

    Attributes:
        share_equal: whether the features of equal patches are computed once. Values and gradients are the same up to rounding,
            and a draw costs as much as it shows different patches: sharp attention draws the same locations again and again, and
            empty ground is the same everywhere. None, as a model begins, for patches on the CPU; on a GPU the host has to wait
            for the number of patches. Where it would change the result nothing is shared: images with a gradient, and features
            that depend on more than the patch itself (batch normalisation by the batch's own statistics, dropout). The first call
            in each mode finds that out with patches of noise (:func:`atslib.dependence.depends_on`). Where a network has a
            generator of its own, or a branch that is silent at first, set this to False: it may not be found out.

    Raises:
        ValueError: a size or a number of patches that is none, a scale outside (0, 1], an attention network without geometry, an
            unknown estimator.

    Images may be ``uint8`` (0 … 255), which the networks see as [0, 1] and which is never converted as a whole, or floating
    point, which they see as it is. Those that lie in a file and are too large to be read are given as an
    :class:`atslib.data.ImagePyramid`.
    """

    share_equal: bool | None = None

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
        pair(patch_size)  # or a ValueError
        _check_is_number(fill)
        if not (is_whole(n_patches) and n_patches >= 1):
            raise ValueError(f"n_patches={n_patches!r}: expected a whole number, at least 1")
        _check_scale(scale)
        check_geometry(attention)
        self.attention, self.features, self.classifier = attention, features, classifier
        self.patch_size, self.n_patches, self.scale, self.fill = patch_size, int(n_patches), scale, fill
        self.estimator = estimator
        if (apart := attention.stride / scale) > min(pair(patch_size)) * (1 + 1e-9):  # and not by rounding
            warn(
                f"locations {apart:.4g} pixels apart (stride {attention.stride} of the attention network at scale {scale:.4g}) "
                f"for patches of {patch_size}: parts of the image lie between them, and no patch can show those"
            )

    @property
    def estimator(self) -> Estimator:
        """How locations are drawn and weighed; may be set to another, or to another's name."""
        return self._estimator

    @estimator.setter
    def estimator(self, estimator: str | Estimator) -> None:
        self._estimator = get_estimator(estimator)

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
        """Look and answer.

        Args:
            image: the full-resolution images.
            low: their low-resolution views, where they are at hand (a level of an image pyramid, say); else they are computed. As
                with the images, uint8 is read as [0, 1]. Their channels are the attention network's and need not be the image's.
            log_attention: to look again without computing it again: view and log-attention as :meth:`attend` returned them of
                these images, ``low, log_attention = model.attend(image)``.
            n_patches: overrides the model's N: looking more often needs no retraining.
            return_patches: put what was seen into the output.
            generator: source of randomness of the draw. Give none under ``torch.utils.checkpoint``, which calls the model twice
                and restores PyTorch's own generators only: the gradient would be that of other patches.

        Raises:
            ValueError: an image of the wrong rank, a view of another aspect, a patch larger than the image, more distinct
                patches than locations, attention that is not finite, features that are not one vector a patch; log-attention
                without its view, or of another batch.
        """
        view_size, log_attention, index, seen = self._draw(image, low, n_patches, generator, log_attention)
        # A network that begins with an operation in place would change what is to be returned.
        features = self._features(seen.clone() if return_patches else seen)  # (B, N, D)
        pooled = self.estimator(log_attention, index, features)
        return Output(
            logits=self._classify(pooled),
            log_attention=log_attention,
            index=index,
            pooled=pooled,
            stderr=self.estimator.stderr(log_attention, index, features),
            patches=seen if return_patches else None,
            view_size=view_size,
        )

    def exact(
        self, image: Shaped[Tensor, "B C H W"] | ImageSource, low: Float[Tensor, "B C h w"] | None = None, *, chunk: int = 512
    ) -> Output:
        """The full model (eq. 1): the features of all K locations, weighed by the attention.

        Differentiable; without gradients, memory is bounded by ``chunk`` patches at a time. This is what attention sampling
        avoids: K is 32,400 in the paper's first experiment.

        Raises:
            ValueError: as :meth:`forward`; a chunk that is no number of patches; batch normalisation in training mode, if there
                are several chunks.
        """
        _check_chunk(chunk)
        low, log_attention = self.attend(image, low)
        pooled = 0
        for attention, seen in self._everywhere(image, low, log_attention, chunk):
            pooled = pooled + (attention[..., None] * self._features(seen)).sum(1)
        logits, view_size = self._classify(pooled), tuple(low.shape[2:])
        return Output(logits=logits, log_attention=log_attention, index=None, pooled=pooled, view_size=view_size)

    def view(self, image: Shaped[Tensor, "B C H W"] | ImageSource) -> Float[Tensor, "B C h w"]:
        """The low-resolution view from which attention is computed, :math:`V(x, s)`."""
        _check_image(image)
        return downsample(image, low_size(image.shape[2:], self.scale))

    def attend(
        self, image: Shaped[Tensor, "B C H W"] | ImageSource, low: Float[Tensor, "B C h w"] | None = None
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B h2 w2"]]:
        """The view, and the log-attention over its map in float32, whatever the autocast: a heat map, without any patch.

        Raises:
            ValueError: an image of the wrong rank or type, a view of another aspect or batch.
        """
        _check_image(image)
        if low is None:
            low = self.view(image)
        else:
            if low.ndim != 4 or len(low) != len(image):
                raise ValueError(
                    f"low-resolution view of shape {tuple(low.shape)} for an image of shape {tuple(image.shape)}: "
                    "expected the same batch, (B, C, h, w)"
                )
            if not (low.is_floating_point() or low.dtype == torch.uint8):
                raise ValueError(f"low-resolution view of type {low.dtype}: expected uint8 or floating point")
            low = _as_unit(low)
        check_aspect(tuple(image.shape[2:]), tuple(low.shape[2:]))
        if min(low.shape[2:]) + 2 * self.attention.padding < self.attention.receptive_field:
            raise ValueError(
                f"view of {low.shape[2]} × {low.shape[3]} pixels: smaller than the receptive field of the attention network, "
                f"{self.attention.receptive_field}, so there is no location; use a larger scale"
            )
        seen = _for(self.attention, low)
        if next(self.attention.parameters(), None) is None:  # where its map is to be, only the features can say
            seen = seen.to(_home(self.features, seen))
        # A network that begins with an operation in place would change what is returned, or the caller's. (It can change nothing
        # that is expanded, as the view of uniform sampling.)
        own = seen.clone() if seen is low and 0 not in seen.stride() else seen
        logits = _applied(self.attention, own, "attention network")
        if logits.ndim != 3 or len(logits) != len(low):
            raise ValueError(
                f"the attention network returned shape {tuple(logits.shape)} for a view of {tuple(low.shape)}: expected a map of "
                "logits (B, h, w); of a last convolution's (B, 1, h, w) take [:, 0]"
            )
        _warn_of_softmax(self.attention, logits)
        return low, _log_softmax(logits)

    def geometry(
        self,
        image: Shaped[Tensor, "B C H W"] | ImageSource,
        low: Float[Tensor, "B C h w"] | Output,
        log_attention: Float[Tensor, "B h2 w2"] | None = None,
    ) -> PatchGeometry:
        """Where in the image each location of the attention map lies.

        Args:
            image: that was looked at; only its size is.
            low, log_attention: view and log-attention as :meth:`attend` returned them; or, in place of both, what the model said
                about the image.

        Raises:
            ValueError: an image of the wrong rank or type; a view without log-attention, or an output with none.
        """
        _check_image(image)
        size = tuple(image.shape[2:])
        if isinstance(low, Output):
            view_size, log_attention = low.view_size or low_size(size, self.scale), low.log_attention
        else:
            view_size = tuple(low.shape[2:])
        if log_attention is None:
            raise ValueError("no log-attention: expected it beside the view, or an output that has it")
        return self._geometry_of(size, view_size, tuple(log_attention.shape[1:]))

    def _geometry_of(self, image_size: tuple[int, int], view_size: tuple[int, int], map_size: tuple[int, int]) -> PatchGeometry:
        return PatchGeometry(
            image_size=image_size,
            low_size=view_size,
            map_size=map_size,
            patch_size=self.patch_size,
            stride=self.attention.stride,
            padding=self.attention.padding,
            receptive_field=self.attention.receptive_field,
        )

    def top_left(
        self, image: Shaped[Tensor, "B C H W"] | ImageSource, out: Output, low: Float[Tensor, "B C h w"] | None = None
    ) -> Int[Tensor, "B N 2"]:
        """Row and column in the image of the first pixel of each patch that was looked at; may lie outside.

        Args:
            image: that was looked at; only its size is.
            out: what the model said about it.
            low: the view, where one was given that an output of a model of one's own does not tell of.

        Raises:
            ValueError: an image of the wrong rank or type; an output without locations, as that of :meth:`exact`.
        """
        if out.index is None or out.log_attention is None:
            raise ValueError("an output without locations: expected that of a call that has drawn some")
        given = out if low is None else low
        return self.geometry(image, given, None if low is None else out.log_attention).top_left(out.index)

    def shares_equal_on(self, device: str | torch.device) -> bool:
        """What ``share_equal`` comes to for patches there, if the features depend on nothing but the patch."""
        return torch.device(device).type == "cpu" if self.share_equal is None else self.share_equal

    def _draw(
        self,
        image: Tensor,
        low: Tensor | None,
        n_patches: int | None,
        generator: torch.Generator | None,
        log_attention: Tensor | None = None,
    ) -> tuple[tuple[int, int], Float[Tensor, "B h2 w2"], Int[Tensor, "B N"], Shaped[Tensor, "B N C h w"]]:
        """The size of the view, log-attention, the locations drawn from it, and what is seen there."""
        if generator is not None and not isinstance(generator, torch.Generator):
            raise ValueError(f"generator={generator!r}: expected a torch.Generator, torch.Generator().manual_seed(0) say")
        if log_attention is None:
            low, log_attention = self.attend(image, low)
        _check_image(image)
        if low is None or log_attention.ndim != 3 or not len(log_attention) == len(low) == len(image):
            given = None if low is None else tuple(low.shape)
            raise ValueError(
                f"log_attention of shape {tuple(log_attention.shape)} with a view of shape {given} for an image of shape "
                f"{tuple(image.shape)}: expected both as attend(image) returned them, (B, C, h, w) and (B, h', w')"
            )
        geometry = self.geometry(image, low, log_attention)  # before the draw: a patch that does not fit is to be named first
        _warn_of_rim(self, geometry)
        n = self.n_patches if n_patches is None else n_patches
        index = self.estimator.sample(log_attention, n, generator=generator)
        seen = extract_patches(image, geometry.top_left(index), self.patch_size, fill=self.fill)
        return geometry.low_size, log_attention, index, seen

    def _everywhere(
        self, image: Tensor, low: Tensor, log_attention: Tensor, chunk: int
    ) -> Iterator[tuple[Float[Tensor, "B N"], Shaped[Tensor, "B N C h w"]]]:
        """The attention at all locations and what is seen there, ``chunk`` of them at a time."""
        geometry = self.geometry(image, low, log_attention)
        _warn_of_rim(self, geometry)
        attention = log_attention.flatten(1).exp()  # (B, K)
        parts = torch.arange(attention.shape[1], device=attention.device).split(max(1, chunk // len(image)))
        if len(parts) > 1:
            _refuse_batch_norm(self.features, (image.shape[1], *pair(self.patch_size)), chunk, "call model.eval() first")
        for index in parts:
            index = index.expand(len(image), -1)  # (B, chunk)
            seen = extract_patches(image, geometry.top_left(index), self.patch_size, fill=self.fill)
            yield attention.gather(1, index), seen

    def _features(self, patches: Shaped[Tensor, "B N C h w"]) -> Float[Tensor, "B N D"]:
        if self._may_share(patches):
            every = patches.flatten(0, 1)
            first, which = distinct_patches(every)
            if len(first) < len(every):
                distinct = every[first].contiguous(memory_format=torch.channels_last)
                return _features(self.features, distinct[None])[0][which].unflatten(0, patches.shape[:2])
        return _features(self.features, patches)

    def _may_share(self, patches: Shaped[Tensor, "B N C h w"]) -> bool:
        """Whether equal patches are looked for, and have equal features and gradients."""
        if torch.compiler.is_compiling() or not self.shares_equal_on(patches.device):
            return False
        # The gradient by the pixels would go to one of the equal patches only; so would a forward-mode derivative.
        if patches.requires_grad or torch._C._functorch.is_functorch_wrapped_tensor(patches):
            return False
        if forward_ad.unpack_dual(patches).tangent is not None:
            return False
        return depends_on(self.features, tuple(patches.shape[2:])) == "patch"

    def _classify(self, pooled: Float[Tensor, "B D"]) -> Float[Tensor, "B classes"]:
        return _classified(self.classifier, pooled)

    def extra_repr(self) -> str:
        return (
            f"patch_size={self.patch_size}, n_patches={self.n_patches}, scale={self.scale}, estimator={self.estimator}, "
            f"fill={self.fill}"
        )


class UniformSampling(AttentionSampling):
    """Patches from anywhere: :class:`AttentionSampling` whose attention is fixed and uniform (§4.1.1; U-10, U-50 in table 1).

    .. math::  \\Psi(x) = g\\Big(\\frac1K \\sum_i f(P(x, i))\\Big) \\approx g(z)

    Draws and weights are the same estimators'. It has no view to compute (:meth:`view` says how large it would be) and nothing
    to learn about where to look, so ``log_attention`` is a constant, and its entropy, log K, adds no gradient to a loss.

    Args:
        features, classifier, patch_size, n_patches, scale, estimator, fill: as for :class:`AttentionSampling`.
        like: an attention network whose locations are kept, so that the two methods draw from the same K; None for one location
            at each pixel of the view.
    """

    def __init__(
        self,
        features: nn.Module,
        classifier: nn.Module,
        patch_size: int | tuple[int, int] = 50,
        n_patches: int = 10,
        scale: float = 0.12,
        estimator: str | Estimator = DEFAULT_ESTIMATOR,
        fill: float = 0,
        *,
        like: nn.Module | None = None,
    ):
        attention = UniformAttention() if like is None else UniformAttention.like(like)
        super().__init__(attention, features, classifier, patch_size, n_patches, scale, estimator, fill)

    def view(self, image: Shaped[Tensor, "B C H W"] | ImageSource) -> Float[Tensor, "B C h w"]:
        """Zeros of the view's size that take no memory: nobody looks at them."""
        _check_image(image)
        nothing = torch.zeros(1, device=_home(self.features, image))  # at once there, or it would be laid out to be copied
        return nothing.expand(*image.shape[:2], *low_size(image.shape[2:], self.scale))


class DeepMIL(nn.Module):
    """Classify an image from all patches of a regular grid, weighed by attention computed from their features (§4.1.1).

    .. math::  \\Psi(x) = g\\Big(\\sum_{k=1}^{K} a_k h_k\\Big), \\qquad h_k = f(P(x, k)), \\qquad
               a = \\mathrm{softmax}\\bigl(\\alpha(h_1), …, \\alpha(h_K)\\bigr)

    with :math:`\\alpha` a :class:`atslib.networks.MILAttention`. Nothing is drawn. The grid's cells tile the image and each patch
    lies around the middle of its cell, as those of attention sampling do, so that both attention maps cover the image alike;
    what lies outside the image is ``fill``. The paper's grids are 50 × 50 of 27² pixels on 500² (2,500 patches, 10 pixels apart:
    a little closer than half a patch, which §4.1.2 gives as the least) and 12 × 16 of 100² on 960 × 1280 (80 apart); it does
    not say where the grid begins.

    Args:
        attention: network from features ``(B, K, D)`` to logits ``(B, K)``.
        features, classifier, patch_size, fill: as for :class:`AttentionSampling`.
        grid: rows and columns of patches; K is their product.
        chunk: patches whose activations are held at a time. None holds all, as the paper's cost is measured. A number computes
            each chunk once more during the backward pass (:mod:`torch.utils.checkpoint`), a third more arithmetic for a peak
            that depends on the chunk and hardly on the grid; outputs and gradients are the same up to rounding.

    Raises:
        ValueError: a size, grid or chunk that is none.
    """

    def __init__(
        self,
        attention: nn.Module,
        features: nn.Module,
        classifier: nn.Module,
        patch_size: int | tuple[int, int],
        grid: tuple[int, int],
        chunk: int | None = None,
        fill: float = 0,
    ):
        super().__init__()
        pair(patch_size)  # or a ValueError
        if not isinstance(grid, Sequence) or len(grid) != 2 or not all(isinstance(n, Integral) and n >= 1 for n in grid):
            raise ValueError(f"grid={grid}: expected two whole numbers, at least one row and one column of patches")
        if chunk is not None:
            _check_chunk(chunk, ", or None for all at once")
        _check_is_number(fill)
        self.attention, self.features, self.classifier = attention, features, classifier
        self.patch_size, self.grid, self.chunk, self.fill = patch_size, tuple(grid), chunk, fill

    def forward(self, image: Shaped[Tensor, "B C H W"] | ImageSource, *, generator: torch.Generator | None = None) -> Output:
        """Look everywhere and answer.

        Args:
            image: the full-resolution images.
            generator: taken so that every model is called alike; nothing here is random.

        Returns:
            An output whose ``log_attention`` is that of the grid, ``(B, rows, columns)``, and whose ``index`` is None, since all
            patches were looked at.

        Raises:
            ValueError: an image of the wrong rank or type, a patch larger than the image, attention logits of another shape;
                batch normalisation in training mode in chunks, each of which would have statistics of its own.
        """
        _check_image(image)
        corners = self.top_left(image).split(self._per_image(len(image)), dim=1)
        look: Callable[..., Tensor] = self._look
        if len(corners) > 1:
            patch = (image.shape[1], *pair(self.patch_size))
            _refuse_batch_norm(self.features, patch, self.chunk, "use chunk=None or a network with norm='group'")
            if torch.is_grad_enabled():
                look = partial(checkpoint, self._look, use_reentrant=False)
        # That there is a tensor where the features are tells checkpoint to keep the random numbers of that device.
        beside = next(self.features.parameters(), corners[0])
        features = torch.cat([look(image, some, beside) for some in corners], dim=1)  # (B, K, D)
        logits = _applied(self.attention, _for(self.attention, features), "attention network")
        if logits.shape != features.shape[:2]:
            raise ValueError(
                f"the attention network returned shape {tuple(logits.shape)} for features {tuple(features.shape)}: "
                "expected one logit a patch, (B, K), as atslib.networks.MILAttention gives"
            )
        _warn_of_softmax(self.attention, logits)
        log_attention = _log_softmax(logits)
        pooled = (log_attention.exp()[..., None] * features).sum(1)  # no matmul: autocast would round it to bfloat16
        return Output(
            logits=_classified(self.classifier, pooled),
            log_attention=log_attention.unflatten(1, self.grid),
            index=None,
            pooled=pooled,
        )

    def top_left(self, image: Shaped[Tensor, "B C H W"] | ImageSource) -> Int[Tensor, "B K 2"]:
        """Row and column of the first pixel of each patch of the grid, row by row; may lie outside the image."""
        axes = []
        for cells, side, length in zip(self.grid, image.shape[2:], pair(self.patch_size), strict=True):
            # round((cell + 1/2) side/cells - length/2) in whole numbers, halves up, as PatchGeometry does.
            cell = torch.arange(cells, device=image.device)
            axes.append(((2 * cell + 1) * side - length * cells + cells).div(2 * cells, rounding_mode="floor"))
        return torch.cartesian_prod(*axes).expand(len(image), -1, -1)

    def _look(self, image: Tensor, top_left: Tensor, beside: Tensor) -> Float[Tensor, "B N D"]:
        patches = extract_patches(image, top_left, self.patch_size, fill=self.fill)
        return _features(self.features, patches.to(beside.device))  # before they become floating point, which is larger

    def _per_image(self, batch: int) -> int:
        everything = self.grid[0] * self.grid[1]
        return everything if self.chunk is None else max(1, self.chunk // batch)

    def extra_repr(self) -> str:
        return f"patch_size={self.patch_size}, grid={self.grid}, chunk={self.chunk}, fill={self.fill}"


class DownsampledCNN(nn.Module):
    """Classify an image as a whole, at a lower resolution: the paper's CNN baselines (§4.1.1).

    .. math::  \\Psi(x) = g\\bigl(f(V(x, s))\\bigr)

    Args:
        features: network from images ``(B, C, h, w)`` of any size to vectors ``(B, D)``, such as
            :class:`atslib.networks.ResNet16`.
        classifier: network from these to logits ``(B, classes)``.
        scale: s, size of what the network sees relative to the image; 1 for the image itself.

    Raises:
        ValueError: a scale outside (0, 1].
    """

    def __init__(self, features: nn.Module, classifier: nn.Module, scale: float = 1.0):
        super().__init__()
        _check_scale(scale)
        self.features, self.classifier, self.scale = features, classifier, scale

    def forward(self, image: Shaped[Tensor, "B C H W"] | ImageSource, *, generator: torch.Generator | None = None) -> Output:
        """Look at the whole and answer.

        Args:
            image: the full-resolution images.
            generator: taken so that every model is called alike; nothing here is random.

        Returns:
            ``log_attention`` and ``index`` are None.

        Raises:
            ValueError: an image of the wrong rank or type.
        """
        seen = _for(self.features, self.view(image))
        # A network that begins with an operation in place would change what is the caller's.
        pooled = _applied(self.features, seen.clone() if seen is image else seen, "feature network")
        return Output(logits=_classified(self.classifier, pooled), log_attention=None, index=None, pooled=pooled)

    def view(self, image: Shaped[Tensor, "B C H W"] | ImageSource) -> Float[Tensor, "B C h w"]:
        """What the network sees: the image at ``scale``, :math:`V(x, s)`."""
        _check_image(image)
        size = low_size(image.shape[2:], self.scale)
        whole = isinstance(image, Tensor) and size == tuple(image.shape[2:])
        return _as_unit(image) if whole else downsample(image, size)

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode for a while; then each of its parts is as it was, those that were frozen, too."""
    training = [module for module in model.modules() if module.training]
    if training:  # else nothing is changed, so that several threads may ask a model that is in evaluation mode
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _as_unit(pixels: Shaped[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """uint8 as [0, 1]; floating point as it is."""
    return pixels.to(torch.get_default_dtype()).div_(255) if pixels.dtype == torch.uint8 else pixels


def _for(network: nn.Module, inputs: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """The inputs in the precision and on the device of the network's parameters.

    So ``model.double()`` works with uint8 images, too, and a model on a GPU with an image that stays in the computer's memory.
    """
    like = next((p for p in network.parameters() if p.is_floating_point()), inputs)
    return inputs.to(like.device, like.dtype)


def _home(network: nn.Module, otherwise: Tensor | ImageSource) -> torch.device:
    """Where a network's parameters are; where the other is, if it has none."""
    return next(network.parameters(), otherwise).device


def _refuse_batch_norm(features: nn.Module, patch: tuple[int, int, int], chunk: int | None, instead: str) -> None:
    """Raise a ValueError if patches in chunks would each be normalised by their own chunk."""
    layers = ((name, part) for name, part in features.named_modules() if counts_batch(part))
    for name, layer in layers:
        what = f"{type(layer).__name__} ({name!r} of the features)" + " in training mode" * layer.training
        break
    else:
        # A model within a model looks after its own features.
        inside = isinstance(features, AttentionSampling) or torch.compiler.is_compiling()
        if inside or depends_on(features, patch) != "batch":
            return
        what = f"{type(features).__name__}, whose features depend on the other patches of the batch"
    raise ValueError(f"chunk={chunk} with {what}: each chunk would have statistics of its own; {instead}")


def _features(network: nn.Module, patches: Shaped[Tensor, "B N C h w"]) -> Float[Tensor, "B N D"]:
    inputs = _for(network, _as_unit(patches.flatten(0, 1)))
    try:
        features = _applied(network, inputs, "feature network")
    except RuntimeError as error:
        if "view size is not compatible" not in str(error):
            raise
        raise ValueError(
            f"the feature network {type(network).__name__} calls view on patches, which lie channels last in memory: expected "
            "flatten or reshape in its place"
        ) from error
    shape = tuple(features.shape) if isinstance(features, Tensor) else ()
    if len(shape) < 2 or shape[0] != len(inputs) or math.prod(shape[2:]) != 1:  # further axes of length one do no harm
        said = f"shape {shape}" if isinstance(features, Tensor) else f"a {type(features).__name__}"
        raise ValueError(
            f"the feature network {type(network).__name__} returned {said} for {len(inputs)} patches: expected one vector a "
            "patch, (M, D); after a convolution put nn.AdaptiveAvgPool2d(1) and nn.Flatten()"
        )
    return features.flatten(1).unflatten(0, patches.shape[:2])


# In PyTorch's words for inputs that a layer is not made for: other channels, too small, other features.
_MISFITS = ("channels", "running_mean should contain", "Kernel size can't be greater", "shapes cannot be multiplied")


def _applied(network: nn.Module, inputs: Tensor, what: str) -> Tensor:
    """What a network makes of its input, or a ValueError that says which of the networks it does not fit."""
    try:
        return network(inputs)
    except RuntimeError as error:
        if not any(words in str(error) for words in _MISFITS):
            raise
        hint = ""
        if "channels" in str(error) and "but got" in str(error):
            hint = "; make the networks for as many channels as the images have, three where they are read from files"
        raise ValueError(
            f"the {what} {type(network).__name__} is not made for an input of shape {tuple(inputs.shape)}: {error}{hint}"
        ) from error


def _classified(classifier: nn.Module, pooled: Float[Tensor, "B D"]) -> Float[Tensor, "B classes"]:
    return _applied(classifier, _for(classifier, pooled), "classifier")


def _log_softmax(logits: Float[Tensor, "B *K"]) -> Float[Tensor, "B *K"]:
    """Log-attention over all locations of an image, in float32 at least, whatever the autocast."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.flatten(1).log_softmax(1).view_as(logits)


def sum_to_one(logits: Float[Tensor, "B n"]) -> bool:
    """Whether each row looks like probabilities, as behind a softmax, and not like logits."""
    each = logits.detach().float()
    return bool(each.shape[1] > 1 and (each >= 0).all() and ((each.sum(1) - 1).abs() < 1e-3).all())


def _warn_of_softmax(network: nn.Module, logits: Float[Tensor, "B *K"]) -> None:
    """Warn, once, of an attention network that seems to take the softmax itself: a second one would make it nearly uniform."""
    inside = torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None
    has_numbers = type(logits) is Tensor and logits.device.type in ("cpu", "cuda")
    if inside or not has_numbers or network in _LOOKED_AT or logits[0].numel() < 2:
        return
    _LOOKED_AT.add(network)
    if sum_to_one(logits.flatten(1)):
        warn(
            f"the attention network {type(network).__name__} returned numbers that sum to one, as after a softmax: expected "
            "logits, of which the model takes the softmax; of probabilities it makes nearly uniform attention"
        )


def _warn_of_rim(model: nn.Module, geometry: PatchGeometry) -> None:
    """Warn, once, where the patches of all locations together leave out much of the image's rim."""
    if torch.compiler.is_compiling() or model in _MEASURED:
        return
    _MEASURED.add(model)
    rows, columns = geometry.map_size
    corners = geometry.top_left(torch.tensor([[0, rows * columns - 1]], device="cpu"))[0].tolist()
    names = (("above", "below"), ("on the left", "on the right"))
    for axis, (side, patch) in enumerate(zip(geometry.image_size, pair(geometry.patch_size), strict=True)):
        missed = corners[0][axis], side - patch - corners[1][axis]
        # More than half of what may lie between two patches, of which the model has warned when it was built.
        usual = max(patch / 4, (geometry.stride * side / geometry.low_size[axis] - patch) / 2)
        lost = [f"{pixels} pixels {name}" for pixels, name in zip(missed, names[axis], strict=True) if pixels > usual + 1]
        if lost:
            warn(
                f"no patch shows {' and '.join(lost)} of an image of {geometry.image_size}: the locations of the attention map "
                f"{geometry.map_size} end before it does. Pad the layers of the attention network, let its pooling round up "
                "(ceil_mode=True), or pad the image"
            )
            return


def _check_is_number(fill: object) -> None:
    if not isinstance(fill, Real):
        raise ValueError(f"fill={fill!r}: expected one number, in the image's own range")


def _check_scale(scale: object) -> None:
    if not (isinstance(scale, Real) and 0 < scale <= 1):
        raise ValueError(f"scale={scale!r}: expected a number in (0, 1], the view's size relative to the image")


def _check_chunk(chunk: object, otherwise: str = "") -> None:
    if not (isinstance(chunk, Integral) and chunk >= 1):
        raise ValueError(f"chunk={chunk!r}: expected a whole number of patches, at least 1{otherwise}")


def _check_image(image: Tensor | ImageSource) -> None:
    if not isinstance(image, Tensor | ImageSource):
        how = "torch.from_numpy(array)" if type(image).__module__ == "numpy" else "torch.stack(images) of a list of one size"
        if type(image).__module__.startswith("PIL"):
            how = "torchvision.transforms.functional.pil_to_tensor(image)[None]"
        raise ValueError(f"image of type {type(image).__name__}: expected a tensor (B, C, H, W), from {how}")
    if image.ndim == 4 and image.shape[3] in (1, 3, 4) and image.shape[1] > 4:
        raise ValueError(
            f"image of shape {tuple(image.shape)}: expected (B, C, H, W), and this looks like (B, H, W, C); permute(0, 3, 1, 2)"
        )
    if image.ndim != 4:
        some = "add the axes it lacks" if image.ndim < 4 else "it has axes too many"
        raise ValueError(f"image of shape {tuple(image.shape)}: expected rank 4, (B, C, H, W); {some}")
    if not len(image):
        raise ValueError(f"image of shape {tuple(image.shape)}: expected at least one image")
    if not (image.is_floating_point() or image.dtype == torch.uint8):
        raise ValueError(
            f"image of type {image.dtype}: expected uint8, to which image.to(torch.uint8) brings what holds 0 to 255, or "
            "floating point; divide others by the white of their device, image.float() / 4095 for 12 bits, say, or read files "
            "of them with ImagePyramid.open(file, white=4095)"
        )
