"""``--window``: seconds or a policy: `trio_duplex.cli._service.window`."""

from __future__ import annotations

import math

import pytest

from trio_duplex import windows
from trio_duplex.cli._service.option import show_value
from trio_duplex.cli._service.window import NamedWindow, window, window_policy


@pytest.mark.parametrize(
    ("text", "seconds"), [("5", 5.0), ("0", 0.0), ("0.25", 0.25), ("inf", math.inf)]
)
def test_seconds(text: str, seconds: float) -> None:
    assert window(text) == seconds
    assert window_policy(window(text)) == seconds


@pytest.mark.parametrize("text", ["silent", "speaking", "remember", "remember:2", "learned"])
def test_policy_is_read_and_shown_alike(text: str) -> None:
    value = window(text)
    assert isinstance(value, NamedWindow)
    assert show_value(value) == text
    assert window(show_value(value)) == value
    assert isinstance(window_policy(value), windows.WindowPolicy)


def test_what_each_policy_chooses_for_a_stranger() -> None:
    stranger = windows.PeerFacts(remote_address=("192.0.2.1", 4711), round_trip=0.01)

    def choice(text: str) -> windows.Choice:
        policy = window_policy(window(text))
        assert isinstance(policy, windows.WindowPolicy)
        chosen = policy.choose(stranger)
        assert isinstance(chosen, windows.Choice)
        return chosen

    assert choice("silent").seconds == 0
    assert choice("speaking").seconds == math.inf
    assert choice("remember").seconds == 5
    assert choice("remember:2").seconds == 2
    assert choice("learned").seconds == 5


@pytest.mark.parametrize(
    "text",
    ["", "five", "-1", "nan", "silent:1", "remember:", "remember:x", "remember:-1", "Silent"],
)
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        window(text)


def test_each_service_has_a_memory_of_its_own() -> None:
    value = window("remember")
    assert window_policy(value) is not window_policy(value)
