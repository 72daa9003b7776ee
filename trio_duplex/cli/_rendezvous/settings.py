"""The options of ``trio-duplex rendezvous hub`` and ``trio-duplex rendezvous agent``."""

from __future__ import annotations

import attrs

from trio_duplex.cli._service.addresses import (
    BackendAddress,
    ListenAddress,
    TcpAddress,
    backend_address,
    listen_address,
)
from trio_duplex.cli._service.option import option
from trio_duplex.cli._service.settings import (
    TIME,
    ServiceSettings,
    count,
    peer_name,
    positive_seconds,
    seconds,
)

RENDEZVOUS = "The rendezvous"


def hub_address(text: str) -> TcpAddress:
    """Read the address of a hub, which is dialled by TCP."""
    address = backend_address(text)
    if not isinstance(address, TcpAddress):
        raise ValueError(f"{text!r}: a hub is dialled by TCP: HOST:PORT or [V6]:PORT")
    return address


@attrs.frozen(kw_only=True)
class HubSettings(ServiceSettings):
    """What a hub is told."""

    listen: tuple[ListenAddress, ...] = option(
        listen_address,
        multiple=True,
        metavar="ADDR",
        help="Where local clients come, without TLS: HOST:PORT, [V6]:PORT, unix:PATH or fd:NAME. "
        "May be repeated.",
    )
    listen_agents: tuple[ListenAddress, ...] = option(
        listen_address,
        multiple=True,
        metavar="ADDR",
        group=RENDEZVOUS,
        help="Where agents dial in, with mutual TLS, in the same forms. May be repeated.",
    )
    agent: tuple[str, ...] = option(
        peer_name,
        multiple=True,
        metavar="NAME",
        group=RENDEZVOUS,
        help="Take only agents whose certificate bears one of these names. May be repeated; "
        "without it, every agent that --trust vouches for is taken.",
    )
    renew_after: float = option(
        positive_seconds,
        default=240.0,
        metavar="SECONDS",
        group=RENDEZVOUS,
        help="Close a connection that has waited for so long, for its agent to dial a fresh one; "
        "less than the time after which a NAT on the way forgets it.",
    )
    wait: float = option(
        seconds,
        default=10.0,
        metavar="SECONDS",
        group=RENDEZVOUS,
        help="How long a client waits for an agent before it is closed.",
    )
    client_patience: float = option(
        positive_seconds,
        default=60.0,
        metavar="SECONDS",
        group=RENDEZVOUS,
        help="Close a client that says nothing for so long after it has connected. It is given an "
        "agent when it speaks.",
    )
    backend_speaks_first: bool = option(
        str,
        flag=True,
        group=RENDEZVOUS,
        help="Give a client an agent at once, for protocols in which the server speaks first, "
        "such as SSH and SMTP; say it to the agents too.",
    )
    # An agent is a TLS server that waits for us: with the window at 0 we greet it at once.
    window: float = option(
        seconds,
        default=0.0,
        metavar="SECONDS",
        group=TIME,
        help="Detection window for agents; they are TLS servers, and need none.",
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

    dial: tuple[TcpAddress, ...] = option(
        hub_address,
        multiple=True,
        metavar="HUB",
        group=RENDEZVOUS,
        help="Where the hub listens for agents: HOST:PORT or [V6]:PORT. May be repeated: every one "
        "is given spares.",
    )
    to: tuple[BackendAddress, ...] = option(
        backend_address,
        multiple=True,
        metavar="ADDR",
        group=RENDEZVOUS,
        help="Backend: HOST:PORT, [V6]:PORT or unix:PATH. If repeated, the next is tried when one "
        "is down.",
    )
    announce: bool = option(
        str,
        flag=True,
        group=RENDEZVOUS,
        help="Announce to the hub that we are the TLS server, for a hub that has a detection "
        "window: it need not wait for it to end.",
    )
    spare: float = option(
        count,
        default=4,
        metavar="N",
        group=RENDEZVOUS,
        help="How many connections wait at each hub.",
    )
    most_spare: float = option(
        count,
        default=64,
        metavar="N",
        group=RENDEZVOUS,
        help="How many may wait when clients come faster than connections can be dialled: each "
        "time that none is left, twice as many are kept, until clients are fewer again.",
    )
    retry_first: float = option(
        positive_seconds,
        default=0.5,
        metavar="SECONDS",
        group=RENDEZVOUS,
        help="After a failure, dial again within so long; within twice as long after each further "
        "one, at a random moment.",
    )
    retry_most: float = option(
        positive_seconds,
        default=30.0,
        metavar="SECONDS",
        group=RENDEZVOUS,
        help="What that time grows to.",
    )
    connect_timeout: float = option(
        positive_seconds,
        default=5.0,
        metavar="SECONDS",
        group=RENDEZVOUS,
        help="How long the hub, and a backend, have to accept a connection.",
    )
    backend_speaks_first: bool = option(
        str,
        flag=True,
        group=RENDEZVOUS,
        help="Connect to the backend as soon as a connection waits, for protocols in which the "
        "server speaks first, such as SSH and SMTP.",
    )
