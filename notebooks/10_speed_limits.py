# %% [markdown]
# # Speed limits
#
# A photograph of a road, about a megapixel. Does it show a speed limit, and is it 50, 70 or 80? The sign is a small spot in it, the
# label of the whole image is all that a model is told, and the paper's answer (§4.4) is: five patches are enough, if attention says where.
#
# **What came out**, as this page computes it ([the glossary](../glossary.md) has the words):
#
# :::{glue:md} what-came-out
# :format: myst
# :::
#
# ## What you will learn
#
# - what a sign looks like in the small view from which attention is computed, and what can still be told from it;
# - how the methods of the paper's Table 2 come out here, on sets that are not the paper's: windows of German photographs, with the paper's
#   question and with an easier one, and drawn roads;
# - how a model can be right without having seen the sign, and how to find out;
# - two things that decide it, in numbers: how often a draw of five patches sees a sign, and how long it takes to learn to read one that
#   somebody else has found;
# - what a training that is long enough for that comes to, on photographs;
# - what a prior does that makes attention start where the picture is red;
# - where the trained attention falls, measured and in pictures.
#
# **Time and hardware:** one to three minutes on one CPU core with the `smoke` profile; nothing is downloaded. With the German photographs below
# `ATSLIB_DATA` the page shows them; without them, drawn roads, and it says so. The recorded runs name their machine below.

# %% tags=["parameters"]
profile = "smoke"  # smoke, laptop or paper
max_seconds = 3600  # laptop, paper: training of all runs stops after so long and goes on the next time

# %% tags=["hide-input"]
import itertools
import json
import math
import re
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown, display
from matplotlib.patches import Circle
from matplotlib_inline.backend_inline import set_matplotlib_formats
from safetensors.torch import load_file

from atslib import downsample, plots
from atslib.data import GTSDB, DataError, GeneratedRoads, SignWindows
from atslib.estimators import Systematic
from atslib.experiments import speed_limits
from atslib.experiments.records import machine, read_record
from atslib.experiments.runs import Run, attention_snapshots, sweep
from atslib.experiments.signs import answers_by_sight, attention_on, chances_to_see, patch_corners, shows_sign
from atslib.experiments.summary import (
    balanced_error,
    balanced_sign_test,
    beyond_chance,
    least_p,
    mean_and_stderr,
    method_name,
    permutation_test,
    sign_test,
)
from atslib.networks import Classifier, ResNet8Features
from atslib.patches import extract_patches, low_size
from atslib.processes import Processes
from atslib.training import train

plots.use_style()
set_matplotlib_formats("jpeg", pil_kwargs={"quality": 80})  # photographs make large PNG files
torch.set_num_threads(1)

PAPER = {  # Table 2: training loss, test error ± s.e. of three runs, ms and MB a sample
    "U-5": (1.468, 0.531, 0.004, 7.8, 39),
    "U-10": (0.851, 0.472, 0.008, 10.8, 78),
    "CNN 0.3": (0.003, 0.311, 0.049, 6.6, 86),
    "CNN 0.5": (0.002, 0.295, 0.039, 15.6, 239),
    "CNN 1": (0.002, 0.247, 0.001, 64.2, 958),
    "Deep MIL": (0.077, 0.083, 0.006, 97.2, 1497),
    "ATS-5": (0.162, 0.089, 0.002, 8.5, 86),
    "ATS-10": (0.082, 0.095, 0.008, 10.3, 118),
}
ORDER = list(PAPER)
try:
    train_set, test_set, photographs = GTSDB(split="train"), GTSDB(split="test"), True
except DataError:
    train_set, test_set, photographs = GeneratedRoads("train", 483), GeneratedRoads("test", 255), False
height, width = (800, 1360) if photographs else train_set.size

# What this chapter asks for: methods of Table 2 on windows of photographs and on drawn roads, with three seeds.
small, windows = (speed_limits.PROFILES[name] for name in ("small", "windows"))
# Updates, where they are not the profile's: on photographs about as many as each method makes in an hour and more on a CPU core.
LONG = {"ATS-5": 12_000, "U-5": 12_000, "CNN 0.3": 6000, "Deep MIL": 1600}
LENGTHS = {"small": {"Deep MIL": 2000, "CNN 1": 1000}, "windows": LONG, "find": LONG}


def asked(method, seeds, *, n=(5,), scales=(1.0,), profile, **same):
    runs = []
    for some, scale in itertools.product(n, scales):
        length = LENGTHS[profile].get(method_name(method, some, scale)) if profile in LENGTHS else None
        changes = [(("updates", length),)] if length else [()]
        runs += sweep("speed_limits", [method], n_patches=[some], cnn_scale=[scale], seed=seeds, changes=changes, profile=profile, **same)
    return runs


on_windows, on_find = (dict(profile=name, out="../results") for name in ("windows", "find"))
RED = "Red-5"  # ATS-5 whose attention stays the prior for red
on_drawn = dict(profile="small", data="generated", out="../results")
WANTED = [
    run
    for place in (on_windows, on_find, on_drawn)
    for run in [
        *asked("ats", (0, 1, 2), n=(5, 10) if place is on_drawn else (5,), **place),
        *asked("uniform", (0, 1, 2), n=(5, 10) if place is on_drawn else (5,), **place),
        *asked("cnn", (0, 1, 2), scales=(0.3, 0.5, 1.0) if place is on_drawn else (0.3,), **place),
        *asked("deep_mil", (0, 1, 2), **place),
    ]
]
as_prior = (("fixed_attention", True), ("updates", LONG["ATS-5"]))
WANTED += sweep("speed_limits", ["ats"], n_patches=[5], seed=(0, 1, 2), changes=[as_prior], **on_find)
if profile == "paper":
    on_paper = dict(profile="paper", out="../results")
    WANTED += [run for method in ("ats", "uniform") for run in asked(method, (0, 1, 2), n=(5, 10), **on_paper)]
    WANTED += [*asked("cnn", (0, 1, 2), scales=(0.3, 0.5, 1.0), **on_paper), *asked("deep_mil", (0, 1, 2), **on_paper)]

if profile != "smoke":
    group_of_processes = Processes("cuda" if torch.cuda.is_available() else "cpu")
    started = time.monotonic()
    for run in WANTED:
        if run.data != "generated" and not photographs:
            continue
        left = max_seconds - (time.monotonic() - started)
        if run.state != "done" and (left <= 0 or not run.execute(group_of_processes, max_seconds=left)):
            break  # out of time; the next time goes on from the checkpoint

records = [read_record(path) | {"stem": path.stem} for path in sorted(Path("../results/runs").glob("speed_limits-*.json"))]
records = [r for r in records if r["profile"] != "smoke"]
# Deep MIL's first runs were rewarded for spread attention, as the paper rewards ATS only; each gives way to a run without that.
for r in records:
    r["rewarded"] = r["method"] == "deep_mil" and r["settings"]["training"]["entropy_weight"] > 0
as_in_paper = {(r["profile"], r["seed"]) for r in records if r["method"] == "deep_mil" and not r["rewarded"]}
records = [r for r in records if not (r["rewarded"] and (r["profile"], r["seed"]) in as_in_paper)]
drawn = [r for r in records if r["profile"] == "small" and "stand-in" in r["dataset"]["name"]]
real = [r for r in records if "stand-in" not in r["dataset"]["name"]]
windowed, finding = ([r for r in real if r["profile"] == name] for name in ("windows", "find"))
real = [r for r in real if r["profile"] not in ("windows", "find")]


def name_of(r):
    if r["settings"].get("changes", {}).get("fixed_attention"):
        return RED
    return method_name(r["method"], r["n_patches"], r["settings"].get("cnn_scale"))


def images_seen(r):
    return r["curve"]["epoch"][-1] * r["dataset"]["n_train"]


def variant(r):
    """What was changed, other than the length of the training."""
    changes = {field: value for field, value in r["settings"].get("changes", {}).items() if not (r["rewarded"] and field == "entropy_weight")}
    short = ", shorter" if r["stem"].endswith("-short") else ""
    return "".join(f", {field} {value}" for field, value in changes.items() if field not in ("updates", "batch_size", "fixed_attention")) + short


compared = [r for r in drawn if not variant(r)] or drawn  # the shorter runs only as long as there are no others
SETS = {"Photographs, which limit": windowed, "Photographs, any limit": finding, "Drawn roads": compared}


def group(runs):
    """Method, images seen and variant -> the runs; in the order of the paper's table."""
    groups = {}
    for r in sorted(runs, key=lambda r: (ORDER.index(name_of(r)) if name_of(r) in ORDER else 99, variant(r), images_seen(r))):
        groups.setdefault((name_of(r), images_seen(r), "†" * r["rewarded"] + variant(r)), []).append(r)
    return groups


def is_longer(r):
    """Whether it was trained for longer than the runs that are compared; such a run stands beside them."""
    updates = LENGTHS.get(r["profile"], {}).get(name_of(r))
    return updates is not None and r["settings"]["updates"] > updates


def longer_runs(name, runs):
    return [r for r in runs if name_of(r) == name and not variant(r) and is_longer(r)]


def by_length(name, runs):
    """The runs of a method, those of one length together, the shortest first; without the reward where there are such."""
    found = [r for r in runs if name_of(r) == name and not variant(r) and not is_longer(r)]
    found = [r for r in found if not r["rewarded"]] or found
    lengths = {}
    for r in sorted(found, key=lambda r: (images_seen(r), r["seed"])):
        lengths.setdefault(images_seen(r), []).append(r)
    return list(lengths.values())


def runs_of(name, runs):
    """The runs of a method that are compared: the longest."""
    return (by_length(name, runs) or [[]])[-1]


def marked(name, runs):
    """The name, with a dagger where its runs have one in Table 2."""
    return name + "†" * any(r["rewarded"] for r in runs_of(name, runs))


def balanced(r):
    return balanced_error(r["final"]["confusion"])


def plain(r):
    return r["final"]["test_error"]


def error_of(r):
    """Balanced where classes are of different sizes, which on drawn roads they are not."""
    return balanced(r) if r["profile"] in ("windows", "find") else plain(r)


def shown(values, between=" "):
    mean, stderr = mean_and_stderr(values)
    return f"{mean:.3f}" + ("" if math.isnan(stderr) else f"{between}± {stderr:.3f}")


def classes_of(runs):
    """Test images of each class."""
    return np.sum(runs[0]["final"]["confusion"], axis=1)


def always_none(classes):
    """Errors of the answer "none" to every image: plain and balanced."""
    return 1 - classes[0] / sum(classes), 1 - 1 / len(classes)


def listed(names):
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def count(runs):
    return f"{len(runs)} run{'s' * (len(runs) != 1)}"


def done(run):
    """Whether there is a record of this run, on whatever real images where it wants real ones."""
    wanted = dict(run.changes)
    whole = [r for r in records if not r["stem"].endswith("-short")]
    return any(
        (r["method"], r["n_patches"], r["settings"].get("cnn_scale"), r["seed"], r["profile"])
        == (run.method, run.n_patches, run.cnn_scale, run.seed, run.profile)
        and r["settings"].get("changes", {}) == wanted
        and ("stand-in" in r["dataset"]["name"]) == (run.data == "generated")
        for r in whole
    )


def kept(dataset, at_most):
    """The first images with a sign, and their signs."""
    numbers = [i for i in range(len(dataset)) if int(dataset.labels[i])][:at_most]
    return numbers, [dataset[i][0] for i in numbers], [dataset.boxes(i) for i in numbers]


roads = GeneratedRoads("test", small.n_test, small.size, sign_width=small.sign_width)
small_numbers, small_images, small_boxes = kept(roads, 60)
# Labels of the test images, also where the photographs are not at hand.
labelled = json.loads(Path("../results/labels/gtsdb.json").read_text(encoding="utf-8"))["profiles"]


def labels_for(r):
    """Labels of the images that a run was tested on; None where they are not known here."""
    if "stand-in" in r["dataset"]["name"]:
        return roads.labels.tolist() if r["profile"] == "small" and r["dataset"]["n_test"] == len(roads) else None
    known = labelled.get(r["profile"], {"digest": ""})
    return known["labels"] if r["dataset"]["digest"] == known["digest"] else None


questions = {"photographs, which limit": windowed, "photographs, any limit": finding}
on_photographs = {}  # question -> its runs, and test images with a sign
if photographs:
    window_sets = [SignWindows(part, windows.window) for part in (train_set, test_set)]
    find_sets = [SignWindows(GTSDB(split=part, limits="any"), windows.window, negatives=True) for part in ("train", "test")]
    for name, (_, tested) in (("windows", window_sets), ("find", find_sets)):
        if labelled[name]["labels"] != tested.labels.tolist():
            raise ValueError(f"photographs of the profile {name} with other labels than results/labels/gtsdb.json has: is the set whole?")
    _, which_images, which_boxes = kept(window_sets[1], 30)
    real_numbers, real_images, real_boxes = kept(find_sets[1], 30)
    on_photographs = {"photographs, which limit": (windowed, which_images, which_boxes), "photographs, any limit": (finding, real_images, real_boxes)}

missing = [run for run in WANTED if not done(run)]
came_out = []
for title, runs in list(SETS.items())[:2]:
    if some := runs_of("ATS-5", runs):
        (constant, flat), error = always_none(classes_of(runs)), np.mean([plain(r) for r in some])
        others = {name: images_seen(of[0]) for name in ORDER if name != "ATS-5" and (of := runs_of(name, runs))}
        shorter = [name for name, seen in others.items() if 2 * seen < images_seen(some[0])]
        came_out.append(
            f"**{title}**: ATS-5, trained on {images_seen(some[0]):,} windows, has a test error of {shown([plain(r) for r in some])} ({count(some)}), "
            f"{'below' if error < constant else 'above'} the {constant:.3f} of always answering *none*; the mean error of the classes is {shown([balanced(r) for r in some])}, against {flat:g}."
            + (f" No more than {max(others[name] for name in shorter):,} were shown to {listed(shorter)}." if shorter else "")
            + " Its attention starts where the view is red, which the paper's does not."
            + (
                f" Five patches drawn by that start alone, with attention never trained, have a test error of {shown([plain(r) for r in red])} ({count(red)}; mean of the classes {shown([balanced(r) for r in red])})."
                if (red := runs_of(RED, runs))
                else ""
            )
        )
if found := {name: some for name in ORDER[::-1] if (some := runs_of(name, compared))}:
    most_seen = max(images_seen(some[0]) for some in found.values())
    told = [
        f"{shown([plain(r) for r in some])} with {name} ({count(some)}{f', {images_seen(some[0]):,} images' if images_seen(some[0]) < most_seen else ''})"
        for name, some in found.items()
    ]
    came_out.append(f"**Drawn roads**, {most_seen:,} images shown in a training where no other number is given: the test error is {listed(told)}.")
if came_out:
    plots.at_the_head(came_out)
state = (
    f"{len(WANTED) - len(missing)} of the {len(WANTED)} runs that this chapter asks for, three seeds of each method at its full length, exist; [the rest](#cell-what-ran) is missing. Beside them there are shorter ones; where Table 2 says *not run* there is none."
)
display(
    Markdown(
        state
        + "\n\nThe images on this page are "
        + (
            "photographs, the German Traffic Sign Detection Benchmark {cite}`houben2013`, and, where it says so, drawn ones"
            if photographs
            else "**drawn**: the German photographs were not found below `ATSLIB_DATA`. Errors on photographs come from the records, tests of them use the labels that are kept beside these. "
            "What needs the photographs themselves (Figure 1 with German signs and their widths, attention on signs, pictures of it) is shown with the photographs installed, "
            "and what is said of it at the top of this chapter was found there. Drawn are"
        )
        + f"{';' if photographs else ''} {len(train_set)} to train on, {len(test_set)} to test, of {height} × {width} pixels. The paper's Swedish photographs {{cite}}`larsson2011` were not at hand."
    )
)

# %% [markdown]
# (cell-fig1)=
# ## Figure 1: a sign, seen from afar
#
# The paper's Figure 1 shows a road and one sign cut from it at full resolution and at two lower ones, in which the number can no longer be
# read. Here are three signs and the road that each is cut from, at the three scales at which the paper's networks see the image: 1 (patches, and CNN 1), 0.5
# (CNN 0.5) and 0.3 (the view from which attention is computed, and CNN 0.3). They are the test signs of each limit whose width is closest to the median.
# What is cut out is brightened, the three of a row alike, so that the brightest pixel of the sign is white.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three rows, one for a sign of 50, 70 and 80. In each row a road with a circle around the sign, which is a small spot in it; then the sign with its surroundings at full resolution, where the number can be read; at half, where it is blurred; and at 0.3, where a few pixels of a red ring around grey are left."}}
of_limit = {}  # class -> (image number, box) of all test signs
for number in range(len(test_set)):
    for box in test_set.boxes(number):
        of_limit.setdefault(test_set.classes[int(test_set.labels[number])], []).append((number, box))
sign_width = lambda box: max(box[2] - box[0], box[3] - box[1])
median = np.median([sign_width(box) for signs in of_limit.values() for _, box in signs])


def circles(ax, boxes, scale=1.0):
    for left, top, right, bottom in boxes:
        radius = scale * 0.75 * max(right - left, bottom - top) + 0.015 * ax.get_xlim()[1]
        ax.add_patch(Circle((scale * (left + right) / 2, scale * (top + bottom) / 2), radius, fill=False, color=plots.RED, linewidth=2))


SCALES = (1.0, 0.5, 0.3)
figure, axes = plt.subplots(3, 4, figsize=(7.4, 5.2), width_ratios=[1.6, 1, 1, 1])
for row, limit in zip(axes, ("50", "70", "80"), strict=True):
    number, box = min(of_limit[limit], key=lambda sign: abs(sign_width(sign[1]) - median))
    image = test_set[number][0][None]
    plots.show_image(row[0], downsample(image, low_size(image.shape[2:], 0.3))[0], f"{limit}: the road\n{image.shape[3]} pixels wide")
    circles(row[0], [box], 0.3)
    left, top, right, bottom = (round(edge) for edge in box)
    white = downsample(image, image.shape[2:])[0, :, top:bottom, left:right].max()
    for ax, scale in zip(row[1:], SCALES, strict=True):
        view = downsample(image, low_size(image.shape[2:], scale))[0]
        middle = [scale * (box[1] + box[3]) / 2, scale * (box[0] + box[2]) / 2]
        side = max(1, round(70 * scale))
        top, left = (int(min(max(at - side / 2, 0), length - side)) for at, length in zip(middle, view.shape[1:], strict=True))
        plots.show_image(ax, (view[:, top : top + side, left : left + side] / white).clamp(max=1), f"scale {scale:.2g}:\n{scale * sign_width(box):.2g} pixels wide")
    for ax in row:
        ax.title.set_fontsize(9)
plt.show()

# %% tags=["hide-input"]
widths = np.array([sign_width(box) for part in (train_set, test_set) for i in range(len(part)) for box in part.boxes(i)])
display(
    Markdown(
        "**What to see:** at 0.3 a ring of red is left, and inside it no number that can be read. "
        f"All {len(widths)} signs that give an image its label, training and test. A digit is about a quarter as wide as its sign; with five pixels for a digit, "
        "a rough measure of what is easy to read, a sign would have twenty:"
    )
)
display(
    plots.table(
        ["scale", "median width", "narrowest – widest", "signs less than 20 pixels wide"],
        [
            [
                f"{scale:g}",
                f"{np.median(scale * widths):.0f} pixels",
                f"{scale * widths.min():.0f} – {scale * widths.max():.0f}",
                f"{(scale * widths < 20).mean():.0%}",
            ]
            for scale in SCALES
        ],
    )
)

# %% [markdown]
# (cell-claim-signs-resolution)=
# ### Does the view show that a sign is there, and not which?
#
# A number for it: a small network was trained on crops around signs of the *drawn* roads, seen at full size and through the view. The
# record is that of `benchmarks/data.py digits`.

# %% tags=["hide-input"]
record = json.loads(Path("../benchmarks/data.json").read_text(encoding="utf-8"))
digits = record["digits"]["outcome"]
full, low = digits["1.0"], digits["0.3"]
guessing = 2 / 3
left_of_it = (guessing - low["which_limit"]) / (guessing - full["which_limit"])  # of what is read beyond guessing at full size
holds = low["sign_or_none"] < 0.05 and left_of_it < 0.75


def of_crops(share, n):
    """With its binomial standard error."""
    return f"{share:.3f} ± {math.sqrt(share * (1 - share) / n):.3f}"


display(
    plots.table(
        ["test error of", "scale 1", "scale 0.3", "by chance"],
        [
            ["which of 50, 70, 80", *(of_crops(at["which_limit"], at["n_test"]) for at in (full, low)), f"{guessing:.3f}"],
            ["a sign, or none", *(of_crops(at["sign_or_none"], 2 * at["n_test"]) for at in (full, low)), "about 0.5"],
        ],
    )
)
Markdown(
    f"Which limit: {low['n_test']} test signs; a sign or none: these and as many crops without any. One network for each number, and ± is the standard error of a share of so many crops; how much another training would differ it does not tell. "
    + (
        "**On drawn roads the claim holds in part**; for the paper's own signs it is open. As it says, the view shows as well as full size that there is a sign, and the number suffers. "
        f"But the number is not lost: of what is read beyond guessing at full size, {left_of_it:.0%} is still read. Signs cut out of photographs are read [further below](#cell-reading); they are few, and so the errors large."
        if holds
        else "The claim does **not** hold here."
    )
)

# %% [markdown]
# (cell-tab2)=
# ## Table 2: error, time and memory
#
# U-5 and U-10 draw five or ten patches from anywhere, ATS-5 and ATS-10 by attention. CNN 0.3, CNN 0.5 and CNN 1 read the whole image at this scale. Deep MIL reads all patches of a grid.
# The rows are the paper's, the sets are not: windows of German photographs with the paper's question (*which limit*), with an easier one (*any limit*), and drawn roads. *Red-5* is ATS-5 whose attention stays a prior for red ([below](#cell-red)).
# On photographs most images are *none*, and the error alone says little. So the *balanced* error stands below it: the mean of the errors of the classes. *Loss* is the training loss of the
# last epoch.

# %% tags=["hide-input"]
cost = json.loads(Path("../results/cost/speed_limits.json").read_text(encoding="utf-8"))
measured = {row["method"].replace("CNN .", "CNN 0."): (row["ms"], row["peak_mb"]) for row in cost["speed_limits"]}


def ratio(name, column):
    ours = measured[name][column] / measured["ATS-5"][column]
    paper = PAPER[name][3 + column] / PAPER["ATS-5"][3 + column]
    return ours, paper


rows, cost_rows = [["always *none*", "–", *(["–"] * 3)]], []
for column, runs in enumerate(SETS.values()):
    if runs:
        constant, flat = always_none(classes_of(runs))
        rows[0][2 + column] = f"{constant:.3f}" + f"<br>balanced {flat:.3f}" * (runs is not compared)
for name in [*ORDER, RED]:
    cells = []
    for runs in SETS.values():
        if some := runs_of(name, runs):
            cells.append(
                shown([plain(r) for r in some])
                + (f"<br>balanced {shown([balanced(r) for r in some])}" if runs is not compared else "")
                + f"<br>loss {shown([r['curve']['train_loss'][-1] for r in some])}"
                + f"<br>{count(some)}{'†' * any(r['rewarded'] for r in some)} of {images_seen(some[0]) / 1000:,.0f} k"
            )
        else:
            cells.append("not run")
    rows.append([name, f"{PAPER[name][1]:.3f} ± {PAPER[name][2]:.3f}<br>loss {PAPER[name][0]:.3f}" if name in PAPER else "–", *cells])
    if name in measured:
        ours, theirs = measured[name], PAPER[name][3:]
        (time, paper_time), (memory, paper_memory) = ratio(name, 0), ratio(name, 1)
        cost_rows.append([name, f"{time:.1f} ({ours[0]:,.0f} ms)", f"{paper_time:.1f} ({theirs[0]:,g} ms)", f"{memory:.1f} ({ours[1]:,.0f} MB)", f"{paper_memory:.1f} ({theirs[1]:,g} MB)"])
display(plots.table(["test error", "the paper", *(title.lower() for title in SETS)], rows))
display(plots.table(["ATS-5 = 1", "time here", "time, the paper", "memory here", "memory, the paper"], cost_rows))
display(
    Markdown(
        f"Errors and losses: mean of the runs ± its standard error; *of 24 k*: each run was shown 24,000 images. Our losses are in nats, all classes counting alike; guessing has {math.log(4):.3f}, where any limit is asked for {math.log(2):.3f}. **Rows with unlike numbers compare budgets, not methods.** Time and memory (the second table) are of a forward and backward pass of one image of 960 × 1280, as multiples of ATS-5's and as measured: ours on a CPU ({cost['hardware']['name']}, "
        f"{cost['hardware']['threads']} thread, median of {cost['repetitions']}), the paper's on a GPU."
        + (
            "\n\n† Deep MIL trained with a reward for spread attention, which the paper has for ATS only ([chapter 9](09_colon_cancer.ipynb) has some runs of both kinds). "
            "Runs without it replace these once there are some."
            if any(r["rewarded"] for r in records)
            else ""
        )
    )
)
# NBVAL_CHECK_OUTPUT

# %% mystnb={"image": {"alt": "Errors of the methods, from top to bottom, in four panels side by side: balanced errors on windows of photographs, with the paper's question and with that for any limit, test errors on drawn roads, and test errors of the paper's Table 2; one dot a run, hollow for short trainings, a broken line at the error of a constant answer."}} tags=["hide-input"]
figure, panels = plt.subplots(1, 4, figsize=(7.4, 3.5), sharey=True)
for ax, title, runs, constant in (
    (panels[0], "photographs,\nwhich limit?", windowed, 0.75),
    (panels[1], "photographs,\nany limit?", finding, 0.5),
    (panels[2], "drawn roads,\nwhich limit?", compared, 0.75),
):
    for place, name in enumerate(ORDER):
        some = runs_of(name, runs)
        as_long = some and 2 * images_seen(some[0]) > max(map(images_seen, runs))
        ax.plot([error_of(r) for r in some], [place] * len(some), "o", color=plots.BLUE, mfc=plots.BLUE if as_long else "white", ms=7, alpha=0.7)
    ax.axvline(constant, color=plots.GREY, linestyle="--", linewidth=1)
    ax.set(title=title, xlabel="test error" if runs is compared else "balanced error", xlim=(0, 0.85))
for place, name in enumerate(ORDER):
    panels[3].plot(PAPER[name][1], place, "x", color=plots.RED, ms=8, mew=2)
panels[3].set(title="the paper:\nSwedish roads", xlabel="test error", xlim=(0, 0.85))
panels[0].set(yticks=range(len(ORDER)), yticklabels=ORDER, ylim=(len(ORDER) - 0.5, -0.5))
for ax in panels:
    ax.title.set_fontsize(10)
plt.show()

# %% tags=["hide-input"]
means = {title: {marked(name, runs): np.mean([error_of(r) for r in some]) for name in ORDER if (some := runs_of(name, runs))} for title, runs in SETS.items()}
text = []
for title, of in means.items():
    if len(of) > 1:
        ranked = sorted(of, key=of.get)
        text.append(
            f"{title.replace(', which', ' (which').replace(', any', ' (any')}{')' * (',' in title)}: from {ranked[0]} with {of[ranked[0]]:.2f} to {ranked[-1]} with {of[ranked[-1]]:.2f}"
        )
Markdown(
    "**What to see:** in the paper's panel U is at the right, the CNNs are in the middle, Deep MIL and ATS at the left. "
    + (f"Ours go, from left to right: {'; '.join(text)}. " if text else "")
    + "Hollow dots are trainings that were shown no more than half as many images as the longest of their panel: compare filled ones. The broken line is a constant answer. Positions cannot be compared between panels: other images, other sizes, another length of training."
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# ## How these runs differ from the paper's
#
# The paper trains for 300,000 iterations on whole photographs. On a CPU core that would take far too long, and shorter runs on whole photographs see too few
# signs to learn anything ([below](#cell-slow), in numbers). So from each photograph a window is shown, at full resolution, the sign at
# a random place in it, which is the same in every epoch: the same question with less road around. [The data page](data_speed_limits.ipynb) says how to get the Swedish photographs; every run takes them where they are found. Among the German ones an image of class *none* may
# show other signs, also red ones.
#
# Patches, the scale of the view and the spacing of Deep MIL's patches are the paper's
# (§4.4, §H.3); of the attention network, for which §H.3 leaves room, we take the released code's channels (8–16–32–1, no ReLU on the last), but pad the
# convolutions, which the released code does not.

# %% tags=["hide-input"]
given = windows.training
Markdown(
    f"- **Images**: windows of {windows.window[0]} × {windows.window[1]} pixels of photographs, or drawn roads of {small.size[0]} × {small.size[1]}.\n"
    f"- **Length**: {windows.updates:,} updates of {given.batch_size} images on windows in short trainings, {LONG['ATS-5']:,} in [long ones](#cell-long), {small.updates:,} on drawn roads; fewer for the dearer methods. The learning rate falls ({given.schedule}), gradients are clipped.\n"
    "- **Classes**: all are shown equally often, in place of a cross-entropy weighted with the inverse of each class's share, which is the same on average.\n"
    f"- **Features** are normalised over the batch, for [a reason below](#cell-norm), and multiplied by {windows.feature_scale:g} before the classifier: of length 1 they let the answers grow more slowly, which may be "
    "[one thing that keeps training at chance](08_megapixel_mnist.ipynb#why-training-stays-at-chance).\n"
    f"- **Attention sampling**: draws are systematic ([chapter 5](05_lower_variance.ipynb)), as U's are; the entropy term has the weight {given.entropy_weight:g}, the paper's is {speed_limits.PROFILES['paper'].training.entropy_weight:g}. "
    "On photographs, ATS alone starts where the view is *red* (`atslib.networks.SaliencyPrior` with `redness`: its maximum over the receptive field, power 2, ε = 0.01), a prior that knows what speed limits look like.\n"
    "- **Precision**: bfloat16 where the machine has instructions for it."
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# ## Table 2, set by set
#
# *Limit or none* is the balanced error of the two answers that are
# left when 50, 70 and 80 count as one: 0.5 for a constant answer. Training error and loss are those of the last epoch, while training, classes shown equally often.
#
# ### Windows of photographs: which limit?

# %% tags=["hide-input"]


def limit_or_none(r):
    confusion = np.array(r["final"]["confusion"])
    by_limit = np.add.reduceat(np.add.reduceat(confusion, [0, 1], 0), [0, 1], 1)  # none and any limit
    return balanced_error(by_limit)


def duration(seconds):
    return f"{seconds / 3600:.1f} h" if seconds > 5700 else f"{seconds / 60:.0f} min"


def hours(r):
    return duration(r["curve"]["seconds"][-1])


def training_times(runs):
    """The longest run of each method, machine by machine: times compare within one only."""
    longest = {}
    for (name, _, changed), some in group(runs).items():
        for r in sorted(some, key=lambda r: r["curve"]["seconds"][-1]):
            longest.setdefault(machine(r), {})[name + changed] = hours(r)
    return "; ".join(f"on {where}: {', '.join(f'{name} {time}' for name, time in of.items())}" for where, of in sorted(longest.items()))


def seconds_side_by_side(a, b):
    """Mean seconds of training of two methods on the machines that both ran on; None where there is none."""
    both = {machine(r) for r in a} & {machine(r) for r in b}
    return [np.mean([r["curve"]["seconds"][-1] for r in runs if machine(r) in both]) for runs in (a, b)] if both else None


def precision(r):
    return "bfloat16" if r["settings"]["training"]["bfloat16"] else "float32"


def none_said(runs):
    """How often the runs answer none, where training has shown all classes equally often."""
    right = classes_of(runs)[0]
    said = [int(np.sum(r["final"]["confusion"], axis=0)[0]) for r in runs]
    fewer = [n for n in said if n < 0.95 * right]
    others = [f"{name_of(r)} after {images_seen(r):,} images says it {n} times" for r, n in zip(runs, said, strict=True) if n >= 0.95 * right]
    return (
        f"Training shows all classes equally often, and {len(fewer)} of {len(said)} runs say *none* less often than it is right ({min(fewer)} to {max(fewer)} times, not {right}). " if fewer else ""
    ) + (f"{'; '.join(others)}, and is wrong about limits. " if others else "")


def show_table(some, about=""):
    """The table of some records of one set, and what its numbers are worth."""
    classes = classes_of(some)
    constant, flat = always_none(classes)
    two = len(classes) == 2  # any limit: limit or none is the question itself
    n_test, n_train = (some[0]["dataset"][key] for key in ("n_test", "n_train"))
    rows = [["always *none*", "", f"{constant:.3f}", f"{flat:.3f}", *([] if two else ["0.500"]), "", "", "", ""]]
    for (name, seen, changed), runs in group(some).items():
        errors = [shown([of(r) for r in runs]) for of in (plain, balanced, *(() if two else (limit_or_none,)))]
        training = [shown([r["curve"][key][-1] for r in runs]) for key in ("train_error", "train_loss")]
        rows.append([name + changed, len(runs), *errors, *training, f"{seen:,}", " and ".join(sorted({precision(r) for r in runs}))])
    display(Markdown(f"**{some[0]['dataset']['name']}{about}**, {n_train} training and {n_test} test images ({' + '.join(map(str, classes))} by class):"))
    display(plots.table(["", "runs", "test error", "balanced", *([] if two else ["limit or none"]), "training error", "training loss", "images seen", "precision"], rows))
    # Of a balanced error: each class's error is a binomial share of its images; at most half of them wrong is the worst case.
    worst = math.sqrt(sum(0.25 / n for n in classes)) / len(classes)
    few = f", mostly because {min(classes)} images are all there are of the {'rarer' if two else 'rarest'} class" if min(classes) < sum(classes) / len(classes) else ""
    clear = {}  # of each method, whether every one of its trainings is
    for (name, _, changed), runs in group(some).items():
        clear[name + changed] = clear.get(name + changed, True) and all(balanced(r) < flat - 2 * worst for r in runs)
    learned = [name for name, always in clear.items() if always]
    display(
        Markdown(
            f"Measured once on these images, a balanced error has a standard error of {worst:.3f} or less{few}. "
            + (
                f"More than two standard errors below the balanced error of a constant answer: **{', '.join(learned)}**. "
                if learned
                else "**None of these runs is clearly below the balanced error of a constant answer.** "
            )
            + (
                ""
                if any(plain(r) < constant for r in some)
                else f"The plain test error of every run is *above* the {constant:.3f} of answering *none* every time. {none_said(some)}"
            )
            + f"\n\nThe longest training of each method, by the clock: {training_times(some)}. Other work on these shared machines lengthened some; what a step costs is in [Table 2](#cell-tab2)."
        )
    )


if windowed:
    show_table(windowed, ", which limit")
else:
    display(Markdown("No run on windows has a record yet."))
for dataset in sorted({r["dataset"]["name"] for r in real}):
    show_table([r for r in real if r["dataset"]["name"] == dataset])
if not real:
    display(Markdown("On *whole* photographs nothing was trained."))
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# What these errors mean is less clear than it seems: [further down](#cell-seen) the trained ATS-5 is asked what it knows when it has *not* seen the sign.
#
# ### Windows of photographs: is there any speed limit?
#
# A question that needs less reading, has more to learn from, and leaves less of a way around the sign. All eight German limits count, so that there are more signs to train on. The answers are *limit* and *none*. And each
# photograph with a limit also gives a second window that does not show it, of class *none*: the same road, the same trees, the same light. Everything else is as above (profile `find`).

# %% tags=["hide-input"]
if finding:
    show_table(finding, ", any limit")
else:
    display(Markdown("No run has a record yet."))
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# ### Drawn roads
#
# The stand-in has the task at a size that a CPU can train in minutes (profile `small`), with as many images as one likes: small drawn roads, in each image one or two signs that count, or
# none, and others that do not. A sign takes a larger part of the image; networks, losses and methods are the same.

# %% tags=["hide-input"]
rows, columns = small.grid
display(
    Markdown(
        f"Images of {small.size[0]} × {small.size[1]} pixels, signs {small.sign_width[0]} to {small.sign_width[1]} pixels wide, patches of {small.patch} × "
        f"{small.patch}. Attention has {rows} × {columns} locations and Deep MIL {rows} × {columns} patches, so that five patches are a larger share "
        f"of all than the paper's 5 of {math.prod(speed_limits.GRID)}. The entropy weight of ATS is {small.training.entropy_weight:g}, the learning rate "
        f"{small.training.learning_rate:g} at the beginning."
    )
)
if drawn:
    show_table(drawn)
else:
    display(Markdown("No run on drawn roads has a record yet."))
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-long)=
# ## Longer training: photographs
#
# [Reading takes longer to be learned](#cell-reading) than the short trainings on photographs last. So the same was trained longer. Each row of the figure is a question, each thin line a run. Left, the
# training error. Middle, the test error of all images, most of which are *none*; it jumps, less so as the learning rate falls; the broken line is the answer *none* to all. Right, with the photographs installed, for up to eight
# of the attention networks that were kept on the way, the chance that five draws see a sign in the test images that have one; the first point is the prior. Where only the last network was kept, a hollow dot stands for it.

# %% mystnb={"image": {"alt": "Two rows, which limit and any limit, of panels with a thin line for each run: training error, test error and, where the photographs are installed, the chance that five draws see a sign, against images seen, for short and long trainings with attention and with uniform draws."}} tags=["hide-input"]


def untrained(r):
    """The model of a record as it was before training."""
    # Records from before there was a choice had group normalisation.
    changes = tuple((r["settings"].get("changes", {}) | {"norm": r["settings"].get("norm", "group")}).items())
    run = Run(
        "speed_limits",
        method=r["method"],
        n_patches=r["n_patches"] or 5,
        cnn_scale=r["settings"].get("cnn_scale", 1.0),
        seed=r["seed"],
        profile=r["profile"],
        changes=changes,
    )
    return run.build().eval()


def load_model(r):
    """The trained model of a record; None where its weights were not kept."""
    path = Path(f"../results/weights/{r['stem']}.safetensors")
    if not path.exists():
        return None
    trained = untrained(r)
    trained.load_state_dict(load_file(path))
    return trained


def chances_on_the_way(r, images, boxes, n=5):
    """Images seen, and the mean chance that n draws see a sign, of up to eight of the attention networks kept, the prior first."""
    model, seen, chance = untrained(r), [], []
    corners, _ = patch_corners(model, images[0][None])
    shows = [shows_sign(corners, model.patch_size, some) for some in boxes]
    path, last = Path(f"../results/weights/{r['stem']}.attention.safetensors"), images_seen(r) / r["dataset"]["n_train"]
    if path.exists():
        networks = attention_snapshots(path)
    elif (trained := load_model(r)) is not None:
        networks = {0: model.attention.state_dict(), last: trained.attention.state_dict()}
    else:
        return None
    views = [model.view(image[None]) for image in images]
    for epoch in sorted({list(networks)[round(at)] for at in np.linspace(0, len(networks) - 1, 8)}):
        model.attention.load_state_dict(networks[epoch])
        with torch.no_grad():
            maps = [model.attend(image[None], view)[1][0] for image, view in zip(images, views, strict=True)]
        seen.append(epoch * r["dataset"]["n_train"])
        chance.append(np.mean([attention_on(a, s, n)[2] for a, s in zip(maps, shows, strict=True)]))
    return np.array(seen), np.array(chance)


on_the_way = {}  # question and images seen -> chances of each run, the first that of its prior
figure, axes = plt.subplots(2, 2 + photographs, figsize=(7.4, 4.6), sharex=True)
for ax, title in zip(axes[0], ("training error", "test error", "chance to see a sign"), strict=False):
    ax.set_title(title, fontsize=10)
for row, (what, runs) in zip(axes, questions.items(), strict=True):
    for name, colours in (("ATS-5", (plots.SKY, plots.BLUE)), ("U-5", ("#f3c98b", plots.ORANGE))):
        for r in itertools.chain.from_iterable(by_length(name, runs)):
            length = images_seen(r) >= 2 * windows.updates * windows.training.batch_size  # 0: short, 1: long
            how = dict(color=colours[length], linewidth=1, alpha=0.9, zorder=3 - length)
            x = np.array(r["curve"]["epoch"]) * r["dataset"]["n_train"]
            row[0].plot(x, r["curve"]["train_error"], label=f"{name}, {('short', 'long')[length]}", **how)
            row[1].plot(x, r["curve"]["test_error"], **how)
            if photographs and name == "ATS-5" and (way := chances_on_the_way(r, *on_photographs[what][1:])):
                seen, chance = way
                on_the_way.setdefault((what, images_seen(r)), []).append(chance)
                if len(seen) > 2:
                    row[2].plot(seen, chance, marker=".", markersize=3, **how)
                else:
                    row[2].plot(seen[-1], chance[-1], "o", mfc="white", markersize=5, color=colours[length])
    if runs:
        row[1].axhline(always_none(classes_of(runs))[0], color=plots.GREY, linestyle="--", linewidth=1)
    for ax, top in zip(row, (None, None, 1), strict=False):
        ax.set(ylim=(0, top))
    row[0].set(ylabel=what.split(", ")[1] + "?")
legend = {label: line for ax in axes[:, 0] for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=4, fontsize=9)
for ax in axes[1]:
    ax.set_xlabel("images seen, in thousands")
    ax.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:,.0f}")
    ax.xaxis.set_major_locator(plt.MultipleLocator(50_000))
plt.show()

# %% tags=["hide-input"]
NOT_TESTED = "not tested on this page"


def p_text(p):
    return NOT_TESTED if math.isnan(p) else "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def same_seed(a, b):
    """Pairs of runs with the same seed; without any, pairs in the order of their seeds."""
    of = [{r["seed"]: r for r in runs} for runs in (a, b)]
    both = sorted(of[0].keys() & of[1].keys())
    return [(of[0][seed], of[1][seed]) for seed in both] or list(zip(*(sorted(runs, key=lambda r: r["seed"]) for runs in (a, b)), strict=False))


def seeds_of(runs):
    seeds = sorted({r["seed"] for r in runs})
    return f"seed{'s' * (len(seeds) > 1)} {listed([str(seed) for seed in seeds])}"


def mean_of(values):
    """With its standard error and the number of runs."""
    return f"{shown(values)} ({count(values)})"


def with_chance(values):
    """Shares in per cent, likewise."""
    mean, stderr = mean_and_stderr(values)
    return f"{mean:.0%}" + (f" ± {stderr:.0%} ({count(values)})" if len(values) > 1 else " (1 run)")


def by_class(short, long):
    """Where two lengths of training differ: among the images without a limit and among those with one."""
    confusions = [np.array([r["final"]["confusion"] for r in runs]) for runs in (short, long)]
    n_none, n_limits = confusions[0][0][0].sum(), confusions[0][0][1:].sum()
    wrong_none = [c[:, 0, 1:].sum(1).mean() for c in confusions]
    right_limits = [np.diagonal(c, axis1=1, axis2=2)[:, 1:].sum(1).mean() for c in confusions]
    pairs, ps = same_seed(short, long), []
    for pair in pairs:
        labels = [labels_for(r) for r in pair]
        if labels[0] is not None and labels[0] == labels[1]:
            with_limit = set(np.flatnonzero(labels[0]).tolist())
            ps.append(sign_test(*(set(r["final"]["wrong"]) & with_limit for r in pair)))
    average = ", on average," if max(len(short), len(long)) > 1 else ""
    return (
        f"Of {n_none} images without a limit{average} {wrong_none[0]:.0f} were wrong after the short and {wrong_none[1]:.0f} after the long training{'s' * bool(average)}; "
        f"of {n_limits} with one, {right_limits[0]:.0f} and {right_limits[1]:.0f} were right (sign test over them, {seeds_of([one for one, _ in pairs])}: {listed([p_text(p) for p in ps]) if ps else NOT_TESTED})."
    )


text, to_see = [], []
for what, runs in questions.items():
    ended = {name: [r["curve"]["train_error"][-1] for r in runs_of(name, runs)] for name in ("ATS-5", "U-5")}
    # The shortest and the longest of the lengths, if there are two.
    lengths = by_length("ATS-5", runs)
    if len(lengths) < 2:
        continue
    short, *_, long = lengths
    short_seen, long_seen = (images_seen(some[0]) for some in (short, long))
    constant, _ = always_none(classes_of(long))
    below = sum(plain(r) < constant for r in long)
    if ended["U-5"]:
        times = f" in {below} of {len(long)}" if 0 < below < len(long) else " each time" if len(long) > 1 else ""
        to_see.append(
            f"asked for {what.split(', ')[1]}, the long training{'s' * (len(long) > 1)} of ATS-5 end{'s' * (len(long) == 1)} at a training error of {shown(ended['ATS-5'])} ({count(long)}), "
            f"U-5's at {shown(ended['U-5'])} ({count(ended['U-5'])}); the test error of ATS-5 ends {'below' if below else 'above'} the broken line{times}"
        )
    chances_ = [on_the_way.get((what, seen)) for seen in (short_seen, long_seen)]
    text.append(
        f"**{what.capitalize()}**, ATS-5. "
        + (
            f"Five draws from the prior see a sign in {np.mean([some[0] for some in chances_[1]]):.0%} of the test images, after {short_seen:,} windows in {with_chance([some[-1] for some in chances_[0]])}, "
            f"after {long_seen:,} in **{with_chance([some[-1] for some in chances_[1]])}**. "
            if all(chances_)
            else ""
        )
        + f"After {short_seen:,} and {long_seen:,} windows the training error is {listed([mean_of([r['curve']['train_error'][-1] for r in some]) for some in (short, long)])}, "
        f"the test error {listed([shown([plain(r) for r in some]) for some in (short, long)])}, the balanced one {listed([shown([balanced(r) for r in some]) for some in (short, long)])}. " + by_class(short, long)
    )
if to_see:
    text.insert(0, f"**What to see:** {'. '.join(each[0].upper() * (at > 0) + each[at > 0 :] for at, each in enumerate(to_see))}.")
if text:
    display(Markdown("\n\n".join(text)))

# %% [markdown]
# ## The paper's claims
#
# Two methods are compared by the runs where each has three, by a permutation test over the runs. With fewer runs the test is over the test images, once for each pair of runs with the same seed, and the
# permutation test stands beside it: the sign test takes the images
# that only one of the two gets wrong, each as likely the one's as the other's if both are equally good. On photographs it is the *balanced* sign test,
# which weighs an image by the inverse of its class's size, as the balanced error does. It takes the images as independent, which windows of one photograph are not, so that
# p-values near 0.05 are rather too small; and it knows nothing of what another training would give. On photographs, ATS alone starts where the view is red.
#
# The longest trainings of two methods are compared (one of CNN 0.3 that was given twice the updates stands [apart](#cell-claim-signs-cnn)), and beside them others that are alike: *about equal images*, up to one and a half times as many, or *about equal time*, up to one and a half times as long
# on a machine that both ran on. Errors are means of all runs of this length, also where one method has more runs than the other.
#
# (cell-claim-signs-error)=
# ### Five patches equal Deep MIL's?


# %% tags=["hide-input"]
LEARNED = 0.1  # a training error below it: a training set that has been learned


def p_number(p):
    return "–" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.2g}"


def over_images(pairs):
    """p over the test images, of each pair of runs; NaN where the labels are not known."""
    ps = []
    for one, other in pairs:
        wrong, labels = [r["final"]["wrong"] for r in (one, other)], labels_for(one)
        if labels is None or one["dataset"]["digest"] != other["dataset"]["digest"]:
            ps.append(math.nan)
        else:
            ps.append(balanced_sign_test(*wrong, labels) if one["profile"] in ("windows", "find") else sign_test(*wrong))
    return ps


def unlike(a, b):
    """Whether one of the two has been shown so many more images that their errors say little of the methods."""
    seen = [images_seen(r) for r in [*a, *b]]
    return bool(a and b) and max(seen) > 1.5 * min(seen)


def as_long(a, b):
    """Whether trainings took about the same time, on a machine that both ran on."""
    seconds = seconds_side_by_side(a, b)
    return bool(seconds) and max(seconds) <= 1.5 * min(seconds)


def of_images(pairs, ps):
    """What the tests over images come to, in words, and whether all of them say the same beyond the chance of the images."""
    if any(math.isnan(p) for p in ps):
        return f"{NOT_TESTED} over the images", False
    clear = [error_of(one) < error_of(other) for (one, other), p in zip(pairs, ps, strict=True) if p < 0.05]
    beyond, n = "beyond the chance of the images", len(ps)
    known = len(clear) == n and len(set(clear)) == 1
    if n == 1:
        return beyond if known else f"not {beyond}", known
    if len(set(clear)) == 2:
        return f"{beyond} in {len(clear)} of {n} pairs, for the one in some and for the other in others", False
    return f"{beyond} in each of {n} pairs" if known else f"{beyond} in {len(clear)} of {n} pairs" if clear else f"not {beyond} in any of {n} pairs", known


def judge(a, b):
    """What the runs of two methods say: over the runs where both have three, else over the test images, and over the runs beside it."""
    pairs = same_seed(a, b)
    ps = over_images(pairs)
    images, clear = of_images(pairs, ps)
    p_runs, runs, of_runs = math.nan, "", ""
    if len(a) + len(b) > 2:
        p_runs, least = permutation_test(*([error_of(r) for r in some] for some in (a, b))), least_p(len(a), len(b))
        runs = beyond_chance(p_runs, least) + (f" (so few cannot give less than {least:.2g})" if p_runs > least >= 0.05 else "")
        of_runs = f"over the runs, {len(a)} against {len(b)}, {p_text(p_runs)}, {runs}"
    n_test, paired = a[0]["dataset"]["n_test"], seeds_of([one for one, _ in pairs])
    places = []
    if len(a) >= 3 and len(b) >= 3:
        known, verdict, told, brief = p_runs < 0.05, runs, of_runs, f"over the runs {p_text(p_runs)}, {runs}"
        if not known and p_runs <= least:
            verdict, told, brief, known = f"{runs}; {images}", f"{of_runs}; {images}", f"{brief}; {images}", clear
        numbers, tested = p_number(p_runs), f"{count(a)} and {len(b)}"
    else:
        known, verdict = clear, images
        numbers, tested = ", ".join(map(p_number, ps)), f"{n_test} images, {paired}"
        chosen = [([pair[at] for pair in pairs], some) for at, some in enumerate((a, b)) if len(some) > len(pairs)]
        places = [place_among(*each) for each in chosen]
        told = f"the difference is {images}"
        if not any(map(math.isnan, ps)):
            ranks = "".join(f", of {len(some)} runs of {name_of(some[0])} {listed([f'the {rank_among(r, some)}' for r in mine])}" for mine, some in chosen)
            told += f" ({listed([p_text(p) for p in ps])} over {n_test} images, {paired}{ranks})"
        if runs:
            verdict, told = f"{verdict}; over the runs {runs}", f"{told}; {of_runs}"
            numbers, tested = f"{numbers}<br>{p_number(p_runs)}", f"{tested}<br>{count(a)} and {len(b)}"
        brief = verdict
    if known and unlike(a, b):
        verdict += ", but one has seen far more"
    untested = any(map(math.isnan, ps)) and not runs
    if untested:
        verdict, told, brief = NOT_TESTED, f"the difference is {NOT_TESTED}", NOT_TESTED
    means = [np.mean([error_of(r) for r in some]) for some in (a, b)]
    return dict(a=a, b=b, numbers=numbers, over=tested, verdict=verdict, told=told, brief=brief, known=known, untested=untested, means=means, places=places)


def rank_among(r, runs):
    """Where the error of a run lies among those of several."""
    ranked = sorted(map(error_of, runs))
    highest, lowest = ("higher", "lower") if len(runs) == 2 else ("highest", "lowest")
    return lowest if error_of(r) == ranked[0] else highest if error_of(r) == ranked[-1] else "middle one" if len(runs) == 3 else "one between"


def place_among(chosen, runs):
    """Where runs that stand in a pair are among all of their method."""
    errors = listed([f"{error:.3f}" for error in sorted(map(error_of, runs))])
    return f"of {len(runs)} runs of {name_of(runs[0])}, with errors of {errors}, {seeds_of(chosen)} {'is' if len(chosen) == 1 else 'are'} {listed([f'the {rank_among(r, runs)}' for r in chosen])}"


def compare(one, other, runs):
    """What the longest runs say of two methods; None where a run is missing."""
    a, b = runs_of(one, runs), runs_of(other, runs)
    return judge(a, b) if a and b else None


def pairings(pair, title, runs):
    """Title, and the runs of the two methods: the longest, and those of other lengths that can be compared."""
    lengths = [by_length(name, runs) for name in pair]
    if not all(lengths):
        return []
    found = []
    for at in itertools.product(*(range(len(some)) for some in lengths)):
        a, b = (some[place] for some, place in zip(lengths, at, strict=True))
        left = [len(some) - 1 - place for some, place in zip(lengths, at, strict=True)]  # 0: the longest
        images, times = not unlike(a, b), as_long(a, b)
        alike = "about equal images" if images else "about equal time" if times else ""
        if not any(left):
            found.insert(0, (title + (f", {alike}" if alike and not images else ""), a, b))
        elif alike:
            found.append((f"{title}, " + ("short trainings" if all(left) and images else f"short trainings, {alike}" if all(left) else alike), a, b))
    if len(found) == 1 and unlike(*found[0][1:]) and all(len(some) > 1 for some in lengths):
        found.append((f"{title}, short trainings", lengths[0][0], lengths[1][0]))
    return found


def show_pairs(*pairs, absent_too=True):
    """A table of pairs of methods, set by set; and where the runs that were paired stand among the others of their method."""
    rows, places = [], []
    for title, runs in SETS.items():
        for pair in pairs:
            names = ", ".join(marked(name, runs) for name in pair)
            if absent_too and (absent := [name for name in pair if not runs_of(name, runs)]):
                rows.append([title, names, "not run: " + listed(absent), *["–"] * 4])
            for called, a, b in pairings(pair, title, runs):
                c = judge(a, b)
                seen = [images_seen(some[0]) for some in (a, b)]
                words = [" and ".join(sorted({precision(r) for r in some})) for some in (a, b)]
                rows.append(
                    [
                        called,
                        names,
                        f"{c['means'][0]:.3f}, {c['means'][1]:.3f}<br>" + (f"({count(a)} each)" if len(a) == len(b) else f"({count(a)}, {count(b)})"),
                        c["numbers"],
                        c["over"],
                        c["verdict"],
                        (f"{seen[0]:,}" if seen[0] == seen[1] else f"{seen[0]:,}, {seen[1]:,}") + f"<br>{words[0] if words[0] == words[1] else ', '.join(words)}",
                    ]
                )
                places += [f"*{called}*: {place}" for place in c["places"]]
    display(plots.table(["", "pair", "mean errors", "p", "test over", "the difference is", "images in training"], rows))
    if places:
        display(Markdown(f"Where a method has more runs than there are pairs, errors are means of all; in the pairs stand only some. {'; '.join(places)}."))


def variance_over_images(a, b, labels):
    """Of the difference of two (balanced) errors that the same test images give: each image is compared with itself."""
    labels = np.array(labels)
    wrong = [np.mean([np.isin(np.arange(len(labels)), r["final"]["wrong"]) for r in runs], axis=0) for runs in (a, b)]
    classes = np.unique(labels)
    return sum((wrong[0] - wrong[1])[labels == c].var(ddof=1) / (labels == c).sum() for c in classes) / len(classes) ** 2


def binomial_variance(r):
    """Of the balanced error, which is the error where classes are equal."""
    confusion = np.array(r["final"]["confusion"], float)
    n = confusion.sum(1)
    share = np.diag(confusion) / n
    return (share * (1 - share) / n).sum() / len(n) ** 2


def equal(five, mil, grid):
    """What runs of ATS-5 and Deep MIL say about the claim."""
    c, called = judge(five, mil), f"Deep MIL{'†' * any(r['rewarded'] for r in mil)}"
    (a, over_a), (b, over_b) = (mean_and_stderr([error_of(r) for r in some]) for some in (five, mil))
    seen = [images_seen(some[0]) for some in (five, mil)]
    early, times, labels = min(seen), seconds_side_by_side(five, mil), labels_for(five[0])
    train_then = [np.mean([np.interp(early, np.array(r["curve"]["epoch"]) * r["dataset"]["n_train"], r["curve"]["train_error"]) for r in some]) for some in (five, mil)]
    size = f"{abs(a - b):.3f}"
    if labels is not None:
        # Of the difference: that of the test images, which are the same for both, and that of the runs.
        stderr = math.sqrt(variance_over_images(five, mil, labels) + sum(0 if math.isnan(over) else over**2 for over in (over_a, over_b)))
        size += f" ± {stderr:.3f}"
    text = (
        f"ATS-5 read 5 patches of an image, {called} all {math.prod(grid)}"
        + (f"; {duration(times[0])} and {duration(times[1])} of training on the same machine. " if times else ". ")
        + f"Errors of {shown([error_of(r) for r in five])} ({count(five)}) and {shown([error_of(r) for r in mil])} ({count(mil)}) differ by {size}: {c['brief']}."
    )
    if min(a, b) > 0.8 * always_none(classes_of(five))[1]:
        text += " But neither has learned much, so nothing can be said."
    elif c["known"]:
        better = "ATS-5" if a < b else called
        text += f" {better} has the lower error at this budget." if unlike(five, mil) else f" **{better} has the lower error in these runs.**"
    if unlike(five, mil):
        fewer, more = ("ATS-5", called) if seen[0] < seen[1] else (called, "ATS-5")
        text += (
            f" After {early:,} images, all that {fewer} saw, the training error was {train_then[0]:.2f} with ATS-5 and {train_then[1]:.2f} with {called}; the learning rate of {more} had fallen less by then: "
            "this compares budgets, not what the methods end at."
        )
    return text


show_pairs(("ATS-5", "Deep MIL"))
equal_told = [
    f"*{called}*: {equal(five, mil, (small if runs is compared else windows).grid)}"
    for title, runs in SETS.items()
    for called, five, mil in pairings(("ATS-5", "Deep MIL"), title, runs)
]
if equal_told:
    display(plots.points("Outcome", equal_told))
display(Markdown(f"Training times are by the clock; other work beside them may have lengthened some. ± of a difference is its standard error, over the test images and, where a method has more than one, over its runs; p decides, ± gives the size. The paper: {PAPER['ATS-5'][1]} for ATS-5 and {PAPER['Deep MIL'][1]} for Deep MIL, with 5 of {math.prod(speed_limits.GRID)} patches."))
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-claim-signs-uniform)=
# ### Uniform sampling fails, on training and test set?

# %% tags=["hide-input"]
show_pairs(("ATS-5", "U-5"), ("ATS-10", "U-10"))
rows = []
for title, runs in SETS.items():
    for name in ("U-5", "U-10", "ATS-5", "ATS-10"):
        if some := runs_of(name, runs):
            rows.append([title, name, len(some), *(shown([r["curve"][key][-1] for r in some]) for key in ("train_error", "train_loss")), shown([error_of(r) for r in some])])
display(plots.table(["", "", "runs", "training error", "training loss", "test error (balanced)"], rows))


def uniform_outcome(title, runs, n):
    """What the longest trainings say of uniform draws and attention, n patches each."""
    ats, uniform = f"ATS-{n}", f"U-{n}"
    if (c := compare(ats, uniform, runs)) is None or unlike(c["a"], c["b"]):
        return ""
    flat = always_none(classes_of(c["b"]))[1]
    inside = [np.mean([r["curve"]["train_error"][-1] for r in some]) for some in (c["a"], c["b"])]
    return (
        f"*{title}*, {count(c['a'])} of {ats} and {len(c['b'])} of {uniform}: {uniform} has {'learned' if inside[1] < LEARNED else 'not learned'} its training set ({inside[1]:.2f} of it wrong, {ats} {inside[0]:.2f}), "
        f"and on new images its error is {c['means'][1]:.2f}, a constant answer's {flat:g}, {ats}'s {c['means'][0]:.2f}; {c['told']}."
    )


said = [text for title, runs in SETS.items() for n in (5, 10) if (text := uniform_outcome(title, runs, n))]
if said:
    display(plots.points("Outcome", said))
    display(Markdown("Where p is over images, it is about these networks, not about other seeds; on photographs ATS alone starts from a prior for red, [which may be all that helps](#how-much-of-it-is-the-prior)."))
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-red)=
# ### How much of it is the prior?
#
# On photographs ATS starts from a prior for red, uniform sampling does not. *Red-5* stands between them: five patches drawn from the prior alone. Its attention is never trained; features and classifier are, as those of ATS-5, from the same initial weights.

# %% tags=["hide-input"]
red_told, red_brief = [], []
red_runs = {title: some for title, runs in SETS.items() if (some := runs_of(RED, runs))}
if red_runs:
    show_pairs(("ATS-5", RED), (RED, "U-5"), absent_too=False)
    rows = []
    for title in red_runs:
        for name in ("U-5", RED, "ATS-5"):
            if some := runs_of(name, SETS[title]):
                rows.append([title, name, len(some), *(shown([r["curve"][key][-1] for r in some]) for key in ("train_error", "train_loss")), shown([error_of(r) for r in some])])
    display(plots.table(["", "", "runs", "training error", "training loss", "test error (balanced)"], rows))
    for title in red_runs:
        trained_, red_uniform = compare("ATS-5", RED, SETS[title]), compare(RED, "U-5", SETS[title])
        if trained_ and red_uniform:
            ends, alone = ([error_of(r) for r in runs_of(name, SETS[title])] for name in ("ATS-5", RED))
            within = min(ends) <= np.mean(alone) <= max(ends)
            lies = (
                "The prior alone lies among them: what ATS-5 has over uniform draws here may be the prior's doing, and that training the attention adds to it is not shown"
                if within
                else f"The prior alone is {'worse' if np.mean(alone) > max(ends) else 'better'} than any of them{', on average' * (len(alone) > 1)}"
                + (", but that is not beyond chance: what training the attention adds is not shown" if not trained_["known"] else ": training the attention adds to it, in these runs" if np.mean(alone) > max(ends) else ", in these runs")
            )
            range_of = f"between {min(ends):.2f} and {max(ends):.2f}" if len(ends) > 1 else f"at {ends[0]:.2f}"
            ended = f"{count(ends)} of ATS-5 end{'s' * (len(ends) == 1)} {range_of}"
            lower = bool(red_uniform["known"] and red_uniform["means"][0] < red_uniform["means"][1])
            theirs = f"{'below ' * lower}U-5's {red_uniform['means'][1]:.2f}"
            red_told += [
                f"*{title}*, {count(alone)} of {RED}, with a balanced error of {shown(alone)}, {'' if lower else 'beside '}{theirs}; {red_uniform['told']}.",
                f"{ended[0].upper()}{ended[1:]}; between ATS-5 and {RED} {trained_['told']}.",
                f"**{lies}.**",
            ]
            red_brief.append(f"*{title}*: {count(alone)} of {RED} {'have' if len(alone) > 1 else 'has'} {shown(alone)}, {'' if lower else 'beside '}{theirs}; {ended}. {lies}.")
    display(plots.points("Outcome", red_told or ["Nothing to compare with yet."]))
else:
    display(Markdown(f"Not run yet: `python -m atslib.experiments speed_limits --profile find --method ats --n-patches 5 --set fixed_attention=True --set updates={LONG['ATS-5']} --data DIR`."))
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# **Does it take more than five patches?** Networks trained with ten, and networks trained with either number that look at another number of patches in the test:

# %% tags=["hide-input"]
show_pairs(("ATS-5", "ATS-10"), ("U-5", "U-10"))
rows = []
for title, runs in SETS.items():
    for name in ("ATS-5", "ATS-10", "U-5", "U-10"):
        some = [r for r in runs_of(name, runs) if "by_n_patches" in r["final"]]
        if some:
            looks = [shown([r["final"]["by_n_patches"][n]["test_error"] for r in some]) for n in ("5", "10", "25", "50")]
            rows.append([title, name, len(some), *looks])
display(plots.table(["", "trained as", "runs", *(f"error with {n}" for n in (5, 10, 25, 50))], rows))
display(Markdown("Errors of the second table are not balanced: records have these numbers only."))
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-claim-signs-cnn)=
# ### CNNs learn the training set and do not generalise?

# %% tags=["hide-input"]
show_pairs(("ATS-5", "CNN 0.3"), ("ATS-5", "CNN 0.5"))
rows, as_said, not_learned = [], [], []
for title, part in SETS.items():
    for name, is_long in itertools.product(("CNN 0.3", "CNN 0.5", "CNN 1", "ATS-5"), (False, True)):
        if some := (longer_runs if is_long else runs_of)(name, part):
            name += f", trained {images_seen(some[0]) / images_seen(runs_of(name, part)[0]):.0f} times as long" if is_long else ""
            inside, outside = [r["curve"]["train_error"][-1] for r in some], [error_of(r) for r in some]
            gaps = [b - a for a, b in zip(inside, outside, strict=True) if a < LEARNED]
            what = "training set not learned"
            if gaps:
                what = f"learned{'' if len(gaps) == len(some) else f' in {len(gaps)} of {len(some)} runs'}, {'and generalises less well' if np.mean(gaps) > 0.05 else 'no gap to speak of'}"
            every_gap = np.mean(outside) - np.mean(inside)
            rows.append([title, name, len(some), shown(inside), shown(outside), f"{np.mean(gaps):+.2f}" if gaps else f"({every_gap:+.2f})", what])
            if not name.startswith("ATS-5") and (not gaps or "less well" in what):
                which = f", {len(gaps)} of {len(some)} runs" if gaps and len(some) > 1 else ", one run" if is_long else ""
                if not gaps and every_gap > 0.1:
                    which = f": {np.mean(inside):.2f} of the training images wrong, {np.mean(outside):.2f} of new ones; {count(some)}"
                (as_said if gaps else not_learned).append(f"{name} ({title[0].lower()}{title[1:]}{which})")
display(plots.table(["", "", "runs", "training error", "test error (balanced)", "gap, where learned (else)", ""], rows))
absent = [name for name in ("CNN 0.3", "CNN 0.5", "CNN 1") if not any(runs_of(name, part) for part in SETS.values())]
display(
    Markdown(
        "**Outcome.** "
        + (f"As the paper says, {listed(as_said)} learned the training set and generalise{'s' * (len(as_said) == 1)} less well. " if as_said else "")
        + (f"The training set itself was not learned by {listed(not_learned)}. " if not_learned else "")
        + (f"{listed(absent)}: not run. " if absent else "")
        + f"*Learned* is a training error below {LEARNED:g}. A CNN that has not learned its training images after so many of them does not tell how it would generalise if it had; a wide gap by then says that what it has learned does not carry over."
    )
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-claim-signs-speed)=
# (cell-claim-signs-memory)=
# ### Ten times faster, a seventeenth of the memory?
#
# Milliseconds on our CPU and on the paper's GPU have nothing to say to each other; ratios within one machine do.

# %% tags=["hide-input"]
(time_ratio, time_paper), (memory_ratio, memory_paper) = ratio("Deep MIL", 0), ratio("Deep MIL", 1)
display(
    plots.table(
        ["the claim", "the paper's table", "here", ""],
        [
            ["Deep MIL takes more than 10 times the time of ATS-5", f"{time_paper:.1f}", f"{time_ratio:.1f}", "holds" if time_ratio > 10 else "does **not** hold"],
            ["Deep MIL takes 17 times the memory of ATS-5", f"{memory_paper:.1f}", f"{memory_ratio:.1f}", "holds" if memory_ratio >= 17 else "does **not** hold"],
        ],
    )
)
Markdown(
    f"CNN 1 takes {measured['CNN 1'][0] / measured['Deep MIL'][0]:.1f} times the time of Deep MIL here, {PAPER['CNN 1'][3] / PAPER['Deep MIL'][3]:.1f} times in the paper. [The cost chapter](13_cost.ipynb) has more."
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-slow)=
# ## Why learning is slow: how often a sign is seen
#
# A patch of 100 × 100 pixels around a location of the attention map shows a sign, let us say, if it shows at least half of the
# sign's box. The next cell counts for each training image how many locations of the map (the table below has how many there are) show
# a sign. Attention begins close to uniform, and as long as it is, attention sampling is uniform sampling: $N$ equally spaced points along
# a curve through the map. The chance that one of them falls on a sign's locations is exact: it is the length of the stretches
# of the curve that belong to these locations, each shifted back by multiples of $1/N$ to the beginning, without counting an overlap twice, over $1/N$
# (`atslib.experiments.signs.chance_to_see`).


# %%
torch.manual_seed(0)
model = speed_limits.build_model(n_patches=5, profile="laptop")
prior = speed_limits.build_model(n_patches=5, profile="windows").attention  # not trained
# The prior looks at every image, which only photographs are worth.
chances = chances_to_see(train_set, model, prior=prior if photographs else None)
if photographs:
    window_chances = chances_to_see(window_sets[0], model, prior=prior)
small_model = speed_limits.build_model(n_patches=5, profile="small")
small_train = GeneratedRoads("train", small.n_train, small.size, sign_width=small.sign_width)
small_chances = chances_to_see(small_train, small_model)

# The formula against the library's own draws, on one image.
numbers = [i for i in range(len(train_set)) if train_set.boxes(i)]
corners, map_size = patch_corners(model, train_set[numbers[0]][0][None])
shows = torch.from_numpy(shows_sign(corners, model.patch_size, train_set.boxes(numbers[0])))
flat = torch.full((4000, *map_size), -math.log(len(shows)))
index = Systematic().sample(flat, 10, generator=torch.Generator().manual_seed(0))
hits = shows[index].any(1).double()
print(
    f"one image, ten patches: {chances.uniform[10][0]:.4f} by the formula, {hits.mean():.4f} ± {hits.std() / 4000**0.5:.4f} in 4,000 draws"
)

# %% mystnb={"image": {"alt": "Cumulative shares of training images by the chance that five patches show a sign. The lines of uniform draws are steep and lie, from left to right, on whole photographs, on windows and on small drawn roads. The lines of draws that start where the view is red lie farther right and spread widely."}}
which = "whole photographs" if photographs else "drawn roads, full size"
LINES = [(f"{which}, uniform", chances.uniform[5], plots.BLUE, "-")]
if photographs:
    LINES += [
        (f"{which}, red prior", chances.prior[5], plots.BLUE, "--"),
        ("windows, uniform", window_chances.uniform[5], plots.GREEN, "-"),
        ("windows, red prior", window_chances.prior[5], plots.GREEN, "--"),
    ]
LINES += [("small drawn roads, uniform", small_chances.uniform[5], plots.ORANGE, "-.")]
figure, ax = plt.subplots(figsize=(7, 3.2))
for label, values, colour, dash in LINES:
    ax.plot(
        np.sort(values),
        (np.arange(len(values)) + 1) / len(values),
        color=colour,
        linestyle=dash,
        label=label,
    )
ax.set(
    xlabel="chance that five patches show a sign",
    ylabel="share of training images",
    xlim=(-0.02, 1.02),
    ylim=(0, 1.02),
)
ax.legend(loc="lower right", fontsize=9)
plt.show()

# %% tags=["hide-input"]
ranked = sorted((values.mean(), label) for label, values, *_ in LINES)
display(
    Markdown(
        "A line tells how many images have a chance of at most so much: the further right, the more a draw teaches. "
        f"**What to see:** farthest left lies the line of {ranked[0][1]}, farthest right, by its mean, that of {ranked[-1][1]}."
        + (" Lines with the *red prior* are attention that has not been trained but starts where the view is red." if photographs else "")
    )
)

# %% tags=["hide-input"]
rows = []
for what, found, total in (
    (which, chances, len(train_set)),
    *([("windows", window_chances, len(train_set))] if photographs else []),
    ("small drawn roads", small_chances, len(small_train)),
):
    rows.append(
        [
            what,
            f"{len(found.locations)} of {total}",
            f"{np.median(found.locations):.0f} of {math.prod(found.map_size):,}",
            f"{found.uniform[5].mean():.1%}",
            f"{found.uniform[10].mean():.1%}",
            f"{found.prior[5].mean():.0%}" if found.prior else "–",
        ]
    )
plots.table(
    [
        "",
        "images with a sign",
        "locations that show it (median)",
        "seen by 5 uniform draws",
        "by 10",
        "by 5 with the red prior",
    ],
    rows,
)

# %% [markdown]
# In the other visits the answer is taught from patches of trees, houses and sky. How many visits with a sign does a whole training run get, as
# long as attention has not learned anything? (With *balanced*, three of four visits are to an image with a sign; otherwise as many as there are.)

# %% tags=["hide-input"]
per_epoch = chances.uniform[5].sum()
n_train = len(train_set)
dear = measured["Deep MIL"][0] / measured["ATS-5"][0]
rows = []


def schedule(what, visits, seen, time=""):
    """visits: to images with a sign; seen: share of them that shows it."""
    rows.append([what, f"{visits:,.0f}", f"{visits * seen:,.0f}", time])


def first_time(some):
    return f"{hours(some[0])} ({'bfloat16' if 'bfloat16' in machine(some[0]) else 'float32'})"


with_sign = len(chances.locations) / n_train
schedule(f"{which}, the released code's 500 epochs", 500 * len(chances.locations), chances.uniform[5].mean())
schedule(f"{which}, the paper's 300,000 iterations, at the released code's 32 images", 300_000 * 32 * with_sign, chances.uniform[5].mean())
for (name, seen, changed), some in group(windowed).items():
    if photographs and not name.startswith("CNN"):
        before = window_chances.prior if name.startswith("ATS") else window_chances.uniform
        share = 1.0 if name == "Deep MIL" else before[int(name.split("-")[1])].mean()
        red = " with the red prior" if name.startswith("ATS") else ""
        schedule(f"windows, balanced: {name}{changed}{red}", 0.75 * seen, share, first_time(some))
for (name, seen, changed), some in group(drawn).items():
    if name in ("ATS-5", "U-5", "ATS-10", "U-10"):
        share = small_chances.uniform[10 if name.endswith("10") else 5].mean()
        schedule(f"small drawn roads: {name}{changed}", 0.75 * seen, share, first_time(some))
display(plots.table(["before attention has learned", "visits to a sign", "of these it is seen in", "time here, by the clock"], rows))

mil_grid = speed_limits.build_model(profile="laptop", method="deep_mil").top_left(torch.zeros(1, 3, height, width))[0].numpy()
seen_by_mil = sum(shows_sign(mil_grid, speed_limits.PATCH, train_set.boxes(i)).any() for i in numbers)
Markdown(
    f"On whole images Deep MIL's grid shows the sign of {seen_by_mil} of the {len(chances.locations)} images in every epoch, five uniform patches that of {per_epoch:.1f}; but "
    f"an image costs Deep MIL {dear:.0f} times as much. For the same computation Deep MIL thus gets, until attention works, {seen_by_mil / per_epoch / dear:.1f} times as many looks at "
    f"signs as sampling does, each of them one among {len(mil_grid)} patches, not among five. "
    + ("Exploring by sampling has this price. " if seen_by_mil / per_epoch / dear > 1.1 else "Exploring by sampling costs no more; but it needs many visits. ")
    + "The entropy term of [chapter 7](07_entropy_and_exploration.ipynb) is meant for this: attention has to stay spread out until a sign has been "
    "seen often enough. An attention that always found the sign would get the same looks as Deep MIL for a fraction of the "
    "computation. A prior buys the first looks."
)

# %% [markdown]
# (cell-reading)=
# ## How long reading takes: signs that somebody has found
#
# The second thing that decides is how long it takes to learn to read, from so few signs. Take attention away altogether. Cut the sign out of each photograph, 100 × 100 pixels around it (of an image of class
# *none*: another sign, if it has one), and train the paper's feature network and classifier on these patches alone. That is roughly what an
# attention that always finds the sign, and no other thing, would leave to be learned; not exactly, since it is spared the easy cases, empty roads. The same signs through the view say what a
# network could hope for that never sees full resolution. Record of `benchmarks/data.py signs`, three seeds.

# %% mystnb={"image": {"alt": "Two panels, which limit and any limit. In each the balanced error on training and test signs against visits to cut-out signs, at full size and through the view. Training errors fall to near zero. Test errors follow for any limit, lower at full size, and stay far above zero for which limit. A dotted line marks where the short trainings on windows end."}} tags=["hide-input"]
cut_out = json.loads(Path("../benchmarks/data.json").read_text(encoding="utf-8"))["signs"]["outcome"]
reading = {}  # (limits, scale) -> what three trainings ended at, and the way there
for limits, scale in itertools.product(("paper", "any"), ("1.0", "0.3")):
    outcome = cut_out[limits][scale]
    last = np.array([run["confusion"] for run in outcome])  # (seeds, true, answered)
    train_error, test_error = (np.array([run[key] for run in outcome]) for key in ("train_error", "balanced_error"))  # (seeds, times)
    reading[limits, scale] = dict(
        visits=cut_out[limits]["every_epochs"] * sum(cut_out[limits]["n_train"]) * np.arange(1, train_error.shape[1] + 1),
        train=train_error,
        test=test_error,
        binary=[limit_or_none({"final": {"confusion": c}}) for c in last],
        which=[balanced_error(c[1:, 1:]) for c in last],
        of_images=math.sqrt(np.mean([binomial_variance({"final": {"confusion": c}}) for c in last])),
        of_which=math.sqrt(np.mean([binomial_variance({"final": {"confusion": c[1:, 1:]}}) for c in last])),
        tested=last[0].sum(1),
    )
figure, axes = plt.subplots(1, 2, figsize=(7, 3.2), sharey=True)
for ax, (limits, title, guess) in zip(axes, (("paper", "which limit?", 0.75), ("any", "any limit?", 0.5)), strict=True):
    for scale, colour in (("1.0", plots.BLUE), ("0.3", plots.ORANGE)):
        found = reading[limits, scale]
        for what, dash in (("test", "-"), ("train", ":")):
            size = "full size" if scale == "1.0" else "through the view"
            ax.plot(found["visits"], found[what].mean(0), color=colour, linestyle=dash, label=f"{size}, {what}")
    ax.axhline(guess, color=plots.GREY, linestyle="--", linewidth=1)
    ax.axvline(windows.updates * windows.training.batch_size, color=plots.BLACK, linestyle=":", linewidth=1)
    ax.set(title=title, xlabel="visits to cut-out signs", ylim=(0, 0.8))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
axes[0].set(ylabel="balanced error")
axes[1].legend(fontsize=8)
plt.show()

# %% [markdown]
# **What to see:** the dotted lines fall to near zero in both panels; the solid ones come near them only where any limit is asked for. Means of three trainings, on the signs trained on (dotted) and on new ones (solid). The upright dotted line is where a training of the profiles `windows` and `find` ends, if every one of its windows
# had shown the model its sign. **Reading is still being learned by then**, even where nothing has to be found.

# %% tags=["hide-input"]
given_here = windows.updates * windows.training.batch_size


def then(limits, scale, what):
    """What it was after as many visits as a short training has windows."""
    found = reading[limits, scale]
    return np.interp(given_here, found["visits"], found[what].mean(0))


display(
    plots.table(
        ["signs cut out of photographs", "visits", "training error", "balanced test error", "limit or none", "which, of limits taken for one", f"test error after {given_here:,} visits"],
        [
            [
                f"{'which' if limits == 'paper' else 'any'} limit, {'full size' if scale == '1.0' else 'through the view'}",
                f"{found['visits'][-1]:,}",
                shown(found["train"][:, -1]),
                shown(found["test"][:, -1]),
                *((shown(found["binary"]), shown(found["which"])) if limits == "paper" else ("–", "–")),
                f"{then(limits, scale, 'test'):.2f}",
            ]
            for (limits, scale), found in reading.items()
        ]
        + [["a constant answer", "", "", "0.750, any: 0.500", "0.500", "0.667", ""]],
    )
)
which_full, which_view, any_full, any_view = reading.values()
Markdown(
    f"± is the standard error over three trainings, tested on the same images. With other test images, of which only {which_full['tested'][1:].sum()} have one of the three limits, the balanced error of *which limit* would have a standard error of "
    f"{which_full['of_images']:.2f}, the column *which* one of {which_full['of_which']:.2f}; that of *any limit* {any_full['of_images']:.2f}.\n\n"
    f"**Any limit** is told from other signs almost without error in the end ({any_full['test'][:, -1].mean():.2f}), and through the view with {any_view['test'][:, -1].mean():.2f}, where guessing has 0.5: that a sign is a limit can be seen from afar. "
    f"**Which limit** is another matter: the training signs are read ({which_full['train'][:, -1].mean():.2f}), new ones with a balanced error of {which_full['test'][:, -1].mean():.2f}. "
    f"Of the signs of {sum(cut_out['paper']['n_train'][1:])} images ({', '.join(map(str, cut_out['paper']['n_train'][1:]))} of each limit) it has learned these signs, more than their numbers. The paper's {PAPER['ATS-5'][1]} (of all images, not balanced) is of a set with about 100 images of each limit. "
    + (
        f"Through the view the number suffers: {np.mean(which_view['which']):.2f} against {np.mean(which_full['which']):.2f}, where 0.67 is guessing."
        if np.mean(which_view["which"]) - np.mean(which_full["which"]) > 2 * math.hypot(which_full["of_which"], which_view["of_which"])
        else f"That the number suffers from the view is not shown: of what is taken for a limit, {np.mean(which_view['which']):.2f} are misread through the view and {np.mean(which_full['which']):.2f} at full size, where 0.67 is guessing."
    )
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-norm)=
# ## A trap: how patches are normalised
#
# Our first trainings may have been slow for one more reason, of our own making. The paper's feature network is "a ResNet with 8 layers"; the reference it cites normalises over the
# batch. Then a patch's feature depends on which other patches were drawn, and the expectation of [chapter 1](01_attention_as_expectation.ipynb) is no
# longer over a function of the location. So `ResNet8Features` normalises each patch by itself, in groups of four channels, unless told otherwise. The next
# cell takes attention away altogether: it cuts the sign out of small drawn roads, gives it to the feature network, and asks which it is, with either normalisation.

# %% mystnb={"image": {"alt": "Training error on cut-out signs against epochs: with batch normalisation it falls steadily from the error of guessing, with group normalisation it hardly falls."}}
crops, labels = [], []
jitter = torch.Generator().manual_seed(0)
for number in range(240):
    image, label = small_train[number]
    signs = small_train.boxes(number) or [sign.box for sign in small_train.signs(number)]
    left, top, right, bottom = signs[0]
    by = torch.randint(-6, 7, (2,), generator=jitter)
    middle = torch.tensor([(top + bottom) / 2, (left + right) / 2])
    corner = (middle - small.patch / 2 + by).long()
    crops.append(
        extract_patches(image[None], corner[None, None], small.patch)[0, 0].float() / 255
    )
    labels.append(label)
crops, labels = torch.stack(crops), torch.tensor(labels)


def read_signs(norm, epochs=6):
    """Training error of each epoch."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        ResNet8Features(norm=norm), Classifier(32, 4, scale=small.feature_scale)
    )
    optimiser, errors = (
        torch.optim.Adam(network.parameters(), lr=small.training.learning_rate),
        [],
    )
    for _ in range(epochs):
        wrong = 0
        for some in torch.randperm(len(labels)).split(8):
            logits = network(crops[some])
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(logits, labels[some]).backward()
            optimiser.step()
            wrong += (logits.argmax(1) != labels[some]).sum().item()
        errors.append(wrong / len(labels))
    return errors


read = {norm: read_signs(norm) for norm in ("batch", "group")}
figure, ax = plt.subplots(figsize=(7, 2.8))
for (norm, errors), colour, marker in zip(
    read.items(), (plots.BLUE, plots.ORANGE), "os", strict=True
):
    ax.plot(
        range(1, len(errors) + 1),
        errors,
        color=colour,
        marker=marker,
        label=f"{norm} normalisation",
    )
ax.axhline(0.75, color=plots.GREY, linestyle="--", linewidth=1)
ax.set(xlabel="epochs of 240 cut-out signs", ylabel="training error", ylim=(0, 0.9))
ax.legend()
plt.show()

# %% tags=["hide-input"]
guessed, ends = 0.75, {norm: errors[-1] for norm, errors in read.items()}
not_begun = ends["group"] > guessed - 2 * math.sqrt(guessed * (1 - guessed) / len(labels))
Markdown(
    f"**What to see:** after {len(read['batch'])} epochs the training error is {ends['batch']:.2f} with batch normalisation and {ends['group']:.2f} with group normalisation; the broken line is guessing. "
    + (
        f"Within {len(read['batch'])} epochs of {len(labels)} signs, with one seed, group normalisation had {'not begun to learn' if not_begun else 'learned less'}; therefore the profiles `small`, `windows` and `find` normalise over the batch. "
        "A possible reason, not tested: the last layer averages over the patch, and an average of what has just been normalised within this patch may say little. Whether group normalisation learns in a longer time was not tried, "
        "and how much the batch's influence costs in bias we do not know."
        if ends["group"] - ends["batch"] > 0.1
        else "Here they do not differ by much."
    )
)

# %% [markdown]
# ## A few seconds of training, live
#
# The same code as the recorded runs, for a few seconds: it shows how a run is written, and the beginning of the plateau.

# %%
with tempfile.TemporaryDirectory() as out:
    changes = (("n_train", 128), ("n_test", 40), ("updates", 64))
    live = Run(
        "speed_limits", n_patches=5, profile="small", changes=changes, data="generated", out=out
    )
    curve = train(
        live.build(),
        live.loaded.train,
        None,
        live.settings,
        augment=live.loaded.augment,
        progress=False,
    )
print(
    f"{len(curve)} epochs of {len(live.loaded.train)} images; loss {curve[0]['train_loss']:.2f} -> {curve[-1]['train_loss']:.2f}"
)

# %% mystnb={"image": {"alt": "Training loss against images seen, logarithmic, of the short live run and of the recorded runs of each method, with a line at the loss of guessing."}}
figure, ax = plt.subplots(figsize=(7, 3.6))
LINES = {
    "ATS-5": (plots.BLUE, "-"),
    "ATS-10": (plots.SKY, "-"),
    "U-5": (plots.ORANGE, "--"),
    "U-10": (plots.ORANGE, ":"),
    "Deep MIL": (plots.GREEN, "-."),
    "CNN 0.3": (plots.RED, ":"),
    "CNN 0.5": (plots.PURPLE, ":"),
}
for name, (colour, dash) in LINES.items():
    for number, r in enumerate(runs_of(name, compared)):
        x = np.array(r["curve"]["epoch"]) * r["dataset"]["n_train"]
        label = f"{marked(name, compared)}, recorded" if not number else None
        ax.plot(
            x,
            r["curve"]["train_loss"],
            color=colour,
            linestyle=dash,
            label=label,
            alpha=0.8,
            marker=".",
        )
x = np.array([entry["epoch"] for entry in curve]) * len(live.loaded.train)
ax.plot(
    x,
    [entry["train_loss"] for entry in curve],
    color=plots.BLACK,
    marker=".",
    label="ATS-5, live",
)
ax.axhline(math.log(4), color=plots.GREY, linestyle="--", linewidth=1)
ax.set(xscale="log", xlabel="images seen", ylabel="training loss (nats)", ylim=(0, 1.8))
ax.legend(fontsize=9)
plt.show()

# %% tags=["hide-input"]
ended = {name: [r["curve"]["train_loss"][-1] for r in some] for name in ("ATS-5", "ATS-10", "U-5", "U-10") if (some := runs_of(name, compared))}
by_attention, by_chance = ([loss for n in (5, 10) for loss in ended.get(f"{method}-{n}", [])] for method in ("ATS", "U"))
text = "The grey line, $\\ln 4$, is the loss of guessing. "
if ended:
    text += f"**What to see:** where the lines end. The last training losses are {listed([f'{shown(losses)} with {name} ({count(losses)})' for name, losses in ended.items()])}. "
if by_attention and by_chance and min(by_chance) > max(by_attention):
    text += (
        "Every training with uniform draws ends above every one with attention. A possible reason, which was not tested by itself: in attention sampling the two networks help each other. "
        "Features that tell a sign pull attention towards signs, and attention on signs shows the features more of them. Uniform sampling has no such loop."
    )
elif by_attention and by_chance:
    text += f"With uniform draws they lie between {min(by_chance):.2f} and {max(by_chance):.2f}, with attention between {min(by_attention):.2f} and {max(by_attention):.2f}: these ranges overlap."
if "U-10" in ended:
    text += f" Ten uniform patches of {math.prod(small_chances.map_size)} locations see a sign in {small_chances.uniform[10].mean():.0%} of the visits to an image that has one, five in {small_chances.uniform[5].mean():.0%}."
display(Markdown(text))
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# ## Where attention falls, in numbers
#
# For each test image with a sign: the attention on the locations that show it, and the chance that systematic draws from this attention, as many as the method makes,
# see it (for Deep MIL, which draws nothing, five draws from its attention, to compare). A uniform attention is the yardstick, and so is the
# attention before training.


# %% tags=["hide-input"]
def look(trained, images):
    """Log-attention of each image."""
    with torch.no_grad():
        return [trained(image[None], generator=torch.Generator().manual_seed(0)).log_attention[0] for image in images]


def measure(runs, images, boxes):
    """Of each network, trained and before: shares of attention on signs, of a uniform one, chance that its draws see them; all by image."""
    found = []
    for name in ("ATS-5", "ATS-10", "Deep MIL"):
        for r in runs_of(name, runs):
            if (trained := load_model(r)) is None:
                continue
            corners, _ = patch_corners(trained, images[0][None])
            shows = [shows_sign(corners, trained.patch_size, some) for some in boxes]
            n = r["n_patches"] or 5
            for when, model in (("trained", trained), ("before training", untrained(r))):
                if when == "before training" and name == "Deep MIL":
                    continue
                by_image = np.array([attention_on(a, s, n) for a, s in zip(look(model, images), shows, strict=True)]).T
                found.append((name, r["seed"], when, n, *by_image))
    return found


def about_attention(name, found, what, called):
    """What training has done to a method's attention, in words."""
    trained, before = ([row for row in found if row[:1] == (name,) and row[2] == when] for when in ("trained", "before training"))
    share, flat, chance = (np.mean([row[k] for row in trained], axis=0) for k in (4, 5, 6))  # mean over seeds, by image
    ratio, n = share.mean() / flat.mean(), trained[0][3]
    seeds = [str(row[1]) for row in trained]
    text = f"{called} (seed{'s' * (len(seeds) > 1)} {listed(seeds)}) puts {'on average ' * (len(seeds) > 1)}{ratio:.1f} times as much attention on signs as a uniform distribution, and {n} draws from it see a sign in {chance.mean():.0%} of the images. " + (
        "It **has found** them." if chance.mean() > 0.8 else "It prefers them, and **misses many**." if ratio > 1.5 else "It has **not** found them."
    )
    if before:
        share_then, flat_then, chance_then = (np.mean([row[k] for row in before], axis=0) for k in (4, 5, 6))
        change, stderr = mean_and_stderr(chance - chance_then)
        text += (
            f" Before training, by {'its prior' if what.startswith('photographs') else 'chance'} alone, the ratio was {share_then.mean() / flat_then.mean():.1f} and {chance_then.mean():.0%} of the images were seen: "
            + (
                f"**the chance to see a sign has not changed beyond the scatter of {len(chance)} images** ({change:+.2f} ± {stderr:.2f})."
                if abs(change) < 2 * stderr
                else f"training has {'found more of the signs' if change > 0 else 'led away from them' if ratio < share_then.mean() / flat_then.mean() else 'raised the ratio, and yet fewer images are seen'} ({change:+.2f} ± {stderr:.2f}, over the images)."
            )
        )
    return text


measured_on = {}
for what, (runs, images, boxes) in (on_photographs | {"drawn roads": (compared, small_images, small_boxes)}).items():
    found = measured_on[what] = measure(runs, images, boxes)
    if not found:
        display(Markdown(f"No trained weights of attention on {what} yet."))
        continue
    display(Markdown(f"**{what.capitalize()}**, {len(images)} test images with a sign:"))
    rows = [
        [marked(name, runs), seed, when, f"{share.mean():.1%}", f"{flat.mean():.1%}", f"{share.mean() / flat.mean():.1f}", n, f"{chance.mean():.0%}"]
        for name, seed, when, n, share, flat, chance in found
    ]
    display(plots.table(["", "seed", "", "attention on signs", "uniform", "ratio", "draws", "they see it"], rows))
    display(Markdown("\n\n".join(about_attention(name, found, what, marked(name, runs)) for name in dict.fromkeys(row[0] for row in found))))
if not photographs:
    display(Markdown("The photographs were not found: attention on them is measured where they are installed, not on this page."))

# %% [markdown]
# (cell-seen)=
# ### Does seeing the sign help?
#
# The label of an image with a limit can be right because the sign was read, or because roads with a limit of 80 look like each other, or because the network knows this window. Attention sampling lets us
# tell them apart: the same image, drawn from again and again, sometimes shows the model its sign and sometimes not. Six draws of each image, for each network whose weights were kept; of ATS-5 all test images of photographs with a limit, else the first 30. Shares of right answers are means
# over the limits, so that always answering the same limit gives a third at most. Images differ in how hard they are and in how
# often their sign is seen, so the last column compares an image with itself: of those whose sign was seen in some draws and not in others, how much more often the answer is right with the sign in sight.


# %% tags=["hide-input"]
ENOUGH = 10  # images that show both, below which a mean of them says nothing


def gains(seen, right):
    """Of each image, share of right answers with the sign in sight, less that without; NaN where it does not do both."""
    return [r[s].mean() - r[~s].mean() if s.any() and not s.all() else math.nan for s, r in zip(seen, right, strict=True)]


def known(values):
    """Those that are not NaN."""
    return [value for value in values if not math.isnan(value)]


def mean_of_known(values):
    return np.mean(known(values)) if known(values) else math.nan


def right_share(right, where, labels):
    """Mean over labels of the share of right answers among these draws; nan where there is none."""
    shares = [right[labels == c][where[labels == c]] for c in sorted(set(labels.tolist()))]
    return np.mean([share.mean() for share in shares if len(share)]) if where.any() else math.nan


def percent(share):
    return "–" if math.isnan(share) else f"{share:.0%}"


rows, sight = [], {}
question_sets = {"drawn roads": (compared, dict(test=roads))}
if photographs:
    question_sets = {
        "photographs, which limit": (windowed, dict(zip(("training", "test"), window_sets, strict=True))),
        "photographs, any limit": (finding, dict(zip(("training", "test"), find_sets, strict=True))),
    } | question_sets
for title, (runs, sets) in question_sets.items():
    for name, (which, dataset) in itertools.product(("ATS-5", "U-5"), sets.items()):
        if name == "U-5" and which == "training":
            continue
        networks = [(r, trained) for r in runs_of(name, runs) if (trained := load_model(r)) is not None]
        if not networks:
            continue
        everything = name == "ATS-5" and which == "test" and title != "drawn roads"
        numbers_, images_, boxes_ = kept(dataset, len(dataset) if everything else 30)
        labels_ = np.array([int(dataset.labels[i]) for i in numbers_])
        by_network = []  # share of draws that see a sign, right if seen, right if not, gain of each image
        for r, trained in networks:
            generator = torch.Generator().manual_seed(0)
            looks = [answers_by_sight(trained, *each, draws=6, generator=generator) for each in zip(images_, boxes_, labels_, strict=True)]
            seen, right = (np.array(each) for each in zip(*looks, strict=True))  # (images, draws)
            by_network.append((seen.mean(), right_share(right, seen, labels_), right_share(right, ~seen, labels_), gains(seen, right)))
            mine = known(by_network[-1][3])
            gain = f"{'{:+.2f} ± {:.2f}'.format(*mean_and_stderr(mine))}" if len(mine) >= ENOUGH else "too few"
            rows.append([f"{name}, seed {r['seed']}", title, which, len(images_), *(percent(share) for share in by_network[-1][:3]), len(mine), gain])
        # Over the networks: means, of the gain image by image.
        every_gain = known([mean_of_known(of_image) for of_image in zip(*(each[3] for each in by_network), strict=True)])
        sight[name, title, which] = dict(
            zip(("seen", "if_seen", "if_not"), (mean_of_known(each) for each in list(zip(*by_network, strict=True))[:3]), strict=True),
            both=len(every_gain), gain=mean_and_stderr(every_gain) if len(every_gain) >= ENOUGH else (math.nan, math.nan), images=len(images_), networks=len(networks),
        )  # fmt: skip
display(plots.table(["", "", "", "images", "sign is seen", "right if seen", "right if not", "images that do both", "with the sign, same image"], rows))


def training_sight(title):
    """The exact chance that five draws of ATS-5 see a sign of its training images, trained and before training."""
    runs, sets = question_sets[title]
    networks = [(trained, untrained(r)) for r in runs_of("ATS-5", runs) if (trained := load_model(r)) is not None]
    _, images, boxes = kept(sets["training"], len(sets["training"]))
    corners, _ = patch_corners(networks[0][0], images[0][None])
    shows = [shows_sign(corners, networks[0][0].patch_size, some) for some in boxes]

    def chance(model):
        with torch.no_grad():
            return np.mean([attention_on(model.attend(image[None])[1][0], some)[2] for image, some in zip(images, shows, strict=True)])

    return [np.mean([chance(model) for model in models]) for models in zip(*networks, strict=True)], len(images)


def said(title, which, name="ATS-5"):
    """Whether the sign in sight makes a difference, on the same image."""
    (gain, stderr), both = (sight[name, title, which][key] for key in ("gain", "both"))
    if math.isnan(gain):
        return f"only {both} image{'s' * (both != 1)} {'do' if both != 1 else 'does'} both, too few to compare an image with itself"
    if abs(gain) <= 2 * stderr:
        return f"on the same image what the sign in sight adds, {gain:+.2f} ± {stderr:.2f} ({both} images), cannot be told from nothing"
    return f"on the same image the sign in sight {'helps' if gain > 0 else 'harms'}, {gain:+.2f} ± {stderr:.2f} ({both} images)"


def networks_of(of):
    return f"{of['networks']} network{'s' * (of['networks'] > 1)} of ATS-5"


in_sight = ""  # for the summary
title = "photographs, which limit"
if ("ATS-5", title, "training") in sight:
    inside, outside = (sight["ATS-5", title, part] for part in ("training", "test"))
    (now, prior_), n_training = training_sight(title)
    knows = inside["if_not"] > 0.5 and inside["if_not"] > outside["if_not"] + 0.1
    told = [
        f"On the {n_training} training windows with a limit, five draws of the trained attention see a sign in {now:.0%}, of the prior in {prior_:.0%}. "
        f"Yet the answers are right: in {inside['if_not']:.0%} of the draws that show **less than half** of any sign (30 windows).",
        f"On test images they are right in {outside['if_not']:.0%} of such draws and in {outside['if_seen']:.0%} of those that show the sign "
        f"({outside['images']} images; always the same limit: a third); {said(title, 'test')}.",
    ]
    if knows:
        in_sight = f"Asked which limit, the trained ATS-5 ({networks_of(inside).removesuffix(' of ATS-5')}) is right on its training windows in {inside['if_not']:.0%} of the draws that show less than half of any sign: it knows the windows"
        told.append(
            "**It has learned to recognise the windows**, at least in part: which trees, which road, which car belong to which label; up to half of a sign may be in such a patch, too. Each photograph gives one window, the same in every epoch but for small shifts, "
            f"and {len(chances.locations)} windows with a limit are an easy way to a low training loss, open to every method here."
        )
    display(plots.points(f"Which limit, {networks_of(inside)}", told))
title = "photographs, any limit"
if ("ATS-5", title, "test") in sight:
    outside = sight["ATS-5", title, "test"]
    reads = outside["if_seen"] > outside["if_not"] + 0.3
    if reads:
        in_sight += (
            f"{'; asked' if in_sight else 'Asked'} for any limit, {'it' if in_sight else 'ATS-5'} ({networks_of(outside).removesuffix(' of ATS-5')}) is right on test images in {outside['if_seen']:.0%} of the draws that show the sign and in {outside['if_not']:.0%} of the others, "
            f"most of which are of other images; {said(title, 'test')}"
        )
    told = [
        f"On test images {'they are' if outside['networks'] > 1 else 'it is'} right in {outside['if_seen']:.0%} of the draws that show the sign and in {outside['if_not']:.0%} of those that do not ({outside['images']} images, sign seen in {outside['seen']:.0%}); {said(title, 'test')}."
        + (" The two kinds of draws come mostly from different images, which may differ in more than that; the comparison within images does not share this flaw." if reads else ""),
        "The same places are in both classes of that question, but windows with a sign still lie at other heights of a photograph than windows anywhere. "
        + (
            f"U-5 sees a sign in {sight['U-5', title, 'test']['seen']:.0%}; of the limits that it does not see it calls {sight['U-5', title, 'test']['if_not']:.0%} a limit. That it is below the error of a constant answer may come from such a difference between the scenes. "
            if ("U-5", title, "test") in sight
            else ""
        )
        + "On drawn roads the scene says nothing about the label.",
    ]
    display(plots.points(f"Any limit, {networks_of(outside)}", told))

# %% [markdown]
# (cell-fig5)=
# ## Figure 5: attention, and the patches selected
#
# The paper's Figure 5 shows a road with two signs, marked by circles, the attention of Deep MIL and of ATS, and the patches around the signs:
# ATS gives both a high probability, Deep MIL finds both and takes one. Ours shows an image with two signs, the attention of the trained models,
# and the patches that five draws of ATS-5 show, each once, with the number of its draws; a blue frame: it shows a sign. Colours run from 0 to each map's highest value, on a square-root scale: a map of one colour is nearly uniform. The range of its values stands
# below each map. Where a method has several networks with weights, the picture shows the one whose error is in the middle.


# %% tags=["hide-input"]
def models_of(runs):
    """Name -> trained model, and name -> its record: Deep MIL and ATS-5, of those with weights the one whose error is in the middle."""
    found, records_ = {}, {}
    for name in ("Deep MIL", "ATS-5"):
        if with_weights := [(r, trained) for r in runs_of(name, runs) if (trained := load_model(r)) is not None]:
            with_weights.sort(key=lambda each: error_of(each[0]))
            records_[name], found[name] = with_weights[len(with_weights) // 2]
    return found, records_


def which_network(r, runs):
    """Which of the networks of a method the picture shows."""
    every = runs_of(name_of(r), runs)
    if len(every) == 1:
        return f"of {name_of(r)}, seed {r['seed']}, the only run of its length (error {error_of(r):.3f})"
    others = [one for one in every if one is not r and Path(f"../results/weights/{one['stem']}.safetensors").exists()]
    errors = listed([f"{error:.3f}" for error in sorted(map(error_of, every))])
    lost = len(every) - 1 - len(others)
    return (
        f"of {name_of(r)}, seed {r['seed']}, whose error is the {rank_among(r, every)} of {len(every)} ({errors})"
        + (f"; the weights of {'the other' if lost == len(every) - 1 else lost}{'s' * (lost == len(every) - 1 > 1)} were not kept" if lost else "")
    )


def networks_shown(records_, runs):
    """Which networks a picture shows, in a sentence."""
    text = "; ".join(which_network(r, runs) for r in records_.values())
    return f"The networks shown: {text}."


def other_networks(name, r, runs):
    """The other networks of a method that were kept."""
    return [trained for one in runs_of(name, runs) if one is not r and (trained := load_model(one)) is not None]


ABSENT = "The photographs were not found. Where they are installed, this cell shows {}; what is said about photographs in the claim ledger rests on that."


def figure_5(image, boxes, trained, what, runs):
    figure = plt.figure(figsize=(7, 3.9))
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.35, 1])
    axes = top.subplots(1, 3)
    plots.show_image(axes[0], image, what)
    circles(axes[0], boxes)
    for ax, name in zip(axes[1:], ("Deep MIL", "ATS-5"), strict=True):
        if name in trained:
            log_attention = look(trained[name], [image])[0]
            plots.show_attention(ax, log_attention, f"attention of {marked(name, runs)}")
            low, high = (bound.exp().item() * log_attention.numel() for bound in (log_attention.min(), log_attention.max()))
            ax.set_xlabel(f"{low:.2g} to {high:.2g} × uniform", fontsize=9)
        else:
            ax.set_axis_off()
            ax.text(0.5, 0.5, f"{name}:\nno weights", ha="center", va="center", transform=ax.transAxes)
    with torch.no_grad():
        out = trained["ATS-5"](image[None], return_patches=True, generator=torch.Generator().manual_seed(1))
    corners, _ = patch_corners(trained["ATS-5"], image[None])
    shows = shows_sign(corners, trained["ATS-5"].patch_size, boxes)
    attention = out.log_attention.flatten().exp()
    drawn_at = out.index[0].tolist()
    distinct = sorted(set(drawn_at), key=lambda at: -attention[at].item())
    row = bottom.subplots(1, 5)
    for ax in row[len(distinct) :]:
        ax.set_axis_off()
    for ax, at in zip(row, distinct, strict=False):
        times = drawn_at.count(at)
        plots.show_image(ax, out.patches[0][drawn_at.index(at)], f"attention {attention[at]:.3f}" + f"\ndrawn {times} times" * (times > 1))
        ax.title.set_fontsize(9)
        for spine in ax.spines.values():
            spine.set(color=plots.BLUE if shows[at] else "#999999", linewidth=3 if shows[at] else 0.6)
    plt.show()
    return sum(bool(shows[at]) for at in drawn_at)


def sign_by_sign(image, boxes, trained):
    """For each method, the attention on the locations that show each of the signs."""
    shares = {}
    for name, model in trained.items():
        attention = look(model, [image])[0].flatten().exp().numpy()
        corners, _ = patch_corners(model, image[None])
        shares[name] = [attention[shows_sign(corners, model.patch_size, [box])].sum() for box in boxes]
    return shares


def on_any_sign(image, boxes, trained):
    """Share of the attention on any of the signs, and of the locations that show one, for each method."""
    return {name: attention_on(look(model, [image])[0], shows_sign(patch_corners(model, image[None])[0], model.patch_size, boxes))[:2] for name, model in trained.items()}


def brightest(images, boxes, trained, runs):
    """In how many maps the location with the most attention shows a sign, in a sentence."""
    text = []
    for name, model in trained.items():
        corners, _ = patch_corners(model, images[0][None])
        hits = sum(bool(shows_sign(corners, model.patch_size, some)[a.flatten().argmax()]) for a, some in zip(look(model, images), boxes, strict=True))
        text.append((f"in {hits} of {len(images)} maps of " if len(images) > 1 else "in the map of " if hits else "not in that of ") + marked(name, runs))
    return f"**What to see:** the brightest location shows a sign {listed(text)}."


def drawn_that_show(see):
    return f"{ {0: 'none', 5: 'all'}.get(see, see)} of the five draws of ATS-5 show{'s' * (see == 1)} a sign"


def other_shares(images, boxes, records_, runs):
    """The mean share of the attention on the signs with the other networks of ATS-5, in a sentence; empty where there are none."""
    shares = [np.mean([on_any_sign(image, some, {"ATS-5": model})["ATS-5"][0] for image, some in zip(images, boxes, strict=True)]) for model in other_networks("ATS-5", records_["ATS-5"], runs)]
    text = listed([f"{share:.0%}" for share in shares]) if shares else ""
    return f" The other network{'s' * (len(shares) > 1)} of ATS-5 ha{'ve' if len(shares) > 1 else 's'} {text} of {'their' if len(shares) > 1 else 'its'} attention there." if shares else ""


def with_two(boxes):
    return next((i for i, some in enumerate(boxes) if len(some) > 1), 0)


# %% mystnb={"image": {"alt": "Drawn road with orange circles around its signs; beside it the coarse attention maps of Deep MIL and of attention sampling; below, the patches that five draws show, those with a sign framed in blue."}} tags=["hide-input"]
small_models, small_records = models_of(compared)
if "ATS-5" in small_models:
    at = with_two(small_boxes)
    see = figure_5(
        small_images[at], small_boxes[at], small_models, f"drawn road, {roads.classes[int(roads.labels[small_numbers[at]])]}", compared
    )
    shares = sign_by_sign(small_images[at], small_boxes[at], small_models)
    _, roads_images, roads_boxes = kept(roads, len(roads))
    two_signs = [i for i, some in enumerate(roads_boxes) if len(some) == 2]
    by_image = [sign_by_sign(roads_images[i], roads_boxes[i], small_models) for i in two_signs]
    weaker = {name: np.array([min(some[name]) for some in by_image]) for name in small_models}
    display(
        Markdown(
            f"{brightest([small_images[at]], [small_boxes[at]], small_models, compared)} {networks_shown(small_records, compared)} "
            f"{'Both maps are' if len(small_models) == 2 else 'The map is'} coarse: there are only {small.grid[0]} × {small.grid[1]} locations, and so five draws meet some of them more than once; {drawn_that_show(see)}. "
            f"The attention on the two signs is {'; '.join(listed([f'{x:.0%}' for x in each]) + f' with {marked(name, compared)}' for name, each in shares.items())}; a patch that shows both counts for both."
        )
    )
    if len(weaker) == 2:
        more_even = int((weaker["Deep MIL"] > weaker["ATS-5"]).sum())
        display(
            Markdown(
                f"Of all {len(two_signs)} test images of drawn roads with two signs, one network of each method: the sign that gets less attention has, in the median, "
                + " and ".join(f"{np.median(values):.2f} of it with {marked(name, compared)}" for name, values in weaker.items())
                + f"; it has more with {marked('Deep MIL', compared)} in {more_even} (sign test {p_text(sign_test(np.flatnonzero(weaker['Deep MIL'] > weaker['ATS-5']), np.flatnonzero(weaker['Deep MIL'] < weaker['ATS-5'])))}). In the paper's figure it is ATS that gives both signs a high probability, and Deep MIL that takes one."
                + (" This network of Deep MIL was rewarded for spread attention (†), which favours the weaker sign, so it is no fair comparison with the paper's." if marked("Deep MIL", compared) != "Deep MIL" else "")
            )
        )
else:
    display(Markdown("No weights of ATS-5 on drawn roads yet."))

# %% mystnb={"image": {"alt": "Window of a photograph of a road with orange circles around its signs; beside it the attention maps of Deep MIL and of attention sampling; below, the patches that five draws show, those with a sign framed in blue."}} tags=["hide-input"]
real_models, real_records = models_of(finding)
if photographs and "ATS-5" in real_models:
    at = with_two(real_boxes)
    see = figure_5(
        real_images[at], real_boxes[at], real_models, "window of a photograph", finding
    )
    shares = on_any_sign(real_images[at], real_boxes[at], real_models)
    display(
        Markdown(
            f"{brightest([real_images[at]], [real_boxes[at]], real_models, finding)} {networks_shown(real_records, finding)} "
            f"The signs have {listed([f'{share:.1%} of the attention of {marked(name, finding)} (uniform attention: {flat:.1%})' for name, (share, flat) in shares.items()])}; "
            f"{drawn_that_show(see)}.{other_shares([real_images[at]], [real_boxes[at]], real_records, finding)} Before training, the attention of ATS-5 is at what is red in the picture. "
            f"Windows shown in training: {listed([f'{images_seen(r):,} with {marked(name, finding)}' for name, r in real_records.items()])}."
        )
    )
else:
    display(Markdown(ABSENT.format("the same picture of a window of a photograph, whose signs it circles, with the attention of the trained Deep MIL and ATS-5 on it") if not photographs else "No weights of ATS-5 on photographs yet."))

# %% [markdown]
# (cell-fig9)=
# ## Figure 9: more images
#
# The paper's Figure 9 shows a page of test images, each with the attention of Deep MIL and of ATS and the patch at the sign; both find the signs
# also where there are two, and where they are too small to be read in the view. Ours: test images of the drawn roads, the first six with another
# label than *none*, not chosen by how they come out, then photographs (the question is: any limit?), likewise the first. Below each, the share of the attention on the sign.

# %% mystnb={"image": {"alt": "Six rows. In each a drawn road with circles around its signs, the attention of Deep MIL and of attention sampling on it, and the patch at the sign at full resolution."}} tags=["hide-input"]
HEADS = ("image", "Deep MIL", "ATS-5", "at the sign")


def figure_9(images, boxes, trained, patch, runs):
    _, axes = plt.subplots(len(images), 4, figsize=(7, 1.35 * len(images) + 0.3), width_ratios=[1.35, 1.35, 1.35, 1])
    for row, image, some in zip(axes, images, boxes, strict=True):
        plots.show_image(row[0], image)
        circles(row[0], some)
        for ax, name in zip(row[1:3], ("Deep MIL", "ATS-5"), strict=True):
            ax.set_axis_off()
            if name not in trained:
                continue
            log_attention = look(trained[name], [image])[0]
            shows = shows_sign(patch_corners(trained[name], image[None])[0], trained[name].patch_size, some)
            ax.set_axis_on()
            plots.show_attention(ax, log_attention)
            ax.set_xlabel(f"{attention_on(log_attention, shows)[0]:.0%} on the sign", fontsize=8, labelpad=2)
        left, top, right, bottom = some[0]
        corner = [
            int(min(max((low + high - patch) / 2, 0), length - patch))
            for low, high, length in ((top, bottom, image.shape[1]), (left, right, image.shape[2]))
        ]
        plots.show_image(row[3], image[:, corner[0] : corner[0] + patch, corner[1] : corner[1] + patch])
    for ax, head in zip(axes[0], HEADS, strict=True):
        ax.set_title(marked(head, runs))
    plt.show()


def caption_9(images, boxes, trained, records_, runs, more):
    """How much attention is on the signs of these images."""
    shares = [on_any_sign(image, some, trained) for image, some in zip(images, boxes, strict=True)]
    mean = {name: np.mean([found[name] for found in shares], axis=0) for name in trained}
    text = listed([f"{share:.0%} of the attention of {marked(name, runs)} (uniform attention: {flat:.0%})" for name, (share, flat) in mean.items()])
    others = other_shares(images, boxes, records_, runs) if "ATS-5" in records_ else ""
    display(Markdown(f"{brightest(images, boxes, trained, runs)} {networks_shown(records_, runs)} In these images the signs have, on average, {text}.{others} {more}"))


if small_models:
    figure_9(small_images[:6], small_boxes[:6], small_models, small.patch, compared)
    caption_9(
        small_images[:6], small_boxes[:6], small_models, small_records, compared,
        "Signs of the drawn roads are circled only where they set the limit. Others are there as well, also red ones, and attention may fall on them with good reason: to know that a sign is no limit, one has to read it.",
    )  # fmt: skip
else:
    display(Markdown("No weights on drawn roads yet."))

# %% mystnb={"image": {"alt": "Six rows. In each a window of a photograph of a road with circles around its speed limits, the attention of Deep MIL and of attention sampling on it, and the patch at the sign at full resolution."}} tags=["hide-input"]
if photographs and real_models:
    figure_9(real_images[:6], real_boxes[:6], real_models, speed_limits.PATCH, finding)
    caption_9(real_images[:6], real_boxes[:6], real_models, real_records, finding, "Where ATS-5 has little on the sign, the row's last picture shows what it has missed.")
else:
    display(Markdown(ABSENT.format("six windows of photographs, the attention of both methods on them, and the patch at the sign") if not photographs else "No weights on photographs yet."))

# %% [markdown]
# (cell-what-ran)=
# ## What ran, and what is missing


# %% tags=["hide-input"]
def command(run):
    left_out = {"--estimator", "--order", "--out"}
    pairs = zip(run.arguments[1::2], run.arguments[2::2], strict=True)
    return " ".join(f"{option} {value}" for option, value in pairs if option not in left_out)


display(Markdown(f"Of the {len(WANTED)} runs that this chapter asks for, three seeds of each method at its full length, {len(WANTED) - len(missing)} have a record. Shorter trainings are not counted."))
if missing:
    seeds = {}  # what differs in its seed only, in one line
    for run in missing:
        seeds.setdefault(re.sub(r"--seed \d+ ?", "", command(run)), []).append(str(run.seed))
    display(Markdown("Missing; `python -m atslib.experiments speed_limits` with:"))
    print("\n".join(f"{rest} --seed {','.join(some)}" for rest, some in seeds.items()))

# %% [markdown]
# ## Summary

# %% tags=["hide-input"]
points = [
    f"In the view at 0.3, {(0.3 * widths < 20).mean():.0%} of the {'German' if photographs else 'drawn'} signs are less than 20 pixels wide; on drawn roads a network tells crops with a sign from crops without there "
    f"(error {low['sign_or_none']:.3f}) but misreads {low['which_limit']:.0%}, against {full['which_limit']:.0%} at full size (one training of each)."
]
if of := {name: some for name in ORDER if (some := runs_of(name, compared))}:
    claim, ten = (compare(f"ATS-{n}", f"U-{n}", compared) for n in (5, 10))
    points.append(
        f"**Drawn roads**, test error: {', '.join(f'{marked(name, compared)} {shown([plain(r) for r in some])}' for name, some in of.items())}."
        + (
            f" There the claim that five patches by attention are enough, and five from anywhere are not, {'holds in each of these runs' if claim['known'] and claim['means'][0] < claim['means'][1] else f'is {NOT_TESTED}' if claim['untested'] else 'is not shown'}" + ("." if claim["untested"] else f" ({claim['brief']}).")
            if claim
            else ""
        )
        + (f" Ten patches, ATS-10 and U-10: {ten['means'][0]:.3f} and {ten['means'][1]:.3f}, {ten['brief']}." if ten else "")
    )
for title, runs in list(SETS.items())[:2]:
    if runs:
        constant, flat = always_none(classes_of(runs))
        pair = compare("ATS-5", "U-5", runs)
        points.append(
            f"**{title}**, balanced error: {', '.join(f'{marked(name, runs)} {shown([balanced(r) for r in some])}' for name in ORDER if (some := runs_of(name, runs)))}; a constant answer has {flat:g}. "
            + (
                ""
                if not pair
                else "The long training of ATS-5 has no counterpart among the others yet. "
                if unlike(pair["a"], pair["b"])
                else (f"{'In one run of each ' if len(pair['a']) == len(pair['b']) == 1 else ''}ATS-5 is better than U-5" if pair["known"] and pair["means"][0] < pair["means"][1] else f"Whether ATS-5 is better than U-5 is {NOT_TESTED}" if pair["untested"] else "ATS-5 against U-5")
                + ("" if pair["untested"] else f": {pair['brief']}")
                + f". ATS alone starts from a prior{', and another seed may end elsewhere' if len(pair['a']) == 1 else ''}."
            )
            + ("" if any(plain(r) < constant for r in runs) else " The plain error of every run is above that of always answering *none*.")
            + f" Reading signs that somebody else has found ends at {reading['paper' if title.endswith('which limit') else 'any', '1.0']['test'][:, -1].mean():.2f}."
        )
if red_told:
    points.append(f"[**What the prior for red does by itself.**](#cell-red) {' '.join(red_brief)}")
preferences, gained = [], []
for what in on_photographs:
    rows = {when: [row for row in measured_on[what] if row[0] == "ATS-5" and row[2] == when] for when in ("before training", "trained")}
    if all(rows.values()):
        # Share on signs, uniform share and chance, by image: means over the networks.
        before, after = ([np.mean([row[k] for row in some], axis=0) for k in (4, 5, 6)] for some in rows.values())
        change, stderr = mean_and_stderr(after[2] - before[2])
        if change > 2 * stderr:
            gained.append(what.split(", ")[1])
        each = [row[6].mean() for row in rows["trained"]]
        preferences.append(
            f"{what.split(', ')[1]}, {len(each)} network{'s' * (len(each) > 1)}: {before[0].mean() / before[1].mean():.1f} times uniform attention before training, {after[0].mean() / after[1].mean():.1f} times after it; "
            f"five draws see a sign in {before[2].mean():.0%} of the images before, in {after[2].mean():.0%} after" + (f", from {min(each):.0%} to {max(each):.0%}" if len(each) > 1 else "")
        )
if preferences:
    title = (
        f"On photographs training finds more signs than the prior does where the question is *{listed(gained)}*"
        if gained
        else "On photographs it is the prior, not the training, that finds signs"
    )
    points.append(f"**{title}.** Attention of ATS-5 on signs ({'); ('.join(preferences)})." + (" What this does to the error, beside the prior alone, is the point before." if gained and red_told else ""))
if in_sight:
    points.append(f"{in_sight}.")
points.append(
    f"Five uniform patches show the sign of a whole image in {chances.uniform[5].mean():.1%} of the visits"
    + (
        f", of a window in {window_chances.uniform[5].mean():.0%}, and in {window_chances.prior[5].mean():.0%} if attention starts where it is red."
        if photographs
        else "."
    )
)
points.append(f"Deep MIL costs {time_ratio:.0f} times the time and {memory_ratio:.0f} times the memory of ATS-5.")
points.append(f"{len(WANTED) - len(missing)} of the {len(WANTED)} runs of full length were made, and nothing was measured on the paper's Swedish images.")
display(Markdown("\n".join(f"- {point}" for point in points)))

# %% [markdown]
# ## Exercises
#
# :::{exercise}
# :label: ex-10-none
# With unweighted cross-entropy, which error does a model reach on the German test set that has learned nothing but the shares of the classes? And
# with the weights, what does it answer?
# :::
#
# :::{solution} ex-10-none
# :class: dropdown
# Without weights it answers *none*, always, and its error is the share of the images that show a limit. With them all classes count alike, every answer has the same loss, and
# what it answers is decided by noise; its error can be far larger than that of *none*, its balanced error is 0.75 all the same.
# :::
#
# :::{exercise}
# :label: ex-10-n
# How many uniform patches does it take until an image's sign is seen in half of the visits? Use `chances_to_see` with other `counts`.
# :::
#
# :::{solution} ex-10-n
# :class: dropdown
# `{n: chance.mean() for n, chance in chances_to_see(train_set, model, (50, 100, 200)).uniform.items()}`. If a sign is shown by about $m$ of $K$ locations, equally
# spaced draws see it with a chance near $N m / K$, as long as they do not see it twice; half of the visits need about $K / (2m)$ patches. Compare this, with the
# medians of the table above, with the patches of Deep MIL's grid: they are fewer, since half of the visits is less than all of them, and the grid's patches overlap.
# :::
#
# :::{exercise}
# :label: ex-10-prior
# Chapter 7's saliency prior starts attention where the view is bright. Would it help here? What would a prior for road signs look at?
# :::
#
# :::{solution} ex-10-prior
# :class: dropdown
# Brightness does not: the sky is bright. A prior for signs would look at redness, $\max(0, r - \max(g, b)) / (r + g + b)$, since the
# sign's ring is still red in the view; the sum below makes it independent of the light. It raises the chance that an untrained model sees a sign, and with it the speed of learning, at the price of
# knowing something about the task that the paper's model has to find out. The runs on windows have such a prior: the maximum of redness over the receptive field, plus
# ε = 0.01, squared; on drawn roads and in the paper methods do without.
# :::
