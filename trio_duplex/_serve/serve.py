"""`serve_listeners` and `serve_tcp`: negotiate each accepted stream, and run the handler on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import cast

import trio

from trio_duplex._decision.policy import Window
from trio_duplex._decision.window import DEFAULT_WINDOW
from trio_duplex._events.events import Observer
from trio_duplex._events.probes import Network
from trio_duplex._serve.acceptor import Acceptor, Listener
from trio_duplex._serve.handler import Handler
from trio_duplex._serve.limits import Limits
from trio_duplex._serve.server import Server
from trio_duplex._serve.service import Service
from trio_duplex._stream.settings import DEFAULT_HANDSHAKE_TIMEOUT, SessionFinder, Settings
from trio_duplex._tls.handshake import MAX_CERTIFICATE_BYTES
from trio_duplex._trust.credentials import Credentials


async def serve_listeners(
    handler: Handler,
    listeners: Sequence[Listener],
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
    raise_handler_errors: bool = False,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Negotiate every stream that the listeners accept, and run the handler on it.

    If a peer is at fault, or the handler has a bug, only that connection ends. It is
    logged to the standard logger ``trio_duplex``. This function returns when all
    listeners are drained, closed or cancelled.

    Args:
        handler: Called with each `Connection`. The connection is closed when the
            handler returns: with a close_notify, unless the handler raised.
        listeners: Trio listeners of any kind: TCP, Unix, inherited, in memory.
            They are closed in the end. Each has a nursery of its own.
        credentials: What we present and whom we trust, for both roles.
        window: The detection window: seconds (0 and ``math.inf`` are allowed), a
            policy of `trio_duplex.windows`, or a function of the peer's facts. If
            a policy fails, that is logged; see `windows.Ask` for what applies
            then.
        handshake_timeout: Seconds for each handshake. The time begins when the
            role is decided, and includes the policy's verdict. It does not run
            while the peer waits for its turn, which `Limits.turn_timeout` bounds.
        https_compatible: Let the peer end the stream without a close_notify,
            as HTTPS peers do, and send none.
        session: A function that takes a peer's remote address, and returns the
            TLS session of ``credentials.client_context`` to resume, or None. It
            is called when we become the TLS client (FTPS data connections need
            it). A session from before a reload is ignored, so the handshake is
            then a full one.
        max_certificate_bytes: How many bytes of a handshake the peer may send
            after its hello, nearly all of them its certificates.
        announcements: Whether to understand a dialler's announcement that it
            will be the TLS server. We are then the TLS client at once.
        limits: Bounds on connections, handshakes and seconds, for all
            listeners together; None for the defaults of `Limits`.
        observers: Functions that are called with each event (`events.Accepted`,
            `events.RoleDecided`, …). If one raises, that is logged, and it is not
            called any more.
        muted_networks: Networks of health checks in CIDR notation, such as
            ``["10.9.0.0/24"]``. Whatever peers from there do is logged at DEBUG,
            and their failures are counted in `Statistics.probes`.
        raise_handler_errors: For tests: raise the first exception that leaves a
            handler, which ends the server. An exception that the peer caused (a
            ``trio.BrokenResourceError`` or `DuplexError` of the handler's own
            connection) is only logged.
        handler_nursery: Run the handlers in this nursery, as in
            ``trio.serve_listeners``; None to run each in its listener's nursery.
        task_status: ``nursery.start`` returns the `Server`.

    Raises:
        OSError: A listener failed permanently, or there is no file descriptor
            left.
        ValueError, TypeError: An argument is wrong; the listeners are unchanged.
    """
    settings = Settings(
        window,
        handshake_timeout,
        https_compatible,
        session,
        max_certificate_bytes,
        announcements,
    )
    try:
        acceptor = _acceptor(
            handler, credentials, settings, limits, observers, muted_networks=muted_networks
        )
    except OSError:
        for listener in listeners:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(listener)
        raise
    await _serve(
        handler,
        listeners,
        acceptor,
        raise_handler_errors=raise_handler_errors,
        handler_nursery=handler_nursery,
        task_status=task_status,
    )


async def serve_tcp(  # noqa: D417 - `serve_listeners` documents the other arguments
    handler: Handler,
    port: int,
    credentials: Credentials,
    *,
    host: str | None = None,
    backlog: int | None = None,
    window: Window = DEFAULT_WINDOW,
    handshake_timeout: float = DEFAULT_HANDSHAKE_TIMEOUT,
    https_compatible: bool = False,
    session: SessionFinder | None = None,
    max_certificate_bytes: int = MAX_CERTIFICATE_BYTES,
    announcements: bool = True,
    limits: Limits | None = None,
    observers: Iterable[Observer] = (),
    muted_networks: Iterable[str | Network] = (),
    raise_handler_errors: bool = False,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen on a TCP port: ``trio.open_tcp_listeners``, then `serve_listeners`.

    All options that are not listed here are those of `serve_listeners`.

    Args:
        handler: An async function of a `Connection`, which is closed when it returns.
        port: TCP port; with 0 the kernel chooses one for each address
            (see `Server.addresses`).
        credentials: What we present and whom we trust, for both roles.
        host: Address or name to listen on; None for all addresses of IPv4 and
            IPv6.
        backlog: Length of the kernel's queue of connections; None for the
            maximum.

    Raises:
        OSError: The port can't be opened, or a listener failed permanently.
        ValueError, TypeError: An argument is wrong; nothing was opened.
    """
    settings = Settings(
        window,
        handshake_timeout,
        https_compatible,
        session,
        max_certificate_bytes,
        announcements,
    )
    acceptor = _acceptor(
        handler, credentials, settings, limits, observers, muted_networks=muted_networks
    )
    listeners = await trio.open_tcp_listeners(port, host=host, backlog=backlog)
    await _serve(
        handler,
        listeners,
        acceptor,
        raise_handler_errors=raise_handler_errors,
        handler_nursery=handler_nursery,
        task_status=task_status,
    )


def _acceptor(
    handler: Handler,
    credentials: Credentials,
    settings: Settings,
    limits: Limits | None,
    observers: Iterable[Observer],
    *,
    muted_networks: Iterable[str | Network],
) -> Acceptor:
    """Check the arguments, before any socket is opened or touched.

    Raises:
        OSError: The limit of open files can't be raised.
        TypeError: An argument is wrong.
    """
    if not callable(handler):
        raise TypeError(f"handler must be an async function of a connection, not {handler!r}")
    return Acceptor(credentials, settings, limits, observers, muted_networks=muted_networks)


async def _serve(
    handler: Handler,
    listeners: Sequence[Listener],
    acceptor: Acceptor,
    *,
    raise_handler_errors: bool,
    handler_nursery: trio.Nursery | None,
    task_status: trio.TaskStatus[Server],
) -> None:
    failures: list[BaseException] = []
    cancel_scope = trio.CancelScope()

    def fail(error: BaseException) -> None:
        failures.append(error)
        cancel_scope.cancel()

    try:
        with ExitStack() as waiting_rooms:
            try:
                services = [
                    waiting_rooms.enter_context(
                        Service(
                            listener=listener,
                            handler=handler,
                            acceptor=acceptor,
                            handler_nursery=handler_nursery,
                            raise_handler_errors=raise_handler_errors,
                            fail=fail,
                        )
                    )
                    for listener in listeners
                ]
            except OSError:  # there are not enough file descriptors for the waiting rooms
                for listener in listeners:
                    with trio.CancelScope(shield=True):
                        await trio.aclose_forcefully(listener)
                raise
            with cancel_scope:
                async with trio.open_nursery() as background:
                    background.start_soon(acceptor.run_background_tasks)
                    async with trio.open_nursery() as nursery:
                        for service in services:
                            nursery.start_soon(service.run)
                        task_status.started(Server(services, acceptor, cancel_scope))
                    background.cancel_scope.cancel()
    # SystemExit and KeyboardInterrupt must leave without a group around them. Otherwise the exit
    # code would be lost, and callers (and the shell) would not recognise the interrupt.
    except* SystemExit as group:
        failures.insert(0, first_leaf(group))
    except* KeyboardInterrupt:
        failures.insert(0, KeyboardInterrupt())
    except* trio.Cancelled:  # we were cancelled from outside; an earlier failure takes precedence
        if not failures:
            raise
    finally:
        acceptor.reporter.log.flush()
    if failures:
        raise failures[0]


def first_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first exception in a group, at any depth, that is not a group itself."""
    first = group.exceptions[0]
    if isinstance(first, BaseExceptionGroup):
        return first_leaf(cast("BaseExceptionGroup[BaseException]", first))
    return first
