from __future__ import annotations

import math
import socket
import ssl
import sys
import threading

import pytest
import trio
import trio.testing

import trio_duplex
from tests.support.ports import held_port
from trio_duplex import Reason, Role, windows
from trio_duplex.testing import (
    AnnouncingPeer,
    Authority,
    CrossingPeer,
    Peer,
    PeerStream,
    SilentPeer,
    SpeakingPeer,
    open_memory_listener,
    open_server,
    thread_peer,
    thread_server,
)

pytestmark = pytest.mark.slow


AUTHORITY = Authority()
THEIRS = AUTHORITY.certificate("peer.example")


class HandlerBugError(Exception):
    pass


async def buggy(connection: trio_duplex.Connection) -> None:
    await connection.receive_some()
    raise HandlerBugError


def speaking(**options: object) -> SpeakingPeer:
    return SpeakingPeer(credentials=THEIRS, **options)  # type: ignore[arg-type]


async def test_serves_both_and_is_gone_afterwards() -> None:
    seconds = iter([math.inf, 0.05])  # of the first peer, and of the second
    async with open_server(
        credentials=AUTHORITY.credentials(), window=lambda _: next(seconds)
    ) as server:
        (await speaking().run(server)).assert_role(Role.CLIENT)
        (await SilentPeer(credentials=THEIRS).run(server)).assert_role(Role.SERVER)
        (address,) = server.addresses
        assert isinstance(address, tuple)
        assert address[0] == "127.0.0.1"
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream(address[0], address[1])


async def test_handler_error_ends_the_block_and_is_raised_bare() -> None:
    with trio.fail_after(60), pytest.raises(HandlerBugError):
        async with open_server(buggy, AUTHORITY.credentials(), window=math.inf) as server:
            await speaking().run(server)
            await trio.sleep_forever()


async def test_handler_error_explains_the_test_s_own() -> None:
    with pytest.raises(HandlerBugError) as info:
        async with open_server(buggy, AUTHORITY.credentials(), window=math.inf) as server:
            report = await speaking().run(server)
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
            assert report.heard, "nothing heard"
    assert isinstance(info.value.__cause__, AssertionError)
    assert "nothing heard" in info.value.__notes__[0]


async def test_error_of_the_block_is_raised_bare_and_cancels() -> None:
    started, cancelled = trio.Event(), trio.Event()

    async def handler(connection: trio_duplex.Connection) -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    with trio.fail_after(60), pytest.raises(ZeroDivisionError):
        async with open_server(
            handler, AUTHORITY.credentials(), window=math.inf, drain_timeout=1000
        ) as server:
            (address,) = server.addresses
            assert isinstance(address, tuple)
            async with await trio_duplex.open_tcp_connection(
                address[0], address[1], AUTHORITY.credentials("dialler.example")
            ):
                await started.wait()
                raise ZeroDivisionError
    assert cancelled.is_set()


async def test_cancellation_from_outside_passes() -> None:
    with trio.move_on_after(0.05) as scope:
        async with open_server(credentials=AUTHORITY.credentials()):
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_drains_for_the_time_that_is_given(autojump_clock: trio.testing.MockClock) -> None:
    slept: list[float] = []

    async def handler(connection: trio_duplex.Connection) -> None:
        started = trio.current_time()
        try:
            await trio.sleep(40)
        finally:
            slept.append(trio.current_time() - started)

    for drain_timeout, expected in ((50.0, 40.0), (5.0, 5.0)):
        listener = open_memory_listener()
        async with trio.open_nursery() as nursery:
            async with open_server(
                handler,
                AUTHORITY.credentials(),
                listener=listener,
                drain_timeout=drain_timeout,
            ) as server:
                nursery.start_soon(speaking(hear=0, patience=100).run, server)
                await trio.testing.wait_all_tasks_blocked()
        assert slept.pop() == expected


async def test_wrong_argument_is_raised_and_leaves_nothing_open() -> None:
    listener = open_memory_listener()
    with pytest.raises(ValueError, match="window"):
        async with open_server(window=-1, listener=listener):
            pass
    with pytest.raises(ConnectionRefusedError):
        await listener.dial()


async def test_awaiting_it_says_what_to_do() -> None:
    with pytest.raises(TypeError, match="async with"):
        await open_server()


def test_sync_with_says_what_to_do() -> None:
    with pytest.raises(TypeError, match="thread_server"):
        with open_server():
            pass


def test_outside_trio_says_what_to_do() -> None:
    import asyncio

    async def main() -> None:
        async with open_server():
            pass

    with pytest.raises(RuntimeError, match="Trio"):
        asyncio.run(main())


# -------------------------------------------------------------------------- threads


def test_thread_server_serves_the_ssl_module() -> None:
    with thread_server(credentials=AUTHORITY.credentials(), window=math.inf) as server:
        with (
            socket.create_connection(server.address, timeout=60) as raw,
            THEIRS.context(Role.CLIENT).wrap_socket(raw) as stream,
        ):
            stream.sendall(b"hello")
            assert stream.recv(100) == b"hello"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.address, timeout=60)


def test_thread_server_plays_the_client_for_a_silent_socket() -> None:
    with thread_server(credentials=AUTHORITY.credentials(), window=0.05) as server:
        with (
            socket.create_connection(server.address, timeout=60) as raw,
            THEIRS.context(Role.SERVER).wrap_socket(raw, server_side=True) as stream,
        ):
            stream.sendall(b"hello")
            assert stream.recv(100) == b"hello"


def test_thread_server_raises_handler_errors_from_the_block() -> None:
    with pytest.raises(HandlerBugError):
        with thread_server(buggy, AUTHORITY.credentials(), window=math.inf) as server:
            speaking().run_sync(server)
    with pytest.raises(HandlerBugError) as info:
        with thread_server(buggy, AUTHORITY.credentials(), window=math.inf) as server:
            report = speaking().run_sync(server)
            assert report.heard
    assert isinstance(info.value.__cause__, AssertionError)


def test_thread_server_raises_the_block_s_error() -> None:
    with pytest.raises(ZeroDivisionError):
        with thread_server(credentials=AUTHORITY.credentials()):
            raise ZeroDivisionError


def test_thread_server_that_can_not_start_raises() -> None:
    with pytest.raises(ValueError, match="window"):
        with thread_server(window=-1):
            pass
    with pytest.raises(OSError, match="assign"):
        with thread_server(host="192.0.2.1"):  # RFC 5737: nobody's
            pass


def test_thread_server_leaves_no_thread() -> None:
    before = {*threading.enumerate()}
    with thread_server(credentials=AUTHORITY.credentials()):
        # Not their number: Trio ends idle threads of earlier tests when it likes.
        (thread,) = {*threading.enumerate()} - before
    thread.join(60)
    assert not thread.is_alive()
    assert {*threading.enumerate()} <= before


def test_thread_peer_for_a_server_in_this_thread() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        silent = SilentPeer(credentials=THEIRS)
        with thread_peer(silent, listening.getsockname()) as running:
            raw, _ = listening.accept()
            with AUTHORITY.certificate().context(Role.CLIENT).wrap_socket(raw) as stream:
                assert stream.recv(100) == b"hello"
                stream.sendall(b"hello yourself")
            report = running.wait()
    report.assert_role(Role.SERVER)
    assert report is silent.report
    assert report.heard == b"hello yourself"


def test_thread_peer_hangs_up_when_the_block_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with thread_peer(SilentPeer(), listening.getsockname()) as running:
            stream, _ = listening.accept()
            with pytest.raises(TimeoutError):
                running.wait(0.01)
        with stream:
            assert stream.recv(100) == b""
        assert running.wait().role is None


def test_thread_peer_without_a_server_says_so_when_asked() -> None:
    with held_port() as port, thread_peer(SilentPeer(), ("127.0.0.1", port)) as running:
        with pytest.raises(OSError, match="connect"):
            running.wait()


async def test_talk_over_a_connection_with_two_tasks() -> None:
    async def talk(stream: PeerStream) -> None:
        data = bytes(300_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, data)
            got = 0
            while got < len(data):
                got += len(await stream.receive_some())

    async with open_server(credentials=AUTHORITY.credentials(), window=math.inf) as server:
        report = await speaking(talk=talk).run(server)
    assert report.heard == bytes(300_000)


def test_ssl_contexts_of_the_certificate_verify() -> None:
    assert THEIRS.context(Role.CLIENT).verify_mode is ssl.CERT_REQUIRED


# ---------------------------------------------------------------------------------------- window policies


async def decided(window: trio_duplex.windows.Window, *peers: Peer) -> list[trio_duplex.Decision]:
    """What a server with this window decides about peers that come one after the other."""
    decisions: list[trio_duplex.Decision] = []

    async def handler(connection: trio_duplex.Connection) -> None:
        decisions.append(connection.decision)
        await connection.send_all(await connection.receive_some())

    with trio.fail_after(20):
        async with open_server(handler, AUTHORITY.credentials(), window=window) as server:
            for peer in peers:
                assert (await peer.run(server)).heard == b"hello"
    return decisions


async def test_server_takes_a_window_policy() -> None:
    """With windows of an hour, so that none is waited for."""
    hour = 3600.0
    silent, announcing = SilentPeer(credentials=THEIRS), AnnouncingPeer(credentials=THEIRS)
    by_network = windows.ByNetwork({"127.0.0.0/8": windows.SILENT}, otherwise=hour)
    (by_rule,) = await decided(by_network, silent)
    assert (by_rule.role, by_rule.reason) == (Role.CLIENT, Reason.RULE)
    (announced,) = await decided(windows.PeerMemory(otherwise=hour), announcing)
    assert (announced.role, announced.reason) == (Role.CLIENT, Reason.ANNOUNCED)
    (spoke,) = await decided(lambda facts: hour, speaking())
    assert (spoke.role, spoke.reason, spoke.window) == (Role.SERVER, Reason.SPOKE, hour)


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is read on Linux only")
async def test_server_remembers_peers() -> None:
    memory = windows.PeerMemory(otherwise=0.05, silences=1)
    first, second = await decided(memory, *[SilentPeer(credentials=THEIRS) for _ in range(2)])
    assert (first.reason, second.reason) == (Reason.SILENT, Reason.REMEMBERED)


async def test_server_resolves_a_crossing() -> None:
    """Its window of 0 closes before the peer speaks; the peer knows how to go on."""
    roles: set[Role] = set()
    while len(roles) < 2:
        (decision,) = await decided(0, CrossingPeer(credentials=THEIRS, resolves=True))
        assert "crossed" in decision.rule
        roles.add(decision.role)
