"""A row of a shard: one recording's codes, or why it has none."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sc_runtime.config import CodecConfig
from sc_runtime.registry import find_model
from sc_runtime.tokens import Tokens


@dataclass(frozen=True)
class Row:
    """One recording of a shard.

    codes: int [T, C], or None.
    samples: its length at the codec's rate, or None.
    error: None, or why there are no codes, in one line that does not name the file.
    """

    id: str
    source: str
    codes: np.ndarray | None = None
    samples: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class Counts:
    """What a shard holds, in sum."""

    rows: int
    errors: int
    seconds: float


@dataclass(frozen=True)
class ShardHeader:
    """The metadata of a shard: what its rows do not say.

    codec: codec, tokens a second, sample rate, codebooks in the order of the columns, and the vocabulary of each, as
        `describe_codec` makes them.
    bundle: the bundle's fingerprint.
    version: of sc_runtime that made the plan.
    settings: those of the plan.
    plan: hash of the part of the plan.
    """

    codec: Mapping[str, Any]
    bundle: str
    version: str
    settings: Mapping[str, Any]
    plan: str

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ShardHeader:
        return cls(**json.loads(text))

    @property
    def codebooks(self) -> int:
        """C: columns of codes."""
        return len(self.codec["codebooks"])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned integers that hold every vocabulary."""
        return np.min_scalar_type(max(self.codec["vocabularies"].values()) - 1)

    @property
    def config(self) -> CodecConfig:
        """The codec's settings. Raises SettingsError for a codec that this version does not have."""
        spec = find_model(self.codec["codec"]).spec
        entries = tuple(self.codec["vocabularies"][name] for name in self.codec["codebooks"])
        return spec.config.from_codebook_sizes(self.codec["tps"], entries)


def describe_codec(config: CodecConfig) -> dict[str, Any]:
    """`config` as metadata state it."""
    return {
        "codec": config.codec,
        "tps": config.tps,
        "sample_rate": config.sample_rate,
        "codebooks": list(config.codebook_sizes),
        "vocabularies": config.codebook_sizes,
    }


def hash_codes(codes: np.ndarray | None) -> str | None:
    """SHA-256 of codes [T, C], position by position, as little-endian int32. None of None."""
    return None if codes is None else hashlib.sha256(np.ascontiguousarray(codes, "<i4").tobytes()).hexdigest()


def describe_row(row: Row, header: ShardHeader) -> dict[str, Any]:
    """The columns of `row` but for its codes."""
    has_codes = row.codes is not None and row.samples is not None
    return {
        "id": row.id,
        "source": row.source,
        "positions": len(row.codes) if row.codes is not None else None,
        "samples": row.samples,
        "seconds": row.samples / header.codec["sample_rate"] if has_codes and row.samples else None,
        "sha256": hash_codes(row.codes),
        "error": row.error,
    }


def count_rows(rows: Iterable[Row], header: ShardHeader) -> Counts:
    total = errors = samples = 0
    for row in rows:
        total, errors, samples = total + 1, errors + (row.error is not None), samples + (row.samples or 0)
    return Counts(total, errors, samples / header.codec["sample_rate"])


def make_tokens(row: Row, header: ShardHeader) -> Tokens:
    """The tokens of a row that has codes. Raises TokensError if they are damaged."""
    assert row.codes is not None
    return Tokens(row.codes, header.config, row.samples)


def name_kind(error: str) -> str:
    """What errors of one kind have in common: the text with its numbers left out."""
    return re.sub(r"\d+(\.\d+)?", "…", error)
