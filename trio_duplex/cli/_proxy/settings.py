"""The options of ``trio-duplex proxy``."""

from __future__ import annotations

import attrs

from trio_duplex.cli._service.addresses import BackendAddress
from trio_duplex.cli._service.option import option
from trio_duplex.cli._service.settings import ServiceSettings
from trio_duplex.cli._service.shapes import backends, connect_timeout, duration

BACKEND = "Backends"


def header_version(text: str) -> str:
    """Read the version of the PROXY protocol."""
    if text not in {"v1", "v2"}:
        raise ValueError(f"{text!r} is not v1 or v2")
    return text


@attrs.frozen(kw_only=True)
class ProxySettings(ServiceSettings):
    """What a proxy is told."""

    to: tuple[BackendAddress, ...] = backends(group=BACKEND)
    to_server: tuple[BackendAddress, ...] = backends(
        "Backend for connections on which we are the TLS server; --to for the others.",
        group=BACKEND,
    )
    to_client: tuple[BackendAddress, ...] = backends(
        "Backend for connections on which we are the TLS client; --to for the others.",
        group=BACKEND,
    )
    send_proxy: str | None = option(
        header_version,
        metavar="v1|v2",
        group=BACKEND,
        help="Tell the backend by a PROXY protocol header who came; v2 says what TLS says, too.",
    )
    connect_timeout: float = connect_timeout("each backend", default=5.0, group=BACKEND)
    half_close_timeout: float = duration(
        "How long a peer may send nothing, once the backend has ended, before it is closed.",
        default=30.0,
        group=BACKEND,
    )
