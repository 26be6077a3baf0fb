"""Training: it learns, it resumes to the same numbers, it refuses what does not fit."""

import itertools
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

import atslib.training
from atslib.checkpoints import load_checkpoint, load_weights, read_position, save_checkpoint, save_weights
from atslib.data import ImageFiles, MegapixelMNIST, Padded
from atslib.estimators import entropy
from atslib.fingerprints import how_it_computes, which_images
from atslib.loading import (
    InMemory,
    LabelledImages,
    Loader,
    _Batch,
    _heedless,
    _linger,
    collate,
    epoch_batches,
    known_labels,
    seed_for,
)
from atslib.models import AttentionSampling, DeepMIL, Output, UniformSampling
from atslib.networks import AttentionNetwork, Classifier, LeNetFeatures, MegapixelMNISTAttention, MILAttention, SaliencyPrior
from atslib.patches import overlaps
from atslib.prediction import predict
from atslib.processes import Processes, device_of
from atslib.signals import StopSignals
from atslib.training import Settings, StopTraining, attention_loss, evaluate, train


def model(seed=0):
    torch.manual_seed(seed)
    return AttentionSampling(
        AttentionNetwork(nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 1, 3, padding=1)),
        LeNetFeatures(width=4),
        Classifier(4, 10, scale=16),
        patch_size=28,
        n_patches=3,
    )


def data(split="train", n=24):
    return MegapixelMNIST(split, n, size=120, n_digits=2, n_same=2, n_noise=1)


SETTINGS = Settings(epochs=3, batch_size=8, schedule="cosine", bfloat16=False)


def weights(trained):
    return torch.cat([p.detach().flatten() for p in trained.parameters()])


def without_times(curve):
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in curve]


def test_loss_is_eq_21():
    logits, labels = torch.randn(4, 10), torch.tensor([1, 2, 3, 4])
    log_attention = torch.randn(4, 30).log_softmax(1).view(4, 5, 6)
    out = Output(logits=logits, log_attention=log_attention, index=None, pooled=logits)
    loss, cross_entropy = attention_loss(out, labels, entropy_weight=0.3)
    by_hand = torch.stack([-logits.log_softmax(1)[i, label] for i, label in enumerate(labels)]).mean()
    torch.testing.assert_close(cross_entropy, by_hand)
    torch.testing.assert_close(loss, by_hand - 0.3 * entropy(log_attention).mean())


def test_class_weights_count_per_image():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 2])
    out = Output(logits=logits, log_attention=None, index=None, pooled=logits)
    loss, cross_entropy = attention_loss(out, labels, class_weights=torch.tensor([2.0, 0.0, 1.0]))
    by_hand = -logits.log_softmax(1)
    torch.testing.assert_close(loss, (2 * by_hand[0, 0] + by_hand[2, 2] + by_hand[3, 2]) / 4)
    assert loss == cross_entropy  # a method without attention has no entropy


@pytest.mark.parametrize(
    "labels",
    [torch.tensor([0.0, 2.0]), torch.tensor([[1, 0, 1], [0, 1, 1]]), torch.tensor([[0], [2]]), torch.tensor([0]), [0, 2]],
    ids=["numbers", "several an image", "a column", "too few", "a list"],
)
def test_labels_that_are_not_one_class_an_image(labels):
    out = Output(logits=torch.zeros(2, 3), log_attention=None, index=None, pooled=torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"expected logits \(B, classes\) and a tensor \(B,\) of whole numbers"):
        attention_loss(out, labels)


def test_labels_of_any_whole_type_and_weights_of_any_kind():
    out = Output(logits=torch.randn(2, 2), log_attention=None, index=None, pooled=torch.zeros(2, 1))
    expected = attention_loss(out, torch.tensor([0, 1]), class_weights=torch.tensor([1.0, 3.0]))[0]
    for labels in (torch.tensor([0, 1], dtype=torch.int32), torch.tensor([False, True])):
        assert attention_loss(out, labels, class_weights=[1, 3])[0] == expected


def test_schedules():
    step = Settings(epochs=10, schedule="step", milestones=(5, 8))
    assert [round(step.learning_rate_at(done) / 1e-3, 6) for done in (0, 4.99, 5, 8)] == [1, 1, 0.1, 0.01]
    cosine = Settings(epochs=10, schedule="cosine")
    assert [round(cosine.learning_rate_at(done) / 1e-3, 6) for done in (0, 5, 10)] == [1, 0.5, 0]
    assert Settings().learning_rate_at(7) == 1e-3


class Noisy:
    """An augmentation that anyone would notice."""

    def __call__(self, images, generator):
        noise = torch.randint(0, 40, images.shape, generator=generator)
        return (images.int() + noise).clamp(max=255).to(images.dtype)

    def __repr__(self):
        return "Noisy()"


class Dropping(nn.Module):
    """A model with randomness of its own, from the global generator, and without attention."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.AvgPool2d(20), nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 10))

    def forward(self, image, *, generator=None):
        logits = self.layers(image / 255)
        return Output(logits=logits, log_attention=None, index=None, pooled=logits)


@pytest.fixture(scope="module")
def uninterrupted():
    whole = model()
    curve = train(whole, data(), data("test", 8), SETTINGS, augment=Noisy(), progress=False)
    return curve, weights(whole)


def test_curve(uninterrupted):
    curve, _ = uninterrupted
    assert [entry["epoch"] for entry in curve] == [1, 2, 3]
    assert list(curve[0]) == ["epoch", "seconds", "train_loss", "train_error", "entropy", "test_loss", "test_error"]


def test_each_step_is_reported_once_with_its_new_weights(tmp_path):
    trained, seen, last = model(), [], weights(model())

    def on_step(*place):
        nonlocal last
        seen.append(place)
        now = weights(trained).clone()
        assert not torch.equal(now, last)
        last = now

    again = dict(checkpoint=tmp_path / "c.pt", progress=False, on_step=on_step)
    while len(train(trained, data(), None, SETTINGS, max_seconds=0, **again)) < SETTINGS.epochs:
        pass
    assert seen == [(epoch, step, 3) for epoch in (1, 2, 3) for step in (1, 2, 3)]


def test_stopped_at_every_step_is_the_same_run(tmp_path, uninterrupted):
    path, curves = tmp_path / "run.pt", []
    for session in range(20):
        resumed = model(seed=session)  # its weights come from the checkpoint
        options = dict(checkpoint=path, max_seconds=0, augment=Noisy(), progress=False)
        curves.append(train(resumed, data(), data("test", 8), SETTINGS, **options))
        assert not list(tmp_path.glob("*.part"))
        if len(curves[-1]) == SETTINGS.epochs:
            break
    assert [len(curve) for curve in curves[:4]] == [0, 0, 0, 1]  # three steps an epoch, one a session
    assert without_times(curves[-1]) == without_times(uninterrupted[0])
    assert torch.equal(weights(resumed), uninterrupted[1])


def test_global_randomness_resumes_too(tmp_path):
    def run(**options):
        trained = seeded(Dropping)
        return train(trained, data(), None, SETTINGS, progress=False, **options), weights(trained)

    curve, expected = run()
    assert "entropy" not in curve[0]
    path = tmp_path / "run.pt"
    while len(run(checkpoint=path, max_seconds=0)[0]) < SETTINGS.epochs:
        pass
    resumed, found = run(checkpoint=path)
    assert without_times(resumed) == without_times(curve) and torch.equal(found, expected)


def seeded(kind):
    torch.manual_seed(0)
    return kind()


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from test_training import SETTINGS, Noisy, data, model
from atslib.training import train

class Slow:
    def __len__(self):
        return len(data())
    def __getitem__(self, number):
        time.sleep(0.02)
        return data()[number]

options = dict(checkpoint={path!r}, save_every=0, augment=Noisy(), progress=False, workers={workers})
train(model(), Slow(), data("test", 8), SETTINGS, **options)
"""


def start(path, workers=0, **options):
    """A run in a process of its own, which saves after each step."""
    code = KILLED.format(tests=str(Path(__file__).parent), path=str(path), workers=workers)
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, **options)


def wait_for_mid_epoch(process, path, epochs_done=1):
    while process.poll() is None:
        if path.exists():
            position = torch.load(path, weights_only=True)["position"]
            if len(position["curve"]) >= epochs_done and position["step"] > 0:
                return
        time.sleep(0.01)
    raise AssertionError(f"the run ended before it could be stopped: {process.stderr.read()}")


def test_killed_in_mid_epoch_and_resumed_is_the_same_run(tmp_path, uninterrupted):
    path = tmp_path / "run.pt"
    process = start(path)
    wait_for_mid_epoch(process, path)
    process.kill()  # SIGKILL: no chance to tidy up
    assert process.wait() == -signal.SIGKILL
    position = torch.load(path, weights_only=True)["position"]
    assert position["step"] > 0 and len(position["curve"]) < SETTINGS.epochs
    resumed = model(seed=99)
    curve = train(resumed, data(), data("test", 8), SETTINGS, checkpoint=path, augment=Noisy(), progress=False)
    assert without_times(curve) == without_times(uninterrupted[0])
    assert torch.equal(weights(resumed), uninterrupted[1])


def test_a_signal_stops_training_with_a_checkpoint(tmp_path, uninterrupted):
    path = tmp_path / "run.pt"
    seen = []

    class Interrupting(MegapixelMNIST):
        def __getitem__(self, number):
            seen.append(number)
            if len(seen) == 30:  # in the second epoch
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__getitem__(number)

    interrupting = Interrupting("train", 24, size=120, n_digits=2, n_same=2, n_noise=1)
    before = signal.getsignal(signal.SIGTERM)
    options = dict(checkpoint=path, augment=Noisy(), progress=False)
    assert len(train(model(), interrupting, data("test", 8), SETTINGS, **options)) == 1
    assert torch.load(path, weights_only=True)["position"]["step"] == 1
    assert signal.getsignal(signal.SIGTERM) is before
    curve = train(model(seed=99), data(), data("test", 8), SETTINGS, **options)
    assert without_times(curve) == without_times(uninterrupted[0])


def test_sigterm_to_all_of_a_job_leaves_a_checkpoint_though_workers_read(tmp_path, uninterrupted):
    """As a cluster stops one: workers hear of it, too, and are still asked for what the step needs."""
    path = tmp_path / "run.pt"
    process = start(path, workers=2, start_new_session=True)
    wait_for_mid_epoch(process, path)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait() == 0, process.stderr.read()
    with pytest.raises(ProcessLookupError):  # nobody is left
        os.killpg(process.pid, signal.SIGTERM)
    curve = train(model(seed=99), data(), data("test", 8), SETTINGS, checkpoint=path, augment=Noisy(), progress=False)
    assert without_times(curve) == without_times(uninterrupted[0])


@pytest.mark.parametrize("how", ["workers", "in memory"])
def test_how_images_are_read_changes_nothing(how, uninterrupted):
    trained = model()
    train_set, workers = (InMemory(data()), 0) if how == "in memory" else (data(), 2)
    train(trained, train_set, None, SETTINGS, augment=Noisy(), workers=workers, progress=False)
    assert torch.equal(weights(trained), uninterrupted[1])


def test_balanced_epochs_show_every_class_as_often():
    labels = torch.tensor([0] * 20 + [1] * 3 + [2] * 8)
    of_class, of_image = torch.zeros(3), torch.zeros(31)
    for epoch in range(1, 31):
        batches = epoch_batches(31, 8, seed=0, epoch=epoch, labels=labels)
        assert [len(batch) for batch in batches] == [8, 8, 8, 7]
        numbers = torch.tensor([number for batch in batches for number in batch])
        visits = torch.bincount(numbers, minlength=31)
        shares = torch.bincount(labels[numbers], minlength=3)
        assert sorted(shares.tolist()) == [10, 10, 11]
        for value in range(3):  # all of a small class before any of it once more
            assert visits[labels == value].max() - visits[labels == value].min() <= 1
        of_class, of_image = of_class + shares, of_image + visits
    # The visit that is left over goes to each class in turn, on average.
    assert of_class.max() - of_class.min() <= 15
    assert of_image[labels == 0].min() > 5  # of 15: none is forgotten
    assert epoch_batches(31, 8, 0, 1, labels) == epoch_batches(31, 8, 0, 1, labels) != epoch_batches(31, 8, 0, 2, labels)


def test_balanced_epochs_of_equal_classes_are_permutations():
    batches = epoch_batches(12, 5, seed=0, epoch=1, labels=torch.arange(12) % 3)
    assert sorted(number for batch in batches for number in batch) == list(range(12))


class Labelled(MegapixelMNIST):
    """Two images of one digit, all others of another."""

    labels = torch.tensor([0, 0] + [1] * 22)

    def __getitem__(self, number):
        return super().__getitem__(number)[0], int(self.labels[number])


def test_a_balanced_run_stops_and_resumes_to_the_same_numbers(tmp_path):
    settings, dataset = replace(SETTINGS, balanced=True), Labelled("train", 24, size=120, n_digits=2, n_same=2, n_noise=1)
    whole = model()
    curve = train(whole, dataset, None, settings, augment=Noisy(), progress=False)
    options = dict(augment=Noisy(), progress=False, checkpoint=tmp_path / "run.pt", max_seconds=0)
    parts = model()
    while len(train(parts, dataset, None, settings, **options)) < 3:
        parts = model(seed=99)
    assert torch.equal(weights(whole), weights(parts))
    resumed = torch.load(tmp_path / "run.pt", weights_only=True)["position"]["curve"]
    assert without_times(curve) == without_times(resumed)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_an_image_shown_twice_is_changed_in_two_ways(batch_size):
    """In a balanced epoch the two images of the small class come six times each, with eight images a batch also twice in one."""
    dataset = Labelled("train", 24, size=120, n_digits=2, n_same=2, n_noise=1)
    seen = []

    def note(image, generator):
        seen.append(torch.rand((), generator=generator).item())
        return image

    train(model(), dataset, None, replace(SETTINGS, epochs=1, batch_size=batch_size, balanced=True), augment=note, progress=False)
    assert len(seen) == len(set(seen)) == 24


def test_balanced_needs_labels():
    items = [data()[number] for number in range(8)]  # a list has a length and items, and no labels
    for dataset, kind in ((items, "list"), (Subset(items, range(4)), "Subset")):
        with pytest.raises(ValueError, match=f"{kind} has no attribute labels"):
            train(model(), dataset, None, replace(SETTINGS, balanced=True), progress=False)
    more = data()
    more.n_images = 20  # of the labels there are 24 still
    assert len(data().labels) == 24
    more.labels = data().labels
    with pytest.raises(ValueError, match="balanced=True: 24 labels for 20 images, expected one for each"):
        train(model(), more, None, replace(SETTINGS, balanced=True), progress=False)


@pytest.mark.parametrize("labels", [["cat", "dog"], torch.tensor([0, 1])], ids=["names", "numbers of the names"])
def test_balanced_needs_the_class_of_each_image(labels):
    dataset = Labelled("train", 24, size=120, n_digits=2, n_same=2, n_noise=1)
    dataset.labels = labels
    with pytest.raises(ValueError, match="balanced=True: the attribute labels of Subset is not the class of each image"):
        train(model(), Subset(dataset, [3, 4, 5]), None, replace(SETTINGS, balanced=True), progress=False)


def test_an_augmentation_of_the_image_alone_is_refused_before_the_first_step():
    with pytest.raises(ValueError, match=r"expected a function of an image \(1, C, H, W\) and a torch.Generator, lambda image"):
        train(model(), data(), None, SETTINGS, augment=nn.Identity().forward, progress=False)


def test_settings_of_another_type():
    with pytest.raises(ValueError, match=r"settings of type dict: expected atslib.training.Settings\(…\)"):
        train(model(), data(), None, dict(epochs=1), progress=False)
    with pytest.raises(ValueError, match="epochs='3': expected a whole number"):
        Settings(epochs="3")


def test_masks_of_ones_as_images_are_warned_of():
    masks = [(image.gt(0).to(torch.uint8), label) for image, label in data()]
    with pytest.warns(UserWarning, match="uint8 images of zeros and ones in the first batch"):
        train(model(), masks, None, replace(SETTINGS, epochs=1), progress=False)


def test_an_augmentation_that_is_a_function_resumes(tmp_path):
    """In another process it has another address."""

    def flipped(image, generator):
        return image.flip(3)

    def elsewhere(image, generator):
        return image.flip(3)

    elsewhere.__qualname__ = flipped.__qualname__
    assert repr(elsewhere) != repr(flipped)
    options = dict(checkpoint=tmp_path / "run.pt", progress=False)
    assert not train(model(), data(), None, SETTINGS, augment=flipped, max_seconds=0, **options)
    assert len(train(model(), data(), None, SETTINGS, augment=elsewhere, **options)) == SETTINGS.epochs


def test_frozen_parts_stay_in_evaluation_mode():
    trained = model()
    trained.features = nn.Sequential(nn.Conv2d(1, 8, 5), nn.BatchNorm2d(8), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    trained.classifier = Classifier(8, 10)
    trained.features.requires_grad_(False)[1].eval()
    train(trained, data(), data("test", 8), replace(SETTINGS, epochs=2), progress=False)
    assert trained.training and trained.features.training and not trained.features[1].training
    assert not trained.features[1].running_mean.any()
    trained.eval()  # the whole of it, as evaluation leaves it with some: that freezes nothing
    with pytest.warns(UserWarning, match="frozen weights") as said:
        train(trained, data(), None, replace(SETTINGS, epochs=1), progress=False)
    assert trained.features[1].running_mean.any() and [warning.filename for warning in said] == [__file__]


def test_a_test_that_fails_costs_no_epoch(tmp_path):
    class Broken:
        def __len__(self):
            return 8

        def __getitem__(self, number):
            raise ValueError("a damaged file")

    path, trained = tmp_path / "run.pt", model()
    with pytest.raises(ValueError, match="a damaged file"):
        train(trained, data(), Broken(), SETTINGS, checkpoint=path, progress=False)
    resumed, whole = model(), model()
    curve = train(resumed, data(), data("test", 8), SETTINGS, checkpoint=path, progress=False)
    expected = train(whole, data(), data("test", 8), SETTINGS, progress=False)
    for entry, other in zip(curve, expected, strict=True):
        assert {**entry, "seconds": 0} == {**other, "seconds": 0}
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_labels_of_the_test_set_are_looked_at_first(tmp_path):
    test_set = InMemory(data("test", 8))
    test_set.labels = test_set.labels + 10
    with pytest.raises(ValueError, match="expected 0 to 9"):
        train(model(), data(), test_set, SETTINGS, checkpoint=tmp_path / "run.pt", progress=False)
    assert not (tmp_path / "run.pt").exists()  # before the first step was over


@pytest.mark.parametrize("run", [lambda a_set: train(model(), a_set, None, SETTINGS), lambda a_set: evaluate(model(), a_set)])
def test_what_is_no_set_is_named(run):
    with pytest.raises(ValueError, match=r"a DataLoader for a .* set: expected the set itself"):
        run(DataLoader(data()))
    with pytest.raises(ValueError, match=r"a generator for a .* set: expected a set with a length"):
        run(item for item in data())


def test_what_cannot_be_trained_is_named():
    frozen = model().requires_grad_(False)
    with pytest.raises(ValueError, match="AttentionSampling has no parameter with requires_grad"):
        train(frozen, data(), None, SETTINGS, progress=False)
    with pytest.raises(ValueError, match="learning_rate=0 with an optimiser"):
        still = replace(SETTINGS, learning_rate=0.0)
        train(model(), data(), None, still, optimiser=lambda m: torch.optim.SGD(m.parameters(), lr=0.1), progress=False)
    with pytest.raises(ValueError, match="optimiser LBFGS: expected one that makes a step from one gradient"):
        train(model(), data(), None, SETTINGS, optimiser=lambda m: torch.optim.LBFGS(m.parameters()), progress=False)


def test_items_are_pairs():
    class Triples(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, number):
            return (*data()[number], "name")

    with pytest.raises(ValueError, match=r"expected each item of the set to be \(image, label\)"):
        evaluate(model(), Triples(), progress=False)


def test_in_memory_of_a_part_keeps_the_classes():
    whole = InMemory(data())
    whole.classes = tuple("abcdefghij")
    assert InMemory(Subset(Subset(whole, [0, 1, 2]), [0])).classes == whole.classes


def test_evaluate_gives_the_logits():
    found = evaluate(model(), data(), progress=False)
    assert torch.equal(found["logits"].argmax(1), found["predicted"])
    assert nn.functional.cross_entropy(found["logits"], found["labels"]).item() == found["loss"]


def test_in_memory_wants_one_size():
    images = [(torch.zeros(1, side, side, dtype=torch.uint8), 0) for side in (8, 9)]
    with pytest.raises(ValueError, match=r"image 1 is \(1, 9, 9\), image 0 \(1, 8, 8\)"):
        InMemory(images)
    with pytest.raises(ValueError, match=r"torch\.float32"):
        InMemory([(torch.zeros(1, 8, 8), 0)])
    arrays = InMemory([(np.full((1, 8, 8), fill, dtype=np.uint8), fill) for fill in (3, 5)])
    assert arrays.images[:, 0, 0, 0].tolist() == arrays.labels.tolist() == [3, 5]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_wants_one_size(workers):
    """Images of several sizes can be used one by one, and only so."""
    images = [(torch.zeros(1, side, 120, dtype=torch.uint8), 0) for side in (120, 130)]
    with pytest.raises(ValueError, match=r"different sizes in one batch, \(1, 120, 120\) and \(1, 130, 120\): crop them"):
        evaluate(model(), images, batch_size=2, workers=workers, progress=False)
    assert evaluate(model(), images, batch_size=1, workers=workers, progress=False)["n"] == 2


def test_labels_are_whole_numbers():
    images = [torch.zeros(1, 120, 120, dtype=torch.uint8)] * 2
    assert evaluate(model(), [(image, np.int32(1)) for image in images], progress=False)["labels"].tolist() == [1, 1]
    for label in (0.5, "cat", [1]):
        with pytest.raises(ValueError, match="expected a whole number, the position of the image's class"):
            evaluate(model(), [(image, label) for image in images], progress=False)


@pytest.mark.parametrize("known", [False, True], ids=["from the batch", "from the set"])
def test_labels_are_classes_of_the_model(known):
    """Neither PyTorch's IndexError after a whole pass, nor its −100, which the loss would pass over in silence."""
    images = [torch.zeros(1, 120, 120, dtype=torch.uint8)] * 2
    for label in (10, -100):
        labelled = [(image, label) for image in images]
        labelled = InMemory(labelled) if known else labelled
        for run in (lambda s: train(model(), s, None, SETTINGS, progress=False), lambda s: evaluate(model(), s, progress=False)):
            with pytest.raises(ValueError, match=rf"label {label}: expected 0 to 9, for the model answers with 10 classes"):
                run(labelled)
    last = [(images[0], label) for label in (0, 1, 2, 3, 10)]  # in the last batch only
    with pytest.raises(ValueError, match="label 10: expected 0 to 9"):
        train(model(), InMemory(last) if known else last, None, replace(SETTINGS, batch_size=2), progress=False)
    out = Output(torch.zeros(2, 3), None, None, torch.zeros(2, 1))
    with pytest.raises(ValueError, match="label 3: expected 0 to 2"):
        attention_loss(out, torch.tensor([0, 3]))
    out = Output(torch.zeros(2, 1), None, None, torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"answers with 1 class; for yes or no it needs two, or a loss of your own: .*\[:, 0\]"):
        attention_loss(out, torch.tensor([0, 1]))
    out = Output(torch.zeros(2, 3), None, None, torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"class_weights of shape \(2,\): expected one for each of 3 classes"):
        attention_loss(out, torch.tensor([0, 1]), class_weights=torch.ones(2))
    with pytest.raises(ValueError, match=r"class_weights of shape \(9,\): expected one for each of 10 classes"):
        train(model(), data(), None, replace(SETTINGS, class_weights=(1.0,) * 9), progress=False)


def test_other_sets_may_mean_anything_by_labels():
    class Named(list):
        labels = ("good", "torn")
        classes = 2

    images = Named((torch.zeros(1, 120, 120, dtype=torch.uint8), k) for k in range(2))
    assert evaluate(model(), images, progress=False)["n"] == 2 and InMemory(images).classes == ("0", "1")
    assert len(train(model(), images, None, replace(SETTINGS, epochs=1), progress=False)) == 1


def test_in_memory_labels_are_those_of_the_set():
    images = [torch.zeros(1, 8, 8, dtype=torch.uint8)] * 3
    for label in (1.9, "cat", [1]):
        with pytest.raises(ValueError, match=r"image 1 has the label .*: expected a whole number"):
            InMemory([(images[0], 0), (images[1], label)])
    drawn = data()
    kept = InMemory(drawn)
    assert kept.classes == drawn.classes and torch.equal(kept.class_weights(), drawn.class_weights())
    assert kept.first(5).class_counts().sum() == 5
    assert InMemory([(image, label) for image, label in zip(images, (0, 2, 2), strict=True)]).classes == ("0", "1", "2")


def test_training_stays_on_the_models_device(monkeypatch):
    """A model that was moved to a GPU is not brought back; "meta" stands in for one."""
    asked = []

    def stop(device):
        asked.append(torch.device(device).type)
        raise InterruptedError

    monkeypatch.setattr(atslib.training, "Processes", stop)
    for where, device in (("meta", None), ("cpu", None), ("cpu", "meta")):
        with pytest.raises(InterruptedError):
            train(model().to(where), data(), None, SETTINGS, device=device)
    assert asked == ["meta", "cpu", "meta"]


def test_a_checkpoint_of_another_way_to_look_is_refused(tmp_path):
    """Numbers of patches, scales, estimators and kinds of layers are not in the weights, and yet not the same training."""
    checkpoint = tmp_path / "c.pt"
    train(model(), data(), None, SETTINGS, checkpoint=checkpoint, progress=False)
    other = model()
    other.n_patches += 1
    with pytest.raises(ValueError, match=rf"other settings .*n_patches={other.n_patches}"):
        train(other, data(), None, SETTINGS, checkpoint=checkpoint, progress=False)
    other = model()
    other.fill = 200
    with pytest.raises(ValueError, match=r"other settings .*fill=200"):
        train(other, data(), None, SETTINGS, checkpoint=checkpoint, progress=False)
    other = model()
    other.classifier.scale = 16.0
    with pytest.raises(ValueError, match=r"other settings .*scale=16"):
        train(other, data(), None, SETTINGS, checkpoint=checkpoint, progress=False)
    other = model()
    next(part for part in other.modules() if isinstance(part, nn.Conv2d)).padding_mode = "circular"
    with pytest.raises(ValueError, match=r"other settings .*layers"):
        train(other, data(), None, SETTINGS, checkpoint=checkpoint, progress=False)


def test_batch_statistics_of_several_processes_are_refused():
    """Each would have those of its share, and the weights that are kept would be tested with none of them."""

    class Two(Processes):
        world = 2

    network = model()
    network.features = nn.Sequential(network.features, nn.BatchNorm1d(32))
    with pytest.raises(ValueError, match="batch normalisation in 2 processes"):
        train(network, data(), None, SETTINGS, progress=False, processes=Two("cpu"))


class DrawsItsOwn(torch.utils.data.Dataset):
    """Images that are noise, new each time, from the global random numbers of the process that draws them."""

    def __len__(self):
        return 4

    def __getitem__(self, number):
        return torch.rand(1, 120, 120), number % 2


def test_workers_do_not_repeat_their_random_numbers():
    seen = []

    class Noting(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))

        def forward(self, image, generator=None):
            seen.append(image.mean().item())
            return Output(self.scale.expand(len(image), 2), None, None, None)

    train(Noting(), DrawsItsOwn(), None, replace(SETTINGS, epochs=3, batch_size=4), workers=1, progress=False)
    assert len(set(seen)) == len(seen) == 3


def test_evaluate_leaves_the_mode_as_it_was():
    trained = model().train()
    with pytest.raises(ValueError, match="different sizes"):
        evaluate(trained, [(torch.zeros(1, side, 120, dtype=torch.uint8), 0) for side in (120, 130)], progress=False)
    assert trained.training
    trained.features.eval()  # as one who trains the attention alone
    evaluate(trained, data(), progress=False)
    assert trained.training and trained.attention.training and not any(part.training for part in trained.features.modules())


def test_what_is_empty_is_named(tmp_path):
    nothing = data()
    nothing = torch.utils.data.Subset(nothing, [])
    with pytest.raises(ValueError, match="training set of 0 images"):
        train(model(), nothing, None, SETTINGS, progress=False)
    with pytest.raises(ValueError, match="data set of 0 images"):
        evaluate(model(), nothing, progress=False)
    with pytest.raises(ValueError, match="data set of 0 images"):
        InMemory(nothing)


def test_settings_from_arrays_and_tensors_resume(tmp_path):
    """Weights of classes are computed, so they come as what computes them; a checkpoint holds plain numbers."""
    weights_of = 1 / np.bincount([0, 1, 1])
    for given in (tuple(weights_of), torch.tensor(weights_of), [1.0, 0.5]):
        settings = replace(SETTINGS, learning_rate=np.float64(1e-3), class_weights=given, epochs=np.int64(1))
        assert settings == replace(SETTINGS, class_weights=(1.0, 0.5), epochs=1)
    settings = replace(SETTINGS, class_weights=np.full(10, 0.5), epochs=1)
    path = tmp_path / "run.pt"
    assert not train(model(), data(), None, settings, checkpoint=path, max_seconds=0, progress=False)
    assert len(train(model(), data(), None, settings, checkpoint=path, progress=False)) == 1


def test_a_run_ends_in_the_precision_it_was_begun_in(tmp_path, monkeypatch):
    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.autocast = model(), []

        def forward(self, image, *, generator=None):
            self.autocast.append(torch.is_autocast_enabled("cpu"))
            return self.inner(image, generator=generator)

    left_open, path = replace(SETTINGS, epochs=1, bfloat16=None), tmp_path / "run.pt"
    for here, steps in ((True, 1), (False, 2)):  # one step on a machine with bfloat16, the others on one without
        monkeypatch.setattr("atslib.training.has_bfloat16", lambda device, here=here: here)
        watched = Watched()
        train(watched, data(), None, left_open, checkpoint=path, max_seconds=0 if here else math.inf, progress=False)
        assert watched.autocast == [True] * steps
    assert read_position(path)["bfloat16"] is True


def test_progress_says_how_it_goes(capsys, monkeypatch):
    monkeypatch.setattr("tqdm.std.time", itertools.count().__next__)  # a second from look to look: every step is drawn
    train(model(), data(), None, replace(SETTINGS, epochs=1), progress=True)
    shown = capsys.readouterr().err
    assert all(word in shown for word in ("epoch 1/1", "loss=", "error=", "entropy=", "images/s=", "left="))


def test_the_bar_is_not_drawn_at_every_step(capsys, monkeypatch):
    """A fiftieth of a second a step, by a clock of its own: five steps to a tenth of a second, tqdm's least time between two."""
    now = [0.0]

    def next_step(*_):
        now[0] += 0.02

    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    train(Dropping(), [(torch.rand(1, 120, 120), 0)] * 300, None, Settings(epochs=1, batch_size=1), on_step=next_step)
    assert 10 < capsys.readouterr().err.count("epoch 1/1") < 100


def test_another_seed_is_another_run():
    one, other = (train(model(), data(), None, replace(SETTINGS, epochs=1, seed=s), progress=False) for s in (0, 1))
    assert one[0]["train_loss"] != other[0]["train_loss"]


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    train(model(), data(), None, replace(SETTINGS, epochs=1), checkpoint=path, progress=False)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"other settings \(batch_size was 8, is 4; learning_rate was 0.001, is 0.1\)"):
        train(
            model(), data(), None, replace(SETTINGS, epochs=1, batch_size=4, learning_rate=0.1), checkpoint=path, progress=False
        )
    with pytest.raises(ValueError, match=r"other settings \(epochs was 1, is 2\)"):  # other epochs, with the schedule "cosine"
        train(model(), data(), None, replace(SETTINGS, epochs=2), checkpoint=path, progress=False)
    assert path.read_bytes() == before


@pytest.mark.parametrize("schedule", [dict(schedule="constant"), dict(schedule="step", milestones=(1, 3))])
def test_a_run_that_is_done_can_be_given_more_epochs(tmp_path, schedule):
    path = tmp_path / "run.pt"

    def run(epochs, **options):
        trained = model()
        settings = replace(SETTINGS, epochs=epochs, **schedule)
        return train(trained, data(), data("test", 8), settings, augment=Noisy(), progress=False, **options), weights(trained)

    for epochs in (1, 2):
        run(epochs, checkpoint=path)
    while len(run(4, checkpoint=path, max_seconds=0)[0]) < 4:
        pass
    (curve, found), (expected_curve, expected) = run(4, checkpoint=path), run(4)
    assert without_times(curve) == without_times(expected_curve) and torch.equal(found, expected)
    with pytest.raises(ValueError, match=r"run\.pt is in epoch 4 already, settings ask for 3 epochs"):
        run(3, checkpoint=path)
    with pytest.raises(ValueError, match=r"other settings \(epochs was 4, is 5; schedule was "):
        train(model(), data(), None, replace(SETTINGS, epochs=5), augment=Noisy(), checkpoint=path, progress=False)


def test_a_checkpoint_of_other_data_or_another_model_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    train(model(), data(), None, replace(SETTINGS, epochs=1), checkpoint=path, progress=False)
    with pytest.raises(ValueError, match="n_train was 24, is 16; augment was None, is 'Noisy\\(\\)'"):
        train(model(), data(n=16), None, replace(SETTINGS, epochs=1), augment=Noisy(), checkpoint=path, progress=False)
    with pytest.raises(ValueError, match=r"layers.3.weight was None, is \(10, 36\)"):
        train(Dropping(), data(), None, replace(SETTINGS, epochs=1), checkpoint=path, progress=False)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    train(model(), data(), None, replace(SETTINGS, epochs=1), checkpoint=path, progress=False)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="no checkpoint that can be read"):
            train(model(), data(), None, replace(SETTINGS, epochs=1), checkpoint=path, progress=False)
        assert path.read_bytes() == damaged


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_training_and_keeps_the_checkpoint(tmp_path, what):
    path = tmp_path / "run.pt"
    broken = model()
    train(broken, data(), None, SETTINGS, checkpoint=path, max_seconds=0, progress=False)
    before, weights_before = path.read_bytes(), weights(broken).clone()
    if what == "loss":
        broken.classifier.register_forward_hook(lambda module, inputs, output: output * torch.nan)
    else:
        broken.classifier.linear.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(FloatingPointError, match=r"not finite in epoch 1, step 2: .* than 0.001 .* good step before it"):
        train(broken, data(), None, SETTINGS, checkpoint=path, save_every=0, progress=False)
    assert path.read_bytes() == before
    assert torch.equal(weights(broken), weights_before)


def test_weights_that_are_not_finite_are_named_where_numbers_are_seldom_looked_at(monkeypatch):
    """As on a GPU, where the next steps run before anyone looks: attention of NaN is then the consequence, not the cause."""
    monkeypatch.setitem(atslib.training._LOOK_EVERY, "cpu", 16)
    broken = model()
    broken.classifier.linear.weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(FloatingPointError, match="not finite in epoch 1, step 2"):
        train(broken, data(), None, SETTINGS, progress=False)


def test_evaluate_counts_errors():
    class Constant(nn.Module):
        def forward(self, image, generator=None):
            logits = torch.zeros(len(image), 10)
            logits[:, 4] = 1
            return Output(logits=logits, log_attention=None, index=None, pooled=None)

    dataset = data("test", 40)
    result = evaluate(Constant(), dataset, batch_size=16, progress=False)
    fours = sum(dataset[i][1] == 4 for i in range(40))
    assert result["error"] == pytest.approx(1 - fours / 40)
    assert result["n"] == 40 and (result["predicted"] == 4).all()
    assert result["stderr"] == pytest.approx((result["error"] * (1 - result["error"]) / 40) ** 0.5)


@pytest.mark.parametrize(
    "options",
    [{"schedule": "linear"}, {"epochs": 0}, {"batch_size": 0}, {"milestones": (3,)}, {"clip_norm": 0.0}, {"test_every": 0}]
    + [{"balanced": True, "class_weights": (1.0, 2.0)}, {"epochs": 2.5}, {"seed": -1}],
)
def test_bad_settings(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Settings(**options)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path):
    path, network = tmp_path / "run.pt", nn.Linear(2, 2)
    adam = torch.optim.Adam(network.parameters())
    save_checkpoint(path, network, adam, {}, dict(step=1))
    before = path.read_bytes()

    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # as of a disk with 100 bytes left
    try:
        with pytest.raises(OSError, match="File too large"):  # and not PyTorch's RuntimeError, which does not say why
            save_checkpoint(path, network, adam, {}, dict(step=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_refused_checkpoint_changes_nothing(tmp_path):
    path, network, other = tmp_path / "run.pt", nn.Linear(2, 2), nn.Linear(2, 2)
    save_checkpoint(path, network, torch.optim.Adam(network.parameters()), dict(a=1, old=2), {})
    before = other.weight.detach().clone()
    with pytest.raises(ValueError, match="old was 2, is None"):
        load_checkpoint(path, other, torch.optim.Adam(other.parameters()), dict(a=1))
    assert torch.equal(other.weight, before)


def test_purposes_and_positions_have_seeds_of_their_own():
    purposes, positions = ("order", "draws", "augmentation", "workers"), ((0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3))
    seeds = [seed_for(purpose, *position) for purpose in purposes for position in positions]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("labels", [None, torch.arange(24) % 3])
def test_the_order_is_the_seeds_and_the_epochs(labels):
    orders = [epoch_batches(24, 8, seed, epoch, labels) for seed, epoch in ((0, 1), (0, 2), (1, 1))]
    assert orders[0] == epoch_batches(24, 8, 0, 1, labels) and orders[0] != orders[1] != orders[2] != orders[0]


def test_a_class_without_images_has_no_weight():
    class Three(LabelledImages):
        classes, labels = ("a", "b", "c"), torch.tensor([0, 0, 0, 2])

    torch.testing.assert_close(Three().class_weights(), torch.tensor([2 / 3, 0, 2]))


def test_steps_have_their_learning_rate_and_clipped_gradients(monkeypatch):
    norms, rates = [], []

    class Noting(torch.optim.Adam):
        def step(self, closure=None):
            gradients = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
            norms.append(torch.cat(gradients).norm().item()), rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "Adam", Noting)
    settings = replace(SETTINGS, epochs=2, clip_norm=1e-3)
    train(model(), data(), None, settings, progress=False)
    assert norms == pytest.approx([1e-3] * 6, rel=1e-3)
    assert rates == [settings.learning_rate_at(epoch + step / 3) for epoch in (0, 1) for step in range(3)]


def test_weights_of_the_loss_are_those_of_the_settings():
    trained = model()
    before = weights(trained).clone()
    nothing = replace(SETTINGS, epochs=1, class_weights=(0.0,) * 10, entropy_weight=0.0)
    curve = train(trained, data(), None, nothing, progress=False)
    assert torch.equal(weights(trained), before) and curve[0]["train_loss"] == 0


class Noting(nn.Module):
    """Notes a random number a call, the mode and the autocast; always answers 4."""

    def __init__(self):
        super().__init__()
        self.bias, self.noted = nn.Parameter(torch.zeros(10)), []

    def forward(self, image, *, generator):
        self.noted.append((torch.rand((), generator=generator).item(), self.training, torch.is_autocast_enabled("cpu")))
        logits = (self.bias + F.one_hot(torch.tensor(4), 10)).expand(len(image), 10)
        log_attention = torch.full((len(image), 2, 3), 1 / 6).log()
        return Output(logits=logits, log_attention=log_attention, index=None, pooled=None)


def test_every_step_and_every_image_has_random_numbers_of_its_own():
    numbers = []

    def note(image, generator):
        numbers.append(torch.rand((), generator=generator).item())
        return image

    for seed in (0, 1):
        noting = Noting()
        train(noting, data(), None, replace(SETTINGS, epochs=2, seed=seed), augment=note, progress=False)
        numbers += [number for number, *_ in noting.noted]
    assert len(set(numbers)) == len(numbers) == 2 * 2 * (24 + 3)  # seeds, epochs, images and steps


def test_train_mode_and_precision():
    noting = Noting().eval()
    train(noting, data(), data("test", 8), replace(SETTINGS, epochs=1, bfloat16=True), progress=False)
    assert [how for _, *how in noting.noted] == [[True, True]] * 3 + [[False, True]]


def test_a_curve_says_what_happened():
    settings = replace(SETTINGS, epochs=1, learning_rate=0.0, entropy_weight=0.5)
    (entry,) = train(Noting(), data(), data(), settings, progress=False)
    labels = torch.tensor([data()[number][1] for number in range(24)])
    logits = F.one_hot(torch.full((24,), 4), 10).float()
    for part in ("train", "test"):
        assert entry[f"{part}_error"] == pytest.approx((labels != 4).double().mean().item())
        assert entry[f"{part}_loss"] == pytest.approx(F.cross_entropy(logits, labels).item())
    assert entry["entropy"] == pytest.approx(math.log(6))


def test_evaluate_draws_with_its_seed_and_tells_true_from_answered_classes():
    drawn = []
    for seed in (0, 0, 1):
        noting = Noting()
        result = evaluate(noting, data(), 24, seed=seed, progress=False)
        drawn += [number for number, *_ in noting.noted]
    assert drawn[0] == drawn[1] != drawn[2]
    labels = torch.tensor([data()[number][1] for number in range(24)])
    assert torch.equal(result["confusion"][:, 4], torch.bincount(labels, minlength=10)) and result["confusion"].sum() == 24


def test_evaluate_passes_options_on():
    asked = []

    class Asked(Noting):
        def forward(self, image, *, generator, n_patches=None):
            asked.append(n_patches)
            return super().forward(image, generator=generator)

    evaluate(Asked(), data(), 24, n_patches=7, progress=False)
    assert asked == [7]


@pytest.fixture
def clock(monkeypatch):
    """Time that passes where an image is read, a second each, and nowhere else."""
    now = [0.0]
    monkeypatch.setattr(atslib.training.time, "monotonic", lambda: now[0])

    class Slow(torch.utils.data.Dataset):
        def __init__(self, images):
            self.images = images

        def __len__(self):
            return len(self.images)

        def __getitem__(self, number):
            now[0] += 1
            return self.images[number]

    return Slow


def test_seconds_are_those_of_training_across_stops(clock, tmp_path):
    train_set, test_set = clock(data()), clock(data("test", 8))
    curve = train(Noting(), train_set, test_set, replace(SETTINGS, epochs=2), progress=False)
    assert [entry["seconds"] for entry in curve] == [24, 48]
    options = dict(checkpoint=tmp_path / "run.pt", max_seconds=0, progress=False)
    while len(curve := train(Noting(), train_set, test_set, replace(SETTINGS, epochs=2), **options)) < 2:
        pass
    assert [entry["seconds"] for entry in curve] == [24, 48]


def test_short_epochs_add_up(monkeypatch):
    now = itertools.count()
    monkeypatch.setattr(atslib.training.time, "monotonic", lambda: next(now) / 500)
    short = train(model(), data(n=8), None, replace(SETTINGS, epochs=5), progress=False)
    monkeypatch.setattr(atslib.training.time, "monotonic", lambda: float(next(now)))
    long = train(model(), data(n=8), None, replace(SETTINGS, epochs=5), progress=False)
    assert [entry["seconds"] * 500 for entry in short] == pytest.approx([entry["seconds"] for entry in long])


def test_checkpoints_are_written_every_so_often(clock, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(atslib.training, "save_checkpoint", lambda *state: saved.append(state[-1]["step"]))
    options = dict(checkpoint=tmp_path / "run.pt", save_every=10, progress=False)
    train(Noting(), clock(data(n=48)), None, replace(SETTINGS, epochs=1), **options)
    assert saved == [2, 4, 6, 0]  # 8 images a step; at the end of the epoch too


def test_a_second_ctrl_c_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with StopSignals(listen=True) as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.received
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_in_the_last_test_takes_its_effect_after_it(tmp_path):
    class Interrupting(MegapixelMNIST):
        def __getitem__(self, number):
            os.kill(os.getpid(), signal.SIGTERM)
            return super().__getitem__(number)

    once, path = replace(SETTINGS, epochs=1), tmp_path / "run.pt"
    tests = Interrupting("test", 1, size=120, n_digits=2, n_same=2, n_noise=1)
    heard = []

    def handler(number, frame):  # by default the process would end, and the next run of a sweep not begin
        heard.append(path.exists())

    before = signal.signal(signal.SIGTERM, handler)
    try:
        assert len(train(model(), data(), tests, once, checkpoint=path, progress=False)) == 1
        assert heard == [True] and signal.getsignal(signal.SIGTERM) is handler  # once, with nothing lost
    finally:
        signal.signal(signal.SIGTERM, before)


def test_without_a_checkpoint_ctrl_c_is_left_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def note(image, generator):
        seen.append(signal.getsignal(signal.SIGINT))
        return image

    train(Noting(), data(), None, replace(SETTINGS, epochs=1), augment=note, progress=False)
    assert set(seen) == {before}


def test_how_a_model_computes_does_not_depend_on_chunks_or_addresses():
    chunked, whole = (DeepMIL(MILAttention(5), nn.Identity(), Classifier(5, 3), 8, (2, 3), chunk=c) for c in (4, None))
    assert how_it_computes(chunked) == how_it_computes(whole)

    class Bright:
        def __call__(self, view):
            return view

    priors = [SaliencyPrior(MegapixelMNISTAttention(), saliency=Bright()) for _ in range(2)]
    assert how_it_computes(priors[0]) == how_it_computes(priors[1])


class Pictures(LabelledImages):
    """Floating-point images, some of them with pixels that are not known."""

    classes = tuple("0123456789")

    def __init__(self, bad=(), n=12, white=1.0):
        self.labels, self.bad, self.white = torch.arange(n) % 3, bad, white

    def __getitem__(self, number):
        image = self.white * torch.rand(1, 60, 60, generator=torch.Generator().manual_seed(number))
        if number in self.bad:
            image[:, :10, :6] = math.nan
        return image, int(self.labels[number])


def test_an_image_with_unknown_pixels_is_named():
    with pytest.raises(ValueError, match=r"^image 7 of the set: 0\.017 of its pixels are NaN or infinite"):
        train(model(), Pictures(bad=[7]), Pictures(), SETTINGS, progress=False)
    with pytest.raises(ValueError, match=r"^image 3 of the set: "):
        evaluate(model(), Pictures(bad=[3, 8]), batch_size=5, progress=False)
    blind = UniformSampling(LeNetFeatures(width=4), Classifier(4, 10), patch_size=28, n_patches=40, estimator="with_replacement")
    with pytest.raises(FloatingPointError, match=r"not finite for 2 of 12 images: number 3, 8 of the set"):
        evaluate(blind, Pictures(bad=[3, 8]), progress=False)


def test_images_up_to_255_are_warned_of():
    with pytest.warns(UserWarning, match=r"floating-point images up to 25\d.*divided by their white"):
        train(model(), Pictures(white=255.0), None, replace(SETTINGS, epochs=1), progress=False)


def test_a_model_that_returns_logits_is_told_what_is_expected():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3600, 10)

        def forward(self, image, generator=None):
            return self.layer(image.flatten(1))

    said = r"Plain returned a Tensor: expected an atslib\.models\.Output"
    with pytest.raises(ValueError, match=said):
        train(Plain(), Pictures(), None, SETTINGS, progress=False)
    with pytest.raises(ValueError, match=said):
        evaluate(Plain(), Pictures(), progress=False)


def test_parts_know_labels_and_classes():
    whole = Pictures(n=30)
    part = whole.part([4, 1, 4])
    assert part.labels.tolist() == [1, 1, 1] and part.classes == whole.classes and len(part) == 3
    assert torch.equal(part[0][0], whole[4][0]) and part[2][1] == 1
    for wrong in ([30], [-1]):
        with pytest.raises(ValueError, match=rf"image {wrong[0]}: expected 0 to 29"):
            whole.part(wrong)
    first, second = whole.split(0.2, seed=1)
    assert first.class_counts()[:3].tolist() == [8, 8, 8] and second.class_counts()[:3].tolist() == [2, 2, 2]
    assert sorted(first.numbers + second.numbers) == list(range(30))
    assert whole.split(0.2, seed=1)[1].numbers == second.numbers != whole.split(0.2, seed=2)[1].numbers
    for share in (0, 1, 0.01):
        with pytest.raises(ValueError, match=f"share={share}"):
            whole.split(share)
    whole.labels = torch.zeros(30, 2)
    with pytest.raises(ValueError, match=r"labels of shape \(30, 2\).*the class of each image"):
        whole.split(0.2)


@pytest.mark.parametrize("how", ["subset", "part"])
def test_balanced_looks_through_parts(how):
    whole = Pictures(n=12)
    numbers = [0, 1, 3, 4, 6, 7, 9, 10, 2]  # four of class 0, four of class 1, one of class 2
    some = Subset(whole, numbers) if how == "subset" else whole.part(numbers)
    shown = []

    class Watched(LabelledImages):
        labels, classes = whole.labels, whole.classes

        def __getitem__(self, number):
            shown.append(int(whole.labels[number]))
            return whole[number]

    if how == "subset":
        some.dataset = Watched()
    else:
        some.whole = Watched()
    train(model(), some, None, replace(SETTINGS, epochs=1, balanced=True), progress=False)
    assert np.bincount(shown).tolist() == [3, 3, 3]


class Pid(Dataset):
    """Images that say which process made them, and a random number that it drew."""

    def __len__(self):
        return 8

    def __getitem__(self, number):
        found = [os.getpid() / 2**32, torch.rand(()).item(), np.random.rand()]  # noqa: NPY002, what such a set may do
        return torch.tensor(found, dtype=torch.float64)[:, None, None], number % 2


class Keeps(nn.Module):
    """Keeps what it is shown; has no attention."""

    def __init__(self):
        super().__init__()
        self.scale, self.seen = nn.Parameter(torch.ones(2, dtype=torch.float64)), []

    def forward(self, image, generator=None):
        self.seen.append(image[:, :, 0, 0].clone())
        return Output(self.scale.expand(len(image), 2), None, None, None)


def test_workers_stay_for_the_whole_training():
    trained = Keeps()
    train(trained, Pid(), Pid(), replace(SETTINGS, epochs=3, batch_size=2), workers=2, progress=False)
    processes = {pid.item() for batch in trained.seen for pid in batch[:, 0]}
    assert len(processes) == 4 and os.getpid() / 2**32 not in processes  # two for each set


def test_random_numbers_of_workers_are_the_batchs(tmp_path):
    """However many workers there are, and also where a run goes on in mid-epoch."""

    def drawn(workers, **options):
        trained = Keeps()
        train(trained, Pid(), None, replace(SETTINGS, epochs=2, batch_size=2), workers=workers, progress=False, **options)
        return torch.cat(trained.seen)[:, 1:]

    whole = drawn(1)
    assert len(whole.unique()) == whole.numel() == 32
    assert torch.equal(drawn(2), whole)
    path, trained = tmp_path / "run.pt", Keeps()
    for seconds in (0.0, math.inf):  # a session of one step, then the rest
        options = dict(workers=2, progress=False, checkpoint=path, max_seconds=seconds)
        train(trained, Pid(), None, replace(SETTINGS, epochs=2, batch_size=2), **options)
    assert torch.equal(torch.cat(trained.seen)[:, 1:], whole)


def test_attention_on_one_place_has_an_entropy_of_zero():
    class OnePlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(10))

        def forward(self, image, generator=None):
            return Output(self.weight.expand(len(image), 10), torch.zeros(len(image), 1, 1), None, None)

    curve = train(OnePlace(), data(), None, SETTINGS, progress=False)
    assert [entry["entropy"] for entry in curve] == [0.0] * len(curve)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor], ids=["list", "array", "tensor"])
def test_labels_may_be_a_list_or_an_array(kind):
    class Named(LabelledImages):
        classes = tuple("0123456789")

        def __init__(self):
            self.images, self.labels = data(), kind([int(label) for _, label in data()])

        def __getitem__(self, number):
            return self.images[number]

    named = Named()
    assert named.class_counts().sum() == len(named) == len(data())
    with pytest.warns(UserWarning, match="one of the two parts has none"):  # classes of one image
        first, second = named.split(0.5)
    assert len(first) + len(second) == len(named)
    assert torch.equal(named.part([3, 1]).labels, torch.as_tensor(named.labels)[[3, 1]])
    for balanced in (False, True):
        settings = replace(SETTINGS, epochs=1, balanced=balanced)
        curves = [train(model(), some, None, settings, progress=False) for some in (named, InMemory(data()))]
        assert curves[0][0]["train_loss"] == curves[1][0]["train_loss"]


def test_options_that_nobody_has_are_named():
    with pytest.raises(TypeError, match=r"evaluate\(\) has no argument 'num_workers', .* it is called workers here"):
        evaluate(model(), data(), num_workers=2)


def test_a_fill_of_another_range_is_warned_of():
    bright = [(torch.rand(1, 120, 120), number % 2) for number in range(2)]
    filled = model()
    filled.fill = 200
    with pytest.warns(UserWarning, match="fill=200 of the model beside floating-point images up to 1"):
        evaluate(filled, bright, progress=False)
    evaluate(filled, data(), progress=False)  # uint8: nothing to say


class Deaf(Dataset):
    """Images without content; the label says what Ctrl-C and SIGTERM do to the process that reads them."""

    def __len__(self):
        return 4

    def __getitem__(self, number):
        kinds = [signal.SIG_IGN, signal.SIG_DFL, _heedless, signal.default_int_handler, _linger]
        heeds = [kinds.index(signal.getsignal(some)) for some in (signal.SIGINT, signal.SIGTERM)]
        return torch.zeros(1, 4, 4, dtype=torch.uint8), 10 * heeds[0] + heeds[1]


def test_workers_leave_signals_to_the_process_that_trains():
    """Ctrl-C reaches the whole group; a worker that dies of it would take the checkpoint with it."""
    here = Deaf()[0][1]  # a program in a shell's background ignores Ctrl-C itself
    for workers, expected in ((0, here), (1, 24)):
        ((_, labels),) = Loader(Deaf(), torch.device("cpu"), workers=workers).batches([[0, 1, 2, 3]])
        assert labels.tolist() == [expected] * 4


def test_a_training_that_fails_ends_its_workers(tmp_path):
    """The traceback has the loader until the program ends, which ends its children by a signal at which these linger."""
    script = tmp_path / "script.py"
    script.write_text(
        "from test_training import *\n"
        "def fails(epoch, step, steps):\n"
        "    raise RuntimeError('as any')\n"
        "if __name__ == '__main__':\n"
        "    train(model(), data(), None, SETTINGS, workers=1, on_step=fails, progress=False)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    ended = subprocess.run([sys.executable, script], env=os.environ | dict(PYTHONPATH=path), capture_output=True, timeout=100)
    assert ended.returncode == 1 and ended.stderr.endswith(b"RuntimeError: as any\n")


def test_arrays_may_lie_backwards_and_in_another_order_of_bytes():
    labels, images = np.array([2, 1, 0], ">i4")[::-1], np.arange(48, dtype=np.uint8).reshape(3, 1, 4, 4)[:, :, ::-1]
    images.flags.writeable = False
    items = list(zip(images, labels, strict=True))
    loaded = Loader(Labels(images, labels), "cpu")
    for whole in (InMemory(items), loaded.dataset):
        assert known_labels(whole).tolist() == [0, 1, 2]
    for found, numbers in (*loaded.batches([[0, 1, 2]]), collate(items)):
        assert torch.equal(found, torch.from_numpy(images.copy())) and numbers.tolist() == [0, 1, 2]
    assert torch.equal(InMemory(items).images, torch.from_numpy(images.copy()))
    deep = images.astype(">f4")[..., ::-1]
    ((found, _),) = Loader(list(zip(deep, labels, strict=True)), "cpu").batches([[0, 1, 2]])
    assert found.dtype == torch.float32 and torch.equal(found, torch.from_numpy(deep.astype("f4")))


class Labels(Dataset):
    """Images and labels, as they are given."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, number):
        return self.images[number], self.labels[number]


def folds_of(kind, tmp_path):
    """Two training sets whose labels are in the same order."""
    whole = MegapixelMNIST("train", 24, size=120, n_digits=2, n_same=2, n_noise=1)
    images, labels = [whole[number][0] for number in range(24)], [0] * 12 + [1] * 12
    halves = [[k for k in range(24) if k % 2 == half] for half in (0, 1)]
    if kind == "list":
        return [[(images[k], labels[k]) for k in half] for half in halves]
    if kind == "files":
        for k, image in enumerate(images):
            Image.fromarray(image[0].numpy()).save(tmp_path / f"{k}.png")
        files = [tmp_path / f"{k}.png" for k in range(24)]
        return [Padded(ImageFiles(files, labels, read=read_grey).part(half), 120) for half in halves]
    if kind == "memory":
        return [InMemory(list(zip(images, labels, strict=True))).part(half) for half in halves]
    return [Subset(Labels(images, torch.tensor(labels)), half) for half in halves]


def read_grey(path):
    return np.asarray(Image.open(path))[None]


@pytest.mark.parametrize("kind", ["list", "files", "memory", "subset"])
def test_a_checkpoint_of_another_fold_is_refused(kind, tmp_path):
    first, second = folds_of(kind, tmp_path)
    options = dict(test_set=None, settings=replace(SETTINGS, epochs=1), checkpoint=tmp_path / "run.pt", progress=False)
    curve = train(model(), first, **options)
    assert train(model(), first, **options) == curve
    with pytest.raises(ValueError, match=r"checkpoint of other settings \(image_(files|grid|numbers) was"):
        train(model(), second, **options)
    if kind == "files":  # the same ones in memory: another way to keep them is no other training
        assert train(model(), InMemory(first), **options) == curve


def test_folds_without_one_patient_are_told_apart(tmp_path):
    """Two of forty differ in a few images only, and most of an image may be black."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(40):
        image = torch.zeros(1, 300, 300, dtype=torch.uint8)
        row, column = rng.integers(0, 270, 2)
        image[:, row : row + 28, column : column + 28] = 200
        images.append((image, 0))
    lists = [images[:k] + images[k + 1 :] for k in range(40)]
    for folds in (lists, [InMemory(images).part([n for n in range(40) if n != k]) for k in range(40)]):
        assert len({tuple(which_images(fold).items()) for fold in folds}) == 40
    assert which_images(lists[3]) == which_images(InMemory(lists[3])) == which_images([(i.numpy(), y) for i, y in lists[3]])


def test_names_of_files_are_told_wherever_they_lie(tmp_path):
    names = ["a/1.png", "a/2.png", "b/1.png"]
    for job in ("job.1", "job.2"):
        for name in names:
            (tmp_path / job / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4)).save(tmp_path / job / name)
    sets = {job: ImageFiles([tmp_path / job / name for name in names], [0, 0, 1]) for job in ("job.1", "job.2")}
    assert which_images(sets["job.1"]) == which_images(sets["job.2"]) != which_images(sets["job.1"].part([0, 2]))
    flat = [ImageFiles([tmp_path / job / "a/1.png"], [0]) for job in sets]
    assert which_images(flat[0]) == which_images(flat[1])


@pytest.mark.parametrize(
    "files", [np.array(["x"] * 24), [("image", "mask")] * 24, list(range(24)), ["one.h5", "two.h5"], "x" * 24, None]
)
def test_sets_of_other_people_may_call_anything_files_and_classes(files, tmp_path):
    class Foreign(LabelledImages):
        classes = [3, 1] * 12

        def __init__(self):
            self.files, self.images = files, data()
            self.labels = self.images.labels

        def __getitem__(self, number):
            return self.images[number]

    for dataset in (Foreign(), Foreign().part(range(20))):
        train(model(), dataset, data("test", 4), replace(SETTINGS, epochs=1), checkpoint=tmp_path / "c.pt", progress=False)
        (tmp_path / "c.pt").unlink()
        hasattr(dataset, "files")


def test_a_model_on_a_gpu_computes_as_the_same_layers_do():
    """So that a checkpoint from before there were such layers is read."""
    ours, plain = LeNetFeatures(), LeNetFeatures()
    plain[8] = nn.AdaptiveMaxPool2d(1)
    assert type(ours[8]) is not type(plain[8]) and how_it_computes(ours) == how_it_computes(plain)


def test_classes_of_the_test_set_in_another_order_are_refused():
    class Some(MegapixelMNIST):
        pass

    train_set, test_set = (Some("train", 4, size=120, n_digits=2, n_same=2, n_noise=1) for _ in range(2))
    train_set.classes, test_set.classes = ("adenoma", "benign", "carcinoma"), ("benign", "carcinoma")
    with pytest.raises(ValueError, match="classes adenoma, benign, carcinoma of the training set and benign, carcinoma of the"):
        train(model(), train_set, test_set, SETTINGS, progress=False)
    train_set.classes = train_set.classes + tuple("0123456")
    # A class less; names that nobody has given; none; labels, in a set of other people's.
    for names in (train_set.classes[:2], tuple("0123456789"), (), ("1", "2"), (0, 1), ["benign"] * 4):
        test_set.classes = names
        train(model(), train_set, test_set, replace(SETTINGS, epochs=1), progress=False)
    foreign = Labels(test_set, test_set.labels)
    foreign.classes = ["benign", "adenoma"]
    own = dict(loss=lambda logits, labels: F.cross_entropy(logits, labels, reduction="none"))
    with pytest.warns(UserWarning, match="of the training set and benign, adenoma of the test set: one label would mean two"):
        train(model(), train_set, Pairs(foreign), replace(SETTINGS, epochs=1), progress=False)
    train(model(), train_set, Pairs(foreign), replace(SETTINGS, epochs=1), progress=False, **own)


class Pairs(Dataset):
    """The items of a set in a set, and its classes."""

    def __init__(self, inner):
        self.inner, self.classes = inner, inner.classes

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, number):
        return self.inner.images[number]


def test_a_classifier_that_takes_the_softmax_itself_is_warned_of():
    trained = model()
    trained.classifier = nn.Sequential(trained.classifier, nn.Softmax(1))
    with pytest.warns(UserWarning, match="the AttentionSampling returned numbers that sum to one, as after a softmax"):
        train(trained, data(n=8), None, replace(SETTINGS, epochs=1), progress=False)


@pytest.mark.parametrize("weights", [{0: 1.0, 1: 9.0}, {1.0, 9.0}])
def test_class_weights_have_an_order(weights):
    with pytest.raises(ValueError, match="expected one for each class, in their order"):
        Settings(class_weights=weights)


def test_another_default_device_is_nobodys_matter():
    """Of numbers that belong on the CPU: where images are shuffled, chosen and averaged."""
    images, labels = [torch.zeros(1, 2, 2, dtype=torch.uint8)] * 8, torch.tensor([0, 1] * 4)
    made = lambda: (epoch_batches(8, 3, 0, 1, labels), overlaps(1000, 120))
    shuffled, weights = made()
    torch.set_default_device("meta")
    try:
        assert made()[0] == shuffled and torch.equal(made()[1], weights)
        ((_, found),) = Loader(Labels(images, labels), "cpu").batches([[0, 1]])
        assert found.tolist() == [0, 1]
    finally:
        torch.set_default_device("cpu")


def test_a_device_without_float64_is_refused():
    with pytest.raises(ValueError, match=r"mps, which lacks the float64 .* expected cpu or cuda"):
        train(model(), data(), None, SETTINGS, device="mps")


def test_a_class_that_a_split_leaves_without_images_is_named():
    class Some(LabelledImages):
        classes, labels = ("many", "few"), [0] * 20 + [1] * 2

    with pytest.warns(UserWarning, match=r"share=0\.2 of class few, 2 images: one of the two parts has none"):
        rest, fifth = Some().split(0.2)
    assert rest.class_counts().tolist() == [16, 2] and fifth.class_counts().tolist() == [4, 0]


@pytest.mark.parametrize(
    "part", [lambda s: s.part([5, 2, 9]), lambda s: Subset(s, [5, 2, 9]), lambda s: Subset(s.part([9, 5, 2]), [1, 2, 0])]
)
def test_a_part_of_a_set_in_memory_is_taken_from_there(part, monkeypatch):
    whole = InMemory(data())
    expected = whole.images[[9, 5]], whole.labels[[9, 5]]
    monkeypatch.setattr(InMemory, "__getitem__", None)  # is not asked for single images
    loader = Loader(part(whole), torch.device("cpu"), workers=3)
    ((images, labels),) = loader.batches([[2, 0]])
    assert torch.equal(images, expected[0]) and torch.equal(labels, expected[1])


def test_what_is_not_in_the_cpus_memory_is_not_pinned():
    there, files = torch.empty(1, device="meta"), object()
    batch = _Batch(files, there).pin_memory()
    assert batch.images is files and batch.labels is there


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("estimator", ["systematic", "des_raj", "with_replacement"])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_training_on_a_gpu_and_going_on_there(estimator, bfloat16, tmp_path):
    """As it is used there: images pinned by a worker, bfloat16, a checkpoint, another number of epochs, a test."""
    settings = replace(SETTINGS, epochs=1, bfloat16=bfloat16)
    options = dict(checkpoint=tmp_path / "run.pt", workers=1, device="cuda", progress=False)
    trained, test_set = model(), data("test", 8)
    trained.estimator = estimator
    (first,) = train(trained, data(), test_set, settings, **options)
    again = model()
    again.estimator = estimator
    curve = train(again, data(), test_set, replace(settings, epochs=2), **options)
    assert curve[0] == first and math.isfinite(curve[1]["train_loss"]) and device_of(again).type == "cuda"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_draws_and_the_global_maximum_are_deterministic_on_a_gpu_where_that_is_asked_for(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # PyTorch wants it for matrix products
    torch.use_deterministic_algorithms(True)
    try:
        train(model(), data(), None, replace(SETTINGS, epochs=1), device="cuda", progress=False)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_subset_whose_numbers_are_on_the_gpu():
    whole = InMemory(data(), "cuda")
    chosen = Subset(whole, (whole.labels >= 0).nonzero()[:, 0])
    assert len(predict(model().cuda(), chosen, progress=False).looks) == len(chosen)
    assert evaluate(model().cuda(), chosen, progress=False)["n"] == len(chosen)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_parts_of_a_set_on_the_gpu_and_a_loss_with_a_tensor_there():
    whole, weight = InMemory(data(), "cuda"), torch.ones(10, device="cuda")
    first, second = whole.split(0.25)

    def loss(logits, labels):
        return (F.cross_entropy(logits, labels, reduction="none") * weight[labels]).abs()

    curve = train(model().cuda(), first, second, replace(SETTINGS, epochs=1), loss=loss, error=loss, progress=False)
    assert curve[0]["test_loss"] == pytest.approx(curve[0]["test_error"])
    assert len(predict(model().cuda(), whole, progress=False).looks) == len(whole)


def test_attention_of_nan_in_a_compiled_model_is_named_as_in_any_other(monkeypatch):
    """Compiled, nobody looks at the values before locations are drawn: NaN must not lead out of the map."""
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **options: compiled(*args, backend="aot_eager", **options))
    torch._dynamo.reset()
    broken = model()
    broken.estimator = "systematic"
    broken.attention.layers[0].weight.register_hook(lambda gradient: gradient * 1e38)
    with pytest.raises(FloatingPointError, match="not finite"):
        train(broken, data(), None, replace(SETTINGS, learning_rate=1e30, clip_norm=None), compile=True, progress=False)


def test_tests_in_a_training_keep_no_graph():
    """What a test would need for a backward pass is gigabytes on whole images, and lives until the next test."""
    trained, graphs = model(), []
    trained.register_forward_hook(lambda module, inputs, out: graphs.append((module.training, out.logits.requires_grad)))
    train(trained, data(n=8), data("test", 8), replace(SETTINGS, epochs=1), progress=False)
    assert graphs == [(True, True), (False, False)]


def test_an_optimiser_must_be_a_function_of_the_model(tmp_path):
    options = dict(progress=False)
    of_another = torch.optim.AdamW(model(seed=5).parameters())
    for wrong, said in (
        (torch.optim.AdamW, r"optimiser AdamW: expected a function of the model that makes one, lambda model: AdamW\(model"),
        (of_another, "optimiser AdamW: expected a function of the model that makes one"),
        (lambda trained: None, "optimiser made a NoneType"),
        (lambda trained: of_another, "optimiser with none of the model's parameters, so that nothing would be trained"),
        (lambda trained: torch.optim.SGD([*trained.parameters(), *model().parameters()]), "parameters that are not the model's"),
    ):
        with pytest.raises(ValueError, match=said):
            train(model(), data(), None, SETTINGS, optimiser=wrong, checkpoint=tmp_path / "run.pt", **options)
    with pytest.raises(ValueError, match="none of the model's parameters"):  # without a checkpoint, too
        train(model(), data(), None, SETTINGS, optimiser=lambda trained: of_another, **options)


@pytest.mark.parametrize(
    "augment, said",
    [
        (lambda image, generator: image[0], r"returned shape \(1, 120, 120\)"),
        (lambda image, generator: image.repeat(2, 1, 1, 1), r"returned shape \(2, 1, 120, 120\)"),
        (lambda image, generator: image.numpy(), "returned type ndarray"),
    ],
)
def test_an_augmentation_that_makes_no_image_is_named(augment, said):
    with pytest.raises(ValueError, match=rf"augment=.*lambda.* {said} for image \d+, of shape \(1, 1, 120, 120\): expected one"):
        train(model(), data(), None, SETTINGS, augment=augment, progress=False)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_another_default_type_changes_nothing(default):
    settings, runs = replace(SETTINGS, epochs=1, class_weights=(1.3,) * 10), []
    for dtype in (torch.float32, default):
        trained, before = model(), torch.get_default_dtype()
        try:
            torch.set_default_dtype(dtype)
            runs.append(without_times(train(trained, data(), data("test", 8), settings, progress=False)))
            assert evaluate(trained, data("test", 8), progress=False)["logits"].dtype == torch.float32
        finally:
            torch.set_default_dtype(before)
    for key, value in runs[0][0].items():
        assert runs[1][0][key] == pytest.approx(value, rel=1e-3)


class Inverted(InMemory):
    """A set in memory whose items are not what lies there."""

    def __getitem__(self, number):
        image, label = super().__getitem__(number)
        return 255 - image, 9 - label


def test_a_set_in_memory_with_items_of_its_own_is_asked_for_them():
    plain, own = InMemory(data()), Inverted(data())
    for some in (own, own.part(range(4)), Subset(own, [3, 5])):
        images, labels = next(iter(Loader(some, "cpu").batches([[1, 0]])))
        assert torch.equal(images, torch.stack([some[1][0], some[0][0]])) and labels.tolist() == [some[1][1], some[0][1]]
    found = evaluate(model(), own, progress=False)
    assert torch.equal(found["labels"], 9 - plain.labels)
    found, there = (evaluate(model(seed=1), some, progress=False)["logits"] for some in (own, plain))
    assert not torch.equal(found, there)


def test_a_home_folder_is_that_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    settings, trained = replace(SETTINGS, epochs=1), model()
    for _ in range(2):  # and it is found there
        curve = train(trained, data(), None, settings, checkpoint="~/run/x.pt", progress=False)
    assert (tmp_path / "run" / "x.pt").is_file() and not (tmp_path / "~").exists()
    assert read_position("~/run/x.pt")["curve"] == curve
    other = model(seed=3)
    load_weights("~/run/x.pt", other)
    assert torch.equal(weights(other), weights(trained))


def test_enough_is_enough(tmp_path):
    """A callback ends the training after an epoch; with more to come it goes on from there."""
    seen, options = [], dict(checkpoint=tmp_path / "run.pt", progress=False)

    def two_epochs(entry):
        seen.append(entry["epoch"])
        if entry["epoch"] == 2:
            raise StopTraining

    stopped = model()
    assert len(train(stopped, data(), None, SETTINGS, on_epoch=two_epochs, **options)) == 2 and seen == [1, 2]
    whole = model()
    curve = train(whole, data(), None, SETTINGS, progress=False)
    assert without_times(train(stopped, data(), None, SETTINGS, **options)) == without_times(curve)
    assert torch.equal(weights(stopped), weights(whole))


def test_balanced_error_counts_classes_not_images():
    class Constant(nn.Module):
        def forward(self, image, *, generator=None):
            logits = F.one_hot(torch.zeros(len(image), dtype=torch.long), 3).float()
            return Output(logits=logits, log_attention=None, index=None, pooled=logits)

    pairs = [(torch.zeros(1, 60, 60, dtype=torch.uint8), label) for label in (0,) * 8 + (1,) * 2]  # none of class 2
    found = evaluate(Constant(), pairs, progress=False)
    assert found["error"] == pytest.approx(0.2) and found["balanced_error"] == 0.5
    curve = train(model(), data(), data("test", 8), replace(SETTINGS, epochs=1, class_weights=(1.0,) * 10), progress=False)
    plain = train(model(), data(), data("test", 8), replace(SETTINGS, epochs=1), progress=False)
    assert "test_balanced_error" in curve[0] and "test_balanced_error" not in plain[0]


def test_a_class_that_is_ruled_out_may_have_minus_infinity():
    class Ruled(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))

        def forward(self, image, *, generator=None):
            logits = torch.cat([self.weight.expand(len(image), 2), image.new_full((len(image), 1), -math.inf).float()], 1)
            return Output(logits=logits, log_attention=None, index=None, pooled=logits)

    pairs = [(torch.rand(1, 60, 60), label) for label in (0, 1)]
    assert evaluate(Ruled(), pairs, progress=False)["loss"] == pytest.approx(math.log(2))
    assert len(train(Ruled(), pairs, pairs, replace(SETTINGS, epochs=1), progress=False)) == 1


def squared(logits, labels):
    return (logits[:, 0] - labels) ** 2


def test_what_is_missing_is_named():
    """A label or pixel that is not a number, not the learning rate, is what is wrong."""
    image, missing = torch.rand(1, 60, 60), float("nan")
    labelled = [(image, 1.0), (image, missing)]
    for action in (
        lambda: train(one_output(), labelled, None, SETTINGS, loss=squared, progress=False),
        lambda: evaluate(one_output(), labelled, loss=squared, progress=False),
    ):
        with pytest.raises(FloatingPointError, match="image 1 of the set has the label nan"):
            action()
    holes = image.clone()
    holes[0, :2] = missing
    uniform = UniformSampling(LeNetFeatures(width=4), Classifier(4, 10), patch_size=28, n_patches=40)
    with pytest.raises(FloatingPointError, match=r"image 1 of the set: 0\.033 of its pixels are NaN"):
        train(uniform, [(image, 0), (holes, 1)], None, SETTINGS, progress=False)
    passed_over = lambda logits, y: squared(logits, y.nan_to_num(0)) * y.isfinite()
    with pytest.raises(FloatingPointError, match=r"epoch \d, step \d: try a lower learning rate"):
        train(one_output(), labelled, None, replace(SETTINGS, learning_rate=1e30), loss=passed_over, progress=False)
    with pytest.raises(FloatingPointError, match="epoch 1, step 1: look at the images, the labels and the loss"):
        train(one_output(), [(image, 1.0)], None, SETTINGS, loss=lambda logits, y: logits[:, 0] / 0, progress=False)


def one_output():
    torch.manual_seed(0)
    return UniformSampling(LeNetFeatures(width=4), Classifier(4, 1), patch_size=28, n_patches=3)


def test_outputs_set_against_every_label_are_noticed():
    pairs = [(torch.rand(1, 60, 60), float(label)) for label in range(4)]
    with pytest.raises(ValueError, match=r"of outputs \(B, 1\) take logits\[:, 0\]"):
        train(one_output(), pairs, None, SETTINGS, loss=lambda logits, y: (logits - y) ** 2, progress=False)
    with pytest.warns(UserWarning, match=r"sets each output against every label: take logits\[:, 0\]"):
        train(one_output(), pairs, None, SETTINGS, loss=lambda logits, y: ((logits - y) ** 2).mean(1), progress=False)
    for meant in (
        squared,
        lambda logits, y: (logits.squeeze() - y).abs(),  # of one image it has no axis
        lambda logits, y: squared(logits, y) / squared(logits, y).detach().mean(),
        lambda logits, y: squared(logits, y) * torch.rand(len(y)),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train(one_output(), pairs, None, replace(SETTINGS, epochs=1), loss=meant, progress=False)


def test_a_loss_of_numbers_wants_numbers():
    pairs = [(torch.rand(1, 60, 60), label) for label in (0, 1)]

    def crossed(logits, y):
        return F.binary_cross_entropy_with_logits(logits[:, 0], y, reduction="none")

    with pytest.raises(ValueError, match=r"loss of labels of type torch.int64: .*labels\.float\(\)"):
        train(one_output(), pairs, None, SETTINGS, loss=crossed, progress=False)

    def exhausted(logits, y):
        raise torch.cuda.OutOfMemoryError("out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        train(one_output(), pairs, None, SETTINGS, loss=exhausted, progress=False)


def test_every_image_is_looked_at_for_its_range():
    rows = [(torch.rand(1, 60, 60), 0), (torch.rand(1, 60, 60) * 255, 0)]
    uniform = UniformSampling(LeNetFeatures(width=4), Classifier(4, 10), patch_size=28, n_patches=2)
    for action in (
        lambda: evaluate(uniform, rows, batch_size=1, progress=False),
        lambda: predict(uniform, [image for image, _ in rows], progress=False),
    ):
        with pytest.warns(UserWarning, match="images up to 25") as said:
            action()
        assert [warning.filename for warning in said] == [__file__]
    with pytest.warns(UserWarning, match="white of their device"):
        evaluate(uniform, [(rows[0][0] / 16, 0)], progress=False)
    for bright in ([rows[1]] * 4, rows + [rows[1]] * 4):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            train(uniform, bright, None, replace(SETTINGS, batch_size=1), progress=False)
        assert [warning.filename for warning in said] == [__file__]  # once, and where it was called


def test_sigterm_reaches_the_program_though_the_training_fails(tmp_path):
    received = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append("here"))
    try:

        def fails(logits, y):
            signal.raise_signal(signal.SIGTERM)
            return logits[:, 0] * math.nan

        with pytest.raises(FloatingPointError):
            train(one_output(), [(torch.rand(1, 60, 60), 1.0)], None, SETTINGS, loss=fails, checkpoint=tmp_path / "run.pt")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == ["here"]


def test_on_a_gpu_too_a_run_stops_after_the_step(monkeypatch, tmp_path):
    """There the numbers are looked at more seldom; clock and signals are the host's."""
    monkeypatch.setattr("atslib.training._LOOK_EVERY", {"cpu": 16})
    for stops in (1, 2):
        train(model(), data(), None, SETTINGS, checkpoint=tmp_path / "run.pt", max_seconds=0, progress=False)
        assert read_position(tmp_path / "run.pt")["step"] == stops


def test_a_part_of_a_set_whose_labels_are_names_of_classes():
    class Classes(Dataset):
        labels = ["zero", "one", "two"][:2]

        def __len__(self):
            return 6

        def __getitem__(self, number):
            return torch.rand(1, 60, 60), number % 2

    numbered = Classes()
    numbered.labels = [0, 1]
    for whole in (Classes(), numbered):
        assert len(train(model(), Subset(whole, [3, 4, 5]), None, replace(SETTINGS, epochs=1), progress=False)) == 1


def test_a_set_with_columns_is_no_table():
    class Table(Dataset):
        columns = ("path", "label")

        def __len__(self):
            return 2

        def __getitem__(self, number):
            return torch.rand(1, 60, 60), number

    assert len(train(model(), Table(), None, replace(SETTINGS, epochs=1), progress=False)) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        dict(epochs=None),
        dict(epochs=math.inf),
        dict(milestones=5, schedule="step"),
        dict(class_weights=1.0),
        dict(class_weights="ab"),
        dict(class_weights=(1.0, None)),
        dict(learning_rate="fast"),
        dict(clip_norm="1"),
        dict(micro_batch_size="2"),
    ],
)
def test_settings_that_are_no_numbers_are_named(wrong):
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))}=.*: expected"):
        Settings(**wrong)


def test_images_without_labels_are_not_for_training():
    pairs = [(torch.zeros(1, 120, 120, dtype=torch.uint8), None)] * 2
    with pytest.raises(ValueError, match=r"label None: expected a whole number, .*images without labels are for predict"):
        train(model(), pairs, None, replace(SETTINGS, epochs=1), progress=False)


def test_pictures_of_pil_are_no_tensors():
    image = pytest.importorskip("PIL.Image", reason="Pillow makes them")
    pairs = [(image.new("L", (120, 120)), label) for label in (0, 1)]
    with pytest.raises(ValueError, match=r"image of type Image in a batch: expected tensors .*pil_to_tensor"):
        train(model(), pairs, None, replace(SETTINGS, epochs=1), progress=False)


def test_parts_by_yes_and_no():
    whole = InMemory(data())
    part = whole.part(whole.labels == whole.labels[0])
    assert part.numbers == (whole.labels == whole.labels[0]).nonzero()[:, 0].tolist()
    backwards = np.arange(24)[::-1]
    assert whole.part(backwards).numbers == backwards.tolist() and whole.part([]).numbers == []
    assert whole.part(np.array([3, 1], np.uint64)).numbers == whole.part(iter((3, 1))).numbers == [3, 1]
    for wrong, said in (
        ([[1, 2]], r"numbers of shape \(1, 2\)"),
        ([1.5], "image 1.5: expected whole numbers"),
        ([True, False], r"yes or no of shape \(2,\): expected one for each of 24 images"),
        ([24], "image 24: expected 0 to 23"),
    ):
        with pytest.raises(ValueError, match=said):
            whole.part(wrong)
    several = InMemory([(torch.zeros(1, 60, 60, dtype=torch.uint8), torch.ones(2))], any_label=True)
    with pytest.raises(ValueError, match="expected the class of each image"):
        several.class_weights()


def test_a_warmup_rises_to_the_schedule():
    assert Settings(warmup=4).learning_rate_at(0) == pytest.approx(1e-5)
    assert Settings(warmup=4).learning_rate_at(2) == pytest.approx(1e-3 * 0.505)
    assert Settings(warmup=0.5).learning_rate_at(0.5) == 1e-3
    cosine = Settings(schedule="cosine", epochs=10)
    assert replace(cosine, warmup=4).learning_rate_at(2) == pytest.approx(cosine.learning_rate_at(2) * 0.505)
    assert replace(cosine, warmup=4).learning_rate_at(5) == cosine.learning_rate_at(5)
    with pytest.raises(ValueError, match=r"warmup=-1\.0: expected a number of epochs"):
        Settings(warmup=-1)


def test_the_optimiser_is_given_the_rates_of_the_warmup():
    rates, made = [], []
    make = lambda model: made.append(torch.optim.SGD(model.parameters(), lr=0.1)) or made[0]
    look = lambda *_: rates.append(made[0].param_groups[0]["lr"])
    settings = Settings(epochs=2, batch_size=12, warmup=1, bfloat16=False)
    train(model(), data(), None, settings, optimiser=make, on_step=look, progress=False)
    assert rates == pytest.approx([0.001, 0.1 * 0.505, 0.1, 0.1])


def test_a_scheduler_that_would_not_be_asked_is_refused():
    def scheduled(model):
        made = torch.optim.SGD(model.parameters(), lr=0.1)
        torch.optim.lr_scheduler.LinearLR(made, start_factor=0.01, total_iters=2)
        return made

    with pytest.raises(ValueError, match=r"scheduler, which training would not ask: .*settings\.warmup"):
        train(model(), data(), None, SETTINGS, optimiser=scheduled, progress=False)


@pytest.mark.parametrize(("shape", "what"), [((1, 10, 64), "patch of"), ((4, 64, 64), "channels")])
def test_an_image_that_a_model_refuses_is_named(shape, what):
    """In training and in a test, as in a prediction."""
    images = [(torch.zeros(1, 64, 64), 0)] * 3 + [(torch.zeros(shape), 0)]
    made = AttentionSampling(MegapixelMNISTAttention(), LeNetFeatures(), Classifier(32, 2), 20, 2, 0.5)
    with pytest.raises((ValueError, RuntimeError), match=rf"^image 3 of the set: .*{what}"):
        train(made, images, None, Settings(epochs=1, batch_size=1, bfloat16=False), progress=False)
    with pytest.raises((ValueError, RuntimeError), match=rf"^image 3 of the set: .*{what}"):
        evaluate(made, images, batch_size=1, progress=False)
    batched = [(torch.zeros(shape), 0)] * 7
    with pytest.raises((ValueError, RuntimeError), match=rf"^images 0, 1, 2, 3, 4, … of the set: .*{what}"):
        evaluate(made, batched, batch_size=7, progress=False)


@pytest.mark.parametrize("table", [{0: (torch.zeros(1, 64, 64), 0)}, type("Frame", (list,), dict(iloc=None))([1])])
def test_a_table_is_no_set(table):
    with pytest.raises(ValueError, match="expected one with items by their number"):
        train(model(), table, None, SETTINGS, progress=False)


@pytest.mark.parametrize("function", [save_weights, load_weights])
def test_the_file_comes_before_the_model(function, tmp_path):
    with pytest.raises(ValueError, match="AttentionSampling and PosixPath: expected the path of a file, then the model"):
        function(model(), tmp_path / "a.safetensors")


def test_logits_alone_are_no_output():
    with pytest.raises(ValueError, match="out of type Tensor: expected what the model returned, and not the logits alone"):
        attention_loss(torch.zeros(2, 3), torch.tensor([0, 1]))
