"""Agreement of attention with nuclei: small cases counted by hand, brute force, and the command from records to files."""

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.io import savemat

from atslib.data.colon_cancer import FOLDER, KINDS, ColonCancer
from atslib.data.files import files_digest
from atslib.experiments import nuclei
from atslib.experiments.nuclei import _auc, agreement, main, measure
from atslib.experiments.records import read_record
from atslib.experiments.runs import Run, attention_snapshots, run_of
from atslib.processes import Processes

RESULTS = Path(__file__).resolve().parents[1] / "results"
NOWHERE = np.empty((0, 2))


def points(*xy):
    return np.array(xy, dtype=float)


def brute_force_auc(high, low):
    return float(np.mean([(a > b) + (a == b) / 2 for a in high for b in low]))


# ---------------------------------------------------------------------------------------------------------------------
# One map


def test_uniform_attention_has_the_area_as_mass():
    # 4 × 4 cells of 10 pixels; within 10 pixels of the centre of the first cell lie its own and those of two neighbours.
    found = agreement(torch.full((4, 4), 1 / 16), (40, 40), points((5, 5)), points((35, 35)), radius=10)
    assert found["mass"] == pytest.approx(3 / 16) and found["area"] == 3 / 16
    assert found["auc"] == 0.5 and found["auc_nuclei"] == 0.5
    assert found["entropy"] == pytest.approx(math.log(16))


def test_x_is_the_column():
    attention = torch.zeros(2, 4)
    attention[0, 3] = 1
    found = agreement(attention, (20, 40), points((35, 5)), points((5, 15)), radius=1)
    assert found == dict(mass=1, area=1 / 8, auc=1, auc_nuclei=1, entropy=0)
    found = agreement(attention, (20, 40), points((5, 15)), points((35, 5)), radius=1)
    assert found == dict(mass=0, area=1 / 8, auc=3 / 7, auc_nuclei=0, entropy=0)  # of seven others six are as low


def test_a_location_counts_once_however_many_nuclei_are_near():
    attention = torch.tensor([[0.5, 0.3], [0.15, 0.05]])
    once = agreement(attention, (20, 20), points((5, 5)), NOWHERE, radius=2)
    thrice = agreement(attention, (20, 20), points((5, 5), (5, 6), (4, 5)), NOWHERE, radius=2)
    assert once["mass"] == thrice["mass"] == pytest.approx(0.5) and once["area"] == thrice["area"] == 1 / 4


def test_what_cannot_be_told_is_nan():
    attention = torch.tensor([[0.5, 0.3], [0.15, 0.05]])
    assert math.isnan(agreement(attention, (20, 20), points((5, 5)), NOWHERE)["auc_nuclei"])
    everywhere = agreement(attention, (20, 20), points((10, 10)), points((1, 1)), radius=100)
    assert math.isnan(everywhere["auc"]) and everywhere["mass"] == pytest.approx(1) and everywhere["area"] == 1


def test_nuclei_on_the_border_belong_to_the_last_cell():
    attention = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    found = agreement(attention, (20, 20), points((20, 20)), points((0, 0)), radius=8)
    assert found["auc_nuclei"] == 1 and found["mass"] == pytest.approx(0.4)


@pytest.mark.parametrize("shape, size", [((10, 10), (50, 50)), ((5, 12), (25, 120)), ((7, 9), (50, 64))])
def test_against_counting(shape, size):
    random = np.random.RandomState(0)
    attention = torch.from_numpy(random.randint(1, 6, shape) / 1.0)  # few values: many ties
    attention /= attention.sum()
    epithelial, other = (random.uniform(0, 1, (count, 2)) * (size[1], size[0]) for count in (4, 6))
    found = agreement(attention, size, epithelial, other, radius=9)
    near, far, on = [], [], dict(epithelial=[], other=[])
    tall, wide = size[0] / shape[0], size[1] / shape[1]
    for r in range(shape[0]):
        for c in range(shape[1]):
            y, x = (r + 0.5) * tall, (c + 0.5) * wide
            distance = min(math.hypot(x - px, y - py) for px, py in epithelial)
            (near if distance <= 9 else far).append(attention[r, c].item())
            for kind, places in (("epithelial", epithelial), ("other", other)):
                inside = [r * tall <= py < (r + 1) * tall and c * wide <= px < (c + 1) * wide for px, py in places]
                on[kind] += [attention[r, c].item()] * sum(inside)
    assert near and far
    assert found["mass"] == pytest.approx(sum(near)) and found["area"] == pytest.approx(len(near) / attention.numel())
    assert found["auc"] == pytest.approx(brute_force_auc(near, far))
    assert found["auc_nuclei"] == pytest.approx(brute_force_auc(on["epithelial"], on["other"]))
    assert found["entropy"] == pytest.approx(torch.special.entr(attention).sum().item())


def test_refusals():
    with pytest.raises(ValueError, match="no epithelial nucleus"):
        agreement(torch.full((2, 2), 0.25), (20, 20), NOWHERE, points((5, 5)))
    with pytest.raises(ValueError):  # a batch of maps is not a map
        agreement(torch.full((1, 2, 2), 0.25), (20, 20), points((5, 5)), NOWHERE)


def test_auc():
    assert _auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1
    assert _auc(np.array([1.0]), np.array([0.0, 1.0, 2.0, 3.0])) == 0.375  # above one, as high as one
    assert math.isnan(_auc(np.array([]), np.array([1.0]))) and math.isnan(_auc(np.array([1.0]), np.array([])))
    random = np.random.RandomState(1)
    for ties in (3, 1000):
        high, low = random.randint(0, ties, 17), random.randint(0, ties, 23)
        assert _auc(high, low) == pytest.approx(brute_force_auc(high, low))
        assert _auc(high, low) + _auc(low, high) == pytest.approx(1)


# ---------------------------------------------------------------------------------------------------------------------
# The command, on a hundred small images in the layout of the set


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images of 60 × 60; the odd ones are positive, with epithelial nuclei left and others right, but for one in five."""
    top = tmp_path_factory.mktemp("data")
    folder = top / FOLDER
    for n in range(1, 101):
        for part in ("Classification", "Detection"):
            (folder / part / f"img{n}").mkdir(parents=True)
        pixels = np.random.RandomState(n).randint(0, 256, (60, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "Classification" / f"img{n}" / f"img{n}.bmp")
        places = dict.fromkeys(KINDS, NOWHERE) | dict(others=NOWHERE if n % 10 == 1 else points((50, 10), (50, 50)))
        if n % 2:
            places["epithelial"] = points((10, 10), (10, n % 60))
        for kind, xy in places.items():
            savemat(folder / "Classification" / f"img{n}" / f"img{n}_{kind}.mat", {"detection": xy})
        savemat(folder / "Detection" / f"img{n}" / f"img{n}_detection.mat", {"detection": places["others"]})
    return top


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr("atslib.experiments.colon_cancer.GRID", (3, 3))
    monkeypatch.setattr("atslib.experiments.runs.OTHER_N", (2,))


def trained(root, out, **options):
    changes = (("updates", 2), ("batch_size", 40), ("test_every", 1))
    run = Run("colon_cancer", n_patches=2, profile="laptop", changes=changes, data=str(root), out=out, **options)
    assert run.execute(Processes("cpu"), report=lambda line: None)
    return run


def test_the_command_measures_what_has_attention(small, root, tmp_path, capsys):
    ats, later = trained(root, tmp_path), trained(root, tmp_path, seed=1)
    mil, uniform = trained(root, tmp_path, method="deep_mil"), trained(root, tmp_path, method="uniform")
    assert run_of(read_record(mil.record), tmp_path, str(root)) == mil
    assert main(["--data", str(root), "--out", str(tmp_path), "--maps", "3"]) == 0
    folder = tmp_path / "nuclei"
    assert {path.stem for path in folder.glob("*.json")} == {ats.name, later.name, mil.name}
    assert {path.stem for path in folder.glob("*.safetensors")} == {ats.name, mil.name}  # maps of seed 0 only
    assert uniform.name not in capsys.readouterr().out

    tests = ColonCancer(root, "test", fold=0)
    positives = [n for n, label in zip(tests.ids, tests.labels.tolist(), strict=True) if label]
    for run, shape in ((ats, (12, 12)), (mil, (3, 3))):
        numbers, maps = json.loads((folder / f"{run.name}.json").read_text()), load_file(folder / f"{run.name}.safetensors")
        assert numbers["run"] == run.name and numbers["radius"] == 13
        assert [row["id"] for row in numbers["final"]] == positives
        assert set(maps) == {str(n) for n in positives[:3]}
        for number, row in zip(positives, numbers["final"], strict=True):
            assert 0 < row["area"] < 1 and 0 <= row["mass"] <= 1
            if str(number) in maps:
                log_attention = maps[str(number)].float()
                assert log_attention.shape == shape and log_attention.exp().sum().item() == pytest.approx(1, abs=0.01)
                again = agreement(log_attention.exp(), (60, 60), points((10, 10), (10, number % 60)), points((50, 10), (50, 50)))
                assert again["mass"] == pytest.approx(row["mass"], abs=0.01) and again["area"] == row["area"]
    numbers = json.loads((folder / f"{ats.name}.json").read_text())
    assert list(numbers["epochs"]) == ["0", "1"]
    lone = [math.isnan(row["auc_nuclei"]) for row in numbers["final"]]  # without another nucleus; the mean is of those with one
    assert any(lone) and not all(lone)
    for key, mean in numbers["epochs"]["1"].items():  # the last snapshot is the trained model
        assert mean == pytest.approx(np.nanmean([row[key] for row in numbers["final"]]))
    assert json.loads((folder / f"{mil.name}.json").read_text())["epochs"] == {}

    ats.weights.unlink()  # the last snapshot stands in for them
    for row, before in zip(measure(ats, tests)[0]["final"], numbers["final"], strict=True):
        assert row == pytest.approx(before, rel=1e-3, nan_ok=True)


def test_the_command_leaves_alone_what_is_there_or_strange(small, root, tmp_path, capsys):
    run = trained(root, tmp_path)
    there = tmp_path / "nuclei" / run.record.name
    there.parent.mkdir()
    there.write_text(mine := '{"run": "mine"}')
    shutil.copy(run.record, run.record.with_name("colon_cancer-renamed.json"))
    assert main(["--data", str(root), "--out", str(tmp_path)]) == 0
    assert there.read_text() == mine and [path.name for path in there.parent.iterdir()] == [there.name]
    captured = capsys.readouterr()
    assert "colon_cancer-renamed.json: named otherwise than" in captured.err and captured.out == ""


def test_records_that_cannot_be_measured_are_named_and_passed_over(root, tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "colon_cancer-ats-broken.json").write_text("{")
    whole = RESULTS / "runs" / "colon_cancer-deep_mil-seed0-laptop-batch_size_4-updates_400.json"  # its weights are not here
    (tmp_path / "runs" / whole.name).write_text(whole.read_text())
    assert nuclei.main(["--data", str(root), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().err.splitlines()
    assert "colon_cancer-ats-broken.json is no record" in said[0] and "no weights of this run" in said[1] and len(said) == 2


def test_runs_by_name_and_numbers_of_other_weights(root, tmp_path, capsys, monkeypatch):
    names = [path.stem for path in (RESULTS / "nuclei").glob("colon_cancer-ats-systematic-n10-seed[01]-laptop.json")]
    for folder in ("runs", "weights", "nuclei"):
        (tmp_path / folder).mkdir()
    for name in names:
        (tmp_path / "runs" / f"{name}.json").write_text((RESULTS / "runs" / f"{name}.json").read_text())
        (tmp_path / "weights" / f"{name}.attention.safetensors").write_bytes(b"of " + name.encode())
    measured, found = [], dict(final=[dict(mass=0.5, area=0.1, auc=0.7, auc_nuclei=0.6)], weights="others")
    monkeypatch.setattr(nuclei, "measure", lambda run, *_: measured.append(run.name) or (found, {}))
    arguments = ["--data", str(root), "--out", str(tmp_path)]
    assert nuclei.main([names[0], "nobody", *arguments]) == 0 and measured == names[:1]
    assert "nobody.json" in capsys.readouterr().err
    assert nuclei.main(arguments) == 0 and sorted(measured) == sorted(names)
    assert f"{names[0]}.json: of other weights than those there now" in capsys.readouterr().err
    (tmp_path / "nuclei" / f"{names[0]}.json").write_text("half of i")
    assert nuclei.main(arguments) == 0
    assert f"{names[0]}.json is no record of final" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# The real images


DATA = os.environ.get("ATSLIB_DATA")
MEASURED = sorted((RESULTS / "nuclei").glob("colon_cancer-ats-*-n10-seed0-laptop.json"))


@pytest.mark.data
@pytest.mark.skipif(
    not DATA or not (Path(DATA) / FOLDER).is_dir(), reason="no colon_cancer in ATSLIB_DATA: the real data are not here"
)
@pytest.mark.skipif(not MEASURED, reason="nothing measured in results/nuclei yet")
def test_committed_numbers_come_out_again(tmp_path):
    numbers = json.loads(MEASURED[0].read_text())
    run = run_of(read_record(RESULTS / "runs" / MEASURED[0].name), RESULTS, DATA)
    elsewhere = replace(run, out=tmp_path)  # with the last snapshot only: all of them take minutes
    elsewhere.weights.parent.mkdir()
    snapshots = attention_snapshots(run.snapshots)
    save_file({f"{max(snapshots)}/{key}": tensor for key, tensor in snapshots[max(snapshots)].items()}, elsewhere.snapshots)
    again, maps = measure(elsewhere, elsewhere.loaded.test, n_maps=2)
    assert again["run"] == numbers["run"] and again["radius"] == nuclei.RADIUS == numbers["radius"]
    for row, before in zip(again["final"], numbers["final"], strict=True):
        assert row == pytest.approx(before, rel=1e-3, nan_ok=True)
    assert again["weights"] == files_digest([elsewhere.snapshots])
    assert all(log_attention.shape == (100, 100) for log_attention in maps.values())


@pytest.mark.parametrize("command", ["nuclei", "history"])
def test_without_the_images_the_commands_say_so(command, tmp_path, capsys):
    import importlib

    run = importlib.import_module(f"atslib.experiments.{command}").main
    assert run(["--data", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "get colon_cancer" in capsys.readouterr().err and not list(tmp_path.iterdir())
