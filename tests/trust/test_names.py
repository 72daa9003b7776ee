"""Names: as many as one likes on either side, and what a certificate's malformed ones match."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st
from service_identity.exceptions import CertificateError
from service_identity.hazmat import DNS_ID, DNSPattern

from tests.support.authority import FLEET
from trio_duplex import (
    NamedByAddress,
    NamedPeer,
    PeerIdentity,
    PeerPolicy,
    PeerRejectedError,
    Role,
    RolesAllowed,
)
from trio_duplex._trust.names import (
    LONGEST_SHOWN,
    NAMES_LOOKED_AT,
    NAMES_SHOWN,
    ExpectedNames,
    bears_name,
    dns_name,
    shown,
)

pytestmark = pytest.mark.slow


SOMEWHERE = ("192.0.2.7", 4711)
MANY = 100_000


@cache
def identity(*names: str) -> PeerIdentity:
    return PeerIdentity.from_der(FLEET.issue(*names).der)


@cache
def certified(count: int, form: str) -> PeerIdentity:
    return identity(*(form.format(number) for number in range(count)))


def fleet(count: int) -> list[str]:
    return [f"device-{number}.fleet.example" for number in range(count)]


POLICIES: dict[str, Callable[[], PeerPolicy]] = {
    "NamedPeer": lambda: NamedPeer(*fleet(MANY)),
    "RolesAllowed": lambda: RolesAllowed(dict.fromkeys(fleet(MANY), Role.CLIENT)),
    "NamedByAddress, many names": lambda: NamedByAddress({"192.0.2.0/24": fleet(MANY)}),
    "NamedByAddress, many networks": lambda: NamedByAddress(
        {
            f"192.{number >> 8}.{number & 255}.{last}": name
            for number, name in enumerate(fleet(MANY // 40))
            for last in range(8)
        }
    ),
}
made = cache(lambda name: POLICIES[name]())


@pytest.mark.one_python
@pytest.mark.parametrize("form", ["n{}.stranger.example", "*.n{}.stranger.example"])
@pytest.mark.parametrize("count", [1, 100, 2000])
@pytest.mark.parametrize("name", POLICIES)
def test_many_names(name: str, count: int, form: str) -> None:
    """A stranger's certificate full of names freezes nothing, and fills no log."""
    policy, who = made(name), certified(count, form)
    best = float("inf")
    message = ""
    for _ in range(20):  # until the machine has let one run through
        started = time.thread_time()
        with pytest.raises(PeerRejectedError) as caught:
            policy(who, Role.SERVER, SOMEWHERE)
        best = min(best, time.thread_time() - started)
        message = str(caught.value)
        if best < 0.001:
            break
    assert best < 0.001
    assert len(message) < 1000
    assert "\n" not in message
    assert len(repr(policy)) < 2000
    friend = identity("device-7.fleet.example")
    policy(friend, Role.SERVER, ("192.0.7.3", 4711) if "networks" in name else SOMEWHERE)


def test_names_that_are_not_looked_at() -> None:
    names = [f"n{number}.example.org" for number in range(NAMES_LOOKED_AT + 1)]
    who = identity(*names)
    assert bears_name(who, names[-2])
    assert not bears_name(who, names[-1])


@pytest.mark.parametrize(
    ("expected", "borne"),
    [
        ("a.fleet.example", "a.fleet.example"),
        ("a.fleet.example", "*.fleet.example"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("sip:a.example", "sip:a.example"),
        ("urn:device:7", "urn:device:7"),
    ],
)
@pytest.mark.parametrize("before", [1, NAMES_LOOKED_AT - 1])
def test_any_name_of_a_certificate_counts_and_not_the_first_only(
    before: int, expected: str, borne: str
) -> None:
    forms: dict[str, Callable[[int], str]] = {
        "192.0.2.7": lambda n: f"198.51.{n >> 8}.{n & 255}",
        "2001:db8::7": lambda n: f"2001:db8::1:{n:x}",
        "sip:a.example": lambda n: f"sip:n{n}.example",
        "urn:device:7": lambda n: f"urn:other:{n}",
    }
    others = forms.get(borne, lambda n: f"n{n}.stranger.example")
    who = identity(*map(others, range(before)), borne)
    NamedPeer(expected)(who, Role.SERVER, SOMEWHERE)
    with pytest.raises(PeerRejectedError):
        NamedPeer(expected)(identity(*map(others, range(before))), Role.SERVER, SOMEWHERE)


@pytest.mark.parametrize("end", ["", "."], ids=["relative", "absolute"])
def test_the_longest_name(end: str) -> None:
    """RFC 1034 section 3.1: 253 characters, of which the final dot is none."""
    name = ".".join(["a" * 63] * 3 + ["b" * 61])
    assert len(name) == 253
    assert bears_name(identity(name), name + end)
    with pytest.raises(ValueError, match="b"):
        NamedPeer("a" + name + end)
    with pytest.raises(ValueError, match="b"):
        NamedPeer(name + "b" + end)


def test_what_is_shown_of_many_names() -> None:
    assert shown(["a", "b"], 2, between=" or ") == "a or b"
    assert shown(iter("abcdefg"), 7) == ", ".join("abcdefg"[:NAMES_SHOWN]) + " and 3 more"
    assert len(shown(["x" * 10_000], 1)) == LONGEST_SHOWN + len("...")


def test_a_malformed_name_among_many_is_named() -> None:
    with pytest.raises(ValueError, match="a b"):
        NamedPeer(*fleet(10), "a b.example")


# --------------------------------------------------------------------------------------- SPIFFE


ONE, OTHER = "spiffe://fleet.example/one", "spiffe://fleet.example/other"


@pytest.mark.parametrize("second", [OTHER, "SPIFFE://elsewhere.example/x", "spiffe:x"])
@pytest.mark.parametrize("expected", [ONE, "a.example", "192.0.2.7"])
def test_two_spiffe_ids_match_nothing(expected: str, second: str) -> None:
    """X509-SVID section 2: whichever of its names is expected."""
    names = ("a.example", "192.0.2.7", ONE)
    assert bears_name(identity(*names), expected)
    who = identity(*names, second)
    assert not bears_name(who, expected)
    for policy in (NamedPeer(expected), RolesAllowed({expected: Role.CLIENT})):
        with pytest.raises(PeerRejectedError, match="SPIFFE"):
            policy(who, Role.SERVER, None)


def test_a_spiffe_id_beside_another_uri() -> None:
    """It is the only URI, or none."""
    who = identity(ONE, "https://a.example")
    assert not bears_name(who, ONE)
    assert bears_name(who, "https://a.example")


# ------------------------------------------------------------- held against service-identity


KEY = FLEET.issue().key
LABELS = st.lists(st.sampled_from(["a", "b", "*", "a-b", "_a", "c1", "A"]), min_size=1, max_size=4)


@given(name=LABELS, pattern=LABELS)
@settings(max_examples=150, deadline=None)
def test_service_identity_agrees(name: list[str], pattern: list[str]) -> None:
    """On what is no A-label, for which it is more careful than RFC 9525."""
    ours = ".".join(name)
    theirs = ".".join(pattern)
    who = PeerIdentity.from_der(FLEET.issue(x509.DNSName(theirs), key=KEY).der)
    try:
        policy = NamedPeer(ours)
    except ValueError:
        return
    try:
        expected = DNS_ID(ours).verify(DNSPattern.from_bytes(theirs.encode()))
    except CertificateError:
        expected = False
    assert bears_name(who, policy.names[0]) is expected


@pytest.mark.parametrize(
    ("name", "sni"),
    [
        ("node.example", "node.example"),
        ("Node.Example", "node.example"),
        ("node.example.", "node.example"),
        ("node", "node"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("192.0.2.7", None),
        ("2001:db8::7", None),
        ("sip:node.example", None),
        ("spiffe://fleet.example/node", None),
    ],
)
def test_sni_of_an_expected_name(name: str, sni: str | None) -> None:
    assert dns_name(name) == sni


def test_no_sni_of_several_expected_names() -> None:
    assert ExpectedNames.parse(["a.example", "b.example"]).sni is None
    assert ExpectedNames.parse(["a.example", "A.example."]).sni == "a.example"
