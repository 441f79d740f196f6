"""What a measurement prints: progress on standard error, tables on standard output."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 140  #: columns of a table where standard output is not a terminal
BUSY = 0.3  #: load per core; at a higher one other programs disturb the measurement

log = Console(stderr=True, highlight=False)


def open_console() -> Console:
    """Standard output, as wide as the terminal, or `WIDTH` columns where it is none."""
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH)


def make_table(title: str, *columns: str, left: Collection[str] = ()) -> Table:
    """An empty table. Columns named in `left` are left-justified, the others right-justified."""
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right", no_wrap=True)
    return table


def is_busy(machine: Mapping[str, Any]) -> bool:
    """Whether other programs kept the machine busy when `machine` was recorded."""
    load = machine["load_before"]
    return bool(load and load > BUSY * machine["cores"])


def warn_if_busy(machine: Mapping[str, Any]) -> None:
    """Print a warning if other programs kept the machine busy when `machine` was recorded."""
    if is_busy(machine):
        load = machine["load_before"]
        log.print(
            f"Other programs keep this machine busy (load {load}): the figures will be worse than they should be."
        )


def format_seconds(seconds: float) -> str:
    """Three digits, and at most three after the point: nothing finer than a millisecond is shown."""
    digits = 3 if seconds < 1 else 2 if seconds < 10 else 1 if seconds < 100 else 0
    return f"{seconds:.{digits}f}"
