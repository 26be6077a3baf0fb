"""The networks of the paper: attention, features, classifier, and those of the methods it compares with.

An attention network maps the low-resolution view to one logit per location and *knows its geometry* (``stride``, ``padding``,
``receptive_field``), so that nobody has to tell where in the image a location lies. A feature network maps a patch to a
vector of unit length.

==================  ================================  ===========================  ==========================
experiment          attention                         features                     CNN baseline
==================  ================================  ===========================  ==========================
Megapixel MNIST     :class:`MegapixelMNISTAttention`  :class:`LeNetFeatures`       :class:`ResNet16`
colon cancer        :class:`ColonCancerAttention`     :class:`IlseFeatures`        :class:`ResNet8`
speed limits        :class:`SpeedLimitsAttention`     :class:`ResNet8Features`     :class:`ResNet16`
==================  ================================  ===========================  ==========================

Where paper and released code (https://github.com/idiap/attention-sampling) differ, ``variant`` says which one is meant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from numbers import Integral

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_WINDOWED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
# Modules of PyTorch that keep every pixel in its place.
_IN_PLACE = tuple(f"torch.nn.modules.{kind}" for kind in ("activation", "batchnorm", "dropout", "instancenorm", "normalization"))


def window_geometry(layers: Iterable[nn.Module]) -> tuple[int, int, int]:
    """Overall stride, padding and receptive field of a chain of convolutions and poolings, in input pixels.

    Output r depends on the input pixels from :math:`r \\cdot \\mathrm{stride} - \\mathrm{padding}` on,
    ``receptive_field`` of them. Layers that keep every pixel in its place (activations, normalisation, dropout) count for
    nothing, an ``nn.Sequential`` as the layers in it. A layer of another kind says itself where it looks, by integer attributes
    ``stride``, ``padding`` and ``receptive_field``: 1, 0 and 1 if it looks at each pixel alone.

    Raises:
        ValueError: a layer whose height and width differ, whose padding is not symmetric, or of which it is not known where it
            looks.

    >>> window_geometry([nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU()), nn.Conv2d(8, 1, 3)])
    (2, 1, 7)
    """
    stride, padding, field = 1, 0, 1
    for layer in layers:
        step, pad, window = _geometry(layer)
        field += (window - 1) * stride
        padding += pad * stride
        stride *= step
    return stride, padding, field


def _geometry(layer: nn.Module) -> tuple[int, int, int]:
    """Stride, padding and window of one layer, in its own input pixels."""
    if isinstance(layer, _WINDOWED):
        kernel, step, dilation = (_same_both_ways(layer, name) for name in ("kernel_size", "stride", "dilation"))
        if layer.padding == "same":
            if dilation * (kernel - 1) % 2:
                raise ValueError(f"{layer}: an even window padded to 'same' is off centre; use an odd one")
            pad = dilation * (kernel - 1) // 2
        else:
            pad = 0 if layer.padding == "valid" else _same_both_ways(layer, "padding")
        return step, pad, dilation * (kernel - 1) + 1
    if isinstance(layer, nn.Sequential):
        return window_geometry(layer)
    if all(isinstance(getattr(layer, name, None), int) for name in ("stride", "padding", "receptive_field")):
        return layer.stride, layer.padding, layer.receptive_field
    if isinstance(layer, (nn.Identity, Gain)) or type(layer).__module__ in _IN_PLACE:
        return 1, 0, 1
    raise ValueError(
        f"{type(layer).__name__} in an attention network: where it looks is not known, and with it where in the image a location "
        "lies; give it integer attributes stride, padding and receptive_field (1, 0, 1 if it looks at each pixel alone)"
    )


def _same_both_ways(layer: nn.Module, name: str) -> int:
    value = getattr(layer, name, 1)
    values = (value,) if isinstance(value, int) else tuple(value)
    if len(set(values)) > 1:
        raise ValueError(f"{layer}: {name} differs between height and width; expected the same")
    return values[0]


class AttentionNetwork(nn.Module):
    """A chain of convolutions and poolings that ends in one channel, the logits of the attention.

    Args:
        *layers: modules applied one after the other; the last gives one channel, of logits.

    Attributes:
        stride: from one location to the next, in pixels of the view. All three are worked out from the layers.
        padding: how far the first location's receptive field reaches beyond the view.
        receptive_field: side of the square that a location sees.
    """

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        last = [*self.layers.modules()][-1]
        if isinstance(last, (nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin, nn.Sigmoid, nn.Hardsigmoid)):
            raise ValueError(f"the attention network ends in {last}: expected logits, of which the model takes the softmax")
        self.stride, self.padding, self.receptive_field = window_geometry(layers)

    def forward(self, view: Float[Tensor, "B C h w"]) -> Float[Tensor, "B h2 w2"]:
        """The logits of the attention, one for each location in the view."""
        logits = self.layers(view)
        if logits.shape[1] != 1:
            raise ValueError(f"the attention network returned {logits.shape[1]} channels: expected 1, the logits")
        return logits[:, 0]


class Gain(nn.Module):
    """Multiply the view. What is smaller than a pixel of it is dim in it, in proportion to its area, and moves a network little.

    >>> AttentionNetwork(Gain(16), *MegapixelMNISTAttention().layers).receptive_field
    7
    """

    def __init__(self, factor: float):
        super().__init__()
        if not (factor > 0 and math.isfinite(factor)):
            raise ValueError(f"factor={factor}: expected a positive number")
        self.factor = factor

    def forward(self, view: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """The view, multiplied."""
        return self.factor * view

    def extra_repr(self) -> str:
        return f"{self.factor:g}"


class MegapixelMNISTAttention(AttentionNetwork):
    """Attention for Megapixel MNIST: three 3×3 convolutions, 8–8–1 channels, padded to keep the size (§4.2, §H.1).

    Args:
        channels: of the view, 1 for grey.
        variant: ``"paper"`` has ReLU between them, ``"released"`` tanh, as the released code does.
    """

    def __init__(self, channels: int = 1, *, variant: str = "paper"):
        _check_variant(variant)
        _check_channels(channels)
        activation = partial(nn.ReLU, inplace=True) if variant == "paper" else nn.Tanh
        super().__init__(
            nn.Conv2d(channels, 8, 3, padding=1),
            activation(),
            nn.Conv2d(8, 8, 3, padding=1),
            activation(),
            nn.Conv2d(8, 1, 3, padding=1),
        )


class ColonCancerAttention(MegapixelMNISTAttention):
    """Attention for the colon cancer images: that of Megapixel MNIST with ReLU, on three channels (§4.3, §H.2).

    The paper leaves open that the last of the "8 channels" must be a single one, and the padding, which here keeps the size:
    a view of 100 × 100 has K = 10,000 locations. There is no released code for this experiment.

    Args:
        channels: of the view, 3 for colour.
    """

    def __init__(self, channels: int = 3):
        super().__init__(channels)


class SpeedLimitsAttention(AttentionNetwork):
    """Attention for the speed limits: four 3×3 convolutions, 8–16–32–1 channels, then the maximum over 8 × 8 (§4.4, §H.3).

    The paper says "four convolutions followed by ReLU non-linearities starting with 8 channels and doubling them after each
    layer", which would end in 64 channels; attention needs one, so the fourth has one and, as a logit may be negative, no
    ReLU: the released code's reading. The released code tells its sampler a receptive field of 9, that
    of the convolutions, which the maximum widens to 16; here it is worked out from the layers.

    Args:
        channels: of the view, 3 for colour.
        variant: ``"paper"`` pads the convolutions to keep the size, as for the other experiments (the paper does not say):
            a view of 288 × 384 has 36 × 48 locations; ``"released"`` leaves them unpadded: 35 × 47.

    The released code also penalises the squared weights of the first three (1e-5) and mixes the softmax with 1e-4 of the
    uniform distribution; neither is part of the network here.
    """

    def __init__(self, channels: int = 3, *, variant: str = "paper"):
        _check_variant(variant)
        _check_channels(channels)
        padding = 1 if variant == "paper" else 0
        super().__init__(
            nn.Conv2d(channels, 8, 3, padding=padding),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 16, 3, padding=padding),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 3, padding=padding),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 1, 3, padding=padding),
            nn.MaxPool2d(8),
        )


def check_geometry(network: nn.Module) -> None:
    """Raise a ValueError unless an attention network says where its locations lie."""
    for attribute in ("stride", "padding", "receptive_field"):
        if not hasattr(network, attribute):
            raise ValueError(
                f"the attention network {type(network).__name__} has no attribute {attribute!r}: wrap its layers in "
                "atslib.networks.AttentionNetwork, which works out its geometry, or set stride, padding and receptive_field"
            )
        if not isinstance(getattr(network, attribute), Integral):
            raise ValueError(
                f"{attribute}={getattr(network, attribute)!r} of the attention network {type(network).__name__}: "
                "expected a whole number of pixels of the view, the same in height and width"
            )


class UniformAttention(nn.Module):
    """The same logit everywhere: "a fixed network that predicts the uniform distribution" (§4.1.1, U-XX).

    It has no weights and does not look at the view, only at its size.

    Args:
        stride, padding, receptive_field: in pixels of the view; those of the attention network it stands in for give the same
            locations (:meth:`like`).
    """

    def __init__(self, stride: int = 1, padding: int = 0, receptive_field: int = 1):
        super().__init__()
        self.stride, self.padding, self.receptive_field = stride, padding, receptive_field

    @classmethod
    def like(cls, network: nn.Module) -> UniformAttention:
        """With the locations of ``network``.

        Raises:
            ValueError: a layer with ``ceil_mode``, of which the three numbers do not tell how many locations there are; a
                network without geometry.
        """
        if rounding := [layer for layer in network.modules() if getattr(layer, "ceil_mode", False)]:
            raise ValueError(f"{rounding[0]}: expected an attention network without ceil_mode, to have the same locations")
        check_geometry(network)
        return cls(network.stride, network.padding, network.receptive_field)

    def forward(self, view: Float[Tensor, "B C h w"]) -> Float[Tensor, "B h2 w2"]:
        """Zeros, one for each location in the view."""
        cells = [(side + 2 * self.padding - self.receptive_field) // self.stride + 1 for side in view.shape[2:]]
        if min(cells) < 1:
            raise ValueError(
                f"view of {tuple(view.shape[2:])} pixels: smaller than the receptive field of {self.receptive_field}, "
                "so there is no location; use a larger scale"
            )
        return torch.zeros(len(view), *cells, device=view.device)

    def extra_repr(self) -> str:
        return f"stride={self.stride}, padding={self.padding}, receptive_field={self.receptive_field}"


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def magnitude(view: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 1 h w"]:
    """How much there is at each pixel: :math:`|V|`, mean over the channels.

    For images in which 0 means that nothing is there. Where they are normalised around another value, that is as salient as
    what is bright: take :func:`local_contrast`.
    """
    return _at_least_float32(view).abs().mean(1, keepdim=True)


def redness(view: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B 1 h w"]:
    """How red each pixel is, whatever the light.

    .. math::  \\max\\bigl(0, \\min(r - g,\\, r - b)\\bigr) / (r + g + b)

    1 for pure red, 0 for grey and for whatever has as much green or blue. A sum below 1/255 counts as 1/255.

    Raises:
        ValueError: a view without three channels; on the CPU, also a pixel below -0.05, as images normalised around zero have.

    Source: Ruta, Li & Liu, *Real-time traffic sign recognition from video by class-specific discriminative features*, Pattern
    Recognition 43, 2010.
    """
    if view.shape[1] != 3:
        raise ValueError(f"view of shape {tuple(view.shape)}: expected 3 channels, red, green and blue")
    looked_at = view.is_cpu and not torch.compiler.is_compiling() and not torch._C._functorch.is_functorch_wrapped_tensor(view)
    if looked_at and view.numel() and (least := view.min().item()) < -0.05:  # resampling may leave a little below zero
        raise ValueError(f"view with a pixel of {least:.3g}: expected colours from 0, before any normalisation around zero")
    red, green, blue = _at_least_float32(view).clamp(min=0).split(1, dim=1)  # (B, 1, h, w) each
    return torch.minimum(red - green, red - blue).clamp(min=0) / (red + green + blue).clamp(min=1 / 255)


def local_contrast(view: Float[Tensor, "B C h w"], window: int = 9) -> Float[Tensor, "B 1 h w"]:
    """How much each pixel differs from its surroundings, brighter or darker.

    .. math::  \\overline{|V - V_{\\text{around}}|}

    with :math:`V_{\\text{around}}` the mean over the pixels of the view in a window around each, and the bar a mean over the
    channels. For things on a ground that is not black, where :func:`magnitude` would prefer the ground.

    Args:
        window: side of the window in pixels of the view, odd; larger than what is to stand out.

    Raises:
        ValueError: a view without batch or channels; a window that is no odd number of pixels, or below 3.
    """
    if view.ndim != 4:
        raise ValueError(f"view of shape {tuple(view.shape)}: expected rank 4, (B, C, h, w); add the axes it lacks")
    if window != int(window) or window < 3 or window % 2 == 0:
        raise ValueError(f"window={window}: expected an odd number of pixels, at least 3")
    window = int(window)
    view = _at_least_float32(view)
    around = F.avg_pool2d(view, window, stride=1, padding=window // 2, count_include_pad=False)
    return (view - around).abs().mean(1, keepdim=True)


class SaliencyPrior(nn.Module):
    """An attention network that begins by looking where there is something to see.

    .. math::  \\text{logits} = \\text{network}(V) + p \\log(\\epsilon + \\overline{s(V)})

    with :math:`\\overline{s(V)}` the mean, or the maximum, of a saliency s of the view's pixels in each location's receptive
    field. The saliency has to fit the images: :func:`magnitude`, the default, finds bright things on a ground of zeros, as in
    Megapixel MNIST, and on a bright ground, or on black that was normalised to a negative value, would look at the ground;
    there :func:`local_contrast` serves.

    An untrained network is close to uniform: of ten patches of a Megapixel MNIST image hardly one holds a digit, and training
    stays at chance for hundreds of epochs. With the prior the first draws already fall on objects; what is worth a look among
    them remains to be learned. Not part of the paper.

    Args:
        network: an attention network; its geometry is passed on.
        epsilon: saliency of "nothing there"; the smaller, the fewer first draws fall on empty ground.
        saliency: from a view ``(B, C, h, w)`` to ``(B, 1, h, w)``, not negative; :func:`magnitude`, :func:`local_contrast` or
            :func:`redness`, say.
        peak: take the maximum in the receptive field, for what is smaller than it, rather than the mean.
        power: p. An untrained network draws a location in proportion to the p-th power of its saliency: the larger, the
            longer a place that this saliency misses stays unseen.
        count_include_pad: let the zeros around the view, which a receptive field at its border holds, count in the mean, as in
            PyTorch's ``avg_pool2d``. What lies at the border then is less salient. The recorded runs were made so.

    Raises:
        ValueError: epsilon or power not positive; a network without geometry. When called: a saliency of another shape, a network
            with ``ceil_mode``.
    """

    def __init__(
        self,
        network: AttentionNetwork,
        epsilon: float = 1e-3,
        saliency: Callable[[Tensor], Tensor] = magnitude,
        peak: bool = False,
        power: float = 1.0,
        count_include_pad: bool = False,
    ):
        super().__init__()
        if not epsilon > 0:
            raise ValueError(f"epsilon={epsilon}: expected a positive number, or empty locations could never be drawn")
        if not power > 0:
            raise ValueError(f"power={power}: expected a positive number; a prior of power 0 is none")
        check_geometry(network)
        self.network = network
        self.epsilon, self.saliency, self.peak, self.power = epsilon, saliency, peak, power
        self.count_include_pad = count_include_pad
        self.stride, self.padding, self.receptive_field = network.stride, network.padding, network.receptive_field

    def forward(self, view: Float[Tensor, "B C h w"]) -> Float[Tensor, "B h2 w2"]:
        """The network's logits plus the prior's, one for each location in the view."""
        salient = self.saliency(view)
        if salient.shape != (len(view), 1, *view.shape[2:]):
            raise ValueError(
                f"the saliency returned shape {tuple(salient.shape)} for a view of {tuple(view.shape)}: expected one number a "
                "pixel, (B, 1, h, w); take a mean over the channels with keepdim=True, say"
            )
        if self.peak or self.count_include_pad:
            local = _pooled(salient, self, F.max_pool2d if self.peak else F.avg_pool2d)[:, 0]  # (B, h2, w2)
        else:
            local = _mean_in_field(salient, self)
        logits = _logits_within_the_view(self.network, view, local, "the prior")
        return logits + self.power * (local + self.epsilon).log()

    def extra_repr(self) -> str:
        saliency = getattr(self.saliency, "__name__", self.saliency)
        return (
            f"epsilon={self.epsilon}, saliency={saliency}, peak={self.peak}, power={self.power}, "
            f"count_include_pad={self.count_include_pad}"
        )


class MaskedAttention(nn.Module):
    """An attention network that looks only where a mask allows it: at tissue, not at glass; at no date burnt into a photo.

    .. math::  \\text{logits}_i = \\text{network}(V)_i \\;\\text{if}\\; \\overline{m(V)}_i > s, \\quad -\\infty \\;\\text{if not}

    with :math:`\\overline{m(V)}_i` the share of allowed pixels in the receptive field of location i, as far as that lies in the
    view. A location of logit :math:`-\\infty` has no attention, is never drawn, and adds nothing to the full model; the
    estimators stay unbiased for the sum over what is left. Where a mask allows no location of an image, as on an empty slide,
    the image is looked at as if there were none. Not part of the paper.

    Draws without replacement need as many allowed locations as patches and raise where there are fewer; ``"systematic"`` and
    ``"with_replacement"`` do not.

    Args:
        network: an attention network; its geometry is passed on. A :class:`SaliencyPrior`, say, or
            ``UniformAttention.like(network)``, for patches from anywhere that is allowed.
        mask: from a view ``(B, C, h, w)``, as the network sees it, to booleans ``(B, 1, h, w)``, true where a look is allowed.
        share: s, of the pixels of a receptive field; a location needs more. With 0, one pixel is enough.

    Raises:
        ValueError: a share outside [0, 1); a network without geometry. When called: a mask of another shape or type, a network
            with ``ceil_mode``.

    >>> glass = lambda view: view.mean(1, keepdim=True) > 0.9
    >>> attention = MaskedAttention(ColonCancerAttention(), lambda view: ~glass(view))
    """

    def __init__(self, network: nn.Module, mask: Callable[[Tensor], Tensor], share: float = 0.0):
        super().__init__()
        if not 0 <= share < 1:
            raise ValueError(f"share={share}: expected a number in [0, 1), of the pixels that a location sees")
        check_geometry(network)
        self.network, self.mask, self.share = network, mask, share
        self.stride, self.padding, self.receptive_field = network.stride, network.padding, network.receptive_field

    def forward(self, view: Float[Tensor, "B C h w"]) -> Float[Tensor, "B h2 w2"]:
        """The network's logits, and minus infinity where the mask allows no look."""
        allowed = self.mask(view)
        if allowed.dtype != torch.bool or allowed.shape != (len(view), 1, *view.shape[2:]):
            raise ValueError(
                f"the mask returned {allowed.dtype} of shape {tuple(allowed.shape)} for a view of {tuple(view.shape)}: expected "
                "one boolean a pixel, (B, 1, h, w)"
            )
        seen = _mean_in_field(allowed.float(), self) > self.share
        seen |= ~seen.flatten(1).any(1)[:, None, None]
        logits = _logits_within_the_view(self.network, view, seen, "the mask")
        return logits.masked_fill(~seen, -math.inf)

    def extra_repr(self) -> str:
        return f"mask={getattr(self.mask, '__name__', self.mask)}, share={self.share}"


def _logits_within_the_view(network: nn.Module, view: Tensor, like: Tensor, what: str) -> Float[Tensor, "B h2 w2"]:
    """The network's logits, one for each location of a map pooled from the view."""
    logits = _at_least_float32(network(view))
    if logits.shape != like.shape:
        raise ValueError(
            f"attention map of {tuple(logits.shape[1:])} where {what} has {tuple(like.shape[1:])}: expected a network "
            "without ceil_mode, whose locations all lie within the view"
        )
    return logits


def _pooled(values: Float[Tensor, "B 1 h w"], network: nn.Module, pool: Callable[..., Tensor]) -> Float[Tensor, "B 1 h2 w2"]:
    """Over the receptive field of each of the network's locations, zeros around the view."""
    return pool(F.pad(values, [network.padding] * 4), network.receptive_field, network.stride)


def _mean_in_field(values: Float[Tensor, "B 1 h w"], network: nn.Module) -> Float[Tensor, "B h2 w2"]:
    """Mean over the part of each receptive field that lies in the view."""
    mean = _pooled(values, network, F.avg_pool2d)
    if network.padding:
        share = _pooled(torch.ones_like(values[:1]), network, F.avg_pool2d)  # of each receptive field that lies in the view
        mean = mean / share.clamp(min=network.receptive_field**-2)
    return mean[:, 0]


class UnitNorm(nn.Module):
    """Divide each feature vector by its length: attention then is the distribution of least variance (eq. 9, §3.4).

    .. math::  f \\mapsto \\frac{f}{\\max(\\lVert f \\rVert_2, \\epsilon)}

    Args:
        epsilon: features shorter than this stay shorter than one. A vector of zeros has a gradient of :math:`1/\\epsilon`; with
            a tiny one a network whose last layer is no ReLU would be thrown off by one black patch.
    """

    EPSILON = 1e-3

    def __init__(self, epsilon: float = EPSILON):
        super().__init__()
        if not epsilon > 0:
            raise ValueError(f"epsilon={epsilon}: expected a positive number")
        self.epsilon = epsilon

    def forward(self, features: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
        """The features, each of length one."""
        return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1, eps=self.epsilon)

    def extra_repr(self) -> str:
        return "" if self.epsilon == self.EPSILON else f"epsilon={self.epsilon}"


class LeNetFeatures(nn.Sequential):
    """Features for Megapixel MNIST: four unpadded convolutions (7, 3, 3, 3), ReLU, global maximum, unit norm (§H.1).

    The paper says "inspired from LeNet-1 … with 32 channels and a global max-pooling as a last layer"; the kernel sizes are the
    released code's.
    """

    def __init__(self, channels: int = 1, width: int = 32):
        super().__init__(
            nn.Conv2d(channels, width, 7),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3),
            nn.ReLU(inplace=True),
            _GlobalMaximum(1),
            nn.Flatten(),
            UnitNorm(),
        )


class _GlobalMaximum(nn.AdaptiveMaxPool2d):
    """On a GPU by reduction: PyTorch's kernel there reads a plane by one thread (by its source; not measured), and its gradient
    is refused where deterministic algorithms are asked for.
    """

    computes_as = nn.AdaptiveMaxPool2d

    def forward(self, inputs: Float[Tensor, "M C h w"]) -> Float[Tensor, "M C 1 1"]:
        return inputs.amax((2, 3), keepdim=True) if inputs.is_cuda else super().forward(inputs)


class IlseFeatures(nn.Sequential):
    """Features for the colon cancer images, those of Ilse et al. 2018, of unit norm (§4.3, §H.2).

    Convolution 4×4, 36 channels – maximum over 2×2 – convolution 3×3, 48 channels – maximum over 2×2 – 512 – 512, ReLU after
    each, nothing padded: 27 → 24 → 12 → 10 → 5. The paper adds the unit norm (§3.4). It does not mention dropout; there is none
    here.

    Args:
        channels: of the patches, 3 for colour.
        patch_size: side of the (square) patches, 27 in both papers; the fully connected layers fit this size only.

    Source: Ilse, Tomczak & Welling, *Attention-based deep multiple instance learning*, ICML 2018.
    """

    def __init__(self, channels: int = 3, patch_size: int = 27):
        side = ((patch_size - 3) // 2 - 2) // 2
        if side < 1:
            raise ValueError(f"patch_size={patch_size}: the two convolutions and poolings leave nothing; expected at least 11")
        super().__init__(
            nn.Conv2d(channels, 36, 4),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(36, 48, 3),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(48 * side * side, 512),
            nn.ReLU(inplace=True),
            nn.Linear(512, 512),
            nn.ReLU(inplace=True),
            UnitNorm(),
        )
        self.patch_size = patch_size

    def forward(self, patches: Float[Tensor, "M C h w"]) -> Float[Tensor, "M 512"]:
        if tuple(patches.shape[2:]) != (self.patch_size, self.patch_size):
            raise ValueError(
                f"patches of {tuple(patches.shape[2:])} pixels for IlseFeatures(patch_size={self.patch_size}): "
                "its fully connected layers fit that size only; build it with the model's patch_size"
            )
        return super().forward(patches)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and a way around them (He et al. 2016).

    .. math::  \\begin{aligned}
               \\text{paper:} \\quad & \\rho(S x + N C\\, \\rho N C x) \\\\
               \\text{released:} \\quad & S u + C\\, \\rho N C u, \\quad u = \\rho N x
               \\end{aligned}

    with C a convolution without bias, N a normalisation, ρ the ReLU, and S the identity, or a 1×1 convolution where stride or
    width change (normalised in the paper's reference, bare in the released code).

    Args:
        inputs, width: channels in and out.
        stride: of the first convolution and of the way around.
        variant: ``"paper"`` or ``"released"``, as above.
        norm: ``"group"`` or ``"batch"``, see :class:`ResNet`.

    Attributes:
        stride: of the two convolutions one after the other, so that a block may be a layer of an :class:`AttentionNetwork`.
            (Group normalisation then sees the whole view, as it does anywhere in such a network.)
        padding: likewise.
        receptive_field: likewise.
    """

    def __init__(self, inputs: int, width: int, stride: int = 1, variant: str = "paper", norm: str = "group"):
        super().__init__()
        _check_variant(variant)
        self.stride, self.padding, self.receptive_field = stride, 1 + stride, 3 + 2 * stride
        self.released = variant == "released"
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = _norm(norm, inputs if self.released else width)
        self.norm2 = _norm(norm, width)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != width:
            project = nn.Conv2d(inputs, width, 1, stride, bias=False)
            self.shortcut = project if self.released else nn.Sequential(project, _norm(norm, width))

    def extra_repr(self) -> str:
        return f"variant={'released' if self.released else 'paper'!r}"

    # What is written over is needed by no backward pass: convolutions keep their inputs, normalisations theirs, a ReLU what it
    # gives.
    def forward(self, x: Float[Tensor, "M C h w"]) -> Float[Tensor, "M D h2 w2"]:
        """The sum of the two ways."""
        if self.released:
            x = F.relu_(self.norm1(x))
            return self.conv2(F.relu_(self.norm2(self.conv1(x)))).add_(self.shortcut(x))
        inner = F.relu_(self.norm1(self.conv1(x)))
        return F.relu_(self.norm2(self.conv2(inner)).add_(self.shortcut(x)))


class ResNet(nn.Sequential):
    """A residual network up to its global average: images or patches to vectors ``(M, widths[-1])``.

    A 3×3 convolution of stride 1, then one :class:`ResidualBlock` for each of ``widths``. Counted as usual, by layers with
    weights along the longest path and with the linear layer that follows, it has 2 len(widths) + 2 of them.

    The paper says no more than "a ResNet with 8 layers and 32 channels" and "a ResNet-16 that starts with 32 channels for
    convolutions and doubles them after every two residual blocks". It leaves open:

    - the strides: 2 wherever the width changes and at the first block, the released code's 2–2–2 in the case of three blocks;
    - the order within a block: ``variant="paper"`` is that of the reference it cites (ReLU last), ``"released"`` the released
      code's (normalisation and ReLU first, so that one more of each follows the last block);
    - the normalisation: the reference and the released code use batch statistics. These make the feature of a patch depend on
      which other patches were drawn, so that :math:`f(P(x, i))` of eq. 19 is no function of i, and give every chunk of patches
      statistics of its own. ``variant="paper"`` therefore normalises each patch by itself, in groups of four channels
      (``norm="group"``); ``"released"`` normalises over the batch. Either can be asked for.

    Args:
        channels: of the input.
        widths: channels of each block; the first is also that of the convolution before.
        strides: of each block.
        variant: ``"paper"`` or ``"released"``.
        norm: ``"group"``, ``"batch"`` or None for the variant's own.

    Source: He, Zhang, Ren & Sun, *Deep residual learning for image recognition*, CVPR 2016; Wu & He, *Group normalization*,
    ECCV 2018.
    """

    def __init__(
        self,
        channels: int = 3,
        widths: Sequence[int] = (32, 32, 32),
        strides: Sequence[int] = (2, 2, 2),
        variant: str = "paper",
        norm: str | None = None,
    ):
        _check_variant(variant)
        if len(widths) != len(strides) or not widths:
            raise ValueError(f"{len(widths)} widths and {len(strides)} strides: expected one of each for each block")
        norm = norm or ("group" if variant == "paper" else "batch")
        around = [_norm(norm, widths[0] if variant == "paper" else widths[-1]), nn.ReLU(inplace=True)]
        blocks = [
            ResidualBlock(inputs, width, stride, variant, norm)
            for inputs, width, stride in zip([widths[0], *widths], widths, strides)
        ]
        super().__init__(
            nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
            *([*around, *blocks] if variant == "paper" else [*blocks, *around]),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


class ResNet8(ResNet):
    """ResNet-8 of 32 channels, the CNN baseline for the colon cancer images (§H.2): one convolution, three blocks, (linear).

    Half the resolution at each block: the global average of a 500² image is over 63 × 63. Variants as in :class:`ResNet`. The
    paper adds no unit norm to its CNNs. It says "8 convolutional layers" of this one; here the path has seven and the linear
    layer is the eighth, as in the paper's feature network of "8 layers".
    """

    def __init__(self, channels: int = 3, width: int = 32, variant: str = "paper", norm: str | None = None):
        super().__init__(channels, [width] * 3, [2, 2, 2], variant, norm)


class ResNet16(ResNet):
    """ResNet-16, the CNN baseline for Megapixel MNIST and the speed limits (§H.1, §H.3): one convolution, seven blocks, (linear).

    32 channels, doubled after every two blocks: 32, 32, 64, 64, 128, 128, 256; the resolution is halved at blocks 1, 3, 5, 7.
    Variants as in :class:`ResNet`; there is no released code for this one.
    """

    def __init__(self, channels: int = 3, width: int = 32, variant: str = "paper", norm: str | None = None):
        widths = [width * 2 ** (block // 2) for block in range(7)]
        super().__init__(channels, widths, [2, 1, 2, 1, 2, 1, 2], variant, norm)


class ResNet8Features(nn.Sequential):
    """Features for the speed limits: :class:`ResNet8` of 32 channels, of unit norm (§3.4, §H.3). Variants as in its base."""

    def __init__(self, channels: int = 3, width: int = 32, variant: str = "paper", norm: str | None = None):
        super().__init__(ResNet8(channels, width, variant, norm), UnitNorm())


class MILAttention(nn.Module):
    """Attention from the features of all patches (Ilse et al. 2018, eqs. 8 and 9), as logits.

    .. math::  \\begin{aligned}
               \\text{plain:} \\quad & w^\\top \\tanh(V h_k) \\\\
               \\text{gated:} \\quad & w^\\top \\bigl(\\tanh(V h_k) \\odot \\sigma(U h_k)\\bigr)
               \\end{aligned}

    where :math:`h_k` is the feature of patch k, V and U are ``hidden`` × ``features`` and w has ``hidden`` entries. The softmax
    over k is the model's. The paper says only that Deep MIL "implements the attention as a function of the features of each
    patch"; 128 is Ilse et al.'s, and plain the simpler of their two.

    Args:
        features, hidden: sizes.
        gated: eq. 9 rather than eq. 8.
        bias: biases in V and U, which Ilse et al.'s equations lack and their released code has (one after w, which it has
            too, would cancel in the softmax).
    """

    def __init__(self, features: int, hidden: int = 128, gated: bool = False, bias: bool = False):
        super().__init__()
        self.value = nn.Linear(features, hidden, bias=bias)
        self.gate = nn.Linear(features, hidden, bias=bias) if gated else None
        self.weight = nn.Linear(hidden, 1, bias=False)

    def forward(self, features: Float[Tensor, "*B D"]) -> Float[Tensor, "*B"]:
        """One logit for each feature vector."""
        hidden = self.value(features).tanh()
        if self.gate is not None:
            hidden = hidden * self.gate(features).sigmoid()
        return self.weight(hidden)[..., 0]


class Classifier(nn.Module):
    """The linear classification layer g of the paper (§3.4), with an optional scale on its input.

    .. math::  \\text{logits} = W (s\\, z) + b

    Features of unit length give a linear layer of default initialisation logits that hardly differ; s > 1 lets it learn
    at the usual learning rate.

    Args:
        features, classes: sizes.
        scale: s; 1 is the paper's.
    """

    def __init__(self, features: int, classes: int, scale: float = 1.0):
        super().__init__()
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale={scale}: expected a positive number")
        self.linear = nn.Linear(features, classes)
        self.scale = scale

    def forward(self, pooled: Float[Tensor, "B D"]) -> Float[Tensor, "B classes"]:
        """The logits of the classes."""
        return self.linear(self.scale * pooled)

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


def _check_channels(channels: object) -> None:
    if not isinstance(channels, Integral) or channels < 1:
        raise ValueError(f"channels={channels!r}: expected a whole number, at least 1 (a variant is given by its name)")


def _check_variant(variant: str) -> None:
    if variant not in ("paper", "released"):
        raise ValueError(f"variant={variant!r}: expected 'paper' or 'released'")


def _norm(norm: str, width: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(width)
    if norm != "group":
        raise ValueError(f"norm={norm!r}: expected 'group' or 'batch'")
    if width % 4:
        raise ValueError(f"{width} channels cannot be normalised in groups of four: use a multiple, or norm='batch'")
    return _GroupNorm(width // 4, width)


class _GroupNorm(nn.GroupNorm):
    """In half precision, under autocast on a GPU, it stays in it: PyTorch's own keeps a copy in float32 for the backward pass.

    With that copy training in bfloat16 would take more memory than in float32 (counted in emulation). Means and variances are
    in float32 either way, in the kernel.
    """

    computes_as = nn.GroupNorm

    def forward(self, inputs: Float[Tensor, "M C h w"]) -> Float[Tensor, "M C h w"]:
        if inputs.is_cuda and inputs.dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cuda", enabled=False):
                return self._as_the_inputs(inputs)
        return super().forward(inputs)

    def _as_the_inputs(self, inputs: Float[Tensor, "M C h w"]) -> Float[Tensor, "M C h w"]:
        weight, bias = self.weight.to(inputs.dtype), self.bias.to(inputs.dtype)
        return F.group_norm(inputs, self.num_groups, weight, bias, self.eps)
