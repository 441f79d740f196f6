"""What is to be done, decided before anything runs: items, sorted and cut into shards, on disk beside the shards.

`.plan/plan.json` holds the settings and the first part: the size of each shard, and the name of the file of its items,
which is Parquet, a row group a shard. Every `extend` writes a longer plan, with a further part: `plan-000001.json` and
so on, of which the last one counts. No plan is ever written over: of two drivers that write one number, the first wins
and the other looks again. So a shard never changes its number or its items.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from sc_runtime.bundle.manifest import Manifest
from sc_runtime.errors import OutputError

from .folder import PLAN_FOLDER, OutputFolder
from .items import Item

PLAN_NAME = re.compile(r"plan(-\d{6})?\.json")
FORMAT = 1


@dataclass(frozen=True)
class Part:
    """Shards that were planned together.

    file: of the items.
    hash: SHA-256 of settings, bundle and items.
    counts: number of items of each shard.
    """

    file: str
    hash: str
    sources: list[str]
    counts: list[int]


@dataclass(frozen=True)
class Plan:
    """All shards of an output folder.

    settings: what the tokens, the cutting and the files depend on, by the names of the command's options.
    codec: codec, tokens a second, sample rate and vocabularies, as the metadata of a shard states them.
    bundle: the fingerprint of the bundle.
    version: of sc_runtime that made the plan.
    """

    settings: dict[str, Any]
    codec: dict[str, Any]
    bundle: str
    version: str
    parts: list[Part] = field(default_factory=list)
    format: int = FORMAT

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Plan:
        """Raises ValueError, KeyError or TypeError for what is no plan of this format."""
        raw = json.loads(data)
        if raw["format"] != FORMAT:
            raise ValueError(f"a plan of format {raw['format']}, this version reads {FORMAT}")
        return cls(**{**raw, "parts": [Part(**part) for part in raw["parts"]]})

    @cached_property
    def shards(self) -> list[tuple[Part, int]]:
        """By number: the part, and the row group there."""
        return [(part, group) for part in self.parts for group in range(len(part.counts))]

    @property
    def name(self) -> str:
        """The name of its file."""
        return name_plan(len(self.parts))

    def name_shard(self, number: int, suffix: str) -> str:
        return f"shard-{number:06d}{suffix}"

    def read_items(self, folder: OutputFolder, number: int) -> list[Item]:
        """The items of a shard. Raises OutputError."""
        from pyarrow import parquet

        part, group = self.shards[number]
        with folder.open(f"{PLAN_FOLDER}/{part.file}") as file:
            rows = parquet.ParquetFile(file).read_row_group(group).to_pylist()
        return [Item(**row) for row in rows]

    def read_columns(self, folder: OutputFolder, columns: list[str]) -> list[list[Any]]:
        """Columns of every item, a list for each of `columns`. Raises OutputError."""
        from pyarrow import parquet

        found: list[list[Any]] = [[] for _ in columns]
        for part in self.parts:
            with folder.open(f"{PLAN_FOLDER}/{part.file}") as file:
                table = parquet.read_table(file, columns=columns)
            for values, name in zip(found, columns, strict=True):
                values += table[name].to_pylist()
        return found


def fingerprint(manifest: Manifest) -> str:
    """SHA-256 of what a bundle computes with: codec, settings, precision, and the hash of every file."""
    files = {name: entry.sha256 for name, entry in manifest.files.items()}
    facts = [manifest.codec, manifest.settings, list(manifest.vocabularies), manifest.precision, files]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def name_plan(parts: int) -> str:
    """The file of the plan of so many parts."""
    return f"{PLAN_FOLDER}/plan.json" if parts == 1 else f"{PLAN_FOLDER}/plan-{parts - 1:06d}.json"


def load_plan(folder: OutputFolder) -> Plan | None:
    """The last plan in `folder`; None if there is none. Raises OutputError if it cannot be read."""
    count = sum(bool(PLAN_NAME.fullmatch(name)) for name in folder.list_names(PLAN_FOLDER))
    if count == 0:
        return None
    name = name_plan(count)
    try:
        plan = Plan.from_json(folder.read(name))
        if len(plan.parts) != count:
            raise ValueError(f"{len(plan.parts)} parts")
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        given = f"{folder.locate(name)}: {type(error).__name__} {error}"
        remedy = "it was removed, damaged, or made by another version: name another folder"
        raise OutputError(given, f"a plan of format {FORMAT}", remedy) from error
    return plan
