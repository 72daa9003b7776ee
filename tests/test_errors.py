"""The exception tree: `trio_duplex._errors`."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

import trio_duplex
from trio_duplex import (
    CredentialsError,
    DuplexError,
    GlareError,
    HandshakeError,
    HandshakeTimeoutError,
    NotTLSError,
    PeerClosedError,
    PeerRejectedError,
    Role,
    SelfConnectionError,
)


@pytest.mark.parametrize(
    ("error", "parent"),
    [
        (DuplexError, Exception),
        (PeerClosedError, DuplexError),
        (NotTLSError, DuplexError),
        (HandshakeError, DuplexError),
        (HandshakeTimeoutError, HandshakeError),
        (GlareError, HandshakeError),
        (PeerRejectedError, DuplexError),
        (SelfConnectionError, PeerRejectedError),
    ],
)
def test_the_tree(error: type[Exception], parent: type[Exception]) -> None:
    assert error.__bases__ == (parent,)


def test_message_tells_all_that_is_known() -> None:
    error = HandshakeError(
        "the TLS handshake failed",
        role=Role.CLIENT,
        peer="192.0.2.7:4711",
        seen="a certificate",
        tls_reason="unknown_ca",
        advice="trust it",
    )
    text = str(error)
    for fact in (
        "the TLS handshake failed",
        "client",
        "192.0.2.7:4711",
        "a certificate",
        "unknown_ca",
        "trust it",
    ):
        assert fact in text


def test_message_without_facts_has_no_holes() -> None:
    error = DuplexError("it failed")
    assert (error.role, error.peer, error.seen, error.tls_reason, error.advice) == (None,) * 5
    assert str(error).startswith("it failed (")
    assert "None" not in str(error)
    assert "\n" not in str(error)


def test_facts_of_each() -> None:
    closed = PeerClosedError("left", received=3, reset=True)
    assert (closed.received, closed.reset) == (3, True)
    assert NotTLSError("no", received=b"SSH-").received == b"SSH-"
    assert HandshakeTimeoutError("late", timeout=30.0).timeout == 30.0
    glare = GlareError("crossed", missed_by=0.25, window=5.0)
    assert (glare.missed_by, glare.window) == (0.25, 5.0)


def test_identity_counts_not_equality() -> None:
    one, two = DuplexError("same"), DuplexError("same")
    assert one != two
    assert len({one, two}) == 2


def test_a_traceback_and_a_cause_can_be_attached() -> None:
    cause = ValueError("why")

    def fail() -> None:
        raise SelfConnectionError("ourselves") from cause

    with pytest.raises(PeerRejectedError) as caught:
        fail()
    assert caught.value.__cause__ is cause
    assert caught.value.__traceback__ is not None
    caught.value.add_note("attrs leaves room for notes")


# --------------------------------------------------------------------------------------------- copies


def classes(base: type[DuplexError] = DuplexError) -> Iterator[type[DuplexError]]:
    """Every error of the package, those that are not in the public list too."""
    yield base
    for cls in base.__subclasses__():
        if cls.__module__.startswith("trio_duplex"):
            yield from classes(cls)


def fact(field: attrs.Attribute[Any], number: int) -> object:
    """A value that no other field has, of a type that it may have."""
    annotation = str(field.type)
    if field.name == "role":
        return Role.CLIENT
    if annotation == "bytes":
        return b"\x16\x03\x01"
    return number if annotation in ("int", "float", "bool") else f"fact {number}"


def made(cls: type[Any]) -> DuplexError:
    facts = {each.name: fact(each, number) for number, each in enumerate(attrs.fields(cls))}
    error: DuplexError = cls(**facts)
    error.add_note("a note")
    return error


def pickled(protocol: int) -> Callable[[Any], Any]:
    return lambda error: pickle.loads(pickle.dumps(error, protocol))


COPIES: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    *map(pickled, range(pickle.HIGHEST_PROTOCOL + 1)),
]

ALL = list(dict.fromkeys(classes()))


def test_every_public_error_is_among_them() -> None:
    public = {
        value
        for value in map(trio_duplex.__getattribute__, trio_duplex.__all__)
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert public == {*ALL, CredentialsError} & public
    assert len(public) > 10


@pytest.mark.parametrize("duplicate", COPIES)
@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_an_error_survives_a_copy(
    cls: type[DuplexError], duplicate: Callable[[DuplexError], DuplexError]
) -> None:
    error = made(cls)
    same = duplicate(error)
    assert type(same) is cls
    assert vars(same) == vars(error)
    assert len(vars(same)) == len(attrs.fields(cls)) + 1
    assert (same.args, str(same), repr(same)) == (error.args, str(error), repr(error))
    assert vars(same) is not vars(error)


@pytest.mark.parametrize("duplicate", COPIES)
@pytest.mark.parametrize("defects", [(), ("one",), ("one", "another; with a semicolon")])
def test_credentials_error_survives_a_copy(
    defects: tuple[str, ...], duplicate: Callable[[CredentialsError], CredentialsError]
) -> None:
    error = CredentialsError(*defects)
    same = duplicate(error)
    assert type(same) is CredentialsError
    assert (same.defects, same.args, str(same)) == (defects, error.args, str(error))


class UsersError(DuplexError):
    """As an application may derive it, with a constructor of its own."""

    def __init__(self, tenant: str) -> None:
        super().__init__(f"not for {tenant}", peer="192.0.2.7:4711")
        self.tenant = tenant


@pytest.mark.parametrize("duplicate", COPIES)
def test_a_users_own_error_survives_a_copy(
    duplicate: Callable[[UsersError], UsersError],
) -> None:
    error = UsersError("them")
    same = duplicate(error)
    assert type(same) is UsersError
    assert (same.tenant, same.peer, str(same)) == ("them", error.peer, str(error))
