"""The hub: local clients on one side, agents that dialled in on the other, joined in pairs.

There is no protocol of ours between the two: an agent is a TLS server that dialled,
and it sends and receives only the client's bytes. This is possible because

- a spare is known to be alive because we read from it, and gone when TLS or TCP
  ends it;
- an agent knows that its spare is taken when the first bytes come, and
  therefore a client is given one only when it has spoken (unless told that the
  backend speaks first);
- the hub retires spares, before a NAT forgets them, and not the agent: only the
  hub knows whether a client has just been given the one that is to go.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import trio

from trio_duplex import Connection
from trio_duplex.cli._rendezvous.pair import (
    PIECE,
    BrokenEndError,
    End,
    Pair,
    first_error,
)
from trio_duplex.cli._rendezvous.settings import HubSettings
from trio_duplex.cli._rendezvous.spare import Client, Spare
from trio_duplex.cli._rendezvous.waiting import WaitingRoom
from trio_duplex.cli._service.addresses import ListenAddress
from trio_duplex.cli._service.configuration import Kind
from trio_duplex.cli._service.exits import Exit, ServiceError
from trio_duplex.cli._service.logs import log
from trio_duplex.cli._service.reset import reset_on_close, wait_delivered
from trio_duplex.cli._service.service import Context, Service


class Hub(Service[HubSettings]):
    """Join local clients with agents that dialled in.

    An agent is a TLS server that dialled us and waits. Each local client is
    given one of the connections that wait; agents take turns.
    """

    why_one_process = "a client must find the agents' connections that wait in its own process"

    def __init__(self, settings: HubSettings) -> None:
        super().__init__(settings)
        if not settings.listen_agents:
            raise ServiceError(f"{settings.name}: --listen-agents ADDR is missing", Exit.USAGE)
        if both := {*settings.listen} & {*settings.listen_agents}:
            raise ServiceError(
                f"{settings.name}: {both.pop()} is given for clients and for agents: take two addresses",
                Exit.USAGE,
            )
        self._room: WaitingRoom[Spare, Client] = WaitingRoom()

    def addresses(self) -> Sequence[ListenAddress]:
        """Where clients and agents come."""
        return (*self.settings.listen, *self.settings.listen_agents)

    async def run(
        self, context: Context, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve both sides until drained."""

        async def agent(connection: Connection) -> None:
            await self.handle(context, connection)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._dismiss_when_stopping, context)
            async with trio.open_nursery() as listening:
                await listening.start(context.serve, agent, self.settings.listen_agents)
                await listening.start(context.serve_plain, self._serve_client, self.settings.listen)
                task_status.started()
            nursery.cancel_scope.cancel()

    # ------------------------------------------------------------------------------------- agents

    async def handle(self, context: Context, connection: Connection) -> None:
        """Have an agent's connection wait, and then serve its client."""
        spare = Spare(connection, agent_name(connection))
        facts: dict[str, object] = {
            "number": context.number(connection),
            "agent": spare.agent,
        }
        if context.stopping.is_set():
            return
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(spare.watch)
                if (client := self._room.offer(spare)) is not None:
                    spare.pair(client)
                log.debug("agent-waits", **facts)
                # Jitter, so that spares that were dialled together are not renewed together.
                with trio.move_on_after(self.settings.renew_after * random.uniform(0.8, 1.0)):  # noqa: S311
                    await spare.settled.wait()
                self._room.withdraw(spare)
                if spare.client is not None:
                    await self._join(spare, spare.client, facts)
                elif spare.ended is None:
                    log.debug("agent-renewed", **facts)
                else:
                    log.info("agent-left", **facts, why=spare.ended)
                nursery.cancel_scope.cancel()
        finally:
            self._room.withdraw(spare)
            if spare.client is not None:
                spare.client.done.set()

    async def _dismiss_when_stopping(self, context: Context) -> None:
        """Let spares go at once when the hub drains: nobody will come for them."""
        await context.stopping.wait()
        for spare in self._room.spares:
            self._room.withdraw(spare)
            spare.settled.set()

    # ------------------------------------------------------------------------------------ clients

    async def _serve_client(self, stream: trio.SocketStream) -> None:
        client = Client(stream)
        if not self.settings.backend_speaks_first:
            try:
                with trio.move_on_after(self.settings.client_patience):
                    client.first = bytes(await stream.receive_some(PIECE))
            except trio.BrokenResourceError:
                return
            if not client.first:
                return
        if (spare := self._room.join(client)) is not None:
            spare.pair(client)
        try:
            with trio.move_on_after(self.settings.wait):
                await client.paired.wait()
            if client.paired.is_set():
                await client.done.wait()
            else:
                log.warning(
                    "no-agent",
                    waited=f"{self.settings.wait:g}",
                    in_line=self._room.in_line,
                    advice="look whether agents run and are admitted; give them more --spare",
                )
        finally:
            self._room.leave(client)

    async def _join(self, spare: Spare, client: Client, facts: dict[str, object]) -> None:
        """Forward between the two until both have ended, or one breaks."""
        log.debug("paired", **facts)
        pair = Pair(
            End.of("client", client.stream), End("agent", spare.receive, spare.connection.send_all)
        )
        whole = False
        try:
            await pair.forward(client.first)
            whole = True
        except* BrokenEndError as group:
            broken = first_error(group)
            log.info(
                "pair-broken",
                **facts,
                by=broken.end,
                why=broken.why,
                sent=pair.sent,
                received=pair.received,
            )
            await wait_delivered(client.stream)
            # By force, here and below: half of anything must not look like the whole to the other.
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(spare.connection)
        finally:
            if not whole:
                reset_on_close(client.stream)


def agent_name(connection: Connection) -> str:
    """By what an agent is known: the first name in its certificate, or else its fingerprint."""
    identity = connection.peer
    assert identity is not None  # the peer policy of a hub admits nobody anonymous
    return identity.names[0] if identity.names else f"sha256:{identity.certificate_sha256[:16]}"


HUB = Kind("hub", HubSettings, Hub)
