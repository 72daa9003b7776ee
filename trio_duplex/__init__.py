"""TCP listeners that take whichever TLS role the peer does not.

A peer that speaks first is the TLS client, so we are the TLS server; a peer
that stays silent through the detection window is the TLS server, so we are the
TLS client, although it was the peer who dialled.
"""

# The public names are imported when the first of them is used (PEP 562). The reason is
# `trio_duplex.pytest_plugin`: pytest loads it in every run of every project that has this
# package installed, and Python executes this file before it. If this file imported the
# names, each of those runs would import trio, ssl and cryptography, which takes 0.2 s, even
# if it does not use this package. The alternative would be an entry point to a module beside
# the package, but that puts a second name on everybody's import path. The disadvantage of
# our way is that an error in an installation shows at the first use of a name, and not at
# `import trio_duplex`.

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_duplex import certificates as certificates
    from trio_duplex import events as events
    from trio_duplex import openings as openings
    from trio_duplex import windows as windows
    from trio_duplex._public import *  # noqa: F403 - only for type checkers
    from trio_duplex._public import __all__ as __all__

    __version__: str
else:

    def __getattr__(name: str) -> object:
        """Import the public names, once, and return the one that was asked for."""
        if name == "__version__":  # reading it costs some milliseconds
            from importlib.metadata import version

            return globals().setdefault(name, version("trio-duplex"))
        # The import system and inspecting tools look up private names, which do not exist here.
        # That must not import everything.
        if not name.startswith("_") or name == "__all__":
            from importlib import import_module

            public = import_module("trio_duplex._public")
            names = ("__all__", *public.__all__)
            globals().update({each: vars(public)[each] for each in names if each in vars(public)})
            if name in globals():
                return globals()[name]
            if name in public.__all__:  # one of those that most programs don't use
                return getattr(public, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__"), "__version__"})
