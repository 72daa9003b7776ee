"""Reach a backend: several addresses in turn, each name resolved anew, each with a timeout."""

from __future__ import annotations

import contextlib
import errno
import functools
import ipaddress
import os
import socket
import sys
from collections.abc import Sequence

import trio

from trio_duplex.cli._service.addresses import BackendAddress, TcpAddress, UnixAddress
from trio_duplex.cli._service.exits import first_error
from trio_duplex.cli._service.logs import log


class BackendDownError(Exception):
    """No backend could be reached; the text says why, for each."""


async def connect(backends: Sequence[BackendAddress], *, timeout: float) -> socket.socket:
    """Connect to the first backend that takes us.

    A name is resolved at each call, so that a backend that has moved is found.

    Args:
        backends: In order of preference.
        timeout: Seconds for each.

    Returns:
        A socket that does not block.

    Raises:
        BackendDownError: None does.
    """
    failures: list[str] = []
    for backend in backends:
        try:
            with trio.fail_after(timeout):
                return await _connect(backend)
        except trio.TooSlowError:
            failures.append(f"{backend} did not answer within {timeout:g} s")
        except OSError as exc:
            failures.append(f"{backend}: {unreachable_reason(exc)}")
        if len(backends) > 1:
            log.debug("backend-skipped", backend=backend, why=failures[-1])
    raise BackendDownError("; ".join(failures))


async def _connect(backend: BackendAddress) -> socket.socket:
    match backend:
        case TcpAddress(host, port):
            return await _connect_tcp(host, port)
        case UnixAddress(path) if path.startswith("@"):
            return _detach(await trio.open_unix_socket(b"\0" + path[1:].encode()))
        case UnixAddress(path):
            return _detach(await trio.open_unix_socket(path))


async def _connect_tcp(host: str, port: int) -> socket.socket:
    """Connect to a name, with Trio's happy eyeballs, or to an IP address, which needs none of them.

    Trio's way with an IP address costs a tenth of all that Python does for a short
    proxied connection.
    """
    family = _family(host)
    if family is None or sys.platform == "win32":  # which tells in other ways how it went
        made = _detach(await trio.open_tcp_stream(host, port))
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # Trio's 16 KiB is for little latency, and costs a relay a quarter of its bulk; 0 is the system's.
            with contextlib.suppress(OSError):
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 0)
        return made
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = made.connect_ex((host, port))
        if number == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(made)
            number = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
    except BaseException:
        made.close()
        raise
    return made


@functools.lru_cache
def _family(host: str) -> socket.AddressFamily | None:
    """The family of an IP address; None for a name, or an address with a zone, which only the resolver knows."""
    if "%" in host:
        return None
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return None
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _detach(stream: trio.SocketStream) -> socket.socket:
    """The socket of a stream, as one of the standard library's."""
    made = socket.socket(fileno=stream.socket.detach())
    made.setblocking(False)
    return made


def unreachable_reason(exc: OSError) -> str:
    """Why there is no TCP connection, in a few words."""
    if isinstance(exc, socket.gaierror):
        return f"the name does not resolve ({exc.strerror})"
    cause: BaseException | None = exc
    while isinstance(cause, OSError) and cause.errno is None:  # Trio wraps what each address said
        cause = cause.__cause__ and first_error(cause.__cause__)
    number = getattr(cause, "errno", None)
    return os.strerror(number) if number else str(exc)  # Trio's own text repeats the address
