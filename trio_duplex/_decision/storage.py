"""A file that only its owner reads, and that is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from os import PathLike
from pathlib import Path


def write_privately(path: str | PathLike[str], text: str) -> None:
    """Write text to a file of mode 0600 by renaming a finished one into its place.

    Raises:
        OSError: It can't be written; what was there is still there.
    """
    target = Path(path)
    # mkstemp makes it 0600, in the same folder, because rename(2) does not cross file systems.
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
    """Read a file of text; None if there is none.

    Raises:
        OSError: It can't be read.
        ValueError: It is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
