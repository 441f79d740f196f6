"""Caches in the user's cache folder: compiled kernels, compiled graphs, and records of verified files.

Every cache is optional. If there is no home folder, or the folder cannot be written, the work is done again each time,
and the logger "sc_runtime.caches" warns once of each cause.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import first_line
from .files import make_folder, write_atomically

NAMES = ("kernels", "openvino", "tensorrt", "verified")  #: folders of all caches
#: Bytes that all caches together may hold. The files that were used longest ago are deleted first.
LIMIT_BYTES = 4_000_000_000
COMMON = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  #: errors of the disk, which all caches share
DIGEST = 32  #: hexadecimal digits of a SHA-256 in a file's name
RECORDED_BYTES = 1_000_000  #: that a larger file was hashed is recorded, so that it is not hashed at each start
USE_SECONDS = 3600.0  #: precision of a file's time of the last use; writing it makes a record of the file void

log = logging.getLogger(__name__)
_reported: set[str] = set()
_pruning = threading.Lock()


def find_user_folder() -> Path | None:
    """The program's folder in the user's cache folder, or None where there is neither a home nor $XDG_CACHE_HOME."""
    import platformdirs

    try:
        return Path(platformdirs.user_cache_dir("sc-runtime"))
    except (RuntimeError, KeyError, OSError) as error:
        report(f"there is no cache folder ({first_line(error)}): set HOME or XDG_CACHE_HOME")
        return None


def report(text: str) -> None:
    """Log `text`, unless it was logged before."""
    if text not in _reported:
        _reported.add(text)
        log.warning("%s", text)


class Cache:
    """The cache `name`. A file's name holds a key and a hash of its data. A file that does not match is deleted.

    Several threads and processes may use it at once.
    """

    def __init__(self, name: str, suffix: str, limit: int = LIMIT_BYTES) -> None:
        self.name, self.suffix, self.limit = name, suffix, limit

    @property
    def folder(self) -> Path | None:
        root = find_user_folder()
        return None if root is None else root / self.name

    def read(self, key: str) -> np.ndarray | None:
        """The data of `key`, uint8 [n], mapped from the file. None if there are none, or if they have been altered.

        `key` is made of letters, digits, "-" and "_".
        """
        for path in self._find(key):
            with suppress(OSError, ValueError):  # an empty file raises ValueError
                data = np.memmap(path, np.uint8, "r")
                with suppress(OSError):  # another user's file, or a disk that cannot be written to
                    if time.time() - path.stat().st_mtime > USE_SECONDS:
                        os.utime(path)
                if is_intact(path, data):
                    return data
            self._delete(path)
        return None

    def write(self, key: str, data: bytes | memoryview) -> None:
        """Keep `data` under `key`, in place of what was there. Where that fails, it is logged once.

        A folder of a cache that is a link to another place is not used.
        """
        folder = self.folder
        if folder is None:
            return
        digest = hash_data(data)
        path = folder / f"{key}.{digest}{self.suffix}"
        try:
            make_folder(folder, folder.parent)
            write_atomically(path, data)
        except OSError as error:  # OutputError too
            report(describe_failure(folder, error))
            return
        if len(data) >= RECORDED_BYTES:
            with suppress(OSError):  # another process has removed the file already
                HASHED.write(name_record(path, digest), digest.encode())
        for other in self._find(key):
            if other != path:
                self._delete(other)
        prune(self.limit)

    def _find(self, key: str) -> list[Path]:
        folder = self.folder
        with suppress(OSError):
            return sorted(folder.glob(f"{key}.*{self.suffix}")) if folder else []
        return []

    def _delete(self, path: Path) -> None:
        with suppress(OSError):
            path.unlink()


HASHED = Cache("verified", ".ok")  #: records of files that were hashed, bundles' and caches', by hash and stamp


def take_stamp(path: Path) -> tuple[int, ...]:
    """Size, times of modification and of change, device, inode: they change when a file is written or replaced."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_dev, status.st_ino


def is_intact(path: Path, data: np.ndarray) -> bool:
    """Whether `data`, uint8 [n], the content of a cache's file, has the hash in the file's name."""
    digest = path.name.split(".")[1]
    if len(data) < RECORDED_BYTES:
        return hash_data(data.data) == digest
    key = name_record(path, digest)
    if HASHED.read(key) is not None:
        return True
    if hash_data(data.data) != digest:
        return False
    HASHED.write(key, digest.encode())
    return True


def name_record(path: Path, digest: str) -> str:
    """The key of the record that the file, as it is now, has this hash. Take it before the file is hashed.

    `Cache.write` has just written the file, of data that it has hashed.
    """
    return make_key(digest, *take_stamp(path))


def describe_failure(folder: Path, error: OSError) -> str:
    """Why nothing is kept in `folder`, that of a cache. It names the folder of all caches if they fail alike."""
    number = next((each.errno for each in (error.__cause__, error) if isinstance(each, OSError) and each.errno), None)
    if number is None:
        return f"nothing is kept in {folder} ({first_line(error)})"
    are_alike = number in COMMON or not os.path.lexists(folder)
    return f"nothing is kept in {folder.parent if are_alike else folder} ({os.strerror(number)})"


@dataclass(frozen=True)
class Usage:
    """What a cache holds."""

    name: str
    folder: Path
    files: int
    bytes: int


def list_usage() -> list[Usage]:
    """What each cache holds; empty where there is no cache folder."""
    root = find_user_folder()
    if root is None:
        return []
    files = list_files(root)
    found = {name: [size for _, size, path in files if path.parent.name == name] for name in NAMES}
    return [Usage(name, root / name, len(sizes), sum(sizes)) for name, sizes in found.items()]


def empty() -> int:
    """Delete every file of every cache, and return the number of bytes. Bundles and other files are left alone."""
    root = find_user_folder()
    freed = 0
    for _, size, path in list_files(root) if root else ():
        with suppress(OSError):
            path.unlink()
            freed += size
    return freed


def prune(limit: int = LIMIT_BYTES) -> None:
    """Delete the files that were used longest ago, until all caches together hold at most `limit` bytes."""
    root = find_user_folder()
    if root is None:
        return
    with _pruning:
        files = sorted(list_files(root))
        excess = sum(size for _, size, _ in files) - limit
        for _, size, path in files:
            if excess <= 0:
                break
            with suppress(OSError):
                path.unlink()
            excess -= size


def list_files(root: Path) -> list[tuple[float, int, Path]]:
    """(time of the last use, bytes, path) of every file of the caches under `root`. Links are not followed."""
    found = []
    for folder in (root / name for name in NAMES):
        with suppress(OSError):
            for path in () if folder.is_symlink() else folder.iterdir():
                with suppress(OSError):
                    status = path.lstat()
                    if stat.S_ISREG(status.st_mode):
                        found.append((status.st_mtime, status.st_size, path))
    return found


def hash_data(data: bytes | memoryview) -> str:
    """The start of the SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()[:DIGEST]


def make_key(*parts: object) -> str:
    """A key made from `parts`, which are everything that the data depend on."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:DIGEST]
