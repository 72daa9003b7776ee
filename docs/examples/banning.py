from typing import TextIO

import trio_duplex


def tell(banned: TextIO, event: trio_duplex.events.Event) -> None:
    """An observer, by ``observers=[partial(tell, file)]``: one line for each failure."""
    if isinstance(event, trio_duplex.events.NegotiationFailed) and event.probe is None:
        banned.write(f"{event.peer} {type(event.error).__name__}\n")
