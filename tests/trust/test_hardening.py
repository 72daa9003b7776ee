"""The settings of every TLS context, ours and the user's: cipher suites, and ends that need a close_notify."""

from __future__ import annotations

import logging
import ssl

import pytest
import trio

from tests.support.authority import AUTHORITY
from tests.support.contexts import new_context
from tests.support.peers import NODE, connection_pair, each_role, each_version, pin, tcp_pair
from trio_duplex import Credentials, CredentialsError, Role
from trio_duplex._trust.parameters import CIPHERS

pytestmark = pytest.mark.slow


def own_context(role: Role, ciphers: str | None = None) -> ssl.SSLContext:
    context = new_context(role)
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    if ciphers is not None:
        context.set_ciphers(ciphers)
    NODE.configure_cert(context)
    AUTHORITY.configure_trust(context)
    return context


def of_contexts(ciphers: str | None = None, *, allow_self: bool = False) -> Credentials:
    return Credentials(
        server_context=own_context(Role.SERVER, ciphers),
        client_context=own_context(Role.CLIENT, ciphers),
        allow_self=allow_self,
    )


def made(whose: str, *, allow_self: bool = False) -> Credentials:
    if whose == "ours":
        return Credentials.mutual(certificate_chain=NODE, trust=AUTHORITY, allow_self=allow_self)
    return of_contexts(allow_self=allow_self)


def suites(context: ssl.SSLContext) -> list[str]:
    return [suite["name"] for suite in context.get_ciphers() if suite["protocol"] != "TLSv1.3"]


whosever = pytest.mark.parametrize("whose", ["ours", "the user's"])


@whosever
@each_role
def test_the_suites_are_the_same_on_every_python(whose: str, role: Role) -> None:
    context = made(whose).context(role)
    assert set(suites(context)) == set(CIPHERS)
    for suite in context.get_ciphers():
        assert suite["aead"]
        assert suite["protocol"] == "TLSv1.3" or suite["kea"] == "kx-ecdhe"
    assert context.security_level >= 2 or whose != "ours"


@whosever
@each_role
def test_a_cut_is_not_taken_for_an_end(whose: str, role: Role) -> None:
    options = made(whose).context(role).options
    assert not options & ssl.OP_IGNORE_UNEXPECTED_EOF
    assert options & ssl.OP_NO_RENEGOTIATION


@whosever
@each_role
@each_version
async def test_a_fin_without_a_close_notify_is_an_error(
    whose: str, role: Role, version: ssl.TLSVersion
) -> None:
    credentials, peer = made(whose, allow_self=True), made("ours", allow_self=True)
    pin(credentials.context(role), version)
    with trio.fail_after(10):
        streams = await tcp_pair()
        ends = {role: credentials, role.other: peer}
        pair = await connection_pair(
            server=ends[Role.SERVER], client=ends[Role.CLIENT], streams=streams
        )
        connection, other = pair if role is Role.SERVER else pair[::-1]
        await other.send_all(b"transfer 100")  # of "transfer 10000"
        await trio.aclose_forcefully(other)
        assert await connection.receive_some() == b"transfer 100"
        with pytest.raises(trio.BrokenResourceError):
            await connection.receive_some()
        await connection.aclose()


def test_a_subset_of_the_suites_stays(caplog: pytest.LogCaptureFixture) -> None:
    chosen = "ECDHE-ECDSA-AES128-GCM-SHA256"
    credentials = of_contexts(chosen)
    assert suites(credentials.server_context) == suites(credentials.client_context) == [chosen]
    assert not caplog.records


def test_removed_suites_are_logged_if_the_user_had_allowed_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    credentials = of_contexts("ECDHE-ECDSA-AES128-GCM-SHA256:AES128-SHA:@SECLEVEL=0")
    assert suites(credentials.server_context) == ["ECDHE-ECDSA-AES128-GCM-SHA256"]
    default = {suite["name"] for suite in ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).get_ciphers()}
    expected = "AES128-SHA" not in default  # Debian's own list has it
    assert any("AES128-SHA" in record.getMessage() for record in caplog.records) is expected
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_no_remaining_suite_is_refused() -> None:
    with pytest.raises(CredentialsError, match="forward-secret"):
        of_contexts("AES128-SHA:@SECLEVEL=0")


@each_role
def test_suites_of_tls_1_2_do_not_matter_without_tls_1_2(role: Role) -> None:
    """No allowed suite of TLS 1.2 would be left, and OpenSSL takes no empty list."""
    made = {each: own_context(each, "AES128-SHA:@SECLEVEL=0") for each in Role}
    for context in made.values():
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    credentials = Credentials(
        server_context=made[Role.SERVER], client_context=made[Role.CLIENT], allow_asymmetric=True
    )
    assert suites(credentials.context(role)) == ["AES128-SHA"]
