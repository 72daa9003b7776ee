"""Reading the configuration and all files, before anything of it comes into force."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import attrs
import trio

from trio_duplex import Credentials
from trio_duplex.cli._service.addresses import ListenAddress
from trio_duplex.cli._service.configuration import Configuration, Plan
from trio_duplex.cli._service.material import make_credentials
from trio_duplex.cli._service.option import option_name, options_of, show_value
from trio_duplex.cli._service.service import Service
from trio_duplex.cli._service.settings import ServiceSettings

Seen = dict[Path, tuple[int, int, int] | None]
"""How files looked: time of change, size and inode; None for one that can't be looked at."""


@attrs.frozen
class Loaded:
    """What one reading gave.

    Attributes:
        plan: The settings and the services.
        credentials: The credentials of each service, in the plan's order.
        seen: How the files looked before they were read; what changes later is seen later.
        digests: What the files held, as a hash; empty for one that can't be read.
    """

    plan: Plan
    credentials: Sequence[Credentials]
    seen: Seen
    digests: dict[Path, str]

    @classmethod
    def read(cls, configuration: Configuration) -> Loaded:
        """Read everything.

        Raises:
            ServiceError: Something can't be used.
        """
        return cls.of(configuration.plan())

    @classmethod
    def of(cls, plan: Plan) -> Loaded:
        """Read the files that a plan names.

        Raises:
            ServiceError: One of them can't be used.
        """
        seen = look_at(plan)
        credentials = [make_credentials(service.settings) for service in plan.services]
        return cls(plan, credentials, seen, _digests(plan))

    @classmethod
    async def of_in_thread(cls, plan: Plan) -> Loaded:
        """`of`, in a thread: a passphrase may come late, and connections go on meanwhile."""
        return await trio.to_thread.run_sync(cls.of, plan, abandon_on_cancel=True)

    @property
    def addresses(self) -> list[ListenAddress]:
        """Every address that the services listen on."""
        return [address for service in self.plan.services for address in service.addresses()]

    @property
    def names(self) -> str:
        """The names of the services."""
        return ", ".join(service.name for service in self.plan.services)

    def changes_since(self, former: Loaded) -> list[str]:
        """What is new, as people are told: files, options, services."""
        changed = [
            f"file {path}"
            for path, digest in self.digests.items()
            if digest != former.digests.get(path)
        ]
        before = {service_key(each): each.settings for each in former.plan.services}
        for service in self.plan.services:
            changed += _changes(before.pop(service_key(service), None), service)
        changed += [f"service {name} removed" for _, name in before]
        return changed + _differences(former.plan.process, self.plan.process)


def service_key(service: Service[Any]) -> tuple[type[Service[Any]], str]:
    """By what a service is known from one reading to the next: its kind and its name."""
    return type(service), service.name


def look_at(plan: Plan) -> Seen:
    """How the files of a plan look now."""
    found: Seen = {}
    for path in _files(plan):
        try:
            stat = path.stat()
        except OSError:
            found[path] = None
        else:
            found[path] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    return found


def _files(plan: Plan) -> list[Path]:
    return [*plan.files, *(path for service in plan.services for path in service.files())]


def _digests(plan: Plan) -> dict[Path, str]:
    found: dict[Path, str] = {}
    for path in _files(plan):
        try:
            found[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            found[path] = ""
    return found


def _changes(former: ServiceSettings | None, service: Service[Any]) -> list[str]:
    if former is None:
        return [f"service {service.name} added"]
    return [f"{service.name}: {change}" for change in _differences(former, service.settings)]


def _differences(old: object, new: object) -> list[str]:
    changes: list[str] = []
    for field, _, _, _ in options_of(type(new)):
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            changes.append(f"{option_name(field)} is {_shown(after)}")
    return changes


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(show_value, cast("tuple[object, ...]", value))) or "none"
    return show_value(value) or "none"
