"""What an acceptor tells of each connection, and how it refuses one: `trio_duplex._serve.acceptor`."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.peers import MemoryListener, credentials, echo, peer_stream
from trio_duplex import (
    Decision,
    Limits,
    PeerRejectedError,
    Reason,
    Role,
    Server,
    WhenFull,
    serve_listeners,
)
from trio_duplex._serve.acceptor import Acceptor, unwrap_single
from trio_duplex._serve.room import Place
from trio_duplex._stream.settings import Settings
from trio_duplex.events import (
    Accepted,
    ConnectionEvent,
    Crossed,
    Event,
    NegotiationFailed,
    PeerChangedKind,
    PeerRejected,
    PolicyFailed,
    RoleDecided,
)
from trio_duplex.windows import Change

REMOTE = ("192.0.2.7", 4711)


async def test_each_event_names_the_connection_and_its_peer() -> None:
    events = list[Event]()
    acceptor = Acceptor(credentials(), Settings(), None, [events.append])
    place = Place(acceptor.room, 7, REMOTE, trio.current_time())
    decision = Decision(Role.SERVER, Reason.SPOKE, 0.0, 5.0)
    error = ZeroDivisionError()
    acceptor.decided(place, decision)
    acceptor.crossed(place, decision)
    acceptor.peer_changed(place, Change("192.0.2.7", silent=True))
    acceptor.policy_failed(place, error)
    acceptor.failed(place, error)
    acceptor.failed(place, PeerRejectedError("refused"))
    kinds = [RoleDecided, Crossed, PeerChangedKind, PolicyFailed, NegotiationFailed, PeerRejected]
    assert [type(event) for event in events] == kinds
    for event in events:
        assert isinstance(event, ConnectionEvent)
        assert (event.number, event.peer) == (7, "192.0.2.7:4711")
        assert getattr(event, "decision", decision) is decision
        assert getattr(event, "error", error) is error or isinstance(event, PeerRejected)


async def test_accepted_names_the_peer() -> None:
    """Also one that is gone before anything else is told of it."""
    events = list[Event]()
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_listeners, observers=[events.append])
            server: Server = await nursery.start(serve, echo, [listener], credentials())
            stream = await trio.open_tcp_stream(*listener.socket.getsockname())
            host, port = stream.socket.getsockname()
            while not events:
                await trio.sleep(0.001)
            accepted = events[0]
            assert isinstance(accepted, Accepted)
            assert (accepted.number, accepted.peer) == (1, f"{host}:{port}")
            server.cancel_scope.cancel()
    await stream.aclose()


def test_only_a_single_exception_is_unwrapped() -> None:
    one, two = ZeroDivisionError(), ValueError()
    assert unwrap_single(ExceptionGroup("", [one])) is one
    both = ExceptionGroup("", [one, two])
    assert unwrap_single(both) is both
    inner = ExceptionGroup("", [both])
    assert unwrap_single(inner) is both


class Wrapped(trio.abc.Listener[trio.SocketStream]):
    """A listener of an application's own, which gives socket streams."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener

    async def accept(self) -> trio.SocketStream:
        return await self._listener.accept()

    async def aclose(self) -> None:
        await self._listener.aclose()


@pytest.mark.parametrize("wrapped", [False, True], ids=["socket listener", "socket streams"])
async def test_who_is_refused_is_reset(wrapped: bool) -> None:
    """Nothing lingers of it, and no TIME_WAIT. Without the reset it would read a clean end."""
    (inner,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    listener: Any = Wrapped(inner) if wrapped else inner
    address = inner.socket.getsockname()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            limits = Limits(connections=1, when_full=WhenFull.RESET)
            serve = partial(serve_listeners, limits=limits)
            server: Server = await nursery.start(serve, echo, [listener], credentials())
            first = peer_stream(await trio.open_tcp_stream(*address), Role.CLIENT)
            await first.do_handshake()
            # It blocks, so that the reset does not come before it is connected.
            sock = socket.create_connection(address)
            sock.setblocking(False)
            second = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
            with pytest.raises(trio.BrokenResourceError) as caught:
                await second.receive_some(1)
            assert isinstance(caught.value.__cause__, ConnectionResetError)
            server.cancel_scope.cancel()
    await trio.aclose_forcefully(first)
    await second.aclose()


async def test_a_refused_stream_is_closed_even_if_the_server_is_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryListener()
    async with trio.open_nursery() as nursery:
        serve = partial(serve_listeners, limits=Limits(connections=1))
        server: Server = await nursery.start(serve, echo, [memory], credentials())
        first = peer_stream(memory.connect(), Role.CLIENT)
        await first.do_handshake()
        second = memory.connect()
        await trio.testing.wait_all_tasks_blocked()
        server.cancel_scope.cancel()
    assert await second.receive_some(1) == b""
