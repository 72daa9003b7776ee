"""Certificates and keys as users hold them: files, bytes, or trustme's objects."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Protocol, runtime_checkable

# PEM is told from a path by its type, never by its content.
PemSource = str | os.PathLike[str] | bytes


class CredentialsError(ValueError):
    """Credentials can't be made, or must not be used, as they are.

    Attributes:
        defects: What is wrong, one clause each.
    """

    def __init__(self, *defects: str) -> None:
        super().__init__("; ".join(defects))
        self.defects = defects


class Blob(Protocol):
    """A ``trustme.Blob``, without importing trustme."""

    def bytes(self) -> bytes:
        """The PEM."""
        ...


@runtime_checkable
class TrustmeCertificate(Protocol):
    """What we need of a ``trustme.LeafCert``."""

    @property
    def private_key_and_cert_chain_pem(self) -> Blob:
        """Key, leaf and intermediates."""
        ...


@runtime_checkable
class TrustmeAuthority(Protocol):
    """What we need of a ``trustme.CA``."""

    @property
    def cert_pem(self) -> Blob:
        """The authority's certificate."""
        ...


def read_pem(source: PemSource | TrustmeCertificate | TrustmeAuthority, what: str) -> bytes:
    """Read PEM from wherever it is.

    Args:
        source: Path, bytes, or trustme's object.
        what: What it holds, for the error message.

    Raises:
        CredentialsError: The file can't be read.
    """
    if isinstance(source, bytes):
        return source
    if isinstance(source, TrustmeCertificate):
        return source.private_key_and_cert_chain_pem.bytes()
    if isinstance(source, TrustmeAuthority):
        return source.cert_pem.bytes()
    try:
        return Path(source).read_bytes()
    except OSError as exc:
        raise CredentialsError(f"can't read the {what}: {exc}") from exc


def find_private_key(pem: bytes) -> bytes | None:
    """The first private key in a PEM text, which may hold certificates too."""
    found = re.search(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?-----END \1-----", pem, re.DOTALL)
    return found and found.group()


@contextlib.contextmanager
def as_file(pem: bytes) -> Generator[str]:
    """Give PEM as a path for a moment: ``ssl`` loads a chain from files alone.

    A private key should not touch a disk for that: on Linux it does not.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(pem)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        # A directory of mode 0700: nobody else sees the key.
        with tempfile.TemporaryDirectory(prefix="trio_duplex-") as folder:
            path = Path(folder, "pem")
            path.write_bytes(pem)
            yield str(path)
