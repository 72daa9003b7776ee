"""What a server may do to a negotiation from outside: `trio_duplex._stream.supervision`."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.peers import (
    NODE,
    caught,
    client_hello,
    credentials,
    each_role,
    each_version,
    memory_pair,
    peer_stream,
    unix_pair,
)
from trio_duplex import Connection, Decision, LimitError, Role
from trio_duplex._stream.detect import detect
from trio_duplex._stream.negotiation import Negotiation
from trio_duplex._stream.settings import Settings
from trio_duplex._stream.supervision import Supervision
from trio_duplex._stream.take_role import take_role
from trio_duplex._wire.announcement import ANNOUNCEMENT
from trio_duplex.windows import PeerFacts

pytestmark = pytest.mark.slow


class Ending(Supervision):
    """A server's part, which ends a negotiation."""

    ended = False

    def stage(self, deadline: float) -> trio.CancelScope:
        self._scope = super().stage(deadline)
        return self._scope

    def end(self) -> None:
        self.ended = True
        self._scope.cancel()

    def check(self) -> None:
        if self.ended:
            raise LimitError("there is no room", limit="connections", value=1)


async def negotiated(
    stream: trio.abc.Stream, settings: Settings, supervision: Supervision
) -> Connection:
    """Detect and take the role, as a server does."""
    ours = credentials()
    detected = await detect(stream, settings, None, supervision)
    return await take_role(
        Negotiation(stream, settings, lambda: ours.material, detected, None, supervision)
    )


async def never_chosen(peer: PeerFacts) -> float:
    await trio.sleep_forever()
    raise AssertionError


@each_version
@each_role
async def test_a_server_is_told_of_each_step_once(
    role: Role, version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    """It counts turns by them, and the patience that a peer has earned."""
    told: list[str] = []

    class Told(Supervision):
        def decided(self, decision: Decision) -> None:
            told.append(f"decided: {decision.role}")

        async def take_turn(self, role: Role) -> None:
            told.append(f"turn: {role}")

        def answered(self) -> None:
            told.append("answered")

        def admitted(self, certificate: bytes | None) -> None:
            told.append("admitted")

    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer_stream(theirs, role.other, version).do_handshake)
        await negotiated(ours, Settings(0.0 if role is Role.CLIENT else 5.0), Told())
    answered = ["answered"] if role is Role.CLIENT else []
    assert told == [f"decided: {role}", f"turn: {role}", *answered, "admitted"]
    for stream in (ours, theirs):
        await trio.aclose_forcefully(stream)


@each_version
@each_role
async def test_a_peer_for_which_there_is_no_room_is_refused_when_it_is_known(
    role: Role, version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    shown: list[bytes | None] = []

    class Full(Supervision):
        def admitted(self, certificate: bytes | None) -> None:
            shown.append(certificate)
            raise LimitError("there is no room", limit="connections", value=1)

    ours, theirs = memory_pair()
    peer = peer_stream(theirs, role.other, version)
    async with trio.open_nursery() as nursery:

        async def learn_of_it() -> None:
            with trio.move_on_after(5) as waiting:
                await caught(peer.receive_some)
            assert not waiting.cancelled_caught

        nursery.start_soon(learn_of_it)
        with pytest.raises(LimitError):
            await negotiated(ours, Settings(0.0 if role is Role.CLIENT else 5.0), Full())
    assert shown == [ssl.PEM_cert_to_DER_cert(NODE.cert_chain_pems[0].bytes().decode())]
    for stream in (ours, theirs):
        await trio.aclose_forcefully(stream)


PHASES: dict[str, tuple[bytes, Any]] = {
    "the window is chosen": (b"", never_chosen),
    "the window": (b"", 5.0),
    "the announcement": (ANNOUNCEMENT[:3], 5.0),
    "the opening": (client_hello()[:20], 5.0),
    "the handshake": (b"", 0.0),
}


@pytest.mark.parametrize(("said", "window"), PHASES.values(), ids=PHASES)
async def test_ended_from_outside_it_raises_the_reason(
    said: bytes, window: Any, autojump_clock: trio.testing.MockClock
) -> None:
    await end_soon(memory_pair, said, window)
    assert trio.current_time() == 0.5


@pytest.mark.parametrize(("said", "window"), PHASES.values(), ids=PHASES)
async def test_over_a_socket_too(said: bytes, window: Any) -> None:
    with trio.fail_after(10):
        await end_soon(unix_pair, said, window, after=0.02)


async def end_soon(
    pair: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]],
    said: bytes,
    window: Any,
    *,
    after: float = 0.5,
) -> None:
    ours, theirs = pair()
    told = Ending()
    if said:
        await theirs.send_all(said)
    async with trio.open_nursery() as nursery:

        async def end() -> None:
            await trio.sleep(after)
            told.end()

        nursery.start_soon(end)
        with pytest.raises(LimitError):
            await negotiated(ours, Settings(window), told)
    for stream in (ours, theirs):
        await trio.aclose_forcefully(stream)
