"""Server and client processes, and what the operating system says that they cost."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

START_TIMEOUT = 20.0
"""Seconds for a server to listen; a JVM beside a busy core takes some of them."""

CALL_TIMEOUT = 120.0
"""Seconds for the client to carry out one command."""

ROOT = Path(__file__).parent.parent


class Process:
    """A child process that says in one line on its standard output that it is ready.

    Args:
        command: Program and arguments.
        environment: Variables added to ours.
        announce: The child prints a line when it is ready (a port number, say).
        cwd: Its working directory, which is where Python looks for modules first.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        announce: bool = True,
        cwd: Path = ROOT,
    ) -> None:
        with open(log or os.devnull, "ab") as errors:  # noqa: PTH123 - devnull is a str
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if announce else errors,
                stderr=errors,
                env={**os.environ, **(environment or {})},
                cwd=cwd,
            )
        self.announced = self._read_line(START_TIMEOUT) if announce else ""

    def _read_line(self, timeout: float) -> str:
        assert self.popen.stdout is not None
        # One line at a time is asked for, so nothing hides in the reader's buffer.
        if not select.select([self.popen.stdout], [], [], timeout)[0]:
            raise TimeoutError(f"{self.popen.args!r} said nothing for {timeout:g} s")
        line = self.popen.stdout.readline().decode()
        if not line:
            raise RuntimeError(f"{self.popen.args!r} ended with {self.popen.wait()}")
        return line.strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process and its children, by force if need be."""
        children = list(descendants(self.popen.pid))
        self.popen.terminate()
        try:
            self.popen.wait(3)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                pipe.close()

    def ask(self, line: str) -> str:
        """Write it one line, and return the line that it answers."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(line.encode() + b"\n")
        self.popen.stdin.flush()
        return self._read_line(CALL_TIMEOUT)

    def ask_times(self) -> dict[str, float]:
        """Have a Python server of ours tell its times from accept to handler, and forget them."""
        self.popen.send_signal(signal.SIGUSR2)
        found: dict[str, float] = json.loads(self._read_line(CALL_TIMEOUT))
        return found

    def wait_for_port(self, port: int) -> None:
        """Wait until it listens, where it does not say so itself.

        Raises:
            TimeoutError: It does not after `START_TIMEOUT` seconds.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                if time.monotonic() > deadline or self.popen.poll() is not None:
                    raise TimeoutError(f"{self.popen.args!r} does not listen") from None
                time.sleep(0.02)
            else:
                return

    def cpu(self) -> float:
        """CPU seconds, user and system, of the process and its living children."""
        return sum(map(cpu_seconds, [self.popen.pid, *descendants(self.popen.pid)]))

    def children(self) -> list[int]:
        """The process ids of its children."""
        return list(descendants(self.popen.pid))

    def cpu_of(self, pid: int) -> float:
        """CPU seconds of one of its processes."""
        return cpu_seconds(pid)

    def cpu_of_all(self) -> float:
        """`settled_cpu`, and that of children that have ended and were waited for, in steps of 10 ms."""
        running = self.settled_cpu()
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return running + sum(map(int, fields[13:15])) / os.sysconf("SC_CLK_TCK")

    def settled_cpu(self) -> float:
        """`cpu`, once the process has come to rest: what it owed is then paid.

        At rest is who runs no more than 0.5 ms (a JVM never rests altogether)
        in four looks in a row: on a busy machine a process that has work to do
        may well be kept waiting for one or two of them.
        """
        before, quiet = self.cpu(), 0
        while quiet < 4:
            time.sleep(0.02)
            now = self.cpu()
            quiet = quiet + 1 if now - before < 0.0005 else 0
            before = now
        return before

    def wait_for_files(self, count: int) -> None:
        """Wait until the process and its children have so many files open.

        Raises:
            TimeoutError: They have not after `CALL_TIMEOUT` seconds.
        """
        deadline = time.monotonic() + CALL_TIMEOUT
        while sum(map(open_files, [self.popen.pid, *descendants(self.popen.pid)])) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.popen.args!r} did not accept {count} connections")
            time.sleep(0.02)

    def resident(self) -> int:
        """Resident bytes of the process and its children, each shared page in its share."""
        return sum(map(resident_bytes, [self.popen.pid, *descendants(self.popen.pid)]))

    def collect_garbage(self) -> None:
        """Have a Python server of ours collect its garbage."""
        self.popen.send_signal(signal.SIGUSR1)
        time.sleep(0.1)
        self.settled_cpu()


class Client(Process):
    """The load-making process: `benchmarks.client`, told what to do in lines of JSON."""

    def __init__(self, pki: Path, log: Path | None = None) -> None:
        super().__init__([sys.executable, "-m", "benchmarks.client", str(pki)], log=log)

    def call(self, do: str, **arguments: object) -> dict[str, Any]:
        """Have it do one thing, and wait for what it has to tell.

        Raises:
            RuntimeError: A peer met an error: then the figures mean nothing.
        """
        answer: dict[str, Any] = json.loads(self.ask(json.dumps({"do": do, **arguments})))
        if answer.get("errors"):
            raise RuntimeError(f"{do}: {answer}")
        return answer


def descendants(pid: int) -> Iterator[int]:
    """The children of a process, theirs, and so on, as long as they live."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = children.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in map(int, found):
            yield child
            yield from descendants(child)


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads that a process has or had, in nanoseconds' resolution.

    This is the clock of clock_getcpuclockid(3), which Python does not wrap:
    Linux makes its number of the process id. /proc/PID/stat tells the same in
    steps of 10 ms.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:  # it ended meanwhile
        return 0.0


def resident_bytes(pid: int) -> int:
    """Resident memory of a process, pages that are shared counted in proportion."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in rollup.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def open_files(pid: int) -> int:
    """How many file descriptors a process has open."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - only counted
    except (FileNotFoundError, ProcessLookupError):
        return 0


def raise_file_limit() -> int:
    """Allow this process as many files as the system lets it; the limit is returned."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
