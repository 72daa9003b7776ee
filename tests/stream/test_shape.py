"""The shape of a negotiation's code: what a reader may rely on, and no test of behaviour would notice."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import ssl
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any, get_origin

import attrs
import pytest
import trio.testing

import trio_duplex
from tests.support.peers import TLS13, connection_pair, credentials, each_version
from trio_duplex._stream.negotiation import Negotiation
from trio_duplex._stream.settings import Settings

EDGES = (
    "trio_duplex.cli",
    "trio_duplex.testing",
    "trio_duplex.__main__",
    "trio_duplex.pytest_plugin",
)

DOORS = {"negotiate", "open_tcp_connection", "serve_listeners", "serve_tcp", "DuplexListener"}
"""What users call has its options one by one; they are put together there."""

MOST_FIELDS = 4
"""`detect` takes so many of them, because a pending peer must hold as little as can be."""


def modules() -> Iterator[ModuleType]:
    for each in pkgutil.walk_packages(trio_duplex.__path__, "trio_duplex."):
        if not each.name.startswith(EDGES):
            yield importlib.import_module(each.name)


MODULES = list(modules())
NEGOTIATING = [
    each
    for each in MODULES
    if each.__name__.startswith(("trio_duplex._stream.", "trio_duplex._serve."))
]


def functions(module: ModuleType) -> Iterator[FunctionType]:
    for thing in vars(module).values():
        if getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(thing):
            yield thing
        elif inspect.isclass(thing) and not attrs.has(thing):
            yield from filter(inspect.isfunction, vars(thing).values())


@pytest.mark.parametrize("module", NEGOTIATING, ids=lambda each: each.__name__)
def test_what_belongs_together_travels_in_one_object(module: ModuleType) -> None:
    fields = {each.name for kind in (Negotiation, Settings) for each in attrs.fields(kind)}
    for function in functions(module):
        if function.__qualname__.partition(".")[0] not in DOORS:
            passed = fields & set(inspect.signature(function).parameters)
            assert len(passed) <= MOST_FIELDS, (function.__qualname__, passed)


@pytest.mark.slow
def test_one_place_takes_turns() -> None:
    calls = [
        (module.__name__, node.lineno)
        for module in NEGOTIATING
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "take_turn"
    ]
    assert [name for name, _ in calls] == ["trio_duplex._stream.negotiation"]


@pytest.mark.parametrize("module", NEGOTIATING, ids=lambda each: each.__name__)
def test_no_frozen_object_holds_what_changes(module: ModuleType) -> None:
    for thing in vars(module).values():
        if not (inspect.isclass(thing) and attrs.has(thing)) or thing.__module__ != module.__name__:
            continue
        if thing.__setattr__ is object.__setattr__:  # it is not frozen
            continue
        for field in attrs.fields(thing):
            makes: Any = getattr(field.default, "factory", None)
            assert (get_origin(makes) or makes) not in (list, dict, set), (
                thing.__qualname__,
                field.name,
            )


@pytest.mark.slow
@each_version
@pytest.mark.parametrize("bare", [False, True])
async def test_no_method_of_a_tls_object_is_replaced(
    version: ssl.TLSVersion, bare: bool, autojump_clock: trio.testing.MockClock
) -> None:
    tickets = 2 if version is TLS13 else 0
    ends = await connection_pair(version, server=credentials(version, session_tickets=tickets))
    for end in ends:
        if bare:
            assert end.tls.server_side in (True, False)
        replaced = set(vars(end._flow.engine.ssl_object)) & set(dir(ssl.SSLObject))
        assert replaced == set()
        await trio.aclose_forcefully(end)
