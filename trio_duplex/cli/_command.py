"""The command's root: what subcommands there are. Each has a module of its own."""

from __future__ import annotations

import sys

import click

from trio_duplex.cli._certs.certs import certs
from trio_duplex.cli._check.check import check
from trio_duplex.cli._config.config import config
from trio_duplex.cli._config.serve import serve
from trio_duplex.cli._connect.connect import connect
from trio_duplex.cli._demo.demo import demo
from trio_duplex.cli._echo.echo import echo
from trio_duplex.cli._exec.exec import exec_
from trio_duplex.cli._proxy.proxy import proxy
from trio_duplex.cli._rendezvous.rendezvous import rendezvous


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trio-duplex", prog_name="trio-duplex")
def command() -> None:
    """One TCP port for peers that are TLS clients and peers that are TLS servers."""


command.add_command(certs)
command.add_command(check)
command.add_command(config)
command.add_command(connect)
command.add_command(demo)
command.add_command(echo)
command.add_command(exec_)
command.add_command(proxy)
command.add_command(rendezvous)
command.add_command(serve)

if sys.platform != "win32":  # which can wait for sockets with neither epoll nor poll
    from trio_duplex.cli._load.load import load

    command.add_command(load)
