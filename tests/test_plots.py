"""Pieces of pages that several chapters share: tables and small multiples."""

import math

import matplotlib
import pytest
import torch

matplotlib.use("Agg")
from atslib import plots


def test_table():
    assert plots.table(["run", "error"], [["a", 0.1], ("b", "–")]).data == "| run | error |\n|---|---:|\n| a | 0.1 |\n| b | – |"
    with pytest.raises(ValueError, match="expected 2 entries"):
        plots.table(["run", "error"], [["a"]])


def test_show_maps_draws_multiples_of_uniform_in_powers_of_two():
    sharp = torch.tensor([[0.5, 0.25], [0.125, 0.125]]).log()
    figure = plots.show_maps({"one": [torch.full((2, 2), 0.25).log(), sharp], "two": [None, sharp]}, ["before", "after"], "times")
    before, after, empty, _, bar = figure.axes
    assert torch.tensor(before.images[0].get_array().data).abs().max() < 1e-6
    expected = torch.tensor([[1.0, 0.0], [-1.0, -1.0]])
    torch.testing.assert_close(torch.tensor(after.images[0].get_array().data).float(), expected)
    assert not empty.images and bar.get_ylabel() == "times" and before.get_ylabel() == "one"
    assert after.images[0].norm.vmax == math.log2(16)
    with pytest.raises(ValueError, match="row 'one' has 1 maps"):
        plots.show_maps({"one": [sharp]}, ["before", "after"], "times")
