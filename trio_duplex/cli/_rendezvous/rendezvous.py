"""``trio-duplex rendezvous``: its two subcommands, one for each end."""

from __future__ import annotations

import click

from trio_duplex.cli._examples import HelpfulGroup
from trio_duplex.cli._kinds import all_kinds
from trio_duplex.cli._rendezvous.agent import AGENT
from trio_duplex.cli._rendezvous.hub import HUB
from trio_duplex.cli._service.command import service_command


@click.group(cls=HelpfulGroup)
def rendezvous() -> None:
    """Serve from behind a firewall: agents dial out to a hub, and clients come to the hub."""


rendezvous.add_command(
    service_command(
        HUB,
        all_kinds,
        example=(
            "trio-duplex rendezvous hub --listen-agents :8443 --listen 127.0.0.1:8080 \\\n"
            "    --agent site-1.example --cert hub.pem --key hub.key --trust fleet-ca.pem"
        ),
    )
)
rendezvous.add_command(
    service_command(
        AGENT,
        all_kinds,
        example=(
            "trio-duplex rendezvous agent --dial hub.example:8443 --to 127.0.0.1:80 \\\n"
            "    --peer-name hub.example \\\n"
            "    --cert site-1.pem --key site-1.key --trust fleet-ca.pem"
        ),
    )
)
