"""How long to wait: `trio_duplex._decision.window`. That it is asked before a socket opens is in test_serve.py."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from trio_duplex._decision.window import DEFAULT_WINDOW
from trio_duplex._seconds import check_seconds


def test_default_is_five_seconds() -> None:
    assert DEFAULT_WINDOW == 5.0


@pytest.mark.parametrize("value", [0, 0.0, 1, 2.5, 1e-9, 10**9, math.inf])
def test_durations(value: float) -> None:
    checked = check_seconds("window", value)
    assert checked == value
    assert type(checked) is float


@pytest.mark.parametrize("value", [-1, -1e-9, -math.inf, math.nan, -math.nan])
def test_invalid_durations(value: float) -> None:
    with pytest.raises(ValueError, match=r"^window .*" + str(value)):
        check_seconds("window", value)


@pytest.mark.parametrize("value", [True, False, "5", b"5", None, 5j, [5], Fraction(5)])
def test_durations_that_are_not_numbers(value: object) -> None:
    with pytest.raises(TypeError, match=r"^handshake_timeout "):
        check_seconds("handshake_timeout", value)
