"""Recognises our own ClientHellos when an echo or a relay sends one back to us."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from trio_duplex._decision.reflection import SentHellos
from trio_duplex._errors import SelfConnectionError
from trio_duplex._stream.negotiation import Negotiation

SENT_HELLOS = SentHellos()
"""One memory for the whole process, because the two ends of a splice may be two of its listeners."""


def remembered(n: Negotiation, random: bytes) -> AbstractContextManager[None]:
    """Remember our hello's random during this block, and for a while afterwards, if the peer dialled."""
    return SENT_HELLOS.remember(random) if n.accepted else nullcontext()


def is_ours(n: Negotiation, random: bytes | None) -> bool:
    """Whether the peer dialled, and its random is that of a hello that we sent to another such peer."""
    return n.accepted and random in SENT_HELLOS


def own_hello_error(n: Negotiation, summary: str) -> SelfConnectionError:
    """Return the error to raise if `is_ours`."""
    return SelfConnectionError(
        summary,
        role=n.decision.role,
        peer=n.peer,
        seen="a ClientHello that this process sent on an accepted connection",
        advice="the peer echoes our bytes, or relays us to ourselves: look at what runs at its address",
    )
