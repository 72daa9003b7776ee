"""The hook that renewal tools call: one file, whole, readable by the group, and a reload."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HOOK = Path(__file__).parents[3] / "docs/deploy/renewed.sh"


def run_hook(folder: Path, chain: Path, key: Path) -> subprocess.CompletedProcess[str]:
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    systemctl = programs / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$@" >>"{folder}/told"\n')
    systemctl.chmod(0o755)
    environ = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "TRIO_DUPLEX_FOLDER": str(folder),
        "TRIO_DUPLEX_GROUP": str(os.getgid()),
    }
    return subprocess.run(
        [HOOK, chain, key], env=environ, check=False, capture_output=True, text=True
    )


def test_pair_is_installed_and_the_service_reloaded(tmp_path: Path) -> None:
    (tmp_path / "node.pem").write_text("old")
    (tmp_path / "chain").write_text("new chain\n")
    (tmp_path / "key").write_text("new key\n")
    assert run_hook(tmp_path, tmp_path / "chain", tmp_path / "key").returncode == 0
    installed = tmp_path / "node.pem"
    assert installed.read_text() == "new chain\nnew key\n"
    assert stat.S_IMODE(installed.stat().st_mode) == 0o640
    assert (tmp_path / "told").read_text() == "reload trio-duplex.service\n"


def test_missing_key_leaves_the_old_pair(tmp_path: Path) -> None:
    (tmp_path / "node.pem").write_text("old")
    (tmp_path / "chain").write_text("new chain\n")
    assert run_hook(tmp_path, tmp_path / "chain", tmp_path / "no-key").returncode != 0
    assert (tmp_path / "node.pem").read_text() == "old"
    assert not (tmp_path / "told").exists()
    assert not list(tmp_path.glob(".node.pem.*"))
