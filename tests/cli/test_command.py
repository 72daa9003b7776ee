"""The root of the command: every subcommand can be had, and only the one that is asked for is imported."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from trio_duplex.cli._command import SUBCOMMANDS, command


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_each_subcommand(name: str) -> None:
    found = command.get_command(click.Context(command), name)
    assert found is not None
    assert found.name == name
    assert found.help


def test_all_are_listed() -> None:
    shown = CliRunner().invoke(command, ["--help"])
    assert shown.exit_code == 0
    names = [
        line.split()[0] for line in shown.output.partition("Commands:")[2].splitlines() if line
    ]
    assert names == sorted(SUBCOMMANDS)


def test_one_that_does_not_exist() -> None:
    result = CliRunner().invoke(command, ["prox"])
    assert result.exit_code == 2
    assert "prox" in result.stderr


def test_the_others_are_not_imported() -> None:
    script = (
        "import sys; from trio_duplex.cli._command import command\n"
        "try: command(['echo', '--help'])\n"
        "finally: print(*(name for name in sys.modules if name.startswith('trio_duplex.cli.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    imported = set(done.stdout.splitlines()[-1].split())
    assert "trio_duplex.cli._echo.echo" in imported
    assert not imported & {"trio_duplex.cli._check.check", "trio_duplex.cli._load.load"}


def test_interrupted_while_it_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.import_module", interrupted)
    assert CliRunner().invoke(command, ["echo"]).exit_code == 130
