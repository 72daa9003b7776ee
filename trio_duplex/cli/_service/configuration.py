"""From command line and TOML file to settings: what is in force, and where each value comes from.

A file has options of the process and defaults for all services at its top, a
table for each kind of service (``[proxy]``, ``[exec]``) with defaults for that
kind, and within it a table for each service (``[proxy.web]``). Names are those
of the command line, without the hyphens in front. A service's own value counts
more than its kind's, that more than the file's top, and the command line most.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import attrs
import cattrs
from cattrs.errors import AttributeValidationNote as Note
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, override

from trio_duplex.cli._service.exits import Exit, ServiceError
from trio_duplex.cli._service.option import Option, option_name, options_of, read_value
from trio_duplex.cli._service.service import Service
from trio_duplex.cli._service.settings import (
    CredentialSettings,
    ProcessSettings,
    ServiceSettings,
)

COMMAND_LINE = "command line"

Raw = Mapping[str, object]
"""Values as they were written, by option name."""

SettingsT = TypeVar("SettingsT", bound="CredentialSettings | ProcessSettings")


@attrs.frozen
class Kind:
    """A kind of service: its table in the file, its options, and what runs it.

    Attributes:
        name: The table's name, such as ``proxy``.
        settings: The attrs class of its options.
        service: Makes the service from its settings; raises `ServiceError`.
    """

    name: str
    settings: type[ServiceSettings]
    service: type[Service[Any]]


@attrs.frozen
class Plan:
    """What one reading of command line and file came to.

    Attributes:
        process: The process's settings.
        services: The services, not started yet.
        files: The files that were read for it.
    """

    process: ProcessSettings
    services: tuple[Service[Any], ...]
    files: tuple[Path, ...] = ()


@attrs.frozen
class Layer:
    """Raw values that come from one place.

    Attributes:
        values: By option name.
        origin: The place, as people are told.
        folder: What relative paths are relative to; None for the working directory.
    """

    values: Raw
    origin: str
    folder: Path | None = None


@attrs.frozen
class Configuration:
    """Where settings come from; `plan` reads it all, again at each reload.

    Attributes:
        kinds: Every kind that the file may name.
        kind: The kind of the subcommand; None runs every service of the file.
        command_line: The options that were given.
        file: The TOML file; None for none.
    """

    kinds: Mapping[str, Kind]
    kind: Kind | None
    command_line: Raw = attrs.field(factory=dict[str, object])
    file: Path | None = None

    def plan(self) -> Plan:
        """Read the file and make the services.

        Raises:
            ServiceError: What is wrong; with exit code 2.
        """
        defects: list[str] = []
        plan = self._plan(defects)
        if defects:
            raise _error(defects, self.file)
        return plan

    def defects(self) -> tuple[Plan, list[str]]:
        """Read everything, and give every defect, one line each."""
        defects: list[str] = []
        try:
            plan = self._plan(defects)
        except ServiceError as exc:
            return Plan(ProcessSettings(), ()), [exc.format_message()]
        return plan, defects

    def _plan(self, defects: list[str]) -> Plan:
        top, tables = self._read()
        given = Layer(self.command_line, COMMAND_LINE)
        known = {option_name(name) for name, *_ in options_of(ProcessSettings)}
        process = _settings(ProcessSettings, _only(known, top, given), defects)
        shared = _without(known, top)
        if self.kind is None:
            kinds = [kind for kind in self.kinds.values() if kind.name in tables]
        else:
            kinds = [self.kind]
        _check_top(shared, self.kinds.values(), defects)
        services: list[Service[Any]] = []
        for kind in kinds:
            for name, layers in _services(kind, tables.get(kind.name), self.file, defects):
                inherited = [_for_kind(kind, shared), *layers, _without(known, given)]
                settings = _settings(kind.settings, inherited, defects, name=name)
                if defects:
                    continue  # with values missing, more would be found that is not wrong
                try:
                    services.append(kind.service(settings))
                except ServiceError as exc:
                    defects.append(exc.format_message())
        defects += _shared_addresses(services)
        if process.workers > 1:
            defects += _confined(
                services, _place(ProcessSettings, "workers", process.origins["workers"])
            )
        if not services and not defects:
            names = ", ".join(f"[{name}.NAME]" for name in self.kinds)
            defects.append(f"{self.file}: it has no service; write a table {names}")
        return Plan(process, tuple(services), (self.file,) if self.file else ())

    def _read(self) -> tuple[Layer, dict[str, object]]:
        """The file's top, and the tables of the kinds of services."""
        if self.file is None:
            return Layer({}, "default"), {}
        try:
            text = self.file.read_text("utf-8")
            parsed = tomllib.loads(text)
        except OSError as exc:
            raise ServiceError(
                f"can't read {self.file}: {exc.strerror}; it is to be a TOML file", Exit.USAGE
            ) from exc
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
            raise ServiceError(f"{self.file}: it is not TOML: {exc}", Exit.USAGE) from exc
        try:
            expanded = cast("dict[str, object]", expand(parsed))
        except ValueError as exc:
            raise ServiceError(f"{self.file}: {exc}", Exit.USAGE) from exc
        tables = {key: value for key, value in expanded.items() if key in self.kinds}
        values = {key: value for key, value in expanded.items() if key not in self.kinds}
        return Layer(values, str(self.file), self.file.absolute().parent), tables


def _shared_addresses(services: Iterable[Service[Any]]) -> Iterator[str]:
    owners: dict[object, str] = {}
    for service in services:
        for address in service.addresses():
            if address in owners:
                yield f"{service.name}: {owners[address]} listens on {address} too; give each its own"
            owners[address] = service.name


def _confined(services: Iterable[Service[Any]], option: str) -> Iterator[str]:
    for service in services:
        if service.why_one_process:
            yield (
                f"{option}: {service.name} runs in one process, because {service.why_one_process}; "
                "leave it out, or give that service a process of its own"
            )


def expand(value: object) -> object:
    """Put environment variables in the place of ``${NAME}``, in every text; ``$$`` is a dollar.

    Raises:
        ValueError: There is no such variable.
    """
    if isinstance(value, str):
        return re.sub(r"\$(?:\$|\{([^}]*)\})", _variable, value)
    if isinstance(value, list):
        return [expand(each) for each in cast("list[object]", value)]
    if isinstance(value, dict):
        return {key: expand(each) for key, each in cast("dict[str, object]", value).items()}
    return value


def _variable(match: re.Match[str]) -> str:
    name = cast("str | None", match[1])
    if name is None:
        return "$"
    if name not in os.environ:
        raise ValueError(f"the environment has no variable {name!r}; write $$ for a dollar sign")
    return os.environ[name]


# ------------------------------------------------------------------------------------------------ layers


def _services(
    kind: Kind, table: object, file: Path | None, defects: list[str]
) -> Iterator[tuple[str, list[Layer]]]:
    """The services of a kind, each with its layers, the weakest first."""
    if table is None:
        yield kind.name, []
        return
    folder = None if file is None else file.absolute().parent
    if not isinstance(table, dict):
        defects.append(f"{file}: {kind.name} must be a table, [{kind.name}]")
        return
    entries = cast("dict[str, object]", table)
    values = {key: value for key, value in entries.items() if not isinstance(value, dict)}
    named = {
        key: cast("dict[str, object]", value)
        for key, value in entries.items()
        if isinstance(value, dict)
    }
    shared = Layer(values, f"{file} [{kind.name}]", folder)
    if not named:
        yield kind.name, [shared]
    for name, own in named.items():
        origin = f"{file} [{kind.name}.{name}]"
        yield name, [shared, Layer(own, origin, folder)]


def _names(kind: Kind) -> set[str]:
    return {option_name(name) for name, *_ in options_of(kind.settings)}


def _only(names: set[str], *layers: Layer) -> list[Layer]:
    return [
        attrs.evolve(layer, values={k: v for k, v in layer.values.items() if k in names})
        for layer in layers
    ]


def _without(names: set[str], layer: Layer) -> Layer:
    return attrs.evolve(layer, values={k: v for k, v in layer.values.items() if k not in names})


def _for_kind(kind: Kind, layer: Layer) -> Layer:
    """What the file's top says that this kind can use: other kinds have other options."""
    return _only(_names(kind), layer)[0]


def _check_top(layer: Layer, kinds: Iterable[Kind], defects: list[str]) -> None:
    known = {*(option_name(name) for name, *_ in options_of(ProcessSettings))}
    known.update(*map(_names, kinds), (kind.name for kind in kinds))
    defects += [_unknown(key, known, layer.origin) for key in layer.values if key not in known]


# ------------------------------------------------------------------------------------------------ from raw to settings


def command_line_settings(cls: type[SettingsT], command_line: Raw, *, name: str) -> SettingsT:
    """Read the settings of a subcommand that has no file, from its command line.

    Raises:
        ServiceError: What is wrong; with exit code 2.
    """
    defects: list[str] = []
    settings = _settings(cls, [Layer(command_line, COMMAND_LINE)], defects, name=name)
    if defects:
        raise _error(defects, None)
    return settings


def _settings(
    cls: type[SettingsT], layers: Iterable[Layer], defects: list[str], *, name: str = ""
) -> SettingsT:
    """Structure the values of several layers, the weakest first."""
    raw: dict[str, tuple[object, Layer]] = {}
    for layer in layers:
        raw |= {key: (value, layer) for key, value in layer.values.items()}
    try:
        settings = _structure(cls, raw)
    except ClassValidationError as group:
        defects += [defect for defect in _defects(cls, group, raw) if defect not in defects]
        settings = cls()
    origins = {key: layer.origin for key, (_, layer) in raw.items()}
    changes: dict[str, Any] = {"origins": origins}
    if issubclass(cls, CredentialSettings):
        changes["name"] = name
    return attrs.evolve(settings, **changes)


def _structure(cls: type[SettingsT], raw: Mapping[str, tuple[object, Layer]]) -> SettingsT:
    """Have cattrs make the settings; each option reads its own value."""
    converter = cattrs.Converter(detailed_validation=True)
    overrides: dict[str, Any] = {
        field.name: override(omit=True) for field in attrs.fields(cls) if field.init
    }
    for field, name, made, _ in options_of(cls):
        overrides[field] = override(rename=name, struct_hook=partial(_read, made))
    hook = make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True, **overrides)
    return hook(raw, cls)


def _read(made: Option, value: object, _: object) -> object:
    written, layer = cast("tuple[object, Layer]", value)
    return read_value(made, written, layer.folder)


def _defects(
    cls: type[Any], group: ClassValidationError, raw: Mapping[str, tuple[object, Layer]]
) -> Iterator[str]:
    known = {option_name(name) for name, *_ in options_of(cls)}
    for exc in group.exceptions:
        if isinstance(exc, ForbiddenExtraKeysError):
            for key in sorted(exc.extra_fields):
                yield _unknown(key, known, raw[key][1].origin)
            continue
        notes = cast("list[object]", exc.__notes__)
        key = next(option_name(each.name) for each in notes if isinstance(each, Note))
        yield f"{_place(cls, key, raw[key][1].origin)}: {exc}"


def _place(cls: type[Any], key: str, origin: str) -> str:
    """Where a value was written: an option, or an argument by what the help calls it."""
    if origin != COMMAND_LINE:
        return f"{origin}: {key}"
    arguments = {name: made.metavar for _, name, made, _ in options_of(cls) if made.argument}
    metavar = arguments.get(key)
    return f"--{key}" if metavar is None else metavar.split()[0].strip("[].")


def _unknown(key: str, known: Iterable[str], origin: str) -> str:
    near = difflib.get_close_matches(key.replace("_", "-").lower(), sorted(known), n=1, cutoff=0.6)
    advice = f"did you mean {near[0]!r}?" if near else "trio-duplex COMMAND --help lists them"
    return f"{origin}: there is no option {key!r}; {advice}"


def _error(defects: list[str], file: Path | None) -> ServiceError:
    more = len(defects) - 1
    advice = f" (and {more} more; trio-duplex config {file} shows them)" if more and file else ""
    return ServiceError(defects[0] + advice, Exit.USAGE)
