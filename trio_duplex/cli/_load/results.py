"""The results of a load: counts, times and errors by class, for each kind of peer. Pure."""

from __future__ import annotations

import errno
import ssl
from collections import Counter

import attrs

from trio_duplex.cli._load.engine import Latencies
from trio_duplex.cli._load.plan import HOSTILE, Mix

CONNECTED, HELLO, HANDSHAKE, ECHO, ENDED = "connected", "ClientHello", "handshake", "echo", "ended"
STAGES = (CONNECTED, HELLO, HANDSHAKE, ECHO, ENDED)
"""The stages whose times are taken, each from the moment at which the peer was due to dial."""

OUR_OWN = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN}
)
"""Errors in dialling that are our own fault, and not the server's."""

AT_THE_CAP = "--max-open"
"""The reason for not dialling if too many peers were open."""

HELD = "held until --timeout"
WE_LEFT = "itself"


class PeerEndedError(ConnectionError):
    """The server finished with a close_notify before it had answered."""


class HungUpError(ConnectionError):
    """The server hung up before it had answered."""


class WrongEchoError(ConnectionError):
    """The server sent back other bytes than it had received."""


@attrs.frozen
class Class:
    """How many errors, or ends, of one class there were, and the text of one of them."""

    count: int
    example: str


class Classes:
    """Errors, or ends, by class."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, name: str, example: str) -> None:
        """Count one more. The first one of each class is the example."""
        self._counts[name] += 1
        self._examples.setdefault(name, example)

    def items(self) -> list[tuple[str, Class]]:
        """The classes, most frequent first."""
        return [
            (name, Class(count, self._examples[name])) for name, count in self._counts.most_common()
        ]


class Figures:
    """The results of one kind of peer.

    Attributes:
        dialled: How many have begun to dial.
        done: How many got through; of hostile ones, how many have ended.
        failed: How many failed.
        not_dialled: How many did not even dial, by reason; this is our own fault.
        times: For each stage, the seconds from when a peer was due to when it
            reached the stage.
        errors: Why peers failed.
        ends: How the server ended hostile peers.
    """

    def __init__(self) -> None:
        self.dialled = 0
        self.done = 0
        self.failed = 0
        self.not_dialled: Counter[str] = Counter()
        self.times: dict[str, Latencies] = {}
        self.errors = Classes()
        self.ends = Classes()

    @property
    def unfinished(self) -> int:
        """How many had neither got through nor failed when we stopped."""
        return self.dialled - self.done - self.failed

    def reached(self, stage: str, seconds: float) -> None:
        """Record that a peer has reached a stage."""
        if stage not in self.times:
            self.times[stage] = Latencies()
        self.times[stage].add(seconds)

    def fail(self, stage: str, error: OSError) -> None:
        """Record that a peer failed before it reached a stage."""
        if stage == CONNECTED and error.errno in OUR_OWN:
            self.dialled -= 1
            self.not_dialled[errno.errorcode[error.errno]] += 1
            return
        name, example = classify_error(error)
        self.failed += 1
        self.errors.add(f"{stage}: {name}", example)

    def end(self, how: str, example: str) -> None:
        """Record how a hostile peer ended."""
        self.done += 1
        self.ends.add(how, example)


class Results:
    """The results of a load.

    Args:
        mix: The kinds of peers.

    Attributes:
        figures: The results by kind, in the order of the report.
        late: How much later than due each peer dialled, in seconds; this is our
            own fault.
        seconds: How long the load took, once it has ended.
        dialling: How long it took until the last peer had dialled.
        cpu: CPU seconds that we have used until then.
        stopped: The signal that interrupted the load, or None.
    """

    def __init__(self, mix: Mix) -> None:
        self.figures = {kind: Figures() for kind in mix.kinds}
        self.late = Latencies()
        self.seconds = 0.0
        self.dialling = 0.0
        self.cpu = 0.0
        self.stopped: str | None = None

    @property
    def dialled(self) -> int:
        """How many have dialled."""
        return sum(figures.dialled for figures in self.figures.values())

    @property
    def not_dialled(self) -> Counter[str]:
        """How many have not dialled, by reason."""
        return sum((figures.not_dialled for figures in self.figures.values()), Counter[str]())

    @property
    def rate(self) -> float:
        """How many peers dialled per second."""
        return self.dialled / self.dialling if self.dialling else 0.0

    @property
    def load(self) -> float:
        """How much CPU we used while peers dialled, in cores."""
        return self.cpu / self.dialling if self.dialling else 0.0

    @property
    def passed(self) -> bool:
        """Whether all speaking and silent peers got through, and all others could dial."""
        return not self.not_dialled and all(
            not figures.failed and (kind in HOSTILE or not figures.unfinished)
            for kind, figures in self.figures.items()
        )


def classify_error(error: OSError) -> tuple[str, str]:
    """Return the class of an error, such as ``"alert unknown_ca"``, and its text."""
    match error:
        case PeerEndedError():
            return "close_notify", str(error)
        case WrongEchoError():
            return "wrong bytes", str(error)
        case ssl.SSLCertVerificationError():
            return "certificate refused", error.verify_message
        case HungUpError():
            return "end of stream", str(error)
        # CPython 3.11.2 raises a plain SSLError instead of an SSLEOFError.
        case ssl.SSLEOFError() | ssl.SSLError(reason="UNEXPECTED_EOF_WHILE_READING"):
            return "end of stream", "the server hung up"
        case ssl.SSLZeroReturnError():
            return "close_notify", "the server finished"
        case ssl.SSLError():
            return _tls_error(error)
        case TimeoutError():
            return "timeout", error.strerror or "timed out"
        case ConnectionRefusedError():
            return "refused", error.strerror or "connection refused"
        case ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
            return "reset", "the server reset the connection"
        case OSError(errno=errno.ENOTCONN):  # the effect of a reset before the first send
            return "reset", "the server reset the connection"
        case _:
            return errno.errorcode.get(error.errno or 0, "other"), error.strerror or str(error)


def _tls_error(error: ssl.SSLError) -> tuple[str, str]:
    # OpenSSL writes TLSV1_ALERT_UNKNOWN_CA, SSLV3_ALERT_..., TLSV13_ALERT_...
    reason = getattr(error, "reason", None) or "TLS error"  # Python's own errors have no reason
    _, is_alert, name = reason.partition("_ALERT_")
    name = (name if is_alert else reason).lower().replace(" ", "_")
    # Take the text between "[SSL: WRONG_VERSION_NUMBER] " and " (_ssl.c:1006)".
    text = (error.strerror or str(error)).partition("] ")[2].partition(" (_ssl.c")[0]
    return (f"alert {name}" if is_alert else name), text or " ".join(map(str, error.args))


def last_alert(received: bytes) -> str | None:
    """Return the name of the last alert among plaintext TLS records, or None.

    It reads the records itself, for the reason in the comment of ``trio_duplex.testing``.
    """
    found = None
    position = 0
    while len(header := received[position : position + 5]) == 5:
        end = position + 5 + int.from_bytes(header[3:], "big")
        body = received[position + 5 : end]
        if header[:2] == b"\x15\x03" and len(body) == 2:  # RFC 8446, section 6
            try:
                found = (
                    ssl.AlertDescription(body[1]).name.removeprefix("ALERT_DESCRIPTION_").lower()
                )
            except ValueError:  # Python does not know all alerts
                found = str(body[1])
        position = end
    return found
