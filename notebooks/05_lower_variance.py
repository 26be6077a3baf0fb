# %% [markdown]
# # Estimators of lower variance
#
# The paper draws locations independently (eq. 4) or without replacement (eq. 14). There are more ways, and all of the
# unbiased ones share one formula. This chapter measures them at an equal number of draws $N$, since $N$ is what one pays
# for: every draw is a patch to read and a feature to compute. (If a repeated patch is computed only once, one pays for the *different* patches instead; one section compares on that basis.)
#
# ## What you will learn
#
# - seven estimators of $\mu = \sum_i a_i f_i$, by enumeration for three locations, one of them by hand;
# - how far off each one is at equal $N$, for the feature and for the gradient;
# - when a baseline helps the gradient, and when it hurts;
# - why averaging over the order of drawing (Murthy's estimator) can only help;
# - an error bar that comes with the estimate for free, and how far to trust it;
# - how to spread the draws over the objects of a map, with a curve that fills it;
# - why an unbiased feature is not an unbiased loss, and how fast that bias goes away;
# - which estimator to use when.
#
# **Time and hardware:** 30 minutes to read, under a minute to run on one CPU core; nothing to download.

# %% tags=["parameters"]
profile = "smoke"  # smoke, laptop or paper

# %%
import math

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown, display
from scipy.special import stdtr, stdtrit
from torch.nn.functional import one_hot

from atslib import ESTIMATORS, plots, widgets
from atslib.data.megapixel_mnist import MegapixelMNIST
from atslib.enumeration import every_draw
from atslib.estimators import PPS, Stratified, Systematic, hilbert_curve
from atslib.networks import LeNetFeatures, MegapixelMNISTAttention
from atslib.profiling import compare

plots.use_style()
torch.set_default_dtype(torch.float64)
# of random problems: more blocks, less noise
blocks = {"smoke": 8, "laptop": 32, "paper": 128}[profile]

NAMES = ["with_replacement", "eq14", "des_raj", "murthy", "stratified", "systematic", "pps"]


# %% [markdown]
# ## One formula, seven estimators
#
# A draw $i_1, \dots, i_N$ comes with weights $W_1, \dots, W_N$. The estimate, and through it the gradient, is
#
# $$
# z = \sum_{m=1}^{N} \mathrm{sg}(W_m)\,\bigl(1 + \log a_{i_m} - \mathrm{sg}(\log a_{i_m})\bigr)\, f_{i_m} ,
# $$ (eq-lower-formula)
#
# where sg stops the gradient. It is unbiased, in value and gradient, if
# $\mathbb{E}\bigl[\sum_m \frac{W_m}{a_{i_m}} h(i_m)\bigr] = \sum_i h(i)$ for every function $h$ that is zero where $a_i = 0$, for no draw finds such a location. With $h(i) = a_i f_i$ this says that the value is unbiased.
# With $h(i) = \partial (a_i f_i)$ it says that the gradient is, since the derivative of the term in brackets times $f_i$ is $\partial (a_i f_i) / a_i$. (This $h$ is zero where $a_i = 0$ if
# $\partial a_i$ is: behind a softmax or a mask.) So an estimator is a way to draw and a set of weights:
#
# | estimator | how it draws | $W_m$ |
# |---|---|---|
# | with replacement, eqs. 4 and 12 | independently from $a$ | $1/N$ |
# | eq. 14 as printed | one after the other from what is left | $a_{i_m}$, for the last one $w_N$ |
# | Des Raj {cite}`raj1956` | the same | $\bigl(w_m + (N - m)\,a_{i_m}\bigr)/N$ |
# | Murthy {cite}`murthy1957,kool2020` | the same | $a_{i_m}\, P(S \mid i_m \text{ first}) / P(S)$ |
# | stratified | one uniform number in each $N$th of the cumulative attention | $1/N$ |
# | systematic {cite}`madow1949` | one uniform number, $N$ equally spaced points | $1/N$ |
# | systematic π-ps {cite}`horvitz1952,madow1949` | the same on the inclusion probabilities $\pi_i = \min(1, c\,a_i)$ | $a_{i_m} / \pi_{i_m}$ |
#
# Here $w_m = 1 - \sum_{k<m} a_{i_k}$ is the mass left before draw $m$, and $S$ is the set that was drawn. $\pi_i$ is the chance that location $i$ is
# in the draw, with $c$ such that $\sum_i \pi_i = N$. π-ps stands for inclusion *p*robabilities π in *p*roportion to *s*ize, here to the attention;
# the weight $a/\pi$ is Horvitz and Thompson's, and the library's name is `pps`.
#
# Take three locations with $a = (0.5, 0.3, 0.2)$ and features $f = (1, -1, 1)$, and draw two. There are so few draws that
# you can check them with a pencil. Start with Des Raj. If location 1 comes first and location 2 second, the first draw
# alone says $t_1 = f_1 = 1$. The second, knowing what location 1 contributes, says
# $t_2 = a_1 f_1 + w_2 f_2 = 0.5 - 0.5 = 0$. The estimate is their mean. (The code counts from 0: in the output this is the draw `[0, 1]`.)

# %%
# NBVAL_CHECK_OUTPUT
log_attention = torch.tensor([0.5, 0.3, 0.2]).log()
features = torch.tensor([[1.0], [-1.0], [1.0]])
truth = (log_attention.exp() @ features).item()
single = 1 - truth**2  # variance of one draw: all features have length one


def enumerate_draws(estimator, log_attention, features, n):
    """Every draw, its probability, and the estimate it leads to."""
    index, probability = every_draw(estimator, log_attention, n)
    everywhere = log_attention[None].expand(len(index), *log_attention.shape)
    return index, probability, estimator(everywhere, index, features[index])


print("Des Raj, draw by draw:")
index, probability, z = enumerate_draws(ESTIMATORS["des_raj"], log_attention, features, 2)
for draw, p, estimate in zip(index.tolist(), probability, z[:, 0], strict=True):
    print(f"  {draw}  probability {p:.3f}  estimate {estimate:+.2f}")

print(f"\ntruth {truth:.3f}, variance of one draw {single:.3f}\n")
print("estimator           mean   variance   as a share of one draw's")
for name in NAMES:
    _, probability, z = enumerate_draws(ESTIMATORS[name], log_attention[None], features, 2)
    mean = (probability @ z).item()
    variance = (probability @ (z - mean).square()).item()
    print(f"{name:18} {mean:.3f}      {variance:.3f}      {variance / single:.3f}")

# %% [markdown]
# All means agree with the truth. The variances do not. Independent draws have exactly half the variance of one, and
# everything else has less. Murthy has the least. Stratified, systematic and π-ps draws coincide here, because location 1
# holds exactly half of the mass: the first of two points always falls on it. Equation 14 does well, too: two draws of three
# locations leave little unseen. With more locations that changes.
#
# ## The error of the feature at equal $N$
#
# One example proves nothing, so take many random problems. Let $K = 20$, and draw the attention from a Dirichlet
# distribution: $\alpha = 1$ spreads the mass over all locations, $\alpha = 0.2$ puts most of it on three or four. The features
# are random, of length one.
#
# The features need not even be drawn. The estimate is $\sum_i Z_i f_i$, where $Z_i$ is the weight that location $i$ got: $W_m$ if it
# was draw $m$, zero if it was not drawn. If two different features have the cosine $\kappa$ on average (for many locations it is about the square of the $\rho$ of chapters 2 and 3), then
#
# $$
# \begin{aligned}
# \mathbb{E}_f \Bigl\lVert \sum_i c_i f_i \Bigr\rVert^2 = {} & (1 - \kappa) \sum_i c_i^2 \\
# & + \kappa \Bigl(\sum_i c_i\Bigr)^2
# \end{aligned}
# $$ (eq-lower-kappa)
#
# for any coefficients $c$, here $c_i = Z_i - a_i$. So one gives the estimator the $K$ unit vectors as features, and reads the
# error for every $\kappa$ off its answer. The code below does so for the value, and also for the gradient, where
# $c$ is one row of the gradient's error. (For the gradient, the sum of squares over all rows comes from one random vector of
# signs $v$: for any matrix $A$, $\mathbb{E}_v \lVert A v \rVert^2$ is the sum of the squared entries of $A$. Here $A$ is the
# error of the gradient, one row for each location's logit.)


# %%
def random_attention(alpha, count, generator, locations=20):
    """Dirichlet(α) log-attention: gamma variables, normalised."""
    gamma = torch._standard_gamma(torch.full((count, locations), alpha), generator=generator)
    return (gamma.clamp(min=1e-300) / gamma.sum(1, keepdim=True)).log()


def errors(draw, log_attention, n, generator, gradient=True):
    """Squared errors in each problem: of the value; of the gradient by the logits, summed over
    all entries and over rows.
    """
    logits = log_attention.clone().requires_grad_(gradient)
    log_a = logits.log_softmax(1)
    a = log_a.detach().exp()
    z = draw(log_a, n, generator)  # (B, K): what each location weighs in the estimate
    value = (z.detach() - a).square().sum(1)
    if not gradient:
        return value
    v = 2.0 * torch.randint(0, 2, a.shape, generator=generator) - 1
    along_v = torch.autograd.grad((z * v).sum(), logits, retain_graph=True)[0]
    entries = (along_v - a * (v - (a * v).sum(1, keepdim=True))).square().sum(1)
    # the true gradient's rows sum to zero
    rows = torch.autograd.grad(z.sum(), logits)[0].square().sum(1)
    return value, entries, rows


# %% tags=["hide-input"]
def drawing(name, baseline=None):
    """Draw with this estimator and give it unit vectors as features."""
    estimator = ESTIMATORS[name]

    def draw(log_a, n, generator):
        as_map = log_a[:, None, :]  # a map of one row: estimators that draw along a curve ask for a map
        index = estimator.sample(as_map, n, generator=generator)
        return estimator(as_map, index, one_hot(index, log_a.shape[1]).double(), baseline)

    return draw


def in_blocks(draw, alpha, n, size, **options):
    """`blocks` independent sets of problems: their spread is the noise of what follows."""
    results = []
    for block in range(blocks):
        generator = torch.Generator().manual_seed(1000 * block + n)
        log_attention = random_attention(alpha, size, generator)
        results.append((log_attention, errors(draw, log_attention, n, generator, **options)))
    return results


def mean_and_noise(values):
    values = torch.stack(values)
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


ALPHAS, COUNTS = (1.0, 0.2), (2, 3, 5)
LINES = {
    "with replacement": drawing("with_replacement"),
    "with replacement, baseline": drawing("with_replacement", "built_in"),
    "eq. 14": drawing("eq14"),
    "Des Raj": drawing("des_raj"),
    "Des Raj, baseline": drawing("des_raj", "built_in"),
    "Murthy": drawing("murthy"),
    "Murthy, baseline": drawing("murthy", "built_in"),
    "stratified": drawing("stratified"),
    "systematic": drawing("systematic"),
    "π-ps": drawing("pps"),
}


# %% [markdown]
# The gradient that the paper derives without replacement, eq. 44, is written out here for $N$ draws: the derivative
# of the last step's estimate, plus the estimate times the derivative of the logarithm of the whole draw's probability.


# %%
def eq44(log_a, n, generator):
    index = ESTIMATORS["eq14"].sample(log_a, n, generator=generator)
    log_drawn = log_a.gather(1, index)
    drawn = log_drawn.exp()
    left = 1 - (drawn.cumsum(1) - drawn)  # w_m
    unit = one_hot(index, log_a.shape[1]).double()
    t = (drawn[:, :-1, None] * unit[:, :-1]).sum(1) + left[:, -1:] * unit[:, -1]
    log_probability = (log_drawn - left.log()).sum(1, keepdim=True)
    return t + t.detach() * (log_probability - log_probability.detach())


LINES["eq. 44, last step"] = eq44

measured = {
    (line, alpha, n): in_blocks(
        draw, alpha, n, size=500 if line == "Murthy, baseline" else 1500
    )
    for line, draw in LINES.items()
    for alpha in ALPHAS
    for n in COUNTS
}

# %% [markdown]
# The first table shows the mean squared error of the estimate over the variance of a *single* draw,
# $1 - \sum_i a_i^2$, averaged over problems. Since the weights of each of these estimators sum to one, as
# those of $\mu$ do, the shared part drops out of {eq}`eq-lower-kappa`: the ratio is the same for every $\kappa$.

# %%
FEATURE_LINES = [
    "with replacement",
    "eq. 14",
    "Des Raj",
    "Murthy",
    "stratified",
    "systematic",
    "π-ps",
]


def feature_error(line, alpha, n):
    per_block = [
        (value / (1 - log_attention.exp().square().sum(1))).mean()
        for log_attention, (value, *_) in measured[line, alpha, n]
    ]
    return mean_and_noise(per_block)


SETTINGS = [(alpha, n) for alpha in ALPHAS for n in COUNTS]
HEAD = [f"α = {alpha:g}, N = {n}" for alpha, n in SETTINGS]
feature = {
    line: [feature_error(line, *setting) for setting in SETTINGS] for line in FEATURE_LINES
}
noise = max(error for row in feature.values() for _, error in row)
display(
    plots.table(
        ["squared feature error over one draw's variance", *HEAD],
        [[line, *(f"{value:.3f}" for value, _ in row)] for line, row in feature.items()],
    )
)
display(Markdown(f"Standard error of these figures: at most {noise:.3f}."))


# %% [markdown]
# What to see: independent draws have exactly $1/N$. Des Raj, stratified, Murthy, systematic and π-ps draws all do
# better, and the gap widens with $N$ and with the peak of the attention, because independent draws then repeat themselves. The
# lowest of all, at $\alpha = 0.2$ with three draws or more, are Murthy and π-ps. Equation 14 as printed is *worse* than drawing with replacement in every column but the last: it wins only
# where the draws come near to exhausting the attention.
#
# The figure shows the same for more values of $N$.

# %% mystnb={"image": {"alt": "Two panels, feature error over the variance of one draw against N from 1 to 8, logarithmic. Left, attention spread out: eq. 14 lies far above all others; with replacement falls as 1/N; Des Raj and stratified lie below it, Murthy, systematic and π-ps lowest. Right, peaked attention: the gaps are wider, π-ps and Murthy fall fastest, eq. 14 crosses below with replacement."}}
figure, axes = plt.subplots(1, 2, figsize=(7, 3.9), sharey=True)
MORE = (1, 2, 3, 5, 8)
for ax, alpha in zip(axes, ALPHAS, strict=True):
    generator = torch.Generator().manual_seed(5)
    log_attention = random_attention(alpha, 1500, generator)
    variance = 1 - log_attention.exp().square().sum(1)
    for name in NAMES:
        ratio = [
            (
                errors(drawing(name), log_attention, n, generator, gradient=False) / variance
            ).mean()
            for n in MORE
        ]
        ax.plot(MORE, ratio, **plots.estimator_line(name))
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="draws N",
        title=f"attention Dirichlet({alpha:g})",
        xticks=MORE,
    )
    ax.set_xticklabels(MORE)
    ax.minorticks_off()
axes[0].set(ylabel="squared error / variance of one draw", ylim=(2e-3, 1.3))
axes[0].set_yticks([1e-2, 1e-1, 1])
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
plt.show()

# %% [markdown]
# (cell-claim-without-better-budget)=
# ### Does sampling without replacement make better use of the budget?
#
# The paper says so (§3.2.3): no feature is computed twice. The cell counts how many different locations $N$ draws
# bring, and compares the errors from the table.

# %%
# NBVAL_CHECK_OUTPUT
for alpha, n in SETTINGS:
    generator = torch.Generator().manual_seed(8)
    index = ESTIMATORS["with_replacement"].sample(
        random_attention(alpha, 20_000, generator), n, generator=generator
    )
    distinct = one_hot(index, 20).amax(1).sum(1).double().mean().item()
    column = SETTINGS.index((alpha, n))
    independent, printed, raj = (
        feature[line][column][0] for line in ("with replacement", "eq. 14", "Des Raj")
    )
    print(
        f"α = {alpha:g}, N = {n}: with replacement {distinct:.1f} different locations; "
        f"eq. 14 {'better' if printed < independent else 'worse'}, Des Raj {'better' if raj < independent else 'worse'}"
    )

# %% [markdown]
# But a feature that is drawn twice need not be computed
# twice: on a CPU `AttentionSampling` computes it once, with any estimator ([chapter 13](13_cost.ipynb) measures what that saves; on
# a GPU if asked to, and not where features depend on the batch). Then the budget is the number of *different* locations. With $n'$ independent draws it is
# $\sum_i 1 - (1 - a_i)^{n'}$ on average, and the error is $1/n'$. So fix $n'$ such that on average it is $N$. (To draw on until the $N$th new location comes is not the same: the last draw
# is then always a new one, and the mean is biased. For two locations the cell computes it.)

# %%
def draws_for(distinct, alpha):
    """Independent draws, not always a whole number, that bring so many different locations on
    average over the problems.
    """
    a = random_attention(alpha, 20_000, torch.Generator().manual_seed(8)).exp()
    low, high = 1.0, 1e4
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (
            (middle, high)
            if (1 - (1 - a) ** middle).sum(1).mean() < distinct
            else (low, middle)
        )
    return low


equal_cost = {(alpha, n): draws_for(n, alpha) for alpha, n in SETTINGS}
display(
    plots.table(
        ["with as many different locations on average", *HEAD],
        [
            ["independent draws", *(f"{equal_cost[setting]:.1f}" for setting in SETTINGS)],
            [
                "their feature error",
                *(f"{1 / equal_cost[setting]:.3f}" for setting in SETTINGS),
            ],
            *(
                [line, *(f"{value:.3f}" for value, _ in feature[line])]
                for line in ("eq. 14", "Des Raj", "Murthy", "π-ps")
            ),
        ],
    )
)
# the other rule: k times the one of two locations, and then for the first time the other
p, k = 0.9, torch.arange(1.0, 1000.0)
share = p**k * (1 - p) * k / (k + 1) + (1 - p) ** k * p / (k + 1)
display(
    Markdown(
        f"Drawn until both of two locations have come, one of attention {p} has on average "
        f"{share.sum():.2f} of the draws."
    )
)

# %% [markdown]
# (Where attention is peaked, N draws without replacement may find less than N locations with attention to speak of; all of them count here.)
#
# Verdict: *differs*. Drawing without replacement does bring more different locations, and weighed as Des Raj weighs them
# they give a better estimate in every column of the first table. But with the estimator that the paper prints, eq. 14, they give a worse
# one in most columns: the draw alone does not save, it takes weights that use it. And where a repeated location costs nothing, Des Raj's saving is small; Murthy's and that of π-ps remain.
#
# ### Play with it
#
# In a live notebook the next cell shows sliders for the attention's peakedness (the standard deviation of its random logits) and for $N$, and redraws two thousand draws of each
# estimator. On a rendered page it shows the same pictures, drawn beforehand. The broken line is the truth. A narrower
# histogram around it is a better estimator. Compare $N = 2$ with $N = 10$ at peakedness 1, then raise the peakedness.
#
# This is one problem. Systematic draws are better on average over problems (table above), not in each: here, at peakedness 0
# and $N = 5$, they are worse than independent draws. {ref}`ex-05-worst` shows how that can be.

# %%
if widgets.is_live():
    display(widgets.estimator_explorer())
else:
    display(widgets.estimator_slides())

# %% [markdown]
# ## The error of the gradient
#
# For training, what counts is the gradient by the attention's logits. Its error depends on $\kappa$, the mean cosine of two
# features, because a part that all features share is multiplied by the noisy score $\partial \log a_{i_m}$ although it
# carries no signal: adding a constant to all features shifts $\mu$ and changes no gradient. How large is $\kappa$ in
# practice? Features of the paper's network pass a ReLU, so no component is negative, and are then normalised.


# %%
def mean_cosine(f):
    """Over all pairs of different rows, which have length one."""
    return ((f.sum(0).square().sum() - len(f)) / (len(f) * (len(f) - 1))).item()


generator = torch.Generator().manual_seed(0)
gaussian = torch.nn.functional.normalize(
    torch.randn(4000, 32, generator=generator).relu(), dim=1
)
torch.manual_seed(0)
network = LeNetFeatures().float()
image, _ = MegapixelMNIST("train", n_images=1, size=400, n_noise=20)[0]
# 64 patches side by side
patches = image.unfold(1, 50, 50).unfold(2, 50, 50).reshape(-1, 1, 50, 50).float() / 255
with torch.no_grad():
    untrained = network(patches[patches.amax((1, 2, 3)) > 0])  # those with something in them
kappa = {
    "none": 0.0,
    "ReLU": mean_cosine(gaussian),
    "strong": 0.8,
    "network": mean_cosine(untrained),
}
print(f"ReLU of Gaussian vectors: {kappa['ReLU']:.2f} (1/π = {1 / math.pi:.2f})")
print(f"the paper's feature network on Megapixel MNIST, untrained: {kappa['network']:.2f}")

# %% [markdown]
# The first table below gives the mean squared error of the gradient relative to eq. 12, for $\kappa = 0.8$; the next for
# the cosine of random features behind a ReLU, and the last how the lines with a baseline depend on $\kappa$.

# %%
GRADIENT_LINES = [
    *(
        "with replacement, baseline",
        "eq. 44, last step",
        "eq. 14",
        "Des Raj",
        "Des Raj, baseline",
        "Murthy",
        "Murthy, baseline",
    ),
    *("stratified", "systematic", "π-ps"),
]


def gradient_error(line, alpha, n, kappa):
    """Relative to eq. 12, each averaged over problems and blocks; the noise is that of the
    ratio over blocks.
    """

    def per_block(which):
        return [
            (1 - kappa) * entries.mean() + kappa * rows.mean()
            for _, (_, entries, rows) in measured[which, alpha, n]
        ]

    ours = torch.stack(per_block(line))
    reference = torch.stack(per_block("with replacement"))
    ratio = ours.mean() / reference.mean()
    noise = (
        (ours / ours.mean() - reference / reference.mean()).std() * ratio / math.sqrt(len(ours))
    )
    return ratio.item(), noise.item()


def gradient_table(kappa):
    rows = [
        [line, *(f"{gradient_error(line, *setting, kappa)[0]:.2f}" for setting in SETTINGS)]
        for line in GRADIENT_LINES
    ]
    return plots.table([f"squared gradient error over eq. 12's, κ = {kappa:.2f}", *HEAD], rows)


display(gradient_table(kappa["strong"]))
gradient_noise = max(
    error / value
    for line in LINES
    for value, error in (gradient_error(line, *s, kappa["strong"]) for s in SETTINGS)
)
display(
    Markdown(f"Standard error of these figures: at most {100 * gradient_noise:.0f} % of each.")
)
display(gradient_table(kappa["ReLU"]))
cosines = (0.0, kappa["ReLU"], 0.8, 0.9)
display(
    plots.table(
        ["with baseline, α = 1, N = 5", *(f"κ = {r:.2f}" for r in cosines)],
        [
            [line, *(f"{gradient_error(line, 1.0, 5, r)[0]:.2f}" for r in cosines)]
            for line in GRADIENT_LINES
            if "baseline" in line
        ],
    )
)

# %% [markdown]
# What to see:
#
# - Equation 44 is several times worse than eq. 12 and gets worse with every draw, since it multiplies the estimate by the scores
#   of all draws; all these products but the last have mean zero and, here, add noise. The same draws and weights in formula
#   {eq}`eq-lower-formula` (line "eq. 14") leave these out.
# - Without a baseline the ranking is much the one of the features' errors, whatever $\kappa$.
# - With a baseline everything depends on $\kappa$; the lines without one, eq. 44's apart, hardly change with it. That
#   features pass a ReLU and have unit norm does not yet say how much a baseline gains; the mean cosine does. For the paper's own network, untrained, the cell above found one close to 1, where a baseline gains most.
#
# The figure draws the dependence on $\kappa$ for $N = 3$.

# %% mystnb={"image": {"alt": "Gradient error relative to eq. 12 without baseline, against the mean cosine of the features from 0 to 0.95, N = 3, for alpha = 1 and 0.2. Lines without baseline are flat; lines with baseline fall steadily. At cosine zero, baselines lie above their plain versions; they cross at moderate cosines and end far below."}}
figure, axes = plt.subplots(1, 2, figsize=(7, 3.9), sharey=True)
cosines = torch.linspace(0, 0.95, 20).tolist()
for ax, alpha in zip(axes, ALPHAS, strict=True):
    for name, line in (
        ("with_replacement", "with replacement"),
        ("des_raj", "Des Raj"),
        ("murthy", "Murthy"),
    ):
        style = plots.ESTIMATOR_STYLES[name]
        for suffix, dash in (("", ":"), (", baseline", "-")):
            curve = [gradient_error(line + suffix, alpha, 3, r)[0] for r in cosines]
            ax.plot(cosines, curve, color=style["color"], linestyle=dash, label=line + suffix)
    ax.plot(
        cosines,
        [gradient_error("systematic", alpha, 3, r)[0] for r in cosines],
        color=plots.ORANGE, linestyle=":", label="systematic",
    )  # fmt: skip
    ax.axvline(kappa["ReLU"], color=plots.GREY, linewidth=0.8)
    ax.set(
        xlabel="mean cosine κ of the features",
        title=f"Dirichlet({alpha:g}), N = 3",
        ylim=(0, 1.6),
    )
axes[0].set_ylabel("gradient error / eq. 12's")
axes[0].text(
    kappa["ReLU"] + 0.02, 1.5, "ReLU of Gaussians", fontsize=9, color=plots.GREY, va="center"
)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()

# %% [markdown]
# Dotted lines are without baseline, solid ones with. If features share a large part, a baseline removes it. If they share nothing, it is
# one more random vector, and the error grows. The crossing lies at a moderate cosine. Des Raj gains less: his baseline may use only earlier draws,
# so his first draw has none. If all features were the same, $f$, the term $\tfrac1N f\, s_1$ of that first draw would remain, with $1/N$ of eq. 12's variance, where the other two baselines leave nothing:

# %%
same = torch.ones(6, 1)  # six locations, one feature
log_a = torch.randn(6, generator=torch.Generator().manual_seed(1)).log_softmax(0)
s = torch.eye(6) - log_a.exp()  # scores: row i is the gradient of log a_i by the logits
one_draw = (log_a.exp() * s.square().sum(1)).sum()  # eq. 12's variance, times N, without baseline
for n in (2, 3, 4):
    left = {}
    for name in ("des_raj", "murthy"):
        draws, probability = every_draw(ESTIMATORS[name], log_a, n)
        leaf = log_a.clone().expand(len(draws), 6).requires_grad_()
        z = ESTIMATORS[name](leaf.log_softmax(1), draws, same[draws], baseline="built_in")
        gradient = torch.autograd.grad(z.sum(), leaf)[0]
        left[name] = (probability @ gradient.square().sum(1) / (one_draw / n)).item()
    print(
        f"N = {n}: gradient error / eq. 12's: Des Raj {left['des_raj']:.6f}, Murthy {left['murthy']:.6f}"
    )
# NBVAL_CHECK_OUTPUT

# %% [markdown]
#
# What is subtracted must have the mean zero, and that depends on what the baseline $b_m$ of draw $m$ knows. Let $s_m = \partial \log a_{i_m}$ be the
# scores. Replacing $f_m$ by $f_m - b_m$ in the score term subtracts $\sum_m W_m b_m s_m$. This has the mean zero in these cases:
#
# - $b_m = b$ does not depend on the draw: put $h(i) = b\, \partial a_i$, whose sum is $b\, \partial 1 = 0$. So a constant, such as a running mean of features, will do for every estimator, systematic draws among them;
# - draws with replacement, and $b_m$ is the mean of the *other* features: it does not depend on draw $m$, and a score has the mean zero;
# - Murthy's own, $b_m = \mathbb{E}[t_2 \mid S, m \text{ first}]$, the mean of eq. 14's estimate after two draws over the orders in which $S$ may have been drawn with $m$ first (Murthy's estimator is explained in the next section): the sum is $\mathbb{E}[t_2\, s_1 \mid S]$, and $t_2$ has the mean $\mu$ whatever came first, so that $\mu$ times the mean of $s_1$ remains.
#
# Without replacement, with $b_m$ the mean of the features drawn *before* $m$, the mean of $\sum_m W_m b_m s_m$ is *not* zero. Given those draws, $i_m$ is location $i$ with probability $a_i / w_m$, if $i$ is left. So $w_m s_m$ has the mean
# $\sum_{i \text{ left}} \partial a_i = -\sum_{k<m} \partial a_{i_k}$ $= -\sum_{k<m} a_{i_k} s_k$, and it is $w_m s_m + \sum_{k<m} a_{i_k} s_k$ that has the mean zero. Times $b_m$, summed over $m$ and collected by scores, this is what the
# library subtracts for Des Raj:
#
# $$
# \frac1N \sum_{m=1}^{N} \Bigl( w_m b_m + a_{i_m} \sum_{k>m} b_k \Bigr)\, s_m .
# $$ (eq-predictable)

# %%
# NBVAL_CHECK_OUTPUT
generator = torch.Generator().manual_seed(3)
a, f = torch.randn(6, generator=generator).softmax(0), torch.rand(6, generator=generator)
index, probability = every_draw(ESTIMATORS["des_raj"], a.log(), 3)
drawn, seen = a[index], f[index]  # (M, 3)
W = ESTIMATORS["des_raj"].weights(a.log().expand(len(index), 6), index)
w = 1 - (drawn.cumsum(1) - drawn)
b = (seen.cumsum(1) - seen) / torch.tensor([1, 1, 2])  # 0, then the mean of the earlier
later = b.sum(1, keepdim=True) - b.cumsum(1)
score = one_hot(index, 6) - a  # (M, 3, 6), by the logits
truth = a * (f - a @ f)
for what, control in (("W_m b_m", W * b), ("the library's", (w * b + drawn * later) / 3)):
    mean = probability @ (control[..., None] * score).sum(1)
    off = (mean.norm() / truth.norm()).item()
    print(f"{what:13} mean {off:.3f} of the gradient; zero to 1e-12: {off < 1e-12}")

# %% [markdown]
# ## Murthy's estimator: forget the order
#
# Des Raj's weights depend on the order of the draw, yet the order says nothing about the features: a set $S$ of locations contains the
# same features whatever came first. The Rao–Blackwell theorem says that averaging an unbiased estimator $z$ over what
# carries no information keeps it unbiased and can only lower its variance:
#
# $$
# \mathbb{V}[z] = \mathbb{V}\bigl[\mathbb{E}[z \mid S]\bigr] + \mathbb{E}\bigl[\mathbb{V}[z \mid S]\bigr] .
# $$ (eq-rao-blackwell)
#
# Begin with the first draw alone, $t_1 = f_{i_1}$. Given the set, any of its locations may have come first, so
#
# $$
# \begin{aligned}
# \mathbb{E}[f_{i_1} \mid S] & = \sum_{i \in S} P(i \text{ first} \mid S)\, f_i, \\
# P(i \text{ first} \mid S) & = \frac{a_i\, P(S \mid i \text{ first})}{P(S)},
# \end{aligned}
# $$
#
# and these are Murthy's weights. Equation 14 and Des Raj's estimate have the same mean over the orders. Let $R_j = P(S \mid j \text{ first}) / P(S)$ and $R_{ij} = P(S \mid i, j \text{ first}) / P(S)$. Given $S$, the coefficient of $f_j$ in the mean of $t_2$ is
#
# $$
# a_j \Bigl( a_j R_j + \sum_{i \in S \setminus j} a_i R_{ij} \Bigr) = a_j R_j ,
# $$
#
# since after $j$ the second is $i$ with probability $a_i / (1 - a_j)$, so that $\sum_i a_i R_{ij} = (1 - a_j)\, R_j$: the same as of $t_1$. This step, among the locations that are left given what was drawn before, leads from $t_{n-1}$ to $t_n$; so all $t_n$, and their mean, have Murthy's estimate as their mean over the orders. The cell takes six locations,
# three draws, all 120 ordered draws and their 20 sets, and computes both sides. (Not every unbiased estimator leads there: one that does not look at the order, as Horvitz and Thompson's, is its own mean.)

# %%
# NBVAL_CHECK_OUTPUT
generator = torch.Generator().manual_seed(3)
log_attention = torch.randn(6, generator=generator).log_softmax(0)
features = torch.nn.functional.normalize(torch.randn(6, 4, generator=generator), dim=1)
truth = log_attention.exp() @ features

for name in ("eq14", "des_raj"):
    index, probability, z = enumerate_draws(ESTIMATORS[name], log_attention, features, 3)
    murthy = ESTIMATORS["murthy"](log_attention.expand(len(index), 6), index, features[index])
    ordered = index.sort(1).values
    same_set = (ordered[:, None] == ordered[None]).all(-1).double()  # (M, M)
    # E[z | S]
    over_orders = same_set @ (probability[:, None] * z) / (same_set @ probability)[:, None]
    between = (probability @ (over_orders - truth).square()).sum()
    within = (probability @ (z - over_orders).square()).sum()
    total = (probability @ (z - truth).square()).sum()
    print(
        f"{name}: variance {total:.4f} = {between:.4f} of the sets + {within:.4f} of the order"
    )
    print(f"  both sides equal to 1e-12: {abs(total - between - within).item() < 1e-12}")
    print(
        f"  mean over the orders is Murthy, equal to 1e-12: {(over_orders - murthy).abs().max().item() < 1e-12}"
    )

# %% [markdown]
# The part of the sets is the same for both, and it is Murthy's variance. The order's part is what either wastes: much of
# eq. 14's variance, less of Des Raj's. Murthy's estimator saves it, and pays in computing time (below).
#
# ## A free error bar
#
# Des Raj's estimate is the mean of $t_1, \dots, t_N$, the estimates after 1, 2, …, N draws. Each $t_m$ has mean $\mu$ *whatever
# was drawn before*, so they are uncorrelated, and
#
# $$
# \mathrm{stderr}^2 = \frac{1}{N (N - 1)} \sum_{m=1}^{N} (t_m - z)^2
# $$ (eq-stderr)
#
# is an unbiased estimate of the variance of $z$. (Its root, the error bar itself, is not unbiased: on average it is too short.) `estimator.stderr` computes it, and a model returns it as
# `out.stderr`. Murthy's estimate has one as well, for $N \ge 2$. It is made of the pairs in the set,
#
# $$
# \begin{aligned}
# \mathrm{stderr}^2 = \sum_{i < j \in S} & a_i a_j\, (f_i - f_j)^2 \\
# & \times \frac{P(S)\, P(S \mid i, j \text{ first}) - P(S \mid i \text{ first})\, P(S \mid j \text{ first})}{P(S)^2} ,
# \end{aligned}
# $$ (eq-stderr-murthy)
#
# which is an unbiased estimate of the variance, too. The cell takes the six locations from above and all draws of three.

# %%
# NBVAL_CHECK_OUTPUT
for name in ("with_replacement", "des_raj", "murthy"):
    index, probability, z = enumerate_draws(ESTIMATORS[name], log_attention, features, 3)
    variance = probability @ (z - truth).square()
    bar = ESTIMATORS[name].stderr(log_attention.expand(len(index), 6), index, features[index])
    exact = (probability @ bar.square() - variance).abs().max().item() < 1e-12
    short = ((probability @ bar) / variance.sqrt()).mean().item()
    print(f"{name:17} mean stderr² is the variance, to 1e-12: {exact};")
    print(f"{'':17} mean stderr is {short:.2f} of the standard deviation")

# %% [markdown]
# Being right on average is one thing; does $z \pm 1.96\,\mathrm{stderr}$ contain the truth in 95 % of all draws? With few draws
# the error bar is itself uncertain, and Student's $t$ with $N - 1$ degrees of freedom gives a wider interval. The cell
# counts both for Des Raj, component by component, for maps of 256 locations whose logits are normal with a standard deviation of 1, 3 and 6 (their *peakedness*), and features of length one.

# %% mystnb={"image": {"alt": "Coverage of the Des Raj error bar against N from 2 to 50 for three attentions: the normal interval starts around 0.7 and approaches 0.95 from below; Student's interval stays near 0.95 for spread-out attention and between 0.9 and 1 for peaked attention."}}
figure, ax = plt.subplots(figsize=(7, 3.4))
trials = 3000
coverage = {}
counts = (2, 3, 5, 10, 20, 50)
for peak, style in (
    (1.0, dict(color=plots.BLUE, marker="s")),
    (3.0, dict(color=plots.ORANGE, marker="^")),
    (6.0, dict(color=plots.GREEN, marker="D")),
):
    generator = torch.Generator().manual_seed(11)
    log_attention = (peak * torch.randn(256, generator=generator)).log_softmax(0)
    features = torch.nn.functional.normalize(torch.randn(256, 8, generator=generator), dim=1)
    truth = log_attention.exp() @ features
    everywhere = log_attention.expand(trials, -1)
    estimator = ESTIMATORS["des_raj"]
    for n in counts:
        index = estimator.sample(everywhere, n, generator=generator)
        z, bar = (
            estimator(everywhere, index, features[index]),
            estimator.stderr(everywhere, index, features[index]),
        )
        off = (z - truth).abs() / bar
        coverage[peak, n] = (
            (off < 1.96).double().mean().item(),
            (off < stdtrit(n - 1, 0.975)).double().mean().item(),
        )
    top = log_attention.exp().topk(10).values.sum()
    for which, dash, interval in ((0, ":", "±1.96"), (1, "-", "Student")):
        ax.plot(
            counts,
            [coverage[peak, n][which] for n in counts],
            linestyle=dash,
            **style,
            label=f"{interval}, peakedness {peak:g} (ten locations hold {100 * top:.0f} %)",
        )
ax.axhline(0.95, color="black", linewidth=0.8)
ax.set(
    xscale="log",
    xticks=counts,
    xlabel="draws N",
    ylabel="share of intervals with the truth",
    ylim=(0.6, 1),
)
ax.set_xticklabels(counts)
ax.minorticks_off()
ax.legend(loc="lower right", fontsize=9)
plt.show()
display(
    Markdown(
        "At N = 10: "
        + "; ".join(
            f"{100 * coverage[peak, 10][0]:.0f} % with ±1.96 and {100 * coverage[peak, 10][1]:.0f} % with Student's t at "
            f"peakedness {peak:g}"
            for peak in (1.0, 3.0, 6.0)
        )
        + f". Of ten independent normal variables one would expect {100 * (2 * stdtr(9, 1.96) - 1):.0f} % and 95 %."
    )
)

# %% [markdown]
# The dotted lines, ±1.96, fall short at small $N$, as they would for normal variables. Student's interval (solid) repairs
# that: near 95 % where the attention is spread out. Where it is peaked, the late $t_m$ hardly differ from the truth and the
# early ones rule the error bar, so the interval is not exact; with more than a few draws it errs on the safe side. Either is an interval for $\mu$, the answer
# of the full model, and says nothing about whether the full model is right.
#
# ## A curve through the map
#
# Systematic sampling takes $N$ equally spaced points on the cumulative attention, with one random offset $u$. A stretch
# of the *order* that holds mass $s$ gets $Ns$ points, rounded up or down. So the order matters: it is good if a stretch of it is an
# object. Row by row (raster order), a stretch is a thin strip across all objects. A Hilbert curve stays inside a region before it goes to the
# next, so a stretch is a compact blob. Independent draws give an object of mass $s$ a binomial number of draws, with a spread of
# $\sqrt{N s (1 - s)}$.
#
# The map below has six objects on a faint background. Here are ten draws of each kind.


# %%
def object_map(side=32, objects=6, width=2.5, seed=0):
    """Log-attention with bumps, and which object each location belongs to (the last:
    background).
    """
    generator = torch.Generator().manual_seed(seed)
    row, column = torch.meshgrid(
        torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij"
    )
    centres = []
    while len(centres) < objects:  # apart from each other
        centre = 3 + (side - 6) * torch.rand(2, generator=generator)
        if all((centre - other).norm() > 9 for other in centres):
            centres.append(centre)
    bumps = torch.stack(
        [(-((row - y) ** 2 + (column - x) ** 2) / (2 * width**2)).exp() for y, x in centres]
    )
    attention = 0.004 + bumps.sum(0)
    owner = torch.where(bumps.amax(0) > 0.05, bumps.argmax(0), objects)
    return attention.log().flatten().log_softmax(0).view(side, side), owner.flatten()


log_map, owner = object_map()
mass = torch.zeros(7).index_add(0, owner, log_map.flatten().exp())
KINDS = {
    "independent": ESTIMATORS["with_replacement"],
    "Des Raj": ESTIMATORS["des_raj"],
    "systematic, raster": Systematic("raster"),
    "systematic, Hilbert": Systematic("hilbert"),
}

# %% mystnb={"image": {"alt": "Four panels: the attention map with six bright blobs and ten drawn locations each. Independent draws put several on some blobs and none on others; raster order spreads over rows; the Hilbert panel shows the curve winding through the map and draws on every blob."}}
figure, axes = plt.subplots(1, 4, figsize=(9.5, 2.9))
for seed, (ax, (kind, estimator)) in enumerate(zip(axes, KINDS.items(), strict=True), start=10):
    plots.show_attention(ax, log_map, kind)
    if "Hilbert" in kind:
        path = hilbert_curve(32, 32)
        ax.plot(path % 32, path // 32, color="white", linewidth=0.5, alpha=0.5)
    generator = torch.Generator().manual_seed(seed)
    (index,) = estimator.sample(log_map[None], 10, generator=generator)
    ax.plot(
        index % 32, index // 32, "o", color=plots.RED, markeredgecolor="white", markersize=6.5
    )
    hit = one_hot(owner[index], 7).amax(0)[:6].sum().item()
    ax.set_xlabel(f"{hit} of 6 objects seen")
plt.show()

# %% [markdown]
# One draw proves nothing, but for draws of one uniform number all of them can be enumerated: the number of draws on an
# object changes only where a point passes a border. The cell computes mean and standard deviation of the number of draws
# on each object, and the chance that an object is missed.

# %%
# NBVAL_CHECK_OUTPUT
print("object                        " + "".join(f"{o:>7}" for o in range(6)))
print("ten times its mass            " + "".join(f"{10 * m:7.2f}" for m in mass[:6]))
for kind in ("systematic, raster", "systematic, Hilbert"):
    index, probability = every_draw(KINDS[kind], log_map, 10)
    count = one_hot(owner[index], 7).sum(1).double()  # (M, 7)
    mean = probability @ count
    spread = (probability @ (count - mean).square()).sqrt()
    missed = probability @ (count == 0).double()
    print(f"{kind:22} mean   " + "".join(f"{m:7.2f}" for m in mean[:6]))
    print(f"{'':22} spread " + "".join(f"{s:7.2f}" for s in spread[:6]))
    print(f"{'':22} missed " + "".join(f"{m:7.2f}" for m in missed[:6]))
print(
    f"{'independent':22} spread "
    + "".join(f"{s:7.2f}" for s in (10 * mass * (1 - mass)).sqrt()[:6])
)
print(f"{'':22} missed " + "".join(f"{m:7.2f}" for m in ((1 - mass) ** 10)[:6]))

# %% [markdown]
# All have the right mean. Along the Hilbert curve the number of draws on an object varies least, for each of them, and half are never
# missed. The curve has folds and leaves every object several times. An object is never missed if one unbroken stretch of the curve inside it is worth a whole draw. The
# others are cut into shorter stretches, and may even fare worse than in row order.
#
# Does that lower the error of $\mu$, and of the gradient? It depends on the features. If patches of one object look alike, then one draw per object
# tells nearly all there is to know. If features have nothing to do with place, then no order is better than another. The
# cell computes both, averaged over several random maps. "Alike": each object has a feature of its own, and its patches have
# that feature plus noise. "Unrelated": every location has its own random feature. For systematic and π-ps draws the errors are exact,
# by enumeration. For stratified draws they are exact as well, since the strata are independent. For Des Raj they come from draws.


# %%
def features_on(owner, seed, kind):
    generator = torch.Generator().manual_seed(seed)
    own = torch.nn.functional.normalize(torch.randn(len(owner), 16, generator=generator), dim=1)
    if kind == "unrelated":
        return own
    of_object = torch.nn.functional.normalize(torch.randn(7, 16, generator=generator), dim=1)[
        owner
    ]
    return torch.nn.functional.normalize(of_object + 0.4 * own, dim=1)


# %% tags=["hide-input"]
def stratified_error(estimator, log_map, features, n):
    """Exact: the variances of the strata's means add up."""
    cumulative = estimator.cumulative(log_map[None], n)[0]
    order = hilbert_curve(*log_map.shape) if estimator.order == "hilbert" else torch.arange(len(features))
    borders = torch.arange(n + 1) / n
    upper = (cumulative / cumulative[-1])[:, None]  # (K, 1): each location's stretch, to be cut by the strata
    lower = torch.cat([torch.zeros(1, 1), upper[:-1]])
    share = (torch.minimum(upper, borders[1:]) - torch.maximum(lower, borders[:-1])).clamp(min=0) * n  # (K, n)
    squares = (share.T @ features[order].square()).sum()
    return (squares - (share.T @ features[order]).square().sum()).item() / n**2


def draws_on(estimator, log_map, n, trials=500):
    """All draws and their probabilities, or some random ones of an estimator with too many."""
    if isinstance(estimator, (Systematic, PPS)):
        return every_draw(estimator, log_map, n)
    index = estimator.sample(log_map.expand(trials, -1, -1), n, generator=torch.Generator().manual_seed(n))
    return index, torch.full((trials,), 1 / trials)


def map_error(estimator, log_map, features, n):
    if isinstance(estimator, Stratified):
        return stratified_error(estimator, log_map, features, n)
    index, probability = draws_on(estimator, log_map, n)
    z = estimator(log_map.expand(len(index), -1, -1), index, features[index])
    return (probability @ (z - log_map.flatten().exp() @ features).square().sum(1)).item()


ORDERED = {
    "systematic, Hilbert": Systematic("hilbert"),
    "systematic, raster": Systematic("raster"),
    "stratified, Hilbert": Stratified("hilbert"),
    "stratified, raster": Stratified("raster"),
    "π-ps, Hilbert": PPS("hilbert"),
    "π-ps, raster": PPS("raster"),
    "Des Raj": ESTIMATORS["des_raj"],
}
counts = (2, 5, 10, 20, 50)
worlds = {"smoke": 5, "laptop": 20, "paper": 50}[profile]
on_map = {(kind, label): torch.zeros(worlds, len(counts)) for kind in ("alike", "unrelated") for label in ORDERED}
for world in range(worlds):
    log_map, owner = object_map(seed=world)
    for kind in ("alike", "unrelated"):
        features = features_on(owner, world, kind)
        variance = 1 - (log_map.flatten().exp() @ features).square().sum().item()
        for label, estimator in ORDERED.items():
            if kind == "unrelated" and "π-ps" in label:
                continue
            for column, n in enumerate(counts):
                on_map[kind, label][world, column] = n * map_error(estimator, log_map, features, n) / variance

# %% mystnb={"image": {"alt": "Two panels, N times the squared error over the variance of one draw, against N from 2 to 50; one is what independent draws have. Left, features alike within an object: systematic sampling along the Hilbert curve falls to a fraction, stratified along it follows, raster order lies far above both and Des Raj close to one. Right, unrelated features: all stay close to one and fall slowly."}}
figure, axes = plt.subplots(1, 2, figsize=(7, 4.1), sharey=True)
for ax, kind in zip(axes, ("alike", "unrelated"), strict=True):
    for label in ORDERED:
        name, _, order = label.partition(", ")
        if name == "π-ps":
            continue
        style = dict(plots.ESTIMATOR_STYLES["des_raj" if name == "Des Raj" else name])
        style["linestyle"] = ":" if order == "raster" else "-"
        ax.plot(counts, on_map[kind, label].mean(0), label=label, **style)
    ax.axhline(1, color="black", linewidth=1.2, label="with replacement")
    ax.set(
        xscale="log",
        xlabel="draws N",
        xticks=counts,
        title=f"features {kind}" + " within an object" * (kind == "alike"),
    )
    ax.set_xticklabels(counts)
    ax.minorticks_off()
axes[0].set(ylabel="N × squared error / variance of one draw", ylim=(0, 1.3))
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()
display(
    plots.table(
        ["features alike: N × error / variance of one draw", *(f"N = {n}" for n in counts)],
        [
            [
                label,
                *(
                    f"{v:.2f} ({low:.2f} … {high:.2f})"
                    for v, low, high in zip(r.mean(0), r.amin(0), r.amax(0), strict=True)
                ),
            ]
            for label, r in ((label, on_map["alike", label]) for label in ORDERED)
        ],
    )
)
worst, at = on_map["alike", "systematic, raster"].amax(0).max(0)
raster_at_worst = (
    f" Systematic draws in raster order have up to {worst:.2f} times the error of independent "
    f"draws (at N = {counts[at]})."
    if worst > 1
    else ""
)
display(
    Markdown(
        f"Mean over {worlds} maps, and in brackets the lowest and the highest of them. Des Raj's error is that of 500 random draws, the others are exact; "
        "a number of his above 1 is the noise of these, for he is never worse than independent draws ([chapter 4](04_without_replacement.ipynb))."
        + raster_at_worst
    )
)

# %% [markdown]
# What to see: with features that go with the objects, systematic draws along the Hilbert curve have a fraction of the error of
# independent draws and of Des Raj, on every map from $N = 5$ on. Raster order, too, is better than
# independent draws on average, but on some maps it is worse (numbers above one in the brackets). π-ps and systematic draws coincide as long as no location is
# certain to be drawn. Des Raj gains little: on a map of a thousand locations, ten draws hardly ever repeat one. With features unrelated
# to place all lie close to one: spreading the draws costs nothing and brings little. The price is the error bar (`stderr` returns None). With a
# single uniform number some pairs of locations are never drawn together, so that no draw tells how much they differ. With one draw per stratum nothing tells the variance inside it.
#
# And the gradient? The next cell takes the gradient of $c^\top z$ by the logits, for a random direction $c$ and ten draws on the
# last of these maps. It compares each entry with the truth, and also the sum of the entries over each object: an attention network
# cannot set each logit freely, it raises or lowers all locations that look alike.


# %%
features = features_on(owner, worlds - 1, "alike")
direction = torch.randn(16, generator=torch.Generator().manual_seed(0))
a, response = log_map.flatten().exp(), features @ direction
# of one draw: the response of the location times its score
alone = response[:, None] * (torch.eye(len(a)) - a)  # (K, K)
over_objects = one_hot(owner, 7).double()
trials = 2000


def map_gradient_error(estimator, n):
    """Mean squared error of the gradient: of its entries, and of their sums over each object;
    and the standard errors of both, zero where they are exact.
    """
    kinds = (alone, alone @ over_objects)
    if estimator.name == "with_replacement":  # as in chapter 3: of one draw, over n
        return [(a @ (g - a @ g).square().sum(1)).item() / n for g in kinds], (0.0, 0.0)
    if isinstance(estimator, Stratified):
        return [stratified_error(estimator, log_map, g, n) for g in kinds], (0.0, 0.0)
    index, probability = draws_on(estimator, log_map, n, trials)
    logits = log_map.flatten().expand(len(index), -1).clone().requires_grad_()
    log_a = logits.log_softmax(1)
    z = estimator(log_a.view(-1, *log_map.shape), index, features[index])
    gradient = torch.autograd.grad((z @ direction).sum(), logits)[0]
    error = gradient - a * (response - a @ response)
    squared = [e.square().sum(1) for e in (error, error @ over_objects)]
    random = not isinstance(estimator, (Systematic, PPS))
    return (
        [(probability @ e).item() for e in squared],
        [e.std().item() / math.sqrt(trials) if random else 0.0 for e in squared],
    )


with_noise = {
    label: map_gradient_error(estimator, 10)
    for label, estimator in {
        "with replacement": ESTIMATORS["with_replacement"],
        **ORDERED,
    }.items()
}
on_map_gradient = {label: error for label, (error, _) in with_noise.items()}
reference = on_map_gradient["with replacement"]
display(
    plots.table(
        ["gradient error over eq. 12's, N = 10", "each location", "summed over objects"],
        [
            [
                label,
                *(
                    f"{e / r:.2f}" + (f" ± {s / r:.2f}" if s else "")
                    for e, s, r in zip(error, noise, reference, strict=True)
                ),
            ]
            for label, (error, noise) in with_noise.items()
        ],
    )
)
display(
    Markdown(
        f"Des Raj's line is of {trials:,} random draws and has a standard error. "
        "The others, eq. 12's too, are exact."
    )
)

# %% [markdown]
# Entry by entry nothing helps much: no ten draws can tell a thousand entries apart, however well they are spread. Summed over the
# objects, the gradient gains from the spreading as the value does.
#
# (cell-claim-unbiased-output)=
# ## The loss is another matter
#
# All of this is about $\mu$. Behind it there is a classifier $g$ and a loss $L$, and
# $\mathbb{E}[L(g(z))] \ne L(g(\mu))$ as soon as $L \circ g$ bends. To second order,
#
# $$
# \mathbb{E}[L(g(z))] - L(g(\mu)) \approx \tfrac12 \operatorname{tr}\bigl(H\, \mathbb{V}[z]\bigr),
# \qquad H = \nabla^2 (L \circ g)(\mu) ,
# $$ (eq-loss-bias)
#
# so it shrinks as the variance does: as $1/N$ for independent draws. For three locations the expectation can be computed exactly for any
# $N$: all that matters is how often each location was drawn, and those counts are multinomial. The cell does this for a linear
# classifier and the cross-entropy.

# %% mystnb={"image": {"alt": "Bias of the loss and of the predicted probability against N from 1 to 256, both axes logarithmic: straight lines of slope -1, the loss's together with its second-order prediction."}}
a = torch.tensor([0.5, 0.3, 0.2])
features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
W = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-1.0, -1.0]])  # three classes; the right one is 0
log_p = lambda z: (z @ W.T).log_softmax(-1)[..., 0]
mu = a @ features
hessian = torch.autograd.functional.hessian(lambda z: -log_p(z), mu)
covariance = features.T @ (torch.diag(a) - torch.outer(a, a)) @ features  # of one draw

sizes = [2**k for k in range(9)]
bias = {"logits": [], "loss": [], "probability": []}
for n in sizes:
    first, second = torch.meshgrid(torch.arange(n + 1), torch.arange(n + 1), indexing="ij")
    inside = first + second <= n
    counts_of = torch.stack(
        [first[inside], second[inside], n - first[inside] - second[inside]], dim=1
    ).double()
    chance = (
        math.lgamma(n + 1) - torch.lgamma(counts_of + 1).sum(1) + counts_of @ a.log()
    ).exp()
    z = counts_of @ features / n
    bias["logits"].append((chance @ (z @ W.T) - mu @ W.T).abs().max().item())
    bias["loss"].append((chance @ -log_p(z) + log_p(mu)).item())
    bias["probability"].append((chance @ log_p(z).exp() - log_p(mu).exp()).abs().item())
predicted = [(hessian * covariance).sum().item() / (2 * n) for n in sizes]


def slope(values):
    """Of the last four points, on logarithmic axes."""
    x, y = torch.tensor(sizes[-4:]).double().log(), torch.tensor(values[-4:]).log()
    return (((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()).item()


figure, ax = plt.subplots(figsize=(7, 3.4))
ax.loglog(
    sizes, bias["loss"], "o-", color=plots.BLUE, label=f"loss, slope {slope(bias['loss']):.2f}"
)
ax.loglog(sizes, predicted, "--", color="black", label="loss, second order")
ax.loglog(
    sizes,
    bias["probability"],
    "s-",
    color=plots.ORANGE,
    label=f"probability, slope {slope(bias['probability']):.2f}",
)
ax.set(xlabel="draws N", ylabel="bias, absolute", xticks=sizes)
ax.set_xticklabels(sizes)
ax.minorticks_off()
ax.legend()
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
print(f"logits:       bias below 1e-12 at every N: {max(bias['logits']) < 1e-12}")
for n in (1, 4, 16, 64, 256):
    k = sizes.index(n)
    print(
        f"N = {n:3}: loss {bias['loss'][k]:+.5f} (second order {predicted[k]:+.5f}), probability off by {bias['probability'][k]:.5f}"
    )
print(f"slopes: loss {slope(bias['loss']):.2f}, probability {slope(bias['probability']):.2f}")

# %% [markdown]
# The logits of a linear classifier are unbiased. The loss is too large on average (the cross-entropy is convex in the
# logits), and the probability of the right class is off as well. Both biases go as $1/N$. So the abstract's "unbiased
# estimator of the full model" holds up to the logits of a linear $g$. It does *not* hold for the model's output
# probabilities or for the loss.
#
# A better estimator lowers this bias roughly with its variance; the ratio is not constant, since $\operatorname{tr}(H\,\mathbb V)$ weighs directions, and the bias of the gradient need not follow. Six locations, three draws, every draw enumerated. The last
# column shows that the gradient of the loss by the attention's logits, which is what training uses, is biased as well: the
# gradient of $z$ is not, but it is multiplied by the derivative of $L$ at $z$ instead of $\mu$.

# %%
# NBVAL_CHECK_OUTPUT
generator = torch.Generator().manual_seed(4)
log_attention = torch.randn(6, generator=generator).log_softmax(0)
features = torch.nn.functional.normalize(torch.randn(6, 2, generator=generator), dim=1)
mu = log_attention.exp() @ features
logits = log_attention.clone().requires_grad_()
full_gradient = torch.autograd.grad(-log_p(logits.softmax(0) @ features), logits)[0]
print("                                                              bias of its")
print("                   variance   bias of the loss   their ratio   gradient, relative")
for name in NAMES:
    index, probability, z = enumerate_draws(ESTIMATORS[name], log_attention[None], features, 3)
    variance = (probability @ (z - mu).square()).sum().item()
    bias_of_loss = (probability @ -log_p(z) + log_p(mu)).item()
    everywhere = logits.log_softmax(0).expand(len(index), 1, 6)
    mean_loss = probability @ -log_p(ESTIMATORS[name](everywhere, index, features[index]))
    gradient = torch.autograd.grad(mean_loss, logits)[0]
    off = ((gradient - full_gradient).norm() / full_gradient.norm()).item()
    print(
        f"{name:18} {variance:.3f}      {bias_of_loss:+.4f}            {bias_of_loss / variance:.2f}          {off:.2f}"
    )

# %% [markdown]
# ## What it costs in time
#
# The next cell times drawing and weighing for a batch of 16 maps of 180 × 180 locations, the paper's first experiment's size.
# Times differ from machine to machine. `benchmarks/estimators.py` does the same more carefully. For scale, it also times the attention network of
# that experiment, which runs before each draw.

# %%
maps = torch.randn(16, 180, 180, generator=torch.Generator().manual_seed(0)).float()
maps = (2 * maps).flatten(1).log_softmax(1).view(16, 180, 180)


attention_network = MegapixelMNISTAttention().float().requires_grad_(False)
views = torch.rand(16, 1, 180, 180, generator=torch.Generator().manual_seed(1)).float()


def draw_and_weigh(name, n):
    estimator, generator = ESTIMATORS[name], torch.Generator().manual_seed(0)
    return lambda: estimator.weights(maps, estimator.sample(maps, n, generator=generator))


timed = {(name, n): draw_and_weigh(name, n) for name in NAMES for n in (10, 100)}
threads = torch.get_num_threads()
torch.set_num_threads(1)
timings = {
    row["method"]: torch.tensor(row["ms_all"])
    for row in compare(timed, repetitions=15, memory=False)
}
cost = {key: times.min().item() for key, times in timings.items()}
# By itself: whoever came after it would find the caches full of the network's activations.
(network,) = compare({"network": lambda: attention_network(views)}, repetitions=7, memory=False)
network_time = min(network["ms_all"])
torch.set_num_threads(threads)


# where a hundred draws seem cheaper than ten, something else took the machine's time
busy = any(cost[name, 100] < 0.8 * cost[name, 10] for name in NAMES)


def times_as_long(name, than, n=10):
    """The ratio of the times in the table, if they can be compared."""
    return None if busy else cost[name, n] / cost[than, n]


display(
    plots.table(
        ["milliseconds for 16 maps, one thread, the fastest of fifteen", "N = 10", "N = 100"],
        [
            [plots.ESTIMATOR_NAMES[name], *(f"{cost[name, n]:.1f}" for n in (10, 100))]
            for name in NAMES
        ]
        + [["(attention network)", f"{network_time:.1f}", f"{network_time:.1f}"]],
    )
)
if busy:
    display(
        Markdown(
            "These times were measured while the machine was busy: a hundred draws seem to take less "
            "than ten. Do not compare them."
        )
    )

# %% [markdown]
# ## Which one, when
#
# Each line of this table is written from numbers computed above, or in the chapter that it names. All ratios are of mean *squared* errors; of an error bar take the root.

# %%
at = SETTINGS.index((0.2, 5))


def gain(line):
    return feature["with replacement"][at][0] / feature[line][at][0]


ten = counts.index(10)
raj_takes, murthy_takes = (times_as_long(n, "with_replacement") for n in ("des_raj", "murthy"))
unknown = "the time to draw and weigh was measured while the machine was busy"
raj_time = f"{raj_takes:.1f} times the time to draw and weigh" if raj_takes else unknown
dear_time = (
    f"π-ps takes {times_as_long('pps', 'with_replacement'):.0f} and Murthy {murthy_takes:.0f} times as long to draw and weigh as independent draws at N = 10"
    if murthy_takes
    else unknown
)
murthy_time = (
    f"Murthy takes {murthy_takes:.1f} times as long to draw and weigh" if murthy_takes else unknown
)
display(
    Markdown(
        "\n".join(
            [
                "| situation | take | because |",
                "|---|---|---|",
                "| an error bar is wanted, or there is no map | Des Raj "
                f"| a {gain('Des Raj'):.1f} times smaller squared error than as many independent draws (α = 0.2, N = 5; {1 / equal_cost[0.2, 5] / feature['Des Raj'][at][0]:.1f} times at as many different locations on average), "
                f"with `stderr`; {raj_time} |",
                "| no particular reason (the default of models); objects on a map, features that go with them | systematic, Hilbert order "
                f"| {(on_map['alike', 'Des Raj'] / on_map['alike', 'systematic, Hilbert'])[:, ten].mean():.1f} times smaller squared error than Des Raj "
                f"at N = 10, and a lower test error than Des Raj's in nearly all trained networks of [chapter 8](08_megapixel_mnist.ipynb#do-draws-matter-in-training-or-in-the-test), which has the numbers and a test over seeds; {on_map_gradient['Des Raj'][1] / on_map_gradient['systematic, Hilbert'][1]:.1f} times less in the gradient summed over objects (one map); nothing lost where features are unrelated to place "
                f"({on_map['unrelated', 'systematic, Hilbert'][:, ten].mean():.2f} against {on_map['unrelated', 'Des Raj'][:, ten].mean():.2f}) |",
                "| peaked attention, few locations matter | π-ps, or Murthy "
                f"| {gain('π-ps'):.0f} and {gain('Murthy'):.0f} times smaller squared errors than as many independent draws (α = 0.2, N = 5; {1 / equal_cost[0.2, 5] / feature['π-ps'][at][0]:.1f} and {1 / equal_cost[0.2, 5] / feature['Murthy'][at][0]:.1f} times at as many different locations on average); {dear_time} |",
                "| features that share a large mean, gradient noisy | Murthy or with replacement, built-in baseline "
                f"| gradient error {gradient_error('Murthy, baseline', 1.0, 5, 0.8)[0]:.2f} and "
                f"{gradient_error('with replacement, baseline', 1.0, 5, 0.8)[0]:.2f} of eq. 12's at κ = 0.8, N = 5; "
                f"{murthy_time} |",
                "| features without a shared mean | no baseline "
                f"| at κ = 0, N = 2 it makes eq. 12's gradient {gradient_error('with replacement, baseline', 1.0, 2, 0.0)[0]:.1f} times worse |",
                "| the plainest code; a repeated patch costs nothing (on a CPU) | with replacement | error 1/N of one draw's, weights 1/N |",
                "| hardly ever | eq. 14 as printed, eq. 44 "
                f"| {feature['eq. 14'][SETTINGS.index((1.0, 5))][0] / feature['with replacement'][SETTINGS.index((1.0, 5))][0]:.1f} times the "
                "error of independent draws (α = 1, N = 5); where few draws exhaust the mass eq. 14 beats Des Raj, but Murthy, on the same draws, "
                "is never worse. Gradient of eq. 44: "
                f"{gradient_error('eq. 44, last step', 1.0, 5, 0.8)[0]:.0f} times the error (κ = 0.8), though [chapter 4](04_without_replacement.ipynb) "
                "has a case in which it has the least |",
            ]
        )
    )
)

# %% [markdown]
# ## Summary
#
# - Every estimator here is unbiased. At equal $N$ they differ by large factors, and more so the more peaked the attention.
# - Equation 14 as printed is worse than independent draws unless $N$ draws nearly exhaust the attention. Des Raj's weights on the same draw are never
#   worse than independent draws, and come with an error bar; where few draws exhaust the mass, eq. 14 beats them, and Murthy's beat both.
# - Murthy's estimator is what remains of either when the order is averaged out. It has an error bar, too, and costs more time, the more so the larger $N$; π-ps draws cost more, too.
# - A baseline lowers the gradient's error if features share a large part, and raises it if they do not.
# - Along a Hilbert curve, systematic draws are spread over the objects of a map.
# - Unbiased features give unbiased logits behind a linear classifier. Probabilities and losses keep a bias that goes as $1/N$.
#
# ## Exercises
#
# :::{exercise}
# :label: ex-05-hand
# Three locations, $a = (0.5, 0.3, 0.2)$, two draws without replacement, and the drawn set is $\{1, 2\}$ (0 and 1 in code). Compute Murthy's weights
# by hand from the probabilities of the two orders, and check them with `ESTIMATORS["murthy"].weights`.
# :::
#
# :::{solution} ex-05-hand
# :class: dropdown
# The order $(1, 2)$ has probability $0.5 \cdot 0.3 / 0.5 = 0.3$, the order $(2, 1)$ has $0.3 \cdot 0.5 / 0.7 = 0.214$. Together
# $P(S) = 0.514$. $P(S \mid 1 \text{ first}) = 0.3/0.5 = 0.6$ and $P(S \mid 2 \text{ first}) = 0.5/0.7 = 0.714$. So
# $W_1 = 0.5 \cdot 0.6 / 0.514 = 0.583$ and $W_2 = 0.3 \cdot 0.714 / 0.514 = 0.417$. They sum to one.
# `ESTIMATORS["murthy"].weights(torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0, 1]]))` says the same.
# :::
#
# :::{exercise}
# :label: ex-05-worst
# Systematic sampling is unbiased, but it is not always better than independent draws. Find an attention, an order and features
# for which its variance is larger.
# :::
#
# :::{solution} ex-05-worst
# :class: dropdown
# Let features repeat along the order with the period of the points. Uniform attention over four locations, $N = 2$, features
# $(1, -1, 1, -1)$: the two points lie two locations apart and see the same feature, so $z = \pm 1$, with variance 1. Two
# independent draws have variance 1/2. With `f = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])`, `enumerate_draws(Systematic("raster"), torch.full((1, 4), 0.25).log(), f, 2)` shows it. A random
# or a space-filling order makes such an accident unlikely; stratified draws rule it out.
# :::
#
# :::{exercise}
# :label: ex-05-baseline
# In the figure of the gradient's error, where does the baseline of eq. 12 begin to pay, and how does that depend on $N$? Use
# `gradient_error` to find the cosine at which the solid and the dotted line cross, for $N = 2, 3, 5$.
# :::
#
# :::{solution} ex-05-baseline
# :class: dropdown
# The leave-one-out mean of $N - 1$ other features has the shared part and noise of size $(1 - \kappa)/(N - 1)$. Removing the
# shared part saves $\kappa$, the noise costs $(1 - \kappa)/(N - 1)$, so one expects them to break even near $\kappa = 1/N$: about a half, a third, a fifth.
# `[min((abs(gradient_error("with replacement, baseline", 1.0, n, r)[0] - 1), r) for r in cosines)[1] for n in COUNTS]` finds
# values at or below these, the more so the more patches: the rule is rough, and with more peaked attention (0.2 for 1.0) they lie lower still.
# :::
