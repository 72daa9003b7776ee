"""`trio-duplex config`: what is in force and where it comes from; and the help of all subcommands."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from trio_duplex.cli._command import command
from trio_duplex.cli._kinds import all_kinds
from trio_duplex.cli._service.configuration import Kind
from trio_duplex.cli._service.option import options_of, show_value

FILE = """
window = 2
cert = "${CERTIFICATES}/node.pem"
trust = "ca.pem"
[proxy]
send-proxy = "v2"
[proxy.web]
listen = ["127.0.0.1:1", "unix:web.sock"]
to = "10.0.0.1:80"
window = 3
[proxy.other]
listen = ":2"
to = ["10.0.0.1:80", "unix:/run/app.sock"]
[exec.shell]
listen = "fd:shell"
program = ["sh", "-c", "echo $$HOME"]
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CERTIFICATES", "/etc/certificates")
    path = tmp_path / "service.toml"
    path.write_text(FILE)
    return path


def config(*arguments: object) -> Result:
    return CliRunner().invoke(command, ["config", *map(str, arguments)])


def rows(output: str) -> dict[tuple[str, str], tuple[str, str]]:
    """From service and option to value and origin."""
    head, *lines = output.splitlines()
    starts = [head.index(word) for word in ("service", "option", "value", "origin")]
    cells = [
        [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
        for line in lines
    ]
    return {(service, option): (value, origin) for service, option, value, origin in cells}


@pytest.mark.parametrize("kind", all_kinds().values(), ids=lambda kind: kind.name)
def test_what_is_shown_of_a_default_can_be_written(kind: Kind) -> None:
    tried = 0
    for _, name, made, default in options_of(kind.settings):
        if default is not None and not made.multiple and not made.flag:
            assert made.parse(show_value(default)) == default, name
            tried += 1
    assert tried > 10


@pytest.mark.slow
def test_each_value_has_its_origin(file: Path) -> None:
    result = config(file)
    assert result.exit_code == 0, result.output
    found = rows(result.stdout)
    folder = file.parent
    assert found["web", "window"] == ("3", f"{file} [proxy.web]")
    assert found["other", "window"] == ("2", str(file))
    assert found["other", "send-proxy"] == ("v2", f"{file} [proxy]")
    assert found["web", "handshake-timeout"] == ("30", "default")
    assert found["web", "cert"] == ("/etc/certificates/node.pem", str(file))
    assert found["web", "trust"] == (f"{folder}/ca.pem", str(file))
    assert found["web", "listen"][0] == f"127.0.0.1:1 unix:{folder}/web.sock"
    assert found["other", "to"][0] == "10.0.0.1:80 unix:/run/app.sock"
    assert found["shell", "program"][0] == "sh -c echo $HOME"
    assert found["", "log-format"] == ("text", "default")


@pytest.mark.slow
def test_only_what_is_not_a_default(file: Path) -> None:
    found = rows(config(file, "--changed").stdout)
    assert ("web", "window") in found
    assert all(origin != "default" for _, origin in found.values())


def test_every_defect_is_a_line(file: Path) -> None:
    file.write_text(FILE.replace("window = 3", "windo = 3").replace("v2", "v3"))
    result = config(file)
    assert result.exit_code == 2
    assert not result.stdout
    assert any("did you mean 'window'?" in line for line in result.stderr.splitlines())
    assert any("'v3' is not v1 or v2" in line for line in result.stderr.splitlines())


def test_a_file_without_services(tmp_path: Path) -> None:
    path = tmp_path / "empty.toml"
    path.write_text("window = 3")
    result = config(path)
    assert result.exit_code == 2
    assert "[proxy.NAME]" in result.stderr


@pytest.mark.parametrize("name", ["check", "config", "demo", "exec", "load", "proxy", "serve"])
def test_help_begins_with_an_example(name: str) -> None:
    found = command.get_command(click.Context(command), name)
    assert found is not None
    result = CliRunner().invoke(command, [name, "--help"])
    assert result.exit_code == 0
    first, example, *_ = result.stdout.splitlines()
    assert first == "Example:"
    assert example.startswith(f"  trio-duplex {name}")
    words = found.example.replace("\\\n", " ").split()[2:]  # type: ignore[attr-defined]
    with click.Context(found) as ctx:  # the parser knows all of it
        found.make_parser(ctx).parse_args(words)
