"""``trio-duplex demo``: real peers of both kinds on one port, and the decision for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import trio
from rich.console import Console
from rich.text import Text

from trio_duplex import DuplexError
from trio_duplex.cli._demo.verdict import Ours
from trio_duplex.cli._examples import ExampleCommand
from trio_duplex.cli._options import finite_seconds, format_host_port, listen_option, window_option
from trio_duplex.cli._run import run
from trio_duplex.cli._service.exits import ServiceError
from trio_duplex.cli._tables import Column, Rows, new_console, print_folded

if TYPE_CHECKING:
    from trio_duplex.cli._demo.peers import Outcome

GOOD, BAD = "ok", "WRONG"


@click.command(cls=ExampleCommand, example="trio-duplex demo")
@listen_option(default="127.0.0.1:0")
@window_option(default="1", type=finite_seconds)
def demo(listen: tuple[str, int], window: float) -> None:
    """Let peers of both TLS roles dial one port, and show the decisions.

    Makes its own certificates. A real TLS server and a real TLS client dial in, and
    also a TLS server that announces itself, a plaintext client, and one that hangs
    up. The silent TLS server then dials again: it is remembered, and need not wait.
    The exit code is 0 if all of them were served or refused as expected, else 1.
    """
    raise SystemExit(run(lambda: _demo(listen, window)))


async def _demo(listen: tuple[str, int], window: float) -> int:
    # Import here, because trustme takes a while to load, and SIGINT must interrupt that, too.
    from trio_duplex.cli._demo import peers as demo_peers

    console = new_console()
    host, port = listen
    try:
        listener, *others = await trio.open_tcp_listeners(port, host=host)
    except OSError as exc:
        where = format_host_port(host, port)
        raise ServiceError(f"cannot listen on {where}: {exc.strerror or exc}") from exc
    for other in others:  # a name may have several addresses; use only the first
        await other.aclose()
    where = format_host_port(*listener.socket.getsockname()[:2])
    peers = demo_peers.PEERS
    again = sum(bool(peer.again) for peer in peers)
    print_folded(
        console,
        Text(
            f"{len(peers) - again} peers dial {where} at once"
            f"{', and one of them again' if again else ''}; the detection window is {window:g} s."
        ),
    )
    outcomes: list[Outcome] = []

    def report(outcome: Outcome) -> None:
        outcomes.append(outcome)
        _print_line(console, outcome)

    async with listener:
        await demo_peers.dial_in(peers, listener, demo_peers.Authority.create(), window, report)
    console.print()
    console.print(_table(outcomes))
    return 1 if any(outcome.faults for outcome in outcomes) else 0


def _print_line(console: Console, outcome: Outcome) -> None:
    """Print one line, or several if it does not fit, all but the first indented."""
    ours = outcome.ours
    verdict = _verdict(outcome)
    who = Text.assemble((outcome.name, "bold"), f" {outcome.address}")
    decided: list[Text] = []
    if ours is not None:
        who.append(f": waited {ours.waited:.3f} s")
        decided.append(
            Text(f"role {ours.role or 'not taken'}" + (f" ({ours.reason})" if ours.reason else ""))
        )
    what = Text(_what(outcome))
    if outcome.faults:
        what.append(f"; {BAD}: {'; '.join(outcome.faults)}", style="red")
    print_folded(console, who, *decided, what, label=verdict, indent=len(BAD) + 1)


def _table(outcomes: Sequence[Outcome]) -> Rows:
    table = Rows(
        Column("peer", style="bold"),
        Column("waited", right=True),
        Column("our role"),
        Column("why"),
        Column("outcome"),
        Column("verdict"),
    )
    for outcome in outcomes:
        ours = outcome.ours
        table.add(
            outcome.name,
            f"{ours.waited:.3f} s" if ours else "-",
            str(ours.role or "-") if ours else "-",
            str(ours.reason or "-") if ours else "-",
            _short(ours),
            _verdict(outcome),
        )
    return table


def _verdict(outcome: Outcome) -> Text:
    return Text(BAD, style="bold red") if outcome.faults else Text(GOOD, style="green")


def _what(outcome: Outcome) -> str:
    """Return the result of a peer, in full."""
    ours = outcome.ours
    if ours is None:
        return f"the peer ended in {outcome.theirs.error!r}"
    match ours.error:
        case None:
            echoed = outcome.theirs.received.decode("ascii", "backslashreplace")
            return f"{' '.join(ours.tls or ('no TLS',))}, echoed {echoed!r}"
        case DuplexError(summary=summary, seen=seen) as error:
            return f"{type(error).__name__}: {summary}" + (f" (saw {seen})" if seen else "")
        case error:
            return repr(error)


def _short(ours: Ours | None) -> str:
    if ours is None:
        return "no end"
    if ours.error is not None:
        return type(ours.error).__name__
    return f"{ours.tls[0] if ours.tls else 'no TLS'}, echo"
