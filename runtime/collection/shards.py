"""The shards of a folder that exist."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from .containers import HEADER_READ
from .folder import OutputFolder
from .formats import FORMATS
from .plan import Plan
from .rows import Counts
from .worker import Failure, ShardReport

THREADS = 16  #: that read metadata: they wait for disks and object stores


class Shards:
    """The shards `numbers` of a plan."""

    def __init__(self, folder: OutputFolder, plan: Plan, numbers: Sequence[int]) -> None:
        self.folder, self.plan, self.numbers = folder, plan, numbers
        self.format = FORMATS[plan.settings["format"]]

    def name(self, number: int) -> str:
        return self.plan.name_shard(number, self.format.suffix)

    def count(self) -> dict[int, Counts]:
        """What each of the shards that exist holds."""
        names = self.folder.list_names()
        present = [number for number in self.numbers if self.name(number) in names]
        with ThreadPoolExecutor(THREADS) as pool:
            return dict(zip(present, pool.map(self.read_counts, present), strict=True))

    def read_counts(self, number: int) -> Counts:
        with self.folder.open(self.name(number), block_size=HEADER_READ) as file:
            return self.format.read_counts(file)

    def measure(self) -> tuple[int, float | None]:
        """Number of recordings, and their length in seconds: None if one is not known, or not all shards are meant."""
        files = sum(part.counts[group] for part, group in (self.plan.shards[number] for number in self.numbers))
        if len(self.numbers) < len(self.plan.shards):
            return files, None
        (seconds,) = self.plan.read_columns(self.folder, ["seconds"])
        return files, None if None in seconds else sum(seconds)

    def list_failures(self, counts: Mapping[int, Counts], reports: Mapping[int, ShardReport]) -> Iterator[Failure]:
        """The recordings without codes, shard after shard; `reports` are those of this run."""
        for number, each in sorted(counts.items()):
            if number in reports:
                yield from reports[number].failures
            elif each.errors:
                with self.folder.open(self.name(number)) as file:
                    for row in self.format.read_rows(file, with_codes=False):
                        if row.error is not None:
                            yield Failure(row.id, row.source, row.error)
