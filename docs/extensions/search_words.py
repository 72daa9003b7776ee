"""Lets a page say what it is to be found by: ``<!-- search: call home, NETCONF -->``.

Each becomes an entry of the index that points to the top of the page. The search puts
such entries first, before pages that merely use the word more often. In Markdown it is
a comment, so that nothing of it shows on a code host.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

WORDS = re.compile(r"^<!-- search: (.+) -->$", re.MULTILINE)


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Remember the words of a page."""
    app.env.temp_data["search_words"] = [
        word.strip() for words in WORDS.findall(source[0]) for word in words.split(",")
    ]


def insert(app: Sphinx, doctree: nodes.document) -> None:
    """Give the page its entries in the index."""
    words = app.env.temp_data.get("search_words", [])
    for section in doctree.findall(nodes.section):
        identity = section["ids"][0]
        entries = [("single", word, identity, "main", None) for word in words]
        if entries:
            section.insert(0, addnodes.index(entries=entries))
        return


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", read)
    app.connect("doctree-read", insert)
    return {"parallel_read_safe": True}
