"""The page of trouble has an entry for all that one can see."""

from __future__ import annotations

import ast
import re

import pytest

import trio_duplex
from tests.docs.blocks import DOCS, ROOT
from trio_duplex._stream.connection import CERTIFICATE_ALERTS

pytestmark = pytest.mark.slow


PAGE = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
HEADINGS = set(re.findall(r"^### (\w+)$", PAGE, re.MULTILINE))


def test_every_error_has_an_entry() -> None:
    errors = {
        name
        for name in trio_duplex.__all__
        if isinstance(found := getattr(trio_duplex, name), type) and issubclass(found, Exception)
    }
    assert errors - HEADINGS == set()


def test_alerts_about_certificates_have_entries() -> None:
    rare = {"certificate_revoked", "decrypt_error"}
    assert CERTIFICATE_ALERTS - rare - HEADINGS == set()


def test_every_log_line_has_an_entry() -> None:
    """The words of the library's log are in the page on limits; those of services are in the code."""
    table = PAGE.partition("## Log lines")[2]
    explained = set(re.findall(r"`([a-z-]+)`", table))
    words = set()
    for path in (ROOT / "trio_duplex" / "cli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr="info" | "warning" | "error"),
                    args=[ast.Constant(value=str(word)), *_],
                ):
                    words.add(word)
    assert len(words) > 15
    limits = (DOCS / "limits.md").read_text(encoding="utf-8").partition("## The log")[2]
    words |= set(re.findall(r"^\| `([a-z-]+)` \| [A-Z]", limits, re.MULTILINE))
    assert words - explained == set()
