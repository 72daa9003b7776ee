"""What a peer's first bytes mean.

Pure functions over bytes: nothing here reads a socket, a clock or a TLS
object. `classify` is a tri-state parser of the first six bytes (needs more,
is a ClientHello, is something else) and, for everything that is not a
ClientHello, finds a noun phrase that makes an error message useful.

How it works. Five bytes of record header and the type of the first handshake
message decide everything::

    16        03 xx    00 01..40 00    01
    handshake version  length          ClientHello

so a ClientHello counts as one whether it comes in one record, in one-byte
records, or is 60 KB long: it is never required whole. The verdict is
*monotone*: once a prefix is not `OpeningKind.INCOMPLETE`, every extension of
it has the same kind. More bytes only make `Opening.looks_like` more precise
("plain text beginning 'SS'", then "an SSH banner").

The limits are OpenSSL's, because what passes here is handed to OpenSSL, and
what OpenSSL would take must not be turned away (measured with 3.0.19): any
minor record version, as RFC 8446, section 5.1 ("MUST be ignored for all
purposes") and RFC 5246, appendix E.1 ("MUST accept any value {03,XX}") ask.
One exception: an *empty* first record, which OpenSSL lets pass, is refused, as
RFC 8446, section 5.1 forbids it and no TLS client sends it.
"""

import enum

import attrs


class OpeningKind(enum.Enum):
    """What is known about the peer from its first bytes."""

    INCOMPLETE = "incomplete"
    """Could still become a ClientHello; more bytes are needed. Also ``b""``.

    A lone first byte of another TLS record (``b"\\x15"``) is incomplete as
    well: the second byte tells TLS from chance.
    """

    CLIENT_HELLO = "client_hello"
    """The first six bytes of a record that starts a TLS ClientHello."""

    OTHER_TLS = "other_tls"
    """TLS, but no ClientHello: an alert, a ServerHello, application data..."""

    NOT_TLS = "not_tls"
    """Anything else."""


class TLSMessage(enum.Enum):
    """The first message in a TLS record, as far as the roles care.

    After our own ClientHello a server may answer with `SERVER_HELLO` or
    `ALERT`. `CLIENT_HELLO` is then glare or an echo.
    """

    CLIENT_HELLO = "client_hello"
    SERVER_HELLO = "server_hello"
    HELLO_REQUEST = "hello_request"
    ALERT = "alert"
    OTHER = "other"


@attrs.frozen
class Opening:
    """The peer's first bytes, and what they look like.

    Attributes:
        kind: The verdict. It never changes once it is not ``INCOMPLETE``.
        looks_like: A noun phrase for error messages and logs, such as ``"an
            SSH banner"``: one line of printable ASCII, under 80 characters,
            whatever the peer sent.
        message: The TLS message that the bytes start; ``None`` if `kind` is
            ``INCOMPLETE`` or ``NOT_TLS``.
    """

    kind: OpeningKind
    looks_like: str
    message: TLSMessage | None = None


def classify(prefix: bytes | bytearray | memoryview) -> Opening:
    """Tell what the bytes received so far are the start of.

    The verdict takes six bytes at most; up to 64 are looked at to name what is
    not TLS.

    Args:
        prefix: All that the peer has sent so far, from its first byte on.

    Returns:
        The verdict. Constant time, whatever the length of *prefix*.
    """
    data = _head(prefix, _LOOK)
    match data[:1]:
        case b"":
            return _NOTHING
        case b"\x16":
            return _classify_handshake(data)
        case b"\x14" | b"\x15" | b"\x17" | b"\x18":
            return _classify_other_record(data)
        case _:
            return _not_tls(data)


def client_hello_random(data: bytes | bytearray | memoryview) -> bytes | None:
    """Find the ``random`` of the ClientHello at the start of *data*.

    The message is put together from any fragmentation into records. This is
    how a ClientHello of our own is known again when somebody relays it to us,
    re-cut or not, so it must see through whatever OpenSSL sees through, which
    includes empty records between fragments.

    Args:
        data: TLS records, received or sent so far, from the first byte on.

    Returns:
        The 32 bytes (RFC 8446, section 4.1.2); ``None`` if there is not enough
        of the ClientHello yet, or if *data* is something else. Looks at 6308
        bytes at most, and usually at 43.
    """
    data = _head(data, _RANDOM_LOOK)
    payload = bytearray()
    position = 0
    while len(payload) < _RANDOM_END:
        header = data[position : position + _HEADER_SIZE]
        if len(header) < _HEADER_SIZE or header[1] != _MAJOR:
            return None
        length = int.from_bytes(header[3:5], "big")
        # An empty record of another type carries nothing and hides nothing
        # (OpenSSL 3.0 skips an empty ChangeCipherSpec there).
        if length > _MAX_FRAGMENT or (length and header[0] != _HANDSHAKE):
            return None
        position += _HEADER_SIZE
        payload += data[position : position + length]
        position += length
    body_length = int.from_bytes(payload[1:4], "big")
    if payload[0] != _TYPE_CLIENT_HELLO or body_length < _RANDOM_END - 4:
        return None
    return bytes(payload[_RANDOM_START:_RANDOM_END])


def alert_name(code: int) -> str:
    """Name a TLS AlertDescription, as the RFCs and OpenSSL's logs do.

    Args:
        code: The description byte of the alert.

    Returns:
        For instance ``"unknown_ca"``, or ``"unknown alert 200"``.
    """
    return _ALERTS.get(code, f"unknown alert {code}")


# --------------------------------------------------------------------- records

_HANDSHAKE = 0x16
_MAJOR = 3
_HEADER_SIZE = 5
_MAX_FRAGMENT = 2**14  # RFC 8446, section 5.1; OpenSSL: DATA_LENGTH_TOO_LONG
_TYPE_CLIENT_HELLO = 1

# Enough for every signature below and for 24 characters of text.
_LOOK = 64

# Handshake header (4), legacy_version (2), random (32).
_RANDOM_START = 6
_RANDOM_END = 38
# The most that can precede the random's last byte: each of the 38 bytes in a
# record of its own, after 32 empty records each. OpenSSL gives up at 33 empty
# ones in a row (MAX_EMPTY_RECORDS), so this hides nothing from us, yet
# bounds what a peer can make us look at.
_RANDOM_LOOK = _RANDOM_END + _HEADER_SIZE * _RANDOM_END * (1 + 32)

# What a trio_duplex dialler that wants to be TLS server sends at once: a whole
# HelloRequest (RFC 5246, section 7.4.1.1) in a record of its own.
_ANNOUNCEMENT = bytes.fromhex("16 0303 0004 00 000000")

_NOTHING = Opening(OpeningKind.INCOMPLETE, "nothing yet")
_START = Opening(OpeningKind.INCOMPLETE, "the start of a TLS handshake record")
_CLIENT_HELLO = Opening(OpeningKind.CLIENT_HELLO, "a TLS ClientHello", TLSMessage.CLIENT_HELLO)


def _head(data: bytes | bytearray | memoryview, size: int) -> bytes:
    # Through a memoryview: a 60 KB buffer is not copied to look at its head.
    return memoryview(data)[:size].tobytes()


def _classify_handshake(data: bytes) -> Opening:
    if len(data) >= 2 and data[1] != _MAJOR:
        return _not_tls(data)
    # A length field is wrong as soon as its first byte is, and the verdict
    # must not depend on how the bytes were cut: so complete a missing second
    # byte in the peer's favour before the comparison.
    high = data[3] if len(data) >= 4 else 0
    low = data[4] if len(data) >= 5 else 1 if high == 0 else 0
    if not 1 <= high << 8 | low <= _MAX_FRAGMENT:
        return Opening(OpeningKind.NOT_TLS, "a TLS handshake record of impossible length")
    if len(data) <= _HEADER_SIZE:
        return _START
    match data[_HEADER_SIZE]:
        case 0x01:
            return _CLIENT_HELLO
        case 0x02:
            message, looks_like = TLSMessage.SERVER_HELLO, "a TLS ServerHello"
        case 0x00 if data.startswith(_ANNOUNCEMENT):
            message = TLSMessage.HELLO_REQUEST
            looks_like = "a HelloRequest (the announcement of a trio_duplex dialler)"
        case 0x00:
            message, looks_like = TLSMessage.HELLO_REQUEST, "a TLS HelloRequest"
        case number:
            message = TLSMessage.OTHER
            looks_like = f"a TLS handshake message of type {number}"
    return Opening(OpeningKind.OTHER_TLS, looks_like, message)


def _classify_other_record(data: bytes) -> Opening:
    name = _RECORDS[data[0]]
    if len(data) < 2:
        # INCOMPLETE although it cannot become a ClientHello: 0x15 is a TLS
        # alert only if 0x03 follows, and a verdict, once given, must stand.
        return Opening(OpeningKind.INCOMPLETE, f"the first byte of {name}")
    if data[1] != _MAJOR:
        return _not_tls(data)
    # Reported without waiting for the rest: an alert may be all there is.
    if data[0] != 0x15:
        return Opening(OpeningKind.OTHER_TLS, name, TLSMessage.OTHER)
    if data[3:5] == b"\x00\x02" and len(data) >= 7:
        level = {1: "warning", 2: "fatal"}.get(data[5], f"level {data[5]}")
        name = f"{name} ({level} {alert_name(data[6])})"
    return Opening(OpeningKind.OTHER_TLS, name, TLSMessage.ALERT)


_RECORDS = {
    0x14: "a TLS change_cipher_spec record",
    0x15: "a TLS alert",
    0x17: "a TLS application data record",
    0x18: "a TLS heartbeat record",
}

# RFC 8446, section 6, and what its predecessors and extensions add.
_ALERTS = {
    0: "close_notify",
    10: "unexpected_message",
    20: "bad_record_mac",
    21: "decryption_failed",  # RFC 5246, reserved
    22: "record_overflow",
    30: "decompression_failure",  # RFC 5246
    40: "handshake_failure",
    41: "no_certificate",  # SSL 3.0
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    52: "too_many_cids_requested",  # RFC 9146
    60: "export_restriction",  # RFC 5246, reserved
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    86: "inappropriate_fallback",  # RFC 7507
    90: "user_canceled",
    100: "no_renegotiation",  # RFC 5246
    109: "missing_extension",
    110: "unsupported_extension",
    111: "certificate_unobtainable",  # RFC 6066
    112: "unrecognized_name",  # RFC 6066
    113: "bad_certificate_status_response",  # RFC 6066
    114: "bad_certificate_hash_value",  # RFC 6066
    115: "unknown_psk_identity",  # RFC 4279
    116: "certificate_required",
    117: "general_error",
    120: "no_application_protocol",  # RFC 7301
    121: "ech_required",  # RFC 9849
}


# --------------------------------------------------------------------- not TLS


def _not_tls(data: bytes) -> Opening:
    return Opening(OpeningKind.NOT_TLS, _name_foreign(data))


def _name_foreign(data: bytes) -> str:
    for name, *conditions in _SIGNATURES:
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


_TEXT_SHOWN = 24
_BYTES_SHOWN = 8
_TEXT = frozenset([*b"\t\r\n", *range(0x20, 0x7F)])

# One condition: at this offset stands one of these byte strings.
_Condition = tuple[int, tuple[bytes, ...]]


def _span(first: int, last: int) -> tuple[bytes, ...]:
    """Return each of the bytes from *first* to *last*, inclusive."""
    return tuple(bytes([value]) for value in range(first, last + 1))


def _words(end: str, words: str) -> tuple[bytes, ...]:
    """Return each of the blank-separated *words*, followed by *end*."""
    return tuple(f"{word}{end}".encode() for word in words.split())


_DIGIT = _span(0x30, 0x39)

# A name, then conditions that must all hold. The first row that fits wins, so
# the special comes before the general ("OPTIONS sip:" before "OPTIONS ").
_SIGNATURES: tuple[tuple[str, *tuple[_Condition, ...]], ...] = (
    # Proxies in front of us
    ("a PROXY protocol v1 header", (0, (b"PROXY ",))),
    ("a PROXY protocol v2 header", (0, (b"\r\n\r\n\x00\r\nQUIT\n",))),
    # Relatives of TLS. DTLS counts its versions down from 0xfeff.
    (
        "a DTLS record",
        (0, _span(0x14, 0x17)),
        (1, (b"\xfe\xff", b"\xfe\xfd", b"\xfe\xfc")),
    ),
    # Before SSLv2, which takes any first byte from 0x80 on
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
    ("an RTSP request", (0, (b"OPTIONS * RTSP/",))),  # RFC 7826, section 13.1; curl does
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
    # SSLRequest, GSSENCRequest and CancelRequest have code numbers for versions
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
