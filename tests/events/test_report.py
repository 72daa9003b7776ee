"""Events reach all observers, and a failing one harms nobody: `trio_duplex._events.report`."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from tests.serve.test_room import serving, talk
from tests.support.peers import MemoryListener, credentials, echo
from trio_duplex import DuplexListener, Role, Server, serve_listeners
from trio_duplex._events.report import Reporter
from trio_duplex.events import Accepted, Event

ACCEPTED = Accepted(number=1, peer="192.0.2.7:4711")


def test_all_observers_are_told_in_order() -> None:
    told: list[tuple[str, Event]] = []
    reporter = Reporter([lambda e: told.append(("first", e)), lambda e: told.append(("second", e))])
    reporter.report(ACCEPTED)
    assert told == [("first", ACCEPTED), ("second", ACCEPTED)]
    assert reporter.counts.accepted == 1
    assert reporter.disabled == 0


def test_return_values_of_observers_are_ignored() -> None:
    reporter = Reporter([lambda _: False, lambda _: NotImplemented])
    for _ in range(3):
        reporter.report(ACCEPTED)
    assert reporter.disabled == 0


def test_one_that_raises_is_disabled_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Event] = []
    calls = 0

    def failing(event: Event) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise ZeroDivisionError

    reporter = Reporter([failing, told.append, failing])
    for _ in range(4):
        reporter.report(ACCEPTED)
    assert told == [ACCEPTED] * 4  # the others hear all of it
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
    assert reporter.disabled == 1
    assert reporter.counts.accepted == 4


def test_the_one_that_raised_is_the_one_that_is_disabled(caplog: pytest.LogCaptureFixture) -> None:
    """Observers may compare equal and be different all the same."""

    class Observer:
        def __init__(self, fails: bool) -> None:
            self.fails = fails
            self.told = 0

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

        def __call__(self, event: Event) -> None:
            self.told += 1
            if self.fails:
                raise ZeroDivisionError

    well, ill = Observer(fails=False), Observer(fails=True)
    reporter = Reporter([well, ill])
    for _ in range(3):
        reporter.report(ACCEPTED)
    assert (well.told, ill.told) == (3, 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_base_exception_of_an_observer_is_raised(error: type[BaseException]) -> None:
    def failing(_: Event) -> None:
        raise error

    with pytest.raises(error):
        Reporter([failing]).report(ACCEPTED)


async def test_an_observer_that_raises_is_never_fatal(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryListener()
    told: list[Event] = []

    def failing(event: Event) -> None:
        told.append(event)
        raise ZeroDivisionError

    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED) -> None:
            await serve_listeners(
                echo, [memory], credentials(), observers=[failing], task_status=task_status
            )

        server = await nursery.start(serve)
        for role in Role:
            await talk(memory.connect(), role)
        assert len(told) == 1
        assert server.statistics().observers_disabled == 1
        assert server.statistics().completed == {Role.SERVER: 1, Role.CLIENT: 1}
        server.cancel_scope.cancel()
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1


def left_out(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if line.startswith("repeated ")]


async def send_garbage(memory: MemoryListener) -> None:
    for _ in range(5):
        await memory.connect().send_all(b"SSH-2.0-x\r\n")
    await trio.testing.wait_all_tasks_blocked()


async def test_a_server_logs_what_was_left_out_at_its_end(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    memory = MemoryListener()
    async with serving(memory):
        await send_garbage(memory)
        assert left_out(caplog) == []
    assert left_out(caplog) == ["repeated kind=NotTLSError count=4"]


async def test_a_duplex_listener_logs_what_was_left_out_at_its_end(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    memory = MemoryListener()
    async with DuplexListener(memory, credentials()) as listener:
        with trio.move_on_after(1):
            await listener.accept()
        await send_garbage(memory)
        assert left_out(caplog) == []
    assert left_out(caplog) == ["repeated kind=NotTLSError count=4"]
