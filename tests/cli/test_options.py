"""How the values of options are read."""

from __future__ import annotations

import math

import click
import pytest

from trio_duplex.cli._options import finite_seconds, format_host_port, host_port, seconds


@pytest.mark.parametrize(("text", "value"), [("0", 0.0), ("2.5", 2.5), ("inf", math.inf)])
def test_seconds(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "-1", "-inf", "nan", "5s"])
def test_no_seconds(text: str) -> None:
    with pytest.raises(click.BadParameter):
        seconds(text)


def test_seconds_that_end() -> None:
    assert finite_seconds("3") == 3.0
    with pytest.raises(click.BadParameter):
        finite_seconds("inf")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("[::1]:8443", "::1", 8443),
        ("[fe80::1%lo]:65535", "fe80::1%lo", 65535),
        ("a.example:443", "a.example", 443),
    ],
)
def test_host_port(text: str, host: str, port: int) -> None:
    assert host_port(text) == (host, port)
    assert format_host_port(host, port) == text


@pytest.mark.parametrize(
    "text",
    ["", "8443", ":8443", "host:", "host:-1", "host:65536", "host:x", "::1:0", "[]:1", "h:²"],
)
def test_no_host_port(text: str) -> None:
    with pytest.raises(click.BadParameter):
        host_port(text)
