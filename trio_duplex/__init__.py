"""TCP listeners that take whichever TLS role the peer does not.

A peer that speaks first is the TLS client, so we are the TLS server; a peer
that stays silent through the detection window is the TLS server, so we are the
TLS client, although it was the peer who dialled.
"""

# The names are imported when the first of them is asked for (PEP 562), because of
# `trio_duplex.pytest_plugin`: pytest loads it in every run of every project that merely
# has us installed, and Python loads this file before it. Imported here, they would cost
# each of those runs trio, ssl and cryptography, 0.2 s, whether or not it tests anything
# of ours. The other way, an entry point to a module beside the package, would put a
# second name on everybody's import path. The price of this one: what is wrong with an
# installation shows at the first use of a name, not at `import trio_duplex`.

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_duplex import certificates as certificates
    from trio_duplex import events as events
    from trio_duplex import openings as openings
    from trio_duplex import windows as windows
    from trio_duplex._public import *  # noqa: F403 - type checkers follow it, and nobody else
    from trio_duplex._public import __all__ as __all__

    __version__: str
else:

    def __getattr__(name: str) -> object:
        """Import all that is public, once, and give the name that was asked for."""
        if name == "__version__":  # reading it costs some milliseconds
            from importlib.metadata import version

            return globals().setdefault(name, version("trio-duplex"))
        # What the import system and inspections look for is never there, and must cost nothing.
        if not name.startswith("_") or name == "__all__":
            from importlib import import_module

            public = import_module("trio_duplex._public")
            globals().update({each: getattr(public, each) for each in ("__all__", *public.__all__)})
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__"), "__version__"})
