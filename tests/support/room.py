"""What a room and its turns must look like when nobody is there any more."""

from __future__ import annotations

from trio_duplex._serve.room import Room
from trio_duplex._serve.service import Service
from trio_duplex._serve.turns import Turns


def check_turns_empty(turns: Turns) -> None:
    """Nobody holds a turn, nobody waits for one, and nothing is remembered of those who did."""
    assert (len(turns), turns.in_line) == (0, 0)
    assert not any((turns._held, turns._waited, turns._line, turns._leaving))
    assert not any((turns._late_of, turns._sheddable, turns._line_of))
    assert not any((turns._greediest, turns._next))


def check_empty(room: Room) -> None:
    """All is given back."""
    assert (room.taken, room.pending, room._waiting) == (0, 0, 0)
    assert not any((room._pending_of, room._taken_of, room._identities, room._leaving))
    for turns in room.turns.values():
        check_turns_empty(turns)


def check_service_empty(service: Service) -> None:
    """Nothing refers to a connection that has ended."""
    assert service.open == 0
    assert not any((service._negotiating, service._handling))
    room = service.waiting_room
    assert not any((room._waiting, room._descriptors, room._windows))
