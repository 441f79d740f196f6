"""`sc-runtime info`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import Console
from .options import AllowTruncated, Json
from .program import muted_libraries
from .tables import (
    format_bitrate,
    format_books,
    format_megabytes,
    format_rate,
    format_seconds,
    format_versions,
    print_facts,
    print_table,
)

if TYPE_CHECKING:
    from .describe import Description


def info(
    name: Annotated[
        str,
        typer.Argument(metavar="FILE|BUNDLE", help="A token file, an audio file, a bundle, or - for standard input."),
    ],
    allow_truncated: AllowTruncated = False,
    as_json: Json = False,
) -> None:
    """Show what a file or a bundle holds."""
    from .describe import describe, describe_stream
    from .jobs import open_input
    from .planning import STANDARD

    with Console(as_json) as console, muted_libraries():
        is_stream = name == STANDARD
        description = describe_stream(open_input(), allow_truncated) if is_stream else describe(name, allow_truncated)
        console.finish(description)
    if not as_json:
        PRINTERS[description["kind"]](description)


def print_tokens(description: Description) -> None:
    length = "length of the original not known" if description["samples"] is None else "the original's length"
    print_facts(
        {
            "file": f"{description['path']}: tokens",
            "codec": description["codec"],
            "rate": format_rate(description),
            "vocabularies": format_books(description["vocabularies"]),
            "positions": format_positions(description),
            "duration": f"{format_seconds(description['seconds'])}, {length}",
            "size": f"{description['bits']} bits of codes, {description['bytes']} bytes in all",
            "bitrate": format_bitrate(description["bitrate"]),
        }
    )


def print_array(description: Description) -> None:
    print_facts(
        {
            "file": f"{description['path']}: tokens; the file does not state their codec, rate and vocabulary",
            "positions": format_positions(description),
            "largest": ", ".join(f"{name} {token}" for name, token in description["largest"].items()),
            **{codec: format_seconds(seconds) for codec, seconds in description["seconds"].items()},
        }
    )


def print_audio(description: Description) -> None:
    print_facts(
        {
            "file": f"{description['path']}: audio",
            "sample rate": f"{description['sample_rate']} Hz",
            "duration": format_seconds(description["seconds"]),
            "samples": ", ".join(f"{samples} at {rate} Hz" for rate, samples in description["samples"].items()),
        }
    )
    rows: list[tuple[Any, ...]] = []
    for row in description["tokens"]:
        books, bitrate = format_books(row["vocabularies"]), format_bitrate(row["bitrate"])
        rows.append((row["codec"], row["tps"], books, row["tokens"], row["bytes"], bitrate))
    print_table(("codec", "tps", "vocabularies", "tokens", "bytes", "bitrate"), rows)


def print_bundle(description: Description) -> None:
    print_facts(
        {
            "bundle": description["path"],
            "codec": description["codec"],
            "rate": format_rate(description),
            "vocabularies": format_books(description["vocabularies"], description["choices"]),
            "precision": description["precision"],
            "weights": description["weights"],
            "size": format_megabytes(description["bytes"]),
            "built by": description["command"],
            "made with": format_versions(description["made_with"]),
        }
    )
    graphs = description["graphs"].items()
    rows = [(name, format_megabytes(graph["bytes"]), f"{graph['error']:.1e}") for name, graph in graphs]
    print_table(("graph", "size", "error"), rows)


def format_positions(description: Description) -> str:
    return f"{description['positions']} ({description['tokens']} tokens)"


PRINTERS = {"tokens": print_tokens, "array": print_array, "audio": print_audio, "bundle": print_bundle}
