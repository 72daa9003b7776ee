"""From files to contexts: reading, checking and building for `Credentials.mutual` and `reload`."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from os import PathLike, fspath
from typing import TYPE_CHECKING

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from trio_duplex._role import Role
from trio_duplex._trust.admission import NO_ALPN, Material
from trio_duplex._trust.blocks import (
    Block,
    Located,
    find_private_key,
    load_revocation_lists,
    locate_certificates,
)
from trio_duplex._trust.keylog import write_keylog
from trio_duplex._trust.own import (
    CHAIN,
    Check,
    Grade,
    check_chain,
    check_key,
    check_revocation_lists,
    check_trust,
    check_trusted_certificates,
    unfit_to_issue,
    without_deprecations,
    without_its_root,
)
from trio_duplex._trust.parameters import Parameters, keep_tightened
from trio_duplex._trust.password import PasswordSource
from trio_duplex._trust.pem import (
    CredentialsError,
    Pem,
    PemSource,
    Source,
    TrustmeCertificate,
    as_file,
)
from trio_duplex._trust.policy import PeerPolicy

if TYPE_CHECKING:
    from trio_duplex._trust.vouching import SelfVouching

LOGGER = logging.getLogger("trio_duplex")

CertificateAndKey = tuple[PemSource, PemSource | None] | TrustmeCertificate


@attrs.frozen(kw_only=True, repr=False, eq=False)
class MutualSource:
    """The sources and options of `Credentials.mutual`, from which `load` makes a `Material` each time."""

    certificate_chain: Source
    private_key: Source | None
    password: PasswordSource
    trust: Source | None
    trusted_certificates: Source | None
    revocation_lists: Source | None
    peer: PeerPolicy
    allow_self: bool
    alpn: Mapping[Role, Sequence[str]]
    alpn_required: bool
    certificates_by_name: Mapping[str, tuple[Source, Source | None]]
    session_tickets: int
    parameters: Parameters
    keylog: str | PathLike[str] | None
    check: bool
    anonymous_clients: bool
    handshake_threads: bool
    _logged: set[str] = attrs.field(init=False, factory=set[str])

    def __repr__(self) -> str:
        sources = {
            "certificate_chain": self.certificate_chain,
            "trust": self.trust,
            "trusted_certificates": self.trusted_certificates,
            "revocation_lists": self.revocation_lists,
        }
        shown = [f"{name}={source!r}" for name, source in sources.items() if source is not None]
        if self.keylog is not None:
            shown.append(f"keylog={fspath(self.keylog)!r}")
        return " ".join(shown)

    def load(self, in_force: Material | None = None) -> tuple[Material, tuple[Check, ...]]:
        """Read everything, check it, and build contexts from it; all or nothing.

        Args:
            in_force: The material that will be replaced. Settings that a user has
                tightened on its contexts are kept.

        Raises:
            CredentialsError: Anything went wrong, including with files and descriptors.
        """
        try:
            with without_deprecations():
                return self._load(in_force)
        except OSError as exc:
            raise CredentialsError(f"the credentials can't be loaded: {exc}") from exc

    def _load(self, in_force: Material | None) -> tuple[Material, tuple[Check, ...]]:
        now, password = datetime.now(UTC), self.password.asked_once()
        trusted = Trusted.read(self.trust, self.trusted_certificates, self.revocation_lists)
        pair = Presented.read(self.certificate_chain, self.private_key)
        by_name = {
            name: Presented.read(chain, key, f" of {name}")
            for name, (chain, key) in self.certificates_by_name.items()
        }
        of_trust = trusted.checks(now)
        checks = (
            *pair.checks(trusted.authorities, password, now),
            # Certificates that are chosen by name are never presented in the client role.
            *(
                check
                for each in by_name.values()
                for check in each.checks(trusted.authorities, password, now)
                if check.role is not Role.CLIENT
            ),
            *of_trust,
        )
        if self.check:
            _refuse_or_warn(check for check in checks if str(check) not in self._logged)
            # Do not repeat these at each reload: an expired authority may stay in a bundle for years.
            self._logged.update(map(str, of_trust))
        trusted.refuse_if_nobody_can_come_in()
        client_context = self._context(pair, password, trusted, Role.CLIENT)
        server_context = self._context(pair, password, trusted, Role.SERVER)
        contexts = {
            name: self._context(each, password, trusted, Role.SERVER)
            for name, each in by_name.items()
        }
        if in_force is not None:
            keep_tightened(in_force.client_context, client_context)
            for context in (server_context, *contexts.values()):
                keep_tightened(in_force.server_context, context)
        if contexts:

            def choose(tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
                if name is not None and name.lower() in contexts:
                    tls.context = contexts[name.lower()]

            server_context.sni_callback = choose
        if self.keylog is not None:
            write_keylog((client_context, server_context, *contexts.values()), self.keylog)
        material = Material.of(
            server_context,
            client_context,
            self.peer,
            [each.chain[0].certificate for each in (pair, *by_name.values())],
            allow_self=self.allow_self,
            self_vouching=trusted.self_vouching,
            anonymous_clients=self.anonymous_clients,
            required_alpn=self.alpn if self.alpn_required else NO_ALPN,
            handshake_threads=self.handshake_threads,
            lists_not_after=min(
                (each.next_update_utc for each in trusted.lists if each.next_update_utc),
                default=None,
            ),
            fresh_server_context=lambda: self._context(pair, password, trusted, Role.SERVER),
        )
        return material, checks

    def _context(
        self, presented: Presented, password: PasswordSource, trusted: Trusted, role: Role
    ) -> ssl.SSLContext:
        if role is Role.SERVER:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.num_tickets = self.session_tickets
            if not self.session_tickets:
                context.options |= ssl.OP_NO_TICKET  # for TLS 1.2
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False  # the peer policy checks names, in both roles
        self.parameters.apply(context)
        context.verify_mode = ssl.CERT_REQUIRED
        if self.anonymous_clients and role is Role.SERVER:
            context.verify_mode = (
                ssl.CERT_OPTIONAL
            )  # a certificate is still verified if there is one
        trusted.load_into(context)
        presented.load_into(context, password)
        if self.alpn[role]:
            context.set_alpn_protocols(list(self.alpn[role]))
        return context


@attrs.frozen(eq=False)
class Trusted:
    """The certificates that we trust, and the revocation lists."""

    given: Sequence[Located]
    """All certificates in ``trust``, usable as authorities or not."""
    self_vouching_only: Sequence[x509.Certificate]
    """The ``trusted_certificates``, which vouch only for themselves."""
    lists: Sequence[x509.CertificateRevocationList]

    @classmethod
    def read(
        cls, trust: Source | None, trusted: Source | None, revocation_lists: Source | None
    ) -> Trusted:
        self_vouching_only = [] if trusted is None else locate_certificates(trusted.read())
        return cls(
            [] if trust is None else locate_certificates(trust.read()),
            [each.certificate for each in self_vouching_only],
            [] if revocation_lists is None else load_revocation_lists(revocation_lists.read()),
        )

    @property
    def authorities(self) -> list[x509.Certificate]:
        """The certificates to load as roots: those of ``trust`` that are authorities.

        The others are left out, because with partial chains OpenSSL would trust them, too.
        """
        every = [each.certificate for each in self.given]
        return [each for each in every if unfit_to_issue(each) is None]

    @property
    def self_vouching(self) -> SelfVouching | None:
        if not self.self_vouching_only:
            return None
        # Here, because most credentials have an authority, and no certificates of this kind.
        from trio_duplex._trust.vouching import SelfVouching

        return SelfVouching(
            frozenset(map(_der, self.self_vouching_only)), frozenset(map(_der, self.authorities))
        )

    def checks(self, now: datetime) -> tuple[Check, ...]:
        checks: list[Check] = []
        if self.given:
            checks += check_trust(self.given, now)
        if self.self_vouching_only:
            checks += check_trusted_certificates(self.self_vouching_only, now)
        if self.lists:
            checks += check_revocation_lists(self.lists, self.authorities, now)
        return tuple(checks)

    def refuse_if_nobody_can_come_in(self) -> None:
        if not self.authorities and not self.self_vouching_only:
            raise CredentialsError(
                *(
                    f"trust root {each.certificate.subject.rfc4514_string()!r} "
                    f"{unfit_to_issue(each.certificate)}"
                    for each in self.given
                ),
                "so nobody could be admitted: trust must hold authorities; certificates that vouch "
                "only for their own holder belong into trusted_certificates=",
            )
        if self.lists and (partial := without_its_root(self.authorities)) is not None:
            raise CredentialsError(
                f"trust holds {partial.subject.rfc4514_string()!r} without its own issuer, so "
                "OpenSSL can't check revocation_lists below it; add the issuer, up to the root"
            )

    def load_into(self, context: ssl.SSLContext) -> None:
        anchors = [*self.authorities, *self.self_vouching_only]
        try:
            # Load exactly the certificates that were parsed. OpenSSL may read the same PEM differently.
            context.load_verify_locations(cadata=b"".join(map(_der, anchors)))
            if not self.lists:
                # This makes anchors of intermediates, and of certificates that vouch for themselves.
                context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
                return
            pem = b"".join(each.public_bytes(Encoding.PEM) for each in self.lists)
            with as_file(Pem("revocation lists", pem)) as path:
                context.load_verify_locations(cafile=path)
            # Check a list for each authority in the chain, because a revoked authority must not
            # vouch for anybody. This does not work with partial chains: OpenSSL does not find the
            # list of an anchor that is not a root.
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
        except ssl.SSLError as exc:
            raise CredentialsError(f"OpenSSL can't use the trusted certificates: {exc}") from exc


@attrs.frozen(eq=False)
class Presented:
    """A certificate chain and its key that we present to peers."""

    chain: Sequence[Located]
    key_pem: Pem
    key: Block
    whose: str

    @classmethod
    def read(
        cls, certificate_chain: Source, private_key: Source | None, whose: str = ""
    ) -> Presented:
        chain_pem = certificate_chain.read()
        key_pem = chain_pem if private_key is None else private_key.read()
        return cls(locate_certificates(chain_pem), key_pem, find_private_key(key_pem), whose)

    def checks(
        self, roots: Sequence[x509.Certificate], password: PasswordSource, now: datetime
    ) -> list[Check]:
        chain = [each.certificate for each in self.chain]
        key = check_key(chain[0], self.key_pem, password.get)
        checks = [
            attrs.evolve(check, what=f"{check.what}{self.whose}")
            for check in (key, *check_chain(chain, roots, now))
        ]
        if key.grade is Grade.DEFECT:  # OpenSSL would refuse it too, but less clearly
            raise CredentialsError(str(checks[0]))
        return checks

    def load_into(self, context: ssl.SSLContext, password: PasswordSource) -> None:
        # Load only the blocks that were checked. The key stays encrypted if it is.
        chain = Pem("certificate chain", b"\n".join(each.text for each in self.chain) + b"\n")
        key = Pem("private key", (self.key.text or b"") + b"\n")
        with ExitStack() as stack:
            chain_file = stack.enter_context(as_file(chain))
            key_file = stack.enter_context(as_file(key))
            try:
                context.load_cert_chain(chain_file, key_file, password.for_openssl)
            except ssl.SSLError as exc:
                raise CredentialsError(f"OpenSSL can't use certificate and key: {exc}") from exc
            except ValueError as exc:  # a password of more than 1,023 bytes
                raise CredentialsError(f"OpenSSL can't use the password: {exc}") from exc


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def _refuse_or_warn(checks: Iterable[Check]) -> None:
    doubtful = [check for check in checks if check.grade is not Grade.OK]
    if defects := [str(check) for check in doubtful if check.grade is Grade.DEFECT]:
        raise CredentialsError(*defects)
    for check in doubtful:
        # An unknown issuer may be in order: peers must know the issuer of our certificate, we need not.
        level = logging.INFO if check.what.startswith(CHAIN) else logging.WARNING
        LOGGER.log(level, "own certificate: %s", check)
