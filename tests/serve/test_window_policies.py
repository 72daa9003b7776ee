"""Window policies in a real server: the memory of peers over TCP, and what a hostile peer can do to it."""

from __future__ import annotations

import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

import attrs
import pytest
import trio

from tests.support.peers import (
    INTRUDER,
    client_hello,
    credentials,
    each_role,
    each_version,
    receive_all,
)
from trio_duplex import (
    Connection,
    Credentials,
    Decision,
    DuplexError,
    GlareError,
    Reason,
    Role,
    Server,
    open_tcp_connection,
    serve_tcp,
    windows,
)
from trio_duplex.events import Event, HandshakeCompleted, NegotiationFailed, PeerChangedKind
from trio_duplex.windows import Learned, PeerMemory

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux",
        reason="peers dial from all of 127/8, and TCP_INFO tells the round trip",
    ),
    pytest.mark.slow,
]

FULL = 0.2
"""The full window, in seconds; real sockets wait it out."""

HONEST, HOSTILE = "127.0.0.2", "127.0.0.3"


@attrs.define
class Serving:
    """A server, and what it has told."""

    port: int
    server: Server
    told: list[Event]

    async def until_told(self, kind: type[Event], count: int) -> list[Event]:
        """Wait until so many events of a kind were told: they come after the peer has gone on."""
        while len(found := [each for each in self.told if isinstance(each, kind)]) < count:
            await trio.sleep(0.005)
        return found

    async def _dial(self, role: Role, mine: Credentials, host: str) -> Event:
        before = len(self._ended())
        try:
            connection = await open_tcp_connection(
                "127.0.0.1", self.port, mine, role=role, local_host=host
            )
            async with connection:
                await receive_all(connection)
        except (DuplexError, trio.BrokenResourceError):
            pass  # the server tells why
        return await self._end(before)

    async def served(self, role: Role, mine: Credentials, host: str = HONEST) -> Decision:
        """Let a peer play a role that the server admits."""
        ended = await self._dial(role, mine, host)
        assert isinstance(ended, HandshakeCompleted)
        return ended.connection.decision

    async def refused(self, role: Role, mine: Credentials, host: str = HONEST) -> Exception:
        """Let a peer play a role that the server refuses."""
        ended = await self._dial(role, mine, host)
        assert isinstance(ended, NegotiationFailed)
        return ended.error

    async def cross(self, host: str = HOSTILE) -> Exception:
        """Let a peer say its ClientHello when it has the server's, as one that came too late."""
        before = len(self._ended())
        stream = await trio.open_tcp_stream("127.0.0.1", self.port, local_address=host)
        async with stream:
            await stream.receive_some()
            await stream.send_all(client_hello())
            await stream.send_eof()
            await receive_all(stream)
        ended = await self._end(before)
        assert isinstance(ended, NegotiationFailed)
        return ended.error

    def _ended(self) -> list[Event]:
        ends = HandshakeCompleted | NegotiationFailed
        return [each for each in self.told if isinstance(each, ends)]

    async def _end(self, before: int) -> Event:
        while len(ended := self._ended()) <= before:
            await trio.sleep(0.005)
        return ended[before]


@asynccontextmanager
async def serving(
    window: windows.WindowPolicy, version: ssl.TLSVersion | None = None
) -> AsyncIterator[Serving]:
    async def goodbye(connection: Connection) -> None:
        await connection.send_all(b"goodbye")

    told: list[Event] = []
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tcp, host="127.0.0.1", window=window, observers=[told.append])
            server: Server = await nursery.start(serve, goodbye, 0, credentials(version))
            ((_, port),) = cast("list[tuple[str, int]]", server.addresses)
            yield Serving(port, server, told)
            nursery.cancel_scope.cancel()


@pytest.fixture
def stranger() -> Credentials:
    """A peer whose certificate is of another authority than the server's."""
    return credentials(certificate=INTRUDER)


@each_version
async def test_memory_over_tcp(version: ssl.TLSVersion) -> None:
    full = 0.6  # on a busy machine, four round trips of loopback may take 0.2 s
    memory, mine = PeerMemory(otherwise=full, floor=0.1), credentials(version)
    async with serving(memory, version) as here:
        for _ in range(3):
            decision = await here.served(Role.SERVER, mine)
            assert (decision.reason, decision.window) == (Reason.SILENT, full)
        decision = await here.served(Role.SERVER, mine)
        assert (decision.role, decision.reason) == (Role.CLIENT, Reason.REMEMBERED)
        assert decision.window < full  # four round trips of loopback, or the floor
        (change,) = await here.until_told(PeerChangedKind, 1)
        assert isinstance(change, PeerChangedKind)
        assert (change.key, change.silent) == (HONEST, True)
        decision = await here.served(Role.SERVER, mine, "127.0.0.9")
        assert decision.reason is Reason.SILENT  # nobody knows that one
    assert memory.statistics().remembered == 1


@each_version
async def test_remembered_peer_that_speaks_is_served_and_waits_in_full_again(
    version: ssl.TLSVersion,
) -> None:
    """It spoke within the short window, which is long here so that it certainly does."""
    memory, mine = PeerMemory(otherwise=FULL, floor=5.0, silences=1), credentials(version)
    async with serving(memory, version) as here:
        await here.served(Role.SERVER, mine)
        decision = await here.served(Role.CLIENT, mine)
        assert (decision.role, decision.reason, decision.window) == (Role.SERVER, Reason.SPOKE, 5.0)
        changes = await here.until_told(PeerChangedKind, 2)
        assert [each.silent for each in changes if isinstance(each, PeerChangedKind)] == [
            True,
            False,
        ]
        decision = await here.served(Role.SERVER, mine)
        assert (decision.reason, decision.window) == (Reason.SILENT, FULL)


async def test_hostile_peer_fills_the_memory() -> None:
    """With a certificate that we trust: others' shortcuts make room, and no more."""
    memory, mine = PeerMemory(otherwise=0.0, most=8, silences=1), credentials()
    async with serving(memory) as here:
        await here.served(Role.SERVER, mine, HONEST)
        assert memory.statistics().silent == 1
        for number in range(20):
            await here.served(Role.SERVER, mine, f"127.0.1.{number}")
        statistics = memory.statistics()
        assert (statistics.peers, statistics.forgotten) == (8, 13)
        decision = await here.served(Role.SERVER, mine)
        assert (decision.reason, decision.window) == (Reason.SILENT, 0.0)


async def test_stranger_fills_nothing(stranger: Credentials) -> None:
    memory = PeerMemory(otherwise=FULL, silences=1)
    async with serving(memory) as here:
        for role in Role:
            for number in range(5):
                error = await here.refused(role, stranger, f"127.0.1.{number}")
                assert isinstance(error, DuplexError)
    assert memory.statistics() == PeerMemory().statistics()


async def test_hostile_peer_poisons_its_own_entry() -> None:
    """Two wrong roles, both its own, and then it has the full window for good."""
    memory, mine = PeerMemory(otherwise=FULL, floor=0.05, silences=1), credentials()
    wrong = 0
    async with serving(memory) as here:
        for needed in (1, 2, 4):
            for _ in range(needed):
                decision = await here.served(Role.SERVER, mine, HOSTILE)
                assert decision.window == FULL
            if memory.statistics().mixed:
                break
            decision = await here.served(Role.SERVER, mine, HOSTILE)
            assert decision.reason is Reason.REMEMBERED
            error = await here.cross()
            assert isinstance(error, GlareError)
            assert error.window < FULL
            wrong += 1
        decision = await here.served(Role.SERVER, mine, HOSTILE)
        assert decision.reason is Reason.SILENT
        await here.served(Role.SERVER, mine)  # others are as they were
    statistics = memory.statistics()
    assert (wrong, statistics.mixed, statistics.silent) == (2, 1, 1)


async def test_stranger_poisons_a_neighbour_behind_the_same_address(stranger: Credentials) -> None:
    """The neighbour is served, and waits in full, as without a memory."""
    # The stranger speaks in it, however busy the machine.
    memory, mine = PeerMemory(otherwise=FULL, floor=4.0, silences=1), credentials()
    async with serving(memory) as here:
        await here.served(Role.SERVER, mine)
        decision = await here.served(Role.SERVER, mine)
        assert decision.reason is Reason.REMEMBERED
        error = await here.refused(Role.CLIENT, stranger)
        assert isinstance(error, DuplexError)
        decision = await here.served(Role.SERVER, mine)
        assert (decision.reason, decision.window) == (Reason.SILENT, FULL)
    assert memory.statistics().silent == 0


@each_role
async def test_vote_without_a_certificate(role: Role, stranger: Credentials) -> None:
    learned = Learned(cap=3.0)  # long enough for a peer that speaks at once
    async with serving(PeerMemory(otherwise=learned)) as here:
        for number in range(2):
            error = await here.refused(role, stranger, f"127.0.1.{number}")
            assert isinstance(error, DuplexError)
        await here.cross()
        assert (learned.votes, learned.late_votes, learned.seconds) == (0, 0, 3.0)
        await here.served(Role.CLIENT, credentials(), "127.0.1.9")
        assert learned.votes == 1  # as it should


async def test_hostile_peer_votes_again_and_again() -> None:
    """With a certificate that we trust: one vote an hour, so the window hardly moves."""
    learned, mine = Learned(cap=5.0), credentials()
    async with serving(learned) as here:
        for _ in range(5):
            await here.served(Role.CLIENT, mine, HOSTILE)
    assert learned.votes == 1
    assert learned.seconds > 4.99
