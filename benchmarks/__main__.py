"""Compare trio_duplex with Trio's own TLS listener: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

from benchmarks import pki, processes
from benchmarks.statistics import Summary, pairwise, summarise

VARIANTS = {
    "trio_duplex, no tickets": ("duplex", 0),
    "trio_duplex, 2 tickets": ("duplex", 2),
    "trio, 2 tickets": ("trio", 2),
    "trio, no tickets": ("trio", 0),
}
RATIOS = [
    ("defaults of both", "trio_duplex, no tickets", "trio, 2 tickets"),
    ("2 tickets each", "trio_duplex, 2 tickets", "trio, 2 tickets"),
    ("no tickets", "trio_duplex, no tickets", "trio, no tickets"),
]


def server(name: str, folder: Path, *options: str) -> processes.Process:
    return processes.Process(
        [sys.executable, "-m", "benchmarks.servers.python_server", name, str(folder), *options],
        log=folder / f"{name}.log",
    )


def handshakes(
    folder: Path, client: processes.Client, args: argparse.Namespace, *, mutual: bool
) -> None:
    figures: dict[str, list[float]] = {name: [] for name in VARIANTS}
    options = [] if mutual else ["--one-way"]
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(server(subject, folder, f"--tickets={tickets}", *options))
            for name, (subject, tickets) in VARIANTS.items()
        }
        for turn in range(args.rounds + 1):
            for name, running in servers.items():
                before = running.settled_cpu()
                answer = client.call(
                    "handshakes",
                    port=int(running.announced),
                    count=args.count,
                    in_flight=args.in_flight,
                )
                if answer["errors"]:
                    raise RuntimeError(f"{name}: {answer}")
                if turn:  # the first is the warm-up
                    figures[name].append((running.settled_cpu() - before) / args.count)
    asked = "mutual" if mutual else "no client certificate"
    print(f"\nServer CPU per accepted TLS 1.3 handshake (P-256, {asked}), and to its close")
    for name, values in figures.items():
        print(f"  {name:28}", show(summarise([1e6 * value for value in values]), "µs", 0))
    for title, ours, theirs in RATIOS:
        ratio = pairwise(figures[ours], figures[theirs])
        print(f"  against trio, {title:16}", show(ratio, "", 3), goal(ratio.median, 1.00))


def silent_peers(folder: Path, client: processes.Client, args: argparse.Namespace) -> None:
    figures: dict[str, list[float]] = {"duplex": [], "trio": []}
    for _ in range(args.memory_rounds):
        for name, values in figures.items():
            with server(name, folder, "--window=3600") as running:
                # The slope between two levels: what warms up once does not count.
                levels, held = [], 0
                for count in (args.peers // 10, args.peers):
                    answer = client.call("hold", port=int(running.announced), count=count)
                    if answer["errors"]:
                        raise RuntimeError(f"{name}: {answer}")
                    held += count
                    running.wait_for_files(held)
                    running.collect_garbage()
                    levels.append(running.resident())
                client.call("release")
                values.append((levels[1] - levels[0]) / args.peers)
    print(f"\nResident memory per silent peer pending, of {args.peers}")
    for name, values in figures.items():
        print(f"  {name:28}", show(summarise([value / 1000 for value in values]), "kB", 2))
    print(f"  {'':28}", goal(summarise(figures["duplex"]).median / 1000, 6.5))


def show(summary: Summary, unit: str, digits: int) -> str:
    spread = f"{summary.low:.{digits}f} to {summary.high:.{digits}f}"
    doubt = "" if summary.conclusive else "  (rounds differ too much to conclude)"
    return f"{summary.median:8.{digits}f} {unit:3} ({spread}; {summary.rounds} rounds){doubt}"


def goal(value: float, limit: float) -> str:
    return f"goal <= {limit:g}: {'met' if value <= limit else 'MISSED'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--count", type=int, default=300, help="handshakes a round")
    parser.add_argument("--in-flight", type=int, default=4)
    parser.add_argument("--memory-rounds", type=int, default=3)
    parser.add_argument("--peers", type=int, default=5000)
    args = parser.parse_args()
    processes.raise_file_limit()
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name:
        folder = pki.make(Path(name))
        with processes.Client(folder, log=folder / "client.log") as client:
            handshakes(folder, client, args, mutual=True)
            handshakes(folder, client, args, mutual=False)
            silent_peers(folder, client, args)


if __name__ == "__main__":
    main()
