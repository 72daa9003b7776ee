"""Grouping items by remote address, and finding the address that has the most of them.

Fairness between peers is by address, because an attacker can easily open many
connections, but has few addresses.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from trio_duplex._decision.hosts import host_key
from trio_duplex._sockets.address import Address

T = TypeVar("T")


def address_key(remote: Address | None) -> str | None:
    """Return the key under which an address counts: an IPv4 address, or an IPv6 /64 (RFC 6177).

    An IPv4 address within an IPv6 address, mapped (RFC 4291 section 2.5.5.2) or
    by NAT64, counts as the IPv4 address.
    """
    if not isinstance(remote, tuple):
        return None
    host = remote[0]
    return host_key(host) if ":" in host else host


class Ranking:
    """Keys that are ordered by a number each; equal ones by the time at which they got the number."""

    __slots__ = ("_keys", "_numbers")

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._keys: dict[int, dict[Hashable, None]] = {}

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._numbers)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._numbers

    def set(self, key: Hashable, number: int) -> None:
        """Set the number of a key. If the number does not change, the key keeps its position."""
        if self._numbers.get(key) != number:
            self.discard(key)
            self._numbers[key] = number
            self._keys.setdefault(number, {})[key] = None

    def discard(self, key: Hashable) -> None:
        """Remove a key, if it is there."""
        number = self._numbers.pop(key, None)
        if number is not None:
            keys = self._keys[number]
            del keys[key]
            if not keys:
                del self._keys[number]

    # min() and max() are cheap, because there are few distinct numbers, however many keys.

    def lowest(self) -> Hashable:
        """Return the key with the lowest number; the ranking must not be empty."""
        return next(iter(self._keys[min(self._keys)]))

    def highest(self) -> tuple[Hashable, int]:
        """Return the key with the highest number, and the number; the ranking must not be empty."""
        number = max(self._keys)
        return next(iter(self._keys[number])), number


class ByAddress(Generic[T]):
    """The items of each address, in the order in which they were added.

    There may be as many addresses as pending peers, and most have only one item.
    Such an address costs no more than its entry in a dict.
    """

    __slots__ = ("_one", "_ranking", "_several")

    def __init__(self) -> None:
        self._one: dict[Hashable, T] = {}
        self._several: dict[Hashable, dict[T, None]] = {}
        self._ranking = Ranking()  # the addresses with several items, by how many they have

    def __len__(self) -> int:
        """Return the number of addresses with items."""
        return len(self._one) + len(self._several)

    def count(self, key: Hashable) -> int:
        """Return how many items an address has."""
        several = self._several.get(key)
        return len(several) if several is not None else key in self._one

    def most(self) -> Hashable | None:
        """Return the address with the most items; None if no address has more than one."""
        return self._ranking.highest()[0] if len(self._ranking) else None

    def add(self, key: Hashable, item: T) -> None:
        """Add an item to an address, as its newest."""
        several = self._several.get(key)
        if several is None:
            if key not in self._one:
                self._one[key] = item
                return
            several = self._several[key] = {self._one.pop(key): None}
        several[item] = None
        self._ranking.set(key, len(several))

    def discard(self, key: Hashable, item: T) -> bool:
        """Remove an item from an address; return whether it was there."""
        several = self._several.get(key)
        if several is None:
            if self._one.get(key) != item:
                return False
            del self._one[key]
            return True
        if item not in several:
            return False
        del several[item]
        if len(several) > 1:
            self._ranking.set(key, len(several))
        else:
            del self._several[key]
            self._ranking.discard(key)
            (self._one[key],) = several
        return True

    def oldest(self, key: Hashable) -> T:
        """Return the oldest item of an address."""
        several = self._several.get(key)
        return self._one[key] if several is None else next(iter(several))

    def youngest(self, key: Hashable) -> T:
        """Return the newest item of an address."""
        several = self._several.get(key)
        return self._one[key] if several is None else next(reversed(several))
