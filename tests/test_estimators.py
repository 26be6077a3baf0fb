"""The estimators against the truth: every draw enumerated in float64, no tolerance for noise."""

import math
from functools import cache
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atslib import estimators
from atslib.enumeration import every_draw, exact_mean
from atslib.estimators import (
    DEFAULT_ESTIMATOR,
    ESTIMATORS,
    PPS,
    DesRaj,
    Estimator,
    Stratified,
    Systematic,
    WithReplacement,
    check_log_attention,
    entropy,
    get_estimator,
    hilbert_curve,
)

UNBIASED = [e for e in ESTIMATORS.values() if not e.biased]
BIASED = [e for e in ESTIMATORS.values() if e.biased]
RASTER = [Systematic("raster"), Stratified("raster"), PPS("raster")]
WITH_BASELINE = ["with_replacement", "des_raj", "murthy"]
WITH_STDERR = ["with_replacement", "des_raj", "murthy"]


def identify(value):
    return repr(value) if isinstance(value, Estimator) else None


def problem(shape=(2, 3), peak=1.0, seed=0, dim=4):
    """Logits of a map and features of each location, float64, with gradients."""
    generator = torch.Generator().manual_seed(seed)
    logits = (peak * torch.randn(shape, dtype=torch.float64, generator=generator)).requires_grad_()
    features = torch.randn(math.prod(shape), dim, dtype=torch.float64, generator=generator).requires_grad_()
    direction = torch.randn(dim, dtype=torch.float64, generator=generator)
    return logits, features, direction


def log_softmax(logits):
    return logits.flatten().log_softmax(0).view_as(logits)


def biases(estimator, n, logits, features, direction, baseline=None):
    """Relative bias of the value, of the gradient by the logits and by the features."""
    log_attention = log_softmax(logits)
    mean = exact_mean(estimator, log_attention, features, n, baseline)
    truth = (log_attention.flatten().exp()[:, None] * features).sum(0)
    measured = [mean.detach(), *torch.autograd.grad(mean @ direction, [logits, features], retain_graph=True)]
    expected = [truth.detach(), *torch.autograd.grad(truth @ direction, [logits, features])]
    return [((m - e).norm() / e.norm()).item() for m, e in zip(measured, expected, strict=True)]


@pytest.mark.parametrize("estimator", UNBIASED + RASTER, ids=identify)
@pytest.mark.parametrize("shape, n", [((1, 3), 1), ((1, 3), 3), ((2, 2), 2), ((1, 5), 4), ((2, 3), 3), ((1, 7), 4)])
@pytest.mark.parametrize("peak", [0.0, 1.0, 4.0])
def test_unbiased(estimator, shape, n, peak):
    assert max(biases(estimator, n, *problem(shape, peak))) <= 1e-12


@pytest.mark.parametrize("estimator", UNBIASED + RASTER, ids=identify)
def test_a_constant_baseline_keeps_every_estimator_unbiased(estimator):
    logits, features, direction = problem()
    constant = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    assert max(biases(estimator, 3, logits, features, direction, baseline=constant)) <= 1e-12


@pytest.mark.parametrize("name", [e.name for e in UNBIASED])
def test_a_baseline_is_held_constant(name):
    """Also where the gradient is differentiated once more: one that a network has made is not trained by the estimate."""
    logits, features, direction = problem()
    log_attention, baseline = log_softmax(logits)[None], torch.zeros(4, dtype=torch.float64, requires_grad=True)
    index = ESTIMATORS[name].sample(log_attention, 3, generator=torch.Generator().manual_seed(0))
    estimate = ESTIMATORS[name](log_attention, index, features[index], baseline)
    (by_logits,) = torch.autograd.grad(estimate.sum(0) @ direction, logits, create_graph=True)
    assert torch.autograd.grad(by_logits.square().sum(), baseline, allow_unused=True) == (None,)


@pytest.mark.parametrize("name", WITH_BASELINE)
@pytest.mark.parametrize("n", [2, 3, 4])
def test_built_in_baseline_is_unbiased(name, n):
    assert max(biases(ESTIMATORS[name], n, *problem((1, 6)), baseline="built_in")) <= 1e-12


def test_weights_times_a_baseline_of_what_was_drawn_is_biased_without_replacement():
    """Why Des Raj's control variate is another: W_m b_m, with b_m the mean of the earlier features, has no mean of zero."""

    class Naive(DesRaj):
        def _built_in_control(self, log_attention, index, features):
            count = torch.arange(index.shape[1]).clamp(min=1)[:, None]
            return self.weights(log_attention, index)[..., None] * (features.cumsum(1) - features) / count

    value, by_logits, by_features = biases(Naive(), 3, *problem((1, 6)), baseline="built_in")
    assert value <= 1e-12 and by_features <= 1e-12 and by_logits > 0.01


@pytest.mark.parametrize("estimator", UNBIASED + RASTER, ids=identify)
def test_gradients_where_attention_is_zero(estimator):
    """Unbiased behind a mask: the attention of what is never drawn cannot grow, so that nothing is missed."""
    logits, features, direction = problem((1, 5))
    mask = torch.tensor([[0.0, 0.0, -math.inf, 0.0, 0.0]], dtype=torch.float64)
    log_attention = log_softmax(logits + mask)
    found = exact_mean(estimator, log_attention, features, 3) @ direction
    truth = (log_attention.flatten().exp() @ features) @ direction
    for ours, right in zip(*(torch.autograd.grad(x, [logits, features], retain_graph=True) for x in (found, truth)), strict=True):
        torch.testing.assert_close(ours, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", WITH_BASELINE)
def test_built_in_baseline_lowers_the_gradient_variance_where_features_share_a_mean(name):
    logits, features, direction = problem()
    features = (features + 3).detach()

    def gradient_variance(baseline):
        log_attention = log_softmax(logits)
        index, probability = every_draw(ESTIMATORS[name], log_attention, 3)
        estimates = ESTIMATORS[name](log_attention.expand(len(index), *logits.shape), index, features[index], baseline)
        gradients = torch.stack(
            [torch.autograd.grad(e @ direction, logits, retain_graph=True)[0].flatten() for e in estimates]
        )
        mean = (probability[:, None] * gradients).sum(0)
        return (probability * (gradients - mean).square().sum(1)).sum()

    assert gradient_variance("built_in") < 0.8 * gradient_variance(None)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("estimator", BIASED, ids=identify)
def test_the_published_gradients_are_wrong(estimator, n):
    value, by_logits, by_features = biases(estimator, n, *problem())
    assert value <= 1e-12  # their value is right, and so is the released code's feature gradient
    assert by_logits > 0.1
    assert by_features > 0.1 if estimator.name == "legacy_port" else by_features <= 1e-12


def published_gradients(attention, features, cotangent, inclusive):
    """The backward passes of the two published implementations, term by term in terms of the attention's values."""
    a, f = attention[..., None], features
    n = a.shape[1]
    steps = torch.arange(n, dtype=f.dtype)[:, None]
    shift = (lambda x: x.cumsum(1)) if inclusive else (lambda x: x.cumsum(1) - x)
    mass = 1 - shift(a)
    estimates = shift(a * f) + mass * f
    by_attention = (cotangent * (estimates / (a / mass) + shift(f) - steps * f)).sum(-1) / n
    by_features = cotangent * (mass + (n - 1 - steps) * a) / n
    return estimates.mean(1), by_attention, by_features


@pytest.mark.parametrize("name, inclusive", [("legacy_idiap", False), ("legacy_port", True)])
def test_legacy_estimators_reproduce_the_published_backward_pass(name, inclusive):
    logits, features, direction = problem()
    attention = log_softmax(logits).detach().exp().flatten()[None].requires_grad_()
    index = torch.tensor([[4, 1, 2]])
    seen = features.detach()[index].requires_grad_()
    z = ESTIMATORS[name](attention.log(), index, seen)
    by_attention, by_features = torch.autograd.grad((z * direction).sum(), [attention, seen])
    value, expected_a, expected_f = published_gradients(
        attention.detach().gather(1, index), seen.detach(), direction, inclusive
    )
    torch.testing.assert_close(z, value)
    torch.testing.assert_close(by_attention.gather(1, index), expected_a)
    torch.testing.assert_close(by_features, expected_f)


@pytest.mark.parametrize("seed", range(5))
def test_released_gradient_points_the_wrong_way_where_attention_is_concentrated(seed):
    """99.9 % of the mass lies evenly on three of seven locations, and three are drawn."""
    logits, features, direction = problem((1, 7), peak=0, seed=seed)
    with torch.no_grad():
        logits[0, 3:] -= 9
    log_attention = log_softmax(logits)
    assert log_attention.exp()[0, :3].sum() > 0.999
    truth = (log_attention.flatten().exp()[:, None] * features).sum(0) @ direction
    mean = exact_mean(ESTIMATORS["legacy_idiap"], log_attention, features, 3) @ direction
    right, wrong = (torch.autograd.grad(x, logits, retain_graph=True)[0].flatten() for x in (truth, mean))
    assert torch.cosine_similarity(right, wrong, dim=0) < -0.98


def test_eq14_is_exact_when_every_location_is_drawn():
    logits, features, _ = problem((1, 6))
    log_attention = log_softmax(logits)[None].flatten(1)
    index = ESTIMATORS["eq14"].sample(log_attention, 6)
    estimate = ESTIMATORS["eq14"](log_attention, index, features[index[0]][None])
    torch.testing.assert_close(estimate[0], (log_attention[0].exp()[:, None] * features).sum(0), rtol=0, atol=1e-14)


def chances_by_recursion(attention, drawn):
    """The probability of drawing just the subset ``left`` next, in any order, once the subset ``gone`` is out: O(n 2^n)."""
    mass = {0: 0.0}
    for subset in range(1, 1 << len(drawn)):
        mass[subset] = sum(attention[i] for m, i in enumerate(drawn) if subset >> m & 1)

    @cache
    def chance(left, gone):
        if not left:
            return 1.0
        remaining = 1 - mass[gone]
        return sum(
            attention[i] / remaining * chance(left & ~(1 << m), gone | 1 << m)
            for m, i in enumerate(drawn)
            if left >> m & 1
        )

    return chance


def murthy_by_recursion(attention, drawn):
    """Weights of Murthy's estimator from the probabilities of all orders."""
    chance, everything = chances_by_recursion(attention, drawn), (1 << len(drawn)) - 1
    total = chance(everything, 0)
    return [attention[i] * chance(everything & ~(1 << m), 1 << m) / total for m, i in enumerate(drawn)]


@pytest.mark.parametrize("n", [1, 2, 3, 6, 10])
@pytest.mark.parametrize("peak", [0.0, 1.0, 4.0])
def test_murthy_equals_the_recursion_over_subsets(n, peak):
    logits, _, _ = problem((1, 12), peak, seed=n)
    log_attention = log_softmax(logits).detach()
    index = ESTIMATORS["murthy"].sample(log_attention.expand(8, 1, 12), n, generator=torch.Generator().manual_seed(0))
    weights = ESTIMATORS["murthy"].weights(log_attention.expand(8, 1, 12), index)
    attention = log_attention.flatten().exp().tolist()
    for row, drawn in zip(weights, index.tolist(), strict=True):
        assert row.tolist() == pytest.approx(murthy_by_recursion(attention, drawn), rel=1e-12)


@pytest.mark.parametrize("left", [1e-2, 1e-4, 1e-8, 1e-12, 1e-300])
def test_murthy_stays_accurate_when_the_draw_covers_almost_all_the_mass(left):
    """Exact by rational arithmetic: three locations share all but `left`, which lies on two more."""
    from fractions import Fraction

    parts = [Fraction(5, 10), Fraction(3, 10), Fraction(2, 10)]
    rest = Fraction(left)
    attention = [p * (1 - rest) for p in parts] + [rest / 3, rest * 2 / 3]
    log_attention = torch.tensor(
        [math.log(p) + math.log1p(-left) for p in parts] + [math.log(left / 3), math.log(left) + math.log(2 / 3)],
        dtype=torch.float64,
    )[None]

    def chance(members, gone):  # as above, in fractions
        if not members:
            return Fraction(1)
        remaining = sum(a for i, a in enumerate(attention) if i not in gone)
        return sum(attention[i] / remaining * chance(members - {i}, gone | {i}) for i in members)

    everything = frozenset({0, 1, 2})
    exact = [float(attention[m] * chance(everything - {m}, frozenset({m})) / chance(everything, frozenset())) for m in range(3)]
    weights = ESTIMATORS["murthy"].weights(log_attention, torch.tensor([[0, 1, 2]]))
    assert weights[0].tolist() == pytest.approx(exact, rel=1e-12)


@given(st.lists(st.floats(-300, 300), min_size=5, max_size=10), st.integers(1, 5), st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_murthys_weights_sum_to_one(logits, n, seed):
    log_attention = torch.tensor([logits], dtype=torch.float64).log_softmax(1)
    index = ESTIMATORS["murthy"].sample(log_attention, n, generator=torch.Generator().manual_seed(seed))
    assert ESTIMATORS["murthy"].weights(log_attention, index).sum().item() == pytest.approx(1, abs=1e-11)


@pytest.mark.parametrize("scale", [0, 1, 10])
@pytest.mark.parametrize("n", [2, 15, 30, 60, 100, 200])
def test_murthys_weights_sum_to_one_for_many_draws(n, scale):
    logits = scale * torch.randn(2, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    log_attention = logits.log_softmax(1)
    index = ESTIMATORS["murthy"].sample(log_attention, n, generator=torch.Generator().manual_seed(0))
    weights = ESTIMATORS["murthy"].weights(log_attention, index)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-11)
    if not scale:  # equal attention: equal weights
        torch.testing.assert_close(weights, torch.full_like(weights, 1 / n), rtol=1e-10, atol=0)


@pytest.mark.parametrize("n", [2, 15, 60, 200])
def test_murthys_weights_of_a_small_part_of_many_locations_are_equal_and_sum_to_one(n):
    """Where the drawn locations hold little of the mass, the integrand reaches furthest to the right."""
    log_attention = torch.full((1, 100_000), -math.log(100_000), dtype=torch.float64)
    weights = ESTIMATORS["murthy"].weights(log_attention, torch.arange(n)[None])
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / n), rtol=1e-10, atol=0)


def test_murthys_weights_of_very_small_attention_are_exact():
    """Two locations of attention a and b: R_a = b / (1 - a) / P, P = a b / (1 - a) + a b / (1 - b)."""
    a, b = 3e-9, 7e-10
    log_attention = torch.tensor([[a, b, 1 - a - b]], dtype=torch.float64).log()
    weights = ESTIMATORS["murthy"].weights(log_attention, torch.tensor([[0, 1]]))
    first, second = 1 / (1 - a), 1 / (1 - b)
    expected = torch.tensor([[first, second]], dtype=torch.float64) / (first + second)
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("ordered", ["eq14", "des_raj"])
def test_murthy_is_the_mean_over_the_orders(ordered):
    """Rao–Blackwell: averaging an ordered estimator over the orders of one set gives Murthy's."""
    logits, features, _ = problem((1, 6))
    log_attention, features = log_softmax(logits).detach(), features.detach()
    index, probability = every_draw(ESTIMATORS[ordered], log_attention, 3)
    everywhere = log_attention.expand(len(index), *log_attention.shape)
    estimates, murthy = (ESTIMATORS[e](everywhere, index, features[index]) for e in (ordered, "murthy"))
    same_set = (index.sort(1).values[:, None] == index.sort(1).values[None]).all(-1).double()
    mean = (same_set * probability) @ estimates / (same_set @ probability)[:, None]
    torch.testing.assert_close(murthy, mean, rtol=0, atol=1e-13)


@pytest.mark.parametrize("peak", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_inclusion_probabilities_of_pps(n, peak):
    """Every location is drawn as often as min(1, c a) says, whose sum is n; the certain ones always."""
    logits, _, _ = problem((2, 3), peak)
    log_attention = log_softmax(logits).detach()
    index, probability = every_draw(PPS("raster"), log_attention, n)
    included = torch.zeros(6, dtype=torch.float64).index_add(0, index.flatten(), probability.repeat_interleave(n))
    everywhere = log_attention[None].expand(6, 2, 3)
    weights = PPS("raster").weights(everywhere, torch.arange(6)[:, None].expand(6, n))[:, 0]
    expected = log_attention.flatten().exp() / weights
    torch.testing.assert_close(included, expected, rtol=0, atol=1e-12)
    assert expected.max() <= 1 + 1e-12
    proportional = expected < 1 - 1e-9
    ratio = (expected / log_attention.flatten().exp())[proportional]
    assert (ratio.max() - ratio.min() < 1e-9) if len(ratio) else n == 6


@pytest.mark.parametrize("mask", [-1e4, -1e20, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("name", ["pps", "des_raj", "murthy", "systematic"])
def test_locations_masked_by_a_very_small_number_take_no_part(name, mask):
    """More draws than open locations, whatever the mask: what has drawn both open ones and knows it, is exact."""
    logits = torch.full((2, 5), mask)
    logits[0, 0], logits[1, 2] = 1.0, 0.0
    log_attention = logits.flatten().log_softmax(0).view(1, 2, 5)
    features = torch.arange(1.0, 11)[:, None]
    truth = (log_attention.flatten().exp()[:, None] * features).sum()
    many = log_attention.expand(2000, -1, -1)
    index = ESTIMATORS[name].sample(many, 3, generator=torch.Generator().manual_seed(0))
    estimates = ESTIMATORS[name](many, index, features[index])
    if name in ("pps", "murthy"):
        torch.testing.assert_close(estimates, truth.expand(2000, 1), rtol=1e-5, atol=0)
    else:
        assert abs(estimates.mean() - truth) < 5 * estimates.std() / 2000**0.5


def test_what_is_masked_altogether_is_not_drawn_in_place_of_what_is_masked_by_a_small_number():
    log_attention = torch.tensor([[[0.0, -1e20, -math.inf, -math.inf]]], dtype=torch.float64)
    index = PPS("raster").sample(log_attention.expand(100, -1, -1), 2, generator=torch.Generator().manual_seed(0))
    assert index.sort(1).values.unique(dim=0).tolist() == [[0, 1]]


def test_inclusion_probabilities_of_very_small_attention_keep_their_order():
    log_attention = torch.tensor([[[0.0, -2500.0, -5000.0, -7500.0]]], dtype=torch.float64)
    index = PPS("raster").sample(log_attention.expand(100, -1, -1), 2, generator=torch.Generator().manual_seed(0))
    assert index.sort(1).values.unique(dim=0).tolist() == [[0, 1]]


@pytest.mark.parametrize("name", WITH_STDERR)
@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("peak", [0.0, 1.0, 4.0])
def test_the_square_of_stderr_is_unbiased(name, n, peak):
    """Averaged over every draw, it is the variance over every draw."""
    logits, features, _ = problem((1, 6), peak)
    estimator, log_attention, features = ESTIMATORS[name], log_softmax(logits).detach(), features.detach()
    index, probability = every_draw(estimator, log_attention, n)
    everywhere = log_attention.expand(len(index), *log_attention.shape)
    estimates = estimator(everywhere, index, features[index])
    mean = (probability[:, None] * estimates).sum(0)
    variance = (probability[:, None] * (estimates - mean).square()).sum(0)
    claimed = (probability[:, None] * estimator.stderr(everywhere, index, features[index]).square()).sum(0)
    torch.testing.assert_close(claimed, variance, rtol=1e-10, atol=0)


@pytest.mark.parametrize("n", [2, 3, 6, 10])
@pytest.mark.parametrize("peak", [0.0, 1.0, 4.0])
def test_murthys_stderr_equals_the_formula_by_pairs(n, peak):
    """With all probabilities by recursion over subsets, and one part that all features share."""
    logits, features, _ = problem((1, 12), peak, seed=n)
    log_attention, features = log_softmax(logits).detach().expand(4, 1, 12), features.detach() + 1000
    index = ESTIMATORS["murthy"].sample(log_attention, n, generator=torch.Generator().manual_seed(0))
    found = ESTIMATORS["murthy"].stderr(log_attention, index, features[index])
    attention = log_attention[0].flatten().exp().tolist()
    for row, drawn in zip(found, index.tolist(), strict=True):
        squared = 0
        total, everyone = chances_by_recursion(attention, drawn), (1 << n) - 1
        for i, j in combinations(range(n), 2):
            one, other, both = (total(everyone & ~gone, gone) for gone in (1 << i, 1 << j, 1 << i | 1 << j))
            share = both / total(everyone, 0) - one * other / total(everyone, 0) ** 2
            squared += attention[drawn[i]] * attention[drawn[j]] * share * (features[drawn[i]] - features[drawn[j]]).square()
        torch.testing.assert_close(row.square(), squared, rtol=1e-8, atol=1e-15)


def test_murthys_stderr_is_zero_when_every_location_is_drawn():
    log_attention = torch.tensor([[0.5, 0.3, 0.2]]).log()
    features = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    assert ESTIMATORS["murthy"].stderr(log_attention, torch.tensor([[2, 0, 1]]), features).max() < 1e-12


@pytest.mark.parametrize("name", ["eq14", "systematic", "stratified", "pps"])
def test_no_error_bar_where_one_draw_does_not_tell_it(name):
    log_attention = UNIFORM.view(1, 2, 2)
    index = ESTIMATORS[name].sample(log_attention, 3)
    assert ESTIMATORS[name].stderr(log_attention, index, torch.zeros(1, 3, 2)) is None


@pytest.mark.parametrize("name, together", [("systematic", False), ("stratified", True), ("pps", False)])
def test_some_pairs_of_locations_are_never_drawn_together(name, together):
    """Why there is no error bar: no draw tells how much two such locations differ. Strata are independent: two of different ones
    do meet, two of one stratum do not.
    """
    log_attention = torch.full((1, 8), math.log(1 / 8), dtype=torch.float64)
    index, _ = every_draw(type(ESTIMATORS[name])("raster"), log_attention, 2)
    pairs = {tuple(row) for row in index.sort(1).values.tolist()}
    assert ((0, 5) in pairs) == together
    assert (0, 4) in pairs and (0, 1) not in pairs


# ---------------------------------------------------------------------------------------------------------------------
# Draws


@pytest.mark.parametrize("name", ESTIMATORS)
def test_draws_have_the_enumerated_frequencies(name):
    """A chi-square test of the sampler against the enumeration, at fixed seed."""
    logits, _, _ = problem((2, 2), peak=1.0, seed=3)
    log_attention = log_softmax(logits).detach()
    index, probability = every_draw(ESTIMATORS[name], log_attention, 2)
    assert probability.sum().item() == pytest.approx(1, abs=1e-12)
    trials = 40_000
    batch = log_attention.expand(trials, 2, 2).float()
    drawn = ESTIMATORS[name].sample(batch, 2, generator=torch.Generator().manual_seed(0))
    observed = torch.stack([(drawn == draw).all(1).sum() for draw in index.unique(dim=0)])
    expected = torch.stack([probability[(index == draw).all(1)].sum() for draw in index.unique(dim=0)]) * trials
    assert observed.sum() == trials
    chi_square = ((observed - expected).square() / expected).sum().item()
    freedom = len(observed) - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_location_of_zero_attention_is_never_drawn(name):
    log_attention = torch.full((200, 2, 8), -math.inf)
    log_attention[:, 0, :3] = math.log(1 / 3)
    drawn = ESTIMATORS[name].sample(log_attention, 3, generator=torch.Generator().manual_seed(0))
    assert drawn.max() < 3
    if ESTIMATORS[name].distinct:
        assert drawn.sort(1).values.tolist() == [[0, 1, 2]] * 200
        with pytest.raises(ValueError, match="only 3 of 16 have attention above zero"):
            ESTIMATORS[name].sample(log_attention, 4)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_same_generator_gives_the_same_draw(name):
    log_attention = torch.randn(3, 6, 6).flatten(1).log_softmax(1).view(3, 6, 6)
    draw = lambda seed: ESTIMATORS[name].sample(log_attention, 4, generator=torch.Generator().manual_seed(seed))
    assert draw(1).tolist() == draw(1).tolist()
    assert draw(1).tolist() != draw(2).tolist()


def test_rare_locations_are_drawn_as_often_as_they_should():
    """Two locations in a thousand million share what is left: the noise must resolve the far tail."""
    log_attention = torch.tensor([1 - 3e-9, 1e-9, 2e-9], dtype=torch.float64).log().float().expand(100_000, 3)
    drawn = ESTIMATORS["des_raj"].sample(log_attention, 2, generator=torch.Generator().manual_seed(0))
    second = drawn[:, 1][drawn[:, 0] == 0]
    assert len(second) > 99_990
    assert (second == 2).double().mean().item() == pytest.approx(2 / 3, abs=4 * math.sqrt(2 / 9 / 100_000))


def test_ordered_draws_from_a_peaked_attention_have_the_enumerated_frequencies():
    """Three locations hold nearly everything, four different ones are drawn."""
    log_attention = torch.tensor([0.6, 0.3, 0.07, 0.02, 0.007, 0.003], dtype=torch.float64).log()
    index, probability = every_draw(ESTIMATORS["des_raj"], log_attention, 4)
    trials = 200_000
    drawn = ESTIMATORS["des_raj"].sample(log_attention.expand(trials, 6), 4, generator=torch.Generator().manual_seed(0))
    digits = 6 ** torch.arange(4)
    observed = torch.bincount((drawn * digits).sum(1), minlength=6**4)[(index * digits).sum(1)]
    assert observed.sum() == trials
    expected = probability * trials
    often = expected > 5
    chi_square = ((observed - expected).square() / expected)[often].sum().item()
    assert chi_square < often.sum() + 4 * math.sqrt(2 * often.sum())


def test_systematic_draws_spread_over_a_region():
    """A block of a fifth of the mass, along the Hilbert curve, gets two of ten draws, whatever the uniform number."""
    attention = torch.full((1, 32, 32), 0.8 / (32 * 32 - 64), dtype=torch.float64)
    attention[0, 8:16, 8:16] = 0.2 / 64
    for seed in range(200):
        index = ESTIMATORS["systematic"].sample(attention.log(), 10, generator=torch.Generator().manual_seed(seed))
        row, column = index // 32, index % 32
        assert ((row >= 8) & (row < 16) & (column >= 8) & (column < 16)).sum() == 2


@given(st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_hilbert_curve_visits_every_location_and_never_jumps(height, width):
    curve = hilbert_curve(height, width)
    assert curve.sort().values.tolist() == list(range(height * width))
    row, column = curve // width, curve % width
    steps = torch.maximum(row.diff().abs(), column.diff().abs())
    assert (steps == 1).all()
    sideways = row.diff().abs() + column.diff().abs()
    assert (sideways == 2).sum() <= 1 or (height % 2 or width % 2)
    assert not estimators._hilbert.cache_info().currsize  # blocks of curves of every size would pile up


# ---------------------------------------------------------------------------------------------------------------------
# Numerics


@pytest.mark.parametrize("name", [e.name for e in UNBIASED])
@pytest.mark.parametrize("gap", [0, 1, 10, 100, 1e4])
def test_float32_agrees_with_float64_from_uniform_to_one_hot(name, gap):
    generator = torch.Generator().manual_seed(0)
    logits = torch.rand(2, 180, 180, generator=generator) * 1.0
    logits[:, 90, 90] += gap  # one location ahead of all others
    features = torch.rand(2, 10, 8, generator=generator)
    results = []
    for dtype in (torch.float32, torch.float64):
        leaf = logits.to(dtype).requires_grad_()
        log_attention = leaf.flatten(1).log_softmax(1).view_as(leaf)
        if not results:
            index = ESTIMATORS[name].sample(log_attention, 10, generator=torch.Generator().manual_seed(1))
        seen = features.to(dtype).requires_grad_()
        z = ESTIMATORS[name](log_attention, index, seen)
        results.append([z.detach(), *torch.autograd.grad(z.square().sum(), [leaf, seen])])
    for single, double in zip(*results, strict=True):
        assert single.isfinite().all()
        assert (single.double() - double).norm() <= 1e-4 * double.norm() + 1e-30


@pytest.mark.parametrize("name", [e.name for e in UNBIASED])
@given(
    logits=st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=12),
    n=st.integers(1, 12),
    ties=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=100, deadline=None)
def test_finite_whatever_the_logits(name, logits, n, ties, seed):
    if ties:
        logits = [logits[0]] * len(logits)
    estimator = ESTIMATORS[name]
    n = min(n, len(logits))
    leaf = torch.tensor([[logits]], requires_grad=True)  # a map of one row
    log_attention = leaf.flatten(1).log_softmax(1).view(1, 1, -1)
    index = estimator.sample(log_attention, n, generator=torch.Generator().manual_seed(seed))
    assert index.shape == (1, n) and 0 <= index.min() and index.max() < len(logits)
    if estimator.distinct:
        assert len(set(index[0].tolist())) == n
    weights = estimator.weights(log_attention, index)
    assert weights.isfinite().all() and (weights >= 0).all()
    features = torch.randn(1, n, 3, requires_grad=True)
    z = estimator(log_attention, index, features)
    z.sum().backward()
    assert z.isfinite().all() and leaf.grad.isfinite().all() and features.grad.isfinite().all()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_finite_and_in_float32_under_bfloat16_autocast(name):
    logits = (30 * torch.randn(4, 20, 20)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        log_attention = logits.bfloat16().flatten(1).log_softmax(1).view_as(logits)
        index = ESTIMATORS[name].sample(log_attention, 10)
        features = torch.randn(4, 10, 8).bfloat16()
        z = ESTIMATORS[name](log_attention, index, features)
        assert ESTIMATORS[name].weights(log_attention, index).dtype == z.dtype == torch.float32
    z.sum().backward()
    assert z.isfinite().all() and logits.grad.isfinite().all()


def test_autocast_does_not_round_the_estimate():
    log_attention = torch.randn(2, 50).log_softmax(1)
    index = ESTIMATORS["des_raj"].sample(log_attention, 5)
    features = torch.randn(2, 5, 8)
    plain = ESTIMATORS["des_raj"](log_attention, index, features)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ESTIMATORS["des_raj"](log_attention, index, features), plain, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(3, 40), (3, 5, 8)])
def test_entropy(shape):
    logits = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    log_attention = logits.flatten(1).log_softmax(1).view(shape)
    expected = torch.distributions.Categorical(logits=logits.flatten(1)).entropy()
    torch.testing.assert_close(entropy(log_attention), expected)
    assert entropy(torch.full((1, 40), -math.log(40)))[0].item() == pytest.approx(math.log(40))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_entropy_of_uniform_attention_is_log_k_in_every_precision(dtype):
    """Rounded to bfloat16, 32,400 equal attentions sum to more than one."""
    log_attention = torch.full((1, 180, 180), -math.log(180 * 180), dtype=dtype)
    assert entropy(log_attention).item() == pytest.approx(2 * math.log(180), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_entropy_of_half_precision_is_that_of_the_normalised_attention_with_its_gradient(dtype):
    rounded = (3 * torch.randn(2, 50, generator=torch.Generator().manual_seed(0))).log_softmax(1).to(dtype).requires_grad_()
    exact = rounded.detach().double().requires_grad_()
    value, expected = entropy(rounded), entropy(exact.log_softmax(1))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    (found,), (right,) = torch.autograd.grad(value.sum(), rounded), torch.autograd.grad(expected.sum(), exact)
    torch.testing.assert_close(found.double(), right, rtol=0, atol=torch.finfo(dtype).eps * right.abs().max().item())


def test_the_gradient_of_entropy_by_an_attention_of_zero_is_undefined_and_by_its_logarithm_zero():
    attention = torch.tensor([[0.5, 0.5, 0.0]], requires_grad=True)
    log_attention = attention.log()
    by_logarithm, by_attention = torch.autograd.grad(entropy(log_attention).sum(), [log_attention, attention])
    assert by_logarithm[0, 2] == 0 and by_attention[0, 2].isnan()


def test_entropy_of_a_one_hot_attention_is_zero_and_so_is_its_gradient():
    log_attention = torch.tensor([[0.0, -math.inf, -math.inf]], requires_grad=True)
    value = entropy(log_attention)
    value.sum().backward()
    assert value.item() == 0
    assert log_attention.grad.isfinite().all()


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes of a user

UNIFORM = torch.full((1, 4), math.log(0.25))


@pytest.mark.parametrize(
    "log_attention, n, message",
    [
        (UNIFORM, 0, r"n = 0 .*expected a whole number n >= 1"),
        (UNIFORM, 5, r"n = 5 distinct .*K = 4"),
        (UNIFORM * math.nan, 1, r"NaN"),
        (UNIFORM.new_full((1, 4), -math.inf), 1, r"zero at every location"),
        (UNIFORM + 1, 1, r"attention sums to 2\.718 .*log_softmax"),
        (UNIFORM.exp(), 1, r"attention sums to 5\.136 .*log_softmax"),
        (torch.full((4,), 0.25).log(), 1, r"shape \(4,\).*expected floating point \(B, K\)"),
        (torch.zeros(1, 4, dtype=torch.long), 1, r"int64"),
    ],
)
def test_bad_attention_is_refused_in_one_line(log_attention, n, message):
    with pytest.raises(ValueError, match=message) as error:
        ESTIMATORS["des_raj"].sample(log_attention, n)
    assert "\n" not in str(error.value)


def test_more_draws_than_locations_are_fine_with_replacement():
    assert ESTIMATORS["with_replacement"].sample(UNIFORM, 9).shape == (1, 9)


def test_half_precision_attention_is_not_mistaken_for_unnormalised():
    for dtype in (torch.bfloat16, torch.float16):
        check_log_attention(torch.randn(4, 1000).log_softmax(1).to(dtype), 10)


@pytest.mark.parametrize("name", ["legacy_idiap", "legacy_port", "des_raj", "systematic"])
def test_forward_mode_derivatives_are_those_of_the_backward_pass(name):
    log_attention = torch.randn(1, 7, dtype=torch.float64).log_softmax(1)
    features, index = torch.randn(1, 3, 2, dtype=torch.float64), torch.tensor([[4, 0, 5]])
    along = torch.randn_like(log_attention), torch.randn_like(features)

    def value(log_attention, features):
        return ESTIMATORS[name](log_attention, index, features).sum()

    by_attention, by_features = torch.func.grad(value, argnums=(0, 1))(log_attention, features)
    _, forward = torch.func.jvp(value, (log_attention, features), along)
    backward = (by_attention * along[0]).sum() + (by_features * along[1]).sum()
    torch.testing.assert_close(forward, backward, rtol=0, atol=1e-12)


def test_a_hilbert_curve_is_the_callers_own():
    hilbert_curve(4, 4).add_(100)
    assert hilbert_curve(4, 4).max() == 15
    flat = torch.full((1, 4, 4), -math.log(16))
    assert ESTIMATORS["systematic"].sample(flat, 4).max() < 16
    with pytest.raises(ValueError, match="a map of 0 × 3: expected at least one location"):
        hilbert_curve(0, 3)


@pytest.mark.parametrize("name", ["systematic", "stratified", "pps"])
def test_a_curve_first_seen_in_inference_mode_serves_training(name):
    estimators._hilbert_curve_on.cache_clear()
    logits = torch.randn(2, 5, 6)
    with torch.inference_mode():
        ESTIMATORS[name].sample(logits.flatten(1).log_softmax(1).view_as(logits), 3)
    log_attention = logits.requires_grad_().flatten(1).log_softmax(1).view_as(logits)
    order = estimators.curve_order(log_attention, "hilbert")
    log_attention.flatten(1)[:, order].sum().backward()  # an index that is saved for the gradient
    assert logits.grad.isfinite().all()
    index = ESTIMATORS[name].sample(log_attention, 3)
    ESTIMATORS[name](log_attention, index, torch.randn(2, 3, 4))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_draw_of_no_location_is_refused(name):
    with pytest.raises(ValueError, match=r"index of shape \(1, 0\) holds no location: expected n >= 1"):
        ESTIMATORS[name](UNIFORM, torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 0, 8))


@pytest.mark.parametrize(
    "index, features, message",
    [
        (torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 3, 8), r"features of shape \(1, 3, 8\).*\(1, 2, D\)"),
        (torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2), r"features of shape \(1, 2\)"),
        (torch.zeros(2, 2, dtype=torch.long), torch.zeros(2, 2, 8), r"log_attention is a batch of 1, index of 2"),
    ],
)
@pytest.mark.parametrize("name", ["des_raj", "legacy_idiap"])
def test_what_does_not_fit_together_is_refused(name, index, features, message):
    with pytest.raises(ValueError, match=message):
        ESTIMATORS[name](UNIFORM, index, features)


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown estimator 'dez_raj': expected one of with_replacement, eq14, des_raj"):
        get_estimator("dez_raj")
    with pytest.raises(ValueError, match="order='spiral': expected 'hilbert' or 'raster'"):
        Systematic("spiral")
    with pytest.raises(ValueError, match=r"no map to run a Hilbert curve through.*\(B, h, w\)"):
        ESTIMATORS["systematic"].sample(UNIFORM, 2)
    assert get_estimator(DEFAULT_ESTIMATOR) is ESTIMATORS["systematic"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_entropy_of_what_is_no_log_attention_is_refused(dtype):
    with pytest.raises(ValueError, match=r"attention sums to 10\.0\d over its 9 locations, expected 1"):
        entropy(torch.full((2, 9), 1 / 9, dtype=dtype))
    with pytest.raises(ValueError, match=r"attention sums to 15\d.* over its 3 locations"):
        entropy(torch.tensor([[5.0, 0.0, 0.0], [0.0, -torch.inf, -torch.inf]], dtype=dtype))
    assert entropy(torch.full((1, 3), torch.nan, dtype=dtype)).isnan().all()  # whoever trains says where it comes from
    torch.testing.assert_close(entropy(torch.full((1, 9), 1 / 9).log().to(dtype)).double(), torch.tensor([math.log(9)]).double())


def test_where_there_is_no_float64_nothing_is_drawn():
    class OnApple(torch.Tensor):
        device = property(lambda self: torch.device("mps"))

    with pytest.raises(ValueError, match="attention on mps, which lacks the float64"):
        ESTIMATORS["systematic"].sample(UNIFORM.view(1, 2, 2).as_subclass(OnApple), 2)


@pytest.mark.parametrize("name", ["systematic", "stratified", "pps", "eq14", "legacy_idiap"])
def test_a_baseline_that_does_not_exist_is_refused(name):
    log_attention = UNIFORM.view(1, 2, 2)
    index = ESTIMATORS[name].sample(log_attention, 2)
    with pytest.raises(ValueError, match=r"no .*baseline"):
        ESTIMATORS[name](log_attention, index, torch.zeros(1, 2, 3), baseline="built_in")
    with pytest.raises(ValueError, match="baseline='mean'"):
        ESTIMATORS[name](log_attention, index, torch.zeros(1, 2, 3), baseline="mean")


def test_enumeration_refuses_what_it_cannot_enumerate():
    with pytest.raises(ValueError, match=r"attention sums to 2\.718"):
        every_draw(ESTIMATORS["des_raj"], UNIFORM[0] + 1, 2)
    with pytest.raises(ValueError, match="over 1,000,000 draws"):
        every_draw(ESTIMATORS["with_replacement"], torch.full((100,), -math.log(100)), 4)
    with pytest.raises(ValueError, match="100 locations, n = 4: over 1,000,000 draws"):
        every_draw(ESTIMATORS["des_raj"], torch.full((100,), -math.log(100)), 4)
    with pytest.raises(ValueError, match="64 locations, n = 16: over 1,000,000 draws"):  # not listed first: 4 of each stratum
        every_draw(ESTIMATORS["stratified"], torch.full((8, 8), -math.log(64)), 16)
    with pytest.raises(TypeError, match="do not know how"):
        every_draw(Estimator(), UNIFORM[0], 2)

    class Uniform(WithReplacement):
        def _sample(self, flat, log_attention, n, generator):
            return torch.randint(flat.shape[1], (len(flat), n), generator=generator)

    with pytest.raises(TypeError, match="do not know how"):  # and not the draws of its parent
        every_draw(Uniform(), UNIFORM[0], 2)


def test_probabilities_sum_to_one_where_attention_hardly_does():
    _, chance = every_draw(ESTIMATORS["with_replacement"], UNIFORM[0] + 9e-5, 4)
    assert chance.sum().item() == pytest.approx(1, abs=1e-12)


def test_only_the_last_of_large_curves_is_kept():
    estimators._large_hilbert_curve_on.cache_clear()
    for side in (400, 401):
        log_attention = torch.full((1, side, side), -math.log(side * side))
        assert torch.equal(estimators.curve_order(log_attention, "hilbert").sort().values, torch.arange(side * side))
    assert estimators._large_hilbert_curve_on.cache_info().currsize == 1


def test_only_draws_that_exist_count_for_the_limit():
    """8^8 would be over it; there are 8! ordered draws of all eight, and sixteen strata of one location have one draw."""
    uneven = torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log_softmax(0)
    index, probability = every_draw(ESTIMATORS["des_raj"], uneven, 8)
    assert len(index.unique(dim=0)) == math.factorial(8)
    assert probability.sum().item() == pytest.approx(1, abs=1e-12)
    index, probability = every_draw(Stratified("raster"), torch.full((1, 16), 1 / 16, dtype=torch.float64).log(), 16)
    assert probability.sum().item() == pytest.approx(1, abs=1e-12)
    assert index[probability.argmax()].tolist() == list(range(16))


@pytest.mark.parametrize("estimator", UNBIASED, ids=identify)
@pytest.mark.parametrize("with_baseline", [False, True])
def test_second_derivatives_are_unbiased_too(estimator, with_baseline):
    """Of a gradient penalty, say: attention and features both depend on the parameters."""
    generator = torch.Generator().manual_seed(3)
    to_logits, to_features = (torch.randn(3, *shape, dtype=torch.float64, generator=generator) for shape in ((1, 5), (5, 2)))
    constant = torch.randn(2, dtype=torch.float64, generator=generator) if with_baseline else None
    start = torch.randn(3, dtype=torch.float64, generator=generator)

    def parts(parameters):
        return log_softmax((parameters @ to_logits.flatten(1)).view(1, 5)), (parameters @ to_features.flatten(1)).view(5, 2).sin()

    def full(parameters):
        log_attention, features = parts(parameters)
        return (log_attention.flatten().exp()[:, None] * features).sum()

    expected = torch.autograd.functional.hessian(full, start)
    found = torch.autograd.functional.hessian(lambda p: exact_mean(estimator, *parts(p), 2, constant).sum(), start)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["pps", "des_raj", "eq14", "murthy", "systematic"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loosely_normalised_attention(name, dtype):
    """Half precision sums to one only roughly: weights are those of the normalised attention, distinct draws stay distinct."""
    attention = torch.cat([torch.tensor([0.15]), 0.85 * torch.rand(63, generator=torch.Generator().manual_seed(0)).softmax(0)])
    log_attention = attention.log().view(1, 8, 8).to(dtype)
    index = ESTIMATORS[name].sample(log_attention.expand(20_000, -1, -1), 8, generator=torch.Generator().manual_seed(1))
    if ESTIMATORS[name].distinct:
        assert (index.sort(1).values.diff(dim=1) > 0).all()
    weights = ESTIMATORS[name].weights(log_attention.expand(100, -1, -1), index[:100])
    if name == "pps":  # of the others the weights of every draw sum to one
        exact = log_attention.double() - log_attention.double().flatten(1).logsumexp(1)
        expected = ESTIMATORS[name].weights(exact.expand(100, -1, -1), index[:100])
        torch.testing.assert_close(weights.double(), expected, rtol=1e-5, atol=0)
    else:
        torch.testing.assert_close(weights.double().sum(1), torch.ones(100, dtype=torch.float64), rtol=1e-5, atol=0)
    if name == "pps":
        included = ESTIMATORS[name]._log_inclusion(log_attention, 8).exp()
        torch.testing.assert_close(included.sum(), torch.tensor(8.0, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_probabilities_in_place_of_their_logarithms_are_found_out(name):
    attention = torch.tensor([[[0.5, 0.3], [0.2, 0.0]]])
    index, features = torch.tensor([[0, 1]]), torch.ones(1, 2, 1)
    ESTIMATORS[name](attention.log(), index, features)
    for wrong in (attention, 3 * attention):  # probabilities, and logits as they come
        with pytest.raises(ValueError, match="at the locations drawn, expected at most 1"):
            ESTIMATORS[name](wrong, index, features)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if ESTIMATORS[name].distinct])
def test_a_location_twice_is_another_estimators_draw(name):
    with pytest.raises(ValueError, match="holds a location twice"):
        ESTIMATORS[name](UNIFORM, torch.tensor([[2, 0, 2]]), torch.ones(1, 3, 1))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_gradients_by_image_can_be_mapped(name):
    estimator = ESTIMATORS[name]
    log_attention = (2 * torch.randn(3, 7, 7)).flatten(1).log_softmax(1)  # peaked: some draws hold more than half of it
    index, features = estimator.sample(log_attention.view(3, 7, 7), 5), torch.randn(3, 5, 4)

    def total(log_a, i, f):
        return estimator(log_a[None], i[None], f[None]).sum()

    mapped = torch.vmap(torch.func.grad(total))(log_attention, index, features)
    single = [torch.func.grad(total)(*parts) for parts in zip(log_attention, index, features, strict=True)]
    torch.testing.assert_close(mapped, torch.stack(single))
    of_one = torch.vmap(torch.func.grad(total), in_dims=(None, 0, 0))(log_attention[0], index, features)
    single = [torch.func.grad(total)(log_attention[0], *parts) for parts in zip(index, features, strict=True)]
    torch.testing.assert_close(of_one, torch.stack(single))
    # And as without torch.func.
    by_hand = log_attention.clone().requires_grad_()
    estimator(by_hand, index, features).sum().backward()
    torch.testing.assert_close(mapped, by_hand.grad)


def test_a_standard_error_is_as_precise_as_the_estimate():
    features = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    uniform = torch.full((1, 8), math.log(1 / 8))
    for name in WITH_STDERR:
        index = torch.tensor([[0, 1, 2, 3]])
        coarse, fine = (ESTIMATORS[name].stderr(uniform, index, f) for f in (features.half(), features.half().float()))
        assert coarse.dtype == torch.float32
        torch.testing.assert_close(coarse, fine)
        assert ESTIMATORS[name].stderr(uniform, index, features.double()).dtype == torch.float64


def test_drawing_along_a_curve_can_be_compiled():
    """The curve is not traced: its recursion, without caches, took minutes."""
    log_attention = torch.randn(2, 20, 20, generator=torch.Generator().manual_seed(0)).flatten(1).log_softmax(1).view(2, 20, 20)
    draw = lambda log_attention: ESTIMATORS["systematic"].sample(log_attention, 5, generator=torch.Generator().manual_seed(1))
    explained = torch._dynamo.explain(draw)(log_attention)
    assert explained.op_count < 200
    assert torch.equal(torch.compile(draw, backend="eager")(log_attention), draw(log_attention))


def test_baselines_that_do_not_fit_are_refused():
    index, features = torch.tensor([[0, 1]]), torch.zeros(1, 2, 3)
    for baseline, said in ((torch.zeros(2, 1, 3), r"of shape \(2, 1, 3\)"), (torch.zeros(7), r"of shape \(7,\)"), (0.0, "0.0")):
        with pytest.raises(ValueError, match=rf"baseline {said}: expected a tensor that broadcasts to \(B, D\) = \(1, 3\)"):
            ESTIMATORS["des_raj"](UNIFORM, index, features, baseline=baseline)
    with pytest.raises(ValueError, match=r"n = 2\.5 locations"):
        ESTIMATORS["des_raj"].sample(UNIFORM, 2.5)


UNIFORM = torch.full((1, 4), math.log(0.25))


@pytest.mark.parametrize("other, n, message", [
    (UNIFORM - 1, 1, r"sums to 0\.3679"),
    (UNIFORM + 1, 1, r"sums to 2\.718"),
    (torch.tensor([[0.5, 0.5, 0, 0]]).log(), 3, "only 2 of 4"),
])
@pytest.mark.parametrize("last", [False, True])
def test_one_bad_image_of_a_batch_is_refused(other, n, message, last):
    batch = torch.cat([UNIFORM, other] if last else [other, UNIFORM])
    with pytest.raises(ValueError, match=message):
        ESTIMATORS["des_raj"].sample(batch, n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_a_hundredth_off_is_refused(dtype):
    with pytest.raises(ValueError, match=r"sums to 1\.01"):
        ESTIMATORS["des_raj"].sample((UNIFORM + 0.01).to(dtype), 1)


def test_the_uniform_number_nearest_to_one_stays_on_the_map():
    almost = torch.full((1, 1), 1 - 2.0**-53, dtype=torch.float64)
    assert Systematic("raster").place(UNIFORM, almost, 10).max() == 3


def test_who_trusts_attention_draws_without_a_look_at_its_values():
    """Where a look would make a GPU wait, and its outcome is seen later; distinct locations have to be there all the same."""
    broken = torch.full((2, 4), math.nan)
    with estimators.trusting():
        names = [name for name, estimator in ESTIMATORS.items() if not estimator.distinct]
        assert {"systematic", "with_replacement"} <= {*names}
        for name in names:
            assert ESTIMATORS[name].sample(broken[:, None], 3).max() < 4
        with estimators.trusting(False), pytest.raises(ValueError, match="NaN"):
            ESTIMATORS["systematic"].sample(broken[:, None], 3)
        with pytest.raises(ValueError, match="only 2 of 4 have attention above zero"):
            ESTIMATORS["des_raj"].sample(torch.tensor([[0.5, 0.5, 0, 0]]).log(), 3)
        with pytest.raises(ValueError, match=r"expected floating point \(B, K\)"):
            ESTIMATORS["systematic"].sample(torch.zeros(4), 3)
    with pytest.raises(ValueError, match="NaN"):
        ESTIMATORS["systematic"].sample(broken[:, None], 3)


def test_a_cumulative_sum_in_whole_numbers_is_the_cumulative_sum():
    attention = torch.rand(3, 5000, generator=torch.Generator().manual_seed(0)).softmax(1)
    found = estimators._whole_cumsum(attention)
    torch.testing.assert_close(found, attention.double().cumsum(1), rtol=0, atol=1e-12)
    assert (found.diff(dim=1) >= 0).all()


def test_noise_of_zero_bits_draws_no_location_of_zero_attention(monkeypatch):
    """Once in 2^31 numbers the bits are all zero."""
    monkeypatch.setattr(torch.Tensor, "random_", lambda bits, generator=None: bits.zero_())
    flat = torch.tensor([[-math.inf, 0.1, 0.9]])
    assert estimators._gumbel_top(flat, 3, None).tolist() == [[2, 1, 0]]


@pytest.mark.parametrize("name", ["with_replacement", "murthy"])
def test_a_baseline_of_the_others_needs_others(name):
    with pytest.raises(ValueError, match="it needs n >= 2, got n = 1"):
        ESTIMATORS[name](UNIFORM, torch.tensor([[0]]), torch.ones(1, 1, 3), baseline="built_in")


@pytest.mark.parametrize("name", WITH_STDERR)
def test_one_draw_has_no_standard_error_and_several_one_without_gradient(name):
    features = torch.ones(1, 3, 2, requires_grad=True)
    log_attention = UNIFORM.clone().requires_grad_()
    assert ESTIMATORS[name].stderr(log_attention, torch.tensor([[0]]), features[:, :1]) is None
    assert not ESTIMATORS[name].stderr(log_attention, torch.tensor([[0, 1, 2]]), features).requires_grad


def test_points_on_a_border_belong_to_what_follows_and_the_tail_is_not_rounded_away():
    curve = Systematic("raster")
    zero = torch.zeros(1, 1, dtype=torch.float64)
    assert curve.place(torch.tensor([[0, 0.5, 0.5]]).log(), zero, 2).tolist() == [[1, 2]]
    attention = torch.full((1, 10_001), 1e-8, dtype=torch.float64)  # each below float32's resolution at one
    attention[0, 0] = 1 - 1e-4
    place = curve.place(attention.log().float(), torch.full((1, 1), 1 - 5e-5, dtype=torch.float64), 1).item()
    assert abs(place - 5000) < 10


def test_the_baseline_of_des_raj_is_the_mean_of_what_was_seen():
    features = torch.tensor([[[1.0], [5.0], [0.0]]])
    found = ESTIMATORS["des_raj"]._built_in_control(UNIFORM, torch.tensor([[0, 1, 2]]), features)
    # b = 0, 1, 3; w = 1, 3/4, 1/2: (w b + a (the sum of later b)) / 3
    torch.testing.assert_close(found[0, :, 0] * 3, torch.tensor([1.0, 0.75 + 0.75, 1.5]))


def test_the_baseline_with_replacement_is_the_mean_of_the_others():
    """Any multiple of it would be unbiased, too."""
    features = torch.tensor([[[1.0], [5.0], [0.0]]])
    found = ESTIMATORS["with_replacement"]._built_in_control(UNIFORM, torch.tensor([[0, 0, 2]]), features)
    torch.testing.assert_close(found[0, :, 0] * 3, torch.tensor([2.5, 0.5, 3.0]))


@pytest.mark.parametrize("name", ["with_replacement", "des_raj", "murthy"])
def test_built_in_baselines_in_float32_are_those_of_float64(name):
    log_attention, features = torch.randn(2, 5).log_softmax(1), torch.randn(2, 3, 4)
    index = torch.tensor([[0, 1, 3], [4, 2, 0]])
    single, double = (
        ESTIMATORS[name]._built_in_control(log_attention.to(dtype), index, features.to(dtype))
        for dtype in (torch.float32, torch.float64)
    )
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, double.float())


def test_estimates_are_as_precise_as_the_more_precise_input():
    index, features = torch.tensor([[0, 1]]), torch.full((1, 2, 1), 1 / 3, dtype=torch.float64)
    z = ESTIMATORS["with_replacement"](UNIFORM, index, features)
    assert z.dtype == torch.float64 and z.item() == 1 / 3


def test_draws_of_what_float64_cannot_tell_from_zero_are_not_enumerated():
    with pytest.raises(ValueError, match="n = 2 distinct locations, but only 1 have attention that float64 can tell from zero"):
        every_draw(get_estimator("des_raj"), torch.tensor([0.0, -800.0, -800.0], dtype=torch.float64), 2)


def test_a_subclass_says_how_it_draws_and_has_a_name():
    class FirstOnes(Estimator):
        def _sample(self, flat, log_attention, n, generator):
            return torch.arange(n).expand(len(flat), -1)

    mine, log_attention = FirstOnes(), torch.full((2, 6), 1 / 6).log()
    assert mine.sample(log_attention, 3).tolist() == [[0, 1, 2]] * 2 and mine.name == "FirstOnes"
    with pytest.raises(ValueError, match="'FirstOnes' has no built-in baseline"):
        mine(log_attention, mine.sample(log_attention, 3), torch.rand(2, 3, 4), baseline="built_in")
    with pytest.raises(TypeError, match=r"does not say how it draws, by _sample\(\)"):
        Estimator().sample(log_attention, 3)
