"""The TLS role that we play, and why: the vocabulary of the whole package."""

from __future__ import annotations

import enum

import attrs


class Role(enum.Enum):
    """The TLS role that *we* play on a connection; the peer plays the other."""

    SERVER = "server"
    """We answer the peer's ClientHello."""

    CLIENT = "client"
    """We send the ClientHello, even if the peer dialled."""

    __hash__ = object.__hash__  # enum.Enum's is a Python function, and a handshake asks eight times

    @property
    def other(self) -> Role:
        """The role of the peer."""
        return Role.CLIENT if self is Role.SERVER else Role.SERVER

    def __str__(self) -> str:
        return self.value


class Reason(enum.Enum):
    """What a role decision is based on."""

    SPOKE = "spoke"
    """The peer sent first: it is the TLS client."""

    SILENT = "silent"
    """The peer sent nothing in the detection window: it is the TLS server."""

    ANNOUNCED = "announced"
    """The peer sent an announcement: it will be the TLS server."""

    RULE = "rule"
    """Nothing had to be detected: a rule fixed the role, or the caller that dialled did."""

    REMEMBERED = "remembered"
    """The peer was silent in its last connections, so it got a short window, and was silent again."""

    __hash__ = object.__hash__

    def __str__(self) -> str:
        return self.value


@attrs.frozen
class Decision:
    """The role that we took, why, and how long the decision took.

    Attributes:
        role: The TLS role that we play.
        reason: What the decision is based on.
        waited: Seconds from the start of the detection window to the decision.
        window: The detection window that applied, in seconds (``math.inf`` if
            unbounded, 0 if none was needed).
        rule: Which rule of a window policy decided, and why, in words; empty
            if the window was plain seconds.
    """

    role: Role
    reason: Reason
    waited: float
    window: float
    rule: str = ""

    def __str__(self) -> str:
        why = f"; {self.rule}" if self.rule else ""
        return f"{self.role} ({self.reason} after {self.waited:.3f} s{why})"
