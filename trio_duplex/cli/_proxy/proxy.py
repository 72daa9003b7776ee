"""The subcommand ``trio-duplex proxy``."""

from __future__ import annotations

from trio_duplex.cli._kinds import all_kinds
from trio_duplex.cli._proxy.service import PROXY
from trio_duplex.cli._service.command import service_command

proxy = service_command(
    PROXY,
    all_kinds,
    example=(
        "trio-duplex proxy --listen :8443 --to 127.0.0.1:8080 \\\n"
        "    --cert node.pem --key node.key --trust ca.pem"
    ),
)
