"""What the project says of itself outside the package is one story."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_classifiers_are_the_pythons_that_ci_runs() -> None:
    noxfile = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    (pythons,) = [
        ast.literal_eval(node.value)
        for node in noxfile.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PYTHONS"
    ]
    prefix = "Programming Language :: Python :: "
    classified = [
        each.removeprefix(prefix)
        for each in PROJECT["classifiers"]
        if re.fullmatch(rf"{prefix}3\.\d+", each)
    ]
    assert classified == pythons
    page = (ROOT / "docs/supported.md").read_text(encoding="utf-8")
    assert all(python in page for python in pythons)


def test_no_address_of_the_project_is_made_up() -> None:
    """Whoever gets a copy must not be sent to a place that somebody else may take."""
    known = set(PROJECT.get("urls", {}).values())
    files = [
        ROOT / name for name in ("pyproject.toml", "CITATION.cff", "SECURITY.md", "CONTRIBUTING.md")
    ]
    files += sorted((ROOT / ".github").rglob("*.*"))
    found = {
        url
        for path in files
        for url in re.findall(r"https?://[^\s)>\"'`]+", path.read_text("utf-8"))
    }
    assert found - known == set()


def test_citation_is_of_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {PROJECT['version']}\n" in text
    assert f"\nlicense: {PROJECT['license']}\n" in text


def test_extras_are_all_in_all_and_explained() -> None:
    extras = set(PROJECT["optional-dependencies"])
    (all_,) = PROJECT["optional-dependencies"]["all"]
    assert set(re.split(r"[\[\],]", all_)[1:-1]) == extras - {"all"}
    page = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    assert all(f"| `{extra}` |" in page for extra in extras)
