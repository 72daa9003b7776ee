"""Plays odd peers against one server on real sockets, each beside two healthy peers of its own.

All at once, each as soon as the machine has dealt with the one before: a server that is worth testing
does not mind, and a machine that is busy with something else is given the time.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import ssl
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import pytest
import trio

from tests.odd_peers.peer import OddPeer, Play
from tests.odd_peers.plays import PONDERED
from tests.support.peers import credentials, peer_context, receive_exactly
from trio_duplex import Connection, Limits, PeerIdentity, Role, Server, serve_tcp
from trio_duplex._events import report
from trio_duplex._events.log import LOGGER, LogObserver
from trio_duplex._sockets.address import Address, format_address
from trio_duplex.events import (
    Accepted,
    ConnectionClosed,
    ConnectionEvent,
    Event,
    HandlerFailed,
    NegotiationFailed,
    RoleDecided,
)
from trio_duplex.testing import PeerStream, SilentPeer, SpeakingPeer
from trio_duplex.windows import PeerFacts

WINDOW = 4.0
"""Seconds: all odd peers share a thread, and those of them that speak are to be heard in it."""

SPEAKING_HOST = "127.0.0.3"
"""The address from which the healthy speaking peers dial. They have all the time that they need."""

HANDSHAKE_TIMEOUT = 6.0
SEND_TIMEOUT = 1.0
CLOSE_TIMEOUT = IDLE_TIMEOUT = 0.5

APART = 0.02
"""Seconds from one entrance to the next, at least: see `Stage.play`."""

PLAYED_ON = ContextVar[ssl.TLSVersion]("PLAYED_ON")
"""The version of the server that the task belongs to. The servers count their connections each from 1,
and the kernel may give peers of both the same port: so only this tells their log lines apart."""

BETWEEN_ECHOES = 0.5
"""Seconds that a healthy peer waits, unless its odd one is gone. A hundred of them are there at once."""


@attrs.frozen(kw_only=True)
class Seen:
    """What came of one odd peer.

    Attributes:
        events: What the server's observer was told of its connection.
        records: What the server logged of it.
        alert: What the peer was sent.
        trouble: What its play raised.
        noticed: What its healthy neighbours raised.
        echoes: How many echoes each of them got.
    """

    events: list[Event]
    records: list[logging.LogRecord]
    alert: str | None
    trouble: Exception | None
    noticed: list[Exception]
    echoes: list[int]

    @property
    def error(self) -> Exception | None:
        """What the connection ended in."""
        for event in self.events:
            if isinstance(event, NegotiationFailed | HandlerFailed):
                return event.error
        return None

    @property
    def role(self) -> Role | None:
        for event in self.events:
            if isinstance(event, RoleDecided):
                return event.decision.role
        return None


Case = tuple[str, Play, ssl.TLSVersion]
"""A name, what is played, and the TLS version."""


def play_all(cases: Iterable[Case]) -> dict[str, Seen]:
    """What came of each, by name."""
    with everything_logged() as records, TemporaryDirectory() as scratch:
        return trio.run(_play_all, list(cases), Path(scratch), records)


async def _play_all(
    cases: list[Case], scratch: Path, records: list[logging.LogRecord]
) -> dict[str, Seen]:
    found: dict[str, Seen] = {}
    stages: dict[ssl.TLSVersion, Stage] = {}
    async with trio.open_nursery() as servers:
        for version in {version for _, _, version in cases}:
            stages[version] = await Stage.open(version, servers)

        async def act(number: int, case: Case, task_status: trio.TaskStatus[None]) -> None:
            name, play, version = case
            folder = scratch / str(number)
            folder.mkdir()
            found[name] = await stages[version].play(play, folder, records, task_status)

        async with trio.open_nursery() as players:
            for number, case in enumerate(cases):
                await players.start(act, number, case)
                await trio.sleep(APART)
        for stage in stages.values():
            await stage.leave_nothing()
        servers.cancel_scope.cancel()
    return found


class Diary:
    """A server's observer: what happened to each connection.

    Attributes:
        told: All of each connection, by number.
        over: Set when that one has ended.
        here: Set when a connection of that peer is accepted.
        latest: The number of that connection.
        number: That of the latest of all.
    """

    def __init__(self) -> None:
        self.told = defaultdict[int, list[Event]](list)
        self.over = defaultdict[int, trio.Event](trio.Event)
        self.here = defaultdict[str | None, trio.Event](trio.Event)
        self.latest = dict[str | None, int]()
        self.number = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, ConnectionEvent):
            self.told[event.number].append(event)
        match event:
            case Accepted():
                self.latest[event.peer] = self.number = event.number
                self.here[event.peer].set()
            case NegotiationFailed() | ConnectionClosed():
                self.over[event.number].set()


@attrs.frozen
class Healthy:
    """The contexts of the healthy peers, as the kit's peers take them."""

    contexts: dict[Role, ssl.SSLContext]

    def context(self, role: Role) -> ssl.SSLContext:
        return self.contexts[role]


class Stage:
    """A server of one TLS version, and its observer.

    Args:
        server: The server.
        version: The TLS version.
        diary: The observer.
    """

    def __init__(self, server: Server, version: ssl.TLSVersion, diary: Diary) -> None:
        self.server = server
        self.version = version
        self.diary = diary
        self.address = server.addresses[0][:2]
        self.healthy = Healthy({role: peer_context(role, version) for role in Role})
        self.peers = dict[str, OddPeer]()

    @classmethod
    async def open(cls, version: ssl.TLSVersion, nursery: trio.Nursery) -> Stage:
        diary = Diary()

        async def policy(identity: PeerIdentity, _: Role, remote: Address | None) -> None:
            if PONDERED in identity.names:
                peer = stage.peers[format_address(remote) or ""]
                peer.asked.set()
                await peer.verdict.wait()

        serve = partial(
            serve_tcp,
            host="127.0.0.1",
            window=window,
            handshake_timeout=HANDSHAKE_TIMEOUT,
            limits=Limits(close_timeout=CLOSE_TIMEOUT),
            observers=[diary],
        )
        PLAYED_ON.set(version)  # the server's tasks inherit it
        server = await nursery.start(serve, handler, 0, credentials(version, peer=policy))
        stage = cls(server, version, diary)
        return stage

    async def play(
        self,
        play: Play,
        scratch: Path,
        records: list[logging.LogRecord],
        task_status: trio.TaskStatus[None],
    ) -> Seen:
        """One odd peer, and two healthy ones beside it.

        It has started when the healthy speaking peer has been served. So the next ones wait while
        there is much to do, or handshakes would pile up on a busy machine until they time out.
        """
        over = trio.Event()
        noticed: list[Exception] = []
        echoes: list[int] = []
        trouble: Exception | None = None
        served = {role: trio.Event() for role in Role}

        async def neighbour(role: Role) -> None:
            try:
                echoes.append(await self.be_healthy(role, over, served[role]))
            except Exception as exc:  # noqa: BLE001 - whatever it is, it should not be
                noticed.append(exc)
            finally:
                served[role].set()

        async def enter() -> None:
            await served[Role.CLIENT].wait()
            task_status.started()

        async with trio.open_nursery() as nursery:
            for role in Role:
                nursery.start_soon(neighbour, role)
            nursery.start_soon(enter)
            before = self.diary.number
            stream = await trio.open_tcp_stream(*self.address)
            number, address = await self.admitted(stream, before)
            peer = OddPeer(
                play=play, version=self.version, scratch=scratch, over=self.diary.over[number]
            )
            self.peers[address] = peer
            try:
                trouble = (await peer.run(stream)).error
            except Exception as exc:  # noqa: BLE001 - it is shown with the row
                trouble = exc
            await peer.over.wait()  # the server may learn of it later
            over.set()
        return Seen(
            events=self.diary.told[number],
            records=[each for each in records if _is_of(each, self.version, number, address)],
            alert=peer.alert,
            trouble=trouble,
            noticed=noticed,
            echoes=echoes,
        )

    async def admitted(self, stream: trio.SocketStream, before: int) -> tuple[int, str]:
        """Wait until it is accepted: one that resets before has no address any more."""
        host, port = stream.socket.getsockname()
        peer = f"{host}:{port}"
        while self.diary.latest.get(peer, 0) <= before:  # the port may have had another peer
            self.diary.here[peer] = trio.Event()
            await self.diary.here[peer].wait()
        return self.diary.latest[peer], peer

    async def be_healthy(self, role: Role, over: trio.Event, served: trio.Event) -> int:
        """Handshake, echo until it is over and once more, and end with a close_notify."""
        echoes = 0

        async def talk(tls: PeerStream) -> None:
            nonlocal echoes
            last = False
            while not last:
                last = over.is_set()
                message = os.urandom(16)
                await tls.send_all(message)
                assert await receive_exactly(tls, 16) == message
                echoes += 1
                served.set()
                with trio.move_on_after(BETWEEN_ECHOES):
                    await over.wait()

        kind = SpeakingPeer if role is Role.CLIENT else SilentPeer
        stream = await trio.open_tcp_stream(
            *self.address, local_address=SPEAKING_HOST if role is Role.CLIENT else None
        )
        report = await kind(credentials=self.healthy, talk=talk).run(stream)
        if report.error is not None:
            raise report.error
        return echoes

    async def leave_nothing(self) -> None:
        """Wait until the server is empty, as it must be when all have left."""
        with trio.fail_after(60):
            while True:
                now = self.server.statistics()
                if not (now.pending or any(now.handshaking.values()) or now.open):
                    return
                await trio.sleep(0.01)


def window(peer: PeerFacts) -> float:
    """The detection window."""
    assert peer.remote_address is not None
    return math.inf if peer.remote_address[0] == SPEAKING_HOST else WINDOW


async def handler(connection: Connection) -> None:
    """An echo, which some words make do other things."""
    async for chunk in connection:
        match bytes(chunk):
            case b"bye":
                return
            case b"flood":
                connection.send_timeout = SEND_TIMEOUT
                while True:
                    await connection.send_all(bytes(1_000_000))
            case b"clog":
                fill(connection.transport_stream)
                return
            case b"idle":
                connection.idle_timeout = IDLE_TIMEOUT
        await connection.send_all(chunk)


def fill(stream: trio.abc.Stream) -> None:
    """Leave no room in the kernel for one more byte."""
    assert isinstance(stream, trio.SocketStream)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(stream.socket.fileno(), bytes(65_536))
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(stream.socket.fileno(), b"x")


@contextlib.contextmanager
def everything_logged() -> Iterator[list[logging.LogRecord]]:
    """What the library logs, each line: the observer's clock runs so that none is one too many."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            vars(record)["played_on"] = PLAYED_ON.get(None)
            records.append(record)

    keep, level = Keep(), LOGGER.level
    hours = itertools.count(0, 3600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "LogObserver", partial(LogObserver, clock=lambda: next(hours)))
        LOGGER.addHandler(keep)
        LOGGER.setLevel(logging.DEBUG)
        try:
            yield records
        finally:
            LOGGER.removeHandler(keep)
            LOGGER.setLevel(level)


def _is_of(record: logging.LogRecord, version: ssl.TLSVersion, number: int, peer: str) -> bool:
    mine = f" number={number} peer={peer} " in record.getMessage()
    return mine and vars(record)["played_on"] is version
