"""What every test has: our own fixtures, and the report of tools that were missing."""

from __future__ import annotations

import gc
import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling, Scheduling
from xdist.workermanage import WorkerController

from tests.support import tools
from tests.support.folders import short_folder
from tests.support.shares import left_out

MOST_PROCESSES = 8
LONG_NAME = 24

collect_ignore = ["consumers"]  # projects of their own: `nox -s consumers`

pytest_plugins = ["pytester"]
if not any(
    entry.value == "trio_duplex.pytest_plugin"
    for entry in importlib.metadata.entry_points(group="pytest11")
):  # a checkout that is not installed
    pytest_plugins.append("trio_duplex.pytest_plugin")


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """A folder for Unix sockets, in place of `tmp_path`."""
    with short_folder() as folder:
        yield folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--share",
        metavar="K/N[:all]",
        help="of each test with many cases only the Kth of N parts of them; of all tests, with :all",
    )


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Long bytes are numbered: keys and certificates are new in each process, and `-n` asks for the same names."""
    return argname if isinstance(val, bytes) and len(val) > LONG_NAME else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not in the share that was asked for."""
    share = config.getoption("--share")
    if share is not None:
        others = left_out(items, share)
        config.hook.pytest_deselected(items=others)
        unwanted = set(others)
        items[:] = [item for item in items if item not in unwanted]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two processes for each CPU: tests wait for programs, sockets and clocks for more than half of their time.

    `.ci/run` sets another number, because it has several runs side by side.
    """
    if number := os.environ.get("TRIO_DUPLEX_PROCESSES"):
        return int(number)
    return min(2 * (os.cpu_count() or 1), MOST_PROCESSES)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduling:
    """Each file in one process, for its fixtures; in our order, which has the files that take longest in front."""
    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController) -> None:
    """Take over what a process of `-n` has missed."""
    tools.absent.update(getattr(node, "workeroutput", {}).get("absent", {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that began this one, if it is one of `-n`, what was missed here."""
    output: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["absent"] = dict(tools.absent)


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
