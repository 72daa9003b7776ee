"""The output of ``trio-duplex load``: tables, JSON, and a line while it runs. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import attrs
from rich.console import Group, RenderableType
from rich.text import Text

from trio_duplex.cli._load.engine import Latencies
from trio_duplex.cli._load.plan import SILENT, SPEAKING, Plan
from trio_duplex.cli._load.results import (
    AT_THE_CAP,
    ECHO,
    HANDSHAKE,
    HELLO,
    STAGES,
    Classes,
    Results,
)
from trio_duplex.cli._options import format_host_port
from trio_duplex.cli._tables import Column, Prose, Rows
from trio_duplex.cli._text import plain

FORMAT = 1
"""The version of the JSON. It changes whenever programs that read it have to change."""

PERCENTS = (50.0, 90.0, 99.0, 99.9)

BUSY = 0.8
"""How much of a core we may use before the times are doubtful: peers then wait for us, and not for
the server."""

EXAMPLE_WIDTH = 70


def as_json(plan: Plan, results: Results) -> dict[str, Any]:
    """Return the report for JSON; times are in seconds, or null if there are too few values."""
    options = attrs.asdict(plan, recurse=False)
    return {
        "format": FORMAT,
        "target": format_host_port(options.pop("host"), options.pop("port")),
        "options": {**options, "mix": dict(plan.mix.parts)},
        "stopped": results.stopped,
        "passed": results.passed,
        "seconds": round(results.seconds, 3),
        "rate": {"asked": plan.rate, "reached": round(results.rate, 3)},
        "client": {"cpu": round(results.load, 3), "late": _percentiles(results.late)},
        "peers": {
            kind: {
                "dialled": figures.dialled,
                "done": figures.done,
                "failed": figures.failed,
                "unfinished": figures.unfinished,
                "not_dialled": dict(figures.not_dialled),
                "seconds": {
                    stage: _percentiles(figures.times[stage])
                    for stage in STAGES
                    if stage in figures.times
                },
                "errors": _classes(figures.errors),
                "ended_by": _classes(figures.ends),
            }
            for kind, figures in results.figures.items()
        },
    }


def _percentiles(times: Latencies) -> dict[str, float | int | None]:
    found: dict[str, float | int | None] = {"count": len(times)}
    for percent in PERCENTS:
        value = times.percentile(percent) if times.tells(percent) else None
        found[f"p{percent:g}"] = None if value is None else round(value, 6)
    return {**found, "max": round(times.percentile(100), 6) if len(times) else None}


def _classes(classes: Classes) -> dict[str, Any]:
    return {name: attrs.asdict(found) for name, found in classes.items()}


# ------------------------------------------------------------------------------------------------------- for people


def as_text(plan: Plan, results: Results) -> RenderableType:
    """Return the report for people."""
    parts: list[RenderableType] = [Prose(_head(plan, results)), Text(), _counts(results)]
    for table in (_times(results), _ends(results), _errors(results)):
        if table:
            parts += [Text(), table]
    if remarks := list(_remarks(plan, results)):
        parts += [Text(), *map(Prose, remarks)]
    return Group(*parts)


def _head(plan: Plan, results: Results) -> Text:
    where = format_host_port(plan.host, plan.port)
    parts: list[str] = []
    if {SPEAKING, SILENT} & set(plan.mix.kinds):
        parts.append(f"{plan.size} bytes echoed" if plan.size else "only handshakes")
    if plan.tls:
        parts.append(f"TLS {plan.tls}")
    parts.append(f"we took {100 * results.load:.0f} % of a core")
    return Text(
        f"{where}: asked for {plan.rate:g} peers a second, dialled {results.rate:.1f}; "
        f"{results.dialled} in {results.seconds:.1f} s\n{'; '.join(parts)}"
    )


def _counts(results: Results) -> Rows:
    # Show a column for trouble only if there is such trouble.
    troubles = {
        "failed": {kind: each.failed for kind, each in results.figures.items()},
        "unfinished": {kind: each.unfinished for kind, each in results.figures.items()},
        "not dialled": {kind: each.not_dialled.total() for kind, each in results.figures.items()},
    }
    shown = {
        name: numbers
        for name, numbers in troubles.items()
        if name == "failed" or any(numbers.values())
    }
    table = _table("peers", "dialled", "done", *shown)
    for kind, figures in results.figures.items():
        bad = [numbers[kind] for numbers in shown.values()]
        marked = (Text(str(number), style="bold red" if number else "") for number in bad)
        table.add(kind, str(figures.dialled), str(figures.done), *marked)
    return table


def _times(results: Results) -> Rows:
    table = _table("ms from when due", "until", "p50", "p90", "p99", "p99.9", "max", left=2)
    for kind, figures in results.figures.items():
        name = kind
        for stage in STAGES:
            if stage in figures.times:
                table.add(name, stage, *_milliseconds(figures.times[stage]))
                name = ""
    if len(results.late):
        table.add("(we were late", "to dial)", *_milliseconds(results.late))
    return table


def _milliseconds(times: Latencies) -> Iterator[str]:
    for percent in PERCENTS:
        yield _three_digits(1e3 * times.percentile(percent)) if times.tells(percent) else "-"
    yield _three_digits(1e3 * times.percentile(100))


def _three_digits(value: float) -> str:
    digits = 2 if value < 0.1 else max(0, 2 - math.floor(math.log10(value)))
    return f"{value:.{digits}f}"


def _ends(results: Results) -> Rows:
    table = _table("hostile", "peers", "ended by", "such as", left=1, words=2)
    for kind, figures in results.figures.items():
        for how, found in figures.ends.items():
            table.add(kind, str(found.count), _plain(how), _plain(found.example))
    return table


def _errors(results: Results) -> Rows:
    table = _table("failed", "peers", "on the way to", "such as", left=1, words=2)
    for kind, figures in results.figures.items():
        for name, found in figures.errors.items():
            table.add(kind, str(found.count), _plain(name), _plain(found.example))
    return table


def _table(*columns: str, left: int = 1, words: int = 0) -> Rows:
    """Make a table with columns of words on the left and right, and numbers between them."""
    return Rows(
        *(
            Column(
                title,
                right=left <= number < len(columns) - words,
                folds=bool(words) and number == len(columns) - 1,
                style="bold" if number == 0 else "",
            )
            for number, title in enumerate(columns)
        ),
        names=left,
    )


def _plain(text: str) -> str:
    """Make text from the server safe for a terminal, and cut it if it is too long."""
    shown = plain(text)
    return shown if len(shown) <= EXAMPLE_WIDTH else shown[: EXAMPLE_WIDTH - 3] + "..."


_NOT_ADMITTED = (
    "The server did not admit peers, or (close_notify) finished without an echo. A trio_duplex "
    "server refuses its own certificate: use another for peers. Without an echo, use --no-echo."
)
_GLARE = (
    "Speaking peers received a ClientHello: theirs came after the server's window had ended (glare). "
    "Widen the window; or lower --rate, if we were late."
)
_HINTS = {
    f"{HELLO}: timeout": "No ClientHello came to silent peers within --timeout: is the server's "
    "window longer?",
    f"{ECHO}: timeout": "The handshake was done, but no echo came: for a server that does not "
    "echo, use --no-echo.",
    f"{HANDSHAKE}: unexpected_message": _GLARE,
    f"{HANDSHAKE}: alert unexpected_message": _GLARE,
    f"{ECHO}: close_notify": _NOT_ADMITTED,
    f"{ECHO}: alert access_denied": _NOT_ADMITTED,
    f"{HANDSHAKE}: alert access_denied": _NOT_ADMITTED,
}
"""Possible causes of errors that are not obvious."""


def _remarks(plan: Plan, results: Results) -> Iterator[Text]:
    """Yield remarks on results that need an explanation."""
    for why, number in results.not_dialled.items():
        if why == AT_THE_CAP:
            yield Text(
                f"{number} did not dial, because {plan.max_open} were open (--max-open): the server "
                "is slower than the rate, or keeps connections open for long.",
                style="yellow",
            )
        elif why == "EADDRNOTAVAIL":
            yield Text(
                f"{number} did not dial, because this machine had no port left ({why}): "
                "lower --rate, because a used port is free again only after a minute.",
                style="yellow",
            )
        else:
            yield Text(
                f"{number} did not dial, because this machine had no room ({why}): raise "
                "`ulimit -n`, or lower --max-open.",
                style="yellow",
            )
    errors = {name for each in results.figures.values() for name, _ in each.errors.items()}
    for hint in dict.fromkeys(hint for name, hint in _HINTS.items() if name in errors):
        yield Text(hint, style="yellow")
    if results.load > BUSY:
        yield Text(
            f"We took {100 * results.load:.0f} % of a core, so the times depend on us as much as on "
            "the server. Lower --rate, or start a second process.",
            style="yellow",
        )


# -------------------------------------------------------------------------------------------------- while it runs


class Progress:
    """The line that is shown during a load.

    Args:
        plan: The plan.
        results: The results, which are being updated.
    """

    def __init__(self, plan: Plan, results: Results) -> None:
        self._plan = plan
        self._results = results
        self._seen: dict[str, int] = {}

    def line(self, seconds: float, still_open: int) -> Text:
        """Make the line.

        Args:
            seconds: Seconds since the load began.
            still_open: How many peers are open.
        """
        figures = self._results.figures.values()
        failed = sum(each.failed for each in figures) + self._results.not_dialled.total()
        done = sum(each.done for each in figures)
        text = Text(f"{seconds:.0f} of {self._plan.seconds:.0f} s")
        if seconds > self._plan.seconds:
            text = Text("all have dialled")
        text.append(f"  dialled {self._results.dialled}  done {done}  open {still_open}")
        text.append(f"  failed {failed}", style="bold red" if failed else "")
        for kind in (SPEAKING, SILENT):
            if recent := self._recent(kind):
                text.append(f"  {kind} {recent}")
        return text

    def _recent(self, kind: str) -> str | None:
        """Return the median time of peers that got through since the last line."""
        figures = self._results.figures.get(kind)
        times = figures and figures.times.get(ECHO if self._plan.size else HANDSHAKE)
        if not times:
            return None
        since, self._seen[kind] = self._seen.get(kind, 0), len(times)
        value = times.percentile(50, since=since)
        return None if math.isnan(value) else f"{_three_digits(1e3 * value)} ms"
