"""The check of the rendered book sees markup that was not rendered."""

import pytest
from bs4 import BeautifulSoup
from check import check_markup


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
