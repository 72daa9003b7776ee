"""What operators read: `trio_duplex._events.log`."""

from __future__ import annotations

import errno
import json
import logging
import shlex
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, cast

import pytest
import trio

from tests.support.peers import connection_pair
from trio_duplex import (
    Connection,
    Decision,
    GlareError,
    HandshakeError,
    HandshakeTimeoutError,
    LimitError,
    NotTLSError,
    PeerClosedError,
    PeerRejectedError,
    Reason,
    Role,
    SelfConnectionError,
)
from trio_duplex._events.log import (
    INTERVAL,
    LIMIT_INTERVAL,
    LOGGER,
    MAX_ADDRESSES,
    MAX_WHY,
    PAUSE_INTERVAL,
    LogObserver,
)
from trio_duplex._events.probes import MutedNetworks
from trio_duplex.events import (
    Accepted,
    ConnectionClosed,
    Event,
    HandlerFailed,
    HandshakeCompleted,
    LimitReached,
    ListenerPaused,
    NegotiationFailed,
    OwnCertificateExpired,
    PeerRejected,
    Probe,
    RoleDecided,
)

PEER = "192.0.2.7:4711"
ENDED = datetime(2026, 2, 3, 4, 5, tzinfo=UTC)
DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR
BUG = ZeroDivisionError("division by zero")
DECISION = Decision(Role.SERVER, Reason.SPOKE, 0.25, 5.0)


class Clock:
    """A clock that a test sets, and the observer that goes by it."""

    def __init__(self, muted: MutedNetworks | None = None) -> None:
        self.now = 1_000.0
        self.observer = LogObserver(clock=lambda: self.now, muted=muted)

    def __call__(self, *events: Event) -> None:
        for event in events:
            self.observer(event)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Clock:
    caplog.set_level(DEBUG, logger="trio_duplex")
    return Clock()


def failed(error: Exception, number: int = 7, peer: str | None = PEER) -> NegotiationFailed:
    if isinstance(error, PeerRejectedError):
        return PeerRejected(number=number, peer=peer, error=error)
    return NegotiationFailed(number=number, peer=peer, error=error)


async def a_connection() -> Connection:
    connection, other = await connection_pair()
    await connection.send_all(b"hello")
    await trio.aclose_forcefully(connection)
    await trio.aclose_forcefully(other)
    return connection


def closed(connection: Connection, number: int = 7, peer: str | None = PEER) -> ConnectionClosed:
    return ConnectionClosed(number=number, peer=peer, connection=connection, seconds=1.5)


def parsed(record: logging.LogRecord) -> tuple[str, dict[str, str]]:
    """A line, taken apart as its reader would."""
    word, *pairs = shlex.split(record.getMessage())
    return word, dict(pair.split("=", 1) for pair in pairs)


# ------------------------------------------------------------------------------------------ levels


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (PeerClosedError("left", received=0, reset=False), DEBUG),
        (PeerClosedError("left", received=3, reset=True), DEBUG),
        (LimitError("dropped", limit="pending", value=3), DEBUG),
        (NotTLSError("no TLS", received=b"SSH-"), INFO),
        (HandshakeError("failed", tls_reason="unknown ca"), INFO),
        (HandshakeTimeoutError("late", timeout=30.0), INFO),
        (GlareError("crossed", missed_by=0.25, window=5.0), INFO),
        (PeerRejectedError("not you"), INFO),
        (SelfConnectionError("ourselves"), INFO),
        (BUG, ERROR),
        (OSError(errno.EIO, "of a policy that reads a file"), ERROR),
        (ExceptionGroup("two", [BUG, BUG]), ERROR),
    ],
)
def test_a_connection_that_never_reached_its_handler(
    error: Exception, level: int, log: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    log(failed(error))
    (record,) = caplog.records
    assert record.levelno == level
    if level == ERROR:  # ours
        assert record.exc_info is not None
        assert record.exc_info[1] is error
    else:
        assert record.exc_info is None
    word, values = parsed(record)
    assert word == "failed"
    assert values == {
        "number": "7",
        "peer": PEER,
        "error": type(error).__name__,
        "why": str(error),
    }


@pytest.mark.parametrize("peer_fault", [False, True])
async def test_a_handler_that_failed_is_one_line(
    peer_fault: bool, log: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    error = trio.BrokenResourceError("reset") if peer_fault else BUG
    log(
        HandlerFailed(number=7, peer=PEER, error=error, peer_fault=peer_fault),
        closed(await a_connection()),
    )
    (record,) = caplog.records
    assert record.levelno == (INFO if peer_fault else ERROR)
    assert bool(record.exc_info) is not peer_fault
    word, values = parsed(record)
    assert word == "handler-failed"
    assert values["error"] == type(error).__name__
    assert values["why"] == str(error)
    assert (values["number"], values["sent"], values["seconds"]) == ("7", "5", "1.500")


async def test_a_connection_that_ended_well(log: Clock, caplog: pytest.LogCaptureFixture) -> None:
    connection = await a_connection()
    log(closed(connection))
    (record,) = caplog.records
    assert (record.levelno, record.exc_info) == (INFO, None)
    word, values = parsed(record)
    assert word == "closed"
    assert values == {
        "number": "7",
        "peer": PEER,
        "identity": str(connection.peer),
        "role": "server",
        "reason": "spoke",
        "waited": f"{connection.decision.waited:.3f}",
        "received": "0",
        "sent": "5",
        "seconds": "1.500",
    }


async def test_connections_that_end_well_are_not_summarised(
    log: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await a_connection()
    log(*(closed(connection) for _ in range(10)))
    assert len(caplog.records) == 10


def test_a_limit(log: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log(LimitReached(limit="pending", value=15_000, peer=PEER))
    (record,) = caplog.records
    assert (record.levelno, record.exc_info) == (WARNING, None)
    assert parsed(record) == ("limit-reached", {"limit": "pending", "value": "15000", "peer": PEER})


def test_no_room_in_the_machine(log: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log(ListenerPaused(error=OSError(errno.EMFILE, "Too many"), seconds=0.1, peer=None))
    (record,) = caplog.records
    assert (record.levelno, record.exc_info) == (ERROR, None)
    word, values = parsed(record)
    assert (word, values["seconds"], values["error"]) == ("listener-paused", "0.100", "OSError")
    assert "Too many" in values["why"]


def test_a_certificate_of_ours_has_ended(log: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log(OwnCertificateExpired(not_after=ENDED, peer=PEER))
    (record,) = caplog.records
    word, values = parsed(record)
    assert (word, record.levelno) == ("own-certificate-expired", ERROR)
    assert "2026-02-03 04:05 UTC" in values["why"]
    assert "reload()" in values["advice"]


async def test_open_connections_are_not_logged(
    log: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await a_connection()
    log(
        Accepted(number=7, peer=PEER),
        RoleDecided(number=7, peer=PEER, decision=DECISION),
        HandshakeCompleted(number=7, peer=PEER, connection=connection, seconds=0.1),
    )
    assert caplog.records == []


async def test_disabled_levels_cost_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(WARNING, logger="trio_duplex")
    log = Clock()

    class UnprintableError(PeerClosedError):
        def __str__(self) -> str:
            raise AssertionError("a message that is not logged is not made")

    class NoPeer(Connection):
        @property
        def peer(self) -> None:  # type: ignore[override]
            raise AssertionError

    log(
        failed(UnprintableError("left", received=0, reset=False)),
        closed(cast("Connection", object.__new__(NoPeer))),
    )
    log.observer.flush()
    assert caplog.records == []


# -------------------------------------------------------------------------------------- summaries


@pytest.mark.slow
def test_faults_that_repeat_are_one_line_a_second_for_each_class(
    log: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    garbage, hung_up = NotTLSError("no", received=b""), HandshakeError("no")
    for step in range(10_000):  # 2,000 of each a second, for five seconds
        log.now = 1_000 + step / 2_000
        log(failed(garbage, number=step), failed(hung_up, number=step))
    log.observer.flush()
    lines = [parsed(record) for record in caplog.records]
    for kind in ("NotTLSError", "HandshakeError"):
        own = [(w, v) for w, v in lines if kind in (v.get("error"), v.get("kind"))]
        assert [word for word, _ in own] == ["failed"] * 5 + ["repeated"]
        assert [v.get("repeated") for _, v in own[:5]] == [None] + ["1999"] * 4
        assert own[-1][1] == {"kind": kind, "count": "1999", "addresses": "192.0.2.7=1999"}
        # Each was counted once: as a line, or in one.
        assert 5 + sum(int(v.get("repeated") or v.get("count") or 0) for _, v in own) == 10_000


def test_a_burst_is_summarised_with_the_next_event(
    log: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    log(*(failed(NotTLSError("no", received=b"")) for _ in range(5)))
    log.now += INTERVAL * 1.5
    log(Accepted(number=8, peer=PEER))
    assert len(caplog.records) == 1  # it may go on yet
    log.now += INTERVAL
    log(Accepted(number=9, peer=PEER))
    assert parsed(caplog.records[1]) == (
        "repeated",
        {"kind": "NotTLSError", "count": "4", "addresses": "192.0.2.7=4"},
    )
    assert caplog.records[1].levelno == INFO
    log(failed(NotTLSError("no", received=b"")))  # that was this second's line
    log.now += INTERVAL * 3
    log(Accepted(number=10, peer=PEER))
    assert [parsed(record)[0] for record in caplog.records] == ["failed", "repeated", "repeated"]
    log.now += INTERVAL * 3
    log(Accepted(number=11, peer=PEER))
    assert len(caplog.records) == 3


def test_faults_of_ours_are_summarised_too(log: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log(*(failed(BUG) for _ in range(100)))
    log.observer.flush()
    assert [parsed(record)[0] for record in caplog.records] == ["failed", "repeated"]
    assert [record.levelno for record in caplog.records] == [ERROR, ERROR]
    log.observer.flush()
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("event", "interval"),
    [
        (LimitReached(limit="pending", value=3, peer=PEER), LIMIT_INTERVAL),
        (ListenerPaused(error=OSError("no room"), seconds=0.1, peer=None), PAUSE_INTERVAL),
        (OwnCertificateExpired(not_after=ENDED, peer=PEER), PAUSE_INTERVAL),
    ],
)
def test_lasting_states_are_logged_less_often(
    event: Event, interval: float, log: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    log(event)
    log.now += interval - 0.001
    log(event)
    assert len(caplog.records) == 1
    log.now += 0.001
    log(event)
    (_, record) = caplog.records
    assert parsed(record)[1]["repeated"] == "1"


def test_each_limit_is_a_class_of_its_own(log: Clock, caplog: pytest.LogCaptureFixture) -> None:
    for limit in ("pending", "connections", "pending"):
        log(LimitReached(limit=limit, value=3, peer=PEER))
    assert [parsed(record)[1]["limit"] for record in caplog.records] == ["pending", "connections"]


# ------------------------------------------------------------------------------ addresses, and facts


def flooded(log: Clock, peers: Iterable[str | None], error: Exception | None = None) -> None:
    log(*(failed(error or NotTLSError("no", received=b""), peer=peer) for peer in peers))
    log.observer.flush()


@pytest.mark.parametrize("clocked", [False, True], ids=["summary", "next line"])
def test_each_address_that_was_left_out_is_named(
    clocked: bool, log: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    peers = [f"192.0.2.{host}:{port}" for host in range(10) for port in range(host + 1)]
    log(*(failed(NotTLSError("no", received=b""), peer=peer) for peer in peers))
    log.now += INTERVAL * 1.5
    if clocked:
        log(failed(NotTLSError("no", received=b""), peer="[2001:db8::1%eth0]:4711"))
    else:
        log.observer.flush()
    first, last = caplog.records
    named = parsed(last)[1]["addresses"]
    expected = {f"192.0.2.{host}": host + 1 for host in range(1, 10)}  # one of 0 had the line
    assert dict(each.split("=") for each in named.split()) == {
        host: str(count) for host, count in expected.items()
    }
    assert facts_of(last)["addresses"] == expected
    assert facts_of(first)["address"] == "192.0.2.0"
    assert facts_of(last).get("address") == ("2001:db8::1%eth0" if clocked else None)
    assert "others" not in parsed(last)[1]


@pytest.mark.slow
def test_the_addresses_that_are_named_are_bounded(
    log: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    flooded(log, (f"[2001:db8:{n:x}::{n:x}]:4711" for n in range(10_001)))
    _, summary = caplog.records
    word, values = parsed(summary)
    assert (word, values["count"], values["others"]) == (
        "repeated",
        "10000",
        str(10_000 - MAX_ADDRESSES),
    )
    assert len(values["addresses"].split()) == len(facts_of(summary)["addresses"]) == MAX_ADDRESSES
    assert len(summary.getMessage()) < 50 * MAX_ADDRESSES
    caplog.clear()
    log.now += 10  # and are forgotten
    flooded(log, ["192.0.2.1:1"] * 3)
    assert facts_of(caplog.records[-1])["addresses"] == {"192.0.2.1": 2}


def test_a_peer_without_an_address_is_counted(log: Clock, caplog: pytest.LogCaptureFixture) -> None:
    flooded(log, [None, None, "192.0.2.7:1", "192.0.2.7:2"])
    assert parsed(caplog.records[-1])[1] == {
        "kind": "NotTLSError",
        "count": "3",
        "addresses": "192.0.2.7=2",
        "others": "1",
    }
    caplog.clear()
    log.now += 10
    flooded(log, [None, None])
    assert parsed(caplog.records[-1])[1] == {"kind": "NotTLSError", "count": "1"}


def facts_of(record: logging.LogRecord) -> dict[str, Any]:
    facts = vars(record)["facts"]
    assert isinstance(facts, dict)
    return facts


def test_a_record_carries_the_facts_of_a_failure(
    log: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    error = HandshakeError(
        "failed", role=Role.CLIENT, seen="x", tls_reason="unknown ca", advice="trust it"
    )
    log(failed(error))
    assert facts_of(caplog.records[0]) == {
        "event": "failed",
        "number": 7,
        "peer": PEER,
        "address": "192.0.2.7",
        "error": "HandshakeError",
        "why": str(error),
        "role": "client",
        "seen": "x",
        "tls_reason": "unknown ca",
        "advice": "trust it",
    }


async def test_a_record_carries_the_facts_of_a_connection(
    log: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await a_connection()
    log(closed(connection))
    log(HandlerFailed(number=7, peer=PEER, error=BUG, peer_fault=False), closed(connection))
    for record, event in zip(caplog.records, ("closed", "handler-failed"), strict=True):
        facts = facts_of(record)
        assert facts["event"] == event
        assert (facts["address"], facts["role"], facts["reason"]) == (
            "192.0.2.7",
            "server",
            "spoke",
        )
        assert (facts["received"], facts["sent"], facts["seconds"]) == (0, 5, 1.5)
        assert facts["waited"] == connection.decision.waited
        json.dumps(facts)  # as a formatter may want it


def test_records_of_limits_and_pauses_carry_theirs(
    log: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    log(
        LimitReached(limit="pending", value=3, peer=PEER),
        ListenerPaused(error=OSError("no room"), seconds=0.1, peer=None),
    )
    limit, pause = map(facts_of, caplog.records)
    assert (limit["event"], limit["limit"], limit["value"]) == ("limit-reached", "pending", 3)
    assert (pause["event"], pause["seconds"], pause["error"]) == ("listener-paused", 0.1, "OSError")


# ---------------------------------------------------------------------------------- muted, and probes


@pytest.mark.parametrize("probe", Probe)
def test_a_probe_is_not_info(probe: Probe, log: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log(NegotiationFailed(number=7, peer=PEER, error=HandshakeError("x"), probe=probe))
    (record,) = caplog.records
    assert record.levelno == DEBUG
    assert parsed(record)[1]["probe"] == facts_of(record)["probe"] == str(probe)


async def test_what_a_muted_network_does_is_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(DEBUG, logger="trio_duplex")
    log, connection = Clock(muted=MutedNetworks(["192.0.2.0/28"])), await a_connection()
    broken = HandlerFailed(number=7, peer=PEER, error=trio.BrokenResourceError(), peer_fault=True)
    for peer, level in ((PEER, DEBUG), ("192.0.2.17:1", INFO), (None, INFO)):
        caplog.clear()
        log(closed(connection, peer=peer), broken, closed(connection, peer=peer))
        assert [record.levelno for record in caplog.records] == [level, level]
        log.now += 10


async def test_our_own_faults_are_not_muted(caplog: pytest.LogCaptureFixture) -> None:
    log = Clock(muted=MutedNetworks(["192.0.2.0/24"]))
    log(
        failed(BUG),
        LimitReached(limit="pending", value=3, peer=PEER),
        HandlerFailed(number=7, peer=PEER, error=BUG, peer_fault=False),
        closed(await a_connection()),
    )
    assert [record.levelno for record in caplog.records] == [ERROR, WARNING, ERROR]


def test_a_muted_peer_does_not_take_the_line_of_another(
    log: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    error = HandshakeError("x")
    log(NegotiationFailed(number=7, peer=PEER, error=error, probe=Probe.MUTED), failed(error))
    assert [record.levelno for record in caplog.records] == [DEBUG, INFO]


# ---------------------------------------------------------------------------------------- the lines


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "two words",
        'it\'s "quoted" \\ and $HOME `too`',
        "line\nbreak\r\n\tand tab",
        "key=value",
        "",
        "umlaut ä and \x00\x1b[31m",
    ],
)
def test_a_line_is_one_line_that_can_be_parsed(
    text: str, log: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    log(failed(ValueError(text), peer=f"/run/{text}"))
    (record,) = caplog.records
    line = record.getMessage()
    assert line.isprintable()
    assert line.isascii()
    word, values = parsed(record)
    assert (word, values["number"], values["error"]) == ("failed", "7", "ValueError")
    if text.isascii() and text.isprintable():
        assert (values["why"], values["peer"]) == (text, f"/run/{text}")


def test_an_address_is_not_quoted(log: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log(failed(BUG, peer="[2001:db8::1%eth0]:4711"))
    assert " peer=[2001:db8::1%eth0]:4711 " in caplog.records[0].getMessage()


def test_a_long_text_is_cut(log: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log(failed(ValueError("x" * 100_000)))
    assert len(caplog.records[0].getMessage()) < MAX_WHY + 100


async def test_an_exception_whose_str_raises_does_no_harm(
    log: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    class UnprintableError(ValueError):
        def __str__(self) -> str:
            raise ZeroDivisionError

    log(failed(UnprintableError()))
    connection = await a_connection()
    connection._peer = None
    connection._flow.engine._certificate = b"no certificate"
    log(closed(connection))
    (first, second) = caplog.records
    assert parsed(first)[1]["error"] == "UnprintableError"
    assert parsed(second)[1]["identity"] == "unreadable"


def test_the_logger_is_the_librarys_and_leaves_levels_and_handlers_to_the_application() -> None:
    assert LOGGER.name == "trio_duplex"
    assert LOGGER.handlers == []
    assert LOGGER.propagate
