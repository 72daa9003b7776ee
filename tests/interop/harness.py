"""A server of ours in a thread, so that programs of other people can be run against it.

Peers here are processes, or blocking sockets: what they do is not Trio's business, so the tests are
plain functions and the server is what runs in Trio. One server serves a whole module, as one does
in the field: no test may leave it unable to serve the next.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import random
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import IO, Literal, Self

import attrs
import trio

from tests.support.contexts import new_context
from tests.support.records import ALERT, split_records
from trio_duplex import Connection, Credentials, DuplexError, Role, negotiate, serve_tcp
from trio_duplex.windows import PeerFacts

WINDOW = 0.5
"""Seconds of silence that make us the TLS client."""

SILENT_HOST = "127.0.0.2"
"""The address from which silent peers dial, and nobody else. So a program that speaks has all the
time that it takes on a busy machine, at the port where a silent one waits for `WINDOW`."""

TIMEOUT = 120.0
"""Seconds after which something hangs. Nothing here takes one."""

MESSAGE = random.Random(8071).randbytes(1 << 20)
"""What is echoed: 1 MiB in which no part looks like another. The server hangs up after that many
bytes, so that a peer also sees how a stream ends."""

BLOCK = 1 << 16
"""What a peer that can't send and receive at once sends, before it waits for the echo."""

Version = Literal["1.2", "1.3"]
VERSIONS: tuple[Version, ...] = ("1.2", "1.3")
TLS_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def window(facts: PeerFacts) -> float:
    """The detection window of every server here."""
    silent = facts.remote_address is not None and facts.remote_address[0] == SILENT_HOST
    return WINDOW if silent else math.inf


@attrs.frozen
class Files:
    """Certificates on disk, each PEM file with its private key first.

    Attributes:
        folder: Where they are; tests may write here.
        trust: The authority that everybody trusts.
        ours: A certificate of that authority, for 127.0.0.1 and both roles.
        peer: Another one, as good.
        stranger: One of an authority that nobody trusts.
    """

    folder: Path
    trust: Path
    ours: Path
    peer: Path
    stranger: Path

    @property
    def message(self) -> Path:
        """`MESSAGE`, for programs that read it from a file."""
        return self.folder / "message"

    @property
    def credentials(self) -> Credentials:
        return Credentials.mutual(certificate_chain=self.ours, trust=self.trust)


@attrs.frozen
class Outcome:
    """How one accepted connection ended.

    Attributes:
        port: The peer's TCP port.
        connection: What was negotiated, and closed by now; or None.
        error: What the negotiation ended in; or None.
        received: How many bytes of data came in.
        digest: Their SHA-256.
    """

    port: int
    connection: Connection | None = None
    error: DuplexError | None = None
    received: int = 0
    digest: str = ""

    @property
    def opened(self) -> Connection:
        assert self.connection is not None, f"refused: {self.error}"
        return self.connection

    @property
    def role(self) -> Role:
        return self.opened.role

    @property
    def version(self) -> str | None:
        version: str | None = self.opened.tls_version
        return version

    def is_echo(self) -> bool:
        """Whether all of `MESSAGE` came in, byte for byte."""
        return self.digest == hashlib.sha256(MESSAGE).hexdigest()


class EchoServer:
    """Echoes, in a thread of its own, until `EchoServer.stop`.

    Args:
        credentials: For both roles.

    Attributes:
        port: Served by ``serve_tcp``, as applications do.
        watched_port: Served by a loop around ``negotiate``, so that also what is refused leaves an
            `Outcome`.
    """

    port: int
    watched_port: int

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._changed = threading.Condition()
        self._outcomes: list[Outcome] = []
        self._failure: BaseException | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="EchoServer")
        self._thread.start()
        assert self._started.wait(TIMEOUT)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure
        assert not self._outcomes, "a test left an outcome behind that it did not look at"

    def outcome(self, port: int | None = None) -> Outcome:
        """Wait until the connection from `port` ended, or any if None, and tell how."""

        def there() -> Outcome | None:
            return next((one for one in self._outcomes if port in (None, one.port)), None)

        with self._changed:
            found = self._changed.wait_for(there, TIMEOUT)
            assert found is not None, f"no connection ended within {TIMEOUT} s"
            self._outcomes.remove(found)
            return found

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as exc:  # noqa: BLE001 - given to whoever stops us
            self._failure = exc
        finally:
            self._started.set()

    async def _serve(self) -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                lambda task_status: serve_tcp(
                    self._echo,
                    0,
                    self._credentials,
                    host="127.0.0.1",
                    window=window,
                    raise_handler_errors=True,
                    task_status=task_status,
                )
            )
            ((_, self.port),) = server.addresses
            (listener,) = await nursery.start(
                lambda task_status: trio.serve_tcp(
                    self._negotiate_and_echo, 0, host="127.0.0.1", task_status=task_status
                )
            )
            _, self.watched_port = listener.socket.getsockname()
            self._scope = nursery.cancel_scope
            self._token = trio.lowlevel.current_trio_token()
            self._started.set()

    async def _negotiate_and_echo(self, stream: trio.SocketStream) -> None:
        _, port = stream.socket.getpeername()
        try:
            connection = await negotiate(stream, self._credentials, window=window)
        except DuplexError as exc:
            self._add(Outcome(port, error=exc))
        else:
            async with connection:
                with contextlib.suppress(trio.BrokenResourceError):
                    await self._echo(connection)

    async def _echo(self, connection: Connection) -> None:
        digest, received = hashlib.sha256(), 0
        assert isinstance(connection.remote_address, tuple)
        try:
            while received < len(MESSAGE) and (chunk := await connection.receive_some()):
                received += len(chunk)
                digest.update(chunk)
                await connection.send_all(chunk)
        finally:
            port = connection.remote_address[1]
            self._add(Outcome(port, connection, None, received, digest.hexdigest()))

    def _add(self, outcome: Outcome) -> None:
        with self._changed:
            self._outcomes.append(outcome)
            self._changed.notify_all()


# ------------------------------------------------------------------------------------- programs


@contextlib.contextmanager
def program(
    *command: str | Path,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    stdin: socket.socket | None = None,
    discard: bool = False,
) -> Generator[subprocess.Popen[bytes]]:
    """Run a program with pipes to all three of its standard streams; kill it in the end.

    Args:
        command: What to run.
        cwd: The folder to run it in; None for ours.
        pass_fds: File descriptors that it inherits.
        stdin: A socket in place of the pipe, as inetd gives.
        discard: It writes more than a pipe holds, and nobody reads it.
    """
    output = subprocess.DEVNULL if discard else subprocess.PIPE
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE if stdin is None else stdin.fileno(),
        stdout=output,
        stderr=output,
        cwd=cwd,
        pass_fds=pass_fds,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def exchange(process: subprocess.Popen[bytes], message: bytes = MESSAGE) -> bytes:
    """Type `message` into a program, and read as many bytes from it as were typed."""
    assert process.stdin is not None
    assert process.stdout is not None
    typing = threading.Thread(target=_type, args=(process.stdin, message))
    typing.start()
    with _kill_after(process, TIMEOUT):
        answer = process.stdout.read(len(message))
        typing.join()
    return answer


def _type(stdin: IO[bytes], message: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):  # what it answered will tell
        stdin.write(message)
        stdin.flush()


@contextlib.contextmanager
def _kill_after(process: subprocess.Popen[bytes], seconds: float) -> Generator[None]:
    """End the program, and with it a read from its pipe that would block for ever."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Poll until a program is ready that has no other way to tell us."""
    deadline = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {TIMEOUT} s"
        time.sleep(0.01)


def run(
    *command: str | Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, however it ends, with nothing to read from stdin."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
        env=environment,
    )


def dial(port: int, role: Role) -> socket.socket:
    """Dial a port on 127.0.0.1, as a peer that is to play this role."""
    source = (SILENT_HOST, 0) if role is Role.SERVER else None
    return socket.create_connection(("127.0.0.1", port), source_address=source)


# -------------------------------------------------------------------------------------- a relay


class Relay:
    """Relays one TCP connection and keeps what went through, for a look at the wire.

    Args:
        target: The port to relay to, on 127.0.0.1.
        role: The role of the peer that is relayed.

    Attributes:
        port: Where to dial.
        to_target: What the dialler has sent.
        from_target: What it was sent.
    """

    def __init__(self, target: int, role: Role) -> None:
        self._target = target
        self._role = role
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(TIMEOUT)
        self.port: int = self._listener.getsockname()[1]
        self.to_target = bytearray()
        self.from_target = bytearray()
        self._thread = threading.Thread(target=self._run, name="Relay")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(TIMEOUT)
        self._listener.close()

    def wait(self) -> None:
        """Wait until both ends have hung up."""
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            dialler = stack.enter_context(self._listener.accept()[0])
            target = stack.enter_context(dial(self._target, self._role))
            ways = (
                threading.Thread(target=self._pump, args=(dialler, target, self.to_target)),
                threading.Thread(target=self._pump, args=(target, dialler, self.from_target)),
            )
            for way in ways:
                way.start()
            for way in ways:
                way.join()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket, seen: bytearray) -> None:
        source.settimeout(TIMEOUT)
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                seen += data
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def plaintext_alerts(stream: bytes | bytearray) -> list[tuple[int, int]]:
    """The (level, description) of each unencrypted alert in a stream of TLS records.

    RFC 5246, sections 6.2.1 and 7.2. An encrypted alert is longer than two bytes.
    """
    alerts = (body for kind, body in split_records(bytes(stream)) if kind == ALERT)
    return [(body[0], body[1]) for body in alerts if len(body) == 2]


# ---------------------------------------------------------------------- Python's own blocking ssl


def python_context(
    files: Files, role: Role, versions: Sequence[Version] = VERSIONS
) -> ssl.SSLContext:
    """The context of a peer that plays `role`, written without our library."""
    context = new_context(role)
    context.check_hostname = role is Role.CLIENT
    context.minimum_version = TLS_VERSIONS[min(versions)]
    context.maximum_version = TLS_VERSIONS[max(versions)]
    context.load_cert_chain(files.peer)
    context.load_verify_locations(files.trust)
    return context


def python_dials(
    sock: socket.socket,
    context: ssl.SSLContext,
    role: Role,
    *,
    halfway: Callable[[], object] = lambda: None,
) -> bytes:
    """On a connected socket, play `role` with the blocking ssl module; return the echo.

    Args:
        sock: It is closed in the end.
        context: Of the peer's, for `role`.
        role: The peer's.
        halfway: Called when half of `MESSAGE` has come back.
    """
    sock.settimeout(TIMEOUT)
    echo = bytearray()
    with context.wrap_socket(
        sock,
        server_side=role is Role.SERVER,
        server_hostname="127.0.0.1" if role is Role.CLIENT else None,
        suppress_ragged_eofs=False,
    ) as tls:
        # In turns: before Python 3.13, two threads must not use one SSLSocket.
        for start in range(0, len(MESSAGE), BLOCK):
            if start == len(MESSAGE) // 2:
                halfway()
            tls.sendall(MESSAGE[start : start + BLOCK])
            while len(echo) < start + BLOCK:
                chunk = tls.recv(start + BLOCK - len(echo))
                assert chunk, f"the stream ended after {len(echo)} bytes"
                echo += chunk
        assert tls.recv(1) == b""  # a close_notify, not a bare FIN
    return bytes(echo)
