"""Each odd peer ends as the table says, and its neighbours do not notice."""

from __future__ import annotations

import ssl

import pytest

from tests.odd_peers.plays import FOREIGN
from tests.odd_peers.render import PAGE, page, rendered
from tests.odd_peers.rows import ANSWER, HANDSHAKING, OPEN, OPENING, ROWS, WINDOW, Row
from tests.odd_peers.stage import Seen, play_all
from tests.support.peers import TLS12, TLS13, VERSIONS
from trio_duplex import Role
from trio_duplex._wire.foreign import SIGNATURES
from trio_duplex._wire.opening import classify
from trio_duplex.events import Accepted

pytestmark = pytest.mark.slow

VERSION_NAMES = {TLS12: "TLS1.2", TLS13: "TLS1.3"}
PHASE_NAMES = {
    WINDOW: "window",
    OPENING: "opening",
    ANSWER: "answer",
    HANDSHAKING: "handshake",
    OPEN: "open",
}


def name_of(row: Row, play: str, version: ssl.TLSVersion) -> str:
    parts = (VERSION_NAMES[version], PHASE_NAMES[row.phase], row.name, play)
    return " - ".join(part for part in parts if part)


CASES = {
    name_of(row, play, version): (row, play, version)
    for version in VERSIONS
    for row in ROWS
    for play in row.plays
    if version in row.versions
}


@pytest.fixture(scope="module")
def seen(request: pytest.FixtureRequest) -> dict[str, Seen]:
    """What came of all that are asked for: they are played at once, before the first test."""
    names = dict.fromkeys(
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.function is test_row
    )
    cases = [(name, CASES[name]) for name in names]
    return play_all((name, row.plays[play], version) for name, (row, play, version) in cases)


@pytest.mark.parametrize("name", CASES)
def test_row(name: str, seen: dict[str, Seen]) -> None:
    row, play, version = CASES[name]
    it = seen[name]
    assert it.trouble is None
    assert it.noticed == []
    assert len(it.echoes) == 2
    if row.error is None:
        assert it.error is None
    else:
        assert type(it.error) is row.error
    assert isinstance(it.events[0], Accepted)
    assert it.role is expected_role(row, play)
    if row.cause is not None:
        assert it.error is not None
        assert isinstance(it.error.__cause__, row.cause)
    assert it.alert == row.alert_in(version)
    (record,) = it.records  # one line a connection
    assert record.levelno == row.level
    assert record.exc_info is None  # for no peer's fault is there a traceback


def expected_role(row: Row, play: str) -> Role | None:
    if not isinstance(row.role, tuple):
        return row.role
    server = "TLS client" in play or play == "ClientHello"  # the peer's role
    return Role.SERVER if server else Role.CLIENT


def test_the_table_in_the_documentation_is_this_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(rendered()), "cd tests; python -m odd_peers"


def test_names_are_unique() -> None:
    names = [(row.phase, row.name, version) for row in ROWS for version in row.versions]
    assert len(set(names)) == len(names)


def test_each_protocol_that_classify_names_is_played() -> None:
    played = {classify(data).looks_like for data in FOREIGN.values()}
    named = {name for name, *_ in SIGNATURES} - {
        "an SSLv2 ClientHello",
        "a TPKT packet, as of RDP",
    }
    assert named <= played
