"""``trio-duplex check``: check whether a certificate is fit for both TLS roles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
from rich.text import Text

from trio_duplex import CredentialsError, Role
from trio_duplex.certificates import Check, Grade, check_certificate
from trio_duplex.cli._examples import ExampleCommand
from trio_duplex.cli._options import PemFile
from trio_duplex.cli._service.exits import ServiceError
from trio_duplex.cli._tables import Column, Rows, new_console
from trio_duplex.cli._text import plain

_WORDS = {Grade.OK: "ok", Grade.WARNING: "warning", Grade.DEFECT: "DEFECT"}
_STYLES = {Grade.OK: "green", Grade.WARNING: "yellow", Grade.DEFECT: "bold red"}
_GRAVITY = [Grade.OK, Grade.WARNING, Grade.DEFECT]


@click.command(
    cls=ExampleCommand,
    example="trio-duplex check --cert node.pem --key node.key --trust ca.pem",
)
@click.option(
    "--cert",
    "certificate",
    type=PemFile(),
    required=True,
    metavar="FILE",
    help="PEM file of our certificate and its intermediates, leaf first.",
)
@click.option(
    "--key",
    type=PemFile(),
    metavar="FILE",
    help="PEM file of its private key, if that is not in the file of --cert.",
)
@click.option(
    "--trust",
    type=PemFile(),
    metavar="FILE",
    help="PEM file of the authorities that may have issued the certificates of peers, and ours.",
)
def check(certificate: Path, key: Path | None, trust: Path | None) -> None:
    """Check whether a certificate can be presented in both TLS roles.

    The peer chooses the role, so one certificate must be fit for both. The exit
    code is 0 if it is, even with warnings, and 1 if it has a defect.
    """
    try:
        checks = check_certificate(certificate_chain=certificate, private_key=key, trust=trust)
    except CredentialsError as exc:
        raise ServiceError(str(exc)) from exc
    console = new_console()
    console.print(_table(checks))
    console.print()
    for role in Role:
        console.print(_verdict(checks, role))
    raise SystemExit(1 if any(one.grade is Grade.DEFECT for one in checks) else 0)


def _table(checks: Iterable[Check]) -> Rows:
    table = Rows(
        Column("check", style="bold"),
        *(Column(f"as {role}") for role in Role),
        Column("what was found", folds=True),
    )
    for one in checks:
        grades = (_grade(one.grade) if one.role in (None, role) else Text("") for role in Role)
        # Names come from the issuer. They must not contain control sequences for the terminal.
        table.add(plain(one.what), *grades, plain(one.detail))
    return table


def _verdict(checks: Sequence[Check], role: Role) -> Text:
    grades = Counter(one.grade for one in checks if one.role in (None, role))
    worst = max(grades, key=_GRAVITY.index)
    text = Text.assemble(f"As TLS {role}: ", _grade(worst))
    counts = [
        f"{grades[grade]} {grade.value}{'s' if grades[grade] > 1 else ''}"
        for grade in (Grade.DEFECT, Grade.WARNING)
        if grades[grade]
    ]
    return text.append(f" ({', '.join(counts)})" if counts else "")


def _grade(grade: Grade) -> Text:
    return Text(_WORDS[grade], style=_STYLES[grade])
