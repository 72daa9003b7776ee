"""Which machine, which versions, and what else it had to do."""

from __future__ import annotations

import os
import platform
import ssl
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from benchmarks.subjects import program

PACKAGES = ("trio", "anyio", "uvloop", "cryptography")

PROGRAMS = {
    "go": ["go", "version"],
    "java": ["java", "--version"],
    "haproxy": ["haproxy", "-v"],
    "nginx": ["nginx", "-v"],
    "openssl": ["openssl", "version"],
}


def describe() -> Mapping[str, str]:
    """Describe the machine as it is now."""
    versions = [f"{name} {found}" for name in PACKAGES if (found := _package(name))]
    programs = [found for command in PROGRAMS.values() if (found := _first_line(command))]
    return {
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{_processor()}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}",
        "python": f"{platform.python_version()}, {ssl.OPENSSL_VERSION}, {', '.join(versions)}",
        "programs": "; ".join(programs),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _package(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _first_line(command: list[str]) -> str | None:
    path = program(command[0])
    if path is None:
        return None
    done = subprocess.run([path, *command[1:]], capture_output=True, text=True, check=False)
    lines = (done.stdout or done.stderr).splitlines()
    return lines[0].strip() if lines else None
