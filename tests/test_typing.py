"""The package says that it is typed (py.typed): a type checker accepts what its pages tell people to write."""

import subprocess
import sys

from test_packaging import readme_examples

USES = '''
from pathlib import Path

import torch

from atslib import ESTIMATORS, AttentionSampling, downsample, extract_patches
from atslib.data import ImageFiles, ImagePyramid, MegapixelMNIST, Padded
from atslib.evaluation import evaluate
from atslib.loading import InMemory
from atslib.networks import Classifier, LeNetFeatures, MegapixelMNISTAttention
from atslib.patches import low_size
from atslib.prediction import predict
from atslib.training import Settings, train

model = AttentionSampling(MegapixelMNISTAttention(), LeNetFeatures(), Classifier(32, 10), patch_size=(50, 60))
slide = ImagePyramid.open("slide.tif")
low, log_attention = model.attend(slide)
geometry = model.geometry(slide, low, log_attention)
out, exact = model(slide), model.exact(slide)
view = downsample(torch.rand(1, 1, 100, 100), low_size(torch.rand(100, 100).shape, 0.1))
patches = extract_patches(slide, torch.zeros(1, 1, 2, dtype=torch.long), slide.shape[2:])
model.estimator = "des_raj"
model.estimator = ESTIMATORS["murthy"]
first, second = MegapixelMNIST("train", 100).split(0.2)
for image, label in second:
    image.shape
pairs = [(torch.rand(1, 100, 100), 0), (torch.rand(1, 100, 100), 1)]
for items in (first, InMemory(first), ImageFiles(["a.png", Path("b.png")], [0, 1]), pairs):
    train(model, items, second, Settings(epochs=1))
train(model, Padded(first, (200, 200)), None, Settings(balanced=True))
evaluate(model, pairs)
for images in ([Path("a.png")], ["b.png"], [torch.rand(1, 100, 100)], [slide], pairs, second):
    predict(model, images, looks=2).probabilities.sum()
'''


def test_a_type_checker_accepts_what_people_write(tmp_path):
    programs = {"readme.py": "\n".join(readme_examples()), "uses.py": USES}
    for name, program in programs.items():
        (tmp_path / name).write_text(program, encoding="utf-8")
    # Of other packages' types only what is known counts; atslib's own code is read for its signatures.
    options = ["--no-incremental", "--ignore-missing-imports", "--follow-imports=silent"]
    checked = subprocess.run([sys.executable, "-m", "mypy", *options, *programs], cwd=tmp_path, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
