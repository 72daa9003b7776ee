"""The options of ``trio-duplex rendezvous hub`` and ``trio-duplex rendezvous agent``."""

from __future__ import annotations

from typing import Any

import attrs

from trio_duplex.cli._service.addresses import (
    BackendAddress,
    ListenAddress,
    TcpAddress,
    backend_address,
)
from trio_duplex.cli._service.settings import ServiceSettings
from trio_duplex.cli._service.shapes import (
    TIME,
    backends,
    connect_timeout,
    duration,
    flag,
    listeners,
    number,
    several,
)
from trio_duplex.cli._service.values import peer_name, seconds

RENDEZVOUS = "The rendezvous"


def hub_address(text: str) -> TcpAddress:
    """Read the address of a hub, which is dialled by TCP."""
    address = backend_address(text)
    if not isinstance(address, TcpAddress):
        raise ValueError(f"{text!r}: a hub is dialled by TCP: HOST:PORT or [V6]:PORT")
    return address


def _backend_speaks_first(what: str, more: str = "") -> Any:  # noqa: ANN401 - a field specifier
    return flag(
        f"{what}, for protocols in which the server speaks first, such as SSH and SMTP{more}.",
        group=RENDEZVOUS,
    )


@attrs.frozen(kw_only=True)
class HubSettings(ServiceSettings):
    """What a hub is told."""

    listen: tuple[ListenAddress, ...] = listeners(
        "Where local clients come, without TLS: HOST:PORT, [V6]:PORT, unix:PATH or fd:NAME. "
        "May be repeated."
    )
    listen_agents: tuple[ListenAddress, ...] = listeners(
        "Where agents dial in, with mutual TLS, in the same forms. May be repeated.",
        group=RENDEZVOUS,
    )
    agent: tuple[str, ...] = several(
        peer_name,
        "Take only agents whose certificate bears one of these names. May be repeated; "
        "without it, every agent that --trust vouches for is taken.",
        metavar="NAME",
        group=RENDEZVOUS,
    )
    renew_after: float = duration(
        "Close a connection that has waited for so long, for its agent to dial a fresh one; "
        "less than the time after which a NAT on the way forgets it.",
        default=240.0,
        group=RENDEZVOUS,
    )
    wait: float = duration(
        "How long a client waits for an agent before it is closed.",
        default=10.0,
        parse=seconds,
        group=RENDEZVOUS,
    )
    client_patience: float = duration(
        "Close a client that says nothing for so long after it has connected. It is given an "
        "agent when it speaks.",
        default=60.0,
        group=RENDEZVOUS,
    )
    backend_speaks_first: bool = _backend_speaks_first(
        "Give a client an agent at once", "; say it to the agents too"
    )
    # An agent is a TLS server that waits for us: with the window at 0 we greet it at once.
    window: float = duration(
        "Detection window for agents; they are TLS servers, and need none.",
        default=0.0,
        parse=seconds,
        group=TIME,
    )
    # What the common options call so, is --agent here; and nobody anonymous is an agent.
    peer_name: tuple[str, ...] = ()
    anonymous_clients: bool = False

    def __attrs_post_init__(self) -> None:
        """Admit the agents as peers: the policy looks at `peer_name`."""
        object.__setattr__(self, "peer_name", self.agent)


@attrs.frozen(kw_only=True)
class AgentSettings(ServiceSettings):
    """What an agent is told."""

    # It listens nowhere, and waits for nobody's first bytes.
    listen: tuple[ListenAddress, ...] = ()
    window: float = 0.0
    anonymous_clients: bool = False

    dial: tuple[TcpAddress, ...] = several(
        hub_address,
        "Where the hub listens for agents: HOST:PORT or [V6]:PORT. May be repeated: every one "
        "is given spares.",
        metavar="HUB",
        group=RENDEZVOUS,
    )
    to: tuple[BackendAddress, ...] = backends(group=RENDEZVOUS)
    announce: bool = flag(
        "Announce to the hub that we are the TLS server, for a hub that has a detection "
        "window: it need not wait for it to end.",
        group=RENDEZVOUS,
    )
    spare: float = number("How many connections wait at each hub.", default=4, group=RENDEZVOUS)
    most_spare: float = number(
        "How many may wait when clients come faster than connections can be dialled: each "
        "time that none is left, twice as many are kept, until clients are fewer again.",
        default=64,
        group=RENDEZVOUS,
    )
    retry_first: float = duration(
        "After a failure, dial again within so long; within twice as long after each further "
        "one, at a random moment.",
        default=0.5,
        group=RENDEZVOUS,
    )
    retry_most: float = duration("What that time grows to.", default=30.0, group=RENDEZVOUS)
    connect_timeout: float = connect_timeout(
        "the hub, and each backend,", default=5.0, group=RENDEZVOUS
    )
    backend_speaks_first: bool = _backend_speaks_first(
        "Connect to the backend as soon as a connection waits"
    )
