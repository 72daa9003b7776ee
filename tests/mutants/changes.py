"""The small changes that are tried on a module, each of which is a fault that a test has to notice.

A change swaps one part of the syntax tree, so that the line numbers stay. What is only words is left as
it is: docstrings, annotations, what is logged, what ``__repr__`` says and the text of errors. The
tests of this project ask for facts and not for wording.
"""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

PACKAGE = Path(__file__).parents[2] / "trio_duplex"
_WORDING = frozenset({"__repr__", "__str__", "__rich_repr__"})
_LOG_METHODS = frozenset({"debug", "info", "warning", "error", "exception", "critical", "log"})
_OF_TYPES = frozenset({"cast", "TypeVar", "ParamSpec", "NewType", "assert_never", "deprecated"})
_SMALL = 16
"""A larger number is doubled: it is a bound or a size, and a test of it has some tolerance."""

_SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip


@attrs.frozen
class Mutant:
    """One change of one module.

    Attributes:
        module: The module's dotted name.
        name: Names the change as long as its surroundings stay what they are.
        number: Its place among the changes of this source.
        line: Where it is.
        column: Likewise, from 1.
        before: The part that is changed.
        after: What it becomes; empty if it is deleted.
        in_function: Whether it is within a function's body. Everything else runs at import.
    """

    module: str
    name: str
    number: int
    line: int
    column: int
    before: str
    after: str
    in_function: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line}:{self.column}  {self.before}  ->  {self.after or '(deleted)'}"


@functools.cache  # as it was when the process began: somebody may be writing the missing test
def source_of(module: str) -> str:
    """The source of a module of the package."""
    return _path(module).read_text(encoding="utf-8")


def modules_of(where: str) -> list[str]:
    """The modules of a room (`_trust`), or the one that is named (`_trust/names`)."""
    path = PACKAGE / where.removesuffix(".py")
    found = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    if not found or not all(file.exists() for file in found):
        raise FileNotFoundError(f"no room or module {where!r} in {PACKAGE}")
    return [
        ".".join(("trio_duplex", *file.relative_to(PACKAGE).with_suffix("").parts))
        for file in found
        if file.name != "__init__.py"
    ]


def mutants_of(module: str) -> list[Mutant]:
    """All changes of a module, in the order of its source."""
    return mutants_of_source(source_of(module), module)


def mutants_of_source(source: str, module: str) -> list[Mutant]:
    """All changes of a module with this source."""
    found: list[Mutant] = []
    seen: Counter[str] = Counter()
    for number, change in enumerate(_changes(ast.parse(source))):
        said = f"{module} {change.inside} {change.before} -> {change.after}"
        seen[said] += 1
        digest = hashlib.sha256(f"{said} {seen[said]}".encode()).hexdigest()[:12]
        found.append(
            Mutant(
                module=module,
                name=digest,
                number=number,
                line=change.line,
                column=change.column,
                before=change.before,
                after=change.after,
                in_function=change.in_function,
            )
        )
    return found


def changed(mutant: Mutant) -> ast.Module:
    """The module with this change."""
    return changed_source(source_of(mutant.module), mutant)


def changed_source(source: str, mutant: Mutant) -> ast.Module:
    """This source with this change."""
    tree = ast.parse(source)
    for number, change in enumerate(_changes(tree)):
        if number == mutant.number:
            change.put()
            return ast.fix_missing_locations(tree)
    raise LookupError(f"{mutant.module} has no change number {mutant.number}")


def _path(module: str) -> Path:
    return PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")


@attrs.frozen
class _Change:
    line: int
    column: int
    inside: str
    in_function: bool
    before: str
    after: str
    put: Callable[[], None]


@attrs.frozen
class _Place:
    """Where in the source we are: the names of the classes and functions around."""

    names: tuple[str, ...] = ()
    in_function: bool = False

    def within(self, name: str, *, function: bool) -> _Place:
        return _Place((*self.names, name), in_function=self.in_function or function)


def _changes(tree: ast.Module) -> Iterator[_Change]:
    yield from _of_statements(tree.body, _Place())


def _change(place: _Place, old: ast.AST, new: ast.AST | None, put: Callable[[], None]) -> _Change:
    return _Change(
        line=getattr(old, "lineno", 0),
        column=getattr(old, "col_offset", -1) + 1,
        inside=".".join(place.names),
        in_function=place.in_function,
        before=_shown(old),
        after="" if new is None else _shown(new),
        put=put,
    )


def _shown(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 160 else f"{text[:120]} … {text[-30:]}"


# ------------------------------------------------------------------------------------------ statements


def _of_statements(body: list[ast.stmt], place: _Place) -> Iterator[_Change]:
    for index, statement in enumerate(body):
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a docstring, or `...`
        yield from _whole_statement(body, index, place)
        yield from _within_statement(statement, place)


def _whole_statement(body: list[ast.stmt], index: int, place: _Place) -> Iterator[_Change]:
    """Changes of a statement as a whole: deleted, or another one in its place."""
    old = body[index]
    new: ast.stmt | None
    match old:
        case ast.Raise() | ast.AugAssign() | ast.Delete():
            new = ast.Pass()
        case ast.Expr(value=ast.Call() | ast.Await()):
            new = ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) if place.in_function:
            new = ast.Pass()
        case ast.Return(value=ast.expr() as value) if not _is_none(value):
            new = ast.Return(value=ast.Constant(value=None))
        case ast.Return(value=None):
            new = ast.Pass()
        case ast.Break():
            new = ast.Continue()
        case ast.Continue():
            new = ast.Break()
        case _:
            return
    ast.copy_location(new, old)
    deleted = isinstance(new, ast.Pass)
    yield _change(place, old, None if deleted else new, _item_setter(body, index, new))


def _within_statement(node: ast.stmt, place: _Place) -> Iterator[_Change]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            for defaults in (node.args.defaults, node.args.kw_defaults):
                for index, default in enumerate(defaults):
                    if default is not None:
                        yield from _of_expression(default, _setter_at(defaults, index), place)
            overloaded = any("overload" in ast.unparse(one) for one in node.decorator_list)
            if node.name not in _WORDING and not overloaded:
                yield from _of_statements(node.body, place.within(node.name, function=True))
        case ast.ClassDef():
            yield from _of_statements(node.body, place.within(node.name, function=False))
        case ast.If(test=test) if "TYPE_CHECKING" in ast.unparse(test):
            return
        case ast.If():
            yield from _of_condition(node, place)
            yield from _of_statements(node.body, place)
            yield from _of_statements(node.orelse, place)
        case ast.AnnAssign(annotation=annotation, value=ast.expr() as value):
            if "TypeAlias" not in ast.unparse(annotation):
                yield from _of_expression(value, _setter_of(node, "value"), place)
        case ast.Assert() | ast.Import() | ast.ImportFrom() | ast.AnnAssign():
            return
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return
        case _:
            yield from _of_fields(node, place)


def _of_condition(node: ast.If, place: _Place) -> Iterator[_Change]:
    for value in (True, False):
        new = ast.copy_location(ast.Constant(value=value), node.test)
        yield _change(place, node.test, new, _field_setter(node, "test", new))
    yield from _of_expression(node.test, _setter_of(node, "test"), place)


def _of_fields(node: ast.AST, place: _Place) -> Iterator[_Change]:
    """The changes in whatever a node is made of."""
    if isinstance(node, ast.ExceptHandler) and node.type is not None:
        yield from _of_choice(node.type, _setter_of(node, "type"), place)
    for field, value in ast.iter_fields(node):
        if isinstance(value, ast.expr):
            yield from _of_expression(value, _setter_of(node, field), place)
        elif isinstance(value, ast.AST):
            yield from _of_fields(value, place)
        elif isinstance(value, list) and value and isinstance(value[0], ast.stmt):
            yield from _of_statements(value, place)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, ast.expr):
                    yield from _of_expression(item, _setter_at(value, index), place)
                elif isinstance(item, ast.AST) and not isinstance(item, ast.pattern):
                    yield from _of_fields(item, place)


# ----------------------------------------------------------------------------------------- expressions

_Put = Callable[[ast.expr], None]


def _of_expression(node: ast.expr, put: _Put, place: _Place) -> Iterator[_Change]:
    if isinstance(node, ast.JoinedStr | ast.Lambda) or _is_wording(node):
        return
    for new in _instead_of(node, place):
        ast.copy_location(new, node)
        yield _change(place, node, new, _bound(put, new))
    if isinstance(node, ast.Call):
        yield from _of_keywords(node, place)
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
        yield from _of_choice(node.comparators[0], _setter_at(node.comparators, 0), place)
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
        yield from _of_expression(node.value, _setter_of(node, "value"), place)
        yield from _of_fields(node.slice, place)
        return
    yield from _of_fields(node, place)


def _instead_of(node: ast.expr, place: _Place) -> Iterator[ast.expr]:
    """What else could be written in the place of an expression."""
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in _SWAPPED:
            yield _with(node, ops=[_SWAPPED[type(operator)]()])
        case ast.BoolOp():
            yield _with(node, op=_SWAPPED[type(node.op)]())
        case ast.BinOp() if type(node.op) in _SWAPPED and not _is_type_union(node):
            yield _with(node, op=_SWAPPED[type(node.op)]())
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield copy.deepcopy(operand)
        case ast.IfExp():
            yield copy.deepcopy(node.body)
            yield copy.deepcopy(node.orelse)
        case ast.Constant(value=bool() as value):
            yield ast.Constant(value=not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value=value + 1 if abs(value) <= _SMALL else value * 2)
        case ast.Constant(value=bytes() as data):
            yield ast.Constant(value=data + b"\0")
        case ast.Set(elts=elements) | ast.List(elts=elements) if len(elements) > 1:
            yield from _without_one(node, elements)
        case ast.Dict(keys=keys, values=values) if len(keys) > 1 and not place.in_function:
            for index in range(len(keys)):
                yield ast.Dict(
                    keys=keys[:index] + keys[index + 1 :],
                    values=values[:index] + values[index + 1 :],
                )


def _without_one(node: ast.expr, elements: list[ast.expr]) -> Iterator[ast.expr]:
    for index in range(len(elements)):
        yield _with(node, elts=elements[:index] + elements[index + 1 :])


def _of_choice(node: ast.expr, put: _Put, place: _Place) -> Iterator[_Change]:
    """Each single alternative of a tuple goes missing."""
    if isinstance(node, ast.Tuple) and len(node.elts) > 1:
        for new in _without_one(node, node.elts):
            yield _change(place, node, new, _bound(put, new))


def _of_keywords(node: ast.Call, place: _Place) -> Iterator[_Change]:
    """A keyword's value becomes None: so does an error lose one of its facts."""
    for keyword in node.keywords:
        if keyword.arg in {None, "repr"} or _is_none(keyword.value):
            continue
        new = ast.copy_location(ast.Constant(value=None), keyword.value)
        yield _change(
            place,
            keyword,
            ast.keyword(arg=keyword.arg, value=new),
            _field_setter(keyword, "value", new),
        )


def _with(node: ast.expr, **fields: object) -> ast.expr:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_type_union(node: ast.BinOp) -> bool:
    return isinstance(node.op, ast.BitOr) and any(
        _is_none(part) or (isinstance(part, ast.Name) and part.id[:1].isupper())
        for part in (node.left, node.right)
    )


def _is_wording(node: ast.expr) -> bool:
    """Whether an expression is a call that only says something, or only speaks to type checkers."""
    if not isinstance(node, ast.Call):
        return False
    match node.func:
        case ast.Attribute(value=ast.Name(id=owner), attr=method):
            return method in _LOG_METHODS and "log" in owner.lower()
        case ast.Name(id=name):
            return name in _OF_TYPES
    return False


# --------------------------------------------------------------------------------------------- setters


def _setter_of(node: ast.AST, field: str) -> _Put:
    return lambda new: setattr(node, field, new)


def _field_setter(node: ast.AST, field: str, new: ast.AST) -> Callable[[], None]:
    return lambda: setattr(node, field, new)


def _bound(put: _Put, new: ast.expr) -> Callable[[], None]:
    return lambda: put(new)


def _setter_at(items: list[Any], index: int) -> _Put:
    return lambda new: items.__setitem__(index, new)


def _item_setter(items: list[Any], index: int, new: ast.AST) -> Callable[[], None]:
    return lambda: items.__setitem__(index, new)
