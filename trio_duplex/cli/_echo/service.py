"""``trio-duplex echo``: send back what each peer sends, and log the peers."""

from __future__ import annotations

import attrs

from trio_duplex import Address, Connection
from trio_duplex.cli._options import format_host_port
from trio_duplex.cli._service.configuration import Kind
from trio_duplex.cli._service.facts import Facts
from trio_duplex.cli._service.logs import log
from trio_duplex.cli._service.service import Context, Service
from trio_duplex.cli._service.settings import ServiceSettings


@attrs.frozen(kw_only=True)
class EchoSettings(ServiceSettings):
    """What the echo is told: nothing of its own."""


class Echo(Service[EchoSettings]):
    """Send back what each peer sends, in whichever role it leaves us.

    The log on stderr has a line for each address that it listens on, for each
    peer that is admitted (our role, the reason, who the peer is), and for each
    that is refused (why, and what to do).
    """

    async def handle(self, context: Context, connection: Connection) -> None:
        """Log the peer, and send back what it sends."""
        facts = Facts.of(connection)
        log.info(
            "connected",
            number=context.number(connection),
            peer=_peer(facts.remote_address),
            identity=facts.identity or "anonymous",
            role=facts.role,
            reason=facts.reason,
            waited=f"{facts.waited:.3f}",
            version=facts.version,
            cipher=facts.cipher,
        )
        async for chunk in connection:
            await connection.send_all(chunk)


def _peer(address: Address | None) -> str:
    if address is None or isinstance(address, str):
        return address or "unknown"
    return format_host_port(*address[:2])


ECHO = Kind("echo", EchoSettings, Echo)
