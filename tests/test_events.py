"""Whose fault it was, and at what level it is told: `trio_duplex._events`."""

from __future__ import annotations

import errno
import logging

import pytest
import trio

from trio_duplex import (
    DuplexError,
    GlareError,
    HandshakeError,
    HandshakeTimeoutError,
    NotTLSError,
    PeerClosedError,
    SelfConnectionError,
)
from trio_duplex._events import (
    LOGGER,
    is_peer_fault,
    log_accept_failure,
    log_handler_failure,
    log_negotiation_failure,
    log_refused,
)

BROKEN, BUG = trio.BrokenResourceError(), ZeroDivisionError()


@pytest.fixture(autouse=True)
def _every_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="trio_duplex")


@pytest.mark.parametrize(
    ("error", "theirs"),
    [
        (BROKEN, True),
        (HandshakeError("of a connection that the handler dialled"), True),
        (trio.ClosedResourceError(), False),
        (trio.BusyResourceError(), False),
        (OSError(errno.ECONNREFUSED, "no"), False),
        (BUG, False),
        (ExceptionGroup("", [BROKEN, BROKEN]), True),
        (ExceptionGroup("", [BROKEN, BUG]), False),
        (ExceptionGroup("", [BROKEN, ExceptionGroup("", [BROKEN])]), True),
        (ExceptionGroup("", [BROKEN, ExceptionGroup("", [BUG])]), False),
    ],
)
def test_whose_fault(error: Exception, theirs: bool, caplog: pytest.LogCaptureFixture) -> None:
    assert is_peer_fault(error) is theirs
    log_handler_failure(error, "192.0.2.7:4711")
    (record,) = caplog.records
    assert "192.0.2.7:4711" in record.getMessage()
    if theirs:
        assert (record.levelno, record.exc_info) == (logging.INFO, None)
    else:
        assert record.levelno == logging.ERROR
        assert record.exc_info is not None
        assert record.exc_info[1] is error


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (PeerClosedError("left", received=0, reset=False), logging.DEBUG),
        (PeerClosedError("left", received=3, reset=True), logging.DEBUG),
        (NotTLSError("no", received=b"SSH-"), logging.INFO),
        (HandshakeError("failed"), logging.INFO),
        (HandshakeTimeoutError("late", timeout=30.0), logging.INFO),
        (GlareError("crossed", missed_by=0.25, window=5.0), logging.INFO),
        (SelfConnectionError("ourselves"), logging.INFO),
    ],
)
def test_a_connection_that_never_reached_its_handler(
    error: DuplexError, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    log_refused(error)
    (record,) = caplog.records
    assert (record.levelno, record.exc_info) == (level, None)
    assert type(error).__name__ in record.getMessage()
    assert str(error) in record.getMessage()


def test_our_own_fault_in_a_negotiation(caplog: pytest.LogCaptureFixture) -> None:
    log_negotiation_failure(BUG)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is BUG


def test_no_room_for_a_connection(caplog: pytest.LogCaptureFixture) -> None:
    log_accept_failure(OSError(errno.EMFILE, "Too many open files"), 0.1)
    (record,) = caplog.records
    assert (record.levelno, record.exc_info) == (logging.ERROR, None)
    assert "Too many open files" in record.getMessage()


def test_the_logger_is_the_librarys_and_leaves_levels_and_handlers_to_the_application() -> None:
    assert LOGGER.name == "trio_duplex"
    assert LOGGER.handlers == []
    assert LOGGER.propagate
