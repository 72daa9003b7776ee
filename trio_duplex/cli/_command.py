"""The command's root: what subcommands there are. Each has a module of its own."""

from __future__ import annotations

import gc
import importlib
import sys

import click
from click.shell_completion import CompletionItem

from trio_duplex.cli._examples import HelpfulGroup
from trio_duplex.cli._usage import OneLineUsageGroup

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

SUMMARIES = {
    "certs": "Make certificates for tests and labs, one for each NAME, in files in DIR.",
    "check": "Check whether a certificate can be presented in both TLS roles.",
    "config": "Check a configuration FILE, and print what would be in force.",
    "connect": "Connect to HOST:PORT in either TLS role, and copy standard input and output.",
    "demo": "Let peers of both TLS roles dial one port, and show the decisions.",
    "echo": "Send back what each peer sends, in whichever role it leaves us.",
    "exec": "Run a program for each connection, with plaintext on its standard input and output.",
    "man": "Print the manual page, or write the pages of all subcommands.",
    "proxy": "Take TLS off in whichever role the peer leaves us, and forward plaintext to a backend.",
    "rendezvous": "Serve from behind a firewall: agents dial out to a hub, and clients come to the hub.",
    "serve": "Run all services of a configuration FILE in one process.",
    "load": "Dial a server at a steady rate with speaking, silent and hostile peers.",
}
"""What the list of subcommands says of each: the first sentence of its help."""


class Subcommands(OneLineUsageGroup):
    """Imports a subcommand when it is asked for, and none to list them.

    A start takes a third of a second, most of it imports. One subcommand uses a
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
        gc.enable()
        found: click.Command = getattr(imported, name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of the subcommands."""
        _listed().format_commands(ctx, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the names of subcommands, and our own options."""
        listed = _listed()
        return [
            *(
                CompletionItem(name, help=listed.commands[name].get_short_help_str())
                for name in self.list_commands(ctx)
                if name.startswith(incomplete)
            ),
            *click.Command.shell_complete(self, ctx, incomplete),
        ]


def _listed() -> HelpfulGroup:
    """A group of commands that have their names and summaries, and nothing more."""
    return HelpfulGroup(
        commands=[click.Command(name, help=SUMMARIES[name]) for name in SUBCOMMANDS]
    )


@click.group(cls=Subcommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trio-duplex", prog_name="trio-duplex")
def command() -> None:
    """One TCP port for peers that are TLS clients and peers that are TLS servers."""
