"""Tables from records: against what a textbook or SciPy gives."""

import itertools
import math
import re

import numpy as np
import pytest
from scipy import stats

from atslib.experiments.summary import (
    balanced_error,
    balanced_sign_test,
    beyond_chance,
    least_p,
    mean_and_stderr,
    method_name,
    permutation_test,
    results_table,
    sign_test,
    trend_test,
)

A, B = [0.2, 0.15, 0.31, 0.1, 0.22], [0.3, 0.12, 0.41, 0.35, 0.29]


def test_mean_and_stderr():
    mean, stderr = mean_and_stderr(A)
    assert mean == pytest.approx(np.mean(A)) and stderr == pytest.approx(stats.sem(A))
    assert math.isnan(mean_and_stderr([1.0])[1])
    with pytest.raises(ValueError, match="at least one number"):
        mean_and_stderr([])


@pytest.mark.parametrize("paired", [True, False])
def test_permutation_test_is_scipys(paired):
    expected = stats.permutation_test(
        (np.array(A), np.array(B)),
        lambda a, b: a.mean() - b.mean(),
        permutation_type="samples" if paired else "independent",
        n_resamples=np.inf,
    ).pvalue
    assert permutation_test(A, B, paired) == pytest.approx(expected)
    assert permutation_test(A, A, paired) == 1


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("factor", [1e-14, math.pi * 1e9])
def test_permutation_test_does_not_know_units(paired, factor):
    a, b = ([factor * value for value in values] for values in (A, B))
    assert permutation_test(a, b, paired) == permutation_test(A, B, paired)


@pytest.mark.parametrize("paired", [True, False])
def test_permutation_test_does_not_count_rounding(paired):
    """Far from zero the means are rounded by more than a millionth of a millionth of their difference."""
    a, b = [0.25, 0.5, 0.0, 0.75], [0.5, 0.25, 0.5, 1.0]
    far = [[1e6 + value / 3 for value in values] for values in (a, b)]
    assert permutation_test(*far, paired) == permutation_test(a, b, paired)


@pytest.mark.parametrize(
    "a, b, paired, message",
    [([], [1], False, "0 and 1 numbers"), ([1, 2], [1], True, "as many of both"), ([0] * 30, [1] * 30, True, "exchanges")]
    + [([1, math.nan], [1, 2], paired, "not finite") for paired in (True, False)]
    + [([1, 2], [1, math.inf], True, "not finite")],
)
def test_permutation_test_refuses(a, b, paired, message):
    with pytest.raises(ValueError, match=message):
        permutation_test(a, b, paired)


@pytest.mark.parametrize("only_a, only_b", [(3, 10), (10, 3), (4, 4), (0, 6), (0, 0)])
def test_sign_test_is_the_binomial_one(only_a, only_b):
    a, b = [*range(only_a), 100, 101], [*range(50, 50 + only_b), 100, 101]
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1
    assert sign_test(a, b) == pytest.approx(expected)


def test_balanced_error():
    assert balanced_error([[8, 2], [1, 1]]) == pytest.approx((0.2 + 0.5) / 2)
    assert balanced_error([[8, 2, 0], [0, 0, 0], [1, 0, 1]]) == pytest.approx((0.2 + 0.5) / 2)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: balanced_error([[1, 2]]), "square table"),
        (lambda: balanced_error([[0, 0], [0, 0]]), "at least one image"),
        (lambda: method_name("atts", 5), "method 'atts'"),
        (lambda: method_name("ats"), "belongs to its name"),
        (lambda: method_name("cnn"), "belongs to its name"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_results_table():
    import pandas

    records = pandas.DataFrame(
        {
            "method": ["ats", "ats", "cnn", "deep_mil"],
            "n_patches": [10, 10, None, None],
            "settings.cnn_scale": [None, None, 0.5, None],
            "final.test_error": [0.1, 0.3, 0.2, 0.4],
        }
    )
    table = results_table(records, {"final.test_error": "test error"})
    assert list(table.index) == ["ATS-10", "CNN 0.5", "Deep MIL"]
    assert list(results_table(records[::-1], {}).index) == ["Deep MIL", "CNN 0.5", "ATS-10"]  # as they come
    assert list(table["runs"]) == [2, 1, 1]
    assert list(table["test error"]) == ["0.200 ± 0.100", "0.200", "0.400"]
    assert method_name("cnn", cnn_scale=1) == "CNN 1" and method_name("nested", 5) == "nested ATS-5"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("estimator", ["des_raj", "legacy_idiap"]),
        ("profile", ["small", "laptop"]),
        ("experiment", ["megapixel_mnist", "colon_cancer"]),
        ("settings.order", ["hilbert", "raster"]),
        ("settings.changes.epochs", [None, "5"]),
        ("settings.training.epochs", [250, 300]),
        ("settings.size", [600, 1500]),
        ("dataset.image_size", [[600, 600], [1500, 1500]]),
        ("dataset.name", ["Megapixel MNIST, digits that ship with atslib", "Megapixel MNIST, digits of the whole of MNIST"]),
    ],
)
def test_results_table_does_not_average_what_differs(field, values):
    import pandas

    records = pandas.DataFrame({"method": "ats", "n_patches": 10, "seed": [0, 1], field: values, "x": [0.1, 0.5]})
    with pytest.raises(ValueError, match=rf"ATS-10: runs with {re.escape(field)} .* in one row"):
        results_table(records, {"x": "x"})
    if not isinstance(values[0], list):
        assert list(results_table(records, {"x": "x"}, by=("method", "n_patches", field))["runs"]) == [1, 1]
    records = records.assign(seed=3).drop(columns=field)
    with pytest.raises(ValueError, match="ATS-10: several runs with seed 3 in one row"):
        results_table(records, {"x": "x"})


def test_results_table_of_folds():
    import pandas

    folds = pandas.DataFrame({"method": "ats", "n_patches": 10, "seed": [0, 1], "dataset.n_train": [79, 81], "x": [0.1, 0.3]})
    folds = folds.assign(**{"dataset.name": ["CRCHistoPhenotypes, fold 0", "CRCHistoPhenotypes, stratified fold 1"]})
    assert list(results_table(folds.assign(**{"dataset.n_test": [21, 19]}), {"x": "x"})["x"]) == ["0.200 ± 0.100"]
    with pytest.raises(ValueError, match="runs with number of images 100 and 102 in one row"):
        results_table(folds.assign(**{"dataset.n_test": [21, 21]}), {"x": "x"})


def test_results_table_by_another_field():
    import pandas

    records = pandas.DataFrame(
        {"method": ["ats", "ats"], "n_patches": [5, 5], "estimator": ["eq14", "murthy"], "final.test_error": [0.1, 0.3]}
    )
    table = results_table(records, {"final.test_error": "test error"}, by=("method", "n_patches", "estimator"))
    assert list(table.index) == ["ATS-5, eq14", "ATS-5, murthy"]
    assert list(results_table(records, {"final.test_error": "e"}, by=["estimator"]).index) == ["eq14", "murthy"]


def test_results_table_keeps_rows_of_like_names():
    import pandas

    records = pandas.DataFrame(
        {"method": ["ats", "ats"], "n_patches": [5, 5], "settings.a": [1, None], "settings.b": [None, 1], "x": [0.0, 1.0]}
    )
    table = results_table(records, {"x": "x"}, by=("method", "n_patches", "settings.a", "settings.b"))
    assert list(table.index) == ["ATS-5, settings.a=1.0", "ATS-5, settings.b=1.0"] and list(table["x"]) == ["0.000", "1.000"]


def test_balanced_sign_test_by_enumeration():
    """Every way in which the images that only one gets wrong could have been dealt, counted one by one."""
    labels = [0] * 6 + [1] * 3 + [2] * 2
    wrong_a, wrong_b = [0, 1, 2, 6, 9], [2, 3, 7, 8, 10]
    weight = [1 / labels.count(label) for label in labels]
    differ = sorted(set(wrong_a) ^ set(wrong_b))
    observed = sum(weight[i] * (1 if i in wrong_a else -1) for i in differ)
    dealt = itertools.product([1, -1], repeat=len(differ))
    sums = [sum(sign * weight[i] for sign, i in zip(signs, differ, strict=True)) for signs in dealt]
    expected = np.mean([abs(value) >= abs(observed) - 1e-9 for value in sums])
    assert balanced_sign_test(wrong_a, wrong_b, labels) == pytest.approx(expected, abs=1e-12)
    assert balanced_sign_test(wrong_b, wrong_a, labels) == pytest.approx(expected, abs=1e-12)


def test_balanced_sign_test_of_equal_classes_is_the_sign_test():
    labels = [0, 1] * 10
    wrong_a, wrong_b = [0, 1, 2, 3, 4, 5, 6, 7], [7, 9]
    assert balanced_sign_test(wrong_a, wrong_b, labels) == pytest.approx(sign_test(wrong_a, wrong_b))
    assert balanced_sign_test([3], [3], labels) == 1


def test_balanced_sign_test_follows_the_balanced_error():
    """One mistake fewer in a rare class weighs more than several more in a common one."""
    labels = [0] * 200 + [1] * 10
    a = [*range(8), 200]  # 8 of 200 and 1 of 10
    b = list(range(200, 210))  # none and all 10
    assert balanced_sign_test(a, b, labels) < 0.05 < sign_test(a, b)


def test_balanced_sign_test_of_thousands_of_images():
    wrong_a, wrong_b, labels = range(1000), range(1000, 2100), [0] * 3000
    assert balanced_sign_test(wrong_a, wrong_b, labels) == pytest.approx(sign_test(wrong_a, wrong_b))


def test_balanced_sign_test_wants_all_labels():
    with pytest.raises(ValueError, match="image 3 answered wrongly, but there are 3 labels"):
        balanced_sign_test([3], [], [0, 1, 2])


@pytest.mark.parametrize("rows, columns", [(2, 3), (3, 4), (4, 3)])
def test_trend_is_pages(rows, columns):
    table = np.random.default_rng(rows).random((rows, columns))
    found = stats.page_trend_test(table[:, ::-1], method="exact")  # scipy's trend rises
    assert trend_test(table) == pytest.approx(found.pvalue)


def test_trend_counts_ties_exactly():
    table = np.array([[2.0, 1.0, 1.0], [3.0, 1.0, 2.0]])
    ranks = np.array([[3, 1.5, 1.5], [3, 1, 2]])
    observed = (ranks * [1, 2, 3]).sum()
    every = [
        np.dot(one, [1, 2, 3]) + np.dot(other, [1, 2, 3])
        for one in itertools.permutations(ranks[0])
        for other in itertools.permutations(ranks[1])
    ]
    assert trend_test(table) == pytest.approx(np.mean(np.array(every) <= observed + 1e-9))
    assert trend_test([[1, 1, 1], [2, 2, 2]]) == pytest.approx(1)
    assert trend_test([[3, 2, 2], [2, 2, 1], [1, 2, 1]]) == pytest.approx(4 / 27)  # 5/27 where ties had the least of their ranks


@pytest.mark.parametrize("values", [[], [[1]], [1, 2], [[1, float("nan")]], [list(range(9))]])
def test_no_table_has_no_trend(values):
    with pytest.raises(ValueError, match="two to eight columns"):
        trend_test(values)


def test_masks_say_which_answers_are_wrong():
    generator = np.random.default_rng(0)
    masks, labels = generator.random((2, 30)) < 0.4, generator.integers(0, 2, 30)
    numbers = [np.flatnonzero(mask).tolist() for mask in masks]
    assert sign_test(*masks) == sign_test(*masks.tolist()) == sign_test(*numbers)
    assert balanced_sign_test(*masks, labels) == balanced_sign_test(*numbers, labels)
    assert sign_test([False] * 11, [True] * 11) == pytest.approx(2 / 2**11)
    assert sign_test([], [3]) == 1
    for other in (masks[1][:20], numbers[1]):
        with pytest.raises(ValueError, match="expected the numbers of the images, or masks over the same images"):
            sign_test(masks[0], other)


@pytest.mark.parametrize(("n_a", "n_b"), [(3, 3), (4, 5)])
def test_only_the_least_p_is_called_so(n_a, n_b):
    least = least_p(n_a, n_b)
    second = least + 2 / math.comb(n_a + n_b, n_a)  # two more exchanges
    assert beyond_chance(0.2, least=0.2 - 1e-12) == "the least that so few runs can give"
    assert [beyond_chance(p, least) for p in (least, second)] == (
        ["the least that so few runs can give", "not beyond chance"] if n_a == 3 else ["beyond chance"] * 2
    )
    assert beyond_chance(0.15, least=0.1) == "not beyond chance"


@pytest.mark.parametrize(("n_a", "n_b", "paired"), [(0, 3, False), (3, 0, False), (3, 4, True), (0, 0, True)])
def test_no_least_p_without_runs(n_a, n_b, paired):
    with pytest.raises(ValueError, match=f"{n_a} and {n_b} runs: expected at least one each"):
        least_p(n_a, n_b, paired)


@pytest.mark.parametrize(("n_a", "n_b", "paired"), [(3, 3, False), (2, 4, False), (4, 4, True), (14, 14, True), (10, 10, False)])
def test_the_least_p_is_that_of_the_largest_difference(n_a, n_b, paired):
    assert least_p(n_a, n_b, paired) == pytest.approx(permutation_test([0.0] * n_a, [1.0] * n_b, paired))


def test_a_twentieth_is_not_below_a_twentieth():
    assert [beyond_chance(p, least=0.05) for p in (0.049, 0.05, 0.051)] == [
        "beyond chance",
        "the least that so few runs can give",
        "not beyond chance",
    ]
