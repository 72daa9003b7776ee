"""The numbers that bound a server, checked at the door: `trio_duplex._serve.limits`."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import attrs
import pytest

from trio_duplex import Limits, WhenFull

COUNTS = (
    "connections",
    "pending",
    "pending_per_address",
    "client_handshakes",
    "server_handshakes",
)
PATIENCE = ("greeting_patience", "opening_patience", "close_timeout")
TIMEOUTS = ("handler_timeout", "idle_timeout", "send_timeout", "keepalive")


def limits(**options: Any) -> Limits:
    return Limits(**options)


def test_every_limit_is_a_count_or_seconds_or_when_full() -> None:
    names = {field.name for field in attrs.fields(Limits)}
    assert names == {*COUNTS, *PATIENCE, *TIMEOUTS, "ack_timeout", "when_full"}


def test_ack_timeout() -> None:
    assert Limits().ack_timeout is None
    for value in (0.5, 900, math.inf):
        assert limits(ack_timeout=value).ack_timeout == value
    for wrong in (0, -1, math.nan, "10"):
        with pytest.raises((ValueError, TypeError), match="ack_timeout"):
            limits(ack_timeout=wrong)


def test_the_defaults_fit_20_000_descriptors() -> None:
    default = Limits()
    assert default.connections < 20_000
    assert default.pending <= default.connections
    assert default.client_handshakes < default.server_handshakes < default.pending
    assert default.when_full is WhenFull.WAIT


def test_what_may_cut_off_an_honest_peer_is_off_by_default() -> None:
    default = Limits()
    for name in ("handler_timeout", "idle_timeout", "send_timeout"):
        assert getattr(default, name) == math.inf


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [1, 10**9, math.inf])
def test_counts(name: str, value: float) -> None:
    assert getattr(limits(**{name: value}), name) == value


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1, -math.inf, math.nan, 1.5, 10.0, True, "10", None])
def test_what_is_no_count(name: str, value: object) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        limits(**{name: value})
    assert name in str(caught.value)


@pytest.mark.parametrize("name", PATIENCE)
@pytest.mark.parametrize("value", [0, 0.25, 3, math.inf])
def test_seconds(name: str, value: float) -> None:
    assert getattr(limits(**{name: value}), name) == value


@pytest.mark.parametrize("name", TIMEOUTS)
@pytest.mark.parametrize("value", [0.25, 3, math.inf])
def test_seconds_of_which_0_makes_no_sense(name: str, value: float) -> None:
    assert getattr(limits(**{name: value}), name) == value
    with pytest.raises(ValueError, match=name):
        limits(**{name: 0})


@pytest.mark.parametrize("name", [*PATIENCE, *TIMEOUTS])
@pytest.mark.parametrize("value", [-1, -0.001, math.nan, True, "3", None])
def test_what_is_no_duration(name: str, value: object) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        limits(**{name: value})
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("value", "meant"),
    [("wait", WhenFull.WAIT), ("reset", WhenFull.RESET), (WhenFull.RESET, WhenFull.RESET)],
)
def test_when_full(value: object, meant: WhenFull) -> None:
    assert limits(when_full=value).when_full is meant


def test_what_is_no_when_full() -> None:
    with pytest.raises(ValueError, match="drop"):
        limits(when_full="drop")


def test_limits_are_frozen_and_by_keyword() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Limits().pending = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        Limits(10)  # type: ignore[call-arg]


def test_the_table_in_the_documentation() -> None:
    """Each limit has its row there, with its default."""
    page = (Path(__file__).parents[2] / "docs" / "limits.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, re.MULTILINE))
    default = Limits()
    for name in (*COUNTS, *PATIENCE, *TIMEOUTS):
        value = getattr(default, name)
        assert rows[name] == ("none" if value == math.inf else f"{value:g}")
    assert rows["when_full"] == f'`"{default.when_full.value}"`'
