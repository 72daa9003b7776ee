"""A real HTTP server behind an agent that can only dial out, fetched with curl through the hub.

Everything is a process of its own, as in the field: hub, agent, curl, `openssl s_server`. What is
asserted of time is that nothing hangs.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.support.authority import AUTHORITY
from tests.support.command import PATIENCE, Command, run_command
from tests.support.manager import READY, Manager
from tests.support.patience import window_for
from tests.support.ports import held_port
from tests.support.tools import require_tool
from trio_duplex import Credentials, Role, open_tcp_connection

pytestmark = pytest.mark.interop

HTTP_TIMEOUT = 120
"""Seconds after which curl takes a request for hung: it then says so, and the test fails."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the path, many times."""

    def do_GET(self) -> None:
        body = self.path.encode() * 1000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class WebServer(http.server.ThreadingHTTPServer):
    request_queue_size = 1000
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hung up is no news."""


@contextlib.contextmanager
def web_server(port: int = 0, name: str = "") -> Iterator[int]:
    handler = type("Named", (Handler,), {"server_version": name or "web"})
    with WebServer(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=partial(server.serve_forever, 0.05))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of one fleet."""
    folder = tmp_path_factory.mktemp("fleet")
    AUTHORITY.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("hub", "site-1", "site-2"):
        certificate = AUTHORITY.issue_cert(f"{name}.example")
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.pem")
        (folder / f"{name}.pem").chmod(0o600)
    return folder


@pytest.fixture(scope="module")
def backend() -> Iterator[int]:
    with web_server() as port:
        yield port


def hub(folder: Path, *options: object, clients: int = 0, agents: int = 0) -> list[object]:
    return [
        *("rendezvous", "hub", "--cert", folder / "hub.pem", "--trust", folder / "ca.pem"),
        *("--listen", f"127.0.0.1:{clients}", "--listen-agents", f"127.0.0.2:{agents}", "-v"),
        *options,
    ]


def agent(folder: Path, port: int, to: int, *options: object, name: str = "site-1") -> list[object]:
    return [
        *("rendezvous", "agent", "--cert", folder / f"{name}.pem", "--trust", folder / "ca.pem"),
        *("--dial", f"127.0.0.2:{port}", "--to", f"127.0.0.1:{to}", "-v"),
        *("--peer-name", "hub.example", "--retry-first", "0.2", "--retry-most", "1"),
        *options,
    ]


@contextlib.asynccontextmanager
async def running_hub(
    folder: Path, *options: object, clients: int = 0, agents: int = 0
) -> AsyncIterator[tuple[Command, int, int]]:
    """A hub, and its ports for clients and for agents."""
    async with run_command(*hub(folder, *options, clients=clients, agents=agents)) as command:
        (_, client_port), (_, agent_port) = await command.addresses(2)
        yield command, client_port, agent_port


async def curl(*arguments: object) -> tuple[int, str]:
    """Run curl; its exit code and what it says."""
    command = [require_tool("curl"), "-sS", "-m", HTTP_TIMEOUT, "--noproxy", "*", *arguments]
    process = await trio.run_process(
        [*map(str, command)], capture_stdout=True, capture_stderr=True, check=False
    )
    return process.returncode, (
        process.stdout if process.returncode == 0 else process.stderr
    ).decode()


async def fetch(port: int) -> str:
    """Fetch a page, until it comes; which server it came from. A request that hangs is a failure."""
    with trio.fail_after(PATIENCE):
        while True:
            code, said = await curl(
                "-o", "/dev/null", "-w", "%header{server}", f"http://127.0.0.1:{port}/x"
            )
            assert code != 28, "a request hung"
            if code == 0:
                return said.partition(" ")[0]
            await trio.sleep(0.1)


async def test_two_hundred_requests_at_once(folder: Path, backend: int, tmp_path: Path) -> None:
    # However long the last of them waits for its turn on a busy machine.
    patient = ("--wait", PATIENCE, "--client-patience", PATIENCE)
    options = ("--agent", "site-1.example", *patient)
    async with running_hub(folder, *options) as (command, port, agents):
        async with run_command(*agent(folder, agents, backend)) as dialler:
            await command.line("agent-waits")
            code, said = await curl(
                *("-Z", "--parallel-immediate", "--parallel-max", 200, "-o", tmp_path / "#1"),
                *("-w", "%{http_code} ", f"http://127.0.0.1:{port}/[1-200]"),
            )
            assert code == 0, said
            assert said.split().count("200") == 200
            for number in range(1, 201):
                assert (tmp_path / str(number)).read_bytes() == f"/{number}".encode() * 1000
            assert await dialler.stop() == 0
            # Spares that wait for nobody hold nobody up.
            with trio.fail_after(PATIENCE):
                assert await command.stop() == 0


@pytest.mark.parametrize("role", list(Role), ids="client is TLS {}".format)
async def test_tls_between_client_and_hub(
    folder: Path, backend: int, socket_folder: Path, role: Role
) -> None:
    """A proxy in front of the hub's address for clients, in the same file."""
    path = folder / "both.toml"
    socket_path = socket_folder / "hub.sock"
    path.write_text(
        "cert = 'hub.pem'\ntrust = 'ca.pem'\n"
        f"[hub]\nlisten = 'unix:{socket_path}'\nlisten-agents = '127.0.0.2:0'\n"
        f"[proxy]\nlisten = '127.0.0.1:0'\nto = 'unix:{socket_path}'\n"
        f"window = {window_for(role)}\n"
    )
    peer = Credentials.mutual(certificate_chain=folder / "site-2.pem", trust=folder / "ca.pem")
    async with run_command("serve", path, "-v") as command:
        ports: dict[str, int] = {}
        for name in ("proxy", "hub"):
            line = await command.line(f"name={name} address=127")
            ports[name] = int(line.partition("address=")[2].partition(" ")[0].rpartition(":")[2])
        async with run_command(*agent(folder, ports["hub"], backend)):
            await command.line("agent-waits")
            with trio.fail_after(PATIENCE):
                async with await open_tcp_connection(
                    "127.0.0.1", ports["proxy"], peer, role=role
                ) as connection:
                    await connection.send_all(b"GET /tls HTTP/1.0\r\n\r\n")
                    answer = b"".join([chunk async for chunk in connection])
            assert answer.endswith(b"\r\n\r\n" + b"/tls" * 1000)
            assert await command.stop() == 0


async def test_hub_in_several_processes_is_refused(folder: Path) -> None:
    """Its clients would not find the agents' connections that wait in another process."""
    async with run_command(*hub(folder, "--workers", 2)) as command:
        assert await command.process.wait() == 2
        assert "--workers" in await command.line("in its own process")


async def test_agent_in_several_processes(folder: Path, backend: int) -> None:
    """Each keeps its own spares, and one that is killed is replaced."""
    async with running_hub(folder) as (command, port, agents):
        with Manager.listening() as manager:
            async with run_command(
                *agent(folder, agents, backend, "--workers", 2, "--spare", 2),
                environ={"NOTIFY_SOCKET": manager.address},
            ) as dialler:
                await manager.told(READY)  # or one that is killed now has never served
                await command.line("agent-waits", count=4)
                line = await dialler.line("worker-started", "worker=1")
                os.kill(int(line.rpartition("pid=")[2]), signal.SIGKILL)
                await command.line("agent-left", count=2)
                await command.line("agent-waits", count=6)
                await fetch(port)
                assert await dialler.stop() == 0


@pytest.mark.parametrize("window", [0, 600])
async def test_agent_that_announces_itself(folder: Path, backend: int, window: float) -> None:
    """A hub with a window takes it before the window ends; one without has greeted it already."""
    async with running_hub(folder, "--window", window) as (_, port, agents):
        async with run_command(*agent(folder, agents, backend, "--announce")):
            await fetch(port)


async def test_agent_is_killed(folder: Path, backend: int) -> None:
    async with running_hub(folder) as (command, port, agents):
        async with run_command(*agent(folder, agents, backend)) as first:
            await fetch(port)
            first.process.kill()
            await command.line("agent-left")
        async with run_command(*agent(folder, agents, backend)):
            await fetch(port)


async def test_one_agent_of_two_is_killed(folder: Path, backend: int) -> None:
    with web_server(name="other") as other:
        async with running_hub(folder) as (command, port, agents):
            async with run_command(*agent(folder, agents, other, name="site-2")):
                async with run_command(*agent(folder, agents, backend)) as killed:
                    await command.line("agent-waits", "site-1")
                    await command.line("agent-waits", "site-2")
                    # Round-robin: each has its turn.
                    assert {await fetch(port) for _ in range(2)} == {"web", "other"}
                    # Four wait again, for the one that was taken has been replaced.
                    await command.line("agent-waits", "site-1", count=5)
                    killed.process.kill()
                    await command.line("agent-left", "site-1", count=4)
                    assert {await fetch(port) for _ in range(3)} == {"other"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_hub_is_restarted(folder: Path, backend: int, number: signal.Signals) -> None:
    with held_port("127.0.0.1") as port, held_port("127.0.0.2") as agents:
        async with running_hub(folder, clients=port, agents=agents) as (command, _, _):
            async with run_command(*agent(folder, agents, backend)) as dialler:
                await fetch(port)
                command.process.send_signal(number)
                await command.process.wait()
                await dialler.line("hub-failed")
                async with running_hub(folder, clients=port, agents=agents):
                    await dialler.line("hub-reached")
                    await fetch(port)


async def test_backend_is_restarted(folder: Path, free_port: int) -> None:
    async with running_hub(folder, "--wait", 1) as (command, port, agents):
        # Nobody listens there yet, and the agent does not know.
        options = ("--connect-timeout", 0.5)
        async with run_command(*agent(folder, agents, free_port, *options)) as dialler:
            await command.line("agent-waits", count=4)
            code, _ = await curl(f"http://127.0.0.1:{port}/x")
            assert code not in (0, 28)  # no answer, and at once
            await dialler.line("backend-down")
            # While it is down, the hub has no spares of this agent: another's would be used.
            await command.line("agent-left", count=3)
            with web_server(free_port):
                await dialler.line("backend-up")
                await fetch(port)


async def test_agent_of_another_identity_is_never_paired(folder: Path, backend: int) -> None:
    with web_server(name="impostor") as other:
        async with running_hub(folder, "--agent", "site-1.example", "--wait", 0.5) as (
            command,
            port,
            agents,
        ):
            async with run_command(*agent(folder, agents, other, name="site-2")) as impostor:
                await impostor.line("hub-failed")
                code, _ = await curl(f"http://127.0.0.1:{port}/x")
                assert code not in (0, 28)
                await command.line("no-agent")
                async with run_command(*agent(folder, agents, backend)):
                    await command.line("agent-waits")
                    assert {await fetch(port) for _ in range(8)} == {"web"}
                assert not command.find("agent-waits", "site-2")


async def test_hub_of_another_identity_is_given_nothing(folder: Path, backend: int) -> None:
    async with running_hub(folder) as (command, port, agents):
        pin = f"sha256:{'0' * 64}"
        async with run_command(*agent(folder, agents, backend, "--peer-pin", pin)) as dialler:
            await dialler.line("hub-failed")
            code, _ = await curl("-m", 5, f"http://127.0.0.1:{port}/x")
            assert code != 0
            assert not command.find("pair-broken", "received=1")


async def test_spares_are_renewed_and_no_request_is_lost(folder: Path, backend: int) -> None:
    async with running_hub(folder, "--renew-after", 0.2) as (command, port, agents):
        # Renewed long before anything else would be: as often as an agent may be, so that it dials on.
        async with run_command(*agent(folder, agents, backend)):
            for _ in range(20):
                await fetch(port)
            await command.line("agent-renewed", count=20)


async def test_client_that_says_nothing_takes_no_spare(folder: Path, backend: int) -> None:
    async with running_hub(folder, "--client-patience", 0.5) as (command, port, agents):
        async with run_command(*agent(folder, agents, backend, "--spare", 1)):
            await command.line("agent-waits")
            async with contextlib.AsyncExitStack() as stack:
                mute = [
                    await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
                    for _ in range(5)
                ]
                await fetch(port)
                with trio.fail_after(PATIENCE):
                    assert [await stream.receive_some() for stream in mute] == [b""] * 5


async def test_backend_that_speaks_first(folder: Path) -> None:
    async def greet(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):  # a spare that nobody needed
            await stream.send_all(b"220 ready\r\n")
            await stream.send_all(b"you said " + await stream.receive_some())

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, greet, 0, host="127.0.0.1"))
        backend = listeners[0].socket.getsockname()[1]
        async with running_hub(folder, "--backend-speaks-first") as (command, port, agents):
            async with run_command(*agent(folder, agents, backend, "--backend-speaks-first")):
                await command.line("agent-waits", count=4)
                for _ in range(10):
                    async with await trio.open_tcp_stream("127.0.0.1", port) as client:
                        with trio.fail_after(PATIENCE):
                            assert await client.receive_some() == b"220 ready\r\n"
                            await client.send_all(b"HELO")
                            answer = b"".join([chunk async for chunk in client])
                            assert answer == b"you said HELO"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_openssl_s_server_is_an_agent(folder: Path, tmp_path: Path, version: str) -> None:
    openssl, socat = require_tool("openssl"), require_tool("socat")
    (tmp_path / "page").write_text("from s_server\n")
    async with running_hub(folder, "--agent", "site-1.example") as (command, port, agents):
        server = [
            *(openssl, "s_server", version, "-unix", "socket", "-WWW"),
            *("-cert", folder / "site-1.pem", "-CAfile", folder / "ca.pem", "-Verify", "1"),
        ]
        with subprocess.Popen(
            [*map(str, server)], cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as agent_:
            try:
                with trio.fail_after(PATIENCE):
                    while not (tmp_path / "socket").exists():
                        assert agent_.poll() is None
                        await trio.sleep(0.05)
                # Bound is not listening yet: hence the retries.
                unix = "UNIX-CONNECT:socket,retry=2000,interval=0.05"
                dial = [socat, unix, f"TCP:127.0.0.2:{agents}"]
                with subprocess.Popen(dial, cwd=tmp_path) as relay:
                    try:
                        await command.line("agent-waits", "site-1.example")
                        code, said = await curl("--http0.9", f"http://127.0.0.1:{port}/page")
                        assert "from s_server\n" in said
                        assert code == 0
                    finally:
                        relay.terminate()
            finally:
                agent_.terminate()


async def test_connection_whose_agent_dies_is_cut_and_not_ended(folder: Path) -> None:
    """Half an answer must not look like a whole one: the client sees a reset."""

    async def half(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"half")
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, half, 0, host="127.0.0.1"))
        backend = listeners[0].socket.getsockname()[1]
        async with running_hub(folder) as (command, port, agents):
            async with run_command(*agent(folder, agents, backend)) as dialler:
                await command.line("agent-waits")
                async with await trio.open_tcp_stream("127.0.0.1", port) as client:
                    await client.send_all(b"question")
                    assert await client.receive_some() == b"half"
                    dialler.process.kill()
                    with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
                        await client.receive_some()
                await command.line("pair-broken", "by=agent")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["hub", "--listen", "127.0.0.1:0"], "--listen-agents"),
        (["hub", "--listen-agents", "127.0.0.1:0"], "--listen"),
        (["hub", "--listen", ":1", "--listen-agents", ":1"], "take two addresses"),
        (["agent", "--to", "127.0.0.1:1"], "--dial"),
        (["agent", "--dial", "127.0.0.1:1"], "--to"),
        (["agent", "--dial", "unix:/hub", "--to", "127.0.0.1:1"], "dialled by TCP"),
        (["agent", "--dial", "127.0.0.1:1", "--to", "127.0.0.1:1", "--spare", "0"], "--spare"),
    ],
)
async def test_wrong_options_are_one_line(folder: Path, arguments: list[str], says: str) -> None:
    async with run_command(
        "rendezvous", *arguments, "--cert", folder / "hub.pem", "--trust", folder / "ca.pem"
    ) as command:
        assert await command.process.wait() == 2
        await command.line(says)
        assert len(command.lines) == 1
