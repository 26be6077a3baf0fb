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
COLUMNS = ("id", "kind", "paper_ref", "statement", "where", "verdict", "answer", "evidence", "note")
KINDS = ("equation", "figure", "table", "claim")
VERDICTS = {
    "confirmed": "holds; the note says under which conditions",
    "differs": "comes out otherwise than the paper says",
    "erratum": "is wrong as printed; the page shows what is right",
    "stand-in": "holds, on other data than the paper's",
    "pending": "not run yet, or not enough to tell; the note says what is missing",
}
LONGEST_NOTE = 240  # characters: what is longer opens on a click
LONGEST_ANSWER = 160  # characters: what fits into two lines of a page
MOST_RECORDS = 3  # what is more opens on a click


@dataclass(frozen=True)
class Row:
    """One equation, figure, table or claim of the paper and what became of it."""

    id: str
    kind: str
    paper_ref: str
    statement: str
    where: str
    verdict: str
    answer: str  # one sentence for the top of a chapter, of every row but the equations
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
        if not row.answer and row.kind != "equation":
            found.append(f"{row.id}: no answer, one sentence that says what came out")
        if len(row.answer) > LONGEST_ANSWER:
            found.append(f"{row.id}: an answer of {len(row.answer)} characters, expected at most {LONGEST_ANSWER}")
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


def markup(text: str) -> str:
    """Plain text as HTML, its few formulas as formulas: a_I with an index, ^2 as a power, E[…] as a mean, `…` as code."""
    text = html.escape(text)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    text = re.sub(r"\b([A-Za-z])_([A-Za-z])\b", r"<i>\1</i><sub>\2</sub>", text)
    text = re.sub(r"\^(\d)", r"<sup>\1</sup>", text)
    return re.sub(r"\bE\[", "𝔼[", text)


def page(rows: list[Row]) -> str:
    """The ledger as a page of the book."""
    count = Counter((row.verdict, row.kind) for row in rows)
    summary = [
        f"| **{verdict}** | {meaning} | " + " | ".join(str(count[verdict, kind] or "–") for kind in KINDS) + " |"
        for verdict, meaning in VERDICTS.items()
    ]
    return "\n".join(
        [
            "# The claim ledger",
            "",
            "One row for each numbered equation, figure and table of the paper {cite}`katharopoulos2019`, and for each claim",
            "that its text makes. A verdict rests on the cell that the row links to, which computes what it judges, and on the",
            "tests and run records named with it. The page is made from `results/ledger.csv` when the book is built, and a test",
            "fails if a link in it leads nowhere.",
            "",
            "| verdict | meaning | " + " | ".join(f"{kind}s" for kind in KINDS) + " |",
            "|---|---|" + "---:|" * len(KINDS),
            *summary,
            "",
            "How they are given. A claim of a difference is *confirmed* if a test finds the difference",
            "([how](#when-methods-differ)); a claim of a size, or",
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
            "## When methods differ",
            "",
            "Trainings scatter, so the tests of the pages are over runs. A difference is *beyond chance* where an exact",
            "permutation test over the runs has p < 0.05 (pairs of runs are exchanged where they share folds or seeds). Few",
            "runs cannot get there: five pairs give no less than 0.0625, three runs against three no less than 0.1. Where they",
            "give the least that they can, a page says so, and beside it what a sign test over the test images says in each",
            "pair; only if both point the same way does it call a difference shown. Student's intervals say how large a",
            "difference may be; they take it for normal, and alone they show none. Where a claim is of an order, the more",
            "patches the lower the error, say, Page's trend test asks whether the seeds keep to it. Where several differences",
            "are tested p is not corrected for their number unless a page says so.",
            "",
        ]
    )


# What the paper stands on, in the order of its argument: the rows that the first page of the book shows.
MAIN = """
    claim-unbiased-value claim-gradient-with claim-gradient-without claim-minimum-variance claim-25x-30x claim-memory-independent
    claim-order-of-magnitude fig2 tab1 tab2 claim-colon-attention claim-nested
""".split()


def box(rows: list[Row], name: str) -> str:
    """
    What became of the figures, tables and claims that a notebook judges, for the top of its page; empty if there are none.

    It is put there when the book is built: in the notebook it would stand above the cells that compute it.
    """
    judged = {}
    for row in rows:
        labels = [label for there, _, label in (place.partition("#") for place in places(row)) if there == name]
        if row.answer and labels:
            judged[row] = f"#{labels[0]}"
    if not judged:
        return ""
    return "\n".join(
        [
            "::::{admonition} The paper's claims here",
            ":class: tip",
            *_answers(judged, "../ledger.html"),
            "The words of the verdicts, and the conditions of each, are in [the ledger](../ledger.md).",
            "::::",
            "",
        ]
    )


def main_answers(rows: list[Row]) -> str:
    """The table of the first page."""
    by_id = {row.id: row for row in rows}
    linked = {by_id[i]: "notebooks/" + places(by_id[i])[0].replace("#", ".html#") for i in MAIN}
    return "\n".join(_answers(linked, "ledger.html"))


def _answers(linked: dict[Row, str], ledger_page: str) -> list[str]:
    """A table of statement, verdict and answer; each row links to the cell that computes it and to its place in the ledger."""
    head = '<table class="table in-short"><thead><tr><th>the paper</th><th>verdict</th><th>here</th></tr></thead><tbody>'
    body = [
        f'<tr><td><a href="{link}">{markup(row.statement)}</a> <span class="ledger-note">{html.escape(row.paper_ref)}</span>'
        f'</td><td><a href="{ledger_page}#{row.id}" class="verdict verdict-{row.verdict}">{row.verdict}</a></td>'
        f"<td>{markup(row.answer)}</td></tr>"
        for row, link in linked.items()
    ]
    return ["```{raw} html", head, *body, "</tbody></table>", "```"]


def with_box(text: str, rows: list[Row], name: str) -> str:
    """The first cell of a notebook with the box above its first section, or at its end."""
    if not (found := box(rows, name)):
        return text
    head, *rest = re.split(r"^(?=## )", text, maxsplit=1, flags=re.MULTILINE)
    return "\n".join([head.rstrip(), "", found, *rest])


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
    tests, records = [], []
    for e in row.evidence.split():
        code = f"<code>{html.escape(e.removeprefix('tests/').removeprefix('results/runs/')).replace('_', '_<wbr>')}</code>"
        (tests if e.startswith("tests/") else records).append(code)
    shown = "<br>".join(shown + tests)
    if len(records) > MOST_RECORDS:
        shown += f"<details><summary>{len(records)} records</summary>{'<br>'.join(records)}</details>"
    else:
        shown = "<br>".join(filter(None, [shown, *records]))
    answer = f"<br>{markup(row.answer)}" if row.answer else ""
    note = f'<span class="ledger-note">{markup(row.note)}</span>' if row.note else ""
    if len(row.note) > LONGEST_NOTE:
        note = f"<details><summary>the conditions, and what is missing</summary>{note}</details>"
    elif note:
        note = f"<br>{note}"
    # The filter finds a formula as one types it, too.
    typed = [text for text in (row.statement, row.answer, row.note) if markup(text) != html.escape(text)]
    plain = f' data-plain="{html.escape(" ".join(typed))}"' if typed else ""
    return (
        f'<tr id="{row.id}" data-kind="{row.kind}" data-verdict="{row.verdict}"{plain}>'
        f'<td><b>{row.id.replace("-", "-<wbr>")}</b><br><span class="ledger-note">{html.escape(row.paper_ref)}</span></td>'
        f"<td><b>{markup(row.statement)}</b>{answer}{note}</td>"
        f'<td><span class="verdict verdict-{row.verdict}">{row.verdict}</span></td><td>{shown}</td></tr>'
    )


def _chapter(name: str) -> str:
    """How the table calls a notebook: chapters by number, other pages by name."""
    return f"chapter {int(name[:2])}" if name[:2].isdigit() else name


_SCRIPT = """<script>
(() => {
  const rows = [...document.querySelectorAll("#ledger tbody tr")];
  const text = new Map(rows.map(row => [row, (row.textContent + " " + (row.dataset.plain || "")).toLowerCase()]));
  const controls = [...document.querySelectorAll("[data-filter]")];
  const show = () => {
    const want = Object.fromEntries(controls.map(c => [c.dataset.filter, c.value.toLowerCase()]));
    let shown = 0;
    for (const row of rows) {
      const fits = (!want.verdict || row.dataset.verdict === want.verdict)
        && (!want.kind || row.dataset.kind === want.kind)
        && (!want.text || text.get(row).includes(want.text));
      row.hidden = !fits;
      if (want.text && fits) {  // what is found in a fold only opens it
        const folds = [...row.querySelectorAll("details")].map(fold => [fold, fold.textContent.toLowerCase()]);
        const open = folds.reduce((rest, [, folded]) => rest.replace(folded, " "), text.get(row));
        for (const [fold, folded] of folds) fold.open = !open.includes(want.text) && folded.includes(want.text);
      }
      shown += fits;
    }
    document.getElementById("ledger-count").textContent = `${shown} of ${rows.length} rows`;
  };
  controls.forEach(c => c.addEventListener("input", show));
})();
</script>"""
