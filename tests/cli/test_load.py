"""``trio-duplex load``, in process and as a process of its own, against servers on loopback."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pty
import re
import resource
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from tests.support import child
from tests.support.authority import AUTHORITY
from tests.support.command import complete_command, start_command
from trio_duplex import Connection
from trio_duplex.cli._command import command
from trio_duplex.cli._load import load as _load
from trio_duplex.testing import Authority, Certificate, Flaw, ThreadServerFactory

pytestmark = pytest.mark.slow

WINDOW = 3.0
"""Seconds in which every speaking peer speaks where silent ones wait too, on a busy machine."""


@pytest.fixture(autouse=True)
def _limits_as_they_were() -> Iterator[None]:
    # The command raises this process's limit.
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def files(duplex_certificate: Certificate, tmp_path: Path) -> list[str]:
    return options(duplex_certificate, tmp_path)


def options(certificate: Certificate, folder: Path) -> list[str]:
    chain, key, trust = map(str, certificate.write(folder))
    return ["--cert", chain, "--key", key, "--trust", trust]


def load(*args: str) -> Result:
    try:  # click before 8.2 mixes them unless told not to
        runner = CliRunner(mix_stderr=False)  # type: ignore[call-arg]
    except TypeError:
        runner = CliRunner()
    return runner.invoke(command, ["load", *args])


def where(server: object) -> str:
    host, port = server.address  # type: ignore[attr-defined]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# ------------------------------------------------------------------------------------------------------ all is well


def test_a_mix(duplex_thread_server: ThreadServerFactory, files: list[str]) -> None:
    server = duplex_thread_server(window=WINDOW)
    mix = ["--mix", "speaking=8,silent=2,http=1,hang-up=1"]
    result = load(where(server), *files, *mix, "--rate", "200", "--connections", "24")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert re.search(r"^speaking +16 +16 +0$", result.stdout, re.MULTILINE)
    assert re.search(r"^silent +4 +4 +0$", result.stdout, re.MULTILINE)
    assert re.search(r"^http +2 +end of stream +it sent nothing", result.stdout, re.MULTILINE)
    assert "asked for 200 peers a second" in result.stdout
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_json(version: str, duplex_thread_server: ThreadServerFactory, files: list[str]) -> None:
    versions: list[str | None] = []

    async def echo(connection: Connection) -> None:
        versions.append(connection.tls_version)
        async for chunk in connection:
            await connection.send_all(chunk)

    server = duplex_thread_server(echo, window=WINDOW)
    result = load(
        *(where(server), *files, "--mix", "speaking,silent", "--json", "--tls", version),
        *("--seconds", "0.1", "--rate", "100"),
    )
    assert result.exit_code == 0
    said = json.loads(result.stdout)  # and nothing else is there
    assert said["passed"]
    assert said["peers"]["speaking"]["done"] == said["peers"]["silent"]["done"] == 5
    assert said["peers"]["silent"]["seconds"]["ClientHello"]["p50"] >= WINDOW
    assert 0 < said["client"]["cpu"] < 2
    assert versions == [f"TLSv{version}"] * 10


def test_a_server_that_does_not_echo(
    duplex_thread_server: ThreadServerFactory, files: list[str]
) -> None:
    async def quiet(connection: Connection) -> None:
        assert [chunk async for chunk in connection] == []

    server = duplex_thread_server(quiet, window=WINDOW)
    few = ["--connections", "4", "--mix", "speaking,silent"]
    result = load(where(server), *files, *few, "--no-echo")
    assert result.exit_code == 0, result.output
    assert "only handshakes" in result.stdout


def test_hostile_peers_need_no_certificate(duplex_thread_server: ThreadServerFactory) -> None:
    server = duplex_thread_server()
    result = load(
        where(server), "--mix", "http,reset,partial", "--connections", "3", "--timeout", "0.3"
    )
    assert result.exit_code == 0, result.output


def test_a_name_and_its_second_address(
    duplex_thread_server: ThreadServerFactory, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = duplex_thread_server(window=math.inf).address
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = closed.getsockname()

    def found(*_: object, **__: object) -> list[object]:
        tcp = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*tcp, nobody), (*tcp, (host, port))]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    result = load(f"node.example:{port}", *files, "--mix", "speaking", "--connections", "2")
    assert result.exit_code == 0, result.output


def test_ipv6(duplex_thread_server: ThreadServerFactory, files: list[str]) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("no IPv6 on loopback")
    server = duplex_thread_server(host="::1", window=math.inf)
    result = load(where(server), *files, "--mix", "speaking", "--connections", "2")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"[::1]:{server.port}: ")


def test_a_certificate_for_the_one_role_that_is_played(
    duplex_authority: Authority, duplex_thread_server: ThreadServerFactory, tmp_path: Path
) -> None:
    files = options(duplex_authority.flawed(Flaw.CLIENT_ONLY), tmp_path)
    server = duplex_thread_server(window=math.inf)
    speaking = load(where(server), *files, "--mix", "speaking", "--connections", "2")
    assert speaking.exit_code == 0, speaking.output
    silent = load(where(server), *files, "--mix", "speaking,silent", "--connections", "2")
    assert silent.exit_code == 2


# -------------------------------------------------------------------------------------------------- something is wrong


def test_a_server_that_refuses_the_certificate(
    duplex_authority: Authority, duplex_thread_server: ThreadServerFactory, tmp_path: Path
) -> None:
    other = Authority()
    files = options(other.certificate("stranger.example"), tmp_path)
    (tmp_path / "trust.pem").write_bytes(duplex_authority.trust_pem)
    server = duplex_thread_server(window=WINDOW)
    result = load(where(server), *files, "--mix", "speaking,silent", "--connections", "4")
    assert result.exit_code == 1
    assert re.search(r"^speaking +2 +echo: alert unknown_ca", result.stdout, re.MULTILINE)
    assert re.search(r"^silent +2 +handshake: alert unknown_ca", result.stdout, re.MULTILINE)


def test_a_timeout_below_the_window(
    duplex_thread_server: ThreadServerFactory, files: list[str]
) -> None:
    server = duplex_thread_server(window=60)
    few = ["--mix", "silent", "--connections", "2"]
    result = load(where(server), *files, *few, "--timeout", "0.1")
    assert result.exit_code == 1
    assert "ClientHello: timeout" in result.stdout
    assert "is the server's window longer?" in result.stdout


def test_the_cap(duplex_thread_server: ThreadServerFactory, files: list[str]) -> None:
    server = duplex_thread_server(window=WINDOW)
    many = ["--mix", "silent", "--connections", "10", "--rate", "100"]
    result = load(where(server), *files, *many, "--max-open", "3")
    assert result.exit_code == 1
    assert "7 did not dial, because 3 were open (--max-open)" in result.stdout


def test_descriptors_run_short(
    duplex_thread_server: ThreadServerFactory, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = duplex_thread_server(window=math.inf)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (70, 70))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    result = load(where(server), *files, "--mix", "speaking", "--connections", "1")
    assert result.exit_code == 0
    assert result.stderr == (
        "This process may have 70 files open (ulimit -n): --max-open is 6, not 1000.\n"
    )


def test_nobody_listens(files: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    result = load(f"127.0.0.1:{port}", *files)
    assert result.exit_code == 1
    assert result.stderr == f"trio-duplex: cannot dial 127.0.0.1:{port}: Connection refused\n"
    assert result.stdout == ""


@pytest.mark.parametrize("host", ["nobody.invalid", "a..b"])
def test_nobody_is_called_so(host: str, files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if host == "nobody.invalid":  # without asking a name server

        def unknown(*_: object, **__: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    result = load(f"{host}:1", *files)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"trio-duplex: cannot find {host}: ")


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["8443"], "HOST:PORT"),
        (["::1:8443"], "HOST:PORT"),
        (["127.0.0.1:0"], "port 0"),
        (["127.0.0.1:65536"], "65535"),
        ([], "HOST:PORT"),
        (["a:1", "--rate", "0"], "--rate"),
        (["a:1", "--rate", "-3"], "--rate"),
        (["a:1", "--rate", "nan"], "--rate"),
        (["a:1", "--rate", "inf"], "--rate"),
        (["a:1", "--rate", "fast"], "--rate"),
        (["a:1", "--seconds", "nan"], "--seconds"),
        (["a:1", "--timeout", "inf"], "--timeout"),
        (["a:1", "--connections", "0"], "--connections"),
        (["a:1", "--max-open", "0"], "--max-open"),
        (["a:1", "--size", "0"], "--size"),
        (["a:1", "--size", "65537"], "--size"),
        (["a:1", "--mix", "talking=1"], "'talking'"),
        (["a:1", "--mix", "http=0"], "no peers"),
        (["a:1", "--tls", "1.1"], "--tls"),
        (["a:1", "--cert", "absent.pem"], "absent.pem"),
        (["a:1"], "speaking and silent peers need --cert"),
        (["a:1", "--mix", "garbage"], "garbage peers need --cert"),
    ],
)
def test_usage_errors(args: list[str], word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", None)  # none is opened
    monkeypatch.setattr(socket, "getaddrinfo", None)
    result = load(*args)
    assert result.exit_code == 2
    assert word in result.stderr


@pytest.mark.parametrize("which", ["--cert", "--key", "--trust"])
def test_files_that_hold_something_else(
    which: str, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", None)
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    files[files.index(which) + 1] = str(nonsense)
    result = load("a:1", *files)
    assert result.exit_code == 2, result.output
    assert result.stderr.splitlines()[-1].startswith("trio-duplex: ")


def test_a_key_of_another_certificate(
    files: list[str], duplex_authority: Authority, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    other = options(duplex_authority.certificate("other.example"), folder)
    result = load("a:1", *files, "--key", other[other.index("--key") + 1])
    assert result.exit_code == 2
    assert "private key" in result.stderr


def test_a_certificate_that_has_expired(duplex_authority: Authority, tmp_path: Path) -> None:
    files = options(duplex_authority.flawed(Flaw.EXPIRED), tmp_path)
    result = load("a:1", *files)
    assert result.exit_code == 2
    assert "expired" in result.stderr


@pytest.mark.parametrize(
    ("seconds", "connections", "count"),
    [
        (None, None, 1000),
        (2.0, None, 200),
        (None, 7, 7),
        (2.0, 7, 7),
        (0.01, 7, 1),
        (0.001, None, 1),
    ],
)
def test_how_many(seconds: float | None, connections: int | None, count: int) -> None:
    assert _load._count(100, seconds, connections) == count


# ------------------------------------------------------------------------------------------- as a process of its own


@contextlib.asynccontextmanager
async def a_child(folder: Path) -> AsyncIterator[tuple[child.Child, list[str]]]:
    """A server in a process of its own, and the command line of a load on it."""
    child.write_certificates(folder, AUTHORITY)
    peer = folder / "peer.pem"
    AUTHORITY.issue_cert("peer.example").private_key_and_cert_chain_pem.write_to_path(peer)
    async with child.Child.start(folder, window=WINDOW) as server:
        yield (
            server,
            [
                *("load", f"127.0.0.1:{server.port}"),
                *("--cert", str(peer), "--trust", str(folder / "ca.pem")),
            ],
        )


async def test_a_process(tmp_path: Path) -> None:
    async with a_child(tmp_path) as (server, line):
        done = await complete_command(
            *line, "--connections", "30", "--mix", "speaking=8,silent=1,hang-up=1", "--json"
        )
        look = await server.idle()
    assert (done.returncode, done.stderr) == (0, b"")
    said = json.loads(done.stdout)
    assert said["passed"]
    assert {kind: peer["done"] for kind, peer in said["peers"].items()} == {
        "speaking": 24,
        "silent": 3,
        "hang-up": 3,
    }
    # What the load says is what the server saw; and one more, to see that somebody listens.
    assert look["accepted"] == 31
    assert look["completed"] == 27
    assert look["failed"] == {"PeerClosedError": 4}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_with_what_there_is(number: signal.Signals, tmp_path: Path) -> None:
    async with a_child(tmp_path) as (server, line):
        process = await start_command(
            *(*line, "--seconds", "600", "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        async with process.stdout, process.stderr:
            while True:
                look = await server.look()
                if look["completed"] - look["open"] > 4:  # so many have gone again
                    break
                await trio.sleep(0.05)
            process.send_signal(number)
            out = b"".join([chunk async for chunk in process.stdout])
            err = b"".join([chunk async for chunk in process.stderr])
            assert await process.wait() == 128 + number
        await server.idle()
    said = json.loads(out)
    assert said["stopped"] == number.name
    assert sum(kind["done"] for kind in said["peers"].values()) >= 1
    assert err.decode() == f"Stopped by {number.name}.\n"


def test_stopped_before_the_first_has_dialled(
    files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(socket, "getaddrinfo", interrupted)
    result = load("a:1", *files)
    assert result.exit_code == 130
    assert result.output == ""


async def test_a_terminal_is_shown_how_it_goes(tmp_path: Path) -> None:
    async with a_child(tmp_path) as (_, line):
        ours, theirs = pty.openpty()
        shown = bytearray()
        async with trio.lowlevel.FdStream(ours) as screen:

            async def read_screen() -> None:
                with contextlib.suppress(trio.BrokenResourceError):  # the other end is closed
                    async for chunk in screen:
                        shown.extend(chunk)

            process = await start_command(
                *(*line, "--connections", "60", "--mix", "speaking", "--json"),
                stdout=subprocess.PIPE,
                stderr=theirs,
                environ={"TERM": "xterm", "COLUMNS": "100"},
            )
            os.close(theirs)
            assert process.stdout is not None
            async with process.stdout:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(read_screen)
                    out = b"".join([chunk async for chunk in process.stdout])
            assert await process.wait() == 0
    assert json.loads(out)["passed"]
    assert re.search(rb"\d+ of 1 s  dialled \d+  done \d+  open \d+  failed 0", shown)
