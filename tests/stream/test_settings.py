"""The options that every connection of a server shares: `trio_duplex._stream.settings`."""

from __future__ import annotations

import math
from typing import Any

import pytest

from trio_duplex._stream.settings import Settings


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"window": -1}, ValueError),
        ({"window": "5"}, TypeError),
        ({"handshake_timeout": -1}, ValueError),
        ({"handshake_timeout": math.nan}, ValueError),
        ({"session": "a session"}, TypeError),
        ({"max_certificate_bytes": 0}, ValueError),
        ({"max_certificate_bytes": True}, ValueError),
    ],
)
def test_what_is_wrong_is_refused_when_they_are_made(
    wrong: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        Settings(**wrong)


def test_the_least_that_is_taken() -> None:
    made = Settings(0.0, 0.0, max_certificate_bytes=1, session=lambda _: None)
    assert (made.handshake_timeout, made.max_certificate_bytes) == (0.0, 1)


def test_the_defaults_are_those_of_the_docs() -> None:
    made = Settings()
    assert (made.handshake_timeout, made.close_timeout) == (30.0, 5.0)
    assert made.idle_timeout == made.send_timeout == math.inf
    assert made.announcements
    assert not made.https_compatible
    assert made.session is None
