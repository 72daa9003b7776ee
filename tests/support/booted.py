"""A machine that systemd has booted: a container of this one's files, which a test may change at will.

systemd runs as PID 1 in namespaces of its own, on an overlay of the root file system, and without a
network but loopback. It needs root, and a hierarchy of cgroup v2; `boot` skips the test where it can't be.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.tools import require_tool

SYSTEMD = Path("/lib/systemd/systemd")
PATIENCE = 120.0
"""Seconds for a boot, or for a command in the machine."""

JOURNAL = "systemctl status 'trio-duplex*' --no-pager; journalctl -n 30 -o cat --no-pager"

REPOSITORY = Path(__file__).parents[2]

_PREPARE = """
set -eu
mount --make-rprivate /
mount -t tmpfs -o size=512m tmpfs "$FOLDER"
mkdir "$FOLDER/upper" "$FOLDER/work" "$FOLDER/root"
root=$FOLDER/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$FOLDER/upper,workdir=$FOLDER/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for place in tmp var/tmp; do  # or systemd would remove all that this machine has there, file by file
    mount -t tmpfs -o mode=1777 tmpfs "$root/$place"
done
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue"  # PrivateDevices= wants them
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ip link set lo up

# What units may see of this Python: neither /tmp nor a home is there for them.
mkdir -p "$root/opt/python" "$root/opt/site" "$root/opt/trio_duplex"
mount --bind "$PYTHON" "$root/opt/python"
mount --bind "$SITE" "$root/opt/site"
mount --bind "$REPOSITORY/trio_duplex" "$root/opt/trio_duplex"
cat >"$root/usr/bin/trio-duplex" <<EOF
#!/bin/sh
export LD_LIBRARY_PATH=/opt/python/lib PYTHONHOME=/opt/python PYTHONPATH=/opt:/opt/site PYTHONPYCACHEPREFIX=/opt/bytecode
exec /opt/python/bin/$EXECUTABLE -m trio_duplex "\\$@"
EOF
chmod 755 "$root/usr/bin/trio-duplex"
rm -rf "$root/root/docs"
mkdir -p "$root/root"
cp -a "$REPOSITORY/docs" "$root/root/docs"

# Nothing of this machine's own services.
rm -rf "$root/etc/systemd/system"
mkdir -p "$root/etc/systemd/system"
ln -s /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
for unit in systemd-udevd systemd-networkd systemd-resolved systemd-logind systemd-timesyncd \\
    console-getty ssh cron; do
    ln -s /dev/null "$root/etc/systemd/system/$unit.service"
done
: >"$root/etc/fstab"
mkdir "$root/old"
cd "$root"
pivot_root . old
umount -l /old
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system
"""


class Machine:
    """A booted machine.

    Args:
        pid: systemd's process, as this machine sees it.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def run(self, command: str, *, check: bool = True) -> str:
        """Run a command of a shell as root, in root's home; give what it wrote.

        Raises:
            AssertionError: It failed, and ``check`` is true.
        """
        done = subprocess.run(
            [
                *("nsenter", "-t", str(self._pid), "-m", "-p", "-u", "-i", "-n", "-C", "-r"),
                *("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"),
                *("bash", "-c", f"cd /root && {command}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if check and done.returncode != 0:
            journal = "" if command == JOURNAL else self.run(JOURNAL, check=False)
            raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}\n{journal}")
        return done.stdout

    def wait(self, command: str, for_: str) -> str:
        """Run a command until its output has these words in it."""
        deadline = time.monotonic() + PATIENCE
        while for_ not in (output := self.run(command, check=False)):
            assert time.monotonic() < deadline, f"{command} does not say {for_!r}:\n{output}"
            time.sleep(0.2)
        return output


@contextlib.contextmanager
def boot(folder: Path) -> Generator[Machine]:
    """Boot one; all of it is gone in the end.

    Args:
        folder: An empty folder, on which its files are mounted.
    """
    unshare = require_tool("unshare")
    for tool in ("nsenter", "pivot_root", "systemctl"):
        require_tool(tool)
    if os.geteuid() != 0:
        pytest.skip("only root can make namespaces and mount in them")
    if not SYSTEMD.exists():
        pytest.skip("there is no systemd to boot")
    group = _hierarchy() / f"trio-duplex-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as exc:
        pytest.skip(f"no cgroup of ours: {exc.strerror}")
    environ = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "FOLDER": str(folder),
        "REPOSITORY": str(REPOSITORY),
        "PYTHON": sys.base_prefix,
        "EXECUTABLE": f"python{sys.version_info.major}.{sys.version_info.minor}",
        "SITE": sysconfig.get_path("purelib"),
    }
    namespaces = ("-C", "--mount", "--pid", "--fork", "--uts", "--ipc", "--net", "--kill-child")
    inner = shlex.join([unshare, *namespaces, "sh", "-c", _PREPARE])
    outer = subprocess.Popen(
        ["sh", "-c", f"echo $$ >{group}/cgroup.procs && exec {inner}"],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        machine = Machine(_wait_for_systemd(outer))
        machine.wait("systemctl is-system-running", "ing")  # running, or starting
        machine.wait("systemctl is-active multi-user.target && echo booted", "booted")
        yield machine
    finally:
        outer.send_signal(signal.SIGKILL)  # and with it, all of the namespace
        outer.communicate()
        _remove(group)


def _hierarchy() -> Path:
    """Where cgroup v2 is mounted."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    pytest.skip("cgroup v2 is not mounted")


def _wait_for_systemd(outer: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if outer.poll() is not None:
            assert outer.stdout is not None
            pytest.skip(f"it can't be booted here: {outer.stdout.read().decode()[-300:]}")
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        for child in children:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    return int(child)
        time.sleep(0.05)
    raise AssertionError("systemd does not start")


def _remove(group: Path) -> None:
    """Remove a cgroup and those in it, once their processes are gone."""
    deadline = time.monotonic() + 10
    while group.exists() and time.monotonic() < deadline:
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
        time.sleep(0.05)
