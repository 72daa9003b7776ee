"""Joining two streams: forwarding bytes both ways, and reporting which end broke."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Generator
from functools import partial

import attrs
import trio

PIECE = 64 * 1024
"""The most bytes held in each direction; after that, a slow receiver slows its sender down."""

ANSWERED_PATIENCE, UNANSWERED_PATIENCE = 5.0, 60.0
"""Seconds without a byte from the answering end until a pair is closed whose asking end has sent its
end. One that has hung up and one that has only ended its sending look alike, and where the answering
end is TLS, it can be told of neither: TLS as Trio has it ends both ways at once. An end that was
answered since it last spoke has hung up, most likely; one that was not waits for its answer."""


class BrokenEndError(Exception):
    """One end of a pair broke.

    Args:
        end: Its name.
        why: What happened, in words.
    """

    def __init__(self, end: str, why: str) -> None:
        super().__init__(end, why)
        self.end = end
        self.why = why


@attrs.frozen
class End:
    """One end of a pair.

    Attributes:
        name: For errors.
        receive: Receives some bytes; none at the end.
        send: Sends all bytes.
        send_eof: Says that nothing more is sent; None where it can't be said.
    """

    name: str
    receive: Callable[[], Awaitable[bytes | bytearray]]
    send: Callable[[bytes | bytearray], Awaitable[None]]
    send_eof: Callable[[], Awaitable[None]] | None = None

    @classmethod
    def of(cls, name: str, stream: trio.abc.Stream) -> End:
        """Make one of a stream."""
        ends = stream.send_eof if isinstance(stream, trio.abc.HalfCloseableStream) else None
        return cls(name, partial(stream.receive_some, PIECE), stream.send_all, ends)


class Pair:
    """Forwards between two ends.

    Args:
        asking: The end that speaks first in most protocols. That it sends no
            more is told to the other where it can be.
        answering: The end whose end is the end of both.

    Attributes:
        sent: Bytes from the asking end.
        received: Bytes from the answering end.
    """

    def __init__(self, asking: End, answering: End) -> None:
        self._asking = asking
        self._answering = answering
        self.sent = 0
        self.received = 0
        self._spoken = self._heard = 0.0

    async def forward(self, first: bytes | bytearray = b"") -> None:
        """Forward until the answering end has ended, or is asked no more and says nothing more.

        Args:
            first: What the asking end has said already.

        Raises:
            BrokenEndError: One of the two broke; in a group.
        """
        self._spoken = self._heard = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask, first, nursery.cancel_scope)
            while data := await _receive(self._answering):
                self._heard = trio.current_time()
                self.received += len(data)
                await _send(self._asking, data)
            nursery.cancel_scope.cancel()

    async def _ask(self, data: bytes | bytearray, scope: trio.CancelScope) -> None:
        data = data or await _receive(self._asking)
        while data:
            self._spoken = trio.current_time()
            await _send(self._answering, data)
            self.sent += len(data)
            data = await _receive(self._asking)
        if self._answering.send_eof is not None:
            with _blame(self._answering):
                await self._answering.send_eof()
        while True:
            answered = self._heard > self._spoken
            patience = ANSWERED_PATIENCE if answered else UNANSWERED_PATIENCE
            left = max(self._heard, self._spoken) + patience - trio.current_time()
            if left <= 0:
                break
            await trio.sleep(left)
        scope.cancel()


async def _receive(end: End) -> bytes | bytearray:
    with _blame(end):
        return await end.receive()


async def _send(end: End, data: bytes | bytearray) -> None:
    with _blame(end):
        await end.send(data)


@contextlib.contextmanager
def _blame(end: End) -> Generator[None]:
    try:
        yield
    except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        raise BrokenEndError(end.name, str(exc) or str(exc.__cause__ or "closed")) from exc


def first_error(group: BaseExceptionGroup[BrokenEndError]) -> BrokenEndError:
    """Return the first exception of a group; where that is a group too, the first of that one."""
    error: BaseExceptionGroup[BrokenEndError] | BrokenEndError = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
