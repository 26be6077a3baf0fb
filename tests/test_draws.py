"""Trained networks with the draws of others: what is counted, and what is written."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from atslib.data import MegapixelMNIST
from atslib.experiments import megapixel_mnist
from atslib.experiments.__main__ import main as experiments
from atslib.experiments.draws import main, measure
from atslib.experiments.runs import Run
from atslib.training import Settings


def test_errors_are_those_of_the_answers_with_these_draws():
    tests = MegapixelMNIST("test", 7, 250, n_noise=0)
    torch.manual_seed(0)
    model = megapixel_mnist.build_model(3, "des_raj", "smoke").train()
    errors = measure(model, tests, ["systematic", "with_replacement"], looks=2, batch_size=3)
    assert model.training and model.estimator.name == "des_raj"  # as it was
    model.eval()
    for name in errors:
        model.estimator = name
        for look, error in enumerate(errors[name]):
            generator, wrong = torch.Generator().manual_seed(look), 0
            for batch in torch.arange(7).split(3):
                images, labels = (torch.stack([torch.as_tensor(tests[i][k]) for i in batch.tolist()]) for k in (0, 1))
                with torch.no_grad():
                    wrong += (model(images, generator=generator).logits.argmax(1) != labels).sum().item()
            assert error == wrong / 7
    alone = measure(model, tests, ["with_replacement"], looks=1, batch_size=3)
    assert alone["with_replacement"] == errors["with_replacement"][:1]
    with pytest.raises(ValueError, match="unknown estimator 'dice'"):
        measure(model, tests, ["dice"], looks=1)


def test_the_command_measures_what_is_missing(tmp_path, monkeypatch, capsys):
    profile = replace(
        megapixel_mnist.PROFILES["smoke"],
        **dict(size=250, n_noise=0, n_train=8, n_test=4, n_watch=4),
        training=Settings(epochs=1, batch_size=8),
    )
    monkeypatch.setitem(megapixel_mnist.PROFILES, "smoke", profile)
    monkeypatch.setattr("atslib.experiments.runs.OTHER_N", ())
    on_cpu = ["--out", str(tmp_path), "--device", "cpu"]
    for method in ("ats", "nested"):
        assert experiments(["megapixel_mnist", "--method", method, "--n-patches", "2", *on_cpu]) == 0
    name = Run("megapixel_mnist", "ats", n_patches=2).name
    path, arguments = tmp_path / "draws" / f"{name}.json", [name, "--out", str(tmp_path), "--draws"]
    assert main([*arguments, "systematic"]) == 0
    measured = []
    real = measure
    monkeypatch.setattr("atslib.experiments.draws.measure", lambda *args: measured.append(args[2]) or real(*args))
    assert main([*arguments, "des_raj,systematic"]) == 0
    record = json.loads(path.read_text())
    assert measured == [["des_raj"]] and set(record["errors"]) == {"systematic", "des_raj"}
    assert (record["run"], record["n"], record["n_patches"], record["looks"]) == (name, 4, 2, 2)
    assert [len(errors) for errors in record["errors"].values()] == [2, 2]
    assert "sessions" not in record

    # Made on another day: what is there is kept, and each says with what it was measured.
    later = dict(torch="later")
    monkeypatch.setattr("atslib.experiments.draws.software", lambda: later)
    assert main([*arguments, "with_replacement"]) == 0
    grown = json.loads(path.read_text())
    assert {name: grown["errors"][name] for name in record["errors"]} == record["errors"]
    assert grown["software"] == record["software"]
    assert [(session["software"], session["parts"]) for session in grown["sessions"]] == [
        (record["software"], ["systematic", "des_raj"]),
        (later, ["with_replacement"]),
    ]

    # Of other looks or weights nothing is measured, and nothing overwritten.
    capsys.readouterr()
    before = path.read_bytes()
    assert main([*arguments, "systematic", "--looks", "1"]) == 2
    assert f"{path} was measured with looks 2, now 1: move it away" in capsys.readouterr().err
    weights = tmp_path / "weights" / f"{name}.safetensors"
    own = weights.read_bytes()
    save_file({key: tensor + 1 for key, tensor in load_file(weights).items()}, weights)
    assert main([*arguments, "murthy"]) == 2
    assert "was measured with weights '" in capsys.readouterr().err
    weights.write_bytes(own)
    assert path.read_bytes() == before and len(measured) == 2

    for wrong, message in (
        (["--draws", "dice"], "unknown estimator 'dice'"),
        (["--looks", "0"], "--looks 0: expected at least 1"),
    ):
        assert main([name, "--out", str(tmp_path), *wrong]) == 2
        assert message in capsys.readouterr().err
    nested = Run("megapixel_mnist", "nested", n_patches=2).name
    assert main([nested, "--out", str(tmp_path)]) == 2
    assert "expected a run with method ats" in capsys.readouterr().err
    (tmp_path / "weights" / f"{name}.safetensors").unlink()
    assert main([*arguments, "murthy"]) == 2
    assert "no weights of this run" in capsys.readouterr().err
