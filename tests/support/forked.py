"""A Python program in a process that is forked, and not started: `trio-duplex` takes 0.05 s instead of 0.6.

What the process is and does is the same: `fork_server.py` says how. What Python reads when it starts is
not read again, so a start with another value of such a variable, `can_fork`, is left to a new Python.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from tests.support.fork_server import LIMITS, Start

ROOT = Path(__file__).parents[2]

AVAILABLE = hasattr(os, "pidfd_open") and Path("/proc/self/fd").exists()
"""Whether the system has what this needs: Linux has."""

READ_AT_START = ("PYTHON", "LC_", "LANG", "TZ", "LD_", "COV", "MALLOC_", "OPENSSL_", "GLIBC_")
"""What the names begin with of variables that are read when a process starts."""


def _read_at_start(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith(READ_AT_START)}


class ForkedProcess:
    """A forked process, with what tests use of `trio.Process`.

    Attributes:
        pid: Its number.
        stdin: The pipe to its standard input, if that was to be one.
        stdout: The pipe from its standard output, likewise.
        stderr: The pipe from its standard error, likewise.
    """

    def __init__(self, status: socket.socket) -> None:
        said, descriptors, _, _ = socket.recv_fds(status, 100, 1)
        if not descriptors:
            raise OSError("the fork server has not started the process; see its traceback")
        self.pid = int(said)
        self.stdin: trio.lowlevel.FdStream | None = None
        self.stdout: trio.lowlevel.FdStream | None = None
        self.stderr: trio.lowlevel.FdStream | None = None
        self._pidfd = descriptors[0]
        self._status = status
        self._returncode: int | None = None
        status.setblocking(False)

    @property
    def returncode(self) -> int | None:
        """Its exit code, minus a signal's number if that ended it; None while it runs."""
        if self._returncode is None:
            with contextlib.suppress(BlockingIOError):
                code = self._status.recv(100)
                assert code, "the fork server has ended before its process"
                self._returncode = int(code)
                self._status.close()
                os.close(self._pidfd)
        return self._returncode

    async def wait(self) -> int:
        """Wait for its end; give the exit code."""
        while (code := self.returncode) is None:
            await trio.lowlevel.wait_readable(self._status)
        await trio.lowlevel.checkpoint()
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # the code is about to be there
                signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The fork server of this process, which ends when all of those have ended that can ask it."""

    def __init__(self) -> None:
        self.environ = dict(os.environ)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        module = ("-W", "error", "-m", "tests.support.fork_server")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *module, str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self._end)

    def start(
        self,
        words: Sequence[str],
        environ: Mapping[str, str],
        descriptors: Sequence[int],
        *,
        pass_fds: Sequence[int] = (),
        cwd: str | os.PathLike[str] | None = None,
    ) -> ForkedProcess:
        """Start a program.

        Args:
            words: What is behind Python on its command line: ``-m module``, ``-c code`` or a file.
            environ: Its environment.
            descriptors: Its three standard streams.
            pass_fds: More descriptors that it inherits, with their numbers.
            cwd: Its working directory; ours by default.
        """
        os.umask(umask := os.umask(0o077))
        start = Start(
            words=list(words),
            environ=dict(environ),
            cwd=str(cwd or Path.cwd()),
            umask=umask,
            limits=[resource.getrlimit(each) for each in LIMITS],
            pass_fds=list(pass_fds),
        )
        status, theirs = socket.socketpair()
        with theirs:
            given = [*descriptors, *pass_fds, theirs.fileno()]
            socket.send_fds(self._control, [json.dumps(start).encode()], given)
        return ForkedProcess(status)

    def _end(self) -> None:
        self._control.close()
        self._process.wait()


_servers: dict[int, ForkServer] = {}
"""One for each process: a fork of the tests' process has none."""


def fork_server() -> ForkServer:
    """The fork server of this process."""
    pid = os.getpid()
    if pid not in _servers:
        _servers[pid] = ForkServer()
    return _servers[pid]


def can_fork(environ: Mapping[str, str]) -> bool:
    """Whether a fork is like a start with this environment, and there can be one."""
    return AVAILABLE and _read_at_start(environ) == _read_at_start(fork_server().environ)


def fork(
    words: Sequence[str],
    *,
    environ: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
) -> ForkedProcess:
    """Start a program as `trio.lowlevel.open_process` does.

    Args:
        words: What is behind Python on its command line: ``-m module``, ``-c code`` or a file.
        environ: Its environment; ours by default.
        pass_fds: More descriptors that it inherits.
        cwd: Its working directory; ours by default.
        stdin: Its standard input: a descriptor, ``PIPE``, ``DEVNULL``, or None for our own.
        stdout: Its standard output, likewise.
        stderr: Its standard error, likewise.
    """
    theirs: list[int] = []
    ours: list[trio.lowlevel.FdStream | None] = []
    with contextlib.ExitStack() as passed:
        for number, given in enumerate((stdin, stdout, stderr)):
            mine = None
            if given == subprocess.PIPE:
                reader, writer = os.pipe()
                each, kept = (reader, writer) if number == 0 else (writer, reader)
                mine = trio.lowlevel.FdStream(kept)
            elif given == subprocess.DEVNULL:
                each = os.open(os.devnull, os.O_RDWR)
            else:
                each = os.dup(number if given is None else given)
            passed.callback(os.close, each)
            theirs.append(each)
            ours.append(mine)
        whole = os.environ if environ is None else environ
        process = fork_server().start(words, whole, theirs, pass_fds=pass_fds, cwd=cwd)
    process.stdin, process.stdout, process.stderr = ours
    return process
