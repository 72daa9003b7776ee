"""The agent: it dials hubs and waits there as TLS server, for a backend that nobody can dial.

For each hub, one task keeps enough spares connected, and each connection has a task
of its own. The first bytes on a spare mean that it has got a client: the agent then
dials a new spare, and connects to the backend. If the hub closes a spare, the agent
dials another. While no backend can be reached, there are no spares, so that the hub
gives its clients to agents that can serve them.
"""

from __future__ import annotations

import contextlib

import trio

from trio_duplex import Connection, DuplexError, Role, open_tcp_connection
from trio_duplex.cli._proxy.backend import BackendDownError, connect
from trio_duplex.cli._rendezvous.pair import (
    PIECE,
    BrokenEndError,
    End,
    Pair,
    first_error,
)
from trio_duplex.cli._rendezvous.settings import AgentSettings
from trio_duplex.cli._service.addresses import TcpAddress
from trio_duplex.cli._service.configuration import Kind
from trio_duplex.cli._service.exits import Exit, ServiceError
from trio_duplex.cli._service.logs import log
from trio_duplex.cli._service.reset import reset_on_close, wait_delivered
from trio_duplex.cli._service.service import Context, Service
from trio_duplex.cli._system.backoff import Backoff

SHORT_LIFE = 1.0
"""Seconds. If a hub closes a spare sooner than this, it does not want us, so we wait before we dial
it again."""


RETRY_CONNECT = 0.1
"""Seconds between two tries to reach a backend that refuses."""

MOST_SPARE = 10_000
"""The value of ``--spare inf`` and ``--most-spare inf``. File descriptors run out before this."""


class Agent(Service[AgentSettings]):
    """Dial hubs and wait there as TLS server, for a backend that nobody can dial.

    A few spare connections wait at each hub. When one is given a client, the
    backend is connected, and another is dialled in its place.
    """

    needs_listen = False

    def __init__(self, settings: AgentSettings) -> None:
        super().__init__(settings)
        for option, given in (("--dial HUB", settings.dial), ("--to ADDR", settings.to)):
            if not given:
                raise ServiceError(f"{settings.name}: {option} is missing", Exit.USAGE)

    async def run(
        self, context: Context, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep spares until told to stop; then let connections that have a client finish."""
        backend = Backend(self.settings)
        async with trio.open_nursery() as nursery:
            for hub in self.settings.dial:
                nursery.start_soon(Spares(hub, backend, context, self.settings).keep)
            task_status.started()

    async def handle(self, context: Context, connection: Connection) -> None:
        """Never called: an agent listens nowhere."""
        raise NotImplementedError


class Backend:
    """The backend, and whether it can be reached."""

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._up = trio.Event()
        self._up.set()
        self._down = trio.Event()
        self._trying = trio.Lock()

    async def connect(self) -> trio.SocketStream | None:
        """Connect, trying for ``connect_timeout``; None if it can't be reached.

        A backend that restarts so costs its clients a moment, and no failure.
        """
        deadline = trio.current_time() + self._settings.connect_timeout
        while True:
            stream = await self._try()
            if stream is not None or trio.current_time() >= deadline:
                return stream
            await trio.sleep(RETRY_CONNECT)

    async def _try(self) -> trio.SocketStream | None:
        try:
            connected = await connect(self._settings.to, timeout=self._settings.connect_timeout)
        except BackendDownError as exc:
            if self._up.is_set():
                log.error(
                    "backend-down",
                    why=exc,
                    advice="until it answers, no hub is offered connections",
                )
                self._up = trio.Event()
                self._down.set()
            return None
        if not self._up.is_set():
            log.info("backend-up")
            self._up.set()
            self._down = trio.Event()
        return trio.SocketStream(trio.socket.from_stdlib_socket(connected))

    async def wait_down(self) -> None:
        """Wait until it is found that it can't be reached."""
        await self._down.wait()

    async def wait_up(self) -> None:
        """Wait until it can be reached again, by trying; the tasks that wait here share the tries."""
        if self._up.is_set():
            return
        async with self._trying:
            backoff = Backoff(first=self._settings.retry_first, most=self._settings.retry_most)
            while not self._up.is_set():
                backoff.failed()
                with trio.move_on_after(backoff.delay()):
                    await self._up.wait()
                if not self._up.is_set() and (stream := await self._try()) is not None:
                    await trio.aclose_forcefully(stream)


class Spares:
    """The connections to one hub.

    Attributes:
        wanted: How many are to wait. It doubles whenever the last is taken, and
            falls by one whenever one is renewed, which says that it was not needed.
    """

    def __init__(
        self, hub: TcpAddress, backend: Backend, context: Context, settings: AgentSettings
    ) -> None:
        self.wanted = int(min(settings.spare, MOST_SPARE))
        self._hub = hub
        self._backend = backend
        self._context = context
        self._settings = settings
        self._most = min(max(settings.spare, settings.most_spare), MOST_SPARE)
        self._backoff = Backoff(first=settings.retry_first, most=settings.retry_most)
        # Those that wait, or are being dialled: they can be dismissed.
        self._waiting: set[trio.CancelScope] = set()
        self._ready = 0
        self._told = False
        self._changed = trio.Event()

    async def keep(self) -> None:
        """Keep enough connections to the hub until told to stop; return when the last one has ended."""
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as keeping:
                keeping.start_soon(self._dial_enough, connections)
                keeping.start_soon(self._dismiss_while_down)
                await self._context.stopping.wait()
                keeping.cancel_scope.cancel()
            self._dismiss()

    async def _dial_enough(self, connections: trio.Nursery) -> None:
        while True:
            await self._backend.wait_up()
            if len(self._waiting) >= self.wanted:
                self._changed = trio.Event()
                await self._changed.wait()
            elif self._backoff.failures:
                # One at a time, and after a delay: a hub that is down is not dialled by all at once.
                await trio.sleep(self._backoff.delay())
                await connections.start(self._one)
            else:
                connections.start_soon(self._one)
                await trio.lowlevel.checkpoint()

    async def _dismiss_while_down(self) -> None:
        while True:
            await self._backend.wait_down()
            self._dismiss()
            await self._backend.wait_up()

    def _dismiss(self) -> None:
        """End the connections that have no client."""
        for scope in self._waiting:
            scope.cancel()

    async def _one(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """One connection, from dialling to its end; started when it waits, or could not be had."""
        scope = trio.CancelScope()
        self._waiting.add(scope)
        told = False
        try:
            with scope:
                before = self._backoff.failures
                connection = await self._dial()
                told = True
                task_status.started()
                if connection is not None:
                    await self._use(connection, scope, before)
            if not told:
                task_status.started()
        finally:
            self._waiting.discard(scope)
            self._changed.set()

    async def _dial(self) -> Connection | None:
        """Dial the hub; None if that fails, which is logged when it begins."""
        settings = self._settings
        why: object
        try:
            with trio.fail_after(settings.connect_timeout + settings.handshake_timeout):
                connection = await open_tcp_connection(
                    self._hub.host,
                    self._hub.port,
                    self._context.credentials,
                    role=Role.SERVER,
                    announce=settings.announce,
                    handshake_timeout=settings.handshake_timeout,
                )
        except trio.TooSlowError:
            why = f"no connection within {settings.connect_timeout:g} s"
        except (OSError, DuplexError) as exc:
            why = exc
        else:
            self._backoff.succeeded()
            if self._told:
                log.info("hub-reached", hub=self._hub)
                self._told = False
            return connection
        self._backoff.failed()
        self._tell_failure(why)
        return None

    def _tell_failure(self, why: object) -> None:
        tell = log.debug if self._told else log.warning
        tell("hub-failed", hub=self._hub, why=why, again_within=f"{self._backoff.bound:g}")
        self._told = True

    async def _use(self, connection: Connection, scope: trio.CancelScope, before: int) -> None:
        """Wait for a client and serve it; then close the connection, by force if anything is missing."""
        whole = False
        self._ready += 1
        try:
            whole = await self._wait_and_serve(connection, scope, before)
        finally:
            if scope in self._waiting:  # dismissed, or given up: nobody had it
                self._ready -= 1
                whole = True
            with trio.CancelScope(shield=True):
                if whole:
                    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        await connection.aclose()
                else:
                    await trio.aclose_forcefully(connection)

    async def _wait_and_serve(
        self, connection: Connection, scope: trio.CancelScope, before: int
    ) -> bool:
        """Wait for a client and serve it; whether all that there was was forwarded."""
        since = trio.current_time()
        first: bytes | bytearray = b""
        if not self._settings.backend_speaks_first:
            try:
                first = await connection.receive_some(PIECE)
            except trio.BrokenResourceError as exc:
                self._lost(since, before, exc)
                return False
            if not first:
                self._renewed(since, before)
                return True
            self._taken(scope)
        backend = await self._backend.connect()
        if backend is None:
            return True
        async with backend:
            return await self._forward(connection, backend, first, scope)

    async def _forward(
        self,
        connection: Connection,
        backend: trio.SocketStream,
        first: bytes | bytearray,
        scope: trio.CancelScope,
    ) -> bool:
        async def receive() -> bytes | bytearray:
            data = await connection.receive_some(PIECE)
            if data and scope in self._waiting:
                self._taken(scope)
            return data

        whole = False
        pair = Pair(End("hub", receive, connection.send_all), End.of("backend", backend))
        try:
            await pair.forward(first)
            whole = True
        except* BrokenEndError as group:
            broken = first_error(group)
            log.info(
                "pair-broken", by=broken.end, why=broken.why, sent=pair.sent, received=pair.received
            )
            await wait_delivered(backend)
        finally:
            if not whole:
                reset_on_close(backend)
        return whole

    def _taken(self, scope: trio.CancelScope) -> None:
        """A client has it: it can't be dismissed any more, and another is to wait in its place."""
        self._waiting.discard(scope)
        self._ready -= 1
        if not self._ready:
            self.wanted = min(max(self.wanted * 2, 1), int(self._most))
        self._backoff.succeeded()
        self._changed.set()

    def _renewed(self, since: float, before: int) -> None:
        """The hub closed it, as it does with those that have waited long enough."""
        if trio.current_time() - since < SHORT_LIFE:
            self._backoff.failed(after=before)
            self._tell_failure("it closed the connection at once")
        else:
            self.wanted = max(int(self._settings.spare), self.wanted - 1)

    def _lost(self, since: float, before: int, why: object) -> None:
        """It broke while it waited: the hub has ended, or what is between."""
        self._backoff.failed(after=before if trio.current_time() - since < SHORT_LIFE else 0)
        self._tell_failure(why)


AGENT = Kind("agent", AgentSettings, Agent)
