"""``--workers``: a supervisor that starts and watches processes that serve the same listening sockets.

The supervisor opens the sockets, reads the files and gives up root privileges.
Workers are *forked* from it, and are not started as separate programs, for three
reasons. A worker that replaces a dead one serves what is in force, even if the
files have since become unusable, or only root can read them. Workers share the
memory of what was loaded, which the garbage collector does not touch once it is
frozen. And they share the keys of session tickets, so that a client can resume its
session with any of them.

A fork is dangerous if there is a second thread, or an event loop. So the supervisor
is plain code: it waits with `selectors`, runs Trio only to open sockets, resolves
names without a thread, and does not start any.

All workers share one listening socket. The kernel wakes a process that accepts, so
no connection is lost if a worker hangs or is stopped. With SO_REUSEPORT each worker
would have a queue of its own, and connections in the queue of a worker that hangs
would have to wait for it: of 100 dials to two workers, one of them stopped, 45 were
served, and all 100 on a shared socket.

A reload starts new workers. When all of them serve, the old ones stop accepting, and
end with their last connection, however long that lasts. If a new worker fails, the
old ones go on.

The number of a worker is never used again, so that the numbers of worker and
connection together identify a connection in the log.
"""

from __future__ import annotations

import contextlib
import enum
import gc
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Generator
from typing import Any, NoReturn, Self

import attrs
import trio

from trio_duplex.cli._service.configuration import Configuration
from trio_duplex.cli._service.exits import Exit, ServiceError
from trio_duplex.cli._service.listeners import ListenerPool
from trio_duplex.cli._service.loaded import Loaded, Seen, look_at
from trio_duplex.cli._service.logs import log
from trio_duplex.cli._service.run import (
    LONGEST_SLEEP,
    Host,
    log_failed_reload,
    log_reload,
    run_to_end,
    service_signals,
    set_up_log,
)
from trio_duplex.cli._system.activation import is_listening
from trio_duplex.cli._system.backoff import Backoff
from trio_duplex.cli._workers.orders import Order, Report
from trio_duplex.cli._workers.worker import Worker

RETRY_FIRST, RETRY_MOST = 0.5, 30.0
"""Seconds: bounds of the delay after which a worker that died is replaced, at first and at most."""

STEADY = 60.0
"""Seconds after which a worker that dies is a new misfortune, and not the last one again."""

START_TIMEOUT = 60.0
"""Seconds that a forked worker may take until it serves; it takes some milliseconds."""

CLOSE_GRACE = 15.0
"""Seconds after ``--drain-timeout`` that shielded closes may take, before a worker has hung."""

END_GRACE = 3.0
"""Seconds that a worker has to obey `Order.END`, before it is killed."""


class State(enum.Enum):
    """How far a worker is."""

    STARTING = "starting"
    SERVING = "serving"
    LEAVING = "leaving"
    """It accepts no more, and ends with its connections."""


@attrs.define(eq=False)
class Process:
    """A worker, as the supervisor sees it.

    Attributes:
        number: Its number.
        pid: Its process.
        channel: Our end of the socket pair.
        serves: What it serves.
        started: When it was forked.
        heard: When it last said something.
        state: How far it is.
        kill_at: When it is killed; never, if it ends before.
    """

    number: int
    pid: int
    channel: socket.socket
    serves: Loaded
    started: float
    heard: float
    kill_at: float
    state: State = State.STARTING

    def tell(self, order: Order) -> None:
        """Give it an order."""
        with contextlib.suppress(OSError):  # it is gone, which its exit says
            self.channel.send(order)

    def kill(self) -> None:
        """Kill it; its exit is seen later."""
        os.kill(self.pid, signal.SIGKILL)
        self.kill_at = float("inf")


def supervise(configuration: Configuration, host: Host) -> int:
    """Serve with several processes until told to stop.

    Returns:
        The exit code.

    Raises:
        ServiceError: It can't start.
    """
    plan = configuration.plan()
    set_up_log(plan)
    pool = ListenerPool(host.inherited())
    try:
        with _Starting() as starting:
            loaded = Loaded.of(plan)  # a passphrase may come late
            starting.files_read = True
            _open(pool, loaded)
            host.bound(loaded.plan.process)
            with Supervisor(configuration, host, pool, loaded) as supervisor:
                if starting.stopped_by is not None:
                    starting.tell()
                    return Exit.STOPPED
                return supervisor.run()
    finally:
        pool.close()


class _Starting:
    """SIGTERM and SIGINT until the supervisor takes them: they end the start.

    Attributes:
        files_read: Whether addresses are opened now. Until then a signal ends the
            process where it is, since a read may be waiting, and nothing is
            open that would have to be closed.
        stopped_by: The signal that came since.
    """

    def __init__(self) -> None:
        self.files_read = False
        self.stopped_by: signal.Signals | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def tell(self) -> None:
        """Say that the start has ended, and why."""
        assert self.stopped_by is not None
        log.info("stopped", by=self.stopped_by.name, while_starting="yes")

    def _note(self, number: int, _: object) -> None:
        self.stopped_by = signal.Signals(number)
        if not self.files_read:
            self.tell()
            os._exit(Exit.STOPPED)


class Supervisor:
    """Starts workers, watches them, replaces them.

    Args:
        configuration: Where settings come from at a reload.
        host: The system around us.
        pool: The sockets, open.
        loaded: What to serve.
    """

    def __init__(
        self, configuration: Configuration, host: Host, pool: ListenerPool, loaded: Loaded
    ) -> None:
        self._configuration = configuration
        self._host = host
        self._pool = pool
        self._loaded = loaded
        self._coming: Loaded | None = None
        """What a reload has read, while its workers start."""
        self._because = ""
        self._asked: str | None = None
        self._processes: dict[int, Process] = {}
        self._last_number = 0
        self._backoff = Backoff(first=RETRY_FIRST, most=RETRY_MOST)
        self._restarts: list[float] = []
        self._served = False
        self._stopped_by = 0
        self._code = 0
        self._failure: ServiceError | None = None
        now = time.monotonic()
        self._next_look = now + self._look_every()
        self._next_timed = now + loaded.plan.process.reload_every
        self._next_alive = now
        self._asked_for: Seen = loaded.seen
        self._last_seen: Seen = loaded.seen
        self._selector = selectors.DefaultSelector()
        self._awake, self._wake = socket.socketpair()
        self._signals: deque[int] = deque()
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._awake.setblocking(False)
        self._wake.setblocking(False)
        self._selector.register(self._awake, selectors.EVENT_READ, None)
        signal.set_wakeup_fd(self._wake.fileno())
        for number in (*service_signals(), signal.SIGCHLD):
            self._handlers[number] = signal.signal(number, self._note_signal)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for process in tuple(self._processes.values()):  # none, unless an error ends us
            process.kill()
            os.waitpid(process.pid, 0)
            self._forget(process)
        self._selector.close()
        self._awake.close()
        self._wake.close()

    def run(self) -> int:
        """Work until told to stop and all workers have ended; give the exit code.

        Raises:
            ServiceError: The workers did not get as far as to serve.
        """
        self._start(self._loaded)
        while self._processes or not (self._stopped_by or self._failure):
            wait = 0.0 if self._signals else max(0.0, self._due() - time.monotonic())
            for key, _ in self._selector.select(wait):
                if key.data is None:
                    self._awake.recv(4096)
                else:
                    self._listen_to(key.data)
            while self._signals:
                self._take_signal(self._signals.popleft())
            self._bury()
            self._look_at_clock(time.monotonic())
        if self._failure is not None:
            raise self._failure
        log.info("stopped")
        return self._code

    # ------------------------------------------------------------------------------------------- workers

    def _start(self, loaded: Loaded) -> None:
        for _ in range(loaded.plan.process.workers):
            self._fork(loaded)

    def _fork(self, loaded: Loaded) -> None:
        self._last_number += 1
        number = self._last_number
        ours, theirs = socket.socketpair()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # or what is in their buffers would be written twice
        # What is there now is shared with the workers, as long as no collector writes to it.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        try:
            pid = os.fork()
        except OSError as exc:
            ours.close()
            theirs.close()
            self._failed_to_live(f"can't fork: {exc.strerror}", worker=number)
            return
        if not pid:
            self._be_worker(number, loaded, ours, theirs)
        theirs.close()
        now = time.monotonic()
        process = Process(number, pid, ours, loaded, now, now, now + START_TIMEOUT)
        self._processes[pid] = process
        ours.setblocking(False)
        self._selector.register(ours, selectors.EVENT_READ, process)
        log.info("worker-started", worker=number, pid=pid)

    def _be_worker(
        self, number: int, loaded: Loaded, ours: socket.socket, theirs: socket.socket
    ) -> NoReturn:
        """Become a worker, in the process that was just forked."""
        code: int = Exit.FAILED
        try:
            signal.set_wakeup_fd(-1)
            for name in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(name, signal.SIG_DFL)
            # Nobody but the supervisor may hold its ends, or nobody would notice that it is gone.
            for process in self._processes.values():
                process.channel.close()
            for each in (self._selector, self._awake, self._wake, ours):
                each.close()
            pool = ListenerPool()
            for address in loaded.addresses:
                pool.adopt(address, self._pool.sockets(address))
            for address in self._pool.addresses - {*loaded.addresses}:
                for sock in self._pool.sockets(address):
                    sock.close()
            worker = Worker(number, loaded, pool, theirs, self._host.watchdog)
            code = run_to_end(worker.run)
        except ServiceError as exc:
            code = exc.exit_code
            log.error("worker-failed", why=exc.format_message())
        except BaseException:  # noqa: BLE001 - the supervisor's stack is not ours to unwind
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _listen_to(self, process: Process) -> None:
        try:
            received = process.channel.recv(64)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:  # it has closed its end, or is about to end
            self._selector.unregister(process.channel)
            return
        process.heard = time.monotonic()
        if Report.READY.value in received and process.state is State.STARTING:
            process.state = State.SERVING
            process.kill_at = float("inf")
            self._all_ready()

    def _all_ready(self) -> None:
        """See whether all of those are ready that somebody waits for."""
        if self._stopped_by or self._failure:
            return
        serving = self._serving(self._coming or self._loaded)
        if len(serving) < (self._coming or self._loaded).plan.process.workers:
            if self._served:
                self._host.status(self._status())
            return
        if self._coming is not None:
            self._come_into_force(self._coming)
        elif not self._served:
            self._served = True
            self._go_on()
        else:
            self._host.status(self._status())

    def _bury(self) -> None:
        """See which workers have ended, and what that means."""
        for process in tuple(self._processes.values()):
            pid, status = os.waitpid(process.pid, os.WNOHANG)
            if not pid:
                continue
            state = process.state
            self._forget(process)
            how = _how(status)
            if state is State.LEAVING or self._stopped_by or self._failure:
                log.info("worker-left", worker=process.number, pid=pid, **how)
                continue
            if not self._served:
                log.error("worker-ended", worker=process.number, pid=pid, **how)
                self._fail(f"worker {process.number} ended before it served: the log says why")
            elif process.serves is self._coming:
                log.error("worker-ended", worker=process.number, pid=pid, **how)
                self._give_up_coming(f"new worker {process.number} ended before all served")
            else:
                if time.monotonic() - process.started >= STEADY:
                    self._backoff.succeeded()
                self._failed_to_live(None, worker=process.number, pid=pid, **how)

    def _failed_to_live(self, why: str | None, **facts: object) -> None:
        """Have a worker that is missing replaced, after a while."""
        if why is not None:
            facts["why"] = why
        if not self._served:
            self._fail(why or "a worker could not be started")
            return
        if self._coming is not None and why is not None:
            self._give_up_coming(why)
            return
        self._backoff.failed()
        delay = self._backoff.delay()
        log.error("worker-ended", **facts, restart_in=f"{delay:.2f}")
        self._restarts.append(time.monotonic() + delay)
        self._host.status(self._status())

    def _fail(self, why: str) -> None:
        self._failure = ServiceError(why, Exit.FAILED)
        self._order_all(Order.END, END_GRACE)

    def _forget(self, process: Process) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(process.channel)
        process.channel.close()
        del self._processes[process.pid]

    def _serving(self, loaded: Loaded) -> list[Process]:
        return [
            each
            for each in self._processes.values()
            if each.serves is loaded and each.state is State.SERVING
        ]

    def _status(self) -> str:
        serving = self._serving(self._loaded)
        workers = ", ".join(f"{each.number} (pid {each.pid})" for each in serving) or "none"
        leaving = sum(each.state is State.LEAVING for each in self._processes.values())
        also = f"; {leaving} finishing" if leaving else ""
        return f"serving {self._loaded.names}; workers {workers}{also}"

    # ------------------------------------------------------------------------------------------- signals

    def _note_signal(self, number: int, _: object) -> None:
        # Also where the wakeup descriptor is Trio's, while it opens sockets.
        self._signals.append(number)

    def _take_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._ask("SIGHUP")
        elif number in (signal.SIGINT, signal.SIGTERM):
            self._stop(number)

    def _stop(self, number: int) -> None:
        if not self._stopped_by:
            self._stopped_by = number
            self._restarts.clear()
            timeout = self._loaded.plan.process.drain_timeout
            self._host.stopping()
            self._pool.close()
            # Workers close their sockets a moment later, and each logs this line once it has.
            log.info("draining", timeout=f"{timeout:g}")
            self._order_all(Order.DRAIN, timeout + CLOSE_GRACE)
        else:
            log.warning("stopped", by=signal.Signals(number).name, at_once="yes")
            self._code = 128 + number
            self._order_all(Order.END, END_GRACE)

    def _order_all(self, order: Order, grace: float) -> None:
        for process in self._processes.values():
            process.state = State.LEAVING
            process.kill_at = time.monotonic() + grace
            process.tell(order)

    # ------------------------------------------------------------------------------------------- reload

    def _ask(self, why: str) -> None:
        """Reload now, or when the reload that is under way has come to an end."""
        if self._stopped_by or self._failure:
            return
        if self._coming is not None or not self._served:
            self._asked = why
            return
        self._because = why
        self._host.reloading()
        try:
            coming = Loaded.read(self._configuration)
            _open(self._pool, coming)
        except ServiceError as exc:
            log_failed_reload(why, exc.format_message())
            self._host.ready(self._status())
            return
        self._coming = coming
        self._start(coming)

    def _come_into_force(self, coming: Loaded) -> None:
        former, self._loaded, self._coming = self._loaded, coming, None
        for process in self._processes.values():
            if process.serves is former:
                self._retire(process)
        self._restarts.clear()
        self._pool.keep(coming.addresses)
        self._asked_for = self._last_seen = coming.seen
        log_reload(self._because, former, coming)
        self._go_on()

    def _give_up_coming(self, why: str) -> None:
        coming, self._coming = self._coming, None
        for process in self._processes.values():
            if process.serves is coming:
                self._retire(process)
        self._pool.keep(self._loaded.addresses)
        log_failed_reload(self._because, why)
        self._go_on()

    def _retire(self, process: Process) -> None:
        """Have it end with its last connection; one that does not serve yet has none."""
        if process.state is State.STARTING:
            process.kill()
        process.state = State.LEAVING
        process.tell(Order.RETIRE)

    def _go_on(self) -> None:
        """Say that the start or a reload is over, and do what was asked for meanwhile."""
        self._host.ready(self._status())
        why, self._asked = self._asked, None
        if why is not None:
            self._ask(why)

    # ------------------------------------------------------------------------------------------- time

    def _look_every(self) -> float:
        return min(self._loaded.plan.process.watch, LONGEST_SLEEP)

    def _due(self) -> float:
        """When there is next something to do."""
        dues = [self._next_look, self._next_timed, *self._restarts]
        dues += [process.kill_at for process in self._processes.values()]
        if self._host.watchdog is not None:
            dues.append(self._next_alive)
        return min(*dues, time.monotonic() + LONGEST_SLEEP)

    def _look_at_clock(self, now: float) -> None:
        for process in self._processes.values():
            if now >= process.kill_at:
                log.error("worker-hangs", worker=process.number, pid=process.pid, action="killed")
                process.kill()
        for due in [due for due in self._restarts if now >= due]:
            self._restarts.remove(due)
            self._fork(self._loaded)
        if now >= self._next_alive and self._host.watchdog is not None:
            self._next_alive = now + self._host.watchdog / 4
            self._feed_watchdog(now, self._host.watchdog)
        if now >= self._next_timed:
            self._ask("--reload-every")
            self._next_timed = now + self._loaded.plan.process.reload_every
        if now >= self._next_look:
            self._next_look = now + self._look_every()
            self._look_at_files()

    def _feed_watchdog(self, now: float, within: float) -> None:
        """Kill workers that hang, and say that we are alive while any worker is."""
        for process in self._processes.values():
            if process.state is not State.STARTING and now - process.heard > within:
                process.kill_at = min(process.kill_at, now)
        # Heard twice in that time, so at half of it one that has not hung has been heard.
        if any(now - each.heard <= within for each in self._serving(self._loaded)):
            self._host.alive()

    def _look_at_files(self) -> None:
        """Reload once changed files have not changed for one look more."""
        if self._loaded.plan.process.watch == float("inf") or self._coming is not None:
            return
        now = look_at(self._loaded.plan)
        if now != self._asked_for and now == self._last_seen:
            self._asked_for = now
            self._ask("changed files")
        self._last_seen = now


def _open(pool: ListenerPool, loaded: Loaded) -> None:
    """Open the listening sockets that are not open yet.

    Raises:
        ServiceError: An address can't be opened, or is not a listening socket.
    """

    async def open_() -> None:
        # Trio would ask in a thread, and what has threads must not fork.
        trio.socket.set_custom_hostname_resolver(Resolver())
        await pool.open(loaded.addresses)

    with _wakeup_descriptor_free():
        trio.run(open_)
    for address in loaded.addresses:
        if not all(map(is_listening, pool.sockets(address))):
            raise ServiceError(
                f"--workers: {address} is one connection, which one process serves; leave --workers out",
                Exit.USAGE,
            )


@contextlib.contextmanager
def _wakeup_descriptor_free() -> Generator[None]:
    """Trio has a wakeup descriptor of its own, and warns if there is one already."""
    ours = signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        signal.set_wakeup_fd(ours)


class Resolver(trio.abc.HostnameResolver):
    """Resolve names in this thread, for a process that serves nobody meanwhile."""

    async def getaddrinfo(  # noqa: PLR0917 - Trio's
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002 - Trio's names
        proto: int = 0,
        flags: int = 0,
    ) -> Any:  # noqa: ANN401 - the system's own type is long
        """Ask the system."""
        await trio.lowlevel.checkpoint()
        return socket.getaddrinfo(host, port, family, type, proto, flags)

    async def getnameinfo(
        self,
        sockaddr: tuple[str, int] | tuple[str, int, int, int],
        flags: int,
    ) -> tuple[str, str]:
        """Ask the system."""
        await trio.lowlevel.checkpoint()
        return socket.getnameinfo(sockaddr, flags)


def _how(status: int) -> dict[str, object]:
    """How a process ended, as the log has it."""
    code = os.waitstatus_to_exitcode(status)
    return {"code": code} if code >= 0 else {"by": signal.Signals(-code).name}
