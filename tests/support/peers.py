"""What the core's tests share: an authority, credentials, peers, and streams and listeners that misbehave."""

from __future__ import annotations

import copy
import functools
import gc
import math
import socket
import ssl
import struct
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypedDict, Unpack

import pytest
import trio
import trio.testing
import trustme

from tests.support.authority import AUTHORITY, STRANGER
from tests.support.contexts import new_context
from trio_duplex import (
    Connection,
    Credentials,
    PeerPolicy,
    Role,
    negotiate,
)

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = (TLS12, TLS13)

each_version = pytest.mark.parametrize("version", VERSIONS, ids=["TLS1.2", "TLS1.3"])
each_role = pytest.mark.parametrize("role", list(Role), ids=str)

NODE = AUTHORITY.issue_cert("node.example")
INTRUDER = STRANGER.issue_cert("node.example")

# Descriptions of alerts, RFC 8446 section 6.
UNEXPECTED_MESSAGE, BAD_RECORD_MAC, RECORD_OVERFLOW = 10, 20, 22
HANDSHAKE_FAILURE, UNKNOWN_CA, DECODE_ERROR, PROTOCOL_VERSION = 40, 48, 50, 70


# ---------------------------------------------------------------------------------------- credentials


class Options(TypedDict, total=False):
    """Options of `Credentials.mutual` with which credentials are not shared."""

    alpn: tuple[str, ...]
    session_tickets: int
    peer: PeerPolicy | None


def credentials(
    version: ssl.TLSVersion | None = None,
    *,
    certificate: trustme.LeafCert = NODE,
    **options: Unpack[Options],
) -> Credentials:
    """Credentials of the fleet, for one TLS version or for all; whoever changes their contexts takes `own_credentials`.

    They are loaded once in a process for each version and certificate, because to
    load them takes ten times as long as a handshake. What is handed out is a copy,
    so what a test does to it (a reload, say) ends with that test, but its
    contexts are shared. Those with options are not shared: they are rare, and
    policies remember what they were asked.
    """
    if any(options.values()):
        return own_credentials(version, certificate=certificate, **options)
    return copy.copy(_loaded_once(version, certificate))


def own_credentials(
    version: ssl.TLSVersion | None = None,
    *,
    certificate: trustme.LeafCert = NODE,
    **options: Unpack[Options],
) -> Credentials:
    """Like `credentials`, with contexts that nobody else has."""
    made = Credentials.mutual(
        certificate_chain=certificate,
        trust=AUTHORITY,
        allow_self=True,  # both ends of these tests hold the same certificate
        **options,
    )
    for role in Role:
        pin(made.context(role), version)
    return made


@functools.lru_cache(maxsize=32)
def _loaded_once(version: ssl.TLSVersion | None, certificate: trustme.LeafCert) -> Credentials:
    made = own_credentials(version, certificate=certificate)
    for role in Role:
        made.context(role).__class__ = SharedContext
    return made


class SharedContext(ssl.SSLContext):
    """A context that many tests use, so none may change it."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AssertionError("other tests use this context, too: have one of your own")

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("other tests use this context, too: have one of your own")

    load_cert_chain = load_verify_locations = load_default_certs = _refuse
    set_alpn_protocols = set_ciphers = set_ecdh_curve = set_servername_callback = _refuse


def pin(context: ssl.SSLContext, version: ssl.TLSVersion | None) -> None:
    if version is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of versions before 1.2
            context.minimum_version = version
            context.maximum_version = version


def peer_context(
    role: Role,
    version: ssl.TLSVersion | None = None,
    *,
    certificate: trustme.LeafCert | None = NODE,
    trust: trustme.CA = AUTHORITY,
) -> ssl.SSLContext:
    """The context of a peer that is no trio_duplex and plays this role."""
    context = new_context(role)
    trust.configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    pin(context, version)
    return context


@functools.cache
def shared_peer_context(role: Role, version: ssl.TLSVersion | None) -> ssl.SSLContext:
    """The `peer_context` that all tests share, and none can change."""
    context = peer_context(role, version)
    context.__class__ = SharedContext
    return context


def peer_stream(
    stream: trio.abc.Stream,
    role: Role,
    version: ssl.TLSVersion | None = None,
    *,
    context: ssl.SSLContext | None = None,
    https_compatible: bool = False,
) -> trio.SSLStream[trio.abc.Stream]:
    """The TLS stream of a peer that is no trio_duplex and plays this role."""
    return trio.SSLStream(
        stream,
        context or shared_peer_context(role, version),
        server_side=role is Role.SERVER,
        https_compatible=https_compatible,
    )


def client_hello(context: ssl.SSLContext | None = None) -> bytes:
    """What a TLS client says first."""
    outgoing = ssl.MemoryBIO()
    tls = (context or shared_peer_context(Role.CLIENT, None)).wrap_bio(ssl.MemoryBIO(), outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


class CountingContext(ssl.SSLContext):
    """A context that remembers of which role it made each TLS object."""

    made: list[Role]

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        self.made.append(Role.SERVER if server_side else Role.CLIENT)
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def counting_credentials() -> tuple[Credentials, list[Role]]:
    """Credentials, and the roles of all TLS objects that were made with them."""
    made: list[Role] = []
    contexts = []
    for role in (Role.SERVER, Role.CLIENT):
        context = new_context(role, CountingContext)
        context.made = made
        NODE.configure_cert(context)
        AUTHORITY.configure_trust(context)
        contexts.append(context)
    credentials = Credentials(
        server_context=contexts[0], client_context=contexts[1], allow_self=True
    )
    made.clear()  # the credentials have tried their own contexts
    return credentials, made


# -------------------------------------------------------------------------------------------- streams


class RecordingStream(trio.abc.HalfCloseableStream):
    """A stream that remembers what went through it."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self.sent = b""
        self.received = b""
        self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self.stream.receive_some(max_bytes)
        self.received += data
        return data

    async def aclose(self) -> None:
        self.closed = True
        await self.stream.aclose()


class ScriptedStream(RecordingStream):
    """A stream that sends as told: ``send`` gets what is to be sent, and the stream to send it on."""

    def __init__(
        self,
        stream: RecordingStream,
        send: Callable[[bytes, RecordingStream], Awaitable[object]],
    ) -> None:
        super().__init__(stream)
        self._below = stream
        self._send = send

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._send(bytes(data), self._below)
        self.sent += data


class ResettingStream(RecordingStream):
    """A stream whose peer resets the connection once everything has been read up to here."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, data: bytes = b"") -> None:
        super().__init__(stream)
        self._data = data

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._data:
            data, self._data = self._data[:max_bytes], self._data[max_bytes or len(self._data) :]
            return data
        raise trio.BrokenResourceError("reset")


def memory_pair() -> tuple[RecordingStream, RecordingStream]:
    """Two ends in memory that remember what went through them: ours, and the peer's."""
    ours, theirs = trio.testing.memory_stream_pair()
    return RecordingStream(ours), RecordingStream(theirs)


async def tcp_pair(host: str = "127.0.0.1") -> tuple[trio.SocketStream, trio.SocketStream]:
    """Two ends of a TCP connection: the accepted one, and the dialled one."""
    (listener,) = await trio.open_tcp_listeners(0, host=host)
    async with listener:
        dialled = await trio.open_tcp_stream(host, listener.socket.getsockname()[1])
        return await listener.accept(), dialled


def unix_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Two ends of a Unix socket."""
    ours, theirs = trio.socket.socketpair()
    return trio.SocketStream(ours), trio.SocketStream(theirs)


def reset(stream: trio.SocketStream) -> None:
    """Close with an RST."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def connection_pair(
    version: ssl.TLSVersion | None = None,
    *,
    streams: tuple[trio.abc.Stream, trio.abc.Stream] | None = None,
    server: Credentials | None = None,
    client: Credentials | None = None,
    https_compatible: bool = False,
    session: ssl.SSLSession | None = None,
) -> tuple[Connection, Connection]:
    """Two of ours, connected: the one that is TLS server, and the one that is TLS client."""
    listening, dialling = streams or memory_pair()
    ends: dict[Role, Connection] = {}

    async def be_server() -> None:
        ends[Role.SERVER] = await negotiate(
            listening,
            server or credentials(version),
            window=math.inf,
            https_compatible=https_compatible,
        )

    async def be_client() -> None:
        ends[Role.CLIENT] = await negotiate(
            dialling,
            client or credentials(version),
            role=Role.CLIENT,
            session=session,
            https_compatible=https_compatible,
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(be_server)
        nursery.start_soon(be_client)
    return ends[Role.SERVER], ends[Role.CLIENT]


async def dial(
    stream: trio.abc.Stream, role: Role, mine: Credentials | None = None, timeout: float = 30
) -> Connection:
    """`open_tcp_connection` without the TCP."""
    return await negotiate(stream, mine or credentials(), role=role, handshake_timeout=timeout)


class RawPeer:
    """A peer that drives OpenSSL by hand, and so sees the alerts and can send what TLS would not.

    Attributes:
        stream: The raw stream.
        tls: The TLS object.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        role: Role,
        version: ssl.TLSVersion | None = None,
        *,
        context: ssl.SSLContext | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self.stream = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (context or shared_peer_context(role, version)).wrap_bio(
            self._incoming, self._outgoing, server_side=role is Role.SERVER, session=session
        )

    async def shake_hands(self, *, data: bytes = b"") -> None:
        """Handshake; the data goes in one piece with what is left of it to send."""
        await self._until(self.tls.do_handshake)
        if data:
            self.tls.write(data)
        await self.flush()

    def first_flight(self) -> bytes:
        """Make the ClientHello, to be sent by whoever called."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._outgoing.read()

    async def flush(self) -> None:
        if self._outgoing.pending:
            await self.stream.send_all(self._outgoing.read())

    def encrypt(self, data: bytes) -> bytes:
        """The record that would carry this."""
        self.tls.write(data)
        return self._outgoing.read()

    async def read(self) -> bytes:
        """Receive and decrypt; what OpenSSL has to say leaves as `ssl.SSLError`."""
        data: bytes = await self._until(self.tls.read)
        return data

    async def refused(self, *, data: bytes = b"") -> str:
        """Handshake and read until it fails: why, as OpenSSL has it."""
        try:
            await self.shake_hands(data=data)
            await self.read()
        except ssl.SSLError as exc:
            return exc.reason
        pytest.fail("nothing was refused")

    async def _until(self, function: Callable[[], Any]) -> Any:
        while True:
            try:
                return function()
            except ssl.SSLWantReadError:
                await self.flush()
                if data := await self.stream.receive_some():
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()


# ------------------------------------------------------------------------------------------ listeners


class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    """A listener in memory, which can be made to fail.

    Attributes:
        failures: Raised by the next calls of `accept`, one each.
        tries: When `accept` was called, on Trio's clock.
    """

    def __init__(self) -> None:
        self._in, self._out = trio.open_memory_channel[trio.abc.Stream](math.inf)
        self.failures: list[Exception] = []
        self.tries: list[float] = []
        self.closed = False

    def connect(self) -> RecordingStream:
        """Dial: the peer's end, at once."""
        ours, theirs = memory_pair()
        self._in.send_nowait(ours)
        return theirs

    def push(self, stream: trio.abc.Stream) -> None:
        """Have this stream accepted."""
        self._in.send_nowait(stream)

    async def accept(self) -> trio.abc.Stream:
        self.tries.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.failures:
            raise self.failures.pop(0)
        return await self._out.receive()

    async def aclose(self) -> None:
        self.closed = True
        self._out.close()
        await trio.lowlevel.checkpoint()


# ---------------------------------------------------------------------------------------------- others


async def echo(stream: trio.abc.Stream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


async def receive_exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = await stream.receive_some(count - len(data))
        assert chunk, f"the stream ended after {len(data)} of {count} bytes"
        data += chunk
    return data


async def receive_all(stream: trio.abc.ReceiveStream) -> bytes:
    data = b""
    async for chunk in stream:
        data += chunk
    return data


async def caught(function: Callable[[], Awaitable[object]]) -> BaseException | None:
    """What it raises: for a task whose failure must not end the others."""
    try:
        await function()
    except Exception as exc:  # noqa: BLE001 - the caller looks at it
        return exc
    return None


def open_descriptors() -> int:
    """How many file descriptors this process has; skips the test where that is not told."""
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("no /proc/self/fd")
    gc.collect()  # or what other tests have left to the collector is counted, until it runs
    return len(list(folder.iterdir()))
