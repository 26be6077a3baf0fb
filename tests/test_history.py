"""Attention in the course of training: distances against SciPy and by hand, and the command on a tiny set of images."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from scipy.spatial.distance import jensenshannon

from atslib.data.colon_cancer import FOLDER, KINDS, ColonCancer
from atslib.experiments.history import coarse, compare, exchange_test, history, jensen_shannon, load_maps, main, total_variation
from atslib.experiments.records import read_record
from atslib.experiments.runs import Run, run_of
from atslib.models import AttentionSampling
from atslib.processes import Processes

RESULTS = Path(__file__).resolve().parents[1] / "results"


def test_distances_of_what_shares_nothing_and_of_the_same():
    p, q = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 1, 0]]).log(), torch.tensor([[0, 0, 0.5, 0.5], [0, 0, 1, 0]]).log()
    assert total_variation(p, q).tolist() == [1, 0]
    assert jensen_shannon(p, q).tolist() == pytest.approx([1, 0])


def test_rounding_makes_no_distance_negative():
    p = torch.randn(100, 1000, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    q = (p + 1e-4 * torch.randn(100, 1000, generator=torch.Generator().manual_seed(1))).log_softmax(1)
    assert 0 <= jensen_shannon(p, p).min() <= jensen_shannon(p, p).max() < 1e-5 and jensen_shannon(p, q).min() >= 0


def test_distances_are_scipys():
    p, q = (2 * torch.randn(2, 3, 40, dtype=torch.float64)).log_softmax(-1)
    expected = jensenshannon(p.exp().numpy(), q.exp().numpy(), axis=-1, base=2) ** 2
    np.testing.assert_allclose(jensen_shannon(p, q), expected, rtol=1e-6)
    np.testing.assert_allclose(jensen_shannon(q, p), expected, rtol=1e-6)
    # The most by which the probabilities of any set of locations differ.
    largest = (p.exp() - q.exp()).clamp(min=0).sum(-1)
    np.testing.assert_allclose(total_variation(p, q), largest, rtol=1e-9)


@pytest.mark.parametrize("size", [(6, 4), (5, 7), (1, 1)])
def test_coarse_adds_up_squares(size):
    attention = torch.rand(2, *size, dtype=torch.float64)
    found = coarse(attention.log(), 2).exp()
    assert found.shape == (2, -(-size[0] // 2), -(-size[1] // 2))
    for row in range(found.shape[1]):
        for column in range(found.shape[2]):
            block = attention[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            torch.testing.assert_close(found[:, row, column], block.sum((1, 2)))


def test_exchange_test_refuses_distances_that_are_none():
    with pytest.raises(ValueError, match="mean distances nan and nan: expected finite ones"):
        exchange_test([0, 1, 2], [3, 4, 5], lambda x, y: float("nan"))


def test_exchange_test_by_hand():
    # Three seeds; a at 0, 1, 2 and b at 0, 1, 5. Distances are those on a line.
    place = dict(a0=0, a1=1, a2=2, b0=0, b1=1, b2=5)
    unlike, like, p = exchange_test(["a0", "a1", "a2"], ["b0", "b1", "b2"], lambda x, y: abs(place[x] - place[y]))
    assert unlike == pytest.approx(((1 + 1) + (5 + 2) + (4 + 1)) / 6)  # seeds 0 and 1, 0 and 2, 1 and 2, either way round
    assert like == pytest.approx(((1 + 1) + (2 + 5) + (1 + 4)) / 6)
    assert p == 1  # whatever is exchanged, the same distances come out
    # Kinds that are far apart: only no exchange and that of all seeds leave them so.
    place |= dict(b0=10, b1=11, b2=12)
    unlike, like, p = exchange_test(["a0", "a1", "a2"], ["b0", "b1", "b2"], lambda x, y: abs(place[x] - place[y]))
    assert (unlike, p) == (10, 2 / 8)
    # The kind does not matter: distances of like pairs are as large as of unlike ones.
    assert exchange_test(["a", "b"], ["c", "d"], lambda x, y: 1.0) == (1, 1, 1)


@pytest.mark.parametrize("a, b", [(["a"], ["b"]), (["a", "b"], ["c"]), ([], [])])
def test_exchange_test_needs_pairs(a, b):
    with pytest.raises(ValueError, match="as many of both"):
        exchange_test(a, b, lambda x, y: 0.0)


def test_compare_takes_the_epochs_that_all_have():
    even, peaked = torch.zeros(2, 2, 2) - torch.tensor(4.0).log(), torch.zeros(2, 2, 2) - torch.inf
    peaked[:, 0, 0] = 0
    found = compare({"a": {0: even, 5: even, 10: peaked}, "b": {0: even, 10: even}, "c": {10: even, 0: peaked}})
    assert found["epochs"] == [0, 10]
    assert [(pair["a"], pair["b"]) for pair in found["pairs"]] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [pair["tv"] for pair in found["pairs"]] == [[0, 0.75], [0.75, 0.75], [0.75, 0]]
    assert found["runs"]["a"]["entropy"] == pytest.approx([np.log(4), 0], abs=1e-5)
    assert found["runs"]["a"]["uniform"] == [0, 0.75]
    assert compare({})["pairs"] == []


# ---------------------------------------------------------------------------------------------------------------------
# The command, on a hundred small images in the layout of the set


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images of 60 × 60, every second one positive."""
    top = tmp_path_factory.mktemp("data")
    for n in range(1, 101):
        folder = top / FOLDER / "Classification" / f"img{n}"
        folder.mkdir(parents=True)
        (top / FOLDER / "Detection" / f"img{n}").mkdir(parents=True)
        pixels = np.random.RandomState(n).randint(0, 256, (60, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"img{n}.bmp")
        for kind in KINDS:
            points = np.array([[10.0, 10.0]]) if n % 2 or kind != "epithelial" else np.empty((0, 2))
            savemat(folder / f"img{n}_{kind}.mat", {"detection": points})
        savemat(top / FOLDER / "Detection" / f"img{n}" / f"img{n}_detection.mat", {"detection": points})
    return top


@pytest.fixture
def quick(monkeypatch):
    from dataclasses import replace

    from atslib.experiments import colon_cancer

    profile = colon_cancer.PROFILES["laptop"]
    training = replace(profile.training, batch_size=40, test_every=10, learning_rate=0.01)
    monkeypatch.setitem(colon_cancer.PROFILES, "laptop", replace(profile, updates=40, training=training))
    monkeypatch.setattr("atslib.experiments.runs.OTHER_N", (2,))


def trained(root, out, **options):
    run = Run("colon_cancer", profile="laptop", data=str(root), out=out, **{"n_patches": 2} | options)
    assert run.execute(Processes("cpu"), report=lambda line: None)
    return run


def test_the_command(quick, root, tmp_path, capsys, monkeypatch):
    arguments = ["--data", str(root), "--out", str(tmp_path)]
    (tmp_path / "runs").mkdir()
    assert main(arguments) == 2 and "no run of profile 'laptop'" in capsys.readouterr().err
    two = trained(root, tmp_path)
    three = trained(root, tmp_path, n_patches=3)
    free = trained(root, tmp_path, changes=(("entropy_weight", 0.0),))
    other_fold = trained(root, tmp_path, seed=1)
    for left_out in (
        dict(method="uniform"),
        dict(estimator="des_raj"),
        dict(order="raster"),
        dict(changes=(("learning_rate", 0.1),)),
        dict(changes=(("scheme", "runs"),)),
    ):
        trained(root, tmp_path, **left_out)
    assert main(arguments) == 0

    folder = tmp_path / "ablations"
    numbers = json.loads((folder / "distances-fold0.json").read_text())
    tests = ColonCancer(root, "test", fold=0)
    assert numbers["fold"] == 0 and numbers["images"] == list(tests.ids) and numbers["epochs"] == [0, 10, 20]
    assert set(numbers["runs"]) == {two.name, three.name, free.name, other_fold.name} and len(numbers["pairs"]) == 6
    about = {name: [run[key] for key in ("seed", "fold", "n_patches", "entropy_weight")] for name, run in numbers["runs"].items()}
    assert about[two.name] == [0, 0, 2, 0.01] and about[three.name] == [0, 0, 3, 0.01]
    assert about[free.name] == [0, 0, 2, 0] and about[other_fold.name] == [1, 1, 2, 0.01]
    distances = {(pair["a"], pair["b"]): pair for pair in numbers["pairs"]}
    same_start = next(pair for names, pair in distances.items() if set(names) == {two.name, three.name})
    other_start = next(pair for names, pair in distances.items() if set(names) == {two.name, other_fold.name})
    assert same_start["tv"][0] == same_start["js"][0] == 0 < same_start["tv"][-1] < 1 and other_start["tv"][0] > 0

    # The last snapshot is the trained model, and maps are of the first positive images.
    assert {path.stem for path in folder.glob("*.safetensors")} == {two.name, three.name, free.name}
    maps = load_maps(folder / f"{two.name}.safetensors")
    positives = [number for number in range(len(tests)) if tests.labels[number] == 1][:2]
    assert {epoch: list(images) for epoch, images in maps.items()} == {
        epoch: [tests.ids[number] for number in positives] for epoch in (0, 20)
    }
    model = two.build()
    from safetensors.torch import load_file

    model.load_state_dict(load_file(two.weights))
    with torch.no_grad():
        for number in positives:
            expected = model.eval()(tests[number][0][None]).log_attention[0]  # (12, 12)
            kept = maps[20][tests.ids[number]]
            assert kept.shape == (6, 6) and kept.exp().sum().item() == pytest.approx(1, abs=0.01)
            torch.testing.assert_close(kept, coarse(expected), atol=0.01, rtol=0)

    # Killed while it writes, it leaves what was there.
    before = {path: path.read_bytes() for path in folder.iterdir()}

    real = os.replace
    for ending in ("safetensors", "json"):

        def killed(part, place, ending=ending):
            if str(place).endswith(ending):
                raise KeyboardInterrupt
            real(part, place)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", killed)
            main(arguments)
        assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_history_is_the_models_attention(quick, root, tmp_path):
    run = trained(root, tmp_path)
    model: AttentionSampling = run.build()  # with its initial weights
    views = torch.cat([model.view(run.loaded.test[number][0][None]) for number in range(3)])
    maps = history(run, views, [0, 10, 11])
    assert list(maps) == [0, 10] and maps[0].shape == (3, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(maps[0][1], model(run.loaded.test[1][0][None]).log_attention[0])
    torch.testing.assert_close(maps[10].exp().sum((1, 2)), torch.ones(3))


# ---------------------------------------------------------------------------------------------------------------------
# The real images

DATA = os.environ.get("ATSLIB_DATA")
KEPT = sorted((RESULTS / "ablations").glob("colon_cancer-ats-*-n10-seed0-laptop.safetensors"))


@pytest.mark.data
@pytest.mark.skipif(
    not DATA or not (Path(DATA) / FOLDER).is_dir(), reason="no colon_cancer in ATSLIB_DATA: the real data are not here"
)
@pytest.mark.skipif(not KEPT, reason="nothing in results/ablations yet")
def test_committed_maps_come_out_again():
    run = run_of(read_record(RESULTS / "runs" / f"{KEPT[0].stem}.json"), RESULTS, DATA)
    tests, view = run.loaded.test, run.build().view
    kept = load_maps(KEPT[0])
    for image in kept[0]:
        maps = history(run, view(tests[tests.ids.index(image)][0][None]), kept)
        for epoch, images in kept.items():
            torch.testing.assert_close(coarse(maps[epoch][0]), images[image], atol=0.02, rtol=0)


@pytest.mark.parametrize("size", [(5, 4), (4, 5)])
def test_coarse_maps_keep_the_whole(size):
    attention = torch.rand(1, *size, dtype=torch.float64)
    found = coarse(attention.log(), 2).exp()
    assert found.shape == (1, -(-size[0] // 2), -(-size[1] // 2))
    torch.testing.assert_close(found.sum(), attention.sum())


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_distances_are_of_the_last_axis(shape):
    p, q = (torch.rand(shape, dtype=torch.float64).log().log_softmax(-1) for _ in range(2))
    rows = [(a.exp().numpy(), b.exp().numpy()) for a, b in zip(p.reshape(-1, 4), q.reshape(-1, 4), strict=True)]
    expected = torch.tensor([jensenshannon(a, b, base=2) ** 2 for a, b in rows], dtype=torch.float64)
    torch.testing.assert_close(jensen_shannon(p, q), expected.reshape(shape[:-1]))
    assert jensen_shannon(p, q).shape == total_variation(p, q).shape
