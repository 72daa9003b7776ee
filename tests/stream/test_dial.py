"""Dialling in either TLS role: `trio_duplex._stream.dial`. What follows the TCP connection is in test_negotiate.py."""

from __future__ import annotations

import errno
import math
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from tests.support.authority import AUTHORITY
from tests.support.peers import (
    NODE,
    TLS12,
    credentials,
    each_role,
    echo,
    open_descriptors,
    peer_context,
    peer_stream,
    pin,
    receive_all,
    receive_exactly,
)
from tests.support.ports import held_port
from trio_duplex import (
    Credentials,
    Decision,
    HandshakeError,
    HandshakeTimeoutError,
    NotTLSError,
    PeerClosedError,
    Reason,
    Role,
    Server,
    open_tcp_connection,
    serve_tcp,
)
from trio_duplex._stream.dial import _sni


@asynccontextmanager
async def a_server(role: Role) -> AsyncIterator[int]:
    """A server of ours that plays this role, on this port of loopback."""
    window = math.inf if role is Role.SERVER else 0
    async with trio.open_nursery() as nursery:
        serve = partial(serve_tcp, host="127.0.0.1", window=window)
        server: Server = await nursery.start(serve, echo, 0, credentials())
        ((_, port),) = cast("list[tuple[str, int]]", server.addresses)
        yield port
        server.cancel_scope.cancel()


@asynccontextmanager
async def a_listener(handler: Any) -> AsyncIterator[int]:
    """Anything that listens on this port of loopback."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@pytest.mark.slow
@each_role
async def test_dial_in_each_role(role: Role) -> None:
    with trio.fail_after(10):
        async with a_server(role.other) as port:
            with trio.testing.assert_checkpoints():
                connection = await open_tcp_connection("127.0.0.1", port, credentials(), role=role)
            async with connection:
                assert connection.decision == Decision(role, Reason.RULE, 0.0, 0.0)
                assert connection.remote_address == ("127.0.0.1", port)
                assert type(connection.transport_stream) is trio.SocketStream
                await connection.send_all(b"hello")
                assert await receive_exactly(connection, 5) == b"hello"


async def test_we_are_the_client_unless_we_say_otherwise() -> None:
    with trio.fail_after(10):
        async with a_server(Role.SERVER) as port:
            connection = await open_tcp_connection("127.0.0.1", port, credentials())
            assert connection.role is Role.CLIENT
            await connection.aclose()


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("node.example", "node.example"),
        ("node.example.", "node.example"),
        ("localhost", "localhost"),
        ("192.0.2.7", None),
        ("2001:db8::1", None),
        ("fe80::1%eth0", None),
        (".", None),
    ],
)
def test_a_name_is_sent_as_sni_and_an_address_is_not(host: str, name: str | None) -> None:
    assert _sni(host) == name


@pytest.mark.parametrize(("host", "sent"), [("localhost", "localhost"), ("127.0.0.1", None)])
async def test_sni_on_the_wire(host: str, sent: str | None) -> None:
    names: list[object] = []
    context = peer_context(Role.SERVER)
    context.sni_callback = lambda tls, name, context: names.append(name)

    async def handler(stream: trio.SocketStream) -> None:
        tls = peer_stream(stream, Role.SERVER, context=context)
        await tls.do_handshake()
        await tls.aclose()

    with trio.fail_after(10):
        async with a_listener(handler) as port:
            async with await open_tcp_connection(host, port, credentials()) as connection:
                await receive_all(connection)
    assert names == [sent]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"handshake_timeout": -1}, ValueError),
        ({"handshake_timeout": math.nan}, ValueError),
        ({"handshake_timeout": True}, TypeError),
        ({"role": "both"}, ValueError),
        ({"announce": True}, ValueError),
        ({"announce": True, "role": None}, ValueError),
        ({"connect_timeout": -1}, ValueError),
        ({"connect_timeout": math.nan}, ValueError),
        ({"connect_timeout": "10"}, TypeError),
        ({"connect_timeout": True}, TypeError),
        ({"credentials": None}, TypeError),
        ({"local_host": 127001}, TypeError),
        ({"local_host": ("127.0.0.1", 0)}, TypeError),
    ],
)
async def test_wrong_arguments_are_refused_before_a_socket_opens(
    wrong: dict[str, Any], error: type[Exception]
) -> None:
    dialled = 0

    async def handler(stream: trio.SocketStream) -> None:
        nonlocal dialled
        dialled += 1

    async with a_listener(handler) as port:
        with pytest.raises(error):
            await open_tcp_connection("127.0.0.1", port, **{"credentials": credentials()} | wrong)
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert dialled == 0


async def test_nobody_listens() -> None:
    with held_port() as port, pytest.raises(OSError):
        await open_tcp_connection("127.0.0.1", port, credentials())


async def speaks_ssh(stream: trio.SocketStream) -> None:
    await stream.send_all(b"SSH-2.0-OpenSSH_9.6\r\n")
    await receive_all(stream)


async def hangs_up(stream: trio.SocketStream) -> None:
    await stream.send_eof()
    await receive_all(stream)


async def says_nothing(stream: trio.SocketStream) -> None:
    await receive_all(stream)


@each_role
@pytest.mark.parametrize(
    ("listener", "errors"),
    [
        (speaks_ssh, {Role.SERVER: NotTLSError, Role.CLIENT: NotTLSError}),
        (hangs_up, {Role.SERVER: PeerClosedError, Role.CLIENT: HandshakeError}),
        (
            says_nothing,
            {Role.SERVER: HandshakeTimeoutError, Role.CLIENT: HandshakeTimeoutError},
        ),
    ],
)
async def test_failures_name_the_peer_and_leave_no_socket_behind(
    listener: Any, errors: dict[Role, type[Any]], role: Role
) -> None:
    before = open_descriptors()
    with trio.fail_after(120):
        async with a_listener(listener) as port:
            with pytest.raises(errors[role]) as failure:
                await open_tcp_connection(
                    *("127.0.0.1", port, credentials()),
                    role=role,
                    handshake_timeout=0.1 if listener is says_nothing else 60,
                )
            assert type(failure.value) is errors[role]
            assert failure.value.peer == f"127.0.0.1:{port}"
            assert failure.value.role is role
    assert open_descriptors() == before


@each_role
async def test_cancelled_it_leaves_no_socket_behind(role: Role) -> None:
    before = open_descriptors()
    async with a_listener(says_nothing) as port:
        with trio.move_on_after(0.05) as scope:
            await open_tcp_connection("127.0.0.1", port, credentials(), role=role)
        assert scope.cancelled_caught
    assert open_descriptors() == before


async def test_https_compatible() -> None:
    async def handler(stream: trio.SocketStream) -> None:
        tls = peer_stream(stream, Role.SERVER, https_compatible=True)
        await tls.send_all(b"all there is")
        await tls.aclose()  # with no close_notify

    with trio.fail_after(10):
        async with a_listener(handler) as port:
            dial = partial(open_tcp_connection, "127.0.0.1", port, credentials())
            async with await dial(https_compatible=True) as connection:
                assert await receive_all(connection) == b"all there is"
            async with await dial() as connection:
                with pytest.raises(trio.BrokenResourceError):
                    await receive_all(connection)


# ---------------------------------------------------------------------------------- sessions, and TCP


async def a_session(mine: Credentials, port: int) -> ssl.SSLSession:
    """A session of TLS 1.2, which comes with the handshake."""
    async with await open_tcp_connection("127.0.0.1", port, mine) as connection:
        session = connection.session
        assert isinstance(session, ssl.SSLSession)
        return session


@pytest.mark.slow
async def test_a_session_is_resumed() -> None:
    mine = credentials(TLS12)
    with trio.fail_after(10):
        async with a_server(Role.SERVER) as port:
            dial = partial(open_tcp_connection, "127.0.0.1", port, mine)
            session = await a_session(mine, port)
            for given in (None, session):
                async with await dial(session=given) as connection:
                    assert connection.session_reused is (given is not None)


@pytest.mark.slow
async def test_a_session_of_others_is_refused_before_a_socket_opens() -> None:
    before = open_descriptors()
    with trio.fail_after(10):
        async with a_server(Role.SERVER) as port:
            mine = credentials(TLS12)
            session = await a_session(mine, port)
            inside = open_descriptors()
            with pytest.raises(ValueError):
                await open_tcp_connection("127.0.0.1", port, credentials(), session=session)
            with pytest.raises(ValueError):
                await open_tcp_connection(
                    "127.0.0.1", port, mine, role=Role.SERVER, session=session
                )
            assert open_descriptors() <= inside
    assert open_descriptors() == before


@pytest.mark.slow
async def test_a_reload_while_we_dial_costs_the_session_and_not_the_connection(
    tmp_path: Path,
) -> None:
    """The session belongs to the context that was replaced; the peer is judged by what is in force."""
    files = tmp_path / "node.pem"
    files.write_bytes(NODE.private_key_and_cert_chain_pem.bytes())
    mine = Credentials.mutual(certificate_chain=files, trust=AUTHORITY, allow_self=True)
    pin(mine.client_context, TLS12)

    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, host: Any, port: Any, *args: Any, **options: Any) -> Any:
            mine.reload()
            address = ("127.0.0.1", port)
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)]

        async def getnameinfo(self, *args: Any) -> Any:
            raise AssertionError

    with trio.fail_after(10):
        async with a_server(Role.SERVER) as port:
            session = await a_session(mine, port)
            trio.socket.set_custom_hostname_resolver(Resolver())
            dial = partial(open_tcp_connection, "node.example", port, mine)
            async with await dial(session=session) as connection:
                assert not connection.session_reused


async def test_certificates_of_too_many_bytes() -> None:
    with trio.fail_after(10):
        async with a_server(Role.SERVER) as port:
            with pytest.raises(HandshakeError, match="max_certificate_bytes"):
                await open_tcp_connection("127.0.0.1", port, credentials(), max_certificate_bytes=9)


@pytest.mark.slow
async def test_where_we_dial_from() -> None:
    with trio.fail_after(10):
        async with a_server(Role.SERVER) as port:
            dial = partial(open_tcp_connection, "127.0.0.1", port, credentials())
            for host in ("127.0.0.1", "127.0.0.2"):
                async with await dial(local_host=host) as connection:
                    assert isinstance(connection.local_address, tuple)
                    assert connection.local_address[0] == host
            with pytest.raises(OSError):
                await dial(local_host="192.0.2.7")


async def test_a_connection_that_is_never_made(autojump_clock: trio.testing.MockClock) -> None:
    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *args: Any, **options: Any) -> Any:
            await trio.sleep_forever()

        async def getnameinfo(self, *args: Any) -> Any:
            raise AssertionError

    trio.socket.set_custom_hostname_resolver(Resolver())
    dial = partial(open_tcp_connection, "node.example", 8443, credentials())
    with pytest.raises(TimeoutError) as caught:
        await dial(connect_timeout=7)
    assert trio.current_time() == 7
    assert caught.value.errno == errno.ETIMEDOUT
    assert "node.example" in str(caught.value)
    with pytest.raises(TimeoutError):
        await dial(connect_timeout=0)
    with trio.move_on_after(5) as scope:  # from outside, it is a cancellation
        await dial(connect_timeout=7)
    assert scope.cancelled_caught
