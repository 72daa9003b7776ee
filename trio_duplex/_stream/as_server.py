"""The server role: read the peer's opening, check that it is not our own, and complete the handshake."""

from __future__ import annotations

from typing import assert_never

import trio

from trio_duplex._errors import NotTLSError, PeerClosedError
from trio_duplex._role import Role
from trio_duplex._stream.detect import OPENING_SIZE, peer_left_error
from trio_duplex._stream.negotiation import Attempt, Negotiation
from trio_duplex._stream.own_hello import is_ours, own_hello_error
from trio_duplex._tls.last_words import send_alert
from trio_duplex._wire.alerts import ALERT_HANDSHAKE_FAILURE, ALERT_RECORD_OVERFLOW
from trio_duplex._wire.announcement import ANNOUNCEMENT
from trio_duplex._wire.foreign import advice_on
from trio_duplex._wire.hello import (
    client_hello_random,
    random_may_follow,
    random_of,
    whole_hello,
)
from trio_duplex._wire.opening import OpeningKind, classify, is_overlong
from trio_duplex._wire.records import CLIENT_HELLO_TYPE


async def as_server(n: Negotiation, opening: bytes) -> Attempt:
    """Handshake as the TLS server, up to the verdict.

    Args:
        n: The negotiation.
        opening: What the peer has sent so far; may be empty.

    Raises:
        NotTLSError: The opening is not a ClientHello.
        PeerClosedError: The peer left before it was one.
        SelfConnectionError: It is a ClientHello of ours; the peer was sent an alert.
        HandshakeError: TLS failed; likewise.
    """
    if n.announce:
        try:
            await n.stream.send_all(ANNOUNCEMENT)
        except trio.BrokenResourceError as exc:
            raise _peer_left(n, 0, reset=True) from exc
    opening, random = await _read_opening(n, opening)
    if random is None:  # it might be ours
        await n.attempt(Role.SERVER).handshake.refuse_opening(opening)
    if is_ours(n, random):
        await send_alert(n.stream, ALERT_HANDSHAKE_FAILURE)
        raise own_hello_error(n, "the peer sent us a ClientHello of ours")
    return await answer_client_hello(n, opening)


async def answer_client_hello(n: Negotiation, opening: bytes) -> Attempt:
    """Wait for a turn, and handshake with a peer whose ClientHello may be answered.

    Raises:
        HandshakeError: TLS failed; our alert has been sent.
    """
    attempt = await n.begin(Role.SERVER)
    await attempt.handshake.complete(opening)
    return attempt


async def _read_opening(n: Negotiation, received: bytes) -> tuple[bytes, bytes | None]:
    """Read until it is clear what the opening is and, if it is a ClientHello, whose.

    Six bytes are enough to recognise a ClientHello, and 43 to read its random. They may come one
    at a time.

    Returns:
        All that was received, and the random; None if it can't be found.
    """
    hello = whole_hello(received, CLIENT_HELLO_TYPE)
    if hello is not None and (random := random_of(hello[0])) is not None:
        return received, random  # as nearly always, so that most peers need no other look
    while True:
        opening = classify(received)
        match opening.kind:
            case OpeningKind.INCOMPLETE:
                pass
            case OpeningKind.CLIENT_HELLO:
                random = client_hello_random(received)
                if random is not None or not random_may_follow(received):
                    return received, random
            case OpeningKind.OTHER_TLS | OpeningKind.NOT_TLS:
                await answer_overlong_record(n, received)
                raise NotTLSError(
                    "the peer spoke, but not as a TLS client",
                    role=Role.SERVER,
                    peer=n.peer,
                    seen=opening.looks_like,
                    advice=advice_on(opening.looks_like),
                    received=received[:64],
                )
            case _:
                assert_never(opening.kind)
        try:
            more = await n.stream.receive_some(OPENING_SIZE)
        except trio.BrokenResourceError as exc:
            raise _peer_left(n, len(received), reset=True) from exc
        if not more:
            raise _peer_left(n, len(received), reset=False)
        received += more


async def answer_overlong_record(n: Negotiation, received: bytes) -> None:
    """Send an alert if the first record is too long: a peer with any other fault there does not speak TLS."""
    if is_overlong(received):
        await send_alert(n.stream, ALERT_RECORD_OVERFLOW)


def _peer_left(n: Negotiation, received: int, *, reset: bool) -> PeerClosedError:
    return peer_left_error(n.peer, received=received, reset=reset, role=Role.SERVER)
