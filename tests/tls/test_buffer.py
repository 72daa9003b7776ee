"""Buffers that take memory only where they were used: `trio_duplex._tls.buffer`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trio_duplex._tls.buffer import make_buffer

MB = 1024 * 1024


def resident() -> int:
    """Bytes of this process that are in memory and belong to no file."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def test_can_be_written() -> None:
    buffer = make_buffer(100_000)
    assert len(buffer) == 100_000
    buffer[50_000:50_003] = b"abc"
    assert bytes(buffer[49_999:50_004]) == b"\0abc\0"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_takes_memory_where_it_was_written_to() -> None:
    before = resident()
    buffer = make_buffer(64 * MB)
    assert resident() - before < 16 * MB
    buffer[: 32 * MB] = bytes(32 * MB)
    assert 16 * MB < resident() - before < 48 * MB


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that were forked")
def test_is_not_shared_with_forked_processes() -> None:
    """Workers that were forked would otherwise read each other's data."""
    program = """
import os
from trio_duplex._tls.buffer import make_buffer

buffer = make_buffer(1)
if not (child := os.fork()):
    buffer[0] = 1
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert buffer[0] == 0
"""
    subprocess.run([sys.executable, "-c", program], check=True)
