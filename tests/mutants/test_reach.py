from __future__ import annotations

from pathlib import Path

from tests.mutants.reach import Reach

OWN, NEAR, FAR = "tests/trust/test_names.py", "tests/trust/test_own.py", "tests/wire/test_hello.py"
MODULE = "trio_duplex._trust.names"


def measured(**seconds: float) -> Reach:
    files = {"own": OWN, "near": NEAR, "far": FAR}
    tests = {f"{files[name.rstrip('123')]}::{name}": took for name, took in seconds.items()}
    return Reach(tests, {MODULE: {7: [*tests], 8: [*tests][:1]}}, {MODULE: "digest"})


def names(tests: list[str]) -> list[str]:
    return [test.partition("::")[2] for test in tests]


def test_the_own_file_first_then_the_room_then_the_quickest_of_each_file() -> None:
    found = measured(far1=0.1, near2=0.3, near1=0.2, own1=9.0, far2=0.2)
    assert names(found.tests_of(MODULE, 7)) == ["own1", "near1", "near2", "far1", "far2"]
    assert names(found.tests_of(MODULE, 8)) == ["far1"]
    assert names(found.tests_of(MODULE, None)) == names(found.tests_of(MODULE, 7))
    assert found.tests_of(MODULE, 9) == found.tests_of("trio_duplex._trust.own", 7) == []


def test_it_can_be_kept(tmp_path: Path) -> None:
    found = measured(own1=1.0, far1=2.0)
    found.save(tmp_path / "reach.json")
    assert Reach.load(tmp_path / "reach.json") == found


def test_a_file_that_is_measured_again_replaces_what_was_known_of_it() -> None:
    found = measured(own1=1.0, own2=1.0, far1=2.0)
    found.merge(Reach({f"{OWN}::own2": 3.0}, {MODULE: {8: [f"{OWN}::own2"]}}))
    assert names(found.tests_of(MODULE, 7)) == ["far1"]
    assert names(found.tests_of(MODULE, 8)) == ["own2"]
    assert found.seconds == {f"{FAR}::far1": 2.0, f"{OWN}::own2": 3.0}


def test_a_module_that_was_changed_is_stale() -> None:
    assert measured().is_stale(MODULE)
