"""Files written whole or not at all.

Every file that the program makes for a user, in a cache or in a bundle is written here. Nothing is written through a
link that leads out of the link's folder: an archive from a stranger may hold such links under the names that the
program writes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from .errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PREFIX = ".sc-runtime-"  #: of temporary files; the machine, random digits and the suffix follow
TEMPORARY = re.compile(rf"{re.escape(PREFIX)}([0-9a-f]{{8}})-[0-9a-f]{{16}}(\..*)?", re.DOTALL)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  #: errors of a disk, a quota or a limit of file sizes
OLD = 86_400  #: seconds after which a temporary file of another machine counts as left behind
_swept: set[Path] = set()  #: folders in which this process has looked for temporary files


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file next to `path`, and put it in the place of `path` if the block succeeds.

    The temporary file has the suffix of `path`, because some writers choose a format by it. The block writes to this
    file and does not put another in its place. If the block raises anything, KeyboardInterrupt too, the temporary file
    is removed and `path` is untouched. A symbolic link is followed if it leads to a file in or below its own folder.

    Raises `OutputError` for every OSError, in the block too: no such folder, no permission, disk full. A missing
    folder, a `path` that is a folder or a device, and a link to another place are found before the block runs.
    """
    try:
        target = follow(path)
        if target.exists() and not target.is_file():
            raise OutputError(f"{path}: a folder or a device", "the name of a file", "choose another name")
        with temporary_file(target.parent, target.suffix) as temporary:
            yield temporary
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        remedy = "check the folder, its permissions and the free space"
        raise OutputError(f"{path}: {reason}", "a file that can be written", remedy) from error


@contextmanager
def temporary_file(folder: Path, suffix: str) -> Iterator[Path]:
    """Yield a new empty file in `folder`, and remove it after the block. Raises OSError.

    What killed processes have left in `folder` is removed when a process first writes there.
    """
    if folder not in _swept:
        _swept.add(folder)
        remove_abandoned(folder)
    path, descriptor = create_temporary(folder, suffix)
    try:
        yield path
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)


def follow(path: Path) -> Path:
    """The file that is written for `path`. Raises OutputError for a link that leads out of its folder."""
    target = Path(os.path.realpath(path))
    if path.is_symlink() and not target.is_relative_to(os.path.realpath(path.parent)):
        special = target.exists() and not target.is_file()  # /dev/stdout and its like, which `replacing` refuses
        if not special:
            remedy = f"remove the link, or name {target}"
            raise OutputError(f"{path}: a link that leads to {target}", "a file in this folder", remedy)
    return target


def create_temporary(folder: Path, suffix: str) -> tuple[Path, int | None]:
    """A new file in `folder`, and an open descriptor, which holds a lock on it while this process lives.

    None takes the place of the descriptor on Windows, which cannot rename a file that is open.
    """
    while True:
        temporary = folder / f"{PREFIX}{name_machine()}-{secrets.token_hex(8)}{suffix}"
        temporary.touch(exist_ok=False)  # not `tempfile`: its files stay private to the user
        if fcntl is None:
            return temporary, None
        try:
            descriptor = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:  # removed before it was locked
            continue
        with suppress(OSError):  # a file system without locks: `remove_abandoned` gets none either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(OSError):
            if os.path.samestat(temporary.stat(), os.fstat(descriptor)):  # not removed before it was locked
                return temporary, descriptor
        os.close(descriptor)


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files in `folder` whose processes are dead.

    A process holds a lock on its temporary file, and the system frees the lock when the process dies. Some network file
    systems keep locks on each machine apart. So the file of another machine, or of this one before it was last started,
    must also be a day old.
    """
    if fcntl is None:
        return
    with suppress(OSError), os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(PREFIX)]
        for name in names:
            match = TEMPORARY.fullmatch(name)
            if match is None:
                continue
            with suppress(OSError):
                descriptor = os.open(folder / name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    status = os.fstat(descriptor)
                    is_ours = match[1] == name_machine() or time.time() - status.st_mtime > OLD
                    if stat.S_ISREG(status.st_mode) and is_ours:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if a process writes to it
                        (folder / name).unlink()
                finally:
                    os.close(descriptor)


@cache
def name_machine() -> str:
    """Eight hexadecimal digits: another number on every machine and after each start of it."""
    try:
        identity = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        identity = platform.node()
    return hashlib.sha256(identity.encode()).hexdigest()[:8]


def make_folder(folder: Path, root: Path) -> None:
    """Make `folder`, which lies in or below `root`, and the folders above it.

    Raises OutputError if it cannot be made, and if a link leads out of `root`.
    """
    if not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(root)):  # before anything is made there
        raise OutputError(f"{folder}: a link that leads out of {root}", "a folder in it", "remove the link")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{error.filename or folder}: {error.strerror}", "a folder that can be made") from error


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target`, a new name, a hard link to the file `source`, or a copy where the disk has no hard links."""
    source = source.resolve()  # the file, never a link to it
    try:
        target.hardlink_to(source)
    except OSError:
        with replacing(target) as temporary:
            shutil.copy2(source, temporary)


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path`, whole or not at all. Raises `OutputError`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
