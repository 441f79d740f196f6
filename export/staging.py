"""A bundle's folder is replaced whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from sc_runtime.bundle.manifest import MANIFEST
from sc_runtime.errors import BundleError, CodecError, OutputError


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` if the block succeeds, and is removed if it does not.

    A lock lets one process at a time build `folder`; the system frees it when the process dies. So no process uses the
    files that a killed build left, and they are removed. Raises BundleError if `folder` holds something else than a
    bundle, OutputError for every OSError.
    """
    stage, old = (folder.with_name(f".{folder.name}.{role}") for role in ("partial", "old"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            restore(folder, old)
            if stage.exists():
                shutil.rmtree(stage)
            if folder.exists() and any(folder.iterdir()) and not is_bundle(folder):
                raise BundleError(
                    f"{folder} holds something else than a bundle", "an empty or new folder", "choose another --out"
                )
            stage.mkdir()
            try:
                yield stage
                if folder.exists():
                    folder.rename(old)
                stage.rename(folder)
            finally:
                restore(folder, old)
                shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        if isinstance(error, CodecError):
            raise
        raise OutputError(f"{folder}: {error.strerror or error}", "a place that can be written to") from error


def restore(folder: Path, old: Path) -> None:
    """If `folder` is missing, rename `old` back to it. Else remove `old`, which `folder` has replaced."""
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def is_bundle(folder: Path) -> bool:
    """Whether a build made `folder`, damaged or not. A manifest.json alone is not enough: web pages have one too."""
    return (folder / MANIFEST).is_file() and any(folder.glob("*.onnx"))
