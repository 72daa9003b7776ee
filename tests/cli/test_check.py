"""``trio-duplex check``: exit codes, and what a person or a script reads of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509

from tests.support.authority import (
    CLIENT_AUTH,
    DAY,
    FLEET,
    NOW,
    SERVER_AUTH,
    STRANGERS,
    Authority,
    Leaf,
)
from trio_duplex import Role
from trio_duplex.cli._command import command

pytestmark = pytest.mark.slow


OK, WARNING, DEFECT = "ok", "warning", "DEFECT"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(leaf: Leaf, trust: Authority = FLEET) -> list[str]:
    """Put everything into files; give the options that name them."""
    Path("node.pem").write_bytes(leaf.chain_pem)
    Path("node.key").write_bytes(leaf.key_pem)
    Path("ca.pem").write_bytes(trust.pem)
    return ["--cert", "node.pem", "--key", "node.key", "--trust", "ca.pem"]


def run(*options: str, **env: str) -> Result:
    return CliRunner().invoke(command, ["check", *options], env=env)


def verdicts(output: str) -> dict[Role, str]:
    """The last word on each role."""
    found = {role: re.search(rf"^As TLS {role}: (\w+)", output, re.MULTILINE) for role in Role}
    return {role: match.group(1) for role, match in found.items() if match}


def rows(output: str) -> dict[str, list[str]]:
    """The table as a script sees it: from what was checked to the verdicts on it."""
    table = output.split("\n\n", maxsplit=1)[0].splitlines()
    head, columns = table[0], [m.start() for m in re.finditer(r"\S+(?: \S+)*", table[0])]
    assert len(columns) == 4, head
    found: dict[str, list[str]] = {}
    for line in table[1:]:
        what, server, client, detail = (
            line[start:end].strip()
            for start, end in zip(columns, [*columns[1:], len(line)], strict=True)
        )
        assert detail
        found.setdefault(what, []).extend(word for word in (server, client) if word)
    return found


def test_a_good_certificate() -> None:
    result = run(*write(FLEET.issue("node.example")))
    assert result.exit_code == 0
    assert verdicts(result.output) == dict.fromkeys(Role, OK)
    assert rows(result.output) == {
        what: [OK, OK]
        for what in (
            "private key",
            "chain",
            "validity",
            "key usage",
            "names",
            "trust roots",
            "handshake",
        )
    }


def test_the_key_may_be_in_the_file_of_the_certificate() -> None:
    leaf = FLEET.issue("node.example")
    Path("both.pem").write_bytes(leaf.key_pem + leaf.chain_pem)
    result = run("--cert", "both.pem")
    assert result.exit_code == 0
    assert verdicts(result.output) == dict.fromkeys(Role, WARNING)  # of an unknown authority
    assert rows(result.output)["chain"] == [WARNING, WARNING]


@pytest.mark.parametrize(
    ("usage", "unfit"), [(SERVER_AUTH, Role.CLIENT), (CLIENT_AUTH, Role.SERVER)]
)
def test_a_certificate_for_one_role(usage: x509.ObjectIdentifier, unfit: Role) -> None:
    result = run(*write(FLEET.issue("node.example", usages=[usage])))
    assert result.exit_code == 1
    assert verdicts(result.output) == {unfit: DEFECT, unfit.other: OK}
    assert sorted(rows(result.output)["key usage"]) == sorted([OK, DEFECT])


def test_defects_of_both_roles() -> None:
    expired = FLEET.issue("node.example", not_before=NOW - 9 * DAY, not_after=NOW - DAY)
    result = run(*write(expired))
    assert result.exit_code == 1
    assert verdicts(result.output) == dict.fromkeys(Role, DEFECT)
    assert rows(result.output)["validity"] == [DEFECT, DEFECT]


def test_warnings_do_not_fail_the_check() -> None:
    result = run(*write(FLEET.issue("node.example", not_after=NOW + 3 * DAY)))
    assert result.exit_code == 0
    assert verdicts(result.output) == dict.fromkeys(Role, WARNING)


def test_a_key_of_another_certificate() -> None:
    options = write(FLEET.issue("node.example"))
    Path("node.key").write_bytes(FLEET.issue("other.example").key_pem)
    result = run(*options)
    assert result.exit_code == 1
    assert rows(result.output)["private key"] == [DEFECT, DEFECT]


@pytest.mark.parametrize(
    "options", [[], ["--key", "node.key"], ["--cert", "absent.pem"], ["--cert", "."]]
)
def test_usage_errors(options: list[str]) -> None:
    write(FLEET.issue("node.example"))
    result = run(*options)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize("broken", ["node.pem", "node.key", "ca.pem"])
def test_what_cannot_be_read(broken: str) -> None:
    options = write(FLEET.issue("node.example"))
    Path(broken).write_bytes(b"nothing of the kind")
    result = run(*options)
    assert result.exit_code == 1
    assert result.output.startswith("trio-duplex: ")
    assert "Traceback" not in result.output


ANSI = re.compile(r"\x1b\[[0-9;]*m")
CROWDED = Authority("an intermediate with a long name", issuer=STRANGERS).issue(
    "node.example",
    *(f"alias-{number}.berlin.fleet.example" for number in range(9)),
    "spiffe://fleet.example/" + "x" * 120,
    usages=[SERVER_AUTH],
)


def test_80_columns_of_a_terminal() -> None:
    result = run(*write(CROWDED), FORCE_COLOR="1", COLUMNS="80", TERM="xterm-256color")
    assert ANSI.search(result.output)
    lines = ANSI.sub("", result.output).splitlines()
    assert max(map(len, lines)) <= 80
    folded = "".join(line.rstrip().split("  ")[-1].strip() for line in lines)
    assert "x" * 120 in folded  # folded, not cut off
    assert verdicts(ANSI.sub("", result.output)) == {Role.SERVER: WARNING, Role.CLIENT: DEFECT}


def test_one_line_each_in_a_pipe() -> None:
    result = run(*write(CROWDED), COLUMNS="80")
    assert not ANSI.search(result.output)
    (names,) = [line for line in result.output.splitlines() if line.startswith("names")]
    assert "x" * 120 in names
    assert "alias-8.berlin.fleet.example" in names


def test_control_sequences_in_a_name_are_escaped() -> None:
    leaf = FLEET.issue(x509.DNSName("\x1b]0;owned\x07[red]a.example"))
    for env in ({}, {"FORCE_COLOR": "1", "TERM": "xterm-256color"}):
        output = ANSI.sub("", run(*write(leaf), **env).output)
        assert "\x1b" not in output
        assert "\x07" not in output
        assert "[red]" in output  # rich's markup is none here
