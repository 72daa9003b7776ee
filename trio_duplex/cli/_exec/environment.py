"""What a program learns from its environment: who came, by which TLS, and which role we play.

The names of s6-networking and ucspi-ssl are set both, since programs exist for
each; what neither has begins with ``TRIO_DUPLEX_``. Nothing in it is secret.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping

from trio_duplex import Address
from trio_duplex.cli._service.facts import Facts


def program_environment(
    facts: Facts,
    *,
    from_same_address: int,
    parent: Mapping[str, str],
    pass_on: Iterable[str] = (),
    extra: Iterable[tuple[str, str]] = (),
) -> dict[str, str]:
    """Make the environment of a program.

    Args:
        facts: What is known of the connection.
        from_same_address: Connections that are open from the peer's address,
            this one among them.
        parent: Our own environment.
        pass_on: Names of variables of it to pass on, or patterns; ``PATH`` always is.
        extra: Names and values to set in addition.
    """
    patterns = ("PATH", *pass_on)
    made = {
        name: value
        for name, value in parent.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }
    made |= dict(extra)
    remote, local = _ip_end(facts.remote_address), _ip_end(facts.local_address)
    made["PROTO"] = "TCP" if remote or local else "IPC"
    if remote:
        for prefix in ("TCP", "SSL"):
            made |= {f"{prefix}REMOTEIP": remote[0], f"{prefix}REMOTEPORT": remote[1]}
        made["TCPCONNNUM"] = str(from_same_address)
    if local:
        for prefix in ("TCP", "SSL"):
            made |= {f"{prefix}LOCALIP": local[0], f"{prefix}LOCALPORT": local[1]}
    made |= {
        "SSL_PROTOCOL": facts.version,
        "SSL_CIPHER": facts.cipher,
        "TRIO_DUPLEX_ROLE": str(facts.role),
        "TRIO_DUPLEX_REASON": str(facts.reason),
        "TRIO_DUPLEX_WAITED": f"{facts.waited:.3f}",
    }
    if facts.server_name:
        made["SSL_TLS_SNI_SERVERNAME"] = printable(facts.server_name)
    if facts.identity is not None:
        made["SSL_PEER_CERT_HASH"] = f"SHA256:{facts.identity.certificate_sha256}"
        made["SSL_PEER_CERT_SUBJECT"] = printable(facts.identity.subject)
        made["TRIO_DUPLEX_PEER"] = " ".join(
            printable(name).replace(" ", "\\x20") for name in facts.identity.names
        )
    return made


def printable(text: str) -> str:
    """Escape what is not printable ASCII: a certificate's words must not end a line of a log or script."""
    return "".join(
        char if char.isascii() and char.isprintable() else ascii(char)[1:-1] for char in text
    )


def _ip_end(address: Address | None) -> tuple[str, str] | None:
    if address is None or isinstance(address, str):
        return None
    host, port = address[:2]
    return host.removeprefix("::ffff:") if "." in host else host, str(port)
