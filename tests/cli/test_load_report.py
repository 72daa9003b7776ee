"""What is printed: tables, JSON, the line while it runs. Without a socket."""

from __future__ import annotations

import errno
import io
import json
import math
import re

import pytest
from rich.console import Console

from trio_duplex.cli._load.plan import Mix, Plan
from trio_duplex.cli._load.report import FORMAT, Progress, _three_digits, as_json, as_text
from trio_duplex.cli._load.results import (
    AT_THE_CAP,
    CONNECTED,
    ECHO,
    ENDED,
    HELLO,
    PeerEndedError,
    Results,
)

MIX = Mix.parse("speaking=2,silent=1,http=1")
PLAN = Plan(host="::1", port=8443, rate=100, count=400, mix=MIX, seed=3, tls="1.3")


def results(*, failing: bool = False) -> Results:
    made = Results(MIX)
    speaking, silent, http = made.figures.values()
    for n in range(1, 201):
        speaking.dialled += 1
        speaking.reached(CONNECTED, n / 1e5)
        speaking.reached(ECHO, n / 1e3)
        speaking.done += 1
        made.late.add(0.00004)
    silent.dialled = 5
    for n in range(1, 4):
        silent.reached(HELLO, 5 + n / 1000)
        silent.done += 1
    http.dialled = 2
    for _ in range(2):
        http.reached(ENDED, 0.0012)
        http.end("alert \x1b[31mred", "it sent [b]nothing[/b]")
    if failing:
        silent.fail(HELLO, TimeoutError(errno.ETIMEDOUT, "timed out"))
        speaking.not_dialled.update({AT_THE_CAP: 7, "EMFILE": 2, "EADDRNOTAVAIL": 1})
    else:
        silent.dialled = 3
    made.seconds, made.dialling, made.cpu = 8.0, 4.0, 3.95 if failing else 0.5
    return made


def text(made: Results, *, width: int = 200, terminal: bool = False, plan: Plan = PLAN) -> str:
    file = io.StringIO()
    console = Console(
        file=file, width=width, force_terminal=terminal, color_system=None, markup=False
    )
    console.print(as_text(plan, made))
    return file.getvalue()


def row(shown: str, *first: str) -> list[str]:
    """The row that begins with these words, in words."""
    (found,) = [
        line.split() for line in shown.splitlines() if line.split()[: len(first)] == [*first]
    ]
    return found


def test_the_tables() -> None:
    shown = text(results())
    head = shown.partition("\n\n")[0]
    assert "[::1]:8443" in head
    assert "asked for 100 peers a second, dialled 51.2" in head
    assert "12 % of a core" in head
    assert "TLS 1.3" in head
    assert row(shown, "speaking", "200") == ["speaking", "200", "200", "0"]
    assert row(shown, "speaking", "connected")[2:] == ["1.00", "1.80", "1.98", "-", "2.00"]
    assert row(shown, "echo") == ["echo", "100", "180", "198", "-", "200"]
    # Of three, nothing but the median and the greatest says anything.
    assert row(shown, "silent", "ClientHello")[2:] == ["5002", "-", "-", "-", "5003"]
    assert row(shown, "(we")[-1] == "0.04"
    assert "unfinished" not in shown
    assert "not dialled" not in shown
    assert "--max-open" not in shown
    assert "the times depend on us" not in shown


def test_text_of_the_server_is_not_interpreted() -> None:
    shown = text(results())
    assert "\x1b" not in shown
    assert "\\x1b[31mred" in shown
    assert "[b]nothing[/b]" in shown


def test_what_went_wrong_is_told() -> None:
    shown = text(results(failing=True))
    assert row(shown, "speaking", "200") == ["speaking", "200", "200", "0", "0", "10"]
    assert row(shown, "silent", "5") == ["silent", "5", "3", "1", "1", "0"]
    assert re.search(r"silent +1 +ClientHello: timeout +timed out", shown)
    for remark in (
        "7 did not dial, because 1000 were open (--max-open)",
        "2 did not dial, because this machine had no room (EMFILE)",
        "1 did not dial, because this machine had no port left (EADDRNOTAVAIL)",
        "is the server's window longer?",
        "We took 99 % of a core",
    ):
        assert remark in shown


@pytest.mark.parametrize(
    ("stage", "error", "hint"),
    [
        (ECHO, TimeoutError(errno.ETIMEDOUT, "timed out"), "--no-echo"),
        (ECHO, PeerEndedError("after 0 of 32 bytes"), "refuses its own certificate"),
        (ECHO, ConnectionResetError(errno.ECONNRESET, "reset"), None),
    ],
)
def test_hints(stage: str, error: OSError, hint: str | None) -> None:
    made = results()
    plain = text(made)
    for kind in ("speaking", "silent"):  # said once
        made.figures[kind].fail(stage, error)
    shown = text(made)
    assert len(shown.splitlines()) == len(plain.splitlines()) + 4 + 2 * bool(hint)
    assert hint is None or shown.count(hint) == 1


@pytest.mark.parametrize(
    ("mix", "size", "what"),
    [("speaking", 32, "32 bytes echoed"), ("silent", 0, "only handshakes"), ("http", 32, None)],
)
def test_counts_of_the_report(mix: str, size: int, what: str | None) -> None:
    plan = Plan(host="a.example", port=1, rate=1, count=1, mix=Mix.parse(mix), size=size)
    head = text(Results(plan.mix), plan=plan).partition("\n\n")[0]
    assert [word for word in ("bytes echoed", "only handshakes") if word in head] == (
        [] if what is None else [what.removeprefix("32 ")]
    )


@pytest.mark.parametrize("width", [60, 80, 120])
def test_it_fits_the_terminal(width: int) -> None:
    shown = text(results(failing=True), width=width, terminal=True)
    assert max(map(len, shown.splitlines())) <= width


def test_json_says_all_of_it() -> None:
    made = results(failing=True)
    said = json.loads(json.dumps(as_json(PLAN, made), allow_nan=False))
    assert said["format"] == FORMAT
    assert said["target"] == "[::1]:8443"
    assert said["options"] == {
        "rate": 100,
        "count": 400,
        "mix": {"speaking": 2, "silent": 1, "http": 1},
        "seed": 3,
        "size": 32,
        "tls": "1.3",
        "timeout": 10,
        "max_open": 1000,
    }
    assert (said["passed"], said["stopped"], said["seconds"]) == (False, None, 8)
    assert said["rate"] == {"asked": 100, "reached": 51.75}
    assert said["client"]["cpu"] == pytest.approx(0.9875, abs=0.001)
    assert said["client"]["late"]["count"] == 200
    speaking, silent, http = (said["peers"][kind] for kind in ("speaking", "silent", "http"))
    assert speaking["not_dialled"] == {AT_THE_CAP: 7, "EMFILE": 2, "EADDRNOTAVAIL": 1}
    assert speaking["seconds"]["echo"] == {
        "count": 200,
        "p50": 0.1,
        "p90": 0.18,
        "p99": 0.198,
        "p99.9": None,
        "max": 0.2,
    }
    assert (silent["dialled"], silent["done"], silent["failed"], silent["unfinished"]) == (
        5,
        3,
        1,
        1,
    )
    assert silent["errors"] == {"ClientHello: timeout": {"count": 1, "example": "timed out"}}
    assert list(http["ended_by"].values()) == [{"count": 2, "example": "it sent [b]nothing[/b]"}]


def test_json_without_results() -> None:
    said = as_json(PLAN, Results(MIX))
    assert json.loads(json.dumps(said, allow_nan=False))["client"]["late"]["max"] is None


def test_the_line_while_it_runs() -> None:
    made = results()
    progress = Progress(PLAN, made)
    assert str(progress.line(1.4, 12)) == (
        "1 of 4 s  dialled 205  done 205  open 12  failed 0  speaking 100 ms"
    )
    assert "speaking" not in str(progress.line(1.6, 12))  # nobody got through since
    made.figures["speaking"].reached(ECHO, 0.5)
    assert "speaking 500 ms" in str(progress.line(2, 12))  # of those since
    made.figures["speaking"].failed = 3
    made.figures["silent"].not_dialled[AT_THE_CAP] = 2
    line = str(progress.line(4.5, 3))
    assert line.startswith("all have dialled")
    assert "failed 5" in line


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.00"),
        (0.0123, "0.01"),
        (0.123, "0.123"),
        (1.234, "1.23"),
        (99.99, "100.0"),
        (123.4, "123"),
        (5002.3, "5002"),
    ],
)
def test_three_digits(value: float, shown: str) -> None:
    assert _three_digits(value) == shown
    assert math.isclose(float(shown), value, rel_tol=0.01, abs_tol=0.006)
