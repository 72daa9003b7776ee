"""What a peer's first bytes mean.

Pure functions over bytes: nothing here reads a socket, a clock or a TLS
object. `classify` is a tri-state parser of the first six bytes (needs more,
is a ClientHello, is something else) and, for everything that is not a
ClientHello, finds a noun phrase that makes an error message useful.

How it works. Five bytes of record header and the type of the first handshake
message decide everything::

    16        03 xx    00 01..40 00    01
    handshake version  length          ClientHello

so a ClientHello is recognised whether it comes in one record, in one-byte
records, or is 60 KB long: the whole message is not needed. The verdict is
*monotone*: once a prefix is not `OpeningKind.INCOMPLETE`, every extension of
it has the same kind. More bytes only make `Opening.looks_like` more precise
("plain text beginning 'SS'", then "an SSH banner").

The limits are OpenSSL's (measured with 3.0.19), because OpenSSL gets what
passes here, and we must not turn away a peer that OpenSSL would accept. So any
minor record version passes, as RFC 8446, section 5.1 ("MUST be ignored for all
purposes") and RFC 5246, appendix E.1 ("MUST accept any value {03,XX}") demand.
There is one exception: we refuse an *empty* first record, which OpenSSL
accepts, because RFC 8446, section 5.1 forbids it and no TLS client sends one.
"""

import enum

import attrs

from trio_duplex._wire.alerts import alert_name
from trio_duplex._wire.foreign import name_foreign
from trio_duplex._wire.records import (
    ALERT,
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    HEADER_SIZE,
    HEARTBEAT,
    MAJOR,
    MAX_FRAGMENT,
    head,
)


class OpeningKind(enum.Enum):
    """What is known about the peer from its first bytes."""

    INCOMPLETE = "incomplete"
    """More bytes are needed to decide. This includes ``b""``.

    The first byte of another TLS record (``b"\\x15"``) without a second one is
    incomplete as well: only the second byte shows whether it is TLS.
    """

    CLIENT_HELLO = "client_hello"
    """The first six bytes of a record that starts a TLS ClientHello."""

    OTHER_TLS = "other_tls"
    """TLS, but not a ClientHello: an alert, a ServerHello, application data..."""

    NOT_TLS = "not_tls"
    """Anything else."""


class TLSMessage(enum.Enum):
    """The first message in a TLS record, as far as it matters for the roles.

    A TLS server answers our ClientHello with `SERVER_HELLO` or `ALERT`. If the
    answer is `CLIENT_HELLO`, it is glare, or an echo of our own bytes.
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
        message: The TLS message that the bytes begin with; ``None`` if `kind` is
            ``INCOMPLETE`` or ``NOT_TLS``.
    """

    kind: OpeningKind
    looks_like: str
    message: TLSMessage | None = None


def classify(prefix: bytes | bytearray | memoryview) -> Opening:
    """Classify a peer by the bytes that it has sent so far.

    The verdict needs six bytes at most. Up to 64 bytes are looked at, to name a
    protocol that is not TLS. The time taken does not depend on the length of
    *prefix*.

    Args:
        prefix: All that the peer has sent so far, from its first byte on.

    Returns:
        The verdict, and what the bytes look like.
    """
    data = head(prefix, _LOOK)
    match data[:1]:
        case b"":
            return _NOTHING
        case b"\x16":
            return _classify_handshake(data)
        case b"\x14" | b"\x15" | b"\x17" | b"\x18":
            return _classify_other_record(data)
        case _:
            return _not_tls(data)


# --------------------------------------------------------------------- records


# Enough for every signature in `foreign` and for 24 characters of text.
_LOOK = 64


# A whole HelloRequest (RFC 5246, section 7.4.1.1) in a record of its own, by which a
# dialler may announce that it will be the TLS server; see `announcement`.
_ANNOUNCEMENT = bytes.fromhex("16 0303 0004 00 000000")

_NOTHING = Opening(OpeningKind.INCOMPLETE, "nothing yet")
_START = Opening(OpeningKind.INCOMPLETE, "the start of a TLS handshake record")
_CLIENT_HELLO = Opening(OpeningKind.CLIENT_HELLO, "a TLS ClientHello", TLSMessage.CLIENT_HELLO)


def _classify_handshake(data: bytes) -> Opening:
    if len(data) >= 2 and data[1] != MAJOR:
        return _not_tls(data)
    # A length field may be too large because of its first byte, whatever the
    # second one is, and the verdict must not depend on how the bytes were cut.
    # So assume the best for a second byte that has not come, then compare.
    high = data[3] if len(data) >= 4 else 0
    low = data[4] if len(data) >= 5 else 1 if high == 0 else 0
    if not 1 <= high << 8 | low <= MAX_FRAGMENT:
        return Opening(OpeningKind.NOT_TLS, "a TLS handshake record of impossible length")
    if len(data) <= HEADER_SIZE:
        return _START
    match data[HEADER_SIZE]:
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
        # This cannot become a ClientHello, but the verdict must wait: 0x15 is a
        # TLS alert only if 0x03 follows, and a verdict must never change.
        return Opening(OpeningKind.INCOMPLETE, f"the first byte of {name}")
    if data[1] != MAJOR:
        return _not_tls(data)
    # Do not wait for the rest: an alert may be all that the peer sends.
    if data[0] != ALERT:
        return Opening(OpeningKind.OTHER_TLS, name, TLSMessage.OTHER)
    if data[3:5] == b"\x00\x02" and len(data) >= 7:
        level = {1: "warning", 2: "fatal"}.get(data[5], f"level {data[5]}")
        name = f"{name} ({level} {alert_name(data[6])})"
    return Opening(OpeningKind.OTHER_TLS, name, TLSMessage.ALERT)


_RECORDS = {
    CHANGE_CIPHER_SPEC: "a TLS change_cipher_spec record",
    ALERT: "a TLS alert",
    APPLICATION_DATA: "a TLS application data record",
    HEARTBEAT: "a TLS heartbeat record",
}
_RECORD_TYPES = {bytes([kind]) for kind in (HANDSHAKE, *_RECORDS)}


def is_overlong(data: bytes) -> bool:
    """Whether the first record is longer than TLS allows (RFC 8446 section 5.1: record_overflow).

    The first byte of the length can be enough to tell.
    """
    return (
        data[:1] in _RECORD_TYPES
        and data[1:2] == bytes([MAJOR])
        and int.from_bytes(data[3:5].ljust(2, b"\0"), "big") > MAX_FRAGMENT
    )


# --------------------------------------------------------------------- not TLS


def _not_tls(data: bytes) -> Opening:
    return Opening(OpeningKind.NOT_TLS, name_foreign(data))
