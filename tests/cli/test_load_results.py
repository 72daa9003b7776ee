"""What is counted, and how errors are classed: without a socket."""

from __future__ import annotations

import errno
import ssl

import pytest

from trio_duplex.cli._load.plan import Mix
from trio_duplex.cli._load.results import (
    AT_THE_CAP,
    CONNECTED,
    ECHO,
    HANDSHAKE,
    Class,
    Classes,
    HungUpError,
    PeerEndedError,
    Results,
    WrongEchoError,
    classify_error,
    last_alert,
)

RESET = "the server reset the connection"


def ssl_error(reason: str, text: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] {text} (_ssl.c:1006)")
    error.reason = reason
    return error


def refused_certificate() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] ...")
    error.verify_message = "certificate has expired"
    return error


@pytest.mark.parametrize(
    ("error", "name", "example"),
    [
        (
            ssl_error("TLSV1_ALERT_UNKNOWN_CA", "tlsv1 alert unknown ca"),
            "alert unknown_ca",
            "tlsv1 alert unknown ca",
        ),
        (
            ssl_error("TLSV13_ALERT_CERTIFICATE_REQUIRED", "tlsv13 alert certificate required"),
            "alert certificate_required",
            "tlsv13 alert certificate required",
        ),
        (
            ssl_error("WRONG_VERSION_NUMBER", "wrong version number"),
            "wrong_version_number",
            "wrong version number",
        ),
        (ssl.SSLError("odd"), "tls_error", "odd"),
        (refused_certificate(), "certificate refused", "certificate has expired"),
        (ssl.SSLEOFError(8, "EOF occurred"), "end of stream", "the server hung up"),
        (
            ssl_error("UNEXPECTED_EOF_WHILE_READING", "unexpected eof while reading"),
            "end of stream",  # as CPython 3.11.2 has it
            "the server hung up",
        ),
        (ssl.SSLZeroReturnError(6, "closed"), "close_notify", "the server finished"),
        (HungUpError("no ClientHello"), "end of stream", "no ClientHello"),
        (PeerEndedError("after 3 of 5"), "close_notify", "after 3 of 5"),
        (WrongEchoError("b'x'"), "wrong bytes", "b'x'"),
        (TimeoutError(errno.ETIMEDOUT, "timed out"), "timeout", "timed out"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused!"), "refused", "refused!"),
        (ConnectionResetError(errno.ECONNRESET, "reset!"), "reset", RESET),
        (ConnectionAbortedError(errno.ECONNABORTED, "aborted"), "reset", RESET),
        (BrokenPipeError(errno.EPIPE, "broken pipe"), "reset", RESET),
        (OSError(errno.ENOTCONN, "not connected"), "reset", RESET),
        (OSError(errno.ENETUNREACH, "unreachable"), "ENETUNREACH", "unreachable"),
        (OSError("strange"), "other", "strange"),
    ],
)
def test_classes_of_errors(error: OSError, name: str, example: str) -> None:
    assert classify_error(error) == (name, example)


@pytest.mark.parametrize(
    ("received", "alert"),
    [
        (b"", None),
        (bytes.fromhex("15 0303 0002 02 28"), "handshake_failure"),
        (bytes.fromhex("16 0303 0004 01020304  15 0303 0002 02 30"), "unknown_ca"),
        (bytes.fromhex("15 0303 0002 02 28  15 0303 0002 01 00"), "close_notify"),
        (bytes.fromhex("15 0303 0002 02 c8"), "200"),
        (bytes.fromhex("15 0303 0002 02"), None),  # cut off
        (bytes.fromhex("17 0303 0002 02 28"), None),  # encrypted
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", None),
    ],
)
def test_the_alert_among_plaintext_records(received: bytes, alert: str | None) -> None:
    assert last_alert(received) == alert


def test_classes_are_counted_and_keep_their_first_example() -> None:
    classes = Classes()
    for name, example in [("a", "1"), ("b", "2"), ("b", "3")]:
        classes.add(name, example)
    assert classes.items() == [("b", Class(2, "2")), ("a", Class(1, "1"))]


def results() -> Results:
    made = Results(Mix.parse("speaking,silent,http"))
    for figures in made.figures.values():
        figures.dialled = 10
    for kind in ("speaking", "silent"):
        made.figures[kind].done = 10
    for _ in range(10):
        made.figures["http"].end("end of stream", "it sent nothing")
    return made


def test_all_is_well() -> None:
    made = results()
    assert made.passed
    assert made.dialled == 30
    assert (made.rate, made.load) == (0, 0)  # before it has taken any time
    made.dialling, made.seconds, made.cpu = 15, 20, 3
    assert (made.rate, made.load) == (2, 0.2)


@pytest.mark.parametrize("kind", ["speaking", "silent", "http"])
def test_what_failed(kind: str) -> None:
    made = results()
    figures = made.figures[kind]
    figures.dialled += 1
    figures.fail(ECHO, ConnectionResetError(errno.ECONNRESET, "reset"))
    assert not made.passed
    assert figures.failed == 1
    assert figures.errors.items() == [("echo: reset", Class(1, RESET))]
    assert figures.unfinished == 0


def test_hostile_peers_may_be_unfinished_and_others_not() -> None:
    made = results()
    made.figures["http"].dialled += 1
    assert made.passed
    made.figures["silent"].dialled += 1
    assert made.figures["silent"].unfinished == 1
    assert not made.passed


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL])
def test_errors_of_this_machine_are_not_failures(number: int) -> None:
    made = results()
    figures = made.figures["speaking"]
    figures.dialled += 1
    figures.fail(CONNECTED, OSError(number, "none left"))
    figures.not_dialled[AT_THE_CAP] += 2
    assert (figures.dialled, figures.failed, figures.errors.items()) == (10, 0, [])
    assert made.not_dialled == {errno.errorcode[number]: 1, AT_THE_CAP: 2}
    assert not made.passed


def test_the_same_error_after_dialling_is_a_failure() -> None:
    figures = results().figures["speaking"]
    figures.dialled += 1
    figures.fail(HANDSHAKE, OSError(errno.ENOBUFS, "no buffers"))
    assert (figures.failed, figures.not_dialled) == (1, {})


def test_times_are_kept_by_stage() -> None:
    figures = results().figures["speaking"]
    for stage, seconds in [(CONNECTED, 0.1), (ECHO, 0.3), (CONNECTED, 0.2)]:
        figures.reached(stage, seconds)
    assert {stage: len(times) for stage, times in figures.times.items()} == {CONNECTED: 2, ECHO: 1}
