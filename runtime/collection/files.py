"""Files and objects, on any filesystem that fsspec has.

Retries and their backoff are those of the filesystem's library (s3fs, gcsfs, adlfs).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sc_runtime.errors import CodecError, MissingExtraError, first_line

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

COPY_BYTES = 1 << 26  #: of an object that are copied at a time


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
def explaining(uri: str, kind: type[CodecError], expected: str, remedy: str = "") -> Iterator[None]:
    """Raise what a filesystem raises in the block as an error `kind` of one line that names `uri`."""
    try:
        yield
    except CodecError:
        raise
    except Exception as error:  # the libraries of object stores raise their own classes
        is_ours = isinstance(error, (FileNotFoundError, PermissionError))
        remedy = remedy or ("check its name and permissions" if is_ours else "")
        raise kind(f"{uri}: {explain_failure(error)}", expected, remedy) from error


def explain_failure(error: Exception) -> str:
    """Why a file or an object could not be had, without its name."""
    if isinstance(error, FileNotFoundError):
        return os.strerror(errno.ENOENT)
    if isinstance(error, PermissionError):
        return os.strerror(errno.EACCES)
    if isinstance(error, TimeoutError) or "timeout" in type(error).__name__.lower():
        return "timed out"
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    return f"{type(error).__name__}: {first_line(error)}"


def copy_file(uri: str, target: Path) -> None:
    """Copy a whole file or object to `target`."""
    filesystem, path = split_uri(uri)
    filesystem.get_file(path, str(target))


def copy_range(uri: str, offset: int, size: int, target: Path) -> int:
    """Copy `size` bytes from `offset` on to `target`. Returns how many there were."""
    filesystem, path = split_uri(uri)
    copied = 0
    with target.open("wb") as file:
        while copied < size:
            end = offset + min(size, copied + COPY_BYTES)
            part = filesystem.cat_file(path, start=offset + copied, end=end)
            file.write(part)
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
