"""The check of the rendered book sees markup that was not rendered."""

import json
import sys

import check
import pytest
from bs4 import BeautifulSoup
from check import check_markup, check_page, check_search


@pytest.mark.parametrize(
    "html, problem",
    [
        ("<p>| run | error | |---|---| | a | 0.1 |</p>", "source of a table"),
        ("<p>photographs {cite}<code>houben2013</code></p>", "source of a reference"),
        ("<p>P(A | B) and |x|, and a set {cited}</p><table><tr><td>| a |</td></tr></table>", None),
    ],
)
def test_markup_that_was_not_rendered(html, problem):
    found = list(check_markup(BeautifulSoup(f"<article>{html}</article>", "html.parser")))
    assert (problem is None) == (not found) and all(problem in text for text in found)


FIGURE = '<img src="../figure.png" alt="what it shows">'


@pytest.fixture
def render(tmp_path, monkeypatch):
    """Write the one page of a small book, with this on it."""
    monkeypatch.setattr(check, "expected_title", lambda page: "A `title`")
    monkeypatch.setattr(check, "pages", lambda: ["notebooks/page"])
    monkeypatch.setattr(sys, "argv", ["check.py", str(tmp_path)])
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "figure.png").write_bytes(b"png")
    (tmp_path / "index.html").write_text("")
    (tmp_path / "search.html").write_text("")
    (tmp_path / "other.html").write_text('<p id="place">')
    (tmp_path / "searchindex.js").write_text(f"Search.setIndex({json.dumps(dict(docnames=['notebooks/page']))})")

    def write(body, title="A title"):
        check.parse.cache_clear(), check.anchors.cache_clear()
        (tmp_path / "notebooks" / "page.html").write_text(f"<article><h1>{title}</h1>{body}</article>")
        return tmp_path

    return write


@pytest.mark.parametrize(
    "body, problem",
    [
        ("", "has no figure"),
        ('<img src="../figure.png">', "has a figure without a description"),
        ('<img src="../none.png" alt="what it shows">', "shows a picture that is not there"),
        (FIGURE + '<a href="../nowhere.html">', "links to ../nowhere.html, which is not there"),
        (FIGURE + '<a href="../other.html#nowhere">', "links to ../other.html#nowhere, which has no such place"),
        (FIGURE + '<script src="//example.org/a.js"></script>', "loads //example.org/a.js (<script>) from another host"),
        (FIGURE + "<p>https://cdn.example.org/a.js</p>", "names a content delivery network"),
        (FIGURE + '<div class="system-message">unknown role</div>', "shows an error"),
        (FIGURE + "<pre>Traceback (most recent call last)</pre>", "shows a Python traceback"),
        (FIGURE + "<p>{cite}</p>", "shows the source of a reference"),
    ],
)
def test_a_broken_page_is_named(render, body, problem):
    (found,) = check_page("notebooks/page", render(body))
    assert found.startswith(problem)
    with pytest.raises(SystemExit, match="1 problems in 1 pages"):
        check.main()


def test_a_page_that_is_whole_passes(render, capsys):
    assert list(check_page("notebooks/page", render(FIGURE + '<a href="../other.html#place">'))) == []
    check.main()
    assert "1 pages, 1 figures" in capsys.readouterr().out


def test_what_is_missing_is_named(render, tmp_path):
    assert list(check_page("notebooks/page", tmp_path)) == ["is in _toc.yml but was not rendered"]
    (found,) = check_page("notebooks/page", render(FIGURE, title="Another"))
    assert found == "has the title 'Another', its source says 'A `title`'"
    assert list(check_search(["notebooks/page", "new"], tmp_path)) == ["search: the index does not know new"]
    (tmp_path / "searchindex.js").unlink()
    assert list(check_search(["new"], tmp_path)) == ["search: there is no index"]
