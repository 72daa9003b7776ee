"""What a share of the cases leaves out, another has."""

from __future__ import annotations

import pytest

from tests.support.shares import FEW, left_out

SOURCE = """
import pytest

@pytest.mark.parametrize("role", ["client", "server"])
@pytest.mark.parametrize("number", range(50))
def test_many(role, number): ...

@pytest.mark.parametrize("number", range({few}))
def test_few(number): ...

def test_one(): ...
"""


@pytest.mark.parametrize("all_", ["", ":all"])
@pytest.mark.parametrize("shares", [1, 2, 3])
def test_shares_have_all_cases_once(shares: int, all_: str, pytester: pytest.Pytester) -> None:
    items = pytester.getitems(SOURCE.format(few=FEW))
    missing = [left_out(items, f"{number}/{shares}{all_}") for number in range(1, shares + 1)]
    for item in items:
        without = sum(item in share for share in missing)
        assert without == (shares - 1 if all_ or "test_many" in item.name else 0)
    for share in missing:
        for role in ("client", "server"):
            kept = 50 - sum(role in item.name for item in share)
            assert kept >= 50 // (2 * shares)


@pytest.mark.parametrize(
    "share", ["", "2", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", "1/2:", "1/2:few", ":all"]
)
def test_no_such_share(share: str, pytester: pytest.Pytester) -> None:
    with pytest.raises(pytest.UsageError):
        left_out(pytester.getitems("def test(): ..."), share)
