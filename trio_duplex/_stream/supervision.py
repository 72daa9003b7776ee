"""What a negotiation tells of itself as it goes, and where it lets itself be held up.

`negotiate` alone has nobody to tell. A server that keeps limits subclasses it.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

import trio

from trio_duplex._role import Decision, Role

if TYPE_CHECKING:
    from trio_duplex._errors import DuplexError


class Progress:
    """The stages of one negotiation, in order. This one lets everything pass.

    Attributes:
        shed: Why the connection is to be dropped although nothing is wrong
            with it; raised once the scope given to `sheddable` is cancelled.
    """

    __slots__ = ("shed",)

    def __init__(self) -> None:
        self.shed: DuplexError | None = None

    def sheddable(self, scope: trio.CancelScope) -> None:
        """From now on, cancelling ``scope`` is the way to drop the connection."""

    def readable(self, stream: trio.SocketStream) -> Awaitable[None]:
        """Wait until the peer has sent something; to be awaited at once, like a coroutine."""
        return trio.lowlevel.wait_readable(stream.socket)  # noqa: ASYNC105 - by our caller

    def decided(self, decision: Decision) -> None:
        """The role is decided; no TLS object exists yet."""

    async def take_turn(self, role: Role) -> None:
        """Wait until a handshake in ``role`` may begin: the TLS object comes next."""

    def answered(self) -> None:
        """The peer has answered our ClientHello."""
