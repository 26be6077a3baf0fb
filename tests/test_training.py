"""Training: it learns, it resumes to the same numbers, it refuses what does not fit; and the command that runs it."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from atslib.data import MegapixelMNIST
from atslib.estimators import entropy
from atslib.experiments import megapixel_mnist
from atslib.experiments.__main__ import main
from atslib.models import AttentionSampling, Output
from atslib.networks import AttentionNetwork, Classifier, LeNetFeatures
from atslib.training import Settings, attention_loss, evaluate, train


def model(seed=0):
    torch.manual_seed(seed)
    return AttentionSampling(
        AttentionNetwork(nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 1, 3, padding=1)),
        LeNetFeatures(width=4),
        Classifier(4, 10, scale=16),
        patch_size=28,
        n_patches=3,
    )


def data(split="train", n=24):
    return MegapixelMNIST(split, n, size=120, n_digits=2, n_same=2, n_noise=1)


SETTINGS = Settings(epochs=3, batch_size=8, schedule="cosine", bfloat16=False)


def weights(trained):
    return torch.cat([p.detach().flatten() for p in trained.parameters()])


def without_times(curve):
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in curve]


def test_loss_is_eq_21():
    logits, labels = torch.randn(4, 10), torch.tensor([1, 2, 3, 4])
    log_attention = torch.randn(4, 30).log_softmax(1).view(4, 5, 6)
    out = Output(logits=logits, log_attention=log_attention, index=None, pooled=logits)
    loss, cross_entropy = attention_loss(out, labels, entropy_weight=0.3)
    by_hand = torch.stack([-logits.log_softmax(1)[i, label] for i, label in enumerate(labels)]).mean()
    torch.testing.assert_close(cross_entropy, by_hand)
    torch.testing.assert_close(loss, by_hand - 0.3 * entropy(log_attention).mean())


def test_interrupted_and_resumed_is_the_same_run(tmp_path):
    whole = model()
    curve = train(whole, data(), data("test", 8), SETTINGS, progress=False)
    assert [entry["epoch"] for entry in curve] == [1, 2, 3]

    path = tmp_path / "run.pt"
    first = model()
    part = train(first, data(), data("test", 8), SETTINGS, checkpoint=path, max_seconds=0, progress=False)
    assert len(part) == 1 and not list(tmp_path.glob("*.part"))
    second = model(seed=99)  # its weights come from the checkpoint
    resumed = train(second, data(), data("test", 8), SETTINGS, checkpoint=path, progress=False)
    assert without_times(resumed) == without_times(curve)
    assert torch.equal(weights(second), weights(whole))


def test_another_seed_is_another_run():
    one, other = (train(model(), data(), None, replace(SETTINGS, epochs=1, seed=s), progress=False) for s in (0, 1))
    assert one[0]["train_loss"] != other[0]["train_loss"]


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    train(model(), data(), None, replace(SETTINGS, epochs=1), checkpoint=path, progress=False)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"other settings \(batch_size was 8, is 4; learning_rate was 0.001, is 0.1\)"):
        train(
            model(), data(), None, replace(SETTINGS, epochs=1, batch_size=4, learning_rate=0.1), checkpoint=path, progress=False
        )
    assert path.read_bytes() == before


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_checkpoint(tmp_path):
    path = tmp_path / "run.pt"
    broken = model()
    train(broken, data(), None, SETTINGS, checkpoint=path, max_seconds=0, progress=False)
    before = path.read_bytes()

    def poison(module, inputs, output):
        return output * torch.nan

    broken.classifier.register_forward_hook(poison)
    with pytest.raises(FloatingPointError, match=r"loss is nan in epoch 2, step 0"):
        train(broken, data(), None, SETTINGS, checkpoint=path, progress=False)
    assert path.read_bytes() == before


def test_evaluate_counts_errors():
    class Constant(nn.Module):
        def forward(self, image, generator=None):
            logits = torch.zeros(len(image), 10)
            logits[:, 4] = 1
            return Output(logits=logits, log_attention=None, index=None, pooled=None)

    dataset = data("test", 40)
    result = evaluate(Constant(), dataset, batch_size=16, progress=False)
    fours = sum(dataset[i][1] == 4 for i in range(40))
    assert result["error"] == pytest.approx(1 - fours / 40)
    assert result["n"] == 40 and (result["predicted"] == 4).all()
    assert result["stderr"] == pytest.approx((result["error"] * (1 - result["error"]) / 40) ** 0.5)


@pytest.mark.parametrize("options", [{"schedule": "linear"}, {"epochs": 0}, {"batch_size": 0}])
def test_bad_settings(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Settings(**options)


# ---------------------------------------------------------------------------------------------------------------------
# python -m atslib.experiments


@pytest.fixture
def tiny(monkeypatch):
    profile = replace(
        megapixel_mnist.PROFILES["smoke"], n_train=16, n_test=8, n_watch=4, training=Settings(epochs=2, batch_size=8)
    )
    monkeypatch.setitem(megapixel_mnist.PROFILES, "smoke", profile)


def test_a_run_leaves_a_record_and_weights(tiny, tmp_path, capsys):
    assert main(["megapixel_mnist", "--out", str(tmp_path), "--device", "cpu", "--seed", "3"]) == 0
    (path,) = (tmp_path / "runs").iterdir()
    record = json.loads(path.read_text())
    assert path.name == "megapixel_mnist-ats-systematic-n10-seed3-smoke.json"
    expected = "experiment method estimator n_patches seed profile dataset hardware software settings curve final cost"
    assert list(record) == expected.split()
    assert {"name", "digest", "n_train", "n_test", "image_size"} <= set(record["dataset"])
    assert record["hardware"]["threads"] == torch.get_num_threads()
    assert record["software"]["torch"] == torch.__version__
    assert record["curve"]["epoch"] == [1, 2] and len(record["curve"]["train_loss"]) == 2
    assert 0 <= record["final"]["test_error"] <= 1
    assert set(record["final"]["by_n_patches"]) == {"5", "10", "25", "50"}

    loaded = megapixel_mnist.build_model(profile="smoke")
    loaded.load_state_dict(load_file(next((tmp_path / "weights").iterdir())))
    again = evaluate(loaded, megapixel_mnist.build_data("smoke")[1], 8, progress=False, n_patches=10)
    assert again["error"] == record["final"]["test_error"]


def test_a_run_stops_in_time_and_resumes(tiny, tmp_path, capsys):
    arguments = ["megapixel_mnist", "--out", str(tmp_path), "--device", "cpu"]
    assert main([*arguments, "--max-seconds", "0"]) == 3
    assert not (tmp_path / "runs").exists()
    assert main(arguments) == 2  # a run is there: it neither starts anew nor goes on without being told
    assert "--resume" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_unknown_arguments_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["imagenet"])
    assert "megapixel_mnist" in capsys.readouterr().err
