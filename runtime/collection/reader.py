"""The tokens of a collection that was encoded, in Python."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import PurePosixPath

from sc_runtime.errors import TokensError
from sc_runtime.tokens import Tokens

from .files import explaining, join_uri, open_uri, split_uri
from .formats import FORMATS
from .rows import make_tokens

READABLE = "a shard, or a folder of shards"


def read_collection(path: str | os.PathLike[str]) -> Iterator[tuple[str, Tokens]]:
    """The id and the tokens of each recording of a folder of shards, or of one shard, in order.

    `path` is a path, or a URI that fsspec opens. Recordings without codes are left out. A row group is held in memory.
    Raises TokensError for another file, or a damaged one.
    """
    uri = os.fspath(path)
    with explaining(uri, TokensError, READABLE):
        filesystem, root = split_uri(uri)
        if filesystem.isdir(root):
            names = sorted(name for name in filesystem.ls(root, detail=False) if is_shard(name))
        else:
            filesystem.info(root)  # raises FileNotFoundError
            names = [root]
        if not names:
            raise TokensError(f"{uri}: no shards in this folder", READABLE)
    for name in names:
        yield from read_shard(join_uri(filesystem, name))


def read_shard(uri: str) -> Iterator[tuple[str, Tokens]]:
    """`read_collection` of one file."""
    format = next((format for format in FORMATS.values() if uri.endswith(format.suffix)), None)
    if format is None:
        raise TokensError(f"{uri}: no shard", READABLE)
    with explaining(uri, TokensError, READABLE), open_uri(uri) as file:
        header = format.read_header(file)
        file.seek(0)
        for row in format.read_rows(file):
            if row.codes is not None:
                yield row.id, make_tokens(row, header)


def is_shard(name: str) -> bool:
    path = PurePosixPath(name)
    return path.name.startswith("shard-") and any(path.suffix == format.suffix for format in FORMATS.values())
