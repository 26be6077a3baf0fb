"""The claim ledger, results/ledger.csv: read, checked and rendered as a page with filters."""

import csv
import html
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sources import NOTEBOOKS, ROOT, cell_labels, read_source

LEDGER = ROOT / "results" / "ledger.csv"
COLUMNS = ("id", "kind", "paper_ref", "statement", "where", "verdict", "evidence", "note")
KINDS = ("equation", "figure", "table", "claim")
VERDICTS = {
    "confirmed": "holds as printed",
    "differs": "comes out otherwise than the paper says",
    "erratum": "is wrong as printed; the page shows what is right",
    "stand-in": "holds, on other data than the paper's",
    "pending": "not run yet, or not enough to tell; the note says what is missing",
}


@dataclass(frozen=True)
class Row:
    """One equation, figure, table or claim of the paper and what became of it."""

    id: str
    kind: str
    paper_ref: str
    statement: str
    where: str
    verdict: str
    evidence: str
    note: str


def read(path: Path = LEDGER) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path}: columns are {reader.fieldnames}, expected {list(COLUMNS)}")
        return [Row(**row) for row in reader]


def places(row: Row) -> list[str]:
    """The cells a row points to, as ``NN_name#label``; several are separated by blanks."""
    return row.where.split()


def problems(rows: list[Row]) -> list[str]:
    """What is wrong with the ledger, one line each: words it does not know, links that lead nowhere."""
    labels: dict[str, set[str]] = {}
    found = [f"{i}: stands there {n} times" for i, n in Counter(row.id for row in rows).items() if n > 1]
    for row in rows:
        if row.kind not in KINDS:
            found.append(f"{row.id}: kind {row.kind!r}, expected one of {', '.join(KINDS)}")
        if row.verdict not in VERDICTS:
            found.append(f"{row.id}: verdict {row.verdict!r}, expected one of {', '.join(VERDICTS)}")
        if not row.statement or not row.paper_ref:
            found.append(f"{row.id}: no statement or no place in the paper")
        if row.verdict != "pending" and not row.where:
            found.append(f"{row.id}: verdict {row.verdict} without a cell that shows it")
        if row.verdict in ("erratum", "differs", "stand-in") and not row.note:
            found.append(f"{row.id}: verdict {row.verdict} needs a note that says how")
        for place in places(row):
            name, _, label = place.partition("#")
            if name not in labels:
                exists = (NOTEBOOKS / f"{name}.py").exists()
                labels[name] = set(cell_labels(read_source(name))) if exists else set()
            if label not in labels[name]:
                found.append(f"{row.id}: no cell {place}")
        for evidence in row.evidence.split():
            path, _, test = evidence.partition("::")
            if not (ROOT / path).is_file():
                found.append(f"{row.id}: no file {path}")
            elif test:
                function = re.escape(test.split("[")[0])
                if not re.search(rf"^def {function}\b", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE):
                    found.append(f"{row.id}: no test {test} in {path}")
            elif path.endswith(".json"):
                json.loads((ROOT / path).read_text(encoding="utf-8"))
    return found


def page(rows: list[Row]) -> str:
    """The ledger as a page of the book."""
    count = Counter(row.verdict for row in rows)
    summary = [f"| **{verdict}** | {count[verdict]} | {meaning} |" for verdict, meaning in VERDICTS.items()]
    return "\n".join(
        [
            "# The claim ledger",
            "",
            "One row for each numbered equation, figure and table of the paper {cite}`katharopoulos2019`, and for each claim",
            "that its text makes. A verdict rests on the cell that the row links to, which computes what it judges, and on the",
            "tests and run records named with it. The page is made from `results/ledger.csv` when the book is built, and a test",
            "fails if a link in it leads nowhere.",
            "",
            "| verdict | rows | meaning |",
            "|---|---:|---|",
            *summary,
            "",
            "How they are given. A claim of a difference is *confirmed* if a test finds the difference; a claim of a size, or",
            "that nothing changes, *differs* if an interval or a test excludes it in every way of counting that the page has",
            "(runs, folds, images). That no difference was found shows that there is none only as far as the note says how",
            "large a one could hide; where runs are few or short this is *pending*, and so is a claim whose runs begin",
            "otherwise than the paper's in what the claim is about. A figure or table is *confirmed* if ours shows what the",
            "paper's shows, and *differs* if it shows something else; the note says in which respect, and what could not be",
            "run.",
            "",
            "```{raw} html",
            _filters(rows),
            '<div class="ledger-scroll"><table class="table ledger" id="ledger"><thead><tr><th>in the paper</th>'
            "<th>statement</th><th>verdict</th><th>shown in, tested by</th></tr></thead><tbody>",
            *map(_table_row, rows),
            "</tbody></table></div>",
            _SCRIPT,
            "```",
            "",
        ]
    )


def _filters(rows: list[Row]) -> str:
    def select(name: str, values) -> str:
        options = "".join(f'<option value="{value}">{value}</option>' for value in values)
        return f'<label>{name} <select data-filter="{name}"><option value="">all</option>{options}</select></label>'

    return (
        f'<div class="ledger-filters">{select("verdict", VERDICTS)}{select("kind", KINDS)}'
        '<label>text <input type="search" data-filter="text" placeholder="gradient, §4.2, …"></label>'
        f'<output id="ledger-count">{len(rows)} of {len(rows)} rows</output></div>'
    )


def _table_row(row: Row) -> str:
    shown = [
        f'<a href="notebooks/{name}.html#{label}">{html.escape(_chapter(name))}</a>'
        for name, _, label in (place.partition("#") for place in places(row))
    ]
    # A path may break anywhere on a phone, but rather at its separators.
    evidence = [
        f"<code>{html.escape(e.removeprefix('tests/').removeprefix('results/runs/')).replace('_', '_<wbr>')}</code>"
        for e in row.evidence.split()
    ]
    note = f'<br><span class="ledger-note">{html.escape(row.note)}</span>' if row.note else ""
    return (
        f'<tr id="{row.id}" data-kind="{row.kind}" data-verdict="{row.verdict}">'
        f'<td><b>{row.id.replace("-", "-<wbr>")}</b><br><span class="ledger-note">{html.escape(row.paper_ref)}</span></td>'
        f"<td>{html.escape(row.statement)}{note}</td>"
        f'<td><span class="verdict verdict-{row.verdict}">{row.verdict}</span></td><td>{"<br>".join(shown + evidence)}</td></tr>'
    )


def _chapter(name: str) -> str:
    """How the table calls a notebook: chapters by number, other pages by name."""
    return f"chapter {int(name[:2])}" if name[:2].isdigit() else name


_SCRIPT = """<script>
(() => {
  const rows = [...document.querySelectorAll("#ledger tbody tr")];
  const controls = [...document.querySelectorAll("[data-filter]")];
  const show = () => {
    const want = Object.fromEntries(controls.map(c => [c.dataset.filter, c.value.toLowerCase()]));
    let shown = 0;
    for (const row of rows) {
      const fits = (!want.verdict || row.dataset.verdict === want.verdict)
        && (!want.kind || row.dataset.kind === want.kind)
        && (!want.text || row.textContent.toLowerCase().includes(want.text));
      row.hidden = !fits;
      shown += fits;
    }
    document.getElementById("ledger-count").textContent = `${shown} of ${rows.length} rows`;
  };
  controls.forEach(c => c.addEventListener("input", show));
})();
</script>"""
