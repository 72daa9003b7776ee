"""Write several new files, all or none; nothing is ever overwritten, and keys are private."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

PRIVATE, PUBLIC = 0o600, 0o644
KEY_SUFFIX = ".key"


def write_new(files: Mapping[Path, bytes]) -> None:
    """Write files that must not exist yet; one that ends in ``.key`` is its owner's only.

    Raises:
        FileExistsError: One is there already, or a link of its name is. Nothing
            was written.
        OSError: One can't be written; those that were are removed again.
    """
    for path in files:
        if os.path.lexists(path):
            raise FileExistsError(f"{path} exists")
    written: list[Path] = []
    try:
        for path, content in files.items():
            mode = PRIVATE if path.suffix == KEY_SUFFIX else PUBLIC
            # Private from the first: chmod comes too late for a reader who waits for it.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            written.append(path)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
