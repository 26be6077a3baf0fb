"""Colon cancer (§4.3): does a stained tissue section of 500 × 500 pixels show epithelial nuclei?

``paper`` is as in the paper (§4.3, §H.2), which gives updates but no batch size: 16 here; the default estimator is systematic,
where the paper's draws without replacement are ``--estimator des_raj``. ``laptop`` is shorter, its unit-norm features are
scaled before the classifier, and its learning rate falls. Where the paper's images are not at hand, and in ``smoke`` unless a
data root is named, drawn tissue stands in (:class:`atslib.data.GeneratedHistology`); the run's name says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from atslib import data, networks
from atslib.estimators import Estimator
from atslib.experiments.parts import Data, Parts, build, described, profile_of
from atslib.training import Settings

NAME = "colon_cancer"
SCALE = 0.2  # of the view: 500 -> 100
PATCH = 27
GRID = (50, 50)


@dataclass(frozen=True)
class Profile:
    """Sizes of an experiment.

    Attributes:
        updates: steps of training, whatever the size of the set; epochs follow.
        size: side of the drawn images; n_train, n_test: how many of them.
        n_watch: of the test images, those looked at during training.
        feature_scale: of the unit-norm features before the classifier.
        training: all else.
        scheme: how folds are made, see :class:`atslib.data.ColonCancer`.
    """

    updates: int
    size: int
    n_train: int
    n_test: int
    n_watch: int
    feature_scale: float
    training: Settings
    scheme: str = "stratified"


PROFILES = {
    "smoke": Profile(6, 250, 24, 16, 16, 16.0, Settings(batch_size=8)),
    "laptop": Profile(1500, 500, 400, 200, 200, 16.0, Settings(batch_size=16, schedule="cosine", test_every=5)),
    "paper": Profile(30_000, 500, 400, 200, 200, 1.0, Settings(batch_size=16, clip_norm=None, test_every=50, bfloat16=False)),
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
    parts = Parts(
        attention=networks.ColonCancerAttention,
        features=networks.IlseFeatures,
        cnn=networks.ResNet8,
        width=512,
        cnn_width=32,
        classes=2,
        patch_size=PATCH,
        scale=SCALE,
        grid=GRID,
        feature_scale=sizes.feature_scale,
    )
    return build(parts, method, n_patches, estimator, cnn_scale)


def load_data(profile: str | Profile = "laptop", root: str | None = None, seed: int = 0) -> Data:
    """The paper's images, of which fold ``seed`` modulo 5 is for tests; or drawn ones.

    Args:
        root: the data root; ``"generated"`` asks for drawn images. Without it the paper's are taken where they are found.

    Raises:
        atslib.data.DataError: the paper's are there, but not whole, or not at all in the root that was given.
        ImportError: they are there, but not what reads them.
    """
    sizes = profile_of(profile, PROFILES)
    if root != "generated":
        try:
            fold = seed % 5
            train, test = (data.ColonCancer(root, split, fold=fold, scheme=sizes.scheme) for split in ("train", "test"))
            return described(
                f"CRCHistoPhenotypes, {sizes.scheme} fold {fold}",
                train,
                test,
                augment=_augmentation(),
                unused=("size", "n_train", "n_test"),
            )
        except data.DataMissing:
            if root is not None:
                raise
    train, test = (
        data.GeneratedHistology(split, count, sizes.size) for split, count in (("train", sizes.n_train), ("test", sizes.n_test))
    )
    return described(
        "generated histology, a stand-in", train, test, suffix="-generated", augment=_augmentation(), unused=("scheme",)
    )


def _augmentation():
    return data.Augmentation(contrast=0.2, brightness=0.1)
