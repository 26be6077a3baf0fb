# %% [markdown]
# # Quickstart: one answer from ten patches
#
# An image of 1500 × 1500 pixels holds five handwritten digits and fifty scribbles. Three of the digits are of the same
# class; which? A network that reads every pixel is slow, and at a size where it would be fast the digits cannot be read.
# Attention sampling {cite}`katharopoulos2019` glances at a small view, draws ten places from it, reads ten small patches at
# full resolution and answers.
#
# ## What you will learn
#
# - how to run a trained attention-sampling model on a large image, in ten lines;
# - what the model looks at, what it sees there, and what becomes of its answer when it looks at more or fewer patches;
# - where it goes wrong, and how to tell.
#
# **Time and hardware:** half a minute on two CPU cores; nothing is downloaded. You should know PyTorch.

# %% tags=["parameters"]
profile = "smoke"  # smoke, laptop or paper

# %% tags=["hide-input"]
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown
from safetensors.torch import load_file

from atslib import ESTIMATORS, plots
from atslib.data import MegapixelMNIST
from atslib.experiments import megapixel_mnist
from atslib.training import evaluate

plots.use_style()
torch.manual_seed(0)
n_live = {"smoke": 50, "laptop": 400, "paper": 1000}[profile]  # test images classified on this page

# %% [markdown]
# ## The image
#
# The digits are real ones, from MNIST {cite}`lecun1998`; the image around them is drawn by the library, from a seed. The
# whole set of images takes no room on disk.

# %%
images = MegapixelMNIST("test")
image, label = images[0]
# NBVAL_CHECK_OUTPUT
print(f"image {tuple(image.shape)}, {image.dtype}, label {label}")

# %% mystnb={"image": {"alt": "Left: a black square of 1500 by 1500 pixels with about fifty tiny bright specks. Right: an enlarged part, 300 pixels wide, in which a digit and some scribbles of two straight strokes can be told apart."}}
layout = images.layout(0)
row, column = np.clip(layout.digit_corners[0] - 136, 0, 1200)
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.7))
plots.show_image(left, image, "the image, 1500 × 1500")
left.add_patch(plt.Rectangle((column, row), 300, 300, fill=False, color=plots.ORANGE))
crop = image[:, row : row + 300, column : column + 300]
plots.show_image(right, crop, "the orange square, 300 × 300")
plt.show()

# %% [markdown]
# At the left the digits are specks among specks. At the right, enlarged five times, a digit can be told from the scribbles,
# and read.
#
# ## The model
#
# Three networks: one for the **attention**, which sees the image reduced to 180 × 180; one for the **features** of a patch of
# 50 × 50 pixels at full resolution; and a linear **classifier**. They were trained together, from the labels of whole images
# only: nobody told them where the digits are. One hint they had, which is not in the paper: attention began where the view is bright
# (a *prior*, [chapter 7](07_entropy_and_exploration.ipynb)), on digits and noise alike; which of the bright places matter was learned. The training run left a record and its weights, less than a megabyte.

# %%
run = "megapixel_mnist-ats-systematic-n10-seed0-laptop"
record = json.loads(Path(f"../results/runs/{run}.json").read_text())

model = megapixel_mnist.build_model(n_patches=10, estimator="systematic")
model.load_state_dict(load_file(f"../results/weights/{run}.safetensors"))
model.eval()

for name, part in model.named_children():
    print(f"{name:10} {sum(p.numel() for p in part.parameters()):6,} parameters")
    # NBVAL_CHECK_OUTPUT

# %% tags=["hide-input"]
hours, minutes = divmod(round(record["curve"]["seconds"][-1] / 60), 60)
Markdown(
    f"The record says: {record['dataset']['n_train']:,} training images, {record['curve']['epoch'][-1]} epochs, "
    f"{hours} h {minutes:02d} min on {record['hardware']['threads']} threads of a CPU ({record['hardware']['name']}). "
    f"Test error on {record['dataset']['n_test']:,} images of digits never seen in training: "
    f"**{record['final']['test_error']:.3f} ± {record['final']['test_stderr']:.3f}**, where guessing gives 0.9."
)

# %% [markdown]
# ## One look
#
# With a trained model, this is all that a user writes:

# %%
with torch.no_grad():
    generator = torch.Generator().manual_seed(1)
    out = model(image[None], return_patches=True, generator=generator)

probabilities = out.logits.softmax(1)[0]
# NBVAL_CHECK_OUTPUT
print(f"answer {probabilities.argmax().item()}, true class {label}")

# %% [markdown]
# `out.log_attention` is the map over 180 × 180 locations from which the ten were drawn, `out.index` says which, `out.patches`
# holds what was read there.

# %% mystnb={"image": {"alt": "Three panels. The small view with faint specks; the attention map, dark except for a few bright spots; and the image with ten orange squares, the drawn patches, and blue circles around the five digits, in most of which a square lies."}}
low = model.view(image[None])
geometry = model.geometry(image[None], out)
# each spot widened to 7 × 7 locations, to be seen
spots = torch.nn.functional.max_pool2d(out.log_attention, 7, stride=1, padding=3)[0]
figure, (a, b, c) = plt.subplots(1, 3, figsize=(7, 2.7))
plots.show_image(a, low[0].sqrt(), "what attention sees,\n180 × 180")
plots.show_attention(b, spots, "attention,\nspots widened")
plots.show_image(c, image, "ten patches drawn\nfrom it")
plots.outline_patches(c, geometry, out.index[0])
for top, left_edge in layout.digit_corners:
    c.plot(left_edge + 14, top + 14, "o", mfc="none", mec=plots.SKY, ms=13)
plt.show()

# %% [markdown]
# Attention is close to zero on the empty ground and on most scribbles, and bright at the digits (the map shows its square root,
# each spot widened to 7 × 7 locations, or most of it would hardly be seen). The blue circles mark the five
# digits, which the model was never shown; the orange squares are the patches that it drew. Several fall on the same digit: each
# is drawn about as often as its share of the attention.

# %% mystnb={"image": {"alt": "Ten patches of 50 by 50 pixels, most showing one digit, with the attention of their location above each."}}
attention = out.log_attention.exp().flatten(1).gather(1, out.index)[0]
plots.show_patches(out.patches[0], [f"attention {a:.3f}" for a in attention.tolist()])
plt.show()

# %% tags=["hide-input"]
def showing(glyph_corners, corners):
    """Which patches (by row) show the middle of which digit or scribble (by column)?"""
    middle = torch.as_tensor(glyph_corners)[None] + 14 - corners[:, None]
    return ((middle >= 0) & (middle < 50)).all(-1)


everywhere = geometry.top_left(torch.arange(180 * 180)[None])[0]
on_scribbles = showing(layout.noise_corners, everywhere) & ~showing(layout.digit_corners, everywhere).any(1, keepdim=True)
mass = out.log_attention.exp().flatten()
of_each = (mass[:, None] * on_scribbles).sum(0)
together = (mass * on_scribbles.any(1)).sum().item()
here = int(on_scribbles.any(1)[out.index[0]].sum())
Markdown(
    f"Of the fifty scribbles most have next to nothing (half of them less than {of_each.median():.2%} of the attention each), but together they have {together:.0%}"
    + (f", so that a patch in {1 / together:.0f} or so falls on one of them; " if together < 0.4 else "; ")
    + f"of the ten here, {here}."
)

# %% [markdown]
# These ten patches are everything that the feature network saw of the image.

# %%
seen = torch.zeros(image.shape[1:], dtype=torch.bool)
for top, left_edge in geometry.top_left(out.index)[0].tolist():
    seen[max(top, 0) : top + 50, max(left_edge, 0) : left_edge + 50] = True
read = seen.float().mean()
print(f"{read:.2%} of the pixels were read at full resolution")  # NBVAL_CHECK_OUTPUT

# %% mystnb={"image": {"alt": "Bar chart of the probabilities of the ten classes after this look, one bar standing out."}}
figure, ax = plt.subplots(figsize=(7, 2.4))
colours = [plots.BLUE if k == label else plots.GREY for k in range(10)]
ax.bar(range(10), probabilities, color=colours)
ax.set(
    xlabel="class (the true one in blue)", ylabel="probability", xticks=range(10), ylim=(0, 1)
)
plt.show()

# %% [markdown]
# ## A wrong answer
#
# Now many test images, ten patches each, and one that is answered wrongly.

# %%
subset = torch.utils.data.Subset(images, range(n_live))
result = evaluate(model, subset, seed=2, progress=False)
wrong = (result["predicted"] != result["labels"]).nonzero()[:, 0]
print(f"{len(wrong)} of {n_live} wrong: {result['error']:.2f} ± {result['stderr']:.2f}")

# %% mystnb={"image": {"alt": "Top: the ten patches drawn from a wrongly answered image. Bottom: bars of the class probabilities, the true class in blue, a wrong one higher."}}
number = int(wrong[0])
image_w, label_w = images[number]
with torch.no_grad():  # the same image a hundred times, each time with other draws
    views = model.view(image_w[None]).expand(100, -1, -1, -1)
    generator = torch.Generator().manual_seed(2)
    looks = model(
        image_w.expand(100, 1, -1, -1), views, return_patches=True, generator=generator
    )
answers = looks.logits.softmax(1)
bad = int((answers.argmax(1) != label_w).nonzero()[0])

figure = plt.figure(figsize=(7, 4.2))
grid = figure.add_gridspec(3, 5, height_ratios=[1, 1, 1.3])
for k, patch in enumerate(looks.patches[bad]):
    plots.show_image(figure.add_subplot(grid[k // 5, k % 5]), patch)
ax = figure.add_subplot(grid[2, :])
colours = [plots.BLUE if k == label_w else plots.GREY for k in range(10)]
ax.bar(range(10), answers[bad], color=colours)
ax.set(
    xlabel="class (the true one in blue)", ylabel="probability", xticks=range(10), ylim=(0, 1)
)
plt.show()

# %% tags=["hide-input"]
truth = images.layout(number)
right = (answers.argmax(1) == label_w).float().mean().item()
said = int(answers[bad].argmax())
with torch.no_grad():  # each patch by itself
    alone = model.classifier(model.features(looks.patches[bad].float() / 255))
# equal weights and a linear classifier: the answer is the mean of the patches'
assert torch.allclose(alone.mean(0), looks.logits[bad], atol=1e-3)
shown = showing(truth.digit_corners, geometry.top_left(looks.index[bad][None])[0])
of_class = {k: shown[:, torch.as_tensor(truth.digit_classes == k)].any(1) for k in (label_w, said)}
speaks = {k: (alone[of_class[k]][:, k] - alone[of_class[k]][:, label_w + said - k]).mean().item() for k in of_class}
misread = sorted({int(k) for k in alone[of_class[label_w]].argmax(1)} - {label_w})
why = "The classifier averages what each patch says by itself, and not all speak equally loudly. "
if of_class[said].any() and speaks[said] > speaks[label_w] > 0:
    in_words = ["none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    many, few = (int(of_class[k].sum()) for k in (label_w, said))
    confused = int((alone[of_class[label_w]].argmax(1) != label_w).sum())
    why += (
        f"Of the ten patches here, {in_words[many]} {'shows' if many == 1 else 'show'} a {label_w} and {in_words[few]} {'shows' if few == 1 else 'show'} a {said}. "
        f"But one with a {said} puts class {said} before class {label_w} by {speaks[said]:.1f} logits on average, one with a {label_w} puts its class before the other by {speaks[label_w]:.1f} only"
        + (f"; of the latter {in_words[confused]} {'is' if confused == 1 else 'are'} read as a {' or a '.join(map(str, misread))}" if misread else "")
        + ". "
    )
Markdown(
    f"Image {number} holds the digits {', '.join(map(str, truth.digit_classes))}; the answer should be {label_w}. "
    f"Of 100 looks at this image, with other random draws, {right:.0%} give the right answer. "
    + (
        f"{why}Other draws shift the balance; looking more often helps."
        if 0.05 < right < 0.95
        else "So here it is not the luck of the draw: the attention misses a digit or the features misread one."
    )
)

# %% [markdown]
# ## More patches, fewer patches
#
# N, the number of patches, is not built into the weights. The same network can look once or fifty times, at a cost that grows
# with N, on top of that of the view and its attention.

# %% mystnb={"image": {"alt": "Left: test error against the number of patches, falling from about one half at one patch to about 0.1 at 25 and more; crosses from the record lie a little lower. Right: the probability given to the true class in thirty looks at one image for each number of patches; the spread narrows as patches are added."}}
counts = [1, 2, 5, 10, 25, 50]
errors = [evaluate(model, subset, seed=3, progress=False, n_patches=n) for n in counts]
spread = []
with torch.no_grad():
    for n in counts:
        generator = torch.Generator().manual_seed(n)
        stack = image_w.expand(30, 1, -1, -1)
        spread.append(model(stack, views[:30], n_patches=n, generator=generator))

figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.2))
error, bar = ([e[key] for e in errors] for key in ("error", "stderr"))
left.errorbar(counts, error, bar, marker="o", capsize=3)
recorded = record["final"]["by_n_patches"]
crosses = [(int(n), r["test_error"]) for n, r in recorded.items()]
left.plot(*zip(*crosses), "x", color=plots.RED, ms=7)
left.set(ylabel="test error", ylim=(0, None))
left.set_title(f"{n_live} images now; × recorded, {record['dataset']['n_test']:,}")
for n, look in zip(counts, spread):
    p = look.logits.softmax(1)[:, label_w]
    # so that equal answers do not hide one another
    beside = n * np.exp(np.linspace(-0.1, 0.1, 30))
    right.plot(beside, p, ".", color=plots.BLUE, alpha=0.5)
right.set(ylabel="probability of the true class", ylim=(-0.03, 1.03))
right.set_title(f"30 looks at image {number}")
for ax in (left, right):
    ax.set(xscale="log", xlabel="patches N", xticks=counts, xticklabels=counts)
    ax.minorticks_off()
plt.show()

# %% [markdown]
# Left: the error falls steeply until there is a patch for each digit and a few to spare, then flattens; what is left is what
# attention and features get wrong. The bars are one standard error, and the crosses come from the record of the training run.
# Right: one image looked at thirty times. With few patches the answer depends on which ones; with many, looks agree.
#
# That the average over ten patches *estimates* what all 32,400 would give, and how fast the estimate closes in, is the subject of
# [the next chapter](01_attention_as_expectation.ipynb); why a network may *learn* from ten patches as if it had seen them all is that of
# [chapter 3](03_gradient_with_replacement.ipynb). To build and train such a model on a folder of your own images, go to [chapter 15](15_your_own_images.ipynb); it needs none of the chapters between.
#
# ## The same network, other draws
#
# How the ten are drawn is a choice. Independent draws may pick one digit five times and miss another. Draws without replacement
# (`des_raj`) pick no *location* twice, but a digit covers many locations. Here they were drawn by systematic sampling along a curve
# through the map, which keeps the number of draws on each digit near its share of the ten.

# %%
for name in ("with_replacement", "des_raj", "systematic"):
    model.estimator = ESTIMATORS[name]
    again = evaluate(model, subset, seed=4, progress=False)
    print(f"{name:17} error with 10 patches: {again['error']:.2f} ± {again['stderr']:.2f}")

# %% tags=["hide-input"]
times = [round(n_live * e) for e in (result["error"], errors[counts.index(10)]["error"], again["error"])]
Markdown(
    f"{n_live} images are few: with ten systematic draws the same network looked at the same images three times on this page, and erred on {times[0]}, {times[1]} and {times[2]} of them. "
    "The network was also *trained* with systematic draws, which may favour them. [Chapter 5](05_lower_variance.ipynb) compares draws exactly, and [chapter 8](08_megapixel_mnist.ipynb#do-draws-matter-in-training-or-in-the-test) tests networks with draws that they were not trained with."
)

# %% [markdown]
# ## Try it yourself
#
# With a running kernel (download the notebook, or start it from the rocket above) the next cell gives a slider for N and a
# button that draws again. In the rendered book there is no kernel behind the page and it stays quiet.

# %%
from atslib.widgets import is_live, patch_explorer

if is_live():
    display(patch_explorer(model, image))

# %% [markdown]
# ## Summary
#
# - Attention comes from a small view, features from a few patches at full resolution. `model(image)` does both and returns
#   logits, attention map and the locations it looked at.
# - Ten patches are about one per cent of the image. On test images with digits never seen, the answers are mostly right; the
#   record says exactly how often.
# - The number of patches is a dial between cost and certainty that can be turned after training.
#
# ## Exercises
#
# :::{exercise}
# :label: ex-00-seed
# Draw ten patches from the first image with another seed. Do the patches change? Does the answer?
# :::
#
# :::{solution} ex-00-seed
# :class: dropdown
# `model(image[None], generator=torch.Generator().manual_seed(5))`. The locations differ, but they fall on the same few digits,
# and the answer is nearly always the same. Two systematic draws differ only in the one uniform number that they start from, and so hit
# nearly the same digits.
# :::
#
# :::{exercise}
# :label: ex-00-noise
# `MegapixelMNIST("test", noise="random")` replaces the scribbles with squares of random pixels, the noise that the paper's text
# describes. The network was trained on scribbles. What happens to the error, and why?
# :::
#
# :::{solution} ex-00-noise
# :class: dropdown
# `evaluate(model, torch.utils.data.Subset(MegapixelMNIST("test", noise="random"), range(100)))["error"]`. It rises
# steeply. The squares are brighter in the small view than most digits, the [saliency prior](07_entropy_and_exploration.ipynb), by which attention begins where there is something to see, likes them, and the attention
# network never learned that they are worthless. Look at `plots.show_attention` for one such image.
# :::
#
# :::{exercise}
# :label: ex-00-size
# The networks are convolutional. Make an image of 3000 × 3000 pixels with `MegapixelMNIST("test", size=3000)` and classify it with
# the same model. What has to stay the same for this to work?
# :::
#
# :::{solution} ex-00-size
# :class: dropdown
# It works as it is: the view is 360 × 360 now, since `scale` is a ratio, so a digit keeps its size in the view. There are four
# times as many locations, mostly empty, and attention is spread over them by the same rule; the error should be about the same.
# A view of fixed size would shrink the digits below what the attention network has learned to recognise.
# :::
