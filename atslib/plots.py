"""Figures of the book: one style, one colour for each estimator in every chapter, and pictures of what a model sees.

Needs matplotlib; :func:`table` needs IPython, too: ``pip install 'atslib[plots]'``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from atslib.estimators import check_is_logarithm
from atslib.patches import ImageSource, PatchGeometry, check_aspect, downsample, low_size, pair

if TYPE_CHECKING:
    from IPython.display import Markdown

# Okabe & Ito's palette: told apart by everybody, also in grey.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY = "#7f7f7f"

# Lines differ in colour, marker and dash, so that none rests on colour alone.
ESTIMATOR_STYLES: dict[str, dict] = {
    "with_replacement": dict(color=BLACK, marker="o", linestyle="-"),
    "eq14": dict(color=RED, marker="v", linestyle="--"),
    "des_raj": dict(color=BLUE, marker="s", linestyle="-"),
    "murthy": dict(color=GREEN, marker="D", linestyle="-"),
    "systematic": dict(color=ORANGE, marker="^", linestyle="-"),
    "stratified": dict(color=SKY, marker="<", linestyle="--"),
    "pps": dict(color=PURPLE, marker=">", linestyle="-"),
    "legacy_idiap": dict(color=RED, marker="x", linestyle=":"),
    "legacy_port": dict(color=GREY, marker="+", linestyle=":"),
}
ESTIMATOR_NAMES: dict[str, str] = {
    "with_replacement": "with replacement",
    "eq14": "eq. 14",
    "des_raj": "Des Raj",
    "murthy": "Murthy",
    "systematic": "systematic",
    "stratified": "stratified",
    "pps": "π-ps",
    "legacy_idiap": "released code",
    "legacy_port": "PyTorch port",
}

ATTENTION_COLOURS = "cividis"  # even in lightness, and the same to the colour-blind


def use_style() -> None:
    """The book's figure style: legible in a column 700 pixels wide and on a phone, on light and dark pages."""
    plt.rcParams.update(
        {
            "figure.figsize": (7, 3.6),
            "figure.dpi": 100,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "savefig.dpi": 130,
            "savefig.facecolor": "white",
            "font.size": 11,
            "axes.titlesize": 11,
            "axes.labelsize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK]),
            "grid.color": "#dddddd",
            "grid.linewidth": 0.6,
            "legend.frameon": False,
            "legend.fontsize": 10,
            "lines.linewidth": 1.8,
            "lines.markersize": 5,
            "image.interpolation": "nearest",
        }
    )


def estimator_line(name: str) -> dict:
    """Keyword arguments for ``ax.plot`` that draw and label an estimator as everywhere in the book."""
    return dict(ESTIMATOR_STYLES[name], label=ESTIMATOR_NAMES[name])


def show_image(ax: Axes, image: Shaped[Tensor, "C H W"] | Shaped[Tensor, "H W"], title: str | None = None, **options):
    """An image without axes: grey with one channel, in colour with three; uint8 or [0, 1].

    Raises:
        ValueError: another number of axes or of channels (choose ``image[[2, 1, 0]]``, say); another type of pixels.
    """
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[0] not in (1, 3)):
        raise ValueError(f"image of shape {tuple(image.shape)}: expected (H, W), or (C, H, W) with one or three channels")
    if not (image.is_floating_point() or image.dtype in (torch.uint8, torch.bool)):
        raise ValueError(f"image of type {image.dtype}: expected uint8, or floating point in [0, 1]; divide others by white")
    image = image.detach().cpu()
    pixels = np.asarray(image.float() if image.is_floating_point() else image)
    if pixels.ndim == 3:
        pixels = pixels[0] if pixels.shape[0] == 1 else np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 2:
        options = {"cmap": "gray", "vmin": 0, "vmax": 255 if pixels.dtype == np.uint8 else 1} | options
    ax.grid(False)
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set(color="#999999", linewidth=0.6)
    if title is not None:
        ax.set_title(title)
    return ax.imshow(pixels, **options)


def show_attention(ax: Axes, log_attention: Float[Tensor, "h w"], title: str | None = None, **options):
    """An attention map, dark blue to yellow, on a square-root scale: small attention stays visible.

    Raises:
        ValueError: a batch of maps; attention that is no logarithm.
    """
    if log_attention.ndim != 2:
        some = "; of what a model returns take out.log_attention[0]" if log_attention.ndim == 3 else ""
        raise ValueError(f"log_attention of shape {tuple(log_attention.shape)}: expected one map, (h, w){some}")
    check_is_logarithm(log_attention)
    attention = log_attention.detach().float().exp().cpu()
    options = {"cmap": ATTENTION_COLOURS, "vmin": 0, "vmax": float(attention.max().sqrt())} | options
    return show_image(ax, attention.sqrt(), title, **options)


def overlay_attention(
    ax: Axes,
    image: Shaped[Tensor, "C H W"] | ImageSource,
    geometry: PatchGeometry,
    log_attention: Float[Tensor, "h w"],
    strength: float = 0.6,
):
    """An attention map over the image, each location around the middle of what it looks at; on a square-root scale.

    Args:
        image: as :func:`show_image` takes it, at full resolution or a smaller view of all of it; of an image in a file a view of
            about a thousand pixels a side is made.
        geometry: of the map in the image (:meth:`atslib.models.AttentionSampling.geometry`).
        strength: of the map's colour where attention is highest, 0 … 1; elsewhere in proportion to the root of the attention.

    Raises:
        ValueError: a map of another size than the geometry's, a batch of maps, say; an image of other proportions than the
            geometry's; attention that is no logarithm.
    """
    if tuple(log_attention.shape) != tuple(geometry.map_size):
        raise ValueError(f"log_attention of shape {tuple(log_attention.shape)}: expected the geometry's map, {geometry.map_size}")
    check_is_logarithm(log_attention)
    if isinstance(image, ImageSource):
        image = downsample(image, low_size(image.shape[2:], min(1, 1000 / max(image.shape[2:]))))[0]
    if image.ndim in (2, 3):
        check_aspect(geometry.image_size, image.shape[-2:])
    image_drawn = show_image(ax, image)
    root = log_attention.detach().float().exp().sqrt().cpu().numpy()
    height, width = pair(geometry.patch_size)
    corners = geometry.top_left(torch.arange(root.size)[None])[0].double().reshape(*root.shape, 2).numpy()
    rows, columns = corners[:, 0, 0] + (height - 1) / 2, corners[0, :, 1] + (width - 1) / 2  # middles of the locations
    steps = [np.diff(middles).mean() if len(middles) > 1 else side for middles, side in ((rows, height), (columns, width))]
    across, down = _to_drawn(ax, geometry)
    left, right = (across(middle + 0.5 + side * steps[1] / 2) for middle, side in ((columns[0], -1), (columns[-1], 1)))
    top, bottom = (down(middle + 0.5 + side * steps[0] / 2) for middle, side in ((rows[0], -1), (rows[-1], 1)))
    extent = (left, right, bottom, top)
    limits = ax.get_xlim(), ax.get_ylim()
    ax.imshow(root, cmap=ATTENTION_COLOURS, alpha=strength * root / root.max(), extent=extent, vmin=0)
    ax.set(xlim=limits[0], ylim=limits[1])
    return image_drawn


def outline_patches(
    ax: Axes, geometry: PatchGeometry, index: Int[Tensor, " N"], *, color: str = ORANGE, linewidth: float = 1.5
) -> None:
    """The outlines of the patches at these locations, over the image that has been drawn, at full resolution or smaller.

    A picture that was drawn with an ``extent`` of its own is taken to have the image's own coordinates.

    Args:
        geometry: of the image, ``model.geometry(image, out)``.
        index: locations in it, ``out.index[0]``.

    Raises:
        ValueError: locations of several images, or corners.
    """
    if index.ndim != 1:
        raise ValueError(f"index of shape {tuple(index.shape)}: expected (N,), the locations in one image, out.index[0]")
    height, width = pair(geometry.patch_size)
    across, down = _to_drawn(ax, geometry)
    for top, left in geometry.top_left(index[None])[0].tolist():
        corner, size = (across(left), down(top)), (across(left + width) - across(left), down(top + height) - down(top))
        ax.add_patch(Rectangle(corner, *size, fill=False, color=color, linewidth=linewidth))


def _to_drawn(ax: Axes, geometry: PatchGeometry) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """From columns and from rows of the image, in pixel edges, to the axes, where the first picture drawn shows all of it."""
    height, width = geometry.image_size
    own = left, right, bottom, top = -0.5, width - 0.5, height - 0.5, -0.5
    if ax.images:
        left, right, bottom, top = ax.images[0].get_extent()
        if (left, top) != (-0.5, -0.5):  # of a part of the image, say, where it belongs
            left, right, bottom, top = own
    return lambda x: left + x * (right - left) / width, lambda y: top + y * (bottom - top) / height


def show_patches(
    patches: Shaped[Tensor, "N C h w"],
    captions: list[str] | None = None,
    columns: int = 5,
    title: str | None = None,
    cell: float = 1.35,
):
    """Patches side by side, in order; returns the figure.

    Raises:
        ValueError: no patches; captions that are not one a patch; the patches of several images.
    """
    if patches.ndim != 4:
        some = "; of what a model returns take out.patches[0]" if patches.ndim == 5 else ""
        raise ValueError(f"patches of shape {tuple(patches.shape)}: expected those of one image, (N, C, h, w){some}")
    if not len(patches) or (captions and len(captions) != len(patches)):
        raise ValueError(f"{len(patches)} patches and {len(captions or ())} captions: expected some, and one a patch or none")
    rows = -(-len(patches) // columns)
    captions = captions or [None] * len(patches)
    figure, axes = plt.subplots(rows, columns, figsize=(cell * columns, (cell + (0.25 if captions[0] else 0)) * rows))
    for ax in np.ravel(axes):
        ax.set_axis_off()
    for ax, patch, caption in zip(np.ravel(axes), patches, captions, strict=False):
        ax.set_axis_on()
        show_image(ax, patch)
        if caption:
            ax.set_title(caption, fontsize=9)
    if title:
        figure.suptitle(title)
    return figure


def show_maps(rows: dict[str, list[Float[Tensor, "h w"] | None]], columns: list[str], title: str) -> Figure:
    """Small multiples of log-attention maps; the colour says how much more than uniform, in powers of two.

    Args:
        rows: label of a row -> its maps from left to right; None leaves a place empty.
        columns: their titles.
        title: of the colour bar.

    Raises:
        ValueError: a row that is not as long as ``columns``.
    """
    figure, axes = plt.subplots(len(rows), len(columns), figsize=(7, 0.6 + 6.2 / len(columns) * len(rows)), squeeze=False)
    scale = Normalize(-4, 4)
    for line, (label, maps) in zip(axes, rows.items(), strict=True):
        if len(maps) != len(columns):
            raise ValueError(f"row {label!r} has {len(maps)} maps: expected {len(columns)}, one a column")
        for ax, log_attention in zip(line, maps, strict=True):
            ax.grid(False)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if log_attention is None:
                ax.set_axis_off()
                continue
            uniform = -np.log(log_attention.numel())
            times = (log_attention.detach().float().cpu().numpy() - uniform) / np.log(2)
            ax.imshow(times, cmap=ATTENTION_COLOURS, norm=scale)
        line[0].set_ylabel(label)
    for ax, column in zip(axes[0], columns, strict=True):
        ax.set_title(column)
    bar = figure.colorbar(ScalarMappable(scale, ATTENTION_COLOURS), ax=axes, shrink=min(1.0, 2.2 / len(rows)), aspect=18)
    bar.set_ticks([-4, -2, 0, 2, 4], labels=["1/16", "1/4", "1", "4", "16"])
    bar.set_label(title)
    return figure


def table(head: Sequence[str], rows: Iterable[Sequence]) -> Markdown:
    """Rows of numbers and words as a table of the page, the first column to the left and the others to the right.

    Raises:
        ValueError: a row that is not as long as the head.
    """
    from IPython.display import Markdown

    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"row {row!r}: expected {len(head)} entries, one for each of {list(head)}")
        lines.append("| " + " | ".join(map(str, row)).replace(" ± ", " ±\N{NO-BREAK SPACE}") + " |")  # breaks before ± only
    return Markdown("\n".join(lines))


def points(head: str, said: Sequence[str]) -> Markdown:
    """What came out, behind a bold head: one statement as a sentence of the page, several as a list.

    Raises:
        ValueError: no statement, or one that is not in a list.
    """
    from IPython.display import Markdown

    _check_statements(said)
    bold = f"**{head}**" if head.endswith(("?", "!", ":")) else f"**{head}.**"
    return Markdown(f"{bold} {said[0]}" if len(said) == 1 else f"{bold}\n\n{_as_list(said)}")


def at_the_head(said: Sequence[str]) -> None:
    """Keep statements for the head of the page, where ``{glue:md} what-came-out`` shows them as a list.

    A page computes what came out at its end, and readers want it first. The book needs MyST-NB for it; without that, as in a
    notebook of one's own, nothing is kept.

    Raises:
        ValueError: no statement, or one that is not in a list.
    """
    from IPython.display import Markdown

    _check_statements(said)
    try:
        from myst_nb import glue
    except ImportError:
        return
    glue("what-came-out", Markdown(_as_list(said)), display=False)


def _check_statements(said: Sequence[str]) -> None:
    if isinstance(said, str) or not said:
        raise ValueError(f"said={said!r}: expected a list of statements, at least one")


def _as_list(said: Sequence[str]) -> str:
    return "\n".join(f"- {statement}" for statement in said)
