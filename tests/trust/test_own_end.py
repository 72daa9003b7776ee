"""A certificate of our own expires while we serve: the operator is told with each peer."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from functools import partial

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.support.authority import DAY, FLEET, NOW
from tests.support.peers import MemoryListener, each_role
from tests.support.trust import GREETING, context, hear, mutual
from trio_duplex import Connection, Credentials, Role, Server, serve_listeners
from trio_duplex.events import Event, OwnCertificateExpired

pytestmark = pytest.mark.slow


PEER = FLEET.issue("peer.example")
ENDS = (NOW + DAY).replace(microsecond=0)
MINUTE = timedelta(minutes=1)


def at(moment: datetime, credentials: Credentials) -> Credentials:
    """The same credentials on a machine whose clock says so."""
    credentials._material = attrs.evolve(credentials.material, now=lambda: moment)
    return credentials


def ending(*, by_name: bool = False) -> Credentials:
    """Credentials of which one certificate ends at `ENDS`."""
    short = FLEET.issue("short.example", not_after=ENDS)
    if by_name:
        return mutual(certificates_by_name={"short.example": short})
    return mutual(short)


async def handler(connection: Connection) -> None:
    await connection.send_all(GREETING)


async def visited(
    role: Role, credentials: Credentials, then: Credentials | None = None
) -> tuple[list[OwnCertificateExpired], Server]:
    """What is told of two peers; before the second, the credentials may be replaced."""
    listener, events = MemoryListener(), list[Event]()
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(
            partial(serve_listeners, handler, [listener], credentials, observers=[events.append])
        )
        for _ in range(2):
            await hear(listener.connect(), role.other, context(role.other, PEER))
            if then is not None:
                server.replace_credentials(then)
        await server.drain(10)
    return [event for event in events if isinstance(event, OwnCertificateExpired)], server


@each_role
@pytest.mark.parametrize("by_name", [False, True])
async def test_expiry_is_reported_with_each_peer_and_logged_once(
    role: Role, by_name: bool, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    credentials = at(ENDS + MINUTE, ending(by_name=by_name))
    events, _ = await visited(role, credentials)
    assert [event.not_after for event in events] == [ENDS, ENDS]
    told = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert "our own expired on" in told[0].getMessage()
    assert f"{ENDS:%Y-%m-%d %H:%M}" in told[0].getMessage()
    assert [each.getMessage().split()[0] for each in told[1:]] == ["repeated"]


@each_role
async def test_expiry_is_not_reported_too_early(role: Role, autojump_clock: MockClock) -> None:
    events, server = await visited(role, at(ENDS - MINUTE, ending()))
    assert events == []
    assert server.statistics().certificate_not_after == ENDS


@each_role
async def test_a_new_certificate_ends_the_reports(role: Role, autojump_clock: MockClock) -> None:
    renewed = mutual()
    events, server = await visited(role, at(ENDS + MINUTE, ending()), then=renewed)
    assert len(events) == 1
    assert server.statistics().certificate_not_after == renewed.not_after


def test_the_certificate_that_expires_first_counts() -> None:
    assert ending().not_after == ending(by_name=True).not_after == ENDS
