"""What the data sets cost and what the stand-ins are worth.

    python benchmarks/data.py [PART …] [--record]

Parts: `throughput` (images a second into a batch, view and patches included), `generator` (Megapixel MNIST, one core, and its
memory), `counts` (classes of the real sets), `tissue` (neighbours in the colon cancer set), `digits` (what a view at 0.3 of the
generated roads still shows), `signs` (what can be read of the signs on photographs, cut out, at full size and at 0.3; an
hour, and only when named), `sampling` (attention sampling against uniform sampling on the stand-ins; about ten minutes, and
only when named). With --record, the outcome goes into benchmarks/data.json, from which the book quotes.
"""

import argparse
import json
import os
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from atslib.data import (
    GTSDB,
    Augmentation,
    ColonCancer,
    DataError,
    GeneratedHistology,
    GeneratedRoads,
    LabelledImages,
    MegapixelMNIST,
    SpeedLimits,
)
from atslib.experiments.records import hardware, software
from atslib.experiments.summary import balanced_error
from atslib.models import AttentionSampling, DownsampledCNN
from atslib.networks import AttentionNetwork, Classifier, ResNet8Features, UniformAttention, UnitNorm
from atslib.patches import downsample, extract_patches, low_size
from atslib.training import Settings, evaluate, train

RECORD = Path(__file__).with_suffix(".json")


# ---------------------------------------------------------------------------------------------------------------------
# Throughput


class Prepared(Dataset):
    """What a model needs of each image: the view and ten patches, cut out in the worker."""

    def __init__(self, dataset: Dataset, scale: float, patch: int, n_patches: int = 10):
        self.dataset, self.scale, self.patch, self.n_patches = dataset, scale, patch, n_patches

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int):
        image, label = self.dataset[number]
        image = image[None]
        room = torch.tensor(image.shape[2:]) - self.patch
        corners = (torch.rand(1, self.n_patches, 2, generator=torch.Generator().manual_seed(number)) * room).long()
        return downsample(image, low_size(image.shape[2:], self.scale))[0], extract_patches(image, corners, self.patch)[0], label


def real(kind, **options):
    """A set if it is here, else None."""
    try:
        return kind(**options)
    except DataError as error:
        print(f"{kind.__name__} left out: {error}", file=sys.stderr)
        return None


def throughput() -> dict:
    """Images a second with two workers, whole images and prepared ones."""
    sets = {
        "Megapixel MNIST, 1500²": (MegapixelMNIST(n_images=400), 0.12, 50),
        "colon cancer, 500²": (real(ColonCancer), 0.2, 27),
        "GTSDB, 800 × 1360": (real(GTSDB, split="test", limits="all"), 0.3, 100),
        "generated histology, 500²": (GeneratedHistology(n_images=96), 0.2, 27),
        "generated roads, 960 × 1280": (GeneratedRoads(n_images=64), 0.3, 100),
    }
    # What else runs on the machine takes its share: one process ready to run for each core is the least that makes a difference.
    found = {"load average before": round(os.getloadavg()[0], 1)}
    for name, (dataset, scale, patch) in sets.items():
        if dataset is None:
            continue
        found[name] = {
            "images": round(rate(dataset), 1),
            "view and patches": round(rate(Prepared(dataset, scale, patch)), 1),
        }
        print(f"{name:30s} {found[name]['images']:7.1f} images/s; with view and patches {found[name]['view and patches']:7.1f}")
    return found


def one_thread(worker: int) -> None:
    """In a worker. A function of the module, since workers that are not forked get it by its name."""
    torch.set_num_threads(1)


def rate(dataset: Dataset, at_most: int = 96) -> float:
    """Images a second over an epoch, with workers that have started already."""
    dataset = Subset(dataset, range(min(at_most, len(dataset))))
    options = dict(num_workers=2, persistent_workers=True, worker_init_fn=one_thread)
    batches = DataLoader(dataset, batch_size=8, **options)
    for _ in batches:
        pass
    start = time.perf_counter()
    count = sum(len(labels) for *_, labels in batches)
    return count / (time.perf_counter() - start)


def generator() -> dict:
    """Megapixel MNIST on one core: images a second, and memory while 5,000 are drawn."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    dataset = MegapixelMNIST()
    for number in range(100):
        dataset[number]
    before, start, spent = memory(), time.perf_counter(), time.process_time()
    marks = []
    for number in range(len(dataset)):
        dataset[number]
        if number % 1000 == 999:
            marks.append(round(memory() - before, 1))
    found = {
        "images": round(len(dataset) / (time.perf_counter() - start), 1),
        # The same if nobody else used the core: what counts where other work runs beside.
        "images_per_cpu_second": round(len(dataset) / (time.process_time() - spent), 1),
        "growth_mb": marks,
    }
    torch.set_num_threads(threads)
    print(
        f"Megapixel MNIST, one core: {found['images']:.0f} images/s, {found['images_per_cpu_second']:.0f} a second of CPU; "
        f"memory after each 1,000 images: {marks} MB more"
    )
    return found


def memory() -> float:
    """Resident memory now, in MB; the highest so far where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


# ---------------------------------------------------------------------------------------------------------------------
# What is in the real sets


def counts() -> dict:
    """Images of each class."""
    sets = {"colon cancer": real(ColonCancer)}
    for split in ("train", "test"):
        sets[f"GTSDB {split}"] = real(GTSDB, split=split, limits="all")
    found = {
        name: dict(zip(dataset.classes, dataset.class_counts().tolist(), strict=True))
        for name, dataset in sets.items()
        if dataset is not None
    }
    for name, classes in found.items():
        print(f"{name}: {classes}")
    return found


def tissue() -> dict:
    """How often the image whose colours are nearest is a neighbour in number, and glands without marked nuclei."""
    dataset = real(ColonCancer)
    if dataset is None:
        return {}
    images = torch.stack([dataset[i][0] for i in range(len(dataset))]).flatten(2).float()  # (100, 3, pixels)
    colours = torch.cat([images.mean(2), images.std(2)], dim=1)  # (100, 6)
    colours = (colours - colours.mean(0)) / colours.std(0)
    distance = torch.cdist(colours, colours).fill_diagonal_(float("inf"))
    nearest = distance.argmin(1)
    apart = (nearest - torch.arange(len(dataset))).abs()
    unmarked = {}
    for i in range(len(dataset)):
        if dataset.labels[i] == 0 and len(dataset.detected(i)):
            marked = sum(map(len, dataset.nuclei(i).values()))
            unmarked[dataset.ids[i]] = round(1 - marked / len(dataset.detected(i)), 2)
    found = {
        "nearest_is_next": round((apart <= 1).double().mean().item(), 2),
        "nearest_within_3": round((apart <= 3).double().mean().item(), 2),
        "chance_next": round(2 * 99 / 100 / 99, 2),
        "nearest_has_same_label": round((dataset.labels[nearest] == dataset.labels).double().mean().item(), 2),
        "unmarked_share_of_negatives": dict(sorted(unmarked.items(), key=lambda item: -item[1])[:8]),
    }
    print(found)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# What the stand-ins are worth


def crops(split: str, n_images: int, scale: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """48 × 48 pixels around signs that set a limit, and around places without a sign; seen at ``scale``, shown at one size.

    Returns:
        signs (M, 3, 48, 48), which limit (M,), places without (M', 3, 48, 48).
    """
    dataset = GeneratedRoads(split, n_images, (240, 320))
    random = torch.Generator().manual_seed(0)
    signs, limits, places = [], [], []
    side = round(48 * scale)
    for number in range(n_images):
        image, label = dataset[number]
        view = downsample(image[None], low_size(dataset.size, scale))

        def cut(row: float, column: float, view=view) -> torch.Tensor:
            corner = torch.tensor([[[round(row * scale - side / 2), round(column * scale - side / 2)]]])
            return F.interpolate(extract_patches(view, corner, side)[0], (48, 48), mode="bilinear")[0]

        boxes = [sign.box for sign in dataset.signs(number)]
        for left, top, right, bottom in dataset.boxes(number):
            signs.append(cut((top + bottom) / 2, (left + right) / 2))
            limits.append(label - 1)
        for _ in range(10):
            row, column = (torch.rand(2, generator=random) * torch.tensor([240.0, 320.0])).tolist()
            if all(abs(row - (t + b) / 2) > 40 or abs(column - (l + r) / 2) > 40 for l, t, r, b in boxes):
                places.append(cut(row, column))
                break
    return torch.stack(signs), torch.tensor(limits), torch.stack(places)


def small_cnn(classes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 9, classes))


def fit(images, labels, test_images, test_labels, epochs: int = 12) -> float:
    """Test error of a small network, all else equal."""
    torch.manual_seed(0)
    network = small_cnn(int(labels.max()) + 1)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    loader = DataLoader(TensorDataset(images, labels), 32, shuffle=True, generator=torch.Generator().manual_seed(0))
    for _ in range(epochs):
        for some, which in loader:
            loss = F.cross_entropy(network(some), which)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    network.eval()
    with torch.no_grad():
        return round((network(test_images).argmax(1) != test_labels).double().mean().item(), 3)


def digits() -> dict:
    """Error of telling 50, 70 and 80 apart, and of telling a sign from none, at full size and at 0.3."""
    found = {}
    for scale in (1.0, 0.3):
        (signs, limits, places), (test_signs, test_limits, test_places) = crops("train", 800, scale), crops("test", 400, scale)
        which = fit(signs, limits, test_signs, test_limits)
        there = fit(
            torch.cat([signs, places]),
            torch.tensor([1] * len(signs) + [0] * len(places)),
            torch.cat([test_signs, test_places]),
            torch.tensor([1] * len(test_signs) + [0] * len(test_places)),
        )
        found[str(scale)] = {"which_limit": which, "sign_or_none": there, "n_test": len(test_signs)}
        print(f"scale {scale}: error of 50/70/80 {which:.3f} (chance 0.667), of sign or none {there:.3f}")
    return found


class CutOutSigns(LabelledImages):
    """100 × 100 pixels of each photograph, around the sign that gives it its label.

    Of class ``none``: around another sign if there is one, else around any place.
    """

    def __init__(self, photographs: SpeedLimits):
        self.classes, self.labels = photographs.classes, photographs.labels
        place = torch.Generator().manual_seed(0)
        found = []
        for number in range(len(photographs)):
            image, _ = photographs[number]
            boxes = photographs.boxes(number) or [sign.box for sign in photographs.signs(number)]
            left, top, right, bottom = max(boxes, key=lambda box: box[2] - box[0], default=(0, 0, 0, 0))
            middle = torch.tensor([top + bottom, left + right]) / 2
            if not boxes:
                middle = torch.rand(2, generator=place) * torch.tensor(image.shape[1:])
            found.append(extract_patches(image[None], (middle - 50).long()[None, None], 100)[0, 0])
        self.images = torch.stack(found)

    def __getitem__(self, number: int):
        return self.images[number], int(self.labels[number])


def signs() -> dict:
    """Errors of the paper's feature network on signs that somebody has found for it, at full size and in the view at 0.3.

    Which limit (``"paper"``), and is it any of the eight (``"any"``)? And while it trains: how long does learning to read take?
    """
    settings = Settings(epochs=150, batch_size=16, schedule="cosine", balanced=True, test_every=10)
    found = {}
    for limits in ("paper", "any"):
        photographs = [real(GTSDB, split=split, limits=limits) for split in ("train", "test")]
        if None in photographs:
            return {}
        train_set, test_set = map(CutOutSigns, photographs)
        found[limits] = {"n_train": train_set.class_counts().tolist(), "every_epochs": settings.test_every}
        for scale in (1.0, 0.3):
            found[limits][str(scale)] = [
                read_signs(train_set, test_set, scale, replace(settings, seed=seed)) for seed in range(3)
            ]
    return found


def read_signs(train_set: CutOutSigns, test_set: CutOutSigns, scale: float, settings: Settings) -> dict:
    """One training: errors on both sets as it goes, the second balanced, and the confusion matrix (true, answered) after it."""
    torch.manual_seed(settings.seed)
    model = DownsampledCNN(ResNet8Features(norm="batch"), Classifier(32, len(train_set.classes), scale=16.0), scale)
    found = {"train_error": [], "balanced_error": []}

    def watch(entry: dict) -> None:
        if entry["epoch"] % settings.test_every == 0:
            found["train_error"].append(round(entry["train_error"], 3))
            found["confusion"] = evaluate(model, test_set, progress=False)["confusion"].tolist()
            found["balanced_error"].append(round(balanced_error(found["confusion"]), 3))

    augment = Augmentation(contrast=0.2, brightness=0.1, shift=20)
    train(model, train_set, None, settings, augment=augment, on_epoch=watch, progress=False)
    print(f"{len(train_set.classes)} classes, scale {scale}, seed {settings.seed}: {found['confusion']}", flush=True)
    return found


def features(width: int = 32) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after, stride in ((3, 16, 2), (16, width, 1), (width, width, 2), (width, width, 2)):
        layers += [nn.Conv2d(before, after, 3, stride=stride, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), UnitNorm())


def attention(pool: int) -> AttentionNetwork:
    layers: list[nn.Module] = []
    for before, after in ((3, 8), (8, 16), (16, 16)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return AttentionNetwork(*layers, nn.Conv2d(16, 1, 3, padding=1), nn.MaxPool2d(pool))


def kept(dataset: Dataset) -> TensorDataset:
    """All of a set in memory: it is looked at many times."""
    images, labels = zip(*DataLoader(dataset, batch_size=16, num_workers=2), strict=True)
    return TensorDataset(torch.cat(images), torch.cat(labels))


def sampling() -> dict:
    """Test error of attention sampling and of uniform sampling, same features, same number of patches, one seed."""
    roads = dict(size=(160, 208), sign_width=(24, 36))
    tasks = {
        "generated histology": (GeneratedHistology, dict(size=256), (600, 300), 0.2, 32, 5, 2, 8),
        "generated roads": (GeneratedRoads, roads, (1200, 300), 0.3, 56, 6, 4, 40),
    }
    found = {}
    for name, (kind, options, (n_train, n_test), scale, patch, n_patches, pool, epochs) in tasks.items():
        train_set, test_set = kept(kind("train", n_train, **options)), kept(kind("test", n_test, **options))
        found[name] = {"n_train": n_train, "n_test": n_test, "patches": n_patches, "patch": patch, "epochs": epochs, **options}
        for method in ("uniform", "ats"):
            torch.manual_seed(0)
            looks = attention(pool)
            model = AttentionSampling(
                looks if method == "ats" else UniformAttention.like(looks),
                features(),
                Classifier(32, len(kind.classes), scale=16.0),
                patch_size=patch,
                n_patches=n_patches,
                scale=scale,
                estimator="systematic",
            )
            settings = Settings(epochs=epochs, batch_size=16, learning_rate=3e-3, schedule="cosine", entropy_weight=0.01)
            curve = train(model, train_set, None, settings, progress=False)
            tested = evaluate(model, test_set, progress=False)
            found[name][method] = {
                "train_error": round(curve[-1]["train_error"], 3),
                "test_error": round(tested["error"], 3),
                "stderr": round(tested["stderr"], 3),
                "seconds": curve[-1]["seconds"],
            }
            print(f"{name}, {method}: {found[name][method]}", flush=True)
    return found


PARTS = {part.__name__: part for part in (throughput, generator, counts, tissue, digits, signs, sampling)}
LONG = ("signs", "sampling")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    all_but = f"all but {' and '.join(LONG)} if none is named"
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; {all_but}")
    parser.add_argument("--record", action="store_true", help=f"write the outcome to {RECORD.name}")
    args = parser.parse_args()
    unknown = sorted(set(args.parts) - set(PARTS))
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; expected some of {', '.join(PARTS)}")
    for name in args.parts or [name for name in PARTS if name not in LONG]:
        outcome = PARTS[name]()
        if not args.record:
            continue
        record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
        record[name] = {"outcome": outcome, "hardware": hardware(torch.device("cpu")), "software": software()}
        part = RECORD.with_name(RECORD.name + ".part")
        part.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(RECORD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
