"""OpenSSL's cache of TLS 1.2 sessions stays small, and nobody is refused for it."""

from __future__ import annotations

import ssl
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.support.authority import FLEET
from tests.support.peers import MemoryListener, RecordingStream, ScriptedStream
from tests.support.trust import GREETING, LISTENER, context, hear, meet, mutual
from trio_duplex import Connection, Credentials, PinnedPeer, Role, serve_listeners
from trio_duplex._trust import sessions

pytestmark = pytest.mark.slow


PEER = FLEET.issue("peer.example")


def without_tickets() -> ssl.SSLContext:
    made = context(Role.CLIENT, PEER, version=ssl.TLSVersion.TLSv1_2)
    made.options |= ssl.OP_NO_TICKET
    return made


async def test_the_cache_is_bounded(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    credentials = mutual()
    credentials.server_context.verify_flags |= ssl.VERIFY_X509_STRICT
    seen = {credentials.server_context}
    most = 0
    for _ in range(3 * sessions.LOOK_EVERY):
        assert (await meet(credentials, Role.SERVER, without_tickets())).heard == GREETING
        most = max(most, credentials.server_context.session_stats()["number"])
        seen.add(credentials.server_context)
    assert len(seen) > 3
    assert 3 < most <= 3 + sessions.LOOK_EVERY  # they are not counted at each handshake
    assert credentials.server_context.verify_flags & ssl.VERIFY_X509_STRICT


def test_a_fresh_context_takes_over_what_was_changed(tmp_path: Path) -> None:
    def choose(*_: object) -> None:
        pass

    old, new = (context(Role.SERVER, LISTENER) for _ in range(2))
    old.verify_mode = ssl.CERT_OPTIONAL
    old.num_tickets = 7
    old.sni_callback = choose
    old.keylog_filename = str(tmp_path / "keys")
    old.minimum_version = ssl.TLSVersion.TLSv1_3
    assert sessions.take_over(old, new) is new
    assert new.verify_mode is ssl.CERT_OPTIONAL
    assert new.num_tickets == 7
    assert new.sni_callback is choose
    assert new.keylog_filename == old.keylog_filename
    assert new.minimum_version is ssl.TLSVersion.TLSv1_3


async def test_peers_that_take_tickets_fill_no_cache(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """What they resume is with them: the context goes on, and so do their tickets."""
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    credentials = mutual(session_tickets=1)
    before = credentials.server_context
    theirs = context(Role.CLIENT, PEER, version=ssl.TLSVersion.TLSv1_2)
    for _ in range(2 * sessions.LOOK_EVERY):
        assert (await meet(credentials, Role.SERVER, theirs)).heard == GREETING
    assert credentials.server_context is before
    assert before.session_stats()["number"] == 0


@pytest.mark.parametrize("cut", [1, 20, 100])
async def test_a_peer_whose_hello_is_cut_while_the_cache_is_emptied_is_served(
    cut: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    credentials = mutual()
    before = credentials.server_context
    listener, others = MemoryListener(), 0

    async def greet(connection: Connection) -> None:
        await connection.send_all(GREETING)

    async def send(data: bytes, below: RecordingStream) -> None:
        nonlocal others
        await below.send_all(data[:cut])
        while others < sessions.LOOK_EVERY + 4:  # in the middle of its hello
            await meet(credentials, Role.SERVER, without_tickets())
            others += 1
        await below.send_all(data[cut:])

    async with trio.open_nursery() as nursery:
        await nursery.start(serve_listeners, greet, [listener], credentials)
        stream = ScriptedStream(RecordingStream(listener.connect()), send)
        assert await hear(stream, Role.CLIENT, without_tickets()) == GREETING
        nursery.cancel_scope.cancel()
    assert credentials.server_context is not before


@pytest.mark.parametrize("tickets", [0, 1])
async def test_no_tickets_means_none_in_tls_1_2(tickets: int, autojump_clock: MockClock) -> None:
    credentials = mutual(session_tickets=tickets)
    assert bool(credentials.server_context.options & ssl.OP_NO_TICKET) is (tickets == 0)


async def test_a_fresh_context_in_mid_handshake_refuses_nobody(autojump_clock: MockClock) -> None:
    """Trusted certificates that are no authorities could not be compared with themselves."""
    credentials = Credentials.mutual(
        certificate_chain=LISTENER,
        trusted_certificates=PEER.chain_pem,
        peer=PinnedPeer(PEER.fingerprint),
    )
    before = credentials.material
    after = before.without_old_sessions()
    assert after is before  # not full
    fresh = before.fresh_server_context
    assert fresh is not None
    renewed = attrs.evolve(before, server_context=fresh())
    await renewed.admit(PEER.der, lambda: (PEER.der,), Role.SERVER, None, verified_by=before)
