# %% [markdown]
# # The gradient through the draw
#
# The estimate of [chapter 1](01_attention_as_expectation.ipynb) averages features at drawn locations. The attention decides which
# locations are drawn, but it does not appear in the average. This chapter is about how it is trained nevertheless: equations 10 to 12 of the
# paper {cite}`katharopoulos2019` and their derivation, equations 22 to 27. All draws here are independent, that is, *with replacement*;
# [chapter 4](04_without_replacement.ipynb) treats the other case.
#
# ## What you will learn
#
# - why plain automatic differentiation gives the attention no gradient at all, however many draws there are;
# - the derivation of the right gradient line by line, each line computed, and in which sense its "=" and "≈" hold;
# - how one line of PyTorch gives this gradient without a custom backward pass;
# - that for the attention it is the score-function (REINFORCE) estimator, with a better use of the reward;
# - what a baseline is, when it helps and when it hurts.
#
# **Time and hardware:** 20 minutes to read, a few seconds to run on one CPU core; nothing to download.

# %% tags=["parameters"]
profile = "smoke"  # smoke, laptop or paper

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.autograd.functional import jacobian
from torch.nn.functional import softplus

from atslib import ESTIMATORS
from atslib.enumeration import every_draw, exact_mean
from atslib.plots import BLACK, BLUE, GREEN, GREY, ORANGE, RED, use_style

use_style()
torch.set_default_dtype(torch.float64)
repeats = {"smoke": 50, "laptop": 200, "paper": 200}[profile]
estimator = ESTIMATORS["with_replacement"]


def apart(x, y):
    """How far apart two results are: the largest absolute difference, to twelve decimals."""
    return f"{(x - y).abs().max().item():.12f}"


def row(values, digits=3):
    return " ".join(f"{v:{digits + 3}.{digits}f}" for v in values.flatten().tolist())


# %% [markdown]
# ## The gradient we want
#
# Write $\ell$ for the logits, $a = \mathrm{softmax}(\ell)$ for the attention and $\mu = \sum_i a_i f_i$ for the pooled feature. If all $K$ features were computed,
# the gradient would be ordinary calculus. Since $\partial a_j / \partial \ell_i = a_j (\delta_{ij} - a_i)$,
#
# $$
# \frac{\partial \mu}{\partial \ell_i} = a_i \, (f_i - \mu), \qquad \frac{\partial \mu}{\partial f_i} = a_i .
# $$ (eq-wanted)
#
# (Below, $\partial$ without a denominator is the derivative by any parameter $\theta$.) The logit of a location goes up where its feature is better than the average. Three locations and two coordinates, to check by hand; only the first coordinate
# enters the output, so the response $r_i$ of location $i$ is the first number of $f_i$.

# %%
# NBVAL_CHECK_OUTPUT
logits = torch.tensor([0.5, 0.3, 0.2]).log().requires_grad_()
features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], requires_grad=True)  # (K, D)
a = logits.detach().softmax(0)
mu = logits.softmax(0) @ features
wanted_logits, wanted_features = torch.autograd.grad(mu[0], [logits, features])
print(f"mu                      {row(mu)}")
print(f"a_i (r_i - mu), by hand {row(a * (features[:, 0] - mu[0]))}")
print(f"by autograd             {row(wanted_logits)}")

# %% [markdown]
# ## Plain autograd gets nothing
#
# (cell-eq10)=
# ### Equation 10
#
# The paper sets out to compute
#
# $$
# \frac{\partial \frac{1}{N} \sum_{q \in Q} f(x;\Theta)_q}{\partial \theta} \tag{paper 10}
# $$
#
# "for all $\theta \in \Theta$ including the ones that affect $a(\cdot)$". This is an expression, not an equation, and it has two readings. *With the draw held
# fixed*, as a program sees it, $Q$ is a list of integers, the attention does not occur, and its derivative is zero. *As the
# derivative of the expectation*, the probabilities of the draws depend on the attention, and the derivative is $\partial\mu$. The cell
# computes both for the example, over all nine draws of two locations.

# %%
# NBVAL_CHECK_OUTPUT
index, probability = every_draw(estimator, logits, 2)  # (M, N), (M,)

means = features[index].mean(1)[:, 0]  # (M,): what eq. 10 differentiates, for each draw
fixed = torch.autograd.grad((probability * means).sum(), [logits, features], allow_unused=True)
print(f"draw held fixed, by the logits:     {fixed[0]}")
print(
    f"draw held fixed, by the features:   {row(fixed[1][:, 0])}   wanted: {row(wanted_features[:, 0])}"
)

chance = logits.softmax(0)[index].prod(1)  # (M,): the same probabilities, with their gradient
expected = torch.autograd.grad((chance * means).sum(), logits)[0]
print(f"of the expectation, by the logits:  {row(expected)}   wanted: {row(wanted_logits)}")
print(
    f"                                    largest difference {apart(expected, wanted_logits)}"
)

# %% [markdown]
# The features get the right gradient on average. For the logits PyTorch returns `None`: there is no path from them to the result.
# Only the second reading makes eq. 10 what the paper needs, and we keep to it below.
#
# A picture of the same fact. Ten uniform numbers are held fixed, and the logit of location 1 is moved. The draw, and with it
# the estimate, changes in steps.

# %% mystnb={"image": {"alt": "The pooled feature against the logit of location 1: a smooth rising curve. The estimate from ten fixed uniform numbers follows it in steps. Each step is flat."}}
moved = torch.linspace(-5, 4, 400)
smooth, steps = [], []
for value in moved:
    shifted = torch.stack([value, *logits.detach()[1:]]).log_softmax(0)[None]
    drawn = estimator.sample(shifted, 10, generator=torch.Generator().manual_seed(3))
    smooth.append((shifted[0].exp() @ features.detach())[0])
    steps.append(features.detach()[drawn[0], 0].mean())
figure, ax = plt.subplots(figsize=(7, 3.3))
ax.plot(moved, smooth, color=BLACK, label=r"$\mu$")
ax.plot(
    moved,
    steps,
    color=ORANGE,
    drawstyle="steps-mid",
    label="mean of ten draws, same uniform numbers",
)
ax.set(
    xlabel="logit of location 1",
    ylabel="first coordinate",
    title="The estimate follows the attention in steps",
)
ax.legend(loc="lower right")
plt.show()

# %% [markdown]
# The black curve has the slope we want. The orange one has slope zero between the steps, and this is what automatic differentiation returns.
# More draws make the steps smaller, and the slope between them stays zero.

# %% [markdown]
# ## The derivation, line by line
#
# (cell-eq22)=
# (cell-eq23)=
# (cell-eq24)=
# (cell-eq25)=
# (cell-eq26)=
# (cell-eq27)=
# ### Equations 22 to 27
#
# $$ \frac{\partial \frac{1}{N} \sum_{q \in Q} f_q}{\partial \theta} \tag{paper 22} $$
# $$ \frac{\partial}{\partial \theta} \frac{1}{N} \sum_{q \in Q} f_q \tag{paper 23} $$
# $$ \approx \frac{\partial}{\partial \theta} \sum_{i=1}^K a_i f_i \tag{paper 24} $$
# $$ = \sum_{i=1}^K \frac{\partial}{\partial \theta} \left[ a_i f_i \right] \tag{paper 25} $$
# $$ = \sum_{i=1}^K \frac{a_i}{a_i} \frac{\partial}{\partial \theta} \left[ a_i f_i \right] \tag{paper 26} $$
# $$ = \mathbb{E}_{I \sim a} \left[ \frac{\frac{\partial}{\partial \theta} \left[ a_I f_I \right]}{a_I} \right] \tag{paper 27} $$
#
# Lines 22 and 23 are the same thing in two notations. Line 24 puts the expectation in place of the mean of the draws; line 25 exchanges sum and derivative;
# line 26 multiplies by one, which needs $a_i > 0$ (a softmax sees to it); line 27 reads $\sum_i a_i (\cdot)_i$ as an expectation.
#
# The cell computes each line for a small model, in which the same four parameters $\theta$ enter attention and features.
# Every line is a matrix of derivatives, one row for each of the $D = 3$ coordinates and one column for each parameter. Expectations are sums over all draws.

# %%
# NBVAL_CHECK_OUTPUT
generator = torch.Generator().manual_seed(1)
K, D, P, N = 4, 3, 4, 2
A, B = torch.randn(K, P, generator=generator), torch.randn(K, D, P, generator=generator)
theta = torch.randn(P, generator=generator)


def attend(theta):
    return (A @ theta).softmax(0)  # (K,)


def describe(theta):
    return (B @ theta).tanh()  # (K, D)


attention = attend(theta)
index, probability = every_draw(estimator, attention.log(), N)  # all K^N draws

# 22, 23, the draw held fixed, then averaged; and as the derivative of the expectation
line23_fixed = jacobian(lambda t: probability @ describe(t)[index].mean(1), theta)
line23 = jacobian(lambda t: attend(t)[index].prod(1) @ describe(t)[index].mean(1), theta)
line24 = jacobian(lambda t: attend(t) @ describe(t), theta)  # (D, P)
each = jacobian(lambda t: attend(t)[:, None] * describe(t), theta)  # d(a_i f_i), (K, D, P)
line25 = each.sum(0)
line26 = ((attention / attention)[:, None, None] * each).sum(0)
one, chance = every_draw(estimator, attention.log(), 1)  # the K draws of one location
one = one[:, 0]
line27 = (chance[:, None, None] * each[one] / attention[one, None, None]).sum(0)

print(f"largest entry of line 24:       {line24.abs().max():.6f}")
print("largest difference from line 24:")
print(f"  22, 23, of the expectation    {apart(line23, line24)}")
print(f"  22, 23, draw held fixed       {apart(line23_fixed, line24)}")
for name, line in (("25", line25), ("26", line26), ("27", line27)):
    print(f"  {name}                            {apart(line, line24)}")
missing = jacobian(lambda t: attend(t) @ describe(theta), theta)  # sum of f_i da_i
print(
    f"draw held fixed + sum of f_i da_i, from line 24: {apart(line23_fixed + missing, line24)}"
)

# %% [markdown]
# Confirmed, with the left-hand side read as the derivative of the expectation: then the "≈" between lines 23 and 24 is an equality, and so are the other steps.
# With the draw held fixed, "≈" is wrong by a term that no number of draws removes: $\sum_i f_i\, \partial a_i$. Two quantities that
# are close need not have derivatives that are close; the steps in the picture above are an example.

# %% [markdown]
# ## The estimator
#
# (cell-eq11)=
# (cell-eq12)=
# ### Equations 11 and 12
#
# Equation 11 states the result of the derivation, and eq. 12 replaces its expectation by the mean over the same draws:
#
# $$
# \frac{\partial}{\partial \theta} \frac{1}{N} \sum_{q \in Q} f_q \approx \mathbb{E}_{I \sim a} \left[ \frac{\frac{\partial}{\partial \theta} \left[ a_I f_I \right]}{a_I} \right] \tag{paper 11}
# $$
# $$
# \frac{\partial}{\partial \theta} \frac{1}{N} \sum_{q \in Q} f_q = \frac{1}{N} \sum_{q \in Q} \frac{\frac{\partial}{\partial \theta} \left[ a_q f_q \right]}{a_q} \tag{paper 12}
# $$
#
# The "=" of eq. 12 cannot be meant draw by draw. Its right-hand side is random. Its left-hand side is either the derivative of the
# expectation, which is one fixed matrix, or the derivative with the draw held fixed, which lacks the attention. Equation 12 is the *definition* of an
# estimator; the statement to check is that its mean over all samples is $\partial\mu$. The cell does so for $N = 1, 2, 3$, and also measures how far
# one sample of $N$ draws is from the truth (root mean square).

# %%
# NBVAL_CHECK_OUTPUT
print(f"eq. 11: both sides differ by {apart(line23, line27)}")
for n in (1, 2, 3):
    index, probability = every_draw(estimator, attention.log(), n)
    right = (each / attention[:, None, None])[index].mean(1)  # eq. 12 for each draw, (M, D, P)
    mean = (probability[:, None, None] * right).sum(0)
    error = (probability * (right - line24).square().sum((1, 2))).sum().sqrt() / line24.norm()
    print(
        f"eq. 12, N = {n}, {len(index):2} samples: mean - truth {apart(mean, line24)}, one sample off by {error:.0%}"
    )

# %% [markdown]
# Equation 11 is confirmed as an equality, in the reading of the derivative of the expectation. Equation 12 is confirmed in expectation: the
# right-hand side is an unbiased estimator for every $N$. Sample by sample it is not an equality, and the error of a single one is large.
#
# (cell-claim-gradient-with)=
# The library's `with_replacement` is this estimator. The same check through its own code, for the attention's logits and the features:

# %%
# NBVAL_CHECK_OUTPUT
for n in (1, 2, 3):
    mean = exact_mean(estimator, logits.log_softmax(0), features, n)[0]
    by_logits, by_features = torch.autograd.grad(mean, [logits, features])
    print(
        f"N = {n}: logits {apart(by_logits, wanted_logits)}, features {apart(by_features, wanted_features)}"
    )

# %% [markdown]
# ### With many draws
#
# Enumeration works for a handful of draws. With more of them we sample. The standard error of eq. 12 with $N$ draws is $s / \sqrt N$, where $s$ is
# the root-mean-square error of a single draw, known exactly from the sum over the $K$ locations. The plot compares it with up to $10^5$ actual draws,
# and with what plain autograd returns.

# %% mystnb={"image": {"alt": "Relative error of the gradient against the number of draws, both logarithmic. Equation 12 falls along a straight line of slope minus one half. Plain autograd falls at first and then stays level at a large error."}}
sizes = [1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000]
drawn = estimator.sample(
    attention.log().expand(repeats, K), max(sizes), generator=torch.Generator().manual_seed(0)
)  # (repeats, 100,000)
by_features = jacobian(describe, theta)  # df_i, (K, D, P): all that plain autograd sees
errors = {"plain autograd": [], "eq. 12": []}
for n in sizes:
    # how often each was drawn
    often = torch.stack([(drawn[:, :n] == i).double().mean(1) for i in range(K)], dim=1)
    for name, values in (
        ("plain autograd", by_features),
        ("eq. 12", each / attention[:, None, None]),
    ):
        estimate = torch.einsum("rk,kdp->rdp", often, values)
        errors[name].append(
            ((estimate - line24).square().sum((1, 2)).mean().sqrt() / line24.norm()).item()
        )
single = (
    attention * (each / attention[:, None, None] - line24).square().sum((1, 2))
).sum().sqrt() / line24.norm()
predicted = [single.item() / n**0.5 for n in sizes]

figure, ax = plt.subplots()
ax.loglog(sizes, errors["plain autograd"], "s-", color=ORANGE, label="plain autograd")
ax.loglog(sizes, predicted, "--", color=GREY, label=r"$s/\sqrt{N}$, exact")
ax.loglog(sizes, errors["eq. 12"], "o", color=BLUE, label="eq. 12")
ax.set(
    xlabel="draws $N$",
    ylabel="error of the gradient / its norm",
    title="More draws help only where the attention is seen",
)
ax.legend()
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
print(f"error after {max(sizes):,} draws, relative to the gradient's norm:")
print(f"eq. 12          {errors['eq. 12'][-1]:.4f}; s / sqrt(N) = {predicted[-1]:.4f}")
print(f"plain autograd  {errors['plain autograd'][-1]:.2f}")

# %% [markdown]
# The blue points follow the exact line over five orders of magnitude in $N$. Plain autograd converges too, to a wrong gradient.

# %% [markdown]
# ## One line instead of a custom backward pass
#
# The product rule splits a term of eq. 12 into two:
#
# $$
# \frac{\partial [a_q f_q]}{a_q} = \partial f_q + f_q \, \frac{\partial a_q}{a_q} = \partial f_q + f_q \, \partial \log a_q .
# $$ (eq-two-parts)
#
# The first part is what plain autograd gives. The second needs a factor whose *value* is one and whose *derivative* is
# $\partial\log a_q$. With sg for the stop-gradient (`detach` in PyTorch), $1 + \log a_q - \mathrm{sg}(\log a_q)$ is such a
# factor, and
#
# $$
# z = \sum_m \mathrm{sg}(W_m)\,\bigl(1 + \log a_{i_m} - \mathrm{sg}(\log a_{i_m})\bigr)\, f_{i_m}, \qquad W_m = \tfrac1N ,
# $$ (eq-surrogate)
#
# has the mean of the features as its value and eq. 12 as its gradient, for attention and features alike. Autograd does
# the rest. The paper's released code registers an operation with a hand-written backward pass; none is needed, here or for the other estimators of this
# book, which differ in how they draw and in $W_m$ only. In [chapter 4](04_without_replacement.ipynb) the weights depend on the attention; there we show why they may still be held constant.


# %%
# NBVAL_CHECK_OUTPUT
def surrogate(log_attention, index, features):
    """The formula above: (K,), (N,), (N, D) -> (D,)."""
    log_a = log_attention[index]
    return ((1 + log_a - log_a.detach())[:, None] * features).mean(0)


index, _ = every_draw(estimator, attention.log(), N)
value, by_hand, ours, library = [], [], [], []
for draw in index:
    by_hand.append((each / attention[:, None, None])[draw].mean(0))  # eq. 12
    ours.append(
        jacobian(lambda t, i=draw: surrogate(attend(t).log(), i, describe(t)[i]), theta)
    )
    library.append(
        jacobian(
            lambda t, i=draw: estimator(
                attend(t).log()[None], i[None], describe(t)[i][None]
            ).squeeze(0),
            theta,
        )
    )
    value.append(
        surrogate(attention.log(), draw, describe(theta)[draw]) - describe(theta)[draw].mean(0)
    )
print(f"{len(index)} draws, largest difference, draw by draw:")
print(
    f"value of the surrogate and the mean of the features: {torch.stack(value).abs().max():.12f}"
)
print(
    f"gradient of the surrogate and eq. 12:                {apart(torch.stack(ours), torch.stack(by_hand))}"
)
print(
    f"gradient of the library and eq. 12:                  {apart(torch.stack(library), torch.stack(by_hand))}"
)

# %% [markdown]
# Here the equality does hold draw by draw.

# %% [markdown]
# ## The score-function view
#
# $\partial \log a_q$ is called the *score* of the draw, and a reward times the score is the score-function estimator, or REINFORCE {cite}`williams1992`.
# So for the attention's parameters eq. 12 *is* REINFORCE, with the feature as a reward that has $D$ components. The paper says that its
# method does "not need to resort to reinforcement learning". What it does not need is a scalar reward at the end of the network. To see what this
# saves, let $c$ be the gradient of the loss with respect to $z$, and $r_m = \langle c, f_{i_m} \rangle$ the response of draw $m$:
#
# $$
# \begin{aligned}
# \text{eq. 12:} \quad & \frac1N \sum_m r_m \, \partial \log a_{i_m} \\
# \text{REINFORCE on the output:} \quad & \Bigl(\frac1N \sum_m r_m\Bigr) \sum_k \partial \log a_{i_k}
# \end{aligned}
# $$ (eq-reinforce)
#
# The second multiplies each response with the scores of *all* draws. The added products are between independent draws and have mean zero. Mostly they add noise.
#
# (cell-reinforce)=
# The cell computes mean and variance of both over all draws, for $K = 5$. The last two columns give both the usual help, a baseline
# (more on it below): the mean response is subtracted from the responses.

# %%
# NBVAL_CHECK_OUTPUT
K = 5
generator = torch.Generator().manual_seed(4)
# normalised: these are log a, too
logits = torch.randn(K, generator=generator).log_softmax(0).requires_grad_()
a = logits.detach().softmax(0)
response = torch.randn(K, generator=generator) + 0.5  # r_i = <c, f_i>
truth = a * (response - a @ response)  # by the logits, as above


def draws(n):
    """All draws, their probabilities, responses (M, n) and scores (M, n, K) with respect to the
    logits.
    """
    index, probability = every_draw(estimator, logits, n)
    return probability, response[index], torch.eye(K)[index] - a


def mean_and_variance(probability, estimates):
    mean = probability @ estimates
    return mean, (probability @ (estimates - mean).square()).sum()


print("      bias                           variance          mean subtracted")
print(" N    eq. 12         output          eq. 12   output   eq. 12   output")
for n in (1, 2, 3, 4, 5):
    probability, r, score = draws(n)
    (m12, v12), (mout, vout), (_, v12_less), (_, vout_less) = (
        mean_and_variance(probability, estimates)
        for x in (r, r - a @ response)
        for estimates in ((x[..., None] * score).mean(1), x.mean(1)[:, None] * score.sum(1))
    )
    print(
        f"{n:2}    {apart(m12, truth)} {apart(mout, truth)}  {v12:.4f} {vout:8.4f} {v12_less:8.4f} {vout_less:8.4f}"
    )

# %% [markdown]
# Both are unbiased. With one draw they are the same. With more draws, the variance of eq. 12 falls as $1/N$. That of REINFORCE on the output grows, because more and more
# scores are multiplied with an output that does not shrink; with the mean subtracted it stays about level, where eq. 12 again falls as $1/N$.
#
# Is that so for every problem? With centred responses $x$ it is. An added product $x_m s_k$, $m \ne k$, is uncorrelated with every term of eq. 12, because $\mathbb E[x_m^2 s_m]\,\mathbb E[s_k] = 0$ and $\mathbb E[x_m]\,\mathbb E[\lVert s_k\rVert^2 x_k] = 0$: it can only
# add variance, from $N = 2$ on. Without centring the added products may also cancel some, and there are problems in which REINFORCE has the smaller variance ({ref}`ex-03-reinforce`).
#
# There is another side to it. The output above is linear in $z$. A loss is not, and then "unbiased" needs care. Backpropagation multiplies eq. 12
# with $\partial L / \partial z$, taken at the *same* noisy $z$. The result is unbiased neither for the gradient of $L(\mu)$, the loss of the
# full model, nor for the gradient of $\mathbb{E}[L(z)]$, the loss that is minimised. REINFORCE on the loss is unbiased for the latter. The cell measures the mean of
# both against both targets.

# %%
# NBVAL_CHECK_OUTPUT
def loss(value):
    return softplus(-value)  # the logistic loss of label +1


def slope(value):
    return -torch.sigmoid(-value)  # its derivative


full = slope(a @ response) * truth  # gradient of L(mu)
table = ["relative distance from      d L(mu)                    d E[L(z)]"]
table += [" N      backpropagation   REINFORCE   backpropagation   REINFORCE"]
for n in (1, 2, 4, 8):
    probability, r, score = draws(n)
    z = r.mean(1)
    index, _ = every_draw(estimator, logits, n)
    mean_loss = (logits.softmax(0)[index].prod(1) * loss(z)).sum()
    (expected,) = torch.autograd.grad(mean_loss, logits)
    backpropagation = probability @ (slope(z)[:, None] * (r[..., None] * score).mean(1))
    reinforce = probability @ (loss(z)[:, None] * score.sum(1))
    off = [
        (g - t).norm() / t.norm()
        for t in (full, expected)
        for g in (backpropagation, reinforce)
    ]
    table += [f"{n:2}  {off[0]:16.4f} {off[1]:12.4f} {off[2]:16.4f} {off[3]:12.4f}"]
print("\n".join(table))

# %% [markdown]
# The last column is zero. The distances of backpropagation from both targets shrink about as $1/N$: the first halves from line to line, the second falls a little more slowly. So eq. 12 is an unbiased gradient
# *of the pooled feature*; the gradient of the loss has a bias that fades with $N$, as the loss itself has
# ([chapter 1](01_attention_as_expectation.ipynb)).

# %% [markdown]
# ## Baselines
#
# (cell-baseline)=
# The mean score is zero: $\sum_i a_i\, \partial\log a_i = \partial \sum_i a_i = 0$. So any $b$ that does not depend on draw $m$ may be subtracted from the feature in
# the score part, and nothing changes on average:
#
# $$
# \frac1N \sum_m \Bigl( \partial f_{i_m} + (f_{i_m} - b_m)\, \partial \log a_{i_m} \Bigr) .
# $$ (eq-baseline)
#
# A *constant* baseline is one fixed vector, such as a running mean of the features. The *leave-one-out* baseline {cite}`kool2019buy4`
# takes for $b_m$ the mean of the other $N - 1$ features of the draw, which are independent of draw $m$. In the library both are an
# argument: `baseline=tensor` or `baseline="built_in"`. With leave-one-out, the score part becomes the sample covariance of feature and score,
#
# $$
# \frac{1}{N-1} \sum_m \bigl(f_{i_m} - \bar f\,\bigr) \bigl(\partial\log a_{i_m} - \overline{\partial\log a}\bigr) ,
# $$ (eq-covariance)
#
# and the gradient of the attention *is* a covariance: $\partial\mu = \mathrm{Cov}_a(f, \partial\log a)$ for fixed features. The cell checks both statements.


# %%
# NBVAL_CHECK_OUTPUT
def gradients(logits, response, n, baseline=None):
    """The library's gradient by the logits for every draw, (M, K), and the probabilities of the
    draws.
    """
    index, probability = every_draw(estimator, logits.log_softmax(0), n)
    # one copy for each draw
    leaf = logits.detach().expand(len(index), -1).clone().requires_grad_()
    z = estimator(leaf.log_softmax(1), index, response[index][..., None], baseline)  # (M, 1)
    return torch.autograd.grad(z.sum(), leaf)[0], probability


print(" N  baseline   bias            variance")
for n in (2, 3, 4):
    for name, baseline in (
        ("none", None),
        ("constant", torch.tensor([0.7])),
        ("built_in", "built_in"),
    ):
        estimates, probability = gradients(logits, response, n, baseline)
        mean, variance = mean_and_variance(probability, estimates)
        print(f"{n:2}  {name:9}  {apart(mean, truth)}  {variance:.4f}")
    _, r, score = draws(n)
    covariance = (
        (r - r.mean(1, keepdim=True))[..., None] * (score - score.mean(1, keepdim=True))
    ).sum(1) / (n - 1)
    print(
        f"    built_in and sample covariance, draw by draw: {apart(estimates, covariance)} apart"
    )

# %% [markdown]
# ### When they help and when they hurt
#
# Give all responses a shared mean: $r_i = \mu_r + e_i$, where the $e_i$ have mean zero and variance one under the attention. The wanted gradient does not depend on
# $\mu_r$, but without a baseline its estimate does. The plot shows the exact variance with a baseline, divided by the variance without one.

# %% mystnb={"image": {"alt": "Variance with a baseline over variance without, against the shared mean of the responses, logarithmic. Four hills with their tops near a shared mean of zero. There leave-one-out is above one, most for two draws, and the constant baseline is about one. To both sides all curves fall far below one."}}
centred = response - a @ response
centred = centred / (a @ centred.square()).sqrt()
shares = torch.linspace(-4, 4, 33)


def gradient_variance(response, n, baseline=None):
    estimates, probability = gradients(logits, response, n, baseline)
    return mean_and_variance(probability, estimates)[1]


figure, ax = plt.subplots()
curves = {}
for n, colour, marker in ((2, RED, "v"), (3, BLUE, "s"), (5, GREEN, "D")):
    plain = torch.stack([gradient_variance(centred + m, n) for m in shares])
    curves[n] = (
        torch.stack([gradient_variance(centred + m, n, "built_in") for m in shares]) / plain
    )
    ax.semilogy(
        shares,
        curves[n],
        color=colour,
        marker=marker,
        markevery=2,
        label=f"leave-one-out, $N = {n}$",
    )
known = torch.stack([gradient_variance(centred + m, 2, m.view(1)) for m in shares])
curves["constant"] = known / torch.stack([gradient_variance(centred + m, 2) for m in shares])
ax.semilogy(
    shares,
    curves["constant"],
    color=ORANGE,
    linestyle="--",
    label="constant, $b = \\mu_r$, any $N$",
)
ax.axhline(1, color=GREY, linewidth=1)
ax.set(
    xlabel="shared mean $\\mu_r$ of the responses / their spread",
    ylabel="variance with / without baseline",
    title="A baseline removes what the responses share",
)
ax.set_yticks([0.1, 0.2, 0.5, 1, 2], ["0.1", "0.2", "0.5", "1", "2"])
ax.minorticks_off()
ax.legend(loc="lower center")
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
print("shared mean            " + row(shares[::4], 2))
for name, curve in curves.items():
    print(
        f"{f'leave-one-out, N = {name}' if name != 'constant' else 'constant, b = μ_r':22} {row(curve[::4], 2)}"
    )

# %% [markdown]
# Where there is nothing to remove, in the middle, leave-one-out subtracts noise: the mean of few other responses is not zero. It hurts, most with two draws.
# Where the responses share a mean of either sign, several times their spread, it removes most of the variance. A constant baseline equal to the mean does better for every $N$,
# but somebody has to know the mean. Even this one hurts a little for small positive $\mu_r$: the mean is not the best constant ({ref}`ex-03-best-constant`).
#
# ### How much do features share?
#
# Features that come out of a ReLU and are scaled to unit norm have non-negative coordinates only, so they point roughly the same way. How much they
# share is $\rho^2 = \lVert\mu\rVert^2$, a number between 0 and 1 for unit norms. Below, the exact
# variance of the gradient with leave-one-out relative to eq. 12, for $K = 20$ locations and attention drawn from a Dirichlet distribution: with $\alpha = 1$ it is
# spread out, with $\alpha = 0.2$ a few locations hold most of it. The features are $\mathrm{ReLU}(g + s)$ with Gaussian $g$ and a shift $s$, scaled to unit
# norm: the larger the shift, the more they share. The gradient is that of all feature coordinates by all logits, and fifty random problems are
# averaged. The last two rows use features with $\mu$ subtracted.
#
# There are too many draws to list. But the sample covariance is an average over pairs of draws (a U-statistic), and its variance follows from sums over
# pairs of locations. The cell first compares this formula with the enumeration.


# %%
# NBVAL_CHECK_OUTPUT
def exact_variances(a, f, n):
    """Variance of eq. 12 and of eq. 12 with leave-one-out, by the logits, summed over features
    and logits.
    """
    score = torch.eye(len(a)) - a  # (K, K): of location i with respect to logit j
    truth = a[:, None] * (f - a @ f)  # (K, D)
    alone = a @ (f.square().sum(1) * score.square().sum(1)) - truth.square().sum()
    f_gap, s_gap = torch.cdist(f, f).square(), torch.cdist(score, score).square()  # (K, K)
    pair = a @ (f_gap * s_gap / 4) @ a - truth.square().sum()
    # the kernel, averaged over one of the pair
    half = ((f - a @ f)[:, :, None] * score[:, None, :] + truth.T) / 2
    first = a @ half.square().sum((1, 2)) - truth.square().sum()
    return torch.stack([alone / n, (4 * (n - 2) * first + 2 * pair) / (n * (n - 1))])


for n in (2, 3, 4):
    enumerated = torch.stack(
        [gradient_variance(response, n), gradient_variance(response, n, "built_in")]
    )
    print(
        f"N = {n}: formula and enumeration differ by {apart(exact_variances(a, response[:, None], n), enumerated)}"
    )

table = ["", "variance with / without leave-one-out"]
table += ["features                     alpha    rho^2    N = 2    N = 3    N = 5   N = 10"]
random = np.random.default_rng(0)
for shift, centre in ((0, False), (1, False), (2, False), (1, True)):
    for alpha in (1.0, 0.2):
        total, shared = torch.zeros(4, 2), 0.0
        for _ in range(50):
            attention = torch.from_numpy(random.dirichlet([alpha] * 20))
            f = torch.from_numpy(random.standard_normal((20, 16)) + shift).relu()
            f = f / f.norm(dim=1, keepdim=True)
            f = f - attention @ f if centre else f
            shared += (attention @ f).square().sum() / (attention @ f.square().sum(1)) / 50
            total += torch.stack([exact_variances(attention, f, n) for n in (2, 3, 5, 10)])
        name = f"shift {shift}{', mean subtracted' if centre else ''}"
        ratios = "  ".join(f"{v:7.2f}" for v in total[:, 1] / total[:, 0])
        table += [f"{name:27} {alpha:6} {shared:8.2f}  {ratios}"]
print("\n".join(table))

# %% [markdown]
# The shape of the attention matters little; what the features share matters much. With a large shared mean, leave-one-out removes most of the variance and
# costs nothing: it needs no other features than those of the draw. With two draws it adds variance even for the unshifted ReLU, and without a shared mean
# it adds variance for every $N$ shown. The untrained feature network of [chapter 2](02_variance_optimality.ipynb) has a larger $\rho$ than any of these rows.
#
# For a *loss*, what counts is the responses $\langle c, f_i\rangle$. If the classifier has learned weights for which
# they are positive and negative in equal parts, features with a large common mean may still have a mean response near zero.

# %% [markdown]
# ## Summary
#
# - Held fixed, a draw has no derivative with respect to the attention. More draws do not change that.
# - Equations 22 to 27 and eq. 11 hold as equalities when the left-hand side is read as the derivative of the expectation. Equation 12 defines an unbiased
#   estimator of it; its "=" holds in expectation, not draw by draw.
# - $\mathrm{sg}(W)\,(1 + \log a - \mathrm{sg}(\log a))\, f$ has eq. 12 as its gradient, draw by draw. No custom backward pass is needed.
# - For the attention, eq. 12 is the score-function estimator with one response for each draw. With the mean response subtracted it has less variance than REINFORCE on the
#   output from two draws on; without, it has less in the examples above, though not always. For a nonlinear loss it has a bias that falls as $1/N$.
# - With independent draws, a baseline that does not depend on its own draw changes no mean. Leave-one-out removes what the responses share, and hurts where they share nothing.

# %% [markdown]
# ## Exercises
#
# :::{exercise}
# :label: ex-03-zero
# Equation 26 divides by $a_i$. Take two locations and the attention $a = (\theta, 1 - \theta)$ at $\theta = 0$, without a softmax. What is
# $\partial\mu / \partial\theta$, and what does eq. 12 give on average?
# :::
#
# :::{solution} ex-03-zero
# :class: dropdown
# $\mu = \theta f_1 + (1 - \theta) f_2$, so $\partial\mu = f_1 - f_2$. At $\theta = 0$ only location 2 is ever drawn, and eq. 12 gives
# $\partial[(1 - \theta) f_2] / (1 - \theta) = -f_2$, always. The term of location 1 is lost: it has derivative one and probability zero. A location of
# zero attention cannot be discovered by drawing. A softmax keeps every $a_i$ above zero, until it underflows.
# :::
#
# :::{exercise}
# :label: ex-03-best-constant
# For responses $r_i$ and scores $s_i = \partial\log a_i \in \mathbb{R}^K$, which constant $b$ makes the variance of
# $\frac1N \sum_m (r_m - b)\, s_m$ smallest? Is it the mean response?
# :::
#
# :::{solution} ex-03-best-constant
# :class: dropdown
# The mean does not depend on $b$, so it is enough to minimise $\sum_i a_i (r_i - b)^2 \lVert s_i\rVert^2$. Its derivative is zero at
# $b = \sum_i a_i \lVert s_i\rVert^2 r_i \,/ \sum_i a_i \lVert s_i\rVert^2$, a mean of the responses in which locations with a long score count more. It is the
# plain mean only if the scores have equal length. Check it with `gradient_variance(response, 2, torch.tensor([b]))`.
# :::
#
# :::{exercise}
# :label: ex-03-reinforce
# Two locations with attention 0.9 and 0.1, responses $-2$ and $3$, two draws. What are the variances of eq. 12 and of REINFORCE on the output, for the first logit? And if the mean response is subtracted first?
# :::
#
# :::{solution} ex-03-reinforce
# :class: dropdown
# The scores are $s = (0.1, -0.9)$, the mean response is $-1.5$, and all estimators have the mean $-0.45$. Eq. 12: one draw gives $-0.2$ or $-2.7$, variance $0.5625$, half of it for two draws: $0.281$. REINFORCE: $-0.4$ for a pair of the first location, $-0.4$ for one of each, $-5.4$ for a pair of the
# second, with probabilities $0.81$, $0.18$, $0.01$: variance $0.2475$, the smaller one. With the mean subtracted, the responses are $-0.5$ and $4.5$ and the variances $0.72$ and $0.9225$: now eq. 12 has less, as it must. Both have more than before, for the mean response is not the best constant
# ({ref}`ex-03-best-constant`).
# :::
#
# :::{exercise}
# :label: ex-03-ratio
# Replace the factor $1 + \log a - \mathrm{sg}(\log a)$ by $a / \mathrm{sg}(a)$. Is the gradient the same? The second derivative? Why does the library take $\exp(\log a - \mathrm{sg}(\log a))$?
# :::
#
# :::{solution} ex-03-ratio
# :class: dropdown
# Yes: the value is one and the derivative is $\partial a / a = \partial\log a$. But a location of very small attention, once drawn, has $a = 0$ in float32
# (below about $10^{-45}$; in half precision far sooner), and $0/0$ is not a number. The logarithm of the attention, straight from `log_softmax`, is an ordinary number there.
#
# The second derivatives differ: that of $a / \mathrm{sg}(a)$ is $\partial^2 a / a = \partial^2 \log a + (\partial \log a)^2$, which is what the second derivative of $\mu$ needs, and that of the other factor lacks the square. The library's $\exp(\log a - \mathrm{sg}(\log a))$ is $a / \mathrm{sg}(a)$ without the $0/0$.
# :::
