"""Which devices compute in bfloat16, and which only pretend to."""

from __future__ import annotations

from pathlib import Path

import torch

# Of torch.cpu.get_capabilities(): on x86 the first two, on Arm the last.
_CPU_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")


def has_bfloat16(device: str | torch.device = "cpu") -> bool:
    """Whether the device has instructions for bfloat16, so that autocast makes convolutions and matrix products faster.

    PyTorch runs bfloat16 everywhere. On a CPU without such instructions (AVX512-BF16 or AMX on x86, BF16 on Arm) convolutions
    are several times slower than in float32, matrix products tens of times (``benchmarks/precision.py`` measures it for the
    networks of the paper); NVIDIA GPUs have them since Ampere. False for what is neither CPU nor CUDA.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # it is oneDNN that uses them
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return any(has.get(flag, False) for flag in _CPU_FLAGS)
    try:  # PyTorch before 2.11
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return any(flag in flags for flag in _CPU_FLAGS)
