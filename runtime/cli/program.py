"""How a command ends: with an exit code, and with one line on stderr if it fails."""

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

from .console import print_line

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM  #: exit codes


def run_app(app: typer.Typer) -> NoReturn:
    """Run the command of the process's arguments, and exit.

    The exit code is 0; 1 after an error that a user can cause; 2 after wrong usage; 130 or 143 after SIGINT or SIGTERM.
    """
    signal.signal(signal.SIGTERM, terminate)
    try:
        code = run_command(app)
    finally:
        release_stdout()
    sys.exit(code)


def run_command(app: typer.Typer, arguments: list[str] | None = None) -> int:
    """Run the command of `arguments`, by default the process's. Returns the exit code."""
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
        if not hasattr(error, "format_message"):  # click's errors, whose module depends on typer's version
            raise
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context else ""
        print_line(f"error: {error.format_message()}{hint}")
        return int(getattr(error, "exit_code", 2))
    if code == INTERRUPTED:
        print_line("interrupted")
    return code


def explain(error: CodecError | OSError) -> str:
    """`error` as one line. The file name of an OSError may be missing."""
    if isinstance(error, CodecError):
        return str(error)
    return f"{error.filename or 'reading or writing'}: {error.strerror or error}"


def terminate(*_: object) -> None:
    """End as on Ctrl-C: unfinished outputs are removed."""
    sys.exit(TERMINATED)


def release_stdout() -> None:
    """Drop what cannot be written to standard output. Otherwise Python fails to write it again at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def own_streams() -> None:
    """Separate Python's stderr from that of the C libraries, and let both streams print any file name."""
    if sys.stderr is not None:
        sys.stderr = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1, encoding=sys.stderr.encoding)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def muted_libraries() -> Iterator[None]:
    """Drop what C libraries print on stderr in the block: no setting stops libmpg123's notes on damaged files."""
    if sys.stderr is None or sys.stderr is sys.__stderr__:  # Python and the C libraries share it
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
