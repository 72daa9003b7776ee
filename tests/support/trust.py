"""What the tests of trust share: credentials of the fleet, and peers that meet our listener."""

from __future__ import annotations

import ssl
from functools import partial
from typing import Any

import attrs
import trio
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.authority import FLEET, Authority, Leaf
from tests.support.contexts import new_context
from tests.support.peers import MemoryListener
from trio_duplex import Connection, Credentials, Role, serve_listeners
from trio_duplex._tls.reasons import tls_alert
from trio_duplex._trust.identity import public_key_info
from trio_duplex._trust.pem import Pem, as_file
from trio_duplex.events import HandshakeCompleted, NegotiationFailed

LISTENER = FLEET.issue("listener.example")


def keys_of(*leaves: Leaf) -> frozenset[bytes]:
    """Their SubjectPublicKeyInfos, as `Material.own_public_keys` has them."""
    return frozenset(public_key_info(leaf.certificate) for leaf in leaves)


def mutual(leaf: Leaf = LISTENER, **options: object) -> Credentials:
    """Credentials of the fleet; by default without threads, for which an autojump clock does not wait."""
    options.setdefault("handshake_threads", False)
    return Credentials.mutual(certificate_chain=leaf, trust=FLEET, **options)  # type: ignore[arg-type]


def context(
    role: Role,
    leaf: Leaf | None,
    *,
    version: ssl.TLSVersion | None = None,
    trust: Authority | None = FLEET,
    kind: type[ssl.SSLContext] = ssl.SSLContext,
) -> ssl.SSLContext:
    """The context of somebody who plays this role, and trusts like us."""
    made = new_context(role, kind)
    if trust is not None:
        made.load_verify_locations(cadata=trust.pem.decode())
    if leaf is not None:
        with as_file(Pem("leaf", leaf.private_key_and_cert_chain_pem.bytes())) as path:
            made.load_cert_chain(path)
    if version is not None:
        made.minimum_version = made.maximum_version = version
    return made


def add_revocation_list(changed: ssl.SSLContext) -> None:
    """Give a context a revocation list of the fleet, which revokes nothing."""
    revocations = FLEET.revocation_list().public_bytes(Encoding.PEM)
    with as_file(Pem("revocation lists", revocations)) as path:
        changed.load_verify_locations(path)


class AskingContext(ssl.SSLContext):
    """Asks for a name by SNI, which ``trio.SSLStream`` is not told here, and remembers its objects."""

    name: str | None = None
    objects: list[ssl.SSLObject]

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        made = super().wrap_bio(*args, **options | {"server_hostname": self.name})
        self.objects.append(made)
        return made


GREETING = b"hello, peer"


@attrs.frozen
class Meeting:
    """What came of a peer that dialled our listener.

    Attributes:
        error: Why it never reached the handler; None if it did.
        handled: The connections that the handler had.
        heard: What the peer heard: `GREETING`, ``b""`` for a clean end, or the
            name of an alert, or ``"broken"``.
    """

    error: Exception | None
    handled: list[Connection]
    heard: bytes | str


async def meet(credentials: Credentials, role: Role, peer: ssl.SSLContext) -> Meeting:
    """Let a peer, in the other role than ``role``, meet a listener of ours in memory."""
    listener = MemoryListener()
    handled: list[Connection] = []
    errors: list[Exception] = []
    ends = 0

    async def handler(connection: Connection) -> None:
        handled.append(connection)
        await connection.send_all(GREETING)

    def observe(event: object) -> None:
        nonlocal ends
        if isinstance(event, NegotiationFailed):
            errors.append(event.error)
        ends += isinstance(event, NegotiationFailed | HandshakeCompleted)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(serve_listeners, handler, [listener], credentials, observers=[observe])
        )
        heard = await hear(listener.connect(), role.other, peer)
        await server.drain(10)
    assert ends == 1
    return Meeting(errors[0] if errors else None, handled, heard)


async def hear(stream: trio.abc.Stream, role: Role, peer: ssl.SSLContext) -> bytes | str:
    """Play a peer to the end of what it can hear."""
    tls = trio.SSLStream(stream, peer, server_side=role is Role.SERVER)
    heard = b""
    try:
        await tls.do_handshake()
        async for data in tls:
            heard += data
    except trio.BrokenResourceError as exc:
        return _alert(exc.__cause__)
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(tls)
    return heard


def _alert(cause: BaseException | None) -> str:
    alert = tls_alert(cause) if isinstance(cause, ssl.SSLError) else None
    return alert or "broken"
