"""Public names that are imported when one of them is asked for.

A server with the default options uses none of them, and so saves their memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import FunctionType


def import_later(
    public: str, where: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and the ``__dir__`` of a public module (:pep:`562`).

    Without the latter, ``help()`` and completion would leave out what was not imported yet.

    Args:
        public: The name of the public module. Users see it as the module of the names.
        where: For each name, the private module that has it.
    """

    def import_name(name: str) -> object:
        if name not in where:
            raise AttributeError(f"module {public!r} has no attribute {name!r}")
        module = import_module(where[name])
        # All names of the private module, because objects of one may contain objects of another.
        for each in (each for each in where if where[each] == where[name]):
            value = getattr(module, each)
            if isinstance(value, type | FunctionType):
                value.__module__ = public
            setattr(sys.modules[public], each, value)
        return getattr(module, name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[public]), *where})

    return import_name, names
