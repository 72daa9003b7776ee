"""The sockets that a process listens on: opened once, shared by every reload.

A service is given duplicates of them. A reload that starts a service anew gives
it duplicates too, and closes those of the former; the kernel's queue is the
same, so no connection is refused meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import trio

from trio_duplex.cli._options import format_host_port
from trio_duplex.cli._service.addresses import (
    InheritedAddress,
    ListenAddress,
    TcpAddress,
    UnixAddress,
)
from trio_duplex.cli._service.exits import Exit, ServiceError
from trio_duplex.cli._system.activation import is_connected, is_listening
from trio_duplex.cli._system.inherited_connection import (
    InheritedConnection,
    free_standard_streams,
)

BACKLOG = 4096
"""Connections that the kernel holds for us; it takes the smaller of this and net.core.somaxconn."""


StreamListener = trio.SocketListener | InheritedConnection


class ListenerPool:
    """Listening sockets by address.

    Args:
        inherited: Listening sockets that were open when we started, by name
            (``LISTEN_FDNAMES``).
    """

    def __init__(self, inherited: Mapping[str, Sequence[socket.socket]] | None = None) -> None:
        self._inherited = dict(inherited or {})
        self._sockets: dict[ListenAddress, list[socket.socket]] = {}
        self._paths: dict[ListenAddress, os.stat_result] = {}

    async def open(self, addresses: Iterable[ListenAddress]) -> None:
        """Listen on each address that is not open yet; all or none.

        Raises:
            ServiceError: One of them can't be had; with exit code 4.
        """
        opened: list[ListenAddress] = []
        try:
            for address in addresses:
                if address in self._sockets:
                    continue
                self._sockets[address] = await self._open(address)
                opened.append(address)
        except BaseException:
            for address in opened:
                self.close(address)
            raise

    def adopt(self, address: ListenAddress, sockets: Sequence[socket.socket]) -> None:
        """Take listening sockets that somebody else has opened for an address."""
        self._sockets[address] = list(sockets)

    @property
    def addresses(self) -> set[ListenAddress]:
        """Every address that is open."""
        return {*self._sockets}

    def sockets(self, address: ListenAddress) -> Sequence[socket.socket]:
        """The open sockets of an address."""
        return self._sockets[address]

    def listeners(self, address: ListenAddress) -> list[StreamListener]:
        """Listeners of their own, over duplicates of an address's sockets.

        A connection that we inherited in the place of a listening socket is
        given once.
        """
        made: list[StreamListener] = []
        for sock in tuple(self._sockets[address]):
            if is_listening(sock):
                made.append(trio.SocketListener(trio.socket.from_stdlib_socket(sock.dup())))
            else:
                self._sockets[address].remove(sock)
                made.append(InheritedConnection(sock))
        return made

    def close(self, *addresses: ListenAddress) -> None:
        """Stop listening on these addresses, or on all; the path of a Unix socket goes too."""
        for address in addresses or tuple(self._sockets):
            for sock in self._sockets.pop(address, ()):
                sock.close()
            made = self._paths.pop(address, None)
            if made is not None and isinstance(address, UnixAddress):
                with contextlib.suppress(OSError):
                    now = Path(address.path).lstat()
                    if (now.st_dev, now.st_ino) == (made.st_dev, made.st_ino):  # not a successor's
                        Path(address.path).unlink()

    def keep(self, addresses: Iterable[ListenAddress]) -> None:
        """Stop listening on every address but these."""
        for address in {*self._sockets}.difference(addresses):
            self.close(address)

    async def _open(self, address: ListenAddress) -> list[socket.socket]:
        try:
            match address:
                case TcpAddress(host, port):
                    return await _open_tcp(host, port)
                case UnixAddress(path):
                    made = _open_unix(path)
                    if not path.startswith("@"):
                        self._paths[address] = os.lstat(path)
                    return [made]
                case InheritedAddress(name):
                    return self._take_inherited(name)
        except OSError as exc:
            raise ServiceError(f"can't listen on {address}: {_reason(exc)}", Exit.ADDRESS) from exc

    def _take_inherited(self, name: str) -> list[socket.socket]:
        if name in self._inherited:
            return [sock.dup() for sock in self._inherited[name]]
        if name.isdigit():
            try:
                sock = socket.socket(fileno=os.dup(int(name)))
            except OSError as exc:
                raise ServiceError(
                    f"can't listen on fd:{name}: {exc.strerror}; start us with a listening socket there",
                    Exit.ADDRESS,
                ) from exc
            if is_listening(sock) or is_connected(sock):
                free_standard_streams(sock)
                return [sock]
            sock.close()
            raise ServiceError(
                f"can't listen on fd:{name}: it is neither a listening socket nor a connection",
                Exit.ADDRESS,
            )
        known = ", ".join(sorted(self._inherited)) or "none"
        raise ServiceError(
            f"can't listen on fd:{name}: we inherit no socket of that name (inherited: {known}); "
            "set FileDescriptorName= in the socket unit",
            Exit.ADDRESS,
        )


async def _open_tcp(host: str, port: int) -> list[socket.socket]:
    listeners = await trio.open_tcp_listeners(port, host=host or None, backlog=BACKLOG)
    try:
        return [socket.socket(fileno=os.dup(listener.socket.fileno())) for listener in listeners]
    finally:
        for listener in listeners:
            await listener.aclose()


def _open_unix(path: str) -> socket.socket:
    name = f"\0{path[1:]}" if path.startswith("@") else path
    sock = socket.socket(socket.AF_UNIX)
    try:
        if not path.startswith("@"):
            _clear_stale(path)
        sock.bind(name)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _clear_stale(path: str) -> None:
    """Remove a socket on which nobody listens any more, as a crash leaves it."""
    try:
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            return  # bind() says that it exists
    except OSError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
        except OSError:
            pass


def _reason(exc: OSError) -> str:
    advice = {
        errno.EADDRINUSE: "somebody else listens there: stop it, or take another",
        errno.EADDRNOTAVAIL: "the address is not of this machine",
        errno.EACCES: "not permitted: a port below 1024 needs CAP_NET_BIND_SERVICE or an inherited "
        "socket, a path a directory that we may write to",
        errno.ENOENT: "its directory does not exist",
    }
    if isinstance(exc, socket.gaierror):
        return f"the name does not resolve: {exc.strerror}"
    cause = exc
    while cause.errno is None and isinstance(cause.__cause__, OSError):  # Trio wraps some
        cause = cause.__cause__
    number = cause.errno
    if number in advice:
        return advice[number]
    return cause.strerror or str(cause)


def sockets_addresses(sockets: Iterable[socket.socket]) -> list[str]:
    """Where sockets listen, as people and ``--listen`` write it."""
    shown: list[str] = []
    for sock in sockets:
        name = sock.getsockname()
        if sock.family == socket.AF_UNIX:
            path = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
            shown.append(f"unix:{path.replace(chr(0), '@', 1)}")
        else:
            shown.append(format_host_port(name[0], name[1]))
    return shown
