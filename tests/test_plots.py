"""Pieces of pages that several chapters share: tables and small multiples."""

import math
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from atslib import plots
from atslib.data import ImagePyramid
from atslib.patches import PatchGeometry


@pytest.fixture(autouse=True)
def no_figure_is_left_open():
    yield
    plt.close("all")


def test_table():
    assert plots.table(["run", "error"], [["a", 0.1], ("b", "–")]).data == "| run | error |\n|---|---:|\n| a | 0.1 |\n| b | – |"
    # In a narrow column a number and its error may be one below the other; the sign stays with the error.
    assert plots.table(["run", "error"], [["a", "0.10 ± 0.02"]]).data.endswith("| a | 0.10 ±\N{NO-BREAK SPACE}0.02 |")
    with pytest.raises(ValueError, match="expected 2 entries"):
        plots.table(["run", "error"], [["a"]])


def test_one_statement_is_a_sentence_and_several_are_a_list():
    assert plots.points("Outcome", ["It holds."]).data == "**Outcome.** It holds."
    assert plots.points("Does it?", ["It does.", "Twice."]).data == "**Does it?**\n\n- It does.\n- Twice."
    for wrong in ("It holds.", []):
        with pytest.raises(ValueError, match="expected a list of statements"):
            plots.points("Outcome", wrong)
        with pytest.raises(ValueError, match="expected a list of statements"):
            plots.at_the_head(wrong)


def test_statements_for_the_head_are_glued(monkeypatch):
    myst_nb = pytest.importorskip("myst_nb", reason="MyST-NB puts it at the head")
    kept = {}
    monkeypatch.setattr(myst_nb, "glue", lambda name, variable, display: kept.update({(name, display): variable.data}))
    plots.at_the_head(["It holds.", "Twice."])
    assert kept == {("what-came-out", False): "- It holds.\n- Twice."}
    monkeypatch.setitem(sys.modules, "myst_nb", None)  # as where it is not installed
    plots.at_the_head(["It holds no more."])
    assert len(kept) == 1


def test_show_maps_draws_multiples_of_uniform_in_powers_of_two():
    sharp = torch.tensor([[0.5, 0.25], [0.125, 0.125]]).log()
    figure = plots.show_maps({"one": [torch.full((2, 2), 0.25).log(), sharp], "two": [None, sharp]}, ["before", "after"], "times")
    before, after, empty, _, bar = figure.axes
    assert torch.tensor(before.images[0].get_array().data).abs().max() < 1e-6
    expected = torch.tensor([[1.0, 0.0], [-1.0, -1.0]])
    torch.testing.assert_close(torch.tensor(after.images[0].get_array().data).float(), expected)
    assert not empty.images and bar.get_ylabel() == "times" and before.get_ylabel() == "one"
    assert after.images[0].norm.vmax == math.log2(16)
    with pytest.raises(ValueError, match="row 'one' has 1 maps"):
        plots.show_maps({"one": [sharp]}, ["before", "after"], "times")


@pytest.fixture
def ax():
    return plt.subplots()[1]


def shown(ax):
    (image,) = ax.images
    return torch.as_tensor(image.get_array().data), image.get_clim()


def test_show_image_shows_grey_on_the_scale_of_its_type(ax):
    byte = torch.arange(6, dtype=torch.uint8).view(1, 2, 3)
    plots.show_image(ax, byte, "title")
    pixels, scale = shown(ax)
    assert torch.equal(pixels, byte[0]) and scale == (0, 255) and ax.get_title() == "title"
    ax.clear()
    plots.show_image(ax, byte[0] / 10, vmax=2)
    pixels, scale = shown(ax)
    assert torch.equal(pixels, byte[0] / 10) and scale == (0, 2)
    ax.clear()
    plots.show_image(ax, byte / 10)
    assert shown(ax)[1] == (0, 1) and ax.images[0].get_cmap().name == "gray"


def test_show_image_shows_colour(ax):
    colour = torch.arange(24, dtype=torch.uint8).view(3, 2, 4)
    plots.show_image(ax, colour)
    assert torch.equal(shown(ax)[0], colour.permute(1, 2, 0))


def test_attention_that_is_no_logarithm_is_refused(ax):
    """Probabilities would make a map without a feature, and no error."""
    geometry = PatchGeometry((40, 40), (4, 4), (4, 4), patch_size=10)
    overlay = lambda ax, attention: plots.overlay_attention(ax, torch.zeros(1, 40, 40), geometry, attention)
    for show in (plots.show_attention, overlay):
        show(ax, torch.full((4, 4), 1 / 16).log())
        with pytest.raises(ValueError, match=r"log_attention of up to 0\.0625: expected a logarithm, at most 0"):
            show(ax, torch.full((4, 4), 1 / 16))


def test_show_attention_is_on_a_square_root_scale(ax):
    attention = torch.tensor([[0.64, 0.25], [0.09, 0.02]])
    plots.show_attention(ax, attention.log())
    pixels, scale = shown(ax)
    torch.testing.assert_close(pixels, attention.sqrt())
    assert scale == pytest.approx((0, 0.8)) and ax.images[0].get_cmap().name == "cividis"


@pytest.mark.parametrize("patch", [(6, 10), [6, 10], 8])
def test_outline_patches(ax, patch):
    """Around the patches' pixels, whose middles have whole coordinates."""
    geometry, index = PatchGeometry((40, 60), (4, 6), (4, 6), patch), torch.tensor([0, 9, 23])
    plots.outline_patches(ax, geometry, index)
    height, width = (8, 8) if patch == 8 else patch
    corners = [(left - 0.5, top - 0.5) for top, left in geometry.top_left(index[None])[0].tolist()]
    assert corners[1] == (35 - width / 2 - 0.5, 15 - height / 2 - 0.5)
    assert [rectangle.get_xy() for rectangle in ax.patches] == corners
    assert {(rectangle.get_width(), rectangle.get_height()) for rectangle in ax.patches} == {(width, height)}


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(2, 4, 4), "expected .* one or three channels"),
        (torch.zeros(1, 3, 4, 4), r"image of shape \(1, 3, 4, 4\)"),
        (torch.zeros(4, 4, dtype=torch.int32), "image of type torch.int32: expected uint8"),
    ],
)
def test_images_that_have_no_picture(image, message):
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match=message):
        plots.show_image(ax, image)


def test_bfloat16_has_a_picture():
    _, ax = plt.subplots()
    assert plots.show_image(ax, torch.full((1, 2, 2), 0.5, dtype=torch.bfloat16)).get_array().tolist() == [[0.5, 0.5]] * 2


def test_attention_lies_over_what_it_looks_at():
    """The cell of a location has its patch's middle in the middle, also where the map does not reach the image's border."""
    geometry = PatchGeometry((80, 120), (20, 30), (6, 9), 16, stride=3, padding=0, receptive_field=5)
    log_attention = torch.full((6, 9), -50.0)
    log_attention[4, 7] = 0
    _, ax = plt.subplots()
    plots.overlay_attention(ax, torch.zeros(3, 80, 120), geometry, log_attention)
    picture, overlay = ax.images
    left, right, bottom, top = overlay.get_extent()
    cell = ((bottom - top) / 6, (right - left) / 9)
    assert cell == pytest.approx((12, 12))  # three pixels of the view
    middle = (top + 4.5 * cell[0], left + 7.5 * cell[1])
    corner = geometry.top_left(torch.tensor([[4 * 9 + 7]]))[0, 0]
    assert middle == pytest.approx((corner + 7.5).tolist())
    assert ax.get_xlim() == (-0.5, 119.5) and ax.get_ylim() == (79.5, -0.5)  # the frame is the image's
    alpha = overlay.get_alpha()
    assert alpha[4, 7] == pytest.approx(0.6) and alpha.sum() == pytest.approx(0.6)
    assert picture.get_array().shape[:2] == (80, 120)


def test_a_batch_of_maps_is_no_overlay():
    geometry = PatchGeometry((80, 120), (20, 30), (6, 9), 16, stride=3, padding=0, receptive_field=5)
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match=r"log_attention of shape \(1, 6, 9\): expected the geometry's map, \(6, 9\)"):
        plots.overlay_attention(ax, torch.zeros(3, 80, 120), geometry, torch.zeros(1, 6, 9))


def test_plots_need_no_ipython():
    """But for tables: a training machine has matplotlib, and no notebook."""
    code = "import sys; sys.modules['IPython'] = None; import atslib.plots"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", ["view", "file"])
def test_attention_and_patches_over_a_smaller_view(ax, kind):
    """At the same place of the picture, whatever its resolution."""
    geometry = PatchGeometry((80, 120), (20, 30), (6, 9), 16, stride=3, padding=0, receptive_field=5)
    log_attention = torch.full((6, 9), -3.0)
    plots.overlay_attention(ax, torch.zeros(3, 80, 120), geometry, log_attention)
    plots.outline_patches(ax, geometry, torch.tensor([20]))
    smaller, factor = (torch.zeros(3, 20, 30), 4) if kind == "view" else (ImagePyramid([np.zeros((80, 120, 3), np.uint8)]), 1)
    _, other = plt.subplots()
    plots.overlay_attention(other, smaller, geometry, log_attention)
    plots.outline_patches(other, geometry, torch.tensor([20]))
    edges, scaled = (np.array(axes.images[1].get_extent()) + 0.5 for axes in (ax, other))
    assert scaled * factor == pytest.approx(edges)
    assert other.get_xlim() == (-0.5, 120 / factor - 0.5)
    (one,), (same,) = ax.patches, other.patches
    assert [(same.get_x() + 0.5) * factor, (same.get_y() + 0.5) * factor] == pytest.approx([one.get_x() + 0.5, one.get_y() + 0.5])
    assert [same.get_width() * factor, same.get_height() * factor] == pytest.approx([16, 16])
    _, part = plt.subplots()
    part.imshow(np.zeros((10, 10)), extent=(19.5, 29.5, 49.5, 39.5))  # of the image, where it belongs
    plots.outline_patches(part, geometry, torch.tensor([20]))
    assert part.patches[0].get_xy() == one.get_xy() and part.patches[0].get_width() == 16
    with pytest.raises(ValueError, match="the aspects differ"):
        plots.overlay_attention(other, torch.zeros(3, 20, 20), geometry, log_attention)


def test_batches_are_not_drawn_as_colours(ax):
    with pytest.raises(ValueError, match=r"shape \(3, 4, 4\): expected one map.*out.log_attention\[0\]"):
        plots.show_attention(ax, torch.full((3, 4, 4), 1 / 16).log())
    with pytest.raises(ValueError, match=r"shape \(1, 3, 1, 4, 4\): expected those of one image.*out.patches\[0\]"):
        plots.show_patches(torch.zeros(1, 3, 1, 4, 4))


@pytest.mark.parametrize("captions", [None, list("abcdefg")])
def test_patches_are_shown_in_order_row_by_row(captions):
    patches = torch.arange(7 * 6, dtype=torch.uint8).view(7, 1, 2, 3)
    figure = plots.show_patches(patches, captions, columns=4, title="seven")
    assert figure.get_suptitle() == "seven" and len(figure.axes) == 8
    for number, ax in enumerate(figure.axes[:7]):
        assert torch.equal(torch.as_tensor(ax.images[0].get_array().data), patches[number, 0])
        assert ax.get_title() == (captions[number] if captions else "")
        place = ax.get_subplotspec()
        assert (place.rowspan.start, place.colspan.start) == divmod(number, 4)
    assert not figure.axes[7].images and not figure.axes[7].axison


@pytest.mark.parametrize(("count", "captions"), [(0, None), (4, ["a", "b"])])
def test_patches_and_captions_that_do_not_fit(count, captions):
    with pytest.raises(ValueError, match=f"{count} patches and {len(captions or ())} captions"):
        plots.show_patches(torch.zeros(count, 1, 2, 2), captions)
