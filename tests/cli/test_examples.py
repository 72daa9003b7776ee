"""The example with which each subcommand's help begins works as printed, and the help fits its terminal."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import click
import pytest
from click.testing import CliRunner

from tests.support.authority import AUTHORITY
from tests.support.command import START
from tests.support.material import write_pair
from tests.support.tools import require_tool
from trio_duplex.cli._command import command

if sys.platform != "linux":
    pytest.skip("the examples are run in namespaces", allow_module_level=True)

REPOSITORY = Path(__file__).parents[2]


def subcommands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    with click.Context(group) as ctx:
        for name in group.list_commands(ctx):
            found = group.get_command(ctx, name)
            if isinstance(found, click.Group):
                yield from subcommands(found, (*path, name))
            else:
                yield (*path, name)


SUBCOMMANDS = list(subcommands(command))


def help_of(path: tuple[str, ...], width: int) -> list[str]:
    result = CliRunner().invoke(command, [*path, "--help"], terminal_width=width)
    assert result.exit_code == 0
    return result.stdout.splitlines()


def example_of(*path: str, width: int = 80) -> str:
    """The command line, as printed."""
    first, *lines = help_of(path, width)
    assert first == "Example:"
    return "\n".join(line.strip() for line in lines[: lines.index("")])


@pytest.mark.parametrize("width", [50, 80])
@pytest.mark.parametrize("path", SUBCOMMANDS, ids=" ".join)
def test_help_fits(path: tuple[str, ...], width: int) -> None:
    lines = help_of(path, width)
    assert not [line for line in lines if line != line.rstrip()]
    assert not [line for line in lines if len(line) > width]


@pytest.mark.parametrize("path", SUBCOMMANDS, ids=" ".join)
def test_a_folded_example_is_the_same_command(path: tuple[str, ...]) -> None:
    wide, narrow = (example_of(*path, width=width).replace("\\\n", " ") for width in (80, 40))
    assert shlex.split(narrow) == shlex.split(wide)


def test_every_subcommand_is_tried() -> None:
    tried = {path for scenario in SCENARIOS.values() for path in scenario.paths}
    assert tried == {*SUBCOMMANDS}


RUN = """
until_open() { until (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; do sleep 0.1; done; }
run() { (cd "$1" && exec sh -c "$2"); }
"""
"""For all: wait for a port of loopback, and run an example in a folder."""


@attrs.frozen
class Scenario:
    """Examples that are run together.

    Attributes:
        paths: Their subcommands.
        script: Runs them, each from its variable.
        says: What is seen then.
    """

    paths: list[tuple[str, ...]]
    script: str
    says: list[str]


SCENARIOS = {
    "files": Scenario(
        [("certs",), ("check",), ("config",), ("demo",), ("man",)],
        'run one "$certs" && run one "$check" && run one "$config" && run one "$demo" && run one "$man"',
        ["lab/a.example.pem", "As TLS client: ok", "fd:here", "silent"],
    ),
    "echo": Scenario(
        [("echo",), ("connect",), ("load",)],
        """
        run one "$echo" & until_open 8443
        echo "and back" | run two "$connect" || exit
        run two "$load"
        test $? -le 1  # on a busy machine, not all get through
        """,
        ["and back", "role: client", "speaking"],
    ),
    "exec": Scenario(
        [("exec",)],
        """
        run one "$exec" & until_open 8443
        echo "through cat" | run two "$connect"
        """,
        ["through cat"],
    ),
    "serve": Scenario(
        [("serve",)],
        """
        run serving "$serve" & until_open 8443
        echo "and back" | run two "$connect"
        """,
        ["and back"],
    ),
    "proxy": Scenario(
        [("proxy",)],
        """
        run one "$proxy" & run one "python3 -m http.server 8080" &
        until_open 8080; until_open 8443
        printf "GET / HTTP/1.0\\r\\n\\r\\n" | run two "$connect"
        """,
        ["200 OK", "node.pem"],
    ),
    "rendezvous": Scenario(
        [("rendezvous", "hub"), ("rendezvous", "agent")],
        """
        run one "$rendezvous_hub" & run one "$rendezvous_agent" & run one "python3 -m http.server 80" &
        until_open 80; until_open 8080
        curl -sS http://127.0.0.1:8080/
        """,
        ["node.pem"],
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the examples name, for two machines that share an authority."""
    for machine in ("one", "two", "serving"):
        place = tmp_path / machine
        place.mkdir()
        for name in ("node", "peer", "hub", "site-1"):
            write_pair(place, name, f"{name}.example")
        for name in ("ca.pem", "fleet-ca.pem"):
            AUTHORITY.cert_pem.write_to_path(place / name)
        credentials = "cert = 'node.pem'\nkey = 'node.key'\ntrust = 'ca.pem'\n"
        listen = "127.0.0.1:8443" if machine == "serving" else "fd:here"
        (place / "trio-duplex.toml").write_text(f"{credentials}[echo]\nlisten = '{listen}'\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "trio-duplex").write_text(f'#!/bin/sh\nexec {" ".join(START)} "$@"\n')
    (programs / "trio-duplex").chmod(0o755)
    (tmp_path / "hosts").write_text("127.0.0.1 localhost hub.example\n")
    return tmp_path


@pytest.mark.one_python
@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.parametrize("name", SCENARIOS)
def test_examples_work_as_printed(folder: Path, name: str) -> None:
    scenario = SCENARIOS[name]
    unshare = require_tool("unshare")
    for tool in ("bash", "ip", "curl", "mount"):
        require_tool(tool)
    environ = {
        "PATH": f"{folder / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(folder),
        "PYTHONPATH": str(REPOSITORY),
        "connect": example_of("connect"),
    }
    environ |= {"_".join(path): example_of(*path) for path in scenario.paths}
    around = "ip link set lo up && mount --bind hosts /etc/hosts && exec bash -c "
    # A network of its own: their ports may be taken here.
    namespaces = [unshare, "--map-root-user", "--mount", "--net", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*namespaces, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces can be made here")
    assert shutil.which("trio-duplex", path=environ["PATH"])
    done = subprocess.run(
        [*namespaces, "bash", "-c", f'{around}"$0"', RUN + scenario.script],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    for words in scenario.says:
        assert words in done.stdout
