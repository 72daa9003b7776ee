"""What first bytes mean: `trio_duplex._wire.opening`."""

import ssl
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.contexts import new_context
from tests.support.records import make_record
from trio_duplex import Role
from trio_duplex._wire.alerts import alert_name
from trio_duplex._wire.hello import client_hello_random
from trio_duplex._wire.opening import Opening, OpeningKind, TLSMessage, classify

INCOMPLETE = OpeningKind.INCOMPLETE
CLIENT_HELLO = OpeningKind.CLIENT_HELLO
OTHER_TLS = OpeningKind.OTHER_TLS
NOT_TLS = OpeningKind.NOT_TLS

ANNOUNCEMENT = bytes.fromhex("160303000400000000")


# ------------------------------------------------------------- real ClientHellos


def real_hello(
    *,
    maximum: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
    minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    alpn: int = 0,
) -> bytes:
    """Return what OpenSSL sends first, as a client."""
    context = new_context(Role.CLIENT)
    context.minimum_version = minimum
    context.maximum_version = maximum
    if alpn:
        context.set_alpn_protocols([f"{n:0>250}" for n in range(alpn)])
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="node.example")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


HELLOS = {
    "TLS 1.2": real_hello(maximum=ssl.TLSVersion.TLSv1_2),
    "TLS 1.3": real_hello(minimum=ssl.TLSVersion.TLSv1_3),
    "both": real_hello(),
    "4 KB of ALPN": real_hello(alpn=16),
}
hellos = pytest.mark.parametrize("hello", HELLOS.values(), ids=HELLOS.keys())


def record(payload: bytes, kind: int = 0x16, version: bytes = b"\x03\x01") -> bytes:
    return make_record(kind, payload, version)


def recut(hello: bytes, size: int) -> bytes:
    """Return the one-record *hello* in records of *size* bytes of payload."""
    payload = hello[5:]
    return b"".join(record(payload[start : start + size]) for start in range(0, len(payload), size))


def prefixes(data: bytes) -> Iterator[bytes]:
    return (data[:size] for size in range(len(data) + 1))


@hellos
def test_every_prefix_of_a_real_client_hello(hello: bytes) -> None:
    for prefix in prefixes(hello):
        opening = classify(prefix)
        if len(prefix) < 6:
            assert opening.kind is INCOMPLETE
            assert opening.message is None
        else:
            assert opening == Opening(CLIENT_HELLO, "a TLS ClientHello", TLSMessage.CLIENT_HELLO)


@hellos
@pytest.mark.parametrize("size", range(1, 41))
def test_a_client_hello_in_small_records(hello: bytes, size: int) -> None:
    cut = recut(hello, size)
    for prefix in prefixes(cut[:250]):
        assert classify(prefix).kind is (INCOMPLETE if len(prefix) < 6 else CLIENT_HELLO)


@pytest.mark.parametrize("convert", [bytes, bytearray, memoryview])
def test_takes_any_buffer(convert: type[bytes | bytearray | memoryview]) -> None:
    hello = HELLOS["both"]
    assert classify(convert(hello)).kind is CLIENT_HELLO
    assert classify(convert(b"SSH-2.0-x")).looks_like == "an SSH banner"
    assert client_hello_random(convert(hello)) == hello[11:43]


def test_openssl_takes_any_minor_version_and_so_do_we() -> None:
    """RFC 5246, appendix E.1; checked against the OpenSSL in use."""
    hello = HELLOS["both"]
    for minor in range(256):
        wild = hello[:2] + bytes([minor]) + hello[3:]
        assert classify(wild).kind is CLIENT_HELLO
        if minor in (0, 4, 5, 255):
            assert openssl_complaint(wild) == "NO_SHARED_CIPHER"


def openssl_complaint(data: bytes) -> str:
    """Return how an OpenSSL server without a certificate refuses *data*.

    NO_SHARED_CIPHER means that it took and understood the ClientHello.
    """
    incoming = ssl.MemoryBIO()
    incoming.write(data)
    context = new_context(Role.SERVER)
    context.verify_mode = ssl.CERT_NONE
    tls = context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    with pytest.raises(ssl.SSLError) as caught:
        tls.do_handshake()
    return caught.value.reason


# ---------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        ("", INCOMPLETE, None),
        ("16", INCOMPLETE, None),
        ("16 03", INCOMPLETE, None),
        ("16 0301", INCOMPLETE, None),
        ("16 0301 00", INCOMPLETE, None),
        ("16 0301 40", INCOMPLETE, None),
        ("16 0301 0001", INCOMPLETE, None),
        ("16 0301 4000", INCOMPLETE, None),
        ("16 0301 0001 01", CLIENT_HELLO, TLSMessage.CLIENT_HELLO),
        ("16 0300 4000 01", CLIENT_HELLO, TLSMessage.CLIENT_HELLO),
        ("16 0301 0000", NOT_TLS, None),
        ("16 0301 4001", NOT_TLS, None),
        ("16 0301 41", NOT_TLS, None),
        ("16 02", NOT_TLS, None),
        ("16 04", NOT_TLS, None),
        ("16 0303 0001 02", OTHER_TLS, TLSMessage.SERVER_HELLO),
        ("16 0303 0004 00", OTHER_TLS, TLSMessage.HELLO_REQUEST),
        ("16 0303 0010 03", OTHER_TLS, TLSMessage.OTHER),
        ("16 0303 0010 0b", OTHER_TLS, TLSMessage.OTHER),
        ("14", INCOMPLETE, None),
        ("15", INCOMPLETE, None),
        ("17", INCOMPLETE, None),
        ("18", INCOMPLETE, None),
        ("14 03", OTHER_TLS, TLSMessage.OTHER),
        ("15 03", OTHER_TLS, TLSMessage.ALERT),
        ("17 03", OTHER_TLS, TLSMessage.OTHER),
        ("18 03", OTHER_TLS, TLSMessage.OTHER),
        ("15 02", NOT_TLS, None),
        ("19 03", NOT_TLS, None),
        ("00", NOT_TLS, None),
        ("47", NOT_TLS, None),
        ("80", NOT_TLS, None),
    ],
)
def test_verdict(data: str, kind: OpeningKind, message: TLSMessage | None) -> None:
    opening = classify(bytes.fromhex(data))
    assert (opening.kind, opening.message) == (kind, message)


LOOKS_LIKE: list[tuple[OpeningKind, bytes, str]] = [
    (INCOMPLETE, b"", "nothing yet"),
    (INCOMPLETE, b"\x16\x03", "the start of a TLS handshake record"),
    (INCOMPLETE, b"\x15", "the first byte of a TLS alert"),
    (OTHER_TLS, b"\x15\x03\x03\x00\x02\x02", "a TLS alert"),
    (OTHER_TLS, b"\x15\x03\x03\x00\x02\x02\x30", "a TLS alert (fatal unknown_ca)"),
    (OTHER_TLS, b"\x15\x03\x01\x00\x02\x01\x00", "a TLS alert (warning close_notify)"),
    (
        OTHER_TLS,
        b"\x15\x03\x01\x00\x02\x09\xc8",
        "a TLS alert (level 9 unknown alert 200)",
    ),
    # An encrypted alert has no level that we could read.
    (OTHER_TLS, b"\x15\x03\x03\x00\x13" + bytes(19), "a TLS alert"),
    (OTHER_TLS, b"\x16\x03\x03\x00\x5a\x02\x00", "a TLS ServerHello"),
    (OTHER_TLS, ANNOUNCEMENT[:8], "a TLS HelloRequest"),
    (
        OTHER_TLS,
        ANNOUNCEMENT,
        "a HelloRequest (the announcement of a trio_duplex dialler)",
    ),
    (
        OTHER_TLS,
        ANNOUNCEMENT + b"\x16\x03",
        "a HelloRequest (the announcement of a trio_duplex dialler)",
    ),
    (OTHER_TLS, b"\x16\x03\x03\x00\x5a\x0b", "a TLS handshake message of type 11"),
    (OTHER_TLS, b"\x17\x03\x03\x00\x20", "a TLS application data record"),
    (OTHER_TLS, b"\x14\x03\x03\x00\x01\x01", "a TLS change_cipher_spec record"),
    (OTHER_TLS, b"\x18\x03\x03\x00\x03\x01", "a TLS heartbeat record"),
    (
        NOT_TLS,
        b"\x16\x03\x01\x00\x00",
        "a TLS handshake record of impossible length",
    ),
    (NOT_TLS, b"\x16\xfe\xff\x00\x00", "a DTLS record"),
    (NOT_TLS, b"\x16\xfe\xfd\x00\x00", "a DTLS record"),
    (NOT_TLS, b"\x15\xfe\xfd\x00\x00", "a DTLS record"),
    (NOT_TLS, b"\x80\x2e\x01\x03\x01\x00\x15", "an SSLv2 ClientHello"),
    (NOT_TLS, b"\x80\x2e\x01\x00\x02\x00\x15", "an SSLv2 ClientHello"),
    (NOT_TLS, b"\x81\x2e\x01\x03", "an SSLv2 ClientHello"),
    (NOT_TLS, b"\x80\x2e\x01", "unknown bytes 0x802e01"),
    (NOT_TLS, b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", "a PROXY protocol v1 header"),
    (NOT_TLS, b"\r\n\r\n\x00\r\nQUIT\n\x21\x11", "a PROXY protocol v2 header"),
    (NOT_TLS, b"\xff\xfd\x18\xff\xfd\x20", "a telnet negotiation"),
    (NOT_TLS, b"\xff\xfb\x01\x03", "a telnet negotiation"),
    (NOT_TLS, b"INVITE sip:bob@b.example SIP/2.0\r\n", "a SIP request"),
    (NOT_TLS, b"OPTIONS sip:b.example SIP/2.0\r\n", "a SIP request"),
    (NOT_TLS, b"REGISTER sips:b.example SIP/2.0\r\n", "a SIP request"),
    (NOT_TLS, b"SIP/2.0 200 OK\r\n", "a SIP response"),
    (NOT_TLS, b"OPTIONS rtsp://c.example/1 RTSP/1.0\r\n", "an RTSP request"),
    (NOT_TLS, b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n", "an RTSP request"),
    (NOT_TLS, b"DESCRIBE rtsp://c.example/1 RTSP/1.0\r\n", "an RTSP request"),
    (NOT_TLS, b"RTSP/1.0 200 OK\r\n", "an RTSP response"),
    *(
        (NOT_TLS, method + b" / HTTP/1.1\r\n", "an HTTP request")
        for method in b"GET POST HEAD PUT DELETE OPTIONS CONNECT TRACE PATCH".split()
    ),
    (NOT_TLS, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "an HTTP/2 preface"),
    (NOT_TLS, b"HTTP/1.1 400 Bad Request\r\n", "an HTTP response"),
    (NOT_TLS, b"SSH-2.0-OpenSSH_9.6\r\n", "an SSH banner"),
    (NOT_TLS, b"220 mail.example ESMTP\r\n", "an SMTP or FTP banner"),
    (NOT_TLS, b"220-welcome\r\n", "an SMTP or FTP banner"),
    (NOT_TLS, b"421 too many\r\n", "a numeric reply, as of SMTP, FTP or NNTP"),
    (NOT_TLS, b"554-no\r\n", "a numeric reply, as of SMTP, FTP or NNTP"),
    (NOT_TLS, b"+OK ready\r\n", "a POP3 banner"),
    (NOT_TLS, b"* OK [CAPABILITY IMAP4rev1]\r\n", "an IMAP banner"),
    (NOT_TLS, b"EHLO me\r\n", "an SMTP client's greeting"),
    (NOT_TLS, b"HELO me\r\n", "an SMTP client's greeting"),
    (NOT_TLS, b"*1\r\n$4\r\nPING\r\n", "a Redis command"),
    (NOT_TLS, b"*12\r\n$4\r\nMSET\r\n", "a Redis command"),
    (NOT_TLS, b"PING\r\n", "a Redis command"),
    (NOT_TLS, b"RFB 003.008\n", "a VNC banner"),
    (NOT_TLS, b"<?xml version='1.0'?>", "an XML stream, as of XMPP or NETCONF"),
    (NOT_TLS, b"AMQP\x00\x00\x09\x01", "an AMQP header"),
    (NOT_TLS, b"\x13BitTorrent protocol" + bytes(8), "a BitTorrent handshake"),
    (NOT_TLS, b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12), "a STUN message"),
    (NOT_TLS, b"\x00\x00\x00\x08\x04\xd2\x16\x2f", "a PostgreSQL SSLRequest"),
    (NOT_TLS, b"\x00\x00\x00\x29\x00\x03\x00\x00user", "a PostgreSQL startup message"),
    (NOT_TLS, b"\x00\x00\x00\x08\x04\xd2\x16\x30", "a PostgreSQL startup message"),
    (NOT_TLS, b"J\x00\x00\x00\x0a8.0.36\x00", "a MySQL greeting"),
    (NOT_TLS, b"\x10\x10\x00\x04MQTT\x04", "an MQTT CONNECT"),
    (NOT_TLS, b"\x10\x90\x01\x00\x04MQTT\x05", "an MQTT CONNECT"),
    (NOT_TLS, b"\x10\x10\x00\x06MQIsdp\x03", "an MQTT CONNECT"),
    # OpenSSL's `s_client -starttls ldap`
    (NOT_TLS, b"\x30\x1d\x02\x01\x01\x77\x18\x80\x16" + b"1.3.6.1", "an LDAP ExtendedRequest"),
    (
        NOT_TLS,
        bytes.fromhex("30 84 0000001d 02 01 01 77 84 00000018 80"),
        "an LDAP ExtendedRequest",
    ),
    (NOT_TLS, b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03", "an LDAP BindRequest"),
    (
        NOT_TLS,
        b"\x30\x84\x00\x00\x00\x10\x02\x01\x01\x60\x84",
        "an LDAP BindRequest",
    ),
    (NOT_TLS, b"\x00\x00\x00\x45\xffSMB\x72", "an SMB message"),
    (NOT_TLS, b"\x03\x00\x00\x13\x0e\xe0\x00\x00", "an RDP connection request"),
    (NOT_TLS, b"\x03\x00\x00\x13", "a TPKT packet, as of RDP"),
    (NOT_TLS, b"\x04\x01\x00\x50\x0a\x00\x00\x01\x00", "a SOCKS4 request"),
    (NOT_TLS, b"\x05\x01\x00", "a SOCKS5 greeting"),
    (NOT_TLS, b"\x00", "zeros"),
    (NOT_TLS, bytes(1000), "zeros"),
    (NOT_TLS, b"GE", "plain text beginning 'GE'"),
    (NOT_TLS, b"hello\r\n\tworld", r"plain text beginning 'hello\r\n\tworld'"),
    (NOT_TLS, b"x" * 24, f"plain text beginning '{'x' * 24}'"),
    (NOT_TLS, b"x" * 25, f"plain text beginning '{'x' * 24}'..."),
    (NOT_TLS, b"\xde\xad\xbe\xef", "unknown bytes 0xdeadbeef"),
    (NOT_TLS, b"\xde\xad\xbe\xef" * 3, "unknown bytes 0xdeadbeefdeadbeef..."),
    # Terminal escapes never reach a log.
    (NOT_TLS, b"a\x1b[2J", "unknown bytes 0x611b5b324a"),
]


@pytest.mark.parametrize(("kind", "data", "looks_like"), LOOKS_LIKE)
def test_looks_like(kind: OpeningKind, data: bytes, looks_like: str) -> None:
    opening = classify(data)
    assert opening.kind is kind
    assert opening.looks_like == looks_like


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0, "close_notify"),
        (20, "bad_record_mac"),
        (40, "handshake_failure"),
        (42, "bad_certificate"),
        (48, "unknown_ca"),
        (70, "protocol_version"),
        (100, "no_renegotiation"),
        (112, "unrecognized_name"),
        (116, "certificate_required"),
        (120, "no_application_protocol"),
        (7, "unknown alert 7"),
        (255, "unknown alert 255"),
    ],
)
def test_alert_name(code: int, name: str) -> None:
    assert alert_name(code) == name


def test_alert_names_agree_with_the_standard_library() -> None:
    for description in ssl.AlertDescription:
        name = description.name.removeprefix("ALERT_DESCRIPTION_").lower()
        assert alert_name(description).replace("canceled", "cancelled") == name


# -------------------------------------------------------------------- properties

# Random bytes rarely resemble TLS, so some examples start like it.
interesting = st.one_of(
    st.binary(max_size=80),
    st.builds(
        lambda *parts: b"".join(parts),
        st.sampled_from([b"\x14", b"\x15", b"\x16", b"\x17", b"\x18"]),
        st.sampled_from([b"\x03", b"\x03\x01", b"\x03\x03", b"\x02", b"\xfe\xfd"]),
        st.binary(max_size=20),
    ),
    st.builds(
        lambda row, cut, tail: row[1][:cut] + tail,
        st.sampled_from(LOOKS_LIKE),
        st.integers(0, 40),
        st.binary(max_size=12),
    ),
    st.text(
        alphabet=st.characters(max_codepoint=127, categories=["Cc", "Lu", "Po"]),
        max_size=40,
    ).map(str.encode),
)


@pytest.mark.slow
@given(interesting)
@example(b"\\'\"\n" * 20)
@example(b"\r" * 30)
def test_looks_like_is_safe_for_logs(data: bytes) -> None:
    looks_like = classify(data).looks_like
    assert looks_like.isascii()
    assert looks_like.isprintable()
    assert 0 < len(looks_like) < 80


@pytest.mark.slow
@given(interesting)
def test_verdict_never_changes_once_it_is_not_incomplete(data: bytes) -> None:
    verdict: Opening | None = None
    for prefix in prefixes(data):
        opening = classify(prefix)
        if verdict is not None:
            assert opening.kind is verdict.kind
            assert opening.message is verdict.message
        elif opening.kind is not INCOMPLETE:
            verdict = opening
    if len(data) >= 6:
        assert verdict is not None


@pytest.mark.slow
@given(
    version=st.integers(0, 255),
    length=st.integers(1, 2**14),
    first=st.integers(0, 255),
)
def test_strict_prefixes_of_a_handshake_record_are_incomplete(
    version: int, length: int, first: int
) -> None:
    start = bytes([0x16, 3, version, *length.to_bytes(2, "big"), first])
    for prefix in prefixes(start[:5]):
        assert classify(prefix).kind is INCOMPLETE
    assert classify(start).kind is (CLIENT_HELLO if first == 1 else OTHER_TLS)


@pytest.mark.slow
@given(interesting)
def test_incomplete_means_that_more_can_decide(data: bytes) -> None:
    """Every incomplete opening can be decided by more bytes, six in all."""
    if classify(data).kind is INCOMPLETE:
        assert len(data) < 6
        assert not data or data[0] in (0x14, 0x15, 0x16, 0x17, 0x18)


# ------------------------------------------------------------------- the random


@hellos
def test_random_of_a_real_client_hello(hello: bytes) -> None:
    for prefix in prefixes(hello[:100]):
        expected = hello[11:43] if len(prefix) >= 43 else None
        assert client_hello_random(prefix) == expected


@hellos
@pytest.mark.parametrize("size", range(1, 41))
def test_random_survives_recutting(hello: bytes, size: int) -> None:
    cut = recut(hello, size)
    assert client_hello_random(cut) == hello[11:43]
    # The last byte of the random, wherever it went, is the one that counts.
    needed = 38 + 5 * -(-38 // size)
    assert client_hello_random(cut[:needed]) == hello[11:43]
    assert client_hello_random(cut[: needed - 1]) is None


@pytest.mark.slow
@given(st.lists(st.integers(0, 60), max_size=60))
def test_random_survives_any_recutting(sizes: list[int]) -> None:
    hello = HELLOS["both"]
    payload, cut = hello[5:], b""
    for size in sizes:
        cut += record(payload[:size])
        payload = payload[size:]
    cut += record(payload)
    assert client_hello_random(cut) == hello[11:43]


def intrusions() -> Iterator[bytes]:
    """Yield a ClientHello with other records inserted in many ways."""
    payload = HELLOS["both"][5:]
    bodies = [b"", b"\x01", b"\x01\x00", b"\x01\x5a", b"\x00\x00\x00\x00"]
    for kind in (0x14, 0x15, 0x16, 0x17, 0x18, 0x50):
        for intruder in (record(body, kind) for body in bodies):
            for at in (1, 2, 4, 6, 20, 37):
                yield record(payload[:at]) + intruder + record(payload[at:])
    empty = record(b"")
    for count in (1, 31, 32, 33):
        yield empty * count + record(payload)
        yield (
            b"".join(record(payload[at : at + 1]) + empty * count for at in range(38))
            + record(payload[38:])
        )
    for version in (b"\x03\x00", b"\x03\x04", b"\x03\xff", b"\x02\x00", b"\x07\x07"):
        yield record(payload[:10]) + record(payload[10:], version=version)


@pytest.mark.slow
def test_random_is_seen_wherever_openssl_sees_a_client_hello() -> None:
    """OpenSSL refuses our relayed ClientHello in every cutting in which we do not find its random."""
    taken = [data for data in intrusions() if openssl_complaint(data) == "NO_SHARED_CIPHER"]
    assert len(taken) >= 10, "nothing is tested unless OpenSSL takes some of them"
    for data in taken:
        assert client_hello_random(data) == HELLOS["both"][11:43]


def test_random_looks_at_a_bounded_number_of_records() -> None:
    hello = HELLOS["both"]
    assert client_hello_random(record(b"") * 100_000 + hello) is None


BODY = b"\x03\x03" + bytes(range(32))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\n" * 10,
        bytes(100),
        ANNOUNCEMENT + HELLOS["both"],
        record(b"\x02\x00\x00\x40" + BODY),  # a ServerHello
        record(b"\x01\x00\x00\x21" + BODY),  # too short for a random
        record(b"\x01\x00\x00\x40" + BODY, 0x17),
        record(b"\x01\x00\x00\x40" + BODY, version=b"\x02\x00"),
        record(b"\x01\x00\x00\x40" + BODY + bytes(16384)),  # oversized record
        record(b"\x01\x00\x00\x40") + record(b"\x02\x28", 0x15) + record(BODY),
    ],
)
def test_no_random_in_anything_else(data: bytes) -> None:
    assert client_hello_random(data) is None


@pytest.mark.slow
@given(interesting)
def test_random_never_raises(data: bytes) -> None:
    found = client_hello_random(data)
    assert found is None or len(found) == 32
