"""Megapixel MNIST (§4.2): which digit occurs three times in an image of 1500 × 1500 pixels?

Profiles differ in sizes and schedule, never in code. ``paper`` is as in the paper (§4.2, §H.1; batch size, clipping and
scribbles for noise from the released code), with all of MNIST if a data root is named, else with the digits that ship; the
default estimator is systematic, where the paper's draws without replacement are ``--estimator des_raj``. ``laptop`` reaches a
good error in half an hour on one CPU core that has instructions for bfloat16, in some hours on one that has not, by three
departures: a saliency prior on the attention, unit-norm features scaled before the classifier, and a cosine schedule from
twice the learning rate at batch 32. Its entropy weight is the paper's 0.01, with which one of two seeds turned away from the
digits; ``--set entropy_weight=0.001 --set epochs=25`` has been the safer choice (chapter 8 of the book has the runs).
``small`` is ``laptop`` on images of 600 × 600 with fewer pieces of noise, for comparisons that need many runs. ``large`` has
images of 16 megapixels with ten pieces of noise, and the smaller entropy weight, for the nested model (§5).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.utils.data import Dataset

from atslib import networks
from atslib.data import MegapixelMNIST
from atslib.data.digits import mnist_digits
from atslib.data.mnist import full_mnist
from atslib.estimators import Estimator
from atslib.experiments.parts import Data, Nested, Parts, build, profile_of
from atslib.experiments.records import array_digest
from atslib.training import Settings

NAME = "megapixel_mnist"
SCALE = 0.12  # of the view: 1500 -> 180
PATCH = 50
# Of the nested model: in the view of the whole a digit is about a pixel wide. A location's attention comes from 7 × 7 of them,
# 233 image pixels; its region shows all that it was chosen for.
NESTED_SCALE = 0.03
REGION = 240


@dataclass(frozen=True)
class Profile:
    """Sizes of an experiment.

    Attributes:
        size: side of the images; n_noise: pieces of noise in each.
        n_train, n_test: images; n_watch: of the test images, those looked at after each epoch.
        saliency_prior: whether attention starts where there is something to see.
        feature_scale: of the unit-norm features before the classifier.
        training: all else.
    """

    size: int
    n_noise: int
    n_train: int
    n_test: int
    n_watch: int
    saliency_prior: bool
    feature_scale: float
    training: Settings


PROFILES = {
    "smoke": Profile(300, 8, 256, 128, 128, True, 16.0, Settings(epochs=2, batch_size=32, learning_rate=2e-3)),
    "laptop": Profile(
        1500, 50, 5000, 1000, 300, True, 16.0, Settings(epochs=18, batch_size=32, learning_rate=2e-3, schedule="cosine")
    ),
    "small": Profile(
        600, 8, 2000, 500, 500, True, 16.0, Settings(epochs=15, batch_size=32, learning_rate=2e-3, schedule="cosine")
    ),
    "large": Profile(
        *(4000, 10, 2000, 500, 250, True, 16.0),
        Settings(epochs=15, batch_size=32, learning_rate=2e-3, entropy_weight=1e-3, schedule="cosine"),
    ),
    "paper": Profile(1500, 50, 5000, 1000, 1000, False, 1.0, Settings(epochs=500, batch_size=128, bfloat16=False)),
}


def build_model(
    n_patches: int = 10,
    estimator: str | Estimator = "systematic",
    profile: str | Profile = "laptop",
    method: str = "ats",
    cnn_scale: float = 1.0,
) -> nn.Module:
    """The model of this experiment, untrained; seed torch first."""
    sizes = profile_of(profile, PROFILES)

    def attention() -> nn.Module:
        network = networks.MegapixelMNISTAttention()
        return networks.SaliencyPrior(network, count_include_pad=True) if sizes.saliency_prior else network

    def attention_for_regions() -> nn.Module:
        # A digit is dimmer here by its area in the view, and there is more nothing beside it.
        gain = networks.Gain((SCALE / NESTED_SCALE) ** 2)
        network = networks.AttentionNetwork(gain, *networks.MegapixelMNISTAttention().layers)
        return networks.SaliencyPrior(network, epsilon=2e-6, count_include_pad=True) if sizes.saliency_prior else network

    parts = Parts(
        attention=attention,
        features=networks.LeNetFeatures,
        cnn=lambda: networks.ResNet16(1),
        width=32,
        cnn_width=256,
        classes=10,
        patch_size=PATCH,
        scale=SCALE,
        grid=(sizes.size // 25, sizes.size // 25),  # every half patch; the paper has no Deep MIL here, for want of memory
        feature_scale=sizes.feature_scale,
        nested=Nested(attention_for_regions, min(REGION, sizes.size), NESTED_SCALE),
    )
    return build(parts, method, n_patches, estimator, cnn_scale)


def build_data(profile: str | Profile = "laptop", digits: dict | None = None) -> tuple[Dataset, Dataset]:
    """Training and test set.

    Args:
        digits: for each split the images and labels to draw from; those that ship with the package if None.
    """
    sizes = profile_of(profile, PROFILES)
    return tuple(
        MegapixelMNIST(split, count, sizes.size, n_noise=sizes.n_noise, digits=digits[split] if digits else None)
        for split, count in (("train", sizes.n_train), ("test", sizes.n_test))
    )


def load_data(profile: str | Profile = "laptop", root: str | None = None, seed: int = 0) -> Data:
    """Images with digits of the whole of MNIST where a data root is given, else with those that ship with the package.

    Args:
        root: a data root with ``mnist/`` below it; None and ``"generated"`` are for the digits that ship.
        seed: changes nothing: all runs see the same images.

    Raises:
        atslib.data.DataError: MNIST is not whole there.
    """
    full = root not in (None, "generated")
    digits = {split: full_mnist(split, root) if full else mnist_digits(split) for split in ("train", "test")}
    train, test = build_data(profile, digits)
    name = "Megapixel MNIST, " + ("digits of the whole of MNIST" if full else "digits that ship with atslib")

    def describe() -> dict:
        return dict(
            name=name,
            digest=array_digest(*digits["train"], *digits["test"]),
            n_train=len(train),
            n_test=len(test),
            image_size=list(train.size),
        )

    return Data(train, test, name, describe, suffix="-full" if full else "")
