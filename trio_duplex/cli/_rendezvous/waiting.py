"""Matching spares and clients: which is next, and which has to wait. It does no I/O."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, Protocol, TypeVar


class SpareLike(Protocol):
    """What the room asks of a spare."""

    @property
    def agent(self) -> str:
        """The agent that it belongs to."""
        ...


SpareT = TypeVar("SpareT", bound=SpareLike)
ClientT = TypeVar("ClientT")


class WaitingRoom(Generic[SpareT, ClientT]):
    """Waiting spares by agent, and waiting clients; one of the two is always empty.

    Agents take turns. Of an agent's spares, the newest is used first, because a NAT on
    the way may have dropped an older connection.
    """

    def __init__(self) -> None:
        self._spares: OrderedDict[str, OrderedDict[SpareT, None]] = OrderedDict()
        self._line: deque[ClientT] = deque()

    @property
    def in_line(self) -> int:
        """How many clients wait for a spare."""
        return len(self._line)

    @property
    def spares(self) -> list[SpareT]:
        """The spares that wait."""
        return [spare for spares in self._spares.values() for spare in spares]

    def counts(self) -> dict[str, int]:
        """How many spares wait, by agent."""
        return {agent: len(spares) for agent, spares in self._spares.items()}

    def offer(self, spare: SpareT) -> ClientT | None:
        """Give a spare to the first waiting client, or let the spare wait.

        Returns:
            The client; None if the spare waits now.
        """
        if self._line:
            return self._line.popleft()
        self._spares.setdefault(spare.agent, OrderedDict())[spare] = None
        return None

    def join(self, client: ClientT) -> SpareT | None:
        """Give a client the spare whose turn it is, or let the client wait.

        Returns:
            The spare; None if the client waits now.
        """
        if not self._spares:
            self._line.append(client)
            return None
        agent, spares = next(iter(self._spares.items()))
        spare, _ = spares.popitem()
        if spares:
            self._spares.move_to_end(agent)
        else:
            del self._spares[agent]
        return spare

    def withdraw(self, spare: SpareT) -> None:
        """Forget a spare, if it waits."""
        spares = self._spares.get(spare.agent)
        if spares is not None:
            spares.pop(spare, None)
            if not spares:
                del self._spares[spare.agent]

    def leave(self, client: ClientT) -> None:
        """Forget a client, if it is in line."""
        if client in self._line:
            self._line.remove(client)
