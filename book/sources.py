"""What the book is made of: its table of contents, and the notebooks as their sources say.

The build, the check of the rendered pages and the tests share these definitions, so that "a notebook's label" or
"a page of the book" means the same thing everywhere.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import jupytext
import nbformat
import yaml
from nbformat import NotebookNode

BOOK = Path(__file__).resolve().parent
ROOT = BOOK.parent
NOTEBOOKS = ROOT / "notebooks"

# Every chapter the book may have, in reading order. A name is a promise: links from outside point to it.
CHAPTERS = (
    "00_quickstart",
    "01_attention_as_expectation",
    "02_variance_optimality",
    "03_gradient_with_replacement",
    "04_without_replacement",
    "05_lower_variance",
    "06_patches_and_resolution",
    "07_entropy_and_exploration",
    "08_megapixel_mnist",
    "09_colon_cancer",
    "10_speed_limits",
    "11_ablation_entropy",
    "12_ablation_patches",
    "13_cost",
    "14_gigapixel",
    "15_your_own_images",
    "16_recipes",
    "data_megapixel_mnist",
    "data_colon_cancer",
    "data_speed_limits",
    "errata",
)

KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}


# ---------------------------------------------------------------------------------------------------------------------
# Table of contents


def pages(toc: Path = BOOK / "_toc.yml") -> list[str]:
    """Every page of the book in reading order, without suffix: `intro`, `notebooks/00_quickstart`, …"""

    def walk(node) -> Iterator[str]:
        if isinstance(node, dict):
            for key, value in node.items():
                if key in ("root", "file"):
                    yield value
                elif key in ("parts", "chapters", "sections", "subtrees", "entries"):
                    yield from walk(value)
        elif isinstance(node, list):
            for item in node:
                yield from walk(item)

    return list(walk(yaml.safe_load(toc.read_text(encoding="utf-8"))))


def notebook_names() -> list[str]:
    """The notebooks among the pages, as bare names: `00_quickstart`, …"""
    return [page.removeprefix("notebooks/") for page in pages() if page.startswith("notebooks/")]


# ---------------------------------------------------------------------------------------------------------------------
# Notebooks


def read_source(name: str) -> NotebookNode:
    """The notebook as its `py:percent` source says: no outputs, and ids that depend on nothing but the text."""
    notebook = jupytext.read(NOTEBOOKS / f"{name}.py", fmt="py:percent")
    return normalise(notebook)


def read_executed(name: str) -> NotebookNode:
    """The executed notebook that is committed beside the source."""
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def normalise(notebook: NotebookNode) -> NotebookNode:
    """Drop from a notebook, in place, what changes from run to run although nothing has changed.

    Gone are time stamps, versions, papermill's bookkeeping and the random ids of cells and widgets, so that the diff
    of an executed notebook shows changed cells and changed results only.
    """
    widgets = notebook.metadata.get("widgets")
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    if widgets:
        notebook.metadata["widgets"] = widgets
    notebook.nbformat, notebook.nbformat_minor = 4, 5

    seen: dict[str, int] = {}
    for cell in notebook.cells:
        # An id made from the text stays when cells are added above; a repeated text gets a counter.
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:10]
        repeat = seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if repeat == 1 else f"{digest}-{repeat}"
        cell.metadata = nbformat.from_dict(
            {key: value for key, value in cell.metadata.items() if key in ("tags", "mystnb") and value}
        )
        for output in cell.get("outputs", []):
            output.metadata.pop("papermill", None) if "metadata" in output else None
    return _rename_widgets(notebook)


def _rename_widgets(notebook: NotebookNode) -> NotebookNode:
    """Number the widget models in the order in which cells name them, then others by content, in place of their random ids."""
    state = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    if not state:
        return notebook
    cells, any_id = json.dumps(notebook.cells), re.compile("|".join(map(re.escape, state)))

    def place(model_id: str) -> tuple[int, str]:
        first = cells.find(model_id)
        return first if first >= 0 else len(cells), any_id.sub("", json.dumps(state[model_id], sort_keys=True))

    numbered = {model_id: f"{number:032x}" for number, model_id in enumerate(sorted(state, key=place))}
    return nbformat.from_dict(json.loads(any_id.sub(lambda found: numbered[found[0]], json.dumps(notebook))))


def write(notebook: NotebookNode, path: Path) -> bool:
    """Write a notebook unless the file holds it already; says whether it wrote. Never leaves half a file."""
    text = nbformat.writes(notebook, version=4)
    return write_text(path, text if text.endswith("\n") else text + "\n")


def write_text(path: Path, text: str) -> bool:
    """As `write`, for any text."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return True


def is_parameters(cell: NotebookNode) -> bool:
    return "parameters" in cell.metadata.get("tags", [])


def default_profile(notebook: NotebookNode) -> str | None:
    """The profile that the notebook's own `parameters` cell names."""
    for cell in notebook.cells:
        if is_parameters(cell) and (match := re.search(r"^profile\s*=\s*[\"'](\w+)[\"']", cell.source, re.MULTILINE)):
            return match[1]
    return None


def title(markdown: str) -> str | None:
    """The first `# heading` of a page or of a notebook's first cells."""
    match = re.search(r"^# +(.+?)\s*$", markdown, re.MULTILINE)
    return match[1] if match else None


def markdown(notebook: NotebookNode) -> str:
    """All prose of a notebook, cells separated by a blank line."""
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


LABEL = re.compile(r"^\(([\w:.-]+)\)=\s*$", re.MULTILINE)


def cell_labels(notebook: NotebookNode) -> dict[str, int]:
    """Label -> position of the code cell that it names.

    A label is a MyST target, `(cell-eq12)=`, on a line of its own in a markdown cell. It names the next code cell: the
    one that computes what the heading or sentence after the label says. Several labels may stand above one cell.
    """
    labels: dict[str, int] = {}
    waiting: list[str] = []
    for position, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            waiting += LABEL.findall(cell.source)
        elif cell.cell_type == "code":
            labels.update((label, position) for label in waiting)
            waiting = []
    return labels


def describe_cell(notebook: NotebookNode, position: int) -> str:
    """How to tell a reader which cell: its number, and the label or heading it stands under."""
    for cell in reversed(notebook.cells[:position]):
        if cell.cell_type != "markdown":
            continue
        if labels := LABEL.findall(cell.source):
            return f"cell {position + 1}, {labels[-1]}"
        if headings := re.findall(r"^#+ +(.+?)\s*$", cell.source, re.MULTILINE):
            return f"cell {position + 1}, under “{headings[-1]}”"
    return f"cell {position + 1}"
