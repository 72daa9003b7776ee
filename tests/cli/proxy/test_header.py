"""The PROXY protocol's header, against a reader written from the specification, and against HAProxy."""

from __future__ import annotations

import ipaddress
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.effort import effort
from tests.support.tools import require_tool
from trio_duplex import Address, Reason, Role
from trio_duplex.cli._proxy.header import (
    LONGEST_TEXT,
    ROLE_TYPE,
    SIGNATURE,
    TLSFacts,
    crc32c,
    encode_v1,
    encode_v2,
)

pytestmark = pytest.mark.slow


V4: Address = ("192.0.2.7", 4711)
V6: Address = ("2001:db8::7", 4711, 0, 0)
FACTS = TLSFacts(
    role=Role.SERVER,
    reason=Reason.SPOKE,
    version="TLSv1.3",
    cipher="TLS_AES_256_GCM_SHA384",
    verified=True,
    common_name="node 7",
    alpn="h2",
    authority="node.example",
)


# ------------------------------------------------------------------------------------- a strict reader


@attrs.frozen
class Read:
    family: int
    ends: tuple[tuple[str, int], tuple[str, int]] | tuple[bytes, bytes] | None
    tlvs: dict[int, bytes]


def tlvs(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while data:
        kind, size = struct.unpack_from("!BH", data)
        assert len(data) >= 3 + size, "a TLV is cut"
        assert kind not in found
        found[kind], data = data[3 : 3 + size], data[3 + size :]
    return found


def slow_crc32c(data: bytes) -> int:
    """By polynomial division, as the definition has it; no table, other bit order than ours."""
    remainder = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            top = (remainder >> 31) ^ ((byte >> bit) & 1)
            remainder = (remainder << 1 & 0xFFFFFFFF) ^ (0x1EDC6F41 if top else 0)
    return int(f"{remainder ^ 0xFFFFFFFF:032b}"[::-1], 2)


def read_v2(header: bytes) -> Read:
    assert header.startswith(SIGNATURE)
    version_command, family, size = struct.unpack_from("!BBH", header, 12)
    assert version_command == 0x21
    body = header[16:]
    assert len(body) == size
    length = {0x00: 0, 0x11: 12, 0x21: 36, 0x31: 216}[family]
    block, rest = body[:length], tlvs(body[length:])
    checksum = struct.unpack("!I", rest[0x03])[0]
    at = header.rindex(rest[0x03])
    assert checksum == slow_crc32c(header[:at] + bytes(4) + header[at + 4 :])
    ends: tuple[tuple[str, int], tuple[str, int]] | tuple[bytes, bytes] | None = None
    if family in (0x11, 0x21):
        half = (length - 4) // 2
        from_port, to_port = struct.unpack("!HH", block[-4:])
        ends = (
            (str(ipaddress.ip_address(block[:half])), from_port),
            (str(ipaddress.ip_address(block[half : 2 * half])), to_port),
        )
    elif family == 0x31:
        ends = block[:108], block[108:]
    return Read(family, ends, rest)


def read_v1(header: bytes) -> tuple[tuple[str, int], tuple[str, int]] | None:
    assert len(header) <= 107  # with the line's end: section 2.1
    assert header.endswith(b"\r\n")
    fields = header[:-2].decode("ascii").split(" ")
    assert fields[0] == "PROXY"
    if fields[1:] == ["UNKNOWN"]:
        return None
    protocol, source, destination, from_port, to_port = fields[1:]
    for ip in (source, destination):
        assert f"TCP{ipaddress.ip_address(ip).version}" == protocol
    for port in (from_port, to_port):
        assert port == str(int(port))  # no leading zero
    return (source, int(from_port)), (destination, int(to_port))


# --------------------------------------------------------------------------------------- strategies

ports = st.integers(0, 65535)
v4 = st.tuples(st.ip_addresses(v=4).map(str), ports)
v6 = st.tuples(st.ip_addresses(v=6).map(str), ports, st.integers(0, 9), st.integers(0, 9))
paths = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
addresses = st.one_of(st.none(), v4, v6, paths)
texts = st.none() | st.text(max_size=300)
facts = st.builds(
    TLSFacts,
    role=st.sampled_from(Role),
    reason=st.sampled_from(Reason),
    version=st.sampled_from(["TLSv1.2", "TLSv1.3"]),
    cipher=st.just("ECDHE-ECDSA-AES256-GCM-SHA384"),
    verified=st.booleans(),
    resumed=st.booleans(),
    common_name=texts,
    alpn=st.none() | st.just("h2"),
    authority=texts,
)


def plain(ip: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    made = ipaddress.ip_address(ip)
    return getattr(made, "ipv4_mapped", None) or made


@effort
@given(addresses, addresses)
def test_v1_tells_both_ends_or_unknown(source: Address | None, destination: Address | None) -> None:
    read = read_v1(encode_v1(source, destination))
    if isinstance(source, tuple) and isinstance(destination, tuple):
        assert read is not None
        for told, true in zip(read, (source, destination), strict=True):
            assert (plain(told[0]), told[1]) == (plain(true[0]), true[1])
    else:
        assert read is None


@effort
@given(addresses, addresses, st.none() | facts)
def test_v2_tells_both_ends_and_what_is_known_of_tls(
    source: Address | None, destination: Address | None, tls: TLSFacts | None
) -> None:
    header = encode_v2(source, destination, tls)
    read = read_v2(header)
    if isinstance(source, tuple) and isinstance(destination, tuple):
        assert read.family in (0x11, 0x21)
        assert read.ends is not None
        for told, true in zip(read.ends, (source, destination), strict=True):
            assert isinstance(told, tuple)
            assert (plain(told[0]), told[1]) == (plain(true[0]), true[1])
    elif read.family == 0x31:
        assert isinstance(source, str) or isinstance(destination, str)
    else:
        assert read.ends is None
    if tls is None:
        assert read.tlvs.keys() == {0x03}
        return
    assert read.tlvs[ROLE_TYPE] == f"role={tls.role} reason={tls.reason}".encode()
    bits, verify = struct.unpack_from("!BI", read.tlvs[0x20])
    assert bits & 1
    assert (verify == 0) is bool(bits & 4) is tls.verified
    assert bool(bits & 2) is (tls.verified and not tls.resumed)
    sub = tlvs(read.tlvs[0x20][5:])
    assert (sub[0x21].decode(), sub[0x23].decode()) == (tls.version, tls.cipher)
    if 0x22 in sub:
        assert tls.verified
        assert sub[0x22] == (tls.common_name or "").encode("utf-8", "backslashreplace")


def test_every_field_has_its_place() -> None:
    read = read_v2(encode_v2(V4, ("198.51.100.1", 8443), FACTS))
    assert read.family == 0x11
    assert read.ends == (("192.0.2.7", 4711), ("198.51.100.1", 8443))
    assert read.tlvs[0x01] == b"h2"
    assert read.tlvs[0x02] == b"node.example"
    assert read.tlvs[ROLE_TYPE] == b"role=server reason=spoke"
    assert tlvs(read.tlvs[0x20][5:]) == {
        0x21: b"TLSv1.3",
        0x22: b"node 7",
        0x23: b"TLS_AES_256_GCM_SHA384",
    }


def test_anonymous_peer_is_not_verified_and_has_no_name() -> None:
    read = read_v2(encode_v2(V4, V4, attrs.evolve(FACTS, verified=False)))
    assert read.tlvs[0x20][:5] == b"\x01\x00\x00\x00\x01"
    assert 0x22 not in tlvs(read.tlvs[0x20][5:])


def test_name_that_is_too_long_is_left_out_and_never_cut() -> None:
    fits, too_long = "x" * LONGEST_TEXT, "x" * (LONGEST_TEXT + 1)
    read = read_v2(encode_v2(V4, V4, attrs.evolve(FACTS, common_name=too_long, authority=fits)))
    assert read.tlvs[0x02] == fits.encode()
    assert 0x22 not in tlvs(read.tlvs[0x20][5:])


@pytest.mark.parametrize("encode", [encode_v1, encode_v2])
def test_ipv4_in_the_clothes_of_ipv6_is_told_as_ipv4(encode: object) -> None:
    mapped: Address = ("::ffff:192.0.2.7", 4711, 0, 0)
    assert encode(mapped, mapped) == encode(V4, V4)  # type: ignore[operator]


@pytest.mark.parametrize("encode", [encode_v1, encode_v2])
def test_scope_of_a_link_local_address_is_not_told(encode: object) -> None:
    scoped: Address = ("fe80::1%eth0", 4711, 0, 2)
    assert encode(scoped, scoped) == encode(("fe80::1", 4711), ("fe80::1", 4711))  # type: ignore[operator]


def test_unix_peers_are_told_by_their_paths() -> None:
    read = read_v2(encode_v2(None, "/run/duplex.sock"))
    assert read.ends == (bytes(108), b"/run/duplex.sock".ljust(108, b"\0"))
    read = read_v2(encode_v2(None, "@duplex"))
    assert read.ends == (bytes(108), b"\0duplex".ljust(108, b"\0"))
    assert read_v2(encode_v2(None, "/" + "x" * 108)).family == 0
    assert read_v2(encode_v2(V4, "/run/duplex.sock")).family == 0


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"123456789", 0xE3069283),  # the catalogue's check value
        (bytes(32), 0x8A9136AA),  # RFC 3720, appendix B.4, as all below
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
        (b"", 0),
    ],
)
def test_crc32c_known_values(data: bytes, checksum: int) -> None:
    assert crc32c(data) == slow_crc32c(data) == checksum


# ------------------------------------------------------------------------------------------- HAProxy


@pytest.fixture
def haproxy(tmp_path: Path, free_port: int) -> Iterator[int]:
    """A HAProxy that answers with what the header told it; the port."""
    program = require_tool("haproxy")
    port = free_port
    (tmp_path / "haproxy.cfg").write_text(
        "defaults\n  mode http\n  timeout client 60s\n  timeout server 60s\n  timeout connect 60s\n"
        f"frontend told\n  bind 127.0.0.1:{port} accept-proxy\n"
        "  http-request return status 200 content-type text/plain lf-string"
        ' "<%[src]|%[src_port]|%[dst]|%[fc_pp_authority]>"\n'
    )
    with subprocess.Popen([program, "-q", "-db", "-f", tmp_path / "haproxy.cfg"]) as process:
        try:
            for _ in range(2000):
                try:
                    socket.create_connection(("127.0.0.1", port), 60).close()
                    break
                except OSError:
                    assert process.poll() is None
                    process_wait(process)
            yield port
        finally:
            process.terminate()


def process_wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(0.05)
    except subprocess.TimeoutExpired:
        pass


def ask(port: int, header: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 60) as sock:
        sock.sendall(header + b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        try:
            while chunk := sock.recv(4096):
                answer += chunk
        except ConnectionResetError:
            pass
    return answer


@pytest.mark.interop
def test_haproxy_understands_both_versions_and_checks_the_sum(haproxy: int) -> None:
    to: Address = ("198.51.100.1", 8443)
    assert b"<192.0.2.7|4711|198.51.100.1|>" in ask(haproxy, encode_v1(V4, to))
    header = encode_v2(V4, to, FACTS)
    assert b"<192.0.2.7|4711|198.51.100.1|node.example>" in ask(haproxy, header)
    assert b"<2001:db8::7|4711|2001:db8::7|>" in ask(haproxy, encode_v2(V6, V6))
    # Not where there is no address of IP: HAProxy 2.6 then takes the signature for the first TLV.
    spoilt = bytes([*header[:-1], header[-1] ^ 1])
    assert b"200" not in ask(haproxy, spoilt)
