"""What a negotiation tells of itself as it goes, and where it lets itself be held up or ended.

`negotiate` has nobody to tell. A server that keeps limits subclasses it.
"""

from __future__ import annotations

import logging
import time

import trio

from trio_duplex._decision.rules import Change
from trio_duplex._role import Decision, Role

LOGGER = logging.getLogger("trio_duplex")

INTERVAL = 1.0
"""Seconds between two lines about policies that fail: as for the faults that a server logs."""

_last_failure = float("-inf")


class Supervision:
    """The stages of one negotiation, in order. This one lets everything pass.

    A stage is what lies between `stage` and `check`: whoever supervises may
    cancel its scope, and `check` then says why.
    """

    __slots__ = ()

    def stage(self, deadline: float) -> trio.CancelScope:
        """Begin the next stage: return the scope to run it in, and run it at once.

        Args:
            deadline: When the stage must be over, on Trio's clock. `take_turn`
                puts it off by the time that it waited.
        """
        return trio.CancelScope(deadline=deadline)

    def check(self) -> None:
        """Raise why the stage was ended from outside, if it was; call it after each stage."""

    def policy_failed(self, error: Exception) -> None:
        """Hear that a window policy has raised, or took too long: our own fault, not the peer's."""
        global _last_failure  # noqa: PLW0603 - there is one log
        now = time.monotonic()
        if now - _last_failure >= INTERVAL:
            _last_failure = now
            LOGGER.error("window policy failed: %r", error, exc_info=error)

    def peer_changed(self, change: Change) -> None:
        """Hear that a memory of peers takes a peer for another kind from now on."""

    def spoke(self) -> None:
        """Hear that the peer has sent something that does not tell its role yet."""

    def decided(self, decision: Decision) -> None:
        """Hear that the role is decided; no TLS object exists yet."""

    def crossed(self, decision: Decision) -> None:
        """Hear that two ClientHellos crossed, and in which role we go on.

        If the role has changed, the turn is given up: `take_turn` comes next.
        """

    async def take_turn(self, role: Role) -> None:
        """Wait, within a stage, until a handshake in ``role`` may begin: the TLS object is next.

        Raises:
            LimitError: Its turn did not come in time.
        """

    def answered(self) -> None:
        """Hear that the peer has answered our ClientHello."""

    def admitted(self, certificate: bytes | None) -> None:
        """Hear that the peer may take part.

        Args:
            certificate: Its leaf certificate, DER; None if it showed none.

        Raises:
            LimitError: It may not, for lack of room: it is refused as by a policy.
        """
