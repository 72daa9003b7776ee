"""Two ends that both dial, with no roles arranged beforehand: through a relay, or each other."""

import random

import trio

import trio_duplex


async def meet_at_relay(
    host: str, port: int, credentials: trio_duplex.Credentials
) -> trio_duplex.Connection:
    """Dial a relay, which joins us to another end that has dialled it too."""
    return await trio_duplex.open_tcp_connection(host, port, credentials, role=None)


async def meet_halfway(
    local: tuple[str, int], remote: tuple[str, int], credentials: trio_duplex.Credentials
) -> trio_duplex.Connection:
    """Dial a peer that dials us at the same time (TCP simultaneous open, as in hole punching).

    Both ends bind the port that the other one dials. Until both SYNs are on the way at once,
    a dial is refused or times out, and is tried again.
    """
    while True:
        socket = trio.socket.socket()
        try:
            socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
            await socket.bind(local)
            await socket.connect(remote)
        except (ConnectionError, TimeoutError):
            socket.close()
            await trio.sleep(random.uniform(0.05, 0.15))  # in step, both could miss for ever
        except BaseException:
            socket.close()
            raise
        else:
            break
    # Both speak at once; of two ClientHellos that cross, one is dropped by both ends.
    return await trio_duplex.negotiate(
        trio.SocketStream(socket), credentials, dialled=True, window=0
    )


async def relay(listener: trio.SocketListener) -> None:
    """Join every two ends that dial; a relay knows nothing of TLS."""

    async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            async for data in source:
                await sink.send_all(data)
            await sink.send_eof()
        except trio.BrokenResourceError:
            await trio.aclose_forcefully(sink)

    async def join(one: trio.SocketStream, other: trio.SocketStream) -> None:
        async with one, other, trio.open_nursery() as nursery:
            nursery.start_soon(copy, one, other)
            nursery.start_soon(copy, other, one)

    async with trio.open_nursery() as nursery:
        while True:
            nursery.start_soon(join, await listener.accept(), await listener.accept())
