"""What is measured: servers of the world, each in a process of its own.

A subject knows how its server is started, what it can do, and whether its
program is there. All present the same certificate, and demand and verify one of
the client; all else is as its users get it, session tickets included, unless
the name of the subject says otherwise.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from benchmarks.processes import ROOT, Process

SERVERS = Path(__file__).parent / "servers"

FORMER = os.environ.get("TRIO_DUPLEX_FORMER") or None
"""A checkout of another version of us, to be measured beside this one with the same client and certificates."""

NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
"""Where Debian has the module; others build it in."""

ECHO, SINK, SOURCE = "echo", "sink", "source"
HANDSHAKE = "handshake"
SILENT_ROLE = "client role"  # greets a silent peer: the one thing that nobody else does
GARBAGE = "collects garbage when told"
MUTE = "bears peers that never answer our ClientHello"
SHARED_PORT = "SO_REUSEPORT"
CROWD = "thousands of connections in little memory"
TIMED = "takes times from accept to handler"
FLOOR = "floor"
RELAY = "relays to a backend"
RELAYED_SOURCE = "relays what a backend sends"
EXEC = "starts a process for each connection"
WORKERS = "several processes on one listening socket"

PYTHON_ABILITIES = frozenset([HANDSHAKE, ECHO, SINK, SOURCE, GARBAGE])


@attrs.frozen
class Place:
    """Where a subject finds its files.

    Attributes:
        folder: Certificates (see `pki.make`), configurations, logs.
        backend: Port of a plain echo server, for subjects that only relay.
    """

    folder: Path
    backend: int


@attrs.frozen(kw_only=True)
class Options:
    """How to start a server; a subject that has no such thing ignores it.

    Attributes:
        handler: What it does with a connection: `ECHO`, `SINK` or `SOURCE`.
        window: The detection window in seconds.
        handshake_timeout: Seconds for a handshake.
        port: Where to listen, together with others; 0 for a port of its own.
        log: Whether to log what an operator would want to see.
        timed: Whether to take the times from accept to handler.
        limits: `trio_duplex.Limits` by JSON, as users get them with ``"{}"``; if
            empty, peers may all come from one address.
        files: What ``ulimit -n`` is to be; 0 for as many as may be.
        workers: How many processes.
    """

    handler: str = ECHO
    window: float = 5.0
    handshake_timeout: float = 30.0
    port: int = 0
    log: bool = False
    timed: bool = False
    limits: str = ""
    files: int = 0
    workers: int = 1


@attrs.frozen(kw_only=True)
class Subject:
    """A server that is measured.

    Attributes:
        name: As on the command line and in the tables.
        about: What it is, in a few words.
        abilities: What it can be asked to do.
        start: Starts it; gives the process, which listens on ``port``.
        missing: Tells what is not installed, or None.
        warm_up: Handshakes before the first that counts.
    """

    name: str
    about: str
    abilities: frozenset[str]
    start: Callable[[Place, Options], Running]
    missing: Callable[[], str | None] = lambda: None
    warm_up: int = 20


class Running:
    """A started server.

    Attributes:
        process: Its process.
        port: Where it listens.
    """

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port


def _python(name: str, *arguments: str, tree: Path = ROOT) -> Callable[[Place, Options], Running]:
    def start(place: Place, options: Options) -> Running:
        process = Process(
            [
                *(sys.executable, "-m", "benchmarks.servers.python_server"),
                *(name, str(place.folder), *arguments),
                f"--handler={options.handler}",
                f"--window={options.window}",
                f"--handshake-timeout={options.handshake_timeout}",
                f"--port={options.port}",
                *(["--log"] if options.log else []),
                *(["--timed"] if options.timed else []),
                *([f"--limits={options.limits}"] if options.limits else []),
                *([f"--files={options.files}"] if options.files else []),
            ],
            log=place.folder / f"{name}.log",
            cwd=tree,
        )
        return Running(process, int(process.announced))

    return start


def _needs_module(name: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        found = importlib.util.find_spec(name)
        return None if found else f"the Python package {name} (dependency group bench)"

    return missing


def _needs_program(name: str, package: str) -> Callable[[], str | None]:
    return lambda: None if program(name) else f"{name} (Debian: {package})"


def program(name: str) -> str | None:
    """Find a program, also where only root's PATH would."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")


def _command(name: str) -> str:
    found = program(name)
    assert found is not None  # asked before
    return found


def _listening(command: Sequence[str], port: int, log: Path) -> Running:
    """Start a program that does not say when it listens."""
    process = Process(command, log=log, announce=False)
    try:
        process.wait_for_port(port)
    except BaseException:
        process.stop()
        raise
    return Running(process, port)


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _go(place: Place, options: Options) -> Running:
    binary = place.folder / "go_server"
    if not binary.exists():
        _build([_command("go"), "build", "-o", str(binary), str(SERVERS / "go_server.go")])
    process = Process(
        [str(binary), str(place.folder), options.handler], log=place.folder / "go.log"
    )
    return Running(process, int(process.announced))


def _java(place: Place, options: Options) -> Running:
    if not (place.folder / "JavaServer.class").exists():
        _build([_command("javac"), "-d", str(place.folder), str(SERVERS / "JavaServer.java")])
    process = Process(
        [
            *(_command("java"), "-cp", str(place.folder), "JavaServer"),
            *(str(place.folder / "node.p12"), options.handler),
        ],
        log=place.folder / "java.log",
    )
    return Running(process, int(process.announced))


def _build(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, cwd=ROOT)


def _haproxy(place: Place, options: Options) -> Running:
    port = free_port()
    config = place.folder / f"haproxy-{port}.cfg"
    # With `return` it needs no backend; where data is relayed it has to have one.
    body = (
        f"mode tcp\n    server backend 127.0.0.1:{place.backend}"
        if options.handler != HANDSHAKE
        else "mode http\n    http-request return status 200"
    )
    config.write_text(
        f"""global
    nbthread 1
    maxconn 8000
defaults
    timeout connect 10s
    timeout client 1h
    timeout server 1h
listen duplex
    bind 127.0.0.1:{port} ssl crt {place.folder}/node.pem ca-file {place.folder}/ca.pem verify required
    {body}
"""
    )
    log = place.folder / "haproxy.log"
    return _listening([_command("haproxy"), "-db", "-f", str(config)], port, log)


def _nginx(place: Place, options: Options) -> Running:
    port = free_port()
    config = place.folder / f"nginx-{port}.conf"
    load = f"load_module {NGINX_STREAM};" if NGINX_STREAM.exists() else ""
    body = (
        f"proxy_pass 127.0.0.1:{place.backend};" if options.handler != HANDSHAKE else 'return "";'
    )
    config.write_text(
        f"""{load}
daemon off;
worker_processes 1;
user root;
pid {place.folder}/nginx-{port}.pid;
error_log {place.folder}/nginx.log crit;
worker_rlimit_nofile 20000;
events {{ worker_connections 16000; }}
stream {{
    server {{
        listen 127.0.0.1:{port} ssl backlog=4096;
        ssl_certificate {place.folder}/chain.pem;
        ssl_certificate_key {place.folder}/node.key;
        ssl_client_certificate {place.folder}/ca.pem;
        ssl_verify_client on;
        ssl_protocols TLSv1.2 TLSv1.3;
        proxy_timeout 1h;
        ssl_handshake_timeout 1h;
        {body}
    }}
}}
"""
    )
    log = place.folder / "nginx.log"
    return _listening([_command("nginx"), "-p", str(place.folder), "-c", str(config)], port, log)


def _stunnel(place: Place, _: Options) -> Running:
    port = free_port()
    config = place.folder / f"stunnel-{port}.conf"
    config.write_text(
        f"""foreground = yes
pid =
debug = err
[duplex]
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{place.backend}
cert = {place.folder}/chain.pem
key = {place.folder}/node.key
CAfile = {place.folder}/ca.pem
verifyChain = yes
requireCert = yes
TIMEOUTidle = 3600
TIMEOUTbusy = 3600
"""
    )
    name = "stunnel4" if program("stunnel4") else "stunnel"
    log = place.folder / "stunnel.log"
    return _listening([_command(name), str(config)], port, log)


def _s_server(place: Place, _: Options) -> Running:
    port = free_port()
    return _listening(
        [
            *(_command("openssl"), "s_server", "-accept", f"127.0.0.1:{port}", "-rev", "-quiet"),
            *("-cert", f"{place.folder}/chain.pem", "-key", f"{place.folder}/node.key"),
            *("-CAfile", f"{place.folder}/ca.pem", "-Verify", "1", "-verify_return_error"),
        ],
        port,
        place.folder / "s_server.log",
    )


def _command_of_ours(name: str) -> Callable[[Place, Options], Running]:
    """``trio-duplex proxy`` or ``exec``, as their users start them."""

    def start(place: Place, options: Options) -> Running:
        port = free_port()
        folder = place.folder
        own = ["--to", f"127.0.0.1:{place.backend}"] if name == "proxy" else []
        if options.workers > 1:
            own += ["--workers", str(options.workers)]
        command = [
            *(sys.executable, "-m", "trio_duplex", name, "--listen", f"127.0.0.1:{port}"),
            *("--cert", f"{folder}/command.pem", "--trust", f"{folder}/ca.pem"),
            *("--window", str(options.window), "--quiet", *own),
            *("--pending-per-address", "inf"),  # all our peers come from one
            *(["--", _command("cat")] if name == "exec" else []),
        ]
        return _listening(command, port, folder / f"{name}.log")

    return start


def _socat(place: Place, _: Options) -> Running:
    port = free_port()
    folder = place.folder
    listen = (
        f"OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,cert={folder}/chain.pem,"
        f"key={folder}/node.key,cafile={folder}/ca.pem,verify=1"
    )
    command = [_command("socat"), listen, f"EXEC:{_command('cat')}"]
    return _listening(command, port, folder / "socat.log")


def _floor(place: Place, _: Options) -> Running:
    process = Process([sys.executable, "-m", "benchmarks.servers.floor", str(place.folder)])
    return Running(process, 0)


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject(
            name="duplex",
            about="trio_duplex; Credentials.mutual gives out no session tickets",
            abilities=PYTHON_ABILITIES | {SILENT_ROLE, MUTE, SHARED_PORT, CROWD, TIMED},
            start=_python("duplex", "--tickets=0"),
        ),
        Subject(
            name="duplex-tickets",
            about="trio_duplex with OpenSSL's two session tickets",
            abilities=frozenset([HANDSHAKE]),
            start=_python("duplex", "--tickets=2"),
        ),
        Subject(
            name="duplex-calm",
            about="trio_duplex, with gc.set_threshold as docs/limits advises",
            abilities=frozenset([MUTE, GARBAGE]),
            start=_python("duplex", "--tickets=0", "--calm"),
        ),
        Subject(
            name="trio",
            about="trio.serve_ssl_over_tcp",
            abilities=PYTHON_ABILITIES | {CROWD, TIMED, SHARED_PORT},
            start=_python("trio", "--tickets=2"),
        ),
        Subject(
            name="trio-no-tickets",
            about="trio.serve_ssl_over_tcp, session tickets turned off",
            abilities=frozenset([HANDSHAKE]),
            start=_python("trio", "--tickets=0"),
        ),
        Subject(
            name="anyio",
            about="anyio's TLSListener, on Trio",
            abilities=PYTHON_ABILITIES,
            start=_python("anyio"),
            missing=_needs_module("anyio"),
        ),
        Subject(
            name="asyncio",
            about="asyncio.start_server",
            abilities=PYTHON_ABILITIES,
            start=_python("asyncio"),
        ),
        Subject(
            name="uvloop",
            about="asyncio.start_server on uvloop",
            abilities=PYTHON_ABILITIES,
            start=_python("uvloop"),
            missing=_needs_module("uvloop"),
        ),
        Subject(
            name="go",
            about="Go, crypto/tls",
            abilities=frozenset([HANDSHAKE, ECHO, SINK, SOURCE, CROWD]),
            start=_go,
            missing=_needs_program("go", "golang-go"),
        ),
        Subject(
            name="java",
            about="Java, SSLServerSocket, a thread for each connection",
            abilities=frozenset([HANDSHAKE, ECHO, SINK, SOURCE]),
            start=_java,
            missing=_needs_program("javac", "openjdk-17-jdk-headless"),
            warm_up=400,
        ),
        Subject(
            name="haproxy",
            about="HAProxy, one thread",
            abilities=frozenset([HANDSHAKE, ECHO, SINK, RELAYED_SOURCE, CROWD, RELAY]),
            start=_haproxy,
            missing=_needs_program("haproxy", "haproxy"),
        ),
        Subject(
            name="nginx",
            about="nginx stream, one worker",
            abilities=frozenset([HANDSHAKE, ECHO, SINK, RELAYED_SOURCE, CROWD, RELAY]),
            start=_nginx,
            missing=lambda: (
                None
                if program("nginx") and (NGINX_STREAM.exists() or not NGINX_STREAM.parent.exists())
                else "nginx with its stream module (Debian: nginx, libnginx-mod-stream)"
            ),
        ),
        Subject(
            name="stunnel",
            about="stunnel; it opens a backend connection for each of ours",
            abilities=frozenset([HANDSHAKE, ECHO, SINK, RELAYED_SOURCE, RELAY]),
            start=_stunnel,
            missing=lambda: (
                None if program("stunnel4") or program("stunnel") else "stunnel (Debian: stunnel4)"
            ),
        ),
        Subject(
            name="proxy",
            about="trio-duplex proxy",
            abilities=frozenset([RELAY, ECHO, SINK, RELAYED_SOURCE, WORKERS]),
            start=_command_of_ours("proxy"),
        ),
        Subject(
            name="exec",
            about="trio-duplex exec -- cat",
            abilities=frozenset([EXEC]),
            start=_command_of_ours("exec"),
        ),
        Subject(
            name="socat",
            about="socat OPENSSL-LISTEN,fork EXEC:cat",
            abilities=frozenset([EXEC]),
            start=_socat,
            missing=_needs_program("socat", "socat"),
        ),
        Subject(
            name="s_server",
            about="openssl s_server, one connection after the other",
            abilities=frozenset([HANDSHAKE]),
            start=_s_server,
            missing=_needs_program("openssl", "openssl"),
        ),
        Subject(
            name="floor",
            about="OpenSSL through ssl.SSLObject in memory, no tickets: no server can be below",
            abilities=frozenset([FLOOR]),
            start=_floor,
        ),
    )
}

if FORMER is not None:
    SUBJECTS["duplex-former"] = attrs.evolve(
        SUBJECTS["duplex"],
        name="duplex-former",
        about=f"trio_duplex as it is in {FORMER}, with the server of its own benchmarks",
        start=_python("duplex", "--tickets=0", tree=Path(FORMER).resolve()),
    )
