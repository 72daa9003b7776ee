"""`DuplexListener`: a Trio listener of negotiated connections, for frameworks that take a listener.

`accept` returns connections in the order in which they become *ready*, because each is
negotiated separately, in the background; see `_serve/acceptor.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

import attrs
import trio

from trio_duplex._decision.policy import Window
from trio_duplex._decision.window import DEFAULT_WINDOW
from trio_duplex._events.events import Observer
from trio_duplex._events.probes import Network
from trio_duplex._serve.acceptor import CAPACITY_PAUSE, Acceptor, Listener
from trio_duplex._serve.limits import Limits
from trio_duplex._serve.room import Place
from trio_duplex._serve.waiting_room import WaitingRoom
from trio_duplex._stream.connection import Connection
from trio_duplex._stream.settings import DEFAULT_HANDSHAKE_TIMEOUT, SessionFinder, Settings
from trio_duplex._tls.handshake import MAX_CERTIFICATE_BYTES
from trio_duplex._trust.credentials import Credentials


class DuplexListener(trio.abc.Listener[Connection]):
    """A listener whose `accept` returns negotiated connections.

    ``trio.serve_listeners(handler, [DuplexListener(listener, credentials)])``
    works, and so does every framework that takes a Trio listener. The negotiations
    need a nursery to run in: either the listener's own, which exists during
    ``async with listener`` (``trio.serve_listeners`` enters it), or one that you
    pass.

    If a negotiation fails, that is logged, and affects only its own connection.

    Args:
        listener: Any listener of streams. It is closed with this one.
        credentials: What we present and whom we trust, for both roles.
        window: The detection window: seconds or a policy, as for `serve_listeners`.
        handshake_timeout: Seconds for each handshake; as for `serve_listeners`.
        https_compatible: Let the peer end the stream without a close_notify,
            as HTTPS peers do, and send none.
        session: A function that takes a peer's remote address, and returns the
            TLS session to resume with it, or None.
        max_certificate_bytes: How many bytes of a handshake the peer may send
            after its hello, nearly all of them its certificates.
        announcements: Whether to understand a dialler's announcement that it
            will be the TLS server. We are then the TLS client at once.
        limits: Bounds on pending peers and handshakes. A connection counts
            until `accept` has returned it.
        observers: Functions that are called with every event. One that raises
            is not called any more.
        muted_networks: Networks of health checks in CIDR notation, whose peers
            are logged at DEBUG.
        nursery: The nursery for the negotiations; None to use the listener's
            own.

    Attributes:
        transport_listener: The underlying listener.

    Raises:
        ValueError: A duration is negative or NaN.
        TypeError: ``credentials`` is not a `Credentials`.
    """

    def __init__(
        self,
        listener: Listener,
        credentials: Credentials,
        *,
        window: Window = DEFAULT_WINDOW,
        handshake_timeout: float = DEFAULT_HANDSHAKE_TIMEOUT,
        https_compatible: bool = False,
        session: SessionFinder | None = None,
        max_certificate_bytes: int = MAX_CERTIFICATE_BYTES,
        announcements: bool = True,
        limits: Limits | None = None,
        observers: Iterable[Observer] = (),
        muted_networks: Iterable[str | Network] = (),
        nursery: trio.Nursery | None = None,
    ) -> None:
        self.transport_listener = listener
        settings = Settings(
            window,
            handshake_timeout,
            https_compatible,
            session,
            max_certificate_bytes,
            announcements,
        )
        self._acceptor = Acceptor(
            credentials, settings, limits, observers, muted_networks=muted_networks
        )
        self._nursery = nursery
        self._own_nursery: AbstractAsyncContextManager[trio.Nursery, bool | None] | None = None
        # Closing cancels this scope. It must not cancel the nursery, which may be the user's.
        self._scope = trio.CancelScope()
        self._accepting = False
        self._closed = False
        self._ready_in, self._ready_out = trio.open_memory_channel[Connection | Exception](0)

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
            await self._drop()  # not aclose(), whose checkpoint could replace exc with Cancelled
        finally:
            if self._own_nursery is not None and self._nursery is not None:
                self._nursery.cancel_scope.cancel()
                # Do not pass the exception to the nursery, which would wrap it in a group. And a
                # Cancelled of the nursery must not replace it.
                try:
                    await self._own_nursery.__aexit__(None, None, None)
                except* trio.Cancelled:
                    if exc is None:
                        raise

    async def accept(self) -> Connection:
        """Wait for the next connection that is ready.

        Raises:
            OSError: The transport listener failed. After an error that
                ``trio.serve_listeners`` knows to be temporary (such as ``EMFILE``),
                you may call `accept` again.
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
            self._nursery.start_soon(self._run)
            self._accepting = True
        try:
            ready = await self._ready_out.receive()
        except trio.EndOfChannel:
            raise trio.ClosedResourceError("this listener was closed") from None
        if isinstance(ready, Exception):
            raise ready
        return ready

    async def aclose(self) -> None:
        """Close the transport listener, and drop all connections that `accept` has not returned."""
        await self._drop()
        await trio.lowlevel.checkpoint()

    async def _drop(self) -> None:
        self._closed = True
        self._scope.cancel()
        self._ready_in.close()
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self.transport_listener)

    async def _run(self) -> None:
        """Accept and negotiate until closed. `accept` raises the errors."""
        try:
            with self._scope:
                with await self._open_waiting_room() as waiting:
                    async with trio.open_nursery() as negotiations:
                        negotiations.start_soon(self._acceptor.run_background_tasks)
                        await self._accept_into(negotiations, waiting)
                        negotiations.cancel_scope.cancel()
        finally:
            # This must run even if the user's nursery is cancelled, because tasks that wait in
            # `accept` outside of it would otherwise wait for ever.
            self._ready_in.close()
            self._acceptor.reporter.log.flush()

    async def _accept_into(self, negotiations: trio.Nursery, waiting: WaitingRoom) -> None:
        waiting.open(negotiations)
        while True:
            try:
                await self._acceptor.accept_each(self.transport_listener, waiting)
            except trio.ClosedResourceError:  # its owner has closed the transport listener
                waiting.look_at_new()
                self._ready_in.close()
                return
            except Exception as exc:  # noqa: BLE001 - `accept` raises it
                waiting.look_at_new()
                await self._ready_in.send(exc)

    async def _open_waiting_room(self) -> WaitingRoom:
        while True:
            try:
                return WaitingRoom(self._acceptor, _Ready(self._ready_in))
            except (
                OSError
            ) as exc:  # no descriptor is left: `accept` raises it, and may be called again
                await self._ready_in.send(exc)
                await trio.sleep(CAPACITY_PAUSE)


@attrs.frozen(eq=False)
class _Ready:
    """Passes connections to `DuplexListener.accept`, in the order in which they are ready."""

    channel: trio.MemorySendChannel[Connection | Exception]

    async def take(self, connection: Connection, place: Place) -> None:
        try:
            await self.channel.send(connection)
        except BaseException as exc:  # closed or cancelled before `accept` returned it
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(connection)
            if not isinstance(exc, trio.ClosedResourceError):
                raise
        finally:
            place.end()

    # These events do not matter here, because nobody waits for a particular connection.

    def entered(self) -> None:
        pass

    def begun(self, place: Place) -> None:
        pass

    def waits_again(self, place: Place) -> None:
        pass

    def negotiation_failed(self, place: Place | None) -> None:
        pass
