"""``trio-duplex load``: dial a server with speaking, silent and hostile peers at a steady rate."""

from __future__ import annotations

import contextlib
import gc
import json
import resource
import signal
import socket
import ssl
import time
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.live import Live

from trio_duplex import Credentials, CredentialsError, Role
from trio_duplex.certificates import Grade, check_certificate
from trio_duplex.cli._examples import ExampleCommand
from trio_duplex.cli._load.engine import Loop
from trio_duplex.cli._load.peers import Contexts, Peers, Target
from trio_duplex.cli._load.plan import (
    GARBAGE,
    HOSTILE,
    SILENT,
    SPEAKING,
    TLS_VERSIONS,
    WITH_CERTIFICATE,
    Mix,
    Plan,
)
from trio_duplex.cli._load.report import Progress, as_json, as_text
from trio_duplex.cli._load.results import Results
from trio_duplex.cli._options import (
    PemFile,
    dialled_host_port,
    format_host_port,
    positive,
)
from trio_duplex.cli._service.exits import Exit, ServiceError
from trio_duplex.cli._tables import new_console

RESERVE = 64
"""File descriptors that are kept for the terminal, libraries and the poller."""

DEFAULT_SECONDS = 10.0

MAX_SIZE = 65536
"""The longest message in bytes. The buffers of both kernels hold as much while neither end
reads, so that there is no deadlock with a server that echoes before it has read everything."""


def _mix(text: str) -> Mix:
    try:
        return Mix.parse(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


@click.command(
    cls=ExampleCommand,
    example=("trio-duplex load localhost:8443 --cert peer.pem --key peer.key --trust ca.pem"),
    epilog="Kinds of hostile peers: "
    + "; ".join(f"{kind} {about}" for kind, about in HOSTILE.items())
    + ". Use it only against your own servers, because it can take all their resources.",
)
@click.argument("target", type=dialled_host_port, metavar="HOST:PORT")
@click.option(
    "--cert",
    "certificate",
    type=PemFile(),
    metavar="FILE",
    help="PEM file of the peers' certificate and its intermediates, leaf first.",
)
@click.option(
    "--key",
    type=PemFile(),
    metavar="FILE",
    help="PEM file of its private key, if that is not in the file of --cert.",
)
@click.option(
    "--trust",
    type=PemFile(),
    metavar="FILE",
    help="PEM file of the authorities that the server's certificate may come from.",
)
@click.option(
    "--rate",
    type=positive,
    default="100",
    show_default=True,
    metavar="NUMBER",
    help="How many peers dial per second, whether or not earlier ones are done.",
)
@click.option(
    "--seconds",
    type=positive,
    metavar="SECONDS",
    help=f"How long peers dial.  [default: {DEFAULT_SECONDS:g}, unless --connections is given]",
)
@click.option(
    "--connections",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help="How many peers dial in all; with --seconds, whichever is less.",
)
@click.option(
    "--mix",
    type=_mix,
    default="speaking=9,silent=1",
    show_default=True,
    metavar="KIND=PARTS,...",
    help="Kinds of peers and their proportions: speaking, silent, hostile (each kind in turn), or "
    "one of the hostile kinds.",
)
@click.option(
    "--size",
    type=click.IntRange(1, MAX_SIZE),
    default=32,
    show_default=True,
    metavar="BYTES",
    help="How much speaking and silent peers send after the handshake, and expect back.",
)
@click.option("--no-echo", is_flag=True, help="Peers only do the handshake, and send nothing.")
@click.option("--tls", type=click.Choice(TLS_VERSIONS), help="The only TLS version to use.")
@click.option(
    "--timeout",
    type=positive,
    default="10",
    show_default=True,
    metavar="SECONDS",
    help="How long each peer may take from when it dials; must be above the server's window.",
)
@click.option(
    "--max-open",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    metavar="NUMBER",
    help="How many may be open at once; further peers do not dial, and are counted.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed for the random order of peers."
)
@click.option("--json", "json_", is_flag=True, help="Print JSON instead of tables.")
def load(
    *,
    target: tuple[str, int],
    certificate: Path | None,
    key: Path | None,
    trust: Path | None,
    rate: float,
    seconds: float | None,
    connections: int | None,
    mix: Mix,
    size: int,
    no_echo: bool,
    tls: str | None,
    timeout: float,
    max_open: int,
    seed: int,
    json_: bool,
) -> None:
    """Dial a server at a steady rate with speaking, silent and hostile peers.

    Prints how many got through, and how long they took from the moment at which
    each was due to dial. The exit code is 0 if all speaking and silent peers got
    through, and 1 if not. One additional connection is made first, to check that
    a server listens.
    """
    plan = Plan(
        host=target[0],
        port=target[1],
        rate=rate,
        count=_count(rate, seconds, connections),
        mix=mix,
        seed=seed,
        size=0 if no_echo else size,
        tls=tls,
        timeout=timeout,
        max_open=_room_for(max_open),
    )
    contexts = _contexts(plan, certificate, key, trust)
    try:
        results = _run(plan, _find(plan), contexts)
    except KeyboardInterrupt:  # before the first peer dialled
        raise SystemExit(128 + signal.SIGINT) from None
    if json_:
        click.echo(json.dumps(as_json(plan, results), indent=1))
    else:
        console = new_console()
        console.print(as_text(plan, results))
    if results.stopped:
        click.echo(f"Stopped by {results.stopped}.", err=True)
        raise SystemExit(128 + signal.Signals[results.stopped])
    raise SystemExit(0 if results.passed else 1)


def _count(rate: float, seconds: float | None, connections: int | None) -> int:
    if seconds is None and connections is not None:
        return connections
    in_time = max(1, round(rate * (DEFAULT_SECONDS if seconds is None else seconds)))
    return in_time if connections is None else min(in_time, connections)


def _room_for(max_open: int) -> int:
    """Raise our limit of open files; return how many peers may be open, and print it if it is less."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems refuse even the hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = max_open if soft == resource.RLIM_INFINITY else max(1, soft - RESERVE)
    if room < max_open:
        click.echo(
            f"This process may have {soft} files open (ulimit -n): --max-open is {room}, "
            f"not {max_open}.",
            err=True,
        )
    return min(room, max_open)


def _contexts(
    plan: Plan, certificate: Path | None, key: Path | None, trust: Path | None
) -> Contexts:
    """Make the peers' TLS contexts, or raise ServiceError if something is wrong with the files."""
    kinds = [kind for kind in plan.mix.kinds if kind in WITH_CERTIFICATE]
    if not kinds:
        plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        plain.check_hostname = False
        return lambda _: plain
    if certificate is None or trust is None:
        raise ServiceError(
            f"{' and '.join(kinds)} peers need --cert, --key and --trust: what they present, and "
            "whose certificates they accept. Use a certificate that the server trusts, but not its "
            "own. (Hostile peers other than garbage need none: --mix http=1,mute=1.)",
            Exit.USAGE,
        )
    roles = {Role.CLIENT} if {SPEAKING, GARBAGE} & set(kinds) else set[Role]()
    roles |= {Role.SERVER} if SILENT in kinds else set()
    try:
        checks = check_certificate(certificate_chain=certificate, private_key=key, trust=trust)
        # Ignore defects for a role that no peer in the mix plays.
        defects = [
            str(one)
            for one in checks
            if one.grade is Grade.DEFECT and (one.role is None or one.role in roles)
        ]
        if defects:
            raise CredentialsError(*defects)
        credentials = Credentials.mutual(
            certificate_chain=certificate, private_key=key, trust=trust, check=False
        )
    except CredentialsError as exc:
        raise ServiceError(str(exc), Exit.USAGE) from exc
    if plan.tls is not None:
        for role in Role:
            version = ssl.TLSVersion[f"TLSv{plan.tls.replace('.', '_')}"]
            context = credentials.context(role)
            context.minimum_version = context.maximum_version = version
    return credentials.context


def _find(plan: Plan) -> Target:
    """Resolve the host, and find the first of its addresses that accepts a connection."""
    where = format_host_port(plan.host, plan.port)
    try:
        found = socket.getaddrinfo(plan.host, plan.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:  # Python raises the latter for "a..b"
        why = getattr(exc, "strerror", None) or exc
        raise ServiceError(f"cannot find {plan.host}: {why}") from exc
    problem: OSError | None = None
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as sock:
            sock.settimeout(min(5.0, plan.timeout))
            try:
                sock.connect(address)
            except OSError as exc:
                problem = exc
            else:
                return Target(family, address)
    assert problem is not None
    raise ServiceError(f"cannot dial {where}: {problem.strerror or problem}") from problem


def _run(plan: Plan, target: Target, contexts: Contexts) -> Results:
    loop = Loop(patience=plan.timeout)
    peers = Peers(plan, target, contexts, loop)
    results = peers.results
    gc.collect()
    gc.freeze()  # a garbage collection takes milliseconds, which would be in the peers' times
    started = time.monotonic()
    with _stopped_by_signals(loop, results), _shown(plan, results) as show:
        loop.run_at(
            plan.rate,
            peers.starts(),
            tick=lambda: show(time.monotonic() - started, loop.open),
        )
    results.seconds = time.monotonic() - started
    gc.unfreeze()
    return results


@contextlib.contextmanager
def _stopped_by_signals(loop: Loop, results: Results) -> Generator[None]:
    def stop(number: int, _: FrameType | None) -> None:
        results.stopped = signal.Signals(number).name
        loop.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _shown(plan: Plan, results: Results) -> Generator[Callable[[float, int], None]]:
    """Provide a function that shows the progress on a terminal. A line takes only 0.1 ms."""
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        yield lambda _seconds, _still_open: None
        return
    progress = Progress(plan, results)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda seconds, still_open: live.update(
            progress.line(seconds, still_open), refresh=True
        )
