"""Shapes and parameters against hand counts, and the geometry an attention network claims against its gradient."""

from functools import partial

import pytest
import torch
from torch import nn

from atslib.estimators import entropy
from atslib.networks import (
    AttentionNetwork,
    Classifier,
    ColonCancerAttention,
    Gain,
    IlseFeatures,
    LeNetFeatures,
    MaskedAttention,
    MegapixelMNISTAttention,
    MILAttention,
    ResidualBlock,
    ResNet,
    ResNet8,
    ResNet8Features,
    ResNet16,
    SaliencyPrior,
    SpeedLimitsAttention,
    UniformAttention,
    UnitNorm,
    local_contrast,
    magnitude,
    redness,
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
    # as for Megapixel MNIST, from 3 channels
    assert count(ColonCancerAttention()) == (9 * 3 * 8 + 8) + (9 * 64 + 8) + (9 * 8 + 1)
    # 3→8, 8→16, 16→32, 32→1
    for variant in ("paper", "released"):
        assert (
            count(SpeedLimitsAttention(variant=variant))
            == 224 + 1168 + 4640 + 289
            == ((9 * 3 * 8 + 8) + (9 * 8 * 16 + 16) + (9 * 16 * 32 + 32) + (9 * 32 + 1))
        )
    # 4×4 3→36, 3×3 36→48, 5·5·48→512, 512→512
    assert count(IlseFeatures()) == (16 * 3 * 36 + 36) + (9 * 36 * 48 + 48) + (25 * 48 * 512 + 512) + (512 * 512 + 512)
    # V, w; gated also U; biases of V and U
    assert count(MILAttention(512)) == 512 * 128 + 128
    assert count(MILAttention(512, gated=True)) == 2 * 512 * 128 + 128
    assert count(MILAttention(32, 16, gated=True, bias=True)) == 2 * (32 * 16 + 16) + 16
    assert count(UniformAttention()) == 0


def test_parameter_counts_of_residual_networks():
    # Convolutions have no bias, a normalisation has a scale and a shift for each channel. A block is two 3×3 convolutions with
    # a normalisation each, and a 1×1 convolution around where stride or width change.
    norm, block, around = 2 * 32, 2 * 9 * 32 * 32 + 2 * 2 * 32, 32 * 32
    # paper: the first convolution and the three around are normalised too
    assert count(ResNet8()) == (27 * 32 + norm) + 3 * (block + around + norm)
    # released: the ones around are not, nor is the first; the last block's result is
    assert count(ResNet8(variant="released")) == 27 * 32 + 3 * (block + around) + norm
    assert count(ResNet8Features()) == count(ResNet8())  # unit norm has none
    assert count(ResNet8Features(norm="batch")) == count(ResNet8())
    # 32, 32 | 64, 64 | 128, 128 | 256, around where the resolution is halved: 32→32, 32→64, 64→128, 128→256
    assert count(ResNet16()) == (27 * 32 + 64) + sum(
        (
            (2 * 9 * 32 * 32 + 128) + (32 * 32 + 64) + (2 * 9 * 32 * 32 + 128),
            (9 * 32 * 64 + 9 * 64 * 64 + 256) + (32 * 64 + 128) + (2 * 9 * 64 * 64 + 256),
            (9 * 64 * 128 + 9 * 128 * 128 + 512) + (64 * 128 + 256) + (2 * 9 * 128 * 128 + 512),
            (9 * 128 * 256 + 9 * 256 * 256 + 1024) + (128 * 256 + 512),
        )
    )
    for network, layers in ((ResNet8(), 8), (ResNet16(), 16)):  # along the longest path, with the linear layer that follows
        assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in network.modules()) + 1 == layers


def test_shapes_of_the_papers_inputs():
    with torch.no_grad():
        assert ColonCancerAttention()(torch.rand(1, 3, 100, 100)).shape == (1, 100, 100)
        view = torch.rand(1, 3, 288, 384)
        assert SpeedLimitsAttention()(view).shape == (1, 36, 48)
        assert SpeedLimitsAttention(variant="released")(view).shape == (1, 35, 47)
        assert IlseFeatures()(torch.rand(2, 3, 27, 27)).shape == (2, 512)
        assert ResNet8Features()(torch.rand(2, 3, 100, 100)).shape == (2, 32)
        assert ResNet8()(torch.rand(1, 3, 250, 250)).shape == (1, 32)
        assert ResNet16(channels=1)(torch.rand(1, 1, 64, 96)).shape == (1, 256)
        assert MILAttention(512, gated=True)(torch.rand(2, 7, 512)).shape == (2, 7)


def test_resolution_is_halved_where_the_docstring_says():
    def steps(network):
        return [block.conv1.stride[0] for block in network.modules() if isinstance(block, ResidualBlock)]

    assert steps(ResNet8()) == [2, 2, 2]
    assert steps(ResNet16()) == [2, 1, 2, 1, 2, 1, 2]


@pytest.mark.parametrize("variant, padding", [("paper", 4), ("released", 0)])
def test_speed_limits_attention_knows_its_window(variant, padding):
    network = SpeedLimitsAttention(variant=variant)
    # four 3×3 convolutions see 9 pixels, eight of these windows side by side 16
    assert (network.stride, network.padding, network.receptive_field) == (8, padding, 16)


@pytest.mark.parametrize("network", [MegapixelMNISTAttention(), SpeedLimitsAttention(), SpeedLimitsAttention(variant="released")])
def test_uniform_attention_has_the_locations_of_another(network):
    channels = network.layers[0].in_channels
    uniform = UniformAttention.like(network)
    for size in ((40, 56), (37, 63), (24, 31)):
        view = torch.rand(2, channels, *size)
        logits = uniform(view)
        assert logits.shape == network(view).shape
        assert not logits.any()


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_residual_blocks_compute_their_formula(variant):
    torch.manual_seed(0)
    block = ResidualBlock(4, 8, 2, variant).double()
    x = torch.rand(2, 4, 6, 6, dtype=torch.float64)
    c1, c2, n1, n2, relu = block.conv1, block.conv2, block.norm1, block.norm2, nn.functional.relu
    if variant == "paper":
        expected = relu(n2(c2(relu(n1(c1(x))))) + block.shortcut(x))
    else:
        u = relu(n1(x))
        expected = c2(relu(n2(c1(u)))) + block.shortcut(u)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=0)
    # what is written over in place is not needed by the gradient
    plain = ResidualBlock(4, 4, 1, variant).double()
    assert torch.autograd.gradcheck(plain, torch.rand(1, 4, 3, 3, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("norm, alone", [("group", True), ("batch", False)])
def test_a_patchs_feature_is_its_own_with_group_normalisation(norm, alone):
    torch.manual_seed(0)
    network = ResNet8Features(norm=norm).train()
    patches = torch.rand(4, 3, 24, 24)
    patches[2:] *= 0.2
    assert torch.allclose(network(patches)[:1], network(patches[:1]), atol=1e-5) == alone


@pytest.mark.parametrize("gated", [False, True])
def test_mil_attention_is_equation_8_or_9(gated):
    torch.manual_seed(0)
    network = MILAttention(5, 3, gated=gated)
    h = torch.rand(2, 4, 5)
    hidden = torch.tanh(h @ network.value.weight.T)
    if gated:
        hidden = hidden / (1 + torch.exp(-h @ network.gate.weight.T))
    torch.testing.assert_close(network(h), hidden @ network.weight.weight[0])


CHAINS = {
    "megapixel mnist": MegapixelMNISTAttention(),
    "with prior": SaliencyPrior(MegapixelMNISTAttention(variant="released")),
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
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()  # all positive: no unit is dead, no path cancels another
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


@pytest.mark.parametrize(
    "network, side, width", [(LeNetFeatures(3), 50, 32), (IlseFeatures(), 27, 512), (ResNet8Features(variant="released"), 40, 32)]
)
def test_features_have_unit_length(network, side, width):
    features = network(torch.rand(5, 3, side, side))
    assert features.shape == (5, width)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(5))


def test_saliency_prior_of_a_silent_network_is_the_local_mean():
    network = MegapixelMNISTAttention()
    nn.init.zeros_(network.layers[-1].weight), nn.init.zeros_(network.layers[-1].bias)
    view = torch.zeros(1, 1, 20, 20)
    view[0, 0, 9, 9] = 1
    attention = SaliencyPrior(network, epsilon=1e-3)(view).exp()[0]
    near = torch.zeros(20, 20, dtype=torch.bool)
    near[6:13, 6:13] = True  # those whose 7×7 window holds the bright pixel
    torch.testing.assert_close(attention[near], torch.full((49,), 1 / 49 + 1e-3))
    torch.testing.assert_close(attention[~near], torch.full((351,), 1e-3))


def test_saliency_prior_sees_an_even_view_evenly_up_to_its_border():
    network = MegapixelMNISTAttention()
    nn.init.zeros_(network.layers[-1].weight), nn.init.zeros_(network.layers[-1].bias)
    view = torch.full((2, 1, 20, 20), 0.5)
    torch.testing.assert_close(SaliencyPrior(network)(view).exp(), torch.full((2, 20, 20), 0.5 + 1e-3))
    padded = SaliencyPrior(network, count_include_pad=True)(view).exp()[0]
    torch.testing.assert_close(padded[10, 10], torch.tensor(0.5 + 1e-3))
    torch.testing.assert_close(padded[0, 0], torch.tensor(0.5 * 16 / 49 + 1e-3))  # 4 × 4 of the 7 × 7 pixels are the view's


def test_saliency_prior_refuses_a_saliency_of_another_shape():
    for saliency in (torch.abs, lambda view: view.mean(1)):
        with pytest.raises(ValueError, match=r"the saliency returned shape .* view of \(1, 3, 40, 40\): expected .*B, 1, h, w"):
            SaliencyPrior(SpeedLimitsAttention(), saliency=saliency)(torch.rand(1, 3, 40, 40))


def test_local_contrast_finds_dark_and_bright_things_alike():
    view = torch.full((1, 3, 30, 30), 0.6)
    view[:, :, 8, 8], view[:, :, 20, 20] = 0.2, 1.0
    contrast = local_contrast(view)[0, 0]
    torch.testing.assert_close(contrast[8, 8], torch.tensor(0.4 * 80 / 81))  # the window of 81 pixels holds the pixel itself
    torch.testing.assert_close(contrast[20, 20], contrast[8, 8])
    assert contrast[14, 3] == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(local_contrast(torch.full((1, 1, 9, 9), 0.3)), torch.zeros(1, 1, 9, 9))  # nor is a border one
    with pytest.raises(ValueError, match=r"view of shape \(3, 30, 30\): expected rank 4"):
        local_contrast(view[0])
    for window in (1, 4, 3.5):
        with pytest.raises(ValueError, match=f"window={window}: expected an odd number"):
            local_contrast(view, window)


def test_saliency_prior_keeps_double_precision_and_works_half_precision_in_float32():
    prior = SaliencyPrior(SpeedLimitsAttention(), saliency=redness)
    view = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    assert prior(view).dtype == torch.float32
    assert prior.bfloat16()(view.bfloat16()).dtype == torch.float32
    assert prior.double()(view.double()).dtype == torch.float64


def test_saliency_prior_refuses_locations_beyond_the_view():
    network = AttentionNetwork(nn.Conv2d(1, 1, 3), nn.MaxPool2d(2, ceil_mode=True))
    with pytest.raises(ValueError, match=r"attention map of \(4, 4\) where the prior has \(3, 3\).*without ceil_mode"):
        SaliencyPrior(network)(torch.rand(1, 1, 9, 9))


def test_classifier_scales_its_input():
    plain, scaled = Classifier(4, 3), Classifier(4, 3, scale=16)
    scaled.load_state_dict(plain.state_dict())
    z = torch.rand(2, 4)
    torch.testing.assert_close(scaled(z), plain(16 * z))


def test_refusals():
    with pytest.raises(ValueError, match="variant='keras': expected 'paper' or 'released'"):
        MegapixelMNISTAttention(variant="keras")
    with pytest.raises(ValueError, match=r"channels='released': expected a whole number.*given by its name"):
        SpeedLimitsAttention("released")
    for build in (SpeedLimitsAttention, ResNet8, partial(ResidualBlock, 4, 4)):
        with pytest.raises(ValueError, match="variant='keras': expected 'paper' or 'released'"):
            build(variant="keras")
    with pytest.raises(ValueError, match="norm='layer': expected 'group' or 'batch'"):
        ResNet8(norm="layer")
    with pytest.raises(ValueError, match="6 channels cannot be normalised in groups of four"):
        ResNet8(width=6)
    with pytest.raises(ValueError, match="2 widths and 3 strides"):
        ResNet(widths=(8, 8), strides=(1, 1, 1))
    with pytest.raises(ValueError, match=r"patch_size=10: .*expected at least 11"):
        IlseFeatures(patch_size=10)
    with pytest.raises(ValueError, match=r"patches of \(28, 28\) pixels for IlseFeatures\(patch_size=27\)"):
        IlseFeatures()(torch.rand(1, 3, 28, 28))
    with pytest.raises(ValueError, match=r"view of \(10, 40\) pixels: smaller than the receptive field of 16"):
        UniformAttention(8, 0, 16)(torch.rand(1, 3, 10, 40))
    with pytest.raises(ValueError, match="epsilon=0: expected a positive"):
        SaliencyPrior(MegapixelMNISTAttention(), epsilon=0)
    with pytest.raises(ValueError, match="scale=-1"):
        Classifier(4, 3, scale=-1)
    with pytest.raises(ValueError, match="kernel_size differs"):
        window_geometry([nn.Conv2d(1, 1, (3, 5))])
    with pytest.raises(ValueError, match="even window padded to 'same'"):
        window_geometry([nn.Conv2d(1, 1, 4, padding="same")])
    for layer in (nn.Upsample(scale_factor=0.5), nn.PixelUnshuffle(2), nn.AdaptiveAvgPool2d(4), nn.Bilinear(8, 8, 8)):
        with pytest.raises(ValueError, match=rf"{type(layer).__name__} in an attention network: where it looks is not known"):
            AttentionNetwork(nn.Conv2d(1, 8, 3), layer, nn.Conv2d(8, 1, 1))
    with pytest.raises(ValueError, match="returned 2 channels: expected 1"):
        AttentionNetwork(nn.Conv2d(1, 2, 3))(torch.zeros(1, 1, 8, 8))


def test_redness_by_hand():
    pixels = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0.5], [0.6, 0.2, 0.1], [0.2, 0.6, 0.1], [0.6, 0.1, 0.5], [0, 0, 0]])
    view = pixels.T[None, :, None]  # (1, 3, 1, 6)
    torch.testing.assert_close(redness(view)[0, 0, 0], torch.tensor([1.0, 0, 0.4 / 0.9, 0, 0.1 / 1.2, 0]))
    torch.testing.assert_close(redness(view), redness(0.3 * view))  # whatever the light
    with pytest.raises(ValueError, match="expected 3 channels"):
        redness(view[:, :1])
    with pytest.raises(ValueError, match=r"a pixel of -1: expected colours from 0, before any normalisation"):
        redness(2 * view - 1)


@pytest.mark.parametrize("peak, power", [(False, 1.0), (True, 1.0), (True, 2.0)])
def test_prior_of_a_red_spot(peak, power):
    """An untrained pooled network under the prior: attention is the power of the pooled redness, and nothing else."""
    network = SpeedLimitsAttention()
    for layer in network.layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    view = torch.full((1, 3, 48, 64), 0.5)
    view[0, 1:, 20:22, 30:32] = 0.0  # pure red, 2 × 2 pixels
    prior = SaliencyPrior(network, epsilon=0.01, saliency=redness, peak=peak, power=power)
    attention = prior(view).exp()[0]
    assert attention.shape == network(view).shape[1:]
    stride, padding, field = prior.stride, prior.padding, prior.receptive_field
    for row, column in ((0, 0), (2, 3), (2, 4), (5, 7)):
        cells = [
            (row * stride - padding + i, column * stride - padding + j)
            for i in range(field)
            for j in range(field)
            if 20 <= row * stride - padding + i < 22 and 30 <= column * stride - padding + j < 32
        ]
        pooled = float(bool(cells)) if peak else len(cells) / field**2
        torch.testing.assert_close(attention[row, column], torch.tensor((pooled + 0.01) ** power))


def test_prior_refusals():
    with pytest.raises(ValueError, match="power=0: expected a positive number"):
        SaliencyPrior(MegapixelMNISTAttention(), power=0)


@pytest.mark.parametrize("factor", [0, -1, float("nan")])
def test_gain_refuses(factor):
    with pytest.raises(ValueError, match="expected a positive number"):
        Gain(factor)


def test_geometry_of_blocks_is_that_of_their_layers():
    """Found by probing, not by formula: which pixels of the view move a location's logit."""
    block = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
    network = AttentionNetwork(block, nn.Dropout(), nn.Identity(), nn.Conv2d(4, 1, 3, padding=1)).eval()
    view = torch.rand(1, 1, 40, 40, requires_grad=True)
    logits = network(view)
    row, column = 7, 11
    logits[0, row, column].backward()
    seen = view.grad[0, 0].nonzero()
    assert (network.stride, network.padding, network.receptive_field) == (2, 3, 7)
    for axis, cell in enumerate((row, column)):
        assert seen[:, axis].min() >= cell * 2 - 3 and seen[:, axis].max() <= cell * 2 - 3 + 6
    assert len(seen) > 30  # most of the 49; ReLU may close some ways


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_geometry_of_residual_blocks(stride):
    network = AttentionNetwork(ResidualBlock(1, 4, stride, norm="batch"), nn.Conv2d(4, 1, 1)).eval().double()
    for weight in network.parameters():
        nn.init.constant_(weight, 0.1)  # no ReLU closes
    view = torch.rand(1, 1, 40, 40, dtype=torch.float64, requires_grad=True)
    row, column = 7, 6
    network(view)[0, row, column].backward()
    for axis, cell in enumerate((row, column)):
        first = cell * network.stride - network.padding
        assert view.grad[0, 0].nonzero()[:, axis].unique().tolist() == list(range(first, first + network.receptive_field))


def test_a_layer_may_say_itself_where_it_looks():
    class Halve(nn.Module):
        stride, padding, receptive_field = 2, 0, 2

        def forward(self, view):
            return view[..., ::2, ::2] + view[..., 1::2, 1::2]

    assert window_geometry([nn.Conv2d(1, 1, 3, padding=1), Halve(), nn.Conv2d(1, 1, 3)]) == (2, 1, 8)


def test_an_attention_network_ends_in_logits():
    """A softmax of its own, over one channel, would be a constant that never learns."""
    for last in (nn.Softmax2d(), nn.Sequential(nn.ReLU(), nn.LogSoftmax(1))):
        with pytest.raises(ValueError, match="expected logits, of which the model takes the softmax"):
            AttentionNetwork(nn.Conv2d(1, 1, 3, padding=1), last)


def test_what_networks_normalise_over():
    """Parameter counts are the same for groups of any size, and for batches."""
    groups = [part for part in ResNet16().modules() if isinstance(part, nn.GroupNorm)]
    assert groups and all(part.num_channels == 4 * part.num_groups for part in groups)
    for variant, kind in (("paper", nn.GroupNorm), ("released", nn.BatchNorm2d)):
        norms = [part for part in ResNet8(variant=variant).modules() if isinstance(part, (nn.GroupNorm, nn.BatchNorm2d))]
        assert norms and all(isinstance(part, kind) for part in norms)


@pytest.mark.parametrize("variant, kind", [("paper", nn.ReLU), ("released", nn.Tanh)])
def test_megapixel_mnist_attention_has_the_activation_of_its_variant(variant, kind):
    assert [type(layer) for layer in MegapixelMNISTAttention(variant=variant).layers[1::2]] == [kind, kind]


def test_redness_of_what_is_nearly_black_is_dimmed():
    assert redness(torch.tensor([0.001, 0, 0]).view(1, 3, 1, 1)).item() == pytest.approx(0.255)


def test_magnitude_is_the_mean_absolute_value():
    assert magnitude(torch.tensor([-1.0, 0.5]).view(1, 2, 1, 1)).item() == 0.75


def test_unit_norm_is_computed_in_float32():
    assert UnitNorm()(torch.ones(1, 3, dtype=torch.bfloat16)).dtype == torch.float32


def test_a_peak_at_the_border_is_as_high_as_anywhere():
    network = MegapixelMNISTAttention()
    nn.init.zeros_(network.layers[-1].weight), nn.init.zeros_(network.layers[-1].bias)
    view = torch.full((1, 1, 20, 20), 0.5)
    torch.testing.assert_close(SaliencyPrior(network, peak=True)(view).exp(), torch.full((1, 20, 20), 0.5 + 1e-3))


def test_uniform_logits_are_where_the_view_is():
    assert UniformAttention()(torch.zeros(1, 1, 8, 8, device="meta")).is_meta


def test_uniform_attention_like_a_network_that_rounds_up_is_refused():
    network = AttentionNetwork(nn.Conv2d(1, 1, 3, padding=1), nn.MaxPool2d(8, ceil_mode=True))
    assert network(torch.zeros(1, 1, 36, 44)).shape == (1, 5, 6)  # the three numbers say 4 × 5
    with pytest.raises(ValueError, match="expected an attention network without ceil_mode"):
        UniformAttention.like(network)


def test_unit_norm_has_a_bounded_slope_at_nothing():
    nothing = torch.zeros(1, 8, dtype=torch.float64, requires_grad=True)
    UnitNorm()(nothing).sum().backward()
    assert nothing.grad.abs().max() <= 1 / UnitNorm.EPSILON * (1 + 1e-9)
    features = torch.randn(5, 8, dtype=torch.float64)
    torch.testing.assert_close(UnitNorm()(features), features / features.norm(dim=1, keepdim=True), rtol=0, atol=1e-12)
    assert repr(UnitNorm()) == "UnitNorm()" and repr(UnitNorm(1e-6)) == "UnitNorm(epsilon=1e-06)"
    with pytest.raises(ValueError, match="expected a positive number"):
        UnitNorm(0)


@pytest.mark.parametrize("wrap", [SaliencyPrior, UniformAttention.like])
def test_a_network_without_geometry_is_named(wrap):
    with pytest.raises(ValueError, match="Sequential has no attribute 'stride': wrap its layers in"):
        wrap(nn.Sequential(nn.Conv2d(1, 1, 3)))


def left_half(view):
    """Allowed: the left half of the view."""
    allowed = torch.zeros(len(view), 1, *view.shape[2:], dtype=torch.bool)
    allowed[..., : view.shape[3] // 2] = True
    return allowed


def test_a_mask_leaves_the_softmax_over_the_locations_that_see_something_allowed():
    torch.manual_seed(0)
    network, view = MegapixelMNISTAttention(), torch.rand(2, 1, 20, 20)
    attention = MaskedAttention(network, left_half)(view).flatten(1).softmax(1).unflatten(1, (20, 20))
    allowed = torch.arange(20).expand(20, 20) < 10 + 3  # the windows of 7 pixels around these columns reach the left half
    logits = network(view)
    expected = torch.where(allowed, logits.exp(), 0.0)
    torch.testing.assert_close(attention, expected / expected.sum((1, 2), keepdim=True))
    assert (attention[:, ~allowed] == 0).all()


@pytest.mark.parametrize("share, columns", [(0.0, 13), (0.4, 11), (0.5, 10), (0.9, 7)])
def test_a_location_needs_more_than_the_share_of_its_field(share, columns):
    network = MegapixelMNISTAttention()
    allowed = MaskedAttention(network, left_half, share)(torch.rand(1, 1, 20, 20)).isfinite()[0]
    # Of the 7 columns around column 10 three are allowed, of those around column 9 four; at the left border 4 of 4 are.
    assert allowed.sum(1).tolist() == [columns] * 20


def test_an_image_without_anything_allowed_is_looked_at_as_if_there_were_no_mask():
    network, view = MegapixelMNISTAttention(), torch.rand(2, 1, 20, 20)
    view[0] = 0
    masked = MaskedAttention(network, lambda view: view > 0.1)(view)
    torch.testing.assert_close(masked[0], network(view)[0])


def test_gradients_of_masked_attention_are_those_of_the_locations_left():
    torch.manual_seed(0)
    network, view = MegapixelMNISTAttention().double(), torch.rand(1, 1, 12, 12, dtype=torch.float64)
    weight = torch.randn(12, 12, dtype=torch.float64)
    gradients = []
    for logits in (MaskedAttention(network, left_half)(view)[0].flatten(), network(view)[0, :, :9].flatten()):
        a = logits.softmax(0)
        there = weight.flatten() if len(a) == 144 else weight[:, :9].flatten()
        loss = (a * there).sum() - entropy(logits.log_softmax(0)[None]).sum()
        gradients.append(torch.autograd.grad(loss, list(network.parameters())))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_masked_attention_refuses_what_is_no_mask():
    view = torch.rand(1, 3, 40, 40)
    for mask in (lambda view: view > 0, lambda view: view[:, :1], lambda view: view[:, 0] > 0):
        with pytest.raises(ValueError, match=r"the mask returned torch.* for a view of \(1, 3, 40, 40\): expected one boolean"):
            MaskedAttention(SpeedLimitsAttention(), mask)(view)
    for share in (1, -0.1):
        with pytest.raises(ValueError, match=rf"share={share}: expected a number in \[0, 1\)"):
            MaskedAttention(SpeedLimitsAttention(), left_half, share)
    network = AttentionNetwork(nn.Conv2d(1, 1, 3), nn.MaxPool2d(2, ceil_mode=True))
    with pytest.raises(ValueError, match=r"attention map of \(4, 4\) where the mask has \(3, 3\)"):
        MaskedAttention(network, left_half)(torch.rand(1, 1, 9, 9))
    with pytest.raises(ValueError, match="Sequential has no attribute 'stride'"):
        MaskedAttention(nn.Sequential(nn.Conv2d(1, 1, 3)), left_half)


def test_group_normalisation_in_half_precision_stays_in_it():
    """As it is done on a GPU, where PyTorch's own would keep a copy in float32."""
    torch.manual_seed(0)
    norm = next(part for part in ResNet8().modules() if isinstance(part, nn.GroupNorm))
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    inputs = torch.randn(2, norm.num_channels, 6, 6).bfloat16().requires_grad_()
    expected = nn.functional.group_norm(inputs.float(), norm.num_groups, norm.weight, norm.bias, norm.eps)
    found = norm._as_the_inputs(inputs)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)
    for gradients in zip(*(torch.autograd.grad(out.sum(), [norm.weight, inputs]) for out in (found, expected)), strict=True):
        torch.testing.assert_close(*(gradient.float() for gradient in gradients), rtol=5e-2, atol=0.2)
    plain = nn.GroupNorm(norm.num_groups, norm.num_channels)
    plain.load_state_dict(norm.state_dict())
    assert torch.equal(norm(inputs.float()), plain(inputs.float()))
