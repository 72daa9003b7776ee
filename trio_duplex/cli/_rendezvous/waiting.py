"""Where spares and clients meet: whose turn it is, and who waits for whom. It does no I/O."""

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
    """Spares by agent, and clients in line; one of the two is always empty.

    Agents take turns. Of an agent's spares the newest goes first, because it
    was seen alive last: an old one may have been forgotten by a NAT on its way.
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
        """Give a spare to the client that is first in line, or have it wait.

        Returns:
            The client; None if the spare waits now.
        """
        if self._line:
            return self._line.popleft()
        self._spares.setdefault(spare.agent, OrderedDict())[spare] = None
        return None

    def join(self, client: ClientT) -> SpareT | None:
        """Give a client the spare whose turn it is, or have it wait in line.

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
