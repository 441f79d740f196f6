"""A typer app as a program that ends well: whatever happens, one line on stderr and an exit code."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from sc_runtime.errors import CodecError

from .report import print_line

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM  #: exit codes


def run_app(app: typer.Typer) -> NoReturn:
    """Run a command and exit: 0; 1 for errors a user can cause, 2 for wrong usage, a line on stderr; 130 on Ctrl-C."""
    signal.signal(signal.SIGTERM, terminate)
    try:
        code = run_command(app)
    finally:
        release_stdout()
    sys.exit(code)


def run_command(app: typer.Typer, arguments: list[str] | None = None) -> int:
    """Run a command with `arguments`, by default the process's. Returns the exit code."""
    try:
        code = typer.main.get_command(app)(arguments, standalone_mode=False) or 0
        if sys.stdout is not None:
            sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except MemoryError as error:
        print_line(f"error: not enough memory {error}".rstrip())
        return 1
    except (CodecError, OSError) as error:
        if not (isinstance(error, BrokenPipeError) or isinstance(error.__cause__, BrokenPipeError)):
            print_line(f"error: {explain(error)}")
        return 1
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's, whose base class has no lasting address
            raise
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context else ""
        print_line(f"error: {error.format_message()}{hint}")
        return int(getattr(error, "exit_code", 2))
    if code == INTERRUPTED:
        print_line("interrupted")
    return code


def explain(error: CodecError | OSError) -> str:
    """One line; the system's errors do not always say what they are about."""
    if isinstance(error, CodecError):
        return str(error)
    return f"{error.filename or 'reading or writing'}: {error.strerror or error}"


def terminate(*_: object) -> None:
    """On SIGTERM end as on Ctrl-C: what was begun is removed."""
    sys.exit(TERMINATED)


def release_stdout() -> None:
    """Forget what standard output did not take, on which Python's own exit would fail again, and say so."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def own_streams() -> None:
    """Give Python a stderr of its own, apart from the C libraries', and let both streams print any file name."""
    if sys.stderr is not None:
        sys.stderr = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1, encoding=sys.stderr.encoding)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def muted_libraries() -> Iterator[None]:
    """Within, what C libraries print is dropped: libmpg123 comments on damaged files, past every setting."""
    if sys.stderr is None or sys.stderr is sys.__stderr__:  # Python's is theirs too
        yield
        return
    descriptor = 2
    saved, nowhere = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    try:
        yield
    finally:
        os.dup2(saved, descriptor)
        os.close(saved)
        os.close(nowhere)
