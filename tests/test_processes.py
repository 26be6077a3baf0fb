"""Two processes that train one model together reach what one process reaches."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_training import SETTINGS, Noisy, data, model, weights, without_times
from torch import nn

from atslib.estimators import get_estimator
from atslib.experiments import load_records, megapixel_mnist
from atslib.experiments.__main__ import main
from atslib.models import AttentionSampling
from atslib.nested import NestedSampling
from atslib.networks import Classifier, LeNetFeatures, MegapixelMNISTAttention
from atslib.processes import DrawForAll, Processes, processes
from atslib.training import Settings, train

# Batches of 5 of 16 images: shares of three and two, and a last batch with an image for one process only.
UNEVEN = replace(SETTINGS, epochs=2, batch_size=5, class_weights=tuple(0.5 + 0.1 * digit for digit in range(10)))
IN_PARTS = replace(UNEVEN, epochs=1, micro_batch_size=2)  # one process sees two parts of a batch, the other one
TINY = replace(
    megapixel_mnist.PROFILES["smoke"], size=160, n_noise=2, n_train=10, n_test=5, n_watch=5, training=Settings(1, batch_size=4)
)


def miss(logits, labels):
    """A loss of the caller's: the distance from one of the probability of the class."""
    return 1 - logits.softmax(1)[torch.arange(len(labels)), labels]


TOGETHER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
from test_processes import IN_PARTS, TINY, UNEVEN, Noisy, data, miss, model, weights
from atslib.experiments import megapixel_mnist
from atslib.experiments.__main__ import main
from atslib.processes import processes
from atslib.training import StopTraining, evaluate, train

out = Path({out!r})
group = processes("cpu")
options = dict(checkpoint=out / "run.pt", augment=Noisy(), progress=False, processes=group)
stopped = train(model(), data(n=16), data("test", 7), UNEVEN, max_seconds=0, **options)
trained = model(seed=99)  # its weights come from the checkpoint
curve = train(trained, data(n=16), data("test", 7), UNEVEN, **options)
own = evaluate(trained, data("test", 7), 3, loss=miss, error=miss, progress=False, processes=group)


def enough(entry):
    raise StopTraining


first_only = enough if group.rank == 0 else None
ended = train(model(), data(n=16), None, UNEVEN, on_epoch=first_only, progress=False, processes=group)
in_parts = model()
train(in_parts, data(n=16), None, IN_PARTS, progress=False, processes=group)
result = dict(stopped=stopped, curve=curve, weights=weights(trained), world=group.world, own=own, ended=len(ended))
result.update(in_parts=weights(in_parts))
torch.save(result, out / f"result{{group.rank}}.pt")
megapixel_mnist.PROFILES["smoke"] = TINY
sys.exit(main(["megapixel_mnist", "--out", str(out), "--device", "cpu"]))
"""


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two processes that torchrun started leave behind."""
    pytest.importorskip("lightning_fabric", reason="several processes need Lightning Fabric")
    out = tmp_path_factory.mktemp("together")
    script = out / "together.py"
    script.write_text(TOGETHER.format(tests=str(Path(__file__).parent), out=str(out)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert outcome.returncode == 0, outcome.stderr
    return out


def test_two_processes_train_as_one(together):
    alone = model()
    before = weights(alone).clone()
    curve = train(alone, data(n=16), data("test", 7), UNEVEN, augment=Noisy(), progress=False)
    felt = has_gradient(alone)
    results = [torch.load(together / f"result{rank}.pt", weights_only=True) for rank in (0, 1)]
    for result in results:
        assert result["world"] == 2 and result["stopped"] == []
        apart, moved = (result["weights"] - weights(alone))[felt], (weights(alone) - before)[felt]
        assert apart.norm() < 1e-4 * moved.norm()
        for ours, theirs in zip(without_times(curve), without_times(result["curve"]), strict=True):
            assert theirs == pytest.approx(ours, rel=1e-4)
    assert torch.equal(results[0]["weights"], results[1]["weights"])


def has_gradient(trained):
    """All weights but the last bias of the attention.

    It moves all logits alike, which a softmax does not see: its gradient is rounding and nothing else, and Adam, which divides by
    the gradient's size, makes full steps of it.
    """
    parts = [torch.full((p.numel(),), name != "attention.layers.2.bias") for name, p in trained.named_parameters()]
    return torch.cat(parts)


def test_two_processes_see_their_shares_in_parts(together):
    alone = model()
    before = weights(alone).clone()
    train(alone, data(n=16), None, replace(IN_PARTS, micro_batch_size=None), progress=False)
    felt = has_gradient(alone)
    for rank in (0, 1):
        found = torch.load(together / f"result{rank}.pt", weights_only=True)["in_parts"]
        assert (found - weights(alone))[felt].norm() < 1e-4 * (weights(alone) - before)[felt].norm()


def test_two_processes_stop_where_the_first_says_so(together):
    assert [torch.load(together / f"result{rank}.pt", weights_only=True)["ended"] for rank in (0, 1)] == [1, 1]


def test_two_processes_measure_a_loss_of_the_callers_on_all_images(together):
    measured = [torch.load(together / f"result{rank}.pt", weights_only=True)["own"] for rank in (0, 1)]
    for own in measured:
        assert own["labels"].tolist() == [digit for _, digit in data("test", 7)] and own["labels"].dtype == torch.int64
        assert own["loss"] == own["error"] == pytest.approx(miss(own["logits"], own["labels"]).double().mean().item())
    assert torch.equal(measured[0]["logits"], measured[1]["logits"])


def test_two_processes_run_an_experiment_and_write_one_record(together, tmp_path, monkeypatch):
    monkeypatch.setitem(megapixel_mnist.PROFILES, "smoke", TINY)
    assert main(["megapixel_mnist", "--out", str(tmp_path), "--device", "cpu"]) == 0
    alone, two = (load_records(out / "runs").iloc[0] for out in (tmp_path, together))
    assert two["hardware.processes"] == 2 and "hardware.processes" not in alone
    # The model runs in bfloat16, so what differs in the last bit may differ in the third digit.
    assert two["final.train_loss"] == pytest.approx(alone["final.train_loss"], rel=0.02)
    assert sorted(path.name for path in (together / "runs").iterdir()) == [Path(alone["file"]).name]


@pytest.mark.parametrize("estimator", ["with_replacement", "des_raj", "systematic", "pps"])
def test_the_draw_does_not_depend_on_the_share(estimator):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (5, 1, 120, 120), dtype=torch.uint8)
    whole = model()
    whole.estimator = get_estimator(estimator)
    draws = torch.Generator()
    everything = whole(images, generator=draws.manual_seed(1)).index
    for rank in (0, 1):
        rows = list(range(rank, 5, 2))
        with DrawForAll(draws.manual_seed(1), rows, 5):
            assert torch.equal(whole(images[rows], generator=draws).index, everything[rows])


def test_a_draw_that_cannot_be_shared_is_refused():
    generator = torch.Generator()
    with DrawForAll(generator, [0, 2], 3):
        assert torch.rand(4).shape == (4,)  # from another generator: nothing of ours
        with pytest.raises(ValueError, match=r"randn of 2, 2 draws for 2 of 3"):
            torch.randn(2, 2, generator=generator, out=torch.empty(0))
        with pytest.raises(ValueError, match=r"uniform_ of \(\) draws for 2 of 3"):
            torch.empty(()).uniform_(generator=generator)
        with pytest.raises(ValueError, match=r"randint of 0, 5, \(2,\) draws for 2 of 3 .* torch\.rand, torch\.randn"):
            torch.randint(0, 5, (2,), generator=generator)
        with pytest.raises(ValueError, match="one row an image or equally many"):
            torch.rand(3, generator=generator)


@pytest.mark.parametrize("estimator", ["des_raj", "systematic"])
def test_the_draw_in_regions_does_not_depend_on_the_share(estimator):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (5, 1, 200, 200), dtype=torch.uint8)
    within = AttentionSampling(MegapixelMNISTAttention(), LeNetFeatures(), nn.Identity(), 50, 2, 0.12, estimator)
    nested = NestedSampling(MegapixelMNISTAttention(), within, Classifier(32, 10), 100, 3, 0.12, estimator)
    draws = torch.Generator()
    whole = nested(images, generator=draws.manual_seed(1))
    for rank in (0, 1):
        rows = list(range(rank, 5, 2))
        with DrawForAll(draws.manual_seed(1), rows, 5):
            share = nested(images[rows], generator=draws)
        assert torch.equal(share.index, whole.index[rows])
        assert torch.equal(share.within.index, whole.within.index.view(5, 3, 2)[rows].flatten(0, 1))


def test_one_process_needs_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    group = processes("cpu")
    assert type(group) is Processes and group.share(3) == [0, 1, 2]


def test_several_processes_without_fabric_say_what_to_install(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for module in ("lightning_fabric", "lightning", "lightning.fabric"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install lightning-fabric"):
        processes("cpu")


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="4 processes for 2 GPUs: each takes one of its own"):
        processes("cuda")


@pytest.mark.parametrize("rows", [[0, 2], [1, 3], [0, 3], [2], [3, 1], [0, 1, 3]])
def test_a_share_is_any_rows(rows):
    generator = torch.Generator().manual_seed(0)
    whole = torch.rand(4, 3, generator=generator)
    with DrawForAll(generator.manual_seed(0), rows, 4):
        assert torch.equal(torch.rand(len(rows), 3, generator=generator), whole[rows])


@pytest.mark.parametrize("rows", [[0, 2], [1, 3]])
def test_a_share_draws_alike_where_some_attention_is_peaked(rows):
    """One image of the batch has all its attention at one place, which makes the sampler draw a second time."""
    logits = torch.randn(4, 50)
    logits[2, 7] += 100
    log_attention = logits.log_softmax(1)
    generator = torch.Generator().manual_seed(0)
    whole = get_estimator("des_raj").sample(log_attention, 3, generator=generator)
    with DrawForAll(generator.manual_seed(0), rows, 4):
        share = get_estimator("des_raj").sample(log_attention[rows], 3, generator=generator)
    assert torch.equal(share, whole[rows])
