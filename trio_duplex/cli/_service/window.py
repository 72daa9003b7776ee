"""The ``--window`` option: seconds, or the name of a policy of `trio_duplex.windows`."""

from __future__ import annotations

import math
from typing import Literal, assert_never, cast, get_args

import attrs

from trio_duplex import windows

Name = Literal["silent", "speaking", "remember", "learned"]


@attrs.frozen
class NamedWindow:
    """A policy as it was written.

    Attributes:
        name: Which policy.
        otherwise: With ``remember``, the window in seconds of peers that it does not know.
    """

    name: Name
    otherwise: float | None = None

    def __str__(self) -> str:
        return self.name if self.otherwise is None else f"{self.name}:{self.otherwise:g}"

    def policy(self) -> windows.WindowPolicy:
        """Make the policy; each service has its own, with its own memory."""
        match self.name:
            case "silent":
                return windows.SILENT
            case "speaking":
                return windows.SPEAKING
            case "remember":
                if self.otherwise is None:
                    return windows.PeerMemory()
                return windows.PeerMemory(otherwise=self.otherwise)
            case "learned":
                return windows.PeerMemory(otherwise=windows.Learned())
            case _:
                assert_never(self.name)


def window(text: str) -> float | NamedWindow:
    """Read a window: ``5``, ``inf``, ``silent``, ``speaking``, ``remember``, ``remember:5`` or ``learned``."""
    name, colon, rest = text.partition(":")
    if name in get_args(Name):
        if not colon:
            return NamedWindow(cast("Name", name))
        if name == "remember":
            return NamedWindow("remember", _seconds(rest))
        raise ValueError(f"{name} takes nothing after it")
    return _seconds(text)


def window_policy(value: float | NamedWindow) -> float | windows.WindowPolicy:
    """Give what the library's ``window=`` takes."""
    return value.policy() if isinstance(value, NamedWindow) else value


def _seconds(text: str) -> float:
    try:
        duration = float(text)
    except ValueError:
        names = ", ".join(get_args(Name))
        raise ValueError(f"{text!r} is neither a number of seconds nor one of {names}") from None
    if math.isnan(duration) or duration < 0:
        raise ValueError(f"{text} is not 0 or more seconds")
    return duration
