"""Who may the peer be: one question, asked the same way in both roles.

A policy is called with the peer's identity, the role that we play and the
remote address, after the handshake and before the handler. It raises
`PeerRejectedError`, or the peer is in. Everything here is a pure function of
those three.
"""

from __future__ import annotations

import inspect
import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol, cast

import attrs
import trio

from trio_duplex._errors import PeerRejectedError
from trio_duplex._role import Role
from trio_duplex._sockets.address import Address, format_address
from trio_duplex._trust.identity import IPAddress, PeerIdentity
from trio_duplex._trust.names import PIN_PREFIX, bears_name, check_name, dns_name

Verdict = bool | None
"""What a policy returns: False refuses the peer; True, or None, admits it."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class PeerPolicy(Protocol):
    """Decides whether a peer may take part; sync or async.

    It accepts by returning None or True. It rejects by raising
    `PeerRejectedError` or returning False. Any other exception or value
    rejects too, and is logged as our own fault.
    """

    def __call__(
        self, identity: PeerIdentity, role: Role, remote_address: Address | None, /
    ) -> Verdict | Awaitable[Verdict]:
        """Judge the peer.

        Args:
            identity: Who the peer is.
            role: The TLS role that *we* play.
            remote_address: Where the peer is, as `Connection.remote_address`
                has it: ``(host, port)``, IPv6's four fields, or None where the
                stream does not tell.
        """


async def judge(
    policy: PeerPolicy, identity: PeerIdentity, role: Role, remote_address: Address | None
) -> None:
    """Ask a policy, and raise `PeerRejectedError` unless it accepts.

    Raises:
        TypeError: The policy returned something that is no verdict.
    """
    try:
        verdict = policy(identity, role, remote_address)
        if inspect.isawaitable(verdict):
            verdict = await verdict
    except PeerRejectedError as exc:  # a user's own need not say what we know
        exc.role = exc.role or role
        exc.peer = exc.peer or format_address(remote_address)
        raise
    if verdict is False:
        raise _rejection(identity, role, remote_address, f"refused by {policy!r}")
    # A coroutine, a match object, 0: guessing what they mean would let peers in.
    if verdict is not None and verdict is not True:
        raise TypeError(f"peer policy {policy!r} returned {verdict!r}, not None, True or False")


def _rejection(
    identity: PeerIdentity, role: Role, remote_address: Address | None, why: str
) -> PeerRejectedError:
    return PeerRejectedError(
        "the peer's certificate is valid, but the peer is not admitted",
        role=role,
        peer=format_address(remote_address),
        seen=f"certificate of {identity}",
        advice=why,
    )


@attrs.frozen
class AnyTrustedPeer:
    """Admit whoever holds a certificate that leads to our trust roots."""

    def __call__(
        self, identity: PeerIdentity, role: Role, remote_address: Address | None, /
    ) -> None:
        """Admit."""


@attrs.frozen(init=False)
class NamedPeer:
    """Admit a peer whose certificate bears one of these names.

    Matching is RFC 9525's: DNS names with the certificate's wildcards in the
    left-most label, IP addresses, URIs by scheme and host; never the subject's
    common name. A URI with a path (a SPIFFE ID) must be equal to the letter.
    A single DNS name also goes out as SNI when we are the TLS client.

    Args:
        names: DNS names, IP addresses or URIs; one of them must match.

    Raises:
        ValueError: No name was given, or one is none of the three.
    """

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        if not names:
            raise ValueError("NamedPeer needs at least one name")
        for name in names:
            check_name(name)
        object.__setattr__(self, "names", names)

    def __call__(
        self, identity: PeerIdentity, role: Role, remote_address: Address | None, /
    ) -> None:
        """Admit if a name matches."""
        if not any(bears_name(identity, name) for name in self.names):
            raise _rejection(
                identity, role, remote_address, f"expected the name {' or '.join(self.names)}"
            )


@attrs.frozen(init=False)
class PinnedPeer:
    """Admit a peer by the SHA-256 of its certificate or of its public key.

    The certificate must still lead to the trust roots.

    Args:
        pins: ``"sha256:"`` and 64 hex digits, colons allowed between them.

    Raises:
        ValueError: No pin was given, or one is malformed.
    """

    pins: frozenset[str]

    def __init__(self, *pins: str) -> None:
        if not pins:
            raise ValueError("PinnedPeer needs at least one pin")
        object.__setattr__(self, "pins", frozenset(map(_pin_digits, pins)))

    def __call__(
        self, identity: PeerIdentity, role: Role, remote_address: Address | None, /
    ) -> None:
        """Admit if a pin matches."""
        if self.pins.isdisjoint((identity.certificate_sha256, identity.public_key_sha256)):
            raise _rejection(
                identity, role, remote_address, "neither certificate nor public key is pinned"
            )


Names = str | Iterable[str]
NamesByNetwork = Mapping[str, Names]
NamesFunction = Callable[[Address | None], Names | None]


@attrs.frozen(init=False)
class NamedByAddress:
    """Admit a peer whose certificate bears a name expected at its remote address.

    Args:
        names: A mapping from IP addresses or networks to the names expected
            there (the longest prefix counts), or a function from the remote
            address to them. Where there is none, the peer is rejected.

    Raises:
        ValueError: A key is no address or network, or a name is malformed.
    """

    names_at: NamesFunction

    def __init__(self, names: NamesByNetwork | NamesFunction) -> None:
        object.__setattr__(self, "names_at", names if callable(names) else _by_network(names))

    def expected_names(self, remote_address: Address | None) -> tuple[str, ...]:
        """The names expected at an address; empty if none are."""
        names = self.names_at(remote_address)
        if names is None:
            return ()
        return (names,) if isinstance(names, str) else tuple(names)

    def __call__(
        self, identity: PeerIdentity, role: Role, remote_address: Address | None, /
    ) -> None:
        """Admit if a name that is expected at the address matches."""
        names = self.expected_names(remote_address)
        if not names:
            raise _rejection(identity, role, remote_address, "no name is expected at its address")
        NamedPeer(*names)(identity, role, remote_address)


@attrs.frozen(init=False)
class RolesAllowed:
    """Admit an identity only in the roles that it may play.

    This is what stops a splice between sibling listeners: an identity that
    only ever listens is not listed, and one that always dials as TLS server is
    never admitted as TLS client.

    Args:
        roles: From a name (as for `NamedPeer`) or pin (as for `PinnedPeer`) to
            the TLS roles that *this identity*, the peer, may play. An identity
            that is not listed is rejected; where several entries fit, one that
            allows the role is enough. So a certificate with several of these
            names, or with a wildcard over them, may play the roles of all.

    Raises:
        ValueError: A key is malformed, or a value is no role.
    """

    roles: tuple[tuple[str, frozenset[Role]], ...]

    def __init__(self, roles: Mapping[str, Role | Iterable[Role]]) -> None:
        entries: list[tuple[str, frozenset[Role]]] = []
        for key, value in roles.items():
            allowed = (value,) if isinstance(value, Role) else value
            entries.append((key, frozenset(map(Role, allowed))))
            _check_key(key)
        object.__setattr__(self, "roles", tuple(entries))

    def __call__(
        self, identity: PeerIdentity, role: Role, remote_address: Address | None, /
    ) -> None:
        """Admit if the identity may play the other role than ours."""
        for key, allowed in self.roles:
            if role.other in allowed and _is_identity(identity, key):
                return
        raise _rejection(identity, role, remote_address, f"it may not play the TLS {role.other}")


@attrs.frozen(init=False)
class AllOf:
    """Admit a peer that every one of several policies admits; asked in order.

    Raises:
        ValueError: No policy was given.
    """

    policies: tuple[PeerPolicy, ...]

    def __init__(self, *policies: PeerPolicy) -> None:
        if not policies:
            raise ValueError("AllOf needs at least one policy")
        object.__setattr__(self, "policies", policies)

    async def __call__(
        self, identity: PeerIdentity, role: Role, remote_address: Address | None, /
    ) -> None:
        """Admit if all admit."""
        await trio.lowlevel.checkpoint()  # they may all be sync
        for policy in self.policies:
            await judge(policy, identity, role, remote_address)


@attrs.frozen(init=False)
class AnyOf:
    """Admit a peer that at least one of several policies admits; asked in order.

    Raises:
        ValueError: No policy was given.
    """

    policies: tuple[PeerPolicy, ...]

    def __init__(self, *policies: PeerPolicy) -> None:
        if not policies:
            raise ValueError("AnyOf needs at least one policy")
        object.__setattr__(self, "policies", policies)

    async def __call__(
        self, identity: PeerIdentity, role: Role, remote_address: Address | None, /
    ) -> None:
        """Admit if one admits."""
        await trio.lowlevel.checkpoint()  # they may all be sync
        refusals: list[str] = []
        for policy in self.policies:
            try:
                await judge(policy, identity, role, remote_address)
            except PeerRejectedError as exc:
                refusals.append(exc.advice or exc.summary)
            else:
                return
        raise _rejection(identity, role, remote_address, "; ".join(refusals))


def server_name(policy: PeerPolicy, remote_address: Address | None) -> str | None:
    """The DNS name to send as SNI: the one that the policy expects, if it is but one."""
    match policy:
        case NamedPeer(names=names):
            expected = names
        case NamedByAddress():
            expected = policy.expected_names(remote_address)
        case AllOf(policies=parts):
            named = (server_name(part, remote_address) for part in parts)
            return next((name for name in named if name is not None), None)
        case _:
            return None
    dns_names = set(filter(None, map(dns_name, expected)))
    return dns_names.pop() if len(dns_names) == 1 else None


def _is_pin(text: str) -> bool:
    return text.lower().startswith(PIN_PREFIX)


def _pin_digits(pin: str) -> str:
    digits = pin.lower().removeprefix(PIN_PREFIX).replace(":", "")
    if not _is_pin(pin) or not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError(f"{pin!r} is no pin: it must be 'sha256:' and 64 hex digits")
    return digits


def _check_key(key: str) -> None:
    if _is_pin(key):
        _pin_digits(key)
    else:
        check_name(key)


def _is_identity(identity: PeerIdentity, key: str) -> bool:
    if _is_pin(key):
        return _pin_digits(key) in (identity.certificate_sha256, identity.public_key_sha256)
    return bears_name(identity, key)


def _by_network(names: NamesByNetwork) -> NamesFunction:
    table: list[tuple[Network, tuple[str, ...]]] = []
    for key, value in names.items():
        expected = (value,) if isinstance(value, str) else tuple(value)
        NamedPeer(*expected)  # checks them
        table.append((ipaddress.ip_network(key), expected))
    table.sort(key=lambda entry: entry[0].prefixlen, reverse=True)

    def names_at(remote_address: Address | None) -> tuple[str, ...] | None:
        if not isinstance(remote_address, tuple):
            return None
        address = ipaddress.ip_address(remote_address[0].partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        address = cast("IPAddress", mapped or address)
        return next((names for network, names in table if address in network), None)

    return names_at
