"""What happened, told to the operator: one log line for each connection that ends badly.

Levels suit operators: a peer that connects and hangs up (a port scan, a health
check) is DEBUG, any other fault of a peer INFO, a fault of ours ERROR with its
traceback.
"""

from __future__ import annotations

import logging
from typing import cast

import trio

from trio_duplex._errors import DuplexError, PeerClosedError

LOGGER = logging.getLogger("trio_duplex")


def is_peer_fault(error: Exception) -> bool:
    """Whether an exception that left a handler is the peer's or the network's doing."""
    if isinstance(error, ExceptionGroup):
        parts = cast("ExceptionGroup[Exception]", error).exceptions
        return all(is_peer_fault(part) for part in parts)
    return isinstance(error, trio.BrokenResourceError | DuplexError)


def log_refused(error: DuplexError) -> None:
    """Log a connection that never reached its handler."""
    level = logging.DEBUG if isinstance(error, PeerClosedError) else logging.INFO
    LOGGER.log(level, "%s: %s", type(error).__name__, error)


def log_negotiation_failure(error: Exception) -> None:
    """Log an exception in a negotiation that is nobody's but ours."""
    LOGGER.error("negotiation failed: %r", error, exc_info=error)


def log_handler_failure(error: Exception, peer: str | None) -> None:
    """Log an exception that left a handler."""
    if is_peer_fault(error):
        LOGGER.info("connection with %s broke: %r", peer, error)
    else:
        LOGGER.error("handler failed on the connection with %s", peer, exc_info=error)


def log_accept_failure(error: OSError, pause: float) -> None:
    """Log that the machine has no room for a connection now."""
    LOGGER.error("accept failed (%s); trying again in %g s", error, pause)
