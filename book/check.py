"""Check the rendered book, so that an empty or broken one does not pass for a success.

    python book/check.py [HTML_FOLDER]

For every page of _toc.yml: it exists, has the title that its source has, its links lead somewhere, it loads nothing
from another host, and shows no traceback. Every notebook page has a figure, every figure a description. The search
index knows every page.
"""

import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup
from sources import BOOK, markdown, pages, read_source, title

HTML = BOOK / "_build" / "html"
CDN = re.compile(r"https?://(?:[\w.-]*cdn[\w.-]*|unpkg\.com|[\w.-]*jsdelivr\.net|fonts\.g\w+\.com)[^\s\"'<>]*")


@cache
def parse(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@cache
def anchors(path: Path) -> frozenset[str]:
    return frozenset(tag["id"] for tag in parse(path).find_all(id=True))


def letters(text: str) -> str:
    """What must agree between a title's source and its rendering: letters and digits, no markup."""
    return re.sub(r"[\W_]+", "", text).lower()


def expected_title(page: str) -> str | None:
    if page.startswith("notebooks/"):
        return title(markdown(read_source(page.removeprefix("notebooks/"))))
    source = BOOK / f"{page}.md"
    if not source.exists():  # written by the build
        source = BOOK / "_build" / "src" / f"{page}.md"
    return title(source.read_text(encoding="utf-8")) if source.exists() else None


def check_page(page: str, html: Path) -> Iterator[str]:
    """What is wrong with a page, one line each."""
    path = html / f"{page}.html"
    if not path.exists():
        yield "is in _toc.yml but was not rendered"
        return
    soup = parse(path)
    article = soup.find("article")
    if article is None:
        yield "has no article"
        return

    expected, heading = expected_title(page), article.find("h1")
    if heading is None:
        yield "has no title"
    elif expected is None:
        yield "has a source without a `# title`"
    else:
        for extra in heading.select(".section-number, .headerlink"):
            extra.extract()
        plain = re.sub(r"\$.*?\$|`|\[(.*?)\]\(.*?\)", r"\1", expected)
        if "$" not in expected and letters(heading.get_text()) != letters(plain):
            yield f"has the title {heading.get_text()!r}, its source says {expected!r}"

    yield from check_figures(page, path, article)
    yield from check_links(path, soup, html)

    for error in article.select(".system-message, .problematic, span.xref.myst, .output.traceback"):
        yield f"shows an error: {error.get_text(' ', strip=True)[:120]!r}"
    if "Traceback (most recent call last)" in article.get_text():
        yield "shows a Python traceback"
    yield from check_markup(article)


def check_markup(article) -> Iterator[str]:
    """Markdown that was meant to be rendered and stands on the page as it was written."""
    for paragraph in article.find_all("p"):
        text = paragraph.get_text(" ", strip=True)
        if text.startswith("|") and text.endswith("|"):
            yield f"shows the source of a table: {text[:60]!r}"
        if re.search(r"\{(cite|eq|ref|doc|numref)\}", text):
            yield f"shows the source of a reference: {text[:60]!r}"


def check_figures(page: str, path: Path, article) -> Iterator[str]:
    figures = article.find_all("img")
    if page.startswith("notebooks/") and not figures:
        yield "has no figure"
    for figure in figures:
        source, description = figure.get("src", ""), figure.get("alt", "")
        if not description or description in source:
            yield f"has a figure without a description: {source[:80]}"
        if source.startswith("data:"):
            continue
        file = path.parent / unquote(source)
        if not file.is_file() or file.stat().st_size == 0:
            yield f"shows a picture that is not there: {source[:80]}"


def check_links(path: Path, soup: BeautifulSoup, html: Path) -> Iterator[str]:
    loaded = [(tag, tag.get("src")) for tag in soup.find_all(["script", "img", "iframe", "source"])]
    loaded += [(tag, tag.get("href")) for tag in soup.find_all("link") if "canonical" not in tag.get("rel", [])]
    for tag, address in loaded:
        if address and re.match(r"(https?:)?//", address):
            yield f"loads {address} (<{tag.name}>) from another host"
    for address in sorted(set(CDN.findall(path.read_text(encoding="utf-8")))):
        yield f"names a content delivery network: {address}"

    for link in soup.find_all("a", href=True):
        parts = urlsplit(link["href"])
        if parts.scheme or parts.netloc or link["href"] == "#":
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if not target.exists():
            yield f"links to {link['href']}, which is not there"
        elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in anchors(target):
            yield f"links to {link['href']}, which has no such place"


def check_search(names: list[str], html: Path) -> Iterator[str]:
    index = html / "searchindex.js"
    if not index.exists() or not (html / "search.html").exists():
        yield "search: there is no index"
        return
    known = json.loads(re.search(r"\{.*\}", index.read_text(encoding="utf-8"), re.DOTALL)[0])["docnames"]
    for name in names:
        if name not in known:
            yield f"search: the index does not know {name}"


def main() -> None:
    html = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else HTML
    if not (html / "index.html").exists():
        sys.exit(f"error: no book in {html}; run `make book` first")
    names = pages()
    problems = [f"{name}: {problem}" for name in names for problem in check_page(name, html)]
    problems += check_search(names, html)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        sys.exit(f"error: {len(problems)} problems in {len(names)} pages")
    figures = sum(len(parse(html / f"{name}.html").article.find_all("img")) for name in names)
    print(f"the book is whole: {len(names)} pages, {figures} figures, nothing from another host")


if __name__ == "__main__":
    main()
