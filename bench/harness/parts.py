"""A measurement in parts. A part may be skipped or fail. No part begins when too little time is left."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

from sc_runtime.errors import CodecError, first_line

from .printing import log, open_console
from .results import write_results

RESERVED = 30.0  #: seconds that must be left for a part to begin


class Skipped(Exception):
    """Raised by a part that cannot run here; the message says why."""


class Parts:
    """The results of the parts, and why others have none. The file is written after each part."""

    def __init__(self, out: Path, deadline: float, head: dict[str, Any]) -> None:
        """
        out: the JSON.
        deadline: in seconds of `time.perf_counter`.
        head: what the JSON begins with.
        """
        self.out, self.deadline, self.head = out, deadline, head
        self.results: dict[str, Any] = {}
        self.skipped: dict[str, str] = {}

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.perf_counter()

    def run(self, part: str, work: Callable[[], dict[str, Any]]) -> None:
        """Keep what `work` returns, or the reason why it returns nothing. No exception ends the other parts."""
        log.print(f"{part} ({self.seconds_left:.0f} s left)")
        started = time.perf_counter()
        try:
            if self.seconds_left < RESERVED:
                raise Skipped("no time left")
            self.results[part] = work() | {"took_s": time.perf_counter() - started}
        except (Skipped, CodecError) as reason:
            self.skipped[part] = str(reason)
        except Exception as error:  # any error: time on a GPU is too short to lose the other parts
            self.skipped[part] = f"failed: {type(error).__name__}: {first_line(error)}"
            log.print(traceback.format_exc(), markup=False)
        write_results(self.out, {**self.head, "skipped": self.skipped, "results": self.results})

    def print_summary(self) -> None:
        """Print the results, the rows of each part as a table, and why parts were skipped."""
        console = open_console()
        for part, result in self.results.items():
            console.print(f"{part}: {format_value({k: v for k, v in result.items() if not isinstance(v, list)})}")
            if rows := result.get("rows"):
                table = Table(*rows[0])
                for row in rows:
                    table.add_row(*map(format_value, row.values()))
                console.print(table)
        for part, reason in self.skipped.items():
            console.print(f"skipped: {part}: {reason}", soft_wrap=True)
        console.print(f"Wrote {self.out}", soft_wrap=True)


def format_value(value: Any) -> str:
    """A value in four digits; a dictionary as its entries, separated by commas."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {format_value(entry)}" for key, entry in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
