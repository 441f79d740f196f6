"""Where the shards go: a folder of this machine, or of an object store."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sc_runtime.errors import OutputError
from sc_runtime.files import remove_abandoned, replacing, temporary_file

from .files import explaining, is_object_store, join_uri, split_uri, temporary_folder, writing_temporary

PLAN_FOLDER = ".plan"  #: hidden from loaders of the shards
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK)  #: of a disk that has no second names
WRITABLE = "a folder that can be written"
READABLE = "a folder whose files can be read"


class OutputFolder:
    """A folder whose files appear whole or not at all: by one rename, or by one PUT.

    Every method raises OutputError, naming the folder, or the file in it.
    """

    def __init__(self, uri: str) -> None:
        self.filesystem, self.root = split_uri(uri)
        self.is_local = not is_object_store(self.filesystem)
        self.uri = join_uri(self.filesystem, self.root)
        if self.is_local:
            with explaining(self.uri, OutputError, WRITABLE):
                Path(self.root, PLAN_FOLDER).mkdir(parents=True, exist_ok=True)

    def locate(self, name: str) -> str:
        """The path or URI of the file `name`."""
        return f"{self.uri.rstrip('/')}/{name}"

    def list_names(self, folder: str = "") -> set[str]:
        """The files in the folder, or in `folder` in it; those in folders there are left out."""
        root = f"{self.root.rstrip('/')}/{folder}" if folder else self.root
        with explaining(self.uri, OutputError, READABLE):
            if self.is_local:
                return {entry.name for entry in os.scandir(root) if entry.is_file()}
            self.filesystem.invalidate_cache()
            try:
                found = self.filesystem.ls(root, detail=True)
            except FileNotFoundError:  # an object store has no empty folders
                return set()
            return {entry["name"].rpartition("/")[2] for entry in found if entry["type"] == "file"}

    def has(self, name: str) -> bool:
        path = f"{self.root.rstrip('/')}/{name}"
        with explaining(self.locate(name), OutputError, READABLE):
            if self.is_local:
                return Path(path).is_file()
            self.filesystem.invalidate_cache()
            return bool(self.filesystem.exists(path))

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError if there is none."""
        path = f"{self.root.rstrip('/')}/{name}"
        with explaining(self.locate(name), OutputError, READABLE):
            try:
                return bytes(self.filesystem.cat_file(path))
            except FileNotFoundError as error:
                missing = error
        raise missing

    @contextmanager
    def open(self, name: str, **options: Any) -> Iterator[Any]:
        """Yield a file, open for reading; `options` are those of the filesystem's `open`.

        An error of the block, as of a damaged file, becomes an OutputError too.
        """
        path = f"{self.root.rstrip('/')}/{name}"
        with explaining(self.locate(name), OutputError, READABLE), self.filesystem.open(path, "rb", **options) as file:
            yield file

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Yield a temporary file of this machine. It becomes `name` when the block ends, after fsync.

        An OSError of the block, as of a full disk, becomes an OutputError too. It names the file, or, for an object
        store, the folder of temporary files.
        """
        if self.is_local:
            with replacing(Path(self.root, name)) as path:
                yield path
            return
        with temporary_folder() as folder:
            path = folder / name.rpartition("/")[2]
            with writing_temporary():
                yield path
            with explaining(self.locate(name), OutputError, WRITABLE):
                self.filesystem.put_file(str(path), f"{self.root.rstrip('/')}/{name}")

    def write(self, name: str, data: bytes) -> None:
        """Put `data` in the place of `name`."""
        with self.replacing(name) as path:
            path.write_bytes(data)

    def create(self, name: str, data: bytes) -> bool:
        """Write `data` to `name` if there is no such file. Returns whether it was written.

        A store without conditional writes does not exclude two writers at one moment. Then the last one wins, and the
        other finds that out when it reads the file again.
        """
        path = f"{self.root.rstrip('/')}/{name}"
        with explaining(self.locate(name), OutputError, WRITABLE):
            if not self.is_local:
                return self._create_object(name, path, data)
            with temporary_file(Path(path).parent, Path(path).suffix) as temporary:
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    return False
                except OSError as error:
                    if error.errno not in NO_LINKS:
                        raise
                    temporary.replace(path)
            return True

    def _create_object(self, name: str, path: str, data: bytes) -> bool:
        try:
            self.filesystem.pipe_file(path, data, mode="create")
        except (NotImplementedError, TypeError):  # a store without conditional writes
            if self.has(name):
                return False
            self.filesystem.pipe_file(path, data)
            return self.read(name) == data
        except Exception:  # s3fs 2026.6 raises OSError(EINVAL) for the 412 of S3
            if self.has(name):
                return False
            raise
        return True

    def remove_leftovers(self) -> None:
        """Remove the temporaries of writers that were killed. A living writer holds a lock on its own."""
        if not self.is_local:
            return
        for folder in (Path(self.root), Path(self.root, PLAN_FOLDER)):
            remove_abandoned(folder)
