"""Losses and errors of the caller's own: images with several labels, or with a number to be predicted."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_training import SETTINGS, data, model, weights, without_times
from torch import nn

from atslib.loading import InMemory, Loader, epoch_batches, seed_for
from atslib.models import AttentionSampling
from atslib.networks import AttentionNetwork, Classifier, LeNetFeatures
from atslib.training import evaluate, train


class Marked:
    """Images with a label of the caller's kind, computed from the digit."""

    def __init__(self, kind, split="train", n=24):
        self.images, self.kind = data(split, n), kind

    def __len__(self):
        return len(self.images)

    def __getitem__(self, number):
        image, digit = self.images[number]
        return image, self.kind(digit)


def several(digit):
    """Is it odd, is it above four, has it a closed loop?"""
    return np.array([digit % 2, digit > 4, digit in (0, 6, 8, 9)])


def number(digit):
    return digit / 9


def network(outputs, seed=0):
    torch.manual_seed(seed)
    attention = AttentionNetwork(nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 1, 3, padding=1))
    return AttentionSampling(attention, LeNetFeatures(width=4), Classifier(4, outputs, scale=16), patch_size=28, n_patches=3)


def cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels, reduction="none")


def is_wrong(logits, labels):
    return logits.argmax(1) != labels


def each_label(logits, labels):
    return F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").mean(1)


def share_of_labels(logits, labels):
    return ((logits > 0) != (labels > 0)).float().mean(1)


def squared(logits, labels):
    return (logits[:, 0] - labels) ** 2


def distance(logits, labels):
    return (logits[:, 0] - labels).abs()


def test_cross_entropy_given_by_hand_is_the_default():
    """Bit for bit: the entropy is rewarded, gradients are clipped and errors counted just as without."""
    usual, given = model(), model()
    expected = train(usual, data(), data("test", 7), SETTINGS, progress=False)
    curve = train(given, data(), data("test", 7), SETTINGS, loss=cross_entropy, error=is_wrong, progress=False)
    assert torch.equal(weights(given), weights(usual))
    for entry, other in zip(curve, expected, strict=True):
        # In a test the mean over images is taken in float64 if the loss is the caller's.
        assert math.isclose(entry.pop("test_loss"), other.pop("test_loss"), rel_tol=1e-6)
    assert without_times(curve) == without_times(expected)


@pytest.mark.parametrize(
    ("kind", "outputs", "loss", "error"),
    [(several, 3, each_label, share_of_labels), (number, 1, squared, distance)],
    ids=["several labels", "a number"],
)
def test_it_learns_and_resumes_to_the_same_numbers(tmp_path, kind, outputs, loss, error):
    settings = replace(SETTINGS, epochs=4, batch_size=4, learning_rate=5e-3)
    whole, parts = network(outputs), network(outputs)
    options = dict(loss=loss, error=error, progress=False)
    curve = train(whole, Marked(kind), Marked(kind, "test", 7), settings, **options)
    assert curve[-1]["train_loss"] < 0.9 * curve[0]["train_loss"]
    assert {"train_error", "test_loss", "test_error", "entropy"} <= curve[-1].keys()
    options["checkpoint"] = tmp_path / "run.pt"
    while len(resumed := train(parts, Marked(kind), Marked(kind, "test", 7), settings, max_seconds=0, **options)) < 4:
        pass
    assert torch.equal(weights(parts), weights(whole)) and without_times(resumed) == without_times(curve)


def test_the_step_is_that_of_the_loss_by_hand():
    """One step from the same weights with the same draws: mean over the batch of the loss, minus λ times the entropy."""
    settings = replace(SETTINGS, epochs=1, batch_size=24, schedule="constant", clip_norm=None, entropy_weight=0.3)
    given, by_hand, seen = network(3), network(3), []

    def noting(logits, labels):
        seen.append((logits, labels))
        return each_label(logits, labels)

    entry = train(given, Marked(several), None, settings, loss=noting, progress=False)[0]
    logits, labels = seen[0]
    assert labels.shape == (24, 3) and logits.dtype == torch.float32 and "train_error" not in entry
    # The same draws: those of the first step of the first epoch.
    order = epoch_batches(24, 24, settings.seed, 1)[0]
    images = torch.stack([Marked(several)[i][0] for i in order])
    marks = torch.tensor(np.stack([Marked(several)[i][1] for i in order]))
    assert torch.equal(labels, marks.long())
    by_hand.train()
    out = by_hand(images, generator=torch.Generator().manual_seed(seed_for("draws", settings.seed, 1, 0)))
    torch.testing.assert_close(out.logits, logits)
    objective = F.binary_cross_entropy_with_logits(out.logits, marks.float()) - 0.3 * out.entropy().mean()
    objective.backward()
    for parameter, after in zip(by_hand.parameters(), given.parameters(), strict=True):
        # Adam's first step is the gradient's sign: compare where it is more than rounding.
        clear = parameter.grad.abs() > 1e-6
        assert torch.equal((after - parameter).detach()[clear].sign(), -parameter.grad[clear].sign())
    torch.testing.assert_close(entry["train_loss"], each_label(out.logits, marks).mean().item())


@pytest.mark.parametrize("kind", [several, number], ids=["several labels", "a number"])
def test_in_memory_keeps_labels_of_any_kind(kind):
    kept = InMemory(Marked(kind, n=6), any_label=True)
    expected = torch.as_tensor(np.stack([kind(digit) for _, digit in data(n=6)]))
    expected = expected.float() if kind is number else expected.long()
    assert torch.equal(kept.labels, expected) and kept.labels.dtype == expected.dtype and kept.classes == ()
    from_items = [labels for _, labels in Loader(Marked(kind, n=6), torch.device("cpu"), any_label=True).batches([[0, 1], [5]])]
    from_memory = [labels for _, labels in Loader(kept, torch.device("cpu"), any_label=True).batches([[0, 1], [5]])]
    twice = Loader(InMemory(kept, any_label=True), torch.device("cpu"), any_label=True)
    again = [labels for _, labels in twice.batches([[0, 1], [5]])]
    for found in (from_items, from_memory, again):
        assert [part.dtype for part in found] == [expected.dtype] * 2
        assert torch.equal(found[0], expected[:2]) and torch.equal(found[1], expected[5:])


def test_evaluate_by_hand():
    trained, some = network(1), Marked(number, "test", 7)
    found = evaluate(trained, some, batch_size=3, loss=squared, error=distance, progress=False)
    expected = torch.tensor([number(digit) for _, digit in data("test", 7)])
    assert found.keys() == {"n", "labels", "logits", "loss", "error", "stderr"} and found["n"] == 7
    assert torch.equal(found["labels"], expected) and found["logits"].shape == (7, 1)
    apart = (found["logits"][:, 0] - expected).double()
    torch.testing.assert_close(found["loss"], (apart**2).mean().item())
    torch.testing.assert_close(found["error"], apart.abs().mean().item())
    torch.testing.assert_close(found["stderr"], (apart.abs().std() / 7**0.5).item())
    assert "error" not in evaluate(trained, some, loss=squared, progress=False)
    alone = evaluate(trained, Marked(number, "test", 1), loss=squared, error=distance, progress=False)
    assert math.isnan(alone["stderr"]) and math.isfinite(alone["error"])


def test_integers_and_others_in_one_set():
    """Labels that some batches have as integers, others not, are kept as they are."""
    some = [(image, digit if i else 0.5) for i, (image, digit) in enumerate(data(n=4))]
    found = evaluate(network(1), some, batch_size=1, loss=squared, progress=False)
    assert found["labels"].tolist() == [0.5, *(float(digit) for _, digit in some[1:])]


def test_an_error_of_its_own_beside_the_cross_entropy():
    """Top 2: wrong if the class is not among the two largest logits."""

    def top_2(logits, labels):
        return (logits.topk(2).indices != labels[:, None]).all(1)

    found = evaluate(model(), data("test", 20), error=top_2, progress=False)
    usual = evaluate(model(), data("test", 20), progress=False)
    assert found["loss"] == usual["loss"] and torch.equal(found["confusion"], usual["confusion"])
    by_hand = [
        int(label) not in row.argsort(descending=True)[:2].tolist()
        for row, label in zip(found["logits"], found["labels"], strict=True)
    ]
    assert found["error"] == sum(by_hand) / 20 <= usual["error"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (F.mse_loss, r"shape \(\)"),
        (lambda logits, labels: (logits - labels[:, None]) ** 2, r"shape \(\d, 1\)"),
        (lambda logits, labels: 0.5, "type float"),
    ],
    ids=["a mean", "a column", "a float"],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_what_is_no_number_for_each_image(wrong, said):
    some, tests = Marked(number), Marked(number, "test", 3)
    with pytest.raises(ValueError, match=f"loss returned {said} for logits .* expected a tensor of shape .*one number for each"):
        train(network(1), some, None, SETTINGS, loss=wrong, progress=False)
    with pytest.raises(ValueError, match=f"error returned {said}"):
        train(network(1), some, None, SETTINGS, loss=squared, error=wrong, progress=False)
    for which in ("loss", "error"):
        with pytest.raises(ValueError, match=f"{which} returned {said}"):
            evaluate(network(1), tests, progress=False, **{"loss": squared, which: wrong})


def test_labels_that_are_no_numbers_or_of_several_shapes():
    images = [image for image, _ in data(n=2)]
    for labels, said in ((("cat", "dog"), "label 'cat': expected a number"), (([1.0], [1.0, 0.0]), "different shapes")):
        some = list(zip(images, labels, strict=True))
        with pytest.raises(ValueError, match=said):
            evaluate(network(1), some, loss=squared, progress=False)
        with pytest.raises(ValueError, match=said if "cat" in said else r"image 1 has the label \[1\.0, 0\.0\], image 0"):
            InMemory(some, any_label=True)


def test_they_are_refused_where_a_class_is_asked_for():
    kept = InMemory(Marked(number, n=4), any_label=True)
    for run in (lambda: train(model(), kept, None, SETTINGS, progress=False), lambda: evaluate(model(), kept, progress=False)):
        with pytest.raises(ValueError, match="expected a whole number, the position of the image's class; with a loss of your"):
            run()
    with pytest.raises(ValueError, match=r"labels of shape \(4,\) and type torch\.float32: .* for balanced=True"):
        train(network(1), kept, None, replace(SETTINGS, balanced=True), loss=squared, progress=False)
    with pytest.raises(ValueError, match="class_weights and loss: expected one of them"):
        train(model(), data(), None, replace(SETTINGS, class_weights=(1.0,) * 10), loss=cross_entropy, progress=False)


def test_a_loss_that_is_not_finite_stops():
    with pytest.raises(FloatingPointError, match="loss or gradient is not finite in epoch 1, step 1"):
        train(network(1), Marked(number), None, SETTINGS, loss=lambda a, y: squared(a, y) / 0, progress=False)


def test_a_checkpoint_knows_its_loss(tmp_path):
    options = dict(checkpoint=tmp_path / "run.pt", progress=False)
    train(network(1), Marked(number), None, replace(SETTINGS, epochs=1, schedule="constant"), loss=squared, **options)
    with pytest.raises(ValueError, match="loss"):
        train(network(1), Marked(number), None, replace(SETTINGS, epochs=2, schedule="constant"), loss=distance, **options)
