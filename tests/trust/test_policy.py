"""Policies: pure functions of identity, role and address. What they do to a peer: test_trust_*."""

from __future__ import annotations

import ipaddress
import ssl
from functools import cache

import pytest
import trio
import trio.testing
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.authority import FLEET
from tests.support.contexts import new_context
from trio_duplex import (
    AllOf,
    AnyOf,
    AnyTrustedPeer,
    NamedByAddress,
    NamedPeer,
    PeerIdentity,
    PeerPolicy,
    PeerRejectedError,
    PinnedPeer,
    Role,
    RolesAllowed,
    SelfConnectionError,
)
from trio_duplex._sockets.address import Address
from trio_duplex._trust.names import bears_name, dns_name
from trio_duplex._trust.pem import Pem, as_file
from trio_duplex._trust.policy import judge, server_name

pytestmark = pytest.mark.slow


@cache
def identity(*names: str) -> PeerIdentity:
    return PeerIdentity.from_der(FLEET.issue(*names).der)


NODE = identity("node.example", "192.0.2.7", "spiffe://fleet.example/node")
SOMEWHERE = ("192.0.2.7", 4711)


async def admits(
    policy: PeerPolicy,
    who: PeerIdentity = NODE,
    role: Role = Role.SERVER,
    where: Address | None = SOMEWHERE,
) -> bool:
    try:
        await judge(policy, who, role, where)
    except PeerRejectedError as exc:
        rejection = exc
    else:
        return True
    assert rejection.role is role
    assert where is None or rejection.peer is not None
    return False


# ---------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "certified", "matches"),
    [
        ("a.example", "a.example", True),
        ("A.EXAMPLE", "a.example", True),
        ("a.example", "A.Example", True),
        ("a.example.", "a.example", True),  # the final dot is ours, not the certificate's
        ("a.example", "a.example.", False),
        ("a.example", "b.example", False),
        ("a.example", "b.a.example", False),
        ("b.a.example", "a.example", False),
        ("a.fleet.example", "*.fleet.example", True),
        ("b.a.fleet.example", "*.fleet.example", False),
        ("fleet.example", "*.fleet.example", False),
        ("a.fleet.example", "*", False),
        ("a.example", "*.example", False),  # too wide: it might be a public suffix
        ("abc.fleet.example", "a*.fleet.example", False),  # RFC 9525 section 6.3: whole labels
        ("a.b.example", "a.*.example", False),
        ("xn--bcher-kva.fleet.example", "*.fleet.example", True),  # RFC 9525 section 6.3
        ("bücher.fleet.example", "*.fleet.example", True),
        ("bücher.example", "xn--bcher-kva.example", True),
        ("BÜCHER.Example", "xn--bcher-kva.example", True),
        ("bu\u0308cher.example", "xn--bcher-kva.example", True),  # u and its dots apart
        ("bücher。example", "xn--bcher-kva.example", True),  # an ideographic full stop
        ("https://BÜCHER.example", "https://xn--bcher-kva.example", True),
        ("fe80::7%eth0", "fe80::7", True),  # the scope is ours
        ("[fe80::7%2]", "fe80::7", True),
        ("fe80::7%eth0", "fe80::8", False),
        ("a.example", " a.example", False),
        ("a.example", "a.example\0.evil.example", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("2001:db8::7", "2001:0db8:0::7", True),
        ("[2001:db8::7]", "2001:db8::7", True),
        ("::ffff:192.0.2.7", "192.0.2.7", False),
        ("https://a.example", "https://a.example", True),
        ("https:a.example", "https://a.example", True),
        ("https://a.example", "http://a.example", False),
        ("https://a.example", "https://b.example", False),
        ("https://a.example", "a.example", False),
        ("a.example", "https://a.example", False),
        ("https://a.example", "https://192.0.2.7", False),
        ("https://a.example/x", "https://a.example/x", True),
        ("https://a.example/x", "https://a.example/y", False),
        ("https://a.example", "https://a.example/x", False),
        ("spiffe://fleet.example/node", "spiffe://fleet.example/node", True),
        ("spiffe://fleet.example/node", "spiffe://fleet.example/NODE", False),
        ("spiffe://fleet.example", "spiffe://fleet.example/node", False),
        ("spiffe://fleet.example/node", "spiffe://fleet.example", False),
        ("https:fleet.example", "spiffe://fleet.example", False),
        ("sip:node@a.example", "sip:node@a.example", True),
        ("sip:a.example", "sip:node@a.example", False),
        ("tag:a:b", "tag:a:b", True),
        ("https:a.example", "tag:a:b", False),
    ],
)
def test_names(name: str, certified: str, matches: bool) -> None:
    assert bears_name(identity(certified), name) is matches


def test_an_ip_address_written_as_a_dns_name() -> None:

    der = FLEET.issue(x509.DNSName("192.0.2.7"), x509.DNSName("*.0.2.7")).der
    assert not bears_name(PeerIdentity.from_der(der), "192.0.2.7")


def test_the_common_name_does_not_count() -> None:
    der = FLEET.issue(common_name="node.example").der
    assert not bears_name(PeerIdentity.from_der(der), "node.example")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        ".a.example",
        "a..example",
        "*.example",
        "a b.example",
        "a\n.example",
        "1234",
        "x" * 64 + ".example",
        ".".join(["x" * 60] * 5),
        "a.example:8443",
        "https://",
        "https://*.example",
        "sha256:" + "0" * 64,  # a pin
        "SHA256:00",
    ],
)
def test_invalid_names(name: str) -> None:
    for make in (NamedPeer, lambda name: NamedByAddress({"192.0.2.7": name})):
        with pytest.raises(ValueError):
            make(name)


LABEL = st.sampled_from(["a", "b", "xn--a", "a-b", "_a", "c1"])
LABELS = st.lists(LABEL, min_size=1, max_size=5)


@given(name=LABELS, certified=LABELS, wildcard=st.booleans())
@settings(max_examples=150, deadline=None)
def test_wildcards_against_the_rule_itself(
    name: list[str], certified: list[str], wildcard: bool
) -> None:
    """RFC 9525 section 6.3 in other words: label by label, a whole first label may be any one."""
    pattern = ["*", *certified] if wildcard else certified
    expected = len(name) == len(pattern) and all(
        ours == theirs or theirs == "*" for ours, theirs in zip(name, pattern, strict=True)
    )
    if wildcard and len(certified) < 2:
        expected = False  # it might be a public suffix
    who = identity(".".join(pattern))
    assert bears_name(who, ".".join(name)) is expected


def test_openssl_agrees_on_wildcards() -> None:
    """What we admit by name, a TLS client that checks host names admits too."""
    for name, certified in [("a.fleet.example", "*.fleet.example"), ("a.example", "A.Example")]:
        server = new_context(Role.SERVER)
        server.verify_mode = ssl.CERT_NONE
        leaf = FLEET.issue(certified)

        with as_file(Pem("leaf", leaf.private_key_and_cert_chain_pem.bytes())) as path:
            server.load_cert_chain(path)
        client = new_context(Role.CLIENT)
        client.check_hostname = True
        client.load_verify_locations(cadata=FLEET.pem.decode())
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        theirs = server.wrap_bio(to_server, to_client, server_side=True)
        ours = client.wrap_bio(to_client, to_server, server_hostname=name)
        for end in (ours, theirs):
            with pytest.raises(ssl.SSLWantReadError):
                end.do_handshake()
        ours.do_handshake()
        assert bears_name(PeerIdentity.from_der(leaf.der), name)


@given(name=st.text(max_size=80), certified=st.text(st.characters(max_codepoint=127), max_size=80))
@settings(max_examples=120, deadline=None)
def test_names_are_a_total_function(name: str, certified: str) -> None:

    general = [x509.DNSName(certified), x509.UniformResourceIdentifier(certified)]
    who = PeerIdentity.from_der(FLEET.issue(*general).der)
    try:
        policy = NamedPeer(name)
    except ValueError:
        return
    bears_name(who, policy.names[0])
    dns_name(policy.names[0])


# ------------------------------------------------------------------------------------- policies


async def test_any_trusted_peer() -> None:
    assert await admits(AnyTrustedPeer())


async def test_named_peer() -> None:
    assert await admits(NamedPeer("other.example", "node.example"))
    assert not await admits(NamedPeer("other.example"))
    assert NamedPeer("a.example") == NamedPeer("a.example")
    assert "a.example" in repr(NamedPeer("a.example"))
    with pytest.raises(ValueError):
        NamedPeer()


async def test_pinned_peer() -> None:
    other = "sha256:" + "0" * 64
    for digits in (NODE.certificate_sha256, NODE.public_key_sha256):
        colons = ":".join(digits[at : at + 2] for at in range(0, 64, 2)).upper()
        assert await admits(PinnedPeer(other, f"sha256:{digits}"))
        assert await admits(PinnedPeer(f"SHA256:{colons}"))
    assert not await admits(PinnedPeer(other))


@pytest.mark.parametrize(
    "pins", [(), ("",), ("0" * 64,), ("sha256:" + "0" * 63,), ("sha1:" + "0" * 64,), ("sha256:é",)]
)
def test_invalid_pins(pins: tuple[str, ...]) -> None:
    with pytest.raises(ValueError):
        PinnedPeer(*pins)
    if pins and pins[0].startswith("sha256:"):
        with pytest.raises(ValueError):
            RolesAllowed({pins[0]: Role.CLIENT})


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (("192.0.2.7", 1), "host.example"),
        (("192.0.2.8", 1), "net.example"),
        (("::ffff:192.0.2.7", 1, 0, 0), "host.example"),
        (("2001:db8::7", 1, 0, 0), "six.example"),
        (("fe80::1%lo", 1, 0, 3), "link.example"),
        (("198.51.100.1", 1), None),
        ("/run/socket", None),
        (None, None),
    ],
)
async def test_named_by_address(where: Address | None, expected: str | None) -> None:
    policy = NamedByAddress(
        {
            "192.0.2.0/24": "net.example",
            "192.0.2.7": ["host.example", "alias.example"],
            "2001:db8::/32": "six.example",
            "fe80::/10": "link.example",
        }
    )
    names = policy.expected_names(where)
    assert names[:1] == (() if expected is None else (expected,))
    for name in ("host.example", "alias.example", "net.example", "six.example", "link.example"):
        assert await admits(policy, identity(name), where=where) is (name in names)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (("fe80::1%eth0", 1, 0, 2), "eth0.example"),
        (("fe80::1%eth1", 1, 0, 3), "third.example"),
        (("fe80::1%eth2", 1, 0, 4), "any.example"),
        (("fe80::1", 1, 0, 0), "any.example"),
        (("fe80::2%eth0", 1, 0, 2), "net.example"),
        (("fe80::2%eth2", 1, 0, 4), None),
    ],
)
def test_named_by_a_link_local_address(where: Address, expected: str | None) -> None:
    policy = NamedByAddress(
        {
            "fe80::1": "any.example",
            "fe80::1%eth0": "eth0.example",
            "fe80::1%3": "third.example",
            "fe80::%eth0/10": "net.example",
        }
    )
    assert policy.expected_names(where) == ((expected,) if expected else ())


async def test_named_by_a_function() -> None:
    policy = NamedByAddress(lambda address: "node.example" if address == SOMEWHERE else None)
    assert await admits(policy)
    assert not await admits(policy, where=None)
    assert not await admits(NamedByAddress(lambda address: ()))


@pytest.mark.parametrize("names", [{"192.0.2.1/24": "a"}, {"host": "a"}, {"192.0.2.7": ()}])
def test_invalid_networks(names: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        NamedByAddress(names)


@pytest.mark.parametrize("role", list(Role), ids=str)
async def test_roles_allowed(role: Role) -> None:
    """The roles are those of the peer, which plays the role opposite to ours."""
    assert await admits(RolesAllowed({"node.example": role.other}), role=role)
    assert not await admits(RolesAllowed({"node.example": role}), role=role)
    assert await admits(RolesAllowed({"node.example": Role}), role=role)
    assert not await admits(RolesAllowed({"node.example": ()}), role=role)
    assert not await admits(RolesAllowed({"other.example": Role}), role=role)
    assert not await admits(RolesAllowed({}), role=role)
    pin = f"sha256:{NODE.public_key_sha256}"
    assert await admits(RolesAllowed({pin: [role.other]}), role=role)
    # One entry that fits is enough.
    assert await admits(RolesAllowed({"node.example": role, pin: role.other}), role=role)


def test_invalid_roles() -> None:
    for roles in ({"node.example": "server"}, {"node.example": [1]}, {"a b": Role.SERVER}):
        with pytest.raises(ValueError):
            RolesAllowed(roles)  # type: ignore[arg-type]


class Told:
    """A policy that answers as told, and counts how often it was asked."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.asked: list[tuple[PeerIdentity, Role, Address | None]] = []

    def __call__(self, who: PeerIdentity, role: Role, where: Address | None, /) -> bool | None:
        self.asked.append((who, role, where))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]


class ToldLater(Told):
    """Likewise, async."""

    async def __call__(  # type: ignore[override]
        self, who: PeerIdentity, role: Role, where: Address | None, /
    ) -> bool | None:
        return super().__call__(who, role, where)


each_kind = pytest.mark.parametrize("kind", [Told, ToldLater], ids=["sync", "async"])


@each_kind
async def test_a_callable(kind: type[Told]) -> None:
    yes = kind(None)
    assert await admits(yes)
    assert yes.asked == [(NODE, Role.SERVER, SOMEWHERE)]
    assert await admits(kind(True))
    assert not await admits(kind(False))
    assert not await admits(kind(PeerRejectedError("no")))


@each_kind
@pytest.mark.parametrize("answer", [0, 1, "", "yes", [], NODE, NotImplemented, ...])
async def test_invalid_verdicts(kind: type[Told], answer: object) -> None:
    for policy in (kind(answer), AllOf(kind(answer)), AnyOf(kind(answer), kind(True))):
        with pytest.raises(TypeError):
            await judge(policy, NODE, Role.SERVER, None)


async def test_facts_of_a_rejection_are_kept() -> None:
    error = SelfConnectionError("me", role=Role.CLIENT, peer="there", advice="go")
    with pytest.raises(SelfConnectionError) as caught:
        await judge(Told(error), NODE, Role.SERVER, SOMEWHERE)
    assert caught.value is error
    assert (error.role, error.peer, error.advice) == (Role.CLIENT, "there", "go")


@each_kind
async def test_all_of(kind: type[Told]) -> None:
    assert await admits(AllOf(kind(None), kind(True)))
    last = kind(None)
    assert not await admits(AllOf(kind(None), kind(False), last))
    assert last.asked == []
    with pytest.raises(ValueError):
        AllOf()


@each_kind
async def test_any_of(kind: type[Told]) -> None:
    last = kind(None)
    assert await admits(AnyOf(kind(False), kind(None), last))
    assert last.asked == []
    assert not await admits(AnyOf(kind(False), kind(PeerRejectedError("because"))))
    with pytest.raises(ValueError):
        AnyOf()
    with pytest.raises(PeerRejectedError) as caught:
        await judge(AnyOf(kind(PeerRejectedError("because"))), NODE, Role.SERVER, None)
    assert "because" in str(caught.value)
    # A policy that fails is not a rejection: `AnyOf` must not go on to the next one.
    with pytest.raises(ZeroDivisionError):
        await judge(AnyOf(kind(ZeroDivisionError()), kind(True)), NODE, Role.SERVER, None)


@pytest.mark.parametrize("combine", [AllOf, AnyOf])
async def test_a_combination_of_sync_policies_is_a_checkpoint(
    combine: type[AllOf | AnyOf],
) -> None:
    with trio.testing.assert_checkpoints():
        await combine(AnyTrustedPeer(), AnyTrustedPeer())(NODE, Role.SERVER, SOMEWHERE)


POLICIES = st.recursive(
    st.one_of(
        st.just(AnyTrustedPeer()),
        st.sampled_from(["node.example", "192.0.2.7", "other.example"]).map(NamedPeer),
        st.just(PinnedPeer(f"sha256:{NODE.certificate_sha256}")),
        st.just(RolesAllowed({"node.example": Role.CLIENT})),
        st.sampled_from([None, True, False]).map(Told),
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda policies: AllOf(*policies)),
        st.lists(inner, min_size=1, max_size=3).map(lambda policies: AnyOf(*policies)),
    ),
    max_leaves=8,
)


@given(policy=POLICIES, role=st.sampled_from(Role), who=st.sampled_from([NODE, identity()]))
@settings(max_examples=120, deadline=None)
def test_combinations_follow_logic(policy: PeerPolicy, role: Role, who: PeerIdentity) -> None:
    def verdict(asked: object) -> bool:
        match asked:
            case AllOf(policies=parts):
                return all(map(verdict, parts))
            case AnyOf(policies=parts):
                return any(map(verdict, parts))
            case Told(answer=answer):
                return answer is not False
            case NamedPeer(names=(name,)):
                return name in who.names
            case PinnedPeer():
                return who is NODE
            case RolesAllowed():
                return who is NODE and role is Role.SERVER
            case _:
                return True

    async def ask() -> bool:
        return await admits(policy, who, role)

    assert trio.run(ask) is verdict(policy)


# ------------------------------------------------------------------------------------------ SNI


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        (AnyTrustedPeer(), None),
        (NamedPeer("a.example"), "a.example"),
        (NamedPeer("A.Example."), "a.example"),  # RFC 6066 section 3: no final dot
        (NamedPeer("bücher.example"), "xn--bcher-kva.example"),
        (NamedPeer("a.example", "192.0.2.7", "https://b.example"), "a.example"),
        (NamedPeer("a.example", "A.EXAMPLE"), "a.example"),
        (NamedPeer("a.example", "b.example"), None),
        (NamedPeer("192.0.2.7"), None),
        (NamedPeer("https://a.example"), None),
        (NamedByAddress({"192.0.2.0/24": "a.example"}), "a.example"),
        (NamedByAddress({"198.51.100.0/24": "a.example"}), None),
        (NamedByAddress(lambda address: ["a.example", "2001:db8::1"]), "a.example"),
        (AllOf(AnyTrustedPeer(), NamedPeer("a.example")), "a.example"),
        (AllOf(AllOf(NamedByAddress(lambda address: "a.example"))), "a.example"),
        (AllOf(AnyTrustedPeer()), None),
        (AnyOf(NamedPeer("a.example")), None),
        (PinnedPeer("sha256:" + "0" * 64), None),
        (RolesAllowed({"a.example": Role.SERVER}), None),
    ],
)
def test_server_name(policy: PeerPolicy, name: str | None) -> None:
    assert server_name(policy, SOMEWHERE) == name


def test_addresses_are_compared_as_addresses() -> None:
    who = identity("2001:db8::7")
    assert who.ip_addresses == (ipaddress.ip_address("2001:db8::7"),)
    assert bears_name(who, "2001:DB8:0:0:0:0:0:7")
