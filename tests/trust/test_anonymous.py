"""Anonymous clients are admitted only in the server role and only with `anonymous_clients=True`; nothing else changes."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from typing import NoReturn

import pytest
from trio.testing import MockClock

from tests.support.authority import FLEET, STRANGERS, Leaf
from tests.support.trust import GREETING, LISTENER, context, meet, mutual
from trio_duplex import (
    Credentials,
    CredentialsError,
    HandshakeError,
    PeerPolicy,
    PeerRejectedError,
    Role,
)

pytestmark = pytest.mark.slow


PEER = FLEET.issue("peer.example")
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
each_version = pytest.mark.parametrize("version", [TLS12, TLS13], ids=["TLS1.2", "TLS1.3"])


def of_contexts(
    peer: PeerPolicy | None = None,
    *,
    mode: ssl.VerifyMode = ssl.CERT_OPTIONAL,
    anonymous_clients: bool = True,
) -> Credentials:
    made = {role: context(role, LISTENER) for role in Role}
    made[Role.SERVER].verify_mode = mode
    return Credentials(
        server_context=made[Role.SERVER],
        client_context=made[Role.CLIENT],
        peer=peer,
        anonymous_clients=anonymous_clients,
    )


def of_files(peer: PeerPolicy | None = None) -> Credentials:
    return mutual(peer=peer, anonymous_clients=True)


each_way = pytest.mark.parametrize("make", [of_files, of_contexts])


def never(*asked: object) -> NoReturn:
    raise AssertionError


@each_way
@each_version
async def test_a_client_without_a_certificate(
    version: ssl.TLSVersion,
    make: Callable[..., Credentials],
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "trio_duplex")
    meeting = await meet(make(never), Role.SERVER, context(Role.CLIENT, None, version=version))
    (connection,) = meeting.handled
    assert meeting.heard == GREETING
    assert connection.is_anonymous
    with pytest.raises(ValueError, match="is_anonymous"):
        _ = connection.peer
    assert any("identity=anonymous" in record.getMessage() for record in caplog.records)


@each_way
@each_version
async def test_a_client_with_a_certificate_is_judged_as_usual(
    version: ssl.TLSVersion, make: Callable[..., Credentials], autojump_clock: MockClock
) -> None:
    peer = context(Role.CLIENT, PEER, version=version)
    meeting = await meet(make(), Role.SERVER, peer)
    (connection,) = meeting.handled
    assert not connection.is_anonymous
    assert connection.peer.dns_names == ("peer.example",)
    meeting = await meet(make(lambda *asked: False), Role.SERVER, peer)
    assert type(meeting.error) is PeerRejectedError


@each_way
@each_version
@pytest.mark.parametrize("leaf", [STRANGERS.issue("peer.example")])
async def test_a_bad_certificate_is_refused_although_none_is_admitted(
    leaf: Leaf, version: ssl.TLSVersion, make: Callable[..., Credentials], autojump_clock: MockClock
) -> None:
    peer = context(Role.CLIENT, leaf, version=version)
    meeting = await meet(make(), Role.SERVER, peer)
    assert type(meeting.error) is HandshakeError
    assert meeting.handled == []


@each_way
@each_version
async def test_the_client_role_verifies_as_usual(
    version: ssl.TLSVersion, make: Callable[..., Credentials], autojump_clock: MockClock
) -> None:
    stranger = context(Role.SERVER, STRANGERS.issue("peer.example"), version=version)
    stranger.verify_mode = ssl.CERT_NONE
    meeting = await meet(make(), Role.CLIENT, stranger)
    assert type(meeting.error) is HandshakeError
    refused = context(Role.SERVER, PEER, version=version)
    meeting = await meet(make(lambda *asked: False), Role.CLIENT, refused)
    assert type(meeting.error) is PeerRejectedError


@each_way
def test_anonymous_clients_show_in_repr_and_log(
    make: Callable[..., Credentials], caplog: pytest.LogCaptureFixture
) -> None:
    made = make()
    assert "anonymous_clients=True" in repr(made)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    if make is of_files:  # once, at the start
        mutual()
        assert "anonymous" not in repr(mutual())
    assert len(caplog.records) == 1


def test_anonymous_clients_with_contexts_of_the_user() -> None:
    for mode in (ssl.CERT_NONE, ssl.CERT_REQUIRED):
        with pytest.raises(CredentialsError, match="CERT_OPTIONAL"):
            of_contexts(mode=mode)
    with pytest.raises(CredentialsError, match="verify_mode"):
        of_contexts(anonymous_clients=False)
