# %% [markdown]
# # What it costs
#
# A method that reads ten small patches should cost as much for a huge image as for a small one. The paper promises that memory "only depends on
# the number [of] sampled patches and the patch size" (§4.1.2), and up to 25 times less time and 30 times less memory than a model that reads every patch (§1).
# This chapter measures both, for every method, on images of up to 144 megapixels.
#
# **What came out**, as the end of this page computes it ([the glossary](../glossary.md) has the words):
#
# :::{glue:md} what-came-out
# :format: myst
# :::
#
# ## What you will learn
#
# - how time and memory of each method grow with the image and with the number of patches;
# - which part of attention sampling does depend on the image: the view;
# - how many of $N$ draws show something different, and what the others cost;
# - how our ratios compare with the paper's, and how far they depend on the program of a baseline;
# - what error a budget of milliseconds buys, and what a gigapixel would cost.
#
# **Time and hardware:** 20 minutes to read, about a minute to run on one idle CPU core, some minutes on a busy one; nothing is downloaded. The
# large images come from a record; the small ones are measured again on this page.

# %% tags=["parameters"]
profile = "smoke"  # smoke: a few small points are measured, the rest is read; laptop, paper: the whole sweep is measured
live_seconds = 0.3  # for each time measured on this page
gpu_gb = 16  # memory of the GPU in the questions "what fits?"

# %% tags=["hide-input"]
import itertools
import json
import math
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown
from safetensors.torch import load_file
from scipy.stats import binomtest
from scipy.stats import t as student
from torch.utils.data import Subset

from atslib import plots
from atslib.data import MegapixelMNIST
from atslib.experiments import colon_cancer, load_records, megapixel_mnist
from atslib.experiments.runs import attention_snapshots
from atslib.experiments.summary import least_p, mean_and_stderr, method_name, permutation_test
from atslib.profiling import peak_memory, training_step
from atslib.training import evaluate

sys.path.append("../benchmarks")
import cost_by_size

plots.use_style()
torch.set_num_threads(1)
cpu = torch.device("cpu")
device = cpu if profile == "smoke" else torch.device("cuda" if torch.cuda.is_available() else "cpu")


def read(name):
    path = Path("../results") / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


# %% [markdown]
# ## What is measured
#
# One sample is one image at batch size 1: a forward and a backward pass, reading the patches included (§4.1.2). **Memory** is
# the most that all tensors hold at any moment: image, weights, activations, gradients
# ([`atslib.profiling`](https://github.com/atslib/atslib/blob/main/atslib/profiling.py)). It does not depend on what else the
# machine does. **Time** does; where the record has the processor time of the program itself, this page uses that.
#
# The networks are those of Megapixel MNIST, untrained, with patches of 50 × 50. ATS-10 is attention sampling with ten patches; U-10 draws ten
# anywhere, with equal chances. Deep MIL {cite}`ilse2018` reads a patch every 25 pixels. CNN 1 is the paper's ResNet-16 on the image, CNN 0.5 the same on the image at half size.
# The images are random pixels, so that no two patches are alike: the most that the methods cost. [Where patches are alike](#cell-equal-patches), it is less.
#
# **Only ratios, each within one run, are compared with the paper's**, which were measured on a GPU.

# %% tags=["hide-input"]
if profile == "smoke":
    record = read("cost/by_size.json")
else:
    record = {part: cost_by_size.measured(part, device, limit_mb=6000, limit_s=60) for part in ("memory", "time", "kept")}

METHODS = {  # of the record -> name on this page, style
    "ATS, view fixed": ("ATS-10, view 180²", dict(color=plots.BLUE, marker="o", linestyle="-")),
    "ATS, scale fixed": ("ATS-10, scale 0.12", dict(color=plots.ORANGE, marker="^", linestyle="-")),
    "ATS, view at hand": ("ATS-10, view at hand", dict(color=plots.SKY, marker="<", linestyle="--")),
    "uniform": ("U-10", dict(color=plots.GREEN, marker="v", linestyle="--")),
    "CNN 1/2": ("CNN 0.5", dict(color=plots.PURPLE, marker="D", linestyle="--")),
    "CNN 1": ("CNN 1", dict(color=plots.RED, marker="D", linestyle="-")),
    "Deep MIL": ("Deep MIL", dict(color=plots.BLACK, marker="s", linestyle="-")),
    "Deep MIL, chunks of 100": ("Deep MIL, chunks of 100", dict(color=plots.GREY, marker="x", linestyle=":")),
}


PAPER_NAMES = {"CNN 1/2": "CNN 0.5", "CNN .5": "CNN 0.5", "CNN .3": "CNN 0.3"}  # of the records -> on this page
RING = dict(marker="o", linestyle="none", mfc="none", ms=11, mew=1.4, zorder=5)  # around what is measured on this page


def points_of(part, method, series="side", source=None):
    points = (source or record).get(part, {}).get("points", [])
    return [p for p in points if (p["series"], p["method"]) == (series, method) and "skipped" not in p]


def milliseconds(point):
    return point.get("cpu_ms", point["ms"])


def beyond(point):
    """Memory without the image, in MB."""
    return point["peak_mb"] - point["image_mb"]


def xy(part, method, series="side", source=None):
    """Megapixels, patches or patch pixels, and MB or ms."""
    points = points_of(part, method, series, source)
    x = dict(side=lambda p: p["side"] ** 2 / 1e6, n=lambda p: p["n"], patch=lambda p: p["patch"] ** 2)[series]
    y = beyond if part == "memory" else milliseconds
    return np.array([x(p) for p in points], float), np.array([y(p) for p in points], float)


def slope(x, y):
    """Exponent b of y = c xᵇ by least squares of the logarithms, and its standard error (NaN for two points)."""
    if len(x) < 2:
        return math.nan, math.nan
    if len(x) == 2:
        return float(np.diff(np.log(y))[0] / np.diff(np.log(x))[0]), math.nan
    coefficients, covariance = np.polyfit(np.log(x), np.log(y), 1, cov=True)
    return float(coefficients[0]), float(np.sqrt(covariance[0, 0]))


def with_error(value, error, digits=2):
    if math.isnan(value):
        return "–"
    return f"{round(value, digits) + 0:.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")  # + 0: no "-0.00"


def small(value, unit):
    """MB or ms, as one says it."""
    if value >= 1000:
        value, unit = value / 1000, dict(MB="GB", ms="s")[unit]
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


# %% [markdown]
# ## A few points, now
#
# Images of 500 × 500, on this machine. The memory should be that of the record; the times need not.

# %%
live_points = [
    p
    for p in cost_by_size.points(sides=(500,), counts=(1, 10, 25), patches=())
    if p["method"] != "ATS, view at hand"
]
quick = [p for p in live_points if not p["method"].startswith("Deep MIL")]
live = {
    "memory": dict(points=cost_by_size.sweep("memory", live_points, cpu, 6000, math.inf)),
    "time": dict(points=[p | cost_by_size.measure_time(p, cpu, live_seconds) for p in quick]),
}

# %% [markdown]
# ## Memory against the image
#
# There are two ways to show a larger image to the attention. Keep the **view** at 180 × 180 and let its scale fall; or keep the
# **scale** at 0.12 and let the view grow. The paper chooses a scale for each data set, whose images are all of one size.

# %% [markdown]
# (cell-memory-by-size)=

# %% mystnb={"image": {"alt": "Memory beyond the image against megapixels, both logarithmic. Attention sampling with a fixed view and uniform sampling are flat and lowest. At constant scale the line bends upwards at the largest images. CNNs and Deep MIL are straight lines far above, rising in proportion to the pixels; Deep MIL in chunks is nearly flat between them."}}
def last_slope(part, method):
    """Slope between the two largest sizes, for a legend."""
    x, y = xy(part, method)
    return f": {with_error(slope(x[-2:], y[-2:])[0], math.nan)}" if len(x) > 1 else ""


figure, ax = plt.subplots(figsize=(7, 5.1))
for method, (name, style) in METHODS.items():
    if method == "ATS, view at hand":
        continue  # as with a fixed view
    ax.plot(*xy("memory", method), label=name + last_slope("memory", method), **style)
    ax.plot(*xy("memory", method, source=live), **RING, color=style["color"])
x = np.array(cost_by_size.SIDES) ** 2 / 1e6
ax.plot(x, x, color="#bbbbbb", lw=1, label="the image itself, 1 byte a pixel")
ax.plot([], [], **RING, color="black", label="measured on this page")
ax.axhline(1000 * gpu_gb, color="#bbbbbb", lw=1, ls=":")
ax.text(0.26, 1000 * gpu_gb * 1.15, f"{gpu_gb} GB", color="#666666", fontsize=10)
ax.set(
    xscale="log",
    yscale="log",
    xlabel="megapixels of the image",
    ylabel="memory beyond the image, MB",
)
ax.set(xticks=[1, 10, 100], xticklabels=[1, 10, 100])
figure.legend(
    loc="outside lower center", ncols=2, title="method: slope between the two largest sizes"
)
plt.show()

# %% [markdown]
# A slope of 1 is growth in proportion to the pixels, 0 is none. Only the methods that draw a fixed number of
# patches, with a view of fixed size or none, are flat. Deep MIL is nearly so if its patches are taken in chunks.
# Of the baselines the paper says that memory and computation "scale linearly with the size of the input image" (§4.3).
#
# (cell-claim-baselines-linear)=

# %% tags=["hide-input"]
GIGA_MPX = 1000  # a gigapixel
rows = []
for method, (name, _) in METHODS.items():
    x, y = xy("memory", method)
    if method == "ATS, view at hand" or not len(x):
        continue
    rows.append([name, small(y[0], "MB"), small(y[-1], "MB") + f" at {x[-1]:g} Mpx", with_error(*slope(x, y)), with_error(*slope(x[-2:], y[-2:]))])
display(plots.table(["memory beyond the image", f"at {x[0]:g} Mpx", "largest measured", "slope, all sizes", "slope, last two"], rows))
x, y = xy("memory", "Deep MIL, chunks of 100")
chunk_growth = (y[-1] - y[-2]) / (x[-1] - x[-2])  # MB a megapixel
Markdown(
    f"Deep MIL in chunks goes from {y[0]:.1f} MB at {x[0]:g} to {y[-1]:.1f} MB at {x[-1]:g} megapixels. Most of it is the activations of one chunk, which do not depend on the image. But something is kept of every patch, its feature above all: "
    f"{chunk_growth:.2f} MB a megapixel between the last two sizes, or {chunk_growth * GIGA_MPX:.0f} MB more at {GIGA_MPX:,} megapixels. So it grows with the image, slowly."
)

# %% [markdown]
# Memory has no noise; the standard error of a slope only says how far the points lie from a straight line. A curve whose first slope is between 0 and 1 bends; the last column
# says where it goes.
#
# (cell-claim-memory-independent)=

# %% tags=["hide-input"]
# Tables 1 and 2 of the paper: test error and its standard error, ms, MB
PAPER = {
    "colon_cancer": {
        "U-10": (0.156, 0.006, 1.8, 19), "U-50": (0.124, 0.010, 4.6, 24), "CNN 0.5": (0.104, 0.009, 4.8, 65),
        "CNN 1": (0.092, 0.012, 18.7, 250), "Deep MIL": (0.093, 0.004, 48.5, 644), "ATS-10": (0.093, 0.014, 1.8, 21),
        "ATS-50": (0.093, 0.019, 4.5, 26),
    },
    "speed_limits": {
        "U-5": (0.531, 0.004, 7.8, 39), "U-10": (0.472, 0.008, 10.8, 78), "CNN 0.3": (0.311, 0.049, 6.6, 86),
        "CNN 0.5": (0.295, 0.039, 15.6, 239), "CNN 1": (0.247, 0.001, 64.2, 958), "Deep MIL": (0.083, 0.006, 97.2, 1497),
        "ATS-5": (0.089, 0.002, 8.5, 86), "ATS-10": (0.095, 0.008, 10.3, 118),
    },
}  # fmt: skip
TITLES = {"colon_cancer": "Colon cancer (Table 1)", "speed_limits": "Speed limits (Table 2)"}
cost = {name: {PAPER_NAMES.get(row["method"], row["method"]): row for row in read(f"cost/{name}.json").get(name, [])} for name in PAPER}

_, fixed = xy("memory", "ATS, view fixed")
megapixels, scaled = xy("memory", "ATS, scale fixed")
spread = fixed.max() / fixed.min() - 1
grown = scaled[-1] / scaled[0]
paper_view = PAPER["speed_limits"]["ATS-5"][3] - PAPER["speed_limits"]["U-5"][3]
signs = cost["speed_limits"]
our_view = signs["ATS-5"]["peak_mb"] - signs["U-5"]["peak_mb"] if {"ATS-5", "U-5"} <= set(signs) else None
Markdown(
    "**§4.1.2, \"only depends on the number [of] sampled patches and the patch size\"**. With the view kept at 180² "
    + ("that is so" if spread < 0.15 else "that is not so")
    + f": between {megapixels[0]:g} and {megapixels[-1]:g} megapixels the memory beyond the image "
    + (f"is {fixed.min():.1f} MB throughout " if spread < 0.005 else f"lies between {fixed.min():.1f} and {fixed.max():.1f} MB ")
    + f"(slope {with_error(*slope(megapixels, fixed), 3)}). "
    f"At constant scale it {'grows' if grown > 1.5 else 'stays'} from {scaled[0]:.1f} to {scaled[-1]:.0f} MB, and at the end in proportion to the pixels "
    f"(slope {slope(megapixels[-2:], scaled[-2:])[0]:.2f}): the attention network keeps its activations for every pixel of the view.\n\n"
    f"The paper's own Table 2 shows the same. U-5 and ATS-5 read as many patches of the same size, but ATS-5 takes {paper_view} MB more"
    + (f" (here {our_view:.0f} MB)" if our_view is not None else "")
    + " for the attention on a view of 288 × 384. So memory depends on the number of patches, their size, and the *size of "
    "the view*; on the image only if the view grows with it. The image itself is not counted: in the paper it stays in main memory."
)
# NBVAL_CHECK_OUTPUT

# %% tags=["hide-input"]
key = lambda p: tuple(p[name] for name in ("series", "method", "side", "n", "patch"))
recorded_memory = {key(p): p for p in record["memory"]["points"]}
both = {key(p): p["peak_mb"] / recorded_memory[key(p)]["peak_mb"] - 1 for p in live["memory"]["points"] if key(p) in recorded_memory}
apart = {where: change for where, change in both.items() if change}
worst = max(map(abs, both.values()))
listed = "; ".join(f"{method}, {side}², N = {n}: {change:+.1%}" for (_, method, side, n, _), change in apart.items())

# Of methods that draw nothing, the peak was counted from the shapes of the tensors; here one of them is really run.
really_run = dict(series="side", method="CNN 1/2", side=250, n=10, patch=50)
model, picture, label, _ = cost_by_size.prepare(really_run, cpu)
run_mb = peak_memory(training_step(model, picture, label)) / 1e6
counted_mb = cost_by_size.measure_memory(really_run, cpu)["peak_mb"]
Markdown(
    f"**Two checks.** Of {len(live_points)} points measured on this page {len(both)} are in the record, and their memory is "
    + (
        "the same to the byte. "
        if not apart
        else f"{'the same within 1 %' if worst < 0.01 else '**not the same**'}: to the byte at {len(both) - len(apart)}, not at {len(apart)} ({listed}), "
        "where this version of the program takes another amount. "
    )
    + "For the CNNs and Deep MIL on the CPU the peak is counted from the shapes of the tensors, "
    "which works beyond the machine's memory, too. "
    f"For CNN 0.5 at 250² the count is {counted_mb:.3f} MB and a real step takes {run_mb:.3f} MB."
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# ## Time against the image
#
# Time has a further part: the view has to be made from all pixels of the image. Formats that keep a pyramid
# of resolutions, as for slides and satellite images, have the view at hand (`model(image, low)`), without that part.
#
# (cell-time-by-size)=

# %% mystnb={"image": {"alt": "Milliseconds per sample against megapixels, both logarithmic. Uniform sampling and attention sampling with the view at hand are flat. With the view computed from the image the line rises at the largest images, at constant scale earlier. CNNs and Deep MIL rise at least in proportion to the pixels and end where memory or time limits are exceeded; hollow markers continue them in proportion to the pixels."}}
figure, ax = plt.subplots(figsize=(7, 5.1))
for method, (name, style) in METHODS.items():
    x, y = xy("time", method)
    if not len(x):
        continue
    ax.plot(x, y, label=name + last_slope("time", method), **style)
    ax.plot(*xy("time", method, source=live), **RING, color=style["color"])
    left_out = [
        p
        for p in record["time"]["points"]
        if p["series"] == "side" and p["method"] == method and "skipped" in p
    ]
    if left_out:  # in proportion to the pixels, and marked so
        larger = np.array([p["side"] ** 2 / 1e6 for p in left_out])
        ax.plot(
            larger,
            y[-1] * larger / x[-1],
            **style | dict(linestyle="none", mfc="white"),
            alpha=0.8,
        )
ax.plot([], [], **RING, color="black", label="measured on this page")
ax.plot([], [], "s", color="black", mfc="white", label="extrapolated: not run")
ax.set(
    xscale="log",
    yscale="log",
    xlabel="megapixels of the image",
    ylabel="forward and backward, ms",
)
ax.set(xticks=[1, 10, 100], xticklabels=[1, 10, 100])
figure.legend(
    loc="outside lower center", ncols=2, title="method: slope between the two largest sizes"
)
plt.show()

# %% tags=["hide-input"]
rows, faster = [], []  # faster: continued in proportion, though time grew faster at the last step
for method, (name, _) in METHODS.items():
    x, y = xy("time", method)
    if not len(x):
        continue
    left_out = [p for p in record["time"]["points"] if p["series"] == "side" and p["method"] == method and "skipped" in p]
    why = "–"
    if left_out:
        if slope(x[-2:], y[-2:])[0] > 1.1:
            faster.append(name)
        why = "from {:g} Mpx: {}".format(left_out[0]["side"] ** 2 / 1e6, "does not fit" if left_out[0]["skipped"] == "memory" else "too long")
    rows.append([name, f"{y[0]:.0f} ms", small(y[-1], "ms") + f" at {x[-1]:g} Mpx", with_error(*slope(x, y)), with_error(*slope(x[-2:], y[-2:])), why])
display(plots.table(["time", "at 0.25 Mpx", "largest measured", "slope, all sizes", "slope, last two", "not run"], rows))

limits = record["time"]
Markdown(
    f"\"Does not fit\" means more than {limits['limit_mb'] / 1000:g} GB, \"too long\" more than {limits['limit_s']:g} s for one step, the limits of the "
    "sweep; hollow markers (for chunks, crosses without a line) continue in proportion to the pixels. "
    + (f"Between the last two sizes measured, the times of {' and '.join(faster)} grew faster than that, so these may be too low." if faster else "")
)

# %% [markdown]
# ### How certain the times are
#
# The same computation stands at several places of the record: the same code, network, seed and random image, with all patches computed. Ten patches on 1500² are in the sweep over image sizes, in that over N and in that
# over patch sizes, and at 1500² a scale of 0.12 *is* a view of 180². How much its times differ says how certain a time is:

# %% tags=["hide-input"]
def state(part):
    if part not in record:
        return [f"`{part}`", "not run", "–", "–", f"`python benchmarks/cost_by_size.py {part} --threads 1 --json results/cost/by_size.json`"]
    machine, points = record[part]["hardware"], record[part].get("points", [])
    left_out = sum("skipped" in point for point in points)
    load = machine.get("load_before")
    how = "–" if load is None else f"{'quiet' if load < 0.5 else 'busy'}: {load:.1f} other programs on {machine['cores']} cores"
    count = f"{len(points) - left_out} ({left_out} left out)" if points else "–"
    return [f"`{part}`", count, f"{machine['name']}, {machine['threads']} thread(s)", how, f"{record[part]['wall_seconds']:.0f} s"]


def configuration(point):
    """What is computed at a point. Points that agree in it differ in nothing but their place in the sweep."""
    sampled = point["method"] in ("ATS, view fixed", "ATS, scale fixed")
    view = round(cost_by_size.SCALE * point["side"]) if point["method"] == "ATS, scale fixed" else cost_by_size.VIEW
    return ("ATS" if sampled else point["method"]), view, point["side"], point["n"], point["patch"]


alike = {}
for point in record["time"]["points"]:
    if "skipped" not in point:
        alike.setdefault(configuration(point), []).append(point)
SERIES = dict(side="image sizes", n="N", patch="patch sizes")
rows, spread_of = [], {}
for (kind, _, side, n, patch), found in alike.items():
    times = [milliseconds(p) for p in found]
    if len(found) > 1:
        spread_of[kind] = min(times), max(times)
        where = [SERIES[p["series"]] + (", scale 0.12" if p["method"] == "ATS, scale fixed" else "") for p in found]
        listed = "; ".join(f"{t:.1f} ms ({w})" for t, w in zip(times, where))
        rows.append([f"{'U' if kind == 'uniform' else kind}-{n}, {side}², patches of {patch}²", listed, f"{max(times) / min(times):.2f}"])
timing = max((high / low for low, high in spread_of.values()), default=1.0)
display(plots.table(["identical computation", "time (sweep over)", "largest / smallest"], rows))
display(plots.table(["part of the record", "points", "machine", "load before", "took"], [state(part) for part in ("memory", "time", "kept")]))
timed = [p for p in record["time"]["points"] if "skipped" not in p and "cpu_ms" in p]
widest = max((p for p in record["time"]["points"] if "skipped" not in p), key=lambda p: p["ms_high"] / p["ms_low"])
share = sum(p["cpu_ms"] for p in timed) / sum(p["ms"] for p in timed) if timed else 1.0


def now_and_then():
    """Times of this page over those of the record, of the points that are in both."""
    then = {key(p): p for p in record["time"]["points"] if "skipped" not in p}
    return sorted(milliseconds(p) / milliseconds(then[key(p)]) for p in live["time"]["points"] if key(p) in then)


ratios = now_and_then()
display(
    Markdown(
        f"**Identical computations differ by up to a factor of {timing:.2f}** (why was not measured), so a time of this record is certain to about that factor, and smaller differences say nothing. "
        + f"The repetitions of one point differ most for {METHODS[widest['method']][0]} at {widest['side'] ** 2 / 1e6:g} Mpx: {widest['ms_low']:.0f} to {widest['ms_high']:.0f} ms. "
        + (f"The program had {share:.0%} of a processor, so it was {'hardly ' if share >= 0.9 else ''}interrupted." if timed else "")
        + (
            f" The times of this page (rings) are {np.median(ratios):.1f} times the record's, the median of {len(ratios)} points ({ratios[0]:.1f} to {ratios[-1]:.1f}): another machine, or one with other things to do."
            if ratios and not 1 / 1.5 < np.median(ratios) < 1.5
            else ""
        )
    )
)

# %% [markdown]
# As ratios, at the size of which there are several measurements; the range is that over the identical computations:

# %% tags=["hide-input"]
def range_at(method, side=1500):
    """Lowest and highest time of a method at this size, over all places of the record where it was measured; none if it was not."""
    kinds = {configuration(p) for p in points_of("time", method) if p["side"] == side}
    times = [milliseconds(p) for kind in kinds for p in alike[kind]]
    return (min(times), max(times)) if times else None


def ratio_range(method):
    """Of its time to that of ATS-10."""
    (low, high), (base_low, base_high) = range_at(method), range_at("ATS, view fixed")
    return low / base_high, high / base_low


def as_range(low, high):
    digits = 0 if low >= 10 else 1
    low, high = (f"{value:,.{digits}f}" for value in (low, high))
    return low if low == high else f"{low} to {high}"


compared = [m for m in METHODS if m not in ("ATS, view fixed", "ATS, scale fixed", "ATS, view at hand") and range_at(m)]
rows = [["ATS-10", as_range(*range_at("ATS, view fixed")) + " ms", "1"]]
rows += [[METHODS[m][0], as_range(*range_at(m)) + " ms", as_range(*ratio_range(m))] for m in compared]
display(plots.table(["1500², 2.25 megapixels", "time", "times that of ATS-10"], rows))
# NBVAL_CHECK_OUTPUT

# %% tags=["hide-input"]
at = {m: dict(zip(*xy("time", m))) for m in METHODS}
making = {x: at["ATS, view fixed"][x] - at["ATS, view at hand"][x] for x in sorted(set(at["ATS, view fixed"]) & set(at["ATS, view at hand"]))}
large = max(making)
s_hand, s_scale = slope(*xy("time", "ATS, view at hand")), slope(*(v[-2:] for v in xy("time", "ATS, scale fixed")))
text = (
    f"**§4.3, \"the computational and memory requirements depend only on the size and the number of the patches\"**. For time this "
    f"{'holds' if abs(s_hand[0]) < 0.05 else 'does not hold'} where the view is at hand (slope {with_error(*s_hand, 3)}). Making a view of 180² from {large:g} megapixels "
    f"took {making[large]:.0f} ms, {making[large] / at['ATS, view fixed'][large]:.0%} of that step. "
)
# Chapter 14 timed the making of its views alone, each image a new one. Its rate holds here if it was found on such a machine as this record.


def like_the_record(machine):
    """Whether a machine is the record's, by all that both say of it."""
    mine = record["time"]["hardware"]
    return all(machine[what] == mine[what] for what in ("device", "name", "threads", "cpu_capability") if what in machine and what in mine)


found = [read(f"sizes/{path.name}") for path in sorted(Path("../results/sizes").glob("*.json"))]
here = [numbers for numbers in found if like_the_record(numbers["hardware"])]
rates = {}  # megapixels -> ms for each
for numbers in here or found[:1]:
    for row in numbers["sizes"]:
        rates.setdefault(row["size"] ** 2 / 1e6, []).append(row["view_ms"] / (row["size"] ** 2 / 1e6))
rates = {x: float(np.mean(values)) for x, values in sorted(rates.items())}
making_rate = rates[max(rates)] if here else making[large] / large
if rates:
    machine = (here or found)[0]["hardware"]
    text += (
        f"[Chapter 14](14_gigapixel.ipynb) timed this part alone, for its own views, on {'a machine of the same name' if here else 'another machine'} ({machine['name']}, {machine['threads']} thread(s)): {min(rates.values()):.2f} to {max(rates.values()):.2f} ms a megapixel, from {min(rates):,.0f} to {max(rates):,.0f} megapixels"
        + (", so in proportion to the pixels. " if max(rates.values()) < 1.5 * min(rates.values()) else ". ")
    )
lost = [x for x in making if making[x] < (timing - 1) * at["ATS, view fixed"][x]]
if lost:
    text += f"At {', '.join(f'{x:g}' for x in lost)} megapixels the difference is within the uncertainty of the times. "
text += f"At constant scale the last slope is {s_scale[0]:.2f}" + (
    ": more than 1, though view and attention take as much arithmetic for each pixel as before. Why was not measured; caches are likely, and the fresh pages of the section on where a CPU's time goes."
    if s_scale[0] > 1.1
    else ": attention on the view, in proportion to the pixels, becomes the largest part."
)
Markdown(text)

# %% [markdown]
# ## Against the number of patches
#
# On images of 1500 × 1500, memory and time have a fixed part (view and attention) and a part for each patch:
# $a + bN$. The two numbers of this line say more than a logarithmic slope.
#
# (cell-cost-by-n)=

# %% mystnb={"image": {"alt": "Left: memory beyond the image against N, both logarithmic, for attention sampling and uniform sampling: flat, then rising in proportion; straight-line fits follow the points. Right: the same for time, with a third curve for a forward pass alone; the last points lie above their lines."}}
N_METHODS = {"ATS, view fixed": "ATS", "uniform": "uniform"}
# more patches than that: activations above 32 MB, for which there are fresh pages each time
FRESH = 2**25 // (4 * 32 * 44**2)


def line(x, y, sizes_from=5, sizes_to=math.inf):
    """a, b of y = a + b N with their standard errors; weighed by 1/y, so that each point counts for its share. Fewer than five
    patches are left out: there, memory peaks in the attention."""
    chosen = (x >= sizes_from) & (x <= sizes_to)
    coefficients, covariance = np.polyfit(x[chosen], y[chosen], 1, w=1 / y[chosen], cov=True)
    b, a = coefficients
    return a, b, *np.sqrt(np.diag(covariance))[::-1]


def forward(method):
    points = [p for p in points_of("time", method, "n") if "forward" in p]
    return np.array([p["n"] for p in points], float), np.array(
        [milliseconds(p["forward"]) for p in points], float
    )


figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.9))
lines = {}
for method, name in N_METHODS.items():
    style = METHODS[method][1]
    for ax, part in ((left, "memory"), (right, "time")):
        x, y = xy(part, method, "n")
        lines[part, method] = line(x, y, sizes_to=FRESH if part == "time" else math.inf)
        a, b, *_ = lines[part, method]
        ax.plot(x, y, **style | dict(linestyle="none"), label=f"{name}: forward and backward")
        ax.plot(x, a + b * x, color=style["color"], lw=1.2)
        ax.plot(*xy(part, method, "n", source=live), **RING, color=style["color"], label="_")
x, y = forward("ATS, view fixed")
lines["forward", "ATS, view fixed"] = line(x, y, sizes_to=FRESH)
a, b, *_ = lines["forward", "ATS, view fixed"]
right.plot(x, y, "s", color=plots.SKY, label="ATS: forward only")
right.plot(x, a + b * x, color=plots.SKY, lw=1.2)
left.set(ylabel="memory beyond the image, MB")
right.set(ylabel="time, ms")
for ax in (left, right):
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="patches N",
        xticks=[1, 10, 100],
        xticklabels=[1, 10, 100],
    )
right.plot([], [], **RING, color="black", label="measured on this page")
figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2)
plt.show()

# %% tags=["hide-input"]
names = {("memory", m): f"{n}, memory" for m, n in N_METHODS.items()} | {("time", m): f"{n}, time" for m, n in N_METHODS.items()}
names |= {("forward", "ATS, view fixed"): "ATS, time of a forward pass"}
rows, off = [], []
for which, name in names.items():
    a, b, a_error, b_error = lines[which]
    unit = "MB" if which[0] == "memory" else "ms"
    x, y = forward(which[1]) if which[0] == "forward" else xy(which[0], which[1], "n")
    rows.append([name, f"{with_error(a, a_error, 1)} {unit}", f"{with_error(b, b_error, 2)} {unit}", with_error(*slope(x, y)), f"{a / b:.1f}" if a > 2 * a_error else "–"])
    if which[0] != "memory":
        off += [f"{name.replace(', time of', ',').replace(', time', '')} at N = {n:.0f}: {t / (a + b * n) - 1:+.0%}" for n, t in zip(x, y) if n > FRESH]
display(plots.table(["on 1500²", "fixed part a", "each patch b", "log-log slope", "a/b, in patches"], rows))
display(Markdown(f"± is the scatter about the line within this sweep; from one sweep to another times differ by up to a factor of {timing:.2f}."))

patch_pixels, patch_memory = xy("memory", "ATS, view fixed", "patch")
_, patch_time = xy("time", "ATS, view fixed", "patch")
smaller = [part for part in ("memory", "time") if lines[part, "uniform"][0] < lines[part, "ATS, view fixed"][0]]
Markdown(
    "The fixed part costs as much as a few patches; the column at the right says how many, where it is clearly above zero. "
    "Uniform sampling has no view to look at"
    + (f", and its fixed part is smaller in {' and in '.join(smaller)}. " if smaller else ". ")
    + "The lines are fitted from five patches on"
    + (
        f", those of time up to {FRESH} patches. Beyond, time lies off them ({'; '.join(off)}): the large tensors get fresh pages each time, a likely reason (section on where a CPU's time goes)."
        if off
        else "."
    )
    + f"\n\nWith ten patches of another size, from {math.sqrt(patch_pixels[0]):.0f}² to {math.sqrt(patch_pixels[-1]):.0f}², memory goes as the pixels of a patch to the power {with_error(*slope(patch_pixels, patch_memory))}"
    + (f", time to the power {with_error(*slope(patch_pixels, patch_time))}." if len(patch_time) > 2 else ".")
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-equal-patches)=
# ## N draws, fewer patches
#
# Real images have empty ground, where one patch looks like another, and settled attention draws the same place again and again. Equal patches have equal features. So `AttentionSampling` computes the features of equal patches once and uses them as often as they were drawn; value and gradient are those of $N$ patches, up to
# rounding. How many different locations are among the draws? Systematic draws are equally spaced points on a line on which each location has the length of its attention ([chapter 5](05_lower_variance.ipynb)). A location is met with probability $\min(1, N a_i)$, so
#
# $$ \mathbb E\,[\text{different locations}] = \sum_i \min(1, N a_i) \le N . $$ (eq-distinct)
#
# Below: a network of Megapixel MNIST trained with ten patches, with its attention after some epochs of training, and uniform sampling on the same images. `benchmarks/equal_patches.py` takes a training step with and without sharing, in turn.

# %% mystnb={"image": {"alt": "Left: different patches in an image against the draws N, both logarithmic, below the diagonal on which all differ. The curves of later epochs bend away from the diagonal, the more the later; uniform sampling lies lowest. Right: how many times faster a training step is with sharing, against N: rising with N for trained attention, highest for uniform sampling."}}
equal = read("cost/equal_patches.json")
equal_points = [p for p in equal.get("points", []) if p["images"] == "digits"]
attentions = list(dict.fromkeys(p["attention"] for p in equal_points))
shades = dict(
    zip(
        attentions,
        [
            *plt.colormaps["viridis"](np.linspace(0, 0.85, max(1, len(attentions) - 1))),
            plots.RED,
        ],
    )
)
at_attention = {
    name: [p for p in equal_points if p["attention"] == name] for name in attentions
}
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.9))
for name, points in at_attention.items():
    n = [p["n"] for p in points]
    style = dict(color=shades[name], marker="v" if name == "uniform" else "o")
    left.plot(n, [p["patches"] for p in points], **style, label=name)
    right.plot(n, [p["each"]["ms"] / p["shared"]["ms"] for p in points], **style)
left.plot([5, 100], [5, 100], color="#999999", lw=1, ls=":", label="all differ")
right.axhline(1, color="#999999", lw=1, ls=":")
left.set(xscale="log", yscale="log", xlabel="draws N", ylabel="different patches in an image")
right.set(xscale="log", yscale="log", xlabel="draws N", ylabel="time without sharing / with")
for ax, ticks in ((left, [1, 2, 5, 10, 20, 50, 100]), (right, [1, 2, 5])):
    ax.set(
        xticks=[5, 10, 25, 50, 100],
        xticklabels=[5, 10, 25, 50, 100],
        yticks=ticks,
        yticklabels=ticks,
    )
    ax.minorticks_off()
figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
plt.show()

# %% tags=["hide-input"]
# The formula, on this page: the same network and as many of the same images.
snapshots = attention_snapshots(f"../results/weights/{equal['run']}.attention.safetensors")
settled = megapixel_mnist.build_model(10, "systematic", "laptop")
settled.load_state_dict(load_file(f"../results/weights/{equal['run']}.safetensors"))
looked_at = torch.stack([MegapixelMNIST("test", 1000, 1500)[number][0] for number in range(equal["batch"])])
rows, apart = [], []
with torch.no_grad():
    for name, points in at_attention.items():
        if name == "uniform":
            attention = torch.full((1, 180**2), 1 / 180**2)
        else:
            settled.attention.load_state_dict(snapshots[int(name.removeprefix("epoch "))])
            attention = settled.attend(looked_at)[1].flatten(1).exp()
        for p in points:
            expected = (p["n"] * attention).clamp(max=1).sum(1).mean().item()
            apart.append(p["locations"] / expected - 1)
            if p["n"] in (10, 100):
                rows.append([name, p["n"], f"{expected:.1f}", f"{p['locations']:.1f}", f"{p['patches']:.1f}", f"{p['each']['ms'] / p['shared']['ms']:.1f}", f"{p['each']['peak_mb'] / p['shared']['peak_mb']:.1f}"])
display(plots.table(["attention", "N", "locations, by the formula", "locations, drawn", "different patches", "times faster", "times less memory"], rows))

last_points = {p["n"]: p for name in [n for n in attentions if n != "uniform"][-1:] for p in at_attention[name]}
last_name = [n for n in attentions if n != "uniform"][-1]
most = max(last_points)
in_vain = [p["shared"]["ms"] / p["each"]["ms"] - 1 for p in equal["points"] if p["images"] == "random"]
steeper = (last_points[most]["shared"]["ms"] / last_points[10]["shared"]["ms"], last_points[most]["each"]["ms"] / last_points[10]["each"]["ms"])
Markdown(
    f"Settled attention ({last_name}) shows {last_points[most]['patches']:.0f} different patches in {most} draws. A training step with {most} then costs {steeper[0]:.1f} times one with ten; without sharing it costs {steeper[1]:.1f} times as much. "
    f"Uniform sampling sees {at_attention['uniform'][-1]['patches'] / at_attention['uniform'][-1]['n']:.0%} different patches, because most of these images is empty ground. The drawn locations are within {max(map(abs, apart)):.0%} of the formula, which gives a mean over draws. "
    f"In random pixels the search finds nothing and changes the time of a step by {min(in_vain):+.1%} to {max(in_vain):+.1%}. Measured on {equal['hardware']['name']}, {equal['hardware']['threads']} thread(s), {equal['batch']} images.\n\n"
    "Photographs were not measured; where no two places look alike, only sharp attention can save. Deep MIL computes every patch here, as in the paper. On a GPU the search makes the host wait, so it is off unless asked for: `model.share_equal = True`."
)

# %% [markdown]
# ## The paper's tables, as ratios
#
# Tables 1 and 2 give time and memory at the sizes of the two real data sets. `benchmarks/cost.py` measures the same methods with
# the networks of those experiments, one after the other in each repetition, so that a slow moment of the machine hits all. To compare a CPU of today with a GPU of 2019, every number is divided by that of
# attention sampling in the same table. The errors are the subject of
# [chapter 9](09_colon_cancer.ipynb) and [chapter 10](10_speed_limits.ipynb).
#
# (cell-tab1-cost)=
# (cell-tab2-cost)=

# %% mystnb={"image": {"alt": "Four panels of dots on logarithmic axes: time and memory of each method of Table 1 and Table 2 relative to attention sampling, the paper's as hollow diamonds and ours as filled dots. Deep MIL lies far to the right in all, ours further than the paper's in time."}}
BASE = {"colon_cancer": "ATS-10", "speed_limits": "ATS-5"}
figure, axes = plt.subplots(2, 2, figsize=(7, 6.6), height_ratios=[8, 9])
for row, (name, paper) in zip(axes, PAPER.items()):
    methods = list(paper) + [m for m in cost[name] if "chunks" in m]
    for ax, quantity, column in zip(row, ("ms", "peak_mb"), (2, 3)):
        for y, method in enumerate(reversed(methods)):
            if method in paper:
                ax.plot(
                    paper[method][column] / paper[BASE[name]][column],
                    y,
                    "D",
                    color=plots.ORANGE,
                    mfc="white",
                    mew=1.6,
                    ms=7,
                )
            if method in cost[name]:
                ax.plot(
                    cost[name][method][quantity] / cost[name][BASE[name]][quantity],
                    y,
                    "o",
                    color=plots.BLUE,
                    ms=6,
                )
        ax.axvline(1, color="#999999", lw=1)
        ax.set(
            xscale="log",
            yticks=range(len(methods)),
            yticklabels=reversed(methods) if ax is row[0] else [],
        )
        ax.set_xlabel(f"{'time' if quantity == 'ms' else 'memory'}, {BASE[name]} = 1")
    row[0].set_title(TITLES[name], loc="left")
axes[0, 1].plot([], [], "D", color=plots.ORANGE, mfc="white", mew=1.6, ms=7, label="paper, GPU")
axes[0, 1].plot([], [], "o", color=plots.BLUE, ms=6, label="here, CPU")
figure.legend(loc="outside lower center", ncols=2)
plt.show()

# %% tags=["hide-input"]
for name, paper in PAPER.items():
    rows = []
    base, paper_base = cost[name].get(BASE[name]), paper[BASE[name]]
    for method in list(paper) + [m for m in cost[name] if "chunks" in m]:
        ours = cost[name].get(method)
        theirs = paper.get(method)
        rows.append(
            [
                method,
                f"{theirs[2] / paper_base[2]:.1f}" if theirs else "–",
                f"{ours['ms'] / base['ms']:.1f}" if ours else "not measured",
                f"{theirs[3] / paper_base[3]:.1f}" if theirs else "–",
                f"{ours['peak_mb'] / base['peak_mb']:.1f}" if ours else "not measured",
            ]
        )
    display(plots.table([f"{TITLES[name]}, relative to {BASE[name]}", "time, paper", "time, here", "memory, paper", "memory, here"], rows))
machine = read("cost/colon_cancer.json").get("hardware", {})
above, chunk_time = [], []
for name, paper in PAPER.items():
    ours, base = cost[name], BASE[name]
    known = [m for m in paper if m != base and {m, base} <= set(ours)]
    larger = [m for m in known if ours[m]["ms"] / ours[base]["ms"] > paper[m][2] / paper[base][2]]
    if larger:
        above.append(f"{TITLES[name].split('(')[1][:-1]}: {', '.join(larger)}")
    chunk_time += [f"{ours[m]['ms'] / ours['Deep MIL']['ms']:.2f}" for m in ours if "chunks" in m and "Deep MIL" in ours]
NEAR = 1.5


def near_the_papers(quantity, column):
    """Of how many ratios the dot is near its diamond, and how many there are."""
    ratios = [
        (cost[name][m][quantity] / cost[name][BASE[name]][quantity]) / (paper[m][column] / paper[BASE[name]][column])
        for name, paper in PAPER.items()
        for m in paper
        if m != BASE[name] and {m, BASE[name]} <= set(cost[name])
    ]
    return f"{sum(1 / NEAR <= ratio <= NEAR for ratio in ratios)} of {len(ratios)}"


Markdown(
    f"Within a factor of {NEAR:g} of the paper's are {near_the_papers('peak_mb', 3)} ratios of memory and {near_the_papers('ms', 2)} of time. "
    f"Here: {machine.get('name', 'unknown')}, {machine.get('threads', '?')} thread(s), PyTorch; the paper: a GPU, TensorFlow 1. "
    + (f"Slower here, relative to attention sampling, than in the paper are, in {'; '.join(above)}. Why was not measured. " if above else "")
    + (f"The fresh pages of large tensors (see below) are a likely part: in chunks, Deep MIL takes {' and '.join(chunk_time)} of the time." if chunk_time else "")
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-cost-ratios)=

# %% tags=["hide-input"]
CLAIMS = [  # where, what, table, method, what of it, how many times at least
    ("§1, §4.3.1", "25× faster than Deep MIL", "colon_cancer", "Deep MIL", "ms", 25),
    ("§1, §4.3.1", "Deep MIL needs 30× the memory", "colon_cancer", "Deep MIL", "peak_mb", 30),
    ("§4.3.1", "10× faster than the CNN", "colon_cancer", "CNN 1", "ms", 10),
    ("§4.3.1", "the leanest CNN needs 3× the memory", "colon_cancer", "CNN 0.5", "peak_mb", 3),
    ("§4.4.1", "10× faster than Deep MIL", "speed_limits", "Deep MIL", "ms", 10),
    ("§4.4.1", "17× less memory than Deep MIL", "speed_limits", "Deep MIL", "peak_mb", 17),
]
rows, reached, firmly = [], [], []
for where, what, name, method, quantity, wanted in CLAIMS:
    column = dict(ms=2, peak_mb=3)[quantity]
    theirs = PAPER[name][method][column] / PAPER[name][BASE[name]][column]
    mine, base = (cost[name].get(m, {}) for m in (method, BASE[name]))
    ours = mine[quantity] / base[quantity] if mine and base else math.nan
    each = [a / b for a, b in zip(mine["ms_all"], base["ms_all"])] if quantity == "ms" and mine and base else []
    reached.append(ours >= wanted)
    if each:
        firmly.append(ours / timing >= wanted)
    rows.append([f"{where}: {what}", f"{theirs:.1f}", f"{ours:.1f}" + (f" ({min(each):.1f} to {max(each):.1f})" if each else ""), "yes" if ours >= wanted else "no"])
display(plots.table(["claim", "ratio in the paper's table", "ratio here (range over repetitions)", "reached here"], rows))

chunked = {name: next((m for m in cost[name] if "chunks" in m), None) for name in PAPER}
text = []
for name, method in chunked.items():
    if method:
        base, whole, parts = (cost[name][m] for m in (BASE[name], "Deep MIL", method))
        text.append(
            [
                f"{TITLES[name].split(' (')[0]}, {method}",
                f"{whole['peak_mb'] / base['peak_mb']:.1f}",
                f"{parts['peak_mb'] / base['peak_mb']:.1f}",
                f"{whole['ms'] / base['ms']:.0f}",
                f"{parts['ms'] / base['ms']:.0f}",
            ]
        )
display(
    Markdown(
        f"{sum(reached)} of {len(reached)} reached. "
        + (f"The ratios of time would suffice even if they were too high by the factor {timing:.2f} of the identical computations above. " if firmly and all(firmly) else "")
        + "\n\n**A caution about the memory.** The paper's Deep MIL, and ours, holds the activations of all patches until the backward pass. It need not: taken "
        "in chunks, each computed again when its gradient is due (`DeepMIL(chunk=…)`), it gives the same outputs and gradients."
    )
)
display(plots.table(["Deep MIL, attention sampling = 1", "memory", "memory, in chunks", "time", "time, in chunks"], text))
Markdown("So the factor in memory is one between programs as much as between methods. The factor in time remains: patches that are not read cost nothing.")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# ## The same accuracy?
#
# The abstract says that attention sampling reduces computation and memory "by an order of magnitude for the same accuracy as
# classical architectures". The cost is above. For the accuracy, the colon cancer runs are compared fold by fold.
#
# (cell-claim-order-of-magnitude)=

# %% tags=["hide-input"]
runs = load_records("../results/runs")

changes = [c for c in runs if c.startswith("settings.changes.")]
usual = {f"settings.changes.{field}" for field in ("batch_size", "updates", "test_every")}  # how long a method was trained, not what it is
plain = runs[[c for c in changes if c not in usual]].isna().all(axis=1)
colon = runs[
    (runs["experiment"] == "colon_cancer") & (runs["profile"] == "laptop") & (runs["seed"] < 5) & plain
    & runs["dataset.name"].str.startswith("CRCHisto")
    & (~runs["method"].isin(["ats", "uniform"]) | ((runs["estimator"] == "systematic") & (runs["settings.order"] == "hilbert")))
].copy()  # fmt: skip
as_long = colon["method"].isin(["ats", "uniform"]) & (colon["settings.updates"] >= colon_cancer.PROFILES["paper"].updates)
long, colon = colon[as_long], colon[~as_long].copy()  # as many updates as the paper's: far from the budgets of the slow methods
scales = colon["settings.cnn_scale"] if "settings.cnn_scale" in colon else [math.nan] * len(colon)
colon["name"] = [
    method_name(m, n, s) for m, n, s in zip(colon["method"], colon["n_patches"], scales)
]
colon["seen"] = [epochs[-1] * count for epochs, count in zip(colon["curve.epoch"], colon["dataset.n_train"])]
error_of, seen_of, budget_of, idle_of, low_of, left_out = {}, {}, {}, {}, {}, {}
# idle: seeds of runs that ended with the training loss of a constant answer; low: runs in bfloat16
budgets = ["name", "seen", "settings.training.batch_size", "settings.updates"]
for (name, seen, batch, updates), group in colon.groupby(budgets, dropna=False):  # of several budgets, that with most runs, or the larger one
    if name not in PAPER["colon_cancer"]:
        continue
    errors = dict(zip(group["seed"], group["final.test_error"]))
    if len(errors) < len(group):
        raise ValueError(f"{name}: several runs of one seed and one budget, {', '.join(sorted(group['file']))}")
    budget = f"{name}, {updates:,.0f} updates of {batch:.0f}: {len(group)}"
    if len(group) < len(error_of.get(name, ())):
        left_out.setdefault(name, []).append(budget)
        continue
    if name in error_of:
        left_out.setdefault(name, []).append(budget_of[name])
    error_of[name], seen_of[name], budget_of[name] = errors, int(seen), budget
    idle_of[name] = set(group.loc[group["final.train_loss"] > 0.95 * math.log(2), "seed"])
    low_of[name] = int(group["settings.training.bfloat16"].astype(bool).sum())
ATS = error_of.get("ATS-10", {})

rows, accuracy = [], {}
for name in PAPER["colon_cancer"]:
    values = error_of.get(name, {})
    common = sorted((set(values) & set(ATS)) - idle_of.get(name, set()) - idle_of.get("ATS-10", set()))
    ratio = {q: cost["colon_cancer"][name][q] / cost["colon_cancer"]["ATS-10"][q] for q in ("ms", "peak_mb")} if name in cost["colon_cancer"] else {}
    error = with_error(*mean_and_stderr(list(values.values())), 3) if values else "not run"
    if idle_of.get(name):
        awake_errors = [value for seed, value in values.items() if seed not in idle_of[name]]
        error += f"; without the {len(idle_of[name])} idle: {with_error(*mean_and_stderr(awake_errors), 3)}" if awake_errors else "; all idle"
    p = permutation_test([values[s] for s in common], [ATS[s] for s in common], paired=True) if len(common) > 1 and name != "ATS-10" else math.nan
    difference = float(np.mean([values[s] - ATS[s] for s in common])) if common and name != "ATS-10" else math.nan
    accuracy[name] = (len(common), difference, p)
    rows.append(
        [name, len(values), f"{seen_of[name]:,}" if values else "–", error, "–" if math.isnan(difference) else f"{difference:+.3f} ({len(common)})", "–" if math.isnan(p) else f"{p:.2f}",
         *(f"{ratio[q]:.1f}" if ratio else "–" for q in ("ms", "peak_mb")), f"{PAPER['colon_cancer'][name][0]:.3f}"]
    )  # fmt: skip
display(plots.table(["colon cancer", "runs", "images seen", "test error", "minus ATS-10's (folds, idle ones left out)", "p", "time ratio", "memory ratio", "paper's error"], rows))


def idle(name):
    """How many runs had not begun to learn, as words; empty if all had."""
    count, runs_of = len(idle_of.get(name, ())), len(error_of.get(name, ()))
    return f"{count} of {'the' if runs_of > 1 else ''} {runs_of} run{'s' * (runs_of > 1)} of {name} had not begun to learn".replace("of  ", "of ") if count else ""


CLASSICAL = ("CNN 1", "CNN 0.5", "Deep MIL")
dearer = {n: [of[q] / cost["colon_cancer"]["ATS-10"][q] for q in ("ms", "peak_mb")] for n, of in cost["colon_cancer"].items() if n.startswith(CLASSICAL)}
whole = {n: factors for n, factors in dearer.items() if "chunks" not in n}
tenfold = [[n for n, factors in whole.items() if factors[k] >= 10] for k in (0, 1)]  # in time, in memory
known = [n for n in CLASSICAL if accuracy.get(n, (0,))[0] > 1]
shown = [f"{n} ({'lower' if accuracy[n][1] < 0 else 'higher'})" for n in known if accuracy[n][2] <= 0.05 or (accuracy[n][0] >= 5 and accuracy[n][2] <= least_p(accuracy[n][0], accuracy[n][0], paired=True) + 1e-9)]
cost_told = (
    f"at least ten times the time of ATS-10 take {' and '.join(tenfold[0]) or 'none of them'}, at least ten times its memory {' and '.join(tenfold[1]) or 'none of them'}"
    + "".join(f"; {n} takes {time:.1f} times its time and {memory:.1f} times its memory" for n, (time, memory) in whole.items() if min(time, memory) < 10)
    + "."
)
accuracy_told = f"{'a difference to ATS-10 is shown for ' + ' and '.join(shown) if shown else 'no difference to ATS-10 is shown for ' + ', '.join(known)}" if known else "not known yet"
sentences = [
    f"**Cost:** {cost_told}"
    + "".join(
        f" Against Deep MIL the order of magnitude in memory is there only while it holds all patches at once: in chunks, with the same outputs and gradients, it takes {memory:.1f} times the memory of ATS-10 (and {time:.0f} times its time)."
        for n, (time, memory) in dearer.items()
        if n not in whole and memory < 10
    )
]
if known:
    pairs_of_folds, most_pairs = (f(accuracy[n][0] for n in known) for f in (min, max))
    sentences.append(
        f"**Accuracy:** {accuracy_told} (column p; {f'{pairs_of_folds} pairs' if pairs_of_folds == most_pairs else f'{pairs_of_folds} to {most_pairs} pairs'} can give no less than "
        f"{' to '.join(f'{least_p(k, k, paired=True):.2g}' for k in sorted({pairs_of_folds, most_pairs}))})."
        + "".join(
            f" {idle(n)[0].upper()}{idle(n)[1:]}, with a training loss above 95 % of that of a constant answer: by the rule of [chapter 9](09_colon_cancer.ipynb) they are idle, and the comparison leaves their folds out. "
            f"The mean error of all its runs is what {seen_of[n]:,} images buy, not what the method ends at."
            for n in known
            if idle(n)
        )
    )
COMMAND = "python -m atslib.experiments colon_cancer --profile laptop --data DIR --resume"
MAKES = {  # what the command needs to make the runs of a row
    **{f"{short}-{n}": f"--method {method} --n-patches {n}" for short, method in (("ATS", "ats"), ("U", "uniform")) for n in (10, 50)},
    "CNN 0.5": "--method cnn --cnn-scale 0.5 --set batch_size=4 --set updates=500",
    "CNN 1": "--method cnn --cnn-scale 1 --set batch_size=4 --set updates=500",
    "Deep MIL": "--method deep_mil --set batch_size=4 --set updates=400",
}
missing = {name: [str(seed) for seed in range(5) if seed not in error_of.get(name, ())] for name in PAPER["colon_cancer"]}
if any(missing.values()):
    sentences.append(
        "**Not run yet:** "
        + "; ".join(
            f"{name}, fold{'s' * (len(seeds) > 1)} {', '.join(seeds)}: `{COMMAND} {MAKES[name]} --seed {','.join(seeds)}`"
            for name, seeds in missing.items()
            if seeds
        )
        + "."
    )
if left_out:
    sentences.append(f"Runs with another budget, not in the table: {'; '.join(budget for budgets in left_out.values() for budget in budgets)}.")
sampled = colon[colon["name"] == "ATS-10"]
longer = long[(long["method"] == "ats") & (long["n_patches"] == 10)]["final.test_error"]
few = [n for n in error_of if "ATS-10" in seen_of and seen_of[n] < seen_of["ATS-10"]]


def precision():
    """In which precision the runs of the table trained, as words, by their records."""
    low, full = [n for n in error_of if low_of[n] == len(error_of[n])], [n for n in error_of if not low_of[n]]
    mixed = [f"{low_of[n]} of the {len(error_of[n])} runs of {n}" for n in error_of if 0 < low_of[n] < len(error_of[n])]
    if not low and not mixed:
        return "; all trained in float32"
    return f"; {', '.join([*low, *mixed])} trained in bfloat16" + (f", {', '.join(full)} in float32" if full else "") + ", which is one more difference" * bool(full or mixed)


sentences.append(
    "**What limits this.** Training was short"
    + (f": ATS-10 made {sampled['settings.updates'].iloc[0]:,.0f} updates where the paper made {colon_cancer.PROFILES['paper'].updates:,}" if len(sampled) else "")
    + (
        f" (with as many as the paper, [chapter 9](09_colon_cancer.ipynb), its error is {with_error(*mean_and_stderr(list(longer)), 3)}, {len(longer)} fold{'s' * (len(longer) > 1)})"
        if len(longer)
        else ""
    )
    + (f"; {', '.join(few)} saw fewer images still (column \"images seen\")" if few else "")
    + precision()
    + f". A mean of 100 test images at an error of 0.1 has a standard error of {math.sqrt(0.1 * 0.9 / 100):.2f}: \"the same accuracy\" cannot be shown on so few, by us or "
    "by the paper. [Chapter 9](09_colon_cancer.ipynb) has a second test and intervals."
)
Markdown("\n\n".join(sentences))
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# ## What a budget buys
#
# N can be changed after training. How finely does it trade error against time? The errors are those of the
# Megapixel MNIST runs at the paper's size ([chapter 8](08_megapixel_mnist.ipynb)), each network tested with several numbers of patches on 1,000 images. The times are those of a
# forward pass, as above. One and two patches, which no record has, are tested now on a few images.
#
# (cell-claim-budget)=

# %%
settings = {"settings.changes.entropy_weight", "settings.changes.epochs"}
large_runs = runs[
    (runs["experiment"] == "megapixel_mnist")
    & (runs["profile"] == "laptop")
    & (runs["estimator"] == "systematic")
    & (runs["method"] == "ats")
    & (runs["settings.order"] != "raster")
    & runs[[c for c in changes if c not in settings]].isna().all(axis=1)
]
digits = {True: "all of MNIST", False: "digits that ship"}
# (N of the training, digits, λ, epochs) -> the test errors of its networks by N; stuck: of
# those at chance
families, stuck = {}, {}
for _, run in large_runs.iterrows():
    kind = (
        int(run["n_patches"]),
        "whole" in run["dataset.name"],
        float(run["settings.training.entropy_weight"]),
        int(run["settings.training.epochs"]),
    )
    curve = {
        int(c.split(".")[2]): run[c]
        for c in runs
        if c.startswith("final.by_n_patches.") and c.endswith("test_error") and run[c] == run[c]
    }
    if curve:
        of_state = stuck if min(curve.values()) > 0.7 else families  # guessing has 0.9
        of_state.setdefault(kind, []).append((int(run["dataset.n_test"]), curve))
# The second table below is of the networks trained with ten patches in the setting that was
# trained most often, of those the longest.
chosen = max(
    (kind for kind in families if kind[0] == 10),
    key=lambda kind: (len(families[kind]), kind[3], kind[1]),
)


def setting(kind):
    return f"N = {kind[0]}, λ = {kind[2]:g}, {kind[3]} epochs, {digits[kind[1]]}"


def curve_of(kind):
    """N, the errors (networks, N), their means, and the standard errors of these: of the test
    images, and of the networks where there are several.
    """
    members = families[kind]
    counts = sorted(
        n for n in members[0][1] if n in ms_at and all(n in curve for _, curve in members)
    )
    errors = np.array([[curve[n] for n in counts] for _, curve in members])
    return (
        counts,
        errors,
        errors.mean(0),
        [
            math.hypot(images_error(e, members[0][0]), networks_error(errors[:, k]))
            for k, e in enumerate(errors.mean(0))
        ],
    )


def images_error(error, n):
    return math.sqrt(error * (1 - error) / n)


def networks_error(values):
    return mean_and_stderr(values)[1] if len(values) > 1 else 0.0


# Trained on the digits that ship, of whose test part the images below are made.
stored = [
    Path(f.replace("/runs/", "/weights/")).with_suffix(".safetensors")
    for f in large_runs[large_runs["n_patches"] == 10]["file"]
    if "-full" not in f
]
weights = next(path for path in stored if path.exists())
model = megapixel_mnist.build_model(10)
model.load_state_dict(load_file(weights))
live_images = Subset(MegapixelMNIST("test"), range({"smoke": 100}.get(profile, 1000)))
live_errors = {
    n: evaluate(model, live_images, seed=5, progress=False, n_patches=n) for n in (1, 2)
}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: test error on Megapixel MNIST against milliseconds of a forward pass, a point for each number of patches in the test, coloured by the number in training, dashed for other settings; every line falls and flattens. A note names what is off the scale. Right: test error on colon cancer against the time of a step relative to ATS-10 for the methods that ran, with error bars."}}
ms_at = dict(zip(*forward("ATS, view fixed")))
COLOURS = dict(zip((5, 10, 25, 50, 100), (plots.PURPLE, plots.BLUE, plots.ORANGE, plots.GREEN, plots.RED)))  # by N, as in chapter 8
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 5), width_ratios=[3, 2])
tops = {}
for kind in sorted(families):
    counts, errors, means, bars = curve_of(kind)
    usual = kind[1:] == chosen[1:]
    colour = COLOURS.get(kind[0], plots.BLACK)
    left.plot([ms_at[n] for n in counts], means, color=colour, marker="o", ls="-" if usual else (0, (4, 2)), lw=1.8 if usual else 1)
    left.errorbar([ms_at[n] for n in counts], means, bars, color=colour, ls="none", capsize=2, lw=1, alpha=0.6)
    tops |= {n: max(top, tops.get(n, 0)) for n, top in zip(counts, means + bars)}
for n, top in tops.items():
    left.annotate(f"{n}", (ms_at[n], top), textcoords="offset points", xytext=(0, 3), ha="center", fontsize=9)
for n in sorted({kind[0] for kind in families}):
    left.plot([], [], color=COLOURS.get(n, plots.BLACK), marker="o", label=f"trained with N = {n}")
if any(kind[1:] != chosen[1:] for kind in families):
    left.plot([], [], color="#666666", lw=1, ls=(0, (4, 2)), label="dashed: other setting")
off_scale = [f"N = {kind[0]}, {kind[3]} epochs: {curve[kind[0]]:.2f}, at chance" for kind, members in stuck.items() for _, curve in members if kind[0] in curve]
off_scale += [f"tested with {n} patch{'es' * (n > 1)}: {live_errors[n]['error']:.2f}" for n in live_errors]
left.text(0.98, 0.98, "off the scale:\n" + "\n".join(off_scale), transform=left.transAxes, ha="right", va="top", fontsize=9)
left.set(xscale="log", xlabel="forward pass, ms", ylabel="test error", ylim=(0, max(0.25, 1.3 * max(tops.values()))), title="Megapixel MNIST")
ticks = [t for t in (5, 10, 20, 50, 100) if ms_at[min(tops)] / 1.5 <= t <= 1.5 * ms_at[max(tops)]]
left.set(xticks=ticks, xticklabels=ticks)
left.minorticks_off()
figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", fontsize=9, ncols=2)
looks = {  # colour, marker
    "U-10": (plots.GREEN, "v"), "U-50": (plots.GREEN, "s"), "ATS-10": (plots.BLUE, "o"), "ATS-50": (plots.BLUE, "^"),
    "CNN 0.5": (plots.PURPLE, "D"), "CNN 1": (plots.RED, "D"), "Deep MIL": (plots.BLACK, "s"),
}  # fmt: skip
for name, values in error_of.items():
    if name not in cost["colon_cancer"]:
        continue
    mean, bar = mean_and_stderr(list(values.values()))
    colour, marker = looks[name]
    relative = cost["colon_cancer"][name]["ms"] / cost["colon_cancer"]["ATS-10"]["ms"]
    some_idle = bool(idle_of[name])  # hollow: of all runs, those that had not begun to learn among them
    right.errorbar(
        relative, mean, 0 if math.isnan(bar) else bar, color=colour, marker=marker, markerfacecolor="none" if some_idle else colour, ls="none", capsize=2,
        label=f"{name} ({len(values)}, {len(idle_of[name])} idle)" if some_idle else f"{name} ({len(values)})",
    )  # fmt: skip
right.set(xscale="log", xlabel="time of a training step\n(ATS-10 = 1)", ylabel="test error", title="colon cancer (runs)", ylim=(0, None))
low, high = right.get_xlim()
right.set_xlim(low / 1.3, high * 1.3)
ticks = [t for t in (0.1, 1, 10, 100, 1000) if low / 1.3 <= t <= high * 1.3]
right.set(xticks=ticks, xticklabels=ticks)
right.minorticks_off()
figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", fontsize=9, ncols=2)
plt.show()

# %% tags=["hide-input"]
counts, errors, means, bars = curve_of(chosen)
rows, tested = [], sorted(tops)
for kind in sorted(families.keys() | stuck.keys()):
    for members, lost in ((families.get(kind, []), False), (stuck.get(kind, []), True)):
        if members:
            values_at = {n: [curve[n] for _, curve in members] for n in tested if all(n in curve for _, curve in members)}
            error_at = {n: (np.mean(v), math.hypot(images_error(np.mean(v), members[0][0]), networks_error(v))) for n, v in values_at.items()}
            name = f"N = {kind[0]}, λ = {kind[2]:g}, {kind[3]} epochs, {digits[kind[1]]}" + (": **at chance**" if lost else "")
            rows.append([name, len(members), *(with_error(*error_at[n], 3).replace(" ±", "<br>±") if n in error_at else "–" for n in tested)])
display(plots.table(["trained with", "networks", *(f"error with {n}" for n in tested)], rows))



def falls_shown(only=None):
    """In how many of all networks that have left chance the error falls from one N to the next, as words. Equal errors tell neither way.

    `only`: of these steps, "from 5 to 10".
    """
    curves = [curve for members in families.values() for _, curve in members]
    falls, equal = [], []
    for m, n in itertools.pairwise(tested):
        if only and f"from {m} to {n}" not in only:
            continue
        changes = [c[n] - c[m] for c in curves if m in c and n in c]
        lower, changed = sum(change < 0 for change in changes), sum(change != 0 for change in changes)
        if changed:
            p = binomtest(lower, changed).pvalue
            same = f" and is the same in {len(changes) - changed} more" if changed < len(changes) else ""
            falls.append(f"from {m} to {n} in {lower} of {changed}{same} (sign test p {'below 0.001' if p < 0.001 else f'= {p:.2g}'})")
        elif changes:
            equal.append(f"from {m} to {n} it is the same in all {len(changes)}")
    return ", ".join(falls) + "".join(f"; {words}" for words in equal)


rows, steps = [], []
for k, n in enumerate(counts):
    note, lower = "–", "–"
    if k:
        fall = errors[:, k - 1] - errors[:, k]
        # Networks and images are the same at both ends of a step, so it is the falls that are averaged.
        half = student.ppf(0.975, len(fall) - 1) * networks_error(fall) if len(fall) > 1 else math.inf
        steps.append((counts[k - 1], n, fall.mean(), half))
        note = f"{round(-fall.mean(), 3) + 0:+.3f}" + (f" ({-fall.mean() - half:+.3f} … {-fall.mean() + half:+.3f})" if len(fall) > 1 else "")
        lower = f"{(fall > 0).sum()} of {len(fall)}"
    rows.append([n, f"{ms_at[n]:.1f} ms ({ms_at[n] / ms_at[10]:.2f})", with_error(means[k], bars[k], 3), note, lower])
networks = f"{len(errors)} network{'s' if len(errors) > 1 else ''}"
display(plots.table([f"patches ({setting(chosen)}: {networks})", "forward pass (N = 10: 1)", "test error", "change (95 %)", "lower in"], rows))

a, b, *_ = lines["forward", "ATS, view fixed"]
clear = [f"from {m} to {n}" for m, n, gain, half in steps if gain > half]
unclear = [f"from {m} to {n}" for m, n, gain, half in steps if abs(gain) <= half]
worse = [f"from {m} to {n}" for m, n, gain, half in steps if gain < -half]
steps_told = (
    (f"The error falls {' and '.join(clear)} patches: Student's 95 % interval over the {len(errors)} networks is without zero (an exact paired test of so few cannot give less than p = {least_p(len(errors), len(errors), paired=True):.2g}, so that this is for these networks)" if clear else "No step of N lowers the error beyond chance")
    + (f"; {' and '.join(unclear)} no fall is shown in this setting" if unclear and clear else "")
    + (f"; it rises {' and '.join(worse)}" if worse else "")
)
display(
    plots.points(
        "§5, “finely control the trade-off between accuracy and spent computation”",
        [
            f"One patch more costs {b:.2f} ms, or {b / (a + 10 * b):.0%} of a pass with ten, above a fixed {a:.1f} ms for view and attention.",
            f"{steps_told}.",
            f"Of all networks that have left chance, in every setting, it falls {falls_shown()}; this test takes networks of one seed, and different settings, for independent.",
            "Whether it is better to *train* with the N of the budget, [chapter 8](08_megapixel_mnist.ipynb) compares.",
        ],
    )
)
Markdown(
    "The second table has the setting that was trained with ten patches most often and, of such, longest. Its intervals are over the networks, each compared with itself on the same images; they do not cover other test images, nor the number of steps. "
    "In both tables ± is the standard error of a mean, of the test images and, where there are several, of the networks."
)

# %% [markdown]
# Left: means over networks; solid, all trained in the same way but for N; dashed, with another λ, length or digits (first table); the bars are one standard error, of the test images and, where there are several, of the networks. The numbers
# above the points are the patches in the test. A single patch cannot do better than an error of 0.4 on average, even if it always shows a digit: three digits of five are of the class
# in question. Nor can two, since nothing decides when they disagree. Three and four patches were not measured.

# %% tags=["hide-input"]
at_best, count = 2 / 5, len(live_images)
scatter = images_error(at_best, count)
away = {n: (live_errors[n]["error"] - at_best) / scatter for n in live_errors}
within = {n: abs(z) <= 2 for n, z in away.items()}
measured_now = " and ".join(f"{live_errors[n]['error']:.2f} with N = {n}" for n in live_errors)
if all(within.values()):
    text = f"within chance of it ({', '.join(f'{z:+.1f}' for z in away.values())} standard errors)"
elif any(z < -2 for z in away.values()):
    text = f"lower than chance explains ({', '.join(f'{z:+.1f}' for z in away.values())} standard errors), so that the argument misses something"
else:
    text = f"not better ({', '.join(f'{z:+.1f}' for z in away.values())} standard errors)"
by_seen = {}
for name in error_of:
    by_seen.setdefault(seen_of[name], []).append(name)
unequal = [f"{seen:,} by {', '.join(names)}" for seen, names in sorted(by_seen.items(), reverse=True)]
Markdown(
    f"On this page, on {count} images only: {measured_now}. If {at_best:g} were the error, so few images would give it ± {scatter:.2f}: what was measured is {text}.\n\n"
    "Right: what other methods pay for their error on the colon cancer images. The bars, one standard error over at most five folds of 20 images, are wide"
    + (f", and the methods did not see as many images in training ({'; '.join(unequal)})" if len(unequal) > 1 else "")
    + "".join(f"; {idle(name)}" for name in error_of if idle(name))
    + ". A CNN can be scaled, too, but each scale needs a training of its own."
)

# %% [markdown]
# ## A gigapixel
#
# "A nested model of attention sampling can be used to … classify up to gigapixel images using a single GPU" (§5). [The next
# chapter](14_gigapixel.ipynb) writes one down, trains it and shows it a gigapixel. What the methods of this chapter, and such a model, would *cost* there
# follows from the numbers above.
#
# A gigapixel image is about 31,600 pixels wide. At one level, a view of 180² shows it so small that the patches at its locations no longer cover it, and a view at constant scale costs
# in proportion to the pixels. A **nested** model looks twice: attention on a view of the whole picks $M$ regions; in
# each, attention on a view of the region picks $n$ patches. With the same reduction at both levels, a view pixel of the second level covers
# $\sqrt{31{,}600/180}$ pixels on each side. That makes $1 + M$ looks at a view of 180² and $M n$ patches.

# %%
GIGA = 1e9
side = math.sqrt(GIGA)
reduction = math.sqrt(side / cost_by_size.VIEW)  # of each of two levels
M, n = 10, 10


def straight(part, method):
    """a, b of y = a + b · megapixels through the two largest sizes: what grows, grows in
    proportion by then.
    """
    x, y = xy(part, method)
    b = (y[-1] - y[-2]) / (x[-1] - x[-2])
    return y[-1] - b * x[-1], b


def at_giga(part, method):
    """Memory by its straight line; time, as in the figure above, in proportion to the pixels
    from the largest size measured.
    """
    if part == "memory":
        a, b = straight(part, method)
        return a + b * GIGA / 1e6
    x, y = xy(part, method)
    return y[-1] / x[-1] * GIGA / 1e6 if len(x) else math.nan


view_mb, patch_mb, *_ = lines["memory", "ATS, view fixed"]
view_ms, patch_ms, *_ = lines["time", "ATS, view fixed"]  # the view made from an image of 1500²
region = side / reduction
making_giga = making_rate * GIGA / 1e6  # ms for the view of the whole
regions_ms = making_rate * M * region**2 / 1e6  # and for those of the regions
nested = dict(
    memory=(1 + M) * view_mb + M * n * patch_mb,
    time=(1 + M) * (view_ms - making_rate * 1500**2 / 1e6) + M * n * patch_ms + regions_ms,
)
covered = min(1.0, (50 / (side / cost_by_size.VIEW)) ** 2)
print(
    f"side {side:,.0f}; one view pixel covers {side / 180:.0f}² image pixels at one level, {reduction:.1f}² at the second of two"
)
print(f"patches of 50² around the locations of one fixed view cover {covered:.1%} of the image")
print(
    f"nested, M = {M} regions of {region:,.0f}², n = {n} patches in each: {1 + M} views and {M * n} patches"
)

# %% tags=["hide-input"]
rows = [
    ["nested, view of the whole at hand", small(nested["memory"], "MB"), small(nested["time"], "ms"), "1"],
    ["nested, that view made", small(nested["memory"], "MB"), small(nested["time"] + making_giga, "ms"), "1"],
]
single, single_ms = at_giga("memory", "ATS, scale fixed"), at_giga("time", "ATS, scale fixed")
rows.append([f"{METHODS['ATS, scale fixed'][0]}, view at hand", small(single, "MB"), small(single_ms - making_giga, "ms"), f"{single / nested['memory']:,.0f}"])
for method in ("ATS, scale fixed", "CNN 1/2", "CNN 1", "Deep MIL"):
    memory, ms = at_giga("memory", method), at_giga("time", method)
    name = METHODS[method][0] + (", view made" if method.startswith("ATS") else "")
    rows.append([name, small(memory, "MB"), "–" if math.isnan(ms) else small(ms, "ms"), f"{memory / nested['memory']:,.0f}"])
display(plots.table(["a gigapixel, computed", "memory beyond the image", "time of a step, this CPU", "memory, nested = 1"], rows))

fits = []
for method in ("ATS, scale fixed", "CNN 1/2", "CNN 1", "Deep MIL"):
    a, b = straight("memory", method)
    fits.append([METHODS[method][0], f"{(1000 * gpu_gb - a) / b:,.0f}"])
display(plots.table([f"what fits into {gpu_gb} GB, image not counted", "megapixels"], fits))
steep = [METHODS[m][0] for m in ("ATS, scale fixed", "CNN 1/2", "CNN 1", "Deep MIL") if len(xy("time", m)[0]) > 1 and slope(*(v[-2:] for v in xy("time", m)))[0] > 1.1]
locations = (1 + M) * cost_by_size.VIEW**2 / 1e6, GIGA * cost_by_size.SCALE**2 / 1e6  # millions
saved_ms = single_ms - making_giga - nested["time"]  # the view at hand for both
Markdown(
    (
        f"A gigapixel fits on one GPU, nested or not: even one level at scale 0.12 needs {small(single, 'MB')}, because its attention network is small. "
        + (
            f"Nesting saves attention, on {locations[0]:.1f} instead of {locations[1]:.1f} million locations. Making the view of the whole takes about {small(making_giga, 'ms')} with one level "
            "or two, unless a pyramid has it."
            if saved_ms > making_giga
            else f"The largest cost is making the view of the whole, about {small(making_giga, 'ms')}, with one level or two; a pyramid saves it."
        )
        if single < 1000 * gpu_gb
        else f"One level at scale 0.12, which needs {small(single, 'MB')}, does not fit on one GPU; two nested levels do."
    )
    + " The times of one level, the CNNs and Deep MIL continue in proportion to the pixels from the largest size measured"
    + (f"; those of {', '.join(steep)} grew faster at the last step, so they may be too low." if steep else ".")
    + "\n\nThis is arithmetic on measured parts. Whether such a model *learns* to find a few thousand pixels in a gigapixel is the harder question: at the first level "
    f"a digit of 28 pixels is {28 / (side / 180):.1f} of a view pixel wide. [Chapter 14](14_gigapixel.ipynb) tries, with "
    f"fewer regions and patches and a first view at scale {megapixel_mnist.NESTED_SCALE:g}."
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# ## Where a CPU's time goes: fresh pages
#
# Some of the time on a CPU has nothing to do with the method. The C library of Linux returns a freed large tensor (glibc: always
# if it has more than 32 MB) to the system. The next one gets fresh pages, which the system fills with zeros when they are first touched.
# `atslib.memory.keep_freed_memory()` keeps them instead; `python -m atslib.experiments` calls it. The same training was run in
# fresh processes, in turn with and without.
#
# (cell-kept)=

# %% tags=["hide-input"]
if "kept" in record:
    kept = record["kept"]
    ms = {how: [run["cpu_ms_per_image"] for run in kept[how]] for how in ("returned", "kept")}
    saved = [1 - k / r for r, k in zip(ms["returned"], ms["kept"])]
    message = (
        f"Megapixel MNIST, training of {kept['images']} images of 1500², {kept['libc'] or 'no glibc'}: {np.median(ms['returned']):.1f} ms of processor time an image where memory is returned, "
        f"{np.median(ms['kept']):.1f} ms where it is kept: **{np.median(saved):.0%} saved** (the {len(saved)} pairs: {', '.join(f'{s:.0%}' for s in saved)})."
        + (" Other programs ran on the machine meanwhile." if (kept["hardware"].get("load_before") or 0) > 0.5 else "")
        if kept["available"]
        else "The C library of the recording machine has no such switch."
    )
else:
    message = "Not measured yet: `python benchmarks/cost_by_size.py kept --threads 1 --json results/cost/by_size.json`."
Markdown(message)

# %% [markdown]
# The times by size and by N and those of the paper's tables are taken without it, those of equal patches and [chapter 14](14_gigapixel.ipynb)'s with it. At batch size 1 the CNNs and Deep MIL have such large
# tensors, and so have attention at constant scale on the largest image, the largest number of patches and the largest patches; ATS-10 has none. So it is a part of their time on a CPU, and makes our ratios larger.
#
# ## Summary

# %% tags=["hide-input"]
GROW = ("CNN 1/2", "CNN 1", "Deep MIL")
exponents = {part: [slope(*xy(part, m))[0] for m in GROW if len(xy(part, m)[0]) > 1] for part in ("memory", "time")}


def between(values):
    return f"{min(values):.2f} to {max(values):.2f}" if values else "not measured"


in_proportion = bool(exponents["memory"]) and max(abs(e - 1) for e in exponents["memory"]) < 0.1
lasts = {m: slope(*(v[-2:] for v in xy("time", m)))[0] for m in GROW if len(xy("time", m)[0]) > 1}
on = [f"{METHODS[m][0]} ({e:.2f})" for m, e in lasts.items() if e > 1.1]
headline = [f"{METHODS[m][0]} {as_range(*ratio_range(m))} times" for m in METHODS if m.startswith(GROW) and range_at(m)]
x, y = xy("time", "CNN 1")
in_proportion_ms = y[0] * 2.25 / x[0]
plots.at_the_head(
    [
        *([f"On 2.25 megapixels a training step takes, beside one of ATS-10: {', '.join(headline)}."] if headline else []),
        f"The memory of attention sampling {'does' if spread < 0.15 else 'did'} not grow with the image as long as the view does not; that of CNNs and Deep MIL grows {'in proportion to the pixels' if in_proportion else 'with the pixels'}.",
        *([f"The error falls {' and '.join(clear)} patches at test time ({len(errors)} networks of one setting)." + (f" {' and '.join(unclear).capitalize()} none is shown in this setting; over all {sum(map(len, families.values()))} networks that have left chance it falls {falls_shown(unclear)}, networks taken for independent." if unclear else "")] if clear else []),
        f"Same accuracy at a tenth of the cost? On tissue, {cost_told} Of the error {accuracy_told}; so few runs cannot show that it is equal.",
    ]
)
Markdown(
    f"- Beyond the image, attention sampling takes memory for the patches and for the view. It {'does' if spread < 0.15 else 'did'} not grow with the image as long as the view does not; at constant scale it grows, at the end in proportion "
    f"(slope {slope(megapixels[-2:], scaled[-2:])[0]:.2f}), with a small factor.\n"
    "- Time has one part more, making the view from all pixels, which a pyramid of resolutions saves.\n"
    + (f"- On 2.25 megapixels, by time of a step relative to ATS-10: {', '.join(headline)}. Identical computations differ by up to a factor of {timing:.2f}. "
       f"CNN 1 and Deep MIL pay for fresh pages there, ATS-10 does not; had CNN 1's time grown with the pixels from {x[0]:g} megapixels on, it would be {in_proportion_ms / range_at('ATS, view fixed')[1]:.0f} to {in_proportion_ms / range_at('ATS, view fixed')[0]:.0f} times.\n" if headline else "")
    + f"- CNNs and Deep MIL grow in memory {'in proportion to the pixels' if in_proportion else 'with the pixels'} (slopes {between(exponents['memory'])})"
    + (f". At the last step the time of {' and '.join(on)} grew faster, although the arithmetic does not; why was not measured.\n" if on else f", in time with slopes of {between(exponents['time'])}.\n")
    + f"- In chunks, Deep MIL's memory hardly grows ({chunk_growth:.2f} MB a megapixel at the end). Then most of the paper's factor in memory is gone; the factor in time is not.\n"
    f"- Draws that show the same need not be computed twice. Settled attention shows {last_points[most]['patches']:.0f} different patches in {most} draws, and a training step is {last_points[most]['each']['ms'] / last_points[most]['shared']['ms']:.1f} times as fast.\n"
    "- N trades error for time after training, in steps of one patch, above a fixed cost for view and attention. "
    + (f"The error falls {' and '.join(clear)} patches ({len(errors)} networks of one setting, the interval is without zero; of all networks {falls_shown()})" if clear else "No step of N that was measured lowers the error beyond chance")
    + (f"; {' and '.join(unclear)} no fall is shown in this setting" if clear and unclear else "")
    + ".\n"
    "- By arithmetic, a gigapixel fits on one GPU; [chapter 14](14_gigapixel.ipynb) tries it."
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# ## Exercises
#
# :::{exercise}
# :label: ex-13-patch
# Each patch more takes a certain memory (the column "each patch b" above). Work it out by hand: LeNetFeatures has four unpadded convolutions of 32
# channels with kernels 7, 3, 3, 3, and a patch has 50 × 50 pixels. What must be kept for the backward pass, and what
# comes on top at its beginning?
# :::
#
# :::{solution} ex-13-patch
# :class: dropdown
# The convolutions give 44², 42², 40² and 38² pixels of 32 channels in float32: $4 \cdot 32 \cdot (1936 + 1764 + 1600 + 1444) =
# 863{,}232$ bytes. ReLU works in place and adds nothing. The patch itself, in float32, has 10,000. The backward pass begins with the
# maximum over 38² pixels and the ReLU before it, and holds the gradients on either side of this ReLU, 184,832 bytes each. Together
# 1,242,896 bytes, 1.24 MB. From there on it frees activations as it goes.
# :::
#
# :::{exercise}
# :label: ex-13-scale
# You have 500 MB beside the image and pictures of 100 megapixels. What is the largest scale of the view that ten patches of 50² allow?
# Use `straight("memory", "ATS, scale fixed")`.
# :::
#
# :::{solution} ex-13-scale
# :class: dropdown
# At scale 0.12 the memory is $a + bP$ for $P$ megapixels, so one megapixel of *view* takes $b / 0.12^2$. With `a, b =
# straight("memory", "ATS, scale fixed")`, the view may have `(500 - a) / (b / 0.12**2)` megapixels, and the scale is the square root
# of that over 100. Check it by a call of `cost_by_size.measure_memory` on a model with this scale.
# :::
#
# :::{exercise}
# :label: ex-13-chunk
# Deep MIL in chunks computes every patch twice in the forward direction. Count forward as one unit of arithmetic and backward as two. By
# which factor should its time grow? Compare with the tables above, and explain the difference.
# :::
#
# :::{solution} ex-13-chunk
# :class: dropdown
# From 3 units to 4, a third more. On a CPU it may be faster all the same: the activations of a chunk stay in the cache, and no
# fresh pages for those of all patches are filled with zeros (the last section). On a GPU, where neither matters,
# expect a third more.
# :::
