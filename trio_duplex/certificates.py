"""Checking whether our own certificate is fit for both roles."""

from types import FunctionType

from trio_duplex._trust.check import check_certificate
from trio_duplex._trust.own import Check, Grade

__all__ = ["Check", "Grade", "check_certificate"]

# Users see the public module, not the private one.
for _name in __all__:
    if isinstance(globals()[_name], type | FunctionType):  # not an alias of a type
        globals()[_name].__module__ = __name__
