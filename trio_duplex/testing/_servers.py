"""Servers that run during a ``with`` block, in this Trio run or in a background thread."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Generic, NoReturn, Protocol, TypedDict, TypeVar, Unpack

import attrs
import trio

from trio_duplex import Connection, Credentials, Handler, Limits, Server, serve_listeners, windows
from trio_duplex.events import Event
from trio_duplex.testing._certificates import shared_authority
from trio_duplex.testing._peers import Peer
from trio_duplex.testing._target import Target
from trio_duplex.testing._transcript import PeerReport

T = TypeVar("T")

DEFAULT_WINDOW = 1.0
"""Seconds. Peers of the kit speak within milliseconds, and one second is long enough on a
machine that is busy with other tests. Tests in real time with silent peers set less."""

DRAIN_TIMEOUT = 1.0
"""Seconds that connections have to finish when the block ends. The test is over by then,
so a peer that is still sending was left running."""

JOIN_TIMEOUT = 30.0
"""Seconds for a thread to end, much more than any drain and bounded close take."""


class ServeOptions(TypedDict, total=False):
    """Further options of a server, as for `trio_duplex.serve_listeners`."""

    handshake_timeout: float
    https_compatible: bool
    announcements: bool
    limits: Limits | None
    observers: Iterable[Callable[[Event], object]]


async def echo(connection: Connection) -> None:
    """Send back everything that is received: the default handler."""
    async for chunk in connection:
        await connection.send_all(chunk)


class ServerContext(AbstractAsyncContextManager[Server]):
    """A server that runs during an ``async with`` block; made by `open_server`.

    Attributes:
        entered: Whether the block was entered.
    """

    def __init__(self, open_it: Callable[[], AbstractAsyncContextManager[Server]]) -> None:
        self._open = open_it
        self._context: AbstractAsyncContextManager[Server] | None = None
        self.entered = False

    async def __aenter__(self) -> Server:
        self.entered = True
        try:
            trio.lowlevel.current_trio_token()
        except RuntimeError as exc:
            raise RuntimeError(
                "this server runs on Trio, and the test does not: mark it with pytest-trio "
                "(or trio_mode = true), use anyio's Trio backend, or use a server in a thread "
                "(thread_server, or the fixture duplex_thread_server)"
            ) from exc
        self._context = self._open()
        return await self._context.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._context is not None
        return await self._context.__aexit__(exc_type, exc, traceback)

    def __enter__(self) -> NoReturn:
        self.entered = True
        raise TypeError(
            "this server needs 'async with', in an async test; in a sync test use a server "
            "in a thread (thread_server, or the fixture duplex_thread_server)"
        )

    def __exit__(self, *_: object) -> None:
        """Never called: `__enter__` raises."""

    def __await__(self) -> NoReturn:
        self.entered = True
        raise TypeError("do not await this server, but enter it: 'async with ... as server'")


def open_server(
    handler: Handler = echo,
    credentials: Credentials | None = None,
    *,
    window: windows.Window = DEFAULT_WINDOW,
    host: str = "127.0.0.1",
    listener: trio.abc.Listener[trio.abc.Stream] | None = None,
    drain_timeout: float = DRAIN_TIMEOUT,
    **options: Unpack[ServeOptions],
) -> ServerContext:
    """Run `trio_duplex.serve_listeners` during an ``async with`` block, then drain the server.

    The first exception that leaves a handler and is not a peer's fault ends the
    block, and is raised from it without a group around it. When the block ends,
    the server is drained; if an exception ends it, everything is cancelled at once.

    Example::

        async with open_server(handler, window=0.2) as server:
            report = await SilentPeer().run(server)

    Args:
        handler: Serves each connection; `echo` by default.
        credentials: What the server presents and whom it trusts; None for
            throw-away credentials.
        window: The detection window: seconds, or a policy of `trio_duplex.windows`.
        host: Address to listen on, at a free TCP port.
        listener: Another listener to use instead, such as one of
            `open_memory_listener`.
        drain_timeout: Seconds that connections have to finish when the block ends.
        options: As for `trio_duplex.serve_listeners`.

    Returns:
        An async context manager for the `trio_duplex.Server`.
    """

    @contextlib.asynccontextmanager
    async def opened() -> AsyncGenerator[Server]:
        mine = credentials or shared_authority().credentials("server.example")
        listeners = [listener] if listener else await trio.open_tcp_listeners(0, host=host)
        handler_error: Exception | None = None
        block_error: BaseException | None = None
        block = trio.CancelScope()

        async def serve(task_status: trio.TaskStatus[Server | None]) -> None:
            nonlocal handler_error
            try:
                await serve_listeners(
                    handler,
                    listeners,
                    mine,
                    window=window,
                    raise_handler_errors=True,
                    task_status=task_status,
                    **options,
                )
            except Exception as exc:  # noqa: BLE001 - raised from the block
                handler_error = exc
                block.cancel()
                with contextlib.suppress(RuntimeError):  # RuntimeError: it has started before
                    task_status.started(None)

        async with trio.open_nursery() as nursery:
            server: Server | None = None
            try:
                server = await nursery.start(serve)
                if server is not None:
                    with block:
                        yield server
                    if handler_error is None:
                        await server.drain(drain_timeout)
            except BaseException as exc:  # noqa: BLE001 - raised below, where no nursery wraps it
                block_error = exc
                if server is not None:
                    # Cancel the server's own scope and not the nursery, so that an error of a
                    # handler is still raised.
                    server.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            for each in listeners:  # they are still open if an argument was wrong
                await trio.aclose_forcefully(each)
        raise_first(handler_error, block_error)

    return ServerContext(opened)


class ServerFactory(Protocol):
    """The type of the fixture ``duplex_server``: `open_server` with default credentials."""

    def __call__(
        self,
        handler: Handler = ...,
        credentials: Credentials | None = None,
        *,
        window: windows.Window = ...,
        host: str = ...,
        listener: trio.abc.Listener[trio.abc.Stream] | None = None,
        drain_timeout: float = ...,
        **options: Unpack[ServeOptions],
    ) -> ServerContext:
        """As for `open_server`."""
        ...


def raise_first(handler_error: Exception | None, block_error: BaseException | None) -> None:
    """Raise the error of the handler or of the block; if there are both, the handler's is the cause."""
    if handler_error is not None:
        if isinstance(block_error, Exception):
            handler_error.add_note(f"Meanwhile the test itself failed: {block_error!r}")
        raise handler_error from block_error
    if block_error is not None:
        raise block_error


@attrs.frozen
class ThreadServer:
    """A server in a background thread; made by `thread_server`.

    Attributes:
        host: The address that it listens on.
        port: The TCP port that it listens on.
    """

    host: str
    port: int

    @property
    def address(self) -> tuple[str, int]:
        """``(host, port)``, as ``socket.create_connection`` takes it."""
        return self.host, self.port


@contextlib.contextmanager
def thread_server(
    handler: Handler = echo,
    credentials: Credentials | None = None,
    *,
    window: windows.Window = DEFAULT_WINDOW,
    host: str = "127.0.0.1",
    drain_timeout: float = DRAIN_TIMEOUT,
    **options: Unpack[ServeOptions],
) -> Generator[ThreadServer]:
    """Run a server in a background thread during a ``with`` block.

    This is for tests that do not use Trio, but ``ssl``, ``requests``, asyncio, or a
    subprocess such as ``openssl s_client``. The handler runs in the thread, on
    Trio. An exception that leaves it is raised when the block ends.

    Example::

        with thread_server() as server:
            subprocess.run(["openssl", "s_client", "-connect", f"{server.host}:{server.port}"])

    Args:
        handler: See `open_server`.
        credentials: See `open_server`.
        window: See `open_server`.
        host: See `open_server`.
        drain_timeout: See `open_server`.
        options: See `open_server`.

    Yields:
        The running server, which has its address.
    """
    started = concurrent.futures.Future[ThreadServer]()
    stop = trio.Event()

    async def serve() -> None:
        async with open_server(
            handler,
            credentials,
            window=window,
            host=host,
            drain_timeout=drain_timeout,
            **options,
        ) as server:
            address = server.addresses[0]
            assert isinstance(address, tuple)
            started.set_result(ThreadServer(address[0], address[1]))
            await stop.wait()

    thread = _TrioThread(serve, "trio_duplex test server")
    beginning: list[concurrent.futures.Future[Any]] = [started, thread.outcome]
    concurrent.futures.wait(beginning, return_when=concurrent.futures.FIRST_COMPLETED)
    if not started.done():
        thread.outcome.result()  # raises the error because of which it could not start
    block_error: BaseException | None = None
    try:
        yield started.result()
    except BaseException as exc:  # noqa: BLE001 - raised below
        block_error = exc
    thread.call(stop.set)
    error = thread.outcome.exception(JOIN_TIMEOUT)
    raise_first(error if isinstance(error, Exception) else None, block_error)


class ThreadServerFactory(Protocol):
    """The type of the fixture ``duplex_thread_server``: `thread_server` with default credentials.

    The servers are drained when the test ends.
    """

    def __call__(
        self,
        handler: Handler = ...,
        credentials: Credentials | None = None,
        *,
        window: windows.Window = ...,
        host: str = ...,
        drain_timeout: float = ...,
        **options: Unpack[ServeOptions],
    ) -> ThreadServer:
        """As for `thread_server`."""
        ...


@attrs.frozen
class RunningPeer:
    """A peer in a background thread; made by `thread_peer`.

    Attributes:
        peer: The peer; its ``report`` is updated while it runs.
    """

    peer: Peer
    _outcome: concurrent.futures.Future[PeerReport]

    def wait(self, timeout: float = JOIN_TIMEOUT) -> PeerReport:
        """Wait until the peer has ended, and return its report.

        Args:
            timeout: Seconds to wait.

        Raises:
            TimeoutError: The peer is still running.
            OSError: Nobody listened there.
        """
        return self._outcome.result(timeout)


@contextlib.contextmanager
def thread_peer(peer: Peer, target: Target) -> Generator[RunningPeer]:
    """Run a peer in a background thread during a ``with`` block.

    This is for tests of *your* server, if that server needs the current thread. When
    the block ends, a peer that is still running hangs up.

    Example::

        with socket.create_server(("127.0.0.1", 0)) as listening:
            with thread_peer(SilentPeer(), listening.getsockname()) as running:
                my_server.serve_one(listening)
                assert running.wait().role is Role.SERVER

    Args:
        peer: The peer to run.
        target: As for ``peer.run``, but not an object of this thread's Trio run.

    Yields:
        The running peer.
    """
    scope = trio.CancelScope()

    async def run() -> PeerReport:
        with scope:
            await peer.run(target)
        return peer.report

    thread = _TrioThread(run, f"trio_duplex {peer.kind}")
    try:
        yield RunningPeer(peer, thread.outcome)
    finally:
        thread.call(scope.cancel)
        # Wait for the end. `RunningPeer.wait` raises the peer's exception, if there is one.
        thread.outcome.exception(JOIN_TIMEOUT)


class _TrioThread(Generic[T]):
    """``trio.run(function)`` in a thread of its own."""

    def __init__(self, function: Callable[[], Awaitable[T]], name: str) -> None:
        self.outcome = concurrent.futures.Future[T]()
        self._token = concurrent.futures.Future[trio.lowlevel.TrioToken]()
        self._function = function
        # A daemon thread, so that an interrupted test run does not wait for it.
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in the thread's Trio run, if that has not ended yet."""
        with contextlib.suppress(trio.RunFinishedError):
            trio.from_thread.run_sync(function, trio_token=self._token.result(JOIN_TIMEOUT))

    def _run(self) -> None:
        try:
            result = trio.run(self._main)
        except BaseException as exc:  # noqa: BLE001 - raised when the result is read
            self.outcome.set_exception(exc)
        else:
            self.outcome.set_result(result)

    async def _main(self) -> T:
        self._token.set_result(trio.lowlevel.current_trio_token())
        return await self._function()
