# %% [markdown]
# # A gigapixel: looking twice
#
# The paper ends with an idea: "we believe that a nested model of *attention sampling* can be used to efficiently learn to discover
# informative regions and classify up to gigapixel images using a single GPU" (§5). It gives no model and no experiment. This
# chapter writes the model down, checks that it is still unbiased, trains it, and takes what was trained to an image of a gigapixel.
#
# **What came out**, as the end of this page computes it ([the glossary](../glossary.md) has the words):
#
# :::{glue:md} what-came-out
# :format: myst
# :::
#
# ## What you will learn
#
# - why one small view does not do when images grow, whether its scale is kept or its size;
# - attention sampling within attention sampling, in one equation and one constructor;
# - that value and gradient stay unbiased, by enumeration of every draw at both levels;
# - how to split a budget between regions and patches in each;
# - whether it learns, and how far what it has learned carries: from 16 megapixels to a thousand.
#
# **Time and hardware:** 15 minutes to read, under a minute to run on one CPU core, 2 GB of memory free; nothing to download. The
# networks were trained before, on one CPU core; their records say how long it took.

# %% tags=["parameters"]
profile = "smoke"  # smoke; laptop or paper also train and measure what has no record yet
max_seconds = 3600  # for that
gpu_gb = 8  # memory of the GPU in the question whether a gigapixel fits

# %% tags=["hide-input"]
import itertools
import json
import math
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown, display
from matplotlib.patches import Rectangle
from torch import nn

from atslib import ESTIMATORS, AttentionSampling, downsample, extract_patches, plots
from atslib.data import MegapixelMNIST
from atslib.enumeration import every_draw
from atslib.experiments import load_records
from atslib.experiments import sizes as larger
from atslib.experiments.runs import sweep
from atslib.experiments.summary import mean_and_stderr, sign_test
from atslib.nested import NestedSampling
from atslib.networks import Classifier, LeNetFeatures, MegapixelMNISTAttention, SaliencyPrior
from atslib.patches import low_size
from atslib.processes import Processes
from atslib.profiling import MB, peak_memory, training_step

plots.use_style()
torch.manual_seed(0)
GIGA = 31_700  # side of an image of a gigapixel
RESULTS = Path("../results")

# %% [markdown]
# ## One view does not do
#
# Attention is computed on a small view, and there are two ways to choose its size. At a **fixed scale**, 0.12 in the paper's first
# experiment, the view grows with the image, and with it what the attention network costs. At a **fixed size**, 180² pixels there, a digit
# shrinks in it until it is gone, and patches around neighbouring locations no longer touch: what lies between them cannot be seen by any draw.

# %%
rows = []
for side in (1500, 6000, GIGA):
    view, coarse = (low_size((side, side), scale)[0] for scale in (0.12, 0.03))
    between = side / 180  # image pixels from one location of a view of 180² to the next
    rows.append(
        [
            f"{side:,}²",
            f"{side**2 / 1e6:,.0f}",
            f"{view**2 / 1e6:.2g}",
            f"{coarse**2 / 1e6:.1g}",
            f"{28 / between:.2f}",
            f"{min(1, (50 / between) ** 2):.0%}",
        ]
    )
plots.table(
    [
        "image",
        "megapixels",
        "million locations at scale 0.12",
        "at scale 0.03",
        "a digit in a view of 180², in pixels",
        "of the image, in reach of patches of 50²",
    ],
    rows,
)

# %% [markdown]
# A pathologist does neither: she looks at the slide through a weak lens, chooses a region, and changes the lens.
#
# ## The same sum, twice
#
# Let $a$ be an attention over the locations $m$ of a coarse view of the whole, and $R(x, m)$ the *region* around location $m$, larger than a
# patch. Each region has a view of its own, and on it an attention $b_{\cdot|m}$ over locations $k$. The model pools over both:
#
# $$ \Psi(x) = g\Big(\sum_m a_m \underbrace{\sum_k b_{k|m}\, f\bigl(P(R(x, m), k)\bigr)}_{h_m}\Big) . $$ (eq-nested)
#
# The inner sum is the attention-weighted feature of [chapter 1](01_attention_as_expectation.ipynb), for the region; call it $h_m$. The outer
# sum is the same with $h_m$ in the place of a patch's feature. So the code is the old one with itself as its feature network (the model trained below is
# `megapixel_mnist.build_model(5, profile="large", method="nested")`):

# %%
within = AttentionSampling(
    SaliencyPrior(MegapixelMNISTAttention()),
    LeNetFeatures(),
    nn.Identity(),
    patch_size=50,
    n_patches=2,
    scale=0.12,
)
model = NestedSampling(
    SaliencyPrior(MegapixelMNISTAttention()),
    within,
    Classifier(32, 10),
    region_size=240,
    n_regions=5,
    scale=0.03,
)
image, label = MegapixelMNIST("test", 1, 4000, n_noise=10)[0]
out = model(image[None], return_patches=True)
print(f"image             {tuple(image.shape)}")
print(
    f"attention a       {tuple(out.log_attention.shape)}, of which {out.index.shape[1]} regions are drawn: {tuple(out.patches.shape)}"
)
print(f"attention b       {tuple(out.within.log_attention.shape)}, one for each region")
print(f"patches           {tuple(out.within.patches.shape)}")
print(f"logits            {tuple(out.logits.shape)}")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# The first view still grows with the image. But at the scale 0.03 it has sixteen times fewer locations than at 0.12 (the table has both); a
# third level would shrink it further. `within` classifies nothing, hence `nn.Identity()`: what is asked of it is the pooled feature of each region. It may be nested itself, for three
# levels. A location's region should reach as far as what the attention network sees around it: here $7$ view pixels at scale $0.03$, $233$ image pixels.
#
# The entropy that the loss rewards (eq. 21) becomes that of the pair $(m, k)$. By the chain rule it is $H(a) + \sum_m a_m H(b_{\cdot|m})$, and its second
# part is one more thing to be pooled over regions: it is estimated from the same draw.
#
# (cell-nested-unbiased)=
# ## Still unbiased, at both levels
#
# Let $\hat h_m$ be what `within` makes of region $m$ with a few patches. Given the regions, $\mathbb E\,\hat h_m = h_m$. The outer estimate
# $\sum_m W_m \hat h_m$ is *linear* in these, so its expectation over the inner draws is the estimate with the true $h_m$, and the expectation of that over the outer draws is
# the sum. Its gradient, $\sum_m W_m (\partial \hat h_m + \hat h_m\, \partial \log a_m)$, is linear in $\hat h_m$ and $\partial \hat h_m$ as well, and the same two steps apply. Behind
# a nonlinear loss nothing is unbiased, as [before](05_lower_variance.ipynb).
#
# Below, three regions with four locations each; every draw of two regions without replacement, and of two patches without replacement in each of
# them, with its probability. Mean of the estimates and of their gradients, against the sum and its gradient:

# %%
des_raj = ESTIMATORS["des_raj"]
generator = torch.Generator().manual_seed(0)
outer = torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True)
inner = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
# of each patch, two numbers
features = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
log_a, log_b = outer.log_softmax(0), inner.log_softmax(1)
exact = (log_a.exp()[:, None, None] * log_b.exp()[..., None] * features).sum((0, 1))

mean, draws, total = 0, 0, 0.0
# per region: (patches, probability)
inside = [tuple(zip(*every_draw(des_raj, log_b[m], 2), strict=True)) for m in range(3)]
for regions, chance in zip(*every_draw(des_raj, log_a, 2), strict=True):
    for choice in itertools.product(*(inside[m] for m in regions)):
        patches = torch.stack([index for index, _ in choice])  # (2 regions, 2 patches)
        seen = features[regions[:, None], patches]  # (2, 2, 2)
        pooled = des_raj(log_b[regions], patches, seen)  # h of each region, estimated
        estimate = des_raj(log_a[None], regions[None], pooled[None])[0]
        probability = chance * math.prod(float(p) for _, p in choice)
        mean, draws, total = (
            mean + probability * estimate,
            draws + 1,
            total + float(probability),
        )
direction = torch.tensor([1.0, -2.0], dtype=torch.float64)
ours, true = (
    torch.autograd.grad(value @ direction, (outer, inner), retain_graph=True)
    for value in (mean, exact)
)
print(f"{draws} draws, probabilities sum to {total:.12f}")
print(
    f"value:            largest difference below 1e-12: {bool((mean - exact).abs().max() < 1e-12)}"
)
for name, a, b in zip(("outer attention", "inner attention"), ours, true, strict=True):
    print(
        f"gradient, {name}: largest difference below 1e-12: {bool((a - b).abs().max() < 1e-12)}"
    )
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# `tests/test_nested.py` does the same with whole networks, every weight, three pairs of estimators, and the entropy.
#
# ## Regions or patches?
#
# Draw $M$ regions from $a$ and $n$ patches from $b_{\cdot|m}$ in each, all with replacement; a region drawn twice gets patches of its own each time. The law of total variance splits the variance of the pooled
# feature (summed over its coordinates) in two: between regions, $\sigma_b^2 = \mathbb V_m[h_m]$, and within them, $\sigma_w^2 = \mathbb E_m \mathbb V_{k|m}[f]$:
#
# $$ \mathbb V[z] = \frac1M\Big(\sigma_b^2 + \frac{\sigma_w^2}{n}\Big), \qquad \text{at the cost } M (c_r + n\, c_p), $$ (eq-two-stage)
#
# if looking at a region costs $c_r$ (its view, its attention) and a patch $c_p$. More patches in the same regions lower the second part only. The
# best $n$ for any budget does not depend on the budget, by setting the derivative of $(\sigma_b^2 + \sigma_w^2/n)(c_r + n c_p)$ to zero:
#
# $$ n^\star = \frac{\sigma_w}{\sigma_b} \sqrt{\frac{c_r}{c_p}} . $$ (eq-best-n)
#
# This is two-stage sampling, well known in surveys {cite}`cochran1977`: villages, then households. First the formula, against every draw of the small case above:

# %%
replaced = ESTIMATORS["with_replacement"]
with torch.no_grad():
    h = (log_b.exp()[..., None] * features).sum(1)  # (3, 2)
    between = (log_a.exp()[:, None] * (h - exact) ** 2).sum().item()
    inside_each = (log_b.exp()[..., None] * (features - h[:, None]) ** 2).sum((1, 2))  # (3,)
    among = (log_a.exp() * inside_each).sum().item()


@torch.no_grad()
def enumerated(n_regions, n_patches):
    """Variance of the pooled feature over every draw at both levels."""
    regions, chance = every_draw(replaced, log_a, n_regions)
    inside = [every_draw(replaced, log_b[m], n_patches) for m in range(3)]
    # (draws, 2) each
    pooled = [features[m][index].mean(1) for m, (index, _) in enumerate(inside)]
    variance = 0.0
    for drawn, p in zip(regions.tolist(), chance.tolist(), strict=True):
        for choice in itertools.product(*(range(len(pooled[m])) for m in drawn)):
            estimate = torch.stack(
                [pooled[m][c] for m, c in zip(drawn, choice, strict=True)]
            ).mean(0)
            weight = p * math.prod(
                inside[m][1][c].item() for m, c in zip(drawn, choice, strict=True)
            )
            variance += weight * ((estimate - exact) ** 2).sum().item()
    return variance


for n_regions, n_patches in ((1, 1), (1, 2), (2, 1), (2, 2), (1, 4)):
    print(
        f"M = {n_regions}, n = {n_patches}: by the formula {(between + among / n_patches) / n_regions:.6f}, by every draw {enumerated(n_regions, n_patches):.6f}"
    )
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# What the two variances are for a network that was trained follows below.
#
# ## Does it learn?
#
# Megapixel MNIST at 4000 × 4000 pixels, sixteen megapixels: five digits, ten scribbles, and else nothing. The view of the whole has the
# scale 0.03, so a digit is less than a pixel wide in it: one can see that something is there, and how bright it is, but not what. Five regions of 240 × 240 pixels are drawn, and
# two patches of 50 × 50 in each: ten patches, as [in chapter 8](08_megapixel_mnist.ipynb). The departures from the paper's first experiment are those of chapter 8 (saliency prior, features times 16 before the classifier, cosine
# schedule, λ = 0.001), and 2,000 training images with 10 scribbles instead of 5,000 with 50. The prior is sharper at the first level, since there is more nothing, and the first view is multiplied by 16, since a digit is
# dimmer in it by its area. With `profile = "laptop"` the next cell makes the run if it has no record, and takes it to larger images.

# %%
NESTED = sweep(
    "megapixel_mnist", ["nested"], n_patches=[5], seed=[0], profile="large", out=RESULTS
)
if profile != "smoke":
    started = time.monotonic()
    for run in NESTED:
        left = max_seconds - (time.monotonic() - started)
        if run.state != "done" and left > 0:
            run.execute(
                Processes("cuda" if torch.cuda.is_available() else "cpu"), max_seconds=left
            )
    names = [run.name for run in NESTED if run.state == "done"]
    if names and max_seconds > time.monotonic() - started:  # ten minutes or so
        larger.main([*names, "--out", str(RESULTS)])

# %% tags=["hide-input"]
records = load_records(RESULTS / "runs")
records["name"] = [Path(file).stem for file in records["file"]]
# Runs that differ in their seed only; the first is shown in detail.
same = [run.name for run in sweep("megapixel_mnist", ["nested"], n_patches=[5], seed=range(10), profile="large", out=RESULTS)]
records = records[records["name"].isin(same)].sort_values("seed")
names = list(records["name"])


def with_error(values, digits=3):
    mean, stderr = mean_and_stderr(values)
    return f"{mean:.{digits}f}" + ("" if math.isnan(stderr) else f" ± {stderr:.{digits}f}")


if len(records):
    first = records.iloc[0]
    looks = [5, 10, 25, 50]
    rows = [
        [f"{m} regions, {2 * m} patches", with_error([row[f"final.by_n_patches.{m}.test_error"] for _, row in records.iterrows()]),
         f"{m * 240**2 / 4000**2:.1%}"]
        for m in looks
    ]  # fmt: skip
    display(plots.table(["looked at", "test error", "of the image read beside the view, at most"], rows))
    display(
        Markdown(
            f"{len(records)} run{'s' * (len(records) > 1)}, trained with 5 regions on {first['dataset.n_train']:,.0f} images for {first['settings.training.epochs']:.0f} epochs, "
            f"{first['curve.seconds'][-1] / 60:.0f} minutes on {first['hardware.name']} ({first['hardware.device']}, {first['hardware.threads']:.0f} thread(s)); the first line is how it was trained, the "
            f"others are the same network with more looks. {first['dataset.n_test']:.0f} test images; one standard error of a single error is at most {0.5 / math.sqrt(first['dataset.n_test']):.3f}"
            + ("; ± is the standard error over runs. " if len(records) > 1 else ". ") + "Guessing: 0.900."
        )
    )  # fmt: skip
else:
    display(Markdown("**No run has a record yet:** `python -m atslib.experiments megapixel_mnist --profile large --method nested --n-patches 5`."))

# %% mystnb={"image": {"alt": "Left: training loss and right: test error of the nested model by epoch. Both stay at the dotted lines, the level of guessing, for about five epochs, then fall steeply and flatten towards the end."}}
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.2))
MARKS = ["o", "s", "^", "D", "v"]
for _, row in records.iterrows():
    options = dict(
        marker=MARKS[row.seed % 5],
        color=plots.BLUE,
        markersize=4,
        label=f"nested, seed {row.seed}",
    )
    left.plot(row["curve.epoch"], row["curve.train_loss"], **options)
    right.plot(row["curve.epoch"], row["curve.test_error"], **options)
for ax, level, name in (
    (left, math.log(10), "training loss (nats)"),
    (right, 0.9, "test error"),
):
    ax.axhline(level, color=plots.GREY, linewidth=0.8, linestyle=":")
    ax.set(xlabel="epoch", ylabel=name, ylim=(0, 1.15 * level))
right.text(
    0.97,
    0.91,
    "guessing",
    fontsize=9,
    color=plots.GREY,
    ha="right",
    transform=right.get_yaxis_transform(),
)
if len(records):
    left.legend(fontsize=9)
plt.show()

# %% [markdown]
# The dotted lines are guessing, $\ln 10 \approx 2.30$ nats and 0.9.

# %% tags=["hide-input"]
readings = []
for _, row in records.iterrows():
    errors, losses, epochs = row["curve.test_error"], row["curve.train_loss"], row["curve.epoch"]
    watched = int(row["settings.n_watch"])
    doubt = 2 * math.sqrt(0.9 * 0.1 / watched)  # two standard errors of guessing
    left_at = next((epoch for epoch, error in zip(epochs, errors, strict=True) if error < 0.9 - doubt), None)
    readings.append(
        f"What to see: with seed {row.seed} the loss goes from {losses[0]:.2f} nats to {losses[-1]:.2f} and the error from {errors[0]:.2f} to {errors[-1]:.2f}. "
        + (
            f"Epoch {left_at} is the first with an error lower than guessing by more than two standard errors."
            if left_at is not None
            else "The error never is lower than guessing by more than two standard errors."
        )
        + f" The test error here is that of the first {watched} test images; the table has all {row['dataset.n_test']:.0f}."
    )
Markdown("\n\n".join(readings))

# %% [markdown]
# ## Where it looks
#
# A test image, the regions drawn (orange squares with numbers; a region may be drawn twice, and then its square has two), the attention for regions on a square-root scale, and below, under the same numbers, each region at full resolution with frames around the two patches drawn in it.
# Circles mark the digits; the model is never told where they are. The image is shown by the brightest pixel of each block, or nothing would be seen of it.

# %% mystnb={"image": {"alt": "Top left: a mostly black image of 4000 by 4000 pixels with fifteen small pieces, five of them circled digits, and up to five numbered orange squares, the regions drawn. Top right: the map of the attention for regions. Bottom: the five regions enlarged, under the same numbers, with two frames each around the patches drawn."}} tags=["hide-input"]
there = NESTED[0].name in names and NESTED[0].weights.exists()
trained = larger.trained(NESTED[0]).eval() if there else None
if trained is not None:
    tests = MegapixelMNIST("test", 100, 4000, n_noise=10)
    number = 0
    picture, answer = tests[number]
    layout = tests.layout(number)
    with torch.no_grad():
        seen = trained(picture[None], return_patches=True, generator=torch.Generator().manual_seed(0))
    low = trained.view(picture[None])
    geometry = trained.geometry(picture[None], low, seen.log_attention)
    tops = geometry.top_left(seen.index)[0]
    figure = plt.figure(figsize=(7, 5.6))
    grid = figure.add_gridspec(2, 10, height_ratios=[2.3, 1])
    ax = figure.add_subplot(grid[0, :5])
    plots.show_image(ax, nn.functional.max_pool2d(picture[None].float() / 255, 20)[0, 0], f"the image: {int(answer)} three times")
    for row, column in layout.digit_corners:
        ax.plot((column + 14) / 20, (row + 14) / 20, "o", mfc="none", mec=plots.SKY, ms=11)
    for top, at in tops.tolist():
        ax.add_patch(Rectangle((at / 20, top / 20), 12, 12, fill=False, color=plots.ORANGE, linewidth=1.5))
    number_of = {}  # corner of a region -> its numbers; regions that nearly coincide share one label
    for k, corner in enumerate(tops.tolist(), start=1):
        place = next((c for c in number_of if max(abs(c[0] - corner[0]), abs(c[1] - corner[1])) < 160), tuple(corner))
        number_of.setdefault(place, []).append(str(k))
    for (top, at), numbers in number_of.items():
        beside = at / 20 < 175  # the label to the right of its square, or to the left where there is no room
        x, side = (at / 20 + 13, "left") if beside else (at / 20 - 1, "right")
        ax.text(x, top / 20 + 6, ", ".join(numbers), color=plots.ORANGE, fontsize=9, ha=side, va="center")
    ax.set(xlim=(-0.5, 199.5), ylim=(199.5, -0.5))  # of regions over the border, the part inside
    ax = figure.add_subplot(grid[0, 5:])
    plots.show_attention(ax, seen.log_attention[0], "attention for regions")
    inner_geometry = trained.within.geometry(seen.patches[0], trained.within.view(seen.patches[0]), seen.within.log_attention)
    for k in range(len(tops)):
        ax = figure.add_subplot(grid[1, 2 * k : 2 * k + 2])
        plots.show_image(ax, seen.patches[0, k, 0], f"{k + 1}")
        plots.outline_patches(ax, inner_geometry, seen.within.index[k])
    plt.show()
    with torch.no_grad():
        draws = torch.Generator().manual_seed(1)
        again = [int(trained(picture[None], low, generator=draws).logits.argmax()) for _ in range(20)]
    print(f"label {int(answer)}; this draw answers {int(seen.logits.argmax())}, {again.count(int(answer))} of 20 others answer {int(answer)}")
else:
    print("Not trained yet.")

# %% tags=["hide-input"]
if trained is not None:
    with torch.no_grad():  # each region by itself
        alone = trained.classifier(seen.within.pooled).softmax(1)
    inside = (torch.as_tensor(layout.digit_corners)[None] + 14 - tops[:, None]).div(240)
    inside = ((inside >= 0) & (inside < 1)).all(-1)  # (regions, digits)
    holds = [[int(c) for c, yes in zip(layout.digit_classes, row) if yes] for row in inside.tolist()]
    found = int(inside[:, torch.as_tensor(layout.digit_classes == int(answer))].any(0).sum())
    own = [k for k, classes in enumerate(holds) if classes == [int(answer)]]
    mistaken = [k for k in own if alone[k].argmax() != int(answer)]
    read_as = [f"region {k + 1} as a {int(alone[k].argmax())} (probability {alone[k].max():.2f})" for k in mistaken]
    other = sum(bool(classes) and int(answer) not in classes for classes in holds)
    text = (
        f"What to see: the five regions show {'all' if found == 3 else f'{found} of the'} three {int(answer)}s; "
        f"with other digits only: {other}, with a scribble or nothing: {sum(not classes for classes in holds)}. "
    )
    if read_as and found == 3 and int(seen.logits.argmax()) != int(answer):
        text += f"Read by themselves, some regions with a {int(answer)} are taken for something else: {', '.join(read_as)}. Here the features err, not the attention."
    elif read_as:
        text += f"Read by themselves, some regions with a {int(answer)} are taken for something else: {', '.join(read_as)}."
    display(Markdown(text))

# %% [markdown]
# ## How to split the budget, for this network
#
# The two variances of {eq}`eq-two-stage`, estimated from many draws with replacement (64 regions of each of eight images, eight patches in each; the
# usual unbiased estimates), and the two costs, measured here: the forward pass for a region's view and attention, and for a patch's features.

# %% tags=["hide-input"]
if trained is not None:
    REGIONS, EACH = 64, 8

    def features_of(patches):
        return trained.within.features(patches.flatten(0, 1) / 255).unflatten(0, patches.shape[:2])

    spread_between, spread_within = [], []
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for number in range(8):
            picture = tests[number][0][None]
            low, log_a = trained.attend(picture)
            index = replaced.sample(log_a, REGIONS, generator=draws)
            tops = trained.geometry(picture, low, log_a).top_left(index)
            regions = extract_patches(picture, tops, trained.patch_size)[0]  # (64, 1, 240, 240)
            view, log_b = trained.within.attend(regions)
            choice = replaced.sample(log_b, EACH, generator=draws)
            patches = extract_patches(regions, trained.within.geometry(regions, view, log_b).top_left(choice), 50)
            f = features_of(patches)  # (64, 8, D)
            inside_var = f.var(1).sum(-1).mean().item()
            spread_within.append(inside_var)
            spread_between.append(f.mean(1).var(0).sum().item() - inside_var / EACH)

    def fastest(function, repeat=5):
        times = []
        for _ in range(repeat):
            started = time.perf_counter()
            function()
            times.append(time.perf_counter() - started)
        return min(times)

    with torch.no_grad():
        c_r = fastest(lambda: trained.within.attend(regions)) / REGIONS
        c_p = fastest(lambda: features_of(patches[:8])) / (8 * EACH)
    b, w = max(np.mean(spread_between), 0), np.mean(spread_within)
    best = math.sqrt(w / b * c_r / c_p) if b > 0 else math.inf
    curve = {n: (b + w / n) * (c_r + n * c_p) for n in range(1, 9)}
    low_n = min(curve, key=curve.get)
    display(plots.table(["patches in a region, n", *map(str, curve)], [["variance × cost, n = 1 is 1", *(f"{value / curve[1]:.2f}" for value in curve.values())]]))
    display(
        Markdown(
            f"Between regions {b:.3f}, within regions {w:.3f}; a region costs {1000 * c_r:.2f} ms, a patch {1000 * c_p:.2f} ms, forward only, on this machine and with what else it was doing, now. "
            f"So $n^\\star = {best:.2g}$; of 1 to 8, {low_n} is best for this network with draws with replacement"
            + (", which is how many it was trained with. " if low_n == 2 else f". With two, as it was trained, the variance for the same time is {curve[2] / curve[low_n] - 1:.0%} higher. ")
            + ("Where attention in a region lies on one spot, as here, a second patch says little that is new: better another region. " if w < b and low_n == 1 else "")
            + "A guide only: training draws systematically, and pays for the backward pass as well."
        )
    )  # fmt: skip
else:
    print("Not trained yet.")

# %% [markdown]
# (cell-larger)=
# ## On images it was not trained on
#
# Convolutions, attention and estimators do not care how large an image is. The trained network can look at larger images with the same number of
# pieces in them and more empty ground between, and at smaller ones. What changes is the competition: ground, of which there is sixty times more in a
# gigapixel than in sixteen megapixels, must be left with next to no attention at all. Recorded with `python -m atslib.experiments.sizes`:

# %% tags=["hide-input"]


def interval(one, two):
    """Change of the error from one size to another, image by image, and its 95 % interval (Bonett & Price 2012)."""
    n, worse, better = one["n"], len({*two["wrong"]} - {*one["wrong"]}), len({*one["wrong"]} - {*two["wrong"]})
    p1, p2 = (worse + 1) / (n + 2), (better + 1) / (n + 2)
    half = 1.96 * math.sqrt((p1 + p2 - (p1 - p2) ** 2) / (n + 2))
    return (worse - better) / n, p1 - p2 - half, p1 - p2 + half


carried = {}
for name in names:
    path = RESULTS / "sizes" / f"{name}.json"
    if path.exists():
        carried[name] = json.loads(path.read_text(encoding="utf-8"))
for found in carried.values():
    rows = [
        [f"{row['size']:,}²", f"{row['size'] ** 2 / 1e6:,.1f}", row["n"], f"{row['error']:.3f} ± {row['stderr']:.3f}", f"{row['mass']:.2f}",
         f"{row['uniform']:.1e}", f"{row['view_ms']:,.0f}", f"{row['look_ms']:,.0f}"]
        for row in found["sizes"]
    ]  # fmt: skip
    display(plots.table(["image", "megapixels", "images", "error", "attention on regions that show a digit", "uniform attention there", "making the view (ms)", "all else (ms)"], rows))
giga = None
if carried:
    found = next(iter(carried.values()))
    trained_at = next((row for row in found["sizes"] if row["size"] == 4000), None)
    giga = next((row for row in found["sizes"] if row["size"] >= 31_000), None)
    text = f"Machine: {found['hardware']['name']}, {found['hardware']['threads']} thread(s). Times are medians. ± is one binomial standard error. "
    if trained_at and giga and trained_at["n"] == giga["n"]:
        p = sign_test(trained_at["wrong"], giga["wrong"])  # image by image: the digits are the same at both sizes
        change, low, high = interval(trained_at, giga)
        gain = 0.9 - trained_at["error"]  # over guessing
        alike = [row for row in found["sizes"] if row["n"] == giga["n"]]
        before = alike[alike.index(giga) - 1]
        p_last = sign_test(before["wrong"], giga["wrong"])
        n_pairs = math.comb(len(alike), 2)
        masses = [row["mass"] for row in alike]
        text += (
            f"From 16 megapixels to a gigapixel the error goes from {trained_at['error']:.2f} to {giga['error']:.2f} (the same digits in {giga['n']} images): "
            f"a change of {change:+.2f}, 95 % interval {low:+.2f} to {high:+.2f}, sign test p = {p:.2g}. "
            f"The share of the attention on regions with a digit goes from {trained_at['mass']:.2f} to {giga['mass']:.2f}, where uniform attention would have {giga['uniform']:.3%}. "
            + ("**There is nothing to carry**: the network has not learned at its own size." if gain <= 2 * trained_at["stderr"] else
               "**At the gigapixel it is even better.**" if high < 0 else
               f"**Most of it carries**: before, the error was {gain:.2f} lower than by guessing, and of that at most {high:.2f} is lost, by this interval." if high < gain / 2 else
               "**What was learned carries, in part.**" if 0.9 - 2 * giga["stderr"] > giga["error"] else
               "**What was learned does not carry to the gigapixel.**")
            + (f" At the gigapixel the error is higher than at {before['size'] ** 2 / 1e6:,.0f} megapixels, where it is {before['error']:.2f}: p = {p_last:.2g}. That is one of {n_pairs} pairs of sizes, picked after a look at all; "
               f"with an allowance for this (Bonferroni) p = {min(1, n_pairs * p_last):.2g}" + (", which chance alone may well do." if n_pairs * p_last > 0.05 else ".")
               if p_last < 0.05 and before["error"] < giga["error"] else "")
            + (" The attention on digits falls at every step." if all(m > k for m, k in itertools.pairwise(masses)) else "")
        )  # fmt: skip
    display(Markdown(text))
else:
    display(Markdown("Not measured yet: `python -m atslib.experiments.sizes NAME`, with the name of a record."))

# %% mystnb={"image": {"alt": "Test error against image size in megapixels, logarithmic, one line for each run of the nested model, with a grey line at guessing, 0.9. A vertical line marks the size it was trained on."}} tags=["hide-input"]
if carried:
    figure, ax = plt.subplots(figsize=(7, 3.2))
    seeds = records.set_index("name")["seed"]
    for name, found in carried.items():
        x = [row["size"] ** 2 / 1e6 for row in found["sizes"]]
        ax.errorbar(x, [row["error"] for row in found["sizes"]], [row["stderr"] for row in found["sizes"]], color=plots.BLUE, marker=MARKS[seeds[name] % 5], capsize=3,
                    label=f"nested, seed {seeds[name]}")  # fmt: skip
    ax.axhline(0.9, color=plots.GREY, linewidth=0.8, linestyle=":")
    ax.axvline(16, color=plots.GREY, linewidth=0.8)
    ax.text(16 * 1.1, 0.02, "trained here", fontsize=9, color=plots.GREY)
    ax.set(xscale="log", xlabel="image (megapixels)", ylabel="test error", ylim=(0, 1))
    ax.legend(fontsize=9)
    plt.show()
    for name, found in carried.items():
        right = [row for row in found["sizes"] if row["size"] >= 4000]  # of the size that it was trained on
        path = [row["error"] for row in right]
        shape = "rises at every step" if path == sorted(set(path)) else "falls at every step" if path == sorted(set(path))[::-1] else "goes up and down"
        listed = ", ".join(f"{row['error']:.2f} at {row['size'] ** 2 / 1e6:,.0f}" for row in right)
        display(Markdown(f"What to see: from the size that it was trained on to the right, the line of seed {seeds[name]} {shape} ({listed} megapixels). Bars are one binomial standard error of the images tested."))

# %% [markdown]
# (cell-claim-nested)=
# ## A gigapixel, now
#
# Last, the image itself. It has 31,700² pixels, one byte each. It is written to a file, as a slide scanner would do, and mapped into memory, so that only what is looked
# at is read. But the empty ground takes no room in this file: a full one would have to be read from disk as well, which the times below do not show.
# Its view is made once, from all pixels; a file with a pyramid of resolutions brings it along ([chapter 15](15_your_own_images.ipynb) reads such files). Then an answer, and one training step, forward and backward, with the view at hand.

# %%
giga_set = MegapixelMNIST("test", 1, GIGA, n_noise=10)
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "gigapixel.gray"
# a file with holes: what is not written is zero and takes no room
pixels = np.memmap(path, np.uint8, "w+", shape=(GIGA, GIGA))
giga_label = giga_set.draw(0, pixels)
pixels.flush()
file = path.stat()
huge = torch.from_numpy(pixels)[None, None]

started = time.perf_counter()
view = downsample(huge, low_size((GIGA, GIGA), 0.03))
made_view = time.perf_counter() - started
network = model if trained is None else trained
with torch.no_grad():
    # what is set up once and kept, the curve through the map, is set up here
    network(huge, low=view)
    started = time.perf_counter()
    answer = network(huge, low=view, generator=torch.Generator().manual_seed(0))
    looked = time.perf_counter() - started
step = training_step(network, huge, torch.tensor([giga_label]), low=view)
memory = (peak_memory(step) - huge.nbytes - view.nbytes) / MB
started = time.perf_counter()
step()
stepped = time.perf_counter() - started

# %% tags=["hide-input"]
regions_read = answer.index.shape[1] * 240**2
patches_read = answer.within.index.numel() * 50**2
rows = [
    ["pixels", f"{huge.numel():,}"],
    ["file", f"{file.st_size / 1e9:.2f} GB" + (f", of which {blocks * 512 / 1e3:,.0f} kB are not empty" if (blocks := getattr(file, "st_blocks", None)) else "")],
    ["view, made once", f"{view.shape[2]}² pixels, {made_view:.1f} s"],
    ["read of the image for an answer, beside the view", f"{regions_read:,} pixels in regions ({regions_read / huge.numel():.4%}), of which {patches_read:,} in the drawn patches"],
    ["an answer, view at hand", f"{1000 * looked:,.0f} ms"],
    ["a training step, view at hand", f"{1000 * stepped:,.0f} ms"],
    ["memory of the step, image and view not counted", f"{memory:,.0f} MB"],
    ["label, answer", f"{giga_label}, {int(answer.logits.argmax())}" + (f": this draw is wrong, as {giga['error']:.0%} in the table above are" if giga and answer.logits.argmax() != giga_label else "")],
]  # fmt: skip
display(plots.table(["a gigapixel, measured here", ""], rows))
if giga:
    times = made_view / (giga["view_ms"] / 1000), looked / (giga["look_ms"] / 1000)
    if max(times) > 1.5 or min(times) < 1 / 1.5:
        display(Markdown(
            f"The record above was made on another machine, or on the same one when it had less or more else to do: here making the view took {times[0]:.1f} times the record's {giga['view_ms'] / 1000:.1f} s, and an answer {times[1]:.1f} times its "
            f"{giga['look_ms']:.0f} ms. Compare times within one of the two only."
        ))
verdict = (
    f"**The memory is there:** a training step on a gigapixel takes {memory:,.0f} MB beyond the image and its view, measured on a CPU; a GPU of {gpu_gb} GB has room for that"
    + (", even with the image beside it" if memory + huge.nbytes / MB + view.nbytes / MB < 1000 * gpu_gb else "") + ". "
    "[Chapter 13](13_cost.ipynb) has what the other methods would take. "
)
if giga:
    right = f"an error of {giga['error']:.2f} ± {giga['stderr']:.2f} on gigapixels ({giga['n']} images; guessing 0.90)"
    verdict += (
        f"**It does better than guessing:** a network trained with image labels alone, on images of 16 megapixels, has {right}. "
        if giga["error"] + 2 * giga["stderr"] < 0.9
        else f"**Classifying is another matter:** the network trained on 16 megapixels has {right}. "
    )
    verdict += "It was not *trained* on gigapixels, and drawn images that are black but for fifteen pieces are an easy haystack: tissue is not. "
Markdown(verdict)

# %% [markdown]
# ## Summary
#
# - One view grows too large, or shows too little; a second level lets the first be sixteen times smaller.
# - The nested model is the old one with itself as its feature network. Value, gradient and the estimated entropy are unbiased, checked by enumeration.
# - More patches in the same regions only lower the variance within regions; the best number is $\tfrac{\sigma_w}{\sigma_b}\sqrt{c_r/c_p}$, whatever the budget.

# %% tags=["hide-input"]
if giga and trained_at:
    learned = records.set_index("name").loc[next(iter(carried))]
    summary = (
        "- One-level attention sampling was not trained on these images: what the second level costs or gains in error is not known.\n"
        f"- On {learned['dataset.n_test']:.0f} images of 16 megapixels the nested network has an error of {learned['final.test_error']:.2f} ± {learned['final.test_stderr']:.2f}, where guessing has 0.90. On {giga['n']} images of a gigapixel it has "
        f"{giga['error']:.2f} ± {giga['stderr']:.2f}, without having been trained on any; its attention on regions that show a digit is {giga['mass']:.2f} there instead of {trained_at['mass']:.2f}."
    )
else:
    summary = "- What a nested network learns on 16 megapixels, and how far it carries, has no record yet."
plots.at_the_head(["Value, gradient and the estimated entropy of the nested model are unbiased, checked by enumeration.", *(line.removeprefix("- ") for line in summary.split("\n")[::-1])])
Markdown(summary)

# %% [markdown]
# ## Exercises
#
# :::{exercise}
# :label: ex-14-three
# At how many pixels would a third level pay? Suppose views of 180² at every level and a factor of 13 from each to the next.
# :::
#
# :::{solution} ex-14-three
# :class: dropdown
# With a factor of 13 from the first view to the second and of $1/0.12 \approx 8.3$ from the second to the image, two levels reach $180 \cdot 13 \cdot 8.3 \approx 19{,}500$ pixels a
# side, 0.4 gigapixels; with 13 there too, 30,000 pixels, 0.9 gigapixels. Beyond that the first view must grow, as on this page, or a third level is due. It reaches 13 times as far: 250,000 pixels
# a side, more than 60 gigapixels. Whole slides at their highest resolution have a few gigapixels, at most some tens.
# :::
#
# :::{exercise}
# :label: ex-14-entropy
# Why is the entropy of the pair, and not $H(a)$ plus the mean of the $H(b_{\cdot|m})$ over the *drawn* regions, what the loss should reward? When do the two differ?
# :::
#
# :::{solution} ex-14-entropy
# :class: dropdown
# The mean over drawn regions estimates $\sum_m a_m H(b_{\cdot|m})$ only if a draw holds region $m$ $Na_m$ times on average and all weigh the same, as with replacement or in systematic draws. Without
# replacement that is not so; the estimator's weights correct for it. And its gradient for $a$ is missing: moving attention to regions of higher entropy is rewarded too.
# :::
#
# :::{exercise}
# :label: ex-14-region
# Set `region_size=100` in the model of this page, at the same scale of 0.03. What goes wrong, and how would you see it in training?
# :::
#
# :::{solution} ex-14-region
# :class: dropdown
# A location's attention comes from 7 × 7 view pixels, 233 image pixels, and its region shows only the middle of these. It may be chosen for a digit that its region does not show, so the
# reward for choosing it would be mostly noise. Expect the loss to fall slowly, and in `larger.measure` the attention on regions that show a digit to stay low (not tried here).
# :::
