from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

import trio_duplex
from trio_duplex import Role
from trio_duplex.testing import Authority, Certificate, Contexts, Flaw, PeerCredentials


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Handshake in memory; raises what either end raises."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(back, there, server_hostname=name)
    other = server.wrap_bio(there, back, server_side=True)
    for _ in range(3):
        for end in (one, other):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    try:  # TLS 1.3: the client hears the server's verdict when it reads
        one.read(1)
    except ssl.SSLWantReadError:
        pass
    return other, one


def leaf(certificate: Certificate) -> x509.Certificate:
    return x509.load_pem_x509_certificate(certificate.chain_pem)


@pytest.mark.slow
def test_credentials_negotiate_in_both_roles(authority: Authority) -> None:
    mine, yours = authority.credentials("a.example"), authority.certificate("b.example")
    assert isinstance(mine, trio_duplex.Credentials)
    for role in Role:
        ends = {role: mine.context(role), role.other: yours.context(role.other)}
        server, client = handshake(ends[Role.SERVER], ends[Role.CLIENT])
        assert server.getpeercert()
        assert client.getpeercert()


def test_keys_are_p256(authority: Authority) -> None:
    for pem in (authority.trust_pem, authority.certificate().chain_pem):
        key = x509.load_pem_x509_certificate(pem).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert isinstance(key.curve, ec.SECP256R1)


def test_names_default_to_this_machine(authority: Authority) -> None:
    certificate = authority.certificate()
    context = authority.certificate().context(Role.CLIENT)
    context.check_hostname = True
    for name in ("localhost", "127.0.0.1", "::1"):
        handshake(certificate.context(Role.SERVER), context, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(certificate.context(Role.SERVER), context, "elsewhere.example")


def test_authority_and_certificate_can_replace_trustmes(authority: Authority) -> None:
    trio_duplex.Credentials.mutual(
        certificate_chain=authority.certificate("c.example"), trust=authority
    )
    assert isinstance(authority.cert_pem, trustme.Blob)


def test_write_gives_files_that_programs_read(authority: Authority, tmp_path: Path) -> None:
    files = authority.certificate("d.example").write(tmp_path)
    trio_duplex.Credentials.mutual(
        certificate_chain=files.certificate_chain, private_key=files.private_key, trust=files.trust
    )


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        (Flaw.EXPIRED, "certificate has expired"),
        (Flaw.NOT_YET_VALID, "certificate is not yet valid"),
        (Flaw.WRONG_AUTHORITY, "unable to get local issuer certificate"),
        (Flaw.SELF_SIGNED, "self-signed certificate"),
        (Flaw.SHORT_CHAIN, "unable to get local issuer certificate"),
    ],
)
def test_flaw_is_refused_in_either_role(
    authority: Authority, flaw: Flaw, reason: str, role: Role
) -> None:
    flawed = authority.flawed(flaw, "e.example").context(role)
    honest = authority.certificate("f.example").context(role.other)
    ends = (flawed, honest) if role is Role.SERVER else (honest, flawed)
    with pytest.raises(ssl.SSLCertVerificationError) as info:
        handshake(*ends)
    # OpenSSL 3.0 and later write it with a hyphen, 1.1.1 without.
    assert info.value.verify_message.replace(" signed", "-signed") == reason


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(
    ("flaw", "good_in"), [(Flaw.SERVER_ONLY, Role.SERVER), (Flaw.CLIENT_ONLY, Role.CLIENT)]
)
def test_key_usage_allows_only_one_role(
    authority: Authority, flaw: Flaw, good_in: Role, role: Role
) -> None:
    flawed = authority.flawed(flaw).context(role)
    honest = authority.certificate().context(role.other)
    ends = (flawed, honest) if role is Role.SERVER else (honest, flawed)
    if role is good_in:
        handshake(*ends)
        return
    with pytest.raises(ssl.SSLCertVerificationError) as info:
        handshake(*ends)
    assert "purpose" in info.value.verify_message


def test_wrong_name_is_valid_but_for_somebody_else(authority: Authority) -> None:
    certificate = authority.flawed(Flaw.WRONG_NAME, "g.example")
    context = authority.certificate().context(Role.CLIENT)
    handshake(certificate.context(Role.SERVER), context)
    context.check_hostname = True
    with pytest.raises(ssl.SSLCertVerificationError) as info:
        handshake(certificate.context(Role.SERVER), context, "g.example")
    assert "mismatch" in info.value.verify_message


def test_every_flaw_trusts_the_authority(authority: Authority) -> None:
    for flaw in Flaw:
        assert authority.flawed(flaw).trust_pem == authority.trust_pem


def test_validity_is_as_asked(authority: Authority) -> None:
    start, end = dt.datetime(2020, 1, 2, tzinfo=dt.UTC), dt.datetime(2040, 3, 4, tzinfo=dt.UTC)
    certificate = leaf(authority.certificate("h.example", not_before=start, not_after=end))
    assert certificate.not_valid_before_utc == start
    assert certificate.not_valid_after_utc == end


def test_good_certificate_names_both_usages(authority: Authority) -> None:
    for certificate in (authority.certificate(), authority.flawed(Flaw.SELF_SIGNED)):
        usages = leaf(certificate).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(usages)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_peer_credentials_speak_one_version(authority: Authority, version: ssl.TLSVersion) -> None:
    chosen = authority.certificate().peer_credentials(tls_version=version, alpn=["x", "y"])
    other = authority.certificate().peer_credentials(alpn=["y"])
    server, client = handshake(other.context(Role.SERVER), chosen.context(Role.CLIENT))
    assert client.version() == version.name.replace("_", ".")
    assert server.selected_alpn_protocol() == "y"


def test_peer_credentials_may_present_and_trust_nothing(authority: Authority) -> None:
    nobody: Contexts = PeerCredentials()
    server = authority.certificate().context(Role.SERVER)
    server.verify_mode = ssl.CERT_NONE
    handshake(server, nobody.context(Role.CLIENT))
    with pytest.raises(ssl.SSLError):
        handshake(authority.certificate().context(Role.SERVER), nobody.context(Role.CLIENT))


def test_contexts_are_new_each_time(authority: Authority) -> None:
    certificate = authority.certificate()
    assert certificate.context(Role.SERVER) is not certificate.context(Role.SERVER)
