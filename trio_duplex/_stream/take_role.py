"""From a decided role to a connection: handshake, and decide whether the peer is admitted.

Both are under one absolute deadline: the handshake (`_stream/as_server.py`,
`_stream/as_client.py`), and the policy's verdict on the peer.

The role may still change, once: if the peer's ClientHello crossed ours and has the
larger random, we start over as the server (`_stream/crossing.py`). The decision, the
turn and what the policy learns change with it.
"""

from __future__ import annotations

from typing import assert_never

from trio_duplex._decision.facts import Conduct
from trio_duplex._errors import HandshakeError, HandshakeTimeoutError
from trio_duplex._role import Role
from trio_duplex._sockets.address import local_address
from trio_duplex._sockets.unsent import bound_unsent
from trio_duplex._stream.as_client import as_client
from trio_duplex._stream.as_server import answer_client_hello, as_server
from trio_duplex._stream.connection import Connection
from trio_duplex._stream.crossing import Glare, glare_error, is_abort
from trio_duplex._stream.negotiation import Attempt, Negotiation
from trio_duplex._tls.flow import Flow
from trio_duplex._trust.admission import Material


async def take_role(n: Negotiation) -> Connection:
    """Wait for a turn, complete the handshake, and decide whether the peer is admitted.

    Raises:
        HandshakeTimeoutError: It took longer than ``handshake_timeout``.
        DuplexError: Something else went wrong; see `negotiate`.
    """
    decision, glare = n.decision, None
    timeout = n.settings.handshake_timeout
    phase = "the TLS handshake was not complete"
    with n.supervision.stage(n.detected.began + timeout):
        match decision.role:
            case Role.SERVER:
                attempt = await as_server(n, n.detected.opening)
            case Role.CLIENT:
                attempt, glare = await as_client(n)
                if glare is not None:
                    decision = glare.decision
                    if decision.role is Role.SERVER:
                        attempt = await _start_over_as_server(n, glare)
            case _:
                assert_never(decision.role)
        phase = "the peer policy had not decided"
        await _admit(n, attempt, decision.role, glare)
        if n.settings.unsent_bytes is not None:
            bound_unsent(n.stream, n.settings.unsent_bytes)
        return Connection(
            Flow(n.stream, attempt.handshake.engine, https_compatible=n.settings.https_compatible),
            decision=decision,
            local_address=local_address(n.stream),
            remote_address=n.remote,
            settings=n.settings,
        )
    n.supervision.check()
    raise HandshakeTimeoutError(
        f"{phase} within {timeout:g} s",
        role=decision.role,
        peer=n.peer,
        advice=f"the peer is slow, or no TLS {decision.role.other}; "
        "if slow, raise handshake_timeout",
        timeout=timeout,
    )


async def _start_over_as_server(n: Negotiation, glare: Glare) -> Attempt:
    """Forget our ClientHello, and answer the peer's."""
    try:
        return await answer_client_hello(n, glare.received)
    except HandshakeError as exc:
        if is_abort(exc):
            raise glare_error(n, glare.late_by, exc) from exc
        raise


async def _admit(n: Negotiation, attempt: Attempt, role: Role, glare: Glare | None) -> None:
    """Ask the policy about the peer; admit the peer, or refuse it."""
    handshake = attempt.handshake
    judged_by: Material | None = None
    try:
        # A policy may be replaced while it is being asked. Then the new one is asked, too.
        while (in_force := n.in_force()) is not judged_by:
            await in_force.admit(
                handshake.engine.peer_certificate(),
                handshake.engine.peer_chain,
                role,
                n.remote,
                verified_by=attempt.material,
                resumed=handshake.engine.session_reused,
            )
            judged_by = in_force
        n.supervision.admitted(handshake.engine.peer_certificate())
        if glare is not None:
            n.learn(Conduct.LATE, n.decision.waited + glare.late_by, admitted=True)
        else:
            conduct = Conduct.SPOKE if role is Role.SERVER else Conduct.SILENT
            n.learn(conduct, n.decision.waited, admitted=True)
    except Exception:  # a refusal, or a policy that failed: the peer is not admitted in either case
        await handshake.refuse()
        raise
    await handshake.finish()
