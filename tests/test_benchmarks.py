"""The benchmarks still run: each measures at the smallest size, so that a name that was changed is found here."""

import argparse
import importlib.util
import json
import math
import re
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from atslib.estimators import ESTIMATORS

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


def benchmark(name):
    """The script as a module; not by its name alone, which others have."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # workers look for its classes there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py")))
def name(request):
    return request.param


@pytest.fixture
def same_threads():
    """Benchmarks set the number of threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def positive(*numbers):
    return all(math.isfinite(number) and number > 0 for number in numbers)


def test_each_benchmark_says_what_it_does(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as stopped:
        benchmark(name).main()
    assert stopped.value.code == 0 and f"usage: {name}.py" in capsys.readouterr().out


def test_each_benchmark_is_measured_here(name):
    """A new one needs a test of its own."""
    assert f'benchmark("{name}")' in Path(__file__).read_text(encoding="utf-8")


def test_estimators(capsys):
    module = benchmark("estimators")
    unbiased = {name for name, estimator in ESTIMATORS.items() if not estimator.biased}
    assert set(module.LINES) == unbiased | {f"{name} (raster)" for name in ("systematic", "stratified", "pps")}
    log_attention = torch.zeros(2, 8, 8).flatten(1).log_softmax(1).view(2, 8, 8)
    for estimator in module.LINES.values():
        assert positive(module.seconds(estimator, log_attention, 3, torch.Generator().manual_seed(0)))
    module.measure("cpu", 3, argparse.Namespace(batch=2, map=8, repeats=2, peak=2.0))
    title, head, *rows = capsys.readouterr().out.strip().splitlines()
    assert title == "cpu, B = 2, K = 64, n = 3, logits of standard deviation 2"
    assert head.split() == ["estimator", "ms", "quartiles", "ratio"]
    told = {row[:22].strip(): [float(number) for number in re.findall(r"[\d.]+", row[22:])] for row in rows}
    assert list(told) == list(module.LINES)
    for median, low, high, ratio in told.values():
        assert 0 <= low <= median <= high and positive(ratio)
    assert told["with_replacement"][-1] == 1


def test_equal_patches():
    module = benchmark("equal_patches")
    models = dict(module.models(ROOT / "results", (0, 15)))
    assert list(models) == ["epoch 0", "epoch 15", "uniform"]
    first, last, uniform = models.values()
    weights = [model.attention.state_dict() for model in (first, last)]
    assert any(not torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert not list(uniform.attention.parameters()) and uniform.features is last.features
    images = torch.zeros(2, 1, 500, 500, dtype=torch.uint8)
    images[:, :, 200:228, 300:328] = 255
    images[1, :, 100:128, 50:78] = 128
    for model in models.values():
        found = module.distinct(model, images, 6)
        # A mean over the images; of the whole batch they share what is black.
        assert 1 <= found["patches"] <= found["locations"] <= 6 and 0.5 <= found["patches_in_batch"] <= found["patches"]
    random = torch.randint(0, 256, images.shape, dtype=torch.uint8)
    assert module.distinct(uniform, random, 6) == dict(locations=6, patches=6, patches_in_batch=6)
    seen = []
    first.features.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    row = module.measure(first, torch.zeros_like(images), 6, repetitions=1)
    assert list(row) == ["shared", "each"] and min(seen) < max(seen) == 2 * 6  # sharing saves something
    for measured in row.values():
        assert list(measured) == ["ms", "ms_low", "ms_high", "peak_mb"] and positive(*measured.values())


@pytest.mark.parametrize("which", ["Megapixel MNIST, ATS-10", "colon cancer, ATS-10", "speed limits, ATS-5"])
def test_precision(which):
    module = benchmark("precision")
    assert len(module.IMAGES) == 3
    build, shape = module.IMAGES[which]
    found = module.measure(build, (shape[0], 200, 200), CPU, 1, 1)
    assert list(found) == ["float32", "bfloat16"] and positive(*found.values())
    seen = []
    module.in_bfloat16(lambda: seen.append(torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype), CPU)()
    assert seen == [torch.bfloat16]


COST_BY_SIZE = benchmark("cost_by_size")


def test_cost_by_size_has_every_method():
    found = [tuple(point.values()) for point in COST_BY_SIZE.points()]
    expected = [("side", method, side, 10, 50) for method, side in product(COST_BY_SIZE.METHODS, COST_BY_SIZE.SIDES)]
    expected += [("n", method, 1500, n, 50) for method, n in product(("ATS, view fixed", "uniform"), COST_BY_SIZE.COUNTS)]
    expected += [("patch", "ATS, view fixed", 1500, 10, patch) for patch in COST_BY_SIZE.PATCHES]
    assert found == expected and set(COST_BY_SIZE.GROWING) < set(COST_BY_SIZE.METHODS)


@pytest.mark.parametrize("method", COST_BY_SIZE.METHODS)
def test_cost_by_size(method, capsys):
    point = dict(series="n", method=method, side=180, n=2, patch=90)
    memory = COST_BY_SIZE.measured("memory", CPU, 6000, 30, COST_BY_SIZE.show, [point])
    (row,) = memory["points"]
    assert (row.items() >= point.items()) and positive(row["peak_mb"]) and row["image_mb"] == 0.0324
    assert row["counted"] == (method in COST_BY_SIZE.GROWING or "chunks" in method)
    assert {"hardware", "software", "wall_seconds", "limit_mb", "limit_s", "points"} == memory.keys()
    row = point | COST_BY_SIZE.measure_time(point, CPU, enough=0.0)
    COST_BY_SIZE.show(row)
    for part in (row, row["forward"]):
        assert positive(part["ms"], part["cpu_ms"]) and part["ms_low"] <= part["ms"] <= part["ms_high"]
        assert part["repetitions"] == 1
    first, second = capsys.readouterr().out.strip().splitlines()
    assert first.startswith(method) and "0.0 of it the image" in first and second.endswith("1 times")


def test_cost_by_size_leaves_out_what_takes_too_much(monkeypatch, capsys):
    """A step that is foretold to take more than the second that is allowed, or counted to take more memory."""
    measured = []

    def measure_time(point, device):
        measured.append((point["method"], point["side"]))
        return dict(ms=500.0, cpu_ms=point["side"] ** 2 / 1e2, repetitions=1)

    monkeypatch.setattr(COST_BY_SIZE, "measure_time", measure_time)
    monkeypatch.setattr(COST_BY_SIZE, "measure_memory", lambda point, device: dict(peak_mb=point["side"]))
    todo = [
        dict(series="side", method=method, side=side, n=10, patch=50)
        for method in ("uniform", "CNN 1")
        for side in (100, 300, 400)
    ]
    rows = COST_BY_SIZE.sweep("time", todo, CPU, limit_mb=350, limit_s=1, report=COST_BY_SIZE.show)
    assert [row.get("skipped") for row in rows] == [None, None, "time", None, None, "memory"]
    assert measured == [("uniform", 100), ("uniform", 300), ("CNN 1", 100), ("CNN 1", 300)]
    said = capsys.readouterr().out.splitlines()
    assert said[2].endswith("left out: too much time") and said[5].endswith("left out: too much memory")


@pytest.mark.parametrize("how", ["returned", "kept"])
def test_cost_by_size_trains_with_and_without_freed_memory(how, same_threads, capsys, monkeypatch):
    asked = []  # in place of what would change memory for all that runs after this
    monkeypatch.setattr(COST_BY_SIZE, "keep_freed_memory", lambda: not asked.append(True))
    COST_BY_SIZE.train_once(how, 1, 1)
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["kept", "ms_per_image", "cpu_ms_per_image"] and told["kept"] == bool(asked) == (how == "kept")
    assert positive(told["ms_per_image"], told["cpu_ms_per_image"])


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize(
    "table, few", [("colon_cancer", ["ATS-10", "U-10", "CNN 1/2"]), ("speed_limits", ["ATS-5", "U-5", "CNN .3"])]
)
def test_cost(table, few, variant, capsys):
    """All models are built; of each kind but Deep MIL the quickest is measured, on a quarter of the image's sides."""
    module = benchmark("cost")
    build, targets = module.TABLES[table]
    (height, width), models = build(variant)
    assert len(models) in (8, 9) and {method for method, _, _ in targets} <= models.keys()
    rows = module.measure(lambda _: ((height // 4, width // 4), {method: models[method] for method in few}), variant, CPU, 0, 1)
    assert [row["method"] for row in rows] == few
    assert all(positive(row["ms"], row["ms_low"], row["ms_high"], row["peak_mb"]) for row in rows)
    module.show_table(table, rows, [(few[-1], "ms", 0.0), (few[0], "peak_mb", 9.0)])
    said = capsys.readouterr().out
    assert said.count("expected: reached") == said.count("expected: NOT reached") == 1


def test_cost_of_larger_images(capsys):
    module = benchmark("cost")
    kept, (grown,) = module.growth(CPU, False, sides=(200, 400)), module.growth(CPU, True, sides=(400,))
    assert [(row["side"], row["scale"], row["image_mb"]) for row in kept] == [(200, 0.9, 0.04), (400, 0.45, 0.16)]
    assert grown["scale"] == 0.12 and 0 < grown["beyond_image_mb"] < kept[1]["beyond_image_mb"]
    assert kept[1]["beyond_image_mb"] == pytest.approx(kept[0]["beyond_image_mb"], rel=0.05)
    module.show_growth("view kept", kept)
    assert len(capsys.readouterr().out.strip().splitlines()) == 4


def test_data_rate():
    module = benchmark("data")
    images = TensorDataset(torch.zeros(20, 1, 200, 160, dtype=torch.uint8), torch.arange(20))
    assert positive(module.rate(images, at_most=16))
    view, patches, label = module.Prepared(images, 0.25, 30, 4)[7]
    assert (view.shape, patches.shape, label) == ((1, 50, 40), (4, 1, 30, 30), 7)
    assert positive(module.rate(module.Prepared(images, 0.25, 30), at_most=8))
    assert module.memory() > 1
