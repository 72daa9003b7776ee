"""OpenSSL's cache of TLS 1.2 sessions stays small, and nobody is refused for it."""

from __future__ import annotations

import ssl

import attrs
import pytest
from trio.testing import MockClock

from tests.support.trust import FLEET, GREETING, LISTENER, context, meet, mutual
from trio_duplex import Credentials, PinnedPeer, Role
from trio_duplex._trust import sessions

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
    assert most <= 3 + sessions.LOOK_EVERY
    assert credentials.server_context.verify_flags & ssl.VERIFY_X509_STRICT


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
