# %% [markdown]
# # Sampling without replacement
#
# Drawing the same patch twice tells nothing new. The paper therefore draws *different* locations {cite}`katharopoulos2019`.
# This chapter checks §3.2.3 and appendix C line by line. The mean is right, one line of the gradient is not, and the
# code that was released computes yet another gradient.

# %% [markdown]
# ## What you will learn
#
# - how to draw different locations one after the other (eq. 13), and why adding noise to the log-attention does it in one step;
# - why a plain average is then biased, and how eqs. 14–17 repair it;
# - why the estimator as printed in eq. 14 is nevertheless a poor one, and how averaging its prefixes (Des Raj) cures that;
# - which lines of appendix C (eqs. 28–44) hold, and where a factor is missing;
# - what goes wrong with plain autograd and with two published implementations;
# - why `1 - cumsum` is a trap in float32.
#
# **Time and hardware:** about half a minute on one CPU core; no GPU, no data.

# %% tags=["parameters"]
profile = "smoke"  # smoke, laptop or paper

# %%
import math
from itertools import permutations

import matplotlib.pyplot as plt
import sympy as sp
import torch
from IPython.display import Markdown

from atslib import ESTIMATORS
from atslib.enumeration import every_draw, exact_mean
from atslib.plots import (
    BLUE,
    ESTIMATOR_NAMES,
    ESTIMATOR_STYLES,
    GREY,
    RED,
    estimator_line,
    use_style,
)

use_style()
torch.set_default_dtype(torch.float64)  # everything small is computed to rounding
# draws, where there are too many to enumerate
REPEATS = {"smoke": 2_000, "laptop": 20_000, "paper": 100_000}[profile]


def compare(what, left, right):
    """Print how far apart the two sides of an equation are."""
    gap = (torch.as_tensor(left) - torch.as_tensor(right)).abs().max().item()
    print(
        f"{what:<44} "
        + ("equal (gap below 1e-12)" if gap < 1e-12 else f"NOT equal: gap {gap:.3f}")
    )


def problem(locations, seed=0, dim=3):
    """Attention logits, features and the direction in which the loss looks at the estimate."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    return draw(locations), draw(locations, dim), draw(dim)


# %% [markdown]
# (cell-eq13)=
# ## One location after the other
#
# The first location is drawn from the attention, each further one from the attention of *what is left*:
#
# $$
# \forall i \notin \{i_1, \dots, i_{n-1}\}, \qquad p_n(i \mid i_1, \dots, i_{n-1}) \propto a_i \tag{paper 13}
# $$
#
# Nobody needs to draw $n$ times and renormalise in between. Imagine that location $i$ rings after an exponential waiting time of rate
# $a_i$. The first to ring is $i$ with probability $a_i$; and since exponential waiting has no memory, the next to ring is drawn
# from what is left. Taking $-\log$ turns "rings first" into "has the largest key", and the key is the log-attention
# plus a standard Gumbel number:
#
# $$
# -\log \frac{E_i}{a_i} = \log a_i - \log E_i = \log a_i + G_i , \qquad E_i \sim \mathrm{Exp}(1).
# $$ (eq-gumbel)
#
# So the $n$ largest keys, in order, are a draw by eq. 13 {cite}`efraimidis2006,kool2019beams`. With three locations the
# integrals over the waiting times can be done by hand, or here by sympy. The left side below comes from the race alone.

# %%
rate_1, rate_2, rate_3 = rates = sp.symbols("a1:4", positive=True)
time_1, time_2, time_3 = times = sp.symbols("t1:4", positive=True)
# density of each waiting time
ring = [r * sp.exp(-r * t) for r, t in zip(rates, times, strict=True)]

third_after = sp.integrate(ring[2], (time_3, time_2, sp.oo))
second_after = sp.integrate(ring[1] * third_after, (time_2, time_1, sp.oo))
chance_1_then_2 = sp.integrate(ring[0] * second_after, (time_1, 0, sp.oo))
chance_1 = sp.integrate(ring[0] * sp.exp(-(rate_2 + rate_3) * time_1), (time_1, 0, sp.oo))

race = sp.simplify(chance_1_then_2 / chance_1)  # second is 2, given that the first was 1
eq13 = rate_2 / (rate_2 + rate_3)
print("by the race :", race)
print("by eq. 13   :", eq13)
print("difference  :", sp.simplify(race - eq13))  # NBVAL_CHECK_OUTPUT

# %% [markdown]
# The difference is zero whatever the attention: **eq. 13 is confirmed** as what the Gumbel draw does. The library obeys the same law in a cheaper way: it draws independently, one after the other, and skips repeats,
# so that each new location is one drawn from what is left. Only if too few new locations come does it draw keys. The next cell compares both ways with eq. 13. Take three locations with
# attention 0.5, 0.3 and 0.2 and draw two. Check a row by hand: first location 1, then location 2 out of what is left,
# $0.5 \cdot 0.3 / (0.3 + 0.2) = 0.3$. (The code counts from 0: in the output this is the draw (0, 1).)

# %%
three = torch.tensor([0.5, 0.3, 0.2])
trials = 200_000
gumbel = -torch.empty(trials, 3).exponential_(generator=torch.Generator().manual_seed(0)).log()
drawn = (three.log() + gumbel).topk(2).indices  # (trials, 2): all of eq. 13

by_library = ESTIMATORS["des_raj"].sample(
    three.log().expand(trials, 3), 2, generator=torch.Generator().manual_seed(1)
)

index, probability = every_draw(ESTIMATORS["des_raj"], three.log(), 2)
print("share of 200,000 draws")
print("draw     by eq. 13   Gumbel   library")
for pair, chance in zip(index.tolist(), probability.tolist(), strict=True):
    shares = [
        (draws == torch.tensor(pair)).all(1).double().mean().item()
        for draws in (drawn, by_library)
    ]
    for share in shares:
        # within five standard errors
        assert abs(share - chance) < 5 * math.sqrt(chance * (1 - chance) / trials)
    print(f"{tuple(pair)}      {chance:.4f}     {shares[0]:.2f}      {shares[1]:.2f}")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-claim-average-biased)=
# ## A plain average is biased now
#
# The paper says so in passing (§3.2.3). To see it, give the three locations the features 1, 2 and 4. Their attention-weighted mean is
# $\mu = 0.5 \cdot 1 + 0.3 \cdot 2 + 0.2 \cdot 4 = 1.9$. Average the two features of every possible draw, weighted with the draw's probability:

# %%
numbers = torch.tensor([1.0, 2.0, 4.0])
mu = (three * numbers).sum()
average = (probability * numbers[index].mean(1)).sum()
print(f"mu {mu:.3f}, mean of the plain average {average:.3f}: biased by {average - mu:+.3f}")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# Rare locations get drawn too often: once the likely ones are gone, there is nothing else left to draw.

# %% [markdown]
# (cell-eq14)=
# (cell-eq15)=
# (cell-eq16)=
# (cell-eq17)=
# ## Equations 14 to 17: count what was seen, guess what was not
#
# The repair: what has been drawn before step $n$ is known, so it enters with its own attention. Only the rest is
# estimated, by the newest feature times all of the mass that was left when it was drawn.
#
# \begin{align*}
# \mathbb{E}_{I_1 \dots I_n}\Big[ & \sum_{k=1}^{n-1} a_{I_k} f_{I_k} \,+ \tag{paper 14} \\
# & f_{I_n} \sum_{t \notin \{I_1 \dots I_{n-1}\}} a_t \Big] \tag{paper 15} \\
# =\; \mathbb{E}_{I_1 \dots I_n}\Big[ & \sum_{i=1}^{K} a_i f_i \Big] \tag{paper 16} \\
# =\; \mathbb{E}_{I \sim a}\big[ & f_I \big] \tag{paper 17}
# \end{align*}
#
# Write $t_n$ for the random variable inside the brackets of eqs. 14 and 15, and $w_n = 1 - \sum_{k<n} a_{i_k}$ for the mass left *before* draw $n$. Below, all draws of
# $n$ out of five locations are visited one by one; nothing comes from the library.

# %%
logits, features, direction = problem(5)
attention = logits.softmax(0)
eq17 = (attention[:, None] * features).sum(0)


def successive(attention, n):
    """Every ordered draw with its probability, by the rule of eq. 13."""
    for draw in permutations(range(len(attention)), n):
        chance, left = 1.0, 1.0
        for i in draw:
            chance, left = chance * attention[i] / left, left - attention[i]
        yield list(draw), chance


for n in range(1, 6):
    total = sum(p for _, p in successive(attention, n))
    eq14_first_part, eq15_second_part = torch.zeros(3), torch.zeros(3)
    for draw, p in successive(attention, n):
        seen, newest = draw[:-1], draw[-1]
        left = attention.sum() - attention[seen].sum()
        eq14_first_part += p * (attention[seen, None] * features[seen]).sum(0)
        eq15_second_part += p * left * features[newest]
    eq16 = total * (attention[:, None] * features).sum(0)
    compare(
        f"n = {n}: eq. 14 + eq. 15 against eq. 16", eq14_first_part + eq15_second_part, eq16
    )
    compare("       eq. 16 against eq. 17", eq16, eq17)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# **Eqs. 14–17 are confirmed**: four lines, one number, for every $n$. What is more, $t_n$ is right on average *whatever was drawn before*. In the example with three locations:

# %%
for first in range(3):
    mean, terms = 0.0, []
    for second in {0, 1, 2} - {first}:
        t2 = three[first] * numbers[first] + (1 - three[first]) * numbers[second]
        terms.append(f"t_2 = {t2:.2f} after ({first}, {second})")
        mean += three[second] / (1 - three[first]) * t2
    print(f"{',  '.join(terms)}:  mean given the first {mean:.3f}")
print(f"mu = {mu:.3f}")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# Each line has the mean $\mu$ by itself. This stronger fact, $\mathbb{E}[t_n \mid i_1 \dots i_{n-1}] = \mu$, carries the rest of the chapter. It is no accident of the example: given $i_1 \dots i_{n-1}$, the first part of $t_n$ is fixed, and
# the next location is $i$ with probability $a_i / w_n$ if it is still left, so that
#
# $$
# \mathbb{E}[t_n \mid i_1 \dots i_{n-1}]
#   = \sum_{k<n} a_{i_k} f_{i_k} + \sum_{i\ \text{left}} \frac{a_i}{w_n}\, w_n f_i
#   = \sum_i a_i f_i = \mu
# $$
#
# for every $n$, $K$, attention and features. The mean over what was drawn before proves eqs. 14–17.

# %% [markdown]
# ## Des Raj: use every prefix
#
# A draw of $N$ locations contains $N$ such estimators: $t_1$ from its first location, $t_2$ from its first two, and so on. Eq. 14 uses the
# last one only. Des Raj {cite}`raj1956` takes their mean:
#
# $$
# z = \frac1N \sum_{n=1}^{N} t_n
#   = \sum_{m=1}^{N} W_m f_{i_m}, \qquad W_m = \frac{w_m + (N - m)\, a_{i_m}}{N} .
# $$ (eq-des-raj)
#
# The paper does not say so, but its released code computes this value. Averaging helps most if the terms do not move together. They do
# not: given the past, $t_n$ has the mean $\mu$, so knowing $t_1 \dots t_{n-1}$ tells nothing about the mean of $t_n$. The
# covariances, by enumeration:

# %%
des_raj, eq14 = ESTIMATORS["des_raj"], ESTIMATORS["eq14"]
logits, features, direction = problem(6)
log_attention, response = logits.log_softmax(0), features @ direction  # one number per location
index, probability = every_draw(des_raj, log_attention, 4)
everywhere = log_attention.expand(len(index), -1)

# (draws, 4): t_1 … t_4
prefix = des_raj.prefix_estimates(everywhere, index, response[index][..., None])[..., 0]
deviation = prefix - (log_attention.exp() * response).sum()
covariance = deviation.T @ (probability[:, None] * deviation)
print("covariance of t_1 … t_4 over", len(index), "draws")
for row in (covariance.round(decimals=3) + 0.0).tolist():
    print("  ".join(f"{value:6.3f}" for value in row))
compare(
    "mean of the prefixes against the library",
    prefix.mean(1),
    des_raj(everywhere, index, response[index][..., None])[:, 0],
)
error_bar = des_raj.stderr(everywhere, index, response[index][..., None])[:, 0]
compare(
    "mean squared error bar against the variance",
    (probability * error_bar**2).sum(),
    covariance.trace() / 16,
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# Off the diagonal stand zeros. Two things follow. The variance of the mean is the mean of the diagonal divided by $N$. And the spread of
# the $t_n$ within *one* draw gives an error bar for free, whose square is right on average (last line).
#
# The diagonal falls from left to right. That is no accident. Given the draws before, $t_n$ is a constant plus $w_n f_I$, with $I$ from the locations $L$ that are left, drawn in proportion to $a$. A variance is half the mean squared
# distance of two independent copies, so that of $w_n f_I$ is $w_n^2 \cdot \tfrac12 \sum_{i, j \in L} \tfrac{a_i a_j}{w_n^2} \lVert f_i - f_j \rVert^2$: $w_n$ cancels. The mean is $\mu$ whatever was drawn before, so nothing is added by averaging over that,
# and the variance of $t_n$ is a sum over pairs of locations of which *neither has been drawn yet*:
#
# $$
# V_n = \mathbb{V}[t_n] = \sum_{i < j} a_i a_j \,\lVert f_i - f_j \rVert^2 \; P(i \text{ and } j \text{ are left before draw } n) .
# $$ (eq-pairs)

# %%
squared_gap = (response[:, None] - response[None]) ** 2
# both orders of a pair: half each
pairs = log_attention.exp()[:, None] * log_attention.exp()[None] * squared_gap / 2
by_pairs = []
for n in range(4):
    # (draws, 6): 1 where not drawn among the first n
    left = torch.ones(len(index), 6).scatter(1, index[:, :n], 0.0)
    both_left = left.T @ (probability[:, None] * left)
    by_pairs.append((pairs * both_left).sum())
compare("variance by pairs against the diagonal", torch.stack(by_pairs), covariance.diagonal())
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# The probability that both are left can only fall with $n$, so $V_1 \ge V_2 \ge \dots$, where $V_1$ is the variance of a single sample. The three estimators differ in how they use
# these numbers:
#
# | estimator | mean squared error |
# |---|---|
# | with replacement, eq. 4 | $V_1 / N$ |
# | without, eq. 14 as printed | $V_N$ |
# | without, Des Raj | $(V_1 + \dots + V_N) / N^2$ |
#
# Des Raj is never worse than drawing with replacement. Eq. 14 has no $1/N$ in it at all.

# %% [markdown]
# (cell-eq14-variance)=
# ## The variance surprise of equation 14
#
# How much does $V_n$ fall? Only as drawing empties the attention. Take $K = 1024$ locations and unit-norm features, as in the paper.
# Given what was drawn before, the variance of $t_n$ is $w_n^2 - \lVert\sum_{\text{left}} a_i f_i\rVert^2$ exactly; only the mean over the past is
# taken over random draws. As a check that shares nothing with this formula, the crosses are plain squared errors of the library's
# estimators.

# %% mystnb={"image": {"alt": "Three panels, attention from near-uniform to peaked. Mean squared error over the variance of one sample against the number of draws N from 1 to 50, both logarithmic. Eq. 4 falls as 1/N in all panels. Eq. 14 stays near 1 under near-uniform attention, falls but stays above eq. 4 under uneven attention, and drops far below both others under peaked attention. Des Raj lies on eq. 4 in the first panel and below it in the others."}}
K, N, checked = 1024, 50, (2, 10, 50)
generator = torch.Generator().manual_seed(0)
unit = torch.nn.functional.normalize(torch.randn(K, 16, generator=generator), dim=1)
noise = torch.randn(K, generator=generator)
surprise, noise_of_lines = {}, 0.0  # MSE over the variance of one sample, at N = 1 … 50

figure, axes = plt.subplots(1, 3, figsize=(7.2, 3.7), sharey=True)
for ax, (peak, title) in zip(
    axes, {0.1: "near-uniform", 3.0: "uneven", 6.0: "peaked"}.items(), strict=True
):
    log_a = (peak * noise).log_softmax(0)
    a, target = log_a.exp(), log_a.exp() @ unit
    draws = eq14.sample(log_a.expand(REPEATS, K), N, generator=generator)  # (R, N)
    # drawn before n: (R, N, 16)
    taken = (a[draws][..., None] * unit[draws]).cumsum(1) - a[draws][..., None] * unit[draws]
    mass = 1 - (a[draws].cumsum(1) - a[draws])
    # (R, N): variance of t_n given the past
    given_past = mass**2 - (target - taken).square().sum(-1)
    V = given_past.mean(0)
    noise_of_lines = max(
        noise_of_lines, (given_past.std(0) / V).max().item() / math.sqrt(REPEATS)
    )
    count = torch.arange(1, N + 1)
    curves = {"with_replacement": V[0] / count, "eq14": V, "des_raj": V.cumsum(0) / count**2}
    surprise[title] = {name: curve / V[0] for name, curve in curves.items()}
    for name, curve in surprise[title].items():
        style = estimator_line(name) | dict(marker="")
        ax.plot(count, curve, **style)
        for n in checked:
            drawn = ESTIMATORS[name].sample(log_a.expand(REPEATS, K), n, generator=generator)
            error = (
                ESTIMATORS[name](log_a.expand(REPEATS, K), drawn, unit[drawn]) - target
            ).square().sum(1) / V[0]
            bar = 2 * error.std() / math.sqrt(REPEATS)
            ax.errorbar(
                n,
                error.mean(),
                bar,
                fmt="x",
                color=ESTIMATOR_STYLES[name]["color"],
                markersize=5,
                linewidth=1,
            )
            # The two ways to compute it agree: five standard errors of the crosses, and two per
            # cent for the lines' own noise.
            assert (
                error.mean() - surprise[title][name][n - 1]
            ).abs() < 2.5 * bar + 0.02 * error.mean()
    entropy = (-(a * log_a).sum()).exp()
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="N, locations drawn",
        ylim=(1e-5, 2),
        xticks=[1, 10, 50],
    )
    ax.set_xticklabels(["1", "10", "50"])
    ax.minorticks_off()
    ax.set_title(f"{title}\n(spread over ≈ {entropy:.0f})")
axes[0].set_ylabel("MSE / variance of one sample")
axes[0].legend(loc="lower left")
plt.show()
print(f"largest standard error of a line, relative to its height: {noise_of_lines:.1%}")

# %%
# by the formula over pairs: both of a pair survive nine draws
uniform = (1 - 9 / K) * (1 - 9 / (K - 1))
print(
    f"exactly uniform attention, K = {K}, N = 10: eq. 14 has {uniform:.3f} of one sample's variance"
)
for title, curves in surprise.items():
    print(
        f"{title:<13} N = 10: "
        + ", ".join(f"{ESTIMATOR_NAMES[k]} {c[9]:.2f}" for k, c in curves.items())
    )
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# Lines are the formula, crosses with bars (two standard errors, mostly smaller than the cross) the check; "spread over" is $e^{H(a)}$, the number of locations that a uniform
# attention of the same entropy would cover. Read the left panel first. An attention network without a prior ([chapter 7](07_entropy_and_exploration.ipynb)) starts there: **with near-uniform attention, ten
# draws by eq. 14 are hardly better than one**, because nearly all of the weight $w_{10}$ lies on the tenth feature. Nine forward passes
# are thrown away. Des Raj and eq. 4 coincide there. With peaked attention (right) eq. 14 starts no better than eq. 4, but wins after a handful of draws, because these exhaust the mass and its sum is nearly exact. Des Raj
# is never worse than eq. 4 and gains as attention concentrates; [the next chapter](05_lower_variance.ipynb) has estimators that gain more.
#
# The paper's claim that drawing without replacement makes "the best use of the available computational budget" thus depends on the estimator: it
# **does not hold** for eq. 14 as printed (in the [ledger](../ledger.md): *differs*). By the table above Des Raj makes better use of it than eq. 4; the best use it is not, as chapter 5 shows.

# %% [markdown]
# (cell-eq28)=
# (cell-eq29)=
# (cell-eq30)=
# (cell-eq31)=
# (cell-eq32)=
# (cell-eq33)=
# (cell-eq34)=
# ## Appendix C: the same for two draws
#
# The appendix treats $N = 2$ and indexes by location: with $w_i = \sum_{j \ne i} a_j$, which is our $w_2$ when location $i$ was drawn first, the second location comes from
#
# $$
# p_i(j) = \frac{a_j}{w_i} \tag{paper 28}
# $$
#
# and the estimator is followed through its expectation:
#
# \begin{align*}
# a_i f_i + w_i f_j \simeq\; & \tag{paper 29} \\
# & \mathbb{E}_{I \sim a}\big[ \mathbb{E}_{J \sim p_I}[ a_I f_I + w_I f_J ] \big] = \tag{paper 30} \\
# & \mathbb{E}_{I \sim a}\big[ a_I f_I + \mathbb{E}_{J \sim p_I}[ w_I f_J ] \big] = \tag{paper 31} \\
# & \mathbb{E}_{I \sim a}\Big[ a_I f_I + \sum_{j \ne I} a_j f_j \Big] = \tag{paper 32} \\
# & \mathbb{E}_{I \sim a}\Big[ \sum_{j=1}^K a_j f_j \Big] = \tag{paper 33} \\
# & \mathbb{E}_{I \sim a}[ f_I ] \tag{paper 34}
# \end{align*}
#
# The sign $\simeq$ means "is one sample of". Everything is done with symbols: three locations, attention
# $a_1(\theta), a_2(\theta)$ and $a_3 = 1 - a_1 - a_2$, features $f_i(\theta)$. An expression that vanishes here vanishes for every attention and every network over three locations.

# %%
theta = sp.Symbol("theta")
a = [sp.Function("a1")(theta), sp.Function("a2")(theta)]
a.append(1 - a[0] - a[1])
f = [sp.Function(f"f{i}")(theta) for i in (1, 2, 3)]
locations = range(3)
w = [sum(a[j] for j in locations if j != i) for i in locations]
p = {(i, j): a[j] / w[i] for i in locations for j in locations if j != i}  # eq. 28
others = {i: [j for j in locations if j != i] for i in locations}
d = lambda expression: sp.diff(expression, theta)


def is_zero(expression):
    """Whether it vanishes identically: functions and their derivatives become independent
    symbols first.
    """
    # derivatives before the functions they contain
    known = [x for g in (*a[:2], *f) for x in (d(g), g)]
    numerator, _ = sp.fraction(
        sp.together(expression.doit().subs({x: sp.Dummy() for x in known}))
    )
    return sp.expand(numerator) == 0


def mean(of_pair):
    """Expectation over both draws of something that depends on them: E_I[E_J[...]]."""
    return sum(a[i] * p[i, j] * of_pair(i, j) for i in locations for j in others[i])


def verdict(what, left, right):
    print(f"{what:<52} {'identical' if is_zero(left - right) else 'DIFFERENT'}")


t = lambda i, j: a[i] * f[i] + w[i] * f[j]  # eq. 29: one sample
eq30 = mean(t)
eq31 = sum(
    a[i] * (a[i] * f[i] + sum(p[i, j] * w[i] * f[j] for j in others[i])) for i in locations
)
eq32 = sum(a[i] * (a[i] * f[i] + sum(a[j] * f[j] for j in others[i])) for i in locations)
eq33 = sum(a[i] * sum(a[j] * f[j] for j in locations) for i in locations)
eq34 = sum(a[i] * f[i] for i in locations)

for i in locations:
    verdict(f"28: p_{i + 1} sums to one", sum(p[i, j] for j in others[i]), sp.Integer(1))
verdict(
    "28: p_1(2) against the race at the top of the page",
    p[0, 1],
    race.subs(dict(zip(rates, a, strict=True))),
)
verdict("mean of 29, which is 30, against 31", eq30, eq31)
verdict("31 against 32", eq31, eq32)
verdict("32 against 33", eq32, eq33)
verdict("33 against 34", eq33, eq34)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# **Eqs. 28–34 are confirmed.** Eq. 29 is $t_2$ of the sections above, and the steps are those of eqs. 14–17.

# %% [markdown]
# (cell-eq35)=
# (cell-eq36)=
# (cell-eq37)=
# (cell-eq38)=
# (cell-eq39)=
# (cell-eq40)=
# ## The gradient, up to the sample
#
# The draws depend on the attention, so the derivative of the mean has to count the change of their probabilities as well.
# "Multiply and divide by the probability" turns it into a mean again:
#
# \begin{align*}
# & \tfrac{\partial}{\partial\theta} \mathbb{E}_{I \sim a}[f_I] = \tag{paper 35} \\
# & \tfrac{\partial}{\partial\theta} \mathbb{E}_{I \sim a}\big[\mathbb{E}_{J \sim p_I}[a_I f_I + w_I f_J]\big] = \tag{paper 36} \\
# & \tfrac{\partial}{\partial\theta} \sum_{i} \sum_{j \ne i} a_i\, p_i(j)\, (a_i f_i + w_i f_j) = \tag{paper 37} \\
# & \sum_{i} \sum_{j \ne i} \tfrac{\partial}{\partial\theta}\, a_i\, p_i(j)\, (a_i f_i + w_i f_j) = \tag{paper 38} \\
# & \sum_{i} \sum_{j \ne i} \frac{a_i\, p_i(j)}{a_i\, p_i(j)} \tfrac{\partial}{\partial\theta}\, a_i\, p_i(j)\, (a_i f_i + w_i f_j) = \tag{paper 39} \\
# & \mathbb{E}_{I \sim a}\bigg[\mathbb{E}_{J \sim p_I}\bigg[ \frac{\tfrac{\partial}{\partial\theta}\, a_I\, p_I(J)\, (a_I f_I + w_I f_J)}{a_I\, p_I(J)} \bigg]\bigg] \tag{paper 40}
# \end{align*}
#
# In the numerators the derivative is of the whole product, not of its first factor.

# %%
product = lambda i, j: a[i] * p[i, j] * t(i, j)
every_pair = [(i, j) for i in locations for j in others[i]]
eq35 = d(eq34)
eq36 = d(eq30)
eq37 = d(sum(product(i, j) for i, j in every_pair))
eq38 = sum(d(product(i, j)) for i, j in every_pair)
eq39 = sum(a[i] * p[i, j] / (a[i] * p[i, j]) * d(product(i, j)) for i, j in every_pair)
eq40 = mean(lambda i, j: d(product(i, j)) / (a[i] * p[i, j]))
verdict("35 against 36", eq35, eq36)
verdict("36 against 37", eq36, eq37)
verdict("37 against 38", eq37, eq38)
verdict("38 against 39", eq38, eq39)
verdict("39 against 40", eq39, eq40)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# **Eqs. 35–40 are confirmed**, identically in $\theta$.

# %% [markdown]
# (cell-eq41)=
# (cell-eq42)=
# (cell-eq43)=
# (cell-eq44)=
# ## The gradient of one sample: equation 43 loses a factor
#
# What an optimiser uses is the bracket of eq. 40 for the two locations at hand, rewritten by the product rule:
#
# \begin{align*}
# & \frac{\tfrac{\partial}{\partial\theta}\, a_i\, p_i(j)\, (a_i f_i + w_i f_j)}{a_i\, p_i(j)} = \tag{paper 41} \\
# & \frac{p_i(j)\, (a_i f_i + w_i f_j)}{a_i\, p_i(j)} \tfrac{\partial}{\partial\theta} a_i
#   + \frac{a_i\, \tfrac{\partial}{\partial\theta}\, p_i(j)\, (a_i f_i + w_i f_j)}{a_i\, p_i(j)} = \tag{paper 42} \\
# & (a_i f_i + w_i f_j)\, \tfrac{\partial}{\partial\theta} a_i
#   + \frac{\tfrac{\partial}{\partial\theta}\, p_i(j)\, (a_i f_i + w_i f_j)}{p_i(j)} = \tag{paper 43} \\
# & (a_i f_i + w_i f_j)\, \tfrac{\partial}{\partial\theta} \log a_i
#   + \frac{\tfrac{\partial}{\partial\theta}\, p_i(j)\, (a_i f_i + w_i f_j)}{p_i(j)} \tag{paper 44}
# \end{align*}

# %%
second_term = lambda i, j: d(p[i, j] * t(i, j)) / p[i, j]
eq41 = lambda i, j: d(product(i, j)) / (a[i] * p[i, j])
eq42 = lambda i, j: (
    p[i, j] * t(i, j) / (a[i] * p[i, j]) * d(a[i])
    + a[i] * d(p[i, j] * t(i, j)) / (a[i] * p[i, j])
)
eq43 = lambda i, j: t(i, j) * d(a[i]) + second_term(i, j)
eq44 = lambda i, j: t(i, j) * d(sp.log(a[i])) + second_term(i, j)

print("mean of 41 equals 35:", is_zero(mean(eq41) - eq35))
for name, line in {"42": eq42, "43": eq43, "44": eq44}.items():
    same = sum(is_zero(line(i, j) - eq41(i, j)) for i, j in every_pair)
    print(
        f"{name}: equals 41 for {same} of the {len(every_pair)} pairs; its mean equals 35: {is_zero(mean(line) - eq35)}"
    )
verdict(
    "43 with the factor 1 / a_i put back, against 44",
    t(0, 1) * d(a[0]) / a[0] + second_term(0, 1),
    eq44(0, 1),
)
verdict(
    "mean of 43 - eq. 35, against mu d(sum a^2) / 2",
    mean(eq43) - eq35,
    eq34 * d(sum(x**2 for x in a)) / 2,
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# Eqs. 41, 42 and 44 are identical for every pair and have the right mean: **confirmed**. **Eq. 43 is an erratum**: cancelling $p_i(j)$ in
# the first term of eq. 42 leaves $1/a_i$, which eq. 43 drops and eq. 44 has again, inside the logarithm. So the result of the derivation is right; only
# a reader who implements the line before the last is led astray. The last line above says where to: somebody who follows eq. 43
# adds $\mu \cdot \tfrac{1}{2} \partial \sum_i a_i^2$ to the gradient on average, a pull that depends on the mean feature and on how
# concentrated the attention is.
#
# How large is it? Its length over that of the true gradient, for five locations and the gradient by the logits:


# %%
def true_gradient(logits, features, direction):
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(leaf.softmax(0) @ features @ direction, leaf)[0]


for seed in range(4):
    logits, features, direction = problem(5, seed)
    leaf = logits.clone().requires_grad_()
    mean_response = logits.softmax(0) @ features @ direction
    added = torch.autograd.grad(mean_response * leaf.softmax(0).square().sum() / 2, leaf)[0]
    print(
        f"problem {seed}: eq. 43 is off by {(added.norm() / true_gradient(logits, features, direction).norm()).item():.3f} on average"
    )
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# ## Half of equation 44 carries no signal
#
# Given the first location, $a_i f_i + w_i f_j$ has the mean $\mu$. The first term of eq. 44 therefore has the mean
# $\mu \sum_i a_i\, \partial \log a_i = \mu\, \partial \sum_i a_i = 0$. Inside the second term hides another
# part with mean zero: $a_i f_i\, \partial \log p_i(j)$, where $a_i f_i$ is known before $j$ is drawn. Without both, eq. 44 becomes
#
# $$
# a_i\,(\partial f_i + f_i\, \partial \log a_i) + w_i\,(\partial f_j + f_j\, \partial \log a_j) ,
# $$ (eq-clean)
#
# which is the library's one formula for all estimators, $\sum_m W_m (\partial f_{i_m} + f_{i_m} \partial \log a_{i_m})$, with the weights of eq. 14.
#
# Why it always works, though the weights depend on the attention and are held constant: where the weights make $\sum_m W_m h_{i_m}$ an unbiased estimate of $\sum_i a_i h_i$ for *every* choice of vectors $h_i$, take $h_i = \partial f_i + f_i\, \partial \log a_i$. Then
# $\sum_i a_i h_i = \partial \mu$: the gradient is an attention-weighted sum, too, and the same weights, as numbers, estimate it. So what holds of the value's variance for every choice of features holds of the gradient's: Des Raj's, too, is never worse than eq. 12.

# %%
first = lambda i, j: t(i, j) * d(sp.log(a[i]))
hidden = lambda i, j: a[i] * f[i] * d(sp.log(p[i, j]))
clean = lambda i, j: (
    a[i] * (d(f[i]) + f[i] * d(sp.log(a[i]))) + w[i] * (d(f[j]) + f[j] * d(sp.log(a[j])))
)
verdict("mean of the first term of 44, against 0", mean(first), sp.Integer(0))
verdict("mean of the hidden part, against 0", mean(hidden), sp.Integer(0))
same = sum(
    is_zero(eq44(i, j) - first(i, j) - hidden(i, j) - clean(i, j)) for i, j in every_pair
)
print(f"44 without both is the clean formula for {same} of the {len(every_pair)} pairs")
verdict("mean of the clean formula, against 35", mean(clean), eq35)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# Leaving out what has mean zero changes no mean. That it lowers the variance is not guaranteed (a part with mean zero may happen to cancel noise of the rest), and so it is measured. Below, the exact mean squared error of the gradient by the logits, relative to that of eq. 12 (drawing with
# replacement), with twelve locations and unit-norm features after a ReLU, as the paper's networks have. Eq. 44 is extended
# to $N$ draws as the appendix suggests: $t_N$ times the derivative of the log-probability of the whole draw, plus the derivative of $t_N$. Multiplied by $t_N$, every score but that of the last draw has mean zero (left out in the second row); of the last product, so has the part with $\sum_{k<N} a_{i_k} f_{i_k}$ (left out in the third).
# In the hidden cell each is a *surrogate*: a number whose gradient is the line; `.detach()` marks what the line does not differentiate.


# %% tags=["hide-input"]
def gradients(surrogate, logits, index):
    """One gradient by the logits for each draw: (draws, K). ``surrogate(log_a, log_w)`` is differentiated."""
    leaf = logits.expand(len(index), -1).clone().requires_grad_()
    log_a = leaf.log_softmax(1).gather(1, index)  # (draws, n)
    mass_left = 1 - (log_a.exp().cumsum(1) - log_a.exp())  # harmless in float64 with these few, even attentions
    return torch.autograd.grad(surrogate(log_a, mass_left.log()).sum(), leaf)[0]


def last_step(a, w, h):
    """t_n from the attention (draws, n), the mass left and the response at each drawn location."""
    return (a[:, :-1] * h[:, :-1]).sum(1) + w[:, -1] * h[:, -1]


def score_of_the_draw(log_a, log_w):
    return (log_a - log_w).sum(1)  # log p_1 + log p_2 + … + log p_n


def eq44_extended(h):
    def surrogate(log_a, log_w):
        t = last_step(log_a.exp(), log_w.exp(), h)
        return t.detach() * score_of_the_draw(log_a, log_w) + t

    return surrogate


def with_the_last_score(h):
    def surrogate(log_a, log_w):
        t = last_step(log_a.exp(), log_w.exp(), h)
        return t.detach() * (log_a - log_w)[:, -1] + t

    return surrogate


def one_formula(weights, h):
    return lambda log_a, log_w: (weights * log_a * h).sum(1)


def exact_errors(logits, response, n):
    """Of each line the exact mean squared error of the gradient by the logits, and its relative bias; eq. 12 first."""
    log_attention = logits.log_softmax(0)
    truth = true_gradient(logits, response[:, None], torch.ones(1))
    twelve, chance = every_draw(ESTIMATORS["with_replacement"], log_attention, n)
    index, probability = every_draw(eq14, log_attention, n)
    everywhere, h = log_attention.expand(len(index), -1), response[index]
    lines = {
        "eq. 12": (twelve, chance, one_formula(torch.tensor(1 / n), response[twelve])),
        "eq. 44": (index, probability, eq44_extended(h)),
        "… only the last score": (index, probability, with_the_last_score(h)),
        "… and without the known part": (index, probability, one_formula(eq14.weights(everywhere, index), h)),
        "Des Raj, the one formula": (index, probability, one_formula(des_raj.weights(everywhere, index), h)),
    }
    found = {}
    for name, (drawn, share, surrogate) in lines.items():
        each = gradients(surrogate, logits, drawn)
        found[name] = (share @ (each - truth).square().sum(1)).item(), ((share @ each - truth).norm() / truth.norm()).item()
    return found


# %%
print("gradient MSE relative to eq. 12, mean over four problems; largest relative bias")
for n in (2, 3):
    table = {}
    for seed in range(4):
        logits, features, direction = problem(12, seed, dim=8)
        response = torch.nn.functional.normalize(features.relu(), dim=1) @ direction
        (reference, _), *others = (found := exact_errors(logits, response, n)).values()
        for name, (error, bias) in zip(list(found)[1:], others, strict=True):
            table.setdefault(name, []).append((error / reference, bias))
    for name, rows in table.items():
        ratio, bias = sum(r for r, _ in rows) / len(rows), max(b for _, b in rows)
        print(
            f"N = {n}  {name:<30} {ratio:5.2f}   bias {'below 1e-12' if bias < 1e-12 else f'{bias:.3f}'}"
        )

print("\nthe other way round: a = (0.4, 0.3, 0.3), responses 0, 1 and -1, two draws; MSE")
for name, (error, _) in exact_errors(
    torch.tensor([0.4, 0.3, 0.3]).log(), torch.tensor([0.0, 1.0, -1.0]), 2
).items():
    print(f"{name:<30} {error:.4f}")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# All are unbiased. **The paper's claim of an unbiased gradient without replacement is confirmed** for eq. 44 and its extension. But in the four problems eq. 44 as printed is far noisier
# than drawing with replacement, and its extension still more so at $N = 3$. The parts with mean zero are to blame for some of that here, the last-step weights for the rest.
# Des Raj with the one formula is the only row below 1. The last block is a warning: there the parts with mean zero cancel noise, and eq. 44 as printed has the least error of all lines.

# %% [markdown]
# ## Plain autograd is no way out
#
# A tempting shortcut: compute $z = \sum_m W_m f_{i_m}$ with Des Raj's weights, which are functions of the attention, and let autograd
# differentiate them. That treats the draw as if it did not depend on the attention, so the change of the draw's probabilities is missing.


# %%
def plain_autograd(h):
    n = h.shape[1]
    later = torch.arange(n - 1, -1, -1)
    return lambda log_a, log_w: ((log_w.exp() + later * log_a.exp()) / n * h).sum(1)


print("plain autograd, five locations: relative bias of the gradient")
for n in (2, 3, 4):
    biases = []
    for seed in range(6):
        logits, features, direction = problem(5, seed)
        index, probability = every_draw(des_raj, logits.log_softmax(0), n)
        truth = true_gradient(logits, features, direction)
        expected = probability @ gradients(
            plain_autograd((features @ direction)[index]), logits, index
        )
        biases.append(((expected - truth).norm() / truth.norm()).item())
    print(
        f"N = {n}: between {min(biases):.2f} and {max(biases):.2f} over {len(biases)} problems"
    )

recovered = {}
for peak, spread in {0.1: "near-uniform", 1.0: "uneven"}.items():
    logits, features, direction = problem(200)
    logits = peak * logits
    truth, share = true_gradient(logits, features, direction), []
    for block in range(10):
        generator = torch.Generator().manual_seed(block)
        index = des_raj.sample(
            logits.log_softmax(0).expand(REPEATS, -1), 10, generator=generator
        )
        by_draw = gradients(plain_autograd((features @ direction)[index]), logits, index)
        expected = by_draw.mean(0)
        # projection on the truth, over the truth's length
        share.append(expected @ truth / truth.square().sum())
    recovered[spread] = torch.stack(share)
    print(
        f"200 locations, {spread} attention, N = 10: {recovered[spread].mean():.2f} of the true gradient is recovered"
    )
# NBVAL_CHECK_OUTPUT

# %% tags=["hide-input"]
values = [f"{100 * r.mean():.1f} ± {100 * r.std() / math.sqrt(len(r)):.1f} % ({name})" for name, r in recovered.items()]
Markdown(
    f"With 200 locations, the mean gradient of plain autograd, projected on the true gradient, has this share of its length: {' and '.join(values)}. "
    "The rest lies in the change of the draw, and plain autograd does not see it."
)

# %% [markdown]
# ## Two published implementations
#
# The paper's [released code](https://github.com/idiap/attention-sampling) (`ats/core/expectation.py`) has a hand-written backward pass.
# Its value is Des Raj's, and so is its feature gradient. Its derivative by the attention of the $m$-th drawn location is
#
# $$
# \frac1N \Big( \underbrace{\frac{w_m}{a_{i_m}}\, t_m}_{\texttt{ga1}} + \underbrace{\sum_{k<m} f_{i_k} - (m-1)\, f_{i_m}}_{\texttt{ga2}} \Big) .
# $$ (eq-legacy)
#
# Compare it with what eq. 44 becomes for a prefix estimate $t_m$ and the score of its last draw only, $p_m = a_{i_m} / w_m$ ($w_m$ is the mass left before draw $m$), averaged over the prefixes: $\tfrac1N \sum_m (\partial t_m + t_m\, \partial \log p_m)$.
#
# - `ga1` takes $\partial p_m / \partial a_{i_m}$ to be 1. It is $1/w_m$, so the term should be $t_m / a_{i_m}$. And $w_m$ depends on the earlier attentions, too: each of them should receive
#   $t_m / w_m$, which is missing.
# - `ga2` is the derivative of $t_m$ by the *earlier* attentions, $\partial t_m / \partial a_{i_k} = f_{i_k} - f_{i_m}$, added up and credited to the *current* one.
#   Each summand belongs to $a_{i_k}$.
#
# The most used [PyTorch port](https://github.com/sara-nl/attention-sampling-pytorch) copies this and replaces the exclusive cumulative sums by inclusive
# ones: the mass left before a draw becomes the mass left after it. In the value the two slips cancel, in the feature gradient they do not.
# `atslib` keeps both as `legacy_idiap` and `legacy_port`, marked `biased`. Against the truth, by enumeration:

# %%
labels = {"des_raj": "Des Raj", "legacy_idiap": "released code", "legacy_port": "PyTorch port"}


def relative_biases(name, n, logits, features, direction):
    """Of the value, of the gradient by the features, of the gradient by the logits."""
    leaves = logits.clone().requires_grad_(), features.clone().requires_grad_()
    z = exact_mean(ESTIMATORS[name], leaves[0].log_softmax(0), leaves[1], n)
    exact = leaves[0].softmax(0) @ leaves[1]
    have = [z.detach(), *reversed(torch.autograd.grad(z @ direction, leaves))]
    want = [exact.detach(), *reversed(torch.autograd.grad(exact @ direction, leaves))]
    return torch.stack([(h - x).norm() / x.norm() for h, x in zip(have, want, strict=True)])


print("relative bias, five locations, range over six problems")
print(f"{'':<22}{'value':<14}{'feature gradient':<19}{'attention gradient'}")
for n in (2, 3):
    for name, label in labels.items():
        # (6, 3)
        bias = torch.stack([relative_biases(name, n, *problem(5, seed)) for seed in range(6)])
        low, high = bias.min(0).values.tolist(), bias.max(0).values.tolist()
        cells = [
            "< 1e-12" if h < 1e-12 else f"{l:.2f} – {h:.2f}"
            for l, h in zip(low, high, strict=True)
        ]
        print(f"N = {n}  {label:<15}{cells[0]:<14}{cells[1]:<19}{cells[2]}")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# Both values are right. A test that looks at values only will pass, and the released code's own test of the attention gradient accepts a wide
# tolerance with a comment that asks why the approximation is so bad.
#
# Wrong by how much is one question, in which *direction* another. The figure moves more and more of the mass to three of seven locations, draws $N = 3$, and shows the cosine between
# the mean of the published gradient and the truth. Training drives attention that way; how far differs from task to task, and it takes the right ends of the curves for the direction to turn.

# %% mystnb={"image": {"alt": "Two panels: cosine between the mean published gradient and the true gradient, from 1 to -1, against the mass on three of seven locations from 0.43 to 0.9999. Left, the released code: all lines start near 1 and fall through zero. Those for evenly shared mass all end at -1, those for unevenly shared mass between -1 and -0.1. Right, the PyTorch port: lines for evenly shared mass return to 1, the others end anywhere between -0.5 and 1."}}
masses = torch.cat([torch.linspace(3 / 7, 0.9, 12), 1 - torch.logspace(-1, -4, 16)[1:]])


def concentrated(mass, share):
    """Logits: ``mass`` on three locations in the proportions ``share``, the rest evenly on four
    more.
    """
    return torch.cat([mass * share, (1 - mass) / 4 * torch.ones(4)]).log()


def cosine(name, logits, features, direction, n=3):
    leaf = logits.clone().requires_grad_()
    z = exact_mean(ESTIMATORS[name], leaf.log_softmax(0), features, n) @ direction
    published = torch.autograd.grad(z, leaf)[0]
    return torch.cosine_similarity(
        published, true_gradient(logits, features, direction), dim=0
    ).item()


figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.8), sharey=True)
ends = {}
for ax, name in zip(axes, ("legacy_idiap", "legacy_port"), strict=True):
    for seed in range(6):
        _, features, direction = problem(7, seed)
        share = torch.randn(3, generator=torch.Generator().manual_seed(100 + seed)).softmax(0)
        curve = [cosine(name, concentrated(m, share), features, direction) for m in masses]
        ax.plot(
            1 - masses,
            curve,
            color=GREY,
            linewidth=1.2,
            label="shared unevenly (six problems)" if seed == 0 else None,
        )
        even = [
            cosine(name, concentrated(m, torch.ones(3) / 3), features, direction)
            for m in masses
        ]
        ax.plot(
            1 - masses,
            even,
            color=RED,
            linewidth=1.8,
            alpha=0.7,
            label="shared evenly (six problems)" if seed == 0 else None,
        )
        ends.setdefault(name, []).append((even[-1], curve[-1]))
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(
        xscale="log",
        xlabel="mass on the three locations",
        ylim=(-1.08, 1.08),
        title=f"the {labels[name]}",
    )
    ax.invert_xaxis()
    ax.set_xticks(
        [0.5, 0.1, 0.01, 0.001, 0.0001], ["0.5", "0.9", "0.99", "0.999", "0.9999"], fontsize=9
    )
    ax.minorticks_off()
axes[0].set_ylabel("cosine with the true gradient")
axes[1].legend(loc="lower right", bbox_to_anchor=(1, 0.02))
plt.show()

# %%
for name, pairs_of_ends in ends.items():
    even, uneven = (
        [round(x, 2) for x in values] for values in zip(*pairs_of_ends, strict=True)
    )
    print(
        f"{labels[name]:<14} at mass 0.9999: shared evenly {min(even):.2f} … {max(even):.2f}, unevenly {min(uneven):.2f} … {max(uneven):.2f}"
    )
print()
for locations_left in (2, 3, 4):  # attention on these few only, evenly, and all of them drawn
    _, features, direction = problem(locations_left)
    leaf = torch.zeros(locations_left, requires_grad=True)
    z = (
        exact_mean(ESTIMATORS["legacy_idiap"], leaf.log_softmax(0), features, locations_left)
        @ direction
    )
    published = torch.autograd.grad(z, leaf)[0]
    truth = true_gradient(leaf.detach(), features, direction)
    factor = (published @ truth / truth.square().sum()).item()
    gap = (published - factor * truth).abs().max().item()
    print(
        f"{locations_left} of {locations_left} even locations drawn: released gradient = "
        f"{round(factor, 4) + 0.0:.4f} x truth, remainder {'below 1e-12' if gap < 1e-12 else f'{gap:.3f}'}"
    )
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# Left of each panel, where attention is spread, both point roughly the right way. To the right the released code's gradient **turns round**. With the mass shared evenly it
# ends at a cosine of $-1$; shared unevenly it ends below zero in all of these problems, though not always at $-1$. In the limit there are just three locations and all of them are drawn; the last
# block shows that the mean is then *exactly* a negative multiple of the truth for three or four even locations, and zero for two. Small, but of the wrong sign: where the truth says
# "concentrate further on this one", it says the opposite. The port does not turn round when the mass is shared evenly; when it is not, its lines end far apart, some above zero and some below.
#
# What does that do, followed by itself? Three locations, all drawn, responses 1, 0.2 and −0.6; ascend the response along the mean gradient, from several starts. Then the same with 1 added to all responses, which changes nothing about where it is best to look:

# %%
for added in (0.0, 1.0):
    response = torch.tensor([[1.0], [0.2], [-0.6]]) + added
    print(f"responses {', '.join(f'{x:g}' for x in response[:, 0].tolist())}")
    for start in ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (3.0, 0.0, 0.0), (0.0, 3.0, 0.0)):
        ends = {}
        for name in ("des_raj", "legacy_idiap"):
            logits = torch.tensor(start, requires_grad=True)
            for _ in range(2000):
                z = exact_mean(ESTIMATORS[name], logits.log_softmax(0), response, 3).sum()
                logits = (logits + torch.autograd.grad(z, logits)[0]).detach().requires_grad_()
            ends[name] = logits.softmax(0).tolist()
        print(
            f"  start {start} ends at: "
            + "; ".join(
                f"{labels[name]} {', '.join(f'{x:.2f}' for x in end)}"
                for name, end in ends.items()
            )
        )

print("\ntwo locations, both drawn: the released derivative by the first logit, the formula below")
for p, pair in ((0.3, (1.0, 0.2)), (0.75, (0.2, -0.6)), (0.6, (2.0, -1.0))):
    logits = torch.tensor([p / (1 - p), 1.0]).log().requires_grad_()
    released = exact_mean(
        ESTIMATORS["legacy_idiap"], logits.log_softmax(0), torch.tensor(pair)[:, None], 2
    )
    derivative = torch.autograd.grad(released.sum(), logits)[0][0].item()
    mean = p * pair[0] + (1 - p) * pair[1]
    formula = -p * (1 - p) * (p - 0.5) * mean
    print(f"  p = {p}, responses {pair}: {round(derivative, 6) + 0:9.6f} {round(formula, 6) + 0:9.6f}")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# The right gradient ends at the best location. The released one leads from three of the starts to the worst, also from the best; from the last it comes to rest near the point where the second location has three quarters of the attention, the third one quarter, and the mean response is zero. With 1 added to all responses
# it comes from every start to nearly even attention. So it is wrong in more than its sign: where it leads depends on a constant that the responses share, which the right gradient does not see. The last lines show why. Of two locations with attention $p$ and $1 - p$, both drawn, its mean derivative by the first logit is
# $-p\,(1-p)\,(p - \tfrac12)\, \mu$. That is the mean response $\mu$, not the difference of the two responses: it does not know which is better.
#
# Whether this harms a training depends on how often $N$ draws exhaust the attention, on the entropy term, and on the other
# gradients. [Chapter 8](08_megapixel_mnist.ipynb) compares trainings with either (`estimator="legacy_idiap"` and `"des_raj"`). The default, `"systematic"` ([chapter 5](05_lower_variance.ipynb)), is unbiased, too.

# %% [markdown]
# ## The numerical trap
#
# All formulas above contain the mass left, $w_n$. The obvious code is `1 - cumsum(attention)`, and the published implementations have it.
# Once attention is peaked the sum is nearly 1, and float32 knows numbers near 1 only to about $6 \cdot 10^{-8}$: the difference is rounding noise, or zero.
# The library subtracts only as long as the drawn locations hold at most half of the mass, where nothing cancels. From then on it adds up what remains: the locations never drawn, plus the draws from $n$ on, in log space.

# %%
def mass_left(gap, seed):
    """Mass left after three locations, these ``gap`` nats ahead of 32,397 others: as it is, and as
    two ways to compute it in float32 say.
    """
    logits = torch.randn(32_400, generator=torch.Generator().manual_seed(seed))
    logits[:3] += gap + math.log(32_400) / 2
    log_a = logits.log_softmax(0)
    exact = log_a[3:].logsumexp(0).exp().item()  # w_4, in float64, summed from what remains
    single = log_a.float()
    naive = (1 - single[:3].exp().cumsum(0))[2].item()
    # the last weight of eq. 14 is w_4
    weight = eq14.weights(single[None], torch.arange(4)[None])[0, 3].item()
    return exact, naive, weight


gaps, seeds = torch.linspace(4, 25, 43).tolist(), range(20)
exact, naive, weight = torch.tensor([mass_left(gap, seed) for gap in gaps for seed in seeds]).T
naive_error, library_error = (naive / exact - 1).abs(), (weight / exact - 1).abs()
print("                        1 - cumsum: relative error                 library: largest")
print("mass left w_4   cases   median   largest   exactly 0   negative   relative error")
for high in range(0, -9, -1):
    inside = (exact <= 10.0**high) & (exact > 10.0 ** (high - 1))
    some = naive_error[inside]
    print(
        f"up to 1e{high:+03}  {len(some):6}    {some.median():.0e}    {some.max():.0e} "
        f"{(naive[inside] == 0).sum():8} {(naive[inside] < 0).sum():10}        "
        f"{library_error[inside].max():.0e}"
    )
half_a_step = 2.0**-25
below = exact < half_a_step
zero, one_step = (naive[below] == 0).sum().item(), (naive[below] == 2.0**-24).sum().item()
print(f"less than 2^-25 = {half_a_step:.0e} left: {below.sum()} cases,")
print(f"    1 - cumsum is 0 in {zero}, and 2^-24 in {one_step} of them")

# %% mystnb={"image": {"alt": "Relative error of the mass left in float32 against the true mass left, from 1 down to 1e-9, both logarithmic, one point for each of many random maps. The points of 1 - cumsum rise steadily. From about 3e-8 on most lie on the line of 100 percent, where the result is exactly zero, and some above it, the higher the less is left. The library's points stay below 1e-5 throughout."}}
figure, ax = plt.subplots(figsize=(6.4, 3.4))
looks = dict(linestyle="", markersize=2.5)
ax.plot(exact, naive_error, color=RED, marker="v", label="1 − cumsum, float32", **looks)
ax.plot(exact, library_error, color=BLUE, marker="s", label="atslib, float32", **looks)
ax.axhline(1, color=GREY, linewidth=1)
ax.text(0.5, 0.6, "100 %: exactly zero", color=GREY, va="top")
ax.set(
    xscale="log",
    yscale="log",
    xlabel="true mass left before the fourth draw",
    ylabel="relative error",
    ylim=(1e-9, 1e4),
)
ax.invert_xaxis()
ax.legend(loc="upper left")
plt.show()
assert library_error.max() < 1e-5
assert zero > below.sum() / 2 and one_step > 0

# %% [markdown]
# The error of `1 - cumsum` grows as the mass left shrinks, for its result is a multiple of $2^{-24} \approx 6 \cdot 10^{-8}$, the step of float32 just below one. Where less than half a step is left, the result is
# mostly zero, an error of 100 %, and the published code would divide by it, if its scripts did not mix a little of the uniform distribution into the attention ([errata](errata.ipynb)). In the other cases here it is one whole step, which is too much by a factor that grows without bound. The error of the library stays at the rounding of float32.
#
# The appendix makes a related remark: with more than two draws, the logarithm in eq. 44 avoids the numerical errors of the cumulative product in eq. 41. Fifty draws from
# 32,400 locations, the sizes of Megapixel MNIST:

# %%
log_a = torch.zeros(1, 32_400).log_softmax(1)
index = des_raj.sample(log_a, 50, generator=torch.Generator().manual_seed(0))
# log p_1 … log p_50
steps = log_a.gather(1, index) - torch.arange(32_400, 32_350, -1).log() + math.log(32_400)
print("product of the 50 probabilities in float32:", steps.float().exp().prod().item())
print(f"sum of their logarithms in float32        : {steps.float().sum().item():.1f}")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# The product underflows to zero, and eq. 41 would divide zero by zero; the sum of logarithms is harmless. The remark is right. The one formula of this book needs
# neither.

# %% [markdown]
# ## Summary
#
# Verdicts as in [the ledger](../ledger.md):
#
# | what | verdict | because |
# |---|---|---|
# | [eq. 13](#cell-eq13) | confirmed | it is what the $n$ largest Gumbel keys draw |
# | [eqs. 14–17](#cell-eq14) | confirmed | equal for every $n$, by enumeration |
# | eq. 14 used as an estimator | differs | unbiased, but with spread-out attention hardly better than one sample |
# | [eqs. 28–34](#cell-eq28) | confirmed | identical in symbols, $K = 3$ |
# | [eqs. 35–40](#cell-eq35) | confirmed | identical in symbols, $K = 3$ |
# | [eqs. 41, 42, 44](#cell-eq41) | confirmed | identical in symbols, for each pair of three locations |
# | [eq. 43](#cell-eq43) | erratum | a factor $1/a_i$ is missing; biased by $\mu \cdot \tfrac12 \partial \sum a_i^2$ |
# | "unbiased gradient without replacement" | confirmed | for eq. 44; not for the released code |
# | "best use of the budget" | differs | Des Raj is never worse than eq. 4; eq. 14 often is |
#
# - Draw with the $n$ largest keys $\log a_i + G_i$, or independently, leaving out repeats: it is the same law.
# - Use the mean of the prefix estimators, not the last one: never worse than eq. 4, and an error bar for free.
# - For the gradient, keep the weights constant and multiply by $1 + \log a - \mathrm{sg}(\log a)$; no custom backward pass, no bias.
# - Do not use plain autograd through the weights, nor the published backward passes without knowing what they do.
#
# [The errata page](errata.ipynb) has the smallest example for each mistake.

# %% [markdown]
# ## Exercises
#
# :::{exercise}
# :label: ex-04-everything
# Let $N = K$: every location is drawn. What are the values of eq. 14 and of Des Raj? Which of the two is exact, and why is the other one not?
# :::
#
# :::{solution} ex-04-everything
# :class: dropdown
# Before the last draw only one location is left, so $w_K = a_{i_K}$ and eq. 14 gives $\sum_i a_i f_i$ exactly. Des Raj averages this exact value with the earlier,
# inexact prefixes: the mean of $t_1 \dots t_K$ still depends on the order of drawing. By {eq}`eq-pairs`, $V_K = 0$ but $V_1 > 0$. Murthy's estimator,
# [in the next chapter](05_lower_variance.ipynb), averages over the order as well and is exact again.
# :::
#
# :::{exercise}
# :label: ex-04-uniform
# Let the attention be uniform over $K$ locations. Use {eq}`eq-pairs` to find the mean squared error of eq. 14 and of Des Raj after $N$ draws, in units of
# $V_1$. For which $N$ is eq. 14 better than eq. 4 if $K = 1024$?
# :::
#
# :::{solution} ex-04-uniform
# :class: dropdown
# Both of a pair survive $n - 1$ draws with probability $\frac{(K-n+1)(K-n)}{K(K-1)}$, the same for all pairs. So
# $V_n / V_1 = \big(1 - \tfrac{n-1}{K}\big)\big(1 - \tfrac{n-1}{K-1}\big)$, and Des Raj has the mean of these over $n \le N$, divided by $N$. Eq. 14 is better than eq. 4
# once $N V_N < V_1$, roughly $(1 - N/K)^2 < 1/N$:
#
# ```python
# K = 1024
# next(n for n in range(2, K + 1) if n * (1 - (n - 1) / K) * (1 - (n - 1) / (K - 1)) < 1)
# ```
#
# Run it: nearly all of the locations have to be drawn.
# :::
#
# :::{exercise}
# :label: ex-04-released
# Two locations with attention ½ each, both drawn. Write down {eq}`eq-legacy` for the order (1, 2), then for (2, 1), take the mean, and find the derivative by the first logit. Why is it
# zero, whatever the features?
# :::
#
# :::{solution} ex-04-released
# :class: dropdown
# For the order (1, 2): $w_1 = 1$, $t_1 = f_1$, $w_2 = \tfrac12$, $t_2 = \tfrac12(f_1 + f_2) = \mu$. The derivative by $a_1$ is
# $\tfrac12 \cdot 2 f_1 = f_1$, the one by $a_2$ is $\tfrac12(\mu + f_1 - f_2)$. The other order is the same with 1 and 2 exchanged. The mean derivative by $a_1$ is
# $\tfrac12\big(f_1 + \tfrac12(\mu + f_2 - f_1)\big)$ $= \tfrac14(f_1 + f_2) + \tfrac14 \mu = \tfrac34 \mu$, and by symmetry the one by $a_2$ is the same. A logit moves attention from one to the other,
# so its derivative is proportional to the difference of the two: zero. The truth is $\tfrac14 (f_1 - f_2)$.
# :::
