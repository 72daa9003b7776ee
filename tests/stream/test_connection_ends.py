"""How a connection ends without a close_notify: `trio_duplex._stream.connection`.

A ragged end, a reset, the peer's alert, our timeouts: all are `trio.BrokenResourceError`, and the message
and the cause tell which.
"""

from __future__ import annotations

import gc
import math
import ssl
import weakref
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.odd_peers.forge import HELLO_REQUEST, Forger12, forger, logging_context
from tests.support.peers import (
    TLS12,
    RawPeer,
    RecordingStream,
    caught,
    client_hello,
    connection_pair,
    credentials,
    dial,
    each_role,
    each_version,
    memory_pair,
    receive_all,
    reset,
    tcp_pair,
)
from tests.support.records import ALERT, HANDSHAKE, make_record
from trio_duplex import Connection, Role, negotiate
from trio_duplex._serve.fault import is_peer_fault
from trio_duplex._tls.engine import RECORD_SIZE
from trio_duplex._tls.flow import RECEIVE_SIZE, SEND_PIECE

pytestmark = pytest.mark.slow


async def pair(role: Role, version: ssl.TLSVersion | None = None) -> tuple[Connection, Connection]:
    """A connection in this role, and its peer, in memory."""
    server, client = await connection_pair(version)
    return (server, client) if role is Role.SERVER else (client, server)


async def broken(connection: Connection, *, sending: bool = False) -> trio.BrokenResourceError:
    """What the next call raises."""
    with pytest.raises(trio.BrokenResourceError) as caught:
        await (connection.send_all(b"x" * 1_000_000) if sending else connection.receive_some())
    return caught.value


# ------------------------------------------------------------------- several records that come at once


@each_version
@each_role
async def test_records_that_have_come_are_given_at_once(
    version: ssl.TLSVersion, role: Role
) -> None:
    connection, peer = await pair(role, version)
    await peer.send_all(b"a" * RECORD_SIZE + b"b" * RECORD_SIZE + b"c")
    assert await connection.receive_some(10) == b"a" * 10
    assert await connection.receive_some(RECORD_SIZE) == b"a" * (RECORD_SIZE - 10) + b"b" * 10
    assert await connection.receive_some() == b"b" * (RECORD_SIZE - 10) + b"c"
    assert connection.bytes_received == 2 * RECORD_SIZE + 1
    await peer.send_all(b"d" * 17 * RECORD_SIZE)
    assert len(await connection.receive_some()) == RECEIVE_SIZE
    assert len(await connection.receive_some()) == 17 * RECORD_SIZE - RECEIVE_SIZE


@each_version
@each_role
async def test_data_before_the_end_is_given_first(
    version: ssl.TLSVersion, role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    connection, peer = await pair(role, version)
    for _ in range(3):
        await peer.send_all(b"x")
    await peer.aclose()
    assert await connection.receive_some() == b"xxx"
    assert await connection.receive_some() == b""
    assert await connection.receive_some() == b""


@each_version
@each_role
async def test_data_before_a_faulty_record_is_given_first(
    version: ssl.TLSVersion, role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = memory_pair()
    server, client = await connection_pair(
        version, streams=(ours, theirs) if role is Role.SERVER else (theirs, ours)
    )
    connection, peer = (server, client) if role is Role.SERVER else (client, server)
    for _ in range(2):
        await peer.send_all(b"x")
    await theirs.send_all(make_record(23, b"no key of ours has made this"))
    assert await connection.receive_some() == b"xx"
    errors = [await broken(connection) for _ in range(2)]
    assert str(errors[0]) == str(errors[1])
    assert errors[0].__cause__ is errors[1].__cause__
    assert isinstance(errors[0].__cause__, ssl.SSLError)
    assert "BAD_RECORD_MAC" in (errors[0].__cause__.reason or "")
    with pytest.raises(trio.BrokenResourceError) as caught:  # who reads on has the alert to thank
        await peer.receive_some()
    assert "bad_record_mac" in str(caught.value)
    await connection.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await connection.receive_some()


@each_version
@each_role
async def test_sending_after_a_faulty_record_says_so(version: ssl.TLSVersion, role: Role) -> None:
    ours, theirs = memory_pair()
    server, client = await connection_pair(
        version, streams=(ours, theirs) if role is Role.SERVER else (theirs, ours)
    )
    connection, peer = (server, client) if role is Role.SERVER else (client, server)
    await peer.send_all(b"x")
    await theirs.send_all(make_record(23, b"no key of ours has made this"))
    assert await connection.receive_some() == b"x"
    error = await broken(connection, sending=True)
    assert isinstance(error.__cause__, ssl.SSLError)
    assert "BAD_RECORD_MAC" in (error.__cause__.reason or "")
    assert str(error) == str(await broken(connection))


@each_role
async def test_a_renegotiation_refused_is_no_reason_to_end_without_close_notify(
    role: Role, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """The warning stands with the data, unsent; it leaves with the close_notify, and nothing waits for it."""
    ours, theirs = memory_pair()
    log = tmp_path / "keys"
    context = logging_context(role.other, TLS12, log)
    peer = RawPeer(theirs, role.other, context=context)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.shake_hands)
        connection = await dial(ours, role, credentials(TLS12))
    forge = forger(TLS12, role.other, log, theirs.sent if role is Role.CLIENT else theirs.received)
    assert isinstance(forge, Forger12)
    data = peer.encrypt(b"data")
    forge.number += 1
    asking = HELLO_REQUEST if role is Role.CLIENT else client_hello()[5:]
    await theirs.send_all(data + forge.seal(HANDSHAKE, asking))
    assert await connection.receive_some() == b"data"
    before = trio.current_time()
    await connection.aclose()
    assert trio.current_time() == before
    await receive_all(theirs)
    alerts = [payload for kind, payload in forge.opened(theirs.received) if kind == ALERT]
    assert alerts == [b"\x01\x64", b"\x01\x00"]  # no_renegotiation, close_notify: both are warnings


async def test_a_wrong_max_bytes_is_refused_as_by_trio() -> None:
    connection, _ = await pair(Role.CLIENT)
    with pytest.raises(TypeError):
        await connection.receive_some(1.5)  # type: ignore[arg-type]
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="max_bytes"):
            await connection.receive_some(wrong)


# -------------------------------------------------------------------------- ragged end, reset, alert


@each_version
@each_role
async def test_a_ragged_end_says_so(version: ssl.TLSVersion, role: Role) -> None:
    connection, peer = await pair(role, version)
    await trio.aclose_forcefully(peer)
    error = await broken(connection)
    assert type(error) is trio.BrokenResourceError
    assert isinstance(error.__cause__, ssl.SSLEOFError)
    assert "close_notify" in str(error)
    again = await broken(connection)  # Trio has neither words nor a cause left by then
    assert str(again) == str(error)
    assert connection.peer.dns_names == ("node.example",)  # which OpenSSL has forgotten


@each_version
@pytest.mark.parametrize("bare", [False, True], ids=["direct", "bare"])
@pytest.mark.parametrize("how", ["ragged", "corrupt"])
async def test_every_later_call_says_why(
    how: str, bare: bool, version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    streams = memory_pair()
    connection, peer = await connection_pair(version, streams=streams)
    assert not bare or type(connection.tls) is trio.SSLStream
    if how == "corrupt":
        await streams[1].stream.send_all(make_record(23, b"no key of ours has made this"))
    await trio.aclose_forcefully(peer)
    error = await broken(connection)
    assert isinstance(error.__cause__, ssl.SSLError)
    assert isinstance(error.__cause__, ssl.SSLEOFError) is (how == "ragged")
    for call in (
        connection.receive_some,
        partial(connection.send_all, b"x"),
        connection.wait_send_all_might_not_block,
        connection.send_eof,
    ):
        later = await caught(call)
        assert type(later) is trio.BrokenResourceError
        assert str(later) == str(error)
        assert later.__cause__ is error.__cause__
    await connection.aclose()


@each_version
@each_role
async def test_a_reset_says_so(version: ssl.TLSVersion, role: Role) -> None:
    with trio.fail_after(10):
        ours, theirs = await tcp_pair()
        server, client = await connection_pair(
            version, streams=(ours, theirs) if role is Role.SERVER else (theirs, ours)
        )
        connection = server if role is Role.SERVER else client
        reset(theirs)
        error = await broken(connection)
        assert type(error) is trio.BrokenResourceError
        assert isinstance(error.__cause__, ConnectionResetError)
        assert "close_notify" not in str(error)
        assert str(error)
        await connection.aclose()


@each_version
@each_role
async def test_the_alert_of_the_peer_says_so(
    role: Role, version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    """One that has nothing to do with our certificate is no verdict on it."""
    streams = memory_pair()
    server, client = await connection_pair(version, streams=streams)
    connection, peer = (server, client) if role is Role.SERVER else (client, server)
    transport = streams[0 if role is Role.SERVER else 1].stream
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.send_all, b"\x17\x03\x03\x00\x20" + bytes(32))
        nursery.start_soon(caught, peer.receive_some)
        error = await broken(connection)
    assert type(error) is trio.BrokenResourceError
    assert isinstance(error.__cause__, ssl.SSLError)
    assert not isinstance(error.__cause__, ssl.SSLEOFError)
    assert "bad_record_mac" in str(error)


async def test_a_broken_protocol_says_so(autojump_clock: trio.testing.MockClock) -> None:
    streams = memory_pair()
    server, _ = await connection_pair(streams=streams)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(streams[1].stream.send_all, b"SSH-2.0-x\r\n")
        nursery.start_soon(caught, partial(streams[1].stream.receive_some))
        error = await broken(server)
        nursery.start_soon(streams[1].aclose)
    assert isinstance(error.__cause__, ssl.SSLError)
    assert str(error)


async def test_sending_into_a_reset_says_so() -> None:
    with trio.fail_after(10):
        ours, theirs = await tcp_pair()
        server, _ = await connection_pair(streams=(ours, theirs))
        reset(theirs)
        error = await broken(server, sending=True)
        assert isinstance(error.__cause__, OSError)
        assert str(error)
        await server.aclose()


class BreakingStream(RecordingStream):
    """A transport, not of ours, that breaks with an error of its own once it is told to."""

    error: trio.BrokenResourceError | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._break()
        await super().send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        await self._break()
        return await super().receive_some(max_bytes)

    async def wait_send_all_might_not_block(self) -> None:
        await self._break()
        await super().wait_send_all_might_not_block()

    async def _break(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error


@each_version
@each_role
@pytest.mark.parametrize("cause", [None, OSError(5, "disk on fire")], ids=["no cause", "a cause"])
@pytest.mark.parametrize(
    "call", ["receive_some", "send_all", "wait_send_all_might_not_block", "send_eof"]
)
async def test_an_error_of_somebody_elses_is_raised_as_it_is(
    call: str, cause: OSError | None, role: Role, version: ssl.TLSVersion
) -> None:
    ours, theirs = memory_pair()
    transport = BreakingStream(ours)
    server, client = await connection_pair(
        version, streams=(transport, theirs) if role is Role.SERVER else (theirs, transport)
    )
    connection = server if role is Role.SERVER else client
    error = trio.BrokenResourceError("the tunnel has fallen in")
    if cause is not None:
        error.__cause__ = cause
    transport.error = error
    with pytest.raises(trio.BrokenResourceError) as caught:
        await getattr(connection, call)(*([b"x"] if call == "send_all" else []))
    assert caught.value is error
    assert error.__cause__ is cause
    # Otherwise a traceback would hide what the transport was doing as it failed.
    assert error.__suppress_context__ is (cause is not None)
    transport.error = trio.BrokenResourceError()  # by now it has no words left
    later = await broken(connection, sending=call != "receive_some")
    assert str(later) == str(error)
    await trio.aclose_forcefully(connection)


@each_role
@pytest.mark.parametrize("call", ["receive_some", "wait_send_all_might_not_block"])
async def test_an_error_without_words_is_given_none(call: str, role: Role) -> None:
    ours, theirs = memory_pair()
    transport = BreakingStream(ours)
    server, client = await connection_pair(
        streams=(transport, theirs) if role is Role.SERVER else (theirs, transport)
    )
    connection = server if role is Role.SERVER else client
    transport.error = error = trio.BrokenResourceError()
    with pytest.raises(trio.BrokenResourceError) as caught:
        await getattr(connection, call)()
    assert caught.value is error
    assert str(await broken(connection)) == ""
    await trio.aclose_forcefully(connection)


@each_version
async def test_what_follows_a_send_that_was_cut_says_so(
    version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    streams = trio.testing.lockstep_stream_pair()
    connection, _ = await connection_pair(version, streams=streams)
    with trio.move_on_after(1):
        await connection.send_all(b"nobody reads this")
    said = set()
    for call in (
        partial(connection.send_all, b"x"),
        connection.wait_send_all_might_not_block,
        connection.send_eof,
        connection.receive_some,
    ):
        error = await caught(call)
        assert type(error) is trio.BrokenResourceError
        assert error.__cause__ is None
        said.add(str(error))
    assert len(said) == 1
    assert "send" in said.pop()
    await connection.aclose()


@pytest.mark.parametrize("words", ["", "the tunnel has fallen in"])
@pytest.mark.parametrize(
    "call", ["receive_some", "send_all", "wait_send_all_might_not_block", "send_eof"]
)
async def test_an_error_is_freed_without_a_collection(words: str, call: str) -> None:
    """It holds the frames that it passed through, with all that they hold; so none holds it."""
    ours, theirs = memory_pair()
    transport = BreakingStream(ours)
    connection, _ = await connection_pair(streams=(transport, theirs))
    gc.collect()
    gc.disable()
    try:
        for _ in range(2):  # the second one is mostly ours
            transport.error = trio.BrokenResourceError(words)
            raised = await caught(partial(getattr(connection, call), *[b"x"][: call == "send_all"]))
            assert raised is not None
            transport.error = None
            reference = weakref.ref(raised)
            del raised
            assert reference() is None
    finally:
        gc.enable()
    await trio.aclose_forcefully(connection)


@each_role
async def test_a_ragged_end_may_be_allowed(role: Role) -> None:
    server, client = await connection_pair(https_compatible=True)
    connection, peer = (server, client) if role is Role.SERVER else (client, server)
    await trio.aclose_forcefully(peer)
    assert await connection.receive_some() == b""


# ------------------------------------------------------------------------------------- idle_timeout


async def test_without_an_idle_timeout_it_waits_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    connection, _ = await pair(Role.SERVER)
    assert connection.idle_timeout == connection.send_timeout == math.inf
    with trio.move_on_after(1e6) as scope:
        await connection.receive_some()
    assert scope.cancelled_caught


async def test_without_a_timeout_no_cancel_scope_is_made(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """It would be made for each call, and most connections have no such timeout."""
    connection, peer = await pair(Role.SERVER)

    def unexpected(_: float) -> trio.CancelScope:
        raise AssertionError

    with monkeypatch.context() as patch:
        for name in ("move_on_at", "move_on_after"):
            patch.setattr(trio, name, unexpected)
        await connection.send_all(b"question")
        assert await peer.receive_some() == b"question"


@each_version
@each_role
async def test_idle_timeout(
    version: ssl.TLSVersion, role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    connection, peer = await pair(role, version)
    connection.idle_timeout = 10
    async with trio.open_nursery() as nursery:

        async def live() -> None:
            for _ in range(3):
                await trio.sleep(9)
                await peer.send_all(b"I live")

        nursery.start_soon(live)
        for _ in range(3):
            assert await connection.receive_some() == b"I live"
    error = await broken(connection)
    assert trio.current_time() == 27 + 10
    assert (type(error), error.__cause__) == (trio.BrokenResourceError, None)
    assert is_peer_fault(error, connection)
    assert isinstance(await broken(peer), trio.BrokenResourceError)  # the stream is closed


async def test_what_is_sent_counts_as_life(autojump_clock: trio.testing.MockClock) -> None:
    connection, peer = await pair(Role.SERVER)
    connection.idle_timeout = 10
    async with trio.open_nursery() as nursery:
        nursery.start_soon(caught, partial(drain, peer))

        async def tell() -> None:
            for _ in range(5):
                await trio.sleep(8)
                await connection.send_all(b"news")

        nursery.start_soon(tell)
        await broken(connection)
        assert trio.current_time() == 5 * 8 + 10


async def drain(connection: Connection, pause: float = 0) -> None:
    while await connection.receive_some(16_384):
        await trio.sleep(pause)


class Narrow(RecordingStream):
    """A transport that takes so many bytes a second."""

    rate = math.inf

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.sleep(len(data) / self.rate)
        await super().send_all(data)


async def narrow_pair() -> tuple[Connection, Connection, Narrow]:
    ours, theirs = memory_pair()
    narrow = Narrow(ours)
    connection, peer = await connection_pair(streams=(narrow, theirs))
    return connection, peer, narrow


async def test_a_long_send_that_moves_is_life(autojump_clock: trio.testing.MockClock) -> None:
    connection, peer, narrow = await narrow_pair()
    connection.idle_timeout = 10
    narrow.rate = SEND_PIECE / 8
    async with trio.open_nursery() as nursery:
        nursery.start_soon(caught, partial(drain, peer))
        nursery.start_soon(connection.send_all, bytes(4 * SEND_PIECE))
        await broken(connection)
    assert 4 * 8 + 10 < trio.current_time() < 4 * 8 + 10 + 1
    assert connection.bytes_sent == 4 * SEND_PIECE


async def test_a_send_that_does_not_move_is_no_life(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Both tasks are told the same, and neither that it closed the connection itself."""
    connection, _, narrow = await narrow_pair()
    connection.idle_timeout = 10
    narrow.rate = 1
    errors = []
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            errors.append(await caught(partial(connection.send_all, b"x")))

        nursery.start_soon(send)
        errors.append(await broken(connection))
        assert trio.current_time() == 10
        nursery.cancel_scope.cancel()
    later = await broken(connection, sending=True)
    assert str(later) == str(errors[-1])
    assert is_peer_fault(later, connection)


async def test_a_task_that_is_sending_learns_of_the_idle_timeout() -> None:
    """Over TCP, where closing wakes whoever is stuck in sending."""
    with trio.fail_after(10):
        ours, theirs = await tcp_pair()
        connection, peer = await connection_pair(streams=(ours, theirs))
        connection.idle_timeout = 0.1
        errors: list[BaseException | None] = []
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                errors.append(await caught(partial(connection.send_all, bytes(50_000_000))))

            nursery.start_soon(send)
            errors.append(await broken(connection))
        assert [type(error) for error in errors] == [trio.BrokenResourceError] * 2
        assert str(errors[0]) == str(errors[1])
        await trio.aclose_forcefully(peer)


async def test_every_receive_after_the_idle_timeout_tells_of_it() -> None:
    """Over TCP, where the socket that was closed must not be waited for."""
    with trio.fail_after(10):
        connection, peer = await connection_pair(streams=await tcp_pair())
        connection.idle_timeout = 0.1
        errors = [await broken(connection) for _ in range(3)]
        assert {str(error) for error in errors} == {str(errors[0])}
        await trio.aclose_forcefully(peer)


async def test_closed_here_is_still_told_from_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    connection, _ = await pair(Role.SERVER)
    connection.idle_timeout = connection.send_timeout = 10
    await connection.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await connection.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await connection.send_all(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await connection.send_eof()


async def test_cancelled_from_outside_is_no_timeout(
    autojump_clock: trio.testing.MockClock,
) -> None:
    connection, peer = await pair(Role.SERVER)
    connection.idle_timeout = connection.send_timeout = 10
    with trio.move_on_after(1) as scope:
        await connection.receive_some()
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.send_all, b"after that it still works")
        assert await connection.receive_some() == b"after that it still works"


# ------------------------------------------------------------------------------------- send_timeout


@each_version
@each_role
async def test_send_timeout(
    version: ssl.TLSVersion, role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    """A peer that stops reading does not hold a handler for ever."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    streams = (RecordingStream(ours), RecordingStream(theirs))
    server, client = await connection_pair(
        version, streams=streams if role is Role.SERVER else streams[::-1]
    )
    connection = server if role is Role.SERVER else client
    connection.send_timeout = 7
    error = await broken(connection, sending=True)
    assert trio.current_time() == 7
    assert (type(error), error.__cause__) == (trio.BrokenResourceError, None)
    assert is_peer_fault(error, connection)
    await broken(connection)
    await connection.aclose()
    assert trio.current_time() == 7


async def test_send_timeout_while_waiting_to_send(autojump_clock: trio.testing.MockClock) -> None:
    """Who asks first whether there is room is not held for ever either."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    connection, _ = await connection_pair(streams=(RecordingStream(ours), RecordingStream(theirs)))
    connection.send_timeout = 7
    error = await caught(connection.wait_send_all_might_not_block)
    assert trio.current_time() == 7
    assert (type(error), error and error.__cause__) == (trio.BrokenResourceError, None)
    assert "send_timeout" in str(error)
    for later in (
        connection.wait_send_all_might_not_block,
        partial(connection.send_all, b"x"),
        connection.send_eof,
    ):
        assert str(await caught(later)) == str(error)
    await connection.aclose()
    assert trio.current_time() == 7


async def test_waiting_to_send_in_time(autojump_clock: trio.testing.MockClock) -> None:
    connection, peer = await pair(Role.SERVER)
    connection.send_timeout = 7
    with trio.testing.assert_checkpoints():
        await connection.wait_send_all_might_not_block()
    await peer.aclose()
    await connection.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await connection.wait_send_all_might_not_block()


async def test_a_send_in_time(autojump_clock: trio.testing.MockClock) -> None:
    connection, peer = await pair(Role.SERVER)
    connection.send_timeout = 7
    for data in (b"", b"x", bytearray(3), memoryview(bytes(1_000)), bytes(3 * SEND_PIECE + 1)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.send_all, data)
            received = 0
            while received < len(data):
                received += len(await peer.receive_some())
    assert connection.bytes_sent == 1 + 3 + 1_000 + 3 * SEND_PIECE + 1
    assert trio.current_time() == 0


@pytest.mark.parametrize("https_compatible", [False, True])
@pytest.mark.parametrize("bound", ["send_timeout", "idle_timeout"])
async def test_a_peer_that_is_given_up_sees_no_normal_end(
    bound: str, https_compatible: bool
) -> None:
    """With ``https_compatible`` the peer takes a FIN for one, so there is none."""
    ours, theirs = await tcp_pair()
    ends: dict[Role, Connection] = {}

    async def end(stream: trio.abc.Stream, role: Role) -> None:
        ends[role] = await negotiate(
            stream, credentials(), role=role, https_compatible=https_compatible
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end, ours, Role.SERVER)
        nursery.start_soon(end, theirs, Role.CLIENT)
    connection, peer = ends[Role.SERVER], ends[Role.CLIENT]
    setattr(connection, bound, 0.3)

    async def send() -> None:
        with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
            await connection.send_all(bytes(20_000_000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        if bound == "idle_timeout":
            with pytest.raises(trio.BrokenResourceError):
                await connection.receive_some()
    with pytest.raises(trio.BrokenResourceError) as ended:
        while await peer.receive_some():
            pass
    expected = ConnectionResetError if https_compatible else ssl.SSLEOFError
    assert isinstance(ended.value.__cause__, expected)
    for each in (connection, peer):
        await trio.aclose_forcefully(each)
