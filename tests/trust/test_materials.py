"""`Credentials.mutual`: its own certificate, certificates by name, ALPN, the keylog, what it shows."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from trio.testing import MockClock

from tests.support.authority import CLIENT_AUTH, DAY, FLEET, NOW, SERVER_AUTH, STRANGERS, Leaf
from tests.support.peers import client_hello
from tests.support.trust import GREETING, LISTENER, AskingContext, context, keys_of, meet, mutual
from trio_duplex import (
    AllOf,
    AnyTrustedPeer,
    Credentials,
    CredentialsError,
    NamedByAddress,
    NamedPeer,
    PeerPolicy,
    Role,
)
from trio_duplex.certificates import Check, Grade

pytestmark = pytest.mark.slow

PEER = FLEET.issue("peer.example")
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
each_role = pytest.mark.parametrize("role", list(Role), ids=str)
each_version = pytest.mark.parametrize("version", [TLS12, TLS13], ids=["TLS1.2", "TLS1.3"])

# ------------------------------------------------------------------------------ our own certificate


def test_a_good_certificate_is_checked() -> None:
    checks = mutual().checks
    assert len(checks) > 4
    assert {check.grade for check in checks} == {Grade.OK}


@pytest.mark.parametrize(
    ("leaf", "what", "role"),
    [
        (FLEET.issue("a.example", usages=[SERVER_AUTH]), "key usage", Role.CLIENT),
        (FLEET.issue("a.example", usages=[CLIENT_AUTH]), "key usage", Role.SERVER),
        (FLEET.issue("a.example", not_before=NOW - 9 * DAY, not_after=NOW - DAY), "validity", None),
        (FLEET.issue("a.example", not_before=NOW + DAY), "validity", None),
    ],
)
def test_a_certificate_that_peers_would_refuse(leaf: Leaf, what: str, role: Role | None) -> None:
    with pytest.raises(CredentialsError) as caught:
        mutual(leaf)
    (defect,) = caught.value.defects
    assert what in defect
    if role is not None:
        assert str(role) in defect
    # For tests, and for those who know better.
    found = mutual(leaf, check=False).checks
    assert [(check.what, check.role) for check in found if check.grade is Grade.DEFECT] == [
        (what, role)
    ]


def test_doubts_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    mutual(FLEET.issue("a.example", not_after=NOW + 3 * DAY))
    mutual(FLEET.issue())
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert caplog.records[0].name == "trio_duplex"
    caplog.clear()
    mutual(FLEET.issue(), check=False)
    assert caplog.records == []


@pytest.mark.parametrize("check", [True, False])
def test_a_wrong_key_is_always_refused(check: bool) -> None:
    with pytest.raises(CredentialsError):
        Credentials.mutual(
            certificate_chain=LISTENER.chain_pem,
            private_key=PEER.key_pem,
            trust=FLEET,
            check=check,
        )


def test_a_key_that_openssl_finds_too_weak() -> None:
    """It fits its certificate, so our own checks pass; OpenSSL's security level does not."""
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "weak")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + 30 * DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("weak.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    with pytest.raises(CredentialsError) as caught:
        Credentials.mutual(
            certificate_chain=certificate.public_bytes(Encoding.PEM),
            private_key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            trust=FLEET,
        )
    assert isinstance(caught.value.__cause__, ssl.SSLError)


def test_files(tmp_path: Path) -> None:
    for name, pem in (("chain", LISTENER.chain_pem), ("key", LISTENER.key_pem), ("ca", FLEET.pem)):
        (tmp_path / name).write_bytes(pem)
    made = Credentials.mutual(
        certificate_chain=tmp_path / "chain", private_key=tmp_path / "key", trust=tmp_path / "ca"
    )
    assert made.material.own_public_keys == keys_of(LISTENER)
    for secret in ("BEGIN", "PRIVATE"):
        assert secret not in repr(made)
    assert str(tmp_path / "chain") in repr(made)
    in_memory = repr(mutual(allow_self=True, peer=NamedPeer("a.example")))
    assert "BEGIN" not in in_memory
    assert "allow_self=True" in in_memory
    assert "a.example" in in_memory


@pytest.mark.parametrize("broken", ["certificate_chain", "private_key", "trust"])
def test_what_cannot_be_read(broken: str, tmp_path: Path) -> None:
    sources: dict[str, Any] = {
        "certificate_chain": LISTENER.chain_pem,
        "private_key": LISTENER.key_pem,
        "trust": FLEET.pem,
    }
    for wrong in (b"nonsense", tmp_path / "absent"):
        with pytest.raises(CredentialsError):
            Credentials.mutual(**sources | {broken: wrong})


def test_trust_is_what_was_given_and_nothing_else() -> None:
    made = mutual()
    for one in (made.server_context, made.client_context):
        assert one.cert_store_stats() == {"x509": 1, "crl": 0, "x509_ca": 1}
        assert one.verify_mode is ssl.CERT_REQUIRED
        assert one.minimum_version is TLS12


# ----------------------------------------------------------------------------- certificates by name

TENANT = FLEET.issue("tenant.example", usages=[SERVER_AUTH])
OTHER_TENANT = FLEET.issue("other.example")
FOREIGN_TENANT = FLEET.issue("xn--bcher-kva.example")


def asking(name: str | None, leaf: Leaf | None, version: ssl.TLSVersion) -> AskingContext:
    """A TLS client that asks for a name."""
    made = context(Role.CLIENT, leaf, version=version, kind=AskingContext)
    assert isinstance(made, AskingContext)
    made.name, made.objects = name, []
    return made


@each_version
@pytest.mark.parametrize(
    ("name", "leaf"),
    [
        (None, LISTENER),
        ("listener.example", LISTENER),
        ("unknown.example", LISTENER),
        ("tenant.example", TENANT),
        ("TENANT.example", TENANT),
        ("other.example", OTHER_TENANT),
        ("bücher.example", FOREIGN_TENANT),
    ],
)
async def test_certificates_by_name(
    name: str | None, leaf: Leaf, version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    credentials = mutual(
        certificates_by_name={
            "Tenant.Example": (TENANT.chain_pem, TENANT.key_pem),
            "other.example": OTHER_TENANT,
            "bücher.example.": FOREIGN_TENANT,
        }
    )
    peer = asking(name, PEER, version)
    assert (await meet(credentials, Role.SERVER, peer)).heard == GREETING
    (tls,) = peer.objects
    assert tls.getpeercert(binary_form=True) == leaf.der
    assert credentials.material.own_public_keys == keys_of(
        LISTENER, TENANT, OTHER_TENANT, FOREIGN_TENANT
    )


@each_version
async def test_a_certificate_by_name_changes_no_demand(
    version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    """The peer picks the name, as it picks the role."""
    credentials = mutual(
        certificates_by_name={"tenant.example": TENANT}, peer=NamedPeer("peer.example")
    )
    for leaf in (None, STRANGERS.issue("peer.example"), FLEET.issue("intruder.example")):
        peer = asking("tenant.example", leaf, version)
        meeting = await meet(credentials, Role.SERVER, peer)
        assert meeting.handled == []
        assert meeting.error is not None


def test_certificates_by_name_are_checked_for_the_role_that_they_play() -> None:
    unfit = FLEET.issue("tenant.example", usages=[CLIENT_AUTH])
    with pytest.raises(CredentialsError) as caught:
        mutual(certificates_by_name={"tenant.example": unfit})
    (defect,) = caught.value.defects
    assert "tenant.example" in defect  # there may be many
    assert not defects(mutual(certificates_by_name={"tenant.example": TENANT}).checks)


@pytest.mark.parametrize(
    "given",
    [
        (TENANT.chain_pem, LISTENER.key_pem),
        (Path("no/such/chain.pem"), TENANT.key_pem),
        (TENANT.chain_pem, Path("no/such/key.pem")),
        (b"no PEM", TENANT.key_pem),
    ],
)
def test_which_certificate_by_name_can_not_be_used(
    given: tuple[Path | bytes, Path | bytes],
) -> None:
    with pytest.raises(CredentialsError, match=r"tenant\.example"):
        mutual(certificates_by_name={"other.example": OTHER_TENANT, "tenant.example": given})


def defects(checks: Sequence[Check]) -> list[Check]:
    return [check for check in checks if check.grade is Grade.DEFECT]


# --------------------------------------------------------------------------------------------- SNI


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        (AnyTrustedPeer(), None),
        (NamedPeer("Peer.Example."), "peer.example"),
        (AllOf(AnyTrustedPeer(), NamedPeer("peer.example")), "peer.example"),
        (NamedByAddress(lambda address: "peer.example"), "peer.example"),
        (NamedPeer("192.0.2.7", "peer.example"), "peer.example"),
    ],
)
async def test_the_name_that_we_expect_goes_out(
    policy: PeerPolicy, name: str | None, autojump_clock: MockClock
) -> None:
    asked: list[str | None] = []
    peer = context(Role.SERVER, PEER)
    peer.sni_callback = lambda tls, wanted, _: asked.append(wanted)
    meeting = await meet(mutual(peer=policy), Role.CLIENT, peer)
    assert meeting.error is None
    assert asked == [name]


# -------------------------------------------------------------------------------------------- ALPN


@each_version
@pytest.mark.parametrize(
    ("alpn", "chosen"),
    [
        ((), {Role.SERVER: None, Role.CLIENT: None}),
        (["a", "b"], {Role.SERVER: "a", Role.CLIENT: "b"}),
        ({Role.SERVER: ["a"]}, {Role.SERVER: "a", Role.CLIENT: None}),
        ({Role.CLIENT: ["a"]}, {Role.SERVER: None, Role.CLIENT: "a"}),
        ({Role.SERVER: ["b"], Role.CLIENT: ["a"]}, {Role.SERVER: "b", Role.CLIENT: "a"}),
    ],
)
async def test_alpn_by_role(
    alpn: Sequence[str] | Mapping[Role, Sequence[str]],
    chosen: dict[Role, str | None],
    version: ssl.TLSVersion,
    autojump_clock: MockClock,
) -> None:
    credentials = mutual(alpn=alpn)
    for role in Role:
        peer = context(role.other, PEER, version=version)
        peer.set_alpn_protocols(["b", "a"])  # the server's preference counts
        meeting = await meet(credentials, role, peer)
        (connection,) = meeting.handled
        assert connection.selected_alpn_protocol == chosen[role]


@pytest.mark.parametrize("name", ["*.example", "192.0.2.7", "https://a.example", "a b", ""])
def test_names_that_nobody_can_ask_for(name: str) -> None:
    with pytest.raises(ValueError):
        mutual(certificates_by_name={name: TENANT})


def test_alpn_is_a_list() -> None:
    with pytest.raises(ValueError):
        mutual(alpn="h2")
    with pytest.raises(ValueError):
        mutual(alpn={Role.SERVER: "h2"})
    with pytest.raises(ValueError):
        mutual(alpn=[""])
    with pytest.raises(ValueError):
        mutual(alpn={"server": ["h2"]})  # would be none at all


# ------------------------------------------------------------------------------------------ keylog


@each_version
async def test_keylog(
    version: ssl.TLSVersion,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    path = tmp_path / "keys"
    credentials = mutual(keylog=path)
    assert path.stat().st_mode & 0o777 == 0o600  # whatever the umask
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert str(path) in caplog.text
    assert "keylog" in repr(credentials)
    for role in Role:
        before = path.read_text()
        assert (await meet(credentials, role, context(role.other, PEER, version=version))).handled
        added = path.read_text().removeprefix(before)
        label = "CLIENT_RANDOM" if version is TLS12 else "CLIENT_TRAFFIC_SECRET_0"
        assert any(line.startswith(f"{label} ") for line in added.splitlines())


async def test_no_keylog_unless_asked_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    credentials = mutual()
    assert (await meet(credentials, Role.SERVER, context(Role.CLIENT, PEER))).handled
    assert list(tmp_path.iterdir()) == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert "keylog" not in repr(credentials)


def test_a_keylog_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError):
        mutual(keylog=tmp_path / "absent" / "keys")


# ----------------------------------------------------------------------------------------- tickets


@pytest.mark.parametrize("tickets", [0, 2])
def test_session_tickets(tickets: int) -> None:
    assert mutual(session_tickets=tickets).server_context.num_tickets == tickets


def test_no_early_data_and_no_shared_key_in_our_hello() -> None:
    """What a ClientHello of ours offers: neither 0-RTT (42) nor a key (41)."""
    hello = client_hello(mutual().client_context)
    assert len(hello) < 600
    for extension in (41, 42):
        assert extension not in extensions(hello)


def extensions(hello: bytes) -> set[int]:
    at = 5 + 4 + 34
    at += 1 + hello[at]
    at += 2 + int.from_bytes(hello[at : at + 2], "big")
    at += 1 + hello[at] + 2
    found = set()
    while at < len(hello):
        found.add(int.from_bytes(hello[at : at + 2], "big"))
        at += 4 + int.from_bytes(hello[at + 2 : at + 4], "big")
    assert 43 in found  # supported_versions: we read it right
    return found
