"""The models as a whole: against the sums they compute or estimate, and against mistakes."""

import math
import operator
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from atslib.dependence import depends_on
from atslib.enumeration import every_draw
from atslib.estimators import ESTIMATORS
from atslib.models import AttentionSampling, DeepMIL, DownsampledCNN, Output, UniformSampling
from atslib.networks import (
    AttentionNetwork,
    Classifier,
    IlseFeatures,
    LeNetFeatures,
    MaskedAttention,
    MegapixelMNISTAttention,
    MILAttention,
    ResNet,
    ResNet8Features,
    ResNet16,
    SaliencyPrior,
    SpeedLimitsAttention,
    UniformAttention,
    UnitNorm,
)
from atslib.patches import PatchGeometry, downsample, extract_patches


def small_features(width=5):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), UnitNorm())


def small_model(estimator="des_raj", n_patches=3):
    """A model of six locations whose every draw can be enumerated."""
    return AttentionSampling(
        attention=AttentionNetwork(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1)),
        features=small_features(),
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
    model = AttentionSampling(MegapixelMNISTAttention(), LeNetFeatures(), Classifier(32, 10), 50, 10, estimator="des_raj")
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


def small_uniform():
    # Few of its patches hold anything: the pooled features of two classes differ little, hence the width and the scale.
    return UniformSampling(small_features(16), Classifier(16, 3, scale=16), patch_size=8, n_patches=5, scale=0.125)


def small_mil(gated=False, chunk=None, patch_size=8, grid=(2, 3)):
    return DeepMIL(
        MILAttention(5, 4, gated), small_features(), Classifier(5, 3, scale=4), patch_size=patch_size, grid=grid, chunk=chunk
    )


def small_cnn(scale=1.0):
    return DownsampledCNN(ResNet(1, (8, 8), (1, 2)), Classifier(8, 3, scale=4), scale)


METHODS = {
    "ats": lambda: small_model("des_raj", 2).float(),
    "uniform": small_uniform,
    "deep_mil": small_mil,
    "deep_mil, gated": lambda: small_mil(gated=True),
    "deep_mil, chunks": lambda: small_mil(chunk=20),
    "cnn": small_cnn,
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_overfits_eight_images(name):
    torch.manual_seed(0)
    model = METHODS[name]()
    image = torch.zeros(8, 1, 16, 24)
    labels = torch.arange(8) % 2
    for i, label in enumerate(labels):
        image[i, 0, 2:6, 2 + 8 * (i % 3) : 6 + 8 * (i % 3)] = 1.0
        if label:
            image[i, 0, 3:5, 3 + 8 * (i % 3) : 5 + 8 * (i % 3)] = 0.0  # a ring, not a square
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(image).logits, labels).backward()
        optimiser.step()
    with torch.no_grad():
        out = model.exact(image) if hasattr(model, "exact") else model(image)
    assert (out.logits.argmax(1) == labels).all()


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_called_alike(name):
    torch.manual_seed(0)
    model = METHODS[name]()
    image = torch.randint(0, 256, (2, 1, 16, 24), dtype=torch.uint8)
    out = model(image, generator=torch.Generator().manual_seed(0))
    assert out.logits.shape == (2, 3) and len(out.pooled) == 2
    torch.testing.assert_close(out.logits, model(image / 255, generator=torch.Generator().manual_seed(0)).logits)
    if out.log_attention is not None:
        assert out.log_attention.shape == (2, 2, 3)
        torch.testing.assert_close(out.log_attention.flatten(1).logsumexp(1), torch.zeros(2), rtol=0, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(image, generator=torch.Generator().manual_seed(0))
    assert rough.log_attention is None or rough.log_attention.dtype == torch.float32
    torch.testing.assert_close(rough.logits.float(), out.logits, rtol=0, atol=0.1)
    for bad, message in [(image[0], "expected rank 4"), (image.long(), "image of type torch.int64")]:
        with pytest.raises(ValueError, match=message):
            model(bad)


# ---------------------------------------------------------------------------------------------------------------------
# Equal patches


@pytest.fixture
def sparse():
    """Two images, each of six patches that do not overlap: two different ones, the other ten blank."""
    image = torch.zeros(2, 1, 16, 24, dtype=torch.float64)
    image[0, 0, 3, 5], image[1, 0, 12, 20] = 0.5, 1
    return image


def outcome(model, call, image):
    """Logits and their gradients by all parameters, and how many patches the features were asked for."""
    call(image)  # the first call finds out what the features depend on
    seen = []
    hook = model.features.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    logits = call(image).logits
    gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
    hook.remove()
    return [logits, *gradients], seen


@pytest.mark.parametrize("how", ["forward", "exact", "exact in chunks"])
def test_equal_patches_are_computed_once(sparse, how):
    torch.manual_seed(0)
    model = small_model("with_replacement", n_patches=50)
    calls = {
        "forward": lambda image: model(image, generator=torch.Generator().manual_seed(1)),
        "exact": model.exact,
        "exact in chunks": lambda image: model.exact(image, chunk=6),  # three locations of both images
    }
    found, seen = outcome(model, calls[how], sparse)
    model.share_equal = False
    expected, all_seen = outcome(model, calls[how], sparse)
    torch.testing.assert_close(found, expected)
    assert seen == ([2, 2] if how == "exact in chunks" else [3])
    assert sum(all_seen) == (100 if how == "forward" else 12)


def test_equal_patches_are_shared_on_the_cpu_unless_one_says_otherwise():
    model = small_model()
    assert model.shares_equal_on("cpu") and not model.shares_equal_on(torch.device("cuda", 0))
    model.share_equal = True
    assert model.shares_equal_on("cuda")
    model.share_equal = False
    assert not model.shares_equal_on("cpu")


def test_patches_that_all_differ_are_computed_as_ever():
    torch.manual_seed(0)
    model, image = small_model(n_patches=6), torch.rand(2, 1, 16, 24, dtype=torch.float64)
    results = []
    for model.share_equal in (None, False):
        results.append(outcome(model, lambda image: model(image, generator=torch.Generator().manual_seed(1)), image))
    assert all(torch.equal(*pair) for pair in zip(results[0][0], results[1][0])) and results[0][1] == results[1][1] == [12]


@pytest.mark.parametrize(
    "layer, in_training, in_evaluation",
    [
        (nn.BatchNorm2d(5), 100, 3),
        (nn.BatchNorm2d(5, track_running_stats=False), 100, 100),
        (nn.InstanceNorm2d(5), 3, 3),
        (nn.InstanceNorm2d(5, track_running_stats=True), 100, 3),
        (nn.GroupNorm(1, 5), 3, 3),
        (nn.Dropout(0.5), 100, 3),
        (nn.Dropout2d(0.5), 100, 3),
        (nn.RReLU(), 100, 3),
    ],
)
def test_equal_patches_that_are_not_computed_alike_are_not_shared(sparse, layer, in_training, in_evaluation):
    model = small_model("with_replacement", n_patches=50)
    model.features.insert(1, layer.double())
    assert outcome(model, model, sparse)[1] == [in_training]
    model.eval()
    assert outcome(model, model, sparse)[1] == [in_evaluation]


@pytest.mark.parametrize("dropout, at_once", [(0.5, False), (0.0, True)])
@pytest.mark.parametrize("kind", ["attention", "recurrent"])
def test_dropout_inside_of_a_layer_counts_too(kind, dropout, at_once):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            several = dict(dropout=dropout, batch_first=True)
            self.layer = nn.MultiheadAttention(8, 2, **several) if kind == "attention" else nn.GRU(8, 8, 2, **several)

        def forward(self, patches):
            words = patches.flatten(1, 2)
            return (self.layer(words, words, words) if kind == "attention" else self.layer(words))[0].mean(1)

    model = small_model()
    model.features = Words()
    assert model._may_share(torch.zeros(3, 1, 1, 8, 8)) == at_once
    assert model.eval()._may_share(torch.zeros(3, 1, 1, 8, 8))


def test_gradients_by_pixels_are_those_of_each_patch(sparse):
    model = small_model().double()
    image = sparse.requires_grad_()
    results = []
    for model.share_equal in (None, True, False):
        results.append(torch.autograd.grad(model.exact(image).logits[:, 0].sum(), image)[0])
    torch.testing.assert_close(results[0], results[2])
    torch.testing.assert_close(results[1], results[2])
    assert results[2].abs().flatten(1).ne(0).sum(1).min() > 1


# ---------------------------------------------------------------------------------------------------------------------
# Uniform sampling


def test_uniform_sampling_estimates_the_mean_feature():
    torch.manual_seed(0)
    model = small_uniform().double()
    image = torch.rand(1, 1, 16, 24, dtype=torch.float64)
    exact = model.exact(image)
    torch.testing.assert_close(exact.log_attention, torch.full((1, 2, 3), 1 / 6).log())
    every = nn.functional.unfold(image, 8, stride=8)[0].T.view(6, 1, 8, 8)  # the six patches do not overlap
    torch.testing.assert_close(exact.pooled[0], model.features(every).mean(0))
    index, probability = every_draw(model.estimator, exact.log_attention[0], 2)
    features = model.features(every)[index]
    estimates = model.estimator(exact.log_attention.expand(len(index), -1, -1), index, features)
    torch.testing.assert_close((probability[:, None] * estimates).sum(0), exact.pooled[0])


def test_uniform_sampling_draws_from_the_same_locations():
    attention = SpeedLimitsAttention()
    parts = dict(patch_size=20, n_patches=3, scale=0.5)
    uniform = UniformSampling(ResNet8Features(), Classifier(32, 4), like=attention, **parts)
    sampling = AttentionSampling(attention, ResNet8Features(), Classifier(32, 4), **parts)
    image = torch.randint(0, 256, (1, 3, 96, 128), dtype=torch.uint8)
    ours, theirs = uniform(image), sampling(image)
    assert ours.log_attention.shape == theirs.log_attention.shape == (1, 6, 8)
    index = torch.arange(48)[None]
    corners = [m.geometry(image, m.view(image), theirs.log_attention).top_left(index) for m in (uniform, sampling)]
    assert torch.equal(*corners)
    assert uniform.view(image).untyped_storage().nbytes() == 4  # of 48 × 64 pixels: nothing is computed
    assert not any(name.startswith("attention") for name in uniform.state_dict())


# ---------------------------------------------------------------------------------------------------------------------
# Deep MIL


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("patch_size, grid, size", [(8, (2, 3), (16, 24)), ((9, 6), (4, 3), (17, 23))])
def test_deep_mil_against_a_loop(gated, patch_size, grid, size):
    """Patch by patch, number by number, without anything of the library but the weights."""
    torch.manual_seed(0)
    model = small_mil(gated, patch_size=patch_size, grid=grid).double()
    image = torch.rand(2, 1, *size, dtype=torch.float64)
    out = model(image)
    height, width = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    padded = nn.functional.pad(image, (10, 10, 10, 10))
    value, weight = model.attention.value.weight, model.attention.weight.weight[0]
    for picture, logits, log_attention, pooled in zip(padded, out.logits, out.log_attention, out.pooled):
        features, scores = [], []
        for row in range(grid[0]):
            for column in range(grid[1]):
                top = math.floor((row + 0.5) * size[0] / grid[0] - height / 2 + 0.5) + 10
                left = math.floor((column + 0.5) * size[1] / grid[1] - width / 2 + 0.5) + 10
                h = model.features(picture[None, :, top : top + height, left : left + width])[0]
                gate = torch.sigmoid(model.attention.gate.weight @ h) if gated else 1
                scores.append(sum(weight * torch.tanh(value @ h) * gate))
                features.append(h)
        total = sum(score.exp() for score in scores)
        z = sum(score.exp() / total * h for score, h in zip(scores, features))
        torch.testing.assert_close(log_attention.flatten(), torch.stack(scores) - total.log(), rtol=0, atol=1e-12)
        torch.testing.assert_close(pooled, z, rtol=0, atol=1e-12)
        torch.testing.assert_close(logits, model.classifier(z), rtol=0, atol=1e-12)
    assert out.index is None


def test_grids_of_the_paper():
    """Patches lie around the middles of the cells, as those of attention sampling around the pixels of a view."""
    for grid, size, patch, step in [((50, 50), (500, 500), 27, 10), ((12, 16), (960, 1280), 100, 80)]:
        model = small_mil(patch_size=patch, grid=grid)
        corners = model.top_left(torch.zeros(2, 1, *size, dtype=torch.uint8))
        k = grid[0] * grid[1]
        assert corners.shape == (2, k, 2)
        assert torch.equal(corners[1], PatchGeometry(size, grid, grid, patch).top_left(torch.arange(k)[None])[0])
        assert (corners[0, 1] - corners[0, 0]).tolist() == [0, step]
        assert (corners[0, grid[1]] - corners[0, 0]).tolist() == [step, 0]


@pytest.mark.parametrize("chunk", [1, 7, 24])
def test_chunks_change_neither_output_nor_gradient(chunk):
    torch.manual_seed(0)
    whole = small_mil(gated=True, grid=(4, 6)).double()
    chunked = small_mil(gated=True, grid=(4, 6), chunk=chunk).double()
    chunked.load_state_dict(whole.state_dict())
    image = torch.rand(2, 1, 16, 24, dtype=torch.float64)
    results = []
    for model in (whole, chunked):
        out = model(image)
        out.logits.square().sum().backward()
        results.append([out.logits, out.log_attention, *(parameter.grad for parameter in model.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(chunked(image).logits, results[0][0])


def test_chunks_refuse_batch_statistics():
    model = DeepMIL(MILAttention(32), ResNet8Features(norm="batch"), Classifier(32, 2), 16, (2, 2), chunk=2)
    image = torch.rand(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"chunk=2 with BatchNorm2d \('0.1' of the features\) in training mode"):
        model(image)
    model.eval()(image)  # running statistics are no batch's
    model.train().chunk = None
    model(image)


def test_exact_in_chunks_refuses_batch_statistics():
    model = small_model().float()
    model.features = nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    image = torch.rand(1, 1, 16, 24)
    with pytest.raises(ValueError, match=r"chunk=2 with BatchNorm2d \('1' of the features\) in training.*model.eval\(\) first"):
        model.exact(image, chunk=2)
    model.exact(image, chunk=6)  # all locations at once
    model.eval()
    torch.testing.assert_close(model.exact(image, chunk=2).logits, model.exact(image, chunk=6).logits)


def test_a_view_too_small_for_the_attention_network_is_refused():
    model = AttentionSampling(SpeedLimitsAttention(), ResNet8Features(), Classifier(32, 4), 160, 2, 0.05)
    with pytest.raises(ValueError, match=r"view of 5 × 5 pixels: smaller than the receptive field.*use a larger scale"):
        model(torch.rand(1, 3, 100, 100))


def test_inputs_follow_the_network_to_its_device():
    """An image stays in the computer's memory, views and patches of it go where the model is; here to a device without memory."""
    mil = DeepMIL(MILAttention(32), ResNet8Features(), Classifier(32, 2), 16, (2, 2)).to("meta")
    assert mil(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).logits.device.type == "meta"
    cnn = DownsampledCNN(ResNet16(), Classifier(256, 4), 0.5).to("meta")
    assert cnn(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).logits.device.type == "meta"


@pytest.mark.parametrize(
    "wrap", [lambda net: net, SaliencyPrior, lambda net: MaskedAttention(net, lambda view: view[:, :1] >= 0)]
)
def test_attention_without_parameters_is_where_the_features_are(wrap):
    """Draws and weights would be on the one device, features on the other."""
    attention = wrap(UniformAttention.like(MegapixelMNISTAttention()))
    model = AttentionSampling(attention, LeNetFeatures(), Classifier(32, 10), 20, 2, 0.5).to("meta")
    assert model.attend(torch.zeros(1, 1, 40, 48))[1].device.type == "meta"


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))]
)
def test_dropout_is_the_same_when_chunks_are_computed_again(device):
    """Of an image in the computer's memory, too: checkpoint sees the model's device by the weights alone."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.Dropout(0.5))
    attention = MILAttention(8)
    for weight in (*attention.parameters(), features[1].weight):
        nn.init.zeros_(weight)
    nn.init.ones_(features[1].bias)
    mil = DeepMIL(attention, features, Classifier(8, 2), 16, (2, 2), chunk=1).to(device)
    pooled = mil(torch.rand(1, 1, 64, 64)).pooled[0]  # by unit, twice the attention of the patches that kept it
    (gradient,) = torch.autograd.grad(pooled.sum(), features[1].bias)  # the same, of those that kept it the second time
    assert pooled.unique().numel() > 1  # units were dropped
    torch.testing.assert_close(gradient, pooled)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_model_on_a_gpu_takes_an_image_in_the_computers_memory():
    model, image = small_model("systematic").float().cuda().eval(), torch.randint(0, 256, (2, 1, 16, 24), dtype=torch.uint8)
    out = model(image, return_patches=True)
    assert out.logits.is_cuda and out.patches.is_cuda
    torch.testing.assert_close(out.log_attention, model(image.cuda()).log_attention)


# ---------------------------------------------------------------------------------------------------------------------
# The CNN


def test_cnn_sees_the_view():
    torch.manual_seed(0)
    image = torch.randint(0, 256, (1, 1, 16, 24), dtype=torch.uint8)
    full, half = small_cnn(), small_cnn(0.5)
    assert torch.equal(full.view(image), image / 255)
    torch.testing.assert_close(half.view(image), nn.functional.avg_pool2d(image / 255, 2))
    assert full(image).log_attention is None and full(image).index is None
    torch.testing.assert_close(half(image).logits, half.classifier(half.features(half.view(image))))


def test_methods_of_the_papers_sizes():
    """Tables 1 and 2, where it is quick."""
    with torch.no_grad():
        tissue = torch.randint(0, 256, (1, 3, 500, 500), dtype=torch.uint8)
        mil = DeepMIL(MILAttention(512), IlseFeatures(), Classifier(512, 2), 27, (50, 50), chunk=500)
        assert mil(tissue).log_attention.shape == (1, 50, 50)
        road = torch.randint(0, 256, (1, 3, 960, 1280), dtype=torch.uint8)
        out = AttentionSampling(SpeedLimitsAttention(), ResNet8Features(), Classifier(32, 4), 100, 5, 0.3)(road)
        assert out.logits.shape == (1, 4) and out.log_attention.shape == (1, 36, 48)
        assert DownsampledCNN(ResNet16(), Classifier(256, 4), 0.1)(road).logits.shape == (1, 4)


@pytest.mark.parametrize(
    "image, low, message",
    [
        (torch.zeros(1, 16, 24), None, r"image of shape \(1, 16, 24\): expected rank 4"),
        (torch.zeros(1, 1, 16, 24, dtype=torch.long), None, r"image of type torch.int64: expected uint8, .* or floating"),
        (torch.zeros(1, 1, 16, 24), torch.zeros(1, 1, 4, 12), r"the aspects differ"),
        (torch.zeros(1, 1, 16, 24), torch.zeros(2, 1, 2, 3), r"view of shape \(2, 1, 2, 3\).*same batch"),
        (torch.zeros(1, 1, 6, 9), None, r"patch of 8 × 8 pixels from an image of 6 × 9"),
        (torch.full((1, 1, 16, 24), torch.nan), None, r"NaN"),
        (np.zeros((1, 1, 16, 24)), None, r"image of type ndarray: expected a tensor .* torch.from_numpy"),
        (torch.zeros(1, 16, 24, 3), None, r"image of shape \(1, 16, 24, 3\).*permute\(0, 3, 1, 2\)"),
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
        ({"patch_size": 20.0}, "size 20.0: expected a whole number of pixels"),
        ({"patch_size": 0}, "size 0: expected a whole number of pixels, at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            AttentionSampling(*parts, **options)
    with pytest.raises(ValueError, match="Sequential has no attribute 'stride': wrap its layers"):
        AttentionSampling(nn.Sequential(), *parts[1:])
    with pytest.raises(ValueError, match="n = 7 distinct locations asked for, but attention has K = 6"):
        small_model().float()(torch.rand(1, 1, 16, 24), n_patches=7)


def test_bad_settings_of_the_other_methods_are_refused():
    with pytest.raises(ValueError, match=r"grid=\(0, 3\): expected two whole numbers, at least one row"):
        small_mil(grid=(0, 3))
    with pytest.raises(ValueError, match="grid=4: expected two whole numbers, at least one row"):
        small_mil(grid=4)
    with pytest.raises(ValueError, match=r"grid=\(2.0, 3\): expected two whole numbers"):
        small_mil(grid=(2.0, 3))
    with pytest.raises(ValueError, match="size 0: expected a whole number of pixels"):
        DeepMIL(MILAttention(5), small_features(), Classifier(5, 3), 0, (2, 3))
    with pytest.raises(ValueError, match="chunk=0: expected a whole number of patches, at least 1, or None"):
        small_mil(chunk=0)
    with pytest.raises(ValueError, match="patch of 8 × 8 pixels from an image of 6 × 9"):
        small_mil()(torch.zeros(1, 1, 6, 9))
    with pytest.raises(ValueError, match=r"attention network returned shape \(1, 6, 1\).*one logit a patch"):
        DeepMIL(nn.Linear(5, 1), small_features(), Classifier(5, 3), 8, (2, 3))(torch.zeros(1, 1, 16, 24))
    with pytest.raises(ValueError, match=r"scale=1.5: expected a number in \(0, 1\]"):
        small_cnn(1.5)
    with pytest.raises(ValueError, match="n_patches=0"):
        UniformSampling(small_features(), Classifier(5, 3), n_patches=0)


def test_unit_norm_of_nothing_is_nothing():
    assert UnitNorm()(torch.zeros(1, 4)).tolist() == [[0, 0, 0, 0]]


def test_attend_gives_the_map_that_patches_are_drawn_from():
    model = AttentionSampling(MegapixelMNISTAttention(), LeNetFeatures(), Classifier(32, 10), 50, 3, 0.2)
    image = torch.rand(2, 1, 100, 100)
    low, log_attention = model.attend(image)
    torch.testing.assert_close(log_attention, model(image).log_attention)
    torch.testing.assert_close(model.attend(image, low)[1], log_attention)
    torch.testing.assert_close(log_attention.exp().sum((1, 2)), torch.ones(2))
    with pytest.raises(ValueError, match="expected rank 4"):
        model.attend(image[0])


def test_a_view_of_uint8_is_read_as_the_image_is():
    model = small_model().float()
    image = torch.randint(0, 256, (2, 1, 16, 24), dtype=torch.uint8)
    view = torch.randint(0, 256, (2, 1, 2, 3), dtype=torch.uint8)
    low, log_attention = model.attend(image, view)
    assert torch.equal(low, view / 255) and torch.equal(log_attention, model.attend(image, view / 255)[1])
    with pytest.raises(ValueError, match=r"view of type torch\.int16: expected uint8 or floating point"):
        model.attend(image, view.short())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_in_another_precision_takes_any_image(dtype):
    torch.manual_seed(0)
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    vectors = dict(patch_size=16, grid=(4, 4))
    for model in (
        AttentionSampling(MegapixelMNISTAttention(channels=3), ResNet8Features(), Classifier(32, 4), 16, 3, scale=0.25),
        UniformSampling(ResNet8Features(), Classifier(32, 4), 16, 3, scale=0.25),
        DeepMIL(MILAttention(32), ResNet8Features(), Classifier(32, 4), **vectors),
        DownsampledCNN(ResNet16(), Classifier(256, 4), 0.5),
    ):
        single = model.eval()(image, generator=torch.Generator().manual_seed(0)).logits
        for seen in (image, image / 255):
            other = model.to(dtype)(seen, generator=torch.Generator().manual_seed(0))
            assert other.logits.dtype == dtype and other.logits.isfinite().all()
        if dtype == torch.float64:
            torch.testing.assert_close(other.logits.float(), single, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 1, 2, 3), (2, 6), (6,)])
def test_attention_of_another_shape_is_named(shape):
    class Custom(nn.Module):
        stride, padding, receptive_field = 1, 0, 1

        def forward(self, view):
            return torch.zeros(shape)

    model = AttentionSampling(Custom(), LeNetFeatures(), Classifier(32, 3), 8, 2, scale=0.125)
    with pytest.raises(ValueError, match=r"attention network returned shape .* expected a map of logits \(B, h, w\)"):
        model(torch.rand(2, 1, 16, 24))


def test_no_image_is_named():
    for model in (small_model(), DeepMIL(MILAttention(5), small_model().features, Classifier(5, 3), 8, (2, 3))):
        with pytest.raises(ValueError, match="expected at least one image"):
            model(torch.zeros(0, 1, 16, 24, dtype=torch.float64))
    with pytest.raises(ValueError, match="expected at least one image and one location"):
        ESTIMATORS["des_raj"].sample(torch.zeros(0, 2, 2), 1)


@pytest.mark.parametrize(
    "features, said",
    [
        (nn.Conv2d(1, 5, 3), r"Conv2d returned shape \(3, 5, 6, 6\) for 3 patches: expected one vector a patch"),
        (nn.Flatten(0), r"Flatten returned shape \(192,\)"),
        (nn.Sequential(nn.Flatten(), nn.Flatten(0), nn.Unflatten(0, (2, 96))), r"Sequential returned shape \(2, 96\)"),
    ],
)
def test_features_that_are_no_vector_a_patch_are_named(features, said):
    model = small_model()
    model.features = features
    with pytest.raises(ValueError, match=said):
        model(torch.rand(1, 1, 16, 24))


def test_features_that_are_no_tensor_or_call_view_are_named():
    class Named(nn.Module):
        def forward(self, patches):
            return {"features": patches}

    class Viewing(nn.Module):
        def forward(self, patches):
            return patches.view(len(patches), -1)

    model = small_model()
    model.attention = AttentionNetwork(nn.Conv2d(3, 1, 1)).double()
    for features, said in ((Named(), "returned a dict"), (Viewing(), r"calls view on patches.*expected flatten or reshape")):
        model.features = features
        with pytest.raises(ValueError, match=said):
            model(torch.rand(1, 3, 16, 24))


def test_the_estimator_may_be_set_by_name():
    model = small_model()
    model.estimator = "systematic"
    assert model.estimator is ESTIMATORS["systematic"]
    with pytest.raises(ValueError, match="unknown estimator 'best'"):
        model.estimator = "best"


def test_features_may_keep_axes_of_length_one():
    """Patches are laid out channels last, and so is what a network makes of them."""
    model = AttentionSampling(MegapixelMNISTAttention(), nn.Conv2d(1, 5, 8), Classifier(5, 3), 8, 2, scale=0.125)
    assert model(torch.rand(2, 1, 16, 24)).pooled.shape == (2, 5)


def test_numbers_as_other_libraries_give_them():
    """Sizes and counts often come from NumPy; half a patch is a mistake."""
    parts = LeNetFeatures(), Classifier(32, 2)
    image = torch.zeros(1, 1, 60, 60, dtype=torch.uint8)
    mil = DeepMIL(MILAttention(32), *parts, patch_size=np.int64(20), grid=(2, 2))
    assert mil.top_left(image)[0, 0].tolist() == [5, 5]
    with pytest.raises(ValueError, match=r"n_patches=2\.5: expected a whole number, at least 1"):
        AttentionSampling(MegapixelMNISTAttention(), *parts, patch_size=20, n_patches=2.5)
    assert type(AttentionSampling(MegapixelMNISTAttention(), *parts, patch_size=20, n_patches=np.int64(3)).n_patches) is int


def watched(features, what):
    seen = []
    features.register_forward_pre_hook(lambda module, inputs: seen.append(what(inputs[0])))
    return features, seen


def test_what_lies_outside_the_image_is_fill():
    image = torch.zeros(1, 1, 16, 24, dtype=torch.uint8)
    features, seen = watched(small_features(), lambda patches: patches.amax((1, 2, 3)).unique().tolist())
    parts = (features, Classifier(5, 3))
    ats = AttentionSampling(MegapixelMNISTAttention(), *parts, 12, 6, 0.125, fill=255)  # all 6 patches cross the border
    uniform, mil = UniformSampling(*parts, 12, 6, 0.125, fill=255), DeepMIL(MILAttention(5), *parts, 12, (2, 3), fill=255)
    ats(image)  # the first call finds out what the features depend on, with patches of its own
    seen.clear()
    for look in (ats, ats.exact, uniform, mil):
        look(image)
    assert seen == [[1.0]] * 4


def test_a_chunk_bounds_the_patches_of_a_whole_batch():
    image = torch.rand(2, 1, 16, 24)
    features, seen = watched(small_features(), len)
    parts = (features, Classifier(5, 3))
    with torch.no_grad():
        ats = AttentionSampling(MegapixelMNISTAttention(), *parts, 8, 2, 0.125)
        ats(image)  # the first call finds out what the features depend on, with patches of its own
        seen.clear()
        ats.exact(image, chunk=4)
        DeepMIL(MILAttention(5), *parts, 8, (2, 3), chunk=4)(image)
    assert seen == [4] * 6


def test_no_patch_at_all_is_refused():
    model = AttentionSampling(MegapixelMNISTAttention(), small_features(), Classifier(5, 3), 8, 2, 0.125)
    with pytest.raises(ValueError, match="n = 0 locations"):
        model(torch.rand(1, 1, 16, 24), n_patches=0)


def test_a_view_may_be_the_image():
    model = AttentionSampling(MegapixelMNISTAttention(), small_features(), Classifier(5, 3), 8, 2, scale=1)
    image = torch.rand(1, 1, 16, 24)
    assert torch.equal(model.view(image), image)


def test_attend_refuses_a_view_of_another_aspect():
    model = AttentionSampling(MegapixelMNISTAttention(), small_features(), Classifier(5, 3), 8, 2, 0.125)
    with pytest.raises(ValueError, match="the aspects differ"):
        model.attend(torch.rand(1, 1, 16, 24), torch.rand(1, 1, 4, 12))


def test_patches_are_returned_as_they_were_seen():
    """Also where the feature network begins with an operation in place."""

    class Centred(nn.Module):
        def forward(self, patches):
            return patches.sub_(0.5).flatten(1)[:, :5]

    model = small_model().float()
    model.features = Centred()
    image = torch.rand(2, 1, 16, 24)
    out = model(image, return_patches=True)
    low, log_attention = model.attend(image)
    top_left = model.geometry(image, low, log_attention).top_left(out.index)
    assert torch.equal(out.patches, extract_patches(image, top_left, model.patch_size, fill=model.fill))


class StochasticDepth(nn.Module):
    """Leaves its input out for some patches, in training: random numbers that no type of layer tells of."""

    def forward(self, x):
        return x * (torch.rand(len(x), 1, 1, 1) < 0.5) if self.training else x


def test_patches_are_not_shared_where_features_draw_random_numbers():
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(1, 2, 3), StochasticDepth(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    drawn = AttentionSampling(MegapixelMNISTAttention(), features, Classifier(2, 3), patch_size=8, n_patches=30, scale=0.25)
    image = torch.zeros(1, 1, 64, 64)  # all patches are equal
    given = []
    features[1].register_forward_pre_hook(lambda module, inputs: given.append(len(inputs[0])))
    for call in range(3):
        given.clear()
        torch.manual_seed(call)
        pooled = drawn(image, generator=torch.Generator().manual_seed(1)).pooled
        assert given == ([2, 2, 30] if call == 0 else [30])  # the first call finds it out with a few patches
        assert not torch.allclose(pooled, torch.zeros_like(pooled))
    drawn.eval()
    given.clear()
    drawn(image)
    assert given == [2, 2, 1]  # where nothing is drawn they are shared again
    drawn.train()
    given.clear()
    drawn(image)
    assert given == [30]


class BatchCentred(nn.Module):
    """Batch normalisation that no type of layer tells of, with or without running statistics."""

    def __init__(self, running):
        super().__init__()
        self.running = running
        if running:
            self.register_buffer("mean", torch.zeros(1))

    def forward(self, x):
        if not self.training:
            return x
        if self.running:  # no patch sees the others, but how often one is there counts
            self.mean.lerp_(x.mean()[None], 0.1)
            return x
        return x - x.mean((0, 2, 3), keepdim=True)


@pytest.mark.parametrize("running", [False, True])
def test_patches_are_not_shared_where_features_depend_on_the_batch(running):
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(1, 2, 3), BatchCentred(running), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    model = AttentionSampling(MegapixelMNISTAttention(), features, Classifier(2, 3), patch_size=8, n_patches=30, scale=0.25)
    image = torch.zeros(1, 1, 64, 64)
    image[..., 8:24, 8:24] = torch.rand(16, 16)
    numbers = torch.get_rng_state()
    found = []
    for model.share_equal in (None, False):
        if running:
            features[1].mean.zero_()
        found.append(model(image, generator=torch.Generator().manual_seed(1)).pooled)
        found.append(features[1].mean.clone() if running else torch.zeros(1))
    torch.testing.assert_close(found[:2], found[2:], rtol=0, atol=0)
    assert torch.equal(numbers, torch.get_rng_state())  # finding it out draws no number of the caller's
    mil = DeepMIL(MILAttention(2), features, Classifier(2, 3), 8, (2, 2), chunk=1)
    for chunked in (mil, lambda image: model.exact(image, chunk=64)):
        if running:  # a call changes the network, no patch sees another
            chunked(image)
        else:
            with pytest.raises(ValueError, match="Sequential, whose features depend on the other patches of the batch"):
                chunked(image)
    model.eval(), mil.eval()
    model.share_equal = None
    assert model._may_share(image[None, :, :, :8, :8]) and mil(image).logits.shape == (1, 3)


def test_the_first_gradient_under_autocast_is_like_the_second():
    """What the first call finds out must not leave weights without a gradient in autocast's cache."""
    torch.manual_seed(0)
    model = AttentionSampling(MegapixelMNISTAttention(), small_features(), Classifier(5, 3), 8, 6, scale=0.25)
    image, gradients = torch.rand(1, 1, 64, 64), []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(image, generator=torch.Generator().manual_seed(1)).logits
        gradients.append(torch.autograd.grad(logits.float().square().sum(), list(model.parameters())))
    assert all(map(torch.equal, *gradients)) and all(gradient.abs().sum() > 0 for gradient in gradients[0])


def test_a_setting_changed_later_is_noticed():
    features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(0.0), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = AttentionSampling(MegapixelMNISTAttention(), features, Classifier(2, 3), patch_size=8, n_patches=30, scale=0.25)
    patches = torch.rand(1, 2, 1, 8, 8)
    assert model._may_share(patches)
    features[1].p = 0.5
    assert not model._may_share(patches)


def test_an_outstanding_graph_survives_the_first_call_in_another_mode():
    features = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 5))
    model = AttentionSampling(MegapixelMNISTAttention(), features, Classifier(5, 3), 8, 6, scale=0.25)
    features[2].eval()
    image = torch.rand(1, 1, 64, 64)
    one = model(image).logits.sum()
    model.eval()
    (one + model(image).logits.sum()).backward()


def test_a_rebound_buffer_and_pythons_numbers_are_left_alone():
    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(8))
            self.linear = nn.Linear(64, 8)

        def forward(self, x):
            h = self.linear(x.flatten(1))
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
            return h

    network = Counted()
    assert depends_on(network, (1, 8, 8)) == "state" and not network.mean.any()
    before = random.getstate()
    dropped = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), RandomScale())
    assert depends_on(dropped, (1, 8, 8)) == "random" and random.getstate() == before


class RandomScale(nn.Module):
    """Randomness that is not PyTorch's."""

    def forward(self, x):
        return x * random.random()


class NumpysScale(nn.Module):
    def forward(self, x):
        return x * np.random.rand()  # noqa: NPY002


def test_numpys_numbers_are_seen_and_left_alone():
    before = np.random.get_state()  # noqa: NPY002
    dropped = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), NumpysScale())
    assert depends_on(dropped, (1, 8, 8)) == "random"
    assert all(map(np.array_equal, before, np.random.get_state()))  # noqa: NPY002


def test_the_network_itself_is_not_in_the_trial():
    """Another thread may call it meanwhile, and take its parameters for what they are."""
    network, during = nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), []
    parameters = list(network.parameters())
    network.register_forward_hook(lambda *_: during.append(all(map(operator.is_, network.parameters(), parameters))))
    assert depends_on(network, (1, 8, 8)) == "patch"
    assert during == [True, True]


def test_each_call_of_a_trial_begins_alike():
    normalised = nn.Sequential(nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(64, 8)))
    vector = normalised[1].parametrizations.weight[0]._u.clone()
    assert depends_on(normalised, (1, 8, 8)) == "state"
    assert torch.equal(vector, normalised[1].parametrizations.weight[0]._u)
    assert depends_on(normalised.eval(), (1, 8, 8)) == "patch"


def test_a_trial_compiles_nothing():
    compiled = []
    network = torch.compile(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), backend=lambda graph, inputs: compiled.append(graph) or graph.forward
    )
    assert depends_on(network, (1, 8, 8)) == "patch" and not compiled


class Locked(nn.Linear):
    def __deepcopy__(self, memo):
        raise TypeError("no copies")


def test_a_network_that_cannot_be_copied_is_not_known():
    assert depends_on(nn.Sequential(nn.Flatten(), Locked(64, 8)), (1, 8, 8)) == "unknown"


@pytest.mark.parametrize(
    "network, answer",
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), "patch"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8)), "batch"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.5)), "random"),
        (nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten(), nn.Linear(64, 8)), "state"),
        (nn.Sequential(nn.Flatten(), nn.Linear(65, 8)), "unknown"),  # does not fit
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(8)), "unknown"),
    ],
)
def test_what_features_depend_on(network, answer):
    assert depends_on(network, (1, 8, 8)) == answer


def test_forward_mode_derivatives_by_the_pixels_are_those_of_each_patch():
    torch.manual_seed(0)
    model = small_model(n_patches=30).float()
    image, change = torch.zeros(1, 1, 16, 24), torch.rand(1, 1, 16, 24)
    found = []
    for model.share_equal in (None, False):
        call = lambda i: model(i, n_patches=3, generator=torch.Generator().manual_seed(1)).pooled
        found.append(torch.func.jvp(call, (image,), (change,))[1])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_gradients_are_right_where_features_draw_random_numbers(reentrant):
    def gradient(call):
        torch.manual_seed(0)
        features = nn.Sequential(nn.Conv2d(1, 2, 3), StochasticDepth(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        model = AttentionSampling(MegapixelMNISTAttention(), features, Classifier(2, 3), 8, 30, scale=0.25)
        image = torch.zeros(1, 1, 64, 64, requires_grad=True)  # the reentrant kind wants an input with a gradient
        call(lambda i: model(i.detach()).logits, image).square().sum().backward()
        return model.classifier.linear.weight.grad

    once = gradient(lambda model, image: model(image))
    torch.testing.assert_close(gradient(lambda model, image: checkpoint(model, image, use_reentrant=reentrant)), once)


@pytest.mark.parametrize("make", ["low", "view", "cnn"])
def test_a_network_that_works_in_place_leaves_the_callers_tensors_alone(make):
    class Normalised(nn.Sequential):
        def forward(self, x):
            return super().forward(x.sub_(0.5).div_(0.25))

    torch.manual_seed(0)
    image, low = torch.rand(1, 1, 16, 24), torch.rand(1, 1, 8, 12)
    if make == "cnn":
        model = DownsampledCNN(Normalised(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), Classifier(2, 3))
    else:
        attention = Normalised(nn.Conv2d(1, 1, 3), nn.Flatten(1, 2))
        attention.stride, attention.padding, attention.receptive_field = 1, 0, 3
        model = AttentionSampling(attention, small_features(), Classifier(5, 3), 8, 2, scale=1 if make == "view" else 0.5)
    given = (image, low) if make == "low" else (image,)
    before = [tensor.clone() for tensor in given]
    with torch.no_grad():
        model(*given)
    assert all(map(torch.equal, given, before))


def test_the_view_may_have_other_channels_than_the_image():
    """A panchromatic image with a multispectral view, say."""
    torch.manual_seed(0)
    attention = AttentionNetwork(nn.Conv2d(4, 1, 3, padding=1))
    model = AttentionSampling(attention, LeNetFeatures(1, 4), Classifier(4, 2), patch_size=20, n_patches=3, scale=0.25)
    out = model(torch.rand(2, 1, 80, 120), torch.rand(2, 4, 20, 30))
    assert out.log_attention.shape == (2, 20, 30) and out.logits.shape == (2, 2)
    with pytest.raises(ValueError, match="expected the same batch"):
        model(torch.rand(2, 1, 80, 120), torch.rand(1, 4, 20, 30))


def test_what_a_model_is_made_of_is_looked_at_when_it_is_made():
    attention = AttentionNetwork(nn.Conv2d(1, 1, 3))
    with pytest.raises(ValueError, match=r"fill=\(0, 0, 0\): expected one number"):
        AttentionSampling(attention, LeNetFeatures(), Classifier(32, 2), fill=(0, 0, 0))
    attention.stride = (2, 2)
    with pytest.raises(ValueError, match=r"stride=\(2, 2\) of the attention network AttentionNetwork: expected a whole number"):
        AttentionSampling(attention, LeNetFeatures(), Classifier(32, 2))
    with pytest.raises(ValueError, match=r"ends in Sigmoid.*expected logits"):
        AttentionNetwork(nn.Conv2d(1, 1, 3), nn.Sigmoid())


def test_a_seed_is_no_generator():
    model = UniformSampling(LeNetFeatures(), Classifier(32, 2), n_patches=2)
    with pytest.raises(ValueError, match=r"generator=0: expected a torch\.Generator, torch\.Generator\(\)\.manual_seed"):
        model(torch.zeros(1, 1, 100, 100), generator=0)


def test_the_parts_can_be_exported():
    """The draw stays in Python; what a device without it needs are attention, features and classifier."""
    torch.manual_seed(0)
    attention = SaliencyPrior(MegapixelMNISTAttention())
    model = AttentionSampling(attention, LeNetFeatures(1, 8), Classifier(8, 3), patch_size=20, n_patches=3, scale=0.25).eval()
    patches, view, pooled = torch.rand(4, 1, 20, 20), torch.rand(1, 1, 30, 40), torch.rand(1, 8)
    for part, inputs in ((model.attention, view), (model.features, patches), (model.classifier, pooled)):
        torch.testing.assert_close(torch.export.export(part, (inputs,)).module()(inputs), part(inputs))


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_what_a_mask_forbids_is_never_drawn_and_trains(name):
    torch.manual_seed(0)
    attention = MaskedAttention(SaliencyPrior(MegapixelMNISTAttention()), lambda view: (view < 0.5).all(1, keepdim=True))
    model = AttentionSampling(attention, LeNetFeatures(1, 8), Classifier(8, 3), 20, 6, 0.25, name)
    image = torch.zeros(2, 1, 120, 160)
    image[:, :, :, 60:] = 1  # a bright right part, which the prior prefers
    out = model(image, generator=torch.Generator().manual_seed(0))
    columns = model.geometry(image, model.view(image), out.log_attention).centre(out.index)[..., 1]
    assert (columns < 60 + 3 / 0.25 + 2).all()  # receptive fields reach three pixels of the view over the edge
    (out.logits.logsumexp(1).sum() - out.entropy().sum()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    exact = model.exact(image)
    assert exact.logits.isfinite().all()


def test_a_second_look_takes_the_attention_of_the_first():
    model, image = small_model().float(), torch.rand(2, 1, 60, 80)
    low, log_attention = model.attend(image)
    again = model(image, low, log_attention=log_attention, generator=torch.Generator().manual_seed(5))
    whole = model(image, generator=torch.Generator().manual_seed(5))
    assert torch.equal(again.logits, whole.logits) and torch.equal(again.index, whole.index)
    again.logits.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in model.attention.parameters())
    unfit = ((None, log_attention), (low[:1], log_attention), (low, log_attention[:1]), (low, log_attention.flatten(1)))
    for low_, log_attention_ in unfit:
        with pytest.raises(ValueError, match=r"expected both as attend\(image\) returned them"):
            model(image, low_, log_attention=log_attention_)


class Probabilities(nn.Module):
    """An attention network that takes the softmax itself, as the published implementations' do."""

    stride, padding, receptive_field = 1, 1, 3

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, view):
        return self.layer(view)[:, 0].flatten(1).softmax(1).view(len(view), *view.shape[2:])


def test_a_softmax_within_the_attention_network_is_warned_of_once():
    model, image = small_model().float(), torch.rand(2, 1, 16, 24)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(image)
    model.attention = Probabilities()
    with pytest.warns(UserWarning, match="Probabilities returned numbers that sum to one, as after a softmax") as said:
        model(image)
        model(image)
    assert len(said) == 1 and said[0].filename == __file__
    mil = DeepMIL(nn.Sequential(MILAttention(5), nn.Softmax(1)), small_features(), Classifier(5, 3), patch_size=8, grid=(2, 3))
    with pytest.warns(UserWarning, match="Sequential returned numbers that sum to one"):
        mil(image)


class MaybeNoisy(nn.Module):
    """Dropout that an attribute turns on, and not the mode."""

    def __init__(self):
        super().__init__()
        self.noisy = False

    def forward(self, patches):
        return nn.functional.dropout(patches.flatten(1)[:, :4], 0.5, training=self.noisy)


def test_a_setting_that_changes_is_found_out_anew():
    network = MaybeNoisy()
    assert depends_on(network, (1, 8, 8)) == "patch"
    network.noisy = True
    assert depends_on(network, (1, 8, 8)) == "random"
    network.noisy = False
    assert depends_on(network, (1, 8, 8)) == "patch"


class Counting(nn.Module):
    """Counts its calls, as one that lowers a noise step by step would."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, patches):
        self.calls += 1
        return patches.flatten(1)[:, :4]


def test_a_network_that_counts_its_calls_is_left_alone():
    network, answers = Counting(), []
    for _ in range(40):
        answers.append(depends_on(network, (1, 8, 8)))
        network(torch.rand(1, 1, 8, 8))
    assert network.calls == 40  # the trials do not count
    assert answers[0] == "patch" and answers[-1] == "unknown"


@pytest.mark.parametrize(
    ("options", "message"),
    [(dict(chunk=2.5), r"chunk=2\.5: expected a whole"), (dict(fill="x"), "fill='x': expected one number")],
)
def test_deep_mil_refuses_what_is_no_number(options, message):
    with pytest.raises(ValueError, match=message):
        DeepMIL(MILAttention(5), small_features(), Classifier(5, 3), patch_size=8, grid=(2, 3), **options)


@pytest.mark.parametrize(
    ("image", "message"),
    [(torch.zeros(2, 1, 16, 24, dtype=torch.int32), "image of type torch.int32"), (torch.zeros(1, 16, 24), "expected rank 4")],
)
def test_an_image_that_fits_no_network_is_named_where_attention_is_given_too(image, message):
    model = small_model("systematic").float()
    low, log_attention = model.attend(torch.rand(2 if image.ndim == 4 else 1, 1, 16, 24))
    with pytest.raises(ValueError, match=message):
        model(image, low, log_attention=log_attention)


def test_where_the_patches_were(monkeypatch):
    model = AttentionSampling(MegapixelMNISTAttention(), LeNetFeatures(), Classifier(32, 10), 50, 3)
    image = torch.randint(0, 256, (2, 1, 300, 400), dtype=torch.uint8)
    for low in (None, torch.rand(2, 1, 60, 80)):
        out = model(image, low, return_patches=True)
        assert torch.equal(extract_patches(image, model.top_left(image, out, low), 50), out.patches)
    with pytest.raises(ValueError, match="an output without locations"):
        model.top_left(image, model.eval().exact(image[..., :60, :60]))


def test_locations_too_far_apart_for_the_patches_are_warned_of():
    parts = SpeedLimitsAttention(), ResNet8Features(), Classifier(32, 4)
    with pytest.warns(UserWarning, match=r"locations 26\.67 pixels apart \(stride 8 .* scale 0\.3\) for patches of 26") as said:
        AttentionSampling(*parts, patch_size=26, scale=0.3)
    assert [warning.filename for warning in said] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AttentionSampling(*parts, patch_size=27, scale=0.3)


def test_geometry_from_what_the_model_said():
    model = small_model()
    image = torch.rand(1, 1, 60, 80)
    out = model(image)
    assert model.geometry(image, out) == model.geometry(image, model.view(image), out.log_attention)
    with pytest.raises(ValueError, match="no log-attention"):
        model.geometry(image, model.view(image))


@pytest.mark.parametrize("chunk", [0, -5, 1.5, None])
def test_exact_refuses_chunks_that_are_none(chunk):
    with pytest.raises(ValueError, match=f"chunk={chunk}: expected a whole number"):
        small_model().exact(torch.rand(1, 1, 60, 80), chunk=chunk)


def test_half_precision_images_under_autocast():
    """The views' parts have another type than the autocast's, which would refuse to put them together."""
    image = torch.rand(2, 1, 60, 80)
    view = downsample(image.half(), (6, 8))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(downsample(image.half(), (6, 8)), view)


def test_an_output_knows_the_view_it_is_of():
    """A pixel more or less in the view moves the patches."""
    torch.manual_seed(0)
    attention = AttentionNetwork(nn.Conv2d(1, 1, 3), nn.MaxPool2d(4))
    model, image = AttentionSampling(attention, LeNetFeatures(), Classifier(32, 2), 20, 2, 0.25).eval(), torch.rand(1, 1, 72, 72)
    low = torch.rand(1, 1, 19, 19)
    out = model(image, low, return_patches=True)
    corners = model.top_left(image, out)
    assert torch.equal(extract_patches(image, corners, 20), out.patches) and torch.equal(corners, model.top_left(image, out, low))
    assert model.geometry(image, out).low_size == (19, 19) == model.exact(image, low).view_size
    silent = Output(out.logits, out.log_attention, out.index, out.pooled)  # as a model of one's own may answer
    assert model.geometry(image, silent).low_size == (18, 18)
    assert torch.equal(model.top_left(image, silent, low), corners)


def test_a_view_of_one_size_for_all_images():
    class Fixed(AttentionSampling):
        def view(self, image):
            return downsample(image, (16, 20))

    model = Fixed(MegapixelMNISTAttention(), LeNetFeatures(), Classifier(32, 2), 20, 2, 0.25).eval()
    for size in ((64, 80), (128, 160)):
        image = torch.rand(1, 1, *size)
        out = model(image, return_patches=True)
        assert torch.equal(extract_patches(image, model.top_left(image, out), 20), out.patches)


def of_parts(attention_channels=1, feature_channels=1, width=32, patch_size=20):
    features = LeNetFeatures(feature_channels)
    return AttentionSampling(MegapixelMNISTAttention(attention_channels), features, Classifier(width, 10), patch_size, 3)


@pytest.mark.parametrize(
    ("model", "channels", "said"),
    [
        (of_parts(), 3, r"the attention network MegapixelMNISTAttention .* \(1, 3, 12, 12\): .* make the networks for as many"),
        (of_parts(3), 3, r"the feature network LeNetFeatures .* \(\d, 3, 20, 20\): .* make the networks for as many"),
        (of_parts(patch_size=9), 1, r"the feature network LeNetFeatures .*Kernel size can't be greater"),
        (of_parts(width=64), 1, r"the classifier Classifier is not made for an input of shape \(1, 32\)"),
        (DeepMIL(MILAttention(64), small_features(64), Classifier(5, 2), 20, (2, 2)), 1, r"classifier Classifier .* \(1, 64\)"),
        (DeepMIL(MILAttention(64), small_features(), Classifier(5, 2), 20, (2, 2)), 1, r"the attention network MILAttention"),
        (DownsampledCNN(ResNet16(1), Classifier(512, 2)), 3, r"the feature network ResNet16 .* make the networks for as many"),
    ],
)
@pytest.mark.filterwarnings("ignore:locations")
def test_the_network_that_does_not_fit_its_input_is_named(model, channels, said):
    with pytest.raises(ValueError, match=said):
        model(torch.rand(1, channels, 100, 100))


@pytest.mark.parametrize("given", [False, True])
def test_the_view_that_attend_returns_is_not_the_networks_to_change(given):
    attention = AttentionNetwork(nn.ReLU(inplace=True), nn.Conv2d(1, 1, 3, padding=1))
    model = AttentionSampling(attention, small_features(), Classifier(5, 3), patch_size=8, scale=0.125)
    image = torch.randn(1, 1, 64, 64)
    view = model.view(image)
    assert view.min() < 0
    assert torch.equal(model.attend(image, view if given else None)[0], view) and view.min() < 0


@pytest.mark.parametrize(
    "wrong", [dict(n_patches=None), dict(n_patches="3"), dict(n_patches=math.inf), dict(scale="a"), dict(estimator=["des_raj"])]
)
def test_arguments_of_another_type_are_named(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.*: expected"):
        AttentionSampling(MegapixelMNISTAttention(), LeNetFeatures(), Classifier(32, 10), **wrong)


def test_what_is_no_tensor_of_images_is_told_how_to_become_one():
    model = small_model()
    with pytest.raises(ValueError, match=r"image of type list: .* torch.stack"):
        model([torch.rand(1, 64, 64)])
    with pytest.raises(ValueError, match=r"image of type ndarray: .* torch.from_numpy"):
        model(np.zeros((1, 1, 64, 64)))
    with pytest.raises(ValueError, match=r"image of type torch.int64: .* image.to\(torch.uint8\)"):
        model(torch.zeros(1, 1, 64, 64, dtype=torch.int64))
    image = torch.rand(1, 1, 64, 64).double()
    with pytest.raises(ValueError, match=r"shape \(1, 64, 64\): expected rank 4"):
        model.geometry(image[0], model(image))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("size, said", [((790, 800), "60 pixels below"), ((800, 800), None), ((790, 1590), "60 pixels below")])
def test_a_rim_that_no_patch_shows_is_warned_of(size, said, exact):
    """A pooling that rounds down leaves up to a stride of the view without a location."""
    attention = AttentionNetwork(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 1), nn.MaxPool2d(8))
    model = AttentionSampling(attention, pooled_features(), Classifier(5, 3), patch_size=100, n_patches=2, scale=0.1)
    call = model.exact if exact else model
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            call(torch.rand(1, 1, *size))
    messages = [str(one.message) for one in caught]
    assert len(messages) == (said is not None) and all(f"no patch shows {said} of an image of {size}" in one for one in messages)


def pooled_features():
    return nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), UnitNorm())
