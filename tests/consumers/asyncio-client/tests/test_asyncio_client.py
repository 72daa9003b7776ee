from __future__ import annotations

import asyncio
import ssl

import asyncio_client
import pytest
import trio

from trio_duplex import Role
from trio_duplex.testing import Flaw, thread_server


async def shout(connection):
    async for chunk in connection:
        await connection.send_all(chunk.upper())


async def say_nothing(connection):
    await trio.sleep_forever()


def ask(server, context: ssl.SSLContext, question: bytes = b"hello") -> bytes:
    return asyncio.run(asyncio_client.ask(*server.address, question, context=context))


@pytest.fixture
def context(duplex_certificate) -> ssl.SSLContext:
    context = duplex_certificate.context(Role.CLIENT)
    context.check_hostname = True
    return context


def test_answer(duplex_thread_server, context):
    assert ask(duplex_thread_server(shout), context) == b"HELLO"


def test_many_at_once(duplex_thread_server, context):
    server = duplex_thread_server(shout)

    async def main():
        questions = [f"question {number}".encode() for number in range(20)]
        answers = await asyncio.gather(
            *(asyncio_client.ask(*server.address, each, context=context) for each in questions)
        )
        assert answers == [each.upper() for each in questions]

    asyncio.run(main())


def test_silence_is_a_timeout(duplex_thread_server, context):
    server = duplex_thread_server(say_nothing, drain_timeout=0)
    with pytest.raises(TimeoutError):
        ask(server, context)


def test_plain_context_manager(context, duplex_credentials):
    with thread_server(shout, duplex_credentials) as server:
        assert ask(server, context) == b"HELLO"


def test_a_server_of_another_name_is_refused(duplex_thread_server, duplex_authority, context):
    server = duplex_thread_server(shout, duplex_authority.credentials("elsewhere.example"))
    with pytest.raises(asyncio_client.RefusedError, match="CERTIFICATE_VERIFY_FAILED"):
        ask(server, context)


@pytest.mark.parametrize("flaw", [Flaw.EXPIRED, Flaw.WRONG_AUTHORITY, Flaw.SERVER_ONLY])
def test_our_own_certificate_is_refused(flaw, duplex_thread_server, duplex_authority):
    # In TLS 1.3 the handshake is complete by then: the first read tells.
    context = duplex_authority.flawed(flaw).context(Role.CLIENT)
    with pytest.raises(asyncio_client.RefusedError):
        ask(duplex_thread_server(shout), context)
