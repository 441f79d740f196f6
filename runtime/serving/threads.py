"""Blocking work beside the event loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

import anyio
import anyio.to_thread

PREPARING = 4  #: threads that read recordings, compute spectrograms and write sound

P = ParamSpec("P")
R = TypeVar("R")


class Threads:
    """A bounded number of threads for what is neither waiting nor a network. Made inside the event loop."""

    def __init__(self, count: int = PREPARING) -> None:
        self.limiter = anyio.CapacityLimiter(count)

    async def run(self, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        """`function(*arguments)` on a thread. If the caller is cancelled, the thread ends by itself."""
        work = partial(function, *arguments, **named)
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self.limiter)
