"""Lists of recordings: text, JSON lines, CSV, TSV or Parquet, a row a recording."""

from __future__ import annotations

import csv
import io
import json
import math
import posixpath
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from sc_runtime.errors import SettingsError

from .files import explaining, is_remote, open_uri
from .items import Item

PATH_COLUMNS = ("path", "uri", "url", "file", "audio", "audio_filepath", "filename", "file_name", "source")
START_COLUMNS = ("start", "offset")  #: the second is NeMo's
SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv")  #: Parquet lists come from `containers`
COLUMNS = f"a column of paths or URIs: {', '.join(PATH_COLUMNS)}"

Rows = Iterable[tuple[str, dict[str, Any]]]  #: (what an error calls the row, its columns)


def read_list(uri: str) -> list[Item]:
    """The recordings that a .txt, .jsonl, .csv or .tsv list names. Raises SettingsError."""
    with explaining(uri, SettingsError, "a list that can be read"), open_uri(uri) as file:
        try:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="").read()
        except UnicodeDecodeError:
            raise SettingsError(f"{uri}: not UTF-8", "a list in UTF-8") from None
    readers = {".txt": read_lines, ".jsonl": read_json_lines, ".csv": read_csv, ".tsv": read_tsv}
    return list_items(uri, readers[PurePosixPath(uri).suffix.lower()](uri, text))


def split_lines(text: str) -> io.StringIO:
    """The lines, which end with a line feed, a carriage return or both. `str.splitlines` also splits at U+2028."""
    return io.StringIO(text, newline=None)


def read_lines(uri: str, text: str) -> Rows:
    for number, line in enumerate(split_lines(text), 1):
        if line.strip():
            yield f"{uri}, line {number}", {"path": line.strip()}


def read_json_lines(uri: str, text: str) -> Rows:
    for number, line in enumerate(split_lines(text), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise SettingsError(f"{uri}, line {number}: not a JSON object", "one on each line")
        yield f"{uri}, line {number}", row


def read_csv(uri: str, text: str) -> Rows:
    """Strict, as a quote without its end would swallow the rows after it."""
    return read_columns(uri, csv.DictReader(io.StringIO(text, newline=""), strict=True))


def read_tsv(uri: str, text: str) -> Rows:
    """Columns with a tab between them. A quote is a character like others: texts hold single ones."""
    return read_columns(uri, csv.DictReader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE))


def read_columns(uri: str, reader: csv.DictReader[str]) -> Rows:
    try:
        if reader.fieldnames is not None:
            find_column(uri, reader.fieldnames, PATH_COLUMNS)
        for row in reader:
            yield f"{uri}, line {reader.line_num}", row
    except csv.Error as error:
        given = f"{uri}, line {reader.reader.line_num}: {error}"  # the other number is that of the last row
        raise SettingsError(given, "columns of texts", "correct the line, or save the list as .jsonl") from error


def find_column(uri: str, columns: Iterable[str], wanted: Iterable[str]) -> str:
    """The first of `wanted` among `columns`. Raises SettingsError for a list that has none."""
    present = list(columns)
    for name in wanted:
        if name in present:
            return name
    raise SettingsError(f"{uri}: no column of paths (it has {', '.join(map(str, present)) or 'none'})", COLUMNS)


def list_items(uri: str, rows: Rows) -> list[Item]:
    """An item for each row. A relative path is relative to the list's folder. Raises SettingsError."""
    folder = uri.rpartition("/")[0]
    found = list(make_items(folder, rows))
    if not found:
        raise SettingsError(f"{uri}: an empty list", "a recording on each line")
    return found


def make_items(folder: str, rows: Rows) -> Iterator[Item]:
    for where, row in rows:
        given = row.get(find_column(where, row, PATH_COLUMNS))
        path = given.get("path") if isinstance(given, dict) else given  # of a dataset's column without the bytes
        if not isinstance(path, str) or not path:
            raise SettingsError(f"{where}: the path {given!r}", "a path or a URI")
        start = next((read_seconds(where, row, name) for name in START_COLUMNS if name in row), None)
        duration = read_seconds(where, row, "duration")
        if duration == 0:
            raise SettingsError(f"{where}: a duration of 0", "a number of seconds above 0")
        absolute = is_remote(path) or path.startswith("/") or not folder
        name = row.get("id")
        if name is None or name == "":
            name = name_part(drop_suffix(path), start, duration)
        elif not isinstance(name, (str, int)):
            raise SettingsError(f"{where}: the id {name!r}", "a text or a whole number")
        whole = path if absolute else f"{folder}/{path}"
        yield Item(str(name), whole, start=start, duration=duration, seconds=duration)


def read_seconds(where: str, row: dict[str, Any], name: str) -> float | None:
    """The column `name`; None if it is missing or empty. Raises SettingsError for what is no number of seconds."""
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise SettingsError(f"{where}: {name} {value!r}", "a number of seconds, 0 or more")
    return seconds


def drop_suffix(path: str) -> str:
    """`path` without its protocol, the slashes before it and the suffix after it: an id."""
    name = path.partition("://")[2] or path
    return posixpath.splitext(name.lstrip("/"))[0]


def name_part(name: str, start: float | None, duration: float | None) -> str:
    """The id of a part of the recording `name`: "a@12.5+3.0"."""
    if start is None and duration is None:
        return name
    return f"{name}@{start or 0.0}" + ("" if duration is None else f"+{duration}")
