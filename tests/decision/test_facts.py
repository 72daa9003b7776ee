"""What counts as one peer: `trio_duplex._decision.facts`."""

from __future__ import annotations

import pytest

from trio_duplex.windows import PeerFacts


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("64:ff9b::c000:207", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("not an address", None),
    ],
)
def test_key_of_an_address(host: str, key: str | None) -> None:
    assert PeerFacts(remote_address=(host, 1)).key == key


@pytest.mark.parametrize("address", [None, "/run/sock", "@abstract"])
def test_peer_without_ip_address_has_no_key(address: str | None) -> None:
    assert PeerFacts(remote_address=address).key is None
