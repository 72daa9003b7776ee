"""Says where code within a text may break: a short word nowhere, a long one after a dot or a slash.

A browser breaks a line after a hyphen, which parts the dashes of an option from its name, and not
after a dot, a slash or a bracket, so that it breaks a long name in the middle of a word.
"""

from __future__ import annotations

import html
import re

from sphinx.application import Sphinx

WORD = re.compile(r'<span class="pre">([^<]+)</span>')
JOINT = re.compile(r"(?<=\w[./(=])(?=[A-Za-z_])(?!(?:py|md|toml)\b)")
LONGEST = 32
"""Characters that fit on a line of a phone. Longer words may break, and in a table shorter ones too."""


def mark(found: re.Match[str]) -> str:
    """One word of code, as HTML."""
    word = found[1]
    style = "pre whole" if len(html.unescape(word)) <= LONGEST else "pre"
    return f'<span class="{style}">{JOINT.sub("<wbr>", word)}</span>'


def mark_page(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, str], doctree: object
) -> None:
    """Called by Sphinx for each page."""
    if "body" in context:
        context["body"] = WORD.sub(mark, context["body"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("html-page-context", mark_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
