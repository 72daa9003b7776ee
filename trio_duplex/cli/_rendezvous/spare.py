"""A spare: an agent's open connection at the hub, watched until a client needs it."""

from __future__ import annotations

import attrs
import trio

from trio_duplex import Connection

MOST_EARLY = 64 * 1024
"""How many bytes an agent may send before there is a client, such as a greeting in a
protocol in which the backend speaks first. Beyond that, we read on only when there is a
client; until then TCP makes the agent wait."""


@attrs.define(eq=False)
class Client:
    """A local client that wants to be connected.

    Attributes:
        stream: Its stream.
        first: The bytes that it has already sent.
        paired: Set when there is a spare for it.
        done: Set when its connection has ended.
    """

    stream: trio.SocketStream
    first: bytes = b""
    paired: trio.Event = attrs.field(factory=trio.Event)
    done: trio.Event = attrs.field(factory=trio.Event)


class Spare:
    """One waiting connection.

    We read from it all the time, to notice when the agent closes it or disappears.
    So we need no protocol of our own for that. What the agent sends before there
    is a client is kept for the client.

    Args:
        connection: The connection.
        agent: Whose it is.

    Attributes:
        settled: Set when it waits no more: it has a client, or has ended.
        client: The client.
        ended: Why it ended while it waited; None if it did not.
        early: What the agent has sent.
    """

    def __init__(self, connection: Connection, agent: str) -> None:
        self.connection = connection
        self.agent = agent
        self.settled = trio.Event()
        self.client: Client | None = None
        self.ended: str | None = None
        self.early = bytearray()
        self._watched = trio.Event()

    def pair(self, client: Client) -> None:
        """Assign a client. The watch then ends after the receive in which it is now."""
        assert self.client is None
        self.client = client
        client.paired.set()
        self.settled.set()

    async def watch(self) -> None:
        """Read and keep what the agent sends, until there is a client or the connection ends."""
        try:
            while self.client is None and len(self.early) < MOST_EARLY:
                data = await self.connection.receive_some()
                self.early += data
                if not data:
                    self.ended = "closed by the agent"
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self.ended = str(exc) or "reset"
        finally:
            self._watched.set()
        if self.ended is not None:
            self.settled.set()

    async def receive(self) -> bytes | bytearray:
        """Return what the agent sends, beginning with the kept bytes; ``b""`` at the end.

        Raises:
            trio.BrokenResourceError: As for `Connection.receive_some`.
        """
        if not self.early:
            if self._watched.is_set() and self.ended is None:
                return await self.connection.receive_some()
            await self._watched.wait()
        data, self.early = self.early, bytearray()
        # If the connection has ended, this returns or raises the same as before.
        return data or await self.connection.receive_some()
