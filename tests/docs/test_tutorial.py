"""The tutorial's programs, as it runs them: devices of both kinds, a stop in order, and metrics."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, ROOT
from tests.support.command import PATIENCE
from tests.support.ports import held_port

pytestmark = pytest.mark.slow

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


@contextmanager
def manager(step: int, lab: Path, *ports: int) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, f"manager_{step}.py", *map(str, ports)]
    with subprocess.Popen(
        words, cwd=lab, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while True:  # until it listens
                try:
                    socket.create_connection(("127.0.0.1", ports[0]), timeout=PATIENCE).close()
                    break
                except OSError:
                    assert process.poll() is None, process.communicate()
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            yield process
        finally:
            process.kill()


def device(name: str, port: int, role: str, lab: Path) -> str:
    words = [sys.executable, "device.py", name, str(port), role]
    return subprocess.run(
        words,
        cwd=lab,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    ).stdout


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
def test_devices_of_both_kinds(step: int, lab: Path) -> None:
    with held_port() as port, manager(step, lab, port) as process:
        for name, role in (("device-1.example", "client"), ("device-2.example", "server")):
            assert device(name, port, role, lab) == conversation(name)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=PATIENCE)
    assert f"listening on ('127.0.0.1', {port})" in said
    if step == 5:
        # The last one may not be over for the manager yet, which waits for it.
        assert re.search("^[01] finished, 0 cancelled$", said, re.MULTILINE)
        assert process.returncode == 0


def test_metrics_and_log(lab: Path) -> None:
    with (
        held_port() as port,
        held_port() as metrics_port,
        manager(6, lab, port, metrics_port) as process,
    ):
        assert device("device-2.example", port, "server", lab) == conversation("device-2.example")
        with urllib.request.urlopen(
            f"http://127.0.0.1:{metrics_port}/metrics", timeout=PATIENCE
        ) as page:
            metrics = page.read().decode()
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=PATIENCE)
    assert 'trio_duplex_decisions_total{reason="silent",role="client"} 1.0' in metrics
    assert "INFO:manager:1 devices known, 0 refused" in said
    assert process.returncode == 0
