"""A service: its listeners, and what it does with each connection.

``proxy``, ``exec`` and both ends of ``rendezvous`` are subclasses of `Service`. Most
only define what to do with a connection. A service with other listeners, or that
dials, also defines how it runs.
"""

from __future__ import annotations

import abc
import math
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import trio

if sys.platform != "win32":
    import resource

from trio_duplex import Connection, Credentials, Handler, Server, serve_listeners
from trio_duplex.cli._service.addresses import ListenAddress
from trio_duplex.cli._service.exits import Exit, ServiceError
from trio_duplex.cli._service.gate import GatedListener
from trio_duplex.cli._service.listeners import ListenerPool, StreamListener
from trio_duplex.cli._service.logs import SERVICE
from trio_duplex.cli._service.material import material_files
from trio_duplex.cli._service.settings import ServiceSettings
from trio_duplex.cli._service.window import window_policy
from trio_duplex.events import ConnectionClosed, Event, HandshakeCompleted

SettingsT = TypeVar("SettingsT", bound=ServiceSettings)

OWN_DESCRIPTORS = 100
"""How many file descriptors are left for listeners, files, pipes and Python itself."""

PlainHandler = Callable[[trio.SocketStream], Awaitable[None]]


def most_connections(descriptors: int) -> float:
    """Return how many connections are possible if each takes this number of file descriptors."""
    if sys.platform == "win32":
        return math.inf
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return math.inf
    return (soft - min(OWN_DESCRIPTORS, soft // 2)) // descriptors


class Service(abc.ABC, Generic[SettingsT]):
    """One service, as one reading of its settings describes it.

    A reload that changes its settings makes a new service, which takes over the
    addresses. Open connections stay with the old one.

    Args:
        settings: The settings of the service.

    Raises:
        ServiceError: An option is missing, or two contradict each other.
    """

    needs_listen: ClassVar[bool] = True
    why_one_process: ClassVar[str] = ""
    """If the service can't run in several workers: the state that its connections share; else empty."""
    descriptors: ClassVar[int] = 1
    """File descriptors that a connection takes, ours and those that the service opens for it."""

    def __init__(self, settings: SettingsT) -> None:
        self.settings = settings
        if self.needs_listen and not settings.listen:
            raise ServiceError(f"{settings.name}: --listen ADDR is missing", Exit.USAGE)

    @property
    def name(self) -> str:
        """The name in the log."""
        return self.settings.name

    def addresses(self) -> Sequence[ListenAddress]:
        """Every address that it listens on; they are opened before it runs."""
        return self.settings.listen

    def files(self) -> Iterator[Path]:
        """The files whose change is a reason to reload."""
        yield from material_files(self.settings)

    async def run(
        self, context: Context, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run until the context is drained; ``task_status`` says when it serves.

        The default serves `addresses` with `handle`. A service that dials instead
        waits for ``context.stopping``, and then begins nothing new.
        """
        await context.serve(
            partial(self.handle, context), self.addresses(), task_status=task_status
        )

    @abc.abstractmethod
    async def handle(self, context: Context, connection: Connection) -> None:
        """Serve one connection, which is closed when this returns or raises."""


class Context:
    """What a running service has: its listeners and credentials, and how it is told to stop.

    Attributes:
        service: The service.
        credentials: What is in force; a reload replaces it.
        stopping: Set when nothing new is to begin: the process drains, or a
            reload has started a successor.
        at_once: Whether the process was told to end without any grace.
    """

    def __init__(
        self, service: Service[ServiceSettings], pool: ListenerPool, credentials: Credentials
    ) -> None:
        self.service = service
        self.credentials = credentials
        self.stopping = trio.Event()
        self.at_once = False
        self._pool = pool
        self._scope = trio.CancelScope()
        self._servers: list[Server] = []
        self._listeners: list[StreamListener] = []
        self._numbers: dict[Connection, int] = {}
        self._done = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the service until it is drained or cancelled."""
        SERVICE.set(self.service.name)
        try:
            with self._scope:
                await self.service.run(self, task_status=task_status)
        finally:
            self._done.set()

    async def serve(
        self,
        handler: Handler,
        addresses: Sequence[ListenAddress],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Negotiate what comes to these addresses, under the service's settings, until drained."""
        settings = self.service.settings
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                partial(
                    serve_listeners,
                    handler,
                    self._gated(addresses),
                    self.credentials,
                    window=window_policy(settings.window),
                    handshake_timeout=settings.handshake_timeout,
                    limits=settings.limits(most_connections(self.service.descriptors)),
                    observers=[self._observe],
                )
            )
            self._servers.append(server)
            if self.stopping.is_set():
                await self._close_listeners()
            task_status.started()

    async def serve_plain(
        self,
        handler: PlainHandler,
        addresses: Sequence[ListenAddress],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept plain streams at these addresses, without TLS, until drained.

        An error of the handler's ends its own stream; so handle what must be told.
        """
        listeners = self._gated(addresses)

        async def handle(stream: trio.abc.Stream) -> None:
            assert isinstance(stream, trio.SocketStream)
            try:
                await handler(stream)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(stream)

        async def accept(
            nursery: trio.Nursery, listener: trio.abc.Listener[trio.SocketStream]
        ) -> None:
            try:
                await trio.serve_listeners(handle, [listener], handler_nursery=nursery)
            except* trio.ClosedResourceError:
                pass

        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(accept, nursery, listener)
            task_status.started()

    def number(self, connection: Connection) -> int:
        """The number of an open connection, as the log has it; 0 if it is none of ours."""
        return self._numbers.get(connection, 0)

    def replace_credentials(self, credentials: Credentials) -> None:
        """Use other credentials for what is negotiated from now on."""
        self.credentials = credentials
        for server in self._servers:
            server.replace_credentials(credentials)

    async def retire(self) -> None:
        """Accept and begin nothing new; what is open goes on to its own end."""
        self.stopping.set()
        await self._close_listeners()

    async def drain(self, timeout: float) -> tuple[int, int]:
        """Accept nothing new, let connections finish, and cancel what is left at the timeout.

        Returns:
            How many negotiated connections finished, and how many were cancelled.
        """
        finished = cancelled = 0
        deadline = trio.current_time() + timeout
        await self.retire()

        async def drain_one(server: Server) -> None:
            nonlocal finished, cancelled
            result = await server.drain(timeout)
            finished += result.finished
            cancelled += result.cancelled

        async with trio.open_nursery() as nursery:
            for server in self._servers:
                nursery.start_soon(drain_one, server)
        with trio.move_on_at(deadline):
            await self._done.wait()
        self._scope.cancel()
        await self._done.wait()
        return finished, cancelled

    def cancel(self) -> None:
        """End everything now, without any grace."""
        self.at_once = True
        self._scope.cancel()

    async def wait_done(self) -> None:
        """Wait until the service has ended."""
        await self._done.wait()

    @property
    def done(self) -> bool:
        """Whether the service has ended."""
        return self._done.is_set()

    @property
    def open_connections(self) -> int:
        """Negotiated connections that are open now."""
        return len(self._numbers)

    def _gated(self, addresses: Sequence[ListenAddress]) -> list[StreamListener | GatedListener]:
        settings = self.service.settings
        made = [each for address in addresses for each in self._pool.listeners(address)]
        self._listeners += made
        if not settings.allow and not settings.deny:
            return [*made]
        return [
            GatedListener(
                each, allow=settings.allow, deny=settings.deny, keepalive=settings.keepalive
            )
            for each in made
        ]

    async def _close_listeners(self) -> None:
        for listener in self._listeners:
            await listener.aclose()

    def _observe(self, event: Event) -> None:
        match event:
            case HandshakeCompleted(connection=connection, number=number):
                self._numbers[connection] = number
            case ConnectionClosed(connection=connection):
                self._numbers.pop(connection, None)
            case _:
                pass
