"""Dialling: open the TCP connection ourselves, in either TLS role."""

from __future__ import annotations

import errno
import ipaddress
import math
import ssl

import trio

from trio_duplex._role import Role
from trio_duplex._seconds import check_seconds
from trio_duplex._stream.connection import Connection
from trio_duplex._stream.negotiate import check_announce, negotiate
from trio_duplex._stream.negotiation import Resumption
from trio_duplex._stream.settings import DEFAULT_HANDSHAKE_TIMEOUT, Settings
from trio_duplex._tls.handshake import MAX_CERTIFICATE_BYTES
from trio_duplex._trust.credentials import Credentials, check_credentials


async def open_tcp_connection(
    host: str,
    port: int,
    credentials: Credentials,
    *,
    role: Role | None = Role.CLIENT,
    announce: bool = False,
    handshake_timeout: float = DEFAULT_HANDSHAKE_TIMEOUT,
    https_compatible: bool = False,
    session: ssl.SSLSession | None = None,
    local_host: str | None = None,
    connect_timeout: float = math.inf,
    max_certificate_bytes: int = MAX_CERTIFICATE_BYTES,
) -> Connection:
    """Dial, and take the given TLS role: ``trio.open_tcp_stream``, then `negotiate`.

    As TLS client we speak at once, and send ``host`` as SNI unless it is an IP
    address. As TLS server we stay silent until the listener's detection window
    has passed and its ClientHello comes; or, with ``announce``, we say first that we
    will be the TLS server, and a listener that understands does not wait. TCP keepalive
    is on, as for `negotiate`.

    ``role=None`` is for two ends that dial each other, or meet at a relay, without
    roles arranged beforehand. We speak at once; if the peer does so too, its ClientHello
    crosses ours, and the end whose hello has the larger random stays the TLS client. A
    peer that is silent, or only listens, is served as by ``Role.CLIENT``.

    In TLS 1.3 a client's handshake returns before the server has judged the
    client's certificate: connected is not accepted. If it is refused, the
    first `Connection.receive_some` fails.

    ``host`` is where to dial, and not whom to trust: the credentials' ``peer``
    policy decides on the peer, as everywhere. With ``peer=NamedPeer(host)`` its
    certificate must bear that name.

    Args:
        host: Name or IP address to dial.
        port: TCP port.
        credentials: What we present and whom we trust.
        role: The TLS role that we play; None for either.
        announce: Send an announcement (docs: *The announcement*) before the listener
            speaks; only with ``role=Role.SERVER``. It is off by default, because a
            listener that decides by first bytes and does not know announcements
            takes it for a TLS client that errs.
        handshake_timeout: Seconds from the TCP connection to the end of the
            handshake; as TLS server it must cover the listener's window too.
            To bound the whole, use ``trio.fail_after``.
        https_compatible: Let the peer end the stream without a close_notify,
            as HTTPS peers do, and send none.
        session: A TLS session of ``credentials.client_context`` to resume;
            only as TLS client. With ``role=None`` it is used if we stay client. It is
            not used if the credentials are reloaded while we dial.
        local_host: The IP address of ours to dial from, on a machine that has
            several; None leaves it to the kernel.
        connect_timeout: Seconds for the name's lookup and the TCP connection,
            all addresses of the name together. None of it counts as
            handshake. By default it is the kernel's patience, about two
            minutes for each address.
        max_certificate_bytes: How many bytes of a handshake the peer may send
            after its hello, nearly all of them its certificates.

    Raises:
        OSError: No TCP connection could be made. A ``TimeoutError`` says that
            it was not made within ``connect_timeout``.
        HandshakeError, NotTLSError, PeerClosedError, SelfConnectionError: As
            for `negotiate`. A GlareError with ``role=None`` says that the peer
            spoke too, and could not resolve it.
        TypeError, ValueError: An argument is wrong; nothing was opened.
    """
    role = None if role is None else Role(role)
    check_announce(announce, role)
    Settings(handshake_timeout=handshake_timeout)  # before any socket is opened
    check_seconds("connect_timeout", connect_timeout)
    _check_local_host(local_host)
    check_credentials(credentials)
    if session is not None:
        if role is Role.SERVER:
            raise ValueError("a session is resumed by the TLS client, and role=Role.SERVER is none")
        Resumption.of(session, credentials.material)  # or raises, before any socket is opened
    stream = await _connect(host, port, local_host, connect_timeout)
    if session is not None:
        try:
            Resumption.of(session, credentials.material)
        except ValueError:  # reloaded while we dialled, which must not cost the connection
            session = None
    return await negotiate(
        stream,
        credentials,
        role=role,
        window=0.0,  # of role=None: what has come by now is looked at, and nothing awaited
        dialled=True,
        announce=announce,
        handshake_timeout=handshake_timeout,
        https_compatible=https_compatible,
        session=session,
        max_certificate_bytes=max_certificate_bytes,
        server_hostname=_sni(host),
    )


def _check_local_host(host: object) -> None:
    if host is not None and not isinstance(host, str):
        raise TypeError(f"local_host must be an IP address of ours, or None, not {host!r}")


async def _connect(
    host: str, port: int, local_host: str | None, timeout: float
) -> trio.SocketStream:
    with trio.move_on_after(timeout):
        return await trio.open_tcp_stream(host, port, local_address=local_host)
    raise TimeoutError(
        errno.ETIMEDOUT,
        f"no TCP connection to {host}, port {port}, within {timeout:g} s (connect_timeout)",
    )


def _sni(host: str) -> str | None:
    """The name to send as SNI: RFC 6066 section 3 has no place for IP addresses."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.rstrip(".") or None
    return None
