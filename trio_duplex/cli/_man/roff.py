"""Writes a document as a manual page: roff, with the macros of man(7)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from trio_duplex.cli._man.document import Document

_OPTION = re.compile(r"(?<![\w-])(--?[a-zA-Z][\w-]*)")


def roff(page: Document, *, version: str, see_also: Sequence[str] = ()) -> str:
    """Write the manual page of one command.

    Args:
        page: What to write.
        version: Of trio_duplex, for the foot of the page.
        see_also: The names of other pages, in the same manual.
    """
    title = page.name.replace(" ", "-")
    lines = [
        f'.TH "{_text(title.upper())}" "1" "" "trio_duplex {_text(version)}" "User Commands"',
        ".SH NAME",
        f"{_text(title)} \\- {_text(page.summary)}",
        ".SH SYNOPSIS",
        f".B {_text(page.name)}",
        _line(page.usage),
        ".SH DESCRIPTION",
    ]
    for section in page.sections:
        if section.heading:
            lines.append(f".SH {_text(section.heading.upper())}")
        for paragraph in section.paragraphs:
            lines += [".PP", _line(" ".join(paragraph.replace("\b", "").split()))]
        for term, meaning in section.rows:
            lines += [".TP", _bold(term), _line(meaning)]
    if page.example:
        lines += [".SH EXAMPLE", ".PP", ".nf", *map(_line, page.example.splitlines()), ".fi"]
    if see_also:
        names = ", ".join(f"\\fB{_text(name)}\\fR(1)" for name in see_also)
        lines += [".SH SEE ALSO", names]
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    """Text in which roff sees nothing of its own."""
    return text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")


def _line(text: str) -> str:
    """A line of text, which must not begin as a macro does."""
    escaped = _text(text)
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _bold(term: str) -> str:
    """The options of a term in bold, what they take as it is."""
    parts = _OPTION.split(term)
    return "".join(
        f"\\fB{_text(part)}\\fR" if index % 2 else _text(part) for index, part in enumerate(parts)
    )
