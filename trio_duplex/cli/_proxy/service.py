"""``trio-duplex proxy``: negotiate with the peer, and forward plaintext to a backend."""

from __future__ import annotations

import trio

from trio_duplex import Connection, Role
from trio_duplex.cli._proxy.backend import BackendDownError, connect
from trio_duplex.cli._proxy.forward import BackendBrokenError, forward
from trio_duplex.cli._proxy.header import TLSFacts, encode_v1, encode_v2
from trio_duplex.cli._proxy.plain import PlainSocket
from trio_duplex.cli._proxy.settings import ProxySettings
from trio_duplex.cli._service.addresses import BackendAddress
from trio_duplex.cli._service.configuration import Kind
from trio_duplex.cli._service.exits import Exit, ServiceError
from trio_duplex.cli._service.facts import Facts
from trio_duplex.cli._service.logs import log
from trio_duplex.cli._service.service import Context, Service


class Proxy(Service[ProxySettings]):
    """Take TLS off in whichever role the peer leaves us, and forward plaintext to a backend."""

    descriptors = 2

    def __init__(self, settings: ProxySettings) -> None:
        super().__init__(settings)
        for role, option in ((Role.SERVER, "--to-server"), (Role.CLIENT, "--to-client")):
            if not self.backends(role):
                raise ServiceError(
                    f"{settings.name}: no backend for connections on which we are the TLS {role}: "
                    f"give --to ADDR or {option} ADDR",
                    Exit.USAGE,
                )

    def backends(self, role: Role) -> tuple[BackendAddress, ...]:
        """Where connections go on which we play this role."""
        own = self.settings.to_server if role is Role.SERVER else self.settings.to_client
        return own or self.settings.to

    async def handle(self, context: Context, connection: Connection) -> None:
        """Forward one connection."""
        try:
            connected = await connect(
                self.backends(connection.role), timeout=self.settings.connect_timeout
            )
        except BackendDownError as exc:
            log.error(
                "backend-down",
                number=context.number(connection),
                why=exc,
                advice="the peer was sent a clean close; the next connection tries again",
            )
            return
        with PlainSocket(connected) as backend:
            try:
                await self._forward(connection, backend)
            except BackendBrokenError as exc:
                log.warning("backend-broken", number=context.number(connection), why=exc)
                # Half an answer must not look like a whole one.
                await trio.aclose_forcefully(connection)

    async def _forward(self, connection: Connection, backend: PlainSocket) -> None:
        if self.settings.send_proxy is not None:
            header = proxy_header(self.settings.send_proxy, connection)
            try:
                await backend.send_all(header)
            except trio.BrokenResourceError as exc:
                raise BackendBrokenError(exc.__cause__ or exc) from exc
        await forward(connection, backend, patience=self.settings.half_close_timeout)


def proxy_header(version: str, connection: Connection) -> bytes:
    """The header of the PROXY protocol that tells a backend about a connection."""
    source, destination = connection.remote_address, connection.local_address
    if version == "v1":
        return encode_v1(source, destination)
    facts = Facts.of(connection)
    return encode_v2(
        source,
        destination,
        TLSFacts(
            role=facts.role,
            reason=facts.reason,
            version=facts.version,
            cipher=facts.cipher,
            verified=facts.identity is not None,
            resumed=facts.resumed,
            common_name=facts.common_name,
            alpn=facts.alpn,
            authority=facts.server_name,
        ),
    )


PROXY = Kind("proxy", ProxySettings, Proxy)
