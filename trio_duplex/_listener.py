"""Many streams from one listener: accept, negotiate each on its own, hand over.

Detection never sits inside ``accept``: one silent peer would hold up everybody
behind it by a whole window. Each accepted stream gets a task, and `accept` of a
`DuplexListener` gives connections in the order in which they become *ready*.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import NoReturn, Self

import trio

from trio_duplex._connection import Connection
from trio_duplex._credentials import Credentials
from trio_duplex._errors import DuplexError
from trio_duplex._events import log_accept_failure, log_negotiation_failure, log_refused
from trio_duplex._negotiate import accept_role
from trio_duplex._take_role import DEFAULT_HANDSHAKE_TIMEOUT, Settings
from trio_duplex._window import DEFAULT_WINDOW

CAPACITY_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""What accept(2) says when the machine has no room for one more."""

CAPACITY_PAUSE = 0.1
"""Seconds until the next try after that: Trio's own figure."""


async def accept_each(
    listener: trio.abc.Listener[trio.abc.Stream], start: Callable[[trio.abc.Stream], object]
) -> NoReturn:
    """Accept for ever; ``start`` is called with each stream and does not block.

    Raises:
        OSError: ``accept`` failed for good. Where it only lacks room, it is
            tried again after `CAPACITY_PAUSE` seconds.
        trio.ClosedResourceError: The listener was closed.
    """
    while True:
        try:
            stream = await listener.accept()
        except OSError as exc:
            if exc.errno not in CAPACITY_ERRNOS:
                raise
            log_accept_failure(exc, CAPACITY_PAUSE)
            await trio.sleep(CAPACITY_PAUSE)
        else:
            start(stream)


async def negotiate_or_log(
    stream: trio.abc.Stream, credentials: Credentials, settings: Settings
) -> Connection | None:
    """Negotiate; whatever fails is logged and costs this stream alone."""
    try:
        return await accept_role(stream, credentials, settings)
    except DuplexError as exc:
        log_refused(exc)
    except Exception as exc:  # noqa: BLE001 - a bug of ours or of the user's context: one connection
        log_negotiation_failure(exc)
    return None


class DuplexListener(trio.abc.Listener[Connection]):
    """A listener whose `accept` gives negotiated connections.

    ``trio.serve_listeners(handler, [DuplexListener(listener, credentials)])``
    works, as does every framework that takes a Trio listener. The negotiations
    need a nursery to run in: either the listener's own, which lives from
    ``async with listener`` to its end (``trio.serve_listeners`` enters it), or
    the one that you pass.

    What fails in a negotiation is logged, and costs its own connection alone.

    Args:
        listener: Any listener of streams. It is closed with this one.
        credentials: What we present and whom we trust, for both roles.
        window: The detection window, in seconds.
        handshake_timeout: Seconds for each handshake.
        https_compatible: As for `negotiate`.
        nursery: The nursery for the negotiations; None to use the listener's
            own.

    Attributes:
        transport_listener: The listener underneath.

    Raises:
        ValueError: A duration is negative or NaN.
    """

    def __init__(
        self,
        listener: trio.abc.Listener[trio.abc.Stream],
        credentials: Credentials,
        *,
        window: float = DEFAULT_WINDOW,
        handshake_timeout: float = DEFAULT_HANDSHAKE_TIMEOUT,
        https_compatible: bool = False,
        nursery: trio.Nursery | None = None,
    ) -> None:
        self.transport_listener = listener
        self._credentials = credentials
        self._settings = Settings(window, handshake_timeout, https_compatible)
        self._nursery = nursery
        self._own_nursery: AbstractAsyncContextManager[trio.Nursery, bool | None] | None = None
        # Closing cancels this, because a nursery that was passed in is not
        # ours to cancel.
        self._scope = trio.CancelScope()
        self._accepting = False
        self._closed = False
        self._ready_in, self._ready_out = trio.open_memory_channel[Connection | OSError](0)

    async def __aenter__(self) -> Self:
        if self._nursery is None:
            self._own_nursery = trio.open_nursery()
            self._nursery = await self._own_nursery.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.aclose()
        finally:
            if self._own_nursery is not None and self._nursery is not None:
                self._nursery.cancel_scope.cancel()
                # The nursery is not shown the exception, which it would wrap
                # in a group of its own.
                await self._own_nursery.__aexit__(None, None, None)

    async def accept(self) -> Connection:
        """Wait for the next connection that is ready.

        Raises:
            OSError: The transport listener failed; what ``trio.serve_listeners``
                knows to be passing (``EMFILE`` and its kin) may be tried again.
            trio.ClosedResourceError: The listener was closed.
            RuntimeError: There is no nursery: neither ``async with`` nor
                ``nursery=`` was used.
        """
        if self._closed:
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError("this listener was already closed")
        if self._nursery is None:
            raise RuntimeError(
                "a DuplexListener negotiates in the background: use it in 'async with', "
                "or pass nursery="
            )
        if not self._accepting:
            self._accepting = True
            self._nursery.start_soon(self._run)
        try:
            ready = await self._ready_out.receive()
        except trio.EndOfChannel:
            raise trio.ClosedResourceError("this listener was closed") from None
        if isinstance(ready, OSError):
            raise ready
        return ready

    async def aclose(self) -> None:
        """Close the transport listener and drop what is not ready or not fetched yet."""
        self._closed = True
        self._scope.cancel()
        self._ready_in.close()
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self.transport_listener)
        await trio.lowlevel.checkpoint()

    async def _run(self) -> None:
        """Accept and negotiate until closed; errors go to whoever calls `accept`."""
        with self._scope:
            async with trio.open_nursery() as negotiations:

                def start(stream: trio.abc.Stream) -> None:
                    negotiations.start_soon(self._negotiate, stream)

                while True:
                    try:
                        await accept_each(self.transport_listener, start)
                    except OSError as exc:
                        await self._ready_in.send(exc)
                    except trio.ClosedResourceError:  # closed underneath us
                        self._ready_in.close()
                        return

    async def _negotiate(self, stream: trio.abc.Stream) -> None:
        connection = await negotiate_or_log(stream, self._credentials, self._settings)
        if connection is None:
            return
        try:
            await self._ready_in.send(connection)
        except BaseException as exc:  # closed or cancelled before anybody took it
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(connection)
            if not isinstance(exc, trio.ClosedResourceError):
                raise
