"""Window policies at work: asked once for each connection, told what became of it.

Time is virtual, the streams are in memory: policies that go by addresses are given them. What the kernel
tells of the way to a peer is in tests/sockets/test_round_trip.py.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.peers import (
    RecordingStream,
    client_hello,
    credentials,
    memory_pair,
    peer_stream,
    receive_all,
    tcp_pair,
)
from trio_duplex import (
    Decision,
    DuplexError,
    GlareError,
    HandshakeTimeoutError,
    NotTLSError,
    Reason,
    Role,
    negotiate,
    windows,
)
from trio_duplex._stream import supervision
from trio_duplex._stream.lesson import Lesson, facts_of
from trio_duplex.windows import Change, Choice, Conduct, Outcome, PeerFacts

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "_last_failure", -math.inf)  # that log is one of the process


ADDRESS = ("192.0.2.7", 4711)
BEFORE = 1.0
"""When it begins, on Trio's clock: what is told is how long we waited, and not what the clock said."""


class Notebook:
    """A policy that writes down what it is asked and told."""

    def __init__(self, choice: Choice | Callable[[], Awaitable[Choice]]) -> None:
        self.choice = choice
        self.asked: list[PeerFacts] = []
        self.learned: list[tuple[Conduct, bool, float]] = []

    def choose(self, peer: PeerFacts, /) -> Choice | Awaitable[Choice]:
        self.asked.append(peer)
        return self.choice if isinstance(self.choice, Choice) else self.choice()

    def learn(self, peer: PeerFacts, outcome: Outcome, /) -> Change | None:
        assert peer is self.asked[-1]
        self.learned.append((outcome.conduct, outcome.admitted, outcome.waited))
        return None


async def speaks(stream: RecordingStream) -> None:
    await peer_stream(stream, Role.CLIENT).do_handshake()


async def is_silent(stream: RecordingStream) -> None:
    await peer_stream(stream, Role.SERVER).do_handshake()


async def outcome_with(
    peer: Callable[[RecordingStream], Awaitable[object]], window: Any
) -> Decision | DuplexError:
    ours, theirs = memory_pair()
    await trio.sleep(BEFORE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer, theirs)
        try:
            connection = await negotiate(
                ours, credentials(), window=window, remote_address=ADDRESS, handshake_timeout=9
            )
        except DuplexError as exc:
            nursery.cancel_scope.cancel()
            return exc
        return connection.decision


async def test_silence_is_learned_when_the_peer_is_admitted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = Notebook(Choice(0.5, "mine", remembered=True))
    decision = await outcome_with(is_silent, policy)
    assert decision == Decision(Role.CLIENT, Reason.REMEMBERED, 0.5, 0.5, "mine")
    assert policy.learned == [(Conduct.SILENT, True, 0.5)]
    (facts,) = policy.asked
    assert (facts.remote_address, facts.round_trip) == (ADDRESS, None)
    assert facts.now > 1.7e9


async def test_speech_is_learned_at_once_and_again_when_admitted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = Notebook(Choice(0.5, "mine"))
    decision = await outcome_with(speaks, policy)
    assert decision == Decision(Role.SERVER, Reason.SPOKE, 0.0, 0.5, "mine")
    assert policy.learned == [(Conduct.SPOKE, False, 0.0), (Conduct.SPOKE, True, 0.0)]


async def test_any_speech_is_learned_and_nobody_is_admitted_for_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def http(stream: RecordingStream) -> None:
        await trio.sleep(0.25)
        await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")

    policy = Notebook(Choice(0.5))
    assert isinstance(await outcome_with(http, policy), NotTLSError)
    assert policy.learned == [(Conduct.SPOKE, False, 0.25)]


async def test_silence_of_a_peer_that_is_not_admitted_is_not_learned(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = Notebook(Choice(0.5))
    assert isinstance(await outcome_with(receive_all, policy), HandshakeTimeoutError)
    assert policy.learned == []


async def test_glare_is_learned_as_late(autojump_clock: trio.testing.MockClock) -> None:
    async def late(stream: RecordingStream) -> None:
        await trio.sleep(0.75)
        await stream.send_all(client_hello())
        await stream.aclose()

    policy = Notebook(Choice(0.5))
    assert isinstance(await outcome_with(late, policy), GlareError)
    assert policy.learned == [(Conduct.LATE, False, 0.75)]


async def test_glare_that_is_resolved_is_learned_as_late_and_admitted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def late(stream: RecordingStream) -> None:
        await trio.sleep(0.75)
        await negotiate(stream, credentials(), window=0, dialled=True)

    roles: set[Role] = set()
    while len(roles) < 2:
        policy = Notebook(Choice(0.5, "mine"))
        decision = await outcome_with(late, policy)
        assert isinstance(decision, Decision)
        roles.add(decision.role)
        assert (decision.reason, decision.waited) == (
            (Reason.SPOKE, 0.75) if decision.role is Role.SERVER else (Reason.SILENT, 0.5)
        )
        assert decision.window == 0.5
        assert decision.rule.startswith("mine; ")
        assert policy.learned == [(Conduct.LATE, False, 0.75), (Conduct.LATE, True, 0.75)]


async def test_announced_silence_is_silence(autojump_clock: trio.testing.MockClock) -> None:
    async def announces(stream: RecordingStream) -> None:
        await trio.sleep(0.25)
        await stream.send_all(bytes.fromhex("1503030002015a"))
        await is_silent(stream)

    policy = Notebook(Choice(0.5, "mine"))
    decision = await outcome_with(announces, policy)
    assert decision == Decision(Role.CLIENT, Reason.ANNOUNCED, 0.25, 0.5, "mine")
    assert policy.learned == [(Conduct.SILENT, True, 0.25)]


async def test_rule_for_silent_peers_waits_for_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    decision = await outcome_with(is_silent, windows.SILENT)
    assert decision == Decision(Role.CLIENT, Reason.RULE, 0.0, 0.0, "always silent")


async def test_rule_for_silent_peers_is_what_to_change_if_one_speaks(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def late(stream: RecordingStream) -> None:
        await trio.sleep(0.75)
        await stream.send_all(client_hello())
        await stream.aclose()

    error = await outcome_with(late, windows.SILENT)
    assert isinstance(error, GlareError)
    assert "always silent" in (error.advice or "")


async def test_rule_for_speaking_peers_waits_without_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def late(stream: RecordingStream) -> None:
        await trio.sleep(1e6)
        await speaks(stream)

    decision = await outcome_with(late, windows.SPEAKING)
    assert decision == Decision(Role.SERVER, Reason.SPOKE, 1e6, math.inf, "always speaking")


async def test_rule_with_an_end_for_speaking_peers_never_makes_a_client(
    autojump_clock: trio.testing.MockClock,
) -> None:
    began = trio.current_time() + BEFORE
    error = await outcome_with(receive_all, Notebook(Choice(3.0, "must speak", role=Role.SERVER)))
    assert isinstance(error, HandshakeTimeoutError)
    assert (error.role, error.timeout, trio.current_time()) == (Role.SERVER, 3.0, began + 3.0)
    assert error.peer == "192.0.2.7:4711"
    assert "must speak" in (error.advice or "")


def test_only_a_change_is_reported() -> None:
    """A memory returns one where a peer has changed its kind, and mostly None."""
    reported: list[Change] = []

    class Told(supervision.Supervision):
        def peer_changed(self, change: Change) -> None:
            reported.append(change)

    class Memory(Notebook):
        change: Change | None = None

        def learn(self, peer: PeerFacts, outcome: Outcome, /) -> Change | None:
            return self.change

    memory, facts = Memory(Choice(0.5)), PeerFacts(remote_address=ADDRESS)
    lesson = Lesson(memory, facts, Told())
    lesson.tell(Conduct.SPOKE, 0.25, admitted=True)
    assert reported == []
    memory.change = Change("192.0.2.7", silent=False)
    lesson.tell(Conduct.SPOKE, 0.25, admitted=True)
    assert reported == [memory.change]


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is read on Linux only")
async def test_the_kernels_facts_are_those_of_the_peer() -> None:
    """Where the address was given to us, the round trip is that to a proxy, and is no fact of the peer."""
    ours, theirs = await tcp_pair()
    async with ours, theirs:
        remote, here = theirs.socket.getsockname(), ours.socket.getsockname()
        policy, told = Notebook(Choice(0.5)), supervision.Supervision()
        for facts in (
            Lesson.of(policy, ours, remote, told).facts,
            facts_of(ours.socket, remote),
        ):
            assert (facts.remote_address, facts.local_address) == (remote, here)
            assert facts.round_trip is not None
            assert 0 < facts.round_trip < 1
            assert facts.now > 1.7e9
        behind = Lesson.of(policy, ours, ADDRESS, told).facts
        assert (behind.remote_address, behind.local_address) == (ADDRESS, here)
        assert behind.round_trip is None


async def test_rule_by_network(autojump_clock: trio.testing.MockClock) -> None:
    window = windows.ByNetwork({"192.0.2.0/24": windows.SILENT}, otherwise=5.0)
    decision = await outcome_with(is_silent, window)
    assert isinstance(decision, Decision)
    assert (decision.reason, decision.rule) == (Reason.RULE, "192.0.2.0/24: always silent")


async def test_async_function_within_its_time(autojump_clock: trio.testing.MockClock) -> None:
    async def look_up(peer: PeerFacts) -> float:
        await trio.sleep(0.5)
        return 2.0

    decision = await outcome_with(is_silent, look_up)
    assert decision == Decision(Role.CLIENT, Reason.SILENT, 2.5, 2.0, "look_up: 2 s")


def raises(peer: PeerFacts) -> float:
    raise RuntimeError("broken")


async def raises_later(peer: PeerFacts) -> float:
    await trio.sleep(0.1)
    raise RuntimeError("broken")


async def takes_long(peer: PeerFacts) -> float:
    await trio.sleep(100)
    return 0.0


def is_no_window(peer: PeerFacts) -> Any:
    return "5 s"


@pytest.mark.parametrize(
    ("function", "after"),
    [(raises, 0.0), (raises_later, 0.1), (takes_long, 0.4), (is_no_window, 0.0)],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_function_that_fails_is_our_own_fault(
    function: Any,
    after: float,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged, and what was named for that case applies: the peer is served."""
    ask = windows.Ask(function, timeout=0.4, otherwise=2.0)
    window = windows.ByNetwork({"192.0.2.0/24": ask})
    decision = await outcome_with(is_silent, window)
    assert isinstance(decision, Decision)
    assert decision.waited == pytest.approx(after + 2.0)
    assert decision.rule == f"192.0.2.0/24: {function.__name__} failed: 2 s"
    (record,) = caplog.records
    assert record.levelno == logging.ERROR


async def test_policy_that_fails_does_not_cost_the_connection(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def choose(self, peer: PeerFacts, /) -> Choice:
            raise RuntimeError

        def learn(self, peer: PeerFacts, outcome: Outcome, /) -> None:
            raise RuntimeError

    async def not_a_choice() -> Any:
        return 5.0

    class Later:
        """Nobody asks it: the time to choose would begin anew with each of these, without end."""

        def __await__(self) -> Generator[Any, Any, Choice]:
            yield from trio.lowlevel.checkpoint().__await__()
            return Choice(0.0)

    async def later() -> Any:
        return Later()

    for policy in (Broken(), Notebook(not_a_choice), Notebook(later), Notebook("5")):  # type: ignore[arg-type]
        decision = await outcome_with(is_silent, policy)
        assert isinstance(decision, Decision)
        assert (decision.reason, decision.waited) == (Reason.SILENT, 5.0)
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


@pytest.mark.parametrize(("interval", "lines"), [(1e6, 1), (0.0, 3)], ids=["soon", "later"])
async def test_a_policy_that_goes_on_failing_does_not_fill_the_log(
    interval: float,
    lines: int,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert supervision.INTERVAL == 1.0
    monkeypatch.setattr(supervision, "INTERVAL", interval)  # of real time
    for _ in range(3):
        await outcome_with(is_silent, windows.Ask(raises, otherwise=0.0))
    assert len(caplog.records) == lines
    assert all(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("window", ["5", None, -1, math.nan, float])
async def test_what_is_no_window_is_refused_at_the_door(window: Any) -> None:
    ours, _ = memory_pair()
    with pytest.raises((TypeError, ValueError)):
        await negotiate(ours, credentials(), window=window)
    assert not ours.closed
