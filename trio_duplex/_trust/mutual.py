"""From files to contexts: what `Credentials.mutual` reads, checks and builds, again at each reload."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from os import PathLike, fspath

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from trio_duplex._role import Role
from trio_duplex._trust.admission import Material
from trio_duplex._trust.own import (
    Check,
    Grade,
    check_chain,
    check_key,
    check_trust,
    load_certificates,
)
from trio_duplex._trust.pem import (
    CredentialsError,
    PemSource,
    TrustmeAuthority,
    TrustmeCertificate,
    as_file,
    read_pem,
)
from trio_duplex._trust.policy import PeerPolicy
from trio_duplex._trust.symmetry import FLOOR

LOGGER = logging.getLogger("trio_duplex")

CertificateAndKey = tuple[PemSource, PemSource | None] | TrustmeCertificate


@attrs.frozen(kw_only=True, repr=False)
class MutualSource:
    """Where `Credentials.mutual` has its material from, to be read again at will."""

    certificate_chain: PemSource | TrustmeCertificate
    private_key: PemSource | None
    trust: PemSource | TrustmeAuthority
    peer: PeerPolicy
    allow_self: bool
    alpn: Mapping[Role, Sequence[str]]
    certificates_by_name: Mapping[str, CertificateAndKey]
    session_tickets: int
    keylog: str | PathLike[str] | None
    check: bool

    def __repr__(self) -> str:
        shown = f"certificate_chain={_show(self.certificate_chain)} trust={_show(self.trust)}"
        return shown if self.keylog is None else f"{shown} keylog={fspath(self.keylog)!r}"

    def load(self) -> tuple[Material, tuple[Check, ...]]:
        """Read everything, check it, and build contexts of it; all or nothing."""
        roots = load_certificates(read_pem(self.trust, "trust roots"), "trust roots")
        pair = _Presented.read(self.certificate_chain, self.private_key)
        by_name: dict[str, _Presented] = {}
        for name, given in self.certificates_by_name.items():
            chain, key = given if isinstance(given, tuple) else (given, None)
            by_name[name] = _Presented.read(chain, key, f" of {name}")
        now = datetime.now(UTC)
        checks = (
            *pair.checks(roots, now),
            # Those chosen by name are never presented in the client role.
            *(
                check
                for each in by_name.values()
                for check in each.checks(roots, now)
                if check.role is not Role.CLIENT
            ),
            *check_trust(roots, now),
        )
        if self.check:
            _refuse_or_warn(checks)
        client_context = self._context(pair, roots, Role.CLIENT)
        server_context = self._context(pair, roots, Role.SERVER)
        if by_name:
            contexts = {
                name: self._context(each, roots, Role.SERVER) for name, each in by_name.items()
            }

            def choose(tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
                if name is not None and name.lower() in contexts:
                    tls.context = contexts[name.lower()]

            server_context.sni_callback = choose
        material = Material.of(
            server_context,
            client_context,
            self.peer,
            [each.chain[0] for each in (pair, *by_name.values())],
            allow_self=self.allow_self,
        )
        return material, checks

    def _context(
        self, presented: _Presented, roots: Sequence[x509.Certificate], role: Role
    ) -> ssl.SSLContext:
        if role is Role.SERVER:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.num_tickets = self.session_tickets
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False  # the peer policy's task, in both roles
        context.minimum_version = FLOOR
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            # Just what was parsed: OpenSSL's reading of the same PEM may differ.
            context.load_verify_locations(
                cadata=b"".join(root.public_bytes(Encoding.DER) for root in roots)
            )
        except ssl.SSLError as exc:
            raise CredentialsError(f"OpenSSL can't use the trust roots: {exc}") from exc
        presented.load_into(context)
        if self.alpn[role]:
            context.set_alpn_protocols(list(self.alpn[role]))
        if self.keylog is not None:
            try:
                # OpenSSL would leave a new one to the umask, and others on the machine to read.
                os.close(os.open(self.keylog, os.O_CREAT | os.O_WRONLY, 0o600))
                context.keylog_filename = fspath(self.keylog)
            except OSError as exc:
                raise CredentialsError(f"can't write the keylog: {exc}") from exc
            warn_of_keylog(self.keylog)
        return context


@attrs.frozen
class _Presented:
    """A certificate chain and its key, as we present them."""

    chain: Sequence[x509.Certificate]
    chain_pem: bytes
    key_pem: bytes
    whose: str

    @classmethod
    def read(
        cls,
        certificate_chain: PemSource | TrustmeCertificate,
        private_key: PemSource | None,
        whose: str = "",
    ) -> _Presented:
        chain_pem = read_pem(certificate_chain, f"certificate chain{whose}")
        key_pem = chain_pem
        if private_key is not None:
            key_pem = read_pem(private_key, f"private key{whose}")
        chain = load_certificates(chain_pem, f"certificate chain{whose}")
        return cls(chain, chain_pem, key_pem, whose)

    def checks(self, roots: Sequence[x509.Certificate], now: datetime) -> list[Check]:
        key = check_key(self.chain[0], self.key_pem)
        checks = [
            attrs.evolve(check, what=f"{check.what}{self.whose}")
            for check in (key, *check_chain(self.chain, roots, now))
        ]
        if key.grade is Grade.DEFECT:  # OpenSSL would refuse it too, in its own words
            raise CredentialsError(str(checks[0]))
        return checks

    def load_into(self, context: ssl.SSLContext) -> None:
        with ExitStack() as stack:
            chain_file = stack.enter_context(as_file(self.chain_pem))
            key_file = stack.enter_context(as_file(self.key_pem))
            try:
                context.load_cert_chain(chain_file, key_file)
            except ssl.SSLError as exc:
                raise CredentialsError(f"OpenSSL can't use certificate and key: {exc}") from exc


def warn_of_keylog(path: str | PathLike[str]) -> None:
    """Log that secrets are written to a file."""
    LOGGER.warning("the secrets of every TLS connection are written to %s: debugging only", path)


def _refuse_or_warn(checks: Sequence[Check]) -> None:
    if defects := [str(check) for check in checks if check.grade is Grade.DEFECT]:
        raise CredentialsError(*defects)
    for check in checks:
        if check.grade is Grade.WARNING:
            LOGGER.warning("own certificate: %s", check)


def _show(source: PemSource | TrustmeCertificate | TrustmeAuthority) -> str:
    """A source as one may log it: a path, but never PEM, which may hold the key."""
    return repr(fspath(source)) if isinstance(source, str | PathLike) else "<given in memory>"
