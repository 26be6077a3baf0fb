"""The networks of the paper: attention, features, classifier.

An attention network maps the low-resolution view to one logit per location and *knows its geometry* (``stride``, ``padding``,
``receptive_field``), so that nobody has to tell where in the image a location lies. A feature network maps a patch to a
vector of unit length.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_WINDOWED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


def window_geometry(layers: Iterable[nn.Module]) -> tuple[int, int, int]:
    """Overall stride, padding and receptive field of a chain of convolutions and poolings, in input pixels.

    Output r depends on the input pixels from :math:`r \\cdot \\mathrm{stride} - \\mathrm{padding}` on,
    ``receptive_field`` of them. Layers without a window (activations, normalisation) count for nothing.

    Raises:
        ValueError: a layer whose height and width differ, or whose padding is not symmetric.
    """
    stride, padding, field = 1, 0, 1
    for layer in layers:
        if not isinstance(layer, _WINDOWED):
            continue
        kernel, step, dilation = (
            _same_both_ways(layer, name) for name in ("kernel_size", "stride", "dilation")
        )
        if layer.padding == "same":
            if dilation * (kernel - 1) % 2:
                raise ValueError(f"{layer}: an even window padded to 'same' is off centre; use an odd one")
            pad = dilation * (kernel - 1) // 2
        else:
            pad = 0 if layer.padding == "valid" else _same_both_ways(layer, "padding")
        field += dilation * (kernel - 1) * stride
        padding += pad * stride
        stride *= step
    return stride, padding, field


def _same_both_ways(layer: nn.Module, name: str) -> int:
    value = getattr(layer, name, 1)
    values = (value,) if isinstance(value, int) else tuple(value)
    if len(set(values)) > 1:
        raise ValueError(f"{layer}: {name} differs between height and width; expected the same")
    return values[0]


class AttentionNetwork(nn.Module):
    """A chain of convolutions and poolings that ends in one channel, the logits of the attention.

    Args:
        *layers: modules applied one after the other; the last gives one channel.

    Attributes:
        stride, padding, receptive_field: in pixels of the view, worked out from the layers.
    """

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.stride, self.padding, self.receptive_field = window_geometry(layers)

    def forward(self, view: Float[Tensor, "B C h w"]) -> Float[Tensor, "B h2 w2"]:
        logits = self.layers(view)
        if logits.shape[1] != 1:
            raise ValueError(f"the attention network returned {logits.shape[1]} channels: expected 1, the logits")
        return logits[:, 0]


class MegapixelMNISTAttention(AttentionNetwork):
    """Attention for Megapixel MNIST: three 3×3 convolutions, 8–8–1 channels, padded to keep the size (§4.2, §H.1).

    Args:
        variant: ``"paper"`` has ReLU between them, ``"released"`` tanh, as the released code does.
        channels: of the view, 1 for grey.
    """

    def __init__(self, variant: str = "paper", channels: int = 1):
        if variant not in ("paper", "released"):
            raise ValueError(f"variant={variant!r}: expected 'paper' or 'released'")
        activation = nn.ReLU if variant == "paper" else nn.Tanh
        super().__init__(
            nn.Conv2d(channels, 8, 3, padding=1),
            activation(),
            nn.Conv2d(8, 8, 3, padding=1),
            activation(),
            nn.Conv2d(8, 1, 3, padding=1),
        )


class SaliencyPrior(nn.Module):
    """An attention network that begins by looking where there is something to see.

    .. math::  \\text{logits} = \\text{network}(V) + \\log(\\epsilon + \\overline{|V|})

    with :math:`\\overline{|V|}` the view's mean magnitude in each location's receptive field. An untrained network is
    close to uniform: of ten patches of a Megapixel MNIST image hardly one holds a digit, and training stays at chance for
    hundreds of epochs. With the prior the first draws already fall on objects; what is worth a look among them remains
    to be learned. Not part of the paper.

    Args:
        network: an attention network; its geometry is passed on.
        epsilon: magnitude of "nothing there"; the smaller, the fewer first draws fall on empty ground.
    """

    def __init__(self, network: AttentionNetwork, epsilon: float = 1e-3):
        super().__init__()
        if not epsilon > 0:
            raise ValueError(f"epsilon={epsilon}: expected a positive number, or empty locations could never be drawn")
        self.network = network
        self.epsilon = epsilon
        self.stride, self.padding, self.receptive_field = network.stride, network.padding, network.receptive_field

    def forward(self, view: Float[Tensor, "B C h w"]) -> Float[Tensor, "B h2 w2"]:
        magnitude = F.pad(view.float().abs().mean(1, keepdim=True), [self.padding] * 4)
        local_mean = F.avg_pool2d(magnitude, self.receptive_field, self.stride)[:, 0]  # (B, h2, w2)
        return self.network(view).float() + (local_mean + self.epsilon).log()

    def extra_repr(self) -> str:
        return f"epsilon={self.epsilon}"


class UnitNorm(nn.Module):
    """Divide each feature vector by its length: attention then is the distribution of least variance (eq. 9, §3.4)."""

    def forward(self, features: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
        return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)


class LeNetFeatures(nn.Sequential):
    """Features for Megapixel MNIST: four unpadded convolutions (7, 3, 3, 3), ReLU, global maximum, unit norm (§H.1).

    The paper says "inspired from LeNet-1, with 32 channels and a global max-pooling"; the kernel sizes are the released
    code's.
    """

    def __init__(self, channels: int = 1, width: int = 32):
        super().__init__(
            nn.Conv2d(channels, width, 7),
            nn.ReLU(),
            nn.Conv2d(width, width, 3),
            nn.ReLU(),
            nn.Conv2d(width, width, 3),
            nn.ReLU(),
            nn.Conv2d(width, width, 3),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            UnitNorm(),
        )


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
        return self.linear(self.scale * pooled)

    def extra_repr(self) -> str:
        return f"scale={self.scale}"
