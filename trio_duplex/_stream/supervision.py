"""Callbacks by which a negotiation reports its progress, and can be delayed or ended from outside.

`negotiate` uses the base class, which does nothing. A server with limits uses a subclass.
"""

from __future__ import annotations

import logging
import time

import trio

from trio_duplex._decision.policy import Change
from trio_duplex._role import Decision, Role

LOGGER = logging.getLogger("trio_duplex")

INTERVAL = 1.0
"""Seconds between two log lines about failing policies, as for the faults that a server logs."""

_last_failure = float("-inf")


class Supervision:
    """The stages of one negotiation, in order. This class limits nothing.

    A stage begins with `stage` and ends with `check`. A supervisor may cancel the stage's
    scope; `check` then raises the reason.
    """

    __slots__ = ()

    def stage(self, deadline: float) -> trio.CancelScope:
        """Begin the next stage: return the cancel scope to run it in. Enter it at once.

        Args:
            deadline: When the stage must be over, on Trio's clock. `take_turn`
                puts it off by the time that it waited.
        """
        return trio.CancelScope(deadline=deadline)

    def check(self) -> None:
        """Raise the reason if the stage was ended from outside. Call this after each stage."""

    def policy_failed(self, error: Exception) -> None:
        """A window policy has raised, or took too long: that is our own fault, not the peer's."""
        global _last_failure  # noqa: PLW0603 - there is one log
        now = time.monotonic()
        if now - _last_failure >= INTERVAL:
            _last_failure = now
            LOGGER.error("window policy failed: %r", error, exc_info=error)

    def peer_changed(self, change: Change) -> None:
        """A memory of peers regards a peer as of another kind from now on."""

    def spoke(self) -> None:
        """The peer has sent something, but not enough to decide its role."""

    def decided(self, decision: Decision) -> None:
        """The role is decided; no TLS object exists yet."""

    def crossed(self, decision: Decision) -> None:
        """Two ClientHellos have crossed, and it is decided in which role we go on.

        If the role has changed, the turn is given up: `take_turn` comes next.
        """

    async def take_turn(self, role: Role) -> None:
        """Wait, within a stage, until a handshake in ``role`` may begin. The TLS object is made after that.

        Raises:
            LimitError: Its turn did not come in time.
        """

    def answered(self) -> None:
        """The peer has answered our ClientHello."""

    def admitted(self, certificate: bytes | None) -> None:
        """The peer has been verified, and its policy admits it.

        Args:
            certificate: Its leaf certificate, DER; None if it showed none.

        Raises:
            LimitError: There is no room for it. The peer is then refused as if by a policy.
        """
