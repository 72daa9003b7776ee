"""`docs/service.md`, step by step as written, on a machine that systemd has booted."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("systemd is Linux's", allow_module_level=True)

from tests.support.booted import Machine, boot

pytestmark = [pytest.mark.slow, pytest.mark.interop, pytest.mark.one_python]

PAGE = Path(__file__).parents[3] / "docs/service.md"


def steps(section: str) -> list[str]:
    """The commands that a section of the page has root type, one string each."""
    text = PAGE.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = "\n".join(re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)).splitlines()
    found: list[str] = []
    for line in lines:
        if line.startswith("# "):
            found.append(line[2:])
        else:
            found[-1] += f"\n{line}"
    return found


def ask(machine: Machine, role: str) -> str:
    """Ask the backend through the proxy, as a peer that plays this role."""
    peer = "--cert lab/peer.example.pem --key lab/peer.example.key --trust lab/ca.pem"
    return machine.run(
        f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | trio-duplex connect 127.0.0.1:8443 {peer} --role {role} -v"
    )


def assert_both_roles_are_served(machine: Machine) -> None:
    for role in ("client", "server"):
        assert "200 OK" in ask(machine, role)


def test_from_nothing_to_a_unit_that_survives(tmp_path: Path) -> None:
    with boot(tmp_path) as machine:
        machine.run("trio-duplex certs lab node.example peer.example")
        machine.run("cp lab/ca.pem ca.pem && cp lab/node.example.pem node.crt")
        machine.run("cp lab/node.example.key node.key")
        machine.run(
            "systemd-run --quiet --unit=backend python3 -m http.server 8080 --bind 127.0.0.1"
        )
        machine.run("until (exec 3<>/dev/tcp/127.0.0.1/8080) 2>&-; do sleep 0.1; done")

        for step in [*steps("Once"), *steps("The unit")]:
            machine.run(step)
        assert "serving proxy" in machine.run("systemctl status trio-duplex")
        assert_both_roles_are_served(machine)

        # A boot starts what is enabled.
        machine.run("systemctl stop trio-duplex.socket trio-duplex.service")
        machine.run("systemctl start default.target")
        machine.wait("systemctl is-active trio-duplex.service && echo started", "started")

        # A peer that dials while it is down waits for it.
        machine.run("systemctl stop trio-duplex.service")
        assert "200 OK" in ask(machine, "client")

        install, certbot, step_ca = steps("A new certificate")
        machine.run(install)
        assert_renewed(machine, "certbot", hook_of(certbot, "--deploy-hook"))
        assert_renewed(machine, "step", hook_of(step_ca, "--exec"))

        # What is wrong does not come into force.
        machine.run("echo 'windo = 3' >>/etc/trio-duplex/proxy.toml")
        machine.run("systemctl reload trio-duplex", check=False)
        machine.wait("journalctl -u trio-duplex -o cat", "reload-failed")
        assert_both_roles_are_served(machine)
        machine.run("sed -i '/windo = 3/d' /etc/trio-duplex/proxy.toml")

        # Several processes: workers of ours, then systemd's.
        machine.run("sed -i '1i workers = 2' /etc/trio-duplex/proxy.toml")
        machine.run("systemctl restart trio-duplex")
        assert "workers 1 (pid" in machine.run("systemctl status trio-duplex")
        assert_both_roles_are_served(machine)
        machine.run("sed -i '/workers = 2/d' /etc/trio-duplex/proxy.toml")
        for step in steps("Several processes"):
            machine.run(step)
        assert_both_roles_are_served(machine)
        workers = "trio-duplex-workers.socket 'trio-duplex-worker@*'"
        machine.run(f"systemctl stop {workers}")

        machine.run("cp docs/deploy/systemd/trio-duplex-each* /etc/systemd/system/")
        machine.run("systemctl daemon-reload && systemctl enable --now trio-duplex-each.socket")
        assert_both_roles_are_served(machine)


def hook_of(command: str, option: str) -> str:
    """The hook that a command of the page gives to a renewal tool."""
    match = re.search(rf"{option}\s+(?:\\\n\s*)?'([^']*)'", command)
    assert match is not None, command
    return match[1]


def assert_renewed(machine: Machine, tool: str, hook: str) -> None:
    """Run a hook as its tool does; the renewed certificate is served."""
    machine.run(f"rm -rf {tool} && mkdir {tool} && cp lab/ca.* {tool}")
    machine.run(f"trio-duplex certs {tool} node.example")
    chain, key = f"/root/{tool}/node.example.pem", f"/root/{tool}/node.example.key"
    if tool == "certbot":  # it runs a shell, and names the folder in the environment
        machine.run(f"mkdir -p live && cp {chain} live/fullchain.pem && cp {key} live/privkey.pem")
        machine.run(f"RENEWED_LINEAGE=/root/live sh -c '{hook}'")
    else:  # it runs a program, with words as they are
        machine.run("mkdir -p /etc/step")
        machine.run(f"cp {chain} /etc/step/node.crt && cp {key} /etc/step/node.key")
        machine.run(hook)
    serial = machine.run(f"openssl x509 -noout -serial -in {chain}").strip()
    peer = "-cert lab/peer.example.pem -key lab/peer.example.key"
    machine.wait(
        f"openssl s_client -connect 127.0.0.1:8443 {peer} </dev/null 2>/dev/null"
        " | openssl x509 -noout -serial",
        serial,
    )
