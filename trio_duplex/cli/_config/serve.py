"""The subcommand ``trio-duplex serve``: every service of a configuration file, in one process."""

from __future__ import annotations

from trio_duplex.cli._kinds import all_kinds
from trio_duplex.cli._service.command import serve_command

serve = serve_command(all_kinds, example="trio-duplex serve trio-duplex.toml")
