"""Options that several commands share.

`EncodeOptions` and `DecodeOptions` declare the options of a codec, each once, with their help. A command takes such an
object as one parameter, and `spread_options` gives it the options on the command line.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, TypeVar

import typer

from sc_runtime.spec import DecodeOptions, EncodeOptions

BundleName = Annotated[
    str | None,
    typer.Option(
        "--bundle",
        metavar="FOLDER|NAME",
        help="The bundle to use. Default: $SC_RUNTIME_BUNDLE, else the newest trained one, else the embedded one.",
    ),
]
BackendName = Annotated[str, typer.Option(help="What runs the networks; `sc-runtime doctor` lists what works.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; all by default.", show_default=False)]
Precision = Annotated[
    str, typer.Option(help="auto: float32 for tokens, the fastest for sound; or float32 or bfloat16 for both.")
]
Vocabulary = Annotated[int | None, typer.Option(help="A vocabulary of the bundle.", show_default=False)]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Replace outputs that exist. Without it they are kept; one that -o names is an error."
    ),
]
AllowTruncated = Annotated[
    bool, typer.Option("--allow-truncated", help="Accept files that were cut short, and read what is left of them.")
]
MaxSeconds = Annotated[
    float | None,
    typer.Option(help="Refuse recordings that are longer; no limit by default.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]

Result = TypeVar("Result")


def spread_options(*names: str) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Decorate a typer command: a parameter of type EncodeOptions or DecodeOptions becomes an option for each field.

        @app.command()
        @spread_options()
        def decode(tokens: Path, *, options: DecodeOptions) -> None: ...

    The command has --preset, --steps and so on, and receives one `options`. Put the decorator below `app.command()`.

    names: the fields to offer. Without names, all that have a help text are offered. Raises ValueError for any other
    name.
    """

    def decorate(command: Callable[..., Result]) -> Callable[..., Result]:
        spread: dict[str, tuple[type, list[str]]] = {}  # parameter -> class of its value, fields that are offered
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            kind = parameter.annotation
            if kind in (EncodeOptions, DecodeOptions):
                offered = declare_options(kind, names)
                spread[parameter.name] = kind, [option.name for option in offered]
                parameters += offered
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        offered_names = {name for _, taken in spread.values() for name in taken}
        if unknown := set(names) - offered_names:
            raise ValueError(f"{command.__name__} has no options {', '.join(sorted(unknown))}")

        @functools.wraps(command)
        def run(**values: Any) -> Result:
            for name, (kind, taken) in spread.items():
                values[name] = kind(**{field: values.pop(field) for field in taken})
            return command(**values)

        # typer reads both: the signature for names and defaults, the annotations for types.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def declare_options(kind: type, names: tuple[str, ...]) -> list[inspect.Parameter]:
    """A parameter for each field of the options class `kind` that has metadata; only those in `names`, if any are."""
    types = inspect.get_annotations(kind, eval_str=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[types[field.name], typer.Option(show_default=False, **field.metadata)],
        )
        for field in fields(kind)
        if field.metadata and (not names or field.name in names)
    ]
