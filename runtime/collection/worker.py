"""The work on shards, which every engine does alike: items to codes, codes to a file that appears whole."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from sc_runtime.codec import Codec
from sc_runtime.encoding import encode_recordings
from sc_runtime.errors import AudioError, AudioWarning, BundleError, OutputError
from sc_runtime.model import WindowPlan
from sc_runtime.spec import EncodeOptions

from .fetch import Fetcher
from .folder import OutputFolder
from .formats import FORMATS
from .items import Item
from .plan import fingerprint, load_plan
from .read_ahead import ReadAhead
from .rows import Counts, Row, ShardHeader, count_rows

READ_THREADS = 8  #: they wait for disks and object stores, more than they compute

ShowRow = Callable[[Row, float], None]  #: called with a row that was encoded, and its length in seconds


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker needs besides the plan, which it reads in the output folder.

    threads: CPU threads of the networks. None uses all.
    batch: windows that run together. None uses what suits the backend.
    retry_errors: whether the rows that failed are encoded again, of shards that exist.
    """

    output: str
    bundle: str
    backend: str = "auto"
    threads: int | None = None
    precision: str = "auto"
    batch: int | None = None
    retry_errors: bool = False


@dataclass(frozen=True)
class Failure:
    """A recording without codes, and why."""

    id: str
    source: str
    reason: str


@dataclass(frozen=True)
class ShardReport:
    """What became of a shard.

    rows, seconds: recordings of the whole shard; the length of those with codes.
    encoded: recordings that this run encoded, or tried to; their length in seconds.
    """

    number: int
    rows: int
    seconds: float
    encoded: int
    encoded_seconds: float
    failures: list[Failure] = field(default_factory=list)

    @property
    def counts(self) -> Counts:
        return Counts(self.rows, len(self.failures), self.seconds)


class Shard:
    """A shard in work: the rows so far. `kept` are those of an earlier run, by place."""

    def __init__(self, number: int, items: list[Item], kept: dict[int, Row]) -> None:
        self.number, self.items, self.kept = number, items, kept
        self.pending = deque(item for place, item in enumerate(items) if place not in kept)
        self.todo = list(self.pending)
        self.found: list[Row] = []

    @property
    def rows(self) -> list[Row]:
        """Every row in order, when none is pending."""
        found = iter(self.found)
        return [self.kept[place] if place in self.kept else next(found) for place in range(len(self.items))]


class Worker:
    """One codec that encodes shards. Raises BundleError if its bundle is not that of the plan."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.folder = OutputFolder(settings.output)
        plan = load_plan(self.folder)
        if plan is None:
            raise OutputError(f"{self.folder.uri}: no plan", "the folder of a collection")
        self.plan = plan
        chosen = plan.settings
        self.codec = Codec.load(
            settings.bundle, backend=settings.backend, threads=settings.threads, precision=settings.precision
        )
        if fingerprint(self.codec.bundle.manifest) != plan.bundle:
            given = f"the bundle {self.codec.bundle.path}"
            raise BundleError(given, f"the bundle {plan.bundle[:12]}… of the plan", "put the same one on every machine")
        self.options = EncodeOptions(chosen["domain"])
        self.config = self.codec.check_encoding(chosen["vocab"], self.options)
        self.batch = self.codec.choose_batch(settings.batch)
        self.format = FORMATS[chosen["format"]]
        self.fetcher = Fetcher(self.config.sample_rate, self.codec.model.spec.mono)
        self.dtype = self.header_of(0).dtype

    def run(self, numbers: Iterable[int], show: ShowRow | None = None) -> Iterator[ShardReport]:
        """Encode shards, which are committed in turn, and report each.

        A batch may hold windows of several shards. A shard that exists is left as it is, unless errors are retried.
        """
        shards: deque[Shard] = deque()

        def list_items() -> Iterator[Item]:
            for number in numbers:
                shard = self.begin(number)
                shards.append(shard)
                yield from shard.todo

        ahead = ReadAhead(self.open_plan, READ_THREADS, 2 * max(self.batch, READ_THREADS), max(self.batch, 2))
        with ahead, warnings.catch_warnings():
            warnings.simplefilter("ignore", AudioWarning)  # a row has no place for them
            openings = ahead.openings(list_items())
            found = encode_recordings(self.codec.model, openings, self.config, self.options, self.batch)
            for result in found:
                yield from self.finish_ready(shards)  # those without anything to encode
                shard = shards[0]
                row = self.make_row(shard.pending.popleft(), result)
                shard.found.append(row)
                if show:
                    show(row, (row.samples or 0) / self.config.sample_rate)
                yield from self.finish_ready(shards)
        yield from self.finish_ready(shards)

    @contextmanager
    def open_plan(self, item: Item) -> Iterator[WindowPlan]:
        with self.fetcher.open(item) as audio:
            yield self.codec.model.plan_windows(audio, self.config)

    def begin(self, number: int) -> Shard:
        """The shard, with the rows that are there already and stay."""
        items = self.plan.read_items(self.folder, number)
        name = self.plan.name_shard(number, self.format.suffix)
        if not self.folder.has(name):
            return Shard(number, items, {})
        again = self.settings.retry_errors
        with self.folder.open(name) as file:
            rows = list(self.format.read_rows(file, with_codes=again))
        return Shard(number, items, {place: row for place, row in enumerate(rows) if not (again and row.error)})

    def make_row(self, item: Item, result: tuple[np.ndarray, int] | AudioError) -> Row:
        if isinstance(result, AudioError):
            return Row(item.id, item.source, error=" ".join(result.given.split()))
        codes, samples = result
        return Row(item.id, item.source, codes.astype(self.dtype), samples)

    def finish_ready(self, shards: deque[Shard]) -> Iterator[ShardReport]:
        """Commit the first shards as far as none of their items is pending."""
        while shards and not shards[0].pending:
            yield self.finish(shards.popleft())

    def finish(self, shard: Shard) -> ShardReport:
        header, rows = self.header_of(shard.number), shard.rows
        if shard.found:
            with self.folder.replacing(self.plan.name_shard(shard.number, self.format.suffix)) as path:
                self.format.write(path, rows, header)
        counts = count_rows(rows, header)
        return ShardReport(
            shard.number,
            counts.rows,
            counts.seconds,
            len(shard.found),
            count_rows(shard.found, header).seconds,
            [Failure(row.id, row.source, row.error) for row in rows if row.error is not None],
        )

    def header_of(self, number: int) -> ShardHeader:
        part, _ = self.plan.shards[number]
        return ShardHeader(self.plan.codec, self.plan.bundle, self.plan.version, self.plan.settings, part.hash)
