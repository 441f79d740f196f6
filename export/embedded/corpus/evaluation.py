"""Clips for evaluation that are made of whole recordings with pauses between them. Each recording is in one clip."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

from sc_runtime.semanticodec.config import SAMPLE_RATE, SEGMENT_SAMPLES

from .signals import Signal, seconds

PAUSE = 0.35  #: seconds after each recording
CLIP_SECONDS = SEGMENT_SAMPLES / SAMPLE_RATE

Recording = TypeVar("Recording")


def group_recordings(durations: Iterable[tuple[Recording, float]]) -> list[list[Recording]]:
    """Recordings with their durations in seconds -> groups that fill a clip with pauses, in the same order.

    Recordings that are longer than a clip with their pause are left out.
    """
    groups: list[list[Recording]] = [[]]
    filled = 0.0
    for recording, duration in durations:
        needed = duration + PAUSE
        if needed > CLIP_SECONDS:
            continue
        if filled + needed > CLIP_SECONDS:
            groups.append([])
            filled = 0.0
        groups[-1].append(recording)
        filled += needed
    return groups


def choose_group(name: str, groups: Sequence[list[Recording]], index: int) -> list[Recording]:
    """The recordings of clip `index` of the source `name`. Raises IndexError after the last clip."""
    if index >= len(groups):
        raise IndexError(f"{name} has {len(groups)} clips, not {index + 1}")
    return groups[index]


def join_recordings(sounds: Iterable[Signal]) -> Signal:
    """`sounds` one after another, each with a pause behind it, then silence: float32 [163840]."""
    pause = np.zeros(seconds(PAUSE), np.float32)
    parts = [part for sound in sounds for part in (sound, pause)]
    return np.pad(np.concatenate(parts), (0, SEGMENT_SAMPLES))[:SEGMENT_SAMPLES]
