"""Sockets that the manager opened for us: ``LISTEN_FDS``, as sd_listen_fds(3) hands them over."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping

import attrs

FIRST = 3
"""The first descriptor that is handed over; those before it are standard input, output and error."""

VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class ActivationError(ValueError):
    """What was handed over can't be used."""


@attrs.frozen
class Inherited:
    """A descriptor that was handed over.

    Attributes:
        fd: Its number.
        name: Its name, ``FileDescriptorName=`` in the socket unit; ``unknown`` without one.
    """

    fd: int
    name: str = "unknown"


def take_listen_fds(environ: MutableMapping[str, str], pid: int) -> list[Inherited]:
    """Read the three variables, and remove them, so that no child takes them for its own.

    Raises:
        ActivationError: They are for this process and can't be understood.
    """
    given = {name: environ.pop(name) for name in VARIABLES if name in environ}
    return listen_fds(given, pid)


def listen_fds(environ: Mapping[str, str], pid: int) -> list[Inherited]:
    """Read what was handed over; nothing, if it is meant for another process.

    Raises:
        ActivationError: The variables can't be understood.
    """
    if environ.get("LISTEN_PID") != str(pid):
        return []
    count, names = environ.get("LISTEN_FDS", ""), environ.get("LISTEN_FDNAMES")
    if not (count.isascii() and count.isdigit() and len(count) <= 4):
        raise ActivationError(f"LISTEN_FDS={count!r} is not a number of descriptors")
    listed = ["unknown"] * int(count) if names is None else names.split(":") if names else []
    if len(listed) != int(count):
        raise ActivationError(f"LISTEN_FDNAMES has {len(listed)} names for LISTEN_FDS={count}")
    return [Inherited(FIRST + index, name) for index, name in enumerate(listed)]


def find_inherited(inherited: list[Inherited], wanted: str) -> list[socket.socket]:
    """The sockets behind ``fd:NAME``, where NAME is a name, or a number such as 0 for inetd.

    Raises:
        ActivationError: There is none of that name, or it is no stream socket.
    """
    numbers = [each.fd for each in inherited if each.name == wanted]
    if not numbers and wanted.isascii() and wanted.isdigit():
        numbers = [int(wanted)]
    if not numbers:
        names = ", ".join(sorted({each.name for each in inherited})) or "none at all"
        raise ActivationError(
            f"no descriptor named {wanted!r} was handed over (there are: {names}); "
            "it is FileDescriptorName= in the socket unit"
        )
    return [_stream_socket(number) for number in numbers]


def _stream_socket(number: int) -> socket.socket:
    try:
        os.set_inheritable(number, False)
        found = socket.socket(fileno=number)
    except OSError as exc:
        raise ActivationError(f"descriptor {number} is not a socket: {exc.strerror}") from exc
    if found.type != socket.SOCK_STREAM:
        found.detach()
        raise ActivationError(f"descriptor {number} is not a stream socket (ListenStream=)")
    return found


def is_listening(sock: socket.socket) -> bool:
    """Whether it is a listener, and not the connection that ``Accept=yes`` or inetd hands over."""
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False


def is_connected(sock: socket.socket) -> bool:
    """Whether it is a stream connection, with somebody at its other end."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return sock.type == socket.SOCK_STREAM
