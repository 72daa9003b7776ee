"""The way of the bytes: an `Engine` over a transport, as a stream, and a true ``SSLStream`` on demand.

Theory of operation
-------------------

Bytes are copied between the transport and the engine by the task that calls. A receive
takes what the transport has, feeds the engine and decrypts all records that have come; a
send encrypts, takes what the engine owes and sends it. That is what ``trio.SSLStream``
does too; but it takes a lock and a pass of the scheduler for each record and each
piece, and most of what an echo costs went there.

These hold, and each has its test:

1. There is no await between feeding and reading. A cancelled receive has either taken
   nothing from the transport, or what it took is in the engine.
2. Bytes leave the engine only by `Engine.take`, followed by the sending of all of them
   in one task that holds the *wire*. So records leave in the order in which they were
   numbered.
3. An exception in that sending, a cancellation included, means that an unknown part has
   left. The stream is broken then, and nothing follows.
4. *Receiving*, *sending* and the wire are three different things. A second receive
   while one runs is a conflict, and so is a second send; both raise
   ``BusyResourceError``. The wire is not: a receive that answers a key update holds it
   for a moment, and a send that begins meanwhile waits its turn.
5. What a receive owes (a key update's answer, the refusal of a renegotiation) is pushed
   into the socket as far as it fits, and otherwise left to whoever sends next. It is
   bounded: a peer that makes us owe more than `MOST_OWED` bytes is not read from
   until the wire has taken them.
6. A close_notify that was read ahead, together with data, is delivered after the data.
7. Each call has exactly one checkpoint, at which it can be cancelled, or waits.

The bare ``trio.SSLStream`` of `tls` is made when it is first asked for, over the same
``SSLObject``: a stand-in for its context returns a `_Bridge` from ``wrap_bio``, which
carries bytes between the stream's BIOs and the engine. From then on every call goes
through it, because it keeps state of its own. A call that is still under way on the
direct way keeps its side of the stream until it returns: the bare stream's calls raise
``BusyResourceError`` meanwhile, as for any two tasks.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
from collections.abc import Callable
from operator import index
from typing import TypeVar, cast

import trio
from trio.lowlevel import (
    cancel_shielded_checkpoint,
    checkpoint,
    checkpoint_if_cancelled,
    wait_readable,
    wait_writable,
)

from trio_duplex._sockets.direct import is_direct
from trio_duplex._tls.bare import release
from trio_duplex._tls.engine import Engine

T = TypeVar("T")

RECEIVE_SIZE = 64 * 1024
"""Bytes to return at most, if nobody says: as many as Trio takes from a socket at once."""

MOST_OWED = 64 * 1024
"""Bytes that receiving may owe before it waits for the wire. An answer to a key update has 26."""

SEND_PIECE = 256 * 1024
"""Bytes that are encrypted at once. OpenSSL takes a millisecond for as many, and nobody
else runs meanwhile; and all that is encrypted is held in memory until it has left."""

_READ_SIZE = 256 * 1024


class _ReadBuffer(threading.local):
    """What a socket is read into: one buffer for each thread that runs Trio.

    One is enough because nothing awaits between reading and feeding, and it is reused
    because a new one for each read would be allocated and mostly thrown away.
    """

    def __init__(self) -> None:
        self.buffer = bytearray(_READ_SIZE)
        self.view = memoryview(self.buffer)


_READ = _ReadBuffer()


class Flow:
    """One TLS connection's data, after its handshake, both ways.

    It raises what ``trio.SSLStream`` would: ``trio.BrokenResourceError`` from an
    ``ssl.SSLError`` or from what the transport raised, ``trio.ClosedResourceError``,
    ``trio.BusyResourceError``.

    Args:
        transport: The raw stream.
        engine: Its handshake is done.
        https_compatible: As for ``trio.SSLStream``.
    """

    __slots__ = (
        "_bare",
        "_broken",
        "_closed",
        "_dry",
        "_receiving",
        "_sending",
        "_unsent",
        "_wire_free",
        "_wire_held",
        "engine",
        "https_compatible",
        "transport",
    )

    def __init__(
        self, transport: trio.abc.Stream, engine: Engine, *, https_compatible: bool = False
    ) -> None:
        self.transport = transport
        self.engine = engine
        self.https_compatible = https_compatible
        self._bare: trio.SSLStream[trio.abc.Stream] | None = None
        self._receiving = False
        self._sending = False
        self._wire_held = False
        self._wire_free: trio.lowlevel.ParkingLot | None = None  # made when somebody waits
        self._unsent: bytes | memoryview = b""  # taken from the engine, but not by the socket yet
        self._dry = True  # whether the last read took all that the socket had
        self._broken = False
        self._closed = False

    # ------------------------------------------------------------- the bare stream

    @property
    def tls(self) -> trio.SSLStream[trio.abc.Stream]:
        """The bare ``trio.SSLStream`` over the same transport; from now on, all goes through it."""
        if self._bare is None:
            stand_in = cast("ssl.SSLContext", _StandIn(self))  # of which only wrap_bio is called
            self._bare = trio.SSLStream(
                self.transport,
                stand_in,
                server_side=self.engine.ssl_object.server_side,
                https_compatible=self.https_compatible,
            )
            release(self._bare)  # its handshake is done
        return self._bare

    @property
    def is_bare(self) -> bool:
        """Whether `tls` has been asked for."""
        return self._bare is not None

    # ------------------------------------------------------------------- receiving

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive and decrypt some data; ``b""`` at the peer's close_notify.

        Args:
            max_bytes: The most to return, in bytes; None for `RECEIVE_SIZE`.
        """
        if self._bare is not None:
            return await self._bare.receive_some(max_bytes)
        most = RECEIVE_SIZE if max_bytes is None else index(max_bytes)
        if most < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this connection")
        self._check()
        self._receiving = True
        waited = False
        try:
            await checkpoint_if_cancelled()
            while (data := self.engine.read(most)) is None:
                if self.engine.owed or (self._unsent and not self._wire_held):
                    waited = await self._pay() or waited
                waited = await self._fill() or waited
            if self.engine.owed:
                self._push_quietly()
        except ssl.SSLError as exc:
            if self.https_compatible and isinstance(exc, ssl.SSLEOFError):
                data = b""
            else:
                self._broken = True
                raise trio.BrokenResourceError from exc.with_traceback(None)
        finally:
            self._receiving = False
        if not waited:
            await cancel_shielded_checkpoint()
        return data

    async def _fill(self) -> bool:
        """Feed the engine what the transport has; tell whether that was a checkpoint."""
        transport = self.transport
        if not is_direct(transport):
            try:
                self.engine.feed(await transport.receive_some())
            except trio.BrokenResourceError:
                self._broken = True
                raise
            return True
        waited = False
        while True:
            if self._dry:
                await wait_readable(transport.socket)
                waited = True
            try:
                count = os.readv(transport.socket.fileno(), [_READ.buffer])
            except BlockingIOError:
                self._dry = True
                continue
            except OSError as exc:
                raise self._lost(exc) from exc
            self._dry = count < _READ_SIZE
            self.engine.feed(_READ.view[:count])
            return waited

    async def _pay(self) -> bool:
        """Send what receiving owes, if it need not wait or is much; tell whether it was a checkpoint."""
        if self._bare is not None:  # made while we waited: its next call takes this along
            return False
        self._push_quietly()
        owed = self.engine.owed
        if self._wire_held:  # by a send: what is unsent is its own, and it takes this along
            return owed > MOST_OWED and await self._flush()
        owed += len(self._unsent)
        if not owed or (is_direct(self.transport) and owed <= MOST_OWED):
            return False
        return await self._flush()

    def _push_quietly(self) -> None:
        """Push what receiving owes; where that fails, the next send meets the same and is told."""
        if self._bare is None and not self._wire_held and is_direct(self.transport):
            with contextlib.suppress(OSError):
                self._push(self.transport)

    # --------------------------------------------------------------------- sending

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send all of ``data``, `SEND_PIECE` bytes at a time."""
        if self._bare is not None:
            await self._bare.send_all(data)
            return
        self._start_sending()
        try:
            await checkpoint_if_cancelled()
            view = memoryview(data).cast("B")
            sent, waited = 0, False
            while sent < len(view):
                if sent and not waited:
                    await self._let_others_run()
                self.engine.write(view[sent : sent + SEND_PIECE])
                sent += SEND_PIECE
                waited = await self._flush()
            if not waited:
                await cancel_shielded_checkpoint()
        except ssl.SSLError as exc:
            self._broken = True
            raise trio.BrokenResourceError from exc.with_traceback(None)
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the transport takes bytes."""
        if self._bare is not None:
            await self._bare.wait_send_all_might_not_block()
            return
        self._start_sending()
        try:
            await checkpoint_if_cancelled()
            await self._take_wire()
            try:
                await self.transport.wait_send_all_might_not_block()
            finally:
                self._release_wire()
        finally:
            self._sending = False

    def _start_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this connection")
        self._check()
        self._sending = True

    async def _let_others_run(self) -> None:
        """A checkpoint between two pieces; cancelled there, the data is cut."""
        try:
            await checkpoint()
        except BaseException:
            self._broken = True
            raise

    async def _flush(self) -> bool:
        """Send all that is owed, with the wire held; tell whether it was a checkpoint.

        Bytes leave the engine only here and in `_push`.
        """
        waited = await self._take_wire()
        try:
            transport = self.transport
            if is_direct(transport):
                try:
                    while self._push(transport):
                        await wait_writable(transport.socket)
                        waited = True
                except OSError as exc:
                    raise self._lost(exc) from exc
            else:
                while words := self.engine.take():
                    await transport.send_all(words)
                    waited = True
        except BaseException:
            self._broken = True  # an unknown part of it has left
            raise
        finally:
            self._release_wire()
        return waited

    def _push(self, transport: trio.SocketStream) -> bool:
        """Give a socket what it takes of what is owed; tell whether anything is left.

        Raises:
            OSError: The connection broke.
        """
        while True:
            words = self._unsent or self.engine.take()
            if not words:
                return False
            self._unsent = words  # also where the write fails: the next one meets the same
            try:
                sent = os.write(transport.socket.fileno(), words)
            except BlockingIOError:
                return True
            self._unsent = memoryview(words)[sent:] if sent < len(words) else b""

    async def _take_wire(self) -> bool:
        """Hold the wire, after whoever holds it; tell whether it was a checkpoint."""
        waited = False
        while self._wire_held:
            self._wire_free = self._wire_free or trio.lowlevel.ParkingLot()
            await self._wire_free.park()
            waited = True
            self._check()
        self._wire_held = True
        return waited

    def _release_wire(self) -> None:
        self._wire_held = False
        if self._wire_free is not None:
            self._wire_free.unpark_all()

    # --------------------------------------------------------------------- the end

    async def aclose(self) -> None:
        """Send a close_notify if that is possible, and close the transport."""
        if self._bare is not None:
            await self._bare.aclose()
            return
        if self._closed:
            await checkpoint()
            return
        if not self._broken and not self.https_compatible:
            self.engine.close_notify()
            try:
                with contextlib.suppress(trio.BrokenResourceError, trio.BusyResourceError):
                    await self._flush()
            except BaseException:
                self._closed = True
                await trio.aclose_forcefully(self.transport)
                raise
        self._closed = True
        await self.transport.aclose()

    def carry(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        function: Callable[..., T],
        *args: object,
    ) -> T:
        """Call a method of the engine's object for the bare stream, between the stream's BIOs."""
        if self._broken and self.engine.failure is None:
            raise trio.BrokenResourceError("this connection is broken")
        if incoming.pending:
            self.engine.feed(incoming.read())
        if incoming.eof:
            self.engine.feed(b"")
        try:
            return self.engine.call(function, *args)
        finally:
            if not self._wire_held:  # else whoever holds it takes this along
                outgoing.write(bytes(self._unsent) + self.engine.take())
                self._unsent = b""

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this connection was closed")
        if self._broken:
            raise trio.BrokenResourceError("this connection is broken")

    def _lost(self, error: OSError) -> Exception:
        """What to raise where the socket failed."""
        if cast("trio.SocketStream", self.transport).socket.fileno() == -1:  # closed here
            return trio.ClosedResourceError("this connection was closed")
        self._broken = True
        return trio.BrokenResourceError(f"socket connection broken: {error}")


class _StandIn:
    """Stands in an ``SSLContext``'s place, and gives the bare stream a bridge to the engine."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        *,
        server_side: bool,  # noqa: ARG002 - it is known by now
        server_hostname: str | bytes | None,  # noqa: ARG002 - likewise
    ) -> ssl.SSLObject:
        return cast("ssl.SSLObject", _Bridge(self._flow, incoming, outgoing))


class _Bridge:
    """What the bare stream takes for its ``SSLObject``: the engine's, with bytes carried to its BIOs."""

    _flow: Flow
    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO

    def __init__(self, flow: Flow, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        # Attributes of its own, because those of others are the engine's object's.
        self.__dict__.update(_flow=flow, _incoming=incoming, _outgoing=outgoing)

    def read(self, most: int, *buffer: memoryview) -> bytes | int:
        if self._flow._receiving:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            raise trio.BusyResourceError("another task is receiving on this connection")
        read: Callable[..., bytes | int] = self._flow.engine.ssl_object.read
        return self._call(read, most, *buffer)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        if self._flow._sending:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            raise trio.BusyResourceError("another task is sending on this connection")
        return self._call(self._flow.engine.ssl_object.write, data)

    def unwrap(self) -> None:
        self._call(self._flow.engine.ssl_object.unwrap)
        # What came after the close_notify is not TLS, and the stream hands it on.
        self._incoming.write(self._flow.engine.unread())

    def do_handshake(self) -> None:
        self._call(self._flow.engine.ssl_object.do_handshake)

    def _call(self, function: Callable[..., T], *args: object) -> T:
        return self._flow.carry(self._incoming, self._outgoing, function, *args)

    def __getattr__(self, name: str) -> object:
        return getattr(self._flow.engine.ssl_object, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._flow.engine.ssl_object, name, value)
