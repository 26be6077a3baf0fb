"""Records of runs: one JSON file each, that says what ran, on what, and what came out."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch


def hardware(device: torch.device) -> dict:
    """What the run runs on: device type, its name, CPU threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return dict(device=device.type, name=name, threads=torch.get_num_threads())


def software() -> dict:
    """Versions, and the commit of the source tree (None outside one)."""
    import atslib

    return dict(
        python=platform.python_version(),
        torch=torch.__version__,
        atslib=atslib.__version__,
        commit=_commit(Path(atslib.__file__)),
    )


def array_digest(*arrays: np.ndarray) -> str:
    """A short digest of the pixels and labels a data set is made of."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def write_record(path: str | os.PathLike, record: dict) -> Path:
    """Write the record beside its place and rename it there, so that no half-written record is ever found."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
    return path


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit(file: Path) -> str | None:
    git = ["git", "-C", str(file.parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--", "."], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changed.strip() else "")
