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
from atslib.experiments.history import load_maps, total_variation
from atslib.experiments.runs import sweep
from atslib.experiments.stripes import Stripes, build_model, follow
from atslib.experiments.summary import mean_and_stderr
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
# Now the real ones. Each run trains on the 80 images of fold 0, one of the five splits of [chapter 9](09_colon_cancer.ipynb), and draws ten patches; only $\lambda$ differs.

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
        for run in sweep("colon_cancer", changes=weights, profile=shown, out="../results"):
            left = max_seconds - (time.monotonic() - started)
            if run.state != "done" and (left <= 0 or not run.execute(group, max_seconds=left)):
                break

records = load_records("../results/runs")
records = records[(records["experiment"] == "colon_cancer") & (records["method"] == "ats") & (records["profile"] == shown)]
records = records[(records["estimator"] == "systematic") & (records["settings.order"] == "hilbert")]
real = records[~records["file"].str.contains("generated")]
for column in real.columns[real.columns.str.startswith("settings.changes.")]:
    if column != "settings.changes.entropy_weight":
        real = real[real[column].isna()]  # those with other changes are for other chapters
ten = real[real["n_patches"] == 10].set_index("settings.training.entropy_weight")
of = {
    weight: ten.loc[[weight]][ten.loc[[weight], "seed"] == 0].iloc[0]
    for weight in STYLES
    if ((ten.index == weight) & (ten["seed"] == 0)).any()
}
others = ten[(ten.index == 0.01) & (ten["seed"] != 0)]  # of λ = 0.01, with other seeds
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
            + f"One run for each λ; "
            f"of λ = 0.01 there are {len(others)} more, with other seeds and other folds, as a measure of chance."
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
# To be seen: along a row, nothing in the first 20 epochs, structure by 40 to 60, and little change from there to the end; with $\lambda$ = 1 there is hardly any at all. Down the last column, the contrast of the
# map falls as $\lambda$ grows; whether the places with more attention than others stay the same is counted below.
#
# In numbers, for all training images, from the records:

# %% tags=["hide-input"] mystnb={"image": {"alt": "Entropy of the attention against epoch for each recorded weight, with thin lines for further runs of weight 0.01 and a line at log 10,000. Left the first 60 epochs, in which all lines begin at the grey one and fall in the second half, lambda 1 not at all; right the whole training, at whose end the lines lie in the order of lambda, small ones lowest."}}
LOG_K = math.log(100 * 100)
figure, (early, late) = plt.subplots(1, 2, figsize=(7, 3.5), sharey=True)
for ax in (early, late):
    for _, row in others.iterrows():
        ax.plot(row["curve.epoch"], row["curve.entropy"], color=plots.BLUE, linewidth=0.7, alpha=0.6)
    for weight, row in of.items():
        ax.plot(row["curve.epoch"], row["curve.entropy"], **STYLES[weight], label=f"λ = {weight:g}")
    ax.axhline(LOG_K, color=plots.GREY, linewidth=1)
    ax.set(xlabel="epoch")
early.set(ylabel="entropy (nats)", xlim=(0, 60), title="the first 60 epochs")
late.set(title="all")
figure.legend(*early.get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()


def entropy_at(row, epoch):
    return float(np.interp(epoch, row["curve.epoch"], row["curve.entropy"]))


# %% [markdown]
# Grey: uniform attention over 10,000 locations, $\log K$. Thin lines: $\lambda$ = 0.01 with other seeds and folds. At the end the lines lie in the order of $\lambda$, small ones
# lowest; in the first 60 epochs not all do. A difference has to be compared with how far apart the thin lines are;
# but most of these are over other training images, and the verdicts below take the same images for all.
#
# Is it *selective for the right thing*? The nuclei of these images are marked. A location is *near* one if its centre is at most half a patch from it. Left, the share of attention near an
# epithelial nucleus. Right the AUC, the area under the ROC curve: the probability that a location near one has more attention than one that is not. Both are means over the positive test images; nothing of this was
# used in training.


# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: share of attention near epithelial nuclei against epoch for each weight. Right: the AUC of attention for being near an epithelial nucleus. Thin lines are further runs of weight 0.01."}}
def series(values, digits=2):
    """Numbers or words with commas between them and "and" before the last."""
    words = [value if isinstance(value, str) else f"{value:.{digits}f}" for value in values]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def on_nuclei(name):
    path = Path("../results/nuclei") / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


nuclei = {weight: found for weight, name in stem.items() if (found := on_nuclei(name))}
if nuclei:
    figure, axes = plt.subplots(1, 2, figsize=(7, 3.4))
    for key, label, ax in zip(("mass", "auc"), ("attention near epithelial nuclei", "AUC"), axes, strict=True):
        for file in others["file"]:
            if found := on_nuclei(Path(file).stem):
                ax.plot(
                    [int(e) for e in found["epochs"]],
                    [v[key] for v in found["epochs"].values()],
                    color=plots.BLUE,
                    lw=0.7,
                    alpha=0.6,
                )
        for weight, found in nuclei.items():
            ax.plot(
                [int(e) for e in found["epochs"]],
                [v[key] for v in found["epochs"].values()],
                **STYLES[weight],
                label=f"λ = {weight:g}",
            )
        ax.set(xlabel="epoch", ylabel=label)
    axes[0].axhline(next(iter(next(iter(nuclei.values()))["epochs"].values()))["area"], color=plots.GREY, linewidth=1)
    axes[1].axhline(0.5, color=plots.GREY, linewidth=1)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    plt.show()
    rank, near = (
        {weight: np.mean([image[key] for image in found["final"]]) for weight, found in nuclei.items()} for key in ("auc", "mass")
    )
    ended = [m[last] for m in maps.values() if last in m] if maps else []
    ranks = [
        spearmanr(a[number].flatten(), b[number].flatten()).statistic
        for a, b in itertools.combinations(ended, 2)
        for number in a
    ]
    display(
        Markdown(
            f"Grey: uniform attention on the test images of fold 0. Near: within {series([f'{radius:g}' for radius in sorted({found['radius'] for found in nuclei.values()})])} pixels. The share near nuclei {'falls with λ' if list(near.values()) == sorted(near.values(), reverse=True) else 'does not fall with every step of λ'}. At the end the AUC is {min(rank.values()):.2f} … "
            f"{max(rank.values()):.2f} over all λ{f', and {rank[1.0]:.2f} with λ = 1, where attention is uniform for every other purpose' if 1.0 in rank else ''}. "
            + (
                f"The rank correlation of the maps of any two λ above is {min(ranks):.2f} or more at the end ({len(ended[0])} test images; all runs have the same seed and fold). "
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

rows = []
for weight, row in of.items():
    found, last = nuclei.get(weight), row["curve.entropy"][-1]
    ends = [np.mean([image[key] for image in found["final"]]) for key in ("mass", "auc")] if found else None
    rows.append(
        [
            f"{weight:g}",
            f"{entropy_at(row, 60):.2f}",
            f"{last:.2f}",
            f"{math.exp(last):,.0f}",
            f"{row['final.train_loss']:.2f}",
            f"{row['final.test_loss']:.2f}",
            f"{row['final.test_error']:.2f} ± {row['final.test_stderr']:.2f}",
            *(f"{value:.2f}" for value in ends or ()),
            *(() if ends else ("–", "–")),
        ]
    )
display(
    plots.table(
        [
            "λ",
            "entropy, epoch 60",
            "entropy, end",
            "as a number of 10,000 locations",
            "train loss",
            "test loss",
            "test error, 20 images",
            "on nuclei",
            "AUC",
        ],
        rows,
    )
)
if len(others):
    mean, stderr = mean_and_stderr(others["final.test_error"])
    display(
        Markdown(
            f"λ = 0.01 with the {len(others)} other seeds (fold = seed modulo 5): test error {mean:.2f} ± {stderr:.2f}. Entropies in the table are over the "
            f"training images, and these runs mostly have others; the verdicts below take the test images of fold 0 for all, and for entropies only the runs that were trained on fold 0. With 20 test images, one more mistake is an error of 0.05: differences of "
            f"that size between the rows say nothing."
        )
    )

# %% tags=["hide-input"]
alike = [row for row in (of.get(0.01), *(row for _, row in others.iterrows())) if row is not None]
verdicts = []


def on_tests(row):
    """Entropy at epoch 60 and at the end on the test images of fold 0; None if not recorded."""
    run = distances["runs"].get(Path(row["file"]).stem)
    return run and (float(np.interp(60, distances["epochs"], run["entropy"])), run["entropy"][-1])


def compared(value, values):
    all_of_them = "that one" if len(values) == 1 else "both" if len(values) == 2 else "each of them"
    if value < min(values):
        return f"lower than in {all_of_them}"
    return f"higher than in {all_of_them}" if value > max(values) else "between theirs"


# Runs of other folds saw most of the test images of fold 0 in training. Entropies are compared with those of fold 0 only.
sharp = {weight: found for weight, row in of.items() if (found := on_tests(row))}
sharp_alike = [found for row in alike if row["seed"] % 5 == 0 and (found := on_tests(row))]
sharp_unlike = [found for row in alike if row["seed"] % 5 != 0 and (found := on_tests(row))]
NUMBERS = "no one two three four five six seven eight nine ten".split()
few = f"the {NUMBERS[len(sharp_alike)]} runs" if len(sharp_alike) > 1 else "the one run"
if 0.0 in sharp and sharp_alike:
    early, late = zip(*sharp_alike, strict=True)
    zero_early, zero_late = sharp[0.0]
    lowest = zero_early < min(early), zero_late < min(late)
    verdicts.append(
        f"**No entropy term: very selective early?** On the {len(distances['images'])} test images of fold 0 the entropy at epoch 60 is {zero_early:.2f} nats (as of {math.exp(zero_early):,.0f} of 10,000 locations). In {few} "
        f"with λ = 0.01 of the same fold it is {series(early)}: it is {compared(zero_early, early)}. At the end, {zero_late:.2f} against {series(late)}: {compared(zero_late, late)}. "
        + (
            f"At epoch 60 attention is sharper without the term, as the paper says{'' if lowest[1] else ', and at the end no sharper than some of them'}"
            if lowest[0]
            else "Within 60 of our epochs attention is not sharper without the term"
            + ("; the difference comes later" if lowest[1] else ", and at the end it is no sharper either")
        )
        + (
            f'. "Very selective" it is not: {math.exp(zero_early - LOG_K):.0%} of the locations.'
            if math.exp(zero_early - LOG_K) > 0.1
            else f", on {math.exp(zero_early - LOG_K):.1%} of the locations."
        )
        + " This is one run"
        + (f"; of {NUMBERS[len(early) + 1]} that share training images and differ in nothing but chance, each is the lowest one time in {NUMBERS[len(early) + 1]}." if lowest[0] else ".")
        + (
            f" (Of the {len(sharp_unlike)} runs with λ = 0.01 of other folds, which saw most of these images in training and so are no yardstick, {sum(e < zero_early for e, _ in sharp_unlike) or 'none'} "
            f"{'are' if sum(e < zero_early for e, _ in sharp_unlike) > 1 else 'is'} sharper at epoch 60 and {sum(e < zero_late for _, e in sharp_unlike) or 'none'} at the end.)"
            if sharp_unlike
            else ""
        )
    )
else:
    verdicts.append(f"**No entropy term: very selective early?** Cannot be judged yet; `{EXPERIMENT} --set entropy_weight=0`, and then `python -m atslib.experiments.history --data DIR`.")
if 1.0 in of:
    gap = LOG_K - min(of[1.0]["curve.entropy"])
    verdicts.append(
        f"**Large λ: towards uniform?** With λ = 1 the entropy is never more than {gap:.3f} nats below that of uniform attention. "
        + ("Confirmed." if gap < 0.1 else "Not confirmed: that is not uniform.")
        + (f" With λ = 0.1 it ends {LOG_K - of[0.1]['curve.entropy'][-1]:.2f} nats below." if 0.1 in of else "")
    )
else:
    verdicts.append(f"**Large λ: towards uniform?** Cannot be judged yet; `{EXPERIMENT} --set entropy_weight=1`.")
around = [weight for weight in (0.005, 0.05) if weight in of]


def distance(a, b):
    """Total variation of two runs at the end; None if it is the same run or not recorded."""
    return tv.get(frozenset((Path(a["file"]).stem, Path(b["file"]).stem)))


def from_others(row):
    """Distances of a run from the runs of λ = 0.01 with other seeds."""
    return [found for other in alike if other["seed"] != row["seed"] and (found := distance(row, other)) is not None]


chance = [found for a, b in itertools.combinations(alike, 2) if (found := distance(a, b)) is not None]
pairs_of_fold = [
    found for a, b in itertools.combinations(alike, 2) if a["seed"] % 5 == b["seed"] % 5 == 0 and (found := distance(a, b)) is not None
]
moved = {weight: found for weight, row in of.items() if weight != 0.01 and 0.01 in of and (found := distance(row, of[0.01])) is not None}
fair = {weight: float(np.mean(found)) for weight, row in of.items() if (found := from_others(row))}
fair_alike = [float(np.mean(found)) for row in alike if (found := from_others(row))]  # each run of λ = 0.01 from its others
farther = [weight for weight in fair if weight != 0.01 and fair[weight] > max(fair_alike)]
if chance and moved:
    display(
        plots.table(
            ["total variation at the end, 20 test images of fold 0", *(f"λ = {weight:g}" for weight in of)],
            [
                ["from λ = 0.01, same seed", *(f"{moved[w]:.2f}" if w in moved else "–" for w in of)],
                [f"from λ = 0.01, other seeds: mean of {len(alike) - 1}", *(f"{fair[w]:.2f}" if w in fair else "–" for w in of)],
            ],
        )
    )
    verdicts.append(
        "**Distances.** At the end, the attention on the test images of fold 0 is this far from that of λ = 0.01 with the same seed (total variation, mean over the images): "
        + ", ".join(f"λ = {weight:g}: {value:.2f}" for weight, value in moved.items())
        + f". Runs of λ = 0.01 with different seeds are {min(chance):.2f} … {max(chance):.2f} apart (mean {np.mean(chance):.2f}, {len(chance)} pairs of {len(alike)} runs; those of other folds have seen some of these images in training"
        + (f"; {'the one pair' if len(pairs_of_fold) == 1 else 'pairs'} of fold 0 {series(pairs_of_fold)}" if pairs_of_fold else "")
        + "). "
        + (
            "No farther than some such pair: " + ", ".join(f"λ = {w:g}" for w in moved if moved[w] <= max(chance)) + "."
            if any(value <= max(chance) for value in moved.values())
            else "All are farther than any such pair."
        )
        + " It is an easy test: with the same seed the runs share their initial weights, the order of the images and the fold, which most of those pairs do not."
    )
    if fair_alike and fair:
        verdicts.append(
            "**The same with other seeds on both sides**, the fairer comparison. From the runs of λ = 0.01 with other seeds, the run of seed 0 is at the end on average this far: "
            + ", ".join(f"λ = {weight:g}: {value:.3f}" for weight, value in fair.items())
            + f". The {len(fair_alike)} runs with λ = 0.01 are {min(fair_alike):.3f} … {max(fair_alike):.3f} from their others. "
            + (
                f"Farther than any of these {'is' if len(farther) == 1 else 'are'} λ = {series([f'{w:g}' for w in farther])}, by {series([fair[w] - max(fair_alike) for w in farther], 3)}, one run each."
                if farther
                else "No λ is farther than these."
            )
        )
tested = bool(around and chance and fair_alike) and all(weight in moved and weight in fair and weight in sharp for weight in around) and bool(sharp_alike)
if tested:
    worst = max(moved[weight] for weight in around)
    also = [weight for weight in (0.0, 0.1, 1.0) if weight in moved and moved[weight] <= max(chance)]  # by the same rule
    ends_alike = [end for _, end in sharp_alike]
    where = series([f"{compared(sharp[w][1], ends_alike)} with {w:g}" for w in around])
    near_ones, far_ones = ([f"{w:g}" for w in around if (w in farther) == out] for out in (False, True))
    apart_words = (
        f"with other seeds on both sides, {series(near_ones)} {'lies' if len(near_ones) == 1 else 'lie'} no farther from the runs with 0.01 than these lie from each other" if near_ones else ""
    ) + (
        (", " if near_ones else "with other seeds on both sides, ") + f"{series(far_ones)} {'lies' if len(far_ones) == 1 else 'lie'} a little farther, by up to {max(fair[w] for w in around if w in farther) - max(fair_alike):.3f}"
        if far_ones
        else ""
    )
    rising = [sharp[weight][1] for weight in sorted(sharp)]
    rising = rising == sorted(rising)
    verdicts.append(
        f"**Around 0.01 the exact value does not matter?** The paper says it of the final attention distribution, and not how that was compared. *Where attention goes:* with the same seed, taking {' and '.join(f'{w:g}' for w in around)} in place of 0.01 moves at most "
        f"{worst:.2f} of it, "
        + ("no more than between some runs with other seeds" if worst <= max(chance) else "more than between any runs with other seeds")
        + (f", a weak test, since by it neither {' nor '.join(f'{w:g}' for w in also)} would differ from 0.01" if worst <= max(chance) and also else "")
        + f"; {apart_words}. "
        + "*How sharp it is:* on the same images and the same fold the entropy at the end is "
        + " and ".join(f"{sharp[w][1]:.2f} with λ = {w:g}" for w in around)
        + f", {series(ends_alike)} in {few} with 0.01: it is {where}, one run each. "
        + f"With the same seed it {'rises' if rising else 'does not rise'} with every step of λ. "
        + (
            f"So {' or '.join(f'{w:g}' for w in around)} in place of 0.01 may show in how sharp attention is, and hardly in where it goes; one run against two is the first or the last of the three by chance two times in three."
            if all("between" not in compared(sharp[w][1], ends_alike) for w in around)
            else "So no difference is shown that runs of one fold with 0.01 do not show among themselves."
            if all("between" in compared(sharp[w][1], ends_alike) for w in around) and not far_ones
            else ""
        )
        + ("" if len(around) == 2 else " Only one of the paper's two values was run.")
    )
else:
    verdicts.append(
        "**Around 0.01 the exact value does not matter?** Cannot be judged on the real images yet: it takes the paper's own examples, "
        f"`{EXPERIMENT} --set entropy_weight=0.005,0.05`, and then `python -m atslib.experiments.history --data DIR`."
    )
display(Markdown("\n\n".join(verdicts)))

# %% [markdown]
# The paper's worry, that an early decision hinders exploration, is about what *might* happen. A run that got stuck would show as a training loss that stays high; the table has that column. In these
# images it takes little luck to see epithelium: [chapter 9](09_colon_cancer.ipynb) measures how much of a positive image it fills. Where what matters is rare, [chapter 7](07_entropy_and_exploration.ipynb) shows what being stuck looks like.
#
# ## Summary

# %% tags=["hide-input"]
a, b, c, d = (run["entropy"][-1] for run in (small[0.005], small[0.05], small[0.01], again))
tissue = "On tissue this cannot be said yet."
if tested:
    tissue = (
        f"On tissue, where attention goes changes {'no more' if worst <= max(chance) else 'more'} than with another seed, if runs of one seed are compared"
        + (f" ({series([f'{w:g}' for w in also])} would pass that, too)" if worst <= max(chance) and also else "")
        + f"; {apart_words}. How sharp it is {'follows λ in the runs of one seed' if rising else 'does not follow λ in every step'}; compared with {few} with 0.01 of the same fold, the entropy is {where}, one run each."
    )
Markdown(
    "- The larger λ, the closer attention is to uniform, in the toy and on tissue. In the toy, where two squares hold everything, a large λ also costs error and loss; on tissue "
    "it changes how strongly the nuclei are preferred, not that they are.\n"
    "- λ is measured in units of the loss. The same value is weak where the loss still gains by concentrating, and strong where nothing is left to gain; carry no value from one task to another without looking at the entropy.\n"
    f"- Does the value matter around 0.01? {tissue} In the toy, going from 0.005 to 0.05 changes the entropy by {abs(b - a):.2f} nats, another seed by {abs(d - c):.2f}.\n"
    "- One run for each λ and 20 test images are enough for the shape of the attention. They are not enough to rank errors."
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
