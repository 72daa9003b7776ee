"""The system around a service: systemd's sockets and notifications, the user to become, a supervisor."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping, MutableMapping, Sequence

import trio

from trio_duplex.cli._service.exits import Exit, ServiceError
from trio_duplex.cli._service.logs import log
from trio_duplex.cli._service.run import Host
from trio_duplex.cli._service.settings import ProcessSettings
from trio_duplex.cli._system.activation import (
    ActivationError,
    Inherited,
    find_inherited,
    take_listen_fds,
)
from trio_duplex.cli._system.notify import READY, STOPPING, WATCHDOG, Notifier, status_line
from trio_duplex.cli._system.privileges import PrivilegesError, become, find_identity


class SystemHost(Host):
    """What systemd, or nobody, gives us and is told.

    Args:
        notifier: Where to tell how we are.
        inherited: The descriptors that we were handed.
        becomes: Whether to become another user when told so: a supervisor of
            workers does not, since it must read keys again.
    """

    def __init__(
        self, notifier: Notifier, inherited: Sequence[Inherited] = (), *, becomes: bool = True
    ) -> None:
        self._notifier = notifier
        self._inherited = list(inherited)
        self._becomes = becomes

    @classmethod
    def take_from(cls, environ: MutableMapping[str, str], *, becomes: bool = True) -> SystemHost:
        """Read the environment, and remove from it what is not for our children.

        Raises:
            ServiceError: It can't be understood.
        """
        pid = os.getpid()
        try:
            inherited = take_listen_fds(environ, pid)
        except ActivationError as exc:
            raise ServiceError(str(exc), Exit.ADDRESS) from exc
        return cls(Notifier.take_from(environ, pid), inherited, becomes=becomes)

    def inherited(self) -> Mapping[str, Sequence[socket.socket]]:
        """The sockets that we were handed, by name."""
        try:
            names = {each.name for each in self._inherited}
            return {name: find_inherited(self._inherited, name) for name in names}
        except ActivationError as exc:
            raise ServiceError(str(exc), Exit.ADDRESS) from exc

    def bound(self, process: ProcessSettings) -> None:
        """Become the user that we are to be, now that ports are bound and keys are read."""
        try:
            identity = find_identity(process.user, process.group)
            if identity is not None and self._becomes:
                become(identity)
        except PrivilegesError as exc:
            raise ServiceError(str(exc), Exit.USAGE) from exc

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Feed the watchdog from Trio's own loop: one that hangs is one that starves it."""
        task_status.started()
        if self._notifier.watchdog is None:
            await trio.sleep_forever()
        else:
            while True:  # at half the time, as sd_watchdog_enabled(3) advises
                self._notifier.tell(WATCHDOG)
                await trio.sleep(self._notifier.watchdog / 2)

    @property
    def watchdog(self) -> float | None:
        """Seconds within which we must be heard of; None if nobody waits for it."""
        return self._notifier.watchdog

    def ready(self, status: str) -> None:
        """We serve, also again after a reload."""
        self._notifier.tell(READY, status_line(status))

    def reloading(self) -> None:
        """We reload."""
        self._notifier.reloading()

    def stopping(self) -> None:
        """We drain."""
        self._notifier.tell(STOPPING, status_line("draining"))


WORKER_FD = "TRIO_DUPLEX_WORKER_FD"
"""The environment variable by which a worker knows that it is one: the number of its channel."""

RETIRE = b"RETIRE=1"
"""What a supervisor sends to a worker that has a successor: accept nothing, and end when
connections have ended, however long that takes."""

PULSE = 2.0
"""Seconds between two signs of life of a worker."""


class WorkerHost(SystemHost):
    """What a supervisor gives a worker and is told by it.

    The two have a pair of ``SOCK_SEQPACKET`` sockets: it keeps datagrams apart,
    as sd_notify's socket does, and also ends when one of the two ends. So a
    worker whose supervisor was killed drains, and holds no port for ever.
    """

    def __init__(self, channel: socket.socket) -> None:
        super().__init__(Notifier())
        self._channel = channel
        channel.setblocking(False)

    @classmethod
    def taken_from(cls, environ: MutableMapping[str, str]) -> WorkerHost | None:
        """The host of a worker, or None if we are none."""
        number = environ.pop(WORKER_FD, None)
        if number is None:
            return None
        channel = socket.socket(fileno=int(number))
        channel.set_inheritable(False)
        return cls(channel)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Give signs of life, and do as told."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._obey)
            while True:
                self._tell(WATCHDOG)
                await trio.sleep(PULSE)

    async def _obey(self) -> None:
        channel = trio.socket.from_stdlib_socket(self._channel)
        while (told := await _receive(channel)) == RETIRE:
            os.kill(os.getpid(), signal.SIGUSR2)
        if not told:
            log.error("supervisor-gone", advice="this worker drains")
            os.kill(os.getpid(), signal.SIGTERM)
        await trio.sleep_forever()

    def ready(self, status: str) -> None:
        """This worker serves."""
        self._tell(READY, status_line(status))

    def reloading(self) -> None:
        """Workers do not reload: they are succeeded."""

    def stopping(self) -> None:
        """This worker drains."""
        self._tell(STOPPING)

    def _tell(self, *lines: str) -> None:
        try:
            self._channel.send("\n".join(lines).encode("utf-8", "backslashreplace"))
        except OSError:  # `_obey` sees that it is gone
            pass


async def _receive(channel: trio.socket.SocketType) -> bytes:
    try:
        return await channel.recv(4096)
    except OSError:
        return b""
