"""TLS over bytes, without I/O: `trio_duplex._tls.engine`."""

from __future__ import annotations

import contextlib
import gc
import ssl
import weakref
from functools import partial

import pytest

from tests.support.peers import VERSIONS
from tests.tls.test_flow import contexts
from trio_duplex import Role
from trio_duplex._tls.engine import _SCRATCH, MOST_KEPT, PART, RECORD_SIZE, Engine


def pair(version: ssl.TLSVersion) -> tuple[Engine, Engine]:
    """A server and a client after their handshake, with nothing owed but the server's tickets."""
    server = Engine(contexts(version)[Role.SERVER], Role.SERVER)
    client = Engine(contexts(version)[Role.CLIENT], Role.CLIENT)
    while not (client.handshake() & server.handshake()):
        for one, other in ((client, server), (server, client)):
            if words := one.take():
                other.feed(words)
    return server, client


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    value: ssl.TLSVersion = request.param
    return value


def test_read_returns_all_records_that_have_come(version: ssl.TLSVersion) -> None:
    server, client = pair(version)
    for size in (1, 0, 1000, RECORD_SIZE, 5):
        if size:
            client.write(b"x" * size)
    server.feed(client.take())
    assert server.read(10 * RECORD_SIZE) == b"x" * (1006 + RECORD_SIZE)
    assert server.read(1) is None


@pytest.mark.parametrize("most", [1, 10, RECORD_SIZE, RECORD_SIZE + 1, 10 * RECORD_SIZE])
def test_read_returns_at_most_max_bytes(version: ssl.TLSVersion, most: int) -> None:
    server, client = pair(version)
    for _ in range(3):
        client.write(b"y" * RECORD_SIZE)
    server.feed(client.take())
    got = b""
    while (data := server.read(most)) is not None:
        assert 1 <= len(data) <= most
        got += data
        if most == 1 and len(got) > 100:
            return
    assert got == b"y" * 3 * RECORD_SIZE


def test_half_a_record_returns_nothing_yet(version: ssl.TLSVersion) -> None:
    server, client = pair(version)
    client.write(b"whole")
    words = client.take()
    for byte in words[:-1]:
        server.feed(bytes([byte]))
        assert server.read(100) is None
    server.feed(words[-1:])
    assert server.read(100) == b"whole"


def test_end_is_remembered_behind_the_data(version: ssl.TLSVersion) -> None:
    server, client = pair(version)
    client.write(b"last")
    client.close_notify()
    server.feed(client.take())
    assert server.read(100) == b"last"
    assert [server.read(100), server.read(100)] == [b"", b""]
    assert server.ended
    server.close_notify()
    assert server.read(1) == b""


def test_end_of_the_transport_without_close_notify_is_a_failure(version: ssl.TLSVersion) -> None:
    server, client = pair(version)
    client.write(b"cut")
    server.feed(client.take())
    server.feed_eof()
    assert server.read(100) == b"cut"
    for _ in range(2):
        with pytest.raises(ssl.SSLEOFError):
            server.read(100)


def test_fault_behind_data_is_raised_by_all_later_calls(version: ssl.TLSVersion) -> None:
    server, client = pair(version)
    client.write(b"good")
    words = client.take()
    client.write(b"bad")
    bad = bytearray(client.take())
    bad[-1] ^= 1
    server.feed(words + bad)
    assert server.read(100) == b"good"
    for call in (partial(server.read, 100), partial(server.write, b"x"), partial(server.read, 1)):
        with pytest.raises(ssl.SSLError) as info:
            call()
        assert info.value.reason == "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"
    assert server.failure is not None
    assert server.failure.__traceback__ is None
    assert server.owed  # the alert


def test_held_tickets_go_in_front_of_what_leaves_next() -> None:
    server, client = pair(ssl.TLSVersion.TLSv1_3)
    server.hold()
    assert not server.owed
    assert server.take() == b""
    server.write(b"data")
    words = server.take()
    client.feed(words)
    assert client.read(100) == b"data"
    assert client.ssl_object.session is not None
    assert client.ssl_object.session.has_ticket
    server.write(b"more")
    client.feed(server.take())
    assert client.read(100) == b"more"


def test_close_notify_leaves_although_records_are_unread(version: ssl.TLSVersion) -> None:
    server, client = pair(version)
    server.hold()
    client.write(b"unread")
    server.feed(client.take())
    server.close_notify()
    client.feed(server.take())
    assert client.read(100) == b""


def test_certificate_is_known_after_a_failure(version: ssl.TLSVersion) -> None:
    _, client = pair(version)
    certificate = client.peer_certificate()
    assert certificate is not None
    client.feed(b"not TLS at all")
    with pytest.raises(ssl.SSLError):
        client.read(1)
    assert client.peer_certificate() == certificate


@pytest.mark.parametrize("failed", [False, True])
def test_freed_at_once(version: ssl.TLSVersion, failed: bool) -> None:
    gc.disable()
    try:
        server, _ = pair(version)
        server.hold()
        if failed:
            server.feed(b"not TLS at all")
            with pytest.raises(ssl.SSLError):
                server.read(1)
        reference = weakref.ref(server.ssl_object)
        del server
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("size", [PART // 2, 3 * PART + 1])
def test_feeding_does_not_go_on_with_the_handshake(version: ssl.TLSVersion, size: int) -> None:
    """It may have to sign, which is another thread's work where our key is slow."""
    server = Engine(contexts(version)[Role.SERVER], Role.SERVER)
    client = Engine(contexts(version)[Role.CLIENT], Role.CLIENT)
    client.handshake()
    server.feed(client.take() + bytes(size))
    assert not server.owed
    with contextlib.suppress(ssl.SSLError):  # what follows the hello is none of TLS
        server.handshake()
    assert server.owed


@pytest.mark.parametrize("size", [1, RECORD_SIZE, 3 * PART])
@pytest.mark.parametrize("taken", [0, 1])
def test_unwrapping_does_not_drop_data_that_was_decrypted_ahead(
    version: ssl.TLSVersion, size: int, taken: int
) -> None:
    ours, theirs = pair(version)
    theirs.write(bytes(size + taken))
    theirs.close_notify()
    ours.feed_and_decrypt(theirs.take())
    if taken:
        assert ours.read(taken) == bytes(taken)
    for _ in range(2):
        with pytest.raises(ssl.SSLError, match="APPLICATION_DATA_AFTER_CLOSE_NOTIFY"):
            ours.unwrap()


def test_a_large_buffer_is_not_kept(version: ssl.TLSVersion) -> None:
    ours, theirs = pair(version)
    data = bytes(MOST_KEPT + PART)
    theirs.write(data)
    ours.feed_and_decrypt(theirs.take())
    assert ours.read(len(data)) == data
    assert len(_SCRATCH.view) <= MOST_KEPT
