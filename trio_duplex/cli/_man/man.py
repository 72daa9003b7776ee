"""The subcommand ``man``: the manual pages of the command, made from what ``--help`` shows."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import click

from trio_duplex.cli._examples import ExampleCommand
from trio_duplex.cli._man.document import documents
from trio_duplex.cli._man.roff import roff
from trio_duplex.cli._service.exits import ServiceError


@click.command(cls=ExampleCommand, example="trio-duplex man --dir ~/.local/share/man/man1")
@click.option(
    "--dir",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write a page for each subcommand into DIR, which is made; without it, print the first.",
)
@click.help_option("-h", "--help")
@click.pass_context
def man(context: click.Context, folder: Path | None) -> None:
    """Print the manual page, or write the pages of all subcommands.

    ``trio-duplex man | man -l -`` shows it. The pages in DIR are named as
    man(1) looks for them: trio-duplex.1, trio-duplex-echo.1 and so on.
    """
    root = context.find_root()
    pages = list(documents(root.command, "trio-duplex"))
    names = [page.name.replace(" ", "-") for page in pages]
    release = version("trio-duplex")
    if folder is None:
        click.echo(roff(pages[0], version=release, see_also=names[1:]), nl=False)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for page, name in zip(pages, names, strict=True):
            others = names[1:] if page is pages[0] else names[:1]
            text = roff(page, version=release, see_also=others)
            (folder / f"{name}.1").write_text(text, encoding="utf-8")
    except OSError as exc:
        raise ServiceError(f"can't write {exc.filename}: {exc.strerror}") from exc
    click.echo(f"{len(pages)} pages in {folder}")
