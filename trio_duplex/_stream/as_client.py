"""The client role: send our ClientHello, look at what comes back, and complete the handshake."""

from __future__ import annotations

import trio

from trio_duplex._errors import HandshakeError, NotTLSError
from trio_duplex._role import Role
from trio_duplex._stream.as_server import answer_overlong_record
from trio_duplex._stream.crossing import (
    Glare,
    glare_error,
    is_abort,
    refuse_client_hello,
    resolve_crossing,
)
from trio_duplex._stream.detect import OPENING_SIZE
from trio_duplex._stream.negotiation import Attempt, Negotiation
from trio_duplex._stream.own_hello import remembered
from trio_duplex._tls.handshake import Handshake
from trio_duplex._wire.foreign import advice_on
from trio_duplex._wire.hello import client_hello_random
from trio_duplex._wire.opening import OpeningKind, classify


async def as_client(n: Negotiation) -> tuple[Attempt, Glare | None]:
    """Handshake as the TLS client, up to the verdict.

    Returns:
        The attempt, and the crossing if the peer's ClientHello met ours. If the crossing
        says that we are the server, the attempt is void, and `answer_client_hello` is next.

    Raises:
        NotTLSError: The answer is not TLS.
        SelfConnectionError: The answer is a ClientHello of ours.
        GlareError: The answer is another ClientHello, and the crossing could not be resolved.
        HandshakeError: TLS failed; our alert has been sent.
    """
    attempt = await n.begin(Role.CLIENT)
    handshake = attempt.handshake
    hello = handshake.client_hello()
    random = client_hello_random(hello)
    assert random is not None  # OpenSSL's own
    with remembered(
        n, random
    ):  # before the first byte leaves: a relay is as quick as the scheduler
        await handshake.send(hello)
        answer = n.detected.opening or await handshake.receive(OPENING_SIZE)
        arrived = trio.current_time()
        n.supervision.answered()
        answer, kind = await _read_answer(n, handshake, answer)
        if kind is OpeningKind.OTHER_TLS:
            await handshake.complete(answer)
            return attempt, None
        late_by = arrived - n.detected.began
        glare = await resolve_crossing(n, handshake, random, answer, late_by)
        if glare.decision.role is Role.CLIENT:
            await _complete_after_glare(n, handshake, glare)
        return attempt, glare


async def _read_answer(
    n: Negotiation, handshake: Handshake, answer: bytes
) -> tuple[bytes, OpeningKind]:
    """Read until it is clear what the peer has answered to our ClientHello.

    Returns:
        All that was received; and ``OTHER_TLS`` if it is an answer that TLS allows, or
        ``CLIENT_HELLO``.
    """
    while (opening := classify(answer)).kind is OpeningKind.INCOMPLETE:
        answer += await handshake.receive(OPENING_SIZE)
    if opening.kind is OpeningKind.NOT_TLS:
        await answer_overlong_record(n, answer)
        raise NotTLSError(
            "the peer answered our ClientHello, but not as a TLS server",
            role=Role.CLIENT,
            peer=n.peer,
            seen=opening.looks_like,
            advice=advice_on(opening.looks_like),
            received=answer[:64],
        )
    return answer, opening.kind


async def _complete_after_glare(n: Negotiation, handshake: Handshake, glare: Glare) -> None:
    """Go on as the client: what follows the peer's ClientHello is the answer to ours."""
    try:
        answer, kind = await _read_answer(
            n, handshake, glare.received or await handshake.receive(OPENING_SIZE)
        )
        if kind is OpeningKind.CLIENT_HELLO:  # another one
            refusal = await refuse_client_hello(handshake, answer)
            raise glare_error(n, glare.late_by, refusal) from refusal
        await handshake.complete(answer)
    except HandshakeError as exc:
        if is_abort(exc):
            raise glare_error(n, glare.late_by, exc) from exc
        raise
