"""Which peer an address counts as, and which number it is: `trio_duplex._decision.hosts`."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_duplex._decision.hosts import host_key, host_number

pytestmark = pytest.mark.slow


V6 = st.builds(
    lambda groups: ipaddress.IPv6Address(b"".join(group.to_bytes(2, "big") for group in groups)),
    st.lists(
        st.sampled_from([0, 0, 1, 0x64, 0xFF9B, 0xFFFF, 0x2001, 0xDB8, 0xABC]),
        min_size=8,
        max_size=8,
    ),
)


@given(st.ip_addresses(v=4))
def test_ipv4_is_itself(address: ipaddress.IPv4Address) -> None:
    assert host_key(str(address)) == str(address)
    assert host_number(str(address)) == (4, int(address))


@given(V6 | st.ip_addresses(v=6), st.booleans())
def test_ipv6_by_the_standard_library(address: ipaddress.IPv6Address, exploded: bool) -> None:
    """However it is written, and whichever way is quicker."""
    text = address.exploded if exploded else str(address)
    mapped = address.ipv4_mapped
    if mapped is None and address in ipaddress.IPv6Network("64:ff9b::/96"):
        key = str(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    else:
        key = str(mapped or ipaddress.IPv6Network((address, 64), strict=False))
    assert host_key(text) == key
    assert host_number(text) == ((4, int(mapped)) if mapped else (6, int(address)))


@pytest.mark.parametrize(
    "host",
    [
        "",
        "peer.example",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.256",
        "01.2.3.4",
        "1.2.3.4 ",
        "1.2.3.4\n",
        "\u0661.2.3.4",
        "1:2:3:4",
        "1:2:3:4:5:6:7:8:9",
        "1:2:3:4:::5",
        "1:2:3:4:5::6::7",
        "1:2:3:4::5\n",
        "12345:2:3:4::5",
    ],
)
def test_what_is_no_address(host: str) -> None:
    assert host_key(host) is None
    assert host_number(host) is None
