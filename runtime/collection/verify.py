"""The certificate that tokens do not depend on their neighbours: random rows are encoded again, alone."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from functools import partial

from sc_runtime.encoding import encode_recordings
from sc_runtime.errors import AudioError

from .items import Item
from .outcome import Verification
from .rows import Row, hash_codes
from .worker import Worker


def verify_rows(worker: Worker, encoded: Mapping[int, int], count: int, seed: int | None = None) -> Verification:
    """Encode `count` random rows again, one window at a time, and compare the hashes of their codes.

    Arguments:
        encoded: number of a shard -> how many of its rows have codes.
        seed: of the choice. None chooses others each time.
    """
    generator = random.Random(seed)
    places = [number for number, rows in encoded.items() for _ in range(rows)]
    rows, differing = 0, []
    for number, wanted in sorted(Counter(generator.sample(places, min(count, len(places)))).items()):
        for item, row in generator.sample(read_encoded(worker, number), wanted):
            rows += 1
            if encode_alone(worker, item) != hash_codes(row.codes):
                differing.append(row.id)
    return Verification(rows, differing)


def read_encoded(worker: Worker, number: int) -> list[tuple[Item, Row]]:
    """The rows of a shard that have codes, each with its item."""
    items = worker.plan.read_items(worker.folder, number)
    with worker.folder.open(worker.plan.name_shard(number, worker.format.suffix)) as file:
        return [(item, row) for item, row in zip(items, worker.format.read_rows(file), strict=True) if not row.error]


def encode_alone(worker: Worker, item: Item) -> str | None:
    """The hash of the codes of `item`, encoded window by window; None if it cannot be encoded any more."""
    openings = [partial(worker.open_plan, item)]
    found = next(encode_recordings(worker.codec.model, openings, worker.config, worker.options, batch=1))
    return None if isinstance(found, AudioError) else hash_codes(found[0])
