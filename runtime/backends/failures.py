"""Errors of the libraries that run graphs, turned into errors of this program."""

from __future__ import annotations

from sc_runtime.errors import TRY_ANOTHER, BackendError, first_line, ran_out_of_memory


def describe_failure(
    what: str, error: BaseException, reason: str | None = None, memory: str = "memory"
) -> BackendError:
    """The error of a run that failed.

    what: what failed, in words.
    error: the library's error.
    reason: the reason in it, by default its first line.
    memory: the memory that may have run out. Only then is a smaller batch the remedy.
    """
    given = f"{what} ({reason or first_line(error)})"
    if ran_out_of_memory(error):
        return BackendError(given, f"inputs that fit in {memory}", "use a smaller batch")
    return BackendError(given, "inputs that the graph runs on", TRY_ANOTHER)
