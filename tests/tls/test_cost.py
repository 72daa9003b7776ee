"""What a stranger can make a handshake cost: `trio_duplex._tls.handshake`."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from tests.support.authority import AUTHORITY, STRANGER
from tests.support.hellos import FINITE, GREASE, P384, X25519, hello, server_hello
from tests.support.patience import window_for
from tests.support.peers import (
    HANDSHAKE_FAILURE,
    NODE,
    TLS13,
    RawPeer,
    ScriptedStream,
    credentials,
    each_role,
    each_version,
    memory_pair,
    own_credentials,
    peer_context,
    receive_all,
    receive_exactly,
)
from tests.support.records import (
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    make_record,
    plain_alerts,
    recut,
    split_records,
)
from trio_duplex import HandshakeError, Role, negotiate
from trio_duplex._tls.groups import usable_groups
from trio_duplex._tls.handshake import MAX_CERTIFICATE_BYTES
from trio_duplex._tls.workers import for_flights

pytestmark = pytest.mark.slow


GOAL = 0.08
"""Seconds of CPU. One computation with ffdhe8192 takes 0.085 on a machine that does nothing else, and
what is refused before any takes 0.001."""

in_records = pytest.mark.parametrize("size", [1, 50, 16_384])
by_the_byte = pytest.mark.parametrize("step", [1, None], ids=["byte by byte", "at once"])


async def send(stream: trio.abc.Stream, data: bytes, step: int | None) -> None:
    for start in range(0, len(data), step or len(data)):
        await stream.send_all(data[start : start + (step or len(data))])


@in_records
@by_the_byte
@pytest.mark.parametrize("group", FINITE)
async def test_a_hello_that_leads_to_a_finite_field_is_refused_before_it_costs(
    group: int, step: int | None, size: int, autojump_clock: trio.testing.MockClock
) -> None:
    usable_groups(2)
    ours, theirs = memory_pair()
    message = hello((X25519, group), (group, X25519))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, theirs, recut(make_record(HANDSHAKE, message), size), step)
        nursery.start_soon(receive_all, theirs)
        used = time.process_time()
        with pytest.raises(HandshakeError) as caught:
            await negotiate(ours, credentials())
    used = time.process_time() - used
    assert plain_alerts(theirs.received) == [HANDSHAKE_FAILURE]
    assert caught.value.role is Role.SERVER
    assert "ffdhe" in (caught.value.seen or "")
    assert caught.value.advice
    assert step == 1 or used < GOAL


async def test_a_hello_that_we_would_answer_by_asking_for_a_finite_field_is_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, make_record(HANDSHAKE, hello((260, X25519), ())))
        nursery.start_soon(receive_all, theirs)
        with pytest.raises(HandshakeError):
            await negotiate(ours, credentials())
    assert plain_alerts(theirs.received) == [HANDSHAKE_FAILURE]


async def test_the_second_hello_is_looked_at_too(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = memory_pair()

    async def peer() -> None:
        await theirs.send_all(make_record(HANDSHAKE, hello((GREASE, X25519, 260), (GREASE,))))
        await theirs.receive_some()  # the HelloRetryRequest
        await theirs.send_all(make_record(HANDSHAKE, hello((X25519, 260), (260,))))
        await receive_all(theirs)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer)
        with pytest.raises(HandshakeError) as caught:
            await negotiate(ours, credentials())
    assert plain_alerts(theirs.received) == [HANDSHAKE_FAILURE]
    assert "ffdhe8192" in (caught.value.seen or "")


@in_records
@by_the_byte
@pytest.mark.parametrize("before", ["", "HelloRequest", "warning"])
@pytest.mark.parametrize("retry", [False, True], ids=["ServerHello", "HelloRetryRequest"])
@pytest.mark.parametrize("group", [256, 260])
async def test_an_answer_that_selects_a_finite_field_is_refused_before_it_costs(
    group: int,
    retry: bool,
    before: str,
    step: int | None,
    size: int,
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_pair()
    answer = recut(make_record(HANDSHAKE, server_hello(group, retry=retry)), size)
    skipped = {
        "": b"",
        "HelloRequest": make_record(HANDSHAKE, bytes(4)),
        "warning": make_record(0x15, b"\x01\x70"),
    }[before]

    async def peer() -> None:
        await theirs.receive_some()
        await send(theirs, skipped + answer, step)
        await receive_all(theirs)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer)
        with pytest.raises(HandshakeError) as caught:
            await negotiate(ours, credentials())
    assert plain_alerts(theirs.received) == [HANDSHAKE_FAILURE]
    assert caught.value.role is Role.CLIENT
    assert "ffdhe" in (caught.value.seen or "")


@each_role
@pytest.mark.parametrize("curve", ["prime256v1", "secp384r1", "secp521r1"])
async def test_every_curve_serves(
    curve: str, role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    """With a HelloRetryRequest, where the peer as TLS server takes none of our shares."""
    ours, theirs = memory_pair()
    context = peer_context(role.other, TLS13)
    context.set_ecdh_curve(curve)
    peer = RawPeer(theirs, role.other, context=context)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.shake_hands)
        connection = await negotiate(ours, credentials())
        assert connection.role is role


@each_role
@by_the_byte
async def test_a_retry_works_with_a_change_cipher_spec_in_between(
    step: int | None, role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    """As OpenSSL does, and RFC 8446 appendix D.4 advises: it precedes the second hello."""
    ours, theirs = memory_pair()
    mine, context = own_credentials(), peer_context(role.other, TLS13)
    (mine.server_context if role is Role.SERVER else context).set_ecdh_curve("secp384r1")
    peer = RawPeer(
        ScriptedStream(theirs, lambda data, below: send(below, data, step)),
        role.other,
        context=context,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.shake_hands)
        connection = await negotiate(ours, mine)
        assert connection.role is role
    kinds = [kind for kind, _ in split_records(theirs.sent)]
    assert kinds[:3] == [HANDSHAKE, CHANGE_CIPHER_SPEC, HANDSHAKE]


async def test_a_retry_for_a_curve_serves(autojump_clock: trio.testing.MockClock) -> None:
    """The answer to a share that we do not know is a HelloRetryRequest, as ever."""
    ours, theirs = memory_pair()

    async def peer() -> bytes:
        await theirs.send_all(make_record(HANDSHAKE, hello((GREASE, P384), (GREASE,))))
        answer = bytes(await theirs.receive_some())
        await theirs.aclose()
        return answer

    answer = b""
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def listen() -> None:
            nonlocal answer
            answer = await peer()

        with pytest.raises(HandshakeError):
            await negotiate(ours, credentials())
    retry = next(split_records(answer))[1]
    assert retry[-2:] == P384.to_bytes(2, "big")


# --------------------------------------------------------------------------------------------- chains


def chain_of(size: int, tmp_path: Path, authority: trustme.CA = AUTHORITY) -> Path:
    """A certificate that is good, behind it others that nobody needs, and its key: so many bytes in all."""
    leaf = NODE if authority is AUTHORITY else authority.issue_cert("node.example")
    junk = STRANGER.cert_pem.bytes()
    one = len(ssl.PEM_cert_to_DER_cert(junk.decode()))
    file = tmp_path / f"{size}.pem"
    file.write_bytes(
        leaf.private_key_pem.bytes()
        + b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        + junk * (size // (one + 5))
    )
    return file


def long_chain_peer(
    stream: trio.abc.Stream, role: Role, version: ssl.TLSVersion, chain: Path
) -> RawPeer:
    context = peer_context(role.other, version, certificate=None)
    context.load_cert_chain(chain)
    return RawPeer(stream, role.other, context=context)


@each_version
@each_role
async def test_a_chain_of_more_bytes_than_allowed_is_refused(
    role: Role, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    ours, theirs = memory_pair()
    chain = chain_of(MAX_CERTIFICATE_BYTES + 2000, tmp_path)
    peer = long_chain_peer(theirs, role, version, chain)

    async def be_refused() -> None:
        with pytest.raises(ssl.SSLError, match="ALERT"):
            await peer.shake_hands()
            await peer.read()
        await theirs.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(be_refused)
        with pytest.raises(HandshakeError) as caught:
            await negotiate(ours, credentials(), window=window_for(role.other))
    assert caught.value.role is role
    assert str(MAX_CERTIFICATE_BYTES) in (caught.value.seen or "")
    assert "max_certificate_bytes" in (caught.value.advice or "")


@each_version
@each_role
@pytest.mark.parametrize("size", [0, 6_000, 20_000, 28_000])
async def test_a_chain_of_as_many_as_allowed_serves(
    size: int,
    role: Role,
    version: ssl.TLSVersion,
    tmp_path: Path,
) -> None:
    """And what comes right behind it is not counted, nor lost."""
    ours, theirs = memory_pair()
    peer = long_chain_peer(theirs, role, version, chain_of(size, tmp_path))
    data = bytes(range(256)) * 200
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer_sends, peer, data)
        connection = await negotiate(ours, credentials(), window=window_for(role.other))
        assert connection.role is role
        assert await receive_exactly(connection, len(data)) == data


async def peer_sends(peer: RawPeer, data: bytes) -> None:
    await peer.shake_hands(data=data)


@each_version
@each_role
async def test_the_bound_can_be_set(role: Role, version: ssl.TLSVersion, tmp_path: Path) -> None:
    for bound, serves in ((60_000, True), (700, False)):
        ours, theirs = memory_pair()
        size = 50_000 if serves else 800
        peer = long_chain_peer(theirs, role, version, chain_of(size, tmp_path))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ignoring_errors, peer)
            if serves:
                connection = await negotiate(
                    ours, credentials(), window=window_for(role.other), max_certificate_bytes=bound
                )
                await trio.aclose_forcefully(connection)
            else:
                with pytest.raises(HandshakeError):
                    await negotiate(
                        ours,
                        credentials(),
                        window=window_for(role.other),
                        max_certificate_bytes=bound,
                    )


async def ignoring_errors(peer: RawPeer) -> None:
    try:
        await peer.shake_hands()
        await peer.read()
    except (ssl.SSLError, trio.BrokenResourceError):
        pass
    await peer.stream.aclose()


@pytest.mark.parametrize("bound", [0, -1, True])
async def test_an_invalid_bound_is_refused_at_once(bound: int) -> None:
    ours, _ = memory_pair()
    with pytest.raises(ValueError, match="max_certificate_bytes"):
        await negotiate(ours, credentials(), max_certificate_bytes=bound)
    assert not ours.closed


@each_version
@each_role
async def test_long_chains_are_taken_one_by_one_and_in_a_thread(
    role: Role, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    """A chain of 30 KB costs more than an event loop can give away at once; one of today does not wait."""

    async def handshake(size: int, done: trio.Event) -> None:
        ours, theirs = memory_pair()
        async with trio.open_nursery() as nursery:
            peer = long_chain_peer(theirs, role, version, chain_of(size, tmp_path))
            nursery.start_soon(ignoring_errors, peer)
            await trio.aclose_forcefully(
                await negotiate(ours, credentials(), window=window_for(role.other))
            )
            done.set()

    long, short = trio.Event(), trio.Event()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            async with for_flights():
                nursery.start_soon(handshake, 20_000, long)
                nursery.start_soon(handshake, 0, short)
                await short.wait()
                await trio.testing.wait_all_tasks_blocked(0.1)
                assert not long.is_set()
            await long.wait()


def test_groups_are_those_of_this_openssl() -> None:
    assert X25519 in usable_groups(2)
    assert X25519 not in usable_groups(4)  # 128 bits: too few for that level
    assert P384 in usable_groups(4)
