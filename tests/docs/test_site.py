"""The built site: no error boxes, no dead links, no name without a type, and a search that finds.

`nox -s docs` builds it, says where it is in ``TRIO_DUPLEX_SITE``, and runs this.
"""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

import trio_duplex
from tests.docs.blocks import pages
from tests.support.tools import require_tool

if "TRIO_DUPLEX_SITE" not in os.environ:
    pytest.skip("`nox -s docs` builds the site, and runs this", allow_module_level=True)

SITE = Path(os.environ["TRIO_DUPLEX_SITE"]).resolve()
GENERATED = {"genindex.html", "py-modindex.html", "search.html"}

EXTERNAL = {
    "https://h11.readthedocs.io",
    "https://hypercorn.readthedocs.io",
    "https://pradyunsg.me",  # furo's credits
    "https://trio.readthedocs.io",
    "https://www.encode.io",
    "https://www.python-httpx.org",
    "https://www.sphinx-doc.org",
    "https://datatracker.ietf.org",  # by Sphinx's role for RFCs
    "https://github.com",  # furo's credits
    "https://pygments.org",
}
"""Sites that pages may lead to. They are not fetched: a site that is down must not fail a build."""


class Page(HTMLParser):
    """The ids, the links and the classes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.classes: set[str] = set()
        self.images_without_text = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids.add(values.get("id") or "")
        self.classes.update((values.get("class") or "").split())
        for name in ("href", "src"):
            if values.get(name):
                self.links.append(str(values[name]))
        if tag == "img" and not values.get("alt"):
            self.images_without_text += 1


SHOWN = {path.name: Page(path.read_text(encoding="utf-8")) for path in SITE.glob("*.html")}

each_page = pytest.mark.parametrize("name", sorted(SHOWN))


def test_every_page_is_there() -> None:
    assert {f"{page.stem}.html" for page in pages()} == set(SHOWN) - GENERATED


@each_page
def test_no_error_box(name: str) -> None:
    boxes = {"system-message", "problematic", "error", "danger"}
    assert SHOWN[name].classes & boxes == set()


@each_page
def test_no_page_is_empty(name: str) -> None:
    """Not even the search, before anything was searched for."""
    titles = re.findall(r"<h1[^>]*>(.*?)</h1>\s*(\S)", SHOWN[name].text, flags=re.DOTALL)
    assert len(titles) == 1


@each_page
def test_no_markup_is_left_in_the_text(name: str) -> None:
    text = re.sub(r"<(pre|script|style|code).*?</\1>", "", SHOWN[name].text, flags=re.DOTALL)
    text = html.unescape(re.sub(r"<[^>]+>", "", text))
    assert re.findall(r"\]\([\w.#-]+\)|\{\w+\}`|^```|:\w+:`|<!--", text, re.MULTILINE) == []


@each_page
def test_no_dead_link(name: str) -> None:
    dead = []
    for link in SHOWN[name].links:
        parts = urlsplit(link)
        if parts.scheme in ("http", "https"):
            if f"{parts.scheme}://{parts.netloc}" not in EXTERNAL:
                dead.append(f"{link} (is its site to be in EXTERNAL?)")
            continue
        if parts.scheme in ("data", "mailto"):
            continue
        path, anchor = urldefrag(link)
        target = unquote(urlsplit(path).path) or name
        if not (SITE / target).exists() or (
            anchor and target in SHOWN and anchor not in SHOWN[target].ids and anchor != "top"
        ):
            dead.append(link)
    assert dead == []


@each_page
def test_every_picture_says_what_it_shows(name: str) -> None:
    assert SHOWN[name].images_without_text == 0


PUBLIC_CONSTANTS = {"TASK_STATUS_IGNORED", "GARBAGE"}
"""Those that a signature may name: Trio's, and what is documented below."""

REFERENCE = sorted(name for name in SHOWN if 'class="sig ' in SHOWN[name].text)


@pytest.mark.parametrize("name", REFERENCE)
def test_every_parameter_has_its_type(name: str) -> None:
    untyped = []
    for heading in re.findall(r'<dt class="sig .*?</dt>', SHOWN[name].text, re.DOTALL):
        for parameter in re.findall(r'<em class="sig-param">(.*?)</em>', heading, re.DOTALL):
            text = html.unescape(re.sub(r"<[^>]+>", "", parameter)).strip()
            if ":" not in text and text not in ("*", "/"):
                found = re.search(r'id="([^"]+)"', heading)
                untyped.append(f"{found[1] if found else heading}: {text}")
    assert untyped == []


@pytest.mark.parametrize("name", REFERENCE)
def test_defaults_are_real(name: str) -> None:
    text = html.unescape(re.sub(r"<[^>]+>", "", SHOWN[name].text))
    assert "attr_dict" not in text
    assert "NOTHING" not in text
    assert "<function" not in text
    assert not re.search(r"= \.\.\.[,)\s]", text)
    assert "PEP 604" not in text  # the docstring of a union, where an alias has no text of its own
    assert set(re.findall(r"= ([A-Z][A-Z_]+)\b", text)) <= PUBLIC_CONSTANTS


@pytest.mark.parametrize("connections", [6_000, 18_000, 40_000])
def test_formulas_of_defaults_are_true(connections: int) -> None:
    text = html.unescape(re.sub(r"<[^>]+>", "", SHOWN["api.html"].text))
    limits = trio_duplex.Limits(connections=connections)
    for name in ("pending", "pending_per_address"):
        found = re.search(rf"^{name}: float = (min\(.+?\)),$", text, re.MULTILINE)
        assert found, name
        shown = eval(found[1], {"min": min, "connections": connections})
        assert shown == getattr(limits, name)


def test_formula_of_connections_is_true() -> None:
    resource = pytest.importorskip("resource")
    text = html.unescape(re.sub(r"<[^>]+>", "", SHOWN["api.html"].text))
    found = re.search(r"^connections: float = (min\(.+?\)),$", text, re.MULTILINE)
    assert found
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1_000 or soft == resource.RLIM_INFINITY:
        pytest.skip("ulimit -n is low, of which more is left to the application, or has no bound")
    shown = eval(found[1], {"min": min, "ulimit_n": soft})
    assert shown == trio_duplex.Limits().connections


@pytest.mark.parametrize("name", REFERENCE)
def test_types_of_attributes_are_short(name: str) -> None:
    types = re.findall(
        r'<dt class="field-\w+">Type<.*?</dt>\s*<dd[^>]*>(.*?)</dd>', SHOWN[name].text, re.DOTALL
    )
    shown = [html.unescape(re.sub(r"<[^>]+>", "", each)).strip() for each in types]
    assert [each for each in shown if re.search(r"trio_duplex\.|[\u2018\u2019]", each)] == []


@pytest.mark.parametrize("name", ["api.html", "testing-reference.html"])
def test_tables_of_names_lead_to_the_entries(name: str) -> None:
    first = re.findall(r"<tr[^>]*><td[^>]*><p>(.*?)</p></td>", SHOWN[name].text, re.DOTALL)
    assert len(first) > 30
    assert [each for each in first if not each.startswith('<a class="reference internal"')] == []


def test_options_in_texts_are_kept_whole() -> None:
    """A browser breaks `--an-option` after a hyphen unless the style sheet is told of it."""
    text = re.sub(
        r"<(pre|script|style|code|title).*?</\1>", "", SHOWN["command.html"].text, flags=re.DOTALL
    )
    marked = r'<span class="option-name">--[\w-]+</span>'
    assert len(re.findall(marked, text)) > 5
    assert re.findall(r"\s--[a-z][\w-]*", re.sub(marked, "", text)) == []


def test_code_in_texts_breaks_where_a_reader_would() -> None:
    assert '<span class="pre whole">--max-open</span>' in SHOWN["load.html"].text
    long = "trio_duplex.<wbr>certificates.<wbr>check_certificate"
    assert f'<span class="pre">{long}</span>' in SHOWN["certificates.html"].text
    assert (
        '<span class="pre whole">tests/<wbr>support/<wbr>tools.py</span>'
        in SHOWN["layout.html"].text
    )


def test_headings_on_a_phone_get_smaller_by_level() -> None:
    style = (SITE / "_static" / "site.css").read_text(encoding="utf-8")
    sizes = [
        float(size) for size in re.findall(r"\.content h[1-4] \{\s*font-size: ([\d.]+)rem", style)
    ]
    assert len(sizes) == 4
    assert sizes == sorted(sizes, reverse=True)


def test_options_keep_their_hyphens() -> None:
    text = html.unescape(re.sub(r"<[^>]+>", "", SHOWN["command.html"].text))
    assert re.findall(r"\S*\N{EN DASH}\w+", text) == []


def test_nothing_is_said_nine_times() -> None:
    text = html.unescape(re.sub(r"<[^>]+>", "", SHOWN["api.html"].text))
    assert len(re.findall(r"[Ss]ee serve_listeners", text)) <= 1


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("call home", "tutorial"),
        ("asyncio", "other-frameworks"),
        ("anyio", "other-frameworks"),
        ("http", "http"),
        ("certificate", "certificates"),
        ("self-signed", "certificates"),
        ("timeout", "limits"),
        ("glare", "troubleshooting"),
        ("systemd", "service"),
        ("migrate", "migrating"),
        ("mTLS", "certificates"),
        ("FTPS", "ftps"),
        ("unknown_ca", "troubleshooting"),
        ("window was missed", "troubleshooting"),
        ("GlareError", "api"),
        ("man page", "command"),
    ],
)
def test_search_finds_the_right_page_first(query: str, page: str) -> None:
    node = require_tool("node")
    script = Path(__file__).with_name("search.mjs")
    result = subprocess.run(
        [node, str(script), str(SITE), query], capture_output=True, text=True, check=True
    )
    hits = json.loads(result.stdout)[query]
    assert hits[0][0] == page, hits
