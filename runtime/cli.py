"""The command line: parsing and printing only."""

from __future__ import annotations

import sys

import typer

from .errors import CodecError


def run_app(app: typer.Typer) -> None:
    """Run a command: errors a user can cause become one line on stderr and exit code 1, Ctrl-C exit code 130."""
    try:
        code = app(standalone_mode=False)
    except CodecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(code or 0)
