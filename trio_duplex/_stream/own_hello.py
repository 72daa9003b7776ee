"""Our own ClientHellos: known again when an echo or a relay sends one back to us."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from trio_duplex._decision.reflection import SentHellos
from trio_duplex._errors import SelfConnectionError
from trio_duplex._stream.negotiation import Negotiation

SENT_HELLOS = SentHellos()
"""Of the whole process: the two ends of a splice may be two listeners of it."""


def remembered(n: Negotiation, random: bytes) -> AbstractContextManager[None]:
    """Remember our hello's random while this block runs, and a while after, if the peer dialled."""
    return SENT_HELLOS.remember(random) if n.accepted else nullcontext()


def is_ours(n: Negotiation, random: bytes | None) -> bool:
    """Whether this random is of a hello that we sent to a peer that dialled, and this one did."""
    return n.accepted and random in SENT_HELLOS


def own_hello_error(n: Negotiation, summary: str) -> SelfConnectionError:
    """Return what to raise where `is_ours`."""
    return SelfConnectionError(
        summary,
        role=n.decision.role,
        peer=n.peer,
        seen="a ClientHello that this process sent on an accepted connection",
        advice="the peer echoes, or relays us to ourselves: find out who does at its address",
    )
