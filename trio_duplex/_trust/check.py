"""Checking whether our own certificate is fit for both roles, before a peer finds out."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

from trio_duplex._trust.mutual import Presented, Trusted
from trio_duplex._trust.own import (
    Check,
    Grade,
    check_chain,
    check_key,
    without_deprecations,
)
from trio_duplex._trust.password import Password, PasswordSource
from trio_duplex._trust.pem import (
    CredentialsError,
    PemSource,
    Source,
    TrustmeAuthority,
    TrustmeCertificate,
)
from trio_duplex._trust.rehearsal import rehearse


def check_certificate(
    *,
    certificate_chain: PemSource | TrustmeCertificate,
    private_key: PemSource | None = None,
    trust: PemSource | TrustmeAuthority | None = None,
    password: Password | None = None,
    now: datetime | None = None,
) -> tuple[Check, ...]:
    """Check whether a certificate is fit to be presented in both TLS roles.

    `~trio_duplex.Credentials.mutual` makes most of these checks too, and refuses a certificate
    with a defect. In addition, this function loads everything as ``mutual`` does, and performs
    handshakes with itself in memory, in both roles and TLS versions. Those handshakes use the
    real clock, whatever ``now`` is.

    Args:
        certificate_chain: The chain, leaf first: a path, PEM bytes, or a ``trustme.LeafCert``.
        private_key: The key of the leaf; None if it is in ``certificate_chain``.
        trust: The trust roots. The issuer of our own certificate may be among them.
        password: The password of the key, if it is encrypted: bytes, or a function that
            returns them.
        now: The time to check at, with a time zone; None for the present.

    Returns:
        All checks, including those that found nothing wrong.

    Raises:
        CredentialsError: A source can't be read at all.
    """
    # Below this line, no variable that a traceback might show holds a secret.
    chain_source = Source(certificate_chain, "certificate chain")
    key_source = None if private_key is None else Source(private_key, "private key")
    trust_source = None if trust is None else Source(trust, "trust roots")
    asked = PasswordSource(password)
    del certificate_chain, private_key, trust, password
    asked.check()
    now, asked = now or datetime.now(UTC), asked.asked_once()
    with without_deprecations():
        trusted = Trusted.read(trust_source, None, None)
        presented = Presented.read(chain_source, key_source)
        chain = [each.certificate for each in presented.chain]
        key = check_key(chain[0], presented.key_pem, asked.get)
        checks = [
            key,
            *check_chain(chain, trusted.authorities, now),
            *trusted.checks(now),
        ]
        if trust_source is not None:
            checks += _unusable(trusted)
        if key.grade is not Grade.DEFECT:  # with a wrong key, OpenSSL would only report that again
            checks += rehearse(presented, trusted.authorities, asked)
    return tuple(checks)


def _unusable(trusted: Trusted) -> list[Check]:
    """Return a check with a defect if `Credentials.mutual` would refuse the trust roots."""
    try:
        trusted.refuse_if_nobody_can_come_in()
        trusted.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    except CredentialsError as exc:
        return [Check("trust roots", Grade.DEFECT, str(exc))]
    return []
