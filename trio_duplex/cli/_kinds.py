"""The kinds of service that a configuration file may name."""

from __future__ import annotations

from collections.abc import Mapping

from trio_duplex.cli._service.configuration import Kind


def all_kinds() -> Mapping[str, Kind]:
    """Every kind, by its table's name."""
    # Imported here, because a subcommand without a file needs its own kind only.
    from trio_duplex.cli._echo.service import ECHO
    from trio_duplex.cli._exec.service import EXEC
    from trio_duplex.cli._proxy.service import PROXY
    from trio_duplex.cli._rendezvous.agent import AGENT
    from trio_duplex.cli._rendezvous.hub import HUB

    return {kind.name: kind for kind in (PROXY, EXEC, ECHO, HUB, AGENT)}
