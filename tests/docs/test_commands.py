"""The command lines that the pages show are such as the command takes, and the plain ones run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.docs.blocks import ROOT, blocks, pages
from tests.support.command import complete
from tests.support.tools import require_tool
from trio_duplex.cli._command import command

pytestmark = pytest.mark.slow


SHOWN = sorted(
    {
        line
        for page in [*pages(), ROOT / "README.md"]
        for block in blocks(page.read_text(encoding="utf-8"))
        for line in block.commands
        if line.startswith("trio-duplex ")
    }
)


@pytest.mark.parametrize("line", SHOWN)
def test_command_line_is_understood(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    for stop in (";", "&&", "|", "&", "<", ">", "2>", ">/dev/null"):
        if stop in words:
            words = words[: words.index(stop)]
    found: click.Command = command
    context = click.Context(command, info_name="trio-duplex")
    while isinstance(found, click.Group):
        name = words.pop(0)
        inner = found.get_command(context, name)
        assert inner is not None, name
        found, context = inner, click.Context(inner, parent=context, info_name=name)
    found.make_parser(context).parse_args(words)  # raises if there is no such option


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    """click's own: each prints a script for its shell."""
    if shell == "bash":
        require_tool("bash")
    result = complete(environ={"_TRIO_DUPLEX_COMPLETE": f"{shell}_source"})
    assert result.returncode == 0
    assert "_TRIO_DUPLEX_COMPLETE" in result.stdout


def test_line_that_tells_the_versions() -> None:
    page = (ROOT / "docs/supported.md").read_text(encoding="utf-8")
    found = re.search(r'^python -c "(.*)"$', page, re.MULTILINE)
    assert found
    result = subprocess.run(
        [sys.executable, "-c", found[1]], capture_output=True, text=True, check=True
    )
    assert "OpenSSL" in result.stdout


def test_certificates_page(tmp_path: Path) -> None:
    """Certificates of the command's own authority are fit, as the page says."""
    assert complete("certs", "lab", "node.example", cwd=tmp_path).returncode == 0
    lab = tmp_path / "lab"
    files = [f"--cert={lab}/node.example.pem", f"--key={lab}/node.example.key"]
    assert complete("check", *files, f"--trust={lab}/ca.pem").returncode == 0
