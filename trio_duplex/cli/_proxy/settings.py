"""The options of ``trio-duplex proxy``."""

from __future__ import annotations

import attrs

from trio_duplex.cli._service.addresses import BackendAddress, backend_address
from trio_duplex.cli._service.option import option
from trio_duplex.cli._service.settings import ServiceSettings, positive_seconds

BACKEND = "Backends"


def header_version(text: str) -> str:
    """Read the version of the PROXY protocol."""
    if text not in {"v1", "v2"}:
        raise ValueError(f"{text!r} is not v1 or v2")
    return text


@attrs.frozen(kw_only=True)
class ProxySettings(ServiceSettings):
    """What a proxy is told."""

    to: tuple[BackendAddress, ...] = option(
        backend_address,
        multiple=True,
        metavar="ADDR",
        group=BACKEND,
        help="Backend: HOST:PORT, [V6]:PORT or unix:PATH. If repeated, the next is tried when one is down.",
    )
    to_server: tuple[BackendAddress, ...] = option(
        backend_address,
        multiple=True,
        metavar="ADDR",
        group=BACKEND,
        help="Backend for connections on which we are the TLS server; --to for the others.",
    )
    to_client: tuple[BackendAddress, ...] = option(
        backend_address,
        multiple=True,
        metavar="ADDR",
        group=BACKEND,
        help="Backend for connections on which we are the TLS client; --to for the others.",
    )
    send_proxy: str | None = option(
        header_version,
        metavar="v1|v2",
        group=BACKEND,
        help="Tell the backend by a PROXY protocol header who came; v2 says what TLS says, too.",
    )
    connect_timeout: float = option(
        positive_seconds,
        default=5.0,
        metavar="SECONDS",
        group=BACKEND,
        help="How long one backend has to accept a connection before the next is tried.",
    )
    half_close_timeout: float = option(
        positive_seconds,
        default=30.0,
        metavar="SECONDS",
        group=BACKEND,
        help="How long a peer may send nothing, once the backend has ended, before it is closed.",
    )
