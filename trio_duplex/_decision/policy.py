"""What a window policy is, and the plain one: the same seconds for every peer.

A policy is asked once for each accepted connection and returns a `Choice`. Afterwards it
gets the `Outcome` of the connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, Protocol, cast, runtime_checkable

import attrs

from trio_duplex._decision.facts import Outcome, PeerFacts
from trio_duplex._role import Reason, Role
from trio_duplex._seconds import check_seconds

ASK_TIMEOUT = 1.0
"""Seconds that a user's async function may take to choose a window. The function delays the
decision for peers of both kinds, so it should do no more than look into a cache."""


@attrs.frozen
class Choice:
    """The window that a policy chose for one connection.

    Attributes:
        seconds: How long to wait for the peer's first bytes; 0 to not wait at
            all, ``math.inf`` to wait as long as it takes.
        rule: Which rule chose, and why, in words; empty for plain seconds.
        remembered: Whether the choice is based on what this peer did before. If
            the peer is silent again, the decision's reason is
            `~trio_duplex.Reason.REMEMBERED`.
        role: The role that a rule fixed, or None if the peer's bytes decide.
    """

    seconds: float
    rule: str = ""
    remembered: bool = False
    role: Role | None = None

    def __attrs_post_init__(self) -> None:
        check_seconds("seconds", self.seconds)

    def reason_of_silence(self) -> Reason:
        """Return why we become the TLS client if the peer has sent nothing when the window ends."""
        if self.role is Role.CLIENT:
            return Reason.RULE
        return Reason.REMEMBERED if self.remembered else Reason.SILENT


@attrs.frozen(eq=False)
class Asked:
    """A choice that a user's function has still to make, or has failed to make.

    Await it, for ``timeout`` seconds at most. If that takes longer or raises, call
    ``otherwise`` for the choice.

    Attributes:
        answer: An awaitable of the choice, or the error that the function raised.
        timeout: How long the answer may take, in seconds.
        otherwise: Makes the choice if the function does not.
    """

    answer: Awaitable[Choice] | Exception
    timeout: float
    otherwise: Callable[[], Choice | Awaitable[Choice]]

    def __await__(self) -> Generator[Any, Any, Choice]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return (yield from self.answer.__await__())


@attrs.frozen
class Change:
    """A peer that a memory knew as one kind turned out to be the other.

    Attributes:
        key: The memory's key for the peer, such as its address.
        silent: Whether it counts as a silent peer from now on.
    """

    key: str
    silent: bool


@runtime_checkable
class WindowPolicy(Protocol):
    """Chooses the detection window of each connection; see `trio_duplex.windows`."""

    def choose(self, peer: PeerFacts, /) -> Choice | Awaitable[Choice]:
        """Choose how long to wait for this peer's first bytes."""
        ...

    def learn(self, peer: PeerFacts, outcome: Outcome, /) -> Change | None:
        """Take the outcome of a connection into account; return how a peer changed its kind, if it did."""
        ...


WindowFunction = Callable[[PeerFacts], "float | WindowPolicy | Awaitable[float | WindowPolicy]"]
"""A function of the peer's facts, sync or async, that chooses a window."""

Window = float | WindowPolicy | WindowFunction
"""What ``window=`` takes."""


@attrs.frozen
class Fixed:
    """The same window for every peer.

    Attributes:
        seconds: The window, in seconds; 0 and ``math.inf`` are allowed.
    """

    seconds: float
    choice: Choice = attrs.field(init=False, repr=False, eq=False)
    """The choice, made in advance because it is the same for every connection."""

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "choice", Choice(check_seconds("window", self.seconds)))

    def choose(self, peer: PeerFacts, /) -> Choice:  # noqa: ARG002 - the protocol's
        """Choose the window."""
        return self.choice

    def learn(self, peer: PeerFacts, outcome: Outcome, /) -> None:
        """Nothing is learned."""


def as_policy(window: object, name: str = "window") -> WindowPolicy:
    """Return the policy that ``window=`` means: seconds, a policy, or a function.

    Args:
        window: What the user gave.
        name: The name of the argument, for error messages.

    Raises:
        TypeError: ``window`` is none of these.
        ValueError: ``window`` is a negative number, or NaN.
    """
    if isinstance(window, int | float) and not isinstance(window, bool):
        return Fixed(check_seconds(name, window))
    if not isinstance(window, type):
        if isinstance(window, WindowPolicy):
            return window
        if callable(window):
            # Here, because most servers have plain seconds, and need none of the rules.
            from trio_duplex._decision.rules import Ask

            return Ask(cast("WindowFunction", window))
    raise TypeError(
        f"{name} must be a number of seconds, a policy of trio_duplex.windows, or a function "
        f"of the peer's facts, not {window!r}"
    )
