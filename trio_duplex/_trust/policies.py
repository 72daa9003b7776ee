"""Peer policies by name, by pin and by role, and those made of other policies.

A server imports this module when one of these policies is asked for, and with it
service-identity, which takes 0.4 MB.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice
from typing import cast

import attrs
import trio

from trio_duplex._errors import PeerRejectedError
from trio_duplex._role import Role
from trio_duplex._sockets.address import Address
from trio_duplex._trust.identity import IPAddress, PeerIdentity
from trio_duplex._trust.names import PIN_PREFIX, ExpectedNames, ambiguous, shown
from trio_duplex._trust.policy import PeerPolicy, judge, rejection, server_name

REFUSALS_SHOWN = 4
"""The most refusals in a message of `AnyOf`."""

ENTRIES_SHOWN = 10
"""The most entries in a policy's ``repr``, which ends up in messages and logs."""


def _shortly(entries: Collection[object]) -> str:
    first = ", ".join(map(repr, islice(entries, ENTRIES_SHOWN)))
    more = len(entries) - ENTRIES_SHOWN
    return f"[{first}, and {more} more]" if more > 0 else f"[{first}]"


@attrs.frozen(init=False)
class NamedPeer:
    """Admit a peer whose certificate bears one of these names.

    Names are matched by RFC 9525: DNS names (where the certificate may have a
    wildcard in the left-most label), IP addresses, and URIs by scheme and host.
    The subject's common name never counts. A URI with a path (such as a SPIFFE
    ID) must match literally. A certificate with several SPIFFE IDs matches
    nothing (X509-SVID section 2). If there is a single DNS name, it is sent as
    SNI when we are the TLS client.

    The time taken does not depend on the number of names. Of the names in a
    certificate, the first 1,000 of each kind are looked at.

    Args:
        names: DNS names, IP addresses or URIs; one of them must match. DNS
            names may be internationalised, and are then mapped as by Trio's
            resolver (UTS 46). The scope of a link-local address is ignored,
            because no certificate can contain it.

    Raises:
        ValueError: No name was given, or a name is none of the three.
    """

    names: tuple[str, ...] = attrs.field(repr=_shortly)
    _expected: ExpectedNames = attrs.field(repr=False, eq=False)

    @property
    def sni(self) -> str | None:
        """The DNS name to send as SNI, in A-labels, if exactly one is expected."""
        return self._expected.sni

    def __init__(self, *names: str) -> None:
        if not names:
            raise ValueError("NamedPeer needs at least one name")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "_expected", ExpectedNames.parse(names))

    def __call__(
        self, identity: PeerIdentity, role: Role, remote_address: Address | None, /
    ) -> None:
        """Admit if a name matches."""
        if not self._expected.borne_by(identity):
            names = shown(self.names, len(self.names), between=" or ")
            raise rejection(
                identity, role, remote_address, f"expected the name {names}{_note_on(identity)}"
            )


@attrs.frozen(init=False)
class PinnedPeer:
    """Admit a peer by the SHA-256 of its certificate or of its public key.

    The certificate must still lead to the trust roots, or be one of the
    ``trusted_certificates`` of `Credentials.mutual`.

    Args:
        pins: ``"sha256:"`` and 64 hex digits, colons allowed between them.

    Raises:
        ValueError: No pin was given, or one is malformed.
    """

    pins: frozenset[str] = attrs.field(repr=_shortly)

    def __init__(self, *pins: str) -> None:
        if not pins:
            raise ValueError("PinnedPeer needs at least one pin")
        object.__setattr__(self, "pins", frozenset(map(_pin_digits, pins)))

    def __call__(
        self, identity: PeerIdentity, role: Role, remote_address: Address | None, /
    ) -> None:
        """Admit if a pin matches."""
        if self.pins.isdisjoint((identity.certificate_sha256, identity.public_key_sha256)):
            raise rejection(
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
            address to them. The names that a function returns are parsed each
            time, and should be few. A link-local address may have a scope, such
            as ``fe80::1%eth0``. A peer for whose address there are no names is
            rejected.

    Raises:
        ValueError: A key is not an address or network, or a name is malformed.
    """

    names_at: NamesFunction
    _parsed: Mapping[int, NamedPeer] = attrs.field(repr=False, eq=False)
    """The parsed names of a mapping, by the ``id()`` of each tuple of names."""

    def __init__(self, names: NamesByNetwork | NamesFunction) -> None:
        parsed: dict[int, NamedPeer] = {}
        if not callable(names):
            by_key = {key: _named(value) for key, value in names.items()}
            parsed = {id(policy.names): policy for policy in by_key.values()}
            names = _by_network({key: policy.names for key, policy in by_key.items()})
        object.__setattr__(self, "names_at", names)
        object.__setattr__(self, "_parsed", parsed)

    def expected_names(self, remote_address: Address | None) -> tuple[str, ...]:
        """Return the names expected at an address; empty if there are none."""
        names = self.names_at(remote_address)
        if names is None:
            return ()
        return (names,) if isinstance(names, str) else tuple(names)

    def expected_peer(self, remote_address: Address | None) -> NamedPeer | None:
        """Return the policy for an address; None if no name is expected there."""
        names = self.expected_names(remote_address)
        return self._parsed.get(id(names)) or (NamedPeer(*names) if names else None)

    def __call__(
        self, identity: PeerIdentity, role: Role, remote_address: Address | None, /
    ) -> None:
        """Admit if a name that is expected at the address matches."""
        expected = self.expected_peer(remote_address)
        if expected is None:
            raise rejection(identity, role, remote_address, "no name is expected at its address")
        expected(identity, role, remote_address)


@attrs.frozen(init=False)
class RolesAllowed:
    """Admit an identity only in the roles that it may play.

    This prevents a splice between sibling listeners: an identity that only
    listens is not listed, and an identity that always dials as TLS server is
    never admitted as TLS client.

    Args:
        roles: From a name (as for `NamedPeer`) or pin (as for `PinnedPeer`) to
            the TLS roles that *this identity*, the peer, may play. An identity
            that is not listed is rejected. If several entries match, it is
            enough that one of them allows the role. So a certificate with
            several of these names, or with a wildcard that covers them, may
            play the roles of all of them.

    Raises:
        ValueError: A key is malformed, or a value is not a role.
    """

    roles: tuple[tuple[str, frozenset[Role]], ...] = attrs.field(repr=_shortly)
    _may_play: Mapping[Role, _Identities] = attrs.field(repr=False, eq=False)

    def __init__(self, roles: Mapping[str, Role | Iterable[Role]]) -> None:
        entries: list[tuple[str, frozenset[Role]]] = []
        for key, value in roles.items():
            allowed = (value,) if isinstance(value, Role) else value
            entries.append((key, frozenset(map(Role, allowed))))
        _Identities.parse(key for key, _ in entries)  # checks the keys that allow no role, too
        object.__setattr__(self, "roles", tuple(entries))
        may_play = {
            role: _Identities.parse(key for key, allowed in entries if role in allowed)
            for role in Role
        }
        object.__setattr__(self, "_may_play", may_play)

    def __call__(
        self, identity: PeerIdentity, role: Role, remote_address: Address | None, /
    ) -> None:
        """Admit if the identity may play the role opposite to ours."""
        if not self._may_play[role.other].include(identity):
            why = f"it may not play the TLS {role.other}{_note_on(identity)}"
            raise rejection(identity, role, remote_address, why)


@attrs.frozen(init=False)
class AllOf:
    """Admit a peer that all of several policies admit. They are asked in order.

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
        await trio.lowlevel.checkpoint()  # the policies may all be sync
        for policy in self.policies:
            await judge(policy, identity, role, remote_address)


@attrs.frozen(init=False)
class AnyOf:
    """Admit a peer that at least one of several policies admits. They are asked in order.

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
        """Admit if one of them admits."""
        await trio.lowlevel.checkpoint()  # the policies may all be sync
        refusals: list[str] = []
        for policy in self.policies:
            try:
                await judge(policy, identity, role, remote_address)
            except PeerRejectedError as exc:
                if len(refusals) < REFUSALS_SHOWN:
                    refusals.append(exc.advice or exc.summary)
            else:
                return
        if more := len(self.policies) - len(refusals):
            refusals.append(f"and {more} more")
        raise rejection(identity, role, remote_address, "; ".join(refusals))


@server_name.register(NamedPeer)
def _of_named_peer(policy: NamedPeer, remote_address: Address | None) -> str | None:  # noqa: ARG001 - the same everywhere
    return policy.sni


@server_name.register(NamedByAddress)
def _of_named_by_address(policy: NamedByAddress, remote_address: Address | None) -> str | None:
    expected = policy.expected_peer(remote_address)
    return expected.sni if expected is not None else None


@server_name.register(AllOf)
def _of_all(policy: AllOf, remote_address: Address | None) -> str | None:
    named = (server_name(part, remote_address) for part in policy.policies)
    return next((name for name in named if name is not None), None)


def _is_pin(text: str) -> bool:
    return text.lower().startswith(PIN_PREFIX)


def _pin_digits(pin: str) -> str:
    digits = pin.lower().removeprefix(PIN_PREFIX).replace(":", "")
    if not _is_pin(pin) or not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError(f"{pin!r} is not a pin: it must be 'sha256:' and 64 hex digits")
    return digits


@attrs.frozen
class _Identities:
    """Identities by name or by pin, parsed and indexed."""

    names: ExpectedNames
    pins: frozenset[str]

    @classmethod
    def parse(cls, keys: Iterable[str]) -> _Identities:
        keys = tuple(keys)
        return cls(
            ExpectedNames.parse(key for key in keys if not _is_pin(key)),
            frozenset(_pin_digits(key) for key in keys if _is_pin(key)),
        )

    def include(self, identity: PeerIdentity) -> bool:
        return bool(
            self.pins & {identity.certificate_sha256, identity.public_key_sha256}
        ) or self.names.borne_by(identity)


def _named(names: Names) -> NamedPeer:
    return NamedPeer(names) if isinstance(names, str) else NamedPeer(*names)


def _note_on(identity: PeerIdentity) -> str:
    """Return an explanation for a message if a certificate can't match any name."""
    if not ambiguous(identity):
        return ""
    return "; its certificate has several SPIFFE IDs, so none of them counts (X509-SVID section 2)"


_SCOPE = re.compile(r"%([^/]*)")

Bits = tuple[int, int]
"""The IP version of a network, and the length of its prefix."""
NamesAt = dict[int, list[tuple[str, tuple[str, ...]]]]
"""From a prefix to the names expected there, each with the scope that they apply to."""


def _by_network(names: Mapping[str, tuple[str, ...]]) -> NamesFunction:
    """Index networks by the length of their prefixes: one lookup for each length."""
    table: dict[Bits, NamesAt] = {}
    for key, expected in names.items():
        scope = _SCOPE.search(key)
        network = ipaddress.ip_network(_SCOPE.sub("", key))
        prefix = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
        of_length = table.setdefault((network.version, network.prefixlen), {})
        of_length.setdefault(prefix, []).append((scope[1] if scope else "", expected))
    for of_length in table.values():
        for at_prefix in of_length.values():  # an entry with a scope comes before one without
            at_prefix.sort(key=lambda entry: entry[0] == "")
    lengths = sorted(table, reverse=True)  # within each version, the longest prefix first

    def names_at(remote_address: Address | None) -> tuple[str, ...] | None:
        if not isinstance(remote_address, tuple):
            return None
        host, _, zone = remote_address[0].partition("%")
        scopes = {zone, str(remote_address[3]) if len(remote_address) == 4 else "", ""}
        address = ipaddress.ip_address(host)
        mapped = getattr(address, "ipv4_mapped", None)
        address = cast("IPAddress", mapped or address)
        for bits in lengths:
            if bits[0] != address.version:
                continue
            prefix = int(address) >> (address.max_prefixlen - bits[1])
            for scope, expected in table[bits].get(prefix, ()):
                if scope in scopes:
                    return expected
        return None

    return names_at
