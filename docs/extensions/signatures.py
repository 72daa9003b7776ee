"""Shows signatures as they are to be read: with types and real defaults.

attrs generates `__init__`, and what is there for a default is `attr_dict["x"].default`. For a
function, Sphinx shows a default as its source has it, which may be the name of a private constant.
"""

from __future__ import annotations

import enum
import inspect
import re
import sys
from typing import Any

import attrs
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature


class Shown:
    """A default, written as it is to be read."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


LONG = 40
"""Bytes that a default may have before its name is shown."""


def default(obj: type, field: attrs.Attribute[Any] | None, value: object) -> object:
    """What the reader is shown; of what is worked out from other things, the formula."""
    if value is inspect.Parameter.empty or field is None:
        return value
    made = field.default
    if isinstance(made, attrs.Factory):  # type: ignore[arg-type]
        return Shown(formula(made.factory) if made.takes_self else empty(made.factory))
    if isinstance(made, bytes) and len(made) > LONG:
        return Shown(constant(obj, made))
    return made


def formula(factory: object) -> str:
    """The expression in double backquotes in the docstring of what works out a default."""
    found = re.search(r"``(.+?)``", inspect.getdoc(factory) or "")
    return found[1] if found else "..."


def empty(factory: Any) -> str:
    """What a factory without arguments makes, as one would write it."""
    made = factory()
    return repr(made) if made in ([], {}, ()) else f"{factory.__name__}()"


def constant(obj: type, value: bytes) -> str:
    """The public name of some bytes that are too long to be read; else the bytes."""
    module = sys.modules[obj.__module__]
    names = [name for name, each in vars(module).items() if name.isupper() and each is value]
    return names[0] if names else repr(value)


def value_of_constant(found: re.Match[str], module: dict[str, object]) -> str:
    """The value of a constant, in place of its name, if it is one that can be written."""
    match module.get(found[0]):
        case enum.Enum() as member:
            return f"{type(member).__name__}.{member.name}"
        case int() | float() | str() as value:
            return repr(value)
        case _:
            return found[0]


def process_signature(  # noqa: PLR0917 - as Sphinx calls it
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: object,
    signature: str | None,
    return_annotation: str | None,
) -> tuple[str, str] | None:
    """Called by autodoc for each object that has a signature."""
    function = obj.__init__ if isinstance(obj, type) else inspect.unwrap(obj)  # type: ignore[arg-type, misc]
    if not inspect.isroutine(function) or signature is None:
        return None
    if isinstance(obj, type) and attrs.has(obj) and is_generated(function):
        return attrs_signature(obj), ""
    function = getattr(function, "__func__", function)  # of a class method
    module = getattr(function, "__globals__", {})
    shown = re.sub(r"<function (\w+)>", r"\1", signature)
    shown = re.sub(r"(?<== )[A-Z][A-Z_]+\b", lambda found: value_of_constant(found, module), shown)
    return shown, return_annotation or ""


def is_generated(function: object) -> bool:
    """Whether attrs has made this `__init__`."""
    return inspect.isfunction(function) and "attrs generated" in function.__code__.co_filename


def attrs_signature(obj: type) -> str:
    """The signature of an attrs class."""
    fields = {(each.alias or each.name): each for each in attrs.fields(obj)}
    signature = inspect.signature(obj)
    parameters = []
    for parameter in signature.parameters.values():
        field = fields.get(parameter.name)
        annotation = parameter.annotation
        if annotation is inspect.Parameter.empty and field is not None and field.type is not None:
            annotation = field.type
        parameters.append(
            parameter.replace(annotation=annotation, default=default(obj, field, parameter.default))
        )
    shown = signature.replace(parameters=parameters)
    return stringify_signature(shown, show_return_annotation=False, unqualified_typehints=True)


def dash_parameters(app: Sphinx, doctree: nodes.document) -> None:
    """Put a dash between a parameter and what it is, where Sphinx writes two hyphens."""
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" \N{EN DASH} "))


def short_types(app: Sphinx, doctree: nodes.document) -> None:
    """Write the type of an attribute as signatures do: names without their module, plain quotes.

    The link says the full name. On a phone, a full name would be broken in the middle of a word.
    """
    for field in doctree.findall(nodes.field):
        name, body = field.children
        if name.astext() != "Type":
            continue
        for text in list(body.findall(nodes.Text)):
            short = re.sub(r"\b(?:trio_duplex(?:\.\w+)*|datetime)\.(\w+)", r"\1", text)
            short = re.sub(
                "[\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}]", "'", short
            )
            text.parent.replace(text, nodes.Text(short))


OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]*[a-z])")
VERBATIM = (nodes.literal, nodes.literal_block, nodes.title, nodes.raw, nodes.comment)


def whole_options(app: Sphinx, doctree: nodes.document) -> None:
    """Mark `--an-option` in a help text, for the style sheet to keep it on one line."""
    for text in list(doctree.findall(nodes.Text)):
        parts = OPTION.split(text)
        if len(parts) == 1 or isinstance(text.parent, VERBATIM):
            continue
        new = [
            nodes.inline(part, part, classes=["option-name"]) if at % 2 else nodes.Text(part)
            for at, part in enumerate(parts)
            if part
        ]
        text.parent.replace(text, new)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", process_signature)
    app.connect("doctree-read", dash_parameters)
    app.connect("doctree-read", short_types)
    app.connect("doctree-read", whole_options)
    return {"parallel_read_safe": True}
