"""``python -m benchmarks.windows``: simulate windows and policies, or run them over a real path with delay and loss."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.windows.model import World
from benchmarks.windows.simulate import compare, table

WORLDS = {
    "loss 1 %, 1 in 1,000 starved for 2 s": World(),
    "the same, losses in bursts (25 %)": World(burst=0.25),
    "1 % of the speaking peers start slowly (0.2 s)": World(slow=0.01),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.windows", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command")
    simulating = commands.add_parser("simulate", help="run the model, and print tables")
    simulating.add_argument("--connections", type=int, default=240_000)
    simulating.add_argument("--addresses", type=int, default=12_000)
    simulating.add_argument("--plot", type=Path, metavar="FILE", help="draw the first world as SVG")
    real = commands.add_parser("real", help="run over two network namespaces (root, Linux)")
    real.add_argument(
        "--round-trip", type=float, nargs="+", default=[0.02, 0.1, 0.3], metavar="SECONDS"
    )
    real.add_argument("--loss", type=float, default=0.01)
    real.add_argument("--connections", type=int, default=2_000, help="of each kind of peer")
    real.add_argument("--peers", type=int, default=50, help="of each kind that make them")
    real.add_argument("--rate", type=float, default=50, help="connections a second, at most")
    glare = commands.add_parser("glare", help="dial from both ends at once (root, Linux)")
    glare.add_argument("--pairs", type=int, default=10_000)
    glare.add_argument("--round-trip", type=float, default=0.2, metavar="SECONDS")
    glare.add_argument("--loss", type=float, default=0.0)
    glare.add_argument(
        "--legacy", type=float, default=0.0, help="the share of pairs with a legacy end"
    )
    glare.add_argument("--pause", type=float, default=0.03, help="seconds between two pairs")
    costs = commands.add_parser("costs", help="CPU of a decision, and size of a remembered peer")
    costs.add_argument("--peers", type=int, default=100_000)
    first = commands.add_parser("first-byte", help="from dial to first byte, on loopback (Linux)")
    first.add_argument("--pending", type=int, default=10_000)
    first.add_argument("--dials", type=int, default=100, help="of each kind of peer")
    options = parser.parse_args(arguments)
    if options.command == "real":
        from benchmarks.windows import real as paths

        print(
            paths.table(
                paths.run(
                    round_trip, options.loss, options.connections, options.peers, options.rate
                )
                for round_trip in options.round_trip
            )
        )
        return
    if options.command == "glare":
        from benchmarks.windows import glare as meetings

        print(
            meetings.run(
                options.pairs,
                round_trip=options.round_trip,
                loss=options.loss,
                legacy=options.legacy,
                pause=options.pause,
            )
        )
        return
    if options.command == "first-byte":
        from benchmarks.windows import first_byte

        print(first_byte.run(options.pending, options.dials))
        return
    if options.command == "costs":
        from benchmarks.windows import costs as prices

        for name in prices.POLICIES:
            for peers in (1_000, options.peers):
                print(prices.cost(name, peers))
        print(prices.size(options.peers))
        return
    plotted = False
    for title, world in WORLDS.items():
        import attrs

        sized = attrs.evolve(world, connections=options.connections, addresses=options.addresses)
        results = compare(sized)
        print(f"{title}\n\n{table(results)}\n")
        if options.plot is not None and not plotted:
            from benchmarks.windows.plots import draw

            draw(results, options.plot)
            plotted = True


if __name__ == "__main__":
    main()
