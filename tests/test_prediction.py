"""Answers about images without labels: one by one the same as all together, several looks, images that do not fit."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from atslib import AttentionSampling, DownsampledCNN
from atslib.checks import warn_of_range
from atslib.data import DataError, ImagePyramid, read_image
from atslib.loading import seed_for
from atslib.models import Output, evaluating
from atslib.networks import AttentionNetwork, Classifier, LeNetFeatures, ResNet8
from atslib.prediction import Prediction, predict
from atslib.training import Settings, evaluate, train


def model(seed=0):
    torch.manual_seed(seed)
    attention = AttentionNetwork(nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 1, 3, padding=1))
    features, classifier = LeNetFeatures(width=32), Classifier(32, 3, scale=16)
    return AttentionSampling(attention, features, classifier, patch_size=20, n_patches=3, scale=0.25)


def images(n=5):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 60 + 8 * k, 80, generator=generator) for k in range(n)]  # of different sizes


class Labelled(Dataset):
    """As a data set has them, with a label that nobody knows."""

    def __len__(self):
        return 5

    def __getitem__(self, number):
        return images()[number], None


def test_answers_are_the_models():
    trained, pictures = model().train(), images()
    found = predict(trained, pictures, looks=3, seed=7, progress=False)
    assert trained.training and found.looks.shape == (5, 3, 3)
    trained.eval()
    for number, image in enumerate(pictures):
        draws = torch.Generator().manual_seed(seed_for("draws", 7, number))
        for look in range(3):
            with torch.no_grad():
                expected = trained(image[None], generator=draws).logits[0]
            assert torch.equal(found.looks[number, look], expected)
    assert not torch.equal(found.looks[:, 0], found.looks[:, 1])  # each look draws anew


def test_an_images_answer_does_not_depend_on_others():
    trained, pictures = model(), images()
    all_of_them = predict(trained, pictures, progress=False).looks
    assert torch.equal(predict(trained, pictures[:2], progress=False).looks, all_of_them[:2])
    assert torch.equal(predict(trained, Labelled(), progress=False).looks, all_of_them)
    assert torch.equal(predict(trained, Labelled(), workers=2, progress=False).looks, all_of_them)
    assert not torch.equal(predict(trained, pictures, seed=1, progress=False).looks, all_of_them)


def test_what_is_made_of_the_looks():
    looks = torch.tensor([[[0.0, 2.0], [4.0, 0.0]], [[1.0, 3.0], [1.0, 3.0]]])
    found = Prediction(looks)
    assert found.logits.tolist() == [[2, 1], [1, 3]] and found.predicted.tolist() == [0, 1]
    torch.testing.assert_close(found.probabilities, torch.tensor([[2.0, 1.0], [1.0, 3.0]]).softmax(1))
    first = torch.tensor([0.0, 2.0]).softmax(0), torch.tensor([4.0, 0.0]).softmax(0)
    torch.testing.assert_close(found.spread[0], (first[0] - first[1]).abs() / 2**0.5)
    assert found.spread[1].tolist() == [0, 0]
    assert Prediction(looks[:, :1]).spread.isnan().all()


def test_options_and_models_without_draws():
    trained, pictures = model(), images(2)
    many = predict(trained, pictures, n_patches=200, progress=False).logits
    full = torch.cat([trained.exact(image[None]).logits for image in pictures]).detach()
    few = predict(trained, pictures, n_patches=1, progress=False).logits
    assert (many - full).abs().max() < (few - full).abs().max()
    cnn = DownsampledCNN(ResNet8(1, 4), Classifier(4, 3))
    assert predict(cnn, pictures, looks=2, progress=False).spread.max() == 0


def test_what_does_not_fit_is_named():
    trained = model()
    with pytest.raises(ValueError, match="0 images"):
        predict(trained, [])
    for looks in (0, 1.5):
        with pytest.raises(ValueError, match=f"looks={looks}: expected a whole number"):
            predict(trained, images(1), looks=looks)
    bad = images(3)
    bad[1] = torch.full((1, 60, 80), float("nan"))
    with pytest.raises(ValueError, match=r"image 1: .*NaN"):
        predict(trained, bad, progress=False)
    bad[1] = torch.zeros(1, 8, 8)
    with pytest.raises(ValueError, match="image 1: "):
        predict(trained, bad, progress=False)


def test_what_is_no_set_of_images_is_named():
    with pytest.raises(ValueError, match="a DataLoader for a set: expected the set itself"):
        predict(model(), DataLoader(images()))
    with pytest.raises(ValueError, match="a generator for a set"):
        predict(model(), (image for image in images()))
    with pytest.raises(ValueError, match="a generator for predict: expected a seed"):
        predict(model(), images(), generator=torch.Generator())


def test_an_answer_that_is_not_finite_is_no_class():
    trained = model()
    trained.classifier.linear.weight.data[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="image 0: logits that are not finite"):
        predict(trained, images(), progress=False)


def test_a_class_may_be_ruled_out():
    class RuledOut(nn.Module):
        def forward(self, image, generator=None):
            return Output(logits=torch.tensor([[1.0, -torch.inf]]), log_attention=None, index=None, pooled=torch.zeros(1, 1))

    assert predict(RuledOut(), images(1), progress=False).probabilities.tolist() == [[1, 0]]


def test_floating_point_images_of_another_range_are_warned_of():
    with pytest.warns(UserWarning, match="floating-point images up to 255, which the networks see as they are"):
        predict(model(), [torch.full((1, 60, 80), 255.0)], progress=False)


def test_an_output_of_ones_own_will_do():
    class Constant(nn.Module):
        def forward(self, image, generator=None):
            return Output(logits=torch.tensor([[1.0, 2.0]]), log_attention=None, index=None, pooled=torch.zeros(1, 1))

    assert predict(Constant(), images(1), progress=False).predicted.tolist() == [1]


def test_view_and_attention_are_computed_once_an_image():
    trained, pictures, calls = model(), images(), []
    trained.attention.register_forward_hook(lambda *_: calls.append(1))
    predict(trained, pictures, looks=4, progress=False)
    assert len(calls) == len(pictures)


def test_what_is_no_image_and_what_is_no_option_is_named():
    with pytest.raises(ValueError, match=r"image 0 is a dict: expected a tensor \(C, H, W\)"):
        predict(model(), [dict(image=images()[0])], progress=False)
    with pytest.raises(TypeError, match=r"predict\(\) has no argument 'num_workers', .* it is called workers here"):
        predict(model(), images(), num_workers=2)
    with pytest.raises(TypeError, match=r"predict\(\) has no argument 'patches', and AttentionSampling.forward\(\) has none$"):
        predict(model(), images(), patches=2)
    assert predict(model(), images(), n_patches=2, progress=False).looks.shape == (5, 1, 3)


def test_a_model_with_a_call_of_its_own_is_asked_as_it_is():
    class Located(AttentionSampling):
        def forward(self, image, *, generator=None):
            return super().forward(image, generator=generator)

    trained = model()
    mine = Located(trained.attention, trained.features, trained.classifier, patch_size=20, n_patches=3, scale=0.25)
    one, other = (predict(some, images(), looks=3, progress=False).looks for some in (mine, trained))
    assert torch.equal(one, other)


def test_a_batch_in_the_place_of_an_image_is_named():
    with pytest.raises(ValueError, match=r"image 1 of shape \(1, 1, 60, 80\): expected \(C, H, W\), one image an item"):
        predict(model(), [images()[0], images()[0][None]], progress=False)


def test_numbers_and_several_labels_are_read_as_they_are_meant():
    numbers = Prediction(torch.tensor([[[0.0], [5.0], [10.0]]]))
    assert numbers.answers.tolist() == [[5]] and numbers.spread.tolist() == [[5]]
    several = Prediction(torch.tensor([[[-3.0, 2.0], [-1.0, 2.0]]]), torch.sigmoid)
    torch.testing.assert_close(several.answers, torch.tensor([[-2.0, 2.0]]).sigmoid())
    torch.testing.assert_close(several.spread[0, 0], torch.tensor([-3.0, -1.0]).sigmoid().std())
    classes = Prediction(torch.tensor([[[0.0, 2.0]]]))
    torch.testing.assert_close(classes.answers, classes.probabilities)
    for found, said in ((numbers, "a single output"), (several, "an answer of the caller's")):
        for what in ("probabilities", "predicted"):
            with pytest.raises(ValueError, match=f"{what} of {said}: expected the outputs of classes"):
                getattr(found, what)
    assert predict(model(), images(1), answer=torch.sigmoid, progress=False).answer is torch.sigmoid


def test_files_are_read():
    Image = pytest.importorskip("PIL.Image")

    class Named(Dataset):
        """A set of the same files."""

        def __len__(self):
            return 2

        def __getitem__(self, number):
            return str(files[number])

    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{k}.png") for k in range(2)]
        for k, file in enumerate(files):
            Image.new("RGB", (80, 60 + 8 * k), (40 * k, 90, 10)).save(file)
        torch.manual_seed(0)
        attention = AttentionNetwork(nn.Conv2d(3, 1, 3, padding=1))
        features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten())
        trained = AttentionSampling(attention, features, Classifier(8, 3), patch_size=20, n_patches=3, scale=0.25)
        expected = predict(trained, [read_image(file) for file in files], progress=False).looks
        assert torch.equal(predict(trained, files, progress=False).looks, expected)
        assert torch.equal(predict(trained, Named(), progress=False).looks, expected)


def test_the_full_model_answers_once():
    trained, pictures = model(), images(2)
    found = predict(trained, pictures, exact=True, chunk=50, progress=False)
    expected = torch.cat([trained.eval().exact(image[None]).logits for image in pictures]).detach()
    torch.testing.assert_close(found.logits, expected)
    with pytest.raises(ValueError, match="the full model draws nothing"):
        predict(trained, pictures, looks=2, exact=True, progress=False)
    with pytest.raises(TypeError, match=r"no argument 'n_patches', and AttentionSampling\.exact\(\) has none"):
        predict(trained, pictures, exact=True, n_patches=3, progress=False)
    with pytest.raises(ValueError, match="exact=True for a DownsampledCNN: it has no method exact"):
        predict(DownsampledCNN(nn.Flatten(), nn.Identity()), pictures, exact=True, progress=False)
    with pytest.raises(ValueError, match=r"AveragedModel: it has no method exact; the model that it wraps may have"):
        predict(torch.optim.swa_utils.AveragedModel(trained), pictures, exact=True, progress=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_may_be_skipped(tmp_path, workers):
    Image = pytest.importorskip("PIL.Image")
    trained, paths = model(), [tmp_path / f"{k}.png" for k in range(4)]
    for path in paths:
        Image.effect_noise((120, 100), 50).convert("RGB").save(path)
    trained.features = nn.Sequential(nn.Conv2d(3, 1, 1), trained.features)
    trained.attention = AttentionNetwork(nn.Conv2d(3, 1, 3, padding=1))
    expected = predict(trained, paths, looks=2, progress=False)
    assert not expected.unread
    paths[2].write_bytes(paths[2].read_bytes()[:500])
    with pytest.raises(DataError, match=r"2\.png"):
        predict(trained, paths, progress=False, workers=workers)
    with pytest.warns(UserWarning, match=r"1 of 4 images could not be read, the first of them image 2: .*2\.png"):
        found = predict(trained, paths, looks=2, skip_unreadable=True, progress=False, workers=workers)
    assert list(found.unread) == [2] and "2.png" in found.unread[2] and found.predicted[2] == -1
    assert found.looks[2].isnan().all() and found.probabilities[2].isnan().all() and found.spread[2].isnan().all()
    others = [0, 1, 3]
    assert torch.equal(found.looks[others], expected.looks[others])
    assert torch.equal(found.predicted[others], expected.predicted[others])
    with pytest.raises(DataError, match="1 of 1 images could not be read"):
        predict(trained, paths[2:3], skip_unreadable=True, progress=False, workers=workers)


def test_an_image_of_which_a_part_is_damaged_may_be_skipped():
    class Damaged(ImagePyramid):
        def read_patches(self, top_left, size, fill):
            raise DataError("tile 7 is no JPEG")

    pixels = np.random.default_rng(0).integers(0, 256, (120, 100, 1), dtype=np.uint8)
    with pytest.warns(UserWarning, match="1 of 2 images could not be read, the first of them image 0: tile 7 is no JPEG"):
        found = predict(model(), [Damaged([pixels]), ImagePyramid([pixels])], skip_unreadable=True, progress=False)
    assert found.unread == {0: "tile 7 is no JPEG"} and found.looks[1].isfinite().all()


def test_one_change_of_mode_within_another_is_undone():
    """As of two threads that ask one model: the first to come finds it training, and leaves it so."""
    trained = model()
    frozen = trained.features.eval()
    trained.train(), frozen.eval()
    first, second = evaluating(trained), evaluating(trained)
    for step in (first.__enter__, second.__enter__):
        step()
        assert not any(module.training for module in trained.modules())
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert trained.training and trained.attention.training and not any(module.training for module in frozen.modules())


def test_what_predict_does_not_take_is_named():
    with pytest.raises(ValueError, match=r"one image for predict: expected several, \[image\]"):
        predict(model(), images(1)[0], progress=False)
    with pytest.raises(ValueError, match="return_patches for predict, which keeps logits only"):
        predict(model(), images(1), return_patches=True, progress=False)


@pytest.mark.parametrize(
    "word, value, said",
    [
        ("low", torch.rand(1, 1, 10, 10), "which is one image's: call the model"),
        ("log_attention", torch.zeros(1, 10, 10), "which is one image's: call the model"),
        ("return_patches", True, "which keeps logits only: call the model"),
        ("generator", torch.Generator(), "expected a seed"),
    ],
)
@pytest.mark.parametrize("function", [predict, evaluate])
def test_what_is_one_calls_is_refused(function, word, value, said):
    with pytest.raises(ValueError, match=f"{word} for {function.__name__}.*{said}"):
        function(model(), [(torch.rand(1, 40, 40), 0)] * 2, progress=False, **{word: value})


class Answering(nn.Module):
    """A model that makes logits as it is told."""

    def __init__(self, make):
        super().__init__()
        self.make, self.layer = make, nn.Linear(1, 3)

    def forward(self, image, generator=None):
        return self.make(self.layer(image.mean((2, 3))))


def output(logits):
    return Output(logits=logits, log_attention=None, index=None, pooled=None)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda logits: logits, "returned a Tensor: expected an atslib.models.Output"),
        (lambda logits: output(logits[:, 0]), r"returned logits of shape \({n},\) for a batch of {n}: expected \({n}, outputs\)"),
        (lambda logits: output(logits[:, None]), r"returned logits of shape \({n}, 1, 3\) for a batch of {n}"),
        (lambda logits: output(logits.repeat(2, 1)), r"returned logits of shape \({twice}, 3\) for a batch of {n}"),
        (lambda logits: output(logits.tolist()), "returned logits of type list for a batch of {n}"),
        (lambda logits: output(logits[:, :0]), r"returned logits of shape \({n}, 0\) for a batch of {n}"),
    ],
    ids=["no output", "a number each", "a further axis", "too many", "a list", "none"],
)
def test_what_is_no_logits_is_named(make, said):
    answering, pairs = Answering(make), [(torch.rand(1, 40, 40), 0)] * 4
    of_two = f"Answering {said.format(n=2, twice=4)}"
    with pytest.raises(ValueError, match=f"^{of_two}"):
        train(answering, pairs, None, Settings(batch_size=2), progress=False)
    with pytest.raises(ValueError, match=f"^{of_two}"):
        evaluate(answering, pairs, batch_size=2, progress=False)
    with pytest.raises(ValueError, match=f"^image 0: Answering {said.format(n=1, twice=2)}"):
        predict(answering, pairs, progress=False)


def test_the_image_of_other_channels_is_named():
    with pytest.raises(ValueError, match=r"image 1: the attention network .*: .* make the networks for as many channels"):
        predict(model(), [torch.rand(1, 60, 60), torch.rand(3, 60, 60)], progress=False)


def test_a_model_draws_where_it_is(monkeypatch):
    """Images brought elsewhere, as those that are too large for a GPU: the generator is the model's; "meta" stands in for one."""

    class Drawing(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))

        def forward(self, images, *, generator):
            assert images.device.type == "meta"
            logits = torch.rand(len(images), 2, generator=generator, device=self.weight.device)
            return Output(logits=logits, log_attention=None, index=None, pooled=logits)

    monkeypatch.setattr("atslib.prediction.warn_of_range", lambda *_, **__: True)  # there are no pixels to look at
    assert predict(Drawing(), [torch.zeros(1, 8, 8)] * 3, device="meta", progress=False).looks.shape == (3, 1, 2)


def test_a_column_of_a_table_is_read_in_its_order():
    """Its own brackets look a row up by its label: a sorted table would be answered in another order."""
    pandas = pytest.importorskip("pandas")
    pictures = [torch.full((1, 64, 64), value) for value in (0.2, 0.9, 0.5)]
    table = pandas.DataFrame(dict(image=pictures, risk=[1, 3, 2])).sort_values("risk", ascending=False)
    trained = model()
    answered = predict(trained, table.image, exact=True, progress=False).logits
    torch.testing.assert_close(answered, predict(trained, [pictures[i] for i in (1, 2, 0)], exact=True, progress=False).logits)
    assert len(predict(trained, table[table.risk > 1].image, progress=False).logits) == 2


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(ValueError, match=r"one path for predict: .*sorted\(Path\(folder\)\.iterdir\(\)\)"):
        predict(model(), tmp_path)
    with pytest.raises(ValueError, match=r"one path for predict: .*\[path\] for one"):
        predict(model(), tmp_path / "a.png")


@pytest.mark.parametrize(("most", "fill", "said"), [(4095.0, 0, "up to 4095"), (0.06, 0, "nearly black"), (0.9, 255, "fill=255")])
def test_the_range_of_images_in_files_is_looked_at_too(most, fill, said):
    pyramid, looking = ImagePyramid([np.full((64, 64, 1), most, np.float32)]), model()
    looking.fill = fill
    with pytest.warns(UserWarning, match=said):
        assert warn_of_range(pyramid, looking, first=True)
