"""Whether a certificate bears one of the expected names, by RFC 9525.

Pure. The expected names come from a user: DNS names, IP addresses or URIs.
service-identity parses them, once. The names in a certificate come from its issuer:
a malformed one matches nothing, and does not raise. Each name of the certificate is
looked up in a set (a wildcard by its parent domain), so that neither a long list of
expected names nor a certificate with very many names takes more than a fraction of a
millisecond.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from itertools import islice

import attrs
import idna
from service_identity.hazmat import DNS_ID, URI_ID

from trio_duplex._trust.identity import IPAddress, PeerIdentity

PIN_PREFIX = "sha256:"

NAMES_LOOKED_AT = 1000
"""How many names of each kind in a certificate are looked at. Any names after these
match nothing. Public authorities mostly allow 100."""

NAMES_SHOWN = 4
"""The most names in a message."""

LONGEST_SHOWN = 80
"""The most characters of a name in a message."""

# RFC 1034 section 3.5, and the underscore, which occurs in practice.
_LABEL = "[a-z0-9_-]{1,63}"
_DNS_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
_LONGEST_DNS_NAME = 253
# Matches names that can only be DNS names. They need no other parser, so that 100,000 names take
# 0.2 s instead of 3 s.
_PLAIN_DNS_NAME = re.compile(rf"(?:{_LABEL}\.)+[a-z][a-z0-9-]{{0,62}}", re.ASCII | re.IGNORECASE)

_SPIFFE = "spiffe:"

UriId = tuple[str, str]
"""A URI without a path: its scheme and its host, both in lower case."""


@attrs.frozen(kw_only=True)
class ExpectedNames:
    """Expected names, parsed and indexed. A certificate must bear one of them."""

    sni: str | None
    """The expected DNS name in A-labels, if there is exactly one."""
    dns_names: frozenset[str]
    parents: frozenset[str]
    """Each DNS name without its first label: the domains whose wildcard would match."""
    ip_addresses: frozenset[IPAddress]
    uri_ids: frozenset[UriId]
    exact_uris: frozenset[str]
    """URIs that a certificate must contain literally, without the SPIFFE IDs."""
    spiffe_ids: frozenset[str]

    @classmethod
    def parse(cls, names: Iterable[str]) -> ExpectedNames:
        """Parse and index names.

        Args:
            names: DNS names, IP addresses or URIs.

        Raises:
            ValueError: A name is none of the three.
        """
        dns_names: set[str] = set()
        ip_addresses: set[IPAddress] = set()
        uri_ids: set[UriId] = set()
        exact: set[str] = set()
        for name in names:
            if _PLAIN_DNS_NAME.fullmatch(name) and len(name) <= _LONGEST_DNS_NAME:
                dns_names.add(name.lower())
                continue
            match _expected(name):
                case ipaddress.IPv4Address() | ipaddress.IPv6Address() as address:
                    ip_addresses.add(address)
                case DNS_ID() as dns_id:
                    dns_names.add(dns_id.hostname.decode("ascii"))
                case URI_ID() as uri:
                    host = uri.dns_id.hostname.decode("ascii")
                    uri_ids.add((uri.protocol.decode("ascii"), host))
                case str(uri):
                    exact.add(uri)
        parents = (name.partition(".")[2] for name in dns_names)
        spiffe_ids = frozenset(filter(_is_spiffe, exact))
        return cls(
            sni=next(iter(dns_names)) if len(dns_names) == 1 else None,
            dns_names=frozenset(dns_names),
            # A wildcard over a single label might cover a whole public suffix.
            parents=frozenset(parent for parent in parents if "." in parent),
            ip_addresses=frozenset(ip_addresses),
            uri_ids=frozenset(uri_ids),
            exact_uris=frozenset(exact) - spiffe_ids,
            spiffe_ids=spiffe_ids,
        )

    def borne_by(self, identity: PeerIdentity) -> bool:
        """Whether a certificate bears one of the names, matched as in RFC 9525 section 6."""
        return not ambiguous(identity) and (
            self._borne_as_dns_name(identity)
            or not self.ip_addresses.isdisjoint(identity.ip_addresses[:NAMES_LOOKED_AT])
            or self._borne_as_uri(identity)
        )

    def _borne_as_dns_name(self, identity: PeerIdentity) -> bool:
        if not self.dns_names:
            return False
        names = identity.dns_names[:NAMES_LOOKED_AT]
        if not self.dns_names.isdisjoint(names):
            return True
        # RFC 9525 section 6.3: a wildcard must be the whole left-most label, and matches
        # exactly one label. An A-label (internationalised) is matched like any other.
        wildcards = [name[2:] for name in names if name[:2] == "*."]
        return not self.parents.isdisjoint(wildcards)

    def _borne_as_uri(self, identity: PeerIdentity) -> bool:
        if identity.spiffe_id in self.spiffe_ids:  # None is never in the set
            return True
        uris = identity.uris[:NAMES_LOOKED_AT]
        if not self.exact_uris.isdisjoint(uris):
            return True
        return bool(self.uri_ids) and any(_uri_id(uri) in self.uri_ids for uri in uris)


def ambiguous(identity: PeerIdentity) -> bool:
    """Whether a certificate has several SPIFFE IDs, and so does not identify anybody.

    X509-SVID section 2 demands exactly one URI. A certificate for two workloads
    matches neither of them, and none of its other names either.
    """
    return sum(map(_is_spiffe, identity.uris[:NAMES_LOOKED_AT])) > 1


def bears_name(identity: PeerIdentity, name: str) -> bool:
    """Whether a certificate bears a name, matched as in RFC 9525 section 6."""
    return ExpectedNames.parse([name]).borne_by(identity)


def dns_name(name: str) -> str | None:
    """Return the SNI for an expected name: in A-labels, without a final dot; None if not a DNS name."""
    return ExpectedNames.parse([name]).sni


def shown(names: Iterable[str], total: int, *, between: str = ", ") -> str:
    """Show the first few of many names, each of bounded length, and how many more there are."""
    first = [
        name if len(name) <= LONGEST_SHOWN else f"{name[:LONGEST_SHOWN]}..."
        for name in islice(names, NAMES_SHOWN)
    ]
    more = f" and {total - len(first)} more" if total > len(first) else ""
    return between.join(first) + more


def _expected(name: str) -> DNS_ID | URI_ID | IPAddress | str:
    """Parse an expected name. A URI that must match literally is returned as text."""
    if name.lower().startswith(PIN_PREFIX):
        raise ValueError(f"{name!r} is a pin, not a name: give it to PinnedPeer")
    try:
        if (address := _ip_address(name)) is not None:
            return address
        scheme, colon, rest = name.partition(":")
        if not colon:
            return _checked(DNS_ID(_a_labels(name.removesuffix("."))))
        if _is_spiffe(name) or re.search(r"[/?#:@]", rest.removeprefix("//")):
            return name
        uri = URI_ID(f"{scheme}:{_a_labels(rest.removeprefix('//'))}")
        _checked(uri.dns_id)
    except ValueError as exc:
        raise ValueError(f"{name!r} is not a DNS name, IP address or URI") from exc
    return uri


def _a_labels(name: str) -> str:
    """Convert a name to the form that it has in certificates, mapped as by Trio's resolver (UTS 46)."""
    return name if name.isascii() else idna.encode(name, uts46=True).decode("ascii")


def _checked(dns_id: DNS_ID) -> DNS_ID:
    """Refuse names that service-identity accepts although no certificate or SNI can contain them."""
    text = dns_id.hostname.decode("ascii")
    if len(text) > _LONGEST_DNS_NAME or not _DNS_NAME.fullmatch(text):
        raise ValueError("not a DNS name")
    return dns_id


def _ip_address(text: str) -> IPAddress | None:
    """Parse an IP address, and drop its scope: that is local to us, so no certificate has it (RFC 4007)."""
    bracketed = text.startswith("[") and text.endswith("]")
    try:
        address = ipaddress.ip_address(text[1:-1] if bracketed else text)
    except ValueError:
        return None
    return ipaddress.IPv6Address(int(address)) if address.version == 6 else address


def _uri_id(uri: str) -> UriId:
    scheme, _, rest = uri.partition(":")
    return scheme.lower(), rest.removeprefix("//").lower()


def _is_spiffe(uri: str) -> bool:
    return uri[: len(_SPIFFE)].lower() == _SPIFFE
