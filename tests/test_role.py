"""The words that everything else uses: `trio_duplex._role`."""

from __future__ import annotations

import attrs
import pytest

from trio_duplex import Decision, Reason, Role


def test_two_roles_each_the_others_other() -> None:
    assert {role: role.other for role in Role} == {
        Role.SERVER: Role.CLIENT,
        Role.CLIENT: Role.SERVER,
    }


@pytest.mark.parametrize("word", [*Role, *Reason])
def test_words_print_as_themselves(word: Role | Reason) -> None:
    assert str(word) == word.value == word.name.lower()


def test_reasons() -> None:
    assert {reason.name for reason in Reason} == {
        "SPOKE",
        "SILENT",
        "ANNOUNCED",
        "RULE",
        "REMEMBERED",
    }


def test_decision_is_a_frozen_value() -> None:
    decision = Decision(Role.CLIENT, Reason.SILENT, 5.0, 5.0)
    assert decision == Decision(role=Role.CLIENT, reason=Reason.SILENT, waited=5.0, window=5.0)
    assert len({decision, attrs.evolve(decision)}) == 1
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        decision.role = Role.SERVER  # type: ignore[misc]


def test_decision_tells_itself_in_a_line() -> None:
    text = str(Decision(Role.CLIENT, Reason.SILENT, waited=5.00049, window=5.0))
    assert text == "client (silent after 5.000 s)"
