# %% [markdown]
# # Entropy and exploration
#
# Attention decides where to look, and learns only from what it has seen. If it decides early it may never see what matters. The
# paper adds one term to the loss against this. This chapter shows what the term does, by formula and in a problem small enough
# to watch, and what else helps: a start that already knows where there is something to see.
#
# ## What you will learn
#
# - the regularised loss of the paper, eq. 21, and the gradient of the entropy;
# - in which sense its weight $\lambda$ is a temperature, measured in units of the loss;
# - what $\lambda$ does to an attention distribution in the course of training;
# - how attention gets stuck without it, and what entropy can and cannot do about that;
# - what a saliency prior does to the first draws in a Megapixel MNIST image.
#
# **Time and hardware:** about one minute on one core, nothing to download.

# %% tags=["parameters"]
profile = "smoke"  # smoke, laptop or paper

# %%
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from atslib import ESTIMATORS, PatchGeometry, downsample, entropy
from atslib.data import MegapixelMNIST
from atslib.models import Output
from atslib.networks import MegapixelMNISTAttention, SaliencyPrior
from atslib.plots import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    SKY,
    outline_patches,
    show_image,
    use_style,
)
from atslib.training import attention_loss

use_style()
more = 1 if profile == "smoke" else 4  # larger profiles repeat on more runs and images

# %% [markdown]
# ## The loss with entropy
#
# The entropy of an attention distribution is
#
# $$\mathcal{H}(a) = -\sum_{i=1}^{K} a_i \log a_i$$ (eq-entropy)
#
# in nats. It is 0 if all attention lies on one location and $\log K$ if attention is uniform. $e^{\mathcal H}$ reads as a number of locations:
# that many equally likely ones have the same entropy.
#
# The paper {cite}`katharopoulos2019` subtracts it from the loss, with a weight:
#
# $$\mathcal{L}'(x, y; \Theta) = \mathcal{L}(x, y; \Theta) - \lambda\, \mathcal{H}(a(x; \Theta)) \tag{paper 21}$$
#
# so that of two attentions which classify equally well the broader one wins.
#
# (cell-eq21)=
# ### Equation 21, both sides
#
# Three locations and two classes, to check by hand. One side is {eq}`eq-entropy` and a cross-entropy written out with logarithms; the
# other is the loss that all training in this book uses, `attention_loss`.

# %%
a = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
logits = torch.tensor([[1.0, -0.5]], dtype=torch.float64)  # scores of the two classes
target, weight = 0, 0.1  # y and λ

by_hand_entropy = -sum(value * math.log(value) for value in a.tolist())
by_hand_loss = -math.log(math.exp(1.0) / (math.exp(1.0) + math.exp(-0.5)))
right = by_hand_loss - weight * by_hand_entropy

out = Output(logits=logits, log_attention=a.log().view(1, 1, 3), index=None, pooled=None)
left, cross_entropy = attention_loss(out, torch.tensor([target]), weight)
print(f"H by hand {by_hand_entropy:.6f}, atslib.entropy {entropy(a.log()[None]).item():.6f}")
print(f"as a number of locations: {math.exp(by_hand_entropy):.2f} of 3")
print(f"L' by hand {right:.6f}, attention_loss {left.item():.6f}")
print(
    f"difference below 1e-6 (the library takes the cross-entropy in float32): {abs(left.item() - right) < 1e-6}"
)
for name, values in [("one-hot", [1.0, 0.0, 0.0]), ("uniform", [1 / 3] * 3)]:
    h = entropy(torch.tensor([values], dtype=torch.float64).log()).item()
    print(
        f"{name}: H = {abs(h):.6f}"
        + (f" = log 3 = {math.log(3):.6f}" if name == "uniform" else "")
    )
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# **Verdict: confirmed.** Eq. 21 is a definition; the library computes it. Whether it does what the paper says it does is the rest of this
# chapter.

# %% [markdown]
# ## The gradient of the entropy
#
# Attention is a softmax of logits $\theta_j$, so $\partial a_i / \partial \theta_j = a_i (\delta_{ij} - a_j)$. Then
#
# $$
# \begin{aligned}
# \frac{\partial \mathcal H}{\partial \theta_j}
# & = -\sum_i (\log a_i + 1)\, a_i\, (\delta_{ij} - a_j) \\
# & = -a_j (\log a_j + 1) + a_j \sum_i a_i (\log a_i + 1) \\
# & = -a_j \bigl(\log a_j + \mathcal H\bigr).
# \end{aligned}
# $$ (eq-entropy-gradient)
#
# In words: a step that raises the entropy takes from locations whose surprise $-\log a_j$ is below the average $\mathcal H$ and gives to those whose surprise is
# above it. The sum over $j$ is zero. And everything is multiplied by $a_j$.

# %%
theta = a.log().requires_grad_()
entropy(theta.log_softmax(0)[None]).sum().backward()
formula = -a * (a.log() + by_hand_entropy)
print("location    a      -log a   formula    autograd")
for j in range(3):
    print(f"{j + 1:5} {a[j]:9.2f} {-a[j].log():9.4f} {formula[j]:9.4f} {theta.grad[j]:10.4f}")
print(f"H = {by_hand_entropy:.4f}; sum of the formula {abs(formula.sum()):.4f}")

generator = torch.Generator().manual_seed(0)
worst = 0.0
for spread in (0.1, 1, 10, 100):  # from nearly uniform to one-hot
    theta = (
        spread * torch.randn(50, 1000, generator=generator, dtype=torch.float64)
    ).requires_grad_()
    log_a = theta.log_softmax(1)
    h = entropy(log_a)
    h.sum().backward()
    worst = max(worst, (theta.grad + log_a.exp() * (log_a + h[:, None])).abs().max().item())
print(
    "formula against autograd, 50 distributions over 1,000 locations at each of four spreads:\n"
    f"within 1e-12 {worst < 1e-12}"
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# The factor $a_j$ deserves a picture. Let one location of $K = 50$ have the attention $a_1$ and let the others share the rest. How strongly does the entropy pull at the logit of
# one of the *others*?

# %% mystnb={"image": {"alt": "Pull of the entropy on the logit of one of 49 neglected locations against the favourite's lead in logits. It is zero at no lead, largest at a moderate lead, and then falls exponentially towards zero."}}
lead = torch.linspace(0, 16, 200, dtype=torch.float64)
theta = torch.zeros(200, 50, dtype=torch.float64)
theta[:, 0] = lead
log_a = theta.log_softmax(1)
pull = -(log_a.exp() * (log_a + entropy(log_a)[:, None]))[:, 1]
figure, ax = plt.subplots(figsize=(7, 3))
ax.plot(lead, pull, color=BLUE)
ax.set(
    xlabel="lead of the favourite's logit over the 49 others",
    ylabel="∂H / ∂θ of one of the others",
)
plt.show()
print(
    f"largest pull at a lead of {lead[pull.argmax()]:.1f}; at a lead of 16 it is {pull.max() / pull[-1]:,.0f} times weaker"
)

# %% [markdown]
# The pull vanishes on the left because there is nothing to equalise, and on the right because attention that is nearly gone is called back ever more slowly: softmax
# gives a location with $a_j \approx 0$ next to no gradient, whatever the loss. So entropy must act *before* attention has settled. This is what the paper says of it: it "prevents the attention network
# from quickly deciding which patches are informative".

# %% [markdown]
# ## In which sense λ is a temperature
#
# Suppose that the loss is linear in the attention, $\mathcal L = -\sum_i a_i r_i$, with $r_i$ the reward for looking at location $i$. Then the minimum of eq. 21
# is known:
#
# $$a_i^* \propto \exp(r_i / \lambda)$$ (eq-tempered)
#
# because at the minimum, where $\sum_j a_j = 1$ has a Lagrange multiplier $\nu$, the derivative of $-\sum_i a_i r_i + \lambda \sum_i a_i \log a_i$ by $a_j$ is
# $-r_j + \lambda (\log a_j + 1) = \nu$ for all $j$: all $r_j - \lambda \log a_j$ are equal. So $\lambda$ is a temperature, in units of the loss: rewards that differ by much less than $\lambda$ are treated alike, and a
# location that is worse than another by $\lambda$ keeps $1/e$ of the other's attention. We descend from a uniform start and compare.

# %%
reward = torch.tensor([0.30, 0.20, 0.00], dtype=torch.float64)
print("λ       descent                    exp(r/λ), normalised")
for weight in (0.03, 0.1, 1.0):
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for _ in range(4000):
        log_a = theta.log_softmax(0)
        loss = -(log_a.exp() * reward).sum() - weight * entropy(log_a[None]).sum()
        (gradient,) = torch.autograd.grad(loss, theta)
        theta = (theta - 0.5 / max(weight, 0.1) * gradient).detach().requires_grad_()
    found, expected = theta.softmax(0), (reward / weight).softmax(0)
    print(
        f"{weight:<6}  {[f'{v:.3f}' for v in found.tolist()]}   {[f'{v:.3f}' for v in expected.tolist()]}"
    )
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# The smallest $\lambda$ looks one-hot, the largest nearly uniform. With $\lambda = 0$ the formula has no minimum short of one-hot: attention goes on concentrating as long as training goes on.
#
# A real loss is linear in the attention only near one point, and the rewards there, $r_i = -\partial \mathcal L / \partial a_i$, change as the attention moves. What remains of
# {eq}`eq-tempered` is a fixed point. Wherever descent comes to rest with all $a_i > 0$,
#
# $$a_i \propto \exp\Bigl(-\frac1\lambda \frac{\partial \mathcal L}{\partial a_i}(a)\Bigr)$$ (eq-fixed-point)
#
# with $a$ on both sides. This does not say where attention goes from elsewhere, nor that there is one such point only. And it holds for logits that are free. Weights
# that all locations share can balance gain and entropy only in the directions in which they can move the logits. The cell takes the loss of a classifier that sees the pooled feature.

# %%
response = torch.tensor([3.0, 1.0, -1.0], dtype=torch.float64)  # of the classifier, by location


def rewards(a):
    a = a.detach().requires_grad_()
    return -torch.autograd.grad(F.softplus(-(a @ response)), a)[0]


weight, uniform = 0.1, torch.full((3,), 1 / 3, dtype=torch.float64)
theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
for _ in range(4000):
    log_a = theta.log_softmax(0)
    loss = F.softplus(-(log_a.exp() @ response)) - weight * entropy(log_a[None]).sum()
    theta = (theta - torch.autograd.grad(loss, theta)[0]).detach().requires_grad_()
found = theta.softmax(0)
for what, values in (
    ("descent", found),
    ("exp(r/λ), r where it ends", (rewards(found) / weight).softmax(0)),
    ("exp(r/λ), r where it began", (rewards(uniform) / weight).softmax(0)),
):
    print(f"{what:27} {[f'{v:.3f}' for v in values.tolist()]}")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# ## What λ does in the course of training
#
# A problem to watch. An "image" has $K = 50$ locations. At five of them the feature tells the class, with noise; at the other 45 it is noise alone. We train one logit per location and a linear
# classifier by plain gradient descent, drawing $N = 5$ locations a step without replacement (Des Raj), with the paper's four weights
# $\lambda \in \{0, 0.01, 0.1, 1\}$ and two in between. There is no image and no network; what remains is attention sampling itself.

# %%
K, D, N = 50, 8, 5
estimator = ESTIMATORS["des_raj"]


def train(weight, start, informative, steps, runs, batch=32, rate=1.0, seed=0):
    """Several runs side by side, each with its own logits and classifier; returns what happened at every step.

    weight: λ; start: the logits at the beginning, (K,) or (runs, K).
    """
    # the same draws on every machine
    generator, real = torch.Generator().manual_seed(seed), dict(dtype=torch.float64)
    tells = torch.zeros(K, **real)
    tells[informative] = 3.0  # strength of the class at the informative locations
    theta = start.expand(runs, K).to(**real, copy=True).requires_grad_()
    classifier = torch.zeros(runs, D, **real, requires_grad=True)
    optimiser = torch.optim.SGD([theta, classifier], lr=rate)
    history = dict(attention=[], entropy=[], error=[])
    for _ in range(steps + 1):
        # the class, ±1
        sign = 2.0 * torch.randint(0, 2, (runs, batch), generator=generator) - 1
        log_a = theta.log_softmax(1)
        everywhere = log_a[:, None].expand(runs, batch, K).flatten(0, 1)  # (runs · batch, K)
        index = estimator.sample(everywhere, N, generator=generator)
        # at the drawn locations only
        features = torch.randn(runs * batch, N, D, generator=generator, **real)
        features[..., 0] += tells[index] * sign.flatten()[:, None]
        z = estimator(everywhere, index, F.normalize(features, dim=-1)).view(runs, batch, D)
        score = 4 * (z * classifier[:, None]).sum(-1) * sign  # positive: answered rightly
        # eq. 21, cross-entropy of two classes
        loss = F.softplus(-score).mean(1) - weight * entropy(log_a)
        history["attention"].append(log_a.detach().exp())
        history["entropy"].append(entropy(log_a.detach()))
        history["error"].append((score < 0).double().mean(1))
        optimiser.zero_grad()
        loss.sum().backward()  # the runs share nothing
        optimiser.step()
    return {key: torch.stack(values) for key, values in history.items()}  # (steps + 1, runs, …)


informative = torch.tensor([7, 18, 23, 31, 44])
weights = [0.0, 0.005, 0.01, 0.05, 0.1, 1.0]
steps, runs = 600, 8 * more
histories = {
    weight: train(weight, torch.zeros(K), informative, steps, runs) for weight in weights
}

# %% mystnb={"image": {"alt": "Sixteen small bar charts of attention over 50 locations: four rows for lambda 0, 0.01, 0.1 and 1, four columns for steps 0, 100, 300 and 600. All start uniform. With lambda 0 one of the five informative locations rises far above the others and one stays behind, with 0.01 the five are less uneven, with 0.1 they are even and lower, above a floor of all others, with 1 the distribution stays close to uniform."}}
columns = [0, 100, 300, 600]
figure, axes = plt.subplots(4, 4, figsize=(7, 6), sharex=True, sharey=True)
colours = [RED if location in informative.tolist() else GREY for location in range(K)]
for row, weight in enumerate([0.0, 0.01, 0.1, 1.0]):
    for column, step in enumerate(columns):
        ax = axes[row, column]
        ax.bar(range(K), histories[weight]["attention"][step, 0], width=1.0, color=colours)
        ax.grid(axis="x", visible=False)
        if row == 0:
            ax.set_title(f"step {step}")
        if row == 3:
            ax.set_xlabel("location")
    axes[row, 0].set_ylabel(f"λ = {weight:g}\nattention")
axes[0, 0].set(ylim=(0, 0.5), yticks=[0, 0.25, 0.5])
plt.show()

# %% [markdown]
# One run of each; red bars are the informative locations. All start uniform. From left to right, in the course of training, attention settles; from top to bottom, with larger $\lambda$, it stays broader. In the first row one
# of five equally good locations takes the lead; in the last the five hardly stand out. The entropies of all runs:

# %% mystnb={"image": {"alt": "Entropy against training step for lambda 0, 0.01, 0.1 and 1, mean and range over the runs. All start at log 50. Lambda 1 stays close to it; lambda 0.1 falls and levels off well below; 0.01 and 0 fall on, lambda 0 lowest and still falling at the end."}}
figure, ax = plt.subplots(figsize=(7, 3.6))
styles = {0.0: (BLACK, "-"), 0.01: (BLUE, "--"), 0.1: (ORANGE, "-."), 1.0: (GREEN, ":")}
for weight, (colour, dash) in styles.items():
    h = histories[weight]["entropy"]
    ax.plot(h.mean(1), color=colour, linestyle=dash, label=f"λ = {weight:g}")
    ax.fill_between(
        range(len(h)), h.min(1).values, h.max(1).values, color=colour, alpha=0.15, linewidth=0
    )
ax.axhline(math.log(K), color=GREY, linewidth=1)
ax.text(steps, math.log(K) + 0.04, "log K", ha="right", va="bottom", fontsize=10, color=GREY)
ax.set(xlabel="step", ylabel="entropy (nats)", ylim=(0, 4.4), xlim=(0, steps))
ax.legend(loc="lower left", ncols=2)
plt.show()

# %% [markdown]
# (cell-entropy-small-problem)=
# In numbers, the means over the runs, with the two weights in between:

# %%
print(
    "         entropy at       attention                         error,\n"
    "λ        step 100    600  on the five  largest  least of 5  last 50 steps"
)
for weight in weights:
    h = histories[weight]
    print(
        f"{weight:<6g} {h['entropy'][100].mean():10.1f} {h['entropy'][-1].mean():6.1f} "
        f"{h['attention'][-1][:, informative].sum(1).mean():12.1f} "
        f"{h['attention'][-1].max(1).values.mean():8.1f} "
        f"{h['attention'][-1][:, informative].min(1).values.mean():11.2f} "
        f"{h['error'][-50:].mean():14.2f}"
    )
# NBVAL_CHECK_OUTPUT

# %%
final = {weight: histories[weight]["entropy"][-1] for weight in weights}
print(
    "λ = 0 ends more selective than any other weight, in every run:",
    all((final[0.0] < final[w]).all().item() for w in weights[1:]),
)
print(
    f"λ = 1 ends within {math.log(K) - final[1.0].min():.2f} nats of uniform in every run (log K = {math.log(K):.2f})"
)
spread = abs(final[0.05].mean() - final[0.005].mean())
print(f"between λ = 0.005 and 0.05 the final entropy differs by {spread:.1f} nats")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# In this problem, then:
#
# - **λ = 0: very selective, early on** (§E of the paper). Partly so here, on a stand-in: it ends the most selective in every run, and goes on concentrating; but early on, where the paper's figure shows it already, it
#   does not differ from 0.01. It is not a mistake by itself: the error is as low as any. But the five
#   informative locations are equally good, and attention is far from even among them. Which one leads is chance.
# - **Large λ: towards uniform** (§E). Confirmed here on a stand-in. By {eq}`eq-fixed-point` the gain from looking in the right place is small against $\lambda = 1$; the
#   error pays for it.
# - **Around 0.01 the exact value does not matter** (§E). Not so clear here: the error hardly changes, but the entropy does, steadily. The paper's claim is about
#   images and is tested on them in a later chapter.

# %% [markdown]
# ## Stuck
#
# Now a start that has already decided, and wrongly. One location is informative, another one has a lead in the logits, and it has nothing to tell. For each
# lead we count the steps until the informative location holds a tenth of the attention, and give up after a thousand.

# %%
useful, decoy = torch.tensor([31]), 3
leads = torch.tensor([2.0, 4.0, 6.0, 8.0, 9.0, 10.0])
repeats, patience = 4 * more, 1000
start = torch.zeros(len(leads), repeats, K)
start[..., decoy] = leads[:, None]
stuck_weights = [0.0, 0.01, 0.1, 1.0]
outcomes, waiting = {}, {}
for weight in stuck_weights:
    outcome = train(
        weight, start.flatten(0, 1), useful, patience, len(leads) * repeats, batch=16, seed=1
    )
    # (steps + 1, leads, repeats)
    on_useful = outcome["attention"][..., 31].unflatten(1, (len(leads), repeats))
    outcomes[weight] = outcome["entropy"].unflatten(1, (len(leads), repeats)), on_useful
    reached = on_useful > 0.1
    # (leads, repeats)
    waiting[weight] = torch.where(reached.any(0), reached.int().argmax(0), patience + 1)

# %% mystnb={"image": {"alt": "Steps until the informative location holds a tenth of the attention, against the lead of the useless one. Without entropy the number rises steeply, and at the two largest leads no run gets there. With lambda 0.01 it rises later. With lambda 0.1 every run gets there, and only large leads take longer. With lambda 1 no run gets there at any lead."}}
figure, ax = plt.subplots(figsize=(7, 3.9))
markers = {0.0: "o", 0.01: "s", 0.1: "^", 1.0: "D"}
for position, (weight, (colour, dash)) in enumerate(styles.items()):
    steps_needed = waiting[weight].double()
    gave_up = steps_needed > patience
    shift = 0.12 * (position - 1.5)  # side by side, so that none hides another
    x = (leads + shift)[:, None].expand_as(steps_needed)
    ax.plot(x[~gave_up], steps_needed[~gave_up], markers[weight], color=colour, alpha=0.8)
    ax.plot(
        x[gave_up],
        1250 + 0 * steps_needed[gave_up],
        markers[weight],
        color=colour,
        markerfacecolor="white",
    )
    median = steps_needed.median(1).values
    median[median > patience] = float("nan")
    ax.plot(
        leads + shift,
        median,
        color=colour,
        linestyle=dash,
        marker=markers[weight],
        label=f"λ = {weight:g}",
    )
ax.axhline(patience, color=GREY, linewidth=1)
ax.text(1.6, 1040, "not within 1,000 steps (open marks)", fontsize=10, color=GREY, va="bottom", ha="left")
ax.set(
    xlabel="lead of the useless location (logits)",
    ylabel="steps until found",
    ylim=(0, 1400),
    xlim=(1.5, 10.5),
    yticks=range(0, 1001, 200),
)
ax.legend(loc="upper left", bbox_to_anchor=(0, 0.7))
plt.show()

# %%
print("runs that found the informative location, of", repeats)
print("lead   attention at it     " + "".join(f"λ = {weight:<8g}" for weight in stuck_weights))
for row, value in enumerate(leads.tolist()):
    found = [int((waiting[weight][row] <= patience).sum()) for weight in stuck_weights]
    first = outcomes[0.0][1][0, row, 0].item()
    print(f"{value:4.0f} {first:14.5f}          " + "".join(f"{count:<12}" for count in found))
print(
    "\n                   entropy                             at the end, attention\n"
    "lead 10      at the start    highest    at the end    of the informative location"
)
for weight in stuck_weights:
    # mean over the repeats
    h, on_useful = (values[:, -1].mean(1) for values in outcomes[weight])
    print(f"λ = {weight:<6g} {h[0]:14.1f} {h.max():10.1f} {h[-1]:13.1f} {on_useful[-1]:16.2f}")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# Without entropy, the waiting time grows steeply with the lead, and from some lead on nothing happens within our patience. With more of it:

# %%
late, longer = leads >= 8, 4000
outcome = train(
    0.0, start[late].flatten(0, 1), useful, longer, int(late.sum()) * repeats, batch=16, seed=1
)
reached = outcome["attention"][..., 31].unflatten(1, (int(late.sum()), repeats)) > 0.1
print(f"λ = 0, {longer:,} steps      found in    after how many steps")
for value, runs in zip(leads[late].tolist(), reached.unbind(1), strict=True):
    after = runs.int().argmax(0)[runs.any(0)].tolist()  # of the runs that found it
    steps = f"{min(after):,} to {max(after):,}" if after else "–"
    print(f"lead {value:2.0f}             {len(after):6} of {repeats}      {steps}")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# So it is patience that ends there, not a wall: each further logit takes about twice to two and a half times as long. Is the informative location not drawn? Draw from the start with each lead, and look at the weight that it gets when it is drawn:

# %%
generator = torch.Generator().manual_seed(2)
print("       draws of a step (16)   mean weight W   share × weight")
print("lead   that hold it           when drawn      (expected: a)")
for value in leads.tolist():
    logits = torch.zeros(K, dtype=torch.float64)
    logits[decoy] = value
    many = logits.log_softmax(0).expand(20_000, K)
    index = estimator.sample(many, N, generator=generator)
    here = index == useful  # (draws, N), at most one a draw
    weight = estimator.weights(many, index)[here].mean().item()
    share = here.any(1).double().mean().item()
    print(f"{value:4.0f} {16 * share:14.1f} {weight:21.4f} {share * weight:16.5f}")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# The last column is $a$, up to the noise of 20,000 draws, a tenth or a fifth of it at the large leads. The informative location is drawn about once a step, whatever the lead, since without replacement the useless one takes only one of the five draws. But unless it comes before the useless one, of which it has a chance of only about $a$, its weight is no larger than what the useless one leaves over. (Those rare draws weigh about $1/N$ and make up a fifth of the mean; they are the noise of the last column. Independent draws would hold it rarely and weigh it with $1/N$;
# the product is the same.) An unbiased gradient is no help: on average it is the gradient of the full model, which is proportional to the attention $a_j$, and here so are nearly all single draws. It is seen in every step, and counts for nothing.
#
# The last lines show how $\lambda = 0.1$ gets out: it first levels the distribution, then finds and concentrates again. Too large a $\lambda$ levels it too and then keeps it level. Exploration without
# exploitation. And even a moderate one is slow where the lead is large, because of the factor $a_j$ in {eq}`eq-entropy-gradient`. Entropy keeps attention from settling;
# it is not made to unsettle it.

# %% [markdown]
# ## A start that knows where there is something
#
# The other way to explore better is to begin better. An untrained attention network is close to uniform, and a Megapixel MNIST image is mostly empty. So nearly all first
# draws fall on nothing, and the features learn from black squares. The plot that comes with the paper's released code stays at guessing for some two hundred epochs ([chapter 8](08_megapixel_mnist.ipynb#why-training-stays-at-chance)). `SaliencyPrior` adds to the network's logits the logarithm of the local brightness of the view,
#
# $$\theta_i = \mathrm{network}(V)_i + \log\bigl(\epsilon + \overline{|V|}_i\bigr)$$ (eq-prior)
#
# with $\overline{|V|}_i$ the mean over the window of location $i$ ([last chapter](06_patches_and_resolution.ipynb)) and $\epsilon$ the brightness of "nothing there".
# It is not part of the paper. It uses no labels, only that objects are brighter than the ground. (On other grounds brightness is the wrong thing to go by: `SaliencyPrior` takes any function of the view for it, `saliency=local_contrast`, say, and a power to sharpen it, as
# [chapter 15](15_your_own_images.ipynb) does for dark specks on light cloth.)
#
# We count for untrained networks on many images. A patch *holds* a digit if the digit's centre lies in it. The expected number among ten draws with replacement is ten times the attention
# on the locations whose patch holds a digit: no sampling is needed.

# %%
dataset = MegapixelMNIST("train", 24 * more)
geometry = PatchGeometry(
    (1500, 1500), (180, 180), (180, 180), 50, stride=1, padding=3, receptive_field=7
)
corners = geometry.top_left(torch.arange(180 * 180)[None])[0]  # (K, 2)


def holding(glyph_corners):
    """Of which locations does the patch hold the centre of one of these pieces? (K,)"""
    inside = torch.as_tensor(glyph_corners)[None] + 14 - corners[:, None]  # (K, pieces, 2)
    return ((inside >= 0) & (inside < 50)).all(-1).any(1)


views, holds_digit, holds_noise = [], [], []
for number in range(len(dataset)):
    image, _ = dataset[number]
    layout = dataset.layout(number)
    views.append(downsample(image[None], (180, 180)))
    holds_digit.append(holding(layout.digit_corners))
    holds_noise.append(holding(layout.noise_corners) & ~holds_digit[-1])
views, holds_digit, holds_noise = (
    torch.cat(views),
    torch.stack(holds_digit),
    torch.stack(holds_noise),
)


def first_draws(network, n=10):
    """Expected numbers of the first n patches that hold a digit, noise only, nothing; and the
    entropy. Mean over the images.
    """
    with torch.no_grad():
        log_a = network(views).flatten(1).double().log_softmax(1)
    a = log_a.exp()
    digit, noise = (n * (a * mask).sum(1) for mask in (holds_digit, holds_noise))
    return dict(
        digit=digit.mean(),
        noise=noise.mean(),
        nothing=(n - digit - noise).mean(),
        entropy=entropy(log_a).mean(),
    )


networks = []
for seed in range(3):
    torch.manual_seed(seed)
    networks.append(MegapixelMNISTAttention())
on_digit = {}
print("of ten first draws, expected:      a digit   noise only   neither   entropy")
for name, wrap in [
    ("uniform attention", None),
    ("untrained network", lambda network: network),
    ("with prior", SaliencyPrior),
]:
    if wrap is None:
        results = [first_draws(lambda view: torch.zeros(len(view), 180, 180))]
    else:
        results = [first_draws(wrap(network)) for network in networks]
    mean = {
        key: torch.stack([result[key] for result in results]).mean().item()
        for key in results[0]
    }
    on_digit[name] = mean["digit"]
    print(
        f"{name:33} {mean['digit']:8.2f} {mean['noise']:12.1f} {mean['nothing']:9.1f} {mean['entropy']:9.1f}"
    )
print(
    f"with the prior, {on_digit['with prior'] / on_digit['untrained network']:.0f} times as many on digits"
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# An untrained network is as good as uniform. With the prior, far more of the first draws land on a digit, by the factor in the last line. The counts of single draws vary; here are the ten first patches in one image, drawn without replacement.

# %% mystnb={"image": {"alt": "The same Megapixel MNIST image twice with the outlines of ten drawn patches. Left, without prior: nearly all outlines lie on empty ground. Right, with prior: several outlines lie on digits or noise."}}
image, _ = dataset[2]
# for the eye: keeps thin strokes visible
bright = F.max_pool2d(image[None].float(), 4)[0, 0] / 255
figure, axes = plt.subplots(1, 2, figsize=(7, 3.8))
for ax, (title, network) in zip(
    axes,
    [("without prior", networks[0]), ("with prior", SaliencyPrior(networks[0]))],
    strict=True,
):
    with torch.no_grad():
        log_a = network(views[2:3]).flatten(1).log_softmax(1)
    generator = torch.Generator().manual_seed(5)
    (index,) = ESTIMATORS["des_raj"].sample(log_a, 10, generator=generator)
    show_image(
        ax,
        bright,
        f"{title}: {int((holds_digit | holds_noise)[2, index].sum())} of 10 hold something",
        extent=(-0.5, 1499.5, 1499.5, -0.5),
    )
    outline_patches(ax, geometry, index, linewidth=1.8)
    ax.set(xlim=(-0.5, 1499.5), ylim=(1499.5, -0.5))
plt.show()

# %% [markdown]
# ### How small should ε be?
#
# The smaller $\epsilon$, the less attention the empty ground keeps. Above it was 0.001, the default.

# %%
epsilons = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]
sweep = [first_draws(SaliencyPrior(networks[0], epsilon)) for epsilon in epsilons]
sweep = {key: [result[key].item() for result in sweep] for key in sweep[0]}
print("ε          a digit   noise only   neither   entropy   digits among what is held")
for k, epsilon in enumerate(epsilons):
    share = sweep["digit"][k] / (sweep["digit"][k] + sweep["noise"][k])
    print(
        f"{epsilon:<8g} {sweep['digit'][k]:9.2f} {sweep['noise'][k]:12.1f} {sweep['nothing'][k]:9.1f} {sweep['entropy'][k]:9.1f} {share:18.0%}"
    )
# NBVAL_CHECK_OUTPUT

# %% mystnb={"image": {"alt": "Stacked bars of what ten first draws hold, for epsilon from 0.00001 to 1. For small epsilon more than half hold noise and about one holds a digit; towards epsilon 1 nearly all hold nothing."}}
figure, ax = plt.subplots(figsize=(7, 3.4))
positions = range(len(epsilons))
ax.bar(positions, sweep["digit"], color=ORANGE, edgecolor="white", label="a digit")
ax.bar(
    positions,
    sweep["noise"],
    bottom=sweep["digit"],
    color=SKY,
    edgecolor="white",
    hatch="//",
    label="noise only",
)
bottom = [d + n for d, n in zip(sweep["digit"], sweep["noise"], strict=True)]
ax.bar(
    positions,
    sweep["nothing"],
    bottom=bottom,
    color="#dddddd",
    edgecolor="white",
    label="neither",
)
ax.set_xticks(positions, [f"$10^{{{round(math.log10(epsilon))}}}$" for epsilon in epsilons])
ax.set(xlabel="ε", ylabel="of ten first draws, expected")
ax.grid(axis="x", visible=False)
ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="patch holds")
plt.show()

# %% [markdown]
# With $\epsilon = 1$ the prior does nothing: that is brighter than any part of the view. Below $10^{-4}$ little more is gained; what remains under "neither" is mostly patches that touch a piece but miss its centre.
#
# Two warnings. The prior knows nothing of digits, only of brightness: their share among what is held doubles with it (last column), because scribbles are dimmer in the view than digits are; with `noise="random"`, which is brighter, do not expect that. They remain a minority, and what tells them from noise remains to be learned. And it is an opinion held before the first
# step, so it can be wrong as the start of the section "Stuck" was: where objects are *darker* than the ground, the ground would get the attention. $\epsilon$ limits the damage. A location with nothing in it stays at most
# $\log\bigl((\epsilon + \max)/\epsilon\bigr)$ logits behind the brightest, and we have seen what leads of 6, 8 and 10 mean.

# %%
silent = MegapixelMNISTAttention()
for parameter in silent.parameters():
    torch.nn.init.zeros_(parameter)  # what remains is the prior
for epsilon in (1e-5, 1e-3, 1e-1):
    with torch.no_grad():
        lead = SaliencyPrior(silent, epsilon)(views).max().item() - math.log(epsilon)
    print(f"ε = {epsilon:g}: empty ground is {lead:.1f} logits behind the brightest place")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# ## Summary
#
# - Eq. 21 pays $\lambda$ for each nat of entropy. The gradient is $-\lambda\,\partial\mathcal H/\partial\theta_j = \lambda\, a_j(\log a_j + \mathcal H)$: it lowers logits of less than average surprise and raises the others.
# - $\lambda$ is a temperature in units of the loss, in the sense of a fixed point: where descent of free logits has come to rest, attention is proportional to $\exp(r/\lambda)$, and the rewards $r = -\partial\mathcal L/\partial a$ depend on the attention.
# - In a small problem, $\lambda = 0$ ends very selective and keeps concentrating; $\lambda = 1$ is nearly uniform; in between the entropy changes gradually.
# - After a bad start, attention without entropy takes longer the larger the lead, here about twice to two and a half times as long for each further logit, because softmax gives next to no gradient to what it does not attend to. Moderate entropy gets it out, slowly if the lead is large.
# - On real tissue, in trainings as long as the paper's, attention without the reward settled on a few locations, and more test images were missed: [chapter 9](09_colon_cancer.ipynb#without-the-reward-for-entropy) has the numbers.
# - A saliency prior multiplies the chance that a first draw falls on an object. It is an assumption about images, and $\epsilon$ says how firmly it is held.

# %% [markdown]
# ## Exercises
#
# :::{exercise}
# :label: ex-07-two
# Let $K = 2$ and $a = (p, 1 - p)$. Write $\partial \mathcal H/\partial\theta_1$ as a function of $p$. Where is it zero, where is it largest?
# :::
#
# :::{solution} ex-07-two
# :class: dropdown
# From {eq}`eq-entropy-gradient`, $-p\,(\log p + \mathcal H)$ with $\mathcal H = -p \log p - (1-p)\log(1-p)$ gives
# $-p(1-p)\log\frac{p}{1-p}$. With $\theta = \theta_1 - \theta_2$ this is $-p(1-p)\,\theta$: a spring that pulls the logit back to zero, weakened by the softmax's own derivative $p(1-p)$. It is zero at
# $p = \tfrac12$ and at both ends. Its magnitude is largest where $(2p - 1)\,\theta = 1$, near $\theta = \pm 1.5$.
# :::
#
# :::{exercise}
# :label: ex-07-adam
# In `train`, replace `torch.optim.SGD` by `torch.optim.Adam` with `lr=0.05`, and run "Stuck" again. What changes for $\lambda = 0$, and why would you not rely on it with an attention *network*?
# :::
#
# :::{solution} ex-07-adam
# :class: dropdown
# Adam divides each logit's gradient by its own running size. A location with a tiny gradient then moves as fast as any other, so that large leads are overcome sooner. Not in every run: the logits of useless
# locations move as fast on noise alone, and in a few runs attention settles on some of them. The factor $a_j$ is
# undone because each location has its own parameter. An attention network has shared weights: what one location asks for is added to what all the others ask for *before* Adam divides, and the small voice is lost in the sum.
# :::
#
# :::{exercise}
# :label: ex-07-kl
# With a saliency prior $q$, the entropy term pulls attention away from the prior towards uniform. Which term would pull it towards $q$ instead, and what is its gradient?
# :::
#
# :::{solution} ex-07-kl
# :class: dropdown
# $-\lambda\,\mathrm{KL}(a\,\|\,q)$ in place of $\lambda \mathcal H(a)$, with $\mathrm{KL}(a\,\|\,q) = \sum_i a_i \log(a_i/q_i)$. For uniform $q$ it is $\log K - \mathcal H$, the same up to a constant. The gradient of
# $-\mathrm{KL}$ with respect to $\theta_j$ is $-a_j\bigl(\log(a_j/q_j) - \mathrm{KL}\bigr)$, and the minimum for a linear loss is $a_i^* \propto q_i \exp(r_i/\lambda)$: the prior, tilted by the rewards.
# :::
