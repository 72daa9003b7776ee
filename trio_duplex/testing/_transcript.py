"""What a peer did and saw: the transcript, and the report."""

from __future__ import annotations

import enum
import ssl
from itertools import groupby
from typing import Literal

import attrs

from trio_duplex import Role
from trio_duplex.testing._records import RecordReader

_ARROWS = {"sent": "->", "received": "<-", "note": "  "}


@attrs.frozen
class Entry:
    """One thing that happened to a peer.

    Attributes:
        seconds: When, from the start of the transcript.
        kind: Bytes sent or received, or a note of what else happened.
        data: The bytes; empty for a note.
        text: The note; empty for bytes.
    """

    seconds: float
    kind: Literal["sent", "received", "note"]
    data: bytes = b""
    text: str = ""


@attrs.define(eq=False)
class Transcript:
    """Everything that a peer has sent and received, with times; ``str()`` decodes it.

    Attributes:
        title: The name of the peer.
        entries: What happened, in order, as raw bytes. TLS is decoded when the
            transcript is printed.
    """

    title: str
    entries: list[Entry] = attrs.field(factory=list[Entry])

    @property
    def sent(self) -> bytes:
        """All bytes that the peer has sent."""
        return b"".join(entry.data for entry in self.entries if entry.kind == "sent")

    @property
    def received(self) -> bytes:
        """All bytes that the peer has received."""
        return b"".join(entry.data for entry in self.entries if entry.kind == "received")

    def lines(self) -> list[str]:
        """Return the transcript for people: a line for each record, alert and note."""
        readers = {"sent": RecordReader(), "received": RecordReader()}
        happened: list[tuple[float, str, str]] = []
        last = 0.0
        for entry in self.entries:
            last, arrow = entry.seconds, _ARROWS[entry.kind]
            if entry.kind == "note":
                happened.append((last, arrow, entry.text))
            else:
                records = readers[entry.kind].feed(entry.data)
                happened += [(last, arrow, record.what) for record in records]
        for kind, reader in readers.items():
            if (rest := reader.rest()) is not None:
                happened.append((last, _ARROWS[kind], f"{rest.what}, and no more"))
        lines: list[str] = []
        # Put equal events into one line, or a thousand records of one byte would hide all others.
        for (arrow, what), run in groupby(happened, key=lambda line: line[1:]):
            times = [seconds for seconds, _, _ in run]
            often = f" ({len(times)} times, until {times[-1]:.3f} s)" if len(times) > 1 else ""
            lines.append(f"{times[0]:9.3f} s  {arrow}  {what}{often}")
        return lines

    def __str__(self) -> str:
        lines = self.lines() or ["    nothing happened"]
        return "\n".join([f"transcript of the {self.title} (-> sent, <- received)", *lines])


class End(enum.Enum):
    """How the other end finished the stream."""

    CLOSE_NOTIFY = "close_notify"
    """The end sent a close_notify, as TLS demands."""

    EOF = "eof"
    """The stream ended (FIN) without a close_notify."""

    RESET = "reset"
    """The connection was reset (RST)."""

    def __str__(self) -> str:
        return self.value


@attrs.define(eq=False, repr=False)
class PeerReport:
    """What a scripted peer has seen. It is updated while the peer runs.

    ``print(report)`` shows the facts and the whole transcript. If the peer came
    from a fixture, a failed test shows them, too.

    Attributes:
        peer: The kind of peer, such as ``"silent peer"``.
        transcript: Everything that the peer has sent and received.
        role: The TLS role that the peer has played; None until its handshake is
            complete.
        tls_version: The TLS version, such as ``"TLSv1.3"``; None until the
            handshake is complete.
        alert: The last fatal alert that the peer has received, such as
            ``"unknown_ca"``.
        end: How the other end finished the stream, if it did so before the
            peer hung up.
        error: What ended the peer's script early: an ``ssl.SSLError``, a
            ``trio.BrokenResourceError`` or an ``EOFError``; or a
            ``trio.TooSlowError`` if the peer's patience ended.
        seconds: How long the peer ran, on Trio's clock.
    """

    peer: str
    transcript: Transcript
    role: Role | None = None
    tls_version: str | None = None
    alert: str | None = None
    end: End | None = None
    error: Exception | None = None
    seconds: float = 0.0
    _heard: bytearray = attrs.field(init=False, factory=bytearray)

    @property
    def heard(self) -> bytes:
        """The application data that the peer has received, decrypted."""
        return bytes(self._heard)

    def hear(self, data: bytes) -> None:
        """Add to what was `heard`."""
        self._heard += data

    @property
    def sent(self) -> bytes:
        """All bytes that the peer has sent."""
        return self.transcript.sent

    @property
    def received(self) -> bytes:
        """All bytes that the peer has received."""
        return self.transcript.received

    def assert_role(self, role: Role | None) -> None:
        """Assert which TLS role the peer has played.

        Args:
            role: The role of the peer, not of the end under test; None for no
                complete handshake.

        Raises:
            AssertionError: It was another role. The message has the transcript.
        """
        __tracebackhide__ = True
        if self.role is not role:
            raise AssertionError(
                f"the {self.peer} was to play TLS {_name(role)}, and played {_name(self.role)}\n{self}"
            )

    def __repr__(self) -> str:
        return f"<PeerReport: {self._facts()}>"

    def __str__(self) -> str:
        return f"{self._facts()}\n{self.transcript}"

    def _facts(self) -> str:
        facts = [self.peer, f"role {_name(self.role)}"]
        if self.tls_version:
            facts.append(self.tls_version)
        if self.heard:
            facts.append(f"heard {len(self.heard)} bytes")
        if self.alert:
            facts.append(f"alert {self.alert}")
        if self.end:
            facts.append(f"ended by {self.end}")
        if self.error:
            facts.append(f"error {self.error!r}")
        return ", ".join([*facts, f"{self.seconds:.3f} s"])


def _name(role: Role | None) -> str:
    return str(role) if role else "no role"


def alert_of(error: BaseException) -> str | None:
    """Return the name of the alert that made OpenSSL raise this error, or None.

    OpenSSL writes ``TLSV1_ALERT_UNKNOWN_CA``, ``SSLV3_ALERT_...``, ``TLSV13_...``.
    """
    if not isinstance(error, ssl.SSLError):
        return None
    _, is_alert, name = (error.reason or "").partition("_ALERT_")
    return name.lower() if is_alert else None
