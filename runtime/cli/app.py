"""The program `sc-runtime`: its commands, joined."""

from __future__ import annotations

from typing import Annotated

import typer

from .build import CONTEXT, build
from .caches import caches
from .decode import decode
from .demo import demo
from .doctor import doctor
from .encode import encode
from .info import info
from .program import own_streams, run_app
from .roundtrip import roundtrip
from .serve import serve
from .tokenize import tokenize

app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})
for command in (encode, decode, roundtrip, tokenize, serve, demo, info, doctor, caches):
    app.command()(command)
app.command(context_settings=CONTEXT)(build)


def print_version(wanted: bool) -> None:
    """Print the version and exit, if it is wanted."""
    if wanted:
        from sc_runtime import __version__

        print(f"sc-runtime {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Semantic audio codecs, SemantiCodec and UniCodec: sound to tokens, and back."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run the program and exit."""
    own_streams()
    run_app(app)


if __name__ == "__main__":
    main()
