"""A task of seconds, in which all can be seen that happens to attention: where are the striped squares?

An image of 96 × 96 grey pixels holds two bright striped squares and four dark plain ones; its class is the direction of the
stripes. In the view, 24 × 24, stripes cannot be seen, only whether a square is bright or dark: attention has something to learn,
and can learn it only if patches drawn there help to answer. For the chapters on the ablations (§E, §F).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.utils.data import Dataset

from atslib.estimators import entropy
from atslib.loading import InMemory
from atslib.models import AttentionSampling
from atslib.networks import Classifier, MegapixelMNISTAttention, UnitNorm
from atslib.training import Settings, train

SIZE, SQUARE = 96, 16  # sides of image and square, in pixels
SCALE = 0.25  # of the view


class Stripes(Dataset):
    """Images with squares, half of them with stripes of each direction. Items are ``(image, label)``, uint8 ``(1, 96, 96)``.

    Args:
        n_images: how many.
        seed: of everything in them.

    Attributes:
        images, labels: all of them.
        corners: of each image, row and column of the first pixel of its two striped squares.
    """

    def __init__(self, n_images: int, seed: int):
        random = np.random.RandomState(seed)
        self.labels = torch.arange(n_images) % 2
        self.images, self.corners = [], []
        for label in self.labels.tolist():
            image = random.normal(80, 12, (SIZE, SIZE))
            cells = random.permutation(16)[:6]  # of 4 × 4 cells of 24 pixels
            corners = np.stack([cells // 4, cells % 4], 1) * 24 + random.randint(0, 24 - SQUARE + 1, (6, 2))
            wave = np.tile(np.where(np.arange(SQUARE) // 2 % 2, 60, -60), (SQUARE, 1))
            for number, (top, left) in enumerate(corners):
                square = image[top : top + SQUARE, left : left + SQUARE]
                square += 60 + (wave.T if label else wave) if number < 2 else random.normal(-60, 12, (SQUARE, SQUARE))
            self.images.append(torch.from_numpy(image.clip(0, 255).astype(np.uint8))[None])
            self.corners.append(corners[:2])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return self.images[number], int(self.labels[number])

    def striped(self) -> Bool[Tensor, "M 24 24"]:
        """Which locations of the attention map have their centre on a striped square."""
        middle = (torch.arange(round(SIZE * SCALE)) + 0.5) / SCALE
        corners = torch.from_numpy(np.stack(self.corners))[..., None]  # (M, 2, 2, 1)
        inside = (middle >= corners) & (middle < corners + SQUARE)  # (M, square, axis, 24)
        return (inside[:, :, 0, :, None] & inside[:, :, 1, None, :]).any(1)


def build_model(n_patches: int, seed: int) -> AttentionSampling:
    """A model for these images with its initial weights, and the paper's draws without replacement."""
    torch.manual_seed(seed)
    features = nn.Sequential(
        nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), UnitNorm()
    )
    classifier = Classifier(32, 2, scale=16.0)
    sizes = dict(patch_size=20, n_patches=n_patches, scale=SCALE)
    return AttentionSampling(MegapixelMNISTAttention(), features, classifier, **sizes, estimator="des_raj")


def follow(model: AttentionSampling, train_set: Stripes, test_set: Stripes, settings: Settings) -> dict:
    """Train, and look at the attention on the test images before and after each epoch.

    Returns:
        ``maps`` (log-attention), ``entropy`` (nats) and ``mass`` (attention on striped squares), means over the images, by epoch
        from 0 on; ``train_loss`` by epoch; ``error`` and ``loss`` on the test images at the end.
    """
    images, striped, maps = torch.stack(test_set.images), test_set.striped(), []
    views = model.view(images)

    def look(entry: dict | None = None) -> None:
        with torch.no_grad():
            maps.append(model.attend(images, views)[1])

    look()
    in_memory = [InMemory(part, "cpu", progress=False) for part in (train_set, test_set)]
    curve = train(model, *in_memory, settings, progress=False, on_epoch=look)
    return dict(
        maps=maps,
        entropy=[entropy(m.flatten(1)).mean().item() for m in maps],
        mass=[(m.exp() * striped).sum((1, 2)).mean().item() for m in maps],
        train_loss=[entry["train_loss"] for entry in curve],
        error=curve[-1]["test_error"],
        loss=curve[-1]["test_loss"],
    )
