"""Makes a link of a name in code: `Limits` on a page leads to its entry in the reference.

So the pages are plain Markdown, which a code host shows as well as we do, and no page
names what the library does not have: a full name such as `trio_duplex.Limits` that is
not in the reference is a warning, and so an error.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

LOGGER = logging.getLogger(__name__)

MODULES = ("events", "openings", "windows", "certificates", "anyio", "httpcore", "metrics")
"""Modules whose names are written without `trio_duplex.` or even without the module."""

TEST_KIT = ("testing", "pytest_plugin")

NAME = re.compile(r"(?:await )?(?P<name>[A-Za-z_]\w*(?:\.\w+)*)(?:\(.*\))?", re.DOTALL)


NOT_WITHIN = (nodes.title, nodes.reference, addnodes.pending_xref)


class CodeLinks(SphinxPostTransform):
    """Wraps each literal that is the name of something in the reference."""

    default_priority = 5  # before references are resolved

    def run(self, **_: Any) -> None:
        """Look at every literal of the page."""
        domain = self.env.get_domain("py")
        assert isinstance(domain, PythonDomain)
        for literal in list(self.document.findall(nodes.literal)):
            if any(isinstance(each, NOT_WITHIN) for each in parents(literal)):
                continue
            self.link(literal, domain)

    def link(self, literal: nodes.literal, domain: PythonDomain) -> None:
        """Make a link of this one, if it is a name."""
        found = NAME.fullmatch(literal.astext())
        if found is None:
            return
        name = found["name"]
        candidates = [name, f"trio_duplex.{name}"]
        if name[0].isupper() or is_first_in_row(literal):
            candidates += [f"trio_duplex.{module}.{name}" for module in (*MODULES, *TEST_KIT)]
        for candidate in candidates:
            entry = domain.objects.get(candidate)
            if entry is not None:
                here = entry.docname == self.env.docname
                if entry.objtype != "module" and not (here and is_in_reference(literal)):
                    reference = make_refnode(
                        self.app.builder,
                        self.env.docname,
                        entry.docname,
                        entry.node_id,
                        literal.deepcopy(),
                        candidate,
                    )
                    literal.replace_self(reference)
                return
        if name.startswith("trio_duplex.") and "._" not in name and "/" not in name:
            LOGGER.warning("%s is not in the reference", name, location=literal)


def is_first_in_row(node: nodes.Node) -> bool:
    """Whether a node is in the first cell of a table's row, as the names of the reference are."""
    entries = [each for each in parents(node) if isinstance(each, nodes.entry)]
    return bool(entries) and entries[0] is entries[0].parent[0]


def is_in_reference(node: nodes.Node) -> bool:
    """Whether a node is in an entry of the reference, where names of the page are near."""
    return any(isinstance(each, addnodes.desc) for each in parents(node))


def parents(node: nodes.Node) -> list[nodes.Node]:
    """All that a node is in."""
    found = []
    while node.parent is not None:
        node = node.parent
        found.append(node)
    return found


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_post_transform(CodeLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
