"""Run services in one process: start, signals, reload, drain.

SIGTERM or SIGINT drains: nothing new is accepted, and connections may finish.
A second one ends at once. SIGHUP, the timer of ``--reload-every`` and changed
files reload: everything is read and checked first, and only if all of it is
good does any of it come into force. A service whose options changed is
succeeded by another on the same sockets; its open connections stay with it.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import signal
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import trio

from trio_duplex import Credentials
from trio_duplex.cli._service.configuration import Configuration, Plan
from trio_duplex.cli._service.exits import Exit, ServiceError, first_error
from trio_duplex.cli._service.listeners import ListenerPool, sockets_addresses
from trio_duplex.cli._service.logs import log, set_up
from trio_duplex.cli._service.material import make_credentials
from trio_duplex.cli._service.option import option_name, options_of, show_value
from trio_duplex.cli._service.service import Context, Service
from trio_duplex.cli._service.settings import ProcessSettings

GC_THRESHOLDS = (20_000, 20, 50)
"""Of the collector, while serving: its pauses are pauses of every connection,
so it is to look less often than by Python's 700. What was there when we began
to serve is frozen, and not looked at again."""

LONGEST_SLEEP = 60.0
"""Seconds after which a timer looks whether a reload has changed it."""


class Host:
    """What the system around the process gives and is told; the base has nothing."""

    def inherited(self) -> Mapping[str, Sequence[socket.socket]]:
        """Listening sockets that were open when we started, by name."""
        return {}

    def bound(self, process: ProcessSettings) -> None:
        """All addresses are open and all keys are read: privileges may go."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run beside the services, until cancelled: a watchdog."""
        task_status.started()

    def ready(self, status: str) -> None:
        """All services serve, at start or after a reload."""

    def reloading(self) -> None:
        """A reload begins."""

    def stopping(self) -> None:
        """A drain begins."""


def run_services(configuration: Configuration, host: Host | None = None) -> int:
    """Serve until told to stop.

    Returns:
        The exit code.

    Raises:
        ServiceError: It can't start, or a service failed.
    """
    supervisor = Supervisor(configuration, host or Host())
    failure: BaseException | None = None
    try:
        return trio.run(supervisor.run)
    except* ServiceError as group:
        failure = first_error(group)
    except* OSError as group:
        error = first_error(group)
        failure = ServiceError(f"a service failed: {error}", Exit.FAILED)
    assert failure is not None
    raise failure


class Supervisor:
    """The services of a process, and what it is told.

    Args:
        configuration: Where settings come from.
        host: The system around us.
    """

    def __init__(self, configuration: Configuration, host: Host) -> None:
        self._configuration = configuration
        self._host = host
        self._pool = ListenerPool(host.inherited())
        self._plan = Plan(ProcessSettings(), ())
        self._running: dict[tuple[type[Service[Any]], str], Context] = {}
        self._retired: list[Context] = []
        self._digests: dict[Path, str] = {}
        self._seen: dict[Path, tuple[int, int, int] | None] = {}
        self._reloading = trio.CancelScope()
        self._reloads, self._asked = trio.open_memory_channel[str](1)

    async def run(self) -> int:
        """Start, serve and stop; give the exit code."""
        code = Exit.STOPPED
        plan = self._configuration.plan()
        _set_up_log(plan)
        with trio.open_signal_receiver(*_signals()) as signals:
            try:
                async with trio.open_nursery() as nursery:
                    await self._start(plan, nursery)
                    nursery.start_soon(self._reload_when_asked, nursery)
                    nursery.start_soon(self._reload_in_time)
                    nursery.start_soon(self._watch_files)
                    nursery.start_soon(self._end_with_services, nursery)
                    stopped_by = 0
                    async for number in signals:
                        if number == getattr(signal, "SIGHUP", None):
                            self._ask("SIGHUP")
                        elif not stopped_by:
                            stopped_by = number
                            nursery.start_soon(self._drain, nursery)
                        else:
                            log.warning("stopped", by=signal.Signals(number).name, at_once="yes")
                            for context in (*self._running.values(), *self._retired):
                                context.cancel()
                            nursery.cancel_scope.cancel()
                            return 128 + number
            finally:
                self._pool.close()
        return code

    # -------------------------------------------------------------------------------------------- start

    async def _start(self, plan: Plan, nursery: trio.Nursery) -> None:
        self._seen = _stats(plan)  # before they are read: what changes then is seen later
        credentials = _all_credentials(plan)
        await self._pool.open(_addresses(plan))
        self._host.bound(plan.process)
        await nursery.start(self._host.run)
        for service, own in zip(plan.services, credentials, strict=True):
            context = await self._serve(service, own, nursery)
            self._running[type(service), service.name] = context
        self._plan = plan
        self._digests = _digests(plan)
        # What is there now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        self._host.ready(self._status())

    async def _serve(
        self, service: Service[Any], credentials: Credentials, nursery: trio.Nursery
    ) -> Context:
        context = Context(service, self._pool, credentials)
        await nursery.start(context.run)
        for address in service.addresses():
            for shown in sockets_addresses(self._pool.sockets(address)):
                log.info("listening", name=service.name, address=shown)
        return context

    def _status(self) -> str:
        names = ", ".join(context.service.name for context in self._running.values())
        return f"serving {names}"

    # -------------------------------------------------------------------------------------------- stop

    async def _drain(self, nursery: trio.Nursery) -> None:
        """Drain everything, and end."""
        self._reloading.cancel()
        self._host.stopping()
        log.info("draining", timeout=f"{self._plan.process.drain_timeout:g}")
        self._pool.close()
        totals = [0, 0]

        async def drain(context: Context) -> None:
            finished, cancelled = await context.drain(self._plan.process.drain_timeout)
            totals[0] += finished
            totals[1] += cancelled

        async with trio.open_nursery() as drains:
            for context in (*self._running.values(), *self._retired):
                drains.start_soon(drain, context)
        log.info("stopped", finished=totals[0], cancelled=totals[1])
        nursery.cancel_scope.cancel()

    async def _end_with_services(self, nursery: trio.Nursery) -> None:
        """End the process when every service has ended by itself."""
        while any(not context.done for context in self._running.values()):
            for context in tuple(self._running.values()):
                await context.wait_done()
        if not any(context.stopping.is_set() for context in self._running.values()):
            nursery.cancel_scope.cancel()

    # -------------------------------------------------------------------------------------------- reload

    def _ask(self, why: str) -> None:
        try:
            self._reloads.send_nowait(why)
        except trio.WouldBlock:
            pass  # one that has not begun reads what is there then

    async def _reload_when_asked(self, nursery: trio.Nursery) -> None:
        with self._reloading:
            async for why in self._asked:
                await self._reload(why, nursery)

    async def _reload_in_time(self) -> None:
        started = trio.current_time()
        while True:
            due = started + self._plan.process.reload_every
            if trio.current_time() >= due:
                self._ask("--reload-every")
                started = trio.current_time()
            else:  # in steps: a reload may change it
                await trio.sleep_until(min(due, trio.current_time() + LONGEST_SLEEP))

    async def _watch_files(self) -> None:
        """Ask for a reload once changed files have not changed for one look more."""
        before = self._seen
        while True:
            await trio.sleep(min(self._plan.process.watch, LONGEST_SLEEP))
            if self._plan.process.watch == float("inf"):
                continue
            now = _stats(self._plan)
            if now != self._seen and now == before:
                self._seen = now
                self._ask("changed files")
            before = now

    async def _reload(self, why: str, nursery: trio.Nursery) -> None:
        self._host.reloading()
        try:
            plan = self._configuration.plan()
            seen = _stats(plan)
            credentials = _all_credentials(plan)
            await self._pool.open(_addresses(plan))
        except ServiceError as exc:
            log.error(
                "reload-failed",
                because=why,
                why=exc.format_message(),
                advice="what was in force stays in force",
            )
            self._host.ready(self._status())
            return
        digests = _digests(plan)
        changed = [f"file {path}" for path in digests if digests[path] != self._digests.get(path)]
        former, running = dict(self._running), dict[tuple[type[Service[Any]], str], Context]()
        for service, own in zip(plan.services, credentials, strict=True):
            context = former.pop((type(service), service.name), None)
            if context is not None and context.service.settings == service.settings:
                context.replace_credentials(own)
                running[type(service), service.name] = context
                continue
            changed += _changes(context, service)
            successor = await self._serve(service, own, nursery)
            running[type(service), service.name] = successor
            if context is not None:
                await self._retire(context)
        for context in former.values():
            changed.append(f"service {context.service.name} removed")
            await self._retire(context)
        self._running = running
        self._pool.keep(_addresses(plan))
        if plan.process != self._plan.process:
            changed += _differences(self._plan.process, plan.process)
            _set_up_log(plan)
        self._plan, self._digests, self._seen = plan, digests, seen
        log.info("reloaded", because=why, changed=", ".join(changed) or "nothing")
        self._host.ready(self._status())

    async def _retire(self, context: Context) -> None:
        await context.retire()
        self._retired = [each for each in self._retired if not each.done]
        self._retired.append(context)


def _all_credentials(plan: Plan) -> list[Credentials]:
    return [make_credentials(service.settings) for service in plan.services]


def _addresses(plan: Plan) -> list[Any]:
    return [address for service in plan.services for address in service.addresses()]


def _files(plan: Plan) -> list[Path]:
    return [*plan.files, *(path for service in plan.services for path in service.files())]


def _stats(plan: Plan) -> dict[Path, tuple[int, int, int] | None]:
    found: dict[Path, tuple[int, int, int] | None] = {}
    for path in _files(plan):
        try:
            stat = path.stat()
        except OSError:
            found[path] = None
        else:
            found[path] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    return found


def _digests(plan: Plan) -> dict[Path, str]:
    found: dict[Path, str] = {}
    for path in _files(plan):
        try:
            found[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            found[path] = ""
    return found


def _changes(context: Context | None, service: Service[Any]) -> list[str]:
    if context is None:
        return [f"service {service.name} added"]
    return [
        f"{service.name}: {change}"
        for change in _differences(context.service.settings, service.settings)
    ]


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


def _set_up_log(plan: Plan) -> None:
    process = plan.process
    level = logging.DEBUG if process.verbose else logging.WARNING if process.quiet else logging.INFO
    set_up(log_format=process.log_format, level=level, several=len(plan.services) > 1)


def _signals() -> Iterable[signal.Signals]:
    yield from (signal.SIGINT, signal.SIGTERM)
    if sys.platform != "win32":
        yield signal.SIGHUP
