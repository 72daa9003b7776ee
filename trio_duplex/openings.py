"""The peer's first bytes, and what they look like."""

from types import FunctionType

from trio_duplex._wire.opening import Opening, OpeningKind, TLSMessage, classify

__all__ = ["Opening", "OpeningKind", "TLSMessage", "classify"]

# Users see the public module, not the private one.
for _name in __all__:
    if isinstance(globals()[_name], type | FunctionType):  # not an alias of a type
        globals()[_name].__module__ = __name__
