"""The rule that assigns words, tunes and patterns to training or to the held-out set."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar, get_args

import numpy as np

from sc_runtime.errors import SettingsError

Domain = Literal["speech", "music", "sound"]
Split = Literal["train", "held-out"]
DOMAINS: tuple[Domain, ...] = get_args(Domain)
SPLITS: tuple[Split, ...] = get_args(Split)
HELD_OUT_SHARE = 4  #: one word, tune or pattern in this many is held out
ATTEMPTS = 1000  #: draws before an error

Item = TypeVar("Item")


def split_of(item: str) -> Split:
    """The split of `item`, a word or the notation of a tune. A hash decides, so the answer never changes."""
    return "held-out" if zlib.crc32(item.encode()) % HELD_OUT_SHARE == 0 else "train"


def pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    """One of `items`, all equally likely. Unlike `Generator.choice` it makes no array of them."""
    return items[int(rng.integers(len(items)))]


def draw_within(split: Split, draw: Callable[[], Item], notation: Callable[[Item], str]) -> Item:
    """The first of the items that `draw` makes whose `notation` belongs to `split`."""
    for _ in range(ATTEMPTS):
        item = draw()
        if split_of(notation(item)) == split:
            return item
    raise RuntimeError(f"{ATTEMPTS} draws gave no item of the {split} split")


def check_split(split: str) -> Split:
    """`split` itself. Raises SettingsError when there is no such split."""
    if split not in SPLITS:
        raise SettingsError(f"split {split!r}", " or ".join(SPLITS))
    return split
