"""Where certificates and keys are: files, bytes, or trustme's objects.

What is read may be a private key. So it travels in objects whose ``repr`` says
what they are and not what they hold, and no frame that can raise has it as a
local variable: a traceback with locals (pytest's, an error tracker's) is read
by more people than the key is meant for.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Protocol, runtime_checkable

import attrs

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


AnySource = PemSource | TrustmeCertificate | TrustmeAuthority


@attrs.frozen(repr=False, eq=False)
class Pem:
    """What was read from a source; it may hold a key.

    Attributes:
        what: What it is, for messages: ``"trust roots"``.
        data: The text itself.
        path: The file that it was read from; None if it was given in memory.
    """

    what: str
    data: bytes
    path: str | None = None

    def __repr__(self) -> str:
        return f"<{self.what}: {len(self.data)} bytes>"


@attrs.frozen(repr=False, eq=False)
class Source:
    """Where PEM is, to be read at will.

    Attributes:
        given: Path, bytes, or trustme's object.
        what: What it holds, for messages.
    """

    given: AnySource
    what: str

    def __repr__(self) -> str:
        """A path as it stands, but nothing of what was given in memory, which may be a key."""
        if not isinstance(self.given, str | os.PathLike) or _encoding(os.fspath(self.given)):
            return "<given in memory>"
        return repr(os.fspath(self.given))

    def read(self) -> Pem:
        """Read it now.

        Raises:
            CredentialsError: The file can't be read, or its path is no path but the text itself.
            TypeError: It is neither path nor bytes.
        """
        if isinstance(self.given, bytes):
            return Pem(self.what, self.given)
        if isinstance(self.given, TrustmeCertificate):
            return Pem(self.what, self.given.private_key_and_cert_chain_pem.bytes())
        if isinstance(self.given, TrustmeAuthority):
            return Pem(self.what, self.given.cert_pem.bytes())
        if not _is_path(self.given):
            raise TypeError(
                f"the {self.what} must be a path, or PEM as bytes, not {type(self.given).__name__}"
            )
        if encoding := _encoding(os.fspath(self.given)):
            raise CredentialsError(
                f"the {self.what} can't be read: a str is the path of a file, and this one is "
                f"{encoding}; give the text as bytes (.encode())"
            )
        try:
            return Pem(self.what, Path(self.given).read_bytes(), os.fspath(self.given))
        except (OSError, ValueError) as exc:  # ValueError: a null character in the path
            raise CredentialsError(f"can't read the {self.what}: {exc}") from exc


def _is_path(given: object) -> bool:
    return isinstance(given, str | os.PathLike)


def _encoding(path: str) -> str | None:
    """Say how a "path" holds a certificate or key itself; such a one must not be shown.

    Asked before it is opened: the exception for a file that is not there tells its name.
    """
    if "-----" in path or "\n" in path:
        return "PEM text"
    try:
        der = base64.b64decode(path, validate=True)
    except (binascii.Error, ValueError):
        return None
    # A key or certificate is a SEQUENCE (0x30) of more bytes than a path's name would spell.
    return "base64 text" if len(der) > 40 and der[0] == 0x30 else None


@contextlib.contextmanager
def as_file(pem: Pem) -> Generator[str]:
    """Give PEM as a path for a moment: ``ssl`` loads a chain from files only.

    A private key should not touch a disk for that: on Linux it does not.

    Raises:
        CredentialsError: There is no descriptor left, or no ``/proc``.
    """
    with contextlib.ExitStack() as stack:
        try:
            in_memory = hasattr(os, "memfd_create")
            path = stack.enter_context(_in_memory(pem) if in_memory else _in_folder(pem))
        except OSError as exc:
            raise CredentialsError(f"can't give the {pem.what} to OpenSSL: {exc}") from exc
        yield path


@contextlib.contextmanager
def _in_memory(pem: Pem) -> Generator[str]:
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(pem.data)
        path = f"/proc/self/fd/{descriptor}"
        if not Path(path).exists():
            raise CredentialsError(
                f"can't give the {pem.what} to OpenSSL, which loads it from a file only: there is "
                "no /proc to name a file in memory; mount /proc"
            )
        yield path
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _in_folder(pem: Pem) -> Generator[str]:
    # A directory of mode 0700: nobody else sees the key.
    with tempfile.TemporaryDirectory(prefix="trio_duplex-") as folder:
        path = Path(folder, "pem")
        path.write_bytes(pem.data)
        yield str(path)
