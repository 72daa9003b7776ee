# Sphinx's settings. `nox -s docs` builds with -W -n: every warning and every dangling reference fails.
import builtins
import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "trio_duplex"
author = copyright = "The trio_duplex maintainers"
release = version = importlib.metadata.version("trio-duplex")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # Google-style docstrings
    "sphinxcontrib_trio",  # marks what is async, and what is an async iterator or context manager
    "myst_parser",  # every page is Markdown, which is also read in the repository
    "code_links",  # in docs/extensions: `Limits` on a page is a link
    "signatures",  # likewise: the defaults of attrs classes as they are
    "code_words",  # likewise: where code in a text may break
    "search_words",  # likewise: what a page is to be found by
]
exclude_patterns = ["_build", "extensions", "performance/figures.md"]
smartquotes_action = "qe"  # quotes and ellipses, no dashes: `--cert` in a help text is an option
html_theme = "furo"
html_title = "trio_duplex"
templates_path = ["_templates"]
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False  # the search shows excerpts of the pages themselves
html_show_sourcelink = False

myst_heading_anchors = 3  # `page.md#a-heading`, as on a code host

default_role = "py:obj"  # in docstrings, `negotiate` is a link, and must lead somewhere

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 72  # longer: one parameter on a line
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# No intersphinx: its inventories come over the network, and the documentation must build without.
# So names of other people's are not looked up; all that begins with trio_duplex is.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!trio_duplex\b)[a-z_]+(\.\w+)+"),  # trio.abc.Stream and so on
    # Annotations name private protocols and aliases, which have no page; the text says what fits.
    (r"py:class", r"trio_duplex\.(testing\.)?_\w+(\.\w+)+"),
    (
        r"py:class",
        r"PemSource|Listener|SessionFinder|ServeOptions|Network|Alpn|Observer|Trustme\w+|NamesByNetwork|NamesFunction|IPAddress|datetime",
    ),
]
nitpick_ignore = {(f"py:{kind}", name) for kind in ("class", "exc") for name in dir(builtins)}
