"""Window policies that need no memory: `trio_duplex._decision.rules`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable
from typing import Any

import pytest

from trio_duplex import Reason, Role, windows
from trio_duplex._decision.policy import Asked, as_policy
from trio_duplex.windows import ByLocalPort, ByNetwork, Choice, Conduct, Outcome, PeerFacts

SPOKE = Outcome(conduct=Conduct.SPOKE, admitted=True, waited=0.01)


def at(host: str, port: int = 4711, **facts: Any) -> PeerFacts:
    address = (host, port, 0, 0) if ":" in host else (host, port)
    return PeerFacts(remote_address=address, **facts)


def choose(policy: windows.WindowPolicy, peer: PeerFacts) -> Choice:
    choice = policy.choose(peer)
    assert isinstance(choice, Choice)
    return choice


class Recorder:
    """A policy that records the outcomes it gets."""

    def __init__(self) -> None:
        self.learned: list[tuple[PeerFacts, Outcome]] = []

    def choose(self, peer: PeerFacts, /) -> Choice:
        return Choice(1.0, "recorder")

    def learn(self, peer: PeerFacts, outcome: Outcome, /) -> None:
        self.learned.append((peer, outcome))


@pytest.mark.parametrize("seconds", [0, 0.5, 5, math.inf])
def test_seconds_are_a_policy(seconds: float) -> None:
    choice = choose(as_policy(seconds), at("192.0.2.1"))
    assert choice == Choice(float(seconds))
    assert choice.reason_of_silence() is Reason.SILENT


def test_fixed_roles() -> None:
    silent, speaking = choose(windows.SILENT, PeerFacts()), choose(windows.SPEAKING, PeerFacts())
    assert (silent.seconds, silent.role) == (0.0, Role.CLIENT)
    assert silent.reason_of_silence() is Reason.RULE
    assert (speaking.seconds, speaking.role) == (math.inf, Role.SERVER)
    assert repr(windows.SILENT) == "windows.SILENT"


@pytest.mark.parametrize("window", ["5", None, True, object(), windows.PeerMemory, float])
def test_invalid_window_is_a_type_error(window: object) -> None:
    with pytest.raises(TypeError, match="my window"):
        as_policy(window, "my window")


@pytest.mark.parametrize("seconds", [-1, math.nan])
def test_seconds_out_of_range_are_a_value_error(seconds: float) -> None:
    with pytest.raises(ValueError, match="my window"):
        as_policy(seconds, "my window")


@pytest.mark.parametrize(
    ("host", "seconds", "role"),
    [
        ("10.1.2.3", 0.0, Role.CLIENT),  # the longest prefix, whatever the order
        ("10.2.2.3", 2.0, None),
        ("10.1.2.9", 0.25, None),  # one address
        ("::ffff:10.1.2.3", 0.0, Role.CLIENT),  # mapped
        ("fd00::5%eth0", 0.5, None),
        ("192.0.2.1", 5.0, None),
        ("2001:db8::1", 5.0, None),
    ],
)
def test_network_with_the_longest_prefix_decides(
    host: str, seconds: float, role: Role | None
) -> None:
    policy = ByNetwork(
        {"10.0.0.0/8": 2, "10.1.0.0/16": windows.SILENT, "10.1.2.9": 0.25, "fd00::/8": 0.5}
    )
    choice = choose(policy, at(host))
    assert (choice.seconds, choice.role) == (seconds, role)


def test_network_rule_names_itself_before_what_it_leads_to() -> None:
    memory = windows.PeerMemory(otherwise=3.0)
    policy = ByNetwork({"10.0.0.0/8": memory, "192.0.2.0/24": windows.SILENT}, otherwise=1.0)
    assert choose(policy, at("10.0.0.1")).rule == "10.0.0.0/8: 3 s"
    assert choose(policy, at("192.0.2.1")).rule == "192.0.2.0/24: always silent"
    assert choose(policy, at("198.51.100.1")).rule == ""


@pytest.mark.parametrize("peer", [PeerFacts(), PeerFacts(remote_address="/run/sock")])
def test_peer_without_ip_address_goes_by_otherwise(peer: PeerFacts) -> None:
    assert choose(ByNetwork({"0.0.0.0/0": 1.0, "::/0": 1.0}, otherwise=7), peer).seconds == 7


@pytest.mark.parametrize("network", ["10.1.0.1/16", "example.org", "", "10.0.0.0/33"])
def test_invalid_network_is_refused(network: str) -> None:
    with pytest.raises(ValueError, match="network"):
        ByNetwork({network: 1.0})


def test_only_the_policy_that_chose_learns() -> None:
    one, other = Recorder(), Recorder()
    policy = ByNetwork({"10.0.0.0/8": one}, otherwise=other)
    peers = at("10.0.0.1"), at("192.0.2.1")
    for peer in peers:
        policy.learn(peer, SPOKE)
    assert one.learned == [(peers[0], SPOKE)]
    assert other.learned == [(peers[1], SPOKE)]


def test_local_port_decides() -> None:
    ports = Recorder()
    policy = ByLocalPort({443: windows.SPEAKING, 6513: ports}, otherwise=1.0)
    peer = at("192.0.2.1", local_address=("192.0.2.9", 443))
    assert choose(policy, peer).role is Role.SERVER
    assert choose(policy, peer).rule == "port 443: always speaking"
    six = at("192.0.2.1", local_address=("::1", 6513, 0, 0))
    assert choose(policy, six).rule == "port 6513: recorder"
    policy.learn(six, SPOKE)
    policy.learn(peer, SPOKE)
    assert ports.learned == [(six, SPOKE)]
    assert choose(policy, PeerFacts(local_address="/run/sock")).seconds == 1.0


@pytest.mark.parametrize(
    ("port", "error"), [(0, ValueError), (65536, ValueError), ("443", TypeError), (True, TypeError)]
)
def test_invalid_port_is_refused(port: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        ByLocalPort({port: 1.0})


def test_function_of_the_facts_chooses() -> None:
    asked: list[PeerFacts] = []

    def by_round_trip(peer: PeerFacts) -> float | windows.WindowPolicy:
        asked.append(peer)
        return windows.SILENT if peer.round_trip is None else 10 * peer.round_trip

    policy = as_policy(by_round_trip)
    peer = at("192.0.2.1", round_trip=0.1)
    assert choose(policy, peer) == Choice(1.0, "by_round_trip: 1 s")
    assert choose(policy, PeerFacts()).role is Role.CLIENT
    assert asked == [peer, PeerFacts()]


async def test_async_function_chooses() -> None:
    async def inventory(peer: PeerFacts) -> float:
        return 0.75

    answer = ByNetwork({"192.0.2.0/24": inventory}).choose(at("192.0.2.1"))
    assert inspect.isawaitable(answer)
    assert await answer == Choice(0.75, "192.0.2.0/24: inventory: 0.75 s")


@pytest.mark.parametrize("answer", ["5", None, lambda peer: 5.0])
async def test_invalid_answer_is_a_type_error(answer: Any) -> None:
    def wrong(peer: PeerFacts) -> Any:
        return answer

    asked = as_policy(wrong).choose(PeerFacts())
    assert inspect.isawaitable(asked)
    with pytest.raises(TypeError, match="wrong"):
        await asked


async def test_error_of_a_function_says_what_applies_instead() -> None:
    def broken(peer: PeerFacts) -> float:
        raise ZeroDivisionError

    async def broken_later(peer: PeerFacts) -> float:
        raise ZeroDivisionError

    for function in (broken, broken_later):
        policy = ByNetwork({"192.0.2.0/24": windows.Ask(function, otherwise=0.5, timeout=3)})
        asked = policy.choose(at("192.0.2.1"))
        assert isinstance(asked, Asked)
        assert asked.timeout == 3
        with pytest.raises(ZeroDivisionError):
            await asked
        name = function.__name__
        assert asked.otherwise() == Choice(0.5, f"192.0.2.0/24: {name} failed: 0.5 s")


@pytest.mark.parametrize("seconds", [-1, math.nan])
def test_choice_checks_its_seconds(seconds: float) -> None:
    with pytest.raises(ValueError):
        Choice(seconds)


@pytest.mark.parametrize("arguments", [{"timeout": -1}, {"otherwise": math.nan}])
def test_ask_checks_its_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        windows.Ask(lambda peer: 1.0, **arguments)
    with pytest.raises(TypeError):
        windows.Ask("five")  # type: ignore[arg-type]


def test_policies_nest() -> None:
    inner: Awaitable[Choice] | Choice = ByNetwork(
        {"10.0.0.0/8": ByLocalPort({80: ByNetwork({"10.1.0.0/16": 0.3})})}
    ).choose(at("10.1.0.1", local_address=("10.0.0.9", 80)))
    assert inner == Choice(0.3, "10.0.0.0/8: port 80: 10.1.0.0/16: 0.3 s")
