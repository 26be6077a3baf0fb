"""Attention sampling within attention sampling: exactly, by enumerating every draw at both levels."""

import itertools

import pytest
import torch
from torch import nn

from atslib.enumeration import every_draw
from atslib.estimators import ESTIMATORS, entropy
from atslib.models import AttentionSampling, DeepMIL
from atslib.nested import NestedSampling
from atslib.networks import AttentionNetwork, Classifier, MegapixelMNISTAttention, MILAttention, UnitNorm
from atslib.patches import extract_patches
from atslib.profiling import peak_memory
from atslib.training import attention_loss


def test_regions_too_far_apart_are_warned_of_where_the_model_is_made():
    within = AttentionSampling(attention(), features(), nn.Identity(), 6, 2, scale=1 / 6)
    with pytest.warns(UserWarning, match="locations 20 pixels apart") as said:
        NestedSampling(attention(), within, Classifier(5, 3), region_size=12, scale=0.05)
    assert [warning.filename for warning in said] == [__file__]


def attention():
    return AttentionNetwork(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1))


def features():
    return nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), UnitNorm())


def small_nested(outer="des_raj", inner="des_raj", n_regions=2, n_patches=2):
    """An image of 16 × 24 has 2 × 3 regions of 12 × 12, and each of these 2 × 2 patches of 6 × 6."""
    within = AttentionSampling(attention(), features(), nn.Identity(), 6, n_patches, scale=1 / 6, estimator=inner)
    return NestedSampling(attention(), within, Classifier(5, 3, scale=4), 12, n_regions, scale=1 / 8, estimator=outer).double()


def every_nested_draw(model, image, monkeypatch):
    """The model's output for one image and every draw at both levels, and the probabilities."""
    log_a = model.exact(image).log_attention[0]
    regions, chances = every_draw(model.estimator, log_a, model.n_patches)  # (R, M)
    # The attention in each region does not depend on what else was drawn: look at all regions once.
    everywhere = torch.arange(log_a.numel())[None]
    monkeypatch.setattr(model.estimator, "sample", lambda log_attention, n, generator=None: everywhere, raising=False)
    log_b = model(image, n_patches=log_a.numel()).within.log_attention  # (K, h, w)
    inside = [every_draw(model.within.estimator, b, model.within.n_patches) for b in log_b]
    outer, inner, probability = [], [], []
    for drawn, chance in zip(regions, chances, strict=True):
        choices = [range(len(inside[m][0])) for m in drawn]
        for choice in itertools.product(*choices):
            outer.append(drawn)
            inner.append(torch.stack([inside[m][0][c] for m, c in zip(drawn, choice, strict=True)]))
            probability.append(chance * torch.stack([inside[m][1][c] for m, c in zip(drawn, choice, strict=True)]).prod())
    outer, inner, probability = torch.stack(outer), torch.cat(inner), torch.stack(probability)
    monkeypatch.setattr(model.estimator, "sample", lambda log_attention, n, generator=None: outer, raising=False)
    monkeypatch.setattr(model.within.estimator, "sample", lambda log_attention, n, generator=None: inner, raising=False)
    return model(image.expand(len(outer), -1, -1, -1)), probability


PAIRS = [("des_raj", "with_replacement"), ("with_replacement", "murthy"), ("systematic", "des_raj")]


@pytest.mark.parametrize("outer, inner", PAIRS)
def test_value_gradient_and_entropy_are_the_full_models_on_average(outer, inner, monkeypatch):
    torch.manual_seed(0)
    model = small_nested(outer, inner)
    # Two estimators of one name are one object, which could not be told to draw two things.
    assert model.estimator is not model.within.estimator
    image = torch.rand(1, 1, 16, 24, dtype=torch.float64)
    weights = list(model.parameters())
    exact = model.exact(image, chunk=3)
    direction = torch.randn(3, dtype=torch.float64)
    expected = torch.autograd.grad(exact.logits[0] @ direction + 0.3 * exact.entropy()[0], weights)

    draws, probability = every_nested_draw(model, image, monkeypatch)
    torch.testing.assert_close(probability.sum().item(), 1.0)
    mean = (probability[:, None] * draws.logits).sum(0)
    mean_entropy = (probability * draws.entropy()).sum()
    torch.testing.assert_close(mean, exact.logits[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(mean_entropy, exact.entropy()[0], rtol=0, atol=1e-12)
    for ours, theirs in zip(torch.autograd.grad(mean @ direction + 0.3 * mean_entropy, weights), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def test_exact_is_the_sum_over_all_pairs_and_its_entropy_that_of_the_pairs():
    torch.manual_seed(0)
    model = small_nested()
    image = torch.rand(2, 1, 16, 24, dtype=torch.float64)
    out = model.exact(image)
    log_a = out.log_attention.flatten(1)
    pooled, joint = torch.zeros(2, 5, dtype=torch.float64), []
    corners = model.geometry(image, model.view(image), out.log_attention).top_left(torch.arange(6).expand(2, -1))
    padded = nn.functional.pad(image, (12, 12, 12, 12))
    for picture in range(2):
        for m in range(6):
            top, left = (corners[picture, m] + 12).tolist()
            region = padded[picture : picture + 1, :, top : top + 12, left : left + 12]
            inner = model.within.exact(region)
            pooled[picture] += log_a[picture, m].exp() * inner.pooled[0]
            joint.append(log_a[picture, m] + inner.log_attention.flatten())
    torch.testing.assert_close(out.pooled, pooled)
    joint = torch.cat(joint).view(2, -1)
    torch.testing.assert_close(joint.exp().sum(1), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(out.entropy(), -(joint.exp() * joint).sum(1))


def test_the_loss_rewards_the_entropy_of_both_levels():
    torch.manual_seed(0)
    model = small_nested("with_replacement")  # its estimate of the second part is the mean over the drawn regions
    out = model(torch.rand(2, 1, 16, 24, dtype=torch.float64), generator=torch.Generator().manual_seed(0))
    spread = entropy(out.log_attention) + entropy(out.within.log_attention).view(2, 2).mean(1)
    loss, cross_entropy = attention_loss(out, torch.tensor([0, 2]), 0.3)
    torch.testing.assert_close(loss, cross_entropy - 0.3 * spread.mean())
    of_entropy = torch.autograd.grad(out.entropy().sum(), list(model.within.attention.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in of_entropy)


def test_standard_error_is_that_of_both_levels(monkeypatch):
    """Of two regions with replacement: its square is on average the variance of the estimate."""
    torch.manual_seed(0)
    model = small_nested("with_replacement", "des_raj")
    image = torch.rand(1, 1, 16, 24, dtype=torch.float64)
    assert small_nested("des_raj")(image).stderr is None  # of which it cannot be said
    draws, probability = every_nested_draw(model, image, monkeypatch)
    mean = (probability[:, None] * draws.pooled).sum(0)
    variance = (probability[:, None] * (draws.pooled - mean) ** 2).sum(0)
    torch.testing.assert_close((probability[:, None] * draws.stderr**2).sum(0), variance, rtol=0, atol=1e-12)


def test_a_view_at_hand_is_used():
    torch.manual_seed(0)
    model = small_nested()
    image = torch.rand(1, 1, 16, 24, dtype=torch.float64)
    own, given = (model(image, low=low, generator=torch.Generator().manual_seed(0)) for low in (None, model.view(image)))
    assert torch.equal(own.logits, given.logits)
    assert not torch.equal(model(image, low=torch.rand(1, 1, 2, 3).double()).log_attention, own.log_attention)


def test_output_names_what_was_seen_at_both_levels():
    model = small_nested().float()
    image = torch.randint(0, 256, (2, 1, 16, 24), dtype=torch.uint8)
    out = model(image, return_patches=True, generator=torch.Generator().manual_seed(0))
    assert out.index.shape == (2, 2) and out.log_attention.shape == (2, 2, 3)
    assert out.within.index.shape == (4, 2) and out.within.log_attention.shape == (4, 2, 2)
    assert out.patches.shape == (2, 2, 1, 12, 12) and out.within.patches.shape == (4, 2, 1, 6, 6)
    assert out.patches.dtype == out.within.patches.dtype == torch.uint8
    assert model(image, n_patches=3).index.shape == (2, 3)
    assert model(image).patches is None and model(image).within.patches is None
    again = model(image, return_patches=True, generator=torch.Generator().manual_seed(0))
    assert torch.equal(out.within.patches, again.within.patches)


def test_three_levels():
    torch.manual_seed(0)
    inner = small_nested()
    middle = NestedSampling(attention(), inner.within, nn.Identity(), 12, 2, scale=1 / 8)
    model = NestedSampling(attention(), middle, Classifier(5, 3), 24, 2, scale=1 / 16).double()
    image = torch.rand(1, 1, 48, 48, dtype=torch.float64)
    out = model(image)
    assert out.within.within.index.shape == (4, 2)
    most = torch.tensor(9 * 9 * 4.0).log()  # regions, regions in each, patches in each
    assert 0 < out.entropy().item() < most
    out.logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.exact(image).logits.shape == (1, 3)


def test_of_an_image_in_a_file_only_the_regions_are_read(tmp_path):
    numpy = pytest.importorskip("numpy")
    path = tmp_path / "image"
    with open(path, "wb") as file:
        file.truncate(40_000 * 40_000)  # a file with a hole: 1.6 gigapixels that take no room
    pixels = numpy.memmap(path, numpy.uint8, "r+", shape=(1, 1, 40_000, 40_000))
    pixels[..., 20_000:20_100, 30_000:30_100] = 200
    image = torch.from_numpy(pixels)
    low = torch.zeros(1, 1, 40, 40)
    low[..., 20, 30] = 2.0  # as bright as can be: what a pyramid would show of it

    class Brightest(nn.Module):
        stride, padding, receptive_field = 1, 0, 1

        def forward(self, view):
            return 100 * view[:, 0]

    within = AttentionSampling(attention(), features(), nn.Identity(), 20, 2, scale=0.02)
    model = NestedSampling(Brightest(), within, Classifier(5, 3), 1000, 1, scale=0.001)
    out = model(image, low, return_patches=True)
    assert out.index.item() == 20 * 40 + 30
    assert out.patches.float().mean() == 200 / 100
    assert peak_memory(lambda: model(image, low)) - image.nbytes < 50e6  # a region and its indices


@pytest.mark.parametrize(
    "within, message",
    [
        (lambda: DeepMIL(MILAttention(5), features(), nn.Identity(), 6, (2, 2)), "within=DeepMIL: expected an AttentionSampling"),
        (lambda: AttentionSampling(attention(), features(), Classifier(5, 3), 6), r"classifies, by Classifier: .*nn.Identity"),
        (lambda: AttentionSampling(attention(), features(), nn.Identity(), 13), "patches of 13 × 13 in regions of 12 × 12"),
    ],
)
def test_refuses_what_cannot_be_nested(within, message):
    with pytest.raises(ValueError, match=message):
        NestedSampling(attention(), within(), Classifier(5, 3), 12)


def test_a_number_of_regions_is_named_so():
    inner = AttentionSampling(attention(), features(), nn.Identity(), 6)
    with pytest.raises(ValueError, match="n_regions=0: expected a whole number"):
        NestedSampling(attention(), inner, Classifier(5, 3), 12, n_regions=0)


def test_refuses_a_region_larger_than_the_image_and_too_many_regions():
    model = small_nested()
    with pytest.raises(ValueError, match="patch of 12 × 12 pixels from an image of 8 × 8"):
        model(torch.rand(1, 1, 8, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match="n = 7 distinct locations"):
        model(torch.rand(1, 1, 16, 24, dtype=torch.float64), n_patches=7)


def test_estimators_are_shared_objects_by_name():
    """What :func:`every_nested_draw` relies on."""
    assert small_nested("des_raj", "murthy").estimator is ESTIMATORS["des_raj"]


def nested(region=12, patch=6, **options):
    within = AttentionSampling(MegapixelMNISTAttention(), features(), nn.Identity(), patch, 2, scale=1 / 6)
    return NestedSampling(MegapixelMNISTAttention(), within, Classifier(5, 3), region, 6, scale=1 / 8, **options)


def test_what_lies_outside_the_image_is_fill():
    out = nested(fill=255)(torch.zeros(1, 1, 16, 24, dtype=torch.uint8), return_patches=True)
    assert out.patches.amax((2, 3, 4)).tolist() == [[255] * 6]


def test_a_patch_wider_than_its_region_is_refused():
    with pytest.raises(ValueError, match="patches of 6 × 13 in regions of 12 × 12"):
        nested(patch=(6, 13))


def test_a_chunk_bounds_the_patches_at_both_levels():
    model, seen = nested(), []
    model.within.features.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    with torch.no_grad():
        model.exact(torch.rand(1, 1, 16, 24), chunk=3)
    assert seen and max(seen) <= 3


def test_settings_of_a_nested_model_by_their_own_names():
    model = small_nested(n_regions=2)
    assert model.n_regions == model.n_patches == 2
    model.n_regions = 3
    assert model.n_patches == 3 and model(torch.rand(1, 1, 16, 24, dtype=torch.float64)).index.shape[1] == 3
    model.share_equal = False
    assert model.within.share_equal is False and not model.shares_equal_on("cpu")


def test_where_the_patches_in_the_regions_were():
    model, image = small_nested(), torch.rand(2, 1, 16, 24, dtype=torch.float64)
    out = model(image, return_patches=True)
    regions, patches = model.top_left(image, out), model.within_top_left(image, out)
    assert torch.equal(extract_patches(image, regions, 12), out.patches)
    seen = out.within.patches.unflatten(0, (2, 2))
    for b, m, n in itertools.product(range(2), repeat=3):
        row, column = (patches[b, m, n] - regions[b, m]).tolist()
        inside = 0 <= row <= 6 and 0 <= column <= 6
        if inside:  # a patch over the border of its region has not seen what lies beyond
            assert torch.equal(extract_patches(image, patches[b, m, n][None, None].expand(2, 1, 2), 6)[b, 0], seen[b, m, n])
