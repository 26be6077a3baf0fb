"""The claim ledger is complete, and every link in it leads somewhere."""

from dataclasses import replace

import ledger
import pytest

ROWS = ledger.read()

# The claims of the paper's text that the project set out to judge; more may be added, none may go.
CLAIMS = """
    unbiased-value unbiased-output minimum-variance gradient-with gradient-without without-better-budget memory-independent
    order-of-magnitude 25x-30x mnist-tradeoff mnist-5-patches mnist-cnn mnist-uniform mnist-deepmil-memory mnist-evolution
    colon-error colon-uniform colon-speed colon-memory colon-attention signs-error signs-cnn signs-uniform signs-speed
    signs-memory signs-resolution entropy-zero entropy-high entropy-plateau patches-attention nested budget
""".split()


def test_a_row_for_everything():
    expected = {f"eq{n}" for n in range(1, 45)} | {f"fig{n}" for n in range(1, 10)} | {"tab1", "tab2"}
    expected |= {f"claim-{claim}" for claim in CLAIMS}
    missing = expected - {row.id for row in ROWS}
    assert not missing, sorted(missing)


def test_every_link_leads_somewhere():
    assert ledger.problems(ROWS) == []


def test_no_equation_is_pending():
    assert [row.id for row in ROWS if row.kind == "equation" and row.verdict == "pending"] == []


def test_eq43_is_an_erratum():
    (row,) = (row for row in ROWS if row.id == "eq43")
    assert row.verdict == "erratum"


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(where="00_quickstart#cell-nowhere"), "no cell 00_quickstart#cell-nowhere"),
        (dict(where="99_missing#cell-eq1"), "no cell 99_missing#cell-eq1"),
        (dict(evidence="tests/test_estimators.py::test_imagined"), "no test test_imagined"),
        (dict(evidence="results/runs/none.json"), "no file results/runs/none.json"),
        (dict(verdict="true"), "verdict 'true'"),
        (dict(verdict="erratum", note=""), "needs a note"),
        (dict(where=""), "without a cell"),
    ],
)
def test_a_broken_row_is_found(change, message):
    from dataclasses import replace

    row = next(row for row in ROWS if row.id == "eq1")
    assert any(message in problem for problem in ledger.problems([replace(row, **change)]))


def test_page_has_a_row_and_an_anchor_for_each():
    page = ledger.page(ROWS)
    for row in ROWS:
        assert f'<tr id="{row.id}"' in page


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(kind="theorem"), "kind 'theorem', expected one of"),
        (dict(statement=""), "no statement or no place"),
        (dict(paper_ref=""), "no statement or no place"),
        (dict(verdict="differs", note=""), "needs a note"),
        (dict(kind="claim", answer=""), "no answer"),
        (dict(answer="yes " * 50), "an answer of 200 characters, expected at most"),
        (dict(verdict="stand-in", note=""), "needs a note"),
        (dict(evidence="tests/test_estimators.py::unbiased"), "no test unbiased"),
    ],
)
def test_a_row_that_lacks_something_is_named(change, message):
    row = next(row for row in ledger.read() if row.id == "eq1")
    assert any(message in problem for problem in ledger.problems([replace(row, **change)]))


def test_the_answers_above_a_chapter():
    row = replace(
        next(row for row in ROWS if row.kind == "claim"),
        id="claim-x",
        where="02_variance_optimality#cell-a 13_cost#cell-b",
        answer="less < more",
    )
    text = "# Title\n\nWhat this is.\n\n## First section\n\n## Second section"
    cell = ledger.with_box(text, [row], "13_cost")
    assert '<a href="#cell-b">' in cell and "less &lt; more" in cell and 'href="../ledger.html#claim-x"' in cell
    box = cell.index("The paper's claims here")
    assert cell.index("What this is.") < box < cell.index("## First section") < cell.index("## Second")
    assert cell.count("The paper's claims here") == 1
    assert ledger.with_box(text, [row], "12_ablation_patches") == text
    assert "The paper's claims here" in ledger.with_box("# Title\n\nNo section in this cell.", [row], "13_cost")
    assert ledger.with_box(text, [replace(row, answer="")], "13_cost") == text


def test_the_first_page_has_the_main_claims():
    page = ledger.main_answers(ROWS)
    for claim in ledger.MAIN:
        assert f'href="ledger.html#{claim}"' in page
    assert "<!-- main answers -->" in (ledger.ROOT / "book" / "intro.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text, marked",
    [
        ("a_I f_I / p_I, I drawn from P", "<i>a</i><sub>I</sub> <i>f</i><sub>I</sub> / <i>p</i><sub>I</sub>, I drawn from P"),
        ("E[(a_I/p_I)^2]", "𝔼[(<i>a</i><sub>I</sub>/<i>p</i><sub>I</sub>)<sup>2</sup>]"),
        ("p_i(j) ∂a_i < 1", "<i>p</i><sub>i</sub>(j) ∂<i>a</i><sub>i</sub> &lt; 1"),
        ("and `1 - cumsum` in float32", "and <code>1 - cumsum</code> in float32"),
        ("--set n_train=640 of 180² pixels", "--set n_train=640 of 180² pixels"),
    ],
)
def test_formulas_are_shown_as_formulas(text, marked):
    assert ledger.markup(text) == marked
    row = replace(ROWS[0], statement=text, answer="", note="")
    (line,) = (line for line in ledger.page([row]).splitlines() if line.startswith("<tr id="))
    assert f"<b>{marked}</b>" in line and ("data-plain=" in line) == ("<" in marked)  # typed as in the file, it is found


def test_many_records_open_on_a_click():
    few, many = [f"results/runs/r_{k}.json" for k in range(3)], [f"results/runs/r_{k}.json" for k in range(4)]

    def line(evidence):
        page = ledger.page([replace(ROWS[0], note="", evidence=" ".join(evidence))])
        return next(text for text in page.splitlines() if text.startswith("<tr id="))

    assert "<details>" not in line(few) and "r_<wbr>2.json" in line(few)
    folded = line(["tests/test_a.py::test_b", *many]).partition("<details><summary>4 records</summary>")
    assert "test_<wbr>a.py::test_<wbr>b" in folded[0] and all(f"r_<wbr>{k}.json" in folded[2] for k in range(4))


def test_rows_that_stand_twice_and_other_columns(tmp_path):
    row = ledger.read()[0]
    assert f"{row.id}: stands there 2 times" in ledger.problems([row, row])
    assert "<td><b>a &lt; b" in ledger.page([replace(row, statement="a < b")])
    (tmp_path / "ledger.csv").write_text("id,kind\neq1,equation\n")
    with pytest.raises(ValueError, match="columns are"):
        ledger.read(tmp_path / "ledger.csv")
