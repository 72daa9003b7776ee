"""Writes what the pages have from other files: `python -m tests.docs`."""

from __future__ import annotations

from tests.docs.blocks import filled, pages

for page in pages():
    before = page.read_text(encoding="utf-8")
    after = filled(before)
    if after != before:
        page.write_text(after, encoding="utf-8")
        print(page.name)
