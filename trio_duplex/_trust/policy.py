"""Peer policies: who the peer may be, asked the same way in both roles.

A policy is called with the peer's identity, the role that we play and the
remote address, after the handshake and before the handler. The peer is admitted
only if the policy returns None or True. Everything here is a pure function of
those three.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from functools import singledispatch
from typing import Protocol

import attrs

from trio_duplex._errors import PeerRejectedError
from trio_duplex._role import Role
from trio_duplex._sockets.address import Address, format_address
from trio_duplex._trust.identity import PeerIdentity

Verdict = bool | None
"""What a policy returns: False rejects the peer, True or None admits it."""


class PeerPolicy(Protocol):
    """Decides whether a peer may take part; sync or async.

    It accepts by returning None or True. It rejects by raising
    `PeerRejectedError` or returning False. Any other exception or value
    also rejects the peer, and is logged as our own fault.
    """

    def __call__(
        self, identity: PeerIdentity, role: Role, remote_address: Address | None, /
    ) -> Verdict | Awaitable[Verdict]:
        """Judge the peer.

        Args:
            identity: What the peer's certificate says.
            role: The TLS role that *we* play.
            remote_address: The address of the peer, in the form of
                `Connection.remote_address`: ``(host, port)``, the four fields of
                IPv6, or None if the stream does not say.
        """


async def judge(
    policy: PeerPolicy, identity: PeerIdentity, role: Role, remote_address: Address | None
) -> None:
    """Ask a policy, and raise `PeerRejectedError` unless it accepts.

    Raises:
        TypeError: The policy returned something other than None, True or False.
    """
    try:
        verdict = policy(identity, role, remote_address)
        if inspect.isawaitable(verdict):
            verdict = await verdict
    except PeerRejectedError as exc:  # a user's policy need not fill in these two facts
        exc.role = exc.role or role
        exc.peer = exc.peer or format_address(remote_address)
        raise
    if verdict is False:
        raise rejection(identity, role, remote_address, f"refused by {policy!r}")
    # A policy may return a match object or 0 by mistake. To guess what that means could admit peers.
    if verdict is not None and verdict is not True:
        raise TypeError(f"peer policy {policy!r} returned {verdict!r}, not None, True or False")


def rejection(
    identity: PeerIdentity, role: Role, remote_address: Address | None, why: str
) -> PeerRejectedError:
    """Make the error of a policy that does not admit a peer."""
    return PeerRejectedError(
        "the peer's certificate is valid, but the peer is not admitted",
        role=role,
        peer=format_address(remote_address),
        seen=f"certificate of {identity}",
        advice=why,
    )


@attrs.frozen
class AnyTrustedPeer:
    """Admit every peer whose certificate leads to our trust roots."""

    def __call__(
        self, identity: PeerIdentity, role: Role, remote_address: Address | None, /
    ) -> None:
        """Admit."""


@singledispatch
def server_name(policy: PeerPolicy, remote_address: Address | None) -> str | None:  # noqa: ARG001 - for those that know one
    """Return the DNS name to send as SNI, if the policy expects exactly one."""
    return None
