"""The small task of the ablations: what is in its images, where its stripes are, and that attention finds them."""

import torch

from atslib.experiments import stripes
from atslib.training import Settings


def test_images_are_what_they_are_said_to_be():
    data = stripes.Stripes(6, seed=3)
    assert len(data) == 6 and data.labels.tolist() == [0, 1, 0, 1, 0, 1]
    for (image, label), corners in zip(data, data.corners, strict=True):
        assert image.shape == (1, 96, 96) and image.dtype == torch.uint8
        for top, left in corners:
            square = image[0, top : top + 16, left : left + 16].float()
            along, across = square.std(dim=int(label)).mean(), square.std(dim=1 - int(label)).mean()
            assert along < 20 < 50 < across  # constant along the stripes but for noise
    again = stripes.Stripes(6, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(data.images, again.images, strict=True))


def test_striped_locations_by_brute_force():
    data = stripes.Stripes(4, seed=0)
    expected = torch.zeros(4, 24, 24, dtype=torch.bool)
    for number, corners in enumerate(data.corners):
        for row in range(24):
            for column in range(24):
                y, x = (row + 0.5) * 4, (column + 0.5) * 4
                expected[number, row, column] = any(t <= y < t + 16 and s <= x < s + 16 for t, s in corners)
    assert torch.equal(data.striped(), expected)


def test_attention_finds_the_stripes():
    train_set, test_set = stripes.Stripes(320, seed=0), stripes.Stripes(64, seed=1)
    settings = Settings(epochs=8, batch_size=16, learning_rate=3e-3, schedule="cosine", test_every=1000, bfloat16=False)
    model = stripes.build_model(5, seed=0)
    outcome = stripes.follow(model, train_set, test_set, settings)
    assert len(outcome["maps"]) == len(outcome["mass"]) == 9 and len(outcome["train_loss"]) == 8
    assert outcome["mass"][0] < 0.1 and outcome["mass"][-1] > 0.3 and outcome["error"] < 0.2
    torch.testing.assert_close(outcome["maps"][-1], model.eval()(torch.stack(test_set.images)).log_attention)
