"""Reading certificates and keys from files, bytes, or trustme's objects.

What is read may be a private key. So it is kept in objects whose ``repr`` says
what they are, but not what they hold, and no function that can raise has it in a
local variable. Tracebacks that show local variables (pytest's, or an error
tracker's) are read by people who must not see the key.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import shlex
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Protocol, runtime_checkable

import attrs

# The type decides whether a source is a path or PEM: str and PathLike are paths, bytes are PEM.
PemSource = str | os.PathLike[str] | bytes


class CredentialsError(ValueError):
    """Credentials can't be made, or would not be safe to use.

    Attributes:
        defects: What is wrong, a clause for each defect.
    """

    def __init__(self, *defects: str) -> None:
        super().__init__("; ".join(defects))
        self.defects = defects


class Blob(Protocol):
    """The part of a ``trustme.Blob`` that we use, declared here to avoid importing trustme."""

    def bytes(self) -> bytes:
        """Return the PEM."""
        ...


@runtime_checkable
class TrustmeCertificate(Protocol):
    """The part of a ``trustme.LeafCert`` that we use."""

    @property
    def private_key_and_cert_chain_pem(self) -> Blob:
        """Key, leaf and intermediates."""
        ...


@runtime_checkable
class TrustmeAuthority(Protocol):
    """The part of a ``trustme.CA`` that we use."""

    @property
    def cert_pem(self) -> Blob:
        """The authority's certificate."""
        ...


AnySource = PemSource | TrustmeCertificate | TrustmeAuthority


@attrs.frozen(repr=False, eq=False)
class Pem:
    """The content of a source; it may hold a key.

    Attributes:
        what: What it is, for messages, such as ``"trust roots"``.
        data: The text itself.
        path: The file that it was read from; None if it was given in memory.
    """

    what: str
    data: bytes
    path: str | None = None

    @property
    def where(self) -> str:
        """What it is and, if it is a file, which: for messages."""
        return self.what if self.path is None else f"{self.what}, {shlex.quote(self.path)}"

    def __repr__(self) -> str:
        return f"<{self.what}: {len(self.data)} bytes>"


@attrs.frozen(repr=False, eq=False)
class Source:
    """A place that PEM can be read from, as often as needed.

    Attributes:
        given: A path, bytes, or an object of trustme's.
        what: What it holds, for messages.
    """

    given: AnySource
    what: str

    def __repr__(self) -> str:
        """Show a path, but nothing of what was given in memory, because that may be a key."""
        if not isinstance(self.given, str | os.PathLike) or _encoding(os.fspath(self.given)):
            return "<given in memory>"
        return repr(os.fspath(self.given))

    def read(self) -> Pem:
        """Read the source.

        Raises:
            CredentialsError: The file can't be read, or the "path" is really the text itself.
            TypeError: The source is neither a path nor bytes.
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
    """Return the encoding if a "path" is really a certificate or key; None if it looks like a path.

    This must be checked before the file is opened: if a file does not exist, the
    exception shows its name, and here that could be a key.
    """
    if "-----" in path or "\n" in path:
        return "PEM text"
    try:
        der = base64.b64decode(path, validate=True)
    except (binascii.Error, ValueError):
        return None
    # A key or certificate is a SEQUENCE (0x30), and longer than a path that happens to be base64.
    return "base64 text" if len(der) > 40 and der[0] == 0x30 else None


@contextlib.contextmanager
def as_file(pem: Pem) -> Generator[str]:
    """Provide PEM as a file during the block, because ``ssl`` can load a chain only from files.

    On Linux the file is in memory, so that a private key is never written to a disk.

    Raises:
        CredentialsError: There is no file descriptor left, or no ``/proc``.
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
                f"can't give the {pem.what} to OpenSSL, which loads it only from a file: without "
                "/proc, a file in memory has no name; mount /proc"
            )
        yield path
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _in_folder(pem: Pem) -> Generator[str]:
    # The directory has mode 0700, so that other users can't see the key.
    with tempfile.TemporaryDirectory(prefix="trio_duplex-") as folder:
        path = Path(folder, "pem")
        path.write_bytes(pem.data)
        yield str(path)
