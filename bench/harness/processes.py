"""Child processes: Python programs that run once, and processes that answer requests."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, Protocol

from sc_runtime.errors import CodecError


class Program(Protocol):
    """What a child process runs. It is made in the child, when the first request comes."""

    def answer(self, *request: Any) -> Any:
        """The reply to one request. Both must be picklable. Raises CodecError."""
        ...


class Child:
    """A process of its own that runs a `Program`. Use it as a context manager, which ends the process."""

    def __init__(self, name: str, program: Callable[..., Program], *arguments: Any) -> None:
        """Start the process. The program is `program(*arguments)`; both must be picklable.

        name: what error messages call the process.
        """
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, program, *arguments), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, task: str, *request: Any) -> Any:
        """Send a request and wait for its reply. Raises CodecError: the program's own, or that the process died.

        task: the request in words, for the error message.
        """
        try:
            self.connection.send(request)
            reply = self.connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.process.join()
            raise CodecError(
                f"the process of {self.name} ended with code {self.process.exitcode} during: {task}",
                "an answer",
                "its own message is above; code -9 means that memory ran out",
            ) from None
        if isinstance(reply, CodecError):
            raise reply
        return reply

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exception: object) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


def serve(connection: Connection, program: Callable[..., Program], *arguments: Any) -> None:
    """In the child: answer requests until the parent closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends its children
    made: Program | None = None
    try:
        while True:
            request = connection.recv()
            if made is None:  # not earlier, so that several children load one after the other
                made = program(*arguments)
            connection.send(made.answer(*request))
    except CodecError as error:
        connection.send(error)
    except EOFError:  # the parent has ended
        sys.exit(1)


def run_python(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Run Python with `arguments` and return its standard output. Its standard error goes to ours.

    Raises CalledProcessError if it fails.
    """
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
