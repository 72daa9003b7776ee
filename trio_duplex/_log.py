"""One log line for each connection, at levels that suit operators.

A peer that connects and hangs up (a health check, a port scan) is DEBUG, any
other fault of a peer INFO, a fault of ours ERROR with its traceback. Faults that
repeat are summarised: at most one line a second for each class of them, so that
no flood of bad peers is a flood of log lines.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from trio_duplex._errors import DuplexError, LimitError, PeerClosedError
from trio_duplex._events import (
    ConnectionClosed,
    Event,
    HandlerFailed,
    LimitReached,
    ListenerPaused,
    NegotiationFailed,
)

LOGGER = logging.getLogger("trio_duplex")

INTERVAL = 1.0
"""Seconds between two lines of one class of fault."""

LIMIT_INTERVAL = 10.0
"""The same for limits that are reached: a state that lasts, not an incident."""

PAUSE_INTERVAL = 60.0
"""The same for a machine that has no room: that is said once, and is over soon."""


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
        self._last: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        """Log an event, if it is one that operators should see."""
        match event:
            case ConnectionClosed():
                if self._logger.isEnabledFor(logging.INFO):
                    self._logger.info("closed %s", _closed(event))
            case NegotiationFailed(error=error):
                self._negotiation_failed(error, event)
            case HandlerFailed(error=error):
                kind = type(error).__name__
                line = f"handler-failed number={event.number} peer={event.peer} error={error!r}"
                if event.peer_fault:
                    self._fault(logging.INFO, f"{kind} in handler", line)
                else:
                    self._fault(logging.ERROR, f"{kind} in handler", line, error)
            case LimitReached():
                line = f"limit-reached limit={event.limit} value={event.value:g} peer={event.peer}"
                self._fault(logging.WARNING, event.limit, line, interval=LIMIT_INTERVAL)
            case ListenerPaused(error=error):
                line = f"listener-paused seconds={event.seconds:g} error={str(error)!r}"
                self._fault(logging.ERROR, "accept", line, interval=PAUSE_INTERVAL)
            case _:
                pass

    def flush(self) -> None:
        """Say how many lines were left out and not summarised yet."""
        for kind in list(self._unsaid):
            self._logger.info("repeated kind=%r count=%d", kind, self._unsaid.pop(kind))

    def _negotiation_failed(self, error: Exception, event: NegotiationFailed) -> None:
        kind = type(error).__name__
        line = f"failed number={event.number} peer={event.peer} error={kind} why={str(error)!r}"
        if isinstance(error, PeerClosedError | LimitError):  # the limit has its own line
            self._fault(logging.DEBUG, kind, line)
        elif isinstance(error, DuplexError):
            self._fault(logging.INFO, kind, line)
        else:
            self._fault(logging.ERROR, kind, line, error)

    def _fault(
        self,
        level: int,
        kind: str,
        line: str,
        traceback: BaseException | None = None,
        interval: float = INTERVAL,
    ) -> None:
        if not self._logger.isEnabledFor(level):
            return
        now = self._clock()
        if now - self._last.get(kind, -math.inf) < interval:
            self._unsaid[kind] = self._unsaid.get(kind, 0) + 1
            return
        self._last[kind] = now
        if repeated := self._unsaid.pop(kind, 0):
            line = f"{line} repeated={repeated}"
        self._logger.log(level, "%s", line, exc_info=traceback)


def _closed(event: ConnectionClosed) -> str:
    connection = event.connection
    decision = connection.decision
    return (
        f"number={event.number} peer={event.peer} role={decision.role} reason={decision.reason} "
        f"waited={decision.waited:.3f} received={event.bytes_received} sent={event.bytes_sent} "
        f"seconds={event.seconds:.3f}"
    )
