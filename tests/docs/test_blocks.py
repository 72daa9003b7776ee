"""What the pages have from other files is what is there now, and all of their code has an origin."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, ROOT, blocks, filled, pages


@pytest.mark.slow
@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_page_shows_what_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == filled(text), "`python -m tests.docs` writes it"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_every_block_of_code_is_tested(page: Path) -> None:
    """From a tested file, a command that `test_commands` tries, or with the test's name above."""
    untested = []
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.above.startswith("<!-- from "):
            continue
        if by := re.match(r"<!-- tested by ([\w/.]+)", block.above):
            assert (ROOT / by[1]).is_file(), by[1]
            continue
        if block.commands and all(line.startswith("trio-duplex ") for line in block.commands):
            continue
        untested.append(f"line {block.line}: {block.text[:60]}")
    assert untested == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_page_begins_with_what_it_is_for(page: Path) -> None:
    """A title, and one plain paragraph before anything else: no directive, table or list."""
    title, empty, first, *_ = page.read_text(encoding="utf-8").splitlines()
    assert title.startswith("# ")
    assert empty == ""
    assert re.match(r"[A-Z`]", first), first


def test_every_example_is_shown() -> None:
    """Or imported by one that is: a file that nobody sees is not an example."""
    text = "".join(page.read_text(encoding="utf-8") for page in [*pages(), ROOT / "README.md"])
    sources = "".join(path.read_text() for path in (DOCS / "examples").rglob("*.py"))
    missing = [
        path.name
        for path in (DOCS / "examples").rglob("*.py")
        if f"{path.relative_to(DOCS)}" not in text
        and f"from {path.stem} import" not in sources
        and path.name != "first_server.py"  # of the README's first five minutes
    ]
    assert missing == []


def test_links_have_texts() -> None:
    for page in pages():
        assert "[](" not in page.read_text(encoding="utf-8"), page.name


def test_readme_leads_to_every_guide() -> None:
    """And every file that it names is there: on a code host it is the table of contents."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([\w./-]+)\)", text)
    assert [target for target in targets if not (ROOT / target).exists()] == []
    named = {target.removeprefix("docs/") for target in targets}
    beside = {"index", "install", "five-minutes", "contributing", "testing-reference"}
    beside |= {"announcement", "odd-peers"}  # from pages that it does name
    assert {page.stem for page in pages()} - {name.removesuffix(".md") for name in named} <= beside
