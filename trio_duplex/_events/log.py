"""One log line for each connection, at levels that suit operators.

A peer that connects and hangs up (a health check, a port scan) is DEBUG, any
other fault of a peer INFO, a fault of ours ERROR with its traceback. Faults that
repeat are summarised: at most one line a second for each class of them, so that
no flood of bad peers is a flood of log lines.

A line is a word for what happened, then ``key=value`` pairs, one space apart. A
value that is not made of plain characters stands in double quotes, with JSON's
escapes. ``shlex.split`` takes a line apart.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from math import isnan

import attrs

from trio_duplex._errors import DuplexError, LimitError, PeerClosedError
from trio_duplex._events.events import (
    ConnectionClosed,
    Event,
    HandlerFailed,
    LimitReached,
    ListenerPaused,
    NegotiationFailed,
)
from trio_duplex._stream.connection import Connection

LOGGER = logging.getLogger("trio_duplex")

INTERVAL = 1.0
"""Seconds between two lines of one class of fault."""

LIMIT_INTERVAL = 10.0
"""The same for limits that are reached: a state that lasts, not an incident."""

PAUSE_INTERVAL = 60.0
"""The same for a machine that has no room: that is said once, and is over soon."""

MAX_WHY = 400
"""Characters of an exception's text. Ours are shorter; what leaves a handler may
hold anything."""

_PLAIN = re.compile(r"[\w.:/@%+\[\]-]+", re.ASCII)


@attrs.define
class _Class:
    """A class of faults: when its last line was written, and how many lines were not."""

    level: int
    kind: str
    interval: float
    last: float
    unsaid: int = 0


class LogObserver:
    """Writes events to a standard logger.

    Args:
        logger: Where to.
        clock: Gives seconds; not Trio's, which a test may stop.
    """

    def __init__(
        self, logger: logging.Logger = LOGGER, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._clock = clock
        self._classes: dict[tuple[int, str], _Class] = {}
        self._unsaid: set[tuple[int, str]] = set()  # those that have something to summarise
        self._failed_handlers: dict[int, HandlerFailed] = {}

    def __call__(self, event: Event) -> None:
        """Log an event, if it is one that operators should see."""
        match event:
            case ConnectionClosed():
                self._closed(event)
            case NegotiationFailed(error=error):
                self._fault(
                    _negotiation_level(error),
                    type(error).__name__,
                    "failed",
                    error,
                    facts=lambda: {"number": event.number, "peer": event.peer},
                )
            case HandlerFailed():
                self._failed_handlers[event.number] = event  # one line, when it is closed
            case LimitReached():
                self._fault(
                    logging.WARNING,
                    event.limit,
                    "limit-reached",
                    interval=LIMIT_INTERVAL,
                    facts=lambda: {
                        "limit": event.limit,
                        # The machine's own limits have no number here.
                        **({} if isnan(event.value) else {"value": f"{event.value:g}"}),
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
                    traceback=False,  # the machine is full: no line of ours is wrong
                    facts=lambda: {"seconds": f"{event.seconds:g}"},
                )
            case _:
                pass
        if self._unsaid:
            self._summarise(self._clock())

    def flush(self) -> None:
        """Say how many lines were left out and not summarised yet."""
        self._summarise(None)

    def _closed(self, event: ConnectionClosed) -> None:
        failure = self._failed_handlers.pop(event.number, None)
        if failure is None:
            if self._logger.isEnabledFor(logging.INFO):
                self._logger.info("%s", _line("closed", **_connection(event)))
            return
        level = logging.INFO if failure.peer_fault else logging.ERROR
        kind = f"{type(failure.error).__name__} in handler"
        self._fault(level, kind, "handler-failed", failure.error, facts=lambda: _connection(event))

    def _fault(
        self,
        level: int,
        kind: str,
        word: str,
        error: Exception | None = None,
        *,
        interval: float = INTERVAL,
        traceback: bool = True,
        facts: Callable[[], Mapping[str, object]],
    ) -> None:
        if not self._logger.isEnabledFor(level):
            return
        now, key = self._clock(), (level, kind)
        fault = self._classes.get(key)
        if fault is None:
            self._classes[key] = fault = _Class(level, kind, interval, last=now)
        elif now - fault.last < interval:
            fault.unsaid += 1
            self._unsaid.add(key)
            return
        values = dict(facts())
        if error is not None:
            values |= {"error": type(error).__name__, "why": _why(error)}
        if fault.unsaid:
            values["repeated"] = self._taken_down(key)
        fault.last = now
        self._logger.log(
            level,
            "%s",
            _line(word, **values),
            exc_info=error if traceback and level >= logging.ERROR else None,
        )

    def _summarise(self, now: float | None) -> None:
        """Say how often a fault was repeated, where it is time; at once if ``now`` is None."""
        for key in tuple(self._unsaid):
            fault = self._classes[key]
            if now is not None:
                # One that goes on says so itself, and shows its latest.
                if now - fault.last < 2 * fault.interval:
                    continue
                fault.last = now
            count = self._taken_down(key)
            self._logger.log(fault.level, "%s", _line("repeated", kind=fault.kind, count=count))

    def _taken_down(self, key: tuple[int, str]) -> int:
        self._unsaid.remove(key)
        fault = self._classes[key]
        count, fault.unsaid = fault.unsaid, 0
        return count


def _negotiation_level(error: Exception) -> int:
    if isinstance(error, PeerClosedError | LimitError):  # the limit has its own line
        return logging.DEBUG
    return logging.INFO if isinstance(error, DuplexError) else logging.ERROR


def _connection(event: ConnectionClosed) -> dict[str, object]:
    decision = event.connection.decision
    return {
        "number": event.number,
        "peer": event.peer,
        "identity": _identity(event.connection),
        "role": decision.role,
        "reason": decision.reason,
        "waited": f"{decision.waited:.3f}",
        "received": event.bytes_received,
        "sent": event.bytes_sent,
        "seconds": f"{event.seconds:.3f}",
    }


def _identity(connection: Connection) -> str:
    try:
        return str(connection.peer)
    except ValueError:  # trusted, so its issuer made it so
        return "unreadable"


def _why(error: Exception) -> str:
    try:
        return str(error)[:MAX_WHY]
    except Exception:  # noqa: BLE001 - it is the user's, and may do anything
        return "no text"


def _line(word: str, **values: object) -> str:
    return " ".join([word, *(f"{key}={_value(value)}" for key, value in values.items())])


def _value(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
