"""What a checkpoint refuses, and what it survives; optimisers of the caller's own."""

import errno
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from test_training import SETTINGS, Dropping, data, model, weights, without_times
from torch import nn

from atslib.checkpoints import load_checkpoint, load_weights, save_checkpoint, save_weights, whole
from atslib.fingerprints import how_it_computes
from atslib.loading import InMemory, Loader
from atslib.models import Output
from atslib.networks import ResidualBlock, SaliencyPrior
from atslib.training import Settings, StopTraining, evaluate, train

ONE_MORE = replace(SETTINGS, schedule="constant", epochs=2)


@pytest.fixture
def begun(tmp_path):
    """A checkpoint after one epoch on images with labels that are known."""
    options = dict(checkpoint=tmp_path / "run.pt", progress=False)
    train(model(), InMemory(data()), None, replace(ONE_MORE, epochs=1), **options)
    return options


def test_other_labels_are_refused(begun):
    other = InMemory(data())
    other.labels = (other.labels + 1) % 10
    with pytest.raises(ValueError, match=r"other settings .*labels was"):
        train(model(), other, None, ONE_MORE, **begun)
    assert len(train(model(), InMemory(data()), None, ONE_MORE, **begun)) == 2


def test_other_frozen_parts_are_refused(begun):
    frozen = model()
    frozen.features.requires_grad_(False)
    with pytest.raises(ValueError, match=r"other settings .*frozen was None"):
        train(frozen, InMemory(data()), None, ONE_MORE, **begun)


def test_another_precision_of_the_weights_is_refused(begun):
    with pytest.raises(ValueError, match=r"other settings .*float32, is .*float64"):
        train(model().double(), InMemory(data()), None, ONE_MORE, **begun)


def test_a_checkpoint_from_before_labels_were_kept_goes_on(begun):
    state = torch.load(begun["checkpoint"], weights_only=True)
    del state["settings"]["labels"]
    torch.save(state, begun["checkpoint"])
    assert len(train(model(), InMemory(data()), None, ONE_MORE, **begun)) == 2


def test_nothing_is_changed_where_the_optimiser_does_not_fit(tmp_path):
    saved, other = nn.Linear(3, 2), nn.Linear(3, 2)
    save_checkpoint(tmp_path / "c.pt", saved, torch.optim.Adam(saved.parameters()), {}, {})
    before = weights(other).clone()
    groups = torch.optim.Adam([dict(params=[other.weight]), dict(params=[other.bias])])
    with pytest.raises(ValueError, match=r"groups of the optimiser were \[2\], are \[1, 1\]"):
        load_checkpoint(tmp_path / "c.pt", other, groups, {})
    assert torch.equal(weights(other), before)


class Counting(nn.Linear):
    """A layer that keeps more than tensors."""

    calls = 0

    def get_extra_state(self):
        return dict(calls=self.calls)

    def set_extra_state(self, state):
        self.calls = state["calls"]


def test_state_that_is_no_tensor_comes_back(tmp_path):
    saved, other = Counting(3, 2), Counting(3, 2)
    saved.calls = 7
    save_checkpoint(tmp_path / "c.pt", saved, torch.optim.Adam(saved.parameters()), {}, {})
    load_checkpoint(tmp_path / "c.pt", other, torch.optim.Adam(other.parameters()), {})
    assert other.calls == 7 and torch.equal(weights(other), weights(saved))


@pytest.mark.parametrize("lost", ["settings", "position", "model", "optimiser", "random"])
@pytest.mark.parametrize("how", ["missing", "nothing", "a list"])
def test_a_damaged_checkpoint_is_named(begun, lost, how):
    state = torch.load(begun["checkpoint"], weights_only=True)
    if how == "missing":
        del state[lost]
    else:
        state[lost] = None if how == "nothing" else [1, 2]
    torch.save(state, begun["checkpoint"])
    with pytest.raises(ValueError, match=r"run\.pt is no checkpoint that can be read .*delete it to start anew"):
        train(model(), InMemory(data()), None, ONE_MORE, **begun)


def test_a_disk_that_does_not_answer_is_no_reason_to_delete(begun, monkeypatch):
    def busy(*_, **__):
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="too many open files"):
        patch.setattr(torch, "load", busy)
        train(model(), InMemory(data()), None, ONE_MORE, **begun)
    assert len(train(model(), InMemory(data()), None, ONE_MORE, **begun)) == 2


def test_two_that_write_one_file_do_not_mix(tmp_path):
    """Each writes beside the place under a name of its own; the last to end is there, whole."""
    path = tmp_path / "a.bin"
    with whole(path) as first:
        first.write(b"first, half")
        with whole(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
        first.write(b" and half")
    assert path.read_bytes() == b"first, half and half" and os.listdir(tmp_path) == ["a.bin"]


def test_a_stop_in_the_callback_loses_no_epoch(tmp_path):
    told, options = [], dict(checkpoint=tmp_path / "run.pt", progress=False)

    def stopped_once(entry):
        told.append(entry["epoch"])
        if told == [1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model(), data(), data("test", 7), SETTINGS, on_epoch=stopped_once, **options)
    curve = train(model(), data(), data("test", 7), SETTINGS, on_epoch=stopped_once, **options)
    assert told == [1, 1, 2, 3]
    assert without_times(curve) == without_times(train(model(), data(), data("test", 7), SETTINGS, progress=False))


def two_rates(network):
    return torch.optim.AdamW(
        [dict(params=[*network.attention.parameters()], lr=1e-2), dict(params=[*network.features.parameters()], lr=0.0)],
        weight_decay=0.1,
    )


def test_an_optimiser_of_the_callers_follows_the_schedule_and_resumes(tmp_path):
    usual = model()
    before, bias = weights(usual.features).clone(), weights(usual.classifier).clone()
    made = []

    def noting(network):
        made.append(two_rates(network))
        return made[-1]

    curve = train(usual, data(), None, SETTINGS, optimiser=noting, progress=False)
    assert torch.equal(weights(usual.features), before) and torch.equal(weights(usual.classifier), bias)  # rate 0; in no group
    done = 3 - 1 / 3  # epochs before the last step
    scheduled = SETTINGS.learning_rate_at(done) / SETTINGS.learning_rate
    assert [group["lr"] for group in made[0].param_groups] == pytest.approx([1e-2 * scheduled, 0])
    parts, options = model(), dict(checkpoint=tmp_path / "run.pt", optimiser=two_rates, progress=False)
    while len(resumed := train(parts, data(), None, SETTINGS, max_seconds=0, **options)) < 3:
        pass
    assert torch.equal(weights(parts), weights(usual)) and without_times(resumed) == without_times(curve)
    with pytest.raises(ValueError, match="optimiser"):
        train(model(), data(), None, SETTINGS, **options | dict(optimiser=None))


def test_adam_given_by_hand_is_the_default():
    usual, given = model(), model()
    train(usual, data(), None, SETTINGS, progress=False)
    train(given, data(), None, SETTINGS, optimiser=lambda m: torch.optim.Adam(m.parameters(), lr=1e-3), progress=False)
    torch.testing.assert_close(weights(given), weights(usual))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(schedule="step", milestones=(2.9,)), "milestones=.*expected whole numbers of epochs"),
        (dict(class_weights=(1.0, -1.0)), "class_weights=.*expected numbers of at least 0"),
        (dict(class_weights=(1.0, float("nan"))), "class_weights=.*expected a finite number"),
    ],
)
def test_settings_that_make_no_sense(wrong, said):
    with pytest.raises(ValueError, match=said):
        Settings(**wrong)


def test_evaluate_refuses_what_it_cannot_count():
    with pytest.raises(ValueError, match="batch_size=0: expected a whole number, at least 1"):
        evaluate(model(), data(), batch_size=0, progress=False)

    class Lost(nn.Module):
        def forward(self, image, *, generator=None):
            logits = torch.zeros(len(image), 10)
            logits[0] = torch.nan
            return Output(logits=logits, log_attention=None, index=None, pooled=logits)

    with pytest.raises(FloatingPointError, match="logits that are not finite for 2 of 24 images"):
        evaluate(Lost(), data(), batch_size=12, progress=False)


def test_images_of_one_type_only():
    """Float numbers kept as bytes would be black, and bytes among floats 255 times too bright."""
    images = [torch.full((1, 8, 8), 200, dtype=torch.uint8), torch.full((1, 8, 8), 0.8)]
    some = [(image, 0) for image in images]
    with pytest.raises(ValueError, match=r"image 1 is of type torch\.float32: expected uint8"):
        InMemory(some)
    for any_label in (False, True):
        with pytest.raises(ValueError, match="images of types float32 and uint8 in one batch: expected one type"):
            list(Loader(some, torch.device("cpu"), any_label=any_label).batches([[0, 1]]))
    arrays = [(np.zeros((1, 8, 8), np.uint8), 0), (torch.zeros(1, 8, 8, dtype=torch.uint8), 1)]
    assert next(Loader([arrays[0]] * 2, torch.device("cpu")).batches([[0, 1]]))[0].dtype == torch.uint8
    with pytest.raises(ValueError, match="an item of 3 parts: expected each item of the set to be"):
        InMemory([(*arrays[0], "name")])
    with pytest.raises(ValueError, match="an item of type dict"):
        InMemory([dict(image=images[0], label=0)])


def test_reading_into_memory_leaves_the_global_random_numbers_alone():
    before = torch.get_rng_state()
    InMemory(data(n=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_without_attention_that_refuses_its_images_keeps_its_words(tmp_path):
    class Refusing(Dropping):
        calls = 0

        def forward(self, image, *, generator=None):
            self.calls += 1
            if self.calls > 1:
                raise ValueError("not these")
            return super().forward(image, generator=generator)

    with pytest.raises(ValueError, match="not these"):
        train(Refusing(), data(), None, SETTINGS, progress=False)


def test_numbers_of_numpy_go_into_a_checkpoint_as_plain_ones(tmp_path):
    """A learning rate out of ``np.logspace``; what a caller adds to an epoch's entry."""

    def adam(trained):
        return torch.optim.AdamW(trained.parameters(), lr=np.float64(1e-3), weight_decay=np.float32(0.5))

    def note(entry):
        entry |= dict(auc=np.float64(0.5), by_class=np.arange(2), nested=[dict(n=np.int64(3))])

    options = dict(checkpoint=tmp_path / "run.pt", optimiser=adam, on_epoch=note, progress=False)
    train(model(), data(), None, replace(ONE_MORE, epochs=1), **options)
    curve = train(model(), data(), None, ONE_MORE, **options)
    assert len(curve) == 2 and (curve[0]["auc"], curve[0]["by_class"], curve[0]["nested"]) == (0.5, [0, 1], [dict(n=3)])


def test_something_foreign_in_a_checkpoint_is_named(tmp_path):
    layer = nn.Linear(1, 1)
    parts = layer, torch.optim.SGD(layer.parameters())
    save_checkpoint(tmp_path / "c.pt", *parts, {}, dict(curve=[dict(place=PurePosixPath("a"))]))
    with pytest.raises(ValueError, match=r"it holds a pathlib.*PurePosixPath, put into an epoch's entry"):
        load_checkpoint(tmp_path / "c.pt", *parts, {})


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    layer = nn.Linear(1, 1)
    old, young, other = (tmp_path / name for name in ("c.pt.1.part", "c.pt.2.part", "d.pt.1.part"))
    for path in (old, young, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (0, 0))
    save_checkpoint(tmp_path / "c.pt", layer, torch.optim.SGD(layer.parameters()), {}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.pt", "c.pt.2.part", "d.pt.1.part"]


def weighted(weight, kind="closure"):
    """A loss that has its weight from where it was made, or as a default; and counts its calls."""
    calls = 0

    def closure(logits, labels):
        nonlocal calls
        calls += 1
        return weight * nn.functional.cross_entropy(logits, labels, reduction="none")

    def default(logits, labels, weight=weight):
        return weight * nn.functional.cross_entropy(logits, labels, reduction="none")

    return dict(closure=closure, default=default)[kind]


@pytest.mark.parametrize("kind", ["closure", "default"])
def test_a_loss_with_another_number_in_it_is_refused(tmp_path, kind):
    options = dict(checkpoint=tmp_path / "run.pt", progress=False)
    train(model(), data(), None, replace(ONE_MORE, epochs=1), loss=weighted(2, kind), **options)
    with pytest.raises(ValueError, match=r"other settings \(loss_holds was .*2.*, is .*3"):
        train(model(), data(), None, ONE_MORE, loss=weighted(3, kind), **options)
    state = torch.load(options["checkpoint"], weights_only=True)
    del state["settings"]["loss_holds"]  # as before it was kept
    torch.save(state, options["checkpoint"])
    assert len(train(model(), data(), None, ONE_MORE, loss=weighted(2, kind), **options)) == 2


def test_the_same_loss_goes_on_though_it_has_counted(tmp_path):
    options = dict(checkpoint=tmp_path / "run.pt", loss=weighted(2), progress=False)
    train(model(), data(), None, replace(ONE_MORE, epochs=1), **options)
    assert len(train(model(), data(), None, ONE_MORE, **options)) == 2


@pytest.mark.parametrize("changed", [dict(lr=1e-1), dict(weight_decay=5.0)])
def test_an_optimiser_with_other_options_is_refused(tmp_path, changed):
    same, options = dict(lr=1e-3, weight_decay=0.01), dict(checkpoint=tmp_path / "run.pt", progress=False)

    def adam(how):
        return lambda trained: torch.optim.AdamW(trained.parameters(), **how)

    train(model(), data(), None, replace(ONE_MORE, epochs=1), optimiser=adam(same), **options)
    with pytest.raises(ValueError, match=rf"other settings \(optimiser_settings was 'AdamW: .*{next(iter(changed))}"):
        train(model(), data(), None, ONE_MORE, optimiser=adam(same | changed), **options)
    with pytest.raises(ValueError, match=r"optimiser_settings was 'AdamW: .* is ''"):
        train(model(), data(), None, ONE_MORE, **options)
    assert len(train(model(), data(), None, ONE_MORE, optimiser=adam(same), **options)) == 2


@pytest.mark.parametrize("other", [torch.optim.AdamW, torch.optim.SGD])
def test_after_the_default_another_optimiser_is_refused(tmp_path, other):
    options = dict(checkpoint=tmp_path / "run.pt", progress=False)
    train(model(), data(), None, replace(ONE_MORE, epochs=1), **options)
    with pytest.raises(ValueError, match=f"optimiser_settings was '', is '{other.__name__}"):
        train(model(), data(), None, ONE_MORE, optimiser=lambda trained: other(trained.parameters(), lr=0.1), **options)
    state = torch.load(options["checkpoint"], weights_only=True)
    del state["settings"]["optimiser_settings"]  # as before it was kept
    torch.save(state, options["checkpoint"])
    assert len(train(model(), data(), None, ONE_MORE, **options)) == 2


def test_changed_code_of_a_loss_is_refused(tmp_path):
    options = dict(checkpoint=tmp_path / "run.pt", progress=False)
    losses = [lambda logits, y: (logits[:, 0] - y) ** 2, lambda logits, y: 100 * (logits[:, 0] - y).abs()]
    train(model(), data(), None, replace(ONE_MORE, epochs=1), loss=losses[0], **options)
    with pytest.raises(ValueError, match="loss_code was "):
        train(model(), data(), None, ONE_MORE, loss=losses[1], **options)
    assert len(train(model(), data(), None, ONE_MORE, loss=losses[0], **options)) == 2


def test_the_code_of_a_loss_is_the_same_in_every_process():
    program = '''
from atslib.fingerprints import code_of
def loss(logits, labels, kind="mse"):
    """Anything."""
    return (logits - labels) if kind in {"mse", "l2", "squared", "sq"} else [kind in ("a", {"b"}) for kind in "ab"]
print(code_of(loss))
'''
    seen = {
        subprocess.check_output([sys.executable, "-c", program], env=os.environ | dict(PYTHONHASHSEED=seed), text=True)
        for seed in "123"
    }
    assert len(seen) == 1 and seen != {"\n"}


def test_changed_labels_of_any_set_that_tells_them_are_refused(tmp_path):
    class Told(torch.utils.data.Dataset):
        def __init__(self, shift):
            self.inner, self.labels = data(), [(int(label) + shift) % 10 for label in data().labels]

        def __len__(self):
            return len(self.inner)

        def __getitem__(self, number):
            return self.inner[number][0], self.labels[number]

    options = dict(checkpoint=tmp_path / "run.pt", progress=False)
    train(model(), Told(0), None, replace(ONE_MORE, epochs=1), **options)
    with pytest.raises(ValueError, match="labels was "):
        train(model(), Told(1), None, ONE_MORE, **options)


def test_a_set_may_call_anything_its_labels(tmp_path):
    class Named(torch.utils.data.Dataset):
        labels = ("cat", "dog")

        def __len__(self):
            return 24

        def __getitem__(self, number):
            return data()[number]

    assert len(train(model(), Named(), None, replace(ONE_MORE, epochs=1), checkpoint=tmp_path / "run.pt", progress=False)) == 1


def test_a_run_that_is_done_says_so(tmp_path, capsys):
    options = dict(checkpoint=tmp_path / "run.pt")
    train(model(), data(), None, replace(ONE_MORE, epochs=1), **options, progress=False)
    train(model(), data(), None, replace(ONE_MORE, epochs=1), **options)
    assert "run.pt: all 1 epochs are done, nothing is trained" in capsys.readouterr().err


def test_parameters_that_the_optimiser_leaves_out_collect_no_gradient(tmp_path):
    def rates(trained):
        return torch.optim.SGD(trained.classifier.parameters(), lr=0.1)

    left_out, frozen = model(), model()
    frozen.features.requires_grad_(False)
    frozen.attention.requires_grad_(False)
    for trained in (left_out, frozen):
        train(trained, data(), None, ONE_MORE, optimiser=rates, progress=False)
    torch.testing.assert_close(weights(left_out), weights(frozen))  # the clip is of what is trained, too
    parts, options = model(), dict(optimiser=rates, checkpoint=tmp_path / "run.pt", progress=False)
    while len(train(parts, data(), None, ONE_MORE, max_seconds=0, **options)) < 2:
        pass
    assert torch.equal(weights(parts), weights(left_out))


def test_an_optimiser_with_the_same_groups_of_other_parameters_is_refused(tmp_path):
    def grouped(first, second):
        def make(trained):
            parts = dict(features=trained.features, attention=trained.attention, classifier=trained.classifier)
            groups = [[*parts[first].parameters()], [*parts[second].parameters()]]
            return torch.optim.SGD([dict(params=groups[0], lr=0.1), dict(params=groups[1], lr=0.0)])

        return make

    options = dict(checkpoint=tmp_path / "run.pt", progress=False)
    train(model(), data(), None, replace(ONE_MORE, epochs=1), optimiser=grouped("features", "attention"), **options)
    with pytest.raises(ValueError, match="optimiser_parameters was"):
        train(model(), data(), None, ONE_MORE, optimiser=grouped("attention", "features"), **options)
    assert len(train(model(), data(), None, ONE_MORE, optimiser=grouped("features", "attention"), **options)) == 2


def test_a_model_with_another_function_in_it_is_refused(tmp_path):
    def prior(saliency):
        wrapped = model()
        wrapped.attention = SaliencyPrior(wrapped.attention, saliency=saliency)
        return wrapped

    options = dict(checkpoint=tmp_path / "run.pt", progress=False)
    train(prior(lambda view: view.mean(1, keepdim=True)), data(), None, replace(ONE_MORE, epochs=1), **options)
    with pytest.raises(ValueError, match=r"model_functions was 'attention\.saliency"):
        train(prior(lambda view: view.amax(1, keepdim=True)), data(), None, ONE_MORE, **options)
    assert len(train(prior(lambda view: view.mean(1, keepdim=True)), data(), None, ONE_MORE, **options)) == 2


def test_the_form_of_a_residual_block_is_a_part_of_how_a_model_computes():
    assert how_it_computes(ResidualBlock(8, 8, 1, "paper")) != how_it_computes(ResidualBlock(8, 8, 1, "released"))


def test_weights_of_a_checkpoint_alone(begun, tmp_path):
    trained, other = model(seed=1), model(seed=2)
    train(trained, InMemory(data()), None, replace(ONE_MORE, epochs=1), **begun)
    load_weights(begun["checkpoint"], other)
    assert torch.equal(weights(trained), weights(other))
    torch.save(trained.state_dict(), tmp_path / "plain.pt")
    load_weights(tmp_path / "plain.pt", plain := model(seed=3))
    assert torch.equal(weights(trained), weights(plain))
    save_weights(tmp_path / "new" / "model.safetensors", trained)  # which lie channels last
    load_weights(str(tmp_path / "new" / "model.safetensors"), again := model(seed=4))
    assert torch.equal(weights(trained), weights(again))
    (tmp_path / "none.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"none\.safetensors is no checkpoint"):
        load_weights(tmp_path / "none.safetensors", other)
    (tmp_path / "none.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"none\.pt is no checkpoint"):
        load_weights(tmp_path / "none.pt", other)


def test_weights_of_a_compiled_model_are_those_of_the_model(tmp_path):
    whole_one, part = (model(seed=seed) for seed in (1, 2))
    compiled = torch.compile(whole_one, backend="eager")
    part.features = torch.compile(part.features, backend="eager")
    for trained, seed in ((compiled, 1), (part, 2)):
        save_weights(tmp_path / "w.safetensors", trained)
        torch.save(trained.state_dict(), tmp_path / "w.pt")
        for name in ("w.safetensors", "w.pt"):
            load_weights(tmp_path / name, plain := model(seed=3))
            load_weights(tmp_path / name, into := torch.compile(model(seed=4), backend="eager"))
            assert torch.equal(weights(plain), weights(model(seed=seed))) and torch.equal(weights(into), weights(plain))


def test_weights_that_two_parts_share(tmp_path):
    shared, other = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    shared[1].weight = shared[0].weight
    save_weights(tmp_path / "w.safetensors", shared)
    load_weights(tmp_path / "w.safetensors", other)
    assert torch.equal(weights(other), torch.cat([p.detach().flatten() for layer in shared for p in layer.parameters()]))


def test_weights_beside_what_is_no_tensor(tmp_path):
    class Odd(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

        def set_extra_state(self, state):
            pass

    with pytest.raises(ValueError, match="_extra_state in the model's state is a dict: expected tensors only"):
        save_weights(tmp_path / "w.safetensors", Odd(2, 2))
    with pytest.raises(ValueError, match=r"w\.pt: expected a name that ends in \.safetensors"):
        save_weights(tmp_path / "w.pt", nn.Linear(2, 2))
    assert not list(tmp_path.iterdir())


def test_batch_normalisation_that_is_half_frozen_is_warned_of():
    def network():
        torch.manual_seed(0)
        made = model()
        made.features = nn.Sequential(nn.BatchNorm2d(1), made.features)
        made.features.requires_grad_(False)
        return made

    moving = network()
    with pytest.warns(UserWarning, match=r"batch normalisation with frozen weights \(features\.0\) in training mode"):
        train(moving, data(), None, replace(ONE_MORE, epochs=1), progress=False)
    assert moving.features[0].running_mean != 0
    kept = network()
    kept.train()
    kept.features.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(kept, data(), None, replace(ONE_MORE, epochs=1), progress=False)
    assert kept.features[0].running_mean == 0


def test_what_on_epoch_changed_is_to_be_given_again(tmp_path):
    """A resumed run would compute otherwise than one that was never stopped."""

    def fewer(entry):
        if entry["epoch"] == 1:
            shrunk.n_patches = 2
            shrunk.features.requires_grad_(False)
            raise StopTraining

    shrunk, options = model(), dict(checkpoint=tmp_path / "run.pt", progress=False)
    train(shrunk, InMemory(data()), None, ONE_MORE, on_epoch=fewer, **options)
    with pytest.raises(ValueError, match=r"model was .*n_patches=2.* is .*n_patches=3.*frozen was '\w+', is None \(a digest"):
        train(model(), InMemory(data()), None, ONE_MORE, **options)
    again = model()
    again.n_patches = 2
    again.features.requires_grad_(False)
    assert len(train(again, InMemory(data()), None, ONE_MORE, **options)) == 2


def test_a_checkpoint_from_before_there_was_a_warmup_goes_on(begun):
    state = torch.load(begun["checkpoint"], weights_only=True)
    assert state["settings"].pop("warmup") == 0
    torch.save(state, begun["checkpoint"])
    with pytest.raises(ValueError, match=r"warmup was None, is 2\.0"):
        train(model(), InMemory(data()), None, replace(ONE_MORE, warmup=2), **begun)
    assert len(train(model(), InMemory(data()), None, ONE_MORE, **begun)) == 2
