"""The peers of the load, against servers of ours and against servers that play a script.

Real loopback sockets: the loop is epoll's. A script sees one connection at a
time, so what a peer says of it is known beforehand.
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from trio_duplex import Connection, Credentials, Role
from trio_duplex.cli._load.engine import Loop, was_reset
from trio_duplex.cli._load.peers import Peers, Target, _server_name
from trio_duplex.cli._load.plan import GARBAGE, HANG_UP, HTTP, MUTE, PARTIAL, RESET, Mix, Plan
from trio_duplex.cli._load.results import AT_THE_CAP, HELD, WE_LEFT, Class, Figures, Results
from trio_duplex.testing import Authority, Certificate, Flaw, ThreadServerFactory

pytestmark = pytest.mark.slow


Script = Callable[[socket.socket], object]

PATIENCE = 60.0
"""Seconds; for a machine that does a lot else."""

WINDOW = 3.0
"""Seconds in which every speaking peer speaks where silent ones wait too, on such a machine."""


class Clock:
    """Real time, and an hour more from when it is told: whoever waits for a timeout has waited."""

    def __init__(self) -> None:
        self._skipped = threading.Event()

    def skip(self) -> None:
        """Let the hour pass."""
        self._skipped.set()

    def __call__(self) -> float:
        return time.monotonic() + (3600 if self._skipped.is_set() else 0)


def play(
    mix: str,
    address: tuple[str, int],
    contexts: Certificate | Credentials,
    *,
    count: int = 1,
    size: int = 32,
    timeout: float = PATIENCE,
    max_open: int = 1000,
    rate: float = 1000,
    clock: Callable[[], float] = time.monotonic,
    tick: Callable[[], None] = lambda: None,
) -> Results:
    plan = Plan(
        host="node.example",
        port=address[1],
        rate=rate,
        count=count,
        mix=Mix.parse(mix),
        size=size,
        timeout=timeout,
        max_open=max_open,
    )
    loop = Loop(patience=timeout, clock=clock)
    peers = Peers(plan, Target(socket.AF_INET, address), contexts.context, loop)
    loop.run_at(plan.rate, peers.starts(), tick=tick)  # it looks at the clock at each tick
    assert not loop.errors  # they tell what happens to them
    return peers.results


@contextlib.contextmanager
def scripted(*scripts: Script) -> Iterator[tuple[str, int]]:
    """A server that plays a script with each connection, one after the other."""
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            for script in scripts:
                accepted, _ = listening.accept()
                with accepted:
                    accepted.settimeout(PATIENCE)
                    script(accepted)
        except BaseException as exc:  # noqa: BLE001 - raised below
            failures.append(exc)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()
        finally:
            thread.join(PATIENCE)
    if failures:
        raise failures[0]


def hang_up(_: socket.socket) -> None:
    pass


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset_when_spoken_to(sock: socket.socket) -> None:
    sock.recv(1)
    reset(sock)


def listen_to_end(sock: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while chunk := sock.recv(65536):
            received += chunk
    return received


@pytest.fixture
def contexts(duplex_certificate: Certificate) -> Certificate:
    """What the peers of these tests present and trust."""
    return duplex_certificate


Secure = Callable[[Callable[[ssl.SSLSocket], object]], Script]


@pytest.fixture
def secure(duplex_authority: Authority) -> Secure:
    """Makes a script of what to do once TLS is up, as TLS server."""
    context = duplex_authority.certificate("node.example").context(Role.SERVER)

    def make(talk: Callable[[ssl.SSLSocket], object]) -> Script:
        def script(sock: socket.socket) -> None:
            with context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as tls:
                talk(tls)

        return script

    return make


def window_for(mix: str) -> float:
    """The window of a server whose peers are all of one kind."""
    return math.inf if mix == "speaking" else 0.1


def only(results: Results) -> Figures:
    (figures,) = results.figures.values()
    return figures


def ends(results: Results) -> dict[str, int]:
    return {how: found.count for how, found in only(results).ends.items()}


def errors(results: Results) -> dict[str, int]:
    return {name: found.count for name, found in only(results).errors.items()}


# ------------------------------------------------------------------------------------------------- against ours


@pytest.mark.parametrize("size", [1, 65536, 0])
def test_all_get_through(
    size: int, duplex_thread_server: ThreadServerFactory, contexts: Certificate
) -> None:
    server = duplex_thread_server(window=WINDOW)
    results = play("speaking=2,silent=1", server.address, contexts, count=9, size=size)
    assert results.passed
    assert (results.dialled, len(results.late)) == (9, 9)
    assert results.rate > 0
    speaking, silent = results.figures.values()
    assert (speaking.done, silent.done) == (6, 3)
    echo = ["echo"] if size else []
    assert list(speaking.times) == ["connected", "handshake", *echo]
    assert list(silent.times) == ["connected", "ClientHello", "handshake", *echo]
    assert {len(times) for times in speaking.times.values()} == {6}
    # The server's window shows.
    assert silent.times["ClientHello"].percentile(1) >= WINDOW
    assert silent.times["connected"].percentile(100) < WINDOW
    for times in (speaking.times, silent.times):
        medians = [times[stage].percentile(50) for stage in times]
        assert medians == sorted(medians)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_hostile_peers_and_how_they_end(
    version: ssl.TLSVersion, duplex_authority: Authority, duplex_thread_server: ThreadServerFactory
) -> None:
    server = duplex_thread_server(window=WINDOW, handshake_timeout=WINDOW)
    # `Credentials` give one context again and again, unlike certificates: its version can be set.
    credentials = duplex_authority.credentials("peer.example")
    for role in Role:
        credentials.context(role).minimum_version = version
        credentials.context(role).maximum_version = version
    results = play("hostile=1", server.address, credentials, count=12)
    assert results.passed
    assert {
        kind: {how: found.count for how, found in figures.ends.items()}
        for kind, figures in results.figures.items()
    } == {
        HTTP: {"end of stream": 2},
        HANG_UP: {WE_LEFT: 2},
        RESET: {WE_LEFT: 2},
        PARTIAL: {"end of stream": 2},
        GARBAGE: {"alert bad_record_mac": 2},
        MUTE: {"end of stream": 2},
    }
    mute = results.figures[MUTE]
    assert list(mute.times) == ["connected", "ClientHello", "ended"]
    assert mute.times["ClientHello"].percentile(1) >= WINDOW
    assert mute.times["ended"].percentile(1) >= 2 * WINDOW  # window and handshake timeout
    assert dict(mute.ends.items())["end of stream"].example == "it sent a TLS ClientHello"
    assert list(results.figures[HANG_UP].times) == ["connected"]
    assert list(results.figures[GARBAGE].times) == ["connected", "handshake", "ended"]


@pytest.mark.parametrize(
    ("mix", "size", "error"),
    [
        ("speaking", 32, "echo: alert unknown_ca"),  # with TLS 1.3, the handshake was done
        ("silent", 32, "handshake: alert unknown_ca"),
        ("silent", 0, "handshake: alert unknown_ca"),
    ],
)
def test_a_certificate_that_the_server_refuses(
    mix: str,
    size: int,
    error: str,
    duplex_authority: Authority,
    duplex_thread_server: ThreadServerFactory,
) -> None:
    server = duplex_thread_server(window=window_for(mix))
    stranger = duplex_authority.flawed(Flaw.WRONG_AUTHORITY)
    results = play(mix, server.address, stranger, count=3, size=size)
    assert errors(results) == {error: 3}
    assert not results.passed


@pytest.mark.parametrize("mix", ["speaking", "silent"])
def test_a_certificate_that_the_peers_refuse(
    mix: str, contexts: Certificate, duplex_thread_server: ThreadServerFactory
) -> None:
    other = Authority()
    # It trusts the peers, and they do not trust it.
    mine = Credentials.mutual(
        certificate_chain=other.certificate("node.example").private_key_and_cert_chain_pem.bytes(),
        trust=contexts.trust_pem,
        check=False,
    )
    server = duplex_thread_server(credentials=mine, window=window_for(mix))
    results = play(mix, server.address, contexts, count=2)
    assert errors(results) == {"handshake: certificate refused": 2}
    ((_, found),) = only(results).errors.items()
    assert "certificate" in found.example


def test_a_server_that_finishes_at_once_is_no_failure_without_echo(
    contexts: Certificate, duplex_thread_server: ThreadServerFactory
) -> None:
    async def bye(connection: Connection) -> None:
        await connection.send_all(b"welcome, and good bye")

    server = duplex_thread_server(bye, window=WINDOW)
    results = play("speaking=1,silent=1", server.address, contexts, count=6, size=0)
    assert results.passed, [figures.errors.items() for figures in results.figures.values()]


# ---------------------------------------------------------------------------------------- against whom else there is


def test_nobody_listens(contexts: Certificate) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    results = play("speaking=1,http=1", address, contexts, count=4)
    for figures in results.figures.values():
        assert {name: found.count for name, found in figures.errors.items()} == {
            "connected: refused": 2
        }
    assert not results.passed


@pytest.mark.parametrize(
    ("mix", "script", "error"),
    [
        ("speaking", hang_up, "handshake: end of stream|reset"),
        ("speaking", reset_when_spoken_to, "handshake: reset"),
        ("silent", hang_up, "ClientHello: end of stream"),
        ("silent", reset, "ClientHello: reset"),
        ("silent", lambda sock: sock.send(b"220 mail.example\r\n"), "handshake: "),
    ],
)
def test_servers_that_do_not_speak_tls(
    mix: str, script: Script, error: str, contexts: Certificate
) -> None:
    with scripted(script) as address:
        (found,) = errors(play(mix, address, contexts))
    stage, _, classes = error.partition(": ")
    assert found.startswith(f"{stage}: ")
    assert not classes or found.removeprefix(f"{stage}: ") in classes.split("|")


def echo_wrong(tls: ssl.SSLSocket) -> None:
    tls.sendall(tls.recv(100)[::-1])
    listen_to_end(tls)


def echo_half(tls: ssl.SSLSocket) -> None:
    tls.sendall(tls.recv(100)[:10])
    with contextlib.suppress(OSError):
        tls.unwrap()


def cut_off(tls: ssl.SSLSocket) -> None:
    tls.recv(100)


@pytest.mark.parametrize(
    ("talk", "error", "example"),
    [
        (echo_wrong, "echo: wrong bytes", "it sent b"),
        (echo_half, "echo: close_notify", "the server finished after 10 of 32 bytes"),
        (cut_off, "echo: end of stream", "the server hung up"),
    ],
)
def test_wrong_echo(
    talk: Callable[[ssl.SSLSocket], None],
    error: str,
    example: str,
    contexts: Certificate,
    secure: Secure,
) -> None:
    with scripted(secure(talk)) as address:
        results = play("speaking", address, contexts)
    ((name, found),) = only(results).errors.items()
    assert name == error
    assert found.example.startswith(example)


def reset_now(tls: ssl.SSLSocket) -> None:
    tls.recv(100)
    reset(tls)


def finish(tls: ssl.SSLSocket) -> None:
    tls.recv(100)
    with contextlib.suppress(OSError):
        tls.unwrap()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(
    ("talk", "words", "example"),
    [
        (finish, "close_notify", "the server finished"),
        (cut_off, "end of stream", "the server hung up"),
        (reset_now, "reset", "the server reset the connection"),
        (None, "timeout", "timed out"),
    ],
)
def test_the_same_ending_has_the_same_words(
    talk: Callable[[ssl.SSLSocket], None] | None,
    words: str,
    example: str,
    role: Role,
    version: ssl.TLSVersion,
    duplex_authority: Authority,
    contexts: Certificate,
) -> None:
    """On each Python, in each role and TLS version."""
    context = duplex_authority.certificate("node.example").context(role)
    context.minimum_version = context.maximum_version = version
    clock = Clock()

    def wait_for_the_timeout(tls: ssl.SSLSocket) -> None:
        tls.recv(1)  # it has shaken hands
        clock.skip()
        listen_to_end(tls)

    def script(sock: socket.socket) -> None:
        with context.wrap_socket(
            sock, server_side=role is Role.SERVER, suppress_ragged_eofs=False
        ) as tls:
            (talk or wait_for_the_timeout)(tls)

    mix = "speaking" if role is Role.SERVER else "silent"
    with scripted(script) as address:
        results = play(mix, address, contexts, clock=clock)
    ((name, found),) = only(results).errors.items()
    assert name == f"echo: {words}"
    assert found.example.startswith(example)


def test_an_end_and_then_a_reset_is_an_end() -> None:
    """The read has found the end; that a reset came later is timing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with socket.create_connection(listening.getsockname()) as ours:
            theirs, _ = listening.accept()
            theirs.close()
            assert ours.recv(1) == b""
            assert not was_reset(ours)
            ours.send(b"x")  # to which the answer is a reset, before send() returns on loopback
            assert ours.recv(1) == b""
            assert not was_reset(ours)


def test_an_echo_in_pieces_is_one(contexts: Certificate, secure: Secure) -> None:
    def talk(tls: ssl.SSLSocket) -> None:
        for byte in tls.recv(100):
            tls.sendall(bytes([byte]))
        listen_to_end(tls)

    with scripted(secure(talk)) as address:
        assert play("speaking", address, contexts).passed


def test_what_goes_wrong_after_the_echo_is_no_failure(
    contexts: Certificate, secure: Secure
) -> None:
    def talk(tls: ssl.SSLSocket) -> None:
        tls.sendall(tls.recv(100))
        tls.recv(100)  # their close_notify
        reset(tls)

    with scripted(secure(talk)) as address:
        assert play("speaking", address, contexts).passed


@pytest.mark.parametrize(
    ("mix", "error"),
    [("speaking", "handshake: timeout"), ("silent", "ClientHello: timeout")],
)
def test_a_server_that_says_nothing(mix: str, error: str, contexts: Certificate) -> None:
    with scripted(listen_to_end) as address:
        results = play(mix, address, contexts, timeout=0.05)
    assert errors(results) == {error: 1}


@pytest.mark.parametrize("kind", [HTTP, PARTIAL, MUTE])
def test_hostile_peers_that_are_held(kind: str, contexts: Certificate) -> None:
    with scripted(listen_to_end) as address:
        results = play(kind, address, contexts, timeout=0.2)
    assert ends(results) == {HELD: 1}
    assert results.passed


def garbage_read(tls: ssl.SSLSocket) -> None:
    with pytest.raises(ssl.SSLError):
        tls.recv(100)


def garbage_waved_off(tls: ssl.SSLSocket) -> None:
    with contextlib.suppress(ssl.SSLError):
        tls.unwrap()  # it meets the garbage where it looks for their close_notify


def garbage_reset(tls: ssl.SSLSocket) -> None:
    socket.socket.recv(tls, 1)
    reset(tls)


@pytest.mark.parametrize(
    ("talk", "how"),
    [
        (None, {HELD}),
        (garbage_read, {"alert bad_record_mac"}),
        (garbage_waved_off, {"close_notify"}),
        (garbage_reset, {"reset"}),
    ],
)
def test_how_servers_end_garbage(
    talk: Callable[[ssl.SSLSocket], None] | None,
    how: set[str],
    contexts: Certificate,
    secure: Secure,
) -> None:
    clock = Clock()

    def garbage_unread(tls: ssl.SSLSocket) -> None:
        while socket.socket.recv(tls, 100):  # past TLS, until it hangs up
            clock.skip()

    with scripted(secure(talk or garbage_unread)) as address:
        results = play(GARBAGE, address, contexts, clock=clock)
    (found,) = ends(results)
    assert found in how


def test_garbage_where_there_is_no_tls_is_a_failure(contexts: Certificate) -> None:
    with scripted(reset_when_spoken_to) as address:
        results = play(GARBAGE, address, contexts)
    assert errors(results) == {"handshake: reset": 1}
    assert not results.passed


@pytest.mark.parametrize(
    ("script", "how", "example"),
    [
        (hang_up, "end of stream", "it sent nothing"),
        (reset, "reset", "it sent nothing"),
        (
            lambda sock: sock.send(bytes.fromhex("15 0303 0002 02 28")),
            "alert handshake_failure",
            "it sent a TLS alert (fatal handshake_failure)",
        ),
        (lambda sock: sock.send(b"SSH-2.0-x\r\n"), "end of stream", "it sent an SSH banner"),
    ],
)
def test_how_servers_end_a_mute_peer(
    script: Script, how: str, example: str, contexts: Certificate
) -> None:
    with scripted(script) as address:
        results = play(MUTE, address, contexts)
    assert only(results).ends.items() == [(how, Class(1, example))]


def test_what_hostile_peers_put_on_the_wire(contexts: Certificate) -> None:
    received: dict[str, bytes] = {}
    for kind in (HTTP, PARTIAL, MUTE, HANG_UP, RESET):

        def listen(sock: socket.socket, kind: str = kind) -> None:
            received[kind] = listen_to_end(sock)

        with scripted(listen) as address:
            play(kind, address, contexts, timeout=0.1)
    assert received[HTTP].startswith(b"GET / HTTP/1.1\r\nHost: node.example\r\n")
    assert received[PARTIAL][:3] == b"\x16\x03\x01"
    assert len(received[PARTIAL]) == 20
    assert received[MUTE] == received[HANG_UP] == received[RESET] == b""


def test_the_cap_is_counted_and_nobody_waits(contexts: Certificate) -> None:
    clock = Clock()
    with scripted(listen_to_end, listen_to_end) as address:
        results = play(
            *("silent", address, contexts), count=10, max_open=2, clock=clock, tick=clock.skip
        )
    figures = only(results)
    assert (figures.dialled, figures.failed) == (2, 2)
    assert figures.not_dialled == {AT_THE_CAP: 8}


def test_no_descriptor_left_is_our_own_fault(
    contexts: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> socket.socket:
        raise OSError(24, "Too many open files")

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        monkeypatch.setattr("trio_duplex.cli._load.engine.socket.socket", none_left)
        results = play("speaking", address, contexts, count=3)
    assert only(results).not_dialled == {"EMFILE": 3}
    assert not results.passed


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("a.example", "a.example"),
        ("a.example.", "a.example"),
        ("127.0.0.1", None),
        ("::1", None),
        ("fe80::1%lo", None),
    ],
)
def test_who_is_asked_for_by_name(host: str, name: str | None) -> None:
    assert _server_name(host) == name


def test_the_seed_decides_what_is_sent(contexts: Certificate, secure: Secure) -> None:
    said: list[bytes] = []

    def talk(tls: ssl.SSLSocket) -> None:
        said.append(tls.recv(100))
        tls.sendall(said[-1])
        listen_to_end(tls)

    with scripted(secure(talk), secure(talk)) as address:
        for _ in range(2):
            play("speaking", address, contexts)
    assert said[0] == said[1]
    assert len(set(said[0])) > 8
