"""Writing a private file atomically, and reading it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from os import PathLike
from pathlib import Path


def write_privately(path: str | PathLike[str], text: str) -> None:
    """Write text to a file of mode 0600, by writing another file and renaming that.

    Raises:
        OSError: The file can't be written. An existing file is unchanged.
    """
    target = Path(path)
    # mkstemp makes files of mode 0600. The folder is the same because rename(2) does not work
    # across file systems.
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave an empty file under the name
        Path(name).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def read_text(path: str | PathLike[str]) -> str | None:
    """Return the text of a file, or None if it does not exist.

    Raises:
        OSError: The file can't be read.
        ValueError: The text is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
