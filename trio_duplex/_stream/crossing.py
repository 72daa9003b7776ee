"""Two ClientHellos crossed: tell glare from an echo, and find out who goes on as the client.

As the TLS client we look at the peer's answer before OpenSSL does. If it is a ClientHello,
it is one of ours that comes back, or that of a peer that spoke after our window had closed.
`_decision/glare.py` decides by the two randoms.
"""

from __future__ import annotations

import math

import attrs

from trio_duplex._decision.facts import Conduct
from trio_duplex._decision.glare import Crossing, Resolution, resolve
from trio_duplex._errors import GlareError, HandshakeError
from trio_duplex._role import Decision, Reason, Role
from trio_duplex._stream.detect import OPENING_SIZE
from trio_duplex._stream.negotiation import Negotiation
from trio_duplex._stream.own_hello import is_ours, own_hello_error
from trio_duplex._tls.handshake import Handshake
from trio_duplex._wire.hello import (
    HelloKind,
    HelloReader,
    client_hello_random,
    random_may_follow,
)
from trio_duplex._wire.records import CLIENT_HELLO_TYPE


@attrs.frozen(eq=False)
class Glare:
    """A crossing that is resolved.

    Attributes:
        decision: The decision as it is from now on: it names the role in which we go on.
        late_by: Seconds from our ClientHello to the peer's.
        received: With `Role.SERVER`, the peer's ClientHello and what follows it; with
            `Role.CLIENT` only what follows, which answers ours.
    """

    decision: Decision
    late_by: float
    received: bytes


async def resolve_crossing(
    n: Negotiation, handshake: Handshake, ours: bytes, answer: bytes, late_by: float
) -> Glare:
    """Read the peer's ClientHello, and find out who goes on as the client.

    Args:
        n: The negotiation.
        handshake: Our handshake, begun as the client.
        ours: The random of our ClientHello.
        answer: What the peer has sent so far.
        late_by: Seconds from our ClientHello to the peer's.

    Raises:
        SelfConnectionError: It is a ClientHello of ours. The peer was sent an alert,
            as in the next case.
        GlareError: The crossing can't be resolved, or must not.
    """
    left: HandshakeError | None = None
    crossing = Crossing(Resolution.MALFORMED)
    try:
        while client_hello_random(answer) is None and random_may_follow(answer):
            answer += await handshake.receive(OPENING_SIZE)
    except HandshakeError as exc:
        left = exc
    theirs = client_hello_random(answer)
    if theirs == ours or is_ours(n, theirs):
        refusal = left or await refuse_client_hello(handshake, answer)
        raise own_hello_error(n, "a ClientHello of ours came back") from refusal
    n.learn(Conduct.LATE, n.decision.waited + late_by, admitted=False)
    if n.either and left is None and theirs is not None:
        # Through a reader, because resolving takes time in proportion to what has
        # come, and it may come byte by byte.
        reader, parts = HelloReader(CLIENT_HELLO_TYPE), [answer]
        try:
            while reader.feed(parts[-1]) is HelloKind.INCOMPLETE:
                parts.append(await handshake.receive(OPENING_SIZE))
        except HandshakeError as exc:
            left = exc
        answer = b"".join(parts)
        crossing = resolve(ours, answer)
    if crossing.resolution not in (Resolution.CLIENT, Resolution.SERVER):
        refusal = left or await refuse_client_hello(handshake, answer)
        raise glare_error(n, late_by, refusal) from refusal
    glare = Glare(
        _decision_after(n.decision, crossing.resolution, late_by),
        late_by,
        answer[crossing.dropped :],
    )
    n.supervision.crossed(glare.decision)
    return glare


async def refuse_client_hello(handshake: Handshake, hello: bytes) -> HandshakeError | None:
    """Have OpenSSL write the alert unexpected_message, and send it."""
    try:
        await handshake.complete(hello)
    except HandshakeError as exc:
        return exc
    return None


def _decision_after(before: Decision, resolution: Resolution, late_by: float) -> Decision:
    why = f"{before.rule}; " if before.rule else ""
    if resolution is Resolution.CLIENT:
        rule = f"{why}two ClientHellos crossed, and ours had the larger random"
        return attrs.evolve(before, rule=rule)
    return Decision(
        Role.SERVER,
        Reason.SPOKE,
        waited=before.waited + late_by,
        window=before.window,
        rule=f"{why}two ClientHellos crossed, and the peer's had the larger random",
    )


def is_abort(error: HandshakeError) -> bool:
    """Whether a failure after glare means that the peer can't resolve glare, and has aborted."""
    # It sends its alert in the clear. Where we have gone on as a TLS 1.3 server, OpenSSL
    # expects another version in the record's header by now, and says only that.
    reason = error.tls_reason or ""
    aborted = error.hung_up or "unexpected_message" in reason or "wrong version" in reason
    return aborted and not isinstance(error, GlareError)


def glare_error(n: Negotiation, late_by: float, refusal: HandshakeError | None) -> GlareError:
    """Return the error of a crossing that could not be resolved."""
    return GlareError(
        f"both ends sent a ClientHello: the window was missed by {late_by:.3f} s",
        role=Role.CLIENT,  # as which we sent ours
        peer=n.peer,
        seen="a ClientHello in answer to ours",
        tls_reason=refusal.tls_reason if refusal else None,
        advice=_advice_on_glare(n, late_by),
        missed_by=late_by,
        window=n.decision.window,
    )


def _advice_on_glare(n: Negotiation, late_by: float) -> str:
    if not n.accepted and n.either:
        return "the peer is a TLS client and can't resolve this: dial with role=Role.SERVER"
    if not n.accepted:  # the window was the listener's
        return (
            "the listener took us for silent, or is not a TLS server: have its window raised, "
            "or dial with role=Role.SERVER, or with role=None for either"
        )
    if n.decision.reason is Reason.RULE:
        return f"a rule takes this peer for silent, and it speaks: change it ({n.decision.rule})"
    # The next tenth of a second above what would just have missed again.
    enough = (math.floor((n.decision.waited + late_by) * 10) + 1) / 10
    return (
        f"set window to at least {enough:g} s on the side that listens "
        f"(it was {n.decision.window:g} s), or make the peer speak sooner"
    )
