"""The build of the book: what is run again and what is not, how a failure is told, and what a notebook keeps of its run."""

import base64
import io
import json
import os
import platform
import shutil
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path

import build
import ledger
import nbformat
import pytest
import sources
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from papermill.exceptions import PapermillExecutionError
from papermill.execute import raise_for_execution_errors
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from PIL import Image

assert Path(build.__file__).parent == sources.BOOK  # not the package of that name

SMOKE = build.parse(["html"])


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The folders that a build reads and writes, with a file or two in each."""
    monkeypatch.setattr(build, "ROOT", tmp_path)
    for module in (build, sources):
        monkeypatch.setattr(module, "NOTEBOOKS", tmp_path / "notebooks")
    for name in ("BUILD", "EXECUTED", "SRC"):
        monkeypatch.setattr(build, name, tmp_path / "book" / "_build" / name.lower())
    monkeypatch.setattr(build, "data_sets", lambda: "none")
    for place in ("constraints.txt", "atslib/data/roads.py", "results/runs/a.json", "benchmarks/cost.py"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(place)
    (tmp_path / "notebooks").mkdir()
    for name in ("one", "two", "three"):
        (tmp_path / "notebooks" / f"{name}.py").write_text(
            f'# %% [markdown]\n# # {name}\n\n# %% tags=["parameters"]\nprofile = "smoke"\n\n# %%\nprint(1)\n'
        )
    build.EXECUTED.mkdir(parents=True)
    return tmp_path


def keep(run):
    """As a run leaves its outcome."""
    (build.EXECUTED / f"{run.name}.json").write_text(json.dumps(asdict(run)))
    (build.EXECUTED / f"{run.name}.ipynb").write_text("{}")
    return run


def done(name="one", profile="smoke", **fields):
    return build.Run(name, profile, build.fingerprint(name, profile), 1.5, "2020-01-01", **fields)


# ---------------------------------------------------------------------------------------------------------------------
# What is run again


def test_a_notebook_is_not_run_again_while_nothing_changes(project):
    run = keep(done(cells=3, figures=1))
    assert build.reusable("one", "smoke") == replace(run, reused=True)
    assert build.reusable("two", "smoke") is None  # has not been run


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "atslib" / "data" / "roads.py").write_text("other"),
        lambda root: (root / "atslib" / "new.py").write_text(""),
        lambda root: (root / "atslib" / "data" / "roads.py").rename(root / "atslib" / "data" / "streets.py"),
        lambda root: (root / "results" / "runs" / "a.json").write_text("other"),
        lambda root: (root / "results" / "runs" / "a.json").unlink(),
        lambda root: (root / "results" / "weights.safetensors").write_bytes(b"\xff"),
        lambda root: (root / "benchmarks" / "cost.py").write_text("other"),
        lambda root: (root / "constraints.txt").write_text("torch==1"),
        lambda root: (root / "notebooks" / "one.py").write_text("other"),
    ],
    ids=["library", "more", "renamed", "results", "fewer", "weights", "benchmark", "versions", "source"],
)
def test_a_notebook_is_run_again_when_what_it_depends_on_changes(project, change):
    keep(done())
    change(project)
    assert build.reusable("one", "smoke") is None


def test_a_notebook_is_run_again_under_other_conditions(project, monkeypatch):
    keep(done())
    assert build.reusable("one", "laptop") is None
    with monkeypatch.context() as patch:
        patch.setattr(platform, "python_version", lambda: "3.99.0")
        assert build.reusable("one", "smoke") is None
    with monkeypatch.context() as patch:
        patch.setattr(build, "data_sets", lambda: "mnist complete")
        assert build.reusable("one", "smoke") is None
    assert build.reusable("one", "smoke")


def test_what_no_page_depends_on_changes_nothing(project):
    keep(done())
    for place in ("atslib/__pycache__/a.pyc", "results/checkpoints/a.pt", "results/runs/b.json.part", "notebooks/two.py", "x.py"):
        (project / place).parent.mkdir(exist_ok=True)
        (project / place).write_text("other")
    assert build.reusable("one", "smoke")


def test_a_notebook_that_failed_or_left_no_whole_outcome_is_run_again(project):
    run = keep(done())
    outcome, notebook = build.EXECUTED / "one.json", build.EXECUTED / "one.ipynb"
    keep(replace(run, error="cell 2: ValueError: no"))
    assert build.reusable("one", "smoke") is None
    for broken in ("", "[1]", "{", json.dumps(asdict(run) | dict(unknown=1)), json.dumps(dict(name="one"))):
        keep(run)
        outcome.write_text(broken)
        assert build.reusable("one", "smoke") is None
    keep(run)
    notebook.unlink()
    assert build.reusable("one", "smoke") is None


# ---------------------------------------------------------------------------------------------------------------------
# How a failure is told


def as_papermill_leaves_it(path, outputs, parameters, **told):
    """A notebook whose fourth cell failed, with the cells that papermill adds, and says which cell that is."""
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# A title"),
            new_code_cell('profile = "smoke"', metadata=dict(tags=["parameters"])),
            new_markdown_cell("(cell-draw)=\n## Draws"),
            new_code_cell("1 / 0"),
            new_code_cell("never()"),
        ]
    )
    nbformat.write(sources.normalise(notebook), path)
    notebook = load_notebook_node(str(path))
    if parameters:
        notebook = parameterize_notebook(notebook, parameters)
    failed = next(cell for cell in notebook.cells if cell.source == "1 / 0")
    failed.outputs, failed.execution_count = outputs, 3
    failed.metadata["papermill"] |= dict(told)
    nbformat.write(notebook, path)
    try:
        raise_for_execution_errors(notebook, str(path))
    except PapermillExecutionError:
        return path
    return path


DIVISION = new_output("error", ename="ZeroDivisionError", evalue="division\nby zero\n", traceback=[])
STOPPED = new_output("error", ename="KeyboardInterrupt", evalue="", traceback=[])


@pytest.mark.parametrize("parameters", [None, dict(profile="laptop")], ids=["as it is", "with parameters"])
@pytest.mark.parametrize(
    "outputs, told, log, said",
    [
        ([DIVISION], dict(exception=True, status="failed"), "Traceback\n", "ZeroDivisionError: by zero"),
        ([new_output("stream", text="1"), DIVISION], dict(status="failed"), "", "ZeroDivisionError: by zero"),
        (
            [STOPPED],
            dict(status="failed"),
            "a\nA cell timed out while it ran, after 9 s.\nb\n",
            "A cell timed out while it ran, after 9 s.",
        ),
        ([], dict(status="running"), "DeadKernelError: Kernel died\n\n", "DeadKernelError: Kernel died"),
        ([], dict(status="failed"), "", "papermill wrote nothing"),
    ],
    ids=["raised", "after an output", "too slow", "kernel died", "silent"],
)
def test_the_cell_of_the_source_that_failed_is_named(tmp_path, parameters, outputs, told, log, said):
    """Papermill adds cells of its own, which count for nothing."""
    result = as_papermill_leaves_it(tmp_path / "one.ipynb", outputs, parameters, **told)
    added = len(nbformat.read(result, as_version=4).cells) - 5
    assert added == bool(parameters) + 2 * any(output.output_type == "error" for output in outputs)
    assert build.failure(result, log) == f"cell 4, cell-draw: {said}"


def test_a_failure_outside_the_cells_is_told_by_the_last_line(tmp_path):
    assert (
        build.failure(tmp_path / "none.ipynb", "one\nModuleNotFoundError: no papermill\n \n")
        == "ModuleNotFoundError: no papermill"
    )
    assert build.failure(tmp_path / "none.ipynb", "") == "papermill wrote nothing"
    path = tmp_path / "one.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), path)
    assert build.failure(path, "No such kernel\n") == "No such kernel"


def test_a_cell_is_described_by_what_it_stands_under():
    cells = [new_code_cell("0"), new_markdown_cell("## First\n\n### Second"), new_markdown_cell("Text."), new_code_cell("1")]
    notebook = new_notebook(cells=cells)
    assert sources.describe_cell(notebook, 0) == "cell 1"
    assert sources.describe_cell(notebook, 3) == "cell 4, under “Second”"


# ---------------------------------------------------------------------------------------------------------------------
# Running them


class Papermill:
    """In place of the program: notes how it was called, and leaves a notebook that was run."""

    code, wait, log = 0, False, ""

    def __init__(self, command, env, **_):
        self.command, self.environment, self.killed = command, env, False
        self.returncode = self.code
        Papermill.last = self
        given, result = command[3:5]
        notebook = nbformat.read(given, as_version=4)
        for cell in notebook.cells:
            cell.metadata["papermill"] = dict(duration=1.0)
            if cell.cell_type == "code":
                cell.execution_count = 1
                cell.outputs = [
                    new_output("display_data", {"image/png": "", "text/plain": "figure"}),
                    new_output("stream", text="1"),
                ]
        nbformat.write(notebook, result)

    def communicate(self, timeout=None):
        if self.wait and timeout is not None:
            raise subprocess.TimeoutExpired(self.command, timeout)
        return self.log, None

    def kill(self):
        self.killed = True


@pytest.fixture
def papermill(project, monkeypatch):
    monkeypatch.setattr(build.subprocess, "Popen", type("Papermill", (Papermill,), {}))
    return build.subprocess.Popen


def test_a_notebook_that_ran_is_kept_without_what_changes_by_itself(papermill, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    run = build.execute("one", SMOKE, time.monotonic() + 60)
    assert (run.error, run.cells, run.figures, run.profile) == (None, 2, 2, "smoke")
    assert json.loads((build.EXECUTED / "one.json").read_text()) == asdict(run)
    notebook = nbformat.read(build.EXECUTED / "one.ipynb", as_version=4)
    assert [dict(cell.metadata) for cell in notebook.cells] == [{}, dict(tags=["parameters"]), {}]
    assert [cell.id for cell in notebook.cells] == [cell.id for cell in sources.read_source("one").cells]
    assert build.reusable("one", "smoke") == replace(run, reused=True)
    assert Papermill.last.environment["OMP_NUM_THREADS"] == "1" and "MPLBACKEND" not in Papermill.last.environment


def test_a_profile_is_injected_only_where_the_notebook_has_another(papermill):
    def command(*arguments):
        build.execute("one", build.parse(["html", *arguments]), time.monotonic() + 60)
        return Papermill.last.command

    assert "--parameters" not in command()
    given = command("--profile", "laptop", "--cell-timeout", "7")
    assert given[-3:] == ["--parameters", "profile", "laptop"] and given[given.index("--execution-timeout") + 1] == "7"
    assert "laptop" in (build.EXECUTED / "one.json").read_text()


def test_one_notebook_at_a_time_has_all_threads(papermill, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    build.execute("one", build.parse(["html", "--jobs", "1"]), time.monotonic() + 60)
    assert Papermill.last.environment["OMP_NUM_THREADS"] == "5"


def test_a_notebook_that_fails_or_takes_too_long_is_run_again(papermill):
    papermill.code, papermill.log = 1, "Kernel died\n"
    run = build.execute("one", SMOKE, time.monotonic() + 60)
    assert run.error == "Kernel died" and build.reusable("one", "smoke") is None
    papermill.wait = True
    run = build.execute("one", SMOKE, time.monotonic() + 60)
    assert run.error == "stopped: the 3600 s for all notebooks are over (--total-timeout)" and Papermill.last.killed
    assert build.reusable("one", "smoke") is None


@pytest.fixture
def executed(project, monkeypatch):
    """Names of the notebooks that are run, in order; they end in the order from last to first."""
    names = []

    def execute(name, options, deadline):
        names.append(name)
        time.sleep(0.05 * (3 - len(names)))
        return done(name, options.profile, error="cell 1: ValueError: no" if name == "two" and options.force else None)

    monkeypatch.setattr(build, "execute", execute)
    return names


def test_outcomes_come_in_the_order_of_the_book(executed, capsys):
    keep(done("two"))
    runs = build.run_all(["one", "two", "three"], build.parse(["html", "--jobs", "2"]))
    assert [run.name for run in runs] == ["one", "two", "three"] and sorted(executed) == ["one", "three"]
    assert [run.reused for run in runs] == [False, True, False]
    said = capsys.readouterr().out
    assert (
        "running 3 notebooks, profile smoke, 2 at a time" in said and said.count("unchanged (took 1.5 s when it last ran)") == 1
    )


def test_all_notebooks_are_tried_before_a_failure_ends_the_build(executed, capsys):
    keep(done("three"))
    with pytest.raises(SystemExit) as stopped:
        build.run_all(["one", "two", "three"], build.parse(["html", "--force", "--jobs", "1"]))
    assert stopped.value.code == 1 and executed == ["one", "two", "three"]
    out, err = capsys.readouterr()
    assert "two    FAILED after 1.5 s — cell 1: ValueError: no" in out
    assert err.startswith("error: notebooks/two.py, cell 1: ValueError: no\nerror: 1 of 3 notebooks failed; as they ran: ")


def test_a_slow_smoke_run_is_said(project, monkeypatch, capsys):
    slow = lambda name, options, deadline: replace(done(name, options.profile), seconds=build.SMOKE_BUDGET + 1)
    monkeypatch.setattr(build, "execute", slow)
    for profile, said in (("smoke", 1), ("laptop", 0)):
        build.run_all(["one"], build.parse(["html", "--profile", profile]))
        assert capsys.readouterr().out.count("slower than the 90 s that a smoke run should stay below") == said


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["html", "--jobs", "0"], "--jobs is 0, expected at least 1"),
        (["html", "--only", "errata"], "--only goes with `notebooks`"),
        (["notebooks", "--committed"], "--committed goes with `html`"),
        (["notebooks", "--profile", "laptop"], "the committed notebooks are those of the smoke profile"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments, said, capsys):
    with pytest.raises(SystemExit):
        build.parse(arguments)
    assert said in capsys.readouterr().err


def test_a_profile_that_trains_has_more_time():
    timeouts = lambda *arguments: (vars(build.parse(["html", *arguments]))[f"{kind}_timeout"] for kind in ("cell", "total"))
    assert (*timeouts(), *timeouts("--profile", "laptop")) == (300, 3600, 5400, 86_400)
    assert tuple(timeouts("--profile", "paper", "--cell-timeout", "9")) == (9, 86_400)


# ---------------------------------------------------------------------------------------------------------------------
# Pages


def test_the_machine_is_told_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    version = build.importlib.metadata.version("atslib")
    facts = build.machine()
    assert facts["atslib"] == version and facts["Python"] == platform.python_version() and facts["cores"] == str(os.cpu_count())
    assert all(isinstance(value, str) and value for value in facts.values())
    monkeypatch.setattr(build.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, "abc123\n", ""))
    assert build.machine()["atslib"] == f"{version} (abc123)"
    monkeypatch.setattr(build.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 128, "", "fatal: "))
    assert build.machine()["atslib"] == version  # in no repository


def test_the_source_of_the_pages_is_what_the_book_has_and_no_more(project, monkeypatch):
    monkeypatch.setattr(build, "machine", lambda: dict(processor="abacus"))
    shutil.copy(sources.ROOT / "LICENSE", project)
    (build.SRC / "notebooks").mkdir(parents=True)
    (build.SRC / "notebooks" / "gone.ipynb").write_text("of a chapter that is no more")
    row = next(row for row in ledger.read() if row.kind == "claim" and row.answer and row.where)
    name = row.where.split("#")[0]
    notebook = new_notebook(cells=[new_markdown_cell("# Title\n\nWhat this is.\n\n## Section")])
    runs = [done("one", cells=3, figures=1), done("two", cells=4)]
    build.assemble({name: notebook}, runs)

    top = {path.name for path in build.SRC.iterdir()}
    assert {"intro.md", "ledger.md", "execution.md", "LICENSE", "notebooks", "images", "references.bib"} <= top
    assert not [path for path in build.SRC.rglob("*") if path.suffix == ".py" or path.name in ("_toc.yml", "_config.yml", "_ext")]
    assert [path.name for path in (build.SRC / "notebooks").iterdir()] == [f"{name}.ipynb"]
    first = nbformat.read(build.SRC / "notebooks" / f"{name}.ipynb", as_version=4).cells[0].source
    assert "The paper's claims here" in first and f"ledger.html#{row.id}" in first
    intro = (build.SRC / "intro.md").read_text(encoding="utf-8")
    assert "<!-- main answers -->" not in intro and ledger.main_answers(ledger.read()) in intro
    assert (build.SRC / "ledger.md").read_text(encoding="utf-8") == ledger.page(ledger.read())
    said = (build.SRC / "execution.md").read_text(encoding="utf-8")
    assert "| [one](notebooks/one.ipynb) | smoke | 3 | 1 | 1.5 | 2020-01-01 |" in said
    assert "| all | | 7 | 1 | 3.0 | |" in said and "| processor | abacus |" in said


def test_a_build_that_ran_nothing_says_so(monkeypatch):
    monkeypatch.setattr(build, "machine", lambda: dict(processor="abacus"))
    nothing, something = build.statistics([]), build.statistics([build.Run("one", "smoke", "", 1.5, "2020-01-01")])
    assert "this build ran nothing" in nothing and "| all |" not in nothing and "was run from its source" not in nothing
    assert "was run from its source" in something and "| all |" in something
    assert all(page.startswith("# Execution statistics\n") and "| processor | abacus |" in page for page in (nothing, something))


def test_wide_figures_are_marked():
    def picture(width, kind="png"):
        file = io.BytesIO()
        Image.new("L", (width, 2)).save(file, kind)
        return new_output("display_data", {f"image/{kind}": base64.b64encode(file.getvalue()).decode(), "text/plain": "figure"})

    outputs = [[], [picture(599)], [picture(300), picture(700, "jpeg")], [picture(900, "gif")]]
    cells = [new_code_cell("1", metadata=dict(mystnb=dict(image=dict(alt="what")))) for _ in outputs]
    for cell, shown in zip(cells, outputs, strict=True):
        cell.outputs = shown
    cells.append(new_code_cell("1", outputs=[picture(700)]))
    build.mark_wide_figures(new_notebook(cells=[new_markdown_cell("# Title"), *cells]))
    classes = [cell.metadata.get("mystnb", {}).get("image", {}).get("classes") for cell in cells]
    assert classes == [None, None, "wide-figure", "wide-figure very-wide-figure", "wide-figure"]
    assert cells[2].metadata["mystnb"]["image"]["alt"] == "what"


# ---------------------------------------------------------------------------------------------------------------------
# What a notebook keeps


def with_widgets(*ids):
    """A notebook whose only output shows the last of these models, which has the others as parts."""
    parts = {f"part{number}": f"IPY_MODEL_{model}" for number, model in enumerate(ids[:-1])}
    shown = new_output("display_data", {"application/vnd.jupyter.widget-view+json": dict(model_id=ids[-1])})
    notebook = new_notebook(cells=[new_code_cell("slider", outputs=[shown])])
    state = {model: dict(model_name=f"Model{number}", state={}) for number, model in enumerate(ids)}
    state[ids[-1]]["state"] = parts
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": dict(version_major=2, state=state)}
    return notebook


def executed_twice():
    """The same notebook as two runs leave it."""
    for stamp in ("2020-01-01", "2030-12-31"):
        figure = new_output("display_data", {"text/plain": "1"}, metadata=dict(papermill=dict(at=stamp), image=dict(width=3)))
        cells = [
            new_markdown_cell("# Title", metadata=dict(papermill=dict(start=stamp), tags=[])),
            new_code_cell("1", metadata=dict(papermill=dict(start=stamp), tags=["hide-input"], collapsed=True), outputs=[figure]),
            new_code_cell("1", metadata=dict(mystnb=dict(image=dict(alt="what it shows")))),
            new_markdown_cell("1"),
        ]
        about = dict(
            papermill=dict(start=stamp),
            language_info=dict(name="python", version=stamp),
            kernelspec=dict(name=stamp, display_name=stamp),
        )
        yield new_notebook(cells=cells, metadata=about)


def test_what_is_kept_of_a_run_does_not_change_by_itself():
    first, second = (sources.normalise(notebook) for notebook in executed_twice())
    assert nbformat.writes(first) == nbformat.writes(second)
    assert set(first.metadata) == {"kernelspec", "language_info"} and first.metadata.kernelspec == sources.KERNEL
    assert [dict(cell.metadata) for cell in first.cells] == [
        {},
        dict(tags=["hide-input"]),
        dict(mystnb=dict(image=dict(alt="what it shows"))),
        {},
    ]
    assert first.cells[1].outputs[0].metadata == dict(image=dict(width=3))
    nbformat.validate(first)


@pytest.mark.parametrize(
    "notebook", [*executed_twice(), with_widgets("a" * 32, "b" * 32, "c" * 32)], ids=["one", "two", "widgets"]
)
def test_what_has_been_put_in_order_stays_as_it_is(notebook):
    once = nbformat.writes(sources.normalise(notebook))
    assert nbformat.writes(sources.normalise(notebook)) == once
    assert nbformat.writes(sources.normalise(nbformat.reads(once, as_version=4))) == once


def test_cells_have_the_ids_of_their_text():
    notebook = sources.normalise(next(executed_twice()))
    title, code, again, prose = (cell.id for cell in notebook.cells)
    assert again == f"{code}-2" and len({title, code, again, prose}) == 4
    longer = next(executed_twice())
    longer.cells.insert(0, new_markdown_cell("Something above."))
    longer.cells.insert(3, new_code_cell("2"))
    ids = [cell.id for cell in sources.normalise(longer).cells]
    assert ids[1:3] == [title, code] and ids[4:] == [again, prose]


def test_widgets_are_numbered_in_place_of_their_random_ids():
    texts = set()
    numbers = [f"{number:032x}" for number in range(3)]
    random = [("0a" * 16, "1b" * 16, "2c" * 16), ("d3" * 16, "e4" * 16, "f5" * 16), ("d3" * 16, "1b" * 16, "0a" * 16)]
    for ids in random:  # the last as they do not sort
        notebook = sources.normalise(with_widgets(*ids))
        text = nbformat.writes(notebook)
        assert not any(model in text for model in ids)
        texts.add(text)
    assert len(texts) == 1
    again = nbformat.writes(sources.normalise(with_widgets(numbers[1], numbers[2], numbers[0])))  # by names that are given anew
    assert texts == {again} == {nbformat.writes(sources.normalise(with_widgets(numbers[2], numbers[0], numbers[1])))}
    state = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"].state
    assert sorted(state) == numbers
    assert state[numbers[0]].state == dict(part0=f"IPY_MODEL_{numbers[1]}", part1=f"IPY_MODEL_{numbers[2]}")
    view = notebook.cells[0].outputs[0].data["application/vnd.jupyter.widget-view+json"]
    assert view.model_id == numbers[0]


def test_a_file_is_written_only_where_it_changes(tmp_path):
    path = tmp_path / "pages" / "one.md"
    assert sources.write_text(path, "one") and path.read_text() == "one"
    before = path.stat().st_mtime_ns
    assert not sources.write_text(path, "one") and path.stat().st_mtime_ns == before
    assert sources.write_text(path, "two") and [place.name for place in path.parent.iterdir()] == ["one.md"]
    notebook = next(executed_twice())
    assert sources.write(notebook, tmp_path / "one.ipynb") and not sources.write(notebook, tmp_path / "one.ipynb")
    assert (tmp_path / "one.ipynb").read_text().endswith("}\n")
