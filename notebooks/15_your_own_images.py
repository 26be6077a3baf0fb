# %% [markdown]
# # Your own images
#
# A folder of image files with a class each, and the feeling that the answer lies in a few small places of each image. This chapter goes
# from such a folder to a trained model, and says at each step what to look at before going on. The folder is drawn here, photographs of cloth in which something
# is torn or not, so that the page runs anywhere. Name a folder of your own instead and the cells work on it; a handful of numbers, named below, have to be chosen for it. (Two sections stay with drawn cloth: the one on counting is skipped then, and the one on large files wants a file of your own, too, to say anything.)
#
# ## What you will learn
#
# - how to tell, before any training, whether attention sampling fits a problem, and how to choose scale, patch and $N$ from its size;
# - how to bring images of different sizes, networks of your own and a prior of your own;
# - how to train with the library's loop, or in a loop of your own;
# - what to check afterwards: what the attention looks at, which patch decides, whether more patches would help;
# - how to look at whole slides and other files that do not fit into memory;
# - what to do when it does not learn.
#
# **Time and hardware:** fifteen minutes to read, one to two to run on one CPU core; nothing is downloaded. You should have read
# [the quickstart](00_quickstart.ipynb).

# %% tags=["parameters"]
profile = "smoke"  # smoke, laptop or paper: how many images are drawn
own = ""  # a folder with train/CLASS/FILE and test/CLASS/FILE; empty: cloth is drawn
own_large = ""  # a large file, TIFF, slide or zarr, with what is in that folder; empty: a large cloth is drawn

# %%
import math
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tifffile
import torch
from IPython.display import Markdown, display
from PIL import Image
from torch import nn

from atslib import AttentionSampling, UniformSampling, downsample, extract_patches, plots
from atslib.checkpoints import load_weights, save_weights
from atslib.data import ImageFiles, ImagePyramid, Padded, largest_size, read_image
from atslib.experiments.summary import sign_test
from atslib.loading import InMemory
from atslib.networks import (
    AttentionNetwork,
    Classifier,
    MaskedAttention,
    SaliencyPrior,
    UnitNorm,
    local_contrast,
)
from atslib.patches import low_size
from atslib.prediction import predict
from atslib.training import Settings, attention_loss, evaluate, train

plots.use_style()
n_train, n_test = {"smoke": (240, 100), "laptop": (1000, 400), "paper": (1000, 400)}[profile]

# %% [markdown]
# ## A folder of photographs
#
# The stand-in: cloth with five dark specks of the same size. On *good* cloth all are lint, solid dots. On *torn* cloth one of them is a hole, a ring of frayed
# thread. Sizes and light differ from image to image, as they do when people take photographs.

# %% tags=["hide-input"]
def draw_cloth(rng, holes, specks=5, size=None):
    """A photograph, (h, w, 3) uint8, and the middle of each speck; the first are the holes."""
    height, width = size or rng.integers(320, 417, 2)
    y, x = np.arange(height)[:, None], np.arange(width)
    light = 20 * np.sin(2 * np.pi * (rng.random() * y / height + rng.random() * x / width + rng.random()))
    cloth = 200 + light + 10 * np.sin(np.pi * y / 2 + 6 * rng.random()) * np.sin(np.pi * x / 2 + 6 * rng.random())
    cloth += 6 * rng.standard_normal((height, width), dtype=np.float32)
    places = []
    while len(places) < specks:
        place = rng.uniform(16, (height - 16, width - 16))
        if all(np.hypot(*(place - other)) > 40 for other in places):
            places.append(place)
    for k, place in enumerate(places):
        top, left = (place - 10).astype(int)
        square = np.s_[top : top + 20, left : left + 20]
        distance = np.hypot(y[square[0]] - place[0], x[square[1]] - place[1])
        dark = 1.95 - 1.3 * abs(distance - 5) if k < holes else 5.2 - distance  # a ring or a dot, equally dark in sum
        cloth[square] *= 1 - 0.75 * dark.clip(0, 1)
    return (cloth[..., None] * (1.0, 0.97, 0.9)).clip(0, 255).astype(np.uint8), places


def draw_folder(root, count, seed):
    rng = np.random.default_rng(seed)
    for number in range(count):
        folder = root / ("good", "torn")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_cloth(rng, number % 2)[0]).save(folder / f"{number:04}.png", compress_level=1)


# %%
temporary = tempfile.TemporaryDirectory()
root = Path(own or temporary.name)
if not own:
    draw_folder(root / "train", n_train, seed=0)
    draw_folder(root / "test", n_test, seed=1)

# %% [markdown]
# A data set is anything with a length whose items are `(image, label)`: the image a tensor `(channels, height, width)`, `uint8` to save memory, and the
# label a number. `ImageFiles` is one for files, and `ImageFiles.from_folder` finds them. The test set is told the classes of the training set; if it worked them out by itself
# and one had no test image, the labels of the others would shift. Where there is one folder only, `everything.split(0.2)` takes a fifth of each class for tests; if several images show one patient, slide or place, choose the numbers
# yourself and use `everything.part(numbers)`, as [chapter 16](16_recipes.ipynb#folds-and-seeds) does for folds.
#
# Files of 16 bits or of more than three bands are refused rather than cut down. `ImageFiles(…, read=your_function)` reads them: it gets a path and returns the image, `uint8`, an `ImagePyramid` for one that is to be read where it is looked at, or floating point with white at 1: the white of the device, so that 12 bits are divided by 4095, though the file has room for 65535. In folders, `from_folder(…, read=your_function, suffixes=[".npy"])` finds what does not end like an image. The attention network may look at some of the channels only, or at a mixture: begin it with a layer that picks them, a module with the attributes `stride`, `padding` and `receptive_field`, 1, 0 and 1 (it looks at each pixel alone). In a loop of your own, a view made elsewhere is given to the model as `low`.
#
# Images in one batch must have one size. Here `Padded` continues each by its own mirror image up to the size of the largest. A border of one
# colour (`fill=`) would do, if it did not have an edge: edges stand out, and attention looks at what stands out. Cropping is another way, or seeing the images of a step one at a time (`Settings(micro_batch_size=1)`; `evaluate(…, batch_size=1)`).
# Mirroring has a price, too: what lies near that border is there twice. Where things are to be counted, continue with the colour of the ground instead.

# %%
train_files = ImageFiles.from_folder(root / "train")
test_files = ImageFiles.from_folder(root / "test", classes=train_files.classes)
size = largest_size(train_files, test_files)
train_set, test_set = Padded(train_files, size), Padded(test_files, size)
image, label = test_set[len(test_set) - 1]
# NBVAL_CHECK_OUTPUT
print(
    f"{len(train_set)} training and {len(test_set)} test images, classes {train_set.classes};\n"
    f"one image: {tuple(image.shape)}, {image.dtype}"
)

# %% [markdown]
# ## Look before you train
#
# Attention sampling fits if two things hold: in the small view one can see *that* there is something, and a patch at full resolution tells *what*.
# Both can be looked at. First, the numbers that fit this cloth; the table below says how to choose them.

# %%
# what matters: pixels across, and how many places in an image are worth a look
THING, THINGS = 12, 5
SCALE, PATCH, N_PATCHES, FILL = 1 / 8, 28, 8, 200
ENTROPY_WEIGHT, FEATURE_SCALE, STRIDE = 0.01, 16, 1

# %% [markdown]
# An image of torn cloth, its view at a scale of 1/8, and each of its specks at full resolution (of your own images, write down the places of a few things that matter):

# %% mystnb={"image": {"alt": "Left, a light cloth with five dark specks. Middle, the same as a view of 48 by 50 pixels, in which each speck is one or two darker pixels. Right, the five specks enlarged: four solid dots and one ring."}}
if own:
    # row and column of what matters
    photograph, places = read_image(test_files.files[0]), [(100, 100)]
else:
    photograph, places = draw_cloth(np.random.default_rng(5), holes=1)
    photograph = torch.from_numpy(photograph).permute(2, 0, 1)
view = downsample(photograph[None], low_size(photograph.shape[1:], SCALE))[0]
figure = plt.figure(figsize=(7, 3.0))
grid = figure.add_gridspec(3, 8)
plots.show_image(
    figure.add_subplot(grid[:, :3]),
    photograph,
    "the image, " + " × ".join(map(str, photograph.shape[1:])),
)
plots.show_image(
    figure.add_subplot(grid[:, 3:6]), view, "the view, " + " × ".join(map(str, view.shape[1:]))
)
for k, (row, column) in enumerate(np.round(places[:6]).astype(int)):
    ax = figure.add_subplot(grid[k % 3, 6 + k // 3])
    top, left = max(0, row - PATCH // 2), max(0, column - PATCH // 2)
    plots.show_image(ax, photograph[:, top : top + PATCH, left : left + PATCH])
plt.show()

# %% [markdown]
# What to see: in the view the specks are darker pixels, and the hole can hardly be told from lint. In the patches it can. If the view already gives the answer away, an ordinary network on
# small images will do; if nothing can be seen in the view, attention has nothing to go by, and the scale has to be larger or the model [nested](14_gigapixel.ipynb).
#
# ## Numbers to choose

# %% tags=["hide-input"]
Markdown(f"""
| number | how to choose it | here |
|---|---|---|
| `scale` | so that what matters is at least about one pixel of the view | {THING} pixels × {SCALE:g} = {THING * SCALE:g} |
| `patch_size` | what matters, plus the distance of neighbouring locations (the attention network's stride over the scale), plus a margin | {THING} + {STRIDE / SCALE:g} + {PATCH - THING - STRIDE / SCALE:g} = {PATCH} |
| `n_patches` | one or two for each thing worth a look in an image; can be changed after training | {N_PATCHES} for {THINGS} |
| `entropy_weight` | 0.01, with which fewer [images of tissue](09_colon_cancer.ipynb#without-the-reward-for-entropy) were missed than with none; more if attention collapses early ([chapter 11](11_ablation_entropy.ipynb)) | {ENTROPY_WEIGHT:g} |
| classifier's `scale` | 16 if features have unit length: a linear layer learns slowly from small inputs | {FEATURE_SCALE} |
| `fill` | what a patch that reaches over the border finds there: something that is no thing, the brightness of the ground | {FILL} of 255 |
""")

# %% [markdown]
# And a choice that is no number, the estimator. The default, `"systematic"`, draws along a curve through the map and gives each bright spot its share of the patches; it had the lowest mean error of those compared in [chapter 8](08_megapixel_mnist.ipynb), in small runs that do not settle it. `"des_raj"`, the paper's draws without replacement with the right gradient, also tells the standard error of what it estimates. [Chapter 5](05_lower_variance.ipynb) has a table of when to choose which.
#
# ## Networks
#
# Any network will do for the features, as long as it makes one vector of each patch. (Why not leave `fill` at its default, black? A dark
# bar in a patch is nothing that lint has, and a feature network may take it for a hole.) The network of the attention must know where each of its outputs looks:
# `AttentionNetwork` works it out from the layers. It should be small, and look at little more than a patch's worth of the view.


# %%
def build_model(prior=True):
    attention = AttentionNetwork(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    if prior:
        attention = SaliencyPrior(attention, epsilon=1e-3, saliency=local_contrast, power=4)
    features = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), UnitNorm()),
    )
    classifier = Classifier(32, len(train_set.classes), scale=FEATURE_SCALE)
    return AttentionSampling(
        attention,
        features,
        classifier,
        patch_size=PATCH,
        n_patches=N_PATCHES,
        scale=SCALE,
        fill=FILL,
    )


torch.manual_seed(0)
model = build_model()

# %% [markdown]
# A feature network that was trained before may stay as it is, at first or for good: `model.features.requires_grad_(False)`, then `model.train()`, then `model.features.eval()`, in this order, before `train`, which leaves in evaluation mode
# what is in it. Without the last, batch normalisation would go on adapting its mean and variance. To train it later, call `train` a second time, with another file for the checkpoint, after `requires_grad_(True)` and `model.train()`; more slowly than the rest, with an `optimiser` of two groups of parameters.
#
# :::{dropdown} A feature network from elsewhere
# A network that was trained on ImageNet, say, expects pixels that are normalised as its own were; the model gives it numbers from 0 to 1. So the normalisation is the first layer, the last, which answers with ImageNet's classes, is taken away, and
# features get length 1. (It takes `pip install torchvision`, and is not run here.)
#
# ```python
# from torchvision.models import ResNet18_Weights, resnet18
# from torchvision.transforms import Normalize
#
# pretrained = resnet18(weights=ResNet18_Weights.DEFAULT)  # 512 features of patches of 32 pixels and more
# pretrained.fc = nn.Identity()
# means, deviations = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels, by channel
# features = nn.Sequential(Normalize(means, deviations), pretrained, UnitNorm())
# classifier = Classifier(512, len(train_set.classes), scale=FEATURE_SCALE)
# model = AttentionSampling(
#     build_model().attention,
#     features,
#     classifier,
#     patch_size=PATCH,
#     n_patches=N_PATCHES,
#     scale=SCALE,
#     fill=FILL,
# )
#
# model.features.requires_grad_(False)  # first the attention and the classifier
# model.train()
# model.features.eval()
# train(model, train_set, test_set, Settings(epochs=10), checkpoint="first.pt")
#
# model.features.requires_grad_(True)  # then all, the features slowly
# model.train()
# groups = lambda model: torch.optim.AdamW(
#     [
#         dict(params=model.features.parameters(), lr=1e-5),
#         dict(params=[*model.attention.parameters(), *model.classifier.parameters()], lr=1e-3),
#     ]
# )
# train(model, train_set, test_set, Settings(epochs=10), checkpoint="second.pt", optimiser=groups)
# ```
# :::
#
# The wrapper is a *prior*: what is worth a first look ([chapter 7](07_entropy_and_exploration.ipynb)). `local_contrast` says, a place that differs from its surroundings, which is true of many problems. If you know better what to look for, a
# colour, say, write that instead; it is a function of the view ([chapter 10](10_speed_limits.ipynb) has one for red). Its power $p$ says how firmly it is held: an untrained model draws a place in proportion to
# $(\epsilon + s)^p$, with $s$ the saliency there. Cloth has a texture, which has some contrast everywhere, and the fourth power keeps thousands of weak places from outvoting five strong ones. The price is that what this saliency misses is hardly ever
# drawn: the next output has the number.
#
# Where the untrained model looks, on the test image loaded above:

# %% mystnb={"image": {"alt": "Left, a test image with the outlines of eight patches drawn by the untrained model, most around dark specks. Right, the attention map: dark, with a bright spot at each speck."}}


def look(model, image, seed=0):
    """The image with the patches drawn, and the attention map; returns the output."""
    model.eval()
    image = image.to(next(model.parameters()).device)
    with torch.no_grad():
        out = model(
            image[None],
            return_patches=True,
            generator=torch.Generator(image.device).manual_seed(seed),
        )
    _, (left, right) = plt.subplots(1, 2, figsize=(7, 3.6))
    plots.show_image(left, image, f"{out.index.shape[1]} patches")
    plots.outline_patches(
        left,
        model.geometry(image[None], out),
        out.index[0],
    )
    plots.show_attention(right, out.log_attention[0], "attention (square root)")
    plt.show()
    return out


before = look(model, image)

# %% tags=["hide-input"]
locations = before.log_attention[0].numel()
spread = before.entropy().exp().item()
Markdown(
    f"The map has {locations:,} locations. The entropy of the attention, {before.entropy().item():.2f} nats, is that of {spread:.0f} equally likely ones: "
    f"the prior has left {spread / locations:.1%} of the image to explore. Between the most salient place and a place of middling saliency lie "
    f"{(before.log_attention[0].max() - before.log_attention[0].median()).item():.0f} nats. Gradient descent will hardly make that up for a thing that it is never shown; "
    f"{N_PATCHES} draws find any one place of middling saliency once in {1 / (N_PATCHES * before.log_attention[0].median().exp().item()):,.0f} looks."
)

# %% [markdown]
# ### Where not to look
#
# Some places are salient and of no interest: a scale bar, a date burnt into the photograph, the glass around tissue, the colour that
# fills up images of different sizes. `MaskedAttention` forbids them. Its mask is a function of the view, as a saliency is; a place
# that it forbids has no attention and is never drawn, before training and after. Here a scale bar is drawn into the image, in a
# colour that cloth has not:

# %%
labelled = image.clone()
labelled[:, 20:32, -140:-20] = torch.tensor([20, 60, 200], dtype=torch.uint8)[:, None, None]


def no_label(view):
    """Where blue does not outweigh red."""
    return view[:, 2:] < view[:, :1] + 0.2


view = model.view(labelled[None])
bar = ~no_label(view)[0, 0]
masked = MaskedAttention(model.attention, no_label, share=0.9)
for name, network in (("without", model.attention), ("with", masked)):
    attention = network(view).flatten(1).softmax(1).view(bar.shape)
    print(f"{name} a mask: {attention[bar].sum().item():.2f} of the attention on the bar")

# %% [markdown]
# Every location whose receptive field has a tenth or more of its pixels in the bar's colour is left out. In `build_model` the mask would be the last wrapper around the network. (Estimators that draw distinct locations, `"des_raj"`, say, need as many allowed ones as patches: a scrap of tissue may have fewer. The default takes any.) What attention is not allowed to see the model cannot learn from,
# neither the shortcut that lies there nor a thing that does.
#
# ## Train
#
# `train` does what one expects: Adam, shuffled batches, the entropy in the loss, clipped gradients, a test after each epoch. With `checkpoint="file"` it can be stopped at any time
# and goes on from there. `device="cuda"` trains on a GPU and leaves the model there; `model.cpu()` brings it back. `augment=Augmentation(shift=20)` (of `atslib.data`) changes light and place of each image anew in each epoch. With 95 images of one class for 5 of another, say `Settings(balanced=True)`, which shows both equally often, or `Settings(class_weights=train_set.class_weights().tolist())`; `evaluate` gives the table of true and answered classes as `result["confusion"]`. `optimiser=` takes another than Adam: `lambda model: torch.optim.AdamW(model.parameters(), weight_decay=0.01)`; how the learning rate goes on is for `Settings` to say, with `schedule` and `warmup`. `workers=4` reads files in processes of their own; where Python
# starts these afresh (macOS, Windows, Linux from Python 3.14), they cannot see what was written in a notebook: a `read=` of your own has to move into a `.py` file. This set is small enough to be read into memory once; leave `InMemory` out for a large one.

# %%
settings = Settings(
    epochs=10,
    batch_size=16,
    learning_rate=3e-3,
    schedule="cosine",
    entropy_weight=ENTROPY_WEIGHT,
)
train_images, test_images = InMemory(train_set), InMemory(test_set)
curve = train(model, train_images, test_images, settings, progress=False)

# %% mystnb={"image": {"alt": "Left, training and test loss against epochs, above the level of guessing at first, then falling below it. Middle, training and test error, the same, the test error in jumps. Right, the entropy of the attention, nearly level, far below that of uniform attention."}}
epochs = [entry["epoch"] for entry in curve]
figure, axes = plt.subplots(1, 3, figsize=(7, 2.8))
# guessing by them, and always the largest class
shares = test_images.class_counts() / len(test_images)
guessing = dict(loss=torch.special.entr(shares).sum().item(), error=1 - shares.max().item())
for ax, (what, guess) in zip(axes, guessing.items(), strict=False):
    for part, style in (("train", "o-"), ("test", "s--")):
        ax.plot(epochs, [entry[f"{part}_{what}"] for entry in curve], style, label=part)
    ax.axhline(guess, color=plots.GREY, linestyle=":", linewidth=1)
    ax.set(xlabel="epoch", ylabel=f"{what} (nats)" if what == "loss" else what, ylim=(0, None))
axes[0].legend()
axes[2].plot(epochs, [entry["entropy"] for entry in curve], "o-", color=plots.GREEN)
axes[2].axhline(math.log(locations), color=plots.GREY, linestyle=":", linewidth=1)
axes[2].set(xlabel="epoch", ylabel="entropy (nats)", ylim=(0, None))
plt.show()

# %% [markdown]
# What to see: loss and error fall below the dotted line of guessing, those of the training set steadily, those of the small test set in jumps; how soon differs from problem to problem, and an error that stays at the line for some epochs need not be the end ([chapter 8](08_megapixel_mnist.ipynb) has long plateaus). Right, the entropy of the attention, with uniform attention dotted. A fall to zero within an epoch or two would be a warning: attention
# has settled before the features could tell it where. Entropy that stays at the dotted line would be a second one: attention has found nothing.

# %% tags=["hide-input"]
result = evaluate(model, test_images, progress=False)
Markdown(f"Test error: **{result['error']:.2f} ± {result['stderr']:.2f}** on {result['n']} images; guessing has {guessing['error']:.2f}.")

# %% [markdown]
# :::{dropdown} The best epoch, and no more epochs than it takes
# The last epoch need not be the best. Which one is best is for other images to say than those of the test, or the test's error is too low: `split` sets some of the training images aside. What `on_epoch` is told after
# each epoch says when to keep a copy of the weights, and when to stop. With few images of a class, choose by `test_balanced_error`, which is there with `balanced` or `class_weights`: the loss may be least for a model
# that always answers the larger class. The weights go into a file, and the best loss so far is read from the checkpoint, so that a run that was stopped goes on with both. (Not run here. A learning rate that falls over the epochs asked for, as with `schedule="cosine"`, does not go with an end that comes sooner.)
#
# ```python
# from atslib.checkpoints import read_position
# from atslib.training import StopTraining
#
# fit, choose = train_set.split(0.2)
# run = Path("run.pt")
# before = read_position(run)["curve"] if run.exists() else []
# best = dict(min(before, key=lambda entry: entry["test_loss"], default=dict(test_loss=math.inf)))
#
# def keep_best(entry):
#     if entry["test_loss"] < best["test_loss"]:
#         best.update(entry)
#         torch.save(model.state_dict(), "best.pt")
#     elif entry["epoch"] >= best["epoch"] + 5:
#         raise StopTraining
#
# train(model, fit, choose, Settings(epochs=100), checkpoint=run, on_epoch=keep_best)
# model.load_state_dict(torch.load("best.pt"))
# ```
# :::
#
# ### A loop of your own
#
# Nothing of this needs `train` ([other losses](#labels-that-are-no-classes) do not, either). A model is called with images and returns its logits and its attention; `attention_loss` is the paper's loss (paper 21). One step, on a copy ([chapter 16](16_recipes.ipynb#a-loop-of-your-own-whole) has a whole loop):

# %%
copied = build_model()
copied.load_state_dict(model.state_dict())
optimiser = torch.optim.Adam(copied.parameters(), lr=1e-3)
images, labels = torch.stack([train_images[k][0] for k in range(8)]), train_images.labels[:8]

out = copied.train()(images)
loss, cross_entropy = attention_loss(out, labels, ENTROPY_WEIGHT)
optimiser.zero_grad()
loss.backward()
optimiser.step()

# %% [markdown]
# ## Look again
#
# The same image as above, after training, with the same random numbers. In the cloth drawn here the patches and the map have hardly changed: the prior had found the specks, and which of them matters
# can hardly be seen in the view. What has been learned is in the features. (To see the map on the image itself: `plots.overlay_attention(ax, image, geometry, out.log_attention[0])`, with the geometry from `look`; the image may be a smaller view of the whole, or an `ImagePyramid`. `model.top_left(image[None], out)` has the corners of the patches; [chapter 16](16_recipes.ipynb#for-other-programs) writes both to files.)

# %% mystnb={"image": {"alt": "Left, the test image with eight patches around the specks. Right, the attention map with bright spots at the specks and little elsewhere."}}
after = look(model, image)

# %% [markdown]
# ### Which patch decides?
#
# Systematic draws have equal weights, and the classifier is linear. The answer is then the mean of what it would say about each patch by itself (with other estimators the mean with `model.estimator.weights(out.log_attention, out.index)`), and each
# patch can be asked how much it speaks for one class, here the last, *torn*, against the others:

# %% mystnb={"image": {"alt": "The eight patches, sorted by their score for torn cloth; that or those with the ring come first, with a higher score than the dots."}}
with torch.no_grad():
    # (N, classes), of each patch alone
    logits = model.classifier(model.features(after.patches[0] / 255))
scores = logits[:, -1] - logits[:, :-1].mean(1)
assert torch.allclose(logits.mean(0), after.logits[0], atol=1e-4)
order = scores.argsort(descending=True)
plots.show_patches(
    after.patches[0][order], [f"{score:+.1f}" for score in scores[order]], columns=4
)
plt.show()

# %% [markdown]
# What to see: the hole, if it was drawn, comes first. Nobody has ever told the model where it is, only that the whole image is torn. The assertion in the cell checks that the mean of the
# patches' logits is the model's answer.
#
# ### Does it need its attention, the prior, more patches?
#
# Questions that cost no training, for they exchange only where the trained features look. *Uniform* draws: if the error is as low, attention is not needed (a high one does not show that it is: these features have been trained on what attention chose; for that, train a `UniformSampling` of its own). *The prior alone*, the trained attention network silenced: if that is as good, the prior does the looking and nothing was
# learned about where. The same model with other $N$: if the error still falls, it is the luck of the draw that is left, and more patches buy it off. And one question that costs a second training: what if there had been *no prior*?

# %%
uniform = UniformSampling(
    model.features,
    model.classifier,
    patch_size=PATCH,
    n_patches=N_PATCHES,
    scale=SCALE,
    fill=FILL,
    like=model.attention,
)
prior_alone = build_model()
prior_alone.load_state_dict(model.state_dict())
for parameter in prior_alone.attention.network.parameters():
    nn.init.zeros_(parameter)
torch.manual_seed(0)
without_prior = build_model(prior=False)
train(without_prior, train_images, None, settings, progress=False)

rows = [
    ("uniform", uniform, N_PATCHES),
    ("the prior alone", prior_alone, N_PATCHES),
    ("trained without the prior", without_prior, N_PATCHES),
]
rows += [
    ("the model", model, n)
    for n in sorted({1, N_PATCHES // 4, N_PATCHES // 2, N_PATCHES, 2 * N_PATCHES} - {0})
]
measured = [
    (name, n, evaluate(network, test_images, progress=False, n_patches=n))
    for name, network, n in rows
]
plots.table(
    ["where the patches come from", "N", "test error"],
    [[name, n, f"{m['error']:.2f} ± {m['stderr']:.2f}"] for name, n, m in measured],
)

# %% tags=["hide-input"]
wrong = {(name, n): m["predicted"] != m["labels"] for name, n, m in measured}
full = wrong["the model", N_PATCHES]


def against(name):
    """Of how many images the other answer is right where the model's is wrong, and the other way round; and whether that is chance."""
    other = wrong[name, N_PATCHES]
    p = sign_test(full.nonzero()[:, 0].tolist(), other.nonzero()[:, 0].tolist())
    return (
        f"{(other & ~full).sum()} wrong that the model gets right, {(full & ~other).sum()} the other way round "
        f"(sign test, p {'below 0.001' if p < 0.001 else f'= {p:.2g}'})"
    )


Markdown(
    f"Of the {len(full)} test images, uniform draws get {against('uniform')}. The prior alone gets {against('the prior alone')}"
    + (": where to look was the prior's doing, and training has added next to nothing to it. " if (wrong["the prior alone", N_PATCHES] != full).double().mean() < 0.05 else ". ")
    + f"The model trained without it gets {against('trained without the prior')}. One run each; [chapter 8](08_megapixel_mnist.ipynb) has such comparisons with several seeds."
)

# %% [markdown]
# ## Labels that are no classes
#
# How many of the specks are holes? Give `train` and `evaluate` a `loss` of logits and labels, and an `error` to be reported; both return one number for each image. Labels then
# may be numbers or arrays, and `any_label=True` lets `ImageFiles` have such and `InMemory` keep them. (For several yes-or-no labels an image, the loss is
# `F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").mean(1)`.)
#
# The network trained above tells a hole from lint already. If its attention is even over the specks, the mean of its features over the patches goes in proportion to the number of
# holes, and all that is missing is a last layer with one output. So it starts from those weights. The images are new: drawn cloth with none to five holes.


# %%
def draw_counted(count, seed):
    rng = np.random.default_rng(seed)
    pixels = (draw_cloth(rng, k % (THINGS + 1), size=(384, 384))[0] for k in range(count))
    return InMemory(
        [
            (torch.from_numpy(image).movedim(2, 0), float(k % (THINGS + 1)))
            for k, image in enumerate(pixels)
        ],
        any_label=True,
    )


def squared(logits, labels):
    return (logits[:, 0] - labels) ** 2


def distance(logits, labels):
    return (logits[:, 0] - labels).abs()


counted = {}
if not own:  # the network has to know cloth
    torch.manual_seed(1)
    counter = build_model()
    counter.load_state_dict(model.state_dict())
    counter.classifier = Classifier(32, 1, scale=FEATURE_SCALE)
    count_train, count_test = draw_counted(n_train // 2, seed=2), draw_counted(n_test, seed=3)
    short = Settings(
        epochs=8,
        batch_size=16,
        learning_rate=3e-3,
        schedule="cosine",
        entropy_weight=ENTROPY_WEIGHT,
    )
    train(counter, count_train, None, short, loss=squared, error=distance, progress=False)
    counted = {
        n: evaluate(
            counter, count_test, loss=squared, error=distance, n_patches=n, progress=False
        )
        for n in (N_PATCHES, 4 * N_PATCHES)
    }

# %% mystnb={"image": {"alt": "Number of holes that the network says, against the true number from none to five: dots for test images with eight patches, scattered about the diagonal, which is dotted."}}
if counted:
    truth, said = count_test.labels.numpy(), counted[N_PATCHES]["logits"][:, 0].numpy()
    figure, ax = plt.subplots(figsize=(4.2, 3.6))
    ax.plot(
        truth + np.random.default_rng(0).uniform(-0.15, 0.15, len(truth)),
        said,
        "o",
        ms=3,
        alpha=0.6,
        color=plots.BLUE,
    )
    ax.plot([0, THINGS], [0, THINGS], ":", color=plots.GREY)
    ax.set(
        xlabel="holes in the image (spread a little)",
        ylabel="holes, says the network",
        xticks=range(THINGS + 1),
    )
    plt.show()

# %% [markdown]
# Each dot is a test image, counted right if it lies on the dotted line. The dots of one number scatter, since each image shows the network eight patches, not all of its five specks equally often.

# %% tags=["hide-input"]
text = "Skipped: this section knows drawn cloth only."
if counted:
    constant = np.abs(truth - truth.mean()).mean()
    few, many = counted.values()
    text = f"On {few['n']} test images, {N_PATCHES} patches miss the number of holes by **{few['error']:.2f} ± {few['stderr']:.2f}** on average, {4 * N_PATCHES} patches by {many['error']:.2f} ± {many['stderr']:.2f}; to answer {truth.mean():.2g} each time, by {constant:.2f}. " + (
        f"What is left with {N_PATCHES} is partly the luck of the draw: with so few, some of the {THINGS} specks are seen twice and others not at all."
        if many["error"] < few["error"] - few["stderr"]
        else f"More patches do not help much here: the {THINGS} specks are all seen, and what is left is that attention is not quite even over them, or that a hole is taken for lint."
    )
Markdown(text)

# %% [markdown]
# ## Keep it, and use it
#
# `save_weights` writes the weights as `safetensors`, and `load_weights` puts them into a model; $N$, scale, fill and estimator are not among them and come from the code that builds the model: weights fit a model of another scale without complaint, and answer worse. It also reads a checkpoint that `train(checkpoint=…)` has written. `torch.export` takes the
# attention network, the features and the classifier, each by itself; the draw between them stays in Python.

# %%
# a folder that is deleted below: choose a lasting one
file = Path(temporary.name) / "cloth.safetensors"
save_weights(file, model)
again = build_model()
load_weights(file, again)
again.eval()
with torch.no_grad():
    answers = [
        m.eval()(image[None], generator=torch.Generator().manual_seed(0)).logits
        for m in (model, again)
    ]
print("the same answer with the same draws:", torch.equal(*answers))  # NBVAL_CHECK_OUTPUT

# %% [markdown]
# A new image need not be padded, for it comes alone. Each answer is that of one draw, and another draw may say something else. Ask several times: the mean is a better answer, and the range tells how much luck there was in one. View and
# attention are computed once an image, so that ten looks at 8 patches cost about as much as one at 80. `predict` takes any number of images without labels, of any sizes, and gives for each the answer of all looks together (the mean of their logits) and how much they differ (`spread`); what it draws for an image depends on its place in the list and the seed, not on the other images. Where the outputs are no classes, say how they are to be read: `answer=torch.sigmoid` for several labels an image; a single output is the number itself. `answers` and `spread` then are in these terms. With `exact=True`, `predict` and `evaluate` ask the full model, which looks everywhere.
#
# Of thousands of files one may be damaged. `predict(again, files, skip_unreadable=True)` goes on after it, warns at the end, and has its number and the reason in `found.unread`; its logits are NaN, its class is −1.
#
# :::{dropdown} Where an answer comes from, and looks without luck
# `predict` keeps answers only. Its draws for image `k` are made again with the same seed, look by look; in evaluation mode and on the model's device:
#
# ```python
# from atslib.loading import seed_for
#
# draws = torch.Generator().manual_seed(seed_for("draws", 0, k))  # 0 is predict's own seed
# with torch.no_grad():
#     out = again.eval()(image[None], generator=draws)  # the first look; once more for the second
# corners = again.top_left(image[None], out)  # of its patches, row and column in the image
# ```
#
# To look always at the $n$ likeliest places, whatever is elsewhere, set an estimator of your own. It is biased, for it never sees the rest; its weights share the attention out among the places that it takes.
#
# ```python
# from atslib.estimators import Estimator
#
# class Likeliest(Estimator):
#     biased = distinct = True
#
#     def _sample(self, flat, log_attention, n, generator):
#         return flat.topk(n, dim=1).indices
#
#     def weights(self, log_attention, index):
#         return log_attention.flatten(1).gather(1, index).softmax(1)
#
# again.estimator = Likeliest()
# ```
# :::

# %%
new = test_files.files  # paths; tensors (3, h, w) and data sets will do as well
found = predict(again, new, looks=10, progress=False)
closer = predict(again, new, n_patches=32, progress=False)
# the same images as the tables above have them
padded = predict(again, test_set, looks=10, progress=False)

# %% tags=["hide-input"]
truth = torch.as_tensor(test_files.labels)
each_look = (found.looks.argmax(2) != truth[:, None]).double().mean(0)  # (looks,)
errors = {"one look (the ten: lowest … highest)": f"{each_look.mean():.3f} ({each_look.min():.2f} … {each_look.max():.2f})"}
errors |= {f"{name}": f"{(p.predicted != truth).double().mean():.3f}" for name, p in (("the ten looks together", found), ("one look, N = 32", closer))}
of_padded = (padded.looks.argmax(2) != truth[:, None]).double().mean(0)
# of each image, how many of its ten looks are wrong, padded and not
missed_padded, missed = ((p.looks.argmax(2) != truth[:, None]).sum(1) for p in (padded, found))
more, fewer = int((missed_padded > missed).sum()), int((missed_padded < missed).sum())
errors |= {"one look, image padded as above": f"{of_padded.mean():.3f} ({of_padded.min():.2f} … {of_padded.max():.2f})"}
display(plots.table([f"{len(new)} images", "error"], list(errors.items())))
doubtful = int(found.spread.amax(1).argmax())  # the image on which the looks differ most
looks = found.looks[doubtful].softmax(1)  # (looks, classes)
display(
    plots.table(
        [f"image {doubtful}: {train_set.classes[int(truth[doubtful])]}", "ten looks together", "one look: lowest … highest", "one look, N = 32"],
        [
            [name, f"{together:.2f}", f"{p.min():.2f} … {p.max():.2f}", f"{q:.2f}"]
            for name, together, p, q in zip(train_set.classes, found.probabilities[doubtful], looks.T, closer.probabilities[doubtful], strict=True)
        ],
    )
)
right_or_wrong = lambda p: "right" if p.predicted[doubtful] == truth[doubtful] else "wrong"
Markdown(
    "What to see: above, the error of all images whose labels we happen to know; below, the probabilities of the image on which the looks differ most: "
    f"{int((looks.argmax(1) == truth[doubtful]).sum())} of its ten looks are right, the ten together are {right_or_wrong(found)}, the look with 32 patches is {right_or_wrong(closer)}. "
    "A large `spread` marks such images: have them looked at again, or by somebody."
    + (
        f" One look is better here than with padded images (last line), which the tables above are of: there the mean over ten looks is {of_padded.mean():.3f}, here {each_look.mean():.3f}. "
        f"Of the same {len(truth)} images {more} are missed by more looks when padded, {fewer} by fewer (sign test p = {sign_test(missed_padded > missed, missed_padded < missed):.2g}). "
        "The likely reason, not tested, is that in a padded image mirrored things near the border take some of the patches."
        if each_look.mean() < of_padded.mean()
        else ""
    )
)

# %% [markdown]
# ## Files too large to be read
#
# Whole slides, satellite images and the like come in files that hold the image in tiles, and beside it coarser copies of itself: a *pyramid*. `ImagePyramid.open` reads
# such files, tiled TIFF and its relatives (SVS, OME-TIFF, …), zarr, and what OpenSlide knows, and goes into models, `extract_patches`, `downsample` and `train` as an image tensor does. The view is then made from the coarsest copy that is fine enough, and of
# the image itself only the tiles are read that a patch touches. (`pip install 'atslib[slides]'` brings what it needs.)
#
# We have no slide here, so a large cloth is drawn, a hundred times the size of those above, with five hundred specks, twenty of them holes. The file is written as a scanner would do.

# %%
if own_large:
    large, holes, specks = Path(own_large), 0, []
else:
    large, holes, side = Path(temporary.name) / "bolt.tif", 20, 4096
    pixels, specks = draw_cloth(np.random.default_rng(2), holes, specks=500, size=(side, side))
    whole = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    with tifffile.TiffWriter(large) as writer:
        options = dict(
            tile=(256, 256),
            photometric="rgb",
            compression="jpeg",
            compressionargs=dict(level=95),
        )
        writer.write(pixels, subifds=3, **options)
        for level in (2, 4, 8):
            coarse = (255 * downsample(whole, side // level)[0]).round().byte()
            writer.write(coarse.permute(1, 2, 0).numpy(), subfiletype=1, **options)
pyramid = ImagePyramid.open(large)
in_memory = math.prod(pyramid.shape) * pyramid.dtype.itemsize
print(
    f"{large.stat().st_size / 1e6:.0f} MB on disk, {in_memory / 1e6:.0f} MB of pixels; levels "
    + ", ".join(f"{level.shape[0]} × {level.shape[1]}" for level in pyramid.levels)
)

# %% [markdown]
# The model that was trained on single images looks at the large one, with as many patches for its area as before. The same is then asked of a tensor of all pixels. It is given the view that the first has made, since a mean over all
# pixels differs from the file's coarse copy by rounding and by what the compression did.

# %%
n = round(N_PATCHES * math.prod(pyramid.shape[2:]) / math.prod(test_set.size))
with torch.no_grad():
    started = time.perf_counter()
    out = again(
        pyramid, n_patches=n, return_patches=True, generator=torch.Generator().manual_seed(0)
    )
    from_file = time.perf_counter() - started
    view = again.view(pyramid)
    from_tensor = None
    if in_memory < 1e9:  # a larger file is better left where it is
        # all of it, as one patch
        tensor = extract_patches(
            pyramid, torch.zeros(1, 1, 2, dtype=torch.long), pyramid.shape[2:]
        )[:, 0]
        started = time.perf_counter()
        of_tensor = again(tensor, view, n_patches=n, generator=torch.Generator().manual_seed(0))
        from_tensor = time.perf_counter() - started
        print(
            "the same places, and the same answer:",
            torch.equal(out.index, of_tensor.index),
            torch.allclose(out.logits, of_tensor.logits, atol=1e-4),
        )
        # NBVAL_CHECK_OUTPUT
corners = again.geometry(pyramid, view, out.log_attention).top_left(out.index)[0]  # (N, 2)
distinct = len(corners.unique(dim=0))

# %% tags=["hide-input"]
share = distinct * PATCH**2 / math.prod(pyramid.shape[2:])
Markdown(
    f"Looked at in full resolution: {distinct} different places, at most {share:.1%} of the pixels. That took {from_file:.2f} s from the file"
    + (f" and {from_tensor:.2f} s from a tensor with the view at hand" if from_tensor else "")
    + (f", so that {1000 * (from_file - from_tensor) / distinct:.1f} ms a place went into fetching. " if from_tensor and from_file > from_tensor else ". ")
    + "A pyramid is for images that do not fit into memory, or of which little is looked at; one that fits, and is looked at in many places, is better read once."
)

# %% [markdown]
# Which of the places speak most for the last class, here *torn*? Each patch is asked by itself, as above.

# %% mystnb={"image": {"alt": "Left, the attention over the large cloth, hundreds of bright dots; orange circles mark the holes. Right, the sixteen different places with the highest score for torn: rings of frayed thread."}}
with torch.no_grad():
    logits = again.classifier(again.features(out.patches[0] / 255))
scores = logits[:, -1] - logits[:, :-1].mean(1)
best = {}
for k in scores.argsort(descending=True).tolist():  # the best first; of those that overlap, one
    if all((corners[k] - corners[other]).abs().max() > PATCH // 2 for other in best.values()):
        best[len(best)] = k
    if len(best) == 16:
        break
figure = plt.figure(figsize=(7, 3.8))
left, right = figure.subfigures(1, 2)
ax = left.subplots()
plots.show_attention(ax, out.log_attention[0], "attention (square root)")
for row, column in specks[:holes]:
    ax.plot(column * SCALE, row * SCALE, "o", mfc="none", mec=plots.ORANGE, ms=9)
for ax, k in zip(right.subplots(4, 4).flat, best.values(), strict=False):
    plots.show_image(ax, out.patches[0, k], f"{scores[k]:+.1f}")
plt.show()

# %% tags=["hide-input"]
if holes and not own:
    shown = (corners[:, None] + PATCH / 2 - torch.tensor(np.array(specks))).abs().amax(2) < PATCH / 2 - 6  # (N, specks): wholly in the patch
    looked_at = shown.any(0)
    mean_score = (scores[:, None] * shown).sum(0) / shown.sum(0)  # of each speck
    found, alarms = ((mean_score > 0) & looked_at)[:holes].sum(), ((mean_score > 0) & looked_at)[holes:].sum()
    text = (
        f"What to see: circles mark the holes, which the map does not tell from lint; the patches do. Of the {holes} holes {looked_at[:holes].sum()} were looked at, and {found} of these have a mean score above zero; of the {len(specks) - holes} specks of lint "
        f"{looked_at[holes:].sum()} were looked at, and {alarms} have. The model has been told of no place in any image. The large image's one answer, the mean over all patches, speaks {'for' if out.logits[0].argmax() == len(train_set.classes) - 1 else 'against'} *torn*: "
        "how large a part of the specks is torn is not what the model was trained on. To find things in an image far larger than those it knows, ask its patches."
    )
else:
    text = "Of an image of your own only you know what should stand out."
Markdown(text)

# %% [markdown]
# To *train* on such files, let the items of a set be `(ImagePyramid.open(file), label)`, and where sizes differ, let a step see one image at a time, `Settings(batch_size=16, micro_batch_size=1)`: it adds up their gradients. Nothing is read before it is looked at, and so `augment`, which changes whole images, is refused for them. A loop of your own puts several of one size together with `atslib.patches.ImageBatch`; a `DataLoader` of your own does so with `collate_fn=atslib.loading.collate`.
#
# `ImageFiles(files, labels, read=ImagePyramid.open)` is such a set, and so is `ImageFiles.from_folder(folder, read=ImagePyramid.open, suffixes=[".svs", ".tiff"])`. Where a file's coarsest level is much larger than the view, making the view anew in each epoch takes most of the time: `read=functools.partial(ImagePyramid.open, cache="views")` keeps views in a folder. Slides that were scanned at 40× and at 20× are brought to one scale with `finest=`, the number of the level to begin with: the one, often, at which those of 40× have half their size; `print(pyramid)` has the sizes.
#
# An array of any kind (NumPy, a memory map, HDF5, zarr) becomes a pyramid with `ImagePyramid([array, coarser, …])`; one of HDF5 cannot be sent from a worker, so that its set is read with `workers=0`. Whether bands come first or last has to be said where the shape does not (`channels_first=True`). Pixels of more than eight bits need to be told what is white: `ImagePyramid.open(file, white=4095)` reads them as 0 to 1, whatever the number of channels; the first layers of `build_model` then take that number of channels in place of 3. A slide of a few gigapixels makes the view itself large: [the next level of attention](14_gigapixel.ipynb) takes pyramids, too.

# %%
temporary.cleanup()

# %% [markdown]
# ## When it does not learn
#
# Look first: at the view, at the attention map, at the patches. Then:
#
# | what you see | what it means | what helps |
# |---|---|---|
# | loss at the level of guessing, entropy near $\log K$ | attention has found nothing; hardly a patch shows anything | a prior; a larger $N$ at first (a training of its own: set `model.n_patches`, and go on from its weights with another checkpoint); windows around what matters, if you know where it is ([chapter 10](10_speed_limits.ipynb)) |
# | loss at the level of guessing, patches show the right things | the features have not got there | normalise features over the batch, scale 16 before the classifier, more epochs; train the features alone on patches |
# | loss at the level of guessing, patches show the same wrong things again and again | the prior hides what matters | another saliency; a smaller power, a larger $\epsilon$ |
# | entropy falls to nearly zero, error stays high | attention settled too early on something wrong | more entropy weight, a lower learning rate ([chapter 7](07_entropy_and_exploration.ipynb)) |
# | patches sit on a scale bar, a date, the rim of the slide | these are salient, or betray the answer | a mask (`MaskedAttention`) |
# | training error low, test error high | too few images; or the answer was learned from the background | `augment`; ask what the model says where it has *not* seen the thing ([chapter 10](10_speed_limits.ipynb)) |
# | error falls with $N$ at test time | the luck of the draw | more patches at test time; another estimator ([chapter 5](05_lower_variance.ipynb)) |
# | a patch at the border decides | what lies outside the image looks like something | another `fill`; padding without an edge |
# | loss and gradients jump from step to step | variance of the estimator | larger batches, more patches, features of unit length ([chapter 2](02_variance_optimality.ipynb)) |
# | out of memory | patches of the whole batch are held for the backward pass | `Settings(micro_batch_size=4)`: a step sees four images at a time, with the same result (but for batch normalisation); or a smaller $N$ ([chapter 13](13_cost.ipynb)) |
# | out of memory before the first step | the image itself is too large | `ImagePyramid` (above); `low=` if a view is at hand |
#
# ## Summary
#
# - Attention sampling fits where a small view shows that there is something and a small patch tells what. Look at both before training.
# - Scale, patch and $N$ follow from the size and number of the things that matter.
# - A prior for what is worth a first look can spare the model a long plateau; it is one function of the view.
# - Of an image in a tiled file only the places are read that are looked at.
# - Classes are the default, not a must: with a `loss` of your own `train` learns several labels an image, or a number.
# - Afterwards, patches can be asked which of them decides, and uniform draws, the prior alone and other $N$ tell what attention and sampling are worth, the first in one direction only.
#
# ## Exercises
#
# :::{exercise}
# :label: ex-15-prior
# `SaliencyPrior` without `saliency=` uses the brightness of the view. What would it do here, before any training? Say first, then `look` at it.
# :::
#
# :::{solution} ex-15-prior
# :class: dropdown
# The wrong thing. Cloth is bright and specks are dark, so that every speck is *less* likely than the ground around it, with the fourth power still less. The map is nearly even with dark spots at the specks, and to learn anything the network has first to overcome the prior. It was made for
# bright digits on black.
# :::
#
# :::{exercise}
# :label: ex-15-view
# Could an ordinary network answer from the view alone? Train `atslib.DownsampledCNN` at the scale of the view, with a network of your choice, and compare. What could it go by?
# :::
#
# :::{solution} ex-15-view
# :class: dropdown
# Build it as `DownsampledCNN(nn.Sequential(…, nn.AdaptiveMaxPool2d(1), nn.Flatten()), Classifier(width, len(train_set.classes)), SCALE)`; `train` and `evaluate` take it as they take the model. What there is to go by: a ring is a little wider than a dot of the same darkness, so that it darkens more pixels of the view, each of them less.
# If your network does as well as attention sampling, patches are not needed: that is worth knowing before anything else is tried.
# :::
#
# :::{exercise}
# :label: ex-15-sizes
# Use images as they are, without padding: what has to change?
# :::
#
# :::{solution} ex-15-sizes
# :class: dropdown
# Only how many are seen at a time: `Settings(batch_size=16, micro_batch_size=1)`, `evaluate(..., batch_size=1)`, and no `InMemory`; several sizes at once are refused with a line that says so. The networks are convolutional and the view's scale is a ratio, so that
# a model takes any size. A step still averages the gradients of its sixteen images. Batch normalisation works, too: each image brings eight patches, which then are normalised by themselves.
# :::
