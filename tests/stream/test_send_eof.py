"""Half-close: our end is told, and what the peer still sends is received; Trio's contract is in test_connection."""

from __future__ import annotations

import ssl

import pytest
import trio
import trio.testing

from tests.support.peers import (
    connection_pair,
    credentials,
    each_role,
    each_version,
    receive_all,
    reset,
    tcp_pair,
)
from trio_duplex import Connection, Role

pytestmark = pytest.mark.slow


Pair = tuple[Connection, Connection]


async def by_role(role: Role, version: ssl.TLSVersion, **options: object) -> Pair:
    """Ours in this role, and the other end."""
    server, client = await connection_pair(version, **options)  # type: ignore[arg-type]
    return (server, client) if role is Role.SERVER else (client, server)


@each_role
@each_version
@pytest.mark.parametrize("most", [1, 10_000, 20_000, None])
async def test_what_had_come_is_not_lost(
    role: Role, version: ssl.TLSVersion, most: int | None, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = await by_role(role, version)
    sent = bytes(range(256)) * 200  # several records
    await theirs.send_all(sent)
    received = bytes(await ours.receive_some(most))  # part of a record, or more than one
    await ours.send_eof()
    assert await theirs.receive_some() == b""
    await theirs.send_all(b"and more")
    await theirs.aclose()
    while chunk := await ours.receive_some(most):
        received += chunk
        if most is not None:
            assert len(chunk) <= most
            most = max(most, 5_000)  # one byte at a time is seen by now
    assert received == sent + b"and more"
    assert await ours.receive_some() == b""  # and so it stays
    await ours.aclose()


@each_role
@each_version
async def test_a_reader_goes_on_reading(
    role: Role, version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = await by_role(role, version)
    async with ours, trio.open_nursery() as nursery:

        async def read() -> None:
            assert await receive_all(ours) == b"answer"

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await ours.send_all(b"question")
        await ours.send_eof()
        assert await receive_all(theirs) == b"question"
        await theirs.send_all(b"answer")
        await theirs.aclose()


@each_version
async def test_session_tickets_go_first(
    version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    server, client = await connection_pair(version, server=credentials(version, session_tickets=2))
    async with server, client:
        await server.send_eof()
        assert await client.receive_some() == b""
        await client.send_all(b"x")
        assert await server.receive_some() == b"x"


@each_role
@each_version
async def test_over_tcp(role: Role, version: ssl.TLSVersion) -> None:
    ours, theirs = await by_role(role, version, streams=await tcp_pair())
    with trio.fail_after(30):
        async with ours, trio.open_nursery() as nursery:

            async def answer() -> None:
                data = await receive_all(theirs)
                await theirs.send_all(data[::-1])
                await theirs.aclose()

            nursery.start_soon(answer)
            question = bytes(range(256)) * 4000
            await ours.send_all(question)
            await ours.send_eof()
            assert await receive_all(ours) == question[::-1]


@each_version
async def test_close_with_unread_data(
    version: ssl.TLSVersion, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = await connection_pair(version)
    await theirs.send_all(b"nobody reads this")
    await ours.receive_some(1)
    await ours.send_eof()
    await ours.aclose()
    assert await theirs.receive_some() == b""
    await theirs.aclose()


@each_version
async def test_on_a_broken_connection(version: ssl.TLSVersion) -> None:
    streams = await tcp_pair()
    ours, theirs = await connection_pair(version, streams=streams)
    async with ours:
        reset(streams[1])
        with pytest.raises(trio.BrokenResourceError):
            await ours.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_eof()
    await trio.aclose_forcefully(theirs)
