"""`Server`: controlling a running server."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import trio

from trio_duplex._events.statistics import Statistics
from trio_duplex._seconds import check_seconds
from trio_duplex._serve.acceptor import Acceptor, Listener
from trio_duplex._serve.service import Service
from trio_duplex._sockets.address import ListenerAddress, listener_address
from trio_duplex._trust.credentials import Credentials, check_credentials


@attrs.frozen
class DrainResult:
    """How the connections of a drained server ended.

    Attributes:
        finished: Connections that ended by themselves in time.
        cancelled: Connections that were still open at the timeout.
        dropped: Peers that had not sent anything, and were dropped at once.
    """

    finished: int
    cancelled: int
    dropped: int = 0


class Server:
    """A running server; ``nursery.start(serve_tcp, ...)`` returns it.

    Attributes:
        listeners: The transport listeners that it serves. If you close one, it
            accepts no more connections, and its connections can finish.
        cancel_scope: Cancels everything: listeners, negotiations and handlers
            (except handlers in a ``handler_nursery``, as in Trio).
    """

    def __init__(
        self, services: Sequence[Service], acceptor: Acceptor, cancel_scope: trio.CancelScope
    ) -> None:
        self.listeners = tuple(service.listener for service in services)
        self.cancel_scope = cancel_scope
        # Read the addresses now, because a closed socket does not have one.
        self._addresses = [listener_address(listener) for listener in self.listeners]
        self._services = services
        self._acceptor = acceptor

    @property
    def addresses(self) -> list[ListenerAddress]:
        """The addresses that the server listens on, in the order of `listeners`.

        Each is ``(host, port)`` for IPv4 and IPv6, or the path of a Unix socket.
        Listeners without an address are left out.
        """
        return [address for address in self._addresses if address is not None]

    def listener_scope(self, listener: Listener) -> trio.CancelScope:
        """Return the cancel scope of one listener, its negotiations and its handlers.

        Raises:
            ValueError: ``listener`` is not one of `listeners`.
        """
        return self._service(listener).cancel_scope

    async def drain(
        self,
        timeout: float,
        *,
        listener: Listener | None = None,
        keep_silent: bool = False,
    ) -> DrainResult:
        """Stop accepting, let connections finish, and cancel those that do not.

        Peers that have not sent anything are dropped at once, whether they are in
        their detection window, wait for their turn, or have not answered our
        ClientHello. Otherwise a single port scan would delay every restart by the
        full timeout. Peers that have sent something go on, and count as
        connections. If a handler calls this method, its own connection counts,
        too: it waits for itself, and is cancelled at the timeout. When all
        listeners are drained, ``serve_tcp`` or ``serve_listeners`` returns.

        Args:
            timeout: Seconds that connections have to finish; 0 cancels them at
                once, ``math.inf`` waits without a limit. Each cancelled connection
                then has a few more seconds for its shielded close.
            listener: Drain only this one of `listeners`; None for all.
            keep_silent: Let peers that have not sent anything go on, too.

        Returns:
            How many connections finished, were cancelled, and were dropped.

        Raises:
            ValueError: ``timeout`` is negative or NaN, or ``listener`` is not
                one of ours.
        """
        check_seconds("timeout", timeout)
        services = self._services if listener is None else [self._service(listener)]
        ended_before = sum(service.ended for service in services)
        late_before = sum(service.dropped_late for service in services)
        for service in services:
            service.stop_accepting()
        dropped = 0 if keep_silent else sum(service.drop_unheard() for service in services)
        with trio.move_on_after(timeout):
            for service in services:
                await service.wait_idle()
        dropped += sum(service.dropped_late for service in services) - late_before
        # Dropped peers are counted separately, whether or not their tasks have ended yet.
        still_leaving = sum(service.leaving_unheard for service in services)
        unfinished = sum(service.open for service in services) - still_leaving
        finished = sum(service.ended for service in services) - ended_before
        finished -= dropped - still_leaving
        for service in services:
            service.cancel_connections()
        for service in services:
            await service.wait_idle()
        return DrainResult(finished=max(0, finished), cancelled=unfinished, dropped=dropped)

    def replace_credentials(self, credentials: Credentials) -> None:
        """Use other credentials from now on.

        Open connections are not affected. When a handshake ends that has already
        begun, the new credentials decide: their policy is asked, and a peer that
        was verified against different trust is refused. It may connect again.

        Raises:
            TypeError: ``credentials`` is not a `Credentials`; nothing has changed.
        """
        check_credentials(credentials)
        self._acceptor.credentials = credentials

    def statistics(self) -> Statistics:
        """Return counts of what has happened so far and is going on now, as a frozen object."""
        return self._acceptor.statistics()

    def _service(self, listener: Listener) -> Service:
        for service in self._services:
            if service.listener is listener:
                return service
        raise ValueError(f"{listener!r} is not a listener of this server")
