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
   left. The stream is *cut* then, and nothing follows: no data, alert or close_notify. So
   is one whose `send_all` was cancelled between two of its pieces: records are whole there,
   but what they carry is not.
4. *Receiving*, *sending* and the wire are three different things. A second receive
   while one runs is a conflict, and so is a second send; both raise
   ``BusyResourceError``. The wire is not: a receive that answers a key update holds it
   for a moment, and a send that begins meanwhile waits its turn.
5. What a receive owes (a key update's answer, the refusal of a renegotiation) is pushed
   into the socket as far as it fits, and otherwise left to whoever sends next. It is
   bounded: a peer that makes us owe more than `MOST_OWED` bytes is not read from
   until the wire has taken them.
6. A close_notify that was read ahead, together with data, is delivered after the data.
7. A call that returns has let others run exactly once, or has waited; and it can be cancelled
   before it has done anything.
8. `aclose` waits for a send that is under way. A close_notify between two of its pieces would
   make a part look whole.

The bare ``trio.SSLStream`` of `tls` is made when it is first asked for, over the same
``SSLObject``: a stand-in for its context returns a `_Bridge` from ``wrap_bio``, which
carries bytes between the stream's BIOs and the engine. From then on every call goes
through it, because it keeps state of its own. A call that is still under way on the
direct way keeps its side of the stream until it returns: the bare stream's calls raise
``BusyResourceError`` meanwhile, as for any two tasks. A fatal error stays with the engine, and
its alert too, even if the failing call was made on the bare stream.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
from collections.abc import Callable
from operator import index
from typing import TypeVar, cast

import attrs
import trio
from trio.lowlevel import (
    cancel_shielded_checkpoint,
    checkpoint,
    checkpoint_if_cancelled,
    wait_readable,
    wait_writable,
)

from trio_duplex._sockets.direct import is_direct
from trio_duplex._sockets.queues import reset_at_close
from trio_duplex._tls.bare import release
from trio_duplex._tls.buffer import make_buffer
from trio_duplex._tls.ending import FIRST_LOOK, Known, Wait, leave, look
from trio_duplex._tls.engine import PART, Engine
from trio_duplex._tls.last_words import LAST_WORDS_TIMEOUT, send_last_words

T = TypeVar("T")

RECEIVE_SIZE = 256 * 1024
"""The most bytes to return, by default. What comes in larger pieces costs less: 256 KiB in one
receive take three quarters of the CPU time that they take in four."""

MOST_PIECES = 16
"""Pieces that are given to a socket at once; more are joined. ``writev`` takes IOV_MAX, 1,024 on Linux."""

MOST_OWED = 64 * 1024
"""Bytes that receiving may owe before it waits for the wire. An answer to a key update has 26."""

SEND_PIECE = 64 * 1024
"""Bytes that are encrypted at once. They are encrypted in one go, while nobody else runs, and
OpenSSL's buffer grows to hold them: 200 MB at once took a second and a half, and 400 MB.
In pieces of this size it is also three times as fast; smaller ones gain nothing more."""

BATCH = 4 * SEND_PIECE
"""Bytes that are given to a socket at once, which takes a fifth less CPU time than piece by piece. A
send that has to wait for the peer holds as many. Encrypting them takes a quarter of a millisecond;
after that, a send that did not have to wait lets others run."""

_READ_SIZE = 256 * 1024
"""Bytes to take from a socket at once, at most, where as many are asked for and much is coming; else `PART`."""


class _ReadBuffer(threading.local):
    """What a socket is read into: one buffer for each thread that runs Trio.

    One is enough because nothing awaits between reading and feeding, and it is reused
    because a new one for each read would be allocated and mostly thrown away.
    """

    def __init__(self) -> None:
        self.view = make_buffer(_READ_SIZE)


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

    Attributes:
        sent: Bytes of data that the transport has taken.
        notes_time: Whether to note when.
        last_sent: When it took some last, on Trio's clock; 0 if that was not noted.
        cut: Whether a send ended half-way: nothing may follow it.
        ended: Whether `send_eof` has been called.
    """

    __slots__ = (
        "_bare",
        "_bridge",
        "_broken",
        "_closed",
        "_closing",
        "_dry",
        "_free",
        "_plenty",
        "_receiving",
        "_sending",
        "_socket",
        "_through_bare",
        "_unsent",
        "_wire_held",
        "cut",
        "ended",
        "engine",
        "https_compatible",
        "last_sent",
        "notes_time",
        "sent",
        "transport",
    )

    def __init__(
        self, transport: trio.abc.Stream, engine: Engine, *, https_compatible: bool = False
    ) -> None:
        self.transport = transport
        self.engine = engine
        self.https_compatible = https_compatible
        self.sent = 0
        self.notes_time = False
        self.last_sent = 0.0
        self.cut = False
        self.ended = False
        self._socket = transport.socket if is_direct(transport) else None
        self._bare: trio.SSLStream[trio.abc.Stream] | None = None
        self._bridge: _Bridge | None = None
        self._receiving = False
        self._sending = False
        self._through_bare = False  # a send of ours is under way on the bare stream
        self._wire_held = False
        self._free: trio.lowlevel.ParkingLot | None = None  # made when a task waits
        # What was taken from the engine, and not by the socket yet, in order.
        self._unsent: list[bytes | memoryview] = []
        self._dry = True  # whether the last read took all that the socket had
        self._plenty = False  # whether the last receive gave much data
        self._broken = False  # by a close_notify, or because the transport ended
        self._closing = False
        self._closed = False

    # ------------------------------------------------------------- the bare stream

    @property
    def tls(self) -> trio.SSLStream[trio.abc.Stream]:
        """The bare ``trio.SSLStream`` over the same transport; from now on, all goes through it."""
        if self._bare is None:
            self._bare = self._closed_stream() if self._closed else self._open_stream()
            release(self._bare)  # its handshake is done
        return self._bare

    @property
    def bare(self) -> trio.SSLStream[trio.abc.Stream] | None:
        """The stream of `tls`, if it has been asked for."""
        return self._bare

    def _open_stream(self) -> trio.SSLStream[trio.abc.Stream]:
        stand_in = _StandIn(self)
        stream = trio.SSLStream(
            self.transport,
            cast("ssl.SSLContext", stand_in),  # of which only wrap_bio is called
            server_side=self.engine.ssl_object.server_side,
            https_compatible=self.https_compatible,
        )
        self._bridge = stand_in.bridge
        return stream

    def _closed_stream(self) -> trio.SSLStream[trio.abc.Stream]:
        """Return a closed bare stream, because ours is closed. Closing it never waits."""
        stand_in = _StandIn(self)
        stream: trio.SSLStream[trio.abc.Stream] = trio.SSLStream(
            _Gone(), cast("ssl.SSLContext", stand_in), https_compatible=True
        )
        stand_in.bridge.detach()
        with contextlib.suppress(StopIteration):
            stream.aclose().send(None)
        stream.transport_stream = self.transport
        return stream

    @property
    def is_unwrapped(self) -> bool:
        """Whether ``tls.unwrap()`` has given the transport back to its owner."""
        # What trio.SSLStream does, and its type does not say.
        return self._bare is not None and cast("object", self._bare.transport_stream) is None

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
        self._check(receiving=True)
        self._receiving = True
        engine, waited = self.engine, False
        try:
            await checkpoint_if_cancelled()
            if engine.owed > MOST_OWED:
                waited = await self._pay()
            rested = True
            while (data := engine.read(most)) is None:
                if not rested:  # a whole buffer without data, such as key updates
                    await checkpoint()
                    waited = True
                if engine.owed or self._unsent:
                    waited = await self._pay() or waited
                rested = await self._fill(most)
                waited = rested or waited
            if engine.owed:
                self._push_quietly()
            self._plenty = len(data) > PART // 2
        except ssl.SSLError as exc:
            if not self.https_compatible or not isinstance(exc, ssl.SSLEOFError):
                self._broken = True
                raise trio.BrokenResourceError from exc.with_traceback(None)
            data = b""
        finally:
            self._receiving = False
        if not waited:
            await cancel_shielded_checkpoint()
        return data

    async def _fill(self, most: int) -> bool:
        """Feed the engine what the transport has; tell whether that was a checkpoint.

        Args:
            most: Bytes of data that were asked for. About as many are taken from a socket.
        """
        if self._socket is None:
            try:
                data = await self.transport.receive_some()
            except trio.BrokenResourceError:
                self._broken = True
                raise
            if data:
                self.engine.feed_and_decrypt(data)
            else:
                self.engine.feed_eof()
            return True
        waited = False
        # Much is taken only after much data: records without data cost more to read, byte for byte.
        size = min(most, _READ_SIZE) if self._plenty and most > PART else PART
        self._plenty = False
        while True:
            try:
                if self._dry:
                    if self._socket.fileno() == -1:  # Trio would take -1 for a descriptor
                        raise trio.ClosedResourceError("this connection was closed")
                    await wait_readable(self._socket)
                    waited = True
                count = os.readv(self._socket.fileno(), [_READ.view[:size]])
            except BlockingIOError:
                self._dry = True
                continue
            except OSError as exc:
                raise self._lost(exc) from exc
            self._dry = count < size
            if count:
                self.engine.feed_and_decrypt(_READ.view[:count])
            else:
                self.engine.feed_eof()
            return waited

    async def _pay(self) -> bool:
        """Send what receiving owes, if that does not wait, or if it is much; return whether it was a checkpoint."""
        if self._bare is not None:  # made while we waited: its next call takes this along
            return False
        if self._wire_held:  # the task that holds it sends this, too
            return self.engine.owed > MOST_OWED and await self._flush()
        if self._socket is not None:
            self._push_quietly()
            if self.engine.owed + sum(map(len, self._unsent)) <= MOST_OWED:
                return False
        return await self._flush()

    def _push_quietly(self) -> None:
        """Push what receiving owes. If that fails, the next send fails likewise, and raises it."""
        if not (self._bare is not None or self._wire_held or self.cut or self._closing):
            with contextlib.suppress(OSError):
                self._push()

    # --------------------------------------------------------------------- sending

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send all of ``data``, at most `BATCH` bytes at a time."""
        if self.cut or self.ended:  # a task that calls this in a loop must let others run
            await checkpoint()
            self._check()
            raise trio.ClosedResourceError("send_eof was called on this connection")
        self._start_sending()
        try:
            await checkpoint_if_cancelled()
            if type(data) is bytes and len(data) <= SEND_PIECE:  # as most are
                waited = bool(data) and await self._send_piece(data)
            else:
                waited = await self._send_pieces(data)
            if not waited:
                await cancel_shielded_checkpoint()
        except ssl.SSLError as exc:
            self._broken = True
            raise trio.BrokenResourceError from exc.with_traceback(None)
        finally:
            self._end_sending()

    def _start_sending(self) -> None:
        if self._sending or self._through_bare:
            raise trio.BusyResourceError("another task is sending on this connection")
        self._check()
        if self._bare is None:
            self._sending = True
        else:
            self._through_bare = True

    def _end_sending(self) -> None:
        self._sending = self._through_bare = False
        if self._free is not None:
            self._free.unpark_all()

    async def _send_pieces(self, data: bytes | bytearray | memoryview) -> bool:
        waited = False
        with memoryview(data) as view:
            if not view.nbytes:  # which can't be cast
                return False
            size = BATCH if self._socket is not None and not self._through_bare else SEND_PIECE
            with view.cast("B") as octets:
                for start in range(0, len(octets), size):
                    try:
                        if start and not start % BATCH and not waited:
                            await checkpoint()
                        with octets[start : start + size] as batch:
                            waited = await self._send_piece(batch)
                    except (trio.Cancelled, KeyboardInterrupt):
                        self.cut = True
                        raise
        return waited

    async def _send_piece(self, piece: bytes | memoryview) -> bool:
        if self._through_bare:
            waited = await self._send_through_bare(piece)
        else:
            if len(piece) <= SEND_PIECE:
                self.engine.write(piece)
            else:
                self._encrypt_in_pieces(piece)
            if self._socket is None or self._wire_held:
                try:
                    waited = await self._flush()
                except (trio.Cancelled, KeyboardInterrupt):
                    self.cut = (
                        True  # also where it waited for the wire: the piece is encrypted, and owed
                    )
                    raise
            else:
                try:
                    waited = self._push() and await self._flush()
                except OSError as exc:
                    raise self._lost(exc) from exc
        self.sent += len(piece)
        if self.notes_time:
            self.last_sent = trio.current_time()
        return waited

    def _encrypt_in_pieces(self, batch: bytes | memoryview) -> None:
        """Encrypt a batch for a socket, so that the engine's buffer grows to hold only one piece."""
        with memoryview(batch) as whole:
            for start in range(0, len(whole), SEND_PIECE):
                with whole[start : start + SEND_PIECE] as piece:
                    self.engine.write(piece)
                self._unsent.append(self.engine.take())

    async def _send_through_bare(self, piece: bytes | memoryview) -> bool:
        assert self._bare is not None
        assert self._bridge is not None
        before = self._bridge.writes
        try:
            await self._bare.send_all(piece)
        except BaseException:
            if self._bridge.writes != before and self.engine.failure is None:
                self.cut = True
            raise
        return True

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the transport takes bytes."""
        self._start_sending()
        try:
            if self._bare is not None:
                await self._bare.wait_send_all_might_not_block()
                return
            await checkpoint_if_cancelled()
            await self._take_wire()
            try:
                self._check()
                await self.transport.wait_send_all_might_not_block()
            finally:
                self._release_wire()
        finally:
            self._end_sending()

    async def send_eof(self) -> None:
        """Send a close_notify: we will send nothing more. Receiving goes on."""
        self._start_sending()
        try:
            await checkpoint_if_cancelled()
            waited = False
            if not self.ended:
                self.engine.half_close()
                self.ended = True
                waited = await (self._flush() if self._bare is None else self._flush_past_bare())
            if not waited:
                await cancel_shielded_checkpoint()
        except ssl.SSLError as exc:
            raise trio.BrokenResourceError from exc.with_traceback(None)
        finally:
            self._end_sending()

    def _bare_turn(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Wait until the bare stream has sent the records that it has taken from the engine.

        It takes them before it waits for its lock, so only that lock keeps the order. It is private
        to Trio. Where a Trio has none such, the order is lost only if two tasks send in one pass.
        """
        lock = getattr(self._bare, "_inner_send_lock", None)
        return contextlib.nullcontext() if lock is None else lock

    async def _flush_past_bare(self) -> bool:
        words = self._take_all()
        while words:
            try:
                # What the bare stream has taken, and not sent yet, has its turn first.
                async with self._bare_turn():
                    await self.transport.send_all(words)
                words = b""
            except (
                trio.BusyResourceError
            ):  # a receive that answers a key update, or a call on `tls`
                await trio.sleep(FIRST_LOOK)
            except BaseException:
                self.cut = True
                raise
        return True

    async def _flush(self) -> bool:
        """Send all that is owed, with the wire held; tell whether it was a checkpoint.

        Bytes leave the engine only here, in `_push`, and with the last words.
        """
        waited = await self._take_wire()
        try:
            if self.cut:
                raise trio.BrokenResourceError
            if self._socket is None:
                while words := self.engine.take():
                    await self.transport.send_all(words)
                    waited = True
            else:
                try:
                    while self._push():
                        await wait_writable(self._socket)
                        waited = True
                except OSError as exc:
                    raise self._lost(exc) from exc
        except BaseException:
            self.cut = True  # an unknown part of it has left
            raise
        finally:
            self._release_wire()
        return waited

    def _push(self) -> bool:
        """Give a socket what it takes of what is owed; tell whether anything is left.

        Raises:
            OSError: The connection broke.
        """
        if self._socket is None:
            return True
        unsent = self._unsent
        while True:
            if words := self.engine.take():
                unsent.append(words)  # also where the write fails: the next one meets the same
            if not unsent:
                return False
            if len(unsent) > MOST_PIECES:
                unsent[:] = [b"".join(unsent)]
            try:
                sent = os.writev(self._socket.fileno(), unsent)
            except BlockingIOError:
                return True
            if self.notes_time:
                self.last_sent = trio.current_time()
            while unsent and sent >= len(unsent[0]):
                sent -= len(unsent.pop(0))
            if sent:
                unsent[0] = memoryview(unsent[0])[sent:]

    def _take_all(self) -> bytes:
        """Take all that is to leave, to send it in some other way."""
        words = b"".join([*self._unsent, self.engine.take()])
        self._unsent.clear()
        return words

    async def _take_wire(self) -> bool:
        """Wait until the wire is free, and hold it; return whether it was a checkpoint."""
        waited = False
        while self._wire_held:
            await self._until_free()
            waited = True
        self._wire_held = True
        return waited

    def _release_wire(self) -> None:
        self._wire_held = False
        if self._free is not None:
            self._free.unpark_all()

    async def _until_free(self) -> None:
        """Wait until the wire is released, or a send is over."""
        self._free = self._free or trio.lowlevel.ParkingLot()
        await self._free.park()

    # --------------------------------------------------------------------- the end

    def close_nowait(self, known: Known) -> Known | None:
        """Close as `aclose` does, where nothing is to be waited for, as after most handlers.

        That saves a cancel scope, a pass of the scheduler and several coroutines.

        Returns:
            None if the connection is closed. Otherwise what is known now, for `aclose`, which then does
            the rest: what has been said is not said again.
        """
        transport = self.transport
        if (
            not is_direct(transport)
            or self._socket is None
            or self._bare is not None
            or self._sending
            or self._wire_held
            or self._closing
            or self._broken
            or self.cut
            or self.https_compatible
            or self.engine.failure is not None
        ):
            return known
        self._closing = True  # from here on nothing else may be sent
        self.engine.close_notify()
        try:
            if self._push():
                return known
            wait = look(transport, known)
        except (OSError, trio.ClosedResourceError):  # the transport was closed, perhaps by its user
            return known  # `leave` meets the same
        if wait is not Wait.NOTHING:
            return attrs.evolve(known, unread=True) if wait is Wait.HANGUP else known
        self._closed = True
        self._socket.close()
        if self._free is not None:
            self._free.unpark_all()
        return None

    async def aclose(self, known: Known | None = None) -> None:
        """Send a close_notify as `leave` does, and close the transport. If cancelled, only close it.

        Args:
            known: What is known of the peer beside what TLS has unread.
        """
        if self._closed or self.is_unwrapped:
            await checkpoint()
            return
        self._closing = True
        try:
            await checkpoint_if_cancelled()
            # They would look like a normal end, or not be read.
            while (self._sending or self._through_bare) and not self.cut:
                await self._until_free()
            if not self.cut:
                await self._leave(known or Known())
        finally:
            await self._close_transport()

    async def _leave(self, known: Known) -> None:
        if self._broken or self.engine.failure is not None:
            if self.engine.failure is not None:
                await self.send_alert()
            return
        if not self.https_compatible:
            self.engine.close_notify()
        await self._take_wire()
        try:
            if self._bare is None:  # whose own send may be under way on the transport
                with contextlib.suppress(OSError):  # `leave` meets the same
                    self._push()  # mostly it fits, and a pass of the scheduler is saved
            words = self._take_all()
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                left = False
                while not left:
                    try:
                        if words and self._bare is not None:
                            async with self._bare_turn():
                                await self.transport.send_all(words)
                            words = b""
                        await leave(self.transport, words, known)
                        left = True
                    except trio.BusyResourceError:  # a send on the bare stream, or on the transport
                        await trio.sleep(FIRST_LOOK)
        finally:
            self._release_wire()

    async def close_by_force(self) -> None:
        """Close at once, in such a way that the peer does not take it for a normal end."""
        if not self.is_unwrapped:
            self.cut = True
            with trio.CancelScope() as scope:
                scope.cancel()
                await self.aclose()

    async def _close_transport(self) -> None:
        if self._sending or self._through_bare:
            self.cut = True
        if self.cut and self.https_compatible:  # the peer takes a FIN for a normal end
            reset_at_close(self.transport)
        self._closing = self._closed = True
        try:
            await (self.transport if self._bare is None else self._bare).aclose()
        finally:
            if self._bridge is not None:
                self._bridge.detach()  # it refers to us, and we to it
            if self._free is not None:
                self._free.unpark_all()

    async def send_alert(self) -> None:
        """Send the alert of a fatal error as `send_last_words` does.

        While another task is sending, that task takes it along.
        """
        if self._wire_held or self.cut:
            return
        self._wire_held = True
        try:
            words = self._take_all()
            if not await send_last_words(self.transport, words):
                self._unsent.insert(0, words)
        finally:
            self._release_wire()

    async def unread_alert(self) -> ssl.SSLError | None:
        """What the peer said before a send of ours broke."""
        with (
            trio.move_on_after(LAST_WORDS_TIMEOUT),
            contextlib.suppress(
                trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError
            ),
        ):
            while data := await self.transport.receive_some():
                self.engine.feed(data)
                try:
                    if self.engine.read(1) is not None:
                        break
                except ssl.SSLError as exc:
                    return exc.with_traceback(None)
        return None

    def carry(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        function: Callable[..., T],
        *args: object,
    ) -> T:
        """Have the engine do something for the bare stream, between the stream's BIOs."""
        if self.cut or (self._broken and self.engine.failure is None):
            raise trio.BrokenResourceError("this connection is broken")
        if incoming.pending:
            self.engine.feed(incoming.read())
        if incoming.eof:
            self.engine.feed_eof()
        try:
            return function(*args)
        finally:
            # Whoever holds the wire takes along what is owed; and an alert, which the stream
            # would forget, is for `send_alert`.
            if not self._wire_held and self.engine.failure is None:
                outgoing.write(self._take_all())

    def _check(self, *, receiving: bool = False) -> None:
        if not (self._closing or self._broken or self.cut):
            return
        if self._closing:
            raise trio.ClosedResourceError("this connection was closed")
        if self.engine.failure is None:
            raise trio.BrokenResourceError
        if (
            not receiving
        ):  # the stream finds out by itself, and takes a ragged end for a clean one if told to
            raise trio.BrokenResourceError from self.engine.failure

    def _lost(self, error: OSError) -> Exception:
        """Return the error to raise when the socket failed."""
        if self._socket is not None and self._socket.fileno() == -1:  # closed here
            return trio.ClosedResourceError("this connection was closed")
        self._broken = True
        return trio.BrokenResourceError(f"socket connection broken: {error}")


class _Gone(trio.abc.Stream):
    """The transport of a stream that is closed when it is made."""

    async def aclose(self) -> None:
        """Nothing is left to close, so this is not a checkpoint."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 - Trio's
        raise trio.ClosedResourceError

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:  # noqa: ARG002
        raise trio.ClosedResourceError

    async def wait_send_all_might_not_block(self) -> None:
        raise trio.ClosedResourceError


class _StandIn:
    """Takes an ``SSLContext``'s place, and gives the bare stream a bridge to the engine."""

    bridge: _Bridge

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
        self.bridge = _Bridge(self._flow, incoming, outgoing)
        return cast("ssl.SSLObject", self.bridge)


class _Bridge:
    """What the bare stream takes for its ``SSLObject``: the engine's, with bytes carried to its BIOs."""

    _flow: Flow | None
    _engine: Engine
    _ssl_object: ssl.SSLObject
    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO
    writes: int

    def __init__(self, flow: Flow, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        # Attributes of its own, because those of others are the engine's object's.
        self.__dict__.update(
            _flow=flow,
            _engine=flow.engine,
            _ssl_object=flow.engine.ssl_object,
            _incoming=incoming,
            _outgoing=outgoing,
            writes=0,
        )

    def detach(self) -> None:
        """Forget the flow, which is closed. Only the facts of the connection are kept."""
        self.__dict__["_flow"] = None

    def read(self, most: int) -> bytes | bytearray:
        if self._flow is not None and self._flow._receiving:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            raise trio.BusyResourceError("another task is receiving on this connection")
        data = self._call(self._engine.read, most)
        if data is None:
            raise ssl.SSLWantReadError
        return data

    def write(self, data: bytes | bytearray | memoryview) -> int:
        if self._flow is not None and self._flow._sending:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            raise trio.BusyResourceError("another task is sending on this connection")
        self.__dict__["writes"] += 1
        written: int = self._call(self._engine.call, self._ssl_object.write, data)
        return written

    def unwrap(self) -> None:
        if self._flow is None or self._flow._closed:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            raise trio.BrokenResourceError("all was said when this connection was closed")
        self._call(self._engine.unwrap)
        # What came after the close_notify is not TLS; ``unwrap()`` returns it.
        self._incoming.write(self._flow.engine.unread())

    def do_handshake(self) -> None:
        self._call(self._engine.call, self._ssl_object.do_handshake)

    def _call(self, function: Callable[..., T], *args: object) -> T:
        if self._flow is None:
            raise trio.ClosedResourceError("this connection was closed")
        return self._flow.carry(self._incoming, self._outgoing, function, *args)

    def __getattr__(self, name: str) -> object:
        return getattr(self._ssl_object, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._ssl_object, name, value)
