"""Figures to play with: sliders that redraw, in a live notebook, and the same story as a page without a kernel.

Imported by notebooks only. The sliders need ipywidgets and a kernel behind the page (:func:`is_live`);
:func:`estimator_slides` is plain HTML and works in a page that was rendered long ago.
"""

from __future__ import annotations

import base64
import html
import io
import os
import sys

import matplotlib.pyplot as plt
import torch
from IPython import get_ipython
from IPython.display import HTML
from jaxtyping import Float, Shaped
from matplotlib.figure import Figure
from torch import Tensor

from atslib.estimators import ESTIMATORS
from atslib.models import evaluating
from atslib.patches import ImageSource, downsample, low_size
from atslib.plots import BLUE, ESTIMATOR_NAMES, ESTIMATOR_STYLES, ORANGE, outline_patches, show_attention, show_image

COMPARED = ("with_replacement", "eq14", "des_raj", "murthy", "systematic")
LOCATIONS = 20
PEAKEDNESS = (0.0, 1.0, 2.0, 4.0)
DRAWS = (2, 5, 10)
_LARGE = 1_000_000  # pixels of an image that is shown as its view


def is_live() -> bool:
    """Whether somebody sits at this notebook: Jupyter, VS Code or Colab, and not papermill, nbval or the build.

    >>> is_live()
    False
    """
    shell = get_ipython()
    if shell is None or getattr(shell, "kernel", None) is None:
        return False
    return "JPY_SESSION_NAME" in os.environ or "google.colab" in sys.modules or "__vsc_ipynb_file__" in shell.user_ns


# ---------------------------------------------------------------------------------------------------------------------
# Estimators


def example_attention(peakedness: float, locations: int = LOCATIONS, seed: int = 0) -> Float[Tensor, " K"]:
    """Log-attention of fixed random logits times ``peakedness``, in float64.

    0 is uniform; at 6, where the slider ends, one of the 20 locations has two thirds of the attention.

    >>> f"{example_attention(0.0).exp().max():.2f}", f"{example_attention(6.0).exp().max():.2f}"
    ('0.05', '0.67')
    """
    logits = torch.randn(locations, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (peakedness * logits).log_softmax(0)


def estimates(
    name: str, log_attention: Float[Tensor, " K"], features: Float[Tensor, "K D"], n: int, draws: int, seed: int = 0
) -> Float[Tensor, "draws D"]:
    """The estimator's answer in many independent draws."""
    estimator = ESTIMATORS[name]
    everywhere = log_attention.view(1, 1, -1).expand(draws, 1, -1)  # as a map of one row, which every estimator takes
    index = estimator.sample(everywhere, n, generator=torch.Generator().manual_seed(seed))
    return estimator(everywhere, index, features[index])


def draw_estimators(
    peakedness: float,
    n: int,
    *,
    estimators: tuple[str, ...] = COMPARED,
    draws: int = 2000,
    show: str = "component",
    figure: Figure | None = None,
) -> Figure:
    """The distributions of the estimators at equal ``n``, one above the other, as histograms.

    Args:
        peakedness: of the attention, see :func:`example_attention`; drawn on the left.
        n: locations per draw.
        estimators: names in :data:`atslib.estimators.ESTIMATORS`.
        draws: of each estimator.
        show: ``"component"``, one component of the estimate, whose mean must be the broken line; or ``"error"``, the length
            of the estimate's error.
        figure: to draw into, emptied first; else a new one.
    """
    if show not in ("component", "error"):
        raise ValueError(f"show={show!r}: expected 'component' or 'error'")
    log_attention = example_attention(peakedness)
    features = torch.randn(LOCATIONS, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    features = features / features.norm(dim=1, keepdim=True)
    truth = log_attention.exp() @ features
    if figure is None:
        figure = plt.figure(figsize=(7, 0.7 + 0.62 * len(estimators)))
    figure.clear()
    grid = figure.add_gridspec(1, 2, width_ratios=(1, 2))

    left = figure.add_subplot(grid[0])
    left.bar(range(LOCATIONS), log_attention.exp().sort(descending=True).values.tolist(), color="#888888")
    left.set(ylim=(0, 1), xlabel="location, sorted", ylabel="attention", xticks=[])

    # One range for every setting, so that a narrower histogram is a better estimator.
    low, high = (-1.1, 1.1) if show == "component" else (0.0, 1.6)
    right = figure.add_subplot(grid[1])
    for row, name in enumerate(reversed(estimators)):
        z = estimates(name, log_attention, features, n, draws)
        shown = z[:, 0] if show == "component" else (z - truth).norm(dim=1)
        counts, edges = torch.histogram(shown.clamp(low, high), 56, range=(low, high))
        right.stairs(
            (row + 0.9 * counts / counts.max()).numpy(),
            edges.numpy(),
            baseline=row,
            fill=True,
            color=ESTIMATOR_STYLES[name]["color"],
        )
        right.axhline(row, color="black", linewidth=0.6)
        right.text(low, row + 0.88, f" {ESTIMATOR_NAMES[name]}", va="top", fontsize=10)
        mse = (z - truth).square().sum(1).mean().item()
        right.text(high, row + 0.88, f"mean squared error {mse:.3f} ", va="top", ha="right", fontsize=10)
    if show == "component":
        right.axvline(truth[0].item(), color="black", linestyle="--", linewidth=1)
    right.set(yticks=[], xlim=(low, high), ylim=(0, len(estimators)))
    right.xaxis.set_major_locator(plt.MaxNLocator(5))
    right.set_xlabel("first component of the estimate" if show == "component" else "length of the error")
    right.grid(False)
    return figure


def estimator_explorer(estimators: tuple[str, ...] = COMPARED, draws: int = 2000):
    """Sliders for the attention's peakedness and N that redraw :func:`draw_estimators`. Needs a live kernel."""
    import ipywidgets

    peakedness = ipywidgets.FloatSlider(1.0, min=0.0, max=6.0, step=0.25, description="peakedness", continuous_update=False)
    n = ipywidgets.IntSlider(3, min=1, max=LOCATIONS // 2, description="N", continuous_update=False)
    show = ipywidgets.ToggleButtons(options=[("one component", "component"), ("size of the error", "error")])
    picture = ipywidgets.Image(format="png")

    def redraw(_=None):
        figure = draw_estimators(peakedness.value, n.value, estimators=estimators, draws=draws, show=show.value)
        picture.value = _png(figure)

    for control in (peakedness, n, show):
        control.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([ipywidgets.HBox([peakedness, n]), show, picture])


def estimator_slides(peakedness: tuple[float, ...] = PEAKEDNESS, draws: tuple[int, ...] = DRAWS) -> HTML:
    """:func:`estimator_explorer` without a kernel: two sliders that choose among pictures drawn beforehand.

    Plain HTML: the pictures are part of it, each with a description, and no script is loaded from anywhere.
    """
    pictures = []
    for p in peakedness:
        for n in draws:
            figure = draw_estimators(p, n)
            labels = [text.get_text().strip() for text in figure.axes[1].texts]
            errors = ", ".join(f"{name} {error.split()[-1]}" for name, error in zip(labels[::2], labels[1::2], strict=True))
            description = (
                f"Histograms of one component of the estimate for attention of peakedness {p:g} and N = {n}. "
                f"Mean squared errors: {errors}."
            )
            pictures.append((_png(figure, dpi=72, colours=32), description))
    return slides(pictures, {"peakedness": [f"{p:g}" for p in peakedness], "N": [str(n) for n in draws]})


# ---------------------------------------------------------------------------------------------------------------------
# Patches


def patch_explorer(
    model, image: Shaped[Tensor, "C H W"], classes: tuple[str, ...] | None = None, most: int | None = None, seed: int = 0
):
    """What a model looks at: a slider for N, a button that draws again. Needs a live kernel.

    Shows the attention, the outlines of the patches drawn from it, and the class probabilities that follow, beside those of
    earlier draws: their spread is what sampling costs.

    Args:
        model: an :class:`atslib.models.AttentionSampling`.
        image: one image, ``(C, H, W)``; of one that lies in a file, an :class:`atslib.data.ImagePyramid`, the view is shown.
        classes: their names.
        most: largest N on the slider; 50 if the map has as many locations.
        seed: of the first draw.
    """
    import ipywidgets

    image = image if image.ndim == 4 else image[None]
    if len(image) != 1:
        raise ValueError(f"image of shape {tuple(image.shape)}: expected one image, (C, H, W)")
    with torch.no_grad(), evaluating(model):
        log_attention = model.attend(image)[1]
    locations = log_attention[0].numel()
    most = min(50, locations) if most is None else most
    n = ipywidgets.IntSlider(min(model.n_patches, most), min=1, max=most, description="N patches", continuous_update=False)
    again = ipywidgets.Button(description="Draw again", icon="refresh")
    picture = ipywidgets.Image(format="png")
    generator = torch.Generator(log_attention.device).manual_seed(seed)  # of the model: the image may lie elsewhere
    earlier: list[Tensor] = []

    def redraw(_=None):
        figure, probabilities = draw_patches(model, image, n.value, generator=generator, classes=classes, earlier=earlier)
        earlier.append(probabilities)
        picture.value = _png(figure)

    def another_n(_=None):
        earlier.clear()
        redraw()

    n.observe(another_n, names="value")
    again.on_click(redraw)
    redraw()
    return ipywidgets.VBox([ipywidgets.HBox([n, again]), picture])


@torch.no_grad()
def draw_patches(
    model,
    image: Shaped[Tensor, "1 C H W"],
    n: int,
    *,
    generator: torch.Generator | None = None,
    classes: tuple[str, ...] | None = None,
    earlier: list[Float[Tensor, " classes"]] | tuple = (),
) -> tuple[Figure, Float[Tensor, " classes"]]:
    """One draw of a model: the image with the patches outlined, the attention, the class probabilities.

    Args:
        earlier: probabilities of earlier draws, shown as dots.

    Returns:
        The figure, and the probabilities of this draw.
    """
    with evaluating(model):
        view, log_attention = model.attend(image)
        out = model(image, view, log_attention=log_attention, n_patches=n, generator=generator)
        geometry = model.geometry(image, view, log_attention)
    probabilities = out.logits[0].softmax(0).cpu()
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9, 3.2))
    height, width = image.shape[2:]
    # Of a large image its view: to draw all pixels would take longer than the model.
    large = isinstance(image, ImageSource) or height * width > _LARGE
    shown = downsample(image, low_size((height, width), model.scale))[0] if large else image[0]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5) if large else None
    if len(shown) not in (1, 3):  # other bands than colours
        shown = shown[:1] if len(shown) == 2 else shown[:3]
    show_image(left, shown, f"{n} patch{'es' * (n > 1)}", extent=extent)
    outline_patches(left, geometry, out.index[0])
    show_attention(middle, out.log_attention[0], "attention")
    names = classes if classes is not None else [str(c) for c in range(len(probabilities))]
    rows = range(len(names))
    right.barh(rows, probabilities.tolist(), color=BLUE)
    for before in earlier:
        right.plot(before.tolist(), rows, "o", color=ORANGE, markersize=3, alpha=0.6)
    right.set(xlim=(0, 1), yticks=list(rows), yticklabels=names, xlabel="probability", title="class")
    right.invert_yaxis()
    return figure, probabilities


# ---------------------------------------------------------------------------------------------------------------------
# Pages without a kernel


def slides(pictures: list[tuple[bytes, str]], axes: dict[str, list[str]]) -> HTML:
    """Pictures to leaf through with sliders, as plain HTML.

    Args:
        pictures: PNG files and their descriptions, the last axis varying fastest.
        axes: for each slider, its name and the values it stops at.

    Raises:
        ValueError: another number of pictures than the sliders have positions.
    """
    positions = 1
    for values in axes.values():
        positions *= len(values)
    if len(pictures) != positions:
        raise ValueError(f"{len(pictures)} pictures for sliders of {positions} positions: expected as many")
    # `this` moves up to the enclosing div, so that nothing needs an id and two of these can share a page.
    update = (
        "var d=this.closest('div.atslib-slides'),k=0;d.querySelectorAll('input').forEach(function(s){"
        "var v=s.dataset.values.split('|');k=k*v.length+(+s.value);s.nextElementSibling.textContent=v[+s.value];});"
        "d.querySelectorAll('img').forEach(function(m,i){m.style.display=i===k?'block':'none';});"
    )
    controls = "".join(
        f'<label style="margin-right:1.5em;white-space:nowrap">{html.escape(name)} '
        f'<input type="range" min="0" max="{len(values) - 1}" value="0" step="1" style="vertical-align:middle" '
        f'data-values="{html.escape("|".join(values))}" oninput="{html.escape(update)}"> '
        f"<output>{html.escape(values[0])}</output></label>"
        for name, values in axes.items()
    )
    images = "".join(
        f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}" alt="{html.escape(description)}" '
        f'style="display:{"none" if position else "block"};max-width:100%">'
        for position, (png, description) in enumerate(pictures)
    )
    return HTML(f'<div class="atslib-slides"><p>{controls}</p>{images}</div>')


def _png(figure: Figure, dpi: int = 100, colours: int | None = None) -> bytes:
    """The figure as a PNG file, with few colours where it must be small; closes the figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    plt.close(figure)
    if colours is None:
        return buffer.getvalue()
    from PIL import Image

    small = io.BytesIO()
    Image.open(buffer).convert("RGB").quantize(colours).save(small, format="png", optimize=True)
    return small.getvalue()
