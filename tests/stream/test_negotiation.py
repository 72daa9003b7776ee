"""What a server's negotiation is made of, and the session it resumes: `trio_duplex._stream.negotiation`."""

from __future__ import annotations

import ssl

import pytest
import trio
import trio.testing

from tests.support.peers import (
    TLS12,
    connection_pair,
    credentials,
    memory_pair,
    own_credentials,
    peer_stream,
)
from trio_duplex import (
    Connection,
    Credentials,
    Decision,
    Reason,
    Role,
    SelfConnectionError,
    negotiate,
)
from trio_duplex._sockets.address import Address
from trio_duplex._stream.detect import Detected, detect
from trio_duplex._stream.negotiation import Negotiation, Resumption
from trio_duplex._stream.settings import Settings
from trio_duplex._stream.supervision import Supervision
from trio_duplex._stream.take_role import take_role
from trio_duplex._wire.announcement import ANNOUNCEMENT

pytestmark = pytest.mark.slow


ADDRESS = ("192.0.2.7", 4711)
AS_CLIENT = Detected(Decision(Role.CLIENT, Reason.SILENT, 0.0, 0.0), began=0.0)
AS_SERVER = Detected(Decision(Role.SERVER, Reason.SPOKE, 0.0, 0.0), began=0.0)


async def session_of(ours: Credentials) -> ssl.SSLSession:
    server, client = await connection_pair(server=ours, client=ours)
    session = client.session
    assert session is not None
    for end in (server, client):
        await trio.aclose_forcefully(end)
    return session


async def test_only_a_client_asks_for_a_session(autojump_clock: trio.testing.MockClock) -> None:
    ours = credentials(TLS12)
    session = await session_of(ours)
    asked: list[Address | None] = []

    def find(remote: Address | None) -> ssl.SSLSession:
        asked.append(remote)
        return session

    def found(detected: Detected) -> Resumption | None:
        return Resumption.found(Settings(session=find), detected, ADDRESS, lambda: ours.material)

    assert found(AS_SERVER) is None
    assert asked == []
    resumption = found(AS_CLIENT)
    assert resumption is not None
    assert resumption.session is session
    assert resumption.material is ours.material
    assert asked == [ADDRESS]


async def test_without_a_session_nothing_is_kept_of_the_credentials(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Otherwise a peer that waits for its turn would miss a reload. A session of other credentials is none."""
    ours = credentials(TLS12)
    foreign = await session_of(own_credentials(TLS12))
    for settings in (
        Settings(),
        Settings(session=lambda _: None),
        Settings(session=lambda _: foreign),
    ):
        assert Resumption.found(settings, AS_CLIENT, ADDRESS, lambda: ours.material) is None


# --------------------------------------------------------- what is so unless `negotiate` says otherwise


async def as_server(stream: trio.abc.Stream) -> Connection:
    """Negotiate as a server does: its peers have dialled, and it may play either role."""
    ours, settings, told = credentials(), Settings(0.5), Supervision()
    detected = await detect(stream, settings, None, told)
    return await take_role(
        Negotiation(stream, settings, lambda: ours.material, detected, None, told)
    )


async def test_a_server_resolves_a_crossing(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = memory_pair()
    ends: list[Connection] = []
    async with trio.open_nursery() as nursery:

        async def dial_late() -> None:
            await trio.sleep(0.75)
            ends.append(await negotiate(theirs, credentials(), window=0, dialled=True))

        nursery.start_soon(dial_late)
        ends.append(await as_server(ours))
    assert {end.role for end in ends} == set(Role)


async def test_two_ends_that_a_server_accepted_and_that_cross_are_itself(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def accept(stream: trio.abc.Stream) -> None:
        with pytest.raises(SelfConnectionError):
            await as_server(stream)
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        for stream in memory_pair():
            nursery.start_soon(accept, stream)


async def test_a_server_announces_nothing(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer_stream(theirs, Role.CLIENT).do_handshake)
        await as_server(ours)
    assert ANNOUNCEMENT not in ours.sent
