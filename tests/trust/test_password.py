"""Passwords of private keys: given, asked for, and asked for once."""

from __future__ import annotations

from typing import Any

import pytest

from trio_duplex import CredentialsError
from trio_duplex._trust.password import PasswordSource


@pytest.mark.parametrize(
    ("given", "got"), [(None, None), (b"secret", b"secret"), (lambda: b"secret", b"secret")]
)
def test_what_is_got(given: Any, got: bytes | None) -> None:
    for source in (PasswordSource(given), PasswordSource(given).asked_once()):
        assert source.get() == got
        assert source.for_openssl() == (got or b"")


def test_a_function_is_asked_once_for_each_source() -> None:
    asked = 0

    def ask() -> bytes:
        nonlocal asked
        asked += 1
        return b"%d" % asked

    source = PasswordSource(ask)
    first, second = source.asked_once(), source.asked_once()
    assert [first.get(), first.for_openssl(), second.get(), first.get()] == [b"1", b"1", b"2", b"1"]
    assert source.get() == b"3"


def test_nobody_is_asked_for_what_nobody_needs() -> None:
    def never() -> bytes:
        raise AssertionError

    PasswordSource(never).check()
    PasswordSource(never).asked_once()


@pytest.mark.parametrize("answer", [None, "secret", 7])
def test_an_answer_that_is_no_password(answer: Any) -> None:
    with pytest.raises(CredentialsError) as caught:
        PasswordSource(lambda: answer).get()
    assert "secret" not in str(caught.value)


def test_an_error_of_the_function_is_ours_and_ours_is_left_as_it_is() -> None:
    ours = CredentialsError("the vault is closed")

    def fail(error: Exception) -> bytes:
        raise error

    with pytest.raises(CredentialsError) as caught:
        PasswordSource(lambda: fail(ours)).get()
    assert caught.value is ours
    with pytest.raises(CredentialsError) as caught:
        PasswordSource(lambda: fail(ValueError("secret"))).get()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("odd", ["secret", 7, [b"secret"]])
def test_what_is_no_source(odd: Any) -> None:
    with pytest.raises(TypeError):
        PasswordSource(odd).check()
