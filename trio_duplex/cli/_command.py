"""The command's root: what subcommands there are. Each has a module of its own."""

from __future__ import annotations

import importlib
import sys

import click

SUBCOMMANDS = {
    "certs": "_certs.certs:certs",
    "check": "_check.check:check",
    "config": "_config.config:config",
    "connect": "_connect.connect:connect",
    "demo": "_demo.demo:demo",
    "echo": "_echo.echo:echo",
    "exec": "_exec.exec:exec_",
    "man": "_man.man:man",
    "proxy": "_proxy.proxy:proxy",
    "rendezvous": "_rendezvous.rendezvous:rendezvous",
    "serve": "_config.serve:serve",
}
"""Each subcommand's module in this package, and its name there."""

if sys.platform != "win32":  # which can wait for sockets with neither epoll nor poll
    SUBCOMMANDS["load"] = "_load.load:load"


class Subcommands(click.Group):
    """Imports a subcommand when it is asked for.

    A start takes half a second, most of it imports. One subcommand uses a
    fraction of what all use together.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of the subcommands, sorted."""
        return sorted(SUBCOMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        cmd_name: str,
    ) -> click.Command | None:
        """Return a subcommand; None if there is none of that name."""
        if cmd_name not in SUBCOMMANDS:
            return None
        module, name = SUBCOMMANDS[cmd_name].split(":")
        try:
            imported = importlib.import_module(f"trio_duplex.cli.{module}")
        except KeyboardInterrupt:  # which click would call "Aborted!", with exit code 1
            sys.exit(130)
        found: click.Command = getattr(imported, name)
        return found


@click.group(cls=Subcommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trio-duplex", prog_name="trio-duplex")
def command() -> None:
    """One TCP port for peers that are TLS clients and peers that are TLS servers."""
