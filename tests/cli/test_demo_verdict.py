"""The verdict on what both ends saw, without sockets."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from trio_duplex import GlareError, NotTLSError, PeerClosedError, Reason, Role
from trio_duplex.cli._demo.verdict import Expected, Ours, Theirs, faults

WINDOW = 1.0
TLS13 = ("TLSv1.3", "TLS_AES_256_GCM_SHA384")
TLS12 = ("TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384")
HTTP = b"GET / HTTP/1.1\r\n\r\n"

NOT_TLS = NotTLSError("no", role=Role.SERVER, received=HTTP)
LEFT = PeerClosedError("left", received=0, reset=False)
GLARE = GlareError("crossed", role=Role.CLIENT, missed_by=0.1, window=WINDOW)

View = tuple[Expected, Ours, Theirs]

SPEAKING: View = (
    Expected(Role.SERVER, Reason.SPOKE),
    Ours(waited=0.002, role=Role.SERVER, reason=Reason.SPOKE, tls=TLS13, received=b"hi"),
    Theirs(sent=b"hi", received=b"hi", role=Role.CLIENT, tls=TLS13),
)
SILENT: View = (
    Expected(Role.CLIENT, Reason.SILENT),
    Ours(waited=1.001, role=Role.CLIENT, reason=Reason.SILENT, tls=TLS12, received=b"hi"),
    Theirs(sent=b"hi", received=b"hi", role=Role.SERVER, tls=TLS12),
)
ANNOUNCED, REMEMBERED = (
    (Expected(Role.CLIENT, reason), attrs.evolve(SILENT[1], waited=0.1, reason=reason), SILENT[2])
    for reason in (Reason.ANNOUNCED, Reason.REMEMBERED)
)
PLAINTEXT: View = (
    Expected(Role.SERVER, Reason.SPOKE, NotTLSError),
    Ours(waited=0.002, role=Role.SERVER, reason=Reason.SPOKE, received=HTTP, error=NOT_TLS),
    Theirs(sent=HTTP),
)
VANISHING: View = (
    Expected(None, None, PeerClosedError),
    Ours(waited=0.002, role=None, error=LEFT),
    Theirs(sent=b""),
)


def judge(view: View) -> list[str]:
    expected, ours, theirs = view
    return faults(expected, ours, theirs, window=WINDOW)


@pytest.mark.parametrize("view", [SPEAKING, SILENT, ANNOUNCED, REMEMBERED, PLAINTEXT, VANISHING])
def test_all_is_well(view: View) -> None:
    assert judge(view) == []


@pytest.mark.parametrize(
    ("view", "ours", "theirs"),
    [
        pytest.param(SPEAKING, {"role": Role.CLIENT}, {}, id="we think that we are client"),
        pytest.param(SPEAKING, {}, {"role": Role.SERVER}, id="the peer says it was server"),
        pytest.param(SPEAKING, {}, {"role": None}, id="the peer had no handshake"),
        pytest.param(SPEAKING, {"reason": Reason.RULE}, {}, id="another reason"),
        pytest.param(SPEAKING, {"received": b"h"}, {}, id="we lost a byte"),
        pytest.param(SPEAKING, {}, {"received": b"h"}, id="the peer lost a byte"),
        pytest.param(SPEAKING, {}, {"tls": TLS12}, id="versions differ"),
        pytest.param(SPEAKING, {"tls": None}, {"tls": None}, id="no TLS at all"),
        pytest.param(SPEAKING, {"error": OSError()}, {}, id="we broke"),
        pytest.param(SPEAKING, {}, {"error": OSError()}, id="the peer broke"),
        pytest.param(SILENT, {"waited": 0.999}, {}, id="silence concluded too early"),
        pytest.param(SILENT, {"reason": Reason.SPOKE}, {}, id="it is said to have spoken"),
        pytest.param(REMEMBERED, {"reason": Reason.SILENT, "waited": 1.0}, {}, id="forgotten"),
        pytest.param(ANNOUNCED, {"reason": Reason.SILENT, "waited": 1.0}, {}, id="not understood"),
        pytest.param(PLAINTEXT, {"error": None}, {}, id="plaintext served"),
        pytest.param(PLAINTEXT, {"error": LEFT}, {}, id="refused for something else"),
        pytest.param(PLAINTEXT, {}, {"received": b"\x15"}, id="plaintext peer answered"),
        pytest.param(PLAINTEXT, {"tls": TLS13}, {"tls": TLS13}, id="TLS with a plaintext peer"),
        pytest.param(PLAINTEXT, {"received": b"GET"}, {}, id="another opening reported"),
        pytest.param(VANISHING, {"role": Role.SERVER}, {}, id="a role taken for nobody"),
    ],
)
def test_each_fault_is_found(view: View, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    expected, good_ours, good_theirs = view
    changed = (expected, attrs.evolve(good_ours, **ours), attrs.evolve(good_theirs, **theirs))
    assert len(judge(changed)) == 1


def test_our_end_has_not_ended() -> None:
    expected, _, theirs = SPEAKING
    assert len(faults(expected, None, theirs, window=WINDOW)) == 1
    broken = attrs.evolve(theirs, error=TimeoutError())
    assert len(faults(expected, None, broken, window=WINDOW)) == 2


def test_glare_is_a_fault_in_everything() -> None:
    """What a window too short for the speaking peer would look like."""
    expected, _, _ = SPEAKING
    ours = Ours(waited=1.0, role=Role.CLIENT, reason=Reason.SILENT, error=GLARE)
    assert len(faults(expected, ours, Theirs(sent=b"", error=OSError()), window=WINDOW)) >= 4


def test_what_was_received_is_shown_in_brief() -> None:
    """One line for each peer, also where it got a ClientHello of ours."""
    expected, ours, theirs = PLAINTEXT
    (fault,) = judge((expected, ours, attrs.evolve(theirs, received=b"\x16" + bytes(516))))
    assert "\\x16" in fault
    assert "517 bytes" in fault
    assert len(fault) < 120
