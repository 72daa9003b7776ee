"""The system around a service: systemd's sockets and notifications, and the user to switch to."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping, Sequence

from trio_duplex.cli._service.exits import Exit, ServiceError
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
    """

    def __init__(self, notifier: Notifier, inherited: Sequence[Inherited] = ()) -> None:
        self._notifier = notifier
        self._inherited = list(inherited)

    @classmethod
    def take_from(cls, environ: MutableMapping[str, str]) -> SystemHost:
        """Read the environment, and remove from it what is not for our children.

        Raises:
            ServiceError: It can't be understood.
        """
        pid = os.getpid()
        try:
            inherited = take_listen_fds(environ, pid)
        except ActivationError as exc:
            raise ServiceError(str(exc), Exit.ADDRESS) from exc
        return cls(Notifier.take_from(environ, pid), inherited)

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
            if identity is not None:
                become(identity)
        except PrivilegesError as exc:
            raise ServiceError(str(exc), Exit.USAGE) from exc

    @property
    def watchdog(self) -> float | None:
        """Seconds within which the manager wants to hear `alive`.

        Call `alive` twice as often, as sd_watchdog_enabled(3) advises.
        """
        return self._notifier.watchdog

    def alive(self) -> None:
        """Feed the watchdog."""
        self._notifier.tell(WATCHDOG)

    def ready(self, status: str) -> None:
        """We serve, also again after a reload."""
        self._notifier.tell(READY, status_line(status))

    def status(self, status: str) -> None:
        """How it goes."""
        self._notifier.status(status)

    def reloading(self) -> None:
        """We reload."""
        self._notifier.reloading()

    def stopping(self) -> None:
        """We drain."""
        self._notifier.tell(STOPPING, status_line("draining"))
