"""Speed limits (§4.4): which limit does a road image of 960 × 1280 pixels show, if any?

``paper`` is as in the paper (§4.4, §H.3), which gives iterations but no batch size: 32 here, the released code's; its networks
normalise each patch in groups of channels, where the paper names no normalisation (:class:`atslib.networks.ResNet`), and the
default estimator is systematic, where the paper's draws without replacement are ``--estimator des_raj``. ``laptop`` is
shorter, its unit-norm features are scaled before the classifier, and its learning rate falls. ``small`` is for drawn images: a
sign is a seventh of the image's width, not a fortieth, so that methods learn within minutes on one core. ``windows`` is for
photographs on one core: a window of 480 × 640 pixels of each, at full resolution, all classes shown equally often, and
attention that starts where the view is red. ``find`` asks less: does a window show *any* speed limit? Each photograph with a
limit also gives a window without it, so that the place says nothing. The updates of both end before signs are read, even if
they are found; ``--set updates=12000`` reads what it was trained on, in over an hour.

The Swedish images are the paper's; where they are not at hand the German ones are taken, then, and always in ``smoke``, drawn
roads (:class:`atslib.data.GeneratedRoads`), and the run's name says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from atslib import data, networks
from atslib.estimators import Estimator
from atslib.experiments.parts import Data, Parts, build, described, profile_of
from atslib.training import Settings

NAME = "speed_limits"
SCALE = 0.3  # of the view: 960 × 1280 -> 288 × 384
PATCH = 100
GRID = (12, 16)


@dataclass(frozen=True)
class Profile:
    """Sizes of an experiment.

    Attributes:
        updates: steps of training, whatever the size of the set; epochs follow.
        size: of the drawn images; n_train, n_test: how many of them.
        n_watch: of the test images, those looked at during training.
        feature_scale: of the unit-norm features before the classifier.
        training: all else.
        sign_width: narrowest and widest sign of the drawn images, in pixels.
        patch, grid: side of the patches, in pixels; rows and columns of Deep MIL's.
        norm: of the feature network and of the CNN, see :class:`atslib.networks.ResNet`. In a time in which the feature network
            learns to read drawn signs with ``"batch"``, it learns nothing with ``"group"``.
        limits: which, see :class:`atslib.data.GTSDB`; other than ``"paper"`` on the German photographs only.
        negatives: whether each photograph with a sign also gives a window without.
        window: height and width of the part of each photograph that is shown (:class:`atslib.data.SignWindows`); None: all of it.
        red_prior: whether attention starts where the view is red (:class:`atslib.networks.SaliencyPrior`).
        fixed_attention: whether attention stays as it starts, and only the rest is trained: what the prior is worth by itself.
    """

    updates: int
    size: tuple[int, int]
    n_train: int
    n_test: int
    n_watch: int
    feature_scale: float
    training: Settings
    sign_width: tuple[int, int] = (16, 28)
    patch: int = PATCH
    grid: tuple[int, int] = GRID
    norm: str = "group"
    limits: str = "paper"
    negatives: bool = False
    window: tuple[int, int] | None = None
    red_prior: bool = False
    fixed_attention: bool = False


_WINDOWS = Profile(
    *(1500, (480, 640), 800, 400, 1000, 16.0),
    Settings(batch_size=16, entropy_weight=0.01, schedule="cosine", balanced=True, test_every=3),
    grid=(6, 8),  # patches as far apart as in the paper
    norm="batch",
    window=(480, 640),
    red_prior=True,
)
PROFILES = {
    "smoke": Profile(4, (240, 320), 16, 8, 8, 16.0, Settings(batch_size=8, entropy_weight=0.05)),
    "laptop": Profile(
        1500, (960, 1280), 800, 400, 200, 16.0, Settings(batch_size=16, entropy_weight=0.05, schedule="cosine", test_every=5)
    ),
    # As many locations as Deep MIL has patches, 4 × 6.
    "small": Profile(
        6000,
        *((120, 160), 800, 400, 200, 16.0),
        Settings(batch_size=16, learning_rate=3e-3, entropy_weight=0.01, schedule="cosine", test_every=10),
        sign_width=(20, 28),
        patch=40,
        grid=(4, 6),
        norm="batch",
    ),
    "windows": _WINDOWS,
    "find": replace(_WINDOWS, limits="any", negatives=True),
    "paper": Profile(
        *(300_000, (960, 1280), 800, 400, 1000, 1.0),
        Settings(batch_size=32, entropy_weight=0.05, clip_norm=None, test_every=50, bfloat16=False),
    ),
}


def build_model(
    n_patches: int = 5,
    estimator: str | Estimator = "systematic",
    profile: str | Profile = "laptop",
    method: str = "ats",
    cnn_scale: float = 1.0,
) -> nn.Module:
    """The model of this experiment, untrained; seed torch first."""
    sizes = profile_of(profile, PROFILES)

    def attention() -> nn.Module:
        network = networks.SpeedLimitsAttention()  # also where it is not used: all else then starts from the same numbers
        network = networks.UniformAttention.like(network) if sizes.fixed_attention else network
        return red_prior(network) if sizes.red_prior else network

    parts = Parts(
        attention=attention,
        features=lambda: networks.ResNet8Features(norm=sizes.norm),
        cnn=lambda: networks.ResNet16(norm=sizes.norm),
        width=32,
        cnn_width=256,
        classes={"paper": 4, "all": 9, "any": 2}[sizes.limits],
        patch_size=sizes.patch,
        scale=SCALE,
        grid=sizes.grid,
        feature_scale=sizes.feature_scale,
    )
    return build(parts, method, n_patches, estimator, cnn_scale)


def red_prior(network: networks.AttentionNetwork | networks.UniformAttention) -> networks.SaliencyPrior:
    """Attention that starts at the reddest pixels: a speed limit's ring is still red in the view, its number gone.

    The square of the peak, so that a few pixels of a ring outweigh a brick wall.
    """
    return networks.SaliencyPrior(network, epsilon=0.01, saliency=networks.redness, peak=True, power=2)


def load_data(profile: str | Profile = "laptop", root: str | None = None, seed: int = 0) -> Data:
    """The Swedish images, else the German ones, else drawn ones.

    Args:
        root: the data root; ``"generated"`` asks for drawn images. Without it real ones are taken where they are found.

    Raises:
        atslib.data.DataError: real ones are there, but not whole, or not at all in the root that was given.
        ImportError: they are there, but not what reads them.
    """
    sizes = profile_of(profile, PROFILES)
    train, test, name, suffix = None, None, "generated roads, a stand-in", "-generated"
    if root != "generated":
        missing = None
        german = partial(data.GTSDB, limits=sizes.limits)
        for kind, *about in (
            *([(data.SwedishTrafficSigns, "Swedish Traffic Signs", "")] if sizes.limits == "paper" else []),
            (german, "German Traffic Sign Detection Benchmark", "-gtsdb"),
        ):
            try:
                train, test = (kind(root, split) for split in ("train", "test"))
                name, suffix = about
                break
            except data.DataMissing as error:
                missing = missing or error
        if train is None and (root is not None or sizes.limits != "paper"):
            raise missing
    elif sizes.limits != "paper":
        raise ValueError(f"limits={sizes.limits!r}: drawn roads have only the paper's; name a data root with the German set")
    if train is not None and sizes.window is not None:
        train, test = (data.SignWindows(part, sizes.window, negatives=sizes.negatives) for part in (train, test))
        name += f", windows of {sizes.window[0]} × {sizes.window[1]}"
    if train is None:
        train, test = (
            data.GeneratedRoads(split, count, sizes.size, sign_width=sizes.sign_width)
            for split, count in (("train", sizes.n_train), ("test", sizes.n_test))
        )
    drawn = suffix == "-generated"
    # On small images the pan is smaller, so that signs stay inside as often.
    shift = round(100 * train[0][0].shape[1] / 960)
    return described(
        name,
        train,
        test,
        suffix=suffix,
        augment=data.Augmentation(contrast=0.2, brightness=0.1, shift=shift),
        class_weights=None
        if sizes.training.balanced
        else tuple(round(weight, 6) for weight in train.class_weights().tolist()),
        unused=("window", "negatives") if drawn else ("size", "n_train", "n_test", "sign_width"),
    )
