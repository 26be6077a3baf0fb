# %% [markdown]
# # Data: speed limits
#
# ```{important}
# **The images on this page are drawn, not photographed.** The page shows the library's *generated roads*, a stand-in with the task and
# the proportions of the paper's speed limits, so that nothing has to be downloaded. What is said of the real sets in numbers comes
# from a record of a run on them.
# ```
#
# The task of §4.4 of the paper: does a road image of about a megapixel show no speed limit, or one of 50, 70, 80? A sign is some
# tens of pixels wide ([chapter 10](10_speed_limits.ipynb) measures those of German photographs). The label of the image is all that a model is trained on.
#
# ## What you will learn
#
# - what a view at 0.3 of the image still shows of a sign;
# - the released code's rule that turns annotated signs into the label of an image, case by case;
# - two real sets, their terms, how to get them, and how their numbers differ.
#
# **Time and hardware:** half a minute on two CPU cores; nothing is downloaded.

# %% tags=["parameters"]
profile = "smoke"  # smoke, laptop or paper
real_data = False  # True: count in the real sets below ATSLIB_DATA

# %% tags=["hide-input"]
import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown
from matplotlib_inline.backend_inline import set_matplotlib_formats

from atslib import downsample, plots
from atslib.data import GTSDB, GeneratedRoads
from atslib.data.augmentation import SPEED_LIMITS
from atslib.data.roads import OTHERS, face
from atslib.data.speed_limits import Sign, paper_label

plots.use_style()
set_matplotlib_formats("jpeg", pil_kwargs={"quality": 85})  # landscapes make large PNG files
record = json.loads(Path("../benchmarks/data.json").read_text(encoding="utf-8"))

# %% [markdown]
# ## The stand-in
#
# Sky, hills, trees, a road, houses, cars with red lights, poles; and round signs beside the road, drawn as vector art, turned, blurred
# and lit. An image of class 50, 70 or 80 shows one or two such signs; an image of class none shows one to three *other* round signs,
# most of them red, so that red alone gives nothing away. Drawn digits are clearer than photographed ones; to be as hard to read from
# afar, these signs are smaller than those of the German set, 16 to 28 pixels wide, and differently painted.

# %%
images = GeneratedRoads("train", n_images=12)
print(images.classes, images.class_counts().tolist())  # NBVAL_CHECK_OUTPUT
print(tuple(images[0][0].shape), images[0][0].dtype)  # NBVAL_CHECK_OUTPUT

# %% mystnb={"image": {"alt": "Eight round signs: 50, 70 and 80 in red rings; an empty red ring; two cars in a red ring; a white bar on red; a white arrow on blue; black lines on white."}}
names = ("50", "70", "80", *OTHERS)
figure, axes = plt.subplots(1, len(names), figsize=(7, 1.2))
for ax, name in zip(axes, names, strict=True):
    ax.imshow(face(name)[..., :3])
    ax.set_title(name.replace("_", "\n"), fontsize=8)
    ax.axis("off")
plt.show()

# %% mystnb={"image": {"alt": "Four drawn road scenes under a sky with clouds, a grey road in the middle, trees behind. Small round signs stand beside the road; orange boxes frame those that set the limit."}}
figure, axes = plt.subplots(2, 2, figsize=(7, 5.6))
for number, ax in enumerate(axes.flat):
    image, label = images[number]
    plots.show_image(ax, image, f"drawn; label {images.classes[label]}")
    for left, top, right, bottom in images.boxes(number):
        ax.add_patch(
            plt.Rectangle(
                (left - 8, top - 8),
                right - left + 16,
                bottom - top + 16,
                fill=False,
                color=plots.ORANGE,
            )
        )
plt.show()

# %% [markdown]
# (cell-sign-at-low-resolution)=
# ## What a small view shows
#
# The paper's view has 0.3 of the image's height and width. A sign is still there, as a red ring of six pixels; what it says is hard to read.

# %% mystnb={"image": {"alt": "Two rows of six crops around signs. Above, at full resolution, the numbers 50, 70 and 80 can be read. Below, at 0.3, small red rings with grey inside; the numbers can hardly be read."}}
cut = []
for number in range(len(images)):
    for left, top, right, bottom in images.boxes(number)[:1]:
        row, column = int(top + bottom) // 2, int(left + right) // 2
        part = images[number][0][
            :, max(0, row - 20) : row + 20, max(0, column - 20) : column + 20
        ]
        cut.append((part, images.classes[int(images.labels[number])]))
figure, axes = plt.subplots(2, 6, figsize=(7, 2.7))
for (above, below), (part, name) in zip(axes.T, cut, strict=False):
    plots.show_image(above, part, name)
    plots.show_image(below, downsample(part[None], (12, round(part.shape[2] * 0.3)))[0])
plt.show()

# %% tags=["hide-input"]
digits = record["digits"]["outcome"]


def of_crops(scale, question, crops=1):
    """An error with its standard error: that of a share of so many test signs, times ``crops`` of each."""
    share, n = digits[scale][question], crops * digits[scale]["n_test"]
    return f"{share:.3f} ± {(share * (1 - share) / n) ** 0.5:.3f}"


Markdown(
    "A small network was trained on crops around drawn signs, each in the middle of its crop, and on places far from every sign (record of "
    f"`benchmarks/data.py`, {digits['1.0']['n_test']} test signs; one network for each number, ± one standard error of a share of so many crops):\n\n"
    "| error of | full resolution | 0.3 | by chance |\n|---|---|---|---|\n"
    f"| which of 50, 70, 80 | {of_crops('1.0', 'which_limit')} | {of_crops('0.3', 'which_limit')} | 0.667 |\n"
    f"| a limit, or a place without any sign | {of_crops('1.0', 'sign_or_none', 2)} | {of_crops('0.3', 'sign_or_none', 2)} | about 0.5 |"
)

# %% [markdown]
# So attention, which sees the small view, has something to go by, and the number is read far better at full resolution. The places without a sign are
# more than 40 pixels from every sign, a limit or another: whether a *limit* is told from *other* signs in the small view was not tested. Does attention help? A
# small model that looks at a few patches where attention says, against the same model that looks anywhere:

# %% tags=["hide-input"]
def with_error(result):
    """Test error ± its binomial standard error, which means nothing where no image was wrong."""
    return f"{result['test_error']:.3f}" + (f" ± {result['stderr']:.3f}" if result["test_error"] > 0 else " (none wrong)")


rows = [
    f"| {name} | {task['n_train']:,} | {task['patches']} of {task['patch']} × {task['patch']} | {with_error(task['uniform'])} | {with_error(task['ats'])} |"
    for name, task in record["sampling"]["outcome"].items()
]
Markdown(
    "Test errors, one seed each, ± one standard error of the test images, of a short training on small images, the roads with signs 24 to 36 pixels wide in 160 × 208 (record of "
    "`benchmarks/data.py sampling`):\n\n"
    "| stand-in | training images | patches | uniform sampling | attention sampling |\n|---|---|---|---|---|\n" + "\n".join(rows)
)

# %% [markdown]
# What the stand-in does **not** have: photographs' noise and compression, signs half hidden, dirt, glare, the hundred other things by a
# road. An error measured on it says how a method does on this task, and nothing about roads.
#
# ## The released code's rule
#
# The Swedish set {cite}`larsson2011` annotates signs; the paper needs one label an image. Its text (§4.4) calls the fourth class "no limit sign". Its code goes further, and we follow the code: an image without any sign is *none*.
# Otherwise the most visible of its 50, 70 and 80 signs, the largest among equals, gives the class, but only if it is marked `VISIBLE`.
# Every other image is left out. Entries `MISC_SIGNS` count for nothing.

# %%
small, large = (0, 0, 20, 20), (0, 0, 60, 60)


def sign(limit, visibility="VISIBLE", box=small):
    return Sign(f"{limit}_SIGN", box, visibility, limit)


cases = {
    "no sign": [],
    "one 80, visible": [sign("80")],
    "a small 50 and a large 70, both visible": [sign("50"), sign("70", box=large)],
    "a large 50, blurred, and a small 70, visible": [sign("50", "BLURRED", large), sign("70")],
    "one 50, blurred": [sign("50", "BLURRED")],
    "one 80 at the side road": [sign("80", "SIDE_ROAD")],
    "one 30": [sign("30")],
    "a sign that is no limit": [Sign("PASS_RIGHT_SIDE", small)],
}
for what, signs in cases.items():
    print(f"{what:46s} {paper_label(signs) or 'left out'}")  # NBVAL_CHECK_OUTPUT

# %% [markdown]
# The last two lines show a subtlety: an image with *other* signs is left out, where the paper's words would call it *none*. So in the real set *none* is a road without any sign that was annotated by itself (signs that count as `MISC_SIGNS` may be there);
# the stand-in and the German set ask the harder question.
#
# ## The real sets
#
# | | Swedish Traffic Signs, the paper's | German Traffic Sign Detection Benchmark |
# |---|---|---|
# | images | 960 × 1280; the paper counts 747 + 684 after its rule | 800 × 1360; 600 + 300 |
# | terms | none stated; cite {cite}`larsson2011` | free for any purpose; cite {cite}`houben2013` |
# | get | `python -m atslib.data get swedish_traffic_signs` (several GB) | `python -m atslib.data get gtsdb` (1.7 GB) |
# | class | `SwedishTrafficSigns(split="train")` | `GTSDB(split="train")`, `limits="all"` for all eight |
#
# Results on the German set are not the paper's. Its classes, in the official split, *none* being an image without a limit:

# %%
counts = {split: record["counts"]["outcome"][f"GTSDB {split}"] for split in ("train", "test")}
if real_data:
    for split in counts:
        dataset = GTSDB(split=split, limits="all")
        counts[split] = dict(zip(dataset.classes, dataset.class_counts().tolist(), strict=True))
for split, classes in counts.items():
    print(f"{split:5}", *(f"{name}: {count}" for name, count in classes.items()), sep="  ")
for split, classes in counts.items():
    paper = sum(classes[name] for name in ("none", "50", "70", "80"))
    print(
        f"{split:5}  always none: error {1 - classes['none'] / sum(classes.values()):.2f} of all, "
        f"{1 - classes['none'] / paper:.2f} of those with the paper's limits or none"
    )
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# Most images are *none*. Always answering so has the error of the last lines, a third of all images and less of those that
# `GTSDB()` and [chapter 10](10_speed_limits.ipynb) take by default, and the paper weighs the cross-entropy with the
# inverse of each class's share. `dataset.class_weights()` gives these weights; `Settings(balanced=True)` shows all classes equally often
# instead, which is the same on average and spends fewer visits on the largest class. Ten *none* images show the end of a limit of 80, a grey
# sign with the same digits; no image shows two different limits. The pictures were taken on drives, so neighbouring images may show one
# street; the official split keeps no distance.
#
# Whole photographs take long. `SignWindows(GTSDB(), (480, 640))` shows of each a window at full resolution, the sign that gives the label at a
# random place in it, so that there is less road to search; [chapter 10](10_speed_limits.ipynb) trains on these.
#
# ## Augmentation
#
# α·x + β with α from 0.8 to 1.2 and β up to 0.1 either way, and shifts of up to 100 pixels, each with probability 0.8: the released
# code's numbers. They are drawn on the host from a seed and applied on the device where the images are.

# %% mystnb={"image": {"alt": "One road scene four times: as it is, and shifted, lighter or darker."}}
batch = images[1][0][None].expand(4, -1, -1, -1)
changed = SPEED_LIMITS(batch, torch.Generator().manual_seed(3))
changed[0] = batch[0]
figure, axes = plt.subplots(1, 4, figsize=(7, 1.6))
for ax, image in zip(axes, changed, strict=True):
    plots.show_image(ax, image)
plt.show()

# %% [markdown]
# ## Summary
#
# - A drawn sign is 16 to 28 pixels wide in a megapixel. At 0.3 of the resolution a drawn sign is told from places without any sign as well as at
#   full resolution (from other signs was not tested), and its number is misread far more often: attention has something to go by, and the answer gains from full resolution.
# - The paper's set is Swedish and has, in the released code, a rule that drops most images; the German one can be had at once. Both are read in their authors'
#   layouts, and neither is needed to run this book.
# - The stand-in is drawn, and says so.
#
# ## Exercises
#
# :::{exercise}
# :label: ex-data_speed_limits-patch
# Patches have 100 × 100 pixels, the image 960 × 1280, a sign 30 × 30. Five patches fall at random places inside the image. What is the
# chance that at least one of them holds the sign whole?
# :::
#
# :::{solution} ex-data_speed_limits-patch
# :class: dropdown
# A patch holds it if its corner is one of 71 × 71 of the 861 × 1181 places: 0.5 %. For five, 2.5 %. Uniform sampling fails for want of
# looks, not of reading.
# :::
#
# :::{exercise}
# :label: ex-data_speed_limits-size
# `GeneratedRoads(sign_width=(60, 80))` draws larger signs. Repeat the picture of the small view. From which width on can you read the
# limit at 0.3?
# :::
#
# :::{solution} ex-data_speed_limits-size
# :class: dropdown
# The two digits together take about half of a sign's width, a quarter each. If a digit needs some five pixels to be told apart, a sign needs 20
# pixels in the view, 67 in the image.
# :::
