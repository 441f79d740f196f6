"""Errors of the libraries that run graphs, as errors of this program."""

from __future__ import annotations

from sc_runtime.errors import BackendError, first_line, ran_out_of_memory

OTHER = "try another backend (--backend)"


def describe_failure(
    what: str, error: BaseException, reason: str | None = None, memory: str = "memory"
) -> BackendError:
    """The error of a run: `what` failed with the library's `error`.

    `reason` is the library's own, by default the first line of `error`. A smaller batch is the remedy only where
    `memory` ran out.
    """
    given = f"{what} ({reason or first_line(error)})"
    if ran_out_of_memory(error):
        return BackendError(given, f"inputs that fit in {memory}", "use a smaller batch")
    return BackendError(given, "inputs that the graph runs on", OTHER)
