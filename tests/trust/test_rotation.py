"""New certificates while connections come and go: real sockets, real files."""

from __future__ import annotations

import math
import random
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.support.authority import FLEET, SERVER_AUTH, STRANGERS, Authority, Leaf
from tests.support.peers import MemoryListener, RawPeer, RecordingStream, memory_pair
from tests.support.trust import LISTENER, add_revocation_list, context, hear, keys_of, mutual
from trio_duplex import (
    Connection,
    Credentials,
    CredentialsError,
    NamedPeer,
    PeerIdentity,
    PeerPolicy,
    PeerRejectedError,
    Role,
    Server,
    negotiate,
    open_tcp_connection,
    serve_listeners,
    serve_tcp,
)
from trio_duplex.windows import ByNetwork

pytestmark = pytest.mark.slow

PEER = FLEET.issue("peer.example")


class Files:
    """Certificate, key and trust roots in files, to be replaced."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key, self.trust = (
            folder / name for name in ("node.pem", "node.key", "fleet.pem")
        )
        self.write(FLEET.issue("node.example"))
        self.trust.write_bytes(FLEET.pem)

    def write(self, leaf: Leaf) -> None:
        self.certificate.write_bytes(leaf.chain_pem)
        self.key.write_bytes(leaf.key_pem)

    def credentials(self) -> Credentials:
        return Credentials.mutual(
            certificate_chain=self.certificate, private_key=self.key, trust=self.trust
        )


HOSTS = {Role.CLIENT: "127.0.0.1", Role.SERVER: "127.0.0.2"}
"""Where peers dial from, by their role."""

by_host = ByNetwork({HOSTS[Role.SERVER]: 0.1}, otherwise=math.inf)
"""Detection windows: a speaking peer has all the time that it needs on a busy machine."""


async def greet(connection: Connection) -> None:
    await connection.send_all(b"hello")


async def test_under_load(tmp_path: Path) -> None:
    """200 connections in both roles during 10 reloads, one of them of broken files."""
    connections, reloads, broken_one = 200, 10, 4
    files = Files(tmp_path)
    credentials = files.credentials()
    peer = Credentials.mutual(certificate_chain=PEER, trust=FLEET)
    seen: set[PeerIdentity] = set()
    roles: dict[Role, int] = dict.fromkeys(Role, 0)
    done = 0
    failed: list[CredentialsError] = []

    async def connect(role: Role, address: tuple[str, int], limit: trio.CapacityLimiter) -> None:
        nonlocal done
        async with limit:
            connection = await open_tcp_connection(
                *address, peer, role=role, local_host=HOSTS[role]
            )
            async with connection:
                assert await connection.receive_some() == b"hello"
            seen.add(connection.peer)
            roles[role] += 1
            done += 1

    async def reload() -> None:
        for number in range(reloads):
            while done < (number + 1) * connections // (reloads + 2):
                await trio.sleep(0.001)
            if number == broken_one:
                files.key.write_bytes(b"half of a ke")
                with pytest.raises(CredentialsError) as caught:
                    credentials.reload()
                failed.append(caught.value)
            else:
                files.write(FLEET.issue("node.example"))
                credentials.reload()

    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(
            partial(serve_tcp, greet, 0, credentials, host="127.0.0.1", window=by_host)
        )
        address = server.addresses[0]
        assert isinstance(address, tuple)
        limit = trio.CapacityLimiter(20)
        async with trio.open_nursery() as load:
            load.start_soon(reload)
            for number in range(connections):
                role = Role.SERVER if number % 10 == 0 else Role.CLIENT
                load.start_soon(connect, role, address[:2], limit)
        statistics = server.statistics()
        await server.drain(10)
    assert done == connections
    assert roles == {Role.SERVER: connections // 10, Role.CLIENT: connections * 9 // 10}
    assert statistics.failed == {}
    assert len(failed) == 1
    assert str(files.key) in str(failed[0]) or "private key" in str(failed[0])
    # Each good reload was in force for some of them.
    assert len(seen) > reloads // 2


class Told:
    """A listener in memory that greets, and says under which certificate."""

    def __init__(self) -> None:
        self.listener = MemoryListener()
        self.live: list[Connection] = []

    async def handler(self, connection: Connection) -> None:
        self.live.append(connection)
        await connection.send_all(b"hello")
        async for _ in connection:
            await connection.send_all(b"still here")


async def test_replace_credentials(autojump_clock: MockClock) -> None:
    """New connections use the new ones, also those still in their window; live ones go on.

    One that is in its handshake was verified against trust that is no longer in force.
    """
    told = Told()
    before = Credentials.mutual(certificate_chain=FLEET.issue("node.example"), trust=FLEET)
    after = Credentials.mutual(
        certificate_chain=STRANGERS.issue("node.example"),
        trust=STRANGERS,
        peer=NamedPeer("new.example"),
    )
    old, new = (
        {role: context(role, leaf, trust=trust) for role in Role}
        for leaf, trust in ((PEER, FLEET), (STRANGERS.issue("new.example"), STRANGERS))
    )
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(
            partial(serve_listeners, told.handler, [told.listener], before, window=5)
        )
        live = trio.SSLStream(told.listener.connect(), old[Role.CLIENT])
        assert await live.receive_some() == b"hello"
        halfway = told.listener.connect()
        await trio.sleep(6)  # its window is over: it has our ClientHello
        in_window = told.listener.connect()
        await trio.sleep(1)
        server.replace_credentials(after)

        await live.send_all(b"and now?")
        assert await live.receive_some() == b"still here"
        assert await hear(halfway, Role.SERVER, old[Role.SERVER]) == "access_denied"
        tls = trio.SSLStream(in_window, new[Role.CLIENT])
        assert await tls.receive_some() == b"hello"
        await trio.aclose_forcefully(tls)
        for role in Role:
            tls = trio.SSLStream(
                told.listener.connect(), new[role], server_side=role is Role.SERVER
            )
            assert await tls.receive_some() == b"hello"
            await trio.aclose_forcefully(tls)
        assert await hear(told.listener.connect(), Role.CLIENT, old[Role.CLIENT]) == "broken"
        await trio.aclose_forcefully(live)
        nursery.cancel_scope.cancel()


async def test_a_peer_in_its_window_gets_what_was_reloaded(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The state of credentials is taken when the role is decided, and whole."""
    files = Files(tmp_path)
    credentials = files.credentials()
    told = Told()
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(serve_listeners, told.handler, [told.listener], credentials, window=math.inf)
        )
        stream = told.listener.connect()
        await trio.sleep(1)
        leaf = FLEET.issue("node.example")
        files.write(leaf)
        credentials.reload()
        tls = trio.SSLStream(stream, context(Role.CLIENT, PEER))
        await tls.do_handshake()
        assert tls.getpeercert(binary_form=True) == leaf.der
        await trio.aclose_forcefully(tls)
        nursery.cancel_scope.cancel()


async def test_a_session_keeps_its_credentials(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A session that is to be resumed belongs to contexts that a reload replaces."""
    files = Files(tmp_path)
    credentials = files.credentials()
    server = context(Role.SERVER, PEER, version=ssl.TLSVersion.TLSv1_2)
    session: ssl.SSLSession | None = None
    for resumed in (False, True):
        ours, theirs = memory_pair()
        async with trio.open_nursery() as nursery:
            tls = trio.SSLStream(theirs, server, server_side=True)
            nursery.start_soon(tls.do_handshake)
            if resumed:

                async def reload() -> None:
                    await trio.sleep(1)
                    files.write(FLEET.issue("node.example"))
                    credentials.reload()

                nursery.start_soon(reload)
            connection = await negotiate(ours, credentials, window=5, session=session)
        assert connection.session_reused is resumed
        session = connection.session
        for end in (connection, tls):
            await trio.aclose_forcefully(end)
    with pytest.raises(ValueError):
        await negotiate(memory_pair()[0], credentials, session=session)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("by", ["nothing", "reload", "replace_credentials"])
async def test_new_credentials_resume_no_session_of_the_former(
    by: str, version: ssl.TLSVersion, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A session carries what was verified under the old trust roots."""
    files = Files(tmp_path)

    def load() -> Credentials:
        return Credentials.mutual(
            certificate_chain=files.certificate,
            private_key=files.key,
            trust=files.trust,
            session_tickets=1,
        )

    credentials = load()
    theirs = context(Role.CLIENT, PEER, version=version)
    told = Told()
    session: ssl.SSLSession | None = None
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(
            partial(serve_listeners, told.handler, [told.listener], credentials)
        )
        for again in (False, True):
            if again and by == "reload":
                credentials.reload()  # the same files: it is not the certificate that counts
            elif again and by == "replace_credentials":
                server.replace_credentials(load())
            peer = RawPeer(told.listener.connect(), Role.CLIENT, context=theirs, session=session)
            await peer.shake_hands()
            assert await peer.read() == b"hello"
            assert peer.tls.session_reused is (again and by == "nothing")
            session = peer.tls.session
            await peer.stream.aclose()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("broken", ["certificate", "key", "trust"])
@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_broken_file_leaves_all_as_it_was(
    broken: str, content: bytes | None, tmp_path: Path
) -> None:
    files = Files(tmp_path)
    credentials = files.credentials()
    material, checks = credentials.material, credentials.checks
    path: Path = getattr(files, broken)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(CredentialsError) as caught:
        credentials.reload()
    assert caught.value.defects
    assert credentials.material is material
    assert credentials.checks is checks


def test_a_certificate_without_its_key(tmp_path: Path) -> None:
    """Read between the writing of the one file and of the other."""
    files = Files(tmp_path)
    credentials = files.credentials()
    material = credentials.material
    files.certificate.write_bytes(FLEET.issue("node.example").chain_pem)
    with pytest.raises(CredentialsError):
        credentials.reload()
    assert credentials.material is material


def test_a_certificate_for_one_role(tmp_path: Path) -> None:
    files = Files(tmp_path)
    credentials = files.credentials()
    material = credentials.material
    files.write(FLEET.issue("node.example", usages=[SERVER_AUTH]))
    with pytest.raises(CredentialsError):
        credentials.reload()
    assert credentials.material is material


def test_reload_reads_everything_again(tmp_path: Path) -> None:
    files = Files(tmp_path)
    credentials = files.credentials()
    server, client = credentials.server_context, credentials.client_context
    successor = Authority("successor")
    leaf = successor.issue("node.example")
    files.write(leaf)
    files.trust.write_bytes(FLEET.pem + successor.pem)
    credentials.reload()
    assert credentials.server_context is not server
    assert credentials.client_context is not client
    assert credentials.material.own_public_keys == keys_of(leaf)
    for one in (credentials.server_context, credentials.client_context):
        assert one.cert_store_stats()["x509_ca"] == 2


def test_shuffled_reloads_end_in_the_last(tmp_path: Path) -> None:
    files = Files(tmp_path)
    credentials = files.credentials()
    chance = random.Random(1)
    last = credentials.material.own_public_keys
    for _ in range(20):
        if chance.random() < 0.3:
            files.certificate.write_bytes(b"broken")
            with pytest.raises(CredentialsError):
                credentials.reload()
        else:
            leaf = FLEET.issue("node.example")
            files.write(leaf)
            credentials.reload()
            last = keys_of(leaf)
        assert credentials.material.own_public_keys == last


# ---------------------------------------------------------------- what is in force at the verdict


def of_contexts(
    change: Callable[[ssl.SSLContext], object], *, allow_asymmetric: bool = False
) -> Credentials:
    made = {role: context(role, LISTENER) for role in Role}
    for one in made.values():
        change(one)
    return Credentials(
        server_context=made[Role.SERVER],
        client_context=made[Role.CLIENT],
        allow_asymmetric=allow_asymmetric,
    )


def anonymous(changed: ssl.SSLContext) -> None:
    changed.verify_mode = ssl.CERT_NONE


def raise_the_floor(changed: ssl.SSLContext) -> None:
    changed.minimum_version = ssl.TLSVersion.TLSv1_3


def add_non_authority(changed: ssl.SSLContext) -> None:
    changed.load_verify_locations(cadata=STRANGERS.issue("a.example").chain_pem.decode())


AFTER: dict[str, tuple[Callable[[], Credentials], bool]] = {
    "the same": (mutual, True),
    "another certificate": (lambda: mutual(FLEET.issue("other.example")), True),
    "a policy that admits": (lambda: mutual(peer=NamedPeer("peer.example")), True),
    "a policy that refuses": (lambda: mutual(peer=NamedPeer("other.example")), False),
    "ourselves": (lambda: mutual(PEER), False),
    "ourselves, allowed": (lambda: mutual(PEER, allow_self=True), True),
    "a root more": (
        lambda: Credentials.mutual(certificate_chain=LISTENER, trust=FLEET.pem + STRANGERS.pem),
        False,
    ),
    "another root": (
        lambda: Credentials.mutual(certificate_chain=LISTENER, trust=STRANGERS),
        False,
    ),
    "another root of the same name": (
        lambda: Credentials.mutual(certificate_chain=LISTENER, trust=Authority("fleet")),
        False,
    ),
    "the floor of TLS 1.3": (lambda: of_contexts(raise_the_floor), False),
    "revocation lists": (lambda: of_contexts(add_revocation_list), False),
    "a root that is no authority": (
        lambda: of_contexts(add_non_authority, allow_asymmetric=True),
        False,
    ),
    "no demands": (lambda: of_contexts(anonymous, allow_asymmetric=True), False),
}
"""What replaces credentials that trust the fleet, and whether its peer is still admitted."""


class Halfway(RecordingStream):
    """Sends the first 100 bytes, and the others when it is told to."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        super().__init__(stream)
        self.halfway, self.go_on = trio.Event(), trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not self.halfway.is_set():
            await super().send_all(data[:100])
            data = data[100:]
            self.halfway.set()
            await self.go_on.wait()
        await super().send_all(data)


async def admitted_although(
    before: Credentials, role: Role, meanwhile: Callable[[Server], object]
) -> bool:
    """Let a peer send half of its first flight, then something happen, then the rest."""
    told = Told()
    theirs = context(role.other, PEER, version=ssl.TLSVersion.TLSv1_2)
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(
            partial(serve_listeners, told.handler, [told.listener], before, window=1)
        )
        stream = Halfway(told.listener.connect())
        nursery.start_soon(hear, stream, role.other, theirs)
        await stream.halfway.wait()
        await trio.sleep(0.5)  # it has come, and our handshake has begun
        meanwhile(server)
        stream.go_on.set()
        await trio.sleep(5)
        assert server.statistics().completed.get(role, 0) == len(told.live)
        nursery.cancel_scope.cancel()
    return bool(told.live)


@pytest.mark.parametrize("role", list(Role), ids=str)
@pytest.mark.parametrize("after", AFTER)
async def test_what_is_in_force_at_the_verdict_counts(
    after: str, role: Role, autojump_clock: MockClock
) -> None:
    """Half a hello carries nobody past the credentials that are in force when it is whole."""
    make, admitted = AFTER[after]
    replacement = make()
    assert admitted is await admitted_although(
        mutual(), role, lambda server: server.replace_credentials(replacement)
    )


@pytest.mark.parametrize("role", list(Role), ids=str)
@pytest.mark.parametrize("trust", ["kept", "dropped"])
async def test_a_reload_during_the_handshake_counts(
    trust: str, role: Role, tmp_path: Path, autojump_clock: MockClock
) -> None:
    files = Files(tmp_path)
    credentials = files.credentials()

    def reload(_: Server) -> None:
        if trust == "dropped":
            files.write(STRANGERS.issue("node.example"))
            files.trust.write_bytes(STRANGERS.pem)
        credentials.reload()

    assert await admitted_although(credentials, role, reload) is (trust == "kept")


@pytest.mark.parametrize("role", list(Role), ids=str)
async def test_credentials_that_demanded_nothing(role: Role, autojump_clock: MockClock) -> None:
    """What was not verified is not admitted by those that would have verified it."""
    before = of_contexts(anonymous, allow_asymmetric=True)
    assert not await admitted_although(
        before, role, lambda server: server.replace_credentials(mutual())
    )


@pytest.mark.parametrize("role", list(Role), ids=str)
async def test_a_policy_that_is_replaced_while_it_is_deciding(
    role: Role, autojump_clock: MockClock
) -> None:
    """Each one that is in force when the former has decided is asked, until one lasts."""
    asked: list[str] = []

    def thinking(name: str) -> PeerPolicy:
        async def policy(*_: object) -> bool:
            asked.append(name)
            await trio.sleep(3)
            return name != "third"

        return policy

    told = Told()
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(
            partial(
                serve_listeners,
                told.handler,
                [told.listener],
                mutual(peer=thinking("first")),
                window=1,
            )
        )
        nursery.start_soon(hear, told.listener.connect(), role.other, context(role.other, PEER))
        for name in ("second", "third"):
            while asked[-1:] != [{"second": "first", "third": "second"}[name]]:
                await trio.sleep(0.5)
            server.replace_credentials(mutual(peer=thinking(name)))
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    assert asked == ["first", "second", "third"]
    assert told.live == []


async def test_a_session_is_judged_by_what_is_in_force(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It is resumed with the contexts that it belongs to, and they no longer decide."""
    files = Files(tmp_path)
    credentials = files.credentials()
    server = context(Role.SERVER, PEER, version=ssl.TLSVersion.TLSv1_2)
    session: ssl.SSLSession | None = None
    for again in (False, True):
        ours, theirs = memory_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear, theirs, Role.SERVER, server)
            if again:

                async def reload() -> None:
                    await trio.sleep(1)
                    files.write(STRANGERS.issue("node.example"))
                    files.trust.write_bytes(STRANGERS.pem)
                    credentials.reload()

                nursery.start_soon(reload)
                with pytest.raises(PeerRejectedError):
                    await negotiate(ours, credentials, window=5, session=session)
            else:
                connection = await negotiate(ours, credentials, window=5)
                session = connection.session
                await connection.aclose()
