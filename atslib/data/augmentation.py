"""The paper's augmentations, on tensors: contrast and brightness (§4.3, §4.4), translation (§4.4)."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor

from atslib.patches import check_fill


class Augmentation:
    """Change contrast and brightness of each image, and shift it, by random amounts.

    .. math::  x \\mapsto \\alpha\\, x + \\beta, \\qquad \\alpha \\in [1 - c, 1 + c],\\; \\beta \\in [-b, b]

    with x in [0, 1]. Each of the two happens to an image with probability p, by itself. The random numbers are drawn on the
    host, so that one seed gives the same changes on every device, and of uint8 images nothing waits for the device.

    Args:
        contrast: largest change, c of the formula.
        brightness: the same, b, relative to the range of the pixels.
        shift: largest translation in pixels, down and across; whole pixels.
        probability: of either change, p.
        fill: what comes in at the border, in the image's own range; None repeats the border's pixels.

    :data:`COLON_CANCER` and :data:`SPEED_LIMITS` are the two of the experiments. The released code has the numbers of the second;
    the paper calls the changes of the first small and gives none.

    >>> image = torch.full((1, 1, 2, 2), 100, dtype=torch.uint8)
    >>> Augmentation(contrast=0, brightness=0, shift=0)(image).flatten().tolist()
    [100, 100, 100, 100]
    """

    def __init__(
        self,
        contrast: float = 0.2,
        brightness: float = 0.1,
        shift: int = 0,
        probability: float = 0.8,
        fill: float | None = None,
    ):
        if not 0 <= contrast < 1:
            raise ValueError(f"contrast={contrast}: expected a number in [0, 1), the largest change of the factor 1")
        if not 0 <= brightness <= 1:
            raise ValueError(f"brightness={brightness}: expected a number in [0, 1], relative to the range of the pixels")
        if shift < 0 or shift != int(shift):
            raise ValueError(f"shift={shift}: expected a whole number of pixels, at least 0")
        if not 0 <= probability <= 1:
            raise ValueError(f"probability={probability}: expected a number in [0, 1]")
        self.contrast, self.brightness, self.shift = contrast, brightness, int(shift)
        self.probability, self.fill = probability, fill

    def __call__(self, images: Shaped[Tensor, "B C H W"], generator: torch.Generator | None = None) -> Shaped[Tensor, "B C H W"]:
        """Changed copies of the images, of their type and on their device.

        Args:
            images: ``uint8`` (0 … 255) or floating point (0 … 1).
            generator: a source of randomness on the CPU.

        Raises:
            ValueError: images of another rank or type; floating point outside [0, 1], but for rounding, where contrast or
                brightness is to change; uint8 and a ``fill`` that is none of its values.
        """
        if images.ndim != 4:
            raise ValueError(f"images of shape {tuple(images.shape)}: expected rank 4, (B, C, H, W); add the axes they lack")
        if not (images.is_floating_point() or images.dtype == torch.uint8):
            raise ValueError(f"images of type {images.dtype}: expected uint8 or floating point, whose range is known")
        if images.is_floating_point():
            if (self.contrast or self.brightness) and images.numel():
                least, most = torch.stack(images.aminmax()).tolist()  # at once: a GPU's host waits for it
                rounding = 4 * torch.finfo(images.dtype).eps
                if not (least >= -rounding and most <= 1 + rounding):
                    raise ValueError(
                        f"images from {least:g} to {most:g}: expected floating point in [0, 1]; normalise after augmenting, "
                        "or pass uint8"
                    )
        elif self.fill is not None:
            check_fill(images.dtype, self.fill)
        count = len(images)
        alpha, beta, light, *moves, move = torch.rand(6, count, generator=generator, device="cpu")  # (B,) each
        light, move = light < self.probability, move < self.probability
        alpha = torch.where(light, 1 + self.contrast * (2 * alpha - 1), 1.0)
        beta = torch.where(light, self.brightness * (2 * beta - 1), 0.0)
        # Whole numbers from -shift to shift, each as likely.
        moves = [((2 * self.shift + 1) * part).long().clamp(max=2 * self.shift) - self.shift for part in moves]
        down, across = ((part * move).tolist() for part in moves)
        out = torch.empty_like(images)
        for image, changed, a, b, *shift in zip(images, out, alpha.tolist(), beta.tolist(), down, across, strict=True):
            changed.copy_(_relight(image, a, b) if a != 1 or b != 0 else image)
            if any(shift):
                changed.copy_(_translate(changed, *shift, self.fill))
        return out

    def __repr__(self) -> str:
        return (
            f"Augmentation(contrast={self.contrast}, brightness={self.brightness}, shift={self.shift}, "
            f"probability={self.probability}, fill={self.fill})"
        )


def _relight(image: Shaped[Tensor, "C H W"], alpha: float, beta: float) -> Shaped[Tensor, "C H W"]:
    if image.dtype == torch.uint8:
        return image.float().mul_(alpha).add_(255 * beta).round_().clamp_(0, 255)
    return (alpha * image + beta).clamp(0, 1)


def _translate(image: Shaped[Tensor, "C H W"], down: int, across: int, fill: float | None) -> Shaped[Tensor, "C H W"]:
    """The image moved down and to the right; what comes in is ``fill``, or what stands at the border."""
    height, width = image.shape[1:]
    rows = torch.arange(height, device=image.device) - down
    columns = torch.arange(width, device=image.device) - across
    moved = image.index_select(1, rows.clamp(0, height - 1)).index_select(2, columns.clamp(0, width - 1))
    if fill is not None:
        inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None]
        moved = torch.where(inside, moved, torch.full((), fill, dtype=image.dtype, device=image.device))
    return moved


COLON_CANCER = Augmentation(contrast=0.2, brightness=0.1)
SPEED_LIMITS = Augmentation(contrast=0.2, brightness=0.1, shift=100)
