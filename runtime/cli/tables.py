"""Facts and tables on stdout, and values as text."""

from __future__ import annotations

import sys
from typing import Any

from sc_runtime.errors import one_line


def format_seconds(seconds: float) -> str:
    """Such as "75.000 s (0:01:15)"."""
    minutes = f" ({int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02})" if seconds >= 60 else ""
    return f"{seconds:.3f} s{minutes}"


def format_bitrate(bitrate: float) -> str:
    return f"{bitrate / 1000:.2f} kbps"


def format_megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def format_rate(description: dict[str, Any]) -> str:
    return f"{description['tps']} tokens a second, of sound at {description['sample_rate']} Hz"


def format_books(books: dict[str, int], choices: list[int] | None = None) -> str:
    """Sizes and names of codebooks. `choices`, if given, are the sizes that the first of them may have."""
    sizes = [f"{entries} {name}" for name, entries in books.items()]
    if choices:
        sizes[0] = f"{format_choices(choices)} {next(iter(books))}"
    return ", ".join(sizes)


def format_choices(values: list[Any]) -> str:
    return " or ".join(map(str, values))


def format_versions(versions: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())


def print_facts(facts: dict[str, Any]) -> None:
    """Print each name and its value on a line."""
    width = max(map(len, facts))
    for name, value in facts.items():
        print(one_line(f"{name:{width}}  {value}"))


def print_table(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """Print an empty line and a table: as wide as the terminal, or in a pipe as wide as its contents."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for row in rows:
        table.add_row(*(one_line(str(cell)) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else 1000, highlight=False, markup=False, emoji=False)
    print()
    console.print(table)
