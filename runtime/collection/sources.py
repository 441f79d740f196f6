"""From what the user names to the recordings there are."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from sc_runtime.audio import AUDIO_SUFFIXES, find_audio
from sc_runtime.errors import AudioError, SettingsError

from . import lists
from .containers import read_parquet, read_tar
from .files import explaining, is_object_store, join_uri, split_uri
from .items import Item
from .lists import drop_suffix, read_list

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

EXPECTED = "a file, a folder, a pattern or a list that can be read"
PACKED_SUFFIXES = (".tar", ".parquet", ".tgz", ".gz", ".zst", *lists.SUFFIXES)


def find_items(sources: Iterable[str]) -> list[Item]:
    """Every recording of `sources`, sorted by id.

    A source is a path, or a URI that fsspec opens: of an audio file; of a folder, with the folders in it; a pattern of
    `*`, `?` and `[]`; a list (.txt, .jsonl, .csv, .tsv, .parquet); a tar; or a Parquet file with audio bytes.

    The id of a file is its path in the folder, without the suffix. A list states ids, or has paths. In a tar it is the
    names of tar and member, in a Parquet file the column `id`, or the names of file and row.

    Raises AudioError or SettingsError for a source that is missing, empty or damaged, and for two items of one id.
    """
    found: list[Item] = []
    for source in sources:
        if not source:
            raise SettingsError("a source without a name", EXPECTED)
        with explaining(source, AudioError, EXPECTED):
            found += find_source(source)
    found.sort(key=lambda item: (item.id, item.source))
    for item, after in itertools.pairwise(found):
        if item.id == after.id:
            given = f"two recordings of the id {item.id!r}: {item.source} and {after.source}"
            raise SettingsError(given, "one id for each", "name each once, or give ids in a list")
    if not found:
        raise SettingsError("no sources", EXPECTED)
    return found


def find_source(source: str) -> list[Item]:
    """The recordings of one source. Raises CodecError, and what the filesystem raises."""
    filesystem, path = split_uri(source)
    if filesystem.isfile(path):
        return read_source(join_uri(filesystem, path), PurePosixPath(path).name)
    if filesystem.isdir(path):
        return scan_folder(filesystem, path)
    if any(letter in path for letter in "*?["):
        return scan_pattern(filesystem, path, source)
    filesystem.info(path)  # raises why it is neither: FileNotFoundError, PermissionError
    raise FileNotFoundError(source)


def read_source(uri: str, name: str) -> list[Item]:
    """The recordings of one file; `name` becomes the id of an audio file, without its suffix."""
    suffix = PurePosixPath(uri).suffix.lower()
    if suffix in lists.SUFFIXES:
        return read_list(uri)
    if suffix == ".parquet":
        return read_parquet(uri)
    if suffix in PACKED_SUFFIXES:
        return read_tar(uri)
    return [Item(drop_suffix(name), uri)]


def scan_folder(filesystem: AbstractFileSystem, folder: str) -> list[Item]:
    """The audio files in `folder` and the folders in it, by suffix. Hidden files and folders are left out."""
    root, uri = folder.rstrip("/") + "/", join_uri(filesystem, folder).rstrip("/")
    remedy = f"name tars, Parquet files and lists themselves, by a pattern: '{uri}/*.tar'"
    if not is_object_store(filesystem):
        try:
            paths = list(map(str, find_audio(folder)))
        except AudioError as error:
            raise AudioError(error.given, error.expected, error.remedy or remedy) from error
    else:
        paths = [path for path in filesystem.find(folder) if is_audio(path.removeprefix(root))]
        if not paths:
            expected = f"files in {' '.join(sorted(AUDIO_SUFFIXES))}"
            raise AudioError(f"{uri}: no audio in this folder", expected, remedy)
    return [Item(drop_suffix(path.removeprefix(root)), join_uri(filesystem, path)) for path in paths]


def scan_pattern(filesystem: AbstractFileSystem, pattern: str, source: str) -> list[Item]:
    """The files that match; if there are none, those in the folders that match."""
    root = pattern[: min(pattern.index(letter) for letter in "*?[" if letter in pattern)].rpartition("/")[0] + "/"
    matches = filesystem.glob(pattern, detail=True)
    files = [
        path for path, facts in matches.items() if facts["type"] == "file" and not is_hidden(path.removeprefix(root))
    ]
    if files:
        return [item for path in files for item in read_source(join_uri(filesystem, path), path.removeprefix(root))]
    folders = [path for path, facts in matches.items() if facts["type"] == "directory"]
    if not folders:
        raise AudioError(f"{source}: no file matches", EXPECTED)
    return [
        Item(f"{folder.removeprefix(root)}/{item.id}", item.uri)
        for folder in folders
        for item in scan_folder(filesystem, folder)
    ]


def is_audio(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in AUDIO_SUFFIXES and not is_hidden(path)


def is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(path).parts)
