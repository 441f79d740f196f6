"""Files and objects, on any filesystem that fsspec has.

Retries and their backoff are those of the filesystem's library (s3fs, gcsfs, adlfs).
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sc_runtime.errors import (
    FULL,
    MAKE_ROOM,
    OUT_OF_FILES,
    CodecError,
    MissingExtraError,
    OutputError,
    choose_remedy,
    first_line,
    timed_out,
)

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

COPY_BYTES = 1 << 26  #: of an object that are copied at a time
DISK_ERRORS = (*FULL, *OUT_OF_FILES, errno.EROFS, errno.EIO)  #: of this machine, while it writes


def is_remote(uri: str) -> bool:
    """Whether `uri` names a filesystem: "s3://bucket/key"."""
    return "://" in uri


def split_uri(uri: str) -> tuple[AbstractFileSystem, str]:
    """The filesystem of `uri`, and the path there. Raises MissingExtraError if its library is not installed."""
    try:
        from fsspec.core import url_to_fs

        filesystem, path = url_to_fs(uri)
    except ImportError as error:
        remedy = "pip install 'sc-runtime[collection]', and s3fs, gcsfs or adlfs for an object store"
        raise MissingExtraError(f"{uri}: {first_line(error)}", "the library of this filesystem", remedy) from error
    except ValueError as error:
        raise MissingExtraError(f"{uri}: {first_line(error)}", "a filesystem that fsspec has") from error
    return filesystem, path


def join_uri(filesystem: AbstractFileSystem, path: str) -> str:
    """The inverse of `split_uri`: a local path as it is, another with its protocol."""
    return str(filesystem.unstrip_protocol(path)) if is_object_store(filesystem) else path


def is_object_store(filesystem: AbstractFileSystem) -> bool:
    """Whether `filesystem` is another than the machine's own."""
    protocols = filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,)
    return "file" not in protocols


@contextmanager
def explaining(uri: str, kind: type[CodecError], expected: str) -> Iterator[None]:
    """Raise what a filesystem raises in the block as an error `kind` of one line that names `uri`."""
    try:
        yield
    except CodecError:
        raise
    except Exception as error:  # the libraries of object stores raise their own classes
        raise kind(f"{uri}: {explain_failure(error)}", expected, choose_remedy(error)) from error


def explain_failure(error: Exception) -> str:
    """Why a file or an object could not be had, without its name."""
    if isinstance(error, FileNotFoundError):
        return os.strerror(errno.ENOENT)
    if isinstance(error, PermissionError):
        return os.strerror(errno.EACCES)
    if timed_out(error):
        return "timed out"
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    return f"{type(error).__name__}: {first_line(error)}"


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder of this machine, which is removed after the block. Raises OutputError if it cannot be made."""
    with writing_temporary():
        folder = tempfile.TemporaryDirectory(prefix="sc-runtime-")
    with folder as name:
        yield Path(name)


@contextmanager
def writing_temporary() -> Iterator[None]:
    """Raise an OSError of the block as an OutputError that names the folder of temporary files."""
    try:
        yield
    except CodecError:
        raise
    except OSError as error:
        raise refuse_temporary(error.strerror or explain_failure(error), error) from error


def refuse_temporary(reason: str, error: Exception) -> OutputError:
    """The error of temporary files that cannot be written, because of `error`."""
    code = error.errno if isinstance(error, OSError) else None
    remedy = choose_remedy(error) if code in OUT_OF_FILES else MAKE_ROOM
    given = f"{tempfile.tempdir or '$TMPDIR'}: {reason}"
    return OutputError(given, "a folder that takes temporary files", f"{remedy}; then the same command goes on")


def write_copy(target: Path, data: bytes) -> None:
    """Append `data` to `target`, a temporary file. Raises OutputError."""
    with writing_temporary(), target.open("ab") as file:
        file.write(data)


def copy_file(uri: str, target: Path) -> None:
    """Copy a whole file or object to `target`, a temporary file.

    Raises OutputError if `target` cannot be written, and what the filesystem raises.
    """
    filesystem, path = split_uri(uri)
    write_copy(target, b"")
    try:
        filesystem.get_file(path, str(target))
    except OSError as error:  # an error that a store's answer became has that as its cause
        if error.filename == str(target) or (error.errno in DISK_ERRORS and error.__cause__ is None):
            raise refuse_temporary(error.strerror or explain_failure(error), error) from error
        raise


def copy_range(uri: str, offset: int, size: int, target: Path) -> int:
    """Copy `size` bytes from `offset` on to `target`, a temporary file. Returns how many there were.

    Raises OutputError if `target` cannot be written, and what the filesystem raises.
    """
    filesystem, path = split_uri(uri)
    write_copy(target, b"")
    copied = 0
    while copied < size:
        end = offset + min(size, copied + COPY_BYTES)
        part = filesystem.cat_file(path, start=offset + copied, end=end)
        write_copy(target, part)
        copied += len(part)
        if offset + copied < end:
            break
    return copied


@contextmanager
def open_uri(uri: str, **options: Any) -> Iterator[Any]:
    """Yield the file or object `uri`, open for reading; `options` are those of the filesystem's `open`."""
    filesystem, path = split_uri(uri)
    with filesystem.open(path, "rb", **options) as file:
        yield file
