"""Records of runs: one JSON file each, that says what ran, on what, and what came out."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from atslib.checkpoints import whole
from atslib.data.files import needed

if TYPE_CHECKING:
    import pandas

FIELDS = (
    *("experiment", "method", "estimator", "n_patches", "seed", "profile"),
    *("dataset", "hardware", "software", "settings", "curve", "final", "cost"),
)


def hardware(device: torch.device) -> dict:
    """What the run runs on: device type, its name, CPU threads, and the vector instructions that PyTorch found on the CPU.

    Hosts that rent out virtual machines give CPUs of several generations the same name; the instructions tell them apart. Of a
    GPU also whether convolutions in float32 round their factors to 10 bits (TF32), as is PyTorch's default since Ampere.
    """
    more = dict(tf32=_convolutions_in_tf32()) if device.type == "cuda" else {}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    vectors = torch.backends.cpu.get_cpu_capability()
    return dict(device=device.type, name=name, threads=torch.get_num_threads(), cpu_capability=vectors, **more)


def _convolutions_in_tf32() -> bool:
    try:
        return torch.backends.cudnn.allow_tf32
    except RuntimeError:  # somebody has used the newer setting
        return torch.backends.cudnn.conv.fp32_precision == "tf32"


def machine(record: dict) -> str:
    """What a run ran on and in which precision, in words. Times of runs compare only where this is the same.

    >>> hardware = dict(device="cpu", name="EPYC", threads=1, cpu_capability="AVX2")
    >>> machine(dict(hardware=hardware, settings=dict(training=dict(bfloat16=False))))
    'EPYC (AVX2), 1 thread, float32'
    """
    of = record["hardware"]
    name = of["name"] + (f" ({of['cpu_capability']})" if of["device"] == "cpu" and "cpu_capability" in of else "")
    threads = [f"{of['threads']} thread{'s' * (of['threads'] > 1)}"] if of["device"] == "cpu" else []
    precision = "bfloat16" if record["settings"].get("training", {}).get("bfloat16") else "float32"
    precision += " (convolutions in TF32)" if precision == "float32" and of.get("tf32") else ""
    return ", ".join([name, *threads, precision])


def software() -> dict:
    """Versions, and the commit of the source tree (None outside one, or where git does not track the package)."""
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


def write_whole(path: str | os.PathLike, content: bytes) -> Path:
    """Write a file that is never found half-written, see :func:`atslib.checkpoints.whole`."""
    with whole(path) as file:
        file.write(content)
    return Path(path)


def write_record(path: str | os.PathLike, record: dict) -> Path:
    """Write the record as JSON, see :func:`write_whole`."""
    return write_whole(path, (json.dumps(record, indent=1) + "\n").encode())


def read_record(path: str | os.PathLike) -> dict:
    """The record in a file.

    Raises:
        ValueError: no record: not there, not readable, no JSON, or fields missing.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is no record, it is not there: expected a run of this name that is done") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no record ({error}): move it away, then run it again") from error
    missing = [field for field in FIELDS if not isinstance(record, dict) or field not in record]
    if not missing:  # what `machine` reads
        missing = [f"hardware.{field}" for field in ("device", "name", "threads") if field not in (record["hardware"] or ())]
        missing += ["settings"] if not isinstance(record["settings"], dict) else []
        missing += ["settings.training"] if not missing and not isinstance(record["settings"].get("training", {}), dict) else []
    if missing:
        raise ValueError(f"{path} is no record (it has no {', '.join(missing)}): move it away, then run it again")
    return record


def kept(path: str | os.PathLike, parts: str, alike: dict) -> dict:
    """A record of measurements that is to be added to; an empty one where there is none.

    Args:
        parts: its field that holds what was measured.
        alike: fields that have to be the same. Of ``weights`` older records do not tell.

    Raises:
        ValueError: no such record, or one measured under other conditions: several of them do not belong in one table, and
            hours of measuring are not to be overwritten.
    """
    path = Path(path)
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no record of {parts} ({error}): move it away") from error
    if not isinstance(found, dict) or not isinstance(found.get(parts), dict | list):
        raise ValueError(f"{path} is no record of {parts}: move it away")
    there = dict(weights=alike.get("weights")) | found
    if other := [f"{key} {there.get(key)!r}, now {value!r}" for key, value in alike.items() if there.get(key) != value]:
        raise ValueError(f"{path} was measured with {', '.join(other)}: move it away, and all is measured anew")
    return found


def note_parts(record: dict, here: dict, before: Sequence, new: Sequence) -> None:
    """Say in a record that grows on what, and with which software, its new parts are measured.

    ``hardware`` and ``software`` of the record are those that it began with. If others come to them, ``sessions`` has an entry
    for each change, with the ``parts`` that were measured then.

    Args:
        here: ``hardware`` and ``software`` of now.
        before: the parts that the record has.
        new: those to come; of a part that is measured again, the new entry tells.
    """
    record |= {key: value for key, value in here.items() if key not in record}
    first = {key: record[key] for key in here} | dict(parts=list(before))
    sessions = [
        session | dict(parts=[part for part in session["parts"] if part not in new])
        for session in record.get("sessions", [first])
    ]
    if any(sessions[-1][key] != value for key, value in here.items()):
        sessions.append(here | dict(parts=[]))
    sessions[-1]["parts"] += new
    if len(sessions) > 1:
        record["sessions"] = sessions


def load_records(folder: str | os.PathLike = "results/runs") -> pandas.DataFrame:
    """All records of a folder as a table, one row each, sorted by file name.

    Columns are the record's fields, nested ones with dots: ``final.test_error``, ``dataset.n_train``; ``curve.…`` hold lists.
    ``file`` is the record's path, ``machine`` what :func:`machine` says of it. A file that is no record is named in a warning
    and left alone.

    Raises:
        FileNotFoundError: there is no such folder.
        ImportError: pandas is missing: ``pip install 'atslib[tables]'``.
    """
    pandas = needed("pandas")
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; runs write their records to OUT/runs")
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = read_record(path)
            records.append(dict(file=str(path), machine=machine(record)) | record)
        except ValueError as error:
            warnings.warn(f"{error}; skipped", stacklevel=2)
    if not records:
        return pandas.DataFrame(columns=["file", "machine", *FIELDS[:6], "final.test_error", "final.train_loss"])
    return pandas.json_normalize(records)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit(file: Path) -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # An environment may lie, ignored by git, in the working tree of another project, whose commit says nothing of this code.
        git("ls-files", "--error-unmatch", "--", file.name)
        commit, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changed else "")
