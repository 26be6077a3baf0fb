"""The figures to play with: they draw, redraw when a control moves, and need no kernel where they must not."""

import re

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("ipywidgets")
pytest.importorskip("matplotlib").use("agg")

from matplotlib import pyplot as plt  # noqa: E402

from atslib import widgets  # noqa: E402
from atslib.models import AttentionSampling  # noqa: E402
from atslib.networks import AttentionNetwork, Classifier, LeNetFeatures, UnitNorm  # noqa: E402
from atslib.plots import ESTIMATOR_NAMES  # noqa: E402

PNG = b"\x89PNG"


def small_model():
    torch.manual_seed(0)
    return AttentionSampling(
        attention=AttentionNetwork(nn.Conv2d(1, 1, 3, padding=1)),
        features=nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), UnitNorm()),
        classifier=Classifier(5, 3),
        patch_size=8,
        n_patches=3,
        scale=0.125,
    )


def find(widget, kind):
    """The first widget of this class name, depth first."""
    if type(widget).__name__ == kind:
        return widget
    return next((found for child in getattr(widget, "children", ()) if (found := find(child, kind))), None)


def test_nobody_sits_here():
    assert widgets.is_live() is False


@pytest.mark.parametrize("show", ["component", "error"])
def test_estimators_are_drawn(show):
    figure = widgets.draw_estimators(1.0, 2, draws=50, show=show)
    words = {text.get_text().strip() for ax in figure.axes for text in ax.texts}
    assert {"with replacement", "Des Raj", "Murthy"} <= words
    assert widgets._png(figure).startswith(PNG)


@pytest.mark.parametrize("show", ["component", "error"])
def test_each_row_is_of_the_estimator_that_it_names(show, monkeypatch):
    given, estimates = [], widgets.estimates

    def note(name, log_attention, features, *rest):
        given.append((log_attention, features))
        return estimates(name, log_attention, features, *rest)

    monkeypatch.setattr(widgets, "estimates", note)
    figure = widgets.draw_estimators(2.0, 3, draws=200, show=show)
    right, (log_attention, features) = figure.axes[1], given[0]
    assert torch.equal(log_attention, widgets.example_attention(2.0)) and features.shape[0] == widgets.LOCATIONS
    truth = log_attention.exp() @ features
    low, high = right.get_xlim()
    rows = [stairs.get_data() for stairs in right.patches]
    texts = [(text.get_text().strip(), int(text.get_position()[1])) for text in right.texts]
    names, printed = ([pair for pair in texts if ("error" in pair[0]) == error] for error in (False, True))
    assert [label for label, _ in names] == [ESTIMATOR_NAMES[name] for name in reversed(widgets.COMPARED)]
    assert len(rows) == len(names) == len(printed) == len(widgets.COMPARED)
    seen = set()
    for name in widgets.COMPARED:
        z = estimates(name, log_attention, features, 3, 200)
        row = dict(names)[ESTIMATOR_NAMES[name]]  # how high it is drawn
        mse = (z - truth).square().sum(1).mean().item()
        assert [text for text, at in printed if at == row] == [f"mean squared error {mse:.3f}"]
        (drawn,) = (stairs for stairs in rows if stairs.baseline == row)
        shown = z[:, 0] if show == "component" else (z - truth).norm(dim=1)
        counts, edges = np.histogram(shown.clamp(low, high).numpy(), len(drawn.values), (low, high))
        assert counts.sum() == 200
        np.testing.assert_allclose((drawn.values - row) / 0.9, counts / counts.max(), atol=1e-6)
        np.testing.assert_allclose(drawn.edges, edges, atol=1e-9)
        seen.add((mse, *counts.tolist()))
    assert len(seen) == len(widgets.COMPARED), "no two estimators draw alike"
    truths = [line.get_xdata()[0] for line in right.lines if line.get_linestyle() == "--"]
    assert truths == ([truth[0].item()] if show == "component" else [])
    plt.close(figure)


def test_what_cannot_be_shown_is_refused():
    with pytest.raises(ValueError, match="show='mean': expected 'component' or 'error'"):
        widgets.draw_estimators(1.0, 2, show="mean")


def test_estimates_are_centred_on_the_truth():
    log_attention = widgets.example_attention(1.0)
    features = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    truth = log_attention.exp() @ features
    for name in widgets.COMPARED:
        z = widgets.estimates(name, log_attention, features, 3, 4000)
        assert ((z.mean(0) - truth).abs() < 5 * z.std(0) / 4000**0.5).all(), name


def test_the_estimator_explorer_redraws_when_a_slider_moves():
    explorer = widgets.estimator_explorer(draws=50)
    picture = find(explorer, "Image")
    seen = {bytes(picture.value)}
    for kind, value in (("FloatSlider", 4.0), ("IntSlider", 7), ("ToggleButtons", "error")):
        find(explorer, kind).value = value
        seen.add(bytes(picture.value))
    assert len(seen) == 4
    assert all(png.startswith(PNG) for png in seen)


def test_slides_are_plain_html_with_descriptions():
    page = widgets.estimator_slides(peakedness=(0.0, 2.0), draws=(1, 3)).data
    assert page.count("<img ") == len(re.findall(r'alt="Histograms[^"]{40,}"', page)) == 4
    assert page.count('type="range"') == 2
    assert page.count("display:block") == 1, "one picture shows, without any script"
    assert "<script" not in page
    assert "http" not in page


def test_slides_need_a_picture_for_each_position():
    with pytest.raises(ValueError, match="3 pictures for sliders of 4 positions"):
        widgets.slides([(PNG, "a picture")] * 3, {"a": ["1", "2"], "b": ["1", "2"]})


def test_names_and_descriptions_are_escaped():
    page = widgets.slides([(PNG, 'a "quoted" <b>')], {"<i>": ["<0>"]}).data
    assert "<b>" not in page
    assert "<i>" not in page
    assert 'alt="a &quot;quoted&quot; &lt;b&gt;"' in page


def test_the_patch_explorer_draws_again_and_follows_the_slider():
    model = small_model().train()
    explorer = widgets.patch_explorer(model, torch.rand(1, 64, 64), classes=("a", "b", "c"))
    slider, button, picture = (find(explorer, kind) for kind in ("IntSlider", "Button", "Image"))
    assert (slider.value, slider.max) == (3, 50)
    seen = {bytes(picture.value)}
    button.click()
    seen.add(bytes(picture.value))
    slider.value = 6
    seen.add(bytes(picture.value))
    assert len(seen) == 3
    assert model.training, "looking at a model leaves its mode alone"
    assert model.n_patches == 3


def forgetful_model():
    """With what computes otherwise in training: batch normalisation, one part of it at rest, and dropout."""
    model = small_model()
    model.attention = AttentionNetwork(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)))
    model.features = nn.Sequential(model.features, nn.BatchNorm1d(5), nn.Dropout(0.5), UnitNorm())
    model.train()
    model.features[1].eval()
    return model


def test_looking_at_a_model_does_not_change_it():
    """Nor the random numbers that others draw, and one seed gives one picture."""
    model, image = forgetful_model(), torch.rand(1, 1, 64, 64)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    random = torch.get_rng_state()
    figure, seen = widgets.draw_patches(model, image, 4, generator=torch.Generator().manual_seed(7))
    _, again = widgets.draw_patches(model, image, 4, generator=torch.Generator().manual_seed(7))
    widgets.patch_explorer(model, image[0])
    assert torch.equal(seen, again)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert {name: module.training for name, module in model.named_modules()} == modes
    with torch.no_grad():
        out = model.eval()(image, n_patches=4, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(seen, out.logits[0].softmax(0))
    left, middle, right = figure.axes
    corners = model.geometry(image, model.view(image), out.log_attention).top_left(out.index)[0].tolist()
    assert [rectangle.get_xy() for rectangle in left.patches] == [(column - 0.5, row - 0.5) for row, column in corners]
    torch.testing.assert_close(torch.as_tensor(middle.images[0].get_array().data), out.log_attention[0].exp().sqrt())
    assert [bar.get_width() for bar in right.patches] == seen.tolist()


def test_the_patch_explorer_shows_one_image():
    with pytest.raises(ValueError, match=r"shape \(2, 1, 64, 64\): expected one image"):
        widgets.patch_explorer(small_model(), torch.rand(2, 1, 64, 64))


def test_dots_are_the_earlier_draws_of_the_same_n(monkeypatch):
    dots, png = [], widgets._png

    def note(figure, **options):
        dots.append([list(line.get_xdata()) for line in figure.axes[2].lines])
        return png(figure, **options)

    monkeypatch.setattr(widgets, "_png", note)
    explorer = widgets.patch_explorer(small_model(), torch.rand(1, 64, 64))
    slider, button = (find(explorer, kind) for kind in ("IntSlider", "Button"))
    button.click()
    button.click()
    slider.value = 6
    button.click()
    assert [len(some) for some in dots] == [0, 1, 2, 0, 1]
    assert dots[1][0] == dots[2][0] != dots[4][0]


def test_the_attention_of_the_example():
    assert widgets.example_attention(0.0).exp().tolist() == pytest.approx([0.05] * 20)
    assert 0.66 < widgets.example_attention(6.0).exp().max() < 0.68


def test_the_slider_ends_where_the_locations_do():
    explorer = widgets.patch_explorer(small_model(), torch.randint(0, 256, (1, 1, 24, 24), dtype=torch.uint8))
    assert find(explorer, "IntSlider").max == 9


@pytest.mark.parametrize("channels", [2, 3, 5])
@pytest.mark.parametrize("large", [False, True])
def test_images_of_any_bands_and_size_are_drawn(channels, large, monkeypatch):
    monkeypatch.setattr(widgets, "_LARGE", 1000 if large else 10**6)
    torch.manual_seed(0)
    attention = AttentionNetwork(nn.Conv2d(channels, 1, 3, padding=1))
    model = AttentionSampling(attention, LeNetFeatures(channels), Classifier(32, 2), patch_size=20, n_patches=3, scale=0.25)
    image = torch.rand(1, channels, 80, 120)
    left = widgets.draw_patches(model, image, 3, generator=torch.Generator().manual_seed(0))[0].axes[0]
    shown = left.images[0]
    assert shown.get_array().shape[:2] == ((20, 30) if large else (80, 120))
    assert shown.get_array().shape[2:] == (() if channels == 2 else (3,))
    assert list(shown.get_extent()) == [-0.5, 119.5, 79.5, -0.5]  # patches lie in image pixels, however it is drawn
