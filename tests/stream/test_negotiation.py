"""The session that a server resumes with a peer: `trio_duplex._stream.negotiation`."""

from __future__ import annotations

import ssl

import trio.testing

from tests.support.peers import TLS12, connection_pair, credentials
from trio_duplex import Credentials, Decision, Reason, Role
from trio_duplex._sockets.address import Address
from trio_duplex._stream.detect import Detected
from trio_duplex._stream.negotiation import Resumption
from trio_duplex._stream.settings import Settings

ADDRESS = ("192.0.2.7", 4711)
AS_CLIENT = Detected(Decision(Role.CLIENT, Reason.SILENT, 0.0, 0.0), began=0.0)
AS_SERVER = Detected(Decision(Role.SERVER, Reason.SPOKE, 0.0, 0.0), began=0.0)


async def session_of(ours: Credentials) -> ssl.SSLSession:
    server, client = await connection_pair(server=ours, client=ours)
    session = client.session
    assert session is not None
    for end in (server, client):
        await trio.aclose_forcefully(end)
    return session


async def test_only_a_client_asks_for_a_session(autojump_clock: trio.testing.MockClock) -> None:
    ours = credentials(TLS12)
    session = await session_of(ours)
    asked: list[Address | None] = []

    def find(remote: Address | None) -> ssl.SSLSession:
        asked.append(remote)
        return session

    def found(detected: Detected) -> Resumption | None:
        return Resumption.found(Settings(session=find), detected, ADDRESS, lambda: ours.material)

    assert found(AS_SERVER) is None
    assert asked == []
    resumption = found(AS_CLIENT)
    assert resumption is not None
    assert resumption.session is session
    assert resumption.material is ours.material
    assert asked == [ADDRESS]


async def test_without_a_session_nothing_is_kept_of_the_credentials(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Otherwise a peer that waits for its turn would miss a reload. A session of other credentials is none."""
    ours = credentials(TLS12)
    foreign = await session_of(credentials(TLS12))
    for settings in (
        Settings(),
        Settings(session=lambda _: None),
        Settings(session=lambda _: foreign),
    ):
        assert Resumption.found(settings, AS_CLIENT, ADDRESS, lambda: ours.material) is None
