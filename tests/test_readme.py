"""What the README and the documentation show is what there is."""

from __future__ import annotations

import re
import runpy
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

import trio_duplex

ROOT = Path(__file__).parent.parent


def readme_block(name: str) -> str:
    """What stands in the fence between the README's markers of this name."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.partition(f"<!-- begin {name} -->\n")[2].partition(f"<!-- end {name} -->")[0]
    fence, _, rest = block.partition("\n")
    assert fence.startswith("```")
    code, end, _ = rest.partition("```\n")
    assert end
    return code


def test_readme_shows_the_example_as_it_is() -> None:
    name = "docs/examples/echo.py"
    assert readme_block(name) == (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["demo-command", "test-command"])
def test_readme_commands_are_one_line_each(name: str) -> None:
    # .ci/run and a newcomer paste them.
    assert readme_block(name).count("\n") == 1


def test_api_page_names_all_that_is_public() -> None:
    page = (ROOT / "docs/api.rst").read_text(encoding="utf-8")
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
    authority = trustme.CA()
    certificate = authority.issue_cert("node.example")
    authority.cert_pem.write_to_path(tmp_path / "fleet-ca.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "node.key")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(tmp_path / "node.pem", append=True)
    monkeypatch.chdir(tmp_path)
    peer = trio_duplex.Credentials.mutual(
        certificate_chain=authority.issue_cert("peer.example"), trust=authority
    )
    started, wait_started = trio.open_memory_channel[trio_duplex.Server](1)
    serve_tcp = trio_duplex.serve_tcp

    async def serve_elsewhere(
        handler: trio_duplex.Handler, port: int, credentials: trio_duplex.Credentials
    ) -> None:
        # The example's own port may be taken here; and nobody told it to wait less than 5 s.
        assert port == 8443
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tcp, host="127.0.0.1", window=0.05)
            started.send_nowait(await nursery.start(serve, handler, 0, credentials))

    monkeypatch.setattr(trio_duplex, "serve_tcp", serve_elsewhere)
    example = runpy.run_path(str(ROOT / "docs/examples/echo.py"))
    with trio.fail_after(10):
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
