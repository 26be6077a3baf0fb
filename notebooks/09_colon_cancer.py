# %% [markdown]
# # Colon cancer
#
# Does an image of stained tissue, 500 × 500 pixels, show epithelial nuclei? A model is told nothing but the label of the whole image.
# The paper's §4.3 asks whether ten patches, drawn by attention, answer as well as all 2,500 patches of the image, or as a network that reads
# every pixel, and whether attention ends up on the epithelium that nobody pointed out to it.
#
# **What came out**, as the end of this page computes it ([the glossary](../glossary.md) has the words):
#
# :::{glue:md} what-came-out
# :format: myst
# :::
#
# ## What you will learn
#
# - Table 1 of the paper, trained anew on the same 100 images: errors, losses, time and memory;
# - how much 100 images can say, and what is only noise;
# - Figures 4 and 8: where attention lies, and, as numbers, how well that agrees with the nuclei that an expert marked;
# - what happens to the error of U-10 and ATS-10, the two that were run so, when neighbouring images are kept together;
# - on which drawn images the same network did not start to learn, with one seed, and a start from which it did.
#
# **Time and hardware:** one or two minutes on one CPU core; nothing is downloaded. The runs behind the tables were made before, on
# one core each, in [the minutes given for each machine](#cell-colon-runs); `profile="laptop"` repeats them.
#
# The images may not be redistributed, so this page shows none. [What is in the set and where to get it](data_colon_cancer.ipynb) is a page of
# its own.

# %% tags=["parameters"]
profile = "smoke"  # smoke: train on drawn tissue for seconds, read records; laptop or paper: also train what has no record yet
max_seconds = 3600  # of training in laptop and paper; then it stops, and goes on from there the next time
show_tissue = False  # True, where the images are: tissue multiplied by attention, as in the paper. Not for publication

# %% tags=["hide-input"]
import itertools
import json
import math
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas
import torch
from IPython.display import Markdown, display
from matplotlib.ticker import LogLocator, StrMethodFormatter
from safetensors.torch import load_file
from scipy.stats import spearmanr
from scipy.stats import t as student

from atslib import downsample, plots
from atslib.data import ColonCancer, DataError, GeneratedHistology
from atslib.data.colon_cancer import N_FOLDS, N_IMAGES, SIZE
from atslib.experiments import colon_cancer, load_records, nuclei
from atslib.experiments.runs import Run, sweep
from atslib.experiments.summary import (
    beyond_chance,
    least_p,
    mean_and_stderr,
    method_name,
    permutation_test,
    sign_test,
)
from atslib.loading import InMemory
from atslib.processes import Processes
from atslib.training import train

plots.use_style()
trained = "paper" if profile == "paper" else "laptop"  # the profile of the runs
TERM = "Deep MIL†"  # trained with the entropy term of ATS
ORDER = ("U-10", "U-50", "CNN 0.5", "CNN 1", "Deep MIL", "ATS-10", "ATS-50")
COLOURS = dict(zip(ORDER, (plots.GREY, plots.BLACK, plots.GREEN, plots.BLUE, plots.PURPLE, plots.ORANGE, plots.RED), strict=True))
try:
    tests = [ColonCancer(split="test", fold=fold) for fold in range(N_FOLDS)]
except (DataError, ImportError):
    tests = None  # the page does without

less = [(("batch_size", 4), ("updates", 500))] if trained == "laptop" else [()]
least = [(("batch_size", 4), ("updates", 400))] if trained == "laptop" else [()]
paper = colon_cancer.PROFILES["paper"]
LONG = f"{paper.updates:,} updates"
long_run = [(("test_every", paper.training.test_every), ("updates", paper.updates))]
PLAN = {
    "U-10": dict(method=["uniform"], n_patches=[10]),
    "U-50": dict(method=["uniform"], n_patches=[50]),
    "CNN 0.5": dict(method=["cnn"], cnn_scale=[0.5]),
    "CNN 1": dict(method=["cnn"], cnn_scale=[1.0], changes=less),
    "Deep MIL": dict(method=["deep_mil"], changes=least),
    "ATS-10": dict(method=["ats"], n_patches=[10]),
    "ATS-50": dict(method=["ats"], n_patches=[50]),
    "U-10, neighbours together": dict(method=["uniform"], n_patches=[10], changes=[(("scheme", "runs"),)]),
    "ATS-10, neighbours together": dict(method=["ats"], n_patches=[10], changes=[(("scheme", "runs"),)]),
}
if trained == "laptop":
    PLAN[f"U-10, {LONG}"] = dict(method=["uniform"], n_patches=[10], changes=long_run)
    PLAN[f"ATS-10, {LONG}"] = dict(method=["ats"], n_patches=[10], changes=long_run)

if profile != "smoke" and tests is None:
    print("The images are not here, so nothing can be trained: see the page on the data.")
elif profile != "smoke":
    started = time.monotonic()
    group = Processes("cuda" if torch.cuda.is_available() else "cpu")
    for options in PLAN.values():
        for run in sweep("colon_cancer", seed=range(N_FOLDS), profile=profile, out=Path("../results"), **options):
            left = max_seconds - (time.monotonic() - started)
            if left > 0 and run.state != "done":
                run.execute(group, max_seconds=left, report=lambda line: None)
    nuclei.main(["--out", "../results"])

# %% [markdown]
# (cell-tab1)=
# ## Table 1: error, loss, time and memory
#
# U-10 and U-50 average 10 or 50 patches of 27 × 27 pixels from anywhere. CNN 0.5 and CNN 1 read all pixels, at half and at full resolution. Deep MIL
# {cite}`ilse2018` weighs the 2,500 patches of a 50 × 50 grid by an attention computed from their features. ATS-10 and ATS-50 {cite}`katharopoulos2019` draw 10 or 50 patches by an attention that
# sees the image at a fifth of its resolution. U, Deep MIL and ATS have the same feature network. All are trained on 80 images and tested on the other 20; five runs,
# each with another fold as its test and another seed, test every image once.

# %% tags=["hide-input"]
PAPER = {  # Table 1 of Katharopoulos & Fleuret (2019): train loss and test error with their standard errors, ms, MB
    "U-10": (0.210, 0.031, 0.156, 0.006, 1.8, 19),
    "U-50": (0.075, 0.000, 0.124, 0.010, 4.6, 24),
    "CNN 0.5": (0.002, 0.000, 0.104, 0.009, 4.8, 65),
    "CNN 1": (0.002, 0.000, 0.092, 0.012, 18.7, 250),
    "Deep MIL": (0.007, 0.000, 0.093, 0.004, 48.5, 644),
    "ATS-10": (0.083, 0.019, 0.093, 0.014, 1.8, 21),
    "ATS-50": (0.028, 0.002, 0.093, 0.019, 4.5, 26),
}
BUDGET = {"batch_size", "updates", "test_every"}  # how long a method is trained and how often tested, not what it is
AT_END = 10  # recorded epochs whose mean is a run's last training loss


def smooth(curve):
    """Mean of the last ten recorded epochs, at each of them."""
    return pandas.Series(curve).rolling(AT_END, min_periods=1).mean().to_numpy()


def last_loss(curve):
    """The training loss that a run ends with; of a short curve, which is still falling, the last epoch alone."""
    return float(smooth(curve)[-1] if len(curve) >= 6 * AT_END else curve[-1])


def pm(values, digits=3, between=" "):
    mean, stderr = mean_and_stderr(values)
    return f"{mean:.{digits}f}" + ("" if math.isnan(stderr) else f"{between}± {stderr:.{digits}f}")


def listed(names):
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


records = load_records("../results/runs")
records = records[(records["experiment"] == "colon_cancer") & records["dataset.name"].str.startswith("CRCHistoPhenotypes")]
records = records.assign(
    label=[
        method_name(*row)
        for row in records.reindex(columns=["method", "n_patches", "settings.cnn_scale"]).itertuples(index=False)
    ],
    seen=(records["settings.updates"] * records["settings.training.batch_size"]).astype(int),  # folds differ by an image or two
    train_loss=[last_loss(curve) for curve in records["curve.train_loss"]],
    changes=[
        {name.removeprefix("settings.changes."): value for name, value in row.items() if pandas.notna(value)}
        for row in records.filter(like="settings.changes.").to_dict("records")
    ]
    if records.filter(like="settings.changes.").shape[1]
    else [{}] * len(records),
)
unchanged = records["changes"].isin([{}, {"bfloat16": "True"}])  # at most the precision
as_in_paper = records[(records["profile"] == "paper") & unchanged]  # in a section of their own
own = records[(records["profile"] == trained) & (records["label"] == "ATS-10") & records["changes"].isin([{}])]
records = records[records["profile"] == (trained if len(own) else "laptop")]  # as long as the paper's are not there
as_long = (records["settings.updates"] >= paper.updates) & (records["profile"] == "laptop")  # as the paper's: apart from the others


def chosen(scheme, among=~as_long, **own):
    """Method -> its records by seed, one a fold: those that differ from the profile in their budget, folds and ``own`` only."""
    own |= {} if scheme == "stratified" else {"scheme": scheme}
    fits = [{k: v for k, v in changes.items() if k not in BUDGET} == own for changes in records["changes"]]
    found = records[
        np.array(fits, dtype=bool) & among & (records["seed"] < N_FOLDS) & records["estimator"].isin(["systematic", None, np.nan])
    ]
    groups = {}
    for (label, _), group in found.groupby(["label", "seen"]):  # of several budgets, that with most runs
        if label in ORDER and len(group) >= len(groups.get(label, ())):
            groups[label] = group.set_index("seed").sort_index()
    return {label: groups[label] for label in ORDER if label in groups}


of, together, long = chosen("stratified"), chosen("runs"), chosen("stratified", among=as_long)
literal = {}  # with the paper's settings: of each seed the run in full precision, if there is one
own_draws = as_in_paper["estimator"] == "des_raj"  # the paper's; all others systematic
for label, group in as_in_paper[(as_in_paper["seed"] < N_FOLDS) & ~own_draws].sort_values("settings.training.bfloat16").groupby("label"):
    literal[label] = group.drop_duplicates("seed").set_index("seed").sort_index()
literal = {label: literal[label] for label in ("U-10", "ATS-10") if label in literal}
one_by_one = as_in_paper[own_draws & (as_in_paper["label"] == "ATS-10") & (as_in_paper["seed"] < N_FOLDS)]
one_by_one = one_by_one.sort_values("settings.training.bfloat16").drop_duplicates("seed").set_index("seed").sort_index()
rewarded = chosen("stratified", entropy_weight="0.01")
with_term = {TERM: rewarded["Deep MIL"]} if "Deep MIL" in rewarded else {}  # Deep MIL with the entropy term: in a section of its own
every = of | with_term


def begun(loss):
    """Whether a training loss is below that of a constant answer: has the network begun to learn?"""
    return loss <= 0.95 * math.log(2)


def stuck(label, groups=every):
    """The runs of a method that ended before they had begun to learn."""
    return groups[label][~begun(groups[label]["train_loss"])] if label in groups else ()


def idle(*labels, groups=every):
    """Which of the methods have such runs, in words; empty if none has."""
    counts = {label: len(stuck(label, groups)) for label in labels}
    return "; ".join(f"{count} of the {len(groups[label])} runs of {label}" for label, count in counts.items() if count)


cost = json.loads(Path("../results/cost/colon_cancer.json").read_text(encoding="utf-8"))
rename = {"CNN 1/2": "CNN 0.5"}
measured = {rename.get(row["method"], row["method"]): row for row in cost["colon_cancer"]}
base, paper_base = measured["ATS-10"], PAPER["ATS-10"]
rows, costs = [], []
for label in ORDER:
    loss, loss_se, error, error_se, ms, mb = PAPER[label]
    runs, seen, ours = "–", "–", ["–"] * 2
    if label in of:
        runs, seen = len(of[label]), f"{of[label]['seen'].iloc[0]:,}"
        ours = [pm(of[label][key], between="<br>") for key in ("train_loss", "final.test_error")]
    time, memory = "–", "–"
    if label in measured:
        row = measured[label]
        time, memory = f"{row['ms'] / base['ms']:.1f} ({row['ms']:,.0f} ms)", f"{row['peak_mb'] / base['peak_mb']:.1f} ({row['peak_mb']:.0f} MB)"
    costs.append([label, time, f"{ms / paper_base[4]:.1f} ({ms:g} ms)", memory, f"{mb / paper_base[5]:.1f} ({mb} MB)"])
    rows.append([label, runs, seen, ours[0], f"{loss:.3f}<br>± {loss_se:.3f}", ours[1], f"{error:.3f}<br>± {error_se:.3f}"])
display(plots.table(["", "runs", "images seen", "training loss", "the paper", "test error", "the paper"], rows))
display(plots.table(["ATS-10 = 1", "time here", "time, the paper", "memory here", "memory, the paper"], costs))
display(
    Markdown(
        "Mean of the runs ± its standard error (s/√n). The training loss is the cross-entropy on augmented images while the weights still move; of each run it is the mean of "
        f"the last {AT_END} recorded epochs, or the last epoch alone where fewer than {6 * AT_END} are recorded. Time and memory are of a forward and backward pass of one image, as multiples of ATS-10's and as measured: ours on a CPU "
        "thread, the paper's on a GPU."
        + (
            f" **{idle(*of)}** ended with the training loss of a constant answer ({math.log(2):.2f}) and had not begun to learn: their error says what the budget is worth, not the method."
            if idle(*of)
            else ""
        )
    )
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# In the left panel every fold is a small dot, with mean and standard error beside it, and the paper's number is hollow. At the right, the trained
# networks look again at their test images, with more or fewer patches than they were trained with; nothing is trained anew.

# %% mystnb={"image": {"alt": "Left, test error of each method: small dots for the folds scatter widely around means with error bars; hollow diamonds are the paper's. Right, mean test error of ATS and uniform networks against the number of patches looked at in the test, with error bars, on the same axis."}}
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.6), width_ratios=[1.2, 1], sharey=True)
for x, label in enumerate(ORDER):
    left.errorbar(
        x + 0.22,
        PAPER[label][2],
        PAPER[label][3],
        color=plots.GREY,
        marker="D",
        mfc="white",
        capsize=2,
        lw=1,
    )
    if label in of:
        error = of[label]["final.test_error"]
        left.plot(
            x - 0.22 + np.linspace(-0.06, 0.06, len(error)),
            error,
            ".",
            color=COLOURS[label],
            alpha=0.5,
        )
        mean, stderr = mean_and_stderr(error)
        left.errorbar(
            x,
            mean,
            0 if math.isnan(stderr) else stderr,
            color=COLOURS[label],
            marker="o",
            capsize=3,
        )
left.set(ylabel="test error", ylim=(0, None), title="◇ the paper's")
left.set_xticks(range(len(ORDER)), ORDER, rotation=60, ha="right", rotation_mode="anchor")
more_looks = {}
for label, marker in (("U-10", "v"), ("ATS-10", "^"), ("U-50", "s"), ("ATS-50", "o")):
    if label in of:
        looks = sorted(
            int(n)
            for n in (c.split(".")[2] for c in of[label].filter(like="final.by_n_patches."))
            if n in ("5", "10", "25", "50")
        )
        looks = [
            n
            for n in dict.fromkeys(looks)
            if of[label][f"final.by_n_patches.{n}.test_error"].notna().all()
        ]
        pairs = [
            mean_and_stderr(of[label][f"final.by_n_patches.{n}.test_error"]) for n in looks
        ]
        nudge = {"U-10": 0.94, "ATS-10": 0.98, "U-50": 1.02, "ATS-50": 1.06}[label]
        right.errorbar(
            np.array(looks) * nudge,
            *zip(*pairs, strict=True),
            marker=marker,
            color=COLOURS[label],
            label=label,
            capsize=2,
        )
        more_looks[label] = looks, [mean for mean, _ in pairs]
right.set(
    xscale="log",
    xlabel="patches in the test",
    xticks=[5, 10, 25, 50],
    xticklabels=[5, 10, 25, 50],
    title="more looks",
)
right.minorticks_off()
right.legend(loc="upper right")
plt.show()

# %% tags=["hide-input"]
awake = {label: group["final.test_error"] for label, group in of.items() if not len(stuck(label)) and len(group) > 1}
within = np.median([error.max() - error.min() for error in awake.values()])
asleep = [label for label in of if label not in awake]
farthest = max(itertools.combinations(awake, 2), key=lambda pair: abs(awake[pair[0]].mean() - awake[pair[1]].mean()))
if awake[farthest[0]].mean() < awake[farthest[1]].mean():
    farthest = farthest[::-1]
gap = (awake[farthest[0]] - awake[farthest[1]]).dropna()  # fold by fold
Markdown(
    f"The folds of one method differ by {within:.2f} in the median, from the best to the worst, and the mean of a method over its folds has a standard error of about {np.median([mean_and_stderr(error)[1] for error in awake.values()]):.2f} (median of the methods"
    + (f", {listed(asleep)} aside). " if asleep else "). ")
    + f"Of the {len(awake)} methods all of whose runs had begun to learn, the two farthest means, {farthest[0]}'s {awake[farthest[0]].mean():.2f} and {farthest[1]}'s {awake[farthest[1]].mean():.2f}, differ by {pm(gap, 2)}, fold by fold; whether that is more than chance is tested [below](#how-much-can-100-images-say). "
    + "More patches in the test change the error "
    + ", ".join(f"of {label} from {errors[0]:.2f} ({looks[0]} patches) to {errors[-1]:.2f} ({looks[-1]})" for label, (looks, errors) in more_looks.items())
    + "."
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-colon-runs)=
# ## How these runs differ from the paper's
#
# **The methods did not see equally many images.** The paper trains all for 30,000 updates and does not say how many images an update has.
# Look at "images seen" before you compare. U-10 and ATS-10, which are cheap, were also trained with as many updates as the paper, [with our settings](#cell-colon-long) and [with the paper's](#cell-colon-paper).

# %% tags=["hide-input"]


def there(name):
    label, _, which = name.partition(", ")
    return {"": every, LONG: long}.get(which, together).get(label, ())


def command(options, seeds):
    words = [f"--{key.replace('_', '-')} {options[key][0]:g}" for key in ("n_patches", "cnn_scale") if key in options]
    words += [f"--set {field}={value}" for field, value in options.get("changes", [()])[0]]
    given = f"python -m atslib.experiments colon_cancer --profile {trained} --data DIR --resume --method {options['method'][0]}"
    return " ".join([given, "--seed " + ",".join(map(str, seeds)), *words])


usual = next(iter(of.values()))["machine"].mode()[0]  # times compare within one machine only


def minutes_by_machine(group):
    """Mean training time of the runs on each machine on which there is one: a, b, c … as named below the table."""
    parts = []
    for letter, machine in letters.items():
        times = [seconds[-1] / 60 for seconds, where in zip(group["curve.seconds"], group["machine"], strict=True) if where == machine]
        if times:
            parts.append(f"{np.mean(times):.0f} on {letter}" + f" ({len(times)} run{'s' * (len(times) > 1)})" * (len(times) < len(group)))
    return "; ".join(parts)


on_machines = sorted({machine for group in (*every.values(), *together.values(), *long.values()) for machine in group["machine"]} - {usual})
letters = dict(zip("abcdefgh", [usual, *on_machines], strict=False))
rows = []
for name in PLAN:
    group = there(name)
    given = [f"{group['settings.updates'].iloc[0]:,.0f}", f"{group['settings.training.batch_size'].iloc[0]:.0f}", f"{group['seen'].iloc[0]:,}"] if len(group) else ["–"] * 3
    rows.append([name, f"{len(group)} of {N_FOLDS}", *given, minutes_by_machine(group) if len(group) else "–"])
display(plots.table(["", "runs", "updates", "images an update", "images seen by each", "minutes each, on machine"], rows))
display(
    Markdown(
        "; ".join(f"{letter}: {machine}" for letter, machine in letters.items())
        + ". Other runs went on beside these, so the minutes are no benchmark, and they compare within one machine only."
    )
)
missing = {name: [seed for seed in range(N_FOLDS) if not len(there(name)) or seed not in there(name).index] for name in PLAN}
if any(missing.values()):
    print("What is missing is made by")
    for name, seeds in missing.items():
        if seeds:
            print(" ", command(PLAN[name], seeds))

# %% tags=["hide-input"]
first = next(iter(of.values())).iloc[0]
whole = sum(row["ms"] for row in cost["colon_cancer"] if "chunks" not in row["method"]) / 1000  # seconds an image, all methods
days = whole * paper.updates * paper.training.batch_size * N_FOLDS / 86400
most_seen = max(group["seen"].iloc[0] for group in of.values())
shorter = [label for label, group in of.items() if group["seen"].iloc[0] < most_seen]
half = [letter for letter, machine in letters.items() if "bfloat16" in machine]
display(
    Markdown(
        f"- **Length.** {listed([label for label in of if label not in shorter])} made {first['settings.updates']:,.0f} updates of {first['settings.training.batch_size']:.0f} images, {first['settings.updates'] / paper.updates:.0%} of the paper's number of updates; "
        + (f"{listed(shorter)}, which cost more, saw fewer images still. " if shorter else "")
        + f"All methods of the table with {paper.updates:,} updates of {paper.training.batch_size} images would take {days:.0f} days of one core, at the cost measured above.\n"
        f"- **Scale of the features.** Features of length 1 are multiplied by {first['settings.feature_scale']:g} before the classifier: without it the answers grow more slowly, which may be "
        "[one thing that keeps training at chance](08_megapixel_mnist.ipynb#why-training-stays-at-chance).\n"
        f"- **Optimiser.** The learning rate falls ({first['settings.training.schedule']}), and gradients are clipped.\n"
        "- **Draws** are systematic, along a curve through the attention map ([chapter 5](05_lower_variance.ipynb)).\n"
        + (f"- **Precision.** The runs on machine{'s' if len(half) > 1 else ''} {listed(half)} computed in bfloat16, numbers of 16 bits, half of the usual.\n" if half else "")
        + f"- **Split.** Ours are [five folds, stratified](data_colon_cancer.ipynb); the paper does not say how it split the set. PyTorch {first['software.torch']}."
    )
)
in_tables = {file for group in (*every.values(), *together.values(), *long.values()) for file in group["file"]}
budget = [set(changes) <= BUDGET | {"entropy_weight"} for changes in records["changes"]]
others = records[
    ~records["file"].isin(in_tables) & np.array(budget, dtype=bool) & (records["seed"] < N_FOLDS) & records["label"].isin(["CNN 0.5", "CNN 1", "Deep MIL"])
]
if len(others):
    rows = []
    for (label, weight, updates, size), group in others.groupby(
        ["label", "settings.training.entropy_weight", "settings.updates", "settings.training.batch_size"]
    ):
        with_it = label + "†" * (label == "Deep MIL" and weight > 0)
        rows.append([with_it, ", ".join(map(str, sorted(group["seed"]))), f"{updates:,.0f}", f"{size:.0f}", *(pm(group[key]) for key in ("train_loss", "final.test_error"))])
    display(Markdown(f"Other budgets that were tried, and are in no other table (a constant answer has a loss of {math.log(2):.2f}):"))
    display(plots.table(["", "folds", "updates", "images an update", "training loss", "test error"], rows))
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# ### Deep MIL with the entropy term
#
# Our first runs of Deep MIL were rewarded for spread attention, as attention sampling is ([eq. 21](07_entropy_and_exploration.ipynb)). The paper states this term for ATS only,
# and Deep MIL, which sees all patches anyway, has nothing to explore. These runs are in no comparison; † marks them where their attention is shown.

# %% tags=["hide-input"]
if with_term:
    rows = []
    for seed, b in with_term[TERM].iterrows():
        a = of["Deep MIL"].loc[seed] if "Deep MIL" in of and seed in of["Deep MIL"].index else None
        values = [(f"{r['train_loss']:.2f}", f"{r['final.test_error']:.2f}", "bfloat16" if r["settings.training.bfloat16"] else "float32") if r is not None else ("–",) * 3 for r in (a, b)]
        rows.append([f"fold {seed}", *(value for pair in zip(*values, strict=True) for value in pair)])
    display(plots.table(["", "training loss", f"{TERM}", "test error", f"{TERM}", "precision", f"{TERM}"], rows))
    same = "Deep MIL" in of and all(
        begun(b["train_loss"]) == begun(of["Deep MIL"].loc[seed, "train_loss"]) for seed, b in with_term[TERM].iterrows() if seed in of["Deep MIL"].index
    )
    display(
        Markdown(
            f"Both with {with_term[TERM]['seen'].iloc[0]:,} images; λ = {with_term[TERM]['settings.training.entropy_weight'].iloc[0]:g}. "
            + ("On each of these folds either both began to learn or neither did. " if same else "")
            + "So few runs cannot say what the term does."
        )
    )
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# ## How much can 100 images say?
#
# Before looking for differences, the size of chance. If a method is wrong with probability $p$, its error on $n$ images has the standard
# error $\sqrt{p(1-p)/n}$, however well it was trained.

# %% tags=["hide-input"]
tissue = json.loads(Path("../benchmarks/data.json").read_text(encoding="utf-8"))["tissue"]["outcome"]


def binomial(p, n):
    return math.sqrt(p * (1 - p) / n)


p = float(np.mean(of["ATS-10"]["final.test_error"])) if "ATS-10" in of else PAPER["ATS-10"][2]
# An error of five runs on 20 images each is a whole number of images out of 100.
no_such_mean = [row[2] for row in PAPER.values() if abs(100 * row[2] - round(100 * row[2])) > 0.05]
other_seeds = records[(records["seed"] >= N_FOLDS) & (records["label"] == "ATS-10") & (records["changes"] == {})]
again = [
    f"(fold {row['seed'] % N_FOLDS}) {of['ATS-10'].loc[row['seed'] % N_FOLDS, 'final.test_error']:.2f} and {row['final.test_error']:.2f}"
    for _, row in other_seeds.iterrows()
    if "ATS-10" in of and row["seed"] % N_FOLDS in of["ATS-10"].index
]
Markdown(
    f"With ATS-10's error of {p:.3f}, one fold of 20 images has a standard error of **{binomial(p, 20):.3f}**, and all {N_IMAGES} images together "
    f"**{binomial(p, N_IMAGES):.3f}**. One image is {1 / 20:.2f} of a fold's error. "
    + (f"ATS-10, trained twice on a fold with two seeds, has the errors {'; '.join(again)}. " if again else "")
    + (
        f"\n\nThe paper's errors are not of five runs on 20 images each: the mean of such runs is a multiple of {1 / N_IMAGES:g}, and {'none' if len(no_such_mean) == len(PAPER) else f'{len(PAPER) - len(no_such_mean)}'} of its {len(PAPER)} errors is one. "
        "Its test sets were of another size, or its runs had several each. If all its runs were tested on the same images, its standard errors say nothing about other images."
        if no_such_mean
        else ""
    )
    + "\n\n"
    f"A yardstick without any network: give each image the label of the one whose six colour numbers (mean and spread of red, green, blue) are "
    f"nearest, and the error is {1 - tissue['nearest_has_same_label']:.2f}. "
    "[Most neighbours in number are crops of one slide](data_colon_cancer.ipynb)."
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# So this page says "better" only where two tests agree; [five folds are too few for one](../ledger.md#when-methods-differ):
#
# - the **permutation test** takes the folds as pairs and exchanges the two methods within each; with five pairs its p-value cannot be below 2/2⁵ = 0.0625;
# - the **sign test** pools the 100 test images: of those that only one of two methods gets wrong, each is as likely to be the one's as the other's if both are equally good. It takes the
#   images as independent, which crops of one slide are not, and each method as trained once: its p-values are rather too small.
#
# A difference is *shown* if the sign test's p is below 0.05 and the permutation test of all five folds is as low as it can be. Folds on which one of the two had not begun to learn are left out:
# a constant answer makes all its mistakes for one reason, which no test of images knows.

# %% tags=["hide-input"]


def judged(a, b, groups=of):
    """Two methods on the folds that both were tested on and on which both had begun to learn; None if there is no such fold."""
    if a not in groups or b not in groups:
        return None
    one, two = groups[a], groups[b]
    seeds = [s for s in one.index.intersection(two.index) if one.loc[s, "dataset.digest"] == two.loc[s, "dataset.digest"]]
    seeds = [s for s in seeds if begun(one.loc[s, "train_loss"]) and begun(two.loc[s, "train_loss"])]
    if not seeds:
        return None
    one, two = one.loc[seeds], two.loc[seeds]
    wrong = [{100 * seed + i for seed, w in group["final.wrong"].items() for i in w} for group in (one, two)]
    n = int(one["dataset.n_test"].sum())
    only_a, only_b = len(wrong[0] - wrong[1]), len(wrong[1] - wrong[0])
    p1, p2 = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)  # Bonett & Price (2012): an interval that holds for few images, too
    half = 1.96 * math.sqrt((p1 + p2 - (p1 - p2) ** 2) / (n + 2))
    gap = (one["final.test_error"] - two["final.test_error"]).to_numpy()
    spread = student.ppf(0.975, len(gap) - 1) * mean_and_stderr(gap)[1] if len(gap) > 2 else math.inf
    return dict(
        folds=len(seeds),
        n=n,
        means=[group["final.test_error"].mean() for group in (one, two)],
        only=(only_a, only_b),
        permutation=permutation_test(one["final.test_error"], two["final.test_error"], paired=True),
        sign=sign_test(*wrong),
        interval=(p1 - p2 - half, p1 - p2 + half),
        by_fold=(gap.mean() - spread, gap.mean() + spread),
        lower_in=int((one["train_loss"] < two["train_loss"]).sum()),
        losses={
            key: (*(g[key].mean() for g in (one, two)), permutation_test(one[key], two[key], paired=True))
            for key in ("train_loss", "final.test_loss")
        },
    )


def folds(c):
    return f"{c['folds']} fold{'s' * (c['folds'] > 1)}"


def evidence(c):
    """For a difference of two methods: "both" tests, "sign" for the sign test alone, or "none"."""
    if c["sign"] >= 0.05:
        return "none"
    least = c["folds"] >= N_FOLDS and c["permutation"] <= least_p(c["folds"], c["folds"], paired=True) + 1e-9
    return "both" if least else "sign"


def favoured(a, b, c):
    return a if c["means"][0] < c["means"][1] else b


def p_text(p):
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def table_of_pairs(pairs, groups=of):
    """The table of some pairs of methods, one row each."""
    rows = []
    for a, b in pairs:
        if (c := judged(a, b, groups)) is None:
            rows.append([f"{a}, {b}", "0", *["–"] * 4, "nothing to compare"])
            continue
        low, high = c["interval"]
        least, most = c["by_fold"]
        outcome = {"both": f"**{favoured(a, b, c)} is better**", "sign": "open: sign test alone", "none": "no difference shown"}[evidence(c)]
        rows.append(
            [f"{a}, {b}", c["folds"], f"{c['means'][0]:.3f}, {c['means'][1]:.3f}", f"{c['only'][0]}, {c['only'][1]}",
             f"{c['means'][0] - c['means'][1]:+.3f}<br>{low:+.2f} … {high:+.2f}<br>" + ("–" if math.isinf(most) else f"{least:+.2f} … {most:+.2f}"),
             f"{c['sign']:.2g}<br>{c['permutation']:.2g}", outcome]
        )  # fmt: skip
    head = ["pair", "folds", "errors", "wrong with one alone", "difference; 95 % by images, by folds", "p: sign test, permutation", "verdict"]
    return plots.table(head, rows)


if c := judged(*farthest):
    outcome = {"both": f"{favoured(*farthest, c)} is better", "sign": "open, since only the sign test points to a difference", "none": "no difference is shown"}[evidence(c)]
    display(
        Markdown(
            f"So for the two farthest means of the figure, {farthest[0]}'s and {farthest[1]}'s, over {folds(c)}: {c['only'][0]} images that {farthest[0]} alone gets wrong, {c['only'][1]} that {farthest[1]} alone does, sign test {p_text(c['sign'])}; permutation test {p_text(c['permutation'])}: {outcome}. "
            f"They were picked as the farthest of the {math.comb(len(awake), 2)} pairs of these {len(awake)} methods, which makes the p-values too small."
        )
    )
# NBVAL_CHECK_OUTPUT


# %% [markdown]
# (cell-claim-colon-error)=
# ### Does ATS-10 equal Deep MIL and the CNN in error?
#
# §4.3.1: "compared to *Deep MIL* and CNN, ATS-10 performs equally well". That a test finds no difference does not show that there is none, so
# the table gives the interval of differences that the images allow, and that which the folds allow (Student's t). The first takes each method as trained
# once, the second knows few folds of 20 images each. A value is excluded, on this page, if it lies outside of both.

# %% tags=["hide-input"]
def shorter_cnn():
    """What the CNN at half size reached with fewer images than ATS-10, beside it; empty without all folds of it."""
    text = ""
    for seen, group in others[others["label"] == "CNN 0.5"].groupby("seen"):
        both = {"ATS-10": of["ATS-10"], "CNN 0.5": group.set_index("seed").sort_index()}
        if len(group) < N_FOLDS or (c := judged("ATS-10", "CNN 0.5", both)) is None:
            continue
        text += (
            f"{' ' * bool(text)}With {seen:,} images, {seen / of['ATS-10']['seen'].iloc[0]:.2f} of ATS-10's, CNN 0.5 has an error of {pm(group['final.test_error'])}, {'not higher than' if c['means'][1] <= c['means'][0] else 'above'} ATS-10's {c['means'][0]:.3f} "
            f"({c['only'][0]} images that ATS-10 alone gets wrong, {c['only'][1]} that the CNN alone does; sign test {p_text(c['sign'])}, permutation {p_text(c['permutation'])}), after {listed(minutes(group))}, ATS-10's after {listed(minutes(of['ATS-10']))}"
        )
        quick, slow = minutes_on(group), minutes_on(of["ATS-10"])
        longer = quick.keys() <= slow.keys() and all(min(slow[machine]) >= max(quick[machine]) for machine in quick)
        text += ". So on images as small as these, 500 pixels, sampling is not shown to save training time at equal accuracy." if longer and c["means"][1] <= c["means"][0] else "."
    return text


def minutes_on(group):
    """The training times of some runs by machine, by its letter: times compare within one machine only."""
    times, letter_of = {}, {machine: letter for letter, machine in letters.items()}
    for _, row in group.iterrows():
        times.setdefault(letter_of[row["machine"]], []).append(row["curve.seconds"][-1] / 60)
    return times


def minutes(group):
    """Shortest and longest training of some runs, machine by machine."""
    return [f"{min(each):.1f} to {max(each):.1f} minutes on machine {where}" for where, each in sorted(minutes_on(group).items())]


cheap_cnn = shorter_cnn()
rivals = ["Deep MIL", "CNN 1", "CNN 0.5"]
known = {b: c for b in rivals if (c := judged("ATS-10", b)) is not None}
differ = [b for b, c in known.items() if evidence(c) == "both"]
hinted = [b for b, c in known.items() if evidence(c) == "sign"]
few = [b for b in ("Deep MIL", "CNN 1") if b not in known or known[b]["folds"] < N_FOLDS]
level = [b for b in known if b not in differ + hinted]
# excluded is what lies outside of both intervals; with fewer than three folds that of the folds has no end
limits = [x for b in level for key in ("interval", "by_fold") for x in known[b][key]]
width = max((abs(x) for x in limits if math.isfinite(x)), default=math.nan)
endless = [b for b in level if not all(map(math.isfinite, known[b]["by_fold"]))]
if not known:
    points = ["Nothing to compare yet."]
else:
    points = [" ".join(
        [f"The error differs from that of {b}, with these budgets: {favoured('ATS-10', b, known[b])} is better." for b in differ]
        + [f"Against {b} only the sign test points to a difference, in favour of {favoured('ATS-10', b, known[b])}." for b in hinted]
        + ([f"Against {listed(level)} no difference is shown, but one of up to {width:.2f} could hide in so few images and folds{f' (for {listed(endless)} the images alone were asked: so few folds set no limit)' if endless else ''}."] if level else [])
    )]  # fmt: skip
    if few:
        counts = [f"{known[b]['folds'] if b in known else 0} folds of {b}" for b in few]
        points[-1] += f" Only {listed(counts)} can be compared{f'; {idle(*known)} had not begun to learn' if idle(*known) else ''}."
    lengths = {b: of[b]["seen"].iloc[0] for b in known if of[b]["seen"].iloc[0] < of["ATS-10"]["seen"].iloc[0]}
    if lengths:
        points.append(
            f"ATS-10 saw {of['ATS-10']['seen'].iloc[0]:,} images in training, {listed([f'{b} {seen:,}' for b, seen in lengths.items()])}: "
            "**this compares what a budget buys, not what the methods end at**."
        )
    if cheap_cnn:
        points.append(cheap_cnn)
display(table_of_pairs([("ATS-10", b) for b in rivals]))
plots.points("Outcome", points)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-claim-colon-uniform)=
# ## Is attention better than drawing anywhere?
#
# §4.3.1: "approximately 35 % lower test error and 3 times lower training loss" than uniform sampling. First with the short training of Table 1.

# %% tags=["hide-input"]


def loss_words(a, b, c, times=None):
    """How the training losses of two methods compare: a ratio, of the means if no other is given, only where every fold has one sign."""
    (mine, theirs, p), k, n = c["losses"]["train_loss"], c["lower_in"], c["folds"]
    given = f"{mine:.3f} against {theirs:.3f}"
    if k == n:
        return f"{times or theirs / mine:.1f} times lower with attention{', by the geometric mean,' if times else ','} in every fold ({given}; {p_text(p)}" + (f", the least that {n} folds can give)" if p <= 2 / 2**n + 1e-9 else ")")
    return f"{'lower' if mine < theirs else '**not** lower'} with attention on average, {given}, and lower in {k} of {n} folds ({p_text(p)}{'' if p < 0.05 else ', not beyond chance'})"


def losses_of_pairs(pairs, groups=of):
    rows = []
    for a, b in pairs:
        if c := judged(a, b, groups):
            (mine, theirs, p), (test_a, test_b, test_p) = c["losses"]["train_loss"], c["losses"]["final.test_loss"]
            rows.append(
                [f"{a}, {b}", f"{mine:.3f}, {theirs:.3f}", f"{c['lower_in']} of {c['folds']}", f"{p:.2g}", f"{PAPER[a][0]:.3f}, {PAPER[b][0]:.3f}", f"{test_a:.3f}, {test_b:.3f}", f"{test_p:.2g}"]
            )
    return plots.table(["pair", "training losses", "lower with attention in", "p, permutation", "the paper's", "test losses", "p, permutation"], rows)


known = {n: c for n in (10, 50) if (c := judged(f"ATS-{n}", f"U-{n}"))}
better = [n for n, c in known.items() if evidence(c) == "both" and favoured("ATS", "U", c) == "ATS"]
points = [] if known else ["Nothing to compare yet."]
for n, c in known.items():
    change = c["means"][0] / c["means"][1] - 1
    points.append(
        f"With {n} patches the error is {abs(change):.0%} {'lower' if change <= 0 else '**higher**'} with attention (in the paper {1 - PAPER[f'ATS-{n}'][2] / PAPER[f'U-{n}'][2]:.0%} lower); "
        f"{'a lower error is shown' if n in better else 'a lower error is **not shown**'}. The training loss is {loss_words('ATS', 'U', c)}; in the paper {PAPER[f'U-{n}'][0] / PAPER[f'ATS-{n}'][0]:.1f} times lower."
    )
display(table_of_pairs([("ATS-10", "U-10"), ("ATS-50", "U-50")]))
display(losses_of_pairs([("ATS-10", "U-10"), ("ATS-50", "U-50")]))
plots.points("Outcome", points)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-colon-long)=
# ### With as many updates as the paper
#
# The short training may be too little to tell the two apart, so U-10 and ATS-10 were trained for the paper's number of updates as well, with all
# else as above; [after that](#cell-colon-paper) also with more of the paper's settings.

# %% tags=["hide-input"]
rows = []
for label in long:
    for name, group in (("", of.get(label)), (f", {LONG}", long[label])):
        if group is not None:
            numbers = [pm(group[key]) for key in ("train_loss", "final.test_error", "final.test_loss")]
            rows.append([label + name, len(group), f"{group['seen'].iloc[0]:,}", *numbers])
    loss, loss_se, error, error_se, *_ = PAPER[label]
    rows.append([f"{label}, the paper", 5, "not given", f"{loss:.3f} ± {loss_se:.3f}", f"{error:.3f} ± {error_se:.3f}", "not given"])
if rows:
    display(plots.table(["", "runs", "images seen", "training loss", "test error", "test loss"], rows))
    display(table_of_pairs([("ATS-10", "U-10")], long))
else:
    print("No run of this length has ended yet; the commands stand in the section on how these runs differ.")
# NBVAL_CHECK_OUTPUT

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left, training loss of U-10 and ATS-10 on a logarithmic axis against thousands of images seen: thin lines for the folds, thick ones for their mean, both falling, the two close together at the end. Middle, the error on the test fold of the same runs, with dotted lines at the two errors of the paper's table: that of ATS-10 falls early and stays, that of U-10 goes on falling. Right, the entropy of ATS-10's attention, which falls at first and then rises towards that of uniform attention, a dotted line."}}

def learning_curves(groups):
    """Training loss, error on the test fold, and entropy of the attention of U-10 and ATS-10 over the training."""
    figure, axes = plt.subplots(1, 3, figsize=(7, 3.3))
    for label, group in groups.items():
        x = np.array(group["curve.epoch"].iloc[0]) * group["dataset.n_train"].iloc[0] / 1000
        for ax, key in zip(axes, ("train_loss", "test_error", "entropy")[: 2 + (label[:3] == "ATS")], strict=False):
            curves = [smooth(curve) for curve in group[f"curve.{key}"]]
            for curve in curves:
                ax.plot(x, curve, color=COLOURS[label], lw=0.6, alpha=0.5)
            ax.plot(x, np.mean(curves, axis=0), color=COLOURS[label], lw=2, label=f"{label} ({len(group)})")
        axes[1].axhline(PAPER[label][2], color=COLOURS[label], linestyle=":")
    axes[0].set(ylabel="training loss", yscale="log")
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes[0].minorticks_off()
    axes[1].set(ylabel="test error", ylim=(0, None), title="dotted: the paper's")
    axes[2].axhline(math.log(10_000), color=plots.GREY, linestyle=":")
    axes[2].set(ylabel="entropy (nats)", title="dotted: uniform")
    for ax in axes:
        ax.set_xlabel("images seen, thousands", fontsize="small")
    figure.legend(*axes[0].get_legend_handles_labels(), title="method (folds)", loc="outside lower center", ncols=2)
    plt.show()
    display(Markdown(f"Each point is the mean of the last {AT_END} recorded epochs; where the lines end is the training loss of the table."))


if long:
    learning_curves(long)

# %% [markdown]
# How many times lower the training loss with attention is depends on when one looks, so here it is along the way: the ratio of the losses of U-10 and ATS-10
# after as many updates, its geometric mean over the folds, and the 95 % interval that the folds allow (Student's t of the logarithms).

# %% tags=["hide-input"]
def along_the_way(groups):
    """Shows how many times lower the training loss of ATS-10 is; part of the training -> ratio, its interval, folds where it is lower."""
    ratios, rows = {}, []
    if not judged("ATS-10", "U-10", groups):
        return ratios
    pair = [groups[label] for label in ("ATS-10", "U-10")]
    alike = pair[0].index.intersection(pair[1].index)
    with_it, without = ([smooth(curve) for curve in group.loc[alike, "curve.train_loss"]] for group in pair)
    epochs = np.array(pair[0]["curve.epoch"].iloc[0])
    for part in (1 / 12, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1):
        i = round(part * len(epochs)) - 1
        a, b = (np.array([curve[i] for curve in curves]) for curves in (with_it, without))
        logs = np.log(b / a)
        half = student.ppf(0.975, len(logs) - 1) * mean_and_stderr(logs)[1] if len(logs) > 2 else math.inf
        ratios[part] = (*np.exp([logs.mean(), logs.mean() - half, logs.mean() + half]), int((logs > 0).sum()))
        ratio, low, high, lower = ratios[part]
        seen = epochs[i] * pair[0]["dataset.n_train"].iloc[0]
        between = f"{low:.1f} … {high:.1f}" if math.isfinite(high) else "–"
        rows.append([f"{part:.0%}", f"{seen:,.0f}", f"{a.mean():.3f}, {b.mean():.3f}", f"{ratio:.1f}", between, f"{lower} of {len(logs)}"])
    display(plots.table(["of the training", "images seen", "losses: ATS-10, U-10", "times lower", "95 %, by folds", "lower with attention in"], rows))
    return ratios


on_the_way = along_the_way(long)
# NBVAL_CHECK_OUTPUT

# %% tags=["hide-input"]
claimed = PAPER["U-10"][2] - PAPER["ATS-10"][2]  # of error, by the paper's table
factor = PAPER["U-10"][0] / PAPER["ATS-10"][0]  # of the training losses


def attention_is_better(c):
    """Whether a lower error with attention is shown."""
    return evidence(c) == "both" and favoured("ATS", "U", c) == "ATS"


def told(c, ratios):
    """What ATS-10 and U-10 say of the paper's claim, in points: of the error, of the training loss, and of that on the way."""
    (low, high), (least, most) = c["interval"], c["by_fold"]
    _, bottom, top, _ = ratios[1]
    excluded = [name for name, (bottom, top) in (("images", (low, high)), ("folds", (least, most))) if not bottom <= -claimed <= top]
    points = [
        f"{'A' if c['folds'] == N_FOLDS else f'So far, over {folds(c)}, a'} lower error with attention {'is shown' if attention_is_better(c) else 'is **not shown**'}: {c['means'][0]:.3f} against U-10's {c['means'][1]:.3f}. "
        f"A difference of the paper's size ({claimed:.3f} in favour of attention) lies "
        + ("outside the 95 % intervals over images and over folds" if len(excluded) == 2 else f"outside the 95 % interval over {excluded[0]} but inside the one over {'folds' if excluded == ['images'] else 'images'}, so it is not excluded" if excluded else "inside the 95 % intervals over images and over folds")
        + ".",
        f"The training loss is {loss_words('ATS-10', 'U-10', c, ratios[1][0])}; in the paper it is {factor:.1f} times lower"
        + (f", which the folds exclude: they allow {bottom:.1f} to {top:.1f} times" if not bottom <= factor <= top else f", which is within what the folds allow, {bottom:.1f} to {top:.1f} times" if math.isfinite(top) else "")
        + ".",
    ]
    sooner = [part for part, (_, low, _, lower) in ratios.items() if low > 1 and lower == c["folds"]]
    if sooner and bottom < 1:
        peak = max(ratios.values())
        points.append(
            f"But it is lower **on the way**: in every fold, with an interval above one, after {', '.join(f'{part:.0%}' for part in sooner)} of the training, at most {peak[0]:.1f} times "
            f"({peak[1]:.1f} to {peak[2]:.1f}). So attention learns the training images sooner; by the end the order has changed on average ({bottom:.2f} to {top:.2f}{', not beyond chance' if bottom < 1 < top else ''})."
            + (" Nowhere in the table is three times within the interval." if max(high for _, _, high, _ in ratios.values()) < 3 else "")
        )
    return points


def in_brief(c, ratios):
    """The first two points of it in one sentence, for the summary."""
    (mine, theirs), shown = c["means"], attention_is_better(c)
    return f"a lower error with attention {'is shown' if shown else 'is **not shown**'} ({mine:.3f} against U-10's {theirs:.3f}), and the training loss is {loss_words('ATS-10', 'U-10', c, ratios[1][0])}."


c = long_c = judged("ATS-10", "U-10", long)
lines, long_brief = [], ""
for label in long:
    if label in of:
        seeds = of[label].index.intersection(long[label].index)
        changes = [
            f"{key} {b.mean() - a.mean():+.3f} (permutation {p_text(permutation_test(a, b, paired=True))})"
            for key in ("error", "loss")
            for a, b in [[group.loc[seeds, f"final.test_{key}"] for group in (of[label], long[label])]]
        ]
        before, after = ({(seed, i) for seed in seeds for i in group.loc[seed, "final.wrong"]} for group in (of[label], long[label]))
        lines.append(
            f"- **What the long training changes, {label}**: test {', test '.join(changes)}; "
            f"{len(after - before)} images are missed after the long training only, {len(before - after)} after the short one only (sign test {p_text(sign_test(after, before))})."
        )
if "ATS-10" in long:
    last = len(long["ATS-10"]["curve.entropy"].iloc[0]) // 20  # tests in a twentieth of the training
    entropies = np.array([[min(smooth(curve)), np.mean(curve[-last:])] for curve in long["ATS-10"]["curve.entropy"]])
    lines.append(
        f"- **Attention** has its lowest entropy, {pm(entropies[:, 0], 2)} nats (mean of {AT_END} recorded epochs), on the way, and {pm(entropies[:, 1], 2)} in the last twentieth of the training; uniform attention has {math.log(10_000):.2f}. "
        + (
            "It spreads out again, perhaps because the entropy that is rewarded ([chapter 7](07_entropy_and_exploration.ipynb)) prevails once the training images are answered right and the loss is small; "
            "[a section below](#cell-colon-free) takes the reward away. [Below](#cell-claim-colon-attention) is what it does to the agreement with the nuclei."
            if (entropies[:, 1] > entropies[:, 0] + 0.2).all()
            else ""
        )
    )
if c is None:
    points = ["Nothing to compare at this length yet."]
else:
    long_brief, points = in_brief(c, on_the_way), told(c, on_the_way)
    if not attention_is_better(c) and max(c["losses"]["train_loss"][:2]) < PAPER["ATS-10"][0]:
        points.append(
            f"Both answer their training images better than in the paper ({PAPER['ATS-10'][0]:g} and {PAPER['U-10'][0]:g}), which may leave little for attention to make easier (not tested). "
            "More of the paper's settings are tried in [the next section](#cell-colon-paper), less reward for entropy in [a later one](#cell-colon-free)."
        )
    if not attention_is_better(c):
        points.append("A likely reason, not tested here, is what the paper says of uniform sampling's good error: a positive image holds many epithelial nuclei, often hundreds, and one is enough.")
display(Markdown("\n".join(lines)))
plots.points("Outcome, at the paper's number of updates", points)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-colon-paper)=
# ### With the paper's settings
#
# Four settings of the runs above are ours: features of length 1 are multiplied by 16, the learning rate falls, gradients are clipped, and draws are systematic. Here are U-10 and ATS-10 without the first three,
# with the same folds and seeds, as far as it has been run, and for as many updates: the profile `paper`, after §4.3 and §H.2 of the paper. Draws are still systematic; what has been run with the paper's, one by one
# without replacement (`--estimator des_raj`), has a line at the end. What the paper leaves open (images an update, the split) is as above.

# %% tags=["hide-input"]
AS_PAPER, LAST = "the paper's settings", 20


def late_error(group):
    """The mean error of the last 20 tests, since at a constant learning rate one test more or less is chance."""
    return pandas.Series([float(np.mean(curve[-LAST:])) for curve in group["curve.test_error"]], index=group.index)


rows = []
for label, group in literal.items():
    seeds = group.index
    for name, runs in ((f", {AS_PAPER}", group), (", as above", long[label].loc[long[label].index.intersection(seeds)] if label in long else None)):
        if runs is not None and len(runs):
            rows.append([label + name, len(runs), pm(runs["train_loss"]), pm(runs["final.test_error"]), pm(late_error(runs)), pm(runs["final.test_loss"])])
    loss, loss_se, error, error_se, *_ = PAPER[label]
    rows.append([f"{label}, the paper", 5, f"{loss:.3f} ± {loss_se:.3f}", f"{error:.3f} ± {error_se:.3f}", "not given", "not given"])
if rows:
    precision = {half: "bfloat16" if half else "float32" for half in (True, False)}
    used = sorted({precision[bool(half)] for group in literal.values() for half in group["settings.training.bfloat16"]})
    display(plots.table(["", "runs", "training loss", "test error", f"mean of the last {LAST} tests", "test loss"], rows))
    display(table_of_pairs([("ATS-10", "U-10")], literal))
    display(Markdown(f"Computed in {' and '.join(used)}, by {listed(sorted(set().union(*(group['machine'] for group in literal.values()))))}. The rows “as above” are of the same folds."))
else:
    print(f"No such run has ended yet: python -m atslib.experiments colon_cancer --profile paper --data DIR --method ats,uniform --n-patches 10 --seed {','.join(map(str, range(N_FOLDS)))}")
# NBVAL_CHECK_OUTPUT

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left, training loss of U-10 and ATS-10 with the paper's settings on a logarithmic axis against thousands of images seen: that of ATS-10 drops early and stays far below that of U-10, which falls slowly to the end. Middle, the error on the test fold of the same runs, with dotted lines at the two errors of the paper's table: that of ATS-10 falls first and stays level, that of U-10 falls later. Right, the entropy of ATS-10's attention, which drops and then rises a little, far below a dotted line for uniform attention."}}
if literal:
    learning_curves(literal)
    display(
        Markdown(
            "What to see: with these settings attention makes much of a difference to the training images, left, and none is seen to its advantage on others, middle. "
            "It ends far narrower than with our settings, right, though it has spread since its narrowest. Which of the three settings does so is asked [below](#cell-colon-which)."
        )
    )

# %% tags=["hide-input"]
literally = along_the_way(literal)
# NBVAL_CHECK_OUTPUT

# %% tags=["hide-input"]
c, lines, literal_brief = judged("ATS-10", "U-10", literal), [], ""
for label, group in literal.items():
    if label in long and len(seeds := group.index.intersection(long[label].index)) > 1:
        a, b = (np.log(runs.loc[seeds, "train_loss"]) for runs in (group, long[label]))
        p_value = permutation_test(a, b, paired=True)
        lines.append(
            f"- **Training loss, {label}**: {pm(group['train_loss'])}, higher than with our settings in {int((a > b).sum())} of {len(seeds)} folds ({p_text(p_value)}, {beyond_chance(p_value, least_p(len(a), len(b), paired=True))}); the paper's is {PAPER[label][0]:.3f} ± {PAPER[label][1]:.3f}."
        )
if "ATS-10" in literal:
    entropies = np.array([[min(smooth(curve)), np.mean(curve[-LAST:])] for curve in literal["ATS-10"]["curve.entropy"]])
    lines.append(
        f"- **Attention** has its lowest entropy, {pm(entropies[:, 0], 2)} nats (mean of {AT_END} recorded epochs), on the way, and {pm(entropies[:, 1], 2)} in the last {LAST} tests (with our settings {pm([np.mean(curve[-LAST:]) for curve in long['ATS-10']['curve.entropy']], 2)}); "
        f"uniform attention has {math.log(10_000):.2f}. By fold it ends at {', '.join(f'{end:.1f}' for end in entropies[:, 1])}."
        if "ATS-10" in long
        else f"- **Attention** ends with an entropy of {pm(entropies[:, 1], 2)} nats."
    )
if len(one_by_one) and "ATS-10" in literal and len(shared := one_by_one.index.intersection(literal["ATS-10"].index)):
    drawn = {"with them": one_by_one.loc[shared], "with systematic draws": literal["ATS-10"].loc[shared]}
    of_each = lambda measure, digits: ", ".join(f"{pm(measure(runs), digits)} {how}" for how, runs in drawn.items())
    lines.append(
        f"- **With the paper's draws, too**, {len(shared)} fold{'s' * (len(shared) > 1)} (seed{'s' * (len(shared) > 1)} {listed([str(seed) for seed in shared])}): training loss {of_each(lambda runs: runs['train_loss'], 4)}; "
        f"test error, mean of the last {LAST} tests, {of_each(late_error, 3)}; entropy in the last {LAST} tests, in nats, {of_each(lambda runs: [np.mean(curve[-LAST:]) for curve in runs['curve.entropy']], 2)}"
        + (f"; U-10 has on {'these folds' if len(shared) > 1 else 'this fold'} a training loss of {pm(literal['U-10'].loc[shared, 'train_loss'], 3)} and an error of {pm(late_error(literal['U-10'].loc[shared]))}." if "U-10" in literal and shared.isin(literal["U-10"].index).all() else ".")
    )
if c is None:
    points = ["Nothing to compare with these settings yet."]
else:
    both = literal["ATS-10"].index.intersection(literal["U-10"].index)
    late = [late_error(literal[label]).loc[both] for label in ("ATS-10", "U-10")]
    p_value = permutation_test(*late, paired=True)
    lines.append(
        f"- **Test error**, mean of the last {LAST} tests: {pm(late[0])} with attention, {pm(late[1])} without, a difference of {pm(late[0] - late[1])}, lower with attention in {int((late[0] < late[1]).sum())} of {folds(c)} "
        f"({p_text(p_value)}, {beyond_chance(p_value, least_p(len(both), len(both), paired=True))})."
    )
    literal_brief, points = in_brief(c, literally), told(c, literally)
    if others_seeds := [seed for seed in range(N_FOLDS) if seed not in both]:
        same = " --set bfloat16=True" if all(literal["ATS-10"]["settings.training.bfloat16"]) else ""
        given = f"python -m atslib.experiments colon_cancer --profile paper --data DIR --resume{same} --n-patches 10 --method ats,uniform --seed {','.join(map(str, others_seeds))}"
        points.append(f"Trained so far: {len(both)} of {N_FOLDS} folds; the others: `{given}`.")
    if left := [str(seed) for seed in range(N_FOLDS) if seed not in one_by_one.index]:
        points.append(f"With the paper's draws {len(one_by_one) or 'none'} of {N_FOLDS} folds {'are' if len(one_by_one) != 1 else 'is'} trained; the others: `python -m atslib.experiments colon_cancer --profile paper --data DIR --resume --n-patches 10 --method ats --estimator des_raj --set bfloat16=True --seed {','.join(left)}`.")
display(Markdown("\n".join(lines)))
plots.points("Outcome, with the paper's settings, but systematic draws", points)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# (cell-colon-which)=
# ### One setting at a time
#
# Which of the three settings keeps attention narrow? Here is ATS-10 with our settings but for one, which is the paper's: same fold, same seed, as many updates, systematic draws; as far as it has been run.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Entropy of ATS-10's attention against thousands of images seen: with our settings, with each of three of them replaced by the paper's, and with all three replaced; a dotted line for uniform attention."}}
SINGLE = {"feature_scale": ("features of length 1", "1"), "schedule": ("constant learning rate", "constant"), "clip_norm": ("no clipping", "None")}
single = {}  # by name -> runs with one setting as in the paper
for field, (name, value) in SINGLE.items():
    if (group := chosen("stratified", among=as_long, **{field: value}).get("ATS-10")) is not None:
        if {"ATS-10"} <= long.keys() & literal.keys():
            group = group.loc[group.index.intersection(long["ATS-10"].index).intersection(literal["ATS-10"].index)]
            single |= {name: group} if len(group) else {}
if single:
    at_hand = sorted(set.union(*(set(group.index) for group in single.values())))
    steps = {"our settings": long["ATS-10"].loc[at_hand], **single, "all three": literal["ATS-10"].loc[at_hand]}
    ends = {name: group["curve.entropy"].map(lambda curve: np.mean(curve[-LAST:])) for name, group in steps.items()}
    lows = {name: [min(smooth(curve)) for curve in group["curve.entropy"]] for name, group in steps.items()}
    figure, ax = plt.subplots(figsize=(7, 3.4))
    looks = [(plots.ORANGE, "-"), (plots.BLUE, "--"), (plots.GREEN, "-."), (plots.PURPLE, ":"), (plots.BLACK, "-")]
    places = ["our settings", *(name for name, _ in SINGLE.values()), "all three"]
    for name, group in steps.items():
        colour, style = looks[places.index(name)]
        for i, (epochs, n_images, entropy) in enumerate(zip(group["curve.epoch"], group["dataset.n_train"], group["curve.entropy"], strict=True)):
            ax.plot(np.array(epochs) * n_images / 1000, smooth(entropy), style, color=colour, lw=1.6, label=name if i == 0 else None)
    ax.axhline(math.log(10_000), color=plots.GREY, linestyle=":", lw=1)
    ax.set(xlabel="images seen, thousands", ylabel="entropy (nats)", ylim=(0, None), title="dotted grey: uniform")
    ax.legend(fontsize="small", ncols=2)
    plt.show()
    display(
        plots.table(
            ["ATS-10", "runs", "lowest entropy of the line", f"entropy, last {LAST} tests", "training loss", f"test error, mean of the last {LAST} tests"],
            [[name, len(group), pm(lows[name], 2), pm(ends[name], 2), pm(group["train_loss"], 4), pm(late_error(group))] for name, group in steps.items()],
        )
    )
    whole_way = ends["our settings"] - ends["all three"]  # of each fold
    each_way = {name: (ends["our settings"] - ends[name]).dropna() / whole_way.loc[ends[name].index] for name in single}
    of_the_way = {name: ways.mean() for name, ways in each_way.items()}
    by_fold = lambda ways: f"fold {ways.index[0]}" if len(ways) == 1 else "; ".join(f"{way:.0%} on fold {fold}" for fold, way in ways.items())
    said = [
        f"Each line is the mean of {AT_END} recorded epochs. From our settings to all three of the paper's, attention ends {listed([f'{way:.1f}' for way in whole_way])} nats narrower (fold{'s' * (len(at_hand) > 1)} {listed([str(fold) for fold in at_hand])}); with one of them alone it goes "
        + listed([f"{of_the_way[name]:.0%} of that way ({name}, {by_fold(ways)})" for name, ways in each_way.items()])
        + "."
    ]
    missing_one, farthest_one = len(single) < len(SINGLE), max(of_the_way, key=of_the_way.get)
    if of_the_way[farthest_one] < 0.9:
        said.append(
            f"What to see: the line of *{farthest_one}* goes farthest{' of those that were run' * missing_one}, and does not come to that of all three; "
            + ("either it is the setting that has not been run alone, or it takes more than one of them." if missing_one else "it takes more than one of them.")
        )
    if left := [field for field, (name, _) in SINGLE.items() if name not in single]:
        said.append("Not run yet: " + "; ".join(f"`{command(dict(method=['ats'], n_patches=[10], changes=[((field, SINGLE[field][1]), *long_run[0])]), at_hand)}`" for field in left) + ".")
    display(plots.points(f"Outcome, one run of each setting{' and fold, too few for a test' if len(at_hand) > 1 else ': no test can judge it'}", said))
else:
    print("No such run has ended yet:", *(command(dict(method=["ats"], n_patches=[10], changes=[((field, value), *long_run[0])]), [0]) for field, (_, value) in SINGLE.items()), sep="\n")

# %% [markdown]
# (cell-colon-free)=
# ### Without the reward for entropy
#
# Is it the reward for entropy that, with our settings, spreads attention out again, and does it keep the training loss from falling further? The same training with λ = 0, all else as
# [above, with our settings](#cell-colon-long), with the same folds and seeds, as far as it has been run.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left, training loss of U-10, of ATS-10 with the reward for entropy and of ATS-10 without it, on a logarithmic axis against thousands of images seen. Right, the entropy of the attention of the latter two and a dotted line for uniform attention: with the reward it falls and rises again to near that line."}}
FREE, FREE_PLAN = "ATS-10, λ = 0", dict(method=["ats"], n_patches=[10], changes=[(("entropy_weight", 0), *long_run[0])])
free = chosen("stratified", among=as_long, entropy_weight="0").get("ATS-10")
if free is not None and {"ATS-10", "U-10"} <= long.keys():
    free = free.loc[free.index.intersection(long["ATS-10"].index).intersection(long["U-10"].index)]
else:
    free = None
if free is not None and len(free):
    compared = {"U-10": long["U-10"].loc[free.index], "ATS-10, λ = 0.01": long["ATS-10"].loc[free.index], FREE: free}
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.4))
    for (label, group), colour, style in zip(compared.items(), (plots.GREY, plots.ORANGE, plots.BLUE), (":", "-", "--"), strict=True):
        x = np.array(group["curve.epoch"].iloc[0]) * group["dataset.n_train"].iloc[0] / 1000
        for ax, key in ((left, "train_loss"), *([(right, "entropy")] if label != "U-10" else [])):
            curves = [np.maximum(smooth(curve), 1e-6) for curve in group[f"curve.{key}"]]
            for curve in curves if len(curves) > 1 else ():
                ax.plot(x, curve, style, color=colour, lw=0.6, alpha=0.5)
            ax.plot(x, np.exp(np.mean(np.log(curves), axis=0)), style, color=colour, lw=2, label=label)
    left.set(ylabel="training loss", yscale="log")
    right.axhline(math.log(10_000), color=plots.GREY, linestyle=":", lw=1)
    right.set(ylabel="entropy (nats)", ylim=(0, None), title="dotted: uniform")
    for ax in (left, right):
        ax.set_xlabel("images seen, thousands", fontsize="small")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    plt.show()
    display(Markdown("Each point is the mean of ten recorded epochs, over the folds the geometric mean; what is below one millionth is drawn there."))

# %% tags=["hide-input"]
def at_the_end(group):
    """The entropy in the last twentieth of the training."""
    return np.array([np.mean(curve[-last:]) for curve in group["curve.entropy"]])


def number(value, digits):
    """Rounded, but never to zero."""
    if value == 0:
        return "0"
    return f"{value:.{digits}f}" if round(value, digits) > 0 else f"below {10**-digits:g}"


def over_folds(a, b):
    """What an exact paired test says over the folds, in brackets; nothing for one fold, which it cannot judge."""
    if len(a) < 2:
        return ""
    p = permutation_test(a, b, paired=True)
    return f" ({p_text(p)}, {beyond_chance(p, least_p(len(a), len(a), paired=True))})"


free_brief = ""
if free is None or not len(free):
    print("No run without the reward that could be compared has ended yet:", command(FREE_PLAN, range(N_FOLDS)))
else:
    n_free, usual_long = len(free), compared["ATS-10, λ = 0.01"]
    rows = []
    measures = (
        ("training loss", 4, "train_loss"),
        ("test error", 2, "final.test_error"),
        ("test loss", 2, "final.test_loss"),
        ("entropy at the end", 2, None),
    )
    for what, digits, key in measures:
        for label, group in compared.items():
            if key or label != "U-10":
                values = group[key].tolist() if key else at_the_end(group).tolist()
                finer = digits + (what == "test error")
                mean = pm(values, finer) if round(np.mean(values), finer) > 0 else number(np.mean(values), finer)
                rows.append([f"{what}, {label}", *(number(value, digits) for value in values), *([mean] if n_free > 1 else [])])
    display(plots.table(["", *(f"fold {seed}" for seed in free.index), *(["mean"] if n_free > 1 else [])], rows))
    ends = [at_the_end(group) for group in (long["ATS-10"], free)]
    outside = max(ends[1]) < min(ends[0])
    stays, rises = ([bool(end - min(curve) <= 0.2) == still for end, curve in zip(each, group["curve.entropy"], strict=True)] for each, group, still in ((ends[1], free, True), (ends[0], long["ATS-10"], False)))
    as_many = list(dict.fromkeys(f"{math.exp(nats):,.0f}" for nats in (min(ends[1]), max(ends[1]))))
    logs = {
        key: {label: np.log(np.maximum(group[key], 1e-6)) for label, group in compared.items()}
        for key in ("train_loss", "final.test_loss")
    }
    with_label = "ATS-10, λ = 0.01"
    below = {label: int((logs["train_loss"][FREE] < logs["train_loss"][label]).sum()) for label in compared if label != FREE}
    above_it = int((logs["final.test_loss"][FREE] > logs["final.test_loss"][with_label]).sum())
    in_folds = f"of {n_free} fold{'s' * (n_free > 1)}"
    errors = {label: group["final.test_error"] for label, group in compared.items()}
    test_losses = {label: pm(group["final.test_loss"], 2) for label, group in compared.items()}
    wrong = [{(seed, i) for seed in group.index for i in group.loc[seed, "final.wrong"]} for group in (free, usual_long)]
    spread_again = (
        "On this fold, in one run, the reward is what spreads attention out again"
        if n_free == 1
        else f"On each of {'the' if n_free == N_FOLDS else 'these'} {n_free} folds, in one run each, it is the reward that spreads attention out again"
    ) + ("; more folds are to say whether it always is." if n_free < N_FOLDS else ".")
    p_images, p_folds = sign_test(*wrong), permutation_test(errors[FREE], errors[with_label], paired=True) if n_free > 1 else math.nan
    both_tests = p_images < 0.05 and n_free == N_FOLDS and p_folds <= least_p(n_free, n_free, paired=True) + 1e-9
    higher = errors[FREE].mean() > errors[with_label].mean()
    error_p = f", permutation {p_text(p_folds)}" if n_free > 1 else ""
    said = [
        f"**Attention** ends with an entropy of {pm(ends[1], 2)} nats{over_folds(ends[1], at_the_end(usual_long))}, as if {' to '.join(as_many)} location{'s' * (as_many != ['1'])} shared it"
        + (f", below each of the {len(ends[0])} runs with the reward ({min(ends[0]):.2f} to {max(ends[0]):.2f}). " if outside else f"; the {len(ends[0])} runs with the reward end with {min(ends[0]):.2f} to {max(ends[0]):.2f}. ")
        + (
            f"There it stays, once it has fallen; with the reward it rises again in every run. {spread_again}"
            if outside and all(stays) and all(rises)
            else f"Once it has fallen it stays low in {sum(stays)} of {n_free} run{'s' * (n_free > 1)}; with the reward it rises again in {sum(rises)} of {len(rises)}."
        ),
        f"**The training loss** is lower than with the reward in {below[with_label]} {in_folds}{over_folds(logs['train_loss'][FREE], logs['train_loss'][with_label])}, "
        + f"and lower than U-10's in {below['U-10']}{over_folds(logs['train_loss'][FREE], logs['train_loss']['U-10'])}.",
        f"**The test loss** is {test_losses[FREE]}, with the reward {test_losses[with_label]}, U-10's {test_losses['U-10']}; it is higher than with the reward in {above_it} {in_folds}{over_folds(logs['final.test_loss'][FREE], logs['final.test_loss'][with_label])}."
        + (" (The tests of both are of logarithms; what is below one millionth counts as that.)" if n_free > 1 else ""),
        f"**The test error** is {pm(errors[FREE])}, with the reward {pm(errors[with_label])}, U-10's {pm(errors['U-10'])}: "
        + f"{len(wrong[0] - wrong[1])} images are missed without the reward only, {len(wrong[1] - wrong[0])} with it only (sign test {p_text(p_images)}{error_p})."
        + (f" By both tests of this page, **the error is {'higher' if higher else 'lower'} without the reward**." if both_tests else ""),
    ]
    free_brief = (
        f"attention ends on {' to '.join(as_many)} location{'s' * (as_many != ['1'])}; the training loss is below that of U-10 in {below['U-10']} {in_folds}, and the test error {pm(errors[FREE])}, with the reward {pm(errors[with_label])}: "
        + (f"{'higher' if higher else 'lower'} without, by both tests." if both_tests else "not shown to differ." if p_images >= 0.05 else "only the sign test points to a difference.")
    )
    if n_free < N_FOLDS:
        said.append(f"Trained so far: {n_free} of {N_FOLDS} folds; the others: `{command(FREE_PLAN, [seed for seed in range(N_FOLDS) if seed not in free.index])}`.")
    head = "Outcome, one fold, one run of each, which no test can judge" if n_free == 1 else f"Outcome, over {n_free} folds, in pairs of one seed"
    display(plots.points(head, said))
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# ## Time and memory: the paper's claims
#
# Both columns of Table 1 are from one forward and backward pass of one image, all methods in one run of `benchmarks/cost.py` on one machine. Our machine is not the paper's
# GPU, so milliseconds are not compared, only multiples of ATS-10's.
#
# (cell-claim-colon-speed)=
# (cell-claim-colon-memory)=
# (cell-claim-25x-30x)=
# ### Ratios to ATS-10

# %% tags=["hide-input"]


def ratio(label, key):
    return measured[label][key] / base[key]


claims = [
    ("Deep MIL is 25 times slower", "Deep MIL", "ms", 25),
    ("the CNN is 10 times slower", "CNN 1", "ms", 10),
    ("the most frugal CNN needs 3 times the memory", "CNN 0.5", "peak_mb", 3),
    ("Deep MIL needs 30 times the memory", "Deep MIL", "peak_mb", 30),
]
rows = [
    [text, f"{PAPER[label][4 + (key != 'ms')] / paper_base[4 + (key != 'ms')]:.1f}", f"{ratio(label, key):.1f}", "holds" if ratio(label, key) >= wanted else "does **not** hold"]
    for text, label, key, wanted in claims
]
display(plots.table(['the claim, as "at least"', "the paper's table", "here", ""], rows))
chunked = next((row for name, row in measured.items() if name.startswith("Deep MIL, chunks")), None)
Markdown(
    f"Measured on {cost['hardware']['name']}, {cost['hardware']['device'].upper()}, {cost['hardware']['threads']} thread, medians of {cost['repetitions']}. "
    "A CPU core computes one thing after the other, so time follows arithmetic; a GPU computes side by side, and small networks leave it idle. So the two machines need not agree. "
    f"U-10, which has no attention to compute, takes {ratio('U-10', 'ms'):.2f} of ATS-10's time here, in the paper {PAPER['U-10'][4] / paper_base[4]:.2f}."
    + (
        f" Deep MIL's memory is a choice: computed in chunks, its patches twice, it takes {chunked['peak_mb'] / base['peak_mb']:.1f} times ATS-10's "
        f"and {chunked['ms'] / base['ms']:.0f} times its time"
        + (", less than all at once, perhaps because fresh memory costs time, too." if chunked["ms"] < measured["Deep MIL"]["ms"] else ".")
        if chunked
        else ""
    )
    + " [Chapter 13](13_cost.ipynb) has more."
)
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# ## Learning
#
# The recorded runs: training loss against images seen, the mean of the folds, and the error on the test folds.

# %% mystnb={"image": {"alt": "Left, training loss against thousands of images seen, one line a method, falling. Right, test error smoothed over five tests, falling and then fluctuating. The lines of the methods that saw fewer images end early."}}
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 4))
drawn = {}  # label -> thousands of images seen, training loss, test error
for label, group in of.items():
    lengths = {len(curve) for curve in group["curve.epoch"]}
    if len(lengths) > 1:
        continue
    x = np.array(group["curve.epoch"].iloc[0]) * group["dataset.n_train"].iloc[0] / 1000
    loss = np.mean(group["curve.train_loss"].tolist(), axis=0)
    error = (
        pandas.Series(np.mean(group["curve.test_error"].tolist(), axis=0))
        .rolling(5, min_periods=1, center=True)
        .mean()
    )
    drawn[label] = x, loss, error.to_numpy()
    name = f"{label} ({len(group)})"
    left.plot(x, loss, color=COLOURS[label], label=name)
    right.plot(x, error, color=COLOURS[label], label=name)
left.set(xlabel="images seen, thousands", ylabel="training loss", ylim=(0, None))
right.set(
    xlabel="images seen, thousands", ylabel="test error, mean of five tests", ylim=(0, None)
)
figure.legend(
    *right.get_legend_handles_labels(),
    title="method (runs)",
    loc="outside lower center",
    ncols=4,
)
plt.show()

# %% tags=["hide-input"]
lines = []
if len(drawn) > 1:
    shortest = min(drawn, key=lambda label: drawn[label][0][-1])
    there_at = drawn[shortest][0][-1]
    early = {label: float(np.interp(there_at, x, loss)) for label, (x, loss, _) in drawn.items()}
    lines.append(
        f"at {1000 * there_at:,.0f} images, where the line of {shortest} ends, the training loss is {', '.join(f'{early[label]:.2f} ({label})' for label in sorted(early, key=early.get))}. "
        f"That is no ranking: {shortest} is at the end of its schedule there, with a learning rate near zero, and the methods that go on are at the beginning of theirs."
    )
    further = {label: error for label, (x, _, error) in drawn.items() if x[-1] > 2 * there_at}
    if further:
        halves = {label: [np.nanmean(part) for part in np.array_split(error, 4)][2:] for label, error in further.items()}
        change = {label: after - before for label, (before, after) in halves.items()}
        lines.append(
            f"From the third quarter of their training to the last, the test errors change by {', '.join(f'{change[label]:+.3f} ({label})' for label in change)}"
            + (f"; each is less than one standard error of {N_IMAGES} images, {binomial(p, N_IMAGES):.3f}." if max(map(abs, change.values())) < binomial(p, N_IMAGES) else ".")
        )
Markdown("**What to see:** " + " ".join(lines) if lines else "No two methods to compare yet.")
# NBVAL_CHECK_OUTPUT

# %% [markdown]
# ### Live, on drawn tissue
#
# The next cell trains. The real images are not on this page, so it takes the library's [generated histology](data_colon_cancer.ipynb), in which only
# the nuclei of one or two small glands make an image positive. Three short runs of ATS-10: on images of 128 pixels; on images of 250 pixels; and on
# those of 250 pixels again, but from the weights that the first run ended with. Glands, patches and networks are the same in all.

# %%
live = {}


def train_live(name, size, updates, start=None):
    changes = dict(
        size=size,
        n_train=64,
        n_test=48,
        n_watch=48,
        updates=updates,
        batch_size=16,
        test_every=5,
    )
    run = Run(
        "colon_cancer",
        n_patches=10,
        profile="smoke",
        changes=tuple(changes.items()),
        data="generated",
    )
    model = run.build()
    if start is not None:
        model.load_state_dict(start.state_dict())
    train_set, test_set = InMemory(run.loaded.train), InMemory(run.loaded.test)
    live[name] = train(
        model, train_set, test_set, run.settings, augment=run.loaded.augment, progress=False
    )
    return model


smaller = train_live("128 pixels", 128, updates=120)
larger = train_live("250 pixels", 250, updates=180)  # as many as the other two together
warm = train_live("250, from 128", 250, updates=60, start=smaller)

# %% mystnb={"image": {"alt": "Two panels, training loss and test error against updates. For images of 128 pixels both leave chance, a dotted line, towards the end of the run. For 250 pixels they stay near it for the whole run. From the weights of the first run, 250 pixels are learned in the shortest of the three runs."}}
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.3), sharex=True)
for (name, curve), colour, marker in zip(
    live.items(), (plots.BLUE, plots.RED, plots.GREEN), "o^s", strict=True
):
    left.plot(
        [4 * e["epoch"] for e in curve],
        [e["train_loss"] for e in curve],
        color=colour,
        label=name,
    )  # 64 images are 4 updates
    tested = [e for e in curve if "test_error" in e]
    right.plot(
        [4 * e["epoch"] for e in tested],
        [e["test_error"] for e in tested],
        marker=marker,
        color=colour,
        label=name,
    )
left.axhline(math.log(2), color=plots.GREY, linestyle=":")
right.axhline(0.5, color=plots.GREY, linestyle=":")
left.set(xlabel="updates", ylabel="training loss", ylim=(0, 1.5))
right.set(xlabel="updates", ylabel="test error", ylim=(0, 0.75))
right.legend(loc="upper right", ncols=2, fontsize=9)
plt.show()

# %% [markdown]
# The dotted line is guessing. Why should the size matter? Attention starts out uniform, and then the answer rests on the plain average of all patches of the
# image. What makes an image positive weighs in this average as much as it covers of the image, however many patches are drawn to estimate it. The cell
# measures this share: of the locations of the attention map, how many are within half a patch of a nucleus that counts?

# %%
shares = {}
for size, count in ((128, 16), (250, 16), (500, 8)):
    drawn = GeneratedHistology("train", n_images=count, size=size)
    side = round(size * colon_cancer.SCALE)
    uniform = torch.full((side, side), side**-2)
    marked = [drawn.tissue(i).nuclei for i in range(count) if drawn.labels[i]]
    areas = [
        nuclei.agreement(uniform, (size, size), kinds["glandular"], kinds["other"])["area"]
        for kinds in marked
    ]
    shares[f"drawn, {size} pixels"] = np.mean(areas)
IDLE = ", not begun to learn"
# of all networks of a method; those that learned apart from those that had not begun to
agreements, apart = {}, {}
LOOKING = ("Deep MIL", TERM, "ATS-10", "ATS-50")  # methods that have attention to look at
for label in LOOKING:
    agreements[label] = []
    for _, row in every[label].iterrows() if label in every else ():
        file = Path("../results/nuclei") / Path(row["file"]).name
        if file.exists():
            agreements[label].append(json.loads(file.read_text(encoding="utf-8")))
            apart.setdefault(label if begun(row["train_loss"]) else label + IDLE, []).append(
                agreements[label][-1]
            )
as_long_as = {f"ATS-10, {LONG}": long.get("ATS-10"), f"{FREE}, {LONG}": free, f"ATS-10, {AS_PAPER}": literal.get("ATS-10")}
for name, group in as_long_as.items():
    if group is None:
        continue
    files = [
        Path("../results/nuclei") / Path(file).name
        for file in group["file"][begun(group["train_loss"])]
    ]
    if any(file.exists() for file in files):
        apart[name] = [
            json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()
        ]
if most := max(agreements.values(), key=len):
    shares["real, 500 pixels"] = np.mean(
        [row["area"] for numbers in most for row in numbers["final"]]
    )
for name, share in shares.items():
    print(f"{name}: {share:.1%} of a positive image")

# %% tags=["hide-input"]
final = {name: curve[-1]["test_error"] for name, curve in live.items()}
chance = {name: error > 0.5 - 2 * binomial(0.5, 48) for name, error in final.items()}
real = shares.get("real, 500 pixels")
Markdown(
    f"The error on 48 test images ends at {', '.join(f'{error:.2f} ({name})' for name, error in final.items())}; guessing gives 0.50 ± {binomial(0.5, 48):.2f}. "
    + (
        "So the network can read the larger images: it does so from weights that were trained on smaller ones, after no more updates in all than the run from scratch had. It is the start that fails (one seed; a longer run might start).\n\n"
        "A reading that fits, from one seed on drawn images and not tested further: where the object is rare, the loss hardly depends on it until attention has found it, and attention has no reason to move until the loss does. "
        "After a training on smaller images, in which more of the locations count, the network did start, in this one run; a [prior](07_entropy_and_exploration.ipynb) is another thing to try.\n\n"
        if chance["250 pixels"] and not chance["128 pixels"] and not chance["250, from 128"]
        else "On this machine the contrast did not come out as it did on ours; try another seed. "
    )
    + (
        f"In the real images, although of 500 pixels, at least {real:.0%} of the locations are near epithelium (the expert left many nuclei unmarked). In this they are like the smallest of the drawn ones, and the "
        "runs of attention sampling above do learn them. "
        if real is not None
        else "How much of the real images is epithelium is said once the attention of the runs above is measured. "
    )
    + "On drawn images of 500 pixels epithelium would be rarer still; no record of a run on them is kept."
)

# %% [markdown]
# ## Where it looks
#
# At the end of the short training of Table 1, for each positive test image: where does attention lie? The paper weighs each patch by
#
# $$w_i = \frac{a_i - \min(a)}{\max(a) - \min(a)}$$
#
# and multiplies the image with it. Here is $w$ itself, dark for 0 and bright for 1, beside the nuclei that an expert marked as epithelial. **The
# models never saw those marks.** Attention sampling has 100 × 100 locations, Deep MIL 50 × 50 patches. All
# images are test images of the same fold. In the paper's Figure 4, Deep MIL's bright patches follow the epithelium closely, attention sampling's less so,
# and both also light up at the bottom centre, where there is none.
#
# (cell-fig4)=
# ### Figure 4: one test image

# %% tags=["hide-input"] mystnb={"image": {"alt": "Panels side by side: dots at the epithelial nuclei of one test image, where they are known; then the normalised attention of each method that was measured, from dark blue to yellow."}}
maps = {}
for label in LOOKING:
    if label in every and 0 in every[label].index and begun(every[label].loc[0, "train_loss"]):
        file = (Path("../results/nuclei") / Path(every[label].loc[0, "file"]).name).with_suffix(".safetensors")
        if file.exists():
            maps[label] = {int(number): log_a.float().exp() for number, log_a in load_file(file).items()}
ids = sorted(set.intersection(*(set(m) for m in maps.values()))) if maps else []
scores = {label: {row["id"]: row["auc"] for numbers in found for row in numbers["final"]} for label, found in (agreements | apart).items()}
# the network trained as long as the paper's, with the paper's settings: in the first figure only
longest, as_long_map = f"ATS-10, {AS_PAPER}", {}
if longest in apart and 0 in literal["ATS-10"].index:
    file = (Path("../results/nuclei") / Path(literal["ATS-10"].loc[0, "file"]).name).with_suffix(".safetensors")
    if file.exists():
        as_long_map = {longest: {int(number): log_a.float().exp() for number, log_a in load_file(file).items()}}


def normalised(attention):
    return (attention - attention.min()) / (attention.max() - attention.min())


def position(number):
    return next((test, test.ids.index(number)) for test in tests if number in test.ids)


def show_maps(numbers, maps=maps):
    columns = [*(["epithelial nuclei"] if tests else []), *maps]
    _, axes = plt.subplots(len(numbers), len(columns), figsize=(1.75 * len(columns), 2.05 * len(numbers) + 0.2), squeeze=False)
    place = dict(extent=(0, SIZE, SIZE, 0))
    for row, number in zip(axes, numbers, strict=True):
        for ax, label in zip(row, columns, strict=True):
            title = label.replace(", ", ",\n") if number == numbers[0] else None
            if label in maps:
                w = normalised(maps[label][number])
                if show_tissue and tests:
                    test, i = position(number)
                    large = torch.nn.functional.interpolate(w[None, None], (SIZE, SIZE))[0]
                    plots.show_image(ax, test[i][0] / 255 * large, title, **place)
                else:
                    plots.show_image(ax, w, title, cmap=plots.ATTENTION_COLOURS, vmin=0, vmax=1, **place)
                ax.set_xlabel(f"AUC {scores[label][number]:.2f}", fontsize=10)
            else:
                test, i = position(number)
                background = test[i][0] if show_tissue else torch.ones(3, 1, 1)
                plots.show_image(ax, background, title, **place)
                ax.plot(*test.nuclei(i)["epithelial"].T, ".", color=plots.RED, ms=2)
                ax.set_xlabel(f"image {number}", fontsize=10)
    plt.show()


if ids:
    show_maps(ids[:1], maps | {name: found for name, found in as_long_map.items() if ids[0] in found})
else:
    print("No attention is recorded yet: python -m atslib.experiments.nuclei")

# %% tags=["hide-input"]
absent = [label for label in LOOKING if label not in maps]
lengths = {}
for label in maps:
    lengths.setdefault(tuple(every[label].loc[0, ["settings.updates", "settings.training.batch_size"]]), []).append(label)
Markdown(
    f"One network of each method, on fold 0, after {listed([f'{updates:,.0f} updates of {images:.0f} images ({listed(labels)})' for (updates, images), labels in lengths.items()])}"
    + (f"; and on the right one after {literal['ATS-10'].loc[0, 'settings.updates']:,.0f} with the paper's settings. How attention goes on in long trainings with ours is said [below](#cell-claim-colon-attention)" if as_long_map else "")
    + ".\n\n**What to see:** every map of a short training is bright where the marked nuclei are: the shapes are the same in all of them. Deep MIL's are bright throughout with sharp edges; those of ATS are dimmer and uneven, with a few bright points. "
    f"{'The last has settled on few places, the brightest of which sets the scale: what else it prefers, which AUC counts, too, is hardly seen. ' if as_long_map else ''}"
    "AUC, below each map, is the probability that a location near an epithelial nucleus has more attention than one that is not; 0.5 is chance. "
    + (f"Not here, because no run on this fold that had begun to learn is recorded: {', '.join(absent)}. " if absent else "")
    + ("" if tests else "The positions of the nuclei are drawn where the data set is installed; here it is not.")
)

# %% [markdown]
# The normalisation makes part of that difference: the brightest *single* location sets the scale. A map with one spike looks dark however good the rest is, and a map that
# is nearly uniform looks lively.
#
# (cell-fig8)=
# ### Figure 8: further test images
#
# The paper's Figure 8 shows further test images in groups of four pictures: the stained tissue, where its epithelial cells are, the
# attention of Deep MIL and that of attention sampling. The paper finds the two attentions "very similar", in agreement even on wrong
# patches. Ours has one image a row: dots at the marked epithelium, and the attention of each method; the tissue may not be shown.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three more test images, one a row: dots at epithelial nuclei where they are known, then the normalised attention of each method that was measured."}}
if ids[1:]:
    show_maps(ids[1:])
else:
    print("No attention is recorded yet: python -m atslib.experiments.nuclei")

# %% tags=["hide-input"]


def pooled(attention):
    """On the grid of Deep MIL: 50 × 50."""
    attention = attention.numpy()
    factor = attention.shape[0] // 50
    return attention.reshape(50, factor, 50, factor).sum((1, 3))


def far_from_nuclei(number):
    test, i = position(number)
    centres = (np.arange(50) + 0.5) * SIZE / 50
    x, y = test.nuclei(i)["epithelial"].T
    squared = (centres[None, :, None] - x) ** 2 + (centres[:, None, None] - y) ** 2
    return squared.min(-1) > nuclei.RADIUS**2


DARK = "darkness"
to_compare = {name: {n: pooled(maps[name][n]) for n in ids} for name in maps}
if tests:  # a map that has learned nothing: how dark each cell of the image is
    to_compare[DARK] = {n: 1 - downsample(test[i][0][None], (50, 50))[0].mean(0).numpy() for n in ids for test, i in [position(n)]}


def rank_correlations(a, b, where=None):
    """Of two maps, image by image; over all cells, or those of ``where``."""
    cells = [np.ones((50, 50), bool) if where is None else where(n) for n in ids]
    return np.array([spearmanr(to_compare[a][n][m], to_compare[b][n][m]).statistic for n, m in zip(ids, cells, strict=True)])


def beyond(a, b, third, where=None):
    """Partial rank correlation of two maps: what is left of it when both are compared at equal ranks of the third."""
    ab, at, bt = (rank_correlations(*pair, where) for pair in ((a, b), (a, third), (b, third)))
    return (ab - at * bt) / np.sqrt((1 - at**2) * (1 - bt**2))


pairs = list(itertools.combinations(to_compare, 2)) if len(maps) > 1 else []
rows, alike = [], {}
for a, b in pairs:
    everywhere, far = rank_correlations(a, b), rank_correlations(a, b, far_from_nuclei) if tests else None
    alike[a, b] = everywhere.mean(), far.mean() if tests else math.nan
    rows.append([f"{a} and {b}", pm(everywhere, 2), pm(far, 2) if tests else "needs the data"])
if rows:
    display(
        Markdown(
            "**What to see:** row by row the columns have the same bright shapes, also where no nucleus is marked, as at the right of image 30. On image 36 the maps differ most: those of ATS have a faint glow over the whole tissue that Deep MIL's has not.\n\n"
            f"As a number: rank correlation of two attentions over the 2,500 cells of an image, mean of {len(ids)} images ± standard error; 1 is the same order, 0 none:"
        )
    )
    display(plots.table(["", "everywhere", "away from epithelial nuclei"], rows))
    if ("Deep MIL", "ATS-10") in alike:
        near, away = alike["Deep MIL", "ATS-10"]
        siblings = alike.get(("ATS-10", "ATS-50"), (math.nan,))[0]
        text = (
            f"The ranks of Deep MIL's map explain {near**2:.0%} of the variance of the ranks of ATS-10's (the square of {near:.2f})"
            + (f", and {away**2:.0%} away from the marked nuclei, the places that both would choose wrongly" if away > 0 else "")
            + (f"; those of two networks of attention sampling {siblings**2:.0%}" if siblings > near else "")
            + f". So far the paper's \"very similar\" {'fits' if near > 0.7 else 'is too strong'}. "
        )
        if tests:
            mil_dark, ats_dark = (alike[name, DARK][0] for name in ("Deep MIL", "ATS-10"))
            left, left_away = (beyond("Deep MIL", "ATS-10", DARK, where) for where in (None, far_from_nuclei))
            text += (
                f"**But plain darkness of the image** is as like Deep MIL's map ({mil_dark:.2f}) and ATS-10's ({ats_dark:.2f}) as they are like each other. "
                if min(mil_dark, ats_dark) > near - 0.05
                else f"Plain darkness of the image is less like them ({mil_dark:.2f} and {ats_dark:.2f}). "
            ) + (
                f"Between cells of equal darkness the rank correlation of the two is {pm(left, 2)}, and {pm(left_away, 2)} away from the nuclei (partial correlation, mean of the {len(ids)} images ± standard error): "
                + ("beyond both preferring dark tissue little likeness is shown." if left.mean() < 0.5 else "they are alike beyond both preferring dark tissue.")
            )
        display(Markdown(text))
else:
    print("Two attentions are needed to compare them; recorded:", ", ".join(maps) or "none")

# %% tags=["hide-input"]
if tests and ids:
    marked = {n: (sum(map(len, test.nuclei(i).values())), len(test.detected(i))) for n in ids for test, i in [position(n)]}
    display(
        Markdown(
            "A bright place without a dot need not be a mistake: of the nuclei that were detected, the expert gave only some a kind, "
            + ", ".join(f"{kinds / detected:.0%} in image {n}" for n, (kinds, detected) in marked.items())
            + "."
        )
    )

# %% [markdown]
# (cell-claim-colon-attention)=
# ### As numbers
#
# Pictures of four images persuade more than they prove. For all positive test images, a location is *near* if an epithelial nucleus is within 13 pixels of its
# centre, so that the patch around it shows the nucleus.
#
# - **mass**: the attention on near locations; the **area** that they cover is what uniform attention would have;
# - **AUC**: does a near location have more attention than another? Background is easy to tell from cells, so this alone proves little;
# - **AUC among nuclei**: does the location of an *epithelial* nucleus have more attention than that of a fibroblast, an inflammatory or another cell?
#
# Two yardsticks that learned nothing: the attention network before training, and, where the images are here, plain darkness of the small view (nuclei are
# dark). Networks that ended with the training loss of a constant answer stand in a row of their own.

# %% tags=["hide-input"]
KEYS = ("mass", "area", "auc", "auc_nuclei")


def agreement_row(name, per_fold):
    return [name, len(per_fold), *(pm([np.nanmean([row[key] for row in rows]) for rows in per_fold], 2) for key in KEYS)]


rows = [agreement_row(name, [numbers["final"] for numbers in found]) for name, found in sorted(apart.items())]
before = [[numbers["epochs"]["0"]] for numbers in agreements["ATS-10"] if "0" in numbers["epochs"]]
if before:
    rows.append(agreement_row("ATS-10, untrained", before))
darkness = {}
if tests:
    for test in tests:
        for i in (test.labels == 1).nonzero()[:, 0].tolist():
            view = downsample(test[i][0][None], (100, 100))[0]
            dark, kinds = 1 - view.mean(0), test.nuclei(i)
            darkness[test.ids[i]] = nuclei.agreement(
                dark / dark.sum(), (SIZE, SIZE), kinds.pop("epithelial"), np.concatenate(list(kinds.values()))
            )
    rows.append(agreement_row("darkness", [[darkness[n] for n in test.ids if n in darkness] for test in tests]))
if rows:
    display(plots.table(["", "folds", "mass", "area", "AUC", "AUC among nuclei"], rows))
    for name in (name for name in apart if name.endswith(IDLE)):
        entropies = [row["entropy"] for numbers in apart[name] for row in numbers["final"]]
        locations = 2500 if name.startswith("Deep MIL") else 10_000
        even = np.mean(np.exp(entropies)) / locations
        files = [Path("../results/nuclei") / Path(row["file"]).name for _, row in others.iterrows() if name == row["label"] + "†" * (row["settings.training.entropy_weight"] > 0) + IDLE]
        elsewhere = [json.loads(file.read_text(encoding="utf-8"))["final"] for file in files if file.exists()]
        same = [np.mean([row["auc"] for row in some]) for some in elsewhere if np.mean(np.exp([row["entropy"] for row in some])) / locations > 0.99]
        display(
            Markdown(
                f"{name}: the attention has an entropy of {np.mean(entropies):.2f}, uniform attention {math.log(locations):.2f} (log {locations:,})."
                + (" It is as good as uniform; an AUC reads the order of differences that are next to nothing." if even > 0.99 else "")
                + (f" Of the runs with other budgets, those whose attention is as even have an AUC of {', '.join(f'{auc:.2f}' for auc in same)}." if same else "")
            )
        )
else:
    print("Nothing is measured yet: python -m atslib.experiments.nuclei")

# %% tags=["hide-input"]


def by_image(name, key):
    return {row["id"]: row[key] for numbers in apart.get(name, ()) for row in numbers["final"] if not math.isnan(row[key])}


def networks_above(name, key):
    """Of how many networks the mean over images is above chance, and of how many."""
    means = [np.nanmean([row[key] for row in numbers["final"]]) for numbers in apart.get(name, ())]
    return sum(mean > 0.5 for mean in means), len(means)


def above(values, others):
    """Of the images in both, how many have the larger number in the first; and the sign test's p."""
    both = values.keys() & others.keys()
    more, fewer = ({n for n in both if values[n] > others[n]}, {n for n in both if values[n] < others[n]})
    return len(more), len(both), sign_test(more, fewer)


def networks(count):
    return f"{count} network{'s' * (count != 1)}"


def side_by_side(name, other, key):
    """Of networks of two methods that were tested on the same images, the means of each over them."""
    return [
        tuple(np.mean([row[key] for row in numbers["final"]]) for numbers in (mine, theirs))
        for mine in apart.get(name, ())
        for theirs in apart.get(other, ())
        if {row["id"] for row in mine["final"]} == {row["id"] for row in theirs["final"]}
    ]


by_key, lines = {"auc": [], "auc_nuclei": []}, []
for name in (name for name in sorted(apart) if not name.endswith(IDLE)):
    for key, rows in by_key.items():
        row = [name, len(apart[name]), len(by_image(name, "auc"))]
        values = by_image(name, key)
        more, n, p_value = above(values, dict.fromkeys(values, 0.5))
        row += [f"{np.mean(list(values.values())):.2f}", f"{more}<br>{p_text(p_value)}", "{} of {}".format(*networks_above(name, key))]
        if darkness:
            more, n, p_value = above(values, {number: numbers[key] for number, numbers in darkness.items()})
        rows.append([*row, f"{more}<br>{p_text(p_value)}" if darkness else "–"])
if by_key["auc"]:
    columns = ["above 0.5, images", "above 0.5, networks", "above darkness, images"]
    for rows, called in zip(by_key.values(), ("AUC", "AUC among nuclei"), strict=True):
        display(plots.table(["", "networks", "images", called, *columns], rows))
    display(
        Markdown(
            "*Above darkness*: in how many images it is above that of plain darkness. p: sign test over the images. Images of one network are not independent, and crops of one slide are alike, so these p-values are too small; how many *networks* are above chance "
            "on average stands beside them."
        )
    )
mil = max(("Deep MIL", TERM), key=lambda label: len(apart.get(label, ())))  # of which more networks had learned
n_mil = len(apart.get(mil, ()))
unmeasured = [f"{label}, fold {seed}" for label in agreements for seed, row in (every[label].iterrows() if label in every else ()) if not (Path("../results/nuclei") / Path(row["file"]).name).exists()]
for name, group in as_long_as.items():
    for seed, row in group.iterrows() if group is not None else ():
        if not (Path("../results/nuclei") / Path(row["file"]).name).exists():
            unmeasured.append(f"{name}, fold {seed}")
if unmeasured:
    lines.append(f"Not measured yet: {'; '.join(unmeasured)} (`python -m atslib.experiments.nuclei --data DIR`).")
comparison = "No network of Deep MIL that had learned is measured yet."
if n_mil:
    which = f"the {networks(n_mil)} of {mil}{' that had learned' * (mil + IDLE in apart)}"
    comparison = f"No image is measured with both ATS-10 and {which}."
    words = []
    for key, called in (("auc", "AUC"), ("mass", "mass near nuclei")):
        more, n, p_value = above(by_image("ATS-10", key), by_image(mil, key))
        by_fold = side_by_side("ATS-10", mil, key)
        if n and by_fold:
            words.append(
                f"the {called} of ATS-10 is the higher in {more} of {n} images (sign test {p_text(p_value)}, as if images were independent) and on average in {sum(mine > theirs for mine, theirs in by_fold)} of {len(by_fold)} folds "
                f"({', '.join(f'{mine:.2f} against {theirs:.2f}' for mine, theirs in by_fold)})"
            )
    if words:
        comparison = f"Beside {which}, {'; '.join(words)}. {networks(n_mil).capitalize()} of a method cannot show that it differs."
values = by_image("ATS-10", "auc_nuclei")
finds, said = False, []
if values:
    good, count = networks_above("ATS-10", "auc_nuclei")
    # More attention near nuclei than the area there, too: an AUC knows nothing of how little the differences may be.
    more_than_area = [np.mean([row["mass"] for row in numbers["final"]]) > np.mean([row["area"] for row in numbers["final"]]) for numbers in apart["ATS-10"]]
    finds = good == count and all(more_than_area) and above(values, dict.fromkeys(values, 0.5))[2] < 0.05
    said.append(
        f"Attention sampling finds epithelium from image labels alone: in each of {networks(count)} there is more attention near epithelial nuclei than their share of the area, and it ranks them above other nuclei (by their AUC; by how much is not measured)."
        if finds
        else f"That attention prefers epithelial nuclei to others is not shown (so on average in {good} of {networks(count)})."
    )
    said.append(comparison)
long_name, longer = f"ATS-10, {LONG}", {}  # of the long trainings: the mass near nuclei
if values and long_name in apart:
    mass, area = (np.mean([np.mean([row[key] for row in numbers["final"]]) for numbers in apart[long_name]]) for key in ("mass", "area"))
    more, n, p_value = above(by_image(long_name, "auc_nuclei"), dict.fromkeys(by_image(long_name, "auc_nuclei"), 0.5))
    short_mass = np.mean(list(by_image("ATS-10", "mass").values()))
    masses = side_by_side(long_name, "ATS-10", "mass")
    lower = f"lower in {sum(mine < theirs for mine, theirs in masses)} of {len(masses)} folds{over_folds(*zip(*masses, strict=True)) if masses else ''}"
    longer["with as many updates as the paper"] = mass
    said.append(
        f"**With as many updates as the paper** ({networks(len(apart[long_name]))}) the mass near nuclei is {mass:.2f}, on {area:.2f} of the area. "
        f"After the short training it is {short_mass:.2f}; after the long one it is {lower}."
    )
    if darkness:
        dark = {key: np.nanmean([numbers[key] for numbers in darkness.values()]) for key in ("auc", "auc_nuclei")}
        mine = {key: np.mean(list(by_image(long_name, key).values())) for key in dark}
        more, n, p_value = above(by_image(long_name, "auc"), {number: numbers["auc"] for number, numbers in darkness.items()})
        said[-1] += (
            f" Its AUC, {mine['auc']:.2f}, is {'no higher than' if mine['auc'] <= dark['auc'] or p_value >= 0.05 else 'above'} that of plain darkness, {dark['auc']:.2f}; "
            f"among nuclei it says {'more' if mine['auc_nuclei'] > dark['auc_nuclei'] else 'no more'} than darkness ({mine['auc_nuclei']:.2f} against {dark['auc_nuclei']:.2f})."
        )
    free_name = f"{FREE}, {LONG}"
    if free_name in apart:
        without, rewarded_too = ({row["id"]: row["mass"] for numbers in apart[name] for row in numbers["final"]} for name in (free_name, long_name))
        shared = without.keys() & rewarded_too.keys()
        both_ways = side_by_side(free_name, long_name, "mass")
        more = sum(without[i] > rewarded_too[i] for i in shared)
        longer["without the reward for entropy"] = np.mean(list(without.values()))
        said.append(
            f"**Without the reward for entropy** ({networks(len(apart[free_name]))}, [trained as long](#cell-colon-free)) the mass near nuclei is {np.mean([without[i] for i in shared]):.2f}, "
            f"where the networks with it have {np.mean([rewarded_too[i] for i in shared]):.2f} on the same {len(shared)} images, and it is the larger in {more} of them (sign test {p_text(above(without, rewarded_too)[2])})"
            + (f", on average in {sum(mine > theirs for mine, theirs in both_ways)} of {len(both_ways)} folds{over_folds(*zip(*both_ways, strict=True))}." if len(both_ways) > 1 else ".")
        )
    paper_name = f"ATS-10, {AS_PAPER}"
    if paper_name in apart:
        mass, auc, auc_nuclei = (np.mean(list(by_image(paper_name, key).values())) for key in ("mass", "auc", "auc_nuclei"))
        masses = side_by_side(paper_name, long_name, "mass")
        longer["with the paper's settings"] = mass
        said.append(
            f"**With [the paper's settings](#cell-colon-paper)** ({networks(len(apart[paper_name]))}) the mass near nuclei is {mass:.2f}, the AUC {auc:.2f}, among nuclei {auc_nuclei:.2f}"
            + (f"; the mass is larger than with our settings in {sum(mine > theirs for mine, theirs in masses)} of {len(masses)} folds{over_folds(*zip(*masses, strict=True))}." if masses else ".")
        )
plots.points("Outcome", [*said, *lines] or ["Nothing measured yet."])

# %% [markdown]
# ## Neighbours together
#
# Many consecutive images seem to be crops of one slide. A random split trains on one crop and tests on another. `scheme="runs"` keeps such crops in one fold
# ([how they were found](data_colon_cancer.ipynb)). If an error is larger then, part of the first one was recognising slides. Only U-10 and ATS-10 were run so.

# %% tags=["hide-input"]


def wrong_images(group, scheme):
    """The images that a method answers wrongly, over all folds; needs the images, to know which are in a fold."""
    if tests is None:
        return set()
    ids = {fold: ColonCancer(split="test", fold=fold, scheme=scheme).ids for fold in group.index}
    return {ids[fold][i] for fold, wrong in group["final.wrong"].items() for i in wrong}


rows, by_fold, lines = [], [], []
n_tests = 2 * len(together.keys() & of.keys())  # of error and of loss
for label in ORDER:
    if label in together and label in of:
        random, kept = of[label], together[label]
        ps = {key: permutation_test(kept[f"final.test_{key}"], random[f"final.test_{key}"]) for key in ("error", "loss")}
        rows.append([label, len(random), len(kept), *(cell for key in ps for cell in (*(pm(g[f"final.test_{key}"]) for g in (random, kept)), f"{ps[key]:.2g}"))])
        for g, how in ((random, "at random"), (kept, "together")):
            by_fold.append([f"{label}, {how}", *(f"{g['final.test_error'].get(fold, math.nan):.2f}" for fold in range(N_FOLDS))])
        change, worst = kept["final.test_error"].mean() - random["final.test_error"].mean(), kept["final.test_error"].idxmax()
        missed_by = [wrong_images(g, scheme) for g, scheme in ((kept, "runs"), (random, "stratified"))]
        shown = [key for key, value in ps.items() if value < 0.05 / n_tests]
        lines.append(
            f"- {label}: the error changes by {change:+.3f} with neighbours together, without their fold {worst} (of the random split all folds, which are others) by {kept['final.test_error'].drop(worst).mean() - random['final.test_error'].mean():+.3f}. "
            + (f"A change of the {' and of the '.join(shown)} is shown." if shown else "A change is **not shown**, neither of the error nor of the loss.")
            + (
                f" Image by image, {len(missed_by[0] - missed_by[1])} are missed only with neighbours together and {len(missed_by[1] - missed_by[0])} only at random (sign test {p_text(sign_test(*missed_by))}, as if images were independent)."
                if all(missed_by)
                else ""
            )
        )
if rows:
    display(plots.table(["", "runs, random", "runs, together", "error, random", "error, together", "p", "loss, random", "loss, together", "p"], rows))
    display(plots.table(["error of", *(f"fold {fold}" for fold in range(N_FOLDS))], by_fold))
    lines.append(
        f"\nThe folds are not the same in both, so the permutation test deals all runs anew; with {N_FOLDS} and {N_FOLDS} its p cannot be below {2 / math.comb(2 * N_FOLDS, N_FOLDS):.3f}. "
        f"With {n_tests} tests, a change counts as shown if its p is below 0.05 / {n_tests}."
    )
    display(Markdown("\n".join(lines)))
else:
    print("No run with neighbours together has ended yet; the commands stand in the section on how these runs differ.")

# %% [markdown]
# ## Labels in doubt
#
# Images 37 and 39 are negative by the rule of the paper, because no epithelial nucleus is *marked* in them; both show a gland at the border. A model that
# calls them positive is counted wrong for being right. Which images are missed most often, over all runs in Table 1 that had begun to learn?

# %% tags=["hide-input"]
if tests:
    missed = {}
    counted = {}
    for label, group in of.items():
        for seed, wrong in group["final.wrong"].items():
            if not begun(group.loc[seed, "train_loss"]):
                continue  # a constant answer misses half of the images for no reason of theirs
            for i, number in enumerate(tests[seed].ids):
                counted[number] = counted.get(number, 0) + 1
                missed.setdefault(number, []).extend([label] if i in wrong else [])
    hardest = sorted((n for n in missed if missed[n]), key=lambda n: -len(missed[n]) / counted[n])[:8]
    label_of = {number: int(label) for test in tests for number, label in zip(test.ids, test.labels, strict=True)}
    display(
        plots.table(
            ["image", "label", "missed by", ""],
            [
                [n, ("negative", "positive")[label_of[n]], f"{len(missed[n])} of {counted[n]}", ", ".join(missed[n])]
                for n in hardest
            ],
        )
    )
    doubtful = {n: f"{len(missed.get(n, []))} of {counted.get(n, 0)} runs call image {n} positive" for n in (37, 39)}
    common = sum(len(missed[n]) == counted[n] for n in missed if counted[n] >= 3)  # a method has one run on each image
    text = (
        f"{' and '.join(doubtful.values())}. {common} image{' is' if common == 1 else 's are'} missed by all of the methods that were tested on "
        f"{'it' if common == 1 else 'them'}, {sum(bool(m) for m in missed.values())} by at least one."
    )
else:
    text = "Which images those are can only be said where the data set is installed; here it is not."
close = [PAPER[k][2] for k in ("CNN 1", "Deep MIL", "ATS-10", "ATS-50")]
Markdown(
    f"{text} Two doubtful labels are {2 / N_IMAGES:.2f} of error; in the paper ATS, Deep MIL and CNN 1 lie within {max(close) - min(close):.3f}, "
    f"and CNN 0.5 is at most {max(abs(PAPER['CNN 0.5'][2] - error) for error in close):.3f} from any of them."
)

# %% [markdown]
# ## Summary

# %% tags=["hide-input"]
rivals = {b: c for b in ("U-10", "CNN 0.5", "CNN 1", "Deep MIL") if (c := judged("ATS-10", b))}
verdicts = {}
for b, c in rivals.items():
    words = {"both": f"{favoured('ATS-10', b, c)} is better than the other", "sign": "only the sign test points to a difference", "none": "no difference is shown"}[evidence(c)]
    verdicts.setdefault(words, []).append(f"{b} ({c['means'][1]:.2f}" + (f" on {folds(c)}" if c["folds"] < N_FOLDS else "") + ")")
values = {key: list(by_image("ATS-10", key).values()) for key in ("auc", "auc_nuclei", "mass", "area")}
least_difference = 2 * math.sqrt(2) * binomial(p, N_IMAGES)
gaps = [abs(a[2] - b[2]) for a, b in itertools.combinations(PAPER.values(), 2)]
sampling = [label for label in of if label.startswith(("ATS", "U-"))]
started = sum(begun(of[label]["train_loss"]).sum() for label in sampling)
error_told = (
    f"With the short training ATS-10's error is {pm(of['ATS-10']['final.test_error'])}; "
    + "; ".join(f"against {listed(names)} {words}" for words, names in verdicts.items())
    + (f" ({idle(*rivals)} had not begun to learn and {'is' if idle(*rivals).startswith('1 of') and ';' not in idle(*rivals) else 'are'} left out)." if idle(*rivals) else ".")
)
cost_told = (
    f"Deep MIL takes {ratio('Deep MIL', 'ms'):.0f} times the time and {ratio('Deep MIL', 'peak_mb'):.0f} times the memory of ATS-10 on our CPU; the paper's ratios are "
    f"{PAPER['Deep MIL'][4] / paper_base[4]:.0f} and {PAPER['Deep MIL'][5] / paper_base[5]:.0f}."
)
found_told = (
    f"{'Attention finds epithelium without having been shown any' if finds else 'Whether attention finds epithelium is not shown'}: {np.mean(values['mass']):.0%} of its mass is near epithelial nuclei, which are {np.mean(values['area']):.0%} of the area "
    f"(a place near one has more attention than another place with a probability of {np.mean(values['auc']):.2f}, and than another kind of nucleus with {np.mean(values['auc_nuclei']):.2f})."
    + (f" After longer trainings the share is {listed([f'{share:.0%} {how}' for how, share in longer.items()])}." if longer else "")
    if values["auc"]
    else "Attention has not been measured yet."
)
long_told = [f"[With as many updates as the paper](#cell-colon-long), {long_brief}"] if long_brief else []
plots.at_the_head([error_told, *long_told, cost_told, found_told])
points = [
    error_told,
    *([cheap_cnn] if cheap_cnn else []),
    *long_told,
    *([f"[With as many updates and the paper's settings](#cell-colon-paper), but systematic draws, {literal_brief}"] if literal_brief else []),
    *([f"[Without the reward for entropy](#cell-colon-free), with as many updates and our settings, {free_brief}"] if free_brief else []),
    f"Errors around {p:.2f} must differ by about {least_difference:.2f} to be told apart on {N_IMAGES} images, somewhat less where methods miss the same ones; of the "
    f"{len(gaps)} differences between methods in the paper's Table 1, {'all' if all(gap < least_difference for gap in gaps) else sum(gap < least_difference for gap in gaps)} are smaller.",
    cost_told,
    found_told,
    (
        f"On drawn images of 250 pixels, {shares['drawn, 250 pixels']:.0%} of whose locations are near a nucleus that counts, the same network did not start to learn (one seed). "
        if chance["250 pixels"]
        else ""
    )
    + f"On the colon images {started} of {sum(len(of[label]) for label in sampling)} runs of U and ATS began to learn"
    + (f", {len(of['Deep MIL']) - len(stuck('Deep MIL'))} of the {len(of['Deep MIL'])} shorter ones of Deep MIL." if "Deep MIL" in of else "."),
]
Markdown("\n".join(f"- {point}" for point in points))

# %% [markdown]
# ## Exercises
#
# :::{exercise}
# :label: ex-09-how-many
# One method is wrong on 9.3 % of the images and another on 15.6 %. How many test images does it take to show this in four of five attempts, at the 5 %
# level, if each method is tested on images of its own?
# :::
#
# :::{solution} ex-09-how-many
# :class: dropdown
# The difference is 0.063; its variance for $n$ images each is $(0.093 \cdot 0.907 + 0.156 \cdot 0.844)/n = 0.216/n$. It must be 1.96 + 0.84 standard errors:
# $n = 2.8^2 \cdot 0.216 / 0.063^2 \approx 427$. The same images for both methods help, the more so the more their mistakes coincide: then only the images that one of them
# alone gets wrong matter.
# :::
#
# :::{exercise}
# :label: ex-09-normalise
# Plot an attention map of `results/nuclei/*.safetensors` three times: as $w$ of the paper, as the square root of $a$ (`plots.show_attention`), and as ranks. Which of
# the pictures change if one location gets a hundred times its attention? Which of our numbers?
# :::
#
# :::{solution} ex-09-normalise
# :class: dropdown
# Each file holds maps of logarithms by the number of the image, `log_a = load_file(path)["30"]`; ranks are `log_a.flatten().argsort().argsort().view_as(log_a)`. A spike turns the paper's $w$ dark everywhere else and dims
# the square root; ranks do not notice. AUC uses ranks only. Mass moves, and it is what counts for sampling: it is the share of the draws.
# :::
#
# :::{exercise}
# :label: ex-09-rare
# The run on 250 pixels that starts from scratch: do more patches help? Set `n_patches=50` in the live cell. Say first what you expect.
# :::
#
# :::{solution} ex-09-rare
# :class: dropdown
# Look at the test error, and at the time. Fifty draws estimate the average over all patches better than ten, but while attention is
# uniform, that average is the same, and a gland is a small share of it: the price rises, and there is little reason to start earlier.
# :::
