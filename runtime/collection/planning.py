"""The plan of a folder: made, found again, or refused because it is another's."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from sc_runtime.errors import OutputError

from .folder import PLAN_FOLDER, OutputFolder
from .items import Item
from .lengths import measure_items
from .plan import Part, Plan, load_plan

ANOTHER = "name another folder, or run the command that began this one"
COLUMNS = tuple(each.name for each in fields(Item))
TYPES = {"start": "float64", "duration": "float64", "seconds": "float64"}
TYPES |= {"offset": "int64", "size": "int64", "row": "int64"}


def agree(folder: OutputFolder, wanted: Plan, sources: Sequence[str], items: list[Item], extend: bool) -> Plan:
    """The plan of `folder`: the one there if it is `wanted` with `items`, else a new one, which is written.

    Arguments:
        wanted: the plan without its parts.
        extend: whether items that the folder's plan lacks become further shards.

    Raises OutputError, naming what differs.
    """
    while True:
        present = load_plan(folder)
        if present is None:
            check_empty(folder)
            plan = add_part(folder, wanted, sources, items)
        else:
            check_same(folder, present, wanted)
            new = compare_items(folder, present, items, extend)
            if not new:
                return present
            plan = add_part(folder, present, sources, new)
        if folder.create(plan.name, plan.to_json()):
            return plan  # else another driver was first: look at what it wrote


def check_empty(folder: OutputFolder) -> None:
    """Raises OutputError for a folder that has shards but no plan."""
    if any(name.startswith("shard-") for name in folder.list_names()) and load_plan(folder) is None:
        raise OutputError(f"{folder.uri}: shards without a plan", "an empty folder, or one of this command", ANOTHER)


def add_part(folder: OutputFolder, plan: Plan, sources: Sequence[str], items: list[Item]) -> Plan:
    """`plan` with a further part, whose items are written. The plan itself is not."""
    import pyarrow
    from pyarrow import parquet

    if plan.settings["shard_hours"] is not None:
        items = measure_items(items)
    sizes = cut(items, plan.settings["shard_files"], plan.settings["shard_hours"])
    rows = {name: [getattr(item, name) for item in items] for name in COLUMNS}
    facts = json.dumps([plan.settings, plan.bundle, sizes, rows], sort_keys=True)
    digest = hashlib.sha256(facts.encode()).hexdigest()
    schema = pyarrow.schema([(name, TYPES.get(name, "string")) for name in COLUMNS])
    table = pyarrow.table(rows, schema)
    data, first = io.BytesIO(), 0
    with parquet.ParquetWriter(data, schema, compression="zstd") as writer:
        for size in sizes:
            writer.write_table(table.slice(first, size), row_group_size=size)
            first += size
    part = Part(f"items-{digest[:16]}.parquet", digest, list(sources), sizes)
    folder.write(f"{PLAN_FOLDER}/{part.file}", data.getvalue())
    return dataclasses.replace(plan, parts=[*plan.parts, part])


def check_same(folder: OutputFolder, present: Plan, wanted: Plan) -> None:
    """Raises OutputError if the settings or the bundle are not those of the folder."""
    differing = [
        f"{name} {present.settings.get(name)}, not {wanted.settings.get(name)}"
        for name in sorted({*present.settings, *wanted.settings})
        if present.settings.get(name) != wanted.settings.get(name)
    ]
    if present.codec != wanted.codec:
        differing.insert(0, f"{describe(present.codec)}, not {describe(wanted.codec)}")
    elif present.bundle != wanted.bundle:
        differing.insert(0, f"the bundle {present.bundle[:12]}…, not {wanted.bundle[:12]}…")
    if differing:
        raise OutputError(f"{folder.uri} was begun with {'; '.join(differing)}", "the same settings", ANOTHER)


def describe(codec: Mapping[str, Any]) -> str:
    books = ", ".join(f"{entries} {name}" for name, entries in codec["vocabularies"].items())
    return f"{codec['codec']} at {codec['tps']} tokens a second ({books})"


def compare_items(folder: OutputFolder, plan: Plan, items: list[Item], extend: bool) -> list[Item]:
    """Those of `items` that the plan lacks. Raises OutputError for a difference that `extend` does not allow."""
    names = [name for name in COLUMNS if name not in ("seconds", "problem")]
    planned = {row[0]: row for row in zip(*plan.read_columns(folder, names), strict=True)}
    given = {item.id: tuple(getattr(item, name) for name in names) for item in items}
    new = [item for item in items if item.id not in planned]
    changed = [name for name, row in given.items() if name in planned and planned[name] != row]
    missing = [name for name in planned if name not in given]
    problems = []
    if changed:
        problems.append(f"{len(changed)} elsewhere ({list_some(changed)})")
    if not extend:
        if new:
            problems.append(f"{len(new)} new ({list_some([item.id for item in new])})")
        if missing:
            problems.append(f"{len(missing)} missing ({list_some(missing)})")
    if problems:
        given_text = f"{folder.uri} was begun with other recordings: {', '.join(problems)}"
        remedy = "--extend adds new ones; for other sources name another folder"
        raise OutputError(given_text, "the same sources", remedy)
    return new


def list_some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def cut(items: list[Item], files: int | None, hours: float | None) -> list[int]:
    """The number of items of each shard: `files`, or as many as first reach `hours` of sound."""
    if files is not None:
        return [min(files, len(items) - first) for first in range(0, len(items), files)]
    assert hours is not None
    sizes, seconds, count = [], 0.0, 0
    for item in items:
        seconds, count = seconds + (item.seconds or 0.0), count + 1
        if seconds >= 3600 * hours:
            sizes.append(count)
            seconds, count = 0.0, 0
    return [*sizes, count] if count else sizes
