"""How many requests a server takes, for how long, and when it takes none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio

from .metrics import Metrics
from .problems import ProblemError
from .settings import Limits, round_up_seconds

WEIGHT = 0.1  #: of the last request in the mean duration


class Ticket:
    """A request that was admitted.

    scope: everything that the request does runs in it; cancelling it ends the request.
    problem: the answer to a request that was cancelled; None if its client left.
    at_end: functions that are called when the request ends, however it ends.
    """

    def __init__(self, admission: Admission, scope: anyio.CancelScope) -> None:
        self.admission, self.scope = admission, scope
        self.started = time.perf_counter()
        self.problem: ProblemError | None = admission.explain_timeout()
        self.at_end: list[Callable[[], None]] = []
        self.is_stream = False

    def open_stream(self) -> None:
        """Count the request as a stream until it ends. Raises ProblemError (429) if there are too many."""
        if not self.is_stream:
            self.admission.add_stream()
            self.is_stream = True

    def end(self, problem: ProblemError | None) -> None:
        """Cancel the request, which is answered with `problem`."""
        self.problem = problem
        self.scope.cancel()


class Admission:
    """The requests of a server that are received, waiting or running."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits, self.metrics = limits, metrics
        self.tickets: set[Ticket] = set()
        self.streams = 0
        self.is_open = True
        self.mean_seconds = 1.0  #: of a request, from its arrival to its end

    @contextmanager
    def admit(self) -> Iterator[Ticket]:
        """A place among the requests. Raises ProblemError: 429 if there is none, 503 while the server ends.

        What runs in the block is cancelled after `request_seconds`; `Ticket.scope.cancelled_caught` states it.
        """
        self.check_open()
        if len(self.tickets) >= self.limits.requests:
            given = f"more than {self.limits.requests} requests at once"
            raise self.refuse(429, "busy", given, "fewer", "send it again later")
        with anyio.move_on_after(self.limits.request_seconds) as scope:
            ticket = Ticket(self, scope)
            self.tickets.add(ticket)
            self.metrics.queue.set(len(self.tickets))
            try:
                yield ticket
            finally:
                self.release(ticket)

    def explain_timeout(self) -> ProblemError:
        """The answer to one request that takes too long. An error keeps the frames of all who have raised it."""
        given = f"a request of more than {self.limits.request_seconds:g} s"
        return ProblemError(504, "timeout", given, "an answer within that time", "send less, or ask for fewer steps")

    def release(self, ticket: Ticket) -> None:
        self.tickets.discard(ticket)
        for function in ticket.at_end:
            function()
        self.metrics.queue.set(len(self.tickets))
        if ticket.is_stream:
            self.streams -= 1
            self.metrics.streams.set(self.streams)
        self.mean_seconds += WEIGHT * (time.perf_counter() - ticket.started - self.mean_seconds)

    def add_stream(self) -> None:
        if self.streams >= self.limits.streams:
            given = f"more than {self.limits.streams} streams at once"
            raise self.refuse(429, "streams", given, "fewer", "send it again later, or without stream=true")
        self.streams += 1
        self.metrics.streams.set(self.streams)

    def check_open(self) -> None:
        """Raises ProblemError (503) while the server ends."""
        if not self.is_open:
            raise self.refuse(503, "ending", "a server that ends", "a running one", "use another server")

    def refuse(self, status: int, kind: str, given: str, expected: str, remedy: str) -> ProblemError:
        self.metrics.rejected.labels(kind).inc()
        return ProblemError(status, kind, given, expected, remedy, round_up_seconds(self.mean_seconds))

    def end_all(self, problem: ProblemError) -> None:
        """Cancel every request."""
        for ticket in list(self.tickets):
            ticket.end(problem)
