"""Every policy against every kind of peer: one verdict, whatever role the peer picks.

The peers are plain ``ssl`` contexts that dial our listener in memory, once as TLS client and once
as TLS server. What TLS itself refuses, it refuses whatever the policy.
"""

from __future__ import annotations

import ssl
import warnings
from functools import cache

import pytest
import trio
from trio.testing import MockClock

from tests.support.authority import DAY, FLEET, NOW, STRANGERS, USAGE, Leaf
from tests.support.peers import dial, memory_pair, receive_all
from tests.support.records import make_record, plain_alerts
from tests.support.trust import GREETING, Meeting, context, meet, mutual
from trio_duplex import (
    AllOf,
    AnyOf,
    AnyTrustedPeer,
    Credentials,
    HandshakeError,
    NamedByAddress,
    NamedPeer,
    PeerIdentity,
    PeerPolicy,
    PeerRejectedError,
    PinnedPeer,
    Role,
    RolesAllowed,
)
from trio_duplex._sockets.address import Address

pytestmark = pytest.mark.slow

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
each_version = pytest.mark.parametrize("version", [TLS12, TLS13], ids=["TLS1.2", "TLS1.3"])
each_role = pytest.mark.parametrize("role", list(Role), ids=str)

RIGHT = FLEET.issue("node.fleet.example")
URI, SPIFFE = "https://app.example", "spiffe://fleet.example/node"


def misused(role: Role) -> Leaf:
    """A certificate for the other TLS role than the one that the peer plays."""
    return FLEET.issue("node.fleet.example", usages=[USAGE[role.other]])


CERTIFICATES: dict[str, Leaf | None] = {
    "right": RIGHT,
    "renewed with its key": FLEET.issue("node.fleet.example", key=RIGHT.key),
    "other name": FLEET.issue("other.fleet.example"),
    "name in the subject only": FLEET.issue(common_name="node.fleet.example"),
    "wildcard": FLEET.issue("*.fleet.example"),
    "wildcard a label too high": FLEET.issue("*.node.fleet.example"),
    "IP addresses": FLEET.issue("192.0.2.7", "2001:db8::7"),
    "SPIFFE ID": FLEET.issue(SPIFFE),
    "URI": FLEET.issue(URI),
}
"""What TLS accepts."""

REFUSED_BY_TLS: dict[str, Leaf | None] = {
    "other authority": STRANGERS.issue("node.fleet.example"),
    "expired": FLEET.issue(
        "node.fleet.example", key=RIGHT.key, not_before=NOW - 9 * DAY, not_after=NOW - DAY
    ),
    "not valid yet": FLEET.issue("node.fleet.example", key=RIGHT.key, not_before=NOW + DAY),
    "no certificate": None,
    "wrong key usage": None,  # `misused`, which depends on the role
}

NAMED = {"right", "renewed with its key", "wildcard"}


def function(identity: PeerIdentity, role: Role, address: Address | None) -> None:
    if "node.fleet.example" not in identity.dns_names:
        raise PeerRejectedError("unknown")


async def async_function(identity: PeerIdentity, role: Role, address: Address | None) -> bool:
    await trio.sleep(1)
    return "node.fleet.example" in identity.dns_names


def key_pin(leaf: Leaf) -> str:
    return "sha256:" + PeerIdentity.from_der(leaf.der).public_key_sha256


POLICIES: dict[str, tuple[PeerPolicy, set[str]]] = {
    "AnyTrustedPeer": (AnyTrustedPeer(), set(CERTIFICATES)),
    "NamedPeer DNS": (NamedPeer("node.fleet.example"), NAMED),
    "NamedPeer IPv4": (NamedPeer("192.0.2.7"), {"IP addresses"}),
    "NamedPeer IPv6": (NamedPeer("2001:db8:0::7"), {"IP addresses"}),
    "NamedPeer SPIFFE": (NamedPeer(SPIFFE), {"SPIFFE ID"}),
    "NamedPeer URI": (NamedPeer(URI), {"URI"}),
    "NamedPeer several": (NamedPeer("other.fleet.example", URI), {"other name", "URI", "wildcard"}),
    "NamedByAddress": (NamedByAddress(lambda address: "node.fleet.example"), NAMED),
    "NamedByAddress, none": (NamedByAddress({"192.0.2.0/24": "node.fleet.example"}), set()),
    "PinnedPeer certificate": (PinnedPeer(RIGHT.fingerprint), {"right"}),
    "PinnedPeer key": (PinnedPeer(key_pin(RIGHT)), {"right", "renewed with its key"}),
    "RolesAllowed": (RolesAllowed({"node.fleet.example": Role, RIGHT.fingerprint: ()}), NAMED),
    "AllOf": (AllOf(NamedPeer("node.fleet.example"), PinnedPeer(RIGHT.fingerprint)), {"right"}),
    "AnyOf": (
        AnyOf(NamedPeer("192.0.2.7"), PinnedPeer(RIGHT.fingerprint)),
        {"right", "IP addresses"},
    ),
    "function": (function, NAMED - {"wildcard"}),
    "async function": (async_function, NAMED - {"wildcard"}),
}


@cache
def guarded(policy: str) -> Credentials:
    """Ours, with this policy: the same for every peer, as in a server."""
    return mutual(peer=POLICIES[policy][0])


@cache
def peer(name: str, role: Role, version: ssl.TLSVersion) -> ssl.SSLContext:
    """A peer in this role: the same for every policy."""
    leaf = misused(role) if name == "wrong key usage" else (CERTIFICATES | REFUSED_BY_TLS)[name]
    return context(role, leaf, version=version)


def verdict(meeting: Meeting) -> str:
    match meeting.error:
        case None:
            return "admitted"
        case PeerRejectedError():
            return "rejected"
        case HandshakeError():
            return "refused by TLS"
        case error:
            raise error


@each_version
@pytest.mark.parametrize("name", [*CERTIFICATES, *REFUSED_BY_TLS])
@pytest.mark.parametrize("policy", POLICIES)
async def test_one_verdict_in_both_roles(
    policy: str, name: str, version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    _, admits = POLICIES[policy]
    expected = "admitted" if name in admits else "rejected"
    if name in REFUSED_BY_TLS:
        expected = "refused by TLS"
    credentials = guarded(policy)
    for role in Role:
        meeting = await meet(credentials, role, peer(name, role.other, version))
        assert verdict(meeting) == expected, role
        if expected == "admitted":
            (connection,) = meeting.handled
            assert connection.role is role
            assert meeting.heard == GREETING
        else:
            assert meeting.handled == []
            assert meeting.heard == last_word(name, expected, role, version)


def last_word(name: str, verdict: str, role: Role, version: ssl.TLSVersion) -> str | bytes:
    """What the peer hears in the end: never application data."""
    if verdict == "rejected":
        # Where the last flight of the handshake is ours, it never gets it; else a clean end.
        return "access_denied" if (role is Role.CLIENT) is (version is TLS13) else b""
    if name == "no certificate":
        if role is Role.CLIENT:  # it had nothing to offer us, and said so itself
            return "broken"
        return "certificate_required" if version is TLS13 else "handshake_failure"
    return ALERTS[name]


ALERTS = {
    "other authority": "unknown_ca",
    "expired": "certificate_expired",
    "not valid yet": "bad_certificate",  # OpenSSL's choice; RFC 8446 section 6.2 names none
    "wrong key usage": "unsupported_certificate",
}
"""What TLS says of the peers that it refuses itself."""


def too_old(role: Role, version: ssl.TLSVersion) -> ssl.SSLContext:
    peer = context(role.other, RIGHT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        peer.minimum_version = peer.maximum_version = version
    peer.set_ciphers("ALL:@SECLEVEL=0")
    return peer


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_1, TLS12])
async def test_a_client_whose_version_is_too_low(
    version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    credentials = mutual()
    if version is TLS12:
        credentials.server_context.minimum_version = TLS13
    meeting = await meet(credentials, Role.SERVER, too_old(Role.SERVER, version))
    assert verdict(meeting) == "refused by TLS"
    assert meeting.handled == []
    assert meeting.heard == "protocol_version"


async def test_a_server_whose_version_is_too_low(autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    # A ServerHello of TLS 1.1: version, random, no session, a suite that we offer, no compression.
    body = bytes.fromhex("0302") + bytes(32) + bytes.fromhex("00 c013 00")
    await theirs.send_all(make_record(0x16, b"\x02" + len(body).to_bytes(3, "big") + body))
    await theirs.send_eof()
    with pytest.raises(HandshakeError) as caught:
        await dial(ours, Role.CLIENT, mutual())
    assert caught.value.role is Role.CLIENT
    await receive_all(theirs)
    assert plain_alerts(theirs.received) == [70]  # protocol_version
