# %% [markdown]
# # Ablation: the weight of the entropy
#
# The loss of the paper pays $\lambda$ for each nat of entropy of the attention (eq. 21). [Chapter 7](07_entropy_and_exploration.ipynb) derived
# what that does; this chapter takes the term away, or makes it large, and watches attention on images while it is learned.
#
# ## What you will learn
#
# - what $\lambda$ = 0, 0.01, 0.1 and 1 make of the attention, on a task small enough to train on this page;
# - the same on the colon cancer images of the paper: its Figure 6, and what it costs in error;
# - whether the exact value matters around 0.01, where the paper says that it does not;
# - why a value of $\lambda$ cannot be carried from one task to another.
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
from atslib.experiments import load_records
from atslib.experiments.colon_cancer import PROFILES
from atslib.experiments.history import exchange_test, load_maps, total_variation
from atslib.experiments.runs import sweep
from atslib.experiments.stripes import Stripes, build_model, follow
from atslib.experiments.summary import mean_and_stderr, permutation_test
from atslib.processes import Processes
from atslib.training import Settings

plots.use_style()
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
# First a task of seconds, so that everything can be seen. An image of 96 × 96 grey pixels holds two bright *striped* squares and four dark *plain* ones.
# The class is the direction of the stripes. In the small view, 24 × 24, the stripes cannot be seen, only that a square is bright or dark. So attention
# has something to learn (the bright squares), and it can learn it only if patches drawn there help to answer.

# %%
train_set, tests = Stripes(320, seed=0), Stripes(128, seed=1)
views = build_model(5, seed=0).view(torch.stack(tests.images))


def watch(weight: float, seed: int = 0, n_patches: int = 5, epochs: int = 10) -> dict:
    """Train with λ = weight; log-attention on the test images after each epoch, and how it ended."""
    schedule = dict(epochs=epochs, batch_size=16, learning_rate=3e-3, schedule="cosine", test_every=1000, bfloat16=False)
    settings = Settings(entropy_weight=weight, seed=seed, **schedule)
    return follow(build_model(n_patches, seed), train_set, tests, settings)


small = {weight: watch(weight) for weight in STYLES}
again = watch(0.01, seed=1)  # other initial weights, other order of images: how much chance does

# %% mystnb={"image": {"alt": "A test image with two striped and four dark squares, and the same at 24 × 24, where stripes cannot be seen."}}
figure, axes = plt.subplots(1, 2, figsize=(5, 2.5))
plots.show_image(axes[0], tests.images[0], "a test image, 96 × 96")
plots.show_image(axes[1], views[0], "what attention sees, 24 × 24")
plt.show()

# %% mystnb={"image": {"alt": "Grid of small maps. Rows lambda 0, 0.01, 0.1 and 1, columns epochs 0, 4, 6 and 10. All begin uniform. With lambda 0 attention ends bright at the striped squares and dark elsewhere, with larger lambda the contrast is weaker, and with 1 the map stays nearly even."}}
PAPER_WEIGHTS = [0.0, 0.01, 0.1, 1.0]
times = [0, 4, 6, 10]
plots.show_maps(
    {f"λ = {weight:g}": [small[weight]["maps"][epoch][0] for epoch in times] for weight in PAPER_WEIGHTS},
    [f"epoch {epoch}" for epoch in times],
    "attention, times uniform",
);

# %% [markdown]
# The same test image; one row for each $\lambda$, time from left to right. The colour is the attention of a location compared with the uniform one: yellow 16 times as much or
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
turned = {weight: int(np.argmin(r["entropy"])) for weight, r in small.items() if ends[weight] - min(r["entropy"]) > 0.1}
display(
    Markdown(
        f"Grey lines: uniform attention. The entropy at the end is lowest at λ = {lowest:g}, and at λ = 1 it is {math.log(576) - ends[1.0]:.2f} nats below uniform. It "
        + (
            "rises with every step of λ. "
            if list(ends.values()) == sorted(ends.values())
            else "does not rise with every step of λ. "
        )
        + (
            "After its lowest value it rises again by more than a tenth of a nat with "
            + ", ".join(f"λ = {weight:g} (epoch {epoch})" for weight, epoch in turned.items())
            + ". "
            if turned
            else ""
        )
        + f"From λ = 0.005 to λ = 0.05 it changes by {ends[0.05] - ends[0.005]:.2f} nats; between two runs with λ = 0.01 that differ in nothing but chance, by "
        f"{abs(ends[0.01] - again['entropy'][-1]):.2f}. "
        + (
            "That is more, but one pair of runs is a weak yardstick. "
            if abs(ends[0.05] - ends[0.005]) > abs(ends[0.01] - again["entropy"][-1])
            else "So around 0.01 the exact value matters no more than chance here. "
        )
        + f"As a distance, the first two are {span:.2f} apart and the other two {chance:.2f} (total variation: the share of attention that would have to be moved)."
    )
)

# %% [markdown]
# The mechanism is that of [chapter 7](07_entropy_and_exploration.ipynb): $\lambda$ is a temperature *in units of the loss*. Once the task is solved, and this one is, the loss
# has little left to say, and even a small $\lambda$ spreads attention again (the curves that turn up, listed above), until the loss begins to suffer. What a given $\lambda$ does therefore depends on how much
# there is to gain by looking in the right place. Here two squares hold everything. On tissue there is more to be found:
#
# (cell-epithelium)=

# %% tags=["hide-input"]
near = {}  # image -> share of its locations near an epithelial nucleus, over the test images of all folds
for path in sorted(Path("../results/nuclei").glob("colon_cancer-ats-*.json")):
    near |= {image["id"]: image["area"] for image in json.loads(path.read_text(encoding="utf-8"))["final"]}
Markdown(
    f"In a positive image, {np.mean(list(near.values())):.0%} of the locations are near a nucleus marked as epithelial, on average over {len(near)} images; in the fullest {max(near.values()):.0%}."
    if near
    else "How much of a positive image is near an epithelial nucleus is not measured yet: `python -m atslib.experiments.nuclei --data DIR`."
)

# %% [markdown]
# What this toy cannot show: whether a broader attention explores better. Nothing in it is hard to find.
#
# ## The images of the paper
#
# Now the real ones. Each run trains on 80 of the 100 images, one of the five splits of [chapter 9](09_colon_cancer.ipynb), and draws ten patches. Runs of one seed have the same split, the same initial weights and the same order of images; only $\lambda$ differs.

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

rows = []
for weight in STYLES:
    row = of.get(weight)
    paper_says = "Fig. 6" if weight in PAPER_WEIGHTS else "in the text"
    if row is None:
        rows.append([f"{weight:g}", paper_says, "not run", "", f"`--set entropy_weight={weight:g}`"])
    else:
        seconds, thread = row["curve.seconds"][-1], row["hardware.threads"]
        rows.append(
            [
                f"{weight:g}",
                paper_says,
                f"{row['curve.epoch'][-1]} epochs",
                f"{seconds / 60:.1f} min, {row['hardware.device']}, {thread:g} thread(s)",
                "",
            ]
        )
display(plots.table(["λ", "in the paper", "fold 0, seed 0", "training took", "missing: add to the command"], rows))
display(
    Markdown(
        f"Those missing come from `{EXPERIMENT}`, and the maps and distances below from `python -m atslib.experiments.history --data DIR` after it."
    )
)

# %% tags=["hide-input"]
if of:
    row = next(iter(of.values()))
    steps = math.ceil(row["dataset.n_train"] / row["settings.training.batch_size"])
    low = [f"{weight:g}" for weight, run in of.items() if run["settings.training.bfloat16"]]
    display(
        Markdown(
            f"**Differences from the paper.** {row['settings.updates']:,.0f} updates where the paper has 30,000; {row['settings.training.batch_size']} images an update, a number that the paper "
            f"does not give, so that an epoch is {steps} updates and *its* 60 epochs need not be ours; ten patches, where §E does not say how many; a learning rate that "
            + ("falls to zero as a cosine" if row["settings.training.schedule"] == "cosine" else "stays as it is")
            + f"; unit-norm features times {row['settings.feature_scale']:g} before the classifier, which changes what a given λ weighs against (exercise below); "
            + (
                ("all" if len(low) == len(of) else f"those with λ = {', '.join(low)}")
                + " trained in bfloat16, by their records; of precision the paper does not speak. "
                if low
                else "all trained in float32. "
            )
            + "The maps are of one run for each λ, seed 0; curves, tables and tests take every seed that was run: "
            + ", ".join(f"{(ten.index == weight).sum()} of λ = {weight:g}" for weight in STYLES)
            + " (the fold is the seed modulo 5)."
        )
    )

# %% [markdown]
# (cell-fig6)=
# ### Figure 6
#
# The paper's figure shows the attention on one test image for the four weights in the first 60 epochs; its caption reads it as "very selective early" without the
# term. Ours has one row for each $\lambda$, and the end of training as a further column. The image itself may not be shown.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Grid of attention maps of one test image of the colon cancer set, one row for each recorded entropy weight, columns epochs 0 to 60 and the end. The maps begin even and take on structure with time; rows with a larger weight stay more even."}}
folder = Path("../results/ablations")
maps = {
    weight: load_maps(folder / f"{name}.safetensors")
    for weight, name in stem.items()
    if (folder / f"{name}.safetensors").exists()
}
if maps:
    first = next(iter(maps.values()))
    last = max(first)
    times = [epoch for epoch in (0, 20, 40, 60, last) if epoch in first]
    image = next(iter(first[times[0]]))
    plots.show_maps(
        {f"λ = {weight:g}": [m[epoch][image] if epoch in m else None for epoch in times] for weight, m in maps.items()},
        [f"epoch {epoch}" for epoch in times],
        "attention, times uniform",
    )
    print(f"test image {image} of fold 0; each value is the attention of 2 × 2 of the 100 × 100 locations")
else:
    print("No maps are stored yet: python -m atslib.experiments.history --data DIR")

# %% [markdown]
# To be seen: along a row, when structure appears and whether it still changes after epoch 60; down a column, how the contrast of the map depends on $\lambda$. How sure this is, and whether the places with more attention than others stay the same, is
# counted below.
#
# In numbers, for all training images of each run, from the records:

# %% tags=["hide-input"] mystnb={"image": {"alt": "Entropy of the attention against epoch for each recorded weight, thin lines for single runs and thick ones for their mean, and a line at log 10,000. Left the first 60 epochs, in which the lines begin at the grey one and most fall in the second half, lambda 1 not at all; right the whole training, at whose end the means lie in the order of lambda, and single runs without the term far below the others."}}
LOG_K = math.log(100 * 100)
figure, (early, late) = plt.subplots(1, 2, figsize=(7, 3.5), sharey=True)
runs_of = {weight: ten.loc[[weight]].set_index("seed").sort_index() for weight in STYLES if weight in ten.index}


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
# Grey: uniform attention over 10,000 locations, $\log K$. Thin lines: single runs, each with a seed and training images of its own; thick: their mean. The thin lines of one $\lambda$ say how much chance and the choice of images do. The tests below compare
# runs of one seed with each other.
#
# Is it *selective for the right thing*? The nuclei of these images are marked. A location is *near* one if its centre is at most half a patch from it. Left, the share of attention near an
# epithelial nucleus. Right the AUC, the area under the ROC curve: the probability that a location near one has more attention than one that is not. Both are means over the positive test images; nothing of this was
# used in training.


# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: share of attention near epithelial nuclei against epoch for each weight. Right: the AUC of attention for being near an epithelial nucleus. Thin lines are single runs, thick ones their means."}}
def series(values, digits=2):
    """Numbers or words with commas between them and "and" before the last."""
    words = [value if isinstance(value, str) else f"{value:.{digits}f}" for value in values]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def on_nuclei(name):
    path = Path("../results/nuclei") / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


measured = {weight: [found for file in runs["file"] if (found := on_nuclei(Path(file).stem))] for weight, runs in runs_of.items()}
measured = {weight: found for weight, found in measured.items() if found}
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
    ended = [m[last] for m in maps.values() if last in m] if maps else []
    ranks = [
        spearmanr(a[number].flatten(), b[number].flatten()).statistic
        for a, b in itertools.combinations(ended, 2)
        for number in a
    ]
    display(
        Markdown(
            f"Each run on its own test images. Grey: uniform attention (left, from the fold with the smallest share near nuclei to that with the largest). Near: within {series([f'{radius:g}' for radius in sorted({numbers['radius'] for found in measured.values() for numbers in found})])} pixels. The share near nuclei, as the mean over runs, {'falls with λ' if list(near.values()) == sorted(near.values(), reverse=True) else 'does not fall with every step of λ'}. At the end the AUC is {min(rank.values()):.2f} … "
            f"{max(rank.values()):.2f} over all λ{f', and {rank[1.0]:.2f} with λ = 1, where attention is uniform for every other purpose' if 1.0 in rank else ''}. "
            + (
                f"The rank correlation of the maps of any two λ above is {min(ranks):.2f} or more at the end ({len(ended[0])} test images; runs of seed 0). "
                + (
                    "In these runs λ changes how strongly the nuclei are preferred, and hardly what is preferred."
                    if min(ranks) > 0.9
                    else "So λ changes what is preferred, too."
                )
                if ranks
                else "Whether the same locations are preferred cannot be said without the maps."
            )
        )
    )
else:
    print("No agreement with nuclei is recorded yet: python -m atslib.experiments.nuclei --data DIR")

# %% [markdown]
# (cell-claim-entropy-plateau)=
# ### At the end, and the verdicts

# %% tags=["hide-input"]
path = folder / "distances-fold0.json"
distances = json.loads(path.read_text(encoding="utf-8")) if path.exists() else dict(runs={}, pairs=[], epochs=[])
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
        f"Entropies are over each run's training images, lowest … highest run in brackets; uniform attention has {LOG_K:.2f}, a tenth of the locations evenly {LOG_K - math.log(10):.2f}. ± is the standard error over runs. Each run is tested on 20 images, so that "
        "one more mistake is an error of 0.05: differences of that size between the rows say nothing."
    )
)

# %% [markdown]
# **With several seeds of each.** A run with another $\lambda$ is compared with that of $\lambda$ = 0.01 of the same seed, which began with the same weights and saw the same images in the same order. *Entropy* is that of the attention on the test images of fold 0,
# the same for all runs, and its p-value comes from exchanging the two within each seed in every way. *Distance* asks whether runs of unlike $\lambda$ are farther from each other than runs of like $\lambda$, all pairs of two seeds, by the same exchange
# ([chapter 12](12_ablation_patches.ipynb) has it for N). Six seeds can give no p below 2/2⁶ = 0.031.

# %% tags=["hide-input"]
by_key = {
    (float(weight), int(row["seed"])): Path(row["file"]).stem for weight, row in ten.iterrows() if Path(row["file"]).stem in distances["runs"]
}


def entropies(name):
    """At epoch 60 and at the end, on the test images of fold 0."""
    curve = distances["runs"][name]["entropy"]
    return np.array([np.interp(60, distances["epochs"], curve), curve[-1]])


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
    display(Markdown(f"Entropies: in nats, less that with λ = 0.01, mean over seeds. Distances: total variation at the end, mean over {len(distances['images'])} images."))
else:
    print(f"Fewer than three seeds of any other λ are recorded: {EXPERIMENT} --set entropy_weight=0 --seed 0,1,2,3,4,5, and so on; then python -m atslib.experiments.history --data DIR")

# %% tags=["hide-input"]
ALPHA = 0.05
verdicts, plateau = [], "On tissue this cannot be said yet."
if zero := tests_of.get(0.0):
    selective = (zero["each"] < LOG_K - math.log(10)).sum(0)
    sharper = zero["less"][0] < 0
    verdicts.append(
        f"**No entropy term: very selective early?** At epoch 60 the entropy is {zero['entropy'][0]:.2f} nats on average without the term (as of {math.exp(zero['entropy'][0]):,.0f} of 10,000 locations) and {zero['usual'][0]:.2f} with λ = 0.01. "
        + (
            f"Attention is {'sharper' if sharper else 'broader'} without it, beyond chance"
            if zero["p"][0] < ALPHA
            else f"It is {'sharper' if sharper else 'broader'} without it on average, not beyond chance"
        )
        + f" ({zero['n']} seeds)"
        + (f"; at the end it is {'sharper' if zero['less'][1] < 0 else 'broader'}, {'' if zero['p'][1] < ALPHA else 'not '}beyond chance. ")
        + f'"Very selective", if that is to mean less than a tenth of the locations, it is in {selective[0]} of {zero["n"]} runs at epoch 60 and in {selective[1]} at the end, on average over their test images; runs without the term end anywhere from {zero["each"][:, 1].min():.2f} to {zero["each"][:, 1].max():.2f} nats, those with λ = 0.01 from {zero["usual_each"][:, 1].min():.2f} to {zero["usual_each"][:, 1].max():.2f}. '
    )
    lone = {
        weight: unscaled[unscaled["settings.training.entropy_weight"] == weight].set_index("seed").sort_index() for weight in (0.0, 0.01)
    }
    seeds = lone[0.0].index.intersection(lone[0.01].index)
    scaled = {weight: ten.loc[[weight]].set_index("seed").loc[seeds] for weight in lone} if len(seeds) and seeds.isin(ten.loc[[0.0]]["seed"]).all() and seeds.isin(ten.loc[[0.01]]["seed"]).all() else {}
    if scaled:
        cells = {(kind, weight): [entropy_at(row, 60) for _, row in runs.loc[seeds].iterrows()] for kind, of_weight in (("unscaled", lone), ("scaled", scaled)) for weight, runs in of_weight.items()}
        ended = [lone[w].loc[seeds, "final.train_loss"].mean() for w in lone]
        verdicts[-1] += (
            f"The factor of {usual_scale:g} on the features is a departure that may bear on this (last exercise). Without it, as in the paper, seeds {', '.join(map(str, seeds))}, on their training images: {np.mean(cells['unscaled', 0.0]):.2f} nats at epoch 60 without the term and "
            f"{np.mean(cells['unscaled', 0.01]):.2f} with λ = 0.01, where the same seeds have {np.mean(cells['scaled', 0.0]):.2f} and {np.mean(cells['scaled', 0.01]):.2f} with it; the training losses of the unscaled runs end at {ended[0]:.2f} and {ended[1]:.2f}"
            + (f", that of a constant answer ({math.log(2):.2f}): in so short a training they have not begun to learn, and say nothing of this." if min(ended) > 0.95 * math.log(2) else ".")
        )
else:
    verdicts.append("**No entropy term: very selective early?** Cannot be judged yet.")
if 1.0 in of:
    ones = [row for _, row in ten.loc[[1.0]].iterrows()]
    gap = max(LOG_K - min(row["curve.entropy"]) for row in ones)
    verdicts.append(
        f"**Large λ: towards uniform?** With λ = 1 ({len(ones)} run{'s' * (len(ones) > 1)}) the entropy is never more than {gap:.3f} nats below that of uniform attention. "
        + ("Confirmed." if gap < 0.1 else "Not confirmed: that is not uniform.")
        + (f" With λ = 0.1 ({(ten.index == 0.1).sum()}) it ends {np.mean([LOG_K - row['curve.entropy'][-1] for _, row in ten.loc[[0.1]].iterrows()]):.2f} nats below." if 0.1 in of else "")
    )
else:
    verdicts.append(f"**Large λ: towards uniform?** Cannot be judged yet; `{EXPERIMENT} --set entropy_weight=1`.")
around = {weight: tests_of[weight] for weight in (0.005, 0.05) if weight in tests_of}
if len(around) == 2:
    level = ALPHA / 4  # four tests: two weights, entropy and distance
    told_sharp = [f"{w:g}" for w, r in around.items() if r["p"][1] < ALPHA]
    told_apart = [f"{w:g}" for w, r in around.items() if r["p_apart"] < ALPHA]
    least = 2 / 2 ** min(r["n"] for r in around.values())
    how_sharp = "; ".join(f"{lower_in(r, 1)} with {w:g}" for w, r in around.items())
    how_far = "; ".join(f"{r['unlike']:.3f} against {r['like']:.3f} with {w:g} (p = {r['p_apart']:.2g})" for w, r in around.items())
    plateau = (
        f"On tissue, how sharp attention ends differs from that of λ = 0.01 beyond chance {'with ' + ' and with '.join(told_sharp) if told_sharp else 'with neither 0.005 nor 0.05'}; "
        f"where it goes, {'with ' + ' and with '.join(told_apart) if told_apart else 'with neither'}."
    )
    verdicts.append(
        f"**Around 0.01 the exact value does not matter?** The paper says it of the final attention distribution, and not how that was compared. *How sharp it is:* the entropy at the end, less that with 0.01, is {how_sharp}. "
        f"*Where it goes:* two seeds are on average {how_far}. {plateau} (The distance notices sharpness, too.) These are four tests, of which one may come out below 0.05 by chance; with so few seeds none can be below {least:.2g}, so that a correction for their number"
        f"{' would leave none of them' if least > level else ' asks for ' + format(level, '.2g')}. "
        f"As a size: exchanging 0.01 for one of the two, with the same seed, moves {series([r['same_seed'] for r in around.values()])} of the attention; another seed moves {np.mean([r['like'] for r in around.values()]):.2f}."
    )
else:
    verdicts.append(
        "**Around 0.01 the exact value does not matter?** Cannot be judged on the real images yet: it takes the paper's own examples, "
        f"`{EXPERIMENT} --set entropy_weight=0.005,0.05 --seed 0,1,2,3,4,5`, and then `python -m atslib.experiments.history --data DIR`."
    )
display(Markdown("\n\n".join(verdicts)))

# %% [markdown]
# The paper's worry, that an early decision hinders exploration, is about what *might* happen. A run that got stuck would show as a training loss that stays high; the table has that column. In these
# images it takes little luck to see epithelium: [chapter 9](09_colon_cancer.ipynb) measures how much of a positive image it fills. Where what matters is rare, [chapter 7](07_entropy_and_exploration.ipynb) shows what being stuck looks like.
#
# ## Summary

# %% tags=["hide-input"]
a, b, c, d = (run["entropy"][-1] for run in (small[0.005], small[0.05], small[0.01], again))
order = [small[weight]["entropy"][-1] for weight in sorted(small)]
of_tissue = {0.01: np.mean([r["usual"][1] for r in tests_of.values()])} | {weight: r["entropy"][1] for weight, r in tests_of.items()} if tests_of else {}
rises = [of_tissue[weight] for weight in sorted(of_tissue)]
Markdown(
    f"- {'The larger λ, the closer attention ends to uniform, at every step of λ in the toy' if order == sorted(order) else 'A large λ drives attention towards uniform, not with every step of λ in the toy'}"
    + (f"; on tissue, as the mean over seeds, {'at every step' if rises == sorted(rises) else 'not at every step'}. " if rises else ". ")
    + f"In the toy, where two squares hold everything, λ = 1 has an error of {small[1.0]['error']:.2f} where λ = 0.01 has {small[0.01]['error']:.2f}.\n"
    "- λ is measured in units of the loss. The same value is weak where the loss still gains by concentrating, and strong where nothing is left to gain; carry no value from one task to another without looking at the entropy.\n"
    f"- Does the value matter around 0.01? {plateau} In the toy, going from 0.005 to 0.05 changes the entropy by {abs(b - a):.2f} nats, another seed by {abs(d - c):.2f}.\n"
    "- A few seeds and 20 test images are enough for the shape of the attention. They are not enough to rank errors."
)

# %% [markdown]
# ## Exercises
#
# :::{exercise}
# :label: ex-11-schedule
# Let $\lambda$ fall during training, from 0.1 to 0. What would you hope for, and how do you try it with `Settings`?
# :::
#
# :::{solution} ex-11-schedule
# :class: dropdown
# Exploration early, sharp attention late. `Settings` holds one weight for a run; call `follow` twice on the same model, `build_model(5, 0)`, first with `entropy_weight=0.1` and then with 0, five epochs each. The second call begins with a new
# optimiser. In the toy the entropy stays high in the first half and falls in the second; the final error is the same, since nothing in the toy needs exploring.
# :::
#
# :::{exercise}
# :label: ex-11-scale
# In `watch`, keep the model in a variable and divide `model.classifier.scale` by four before training. Will `watch(0.01)` now end with broader or with sharper attention?
# :::
#
# :::{solution} ex-11-scale
# :class: dropdown
# Sharper, by about two nats of entropy. With a small scale the score is large only if nearly all attention lies on the stripes, so the loss goes on rewarding
# concentration; with a large scale a modest share is enough for a confident answer, and what is left to gain is entropy. The same $\lambda$ acts differently because the *loss* differs, not
# because the task does. {eq}`eq-hits` in the next chapter has this in a formula: its best share falls with the strength $s$.
# :::
