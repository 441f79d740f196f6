"""What came of a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from .rows import name_kind
from .worker import Failure


@dataclass(frozen=True)
class Verification:
    """Rows that were encoded again, alone: how many, and the ids of those whose codes differ."""

    rows: int
    differing: list[str]


@dataclass(frozen=True)
class Outcome:
    """What came of a run over a collection, or over a part of one.

    output: the folder.
    files, seconds: recordings in all, and the length of those with codes; of earlier runs too.
    encoded, encoded_seconds: those that this run encoded, or tried to.
    shards: number of shards, all of which exist.
    failures: the recordings without codes.
    elapsed: seconds that the encoding took, without the planning.
    """

    output: str
    engine: str
    files: int
    seconds: float
    encoded: int
    encoded_seconds: float
    shards: int
    planning: float
    elapsed: float
    failures: list[Failure] = field(default_factory=list)
    verification: Verification | None = None

    @property
    def errors_by_kind(self) -> dict[str, list[Failure]]:
        """The failures of each kind, the most frequent first."""
        return group_failures(self.failures)

    def to_json(self) -> dict[str, Any]:
        kinds = {kind: [asdict(failure) for failure in found] for kind, found in self.errors_by_kind.items()}
        facts = asdict(self)
        del facts["failures"]
        speed = self.encoded_seconds / self.elapsed if self.elapsed else 0.0
        return {**facts, "real_time_factor": speed, "errors": len(self.failures), "errors_by_kind": kinds}


def group_failures(failures: Iterable[Failure]) -> dict[str, list[Failure]]:
    groups: dict[str, list[Failure]] = {}
    for failure in failures:
        groups.setdefault(name_kind(failure.reason), []).append(failure)
    return dict(sorted(groups.items(), key=lambda entry: -len(entry[1])))
