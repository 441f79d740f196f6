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

    The temporary has the suffix of `path`, for writers that choose a format by it. When the block raises, and
    KeyboardInterrupt is no exception, the temporary is removed and whatever stood at `path` is untouched. A
    symbolic link is followed: the file it leads to is replaced.

    Raises `OutputError` for every OSError inside, the block's own too: no such folder, no permission, disk
    full; before the block runs where it can (a missing folder, a `path` that is a folder or a device).
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{secrets.token_hex(8)}{target.suffix}")
    try:
        if target.exists() and not target.is_file():
            raise OutputError(f"{path}: a folder or a device", "the name of a file", "choose another name")
        temporary.touch(exist_ok=False)  # not `tempfile`, whose files are private to the user for ever after
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
    """Make `target` a second name of the file `source` where the disk can, else a copy."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path`, whole or not at all. Raises `OutputError`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
