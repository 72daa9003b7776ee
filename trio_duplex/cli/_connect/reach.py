"""Reach the peer: dial it, trying again for a while, or accept one connection; then negotiate."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Sequence

import trio

from trio_duplex import Connection, Credentials, Role, negotiate, open_tcp_connection
from trio_duplex.cli._connect.settings import LISTENING_WINDOW, ConnectSettings
from trio_duplex.cli._proxy.backend import unreachable_reason
from trio_duplex.cli._service.addresses import ListenAddress, TcpAddress
from trio_duplex.cli._service.exits import Exit, ServiceError
from trio_duplex.cli._service.listeners import (
    ListenerPool,
    StreamListener,
    sockets_addresses,
)
from trio_duplex.cli._service.window import window_policy

RETRY = 0.1
"""Seconds between two attempts to dial somebody who does not listen yet."""

Tell = Callable[[str], None]


async def reach(settings: ConnectSettings, credentials: Credentials, tell: Tell) -> Connection:
    """Dial or accept, as the settings say.

    Args:
        settings: Where, and in which role.
        credentials: What we present and whom we trust.
        tell: Told where we listen.

    Raises:
        DuplexError: There was a TCP connection, but the negotiation failed.
        ServiceError: There is no TCP connection; with exit code 4.
    """
    if settings.listen is not None:
        stream = await _accept(settings.listen, settings.wait, tell)
        return await _negotiate(stream, settings, credentials)
    (address,) = settings.target
    return await _dial(address, settings, credentials)


async def _dial(
    address: TcpAddress, settings: ConnectSettings, credentials: Credentials
) -> Connection:
    deadline = trio.current_time() + settings.wait
    while True:
        try:
            if settings.window is not None:
                with trio.fail_after(settings.connect_timeout):
                    stream = await trio.open_tcp_stream(address.host, address.port)
                return await _negotiate(stream, settings, credentials, dialled=address.host)
            connection = await open_tcp_connection(
                address.host,
                address.port,
                credentials,
                role=settings.role,
                announce=settings.announce,
                connect_timeout=settings.connect_timeout,
                handshake_timeout=settings.handshake_timeout,
            )
        except (OSError, trio.TooSlowError) as exc:
            if trio.current_time() >= deadline:
                raise ServiceError(_unreachable(address, exc, settings), Exit.ADDRESS) from exc
        else:
            return connection
        await trio.sleep(RETRY)


def _unreachable(
    address: TcpAddress, exc: OSError | trio.TooSlowError, settings: ConnectSettings
) -> str:
    if isinstance(exc, trio.TooSlowError):
        why = f"no TCP connection within {settings.connect_timeout:g} s (--connect-timeout)"
    else:
        why = unreachable_reason(exc)
    waited = f" for {settings.wait:g} s (--wait)" if settings.wait else ""
    advice = "" if settings.wait else "; --wait SECONDS tries again for a while"
    return f"can't connect to {address}{waited}: {why}{advice}"


async def _accept(address: ListenAddress, patience: float, tell: Tell) -> trio.SocketStream:
    """Accept one connection, and close the listeners."""
    pool = ListenerPool()
    await pool.open([address])
    try:
        for shown in sockets_addresses(pool.sockets(address)):
            tell(f"listening on {shown}")
        with trio.fail_after(patience or math.inf):
            return await _first(pool.listeners(address))
    except trio.TooSlowError as exc:
        raise ServiceError(
            f"nobody connected to {address} within {patience:g} s (--wait)", Exit.ADDRESS
        ) from exc
    finally:
        pool.close()


async def _first(listeners: Sequence[StreamListener]) -> trio.SocketStream:
    """The first stream that any of them accepts; all are closed then."""
    accepted: list[trio.SocketStream] = []

    async def accept(listener: StreamListener, scope: trio.CancelScope) -> None:
        async with listener:
            accepted.append(await listener.accept())
            scope.cancel()

    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(accept, listener, nursery.cancel_scope)
    stream, *others = accepted
    for other in others:  # at the very same moment
        await trio.aclose_forcefully(other)
    return stream


async def _negotiate(
    stream: trio.SocketStream,
    settings: ConnectSettings,
    credentials: Credentials,
    *,
    dialled: str | None = None,
) -> Connection:
    """Negotiate; ``dialled`` is the name or IP address that we dialled, if we did."""
    window = LISTENING_WINDOW if settings.window is None else settings.window
    return await negotiate(
        stream,
        credentials,
        role=accepted_role(settings),
        window=window_policy(window),
        handshake_timeout=settings.handshake_timeout,
        dialled=dialled is not None,
        server_hostname=None if dialled is None else _server_name(dialled),
    )


def _server_name(host: str) -> str | None:
    """The name to ask for by SNI, which has no place for IP addresses (RFC 6066, section 3)."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.rstrip(".") or None
    return None


def accepted_role(settings: ConnectSettings) -> Role | None:
    """Return the role that the settings fix; a listener by default leaves it to the peer."""
    if settings.listen is not None and "role" not in settings.origins:
        return None
    return settings.role
