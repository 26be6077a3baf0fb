# %% [markdown]
# # Ablation: the number of patches
#
# How many patches to draw is a matter of cost. Does it also change *where* the network learns to look? The paper says no, by theory and by its
# Figure 7. This chapter looks at the theory first, finds a gap in it, and then at how wide the gap is.
#
# ## What you will learn
#
# - why "the number of patches should not affect the learned attention" follows for the features and the logits, and not for the loss;
# - a case worked out exactly, in which the best attention depends on $N$;
# - how to tell whether two attention distributions differ by more than chance: other seeds as the yardstick;
# - what the colon cancer images say: Figure 7 of the paper, distances over time, and the losses.
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
from atslib.experiments.summary import permutation_test
from atslib.processes import Processes
from atslib.training import Settings

plots.use_style()
STYLES = {
    2: dict(color=plots.RED, linestyle=":"),
    5: dict(color=plots.ORANGE, linestyle="-."),
    10: dict(color=plots.BLUE, linestyle="--"),
    25: dict(color=plots.GREEN, linestyle="-"),
    50: dict(color=plots.BLACK, linestyle="-"),
}


# %% [markdown]
# ## What the paper says
#
# §F: "According to our theory, the number of patches should not affect the learned attention distribution. Namely, the expectation of the gradients and the predictions should be the same and
# the only difference is in the variance." Figure 7 shows attention learned with different $N$ on the colon cancer images; different at the beginning, "after approximately 100
# epochs they converge to a very similar attention distribution".
#
# ## The gap in the theory
#
# The estimate $z$ of the pooled feature is unbiased for every $N$, and so are the logits of a linear classifier. The *loss* is not
# ([chapter 5](05_lower_variance.ipynb)): for independent draws it exceeds the loss of the full model by about $\tfrac{1}{2N} \operatorname{tr}(H\,\mathbb V)$, with $\mathbb V$ the variance of one draw
# and $H$ the curvature of the loss. Training minimises this sum. So with few patches it is paid, a little, for an attention under which the draws agree with each other; with many it is not.
#
# A case that can be computed. Of $K$ = 576 locations 32 are informative; attention puts the share $m$ on them, evenly, and the rest on the others, evenly. A draw that hits an
# informative location adds $s/N$ to the score of the right class, any other nothing. Then the number of hits is binomial, and the regularised loss of eq. 21 is
#
# $$\mathcal L'(m) = \sum_{k=0}^{N} \binom{N}{k} m^k (1-m)^{N-k} \log\bigl(1 + e^{-s k / N}\bigr) - \lambda\,\mathcal H(m) .$$ (eq-hits)

# %% mystnb={"image": {"alt": "Left: the expected loss minus its minimum against the share of attention on the informative locations, one curve for each N; the minimum lies further right for smaller N. Right: the best share against N, falling towards the value of the full model."}}
K, INFORMATIVE, STRENGTH, WEIGHT = 576, 32, 16.0, 0.01
share = np.linspace(0.001, 0.999, 999)


def expected_loss(n, weight=WEIGHT, informative=INFORMATIVE):
    """L' for each share; n = inf is the full model."""
    spread = share * np.log(informative / share) + (1 - share) * np.log((K - informative) / (1 - share))
    if math.isinf(n):
        return np.log1p(np.exp(-STRENGTH * share)) - weight * spread
    hits = np.arange(n + 1)
    return binom.pmf(hits[:, None], n, share).T @ np.log1p(np.exp(-STRENGTH * hits / n)) - weight * spread


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
for informative, weight in ((INFORMATIVE, 0.01), (INFORMATIVE, 0.05), (INFORMATIVE, 0.1), (K // 2, WEIGHT)):
    found = {n: share[expected_loss(n, weight, informative).argmin()] for n in (2, 5, 10, 50, math.inf)}
    line = "  ".join(f"{value:.2f}" for value in found.values())
    print(f"λ = {weight:<4g}  {informative:3d} informative  best share for N = 2, 5, 10, 50, all: {line}")
half = found  # best shares if half of all locations are informative
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# Few draws may all miss, and the loss of a miss is high; so attention had better be concentrated. With many draws some hit anyway, and entropy is cheap. The best attention depends on $N$, and tends to that of the full
# model (grey) as the bias of the loss goes away. **The sentence of §F is right about the expectation of features and logits, and not about what training minimises.**
# It does not take a needle in a haystack: rarity enters through the entropy only, and where half of all locations are informative (last line) the best share still falls most of that way.
#
# ## A small case, live
#
# Does training find what the formula says? The task is the one of [the last chapter](11_ablation_entropy.ipynb): two striped squares in an image of 96 × 96, whose stripes only a patch can show, among four plain ones.
# Beginning with two patches is slow, since they rarely hit anything. So that all have learned what a stripe is, every network begins with ten patches; after three epochs it goes on with two or with ten.

# %%
train_set, tests = Stripes(512, seed=0), Stripes(128, seed=1)
views = build_model(5, seed=0).view(torch.stack(tests.images))
FIRST, THEN = 3, 4  # epochs


def go_on(model, n_patches: int, seed: int, epochs: int, schedule: str = "constant") -> dict:
    """Train with N = n_patches; log-attention on the test images before and after each epoch, and how it ended."""
    model.n_patches = n_patches
    same = dict(batch_size=16, learning_rate=3e-3, entropy_weight=WEIGHT, test_every=1000, bfloat16=False)
    return follow(model, train_set, tests, Settings(epochs=epochs, schedule=schedule, seed=seed, **same))


SMALL_N, SEEDS = (2, 10), range(6)
small = {}
for seed in SEEDS:
    begun = build_model(10, seed)
    start = go_on(begun, 10, seed, FIRST)
    for n in SMALL_N:
        rest = go_on(copy.deepcopy(begun), n, seed + 100, THEN, "cosine")
        small[n, seed] = rest | {key: start[key][:-1] + rest[key] for key in ("maps", "entropy", "mass")}

# %% mystnb={"image": {"alt": "Grid of small attention maps on one test image, rows N = 2 and 10, columns epochs 0, 3, 5 and 7. The first two columns are the same; at the end both are bright at the two striped squares."}}
times = [0, FIRST, FIRST + 2, FIRST + THEN]
plots.show_maps(
    {f"then N = {n}": [small[n, 0]["maps"][epoch][0] for epoch in times] for n in SMALL_N},
    [f"epoch {epoch}" for epoch in times],
    "attention, times uniform",
);

# %% [markdown]
# One test image; yellow is 16 times uniform attention or more, blue a sixteenth or less. Both rows find the same squares. Whether the distributions are the *same* is a matter of distance, the total variation
# $\tfrac12\sum_i |p_i - q_i|$: the share of attention that would have to be moved to make one of the other. The yardstick is what chance does: two runs with the same $N$ and another seed.


# %% mystnb={"image": {"alt": "Left: total variation against epoch between runs with the same N and another seed, and between runs with another N. Right: share of attention on the striped squares against epoch for each N."}}
def apart(a, b, epoch):
    """Total variation of two runs' attention, mean over the test images."""
    return total_variation(*(run["maps"][epoch].flatten(1) for run in (a, b))).mean().item()


epochs = range(len(small[2, 0]["maps"]))
kinds = {
    "same N, other seed": [((n, s), (n, t)) for n in SMALL_N for s, t in itertools.combinations(SEEDS, 2)],
    "other N, same seed": [((n, s), (k, s)) for n, k in itertools.combinations(SMALL_N, 2) for s in SEEDS],
    "other N, other seed": [((2, s), (10, t)) for s, t in itertools.permutations(SEEDS, 2)],
}
distance = {kind: np.array([[apart(small[a], small[b], e) for e in epochs] for a, b in pairs]) for kind, pairs in kinds.items()}
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.5))
looks = ((plots.GREY, "-"), (plots.ORANGE, "--"), (plots.BLUE, "-."))
for (kind, values), (colour, dash) in zip(distance.items(), looks, strict=True):
    left.plot(epochs, values.mean(0), color=colour, linestyle=dash, label=kind)
    left.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
left.set(xlabel="epoch", ylabel="total variation", ylim=(0, None))
left.legend(loc="upper left")
for (n, seed), run in small.items():
    right.plot(run["mass"], **STYLES[n] | dict(linewidth=1.2), label=f"N = {n}" if seed == 0 else None)
for ax in (left, right):
    ax.axvline(FIRST, color=plots.GREY, linewidth=1)
right.set(xlabel="epoch", ylabel="attention on stripes", ylim=(0, 1))
right.legend(loc="upper left")
plt.show()

# %% tags=["hide-input"]
rows = [
    [
        f"{n}",
        f"{seed}",
        f"{r['entropy'][-1]:.2f}",
        f"{r['mass'][-1]:.2f}",
        f"{best[n]:.2f}",
        f"{r['error']:.2f}",
        f"{r['loss']:.3f}",
    ]
    for (n, seed), r in small.items()
]
display(plots.table(["N after epoch 3", "seed", "entropy", "on stripes", "best share by the formula", "test error", "test loss"], rows))
final = {kind: values[:, -1] for kind, values in distance.items()}
shares = [[small[n, seed]["mass"][-1] for seed in SEEDS] for n in SMALL_N]
p_toy, least_toy = permutation_test(*shares, paired=True), 2 / 2 ** len(SEEDS)  # both N go on from the same network of each seed
few, many = map(np.mean, shares)
display(
    Markdown(
        f"At the end two runs with the same N are {final['same N, other seed'].mean():.2f} apart ({final['same N, other seed'].min():.2f} … {final['same N, other seed'].max():.2f}), runs with another N and another seed "
        f"{final['other N, other seed'].mean():.2f} ({final['other N, other seed'].min():.2f} … {final['other N, other seed'].max():.2f}). The share of attention on the stripes is {few:.2f} with N = 2 and {many:.2f} with N = 10, "
        f"means of {len(SEEDS)} seeds; exchanging the two within each seed in every way gives p = {p_toy:.2g} (it cannot be below {least_toy:.2g}). "
        + ("Fewer patches, sharper attention" if few > many else "Fewer patches do not make attention sharper")
        + (f", in the direction of the formula, whose best shares are {best[2]:.2f} and {best[10]:.2f}" if few > many else " here, though the formula has it so")
        + (
            ", and chance would hardly do that."
            if p_toy <= 0.05
            else ": the most that so few seeds can show, and still compatible with chance."
            if p_toy <= least_toy + 1e-12
            else ", but chance alone would do as much now and then."
        )
    )
)

# %% [markdown]
# The formula is not exact here: the strength of a hit is learned, attention need not be even on a square, and draws are systematic and so miss less often than independent ones. And the toy, with two squares in an image, is
# chosen to show the effect. It ends a few epochs after the switch, while §F looks at the end of training: whether the two would come nearer to each other later was not tested. And it says nothing about how large the effect is on tissue.
#
# ## The images of the paper
#
# The colon cancer images, as in §F. A positive image holds many regions of interest, often hundreds of nuclei, so that informative locations are not rare: by the formula above the effect should be somewhat weaker, no more.

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

rows = []
for n in PAPER_N:
    seeds = sorted(real.loc[real["n_patches"] == n, "seed"])
    wanted = range(6)
    missing = ",".join(str(seed) for seed in wanted if seed not in seeds)
    took = (
        f"{of[n]['curve.seconds'][-1] / 60:.1f} min, {of[n]['hardware.device']}, {of[n]['hardware.threads']:g} thread(s)"
        if n in of
        else ""
    )
    rows.append([f"{n}", ", ".join(map(str, seeds)) or "none", took, f"`--n-patches {n} --seed {missing}`" if missing else ""])
display(plots.table(["N", "recorded seeds", "seed 0 took", "missing: add to the command"], rows))
display(
    Markdown(
        f"Missing runs come from `{EXPERIMENT}`, and the maps and distances below from `python -m atslib.experiments.history --data DIR` after it. The fold is the seed modulo 5: "
        "seeds 0 and 5 have the same images and other initial weights. Runs with the same seed and another N begin with the same weights and see the images in the same order."
    )
)

# %% tags=["hide-input"]
if of:
    row = next(iter(of.values()))
    low = sorted({int(n) for n in real.loc[real["settings.training.bfloat16"].astype(bool), "n_patches"]})
    low_runs = int(real["settings.training.bfloat16"].astype(bool).sum())
    display(
        Markdown(
            f"**Differences from the paper.** {row['settings.updates']:,.0f} updates of {row['settings.training.batch_size']} images ({row['curve.epoch'][-1]} epochs) where the paper has 30,000 of a size that it does not give, so "
            f"that its 100 epochs need not be ours; λ = {row['settings.training.entropy_weight']:g} as in the paper; a learning rate that "
            + ("falls to zero as a cosine" if row["settings.training.schedule"] == "cosine" else "stays as it is")
            + f", which makes everything converge to *something* at the end; unit-norm features times {row['settings.feature_scale']:g} before the classifier; "
            + (
                ("all runs" if low_runs == len(real) else f"{low_runs} of {len(real)} runs, of N = {', '.join(map(str, low))},")
                + " trained in bfloat16, by their records; of precision the paper does not speak. "
                if low_runs
                else "all trained in float32. "
            )
            + "§F names no N in its text; ours are 2, 5, 10, 25 and 50."
        )
    )

# %% [markdown]
# (cell-fig7)=
# ### Figure 7
#
# The paper's figure shows attention on a test image for several $N$ over the epochs of training: unlike at first, alike after about 100 epochs. Ours: one test image of fold 0, one row for each $N$ that was run. The image itself may not be shown.

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
    print(f"test image {image} of fold 0; each value is the attention of 2 × 2 of the 100 × 100 locations")
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
        f"**To be seen:** the rows are farthest apart at epoch {most}, {np.mean(distant[most]):.2f} of the attention on average of all pairs of rows. The contrast of their maps differs then: by one standard "
        f"deviation the attention changes {min(factor[most]):.1f}-fold in the row where it is weakest, {max(factor[most]):.1f}-fold where it is strongest. "
    )
    if later:
        worst, distance = min(min(ranks[epoch]) for epoch in later), [np.mean(distant[epoch]) for epoch in later]
        near = max(distance) < np.mean(distant[most]) / 2
        reading += (
            f"From epoch {later[0]} on the rows {'are still unlike' if worst <= 0.9 else 'look alike' if near else 'prefer the same places, not yet equally strongly'}: "
            f"the rank correlation of any two is {worst:.2f} or more, and they are {min(distance):.2f} … {max(distance):.2f} apart on average."
        )
    else:
        reading += "They have not come closer since."
    display(Markdown(reading))

# %% [markdown]
# (cell-claim-patches-attention)=
# ### The same, as distances
#
# On all 20 test images of fold 0, at the same epoch. Grey are runs with the *same* $N$ = 10, the yardstick. It is a wide one: two seeds have other initial weights and another order of the images, and mostly
# another fold, so other training images, some of the 20 among them. Runs with another $N$ and the same seed share all of this with the run that they are compared with.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Total variation between attention maps against epoch. Thin grey lines: pairs of runs with ten patches and different seeds, mostly of different folds; purple, those of the same fold. Coloured lines: runs with another number of patches against the run with ten patches and the same seed, as far as recorded. Right: entropy by epoch for each N."}}
path = folder / "distances-fold0.json"
distances = json.loads(path.read_text(encoding="utf-8")) if path.exists() else dict(runs={}, pairs=[], epochs=[])
known = {name: run for name, run in distances["runs"].items() if run["entropy_weight"] == 0.01}
pairs = [pair for pair in distances["pairs"] if pair["a"] in known and pair["b"] in known]
epochs = np.array(distances["epochs"])


def between(test):
    """Total variation by epoch of all pairs of runs for which ``test`` holds, (pairs, epochs)."""
    return np.array([pair["tv"] for pair in pairs if test(known[pair["a"]], known[pair["b"]])]).reshape(-1, len(epochs))


yardstick = between(lambda a, b: a["n_patches"] == b["n_patches"] == 10)
same_fold = between(lambda a, b: a["n_patches"] == b["n_patches"] and a["fold"] == b["fold"] == 0)
other_fold = len(between(lambda a, b: a["n_patches"] == b["n_patches"] == 10 and a["fold"] != b["fold"]))  # of the yardstick's pairs
one_fold = [
    (a["n_patches"], *sorted((a["seed"], b["seed"])))
    for a, b in ((known[pair["a"]], known[pair["b"]]) for pair in pairs)
    if a["n_patches"] == b["n_patches"] and a["fold"] == b["fold"] == 0
]
other_n = {
    n: between(lambda a, b, n=n: {a["n_patches"], b["n_patches"]} == {10, n} and a["seed"] == b["seed"] == 0)
    for n in PAPER_N
    if n != 10
}
other_n = {n: values[0] for n, values in other_n.items() if len(values)}


def from_ten(n, seed):
    """Distances by epoch of one run from the runs with N = 10 and other seeds, (runs, epochs)."""
    return between(
        lambda a, b: any(
            (x["n_patches"], x["seed"], y["n_patches"]) == (n, seed, 10) and y["seed"] != seed for x, y in ((a, b), (b, a))
        )
    )


fair = {n: values for n in PAPER_N if len(values := from_ten(n, 0))}  # all measured alike, N = 10 too
if len(epochs):
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.7))
    for number, values in enumerate(yardstick):
        left.plot(epochs, values, color=plots.GREY, linewidth=0.7, alpha=0.7, label=None if number else "N = 10, two seeds, mostly two folds")
    for number, values in enumerate(same_fold):
        left.plot(epochs, values, color=plots.PURPLE, linewidth=1.4, label=None if number else "same N, same fold, two seeds")
    for n, values in other_n.items():
        left.plot(epochs, values, **STYLES[n], label=f"N = {n} against 10, seed 0")
    left.set(xlabel="epoch", ylabel="total variation", ylim=(0, None))
    labelled = set()
    for run in sorted(known.values(), key=lambda run: (run["n_patches"], run["seed"])):
        n = run["n_patches"]
        right.plot(
            epochs,
            run["entropy"],
            **STYLES[n] | dict(linewidth=1.8 if run["seed"] == 0 else 0.7),
            label=None if n in labelled else f"N = {n}",
        )
        labelled.add(n)
    right.axhline(math.log(100 * 100), color=plots.GREY, linewidth=1)
    right.set(xlabel="epoch", ylabel="entropy on test images (nats)")
    right.legend(loc="lower right")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    plt.show()
else:
    print("No distances are stored yet: python -m atslib.experiments.history --data DIR")

# %% tags=["hide-input"]
ends = {(run["n_patches"], run["seed"]): run["entropy"][-1] for run in known.values()}
rows, sharper, by_formula = [], [], []  # sharper: beyond chance, against the formula or with it
for n in PAPER_N:
    both = sorted({seed for number, seed in ends if number == n} & {seed for number, seed in ends if number == 10})
    if n == 10 or len(both) < 3:
        continue
    less = [ends[n, seed] - ends[10, seed] for seed in both]
    as_formula = sum((value < 0) == (n < 10) for value in less)
    p = permutation_test(less, [0.0] * len(less), paired=True)
    rows.append([f"N = {n}", len(both), ", ".join(f"{value:+.2f}" for value in less), f"{np.mean(less):+.2f}", f"{as_formula} of {len(both)}", f"{p:.2f}", f"{2 / 2 ** len(both):.2g}"])
    by_formula.append(f"{as_formula} of {len(both)} (N = {n})")
    if p < 0.05:
        sharper.append(f"N = {n} ends {'sharper' if np.mean(less) < 0 else 'broader'} than N = 10")
sharpness = ""
if rows:
    display(
        Markdown(
            "**To be seen on the right,** and with all seeds: how much higher the entropy is at the end than with N = 10 and the same seed, in nats, on the same test images. By the formula of the first section fewer patches ask for sharper attention, so that "
            "it should be lower for N below 10 and higher above."
        )
    )
    display(plots.table(["", "seeds of both", "entropy less that with N = 10, by seed", "mean", "as the formula has it", "p (exact, paired)", "smallest p there can be"], rows))
    sharpness = (
        f"On tissue the entropy at the end goes the way of the formula in {', '.join(by_formula)} of the seeds; "
        + (f"beyond chance, {' and '.join(sharper)}." if sharper else "that fewer patches end in sharper attention is not shown, nor is the contrary.")
    )
    display(Markdown(sharpness))

# %% tags=["hide-input"]
verdicts = []
if other_n and len(yardstick):
    at = {epoch: int(np.abs(epochs - epoch).argmin()) for epoch in (40, 100, int(epochs[-1]))}
    rows = [
        [label, *(f"{values[i]:.2f}" for i in at.values())]
        for n, values in other_n.items()
        for label in [f"N = {n} against 10, seed 0"]
    ]
    rows.append([f"N = 10, two seeds: mean of {len(yardstick)} pairs, {other_fold} of two folds", *(f"{yardstick[:, i].mean():.2f}" for i in at.values())])
    rows.append(
        [
            "N = 10, two seeds: smallest … largest",
            *(f"{yardstick[:, i].min():.2f} … {yardstick[:, i].max():.2f}" for i in at.values()),
        ]
    )
    if len(same_fold):
        label = "N = {}, same fold, seeds {} and {}: one pair".format(*one_fold[0]) if len(same_fold) == 1 else f"same N, same fold, two seeds: mean of {len(same_fold)} pairs"
        rows.append([label, *(f"{same_fold[:, i].mean():.2f}" for i in at.values())])
    for n, values in fair.items():
        label = f"N = {n}, seed 0, against N = 10, other seeds: mean of {len(values)} pairs"
        rows.append([label, *(f"{values[:, i].mean():.2f}" for i in at.values())])
    display(plots.table(["total variation", *(f"epoch {epochs[i]}" for i in at.values())], rows))
    inside = {n: values[-1] <= yardstick[:, -1].max() for n, values in other_n.items()}
    beyond = [n for n, fits in inside.items() if not fits]
    verdicts.append(
        f"**Do they converge to the same?** At the end, of {len(inside)} other numbers of patches, {sum(inside.values())} "
        f"{'is' if sum(inside.values()) == 1 else 'are'} with the same seed no farther from N = 10 than two runs with N = 10 can be from each other ({len(yardstick)} pairs"
        + (f"); N = {', '.join(map(str, beyond))} {'is' if len(beyond) == 1 else 'are'} farther. " if beyond else "). ")
        + (
            "So the paper's claim is not contradicted: another number of patches changes the attention no more than another seed, mostly with another fold, does"
            if not beyond
            else "For those another number of patches changes the attention by more than another seed and fold do"
        )
        + f"; but the pairs with another N share initial weights, order and fold, which the yardstick's do not ({other_fold} of {len(yardstick)} have two folds), so that this is "
        + ("an easy test to pass." if not beyond else "all the more to be heeded.")
    )
    if len(same_fold):
        least = same_fold[:, -1].min()
        nearer = sum(values[-1] <= least for values in other_n.values())
        which = "The one pair" if len(same_fold) == 1 else f"The nearest of {len(same_fold)} pairs"
        verdicts[-1] += (
            f" {which} of the same N and the same fold, with other initial weights and another order, is {least:.2f} apart at the end; {nearer} of {len(other_n)} other numbers of patches are no farther from N = 10 than that."
        )
    if len(fair) > 1 and 10 in fair:
        ten = [from_ten(10, run["seed"])[:, -1].mean() for run in known.values() if run["n_patches"] == 10]
        farther = [n for n, values in fair.items() if n != 10 and values[:, -1].mean() > max(ten)]
        verdicts.append(
            "**The same with other seeds on both sides**, the fairer comparison. From the runs of N = 10 with other seeds, the run of seed 0 is at the end on average this far: "
            + ", ".join(f"N = {n}: {values[:, -1].mean():.2f}" for n, values in fair.items())
            + f". The {len(ten)} runs with N = 10 are {min(ten):.2f} … {max(ten):.2f} from their others; "
            + (f"N = {', '.join(map(str, farther))} {'is' if len(farther) == 1 else 'are'} farther than any of them, by up to {max(fair[n][:, -1].mean() for n in farther) - max(ten):.3f}, one run each." if farther else "no N is farther.")
            + (
                f" Over all seeds, a run with N = 50 is up to {crossed.max():.2f} from one with N = 10 ({len(crossed)} pairs), two with N = 10 up to {yardstick[:, -1].max():.2f}."
                if len(crossed := between(lambda a, b: {a["n_patches"], b["n_patches"]} == {10, 50} and a["seed"] != b["seed"])[:, -1])
                else ""
            )
        )
    verdicts.append(
        f'**"Very similar"?** {"Not in an absolute sense: two" if yardstick[:, -1].mean() > 0.05 else "Yes: two"} runs with N = 10, with another seed and mostly another fold, disagree at the end about {yardstick[:, -1].mean():.0%} of the attention, '
        f"{'less' if yardstick[:, -1].mean() < yardstick[:, at[100]].mean() else 'no less'} than at epoch {epochs[at[100]]} ({yardstick[:, at[100]].mean():.0%}); "
        f"runs with the same seed and another N disagree about {np.mean([values[-1] for values in other_n.values()]):.0%}."
    )
else:
    if len(yardstick):
        print(
            f"the yardstick: two runs with N = 10, another seed and mostly another fold, are {yardstick[:, -1].mean():.2f} apart at the end, {yardstick[:, -1].min():.2f} … {yardstick[:, -1].max():.2f} ({len(yardstick)} pairs)"
        )
    verdicts.append(
        f"**Do they converge to the same?** Cannot be judged yet: no run with another N is recorded; `{EXPERIMENT} --n-patches 2,5,25,50`."
    )

display(Markdown("\n\n".join(verdicts)))

# %% [markdown]
# **With several seeds of both,** the two numbers can be exchanged within each seed, in every way, as would be as likely if $N$ did not matter. What is compared is how far runs of unlike $N$ are from each other, and how far
# runs of like $N$; pairs of one seed, which share their initial weights, are left out. All at the end of training.

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
    [f"10 and {n}", len(seeds), f"{unlike:.3f}", f"{like:.3f}", f"{unlike - like:+.3f}", f"{p:.2f}", f"{2 / 2 ** len(seeds):.2g}"]
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
        f"Of the {len(exchanged)} numbers of patches with several seeds N = {worst} is the farthest from N = 10: unlike pairs are {abs(excess[worst]):.0%} {'farther apart' if excess[worst] > 0 else 'closer'} than like pairs. "
        f"The smallest p of the {len(exchanged)} is {p:.2f} (N = {smallest}), {adjusted:.2f} after Bonferroni"
        + (", a difference that chance would hardly make." if adjusted <= 0.05 else ", which chance does easily: no sign that N matters for where attention ends." if p > 0.05 else ": one test in so many would now and then show as much by chance.")
    )
    display(Markdown(test_of_n + (" With few seeds only a large effect could be told; another seed moves attention by so much more that, on this evidence, N is the smaller matter." if max(excess.values()) < 0.25 else "")))
else:
    display(Markdown(f"No other N has three seeds in common with N = 10 yet: `{EXPERIMENT} --n-patches 2,5,10,25,50 --seed 0,1,2,3,4,5`."))
unkept = sorted(run["name"] for _, run in real.iterrows() if run["name"] not in known)
if unkept:
    display(Markdown(f"Of {len(unkept)} recorded run{'s' * (len(unkept) > 1)} the attention was not kept, so that they are not among these: {', '.join(f'`{name}`' for name in unkept)}. A run that has a record is skipped; to make it again, remove the record first."))

# %% [markdown]
# ### The losses
#
# What $N$ does change, by all accounts, is the noise; by the first section also the level of the loss. Training loss by epoch (thick lines: mean of five recorded values; thin lines: the values), and after training the test loss of every network with every number of patches: rows are what it was *trained* with, columns what it was *tested* with.

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
display(plots.table(["seed 0", *(f"test loss, N = {k}" for k in tested), "training loss, last epoch", "test error, own N"], rows))
ends = {(int(row["n_patches"]), int(row["seed"])): row["final.train_loss"] for _, row in real.iterrows()}
both = sorted(seed for n, seed in ends if n == 10 and (50, seed) in ends)
lower = sum(ends[50, seed] < ends[10, seed] for seed in both)
if both:
    display(
        Markdown(
            f"The training loss at the end is lower with N = 50 than with N = 10 in {lower} of {len(both)} seeds ("
            + ", ".join(f"{ends[10, seed]:.2f} → {ends[50, seed]:.2f}" for seed in both)
            + "). "
            + ("That is a difference of level, in the direction that the first section predicts. " if lower == len(both) else "")
            + "But each loss is measured with its own N, and the bias of few patches is part of it: a lower one need not be a better network."
        )
    )

# %% [markdown]
# Twenty test images: an error has a standard error of nearly a tenth, and the losses are not much better. Whether more patches *help* is a question for [the chapter on this data set](09_colon_cancer.ipynb), which has all five folds.
#
# ## Summary

# %% tags=["hide-input"]
if other_n and len(yardstick):
    tissue = (
        f"On tissue, two runs with N = 10, another seed and mostly another fold disagree about {yardstick[:, -1].mean():.0%} of the attention, and "
        + (f"with the same seed none of {len(inside)} other N is" if not beyond else f"with the same seed {len(beyond)} of {len(inside)} other N {'is' if len(beyond) == 1 else 'are'}")
        + " farther from N = 10 than the farthest of them. That is a wide yardstick: runs with another N share weights, order and fold with the one they are compared with."
        + f" {test_of_n} {sharpness}"
    )
else:
    tissue = "On tissue, the yardstick is another seed; no run with another N has been compared yet."
Markdown(
    "- Features and logits have the same expectation for every $N$. The loss has not, so that training with few patches minimises something else; the difference goes as $1/N$.\n"
    f"- In the worked case this shows: fewer patches ask for sharper attention. From N = 2 to the full model the best share falls from {best[2]:.2f} to {best[math.inf]:.2f}, and from {half[2]:.2f} to "
    f"{half[math.inf]:.2f} if half of all locations are informative. In the toy, the share of attention on the stripes is {few:.2f} after training with N = 2 and {many:.2f} with N = 10 "
    f"({len(SEEDS)} seeds, p = {p_toy:.2g}, at least {least_toy:.2g}): "
    + ("the same direction." if few > many and p_toy <= 0.05 else "the same direction, but not beyond chance." if few > many else "not so.")
    + f"\n- {tissue}\n"
    '- "Converged to the same" needs a yardstick. Maps that look alike side by side can differ in a good part of the attention.'
)

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
# More. A stronger hit makes one hit enough, so what counts is the chance of no hit at all, $(1-m)^N$, which falls steeply with $N$. For large $N$ the best share becomes very small, since entropy is all that is
# left to be gained; for $N = 2$ it stays large.
# :::
#
# :::{exercise}
# :label: ex-12-after
# Test the networks that went on with two patches with ten (let `go_on` return the model; `evaluate(model, tests, n_patches=10, progress=False)`). Are they worse than those that went on with ten?
# :::
#
# :::{solution} ex-12-after
# :class: dropdown
# They are not: once attention lies on the stripes, more draws only make the estimate more certain, and nearly all answers are right. Training with few patches and testing with more is a cheap way to train, as long as
# attention finds its way.
# :::
