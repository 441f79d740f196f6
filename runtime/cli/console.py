"""The streams of the command line, and the progress bars."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from sc_runtime.errors import AudioWarning, one_line

if TYPE_CHECKING:
    from rich.progress import Progress


class ShowProgress(Protocol):
    """Shows that `units` of `total` units of work are done, of `windows` windows. None: one window per unit."""

    def __call__(self, units: int, total: int, windows: int | None = None) -> None: ...


def show_windows(show: ShowProgress | None, windows: int) -> Callable[[int, int], None] | None:
    """`show` for the decoding of `windows` windows, each of which is several units of work. None without `show`."""
    return show and partial(show, windows=windows)


class Console:
    """The user's two streams: results on stdout; notes, errors and progress on stderr.

    With `as_json`, stdout holds only the document given to `finish`. In a `with` block, an AudioWarning becomes a note,
    and progress is shown if stderr is a terminal.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self._bars: Progress | None = None
        self._files: Any = None
        self._open = ExitStack()

    def __enter__(self) -> Console:
        self._open.enter_context(noting_warnings(self.note))
        if sys.stderr is not None and sys.stderr.isatty():
            self._bars = make_bars()
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()
        self._open.close()

    def note(self, text: str) -> None:
        """One line on stderr."""
        if self._bars:
            self._bars.console.print(one_line(text), markup=False, emoji=False, soft_wrap=True)
        else:
            print_line(text)

    def error(self, text: str) -> None:
        self.note(f"error: {text}")

    def result(self, text: str) -> None:
        """One line on stdout, unless JSON is printed there."""
        if self.as_json:
            return
        if self._bars and sys.stdout.isatty():  # on the same terminal: rich moves the bars out of the way
            self.note(text)
        else:
            print(one_line(text))

    def finish(self, document: dict[str, Any]) -> None:
        """Print the whole outcome, if it is wanted as JSON."""
        if self.as_json:
            print(json.dumps(document, indent=1))

    @contextmanager
    def follow(self, name: str, done: int, files: int) -> Iterator[ShowProgress | None]:
        """Yield a function that shows the progress of file `name`, when `done` of `files` are done.

        Without a terminal it is None.
        """
        if self._bars is None:
            yield None
            return
        bars = self._bars
        if files > 1 and self._files is None:
            self._files = bars.add_task("files", total=files, detail="")
        if self._files is not None:
            bars.update(self._files, completed=done, detail=f"{done}/{files}")
        task = bars.add_task(one_line(name), total=None, detail="")

        def show(units: int, total: int, windows: int | None = None) -> None:
            bars.update(task, completed=units, total=total, detail=format_units(units, total, windows or total))

        try:
            yield show
        finally:
            bars.remove_task(task)


@contextmanager
def noting_warnings(note: Callable[[str], None]) -> Iterator[None]:
    """In the block, an AudioWarning is printed by `note`."""
    with warnings.catch_warnings():
        show_other = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if issubclass(category, AudioWarning):
                note(f"note: {message}")
            else:
                show_other(message, category, *place)

        warnings.simplefilter("always", AudioWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def make_bars() -> Progress:
    """Progress bars on stderr."""
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeRemainingColumn(),
        console=RichConsole(stderr=True, highlight=False),
        transient=True,
        redirect_stdout=False,  # True sends stdout to stderr
        redirect_stderr=False,
    )


def print_line(text: str) -> None:
    """Print `text` on stderr as one line."""
    if sys.stderr is not None:
        print(one_line(text), file=sys.stderr, flush=True)


def format_units(units: int, total: int, windows: int) -> str:
    """The current window, and its step if a window has several. The last unit of a window is its vocoding."""
    each = total // windows
    text = f"window {min(units // each + 1, windows)}/{windows}"
    return f"{text}, step {units % each}/{each - 1}" if each > 1 and units < total else text
