"""Handshake steps in threads, where a key of ours is slow: `trio_duplex._tls.workers`."""

from __future__ import annotations

import os
import ssl
import threading
from collections import defaultdict
from functools import partial

import pytest
import trio
import trio.testing
import trustme

from tests.support.authority import AUTHORITY, FLEET, rsa_key
from tests.support.peers import (
    NODE,
    client_hello,
    connection_pair,
    each_role,
    each_version,
    memory_pair,
    peer_context,
    pin,
    tcp_pair,
)
from trio_duplex import Credentials, HandshakeTimeoutError, Role, negotiate
from trio_duplex._tls.engine import Engine
from trio_duplex._tls.workers import for_signatures, usable_cpus

pytestmark = pytest.mark.slow


SLOW = FLEET.issue("node.example", key=rsa_key()).as_trustme()


def credentials(
    leaf: trustme.LeafCert = SLOW,
    version: ssl.TLSVersion | None = None,
    *,
    handshake_threads: bool = True,
) -> Credentials:
    made = Credentials.mutual(
        certificate_chain=leaf,
        trust=AUTHORITY,
        allow_self=True,
        handshake_threads=handshake_threads,
    )
    for role in Role:
        pin(made.context(role), version)
    return made


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> dict[Role, list[bool]]:
    """Of each handshake step, by role, whether it was made in a thread."""
    made: dict[Role, list[bool]] = defaultdict(list)
    loop, step = threading.get_ident(), Engine.handshake

    def note(self: Engine) -> bool:
        role = Role.SERVER if self.ssl_object.server_side else Role.CLIENT
        made[role].append(threading.get_ident() != loop)
        return step(self)

    monkeypatch.setattr(Engine, "handshake", note)
    return made


@each_version
async def test_steps_that_sign_are_made_in_a_thread(
    version: ssl.TLSVersion, steps: dict[Role, list[bool]]
) -> None:
    mine = credentials(version=version)
    for end in await connection_pair(server=mine, client=mine):
        await trio.aclose_forcefully(end)
    # The server signs in its answer to the ClientHello, the client once it has seen that answer;
    # to make a ClientHello, and to verify what the peer has signed, needs no key of ours.
    assert steps[Role.SERVER] == [True, False]
    assert steps[Role.CLIENT][:2] == [False, True]
    assert steps[Role.CLIENT][2:] == ([] if version is ssl.TLSVersion.TLSv1_3 else [False])


@pytest.mark.parametrize(("leaf", "threads"), [(NODE, True), (SLOW, False)])
async def test_fast_keys_and_the_option_keep_all_on_the_loop(
    leaf: trustme.LeafCert, threads: bool, steps: dict[Role, list[bool]]
) -> None:
    mine = credentials(leaf, handshake_threads=threads)
    for end in await connection_pair(server=mine, client=mine):
        await trio.aclose_forcefully(end)
    assert not any(steps[Role.SERVER] + steps[Role.CLIENT])


@each_role
async def test_others_are_served_while_a_step_computes(
    role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = credentials(NODE)
    one, other = await connection_pair(server=fast, client=fast)
    loop, step, computed = threading.get_ident(), Engine.handshake, threading.Event()

    def compute(self: Engine) -> bool:
        if threading.get_ident() != loop:
            assert computed.wait(30)
        return step(self)

    monkeypatch.setattr(Engine, "handshake", compute)
    ends = await tcp_pair()
    kinds = {role: credentials(SLOW), role.other: fast}
    async with trio.open_nursery() as nursery:
        for each, stream in zip(Role, ends, strict=True):
            nursery.start_soon(partial(negotiate, role=each, dialled=True), stream, kinds[each])
        with trio.fail_after(30):
            while not for_signatures().borrowed_tokens:
                await trio.sleep(0.001)
            for _ in range(10):
                await one.send_all(b"x")
                assert await other.receive_some() == b"x"
        computed.set()
    for end in (one, other, *ends):
        await trio.aclose_forcefully(end)


async def test_no_more_threads_than_cpus() -> None:
    assert for_signatures().total_tokens == usable_cpus()
    assert usable_cpus() <= (os.cpu_count() or 1)


async def occupy(task_status: trio.TaskStatus[None]) -> None:
    """Have all threads be in use, for ever."""
    limiter = for_signatures()
    for borrower in range(int(limiter.total_tokens)):
        await limiter.acquire_on_behalf_of(borrower)
    task_status.started()
    try:
        await trio.sleep_forever()
    finally:
        for borrower in range(int(limiter.total_tokens)):
            limiter.release_on_behalf_of(borrower)


@pytest.mark.parametrize("how", ["deadline", "cancelled"])
async def test_deadline_and_cancellation_reach_a_handshake_that_waits_for_a_thread(
    how: str, steps: dict[Role, list[bool]], autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = memory_pair()
    await theirs.send_all(client_hello())
    async with trio.open_nursery() as nursery:
        await nursery.start(occupy)
        began = trio.current_time()
        if how == "deadline":
            with pytest.raises(HandshakeTimeoutError):
                await negotiate(ours, credentials(), handshake_timeout=3)
        else:
            with trio.move_on_after(3) as scope:
                await negotiate(ours, credentials())
            assert scope.cancelled_caught
        assert trio.current_time() - began == 3
        assert steps[Role.SERVER] == []
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.ClosedResourceError):
        await ours.send_all(b"x")


async def test_cancellation_waits_for_a_step_that_has_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its thread uses the TLS object, so nobody else may yet."""
    step, begun, computed = Engine.handshake, threading.Event(), threading.Event()
    done: list[bool] = []

    def compute(self: Engine) -> bool:
        begun.set()
        assert computed.wait(30)
        try:
            return step(self)
        finally:
            done.append(True)

    monkeypatch.setattr(Engine, "handshake", compute)
    ours, theirs = memory_pair()
    await theirs.send_all(client_hello())
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(negotiate, ours, credentials())
            while not begun.is_set():
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
            assert not done
            computed.set()
    assert done


@each_role
@each_version
async def test_a_handshake_that_is_cancelled_in_its_thread_is_not_completed(
    role: Role, version: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread goes on, since nothing can stop it; but nothing of what it made leaves."""
    ours, theirs = await tcp_pair()
    loop, step = threading.get_ident(), Engine.handshake
    in_thread, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def held_up(self: Engine) -> bool:
        if threading.get_ident() != loop:
            token.run_sync_soon(in_thread.set)
            go_on.wait(20)
        return step(self)

    monkeypatch.setattr(Engine, "handshake", held_up)
    peer_done = False

    async def peer() -> None:
        nonlocal peer_done
        context = peer_context(role.other, version)
        context.check_hostname = False
        tls = trio.SSLStream(theirs, context, server_side=role is Role.CLIENT)
        try:
            await tls.do_handshake()
            peer_done = True
        except trio.BrokenResourceError:
            pass
        await trio.aclose_forcefully(theirs)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer)
        with trio.CancelScope() as scope:

            @nursery.start_soon
            async def cancel() -> None:
                await in_thread.wait()
                scope.cancel()
                go_on.set()

            await negotiate(ours, credentials(version=version), role=role)
        assert scope.cancelled_caught
    assert not peer_done
