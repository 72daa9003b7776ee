"""What the README and the documentation show is what there is."""

from __future__ import annotations

import contextlib
import os
import random
import re
import runpy
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

import trio_duplex
from tests.support.authority import AUTHORITY
from tests.support.patience import window_for

pytestmark = [pytest.mark.slow, pytest.mark.one_python]


ROOT = Path(__file__).parent.parent


def readme_text() -> str:
    """The README."""
    return (ROOT / "README.md").read_text(encoding="utf-8")


def readme_block(name: str) -> str:
    """What stands in the fence between the README's markers of this name."""
    block = (
        readme_text().partition(f"<!-- begin {name} -->\n")[2].partition(f"<!-- end {name} -->")[0]
    )
    fence, _, rest = block.partition("\n")
    assert fence.startswith("```")
    code, end, _ = rest.partition("```\n")
    assert end
    return code


def test_readme_shows_the_first_server_as_it_is() -> None:
    shown = readme_block("first-server").partition("<<'EOF'\n")[2].partition("EOF\n")[0]
    assert shown == (ROOT / "docs/examples/first_server.py").read_text(encoding="utf-8")


TIME = r"\b\d\.\d{3}\b"
PASTED = (
    "first-certificates",
    "first-server",
    "first-speaking-peer",
    "first-silent-peer",
    "first-look",
    "first-check",
    "proxy",
    "exec",
)
"""The blocks behind the two commands, in their order."""


@pytest.fixture
def shell_path(tmp_path: Path) -> str:
    """A PATH on which ``python`` and ``trio-duplex`` are those under test."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, words in [("python", ""), ("trio-duplex", " -m trio_duplex")]:
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_every_block_of_the_readme_is_pasted() -> None:
    named = re.findall(r"<!-- begin (\S+) -->\n```sh", readme_text())
    assert tuple(named) == ("demo-command", "test-command", *PASTED)
    assert (
        len(re.findall("^```[a-z]", readme_text(), re.MULTILINE)) == len(named) + 1
    )  # what one sees


def free_ports(count: int) -> list[str]:
    """Ports of loopback that nobody has, below those that the kernel gives to everybody who dials meanwhile."""
    with contextlib.ExitStack() as stack:
        found: list[str] = []
        for port in random.sample(range(20_000, 32_768), 100):
            sock = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                sock.bind(("127.0.0.1", port))
                found.append(str(port))
        return found[:count]


def test_readme_pasted_from_top_to_bottom(tmp_path: Path, shell_path: str) -> None:
    free, backend = free_ports(2)
    # What `python -m pip install ...` gives, the tests have already.
    demo = readme_block("demo-command").rpartition("&&")[2]
    blocks = [demo, *map(readme_block, PASTED)]
    # The blocks are pasted into one shell; and the server is not left behind if one fails.
    pasted = "".join(f"{block}\necho END OF BLOCK\n" for block in blocks)
    pasted = pasted.replace("8443", free).replace("8080", backend)
    result = subprocess.run(
        ["bash", "-c", f"trap 'kill $(jobs -p) 2>/dev/null' EXIT\n{pasted}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PATH": shell_path, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
    )
    answers = result.stdout.split("END OF BLOCK\n")
    assert len(answers) == len(blocks) + 1, result.stdout + result.stderr
    demonstrated, made, started, speaking, silent, looked, checked, proxied, executed, _ = answers
    assert "WRONG" not in demonstrated
    assert "lab/peer.example.key" in made
    assert started == ""
    assert speaking == "I speak first\n", result.stderr
    assert silent == "I wait for you\n", result.stderr
    # What the README says that one sees; times differ, and so does what it leaves out.
    shown = readme_text().split("```text\n")[1].partition("```")[0].replace("8443", free)
    seen = re.sub(TIME, "TIME", looked).splitlines()
    patterns = [
        re.escape(re.sub(TIME, "TIME", line)).replace("…", ".*") for line in shown.splitlines()
    ]
    assert [p for p in patterns if not any(re.fullmatch(p, line) for line in seen)] == []
    assert len(seen) == len(patterns), looked
    assert "unknown_ca" in result.stderr  # which the stranger is told
    assert "As TLS server: ok\nAs TLS client: ok\n" in checked
    assert proxied.startswith("HTTP/1.0 200 OK"), result.stderr
    assert "role=client reason=silent" in proxied
    assert executed.startswith("we are the TLS server, and you said: hello\n"), result.stderr
    assert "role=server reason=spoke" in executed


@pytest.mark.parametrize("name", ["demo-command", "test-command"])
def test_readme_commands_are_one_line_each(name: str) -> None:
    # .ci/run and a newcomer paste them.
    assert readme_block(name).count("\n") == 1


def test_api_page_names_all_that_is_public() -> None:
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    documented = {
        line.partition("::")[2].strip().removesuffix("()")
        for line in page.splitlines()
        if line.startswith((".. auto", ".. data::"))
    }
    modules = (
        trio_duplex,
        trio_duplex.events,
        trio_duplex.openings,
        trio_duplex.certificates,
        trio_duplex.windows,
    )
    assert documented == {name for module in modules for name in module.__all__}


def test_architecture_page_names_every_module() -> None:
    """Each module stands in the row of its room, or, in the root, in any row."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith("| `")]
    package = ROOT / "trio_duplex"
    missing = {path.name for path in package.glob("*.py")} - {
        name for line in table for name in re.findall(r"`(\w+\.py)`", line)
    }
    for room in package.glob("_[a-z]*/"):
        rows = [line for line in table if line.startswith(f"| `{room.name}/`")]
        modules = {path.stem for path in room.glob("*.py")} - {"__init__"}
        named = {name for line in rows for name in re.findall(r"`([a-z_]+)`", line)}
        missing |= {f"{room.name}/{module}" for module in modules - named}
        missing |= {f"{room.name}/{module} (gone)" for module in named - modules}
    assert missing == set()


@pytest.mark.parametrize("role", list(trio_duplex.Role))
async def test_echo_example_works(
    role: trio_duplex.Role, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = AUTHORITY.issue_cert("node.example")
    AUTHORITY.cert_pem.write_to_path(tmp_path / "fleet-ca.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "node.key")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(tmp_path / "node.pem", append=True)
    monkeypatch.chdir(tmp_path)
    peer = trio_duplex.Credentials.mutual(
        certificate_chain=AUTHORITY.issue_cert("peer.example"), trust=AUTHORITY
    )
    started, wait_started = trio.open_memory_channel[trio_duplex.Server](1)
    serve_tcp = trio_duplex.serve_tcp

    async def serve_elsewhere(
        handler: trio_duplex.Handler, port: int, credentials: trio_duplex.Credentials
    ) -> None:
        # The example's own port may be taken here; and nobody told it to wait less than 5 s.
        assert port == 8443
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tcp, host="127.0.0.1", window=window_for(role))
            started.send_nowait(await nursery.start(serve, handler, 0, credentials))

    monkeypatch.setattr(trio_duplex, "serve_tcp", serve_elsewhere)
    example = runpy.run_path(str(ROOT / "docs/examples/echo.py"))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(example["main"])
            server = await wait_started.receive()
            (address,) = server.addresses
            assert isinstance(address, tuple)
            async with await trio_duplex.open_tcp_connection(
                "127.0.0.1", address[1], peer, role=role
            ) as connection:
                await connection.send_all(b"hello")
                assert await connection.receive_some() == b"hello"
            nursery.cancel_scope.cancel()
