"""The subcommand ``trio-duplex echo``."""

from __future__ import annotations

from trio_duplex.cli._echo.service import ECHO
from trio_duplex.cli._kinds import all_kinds
from trio_duplex.cli._service.command import service_command

echo = service_command(
    ECHO,
    all_kinds,
    example=(
        "trio-duplex echo --listen 127.0.0.1:8443 \\\n"
        "    --cert node.pem --key node.key --trust ca.pem"
    ),
)
