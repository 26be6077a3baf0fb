"""Trained networks on larger images: which locations show a digit, and what is written."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from atslib.data import MegapixelMNIST
from atslib.experiments import megapixel_mnist
from atslib.experiments.__main__ import main as experiments
from atslib.experiments.runs import Run
from atslib.experiments.sizes import main, measure, shows_a_digit, trained
from atslib.patches import PatchGeometry, downsample, extract_patches
from atslib.training import Settings

ON_CPU = ["--device", "cpu"]


@pytest.mark.parametrize("size, scale, patch", [(200, 0.12, 50), (210, 0.1, 60), (300, 0.03, 150)])
def test_locations_that_show_a_digit_are_those_whose_patch_holds_all_of_it(size, scale, patch):
    tests = MegapixelMNIST("test", 3, size, n_noise=0)
    side = round(size * scale)
    geometry = PatchGeometry((size, size), (side, side), (side, side), patch, padding=3, receptive_field=7)
    for number in range(3):
        corners = torch.as_tensor(tests.layout(number).digit_corners)
        shows = shows_a_digit(geometry, corners)
        # Paint each digit's square by itself and count what a patch shows of it.
        expected = torch.zeros(side * side, dtype=torch.bool)
        for row, column in corners.tolist():
            image = torch.zeros(1, 1, size, size)
            image[..., row : row + 28, column : column + 28] = 1
            patches = extract_patches(image, geometry.top_left(torch.arange(side * side)[None]), patch)[0]
            expected |= patches.sum((1, 2, 3)) == 28 * 28
        assert torch.equal(shows.flatten(), expected) and 0 < expected.sum() < side * side


@pytest.mark.parametrize("method, view", [("nested", 9), ("ats", 36)])
def test_measure_counts_errors_and_attention(method, view):
    tests = MegapixelMNIST("test", 4, 300, n_noise=0)
    torch.manual_seed(0)
    model = megapixel_mnist.build_model(2, "systematic", "smoke", method)
    answer = int(tests.labels[0])
    with torch.no_grad():  # one answer to all images
        model.classifier.linear.weight.zero_()
        model.classifier.linear.bias.copy_(torch.arange(10) == answer)
    row = measure(model, tests)
    assert row["size"] == 300 and row["n"] == 4
    assert row["wrong"] == [number for number in range(4) if tests.labels[number] != answer]
    assert row["error"] == len(row["wrong"]) / 4
    assert row["stderr"] == math.sqrt(row["error"] * (1 - row["error"]) / 4)
    assert 0 < row["uniform"] < 1 and row["view_ms"] > 0 and row["look_ms"] > 0
    masses, shares = [], []
    for number in range(4):
        image = tests[number][0][None]
        low, log_a = model.attend(image, downsample(image, (view, view)))
        shows = shows_a_digit(model.geometry(image, low, log_a), torch.as_tensor(tests.layout(number).digit_corners))
        masses.append(log_a[0].exp()[shows].sum().item())
        shares.append(shows.sum().item() / shows.numel())
    assert row["mass"] == pytest.approx(sum(masses) / 4)
    assert row["uniform"] == pytest.approx(sum(shares) / 4) and len(set(shares)) > 1


def test_measure_takes_the_time_of_view_and_of_what_follows_apart(monkeypatch):
    """By a clock that only moves while the view is made, and while the model looks; medians of three images."""
    tests = MegapixelMNIST("test", 3, 300, n_noise=0)
    model = megapixel_mnist.build_model(2, "systematic", "smoke", "nested").eval()
    now = 0.0

    def takes(part, seconds):
        seconds = iter(seconds)

        def timed(*arguments, **options):
            nonlocal now
            now += next(seconds)
            return part(*arguments, **options)

        return timed

    monkeypatch.setattr(model, "view", takes(model.view, [0.002, 0.900, 0.001]))
    monkeypatch.setattr(model, "forward", takes(model.forward, [0.050, 0.040, 0.700]))
    monkeypatch.setattr("atslib.experiments.sizes.time", SimpleNamespace(perf_counter=lambda: now))
    row = measure(model, tests)
    assert row["view_ms"] == pytest.approx(2) and row["look_ms"] == pytest.approx(50)


def test_an_image_has_the_same_digits_at_every_size():
    small, large = (MegapixelMNIST("test", 5, size, n_noise=3) for size in (300, 4000))
    for number in range(5):
        assert (small.layout(number).digits == large.layout(number).digits).all()


def test_other_methods_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a run of megapixel_mnist with method ats or nested"):
        trained(Run("megapixel_mnist", "deep_mil", out=tmp_path))


def test_the_command_measures_what_is_missing(tmp_path, monkeypatch, capsys):
    profile = replace(
        megapixel_mnist.PROFILES["smoke"],
        **dict(size=250, n_noise=0, n_train=8, n_test=4, n_watch=4),
        training=Settings(epochs=1, batch_size=8),
    )
    monkeypatch.setitem(megapixel_mnist.PROFILES, "smoke", profile)
    monkeypatch.setattr("atslib.experiments.runs.OTHER_N", ())
    assert experiments(["megapixel_mnist", "--method", "nested", "--n-patches", "2", "--out", str(tmp_path), *ON_CPU]) == 0
    name = Run("megapixel_mnist", "nested", n_patches=2).name
    arguments = [name, "--images", "2", "--out", str(tmp_path), "--sizes"]
    assert main([*arguments, "300"]) == 0
    assert main([*arguments, "250,300"]) == 0
    path = tmp_path / "sizes" / f"{name}.json"
    record = json.loads(path.read_text())
    assert record["run"] == name and [row["size"] for row in record["sizes"]] == [250, 300]
    assert capsys.readouterr().out.count("view_ms") == 2  # 300 was measured once

    assert main([name, "--images", "3", "--out", str(tmp_path), "--sizes", "300"]) == 0
    record = json.loads(path.read_text())
    assert [row["n"] for row in record["sizes"] if row["size"] == 300] == [3] and "sessions" not in record

    # Made on another day, and on another machine.
    later = dict(torch="later")
    monkeypatch.setattr("atslib.experiments.sizes.software", lambda: later)
    assert main([*arguments, "280"]) == 0
    grown = json.loads(path.read_text())
    assert [(session["software"], session["parts"]) for session in grown["sessions"]] == [
        (record["software"], [250, 300]),
        (later, [280]),
    ]
    assert grown["software"] == record["software"] and [row["size"] for row in grown["sizes"]] == [250, 280, 300]
    monkeypatch.setattr("atslib.experiments.sizes.hardware", lambda device: dict(device="cpu", name="another"))
    before = path.read_bytes()
    capsys.readouterr()
    assert main([*arguments, "290"]) == 2 and path.read_bytes() == before
    assert f"{path} was measured with hardware " in capsys.readouterr().err

    assert main(["nothing", "--out", str(tmp_path)]) == 2
    assert "nothing.json is no record" in capsys.readouterr().err
    (tmp_path / "weights" / f"{name}.safetensors").unlink()
    assert main([*arguments, "400"]) == 2
    assert "no weights of this run" in capsys.readouterr().err
    for wrong in ("0", "large", "300,-1"):
        assert main([*arguments, wrong]) == 2
        assert f"--sizes {wrong}: expected whole numbers of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("patch", [(40, 60), (60, 40)])
def test_digits_in_patches_that_are_no_squares(patch):
    geometry = PatchGeometry((200, 200), (24, 24), (24, 24), patch, padding=3, receptive_field=7)
    image = torch.zeros(1, 1, 200, 200)
    image[..., 90:118, 70:98] = 1
    patches = extract_patches(image, geometry.top_left(torch.arange(24 * 24)[None]), patch)[0]
    expected = patches.sum((1, 2, 3)) == 28 * 28
    assert torch.equal(shows_a_digit(geometry, torch.tensor([[90, 70]])).flatten(), expected) and expected.any()
