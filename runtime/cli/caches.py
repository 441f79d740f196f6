"""`sc-runtime caches`."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import Console
from .options import Json


def caches(
    *,
    empty: Annotated[bool, typer.Option("--empty", help="Delete every file of every cache. Bundles are kept.")] = False,
    as_json: Json = False,
) -> None:
    """Show what the caches hold, or empty them.

    They hold compiled graphs and kernels, and a record of what was verified. Together they take at most 4 GB.
    """
    from sc_runtime.caches import LIMIT_BYTES, list_usage
    from sc_runtime.caches import empty as empty_caches

    from .tables import format_megabytes, print_table

    freed = empty_caches() if empty else 0
    usages = list_usage()
    rows = [
        {"name": usage.name, "folder": str(usage.folder), "files": usage.files, "bytes": usage.bytes}
        for usage in usages
    ]
    Console(as_json).finish({"caches": rows, "limit_bytes": LIMIT_BYTES, "freed_bytes": freed})
    if as_json:
        return
    if empty:
        print(f"freed {format_megabytes(freed)}")
    if not usages:
        print("no cache folder: set HOME or XDG_CACHE_HOME")
        return
    table = [(usage.name, usage.files, format_megabytes(usage.bytes), usage.folder) for usage in usages]
    print_table(("cache", "files", "size", "folder"), table)
