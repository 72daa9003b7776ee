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
from tests.support.forked import AVAILABLE, ForkedProcess, can_fork, fork, fork_server

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


def output_of_fork(code: str) -> tuple[int, str, str]:
    async def main() -> tuple[int, str, str]:
        process = fork(
            ["-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        async with process.stdout, process.stderr:
            said = b"".join([chunk async for chunk in process.stdout])
            complained = b"".join([chunk async for chunk in process.stderr])
        return await process.wait(), said.decode(), complained.decode()

    return trio.run(main)


LEAK = """
import socket, sys
def leak():
    sock = socket.socket()
    try:
        raise ValueError
    except ValueError:
        {end}
leak()
"""


@pytest.mark.parametrize("end", ["sys.exit(0)", "raise SystemExit", "leak.sock = sock"])
def test_a_socket_left_open_warns(end: str) -> None:
    code, _, complained = output_of_fork(LEAK.format(end=end))
    assert code == 0
    assert "ResourceWarning: unclosed <socket.socket" in complained


def test_output_that_cannot_be_written() -> None:
    unwritable = "import sys; sys.stdout = open('/dev/full', 'w'); print('lost')"
    code, _, complained = output_of_fork(unwritable)
    assert code == 120
    assert "No space left on device" in complained
    assert "SystemExit" not in complained


def test_the_order_of_tasks_differs() -> None:
    orders = """
import trio
async def main():
    order = []
    async def note(number):
        order.append(number)
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(note, number)
            if number % 4 == 3:
                await trio.sleep(0)
    print(order)
trio.run(main)
"""
    assert output_of_fork(orders)[1] != output_of_fork(orders)[1]


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
