"""First bytes that arrive just as the detection window closes.

Whatever the scheduler makes of it, no byte may be lost and nobody may hang. Either we are TLS
server and the bytes reached TLS, so that the handshake and an echo succeed; or we are TLS client,
have sent a ClientHello of our own, and the peer's is told apart as glare. Real sockets, because
what is raced is the kernel's readiness against Trio's deadline.
"""

from __future__ import annotations

import random
import ssl
from collections import Counter

import trio
import trustme

from trio_duplex import Credentials, GlareError, Reason, Role, negotiate

TRIES = 2_000

WINDOW = 0.05
"""Seconds. Short, but not so short that a busy machine has used it up before the peer is asked."""

JITTER = 0.001
"""Seconds before or after the end of the window, in which the peer speaks."""

GAP = 0.002
"""Seconds between tries, so that some 25 are under way at once. If all windows closed together,
the test would only measure how long it takes to serve a crowd."""

MESSAGE = b"the bytes that came with the last breath of the window"


async def test_the_deadline_race_loses_no_byte_and_never_hangs() -> None:
    authority = trustme.CA()
    ours, theirs = (
        Credentials.mutual(certificate_chain=authority.issue_cert("127.0.0.1"), trust=authority)
        for _ in range(2)
    )
    offsets = random.Random(5_000)
    roles: Counter[Role] = Counter()

    async def race(stream: trio.SocketStream, peer: trio.SocketStream) -> None:
        echo: list[bytes | bytearray] = []
        async with trio.open_nursery() as nursery:
            # Nothing yields between this look at the clock and negotiate()'s own.
            expiry = trio.current_time() + WINDOW
            when = expiry + offsets.uniform(-JITTER, JITTER)
            nursery.start_soon(speak, peer, when, theirs.client_context, echo)
            role = await serve(stream, ours)
        assert echo == ([MESSAGE] if role is Role.SERVER else [])
        roles[role] += 1

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listener.socket.getsockname()
    with trio.fail_after(120):
        async with listener, trio.open_nursery() as nursery:
            for _ in range(TRIES):
                peer = await trio.open_tcp_stream(*address)
                nursery.start_soon(race, await listener.accept(), peer)
                await trio.sleep(GAP)

    assert roles.total() == TRIES
    # The jitter is such that each end of it is met often, or it was no race.
    assert roles[Role.SERVER] > 0
    assert roles[Role.CLIENT] > 0


async def serve(stream: trio.SocketStream, credentials: Credentials) -> Role:
    """Our end: negotiate, and echo one message; anything but success and glare is a failure."""
    try:
        connection = await negotiate(stream, credentials, window=WINDOW)
    except GlareError:
        return Role.CLIENT
    async with connection:
        assert connection.decision.reason is Reason.SPOKE
        await connection.send_all(await connection.receive_some())
    return connection.role


async def speak(
    stream: trio.SocketStream,
    when: float,
    context: ssl.SSLContext,
    echo: list[bytes | bytearray],
) -> None:
    """The peer's end: a TLS client as anybody would write it, but for its timing."""
    tls = trio.SSLStream(stream, context, server_hostname="127.0.0.1")
    try:
        await trio.sleep_until(when)
        await tls.do_handshake()
        await tls.send_all(MESSAGE)
        echo.append(await tls.receive_some())
    except trio.BrokenResourceError:
        pass  # glare; if it was not, the echo is missed
    finally:
        await trio.aclose_forcefully(tls)
