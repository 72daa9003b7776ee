"""*Where do I change X?* leads to what there is."""

from __future__ import annotations

import re

from tests.docs.blocks import DOCS, ROOT

PAGE = (DOCS / "layout.md").read_text(encoding="utf-8")
PATH = re.compile(r"`((?:[\w.-]+/)+(?:[\w.-]+)?|[\w-]+\.(?:py|md|toml))`")


def test_every_path_is_there() -> None:
    missing = [path for path in PATH.findall(PAGE) if not (ROOT / path).exists()]
    assert missing == []
    assert len(PATH.findall(PAGE)) > 50


def test_twelve_changes_each_with_a_file_and_a_test() -> None:
    table = PAGE.partition("|---|---|---|\n")[2].partition("\n\n")[0].splitlines()
    assert len(table) == 12
    for row in table:
        _, change, where, tests, _ = row.split("|")
        room, _, files = where.partition(": ")
        assert change.strip(), row
        assert room.strip(), row
        assert all(path.startswith("trio_duplex/") for path in PATH.findall(files)), row
        assert all(path.startswith("tests/") for path in PATH.findall(tests)), row
        assert PATH.findall(files), row
        assert PATH.findall(tests), row


def test_every_room_is_named() -> None:
    rooms = {f"trio_duplex/{path.name}/" for path in (ROOT / "trio_duplex").glob("[_a-z]*/")}
    assert {room for room in rooms if "pycache" not in room} - set(PATH.findall(PAGE)) == set()
