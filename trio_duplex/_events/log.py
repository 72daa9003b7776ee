"""One log line for each connection, at levels that suit operators.

A peer that connects and hangs up (a health check, a port scan) is logged at DEBUG,
every other fault of a peer at INFO, and a fault of ours at ERROR, with its traceback.
Whatever peers of muted networks do is logged at DEBUG. Repeated faults are summarised:
there is at most one line a second for each class of fault, so that a flood of bad peers
does not become a flood of log lines. The next line of the class has the addresses of the
peers whose lines were left out.

A line consists of a word for what happened and ``key=value`` pairs, separated by single
spaces. A value with unusual characters is in double quotes, with JSON's escapes.
``shlex.split`` splits a line correctly. The same facts, and some more, are in the
record's attribute ``facts``, where numbers are numbers.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from typing import cast

import attrs

from trio_duplex._errors import DuplexError, LimitError, PeerClosedError
from trio_duplex._events.events import (
    Accepted,
    ConnectionClosed,
    Event,
    HandlerFailed,
    HandshakeCompleted,
    LimitReached,
    ListenerPaused,
    NegotiationFailed,
    OwnCertificateExpired,
    PeerChangedKind,
    PolicyFailed,
    RoleDecided,
)
from trio_duplex._events.probes import MutedNetworks, host_of
from trio_duplex._stream.connection import Connection
from trio_duplex._tls.reasons import is_own_fault

LOGGER = logging.getLogger("trio_duplex")

INTERVAL = 1.0
"""Seconds between two lines of one class of fault."""

LIMIT_INTERVAL = 10.0
"""The same for a limit that is reached, which is a lasting state rather than an incident."""

PAUSE_INTERVAL = 60.0
"""The same for a machine that has no room, and for a certificate of ours that has expired.
Both last until somebody acts, so more lines would say nothing new."""

MAX_WHY = 400
"""The most characters of an exception's text. Our own texts are shorter, but an exception from a
handler can have a text of any length."""

MAX_ADDRESSES = 50
"""The most addresses in one line, which take 1 to 2 KB. For all others together, the line has the
number of lines left out."""

MILLISECONDS = {"waited", "seconds"}
"""The values that are written with three decimals."""

_PLAIN = re.compile(r"[\w.:/@%+\[\]-]+", re.ASCII)


@attrs.define(eq=False)
class _Class:
    """A class of faults: when its last line was written, and what was left out since then."""

    level: int
    kind: str
    interval: float
    last: float
    left_out: int = 0
    addresses: dict[str, int] = attrs.field(factory=dict[str, int])

    def leave_out(self, peer: str | None) -> None:
        """Count a line that is not written."""
        self.left_out += 1
        address = host_of(peer)
        if address is not None and (
            address in self.addresses or len(self.addresses) < MAX_ADDRESSES
        ):
            self.addresses[address] = self.addresses.get(address, 0) + 1

    def take_summary(self, count: str) -> dict[str, object]:
        """Return what was left out since the last line, its number under the key ``count``; reset both."""
        facts: dict[str, object] = {count: self.left_out}
        if self.addresses:
            facts["addresses"] = self.addresses
            if others := self.left_out - sum(self.addresses.values()):
                facts["others"] = others
        self.left_out, self.addresses = 0, {}
        return facts


class LogObserver:
    """Writes events to a standard logger.

    Args:
        logger: The logger.
        clock: Returns seconds. It is not Trio's clock, because a test may stop that.
        muted: Networks whose peers are logged only at DEBUG. Faults of our own
            are logged as usual.
    """

    def __init__(
        self,
        logger: logging.Logger = LOGGER,
        clock: Callable[[], float] = time.monotonic,
        muted: MutedNetworks | None = None,
    ) -> None:
        self._logger = logger
        self._muted = MutedNetworks() if muted is None else muted
        self._clock = clock
        self._classes: dict[tuple[int, str], _Class] = {}
        self._left_out: set[tuple[int, str]] = set()  # the classes that have something to summarise
        self._failed_handlers: dict[int, HandlerFailed] = {}

    def __call__(self, event: Event) -> None:
        """Log an event, if it is one that operators should see."""
        match event:
            case Accepted() | RoleDecided() | HandshakeCompleted():
                pass  # the steps of every connection, of which ConnectionClosed tells in the end
            case ConnectionClosed():
                self._closed(event)
            case NegotiationFailed(error=error):
                self._fault(
                    _negotiation_level(event),
                    type(error).__name__,
                    "failed",
                    error,
                    peer=event.peer,
                    facts=lambda: {
                        "number": event.number,
                        "peer": event.peer,
                        # `probe` is None for a PeerClosedError, which is a probe by its class.
                        **({} if event.probe is None else {"probe": str(event.probe)}),
                    },
                )
            case PeerChangedKind():
                level = logging.DEBUG if event.peer in self._muted else logging.INFO
                if self._logger.isEnabledFor(level):
                    kind = "silent" if event.silent else "speaking"
                    self._write(
                        level,
                        "peer-changed-kind",
                        {"number": event.number, "peer": event.peer, "key": event.key, "now": kind},
                        address=host_of(event.peer),
                    )
            case PolicyFailed(error=error):
                self._fault(
                    logging.ERROR,
                    f"{type(error).__name__} in window policy",
                    "policy-failed",
                    error,
                    peer=event.peer,
                    facts=lambda: {"number": event.number, "peer": event.peer},
                )
            case HandlerFailed():
                # It is logged together with the ConnectionClosed that follows, in one line.
                self._failed_handlers[event.number] = event
            case LimitReached():
                self._fault(
                    logging.WARNING,
                    event.limit,
                    "limit-reached",
                    interval=LIMIT_INTERVAL,
                    peer=event.peer,
                    facts=lambda: {
                        "limit": event.limit,
                        "value": event.value,
                        "peer": event.peer,
                    },
                )
            case OwnCertificateExpired(not_after=not_after):
                self._fault(
                    logging.ERROR,
                    "own certificate",
                    "own-certificate-expired",
                    interval=PAUSE_INTERVAL,
                    peer=event.peer,
                    facts=lambda: {
                        "why": f"our own expired on {not_after:%Y-%m-%d %H:%M} UTC, so peers refuse us",
                        "advice": "renew it, then reload(); if it is valid, set this machine's clock",
                        "peer": event.peer,
                    },
                )
            case ListenerPaused(error=error):
                self._fault(
                    logging.ERROR,
                    "accept",
                    "listener-paused",
                    error,
                    interval=PAUSE_INTERVAL,
                    traceback=False,  # the machine is full, so our code is not at fault
                    peer=None,
                    facts=lambda: {"seconds": event.seconds},
                )
            case _:
                pass
        if self._left_out:
            self._summarise(self._clock())

    def limits(self, *, connections: float, open_files: float, **others: float) -> None:
        """Log at the start which limits apply, with a warning if the machine has no room for them."""
        enough = open_files > connections
        level = logging.INFO if enough else logging.WARNING
        if self._logger.isEnabledFor(level):
            values: dict[str, object] = {
                "connections": connections,
                **others,
                "open_files": open_files,
            }
            if not enough:
                values["advice"] = "raise ulimit -n, or lower Limits.connections below it"
            self._write(level, "limits", values)

    def flush(self) -> None:
        """Log how many lines were left out and not summarised yet."""
        self._summarise(None)

    def _closed(self, event: ConnectionClosed) -> None:
        failure = self._failed_handlers.pop(event.number, None)
        if failure is None and not self._logger.isEnabledFor(logging.INFO):
            return
        quiet = logging.DEBUG if event.peer in self._muted else logging.INFO
        if failure is None:
            if self._logger.isEnabledFor(quiet):
                self._write(quiet, "closed", _connection(event), address=host_of(event.peer))
            return
        self._fault(
            quiet if failure.peer_fault else logging.ERROR,
            f"{type(failure.error).__name__} in handler",
            "handler-failed",
            failure.error,
            peer=event.peer,
            facts=lambda: _connection(event),
        )

    def _fault(
        self,
        level: int,
        kind: str,
        word: str,
        error: Exception | None = None,
        *,
        interval: float = INTERVAL,
        traceback: bool = True,
        peer: str | None,
        facts: Callable[[], dict[str, object]],
    ) -> None:
        if not self._logger.isEnabledFor(level):
            return
        now, key = self._clock(), (level, kind)
        fault = self._classes.get(key)
        if fault is None:
            self._classes[key] = fault = _Class(level, kind, interval, last=now)
        elif now - fault.last < interval:
            fault.leave_out(peer)
            self._left_out.add(key)
            return
        shown, beside = facts(), {"address": host_of(peer), **_of_error(error)}
        if error is not None:
            shown |= {"error": type(error).__name__, "why": _why(error)}
        if fault.left_out:
            self._left_out.remove(key)
            shown |= fault.take_summary("repeated")
        fault.last = now
        self._write(
            level,
            word,
            shown,
            error if traceback and level >= logging.ERROR else None,
            **beside,
        )

    def _summarise(self, now: float | None) -> None:
        """Log how often faults were repeated, for each class that is due; for all if ``now`` is None."""
        for key in tuple(self._left_out):
            fault = self._classes[key]
            if now is not None:
                # A fault that goes on is summarised in its own next line, which also shows the latest.
                if now - fault.last < 2 * fault.interval:
                    continue
                fault.last = now
            self._left_out.remove(key)
            self._write(fault.level, "repeated", {"kind": fault.kind} | fault.take_summary("count"))

    def _write(
        self,
        level: int,
        word: str,
        shown: dict[str, object],
        exc_info: Exception | None = None,
        **beside: object,
    ) -> None:
        """Write a line with the facts ``shown``; the record also gets the facts ``beside``."""
        facts = {"event": word, **beside, **shown}
        self._logger.log(
            level, "%s", _line(word, **shown), exc_info=exc_info, extra={"facts": facts}
        )


def _negotiation_level(event: NegotiationFailed) -> int:
    error = event.error
    # A limit has a line of its own, for the event LimitReached.
    if event.probe is not None or isinstance(error, PeerClosedError | LimitError):
        return logging.DEBUG
    if isinstance(error, DuplexError) and not is_own_fault(error):
        return logging.INFO
    return logging.ERROR


def _of_error(error: Exception | None) -> dict[str, object]:
    """Return the facts of an error of ours; a line has them only within ``why``."""
    if not isinstance(error, DuplexError):
        return {}
    role = None if error.role is None else str(error.role)
    return {
        "role": role,
        "seen": error.seen,
        "tls_reason": error.tls_reason,
        "advice": error.advice,
    }


def _connection(event: ConnectionClosed) -> dict[str, object]:
    decision = event.connection.decision
    return {
        "number": event.number,
        "peer": event.peer,
        "identity": _identity(event.connection),
        "role": str(decision.role),
        "reason": str(decision.reason),
        **({"rule": decision.rule} if decision.rule else {}),
        "waited": decision.waited,
        "received": event.bytes_received,
        "sent": event.bytes_sent,
        "seconds": event.seconds,
    }


def _identity(connection: Connection) -> str:
    if connection.is_anonymous:
        return "anonymous"
    try:
        return str(connection.peer)
    except ValueError:  # trusted, but its issuer has put something into it that can't be parsed
        return "unreadable"


def _why(error: Exception) -> str:
    try:
        return str(error)[:MAX_WHY]
    except Exception:  # noqa: BLE001 - the exception is the user's, and its str() may raise anything
        return "no text"


def _line(word: str, **values: object) -> str:
    return " ".join([word, *(f"{key}={_value(key, value)}" for key, value in values.items())])


def _value(key: str, value: object) -> str:
    match value:
        case float():
            text = f"{value:.3f}" if key in MILLISECONDS else f"{value:g}"
        case dict():
            counts = cast("dict[str, int]", value)
            text = " ".join(f"{each}={count}" for each, count in counts.items())
        case _:
            text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
