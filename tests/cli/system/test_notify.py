"""What a manager reads at the socket that it named."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.effort import effort
from trio_duplex.cli._system.notify import READY, STOPPING, WATCHDOG, Notifier, status_line

pytestmark = pytest.mark.slow


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, socket_folder: Path
) -> Iterator[tuple[str, socket.socket]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = str(socket_folder / "notify")
        sock.bind(name if request.param == "path" else "\0" + name)
        sock.settimeout(5)
        yield name if request.param == "path" else "@" + name, sock


def test_lines_arrive_as_one_datagram(manager: tuple[str, socket.socket]) -> None:
    address, sock = manager
    notifier = Notifier(address)
    assert notifier.tell(READY, WATCHDOG)
    assert sock.recv(4096) == b"READY=1\nWATCHDOG=1"
    assert notifier.tell(STOPPING)
    assert sock.recv(4096) == b"STOPPING=1"


def test_reload_tells_when_it_began(manager: tuple[str, socket.socket]) -> None:
    # Type=notify-reload takes it for the begin of the reload that it asked for: sd_notify(3).
    address, sock = manager
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert Notifier(address).reloading()
    first, second = sock.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    assert second.startswith("MONOTONIC_USEC=")
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert before <= int(second.partition("=")[2]) <= after


def test_status_arrives(manager: tuple[str, socket.socket]) -> None:
    address, sock = manager
    assert Notifier(address).status("7 connections")
    assert sock.recv(4096) == b"STATUS=7 connections"


@effort
@given(st.text())
def test_status_is_one_line_whatever_is_in_it(text: str) -> None:
    line = status_line(text)
    assert len(line.splitlines()) == 1
    assert line.startswith("STATUS=")


def test_nobody_asked() -> None:
    assert not Notifier().tell(READY)
    assert not Notifier().status("well")


@pytest.mark.parametrize("address", ["/nowhere/notify", "@trio-duplex-nobody", "/" + "x" * 200])
def test_manager_that_is_gone_stops_nothing(address: str) -> None:
    assert not Notifier(address).tell(READY)


def test_manager_that_does_not_read_holds_nobody_up(socket_folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(socket_folder / "notify"))
        notifier = Notifier(str(socket_folder / "notify"))
        sent = 0
        while notifier.tell(READY):
            sent += 1
            assert sent < 100_000


def test_environment_is_taken_and_not_passed_on() -> None:
    environ = {
        "NOTIFY_SOCKET": "/run/systemd/notify",
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": "7",
        "PATH": "/bin",
    }
    assert Notifier.take_from(environ, 7) == Notifier("/run/systemd/notify", 30.0)
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Notifier()),
        ({"NOTIFY_SOCKET": "vsock:2:1"}, Notifier()),
        ({"NOTIFY_SOCKET": ""}, Notifier()),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "0"}, Notifier("@x")),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1000000"}, Notifier("@x", 1.0)),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "8"}, Notifier("@x")),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "-1"}, Notifier("@x")),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "soon"}, Notifier("@x")),
    ],
)
def test_environments(environ: dict[str, str], expected: Notifier) -> None:
    assert Notifier.take_from(environ, 7) == expected
    assert environ == {}
