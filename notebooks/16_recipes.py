# %% [markdown]
# # Recipes
#
# Short answers to questions that come up once a model trains: each section is a few lines to copy, run here on small drawn images so that the page runs anywhere.
# [Chapter 15](15_your_own_images.ipynb) goes from a folder of images to such a model; this page begins where it ends.
#
# ## What you will learn
#
# - to compare two methods over folds and seeds, without images of one patient on both sides;
# - to write the whole training loop yourself: AdamW, a schedule, gradients added up over parts of a batch, bfloat16, averaged weights;
# - to use the estimators with an attention and with features that are no networks of this library, or no networks at all;
# - to hand on where a model looked: as a picture, a table, or rectangles for a viewer of slides.
#
# **Time and hardware:** ten minutes to read, one to run on one CPU core; nothing is downloaded.

# %% tags=["parameters"]
profile = "smoke"  # smoke, laptop or paper: how many images, and how long is trained

# %%
import csv
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown, display
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from atslib import (
    ESTIMATORS,
    AttentionSampling,
    PatchGeometry,
    UniformSampling,
    downsample,
    extract_patches,
    plots,
)
from atslib.experiments.summary import mean_and_stderr, permutation_test
from atslib.export import attention_raster, geojson, patch_table
from atslib.loading import InMemory, LabelledImages, epoch_batches
from atslib.networks import (
    AttentionNetwork,
    Classifier,
    LeNetFeatures,
    SaliencyPrior,
)
from atslib.precision import has_bfloat16
from atslib.training import Settings, attention_loss, evaluate, train

plots.use_style()
n_patients, epochs = {"smoke": (40, 8), "laptop": (80, 12), "paper": (80, 12)}[profile]

# %% [markdown]
# The images: dark ground with three marks, two crosses and one mark that gives the class, a *ring* or a *disc*. Every patient has four images, with a ground of their own.

# %% tags=["hide-input"]
SIDE, MARK = 240, 15


def draw_mark(kind):
    y, x = np.mgrid[:MARK, :MARK] - MARK // 2
    inside = {
        "ring": abs(np.hypot(x, y) - 5) < 1.5,
        "disc": np.hypot(x, y) < 6,
        "cross": (abs(x) < 1.5) | (abs(y) < 1.5),
    }
    return inside[kind]


class Marks(LabelledImages):
    """Grey images `(1, 240, 240)`, four of each patient."""

    classes = ("ring", "disc")

    def __init__(self, n_patients, seed=0):
        self.patients = np.repeat(np.arange(n_patients), 4)
        self.labels = torch.arange(4 * n_patients) % 2
        self.seed = seed

    def __getitem__(self, number):
        ground = np.random.default_rng([self.seed, self.patients[number]]).uniform(5, 20)
        rng = np.random.default_rng([self.seed, 1000 + number])
        image = ground * rng.random((SIDE, SIDE))
        places = rng.permutation(64)[:3] * 28 + 6  # on a grid of 8 × 8, so that none overlap
        label = int(self.labels[number])
        for place, kind in zip(places, (self.classes[label], "cross", "cross"), strict=True):
            row, column = place // 28 // 8 * 28 + 6, place // 28 % 8 * 28 + 6
            image[row : row + MARK, column : column + MARK][draw_mark(kind)] = 220
        return torch.from_numpy(image.astype(np.uint8))[None], label


# %% mystnb={"image": {"alt": "Two drawn images: dark ground with two crosses and a ring in the first, two crosses and a disc in the second."}}
everything = Marks(n_patients)
_, axes = plt.subplots(1, 2, figsize=(6, 3.2))
for ax, number in zip(axes, (0, 1), strict=True):
    image, label = everything[number]
    plots.show_image(ax, image, everything.classes[label])
plt.show()


# %%
def build_model(method="ats"):
    """Attention sampling, or patches from anywhere."""
    attention = SaliencyPrior(
        AttentionNetwork(nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 1, 1)),
        power=2,
    )
    features, classifier = LeNetFeatures(width=16), Classifier(16, 2, scale=16)
    sizes = dict(patch_size=28, n_patches=5, scale=0.2)
    if method == "uniform":
        return UniformSampling(features, classifier, **sizes, like=attention)
    return AttentionSampling(attention, features, classifier, **sizes)


# %% [markdown]
# ## Folds and seeds
#
# One training is one throw of the dice: of weights, of draws, of which images are tests. So train several times, on folds that share out the images, and compare methods fold by fold.
# Images of one patient belong to one fold; a model that has met a patient may tell by the ground what it remembers.

# %%
n_folds = 4
folds = everything.patients % n_folds  # of each image: all of a patient in one
settings = Settings(epochs=epochs, batch_size=16, learning_rate=3e-3)
errors = {"ats": [], "uniform": []}
for fold in range(n_folds):
    train_set = InMemory(everything.part(folds != fold))
    test_set = InMemory(everything.part(folds == fold))
    for method, so_far in errors.items():
        torch.manual_seed(fold)  # of the first weights; Settings(seed=…): order and draws
        model = build_model(method)
        train(model, train_set, None, settings, progress=False)
        so_far.append(evaluate(model, test_set, seed=fold, progress=False)["error"])

# %% tags=["hide-input"]
rows = []
for method, found in errors.items():
    mean, stderr = mean_and_stderr(found)
    rows.append([{"ats": "attention", "uniform": "anywhere"}[method], *(f"{error:.2f}" for error in found), f"{mean:.3f} ± {stderr:.3f}"])
display(plots.table(["patches from", *(f"fold {fold + 1}" for fold in range(n_folds)), "mean"], rows))
p = permutation_test(errors["ats"], errors["uniform"], paired=True)
Markdown(
    f"What to see: the test error of each fold, and the mean over the folds ± one standard error. Fold against fold the exact permutation test gives p = {p:.3g}; with {n_folds} pairs it can give no less than {2 / 2**n_folds:.3g}, "
    "however large the difference: for less, train with more folds or seeds."
)

# %% [markdown]
# Three things to know. Folds share training images, so that their errors are no independent runs and the standard error is somewhat too small. A `checkpoint=` needs a name of its own for each fold: one of another fold's images is refused. And a setting that was chosen by
# these errors has seen the test images; choose it on a part of the training set, `train_set.split(0.2)`.
#
# To share out whole patients more evenly by class and number of images, scikit-learn's `StratifiedGroupKFold` gives numbers for `part`.
#
# ## A loop of your own, whole
#
# What `train` does is no secret. Here is a loop with another optimiser, AdamW; a learning rate that rises and falls; gradients added up over two parts of each batch, which takes about half of the memory; bfloat16 where the networks compute (the library keeps attention and estimates in float32), if the machine has instructions for it and not only imitates them; a limit to the
# gradient's length; and averaged weights, which often answer more steadily than the last.

# %%
torch.manual_seed(0)
train_set = InMemory(everything.part(folds != 0))
test_set = InMemory(everything.part(folds == 0))
model = build_model()
averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
steps = epochs * -(-len(train_set) // 16)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=steps)
draws = torch.Generator().manual_seed(0)  # one for all parts; on the model's device

for epoch in range(epochs):
    model.train()
    for batch in epoch_batches(len(train_set), batch_size=16, seed=0, epoch=epoch):
        optimiser.zero_grad()
        for part in (batch[:8], batch[8:]):
            if not part:
                continue
            images, labels = train_set.images[part], train_set.labels[part]
            with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16("cpu")):
                out = model(images, generator=draws)
            loss, cross_entropy = attention_loss(out, labels, entropy_weight=0.01)
            (loss * len(part) / len(batch)).backward()  # the mean over the batch
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        averaged.update_parameters(model)

# %% tags=["hide-input"]
last, mean_of = (evaluate(some, test_set, progress=False)["error"] for some in (model, averaged.module))
Markdown(f"Error on the first fold: {last:.3f} with the last weights, {mean_of:.3f} with the averaged ones. (One training, {len(test_set)} test images.)")

# %% [markdown]
# The order of the images is a function of seed and epoch (`epoch_batches`), and the draws follow from their generator: the loop can be repeated from its beginning. A gradient scaler is needed for float16 only. On a GPU put images and model there, `torch.autocast("cuda", …)`, and `torch.Generator("cuda")`.
# `train(optimiser=lambda model: torch.optim.AdamW(…))` has most of this, and can be stopped and resumed.
#
# ## Estimators without the model
#
# The estimators know nothing of networks. They need a log-attention over some locations, from wherever, and a vector for each location that was drawn. Here the attention is the brightness of a small view and the vector two numbers that are measured in a patch at full resolution. What comes out is an estimate of their mean over *all* locations under that attention, with a
# standard error, from a handful of patches:

# %%
image = everything[0][0][None]  # (1, 1, H, W)
view = downsample(image, 48)  # (1, 1, 48, 48)
logits = (1e-3 + view[:, 0] ** 2).log()  # (1, 48, 48)
log_attention = logits.flatten(1).log_softmax(1).view_as(logits)  # over all locations
geometry = PatchGeometry((SIDE, SIDE), low_size=(48, 48), map_size=(48, 48), patch_size=28)


def measure(patches):
    """Share of bright pixels, and largest number, of patches (B, N, C, h, w): (B, N, 2)."""
    pixels = patches.flatten(2).float()
    return torch.stack([(pixels > 128).float().mean(2), pixels.amax(2) / 255], dim=2)


estimator = ESTIMATORS["des_raj"]  # distinct locations; it tells its standard error
index = estimator.sample(log_attention, 10, generator=torch.Generator().manual_seed(0))
seen = measure(extract_patches(image, geometry.top_left(index), 28))
estimate = estimator(log_attention, index, seen)[0]
stderr = estimator.stderr(log_attention, index, seen)[0]

every = torch.arange(48 * 48)[None]
exact = measure(extract_patches(image, geometry.top_left(every), 28))[0]
exact = log_attention.exp().flatten() @ exact

# %% tags=["hide-input"]
display(
    plots.table(
        ["mean under the attention", "of 10 patches", f"of all {48 * 48:,}"],
        [[name, f"{z:.3f} ± {s:.3f}", f"{mu:.3f}"] for name, z, s, mu in zip(("share of bright pixels", "largest number"), estimate, stderr, exact, strict=True)],
    )
)

# %% [markdown]
# What is drawn need not be patches: `index` may choose rows of a table, sentences, or nodes of a graph, if what is known about all of them cheaply makes an attention. `estimator(…)` is differentiable in the attention and in what was measured; its gradient is unbiased ([chapter 3](03_gradient_with_replacement.ipynb)).
#
# ## For other programs
#
# Where the model looked, as files. `attention_raster` spreads the attention over the image, in the image's own coordinates and in any size; `patch_table` has one row for each patch that was drawn; `geojson` makes rectangles of them, which viewers of slides, QuPath among them, and of maps can lay over the image.

# %%
folder = tempfile.TemporaryDirectory()  # is deleted below: choose a lasting one
image = test_set.images[:1]
with torch.no_grad():
    out = model.eval()(image, generator=torch.Generator().manual_seed(0), return_patches=True)
    alone = model.classifier(model.features(out.patches[0] / 255))  # of each patch
geometry, index = model.geometry(image, out), out.index[0]

raster = attention_raster(geometry, out.log_attention[0])  # the image's size; sums to one
picture = (255 * (raster / raster.max()).sqrt()).byte()  # its root, in 8 bits
plt.imsave(Path(folder.name) / "attention.png", picture, cmap="gray", vmin=0, vmax=255)

rows = patch_table(
    geometry,
    index,
    attention=out.log_attention[0].flatten()[index].exp(),
    weight=model.estimator.weights(out.log_attention, out.index)[0],
    score=alone[:, 0] - alone[:, 1],  # for a ring, against a disc
)
with open(Path(folder.name) / "patches.csv", "w", newline="") as file:
    writer = csv.DictWriter(file, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
with open(Path(folder.name) / "patches.geojson", "w") as file:
    json.dump(geojson(rows, objectType="annotation"), file)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left, a test image with the outlines of its five patches. Right, the attention as a raster of the image's size, bright where the marks are."}}
_, (left, right) = plt.subplots(1, 2, figsize=(7, 3.6))
plots.show_image(left, image[0], "image and patches")
plots.outline_patches(left, geometry, index)
plots.show_image(right, picture, "attention.png (square root)")
plt.show()
display(plots.table(list(rows[0]), [[row[name] if isinstance(row[name], int) else f"{row[name]:.3g}" for name in row] for row in rows]))
folder.cleanup()

# %% [markdown]
# What to see: the raster has the image's coordinates, so that the two lie on each other in any program; the table is the file `patches.csv`. Of a large image ask for a smaller raster, `attention_raster(…, size=(1000, 800))`; with `tifffile.imwrite` it may be kept in floating point, as it is. Patches may
# begin outside the image, at a negative place.
#
# ## Summary
#
# - Folds and seeds: `part` takes the images of some patients, `mean_and_stderr` and `permutation_test` say how sure a difference is.
# - A loop of your own needs the model, a generator and `attention_loss`; all that PyTorch has for loops works with it.
# - Estimators take any log-attention and any vectors; of Des Raj's draws they tell the standard error.
# - `attention_raster`, `patch_table` and `geojson` carry what the model looked at into other programs.
#
# ## Exercises
#
# :::{exercise}
# :label: ex-16-folds
# With four folds the permutation test cannot give less than 0.125. How many folds, or seeds for each of four folds, does a difference need to come below 0.05 at all? Is the second way as good as the first?
# :::
#
# :::{solution} ex-16-folds
# :class: dropdown
# With $n$ pairs it gives $2 / 2^n$ at the least, which is below 0.05 from six pairs on: six folds, or two seeds for each of four folds. Two seeds on one fold share their images, and a fold that is hard for a method is hard twice: the pairs are not independent, which the test takes them to be. More folds, or repeated splits, are the better way.
# :::
#
# :::{exercise}
# :label: ex-16-draws
# Replace `des_raj` by `systematic` in the section on estimators. What does `estimator.stderr(log_attention, index, seen)` give then, and why?
# :::
#
# :::{solution} ex-16-draws
# :class: dropdown
# `None` (so leave out the `[0]` behind it, and the table). Systematic draws come from one random number, so that one draw does not tell how much another would differ ([chapter 5](05_lower_variance.ipynb)). Draw several times, with other numbers, and take the standard deviation of the estimates.
# :::
