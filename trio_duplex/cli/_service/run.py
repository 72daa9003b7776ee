"""Run services in one process: start, signals, reload, drain.

SIGTERM or SIGINT drains: nothing new is accepted, and connections may finish. A
second signal ends everything at once. SIGHUP, the timer of ``--reload-every`` and
changed files cause a reload: everything is read and checked first, and comes into
force only if all of it is good. If the options of a service have changed, a new
service takes over its sockets; its open connections stay with the old one.
"""

from __future__ import annotations

import gc
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import trio

from trio_duplex import Credentials
from trio_duplex.cli._service.configuration import Configuration, Plan
from trio_duplex.cli._service.exits import Exit, ServiceError, first_error
from trio_duplex.cli._service.listeners import ListenerPool, sockets_addresses
from trio_duplex.cli._service.loaded import Loaded, look_at, service_key
from trio_duplex.cli._service.logs import log, set_up
from trio_duplex.cli._service.service import Context, Service
from trio_duplex.cli._service.settings import ProcessSettings

GC_THRESHOLDS = (20_000, 20, 50)
"""The thresholds of the garbage collector while we serve. A collection delays every
connection, so there are fewer than with Python's threshold of 700. With 600 proxied
connections beside 400 open ones there were 3 collections instead of 113, which took
0.07 s instead of 0.14 s (of 6 s in all, CPython 3.11), but the longest delay grew from 16
to 35 ms. Objects that existed when we began to serve are frozen, and not visited again:
to visit them took 0.2 s each time."""

LONGEST_SLEEP = 60.0
"""Seconds after which a timer looks whether a reload has changed it."""


class Host:
    """What the system around the process gives and is told; the base has nothing."""

    def inherited(self) -> Mapping[str, Sequence[socket.socket]]:
        """Listening sockets that were open when we started, by name."""
        return {}

    def bound(self, process: ProcessSettings) -> None:
        """All addresses are open and all keys are read: privileges may go."""

    @property
    def watchdog(self) -> float | None:
        """Seconds within which somebody wants to hear `alive`; None where nobody does."""
        return None

    def alive(self) -> None:
        """We have not hung."""

    def ready(self, status: str) -> None:
        """All services serve, at start or after a reload."""

    def status(self, status: str) -> None:
        """How it goes, in one line."""

    def reloading(self) -> None:
        """A reload begins."""

    def stopping(self) -> None:
        """A drain begins."""


def run_services(configuration: Configuration, host: Host | None = None) -> int:
    """Serve in this process until told to stop.

    Returns:
        The exit code.

    Raises:
        ServiceError: It can't start, or a service failed.
    """
    return run_to_end(SingleProcess(configuration, host or Host()).run)


def run_to_end(main: Callable[[], Awaitable[int]]) -> int:
    """Run ``main`` under Trio.

    Returns:
        Its exit code.

    Raises:
        ServiceError: It can't start, or a service failed.
    """
    failure: BaseException | None = None
    try:
        return trio.run(main)
    except* ServiceError as group:
        failure = first_error(group)
    except* OSError as group:
        error = first_error(group)
        failure = ServiceError(f"a service failed: {error}", Exit.FAILED)
    assert failure is not None
    raise failure


class Running:
    """The services that run in this process.

    Args:
        pool: The sockets that they listen on.
        host: The system around us.
    """

    def __init__(self, pool: ListenerPool, host: Host) -> None:
        self._pool = pool
        self._host = host
        self._loaded = Loaded(Plan(ProcessSettings(), ()), (), {}, {})
        self._running: dict[tuple[type[Service[Any]], str], Context] = {}
        self._retired: list[Context] = []

    async def start(self, loaded: Loaded, nursery: trio.Nursery) -> None:
        """Serve, and say so; the addresses are open already."""
        if self._host.watchdog is not None:
            nursery.start_soon(self._say_alive, self._host.watchdog / 2)
        for service, credentials in zip(loaded.plan.services, loaded.credentials, strict=True):
            self._running[service_key(service)] = await self._serve(service, credentials, nursery)
        self._loaded = loaded
        # What is there now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        self._host.ready(f"serving {loaded.names}")

    async def drain(self) -> None:
        """Accept nothing new, let connections finish, and cancel what is left at the timeout."""
        timeout = self._loaded.plan.process.drain_timeout
        contexts = (*self._running.values(), *self._retired)
        self._host.stopping()
        self._pool.close()
        for context in contexts:
            await context.retire()
        # Logged only now, so that a dial after this line is refused.
        log.info("draining", timeout=f"{timeout:g}")
        totals = [0, 0]

        async def drain(context: Context) -> None:
            finished, cancelled = await context.drain(timeout)
            totals[0] += finished
            totals[1] += cancelled

        async with trio.open_nursery() as drains:
            for context in contexts:
                drains.start_soon(drain, context)
        log.info("stopped", finished=totals[0], cancelled=totals[1])

    async def retire(self) -> None:
        """Accept nothing new, and wait until what is open has ended by itself."""
        self._pool.close()
        contexts = tuple(self._running.values())
        for context in contexts:
            await context.retire()
        for context in contexts:
            await context.wait_done()

    def end_at_once(self) -> None:
        """End every service without any grace."""
        for context in (*self._running.values(), *self._retired):
            context.cancel()

    async def _serve(
        self, service: Service[Any], credentials: Credentials, nursery: trio.Nursery
    ) -> Context:
        context = Context(service, self._pool, credentials)
        await nursery.start(context.run)
        for address in service.addresses():
            for shown in sockets_addresses(self._pool.sockets(address)):
                log.info("listening", name=service.name, address=shown)
        return context

    async def _say_alive(self, every: float) -> None:
        """Feed the watchdog from the loop that serves connections: if that hangs, the watchdog is not fed."""
        while True:
            self._host.alive()
            await trio.sleep(every)


class SingleProcess(Running):
    """Services in one process, which reads their settings itself and is told by signals.

    Args:
        configuration: Where settings come from, also at a reload.
        host: The system around us.
    """

    def __init__(self, configuration: Configuration, host: Host) -> None:
        super().__init__(ListenerPool(host.inherited()), host)
        self._configuration = configuration
        self._reloading = trio.CancelScope()
        self._reloads, self._asked = trio.open_memory_channel[str](1)

    async def run(self) -> int:
        """Start, serve and stop; give the exit code."""
        plan = self._configuration.plan()
        set_up_log(plan)
        with trio.open_signal_receiver(*service_signals()) as signals:
            try:
                async with trio.open_nursery() as nursery:
                    started = trio.Event()
                    nursery.start_soon(self._start_and_look_after, plan, nursery, started)
                    stopped_by = 0
                    async for number in signals:
                        if number == getattr(signal, "SIGHUP", None):
                            self._ask("SIGHUP")
                        elif (
                            not started.is_set()
                        ):  # a name resolves slowly, or a passphrase is late
                            log.info(
                                "stopped", by=signal.Signals(number).name, while_starting="yes"
                            )
                            nursery.cancel_scope.cancel()
                            return Exit.STOPPED
                        elif not stopped_by:
                            stopped_by = number
                            nursery.start_soon(self._stop, nursery)
                        else:
                            log.warning("stopped", by=signal.Signals(number).name, at_once="yes")
                            self.end_at_once()
                            nursery.cancel_scope.cancel()
                            return 128 + number
            finally:
                self._pool.close()
        return Exit.STOPPED

    async def _start_and_look_after(
        self, plan: Plan, nursery: trio.Nursery, started: trio.Event
    ) -> None:
        """Start, beside the task that waits for signals: a start can take long."""
        loaded = await Loaded.of_in_thread(plan)
        await self._pool.open(loaded.addresses)
        self._host.bound(plan.process)
        await self.start(loaded, nursery)
        started.set()
        nursery.start_soon(self._reload_when_asked, nursery)
        nursery.start_soon(self._reload_in_time)
        nursery.start_soon(self._watch_files)
        nursery.start_soon(self._end_with_services, nursery)

    # -------------------------------------------------------------------------------------------- stop

    async def _stop(self, nursery: trio.Nursery) -> None:
        """Drain everything, and end."""
        self._reloading.cancel()
        await self.drain()
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
            due = started + self._loaded.plan.process.reload_every
            if trio.current_time() >= due:
                self._ask("--reload-every")
                started = trio.current_time()
            else:  # in steps: a reload may change it
                await trio.sleep_until(min(due, trio.current_time() + LONGEST_SLEEP))

    async def _watch_files(self) -> None:
        """Ask for a reload once changed files have not changed for one look more."""
        asked = before = self._loaded.seen
        while True:
            plan = self._loaded.plan
            await trio.sleep(min(plan.process.watch, LONGEST_SLEEP))
            if self._loaded.plan is not plan:
                asked = before = self._loaded.seen
            if self._loaded.plan.process.watch == float("inf"):
                continue
            now = look_at(self._loaded.plan)
            if now != asked and now == before:
                asked = now
                self._ask("changed files")
            before = now

    async def _reload(self, why: str, nursery: trio.Nursery) -> None:
        self._host.reloading()
        former = self._loaded
        try:
            loaded = await Loaded.of_in_thread(self._configuration.plan())
            await self._pool.open(loaded.addresses)
        except ServiceError as exc:
            log_failed_reload(why, exc.format_message())
            self._host.ready(f"serving {former.names}")
            return
        left, running = dict(self._running), dict[tuple[type[Service[Any]], str], Context]()
        for service, credentials in zip(loaded.plan.services, loaded.credentials, strict=True):
            context = left.pop(service_key(service), None)
            if context is not None and context.service.settings == service.settings:
                context.replace_credentials(credentials)
                running[service_key(service)] = context
                continue
            running[service_key(service)] = await self._serve(service, credentials, nursery)
            if context is not None:
                await self._retire(context)
        for context in left.values():
            await self._retire(context)
        self._running, self._loaded = running, loaded
        self._pool.keep(loaded.addresses)
        log_reload(why, former, loaded)
        if loaded.plan.process.workers > 1:
            log.warning("one-process", advice="restart it: a reload does not make workers of it")
        self._host.ready(f"serving {loaded.names}")

    async def _retire(self, context: Context) -> None:
        await context.retire()
        self._retired = [each for each in self._retired if not each.done]
        self._retired.append(context)


def log_reload(why: str, former: Loaded, loaded: Loaded) -> None:
    """Say that a reload has come into force, in the form that the log has now."""
    if loaded.plan.process != former.plan.process:
        set_up_log(loaded.plan)
    changed = ", ".join(loaded.changes_since(former))
    log.info("reloaded", because=why, changed=changed or "nothing")


def log_failed_reload(because: str, why: str) -> None:
    """Say that a reload has come to nothing."""
    log.error("reload-failed", because=because, why=why, advice="what was in force stays in force")


def set_up_log(plan: Plan, worker: int = 0) -> None:
    """Send the log where the plan says, in the name of a worker if there are several."""
    process = plan.process
    level = logging.DEBUG if process.verbose else logging.WARNING if process.quiet else logging.INFO
    set_up(
        log_format=process.log_format,
        level=level,
        several=len(plan.services) > 1,
        worker=worker,
    )


def service_signals() -> Iterable[signal.Signals]:
    """The signals that a service obeys."""
    yield from (signal.SIGINT, signal.SIGTERM)
    if sys.platform != "win32":
        yield signal.SIGHUP
