"""The examples of *My process does not know its role*, with OpenSSL's peers in both roles."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import trio

from tests.support.command import PATIENCE, run_command
from tests.support.patience import window_for
from tests.support.tools import require_tool
from trio_duplex import Role

pytestmark = pytest.mark.interop

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
TLS = ["-cert", "peer.pem", "-key", "peer.key", "-CAfile", "ca.pem", "-quiet"]


@pytest.fixture(params=["sh", "c"])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    if request.param == "sh":
        return ["sh", str(EXAMPLES / "echo_by_role.sh")]
    made = tmp_path / "echo_by_role"
    subprocess.run(
        [
            require_tool("cc"),
            "-Wall",
            "-Wextra",
            "-Werror",
            "-o",
            made,
            EXAMPLES / "echo_by_role.c",
        ],
        check=True,
    )
    return [str(made)]


@pytest.mark.parametrize("role", list(Role), ids="peer is TLS {}".format)
async def test_a_process_learns_its_role(
    folder: Path, credentials: list[str], program: list[str], role: Role, free_port: int
) -> None:
    openssl, socat = require_tool("openssl"), require_tool("socat")
    options = ["--listen", "127.0.0.1:0", "--window", window_for(role), *credentials]
    async with run_command("exec", *options, "--", *program) as command:
        ((_, port),) = await command.addresses()
        commands = (
            [[openssl, "s_client", "-connect", f"127.0.0.1:{port}", *TLS]]
            if role is Role.CLIENT
            else [
                [openssl, "s_server", "-accept", str(free_port), "-Verify", "1", *TLS],
                [
                    socat,
                    f"TCP:127.0.0.1:{port}",
                    f"TCP:127.0.0.1:{free_port},retry=600,interval=0.1",
                ],
            ]
        )
        processes = [
            await trio.lowlevel.open_process(
                each,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            for each in commands
        ]
        stdin, stdout = processes[0].stdin, processes[0].stdout
        assert stdin is not None
        assert stdout is not None
        try:
            with trio.fail_after(PATIENCE):
                await stdin.send_all(b"a line\n")
                said = b""
                while said.count(b"\n") < 2:
                    data = await stdout.receive_some()
                    assert data, said
                    said += data
            greeting, answer = said.decode().splitlines()
            assert greeting.startswith("hello, peer.example: ")
            assert f"I am the TLS {role.other}" in greeting
            assert answer == "you said: a line"
            await command.line("stderr", f"serving peer.example as TLS {role.other}")
        finally:
            with trio.CancelScope(shield=True):
                for process in processes:
                    if process.returncode is None:
                        process.kill()
                    await process.wait()
                    for pipe in (process.stdin, process.stdout):
                        if pipe is not None:
                            await trio.aclose_forcefully(pipe)
