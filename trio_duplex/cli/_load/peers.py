"""The peers of ``trio-duplex load``: each dials, plays its part, and records the result.

The speaking and silent peers behave like real ones: they present the certificate,
verify the server's against ``--trust``, send a message, expect it back, and finish
with a close_notify. The hostile peers each do one thing wrong, and wait to see how
the server ends the connection.
"""

from __future__ import annotations

import contextlib
import ipaddress
import random
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import attrs

from trio_duplex import Role
from trio_duplex.cli._load.engine import READ, Address, Loop, Peer, client_hello, dial, send, tls
from trio_duplex.cli._load.plan import (
    GARBAGE,
    HANG_UP,
    HOSTILE,
    HTTP,
    MUTE,
    PARTIAL,
    RESET,
    SILENT,
    SPEAKING,
    Plan,
)
from trio_duplex.cli._load.results import (
    AT_THE_CAP,
    CONNECTED,
    ECHO,
    ENDED,
    HANDSHAKE,
    HELD,
    HELLO,
    WE_LEFT,
    Figures,
    HungUpError,
    PeerEndedError,
    Results,
    WrongEchoError,
    classify_error,
    last_alert,
)
from trio_duplex.openings import OpeningKind, classify

RECEIVE_SIZE = 65536
PARTIAL_SIZE = 20
UNDECIPHERABLE = b"\x17\x03\x03\x00\x40" + bytes(range(64))
"""An application data record that can't be decrypted, so the answer is bad_record_mac."""

_AFTER_CONNECTED = {SPEAKING: HANDSHAKE, SILENT: HELLO, GARBAGE: HANDSHAKE}

Contexts = Callable[[Role], ssl.SSLContext]
"""The TLS context for a role."""


@attrs.frozen
class Target:
    """The resolved address to dial.

    Attributes:
        family: The address family.
        address: The socket address.
    """

    family: int
    address: Address


class _Course:
    """The progress of one peer through the stages."""

    __slots__ = ("_clock", "_due", "figures", "stage")

    def __init__(self, figures: Figures, due: float, clock: Callable[[], float]) -> None:
        self.figures = figures
        self.stage = CONNECTED  # the stage that it will reach next
        self._due = due
        self._clock = clock

    def reached(self, stage: str, then: str = ENDED) -> None:
        """Record that the peer has reached a stage; ``then`` is the next one."""
        self.figures.reached(stage, self._clock() - self._due)
        self.stage = then


class Peers:
    """Makes the peers of a plan, and collects their results.

    Args:
        plan: The plan.
        target: The address to dial.
        contexts: The TLS contexts of the peers that complete handshakes.
        loop: The loop that runs them.
        clock: The loop's clock.

    Attributes:
        results: The results so far.
    """

    def __init__(
        self,
        plan: Plan,
        target: Target,
        contexts: Contexts,
        loop: Loop,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.results = Results(plan.mix)
        self._plan = plan
        self._target = target
        self._contexts = contexts
        self._loop = loop
        self._clock = clock
        self._first: float | None = None  # when the first peer was due
        self._cpu = 0.0
        self._message = random.Random(plan.seed).randbytes(plan.size)  # noqa: S311 - not a secret
        self._name = _server_name(plan.host)
        self._hello = client_hello(contexts(Role.CLIENT))[:PARTIAL_SIZE]
        self._scripts: dict[str, Callable[[_Course, socket.socket], Peer]] = {
            SPEAKING: self._speak,
            SILENT: self._be_silent,
            HTTP: partial(self._say, f"GET / HTTP/1.1\r\nHost: {plan.host}\r\n\r\n".encode()),
            HANG_UP: self._hang_up,
            RESET: self._reset,
            PARTIAL: partial(self._say, self._hello),
            GARBAGE: self._send_garbage,
            MUTE: partial(self._say, b""),
        }

    def starts(self) -> Iterator[Callable[[float], Peer | None]]:
        """Yield for each peer a function that starts it when it is due."""
        for kind in islice(self._plan.mix.draw(self._plan.seed), self._plan.count):
            yield partial(self._start, kind)

    def _start(self, kind: str, due: float) -> Peer | None:
        figures = self.results.figures[kind]
        if self._loop.open >= self._plan.max_open:
            figures.not_dialled[AT_THE_CAP] += 1
            return None
        now = self._clock()
        if self._first is None:
            self._first, self._cpu = due, time.process_time()
        figures.dialled += 1
        self.results.late.add(now - due)
        # Add the time until the next peer is due, so that 10 peers at 10 per second take one second.
        self.results.dialling = now - self._first + 1 / self._plan.rate
        self.results.cpu = time.process_time() - self._cpu
        return self._play(kind, _Course(figures, due, self._clock))

    def _play(self, kind: str, course: _Course) -> Peer:
        try:
            with (yield from dial(self._target.address, family=self._target.family)) as raw:
                course.reached(CONNECTED, then=_AFTER_CONNECTED.get(kind, ENDED))
                yield from self._scripts[kind](course, raw)
        except ConnectionResetError as exc:
            if course.stage == CONNECTED:
                # It was accepted before the reset. Otherwise the error would be ConnectionRefusedError.
                course.reached(CONNECTED, then=_AFTER_CONNECTED.get(kind, ENDED))
                if kind in HOSTILE:
                    course.reached(ENDED)
                    course.figures.end("reset", _describe(b""))
                    return
            course.figures.fail(course.stage, exc)
        except OSError as exc:
            course.figures.fail(course.stage, exc)

    # ------------------------------------------------------------------------------------------ speaking and silent

    def _speak(self, course: _Course, raw: socket.socket) -> Peer:
        with self._wrap(raw, Role.CLIENT) as sock:
            yield from self._handshake(course, sock)
            yield from self._converse(course, sock)

    def _be_silent(self, course: _Course, raw: socket.socket) -> Peer:
        yield raw.fileno(), READ
        if not raw.recv(1, socket.MSG_PEEK):
            raise HungUpError("the server hung up")
        course.reached(HELLO, then=HANDSHAKE)
        with self._wrap(raw, Role.SERVER) as sock:
            yield from self._handshake(course, sock)
            yield from self._converse(course, sock)

    def _wrap(self, raw: socket.socket, role: Role) -> ssl.SSLSocket:
        return self._contexts(role).wrap_socket(
            raw,
            server_side=role is Role.SERVER,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
            server_hostname=self._name if role is Role.CLIENT else None,
        )

    def _handshake(self, course: _Course, sock: ssl.SSLSocket) -> Peer:
        yield from tls(sock, sock.do_handshake)
        course.reached(HANDSHAKE, then=ECHO)

    def _converse(self, course: _Course, sock: ssl.SSLSocket) -> Peer:
        if not self._message:
            # In TLS 1.3 the client's handshake is done before the server has verified the client's
            # certificate. So an alert that refuses the peer may come as late as here.
            course.stage = ENDED
            # Look for an alert before the close_notify, because SSL_shutdown treats an alert as the
            # answer. An alert that comes between the two calls is missed. That does not matter: if
            # the server refuses peers, enough of them will notice.
            next(tls(sock, partial(sock.recv, RECEIVE_SIZE)), None)  # without waiting for it
            with contextlib.suppress(TimeoutError):
                yield from _finish(sock)
            course.figures.done += 1
            return
        yield from send(sock, self._message)
        echo = b""
        while len(echo) < len(self._message):
            chunk = yield from tls(sock, partial(sock.recv, len(self._message) - len(echo)))
            if not chunk:
                raise PeerEndedError(
                    f"the server finished after {len(echo)} of {len(self._message)} bytes"
                )
            echo += chunk
        if echo != self._message:
            raise WrongEchoError(f"it sent {echo[:8]!r}... back, not {self._message[:8]!r}...")
        course.reached(ECHO)
        course.figures.done += 1
        with contextlib.suppress(OSError):
            yield from _finish(sock)

    # ------------------------------------------------------------------------------------------------------- hostile

    def _say(self, data: bytes, course: _Course, raw: socket.socket) -> Peer:
        """Send some raw bytes, and wait until the server ends the connection."""
        received, how = b"", "end of stream"
        try:
            if data:
                raw.send(data)
            while True:
                yield raw.fileno(), READ
                chunk = raw.recv(RECEIVE_SIZE)
                if not chunk:
                    break
                if not received and classify(chunk).kind is OpeningKind.CLIENT_HELLO:
                    course.reached(HELLO)
                received = (received + chunk)[:RECEIVE_SIZE]
        except TimeoutError:
            course.figures.end(HELD, _describe(received))
            return
        except ConnectionError:
            how = "reset"
        course.reached(ENDED)
        alert = last_alert(received)
        course.figures.end(f"alert {alert}" if alert else how, _describe(received))

    def _send_garbage(self, course: _Course, raw: socket.socket) -> Peer:
        with self._wrap(raw, Role.CLIENT) as sock:
            yield from self._handshake(course, sock)
            try:
                socket.socket.send(sock, UNDECIPHERABLE)  # raw, not through TLS
                while (yield from tls(sock, partial(sock.recv, RECEIVE_SIZE))):
                    pass
            except TimeoutError:
                course.figures.end(HELD, "")
                return
            except OSError as exc:
                how, example = classify_error(exc)
            else:
                how, example = "close_notify", ""
        course.reached(ENDED)
        course.figures.end(how, example)

    def _hang_up(self, course: _Course, _raw: socket.socket) -> Peer:
        course.figures.end(WE_LEFT, "hung up at once")
        yield from ()

    def _reset(self, course: _Course, raw: socket.socket) -> Peer:
        # On, for 0 s: close() then sends RST.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        course.figures.end(WE_LEFT, "reset at once")
        yield from ()


def _finish(sock: ssl.SSLSocket) -> Peer:
    """Send close_notify, wait for the server to finish in any way, and hang up.

    The end that closes first keeps the port for a minute (TIME_WAIT). That must be
    the server, because this machine would otherwise run out of ports.

    Raises:
        ssl.SSLError: The server sent an alert.
        ConnectionError: The server reset the connection.
    """
    try:
        sock.unwrap()
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        pass
    except ssl.SSLError as exc:
        if exc.reason != "APPLICATION_DATA_AFTER_CLOSE_NOTIFY":
            raise
    else:
        yield from _wait_for_end(sock)
        return
    try:
        while (yield from tls(sock, partial(sock.recv, RECEIVE_SIZE))):
            pass
    except ssl.SSLZeroReturnError:
        pass
    except ssl.SSLError as exc:
        # CPython 3.11.2 raises a plain SSLError for a stream that ends without a close_notify.
        if not isinstance(exc, ssl.SSLEOFError) and exc.reason != "UNEXPECTED_EOF_WHILE_READING":
            raise
        return
    yield from _wait_for_end(sock)


def _wait_for_end(sock: ssl.SSLSocket) -> Peer:
    """Wait until the other end hangs up, after TLS has ended."""
    with contextlib.suppress(ConnectionError):
        while True:
            yield sock.fileno(), READ
            if not socket.socket.recv(sock, RECEIVE_SIZE):
                return


def _describe(received: bytes) -> str:
    return f"it sent {classify(received).looks_like}" if received else "it sent nothing"


def _server_name(host: str) -> str | None:
    """Return the name for SNI; None for an IP address, which must not be in it (RFC 6066, section 3)."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.rstrip(".")
    return None
