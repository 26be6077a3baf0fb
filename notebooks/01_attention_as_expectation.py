# %% [markdown]
# # Attention is an expectation
#
# Attention pools the features of many places into one: a weighted mean. A weighted mean with weights that sum to one is the
# expectation of a random draw, and an expectation can be estimated from a sample. This is all that attention sampling
# starts from. This chapter executes eqs. 1–4 of {cite}`katharopoulos2019`, first by hand on three locations, then on the 32,400
# locations of a real image.
#
# ## What you will learn
#
# - why an attention layer is the mean of a random variable, and what sampling it means;
# - that the average of N draws is right on average, and how far off a single one is: like $1/\sqrt N$, whatever the number of
#   locations;
# - what is right on average (the pooled feature) and what is not (anything nonlinear made of it).
#
# **Time and hardware:** half a minute on two CPU cores; nothing is downloaded.

# %% tags=["parameters"]
profile = "smoke"  # smoke, laptop or paper

# %% tags=["hide-input"]

import matplotlib.pyplot as plt
import torch
from safetensors.torch import load_file

from atslib import ESTIMATORS, extract_patches, plots
from atslib.data import MegapixelMNIST
from atslib.enumeration import every_draw
from atslib.experiments import megapixel_mnist

plots.use_style()
repeats = {"smoke": 2000, "laptop": 20_000, "paper": 100_000}[profile]  # draws per point of the curves

# %% [markdown]
# ## Three locations
#
# (cell-eq1)=
# Let there be $K = 3$ locations, each with a feature $f_i$ of two numbers and an attention $a_i$. A network with attention at this
# layer computes
#
# $$\Psi(x; \Theta) = g\Bigl(\sum_{i=1}^K a(x; \Theta)_i\, f(x; \Theta)_i\Bigr) \tag{paper 1}$$
#
# where $g$ is the rest of the network. Here $g$ is linear, a score for each of two classes.

# %%
a = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
f = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]], dtype=torch.float64)  # (K, D)


def g(z):
    return z @ torch.tensor([[1.0, -1.0], [0.5, 0.5]], dtype=torch.float64)


pooled = a @ f  # a weighted sum is a matrix product
by_hand = [0.5 * 1 + 0.3 * 0 + 0.2 * 2, 0.5 * 0 + 0.3 * 1 + 0.2 * 2]
# NBVAL_CHECK_OUTPUT
print("pooled feature:", pooled.tolist(), " by hand:", by_hand)
print("output:", g(pooled).tolist())

# %% [markdown]
# The formulas count locations from 1, as the paper does; the code, and outputs that print an index, from 0.
#
# (cell-eq2)=
# (cell-eq3)=
# Since $a_i \ge 0$ and $\sum_i a_i = 1$, attention is a probability distribution over locations. Draw a location $I$ from it; then
# $f_I$ is a random vector, and its expectation is, by the definition of an expectation, the sum above:
#
# $$\Psi(x; \Theta) = g\Bigl(\sum_{i=1}^K a(x; \Theta)_i\, f(x; \Theta)_i\Bigr) \tag{paper 2}$$
#
# $$\phantom{\Psi(x; \Theta)} = g\bigl(\mathbb E_{I \sim a(x; \Theta)}[f(x; \Theta)_I]\bigr) \tag{paper 3}$$
#
# Eq. 2 repeats eq. 1. For eq. 3 the two sides are computed in different ways: the sum, and the mean over a table of all outcomes of one draw, each
# with its probability. For a single draw the probabilities are the attention, so this checks the bookkeeping that the rest of the book relies on: later tables have two draws and more.

# %%
log_attention = a.log()
outcomes, probability = every_draw(ESTIMATORS["with_replacement"], log_attention, n=1)
expectation = (probability[:, None] * f[outcomes[:, 0]]).sum(0)
for (i,), p in zip(outcomes.tolist(), probability.tolist()):
    # NBVAL_CHECK_OUTPUT
    print(f"I = {i} with probability {p:.1f}: f_I = {f[i].tolist()}")
print(f"|eq. 2 - eq. 3| = {(g(pooled) - g(expectation)).abs().max().item():.12f}")

# %% [markdown]
# The two sides agree to rounding. Nothing has been gained yet: the expectation is over all locations too. The gain comes from
# not computing it.
#
# ## A sample instead of the sum
#
# (cell-eq4)=
# Draw $N$ indices independently from the attention, $Q = (q_1, …, q_N)$, a list in which a location that was drawn twice stands twice; compute the features *there only*, and average:
#
# $$\Psi(x; \Theta) \approx g\Bigl(\frac1N \sum_{q \in Q} f(x; \Theta)_q\Bigr) \tag{paper 4}$$
#
# Write $\mu = \sum_i a_i f_i$ for the pooled feature and $z = \frac1N \sum_m f_{q_m}$ for its estimate. The variance of a vector is here the expected squared distance from its mean.
#
# The "≈" can be made precise. With three locations and $N = 4$ there are $3^4 = 81$ possible samples, few enough to list all of
# them. The mean over all, each with its probability, must be the pooled feature.

# %%
N = 4
samples, probability = every_draw(ESTIMATORS["with_replacement"], log_attention, n=N)
estimates = f[samples].mean(1)  # (81, D), the right side of eq. 4 for each sample, before g
mean = (probability[:, None] * estimates).sum(0)
variance = (probability[:, None] * (estimates - mean).square()).sum()
one_draw = (a[:, None] * (f - pooled).square()).sum()
# NBVAL_CHECK_OUTPUT
print(f"samples: {len(samples)}, their probabilities sum to {probability.sum().item():.12f}")
print(f"bias of the average: {(mean - pooled).abs().max().item():.12f}")
print(f"its variance times N: {N * variance.item():.6f}, of one draw: {one_draw.item():.6f}")

# %% [markdown]
# The average of the sample is **unbiased**: no error remains when it is averaged over all samples. A single sample is off by a
# random amount, whose variance is that of one draw divided by $N$. So the typical error falls like $1/\sqrt N$: four times as many
# patches halve it.
#
# ### The picture of all 81 samples

# %% mystnb={"image": {"alt": "Scatter of the possible estimates in the plane of the two feature components. Points of area proportional to probability lie on a triangular lattice between the three features; the cross that marks the pooled feature is in the middle of the heaviest points."}}
points, inverse = torch.unique(estimates, dim=0, return_inverse=True)
mass = torch.zeros(len(points), dtype=torch.float64).index_add(0, inverse, probability)
figure, ax = plt.subplots(figsize=(7, 3.4))
ax.scatter(
    *points.T,
    s=2000 * mass,
    color=plots.SKY,
    edgecolor=plots.BLUE,
    label="estimates, area = probability",
)
ax.scatter(
    *f.T, marker="s", color=plots.BLACK, s=25, label="features of the locations", zorder=3
)
ax.scatter(
    *pooled, marker="x", color=plots.RED, s=90, linewidth=2.5, label="pooled feature", zorder=3
)
ax.set(xlabel="first component", ylabel="second component", xlim=(-0.2, 2.2))
figure.legend(loc="outside right upper", labelspacing=1.0)
plt.show()

# %% [markdown]
# Every estimate lies in the triangle of the three features, the heavy ones around the cross. None need lie *on* it: each single answer is off,
# only their mean is right.
#
# ## 32,400 locations
#
# Now the real thing: the trained model of [the quickstart](00_quickstart.ipynb) and one of its images, with an attention map of
# 180 × 180. We compute all $K = 32{,}400$ features once, the work that attention sampling avoids, to know the truth. (Most patches of
# this image are empty, and all empty patches have the same feature: it is computed once.)

# %%
run = "megapixel_mnist-ats-systematic-n10-seed0-laptop"
model = megapixel_mnist.build_model()
model.load_state_dict(load_file(f"../results/weights/{run}.safetensors"))
model.eval()
image = MegapixelMNIST("test")[0][0][None]

with torch.no_grad():
    low = model.view(image)
    logits = model.attention(low)
    log_attention = logits.flatten(1).log_softmax(1)  # (1, K)
    geometry = model.geometry(image, low, logits)
    everywhere = torch.arange(log_attention.shape[1])[None]
    # (K, 1, 50, 50), uint8
    patches = extract_patches(image, geometry.top_left(everywhere), 50)[0]
    filled = (patches > 0).flatten(1).any(1)
    features = model.features(torch.zeros(1, 1, 50, 50)).repeat(len(patches), 1)  # (K, D)
    for part in filled.nonzero()[:, 0].split(500):
        features[part] = model.features(patches[part].float() / 255)
    trained = log_attention[0].exp()
    pooled = trained @ features  # eq. 1, all K terms

# NBVAL_CHECK_OUTPUT
print(f"K = {len(features):,} locations, {filled.sum().item():,} of them not empty")
unit = torch.allclose(features.norm(dim=1), torch.ones(len(features)), atol=1e-5)
print(f"features of unit length: {unit}")

# %% [markdown]
# Two distributions over the same locations: the attention that the model has learned for this image, and the uniform one, close to which
# an untrained attention network begins, unless it is told to prefer what is bright ([chapter 7](07_entropy_and_exploration.ipynb)). For each, the error $\lVert z - \mu \rVert$ of the sample mean, as a root mean square over many samples, against $N$.

# %%
def rms_error(attention, n, seed):
    """Root mean square of |z - mu| over `repeats` samples of n draws."""
    truth = attention @ features
    generator = torch.Generator().manual_seed(seed)
    index = ESTIMATORS["with_replacement"].sample(
        attention.log()[None], repeats * n, generator=generator
    )
    estimates = features[index[0]].view(repeats, n, -1).mean(1)
    squared = (estimates - truth).square().sum(1)
    rms = squared.mean().sqrt()
    # and its standard error
    return rms.item(), (squared.std() / repeats**0.5 / (2 * rms)).item()


uniform = torch.full_like(trained, 1 / len(trained))
counts = [1, 2, 5, 10, 25, 50, 100]
curves = {}
for name, attention in (("learned attention", trained), ("uniform attention", uniform)):
    truth = attention @ features
    # of one draw, exactly
    sigma = (attention @ (features - truth).square().sum(1)).sqrt().item()
    curves[name] = sigma, [rms_error(attention, n, seed=n) for n in counts]

# %% mystnb={"image": {"alt": "Log-log plot of the error against the number of patches from 1 to 100. Two sets of points, learned and uniform attention, each on a straight line of slope minus one half."}}
figure, ax = plt.subplots(figsize=(6, 3.6))
for (name, (sigma, measured)), look in zip(
    curves.items(), [(plots.BLUE, "o"), (plots.ORANGE, "s")]
):
    colour, marker = look
    ax.plot(counts, [sigma / n**0.5 for n in counts], color=colour, linewidth=1)
    rms, error = zip(*measured)
    ax.errorbar(counts, rms, [2 * e for e in error], fmt=marker, color=colour, label=name)
ax.set(
    xscale="log",
    yscale="log",
    xlabel="patches N",
    ylabel=r"error $\Vert z - \mu\Vert$, root mean square",
)
levels = [0.02, 0.05, 0.1, 0.2, 0.5]
ax.set(xticks=counts, xticklabels=counts, yticks=levels, yticklabels=levels, ylim=(0.012, 0.8))
ax.minorticks_off()
ax.legend()
plt.show()

# %%
for name, (sigma, measured) in curves.items():
    x = torch.tensor(counts, dtype=torch.float64).log()
    y = torch.tensor([m for m, _ in measured], dtype=torch.float64).log()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    worst = max(abs(m - sigma / n**0.5) / e for n, (m, e) in zip(counts, measured))
    print(
        f"{name}: slope {slope:.2f}, largest deviation from the line {worst:.1f} standard errors"
    )

# %% [markdown]
# The points are measured, the lines are $\sigma/\sqrt N$ with the standard deviation $\sigma$ of one draw computed exactly from all
# features; nothing is fitted. Both have the slope $-\tfrac12$. **$K$ does not appear**: ten draws from 32,400 locations are as good as ten
# from thirty, if single draws vary as much. What appears is $\sigma$, how different the features are *where attention looks*. For uniform
# attention it is small here for a sad reason: most patches are empty and have the same feature, so the estimate is precise, but
# of a mean that is mostly background. Next, how much of either distribution falls on what is not empty.

# %%
for name, attention in (("learned", trained), ("uniform", uniform)):
    print(
        f"{name} attention: {attention[filled].sum().item():.1%} of the mass on patches that are not empty"
    )

# %% [markdown]
# ## What "unbiased" covers, and what not
#
# The pooled feature is right on average, and so is everything linear in it. The paper's abstract says more, "an unbiased estimator of
# the full model"; but the model ends in a softmax and a loss, which are not linear. With the three locations and the 81 samples again:

# %%
def loss(z):  # cross-entropy for class 0, after a classifier that is sure of itself
    return -torch.log_softmax(4 * g(z), dim=-1)[..., 0]


samples, probability = every_draw(ESTIMATORS["with_replacement"], a.log(), n=4)
estimates = f[samples].mean(1)
exact = a @ f
for name, function in (("linear score", lambda z: g(z)[..., 0]), ("loss", loss)):
    average = (probability * function(estimates)).sum().item()
    # NBVAL_CHECK_OUTPUT
    full = function(exact).item()
    print(f"{name:12} of the full model {full:7.4f}, averaged over samples {average:7.4f}")

# %% [markdown]
# The linear score agrees, the loss does not: a convex function of a noisy input is larger on average (Jensen's inequality). The gap
# shrinks like $1/N$; [chapter 5](05_lower_variance.ipynb) measures it. So eqs. 1–4 hold, with "≈" in eq. 4 meaning: unbiased as far as
# a linear $g$; biased behind softmax and loss, by less and less as $N$ grows.
#
# ## Summary
#
# - An attention-weighted sum is the expectation of the feature at a location drawn from the attention (eqs. 1–3).
# - The mean over $N$ independent draws estimates it without bias, with an error of $\sigma/\sqrt N$ that does not depend on the number of
#   locations (eq. 4).
# - The pooled feature is unbiased; the loss made of it is not.
# - Which distribution to draw from is not a law of nature: [the next chapter](02_variance_optimality.ipynb) asks for the best.
#
# ## Exercises
#
# :::{exercise}
# :label: ex-01-by-hand
# For the three locations, list the nine samples of $N = 2$ with their probabilities and check by hand that the mean of the
# first component of the estimate is that of the pooled feature.
# :::
#
# :::{solution} ex-01-by-hand
# :class: dropdown
# Each sample $(i, j)$ has probability $a_i a_j$ and gives $(f_i + f_j)/2$:
#
# | sample | probability | estimate |
# |---|---:|---:|
# | (1, 1) | 0.25 | 1 |
# | (1, 2) and (2, 1) | 0.15 each | 0.5 |
# | (1, 3) and (3, 1) | 0.10 each | 1.5 |
# | (2, 2) | 0.09 | 0 |
# | (2, 3) and (3, 2) | 0.06 each | 1 |
# | (3, 3) | 0.04 | 2 |
#
# The mean is $0.25 + 0.15 + 0.30 + 0 + 0.12 + 0.08 = 0.9$. Without the table: by symmetry it is
# $\sum_{ij} a_i a_j f_i = \sum_i a_i f_i$, since the $a_j$ sum to one: $0.5 \cdot 1 + 0.3 \cdot 0 + 0.2 \cdot 2 = 0.9$. With the library:
# `every_draw(ESTIMATORS["with_replacement"], a.log(), 2)`.
# :::
#
# :::{exercise}
# :label: ex-01-how-many
# With features of unit length, $\sigma^2 = 1 - \lVert\mu\rVert^2$. Why? How many patches does it take at most to estimate the pooled
# feature to within 0.1 (root mean square)?
# :::
#
# :::{solution} ex-01-how-many
# :class: dropdown
# $\sigma^2 = \mathbb E\lVert f_I - \mu\rVert^2 = \mathbb E\lVert f_I\rVert^2 - \lVert\mu\rVert^2$, and the first term is 1. So $\sigma \le 1$, and
# $\sigma/\sqrt N \le 0.1$ for $N \ge 100$, for any image and any $K$. For the learned attention above it takes fewer.
# :::
#
# :::{exercise}
# :label: ex-01-collapse
# If attention sits on a single location, one draw is exact. Where then is the catch in learning such an attention early?
# :::
#
# :::{solution} ex-01-collapse
# :class: dropdown
# The estimate is precise, of the wrong thing: locations never drawn send no signal, so the network cannot learn that they would be
# worth a look. This is what the entropy term of eq. 21 is for; see [chapter 7](07_entropy_and_exploration.ipynb).
# :::
