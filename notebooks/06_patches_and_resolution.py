# %% [markdown]
# # Patches and resolution
#
# Attention sampling looks at a picture twice: once at all of it, small, and once at a few places, sharp. The earlier chapters
# treated the $K$ locations as a list. Here they become places in an image. Each step between the list and the pixels is a
# chance to be off by half a pixel, and published code is off in several of them.
#
# ## What you will learn
#
# - what the low-resolution view keeps of an image, what it loses, and why the way of shrinking matters;
# - where in the image a cell of the attention map lies, for any stride, padding and receptive field;
# - why half a receptive field is the right number in pixel edges, and how published code uses it in the wrong place;
# - how to read patches without ever copying the image;
# - how good eq. 20 is, by enumeration of every draw;
# - how to let the features know where they are.
#
# **Time and hardware:** about one minute on one core, nothing to download.

# %% tags=["parameters"]
profile = "smoke"  # smoke, laptop or paper

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.patches import Rectangle
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from atslib import ESTIMATORS, AttentionSampling, PatchGeometry, downsample, extract_patches
from atslib.data import MegapixelMNIST, mnist_digits
from atslib.data.megapixel_mnist import scribbles
from atslib.enumeration import every_draw
from atslib.models import Output
from atslib.networks import (
    AttentionNetwork,
    Classifier,
    MegapixelMNISTAttention,
    SaliencyPrior,
    UnitNorm,
)
from atslib.plots import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    SKY,
    estimator_line,
    outline_patches,
    show_image,
    use_style,
)

use_style()
torch.manual_seed(0)
more = 1 if profile == "smoke" else 4  # larger profiles train longer

# %% [markdown]
# ## A small view of a large image
#
# Let $x$ be an image of $H \times W$ pixels and $C$ channels. The paper {cite}`katharopoulos2019` calls $V(x, s)$ the view of
# $x$ at scale $s$: an image of $h \times w$ pixels, with $h < H$ and $w < W$. The attention network sees the view only:
#
# $$a(V(x, s); \Theta) : \mathbb{R}^{h \times w \times C} \rightarrow \mathbb{R}^{hw} \tag{paper 18}$$
#
# So there are as many locations as the view has pixels, and the cost of attention depends on the size of the view only: at a fixed scale that grows with the image, at a fixed size it does not. The
# paper does not say how the view is made. Ours is the mean over the area that a small pixel covers. A row of three pixels, shrunk
# to two, can be checked by hand: each small pixel covers one and a half large ones.

# %%
row = torch.tensor([[[[0.0, 3.0, 6.0]]]])
print("large pixels                    ", row.flatten().tolist())
print("mean over the area, by hand     ", [(1 * 0 + 0.5 * 3) / 1.5, (0.5 * 3 + 1 * 6) / 1.5])
print("downsample                      ", downsample(row, (1, 2)).flatten().tolist())
print(
    'F.interpolate(mode="area")      ',
    F.interpolate(row, (1, 2), mode="area").flatten().tolist(),
)
print(
    'F.interpolate(mode="nearest")   ',
    F.interpolate(row, (1, 2), mode="nearest").flatten().tolist(),
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# Three different answers. `mode="area"` uses whole pixels only, so that the middle one counts in both windows.
# `mode="nearest"` looks at one large pixel for each small one and ignores the rest.
#
# (cell-eq18)=
# ### Equation 18, and where it does not hold
#
# Eq. 18 has no two sides; it states shapes. Three things can be checked: whether our view is the mean over the area (the definition,
# one overlap at a time, against `downsample`); whether the attention has $hw$ entries; and whether they form a distribution: all positive, with the sum 1. We take
# the paper's sizes for two of its experiments. The second network is the one of the released code for speed limits.


# %%
def area_mean(image, size):
    """The definition: the mean of what a small pixel covers, written as overlaps of intervals;
    float64.
    """

    def shares(fine, coarse):
        width = fine / coarse
        left, right = (
            torch.arange(coarse).double() * width,
            (torch.arange(coarse).double() + 1) * width,
        )
        pixel = torch.arange(fine).double()
        overlap = torch.minimum(right[:, None], pixel + 1) - torch.maximum(left[:, None], pixel)
        return overlap.clamp(min=0) / width  # (coarse, fine)

    return shares(image.shape[2], size[0]) @ image.double() @ shares(image.shape[3], size[1]).T


speed_limits = AttentionNetwork(
    nn.Conv2d(3, 8, 3),
    nn.ReLU(),
    nn.Conv2d(8, 16, 3),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3),
    nn.ReLU(),
    nn.Conv2d(32, 1, 3),
    nn.MaxPool2d(8),
)
cases = [
    ("Megapixel MNIST", MegapixelMNISTAttention(), (1, 1, 1500, 1500), (180, 180)),
    ("speed limits", speed_limits, (1, 3, 960, 1280), (288, 384)),
]
for name, network, shape, size in cases:
    image = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    view = downsample(image, size)
    log_attention = network.double()(view).flatten(1).log_softmax(1)
    print(
        f"{name}: view {tuple(view.shape[2:])}, hw = {size[0] * size[1]}, entries of a: {log_attention.shape[1]}"
    )
    print(
        f"  view, definition against downsample: within 1e-12: {(view - area_mean(image, size)).abs().max() < 1e-12}"
    )
    a = log_attention[0].exp()
    one = abs(a.sum().item() - 1) < 1e-12
    print(f"  a: all positive: {(a > 0).all().item()}; sum 1 within 1e-12: {one}")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# **Verdict: confirmed**, with a condition that the paper does not spell out. The count is $hw$ only if the attention network
# keeps the size, as the first one does with its padding. The network of the paper's third experiment ends in a max-pool
# of 8 and has far fewer locations. Then "the $i$-th pixel of the view" is no longer a place, and we need the map from cells to
# places that a later section derives.

# %% [markdown]
# ## What the view loses: strokes
#
# Handwriting has strokes of two or three pixels, the noise of Megapixel MNIST has strokes of one. The view at $s = 0.12$ has one pixel for
# $8\tfrac13 \times 8\tfrac13$ large ones. We draw a vertical line one pixel wide at each possible column and ask how much of its brightness the
# view keeps.

# %% mystnb={"image": {"alt": "Share of a thin line's brightness kept in the view against the line's column. The exact mean keeps all of it at every column, mode area slightly less at most columns and nearly twice as much at a few, mode nearest nothing at most columns and several times too much at the others."}}
ways = {
    "mean over the area (downsample)": (
        lambda image, size: downsample(image, size),
        dict(color=BLUE, linestyle="-"),
    ),
    'interpolate, mode="area"': (
        lambda image, size: F.interpolate(image, size, mode="area"),
        dict(color=ORANGE, linestyle="--"),
    ),
    'interpolate, mode="nearest"': (
        lambda image, size: F.interpolate(image, size, mode="nearest"),
        dict(color=RED, linestyle=":"),
    ),
}
period = 25  # 25 large pixels are exactly 3 small ones; then the pattern repeats
# line j is image j
lines = torch.eye(2 * period)[:, None, None, :].expand(-1, 1, 2 * period, -1)
kept = {
    name: (shrink(lines, (6, 6)).mean((1, 2, 3)) / lines.mean((1, 2, 3)))
    for name, (shrink, _) in ways.items()
}

figure, ax = plt.subplots(figsize=(7, 3.4))
for name, (_, style) in ways.items():
    ax.step(range(2 * period), kept[name], where="mid", label=name, **style)
ax.set(
    xlabel="column of the line (pixels)",
    ylabel="brightness kept\n(1 = all of it)",
    ylim=(-0.4, 12),
)
ax.legend(loc="upper right")
plt.show()

# %%
for name in ways:
    invisible = (kept[name] < 1e-6).double().mean().item()
    print(
        f"{name:32} kept: {kept[name].min():.2f} to {kept[name].max():.2f}   lines that vanish: {invisible:.0%}"
    )
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# The exact mean is the only flat line in the figure. With `nearest`, most lines are gone, and the remaining ones are far too bright.
# `mode="area"` lets nothing vanish, but dims most lines a little and counts pixels on a seam twice.
#
# Now the same with real pieces: a crop of a Megapixel MNIST image and its three views. Look for the noise, crossed lines one
# pixel wide, in the last panel.

# %% mystnb={"image": {"alt": "Four panels. A crop of a Megapixel MNIST image with digits and thin crossed lines at full resolution; the exact view and the area view show each object as a small grey blob; in the nearest view some objects are broken and some have vanished."}}
dataset = MegapixelMNIST("test")
image, label = dataset[14]
top, left, side = 125, 675, 200  # a crop of 24 view pixels with digits and noise in it
small = tuple(slice(start * 3 // 25, (start + side) * 3 // 25) for start in (top, left))
figure, axes = plt.subplots(2, 2, figsize=(6, 6.3))
show_image(axes[0, 0], image[0, top : top + side, left : left + side], "full resolution")
for ax, (name, (shrink, _)) in zip(axes.flat[1:], ways.items(), strict=True):
    view = shrink(image[None].float() / 255, (180, 180))[0, 0]
    show_image(ax, view[small], name.replace(" (downsample)", ""), vmax=0.5)
plt.show()

# %% [markdown]
# Counted over 1,000 digits and 1,000 pieces of noise, each at a random place: how many have nothing at all left in the view? (The standard error
# of such a share is at most 1.6 percentage points.)


# %%
def on_canvas(glyphs, corners, side=75):
    """Pieces of 28 × 28 pixels on black squares of 75, which are nine view pixels wide."""
    canvas = torch.zeros(len(glyphs), 1, side, side)
    for square, glyph, (r, c) in zip(canvas, glyphs, corners.tolist(), strict=True):
        square[0, r : r + 28, c : c + 28] = glyph
    return canvas


generator = torch.Generator().manual_seed(0)
test_digits, test_labels = (torch.tensor(array[:1000]) for array in mnist_digits("test"))
train_digits, train_labels = (torch.tensor(array[:4000]) for array in mnist_digits("train"))
noise = torch.tensor(scribbles(5000, np.random.RandomState(0)))
anywhere = torch.randint(10, 36, (5000, 2), generator=generator)
pieces = {"digits": test_digits / 255, "noise": noise[:1000] / 255}
for kind, glyphs in pieces.items():
    squares = on_canvas(glyphs, anywhere[:1000])
    gone = {
        name: (shrink(squares, (9, 9)).amax((1, 2, 3)) == 0).double().mean().item()
        for name, (shrink, _) in ways.items()
    }
    print(f"{kind} with nothing left:")
    for name, share in gone.items():
        print(f"    {name.split(' (')[0]:30} {share:4.0%}")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# With the mean over the area, everything that is there leaves a trace. With `nearest`, a good part of the noise and some of the digits
# leave none, and no attention network can look where it sees nothing.

# %% [markdown]
# ## What the view loses: which digit
#
# A trace is not an answer. We ask a plain classifier, the majority among the five nearest training images, three questions
# about the view of one piece. Is there something? Is it a digit or noise? Which digit is it? For the last question the full-resolution pixels
# compete. The view gets two chances: with all digits at the same place on its grid, which flatters it, and with digits anywhere, as in the images.
# The test pieces are the same 1,000 digits, and the 1,000 pieces of noise for the first two questions, so one standard error is again at most 1.6 points.


# %%
def nearest_neighbour_error(train, train_classes, test, test_classes, neighbours=5):
    distance = torch.cdist(test.flatten(1), train.flatten(1))
    vote = train_classes[distance.topk(neighbours, largest=False).indices].mode(1).values
    return (vote != test_classes).double().mean().item()


def shrink_to_nine(glyphs, corners):
    return downsample(on_canvas(glyphs, corners), (9, 9))


same_place = torch.full((4000, 2), 22)
seen = {
    "digits": shrink_to_nine(test_digits / 255, anywhere[:1000]),
    "noise": shrink_to_nine(noise[:1000] / 255, anywhere[:1000]),
}
something = (
    torch.cat([(view.amax((1, 2, 3)) > 0).double() for view in seen.values()]).mean().item()
)
kind_error = nearest_neighbour_error(
    torch.cat(
        [
            shrink_to_nine(train_digits / 255, anywhere[:4000]),
            shrink_to_nine(noise[1000:] / 255, anywhere[1000:]),
        ]
    ),
    torch.arange(2).repeat_interleave(4000),
    torch.cat(list(seen.values())),
    torch.arange(2).repeat_interleave(1000),
)
answers = {
    "something is there: missed, in the view": 1 - something,
    "digit or noise: error, in the view": kind_error,
    "which digit: error, at full resolution": nearest_neighbour_error(
        train_digits / 255, train_labels, test_digits / 255, test_labels
    ),
    "which digit: error, in the view, all at one place": nearest_neighbour_error(
        shrink_to_nine(train_digits / 255, same_place),
        train_labels,
        shrink_to_nine(test_digits / 255, same_place[:1000]),
        test_labels,
    ),
    "which digit: error, in the view, anywhere": nearest_neighbour_error(
        shrink_to_nine(train_digits / 255, anywhere[:4000]),
        train_labels,
        seen["digits"],
        test_labels,
    ),
}
for question, value in answers.items():
    print(f"{question:52} {value:5.0%}")

# %% mystnb={"image": {"alt": "Bar chart of the five errors: nothing is missed in the view, digit against noise is nearly always right, and the digit itself is wrong far more often in the view than at full resolution."}}
figure, ax = plt.subplots(figsize=(7, 2.8))
colours = [SKY, SKY, BLUE, ORANGE, ORANGE]
ax.barh(range(5), list(answers.values()), color=colours)
ax.set_yticks(
    range(5),
    [question.replace(": error", "").replace(": missed", "") for question in answers],
    fontsize=9.5,
)
ax.invert_yaxis()
ax.set(xlabel="error", xlim=(0, 1))
ax.grid(axis="y", visible=False)
for position, value in enumerate(answers.values()):
    ax.text(value + 0.01, position, f"{value:.0%}", va="center", fontsize=10)
plt.show()

# %% [markdown]
# This is what makes the division of labour work. *That* something is there survives the view, here even whether it is a digit. *Which* digit does
# not survive well enough: the error is several times that at full resolution. (Nearest neighbours do not forgive a shift, so part of the error with shifts is theirs.) Attention can be computed from the view, the answer should not be.

# %% [markdown]
# ## From a cell of the map to a place in the image
#
# An attention network is a chain of convolutions and poolings. Seen from outside, it has three numbers, all in view pixels: its overall
# **stride** (how far apart the windows of neighbouring cells lie), its **padding** (how far the first window begins before the border)
# and its **receptive field** (how wide a window is). The window of cell $r$ covers the view from
# $r \cdot \mathrm{stride} - \mathrm{padding}$ on, over $\mathrm{receptive\ field}$ pixels. Its middle, in the large image, is
#
# $$c(r) = \Bigl(r \cdot \mathrm{stride} - \mathrm{padding} + \tfrac{1}{2}\,\mathrm{receptive\ field}\Bigr) \cdot \frac{H}{h}$$ (eq-cell-centre)
#
# measured in **pixel edges**: pixel 0 reaches from 0 to 1 and its middle is 0.5. A patch of $p$ pixels begins at
# $c(r) - p/2$, rounded. `PatchGeometry` computes just this.
#
# A network small enough to check by hand: a $3 \times 3$ convolution with padding 1, then an average-pool of 2 (a max-pool has the same window, but its gradient shows only the winner). A pixel of the pool's input sees three
# view pixels; two of them together see four. So the receptive field is 4, the stride 2, the padding 1. On a view of 6
# pixels that makes three cells. The image is three times as large, the patch has 4 pixels. We do not trust the three numbers but ask the gradient which view pixels
# each cell depends on.

# %%
tiny = AttentionNetwork(nn.Conv2d(1, 1, 3, padding=1), nn.AvgPool2d(2)).double()
print(
    f"the network says: stride {tiny.stride}, padding {tiny.padding}, receptive field {tiny.receptive_field}"
)
geometry = PatchGeometry(
    (18, 18), (6, 6), (3, 3), 4, tiny.stride, tiny.padding, tiny.receptive_field
)
view = torch.rand(1, 1, 6, 6, dtype=torch.float64, requires_grad=True)
logits = tiny(view)
print(
    "      depends on          centre                       library: centre,\n"
    "cell  pixels of the view  in the view  times 3  minus 2  first pixel"
)
for r in range(3):
    (gradient,) = torch.autograd.grad(logits[0, r, 1], view, retain_graph=True)
    pixels = (gradient[0, 0].abs() > 0).any(1).nonzero()[:, 0].tolist()
    centre = r * 2 - 1 + 4 / 2
    index = torch.tensor([[3 * r]])
    library = geometry.centre(index)[0, 0, 0].item(), geometry.top_left(index)[0, 0, 0].item()
    print(
        f"{r:4}  {pixels!s:19} {centre:11} {3 * centre:8} {3 * centre - 2:8}  {library[0]}, {library[1]}"
    )
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# The first and the last window reach over the border by one pixel of padding, which is why they show three pixels instead of four.
# The same in a picture:

# %% mystnb={"image": {"alt": "A row of six view pixels with three overlapping windows of four pixels, the outer ones reaching one pixel over the border; their middles at edges 1, 3 and 5. Below, a row of eighteen image pixels with three patches of four pixels around edges 3, 9 and 15."}}
figure, ax = plt.subplots(figsize=(7, 3.3))
window_colours = [BLUE, ORANGE, GREEN]
for pixel in range(6):
    ax.add_patch(Rectangle((3 * pixel, 2), 3, 0.8, facecolor="#eeeeee", edgecolor="#777777"))
for pixel in (-1, 6):
    ax.add_patch(
        Rectangle((3 * pixel, 2), 3, 0.8, facecolor="white", edgecolor="#bbbbbb", linestyle=":")
    )
for pixel in range(18):
    ax.add_patch(Rectangle((pixel, 0), 1, 0.8, facecolor="#eeeeee", edgecolor="#777777"))
for r, colour in enumerate(window_colours):
    begin, centre = 3 * (2 * r - 1), 3 * (2 * r + 1)
    height = 3.0 + 0.35 * r
    ax.plot(
        [begin, begin + 12], [height, height], color=colour, linewidth=3, solid_capstyle="butt"
    )
    # not through the pixels, whose borders lie there
    for low_end, high_end in ((0.8, 2.0), (2.8, height)):
        ax.plot([centre] * 2, [low_end, high_end], color=colour, linewidth=1, linestyle="--")
    ax.plot(centre, height, "o", color=colour)
    ax.add_patch(
        Rectangle((centre - 2, 0.05), 4, 0.7, fill=False, edgecolor=colour, linewidth=2.5)
    )
    ax.text(centre, -0.35, f"edge {centre}", ha="center", va="top", fontsize=10, color=colour)
ax.text(-3.3, 2.4, "view", ha="right", va="center")
ax.text(-3.3, 3.35, "windows", ha="right", va="center")
ax.text(-3.3, 0.4, "image", ha="right", va="center")
ax.set(xlim=(-6.6, 21.5), ylim=(-1, 4))
ax.set_axis_off()
plt.show()

# %% [markdown]
# ## Half a pixel, lost in two ways
#
# Half the receptive field is right in {eq}`eq-cell-centre` because it counts from the *edge* where the window begins to the window's *middle*.
# Two other numbers look similar.
#
# - If a place means the *index* of a pixel, that is its middle, then the middle of a window is $\tfrac12(\mathrm{rf} - 1)$ pixels after its first. To get from
#   the index $q$ of a view pixel to the image one has to add the half before scaling, $(q + \tfrac12) H/h$; $q\,H/h$ is
#   half a view pixel off.
# - Without padding and pooling there is one cell for each view pixel except a *margin* of $\tfrac12(\mathrm{rf} - 1)$ on each side, not $\tfrac12\mathrm{rf}$:
#   a window of one pixel leaves no margin.
#
# The paper's released code (and a PyTorch port of it, line by line) divides the view less twice its margin into equal steps, one for each cell, and puts the centre in the middle of a
# step. Its margin is half the receptive field. It also takes the receptive field as an argument that is 0 unless given. We
# write down its formula and compare it with the window of the network of the speed-limit experiment, for the 47 columns of the map.
#
# (cell-half-pixel)=
# ### The published centres against the windows


# %% mystnb={"image": {"alt": "Two panels of the distance between where a patch is laid and where its window is, against the column of the map. Left: margin rf over 2 is off by more than a pixel at the left border, by nothing in the middle and by as much the other way at the right; margin rf minus 1 over 2 is zero everywhere. Right: with the receptive field left at zero it is off by more than ten pixels at both ends."}}
def centres_by_steps(cells, low, margin, scale):
    """Equal steps over the view without its margins; the centre is the middle of a step. In
    image pixels.
    """
    step = (low - 2 * margin) / cells
    return (margin + step * (torch.arange(cells).double() + 0.5)) * scale


cells, low, scale = 47, 384, 1280 / 384
true = PatchGeometry(
    (960, 1280),
    (288, 384),
    (35, 47),
    100,
    speed_limits.stride,
    speed_limits.padding,
    speed_limits.receptive_field,
).centre(torch.arange(cells)[None])[0, :, 1]
# receptive field of the four convolutions, the number that the released script passes
before_pooling = 9
offs = {
    "margin rf/2 (as published)": (
        centres_by_steps(cells, low, before_pooling / 2, scale) - true,
        RED,
        "-",
    ),
    "margin (rf − 1)/2": (
        centres_by_steps(cells, low, (before_pooling - 1) / 2, scale) - true,
        BLUE,
        "--",
    ),
    "receptive field left at 0": (centres_by_steps(cells, low, 0, scale) - true, BLACK, ":"),
}
figure, axes = plt.subplots(1, 2, figsize=(7, 3.4))
for ax, names in zip(axes, [list(offs)[:2], list(offs)[2:]], strict=True):
    for name in names:
        off, colour, dash = offs[name]
        ax.plot(off, color=colour, linestyle=dash, label=name)
    ax.set(xlabel="column of the map")
    ax.legend(loc="lower left", fontsize=9)
axes[0].set(ylabel="patch's centre − window's centre\n(image pixels)", ylim=(-2.6, 2))
axes[1].set(ylim=(-20, 16))
plt.show()

# %%
for name, (off, _, _) in offs.items():
    print(
        f"{name:28} largest slip {off.abs().max():6.2f} image pixels, mean {off.abs().mean():5.2f}"
    )
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# With the margin put right, the steps agree with {eq}`eq-cell-centre` exactly, since the pool's 8 divides the 376 columns that the convolutions leave; where a pool drops a remainder at one side, steps that fill the whole width do not agree. With half a receptive field, the map is squeezed towards the middle of the image; for a patch of
# 100 pixels this is harmless. The right panel is not: whoever forgets the argument gets it wrong by far more. In `atslib` the attention network works out its
# own three numbers, so that there is no argument to forget.

# %% [markdown]
# ## At the border
#
# Locations near the border have patches that reach outside. The paper does not say what is there; `extract_patches` puts `fill`. How
# many locations are concerned?

# %%
geometry = PatchGeometry(
    (1500, 1500), (180, 180), (180, 180), 50, stride=1, padding=3, receptive_field=7
)
corners = geometry.top_left(torch.arange(180 * 180)[None])
over = ((corners < 0) | (corners + 50 > 1500)).any(-1).double().mean().item()
print(f"Megapixel MNIST: {over:.1%} of the locations have a patch that reaches over the border")

numbers = torch.arange(1, 17).view(1, 1, 4, 4)
for fill in (0, -1):
    patch = extract_patches(numbers, torch.tensor([[[-1, 1]]]), 2, fill=fill)
    print(
        f"image 4 × 4, patch 2 × 2 from row -1, column 1, fill {fill}: {patch.flatten().tolist()}"
    )
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# The fill should look like nothing. For images in $[0, 1]$ with a black ground that is 0. For images normalised to $[-1, 1]$, 0 is
# mid-grey: the feature network then sees a bright border in patches that reach over the edge, and attention may learn to send patches there.
# Take `fill=-1` for such images.

# %% [markdown]
# ## Patches without a copy of the image
#
# The plain way to allow patches over the border is to pad the image and cut. That copies the whole image for the sake of a few
# patches (and ports of the released code do so, with a loop over images and patches). `extract_patches` clamps the coordinates, reads, and masks what lay outside. First, that both give the same:


# %%
def pad_and_cut(image, corners, size, fill=0):
    """The plain way: a padded copy, then one slice after the other."""
    padded = F.pad(image, [size] * 4, value=fill)
    return torch.stack(
        [
            torch.stack(
                [
                    padded[b, :, r + size : r + 2 * size, c + size : c + 2 * size]
                    for r, c in places
                ]
            )
            for b, places in enumerate(corners.tolist())
        ]
    )


generator = torch.Generator().manual_seed(0)
for shape, size, fill in [
    ((2, 1, 40, 60), 9, 0),
    ((3, 3, 33, 21), 16, 7),
    ((1, 4, 100, 100), 50, 255),
]:
    image = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    corners = torch.stack(
        [torch.randint(-size, side, (shape[0], 20), generator=generator) for side in shape[2:]],
        dim=-1,
    )
    equal = torch.equal(
        extract_patches(image, corners, size, fill=fill),
        pad_and_cut(image, corners, size, fill),
    )
    print(
        f"image {shape}, 20 patches of {size} × {size}, fill {fill}: equal in every pixel {equal}"
    )
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# Then the memory. The class below watches every operation and adds up the bytes of all tensors that are made on the way, temporary
# ones included. The last image has $10^{10}$ pixels in three colours; it is one pixel, repeated without a copy, so that a reader with an ordinary machine can run this. For padding, that
# one is not run: the size of the padded copy is computed instead.
#
# (cell-patches-memory)=
# ### Bytes made for ten patches


# %%
class BytesMade(TorchDispatchMode):
    """Adds up the bytes of every tensor that is made inside the block; views of another tensor
    cost nothing.
    """

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        known = {
            x.untyped_storage().data_ptr() for x in arguments if isinstance(x, torch.Tensor)
        }
        if (
            isinstance(result, torch.Tensor)
            and result.untyped_storage().data_ptr() not in known
        ):
            self.total += result.untyped_storage().nbytes()
        return result


settings = [  # image, type, patch, run the padding too
    ("Megapixel MNIST", (1, 1, 1500, 1500), torch.uint8, 50, True),
    ("speed limits", (1, 3, 960, 1280), torch.float32, 100, True),
    ("a slide", (1, 3, 100_000, 100_000), torch.uint8, 256, False),
]
print("10 patches of one image   image   pad and cut makes   extract_patches makes  (MB each)")
for name, shape, dtype, size, run_padding in settings:
    image = torch.zeros(1, 1, 1, 1, dtype=dtype).expand(shape)
    corners = torch.stack(
        [torch.linspace(-size // 2, side - size // 2, 10).long() for side in shape[2:]], dim=-1
    )[None]
    with BytesMade() as ours:
        extract_patches(image, corners, size)
    with BytesMade() as plain:
        if run_padding:
            pad_and_cut(image, corners, size)
    bytes_each = torch.empty(0, dtype=dtype).element_size()
    plain_total = (
        plain.total
        if run_padding
        else shape[1] * (shape[2] + 2 * size) * (shape[3] + 2 * size) * bytes_each
    )
    megabytes = [
        shape[1] * shape[2] * shape[3] * bytes_each / 1e6,
        plain_total / 1e6,
        ours.total / 1e6,
    ]
    print(f"{name:21} {megabytes[0]:9,.1f} {megabytes[1]:19,.1f} {megabytes[2]:23,.1f}")

# %% [markdown]
# What `extract_patches` needs depends on the patches only, as the paper says of its own method (§4.1.2); what padding needs grows with the
# image. (Padding by half a patch instead of a whole one, as the port does, changes little.) The difference shows in time, too. This figure depends on the machine:

# %%
image = torch.zeros(1, 3, 3000, 3000, dtype=torch.uint8)
corners = torch.randint(-25, 2975, (1, 10, 2), generator=generator)
seconds = {}
for way in (extract_patches, pad_and_cut):
    way(image, corners, 50)  # warm up
    begin = time.perf_counter()
    for _ in range(5):
        way(image, corners, 50)
    seconds[way.__name__] = time.perf_counter() - begin
ratio = seconds["pad_and_cut"] / seconds["extract_patches"]
print(
    "3000 × 3000 in colour, 10 patches, on this machine, just now:\n"
    f"pad and cut takes {ratio:.0f} times as long"
)

# %% [markdown]
# ## The model at two resolutions
#
# Let $P(x, i)$ be the patch of the large image around location $i$, $f$ the feature network and $g$ the classifier. The paper puts them
# together:
#
# $$\Psi(x) = g\Bigl(\sum_{i=1}^{hw} a(V(x, s))_i\, f(P(x, i))\Bigr) \tag{paper 19}$$
#
# $$\approx g\Bigl(\frac1N \sum_{q \in Q} f(P(x, q))\Bigr) \tag{paper 20}$$
#
# (cell-eq19)=
# ### Equation 19, term by term
#
# An image of $16 \times 24$ pixels and a view of $2 \times 3$ make $K = 6$ locations, so that everything can be enumerated. One side is written out
# with plain slices of a padded image and the formula for the centres; the other is `model.exact`.

# %%
torch.manual_seed(0)
attention = AttentionNetwork(nn.Conv2d(1, 1, 3, padding=1))
nn.init.normal_(attention.layers[0].weight, std=2)
toy = AttentionSampling(
    attention,
    nn.Sequential(nn.Flatten(), nn.Linear(81, 4), UnitNorm()),
    Classifier(4, 2, scale=4),
    patch_size=9,
    n_patches=2,
    scale=1 / 8,
    estimator="with_replacement",
).double()
image = torch.rand(1, 1, 16, 24, dtype=torch.float64)

with torch.no_grad():
    small_view = area_mean(image, (2, 3))
    a = attention(small_view).flatten().softmax(0)  # a(V(x, s)), (6,)
    padded = F.pad(image, [9] * 4)
    features = []
    for i in range(6):
        # stride 1, padding 1, receptive field 3, H/h = 8
        centre = [(cell - 1 + 3 / 2) * 8 for cell in divmod(i, 3)]
        # first pixel, in the padded image
        r, c = (int(value - 9 / 2 + 0.5) + 9 for value in centre)
        features.append(toy.features(padded[:, :, r : r + 9, c : c + 9])[0])
    features = torch.stack(features)  # f(P(x, i)), (6, 4)
    mu = a @ features
    by_hand = toy.classifier(mu)
    full = toy.exact(image)
print("attention", [round(value, 3) for value in a.tolist()])
print(
    f"eq. 19, term by term against model.exact: logits differ by less than 1e-12: {(by_hand - full.logits[0]).abs().max() < 1e-12}"
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# **Verdict: confirmed.** Eq. 19 is a definition, and the library computes what it says.
#
# (cell-eq20)=
# ### Equation 20, over every draw
#
# The right side of eq. 20 is random. With replacement there are $6^N$ draws of $N$ locations; we go through all of them and weigh each with
# its probability. With $z$ the mean of the drawn features, four things come out: whether $\mathbb{E}[z] = \mu$; the mean square error of $z$ against $\sigma^2/N$, with
# $\sigma^2 = \sum_i a_i \lVert f_i - \mu \rVert^2$; whether the mean *logits* agree, which they should as $g$ is linear; and whether the mean *probabilities*
# agree, which come after a softmax.

# %%
sigma2 = (a * (features - mu).square().sum(1)).sum()
probabilities = full.logits.softmax(1)[0]
log_a = full.log_attention[0].detach()
counts = range(1, 8)
rms, bias = [], []
print(
    "           bias of z and                   bias of the first\n"
    "N   draws  logits < 1e-12  N · MSE / σ²    probability        times N"
)
for n in counts:
    index, chance = every_draw(ESTIMATORS["with_replacement"], log_a, n)
    with torch.no_grad():
        z = features[index].mean(1)  # eq. 20, one row a draw
        logits = toy.classifier(z)
    unbiased = (
        max((chance @ z - mu).abs().max(), (chance @ logits - full.logits[0]).abs().max())
        < 1e-12
    )
    mse = chance @ (z - mu).square().sum(1)
    bias.append((chance @ logits.softmax(1) - probabilities)[0].item())
    rms.append((chance @ (logits - full.logits[0]).square().sum(1)).sqrt().item())
    print(
        f"{n} {len(index):7}  {bool(unbiased)!s:14} {n * mse / sigma2:13.6f} {bias[-1]:14.6f} {n * bias[-1]:14.5f}"
    )
# NBVAL_CHECK_OUTPUT

# %% mystnb={"image": {"alt": "Error against number of patches from 1 to 7, both logarithmic. The root mean square error of the logits with replacement falls as the inverse square root of N; Des Raj's falls faster, Murthy's fastest, leaving the axis at N equal to 6, where every location is seen. The bias of the probability is far smaller and falls as 1 over N."}}
without = {"des_raj": [], "murthy": []}
for name, errors in without.items():
    for n in range(1, 7):
        index, chance = every_draw(ESTIMATORS[name], log_a, n)
        with torch.no_grad():
            logits = toy.classifier(
                ESTIMATORS[name](log_a.expand(len(index), 2, 3), index, features[index])
            )
        errors.append((chance @ (logits - full.logits[0]).square().sum(1)).sqrt().item())

figure, ax = plt.subplots(figsize=(7, 3.9))
ax.loglog(counts, rms, **estimator_line("with_replacement"))
for name, errors in without.items():
    ax.loglog(
        range(1, 7),
        [error if error > 1e-9 else float("nan") for error in errors],
        **estimator_line(name),
    )
ax.loglog(
    counts,
    [abs(value) for value in bias],
    color=RED,
    marker="v",
    linestyle="--",
    label="bias of the probability, eq. 20",
)
ax.loglog(
    counts,
    [rms[0] / n**0.5 for n in counts],
    color=GREY,
    linewidth=1,
    label=r"slope $-1/2$",
    zorder=0,
)
ax.loglog(
    counts,
    [abs(bias[0]) / n for n in counts],
    color=GREY,
    linewidth=1,
    linestyle=":",
    label=r"slope $-1$",
    zorder=0,
)
ax.set_xticks(list(counts), [str(n) for n in counts])
ax.minorticks_off()
ax.set(
    xlabel="patches $N$",
    ylabel="error of the logits (root mean square)\nand bias of the probability",
    ylim=(8e-4, 30),
)
ax.legend(loc="upper right", ncols=2)
plt.show()

# %%
print(
    f"all six locations drawn, error of the logits: Des Raj {without['des_raj'][5]:.2f}, Murthy below 1e-12: {without['murthy'][5] < 1e-12}"
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# **Verdict: confirmed**, as the approximation it claims to be. Its mean square error is exactly $\sigma^2/N$ in the features, so that the root mean square error of the logits falls as $N^{-1/2}$ (the grey line under the black one). It is unbiased up to
# the linear layer $g$. After a softmax it is not: the last column levels off, so the bias falls nearly as $1/N$ (see
# [attention as an expectation](01_attention_as_expectation.ipynb)).
#
# Drawing [without replacement](04_without_replacement.ipynb), with Des Raj's or Murthy's weights, is better from the second patch on. Murthy's estimator is exact once all
# locations are seen. Des Raj's is not: it is an average over the first 1, 2, … $N$ draws, and the early ones know little.

# %% [markdown]
# ## Features that know where they are
#
# A sum over locations forgets the order of its terms: given the attention, the model of eq. 19 is a bag of patches. Only the attention could depend on place, and an attention network of a few convolutions sees a small window without knowing where it lies (except for the zeros at the border). The paper remarks (§3.3) that this is "not an inherent limitation of the
# model since we can simply pass the location as a parameter in our feature function". The change is
#
# $$z = \sum_i a_i\, f(P(x, i)) \quad\longrightarrow\quad z = \sum_i a_i\, f(P(x, i),\, c_i)$$ (eq-located)
#
# with $c_i$ the centre from {eq}`eq-cell-centre`, as a fraction of the image. Nothing in the earlier chapters cared what $f$ depends on, so the estimators stay
# unbiased. By hand: if $f$ returned the location alone, three locations at 1, 3 and 5 with attention (0.5, 0.3, 0.2) would pool to the attention's
# centre of mass.

# %%
attention_of_three = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
places = torch.tensor([[1.0], [3.0], [5.0]], dtype=torch.float64)
index, chance = every_draw(ESTIMATORS["des_raj"], attention_of_three.log(), 2)
estimates = ESTIMATORS["des_raj"](
    attention_of_three.log().expand(len(index), 3), index, places[index]
)[:, 0]
print(
    f"centre of mass {0.5 * 1 + 0.3 * 3 + 0.2 * 5:.3f}; mean over all draws of two locations {(chance * estimates).sum():.3f}"
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-claim-location)=
# Now a task that such a model can hardly solve as long as its attention is the same on both sides. Each image has a zero and a one, one in each half. The question is which of them is on the left. Both classes have the
# same patches. The model in the next cell is built from the library's parts; the location enters in the two marked lines.


# %%
class Features(nn.Module):
    """Features of a patch, with or without its location."""

    def __init__(self, located):
        super().__init__()
        self.located = located
        self.look = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49, 32), nn.ReLU())
        self.mix = nn.Sequential(nn.Linear(34 if located else 32, 32), nn.ReLU(), UnitNorm())

    def forward(self, patches, where):
        seen = self.look(patches)
        if self.located:
            seen = torch.cat([seen, 2 * where - 1], dim=1)  # <- f(P(x, i), c_i)
        return self.mix(seen)


class LocatedSampling(AttentionSampling):
    def forward(self, image, low=None, *, n_patches=None, generator=None):
        view, log_attention = self.attend(image, low)
        geometry = self.geometry(image, view, log_attention)
        index = self.estimator.sample(
            log_attention, n_patches or self.n_patches, generator=generator
        )
        patches = extract_patches(
            image, geometry.top_left(index), self.patch_size, fill=self.fill
        ).flatten(0, 1)
        patches = patches / 255 if patches.dtype == torch.uint8 else patches
        where = geometry.centre(index).float() / torch.tensor(
            image.shape[2:], device=index.device
        )  # <- (B, N, 2), in [0, 1]
        features = self.features(patches, where.flatten(0, 1)).unflatten(0, index.shape)
        pooled = self.estimator(log_attention, index, features)
        # what `train` and `evaluate` want
        return Output(self.classifier(pooled), log_attention, index, pooled)


def zero_and_one(count, generator, side=96):
    """Images with a zero and a one in different halves; the label is 1 if the one is on the
    left.
    """
    digits, labels = mnist_digits("train")
    images = torch.zeros(count, 1, side, side, dtype=torch.uint8)
    classes = torch.randint(0, 2, (count,), generator=generator)
    for image, one_is_left in zip(images, classes.tolist(), strict=True):
        for digit in (0, 1):
            on_the_left = digit == one_is_left
            r = int(torch.randint(0, side - 27, (), generator=generator))
            c = int(torch.randint(0, side // 2 - 27, (), generator=generator)) + (
                0 if on_the_left else side // 2
            )
            glyph = digits[labels == digit][int(torch.randint(0, 300, (), generator=generator))]
            image[0, r : r + 28, c : c + 28] = torch.tensor(glyph)
    return images, classes


generator = torch.Generator().manual_seed(0)
(train_images, train_classes), (test_images, test_classes) = (
    zero_and_one(512, generator),
    zero_and_one(512, generator),
)


def train_and_test(located, steps=160 * more):
    torch.manual_seed(1)
    silent = AttentionNetwork(nn.Conv2d(1, 1, 3, padding=1))
    for parameter in silent.parameters():
        # attention starts as the local brightness: chapter 7 explains the prior
        nn.init.zeros_(parameter)
    model = LocatedSampling(
        SaliencyPrior(silent),
        Features(located),
        Classifier(32, 2, scale=8),
        patch_size=28,
        n_patches=8,
        scale=0.25,
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        batch = torch.randint(0, len(train_images), (64,), generator=generator)
        loss = F.cross_entropy(
            model(train_images[batch], generator=generator).logits, train_classes[batch]
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        error = (
            (model(test_images, generator=generator).logits.argmax(1) != test_classes)
            .double()
            .mean()
            .item()
        )
    return model, error


blind, blind_error = train_and_test(located=False)
located, located_error = train_and_test(located=True)
# the same glyphs in other images, at other places
print(f"test error without the location {blind_error:.3f}, with it {located_error:.3f}")

# %%
print("without the location, about as good as a coin:", 0.4 < blind_error < 0.6)
print("with the location, fewer than 5 % wrong:      ", located_error < 0.05)
# NBVAL_CHECK_OUTPUT

# %% mystnb={"image": {"alt": "Four test images, each with a handwritten zero and one in different halves, and the outlines of the eight patches drawn, most of which lie on the two digits."}}
figure, axes = plt.subplots(1, 4, figsize=(7, 2.3))
shown = torch.cat([(test_classes == c).nonzero()[:2, 0] for c in (0, 1)])
for ax, image, one_is_left in zip(
    axes, test_images[shown], test_classes[shown].tolist(), strict=True
):
    show_image(ax, image, "one is left" if one_is_left else "zero is left")
    with torch.no_grad():
        view, log_attention = located.attend(image[None])
    drawn = located.estimator.sample(
        log_attention, 8, generator=torch.Generator().manual_seed(0)
    )
    outline_patches(
        ax, located.geometry(image[None], view, log_attention), drawn[0], linewidth=1
    )
    ax.set(xlim=(-0.5, 95.5), ylim=(95.5, -0.5))
plt.show()

# %% [markdown]
# Both models draw the same kind of patches. One can tell left from right; the other cannot, as long as no patch shows both digits and attention is the same on both sides. (Attention that preferred one half would be another way out: then the sum would be mostly that half's digit.)

# %% [markdown]
# ## Summary
#
# - The view should be the mean over the area. `nearest` drops thin strokes altogether; `mode="area"` counts seams twice.
# - The view keeps *that* something is there and loses much of *which* digit it is. Eq. 18 rests on the first, eq. 19 repairs the second.
# - A cell's centre is $(r \cdot \mathrm{stride} - \mathrm{padding} + \mathrm{rf}/2)\, H/h$ in pixel edges. Eq. 18's $hw$ locations hold only for networks
#   that keep the size.
# - Reading patches needs no padded copy: memory depends on the patches alone.
# - Eq. 20 is unbiased for features and logits, its mean square error is $\sigma^2/N$; after the softmax its bias falls as $1/N$.
# - Passing the location to $f$ takes a `forward` of one's own, with two lines that are new, and makes the model a bag of patches that know their place: still a sum over locations, blind to how two of them lie to each other.

# %% [markdown]
# ## Exercises
#
# :::{exercise}
# :label: ex-06-geometry
# The speed-limit network has four $3 \times 3$ convolutions without padding and a max-pool of 8. Find stride, padding and receptive field by hand. Where in the image of
# $960 \times 1280$ is the centre of the map's first cell, if the view has $288 \times 384$ pixels? Where would it be with padding 1 in each convolution?
# :::
#
# :::{solution} ex-06-geometry
# :class: dropdown
# Each convolution adds 2 to the receptive field: $1 + 4 \cdot 2 = 9$; the pool adds 7: 16. The stride is the pool's, 8; the padding 0. The centre of
# cell 0 is $(0 - 0 + 16/2) \cdot 960/288 = 26\tfrac23$ pixels from the top and as many from the left. With padding 1 in each convolution the overall padding is 4 and
# the centre $(0 - 4 + 8) \cdot 10/3 = 13\tfrac13$: the map then has $36 \times 48$ cells and covers the view up to its border. Check:
# `window_geometry(speed_limits.layers)` from `atslib.networks`.
# :::
#
# :::{exercise}
# :label: ex-06-scale
# Halve the scale $s$. What happens to the number of locations $K$, to the cost of attention, to the error of eq. 20 at the same $N$, and to
# the smallest thing that attention can tell from the ground?
# :::
#
# :::{solution} ex-06-scale
# :class: dropdown
# $K = hw$ falls to a quarter, and so does the cost of attention. The error of eq. 20 is $\sigma^2/N$: $K$ does not occur in it. It depends on how much the features
# differ under the attention, not on how many there are. What suffers is the view: a stroke's brightness is spread over four times the area, and its contrast in the view is a half (a long stroke) to a
# quarter (a dot).
# :::
#
# :::{exercise}
# :label: ex-06-border
# A colleague tests a model on images normalised with mean 0.5 and deviation 0.5, and finds that attention likes the border. Name two places where zeros may have come in, and the
# remedy for each.
# :::
#
# :::{solution} ex-06-border
# :class: dropdown
# The patches: `extract_patches` fills with 0, which is mid-grey in $[-1, 1]$; pass `fill=-1` (in `AttentionSampling`, too). The attention network: `padding=1` pads the view with 0
# as well; give its convolutions `padding_mode="replicate"`, or shift the view so that black is 0. With `uint8` images on a black ground neither happens: they are read as $[0, 1]$. On a bright ground 0 is a black bar: give
# `fill` the ground's brightness.
# :::
