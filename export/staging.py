"""A bundle's folder is replaced whole or not at all, and only files that a build has written are deleted."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from sc_runtime.bundle.manifest import FORMAT, MANIFEST
from sc_runtime.errors import BundleError, CodecError, OutputError
from sc_runtime.files import TEMPORARY

#: Files that a build writes, and lists in the manifest.
WRITTEN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.(onnx|onnx\.data|npy|xml|bin)")
#: Files that no manifest lists: TensorRT plans and their descriptions, and files of earlier versions.
UNLISTED = re.compile(r"plans/(tensorrt|rtx)-[0-9A-Za-z.+_]+-sm\d+/[a-z_]+\.(plan|json)|\.verified\.json")


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` if the block succeeds, and is removed if it does not.

    A lock lets one process at a time build `folder`; the system frees it when the process dies. So no process uses the
    files that a killed build left, and they are removed. Raises BundleError if `folder`, or a hidden folder beside it
    whose name builds use, holds anything that no build wrote, OutputError for every OSError.
    """
    stage, old = (folder.with_name(f".{folder.name}.{role}") for role in ("partial", "old"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(clear_lock(folder.with_name(f".{folder.name}.lock"))):
            restore(folder, old)
            remove_leftover(stage)
            if folder.exists():
                list_own_files(folder)  # raises
            stage.mkdir()
            try:
                yield stage
                if folder.exists():
                    list_own_files(folder)  # again: the block takes minutes
                    folder.rename(old)
                stage.rename(folder)
            finally:
                if not old.is_symlink():
                    with suppress(BundleError):
                        restore(folder, old)
                shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        if isinstance(error, CodecError):
            raise
        raise OutputError(f"{folder}: {error.strerror or error}", "a place that can be written to") from error


def clear_lock(path: Path) -> Path:
    """Remove a link or a file that is not empty from `path`; return `path`. Taking a lock would empty that file."""
    with suppress(FileNotFoundError):
        if path.is_symlink() or path.lstat().st_size:
            path.unlink()
    return path


def restore(folder: Path, old: Path) -> None:
    """If `folder` is missing, rename `old` back to it. Else remove `old`, which `folder` has replaced."""
    if old.is_dir() and not old.is_symlink() and not folder.exists():
        old.rename(folder)
    remove_leftover(old)


def remove_leftover(folder: Path) -> None:
    """Remove a folder that a killed build has left, or a link under its name.

    Raises BundleError, and removes nothing, if it holds a file that no build writes.
    """
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.is_dir():
        files = [path for path in folder.rglob("*") if not is_folder(path)]
        for name in (path.relative_to(folder).as_posix() for path in files):
            if not (name == MANIFEST or WRITTEN.fullmatch(name) or is_unlisted(name)):
                given = f"{folder} holds {name}, which no build wrote"
                raise BundleError(given, "what a killed build has left", "move it")
        remove_files(folder, files)


def list_own_files(folder: Path) -> list[Path]:
    """Every file in `folder`, which is empty or a bundle, damaged or not. Raises BundleError.

    It is a bundle if it has a manifest of this format, and no other files than those that the manifest lists and those
    that the project writes beside them. Other programs name files manifest.json too.
    """
    files = sorted(path for path in folder.rglob("*") if not is_folder(path))
    if not any(folder.iterdir()):
        return []
    listed = read_listed(folder / MANIFEST)
    if listed is None:
        raise BundleError(
            f"{folder} holds something else than a bundle", "an empty or new folder", "choose another --out"
        )
    for name in (path.relative_to(folder).as_posix() for path in files):
        if name != MANIFEST and name not in listed and not is_unlisted(name):
            given = f"{folder} holds {name}, which no build wrote"
            raise BundleError(given, "the files of a bundle alone", "move it, or choose another --out")
    return files


def read_listed(path: Path) -> set[str] | None:
    """The files that the manifest `path` lists and that a build may have written. None if it is no manifest.

    A manifest that was altered, or that states what this version refuses, still counts: its bundle may be built again.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT or not isinstance(raw["codec"], str) or not isinstance(raw["graphs"], dict):
            return None
        return {name for name in raw["files"] if WRITTEN.fullmatch(name)}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def is_unlisted(name: str) -> bool:
    return bool(UNLISTED.fullmatch(name) or TEMPORARY.fullmatch(name.rpartition("/")[2]))


def is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def remove_files(folder: Path, files: list[Path]) -> None:
    """Remove `files` from `folder`, then every folder in it that is empty, then `folder` itself if it is empty."""
    for path in files:
        path.unlink(missing_ok=True)
    for path in sorted((path for path in folder.rglob("*") if is_folder(path)), reverse=True):
        with suppress(OSError):
            path.rmdir()
    with suppress(OSError):
        folder.rmdir()
