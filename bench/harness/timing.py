"""Timing several cases against each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def time_in_turns(cases: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of `repeats` runs of each case, after one run of each that is not counted.

    The cases take turns, so that a machine that becomes slower or faster does so for all of them.
    """
    seconds: dict[str, list[float]] = {case: [] for case in cases}
    for turn in range(repeats + 1):
        for case, run in cases.items():
            started = time.perf_counter()
            run()
            if turn:
                seconds[case].append(time.perf_counter() - started)
    return seconds
