"""Attention sampling as a whole: against the full model it estimates, and against mistakes."""

import math

import pytest
import torch
from torch import nn

from atslib.enumeration import every_draw
from atslib.estimators import ESTIMATORS
from atslib.models import AttentionSampling
from atslib.networks import AttentionNetwork, Classifier, LeNetFeatures, MegapixelMNISTAttention, UnitNorm


def small_model(estimator="des_raj", n_patches=3):
    """A model of six locations whose every draw can be enumerated."""
    return AttentionSampling(
        attention=AttentionNetwork(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1)),
        features=nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), UnitNorm()),
        classifier=Classifier(5, 3, scale=4),
        patch_size=8,
        n_patches=n_patches,
        scale=0.125,
        estimator=estimator,
    ).double()


@pytest.mark.parametrize("name", [e.name for e in ESTIMATORS.values() if not e.biased])
def test_gradient_through_the_whole_model_is_that_of_the_full_model(name, monkeypatch):
    """Averaged over every draw, the pooled feature and its gradient by every weight equal the full model's.

    Up to the pooled feature, that is: behind a nonlinear loss nothing is unbiased. So the loss here is linear.
    """
    torch.manual_seed(0)
    model = small_model(name)
    image = torch.rand(1, 1, 16, 24, dtype=torch.float64)  # a map of 2 × 3
    direction = torch.randn(3, dtype=torch.float64)
    weights = list(model.parameters())
    exact = model.exact(image, chunk=4)
    expected = torch.autograd.grad(exact.logits[0] @ direction, weights)

    index, probability = every_draw(model.estimator, exact.log_attention[0], 3)
    monkeypatch.setattr(model.estimator, "sample", lambda log_attention, n, generator=None: index, raising=False)
    draws = model(image.expand(len(index), -1, -1, -1))  # one image, every draw of it
    mean = (probability[:, None] * draws.logits).sum(0)
    torch.testing.assert_close(mean, exact.logits[0], rtol=0, atol=1e-12)
    for ours, theirs in zip(torch.autograd.grad(mean @ direction, weights), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_exact_does_not_depend_on_the_chunk():
    model = small_model()
    image = torch.rand(2, 1, 16, 24, dtype=torch.float64)
    torch.testing.assert_close(model.exact(image, chunk=1).logits, model.exact(image, chunk=100).logits)


def test_uint8_images_are_seen_as_zero_to_one():
    model = small_model().float()
    image = torch.randint(0, 256, (2, 1, 16, 24), dtype=torch.uint8)
    as_float = image.float() / 255
    torch.testing.assert_close(model.exact(image).logits, model.exact(as_float).logits)
    assert model(image, return_patches=True).patches.dtype == torch.uint8


def test_a_view_at_hand_is_used():
    model = small_model().float()
    image = torch.rand(1, 1, 16, 24)
    low = torch.rand(1, 1, 2, 3)
    assert not torch.equal(model.exact(image, low).log_attention, model.exact(image).log_attention)
    torch.testing.assert_close(model.exact(image, model.view(image)).logits, model.exact(image).logits)


def test_output_of_the_papers_model():
    model = AttentionSampling(MegapixelMNISTAttention(), LeNetFeatures(), Classifier(32, 10), 50, 10)
    image = torch.randint(0, 256, (2, 1, 1500, 1500), dtype=torch.uint8)
    out = model(image, return_patches=True, generator=torch.Generator().manual_seed(0))
    assert out.logits.shape == (2, 10)
    assert out.log_attention.shape == (2, 180, 180)
    assert out.index.shape == (2, 10)
    assert out.patches.shape == (2, 10, 1, 50, 50)
    assert out.pooled.shape == out.stderr.shape == (2, 32)
    torch.testing.assert_close(out.log_attention.flatten(1).logsumexp(1), torch.zeros(2), rtol=0, atol=1e-4)
    again = model(image, n_patches=4, generator=torch.Generator().manual_seed(0))
    assert again.index.shape == (2, 4) and again.patches is None


def test_patches_are_those_around_the_drawn_locations():
    model = AttentionSampling(MegapixelMNISTAttention(), LeNetFeatures(), Classifier(32, 10), 50, 10)
    image = torch.randint(0, 256, (2, 1, 1500, 1500), dtype=torch.uint8)
    out = model(image, return_patches=True)
    padded = nn.functional.pad(image, (50, 50, 50, 50))
    for batch, patch in ((0, 0), (1, 7)):
        row, column = divmod(out.index[batch, patch].item(), 180)
        # a view pixel is 25/3 image pixels; the patch's middle goes to the middle of the pixel it was drawn for
        top, left = (math.floor((cell + 0.5) * 25 / 3 - 25 + 0.5) + 50 for cell in (row, column))
        assert torch.equal(out.patches[batch, patch, 0], padded[batch, 0, top : top + 50, left : left + 50])


def test_it_learns_from_one_batch():
    torch.manual_seed(0)
    model = small_model("des_raj", 2).float()
    image = torch.zeros(8, 1, 16, 24)
    labels = torch.arange(8) % 2
    for i, label in enumerate(labels):
        image[i, 0, 2:6, 2 + 8 * (i % 3) : 6 + 8 * (i % 3)] = 1.0
        if label:
            image[i, 0, 3:5, 3 + 8 * (i % 3) : 5 + 8 * (i % 3)] = 0.0  # a ring, not a square
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(250):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(image).logits, labels).backward()
        optimiser.step()
    assert (model.exact(image).logits.argmax(1) == labels).all()


@pytest.mark.parametrize(
    "image, low, message",
    [
        (torch.zeros(1, 16, 24), None, r"image of shape \(1, 16, 24\): expected rank 4"),
        (torch.zeros(1, 1, 16, 24, dtype=torch.long), None, r"image of type torch.int64: expected uint8 or floating"),
        (torch.zeros(1, 1, 16, 24), torch.zeros(1, 1, 4, 12), r"the aspects differ"),
        (torch.zeros(1, 1, 16, 24), torch.zeros(2, 1, 2, 3), r"view of shape \(2, 1, 2, 3\).*same batch"),
        (torch.zeros(1, 1, 6, 9), None, r"patch of 8 × 8 pixels from an image of 6 × 9"),
        (torch.full((1, 1, 16, 24), torch.nan), None, r"NaN"),
    ],
)
def test_bad_images_are_refused(image, low, message):
    with pytest.raises(ValueError, match=message):
        small_model().float()(image, low)


def test_bad_settings_are_refused():
    parts = (MegapixelMNISTAttention(), LeNetFeatures(), Classifier(32, 10))
    for options, message in [
        ({"estimator": "gumbel"}, "unknown estimator 'gumbel'"),
        ({"n_patches": 0}, "n_patches=0"),
        ({"scale": 2}, "scale=2"),
    ]:
        with pytest.raises(ValueError, match=message):
            AttentionSampling(*parts, **options)
    with pytest.raises(ValueError, match="Sequential has no attribute 'stride': wrap its layers"):
        AttentionSampling(nn.Sequential(), *parts[1:])
    with pytest.raises(ValueError, match="n = 7 distinct locations asked for, but attention has K = 6"):
        small_model().float()(torch.rand(1, 1, 16, 24), n_patches=7)


def test_unit_norm_of_nothing_is_nothing():
    assert UnitNorm()(torch.zeros(1, 4)).tolist() == [[0, 0, 0, 0]]
