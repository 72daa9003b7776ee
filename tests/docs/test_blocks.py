"""What the pages have from other files is what is there now, and all of their code has an origin."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import filled, pages


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_page_shows_what_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == filled(text), "`python -m tests.docs` writes it"
