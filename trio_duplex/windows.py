"""Detection windows: how long to wait for a peer's first bytes, as seconds or as a policy.

Every function that accepts connections has an argument ``window=``: seconds, a policy from
this module, or a function of the `PeerFacts`. Policies are composable: wherever a policy
takes seconds, it also takes another policy.
"""

from types import FunctionType
from typing import TYPE_CHECKING

from trio_duplex._decision.facts import Conduct, Outcome, PeerFacts
from trio_duplex._decision.policy import (
    Change,
    Choice,
    Fixed,
    Window,
    WindowFunction,
    WindowPolicy,
)
from trio_duplex._later import import_later

if TYPE_CHECKING:
    from trio_duplex._decision.learned import Learned
    from trio_duplex._decision.memory import MemoryStatistics, PeerMemory
    from trio_duplex._decision.rules import SILENT, SPEAKING, Ask, ByLocalPort, ByNetwork
else:
    _LATER = {
        "Learned": "trio_duplex._decision.learned",
        "MemoryStatistics": "trio_duplex._decision.memory",
        "PeerMemory": "trio_duplex._decision.memory",
        "SILENT": "trio_duplex._decision.rules",
        "SPEAKING": "trio_duplex._decision.rules",
        "Ask": "trio_duplex._decision.rules",
        "ByLocalPort": "trio_duplex._decision.rules",
        "ByNetwork": "trio_duplex._decision.rules",
    }
    __getattr__, __dir__ = import_later(__name__, _LATER)

__all__ = [
    "SILENT",
    "SPEAKING",
    "Ask",
    "ByLocalPort",
    "ByNetwork",
    "Change",
    "Choice",
    "Conduct",
    "Fixed",
    "Learned",
    "MemoryStatistics",
    "Outcome",
    "PeerFacts",
    "PeerMemory",
    "Window",
    "WindowFunction",
    "WindowPolicy",
]

# Users see the public module, not the private one.
for _name in __all__:
    if isinstance(globals().get(_name), type | FunctionType):  # neither an alias nor imported later
        globals()[_name].__module__ = __name__
