"""Is our own certificate fit for both roles? All that can be found out before a peer does."""

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

    `~trio_duplex.Credentials.mutual` looks at the same, and refuses a certificate with a
    defect. This goes on to load everything as it does, and to shake hands with itself in
    memory, in both roles and TLS versions: the real clock applies there, whatever ``now`` is.

    Args:
        certificate_chain: Leaf first: path, PEM bytes, or a ``trustme.LeafCert``.
        private_key: Its key; None if it stands in ``certificate_chain``.
        trust: The trust roots, which may be the issuers of our own too.
        password: Of the key, if it is encrypted: bytes, or a function that returns them.
        now: The time to check at, with its zone; None for the present.

    Returns:
        All checks, also those that came out well.

    Raises:
        CredentialsError: Something can't be read at all.
    """
    # From here on nothing is held in a variable that a traceback would show.
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
        if key.grade is not Grade.DEFECT:  # OpenSSL would only say the same of it
            checks += rehearse(presented, trusted.authorities, asked)
    return tuple(checks)


def _unusable(trusted: Trusted) -> list[Check]:
    """What `Credentials.mutual` would refuse of the trust roots."""
    try:
        trusted.refuse_if_nobody_can_come_in()
        trusted.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    except CredentialsError as exc:
        return [Check("trust roots", Grade.DEFECT, str(exc))]
    return []
