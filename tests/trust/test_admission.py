"""`Material.admit`, which decides whether a peer is admitted, without a socket."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NoReturn

import attrs
import pytest
from cryptography import x509

from tests.support.authority import DAY, FLEET, NOW, STRANGERS, Leaf
from tests.support.trust import LISTENER, context
from trio_duplex import (
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
from trio_duplex._trust.admission import NO_CHECK_TIME, Material
from trio_duplex._trust.anchors import ComparedRoots
from trio_duplex._trust.vouching import SelfVouching

PEER = FLEET.issue("peer.example")
SOMEWHERE = ("192.0.2.7", 4711)
each_role = pytest.mark.parametrize("role", list(Role), ids=str)


def material(peer: PeerPolicy | None = None, *own: Leaf, allow_self: bool = False) -> Material:
    return Material.of(
        context(Role.SERVER, LISTENER),
        context(Role.CLIENT, LISTENER),
        peer or AnyTrustedPeer(),
        [leaf.certificate for leaf in own or (LISTENER,)],
        allow_self=allow_self,
        anonymous_clients=False,
        handshake_threads=True,
    )


def test_it_is_made_of_what_it_is_given() -> None:
    contexts = {role: context(role, LISTENER) for role in Role}
    roots = ComparedRoots.of(contexts[Role.SERVER])
    vouching = SelfVouching(frozenset(), frozenset())
    alpn = dict.fromkeys(Role, ("x/1",))
    made = Material.of(
        contexts[Role.SERVER],
        contexts[Role.CLIENT],
        AnyTrustedPeer(),
        [],
        allow_self=True,
        self_vouching=vouching,
        compared_roots=roots,
        anonymous_clients=True,
        handshake_threads=True,
        required_alpn=alpn,
        fresh_server_context=partial(context, Role.SERVER, LISTENER),
    )
    assert made.allow_self
    assert made.anonymous_clients
    assert made.compared_roots is roots
    assert made.self_vouching is vouching
    assert made.required_alpn == alpn
    assert made.fresh_server_context is not None
    assert made.not_after is None
    for role in Role:
        assert made.context(role) is contexts[role]
        assert contexts[role].options & ssl.OP_NO_RENEGOTIATION
        assert not contexts[role].options & ssl.OP_IGNORE_UNEXPECTED_EOF


def no_chain() -> Sequence[bytes]:
    return ()


@each_role
async def test_a_peer_without_a_certificate(role: Role) -> None:
    """Whatever the contexts let pass: anonymous suites, pre-shared keys, optional certificates."""
    for policy in (AnyTrustedPeer(), NamedPeer("peer.example"), lambda *asked: True):
        with pytest.raises(PeerRejectedError) as caught:
            await material(policy).admit(None, no_chain, role, SOMEWHERE)
        assert caught.value.role is role
        assert caught.value.peer == "192.0.2.7:4711"


@pytest.mark.slow
@each_role
async def test_ourselves(role: Role) -> None:
    again = FLEET.issue("other.example", key=LISTENER.key)
    for leaf in (LISTENER, again):
        with pytest.raises(SelfConnectionError) as caught:
            await material().admit(leaf.der, no_chain, role, SOMEWHERE)
        assert caught.value.role is role
        await material(allow_self=True).admit(leaf.der, no_chain, role, SOMEWHERE)
    await material().admit(PEER.der, no_chain, role, SOMEWHERE)


async def test_any_of_our_certificates_is_ours() -> None:
    mine = material(None, LISTENER, FLEET.issue("second.example", key=PEER.key))
    with pytest.raises(SelfConnectionError):
        await mine.admit(PEER.der, no_chain, Role.SERVER, None)


async def test_ourselves_before_the_policy_is_asked() -> None:
    def never(*asked: object) -> NoReturn:
        raise AssertionError

    with pytest.raises(SelfConnectionError):
        await material(never).admit(LISTENER.der, no_chain, Role.SERVER, None)


@each_role
async def test_what_the_policy_is_told(role: Role) -> None:
    asked: list[tuple[PeerIdentity, Role, Address | None]] = []

    def policy(identity: PeerIdentity, role: Role, where: Address | None, /) -> None:
        asked.append((identity, role, where))

    chain = (PEER.der, b"root")
    await material(policy).admit(PEER.der, lambda: chain, role, SOMEWHERE)
    ((identity, told, where),) = asked
    assert identity == PeerIdentity.from_der(PEER.der)
    assert identity.chain == chain
    assert told is role
    assert where == SOMEWHERE


@each_role
async def test_a_certificate_that_cannot_be_read(role: Role) -> None:
    """TLS verified it, so its authority made it like this; a policy can't judge it."""
    unreadable = x509.SubjectAlternativeName.oid.dotted_string.encode()
    with pytest.raises(PeerRejectedError) as caught:
        await material(NamedPeer("a.example")).admit(unreadable, no_chain, role, SOMEWHERE)
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.role is role
    assert caught.value.peer == "192.0.2.7:4711"


def old_alpn(made: Material) -> Material:
    return attrs.evolve(made, required_alpn=dict.fromkeys(Role, ("old",)), loaded=object())


def other_trust(made: Material) -> Material:
    contexts = [context(role, LISTENER, trust=STRANGERS) for role in (Role.SERVER, Role.CLIENT)]
    return attrs.evolve(
        made, server_context=contexts[0], client_context=contexts[1], loaded=object()
    )


def less_demanding(made: Material) -> Material:
    for role in Role:
        made.context(role).verify_mode = ssl.CERT_OPTIONAL
    return made


def grown(made: Material) -> Material:
    roots = ComparedRoots.of(made.server_context)
    return attrs.evolve(made, compared_roots=attrs.evolve(roots, number=roots.number + 1))


REFUSED: dict[str, tuple[Material, bytes | None, dict[str, Any]]] = {
    "no certificate": (material(), None, {}),
    "verify_mode": (less_demanding(material()), PEER.der, {}),
    "a root that was added": (grown(material()), PEER.der, {}),
    "other ALPN": (
        attrs.evolve(material(), required_alpn=dict.fromkeys(Role, ("new",))),
        PEER.der,
        {"verified_by": old_alpn(material())},
    ),
    "other trust": (material(), PEER.der, {"verified_by": other_trust(material())}),
    "out of date": (
        attrs.evolve(material(), now=lambda: NOW + 99 * DAY),
        PEER.der,
        {"resumed": True},
    ),
    "a list out of date": (
        attrs.evolve(material(), lists_not_after=NOW - DAY),
        PEER.der,
        {"resumed": True},
    ),
    "ourselves": (material(), LISTENER.der, {}),
    "below one that vouches for itself": (
        attrs.evolve(material(), self_vouching=SelfVouching(frozenset(), frozenset({b"root"}))),
        PEER.der,
        {},
    ),
    "another name": (material(NamedPeer("a.example")), PEER.der, {}),
    "another pin": (material(PinnedPeer(LISTENER.fingerprint)), PEER.der, {}),
    "another role": (material(RolesAllowed({"a.example": list(Role)})), PEER.der, {}),
    "no name for the address": (material(NamedByAddress({})), PEER.der, {}),
    "none of several": (material(AnyOf(NamedPeer("a.example"))), PEER.der, {}),
    "False": (material(lambda *asked: False), PEER.der, {}),
    "unreadable": (material(NamedPeer("a.example")), b"no certificate", {}),
}


@each_role
@pytest.mark.parametrize("why", REFUSED)
async def test_every_refusal_has_its_facts(why: str, role: Role) -> None:
    made, certificate, options = REFUSED[why]
    with pytest.raises(PeerRejectedError) as caught:
        await made.admit(certificate, no_chain, role, SOMEWHERE, **options)
    error = caught.value
    assert error.role is role
    assert error.peer == "192.0.2.7:4711"
    assert error.seen
    assert error.advice
    assert isinstance(error, SelfConnectionError) is (why == "ourselves")


@each_role
async def test_an_anonymous_client_only_where_told_so(role: Role) -> None:
    def never(*asked: object) -> NoReturn:
        raise AssertionError

    told = attrs.evolve(material(never), anonymous_clients=True)
    if role is Role.SERVER:
        await told.admit(None, no_chain, role, SOMEWHERE)
    else:
        with pytest.raises(PeerRejectedError):
            await told.admit(None, no_chain, role, SOMEWHERE)


@each_role
@pytest.mark.parametrize(
    ("days", "admitted"), [(-2, False), (0, True), (89, True), (91, False)], ids=str
)
async def test_dates_are_checked_again_on_a_resumed_session(
    days: int, admitted: bool, role: Role
) -> None:
    """TLS does not check dates again on a resumed session; in a full handshake, OpenSSL does."""
    later = attrs.evolve(material(), now=lambda: NOW + days * DAY)
    await later.admit(PEER.der, no_chain, role, SOMEWHERE)
    if admitted:
        await later.admit(PEER.der, no_chain, role, SOMEWHERE, resumed=True)
    else:
        with pytest.raises(PeerRejectedError) as caught:
            await later.admit(PEER.der, no_chain, role, SOMEWHERE, resumed=True)
        assert caught.value.role is role
        assert caught.value.peer == "192.0.2.7:4711"


def same(at: datetime) -> datetime:
    return at


def test_whether_our_own_certificate_has_ended() -> None:
    """The first that ends counts; the last second belongs to it."""
    short = FLEET.issue("short.example", not_after=NOW + 3 * DAY)
    made = material(None, LISTENER, short)
    end = short.certificate.not_valid_after_utc
    assert made.not_after == end
    for at, ended in ((end, False), (end + timedelta(seconds=1), True)):
        assert attrs.evolve(made, now=partial(same, at)).has_expired is ended
    assert not made.has_expired
    assert attrs.evolve(made, not_after=None).has_expired is False


async def test_the_bounds_of_a_resumed_sessions_certificate_belong_to_it() -> None:
    start, end = PEER.certificate.not_valid_before_utc, PEER.certificate.not_valid_after_utc
    second = timedelta(seconds=1)
    for at, admitted in (
        (start - second, False),
        (start, True),
        (end, True),
        (end + second, False),
    ):
        made = attrs.evolve(material(), now=partial(same, at))
        for role in Role:
            with contextlib.nullcontext() if admitted else pytest.raises(PeerRejectedError):
                await made.admit(PEER.der, no_chain, role, None, resumed=True)


@each_role
async def test_dates_are_not_checked_if_the_context_does_not_check_them(role: Role) -> None:
    later = attrs.evolve(material(), now=lambda: NOW + 91 * DAY)
    context = later.context(role)
    context.verify_flags = ssl.VerifyFlags(context.verify_flags | NO_CHECK_TIME)
    await later.admit(PEER.der, no_chain, role, SOMEWHERE, resumed=True)


@each_role
@pytest.mark.parametrize("mode", [ssl.CERT_NONE, ssl.CERT_OPTIONAL])
async def test_a_verify_mode_that_was_changed(mode: ssl.VerifyMode, role: Role) -> None:
    made = material()
    made.context(role).verify_mode = mode
    with pytest.raises(PeerRejectedError, match="verify_mode"):
        await made.admit(PEER.der, no_chain, role, SOMEWHERE)
    await made.admit(PEER.der, no_chain, role.other, SOMEWHERE)
    # It was the former's context that TLS used.
    with pytest.raises(PeerRejectedError, match="verify_mode"):
        await material().admit(PEER.der, no_chain, role, SOMEWHERE, verified_by=made)
    made.context(role).verify_mode = ssl.CERT_REQUIRED
    await made.admit(PEER.der, no_chain, role, SOMEWHERE)


class Delegating(ssl.SSLContext):
    """A context that leaves its work to another one, like those that trust the system's store."""

    def __init__(self, _: int) -> None:
        self.inner = context(Role.SERVER, LISTENER)

    @property  # type: ignore[override]
    def verify_mode(self) -> ssl.VerifyMode:
        return self.inner.verify_mode

    @verify_mode.setter
    def verify_mode(self, mode: ssl.VerifyMode) -> None:
        self.inner.verify_mode = mode


async def test_the_verify_mode_of_a_context_of_another_class() -> None:
    """What counts is what it says, and not what the standard library's class would say."""
    delegating = Delegating(ssl.PROTOCOL_TLS_SERVER)
    made = attrs.evolve(material(), server_context=delegating)
    await made.admit(PEER.der, no_chain, Role.SERVER, SOMEWHERE)
    delegating.verify_mode = ssl.CERT_NONE
    with pytest.raises(PeerRejectedError, match="verify_mode"):
        await made.admit(PEER.der, no_chain, Role.SERVER, SOMEWHERE)


async def test_a_context_made_before_another_class_took_the_place_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = material()
    monkeypatch.setattr(ssl, "SSLContext", Delegating)
    for role in Role:
        await made.admit(PEER.der, no_chain, role, SOMEWHERE)


def test_renegotiation_is_off_in_both_contexts() -> None:
    made = material()
    for role in Role:
        assert made.context(role).options & ssl.OP_NO_RENEGOTIATION
    assert made.context(Role.SERVER) is made.server_context
    assert made.context(Role.CLIENT) is made.client_context
