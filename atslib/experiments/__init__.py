"""The paper's experiments, one file each, run as ``python -m atslib.experiments NAME``."""
