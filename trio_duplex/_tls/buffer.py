"""Buffers that take memory only where they have been written to."""

from __future__ import annotations

import mmap


def make_buffer(size: int) -> memoryview:
    """Make a buffer of ``size`` bytes.

    A bytearray writes zeros to all of its bytes, so all of them would be resident from the
    beginning. Most connections carry small pieces of data, for which a page or two is enough.
    """
    # ACCESS_COPY makes the memory private. By default, it would be shared with forked processes.
    return memoryview(mmap.mmap(-1, size, access=mmap.ACCESS_COPY))
