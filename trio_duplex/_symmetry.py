"""No weaker role: what two TLS contexts demand of the peer must be the same.

The peer picks the role, and so it picks the weaker check if there is one.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import cast

from trio_duplex._role import Role

FLOOR = ssl.TLSVersion.TLSv1_2
"""The lowest TLS version in either role (RFC 9325 section 3.1.1)."""


def unfitness(context: ssl.SSLContext, role: Role) -> str | None:
    """Say what makes a context unfit whatever the other one does, or None."""
    wrong = ssl.PROTOCOL_TLS_CLIENT if role is Role.SERVER else ssl.PROTOCOL_TLS_SERVER
    if context.protocol is wrong:
        return f"the {role} context is a {context.protocol.name}"
    if context.minimum_version < FLOOR or context.protocol not in _MODERN:
        return (
            f"the {role} context allows TLS below 1.2; "
            "set its minimum_version to ssl.TLSVersion.TLSv1_2 or later"
        )
    return None


_MODERN = {ssl.PROTOCOL_TLS, ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER}


def differences(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str, ...]:
    """Name each demand on the peer that one role makes and the other does not."""
    found: list[str] = []
    for role, context in ((Role.SERVER, server), (Role.CLIENT, client)):
        if context.verify_mode is not ssl.CERT_REQUIRED:
            found.append(
                f"the {role} role does not require the peer's certificate "
                f"(verify_mode is {context.verify_mode.name})"
            )
    if client.check_hostname:
        found.append(
            "the client role checks host names (check_hostname) and the server role can't; "
            "turn it off, and name the peer by peer=NamedPeer(...)"
        )
    for what, value_of in _DEMANDS.items():
        ours, theirs = value_of(server), value_of(client)
        if ours != theirs:
            found.append(
                f"{what} differ: {_show(ours)} in the server role, "
                f"{_show(theirs)} in the client role"
            )
    return tuple(found)


_DEMANDS: dict[str, Callable[[ssl.SSLContext], object]] = {
    "trust roots": lambda context: frozenset(context.get_ca_certs(binary_form=True)),
    "numbers of trusted certificates": lambda context: tuple(context.cert_store_stats().items()),
    "minimum TLS versions": lambda context: context.minimum_version,
    "verify_flags": lambda context: context.verify_flags,
    "security levels": lambda context: context.security_level,
}


def _show(value: object) -> str:
    match value:
        case frozenset():
            return f"a set of {len(cast('frozenset[bytes]', value))}"
        case ssl.TLSVersion() | ssl.VerifyFlags():
            return value.name or repr(value)
        case _:
            return str(value)


def presented_certificate(server_context: ssl.SSLContext) -> bytes | None:
    """Find out what a server context presents, by a handshake in memory.

    Returns:
        The leaf certificate, DER; None if it has none, or tells none.
    """
    probe = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    probe.check_hostname = False
    probe.verify_mode = ssl.CERT_NONE  # nothing is believed: our own certificate is read
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = probe.wrap_bio(to_client, to_server)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for end in (client, server, client, server, client):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError:  # the server wants a certificate of the probe, in TLS 1.2
            break
    try:
        return client.getpeercert(binary_form=True)
    except ValueError:  # it did not come that far
        return None
