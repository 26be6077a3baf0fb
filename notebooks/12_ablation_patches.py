# %% [markdown]
# # Ablation: the number of patches
#
# The number of patches decides the cost. Does it also change *where* the network learns to look? The paper says no, by theory and by its
# Figure 7. This chapter finds a gap in the theory, and then measures how wide it is.
#
# **What came out**, as the end of this page computes it ([the glossary](../glossary.md) has the words):
#
# :::{glue:md} what-came-out
# :format: myst
# :::
#
# ## What you will learn
#
# - why "the number of patches should not affect the learned attention" holds for the features and the logits, but not for the loss;
# - an exact case in which the best attention depends on $N$;
# - how to tell whether two attention distributions differ by more than chance: other seeds are the yardstick;
# - the colon cancer images: Figure 7 of the paper, distances over time, and the losses.
#
# **Time and hardware:** 15 minutes to read, about a minute to run on one idle CPU core, some minutes on a busy one; nothing is downloaded. The
# recorded runs took minutes each on one core; a table below has the times.

# %% tags=["parameters"]
profile = "smoke"  # smoke; laptop or paper also train what has no record yet, where the images are
max_seconds = 3600  # for that

# %% tags=["hide-input"]
import copy
import itertools
import json
import math
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown, display
from scipy.stats import binom, spearmanr

from atslib import data, plots
from atslib.experiments import load_records
from atslib.experiments.history import exchange_test, load_maps, total_variation
from atslib.experiments.runs import sweep
from atslib.experiments.stripes import Stripes, build_model, follow
from atslib.experiments.summary import beyond_chance, least_p, mean_and_stderr, permutation_test
from atslib.processes import Processes
from atslib.training import Settings

plots.use_style()
STYLES = {  # by N, with the colours of chapter 8
    2: dict(color=plots.BLACK, linestyle=":"),
    5: dict(color=plots.PURPLE, linestyle="-."),
    10: dict(color=plots.BLUE, linestyle="--"),
    25: dict(color=plots.ORANGE, linestyle="-"),
    50: dict(color=plots.GREEN, linestyle="-"),
}


# %% [markdown]
# ## What the paper says
#
# §F: "According to our theory, the number of patches should not affect the learned attention distribution. Namely, the expectation of the gradients and the predictions should be the same and
# the only difference is in the variance." Figure 7 shows attention learned with different $N$ on the colon cancer images. It differs at the beginning; "after approximately 100
# epochs they converge to a very similar attention distribution".
#
# ## The gap in the theory
#
# The estimate $z$ of the pooled feature is unbiased for every $N$, and so are the logits of a linear classifier. The *loss* is not
# ([chapter 5](05_lower_variance.ipynb)): for independent draws it exceeds the loss of the full model by about $\tfrac{1}{2N} \operatorname{tr}(H\,\mathbb V)$, with $\mathbb V$ the variance of one draw
# and $H$ the curvature of the loss. Training minimises this sum. So with few patches, an attention under which the draws agree with each other lowers the loss; with many patches this gain vanishes.
#
# A case that can be computed: of $K$ = 576 locations 32 are informative. Attention puts the share $m$ evenly on them, and the rest evenly on the others. A draw that hits an
# informative location adds $s/N$ to the score of the right class, any other draw nothing. Then the number of hits is binomial, and the regularised loss of eq. 21 is
#
# $$\mathcal L'(m) = \sum_{k=0}^{N} \binom{N}{k} m^k (1-m)^{N-k} \log\bigl(1 + e^{-s k / N}\bigr) - \lambda\,\mathcal H(m) .$$ (eq-hits)

# %% mystnb={"image": {"alt": "Left: the expected loss minus its minimum against the share of attention on the informative locations, one curve for each N; the minimum lies further right for smaller N. Right: the best share against N, falling towards the value of the full model."}}
K, INFORMATIVE, STRENGTH, WEIGHT = 576, 32, 16.0, 0.01
share = np.linspace(0.001, 0.999, 999)


def expected_loss(n, weight=WEIGHT, informative=INFORMATIVE):
    """L' for each share; n = inf is the full model."""
    spread = share * np.log(informative / share) + (1 - share) * np.log(
        (K - informative) / (1 - share)
    )
    if math.isinf(n):
        return np.log1p(np.exp(-STRENGTH * share)) - weight * spread
    hits = np.arange(n + 1)
    return (
        binom.pmf(hits[:, None], n, share).T @ np.log1p(np.exp(-STRENGTH * hits / n))
        - weight * spread
    )


counts = [2, 5, 10, 25, 50, 100, 200, math.inf]
best = {n: share[expected_loss(n).argmin()] for n in counts}
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.4))
for n in (2, 5, 10, 25, 50):
    curve = expected_loss(n)
    left.plot(share, curve - curve.min(), **STYLES[n], label=f"N = {n}")
full = expected_loss(math.inf)
left.plot(share, full - full.min(), color=plots.GREY, linewidth=1, label="full model")
left.set(xlabel="share m on informative locations", ylabel="L′ − its minimum", ylim=(0, 0.3))
right.plot(counts[:-1], [best[n] for n in counts[:-1]], "o-")
right.axhline(best[math.inf], color=plots.GREY, linewidth=1)
right.set(
    xscale="log",
    xlabel="patches N",
    ylabel="best share m",
    ylim=(0, 1),
    xticks=[2, 5, 10, 25, 50, 200],
    xticklabels=[2, 5, 10, 25, 50, 200],
)
right.minorticks_off()
figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3)
plt.show()

# %%
for informative, weight in (
    (INFORMATIVE, 0.01),
    (INFORMATIVE, 0.05),
    (INFORMATIVE, 0.1),
    (K // 2, WEIGHT),
):
    found = {
        n: share[expected_loss(n, weight, informative).argmin()]
        for n in (2, 5, 10, 50, math.inf)
    }
    line = "  ".join(f"{value:.2f}" for value in found.values())
    print(
        f"λ = {weight:<4g}  {informative:3d} informative  best share for N = 2, 5, 10, 50, all: {line}"
    )
half = found  # best shares if half of all locations are informative
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# Few draws may all miss, and a miss has a high loss, so concentrated attention is better. With many draws some hit anyway. The best attention depends on $N$, and tends to that of the full
# model (grey) as the bias of the loss vanishes. **The sentence of §F is right about the expectation of features and logits, but not about what training minimises.**
# Informative locations need not be rare: the last line of the output has the best shares where half of all locations are informative.
#
# ## A small case, live
#
# Does training find what the formula says? The task is that of [the last chapter](11_ablation_entropy.ipynb): two striped squares among four plain ones in an image of 96 × 96; only a patch shows the stripes.
# With two patches training starts slowly, since they rarely hit anything. So every network begins with ten patches, and after three epochs goes on with two or with ten.

# %%
train_set, tests = Stripes(512, seed=0), Stripes(128, seed=1)
views = build_model(5, seed=0).view(torch.stack(tests.images))
FIRST, THEN = 3, 4  # epochs


def go_on(model, n_patches: int, seed: int, epochs: int, schedule: str = "constant") -> dict:
    """Train with N = n_patches; log-attention on the test images before and after each epoch,
    and how it ended.
    """
    model.n_patches = n_patches
    same = dict(
        batch_size=16,
        learning_rate=3e-3,
        entropy_weight=WEIGHT,
        test_every=1000,
        bfloat16=False,
    )
    return follow(
        model, train_set, tests, Settings(epochs=epochs, schedule=schedule, seed=seed, **same)
    )


SMALL_N, SEEDS = (2, 10), range(6)
small = {}
for seed in SEEDS:
    begun = build_model(10, seed)
    start = go_on(begun, 10, seed, FIRST)
    for n in SMALL_N:
        rest = go_on(copy.deepcopy(begun), n, seed + 100, THEN, "cosine")
        small[n, seed] = rest | {
            key: start[key][:-1] + rest[key] for key in ("maps", "entropy", "mass")
        }

# %% mystnb={"image": {"alt": "Grid of small attention maps on one test image, rows N = 2 and 10, columns epochs 0, 3, 5 and 7. The first two columns are the same; at the end both are bright at the two striped squares."}}
times = [0, FIRST, FIRST + 2, FIRST + THEN]
plots.show_maps(
    {f"then N = {n}": [small[n, 0]["maps"][epoch][0] for epoch in times] for n in SMALL_N},
    [f"epoch {epoch}" for epoch in times],
    "attention, times uniform",
);

# %% [markdown]
# One test image; yellow is 16 times uniform attention or more, blue a sixteenth or less. How *different* two distributions are is measured by the total variation
# $\tfrac12\sum_i |p_i - q_i|$: the share of attention that would have to be moved to turn one into the other. The yardstick is chance: two runs with the same $N$ and another seed.


# %% mystnb={"image": {"alt": "Left: total variation against epoch between runs with the same N and another seed, and between runs with another N. Right: share of attention on the striped squares against epoch for each N."}}
def apart(a, b, epoch):
    """Total variation of two runs' attention, mean over the test images."""
    return total_variation(*(run["maps"][epoch].flatten(1) for run in (a, b))).mean().item()


epochs = range(len(small[2, 0]["maps"]))
kinds = {
    "same N, other seed": [
        ((n, s), (n, t)) for n in SMALL_N for s, t in itertools.combinations(SEEDS, 2)
    ],
    "other N, same seed": [
        ((n, s), (k, s)) for n, k in itertools.combinations(SMALL_N, 2) for s in SEEDS
    ],
    "other N, other seed": [((2, s), (10, t)) for s, t in itertools.permutations(SEEDS, 2)],
}
distance = {
    kind: np.array([[apart(small[a], small[b], e) for e in epochs] for a, b in pairs])
    for kind, pairs in kinds.items()
}
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.9))
looks = ((plots.GREY, "-"), (plots.RED, "--"), (plots.SKY, "-."))
for (kind, values), (colour, dash) in zip(distance.items(), looks, strict=True):
    left.plot(epochs, values.mean(0), color=colour, linestyle=dash, label=kind)
    left.fill_between(
        epochs, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0
    )
left.set(xlabel="epoch", ylabel="total variation", ylim=(0, None))
for (n, seed), run in small.items():
    right.plot(
        run["mass"], **STYLES[n] | dict(linewidth=1.2), label=f"N = {n}" if seed == 0 else None
    )
for ax in (left, right):
    ax.axvline(FIRST, color=plots.GREY, linewidth=1)
right.set(xlabel="epoch", ylabel="attention on stripes", ylim=(0, 1))
entries = zip(
    left.get_legend_handles_labels(), right.get_legend_handles_labels(), strict=True
)
figure.legend(*(one + other for one, other in entries), loc="outside lower center", ncols=3)
plt.show()

# %% tags=["hide-input"]
least_toy = least_p(len(SEEDS), len(SEEDS), paired=True)  # the smallest p; both N go on from the same network of each seed
shares = {n: [small[n, seed]["mass"][-1] for seed in SEEDS] for n in SMALL_N}
p_toy = permutation_test(*shares.values(), paired=True)
few, many = (np.mean(shares[n]) for n in SMALL_N)
at_switch = np.mean([small[2, seed]["mass"][FIRST] for seed in SEEDS])
losses = [np.mean([small[n, seed]["loss"] for seed in SEEDS]) for n in SMALL_N]
rows = [
    [f"{n}", ", ".join(f"{value:.2f}" for value in shares[n]), f"{np.mean(shares[n]):.2f}", f"{best[n]:.2f}"]
    + [f"{np.mean([small[n, seed][key] for seed in SEEDS]):.{digits}f}" for key, digits in (("error", 2), ("loss", 3))]
    for n in SMALL_N
]
display(plots.table(["N after epoch 3", "attention on stripes, by seed", "mean", "best share by the formula", "test error, mean", "test loss, mean"], rows))
final = {kind: values[:, -1] for kind, values in distance.items()}
display(plots.table(["distance at the end", "mean", "smallest … largest"], [[kind, f"{v.mean():.2f}", f"{v.min():.2f} … {v.max():.2f}"] for kind, v in final.items()]))
display(
    Markdown(
        f"Attention ends {'sharper' if few > many else 'no sharper'} with few patches: {few:.2f} on the stripes with N = 2, {many:.2f} with N = 10. "
        f"Exchanging the two within each seed in every way gives p = {p_toy:.2g}, where {len(SEEDS)} seeds can give no less than {least_toy:.2g}: "
        + ("beyond chance. " if p_toy <= 0.05 else "not beyond chance. ")
        + (
            f"The order is that of the formula; **the values are not**. At the switch {at_switch:.2f} was on the stripes; with N = 2 the share went {'down' if few < at_switch else 'up'} from there, {'away from' if (few - at_switch) * (best[2] - at_switch) < 0 else 'towards'} the {best[2]:.2f} of the formula. "
            f"The networks with N = 2 had not solved the task when the learning rate reached zero (test loss {losses[0]:.3f}, with N = 10 {losses[1]:.3f}), and attention that only learns more slowly would show the same order."
            if few > many
            else ""
        )
    )
)

# %% [markdown]
# The formula is not exact here: the strength of a hit is learned, attention need not be even on a square, and systematic draws miss less often than independent ones. The toy was
# chosen to show the effect, and it ends a few epochs after the switch; whether the two come nearer later was not tested. It does not say how large the effect is on tissue.
#
# ## The images of the paper
#
# The colon cancer images, as in §F. A positive image holds many nuclei, often hundreds, so informative locations are not rare. By the formula the effect should then be weaker, but not zero.

# %% tags=["hide-input"]
shown = "paper" if profile == "paper" else "laptop"
PAPER_N = tuple(STYLES)
if profile != "smoke":
    try:
        data.ColonCancer()
    except (data.DataError, ImportError) as error:
        print(f"nothing trained: {error}")
    else:
        group = Processes("cuda" if torch.cuda.is_available() else "cpu")
        wanted = sweep("colon_cancer", n_patches=PAPER_N, profile=shown, out="../results")
        wanted += sweep("colon_cancer", n_patches=PAPER_N, seed=range(1, 6), profile=shown, out="../results")
        started = time.monotonic()
        for run in wanted:
            left = max_seconds - (time.monotonic() - started)
            if run.state != "done" and (left <= 0 or not run.execute(group, max_seconds=left)):
                break

records = load_records("../results/runs")
real = records[(records["experiment"] == "colon_cancer") & (records["method"] == "ats") & (records["profile"] == shown)]
real = real[(real["estimator"] == "systematic") & (real["settings.order"] == "hilbert")]
real = real[~real["file"].str.contains("generated")]
for column in real.columns[real.columns.str.startswith("settings.changes.")]:
    real = real[real[column].isna()]
real = real.assign(name=[Path(file).stem for file in real["file"]])
of = {n: row for n in PAPER_N for _, row in real[(real["n_patches"] == n) & (real["seed"] == 0)].iterrows()}
EXPERIMENT = f"python -m atslib.experiments colon_cancer --profile {shown} --data DIR --resume"

rows, missing = [], []
for n in PAPER_N:
    runs = real[real["n_patches"] == n].set_index("seed").sort_index()
    minutes = [seconds[-1] / 60 for seconds in runs["curve.seconds"]]
    rows.append([f"{n}", ", ".join(map(str, runs.index)) or "none", f"{min(minutes):.1f} … {max(minutes):.1f} min" if minutes else ""])
    lacking = [str(seed) for seed in range(6) if seed not in runs.index]
    if lacking:
        missing.append(f"`--n-patches {n} --seed {','.join(lacking)}`")
display(plots.table(["N", "recorded seeds", "training took"], rows))
display(
    Markdown(
        (
            f"Missing: {'; '.join(missing)}, added to `{EXPERIMENT}`; the maps and distances below come from `python -m atslib.experiments.history --data DIR` after it. "
            if missing
            else ""
        )
        + "The fold is the seed modulo 5: seeds 0 and 5 have the same images. Runs with the same seed and another N begin with the same weights and see the images in the same order."
    )
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-fig7)=
# ### Figure 7
#
# The paper's figure shows attention on a test image for several $N$ during training: unlike at first, alike after about 100 epochs. Ours has one row for each $N$, all of one seed. The image itself may not be shown.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Grid of attention maps of one test image of the colon cancer set, one row for each recorded number of patches, columns epochs 20 to 100 and the end. At epoch 20 the maps are nearly even; structure appears by epoch 40 to 60, in some rows more strongly than in others; at the end the bright and dark places are the same in all rows, and the contrast is similar."}}
folder = Path("../results/ablations")
maps = {
    n: load_maps(folder / f"{row['name']}.safetensors")
    for n, row in of.items()
    if (folder / f"{row['name']}.safetensors").exists()
}
if maps:
    first = next(iter(maps.values()))
    times = [epoch for epoch in (20, 40, 60, 100, max(first)) if epoch in first]
    image = next(iter(first[times[0]]))
    plots.show_maps(
        {f"N = {n}": [m[epoch][image] if epoch in m else None for epoch in times] for n, m in maps.items()},
        [f"epoch {epoch}" for epoch in times],
        "attention, times uniform",
    )
    plt.show()
    print(f"seed 0, test image {image} of fold 0; each value is the attention of 2 × 2 of the 100 × 100 locations")
else:
    print("No maps are stored yet: python -m atslib.experiments.history --data DIR")

# %% tags=["hide-input"]
if len(maps) > 1:
    shown_at = [epoch for epoch in times if all(epoch in m for m in maps.values())]
    flat = {epoch: [m[epoch][image].flatten() for m in maps.values()] for epoch in shown_at}
    distant = {epoch: [total_variation(a, b).item() for a, b in itertools.combinations(rows, 2)] for epoch, rows in flat.items()}
    ranks = {epoch: [spearmanr(a, b).statistic for a, b in itertools.combinations(rows, 2)] for epoch, rows in flat.items()}
    factor = {epoch: [math.exp(row.std().item()) for row in rows] for epoch, rows in flat.items()}  # standard deviation of log a
    most = max(shown_at, key=lambda epoch: np.mean(distant[epoch]))
    later = [epoch for epoch in shown_at if epoch > most]
    reading = (
        f"**What this run shows.** The rows are farthest apart at epoch {most}: {np.mean(distant[most]):.0%} of the attention, mean of all pairs of rows. Their contrast differs then: one standard "
        f"deviation is a factor of {min(factor[most]):.1f} in the flattest row and of {max(factor[most]):.1f} in the sharpest. "
    )
    if later:
        worst, distance = min(min(ranks[epoch]) for epoch in later), [np.mean(distant[epoch]) for epoch in later]
        near = max(distance) < np.mean(distant[most]) / 2
        reading += (
            f"From epoch {later[0]} on they {'are still unlike' if worst <= 0.9 else 'look alike' if near else 'prefer the same places, not yet equally strongly'}: "
            f"any two have a rank correlation of {worst:.2f} or more, and they are {min(distance):.0%} to {max(distance):.0%} apart on average."
        )
    else:
        reading += "They have not come closer since."
    display(Markdown(reading))
# NBVAL_CHECK_OUTPUT

# %% tags=["hide-input"]
if of:
    row = next(iter(of.values()))
    low = sorted({int(n) for n in real.loc[real["settings.training.bfloat16"].astype(bool), "n_patches"]})
    low_runs = int(real["settings.training.bfloat16"].astype(bool).sum())
    display(
        Markdown(
            f"**Differences from the paper.** {row['settings.updates']:,.0f} updates of {row['settings.training.batch_size']} images ({row['curve.epoch'][-1]} epochs) where the paper has 30,000 updates of a size that it does not give; "
            "the paper's 100 epochs need not be ours. "
            + ("A learning rate that falls to zero as a cosine, so that every run comes to rest at the end. " if row["settings.training.schedule"] == "cosine" else "A constant learning rate. ")
            + (
                f"Unit-norm features times {row['settings.feature_scale']:g} before the classifier, as in [chapter 8](08_megapixel_mnist.ipynb), where unscaled features are slow to leave chance (\"Why training stays at chance\"). "
                if row["settings.feature_scale"] != 1
                else ""
            )
            + (
                ("All runs" if low_runs == len(real) else f"{low_runs} of {len(real)} runs, of N = {', '.join(map(str, low))},")
                + " trained in bfloat16; the paper does not speak of precision. "
                if low_runs
                else "All trained in float32. "
            )
            + f"λ = {row['settings.training.entropy_weight']:g}, as in the paper. §F names no N in its text; ours are {', '.join(map(str, PAPER_N[:-1]))} and {PAPER_N[-1]}."
        )
    )
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-claim-patches-attention)=
# ### The same, as distances
#
# On all 20 test images of fold 0: seeds 0 and 5 have not been trained on them, the other seeds have. Grey, the yardstick: two runs with $N$ = 10 and different seeds, of all that are recorded. They differ in initial weights and order of the images, and most of them in the fold, so in training images, too.
# Coloured: $N$ against $N$ = 10 with the same seed, mean over seeds. Such a pair shares all of this. Right: the entropy of every run, seed 0 thick.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Total variation between attention maps against epoch. Thin grey lines: pairs of runs with ten patches and different seeds, mostly of different folds. Coloured lines: another number of patches against ten with the same seed, mean over seeds. Right: entropy by epoch for each N, one line for each run."}}
path = folder / "distances-fold0.json"
distances = json.loads(path.read_text(encoding="utf-8")) if path.exists() else dict(runs={}, pairs=[], epochs=[])
known = {name: run for name, run in distances["runs"].items() if run["entropy_weight"] == 0.01}
pairs = [pair for pair in distances["pairs"] if pair["a"] in known and pair["b"] in known]
epochs = np.array(distances["epochs"])


def between(test):
    """Total variation by epoch of all pairs of runs for which ``test`` holds, (pairs, epochs)."""
    return np.array([pair["tv"] for pair in pairs if test(known[pair["a"]], known[pair["b"]])]).reshape(-1, len(epochs))


yardstick = between(lambda a, b: a["n_patches"] == b["n_patches"] == 10)
like_n = between(lambda a, b: a["n_patches"] == b["n_patches"])
other_images = between(lambda a, b: a["n_patches"] == b["n_patches"] == 10 and a["fold"] != b["fold"])
same_images = {
    fold: between(lambda a, b, fold=fold: a["n_patches"] == b["n_patches"] == 10 and a["fold"] == b["fold"] == fold)
    for fold in sorted({run["fold"] for run in known.values()})
}
same_images = {fold: values for fold, values in same_images.items() if len(values)}  # (pairs, epochs) for each fold
other_n = {
    n: between(lambda a, b, n=n: {a["n_patches"], b["n_patches"]} == {10, n} and a["seed"] == b["seed"])
    for n in PAPER_N
    if n != 10
}
other_n = {n: values for n, values in other_n.items() if len(values)}  # (seeds, epochs) for each N
if len(epochs):
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.7))
    for number, values in enumerate(yardstick):
        left.plot(epochs, values, color=plots.GREY, linewidth=0.7, alpha=0.7, label=None if number else "N = 10, two seeds")
    for n, values in other_n.items():
        left.plot(epochs, values.mean(0), **STYLES[n], label=f"N = {n} against 10, same seed")
    left.set(xlabel="epoch", ylabel="total variation", ylim=(0, None))
    labelled = set()
    for run in sorted(known.values(), key=lambda run: (run["n_patches"], run["seed"])):
        n = run["n_patches"]
        right.plot(
            epochs,
            run["entropy"],
            **STYLES[n] | dict(linewidth=1.8 if run["seed"] == 0 else 0.7),
            label="N = 10 (right)" if n == 10 and n not in labelled else None,
        )
        labelled.add(n)
    right.axhline(math.log(100 * 100), color=plots.GREY, linewidth=1)
    right.set(xlabel="epoch", ylabel="entropy on test images (nats)")
    entries = zip(left.get_legend_handles_labels(), right.get_legend_handles_labels(), strict=True)
    figure.legend(*(one + other for one, other in entries), loc="outside lower center", ncols=2)
    plt.show()
    to_see = []
    if other_n and len(yardstick):
        means = np.array([values.mean(0) for values in other_n.values()])  # (N, epochs)
        over, under = means > yardstick.max(0), means < yardstick.min(0)
        to_see.append(
            f"left, of the {len(means)} coloured lines, which are means, {(~over & ~under)[:, -1].sum()} end among the grey ones, single pairs from {yardstick[:, -1].min():.2f} to {yardstick[:, -1].max():.2f}, "
            f"{under[:, -1].sum()} below all of these and {over[:, -1].sum()} above; on the way they are above all at {over[:, 1:].mean():.0%} of the epochs that were measured"
        )
    last_entropy = {}
    for run in known.values():
        last_entropy.setdefault(run["n_patches"], []).append(run["entropy"][-1])
    ends_at = sorted((float(np.mean(values)), n) for n, values in last_entropy.items())
    deepest = min(min(values) for values in last_entropy.values())
    to_see.append(
        f"right, the entropy falls from {math.log(100 * 100):.2f} nats of uniform attention (grey) and ends at {ends_at[0][0]:.2f} (N = {ends_at[0][1]}) to {ends_at[-1][0]:.2f} (N = {ends_at[-1][1]}), means over the runs; the lowest single run is at {deepest:.2f}"
    )
    display(Markdown(f"**What to see:** {'; '.join(to_see)}."))
else:
    print("No distances are stored yet: python -m atslib.experiments.history --data DIR")

# %% tags=["hide-input"]
def series_of(i):
    """Distance of each other N from N = 10 with the same seed, as words."""
    words = [f"{values[:, i].mean():.2f} (N = {n})" for n, values in other_n.items()]
    return f"they are {', '.join(words[:-1])} and {words[-1]} from N = 10, two seeds of N = 10 {yardstick[:, i].mean():.2f} from each other"


in_short = ""
if other_n and len(yardstick):
    at = {epoch: int(np.abs(epochs - epoch).argmin()) for epoch in (40, 100, int(epochs[-1]))}
    pairs_of = {f"N = {n} against 10, same seed": values for n, values in other_n.items()} | {"N = 10, two seeds": yardstick}
    if same_images and len(other_images):
        pairs_of["N = 10, two seeds, same training images"] = np.concatenate(list(same_images.values()))
        pairs_of["N = 10, two seeds, other training images"] = other_images
    rows = [
        [label, len(values), *(f"{values[:, i].mean():.2f}" for i in at.values()), f"{values[:, -1].min():.2f} … {values[:, -1].max():.2f}"]
        for label, values in pairs_of.items()
    ]
    display(plots.table(["total variation, mean of the pairs", "pairs", *(f"epoch {epochs[i]}" for i in at.values()), "at the end, smallest … largest"], rows))
    changed = np.concatenate(list(other_n.values()))[:, -1]  # every pair of one seed and two N, at the end
    by_n, by_seed = changed.mean(), yardstick[:, -1].mean()
    if same_images and len(other_images):
        alike = np.concatenate(list(same_images.values()))[:, -1]
        of_fold = {
            fold: between(lambda a, b, fold=fold: 10 in (a["n_patches"], b["n_patches"]) and a["n_patches"] != b["n_patches"] and a["seed"] == b["seed"] and a["fold"] == fold)
            for fold in same_images
        }
        n_more = sum(of_fold[fold][:, -1].mean() > values[:, -1].mean() for fold, values in same_images.items() if len(of_fold[fold]))
        in_short = (
            f"At the end, changing N moves {by_n:.0%} of the attention; another seed on the same training images moves {alike.mean():.0%} ({len(alike)} pairs; N moves more in {n_more} of {len(same_images)} folds), "
            f"another seed on others {other_images[:, -1].mean():.0%} ({len(other_images)} pairs)"
        )
    else:
        in_short = f"At the end, changing N moves {by_n:.0%} of the attention, another seed {by_seed:.0%}"
    outside = int((changed > yardstick[:, -1].max()).sum())
    display(
        Markdown(
            f"**Do they converge to the same?** {in_short}. "
            + f"Of {len(changed)} pairs with another N, {outside} are farther apart than the farthest two seeds of N = 10 ({yardstick[:, -1].max():.2f}), {int((changed > like_n[:, -1].max()).sum())} than the farthest two seeds of any one N ({like_n[:, -1].max():.2f}). "
            f"Another seed also changes initial weights, order and, in {len(other_images)} of {len(yardstick)} pairs, the training images; another N changes none of these. At epoch {epochs[at[100]]} {series_of(at[100])}.\n\n"
            f'**"Very similar"?** {"Not in an absolute sense: two" if by_seed > 0.05 else "Yes: two"} seeds with N = 10 disagree about {by_seed:.0%} of the attention at the end and {yardstick[:, at[100]].mean():.0%} at epoch {epochs[at[100]]}.'
        )
    )
else:
    display(Markdown(f"**Do they converge to the same?** Cannot be judged yet: no run with another N is recorded; `{EXPERIMENT} --n-patches 2,5,25,50`."))

# %% [markdown]
# **A fair test.** Within each seed the two numbers of patches are exchanged, in every way; if $N$ did not matter, every exchange would be as likely. Compared are the distances of runs of unlike $N$ and of
# like $N$, at the end of training. Pairs of one seed are left out, since they share their initial weights.

# %% tags=["hide-input"]
by_key = {(run["n_patches"], run["seed"]): name for name, run in known.items()}
last = {frozenset((pair["a"], pair["b"])): pair["tv"][-1] for pair in pairs}


def exchange(n):
    """Seeds of N = 10 and another N; mean distance of pairs of unlike and of like N; p of their difference, one-sided."""
    seeds = sorted({seed for number, seed in by_key if number == 10} & {seed for number, seed in by_key if number == n})
    if len(seeds) < 3:
        return None

    tens, others = ([by_key[number, seed] for seed in seeds] for number in (10, n))
    return seeds, *exchange_test(tens, others, lambda a, b: last[frozenset((a, b))])


exchanged = {n: found for n in PAPER_N if n != 10 and (found := exchange(n))}
rows = [
    [f"10 and {n}", len(seeds), f"{unlike:.3f}", f"{like:.3f}", f"{unlike - like:+.3f}", f"{p:.2f}", f"{least_p(len(seeds), len(seeds), paired=True):.2g}"]
    for n, (seeds, unlike, like, p) in exchanged.items()
]
test_of_n = ""
if rows:
    display(plots.table(["N", "seeds of both", "pairs of unlike N", "pairs of like N", "difference", "p", "smallest p there can be"], rows))
    excess = {n: (unlike - like) / like for n, (_, unlike, like, _) in exchanged.items()}
    worst = max(excess, key=excess.get)
    smallest = min(exchanged, key=lambda n: exchanged[n][3])
    p = exchanged[smallest][3]
    adjusted = min(1.0, p * len(exchanged))
    test_of_n = (
        (f"Runs of unlike N are at most {excess[worst]:.0%} farther apart than runs of like N (N = {worst})" if excess[worst] > 0 else "Runs of unlike N are no farther apart than runs of like N")
        + f"; the smallest p is {p:.2f} (N = {smallest}), {adjusted:.2f} corrected for {len(exchanged)} tests"
        + (": beyond chance." if adjusted <= 0.05 else ": no effect of N is shown, which is not to say that there is none.")
    )
    display(Markdown(test_of_n + " So few seeds can show a large effect only."))
else:
    display(Markdown(f"No other N has three seeds in common with N = 10 yet: `{EXPERIMENT} --n-patches 2,5,10,25,50 --seed 0,1,2,3,4,5`."))
unkept = sorted(run["name"] for _, run in real.iterrows() if run["name"] not in known)
if unkept:
    display(Markdown(f"Not in these comparisons, because no attention was kept: {', '.join(f'`{name}`' for name in unkept)}."))
# NBVAL_CHECK_OUTPUT

# %% tags=["hide-input"]
ends = {(run["n_patches"], run["seed"]): run["entropy"][-1] for run in known.values()}
rows, sharper, formula = [], [], []  # sharper: beyond chance, against the formula or with it
for n in PAPER_N:
    both = sorted({seed for number, seed in ends if number == n} & {seed for number, seed in ends if number == 10})
    if n == 10 or len(both) < 3:
        continue
    less = [ends[n, seed] - ends[10, seed] for seed in both]
    as_formula = sum((value < 0) == (n < 10) for value in less)
    p = permutation_test(less, [0.0] * len(less), paired=True)
    rows.append([f"N = {n}", ", ".join(f"{value:+.2f}" for value in less), f"{round(np.mean(less), 2) + 0:+.2f}", f"{as_formula} of {len(both)}", f"{p:.2f}", f"{2 / 2 ** len(both):.2g}"])
    formula += [(value < 0) == (n < 10) for value in less]
    if p < 0.05:
        sharper.append(f"N = {n} ends {'sharper' if np.mean(less) < 0 else 'broader'} than N = 10")
sharpness = ""
if rows:
    sharpness = (
        f"The entropy at the end goes the way of the formula, sharper with fewer patches, in {sum(formula)} of {len(formula)} comparisons with N = 10; "
        + (f"beyond chance, {' and '.join(sharper)}." if sharper else "no N differs beyond chance.")
    )
    display(Markdown("**How sharp attention ends.** Entropy at the end, less that with N = 10 and the same seed, in nats, on the same test images. By the formula it should be lower for N below 10 and higher above."))
    display(plots.table(["", "difference of the entropy, by seed", "mean", "as the formula has it", "p (exact, paired)", "smallest p there can be"], rows))
    display(Markdown(sharpness))
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# How the verdicts fit together: in theory the number of patches does change the attention, and in the toy it differs after as many epochs, which slower learning with few patches would explain as well; on tissue no such effect is seen (Figure 7). That is no contradiction: the effect may be there, but smaller than so few seeds can show.
#
# ### The losses
#
# $N$ changes the noise of the training and, by the first section, the level of the loss. The figure has the training loss of seed 0 (thin: the recorded values; thick: mean of five). The table has the test loss of each of these networks after training: rows say what it was *trained* with, columns what it was *tested* with.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Training loss against epoch, smoothed over 25 epochs, one line for each recorded number of patches with seed 0."}}
figure, ax = plt.subplots(figsize=(7, 3.2))
for n, row in of.items():
    loss = np.array(row["curve.train_loss"])
    smooth = np.convolve(np.pad(loss, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    ax.plot(row["curve.epoch"], loss, **STYLES[n] | dict(linewidth=0.5, alpha=0.5))
    ax.plot(row["curve.epoch"], smooth, **STYLES[n], label=f"N = {n}")
ax.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
ax.legend(ncols=3)
plt.show()
if of:
    smoothed = {n: np.convolve(np.pad(row["curve.train_loss"], 2, mode="edge"), np.ones(5) / 5, mode="valid") for n, row in of.items()}
    left_chance = {n: next((epoch for epoch, loss in zip(row["curve.epoch"], smoothed[n], strict=True) if loss < 0.95 * math.log(2)), None) for n, row in of.items()}
    started = [epoch for epoch in left_chance.values() if epoch is not None]
    by_loss = sorted(smoothed, key=lambda n: smoothed[n][-1])
    display(
        Markdown(
            f"**What to see:** the loss stays near that of a constant answer, {math.log(2):.2f}, at first; {f'all {len(started)}' if len(started) == len(left_chance) else f'{len(started)} of {len(left_chance)}'} networks leave it"
            + (f", between epoch {min(started)} and epoch {max(started)}" if started else "")
            + f". The thick lines end at {', '.join(f'{smoothed[n][-1]:.2f} (N = {n})' for n in by_loss)}: "
            + ("the more patches in training, the lower. " if by_loss == sorted(by_loss, reverse=True) else "not in the order of N throughout. ")
            + "It is one network each."
        )
    )

tested = [
    n
    for n in (2, 5, 10, 25, 50)
    if any(
        f"final.by_n_patches.{n}.test_loss" in row and not math.isnan(row[f"final.by_n_patches.{n}.test_loss"])
        for row in of.values()
    )
]
rows = [
    [
        f"trained with N = {n}",
        *("–" if math.isnan(value := row.get(f"final.by_n_patches.{k}.test_loss", math.nan)) else f"{value:.2f}" for k in tested),
        f"{row['final.train_loss']:.2f}",
        f"{row['final.test_error']:.2f} ± {row['final.test_stderr']:.2f}",
    ]
    for n, row in of.items()
]
display(plots.table(["seed 0: one network each, 20 test images", *(f"test loss, N = {k}" for k in tested), "training loss, last epoch", "test error, own N"], rows))
ends = {(int(row["n_patches"]), int(row["seed"])): row["final.train_loss"] for _, row in real.iterrows()}
both = sorted(seed for n, seed in ends if n == 10 and (50, seed) in ends)
lower = sum(ends[50, seed] < ends[10, seed] for seed in both)


def pm(values):
    mean, stderr = mean_and_stderr(values)
    return f"{mean:.2f}" + ("" if math.isnan(stderr) else f" ± {stderr:.2f}")


if both:
    p_loss, least_loss = permutation_test([ends[50, s] for s in both], [ends[10, s] for s in both], paired=True), least_p(len(both), len(both), paired=True)
    display(
        Markdown(
            f"The training loss at the end is lower with N = 50 than with N = 10 in {lower} of {len(both)} seeds (mean {pm([ends[50, s] for s in both])} against {pm([ends[10, s] for s in both])}; p = {p_loss:.2g} by exchanging the two within each seed, {beyond_chance(p_loss, least_loss)})"
            + (", as the first section predicts, and as networks that are better trained would show, too. " if lower == len(both) else ". ")
            + "Each loss is measured with its own N, and the bias of few patches is part of it: a lower training loss need not mean a better network."
        )
    )

# %% [markdown]
# Twenty test images cannot rank these networks. Whether more patches *help* is a question for [the chapter on this data set](09_colon_cancer.ipynb), which has all five folds.
#
# ## Summary

# %% tags=["hide-input"]
points = [
    "Features and logits have the same expectation for every $N$. The loss has not: training with few patches minimises something else, and the difference goes as $1/N$.",
    f"In a case that can be computed fewer patches ask for sharper attention: from N = 2 to the full model the best share on the informative locations falls from {best[2]:.2f} to {best[math.inf]:.2f}, and from {half[2]:.2f} to {half[math.inf]:.2f} if half of all locations are informative.",
    f"The toy, trained, ends in {'the same order' if few > many else 'the other order'}: {few:.2f} of the attention on the stripes with N = 2, {many:.2f} with N = 10 ({len(SEEDS)} seeds, p = {p_toy:.2g}); it is not at the formula's values, and with N = 2 not at the end of its training.",
]
if in_short:
    points.append(f"On tissue: {in_short[0].lower()}{in_short[1:]}." + (f" {test_of_n}" if test_of_n else ""))
if sharpness:
    points.append(f"{sharpness} The effect of the formula is not seen on tissue; it may be too small for these seeds." if not sharper else sharpness)
points.append('"Converged to the same" needs a yardstick. Maps that look alike side by side can differ in a good part of the attention.')
plots.at_the_head([points[1], *points[3:-1]])  # the exact case, and tissue
Markdown("\n".join(f"- {point}" for point in points))

# %% [markdown]
# ## Exercises
#
# :::{exercise}
# :label: ex-12-strength
# In {eq}`eq-hits`, let a hit be stronger, `STRENGTH = 64`. Does the best share depend more or less on $N$? Why?
# :::
#
# :::{solution} ex-12-strength
# :class: dropdown
# More. With a stronger hit one hit is enough, so what counts is the chance of no hit at all, $(1-m)^N$, which falls steeply with $N$. For large $N$ the best share becomes very small, since only entropy is
# left to gain; for $N = 2$ it stays large.
# :::
#
# :::{exercise}
# :label: ex-12-after
# Take the networks that went on with two patches, and test them with ten (keep the copy that `go_on` trains; `from atslib.training import evaluate`, and `evaluate(model, tests, n_patches=10, progress=False)["error"]`). Are they worse than those that went on with ten?
# :::
#
# :::{solution} ex-12-after
# :class: dropdown
# Compare the errors with those of the table above. Once attention lies on the stripes, more draws only make the estimate more certain, so expect fewer errors than with two, and about as few as after training with ten. Training with few patches and testing with more is a cheap way to train, as long as
# attention finds the stripes.
# :::
