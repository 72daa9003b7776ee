"""Writing several new files, all or none, with private keys readable only by their owner."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

PRIVATE, PUBLIC = 0o600, 0o644
KEY_SUFFIX = ".key"


def write_new(files: Mapping[Path, bytes]) -> None:
    """Write files that must not exist yet. Only the owner can read a file that ends in ``.key``.

    Raises:
        FileExistsError: A file, or a link of its name, exists. Nothing was written.
        OSError: A file can't be written. Those that were written are removed again.
    """
    for path in files:
        if os.path.lexists(path):
            raise FileExistsError(f"{path} exists")
    written: list[Path] = []
    try:
        for path, content in files.items():
            mode = PRIVATE if path.suffix == KEY_SUFFIX else PUBLIC
            # Create it with the right mode: between open() and a later chmod(), others could open it.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            written.append(path)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
