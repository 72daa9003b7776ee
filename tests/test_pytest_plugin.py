"""The fixtures, as projects use and misuse them: each test is a pytest run of its own."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import trustme

import trio_duplex
import trio_duplex.testing

pytestmark = pytest.mark.slow

# An inner run forgets what it imported, and cryptography can't be imported twice: so it is
# imported here, with all that the inner runs use of it.
trustme.CA().issue_cert("x.example")

PLUGIN = "trio_duplex.pytest_plugin"
INSTALLED = any(
    entry.value == PLUGIN for entry in importlib.metadata.entry_points(group="pytest11")
)
ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"


def run(
    pytester: pytest.Pytester, code: str, *args: str, ini: str = "", fresh: bool = False
) -> pytest.RunResult:
    """Run tests in a pytest of their own, with warnings as errors; ``fresh``: in a new process."""
    pytester.makepyfile(textwrap.dedent(code))
    pytester.makeini(f"[pytest]\nfilterwarnings = error\n{ini}")
    load = () if INSTALLED or "no:trio_duplex" in args else ("-p", PLUGIN)
    args = ("-p", "no:cacheprovider", *load, *args)
    if fresh:
        return pytester.runpytest_subprocess(*args, timeout=60)
    return pytester.runpytest_inprocess(*args)


def fixtures() -> set[str]:
    from trio_duplex import pytest_plugin

    return {
        name
        for name, value in vars(pytest_plugin).items()
        if type(value).__name__ == "FixtureFunctionDefinition" and not name.startswith("_")
    }


BOTH_ROLES = """
    import math
    import pytest
    import trio_duplex
    from trio_duplex import Role
    {imports}

    async def greet(connection):
        await connection.send_all(str(connection.role).encode())

    {mark}
    async def test_both(duplex_server, speaking_peer, silent_peer):
        seconds = iter([math.inf, 0.1])  # of the first peer, and of the second
        async with duplex_server(greet, window=lambda _: next(seconds)) as server:
            report = await speaking_peer(say=b"", hear=6).run(server)
            report.assert_role(Role.CLIENT)
            assert report.heard == b"server"
            report = await silent_peer(say=b"", hear=6).run(server)
            report.assert_role(Role.SERVER)
            assert report.heard == b"client"
"""


def test_server_takes_a_window_policy(pytester: pytest.Pytester) -> None:
    code = """
    from trio_duplex import windows

    async def tell(connection):
        await connection.send_all(str(connection.decision.reason).encode())

    async def test_policies(duplex_server, silent_peer, announcing_peer):
        policy = windows.ByNetwork({"127.0.0.0/8": windows.SILENT}, otherwise=3600)
        async with duplex_server(tell, window=policy) as server:
            assert (await silent_peer(say=b"", hear=4).run(server)).heard == b"rule"
        async with duplex_server(tell, window=windows.PeerMemory(otherwise=3600)) as server:
            assert (await announcing_peer(say=b"", hear=9).run(server)).heard == b"announced"
    """
    run(pytester, code, ini="trio_mode = true").assert_outcomes(passed=1)


# -------------------------------------------------------------------- under each runner


def test_pytest_trio_with_trio_mode(pytester: pytest.Pytester) -> None:
    result = run(pytester, BOTH_ROLES.format(imports="", mark=""), ini="trio_mode = true")
    result.assert_outcomes(passed=1)


def test_pytest_trio_without_trio_mode(pytester: pytest.Pytester) -> None:
    result = run(pytester, BOTH_ROLES.format(imports="", mark="@pytest.mark.trio"))
    result.assert_outcomes(passed=1)


def test_anyio_on_its_trio_backend(pytester: pytest.Pytester) -> None:
    pytest.importorskip("anyio")
    code = (
        BOTH_ROLES.format(imports="", mark="@pytest.mark.anyio")
        + """
    @pytest.fixture
    def anyio_backend():
        return "trio"
    """
    )
    result = run(pytester, code, "-p", "no:trio")
    result.assert_outcomes(passed=1)


def test_anyio_in_virtual_time(pytester: pytest.Pytester) -> None:
    pytest.importorskip("anyio")
    result = run(
        pytester,
        """
        import pytest
        import trio
        import trio.testing

        @pytest.fixture
        def anyio_backend():
            return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}

        @pytest.mark.anyio
        async def test_window(duplex_server, duplex_listener, silent_peer):
            async with duplex_server(listener=duplex_listener, window=50) as server:
                assert (await silent_peer().run(server)).seconds >= 50
        """,
    )
    result.assert_outcomes(passed=1)


def test_anyio_on_asyncio_says_that_it_must_be_trio(pytester: pytest.Pytester) -> None:
    pytest.importorskip("anyio")
    code = (
        BOTH_ROLES.format(imports="", mark="@pytest.mark.anyio")
        + """
    @pytest.fixture
    def anyio_backend():
        return "asyncio"
    """
    )
    result = run(pytester, code)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*RuntimeError*runs on Trio, and the test does not*"])


def test_sync_project(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import math
        import socket
        from trio_duplex import Role

        def test_ssl_against_ours(duplex_thread_server, duplex_certificate):
            server = duplex_thread_server(window=math.inf)
            with socket.create_connection(server.address, timeout=60) as raw:
                with duplex_certificate.context(Role.CLIENT).wrap_socket(raw) as stream:
                    stream.sendall(b"hello")
                    assert stream.recv(10) == b"hello"

        def test_peers_against_theirs(duplex_thread_server, speaking_peer, silent_peer):
            seconds = iter([math.inf, 0.1])  # of the first peer, and of the second
            server = duplex_thread_server(window=lambda _: next(seconds))
            speaking_peer().run_sync(server).assert_role(Role.CLIENT)
            silent_peer().run_sync(server).assert_role(Role.SERVER)
        """,
    )
    result.assert_outcomes(passed=2)


def test_every_peer_fixture_makes_its_peer(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import inspect
        import pytest
        from trio_duplex import pytest_plugin, testing

        PEERS = [name for name in vars(pytest_plugin) if name.endswith("_peer") and name[0] != "_"]

        def test_none_is_missing(request):
            made = {request.getfixturevalue(name).__mro__[1] for name in PEERS}
            concrete = {
                cls for cls in vars(testing).values()
                if isinstance(cls, type) and issubclass(cls, testing.Peer)
                and not inspect.isabstract(cls)
            }
            assert made == concrete

        @pytest.mark.parametrize("name", PEERS)
        def test_name_and_credentials(name, request, duplex_certificate):
            cls = request.getfixturevalue(name)
            assert cls.__name__.lower() == name.replace("_", "")
            assert cls().default_credentials() is duplex_certificate
        """,
    )
    result.assert_outcomes(passed=15)


def test_session_fixtures_are_one_and_the_same(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import pytest
        seen = set()

        @pytest.mark.parametrize("time", [1, 2])
        def test_same(time, duplex_authority, duplex_credentials, duplex_certificate):
            seen.add((duplex_authority, duplex_credentials, duplex_certificate))
            assert len(seen) == 1
            assert duplex_certificate.trust_pem == duplex_authority.trust_pem
        """,
    )
    result.assert_outcomes(passed=2)


# ----------------------------------------------------------- failures explain themselves


def test_failure_shows_what_the_peers_saw(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import math
        from trio_duplex import Role

        async def test_wrong(duplex_server, plaintext_peer, silent_peer):
            seconds = iter([0.1, math.inf])  # of the first peer, and of the second
            async with duplex_server(window=lambda _: next(seconds)) as server:
                await silent_peer().run(server)
                report = await plaintext_peer().run(server)
            assert report.role is Role.CLIENT
        """,
        ini="trio_mode = true",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*silent peer*",
            "*handshake complete: we are the TLS server*",
            "*plaintext peer*",
            "*->  not TLS, 35 bytes, an HTTP request*",
        ]
    )


def test_assert_role_shows_the_transcript(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        from trio_duplex import Role
        from trio_duplex.testing import PlaintextPeer

        def test_wrong(duplex_thread_server):
            report = PlaintextPeer().run_sync(duplex_thread_server(window=60))
            report.assert_role(Role.CLIENT)
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*plaintext peer was to play TLS client*", "*an HTTP request*"])


def test_passing_test_shows_nothing(pytester: pytest.Pytester) -> None:
    result = run(pytester, BOTH_ROLES.format(imports="", mark=""), "-rA", ini="trio_mode = true")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*transcript of*")


def test_handler_error_fails_the_test(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        async def bug(connection):
            raise LookupError("the handler's own")

        async def test_async(duplex_server, speaking_peer):
            async with duplex_server(bug, window=60) as server:
                await speaking_peer().run(server)

        def test_sync(duplex_thread_server, speaking_peer):
            speaking_peer().run_sync(duplex_thread_server(bug, window=60))
        """,
        ini="trio_mode = true",
    )
    # The fixture of the sync test learns of it when the test is over: an error, not a failure.
    result.assert_outcomes(failed=1, passed=1, errors=1)
    result.stdout.fnmatch_lines(["*LookupError: the handler's own*"])


# ------------------------------------------------------------------------------- misuse


def test_async_fixture_in_a_sync_test(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        def test_with(duplex_server):
            with duplex_server() as server:
                pass
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*TypeError*async with*duplex_thread_server*"])


def test_server_that_is_not_entered(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        def test_forgets(duplex_server):
            server = duplex_server()

        async def test_awaits(duplex_server):
            server = await duplex_server()
        """,
        ini="trio_mode = true",
    )
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*never started*async with*"])
    result.stdout.fnmatch_lines(["*TypeError*do not await*enter it*"])


def test_missing_extra(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    # trustme is hidden as if it had never been installed.
    pytester.makeconftest(
        """
        import importlib.util

        real = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *a: None if name == "trustme" else real(name, *a)
        """
    )
    result = run(
        pytester,
        """
        def test_needs_nothing():
            pass

        def test_needs_it(duplex_thread_server):
            pass

        def test_needs_it_too(silent_peer):
            pass
        """,
        fresh=True,
    )
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*trustme*not installed*pip install 'trio-duplex?testing?'*"])


def test_plugin_disabled(pytester: pytest.Pytester) -> None:
    code = """
        def test_plain():
            pass

        def test_needs_it(duplex_server):
            pass
    """
    result = run(pytester, code, "-p", "no:trio_duplex")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*fixture 'duplex_server' not found*"])


# ------------------------------------------------------------- what it costs who has it


def test_loading_it_imports_nothing_of_trio() -> None:
    code = f"""
        import sys
        before = set(sys.modules)
        import {PLUGIN}
        print(*sorted(name for name in set(sys.modules) - before if "pytest" not in name))
        """
    heavy = subprocess.run(
        [sys.executable, "-c", "import pytest\n" + textwrap.dedent(code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert [name for name in heavy if name != "trio_duplex"] == []


def test_empty_project_is_not_bothered(pytester: pytest.Pytester) -> None:
    # nox -s consumers does the same where we are installed without the extra.
    result = run(
        pytester,
        """
        import sys

        def test_lean():
            # pytest-trio and anyio, where they are installed, may import what they like.
            assert "trio_duplex._public" not in sys.modules
            assert "trustme" not in sys.modules
        """,
        fresh=True,
    )
    result.assert_outcomes(passed=1)
    assert "warning" not in result.stdout.str().lower()


def test_fixtures_are_listed_with_their_meaning(pytester: pytest.Pytester) -> None:
    result = run(pytester, "", "--fixtures")
    names = fixtures()
    assert len(names) == 20
    assert all(name.startswith("duplex_") or name.endswith("_peer") for name in names)
    for name in names:
        result.stdout.fnmatch_lines([f"{name}*-- *pytest_plugin.py*"])
    result.stdout.no_fnmatch_line("*no docstring available*pytest_plugin*")


# ------------------------------------------------------------------- the documentation


def test_first_test_of_the_docs_is_red_and_then_green(pytester: pytest.Pytester) -> None:
    for name in ("greeter.py", "test_greeter.py"):
        pytester.path.joinpath(name).write_text((EXAMPLES / "first_test" / name).read_text())
    red = run(pytester, "", "-k", "greets", ini="trio_mode = true")
    red.assert_outcomes(failed=1)
    red.stdout.fnmatch_lines(
        ["*silent peer, role server, TLSv1.3, *", "*transcript of the silent*"]
    )
    greeter = pytester.path / "greeter.py"
    kept = [line for line in greeter.read_text().splitlines() if not line.startswith("    if ")]
    greeter.write_text("\n".join(line.replace("        ", "    ") for line in kept))
    green = run(pytester, "", "-k", "greets", ini="trio_mode = true")
    green.assert_outcomes(passed=1)


def example(name: str) -> str:
    """The example in a fixture's docstring."""
    source = inspect.getsource(importlib.import_module(PLUGIN))
    docstring = source.partition(f"def {name}(")[2].split('"""')[1]
    return textwrap.dedent(docstring.partition("Example::")[2])


def test_first_example_of_the_fixtures_runs_as_it_is(pytester: pytest.Pytester) -> None:
    code = example("duplex_authority")
    assert "def test_" in code
    result = run(pytester, code, ini="trio_mode = true")
    result.assert_outcomes(passed=2)


@pytest.mark.parametrize("name", sorted(fixtures() - {"duplex_authority"}))
def test_examples_of_the_fixtures(name: str, pytester: pytest.Pytester) -> None:
    """Each runs, with what an application has at hand, in virtual time."""
    code = example(name)
    if "..." in code:
        pytest.skip("a sketch, with places to fill in")
    if "def test_" not in code:
        body = textwrap.indent(code.strip(), " " * 8)
        code = f"""
async def test_example({name}, duplex_server, duplex_listener, autojump_clock):
    async with duplex_server(my_handler, listener=duplex_listener, window=5) as server:
{body}
"""
    prelude = """
import asyncio

import trio

from trio_duplex import Role, serve_tcp
from trio_duplex.testing import PLAINTEXT, echo as my_handler


class my_service:
    @staticmethod
    async def serve(credentials, task_status):
        await serve_tcp(my_handler, 0, credentials, host="127.0.0.1", task_status=task_status)


async def my_client(host, port):
    (await asyncio.open_connection(host, port))[1].close()

"""
    result = run(pytester, prelude + code, ini="trio_mode = true")
    result.assert_outcomes(passed=1)


def test_page_names_every_fixture_and_all_of_the_kit() -> None:
    page = (ROOT / "docs/testing-reference.md").read_text(encoding="utf-8")
    documented = {
        line.partition("::")[2].strip().removesuffix("()")
        for line in page.splitlines()
        if line.startswith((".. auto", ".. data"))
    }
    assert documented == {*trio_duplex.testing.__all__, *fixtures()}


# ---------------------------------------------------------------------- the lazy package


def test_package_gives_its_names_when_asked() -> None:
    assert set(trio_duplex.__all__) <= set(dir(trio_duplex))
    for name in trio_duplex.__all__:
        value = getattr(trio_duplex, name)
        if inspect.isclass(value) or inspect.isfunction(value):  # not an alias of a type
            assert value.__module__ == "trio_duplex"
    for name in ("no_such_name", "_no_such_name", "__wrapped__"):
        with pytest.raises(AttributeError) as info:
            getattr(trio_duplex, name)
        assert info.value.args == (f"module 'trio_duplex' has no attribute {name!r}",)


def test_ways_to_import() -> None:
    """Each in a process that has imported nothing of ours; what others made is imported once for all."""
    code = """
        import os, sys, traceback
        import attrs, cryptography.x509, trio, trustme

        for code in sys.argv[1:]:
            if not (child := os.fork()):
                try:
                    assert not [name for name in sys.modules if name.startswith("trio_duplex")]
                    exec(code, {})
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0, code
        """
    ways = [
        "from trio_duplex import *; serve_tcp, Role.SERVER",
        "from trio_duplex import negotiate",
        "from trio_duplex import testing; testing.SilentPeer",
        "import trio_duplex; trio_duplex.Role; trio_duplex._role.Role",
        "import trio_duplex; trio_duplex.serve_tcp",
        "import trio_duplex.testing",
    ]
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *ways]
    subprocess.run(command, check=True, cwd=ROOT)


def test_importing_the_package_alone_is_free() -> None:
    code = "import sys, trio_duplex; assert not {'trio', 'ssl', 'attr'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_kit_needs_no_pytest() -> None:
    code = (
        "import sys; sys.modules['pytest'] = None; import trio_duplex.testing as t; t.Authority()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_kit_without_its_extra_says_what_to_install() -> None:
    code = """
        import sys
        sys.modules["trustme"] = None
        import trio_duplex.testing as kit
        kit.SilentPeer(), kit.open_memory_listener()  # which need no authority
        try:
            kit.Authority()
        except ModuleNotFoundError as exc:
            print(exc)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert "trustme: python -m pip install 'trio-duplex[testing]'" in ran.stdout
