"""The floor: the server's half of a handshake in memory, with no socket and no event loop.

``python -m benchmarks.servers.floor FOLDER`` reads a count a line, makes so many
handshakes, and answers with the CPU seconds of one server's half.
"""

from __future__ import annotations

import contextlib
import ssl
import sys
import time
from pathlib import Path

from benchmarks import pki


class Half:
    """One end of a handshake in memory."""

    def __init__(self, context: ssl.SSLContext, *, server: bool) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)

    def advance(self, received: bytes) -> bytes:
        """Take what the peer sent; give what goes to it."""
        self._incoming.write(received)
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._outgoing.read()


def handshake(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> float:
    """Make one TLS 1.3 handshake; return the CPU seconds of the server's half."""
    client = Half(client_context, server=False)
    hello = client.advance(b"")
    started = time.process_time()
    server = Half(server_context, server=True)
    flight = server.advance(hello)
    spent = time.process_time() - started
    finished = client.advance(flight)
    started = time.process_time()
    server.advance(finished)
    return spent + time.process_time() - started


def main() -> None:
    """Serve until standard input ends."""
    folder = Path(sys.argv[1])
    server_context = pki.context(folder, server=True, tickets=0)
    client_context = pki.context(folder, server=False, mutual=False)
    print("ready", flush=True)
    for line in sys.stdin:
        count = int(line)
        spent = sum(handshake(server_context, client_context) for _ in range(count))
        print(spent / count, flush=True)


if __name__ == "__main__":
    main()
