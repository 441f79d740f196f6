"""Shards of WebDataset: a tar, and for each recording `KEY.json` and, if it has codes, `KEY.sct`.

The key is the id, in which a dot of the last name is written %2E, as WebDataset ends a key at the first dot. The header
and the counts stand in the tar's global header, so that they are read without the members. No member has a time or an
owner, so that the bytes depend on rows and header alone.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from sc_runtime.tokens import Tokens

from .rows import Counts, Row, ShardHeader, count_rows, describe_row, make_tokens

HEADER, COUNTS = "SC_RUNTIME.header", "SC_RUNTIME.counts"


class WebDatasetShards:
    """Writes and reads shards of WebDataset."""

    suffix: ClassVar[str] = ".tar"

    def write(self, path: Path, rows: list[Row], header: ShardHeader) -> None:
        """Write a shard to `path`. Raises OSError."""
        counts = json.dumps(asdict(count_rows(rows, header)), sort_keys=True)
        metadata = {HEADER: header.to_json(), COUNTS: counts}
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers=metadata) as tar:
            for row in rows:
                key = make_key(row.id)
                add_member(tar, f"{key}.json", json.dumps(describe_row(row, header), sort_keys=True).encode())
                if row.codes is not None:
                    add_member(tar, f"{key}.sct", make_tokens(row, header).to_bytes())

    def read_header(self, file: BinaryIO) -> ShardHeader:
        """Raises ValueError for another program's file."""
        return ShardHeader.from_json(read_metadata(file, HEADER))

    def read_counts(self, file: BinaryIO) -> Counts:
        return Counts(**json.loads(read_metadata(file, COUNTS)))

    def read_rows(self, file: BinaryIO, with_codes: bool = True) -> Iterator[Row]:
        """The rows of a shard, one at a time."""
        for facts, tokens in read_members(file, with_codes):
            codes = None if tokens is None else tokens.codes
            yield Row(facts["id"], facts["source"], codes, facts["samples"], facts["error"])


def read_metadata(file: BinaryIO, name: str) -> str:
    """An entry of the global header. Raises ValueError for another program's file."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        tar.next()
        if name not in tar.pax_headers:
            raise ValueError(f"no {name} in the header of the tar")
        return tar.pax_headers[name]


def make_key(item_id: str) -> str:
    """The key of a recording. Different ids have different keys."""
    folder, slash, name = item_id.replace("%", "%25").rpartition("/")
    return folder + slash + name.replace(".", "%2E")


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))


def read_members(file: BinaryIO, with_tokens: bool) -> Iterator[tuple[dict[str, Any], Tokens | None]]:
    """The JSON of each recording, and its tokens."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        facts: dict[str, Any] | None = None
        for member in tar:
            if member.name.endswith(".json"):
                if facts is not None:
                    yield facts, None
                facts = json.loads(read_member(tar, member))
            elif facts is not None:
                yield facts, Tokens.from_bytes(read_member(tar, member)) if with_tokens else None
                facts = None
        if facts is not None:
            yield facts, None


def read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    data = tar.extractfile(member)
    assert data is not None
    return data.read()
