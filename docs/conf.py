# Sphinx's settings. `nox -s docs` builds with -W -n: every warning and every dangling reference fails.
import builtins
import importlib.metadata

project = "trio_duplex"
author = copyright = "The trio_duplex maintainers"
release = version = importlib.metadata.version("trio-duplex")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # Google-style docstrings
    "sphinxcontrib_trio",  # marks what is async, and what is an async iterator or context manager
    "myst_parser",  # pages that are also read in the repository are Markdown
]
exclude_patterns = ["_build", "performance/figures.md"]
html_theme = "furo"
html_title = "trio_duplex"

default_role = "py:obj"  # in docstrings, `negotiate` is a link, and must lead somewhere

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# No intersphinx: its inventories come over the network, and the documentation must build without.
# So names of other people's are not looked up; all that begins with trio_duplex is.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!trio_duplex\b)[a-z_]+(\.\w+)+"),  # trio.abc.Stream and so on
    # Annotations name private protocols and aliases, which have no page; the text says what fits.
    (r"py:class", r"trio_duplex\._\w+(\.\w+)+"),
    (
        r"py:class",
        r"PemSource|Listener|SessionFinder|Network|Alpn|Observer|Trustme\w+|NamesByNetwork|NamesFunction|IPAddress|datetime",
    ),
]
nitpick_ignore = {(f"py:{kind}", name) for kind in ("class", "exc") for name in dir(builtins)}
