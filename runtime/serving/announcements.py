"""Requests that are about to bring work: the worker waits a moment for theirs, and not at all if there are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Announcements:
    """How many requests prepare work now.

    wake: called when a request has prepared its work, or has failed to.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.announced = 0  #: changed by the event loop's thread alone

    @contextmanager
    def announce(self) -> Iterator[None]:
        """In the block a request prepares its work."""
        self.announced += 1
        try:
            yield
        finally:
            self.announced -= 1
            self.wake()
