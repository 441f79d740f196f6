"""Files written whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import OutputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file next to `path`, and put it in the place of `path` if the block succeeds.

    The temporary file has the suffix of `path`, because some writers choose a format by it. If the block raises
    anything, KeyboardInterrupt too, the temporary file is removed and `path` is untouched. A symbolic link is followed:
    the file that it leads to is replaced.

    Raises `OutputError` for every OSError, in the block too: no such folder, no permission, disk full. A missing
    folder, and a `path` that is a folder or a device, are found before the block runs.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{secrets.token_hex(8)}{target.suffix}")
    try:
        if target.exists() and not target.is_file():
            raise OutputError(f"{path}: a folder or a device", "the name of a file", "choose another name")
        temporary.touch(exist_ok=False)  # not `tempfile`: its files stay private to the user
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
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to the file `source`, or a copy where the disk has no hard links."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path`, whole or not at all. Raises `OutputError`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
