"""What came of a load: counts, times and errors by class, for each kind of peer. Pure."""

from __future__ import annotations

import errno
import ssl
from collections import Counter

import attrs

from trio_duplex.cli._load.engine import Latencies
from trio_duplex.cli._load.plan import HOSTILE, Mix

CONNECTED, HELLO, HANDSHAKE, ECHO, ENDED = "connected", "ClientHello", "handshake", "echo", "ended"
STAGES = (CONNECTED, HELLO, HANDSHAKE, ECHO, ENDED)
"""Until when time is taken. Each counts from the moment at which the peer was due to dial."""

OUR_OWN = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN}
)
"""Why we, and not the server, could not dial."""

AT_THE_CAP = "--max-open"
"""Why a peer did not dial: so many others were open."""

HELD = "held until --timeout"
WE_LEFT = "itself"


class PeerEndedError(ConnectionError):
    """The server finished in due form, with close_notify, before it had answered."""


class HungUpError(ConnectionError):
    """The server hung up before it had answered."""


class WrongEchoError(ConnectionError):
    """What came back is not what was sent."""


@attrs.frozen
class Class:
    """How many errors, or ends, of one class there were, and what one of them said."""

    count: int
    example: str


class Classes:
    """Errors, or ends, by class."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, name: str, example: str) -> None:
        """Count one more; the first of its class is the example."""
        self._counts[name] += 1
        self._examples.setdefault(name, example)

    def items(self) -> list[tuple[str, Class]]:
        """The classes, most frequent first."""
        return [
            (name, Class(count, self._examples[name])) for name, count in self._counts.most_common()
        ]


class Figures:
    """What came of one kind of peer.

    Attributes:
        dialled: How many have begun to dial.
        done: How many came through; for hostile ones, how many came to an end.
        failed: How many did not.
        not_dialled: How many did not even dial, by why: our own doing.
        times: Seconds from when each was due to a stage, of those that got there.
        errors: Why they failed.
        ends: How the server ended hostile ones.
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
        """How many were still at it when we stopped."""
        return self.dialled - self.done - self.failed

    def reached(self, stage: str, seconds: float) -> None:
        """Note that a peer has reached a stage."""
        if stage not in self.times:
            self.times[stage] = Latencies()
        self.times[stage].add(seconds)

    def fail(self, stage: str, error: OSError) -> None:
        """Note that a peer failed on its way to a stage."""
        if stage == CONNECTED and error.errno in OUR_OWN:
            self.dialled -= 1
            self.not_dialled[errno.errorcode[error.errno]] += 1
            return
        name, example = classify_error(error)
        self.failed += 1
        self.errors.add(f"{stage}: {name}", example)

    def end(self, how: str, example: str) -> None:
        """Note how a hostile peer ended."""
        self.done += 1
        self.ends.add(how, example)


class Results:
    """What came of a load.

    Args:
        mix: Who dials.

    Attributes:
        figures: By kind, in the order of the report.
        late: Seconds that we dialled later than was due: our own fault.
        seconds: How long it took, once it has ended.
        dialling: Of that, until the last peer had dialled.
        cpu: CPU seconds that we spent, until then.
        stopped: By which signal it was broken off, or None.
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
        """How many have not, by why."""
        return sum((figures.not_dialled for figures in self.figures.values()), Counter[str]())

    @property
    def rate(self) -> float:
        """Peers that dialled a second."""
        return self.dialled / self.dialling if self.dialling else 0.0

    @property
    def load(self) -> float:
        """Our own CPU while they dialled, in cores."""
        return self.cpu / self.dialling if self.dialling else 0.0

    @property
    def passed(self) -> bool:
        """Whether all speaking and silent peers got through, and all others could dial."""
        return not self.not_dialled and all(
            not figures.failed and (kind in HOSTILE or not figures.unfinished)
            for kind, figures in self.figures.items()
        )


def classify_error(error: OSError) -> tuple[str, str]:
    """Name the class of an error, and say what it says: ``("alert unknown_ca", ...)``."""
    match error:
        case PeerEndedError():
            return "close_notify", str(error)
        case WrongEchoError():
            return "wrong bytes", str(error)
        case ssl.SSLCertVerificationError():
            return "certificate refused", error.verify_message
        case HungUpError():
            return "end of stream", str(error)
        # The latter is how CPython 3.11.2 raises the former.
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
            return "reset", error.strerror or "connection reset"
        case OSError(errno=errno.ENOTCONN):  # how a reset shows before the first send
            return "reset", "the connection was reset"
        case _:
            return errno.errorcode.get(error.errno or 0, "other"), error.strerror or str(error)


def _tls_error(error: ssl.SSLError) -> tuple[str, str]:
    # OpenSSL writes TLSV1_ALERT_UNKNOWN_CA, SSLV3_ALERT_..., TLSV13_ALERT_...
    reason = getattr(error, "reason", None) or "TLS error"  # Python's own have none
    _, is_alert, name = reason.partition("_ALERT_")
    name = (name if is_alert else reason).lower().replace(" ", "_")
    # What is between "[SSL: WRONG_VERSION_NUMBER] " and " (_ssl.c:1006)".
    said = (error.strerror or str(error)).partition("] ")[2].partition(" (_ssl.c")[0]
    return (f"alert {name}" if is_alert else name), said or " ".join(map(str, error.args))


def last_alert(received: bytes) -> str | None:
    """The name of the last alert among plaintext TLS records, or None."""
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
            except ValueError:  # Python does not have them all
                found = str(body[1])
        position = end
    return found
