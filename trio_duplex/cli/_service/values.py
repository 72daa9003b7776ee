"""How the values of options are read from text: plain functions that raise ValueError with what is wrong."""

from __future__ import annotations

import ipaddress
import math
import sys
from pathlib import Path

from trio_duplex import NamedPeer, PinnedPeer, WhenFull

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MOST_WORKERS = 1024
"""More processes than this are a slip of the finger."""


def seconds(text: str) -> float:
    """Read 0 or more seconds, or ``inf``."""
    try:
        duration = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number of seconds") from None
    if math.isnan(duration) or duration < 0:
        raise ValueError(f"{text} is not 0 or more seconds")
    return duration


def positive_seconds(text: str) -> float:
    """Read more than 0 seconds; ``inf`` turns off what they bound."""
    duration = seconds(text)
    if not duration:
        raise ValueError("it must be more than 0 s; inf turns it off")
    return duration


def count(text: str) -> float:
    """Read a whole number of at least 1, or ``inf``."""
    if text == "inf":
        return math.inf
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise ValueError(f"{text!r} is not a whole number of at least 1, or inf")
    return int(text)


def worker_count(text: str) -> int:
    """Read how many processes are to serve."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_WORKERS):
        raise ValueError(f"{text!r} is not a whole number from 1 to {MOST_WORKERS}")
    if int(text) > 1 and sys.platform == "win32":
        raise ValueError("Windows can't fork; 1 is all that it can have")
    return int(text)


def file_path(text: str) -> Path:
    """Read a path; whether the file can be read is found out when it is."""
    if not text or "\0" in text:
        raise ValueError("it names no file")
    return Path(text)


def descriptor(text: str) -> int:
    """Read the number of a file descriptor."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is not the number of a file descriptor, such as 3")
    return int(text)


def network(text: str) -> Network:
    """Read an address or a network."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as exc:
        raise ValueError(f"{exc}; write an address or a network, such as 192.0.2.0/24") from None


def peer_name(text: str) -> str:
    """Read a name that a peer's certificate may bear."""
    NamedPeer(text)
    return text


def peer_pin(text: str) -> str:
    """Read a pin."""
    PinnedPeer(text)
    return text


def when_full(text: str) -> WhenFull:
    """Read what to do when ``connections`` are open."""
    try:
        return WhenFull(text)
    except ValueError:
        raise ValueError(f"{text!r} is not wait or reset") from None


def log_format(text: str) -> str:
    """Read the format of the log."""
    if text not in {"text", "json"}:
        raise ValueError(f"{text!r} is not text or json")
    return text


def alpn_name(text: str) -> str:
    """Read the name of a protocol."""
    if not (text.isascii() and 1 <= len(text) <= 255):
        raise ValueError(f"a protocol's name has 1 to 255 ASCII characters, not {text!r}")
    return text
