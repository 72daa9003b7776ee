"""Naming the protocol of a peer that does not speak TLS: a table of first bytes."""

from __future__ import annotations

from functools import cache

_TEXT_SHOWN = 24
_BYTES_SHOWN = 8
_TEXT = frozenset([*b"\t\r\n", *range(0x20, 0x7F)])


# One condition: one of these byte strings is at this offset.
_Condition = tuple[int, tuple[bytes, ...]]


def _span(first: int, last: int) -> tuple[bytes, ...]:
    """Return each of the bytes from *first* to *last*, inclusive."""
    return tuple(bytes([value]) for value in range(first, last + 1))


def _words(end: str, words: str) -> tuple[bytes, ...]:
    """Return each of the blank-separated *words*, followed by *end*."""
    return tuple(f"{word}{end}".encode() for word in words.split())


_DIGIT = _span(0x30, 0x39)


# A name, then conditions that must all hold. The first row that fits wins, so
# special cases come before general ones ("OPTIONS sip:" before "OPTIONS ").
SIGNATURES: tuple[tuple[str, *tuple[_Condition, ...]], ...] = (
    # Proxies in front of us
    ("a PROXY protocol v1 header", (0, (b"PROXY ",))),
    ("a PROXY protocol v2 header", (0, (b"\r\n\r\n\x00\r\nQUIT\n",))),
    # Relatives of TLS. DTLS versions count down from 0xfeff.
    (
        "a DTLS record",
        (0, _span(0x14, 0x17)),
        (1, (b"\xfe\xff", b"\xfe\xfd", b"\xfe\xfc")),
    ),
    # Before SSLv2, whose first byte may be anything from 0x80 on
    ("a telnet negotiation", (0, (b"\xff",)), (1, _span(0xFA, 0xFE))),
    # RFC 5246, appendix E.2: length with the top bit set, client_hello, version
    (
        "an SSLv2 ClientHello",
        (0, _span(0x80, 0xFF)),
        (2, (b"\x01\x00\x02", b"\x01\x03")),
    ),
    # SIP and RTSP share method names with HTTP
    ("a SIP request", (0, _words(" sip", "INVITE OPTIONS REGISTER SUBSCRIBE MESSAGE NOTIFY BYE"))),
    ("a SIP response", (0, (b"SIP/2.0 ",))),
    ("an RTSP request", (0, _words(" rtsp", "OPTIONS DESCRIBE ANNOUNCE SETUP PLAY RECORD"))),
    ("an RTSP request", (0, (b"OPTIONS * RTSP/",))),  # RFC 7826, section 13.1; curl sends this
    ("an RTSP response", (0, (b"RTSP/1.", b"RTSP/2."))),
    ("an HTTP/2 preface", (0, (b"PRI * HTTP/2.0",))),
    ("an HTTP request", (0, _words(" ", "GET POST HEAD PUT DELETE OPTIONS CONNECT TRACE PATCH"))),
    ("an HTTP response", (0, (b"HTTP/1.",))),
    # Text protocols: banners of servers, greetings of clients
    ("an SSH banner", (0, (b"SSH-",))),
    ("an SMTP or FTP banner", (0, (b"220 ", b"220-"))),
    (
        "a numeric reply, as of SMTP, FTP or NNTP",
        (0, _DIGIT),
        (1, _DIGIT),
        (2, _DIGIT),
        (3, (b" ", b"-")),
    ),
    ("a POP3 banner", (0, (b"+OK",))),
    ("an IMAP banner", (0, (b"* OK", b"* PREAUTH", b"* BYE"))),
    ("an SMTP client's greeting", (0, (b"EHLO", b"HELO"))),
    ("a Redis command", (0, (b"PING\r\n", b"PING\n"))),
    ("a Redis command", (0, (b"*",)), (1, _DIGIT), (2, (b"\r\n$",))),
    ("a Redis command", (0, (b"*",)), (1, _DIGIT), (2, _DIGIT), (3, (b"\r\n$",))),
    ("a VNC banner", (0, (b"RFB 0",))),
    ("an XML stream, as of XMPP or NETCONF", (0, (b"<?xml ", b"<stream:", b"<hello "))),
    # Binary protocols
    ("an AMQP header", (0, (b"AMQP",))),
    ("a BitTorrent handshake", (0, (b"\x13BitTorrent protocol",))),
    # RFC 8489, section 5: the magic cookie
    ("a STUN message", (0, (b"\x00", b"\x01")), (4, (b"\x21\x12\xa4\x42",))),
    # SSLRequest, GSSENCRequest and CancelRequest have code numbers in place of a version
    ("a PostgreSQL SSLRequest", (0, (b"\x00\x00\x00\x08\x04\xd2\x16\x2f",))),
    (
        "a PostgreSQL startup message",
        (0, (b"\x00\x00",)),
        (4, (b"\x00\x03\x00", b"\x04\xd2\x16\x30", b"\x04\xd2\x16\x2e")),
    ),
    # Length (three bytes), sequence number 0, protocol 10, "5.7..", "8.0.."
    ("a MySQL greeting", (2, (b"\x00\x00\x0a",)), (5, _DIGIT)),
    # The "remaining length" takes one or two bytes
    ("an MQTT CONNECT", (0, (b"\x10",)), (2, (b"\x00\x04MQTT", b"\x00\x06MQIsdp"))),
    ("an MQTT CONNECT", (0, (b"\x10",)), (3, (b"\x00\x04MQTT", b"\x00\x06MQIsdp"))),
    # BER: SEQUENCE, INTEGER message id, [APPLICATION 0], or [APPLICATION 23],
    # as for StartTLS; Microsoft's encoder writes lengths in four bytes
    ("an LDAP BindRequest", (0, (b"\x30",)), (2, (b"\x02\x01",)), (5, (b"\x60",))),
    ("an LDAP BindRequest", (0, (b"\x30\x84",)), (6, (b"\x02\x01",)), (9, (b"\x60",))),
    ("an LDAP ExtendedRequest", (0, (b"\x30",)), (2, (b"\x02\x01",)), (5, (b"\x77",))),
    ("an LDAP ExtendedRequest", (0, (b"\x30\x84",)), (6, (b"\x02\x01",)), (9, (b"\x77",))),
    ("an SMB message", (0, (b"\x00",)), (4, (b"\xffSMB", b"\xfeSMB"))),
    # TPKT (RFC 1006), then X.224's connection request
    ("an RDP connection request", (0, (b"\x03\x00",)), (5, (b"\xe0",))),
    ("a TPKT packet, as of RDP", (0, (b"\x03\x00",))),
    ("a SOCKS4 request", (0, (b"\x04\x01", b"\x04\x02"))),
    ("a SOCKS5 greeting", (0, (b"\x05",)), (1, _span(0x01, 0x0A))),
)


@cache
def _signatures_for(first: bytes) -> tuple[tuple[str, *tuple[_Condition, ...]], ...]:
    """Return the rows that can fit bytes with this first one. In a flood, the whole table costs 10 µs a peer."""
    return tuple(
        (name, *conditions)
        for name, *conditions in SIGNATURES
        if all(
            offset > 0 or any(value[:1] == first for value in values)
            for offset, values in conditions
        )
    )


def name_foreign(data: bytes) -> str:
    """Return a noun phrase for bytes that are not TLS, such as ``"an SSH banner"``."""
    for name, *conditions in _signatures_for(data[:1]):
        if all(data.startswith(values, offset) for offset, values in conditions):
            return name
    if not data.strip(b"\x00"):
        return "zeros"
    text = data[:_TEXT_SHOWN]
    if all(byte in _TEXT for byte in text):
        # repr() keeps control characters and line ends out of the logs.
        more = "..." if len(data) > _TEXT_SHOWN else ""
        return f"plain text beginning {text.decode('ascii')!r}{more}"
    more = "..." if len(data) > _BYTES_SHOWN else ""
    return f"unknown bytes 0x{data[:_BYTES_SHOWN].hex()}{more}"


def advice_on(looks_like: str) -> str:
    """Return what to do about a peer that does not speak TLS, given the noun phrase for its bytes."""
    if "PROXY protocol" in looks_like:
        return (
            "turn off send-proxy (HAProxy), proxy_protocol (nginx) or the like for this backend: "
            "the proxy in front must relay the peer's bytes from the first one on"
        )
    return "send this peer to another port, or set it to TLS"
