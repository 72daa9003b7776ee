"""TLS records as the kit reads, writes and explains them.

Pure, and independent of the library: the comment in ``__init__`` says why.
`RecordReader` decodes for transcripts. It explains and does not judge: it accepts
bytes cut in any way, says what is encrypted and what is not TLS, and never raises.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

# This is the only private module that the kit uses: see the comment in ``__init__``.
from trio_duplex._wire.alerts import alert_name
from trio_duplex.openings import classify

# RFC 8446, section 5.1, and RFC 6520
CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA, HEARTBEAT = 20, 21, 22, 23, 24
HEADER_SIZE = 5
MAX_LENGTH = 2**14 + 2048
"""The most bytes in a record in any TLS version (RFC 5246, section 6.2.3)."""

_TYPES = {
    CHANGE_CIPHER_SPEC: "change_cipher_spec",
    ALERT: "alert",
    HANDSHAKE: "handshake",
    APPLICATION_DATA: "application data",
    HEARTBEAT: "heartbeat",
}

_SERVER_HELLO = 2
# RFC 8446, section 4, and RFC 5246, section 7.4
_MESSAGES = {
    0: "HelloRequest",
    1: "ClientHello",
    _SERVER_HELLO: "ServerHello",
    4: "NewSessionTicket",
    8: "EncryptedExtensions",
    11: "Certificate",
    12: "ServerKeyExchange",
    13: "CertificateRequest",
    14: "ServerHelloDone",
    15: "CertificateVerify",
    16: "ClientKeyExchange",
    20: "Finished",
    22: "CertificateStatus",
    24: "KeyUpdate",
}


def make_record(kind: int, contents: bytes, version: bytes = b"\x03\x03") -> bytes:
    """Make a TLS record with these contents, even if they are too long or make no sense."""
    return bytes([kind]) + version + len(contents).to_bytes(2, "big") + contents


def split_records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the content type and the contents of each record that is whole."""
    position = 0
    while (length := _length(data, position)) is not None:
        start = position + HEADER_SIZE
        if len(data) < start + length:
            return
        yield data[position], data[start : start + length]
        position = start + length


def _length(data: bytes | bytearray, position: int = 0) -> int | None:
    """Return how many bytes follow the header at a position; None if it is not whole."""
    end = position + HEADER_SIZE
    return None if len(data) < end else int.from_bytes(data[end - 2 : end], "big")


@attrs.frozen
class Record:
    """One TLS record, or bytes that are not TLS.

    Attributes:
        what: A description, such as ``"handshake, 512 bytes: ClientHello"``.
        alert: The name of the alert in the record, such as ``"unknown_ca"``, if
            there is one and it is not encrypted; else None.
        fatal: Whether that alert is fatal.
    """

    what: str
    alert: str | None = None
    fatal: bool = False


class RecordReader:
    """Reads the records of one direction of a connection, however they are cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._encrypted = False
        self._message_missing = 0  # bytes of a handshake message that have yet to come
        self._message_head = b""  # the start of a message whose header is not whole yet
        self._first = True
        self._foreign = False

    def feed(self, data: bytes) -> list[Record]:
        """Take more bytes, and return the records that they complete.

        Bytes that are not TLS are returned at once, and so are all bytes after
        them, because it is not known where a record could begin.
        """
        self._buffer += data
        found: list[Record] = []
        while self._buffer and not self._foreign:
            if not self._plausible():
                self._foreign = True
                break
            length = _length(self._buffer)
            if length is None or len(self._buffer) < HEADER_SIZE + length:
                return found
            body = bytes(self._buffer[HEADER_SIZE : HEADER_SIZE + length])
            found.append(self._read(self._buffer[0], body))
            del self._buffer[: HEADER_SIZE + length]
            self._first = False
        if self._foreign and self._buffer:
            found.append(self._not_tls(bytes(self._buffer)))
            self._buffer.clear()
        return found

    def rest(self) -> Record | None:
        """Return the part of an incomplete record that has come, or None."""
        if not self._buffer:
            return None
        name = _TYPES[self._buffer[0]]
        name = f"{'an' if name[0] == 'a' else 'a'} {name}"
        length = _length(self._buffer)
        if length is None:
            return Record(f"{_count(self._buffer)} of the header of {name} record")
        here = len(self._buffer) - HEADER_SIZE
        return Record(f"{here} of the {length} bytes of {name} record")

    def _plausible(self) -> bool:
        head = self._buffer[:HEADER_SIZE]
        return (
            head[0] in _TYPES
            and (len(head) < 2 or head[1] == 3)
            and (_length(head) or 0) <= MAX_LENGTH
        )

    def _not_tls(self, data: bytes) -> Record:
        looks = f", {classify(data).looks_like}" if self._first else ""
        self._first = False
        shown = repr(data[:24])[1:] + ("..." if len(data) > 24 else "")
        return Record(f"not TLS, {_count(data)}{looks}: {shown}")

    def _read(self, kind: int, body: bytes) -> Record:
        head = f"{_TYPES[kind]}, {_count(body)}"
        if kind == CHANGE_CIPHER_SPEC:
            self._encrypted = True
        elif kind == ALERT and len(body) == 2:
            fatal = body[0] == 2
            level = "fatal" if fatal else "warning"
            return Record(f"{head}: {level} {alert_name(body[1])}", alert_name(body[1]), fatal)
        elif kind == HANDSHAKE and not self._encrypted:
            return Record(f"{head}: {self._messages(body)}")
        elif kind in {HANDSHAKE, ALERT}:
            return Record(f"{head} (encrypted)")
        return Record(head)

    def _messages(self, body: bytes) -> str:
        """Name the handshake messages that begin in this record's body."""
        names: list[str] = []
        data = self._message_head + body
        self._message_head = b""
        if self._message_missing:
            names.append("(continued)")
        while data:
            if self._message_missing:
                taken = min(self._message_missing, len(data))
                self._message_missing -= taken
                data = data[taken:]
            elif len(data) < 4:
                self._message_head = data
                names.append("(the start of a message)")
                break
            else:
                names.append(_MESSAGES.get(data[0], f"message of type {data[0]}"))
                self._message_missing = 4 + int.from_bytes(data[1:4], "big")
        return ", ".join(names) or "(empty)"


def _count(data: bytes | bytearray) -> str:
    return f"{len(data)} byte{'' if len(data) == 1 else 's'}"


def cut_records(records: bytes, size: int) -> bytes:
    """Cut the contents of TLS records into records of ``size`` bytes each.

    A ClientHello in one-byte records is valid (RFC 8446, section 5.1), but few
    listeners are ever tested with one.

    Args:
        records: Whole TLS records, as an ``ssl.SSLObject`` writes them.
        size: Bytes of content in each record, at least 1.

    Raises:
        ValueError: ``size`` is less than 1, or ``records`` are not whole.
    """
    if size < 1:
        raise ValueError(f"a record must hold at least 1 byte, not {size}")
    cut = bytearray()
    position = 0
    while position < len(records):
        kind, version = records[position], records[position + 1 : position + 3]
        length = _length(records, position)
        position += HEADER_SIZE
        if length is None or len(records) < position + length:
            raise ValueError("the records are not whole")
        body = records[position : position + length]
        for start in range(0, length, size):
            cut += make_record(kind, body[start : start + size], version)
        position += length
    return bytes(cut)
