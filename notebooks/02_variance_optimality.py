# %% [markdown]
# # Which distribution to sample from
#
# Attention pools $K$ features with weights $a_i$. Attention sampling draws a few locations from the attention itself and
# averages their features. It could draw them from any other distribution $p$ and correct for it. Section 3.2.1 of the
# paper {cite}`katharopoulos2019` says that the attention is the best choice. This chapter computes in which sense that is
# true, what it costs where it is not, and what it does not cover.
#
# ## What you will learn
#
# - how to draw from any distribution and stay unbiased (eq. 5);
# - what "variance" of a vector means, and why the mean can be left out of the search (eqs. 6–8);
# - the best distribution, $p^*_i \propto a_i \lVert f_i \rVert$, found numerically and by formula (eq. 9);
# - the price of using $a$ when the norms differ, and why the unit norm makes $a$ optimal;
# - which distribution is best when the loss cares about one direction only;
# - which better methods the word "optimal" leaves out.
#
# **Time and hardware:** 15 minutes to read, a few seconds to run on one CPU core; nothing to download.

# %% tags=["parameters"]
profile = "smoke"  # smoke, laptop or paper

# %% tags=["hide-input"]
import itertools
from functools import partial

import matplotlib.pyplot as plt
import torch

from atslib import ESTIMATORS
from atslib.data.megapixel_mnist import MegapixelMNIST
from atslib.enumeration import every_draw
from atslib.estimators import Stratified
from atslib.networks import LeNetFeatures
from atslib.patches import extract_patches
from atslib.plots import BLACK, BLUE, GREEN, GREY, ORANGE, RED, use_style

use_style()
torch.set_default_dtype(torch.float64)
images = {"smoke": 1, "laptop": 4, "paper": 16}[profile]  # for the one experiment with a network


def row(values, digits=3):
    return " ".join(f"{v:.{digits}f}" for v in values.flatten().tolist())


# %% [markdown]
# ## Any distribution gives the right mean
#
# The target is $\mu = \sum_i a_i f_i$. Draw one location $I$ from a distribution $p$, and multiply its feature by
# $a_I / p_I$. What is drawn too often counts for less. On average this is $\mu$:
#
# $$
# \mathbb{E}_{I \sim p}\left[\frac{a_I f_I}{p_I}\right] = \sum_i p_i \, \frac{a_i f_i}{p_i} = \sum_i a_i f_i = \mu .
# $$ (eq-importance)
#
# With $p = a$ the factor is one, and this is eq. 4 of the paper with $N = 1$. The average of $N$ independent draws has
# the same mean and one $N$-th of the variance, whatever $p$ is. So it is enough to study one draw.
#
# Three locations, small enough to check by hand. The attention prefers location 1, but the feature of location 3 is
# four times as long as that of location 1.

# %%
# NBVAL_CHECK_OUTPUT
a = torch.tensor([0.5, 0.3, 0.2])
f = torch.tensor([[1.0, 0.0], [0.0, 2.0], [4.0, 0.0]])  # (K, D)
mu = a @ f


def one_draw(p, a, f):
    """The estimate from one draw, for each location that may be drawn: a_i f_i / p_i, (..., K,
    D).
    """
    return (a / p)[..., None] * f


distributions = {
    "attention": a,
    "uniform": torch.full((3,), 1 / 3),
    "another": torch.tensor([0.1, 0.2, 0.7]),
}
print(f"mu = {row(mu)}")
for name, p in distributions.items():
    estimates = one_draw(p, a, f)  # (K, D)
    values = ", ".join(row(estimate, 2) for estimate in estimates)
    print(f"{name:9} p {row(p)}; estimates {values}; mean {row(p @ estimates, 2)}")

# %% [markdown]
# The mean is the same in the three lines. The estimates are not: with `another`, location 1 gives five times its feature.
#
# ## What is to be smallest
#
# (cell-eq5)=
# ### Equation 5
#
# The paper looks for the distribution of least variance:
#
# $$
# P^* = \operatorname*{argmin}_P \; \mathbb{V}_{I \sim P}\left[\frac{a(x;\Theta)_I \, f(x;\Theta)_I}{p_I}\right] . \tag{paper 5}
# $$
#
# The quantity in brackets is a vector. Its variance is a $D \times D$ covariance matrix, and two of these need not be
# comparable. The next line of the paper shows what is meant: the sum of the variances of all $D$ coordinates, which is the
# trace of the covariance, or the expected squared distance from the mean. Below we compute it from that definition,
# nothing simplified, and let an optimiser find the minimum. The distribution is parametrised by a softmax, so that it stays on
# the simplex; the search starts at three different places.


# %%
# NBVAL_CHECK_OUTPUT
def total_variance(p, a, f):
    """Trace of the covariance of the estimate from one draw, from the definition; p may be a
    batch (..., K).
    """
    x = one_draw(p, a, f)  # (..., K, D)
    mean = (p[..., None] * x).sum(-2, keepdim=True)
    return (p * (x - mean).square().sum(-1)).sum(-1)


def minimise(objective, start):
    """The distribution that makes ``objective`` smallest, and the way there."""
    logits = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [logits],
        max_iter=1000,
        tolerance_grad=1e-13,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )
    path = []

    def closure():
        optimiser.zero_grad()
        p = logits.softmax(0)
        path.append(p.detach())
        loss = objective(p)
        loss.backward()
        return loss

    optimiser.step(closure)
    return logits.detach().softmax(0), torch.stack(path)


for start in ([0.0, 0.0, 0.0], [3.0, 0.0, -1.0], [-2.0, 1.0, 2.0]):
    found, path = minimise(lambda p: total_variance(p, a, f), torch.tensor(start))
    print(f"from {row(path[0])} to {row(found, 4)}: variance {total_variance(found, a, f):.6f}")
for name, p in distributions.items():
    print(f"{name:9} {row(p)}: variance {total_variance(p, a, f):.6f}")

# %% [markdown]
# Confirmed: the minimum exists, and the three searches find the same one. That the mean there is $\mu$ needs no search: by {eq}`eq-importance` it is an identity for every $p$ without a zero, since $p_i$ cancels. For this example the minimum is not the attention.
# Even the uniform distribution has less variance than the attention, because location 3 has a long feature and little attention.
#
# One condition goes unsaid in the paper. "The expectation remains the same regardless of $P$" needs $p_i > 0$ wherever
# $a_i f_i \ne 0$. At a corner of the simplex it fails, and the variance is no guide there:

# %%
# NBVAL_CHECK_OUTPUT
corner = torch.tensor([1.0, 0.0, 0.0])
drawn = corner > 0  # only what can be drawn counts
x = one_draw(corner[drawn], a[drawn], f[drawn])
never = total_variance(corner[drawn], a[drawn], f[drawn])
print(f"always location 1: variance {never:.2f}, but the mean is {row(x)} and not {row(mu)}")
for epsilon in (1e-1, 1e-2, 1e-3):
    near = torch.tensor([1 - 2 * epsilon, epsilon, epsilon])
    print(f"others with probability {epsilon:5.3f}: variance {total_variance(near, a, f):8.2f}")

# %% [markdown]
# A distribution that always draws the same location has no variance, and the wrong mean. Just beside it the mean is right and the variance is huge.
# The search of eq. 5 therefore runs over distributions that can draw every location that matters.

# %% [markdown]
# ## From the variance to a sum
#
# (cell-eq6)=
# (cell-eq7)=
# ### Equations 6 and 7
#
# $$
# \operatorname*{argmin}_P \mathbb{V}_{I \sim P}\left[\frac{a_I f_I}{p_I}\right] \tag{paper 6}
# $$
# $$
# = \operatorname*{argmin}_P \mathbb{E}_{I \sim P}\left[\left(\frac{a_I}{p_I}\right)^2 \lVert f_I \rVert_2^2\right] \tag{paper 7}
# $$
#
# The equality is between the two *argmins*, not between the two quantities. For any random vector $X$, the trace of the
# covariance is $\mathbb{E}\lVert X \rVert^2 - \lVert \mathbb{E} X \rVert^2$. Here $\mathbb{E} X = \mu$ whatever $P$ is (eq. 5). So the term
# that eq. 7 drops, $\lVert\mu\rVert^2$, is a constant, and a constant does not move a minimum. The cell computes both quantities for
# ten thousand random distributions, their difference, and both argmins.


# %%
# NBVAL_CHECK_OUTPUT
def second_moment(p, a, f):
    """Eq. 7: the expectation, as a sum over what may be drawn."""
    return (p * (a / p).square() * f.square().sum(-1)).sum(-1)


generator = torch.Generator().manual_seed(0)
many = torch.randn(10_000, 3, generator=generator).softmax(1)
gap = second_moment(many, a, f) - total_variance(many, a, f)
least_variance, path = minimise(lambda p: total_variance(p, a, f), torch.zeros(3))
least_moment, _ = minimise(lambda p: second_moment(p, a, f), torch.zeros(3))
print(f"eq. 7 minus eq. 6, 10,000 distributions: {gap.min():.9f} to {gap.max():.9f}")
print(f"|mu|^2:                                  {mu.square().sum():.9f}")
print(f"argmin of eq. 6: {row(least_variance, 6)}")
print(
    f"argmin of eq. 7: {row(least_moment, 6)}; difference {(least_variance - least_moment).abs().max():.7f}"
)

# %% [markdown]
# Confirmed, with "variance" read as the trace of the covariance: the quantities differ by $\lVert\mu\rVert^2$ at every $P$, the argmins agree.
# What the trace hides is the subject of [a section below](#one-direction): a smaller trace does not mean less variance in each direction.
#
# (cell-eq8)=
# ### Equation 8
#
# Writing out the expectation cancels one factor $p_i$:
#
# $$
# = \operatorname*{argmin}_P \sum_{i=1}^K \frac{a_i^2}{p_i} \lVert f_i \rVert_2^2 . \tag{paper 8}
# $$


# %%
# NBVAL_CHECK_OUTPUT
def eq8(p, a, f):
    return (a.square() / p * f.square().sum(-1)).sum(-1)


ratio = eq8(many, a, f) / second_moment(many, a, f)
print(
    f"largest relative difference of eq. 7 and eq. 8, 10,000 distributions: {(ratio - 1).abs().max():.12f}"
)
terms = a.square() * f.square().sum(1)
print(f"by hand: eq. 8 = {terms[0]:.2f} / p_1 + {terms[1]:.2f} / p_2 + {terms[2]:.2f} / p_3")

# %% [markdown]
# Confirmed; here the quantities themselves are equal. The sum is strictly convex in each $p_i$ with $a_i f_i \ne 0$, so it has one minimum.

# %% [markdown]
# ## The best distribution
#
# (cell-eq9)=
# ### Equation 9
#
# $$
# p_i^* \propto a(x;\Theta)_i \, \lVert f(x;\Theta)_i \rVert_2 \tag{paper 9}
# $$
#
# One line proves it. By the Cauchy–Schwarz inequality and $\sum_i p_i = 1$,
#
# $$
# \sum_i \frac{a_i^2 \lVert f_i\rVert^2}{p_i} = \sum_i \Bigl(\frac{a_i \lVert f_i\rVert}{\sqrt{p_i}}\Bigr)^2 \cdot \sum_i \bigl(\sqrt{p_i}\bigr)^2
# \;\ge\; \Bigl(\sum_i a_i \lVert f_i \rVert\Bigr)^2 ,
# $$ (eq-cauchy-schwarz)
#
# with equality where $a_i \lVert f_i\rVert / \sqrt{p_i}$ is proportional to $\sqrt{p_i}$, which is eq. 9. The right-hand side
# is the least second moment. The cell compares the formula with the optimiser, for the three locations and for random
# problems with more.


# %%
# NBVAL_CHECK_OUTPUT
def best(a, f):
    """Eq. 9."""
    weight = a * f.norm(dim=-1)
    return weight / weight.sum()


def random_problem(locations, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    attention = torch.randn(locations, generator=generator).softmax(0)
    return attention, torch.randn(locations, dim, generator=generator)


print(f"a |f|  {row(a * f.norm(dim=1))}")
print(f"eq. 9  {row(best(a, f), 6)}")
print(f"found  {row(least_variance, 6)}")
lines = [
    "largest difference of the distributions; difference of the least moment and its bound"
]
for locations, dim, seed in ((3, 2, 1), (10, 4, 2), (50, 8, 3)):
    a_, f_ = random_problem(locations, dim, seed)
    found, _ = minimise(partial(total_variance, a=a_, f=f_), torch.zeros(locations))
    bound = (a_ * f_.norm(dim=1)).sum().square()
    difference, slack = (found - best(a_, f_)).abs().max(), (eq8(found, a_, f_) - bound).abs()
    lines += [f"K = {locations:2}, D = {dim}: {difference:.6f}; {slack:.9f}"]
print("\n".join(lines))

# %% [markdown]
# Confirmed. The same as a picture: each point of the triangle is a distribution over the three locations, each corner
# one location for certain.

# %% tags=["hide-input"] mystnb={"image": {"alt": "A triangle whose corners are the three locations, shaded by the variance of one draw. The shading is lightest around the point of eq. 9, near the centre of the triangle, and darkens steeply towards the edges. The optimiser's path runs from the attention to the point of eq. 9. The uniform distribution lies closer to that point than the attention does."}}
corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
side = 120
steps = torch.tensor([(i, j, side - i - j) for i in range(side + 1) for j in range(side + 1 - i)], dtype=torch.float64)
grid = (steps + 0.3) / (side + 0.9)  # keeps off the edges, where the variance has no bound


def simplex(ax, values, title, levels=(1, 1.1, 1.25, 1.5, 2, 3, 5)):
    """Contours of a function of the distribution over three locations."""
    x, y = (grid @ corners).T
    colours = plt.get_cmap("Blues")(torch.linspace(0.08, 0.95, len(levels)).numpy())
    drawn = ax.tricontourf(x, y, values, levels=levels, colors=colours, extend="max")
    ax.plot(*corners[[0, 1, 2, 0]].T, color=GREY, linewidth=1)
    for i, (corner, shift) in enumerate(zip(corners.tolist(), ((-0.02, -0.09), (0.02, -0.09), (0, 0.03)), strict=True)):
        ax.text(corner[0] + shift[0], corner[1] + shift[1], f"location {i + 1}", ha="center", fontsize=10)
    ax.set(aspect="equal", title=title, xlim=(-0.14, 1.14), ylim=(-0.12, 0.98))
    ax.axis("off")
    return drawn


def mark(ax, p, marker, colour, label, size=10):
    ax.plot(*(p @ corners).tolist(), marker, color=colour, markersize=size, markeredgecolor="white", label=label)


figure, ax = plt.subplots(figsize=(7, 4.4))
_, path = minimise(lambda p: total_variance(p, a, f), a.log())
relative = total_variance(grid, a, f) / total_variance(best(a, f), a, f)
drawn = simplex(ax, relative, "Variance of one draw, for each distribution")
figure.colorbar(drawn, label="variance / least variance", shrink=0.75)
ax.plot(*(path @ corners).T, ".-", color=BLACK, linewidth=1, markersize=4, label="path of the search")
mark(ax, a, "o", ORANGE, "attention $a$")
mark(ax, torch.full((3,), 1 / 3), "s", GREEN, "uniform")
mark(ax, best(a, f), "*", RED, "$p^*$, eq. 9", size=15)
ax.legend(loc="upper left", bbox_to_anchor=(-0.22, 1.0))
plt.show()

# %% [markdown]
# The search starts at the attention and ends at the star. The valley is flat near its bottom: a distribution a little off $p^*$ costs little.
# Towards an edge the variance grows without bound, because a location that is hardly ever drawn counts for very much when it is.

# %% [markdown]
# ## The price of using the attention
#
# To draw from $p^*$ one needs the norm of all $K$ features, and these are exactly what sampling is to spare us. So how much is lost by
# drawing from $a$? Divide the two variances. Write $\bar n = \sum_i a_i \lVert f_i\rVert$ for the mean norm under
# the attention, $v$ for the coefficient of variation of the norms (their standard deviation under the attention, divided by $\bar n$) and
# $\rho = \lVert\mu\rVert / \bar n$, a number between 0 (the features cancel) and 1 (they all point the same way). Then
#
# $$
# \frac{\mathbb{V}_a}{\mathbb{V}_{p^*}} = \frac{\sum_i a_i \lVert f_i\rVert^2 - \lVert\mu\rVert^2}{\bar n^2 - \lVert\mu\rVert^2}
# = 1 + \frac{v^2}{1 - \rho^2}
# $$ (eq-price)
#
# for $\rho < 1$; at $\rho = 1$ a single draw from $p^*$ is exact.
#
# The price is a number of draws: $N$ draws from $p^*$ are worth that many times $N$ draws from $a$. It is paid for the spread of the
# norms, and it is multiplied where the features share a direction.
#
# Below, features of 400 locations have log-normal norms with more and more spread. Their directions are either spread
# evenly or, as after a ReLU, all in the positive orthant. Markers are computed from the definition of the variance; lines are {eq}`eq-price`.

# %% mystnb={"image": {"alt": "Variance with the attention over the least variance, against the coefficient of variation of the norms. Both curves start at one and grow like the square of the spread. The curve of the ReLU directions lies above that of directions spread evenly. Markers lie on the lines."}}
K, D = 400, 32
generator = torch.Generator().manual_seed(5)
a_ = torch.randn(K, generator=generator).softmax(0)
directions = torch.randn(K, D, generator=generator)
spread = torch.randn(K, generator=generator)


def price(a, f):
    return total_variance(a, a, f) / total_variance(best(a, f), a, f)


def spread_and_alignment(a, f):
    """The coefficient of variation v and rho of the equation above."""
    norms = f.norm(dim=1)
    mean = a @ norms
    return (a @ (norms - mean).square()).sqrt() / mean, (a @ f).norm() / mean


figure, ax = plt.subplots()
largest = 0
for name, direction, colour, marker in (
    ("directions spread evenly", directions, BLUE, "o"),
    ("directions after a ReLU", directions.relu(), ORANGE, "s"),
):
    unit = direction / direction.norm(dim=1, keepdim=True)
    cases = [unit * (sigma * spread).exp()[:, None] for sigma in torch.linspace(0, 0.9, 10)]
    v, rho = torch.stack([torch.stack(spread_and_alignment(a_, f_)) for f_ in cases]).T
    measured = torch.stack([price(a_, f_) for f_ in cases])
    formula = 1 + v.square() / (1 - rho.square())
    largest = max(largest, (measured / formula - 1).abs().max().item())
    ax.plot(v, formula, color=colour)
    ax.plot(v, measured, marker, color=colour, label=name)
ax.axhline(1, color=GREY, linewidth=1)
ax.set(
    xlabel="coefficient of variation of the norms under the attention",
    ylabel="variance with $a$ / with $p^*$",
    title="The price of drawing from the attention",
)
ax.legend()
plt.show()
print(f"largest relative difference between markers and lines: {largest:.12f}")

# %% [markdown]
# Both curves start at one, where all norms are equal. Features that share a mean direction pay more for the same
# spread. Drawn from $p^*$, every estimate has the same length $\bar n$, and features that agree in direction then agree altogether; drawn from $a$, their lengths
# still differ.
#
# Where on these curves does a network stand? Below, the feature network for Megapixel MNIST, untrained, without its last layer (the
# normalisation), on patches of a regular grid, with uniform attention.

# %%
data = MegapixelMNIST("train", n_images=images, size=300, n_noise=8)
torch.manual_seed(0)
network = torch.nn.Sequential(*list(LeNetFeatures().float())[:-1])  # everything but UnitNorm
# (1, 121, 2)
corner = torch.cartesian_prod(torch.arange(0, 251, 25), torch.arange(0, 251, 25))[None]
for number in range(images):
    image = data[number][0][None].float() / 255
    with torch.no_grad():
        raw = network(extract_patches(image, corner, (50, 50))[0]).double()  # (121, 32)
    uniform = torch.full((len(raw),), 1 / len(raw))
    v, rho = spread_and_alignment(uniform, raw)
    print(
        f"norms from {raw.norm(dim=1).min():.2f} to {raw.norm(dim=1).max():.2f}, v = {v:.2f}, rho = {rho:.2f}, 1 / (1 - rho^2) = {1 / (1 - rho**2):.0f}:\n"
        f"price {price(uniform, raw):.2f}, normalised {price(uniform, raw / raw.norm(dim=1, keepdim=True)):.2f}"
    )

# %% [markdown]
# On neither curve: far above both. The norms spread little, but all features point almost the same way, and $1 / (1 - \rho^2)$ multiplies what the spread costs. Drawn by its attention, here uniform, this untrained network would need the printed price times as many draws as by $p^*$; with
# the normalisation the price is one. The norm is what the network gives up in exchange:
# it can no longer say "much of this" with a longer vector, only with more attention.

# %% [markdown]
# ## Equal norms make the attention optimal
#
# The paper concludes that "sampling according to the attention distribution is optimal when we do not have information about the norm of the
# features", and enforces it by features of equal norm (§3.4: $L_2$ normalisation as the last layer). The second half is eq. 9 with constant
# $\lVert f_i\rVert$. With unit norms the variance of one draw from $a$ is $1 - \lVert\mu\rVert^2$, and that of the mean of $N$ draws
# is $(1 - \lVert\mu\rVert^2)/N$. The first half needs a reading of "no information". One that works: any
# assignment of the norms to the locations is as likely as any other. Then eq. 8, averaged over all assignments, has its minimum at $a$.
#
# (cell-claim-minimum-variance)=
# The cell checks the three statements: the search for unit norms, the variance of the library's `with_replacement` over every draw it
# can make, and the average over all assignments of norms.

# %%
# NBVAL_CHECK_OUTPUT
unit = f / f.norm(dim=1, keepdim=True)
found, _ = minimise(lambda p: total_variance(p, a, unit), torch.zeros(3))
print(f"unit norms: found {row(found, 6)}; attention {row(a, 6)}")

estimator, log_attention = ESTIMATORS["with_replacement"], a.log()
for n in (1, 2, 3):
    index, probability = every_draw(estimator, log_attention, n)  # (M, n), (M,)
    z = estimator(log_attention.expand(len(index), 3), index, unit[index])  # (M, D)
    variance = (probability[:, None] * (z - a @ unit).square()).sum()
    print(
        f"N = {n}, all {len(index):2} draws: variance {variance:.9f}, (1 - |mu|^2) / N = {(1 - (a @ unit).square().sum()) / n:.9f}"
    )

norms = f.norm(dim=1)
shuffled = [unit * norms[list(order), None] for order in itertools.permutations(range(3))]
found, _ = minimise(
    lambda p: sum(eq8(p, a, g) for g in shuffled) / len(shuffled), torch.zeros(3)
)
print(f"norms in any order: found {row(found, 6)}")

# %% [markdown]
# Confirmed, among independent draws from one distribution, each weighted by $a/p$. Note the $-\lVert\mu\rVert^2$: the more the features agree, the less there is to estimate.

# %% [markdown]
# (one-direction)=
# ## If only one direction matters
#
# The trace adds up the variances of all $D$ coordinates as if they mattered equally. A loss does not see it that way. Near $\mu$, to first order,
# it reacts to $z$ only through its gradient $c$, that is through the number $\langle c, z\rangle$. For two classes and a
# linear classifier, $c$ is a multiple of the difference of the two rows of weights. The variance of $\langle c, z\rangle$ is eq. 6
# with the numbers $\langle c, f_i\rangle$ in place of the vectors, so its minimum is
#
# $$
# p^c_i \propto a_i \, \lvert\langle c, f_i\rangle\rvert .
# $$ (eq-direction)
#
# Now the unit norm does not help. A location whose feature is at right angles to $c$ need not be drawn at all, however much attention it has.
# The features below have unit norm; their angles to $c$ are 20°, 80° and 140°.

# %%
# NBVAL_CHECK_OUTPUT
angles = torch.deg2rad(torch.tensor([20.0, 80.0, 140.0]))
turned = torch.stack([angles.cos(), angles.sin()], dim=1)  # unit norm
c = torch.tensor([1.0, 0.0])


def best_for(a, f, c):
    weight = a * (f @ c).abs()
    return weight / weight.sum()


along = lambda p, f: total_variance(p, a, (f @ c)[:, None])
across = lambda p, f: total_variance(p, a, f[:, 1:])
found, _ = minimise(lambda p: along(p, turned), torch.zeros(3))
print(f"<c, f>: {row(turned @ c)}")
print(f"a |<c, f>|, normalised: {row(best_for(a, turned, c), 6)}")
print(f"found:                  {row(found, 6)}")
print("                along c   across c      total")
for name, p in (("attention", a), ("best for c", best_for(a, turned, c))):
    print(
        f"{name:12} {along(p, turned):10.4f} {across(p, turned):10.4f} {total_variance(p, a, turned):10.4f}"
    )

# %% [markdown]
# The formula and the search agree. The distribution that is best along $c$ has the larger total variance: neither is
# better in each direction, which is why "the variance of a vector" needs a reading.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two triangles of distributions over three locations. On the left the total variance, smallest at the attention. On the right the variance along c, smallest at another point close to the edge between locations 1 and 3, because location 2 hardly matters for c."}}
figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.5))
for ax, values, floor, title in (
    (axes[0], total_variance(grid, a, turned), total_variance(a, a, turned), "Total variance, unit norms"),
    (axes[1], along(grid, turned), along(best_for(a, turned, c), turned), "Variance along $c$ only"),
):
    drawn = simplex(ax, values / floor, title)
    mark(ax, a, "o", ORANGE, "attention $a$")
    mark(ax, best_for(a, turned, c), "*", RED, "best along $c$", size=15)
figure.colorbar(drawn, ax=axes, label="variance / least variance", shrink=0.75, pad=0.01)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
plt.show()

# %% [markdown]
# On the left the attention sits at the bottom of the valley. On the right the bottom has moved away from location 2, whose feature is nearly at right
# angles to $c$.
#
# An extreme case: if all $\langle c, f_i\rangle$ have the same sign, drawing from $p^c$ gives $\langle c, \mu\rangle$ exactly, from a single draw.

# %%
# NBVAL_CHECK_OUTPUT
positive = turned.abs()  # as after a ReLU: every <c, f_i> is positive here
p = best_for(a, positive, c)
print(f"estimates of <c, z>, one for each location: {row(one_draw(p, a, positive) @ c, 6)}")
print(f"<c, mu> = {a @ positive @ c:.6f}")
print(
    f"variance along c: best for c {along(p, positive):.6f}, attention {along(a, positive):.6f}"
)

# %% [markdown]
# It is no free lunch. One must know the direction of $c$, which changes in training and, with more than two classes, from image to image, and
# $\langle c, f_i\rangle$ at all locations, which is what we do not want to compute. But it says what the claim of minimal variance is about: the
# pooled feature as a whole, not the output of the network.

# %% [markdown]
# ## What "optimal" does not cover
#
# Equation 5 compares distributions for *one* draw of the form $a_I f_I / p_I$. Better estimators lie outside of this family.
#
# - **Draws that share the work.** $N$ independent draws may hit the same location twice. Drawing without replacement, or spreading the draws
#   evenly over the attention, can have less variance at the same $N$ and the same attention: Des Raj's and Murthy's weights and stratified draws never have more. The cell below shows it for three
#   locations; [chapter 4](04_without_replacement.ipynb) and [chapter 5](05_lower_variance.ipynb) are about it.
# - **The gradient.** What trains the network is the gradient of the estimate, a different vector with its own best distribution
#   ({ref}`ex-02-gradient`). [Chapter 3](03_gradient_with_replacement.ipynb) treats its variance.
# - **Something known in advance.** If a guess of the features is at hand, it can be subtracted before sampling ({ref}`ex-02-guess`).

# %%
# NBVAL_CHECK_OUTPUT
print("variance of the estimate over every draw, unit norms, N = 2")
compared = {name: ESTIMATORS[name] for name in ("with_replacement", "des_raj", "murthy")} | {
    "stratified": Stratified("raster")
}
for name, estimator in compared.items():
    index, probability = every_draw(estimator, log_attention, 2)
    z = estimator(log_attention.expand(len(index), 3), index, turned[index])
    bias = (probability @ z - a @ turned).abs().max()
    print(
        f"{name:18} {(probability[:, None] * (z - a @ turned).square()).sum():.6f}   (mean off by {bias:.12f})"
    )

# %% [markdown]
# ## Summary
#
# - Any distribution that can draw every location with $a_i f_i \ne 0$ gives an unbiased estimate, if the drawn feature is multiplied by $a_I / p_I$.
# - Equations 5 to 9 hold. "Variance" means the trace of the covariance; from eq. 6 to eq. 7 the quantities differ by the constant
#   $\lVert\mu\rVert^2$ and only the argmins are equal.
# - The least total variance belongs to $p^* \propto a \lVert f \rVert$. Using $a$ instead costs a factor $1 + v^2 / (1 - \rho^2)$, with $v$ the coefficient of variation of the norms.
# - With equal norms the factor is one, and the attention has the least total variance of all independent draws from one distribution, weighted by $a/p$: this is why the feature networks of this book end in a unit norm.
# - For a single direction $c$ the best distribution is $a \lvert\langle c, f\rangle\rvert$, which is another one, unit norm or not.
# - The optimum is one among independent draws from one distribution. Draws without replacement and evenly spread draws can have less variance.

# %% [markdown]
# ## Exercises
#
# :::{exercise}
# :label: ex-02-norm-attention
# Suppose that long features also get much attention: $\lVert f_i\rVert = a_i^\gamma$ with $\gamma > 0$. Is $p^*$ more peaked than the attention or less? What if
# $\gamma = -1$?
# :::
#
# :::{solution} ex-02-norm-attention
# :class: dropdown
# $p^*_i \propto a_i \lVert f_i\rVert = a_i^{1 + \gamma}$. A power above one makes a distribution more peaked, so for $\gamma > 0$ one should sample more
# sharply than the attention. With $\gamma = -1$ the product is constant, and the uniform distribution is best: much attention on
# small features is no reason to look there often. Check it with `best(a, a[:, None] ** gamma)`.
# :::
#
# :::{exercise}
# :label: ex-02-guess
# You have a guess $b \in \mathbb{R}^D$ of what a feature looks like, for example the mean feature of earlier images. Use
# $b + \frac{a_I}{p_I}(f_I - b)$ in place of $\frac{a_I}{p_I} f_I$. Is it still unbiased? What is the best $p$ now, and when does the guess
# make no difference?
# :::
#
# :::{solution} ex-02-guess
# :class: dropdown
# The mean is $b + \sum_i a_i (f_i - b) = \mu$, because the attention sums to one. The variance is that of eq. 5 with $f_i - b$ in place of $f_i$,
# so the best distribution is $p \propto a \lVert f - b\rVert$: unit norm no longer makes $a$ optimal. With $p = a$ the
# factor is one and $b$ cancels: $b + f_I - b = f_I$. A guess pays only together with a distribution other than the attention.
# Check it with `total_variance(best(a, f - b), a, f - b)`.
# :::
#
# :::{exercise}
# :label: ex-02-gradient
# The gradient of $\mu$ with respect to the logits $\ell$ of the attention is estimated by $\frac{1}{p_I}\, f_I \otimes \partial a_I / \partial \ell$, with
# $\partial a_i / \partial \ell = a_i (e_i - a)$ and $e_i$ the $i$-th unit vector. Which distribution has the least variance? Compare with the attention, for unit norms.
# :::
#
# :::{solution} ex-02-gradient
# :class: dropdown
# By the argument of eq. 9, $p_i \propto$ the norm of $f_i \otimes a_i (e_i - a)$, which is $a_i \lVert f_i\rVert\, \lVert e_i - a\rVert$. For unit norms
# $p_i \propto a_i \lVert e_i - a\rVert$, where $\lVert e_i - a\rVert^2 = 1 - 2 a_i + \sum_j a_j^2$. It is smaller for locations with much attention: for the gradient,
# one should look at unlikely locations somewhat more often than the attention says. In code:
# `weight = a * (torch.eye(3) - a).norm(dim=1); weight / weight.sum()`.
# :::
