"""The scenarios, in the order in which they run. A new one is a file, named here."""

from __future__ import annotations

from benchmarks.scenario import Scenario
from benchmarks.scenarios import (
    costs,
    crowds,
    data,
    fairness,
    growth,
    handshakes,
    hostile,
    memory,
    pending,
    roles,
    service,
)

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for module in (
        handshakes,
        roles,
        memory,
        pending,
        data,
        crowds,
        growth,
        hostile,
        fairness,
        costs,
        service,
    )
    for scenario in module.SCENARIOS
}
