"""What counts as one address, and who holds how much by address.

Fairness goes by address: an attacker has many connections, and few addresses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable
from typing import Generic, TypeVar

from trio_duplex._sockets.address import Address

T = TypeVar("T")

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""The well-known prefix (RFC 6052 section 2.1): the IPv4 address is in the last 32 bits.
All of IPv4 is in one /64 there, so by the /64 it would be one address."""


def address_key(remote: Address | None) -> str | None:
    """Return what counts as one address: an IPv4 address, or an IPv6 /64 (RFC 6177).

    An IPv4 address that is written as an IPv6 one, mapped (RFC 4291 section
    2.5.5.2) or behind NAT64, counts as the IPv4 address.
    """
    if not isinstance(remote, tuple):
        return None
    host = remote[0]
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address in NAT64:
        return str(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return str(ipaddress.IPv6Network((address, 64), strict=False))


class Ranking:
    """Keys in order of a number each; among equals, in the order in which they got it."""

    __slots__ = ("_keys", "_numbers")

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._keys: dict[int, dict[Hashable, None]] = {}

    def __len__(self) -> int:
        """Tell how many keys there are."""
        return len(self._numbers)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._numbers

    def set(self, key: Hashable, number: int) -> None:
        """Give a key its number; one that has it already keeps its position among equals."""
        if self._numbers.get(key) != number:
            self.discard(key)
            self._numbers[key] = number
            self._keys.setdefault(number, {})[key] = None

    def discard(self, key: Hashable) -> None:
        """Take a key out, if it is in."""
        number = self._numbers.pop(key, None)
        if number is not None:
            keys = self._keys[number]
            del keys[key]
            if not keys:
                del self._keys[number]

    # There are few distinct numbers, however many keys: looking through them is cheap.

    def lowest(self) -> Hashable:
        """Return the key with the lowest number; the ranking must not be empty."""
        return next(iter(self._keys[min(self._keys)]))

    def highest(self) -> tuple[Hashable, int]:
        """Return the key with the highest number, and that; the ranking must not be empty."""
        number = max(self._keys)
        return next(iter(self._keys[number])), number


class ByAddress(Generic[T]):
    """Items of each address, in the order in which they came.

    An address that has only one, as most have, costs no more than its entry in
    a dict: there may be one for each pending peer.
    """

    __slots__ = ("_one", "_ranking", "_several")

    def __init__(self) -> None:
        self._one: dict[Hashable, T] = {}
        self._several: dict[Hashable, dict[T, None]] = {}
        self._ranking = Ranking()  # of those that have several

    def __len__(self) -> int:
        """Tell how many addresses have any."""
        return len(self._one) + len(self._several)

    def count(self, key: Hashable) -> int:
        """Tell how many an address has."""
        several = self._several.get(key)
        return len(several) if several is not None else key in self._one

    def most(self) -> Hashable | None:
        """Return the address that has most; None if no address has more than one."""
        return self._ranking.highest()[0] if len(self._ranking) else None

    def add(self, key: Hashable, item: T) -> None:
        """Add an item to an address, as its youngest."""
        several = self._several.get(key)
        if several is None:
            if key not in self._one:
                self._one[key] = item
                return
            several = self._several[key] = {self._one.pop(key): None}
        several[item] = None
        self._ranking.set(key, len(several))

    def discard(self, key: Hashable, item: T) -> bool:
        """Take an item from an address; tell whether it was there."""
        several = self._several.get(key)
        if several is None:
            if self._one.get(key) is not item:
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
        """Return the item that came first, of those that an address has."""
        several = self._several.get(key)
        return self._one[key] if several is None else next(iter(several))

    def youngest(self, key: Hashable) -> T:
        """Return the item that came last, of those that an address has."""
        several = self._several.get(key)
        return self._one[key] if several is None else next(reversed(several))
