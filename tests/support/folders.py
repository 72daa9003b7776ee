"""Folders for Unix sockets."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short name: a Unix socket's address has 108 bytes on Linux, and `tmp_path` can be longer."""
    with tempfile.TemporaryDirectory(dir="/tmp" if os.name == "posix" else None) as folder:
        yield Path(folder)
