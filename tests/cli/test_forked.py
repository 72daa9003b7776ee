"""A command that the tests have forked is like one that was started: `tests/support/forked.py`."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import trio

from tests.support.command import PYTHON, complete, run_command, start_command
from tests.support.forked import AVAILABLE, ForkedProcess, can_fork, fork_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not AVAILABLE, reason="without pidfds, all are started"),
]


@pytest.mark.parametrize(
    "line",
    [
        ["--version"],
        ["--help"],
        ["nothing"],
        ["echo", "--help"],
        ["echo", "--listen", "127.0.0.1:0", "--cert", "absent", "--key", "absent"],
        ["check", "--cert", "absent", "--trust", "absent"],
        ["certs", "lab", "node.example"],
        ["connect", "127.0.0.1:1", "--wait", "0", "--cert", "absent"],
    ],
    ids=" ".join,
)
def test_same_output_and_exit_code(line: list[str], tmp_path: Path) -> None:
    folders = tmp_path / "forked", tmp_path / "started"
    ends = []
    for folder in folders:
        folder.mkdir()
        done = complete(*line, cwd=folder, fresh=folder.name == "started")
        made = sorted(path.relative_to(folder) for path in folder.rglob("*"))
        ends.append((done.returncode, done.stdout, done.stderr, made))
    assert ends[0] == ends[1]


FACTS = """
import gc, json, os, resource, signal, sys, threading
print(json.dumps({
    "environ": dict(os.environ),
    "cwd": os.getcwd(),
    "umask": os.umask(0),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "signals": [str(signal.getsignal(number)) for number in signal.valid_signals()],
    "mask": [*signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    "descriptors": sorted(os.listdir("/proc/self/fd"), key=int),
    "streams": [
        [getattr(stream, name) for name in ("name", "encoding", "errors", "line_buffering", "write_through")]
        for stream in (sys.stdin, sys.stdout, sys.stderr)
    ],
    "group": os.getpgid(0),
    "session": os.getsid(0),
    "warnings": [str(each) for each in sys.warnoptions],
    "flags": str(sys.flags),
    "threads": threading.active_count(),
    "collector": [gc.isenabled(), gc.get_threshold(), gc.get_debug()],
    "path": sys.path[0],
}))
"""


@pytest.mark.parametrize("files", [64, 256])
def test_same_facts(files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE_MORE", "variable \udcff")
    monkeypatch.delenv("PATH")
    monkeypatch.chdir(tmp_path)
    before, limits = os.umask(0o027), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, limits[1]))
    with socket.socket() as passed:
        passed_fds = [passed.fileno()]
        try:
            # Not the environment of the C library, to which readline, for one, adds without telling Python.
            started = subprocess.run(
                [*PYTHON, "-c", FACTS],
                capture_output=True,
                check=True,
                pass_fds=passed_fds,
                env=os.environ,
            )
            output, theirs = os.pipe()
            silence = os.open(os.devnull, os.O_RDWR)
            with os.fdopen(output, "rb") as pipe:
                forked = fork_server().start(
                    ["-c", FACTS], os.environ, [silence, theirs, silence], pass_fds=passed_fds
                )
                os.close(theirs)
                os.close(silence)
                said = pipe.read()
        finally:
            os.umask(before)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert trio.run(forked.wait) == 0
    here, there = json.loads(said), json.loads(started.stdout)
    assert here.pop("environ").items() ^ there.pop("environ").items() == set()
    assert here == there


@pytest.mark.parametrize(
    ("code", "ends"),
    [
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("raise LookupError", 1),
        ("import sys; sys.exit('a message')", 1),
        ("import sys; sys.exit(7)", 7),
        ("import os; os.abort()", -signal.SIGABRT),
        ("import threading; threading.Thread(target=lambda: print('thread')).start()", 0),
        ("import atexit; atexit.register(print, 'at exit'); print('first')", 0),
    ],
)
def test_same_end(code: str, ends: int) -> None:
    started = subprocess.run([*PYTHON, "-c", code], capture_output=True, check=False)
    output, theirs = os.pipe()
    silence = os.open(os.devnull, os.O_RDWR)
    with os.fdopen(output, "rb") as pipe:
        forked = fork_server().start(["-c", code], os.environ, [silence, theirs, silence])
        os.close(theirs)
        os.close(silence)
        said = pipe.read()
    assert trio.run(forked.wait) == started.returncode == ends
    assert said == started.stdout


def test_variables_that_are_read_at_the_start() -> None:
    assert can_fork({**os.environ, "COLUMNS": "80"})
    assert not can_fork({**os.environ, "PYTHONDEVMODE": "1"})
    assert not can_fork({**os.environ, "LC_ALL": "tr_TR"})


async def test_signals_reach_it_and_only_it(credentials: list[str]) -> None:
    options = ["--listen", "127.0.0.1:0", *credentials]
    async with run_command("echo", *options) as first, run_command("echo", *options) as second:
        await first.addresses()
        await second.addresses()
        for command in (first, second):
            assert isinstance(command.process, ForkedProcess)
            assert os.getpgid(command.process.pid) == os.getpgid(0)
            assert command.process.returncode is None
        assert await first.stop() == 0
        first.process.kill()  # which it can't hear any more
        assert second.process.returncode is None
        second.process.kill()
        assert await second.process.wait() == -signal.SIGKILL


async def test_no_descriptor_is_left() -> None:
    counts = []
    for _ in range(3):  # the server has some, which it gets before the first
        process = await start_command("--version", stdout=subprocess.DEVNULL)
        assert await process.wait() == 0
        counts.append(len(list(Path("/proc/self/fd").iterdir())))
    assert counts[0] == counts[1] == counts[2]
