from __future__ import annotations

import port_sniffer
import pytest

from trio_duplex import Role
from trio_duplex.testing import PLAINTEXT, End, SpeakingPeer, thread_peer


@pytest.fixture
def sniffer(duplex_certificate):
    with port_sniffer.PortSniffer(duplex_certificate.context(Role.SERVER)) as sniffer:
        yield sniffer


def test_speaking_peer_gets_tls(sniffer, speaking_peer):
    report = speaking_peer(say=b"hello").run_sync(sniffer)
    report.assert_role(Role.CLIENT)
    assert report.heard == b"hello"


def test_silent_peer_gets_the_greeting(sniffer, silent_peer):
    report = silent_peer().run_sync(sniffer)
    # It waits for a ClientHello, and gets text: which it reports, and calls an error of TLS.
    assert report.received == port_sniffer.GREETING
    assert report.error is not None


def test_late_peer_is_greeted_too(sniffer, late_peer):
    report = late_peer(late_by=2 * port_sniffer.PATIENCE).run_sync(sniffer)
    report.assert_role(None)
    assert report.received.startswith(port_sniffer.GREETING)


def test_dribbled_hello_is_tls(sniffer, dribbling_peer):
    report = dribbling_peer(size=40).run_sync(sniffer)
    report.assert_role(Role.CLIENT)


def test_hello_that_stops_is_given_up(sniffer, partial_peer):
    report = partial_peer(size=3).run_sync(sniffer)
    assert report.end in {End.EOF, End.RESET}
    assert report.seconds < 10


@pytest.mark.parametrize("protocol", ["http", "ssh", "proxy"])
def test_plaintext_is_sent_away(sniffer, plaintext_peer, protocol):
    report = plaintext_peer(say=PLAINTEXT[protocol]).run_sync(sniffer)
    assert report.received == port_sniffer.GO_AWAY


def test_who_leaves_is_counted(sniffer, hanging_up_peer, resetting_peer, speaking_peer):
    hanging_up_peer().run_sync(sniffer)
    resetting_peer(say=b"\x16").run_sync(sniffer)
    speaking_peer().run_sync(sniffer)  # once it is served, the others have been accepted
    sniffer.close()
    assert sniffer.seen["left"] == 1
    assert sniffer.seen["tls"] == 1
    assert sum(sniffer.seen.values()) == 3


def test_peers_at_once(sniffer, speaking_peer, silent_peer):
    with (
        thread_peer(silent_peer(), sniffer) as silent,
        thread_peer(speaking_peer(), sniffer) as speaking,
    ):
        speaking.wait().assert_role(Role.CLIENT)
        silent.wait().assert_role(None)


def test_strangers_are_refused(sniffer):
    # Not of the fixtures' authority. What it said would be unread, and turn the alert into a reset.
    report = SpeakingPeer(say=b"").run_sync(sniffer)
    assert report.alert == "unknown_ca"
