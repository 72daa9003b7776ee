"""Asks a window policy how long to wait for one peer, and tells it afterwards what became of the peer.

Where the window is plain seconds, there is no `Lesson`.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable

import attrs
import trio

from trio_duplex._decision.facts import Conduct, Outcome, PeerFacts
from trio_duplex._decision.policy import ASK_TIMEOUT, Asked, Choice, WindowPolicy
from trio_duplex._decision.window import DEFAULT_WINDOW
from trio_duplex._sockets.address import Address, Socket, local_address, own_address, remote_address
from trio_duplex._sockets.round_trip import round_trip, round_trip_of
from trio_duplex._stream.supervision import Supervision


@attrs.frozen(eq=False)
class Lesson:
    """A window policy's part in one connection: the question and, later, the lesson.

    Args:
        policy: The policy.
        facts: What is known of the peer.
        supervision: Is told if the policy fails, and if a peer changes its kind.
    """

    policy: WindowPolicy
    facts: PeerFacts
    supervision: Supervision

    @classmethod
    def of(
        cls,
        policy: WindowPolicy,
        stream: trio.abc.Stream,
        remote: Address | None,
        supervision: Supervision,
    ) -> Lesson:
        """Gather the facts; call it right after accept, when the round trip was just measured."""
        facts = PeerFacts(
            remote_address=remote,
            local_address=local_address(stream),
            # With an address that was given to us, the kernel's round trip is that to a proxy.
            round_trip=round_trip(stream) if remote_address(stream) == remote else None,
            now=time.time(),
        )
        return cls(policy, facts, supervision)

    async def choose(self) -> Choice:
        """Ask the policy. If it fails, report that, and use what it names for that case.

        Raises:
            DuplexError: What ``supervision`` ended it with.
        """
        return await self.settle(
            choose_nowait(self.policy, self.facts, self.supervision.policy_failed)
        )

    async def settle(self, choice: object) -> Choice:
        """Wait for the choice, if the policy has not made it yet.

        Args:
            choice: What `choose_nowait` has returned.

        Raises:
            DuplexError: What ``supervision`` ended it with.
        """
        while not isinstance(choice, Choice):
            choice = await self._wait_for(choice)
        return choice

    async def _wait_for(self, choice: object) -> object:
        """Wait for a choice that is not made yet.

        Returns:
            A choice, or the policy that chooses in its place. Policies are nested, so this ends.
        """
        timeout = choice.timeout if isinstance(choice, Asked) else ASK_TIMEOUT
        try:
            if not inspect.isawaitable(choice):
                raise TypeError(f"a window policy must choose a Choice, not {choice!r}")
            with self.supervision.stage(trio.current_time() + timeout):
                answer = await choice
                if not isinstance(answer, Choice):
                    raise TypeError(f"a window policy must choose a Choice, not {answer!r}")
                return answer
            error: Exception = trio.TooSlowError(f"no window was chosen within {timeout:g} s")
        except Exception as exc:  # noqa: BLE001 - it may be the user's, and raise anything
            error = exc
        self.supervision.check()
        self.supervision.policy_failed(error)
        return choice.otherwise() if isinstance(choice, Asked) else _DEFAULT

    def tell(self, conduct: Conduct, waited: float, *, admitted: bool) -> None:
        """Tell the policy what became of the connection."""
        outcome = Outcome(conduct=conduct, admitted=admitted, waited=waited)
        try:
            change = self.policy.learn(self.facts, outcome)
        except Exception as exc:  # noqa: BLE001 - it may be the user's, and raise anything
            self.supervision.policy_failed(exc)
        else:
            if change is not None:
                self.supervision.peer_changed(change)


def facts_of(sock: Socket, remote: Address | None) -> PeerFacts:
    """Gather the facts of a socket that was just accepted, when its round trip was just measured."""
    return PeerFacts(
        remote_address=remote,
        local_address=own_address(sock),
        round_trip=round_trip_of(sock),
        now=time.time(),
    )


def choose_nowait(
    policy: WindowPolicy, facts: PeerFacts, failed: Callable[[Exception], object]
) -> object:
    """Ask the policy.

    Args:
        policy: The policy.
        facts: What is known of the peer.
        failed: Called with what the policy raised, if it did.

    Returns:
        A `Choice`, or what `Lesson.settle` waits for.
    """
    try:
        return policy.choose(facts)
    except Exception as exc:  # noqa: BLE001 - it may be the user's, and raise anything
        failed(exc)
        return _DEFAULT


_DEFAULT = Choice(DEFAULT_WINDOW, "window policy failed")
