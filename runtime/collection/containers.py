"""Files of many recordings: WebDataset tars, and Parquet with audio bytes as Hugging Face datasets write it."""

from __future__ import annotations

import posixpath
import tarfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from sc_runtime.audio import AUDIO_SUFFIXES
from sc_runtime.errors import SettingsError

from .files import explaining, open_uri
from .items import Item
from .lists import PATH_COLUMNS, drop_suffix, find_column, list_items

if TYPE_CHECKING:
    import pyarrow

TAR_BLOCK = tarfile.BLOCKSIZE
CUT_SHORT = "the tar is cut short, in this member or after it"
HEADER_READ = 1 << 16  #: bytes that are read at a time of a tar in an object store, whose headers alone are needed


def read_tar(uri: str) -> list[Item]:
    """An item for each member of a tar that has the suffix of an audio file. Only the headers are read.

    A tar that was cut short gives its whole members, and an item whose problem says so. Raises SettingsError for a file
    of another kind.
    """
    stem = PurePosixPath(uri).stem
    found: list[Item] = []
    with explaining(uri, SettingsError, "a tar that can be read"), open_uri(uri, block_size=HEADER_READ) as file:
        total = file.seek(0, 2)
        file.seek(0)
        end, last = 0, None
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    end, last = member.offset_data + -(-member.size // TAR_BLOCK) * TAR_BLOCK, member.name
                    name = PurePosixPath(member.name)
                    if not member.isfile() or name.suffix.lower() not in AUDIO_SUFFIXES or name.name.startswith("."):
                        continue
                    if member.offset_data + member.size <= total:
                        item_id = f"{stem}/{drop_suffix(posixpath.normpath(member.name))}"
                        found.append(Item(item_id, uri, member.name, member.offset_data, member.size))
        except tarfile.TarError as error:
            if end == 0:
                remedy = "unpack a compressed tar, or copy one again that was cut short"
                raise SettingsError(f"{uri}: not a tar ({error})", "an uncompressed tar", remedy) from error
        file.seek(min(end, total))
        if file.read(TAR_BLOCK) != bytes(TAR_BLOCK):
            found.append(Item(f"{stem}/(cut short)", uri, last, problem=CUT_SHORT))
    if not found:
        raise SettingsError(f"{uri}: no audio in this tar", f"members in {' '.join(sorted(AUDIO_SUFFIXES))}")
    return found


def read_parquet(uri: str) -> list[Item]:
    """The recordings in a Parquet file with audio bytes, or those that a Parquet list names. Raises SettingsError."""
    import pyarrow
    from pyarrow import parquet

    with explaining(uri, SettingsError, "a Parquet file that can be read"), open_uri(uri) as file:
        try:
            table = parquet.ParquetFile(file)
            column = find_audio_column(table.schema_arrow)
            names = table.schema_arrow.names
            if column is None:
                find_column(uri, names, PATH_COLUMNS)
                rows = table.read([name for name in names if name in LIST_COLUMNS]).to_pylist()
                return list_items(uri, ((f"{uri}, row {number}", row) for number, row in enumerate(rows)))
            count = table.metadata.num_rows
            ids = table.read(["id"])["id"].to_pylist() if "id" in names else [None] * count
        except pyarrow.ArrowInvalid as error:
            raise SettingsError(f"{uri}: not a Parquet file ({error})", "a whole Parquet file") from error
    if not count:
        raise SettingsError(f"{uri}: no rows", "a row a recording")
    stem = PurePosixPath(uri).stem
    return [Item(f"{stem}/{row:08d}" if name is None else str(name), uri, row=row) for row, name in enumerate(ids)]


LIST_COLUMNS = {"id", "start", "offset", "duration", *PATH_COLUMNS}


def find_audio_column(schema: pyarrow.Schema) -> str | None:
    """The column of audio bytes: a struct of bytes and path. None if there is none."""
    import pyarrow

    for field in schema:
        kind = field.type
        if pyarrow.types.is_struct(kind) and {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)}:
            return str(field.name)
    return None


class ParquetAudio:
    """The audio bytes of Parquet files, row by row. The row group read last is kept, as rows come in order."""

    def __init__(self) -> None:
        self._place: tuple[str, int] | None = None
        self._first = 0
        self._rows: Any = None

    def read(self, uri: str, row: int) -> tuple[bytes | None, str | None]:
        """(bytes, path) of a row; either may be None. Raises what the filesystem and pyarrow raise."""
        if not (self._place and self._place[0] == uri and self._first <= row < self._first + len(self._rows)):
            self._load(uri, row)
        value = self._rows[row - self._first].as_py() or {}
        return value.get("bytes"), value.get("path")

    def _load(self, uri: str, row: int) -> None:
        from pyarrow import parquet

        with open_uri(uri) as file:
            table = parquet.ParquetFile(file)
            column = find_audio_column(table.schema_arrow)
            first = 0
            for group in range(table.num_row_groups):
                rows = table.metadata.row_group(group).num_rows
                if row < first + rows and column is not None:
                    self._rows = table.read_row_group(group, [column])[column]
                    self._place, self._first = (uri, group), first
                    return
                first += rows
        raise EOFError(f"no row {row}")
