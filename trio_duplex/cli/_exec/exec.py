"""The subcommand ``trio-duplex exec``."""

from __future__ import annotations

from trio_duplex.cli._exec.service import EXEC
from trio_duplex.cli._kinds import all_kinds
from trio_duplex.cli._service.command import service_command

exec_ = service_command(
    EXEC,
    all_kinds,
    example=(
        "trio-duplex exec --listen :8443 \\\n"
        "    --cert node.pem --key node.key --trust ca.pem -- cat"
    ),
)
