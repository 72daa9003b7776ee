"""A running server, and how to steer it."""

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
        finished: Connections that came to their own end in time.
        cancelled: Connections that were still open at the timeout.
        dropped: Peers that had not said anything, and were dropped at once.
    """

    finished: int
    cancelled: int
    dropped: int = 0


class Server:
    """A running server; what ``nursery.start(serve_tcp, ...)`` gives.

    Attributes:
        listeners: The transport listeners that it serves. Closing one stops
            accepting there, and lets its connections finish.
        cancel_scope: Cancels everything: listeners, negotiations and handlers
            (not those in a ``handler_nursery``, as in Trio).
    """

    def __init__(
        self, services: Sequence[Service], acceptor: Acceptor, cancel_scope: trio.CancelScope
    ) -> None:
        self.listeners = tuple(service.listener for service in services)
        self.cancel_scope = cancel_scope
        # Kept, because a closed socket no longer tells it.
        self._addresses = [listener_address(listener) for listener in self.listeners]
        self._services = services
        self._acceptor = acceptor

    @property
    def addresses(self) -> list[ListenerAddress]:
        """The addresses that it listens on, in the order of `listeners`.

        Each is ``(host, port)``, of IPv4 or IPv6, or a Unix path; a listener
        without an address is left out.
        """
        return [address for address in self._addresses if address is not None]

    def listener_scope(self, listener: Listener) -> trio.CancelScope:
        """The cancel scope of one listener, its negotiations and its handlers.

        Raises:
            ValueError: It is not one of `listeners`.
        """
        return self._service(listener).cancel_scope

    async def drain(
        self,
        timeout: float,
        *,
        listener: Listener | None = None,
        keep_silent: bool = False,
    ) -> DrainResult:
        """Stop accepting, let connections finish, cancel what is left.

        Peers that have said nothing are dropped at once: those in their
        detection window, in line to be greeted, or greeted and unanswered.
        Otherwise one port scan would make every restart last for the full time.
        Peers that have spoken go on, and count as connections. So does that of a handler that calls this: it
        waits for itself, and is cancelled at the timeout. When all listeners
        are drained, ``serve_tcp`` or ``serve_listeners`` returns.

        Args:
            timeout: Seconds that connections have to finish; 0 cancels them at
                once, ``math.inf`` waits for ever. Each cancelled one then has
                a few seconds more for its shielded close.
            listener: Drain only this one of `listeners`; None for all.
            keep_silent: Let peers that have said nothing go on, too.

        Returns:
            How many connections finished, were cancelled, and were dropped.

        Raises:
            ValueError: ``timeout`` is negative or NaN, or ``listener`` is not
                one of ours.
        """
        check_seconds("timeout", timeout)
        services = self._services if listener is None else [self._service(listener)]
        ended_before = sum(service.ended for service in services)
        for service in services:
            service.stop_accepting()
        dropped = 0 if keep_silent else sum(service.drop_unheard() for service in services)
        with trio.move_on_after(timeout):
            for service in services:
                await service.wait_idle()
        leaving = sum(service.leaving_unheard for service in services)
        left = sum(service.open for service in services) - leaving
        finished = sum(service.ended for service in services) - ended_before
        finished -= dropped - leaving
        for service in services:
            service.cancel_connections()
        for service in services:
            await service.wait_idle()
        return DrainResult(finished=max(0, finished), cancelled=left, dropped=dropped)

    def replace_credentials(self, credentials: Credentials) -> None:
        """Use other credentials from now on.

        Connections that are open go on. Whoever is in the handshake is judged
        by the new credentials when it ends: their policy is asked, and a peer
        that was verified against other trust is refused; it may connect again.

        Raises:
            TypeError: They are no credentials; the former stay in force.
        """
        check_credentials(credentials)
        self._acceptor.credentials = credentials

    def statistics(self) -> Statistics:
        """What has happened so far, and what is going on now; a frozen copy."""
        return self._acceptor.statistics()

    def _service(self, listener: Listener) -> Service:
        for service in self._services:
            if service.listener is listener:
                return service
        raise ValueError(f"{listener!r} is not a listener of this server")
