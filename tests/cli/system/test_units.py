"""The systemd units of the documentation: without faults, and in a tight sandbox."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.command import complete
from tests.support.tools import require_tool

pytestmark = pytest.mark.interop

UNITS = Path(__file__).parents[3] / "docs/deploy/systemd"
SERVICES = sorted(UNITS.glob("*.service"))
MOST_EXPOSED = 2.0


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with a command that exists; an instance of each template."""
    program = tmp_path / "trio-duplex"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/usr/bin/trio-duplex", str(program))
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def test_there_are_units() -> None:
    assert len(SERVICES) >= 3


def test_units_have_no_faults(units: Path) -> None:
    analyze = require_tool("systemd-analyze")
    names = [
        unit.name.replace("@.", "@1.")
        for unit in UNITS.iterdir()
        if unit.suffix in {".service", ".socket"}
    ]
    done = subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=no", *names],
        cwd=units,
        env={"SYSTEMD_UNIT_PATH": f"{units}:", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.name)
def test_sandbox_is_tight(service: Path) -> None:
    analyze = require_tool("systemd-analyze")
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", str(service)],
        capture_output=True,
        text=True,
        check=True,
    )
    score = re.search(r"Overall exposure level for .*: ([\d.]+)", done.stdout)
    assert score is not None, done.stdout
    assert float(score[1]) <= MOST_EXPOSED


def test_configuration_of_the_units_is_valid() -> None:
    done = complete("config", UNITS / "proxy.toml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "fd:duplex" in done.stdout
