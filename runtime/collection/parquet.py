"""Shards of Parquet: zstd, a row a recording, the header and the counts in the file's metadata.

The bytes depend on the rows, the header and the version of pyarrow, and on nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

import numpy as np

from .rows import Counts, Row, ShardHeader, count_rows, describe_row

if TYPE_CHECKING:
    import pyarrow

HEADER, COUNTS = b"sc_runtime", b"sc_runtime.counts"
GROUP_ROWS = 1000  #: rows of a row group


class ParquetShards:
    """Writes and reads shards of Parquet."""

    suffix: ClassVar[str] = ".parquet"

    def write(self, path: Path, rows: list[Row], header: ShardHeader) -> None:
        """Write a shard to `path`. Raises OSError."""
        import pyarrow
        from pyarrow import parquet

        counts = json.dumps(asdict(count_rows(rows, header)), sort_keys=True)
        schema = make_schema(header).with_metadata({HEADER: header.to_json(), COUNTS: counts})
        options: dict[str, Any] = {"compression": "zstd", "compression_level": 3, "version": "2.6"}
        options |= {"use_dictionary": False, "data_page_version": "1.0", "write_statistics": True}
        with parquet.ParquetWriter(path, schema, **options) as writer:
            for first in range(0, len(rows), GROUP_ROWS):
                columns = make_columns(rows[first : first + GROUP_ROWS], header)
                writer.write_table(pyarrow.table(columns, schema), row_group_size=GROUP_ROWS)

    def read_header(self, file: BinaryIO) -> ShardHeader:
        """Raises ValueError for another program's file."""
        from pyarrow import parquet

        metadata = parquet.read_metadata(file).metadata or {}
        if HEADER not in metadata:
            raise ValueError("no metadata of sc_runtime")
        return ShardHeader.from_json(metadata[HEADER].decode())

    def read_counts(self, file: BinaryIO) -> Counts:
        from pyarrow import parquet

        return Counts(**json.loads(parquet.read_metadata(file).metadata[COUNTS]))

    def read_rows(self, file: BinaryIO, with_codes: bool = True) -> Iterator[Row]:
        """The rows of a shard, a row group at a time."""
        from pyarrow import parquet

        shard = parquet.ParquetFile(file)
        books = ShardHeader.from_json(shard.metadata.metadata[HEADER].decode()).codebooks
        columns = ["id", "source", "samples", "error"] + ["codes"] * with_codes
        for group in range(shard.num_row_groups):
            table = shard.read_row_group(group, columns)
            plain = {name: table[name].to_pylist() for name in ("id", "source", "samples", "error")}
            codes = table["codes"].combine_chunks() if with_codes else None
            for number in range(len(table)):
                value = codes[number].values if codes is not None else None
                array = None if value is None else value.to_numpy(zero_copy_only=False).reshape(-1, books)
                yield Row(codes=array, **{name: values[number] for name, values in plain.items()})


def make_schema(header: ShardHeader) -> pyarrow.Schema:
    import pyarrow

    return pyarrow.schema(
        [
            ("id", pyarrow.string()),
            ("source", pyarrow.string()),
            ("codes", pyarrow.list_(pyarrow.from_numpy_dtype(header.dtype))),
            ("positions", pyarrow.int32()),
            ("samples", pyarrow.int64()),
            ("seconds", pyarrow.float64()),
            ("sha256", pyarrow.string()),
            ("error", pyarrow.string()),
        ]
    )


def make_columns(rows: list[Row], header: ShardHeader) -> dict[str, Any]:
    """Column name -> values of `rows`. Codes [T, C] are flattened position by position."""
    import pyarrow

    described = [describe_row(row, header) for row in rows]
    columns: dict[str, Any] = {name: [facts[name] for facts in described] for name in described[0]}
    flat = [np.empty(0, header.dtype) if row.codes is None else row.codes.ravel() for row in rows]
    offsets = np.concatenate([[0], np.cumsum([len(codes) for codes in flat])]).astype(np.int32)
    values = pyarrow.array(np.concatenate(flat).astype(header.dtype, copy=False))
    empty = pyarrow.array([row.codes is None for row in rows])
    codes = pyarrow.ListArray.from_arrays(pyarrow.array(offsets), values, mask=empty)
    return {"id": columns["id"], "source": columns["source"], "codes": codes, **columns}
