"""Checking whether our own certificate is fit for both roles."""

from types import FunctionType
from typing import TYPE_CHECKING

from trio_duplex._later import import_later
from trio_duplex._trust.own import Check, Grade

if TYPE_CHECKING:
    from trio_duplex._trust.check import check_certificate
else:
    _LATER = {"check_certificate": "trio_duplex._trust.check"}
    __getattr__, __dir__ = import_later(__name__, _LATER)

__all__ = ["Check", "Grade", "check_certificate"]

# Users see the public module, not the private one.
for _name in __all__:
    if isinstance(globals().get(_name), type | FunctionType):  # not one that is imported later
        globals()[_name].__module__ = __name__
