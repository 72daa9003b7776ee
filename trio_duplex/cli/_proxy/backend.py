"""Reach a backend: several addresses in turn, each name resolved anew, each with a timeout."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import trio

from trio_duplex.cli._service.addresses import BackendAddress, TcpAddress, UnixAddress
from trio_duplex.cli._service.exits import first_error
from trio_duplex.cli._service.logs import log


class BackendDownError(Exception):
    """No backend could be reached; the text says why, for each."""


async def connect(backends: Sequence[BackendAddress], *, timeout: float) -> trio.SocketStream:
    """Connect to the first backend that takes us.

    A name is resolved at each call, so that a backend that has moved is found.

    Args:
        backends: In order of preference.
        timeout: Seconds for each.

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


async def _connect(backend: BackendAddress) -> trio.SocketStream:
    match backend:
        case TcpAddress(host, port):
            return await trio.open_tcp_stream(host, port)
        case UnixAddress(path) if path.startswith("@"):
            return await trio.open_unix_socket(b"\0" + path[1:].encode())
        case UnixAddress(path):
            return await trio.open_unix_socket(path)


def unreachable_reason(exc: OSError) -> str:
    """Why there is no TCP connection, in a few words."""
    if isinstance(exc, socket.gaierror):
        return f"the name does not resolve ({exc.strerror})"
    cause: BaseException | None = exc
    while isinstance(cause, OSError) and cause.errno is None:  # Trio wraps what each address said
        cause = cause.__cause__ and first_error(cause.__cause__)
    number = getattr(cause, "errno", None)
    return os.strerror(number) if number else str(exc)  # Trio's own text repeats the address
