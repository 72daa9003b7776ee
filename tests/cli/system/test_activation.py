"""LISTEN_FDS and its names: what they hand over, and what is refused."""

from __future__ import annotations

import os
import socket
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.effort import effort
from trio_duplex.cli._system.activation import (
    ActivationError,
    Inherited,
    find_inherited,
    is_listening,
    listen_fds,
    take_listen_fds,
)

pytestmark = pytest.mark.slow


def environ(count: str, names: str | None = None, pid: str = "7") -> dict[str, str]:
    made = {"LISTEN_PID": pid, "LISTEN_FDS": count}
    return made if names is None else made | {"LISTEN_FDNAMES": names}


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({}, []),
        (environ("0"), []),
        (environ("0", ""), []),
        (environ("1"), [Inherited(3)]),
        (environ("2", "tls:admin"), [Inherited(3, "tls"), Inherited(4, "admin")]),
        (environ("2", "tls:"), [Inherited(3, "tls"), Inherited(4, "")]),
        (environ("1", "tls", pid="8"), []),
    ],
)
def test_what_is_handed_over(given_: dict[str, str], expected: list[Inherited]) -> None:
    assert listen_fds(given_, 7) == expected
    left = given_ | {"PATH": "/bin"}
    assert take_listen_fds(left, 7) == expected
    assert left == {"PATH": "/bin"}


@pytest.mark.parametrize(
    "given_",
    [
        environ(""),
        environ("-1"),
        environ("x"),
        environ("²"),
        environ("99999"),
        environ("2", "tls"),
        environ("1", "tls:admin"),
        {"LISTEN_PID": "7"},
    ],
)
def test_what_cannot_be_understood(given_: dict[str, str]) -> None:
    with pytest.raises(ActivationError):
        listen_fds(given_, 7)


@effort
@given(st.text(max_size=5), st.none() | st.text(max_size=9), st.sampled_from(["7", "8", "", "x"]))
def test_any_environment_gives_sockets_or_the_one_error(
    count: str, names: str | None, pid: str
) -> None:
    try:
        found = listen_fds(environ(count, names, pid), 7)
    except ActivationError:
        assert pid == "7"
        return
    assert [each.fd for each in found] == list(range(3, 3 + len(found)))
    assert not found or len(found) == int(count)


def test_sockets_are_found_by_name_or_number() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as two,
    ):
        numbers = [os.dup(one.fileno()), os.dup(two.fileno())]
        inherited = [Inherited(number, "tls") for number in numbers]
        os.set_inheritable(numbers[0], True)
        found = find_inherited(inherited, "tls")
        try:
            assert [sock.getsockname() for sock in found] == [one.getsockname(), two.getsockname()]
            assert not any(os.get_inheritable(sock.fileno()) for sock in found)
            assert all(is_listening(sock) for sock in found)
        finally:
            for sock in found:
                sock.close()
        number = os.dup(one.fileno())
        (found_by_number,) = find_inherited(inherited, str(number))
        with found_by_number:
            assert found_by_number.getsockname() == one.getsockname()


def test_connection_is_told_from_a_listener() -> None:
    ours, theirs = socket.socketpair()
    with theirs, find_inherited([Inherited(ours.detach(), "connection")], "connection")[0] as sock:
        assert not is_listening(sock)


def test_name_that_was_not_handed_over_is_an_error_that_lists_the_names() -> None:
    with pytest.raises(ActivationError, match="admin, tls"):
        find_inherited([Inherited(3, "tls"), Inherited(4, "admin")], "web")


def test_what_is_no_stream_socket_is_refused_and_left_open() -> None:
    with tempfile.TemporaryFile() as file, pytest.raises(ActivationError, match="not a socket"):
        find_inherited([], str(file.fileno()))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        with pytest.raises(ActivationError, match="ListenStream"):
            find_inherited([], str(datagrams.fileno()))
        assert datagrams.getsockname()
    with pytest.raises(ActivationError, match="not a socket"):
        find_inherited([], "1023")
