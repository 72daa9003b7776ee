"""Parsing PEM text with certificates and keys, block by block, with an error for each wrong block.

The most common mistake is a file of the wrong kind, and OpenSSL says "no start line"
for all of them. So each kind that occurs in practice is recognised by its first bytes
or its label, and the error contains the command that converts it.
"""

from __future__ import annotations

import re
import shlex
import ssl
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.utils import CryptographyDeprecationWarning

from trio_duplex._trust.identity import UNREADABLE
from trio_duplex._trust.pem import CredentialsError, Pem

T = TypeVar("T")

_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 #]+)-----")
_CERTIFICATES = ("CERTIFICATE", "X509 CERTIFICATE")  # OpenSSL accepts the old name, too
_REVOCATION_LISTS = ("X509 CRL",)


@attrs.frozen(repr=False, eq=False)
class Block:
    """One block of a PEM text; it may be a key.

    Attributes:
        number: Its number in the text, from 1.
        label: The words after ``BEGIN``.
        text: The block with its first and last line; None if its end is missing.
    """

    number: int
    label: str
    text: bytes | None

    def __repr__(self) -> str:
        return f"<block {self.number}: {self.label}>"

    @property
    def is_key(self) -> bool:
        return self.label.endswith("PRIVATE KEY")


@attrs.frozen
class Located:
    """A certificate, and where it was found.

    Attributes:
        certificate: The certificate.
        number: The number of its block.
        text: The text of the block.
    """

    certificate: x509.Certificate
    number: int
    text: bytes = attrs.field(repr=False)


def blocks(pem: Pem) -> list[Block]:
    """Cut a text into its PEM blocks. Text between blocks is a comment."""
    return list(_blocks(pem.data))


def _blocks(data: bytes) -> Iterator[Block]:
    begins = list(_BEGIN.finditer(data))
    for number, begin in enumerate(begins, start=1):
        limit = begins[number].start() if number < len(begins) else len(data)
        last_line = b"-----END " + begin[1] + b"-----"
        end = data.find(last_line, begin.end(), limit)
        text = None if end < 0 else data[begin.start() : end + len(last_line)]
        yield Block(number, begin[1].decode(), text)


def load_certificates(pem: Pem) -> list[x509.Certificate]:
    """Parse one or more certificates; `locate_certificates` also returns where they are."""
    return [found.certificate for found in locate_certificates(pem)]


def locate_certificates(pem: Pem) -> list[Located]:
    """Parse one or more certificates.

    Keys and parameters in the text are ignored.

    Raises:
        CredentialsError: There is none, or a block can't be used; all such blocks are named.
    """
    found = _load(pem, _CERTIFICATES, "certificate", _parse_certificate)
    return [Located(certificate, block.number, block.text or b"") for block, certificate in found]


def load_revocation_lists(pem: Pem) -> list[x509.CertificateRevocationList]:
    """Parse one or more revocation lists.

    Raises:
        CredentialsError: There is none, or a block can't be used; all such blocks are named.
    """
    return [each for _, each in _load(pem, _REVOCATION_LISTS, "revocation list", _parse_list)]


def find_private_key(pem: Pem) -> Block:
    """Find the first private key in a text, which may also contain certificates.

    Raises:
        CredentialsError: There is no key that OpenSSL can use.
    """
    found = blocks(pem)
    for block in found:
        if block.is_key:
            if (defect := _defect(block, pem, _CERTIFICATES)) is not None:
                raise CredentialsError(defect)
            return block
    if found and pem.what.startswith("certificate chain"):
        raise CredentialsError(
            f"there is no private key in the {pem.what}; give it as private_key, with a command as --key"
        )
    raise CredentialsError(_nothing_found(pem, found, "private key"))


def parse_private_key(block: Block, password: Callable[[], bytes | None]) -> PrivateKeyTypes:
    """Parse a private key, and decrypt it if it is encrypted.

    Args:
        block: The result of `find_private_key`.
        password: Called if the key is encrypted; returns None if there is no password.

    Raises:
        CredentialsError: The key is malformed, or the password is wrong or missing.
    """
    # Exceptions of cryptography must not become the cause of ours: in older versions, their
    # tracebacks have a frame of Python code that contains the key.
    key, problem = _try_key(block, None)
    if problem is _ENCRYPTED:
        if (secret := _Secret(password())).value is None:
            raise CredentialsError("the private key is encrypted; give its password as password=")
        key, problem = _try_key(block, secret)
        if key is None:
            raise CredentialsError(
                f"the private key can't be decrypted, so the password is wrong: {problem}"
            )
    if key is None:
        raise CredentialsError(f"the private key can't be read: {problem}")
    return key


@attrs.frozen(repr=False)
class _Secret:
    value: bytes | None


_ENCRYPTED = "encrypted"


def _try_key(block: Block, secret: _Secret | None) -> tuple[PrivateKeyTypes | None, str | None]:
    try:
        return load_pem_private_key(block.text or b"", secret.value if secret else None), None
    except TypeError:  # this always means that the key is encrypted and no password was given
        return None, _ENCRYPTED
    except (ValueError, UnsupportedAlgorithm) as exc:
        return None, str(exc)


# ------------------------------------------------------------------------------ block by block


def _load(
    pem: Pem, labels: tuple[str, ...], wanted: str, parse: Callable[[bytes], T]
) -> list[tuple[Block, T]]:
    found = blocks(pem)
    loaded: list[tuple[Block, T]] = []
    defects: list[str] = []
    for block in found:
        if (defect := _defect(block, pem, labels)) is not None:
            defects.append(defect)
        elif block.label in labels:
            try:
                loaded.append((block, parse(block.text or b"")))
            except UNREADABLE as exc:
                defects.append(f"{_place(block, pem)} can't be read: {exc}")
    if not loaded and not defects:
        defects.append(_nothing_found(pem, found, wanted))
    if defects:
        raise CredentialsError(*defects)
    return loaded


def _parse_certificate(text: bytes) -> x509.Certificate:
    with warnings.catch_warnings():
        # Some of a system's roots are old, and our users can't change them.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        certificate = x509.load_pem_x509_certificate(text)
        # These are parsed when they are read. Read them here, so that no check fails because of it.
        _ = certificate.subject, certificate.issuer
        _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return certificate


def _parse_list(text: bytes) -> x509.CertificateRevocationList:
    revoked = x509.load_pem_x509_crl(text)
    _ = revoked.issuer, revoked.last_update_utc, revoked.next_update_utc
    return revoked


def _place(block: Block, pem: Pem) -> str:
    return f"block {block.number} of the {pem.where} ({block.label})"


def _defect(block: Block, pem: Pem, labels: tuple[str, ...]) -> str | None:
    """Return why a block must not be in this text; None if it may be, or does no harm."""
    place, file, output = _place(block, pem), *_names(pem)
    if block.text is None:
        return f"{place} has no END line: the text was cut, so fetch it again"
    match block.label:
        case "TRUSTED CERTIFICATE":
            return (
                f"{place}{_subject(block.text)} holds OpenSSL's own trust settings, which differ "
                f"by role; make a plain certificate of it: openssl x509 -in {file} -out {output}"
            )
        case "PKCS7" | "CMS" | "PKCS #7 SIGNED DATA":
            return (
                f"{place} is a PKCS#7 bundle; take the certificates out of it: "
                f"openssl pkcs7 -print_certs -in {file} -out {output}"
            )
        case "OPENSSH PRIVATE KEY":
            return (
                f"{place} is a key for SSH, which OpenSSL does not read; "
                f"convert it (in place, so work on a copy): ssh-keygen -p -m PKCS8 -f {file}"
            )
        case "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST":
            return f"{place} is a request; give the certificate that the authority made of it"
        case "X509 CRL" if block.label not in labels:
            return f"{place} is a revocation list; give it as revocation_lists="
        case label if label in _CERTIFICATES and label not in labels:
            return f"{place}{_subject(block.text)} is a certificate, not a revocation list"
        case _:
            return None


def _subject(text: bytes) -> str:
    """Return the subject of a certificate; in a TRUSTED block, trust settings follow the certificate."""
    plain = text.replace(b"BEGIN TRUSTED ", b"BEGIN ").replace(b"END TRUSTED ", b"END ")
    try:
        der = ssl.PEM_cert_to_DER_cert(plain.decode("ascii"))
        name = x509.load_der_x509_certificate(der[: _element_length(der)]).subject
    except (*UNREADABLE, UnicodeDecodeError):
        return ""
    return f" {name.rfc4514_string()!r}"


def _names(pem: Pem) -> tuple[str, str]:
    """Return names for the file and for the converted file, quoted for a shell."""
    if pem.path is None:
        return "FILE", "FILE.pem"
    return shlex.quote(pem.path), shlex.quote(f"{pem.path}.pem")


# --------------------------------------------------------------------------- what it is instead


def _nothing_found(pem: Pem, found: list[Block], wanted: str) -> str:
    if found:
        each = (f"block {block.number} ({block.label})" for block in found[:8])
        blocks_found = f"only {', '.join(each)}"
        if any(block.is_key for block in found) and wanted != "private key":
            blocks_found += ": a private key in its place"
        return f"there is no {wanted} in the {pem.where}: {blocks_found}"
    return f"no {wanted} can be read from the {pem.where}: {_what_it_is(pem)}"


_SIGNED_DATA = bytes.fromhex("06092a864886f70d010702")  # RFC 2315 section 14
_PKCS12_VERSION = bytes.fromhex("020103")  # RFC 7292 section 4
_JAVA_KEY_STORE = bytes.fromhex("feedfeed")


def _what_it_is(pem: Pem) -> str:
    data = pem.data
    file, output = _names(pem)
    if not data.strip():
        return "it is empty"
    if encoding := _utf16(data):
        return f"it is UTF-16 text; convert it: iconv -f {encoding} -t UTF-8 {file} > {output}"
    if data.startswith(_JAVA_KEY_STORE):
        return (
            f"it is a Java key store; convert it: keytool -importkeystore -srckeystore {file} "
            f"-destkeystore {file}.p12 -deststoretype pkcs12, and then "
            f"openssl pkcs12 -in {file}.p12 -nodes -out {output}"
        )
    if not data.startswith(b"\x30"):
        return "it is not PEM, which has lines such as -----BEGIN CERTIFICATE-----; look at its first line"
    start = _content_start(data)
    if data[start:].startswith(_SIGNED_DATA):
        command = f"openssl pkcs7 -inform DER -print_certs -in {file} -out {output}"
        return f"it is PKCS#7 in DER; convert it: {command}"
    if data[start:].startswith(_PKCS12_VERSION):
        return f"it is PKCS#12; convert it: openssl pkcs12 -in {file} -nodes -out {output}"
    for what, command, load in _DER:
        try:
            load(data)
        except UNREADABLE:
            continue
        return f"it is {what} in DER; convert it: openssl {command} -in {file} -out {output}"
    # This may be a key. We do not try to parse it, because that needs a password if it is encrypted.
    return (
        f"it is DER, perhaps a key; convert that: openssl pkey -inform DER -in {file} -out {output}"
    )


_DER: tuple[tuple[str, str, Callable[[bytes], object]], ...] = (
    ("a certificate", "x509 -inform DER", x509.load_der_x509_certificate),
    ("a revocation list", "crl -inform DER", x509.load_der_x509_crl),
    ("a request for a certificate", "req -inform DER", x509.load_der_x509_csr),
)


def _utf16(data: bytes) -> str | None:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    if b"-\x00-\x00" in data:
        return "UTF-16LE" if not data.startswith(b"\x00") else "UTF-16BE"
    return None


def _content_start(element: bytes) -> int:
    """Return where the content of a DER element begins (X.690 section 8.1.3)."""
    return 2 + (element[1] & 0x7F if len(element) > 1 and element[1] & 0x80 else 0)


def _element_length(element: bytes) -> int:
    start = _content_start(element)
    length = int.from_bytes(element[2:start], "big") if start > 2 else element[1]
    return start + length
