"""The formats of shards there are, a line each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol

from .parquet import ParquetShards
from .rows import Counts, Row, ShardHeader
from .webdataset import WebDatasetShards


class ShardFormat(Protocol):
    """Writes and reads the file of a shard. Equal rows and headers give equal bytes."""

    suffix: ClassVar[str]

    def write(self, path: Path, rows: list[Row], header: ShardHeader) -> None: ...

    def read_header(self, file: BinaryIO) -> ShardHeader: ...

    def read_counts(self, file: BinaryIO) -> Counts: ...

    def read_rows(self, file: BinaryIO, with_codes: bool = True) -> Iterator[Row]:
        """The rows in order; without codes, if they are not wanted."""
        ...


FORMATS: dict[str, ShardFormat] = {"parquet": ParquetShards(), "webdataset": WebDatasetShards()}
