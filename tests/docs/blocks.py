"""The parts of the pages that are written from other files: code from examples, names from the library.

A page says ``<!-- from examples/echo.py -->`` above a fence, and what is in the fence is that
file; ``<!-- from examples/x.py: main -->`` is one function or class of it, with
``<!-- from examples/x.py: first, second -->`` for several. So a page is whole on a code host too, where
nothing is included. ``<!-- names -->`` stands above the table of what the block of autodoc
directives below it documents; ``<!-- section ../README.md: Heading -->`` begins a section of another
page. `python -m tests.docs` writes them, and a test reads them.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
from itertools import pairwise
from pathlib import Path

import attrs

from trio_duplex.cli._command import command
from trio_duplex.cli._man.document import documents

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

LANGUAGES = {".py": "python", ".sh": "sh", ".c": "c", ".toml": "toml", ".ini": "ini"}

FENCE = re.compile(
    r"<!-- from (?P<file>[^\s:]+)(?:: (?P<names>[^>]+))? -->\n(?P<fence>```+).*?\n(?P=fence)\n",
    re.DOTALL,
)
SECTION = re.compile(
    r"<!-- section (?P<file>[^:]+): (?P<heading>.+) -->\n.*?<!-- end of section -->\n", re.DOTALL
)
COMMAND = re.compile(r"<!-- the command begins -->\n.*?<!-- the command ends -->\n", re.DOTALL)
NAMES = re.compile(
    r"<!-- names -->\n(?P<table>(?:\|[^\n]*\n)*)\n(?P<block>```\{eval-rst\}\n.*?```\n)", re.DOTALL
)
DIRECTIVE = re.compile(r"^\.\. (?:auto(?!module)\w+|data):: (?P<name>[\w.]+)", re.MULTILINE)
MODULE = re.compile(r"^\.\. (?:py:)?(?:current)?module:: (\S+)", re.MULTILINE)


def pages() -> list[Path]:
    """Every page of the documentation, in the order of their names."""
    return sorted(DOCS.glob("*.md"))


def source(file: str, names: str | None) -> str:
    """A file, or some of the functions, classes and assignments at its top level."""
    text = (DOCS / file).read_text(encoding="utf-8")
    if names is None:
        return text.strip("\n") + "\n"
    lines = text.splitlines()
    parts = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = node.name
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, first = node.targets[0].id, node.lineno
        else:
            continue
        parts[name] = "\n".join(lines[first - 1 : node.end_lineno])
    return "\n\n\n".join(parts[name.strip()] for name in names.split(",")) + "\n"


def summary(thing: object, block: str, name: str) -> str:
    """The first sentence of what is said of a name."""
    below = re.search(rf"^\.\. data:: {name}\n\n((?:   .*\n|\n)+)", block, re.MULTILINE)
    if below:
        text = inspect.cleandoc(below[1])
    elif name in aliases():
        text = aliases()[name]
    else:
        text = inspect.getdoc(thing) or ""
    first = " ".join(text.partition("\n\n")[0].split())
    sentence = re.split(r"(?<=[a-z)`\"0-9])[.:](?= [A-Z])", first)[0].rstrip(".:")
    sentence = re.sub(r"`~(?:\w+\.)*", "`", sentence)
    sentence = re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"`\1`", sentence).replace("``", "`")
    return sentence.replace("|", "\\|")


@functools.cache
def aliases() -> dict[str, str]:
    """What is written below the aliases of types, which have no docstring at run time."""
    found = {}
    package = ROOT / "trio_duplex"
    for path in sorted(package.rglob("*.py")):  # the last is nearest to the user
        if package / "cli" in path.parents:
            continue
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for node, after in pairwise(body):
            match node, after:
                case (
                    ast.Assign(targets=[ast.Name(id=name)]),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = inspect.cleandoc(text)
    return found


@functools.cache
def command_reference() -> str:
    """Every subcommand, as its manual page has it, in Markdown."""
    parts = []
    for page in documents(command, "trio-duplex"):
        parts.append(f"## {page.name}\n" if " " in page.name else "")
        parts.append(f"```sh\n{page.example}\n```\n" if page.example else "")
        usage = f"`{page.name} {page.usage}`\n"
        parts.append(usage)
        headings = [section.heading for section in page.sections]
        for section in page.sections:
            if section.heading == "Commands":
                continue
            # The first options need no heading, but for where they come after the arguments.
            if section.heading and (section.heading != "Options" or "Arguments" in headings):
                parts.append(f"**{section.heading}**\n")
            for paragraph in section.paragraphs:
                flat = " ".join(paragraph.replace("\b", "").split())
                parts.append(flat.replace("``", "`").replace("<", "\\<") + "\n")
            if section.rows:
                rows = "\n".join(
                    f"| `{' '.join(term.split()).replace('|', chr(92) + '|')}` | {cell(meaning)} |"
                    for term, meaning in section.rows
                )
                parts.append(f"| | |\n|---|---|\n{rows}\n")
    return "\n".join(part for part in parts if part)


def cell(text: str) -> str:
    """Text that does not end a cell of a table, nor begin HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<").replace("*", "\\*")


def filled(text: str) -> str:
    """A page with what is written from elsewhere as it should be."""

    def code(found: re.Match[str]) -> str:
        file, names = found["file"], found["names"]
        head = found[0].partition("\n")[0]
        language = LANGUAGES[Path(file).suffix]
        return f"{head}\n```{language}\n{source(file, names)}```\n"

    def section(found: re.Match[str]) -> str:
        other = (DOCS / found["file"]).read_text(encoding="utf-8")
        body = other.partition(f"\n## {found['heading']}\n")[2].partition("\n## ")[0]
        assert body, f"{found['file']} has no {found['heading']}"
        body = re.sub(r"<!-- .* -->\n", "", body).strip("\n")
        return f"{found[0].partition(chr(10))[0]}\n\n{body}\n\n<!-- end of section -->\n"

    def reference(_: re.Match[str]) -> str:
        return f"<!-- the command begins -->\n\n{command_reference()}\n<!-- the command ends -->\n"

    def table(found: re.Match[str]) -> str:
        before = text[: found.start()] + found["block"]
        module = importlib.import_module(MODULE.findall(before)[-1])
        rows = ["| name | what it is |", "|---|---|"]
        for directive in DIRECTIVE.finditer(found["block"]):
            name = directive["name"].rpartition(".")[2]
            rows.append(f"| `{name}` | {summary(getattr(module, name), found['block'], name)} |")
        # A fixture names its class of the kit in full, which is too long for a table on a phone.
        lines = "\n".join(rows).replace("`trio_duplex.testing.", "`")
        return f"<!-- names -->\n{lines}\n\n{found['block']}"

    text = COMMAND.sub(reference, SECTION.sub(section, FENCE.sub(code, text)))
    return NAMES.sub(table, text)


@attrs.frozen
class Block:
    """A fence of a page, and the line above it."""

    above: str
    language: str
    text: str
    line: int

    @property
    def commands(self) -> list[str]:
        """The command lines of a block of shell, each on one line, without the prompt."""
        if self.language not in ("sh", "console"):
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith(("$ ", "# "))]
        return [line for line in lines if line.strip()]


def blocks(text: str) -> list[Block]:
    """The fences of a page that are not directives, nor in a section of another page."""
    text = SECTION.sub(lambda found: "\n" * found[0].count("\n"), text)
    lines = text.splitlines()
    found = []
    number = 0
    while number < len(lines):
        if fence := re.match(r"(`{3,})(\S*)", lines[number]):
            end = next(n for n in range(number + 1, len(lines)) if lines[n].startswith(fence[1]))
            if not fence[2].startswith("{"):
                body = "\n".join(lines[number + 1 : end])
                found.append(Block(lines[number - 1], fence[2], body, number + 1))
            number = end
        number += 1
    return found
