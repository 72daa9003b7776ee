"""The keylog: a file for the secrets of every connection, private before the first is written.

Everybody who can read the file can decrypt the traffic. So we create the file, and
do not leave that to OpenSSL: its mode would depend on the umask, an existing file
would keep its mode, and a symbolic link that somebody else has put there would be
followed.
"""

from __future__ import annotations

import errno
import logging
import os
import ssl
import stat
from collections.abc import Iterable
from os import PathLike, fspath

from trio_duplex._trust.pem import CredentialsError

LOGGER = logging.getLogger("trio_duplex")


def write_keylog(contexts: Iterable[ssl.SSLContext], path: str | PathLike[str]) -> None:
    """Have contexts append their secrets to a file that only our own user can read.

    Raises:
        CredentialsError: The file can't be written, is not a plain file, or belongs
            to another user.
    """
    try:
        # O_NONBLOCK: opening a pipe must not wait for a reader.
        flags = os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            _make_private(descriptor, path)
            for context in contexts:
                context.keylog_filename = fspath(path)
            # OpenSSL opens the file by its name, which somebody could have given to another file
            # in the meantime.
            if not os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                raise CredentialsError(
                    f"the keylog {fspath(path)!r} was replaced while it was opened"
                )
        finally:
            os.close(descriptor)
    except CredentialsError:
        raise
    except (OSError, ValueError) as exc:  # ValueError: a null character in the path
        link = ""
        if getattr(exc, "errno", None) == errno.ELOOP:
            link = " (it is a symbolic link; name the file itself)"
        raise CredentialsError(f"can't write the keylog: {exc}{link}") from exc
    warn_of_keylog(path)


def _make_private(descriptor: int, path: str | PathLike[str]) -> None:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise CredentialsError(f"the keylog {fspath(path)!r} is not a plain file")
    if found.st_uid != os.geteuid():
        raise CredentialsError(
            f"the keylog {fspath(path)!r} belongs to another user, who could read it; remove it"
        )
    os.fchmod(descriptor, 0o600)


def warn_of_keylog(path: str | PathLike[str]) -> None:
    """Log a warning that secrets are written to a file."""
    LOGGER.warning("the secrets of every TLS connection are written to %s: debugging only", path)
