"""`sc-runtime build`: hands its arguments to the exporter, which needs torch.

The runtime does not depend on the exporter. So the exporter is imported by name when the command runs.
"""

from __future__ import annotations

import importlib
from typing import Any

import typer

from sc_runtime.errors import MissingExtraError

EXPORTER = "sc_runtime.export.build"
#: typer reads none of the arguments: the exporter does, --help too.
CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def build(context: typer.Context) -> None:
    """Build a bundle of a published checkpoint, or of stand-in weights (needs the extra `export`)."""
    exporter = import_exporter()
    raise typer.Exit(exporter.run_arguments(context.args, context.command_path))


def import_exporter(name: str = EXPORTER) -> Any:
    """The module of the exporter's command. Raises MissingExtraError if a package that it needs is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "sc_runtime"):
            raise
        raise MissingExtraError(
            f"{missing} is not installed", "the extra `export`", "pip install 'sc-runtime[export]'"
        ) from error
