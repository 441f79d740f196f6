"""What the command line prints: results on stdout, notes, errors and progress on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress


class ShowProgress(Protocol):
    """Shows `units` of `total` units of work done, which belong to `windows` windows: one each, if not given."""

    def __call__(self, units: int, total: int, windows: int | None = None) -> None: ...


def over_windows(show: ShowProgress | None, windows: int) -> Callable[[int, int], None] | None:
    """What shows the decoding of `windows` windows, several units of work each."""
    return show and partial(show, windows=windows)


class Report:
    """Tells the user what happens. With `as_json` stdout holds the one document given to `finish`."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self._bars: Progress | None = None
        self._files: Any = None

    def __enter__(self) -> Report:
        if sys.stderr is not None and sys.stderr.isatty():
            self._bars = make_bars()
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def note(self, text: str) -> None:
        """One line on stderr."""
        if self._bars:
            self._bars.console.print(printable(text), markup=False, emoji=False, soft_wrap=True)
        else:
            print_line(text)

    def error(self, text: str) -> None:
        self.note(f"error: {text}")

    def result(self, text: str) -> None:
        """One line on stdout, but for a machine that reads JSON there."""
        if self.as_json:
            return
        if self._bars and sys.stdout.isatty():  # the same terminal: the bars must move out of the way
            self.note(text)
        else:
            print(printable(text))

    def finish(self, document: dict[str, Any]) -> None:
        """The whole outcome, for a machine."""
        if self.as_json:
            print(json.dumps(document, indent=1))

    @contextmanager
    def follow(self, name: str, done: int, files: int) -> Iterator[ShowProgress | None]:
        """Yield what shows the codec's progress on `name`, the file after `done` of `files`; None off a terminal."""
        if self._bars is None:
            yield None
            return
        bars = self._bars
        if files > 1 and self._files is None:
            self._files = bars.add_task("files", total=files, detail="")
        if self._files is not None:
            bars.update(self._files, completed=done, detail=f"{done}/{files}")
        task = bars.add_task(printable(name), total=None, detail="")

        def show(units: int, total: int, windows: int | None = None) -> None:
            bars.update(task, completed=units, total=total, detail=tell_units(units, total, windows or total))

        try:
            yield show
        finally:
            bars.remove_task(task)


def make_bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False),
        transient=True,
        redirect_stdout=False,  # it would send stdout to stderr
        redirect_stderr=False,
    )


def print_line(text: str) -> None:
    """One line on stderr, whatever `text` holds."""
    if sys.stderr is not None:
        print(printable(text), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """`text` on one line: line breaks, control characters and bytes that are no text are escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def tell_description(description: dict[str, Any]) -> None:
    """What `describe` found, for a reader."""
    kind = description["kind"]
    if kind == "tokens":
        length = "length of the original not known" if description["samples"] is None else "the original's length"
        facts = {
            "file": f"{description['path']}: tokens",
            "codec": description["codec"],
            "rate": tell_rate(description),
            "vocabularies": tell_books(description["vocabularies"]),
            "positions": f"{description['positions']} ({description['tokens']} tokens)",
            "duration": f"{tell_seconds(description['seconds'])}, {length}",
            "size": f"{description['bits']} bits of codes, {description['bytes']} bytes in all",
            "bitrate": tell_bitrate(description["bitrate"]),
        }
    elif kind == "array":
        facts = {
            "file": f"{description['path']}: tokens, of a codec, a rate and a vocabulary it does not say",
            "positions": f"{description['positions']} ({description['tokens']} tokens)",
            "largest": ", ".join(f"{name} {token}" for name, token in description["largest"].items()),
        }
        for codec, seconds in description["seconds"].items():
            facts[codec] = tell_seconds(seconds)
    elif kind == "audio":
        facts = {
            "file": f"{description['path']}: audio",
            "sample rate": f"{description['sample_rate']} Hz",
            "duration": tell_seconds(description["seconds"]),
            "samples": ", ".join(f"{samples} at {rate} Hz" for rate, samples in description["samples"].items()),
        }
    else:
        facts = {
            "bundle": description["path"],
            "codec": description["codec"],
            "rate": tell_rate(description),
            "vocabularies": tell_books(description["vocabularies"], description["choices"]),
            "precision": description["precision"],
            "weights": description["weights"],
            "size": tell_bytes(description["bytes"]),
            "built by": description["command"],
            "made with": tell_versions(description["made_with"]),
        }
    print_facts(facts)
    rows: list[tuple[Any, ...]]
    if kind == "audio":
        rows = [
            (
                *(row["codec"], row["tps"], tell_books(row["vocabularies"])),
                *(row["tokens"], row["bytes"], tell_bitrate(row["bitrate"])),
            )
            for row in description["tokens"]
        ]
        print_table(("codec", "tps", "vocabularies", "tokens", "bytes", "bitrate"), rows)
    if kind == "bundle":
        graphs = description["graphs"].items()
        rows = [(name, tell_bytes(graph["bytes"]), f"{graph['error']:.1e}") for name, graph in graphs]
        print_table(("graph", "size", "error"), rows)


def tell_findings(findings: dict[str, Any]) -> None:
    """What `doctor` found, for a reader."""
    cpu, bundles = findings["cpu"], findings["bundles"]
    print_facts(
        {
            "python": f"{findings['python']} ({findings['executable']})",
            "platform": findings["platform"],
            "cpu": f"{cpu['model']}, {cpu['usable_threads']} of {cpu['threads']} threads, {' '.join(cpu['features'])}",
            "packages": tell_versions(findings["packages"]),
        }
    )
    rows: list[tuple[Any, ...]] = []
    for backend in findings["backends"]:
        state = "works" if backend["tried"] else "installed; not tried without a bundle"
        rows.append((backend["name"], f"{state}, on {backend['device']}" if backend["works"] else backend["reason"]))
    print_table(("backend", "state"), rows)
    rows = []
    for extra, packages in findings["extras"].items():
        state = "installed" if all(packages.values()) else f"pip install 'sc-runtime[{extra}]'"
        rows.append((extra, state, tell_versions(packages)))
    print_table(("extra", "state", "packages"), rows)
    rows = []
    for bundle in bundles["found"]:
        holds = f"{bundle['codec']}, {bundle['tps']} tps, vocabulary {tell_choices(bundle['vocabularies'])}"
        rows.append(("*" if bundle["path"] == bundles["chosen"] else "", bundle["name"], bundle["problem"] or holds))
    if rows:
        print_table(("", "bundle", "state"), rows)
    print()
    print_facts(
        {
            "bundles in": bundles["folder"],
            "SC_RUNTIME_BUNDLE": bundles["variable"] or "not set",
            "without --bundle": bundles["chosen"] or bundles["problem"],
        }
    )


def tell_units(units: int, total: int, windows: int) -> str:
    """The window that is worked on, and its step where a window has several (the last unit of one is its vocoding)."""
    each = total // windows
    text = f"window {min(units // each + 1, windows)}/{windows}"
    return f"{text}, step {units % each}/{each - 1}" if each > 1 and units < total else text


def tell_seconds(seconds: float) -> str:
    minutes = f" ({int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02})" if seconds >= 60 else ""
    return f"{seconds:.3f} s{minutes}"


def tell_bitrate(bitrate: float) -> str:
    return f"{bitrate / 1000:.2f} kbps"


def tell_bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def tell_rate(description: dict[str, Any]) -> str:
    return f"{description['tps']} tokens a second, of sound at {description['sample_rate']} Hz"


def tell_books(books: dict[str, int], choices: list[int] | None = None) -> str:
    """`choices` are what there is for the first of `books`, where it may be chosen."""
    told = [f"{entries} {name}" for name, entries in books.items()]
    if choices:
        told[0] = f"{tell_choices(choices)} {next(iter(books))}"
    return ", ".join(told)


def tell_choices(values: list[Any]) -> str:
    return " or ".join(map(str, values))


def tell_versions(versions: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())


def print_facts(facts: dict[str, Any]) -> None:
    """Name and value, a line each."""
    width = max(map(len, facts))
    for name, value in facts.items():
        print(printable(f"{name:{width}}  {value}"))


def print_table(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """To stdout, after an empty line: as wide as a terminal, or as its contents in a pipe."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for row in rows:
        table.add_row(*(printable(str(cell)) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else 1000, highlight=False, markup=False, emoji=False)
    print()
    console.print(table)
