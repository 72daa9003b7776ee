"""A hello is put together from any records: `trio_duplex._wire.hello`."""

from __future__ import annotations

import random

import pytest

from tests.support.peers import client_hello
from tests.support.records import (
    ALERT,
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    make_record,
    recut,
)
from trio_duplex._wire.hello import (
    MAX_HELLO,
    HelloKind,
    HelloReader,
    client_hello_random,
    random_of,
    whole_hello,
)
from trio_duplex._wire.opening import OpeningKind, classify

HELLO = client_hello()
MESSAGE = HELLO[5:]
SERVER_HELLO = b"\x02" + (70).to_bytes(3, "big") + bytes(70)
HELLO_REQUEST = bytes(4)
WARNING = make_record(ALERT, b"\x01\x70")
DUMMY = make_record(CHANGE_CIPHER_SPEC, b"\x01")


def read(
    data: bytes, message_type: int = 1, *, step: int | None = None, second: bool = False
) -> HelloReader:
    reader = HelloReader(message_type, second=second)
    for start in range(0, len(data), step or len(data)):
        if reader.feed(data[start : start + (step or len(data))]) is not HelloKind.INCOMPLETE:
            break
    return reader


@pytest.mark.parametrize("step", [1, 2, 5, 7, 64, None])
@pytest.mark.parametrize("size", [1, 2, 4, 5, 37, 38, 100, 16_384])
def test_hello_is_complete_in_any_cutting(size: int, step: int | None) -> None:
    reader = read(recut(HELLO, size), step=step)
    assert reader.kind is HelloKind.COMPLETE
    assert reader.message == MESSAGE


@pytest.mark.parametrize("step", [1, 3, None])
@pytest.mark.parametrize(
    "between",
    [
        pytest.param(make_record(HANDSHAKE, b""), id="an empty record"),
        pytest.param(make_record(APPLICATION_DATA, b""), id="an empty record of another kind"),
        pytest.param(WARNING, id="a warning"),
    ],
)
def test_skips_what_openssl_skips(between: bytes, step: int | None) -> None:
    cut = (
        between
        + make_record(HANDSHAKE, MESSAGE[:50])
        + between * 2
        + make_record(HANDSHAKE, MESSAGE[50:])
    )
    assert read(cut, step=step).message == MESSAGE


@pytest.mark.parametrize("step", [1, 3, None])
@pytest.mark.parametrize("message", [MESSAGE, SERVER_HELLO], ids=["ClientHello", "ServerHello"])
def test_a_second_hello_may_follow_a_dummy_change_cipher_spec(
    message: bytes, step: int | None
) -> None:
    data = DUMMY + WARNING + make_record(HANDSHAKE, message)
    assert read(data, message[0], step=step, second=True).message == message
    assert read(data, message[0], step=step).kind is HelloKind.OTHER
    for payload in (b"\x02", b"\x01\x01"):
        real = make_record(CHANGE_CIPHER_SPEC, payload) + make_record(HANDSHAKE, message)
        assert read(real, message[0], step=step, second=True).kind is HelloKind.OTHER


@pytest.mark.parametrize("step", [1, 3, None])
@pytest.mark.parametrize("requests", [1, 3])
def test_hello_requests_before_a_server_hello_are_passed_over(
    requests: int, step: int | None
) -> None:
    both = HELLO_REQUEST * requests + SERVER_HELLO
    assert read(make_record(HANDSHAKE, both), 2, step=step).message == SERVER_HELLO
    separate = make_record(HANDSHAKE, HELLO_REQUEST) * requests + make_record(
        HANDSHAKE, SERVER_HELLO
    )
    assert read(separate, 2, step=step).message == SERVER_HELLO


@pytest.mark.parametrize("step", [1, None])
@pytest.mark.parametrize(
    ("data", "message_type"),
    [
        pytest.param(make_record(HANDSHAKE, MESSAGE), 2, id="a ClientHello in answer to ours"),
        pytest.param(make_record(HANDSHAKE, SERVER_HELLO), 1, id="a ServerHello"),
        pytest.param(make_record(HANDSHAKE, HELLO_REQUEST), 1, id="a HelloRequest of a client"),
        pytest.param(
            make_record(HANDSHAKE, b"\x00\x00\x00\x01\x00"), 2, id="a HelloRequest with a body"
        ),
        pytest.param(make_record(ALERT, b"\x02\x28"), 2, id="a fatal alert"),
        pytest.param(make_record(ALERT, b"\x01\x00"), 2, id="close_notify"),
        pytest.param(make_record(ALERT, b"\x01"), 2, id="half an alert"),
        pytest.param(make_record(APPLICATION_DATA, b"data"), 2, id="data"),
        pytest.param(b"\x16\x02\x03\x00\x05" + bytes(5), 1, id="another version"),
        pytest.param(b"\x16\x03\x03\x40\x01" + bytes(5), 1, id="too long a record"),
        pytest.param(
            make_record(HANDSHAKE, MESSAGE[:50]) + make_record(APPLICATION_DATA, b"data"),
            1,
            id="in between",
        ),
    ],
)
def test_anything_else_is_other(data: bytes, message_type: int, step: int | None) -> None:
    assert read(data, message_type, step=step).kind is HelloKind.OTHER
    assert whole_hello(data, message_type) is None


def test_longest_hello() -> None:
    def announced(size: int) -> bytes:
        return make_record(HANDSHAKE, b"\x01" + (size - 4).to_bytes(3, "big") + bytes(16))

    assert read(announced(MAX_HELLO)).kind is HelloKind.INCOMPLETE
    reader = read(announced(MAX_HELLO + 1))
    assert reader.kind is HelloKind.TOO_LONG
    assert reader.size == MAX_HELLO + 1


@pytest.mark.slow
def test_most_bytes_of_records() -> None:
    message = b"\x01" + (MAX_HELLO - 4).to_bytes(3, "big") + bytes(MAX_HELLO - 4)
    in_fives = b"".join(
        make_record(HANDSHAKE, message[at : at + 6]) for at in range(0, MAX_HELLO, 6)
    )
    assert read(in_fives, step=4096).kind is HelloKind.COMPLETE
    assert read(make_record(HANDSHAKE, b"") * 30_000, step=4096).kind is HelloKind.TOO_LONG


def test_whole_hello_agrees_with_hello_reader() -> None:
    chance = random.Random(1)
    for _ in range(2000):
        data = bytearray(HELLO + b"behind it")
        for _ in range(chance.randint(0, 3)):
            data[chance.randrange(12)] = chance.choice([0, 1, 2, 3, 0x16, chance.randrange(256)])
        del data[chance.randrange(len(data) + 1) :]
        quick = whole_hello(bytes(data), 1)
        if quick is not None:
            message, behind = quick
            reader = read(bytes(data))
            assert (reader.message, reader.behind) == (message, max(0, behind))
            # So a peer with a whole hello needs no other look at its opening.
            assert classify(data).kind is OpeningKind.CLIENT_HELLO
            assert random_of(message) == client_hello_random(data)
    assert whole_hello(HELLO, 1) == (MESSAGE, 0)
    assert whole_hello(HELLO + b"more", 1) == (MESSAGE, 4)
    assert whole_hello(make_record(HANDSHAKE, MESSAGE + b"more")[:-1], 1) == (MESSAGE, -1)
    assert whole_hello(HELLO[:-1], 1) is None
    assert whole_hello(recut(HELLO, 100), 1) is None


@pytest.mark.parametrize("size", [0, 33, 34, 35])
def test_random_of_a_hello_needs_its_last_byte(size: int) -> None:
    hello = b"\x01" + size.to_bytes(3, "big") + bytes(range(size))
    assert random_of(hello) == client_hello_random(make_record(HANDSHAKE, hello))
    assert (random_of(hello) is None) == (size < 34)
