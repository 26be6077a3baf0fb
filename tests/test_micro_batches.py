"""A step whose images are seen in parts gives what it gives with all at once."""

import warnings
from dataclasses import replace

import pytest
import torch
from test_training import SETTINGS, Labelled, Noisy, data, model, weights, without_times
from torch import nn
from torch.nn import functional as F

import atslib.training
from atslib.estimators import get_estimator
from atslib.models import AttentionSampling, DownsampledCNN, UniformSampling
from atslib.networks import AttentionNetwork, Classifier, ResNet8
from atslib.processes import Processes
from atslib.training import Settings, evaluate, train


def steepest(trained):
    """Steps in proportion to the gradient: Adam would make full steps of what is rounding."""
    return torch.optim.SGD(trained.parameters(), lr=0.5)


def run(trained, size, dataset=None, settings=SETTINGS, **options):
    settings = replace(settings, micro_batch_size=size, learning_rate=0.5)
    curve = train(trained, dataset or data(n=22), data("test", 9), settings, optimiser=steepest, progress=False, **options)
    return without_times(curve), weights(trained)


class Watched:
    """How many images a model sees at a time."""

    def __init__(self, watched):
        self.counts = []
        watched.register_forward_pre_hook(lambda module, inputs: self.counts.append(len(inputs[0])))


@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_parts_give_what_all_at_once_give(size):
    """Batches of 8, 8 and 6 of 22 images, and of 8 and 1 in the test; gradients are clipped, images changed."""
    whole, parts = model(), model()
    before, watched = weights(whole).clone(), Watched(parts)
    curve, expected = run(whole, None, augment=Noisy())
    curve_of_parts, found = run(parts, size, augment=Noisy())
    assert max(watched.counts) == min(size, 8)
    assert (found - expected).norm() < 1e-4 * (expected - before).norm()
    for entry, other in zip(curve, curve_of_parts, strict=True):
        assert other == pytest.approx(entry, rel=1e-4)


@pytest.mark.parametrize("estimator", ["with_replacement", "des_raj", "pps"])
def test_locations_are_those_of_all_at_once(estimator):
    seen = {None: [], 3: []}
    for size, indices in seen.items():
        trained = model()
        trained.estimator = get_estimator(estimator)
        trained.register_forward_hook(lambda module, inputs, out, indices=indices: indices.append(out.index))
        run(trained, size, settings=replace(SETTINGS, epochs=1))
    whole, parts = (torch.cat(indices) for indices in seen.values())
    assert len(seen[3]) > len(seen[None]) and torch.equal(whole, parts)


def test_balanced_weighed_and_uniform():
    dataset = Labelled("train", 24, size=120, n_digits=2, n_same=2, n_noise=1)
    for changes in (dict(balanced=True), dict(class_weights=tuple(range(1, 11)), clip_norm=None, entropy_weight=0.5)):
        results = [run(model(), size, dataset, replace(SETTINGS, **changes), augment=Noisy()) for size in (None, 3)]
        assert torch.allclose(results[0][1], results[1][1], rtol=1e-3, atol=1e-5)
    uniform = lambda: UniformSampling(model().features, Classifier(4, 10), patch_size=28, n_patches=3)
    torch.manual_seed(0)
    results = [run(made, size) for made, size in ((uniform(), None), (uniform(), 3))]
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("workers", [0, 1])
def test_stopped_at_every_step_is_the_same_run(tmp_path, workers):
    expected = run(model(), 3)
    options = dict(checkpoint=tmp_path / "run.pt", max_seconds=0, workers=workers)
    parts = model()
    while len(run(parts, 3, **options)[0]) < SETTINGS.epochs:
        parts = model(seed=99)
    curve, found = run(parts, 3, **options)
    assert curve == expected[0] and torch.equal(found, expected[1])


def test_a_checkpoint_goes_on_in_other_parts(tmp_path):
    """On a machine with less memory, say."""
    _, expected = run(model(), None)
    run(model(), None, checkpoint=tmp_path / "run.pt", max_seconds=0)
    _, found = run(model(seed=99), 2, checkpoint=tmp_path / "run.pt")
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_images_of_several_sizes():
    """A step of four images of three sizes is along the mean of their gradients."""
    torch.manual_seed(0)
    images = [(torch.randint(0, 256, (1, side, 130), dtype=torch.uint8), side % 10) for side in (120, 133, 120, 136)]
    one_step = Settings(epochs=1, batch_size=4, micro_batch_size=1, learning_rate=0.5, clip_norm=None, bfloat16=False)
    trained = DownsampledCNN(ResNet8(1), Classifier(32, 10))
    before = weights(trained)
    mean = sum(F.cross_entropy(trained(image[None]).logits, torch.tensor([label])) for image, label in images) / 4
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(mean, [*trained.parameters()])])
    [entry] = train(trained, images, images, one_step, optimiser=steepest, progress=False)
    assert torch.allclose(weights(trained), before - 0.5 * gradient, atol=1e-6)
    assert entry["train_loss"] == pytest.approx(mean.item()) and 0 <= entry["test_error"] <= 1
    advice = r"\(to train Settings\(micro_batch_size=1\), to evaluate batch_size=1\)"
    with pytest.raises(ValueError, match=r"different sizes in one batch.*" + advice):
        train(model(), images, None, replace(one_step, micro_batch_size=2), progress=False)


def test_an_image_in_any_part_is_named():
    images = [(torch.rand(1, 120, 120), 0) for _ in range(6)]
    images[4][0][0, 5, 5] = torch.nan
    with pytest.raises(ValueError, match="image 4 of the set"):
        train(model(), images, None, replace(SETTINGS, epochs=1, batch_size=6, micro_batch_size=1), progress=False)
    labels = [(torch.rand(1, 120, 120), float("nan") if number == 4 else 0.5) for number in range(6)]
    off = lambda logits, wanted: (logits[:, 0] - wanted) ** 2
    with pytest.raises(FloatingPointError, match="image 4 of the set has the label nan"):
        train(model(), labels, None, replace(SETTINGS, epochs=1, batch_size=6, micro_batch_size=1), loss=off, progress=False)


def test_gradients_that_are_not_finite_stop_the_step():
    broken = model()
    before = weights(broken).clone()
    calls = []

    def third(gradient):
        calls.append(1)
        return gradient * (torch.inf if len(calls) == 3 else 1)

    broken.classifier.linear.weight.register_hook(third)
    with pytest.raises(FloatingPointError, match="not finite in epoch 1, step 1"):
        train(broken, data(n=8), None, replace(SETTINGS, micro_batch_size=2), progress=False)
    assert torch.equal(weights(broken), before)


def test_a_full_gpu_is_told_of_parts():
    full = model()

    def no_room(module, inputs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    full.register_forward_pre_hook(no_room)
    with pytest.raises(torch.cuda.OutOfMemoryError, match=r"memory\nwith 8 images .* settings\.micro_batch_size below"):
        train(full, data(), None, SETTINGS, progress=False)
    with pytest.raises(torch.cuda.OutOfMemoryError, match=r"^CUDA out of memory$"):
        train(full, data(), None, replace(SETTINGS, micro_batch_size=1), progress=False)


def test_batch_normalisation_is_that_of_each_part(tmp_path):
    torch.manual_seed(0)
    made = AttentionSampling(
        AttentionNetwork(nn.Conv2d(1, 1, 3, padding=1)), ResNet8(1, norm="batch"), Classifier(32, 10), patch_size=28, n_patches=3
    )
    [entry], _ = run(made, 4, settings=replace(SETTINGS, epochs=1), checkpoint=tmp_path / "run.pt")
    assert 0 <= entry["test_error"] <= 1
    with pytest.raises(ValueError, match="micro_batch_size was 4, is 2"):
        run(made, 2, settings=replace(SETTINGS, epochs=2), checkpoint=tmp_path / "run.pt")


@pytest.mark.parametrize("size", [0, -1, 1.5, "some"])
def test_bad_sizes(size):
    with pytest.raises(ValueError, match=r"micro_batch_size=.*: expected a whole number, at least 1, or None"):
        Settings(micro_batch_size=size)
    with pytest.raises(ValueError, match=r"micro_batch_size=.*: expected a whole number, at least 1, or None"):
        evaluate(model(), data(n=2), micro_batch_size=size, progress=False)


def test_a_test_in_parts_is_that_of_all_at_once():
    trained = model().eval()
    tests = data("test", 9)
    *_, entry = run(trained, 2)[0]
    for size in (None, 3):
        found = evaluate(trained, tests, SETTINGS.batch_size, micro_batch_size=size, progress=False)
        assert entry["test_error"] == found["error"] and entry["test_loss"] == pytest.approx(found["loss"], rel=1e-5)


def test_several_processes_do_not_wait_for_each_other_in_parts():
    class Two(Processes):
        rank, world = 0, 2

    made = model()
    made.features = nn.Sequential(made.features, nn.SyncBatchNorm(4))
    with pytest.raises(ValueError, match=r"micro_batch_size=2 and nn\.SyncBatchNorm in 2 processes"):
        train(made, data(n=8), None, replace(SETTINGS, micro_batch_size=2), progress=False, processes=Two())


def test_one_dark_image_among_others_is_no_reason_to_warn():
    images = [(torch.rand(1, 120, 120) / (1 + 19 * (number == 0)), 0) for number in range(8)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in (None, 1):
            train(model(), images, images, replace(SETTINGS, epochs=1, micro_batch_size=size), progress=False)


def test_a_loss_of_every_pair_is_warned_of_once():
    images = [(torch.rand(1, 120, 120), float(number)) for number in range(6)]
    made = model()
    made.classifier = Classifier(4, 1)
    off = lambda logits, labels: ((logits - labels) ** 2).mean(1)
    with pytest.warns(UserWarning, match="sets each output against every label") as warned:
        train(made, images, None, replace(SETTINGS, epochs=1, batch_size=6, micro_batch_size=2), loss=off, progress=False)
    assert len(warned) == 1


def test_the_bar_counts_images(monkeypatch):
    """It moves with each part of the batches of 8 and 2."""
    seen = []

    class Noted(atslib.training.tqdm):
        def update(self, n=1):
            seen.append(n)
            return super().update(n)

    monkeypatch.setattr(atslib.training, "tqdm", Noted)
    train(model(), data(n=10), None, replace(SETTINGS, epochs=1, micro_batch_size=3))
    assert seen == [3, 3, 2, 2]
