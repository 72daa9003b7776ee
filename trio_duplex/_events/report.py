"""Tells everybody who wants to know: counts, log, and the observers of the user."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import iscoroutinefunction
from typing import cast

from trio_duplex._events.events import Event, Observer
from trio_duplex._events.log import LOGGER, LogObserver
from trio_duplex._events.probes import MutedNetworks
from trio_duplex._events.statistics import Counts


class Reporter:
    """Gives each event to the counts, the log and the observers, in this order.

    Args:
        observers: Functions of one event. One that raises is logged and no
            longer called.
        muted: Networks whose peers are not worth a line of the log.

    Raises:
        TypeError: One of them is no function, or an async one.
    """

    def __init__(
        self, observers: Iterable[Observer] = (), muted: MutedNetworks | None = None
    ) -> None:
        self.counts = Counts()
        self.muted = MutedNetworks() if muted is None else muted
        self.log = LogObserver(muted=self.muted)
        self.disabled = 0
        self._observers = _checked(observers)

    def report(self, event: Event) -> None:
        """Tell everybody."""
        self.counts.count(event)
        self.log(event)
        for observer in tuple(self._observers):
            try:
                observer(event)
            except Exception:  # noqa: BLE001 - it is the user's, and may raise anything
                # Not remove(): it may compare equal to others.
                self._observers = [each for each in self._observers if each is not observer]
                self.disabled += 1
                LOGGER.exception("observer %r failed on %r and is disabled", observer, event)


def _checked(observers: object) -> list[Observer]:
    if not isinstance(observers, Iterable):
        raise TypeError(f"observers must be several functions, in a list, not {observers!r}")
    several = list(cast("Iterable[object]", observers))
    for observer in several:
        if not callable(observer) or iscoroutinefunction(observer):
            raise TypeError(
                f"an observer must be a plain function of one event, not {observer!r}: have it "
                "put events into a memory channel where a task of yours takes them from"
            )
    return cast("list[Observer]", several)
