"""What every test has: here, the report of tools that were missing."""

from __future__ import annotations

import pytest
import tools


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was *not* tested: a skip among hundreds of dots is not seen."""
    if not tools.absent:
        return
    terminalreporter.section("TOOLS NOT FOUND, THEIR TESTS DID NOT RUN", red=True, bold=True)
    for name, tests in sorted(tools.absent.items()):
        terminalreporter.line(f"{name}: {tests} test{'s' if tests > 1 else ''} skipped", red=True)
    terminalreporter.line("On Debian, `sudo .ci/install-tools` installs them.")
