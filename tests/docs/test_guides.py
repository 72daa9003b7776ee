"""The programs that the guides show do what the guides say."""

from __future__ import annotations

import asyncio
import contextlib
import io
import math
import re
import runpy
import ssl
import threading
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

import trio_duplex
from tests.docs.blocks import DOCS
from tests.support.authority import AUTHORITY, STRANGER
from tests.support.command import PATIENCE
from tests.support.contexts import new_context
from tests.support.patience import window_for
from trio_duplex import Credentials, Role
from trio_duplex.testing import echo, open_connection_pair, thread_server

pytestmark = pytest.mark.slow


EXAMPLES = DOCS / "examples"


class Lab:
    """The files that the examples name, and what a peer needs."""

    def __init__(self, folder: Path) -> None:
        node = AUTHORITY.issue_cert("node.example")
        AUTHORITY.cert_pem.write_to_path(folder / "fleet-ca.pem")
        node.private_key_pem.write_to_path(folder / "node.key")
        for blob in node.cert_chain_pems:
            blob.write_to_path(folder / "node.pem", append=True)
        self.authority = AUTHORITY
        self.certificate = peer = AUTHORITY.issue_cert("peer.example")
        self.peer = Credentials.mutual(certificate_chain=peer, trust=AUTHORITY)
        self.contexts = {}
        for role in Role:
            self.contexts[role] = context = new_context(role)
            peer.configure_cert(context)
            AUTHORITY.configure_trust(context)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_REQUIRED

    def over(self, *protocols: str) -> Credentials:
        """The peer's credentials, with ALPN."""
        return Credentials.mutual(
            certificate_chain=self.certificate, trust=self.authority, alpn=list(protocols)
        )


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return Lab(tmp_path)


def example(name: str) -> dict[str, Any]:
    """What an example defines."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


class Elsewhere:
    """Stands for `serve_tcp` in an example, on a free port.

    Attributes:
        window: The detection window of the next peer: a silent one is given less.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.window = math.inf
        self.addresses: list[tuple[str, int]] = []
        self.started = threading.Event()
        self.serve_tcp = trio_duplex.serve_tcp
        monkeypatch.setattr(trio_duplex, "serve_tcp", self)

    async def __call__(
        self, handler: trio_duplex.Handler, port: int, credentials: Credentials
    ) -> None:
        assert port == 8443
        async with trio.open_nursery() as nursery:
            serve = partial(self.serve_tcp, host="127.0.0.1", window=lambda _: self.window)
            server = await nursery.start(serve, handler, 0, credentials)
            self.addresses = list(server.addresses)
            self.started.set()

    async def address(self) -> tuple[str, int]:
        await trio.to_thread.run_sync(self.started.wait, PATIENCE)
        return self.addresses[0]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    return Elsewhere(monkeypatch)


@pytest.mark.parametrize("name", ["migrating_before", "migrating_after"])
async def test_migrating(name: str, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both serve a speaking peer alike."""
    addresses: list[Any] = []
    ready = trio.Event()

    async def serve(function: Any, handler: Any, port: int, material: Any) -> None:
        assert port == 8443
        async with trio.open_nursery() as nursery:
            found = await nursery.start(partial(function, host="127.0.0.1"), handler, 0, material)
            if isinstance(found, list):
                addresses.append(found[0].transport_listener.socket.getsockname())
            else:
                addresses.append(found.addresses[0])
            ready.set()

    monkeypatch.setattr(trio, "serve_ssl_over_tcp", partial(serve, trio.serve_ssl_over_tcp))
    monkeypatch.setattr(trio_duplex, "serve_tcp", partial(serve, trio_duplex.serve_tcp))
    main = example(name)["main"]
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(main)
            await ready.wait()
            host, port = addresses[0]
            async with await trio_duplex.open_tcp_connection(host, port, lab.peer) as peer:
                await peer.send_all(b"hello")
                assert await peer.receive_some() == b"hello"
            nursery.cancel_scope.cancel()


def test_migrating_takes_five_lines() -> None:
    before, after = (
        (EXAMPLES / f"migrating_{name}.py").read_text().splitlines() for name in ("before", "after")
    )
    changed = [line for line in after if line.strip() and line not in before]
    assert len(changed) == 5


async def test_http_by_role(
    lab: Lab, elsewhere: Elsewhere, capsys: pytest.CaptureFixture[str]
) -> None:
    """A client that speaks is answered; a device that is an HTTPS server and calls home is asked."""
    shown = example("http_by_role")
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shown["main"])
            host, port = await elsewhere.address()
            lab.contexts[Role.CLIENT].set_alpn_protocols(["http/1.1"])
            async with httpx.AsyncClient(verify=lab.contexts[Role.CLIENT]) as client:
                for path in ("/one", "/two"):
                    answer = await client.get(f"https://{host}:{port}{path}")
                    assert "hello, peer.example" in answer.text
                    assert f"you asked for {path}" in answer.text
            elsewhere.window = 0.1
            async with await trio_duplex.open_tcp_connection(
                host, port, lab.over("http/1.1"), role=Role.SERVER
            ) as device:
                await shown["serve_http"](device)
            nursery.cancel_scope.cancel()
    printed = capsys.readouterr().out
    assert "peer.example /serial 200" in printed
    assert "you asked for /state" in printed


async def test_httpx(
    lab: Lab, autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = await open_connection_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(example("http_h11")["serve_http"], pair.server)
        await example("http_httpx")["ask_device"](pair.client)
    await pair.server.aclose()
    printed = capsys.readouterr().out
    assert printed.startswith("server.example 200 hello, client.example")
    assert "you asked for /state" in printed


async def hello_app(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


async def test_hypercorn(lab: Lab, elsewhere: Elsewhere) -> None:
    handler = example("http_hypercorn")["serve_asgi"](hello_app)
    node = Credentials.mutual(
        certificate_chain="node.pem", private_key="node.key", trust="fleet-ca.pem"
    )
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio_duplex.serve_tcp, handler, 8443, node)
            host, port = await elsewhere.address()
            async with httpx.AsyncClient(verify=lab.contexts[Role.CLIENT]) as client:
                answer = await client.get(f"https://{host}:{port}/here")
                assert (answer.status_code, answer.content) == (200, b"/here")
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("role", list(Role))
async def test_anyio(role: Role, lab: Lab, elsewhere: Elsewhere) -> None:
    elsewhere.window = window_for(role)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(example("anyio_handler")["main"])
            host, port = await elsewhere.address()
            peer = await trio_duplex.open_tcp_connection(host, port, lab.peer, role=role)
            async with peer:
                await peer.send_all(b"world\n")
                said = await peer.receive_some()
                assert isinstance(peer.local_address, tuple)
                assert said == b"hello, world from port %d\n" % peer.local_address[1]
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("silent", [False, True], ids=["speaking", "silent"])
def test_asyncio_guest_and_asyncio_peers(silent: bool, lab: Lab, elsewhere: Elsewhere) -> None:
    """All of it on asyncio: the program that serves, and a peer of either kind."""
    elsewhere.window = window_for(Role.SERVER if silent else Role.CLIENT)
    serve = example("asyncio_guest")["main"]
    call_home = example("asyncio_silent_peer")["call_home"]

    async def talk() -> bytes:
        serving = asyncio.create_task(serve())
        await asyncio.to_thread(elsewhere.started.wait, PATIENCE)
        host, port = elsewhere.addresses[0]
        async with asyncio.timeout(PATIENCE):
            if silent:
                reader, writer = await call_home(host, port, lab.contexts[Role.SERVER])
            else:
                reader, writer = await asyncio.open_connection(
                    host, port, ssl=lab.contexts[Role.CLIENT]
                )
            line: bytes = await reader.readline()
            writer.close()
            await writer.wait_closed()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
        return line

    assert asyncio.run(talk()).startswith(b"hello, peer.example")


def test_threads(lab: Lab) -> None:
    shown = example("threads")
    node = Credentials.mutual(
        certificate_chain="node.pem", private_key="node.key", trust="fleet-ca.pem"
    )
    with thread_server(shown["handler"], credentials=node, window=0.1) as server:
        answer = shown["call_home"](server.address, lab.contexts[Role.SERVER], b"question")
    assert answer == b"QUESTION"


async def test_ftps(lab: Lab) -> None:
    receive_file = example("ftps")["receive_file"]
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    received: list[bytes] = []

    async def receive() -> None:
        node = Credentials.mutual(
            certificate_chain="node.pem", private_key="node.key", trust="fleet-ca.pem"
        )
        received.append(await receive_file(listener, node, None))

    with trio.fail_after(PATIENCE):
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            host, port = listener.socket.getsockname()
            server = await trio_duplex.open_tcp_connection(host, port, lab.peer, role=Role.SERVER)
            async with server:
                await server.send_all(b"a file" * 100_000)
    assert received == [b"a file" * 100_000]


async def test_ten_names(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    shown = example("ten_names")
    node = shown["credentials_for"]("peer.example")
    await shown["run"](node)
    assert capsys.readouterr().out.startswith("[('127.0.0.1', ")

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    host, port = listener.socket.getsockname()
    with trio.fail_after(PATIENCE):
        async with listener, trio.open_nursery() as nursery:

            async def accept() -> None:
                await shown["take"](await listener.accept(), node)

            nursery.start_soon(accept)
            assert await shown["ask"](host, port, lab.peer) == b"question"
            assert "peer.example" in capsys.readouterr().out
            nursery.start_soon(accept)
            async with await trio.open_tcp_stream(host, port) as stranger:
                await stranger.send_all(b"GET / HTTP/1.1\r\n")
                assert await stranger.receive_some() == b""
    assert "HTTP" in capsys.readouterr().out
    assert callable(shown["choose"])


def test_self_signed(lab: Lab) -> None:
    """The device's certificate counts by itself; that it is self-signed makes no difference."""
    device = STRANGER.issue_cert("device.example")
    device.cert_chain_pems[0].write_to_path("devices.pem")
    assert "trusted_certificates" in repr(example("self_signed")["credentials"])


async def test_window_by_rules(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = example("windows_rules")
    given: list[object] = []

    async def serve_tcp(*args: object, window: object) -> None:
        given.append(window)

    monkeypatch.setitem(shown["main"].__globals__, "serve_tcp", serve_tcp)
    await shown["main"](lab.peer)
    assert given == [shown["window"]]


async def test_window_from_memory(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown = example("windows_memory")
    given: list[object] = []

    async def serve_tcp(*args: object, window: object) -> None:
        given.append(window)

    monkeypatch.setitem(shown["main"].__globals__, "serve_tcp", serve_tcp)
    file = tmp_path / "peers.json"
    for _ in range(2):  # without the file, and with it
        await shown["main"](lab.peer, str(file))
        assert file.stat().st_mode & 0o077 == 0
    assert all(isinstance(window, trio_duplex.windows.PeerMemory) for window in given)


async def test_banning_and_announcing(lab: Lab) -> None:
    """A stranger makes a line; a silent peer that announces itself is served at once."""
    tell, dial = example("banning")["tell"], example("announcing")["dial"]
    banned = io.StringIO()
    node = Credentials.mutual(
        certificate_chain="node.pem", private_key="node.key", trust="fleet-ca.pem"
    )
    serve = partial(trio_duplex.serve_tcp, host="127.0.0.1", window=math.inf)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                partial(serve, observers=[partial(tell, banned)]), echo, 0, node
            )
            host, port = server.addresses[0]
            async with await trio.open_tcp_stream(host, port) as stranger:
                await stranger.send_all(b"\0" * 100)
                with contextlib.suppress(trio.BrokenResourceError):
                    assert await stranger.receive_some() == b""
            async with await dial(host, port, lab.peer) as device:
                await device.send_all(b"x")
                assert await device.receive_some() == b"x"
            nursery.cancel_scope.cancel()
    assert re.fullmatch(r"127\.0\.0\.1:\d+ NotTLSError\n", banned.getvalue())
