"""Serving: a nursery for each listener, a task for each connection.

One task carries a connection through its life: window, handshake, handler,
close. It belongs to the nursery of its listener, so that cancelling or draining
one listener leaves the others alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol, assert_never

import attrs
import trio

from trio_duplex._address import Address, format_address, listener_address
from trio_duplex._connection import Connection
from trio_duplex._credentials import Credentials
from trio_duplex._events import is_peer_fault, log_handler_failure
from trio_duplex._listener import accept_each, negotiate_or_log
from trio_duplex._negotiate import DEFAULT_HANDSHAKE_TIMEOUT, Settings
from trio_duplex._role import Role
from trio_duplex._window import DEFAULT_WINDOW, check_seconds


class Handler(Protocol):
    """What serves one connection: any async function of a `Connection`.

    The connection is closed when it returns. An exception ends its own
    connection alone: it is logged, or raised if ``raise_handler_errors`` says so.
    """

    async def __call__(self, connection: Connection, /) -> object:
        """Serve the connection."""


def by_role(*, server: Handler, client: Handler) -> Handler:
    """Make one handler of two, chosen by the TLS role that *we* play.

    Args:
        server: Serves connections on which we are the TLS server.
        client: Serves connections on which we are the TLS client.
    """

    async def handler(connection: Connection, /) -> object:
        match connection.role:
            case Role.SERVER:
                return await server(connection)
            case Role.CLIENT:
                return await client(connection)
            case _ as role:
                assert_never(role)

    return handler


@attrs.frozen
class DrainResult:
    """How the connections of a drained server ended.

    Attributes:
        finished: Connections that came to their own end in time.
        cancelled: Connections that were still open at the timeout.
    """

    finished: int
    cancelled: int


@attrs.define(eq=False, kw_only=True)
class _Service:
    """One listener, its nursery, and the connections that came through it."""

    listener: trio.abc.Listener[trio.abc.Stream]
    handler: Handler
    credentials: Credentials
    settings: Settings
    handler_nursery: trio.Nursery | None
    raise_handler_errors: bool
    fail: Callable[[BaseException], None]

    cancel_scope: trio.CancelScope = attrs.field(init=False, factory=trio.CancelScope)
    open: int = attrs.field(init=False, default=0)
    ended: int = attrs.field(init=False, default=0)
    _accepting: trio.CancelScope = attrs.field(init=False, factory=trio.CancelScope)
    _stopped: trio.Event = attrs.field(init=False, factory=trio.Event)
    _idle: trio.lowlevel.ParkingLot = attrs.field(init=False, factory=trio.lowlevel.ParkingLot)
    _handling: set[Connection] = attrs.field(init=False, factory=set[Connection])

    async def run(self) -> None:
        """Serve until drained or cancelled."""
        try:
            with self.cancel_scope:
                async with trio.open_nursery() as nursery:

                    def start(stream: trio.abc.Stream) -> None:
                        self.open += 1
                        nursery.start_soon(self._serve, stream)

                    try:
                        with self._accepting:
                            await accept_each(self.listener, start)
                    except trio.ClosedResourceError:
                        pass  # by its owner, who wants no more of it
                    except Exception as exc:  # noqa: BLE001 - the caller gets it, bare
                        self.fail(exc)
                    finally:
                        with trio.CancelScope(shield=True):
                            await trio.aclose_forcefully(self.listener)
                        self._stopped.set()
        finally:
            self._stopped.set()  # also where we were cancelled before we began

    def stop_accepting(self) -> None:
        """Have the listener closed soon; `wait_idle` waits for that too."""
        self._accepting.cancel()

    async def wait_idle(self) -> None:
        """Wait until no connection is open, and none can come any more."""
        await self._stopped.wait()
        while self.open:
            await self._idle.park()

    def cancel_connections(self) -> None:
        """Cancel what is left, also handlers in a nursery that is not ours."""
        for connection in self._handling:
            connection.cancel_scope.cancel()
        self.cancel_scope.cancel()

    async def _serve(self, stream: trio.abc.Stream) -> None:
        """One connection's life, in one task."""
        connection = None
        try:
            connection = await negotiate_or_log(stream, self.credentials, self.settings)
        finally:
            if connection is None:
                self._end()
        if connection is None:
            return
        # Here and not in `_handle`: a drain may come before that starts.
        self._handling.add(connection)
        if self.handler_nursery is None:
            await self._handle(connection)
            return
        try:
            self.handler_nursery.start_soon(self._handle, connection)
        except RuntimeError as exc:  # that nursery is closed
            self._handling.discard(connection)
            await _close(connection, gracefully=False)
            self._end()
            self.fail(exc)

    async def _handle(self, connection: Connection) -> None:
        error: Exception | None = None
        try:
            with connection.cancel_scope:
                await self.handler(connection)
        except* Exception as group:  # noqa: BLE001 - a handler may raise anything, beside Cancelled too
            error = group.exceptions[0] if len(group.exceptions) == 1 else group
        finally:
            self._handling.discard(connection)
            # An error must not look like the due end of the data: neither a bug, nor
            # the fault of another peer, from which this one was to be served.
            await _close(connection, gracefully=error is None)
            self._end()
            # In here, because a Cancelled that came with the error goes on from here.
            if error is not None and self.raise_handler_errors and not is_peer_fault(error):
                self.fail(error)
            elif error is not None:
                log_handler_failure(error, format_address(connection.remote_address))

    def _end(self) -> None:
        self.open -= 1
        self.ended += 1
        if not self.open:
            self._idle.unpark_all()


async def _close(connection: Connection, *, gracefully: bool) -> None:
    """Close, shielded and bounded, and replace no exception in flight."""
    with trio.CancelScope(shield=True), contextlib.suppress(trio.BrokenResourceError):
        if gracefully:
            await connection.aclose()
        else:
            await trio.aclose_forcefully(connection)


class Server:
    """A running server; what ``nursery.start(serve_tcp, ...)`` gives.

    Attributes:
        listeners: The transport listeners that it serves. Closing one stops
            accepting there, and lets its connections finish.
        cancel_scope: Cancels everything: listeners, negotiations and handlers
            (not those in a ``handler_nursery``, as in Trio).
    """

    def __init__(self, services: Sequence[_Service], cancel_scope: trio.CancelScope) -> None:
        self.listeners = tuple(service.listener for service in services)
        self.cancel_scope = cancel_scope
        # Kept, because a closed socket no longer tells it.
        self._addresses = [listener_address(listener) for listener in self.listeners]
        self._services = services

    @property
    def addresses(self) -> list[Address]:
        """Where it listens: ``(host, port)``, IPv6's four fields, or a Unix path.

        In the order of `listeners`; one without an address is left out.
        """
        return [address for address in self._addresses if address is not None]

    def listener_scope(self, listener: trio.abc.Listener[trio.abc.Stream]) -> trio.CancelScope:
        """The cancel scope of one listener, its negotiations and its handlers.

        Raises:
            ValueError: It is not one of `listeners`.
        """
        return self._service(listener).cancel_scope

    async def drain(
        self,
        timeout: float,
        *,
        listener: trio.abc.Listener[trio.abc.Stream] | None = None,
    ) -> DrainResult:
        """Stop accepting, let connections finish, cancel what is left.

        Peers that are still in their detection window or handshake go on, and
        count as connections. So does that of a handler that calls this: it
        waits for itself, and is cancelled at the timeout. When all listeners
        are drained, ``serve_tcp`` or ``serve_listeners`` returns.

        Args:
            timeout: Seconds that connections have to finish; 0 cancels them at
                once, ``math.inf`` waits for ever. Each cancelled one then has
                a few seconds more for its shielded close.
            listener: Drain this one of `listeners` alone; None for all.

        Returns:
            How many connections finished, and how many were cancelled.

        Raises:
            ValueError: ``timeout`` is negative or NaN, or ``listener`` is not
                one of ours.
        """
        check_seconds("timeout", timeout)
        services = self._services if listener is None else [self._service(listener)]
        ended_before = sum(service.ended for service in services)
        for service in services:
            service.stop_accepting()
        with trio.move_on_after(timeout):
            for service in services:
                await service.wait_idle()
        left = sum(service.open for service in services)
        finished = sum(service.ended for service in services) - ended_before
        for service in services:
            service.cancel_connections()
        for service in services:
            await service.wait_idle()
        return DrainResult(finished=finished, cancelled=left)

    def _service(self, listener: trio.abc.Listener[trio.abc.Stream]) -> _Service:
        for service in self._services:
            if service.listener is listener:
                return service
        raise ValueError(f"{listener!r} is not a listener of this server")


def _check_handler(handler: object) -> None:
    if not callable(handler):
        raise TypeError(f"handler must be an async function of a connection, not {handler!r}")


async def serve_listeners(
    handler: Handler,
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
    credentials: Credentials,
    *,
    window: float = DEFAULT_WINDOW,
    handshake_timeout: float = DEFAULT_HANDSHAKE_TIMEOUT,
    https_compatible: bool = False,
    raise_handler_errors: bool = False,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Negotiate every stream that the listeners accept, and run the handler on it.

    A peer's fault, or a bug in the handler, ends its own connection alone and
    is logged to the standard logger ``trio_duplex``.

    Args:
        handler: Called with each `Connection`, which is closed when it
            returns: with a close_notify, unless it raised.
        listeners: Any Trio listeners: TCP, Unix, inherited, in memory. They
            are closed in the end. Each has a nursery of its own.
        credentials: What we present and whom we trust, for both roles.
        window: The detection window, in seconds; 0 and ``math.inf`` are allowed.
        handshake_timeout: Seconds for each handshake, from the role decision.
        https_compatible: As for `negotiate`.
        raise_handler_errors: Raise the first exception that leaves a handler,
            which ends the server: for tests. What is the peer's fault
            (``trio.BrokenResourceError``, `DuplexError`) is logged all the same.
        handler_nursery: Run the handlers here, as in ``trio.serve_listeners``;
            None to run each in its listener's nursery.
        task_status: ``nursery.start`` gives the `Server`.

    Returns:
        When all listeners are drained, closed or cancelled.

    Raises:
        OSError: A listener failed for good.
        ValueError, TypeError: An argument is wrong; the listeners are untouched.
    """
    settings = Settings(window, handshake_timeout, https_compatible)
    _check_handler(handler)
    failures: list[BaseException] = []
    cancel_scope = trio.CancelScope()

    def fail(error: BaseException) -> None:
        failures.append(error)
        cancel_scope.cancel()

    services = [
        _Service(
            listener=listener,
            handler=handler,
            credentials=credentials,
            settings=settings,
            handler_nursery=handler_nursery,
            raise_handler_errors=raise_handler_errors,
            fail=fail,
        )
        for listener in listeners
    ]
    try:
        with cancel_scope:
            async with trio.open_nursery() as nursery:
                for service in services:
                    nursery.start_soon(service.run)
                task_status.started(Server(services, cancel_scope))
    except* trio.Cancelled:  # from outside; what failed before it counts for more
        if not failures:
            raise
    if failures:
        raise failures[0]


async def serve_tcp(
    handler: Handler,
    port: int,
    credentials: Credentials,
    *,
    host: str | None = None,
    backlog: int | None = None,
    window: float = DEFAULT_WINDOW,
    handshake_timeout: float = DEFAULT_HANDSHAKE_TIMEOUT,
    https_compatible: bool = False,
    raise_handler_errors: bool = False,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen on a TCP port: ``trio.open_tcp_listeners``, then `serve_listeners`.

    Args:
        handler: See `serve_listeners`.
        port: TCP port; 0 lets the kernel pick one for each address
            (`Server.addresses` tells which).
        credentials: What we present and whom we trust, for both roles.
        host: Address or name to listen on; None for all addresses of IPv4 and
            IPv6.
        backlog: Length of the kernel's queue of connections; None for the most.
        window: See `serve_listeners`.
        handshake_timeout: See `serve_listeners`.
        https_compatible: See `serve_listeners`.
        raise_handler_errors: See `serve_listeners`.
        handler_nursery: See `serve_listeners`.
        task_status: See `serve_listeners`.

    Raises:
        OSError: The port can't be had, or a listener failed for good.
        ValueError, TypeError: An argument is wrong; nothing was opened.
    """
    # Before any socket is opened.
    Settings(window, handshake_timeout, https_compatible)
    _check_handler(handler)
    listeners = await trio.open_tcp_listeners(port, host=host, backlog=backlog)
    await serve_listeners(
        handler,
        listeners,
        credentials,
        window=window,
        handshake_timeout=handshake_timeout,
        https_compatible=https_compatible,
        raise_handler_errors=raise_handler_errors,
        handler_nursery=handler_nursery,
        task_status=task_status,
    )
