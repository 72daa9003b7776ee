"""The public API, used as a user would: for the type checkers alone, never run.

mypy and pyright check it strictly, and mypy once more where trio-typing is installed
(`nox -s typing_compat`), so it names nothing of trio that only one of the two describes.
"""

from __future__ import annotations

import math
import ssl
from typing import assert_never, assert_type

import trio

import trio_duplex
from trio_duplex import Reason, Role


async def over_any_stream(stream: trio.abc.Stream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


async def over_a_connection(connection: trio_duplex.Connection) -> int:
    match connection.role:
        case Role.SERVER:
            await connection.send_all(b"220 ready\r\n")
        case Role.CLIENT:
            await connection.receive_some(4096)
        case _ as role:
            assert_never(role)
    connection.cancel_scope.deadline = math.inf
    assert_type(connection.decision.reason, Reason)
    assert_type(connection.decision.waited, float)
    assert_type(connection.transport_stream, trio.abc.Stream)
    assert isinstance(
        connection.tls, trio.SSLStream
    )  # whose type arguments trio-typing does not know
    assert_type(connection.tls_version, str)
    assert_type(connection.cipher, str)
    assert_type(connection.selected_alpn_protocol, str | None)
    assert_type(connection.server_hostname, str | None)
    assert_type(connection.session, ssl.SSLSession | None)
    assert_type(connection.session_reused, bool)
    assert_type(connection.peer_certificate, bytes | None)
    assert_type(connection.get_channel_binding(), bytes | None)
    assert_type(connection.bytes_sent, int)
    return 1  # whatever a handler returns is nobody's business


class Service:
    async def __call__(self, connection: trio_duplex.Connection) -> None:
        await over_any_stream(connection)


def credentials(context: ssl.SSLContext) -> trio_duplex.Credentials:
    trio_duplex.Credentials(server_context=context, client_context=context)
    return trio_duplex.Credentials.mutual(
        certificate_chain="node.pem", private_key=b"-----BEGIN ...", trust="fleet-ca.pem"
    )


def only_backups(identity: trio_duplex.PeerIdentity, role: Role, where: object) -> None:
    if "backup.example" not in identity.dns_names:
        raise trio_duplex.PeerRejectedError("no backup")


async def only_the_known(
    identity: trio_duplex.PeerIdentity,
    role: Role,
    where: tuple[str, int] | tuple[str, int, int, int] | str | None,
) -> bool:
    await trio.sleep(0)
    return identity.certificate_sha256 == "0" * 64 and role is Role.SERVER


class Told:
    def __call__(self, identity: trio_duplex.PeerIdentity, role: Role, where: object, /) -> None:
        assert_type(identity.names, tuple[str, ...])


def trust(context: ssl.SSLContext) -> trio_duplex.Credentials:
    policies: list[trio_duplex.PeerPolicy] = [
        trio_duplex.AnyTrustedPeer(),
        trio_duplex.NamedPeer("a.example", "spiffe://fleet.example/a"),
        trio_duplex.PinnedPeer("sha256:" + "0" * 64),
        trio_duplex.NamedByAddress({"10.0.0.0/8": "a.example", "192.0.2.7": ["b.example"]}),
        trio_duplex.NamedByAddress(lambda where: None if where is None else "a.example"),
        trio_duplex.RolesAllowed({"a.example": Role.CLIENT, "b.example": Role}),
        only_backups,
        only_the_known,
        Told(),
    ]
    either = trio_duplex.AnyOf(*policies)
    trio_duplex.Credentials(
        server_context=context,
        client_context=context,
        peer=trio_duplex.AllOf(either, only_backups),
        allow_asymmetric=True,
        allow_self=True,
        own_certificate="node.pem",
        alpn=["a"],
        alpn_required=False,
    )
    return trio_duplex.Credentials.mutual(
        certificate_chain="node.pem",
        private_key="node.key",
        trust="fleet-ca.pem",
        peer=only_the_known,
        alpn={Role.SERVER: ["a"], Role.CLIENT: ["b"]},
        alpn_required=True,
        certificates_by_name={"b.example": ("b.pem", "b.key")},
        keylog=None,
        session_tickets=2,
    )


def rotate(server: trio_duplex.Server, mine: trio_duplex.Credentials) -> None:
    try:
        mine.reload()
    except trio_duplex.CredentialsError as exc:
        assert_type(exc.defects, tuple[str, ...])
        return
    server.replace_credentials(mine)
    for check in trio_duplex.certificates.check_certificate(
        certificate_chain="node.pem", trust=b"PEM"
    ):
        if check.grade is trio_duplex.certificates.Grade.DEFECT:
            assert_type(check.role, Role | None)


async def late_verdict(connection: trio_duplex.Connection) -> str:
    try:
        await connection.receive_some()
    except trio_duplex.CertificateRejectedError as exc:
        broken: trio.BrokenResourceError = exc
        rejected: trio_duplex.PeerRejectedError = exc
        return f"{broken} {rejected} {exc.alert}"
    assert_type(connection.is_anonymous, bool)
    if connection.is_anonymous:
        return "anybody"
    assert_type(connection.peer, trio_duplex.PeerIdentity)
    return connection.peer.spiffe_id or str(connection.peer)


async def serve(mine: trio_duplex.Credentials) -> None:
    handlers: list[trio_duplex.Handler] = [
        over_any_stream,
        over_a_connection,
        Service(),
        trio_duplex.by_role(server=over_any_stream, client=over_a_connection),
    ]
    async with trio.open_nursery() as nursery:
        for handler in handlers:
            await trio_duplex.serve_tcp(handler, 8443, mine, host="::1", window=math.inf)
        listeners = await trio.open_tcp_listeners(0)
        await trio_duplex.serve_listeners(over_any_stream, listeners, mine, window=0)

        server: trio_duplex.Server = await nursery.start(
            trio_duplex.serve_tcp, over_a_connection, 8443, mine
        )
        print(server.addresses)
        result = await server.drain(timeout=10)
        assert_type(result.finished, int)
        assert_type(result.cancelled, int)
        server.cancel_scope.cancel()


async def with_trio_itself(mine: trio_duplex.Credentials) -> None:
    (listener,) = await trio.open_tcp_listeners(0)
    duplex = trio_duplex.DuplexListener(listener, mine, window=1.5)
    async with duplex:
        assert_type(await duplex.accept(), trio_duplex.Connection)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, over_any_stream, [duplex])
        nursery.start_soon(trio.serve_listeners, over_a_connection, [duplex])
    await trio.serve_listeners(over_a_connection, [duplex])


async def negotiate(stream: trio.SocketStream, mine: trio_duplex.Credentials) -> None:
    try:
        connection = await trio_duplex.negotiate(stream, mine, handshake_timeout=10)
    except trio_duplex.GlareError as exc:
        error: trio_duplex.HandshakeError = exc
        print(error)
    except trio_duplex.PeerClosedError:
        return
    except trio_duplex.DuplexError as exc:
        print(exc)
    else:
        async with connection:
            await over_any_stream(connection)


async def dial(mine: trio_duplex.Credentials) -> None:
    async with await trio_duplex.open_tcp_connection(
        "node.example", 8443, mine, role=Role.SERVER
    ) as connection:
        assert_type(connection, trio_duplex.Connection)


async def everything_there_is_to_set(
    mine: trio_duplex.Credentials,
    session: ssl.SSLSession,
    stream: trio.abc.Stream,
    listeners: list[trio.SocketListener],
) -> None:
    async with trio.open_nursery() as nursery:
        await trio_duplex.serve_listeners(
            over_any_stream,
            listeners,
            mine,
            window=1,
            handshake_timeout=10,
            https_compatible=True,
            raise_handler_errors=True,
            handler_nursery=nursery,
        )
        await trio_duplex.serve_tcp(
            over_any_stream,
            8443,
            mine,
            host=None,
            backlog=100,
            window=1.5,
            handshake_timeout=math.inf,
            https_compatible=False,
            session=lambda address: None if address is None else session,
            raise_handler_errors=False,
            handler_nursery=None,
        )
        duplex = trio_duplex.DuplexListener(
            listeners[0], mine, handshake_timeout=10, https_compatible=True, nursery=nursery
        )
        await duplex.aclose()
    connection = await trio_duplex.negotiate(
        stream,
        mine,
        window=0,
        handshake_timeout=10,
        https_compatible=True,
        session=session,
        remote_address=("192.0.2.7", 4711),
    )
    assert_type(await connection.receive_some(), bytes | bytearray)
    await connection.send_all(memoryview(b"x"))
    await connection.wait_send_all_might_not_block()
    await trio_duplex.open_tcp_connection(
        "node.example",
        8443,
        mine,
        handshake_timeout=10,
        https_compatible=True,
        session=session,
        local_host="192.0.2.7",
        connect_timeout=10,
    )


async def stop(server: trio_duplex.Server) -> None:
    listener = server.listeners[0]
    server.listener_scope(listener).cancel()
    result = await server.drain(1, listener=listener)
    assert_type(result, trio_duplex.DrainResult)
    for address in server.addresses:
        match address:
            case str():
                print("a Unix socket at", address)
            case (host, port):
                assert_type(host, str)
                print("port", port)
            case _:
                assert_never(address)


def facts(error: trio_duplex.DuplexError) -> str:
    assert_type(error.role, Role | None)
    assert_type(error.advice, str | None)
    match error:
        case trio_duplex.GlareError(missed_by=seconds):
            return f"{seconds} of {error.window}"
        case trio_duplex.HandshakeTimeoutError(timeout=seconds):
            return f"{seconds}"
        case trio_duplex.NotTLSError():
            return error.received.hex()
        case trio_duplex.PeerClosedError():
            return f"{error.received} {error.reset}"
        case trio_duplex.SelfConnectionError() | trio_duplex.PeerRejectedError():
            return error.summary
        case _:
            return error.peer or error.seen or error.tls_reason or str(error)


def look(prefix: bytes) -> str:
    opening = trio_duplex.openings.classify(prefix)
    assert_type(opening, trio_duplex.openings.Opening)
    assert_type(opening.kind, trio_duplex.openings.OpeningKind)
    return opening.kind.name
