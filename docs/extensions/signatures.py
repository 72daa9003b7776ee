"""Shows the signature of an attrs class as its author wrote it: with types and defaults.

attrs generates `__init__`, and what stands there for a default is `attr_dict["x"].default`.
"""

from __future__ import annotations

import inspect
from typing import Any

import attrs
from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature


class Shown:
    """A default, written as it is to be read."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def default(field: attrs.Attribute[Any] | None, value: object) -> object:
    """What the reader is shown; `...` for what is worked out when the object is made."""
    if value is inspect.Parameter.empty or field is None:
        return value
    made = field.default
    if isinstance(made, attrs.Factory):  # type: ignore[arg-type]
        return Shown("...") if made.takes_self else Shown(f"{made.factory.__name__}()")
    return made


def process_signature(
    app: Sphinx, what: str, name: str, obj: object, *_: object
) -> tuple[str, str] | None:
    """Called by autodoc for each object that has a signature."""
    if what not in ("class", "exception") or not isinstance(obj, type) or not attrs.has(obj):
        return None
    if (
        not inspect.isfunction(obj.__init__)
        or "attrs generated" not in obj.__init__.__code__.co_filename
    ):
        return None
    fields = {(each.alias or each.name): each for each in attrs.fields(obj)}
    signature = inspect.signature(obj)
    parameters = []
    for parameter in signature.parameters.values():
        field = fields.get(parameter.name)
        annotation = parameter.annotation
        if annotation is inspect.Parameter.empty and field is not None and field.type is not None:
            annotation = field.type
        parameters.append(
            parameter.replace(annotation=annotation, default=default(field, parameter.default))
        )
    shown = signature.replace(parameters=parameters)
    return stringify_signature(shown, show_return_annotation=False, unqualified_typehints=True), ""


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", process_signature)
    return {"parallel_read_safe": True}
