"""Finding a hello in TLS records, however it was cut into them, and reading its ``random``."""

from __future__ import annotations

import enum
from collections.abc import Callable

from trio_duplex._wire.records import (
    CLIENT_HELLO_TYPE,
    HANDSHAKE,
    HEADER_SIZE,
    MAJOR,
    MAX_FRAGMENT,
    SERVER_HELLO_TYPE,
    head,
)

# Handshake header (4), legacy_version (2), random (32).
_RANDOM_START = 6
_RANDOM_END = 38
# The most that can precede the random's last byte: each of the 38 bytes in a
# record of its own, after 32 empty records each. OpenSSL gives up at 33 empty
# ones in a row (MAX_EMPTY_RECORDS), so this hides nothing from us, yet
# bounds what a peer can make us look at.
_RANDOM_LOOK = _RANDOM_END + HEADER_SIZE * _RANDOM_END * (1 + 32)


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
    data = head(data, _RANDOM_LOOK)
    payload = bytearray()
    position = 0
    while len(payload) < _RANDOM_END:
        header = data[position : position + HEADER_SIZE]
        if len(header) < HEADER_SIZE or header[1] != MAJOR:
            return None
        length = int.from_bytes(header[3:5], "big")
        # An empty record of another type carries nothing and hides nothing
        # (OpenSSL 3.0 skips an empty ChangeCipherSpec there).
        if length > MAX_FRAGMENT or (length and header[0] != HANDSHAKE):
            return None
        position += HEADER_SIZE
        payload += data[position : position + length]
        position += length
    body_length = int.from_bytes(payload[1:4], "big")
    if payload[0] != CLIENT_HELLO_TYPE or body_length < _RANDOM_END - 4:
        return None
    return bytes(payload[_RANDOM_START:_RANDOM_END])


def random_may_follow(hello: bytes) -> bool:
    """Whether more bytes may yet bring the ``random`` of a ClientHello into view.

    Its last byte is the 38th of the message, and at worst each stands in a
    record of its own. Only an empty record can move it further, or one of
    another kind in between: RFC 8446 section 5.1 and RFC 5246 section 6.2.1
    forbid both, but OpenSSL lets empty ones pass. So who needs more has
    something to hide, or is no TLS client.

    Args:
        hello: All that has come so far, without a ``random`` that we can find.
    """
    position = 0
    while position < len(hello):
        header = hello[position : position + 5]
        if header[0] != 0x16 or header[1:2] not in (b"", b"\x03"):
            return False
        length = int.from_bytes(header[3:5], "big")
        if len(header) == 5 and not 1 <= length <= 2**14:
            return False
        position += 5 + length
    return len(hello) < 38 * 6


# ---------------------------------------------------------- the hello as a whole

MAX_HELLO = 64 * 1024
"""Bytes of a hello, at most. Browsers with post-quantum shares send 1.8 KB; OpenSSL takes 128 KiB."""

_MAX_RAW = 2 * MAX_HELLO
"""The same with its record headers: room for records of five bytes each. The honest put it in one
to four."""

_CHANGE_CIPHER_SPEC = 0x14
_ALERT = 0x15
_WARNING = 1
_HELLO_REQUEST = bytes(4)


class HelloKind(enum.Enum):
    """What `HelloReader` knows about the first message."""

    INCOMPLETE = "incomplete"
    COMPLETE = "complete"
    TOO_LONG = "too_long"
    """A hello longer than `MAX_HELLO`, or cut into needlessly many records."""
    OTHER = "other"
    """Something else comes first, or in the middle of it: for OpenSSL to refuse."""


class HelloReader:
    """Puts the peer's hello together from its records, however it was cut.

    It sees through whatever OpenSSL sees through on the way to the hello: empty
    records, warnings, and in the client role HelloRequests. So nothing gets to
    OpenSSL as a hello that was not looked at before.

    Args:
        message_type: 1 for a ClientHello, 2 for a ServerHello.
        second: Whether it follows a HelloRetryRequest. A change_cipher_spec may
            then come first, as most TLS stacks send it for the sake of
            middleboxes (RFC 8446 appendix D.4).

    Attributes:
        kind: What is known by now.
        size: Bytes of the message by its own header, once that has come; else 0.
        behind: How many of all the bytes came behind the record in which the hello
            ended, once `kind` is ``COMPLETE``.
    """

    def __init__(self, message_type: int, *, second: bool = False) -> None:
        self.kind = HelloKind.INCOMPLETE
        self.size = 0
        self.behind = 0
        self._type = message_type
        self._may_pass_over: dict[int, Callable[[bytearray], bool]] = {_ALERT: _is_mere_warning}
        if second:
            self._may_pass_over[_CHANGE_CIPHER_SPEC] = _is_dummy
        self._seen = 0
        self._header = bytearray()  # of the record that is being read
        self._left = 0  # bytes that are missing of it
        self._other: int | None = None  # its type, if it is no handshake record
        self._payload: bytearray = bytearray()  # and what it carries then
        self._message = bytearray()

    @property
    def message(self) -> bytes:
        """The message, its header included, once `kind` is ``COMPLETE``."""
        return bytes(self._message[: self.size])

    def feed(self, data: bytes | bytearray | memoryview) -> HelloKind:
        """Read on; what has come after the hello is not looked at.

        Args:
            data: What has come since the last call, from the very first byte on.
        """
        self._seen += len(data)
        view, position = memoryview(data), 0
        while position < len(view) and self.kind is HelloKind.INCOMPLETE:
            if self._left == 0:
                missing = HEADER_SIZE - len(self._header)
                self._header += view[position : position + missing]
                position += missing
                if len(self._header) == HEADER_SIZE:
                    self._begin_record()
                continue
            piece = view[position : position + self._left]
            position += len(piece)
            self._left -= len(piece)
            if self._other is None:
                self._message += piece
                self._look_at_message()
            else:
                self._payload += piece
                if self._left == 0 and not self._may_pass_over[self._other](self._payload):
                    self.kind = HelloKind.OTHER
        if self.kind is HelloKind.COMPLETE:
            self.behind = max(0, len(view) - position - self._left)
        elif self.kind is HelloKind.INCOMPLETE and self._seen > _MAX_RAW:
            self.kind = HelloKind.TOO_LONG
        return self.kind

    def _begin_record(self) -> None:
        kind, major, length = (
            self._header[0],
            self._header[1],
            self._header[3] << 8 | self._header[4],
        )
        unknown = kind != HANDSHAKE and kind not in self._may_pass_over
        if major != MAJOR or length > MAX_FRAGMENT or (length and unknown):
            self.kind = HelloKind.OTHER
        self._other = None if kind == HANDSHAKE else kind
        self._payload.clear()
        self._left = length
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
    """Whether it is the one of TLS 1.3, which changes nothing (RFC 8446 section 5)."""
    return bytes(change_cipher_spec) == b"\x01"


def _is_mere_warning(alert: bytearray) -> bool:
    """Whether OpenSSL goes on after an alert: a warning other than close_notify."""
    return len(alert) == 2 and alert[0] == _WARNING and alert[1] != 0


def whole_hello(data: bytes, message_type: int) -> bytes | None:
    """The hello, if it has come in one record and at once, as nearly all do; else None."""
    if len(data) < HEADER_SIZE + 4 or data[0] != HANDSHAKE or data[5] != message_type:
        return None
    size, length = 4 + (data[6] << 16 | data[7] << 8 | data[8]), data[3] << 8 | data[4]
    if data[1] != MAJOR or not size <= length <= MAX_FRAGMENT or len(data) < HEADER_SIZE + size:
        return None
    return data[HEADER_SIZE : HEADER_SIZE + size]
