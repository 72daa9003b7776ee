"""Writes the table of docs/odd-peers.md."""

from __future__ import annotations

import logging
from itertools import groupby
from pathlib import Path

from trio import BrokenResourceError

from tests.odd_peers.rows import ROWS, Row
from tests.support.peers import TLS12, TLS13, VERSIONS

PAGE = Path(__file__).parents[2] / "docs" / "odd-peers.md"
BEGIN, END = "<!-- the table begins -->\n", "<!-- the table ends -->\n"
VERSION_NAMES = {TLS12: "TLS 1.2", TLS13: "TLS 1.3"}


def rendered() -> str:
    """The table, in sections."""
    parts = []
    for phase, rows in groupby(ROWS, lambda row: row.phase):
        heading, _, role = phase.partition(": ")
        parts.append(f"\n## {heading[0].upper()}{heading[1:]}\n")
        if role:
            parts.append(f"{role[0].upper()}{role[1:]}.\n")
        parts.append("| the peer | ends in | it reads the alert | log |\n|---|---|---|---|")
        parts += [line(row) for row in rows]
    return "\n".join(parts) + "\n\n"


def line(row: Row) -> str:
    cells = (who(row), outcome(row), alert(row), logging.getLevelName(row.level))
    return f"| {' | '.join(cells)} |"


def who(row: Row) -> str:
    only = "" if row.versions == VERSIONS else f" ({VERSION_NAMES[row.versions[0]]})"
    return row.peer + only


def outcome(row: Row) -> str:
    if row.error is None:
        return "served"
    name = f"`{row.error.__name__}`"
    if row.error is not BrokenResourceError:
        return name
    return name if row.cause is None else f"{name} from `{row.cause.__name__}`"


def alert(row: Row) -> str:
    found = {version: row.alert_in(version) for version in row.versions}
    if len(set(found.values())) == 1:
        return found[row.versions[0]] or "-"
    return ", ".join(f"{VERSION_NAMES[version]}: {each}" for version, each in found.items())


def page(table: str) -> str:
    """The page as it is, with this table in it."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table + END + after
