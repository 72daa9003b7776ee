"""The stages that a negotiation tells of: `trio_duplex._progress`, and who calls it."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from support import credentials, dial, memory_pair

from trio_duplex import Decision, Role
from trio_duplex._negotiate import accept_role
from trio_duplex._progress import Progress
from trio_duplex._take_role import Settings


class Recorder(Progress):
    """Writes down what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[object] = []

    def sheddable(self, scope: trio.CancelScope) -> None:
        self.stages.append("sheddable")

    def decided(self, decision: Decision) -> None:
        self.stages.append(decision.role)

    async def take_turn(self, role: Role) -> None:
        self.stages.append(("turn", role))

    def answered(self) -> None:
        self.stages.append("answered")


@pytest.mark.parametrize("role", Role)
async def test_every_stage_is_told_once_and_in_order(
    role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = memory_pair()
    progress = Recorder()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial, theirs, role.other)
        await accept_role(ours, credentials(), Settings(), remote=None, progress=progress)
    answered = ["answered"] if role is Role.CLIENT else []
    assert progress.stages == ["sheddable", role, "sheddable", ("turn", role), *answered]
