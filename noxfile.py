"""The project's checks, one session each; `nox -l` lists them, `.ci/run` runs them all.

With no arguments `nox` runs what a change needs before it is committed. uv makes the environments
if it is there, virtualenv and pip if it is not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

PYTHONS = ["3.11", "3.12", "3.13"]
OLDEST, NEWEST = PYTHONS[0], PYTHONS[-1]
DISTRIBUTION = "/usr/bin/python3"
USING_DEPENDENCIES = [
    "tests/stream/test_negotiate.py",
    "tests/stream/test_connection.py",
    "tests/serve/test_serve.py",
    "tests/trust/test_trusted_certificates.py",
    "tests/cli/test_command.py",
    "tests/test_anyio.py",
    "tests/test_httpcore.py",
    "tests/test_metrics.py",
    "tests/test_pytest_plugin.py",
]
COVERAGE_FLOOR = 97  # per cent of the lines of trio_duplex/

EMPTY_PROJECT = """
import sys

def test_plugin_is_there_and_trio_is_not(pytestconfig):
    assert pytestconfig.pluginmanager.has_plugin("trio_duplex")
    assert not {"trio", "ssl", "cryptography", "trio_duplex._public"} & set(sys.modules)
"""

nox.needs_version = ">=2025.10"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "layers", f"tests-{OLDEST}"]
nox.options.reuse_venv = "yes"
nox.options.download_python = "never"  # what is tested is what the machine has
# A Python that is not here is skipped at home; in CI it would be a check that silently did not happen.
nox.options.error_on_missing_interpreters = os.environ.get("CI") == "true"


def _activate_pyenv() -> None:
    """Let pyenv's `python3.N` shims run: they exist for every version, but work only for the selected ones."""
    pyenv = shutil.which("pyenv")
    if pyenv is None or "PYENV_VERSION" in os.environ:
        return
    listed = subprocess.run(
        [pyenv, "versions", "--bare"], capture_output=True, text=True, check=False
    ).stdout.split()
    newest = {
        python: max(
            (version for version in listed if version.startswith(f"{python}.")),
            key=lambda version: [int(part) for part in version.split(".") if part.isdigit()],
            default=None,
        )
        for python in PYTHONS
    }
    if chosen := [version for version in newest.values() if version is not None]:
        # "system" last: what pyenv does not have may still come with the machine.
        os.environ["PYENV_VERSION"] = ":".join([*chosen, "system"])


_activate_pyenv()


MEASURE = """
import os, sys
if sys.orig_argv[-1].startswith("import sys;exec("):  # a process of `-n`, not the one that begins them
    import coverage
    coverage.process_startup()
    for name in ("COVERAGE_PROCESS_START", "PYTHONPATH"):  # what a test starts is not measured
        del os.environ[name]
"""


def _pytest(session: nox.Session) -> None:
    """Run the tests, and measure what they cover once: on the newest Python, in a full run.

    All of them run on the oldest Python. Of a test that has many cases the newest has a third. One in
    between has a third of all: what passes on both sides of it seldom fails there.

    Lines are counted by `sys.monitoring`, which is told of each only once: the tests then take a
    tenth more CPU. Branches took two fifths, since `sys.monitoring` knows them from Python 3.14 on.
    """
    if session.posargs:
        session.run("python", "-m", "pytest", *session.posargs)
        return
    chosen: list[str] = []
    if session.python != OLDEST:
        share = f"{PYTHONS.index(str(session.python))}/{len(PYTHONS)}"
        share += "" if session.python == NEWEST else ":all"
        chosen = ["-m", "not one_python", f"--share={share}"]
    if session.python != NEWEST:
        session.run("python", "-m", "pytest", "-n", "auto", *chosen)
        return
    # Not with pytest-cov: pytest loads our own plugin, which is to be measured, before that one. So each process
    # of pytest's begins to measure when its Python starts.
    tmp = Path(session.create_tmp()).resolve()
    for former in tmp.glob("coverage*"):
        former.unlink()
    (tmp / "sitecustomize.py").write_text(MEASURE, encoding="utf-8")
    where = {"COVERAGE_FILE": str(tmp / "coverage")}
    measured = {
        "COVERAGE_CORE": "sysmon",
        "COVERAGE_PROCESS_START": str(Path("pyproject.toml").resolve()),
        "PYTHONPATH": str(tmp),
    }
    session.run("python", "-m", "pytest", "-n", "auto", *chosen, env=where | measured)
    session.run("python", "-m", "coverage", "combine", "--quiet", env=where)
    session.run("python", "-m", "coverage", "report", f"--fail-under={COVERAGE_FLOOR}", env=where)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests, with the newest dependencies; arguments after `--` go to pytest."""
    session.install("-e", ".[all]", "--group", "test")
    _pytest(session)


@nox.session(python=DISTRIBUTION)
def distribution(session: nox.Session) -> None:
    """The tests, on the Python that the distribution ships.

    Its ``ssl`` may be built otherwise than python.org's. Debian 12's 3.11.2
    takes a FIN for a clean end, allows TLS 1.0, and has 60 cipher suites.
    """
    session.install("-e", ".[all]", "--group", "test")
    session.run("python", "-c", "import sys, ssl; print(sys.version, ssl.OPENSSL_VERSION)")
    ours = ["-n", "auto", "--share=3/3", "-m", "not one_python or interop"]
    session.run("python", "-m", "pytest", *(session.posargs or ours))


@nox.session(python=OLDEST)
def quick(session: nox.Session) -> None:
    """The tests that wait for no clock and need no program of other people's."""
    session.install("-e", ".[all]", "--group", "test")
    session.run("python", "-m", "pytest", "-m", "not interop and not slow", *session.posargs)


@nox.session(python=OLDEST)
def min_versions(session: nox.Session) -> None:
    """The tests with the lowest versions of the direct dependencies that pyproject.toml allows: some of them.

    The quick ones, and those that use most of each dependency: the others have little to do with
    versions, and are run with the newest on each Python. `-- tests` runs all.
    """
    session.install("uv")  # pip cannot resolve downwards
    session.run(
        "uv", "pip", "install", "--quiet", "--python", _python(session),
        "--resolution", "lowest-direct", "-e", ".[all]", "--group", "test",
    )  # fmt: skip
    session.run("uv", "pip", "list", "--quiet", "--python", _python(session))
    if session.posargs:
        session.run("python", "-m", "pytest", *session.posargs)
        return
    session.run("python", "-m", "pytest", "-n", "auto", "-m", "not interop and not slow")
    some = ["-m", "not interop", "--share=1/3", *USING_DEPENDENCIES]
    session.run("python", "-m", "pytest", "-n", "auto", *some)


@nox.session(python=OLDEST)
def lint(session: nox.Session) -> None:
    """ruff's rules and its formatting; and that the newsfragments can be read."""
    session.install("--group", "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("towncrier", "build", "--draft", silent=True)


@nox.session(python=OLDEST)
def types(session: nox.Session) -> None:
    """mypy and pyright, both strict, on the package and on a file that uses it as a user would."""
    session.install("-e", ".[all]", "--group", "types")
    session.run("mypy", *_mypy_cache(session))
    session.run("pyright", "--warnings", "--pythonpath", _python(session))


@nox.session(python=OLDEST)
def typing_compat(session: nox.Session) -> None:
    """A user who still has trio-typing can use us, at run time and under mypy (without its crashing plugin)."""
    session.install(".", "--group", "typing-compat")
    session.run("python", "-W", "error", "-c", "import trio_typing, trio_duplex; trio_duplex.Role")
    # From elsewhere and without our configuration: trio_duplex is then what is installed, as it is
    # for a user.
    # The files are copied, too: mypy looks for packages in the folders above a file.
    cache, tmp = _mypy_cache(session), Path(session.create_tmp()).resolve()
    user_files = [shutil.copy(path, tmp) for path in sorted(Path("tests/typing").glob("*.py"))]
    with session.chdir(tmp):
        session.run("mypy", "--strict", "--config-file=", *cache, *map(str, user_files))


@nox.session(python=OLDEST)
def layers(session: nox.Session) -> None:
    """The design's layers: imports point down only."""
    session.install("-e", ".", "--group", "layers")
    session.run("lint-imports", "--no-cache")


@nox.session(python=OLDEST)
def fuzz(session: nox.Session) -> None:
    """Look for bytes that break it: for some seconds, or for as many as the argument says."""
    seconds = int(session.posargs[0]) if session.posargs else 10
    session.install("-e", ".[all]", "--group", "test")
    # Whole openings at random, some thirty a second; with time, also each step of each cancellation.
    lengthy = seconds >= 60
    session.run(
        "python", "-m", "pytest", "tests/fuzz", *(["tests/stream/test_cancellation.py"] if lengthy else []),
        env={
            "TRIO_DUPLEX_EXAMPLES": str(max(100, seconds * 10)),
            "TRIO_DUPLEX_LONG": "1" if lengthy else "",
        },
    )  # fmt: skip
    try:
        session.install("--group", "fuzz")
    except nox.command.CommandFailed:
        loudly = f"NOT DONE: atheris does not install on Python {session.python}"
        if os.environ.get("CI") == "true":
            session.error(loudly)
        session.warn(f"{'!' * 20} {loudly} {'!' * 20}")
        return
    found = Path(session.create_tmp()).resolve() / "fuzz"  # kept: the next run goes on from there
    for target in ("opening", "identity", "pem"):
        session.run(
            "python", "-W", "ignore", "tests/fuzz/run_atheris.py",
            target, str(max(2, seconds // 5)), str(found),
        )  # fmt: skip


@nox.session(python=OLDEST)
def soak(session: nox.Session) -> None:
    """Short connections of all kinds must leave nothing behind: 1,500, or what the argument says.

    And of thousands of first bytes that come just as the window closes, none may be lost.
    """
    session.install("-e", ".[all]", "--group", "test")
    session.run("python", "-W", "error", "tests/soak.py", *(session.posargs or ["1500"]))
    session.run(
        "python", "-m", "pytest", "tests/stream/test_deadline_race.py", env={"TRIO_DUPLEX_LONG": "1"}
    )  # fmt: skip


@nox.session(python=OLDEST)
def mutants(session: nox.Session) -> None:
    """Small changes of the trust, stream and serving rooms: prints those that no test notices. Outside CI.

    It goes on where the last run ended: `-- --sample 300 --seconds 3600` for more, `-- --help` for all.
    """
    session.install("-e", ".[all]", "--group", "test")
    state = Path(session.create_tmp()).resolve() / "mutants"
    session.run("python", "-m", "tests.mutants", "--state", str(state), *session.posargs)


@nox.session(python=OLDEST)
def bench(session: nox.Session) -> None:
    """That every benchmark works, on every subject; `-- run` measures, in a quarter of an hour."""
    session.install("-e", ".[all]", "--group", "bench")
    session.run("python", "-m", "benchmarks", *(session.posargs or ["run", "--quick"]))


@nox.session(python=OLDEST)
def docs(session: nox.Session) -> None:
    """The documentation; a warning, a dead link, or a search that misses is an error."""
    session.install("-e", ".[all]", "--group", "docs", "--group", "test")
    site = "docs/_build/html"
    shutil.rmtree(site, ignore_errors=True)
    session.run(
        "sphinx-build", "-q", "-E", "-W", "--keep-going", "-n", "-b", "html", "docs", site
    )  # fmt: skip
    # The other tests of the documentation do not need the site, and every full run has them.
    session.run(
        "python", "-m", "pytest", "-q", "tests/docs/test_site.py", env={"TRIO_DUPLEX_SITE": site}
    )


@nox.session(python=OLDEST)
def wheel(session: nox.Session) -> None:
    """Build the wheel from the sdist, install it in an empty place, and use it from there."""
    session.install("build[virtualenv]")  # virtualenv needs no ensurepip, which Debian takes out
    tmp = Path(session.create_tmp()).resolve()
    shutil.rmtree(tmp / "dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(tmp / "dist"), ".", silent=True)
    (built,) = (tmp / "dist").glob("*.whl")

    empty = tmp / "empty"
    session.run("python", "-m", "virtualenv", "--quiet", "--clear", str(empty))
    scripts = empty / ("Scripts" if sys.platform == "win32" else "bin")
    python, command = str(scripts / "python"), str(scripts / "trio-duplex")
    with session.chdir(tmp):  # where there is no trio_duplex/ to be imported by mistake
        session.run(python, "-m", "pip", "install", "--quiet", str(built), external=True)
        use = "import trio_duplex; trio_duplex.serve_tcp"  # the names come when they are asked for
        session.run(python, "-W", "error", "-c", use, external=True)
        # Without the extra, the command must name it, not show a traceback.
        said = session.run(command, "demo", success_codes=[1, 2], silent=True, external=True)
        if "trio-duplex[cli]" not in str(said) or "Traceback" in str(said):
            session.error(f"without the cli extra, the command says:\n{said}")
        session.run(python, "-m", "pip", "install", "--quiet", f"{built}[cli]", external=True)
        session.run(command, "demo", external=True)


@nox.session(python=OLDEST)
def consumers(session: nox.Session) -> None:
    """Projects that use the test kit, each with the wheel and its `testing` extra in a fresh environment.

    And one that merely has us installed, without the extra: its pytest must not notice.
    """
    session.install("build[uv]")  # installs in a second what takes pip ten, in five environments
    tmp = Path(session.create_tmp()).resolve()
    for leftover in ("dist", "projects"):
        shutil.rmtree(tmp / leftover, ignore_errors=True)
    session.run(
        "python", "-m", "build", "--installer", "uv", "--wheel", "--outdir", str(tmp / "dist"), ".",
        silent=True,
    )  # fmt: skip
    (built,) = (tmp / "dist").glob("*.whl")

    def fresh(*requirements: str) -> str:
        session.run(
            "uv", "venv", "--quiet", "--clear", "--python", _python(session), str(tmp / "env")
        )
        scripts = tmp / "env" / ("Scripts" if sys.platform == "win32" else "bin")
        python = str(scripts / "python")
        session.run("uv", "pip", "install", "--quiet", "--python", python, *requirements)
        return python

    # Copied to where no configuration and no conftest.py of ours is above them.
    ignore = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree("tests/consumers", tmp / "projects", ignore=ignore)
    with session.chdir(tmp / "projects"):
        for project in sorted((tmp / "projects").iterdir()):
            python = fresh(f"{built}[testing]", str(project) + "[test]")
            with session.chdir(project):
                session.run(python, "-m", "pytest", "-q", *session.posargs, external=True)

        (tmp / "projects" / "empty").mkdir()
        with session.chdir(tmp / "projects" / "empty"):
            Path("pytest.ini").write_text("[pytest]\n", encoding="utf-8")  # not ours, further up
            Path("test_empty.py").write_text(EMPTY_PROJECT, encoding="utf-8")
            # The oldest that is still met in distributions, too: pluggy 1.2 brought another kind of hook.
            for runner in (["pytest"], ["pytest<8", "pluggy<1.1"]):
                python = fresh(str(built), *runner)
                for command in (
                    ["-m", "pytest", "-W", "error"],
                    ["-c", "import pytest, trio_duplex.pytest_plugin"],
                ):
                    ran = subprocess.run(
                        [python, "-W", "error", "-X", "importtime", *command],
                        capture_output=True, text=True, check=False,
                    )  # fmt: skip
                    if ran.returncode or "warning" in ran.stdout.lower():
                        session.error(f"in an empty project, {command} says:\n{ran.stdout}")
                    # Python does not time what is loaded by name, as plugins are, but all that they
                    # import: so the first has none of ours, and the second says what we cost.
                    ours = [line for line in ran.stderr.splitlines() if "trio" in line]
                    session.log("%s imports of ours:\n%s", command, "\n".join(ours) or "nothing")
                    if not {line.split()[-1] for line in ours} <= {
                        "trio_duplex",
                        "trio_duplex.pytest_plugin",
                    }:
                        session.error("in an empty project, trio is imported")


def _python(session: nox.Session) -> str:
    """The path of the session's own interpreter, for tools that look for one."""
    return str(Path(session.bin).resolve() / "python")


def _mypy_cache(session: nox.Session) -> list[str]:
    """A cache per session: they see different stubs, and would keep discarding a shared one."""
    return [f"--cache-dir={Path(session.create_tmp()).resolve() / 'mypy'}"]
