"""Where training computes in bfloat16."""

import pathlib

import pytest
import torch

from atslib.precision import has_bfloat16
from atslib.training import Settings


@pytest.mark.parametrize(
    "capabilities, expected",
    [
        (dict(avx2=True, avx512_bf16=False, amx_bf16=False), False),
        (dict(avx512_f=True, avx512_bf16=True), True),
        (dict(amx_bf16=True), True),
        (dict(neon=True, bf16=True), True),
        (dict(neon=True, bf16=False), False),
        ({}, False),
    ],
)
def test_a_cpu_is_asked_for_its_instructions(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_bfloat16("cpu") is expected


@pytest.mark.parametrize("flags, expected", [("fpu avx2", False), ("avx512f avx512_bf16", True), ("asimd bf16", True)])
def test_an_older_pytorch_leaves_it_to_the_kernel(monkeypatch, flags, expected):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(pathlib.Path, "read_text", lambda self, encoding=None: f"processor : 0\nflags : {flags}\n")
    assert has_bfloat16("cpu") is expected

    def unreadable(self, encoding=None):
        raise FileNotFoundError

    monkeypatch.setattr(pathlib.Path, "read_text", unreadable)
    assert not has_bfloat16("cpu")


def test_without_onednn_nothing_is_faster(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict(amx_bf16=True), raising=False)
    assert not has_bfloat16("cpu")


@pytest.mark.parametrize("capability, expected", [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus_since_ampere(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert has_bfloat16("cuda") is expected


def test_other_devices_stay_in_float32():
    assert not has_bfloat16("meta")


def test_a_setting_that_is_given_is_kept(monkeypatch):
    monkeypatch.setattr("atslib.training.has_bfloat16", lambda device: device == "cuda")
    assert Settings(bfloat16=True).in_bfloat16("cpu") and not Settings(bfloat16=False).in_bfloat16("cuda")
    assert Settings().in_bfloat16("cuda") and not Settings().in_bfloat16("cpu")


def test_gpus_of_amd(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: pytest.fail("says nothing about bfloat16 there"))
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert has_bfloat16("cuda") is True
