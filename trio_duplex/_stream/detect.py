"""The detection window: which role does the peer leave to us?

The window holds one receive and one assignment and no other checkpoint: data that
arrived as the window closed is then in the variable, whatever the cancel scope says.
"""

from __future__ import annotations

import attrs
import trio

from trio_duplex._decision.facts import Conduct
from trio_duplex._decision.policy import Choice, Fixed
from trio_duplex._errors import HandshakeTimeoutError, PeerClosedError
from trio_duplex._role import Decision, Reason, Role
from trio_duplex._sockets.address import Address, format_address
from trio_duplex._sockets.direct import is_direct, receive_nowait
from trio_duplex._stream.lesson import Lesson
from trio_duplex._stream.settings import Settings
from trio_duplex._stream.supervision import Supervision
from trio_duplex._wire.announcement import announcement_length

OPENING_SIZE = 4096
"""Bytes to ask for in the window. A ClientHello of today has 300 to 1,800; more
than that just takes a second read, and a buffer is allocated at each try."""


@attrs.frozen
class Heard:
    """The result of the wait for a peer's first bytes.

    Attributes:
        opening: The bytes; None if the window has ended without any.
        choice: The window, and the rule that chose it.
        lesson: Where the window policy learns what becomes of the connection;
            None where the window is plain seconds.
        started: When the connection was accepted, on Trio's clock.
    """

    opening: bytes | bytearray | None
    choice: Choice
    lesson: Lesson | None
    started: float


@attrs.frozen
class Detected:
    """The result of the detection window.

    Attributes:
        decision: The role.
        opening: What the peer has sent so far, without its announcement.
        lesson: Where the window policy learns what becomes of the connection;
            None where the window is plain seconds.
        began: When the time for the handshake began: with the decision or, where the
            peer has spoken, with its first byte.
    """

    decision: Decision
    opening: bytes = b""
    lesson: Lesson | None = None
    began: float = attrs.field(factory=trio.current_time)


async def detect(
    stream: trio.abc.Stream, settings: Settings, remote: Address | None, supervision: Supervision
) -> Detected:
    """Find out which role the peer leaves to us, before anything of TLS exists.

    It waits directly, without further coroutines below it: where each pending peer has a
    task, each task holds these frames. A server's waiting room does the same for sockets without a task for
    each (`_serve/waiting_room.py`).

    Raises:
        PeerClosedError: The peer left in the window.
        HandshakeTimeoutError: The peer has spoken, but within ``handshake_timeout`` it has
            not sent enough to tell its role; or it was silent, and a rule says
            that it always speaks.
        DuplexError: What ``supervision`` ended it with.
    """
    opening: bytes | bytearray | None = None
    started = begun = trio.current_time()
    if isinstance(settings.window, Fixed):
        lesson, choice = None, settings.window.choice
    else:
        lesson = Lesson.of(settings.window, stream, remote, supervision)
        choice = await lesson.choose()
        begun = trio.current_time()
    # By a rule for silent peers we do not even look: it would depend on timing
    # whether a peer that speaks all the same is served, or crosses our ClientHello.
    if choice.role is not Role.CLIENT:
        try:
            if is_direct(stream):
                opening = receive_nowait(stream, OPENING_SIZE)  # on a busy server it is there
            if opening is None:
                # Only one await in here: a second checkpoint lost the bytes in 433 of
                # 1,500 deadline races. And nothing goes by the scope, only by the bytes.
                with supervision.stage(begun + choice.seconds):
                    if is_direct(stream):
                        # What a socket receives stays in the kernel until we ask. To
                        # wait only holds 1.5 KB less for each peer than to receive.
                        while opening is None:
                            await trio.lowlevel.wait_readable(stream.socket)
                            opening = receive_nowait(stream, OPENING_SIZE)
                    else:
                        opening = await stream.receive_some(OPENING_SIZE)
                supervision.check()
                if opening is None and is_direct(stream):
                    # A last look: it finds what came after the scheduler had given up
                    # (one expiry in five of a race).
                    opening = receive_nowait(stream, OPENING_SIZE)
        except trio.BrokenResourceError as exc:
            raise peer_left_error(format_address(remote), received=0, reset=True) from exc
    if opening == b"":
        raise peer_left_error(format_address(remote), received=0, reset=False)
    heard = Heard(opening, choice, lesson, started)
    return await conclude(heard, stream, settings, remote, supervision)


async def conclude(
    heard: Heard,
    stream: trio.abc.Stream,
    settings: Settings,
    remote: Address | None,
    supervision: Supervision,
) -> Detected:
    """Decide by the peer's first bytes, or by the fact that there were none.

    Waits only where the bytes may be the beginning of an announcement.

    Raises:
        PeerClosedError, HandshakeTimeoutError, DuplexError: As `detect`.
    """
    opening, choice, lesson, started = heard.opening, heard.choice, heard.lesson, heard.started
    announced, began = 0, trio.current_time()
    # A peer that a rule calls speaking can't make us the TLS client.
    understands = settings.announcements and choice.role is None
    if opening is not None and understands and announcement_length(opening) != 0:
        try:
            opening, announced = await _split_off_announcement(
                opening, stream, settings.handshake_timeout, remote, supervision
            )
        except (PeerClosedError, HandshakeTimeoutError):
            # This much is known: the peer has spoken.
            waited = began - started
            supervision.decided(
                Decision(Role.SERVER, Reason.SPOKE, waited, choice.seconds, choice.rule)
            )
            raise
    decision = _decide(
        choice,
        spoke=opening is not None,
        announced=bool(announced),
        waited=(trio.current_time() if announced else began) - started,
        remote=remote,
    )
    if lesson is not None and decision.role is Role.SERVER:
        lesson.tell(Conduct.SPOKE, decision.waited, admitted=False)
    supervision.decided(decision)
    return Detected(decision, bytes(opening or b""), lesson, began)


def _decide(
    choice: Choice, *, spoke: bool, announced: bool, waited: float, remote: Address | None
) -> Decision:
    """Decide the role by the result of the window.

    Raises:
        HandshakeTimeoutError: The peer was silent, and a rule says that it always speaks.
    """
    if announced:
        role, reason = Role.CLIENT, Reason.ANNOUNCED
    elif spoke:
        role, reason = Role.SERVER, Reason.SPOKE
    elif choice.role is Role.SERVER:
        raise HandshakeTimeoutError(
            f"the peer had not spoken within {choice.seconds:g} s",
            role=Role.SERVER,
            peer=format_address(remote),
            advice=f"a rule says that it always speaks: {choice.rule}",
            timeout=choice.seconds,
        )
    else:
        role, reason = Role.CLIENT, choice.reason_of_silence()
    return Decision(role, reason, waited=waited, window=choice.seconds, rule=choice.rule)


async def _split_off_announcement(
    opening: bytes | bytearray,
    stream: trio.abc.Stream,
    timeout: float,
    remote: Address | None,
    supervision: Supervision,
) -> tuple[bytes | bytearray, int]:
    """Read until it is clear whether the opening begins with an announcement, and strip it.

    The peer has spoken, so this is no longer in the window's time. At most nine
    bytes are needed; nearly always they are there.

    Returns:
        The rest of the opening, and how long the announcement was: 0 for none.
    """
    length = announcement_length(opening)
    if length is None:
        supervision.spoke()
        with supervision.stage(trio.current_time() + timeout):
            while (length := announcement_length(opening)) is None:
                try:
                    more = await stream.receive_some(OPENING_SIZE)
                except trio.BrokenResourceError as exc:
                    raise _left_in_opening(remote, len(opening), reset=True) from exc
                if not more:
                    raise _left_in_opening(remote, len(opening), reset=False)
                opening += more
        supervision.check()
    if length is None:
        raise HandshakeTimeoutError(
            f"the peer's opening was not complete within {timeout:g} s",
            role=Role.SERVER,
            peer=format_address(remote),
            seen=f"the first {len(opening)} bytes of a TLS record",
            advice="the peer is slow, or no TLS client; if slow, raise handshake_timeout",
            timeout=timeout,
        )
    return opening[length:], length


def _left_in_opening(remote: Address | None, received: int, *, reset: bool) -> PeerClosedError:
    return peer_left_error(format_address(remote), received=received, reset=reset, role=Role.SERVER)


def peer_left_error(
    peer: str | None, *, received: int, reset: bool, role: Role | None = None
) -> PeerClosedError:
    return PeerClosedError(
        "the peer left before its opening was complete",
        role=role,
        peer=peer,
        seen=f"{'a reset' if reset else 'end of stream'} after {received} bytes",
        advice="port scans and health checks do this; a real peer would have waited or spoken",
        received=received,
        reset=reset,
    )
