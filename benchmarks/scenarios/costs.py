"""What a stranger's hello, key and chain cost us, beyond an ordinary handshake."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping

from benchmarks.bench import Bench
from benchmarks.costs import GROUPS, INTERMEDIATES, RSA_BITS
from benchmarks.processes import ROOT
from benchmarks.scenario import Scenario
from benchmarks.subjects import MUTE, SILENT_ROLE, Subject

ROLES = ("server", "client")
GROUP_FIGURES = [f"{role}: {group}" for role in ROLES for group in GROUPS]
RSA_FIGURES = [f"{role}: RSA {bits}" for role in ROLES for bits in RSA_BITS]
CHAIN_FIGURES = [f"{role}: {length} intermediates" for role in ROLES for length in INTERMEDIATES]


def costs(bench: Bench, subject: Subject) -> Mapping[str, float]:
    """In a process of its own, on memory BIOs; ordinary handshakes among the others."""
    del subject  # there is one only
    rounds = "3" if bench.quick else "41"
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.costs", rounds],
        stdout=subprocess.PIPE,
        check=True,
        cwd=ROOT,
    )
    seconds: dict[str, float] = json.loads(found.stdout)
    ordinary = {role: seconds.pop(f"{role}: ordinary") for role in ROLES}
    figures = {f"{role}: ordinary": 1e3 * spent for role, spent in ordinary.items()}
    for name, spent in seconds.items():
        usual = ordinary[name.partition(":")[0]]
        figures[name] = 1e3 * (spent - usual)
        figures[f"{name}, ratio"] = spent / usual
    return figures


SCENARIOS = [
    Scenario(
        name="costs",
        about="CPU of our half of a handshake beyond an ordinary one, by what the peer asks for or "
        "shows: its only group, the size of its RSA key, the length of its chain",
        units={
            **{f"{role}: ordinary": "ms" for role in ROLES},
            **{
                figure: unit
                for name in (*GROUP_FIGURES, *RSA_FIGURES, *CHAIN_FIGURES)
                for figure, unit in ((name, "ms beyond it"), (f"{name}, ratio", "times"))
            },
        },
        needs=frozenset([MUTE, SILENT_ROLE]),
        measure=costs,
        rounds=1,
        warm_up=False,
    )
]
