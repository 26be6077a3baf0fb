"""What every experiment is made of: its data, its networks, and the methods that are built from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from atslib import models, networks
from atslib.dependence import counts_batch
from atslib.estimators import Estimator
from atslib.experiments.records import array_digest
from atslib.loading import digest_of
from atslib.nested import NestedSampling

# What --method calls them, and whether they draw patches (and so have N and an estimator).
METHODS = {"ats": True, "uniform": True, "nested": True, "deep_mil": False, "cnn": False}


@dataclass(frozen=True)
class Data:
    """The data of a run.

    Attributes:
        train: the training set, items ``(image, label)``.
        test: the test set.
        name: of the data set.
        describe: gives the data set's part of the run's record; may read all files.
        suffix: of the run's name, where the data are not those that the experiment takes by default.
        augment: see :func:`atslib.training.train`.
        class_weights: see :class:`atslib.training.Settings`.
        unused: fields of the profile that change nothing for these data.
    """

    train: Dataset
    test: Dataset
    name: str
    describe: Callable[[], dict]
    suffix: str = ""
    augment: Callable | None = None
    class_weights: tuple[float, ...] | None = None
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Nested:
    """What a nested model (:class:`atslib.nested.NestedSampling`) has besides the parts of the experiment.

    Attributes:
        attention: makes a new network for the view of the whole; that for the views of regions is the experiment's own.
        region: side of the regions, in pixels.
        scale: of the view of the whole.
        each: patches looked at in each region.
    """

    attention: Callable[[], nn.Module]
    region: int
    scale: float
    each: int = 2


@dataclass(frozen=True)
class Parts:
    """The networks of an experiment and the sizes that go with them; each method takes what it needs.

    Attributes:
        attention: makes a new network each time it is called.
        features: the same.
        cnn: the same.
        width: length of the vectors that ``features`` gives.
        cnn_width: of those that ``cnn`` gives.
        classes: how many.
        patch_size: in pixels.
        scale: of the view, relative to the image.
        grid: rows and columns of Deep MIL's patches.
        feature_scale: of the unit-norm features before the classifier; 1 is the paper's.
        nested: of the nested model; None where there is none.
    """

    attention: Callable[[], nn.Module]
    features: Callable[[], nn.Module]
    cnn: Callable[[], nn.Module]
    width: int
    cnn_width: int
    classes: int
    patch_size: int
    scale: float
    grid: tuple[int, int]
    feature_scale: float = 1.0
    nested: Nested | None = None


def profile_of(profile, profiles: dict):
    """The profile of that name; one that is given itself, perhaps with changes, is taken as it is.

    Raises:
        ValueError: there is no such profile.
    """
    if not isinstance(profile, str):
        return profile
    if profile not in profiles:
        raise ValueError(f"profile {profile!r}: expected one of {', '.join(profiles)}")
    return profiles[profile]


def build(parts: Parts, method: str, n_patches: int, estimator: str | Estimator, cnn_scale: float = 1.0) -> nn.Module:
    """The model of a method, untrained; seed torch first.

    Args:
        n_patches: looked at in each image; of the nested model, regions.

    Raises:
        ValueError: an unknown method, or one that this experiment does not have.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r}: expected one of {', '.join(METHODS)}")
    if method == "cnn":
        return models.DownsampledCNN(parts.cnn(), networks.Classifier(parts.cnn_width, parts.classes), scale=cnn_scale)
    attention, features = parts.attention(), parts.features()
    classifier = networks.Classifier(parts.width, parts.classes, scale=parts.feature_scale)
    if method == "deep_mil":
        # In chunks: it shall train where attention sampling trains. Its cost is measured without. Batch normalisation needs all.
        chunk = None if any(map(counts_batch, features.modules())) else 512
        return models.DeepMIL(networks.MILAttention(parts.width), features, classifier, parts.patch_size, parts.grid, chunk=chunk)
    if method == "nested":
        if (sizes := parts.nested) is None:
            raise ValueError("method 'nested': this experiment has no nested model, only megapixel_mnist does")
        within = models.AttentionSampling(
            attention, features, nn.Identity(), parts.patch_size, sizes.each, parts.scale, estimator
        )
        model = NestedSampling(sizes.attention(), within, classifier, sizes.region, n_patches, sizes.scale, estimator)
    else:
        options = dict(patch_size=parts.patch_size, n_patches=n_patches, scale=parts.scale, estimator=estimator)
        if method == "uniform":
            model = models.UniformSampling(features, classifier, **options, like=attention)
        else:
            model = models.AttentionSampling(attention, features, classifier, **options)
    # Patches are read with their channels last in memory. Weights laid out alike save a tenth to a half of a step on a CPU; the
    # results are the same up to rounding. The CNN, which sees a view, would be slower.
    return model.to(memory_format=torch.channels_last)


def described(name: str, train: Dataset, test: Dataset, **options) -> Data:
    """Data with a description worked out from them; the digest is of the files, or of some images where they are drawn.

    Args:
        options: more fields of :class:`Data`.
    """

    def describe() -> dict:
        try:
            digest = f"{digest_of(train)}+{digest_of(test)}"
        except AttributeError:
            some = [part[number] for part in (train, test) for number in range(min(4, len(part)))]
            digest = array_digest(*(image.numpy() for image, _ in some), np.array([label for _, label in some]))
        return dict(name=name, digest=digest, n_train=len(train), n_test=len(test), image_size=list(train[0][0].shape[1:]))

    return Data(train, test, name, describe, **options)
