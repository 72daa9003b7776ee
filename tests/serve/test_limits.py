"""The numbers that bound a server, checked at the door: `trio_duplex._serve.limits`."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from trio_duplex import Limits, Role, WhenFull
from trio_duplex._serve.limits import Limit, open_files, raise_open_files
from trio_duplex._serve.room import limit_error

COUNTS = (
    "connections",
    "pending",
    "pending_per_address",
    "connections_per_address",
    "connections_per_identity",
    "client_handshakes",
    "server_handshakes",
    "unsent_bytes",
)
PATIENCE = ("turn_timeout", "greeting_patience", "opening_patience", "close_timeout")
TIMEOUTS = ("handler_timeout", "idle_timeout", "send_timeout", "keepalive")


def limits(**options: Any) -> Limits:
    return Limits(**options)


def test_every_limit_is_a_count_or_seconds_or_when_full() -> None:
    names = {field.name for field in attrs.fields(Limits)}
    others = {"ack_timeout", "when_full", "raise_open_files"}
    assert names == {*COUNTS, *PATIENCE, *TIMEOUTS, *others}


def test_ack_timeout() -> None:
    assert Limits().ack_timeout is None
    for value in (0.5, 900, math.inf):
        assert limits(ack_timeout=value).ack_timeout == value
    for wrong in (0, -1, math.nan, "10"):
        with pytest.raises((ValueError, TypeError), match="ack_timeout"):
            limits(ack_timeout=wrong)


@pytest.fixture
def ulimit(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    """Have the process seem to have other limits of open files: soft and hard."""
    resource = pytest.importorskip("resource")

    def seem(soft: float, hard: float) -> None:
        both = [resource.RLIM_INFINITY if value == math.inf else value for value in (soft, hard)]
        monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(both))

    return seem


@pytest.mark.parametrize(
    ("soft", "connections", "pending", "per_address"),
    [
        (64, 32, 26, 16),
        (256, 156, 130, 39),
        (1024, 922, 768, 230),
        (4096, 3687, 3072, 921),
        (20_000, 18_000, 15_000, 1_000),
        (1_000_000, 18_000, 15_000, 1_000),
        (math.inf, 18_000, 15_000, 1_000),
    ],
)
def test_the_defaults_are_derived_from_the_limit_of_open_files(
    soft: float,
    connections: int,
    pending: int,
    per_address: int,
    ulimit: Callable[[float, float], None],
) -> None:
    ulimit(soft, math.inf)
    default = Limits()
    assert default.connections == connections
    assert default.connections <= soft * 0.91  # the rest is the application's
    assert default.pending == pending
    assert default.pending_per_address == per_address
    assert default.when_full is WhenFull.WAIT


def test_with_raise_open_files_they_are_derived_from_the_hard_limit(
    ulimit: Callable[[float, float], None],
) -> None:
    ulimit(1024, 10_000)
    assert Limits().connections == 922
    assert Limits(raise_open_files=True).connections == 9_000
    assert open_files() == 1024


@pytest.mark.parametrize(
    ("connections", "pending", "per_address"),
    [
        (1, 16, 16),
        (12, 16, 16),
        (900, 750, 225),
        (100_000, 15_000, 1_000),
        (math.inf, 15_000, 1_000),
    ],
)
def test_pending_limits_are_derived_from_connections(
    connections: float, pending: int, per_address: int
) -> None:
    derived = Limits(connections=connections)
    assert (derived.pending, derived.pending_per_address) == (pending, per_address)
    given = Limits(connections=connections, pending=3, pending_per_address=math.inf)
    assert (given.pending, given.pending_per_address) == (3, math.inf)


def test_raising_open_files() -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        raise_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("value", [1, "yes", None])
def test_raise_open_files_is_a_bool(value: object) -> None:
    with pytest.raises(TypeError, match="raise_open_files"):
        limits(raise_open_files=value)


@pytest.mark.parametrize("limit", Limit)
def test_a_limit_equals_its_name_and_says_what_to_do(limit: Limit) -> None:
    assert limit == str(limit) == limit.value
    assert pickle.loads(pickle.dumps(limit)) is limit
    assert "3" in limit.seen.format(value=3)
    assert limit.advice
    if limit is not Limit.OPEN_FILES:
        assert hasattr(Limits(), limit)
        assert f"Limits.{limit}" in limit.advice


def test_limits_that_may_cut_off_a_proper_peer_are_off_by_default() -> None:
    default = Limits()
    for name in ("handler_timeout", "idle_timeout", "send_timeout"):
        assert getattr(default, name) == math.inf


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [1, 10**9, math.inf])
def test_counts(name: str, value: float) -> None:
    assert getattr(limits(**{name: value}), name) == value


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1, -math.inf, math.nan, 1.5, 10.0, True, "10", None])
def test_invalid_counts(name: str, value: object) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        limits(**{name: value})
    assert name in str(caught.value)


@pytest.mark.parametrize("name", PATIENCE)
@pytest.mark.parametrize("value", [0, 0.25, 3, math.inf])
def test_seconds(name: str, value: float) -> None:
    assert getattr(limits(**{name: value}), name) == value


@pytest.mark.parametrize("name", TIMEOUTS)
@pytest.mark.parametrize("value", [0.25, 3, math.inf])
def test_seconds_must_be_above_0(name: str, value: float) -> None:
    assert getattr(limits(**{name: value}), name) == value
    with pytest.raises(ValueError, match=name):
        limits(**{name: 0})


@pytest.mark.parametrize("name", [*PATIENCE, *TIMEOUTS])
@pytest.mark.parametrize("value", [-1, -0.001, math.nan, True, "3", None])
def test_invalid_durations(name: str, value: object) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        limits(**{name: value})
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("value", "meant"),
    [("wait", WhenFull.WAIT), ("reset", WhenFull.RESET), (WhenFull.RESET, WhenFull.RESET)],
)
def test_when_full(value: object, meant: WhenFull) -> None:
    assert limits(when_full=value).when_full is meant


def test_invalid_when_full() -> None:
    with pytest.raises(ValueError, match="drop"):
        limits(when_full="drop")


def test_limits_are_frozen_and_by_keyword() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Limits().pending = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        Limits(10)  # type: ignore[call-arg, arg-type]


def test_the_table_in_the_documentation() -> None:
    """Each limit has its row there, with its default."""
    page = (Path(__file__).parents[2] / "docs" / "limits.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, re.MULTILINE))
    default = Limits(connections=20_000 * 9 // 10)
    for name in (*COUNTS, *PATIENCE, *TIMEOUTS):
        value = getattr(default, name)
        assert rows[name] == ("none" if value == math.inf else f"{value:g}")
    assert rows["when_full"] == f'`"{default.when_full.value}"`'


@pytest.mark.parametrize("role", [None, *Role])
@pytest.mark.parametrize("limit", Limit)
def test_an_error_of_a_limit_has_its_facts(limit: Limit, role: Role | None) -> None:
    error = limit_error("no room", limit, 7, peer="192.0.2.7:4711", role=role)
    assert (error.limit, error.value, error.peer, error.role) == (limit, 7, "192.0.2.7:4711", role)
    assert "7" in (error.seen or "")
    assert error.advice
