"""What a certificate says about its holder: `trio_duplex._trust.identity`."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from datetime import timedelta
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.authority import AUTHORITY, DAY, FLEET, NOW, rsa_key
from tests.support.der import as_v1, wrap
from trio_duplex import PeerIdentity
from trio_duplex._trust.identity import public_key_info, read_identity

pytestmark = pytest.mark.slow


PublicKey = rsa.RSAPublicKey | ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey
KEY = ec.generate_private_key(ec.SECP256R1())
FULL = FLEET.issue(
    "Node.Example", "*.fleet.example", "192.0.2.7", "2001:db8::7", "spiffe://fleet.example/node"
)


def test_what_a_certificate_says() -> None:
    identity = PeerIdentity.from_der(
        FULL.der, [FULL.der, FLEET.certificate.public_bytes(Encoding.DER)]
    )
    assert identity.dns_names == ("node.example", "*.fleet.example")
    assert identity.ip_addresses == (
        ipaddress.ip_address("192.0.2.7"),
        ipaddress.ip_address("2001:db8::7"),
    )
    assert identity.uris == ("spiffe://fleet.example/node",)
    assert identity.names == (
        "node.example",
        "*.fleet.example",
        "192.0.2.7",
        "2001:db8::7",
        "spiffe://fleet.example/node",
    )
    assert identity.spiffe_id == "spiffe://fleet.example/node"
    assert identity.subject == "CN=leaf"
    assert identity.issuer == "O=fleet"
    assert identity.serial_number == FULL.certificate.serial_number
    assert identity.not_before == (NOW - DAY).replace(microsecond=0)
    assert identity.not_after == (NOW + 90 * DAY).replace(microsecond=0)
    assert identity.not_after.utcoffset() == timedelta(0)
    assert identity.certificate == FULL.der
    assert identity.certificate_sha256 == hashlib.sha256(FULL.der).hexdigest()
    assert len(identity.chain) == 2


def test_the_key_pin_is_what_openssl_makes_it() -> None:
    spki = FULL.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert PeerIdentity.from_der(FULL.der).public_key_sha256 == hashlib.sha256(spki).hexdigest()


@pytest.mark.parametrize(
    "key",
    [
        rsa_key(),
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP384R1()),
    ],
    ids=["RSA", "Ed25519", "P-384"],
)
@pytest.mark.parametrize("version", [x509.Version.v1, x509.Version.v3])
def test_the_public_key_is_found_in_the_certificate(
    key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
    version: x509.Version,
) -> None:
    public = key.public_key()
    certificate = sign(builder(public))
    if version is x509.Version.v1:
        certificate = as_v1(certificate)
    expected = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert public_key_info(certificate) == expected


def test_a_key_of_unknown_kind() -> None:
    """An elliptic curve that cryptography does not know can be pinned all the same."""
    secp256r1, unknown = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030177")
    der = sign(builder()).public_bytes(Encoding.DER).replace(secp256r1, unknown)
    identity = PeerIdentity.from_der(der)
    spki = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert (
        identity.public_key_sha256 == hashlib.sha256(spki.replace(secp256r1, unknown)).hexdigest()
    )


def test_equal_and_hashable_by_certificate() -> None:
    one, same = PeerIdentity.from_der(FULL.der), PeerIdentity.from_der(FULL.der, [FULL.der])
    other = PeerIdentity.from_der(FLEET.issue("node.example").der)
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert len({one, same, other}) == 2
    for field in attrs.fields(PeerIdentity):
        altered: dict[str, Any] = {field.name: object()}
        assert (attrs.evolve(one, **altered) == one) is (field.name != "certificate")
    # A log line needs no certificates in full.
    assert str(FULL.der)[2:-1] not in repr(one)


@pytest.mark.parametrize(
    ("uris", "expected"),
    [
        (["spiffe://a.example/b"], "spiffe://a.example/b"),
        (["https://a.example/b"], None),
        (["spiffe://a.example/b", "spiffe://a.example/c"], None),  # X.509-SVID section 2: one URI
        ([], None),
    ],
)
def test_spiffe_id(uris: list[str], expected: str | None) -> None:
    assert PeerIdentity.from_der(FLEET.issue("a.example", *uris).der).spiffe_id == expected


def test_a_peer_that_comes_again_is_parsed_once() -> None:
    der = FLEET.issue("again.example").der
    first = read_identity(der, (der,))
    assert read_identity(bytes(bytearray(der)), (bytes(bytearray(der)),)) is first
    assert first.dns_names == ("again.example",)
    assert first.chain == (der,)
    assert read_identity(der, ()).chain == ()  # a resumed session has none


def test_no_names() -> None:
    identity = PeerIdentity.from_der(FLEET.issue(common_name="a.example").der)
    assert identity.names == ()
    assert identity.certificate_sha256[:16] in str(identity)


def test_many_names_make_a_short_line() -> None:
    identity = PeerIdentity.from_der(FLEET.issue(*(f"{n}.example" for n in range(1000))).der)
    assert len(identity.names) == 1000
    assert len(str(identity)) < 200
    assert "996" in str(identity)


@pytest.mark.parametrize("data", [b"", b"no certificate", b"\x30\x80", FULL.der[:-1]])
def test_no_certificate(data: bytes) -> None:
    with pytest.raises(ValueError):
        PeerIdentity.from_der(data)


# ------------------------------------------------------------------------------- odd certificates


def builder(public: PublicKey | None = None) -> x509.CertificateBuilder:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public or KEY.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
    )


def sign(made: x509.CertificateBuilder) -> x509.Certificate:
    return made.sign(KEY, hashes.SHA256())


SAN = x509.ObjectIdentifier("2.5.29.17")


@pytest.mark.parametrize(
    "san",
    [
        b"",
        b"\x30",
        b"nonsense",
        wrap(0x30, wrap(0x82, b"caf\xe9.example")),  # a DNS name that is no ASCII
        wrap(0x30, wrap(0x87, b"\x01\x02\x03")),  # an IP address of three bytes
        wrap(0x30, wrap(0xA3, b"")),  # x400Address, which cryptography does not know
        wrap(0x30, wrap(0xA5, b"")),  # ediPartyName
    ],
)
def test_names_that_cannot_be_read(san: bytes) -> None:
    der = sign(
        builder().add_extension(x509.UnrecognizedExtension(SAN, san), critical=False)
    ).public_bytes(Encoding.DER)
    with pytest.raises(ValueError):
        PeerIdentity.from_der(der)


@given(st.binary(max_size=60))
@settings(max_examples=80, deadline=None)
def test_arbitrary_bytes_in_place_of_names(san: bytes) -> None:
    der = sign(
        builder().add_extension(x509.UnrecognizedExtension(SAN, san), critical=False)
    ).public_bytes(Encoding.DER)
    try:
        identity = PeerIdentity.from_der(der)
    except ValueError:
        return
    check_printable(identity)


@pytest.mark.parametrize(
    ("where", "what"),
    [
        (bytes.fromhex("a003020102"), bytes.fromhex("a003020109")),  # X.509 v10
        (bytes.fromhex("06035504030c"), bytes.fromhex("060355040303")),  # a name in bits
    ],
)
def test_other_exceptions_of_cryptography_become_value_errors(where: bytes, what: bytes) -> None:
    assert where in FULL.der
    with pytest.raises(ValueError):
        PeerIdentity.from_der(FULL.der.replace(where, what))


@pytest.mark.filterwarnings("ignore")  # cryptography's, of serial numbers below 1
@given(st.data())
@settings(max_examples=120, deadline=None)
def test_damaged_certificates(data: st.DataObject) -> None:
    """One that can be parsed makes an identity; one that can't, a ValueError; nothing else."""
    der = bytearray(FULL.der)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(der) - 1))
        der[at] = data.draw(st.integers(0, 255))
    try:
        identity = PeerIdentity.from_der(bytes(der))
    except ValueError:
        return
    check_printable(identity)


# ------------------------------------------------------------------------------ any names at all

ASCII = st.text(st.characters(min_codepoint=0, max_codepoint=127), max_size=120)
DNS = st.from_regex(r"\A(\*\.)?([a-zA-Z0-9_-]{1,20}\.){0,5}[a-zA-Z]{1,10}\Z") | ASCII
URIS = st.from_regex(r"\A[a-z]{1,8}:(//)?[a-zA-Z0-9./:@%?#-]{0,60}\Z") | ASCII
ADDRESSES = st.ip_addresses()


@given(
    dns=st.lists(DNS, max_size=8),
    uris=st.lists(URIS, max_size=4),
    ips=st.lists(ADDRESSES, max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_names_go_in_and_come_out(
    dns: list[str],
    uris: list[str],
    ips: list[ipaddress.IPv4Address | ipaddress.IPv6Address],
) -> None:
    general: list[x509.GeneralName] = [
        *map(x509.DNSName, dns),
        *map(x509.UniformResourceIdentifier, uris),
        *map(x509.IPAddress, ips),
    ]
    identity = PeerIdentity.from_der(FLEET.issue(*general, key=KEY).der)
    assert identity.dns_names == tuple(name.lower() for name in dns)
    assert identity.uris == tuple(uris)
    assert identity.ip_addresses == tuple(ips)
    check_printable(identity)


def check_printable(identity: PeerIdentity) -> None:
    assert re.fullmatch(r"[\x20-\x7e]+", str(identity))
    # Four names of 80 characters at most, each escaped or cut, and the fingerprint.
    assert len(str(identity)) < 420
    assert repr(identity).isprintable()
    assert identity == PeerIdentity.from_der(identity.certificate)


def test_names_are_shown_whole_up_to_their_bound() -> None:
    longest = ".".join(["a" * 25] * 3)[:80]
    for name in ("b.example", longest):
        shown = str(PeerIdentity.from_der(FLEET.issue(name, "192.0.2.7", key=KEY).der))
        assert shown.split(" (", maxsplit=1)[0].split(", ") == [name, "192.0.2.7"]
    shown = str(PeerIdentity.from_der(FLEET.issue("c" * 62 + "." + "d" * 20, key=KEY).der))
    assert shown.startswith(("c" * 62 + "." + "d" * 20)[:80])
    assert "d" * 20 not in shown


def test_a_name_can_not_look_like_two() -> None:
    identity = PeerIdentity.from_der(FLEET.issue(x509.DNSName("a.example, b.example")).der)
    assert "a.example, b.example" not in str(identity)


def test_of_trustme() -> None:
    leaf = AUTHORITY.issue_cert("a.example")
    der = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes()).public_bytes(Encoding.DER)
    assert PeerIdentity.from_der(der).dns_names == ("a.example",)
