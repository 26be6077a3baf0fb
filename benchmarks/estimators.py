"""Time to draw and weigh, for every estimator, as a multiple of drawing with replacement.

    python benchmarks/estimators.py [--batch 128] [--map 180] [--draws 10 100] [--repeats 11] [--peak 2] [--threads T]

The batch and the map are those of the paper's first experiment (K = 32,400). All estimators take turns in every repetition,
in another order each time, so that a disturbance hits them alike; the table has the median, the quartiles, and the median of
the ratios within a repetition. Features are not computed: they cost the same for every estimator.
"""

import argparse
import platform
import random
import statistics
import time

import torch

from atslib.estimators import ESTIMATORS, PPS, Estimator, Stratified, Systematic

LINES: dict[str, Estimator] = {
    **{name: estimator for name, estimator in ESTIMATORS.items() if not estimator.biased},
    "systematic (raster)": Systematic("raster"),
    "stratified (raster)": Stratified("raster"),
    "pps (raster)": PPS("raster"),
}


def seconds(estimator: Estimator, log_attention: torch.Tensor, n: int, generator: torch.Generator) -> float:
    """One draw with its weights."""
    wait = torch.cuda.synchronize if log_attention.is_cuda else (lambda: None)
    wait()
    start = time.perf_counter()
    estimator.weights(log_attention, estimator.sample(log_attention, n, generator=generator))
    wait()
    return time.perf_counter() - start


def measure(device: str, n: int, options: argparse.Namespace) -> None:
    generator = torch.Generator(device).manual_seed(0)
    logits = options.peak * torch.randn(options.batch, options.map, options.map, generator=generator, device=device)
    log_attention = logits.flatten(1).log_softmax(1).view_as(logits)
    times: dict[str, list[float]] = {name: [] for name in LINES}
    for repetition in range(options.repeats + 1):
        for name, estimator in random.Random(repetition).sample(list(LINES.items()), len(LINES)):
            taken = seconds(estimator, log_attention, n, generator)
            if repetition:  # the first warms up
                times[name].append(taken)
    print(f"\n{device}, B = {options.batch}, K = {options.map**2}, n = {n}, logits of standard deviation {options.peak:g}")
    print(f"{'estimator':22}{'ms':>9}{'quartiles':>20}{'ratio':>9}")
    for name, taken in times.items():
        low, median, high = (1e3 * t for t in statistics.quantiles(taken, n=4, method="inclusive"))
        ratio = statistics.median(t / base for t, base in zip(taken, times["with_replacement"], strict=True))
        print(f"{name:22}{median:9.1f}{f'{low:.1f} … {high:.1f}':>20}{ratio:9.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--map", type=int, default=180, help="side of the attention map")
    parser.add_argument("--draws", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--peak", type=float, default=2.0, help="standard deviation of the logits")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    options = parser.parse_args()
    if options.repeats < 2:
        parser.error(f"--repeats is {options.repeats}, expected at least 2")
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads")
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    if torch.cuda.is_available():
        print(f"cuda: {torch.cuda.get_device_name()}")
    for device in devices:
        for n in options.draws:
            measure(device, n, options)


if __name__ == "__main__":
    main()
