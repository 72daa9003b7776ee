"""The name that a ClientHello asks for: `trio_duplex._wire.server_name`."""

from __future__ import annotations

import struct

import pytest

from tests.support.hellos import extension, hello, vector
from trio_duplex._wire.alerts import ALERT_UNRECOGNIZED_NAME
from trio_duplex._wire.server_name import object_to_name


def asking_for(name: bytes) -> bytes:
    return hello(extra=extension(0, vector(b"\0" + struct.pack(">H", len(name)) + name)))


@pytest.mark.parametrize(
    "name", [b"\xff\xfe\xfd.example", "bücher.example".encode(), b"a\x80", b"\xff" * 255]
)
def test_name_that_is_not_ascii_is_refused(name: bytes) -> None:
    objection = object_to_name(asking_for(name))
    assert objection is not None
    assert objection.alert == ALERT_UNRECOGNIZED_NAME
    assert objection.seen.isascii()
    assert len(objection.seen) < 300
    assert "A-label" in objection.advice


@pytest.mark.parametrize("name", [b"node.example", b"xn--bcher-kva.example", b"", b"\x7f"])
def test_ascii_name_passes(name: bytes) -> None:
    assert object_to_name(asking_for(name)) is None


def test_hello_without_a_name_passes() -> None:
    assert object_to_name(hello()) is None


@pytest.mark.parametrize("length", range(6))
def test_truncated_extension_passes(length: int) -> None:
    assert object_to_name(hello(extra=extension(0, bytes(length)))) is None
