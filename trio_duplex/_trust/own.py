"""Checks of our own certificate for both roles, by what the certificates themselves say.

Pure: takes certificates, key, trust roots and the time, and returns graded checks.
"""

from __future__ import annotations

import contextlib
import enum
import shlex
import ssl
import warnings
from collections.abc import Callable, Generator, Sequence
from datetime import datetime, timedelta
from functools import cache
from itertools import pairwise
from typing import TypeVar

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID

from trio_duplex._role import Role
from trio_duplex._trust.blocks import (
    Located,
    find_private_key,
    parse_private_key,
)
from trio_duplex._trust.identity import UNREADABLE, PeerIdentity
from trio_duplex._trust.pem import (
    CredentialsError,
    Pem,
)

EXPIRY_WARNING = timedelta(days=7)
"""How long before its end a certificate gets a warning. A week leaves somebody time to act, and an
automatic renewal would have come earlier."""

CHAIN = "chain"
"""The name of the check of our chain. Its warning may be harmless: we need not trust the authority
that issued our own certificate."""

E = TypeVar("E", bound=x509.ExtensionType)

_USAGE = {
    Role.SERVER: ExtendedKeyUsageOID.SERVER_AUTH,
    Role.CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH,
}
_USAGE_NAME = {Role.SERVER: "serverAuth", Role.CLIENT: "clientAuth"}


class Grade(enum.Enum):
    """The result of a check of our own certificate."""

    OK = "ok"
    WARNING = "warning"
    """It works today, or it may be intended."""
    DEFECT = "defect"
    """Peers will refuse us."""


@attrs.frozen
class Check:
    """One check of our own certificate.

    Attributes:
        what: What was checked, such as ``"validity"``.
        grade: The result.
        detail: What was found and, if something is wrong, what to do.
        role: The TLS role, if the check concerns only one; None for both.
    """

    what: str
    grade: Grade
    detail: str
    role: Role | None = None

    def __str__(self) -> str:
        concerns = f" (TLS {self.role})" if self.role else ""
        return f"{self.what}{concerns}: {self.detail}"


@contextlib.contextmanager
def without_deprecations() -> Generator[None]:
    """Suppress cryptography's warnings about certificates while they are read.

    Such a warning is for the issuer. A system's bundle contains roots that break the rules of
    X.509, for instance with a negative serial number.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        yield


def check_key(
    leaf: x509.Certificate, key_pem: Pem, password: Callable[[], bytes | None] = lambda: None
) -> Check:
    """Check that the private key is the certificate's.

    Raises:
        CredentialsError: There is no key, it is malformed, or it can't be decrypted.
    """
    private_key = parse_private_key(find_private_key(key_pem), password)
    try:
        matches = private_key.public_key() == leaf.public_key()
    except UNREADABLE as exc:
        raise CredentialsError(f"the certificate's key can't be read: {exc}") from exc
    if matches:
        return Check("private key", Grade.OK, "matches the certificate")
    key_file = "" if key_pem.path is None else f"{shlex.quote(key_pem.path)} "
    return Check(
        "private key",
        Grade.DEFECT,
        f"{key_file}does not belong to the certificate; find the key that it was issued for",
    )


def check_chain(
    chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], now: datetime
) -> tuple[Check, ...]:
    """Check a chain, leaf first, without its key."""
    leaf = chain[0]
    # Check the usage before the names: if the extensions are unreadable, `_extension` raises CredentialsError.
    return (
        _check_issuers(chain, roots),
        *(_check_validity(certificate, now, leaf=certificate is leaf) for certificate in chain),
        *(_check_usage(chain, role) for role in Role),
        _check_names(leaf),
    )


def check_trust(roots: Sequence[Located], now: datetime) -> tuple[Check, ...]:
    """Check the trust roots: one check for all good ones, and one for each doubtful root."""
    what = "trust roots"
    checked = [(root, _check_root(root, now)) for root in roots]
    doubtful = [check for _, check in checked if check.grade is not Grade.OK]
    ended = [root for root in roots if root.certificate.not_valid_after_utc < now]
    if len(doubtful) == len(checked):
        return tuple(doubtful)
    first_end = min(
        root.certificate.not_valid_after_utc for root, check in checked if check.grade is Grade.OK
    )
    good = len(checked) - len(doubtful)
    only = good == len(roots) == 1
    found = f"{_name(roots[0].certificate)}, " if only else f"{good}, the first "
    found += f"until {first_end:%Y-%m-%d %H:%M} UTC"
    if ended:
        # Bundles of public roots always contain expired ones, and the user can't renew them.
        found += f"; {len(ended)} more have expired, such as {_name(ended[0].certificate)}"
        doubtful = [
            check
            for root, check in checked
            if check in doubtful and (root not in ended or unfit_to_issue(root.certificate))
        ]
    return (Check(what, Grade.OK, found), *doubtful)


def _check_root(root: Located, now: datetime) -> Check:
    what = f"trust root {_name(root.certificate)}"
    validity = _check_validity(root.certificate, now, leaf=False)
    if (unfit := unfit_to_issue(root.certificate)) is not None:
        return Check(
            what,
            Grade.WARNING,
            f"block {root.number} {unfit}, so it can't vouch for peers and is left out; to admit "
            "only its holder, put it into trusted_certificates=",
        )
    # This is never a defect, because the other roots may be enough.
    grade = Grade.OK if validity.grade is Grade.OK else Grade.WARNING
    return Check(what, grade, validity.detail)


def check_trusted_certificates(
    certificates: Sequence[x509.Certificate], now: datetime
) -> tuple[Check, ...]:
    """Check the certificates that vouch only for themselves, and list those that are not valid now."""
    doubtful = tuple(
        Check(f"trusted certificate {_name(certificate)}", Grade.WARNING, check.detail)
        for certificate in certificates
        if (check := _check_validity(certificate, now, leaf=False)).grade is not Grade.OK
    )
    good = len(certificates) - len(doubtful)
    summary = Check("trusted certificates", Grade.OK, f"{good}, each vouches only for itself")
    return (summary, *doubtful) if good else doubtful


def check_revocation_lists(
    lists: Sequence[x509.CertificateRevocationList],
    roots: Sequence[x509.Certificate],
    now: datetime,
) -> tuple[Check, ...]:
    """Check whether our revocation lists can be used.

    If a list is missing or out of date, OpenSSL refuses every peer below its issuer,
    although the fault is ours.
    """
    checks = [
        _check_list(number, revoked, roots, now) for number, revoked in enumerate(lists, start=1)
    ]
    issuers = {revoked.issuer.public_bytes() for revoked in lists}
    checks += [
        Check(
            f"revocation list of {_name(root)}",
            Grade.WARNING,
            "there is none, so every peer below this root is refused; fetch it",
        )
        for root in roots
        if root.subject.public_bytes() not in issuers
    ]
    return tuple(checks)


def _check_list(
    number: int,
    revoked: x509.CertificateRevocationList,
    roots: Sequence[x509.Certificate],
    now: datetime,
) -> Check:
    what = f"revocation list {number} of {revoked.issuer.rfc4514_string()!r}"
    end = revoked.next_update_utc
    if now < revoked.last_update_utc:
        return Check(
            what, Grade.DEFECT, f"not valid before {revoked.last_update_utc:%Y-%m-%d %H:%M} UTC"
        )
    if end is not None and now > end:
        return Check(
            what,
            Grade.DEFECT,
            f"our own list expired on {end:%Y-%m-%d %H:%M} UTC, so every peer below its issuer is "
            "refused; fetch a new one",
        )
    issuers = [root for root in roots if root.subject == revoked.issuer]
    if issuers and not any(_signed_list(revoked, issuer) for issuer in issuers):
        return Check(what, Grade.DEFECT, "the trust root of this name did not sign it")
    until = "for ever" if end is None else f"until {end:%Y-%m-%d %H:%M} UTC"
    return Check(what, Grade.OK, f"{len(revoked)} revoked; {until}")


def _signed_list(revoked: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        key = issuer.public_key()
        return revoked.is_signature_valid(key)  # type: ignore[arg-type]  # TypeError otherwise
    except UNREADABLE:
        return False


def without_its_root(roots: Sequence[x509.Certificate]) -> x509.Certificate | None:
    """Return a trust root whose own issuer is missing; None if all are complete up to a root."""
    for root in roots:
        if not _issued(root, root) and not any(_issued(root, other) for other in roots):
            return root
    return None


def _is_authority(certificate: x509.Certificate) -> bool:
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is None:  # OpenSSL accepts roots that are older than the extension
        return certificate.version is x509.Version.v1 and certificate.subject == certificate.issuer
    return constraints.ca


def unfit_to_issue(authority: x509.Certificate, below: int = 0) -> str | None:
    """Return why peers will not accept a certificate as an authority; None if they will.

    Args:
        authority: The certificate.
        below: How many other authorities are below it in the chain (RFC 5280
            section 6.1.4).
    """
    if not _is_authority(authority):
        return "is not an authority (basicConstraints)"
    usage = _extension(authority, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        return "may not sign certificates (its key usage lacks keyCertSign)"
    constraints = _extension(authority, x509.BasicConstraints)
    most = None if constraints is None else constraints.path_length
    if most is not None and below > most:
        return f"may have {most} authorities below it, not {below} (its path length)"
    return None


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except UNREADABLE as exc:
        raise CredentialsError(f"{_name(certificate)} can't be read: {exc}") from exc


def _check_issuers(chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]) -> Check:
    what = CHAIN
    for below, (child, parent) in enumerate(pairwise(chain)):
        if not _issued(child, parent):
            return Check(
                what,
                Grade.DEFECT,
                f"{_name(parent)} did not issue {_name(child)}; put leaf first, "
                "each certificate before its issuer",
            )
        if (unfit := unfit_to_issue(parent, below)) is not None:
            return Check(
                what,
                Grade.DEFECT,
                f"{_name(parent)} issued {_name(child)}, but {unfit}; get a certificate from another "
                "authority",
            )
    last = chain[-1]
    if _issued(last, last):
        return Check(what, Grade.OK, f"complete up to its root {_name(last)}")
    if any(_issued(last, root) for root in roots):
        return Check(what, Grade.OK, f"issued by {_issuer(last)}, one of our own trust roots")
    if last.issuer.public_bytes() in _system_roots():
        return Check(what, Grade.OK, f"issued by {_issuer(last)}, a root of this system")
    return Check(
        what,
        Grade.WARNING,
        f"ends below {_issuer(last)}, which is neither in trust nor a root of this system; "
        "if it is an intermediate, append its certificate",
    )


def _issued(child: x509.Certificate, parent: x509.Certificate) -> bool:
    try:
        child.verify_directly_issued_by(parent)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _system_roots() -> frozenset[bytes]:
    """Return the subjects of the roots that this system's own TLS clients trust."""
    roots = _load_system_roots()
    if not roots:  # perhaps there was no file descriptor left to read them; try again next time
        _load_system_roots.cache_clear()
    return roots


@cache
def _load_system_roots() -> frozenset[bytes]:
    # Do not use create_default_context: it obeys SSLKEYLOGFILE, and can fail because of it.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    subjects: set[bytes] = set()
    # A system may have roots that break the rules of X.509. The user can't change that.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for der in context.get_ca_certs(binary_form=True):
            try:
                subjects.add(x509.load_der_x509_certificate(der).subject.public_bytes())
            except ValueError:
                continue
    return frozenset(subjects)


def _check_validity(certificate: x509.Certificate, now: datetime, *, leaf: bool) -> Check:
    what = "validity" if leaf else f"validity of {_name(certificate)}"
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < start:
        return Check(what, Grade.DEFECT, f"not valid before {start:%Y-%m-%d %H:%M} UTC")
    if now > end:
        return Check(what, Grade.DEFECT, f"expired on {end:%Y-%m-%d %H:%M} UTC; renew it")
    if now > end - EXPIRY_WARNING:
        return Check(what, Grade.WARNING, f"expires soon, on {end:%Y-%m-%d %H:%M} UTC; renew it")
    return Check(what, Grade.OK, f"until {end:%Y-%m-%d %H:%M} UTC")


def _check_usage(chain: Sequence[x509.Certificate], role: Role) -> Check:
    what = "key usage"
    missing = _missing_usage(chain, role)
    if missing is None:
        return Check(what, Grade.OK, f"allows {_USAGE_NAME[role]}", role)
    return Check(
        what,
        Grade.DEFECT,
        f"{missing}, so it can't play the TLS {role}; have it issued with "
        "serverAuth and clientAuth (public authorities dropped clientAuth in 2026)",
        role,
    )


def _missing_usage(chain: Sequence[x509.Certificate], role: Role) -> str | None:
    usage = _extension(chain[0], x509.KeyUsage)
    if usage is not None and not usage.digital_signature:  # RFC 8446 section 4.4.2.2
        return "lacks digitalSignature"
    # OpenSSL checks the extended key usage of the issuers, too.
    for certificate in chain:
        extended = _extension(certificate, x509.ExtendedKeyUsage)
        if extended is None or _USAGE[role] in extended:
            continue
        lacks = f"lacks {_USAGE_NAME[role]}"
        if ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in extended:
            # RFC 5280 section 4.2.1.12 leaves this to the verifier, and OpenSSL does not accept it.
            lacks += " (OpenSSL does not accept anyExtendedKeyUsage instead)"
        return (
            lacks
            if certificate is chain[0]
            else f"has an issuer, {_name(certificate)}, that {lacks}"
        )
    return None


def _check_names(leaf: x509.Certificate) -> Check:
    what = "names"
    names = PeerIdentity.from_der(leaf.public_bytes(Encoding.DER)).names
    if names:
        return Check(what, Grade.OK, ", ".join(names))
    # This is not a defect: peers may pin our certificate, or admit every certificate of their authority.
    return Check(
        what,
        Grade.WARNING,
        "no subjectAltName, so no peer can check our name (RFC 9525 ignores the common name)",
    )


def _name(certificate: x509.Certificate) -> str:
    return repr(certificate.subject.rfc4514_string())


def _issuer(certificate: x509.Certificate) -> str:
    return repr(certificate.issuer.rfc4514_string())
