"""`trio-duplex man`: every subcommand and every option, in pages that man(1) can show."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.support.tools import require_tool
from trio_duplex.cli._command import command
from trio_duplex.cli._man.document import Document, Section, documents
from trio_duplex.cli._man.roff import roff


def commands(found: click.Command, words: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    yield "-".join(words), found
    if isinstance(found, click.Group):
        context = click.Context(found, info_name=words[-1])
        for name in found.list_commands(context):
            inner = found.get_command(context, name)
            assert inner is not None
            yield from commands(inner, (*words, name))


ALL = dict(commands(command, ("trio-duplex",)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "man1"
    result = CliRunner().invoke(command, ["man", "--dir", str(path)])
    assert result.exit_code == 0, result.output
    assert f"{len(ALL)} pages" in result.output
    return path


def plain(text: str) -> str:
    return re.sub(r"\\f[BRI]", "", text).replace("\\-", "-").replace("\\(dq", '"')


def test_a_page_for_each_subcommand(folder: Path) -> None:
    assert {path.stem for path in folder.iterdir()} == set(ALL)


@pytest.mark.parametrize("name", sorted(ALL))
def test_page_names_every_option(name: str, folder: Path) -> None:
    text = plain((folder / f"{name}.1").read_text(encoding="utf-8"))
    assert text.startswith(f'.TH "{name.upper()}" "1"')
    for heading in ("NAME", "SYNOPSIS", "DESCRIPTION"):
        assert f".SH {heading}\n" in text
    options = [
        option
        for param in ALL[name].params
        if isinstance(param, click.Option) and not param.hidden
        for option in param.opts
    ]
    missing = [option for option in options if not re.search(rf"^.*{option}\b", text, re.MULTILINE)]
    assert missing == []


@pytest.mark.parametrize("name", sorted(ALL))
def test_groff_has_nothing_to_complain_of(name: str, folder: Path) -> None:
    groff = require_tool("groff")
    page = folder / f"{name}.1"
    result = subprocess.run(
        [groff, "-man", "-ww", "-Tascii", "-P-c", str(page)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stderr == ""
    assert "SYNOPSIS" in re.sub(r".\x08", "", result.stdout)  # bold is struck twice


def test_it_prints_the_first_page() -> None:
    result = CliRunner().invoke(command, ["man"])
    assert result.output.startswith('.TH "TRIO\\-DUPLEX"')
    assert "rendezvous" in result.output


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(command, ["man", "--dir", str(tmp_path / "file" / "man1")])
    assert result.exit_code == 1
    assert str(tmp_path / "file") in result.output


def test_roff_sees_nothing_of_its_own_in_the_text() -> None:
    page = Document(
        name="x",
        summary="s",
        usage="[OPTIONS]",
        example=".so /etc/passwd",
        sections=[Section("H", [".PP is text", "'so is this", "back\\slash"], [("--a-b X", ".c")])],
    )
    text = roff(page, version="1")
    assert "\n\\&.PP is text\n" in text
    assert "\n\\&'so is this\n" in text
    assert "back\\eslash" in text
    assert "\n\\fB\\-\\-a\\-b\\fR X\n\\&.c\n" in text
    assert "\n\\&.so /etc/passwd\n" in text


@pytest.mark.slow
def test_documents_are_what_the_help_says() -> None:
    for page in documents(command, "trio-duplex"):
        help_ = CliRunner().invoke(command, [*page.name.split()[1:], "--help"]).output
        flat = "".join(help_.split())
        for section in page.sections:
            assert "".join(section.heading.split()) in flat
            for term, _ in section.rows:
                assert "".join(term.split()) in flat, (page.name, term)
