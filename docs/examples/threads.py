"""A handler in a thread, for code that blocks; and a silent peer that is nothing but a thread."""

import socket
import ssl

import trio

import trio_duplex


def talk(connection: trio_duplex.Connection) -> None:
    """Blocks, in a thread of Trio's; `trio.from_thread` leads back."""
    question = trio.from_thread.run(connection.receive_some)
    answer = question.upper()  # or what else takes its time
    trio.from_thread.run(connection.send_all, answer)


async def handler(connection: trio_duplex.Connection) -> None:
    await trio.to_thread.run_sync(talk, connection)


def call_home(address: tuple[str, int], context: ssl.SSLContext, question: bytes) -> bytes:
    """Dial and be the TLS server, with the standard library only."""
    with (
        socket.create_connection(address, timeout=40) as sock,
        context.wrap_socket(sock, server_side=True) as tls,
    ):
        tls.sendall(question)
        return tls.recv(4096)
