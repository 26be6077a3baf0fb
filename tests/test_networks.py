"""Shapes and parameters against hand counts, and the geometry an attention network claims against its gradient."""

import pytest
import torch
from torch import nn

from atslib.networks import (
    AttentionNetwork,
    Classifier,
    LeNetFeatures,
    MegapixelMNISTAttention,
    SaliencyPrior,
    window_geometry,
)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts():
    # 3×3 kernels: 1→8, 8→8, 8→1, with biases
    assert count(MegapixelMNISTAttention()) == (9 * 8 + 8) + (9 * 64 + 8) + (9 * 8 + 1)
    # 7×7 1→32, then three of 3×3 32→32
    assert count(LeNetFeatures()) == (49 * 32 + 32) + 3 * (9 * 32 * 32 + 32)
    assert count(Classifier(32, 10)) == 32 * 10 + 10


CHAINS = {
    "megapixel mnist": MegapixelMNISTAttention(),
    "with prior": SaliencyPrior(MegapixelMNISTAttention("released")),
    "unpadded and pooled": AttentionNetwork(
        nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 1, 3), nn.AvgPool2d(8)
    ),  # AvgPool, whose gradient reaches its whole window
    "strided, dilated, same": AttentionNetwork(
        nn.Conv2d(1, 4, 5, stride=2, padding=2), nn.Tanh(), nn.Conv2d(4, 1, 3, dilation=2, padding="same")
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_claimed_geometry_is_the_gradients_support(name):
    """Output (r, c) depends on exactly the window of the view that stride, padding and receptive field say."""
    network = CHAINS[name].double()
    view = torch.rand(1, 1, 41, 47, dtype=torch.float64, requires_grad=True)
    logits = network(view)
    for row, column in [(0, 0), (logits.shape[1] // 2, logits.shape[2] // 2), (logits.shape[1] - 1, logits.shape[2] - 1)]:
        (gradient,) = torch.autograd.grad(logits[0, row, column], view, retain_graph=True)
        touched = gradient[0, 0].abs() > 0
        for axis, cell in enumerate((row, column)):
            seen = touched.any(1 - axis).nonzero()[:, 0]
            first = cell * network.stride - network.padding
            last = first + network.receptive_field - 1
            assert seen.min() == max(first, 0)
            assert seen.max() == min(last, view.shape[2 + axis] - 1)


def test_features_have_unit_length():
    features = LeNetFeatures()(torch.rand(5, 1, 50, 50))
    assert features.shape == (5, 32)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(5))


def test_saliency_prior_of_a_silent_network_is_the_local_mean():
    network = MegapixelMNISTAttention()
    nn.init.zeros_(network.layers[-1].weight), nn.init.zeros_(network.layers[-1].bias)
    view = torch.zeros(1, 1, 20, 20)
    view[0, 0, 5, 5] = 1
    attention = SaliencyPrior(network, epsilon=1e-3)(view).exp()[0]
    near = torch.zeros(20, 20, dtype=torch.bool)
    near[2:9, 2:9] = True  # those whose 7×7 window holds the bright pixel
    torch.testing.assert_close(attention[near], torch.full((49,), 1 / 49 + 1e-3))
    torch.testing.assert_close(attention[~near], torch.full((351,), 1e-3))


def test_classifier_scales_its_input():
    plain, scaled = Classifier(4, 3), Classifier(4, 3, scale=16)
    scaled.load_state_dict(plain.state_dict())
    z = torch.rand(2, 4)
    torch.testing.assert_close(scaled(z), plain(16 * z))


def test_refusals():
    with pytest.raises(ValueError, match="variant='keras': expected 'paper' or 'released'"):
        MegapixelMNISTAttention("keras")
    with pytest.raises(ValueError, match="epsilon=0: expected a positive"):
        SaliencyPrior(MegapixelMNISTAttention(), epsilon=0)
    with pytest.raises(ValueError, match="scale=-1"):
        Classifier(4, 3, scale=-1)
    with pytest.raises(ValueError, match="kernel_size differs"):
        window_geometry([nn.Conv2d(1, 1, (3, 5))])
    with pytest.raises(ValueError, match="even window padded to 'same'"):
        window_geometry([nn.Conv2d(1, 1, 4, padding="same")])
    with pytest.raises(ValueError, match="returned 2 channels: expected 1"):
        AttentionNetwork(nn.Conv2d(1, 2, 3))(torch.zeros(1, 1, 8, 8))
