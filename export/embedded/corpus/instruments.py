"""The instruments of General MIDI that the corpus uses, with the registers in which they are played."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .splits import Split, pick


@dataclass(frozen=True)
class Instrument:
    """A program of General MIDI (0 to 127) and its lowest and highest note as MIDI numbers."""

    program: int
    low: int
    high: int

    def fold(self, pitch: int) -> int:
        """`pitch`, moved by octaves into the register."""
        while pitch < self.low:
            pitch += 12
        while pitch > self.high:
            pitch -= 12
        return pitch


#: By families of General MIDI: (first program, lowest and highest note of each program that is used). Every note of a
#: register sounds in fluid-soundfont-gm 3.1 (2026-11-26).
FAMILIES: dict[str, tuple[int, tuple[tuple[int, int], ...]]] = {
    "piano": (0, ((28, 103), (28, 103), (28, 96), (33, 96), (33, 96), (33, 96), (36, 84), (36, 84))),
    "mallets": (8, ((60, 103), (72, 103), (60, 96), (53, 89), (48, 96), (60, 96), (60, 79), (57, 86))),
    "organ": (16, ((36, 96), (36, 96), (36, 96), (36, 96), (36, 96), (48, 88), (55, 91), (48, 88))),
    "guitar": (24, ((40, 79), (40, 81), (40, 84), (40, 84), (40, 79), (40, 84), (40, 84), (52, 82))),
    "bass": (32, ((28, 55), (28, 55), (28, 55), (28, 55), (28, 55), (28, 55), (28, 55), (28, 55))),
    "strings": (40, ((55, 92), (48, 86), (36, 74), (28, 57), (40, 91), (40, 91), (28, 96), (41, 57))),
    "ensemble": (48, ((36, 91), (36, 91), (36, 91), (36, 91), (43, 79), (43, 79), (43, 79), (43, 84))),
    "brass": (56, ((54, 84), (40, 72), (28, 58), (54, 84), (41, 75), (41, 84), (41, 84), (41, 84))),
    "reed": (64, ((56, 87), (49, 80), (44, 75), (37, 68), (58, 89), (52, 79), (34, 70), (50, 89))),
    "pipe": (72, ((74, 103), (60, 96), (60, 96), (60, 91), (57, 86), (60, 86), (67, 96), (60, 84))),
    "lead": (80, ((40, 91), (40, 91), (48, 91), (48, 91), (36, 84), (48, 84), (40, 84), (36, 84))),
    "pad": (88, ((40, 88), (40, 84), (40, 88), (48, 84), (40, 84), (40, 84), (40, 84), (40, 84))),
    "world": (104, ((48, 79), (48, 84), (50, 81), (48, 84), (53, 89), (57, 77), (55, 91), (55, 86))),
}
INSTRUMENTS = {
    Instrument(first + number, low, high): family
    for family, (first, registers) in FAMILIES.items()
    for number, (low, high) in enumerate(registers)
}
HELD_OUT_PROGRAMS = (11, 71)  #: vibraphone and clarinet
#: Programs that sustain one note at its pitch, so that a melody's pitch can be measured.
SINGING_FAMILIES = ("strings", "brass", "reed", "pipe")
NOT_SINGING = (44, 45, 46, 47, 61, 62, 63, 77, 78)  #: tremolo, plucked, timpani, sections; breath and whistles


def instruments_of(split: Split) -> list[Instrument]:
    """The instruments of a split. The held-out split also has the instruments of training, for its own tunes."""
    return [one for one in INSTRUMENTS if split == "held-out" or one.program not in HELD_OUT_PROGRAMS]


def draw_instrument(rng: np.random.Generator, split: Split) -> Instrument:
    """An instrument of `split` other than a bass; half of the held-out ones are never trained on."""
    unheard = split == "held-out" and rng.random() < 0.5
    candidates = [
        one
        for one in instruments_of(split)
        if INSTRUMENTS[one] != "bass" and (one.program in HELD_OUT_PROGRAMS) == unheard
    ]
    return pick(rng, candidates)


def draw_bass(rng: np.random.Generator) -> Instrument:
    return pick(rng, [one for one, family in INSTRUMENTS.items() if family == "bass"])


def list_singing() -> list[Instrument]:
    """Every instrument that sustains a single note."""
    return [one for one, family in INSTRUMENTS.items() if family in SINGING_FAMILIES and one.program not in NOT_SINGING]
