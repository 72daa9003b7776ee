"""From settings to credentials: what is read from files, and what is said when it can't be."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from trio_duplex import (
    AllOf,
    Credentials,
    CredentialsError,
    NamedPeer,
    PeerPolicy,
    PinnedPeer,
)
from trio_duplex.cli._service.exits import Exit, ServiceError
from trio_duplex.cli._service.logs import log
from trio_duplex.cli._service.settings import CredentialSettings


def make_credentials(settings: CredentialSettings) -> Credentials:
    """Read certificate, key, trust and revocation lists.

    Raises:
        ServiceError: One of them can't be used; with exit code 3, or 2 where
            an option is missing.
    """
    if settings.cert is None or settings.trust is None:
        missing = "cert" if settings.cert is None else "trust"
        raise ServiceError(
            f"{settings.name}: --{missing} FILE is missing; both roles present a certificate and "
            "check the peer's",
            Exit.USAGE,
        )
    try:
        credentials = Credentials.mutual(
            certificate_chain=settings.cert,
            private_key=settings.key,
            password=_passphrase(settings),
            trust=settings.trust,
            revocation_lists=_revocation_lists(settings),
            peer=_policy(settings),
            anonymous_clients=settings.anonymous_clients,
            alpn=settings.alpn,
            handshake_threads=not settings.no_handshake_threads,
        )
    except CredentialsError as exc:
        why = str(exc).replace(
            "give its password as password=", "give its passphrase by --key-passphrase-file FILE"
        )
        raise ServiceError(f"{settings.name}: {why}", Exit.CREDENTIALS) from exc
    except OSError as exc:
        raise ServiceError(
            f"{settings.name}: can't read {exc.filename}: {exc.strerror}", Exit.CREDENTIALS
        ) from exc
    _warn_of_readable_key(settings.key or settings.cert)
    return credentials


def material_files(settings: CredentialSettings) -> Iterator[Path]:
    """The files that credentials are read from: a change to one is a reason to reload."""
    for path in (settings.cert, settings.key, settings.trust, settings.key_passphrase_file):
        if path is not None:
            yield path
    yield from settings.crl


_read_once: dict[int, bytes] = {}


def _passphrase(settings: CredentialSettings) -> bytes | None:
    """The passphrase of the key: a file is read at each reload, a descriptor only once."""
    number = settings.key_passphrase_fd
    if settings.key_passphrase_file is not None and number is not None:
        raise ServiceError(
            f"{settings.name}: give --key-passphrase-file or --key-passphrase-fd, not both",
            Exit.USAGE,
        )
    if settings.key_passphrase_file is not None:
        return settings.key_passphrase_file.read_bytes().partition(b"\n")[0].rstrip(b"\r")
    if number is None:
        return None
    if number not in _read_once:
        try:
            with open(number, "rb", closefd=True) as file:  # noqa: PTH123 - a descriptor
                _read_once[number] = file.readline().rstrip(b"\r\n")
        except OSError as exc:
            raise ServiceError(
                f"--key-passphrase-fd: can't read file descriptor {number}: {exc.strerror}",
                Exit.CREDENTIALS,
            ) from exc
    return _read_once[number]


def _revocation_lists(settings: CredentialSettings) -> bytes | None:
    if not settings.crl:
        return None
    return b"\n".join(path.read_bytes() for path in settings.crl)


def _policy(settings: CredentialSettings) -> PeerPolicy | None:
    policies: list[PeerPolicy] = []
    if settings.peer_name:
        policies.append(NamedPeer(*settings.peer_name))
    if settings.peer_pin:
        policies.append(PinnedPeer(*settings.peer_pin))
    if len(policies) > 1:
        return AllOf(*policies)
    return policies[0] if policies else None


def _warn_of_readable_key(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # whoever reads it says so
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        log.warning(
            "key-readable",
            file=path,
            mode=f"{stat.S_IMODE(mode):04o}",
            advice=f"chmod go-rwx {path}",
        )
