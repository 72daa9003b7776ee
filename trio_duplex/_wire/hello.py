"""Putting a hello together from TLS records, however it was cut, and reading its ``random``."""

from __future__ import annotations

import enum
from collections.abc import Callable

from trio_duplex._wire.records import (
    ALERT,
    CHANGE_CIPHER_SPEC,
    CLIENT_HELLO_TYPE,
    HANDSHAKE,
    HEADER_SIZE,
    MAJOR,
    MAX_FRAGMENT,
    SERVER_HELLO_TYPE,
    Header,
    head,
    read_header,
)

# Handshake header (4), legacy_version (2), random (32).
_RANDOM_START = 6
_RANDOM_END = 38
# The most that can precede the random's last byte: each of the 38 bytes is in a
# record of its own, and 32 empty records precede each of these. OpenSSL gives up
# at 33 empty records in a row (MAX_EMPTY_RECORDS), so a hello that needs more
# than this is refused anyway, and a peer can't make us look at more.
_RANDOM_LOOK = _RANDOM_END + HEADER_SIZE * _RANDOM_END * (1 + 32)


def client_hello_random(data: bytes | bytearray | memoryview) -> bytes | None:
    """Find the ``random`` of the ClientHello at the start of *data*.

    The message may be cut into records in any way. We recognise our own
    ClientHello by its random when somebody relays it to us, possibly re-cut.
    So this function must find the random in every cutting that OpenSSL
    accepts, which includes empty records between fragments.

    Args:
        data: TLS records, received or sent so far, from the first byte on.

    Returns:
        The 32 bytes (RFC 8446, section 4.1.2); ``None`` if there is not enough
        of the ClientHello yet, or if *data* is something else. Looks at 6308
        bytes at most, and usually at 43.
    """
    data = head(data, _RANDOM_LOOK)
    payload = bytearray()
    position = 0
    while len(payload) < _RANDOM_END:
        header = read_header(data, position)
        if header is None or header.major != MAJOR:
            return None
        length = header.length
        # An empty record of another type is skipped, as OpenSSL 3.0 does with an
        # empty ChangeCipherSpec here.
        if length > MAX_FRAGMENT or (length and header.kind != HANDSHAKE):
            return None
        position += HEADER_SIZE
        payload += data[position : position + length]
        position += length
    body_length = int.from_bytes(payload[1:4], "big")
    if payload[0] != CLIENT_HELLO_TYPE or body_length < _RANDOM_END - 4:
        return None
    return bytes(payload[_RANDOM_START:_RANDOM_END])


def random_of(hello: bytes) -> bytes | None:
    """Return the ``random`` of a whole ClientHello, without record headers; None if it is too short for one."""
    return hello[_RANDOM_START:_RANDOM_END] if len(hello) >= _RANDOM_END else None


def random_may_follow(hello: bytes) -> bool:
    """Whether it is worth waiting for more bytes to find the ``random`` of a ClientHello.

    The random's last byte is the 38th of the message. If each of the 38 bytes is
    in a record of its own, that is 38 * 6 bytes. Only empty records, or records of
    another type in between, can move it further back. RFC 8446 section 5.1 and
    RFC 5246 section 6.2.1 forbid both (although OpenSSL accepts empty records),
    so a peer that needs more bytes than this is not a proper TLS client, and may
    be trying to hide a relayed hello.

    Args:
        hello: All bytes received so far, in which no ``random`` was found.
    """
    position = 0
    while position < len(hello):
        if hello[position] != HANDSHAKE or hello[position + 1 : position + 2] not in (b"", b"\x03"):
            return False
        header = read_header(hello, position)
        if header is None:
            break
        if not 1 <= header.length <= MAX_FRAGMENT:
            return False
        position += HEADER_SIZE + header.length
    return len(hello) < 38 * 6


# ---------------------------------------------------------- the hello as a whole

MAX_HELLO = 64 * 1024
"""Bytes of a hello, at most. Browsers with post-quantum shares send 1.8 KB; OpenSSL takes 128 KiB."""

_MAX_RAW = 2 * MAX_HELLO
"""The most bytes that a hello and its record headers may take: enough for records with five bytes
of it each. Real TLS stacks put a hello into one to four records."""

_WARNING = 1
_HELLO_REQUEST = bytes(4)


class HelloKind(enum.Enum):
    """What `HelloReader` knows about the first message."""

    INCOMPLETE = "incomplete"
    COMPLETE = "complete"
    TOO_LONG = "too_long"
    """The hello is longer than `MAX_HELLO`, or cut into needlessly many records."""
    OTHER = "other"
    """Something else comes first, or in the middle of the hello. OpenSSL will refuse it."""


class HelloReader:
    """Puts the peer's hello together from its records, however it was cut.

    It skips everything that OpenSSL skips in front of a hello: empty records,
    warnings, and in the client role HelloRequests. So OpenSSL never gets a hello
    that we have not looked at before.

    Args:
        message_type: 1 for a ClientHello, 2 for a ServerHello.
        second: Whether it follows a HelloRetryRequest. A change_cipher_spec may
            then come first: most TLS stacks send one for the sake of middleboxes
            (RFC 8446 appendix D.4).

    Attributes:
        kind: What is known so far.
        size: Length of the message in bytes according to its own header; 0 until
            the header has come.
        behind: How many bytes have come after the record in which the hello ends,
            once `kind` is ``COMPLETE``.
    """

    def __init__(self, message_type: int, *, second: bool = False) -> None:
        self.kind = HelloKind.INCOMPLETE
        self.size = 0
        self.behind = 0
        self._type = message_type
        self._may_pass_over: dict[int, Callable[[bytearray], bool]] = {ALERT: _is_mere_warning}
        if second:
            self._may_pass_over[CHANGE_CIPHER_SPEC] = _is_dummy
        self._seen = 0
        self._header = bytearray()  # of the record that is being read
        self._missing = 0  # bytes of that record that have yet to come
        self._other: int | None = None  # the record's type, if it is not a handshake record
        self._payload: bytearray = bytearray()  # what such a record carries
        self._message = bytearray()

    @property
    def message(self) -> bytes:
        """The message, including its header, once `kind` is ``COMPLETE``."""
        return bytes(self._message[: self.size])

    def feed(self, data: bytes | bytearray | memoryview) -> HelloKind:
        """Read on, up to the end of the hello. Bytes after it are only counted.

        Args:
            data: The bytes that have come since the last call. The first call gets
                the connection's first byte.
        """
        self._seen += len(data)
        view, position = memoryview(data), 0
        while position < len(view) and self.kind is HelloKind.INCOMPLETE:
            if self._missing == 0:
                missing = HEADER_SIZE - len(self._header)
                self._header += view[position : position + missing]
                position += missing
                if (header := read_header(self._header)) is not None:
                    self._begin_record(header)
                continue
            piece = view[position : position + self._missing]
            position += len(piece)
            self._missing -= len(piece)
            if self._other is None:
                self._message += piece
                self._look_at_message()
            else:
                self._payload += piece
                if self._missing == 0 and not self._may_pass_over[self._other](self._payload):
                    self.kind = HelloKind.OTHER
        if self.kind is HelloKind.COMPLETE:
            self.behind = max(0, len(view) - position - self._missing)
        elif self.kind is HelloKind.INCOMPLETE and self._seen > _MAX_RAW:
            self.kind = HelloKind.TOO_LONG
        return self.kind

    def _begin_record(self, header: Header) -> None:
        kind, major, length = header
        unknown = kind != HANDSHAKE and kind not in self._may_pass_over
        if major != MAJOR or length > MAX_FRAGMENT or (length and unknown):
            self.kind = HelloKind.OTHER
        self._other = None if kind == HANDSHAKE else kind
        self._payload.clear()
        self._missing = length
        self._header.clear()

    def _look_at_message(self) -> None:
        while self._type == SERVER_HELLO_TYPE and self._message.startswith(_HELLO_REQUEST):
            del self._message[:4]
        if self._message and self._message[0] != self._type:
            if self._type != SERVER_HELLO_TYPE or not _HELLO_REQUEST.startswith(self._message):
                self.kind = HelloKind.OTHER
        elif len(self._message) >= 4:
            self.size = 4 + int.from_bytes(self._message[1:4], "big")
            if self.size > MAX_HELLO:
                self.kind = HelloKind.TOO_LONG
            elif len(self._message) >= self.size:
                self.kind = HelloKind.COMPLETE


def _is_dummy(change_cipher_spec: bytearray) -> bool:
    """Whether a change_cipher_spec is the one of TLS 1.3, which has no effect (RFC 8446 section 5)."""
    return bytes(change_cipher_spec) == b"\x01"


def _is_mere_warning(alert: bytearray) -> bool:
    """Whether OpenSSL goes on after an alert: a warning other than close_notify."""
    return len(alert) == 2 and alert[0] == _WARNING and alert[1] != 0


def whole_hello(data: bytes, message_type: int) -> tuple[bytes, int] | None:
    """Find a hello that is whole and in one record, as nearly all are.

    Returns:
        The message, and how many bytes came behind its record, less than 0 if that is not whole;
        None if the hello is not like that.
    """
    header = read_header(data)
    if header is None or header.kind != HANDSHAKE or header.major != MAJOR:
        return None
    if len(data) < HEADER_SIZE + 4 or data[HEADER_SIZE] != message_type:
        return None
    size = 4 + (data[6] << 16 | data[7] << 8 | data[8])
    if not size <= header.length <= MAX_FRAGMENT or len(data) < HEADER_SIZE + size:
        return None
    return data[HEADER_SIZE : HEADER_SIZE + size], len(data) - HEADER_SIZE - header.length
