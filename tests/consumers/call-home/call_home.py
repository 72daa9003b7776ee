"""A manager for devices that call home: each says its serial number, and is asked for its state.

Devices behind a firewall dial the manager. Newer ones are TLS clients, older ones kept the TLS
server that they had when managers still dialled them: either is served, on one port.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import attrs
import trio

import trio_duplex

PATIENCE = 10.0  # seconds that a device has for each line
LONGEST_LINE = 200


class ProtocolError(Exception):
    """The device says what no device says."""


@attrs.define
class Inventory:
    """What the devices have told, by serial number."""

    states: dict[str, str] = attrs.field(factory=dict)
    roles: dict[str, trio_duplex.Role] = attrs.field(factory=dict)
    refused: int = 0

    async def handle(self, connection: trio_duplex.Connection) -> None:
        """Talk to one device."""
        lines = read_lines(connection)
        try:
            serial = await ask(connection, lines, "SERIAL")
            self.states[serial] = await ask(connection, lines, "STATE")
        except (ProtocolError, trio.TooSlowError):
            self.refused += 1
            await connection.send_all(b"GOODBYE\n")
        else:
            self.roles[serial] = connection.role
            await connection.send_all(b"THANKS\n")
        finally:
            await lines.aclose()


async def ask(stream: trio.abc.Stream, lines: AsyncIterator[str], what: str) -> str:
    """Ask for something, and return the answer."""
    await stream.send_all(f"{what}?\n".encode())
    with trio.fail_after(PATIENCE):
        async for line in lines:
            key, equals, value = line.partition("=")
            if key != what or not equals:
                raise ProtocolError(line)
            return value
    raise ProtocolError("the device hung up")


async def read_lines(stream: trio.abc.ReceiveStream) -> AsyncGenerator[str, None]:
    """The lines that come, without their ends."""
    buffer = b""
    async for chunk in stream:
        buffer += chunk
        while b"\n" in buffer:
            line, _, buffer = buffer.partition(b"\n")
            yield line.decode()
        if len(buffer) > LONGEST_LINE:
            raise ProtocolError("a line without end")
