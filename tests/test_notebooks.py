"""The committed notebooks: in step with their sources, executed, and built as a chapter of this book is built.

What the notebooks compute is checked elsewhere, by nbval (`make validate`).
"""

import re

import pytest
import sources

NAMES = sources.notebook_names()
REFERENCE = {"errata"}  # pages to look things up in: a summary, but no exercises
WITHOUT_DATA = ("not found", "here it is not", "needs the data", "needs the photographs", "only be said where the data set is")
SIZE_LIMIT = 1_500_000  # bytes; a page with more is slow to load and its diffs cannot be read
OUTPUT_WIDTH = 89  # columns of an output that are seen on a screen of 1280 pixels; the rest has to be scrolled to
WIDE_OUTPUTS = {  # pages that still print longer lines: commands, lists and logs
    *("08_megapixel_mnist", "10_speed_limits", "11_ablation_entropy", "12_ablation_patches", "13_cost"),
    *("data_colon_cancer", "data_megapixel_mnist"),
}
PAGE_WIDTH = 96  # columns of code that a page of the book shows beside its two side bars, on a screen of 1440 pixels

pytestmark = pytest.mark.skipif(not NAMES, reason="no notebook in _toc.yml")


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def source(name):
    return sources.read_source(name)


@pytest.fixture(scope="module")
def executed(name):
    path = sources.NOTEBOOKS / f"{name}.ipynb"
    assert path.exists(), f"notebooks/{name}.ipynb is missing: run `make notebooks` and commit it"
    return sources.read_executed(name)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_contents_and_folder_agree():
    on_disk = {path.stem for path in sources.NOTEBOOKS.glob("*.py")}
    assert on_disk == set(NAMES), "every notebooks/*.py is a line of book/_toc.yml and the other way round"
    assert {path.stem for path in sources.NOTEBOOKS.glob("*.ipynb")} == on_disk, "each .py has its .ipynb"


def test_names_and_order():
    assert [n for n in sources.CHAPTERS if n in NAMES] == NAMES, "chapters keep the names and the order of CHAPTERS"


def test_executed_agrees_with_source(name, source, executed):
    for position, (want, have) in enumerate(zip(source.cells, executed.cells, strict=False)):
        where = f"{name}, {sources.describe_cell(source, position)}"
        assert (have.cell_type, have.source) == (want.cell_type, want.source), (
            f"{where} differs between .py and .ipynb: run `make notebooks`"
        )
        assert have.metadata == want.metadata, f"{where} has other tags in .py and .ipynb: run `make notebooks`"
        assert have.id == want.id, f"{where} has another id: run `make notebooks`"
    assert len(executed.cells) == len(source.cells), f"{name}: .py and .ipynb have different numbers of cells"


def test_every_cell_was_run_and_none_failed(name, executed):
    for position, cell in enumerate(executed.cells):
        if cell.cell_type != "code":
            continue
        where = f"{name}, {sources.describe_cell(executed, position)}"
        assert cell.execution_count, f"{where} was not run"
        for output in cell.outputs:
            assert output.output_type != "error", f"{where} failed: {output.get('evalue')}"
            assert output.get("name") != "stderr", f"{where} warns on the page: {output.get('text', '')[:200]}"
    assert any(cell.outputs for cell in code_cells(executed)), f"{name} has no outputs"


def test_real_data_were_there(name, executed):
    """Where data sets are absent a page does without and says so; the committed page has its figures of real images."""
    for position, cell in enumerate(executed.cells):
        text = str([output.get("data", {}).get("text/markdown") or output.get("text") for output in cell.get("outputs", [])])
        for words in WITHOUT_DATA:
            where = f"{name}, {sources.describe_cell(executed, position)}"
            assert words not in text, f"{where}: {words!r}; run `make notebooks` with ATSLIB_DATA set"


def test_nothing_that_changes_by_itself_is_committed(name, executed):
    assert set(executed.metadata) <= {"kernelspec", "language_info", "widgets"}
    for cell in executed.cells:
        assert set(cell.metadata) <= {"tags", "mystnb"}, f"{name}: {cell.metadata}"


def test_size(name):
    size = (sources.NOTEBOOKS / f"{name}.ipynb").stat().st_size
    assert size < SIZE_LIMIT, f"notebooks/{name}.ipynb has {size} bytes, at most {SIZE_LIMIT} are allowed"


def test_parameters(name, source):
    marked = [cell for cell in source.cells if sources.is_parameters(cell)]
    assert len(marked) == 1, f"{name} has {len(marked)} cells tagged `parameters`, expected one"
    assert sources.default_profile(source) == "smoke", f'{name}: the parameters cell says profile = "smoke"'


def test_sections(name, source):
    """Title, goals, time and hardware; at the end a summary and exercises."""
    prose = sources.markdown(source)
    assert source.cells[0].cell_type == "markdown", f"{name} opens with its title"
    assert source.cells[0].source.lstrip().startswith("# "), f"{name} opens with its title"
    assert len(re.findall(r"^# ", prose, re.MULTILINE)) == 1, f"{name} has one title"
    assert "$" not in sources.title(prose), f"{name}: the side bar cannot show an equation on every page"
    sections = re.findall(r"^## +(.+?)\s*$", prose, re.MULTILINE)
    assert sections[:1] == ["What you will learn"], f"{name}: the first section is `## What you will learn`"
    end = ["Summary"] if name in REFERENCE else ["Summary", "Exercises"]
    assert sections[-len(end) :] == end, f"{name} ends with {' and '.join(f'`## {title}`' for title in end)}"
    assert re.search(r"^\*\*Time and hardware:\*\* \S", prose, re.MULTILINE), (
        f"{name} has no line that begins with `**Time and hardware:**`"
    )


def test_what_came_out_is_computed_for_the_head(name, source, executed):
    kept = [
        output.data["application/papermill.record/text/markdown"]
        for cell in code_cells(executed)
        for output in cell.outputs
        if output.get("metadata", {}).get("scrapbook", {}).get("name") == "what-came-out"
    ]
    shown = "{glue:md} what-came-out" in source.cells[0].source
    assert len(kept) == shown, f"{name}: `plots.at_the_head` in one cell, {{glue:md}} what-came-out in the first, or neither"
    assert all(len(text.split("\n")) <= 5 for text in kept), f"{name}: expected up to five points, of one line each"


def test_exercises_have_hidden_solutions(name, source):
    prose = sources.markdown(source)
    exercises = re.findall(r"\{exercise\}[^\n]*\n:label: ([\w-]+)", prose)
    solutions = re.findall(r"\{solution(?:-start)?\} ([\w-]+)\n:class: dropdown", prose)
    if name not in REFERENCE:
        assert len(exercises) >= 2, f"{name} has {len(exercises)} labelled exercises, expected at least two"
    number = name[:2] if name[:2].isdigit() else name
    assert all(label.startswith(f"ex-{number}-") for label in exercises), f"{name}: labels begin with ex-{number}-"
    assert solutions == exercises, f"{name}: each exercise is followed by its hidden solution"


def test_cell_labels(name, source):
    prose = sources.markdown(source)
    labels = sources.cell_labels(source)
    marked = [label for label in sources.LABEL.findall(prose) if label.startswith("cell-")]
    assert len(marked) == len(set(marked)), f"{name} has a cell label twice"
    assert set(marked) <= set(labels), f"{name}: no code cell follows {sorted(set(marked) - set(labels))}"


def test_cell_labels_are_unique_in_the_book():
    seen = {}
    for name in NAMES:
        for label in sources.LABEL.findall(sources.markdown(sources.read_source(name))):
            assert label not in seen, f"{label} is in {name} and in {seen[label]}"
            seen[label] = name


def test_links_to_other_chapters_lead_to_headings(name, executed):
    """Jupyter Book follows labels of cells within a page only, and refuses the rest when all notebooks have run."""
    for position, cell in enumerate(executed.cells):
        told = [cell.source, *(output.get("data", {}).get("text/markdown", "") for output in cell.get("outputs", []))]
        links = re.findall(r"\]\(\w+\.ipynb#cell-[\w-]+\)", "".join(map("".join, told)))
        assert not links, f"{name}, {sources.describe_cell(executed, position)}: {links[0]}"


def test_figures_are_described(name, executed):
    for position, cell in enumerate(executed.cells):
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                description = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
                assert len(description) > 20, (
                    f'{name}, {sources.describe_cell(executed, position)}: no mystnb={{"image": {{"alt": …}}}}'
                )


def test_code_is_as_wide_as_the_page(name, source):
    """What a reader would have to scroll is what cannot be broken: a long string, mostly one that is printed."""
    for position, cell in enumerate(source.cells):
        if cell.cell_type == "code" and not {"hide-input", "remove-input", "parameters"} & set(cell.metadata.get("tags", ())):
            wide = [line for line in cell.source.splitlines() if len(line) > PAGE_WIDTH and '"' not in line and "'" not in line]
            assert not wide, f"{name}, {sources.describe_cell(source, position)}: {wide[0]}"


def test_outputs_are_as_wide_as_the_page(name, executed):
    """The point of a printed line often stands at its end, and nobody looks for it beyond the edge."""
    if name in WIDE_OUTPUTS:
        pytest.skip("prints long lines")
    for position, cell in enumerate(executed.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                wide = [line for line in output.text.splitlines() if len(line) > OUTPUT_WIDTH]
                assert not wide, f"{name}, {sources.describe_cell(executed, position)}: {wide[0]}"
