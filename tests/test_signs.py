"""How often draws see a sign: by hand, by the definition of a systematic draw at many offsets, and by the estimator itself."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from atslib.data import GTSDB, GeneratedRoads, SignWindows
from atslib.enumeration import every_draw
from atslib.estimators import Systematic, hilbert_curve
from atslib.experiments import speed_limits
from atslib.experiments.records import read_record
from atslib.experiments.signs import answers_by_sight, attention_on, chance_to_see, chances_to_see, patch_corners, shows_sign

ROOT = Path(__file__).resolve().parents[1]
GERMAN = "ATSLIB_DATA" in os.environ and (Path(os.environ["ATSLIB_DATA"]) / "gtsdb").is_dir()


def at_many_offsets(attention, shows, n, count=20_000):
    """Share of offsets u at which one of the points (u + i)/n is in a location that shows the sign: the definition."""
    curve = hilbert_curve(*attention.shape).numpy()
    end = np.cumsum(attention.ravel()[curve])
    points = ((np.arange(count) + 0.5) / count)[:, None] / n + np.arange(n) / n  # (offsets, draws)
    hit = np.searchsorted(end, points, side="right").clip(max=len(end) - 1)
    return shows[curve][hit].any(1).mean()


@pytest.mark.parametrize("n", [1, 2, 5, 10])
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 4.0])
def test_chance_is_that_of_the_definition(n, sharpness):
    random = np.random.default_rng(0)
    logits = sharpness * random.standard_normal((6, 8))
    attention = np.exp(logits) / np.exp(logits).sum()
    shows = random.random(48) < 0.1
    assert chance_to_see(attention, shows, n) == pytest.approx(at_many_offsets(attention, shows, n), abs=1e-3)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("sharpness", [0.5, 2.0])
def test_chance_is_that_of_the_estimator(n, sharpness):
    """Every draw enumerated: stretches that wrap around, that lie within another, that are as long as a share or longer."""
    random = np.random.default_rng(0)
    for _ in range(10):
        log_attention = torch.from_numpy(sharpness * random.standard_normal(24)).log_softmax(0).view(4, 6)
        shows = random.random(24) < 0.3
        index, probability = every_draw(Systematic(), log_attention, n)
        expected = probability[torch.from_numpy(shows[index.numpy()].any(1))].sum().item()
        assert chance_to_see(log_attention.exp().numpy(), shows, n) == pytest.approx(expected, abs=1e-12)


def test_uniform_chance_counts_locations_until_they_overlap():
    even = np.full((4, 4), 1 / 16)
    curve = hilbert_curve(4, 4).numpy()
    for apart, expected in ((1, 4 / 16), (8, 2 / 16)):  # eight steps apart, two draws fall on both locations or on none
        shows = np.zeros(16, bool)
        shows[curve[[0, apart]]] = True
        assert chance_to_see(even, shows, 2) == pytest.approx(expected)
    nothing, everything = np.zeros(16, bool), np.ones(16, bool)
    assert chance_to_see(even, nothing, 3) == 0 and chance_to_see(even, everything, 3) == pytest.approx(1)


def test_a_location_with_more_than_its_share_is_always_seen():
    attention = np.array([[0.5, 0.1], [0.2, 0.2]])
    assert chance_to_see(attention, np.array([True, False, False, False]), 2) == 1


def test_sight_takes_half_of_a_box_of_any_sign():
    corners = np.array([[0, 0], [0, 5], [20, 20]])
    boxes = [(0, 0, 10, 10), (25, 25, 29, 29)]
    assert shows_sign(corners, 10, boxes).tolist() == [True, True, True]
    assert shows_sign(corners, 10, boxes[:1]).tolist() == [True, True, False]
    assert shows_sign(corners, 10, boxes[:1], share=0.6).tolist() == [True, False, False]
    assert not shows_sign(corners, 10, []).any()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: shows_sign(np.zeros((1, 2), int), 10, [(5, 5, 5, 9)]), "expected left < right"),
        (lambda: chance_to_see(np.full((2, 2), 0.25), np.zeros(3, bool), 2), "3 locations .* expected 4"),
        (lambda: chance_to_see(np.full((2, 2), 0.5), np.zeros(4, bool), 2), "adds up to 2"),
        (lambda: attention_on(torch.full((2, 2), 0.25).log(), np.zeros(3, bool)), "3 locations .* expected 4"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.fixture(scope="module")
def roads():
    return GeneratedRoads("train", 12, (120, 160), sign_width=(20, 28))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return speed_limits.build_model(n_patches=5, profile="small").eval()


def test_chances_of_a_set(roads, model):
    class Even(torch.nn.Module):
        def forward(self, view):
            return 0 * model.attention(view)

    found = chances_to_see(roads, model, (1, 5), prior=Even())
    signs = [number for number in range(len(roads)) if roads.boxes(number)]
    assert 0 < len(signs) < len(roads) and len(found.locations) == len(signs)
    corners, map_size = patch_corners(model, roads[0][0][None])
    assert found.map_size == map_size and len(corners) == math.prod(map_size)
    np.testing.assert_allclose(found.uniform[1], found.locations / math.prod(map_size))  # one draw: as many chances as locations
    for n in (1, 5):
        np.testing.assert_allclose(found.prior[n], found.uniform[n], atol=1e-6)
    assert chances_to_see(roads, model, (1,)).prior is None
    with pytest.raises(ValueError, match="no image with a sign"):
        chances_to_see(Boxless(), model)


class LooksAt(torch.nn.Module):
    """Attention in equal parts on some locations of each image, which is known by its view."""

    def __init__(self, model, dataset, locations):
        super().__init__()
        self.views = [model.view(dataset[number][0][None]) for number in locations]
        self.locations, self.attention = list(locations.values()), model.attention

    def forward(self, view):
        (number,) = (number for number, known in enumerate(self.views) if torch.equal(view, known))
        logits = torch.full_like(self.attention(view), -100)
        logits[0].view(-1)[self.locations[number]] = 0
        return logits


def test_a_prior_sees_what_it_looks_at(model):
    """By hand: two locations with half of the attention each are both drawn by two draws, and either by one."""
    roads = GeneratedRoads("train", 4, (120, 160), sign_width=(20, 28))
    corners = patch_corners(model, roads[0][0][None])[0]
    numbers = [number for number in range(len(roads)) if roads.boxes(number)]
    locations, expected = {}, {1: [], 2: []}
    for aim, number in enumerate(numbers):  # how many of the two locations show a sign
        shows = shows_sign(corners, model.patch_size, roads.boxes(number))
        on, off = np.flatnonzero(shows), np.flatnonzero(~shows)
        locations[number] = [[off[0], off[-1]], [on[-1], off[1]], [on[0], on[-1]]][aim]
        expected[1].append(aim / 2)
        expected[2].append(float(aim > 0))
    assert expected[1] == [0, 0.5, 1]
    found = chances_to_see(roads, model, (1, 2), prior=LooksAt(model, roads, locations))
    for n in (1, 2):
        np.testing.assert_allclose(found.prior[n], expected[n], atol=1e-9)
        assert (np.abs(found.prior[n] - found.uniform[n]) > 0.01).all()


class Boxless:
    def __len__(self):
        return 3

    def boxes(self, number):
        return []


def test_attention_on_signs(roads, model):
    number = next(number for number in range(len(roads)) if roads.boxes(number))
    image = roads[number][0]
    corners, map_size = patch_corners(model, image[None])
    shows = shows_sign(corners, model.patch_size, roads.boxes(number))
    even = torch.full(map_size, -math.log(math.prod(map_size)))
    share, flat, chance = attention_on(even, shows, 5)
    assert share == pytest.approx(flat) == pytest.approx(shows.mean())
    assert chance == pytest.approx(chance_to_see(np.full(map_size, 1 / math.prod(map_size)), shows, 5))


@pytest.mark.parametrize("n", [1, 3, 5])
@pytest.mark.parametrize("sharpness", [1.0, 3.0])
def test_attention_on_signs_is_that_of_the_map(n, sharpness):
    random = np.random.default_rng(0)
    log_attention = torch.from_numpy(sharpness * random.standard_normal((6, 8))).flatten().log_softmax(0).view(6, 8)
    shows = random.random(48) < 0.1
    share, flat, chance = attention_on(log_attention, shows, n)
    attention = log_attention.exp().numpy()
    assert share == pytest.approx(attention.ravel()[shows].sum()) and flat == shows.mean() and abs(share - flat) > 0.01
    assert chance == pytest.approx(chance_to_see(attention, shows, n))
    assert chance == pytest.approx(at_many_offsets(attention, shows, n), abs=1e-3)
    assert abs(chance - chance_to_see(np.full((6, 8), 1 / 48), shows, n)) > 0.01
    if n == 5:
        assert attention_on(log_attention, shows) == (share, flat, chance)


def test_answers_by_sight_are_the_models(roads, model):
    number = next(number for number in range(len(roads)) if roads.boxes(number))
    image, boxes = roads[number][0], roads.boxes(number)
    seen, right = answers_by_sight(model, image, boxes, 2, 6, torch.Generator().manual_seed(3))
    with torch.no_grad():
        out = model(image[None].expand(6, -1, -1, -1), generator=torch.Generator().manual_seed(3))
    shows = shows_sign(patch_corners(model, image[None])[0], model.patch_size, boxes)
    assert seen.tolist() == [any(shows[at] for at in some) for some in out.index.tolist()]
    assert right.tolist() == (out.logits.argmax(1) == 2).tolist()


def test_deep_mil_has_corners_too(roads):
    mil = speed_limits.build_model(profile="small", method="deep_mil")
    corners, grid = patch_corners(mil, roads[0][0][None])
    assert grid == tuple(mil.grid) and len(corners) == math.prod(grid)


# ---------------------------------------------------------------------------------------------------------------------
# Labels that are kept for tests over images, where the photographs are not at hand

KEPT = json.loads((ROOT / "results/labels/gtsdb.json").read_text(encoding="utf-8"))["profiles"]


@pytest.mark.parametrize("profile", KEPT)
def test_kept_labels_are_those_of_the_records(profile):
    """A record has no labels, but how many images of each class there are, and how many of these are wrong."""
    labels, classes = np.array(KEPT[profile]["labels"]), len(KEPT[profile]["classes"])
    records = [read_record(path) for path in sorted(ROOT.glob("results/runs/speed_limits-*-gtsdb.json"))]
    records = [r for r in records if r["profile"] == profile]
    assert records
    for r in records:
        assert (r["dataset"]["name"], r["dataset"]["digest"]) == (KEPT[profile]["dataset"], KEPT[profile]["digest"])
        confusion = np.array(r["final"]["confusion"])
        assert np.bincount(labels, minlength=classes).tolist() == confusion.sum(1).tolist()
        wrong = np.bincount(labels[r["final"]["wrong"]], minlength=classes)
        assert wrong.tolist() == (confusion.sum(1) - np.diag(confusion)).tolist()


@pytest.mark.data
@pytest.mark.skipif(not GERMAN, reason="no gtsdb in ATSLIB_DATA: the real data are not here")
@pytest.mark.parametrize("profile", KEPT)
def test_kept_labels_are_those_of_the_photographs(profile):
    sizes = speed_limits.PROFILES[profile]
    photographs = (GTSDB(split=split, limits=sizes.limits) for split in ("train", "test"))
    parts = [SignWindows(part, sizes.window, negatives=sizes.negatives) for part in photographs]
    assert "+".join(part.digest() for part in parts) == KEPT[profile]["digest"]
    assert list(parts[1].classes) == KEPT[profile]["classes"]
    assert parts[1].labels.tolist() == KEPT[profile]["labels"]
