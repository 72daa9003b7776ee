"""What the Security page shows works, and does what it says."""

from __future__ import annotations

import runpy
import signal
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

import trio_duplex
from tests.support.authority import FLEET, SERVER_AUTH, Leaf
from tests.support.peers import MemoryListener
from tests.support.trust import context, hear, mutual
from trio_duplex import (
    Credentials,
    Handler,
    PeerIdentity,
    PeerPolicy,
    PeerRejectedError,
    Role,
    open_tcp_connection,
    serve_tcp,
)
from trio_duplex._trust.policy import judge, server_name

pytestmark = pytest.mark.slow


EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def write(leaf: Leaf) -> None:
    Path("node.pem").write_bytes(leaf.chain_pem)
    Path("node.key").write_bytes(leaf.key_pem)
    Path("fleet-ca.pem").write_bytes(FLEET.pem)


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(FLEET.issue("listener.fleet.example"))


async def admits(policy: PeerPolicy, name: str, peer_role: Role, host: str) -> bool:
    identity = PeerIdentity.from_der(FLEET.issue(name).der)
    try:
        await judge(policy, identity, peer_role.other, (host, 4711))
    except PeerRejectedError:
        return False
    return True


async def test_policies() -> None:
    shown = runpy.run_path(str(EXAMPLES / "policies.py"))
    policy = shown["listening"].peer
    gateway, agent = "gateway.fleet.example", "agent-1.fleet.example"
    assert await admits(policy, gateway, Role.CLIENT, "192.0.2.1")
    assert await admits(policy, agent, Role.SERVER, "198.51.100.1")
    assert not await admits(policy, gateway, Role.SERVER, "192.0.2.1")
    assert not await admits(policy, agent, Role.CLIENT, "198.51.100.1")
    assert not await admits(policy, gateway, Role.CLIENT, "198.51.100.1")
    for role in Role:  # a sibling
        assert not await admits(policy, "listener.fleet.example", role, "192.0.2.1")
    dialling = shown["dialling"].peer
    assert server_name(dialling, None) == "listener.fleet.example"
    assert await admits(dialling, "listener.fleet.example", Role.SERVER, "192.0.2.1")


async def test_rotation(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Credentials.mutual(certificate_chain=FLEET.issue("peer.example"), trust=FLEET)
    started = trio.Event()
    addresses: list[tuple[str, int]] = []

    async def serve_on_a_free_port(handler: Handler, port: int, credentials: Credentials) -> None:
        assert port == 8443
        serve = partial(serve_tcp, handler, 0, credentials, host="127.0.0.1")
        async with trio.open_nursery() as inner:
            server = await inner.start(serve)
            addresses.append(server.addresses[0])
            started.set()

    monkeypatch.setattr(trio_duplex, "serve_tcp", serve_on_a_free_port)
    main = runpy.run_path(str(EXAMPLES / "rotation.py"))["main"]

    async def certificate_of_now() -> bytes:
        connection = await open_tcp_connection(*addresses[0], peer)
        async with connection:
            await connection.send_all(b"x")
            assert await connection.receive_some() == b"x"
            return connection.peer.certificate

    async with trio.open_nursery() as nursery:
        nursery.start_soon(main)
        await started.wait()
        first = await certificate_of_now()
        second = FLEET.issue("listener.fleet.example")
        write(second)
        assert await certificate_of_now() == first  # nobody told it
        signal.raise_signal(signal.SIGHUP)
        with trio.fail_after(10):
            while await certificate_of_now() != second.der:
                await trio.sleep(0.001)

        write(FLEET.issue("listener.fleet.example", usages=[SERVER_AUTH]))
        assert [record for record in caplog.records if record.levelname == "WARNING"] == []
        signal.raise_signal(signal.SIGHUP)
        with trio.fail_after(10):
            while not any(record.levelname == "WARNING" for record in caplog.records):
                await trio.sleep(0.001)
        assert await certificate_of_now() == second.der
        nursery.cancel_scope.cancel()


async def test_anonymous(autojump_clock: MockClock) -> None:
    handler = runpy.run_path(str(EXAMPLES / "anonymous.py"))["handler"]
    credentials = mutual(anonymous_clients=True)
    heard: list[bytes | str] = []
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(trio_duplex.serve_listeners, handler, [listener], credentials, window=1)
        )
        for role, leaf in (
            (Role.CLIENT, None),
            (Role.CLIENT, FLEET.issue("peer.example")),
            (Role.SERVER, FLEET.issue("peer.example")),
        ):
            heard.append(await hear(listener.connect(), role, context(role, leaf)))
        nursery.cancel_scope.cancel()
    assert heard[0] == b"hello, whoever you are"
    assert all(str(line).startswith("b'hello, peer.example") for line in heard[1:])
