"""The root of the command: every subcommand can be had, and only the one that is asked for is imported."""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from trio_duplex.cli._command import SUBCOMMANDS, SUMMARIES, command


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_each_subcommand(name: str) -> None:
    found = command.get_command(click.Context(command), name)
    assert found is not None
    assert found.name == name
    assert found.get_short_help_str(1000) == SUMMARIES[name]


def test_all_are_listed() -> None:
    shown = CliRunner().invoke(command, ["--help"])
    assert shown.exit_code == 0
    listed = shown.output.partition("Commands:")[2]
    assert re.findall(r"^  (\S+)", listed, re.MULTILINE) == sorted(SUBCOMMANDS)


@pytest.mark.parametrize("words", [[], ["rendezvous"]], ids=["root", "rendezvous"])
@pytest.mark.parametrize("width", [50, 80])
def test_what_each_does_is_said_whole(words: list[str], width: int) -> None:
    shown = CliRunner().invoke(command, [*words, "--help"], terminal_width=width)
    assert shown.exit_code == 0
    assert "..." not in shown.output.partition("Commands:")[2]
    assert max(map(len, shown.output.splitlines())) <= width


@pytest.mark.parametrize("incomplete", ["", "c", "echo", "x"])
def test_completion_of_names(incomplete: str) -> None:
    items = command.shell_complete(click.Context(command), incomplete)
    assert {item.value: item.help for item in items} == {
        name: click.Command(name, help=summary).get_short_help_str()
        for name, summary in SUMMARIES.items()
        if name in SUBCOMMANDS and name.startswith(incomplete)
    }


def test_completion_of_the_root_s_own_options() -> None:
    items = command.shell_complete(click.Context(command), "--v")
    assert [item.value for item in items] == ["--version"]


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["prox"], ["proxy"]),
        (["conect"], ["connect", "check", "certs"]),
        (["re"], ["rendezvous"]),
        (["zzz"], []),
        (["rendezvous", "hubb"], ["hub"]),
    ],
    ids=" ".join,
)
def test_one_that_does_not_exist(words: list[str], nearest: list[str]) -> None:
    result = CliRunner().invoke(command, words)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert repr(words[-1]) in line
    assert "--help" in line
    said = re.findall(r"[a-z]+", line.partition(": the nearest")[2].partition(";")[0])
    assert [word for word in said if word not in {"is", "are", "and"}] == nearest


WRONG = {
    "an option of the root": ["--bogus"],
    "no subcommand": ["--"],
    "an option of a group": ["rendezvous", "--bogus"],
    **{name: [name, "--bogus"] for name in SUBCOMMANDS if name != "exec"},
    "a value": ["demo", "--window", "soon"],
    "no argument": ["config"],
    "no file": ["check", "--cert", "there-is-none"],
}


@pytest.mark.parametrize("name", WRONG)
def test_usage_errors_are_one_line_that_names_the_help(name: str) -> None:
    result = CliRunner().invoke(command, WRONG[name], prog_name="trio-duplex")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    path = "trio-duplex" if WRONG[name][0].startswith("-") else f"trio-duplex {WRONG[name][0]}"
    assert line.startswith("trio-duplex: ")
    assert line.endswith((f"see {path} --help", f"See {path} --help"))


@pytest.mark.parametrize("words", [[], ["rendezvous"]], ids=["root", "rendezvous"])
def test_without_a_subcommand_the_help_is_shown(words: list[str]) -> None:
    result = CliRunner().invoke(command, words)
    assert result.exit_code == 2
    assert "Commands:" in result.stderr


def imported_by(*words: str) -> set[str]:
    """The names of all modules that a command line imports."""
    script = (
        "import sys; from trio_duplex.cli import main\ntry: main()\nfinally: print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.slow
def test_the_others_are_not_imported() -> None:
    imported = imported_by("echo", "--help")
    assert "trio_duplex.cli._echo.echo" in imported
    assert not imported & {
        "trio_duplex.cli._check.check",
        "trio_duplex.cli._exec.service",
        "trio_duplex.cli._load.load",
        "rich",
    }


@pytest.mark.slow
def test_the_list_imports_none() -> None:
    imported = imported_by("--help")
    assert not imported & {"trio", "ssl", "cryptography", "rich", "trio_duplex._public"}


@pytest.mark.slow
def test_collector_is_as_it_was() -> None:
    script = (
        "import gc; from trio_duplex.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(gc.isenabled())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "True"


def test_interrupted_while_it_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.import_module", interrupted)
    assert CliRunner().invoke(command, ["echo"]).exit_code == 130


def test_a_wrong_argument_is_called_as_in_the_help() -> None:
    result = CliRunner().invoke(command, ["connect", "127.0.0.1"])
    assert result.exit_code == 2
    assert result.stderr.startswith("trio-duplex: HOST:PORT: '127.0.0.1' is not HOST:PORT")
