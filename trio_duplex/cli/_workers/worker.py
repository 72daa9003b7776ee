"""One worker: a process that serves what its supervisor has loaded, on the supervisor's sockets.

It gets its orders over a socket pair. If the supervisor dies, the other end of the
pair is closed, and the worker drains: its listening sockets are closed at once, so
that another supervisor can open them.
"""

from __future__ import annotations

import signal
import socket

import trio

from trio_duplex.cli._service.exits import Exit
from trio_duplex.cli._service.listeners import ListenerPool
from trio_duplex.cli._service.loaded import Loaded
from trio_duplex.cli._service.logs import log
from trio_duplex.cli._service.run import Host, Running, service_signals, set_up_log
from trio_duplex.cli._workers.orders import Order, Report


class WorkerHost(Host):
    """The supervisor, to which a worker reports.

    Args:
        channel: Our end of the socket pair.
        watchdog: Seconds within which the supervisor wants to hear that we
            are alive; None where it does not.
    """

    def __init__(self, channel: socket.socket, watchdog: float | None) -> None:
        self._channel = channel
        self._watchdog = watchdog

    @property
    def watchdog(self) -> float | None:
        """How often to say `alive`, times two."""
        return self._watchdog

    def alive(self) -> None:
        """Say that our loop turns."""
        self._report(Report.ALIVE)

    def ready(self, status: str) -> None:  # noqa: ARG002 - the supervisor has its own
        """Say that we serve."""
        self._report(Report.READY)

    def _report(self, report: Report) -> None:
        try:
            # Never blocks: what is sent is a byte now and then, which the supervisor reads.
            self._channel.send(report, socket.MSG_DONTWAIT)
        except OSError:  # it is gone, or hangs; the end of the channel is how we hear of it
            pass


class Worker(Running):
    """The services in one of several processes.

    Args:
        number: The number of the worker, which is in its log lines.
        loaded: The settings and credentials to serve with.
        pool: The listening sockets, which are closed when it ends.
        channel: Our end of the socket pair.
        watchdog: As for `WorkerHost`.
    """

    def __init__(
        self,
        number: int,
        loaded: Loaded,
        pool: ListenerPool,
        channel: socket.socket,
        watchdog: float | None,
    ) -> None:
        super().__init__(pool, WorkerHost(channel, watchdog))
        self._number = number
        self._to_serve = loaded
        self._channel = channel
        self._ending = trio.CancelScope()

    async def run(self) -> int:
        """Serve until ordered to stop; give the exit code."""
        set_up_log(self._to_serve.plan, self._number)
        # SIGINT and SIGHUP come from a terminal to all its processes: the supervisor obeys them for
        # us. They are caught and not ignored, because a program that we start would inherit that.
        with trio.open_signal_receiver(*service_signals()) as signals:
            async with trio.open_nursery() as nursery:
                await self.start(self._to_serve, nursery)
                nursery.start_soon(self._take_orders, nursery)
                async for number in signals:
                    if number == signal.SIGTERM:
                        self._end_by(Order.DRAIN, nursery)
        return Exit.STOPPED

    async def _take_orders(self, nursery: trio.Nursery) -> None:
        channel = trio.socket.from_stdlib_socket(self._channel)
        while received := await self._receive(channel):
            for number in received:
                self._end_by(Order(bytes([number])), nursery)
        log.warning("supervisor-gone", advice="it died; start it again")
        self._end_by(Order.DRAIN, nursery)

    async def _receive(self, channel: trio.socket.SocketType) -> bytes:
        try:
            return await channel.recv(64)
        except OSError:
            return b""

    def _end_by(self, order: Order, nursery: trio.Nursery) -> None:
        """Begin to end in this way, instead of another that has begun."""
        self._ending.cancel()
        self._ending = trio.CancelScope()
        nursery.start_soon(self._end, order, self._ending, nursery)

    async def _end(self, order: Order, scope: trio.CancelScope, nursery: trio.Nursery) -> None:
        with scope:
            match order:
                case Order.RETIRE:
                    await self.retire()
                case Order.DRAIN:
                    await self.drain()
                case Order.END:
                    self.end_at_once()
        if not scope.cancelled_caught:
            nursery.cancel_scope.cancel()
