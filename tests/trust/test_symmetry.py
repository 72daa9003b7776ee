"""No weaker role: each difference between two contexts is found and named."""

from __future__ import annotations

import hashlib
import logging
import ssl
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial as with_options
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from trio.testing import MockClock

from tests.support.authority import FLEET, STRANGERS, Authority, Leaf
from tests.support.contexts import new_context
from tests.support.hellos import extension, hello
from tests.support.tools import require_tool
from tests.support.trust import LISTENER, add_revocation_list, context, keys_of, meet
from trio_duplex import (
    Credentials,
    CredentialsError,
    HandshakeError,
    NamedPeer,
    PeerRejectedError,
    Role,
)
from trio_duplex._trust.anchors import ComparedRoots
from trio_duplex._trust.probe import offers_shared_key, presented_certificates, takes_shared_key
from trio_duplex._trust.settings import rejected_roots
from trio_duplex._trust.symmetry import differences, trust_alike, unfitness

pytestmark = pytest.mark.slow


TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3

each_role = pytest.mark.parametrize("role", list(Role), ids=str)

Contexts = dict[Role, ssl.SSLContext]

RSA_KEY = rsa.generate_private_key(65537, 2048)


def contexts(leaf: Leaf | None = LISTENER, **options: Any) -> Contexts:
    return {role: context(role, leaf, **options) for role in Role}


def build(made: Contexts, **options: Any) -> Credentials:
    return Credentials(
        server_context=made[Role.SERVER], client_context=made[Role.CLIENT], **options
    )


def defects(made: Contexts, **options: Any) -> tuple[str, ...]:
    with pytest.raises(CredentialsError) as caught:
        build(made, **options)
    return caught.value.defects


def test_the_same_in_both_roles() -> None:
    made = contexts()
    assert differences(made[Role.SERVER], made[Role.CLIENT]) == ()
    credentials = build(made, peer=NamedPeer("a.example"))
    assert credentials.server_context is made[Role.SERVER]
    assert credentials.client_context is made[Role.CLIENT]
    assert credentials.peer == NamedPeer("a.example")
    assert "asymmetric" not in repr(credentials)
    assert "a.example" in repr(credentials)
    for one in made.values():
        assert one.options & ssl.OP_NO_RENEGOTIATION


def test_the_credentials_of_mutual_are_symmetric() -> None:
    made = Credentials.mutual(certificate_chain=LISTENER, trust=FLEET)
    assert differences(made.server_context, made.client_context) == ()
    assert unfitness(made.server_context, Role.SERVER) is None
    assert unfitness(made.client_context, Role.CLIENT) is None


# -------------------------------------------------------------------------- each difference alone

Change = Callable[[ssl.SSLContext], object]


def setter(name: str, value: object) -> Change:
    return lambda changed: setattr(changed, name, value)


def trust(authority: Authority) -> Change:
    return lambda changed: changed.load_verify_locations(cadata=authority.pem.decode())


def add_option(option: int) -> Change:
    def change(changed: ssl.SSLContext) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            changed.options |= option

    return change


CHANGES: dict[str, tuple[Change, str]] = {
    "anonymous peers": (setter("verify_mode", ssl.CERT_NONE), "verify_mode"),
    "optional certificates": (setter("verify_mode", ssl.CERT_OPTIONAL), "verify_mode"),
    "one root more": (trust(STRANGERS), "trust roots"),
    "TLS 1.3 in one": (setter("minimum_version", TLS13), "minimum TLS versions"),
    "TLS 1.3 in one, by an option": (add_option(ssl.OP_NO_TLSv1_2), "minimum TLS versions"),
    "revocation": (setter("verify_flags", ssl.VERIFY_CRL_CHECK_LEAF), "verify_flags"),
    "a revocation list": (add_revocation_list, "revocation lists"),
    "strict": (setter("verify_flags", ssl.VERIFY_X509_STRICT), "verify_flags"),
    "ciphers": (lambda changed: changed.set_ciphers("ECDHE+AESGCM"), "ciphers"),
    "security level": (
        lambda changed: changed.set_ciphers("DEFAULT:@SECLEVEL=1"),
        "security levels",
    ),
}


@each_role
@pytest.mark.parametrize("change", CHANGES)
def test_a_difference(change: str, role: Role) -> None:
    made = contexts()
    apply, name = CHANGES[change]
    apply(made[role])
    found = defects(made)
    # The difference (or two that are one), then what to do about it.
    assert any(name in defect for defect in found[:-1])
    assert "allow_asymmetric=True" in found[-1]
    allowed = build(made, allow_asymmetric=True)
    assert "allow_asymmetric=True" in repr(allowed)
    assert name in repr(allowed)


@pytest.mark.parametrize("change", [name for name in CHANGES if "certificates" not in name])
def test_the_same_change_in_both_roles_is_not_a_difference(change: str) -> None:
    made = contexts()
    for one in made.values():
        CHANGES[change][0](one)
    if change == "anonymous peers":  # symmetric, and no demand at all
        found = defects(made)
        assert sum("verify_mode" in defect for defect in found) == 2
    else:
        build(made)


@each_role
def test_another_root(role: Role) -> None:
    """As many, but not the same."""
    made = contexts()
    made[role] = context(role, LISTENER, trust=STRANGERS)
    difference, advice = defects(made)  # told once
    assert "trust roots" in difference
    assert "allow_asymmetric=True" in advice


@each_role
def test_host_names_checked_in_only_one_role(role: Role) -> None:
    """In the server role they are not checked at all, whatever was asked for."""
    made = contexts()
    made[role].check_hostname = True
    (defect, _) = defects(made)
    assert "check_hostname" in defect
    assert f"the {role} role" in defect


def test_certificates_asked_for_after_the_handshake() -> None:
    """Python's server then asks for none *in* the handshake, CERT_REQUIRED or not."""
    made = contexts()
    made[Role.SERVER].post_handshake_auth = True
    assert any("post_handshake_auth" in defect for defect in defects(made))
    made = contexts()
    made[Role.CLIENT].post_handshake_auth = True  # demands nothing of the peer
    build(made)


def test_contexts_that_switch_contexts() -> None:
    made = contexts()
    made[Role.SERVER].sni_callback = lambda tls, name, context: None
    assert any("sni_callback" in defect for defect in defects(made))


@each_role
def test_roots_in_a_directory_cannot_be_seen(role: Role, tmp_path: Path) -> None:
    made = contexts()
    made[role] = new_context(role)
    made[role].load_verify_locations(capath=str(tmp_path))
    assert any("capath" in defect for defect in defects(made))
    both = dict.fromkeys(Role, made[role])
    assert sum("capath" in one for one in differences(*both.values())) == 2


def directory(folder: Path, authority: Authority) -> Change:
    """Have OpenSSL look this authority up, by the hash of its subject (X509_NAME_hash)."""
    # Of the canonical form: without its own header, and our names are in lower case.
    digest = hashlib.sha1(authority.name.public_bytes()[2:], usedforsecurity=False).digest()
    (folder / f"{int.from_bytes(digest[:4], 'little'):08x}.0").write_bytes(authority.pem)
    return lambda changed: changed.load_verify_locations(capath=str(folder))


@each_role
async def test_roots_in_a_directory_beside_those_of_a_file(
    role: Role, tmp_path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """Nothing tells of the directory until OpenSSL has found something in it.

    Then the chain tells, so that a stranger locks nobody out.
    """
    made = contexts()
    directory(tmp_path, STRANGERS)(made[role])
    credentials = build(made)
    stranger, friend = STRANGERS.issue("peer.example"), FLEET.issue("peer.example")
    assert (await meet(credentials, role, context(role.other, friend))).error is None
    for _ in range(2):
        meeting = await meet(credentials, role, context(role.other, stranger))
        assert type(meeting.error) is PeerRejectedError
        assert meeting.handled == []
        assert "capath" in str(meeting.error)
        assert (await meet(credentials, role, context(role.other, friend))).error is None
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 1
    assert "capath" in told[0].getMessage()
    # As in the other role, which trusts what it is seen to trust.
    meeting = await meet(credentials, role.other, context(role, stranger))
    assert type(meeting.error) is HandshakeError
    assert (await meet(credentials, role.other, context(role, friend))).error is None


@each_role
async def test_a_strangers_issuer_name_does_not_lock_out_good_peers(
    role: Role, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The stranger holds no certificate of that authority: he has only named it as his issuer."""
    made = contexts()
    directory(tmp_path, STRANGERS)(made[role])
    credentials = build(made)
    forged = Authority("strangers").issue("peer.example")
    meeting = await meet(credentials, role, context(role.other, forged))
    assert type(meeting.error) is HandshakeError
    assert credentials.context(role).cert_store_stats()["x509"] == 2
    friend = context(role.other, FLEET.issue("peer.example"))
    assert (await meet(credentials, role, friend)).error is None


@each_role
@pytest.mark.parametrize("own", [None, LISTENER.chain_pem], ids=["", "own_certificate"])
def test_an_intermediate_whose_root_is_in_a_directory_is_refused_at_once(
    own: bytes | None, role: Role, tmp_path: Path
) -> None:
    intermediate = Authority("intermediate", issuer=STRANGERS)
    made = contexts()
    for each in made.values():
        each.load_verify_locations(cadata=intermediate.pem.decode())
    directory(tmp_path, STRANGERS)(made[role])
    (defect,) = defects(made, own_certificate=own)
    assert "capath" in defect


@pytest.mark.parametrize("partial", [False, True])
def test_an_intermediate_vouches_under_partial_chains_only(partial: bool) -> None:
    intermediate = Authority("intermediate", issuer=STRANGERS)
    both = context(Role.SERVER, LISTENER)
    both.load_verify_locations(cadata=intermediate.pem.decode())
    if partial:
        both.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    else:
        both.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    roots = ComparedRoots.of(both)
    both.load_verify_locations(cadata=STRANGERS.pem.decode())
    leaf, every = (
        intermediate.issue("peer.example"),
        (intermediate.certificate, STRANGERS.certificate),
    )
    chain = (leaf.der, *(each.public_bytes(Encoding.DER) for each in every))
    assert roots.vouch_for(leaf.der, lambda: chain, both, Role.SERVER) is partial


@pytest.mark.parametrize("partial", [False, True])
def test_a_root_vouches_as_ever_when_another_is_found(partial: bool) -> None:
    grown = context(Role.SERVER, LISTENER)
    flag = ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    grown.verify_flags = grown.verify_flags | flag if partial else grown.verify_flags & ~flag
    roots = ComparedRoots.of(grown)
    grown.load_verify_locations(cadata=STRANGERS.pem.decode())
    for issuer, vouched_for in ((FLEET, True), (STRANGERS, False)):
        leaf = issuer.issue("peer.example").der
        chain = (leaf, issuer.certificate.public_bytes(Encoding.DER))
        assert roots.vouch_for(leaf, lambda chain=chain: chain, grown, Role.SERVER) is vouched_for  # type: ignore[misc]


@pytest.mark.parametrize("seen", [False, True])
async def test_a_resumed_session_under_grown_trust(
    seen: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    made = contexts()
    directory(tmp_path, STRANGERS)(made[Role.SERVER])
    credentials = build(made)
    friend, stranger = FLEET.issue("peer.example"), STRANGERS.issue("peer.example")
    admit = with_options(
        credentials.material.admit, role=Role.SERVER, remote_address=None, resumed=True
    )
    if seen:
        await admit(
            friend.der,
            lambda: (friend.der, FLEET.certificate.public_bytes(Encoding.DER)),
            resumed=False,
        )
    await meet(credentials, Role.SERVER, context(Role.CLIENT, stranger))
    for leaf, admitted in ((friend, seen), (stranger, False)):
        if admitted:
            await admit(leaf.der, tuple)
        else:
            with pytest.raises(PeerRejectedError):
                await admit(leaf.der, tuple)


# ----------------------------------------------------------------- OpenSSL's own trust settings

SETTINGS = {
    "-addreject clientAuth": Role.SERVER,
    "-addreject serverAuth": Role.CLIENT,
    "-addtrust serverAuth": Role.SERVER,
    "-addtrust clientAuth": Role.CLIENT,
    "-addtrust serverAuth -addtrust clientAuth": None,
    "-setalias fleet": None,
}


@pytest.mark.parametrize(("options", "rejecting"), SETTINGS.items())
@pytest.mark.parametrize("version", [None, TLS13], ids=["", "TLS1.3 only"])
@pytest.mark.parametrize("foreign", [False, True], ids=["our own root", "another root"])
def test_trust_settings_that_differ_by_role(
    foreign: bool,
    version: ssl.TLSVersion | None,
    options: str,
    rejecting: Role | None,
    tmp_path: Path,
) -> None:
    """A TRUSTED CERTIFICATE block says for which purposes: Python shows it like any other."""
    plain, trusted = tmp_path / "plain.pem", tmp_path / "trusted.pem"
    plain.write_bytes((STRANGERS if foreign else FLEET).pem)
    command: list[str | Path] = [
        require_tool("openssl"),
        "x509",
        "-in",
        plain,
        "-trustout",
        "-out",
        trusted,
    ]
    subprocess.run([*command, *options.split()], check=True)
    made: dict[Role, ssl.SSLContext] = {}
    for role in Role:
        made[role] = context(role, LISTENER, version=version, trust=FLEET if foreign else None)
        made[role].load_verify_locations(trusted)
    before = [(each.minimum_version, each.maximum_version, each.options) for each in made.values()]
    if rejecting is None:
        build(made)
    else:
        (defect, _) = defects(made)
        assert f"the {rejecting} role only" in defect
        assert "TRUSTED CERTIFICATE" in defect
        assert ("strangers" if foreign else "fleet") in defect
        build(made, allow_asymmetric=True)
    after = [(each.minimum_version, each.maximum_version, each.options) for each in made.values()]
    assert [each[:2] for each in after] == [each[:2] for each in before]


def rejecting(options: str, folder: Path) -> Path:
    """The fleet's root with settings of OpenSSL's."""
    plain, trusted = folder / "plain.pem", folder / "trusted.pem"
    plain.write_bytes(FLEET.pem)
    command: list[str | Path] = [require_tool("openssl"), "x509", "-in", plain]
    subprocess.run([*command, "-trustout", "-out", trusted, *options.split()], check=True)
    return trusted


@each_role
@pytest.mark.parametrize("apart", ["verify_mode", "trust roots"])
def test_settings_are_not_told_where_more_than_they_differs(
    apart: str, role: Role, tmp_path: Path
) -> None:
    """One role does not verify, or does not have that root at all: that is told, and once."""
    usage = {Role.SERVER: "clientAuth", Role.CLIENT: "serverAuth"}[role]
    made = contexts(trust=None)
    made[role].load_verify_locations(rejecting(f"-addreject {usage}", tmp_path))
    if apart == "trust roots":
        trust(STRANGERS)(made[role.other])
    else:
        trust(FLEET)(made[role.other])
        made[role.other].verify_mode = ssl.CERT_NONE
    (found,) = differences(made[Role.SERVER], made[Role.CLIENT])
    assert apart in found


@each_role
@pytest.mark.parametrize(
    "ciphers", ["ECDHE-ECDSA-AES256-SHA:@SECLEVEL=0", "ECDHE-RSA-AES128-SHA:@SECLEVEL=0"]
)
def test_settings_are_found_out_whatever_suites_a_context_has(
    ciphers: str, role: Role, tmp_path: Path
) -> None:
    leaf = LISTENER if "ECDSA" in ciphers else FLEET.issue("node.example", key=RSA_KEY)
    one = context(role, leaf, trust=None)
    usage = {Role.SERVER: "clientAuth", Role.CLIENT: "serverAuth"}[role]
    one.load_verify_locations(rejecting(f"-addreject {usage}", tmp_path))
    one.set_ciphers(ciphers)
    roots = one.get_ca_certs(binary_form=True)
    assert rejected_roots(one, role, roots) == frozenset(roots)


async def test_roots_in_a_directory_of_one_role_may_be_allowed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    made = contexts()
    directory(tmp_path, STRANGERS)(made[Role.SERVER])
    made[Role.CLIENT].check_hostname = True  # anything that is seen to differ
    credentials = build(made, allow_asymmetric=True)
    peer = context(Role.CLIENT, STRANGERS.issue("peer.example"))
    assert (await meet(credentials, Role.SERVER, peer)).error is None


def test_roots_in_a_directory_that_are_needed_for_our_own_certificate(tmp_path: Path) -> None:
    made = contexts(STRANGERS.issue("listener.example"))
    for changed in made.values():
        directory(tmp_path, STRANGERS)(changed)
    (defect,) = defects(made)
    assert "capath" in defect


def test_trusted_certificates_that_are_not_authorities() -> None:
    """One each, but not the same: which ones, Python does not tell."""
    made = contexts()
    for role, name in zip(Role, ("a.example", "b.example"), strict=True):
        leaf = FLEET.issue(name)
        made[role].load_verify_locations(cadata=leaf.chain_pem.decode())
        made[role].verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    assert sum("not authorities" in defect for defect in defects(made)) == 2


def test_a_context_trusts_like_itself_whatever_it_holds() -> None:
    """Of another one, what can't be compared counts as different."""
    one, other = (context(Role.SERVER, LISTENER) for _ in range(2))
    assert trust_alike(one, other)
    for made in (one, other):
        made.load_verify_locations(cadata=LISTENER.chain_pem.decode())  # no authority
    assert trust_alike(one, one)
    assert not trust_alike(one, other)


def test_all_differences_are_reported_together() -> None:
    made = contexts()
    made[Role.SERVER].verify_mode = ssl.CERT_NONE
    made[Role.CLIENT].minimum_version = TLS13
    trust(STRANGERS)(made[Role.CLIENT])
    found = " ".join(defects(made))
    for name in ("verify_mode", "minimum TLS versions", "trust roots"):
        assert name in found


# ------------------------------------------------------------------------------ unfit by themselves


@each_role
def test_the_context_of_the_other_role(role: Role) -> None:
    made = contexts()
    made[role] = made[role.other]
    (defect,) = defects(made, allow_asymmetric=True)
    assert str(role) in defect


@each_role
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_tls_1_2_is_the_floor(role: Role, version: ssl.TLSVersion) -> None:
    made = contexts()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        made[role].minimum_version = version
    (defect,) = defects(made, allow_asymmetric=True)
    assert str(role) in defect
    assert version.name in defect


def test_no_version_left() -> None:
    made = contexts()
    made[Role.SERVER].minimum_version = TLS13
    made[Role.SERVER].maximum_version = TLS12
    assert len(defects(made)) == 1


def test_versions_forbidden_by_options_count() -> None:
    made = contexts()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        made[Role.SERVER].minimum_version = ssl.TLSVersion.TLSv1
        made[Role.SERVER].options |= ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    build(made)


def test_a_protocol_of_one_version() -> None:
    made = contexts()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        made[Role.SERVER] = ssl.SSLContext(ssl.PROTOCOL_TLSv1_2)
    assert len(defects(made)) == 1


def test_one_context_for_both_roles() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        both = new_context(None)
    trust(FLEET)(both)
    build(dict.fromkeys(Role, both))


@pytest.mark.parametrize("peer", ["a.example", NamedPeer, 7])
def test_invalid_policies(peer: Any) -> None:
    with pytest.raises(ValueError):
        build(contexts(), peer=peer)
    with pytest.raises(ValueError):
        Credentials.mutual(certificate_chain=LISTENER, trust=FLEET, peer=peer)


def test_contexts_have_no_files_to_reload() -> None:
    with pytest.raises(CredentialsError):
        build(contexts()).reload()


# ------------------------------------------------------------------------------- pre-shared keys

shared_keys = pytest.mark.skipif(sys.version_info < (3, 13), reason="ssl has no PSK before 3.13")


def test_no_shared_keys_by_default() -> None:
    for ciphers in (None, "DEFAULT:PSK", "ALL:@SECLEVEL=0"):
        made = contexts()
        if ciphers is not None:
            for one in made.values():
                one.set_ciphers(ciphers)
        assert not offers_shared_key(made[Role.CLIENT])
        assert not takes_shared_key(made[Role.SERVER])


@shared_keys
@pytest.mark.parametrize(
    ("ciphers", "version", "answer"),
    [
        (None, None, ("me", b"k" * 32)),  # TLS 1.3: in the ClientHello
        ("DEFAULT:PSK", TLS12, (None, b"")),  # TLS 1.2: suites, whatever the callback answers
        ("DEFAULT:PSK", TLS12, ("me", b"k" * 32)),
    ],
)
def test_shared_keys_in_the_client_role(
    ciphers: str | None, version: ssl.TLSVersion | None, answer: tuple[str | None, bytes]
) -> None:
    made = contexts(version=version)
    client: Any = made[Role.CLIENT]
    client.set_psk_client_callback(lambda hint: answer)
    if ciphers is not None:
        for one in made.values():
            one.set_ciphers(ciphers)
    (defect,) = defects(made, allow_asymmetric=True)
    assert "client" in defect
    assert "pre-shared key" in defect


@shared_keys
def test_shared_keys_in_the_server_role() -> None:
    made = contexts()
    server: Any = made[Role.SERVER]
    server.set_psk_server_callback(lambda identity: b"k" * 32, "hint")
    for one in made.values():
        one.set_ciphers("DEFAULT:PSK")
    (defect,) = defects(made, allow_asymmetric=True)
    assert "server" in defect
    assert "pre-shared key" in defect


class Saying:
    """A client context, and its TLS object, that says a ClientHello made by hand."""

    def __init__(self, message: bytes, pieces: int) -> None:
        self._message, self._pieces = message, pieces

    def get_ciphers(self) -> list[dict[str, Any]]:
        return [
            {"name": "PSK-AES128-GCM-SHA256", "id": 0x0300_00A8},
            {"name": "ECDHE-ECDSA-AES128-GCM-SHA256", "id": 0x0300_C02B},
        ]

    def wrap_bio(self, _: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> Saying:
        size = -(-len(self._message) // self._pieces)
        for at in range(0, len(self._message), size):
            piece = self._message[at : at + size]
            outgoing.write(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece)
        return self

    def do_handshake(self) -> None:
        raise ssl.SSLWantReadError


OFFERS: dict[str, tuple[dict[str, Any], bool]] = {
    "no key": ({"suites": b"\x13\x01\xc0\x2b"}, False),
    "a suite": ({"suites": b"\xc0\x2b\x00\xa8"}, True),
    "a suite first": ({"suites": b"\x00\xa8\xc0\x2b"}, True),
    "a suite across two others": ({"suites": b"\x13\x00\xa8\x01"}, False),
    "an extension": ({"extra": extension(41, b"key")}, True),
    "an extension behind others": (
        {"extra": extension(0x0A0A, b"") + extension(41, b"key")},
        True,
    ),
    "what looks like it in another": ({"extra": extension(0x0A0A, extension(41, b""))}, False),
    "in a hello with a session": (
        {"suites": b"\x00\xa8", "session_id": bytes(32)},
        True,
    ),
    "no key in a hello with a session": ({"session_id": bytes.fromhex("00a80029") * 8}, False),
}


@pytest.mark.parametrize("pieces", [1, 3], ids=["one record", "three records"])
@pytest.mark.parametrize("offer", OFFERS)
def test_a_shared_key_in_a_client_hello(offer: str, pieces: int) -> None:
    """On every Python; only those from 3.13 on can be made to send one."""
    options, offered = OFFERS[offer]
    one: Any = Saying(hello(**options), pieces)
    assert offers_shared_key(one) is offered


def test_a_client_context_that_can_say_nothing() -> None:
    one = context(Role.CLIENT, LISTENER, version=TLS12)
    one.set_ciphers("aNULL:@SECLEVEL=2")  # none is allowed at that level
    assert not offers_shared_key(one)


# ------------------------------------------------------------------------ what contexts present


@pytest.mark.parametrize("version", [None, TLS12, TLS13])
def test_what_contexts_present(version: ssl.TLSVersion | None) -> None:
    server, client = FLEET.issue("server.example"), FLEET.issue("client.example")
    found = presented_certificates(
        context(Role.SERVER, server, version=version), context(Role.CLIENT, client, version=version)
    )
    assert found == {server.der, client.der}


def test_a_server_that_asks_for_another_group() -> None:
    """By a HelloRetryRequest: one flight more."""
    server = context(Role.SERVER, LISTENER, version=TLS13)
    server.set_ecdh_curve("secp521r1")
    assert presented_certificates(server, context(Role.CLIENT, None)) == {LISTENER.der}


def test_the_clients_certificate_is_found_only_under_mutual_trust() -> None:
    found = presented_certificates(
        context(Role.SERVER, STRANGERS.issue("a.example")), context(Role.CLIENT, LISTENER)
    )
    assert len(found) == 1


def test_contexts_that_present_nothing() -> None:
    made = contexts(None)
    assert presented_certificates(made[Role.SERVER], made[Role.CLIENT]) == frozenset()
    build(made)


def test_both_certificates_are_recognised_as_ours() -> None:
    server, client = FLEET.issue("server.example"), FLEET.issue("client.example")
    made = {Role.SERVER: context(Role.SERVER, server), Role.CLIENT: context(Role.CLIENT, client)}
    assert build(made).material.own_public_keys == keys_of(server, client)
    told = build(made, own_certificate=client).material
    assert told.own_public_keys == keys_of(client)


def test_keylog_of_a_context_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = contexts()
    made[Role.CLIENT].keylog_filename = str(tmp_path / "keys")
    build(made)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(tmp_path) in caplog.text
