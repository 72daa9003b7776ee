"""The tutorial's programs, as it runs them: devices of both kinds, a stop in order, and metrics."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import httpx
import pytest
import trio
from trio import Process
from trio.lowlevel import open_process

from tests.docs.blocks import DOCS, ROOT
from tests.support.command import PATIENCE
from tests.support.forked import ForkedProcess, can_fork, fork
from tests.support.ports import held_port

pytestmark = [pytest.mark.slow, pytest.mark.one_python]

PAGE = (DOCS / "tutorial.md").read_text(encoding="utf-8")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the page makes, with what it makes in it."""
    folder = tmp_path_factory.mktemp("tutorial") / "call-home"
    block = re.search(r"^(mkdir \.\./call-home\n(?:.+\n)+)```$", PAGE, re.MULTILINE)
    assert block
    made = block[1].replace("../call-home", shlex.quote(str(folder)))
    subprocess.run(["bash", "-ec", made], cwd=ROOT, check=True)
    found = re.search(r"^trio-duplex (certs .*)$", PAGE, re.MULTILINE)
    assert found
    words = found[1].split()
    run = [sys.executable, "-m", "trio_duplex", *words]
    subprocess.run(run, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)
    return folder


async def start(words: Sequence[str], lab: Path, written: BinaryIO) -> Process | ForkedProcess:
    """Start one of the page's programs; `test_commands_as_they_are_pasted` starts each in a new Python."""
    if can_fork(os.environ):
        return fork(
            words,
            cwd=lab,
            stdin=subprocess.DEVNULL,
            stdout=written.fileno(),
            stderr=written.fileno(),
        )
    return await open_process(
        [sys.executable, *words],
        cwd=lab,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=written,
        stderr=written,
    )


@asynccontextmanager
async def manager(
    step: int, lab: Path, *ports: int, said: Path
) -> AsyncIterator[Process | ForkedProcess]:
    with said.open("wb") as written:
        process = await start([f"manager_{step}.py", *map(str, ports)], lab, written)
    try:
        with trio.fail_after(PATIENCE):
            while True:  # until it listens
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", ports[0])).aclose()
                    break
                except OSError:
                    assert process.returncode is None, said.read_text()
                    await trio.sleep(0.05)
        yield process
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()


async def device(name: str, port: int, role: str, lab: Path, said: Path) -> str:
    with said.open("wb") as written:
        process = await start(["device.py", name, str(port), role], lab, written)
    try:
        with trio.fail_after(PATIENCE):
            code = await process.wait()
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
    assert code == 0, said.read_text()
    return said.read_text()


def conversation(name: str) -> str:
    return f"{name} is asked SERIAL?\n{name} is asked STATE?\n{name} is asked THANKS\n"


def test_the_reader_s_tests_pass(lab: Path) -> None:
    found = re.search(r"^python (-m pytest .*)$", PAGE, re.MULTILINE)
    assert found
    words = [sys.executable, *found[1].split(), "-p", "no:cacheprovider"]
    environment = {**ENVIRONMENT, "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        words, check=False, cwd=lab, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


@pytest.mark.parametrize("step", [4, 6])
def test_commands_as_they_are_pasted(step: int, lab: Path, tmp_path: Path) -> None:
    block = re.search(rf"^(python manager_{step}\.py (?:.+\n)+)```$", PAGE, re.MULTILINE)
    assert block
    shim = tmp_path / "python"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    shim.chmod(0o755)
    environment = {**ENVIRONMENT, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with held_port() as port, held_port() as metrics_port:
        pasted = block[1].replace("8443", str(port)).replace("9464", str(metrics_port))
        # A reader sees for how long; a busy machine may take longer.
        ports = (port, metrics_port) if step == 6 else (port,)
        listens = [
            f"until (exec 3<>/dev/tcp/127.0.0.1/{each}) 2>&-; do sleep 0.1; done" for each in ports
        ]
        assert "sleep 2\n" in pasted
        pasted = pasted.replace("sleep 2\n", "\n".join([*listens, ""]))
        done = subprocess.run(
            ["bash", "-c", pasted], check=False, cwd=lab, env=environment, text=True, timeout=120,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    assert "device-2.example is asked THANKS" in done.stdout, done.stdout
    assert "Traceback" not in done.stdout
    if step == 6 and shutil.which("curl"):
        assert "trio_duplex_decisions_total{" in done.stdout


@pytest.mark.parametrize("step", [4, 5])
async def test_devices_of_both_kinds(step: int, lab: Path, tmp_path: Path) -> None:
    said = tmp_path / "manager"
    with held_port() as port:
        async with manager(step, lab, port, said=said) as process:
            for name, role in (("device-1.example", "client"), ("device-2.example", "server")):
                heard = await device(name, port, role, lab, tmp_path / name)
                assert heard == conversation(name)
            process.send_signal(signal.SIGTERM)
            with trio.fail_after(PATIENCE):
                code = await process.wait()
    lines = said.read_text()
    assert f"listening on ('127.0.0.1', {port})" in lines
    if step == 5:
        # The last one may not be over for the manager yet, which waits for it.
        assert re.search("^[01] finished, 0 cancelled$", lines, re.MULTILINE)
        assert code == 0


async def test_metrics_and_log(lab: Path, tmp_path: Path) -> None:
    name, said = "device-2.example", tmp_path / "manager"
    with held_port() as port, held_port() as metrics_port:
        async with manager(6, lab, port, metrics_port, said=said) as process:
            assert await device(name, port, "server", lab, tmp_path / name) == conversation(name)
            async with httpx.AsyncClient(timeout=PATIENCE) as client:
                metrics = (await client.get(f"http://127.0.0.1:{metrics_port}/metrics")).text
            process.send_signal(signal.SIGTERM)
            with trio.fail_after(PATIENCE):
                code = await process.wait()
    assert 'trio_duplex_decisions_total{reason="silent",role="client"} 1.0' in metrics
    assert "INFO:manager:1 devices known, 0 refused" in said.read_text()
    assert code == 0
