"""The paper's experiments, one file each, run as ``python -m atslib.experiments NAME``."""

from atslib.experiments.records import load_records

__all__ = ["load_records"]
