"""The servers in Python: an echo over TLS, in each of the frameworks.

``python -m benchmarks.servers.python_server SUBJECT FOLDER`` prints its port.
Each handler is what that framework's user would write: no more, no less.
"""

from __future__ import annotations

import argparse
import gc
import math
import signal
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import pki, processes

if TYPE_CHECKING:
    import trio_duplex

BACKLOG = 4096


def duplex(options: argparse.Namespace) -> None:
    """trio_duplex."""
    import trio

    import trio_duplex

    async def handler(connection: trio_duplex.Connection) -> None:
        async for chunk in connection:
            await connection.send_all(chunk)

    async def main() -> None:
        folder = Path(options.folder)
        credentials = trio_duplex.Credentials.mutual(
            certificate_chain=folder / "node.pem",
            trust=folder / "ca.pem",
            session_tickets=options.tickets,
        )
        if not options.mutual:
            admit_everybody(credentials)
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                lambda task_status: trio_duplex.serve_tcp(
                    handler,
                    0,
                    credentials,
                    host="127.0.0.1",
                    backlog=BACKLOG,
                    window=options.window,
                    # All our peers come from one address.
                    limits=trio_duplex.Limits(pending_per_address=math.inf),
                    task_status=task_status,
                )
            )
            ready(server.addresses[0][1])

    trio.run(main)


def admit_everybody(credentials: trio_duplex.Credentials) -> None:
    """Ask for no certificate, and do not mind: what others measure, and no user can have."""
    from trio_duplex._admission import Material

    async def admit(*_: object) -> None:
        pass

    credentials.server_context.verify_mode = ssl.CERT_NONE
    Material.admit = admit  # type: ignore[method-assign]


def bare_trio(options: argparse.Namespace) -> None:
    """``trio.serve_ssl_over_tcp``."""
    import trio

    async def handler(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            async with stream:
                async for chunk in stream:
                    await stream.send_all(chunk)
        except trio.BrokenResourceError:
            pass

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(
                lambda task_status: trio.serve_ssl_over_tcp(  # noqa: ASYNC105 - start() awaits it
                    handler,
                    0,
                    context(options),
                    host="127.0.0.1",
                    backlog=BACKLOG,
                    task_status=task_status,
                )
            )
            ready(listeners[0].transport_listener.socket.getsockname()[1])

    trio.run(main)


def context(options: argparse.Namespace) -> ssl.SSLContext:
    """The same settings as `trio_duplex.Credentials.mutual` makes."""
    return pki.context(
        Path(options.folder), server=True, tickets=options.tickets, mutual=options.mutual
    )


def ready(port: int) -> None:
    """Tell the benchmark where we listen."""
    gc.collect()
    print(port, flush=True)


SUBJECTS = {"duplex": duplex, "trio": bare_trio}


def main() -> None:
    """Serve until terminated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("folder")
    parser.add_argument("--tickets", type=int, default=2)
    parser.add_argument("--one-way", dest="mutual", action="store_false")
    parser.add_argument("--window", type=float, default=5.0)
    options = parser.parse_args()
    processes.raise_file_limit()
    signal.signal(signal.SIGUSR1, lambda *_: gc.collect())
    SUBJECTS[options.subject](options)


if __name__ == "__main__":
    main()
