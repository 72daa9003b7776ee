"""Becoming somebody else: in a process of its own, since nobody comes back."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from trio_duplex.cli._system.privileges import (
    Identity,
    PrivilegesError,
    become,
    find_identity,
)

pytestmark = pytest.mark.slow

NOBODY = 65534

BECOME = """
import os, sys
from trio_duplex.cli._system.privileges import find_identity, become
become(find_identity(sys.argv[1] or None, sys.argv[2] or None))
print(*os.getresuid(), *os.getresgid(), ",".join(map(str, sorted(os.getgroups()))))
"""


def after_becoming(user: str, group: str) -> list[str]:
    command = [sys.executable, "-c", BECOME, user, group]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@root_only
@pytest.mark.parametrize("user", ["nobody", str(NOBODY)])
def test_user_and_its_group(user: str) -> None:
    ids = after_becoming(user, "")
    assert ids[:3] == [str(NOBODY)] * 3
    assert "0" not in ids[3:6]
    assert "0" not in ids[6].split(",")


@root_only
def test_group_that_is_given_is_the_only_one() -> None:
    assert after_becoming("nobody", "daemon") == ["65534"] * 3 + ["1"] * 4
    assert after_becoming("", "daemon") == ["0"] * 3 + ["1"] * 4


def test_neither_changes_nothing() -> None:
    assert find_identity(None, None) is None


@pytest.mark.parametrize(("user", "group"), [("nobody-there", None), (None, "nobody-there")])
def test_unknown_names_are_refused(user: str | None, group: str | None) -> None:
    with pytest.raises(PrivilegesError, match="nobody-there"):
        find_identity(user, group)


def test_without_the_right_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    for name in ("setgroups", "setresgid", "setresuid"):
        monkeypatch.setattr(os, name, forbidden)
    with pytest.raises(PrivilegesError, match="start as root"):
        become(Identity(NOBODY, NOBODY, (NOBODY,)))
