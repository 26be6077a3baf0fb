"""Tables from records: means with standard errors over runs, and whether a difference is more than chance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from atslib.data.files import needed
from atslib.experiments.parts import METHODS

if TYPE_CHECKING:
    import pandas


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float]:
    r"""Mean of the runs and its standard error, :math:`s / \sqrt{n}` with s² divided by n − 1; NaN for a single run.

    >>> mean_and_stderr([1.0, 2.0, 3.0])
    (2.0, 0.5773502691896258)
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"values of shape {values.shape}: expected a list of at least one number")
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def permutation_test(a: Sequence[float], b: Sequence[float], paired: bool = False) -> float:
    """Two-sided p-value of the difference of means, by counting every exchange that would be as likely if nothing differed.

    Args:
        a, b: one number a run. With ``paired`` run i of both had the same data (fold, seed), and the sign of each
            difference is exchanged; otherwise all runs are dealt to two groups anew.

    Returns:
        The share of exchanges whose difference is at least as large. It cannot be below 2/2ⁿ for n pairs, whatever the
        difference; with five pairs that is 0.0625.

    Raises:
        ValueError: no numbers, numbers that are not finite, different lengths of pairs, or more than a million exchanges.

    >>> permutation_test([1, 2, 3, 4, 5], [2, 3, 4, 5, 6], paired=True)
    0.0625
    >>> permutation_test([1, 1], [0, 0])
    0.3333333333333333
    """
    a, b = (np.asarray(values, dtype=float) for values in (a, b))
    if not len(a) or not len(b):
        raise ValueError(f"{len(a)} and {len(b)} numbers: expected at least one each")
    if paired and len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} numbers: pairs need as many of both")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(f"numbers that are not finite, {a.tolist()} and {b.tolist()}: a run without this field?")
    count = 2 ** len(a) if paired else math.comb(len(a) + len(b), len(a))
    if count > 1_000_000:
        raise ValueError(f"{count} exchanges for {len(a)} and {len(b)} runs: expected at most a million")
    if paired:
        signs = np.array(list(itertools.product([1, -1], repeat=len(a))))
        differences = signs @ (a - b) / len(a)
        observed = (a - b).mean()
    else:
        together = np.concatenate([a, b])
        chosen = np.array(list(itertools.combinations(range(len(together)), len(a))))
        sums = together[chosen].sum(1)
        differences = sums / len(a) - (together.sum() - sums) / len(b)
        observed = a.mean() - b.mean()
    # Rounding must not decide whether a difference is as large as itself; it grows with the numbers, not with their difference.
    slack = 1e-12 * max(np.abs(a).max(), np.abs(b).max())
    return float((np.abs(differences) >= abs(observed) - slack).mean())


def least_p(n_a: int, n_b: int, paired: bool = False) -> float:
    """The least p-value that :func:`permutation_test` can give of so many runs, however large the difference.

    >>> least_p(3, 3), least_p(5, 5, paired=True)
    (0.1, 0.0625)

    Raises:
        ValueError: no runs, or pairs of different numbers.
    """
    if min(n_a, n_b) < 1 or (paired and n_a != n_b):
        raise ValueError(f"{n_a} and {n_b} runs: expected at least one each, and as many of both in pairs")
    if paired:
        return 2 / 2**n_a
    return (2 if n_a == n_b else 1) / math.comb(n_a + n_b, n_a)


def beyond_chance(p: float, least: float = 0.0) -> str:
    """What a p-value over runs comes to, in the words of all pages.

    Args:
        p: of :func:`permutation_test`.
        least: of :func:`least_p`.

    >>> beyond_chance(0.03), beyond_chance(0.1, least=0.1), beyond_chance(0.2, least=0.1)
    ('beyond chance', 'the least that so few runs can give', 'not beyond chance')
    """
    if p < 0.05:
        return "beyond chance"
    return "the least that so few runs can give" if p <= least * (1 + 1e-9) else "not beyond chance"


def trend_test(values: Sequence[Sequence[float]]) -> float:
    """One-sided p-value that numbers fall from column to column, by Page's test (1963), exact also with ties.

    Within each row the numbers are ranked; the statistic is :math:`L = \\sum_j j R_j` with :math:`R_j` the sum of the ranks in
    column j. If the columns did not matter, all orders of the numbers within each row would be equally likely; they are counted.

    Args:
        values: a row for each run (seed), a column for each setting, in the order in which the numbers are expected to fall.

    Returns:
        the probability of an L as small as this.

    Raises:
        ValueError: no table of finite numbers with at least two columns, or more than eight columns.

    >>> trend_test([[3, 2, 1], [3, 2, 1]])
    0.027777777777777776
    """
    table = np.asarray(values, dtype=float)
    if table.ndim != 2 or not len(table) or not 2 <= table.shape[1] <= 8 or not np.isfinite(table).all():
        raise ValueError(f"values of shape {table.shape}: expected finite numbers, a row for each run, two to eight columns")
    place = np.arange(1, table.shape[1] + 1)
    observed, chances = 0.0, {0.0: 1.0}  # of each L of the rows so far
    for row in table:
        ranks = (row[:, None] > row).sum(1) + ((row[:, None] == row).sum(1) + 1) / 2  # ties share the mean of their ranks
        observed += float(ranks @ place)
        orders, counts = np.unique(np.array(list(itertools.permutations(ranks))) @ place, return_counts=True)
        together: dict[float, float] = {}
        for (so_far, chance), (added, count) in itertools.product(chances.items(), zip(orders, counts, strict=True)):
            together[so_far + added] = together.get(so_far + added, 0.0) + chance * count / counts.sum()
        chances = together
    return min(1.0, math.fsum(chance for value, chance in chances.items() if value <= observed + 1e-9))


def sign_test(wrong_a: Sequence[int], wrong_b: Sequence[int]) -> float:
    """Two-sided p-value that two classifiers tested on the same images are as good as each other (McNemar, exact).

    Of the images that only one of them gets wrong, each is as likely to be the one's as the other's: a fair coin.

    Args:
        wrong_a, wrong_b: numbers of the images answered wrongly, ``final["wrong"]`` of a record; or, of each image, whether it
            was, ``found["predicted"] != found["labels"]`` of :func:`atslib.training.evaluate`.

    Raises:
        ValueError: the one and the other, or of different numbers of images.

    >>> sign_test([1, 2, 3], [3]), sign_test([False, True, True, True], [False, False, False, True])
    (0.5, 0.5)
    """
    wrong_a, wrong_b = _wrong_numbers(wrong_a, wrong_b)
    only_a, only_b = len(wrong_a - wrong_b), len(wrong_b - wrong_a)
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
    return min(1.0, 2 * tail)


def _wrong_numbers(*wrong: Sequence[int] | Sequence[bool]) -> list[set[int]]:
    """The numbers of the images answered wrongly, also where a mask over all images says which."""
    arrays = [np.asarray(some) for some in wrong]
    masks = {array.shape for array in arrays if array.dtype == bool}
    if masks and (len(masks) > 1 or any(array.dtype != bool and array.size for array in arrays)):
        said = " and ".join(f"{array.dtype} {array.shape}" for array in arrays)
        raise ValueError(f"wrong answers as {said}: expected the numbers of the images, or masks over the same images")
    return [set((np.flatnonzero(array) if array.dtype == bool else array).tolist()) for array in arrays]


def balanced_sign_test(wrong_a: Sequence[int], wrong_b: Sequence[int], labels: Sequence[int]) -> float:
    """Two-sided p-value that two classifiers have the same :func:`balanced_error`, tested on the same images; exact.

    As :func:`sign_test`, but an image counts with the inverse of its class's size, as it does in the balanced error. Of the
    images of class c that only one of the two gets wrong, the number that is a's is binomial with probability 1/2; all
    combinations over the classes are enumerated.

    Args:
        wrong_a, wrong_b: as of :func:`sign_test`.
        labels: of all test images.

    Raises:
        ValueError: an image that has no label.

    >>> balanced_sign_test([0, 1, 2, 3], [], [0, 0, 0, 0, 1, 1, 1, 1]) == sign_test([0, 1, 2, 3], [])
    True
    """
    labels, (a, b) = np.asarray(labels), _wrong_numbers(wrong_a, wrong_b)
    if max(a | b, default=0) >= len(labels):
        raise ValueError(f"image {max(a | b)} answered wrongly, but there are {len(labels)} labels: expected all test images'")
    differences, chances = np.zeros(1), np.ones(1)  # of all combinations so far
    observed = 0.0
    for value in np.unique(labels):
        mine = set(np.flatnonzero(labels == value).tolist())
        only_a, only_b = len((a - b) & mine), len((b - a) & mine)
        n = only_a + only_b
        observed += (only_a - only_b) / len(mine)
        binomial = np.array([math.comb(n, k) / 2**n for k in range(n + 1)])  # whole numbers: 2.0**1024 is none
        differences = (differences[:, None] + (2 * np.arange(n + 1) - n) / len(mine)).ravel()
        chances = (chances[:, None] * binomial).ravel()
        differences, inverse = np.unique(differences.round(12), return_inverse=True)
        chances = np.bincount(inverse, weights=chances)
    return float(min(1.0, chances[np.abs(differences) >= abs(observed) - 1e-9].sum()))


def balanced_error(confusion: Sequence[Sequence[int]]) -> float:
    """Mean over classes of the share of their images that is answered wrongly; guessing gives 1 − 1/classes.

    Args:
        confusion: true class × answered class, ``final["confusion"]`` of a record. Classes without images do not count.

    Raises:
        ValueError: not a square table, or no image in it.

    >>> balanced_error([[90, 0], [10, 0]])
    0.5
    """
    confusion = np.asarray(confusion, dtype=float)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1] or not confusion.sum() > 0:
        raise ValueError(f"confusion of shape {confusion.shape}: expected a square table with at least one image")
    of_class = confusion.sum(1)
    return float(1 - (np.diag(confusion)[of_class > 0] / of_class[of_class > 0]).mean())


def method_name(method: str, n_patches: float | None = None, cnn_scale: float | None = None) -> str:
    """As the paper calls it.

    >>> [method_name("ats", 10), method_name("uniform", 5), method_name("cnn", cnn_scale=0.5), method_name("deep_mil")]
    ['ATS-10', 'U-5', 'CNN 0.5', 'Deep MIL']
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r}: expected one of {', '.join(METHODS)}")
    if (method == "cnn" and cnn_scale is None) or (METHODS[method] and n_patches is None):
        raise ValueError(f"method {method!r} with n_patches={n_patches}, cnn_scale={cnn_scale}: one belongs to its name")
    if METHODS[method]:
        return f"{dict(ats='ATS', uniform='U', nested='nested ATS')[method]}-{n_patches:g}"
    return "Deep MIL" if method == "deep_mil" else f"CNN {cnn_scale:g}"


def results_table(
    records: pandas.DataFrame, columns: dict[str, str], by: Sequence[str] = ("method", "n_patches", "settings.cnn_scale")
) -> pandas.DataFrame:
    """One row for each combination of ``by``: how many runs, and "mean ± standard error" of each column.

    Args:
        records: of :func:`atslib.experiments.records.load_records`, those that shall be in the table.
        columns: the record's field -> its heading; ``{"final.test_error": "test error"}``.

    Returns:
        headings are ``runs`` and those given; the numbers of a single run stand without an error.

    Raises:
        ValueError: runs of several experiments, profiles, estimators, orders or other settings in one row, or one seed twice:
            their mean would be of nothing. Choose among the records, or name the field in ``by``.
        ImportError: pandas is missing: ``pip install 'atslib[tables]'``.
    """
    pandas = needed("pandas")
    present = [field for field in by if field in records]
    keys, rows = [], []
    for key, group in records.groupby(present, dropna=False, sort=False):
        keys.append({name: None if pandas.isna(value) else value for name, value in zip(present, key, strict=True)})
        _check_alike(group, keys[-1])
        row = dict(runs=len(group))
        for field, heading in columns.items():
            mean, stderr = mean_and_stderr(group[field])
            row[heading] = f"{mean:.3f}" + ("" if math.isnan(stderr) else f" ± {stderr:.3f}")
        rows.append(row)
    names = [_row_name(key) for key in keys]
    if len(set(names)) < len(names):  # equal values of different fields
        names = [_row_name(key, with_fields=True) for key in keys]
    return pandas.DataFrame(rows, index=names)


def _check_alike(group: pandas.DataFrame, key: dict) -> None:
    """Raise a ValueError unless the runs of a row differ in nothing but their seed."""
    # Precision and class weights follow from machine and data; older records lack newer settings.
    free = {"settings.training.seed", "settings.training.bfloat16", "settings.training.class_weights"}
    settings = [field for field in group if field.startswith("settings.") and field not in free]
    if {"dataset.n_train", "dataset.n_test"} <= set(group):  # folds deal out the same images in several ways
        group = group.assign(**{"number of images": group["dataset.n_train"] + group["dataset.n_test"]})
    if "dataset.name" in group:
        group = group.assign(**{"dataset.name": group["dataset.name"].str.replace(r",[^,]* fold \d+$", "", regex=True)})
    for field in ("experiment", "profile", "estimator", "dataset.name", "number of images", "dataset.image_size", *settings):
        values = group[field] if field in group else ()
        said = {repr(None if _is_missing(value) else value) for value in values}
        if not field.startswith("settings.changes."):  # of which none is a setting, too: unchanged
            said.discard("None")
        if len(said) > 1:
            found = " and ".join(sorted(said))
            raise ValueError(f"{_row_name(key)}: runs with {field} {found} in one row; choose among them, or name it in `by`")
    if "seed" in group and (twice := group["seed"][group["seed"].duplicated()]).size:
        raise ValueError(f"{_row_name(key)}: several runs with seed {twice.iloc[0]} in one row; choose among them")


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


_NAMED = ("method", "n_patches", "settings.cnn_scale")


def _row_name(key: dict, with_fields: bool = False) -> str:
    """What stands before a row of :func:`results_table`: the method as the paper names it, and the values of other fields."""
    others = {field: value for field, value in key.items() if "method" not in key or (field not in _NAMED and value is not None)}
    words = [f"{field}={value}" if with_fields else f"{value}" for field, value in others.items()]
    if "method" in key:
        words.insert(0, method_name(key["method"], key.get("n_patches"), key.get("settings.cnn_scale")))
    return ", ".join(words)
