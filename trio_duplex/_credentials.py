"""What we present and whom we trust, for both roles at once.

The peer picks the role, so it would pick the weaker check if there were one:
both contexts demand a certificate and verify it against the trust roots.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import attrs

from trio_duplex._role import Role

# PEM text is told from a path by its type, never by its content.
PemSource = str | os.PathLike[str] | bytes


@runtime_checkable
class _Blob(Protocol):
    def bytes(self) -> bytes: ...


@runtime_checkable
class _TrustmeCertificate(Protocol):
    """What we need of a ``trustme.LeafCert``, without importing trustme."""

    @property
    def private_key_and_cert_chain_pem(self) -> _Blob: ...


@runtime_checkable
class _TrustmeAuthority(Protocol):
    """What we need of a ``trustme.CA``, without importing trustme."""

    @property
    def cert_pem(self) -> _Blob: ...


@attrs.frozen
class Credentials:
    """A pair of TLS contexts, one for each role.

    Both must demand a certificate of the peer. ``OP_NO_RENEGOTIATION`` is set
    on both, because a peer's HelloRequest on an open TLS 1.2 connection is
    otherwise obeyed (measured with OpenSSL 3.0).

    Args:
        server_context: Used when we are the TLS server.
        client_context: Used when we are the TLS client. Its ``check_hostname``
            has no effect: an accepted peer's name is not known in advance.

    Raises:
        ValueError: A context does not require the peer's certificate, or is
            made for the other role.
    """

    server_context: ssl.SSLContext
    client_context: ssl.SSLContext

    def __attrs_post_init__(self) -> None:
        for role in Role:
            context = self.context(role)
            if context.verify_mode is not ssl.CERT_REQUIRED:
                raise ValueError(
                    f"the {role} context does not require the peer's certificate "
                    f"(verify_mode is {context.verify_mode.name}): the peer picks the role, "
                    "so both contexts must have verify_mode = ssl.CERT_REQUIRED"
                )
            unusable = ssl.PROTOCOL_TLS_CLIENT if role is Role.SERVER else ssl.PROTOCOL_TLS_SERVER
            if context.protocol is unusable:
                raise ValueError(f"the {role} context is a {context.protocol.name}")
            context.options |= ssl.OP_NO_RENEGOTIATION

    def context(self, role: Role) -> ssl.SSLContext:
        """The TLS context for ``role``."""
        return self.server_context if role is Role.SERVER else self.client_context

    @classmethod
    def mutual(
        cls,
        *,
        certificate_chain: PemSource | _TrustmeCertificate,
        private_key: PemSource | None = None,
        trust: PemSource | _TrustmeAuthority,
        alpn: Sequence[str] = (),
        session_tickets: int = 0,
    ) -> Credentials:
        """Make credentials that present and demand a certificate in both roles.

        Args:
            certificate_chain: Our certificate and its intermediates, leaf
                first: the path of a PEM file, PEM as bytes, or a
                ``trustme.LeafCert``.
            private_key: The key of the certificate, path or bytes; None if it
                stands in ``certificate_chain``. It must not be encrypted.
            trust: The certificates of the authorities that may have issued
                the peer's: path, bytes, or a ``trustme.CA``.
            alpn: Protocol names to offer and accept, preferred first.
            session_tickets: How many TLS 1.3 session tickets the server role
                gives out. Each costs about 45 µs of a 330 µs handshake
                (measured), and few peers of this kind resume: 0 by default.

        Returns:
            Credentials with TLS 1.2 as the floor in both roles.

        Raises:
            OSError: A file can't be read.
            ssl.SSLError: Certificate and key do not match, or are not PEM.
            ValueError: ``alpn`` or ``session_tickets`` is out of range.
        """
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        server.num_tickets = session_tickets
        with _as_files(certificate_chain, private_key) as (chain_file, key_file):
            for context in (server, client):
                context.load_cert_chain(chain_file, key_file, password=_refuse_password)
        for context in (server, client):
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.verify_mode = ssl.CERT_REQUIRED
            _load_trust(context, trust)
            if alpn:
                context.set_alpn_protocols(_alpn_list(alpn))
        return cls(server_context=server, client_context=client)


def _alpn_list(alpn: Iterable[str]) -> list[str]:
    """Check what ``ssl`` would say of ALPN names only in its own terms."""
    if isinstance(alpn, str):
        raise ValueError(f'alpn is a list of protocol names, such as ["{alpn}"], not a string')
    names = list(alpn)
    for name in names:
        if not (name.isascii() and 1 <= len(name) <= 255):  # one length byte: RFC 7301, section 3.1
            raise ValueError(f"an ALPN protocol name has 1 to 255 ASCII characters, not {name!r}")
    return names


def _refuse_password() -> str:
    """Stand in for OpenSSL's own prompt, which would block the event loop."""
    raise ValueError("the private key is encrypted; decrypt it first")


def _load_trust(context: ssl.SSLContext, trust: PemSource | _TrustmeAuthority) -> None:
    if isinstance(trust, _TrustmeAuthority):
        trust = trust.cert_pem.bytes()
    if isinstance(trust, bytes):
        context.load_verify_locations(cadata=trust.decode("ascii"))
    else:
        context.load_verify_locations(cafile=trust)


@contextlib.contextmanager
def _as_files(
    certificate_chain: PemSource | _TrustmeCertificate, private_key: PemSource | None
) -> Generator[tuple[str | os.PathLike[str], str | os.PathLike[str] | None]]:
    """Give both as paths: ``ssl`` loads a chain from files alone."""
    if isinstance(certificate_chain, _TrustmeCertificate):
        certificate_chain = certificate_chain.private_key_and_cert_chain_pem.bytes()
    with contextlib.ExitStack() as stack:
        paths: list[str | os.PathLike[str] | None] = []
        for pem in (certificate_chain, private_key):
            if isinstance(pem, bytes):
                # A directory of mode 0700, so that nobody else sees the key.
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="trio_duplex-"))
                path = Path(folder, "pem")
                path.write_bytes(pem)
                paths.append(path)
            else:
                paths.append(pem)
        chain_file, key_file = paths
        assert chain_file is not None
        yield chain_file, key_file
