"""A process that has imported the command, and becomes it by a fork.

``python -W error -m tests.support.fork_server FD``

`tests/support/forked.py` starts it and talks to it. Each message on the socket ``FD`` is one start: JSON
with the command line, the environment and what else a process inherits, and the descriptors that it is
to have. The last of these is a socket on which the child says that it is there, with its pid and a pidfd,
and on which this process then says how it ended.

The child leaves `serve`, and is its program at the end of this module. So what the program does not catch
ends it as it ends any Python: with a traceback, or by SIGINT.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import io
import json
import os
import pkgutil
import random
import resource
import runpy
import select
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import trio_duplex.cli

MOST_DESCRIPTORS = 100
"""More than a test lets a child inherit."""

MESSAGE_SIZE = 1 << 20
"""Bytes; an environment has some thousands."""

COERCED = os.environ.get("LC_CTYPE")
"""Python sets this when it starts, if the locale is C (PEP 538)."""

LIMITS = (resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_CORE, resource.RLIMIT_FSIZE)


class Start(TypedDict):
    """What a new process is to be.

    Attributes:
        words: What is behind Python on its command line: ``-m module``, ``-c code`` or a file, and arguments.
        environ: Its whole environment.
        cwd: Its working directory.
        umask: The mode bits of new files that are taken away.
        limits: Soft and hard limit for each of `LIMITS`.
    """

    words: Sequence[str]
    environ: Mapping[str, str]
    cwd: str
    umask: int
    limits: Sequence[tuple[int, int]]
    pass_fds: Sequence[int]


generators: list[random.Random] = []
"""Trio's order of tasks is from one of them, and is to differ between children. Python seeds only its own anew."""


def import_everything() -> None:
    """Import what a subcommand needs, and what it imports only when it needs it."""
    for module in pkgutil.walk_packages(trio_duplex.cli.__path__, "trio_duplex.cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def serve(control: socket.socket) -> Start | None:
    """Fork for each message; returns in each child, and in this process when nobody can ask any more."""
    children: dict[int, tuple[int, socket.socket]] = {}  # by pidfd
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor != control.fileno():
                pid, status = children.pop(descriptor)
                poll.unregister(descriptor)
                os.close(descriptor)
                with status, contextlib.suppress(OSError):  # nobody may want to know any more
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    status.sendall(str(code).encode())
                continue
            message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_SIZE, MOST_DESCRIPTORS)
            if not message:
                return None
            start: Start = json.loads(message)
            pid = os.fork()
            if pid == 0:
                for sock in (control, *(status for _, status in children.values())):
                    sock.close()  # here, and not when these objects are collected
                become(start, descriptors)
                return start
            *inherited, last = descriptors
            for each in inherited:
                os.close(each)
            pidfd = os.pidfd_open(pid)
            children[pidfd] = pid, socket.socket(fileno=last)
            poll.register(pidfd, select.POLLIN)


def become(start: Start, descriptors: Sequence[int]) -> None:
    """Have what a new process would have, and then say that we are there."""
    *inherited, last = descriptors
    wanted = [0, 1, 2, *start["pass_fds"]]
    # Out of the way first, for the numbers that we got are not those that we are to have.
    above = max([*descriptors, *wanted]) + 1
    moved = [fcntl.fcntl(each, fcntl.F_DUPFD, above) for each in inherited]
    said = fcntl.fcntl(last, fcntl.F_DUPFD, above)
    for number, each in zip(wanted, moved, strict=True):
        os.dup2(each, number)
    close_others({*wanted, said})
    os.chdir(start["cwd"])
    os.umask(start["umask"])
    for number, (soft, hard) in zip(LIMITS, start["limits"], strict=True):
        resource.setrlimit(number, (soft, hard))
    os.environ.clear()
    os.environ.update(start["environ"])
    if COERCED is not None:
        os.environ.setdefault("LC_CTYPE", COERCED)
    for generator in generators:
        generator.seed()
    open_streams()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pid = os.getpid()
    pidfd = os.pidfd_open(pid)
    with socket.socket(fileno=said) as sock:
        socket.send_fds(sock, [f"{pid}\n".encode()], [pidfd])
    os.close(pidfd)


def close_others(kept: set[int]) -> None:
    """Close all descriptors but these."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - which opens one more, and that is closed
        if int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))


def open_streams() -> None:
    """Make Python's standard streams anew, in the way that it does itself."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = _stream(number, getattr(sys, name))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _stream(number: int, like: io.TextIOWrapper) -> io.TextIOWrapper:
    writes = number > 0
    raw = io.FileIO(number, "w" if writes else "r", closefd=False)
    raw.name = like.name
    stream: Any = raw
    if not writes:
        stream = io.BufferedReader(raw)
    elif not like.write_through:  # else PYTHONUNBUFFERED is set
        stream = io.BufferedWriter(raw)
    return io.TextIOWrapper(
        stream,
        encoding=like.encoding,
        errors=like.errors,
        newline="\n",
        line_buffering=writes and not like.write_through and (number == 2 or raw.isatty()),
        write_through=like.write_through,
    )


def main() -> None:
    """Serve until all of those that can ask have gone; in a child, be the command."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the tests, which then leave us
    import_everything()
    gc.collect()
    generators.extend(each for each in gc.get_objects() if issubclass(type(each), random.Random))
    gc.freeze()  # so that a child neither looks at these objects nor copies them
    with socket.socket(fileno=int(sys.argv[1])) as control:
        start = serve(control)
    if start is not None:
        end_promptly(exit_code(start["words"]))


def exit_code(words: Sequence[str]) -> int:
    """Be this program, and give its exit code once its frames, and what they held, are gone."""
    try:
        run(*words)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        raise
    return 0


def run(*words: str) -> None:
    """Be this program, as ``python WORDS`` is."""
    if words[0] == "-m":
        sys.argv = ["-m", *words[2:]]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        sys.path[0] = ""
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [*words]
        sys.path[0] = str(Path(words[0]).resolve().parent)
        runpy.run_path(words[0], run_name="__main__")


def end_promptly(code: int) -> None:
    """End as Python does, but leave its objects to the kernel: to take all modules apart takes 0.05 s.

    Not after anything else than an exit code, nor if the output can't be written: Python then has more to
    do and to say.
    """
    gc.collect()  # a socket that was not closed warns
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        raise SystemExit(code) from None
    os._exit(code)


if __name__ == "__main__":
    main()
