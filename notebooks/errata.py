# %% [markdown]
# # Errata
#
# The mistakes that this book found in the paper {cite}`katharopoulos2019`, in its released code and in the most used port, each with the smallest example that shows it and the
# line that is right. (What takes an experiment to show, about memory, say, or accuracy, is in [the ledger](../ledger.md).) Most have one or two locations and can be checked by hand. None of them touches the idea of the paper, which stands.

# %% [markdown]
# ## What you will learn
#
# - which printed equations and statements to read with care;
# - which lines of published code not to copy, and what to write instead.
#
# **Time and hardware:** a few seconds on one CPU core; no data, no GPU.

# %% tags=["parameters"]
profile = "smoke"  # smoke, laptop or paper

# %%
from itertools import product

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

from atslib import ESTIMATORS, PatchGeometry, downsample, extract_patches, plots
from atslib.enumeration import every_draw, exact_mean

torch.set_default_dtype(torch.float64)
plots.use_style()


def gradient(function, at):
    """Derivative of a number by a tensor."""
    at = at.clone().requires_grad_()
    return torch.autograd.grad(function(at), at)[0]


# %% [markdown]
# ## The paper: equations
#
# (cell-err-eq43)=
# ### Equation 43 loses a factor
#
# | printed | right |
# |---|---|
# | $(a_i f_i + w_i f_j)\, \frac{\partial}{\partial\theta} a_i + \dots$ | $(a_i f_i + w_i f_j)\, \frac{1}{a_i} \frac{\partial}{\partial\theta} a_i + \dots$, which is eq. 44 |
#
# Two locations, attention 0.9 and 0.1, the feature 1 at both. Whatever the attention, the mean feature is 1, so there is nothing to learn and the gradient is zero. With two
# locations the second is certain ($p_i(j) = 1$) and $a_i f_i + w_i f_j = 1$; the second term of eq. 43 is zero, its first is $\partial a_i$. Take $\theta = a_1$, so that
# $\partial a_1 = 1$ and $\partial a_2 = -1$:

# %%
attention, slope = torch.tensor([0.9, 0.1]), torch.tensor([1.0, -1.0])  # a_i and its derivative
truth = slope.sum()  # derivative of a_1 + a_2, the mean of the feature 1
as_printed = (attention * slope).sum()  # mean over the first location
repaired = (attention * slope / attention).sum()
print(
    f"truth {truth:.1f}   eq. 43 as printed {as_printed:.1f}   with the factor {repaired:.1f}"
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# The derivation is in [chapter 4](04_without_replacement.ipynb). Eqs. 42 and 44 are right.
#
# (cell-err-eq44)=
# ### Equation 44 carries parts without signal
#
# This is right, but wasteful. The first term, $(a_i f_i + w_i f_j)\, \partial \log a_i$, has the mean zero for every network: its first factor has the mean $\mu$ given $i$, and
# $\sum_i a_i\, \partial \log a_i = \partial \sum_i a_i = 0$. In the example above it is the *only* term:

# %%
term = slope / attention  # times one
mean, variance = (attention * term).sum(), (attention * term**2).sum()
print(f"first term: mean {mean:.1f}, variance {variance:.1f}; all the rest is exactly zero")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# Right line: leave it out, and with it the part $a_i f_i\, \partial \log p_i(j)$ of the second term, whose mean given $i$ is zero, too ([chapter 4](04_without_replacement.ipynb)). What remains is $\sum_m W_m\,(\partial f_{i_m} + f_{i_m}\, \partial \log a_{i_m})$.
#
# (cell-err-eq14)=
# ### Equation 14 is a poor estimator
#
# The equation holds, as one between means. But §3.2.3 says "we use" it, and as an estimator it puts nearly all the weight on the last draw, unless attention is very peaked. With uniform attention its variance
# is that of one sample times $\big(1 - \frac{N-1}{K}\big)\big(1 - \frac{N-1}{K-1}\big)$: ten locations and three draws by enumeration, then 1,024 locations and ten draws by the formula.


# %%
def variance(name, n, features, attention):
    index, probability = every_draw(ESTIMATORS[name], attention.log(), n)
    z = ESTIMATORS[name](
        attention.log().expand(len(index), -1), index, features[index][..., None]
    )[:, 0]
    return (probability * (z - attention @ features) ** 2).sum()


features, even = torch.arange(10.0), torch.ones(10) / 10
one_sample = variance("with_replacement", 1, features, even)
for name in ("with_replacement", "eq14", "des_raj"):
    print(
        f"K = 10, N = 3: {name:<17} {variance(name, 3, features, even) / one_sample:.3f} of one sample's variance"
    )
survive = lambda n, K: (1 - (n - 1) / K) * (1 - (n - 1) / (K - 1))
des_raj = sum(survive(n, 1024) for n in range(1, 11)) / 100
print(
    f"K = 1024, N = 10: with replacement {1 / 10:.3f}, eq. 14 {survive(10, 1024):.3f}, Des Raj {des_raj:.3f}"
)  # NBVAL_CHECK_OUTPUT

# %% [markdown]
# Right line: the mean of the estimators that eq. 14 gives after $1, 2, \dots, N$ draws (Des Raj {cite}`raj1956`). The released code does this; the paper does not mention it.
#
# (cell-err-eq12)=
# ### Equation 12: not every "=" is one
#
# Read as printed, the left side of eq. 12 is the derivative of an average over a fixed set $Q$. Where the features do not depend on $\theta$ that is zero. The right side is
# another random variable. Two locations, attention 0.5 each, one draw, features 1 and 3, $\theta$ the first logit:

# %%
numbers = torch.tensor([1.0, 3.0])
truth = gradient(lambda logits: logits.softmax(0) @ numbers, torch.zeros(2))[0]
right_side = [
    gradient(lambda logits, q=q: logits.log_softmax(0)[q] * numbers[q], torch.zeros(2))[0]
    for q in (0, 1)
]
logits, seen = torch.zeros(2, requires_grad=True), numbers.clone().requires_grad_()
left_side = [
    torch.autograd.grad(seen[q], logits, allow_unused=True, materialize_grads=True)[0][0]
    for q in (0, 1)
]
for side, values in {"left": left_side, "right": right_side}.items():
    print(
        f"{side:<5} side: {values[0]:4.1f} for q = 1, {values[1]:4.1f} for q = 2,  mean {sum(values) / 2:4.1f}"
    )
print(f"derivative of the mean: {truth:.1f}")  # NBVAL_CHECK_OUTPUT

# %% [markdown]
# Right reading: "=" in eq. 12 means "is replaced by". The right side is the estimator to use, and its *mean* is the derivative of the mean. The "≈" in eqs. 11 and 24 is an equality, if the left side is read as the derivative of the mean.
# [Chapter 3](03_gradient_with_replacement.ipynb) has the details.

# %% [markdown]
# ## The paper: statements that need a condition
#
# (cell-err-minimum-variance)=
# ### "The minimum variance estimator of the full model"
#
# Sampling from the attention has minimal *total* variance among *independent* draws from one distribution, weighted by $a/p$, for features of equal norm ([chapter 2](02_variance_optimality.ipynb)). Other draws do better. Two locations with attention ½ each, features $-1$ and $+1$, two draws: with eq. 14's weights
# one of each is exact (Des Raj averages it with the first draw alone, which is not).

# %%
signs, half = torch.tensor([-1.0, 1.0]), torch.tensor([0.5, 0.5])
for name in ("with_replacement", "des_raj", "eq14"):
    print(f"variance with two draws, {name:<17} {variance(name, 2, signs, half):.2f}")
    # NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-err-unbiased)=
# ### "An unbiased estimator of the full model"
#
# The pooled *feature* is unbiased. What a nonlinear function makes of it is not. The same two locations; three times the feature is the margin of a binary classifier. The full model is undecided (attention ½ and ½) and
# its loss is $\log 2$. The mean loss with $N$ independent draws is the first column below.
#
# (cell-err-number-of-patches)=
# ### "The number of patches should not affect the learned attention distribution" (§F)
#
# The appendix argues that the expectation of the gradients is the same for any number of patches. That holds for the gradient of the feature, not for the gradient of the loss. The second column is what training uses, the mean of
# what backpropagation gives: $\mathbb{E}[L'(z)\, \partial z]$, with $\partial z$ by eq. 12, by the first location's logit and at attention 0.7 and 0.3. It depends on $N$. So does the derivative of the mean loss (third column),
# which from $N = 2$ on is another number here ([chapter 3](03_gradient_with_replacement.ipynb)).


# %%
def mean_loss(first_logit, n):
    """Mean of log(1 + exp(-3 z)), exactly, over n independent draws from two locations whose
    features are -1 and +1.
    """
    a = torch.stack([first_logit, torch.zeros(())]).softmax(0)
    total = 0.0
    for draw in product((0, 1), repeat=n):
        total = total + a[list(draw)].prod() * F.softplus(-3 * signs[list(draw)].mean())
    return total


def mean_backpropagation(first_logit, n):
    """A number whose derivative is the mean of L'(z) times eq. 12 over the same draws, each held
    fixed.
    """
    log_a = torch.stack([first_logit, torch.zeros(())]).log_softmax(0)
    index, probability = every_draw(ESTIMATORS["with_replacement"], log_a, n)
    everywhere = log_a.expand(len(index), -1)
    z = ESTIMATORS["with_replacement"](everywhere, index, signs[index][..., None])[:, 0]
    return probability @ F.softplus(-3 * z)


peaked = torch.tensor(0.7 / 0.3).log()
full = lambda x: F.softplus(-3 * (torch.stack([x, torch.zeros(())]).softmax(0) @ signs))
print("        mean loss   mean of backpropagation   derivative of the mean loss")
for n in (1, 2, 4, 8):
    used, of_mean = (
        gradient(lambda x, n=n, f=function: f(x, n), peaked)
        for function in (mean_backpropagation, mean_loss)
    )
    print(f"N = {n}:  {mean_loss(torch.tensor(0.0), n):9.3f} {used:25.3f} {of_mean:29.3f}")
exact = gradient(full, peaked)
print(f"full:   {full(torch.tensor(0.0)):9.3f} {exact:25.3f} {exact:29.3f}")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# Right statement: features and their gradients are unbiased for every $N$. The mean loss, and the mean gradient that training uses, depend on $N$ and approach those of the full model as $N$ grows.
#
# (cell-err-numbers)=
# ### Numbers in the text against the paper's own tables

# %%
# loss, error
table1 = {
    "U-10": (0.210, 0.156),
    "U-50": (0.075, 0.124),
    "ATS-10": (0.083, 0.093),
    "ATS-50": (0.028, 0.093),
}
for n in (10, 50):
    (loss_u, error_u), (loss_a, error_a) = table1[f"U-{n}"], table1[f"ATS-{n}"]
    print(
        f"§4.3.1, N = {n}: test error lower by {1 - error_a / error_u:.0%} (text: approximately 35 %),\n"
        f"                training loss {loss_u / loss_a:.1f} times lower (text: 3 times)"
    )
both = [sum(table1[f"{name}-{n}"][1] for n in (10, 50)) for name in ("ATS", "U")]
print(
    f"§4.3.1, mean of both N: test error lower by {1 - both[0] / both[1]:.0%} (text: approximately 35 %)"
)
print(
    f"§4.2.1, 5 of 32,400 locations: {5 / 180**2:.3%} (text: 0.01 %); 100: {100 / 180**2:.2%} (text: 0.3 %)"
)
# milliseconds a sample
table1_ms = {"CNN 0.5": 4.8, "CNN 1": 18.7, "Deep MIL": 48.5, "ATS-10": 1.8, "ATS-50": 4.5}
table2_ms = {"Deep MIL": 97.2, "ATS-5": 8.5, "ATS-10": 10.3}
for number, ms in ((1, table1_ms), (2, table2_ms)):
    for ats in (name for name in ms if name.startswith("ATS")):
        times = [f"{ms[name] / ms[ats]:.1f} ({name})" for name in ms if "ATS" not in name]
        print(f"Table {number}, {ats} faster by {', '.join(times)}; caption: 10")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# The text's 35 % fits neither row of the table alone, but the mean of the two. The other numbers are rounded freely; five locations are nearer to 0.02 %. The captions say of ATS, without
# a number of patches, that it is at least ten times as fast as Deep MIL and, in Table 1, as the CNN. By the tables this holds beside Deep MIL, but not for ATS-10 in Table 2; beside the CNN at full size for ATS-10 alone; beside the CNN at half size for neither.

# %% [markdown]
# ## The released code
#
# Repository [idiap/attention-sampling](https://github.com/idiap/attention-sampling). Nothing of it is copied here; its arithmetic is written down again.
#
# (cell-err-ga)=
# ### The attention gradient without replacement is wrong (`ats/core/expectation.py`, `ga1 + ga2`)
#
# Two locations with attention ½ each, both drawn. Whatever the features, the mean of the released gradient is zero. With three of three its mean is a negative multiple of the truth.

# %%
for count in (2, 3):
    features = torch.tensor([1.0, 3.0, 8.0])[:count, None]
    logits = torch.zeros(count)
    truth = gradient(lambda x, f=features: (x.softmax(0) @ f).sum(), logits)
    line = f"K = N = {count}: {'truth':12} {[round(x, 3) for x in truth.tolist()]}"
    for name in ("legacy_idiap", "des_raj"):
        have = gradient(
            lambda x, f=features, c=count, e=name: exact_mean(
                ESTIMATORS[e], x.log_softmax(0), f, c
            ).sum(),
            logits,
        )
        line += f"\n           {name:12} {[round(x, 3) + 0.0 for x in have.tolist()]}"
    print(line)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# Right line: no backward pass at all. With the weights $W_m = (w_m + (N - m)\, a_{i_m}) / N$ as constants,
#
# ```python
# z = (W * (log_a - log_a.detach()).exp() * f).sum(1)
# ```
#
# has the right value, the right feature gradient and the right attention gradient on average. Where the slip lies, and how it turns the gradient round, is in
# [chapter 4](04_without_replacement.ipynb).
#
# The picture has seven locations, of which three share 99.9 % of the attention evenly, and three draws: the derivative of one
# component of the pooled feature by each logit, averaged over every draw.

# %% mystnb={"image": {"alt": "Bars of the mean derivative by the logits of the three locations that hold the attention. Truth and Des Raj agree; the released code's bars point the other way."}}
generator = torch.Generator().manual_seed(2)
seen, start = torch.randn(7, 1, generator=generator), torch.tensor([0.0] * 3 + [-7.2] * 4)
bars = {"truth": gradient(lambda logits: logits.softmax(0) @ seen[:, 0], start)}
for name in ("des_raj", "legacy_idiap", "legacy_port"):
    mean = lambda logits, e=ESTIMATORS[name]: exact_mean(e, logits.log_softmax(0), seen, 3)[0]
    bars[plots.ESTIMATOR_NAMES[name]] = gradient(mean, start)

figure, ax = plt.subplots(figsize=(7, 2.8))
looks = [(plots.BLACK, ""), (plots.BLUE, ""), (plots.RED, "//"), (plots.GREY, "..")]
for k, ((label, values), (colour, hatch)) in enumerate(zip(bars.items(), looks, strict=True)):
    ax.bar(
        torch.arange(3) + 0.2 * k,
        values[:3],
        0.18,
        label=label,
        color=colour,
        hatch=hatch,
        edgecolor="white",
    )
ax.axhline(0, color=plots.BLACK, linewidth=0.8)
ax.set(
    xticks=torch.arange(3) + 0.3,
    xticklabels=["location 1", "location 2", "location 3"],
    ylabel="mean derivative by the logit",
)
figure.legend(loc="outside right upper")
plt.show()

# %% [markdown]
# Truth and Des Raj coincide. The released code's mean is a small fraction of it and points the other way at all three locations: a
# step along it changes the pooled feature in the wrong direction. The port's is small, and here it has the right sign.
#
# (cell-err-test)=
# ### Its test does not notice
#
# `tests/core/test_expectation.py` draws 10 of 100 locations 1,000 times, compares the mean gradient by the attention with the features, and asks that the *median* of the absolute error be below 0.1. The same test on three gradients:

# %%
generator = torch.Generator().manual_seed(0)
# ten problems of 100 locations: features, attention
x, attention = torch.rand(2, 10, 100, generator=generator)
attention = attention / attention.sum(1, keepdim=True)
for name in ("legacy_idiap", "legacy_port", "des_raj"):
    total = torch.zeros(10, 100)
    for _ in range(1000):
        leaf = attention.clone().requires_grad_()
        index = ESTIMATORS[name].sample(leaf.log(), 10, generator=generator)
        z = ESTIMATORS[name](leaf.log(), index, x.gather(1, index)[..., None])
        total += torch.autograd.grad(z.sum(), leaf)[0]
    signed = total / 1000 - x
    print(
        f"{name:<13} median |error| {signed.abs().median():.2f}, mean error {round(signed.mean().item(), 2) + 0.0:+.2f}, largest |error| {signed.abs().max():.1f}"
    )
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# A right gradient and wrong ones pass alike. (A comment beside that assertion asks why the approximation is so bad.) Right test: enumerate all draws of a small problem, as `tests/test_estimators.py` does here; then no tolerance for noise is needed.
#
# (cell-err-cumsum)=
# ### `1 - cumsum(attention)` in float32
#
# In both implementations. Three locations, the first with all but $4 \cdot 10^{-9}$ of the mass, two draws. What is left for the second comes out as zero here, as it does in most such cases ([chapter 4](04_without_replacement.ipynb) counts them), and the code divides by it. In its own experiments this does not happen: the scripts mix $10^{-5}$ or $10^{-4}$ of the uniform distribution into the attention
# (`smooth` of `SampleSoftmax`), so that about as much is always left, and the error is a few per cent at most. The paper does not mention this.

# %%
log_attention = torch.tensor([0.0, -20.0, -20.0]).log_softmax(0)
single = log_attention.float()
print(
    f"mass left: exact {log_attention[1:].exp().sum():.3e}, 1 - a in float32 {(1 - single[0].exp()).item():.3e}, "
    f"atslib in float32 {ESTIMATORS['eq14'].weights(single[None], torch.tensor([[0, 1]]))[0, 1].item():.3e}"
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# Right line: sum what remains, `logsumexp` over the locations not drawn yet.
#
# (cell-err-logits)=
# ### Logits come back as attention (`ats/core/sampling.py`, `use_logits`)
#
# A latent slip: nothing in the released experiments passes `use_logits=True`. The sampler takes logits if told so, but then returns the drawn *logits* as the sampled attention. Every formula downstream takes them for probabilities:

# %%
logits = torch.tensor([2.0, 0.5, -1.0])
returned, expected = logits[:2], logits.softmax(0)[:2]
print(
    f"first two drawn: 'attention' {returned.tolist()}, mass left {1 - returned.sum():.1f};\n"
    f"right: {[round(v, 2) for v in expected.tolist()]}, mass left {1 - expected.sum():.2f}"
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# Right line: gather from the normalised log-attention that was drawn from.
#
# (cell-err-centres)=
# ### Patch centres are off (`ats/core/ats_layer.py`)
#
# The offset of the first centre is half the receptive field, and the centres are spread over what remains of the view after taking off the receptive field. Both should be with the receptive field minus one. Speed limits: view 288 pixels high of an image of 960, four unpadded 3×3
# convolutions (receptive field 9), max-pool 8, 35 rows of attention.

# %%
rows, stride, view, image = 35, 8, 288, 960
index = torch.arange(rows)[None] * 47  # first column of each row of the 35 × 47 map
geometry = PatchGeometry(
    (960, 1280), (288, 384), (35, 47), patch_size=100, stride=stride, receptive_field=9 + 7
)
# in image pixels, from where the network's window lies
true_centre = geometry.centre(index)[0, :, 0]


def published_centre(receptive_field):
    steps = (view - receptive_field) / rows
    return (receptive_field / 2 + (torch.arange(rows) + 0.5) * steps) * image / view


for what, receptive_field in {
    "as released": 9,
    "receptive field minus one": 8,
    "port, left at its default": 0,
}.items():
    off = published_centre(receptive_field) - true_centre
    print(f"{what:<27} first row {off[0]:+6.2f} px, last row {off[-1]:+6.2f} px")
    # NBVAL_CHECK_OUTPUT

# %% [markdown]
# Right line: `centre = (r * stride - padding + receptive_field / 2) * H / h_low`, with a receptive field that the network knows itself. The port adds to the error: its speed-limit script, with the same unpadded convolutions,
# never passes the receptive field, whose default is 0.
#
# (cell-err-defaults)=
# ### A network that can be built once only (`scripts/speed_limits.py`, and the port)
#
# A latent slip, too: each script builds one network, and the port passes its strides. The builder pops the first stride from a *default argument*. The list is made once, when the function is defined, and is one shorter at the next call:


# %%
def build(strides=[1, 2, 2, 2]):  # noqa: B006
    first = strides.pop(0)
    return first, list(strides)


print("first network :", build())
print("second network:", build())  # NBVAL_CHECK_OUTPUT

# %% [markdown]
# Right line: `first, *rest = strides`.
#
# (cell-err-mnist)=
# ### Megapixel MNIST: noise on top of digits (`scripts/make_mnist.py`)
#
# Noise patches are placed after the digits without looking where these are. How many images have a digit whose square is overwritten in part? Positions only, as the script draws them:

# %%
generator = torch.Generator().manual_seed(0)
images = 4000
digits = (torch.rand(images, 5, 2, generator=generator) * (1500 - 28)).round()
noise = (torch.rand(images, 50, 2, generator=generator) * (1500 - 56) + 28).floor()
overlap = ((digits[:, :, None] - noise[:, None]).abs() < 28).all(-1)  # (images, 5, 50)
print(f"{overlap.flatten(1).any(1).double().mean():.1f} of the images have an overlapped digit")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (That digits do not overlap each other hardly matters here and is left out.) The paper does not mention it. `atslib.data.MegapixelMNIST` says which rule it follows.

# %% [markdown]
# ## The PyTorch port
#
# Repository [sara-nl/attention-sampling-pytorch](https://github.com/sara-nl/attention-sampling-pytorch), the most used port. It inherits what is said above, and adds:
#
# (cell-err-port)=
# ### Inclusive cumulative sums (`ats/core/expectation.py`)
#
# The mass left *before* a draw is computed as the mass left *after* it. One draw is enough to see it: then $z = f_{i_1}$, and $\partial z / \partial f_{i_1} = 1$.

# %%
for a in (0.5, 0.9, 0.99):
    log_attention, seen = torch.tensor([[a, 1 - a]]).log(), torch.ones(1, 1, 1)
    line = f"attention of the drawn location {a:.2f}:"
    for name in ("des_raj", "legacy_idiap", "legacy_port"):
        by_feature = gradient(
            lambda f, e=ESTIMATORS[name], la=log_attention: e(la, torch.tensor([[0]]), f).sum(),
            seen,
        )
        line += f"  {name} {by_feature.item():.2f}"
    print(line)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# The surer the attention, the less the feature network learns from what it sees. The value does not show it: the two slips in it cancel. Right line: the cumulative sum minus the term itself, `a.cumsum(1) - a`.
#
# (cell-err-nearest)=
# ### A view by nearest neighbour (`dataset/mega_mnist_dataset.py`)
#
# The low-resolution view is made by `F.interpolate` with its default mode, which picks one row and one column in eight, one pixel in 69, and drops the others. An image with thin strokes, at the scale of 0.12; what comes out depends on where the strokes happen to be:

# %%
for first in (0, 3):
    image = torch.zeros(1, 1, 1500, 1500)
    image[..., first::50, :] = 1  # thirty lines, one pixel wide
    nearest = F.interpolate(image, scale_factor=0.12)
    averaged = downsample(image, (180, 180))
    print(
        f"lines from row {first}: mean brightness {image.mean():.3f}, nearest {nearest.mean():.3f}, atslib.downsample {averaged.mean():.3f}"
    )
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# Right line: average over the area that a pixel covers.
#
# (cell-err-padding)=
# ### Grey beyond the border (`ats/data/from_tensors.py`)
#
# Images are normalised to $[-1, 1]$, so that black is $-1$; then they are padded with 0, which is mid-grey. A patch at the corner of a black image:

# %%
black = torch.full((1, 1, 4, 4), -1.0)
corner = torch.tensor([[[-1, -1]]])
print("padded with 0:  ", extract_patches(black, corner, 3)[0, 0, 0].int().tolist())
print("padded with -1: ", extract_patches(black, corner, 3, fill=-1)[0, 0, 0].int().tolist())
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-err-valid)=
# ### `padding_mode="valid"` (`models/attention_model.py`)
#
# In PyTorch "valid" is a value of `padding`, not of `padding_mode`:

# %%
try:
    nn.Conv2d(3, 8, 3, padding_mode="valid")
except ValueError as error:
    print("ValueError:", str(error).split("{")[0].strip(), "…")
print("right:", nn.Conv2d(3, 8, 3, padding="valid"))  # NBVAL_CHECK_OUTPUT

# %% [markdown]
# ## Summary
#
# | where | what | what to do |
# |---|---|---|
# | paper, eq. 43 | a factor $1/a_i$ is missing | use eq. 44 |
# | paper, eq. 44 | two parts with mean zero carry no signal | leave them out; that mostly lowers the variance |
# | paper, eq. 14 | poor estimator, not what the code does | average the prefixes |
# | paper, eq. 12 | "=" between different random variables | read it as "is replaced by" |
# | paper, abstract and §F | unbiased, minimal variance, any number of patches: conditions missing | see above |
# | paper, text and captions of §4 | numbers that its own tables do not quite give | read the tables |
# | released code | wrong attention gradient, and a test that does not notice | the one formula; enumerate the draws |
# | released code, Megapixel MNIST | noise may cover digits | keep them apart |
# | both | `1 - cumsum` in float32 (harmless with the smoothed attention of their scripts), patch centres | see above |
# | both, only if called otherwise than in their scripts | logits for attention, default arguments | see above |
# | port | inclusive sums, nearest neighbour, zero padding, `padding_mode` | see above |
#
# If you find another, or find one of these to be wrong, [an issue](https://github.com/atslib/atslib/issues) with a short program is welcome.
