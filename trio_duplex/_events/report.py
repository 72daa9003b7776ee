"""Passing each event to the counts, the log, and the observers of the user."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import iscoroutinefunction
from typing import cast

from trio_duplex._events.events import Event, Observer
from trio_duplex._events.log import LOGGER, LogObserver
from trio_duplex._events.probes import MutedNetworks
from trio_duplex._events.statistics import Counts


class Reporter:
    """Passes each event to the counts, the log and the observers, in this order.

    Args:
        observers: Functions of one event. If an observer raises, that is logged,
            and it is not called any more.
        muted: Networks whose peers are logged only at DEBUG.

    Raises:
        TypeError: An observer is not a function, or is an async function.
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
        """Pass an event on."""
        self.counts.count(event)
        self.log(event)
        for observer in tuple(self._observers):
            try:
                observer(event)
            except Exception:  # noqa: BLE001 - a user's observer may raise anything
                # Do not use remove(), which would take another observer that compares equal.
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
                f"an observer must be a plain function of one event, not {observer!r}; it may "
                "put events into a memory channel from which a task of yours receives them"
            )
    return cast("list[Observer]", several)
