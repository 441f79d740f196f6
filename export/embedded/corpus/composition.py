"""Tunes, drum patterns and their keys: what is played, apart from the instruments that play it."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from .splits import Split, draw_within, pick

SCALES = {  #: semitones above the key
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "double harmonic": (0, 1, 4, 5, 7, 8, 11),
    "whole tone": (0, 2, 4, 6, 8, 10),
    "pentatonic": (0, 2, 4, 7, 9),
    "minor pentatonic": (0, 3, 5, 7, 10),
    "blues": (0, 3, 5, 6, 7, 10),
}
METRES = (4, 4, 4, 3, 6)  #: beats of a bar; a metre's share is its count in this list
MIDDLE_C = 60  #: MIDI number
REST = -99  #: in place of a degree
DRUMS = {  #: General MIDI keys of each drum of a pattern; a kit has one of them
    "kick": (35, 36),
    "snare": (38, 40, 39),
    "hat": (42, 44, 54, 70),
    "open": (46, 49, 51, 53, 57),
    "tom": (41, 45, 48, 50, 56, 60, 62, 64, 75),
}


@dataclass(frozen=True)
class Tune:
    """A key, a scale, chords and a motif. Tunes are held out by their notation."""

    key: int  #: semitones above C
    scale: str
    progression: tuple[int, ...]  #: the degree of each bar's chord
    motif: tuple[tuple[int, int], ...]  #: (degree or REST, eighths) of the notes of a phrase

    def notation(self) -> str:
        return f"{self.key} {self.scale} {self.progression} {self.motif}"

    def pitch(self, degree: int) -> int:
        """MIDI number of a degree of the scale; degree 0 is the key's note in the octave of middle C."""
        scale = SCALES[self.scale]
        octave, step = divmod(degree, len(scale))
        return MIDDLE_C + self.key + scale[step] + 12 * octave


@dataclass(frozen=True)
class Score:
    """A tune with its metre, its tempo and its length."""

    tune: Tune
    beats: int  #: in a bar
    beat: float  #: seconds
    duration: float  #: seconds to fill

    @property
    def bar(self) -> float:
        """Seconds of a bar."""
        return self.beats * self.beat

    @property
    def bars(self) -> int:
        """Bars that begin within the duration."""
        return int(self.duration / self.bar) + 1

    def chord(self, bar: int) -> tuple[int, ...]:
        """Degrees of the chord of a bar."""
        root = self.tune.progression[bar % len(self.tune.progression)]
        return (root, root + 2, root + 4)


def draw_score(rng: np.random.Generator, split: Split, duration: float) -> Score:
    """A tune of `split` in a tempo of 55 to 175 beats a minute."""
    return Score(draw_tune(rng, split), pick(rng, METRES), 60 / float(rng.uniform(55, 175)), duration)


def draw_tune(rng: np.random.Generator, split: Split) -> Tune:
    """A tune of `split`, whose progression and motif belong to `split` too."""

    def draw_progression() -> tuple[int, ...]:
        first = pick(rng, (0, 0, 0, 5, 3))
        return (first, *(int(degree) for degree in rng.integers(0, 7, pick(rng, (1, 3, 3, 3)))))

    progression = draw_within(split, draw_progression, str)
    motif = draw_within(split, functools.partial(draw_motif, rng), str)
    names = list(SCALES)

    def draw() -> Tune:
        return Tune(int(rng.integers(12)), pick(rng, names), progression, motif)

    return draw_within(split, draw, Tune.notation)


def draw_motif(rng: np.random.Generator) -> tuple[tuple[int, int], ...]:
    """A melody of four to nine notes that mostly moves by steps."""
    degree = int(rng.integers(-2, 8))
    durations = pick(rng, ((1, 1, 2), (1, 2, 2, 4), (2, 2, 4), (1, 1, 1, 2, 3), (1,), (3, 3, 2)))
    notes = []
    for _ in range(int(rng.integers(4, 10))):
        resting = rng.random() < 0.1
        notes.append((REST if resting else degree, int(pick(rng, durations))))
        degree = int(np.clip(degree + pick(rng, (-2, -1, -1, 0, 1, 1, 2, 3, -3, 4, -4)), -5, 12))
    return tuple(notes)


def draw_pattern(rng: np.random.Generator, beats: int) -> dict[str, tuple[int, ...]]:
    """For each drum the sixteenths of a bar on which it is struck."""
    steps = beats * 4
    kick = {0, *(int(step) for step in rng.integers(0, steps // 2, int(rng.integers(1, 4))) * 2)}
    snare = {4 % steps, 12 % steps, *(int(step) for step in rng.integers(0, steps, int(rng.integers(0, 2))))}
    every = pick(rng, (1, 2, 2, 4))
    hat = {step for step in range(0, steps, every) if rng.random() < 0.92}
    opened = {int(step) for step in rng.integers(0, steps, int(rng.integers(0, 3)))}
    tom = {int(step) for step in rng.integers(0, steps, int(rng.integers(0, 3)))}
    drums = {"kick": kick, "snare": snare, "hat": hat - opened, "open": opened, "tom": tom}
    return {drum: tuple(sorted(places)) for drum, places in drums.items()}
