"""Window policies that need no memory: rules by network and port, and the user's own function.

A policy is asked once for each accepted connection and returns a `Choice`. Afterwards it
gets the `Outcome` of the connection. Policies are pure and composable: wherever one takes
seconds, it takes another policy.
"""

from __future__ import annotations

import inspect
import ipaddress
import math
from collections.abc import Awaitable, Mapping
from functools import lru_cache

import attrs

from trio_duplex._decision.facts import Outcome, PeerFacts
from trio_duplex._decision.hosts import host_number
from trio_duplex._decision.policy import (
    ASK_TIMEOUT,
    Asked,
    Change,
    Choice,
    Fixed,
    Window,
    WindowFunction,
    WindowPolicy,
    as_policy,
)
from trio_duplex._decision.window import DEFAULT_WINDOW
from trio_duplex._role import Role
from trio_duplex._seconds import check_seconds

_fixed = lru_cache(maxsize=256)(Fixed)
"""A function of the user's gives few different windows again and again."""


@attrs.frozen
class _Always:
    """A rule that fixes the role, for peers that are always silent or always speak."""

    name: str
    choice: Choice

    def choose(self, peer: PeerFacts, /) -> Choice:  # noqa: ARG002 - the protocol's
        return self.choice

    def learn(self, peer: PeerFacts, outcome: Outcome, /) -> None:
        pass

    def __repr__(self) -> str:
        return f"windows.{self.name}"


SILENT: WindowPolicy = _Always("SILENT", Choice(0.0, "always silent", role=Role.CLIENT))
"""The peer is always the TLS server: become the TLS client at once, without a window.

If such a peer speaks nevertheless, its ClientHello crosses ours (glare)."""

SPEAKING: WindowPolicy = _Always("SPEAKING", Choice(math.inf, "always speaking", role=Role.SERVER))
"""The peer is always the TLS client: wait for its ClientHello without a time limit, and never
become the TLS client. The server's limits bound how many connections may wait."""


_Rule = tuple[str, WindowPolicy, Choice | None]
"""A rule's name, its policy, and the choice that the policy always makes, if there is such a choice."""


def _rule(name: str, policy: WindowPolicy) -> _Rule:
    """Make a rule. If its policy always makes the same choice, make that choice now."""
    fixed: Choice | None = None
    if isinstance(policy, Fixed | _Always):
        choice = policy.choose(PeerFacts())
        fixed = _prefixed(choice, name) if name else choice
    return name, policy, fixed


class ByNetwork:
    """Choose by the network that the peer's address is in; the longest prefix wins.

    ``windows.ByNetwork({"10.1.0.0/16": windows.SILENT, "fd00::/8": 0.5}, otherwise=5.0)``

    Args:
        networks: For each network in CIDR notation, or single address: seconds,
            a policy, or a function of `PeerFacts`.
        otherwise: The same for peers in none of these networks, and for peers
            without an IP address.

    Raises:
        ValueError: A network has host bits set or can't be parsed; a window is
            negative or NaN.
        TypeError: A window is something else.
    """

    def __init__(
        self, networks: Mapping[str, Window], *, otherwise: Window = DEFAULT_WINDOW
    ) -> None:
        # By version: of each length of prefix, longest first, the bits after it and the rules.
        tables: dict[int, dict[int, dict[int, _Rule]]] = {4: {}, 6: {}}
        for text, window in networks.items():
            try:
                network = ipaddress.ip_network(text)
            except ValueError as exc:
                raise ValueError(f"{text!r} is not a network such as '10.1.0.0/16': {exc}") from exc
            rest = network.max_prefixlen - network.prefixlen
            rule = _rule(str(network), as_policy(window, f"the window of {text}"))
            tables[network.version].setdefault(rest, {})[int(network.network_address) >> rest] = (
                rule
            )
        self._tables = {version: sorted(table.items()) for version, table in tables.items()}
        self._fallback = _rule("", as_policy(otherwise, "otherwise"))
        self._find = lru_cache(maxsize=4096)(self._look_up)  # peers tend to connect again

    def choose(self, peer: PeerFacts, /) -> Choice | Awaitable[Choice]:
        """Choose by the rule of the peer's network."""
        name, policy, fixed = self._rule(peer)
        if fixed is not None:
            return fixed
        choice = policy.choose(peer)
        return _named(choice, name) if name else choice

    def learn(self, peer: PeerFacts, outcome: Outcome, /) -> Change | None:
        """Pass the outcome on to the policy that chose."""
        return self._rule(peer)[1].learn(peer, outcome)

    def _rule(self, peer: PeerFacts) -> _Rule:
        address = peer.remote_address
        return self._find(address[0]) if isinstance(address, tuple) else self._fallback

    def _look_up(self, host: str) -> _Rule:
        if ":" in host and host[0] not in ":0" and not self._tables[6]:
            return self._fallback  # an IPv6 address that is not a mapped one takes 5 µs to parse
        number = host_number(host)
        if number is not None:
            version, bits = number
            for rest, rules in self._tables[version]:
                rule = rules.get(bits >> rest)
                if rule is not None:
                    return rule
        return self._fallback


class ByLocalPort:
    """Choose by the local port that the peer dialled.

    Args:
        ports: For each TCP port: seconds, a policy, or a function of `PeerFacts`.
        otherwise: The same for all other ports.

    Raises:
        ValueError: A port is out of range; a window is negative or NaN.
        TypeError: A port or window is something else.
    """

    def __init__(self, ports: Mapping[int, Window], *, otherwise: Window = DEFAULT_WINDOW) -> None:
        for port in ports:
            if isinstance(port, bool) or not isinstance(port, int):  # pyright: ignore[reportUnnecessaryIsInstance] - users' words
                raise TypeError(f"a port is a whole number, not {port!r}")
            if not 0 < port < 2**16:
                raise ValueError(f"a port is between 1 and 65535, not {port}")
        self._rules = {
            port: as_policy(window, f"the window of port {port}") for port, window in ports.items()
        }
        self._otherwise = as_policy(otherwise, "otherwise")

    def choose(self, peer: PeerFacts, /) -> Choice | Awaitable[Choice]:
        """Choose by the rule of the port."""
        port = _port(peer)
        rule = self._rules.get(port) if port is not None else None
        if rule is None:
            return self._otherwise.choose(peer)
        return _named(rule.choose(peer), f"port {port}")

    def learn(self, peer: PeerFacts, outcome: Outcome, /) -> Change | None:
        """Pass the outcome on to the policy that chose."""
        port = _port(peer)
        rule = self._rules.get(port) if port is not None else None
        return (rule or self._otherwise).learn(peer, outcome)


class Ask:
    """Choose by a function of yours.

    If ``window=`` is a plain function, it is wrapped in this class with the defaults.

    Args:
        function: Called with the `PeerFacts`; returns seconds or a policy, or
            an awaitable of them.
        timeout: Seconds that an awaitable may take; 1 by default.
        otherwise: Seconds or a policy that applies if the function takes longer
            or raises.

    Raises:
        TypeError, ValueError: An argument is wrong.
    """

    def __init__(
        self,
        function: WindowFunction,
        *,
        timeout: float = ASK_TIMEOUT,
        otherwise: float | WindowPolicy = DEFAULT_WINDOW,
    ) -> None:
        if not callable(function):  # pyright: ignore[reportUnnecessaryComparison] - users' words
            raise TypeError(f"the function that chooses a window can't be called: {function!r}")
        self.timeout = check_seconds("timeout", timeout)
        self.otherwise = as_policy(otherwise, "otherwise")
        self._function = function
        self._name = getattr(function, "__name__", type(function).__name__)

    def choose(self, peer: PeerFacts, /) -> Choice | Awaitable[Choice]:
        """Ask the function.

        Returns:
            The choice. If the function is async or has failed, an `Asked`, which
            returns the choice or raises the error when it is awaited.
        """
        answer: Choice | Awaitable[Choice] | Exception
        try:
            window = self._function(peer)
            if type(window) is float:  # nearly always, and the rest is slow
                return _prefixed(_fixed(window).choice, self._name)
            if not inspect.isawaitable(window):
                return self._choice(peer, window)
            answer = self._await_choice(peer, window)
        except Exception as exc:  # noqa: BLE001 - the user's function may raise anything
            answer = exc
        return Asked(answer, self.timeout, lambda: self._fallback(peer))

    def _fallback(self, peer: PeerFacts) -> Choice | Awaitable[Choice]:
        return _named(self.otherwise.choose(peer), f"{self._name} failed")

    async def _await_choice(
        self, peer: PeerFacts, answer: Awaitable[float | WindowPolicy]
    ) -> Choice:
        choice = self._choice(peer, await answer)
        return await choice if inspect.isawaitable(choice) else choice

    def _choice(self, peer: PeerFacts, answer: object) -> Choice | Awaitable[Choice]:
        policy = as_policy(answer, f"the window from {self._name}")
        if isinstance(policy, Ask):
            raise TypeError(f"{self._name} must return seconds or a policy, not {answer!r}")
        return _named(policy.choose(peer), self._name)

    def learn(self, peer: PeerFacts, outcome: Outcome, /) -> Change | None:
        """Pass the outcome on to ``otherwise``. Policies that the function returned are not known."""
        return self.otherwise.learn(peer, outcome)


def _named(choice: Choice | Awaitable[Choice], name: str) -> Choice | Awaitable[Choice]:
    """Put the name of the rule that applied in front of the choice's own words."""
    if isinstance(choice, Asked):
        asked, answer = choice, choice.answer
        if not isinstance(answer, Exception):
            answer = _named_later(answer, name)
        return Asked(answer, asked.timeout, lambda: _named(asked.otherwise(), name))
    if not isinstance(choice, Choice):
        return _named_later(choice, name)
    return _prefixed(choice, name)


@lru_cache(maxsize=1024)  # to make one takes longer than all the rest of a decision
def _prefixed(choice: Choice, name: str) -> Choice:
    rule = f"{name}: {choice.rule or f'{choice.seconds:g} s'}"
    return Choice(choice.seconds, rule, remembered=choice.remembered, role=choice.role)


async def _named_later(choice: Awaitable[Choice], name: str) -> Choice:
    named = _named(await choice, name)
    assert isinstance(named, Choice)
    return named


def _port(peer: PeerFacts) -> int | None:
    match peer.local_address:
        case (_, int(port), *_):
            return port
        case _:
            return None
