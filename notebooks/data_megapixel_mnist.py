# %% [markdown]
# # Data: Megapixel MNIST
#
# An image of 1500 × 1500 pixels, nearly empty, with five handwritten digits and fifty pieces of noise. Three of the digits are of
# one class, two of others; the label is the class of the three (§4.2 of the paper). The images are drawn by the library when they
# are asked for, from digits that ship with it: this page needs nothing else, and shows the data that the experiments use.
#
# ## What you will learn
#
# - what lies in an image, and what the choices of noise look like;
# - two things that the released code does otherwise than the paper says, and what they come to;
# - how to use all of MNIST, or write the images to files.
#
# **Time and hardware:** a quarter of a minute on two CPU cores; nothing is downloaded.

# %% tags=["parameters"]
profile = "smoke"  # smoke, laptop or paper

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import numpy as np

from atslib import downsample, plots
from atslib.data import MegapixelMNIST, mnist_digits
from atslib.data.megapixel_mnist import GLYPH

plots.use_style()
n_counted = {"smoke": 1000, "laptop": 5000, "paper": 5000}[profile]  # images whose layout is looked at

# %% [markdown]
# ## An image

# %%
images = MegapixelMNIST("train")
image, label = images[7]
layout = images.layout(7)
print(tuple(image.shape), image.dtype, "label", label, "digits", layout.digit_classes.tolist())
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# `layout` says what lies where: for pictures, never for training. An image depends on the seed, the split and its number alone, so a
# set of any size takes no room, and every machine draws the same pixels.

# %% mystnb={"image": {"alt": "A black square with about fifty small bright specks; five of them, marked by orange squares, are digits."}}
figure, axes = plt.subplots(figsize=(4.2, 4.2))
plots.show_image(axes, image, "1500 × 1500 pixels; the digits are framed")
for row, column in layout.digit_corners:
    axes.add_patch(
        plt.Rectangle((column - 16, row - 16), 60, 60, fill=False, color=plots.ORANGE)
    )
plt.show()

# %% mystnb={"image": {"alt": "A row of fifteen small squares: the five digits of the image, five pieces of noise of two straight strokes each, and five of random pixels."}}
random_noise = MegapixelMNIST("train", noise="random")
figure, axes = plt.subplots(1, 15, figsize=(7, 0.9))
pieces = [(image, corner) for corner in (*layout.digit_corners, *layout.noise_corners[:5])]
pieces += [(random_noise[7][0], corner) for corner in layout.noise_corners[:5]]
for ax, (where, (row, column)) in zip(axes, pieces, strict=True):
    plots.show_image(ax, where[:, row : row + GLYPH, column : column + GLYPH])
for ax, title in zip(axes[::5], ("digits", "noise: scribbles", "noise: random"), strict=True):
    ax.set_title(title, loc="left", fontsize=9)
plt.show()

# %% [markdown]
# The paper says "random noise"; its released code lays down scribbles of two strokes each, from a bank of fifty, and they are the
# default. How bright each kind is in the small view, from which attention is computed, at its brightest pixel:

# %%
def peaks(dataset, corners, count=6):
    """Mean over pieces, of the first images, of the brightest pixel in the view of 180 × 180."""
    found = []
    for number in range(count):
        view = downsample(dataset[number][0][None], (180, 180))[0, 0]
        for row, column in corners(dataset.layout(number)):
            top, left = int(0.12 * row), int(0.12 * column)
            found.append(view[top : top + 5, left : left + 5].max().item())
    return np.mean(found)


for name, dataset, corners in (
    ("digits", images, lambda layout: layout.digit_corners),
    ("scribbles", images, lambda layout: layout.noise_corners),
    ("random", random_noise, lambda layout: layout.noise_corners),
):
    print(f"{name:10s} {peaks(dataset, corners):.2f}")  # NBVAL_CHECK_OUTPUT

# %% [markdown]
# Scribbles are dimmer than digits, random noise is brighter. So an attention that starts at what is bright, as the prior of
# [chapter 7](07_entropy_and_exploration.ipynb) does, is helped by the default kind.
#
# ## Class balance

# %%
counts = MegapixelMNIST("train", n_images=n_counted).class_counts()
print(dict(zip(images.classes, counts.tolist(), strict=True)))  # NBVAL_CHECK_OUTPUT

# %% [markdown]
# The class is drawn first, each as likely as any other. MNIST's own classes differ a little in size, but that only changes how often
# the same digit is used again.
#
# ## What the released code does otherwise
#
# **Noise overwrites digits.** It is laid down after the digits, wherever it falls. `variant="released"` does the same:

# %%
released = MegapixelMNIST("train", n_images=n_counted, variant="released")


def overwritten(dataset, number):
    """Whether some piece of noise lies on a digit."""
    where = dataset.layout(number)
    apart = np.abs(where.digit_corners[:, None] - where.noise_corners[None])
    return bool((apart < GLYPH).all(-1).any())


share = np.mean([overwritten(released, number) for number in range(n_counted)])
print(f"released: {share:.1%} of the images have a digit that is partly overwritten")
# NBVAL_CHECK_OUTPUT
print(f"paper: {np.mean([overwritten(images, number) for number in range(n_counted)]):.1%}")
# NBVAL_CHECK_OUTPUT

# %% mystnb={"image": {"alt": "Six digits, each with one or two bright strokes over it, or a part or the whole of it cut away by a black square with strokes."}}
shown = []
for number in range(n_counted):
    where = released.layout(number)
    for row, column in where.digit_corners:
        apart = np.abs(where.noise_corners - (row, column)).max(1)
        if 4 < apart.min() < 18:
            shown.append(released[number][0][:, row : row + GLYPH, column : column + GLYPH])
    if len(shown) >= 6:
        break
figure, axes = plt.subplots(1, 6, figsize=(7, 1.4))
for ax, digit in zip(axes, shown, strict=False):
    plots.show_image(ax, digit)
figure.suptitle("digits in the released code's images")
plt.show()

# %% [markdown]
# **Its small view is no view of the image.** Every glyph is shrunk to 3 × 3 pixels by itself and laid on an empty square of
# 180 × 180, its corner cut down to a whole pixel. Below, the same part of the same image, both ways, brightened.

# %% mystnb={"image": {"alt": "Two panels with a dozen grey spots of about three pixels each, at nearly the same places. In the right one, the released code's, they are dimmer, three by three pixels wherever they do not touch one another, and some are shifted by a pixel."}}
number = 0
exact = downsample(released[number][0][None], (180, 180))[0]
pasted = released.low(number)
figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.3))
for ax, view, title in (
    (left, exact, "the mean of each 8⅓ × 8⅓ pixels"),
    (right, pasted, "the released code's view"),
):
    plots.show_image(ax, view[:, 40:110, 40:110].sqrt(), title)
plt.show()
print(
    f"brightest pixel {exact.max():.2f} and {pasted.max():.2f}, mean {exact.mean():.4f} and {pasted.mean():.4f}"
)

# %% [markdown]
# Shrunk by itself, a glyph is blurred with the darkness beyond its border, and it is drawn in 3 × 3 pixels of the view where its share is
# 3.36 × 3.36, so the view is dimmer. A view of its own making cannot be had for a real image, and its corners lie up to a pixel of the view, eight of the image, from
# where the glyph is. The experiments of this book use the exact mean of the image, `atslib.patches.downsample`.
#
# ## All of MNIST, and files
#
# The digits that ship are a part of MNIST {cite}`lecun1998`, under CC BY-SA 3.0:

# %%
print(
    {split: len(mnist_digits(split)[1]) for split in ("train", "test")}, "of 60,000 and 10,000"
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
#     python -m atslib.data get mnist                           # 11 MB, then MegapixelMNIST(digits="full")
#     python data_scripts/make_megapixel_mnist.py OUT           # PNG files and labels.csv, for other programs
#     python data_scripts/make_megapixel_mnist.py OUT --variant released
#
# ## Summary
#
# - Five digits among fifty pieces of noise; the label is the class that occurs three times. Nothing overlaps, nothing is stored.
# - The released code's images differ: in about three of ten, a digit is partly overwritten, which may make some of them harder (by how
#   much was not measured), and its small view is drawn, not computed from the image.
# - Both are reproduced by `variant="released"`; every run of this book uses `variant="paper"`.
#
# ## Exercises
#
# :::{exercise}
# :label: ex-data_megapixel_mnist-area
# What share of the pixels of an image belongs to its five digits? With ten patches of 50 × 50 at random places, how many digits do
# you expect to see whole?
# :::
#
# :::{solution} ex-data_megapixel_mnist-area
# :class: dropdown
# 5 · 28² / 1500² = 0.17 %. A patch holds a digit whole if its corner is one of about 23² of 1451² places: the expected number is
# 10 · 5 · 23² / 1451² ≈ 0.013. Uniform sampling is blind here.
# :::
#
# :::{exercise}
# :label: ex-data_megapixel_mnist-vote
# A perfect reader sees one digit of the five, chosen at random, and answers its class. How often is it right? And one that sees two
# different digits, and answers their class if they agree, else one of the two at random?
# :::
#
# :::{solution} ex-data_megapixel_mnist-vote
# :class: dropdown
# Three of five: 0.6. Two digits are both of the class with probability 3/10; one of two is with probability 6/10, and then the guess
# is right half of the time: 0.3 + 0.3 = 0.6 again, plus nothing from the pairs of two others. A third digit is what helps.
# :::
