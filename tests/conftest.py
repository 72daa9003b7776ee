"""What every test has: our own fixtures, and the report of tools that were missing."""

from __future__ import annotations

import gc
import importlib.metadata

import pytest

from tests.support import tools

collect_ignore = ["consumers"]  # projects of their own: `nox -s consumers`

pytest_plugins = ["pytester"]
if not any(
    entry.value == "trio_duplex.pytest_plugin"
    for entry in importlib.metadata.entry_points(group="pytest11")
):  # a checkout that is not installed
    pytest_plugins.append("trio_duplex.pytest_plugin")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was *not* tested: a skip among hundreds of dots is not seen."""
    if not tools.absent:
        return
    terminalreporter.section("TOOLS NOT FOUND, THEIR TESTS DID NOT RUN", red=True, bold=True)
    for name, tests in sorted(tools.absent.items()):
        terminalreporter.line(f"{name}: {tests} test{'s' if tests > 1 else ''} skipped", red=True)
    terminalreporter.line("On Debian, `sudo .ci/install-tools` installs them.")


def pytest_collection_finish() -> None:
    """What is there now stays, and no collection need look at it again: a test that collects takes 0.01 s, not 0.1."""
    gc.collect()
    gc.freeze()
