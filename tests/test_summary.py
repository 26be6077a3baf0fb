"""Tables from records: against what a textbook or SciPy gives."""

import math

import numpy as np
import pytest
from scipy import stats

from atslib.experiments.summary import (
    balanced_error,
    mean_and_stderr,
    method_name,
    permutation_test,
    results_table,
    sign_test,
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


@pytest.mark.parametrize(
    "a, b, paired, message",
    [([], [1], False, "0 and 1 numbers"), ([1, 2], [1], True, "as many of both"), ([0] * 30, [1] * 30, True, "exchanges")],
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
    assert list(table["runs"]) == [2, 1, 1]
    assert list(table["test error"]) == ["0.200 ± 0.100", "0.200", "0.400"]
    assert method_name("cnn", cnn_scale=1) == "CNN 1"


def test_results_table_by_another_field():
    import pandas

    records = pandas.DataFrame(
        {"method": ["ats", "ats"], "n_patches": [5, 5], "estimator": ["eq14", "murthy"], "final.test_error": [0.1, 0.3]}
    )
    table = results_table(records, {"final.test_error": "test error"}, by=("method", "n_patches", "estimator"))
    assert list(table.index) == ["ATS-5, eq14", "ATS-5, murthy"]
    assert list(results_table(records, {"final.test_error": "e"}, by=["estimator"]).index) == ["eq14", "murthy"]
