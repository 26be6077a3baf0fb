# %% [markdown]
# # Ablation: the weight of the entropy
#
# The paper's loss rewards the entropy of the attention, with a weight $\lambda$ (eq. 21). [Chapter 7](07_entropy_and_exploration.ipynb) derived
# what that does. This chapter removes the term, or makes it large, and follows the attention on images during training.
#
# **What came out**, as the end of this page computes it ([the glossary](../glossary.md) has the words):
#
# :::{glue:md} what-came-out
# :format: myst
# :::
#
# ## What you will learn
#
# - what the attention looks like with $\lambda$ = 0, 0.01, 0.1 and 1, on a task small enough to train on this page;
# - the same on the paper's colon cancer images (its Figure 6);
# - whether the exact value matters around 0.01, where the paper says that it does not;
# - why a value of $\lambda$ may not carry over from one task to another.
#
# **Time and hardware:** 15 minutes to read, half a minute to run on one idle CPU core, some minutes on a busy one; nothing is downloaded. The
# recorded runs took minutes each on one core; a table below has the times.

# %% tags=["parameters"]
profile = "smoke"  # smoke; laptop or paper also train what has no record yet, where the images are
max_seconds = 3600  # for that

# %% tags=["hide-input"]
import itertools
import json
import math
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown, display
from scipy.stats import spearmanr

from atslib import data, plots
from atslib.data.colon_cancer import N_FOLDS
from atslib.experiments import load_records
from atslib.experiments.colon_cancer import PROFILES
from atslib.experiments.history import exchange_test, load_maps, total_variation
from atslib.experiments.runs import sweep
from atslib.experiments.stripes import Stripes, build_model, follow
from atslib.experiments.summary import least_p, mean_and_stderr, permutation_test
from atslib.processes import Processes
from atslib.training import Settings

plots.use_style()


def series(values, digits=2):
    """Numbers or words with commas between them and "and" before the last."""
    words = [value if isinstance(value, str) else f"{value:.{digits}f}" for value in values]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


STYLES = {
    0.0: dict(color=plots.BLACK, linestyle="-"),
    0.005: dict(color=plots.SKY, linestyle="-"),
    0.01: dict(color=plots.BLUE, linestyle="--"),
    0.05: dict(color=plots.PURPLE, linestyle="--"),
    0.1: dict(color=plots.ORANGE, linestyle="-."),
    1.0: dict(color=plots.GREEN, linestyle=":"),
}


# %% [markdown]
# ## What the paper says
#
# §E trains on the colon cancer images of §4.3 with $\lambda \in \{0, 0.01, 0.1, 1\}$ and shows, in Figure 6, the attention on one test image in the
# first 60 epochs. It says three things:
#
# 1. without the term, attention is "very selective" in the first 60 epochs, which "might hinder the exploration";
# 2. a large $\lambda$ "drives the sampling distribution towards uniform";
# 3. "values close to 0.01 (e.g. 0.005 or 0.05) had no observable difference in terms of the final attention distribution".
#
# ## A small case, live
#
# First a task that trains in seconds. An image of 96 × 96 grey pixels holds two bright *striped* squares and four dark *plain* ones.
# The class is the direction of the stripes. The small view, 24 × 24, shows which squares are bright, but not the stripes. So attention
# can learn to look at the bright squares, and it learns this only from the answers that patches drawn there give.

# %%
train_set, tests = Stripes(320, seed=0), Stripes(128, seed=1)
views = build_model(5, seed=0).view(torch.stack(tests.images))


def watch(weight: float, seed: int = 0, n_patches: int = 5, epochs: int = 10) -> dict:
    """Train with λ = weight; log-attention on the test images after each epoch, and how it
    ended.
    """
    schedule = dict(
        epochs=epochs,
        batch_size=16,
        learning_rate=3e-3,
        schedule="cosine",
        test_every=1000,
        bfloat16=False,
    )
    settings = Settings(entropy_weight=weight, seed=seed, **schedule)
    return follow(build_model(n_patches, seed), train_set, tests, settings)


small = {weight: watch(weight) for weight in STYLES}
# other initial weights, other order of images: the effect of chance
again = watch(0.01, seed=1)

# %% mystnb={"image": {"alt": "A test image with two striped and four dark squares, and the same at 24 × 24, where stripes cannot be seen."}}
figure, axes = plt.subplots(1, 2, figsize=(5, 2.5))
plots.show_image(axes[0], tests.images[0], "a test image, 96 × 96")
plots.show_image(axes[1], views[0], "what attention sees, 24 × 24")
plt.show()

# %% mystnb={"image": {"alt": "Grid of small maps. Rows lambda 0, 0.01, 0.1 and 1, columns epochs 0, 4, 6 and 10. All begin uniform. With lambda 0 attention ends bright at the striped squares and dark elsewhere, with larger lambda the contrast is weaker, and with 1 the map stays nearly even."}}
PAPER_WEIGHTS = [0.0, 0.01, 0.1, 1.0]
times = [0, 4, 6, 10]
plots.show_maps(
    {
        f"λ = {weight:g}": [small[weight]["maps"][epoch][0] for epoch in times]
        for weight in PAPER_WEIGHTS
    },
    [f"epoch {epoch}" for epoch in times],
    "attention, times uniform",
);

# %% [markdown]
# The same test image, one row for each $\lambda$. The colour compares the attention of a location with uniform attention: yellow is 16 times as much or
# more, grey as much, blue a sixteenth or less.

# %% mystnb={"image": {"alt": "Left: entropy of the attention against epoch for six weights; all start at log 576, lambda 0 falls lowest, lambda 1 stays at the top. Right: the share of attention on the striped squares, highest for lambda 0 and close to that of uniform attention for lambda 1."}}
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.4))
for weight, style in STYLES.items():
    left.plot(small[weight]["entropy"], **style, label=f"λ = {weight:g}")
    right.plot(small[weight]["mass"], **style)
left.axhline(math.log(576), color=plots.GREY, linewidth=1)
right.axhline(tests.striped().float().mean(), color=plots.GREY, linewidth=1)
left.set(xlabel="epoch", ylabel="entropy (nats)", ylim=(0, None))
right.set(xlabel="epoch", ylabel="attention on stripes", ylim=(0, 1.02))
figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3)
plt.show()

# %% tags=["hide-input"]
rows = [
    [
        f"{weight:g}",
        f"{r['entropy'][4]:.2f}",
        f"{r['entropy'][-1]:.2f}",
        f"{math.exp(r['entropy'][-1]):.0f}",
        f"{r['mass'][-1]:.2f}",
        f"{r['error']:.2f}",
        f"{r['loss']:.3f}",
    ]
    for weight, r in small.items()
]
display(
    plots.table(
        ["λ", "entropy, epoch 4", "entropy, end", "as a number of 576 locations", "on stripes, end", "test error", "test loss"],
        rows,
    )
)


def apart(a, b):
    """Total variation of two distributions, mean over the test images."""
    return total_variation(a["maps"][-1].flatten(1), b["maps"][-1].flatten(1)).mean().item()


span, chance = apart(small[0.005], small[0.05]), apart(small[0.01], again)
ends = {weight: r["entropy"][-1] for weight, r in small.items()}
lowest = min(ends, key=ends.get)
rising = list(ends.values()) == sorted(ends.values())
turned = [f"{weight:g}" for weight, r in small.items() if ends[weight] - min(r["entropy"]) > 0.1]
of_value, of_chance = abs(ends[0.05] - ends[0.005]), abs(ends[0.01] - again["entropy"][-1])
display(
    Markdown(
        f"**What to see:** all lines begin near the grey ones, uniform attention (log 576 = {math.log(576):.2f} nats, and {tests.striped().float().mean():.2f} on the stripes). "
        + f"At the end the attention on the stripes is {small[min(small)]['mass'][-1]:.2f} with λ = {min(small):g} and {small[max(small)]['mass'][-1]:.2f} with λ = {max(small):g}, in one run of each. "
        + ("The larger λ, the higher the entropy at the end" if rising else f"The entropy at the end is lowest at λ = {lowest:g}, but does not rise with every step of λ")
        + f"; with λ = 1 it is {math.log(576) - ends[1.0]:.2f} nats below uniform. "
        + (f"With λ = {', '.join(turned)} it falls first and then rises again, by more than a tenth of a nat. " if turned else "")
        + f"\n\nAround 0.01: from λ = 0.005 to 0.05 the entropy changes by {of_value:.2f} nats; from one seed to another, with λ = 0.01, by {of_chance:.2f}. In total variation, "
        f"the share of attention that would have to be moved, the distances are {span:.2f} and {chance:.2f}. One pair of runs is a weak yardstick; the tissue below has more."
    )
)

# %% [markdown]
# A likely reason, not tested here, is that of [chapter 7](07_entropy_and_exploration.ipynb): $\lambda$ is a temperature *in units of the loss*. Once the task is solved, the loss
# gains little from sharper attention, and even a small $\lambda$ spreads it again, until the loss begins to rise. So the effect of a given $\lambda$ depends on how much
# the loss gains by looking in the right place. Here two squares hold everything. On tissue more places are informative:
#
# (cell-epithelium)=

# %% tags=["hide-input"]
near = {}  # image -> share of its locations near an epithelial nucleus, over the test images of all folds
for path in sorted(Path("../results/nuclei").glob("colon_cancer-ats-*.json")):
    near |= {image["id"]: image["area"] for image in json.loads(path.read_text(encoding="utf-8"))["final"]}
Markdown(
    f"In a positive image {np.mean(list(near.values())):.0%} of the locations are near a nucleus marked as epithelial (mean of {len(near)} images; at most {max(near.values()):.0%})."
    if near
    else "How much of a positive image is near an epithelial nucleus is not measured yet: `python -m atslib.experiments.nuclei --data DIR`."
)

# %% [markdown]
# The toy cannot show whether broader attention explores better: nothing in it is hard to find.
#
# ## The images of the paper
#
# Each run trains on 80 of the 100 colon cancer images, one of the five splits of [chapter 9](09_colon_cancer.ipynb), and draws ten patches. Runs of one seed have the same split, the same initial weights and the same order of images; only $\lambda$ differs.

# %% tags=["hide-input"]
shown = "paper" if profile == "paper" else "laptop"
if profile != "smoke":
    weights = [(("entropy_weight", weight),) if weight != 0.01 else () for weight in STYLES]
    try:
        data.ColonCancer()
    except (data.DataError, ImportError) as error:
        print(f"nothing trained: {error}")
    else:
        group = Processes("cuda" if torch.cuda.is_available() else "cpu")
        started = time.monotonic()
        wanted = sweep("colon_cancer", changes=weights, seed=range(6), profile=shown, out="../results")
        if PROFILES[shown].feature_scale != 1:
            unscaled_too = [(("entropy_weight", weight), ("feature_scale", 1.0)) for weight in (0.0, 0.01)]
            wanted += sweep("colon_cancer", changes=unscaled_too, seed=(0, 5, 1, 2), profile=shown, out="../results")
        for run in wanted:
            left = max_seconds - (time.monotonic() - started)
            if run.state != "done" and (left <= 0 or not run.execute(group, max_seconds=left)):
                break

records = load_records("../results/runs")
records = records[(records["experiment"] == "colon_cancer") & (records["method"] == "ats") & (records["profile"] == shown)]
records = records[(records["estimator"] == "systematic") & (records["settings.order"] == "hilbert")]
real = records[~records["file"].str.contains("generated")]
# as many updates as the paper's, of which nothing else is changed but λ
length = {"settings.changes.updates", "settings.changes.test_every"}
as_long_as_paper = real[(real["settings.updates"] == PROFILES["paper"].updates) & real[sorted(length & set(real.columns))].notna().all(axis=1)]
not_length = [c for c in real.columns[real.columns.str.startswith("settings.changes.")] if c not in length | {"settings.changes.entropy_weight"}]
as_long_as_paper = as_long_as_paper[as_long_as_paper[not_length].isna().all(axis=1) & (as_long_as_paper["n_patches"] == 10)]
others_changed = [c for c in real.columns[real.columns.str.startswith("settings.changes.")] if c not in ("settings.changes.entropy_weight", "settings.changes.feature_scale")]
real = real[real[others_changed].isna().all(axis=1)]  # those with other changes are for other chapters
usual_scale = PROFILES[shown].feature_scale
unscaled = real[(real["settings.feature_scale"] == 1) & (real["n_patches"] == 10)] if usual_scale != 1 else real[:0]
real = real[real["settings.feature_scale"] == usual_scale]
ten = real[real["n_patches"] == 10].set_index("settings.training.entropy_weight")
of = {
    weight: ten.loc[[weight]][ten.loc[[weight], "seed"] == 0].iloc[0]
    for weight in STYLES
    if ((ten.index == weight) & (ten["seed"] == 0)).any()
}
stem = {weight: Path(row["file"]).stem for weight, row in of.items()}
EXPERIMENT = f"python -m atslib.experiments colon_cancer --profile {shown} --data DIR --resume"

runs_of = {weight: ten.loc[[weight]].set_index("seed").sort_index() for weight in STYLES if weight in ten.index}
rows, missing = [], []
for weight in STYLES:
    runs = runs_of.get(weight)
    paper_says = "Fig. 6" if weight in PAPER_WEIGHTS else "in the text"
    minutes = [] if runs is None else [seconds[-1] / 60 for seconds in runs["curve.seconds"]]
    took = f"{min(minutes):.1f} … {max(minutes):.1f} min" if minutes else ""
    rows.append([f"{weight:g}", paper_says, ", ".join(map(str, runs.index)) if minutes else "none", took])
    lacking = [str(seed) for seed in range(6) if not minutes or seed not in runs.index]
    if lacking:
        missing.append(f"`--set entropy_weight={weight:g} --seed {','.join(lacking)}`")
display(plots.table(["λ", "in the paper", "recorded seeds", "training took"], rows))
if missing:
    display(
        Markdown(
            f"Missing runs come from `{EXPERIMENT}` with {'; '.join(missing)}, and the maps and distances below from `python -m atslib.experiments.history --data DIR` after it."
        )
    )
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-fig6)=
# ### Figure 6
#
# The paper's figure shows the attention on one test image for its four weights, in the first 60 epochs. Its caption reads it as "very selective early" without the
# term. Ours has one row for each $\lambda$, all of one seed, and a further column for the end of training. The image itself may not be shown.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Grid of attention maps of one test image of the colon cancer set, one row for each recorded entropy weight, columns epochs 0 to 60 and the end. The maps begin even and take on structure with time; the rows of the largest weights stay more even."}}
folder = Path("../results/ablations")
path = folder / "distances-fold0.json"
distances = json.loads(path.read_text(encoding="utf-8")) if path.exists() else dict(runs={}, pairs=[], epochs=[])
by_key = {
    (float(weight), int(row["seed"])): Path(row["file"]).stem for weight, row in ten.iterrows() if Path(row["file"]).stem in distances["runs"]
}
LOG_K = math.log(100 * 100)


def entropy_on_tests(name, epoch):
    """Mean over the test images of fold 0, in nats."""
    return float(np.interp(epoch, distances["epochs"], distances["runs"][name]["entropy"]))


def locations(nats):
    """Over so many locations, evenly, attention of this entropy could be spread."""
    return f"{math.exp(nats):,.0f}"


of_seed = {weight: {seed: name for (w, seed), name in by_key.items() if w == weight} for weight in STYLES}
without = {seed: entropy_on_tests(name, 60) for seed, name in of_seed[0.0].items()}
pictured = {f"λ = {weight:g}": name for weight, name in stem.items()}
if without and (most := min(without, key=without.get)) != 0:  # the most selective one too, if it was run on this fold
    pictured = {"λ = 0": pictured.pop("λ = 0", ""), f"λ = 0, seed {most}": of_seed[0.0][most]} | pictured
maps = {label: load_maps(folder / f"{name}.safetensors") for label, name in pictured.items() if (folder / f"{name}.safetensors").exists()}
if maps:
    first = next(iter(maps.values()))
    last = max(first)
    times = [epoch for epoch in (0, 20, 40, 60, last) if epoch in first]
    image = next(iter(first[times[0]]))
    plots.show_maps(
        {label: [m[epoch][image] if epoch in m else None for epoch in times] for label, m in maps.items()},
        [f"epoch {epoch}" for epoch in times],
        "attention, times uniform",
    )
    plt.show()
    print(f"seed 0, test image {image} of fold 0; each value is the attention of 2 × 2 of the 100 × 100 locations")
else:
    print("No maps are stored yet: python -m atslib.experiments.history --data DIR")

# %% tags=["hide-input"]
zero_of = {weight: by_key[weight, 0] for weight in STYLES if (weight, 0) in by_key}
looked_at = (20, 40, 60, max(distances["epochs"], default=0))
if zero_of:
    nats = {weight: [entropy_on_tests(name, epoch) for epoch in looked_at] for weight, name in zero_of.items()}
    display(
        plots.table(
            ["seed 0: attention as if even over … of 10,000 locations", *(f"epoch {epoch}" for epoch in looked_at)],
            [[f"λ = {weight:g}", *map(locations, values)] for weight, values in nats.items()],
        )
    )
    sharpest = {epoch: min(nats, key=lambda weight: nats[weight][k]) for k, epoch in enumerate(looked_at) if epoch in (40, 60)}
    flat = [f"{weight:g}" for weight, values in nats.items() if 0.01 in nats and values[-1] > nats[0.01][-1] + math.log(1.5)]
    reading = (
        "**What this run shows.** Attention is sharpest with "
        + " and with ".join(f"λ = {weight:g} at epoch {epoch}" for epoch, weight in sharpest.items())
        + (", so that the order of λ is not yet there at first. " if sharpest[40] != 0 and sharpest[60] == 0 else ". ")
        + (
            f"Only λ = {' and '.join(flat)} end visibly flatter than the others, on half as many locations again as λ = 0.01 or more. "
            if flat
            else "No row ends visibly flatter than the others. "
        )
        + "The effect of the smaller λ shows in the means over seeds, below."
    )
    if len(without) > 1:
        low, high = min(without, key=without.get), max(without, key=without.get)
        reading += (
            f"\n\n**The seeds are unlike.** Without the term, at epoch 60, attention is as if even over {locations(without[low])} locations with seed {low} and over {locations(without[high])} with seed {high}."
            + ("" if low == 0 or f"λ = 0, seed {low}" in maps else f" Seed {low} is not pictured: it has another split, and maps were kept of fold 0 only.")
        )
    display(Markdown(reading))
# NBVAL_CHECK_OUTPUT

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels, epoch 60 and the end of training: number of locations over which attention is as if even, logarithmic, one dot for each seed, one column for each entropy weight, a ring around seed 0 and a bar at the mean. The dots without the entropy term scatter most and some lie below the line at a tenth of the locations; those of the largest weights lie together near the top."}}
if by_key:
    figure, axes = plt.subplots(1, 2, figsize=(7, 3.3), sharey=True)
    for ax, epoch in zip(axes, (60, looked_at[-1]), strict=True):
        for x, (weight, of_weight) in enumerate(of_seed.items()):
            if not of_weight:
                continue
            nats = {seed: entropy_on_tests(name, epoch) for seed, name in of_weight.items()}
            colour = STYLES[weight]["color"]
            ax.plot([x] * len(nats), np.exp(list(nats.values())), "o", color=colour, alpha=0.7)
            ax.plot([x - 0.3, x + 0.3], [math.exp(np.mean(list(nats.values())))] * 2, color=colour, linewidth=2.5)
            if 0 in nats:
                ax.plot(x, math.exp(nats[0]), "o", mfc="none", color=colour, ms=10)
        ax.axhline(1000, color=plots.GREY, linewidth=1, linestyle="--")
        ax.set(xticks=range(len(of_seed)), xticklabels=[f"{weight:g}" for weight in of_seed], xlabel="λ", yscale="log")
        ax.set_title(f"epoch {epoch}")
    axes[0].set_ylabel("as if even over … locations")
    axes[1].text(len(of_seed) - 0.6, 1000 * 0.92, "a tenth of the locations", ha="right", va="top", fontsize=9, color="#555555")
    plt.show()

# %% [markdown]
# One dot for each seed; the ring is the pictured seed 0; the bar is the mean of the entropy over seeds.
#
# Over time, on the training images of each run:

# %% tags=["hide-input"] mystnb={"image": {"alt": "Entropy of the attention against epoch for each recorded weight, thin lines for single runs and thick ones for their mean, and a line at log 10,000. Left the first 60 epochs, in which the lines begin at the grey one and most fall in the second half, those of the largest weight not at all; right the whole training, at whose end single runs without the term are far below the others."}}
figure, (early, late) = plt.subplots(1, 2, figsize=(7, 3.5), sharey=True)


def draw_runs(ax, weight, epochs, curves):
    """Every run of this λ as a thin line, their mean as a thick one."""
    for curve in curves:
        ax.plot(epochs, curve, color=STYLES[weight]["color"], linewidth=0.6, alpha=0.5)
    ax.plot(epochs, np.mean(curves, axis=0), **STYLES[weight], linewidth=2, label=f"λ = {weight:g} ({len(curves)})")


for ax in (early, late):
    for weight, runs in runs_of.items():
        draw_runs(ax, weight, runs["curve.epoch"].iloc[0], list(runs["curve.entropy"]))
    ax.axhline(LOG_K, color=plots.GREY, linewidth=1)
    ax.set(xlabel="epoch")
early.set(ylabel="entropy (nats)", xlim=(0, 60), title="the first 60 epochs")
late.set(title="all")
figure.legend(*early.get_legend_handles_labels(), title="λ (runs)", loc="outside lower center", ncols=3)
plt.show()


def entropy_at(row, epoch):
    return float(np.interp(epoch, row["curve.epoch"], row["curve.entropy"]))


# %% [markdown]
# Grey: uniform attention over 10,000 locations, $\log K$. Thin lines: single runs, each with a seed and training images of its own; thick: their mean.

# %% tags=["hide-input"]
def leaves(runs):
    """The first recorded epoch at which the mean over runs is a tenth of a nat below uniform attention; None if it never is."""
    mean = np.mean(list(runs["curve.entropy"]), axis=0)
    return next((epoch for epoch, value in zip(runs["curve.epoch"].iloc[0], mean, strict=True) if value < LOG_K - 0.1), None)


if runs_of:
    left_at = {weight: leaves(runs) for weight, runs in runs_of.items()}
    gone, stayed = ([w for w in left_at if (left_at[w] is None) == never] for never in (False, True))
    deepest = {weight: min(curve[-1] for curve in runs["curve.entropy"]) for weight, runs in runs_of.items()}
    lowest_of = min(deepest, key=deepest.get)
    at_end = {weight: np.mean([curve[-1] for curve in runs["curve.entropy"]]) for weight, runs in runs_of.items()}
    words = []
    if gone:
        soonest, latest = min(left_at[w] for w in gone), max(left_at[w] for w in gone)
        words.append(
            f"at first the thick lines stay near the grey one; a tenth of a nat below it is the first at epoch {soonest} (λ = {series([f'{w:g}' for w in gone if left_at[w] == soonest])})"
            + (f", the last at epoch {latest} (λ = {series([f'{w:g}' for w in gone if left_at[w] == latest])})" if latest > soonest else "")
        )
    if stayed:
        words.append(f"with λ = {series([f'{w:g}' for w in stayed])} the mean is never so far below")
    words.append(
        f"at the end the means lie between {min(at_end.values()):.2f} nats (λ = {min(at_end, key=at_end.get):g}) and {max(at_end.values()):.2f} (λ = {max(at_end, key=at_end.get):g}), "
        f"and the lowest single run, with λ = {lowest_of:g}, at {deepest[lowest_of]:.2f}"
    )
    display(Markdown(f"**What to see:** {'; '.join(words)}."))
# NBVAL_CHECK_OUTPUT

# %% tags=["hide-input"]
if of:
    row = next(iter(of.values()))
    steps = math.ceil(row["dataset.n_train"] / row["settings.training.batch_size"])
    low = [f"{weight:g}" for weight, run in of.items() if run["settings.training.bfloat16"]]
    display(
        Markdown(
            f"**Differences from the paper.** {row['settings.updates']:,.0f} updates where the paper has 30,000, of {row['settings.training.batch_size']} images each. The paper gives no batch size; with ours an epoch is {steps} "
            f"updates; were it one image, the paper's 60 epochs would be {row['settings.training.batch_size']} times as many updates as ours. Ten patches, where §E gives no number. "
            + ("A learning rate that falls to zero as a cosine. " if row["settings.training.schedule"] == "cosine" else "A constant learning rate. ")
            + (
                f"Unit-norm features times {row['settings.feature_scale']:g} before the classifier, as in [chapter 8](08_megapixel_mnist.ipynb), where unscaled features are slow to leave chance (here [they are not](#cell-unscaled)); "
                "this changes the loss against which λ is weighed. "
                if row["settings.feature_scale"] != 1
                else ""
            )
            + (
                ("Training" if len(low) == len(of) else f"Training with λ = {', '.join(low)}") + " in bfloat16; the paper does not speak of precision."
                if low
                else "Training in float32."
            )
        )
    )
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# ### Where attention goes
#
# The nuclei of these images are marked. A location is *near* one if its centre is at most half a patch away. Left, the share of attention near an
# epithelial nucleus. Right, the AUC (area under the ROC curve): the probability that a location near one has more attention than one that is not. Both are means over the positive test images. The marks were
# not used in training.


# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: share of attention near epithelial nuclei against epoch for each weight. Right: the AUC of attention for being near an epithelial nucleus. Thin lines are single runs, thick ones their means."}}
def on_nuclei(name):
    path = Path("../results/nuclei") / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


measured = {weight: [found for file in runs["file"] if (found := on_nuclei(Path(file).stem))] for weight, runs in runs_of.items()}
measured = {weight: found for weight, found in measured.items() if found}


def share_by_seed(weight, key="mass"):
    """Of each run of this weight the mean over its test images, at the end."""
    found = {seed: on_nuclei(Path(row["file"]).stem) for seed, row in runs_of[weight].iterrows()}
    return {seed: float(np.mean([image[key] for image in numbers["final"]])) for seed, numbers in found.items() if numbers}


def against_peak(peak):
    """For each other weight: in how many seeds the share near nuclei is below that with this weight, of how many, and the p-value
    of exchanging the two within each seed."""
    at_peak, found = share_by_seed(peak), {}
    for weight in measured:
        shares = share_by_seed(weight)
        both = sorted(shares.keys() & at_peak.keys())
        if weight != peak and both:
            pair = [[of_weight[seed] for seed in both] for of_weight in (shares, at_peak)]
            found[weight] = (sum(a < b for a, b in zip(*pair, strict=True)), len(both), permutation_test(*pair, paired=True))
    return found


def seed_by_seed(peak):
    """The same as words, and below and above which λ a fall is shown."""
    found = against_peak(peak)
    if not found:
        return ""
    counts = [f"in {lower} of {n} seeds with λ = {weight:g} (p = {p:.2g})" for weight, (lower, n, p) in found.items()]
    told = []
    for side, chosen in (("Below", [w for w in found if w < peak]), ("Above", [w for w in found if w > peak])):
        fall = [w for w in chosen if found[w][2] < 0.05 and found[w][0] > found[w][1] / 2]
        if fall and len(fall) == len(chosen):
            told.append(f"{side} λ = {peak:g} a fall is beyond chance at {'every λ' if len(chosen) > 1 else 'the one λ'} that was run")
        elif fall:
            told.append(f"{side} λ = {peak:g} a fall is beyond chance with λ = {series([f'{w:g}' for w in fall])} only")
        elif chosen:
            told.append(f"{side} λ = {peak:g} a fall is not shown")
    fewest = min(n for _, n, _ in found.values())
    return (
        f"{'. '.join(told)}. Seed by seed it is below that {series(counts)}; p is that of exchanging the two runs within each seed in every way, which for {fewest} seeds cannot give less than {least_p(fewest, fewest, paired=True):.2g}, "
        f"and is corrected neither for {len(found)} tests nor for picking the highest mean from the same runs."
    )


def off_the_nuclei():
    """Runs that end with less attention near nuclei than uniform attention has: stuck, whatever their loss."""
    told = []
    for weight in measured:
        shares, areas = share_by_seed(weight), share_by_seed(weight, "area")
        for seed, row in runs_of[weight].iterrows():
            if seed in shares and shares[seed] < areas[seed]:
                told.append(
                    f"with λ = {weight:g} and seed {seed} attention ends as if even over {math.exp(row['curve.entropy'][-1]):,.0f} locations, {shares[seed]:.2f} of it near nuclei, where a uniform one has {areas[seed]:.2f}; "
                    f"its training loss is {row['final.train_loss']:.2f}, its test loss {row['final.test_loss']:.2f}"
                )
    return told
if measured:
    figure, axes = plt.subplots(1, 2, figsize=(7, 3.4))
    for key, label, ax in zip(("mass", "auc"), ("attention near epithelial nuclei", "AUC"), axes, strict=True):
        for weight, found in measured.items():
            epochs = sorted({int(epoch) for numbers in found for epoch in numbers["epochs"]})
            draw_runs(ax, weight, epochs, [[numbers["epochs"][str(epoch)][key] for epoch in epochs] for numbers in found])
        ax.set(xlabel="epoch", ylabel=label)
    areas = [np.mean([image["area"] for image in numbers["final"]]) for found in measured.values() for numbers in found]
    axes[0].axhspan(min(areas), max(areas), color=plots.GREY, alpha=0.4, linewidth=0)
    axes[1].axhline(0.5, color=plots.GREY, linewidth=1)
    figure.legend(*axes[0].get_legend_handles_labels(), title="λ (runs)", loc="outside upper center", ncols=3)
    plt.show()
    rank, near = (
        {weight: np.mean([np.mean([image[key] for image in numbers["final"]]) for numbers in found]) for weight, found in measured.items()}
        for key in ("auc", "mass")
    )
    ended = [m[last] for label, m in maps.items() if last in m and "seed" not in label] if maps else []
    ranks = [
        spearmanr(a[number].flatten(), b[number].flatten()).statistic
        for a, b in itertools.combinations(ended, 2)
        for number in a
    ]
    radii = series([f"{radius:g}" for radius in sorted({numbers["radius"] for found in measured.values() for numbers in found})])
    peak = max(near, key=near.get)
    falling = list(near.values()) == sorted(near.values(), reverse=True)
    see = [
        (
            "The share near nuclei, as the mean over runs, falls with every step of λ."
            if falling
            else f"The share near nuclei, as the mean over runs, is highest at λ = {peak:g} ({near[peak]:.2f}) and lower at both ends: {near[min(near)]:.2f} at λ = {min(near):g}, {near[max(near)]:.2f} at λ = {max(near):g}."
            if peak not in (min(near), max(near))
            else f"The share near nuclei, as the mean over runs, is highest at λ = {peak:g} ({near[peak]:.2f}) and lowest at λ = {min(near, key=near.get):g} ({min(near.values()):.2f})."
        ),
        *([by_seed] if (by_seed := seed_by_seed(peak)) else []),
        f"The AUC at the end is between {min(rank.values()):.2f} and {max(rank.values()):.2f} for every λ"
        + (f" ({rank[1.0]:.2f} with λ = 1, whose map is nearly flat)." if 1.0 in rank else "."),
    ]
    if ranks:
        see.append(
            f"The maps of any two λ, seed 0, have a rank correlation of {min(ranks):.2f} or more at the end ({len(ended[0])} test images): "
            + ("in this seed λ changes how strongly the nuclei are preferred, and hardly which places are." if min(ranks) > 0.9 else "λ changes which places are preferred, too.")
        )
    display(Markdown(f"Each run is measured on its own test images. Near: within {radii} pixels. Grey: uniform attention, left the range over the folds."))
    display(plots.points("What to see", see))
else:
    print("No agreement with nuclei is recorded yet: python -m atslib.experiments.nuclei --data DIR")

# %% [markdown]
# (cell-claim-entropy-plateau)=
# ### At the end, and the verdicts

# %% tags=["hide-input"]
tv = {frozenset((pair["a"], pair["b"])): pair["tv"][-1] for pair in distances["pairs"]}  # at the last epoch


def with_range(values, digits=2):
    """Mean, and lowest to highest if there are several."""
    return f"{np.mean(values):.{digits}f}" + (f" ({min(values):.{digits}f} … {max(values):.{digits}f})" if len(values) > 1 else "")


def pm(values):
    mean, stderr = mean_and_stderr(values)
    return f"{mean:.2f}" + ("" if math.isnan(stderr) else f" ± {stderr:.2f}")


rows = []
for weight, runs in runs_of.items():
    found = measured.get(weight, ())
    rows.append(
        [
            f"{weight:g}",
            len(runs),
            with_range([entropy_at(row, 60) for _, row in runs.iterrows()]),
            with_range([row["curve.entropy"][-1] for _, row in runs.iterrows()]),
            *(pm(runs[f"final.{key}"]) for key in ("train_loss", "test_loss", "test_error")),
            *(pm([np.mean([image[key] for image in numbers["final"]]) for numbers in found]) if found else "–" for key in ("mass", "auc")),
        ]
    )
display(plots.table(["λ", "runs", "entropy, epoch 60", "entropy, end", "train loss", "test loss", "test error", "on nuclei", "AUC"], rows))
display(
    Markdown(
        f"Entropies: training images of each run, lowest … highest run in brackets. Uniform attention has {LOG_K:.2f} nats, a tenth of the locations evenly {LOG_K - math.log(10):.2f}. ± is the standard error over runs. Each run is tested on 20 images: "
        "one more mistake is an error of 0.05, and differences of that size say nothing."
    )
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# **Each $\lambda$ against 0.01.** The run of the same seed has the same initial weights and the same images in the same order. *Entropy* is that of the attention on the 20 test images of fold 0,
# for all runs: seeds 0 and 5 have not been trained on them, the others have, since the folds share out the images; its p-value comes from exchanging the two runs within each seed in every way. *Distance* asks whether runs of unlike $\lambda$ are farther apart than runs of like $\lambda$, over all pairs of two seeds, by the same exchange
# ([chapter 12](12_ablation_patches.ipynb) does it for N). Six seeds can give no p below 2/2⁶ = 0.031, ten none below 2/2¹⁰ = 0.002.

# %% tags=["hide-input"]
def entropies(name):
    """At epoch 60 and at the end, on the test images of fold 0."""
    return np.array([entropy_on_tests(name, epoch) for epoch in (60, distances["epochs"][-1])])


def paired(weight):
    """λ = weight against λ = 0.01, seed by seed; None with fewer than three seeds of both."""
    seeds = sorted({s for w, s in by_key if w == weight} & {s for w, s in by_key if w == 0.01})
    if len(seeds) < 3:
        return None
    mine, usual = ([by_key[w, s] for s in seeds] for w in (weight, 0.01))
    of_mine, of_usual = (np.array([entropies(name) for name in names]) for names in (mine, usual))  # (seeds, 2)
    less = of_mine - of_usual
    unlike, like, p_apart = exchange_test(mine, usual, lambda a, b: tv[frozenset((a, b))])
    return dict(
        n=len(seeds),
        each=of_mine,
        usual_each=of_usual,
        entropy=of_mine.mean(0),
        usual=of_usual.mean(0),
        less=less.mean(0),
        lower=(less < 0).sum(0),
        p=[permutation_test(column, np.zeros(len(seeds)), paired=True) for column in less.T],
        unlike=unlike,
        like=like,
        p_apart=p_apart,
        same_seed=np.mean([tv[frozenset(pair)] for pair in zip(mine, usual, strict=True)]),
    )


tests_of = {weight: found for weight in STYLES if weight != 0.01 and (found := paired(weight))}


def lower_in(found, k):
    return f"{found['less'][k]:+.2f} (lower in {found['lower'][k]} of {found['n']}, p = {found['p'][k]:.2g})"


if tests_of:
    display(
        plots.table(
            ["λ, against 0.01", "seeds", "entropy at epoch 60", "entropy at the end", "distance, one seed", "two seeds, unlike λ", "two seeds, like λ", "p of the last two"],
            [
                [f"{weight:g}", r["n"], lower_in(r, 0), lower_in(r, 1), f"{r['same_seed']:.2f}", f"{r['unlike']:.3f}", f"{r['like']:.3f}", f"{r['p_apart']:.2g}"]
                for weight, r in tests_of.items()
            ],
        )
    )
    display(Markdown(f"Entropies: difference from λ = 0.01 in nats, mean over seeds. Distances: total variation at the end, mean over {len(distances['images'])} images."))
else:
    print(f"Fewer than three seeds of any other λ are recorded: {EXPERIMENT} --set entropy_weight=0 --seed 0,1,2,3,4,5, and so on; then python -m atslib.experiments.history --data DIR")
# NBVAL_CHECK_OUTPUT

# %% tags=["hide-input"]
ALPHA = 0.05
TENTH = LOG_K - math.log(10)
verdicts, plateau, early_on = [], "On tissue this cannot be said yet.", ""
if zero := tests_of.get(0.0):
    selective = (zero["each"] < TENTH).sum(0)
    early_on = (
        f"sharper than λ = 0.01 at epoch 60 in {zero['lower'][0]} of {zero['n']} seeds (p = {zero['p'][0]:.2g}), "
        f"but very selective, on less than a tenth of the locations by exp(entropy), in {selective[0]} of {zero['n']} only"
    )
    verdicts.append(
        [
            "No entropy term: very selective early?",
            f"Attention is {early_on}.",
            f"At the end it is sharper in {zero['lower'][1]} of {zero['n']} (p = {zero['p'][1]:.2g}) and very selective in {selective[1]}. (The two p are not corrected for looking twice.)",
        ]
    )
    images = as_long_as_paper["dataset.n_train"].iloc[0] if len(as_long_as_paper) else 0
    single = 60 * images  # updates in the paper's 60 epochs, if each were made for one image
    by_then = {
        weight: {r["seed"]: entropy_at(r, single / math.ceil(images / r["settings.training.batch_size"])) for _, r in runs.iterrows()}
        for weight, runs in as_long_as_paper.groupby("settings.training.entropy_weight")
    }
    if without := by_then.get(0.0):
        both = sorted(without.keys() & by_then.get(0.01, {}).keys())
        narrow = sum(nats < TENTH for nats in without.values())
        short_updates = 60 * math.ceil(images / runs_of[0.0]["settings.training.batch_size"].iloc[0])
        verdicts[-1].append(
            f"But if the paper makes an update for each image, its 60 epochs are {single:,.0f} updates. In trainings of {PROFILES['paper'].updates:,} updates, {'one on each fold' if len(without) == N_FOLDS else f'on {len(without)} of {N_FOLDS} folds'} ([chapter 9](09_colon_cancer.ipynb)), "
            f"attention without the term is on {series([locations(without[seed]) for seed in sorted(without)])} locations by then, by exp(entropy) on the training images"
            + (f", and with λ = 0.01 on {series([locations(by_then[0.01][seed]) for seed in both])}, with the same seeds" if both else "")
            + f": very selective in {narrow} of {len(without)}. So after {single:,.0f} updates it is as the paper says in {narrow} of {len(without)} trainings, after {short_updates:,.0f} in {selective[0]} of {zero['n']}; which of the two its 60 epochs are, the paper does not say."
        )
else:
    verdicts.append(["No entropy term: very selective early?", "Cannot be judged yet."])
if 1.0 in runs_of:
    gap = max(LOG_K - min(curve) for curve in runs_of[1.0]["curve.entropy"])
    verdicts.append(["Large λ: towards uniform?",
        f"With λ = 1 ({len(runs_of[1.0])} run{'s' * (len(runs_of[1.0]) > 1)}) the entropy is never more than {gap:.3f} nats below that of uniform attention: "
        + ("confirmed." if gap < 0.1 else "not confirmed.")
        + (f" With λ = 0.1 it ends {np.mean([LOG_K - curve[-1] for curve in runs_of[0.1]['curve.entropy']]):.2f} nats below, on average." if 0.1 in runs_of else ""),
    ])  # fmt: skip
else:
    verdicts.append(["Large λ: towards uniform?", f"Cannot be judged yet; `{EXPERIMENT} --set entropy_weight=1`."])
around = {weight: tests_of[weight] for weight in (0.005, 0.05) if weight in tests_of}
if len(around) == 2:
    ways = {w: f"{'sharper' if r['less'][1] < 0 else 'broader'} in {max(r['lower'][1], r['n'] - r['lower'][1])} of {r['n']} seeds (p = {r['p'][1]:.2g})" for w, r in around.items()}
    plateau = " ".join(
        f"With λ = {w:g} the final attention on tissue is {way} than with 0.01." if around[w]["p"][1] < ALPHA else f"With λ = {w:g} no difference is shown: it is {way}." for w, way in ways.items()
    )
    moved = {w: [tv[frozenset((by_key[w, s], by_key[0.01, s]))] for s in sorted({s for v, s in by_key if v == w} & {s for v, s in by_key if v == 0.01})] for w in around}
    same_weight = {w: np.mean([tv[frozenset(pair)] for pair in itertools.combinations([name for (v, _), name in by_key.items() if v == w], 2)]) for w in (0.01, *around)}
    fewest = min(r["n"] for r in around.values())
    least, level = least_p(fewest, fewest, paired=True), ALPHA / 4  # four tests: two weights, entropy and distance
    verdicts.append(["Around 0.01 the exact value does not matter?", plateau,
        f"The distance, which notices sharpness, too, has p = {series([format(r['p_apart'], '.2g') for r in around.values()])}. These are four tests, and {min(r['n'] for r in around.values())} seeds can give no p below {least:.2g}"
        + (f": corrected for their number ({level:.2g}), none could be significant." if least > level else f"; corrected for their number, the level is {level:.2g}."),
        "As a size, replacing 0.01 with the same seed: "
        + "; ".join(f"by {w:g} moves {np.mean(each):.0%} of the attention ({min(each):.0%} to {max(each):.0%})" for w, each in moved.items())
        + f". Another seed with the same λ moves {series([format(share, '.0%') + ' (λ = ' + format(w, 'g') + ')' for w, share in same_weight.items()])}.",
    ])  # fmt: skip
else:
    verdicts.append(["Around 0.01 the exact value does not matter?",
        "Cannot be judged on the real images yet: it takes the paper's own examples, "
        f"`{EXPERIMENT} --set entropy_weight=0.005,0.05 --seed 0,1,2,3,4,5`, and then `python -m atslib.experiments.history --data DIR`.",
    ])  # fmt: skip
for question, *answers in verdicts:
    display(plots.points(question, answers))
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-unscaled)=
# ### Without the factor on the features

# %% tags=["hide-input"]
def narrow_runs(kind):
    """How many runs of each λ are on less than a tenth of the locations, at epoch 60 and at the end."""
    told = []
    for weight, runs in kind.items():
        at = {"at epoch 60": [entropy_at(row, 60) for _, row in runs.iterrows()], "at the end": [row["curve.entropy"][-1] for _, row in runs.iterrows()]}
        told.append(
            f"with λ = {weight:g} "
            + series([f"{sum(nats < TENTH for nats in each)} of {len(each)} {when}" + (f" ({', '.join(f'{nats:.1f}' for nats in sorted(each) if nats < TENTH)} nats)" if min(each) < TENTH else "") for when, each in at.items()])
        )
    return f"On less than a tenth of the locations they are {'; '.join(told)}."


lone = {weight: unscaled[unscaled["settings.training.entropy_weight"] == weight].set_index("seed").sort_index() for weight in (0.0, 0.01)}
seeds = [seed for seed in lone[0.0].index.intersection(lone[0.01].index) if all(seed in runs_of.get(weight, lone[0.0][:0]).index for weight in lone)]
if seeds:
    rows, begun_at, constant = [], [], 0.95 * math.log(2)  # training loss of a network that has not begun to learn
    for scale, kind in ((usual_scale, runs_of), (1, lone)):
        runs = {weight: kind[weight].loc[seeds] for weight in lone}
        by_run = np.array([[entropy_at(row, 60) for _, row in of_weight.iterrows()] for of_weight in runs.values()])  # (λ, seeds)
        at_60 = by_run.mean(1)
        losses = [of_weight["final.train_loss"].mean() for of_weight in runs.values()]
        begun = [
            next((epoch for epoch, loss in zip(row["curve.epoch"], row["curve.train_loss"], strict=True) if loss < constant), math.inf)
            for of_weight in runs.values()
            for _, row in of_weight.iterrows()
        ]
        begun_at.append(" to ".join(f"{epoch:.0f}" if math.isfinite(epoch) else "never" for epoch in (min(begun), max(begun))))
        rows.append([f"features times {scale:g}", *(f"{value:.2f}" for value in (*at_60, at_60[0] - at_60[1], *losses))])
    display(plots.table([f"seeds {', '.join(map(str, seeds))}", "entropy at epoch 60, λ = 0", "λ = 0.01", "difference", "training loss at the end, λ = 0", "λ = 0.01"], rows))
    display(
        Markdown(
            f"**Does the factor {usual_scale:g} on the features decide this?** Few runs without it, as in the paper, are recorded. "
            + (
                "They have not begun to learn, and say nothing."
                if min(losses) > constant
                else f"Their training loss is first below that of a constant answer at epochs {begun_at[1]} (with the factor: {begun_at[0]}). They are sharper without the term, on their training images, in {(by_run[0] < by_run[1]).sum()} of {len(seeds)} seeds; that is not enough for a test. "
                + narrow_runs(lone)
            )
        )
    )
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# The paper's worry is that an early decision *might* hinder exploration. [Chapter 9](09_colon_cancer.ipynb#without-the-reward-for-entropy) compares the test errors of trainings as long as the paper's, with the term
# and without. Here, in the short ones:

# %% tags=["hide-input"]
stuck = off_the_nuclei() if measured else []
Markdown(
    (
        f"{'One run' if len(stuck) == 1 else f'{len(stuck)} runs'} ended in a way that would fit, though whether an early decision was the cause was not tested: {'; '.join(stuck)}. The training loss alone does not show {'such a run' if len(stuck) == 1 else 'such runs'}. "
        if stuck
        else "No run here ends with less attention near the nuclei than a uniform one has. "
    )
    + "In these images epithelium is easy to meet; [chapter 7](07_entropy_and_exploration.ipynb) shows a stuck run where what matters is rare."
)

# %% [markdown]
# ## Summary

# %% tags=["hide-input"]
of_tissue = {0.01: np.mean([r["usual"][1] for r in tests_of.values()])} | {weight: r["entropy"][1] for weight, r in tests_of.items()} if tests_of else {}
steadily = {"in the toy, one run each,": rising}
if of_tissue:
    steadily["on tissue, as the mean over seeds"] = [of_tissue[w] for w in sorted(of_tissue)] == sorted(of_tissue.values())
words = [f"{'at every step of λ' if every else 'not at every step of λ'} {where}" for where, every in steadily.items()]
plots.at_the_head(
    [
        f"The larger λ, the closer attention ends to uniform: {series(words)}.",
        *([f"Without the term attention on tissue is {early_on}."] if early_on else []),
        f"Does the value matter around 0.01, where the paper says that it does not? {plateau}",
    ]
)
Markdown(
    f"- The larger λ, the closer attention ends to uniform: {series(words)}.\n"
    + (f"- Without the term attention on tissue is {early_on}.\n" if early_on else "")
    + (f"- Off the nuclei ended {'one run' if len(stuck) == 1 else f'{len(stuck)} runs'}: {'; '.join(stuck)}.\n" if stuck else "")
    + f"- Does the value matter around 0.01? {plateau} {'p is not corrected for four tests; corrected, none could be significant.' if len(around) == 2 and least > level else ''} In the toy, going from 0.005 to 0.05 changes the entropy by {of_value:.2f} nats, another seed by {of_chance:.2f}.\n"
    f"- λ is measured in units of the loss. In the toy, where two squares hold everything, λ = 1 has an error of {small[1.0]['error']:.2f} and λ = 0.01 one of {small[0.01]['error']:.2f} (one run each; that the units are the reason was not tested). Carry no value from one task to another without looking at the entropy.\n"
    "- A few seeds and 20 test images show the shape of the attention. They cannot rank errors."
)

# %% [markdown]
# ## Exercises
#
# :::{exercise}
# :label: ex-11-schedule
# Let $\lambda$ fall during training, from 0.1 to 0. What would you expect, and how do you try it with `Settings`?
# :::
#
# :::{solution} ex-11-schedule
# :class: dropdown
# Broad attention early, sharp attention late. `Settings` holds one weight for a run, so call `follow` twice on the same model, `build_model(5, 0)`: first with `entropy_weight=0.1`, then with 0, five epochs each. The second call begins with a new
# optimiser. Compare `entropy` and `error` with those of the table. Do not expect a lower error: nothing in the toy needs exploring.
# :::
#
# :::{exercise}
# :label: ex-11-scale
# In `watch`, keep the model in a variable and divide `model.classifier.scale` by four before training. Will `watch(0.01)` now end with broader or with sharper attention?
# :::
#
# :::{solution} ex-11-scale
# :class: dropdown
# Sharper. With a small scale the score is large only if nearly all attention lies on the stripes, so the loss goes on rewarding
# concentration. With a large scale a modest share is enough for a confident answer, and only entropy is left to gain. The task is the same; the *loss* differs, and with it the effect of $\lambda$.
# {eq}`eq-hits` in the next chapter says the same: its best share falls with the strength $s$.
# :::
