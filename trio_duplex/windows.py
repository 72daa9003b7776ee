"""Detection windows: how long to wait for a peer's first bytes, as seconds or as a policy.

Every function that accepts connections has an argument ``window=``: seconds, a policy from
this module, or a function of the `PeerFacts`. Policies are composable: wherever a policy
takes seconds, it also takes another policy.
"""

from types import FunctionType

from trio_duplex._decision.facts import Conduct, Outcome, PeerFacts
from trio_duplex._decision.learned import Learned
from trio_duplex._decision.memory import MemoryStatistics, PeerMemory
from trio_duplex._decision.rules import (
    SILENT,
    SPEAKING,
    Ask,
    ByLocalPort,
    ByNetwork,
    Change,
    Choice,
    Fixed,
    Window,
    WindowFunction,
    WindowPolicy,
)

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
    if isinstance(globals()[_name], type | FunctionType):  # neither an alias nor a value
        globals()[_name].__module__ = __name__
