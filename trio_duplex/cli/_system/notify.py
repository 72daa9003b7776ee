"""Tell systemd how the service is: the datagrams of sd_notify(3), whose format is guaranteed stable."""

from __future__ import annotations

import socket
import time
from collections.abc import MutableMapping

import attrs

READY, STOPPING, WATCHDOG = "READY=1", "STOPPING=1", "WATCHDOG=1"

SEND_TIMEOUT = 1.0
"""How many seconds we wait if the manager's queue is full. It is normally emptied in microseconds.
If it is not, the manager hangs, and the service must not hang because of that."""


@attrs.frozen
class Notifier:
    """Where to tell it; without an address it says nothing.

    Attributes:
        address: A socket's path, or ``@`` and an abstract name; None where nobody asked.
        watchdog: Seconds within which the manager wants `WATCHDOG`; None where it does not.
    """

    address: str | None = None
    watchdog: float | None = None

    @classmethod
    def take_from(cls, environ: MutableMapping[str, str], pid: int) -> Notifier:
        """Read the environment, and remove what is for us and not for our children."""
        address = environ.pop("NOTIFY_SOCKET", "")
        usec = environ.pop("WATCHDOG_USEC", "")
        for_us = environ.pop("WATCHDOG_PID", "") in ("", str(pid))
        seconds = int(usec) / 1e6 if usec.isascii() and usec.isdigit() and for_us else 0
        # What is neither is a kind of address that a later systemd has: sd_notify(3) refuses it.
        return cls(address if address[:1] in ("/", "@") else None, seconds or None)

    def tell(self, *lines: str) -> bool:
        """Send lines such as `READY`, as one datagram; whether the manager got them."""
        if self.address is None:
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(SEND_TIMEOUT)
            try:
                sock.connect(
                    self.address.replace("@", "\0", 1) if self.address[0] == "@" else self.address
                )
                sock.send("\n".join(lines).encode("utf-8", "backslashreplace"))
            except OSError:  # a manager that went away is no reason to stop serving
                return False
        return True

    def status(self, text: str) -> bool:
        """Say in one line how it goes: what ``systemctl status`` shows."""
        return self.tell(status_line(text))

    def reloading(self) -> bool:
        """Say that a reload begins; `READY` ends it."""
        return self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def status_line(text: str) -> str:
    """``STATUS=`` and a text, whose line ends must not become assignments of their own."""
    return "STATUS=" + " ".join(text.split())
