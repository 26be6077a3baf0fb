"""Run the notebooks and render the book.

    python book/build.py html         run every notebook of _toc.yml, render the pages to book/_build/html
    python book/build.py notebooks    run them, write the executed .ipynb beside their sources

Everything is written below book/_build (executed/ the notebooks as they ran, src/ what Jupyter Book reads, html/ the
pages); `notebooks` also writes into notebooks/. A notebook is run again only if its source, the library, the recorded
results or the pinned versions have changed since.
"""

import argparse
import base64
import concurrent.futures
import datetime
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import ledger
import nbformat
from PIL import Image
from sources import (
    BOOK,
    NOTEBOOKS,
    ROOT,
    default_profile,
    describe_cell,
    normalise,
    notebook_names,
    read_executed,
    read_source,
    write,
    write_text,
)

from atslib.data.catalogue import SETS

BUILD = BOOK / "_build"
EXECUTED = BUILD / "executed"
SRC = BUILD / "src"
HTML = BUILD / "html"

WIDE, VERY_WIDE = 600, 850  # pixels across: figures that keep to a least width on a phone (book.css)
SMOKE_BUDGET = 90  # seconds that a notebook of the smoke profile should stay below on two cores


# ---------------------------------------------------------------------------------------------------------------------
# Running notebooks


@dataclass
class Run:
    """What came of one notebook. `error` is None when all its cells ran."""

    name: str
    profile: str
    fingerprint: str
    seconds: float
    date: str
    cells: int = 0
    figures: int = 0
    error: str | None = None
    reused: bool = False


def fingerprint(name: str, profile: str) -> str:
    """A digest of all that a notebook's outputs depend on; of the data sets, whether they are there."""
    digest = hashlib.sha256(f"{profile}\n{platform.python_version()}\n{data_sets()}\n".encode())
    digest.update((BOOK / "sources.py").read_bytes())  # it makes of an executed notebook what is stored
    shared = [ROOT / "constraints.txt"]
    for folder in (ROOT / "atslib", ROOT / "results", ROOT / "benchmarks"):
        shared += (path for path in folder.rglob("*") if path.is_file() and not _passing(path))
    for path in [NOTEBOOKS / f"{name}.py", *sorted(shared)]:
        digest.update(f"{path.relative_to(ROOT)}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@functools.cache
def data_sets() -> str:
    """Which data sets are there: pages show less without them."""
    return "\n".join(f"{key} {source.state()}" for key, source in SETS.items())


def _passing(path: Path) -> bool:
    """Whether a file comes and goes, while a run is under way, say, and no page depends on it."""
    return bool({"__pycache__", "checkpoints"} & set(path.relative_to(ROOT).parts)) or path.suffix == ".part"


def reusable(name: str, profile: str) -> Run | None:
    """The last run of this notebook, if nothing that it depends on has changed."""
    try:
        run = Run(**json.loads((EXECUTED / f"{name}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    if run.error or run.fingerprint != fingerprint(name, profile) or not (EXECUTED / f"{name}.ipynb").exists():
        return None
    run.reused = True
    return run


def execute(name: str, options: argparse.Namespace, deadline: float) -> Run:
    """Run one notebook in a kernel of its own and keep the outcome in `EXECUTED`, whole or broken."""
    source = read_source(name)
    profile = options.profile
    given, result = EXECUTED / f"{name}.source.ipynb", EXECUTED / f"{name}.ipynb"
    write(source, given)
    result.unlink(missing_ok=True)

    command = [sys.executable, "-m", "papermill", given, result, "--kernel", "python3", "--cwd", NOTEBOOKS]
    command += ["--execution-timeout", str(options.cell_timeout), "--no-progress-bar", "--log-level", "ERROR"]
    # Injected parameters become a cell of the page; a notebook that has the profile already is left as it is.
    if profile != default_profile(source):
        command += ["--parameters", "profile", profile]

    environment = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
    environment |= {
        "IPYTHONDIR": str(BUILD / "ipython"),  # nobody's personal start-up files
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    if options.jobs > 1:  # one torch thread each, or the notebooks get into each other's way
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

    run = Run(name, profile, fingerprint(name, profile), 0.0, datetime.date.today().isoformat())
    start = time.monotonic()
    process = subprocess.Popen(
        [str(part) for part in command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        log, _ = process.communicate(timeout=max(0.0, deadline - start))
        if process.returncode:
            run.error = failure(result, log)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        run.error = f"stopped: the {options.total_timeout} s for all notebooks are over (--total-timeout)"
    except BaseException:
        process.kill()
        raise
    run.seconds = round(time.monotonic() - start, 1)

    if run.error is None:
        notebook = normalise(nbformat.read(result, as_version=4))
        write(notebook, result)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        run.cells = len(code)
        run.figures = sum("image/png" in o.get("data", {}) for cell in code for o in cell.outputs)
    write_text(EXECUTED / f"{name}.json", json.dumps(asdict(run), indent=1) + "\n")
    return run


def failure(result: Path, log: str) -> str:
    """One line: which cell failed, and how."""
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "papermill wrote nothing")
    timeout = next((line for line in reversed(log.splitlines()) if "timed out while" in line), None)
    if not result.exists():
        return last
    notebook = nbformat.read(result, as_version=4)
    added = {"papermill-error-cell-tag", "injected-parameters"}  # cells that are not in the source
    notebook.cells = [cell for cell in notebook.cells if not added & set(cell.metadata.get("tags", []))]
    for position, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                message = output.evalue.strip().splitlines() or [""]
                reason = timeout or f"{output.ename}: {message[-1]}"  # a time-out shows as a KeyboardInterrupt
                return f"{describe_cell(notebook, position)}: {reason}"
        if cell.metadata.get("papermill", {}).get("status") in ("failed", "running"):
            return f"{describe_cell(notebook, position)}: {timeout or last}"
    return timeout or last


def run_all(names: list[str], options: argparse.Namespace) -> list[Run]:
    """Run the notebooks, `options.jobs` side by side, with a line for each as it ends. All are tried."""
    EXECUTED.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    deadline = start + options.total_timeout
    width = max(map(len, names), default=0)
    print(f"running {len(names)} notebooks, profile {options.profile}, {options.jobs} at a time", flush=True)

    def report(run: Run) -> Run:
        if run.error:
            line = f"FAILED after {run.seconds:.1f} s — {run.error}"
        elif run.reused:
            line = f"unchanged (took {run.seconds:.1f} s when it last ran)"
        else:
            line = f"{run.seconds:6.1f} s"
            if run.profile == "smoke" and run.seconds > SMOKE_BUDGET:
                line += f"   slower than the {SMOKE_BUDGET} s that a smoke run should stay below"
        print(f"  {run.name:{width}}  {line}", flush=True)
        return run

    runs: dict[str, Run] = {}
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        waiting = []
        for name in names:
            if not options.force and (run := reusable(name, options.profile)):
                runs[name] = report(run)
            else:
                waiting.append(pool.submit(execute, name, options, deadline))
        for future in concurrent.futures.as_completed(waiting):
            run = report(future.result())
            runs[run.name] = run
    print(f"notebooks: {time.monotonic() - start:.1f} s", flush=True)

    failed = [run for run in runs.values() if run.error]
    if failed:
        for run in failed:
            print(f"error: notebooks/{run.name}.py, {run.error}", file=sys.stderr)
        print(f"error: {len(failed)} of {len(runs)} notebooks failed; as they ran: {EXECUTED}", file=sys.stderr)
        sys.exit(1)
    return [runs[name] for name in names]


# ---------------------------------------------------------------------------------------------------------------------
# Pages


def statistics(runs: list[Run]) -> str:
    """The page that says what ran, how long it took, and on what; without runs, that nothing did."""
    facts = ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in machine().items()), ""]
    head = ["# Execution statistics", ""]
    if not runs:
        said = "These pages show the committed outputs of the notebooks; this build ran nothing, and so has no times to give."
        return "\n".join([*head, f"Written by the build itself. {said}", "", "## The machine that built the pages", "", *facts])
    table = [
        "| notebook | profile | code cells | figures | seconds | run on |",
        "|---|---|---:|---:|---:|---|",
        *(
            f"| [{run.name}](notebooks/{run.name}.ipynb) | {run.profile} | {run.cells} | {run.figures} "
            f"| {run.seconds:.1f} | {run.date} |"
            for run in runs
        ),
        f"| all | | {sum(r.cells for r in runs)} | {sum(r.figures for r in runs)} "
        f"| {sum(r.seconds for r in runs):.1f} | |",
    ]
    return "\n".join(
        [
            *head,
            "Written by the build itself: every notebook of this book was run from its source to make these pages.",
            "Times are wall-clock seconds, the start of the kernel and the import of PyTorch included.",
            "",
            *table,
            "",
            "## The machine",
            "",
            *facts,
        ]
    )


def machine() -> dict[str, str]:
    def version(package: str) -> str:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return "not installed"

    def first_match(path: str, start: str) -> str | None:
        try:
            lines = Path(path).read_text().splitlines()
        except OSError:
            return None
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(start)), None)

    memory = first_match("/proc/meminfo", "MemTotal")
    try:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git
        commit = ""
    facts = {
        "processor": first_match("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{int(memory.split()[0]) / 2**20:.0f} GiB" if memory else "unknown",
        "GPU": "not used",
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "atslib": version("atslib") + (f" ({commit})" if commit else ""),
    }
    try:
        import torch

        if torch.cuda.is_available():
            facts["GPU"] = torch.cuda.get_device_name()
    except ImportError:
        pass
    return facts | {p: version(p) for p in ("torch", "numpy", "matplotlib", "jupyter-book", "sphinx", "papermill")}


def assemble(notebooks: dict[str, nbformat.NotebookNode], runs: list[Run]) -> None:
    """Make SRC hold exactly what Jupyter Book is to read."""
    shutil.rmtree(SRC, ignore_errors=True)
    shutil.copytree(
        BOOK, SRC, ignore=shutil.ignore_patterns("_build", "_ext", "_vendor", "_*.yml", "*.py", "__pycache__")
    )
    shutil.copy(ROOT / "LICENSE", SRC)  # the licence page quotes it
    rows = ledger.read()
    for name, notebook in notebooks.items():
        notebook.cells[0].source = ledger.with_box(notebook.cells[0].source, rows, name)
        mark_wide_figures(notebook)
        write(notebook, SRC / "notebooks" / f"{name}.ipynb")
    write_text(SRC / "execution.md", statistics(runs))
    write_text(SRC / "ledger.md", ledger.page(rows))
    intro = (SRC / "intro.md").read_text(encoding="utf-8")
    write_text(SRC / "intro.md", intro.replace("<!-- main answers -->", ledger.main_answers(rows)))


def mark_wide_figures(notebook: nbformat.NotebookNode) -> None:
    """Give figures that a phone would shrink beyond reading a class, by which the style sheet lets them scroll sideways."""
    for cell in notebook.cells:
        pictures = [
            data
            for output in cell.get("outputs", [])
            for kind, data in output.get("data", {}).items()
            if kind in ("image/png", "image/jpeg", "image/gif")
        ]
        width = max((Image.open(io.BytesIO(base64.b64decode(data))).width for data in pictures), default=0)
        if width >= WIDE:
            image = cell.metadata.setdefault("mystnb", {}).setdefault("image", {})
            image["classes"] = "wide-figure" if width < VERY_WIDE else "wide-figure very-wide-figure"


def render() -> None:
    """SRC -> HTML. Every warning is an error: a page with a dead reference is not published."""
    shutil.rmtree(HTML, ignore_errors=True)
    start = time.monotonic()
    jupyter_book = "from jupyter_book.cli.main import main; main()"  # the package cannot be run with -m
    command = [sys.executable, "-c", jupyter_book, "build", SRC, "--path-output", BOOK]
    command += ["--config", BOOK / "_config.yml", "--toc", BOOK / "_toc.yml"]
    command += ["-W", "-n", "--keep-going", "--all", "-q"]
    command = [str(part) for part in command]
    outcome = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if outcome.returncode:
        print(outcome.stdout, file=sys.stderr)
        print("error: Jupyter Book found the mistakes above; the pages are not complete", file=sys.stderr)
        sys.exit(1)
    print(f"rendered in {time.monotonic() - start:.1f} s: book/_build/html/index.html")


# ---------------------------------------------------------------------------------------------------------------------


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("html", "notebooks"))
    parser.add_argument("--profile", default="smoke", choices=("smoke", "laptop", "paper"))
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="notebooks run side by side (default 2)")
    # The other profiles train, an hour a page (`max_seconds` of the notebooks), and go on from there the next time.
    timeout = parser.add_argument
    timeout("--cell-timeout", type=int, metavar="S", help="seconds for a cell (default 300; 5400 where the profile trains)")
    timeout("--total-timeout", type=int, metavar="S", help="seconds for all (default 3600; 86400 where the profile trains)")
    parser.add_argument("--force", action="store_true", help="run notebooks that have not changed, too")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="notebooks: these, not all")
    parser.add_argument("--committed", action="store_true", help="html: render the committed .ipynb, run nothing")
    options = parser.parse_args(arguments)
    trains = options.profile != "smoke"
    if options.cell_timeout is None:
        options.cell_timeout = 5400 if trains else 300
    if options.total_timeout is None:
        options.total_timeout = 86_400 if trains else 3600
    if options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}, expected at least 1")
    if options.only and options.what == "html":
        parser.error("--only goes with `notebooks`; the book is always rendered whole")
    if options.committed and options.what == "notebooks":
        parser.error("--committed goes with `html`")
    if options.what == "notebooks" and options.profile != "smoke":
        parser.error(f"--profile is {options.profile}, but the committed notebooks are those of the smoke profile")
    return options


def main() -> None:
    options = parse()
    names = notebook_names()
    missing = [name for name in names if not (NOTEBOOKS / f"{name}.py").exists()]
    if missing:
        sys.exit(f"error: _toc.yml names notebooks that have no source: {', '.join(missing)}")
    if options.only:
        if unknown := sorted(set(options.only) - set(names)):
            sys.exit(f"error: --only {' '.join(unknown)}: not in _toc.yml, which has {', '.join(names)}")
        names = list(dict.fromkeys(options.only))

    if options.committed:
        assemble({name: read_executed(name) for name in names}, runs=[])
        render()
        return

    runs = run_all(names, options)
    executed = {name: nbformat.read(EXECUTED / f"{name}.ipynb", as_version=4) for name in names}
    if options.what == "notebooks":
        for name, notebook in executed.items():
            changed = write(notebook, NOTEBOOKS / f"{name}.ipynb")
            print(f"notebooks/{name}.ipynb {'written' if changed else 'is up to date'}")
    else:
        assemble(executed, runs)
        render()


if __name__ == "__main__":
    main()
