"""How a connection ends: the last words, FIN, and no close(2) that would cut them off.

Theory of operation
-------------------

close(2) on a TCP socket with unread input sends a reset and drops what the peer has not
acknowledged yet: the end of our reply, and the close_notify. The same happens if input
arrives after the close. So before it closes, `leave` sends what is left to say, then FIN,
and then waits as nginx's "lingering close" does: it reads and drops. How long depends on
what is known (`wait_for`):

* Input was unread, in TLS or in the kernel: the peer is in the middle of something. Wait
  until it hangs up, which it does when it has read our end.
* The peer has ended its side, with a FIN or a close_notify: nothing more comes, and the
  kernel delivers our end behind our back. Wait for nothing. This is how most connections end.
* Our end is not acknowledged yet: wait until it is.

The caller bounds all of it in time. What is dropped is not counted: a peer that sends to a
closing connection costs no more than one that sends to a handler.

Only a socket can be asked what it holds. On another stream, what TLS has received and
nobody has read is all that is known.
"""

from __future__ import annotations

import contextlib
import enum
import math
import socket
from typing import assert_never

import attrs
import trio

from trio_duplex._sockets.direct import is_direct, receive_nowait
from trio_duplex._sockets.queues import undelivered
from trio_duplex._tls.last_words import LAST_WORDS_TIMEOUT

DROP_SIZE = 64 * 1024
"""Bytes to read and drop at once: as many as Trio takes from a socket."""

FIRST_LOOK = 0.005
LAST_LOOK = 0.25
"""Seconds between looks whether our end has been acknowledged; each pause is twice the one
before. No event tells it. Most peers answer with a FIN before the first look, and an
acknowledgment that comes without one may be delayed by 40 ms (Linux) or 200 ms (others)."""


class Wait(enum.Enum):
    """What to wait for, after the FIN, before it is safe to close."""

    NOTHING = "nothing"
    DELIVERY = "our end is acknowledged, or the peer hangs up"
    QUIET = "nothing has come for a second, or the peer hangs up"
    HANGUP = "the peer hangs up"


@attrs.frozen
class Known:
    """What is known of the peer without asking the kernel.

    Attributes:
        unread: TLS holds something of the peer's that nobody has received.
        finished: The peer has sent its close_notify, and we have received it.
        expected: Something may be on its way that nobody will ask for, such as
            session tickets.
    """

    unread: bool = False
    finished: bool = False
    expected: bool = False


class Arrived(enum.Enum):
    """What one look at a socket's input found."""

    NOTHING = "nothing"
    DATA = "data"
    END = "the end of the stream, or a reset"


def wait_for(known: Known, arrived: Arrived, waiting: int) -> Wait:
    """Decide what to wait for before close(2).

    Args:
        known: What TLS knows.
        arrived: What was found in the socket after our last words.
        waiting: Bytes of ours that the peer has not acknowledged.
    """
    match arrived:
        case Arrived.END:
            return Wait.NOTHING
        case Arrived.DATA:
            return Wait.HANGUP
        case Arrived.NOTHING:
            pass
        case _:
            assert_never(arrived)
    if known.unread:
        return Wait.HANGUP
    if known.finished:
        return Wait.NOTHING
    if known.expected:
        return Wait.QUIET
    return Wait.DELIVERY if waiting else Wait.NOTHING


async def leave(transport: trio.abc.Stream, words: bytes, known: Known) -> None:
    """Send the last words and FIN, and wait until a close would cut nothing off.

    Does not close, has no bound in time, and is not always a checkpoint: all three are the
    caller's. Where nothing is to be waited for, it leaves the FIN to close(2).

    Raises:
        trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError:
            From the transport, as it is sent to.
    """
    if is_direct(transport):
        await _leave_socket(transport, words, known)
    else:
        await _leave_stream(transport, words, known)


async def _leave_socket(stream: trio.SocketStream, words: bytes, known: Known) -> None:
    if words:
        await stream.send_all(words)
    wait = look(stream, known)
    if wait is Wait.NOTHING:
        return
    with contextlib.suppress(OSError):
        stream.socket.shutdown(socket.SHUT_WR)
    pause = {Wait.DELIVERY: FIRST_LOOK, Wait.QUIET: LAST_WORDS_TIMEOUT}.get(wait, math.inf)
    arrived = Arrived.NOTHING
    while arrived is not Arrived.END:
        await _readable(stream, pause)
        arrived = _drop(stream)
        if arrived is Arrived.DATA and wait is Wait.DELIVERY:  # it has more to say than we knew
            wait, pause = Wait.HANGUP, math.inf
        elif arrived is Arrived.NOTHING and wait is not Wait.HANGUP:  # the pause is over
            if not undelivered(stream.socket):
                return
            pause = min(2 * pause, LAST_LOOK)


def look(stream: trio.SocketStream, known: Known) -> Wait:
    """Look at what a socket holds after our last words were sent: drop its input, and decide what to wait for."""
    wait = wait_for(known, _drop(stream), 1)
    # To ask for what is undelivered costs a call, and makes no difference to the other cases.
    if wait is Wait.DELIVERY and not undelivered(stream.socket):
        return Wait.NOTHING
    return wait


def _drop(stream: trio.SocketStream) -> Arrived:
    try:
        data = receive_nowait(stream, DROP_SIZE)
    except trio.BrokenResourceError:
        return Arrived.END
    if data is None:
        return Arrived.NOTHING
    return Arrived.DATA if data else Arrived.END


async def _readable(stream: trio.SocketStream, seconds: float) -> None:
    with trio.move_on_after(seconds):
        try:
            await trio.lowlevel.wait_readable(stream.socket)
        except (
            trio.BusyResourceError
        ):  # another task waits to receive, and will be told of our close
            await trio.sleep(min(seconds, LAST_LOOK))


async def _leave_stream(stream: trio.abc.Stream, words: bytes, known: Known) -> None:
    if words:
        await stream.send_all(words)
    wait = wait_for(known, Arrived.NOTHING, 0)
    if wait is Wait.NOTHING or not isinstance(stream, trio.abc.HalfCloseableStream):
        return
    await stream.send_eof()
    pause = LAST_WORDS_TIMEOUT if wait is Wait.QUIET else math.inf
    ended = False
    while not ended:
        ended = True
        with trio.move_on_after(pause):
            ended = not await stream.receive_some(DROP_SIZE)
