"""Shares of the cases of tests: Pythons that differ little divide them."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence

import pytest

FEW = 3
"""A test with no more cases than this is run whole by everybody."""


def left_out(items: Sequence[pytest.Item], share: str) -> list[pytest.Item]:
    """The items that are not in this share.

    Args:
        items: All that were collected, or all of some files: an item's share does not depend on the others.
        share: ``"K/N"`` for the Kth of N shares, from 1. Each item is in one of them at least, and tests with
            no more than `FEW` cases are in all of them. ``"K/N:all"`` shares out these, too.

    Raises:
        pytest.UsageError: There is no such share.
    """
    numbers, colon, all_ = share.partition(":")
    number, _, shares = numbers.partition("/")
    few = {"": FEW, ":all": 0}.get(colon + all_)
    if few is None or not (
        number.isdecimal() and shares.isdecimal() and 1 <= int(number) <= int(shares)
    ):
        raise pytest.UsageError(f"--share is K/N or K/N:all, the Kth of N shares, not {share!r}")
    cases = Counter(_function(item) for item in items)
    return [
        item
        for item in items
        if cases[_function(item)] > few and _key(item) % int(shares) != int(number) - 1
    ]


def _function(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


def _key(item: pytest.Item) -> int:
    """A checksum: every second case, for example, would often mean those of one role or one version of TLS."""
    return zlib.crc32(item.nodeid.encode())
