from __future__ import annotations

import math

import call_home
import pytest
import trio

from trio_duplex import Role
from trio_duplex.testing import Flaw, PeerStream


async def device(stream: PeerStream) -> None:
    """A device that knows its lines."""
    answers = {b"SERIAL?\n": b"SERIAL=4711\n", b"STATE?\n": b"STATE=fine\n"}
    async for question in stream:
        if question not in answers:
            return
        await stream.send_all(answers[question])


@pytest.mark.parametrize("kind", ["speaking_peer", "silent_peer", "dribbling_peer"])
async def test_device_of_any_age(kind, request, duplex_server, duplex_listener, autojump_clock):
    inventory = call_home.Inventory()
    peer = request.getfixturevalue(kind)(talk=device)
    async with duplex_server(inventory.handle, listener=duplex_listener, window=5) as server:
        report = await peer.run(server)
    assert inventory.states == {"4711": "fine"}
    # What the manager plays, the device does not.
    report.assert_role(inventory.roles["4711"].other)
    assert report.heard.endswith(b"THANKS\n")


async def test_a_whole_fleet_at_once(
    duplex_server, duplex_listener, speaking_peer, silent_peer, autojump_clock
):
    inventory = call_home.Inventory()

    def talk(serial: int):
        async def talk(stream: PeerStream) -> None:
            await stream.send_all(f"SERIAL={serial}\nSTATE=fine\n".encode())
            while not stream.wire.report.heard.endswith(b"THANKS\n"):
                await stream.receive_some()

        return talk

    async with duplex_server(inventory.handle, listener=duplex_listener, window=5) as server:
        async with trio.open_nursery() as nursery:
            for serial in range(50):
                cls = silent_peer if serial % 2 else speaking_peer
                nursery.start_soon(cls(talk=talk(serial)).run, server)
    assert sorted(map(int, inventory.roles)) == list(range(50))
    for serial, role in inventory.roles.items():
        assert role is (Role.CLIENT if int(serial) % 2 else Role.SERVER)


async def test_silence_after_the_handshake(
    duplex_server, duplex_listener, silent_peer, autojump_clock
):
    inventory = call_home.Inventory()
    async with duplex_server(inventory.handle, listener=duplex_listener, window=5) as server:
        report = await silent_peer(say=b"", hear=math.inf).run(server)
    assert report.heard == b"SERIAL?\nGOODBYE\n"
    assert report.seconds == pytest.approx(5 + call_home.PATIENCE, abs=0.1)
    assert inventory.refused == 1


async def test_nonsense(duplex_server, duplex_listener, speaking_peer, autojump_clock):
    inventory = call_home.Inventory()
    async with duplex_server(inventory.handle, listener=duplex_listener) as server:
        for say in (b"what?\n", b"SERIAL=1\nSERIAL=1\n", b"x" * 1000):
            report = await speaking_peer(say=say, hear=math.inf).run(server)
            assert report.heard.endswith(b"GOODBYE\n")
    assert inventory.refused == 3
    assert not inventory.states


async def test_who_hangs_up_or_has_no_business_here_leaves_no_trace(
    duplex_server, duplex_listener, hanging_up_peer, plaintext_peer, crossing_peer, autojump_clock
):
    inventory = call_home.Inventory()
    async with duplex_server(inventory.handle, listener=duplex_listener, window=5) as server:
        await hanging_up_peer().run(server)
        await plaintext_peer().run(server)
        report = await crossing_peer().run(server)
        # Like most TLS clients, it breaks off when a ClientHello answers its own.
        assert report.error.reason == "UNEXPECTED_MESSAGE"
    assert inventory == call_home.Inventory()


@pytest.mark.parametrize("flaw", [Flaw.EXPIRED, Flaw.WRONG_AUTHORITY, Flaw.SELF_SIGNED])
async def test_flawed_device_is_refused_before_the_first_question(
    flaw, duplex_authority, duplex_server, duplex_listener, speaking_peer, autojump_clock
):
    inventory = call_home.Inventory()
    flawed = duplex_authority.flawed(flaw, "device.example")
    async with duplex_server(inventory.handle, listener=duplex_listener) as server:
        report = await speaking_peer(credentials=flawed, talk=device).run(server)
    assert report.alert
    assert report.heard == b""
    assert inventory == call_home.Inventory()
