"""The colon cancer and road sets: the real ones where they are, and small ones made here with everything that goes wrong."""

import copy
import hashlib
import importlib.util
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features
from scipy.io import savemat
from torch.utils.data import DataLoader, Subset, TensorDataset

from atslib.data import GTSDB, ColonCancer, SignWindows, SwedishTrafficSigns, colon_cancer, speed_limits
from atslib.data.__main__ import main as command
from atslib.data.catalogue import SETS
from atslib.data.colon_cancer import KINDS, RUNS
from atslib.data.files import DataError, ImageFiles, data_root, files_digest, image_size, read_image
from atslib.data.getting import GETTERS
from atslib.data.mnist import full_mnist
from atslib.data.padding import largest_size
from atslib.data.pyramids import ImagePyramid
from atslib.data.speed_limits import Sign, paper_label, read_gtsdb, read_swedish
from atslib.experiments import colon_cancer as colon_cancer_experiment
from atslib.experiments import speed_limits as experiment
from atslib.experiments.records import array_digest, read_record
from atslib.loading import InMemory, LabelledImages, Loader, collate, known_labels
from atslib.networks import SaliencyPrior
from atslib.patches import downsample, extract_patches

SCRIPTS = Path(__file__).resolve().parents[1] / "data_scripts"
RUN_RECORDS = SCRIPTS.parent / "results" / "runs"


def real(folder):
    """A decorator: the test needs this folder of the data root."""
    root = os.environ.get("ATSLIB_DATA")
    reason = "ATSLIB_DATA is not set" if not root else f"no {folder} in ATSLIB_DATA"
    there = bool(root) and (Path(root) / folder).is_dir()
    return lambda test: pytest.mark.data(pytest.mark.skipif(not there, reason=f"{reason}: the real data are not here")(test))


# ---------------------------------------------------------------------------------------------------------------------
# Real data


@real("mnist")
def test_mnist():
    for split, count in (("train", 60_000), ("test", 10_000)):
        images, labels = full_mnist(split)
        assert images.shape == (count, 28, 28) and labels.shape == (count,)
        assert images.dtype == labels.dtype == np.uint8
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@real("colon_cancer")
def test_colon_cancer_counts():
    dataset = ColonCancer()
    assert len(dataset) == 100 and dataset.class_counts().tolist() == [49, 51]
    counts = {kind: sum(len(dataset.nuclei(i)[kind]) for i in range(100)) for kind in KINDS}
    assert counts == {"epithelial": 7722, "inflammatory": 6971, "fibroblast": 5712, "others": 2039}
    assert sum(counts.values()) == 22_444
    assert sum(len(dataset.detected(i)) for i in range(100)) == 29_756
    positives = [dataset.ids[i] for i in range(100) if dataset.labels[i]]
    assert positives[:6] == [5, 6, 7, 8, 9, 10] and set(range(46, 56)) <= set(positives)
    image, label = dataset[0]
    assert image.shape == (3, 500, 500) and image.dtype == torch.uint8 and label == 0
    assert dataset.digest() == "6232055c1268349f"


@real("colon_cancer")
def test_colon_cancer_is_whole():
    assert SETS["colon_cancer"].state(thorough=True) == "complete"


@real("colon_cancer")
@pytest.mark.parametrize("scheme", ["stratified", "runs"])
def test_colon_cancer_splits(scheme):
    tested, everything = [], ColonCancer().labels
    for fold in range(5):
        train, test = (ColonCancer(split=split, fold=fold, scheme=scheme) for split in ("train", "test"))
        assert sorted(train.ids + test.ids) == list(range(1, 101))
        assert 18 <= len(test) <= 22 and 9 <= test.class_counts()[1] <= 11
        assert train.labels.tolist() == [everything[n - 1] for n in train.ids]
        if scheme == "runs":
            run = np.searchsorted(RUNS, np.arange(1, 101), side="right")
            assert not {run[n - 1] for n in train.ids} & {run[n - 1] for n in test.ids}
        tested += test.ids
    assert sorted(tested) == list(range(1, 101))
    assert ColonCancer(split="test", scheme=scheme, seed=1).ids != ColonCancer(split="test", scheme=scheme).ids


POSITIVE = "5-10 13-14 17-22 30-32 36 38 40-43 46-55 60-61 65-72 77-80 85-88"  # the images with epithelial nuclei
FOLDS = {
    "stratified": """
        1 4 8 15 21 23 30 36 43 50 54 61 67 76 79 80 83 89 91 98
        6 9 14 18 20 24 28 34 37 45 47 52 58 66 70 72 93 94 96 100
        2 3 16 25 33 38 40 42 53 64 65 69 71 73 75 81 85 86 87 90
        5 7 11 12 19 27 29 35 51 55 56 60 63 68 77 78 84 88 95 97
        10 13 17 22 26 31 32 39 41 44 46 48 49 57 59 62 74 82 92 99
    """,
    "runs": """
        13-14 23-26 29-33 60-61 65-68 81-84
        15-16 50-55 73-76 85-88 93-96
        1-2 5-6 9-12 40-41 44-45 69-72 89-92
        17-22 27-28 34-39 48-49 97-100
        3-4 7-8 42-43 46-47 56-59 62-64 77-80
    """,
}


def ids(text):
    """Numbers, of which neighbours are written as 5-10."""
    ends = [(part.partition("-")[0], part.rpartition("-")[2]) for part in text.split()]
    return [number for first, last in ends for number in range(int(first), int(last) + 1)]


@pytest.mark.parametrize("scheme", FOLDS)
def test_colon_cancer_folds_are_those_that_were_trained_on(scheme):
    """Drawn otherwise, the weights at hand would be tested on images that they were trained on."""
    labels = np.isin(np.arange(1, 101), ids(POSITIVE)).astype(np.int64)
    assert labels.sum() == 51
    tested = colon_cancer.folds(labels, scheme)
    found = [(np.flatnonzero(tested == fold) + 1).tolist() for fold in range(5)]
    assert found == [ids(row) for row in FOLDS[scheme].strip().splitlines()]


@real("colon_cancer")
def test_the_images_with_epithelial_nuclei():
    everything = ColonCancer()
    assert [number for number, label in zip(everything.ids, everything.labels, strict=True) if label] == ids(POSITIVE)


@real("colon_cancer")
@pytest.mark.parametrize("scheme", FOLDS)
@pytest.mark.parametrize("fold", range(5))
def test_colon_cancer_folds_are_those_of_the_records(scheme, fold):
    sizes = replace(colon_cancer_experiment.PROFILES["laptop"], scheme=scheme)
    now = colon_cancer_experiment.load_data(sizes, os.environ["ATSLIB_DATA"], fold).describe()
    told = [read_record(path)["dataset"] for path in RUN_RECORDS.glob(f"colon_cancer-*-seed{fold}-*.json")]
    told = [about for about in told if about["name"] == now["name"] == f"CRCHistoPhenotypes, {scheme} fold {fold}"]
    assert told and all(about == now for about in told)


GERMAN = {
    "train": {"none": 386, "20": 4, "30": 46, "50": 50, "60": 16, "70": 23, "80": 24, "100": 23, "120": 28},
    "test": {"none": 198, "20": 0, "30": 31, "50": 19, "60": 6, "70": 29, "80": 9, "100": 3, "120": 5},
}


@real("gtsdb")
@pytest.mark.parametrize("split", GERMAN)
def test_gtsdb_counts(split):
    everything = GTSDB(split=split, limits="all")
    assert dict(zip(everything.classes, everything.class_counts().tolist(), strict=True)) == GERMAN[split]
    paper = GTSDB(split=split)
    assert paper.classes == ("none", "50", "70", "80")
    assert paper.class_counts().tolist() == [GERMAN[split][name] for name in paper.classes]
    weights = paper.class_weights()
    assert torch.allclose((weights * paper.class_counts()), torch.full((4,), len(paper) / 4))
    image, _ = paper[0]
    assert image.shape == (3, 800, 1360) and image.dtype == torch.uint8


@real("gtsdb")
@pytest.mark.parametrize(
    "profile, part, count, digest",
    [
        ("windows", "train", 483, "490fc29578758477"),
        ("windows", "test", 255, "f74a4de74ab92fea"),
        ("find", "train", 802, "b52403374fadf136"),
        ("find", "test", 398, "a05b24f98332cd8d"),
    ],
)
def test_gtsdb_windows_are_those_of_the_records(profile, part, count, digest):
    windows = getattr(experiment.load_data(profile, os.environ["ATSLIB_DATA"]), part)
    assert len(windows) == count and windows.size == (480, 640)
    assert hashlib.sha256(str(windows.corners).encode()).hexdigest()[:16] == digest


@real("gtsdb")
def test_gtsdb_boxes():
    sets = [GTSDB(split=split, limits="all") for split in GERMAN]
    signs = [dataset.signs(i) for dataset in sets for i in range(len(dataset))]
    assert len(signs) == 900 and sum(map(len, signs)) == 1213 and sum(map(bool, signs)) == 741
    widths = [box[2] - box[0] for dataset in sets for i in range(len(dataset)) for box in dataset.boxes(i)]
    assert np.median(widths) == 36 and np.percentile(widths, [10, 90]).round().tolist() == [22, 64]
    ended = [
        any(sign.name == str(speed_limits.END_OF_80) for sign in dataset.signs(i))
        for dataset in sets
        for i in range(len(dataset))
        if dataset.labels[i] == 0
    ]
    assert sum(ended) == 10
    for dataset in sets:
        for i in range(len(dataset)):
            assert bool(dataset.boxes(i)) == bool(dataset.labels[i])
            assert all(0 <= x < 1360 for box in dataset.boxes(i) for x in box[::2])
            assert all(0 <= y < 800 for box in dataset.boxes(i) for y in box[1::2])


@real("gtsdb")
@pytest.mark.slow
def test_gtsdb_is_whole():
    assert SETS["gtsdb"].state(thorough=True) == "complete"


@real("gtsdb")
def test_workers_decode(tmp_path):
    dataset = torch.utils.data.Subset(GTSDB(split="test"), range(4))
    alone = list(DataLoader(dataset, batch_size=2))
    together = list(DataLoader(dataset, batch_size=2, num_workers=2))
    assert all(torch.equal(a, b) for one, other in zip(alone, together, strict=True) for a, b in zip(one, other, strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# Colon cancer, made here


@pytest.fixture
def colon(tmp_path):
    """A hundred small images in the official layout; the odd ones are positive, one nucleus each."""
    folder = tmp_path / "colon_cancer" / "CRCHistoPhenotypes_2016_04_28"
    mat = {}
    for count in (0, 1):
        savemat(tmp_path / f"{count}.mat", {"detection": np.full((count, 2), 3.5)})
        mat[count] = (tmp_path / f"{count}.mat").read_bytes()
        (tmp_path / f"{count}.mat").unlink()
    for n in range(1, 101):
        for top in ("Classification", "Detection"):
            (folder / top / f"img{n}").mkdir(parents=True)
        Image.new("RGB", (16, 16), (n, 0, 0)).save(folder / "Classification" / f"img{n}" / f"img{n}.bmp")
        for kind in KINDS:
            points = mat[int(kind == "epithelial" and n % 2)]
            (folder / "Classification" / f"img{n}" / f"img{n}_{kind}.mat").write_bytes(points)
        (folder / "Detection" / f"img{n}" / f"img{n}_detection.mat").write_bytes(mat[n % 2])
    return folder


def test_colon_cancer_reads_its_layout(colon, tmp_path):
    for root in (tmp_path, colon):
        dataset = ColonCancer(root)
        assert dataset.ids == tuple(range(1, 101)) and dataset.labels.tolist() == [1, 0] * 50
        image, label = dataset[41]
        assert image[0].unique().tolist() == [42] and label == 0
        assert dataset.nuclei(0)["epithelial"].tolist() == [[3.5, 3.5]]
        assert dataset.nuclei(0)["others"].shape == (0, 2)


def test_colon_cancer_truncated_image(colon):
    path = colon / "Classification" / "img3" / "img3.bmp"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(DataError, match=r"img3\.bmp: no readable image \(.*truncated.*get the data set again with `python"):
        ColonCancer(colon)[2]
    assert any("img3.bmp" in problem for problem in colon_cancer.problems(colon))


def test_colon_cancer_mat_without_key(colon):
    path = colon / "Classification" / "img4" / "img4_epithelial.mat"
    savemat(path, {"points": np.ones((1, 2))})
    with pytest.raises(DataError, match=r"img4_epithelial\.mat: no array 'detection' in it, only \['points'\]"):
        ColonCancer(colon)


def test_colon_cancer_damaged_mat(colon):
    path = colon / "Classification" / "img4" / "img4_epithelial.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(DataError, match=r"img4_epithelial\.mat: no readable MATLAB file"):
        ColonCancer(colon)
    savemat(path, {"detection": np.ones((2, 3))})
    with pytest.raises(DataError, match=r"img4_epithelial\.mat: 'detection' has shape \(2, 3\)"):
        ColonCancer(colon)


def test_colon_cancer_annotation_without_image(colon):
    (colon / "Classification" / "img7" / "img7.bmp").unlink()
    with pytest.raises(DataError, match=r"img7\.bmp: not there; its annotations are there \(1 of 100 images and 0 of 400"):
        ColonCancer(colon)


def test_colon_cancer_missing_images(colon):
    for n in (8, 9):
        shutil.rmtree(colon / "Classification" / f"img{n}")
    with pytest.raises(DataError, match=r"img8\.bmp: not there \(2 of 100 images and 8 of 400 annotations are missing"):
        ColonCancer(colon)


def test_a_damaged_set_is_not_replaced_by_drawn_images(colon, tmp_path, monkeypatch):
    from atslib.experiments import colon_cancer

    monkeypatch.setenv("ATSLIB_DATA", str(tmp_path))
    assert colon_cancer.load_data("laptop").suffix == ""
    (colon / "Classification" / "img7" / "img7.bmp").unlink()
    with pytest.raises(DataError, match=r"img7\.bmp: not there"):
        colon_cancer.load_data("laptop")
    shutil.rmtree(colon)
    assert colon_cancer.load_data("laptop").suffix == "-generated"


def test_colon_cancer_image_too_many(colon):
    (colon / "Classification" / "img101").mkdir()
    with pytest.raises(DataError, match="img101: not of this set"):
        ColonCancer(colon)


def test_wrong_folder(tmp_path):
    for dataset in (ColonCancer, GTSDB, SwedishTrafficSigns):
        with pytest.raises(DataError, match=r"the folder exists, but not .* in it; get the data with `python -m atslib"):
            dataset(tmp_path)
        with pytest.raises(DataError, match="nowhere: there is no such folder"):
            dataset(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"split": "val"}, "split='val': expected 'all', 'train' or 'test'"),
        ({"scheme": "loo"}, "scheme='loo': expected 'stratified' or 'runs'"),
        ({"fold": 5}, "fold=5: expected 0 … 4"),
    ],
)
def test_colon_cancer_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        ColonCancer("anywhere", **options)


def test_cache(colon, tmp_path):
    cache = tmp_path / "cache"
    first, again = ColonCancer(colon, cache=cache), ColonCancer(colon, cache=cache)
    image = first[10][0]
    assert len(list(cache.iterdir())) == 1
    path = colon / "Classification" / "img11" / "img11.bmp"
    kept = path.stat()
    path.write_bytes(bytes(kept.st_size))  # not read any more
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert torch.equal(again[10][0], image)
    os.utime(path)  # the file is another one now
    with pytest.raises(DataError, match="img11"):
        again[10]
    assert not list(cache.glob("*.part"))


# ---------------------------------------------------------------------------------------------------------------------
# Swedish traffic signs, made here


SWEDISH = """\
a01.jpg:
a02.jpg:MISC_SIGNS;
a03.jpg:VISIBLE, 1041.6, 513.2, 1000, 490, PROHIBITORY, 80_SIGN;
a04.jpg:VISIBLE, 100,50,80,30, PROHIBITORY, 50_SIGN;VISIBLE, 140, 90, 80, 30, PROHIBITORY, 70_SIGN;MISC_SIGNS;
a05.jpg:BLURRED, 100, 50, 80, 30, PROHIBITORY, 50_SIGN;
a06.jpg:BLURRED, 400, 350, 80, 30, PROHIBITORY, 80_SIGN;VISIBLE, 100, 50, 80, 30, PROHIBITORY, 70_SIGN;
a07.jpg:VISIBLE, 100, 50, 80, 30, MANDATORY, PASS_RIGHT_SIDE;
a08.jpg:VISIBLE, 100, 50, 80, 30, MANDATORY, PASS_RIGHT_SIDE;SIDE_ROAD, 100, 50, 80, 30, PROHIBITORY, 50_SIGN;
a09.jpg:OCCLUDED, 100, 50, 80, 30, PROHIBITORY, 70_SIGN;VISIBLE, 100, 50, 80, 30, PRIORITY, PRIORITY_ROAD;
a10.jpg:VISIBLE, 1021.5a, 513.2l, 1000a, 490.0w, PROHIBITORY, 50_SIGN;
a11.jpg:VISIBLE, 100, 50, 80, 30, PROHIBITORY, 110_SIGN;
a12.jpg:MISC_SIGNS;MISC_SIGNS;VISIBLE, 100, 50, 80, 30, PROHIBITORY, 80_SIGN
a13.jpg: VISIBLE , 100, 50, 80, 30, PROHIBITORY , 30_SIGN ; VISIBLE, 90, 50, 80, 30, PROHIBITORY, 80_SIGN ;

"""
EXPECTED = {
    "a01": "none",  # nothing after the colon
    "a02": "none",  # signs that were not annotated count for nothing
    "a03": "80",
    "a04": "70",  # both visible: the larger
    "a05": None,  # blurred
    "a06": "70",  # visible before larger
    "a07": None,  # another sign only
    "a08": None,  # at the side road
    "a09": None,  # occluded, although another sign is visible
    "a10": "50",  # stray characters after the numbers
    "a11": None,  # a limit that is not among the classes
    "a12": "80",
    "a13": "80",  # 30 is not among the classes, spaces do not matter
}


@pytest.fixture
def swedish(tmp_path):
    folder = tmp_path / "swedish_traffic_signs"
    for part, text in (("Set1", SWEDISH), ("Set2", SWEDISH.replace("a0", "b0").replace("a1", "b1"))):
        (folder / part).mkdir(parents=True)
        (folder / part / "annotations.txt").write_text(text)
        for name in re.findall(r"^(\w+\.jpg)", text, re.MULTILINE):
            Image.new("RGB", (1280, 960), "grey").save(folder / part / name)
    return folder


@pytest.mark.parametrize("name", EXPECTED)
def test_the_papers_rule(name, tmp_path):
    (tmp_path / "annotations.txt").write_text(SWEDISH)
    assert paper_label(read_swedish(tmp_path / "annotations.txt")[f"{name}.jpg"]) == EXPECTED[name]


def test_swedish_boxes(tmp_path):
    (tmp_path / "annotations.txt").write_text(SWEDISH)
    signs = read_swedish(tmp_path / "annotations.txt")
    assert signs["a03.jpg"] == [Sign("80_SIGN", (1000.0, 490.0, 1041.6, 513.2), "VISIBLE", "80")]
    assert signs["a10.jpg"][0].box == (1000.0, 490.0, 1021.5, 513.2)
    assert signs["a02.jpg"] == [] and len(signs["a04.jpg"]) == 2


def test_swedish_set(swedish, tmp_path):
    train, test = SwedishTrafficSigns(tmp_path), SwedishTrafficSigns(swedish, "test")
    assert train.classes == ("none", "50", "70", "80")
    wanted = {name: label for name, label in EXPECTED.items() if label is not None}
    assert [path.stem for path in train.files] == list(wanted)
    assert [train.classes[i] for i in train.labels] == list(wanted.values())
    assert [path.stem[0] for path in test.files] == ["b"] * len(wanted)
    assert [path.stem[0] for path in SwedishTrafficSigns(swedish, train_on=2).files] == ["b"] * len(wanted)
    image, label = train[2]
    assert image.shape == (3, 960, 1280) and label == 3
    assert train.boxes(2) == [(1000.0, 490.0, 1041.6, 513.2)] and train.boxes(0) == []
    assert train.class_counts().tolist() == [2, 1, 2, 3]
    assert SETS["swedish_traffic_signs"].state(tmp_path, thorough=True) == "complete"


def test_swedish_images_in_a_folder_of_their_own(swedish, tmp_path):
    inner = swedish / "Set1" / "Set1Part0"
    inner.mkdir()
    for path in (swedish / "Set1").glob("*.jpg"):
        path.rename(inner / path.name)
    assert SwedishTrafficSigns(tmp_path).files[0].parent == inner


def test_swedish_annotation_for_a_missing_image(swedish):
    (swedish / "Set1" / "a03.jpg").unlink()
    with pytest.raises(DataError, match=r"a03\.jpg: not there, but annotations\.txt names it; get the set again"):
        SwedishTrafficSigns(swedish)
    assert "a03.jpg" in SETS["swedish_traffic_signs"].problems(swedish)[0]


@pytest.mark.parametrize(
    "line, message",
    [
        ("no colon at all", "line 2: 'no colon at all' does not begin with an image's name"),
        ("../../x.jpg:MISC_SIGNS;", "line 2: .* does not begin with an image's name"),
        ("a.jpg:VISIBLE, 1, 2, 3, 4, PROHIBITORY;", "line 2: .* has 6 fields"),
        ("a.jpg:SEEN, 1, 2, 3, 4, PROHIBITORY, 50_SIGN;", "line 2: visibility 'SEEN', expected one of VISIBLE"),
        ("a.jpg:VISIBLE, x, 2, 3, 4, PROHIBITORY, 50_SIGN;", "line 2: 'x' is no number"),
    ],
)
def test_swedish_lines_that_do_not_read(line, message, tmp_path):
    (tmp_path / "annotations.txt").write_text(f"ok.jpg:\n{line}\n")
    with pytest.raises(DataError, match=message):
        read_swedish(tmp_path / "annotations.txt")


def test_swedish_refusals():
    with pytest.raises(ValueError, match="split='all': expected 'train' or 'test'"):
        SwedishTrafficSigns("anywhere", "all")
    with pytest.raises(ValueError, match="train_on=3: expected 1 or 2"):
        SwedishTrafficSigns("anywhere", train_on=3)


# ---------------------------------------------------------------------------------------------------------------------
# German traffic signs, made here


@pytest.fixture
def german(tmp_path):
    folder = tmp_path / "gtsdb" / "FullIJCNN2013"
    folder.mkdir(parents=True)
    Image.new("RGB", (136, 80), "grey").save(tmp_path / "grey.ppm")
    for n in range(900):
        os.link(tmp_path / "grey.ppm", folder / f"{n:05d}.ppm")
    lines = [f"{n:05d}.ppm;10;20;30;40;{kind}" for n, kind in enumerate((2, 4, 5, 1, 6, 17))] + ["00601.ppm;1;2;3;4;2", ""]
    (folder / "gt.txt").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("ending", ["ppm", "jpg"])
def test_german_set(german, tmp_path, ending):
    if ending != "ppm":
        for path in german.glob("*.ppm"):
            path.rename(path.with_suffix(f".{ending}"))
    train, test = GTSDB(tmp_path), GTSDB(german, "test")
    assert len(train) == 599 and train.class_counts().tolist() == [596, 1, 1, 1]  # the 30 is left out
    assert train.files[0].name == f"00000.{ending}" and train.boxes(0) == [(10.0, 20.0, 30.0, 40.0)]
    assert train.signs(3)[0].name == "6" and train.labels[3] == 0  # the end of a limit is none
    assert len(test) == 300 and test.labels[1] == 1
    everything = GTSDB(german, limits="all")
    assert len(everything) == 600 and everything.classes[int(everything.labels[3])] == "30"
    assert train[0][0].shape == (3, 80, 136)


def test_a_damaged_german_set_is_not_replaced_by_drawn_roads(german, tmp_path, monkeypatch):
    from atslib.experiments import speed_limits

    monkeypatch.setenv("ATSLIB_DATA", str(tmp_path))
    (german / "00123.ppm").unlink()
    with pytest.raises(DataError, match=r"00123\.ppm .*: not there"):
        speed_limits.load_data("laptop")
    shutil.rmtree(german)
    assert speed_limits.load_data("laptop").suffix == "-generated"


def test_german_image_missing(german):
    (german / "00123.ppm").unlink()
    with pytest.raises(DataError, match=r"00123\.ppm .*: not there; 1 of 900 images are missing"):
        GTSDB(german)


@pytest.mark.parametrize(
    "line, message",
    [
        ("00950.ppm;1;2;3;4;5", r"gt\.txt, line 1: image 00950\.ppm is not of this set"),
        ("00001.ppm;1;2;3;4", r"gt\.txt, line 1: .* expected NAME;left;top;right;bottom;class"),
        ("00001.ppm;1;2;3;4;x", r"gt\.txt, line 1: .* expected NAME"),
    ],
)
def test_german_lines_that_do_not_read(german, line, message):
    (german / "gt.txt").write_text(line)
    with pytest.raises(DataError, match=message):
        read_gtsdb(german / "gt.txt")


def test_german_two_limits(german):
    (german / "gt.txt").write_text("00001.ppm;1;2;3;4;2\n00001.ppm;1;2;3;4;4\n")
    with pytest.raises(DataError, match=r"gt\.txt: image 00001 shows the limits \['50', '70'\]"):
        GTSDB(german)


def test_windows_show_the_sign(german, tmp_path):
    """Whatever the seed, and as far from the border as the photograph allows; without a sign the window lies anywhere."""
    train, corners = GTSDB(tmp_path), set()
    for seed in range(20):
        windows = SignWindows(train, (40, 60), margin=8, seed=seed)
        assert len(windows) == len(train) and torch.equal(windows.labels, train.labels)
        ((left, top, right, bottom),) = windows.boxes(0)
        assert (right - left, bottom - top) == (20, 20)
        assert 8 <= left and right <= 52 and 8 <= top and bottom <= 32
        corners.add(windows.corners[0])
        assert windows.corners[0] == (20 - top, 10 - left)
        assert windows.boxes(400) == [] and windows.signs(0)[0].limit == "50"
    assert len(corners) > 5
    image, label = windows[0]
    assert image.shape == (3, 40, 60) and label == 1
    assert windows.digest() != SignWindows(train, (40, 60), margin=8, seed=0).digest() != train.digest()


def test_a_part_knows_what_its_set_knows_of_the_images(german, tmp_path):
    train = GTSDB(tmp_path)
    part = train.part([3, 0])
    assert part.boxes(1) == train.boxes(0) != [] and part.signs(1) == train.signs(0) and part.files[1] == train.files[0]
    windows = SignWindows(part, (40, 60), margin=8)
    assert windows.photographs == [0, 1] and windows.signs(1)[0].limit == "50" and windows.digest()
    with pytest.raises(AttributeError, match="object has no attribute 'layout'"):
        part.layout(0)
    with pytest.raises(AttributeError, match="object has no attribute 'nothing'"):
        _ = part.nothing
    assert copy.deepcopy(part).boxes(1) == part.boxes(1)


def test_windows_without_the_sign_of_the_same_photographs(german, tmp_path):
    train = GTSDB(tmp_path, limits="any")
    assert train.classes == ("none", "limit") and train.class_counts().tolist() == [596, 4]
    assert train.boxes(0) == [(10.0, 20.0, 30.0, 40.0)] and train.boxes(4) == []  # the end of a limit is none
    windows = SignWindows(train, (40, 60), margin=8, negatives=True)
    assert windows.class_counts().tolist() == [600, 4] and windows.photographs[600:] == [0, 1, 2, 3]
    for number in range(600, 604):
        top, left = windows.corners[number]
        assert windows.boxes(number) == [] and windows[number][1] == 0
        assert top >= 40 or left >= 30 or top + 40 <= 20 or left + 60 <= 10  # not even a part of the sign
    assert [windows.corners[i] for i in range(600)] == SignWindows(train, (40, 60), margin=8).corners
    # In a window nearly as large as the photograph there is no place without the sign.
    assert len(SignWindows(train, (78, 130), margin=8, negatives=True)) == 600


def test_windows_lie_where_they_lay_when_models_were_trained_on_them(german, tmp_path):
    """Each draws its row and column by itself, from the seed and the number of its photograph."""
    train = GTSDB(tmp_path, limits="any")  # four photographs with a limit, the others without
    expected = {
        0: ([(11, 0), (12, 1), (8, 1), (12, 2), (36, 17), (15, 42), (16, 16), (1, 59)], [(18, 30), (9, 71), (21, 64), (1, 62)]),
        1: ([(10, 2), (9, 1), (10, 1), (8, 0), (16, 65), (15, 70), (5, 70), (14, 47)], [(13, 46), (32, 43), (27, 59), (8, 76)]),
    }
    for seed, (first, negatives) in expected.items():
        corners = SignWindows(train, (40, 60), margin=8, negatives=True, seed=seed).corners
        assert corners[:8] == first and corners[600:] == negatives


def test_windows_are_parts_of_the_photograph(german, tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (80, 136, 3), dtype=np.uint8)
    (german / "00000.ppm").unlink()  # a link to the others
    Image.fromarray(colours).save(german / "00000.ppm")
    train = GTSDB(tmp_path)
    windows = SignWindows(train, (40, 60), margin=8)
    top, left = windows.corners[0]
    assert torch.equal(windows[0][0], train[0][0][:, top : top + 40, left : left + 60])


def test_windows_at_the_photographs_border(german, tmp_path):
    """Where there is no room for the margin, the sign comes first."""
    (german / "gt.txt").write_text("00000.ppm;0;60;20;80;2\n")
    for seed in range(10):
        ((left, top, right, bottom),) = SignWindows(GTSDB(tmp_path), (40, 60), margin=8, seed=seed).boxes(0)
        assert (left, right) == (0, 20) and (top, bottom) == (20, 40)


@pytest.mark.parametrize("size, message", [((90, 60), r"window of \(90, 60\) pixels from image 0"), ((10, 60), "finds no place")])
def test_windows_that_do_not_fit(german, tmp_path, size, message):
    with pytest.raises(ValueError, match=message):
        SignWindows(GTSDB(tmp_path), size)[0]


def test_windows_that_are_square(german, tmp_path):
    for size in (40, np.int64(40)):
        windows = SignWindows(GTSDB(tmp_path), size, margin=8)
        assert windows.size == (40, 40) and windows[0][0].shape == (3, 40, 40)
        assert windows.digest() == SignWindows(GTSDB(tmp_path), (40, 40), margin=8).digest()


def test_a_damaged_photograph(german, tmp_path):
    """The set is to be got again, by its own command, whoever finds the damage."""
    (german / "00002.ppm").unlink()  # a link to the others
    (german / "00002.ppm").write_bytes(b"P6 nonsense")
    train = GTSDB(tmp_path)
    for read in (lambda: train[2], lambda: SignWindows(train, 40)):
        with pytest.raises(DataError, match=r"00002\.ppm: no readable image .*again with `python -m atslib\.data get gtsdb`"):
            read()
    train.files[2].unlink()
    with pytest.raises(DataError, match=r"00002\.ppm: not there; get the data set again with `python -m atslib\.data get gtsdb`"):
        train[2]


def test_the_profile_of_windows_shows_windows(german, tmp_path):
    sizes = replace(experiment.PROFILES["windows"], window=(40, 60))
    loaded = experiment.load_data(sizes, tmp_path)
    assert loaded.suffix == "-gtsdb" and loaded.name.endswith("windows of 40 × 60")
    assert loaded.train[0][0].shape == loaded.test[0][0].shape == (3, 40, 60)
    assert loaded.class_weights is None  # classes are shown equally often
    assert loaded.describe()["image_size"] == [40, 60] and "windows40x60" in loaded.describe()["digest"]
    whole = experiment.load_data("laptop", tmp_path)
    assert whole.train[0][0].shape == (3, 80, 136) and whole.class_weights is not None
    assert isinstance(experiment.build_model(profile="windows").attention, SaliencyPrior)
    assert not isinstance(experiment.build_model(profile="laptop").attention, SaliencyPrior)


def test_the_profile_that_asks_for_any_limit(german, tmp_path, monkeypatch):
    sizes = replace(experiment.PROFILES["find"], window=(40, 60))
    loaded = experiment.load_data(sizes, tmp_path)
    assert loaded.train.classes == ("none", "limit") and len(loaded.train) == 604
    model = experiment.build_model(profile="find")
    assert model.classifier.linear.out_features == 2
    monkeypatch.setenv("ATSLIB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError):  # nothing stands in
        experiment.load_data(sizes)
    with pytest.raises(ValueError, match="drawn roads have only the paper's"):
        experiment.load_data(sizes, "generated")


# ---------------------------------------------------------------------------------------------------------------------
# Root, scripts, list


def test_data_root(monkeypatch, tmp_path):
    monkeypatch.setenv("ATSLIB_DATA", str(tmp_path))
    assert data_root() == tmp_path and data_root("other") == Path("other")
    monkeypatch.delenv("ATSLIB_DATA")
    assert data_root().name == "atslib" and data_root().is_absolute()


def script(name, *arguments):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main([str(argument) for argument in arguments])


@real("colon_cancer")
@pytest.mark.parametrize("packed", [False, True])
def test_get_colon_cancer(packed, tmp_path, capsys):
    given = Path(os.environ["ATSLIB_DATA"]) / "colon_cancer"
    if packed:
        (tmp_path / "archives").mkdir()
        given = Path(shutil.make_archive(str(tmp_path / "archives" / "crc"), "zip", given))
    root = tmp_path / "data"
    assert script("get_colon_cancer", "--from", given, "--data", root, "--quiet") == 0
    assert ColonCancer(root).digest() == "6232055c1268349f"
    assert not [path for path in root.rglob("*") if path.name.endswith(".part") or "downloads" in path.parts]
    assert script("get_colon_cancer", "--from", given, "--data", root, "--quiet") == 0
    assert "already there and complete" in capsys.readouterr().out


def test_get_colon_cancer_needs_from(capsys):
    with pytest.raises(SystemExit) as stop:
        script("get_colon_cancer")
    assert stop.value.code == 2 and "--from" in capsys.readouterr().err


def test_each_set_is_got_by_the_command_that_its_errors_name(capsys):
    """``python -m atslib.data get NAME``, which whoever installed the library has."""
    assert set(GETTERS) == set(SETS) == {path.stem.removeprefix("get_") for path in SCRIPTS.glob("get_*.py")}
    for name, source in SETS.items():
        assert source.get.partition(" --")[0] == f"python -m atslib.data get {name}"
        for call in (lambda name=name: command(["get", name, "--help"]), lambda name=name: script(f"get_{name}", "--help")):
            with pytest.raises(SystemExit) as stop:
                call()
            said = capsys.readouterr().out
            assert stop.value.code == 0 and said.startswith(f"usage: python -m atslib.data get {name} ") and source.title in said
    for arguments in (["get"], ["get", "imagenet"], ["--data", "x", "get", "mnist"]):
        with pytest.raises(SystemExit) as stop:
            command(arguments)
        assert stop.value.code == 2 and "atslib.data get" in capsys.readouterr().err


def test_the_command_gets_a_set(swedish, tmp_path, capsys):
    arguments = ["get", "swedish_traffic_signs", "--from", str(swedish), "--data", str(tmp_path / "data"), "--quiet"]
    assert command(arguments) == 0
    assert len(SwedishTrafficSigns(tmp_path / "data")) == len(SwedishTrafficSigns(swedish))
    assert command(arguments) == 0 and "already there and complete" in capsys.readouterr().out
    assert command(["get", "gtsdb", "--from", str(tmp_path / "nowhere"), "--data", str(tmp_path / "data")]) == 1


@pytest.mark.parametrize("name", ["get_colon_cancer", "get_gtsdb", "get_swedish_traffic_signs"])
def test_scripts_given_the_wrong_folder(name, tmp_path, capsys):
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "holiday.jpg").write_bytes(b"")
    for given in (tmp_path / "wrong", tmp_path / "nowhere"):
        assert script(name, "--from", given, "--data", tmp_path / "data", "--quiet") == 1
        said = capsys.readouterr().err
        assert said.startswith(f"error: {given}: ") and "expected" in said and said.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_scripts_put_nothing_in_place_that_is_not_whole(colon, german, tmp_path, capsys):
    """The sets made here have the layout but not the counts."""
    data = tmp_path / "data"
    assert script("get_colon_cancer", "--from", colon, "--data", data, "--quiet") == 1
    assert "img1.bmp: 16 × 16 pixels, expected 500 × 500 (and 99 more like this); nothing was put" in capsys.readouterr().err
    assert script("get_gtsdb", "--from", german, "--data", data, "--quiet") == 1
    assert "7 signs, expected 1213" in capsys.readouterr().err
    assert not data.exists()


def test_get_gtsdb_takes_images_not_crops(german, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed_limits, "GTSDB_BOXES", 7)
    monkeypatch.setattr(speed_limits, "GTSDB_SIZE", (80, 136))
    (german / "00").mkdir()
    (german / "00" / "00000.ppm").write_bytes(b"a crop")
    assert script("get_gtsdb", "--from", german.parent, "--data", tmp_path / "data", "--quiet") == 0
    assert len(list((tmp_path / "data" / "gtsdb" / "FullIJCNN2013").iterdir())) == 901


def test_get_swedish_from_a_folder(swedish, tmp_path):
    assert script("get_swedish_traffic_signs", "--from", swedish, "--data", tmp_path / "data", "--quiet") == 0
    assert len(SwedishTrafficSigns(tmp_path / "data")) == len(SwedishTrafficSigns(swedish))


def test_list(colon, tmp_path):
    command = [sys.executable, "-m", "atslib.data", "--data", str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    states = dict(re.findall(r"^(\w+)\n(?:  .*\n)*?  state +(.*)$", said, re.MULTILINE))
    assert states == {"mnist": "absent", "colon_cancer": "complete", "swedish_traffic_signs": "absent", "gtsdb": "absent"}
    assert "get    python -m atslib.data get gtsdb " in said and str(colon) in said
    shutil.rmtree(colon / "Classification" / "img9")
    assert SETS["colon_cancer"].state(tmp_path).startswith("incomplete: ")


def test_images_of_more_than_8_bits_are_refused(tmp_path):
    """Pillow would turn all that is brighter than 255 of 65,535 into white."""
    file = tmp_path / "deep.png"
    Image.fromarray(np.linspace(0, 65_535, 100).reshape(10, 10).astype(np.uint16)).save(file)
    with pytest.raises(DataError, match="pixels of more than 8 bits"):
        read_image(file)


@pytest.mark.parametrize("most", [255, 1023])
@pytest.mark.parametrize("kind", ["P6", "P3", "jp2"])
def test_colour_of_more_than_8_bits_is_refused_in_portable_maps_and_jpeg_2000(kind, most, tmp_path):
    file = tmp_path / ("a.jp2" if kind == "jp2" else "a.ppm")
    if kind == "jp2":
        Image.new("RGB", (8, 4), (255, 255, 255)).save(file)
        content = bytearray(file.read_bytes())
        start = content.find(b"\xff\x4f\xff\x51") + 42  # of the channels in SIZ: bits less one, and two bytes more
        assert content[start : start + 9 : 3] == bytes([7, 7, 7])
        if most > 255:  # no Pillow writes such a file; one that says so is decoded to 8 bits without a word
            content[start : start + 9 : 3] = bytes([9, 9, 9])
            file.write_bytes(content)
    else:
        pixels = np.full((4, 8, 3), most, ">u2" if most > 255 else "u1")
        content = " ".join(map(str, pixels.ravel())).encode() if kind == "P3" else pixels.tobytes()
        file.write_bytes(f"{kind}\n8 4\n{most}\n".encode() + content)
    if most == 255:
        assert (read_image(file) == 255).all()
    else:
        with pytest.raises(DataError, match="pixels of more than 8 bits"):
            read_image(file)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_colour_of_more_than_8_bits_is_refused(ending, tmp_path):
    """Pillow would keep the upper 8 of 16 bits: of a camera with 12 bits, 16 shades."""
    pixels = np.random.default_rng(0).integers(0, 4096, (8, 9, 3)).astype(np.uint16)
    file = tmp_path / f"deep.{ending}"
    if ending == "tif":
        pytest.importorskip("tifffile").imwrite(file, pixels, photometric="rgb")
    else:
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
        chunks = [(b"IHDR", struct.pack(">IIBBBBB", 9, 8, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
        number = struct.Struct(">I").pack
        packed = [number(len(data)) + name + data + number(zlib.crc32(name + data)) for name, data in chunks]
        file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    with Image.open(file) as picture:
        assert picture.mode == "RGB"  # nothing in its mode tells
    with pytest.raises(DataError, match=r"pixels of more than 8 bits; .*ImageFiles a read=… of your own"):
        read_image(file)
    assert image_size(file) == (8, 9)


def test_a_fourth_band_is_not_lost_in_silence(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    bands = np.random.default_rng(0).integers(0, 256, (8, 9, 4)).astype(np.uint8)
    infrared, transparent = tmp_path / "infrared.tif", tmp_path / "transparent.tif"
    tifffile.imwrite(infrared, bands, photometric="rgb", extrasamples=["unspecified"])
    tifffile.imwrite(transparent, bands, photometric="rgb", extrasamples=["unassalpha"])
    with pytest.raises(DataError, match=r"1 band beside red, green and blue would be lost"):
        read_image(infrared)
    assert torch.equal(read_image(transparent), torch.from_numpy(bands[..., :3]).permute(2, 0, 1))
    two, grey = tmp_path / "two.tif", tmp_path / "grey.tif"
    tifffile.imwrite(two, bands[..., :2], photometric="minisblack", planarconfig="contig", extrasamples=["unspecified"])
    tifffile.imwrite(grey, bands[..., :2], photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"])
    with pytest.raises(DataError, match=r"1 band beside grey would be lost"):
        read_image(two)
    assert torch.equal(read_image(grey), torch.from_numpy(bands[..., :1]).permute(2, 0, 1).expand(3, -1, -1))


def test_signed_pixels_are_not_taken_for_bright_ones(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "signed.tif", np.full((8, 9), -7, np.int8))
    with pytest.raises(DataError, match=r"signed\.tif: signed pixels; convert the file to unsigned ones"):
        read_image(tmp_path / "signed.tif")


# ---------------------------------------------------------------------------------------------------------------------
# Image files of one's own


def read_deep(path):
    """Of 16 bits, as floating point; at the top level, so that workers that are started anew find it."""
    tifffile = pytest.importorskip("tifffile")
    return torch.from_numpy(tifffile.imread(path).astype(np.float32) / 65_535).permute(2, 0, 1)


@pytest.mark.parametrize("cached", [False, True])
def test_image_files_with_a_reader_of_ones_own(cached, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    deep = np.random.default_rng(0).integers(0, 65_536, (2, 8, 9, 5)).astype(np.uint16)
    for name, pixels in zip("ab", deep, strict=True):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "1.tif", pixels, photometric="minisblack", planarconfig="contig")
    dataset = ImageFiles.from_folder(tmp_path, read=read_deep, cache=tmp_path / ".cache" if cached else None)
    for _ in range(2):
        image, label = dataset[1]
        assert label == 1 and image.dtype == torch.float32
        np.testing.assert_array_equal(image.permute(1, 2, 0), deep[1].astype(np.float32) / 65_535)
    assert dataset.class_counts().tolist() == [1, 1]


def ramp(kind=np.uint8):
    """An image (1, 2, 3) of the numbers 0 … 5."""
    return np.arange(6).reshape(1, 2, 3).astype(kind)


def read_only():
    array = ramp()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(
    "give, dtype",
    [
        (read_only, torch.uint8),
        (lambda: ramp(">f4"), torch.float32),
        (lambda: ramp("<f2"), torch.float16),
        (lambda: ramp()[:, ::-1, ::-1][:, ::-1, ::-1], torch.uint8),
        (lambda: np.ascontiguousarray(ramp()[:, ::-1])[:, ::-1], torch.uint8),  # backwards in memory
        (lambda: torch.from_numpy(ramp(np.float32)).requires_grad_(), torch.float32),
    ],
)
def test_a_reader_may_give_arrays_of_all_kinds(give, dtype, cached, tmp_path):
    (tmp_path / "a.raw").touch()
    dataset = ImageFiles([tmp_path / "a.raw"], [0], read=lambda path: give(), cache=tmp_path / "cache" if cached else None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            image, _ = dataset[0]
            assert image.dtype == dtype and image.flatten().tolist() == list(range(6)) and image.shape == (1, 2, 3)
    image.detach().zero_()  # its own memory


@pytest.mark.parametrize(
    "given, message",
    [
        (ramp(np.uint16), r"read gave shape \(1, 2, 3\) and type uint16: expected a tensor or an array \(C, H, W\) of uint8"),
        (ramp(">u2"), r"read gave shape \(1, 2, 3\) and type uint16"),
        (ramp(np.int64), r"read gave shape .* and type int64: expected .*16 bits divided by 65535"),
        (ramp()[0], r"read gave shape \(2, 3\) and type uint8"),
        (ramp(str), "read gave pixels of type <U"),
        (Image.new("RGB", (2, 3)), "read gave an object of type Image: expected .* or an ImagePyramid"),
        (None, "read gave an object of type NoneType"),
    ],
)
def test_what_a_reader_gives_that_is_no_image(given, message, tmp_path):
    (tmp_path / "a.raw").touch()
    for cache in (None, tmp_path / "cache"):
        with pytest.raises(ValueError, match=r"a\.raw: " + message):
            ImageFiles([tmp_path / "a.raw"], [0], read=lambda path: given, cache=cache)[0]
    assert not (tmp_path / "cache").exists()


def test_bfloat16_is_an_image_but_is_not_cached(tmp_path):
    (tmp_path / "a.raw").touch()
    read = lambda path: torch.ones(1, 2, 3, dtype=torch.bfloat16)
    assert ImageFiles([tmp_path / "a.raw"], [0], read=read)[0][0].dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"a\.raw: read gave bfloat16, which NumPy's files cannot hold: expected .*cache=None"):
        ImageFiles([tmp_path / "a.raw"], [0], read=read, cache=tmp_path / "cache")[0]


def test_a_reader_may_leave_the_pixels_in_the_file(tmp_path):
    """What the refusal of 16 bits says."""
    tifffile = pytest.importorskip("tifffile")
    deep = np.random.default_rng(0).integers(0, 4096, (2, 64, 48)).astype(np.uint16)
    for number, pixels in enumerate(deep):
        tifffile.imwrite(tmp_path / f"{number}.tif", pixels, tile=(32, 32), photometric="minisblack")
    files = sorted(tmp_path.glob("*.tif"))
    for cache in (None, tmp_path / "cache"):
        dataset = ImageFiles(files, [1, 0], read=lambda path: ImagePyramid.open(path, white=4095), cache=cache)
        for _ in range(2):
            image, label = dataset[0]
            assert isinstance(image, ImagePyramid) and label == 1 and image.shape == (1, 1, 64, 48)
        found = extract_patches(image, torch.tensor([[[3, 5]]]), 8)[0, 0, 0]
        np.testing.assert_allclose(found, deep[0, 3:11, 5:13] / 4095, rtol=1e-6)
    assert not (tmp_path / "cache").exists()
    (batch, labels) = next(Loader(dataset, torch.device("cpu")).batches([[0, 1]]))
    assert batch.shape == (2, 1, 64, 48) and labels.tolist() == [1, 0]
    assert largest_size(dataset) == (64, 48)
    files[1].write_bytes(files[1].read_bytes()[:100])
    with pytest.raises(DataError, match=r"1\.tif: "):
        dataset[1][0].read_view((8, 6))


def test_views_of_what_a_reader_leaves_in_the_file_may_be_kept(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3)).astype(np.uint8)
    for number, some in enumerate(pixels):
        tifffile.imwrite(tmp_path / f"{number}.tif", some, tile=(32, 32), photometric="rgb")
    files = sorted(tmp_path.glob("*.tif"))
    dataset = ImageFiles(files, [1, 0], read=partial(ImagePyramid.open, cache=tmp_path / "views"))
    expected = downsample(torch.from_numpy(pixels).permute(0, 3, 1, 2), (8, 6))
    for workers in (0, 1):
        ((images, _),) = Loader(dataset, "cpu", workers=workers).batches([[0, 1]])
        torch.testing.assert_close(images.read_view((8, 6)), expected)
        assert len(list((tmp_path / "views").iterdir())) == 2
    for file in (tmp_path / "views").iterdir():
        np.save(file, np.zeros_like(np.load(file)))
    assert not dataset[0][0].read_view((8, 6)).any()  # from the folder


@pytest.mark.parametrize("damage", ["empty", "magic", "header", "short", "long"])
def test_a_damaged_file_of_the_cache_is_made_anew(damage, tmp_path):
    Image.new("RGB", (8, 4), (1, 2, 3)).save(tmp_path / "a.png")
    files = ImageFiles([tmp_path / "a.png"], [0], cache=tmp_path / "cache")
    whole = files[0][0].clone()
    (place,) = (tmp_path / "cache").iterdir()
    content = place.read_bytes()
    damaged = {"empty": b"", "magic": content[:4], "header": content[:10] + b"({[" + content[13:], "short": content[:-1]}
    place.write_bytes(damaged.get(damage, content + b"x"))
    assert torch.equal(files[0][0], whole)
    assert place.read_bytes() == content and len(list((tmp_path / "cache").iterdir())) == 1


def test_threads_that_cache_the_same_image(tmp_path):
    """Each writes a file of its own before it takes the image's name, and what takes it is on the disk."""
    (tmp_path / "a.raw").touch()
    together, written = threading.Barrier(2, timeout=20), []

    def read(path):
        together.wait()
        return ramp()

    dataset = ImageFiles([tmp_path / "a.raw"], [0], read=read, cache=tmp_path / "cache")
    real = np.save

    def save(file, pixels):
        written.append(file.name)
        together.wait()  # both files are open
        real(file, pixels)

    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "save", save)
        threads = [threading.Thread(target=lambda: found.append(dataset[0][0])) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 2 and all(image.flatten().tolist() == list(range(6)) for image in found)
    assert len(set(written)) == 2 and len(list((tmp_path / "cache").iterdir())) == 1


def test_what_is_cached_reaches_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    Image.new("RGB", (8, 4)).save(tmp_path / "a.png")
    told, fsync, replace_ = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: [told.append("to disk"), fsync(number)][1])
    monkeypatch.setattr(os, "replace", lambda *names: [told.append("named"), replace_(*names)][1])
    _ = ImageFiles([tmp_path / "a.png"], [0], cache=tmp_path / "cache")[0]
    assert told[:2] == ["to disk", "named"]


def test_files_that_are_not_there_are_named_at_once(tmp_path):
    Image.new("RGB", (8, 4)).save(tmp_path / "a.png")
    files = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"]
    with pytest.raises(DataError, match=r"b\.png: not there; expected an image file \(2 of 3 files are missing\)$"):
        ImageFiles(files, [0, 0, 0])
    with pytest.raises(DataError, match=r"b\.png: not there; expected an image file$"):
        ImageFiles(files[:2], [0, 0])


@pytest.mark.parametrize("limit", [700, 300])  # Pillow warns of more, and refuses more than twice as many
@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "gif", "mpo", "tif", "webp"])
def test_images_of_any_number_of_pixels(ending, limit, tmp_path, monkeypatch):
    if ending == "webp" and not features.check("webp"):
        pytest.skip("Pillow was built without WebP")
    file = tmp_path / f"large.{ending}"
    Image.new("RGB", (40, 20), "grey").save(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(file).shape == (3, 20, 40) and image_size(file) == (20, 40)
    assert Image.MAX_IMAGE_PIXELS == limit


def test_the_limit_is_back_after_a_file_that_is_no_image(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(DataError):
        read_image(tmp_path)
    assert Image.MAX_IMAGE_PIXELS == 300


def test_a_limit_that_decoding_keeps(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise Image.DecompressionBombError("Image size (800 pixels) exceeds limit")

    file = tmp_path / "large.png"
    Image.new("RGB", (40, 20)).save(file)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", refuse)
    said = r"large\.png: no readable image, it has more pixels than its header says \(Image size .*\); expected an image file"
    with pytest.raises(DataError, match=said):
        read_image(file)


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_says(orientation, ending, tmp_path):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"photo.{ending}"
    Image.fromarray(pixels).save(file, exif=exif)
    image = read_image(file)
    assert image.shape == ((3, 16, 32) if orientation < 5 else (3, 32, 16))
    bright = image[0, ::8, ::8].argmax().item()  # the stored corner, among cells of 8 pixels
    assert bright == {1: 0, 2: 3, 3: 7, 4: 4, 5: 0, 6: 1, 7: 7, 8: 6}[orientation]
    if ending != "tif":  # Pillow's versions differ in whether such a header is turned already
        assert image_size(file) == image.shape[1:]


@pytest.mark.parametrize("orientation", [3, 6])
def test_an_orientation_in_xmp_counts_too(orientation, tmp_path):
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        f'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/></rdf:RDF></x:xmpmeta>'
    )
    packet = b"http://ns.adobe.com/xap/1.0/\0" + xmp.encode()
    plain = tmp_path / "plain.jpg"
    Image.new("RGB", (40, 20)).save(plain)
    data = plain.read_bytes()
    file = tmp_path / "photo.jpg"  # the packet as the first segment of the file, after the two bytes that begin it
    file.write_bytes(data[:2] + b"\xff\xe1" + (len(packet) + 2).to_bytes(2, "big") + packet + data[2:])
    assert image_size(file) == read_image(file).shape[1:] == ((20, 40) if orientation == 3 else (40, 20))


def test_exif_that_cannot_be_read_is_passed_over(tmp_path):
    file = tmp_path / "photo.jpg"
    Image.new("RGB", (40, 20)).save(file, exif=b"Exif\0\0nonsense")
    assert read_image(file).shape == (3, 20, 40) and image_size(file) == (20, 40)


def test_files_of_ones_own_are_not_to_be_deleted(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    Image.new("RGB", (40, 20)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    (tmp_path / "empty.png").write_bytes(b"")
    said = {}
    for name in ("", "notes.txt", "cut.png", "empty.png", "nowhere.png"):
        with pytest.raises(DataError) as caught:
            read_image(tmp_path / name)
        said[name] = str(caught.value)
    for name, message in said.items():
        assert message.startswith(f"{tmp_path / name}: ") and "expected an image file" in message
        assert "\n" not in message and "delete" not in message and "again" not in message
    assert "not there" in said["nowhere.png"] and "no readable image" in said["notes.txt"]


def test_image_files(tmp_path):
    """Paths may be words, with a cache, too; classes have names even where nobody named them."""
    files = [str(tmp_path / f"{name}.png") for name in "ab"]
    for value, file in enumerate(files):
        Image.new("RGB", (8, 4), (value, 0, 0)).save(file)
    for cache in (None, tmp_path / "cache"):
        dataset = ImageFiles(files, [0, 2], cache=cache)
        assert dataset[1][0][0].unique().tolist() == [1] and dataset[1][1] == 2
        assert dataset.digest() == ImageFiles([Path(file) for file in files], [0, 2]).digest()
    assert dataset.classes == ("0", "1", "2") and dataset.class_counts().tolist() == [1, 0, 1]
    named = ImageFiles(files, np.array([1, 0]), classes=["cat", "dog"])
    assert named.classes == ("cat", "dog") and named.class_weights().tolist() == [1, 1]
    assert len(ImageFiles([], [])) == 0 and ImageFiles(files, torch.tensor([True, False])).labels.tolist() == [1, 0]


def test_what_cannot_be_read_in_a_folder_is_not_left_out(tmp_path, monkeypatch):
    (tmp_path / "links" / "a").mkdir(parents=True)
    (tmp_path / "links" / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"gone\.png: not there"):
        ImageFiles.from_folder(tmp_path / "links")
    with monkeypatch.context() as closed:  # as of a folder without the right to read it, which root has always

        def walk(folder, onerror):
            onerror(PermissionError(13, "Permission denied", str(folder)))
            return iter(())

        closed.setattr("os.walk", walk)
        with pytest.raises(DataError, match=r": Permission denied; expected a folder of images"):
            ImageFiles.from_folder(tmp_path / "links")


def test_a_folder_of_images(tmp_path):
    """What is no image of a class is passed over, and a test set without one of the classes keeps the others' labels."""
    for place in (
        "train/a/1.png",
        "train/b/deep/er/2.PNG",
        "train/c/3.jpg",
        "train/.trash/4.png",
        "train/a/.thumb/5.png",
        "test/c/6.png",
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 4)).save(tmp_path / place)
    for stray in ("train/.DS_Store", "train/readme.txt", "train/a/notes.txt", "train/a/.hidden.png"):
        (tmp_path / stray).write_text("no image")
    for folder in ("train/b/folder.png", "train/__MACOSX", "test/empty"):
        (tmp_path / folder).mkdir()

    train_set = ImageFiles.from_folder(str(tmp_path / "train"), cache=tmp_path / "cache")
    assert train_set.classes == ("a", "b", "c") and train_set.labels.tolist() == [0, 1, 2]
    assert [file.name for file in train_set.files] == ["1.png", "2.PNG", "3.jpg"] and train_set[1][0].shape == (3, 4, 8)
    test_set = ImageFiles.from_folder(tmp_path / "test", classes=train_set.classes)
    assert test_set.classes == train_set.classes and test_set.labels.tolist() == [2]

    class Own(ImageFiles):
        pass

    assert type(Own.from_folder(tmp_path / "test")) is Own
    with pytest.raises(ValueError, match=r"classes=\['a', 'b', 'c', 'a'\]: expected each of them once"):
        ImageFiles.from_folder(tmp_path, classes=["a", "b", "c", "a"])
    with pytest.raises(DataError, match=r"c: images of no class; expected folders a, b"):
        ImageFiles.from_folder(tmp_path / "test", classes=["a", "b"])
    with pytest.warns(UserWarning, match=r"classes test, train, which look like parts of a data set.*from_folder\('.*test'\)"):
        assert ImageFiles.from_folder(tmp_path).classes == ("test", "train")
    for folder, message in (("nowhere", "no such folder"), ("train/.trash", "no image in its folders")):
        with pytest.raises(DataError, match=message):
            ImageFiles.from_folder(tmp_path / folder)


def test_further_pages_of_a_tiff_are_not_lost_in_silence(tmp_path):
    """Channels of a microscope are pages of one size; smaller ones are copies of the first."""
    channels = [Image.fromarray(np.full((8, 6), value, np.uint8)) for value in (1, 2, 3)]
    channels[0].save(tmp_path / "channels.tif", save_all=True, append_images=channels[1:])
    with pytest.raises(DataError, match=r"channels\.tif: 2 more pages of the first one's size would be lost; give ImageFiles a"):
        read_image(tmp_path / "channels.tif")
    channels[0].save(tmp_path / "levels.tif", save_all=True, append_images=[channels[1].resize((3, 4))])
    assert read_image(tmp_path / "levels.tif").unique().tolist() == [1]
    channels[0].save(tmp_path / "film.gif", save_all=True, append_images=channels[1:])
    assert read_image(tmp_path / "film.gif").shape == (3, 8, 6)


def test_slides_beside_images_are_not_passed_over_in_silence(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 4)).save(tmp_path / "a" / "1.tif")
    (tmp_path / "a" / "2.SVS").write_bytes(b"slide")
    with pytest.warns(UserWarning, match=r"files that end in \.svs are passed over; suffixes=\[…\] names the endings of images"):
        assert len(ImageFiles.from_folder(tmp_path, read=ImagePyramid.open)) == 1
    assert len(ImageFiles.from_folder(tmp_path, read=ImagePyramid.open, suffixes=[".svs", ".tif"])) == 2
    assert len(ImageFiles.from_folder(tmp_path)) == 1


def read_array(path):
    return np.load(path)


def test_a_folder_of_other_files(tmp_path):
    """Of kinds that Pillow does not read, for a `read` of one's own: by their endings, and never left out in silence."""
    for place in ("a/1.npy", "b/deep/2.NPY", "b/notes.txt", "b/.npy/3.npy", "c/4.svs"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        with (tmp_path / place).open("wb") as file:
            np.save(file, np.full((1, 2, 3), 7, np.uint8))
    with pytest.raises(DataError, match=r"no image in its folders \(files there end in \.NPY, \.npy, \.svs, \.txt; for other"):
        ImageFiles.from_folder(tmp_path, read=read_array)
    with pytest.warns(UserWarning, match=r"c: no image, but files that end in \.svs; such: read=… and suffixes=\[…\]"):
        dataset = ImageFiles.from_folder(tmp_path, read=read_array, suffixes=[".npy"])
    assert dataset.classes == ("a", "b") and [file.name for file in dataset.files] == ["1.npy", "2.NPY"]
    assert dataset[1][0].unique().tolist() == [7] and dataset[1][1] == 1
    for name in ("classes", "suffixes"):
        with pytest.raises(ValueError, match=f"{name}='ab': expected several, \\['ab'\\] for one"):
            ImageFiles.from_folder(tmp_path, **{name: "ab"})


def test_a_folder_of_folders_that_are_images(tmp_path):
    for place in ("a/1.zarr/c/0.png", "a/1.zarr/zarr.json", "b/2.zarr/zarr.json"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(place)
    dataset = ImageFiles.from_folder(tmp_path, read=Path, suffixes=[".zarr"])
    assert [str(file.relative_to(tmp_path)) for file in dataset.files] == ["a/1.zarr", "b/2.zarr"]
    before = dataset.digest()
    (tmp_path / "a/1.zarr/c/0.png").write_text("otherwise")
    assert dataset.digest() != before


def test_a_cache_that_cannot_be_written_is_none(tmp_path, monkeypatch):
    Image.new("RGB", (8, 4), (7, 0, 0)).save(tmp_path / "a.png")
    dataset = ImageFiles([tmp_path / "a.png"], [0], cache=tmp_path / "cache")

    def closed(path):  # as to a user whose folder it is not; root may write everywhere
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr("atslib.data.files.whole", closed)
        with pytest.warns(UserWarning, match=r"cache: Permission denied: what is not in this cache is made anew each time"):
            image, _ = dataset[0]
    assert image[0].unique().tolist() == [7] and not (tmp_path / "cache").exists()
    assert torch.equal(dataset[0][0], image) and len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_names_of_files_that_are_no_text(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    Image.new("RGB", (8, 4), (7, 0, 0)).save(tmp_path / "plain.png")
    path.write_bytes((tmp_path / "plain.png").read_bytes())
    dataset = ImageFiles([path], [0], cache=tmp_path / "cache")
    assert dataset[0][0][0].unique().tolist() == [7] and len(list((tmp_path / "cache").iterdir())) == 1
    assert dataset.digest() != ImageFiles([tmp_path / "plain.png"], [0]).digest()


@pytest.mark.parametrize(
    "labels, message",
    [
        ([0, 1, 1], r"labels of shape \(3,\) for 2 files: expected one label a file"),
        ([[0], [1]], r"labels of shape \(2, 1\) for 2 files"),
        ([0.7, 1.9], "labels of type float64: expected whole numbers, positions in classes"),
        (["cat", "dog"], "labels of type <U3: expected whole numbers"),
        ([0, 2], "labels from 0 to 2 for 2 classes: expected positions in classes"),
        ([-1, 0], "labels from -1 to 0 for 2 classes"),
    ],
)
def test_image_files_with_other_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        ImageFiles(["a.png", "b.png"], labels, classes=("cat", "dog"))


def test_colon_splits_without_the_real_data(colon):
    for scheme in ("stratified", "runs"):
        tested = []
        for fold in range(5):
            train, test = (ColonCancer(colon, split, fold=fold, scheme=scheme) for split in ("train", "test"))
            assert sorted(train.ids + test.ids) == list(range(1, 101))
            assert [n % 2 for n in test.ids] == test.labels.tolist()
            if scheme == "stratified":
                assert test.class_counts().tolist() == [10, 10]
            tested += test.ids
        assert sorted(tested) == list(range(1, 101))
        assert ColonCancer(colon, "test", scheme=scheme, seed=1).ids != ColonCancer(colon, "test", scheme=scheme).ids


def test_colon_points_that_are_none(colon):
    path = colon / "Classification" / "img4" / "img4_epithelial.mat"
    savemat(path, {"detection": np.array([[1.0, np.nan]])})
    with pytest.raises(DataError, match="expected finite numbers"):
        ColonCancer(colon)


def test_the_window_shows_the_largest_sign(german, tmp_path):
    (german / "gt.txt").write_text("00000.ppm;0;0;6;6;2\n00000.ppm;100;40;120;60;2\n")
    for seed in range(5):
        windows = SignWindows(GTSDB(tmp_path), (30, 30), margin=2, seed=seed)
        assert [box[2] - box[0] for box in windows.boxes(0)] == [20]


def test_the_pan_is_that_of_the_image_size(german, tmp_path):
    assert experiment.load_data("laptop", tmp_path).augment.shift == 8  # of 80 rows, as 100 of 960


def test_a_digest_does_not_depend_on_the_order_of_equal_names(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(name.encode())
    files = [tmp_path / name / "1.png" for name in "ab"]
    assert files_digest(files) == files_digest(reversed(files))


def test_digests_tell_contents_apart(tmp_path):
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.png").write_bytes(content)
    one, again, other = (files_digest([tmp_path / name / "same.png"]) for name in "abc")
    assert one == again != other
    assert array_digest(np.arange(3)) != array_digest(np.array([0, 1, 3]))


def test_what_is_wrong_with_the_colon_set_is_named(colon, monkeypatch):
    monkeypatch.setattr(colon_cancer, "SIZE", 16)
    nuclei = dict(epithelial=50, fibroblast=0, inflammatory=0, others=0)
    monkeypatch.setattr(colon_cancer, "NUCLEI", nuclei), monkeypatch.setattr(colon_cancer, "DETECTED", 50)
    assert colon_cancer.problems(colon) == []
    monkeypatch.setattr(colon_cancer, "NUCLEI", nuclei | dict(others=1))
    assert "is it the release of 2016_04_28?" in colon_cancer.problems(colon)[0]
    savemat(colon / "Classification" / "img1" / "img1_epithelial.mat", {"detection": np.array([[3.0, 17.0]])})
    assert "img1_epithelial.mat: a nucleus outside the image, between 3 and 17" in colon_cancer.problems(colon)[0]
    assert SETS["colon_cancer"].state(colon.parents[1]) == "complete"
    assert SETS["colon_cancer"].state(colon.parents[1], thorough=True).startswith("incomplete: ")


def test_files_with_labels_that_are_no_classes(tmp_path):
    for k in range(3):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{k}.png")
    files = sorted(tmp_path.iterdir())
    counts, several = [0.5, 2, 1], [[1, 0], [0, 0], [1, 1]]
    assert [ImageFiles(files, counts, any_label=True)[k][1].item() for k in range(3)] == counts
    labelled = ImageFiles(files, several, any_label=True)
    assert labelled.labels.dtype == torch.int64 and [label.tolist() for _, label in labelled] == several
    assert InMemory(labelled, any_label=True).labels.tolist() == several
    with pytest.raises(ValueError, match=r"expected one label a file \(several numbers an image: any_label=True\)"):
        ImageFiles(files, several)
    with pytest.raises(ValueError, match="whole numbers, positions in classes; for a loss of your own, any_label=True"):
        ImageFiles(files, counts)


class Table(LabelledImages):
    """Images with a column of a table as labels."""

    def __init__(self, labels, classes=("no", "yes")):
        self.labels, self.classes = labels, classes

    def __getitem__(self, number):
        return torch.zeros(1, 4, 4, dtype=torch.uint8), self.labels.iloc[number]


def test_a_loop_over_a_set_ends_with_its_labels():
    class Endless(LabelledImages):
        classes, labels = ("no", "yes"), [0, 1, 1]

        def __getitem__(self, number):
            return torch.full((1, 4, 4), number), self.labels[number % 3]

    assert [(int(image[0, 0, 0]), label) for image, label in Endless()] == [(0, 0), (1, 1), (2, 1)]


@pytest.mark.filterwarnings("error")
def test_labels_may_be_a_column_of_a_table(tmp_path):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(dict(kind=[0, 1, 1, 0, 1], size=[0.5, 1.5, 2.5, 3.5, 4.5]))[1:]  # numbered from 1
    some = table[table["size"] != 2.5]  # with a gap
    dataset = Table(some["kind"])
    assert known_labels(dataset).tolist() == [1, 0, 1] and dataset.class_counts().tolist() == [1, 2]
    assert dataset.part([0, 2]).labels.tolist() == [1, 1] and dataset.part(some["kind"] == 0).labels.tolist() == [0]
    assert known_labels(Subset(dataset, np.flatnonzero(some["kind"] == 1))).tolist() == [1, 1]
    assert known_labels(Table(some["kind"].to_numpy())).tolist() == [1, 0, 1]  # nobody may write into it
    with pytest.warns(UserWarning, match="of class no, 1 image: one of the two parts has none"):
        assert len(dataset.split(0.5)[0]) == 2
    ((_, labels),) = Loader(dataset, "cpu").batches([[0, 1, 2]])
    assert labels.tolist() == [1, 0, 1]
    for k in range(3):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{k}.png")
    files = sorted(tmp_path.iterdir())
    assert ImageFiles(files, some["kind"]).labels.tolist() == [1, 0, 1]
    for numbers in (some["size"], some["size"].to_numpy(), some[["kind", "size"]]):
        labelled = ImageFiles(files, numbers, any_label=True)
        assert labelled.labels.dtype == torch.float32 and labelled.labels.tolist() == np.asarray(numbers).tolist()
    counts = some["kind"].to_numpy(copy=True)
    labelled = ImageFiles(files, counts, any_label=True)
    counts[:] = 7
    assert labelled.labels.tolist() == [1, 0, 1]  # its own


@pytest.mark.filterwarnings("error")
def test_a_label_may_be_a_row_of_a_table():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(dict(kind=[0, 1], size=[0.5, 1.5]))
    for rows in (table.iloc, table.to_numpy()):
        items = [(torch.zeros(1, 4, 4), rows[k]) for k in range(2)]
        assert collate(items, any_label=True)[1].tolist() == [[0, 0.5], [1, 1.5]]
    with pytest.raises(ValueError, match="expected a number, or an array of numbers"):
        collate([(torch.zeros(1, 4, 4), pandas.Series(["a"], index=["kind"]))], any_label=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_of_ones_own_over_tensors(workers):
    images, labels = torch.rand(3, 1, 4, 5), torch.tensor([2, 0, 1], dtype=torch.int32)
    found = list(DataLoader(TensorDataset(images, labels), 2, num_workers=workers, collate_fn=collate))
    assert torch.equal(torch.cat([some for some, _ in found]), images)
    assert [numbers.tolist() for _, numbers in found] == [[2, 0], [1]] and found[0][1].dtype == torch.int64
    with pytest.raises(ValueError, match="expected a whole number, the position of the image's class"):
        collate([(images[0], 0.5)])
    assert collate([(images[0], 0.5)], any_label=True)[1].tolist() == [0.5]
    with pytest.raises(ValueError, match="images of different sizes in one batch"):
        collate([(images[0], 0), (images[0, :, 1:], 0)])
    with pytest.raises(ValueError, match="expected as many channels of each"):
        collate([(images[0], 0), (images[0].expand(3, -1, -1), 0)])
    with pytest.raises(ValueError, match="expected each item of the set to be"):
        collate([images[0]])


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "P"])
def test_a_tiff_that_lies_on_its_side(mode, orientation, tmp_path):
    """Uncompressed in one strip, some kinds are mapped into memory by Pillow, with their sides mixed up."""
    file = tmp_path / "scan.tif"
    left = Image.new("L", (6, 4), 0)
    left.paste(255, (0, 0, 3, 4))
    left.convert(mode).save(file, tiffinfo={274: orientation})
    turn = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}[orientation]
    expected = np.asarray(left.transpose(turn) if turn is not None else left)
    pixels = read_image(file)
    assert (pixels[0] > 127).tolist() == (expected > 127).tolist()
    assert image_size(file) == tuple(pixels.shape[1:])


def test_cached_images_hold_no_file_open(tmp_path):
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc to count open files in")
    for k in range(20):
        Image.new("RGB", (8, 6), (k, 0, 0)).save(tmp_path / f"{'画' * 80}{k:02}.png")  # 246 bytes; the cache has its own suffix
    files = ImageFiles(sorted(tmp_path.glob("*.png")), [0] * 20, cache=tmp_path / "cache")
    before = len(os.listdir("/proc/self/fd"))
    kept = [files[k][0] for k in range(20)] + [files[k][0] for k in range(20)]
    assert len(os.listdir("/proc/self/fd")) == before
    for once, again, file in zip(kept[:20], kept[20:], files.files, strict=True):
        assert torch.equal(once, again) and torch.equal(once, read_image(file))
    kept[0].zero_()  # its own copy
    assert torch.equal(files[0][0], kept[20])


def test_cached_images_come_from_workers_one_by_one(tmp_path):
    """Of several sizes they are not put together, but sent as they are."""
    for k in range(3):
        Image.new("RGB", (8 + k, 6), (k, 0, 0)).save(tmp_path / f"{k}.png")
    files = ImageFiles(sorted(tmp_path.glob("*.png")), [0, 0, 0], cache=tmp_path / "cache")
    for _ in range(2):  # decoded, and from the cache
        (batch,) = DataLoader(files, 3, num_workers=1, collate_fn=list, timeout=60)
        assert [torch.equal(image, read_image(file)) for (image, _), file in zip(batch, files.files, strict=True)] == [True] * 3
