"""Synthesised music: instruments, tunes over chord progressions, and drums."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sc_runtime.semanticodec.config import SAMPLE_RATE

from .signals import NYQUIST, Signal, band, band_noise, clock, decay, filter_curve, place, ring, seconds, sine, swell
from .splits import Split, draw_within, pick

TABLE = 2048  #: samples of one period in a wavetable
HARMONICS = 48  #: at most; fewer where they would pass half the sample rate

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
METRES = (4, 4, 4, 3, 6)  #: beats in a bar, as often as they stand here

#: An instrument plays a note of a frequency in Hz, a duration in s and a loudness from 0 to 1.
Play = Callable[[float, float, float], Signal]
Rate = npt.NDArray[np.float64]  #: of something at every harmonic


@dataclass(frozen=True)
class Tune:
    """What is played, apart from who plays it: the unit that is held out."""

    key: int  #: semitones above C
    scale: str
    progression: tuple[int, ...]  #: the degree of each bar's chord
    motif: tuple[tuple[int, int], ...]  #: (degree, eighths) of the notes of a phrase; degree -99 is a rest

    def notation(self) -> str:
        return f"{self.key} {self.scale} {self.progression} {self.motif}"

    def pitch(self, degree: int) -> float:
        """Frequency in Hz of a degree of the scale, 0 being the key's note in the octave of middle C."""
        scale = SCALES[self.scale]
        octave, step = divmod(degree, len(scale))
        return float(261.63 * 2 ** ((self.key + scale[step]) / 12 + octave))


REST = -99


def draw_tune(rng: np.random.Generator, split: Split) -> Tune:
    """A tune whose notation, its progression and its motif each belong to `split`."""

    def draw_progression() -> tuple[int, ...]:
        return tuple(
            int(degree) for degree in (pick(rng, (0, 0, 0, 5, 3)), *rng.integers(0, 7, pick(rng, (1, 3, 3, 3))))
        )

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


def play_table(
    frequency: float | Signal, length: int, spectra: Sequence[Rate], knots: Sequence[float], phases: Rate
) -> Signal:
    """A harmonic tone whose spectrum goes through `spectra`, reached at `knots` seconds.

    Each of `spectra` holds amplitudes of the harmonics from the first on, and `phases` their phases, rad.
    """
    top = frequency if isinstance(frequency, float) else float(frequency.max())
    count = max(1, min(len(phases), int(NYQUIST * 0.95 / top)))
    bins = np.zeros((len(spectra), TABLE // 2 + 1), np.complex128)
    bins[:, 1 : count + 1] = np.array([spectrum[:count] for spectrum in spectra]) * np.exp(1j * phases[:count])
    tables = (np.fft.irfft(bins, TABLE, axis=1) * (TABLE / 2)).astype(np.float32).ravel()
    if isinstance(frequency, float):
        cycles = np.arange(length) * (frequency / SAMPLE_RATE)
    else:
        cycles = np.cumsum(frequency, dtype=np.float64) / SAMPLE_RATE
    phase = ((cycles * TABLE).astype(np.int64) & (TABLE - 1)).astype(np.int32)
    if len(spectra) == 1:
        return tables[phase]
    place_in = np.interp(clock(length), knots, np.arange(len(spectra))).astype(np.float32)
    left = np.minimum(place_in.astype(np.int32), len(spectra) - 2)
    part = (place_in - left).astype(np.float32)
    low = left * TABLE + phase
    return tables[low] * (1 - part) + tables[low + TABLE] * part


def number_harmonics() -> Rate:
    return np.arange(1, HARMONICS + 1, dtype=np.float64)


def draw_phases(rng: np.random.Generator) -> Rate:
    return rng.uniform(0, 2 * np.pi, HARMONICS)


def bend(rng: np.random.Generator, frequency: float, length: int, depth: float, rate: float) -> Signal:
    """A frequency for every sample: vibrato of `depth` (a share of the frequency) that sets in after a moment."""
    time = clock(length)
    onset = np.minimum(1, time / np.float32(0.3 + 0.2 * rng.random()))
    vibrato = np.sin(np.float32(2 * np.pi * rate) * time + np.float32(rng.uniform(0, 6.28)))
    return np.float32(frequency) * (1 + np.float32(depth) * onset * vibrato)


# Instruments. Each function draws one instrument of its kind and returns how that one plays a note.


def make_plucked(rng: np.random.Generator) -> Play:
    """Guitar, harp, lute: a string plucked at a place, its upper harmonics fading first."""
    n = number_harmonics()
    where, bright, lasting = rng.uniform(0.08, 0.4), rng.uniform(0.8, 1.8), rng.uniform(1.0, 4.0)
    start, phases = np.abs(np.sin(np.pi * n * where)) / n**bright, draw_phases(rng)

    def play(frequency: float, duration: float, loudness: float) -> Signal:
        fall = lasting * (220 / frequency) ** 0.5
        length = seconds(min(duration + 0.3, fall))
        knots = np.array([0, 0.03, 0.1, 0.25, 0.6, 1.2, 2.5])
        spectra = [start * np.exp(-6.9 * t / fall * (1 + 0.15 * n**1.3)) for t in knots]
        return play_table(frequency, length, spectra, list(knots), phases) * decay(length, 50.0, 0.002)

    return play


def make_organ(rng: np.random.Generator) -> Play:
    """Drawbars: some harmonics at a constant level."""
    spectrum = np.zeros(HARMONICS)
    drawbars = np.array([1, 2, 3, 4, 5, 6, 8, 10, 12]) - 1
    spectrum[drawbars] = rng.uniform(0, 1, len(drawbars)) ** 2 / np.sqrt(drawbars + 1)
    spectrum[0] = max(spectrum[0], 0.5)
    phases, attack = draw_phases(rng), rng.uniform(0.005, 0.06)
    tremble, speed = rng.uniform(0, 0.3), rng.uniform(4, 7)

    def play(frequency: float, duration: float, loudness: float) -> Signal:
        length = seconds(duration + 0.08)
        tremolo = 1 - np.float32(tremble) * (0.5 + 0.5 * sine(speed, length))
        return play_table(frequency, length, [spectrum], [0.0], phases) * swell(length, attack, 0.08) * tremolo

    return play


def make_flute(rng: np.random.Generator) -> Play:
    """Flute, recorder, whistle: few harmonics, breath, vibrato."""
    n = number_harmonics()
    phases, breath, depth = draw_phases(rng), rng.uniform(0.02, 0.2), rng.uniform(0.001, 0.008)
    steep, rate = rng.uniform(1.8, 3.2), rng.uniform(4, 6.5)
    noise = band_noise(rng, seconds(4), 400, 6000, 1)

    def play(frequency: float, duration: float, loudness: float) -> Signal:
        length = min(seconds(duration + 0.05), len(noise))
        tone = play_table(bend(rng, frequency, length, depth, rate), length, [n**-steep], [0.0], phases)
        return (tone + np.float32(breath * 0.5) * noise[:length]) * swell(length, 0.06, 0.07)

    return play


def make_bell(rng: np.random.Generator) -> Play:
    """Electric piano and bell by frequency modulation (Chowning 1973), its index falling with the sound."""
    ratio = float(pick(rng, (1.0, 2.0, 3.0, 4.0, 1.41, 3.5, 2.76, 7.0, 14.0)))
    index, lasting = rng.uniform(0.5, 4.0), rng.uniform(0.8, 3.5)

    def play(frequency: float, duration: float, loudness: float) -> Signal:
        length = seconds(min(duration + 0.5, lasting))
        depth = min(index * (0.5 + loudness), max(0.2, (NYQUIST - frequency) / (frequency * ratio) - 1))
        modulator = np.float32(depth) * decay(length, lasting * 0.6) * sine(frequency * ratio, length)
        carrier = 2 * np.pi * ((np.arange(length) * (frequency / SAMPLE_RATE)) % 1.0).astype(np.float32)
        return np.sin(carrier + modulator) * decay(length, lasting)

    return play


def make_bowed(rng: np.random.Generator) -> Play:
    """Violin to cello, alone: a bowed string behind the resonances of a body."""
    n = number_harmonics()
    phases, depth, rate = draw_phases(rng), rng.uniform(0.002, 0.009), rng.uniform(4.5, 6.5)
    bodies, attack = rng.uniform(250, 3500, 4), rng.uniform(0.04, 0.2)

    def play(frequency: float, duration: float, loudness: float) -> Signal:
        length = seconds(duration + 0.12)
        body = 0.3 + sum(np.exp(-(np.log2(n * frequency / peak) ** 2) * 6) for peak in bodies)
        soft, loud = body / n**1.6, body / n**1.0
        knots = [0.0, attack, duration * 0.7, duration + 0.1]
        tone = play_table(bend(rng, frequency, length, depth, rate), length, [soft, loud, loud, soft], knots, phases)
        return tone * swell(length, attack, 0.12)

    return play


def make_pad(rng: np.random.Generator) -> Play:
    """Strings together, or a synthesiser: three detuned saws, slow to come and go."""
    n = number_harmonics()
    spread, dark, attack = rng.uniform(0.002, 0.012), rng.uniform(1.0, 1.9), rng.uniform(0.1, 0.6)
    phases = [draw_phases(rng) for _ in range(3)]

    def play(frequency: float, duration: float, loudness: float) -> Signal:
        length = seconds(duration + 0.4)
        tones = [
            play_table(frequency * (1 + spread * shift), length, [n**-dark], [0.0], phase)
            for shift, phase in zip((-1.0, 0.13, 1.0), phases, strict=True)
        ]
        return (tones[0] + tones[1] + tones[2]) * np.float32(0.5) * swell(length, min(attack, duration * 0.6), 0.4)

    return play


def make_brass(rng: np.random.Generator) -> Play:
    """Trumpet, horn, trombone: brighter as it grows louder."""
    n = number_harmonics()
    phases, attack, warm = draw_phases(rng), rng.uniform(0.03, 0.12), rng.uniform(1.0, 1.6)
    centre = rng.uniform(700, 1800)

    def play(frequency: float, duration: float, loudness: float) -> Signal:
        length = seconds(duration + 0.07)
        formant = 1 / (1 + (n * frequency / centre / (0.6 + loudness)) ** 2)
        full, mellow = formant / n ** (warm - 0.8), formant / n ** (warm + 1.0)
        knots = [0.0, attack, attack * 2 + 0.1, duration]
        tone = play_table(
            bend(rng, frequency, length, 0.002, 5),
            length,
            [mellow, full, 0.7 * full + 0.3 * mellow, mellow],
            knots,
            phases,
        )
        return tone * swell(length, attack * 0.7, 0.07)

    return play


def make_bass(rng: np.random.Generator) -> Play:
    """Bass guitar or synthesiser bass; plays two octaves lower than it is told."""
    n = number_harmonics()
    phases, dark, lasting = draw_phases(rng), rng.uniform(1.1, 2.4), rng.uniform(0.7, 3)

    def play(frequency: float, duration: float, loudness: float) -> Signal:
        length = seconds(duration + 0.03)
        knots = np.array([0, 0.08, 0.3, 1.0, 2.0])
        spectra = [np.exp(-3 * t / lasting * (1 + 0.3 * n)) / n**dark for t in knots]
        return play_table(frequency / 4, length, spectra, list(knots), phases) * swell(length, 0.006, 0.03)

    return play


def make_struck(rng: np.random.Generator) -> Play:
    """Marimba, xylophone, wood block: few modes of a bar, short."""
    second, third = pick(rng, ((3.93, 9.2), (2.76, 5.4), (3.0, 6.0), (4.0, 10.0)))
    lasting, hard = rng.uniform(0.25, 1.2), rng.uniform(0.1, 0.6)

    def play(frequency: float, duration: float, loudness: float) -> Signal:
        times = [lasting * (300 / frequency) ** 0.4 * share for share in (1.0, 0.4, 0.15)]
        modes = (frequency, frequency * second, frequency * third)
        return ring(modes, times, (1.0, hard * loudness, hard * 0.5), seconds(lasting * 1.5))

    return play


def make_piano(rng: np.random.Generator) -> Play:
    """Piano: slightly sharp partials of a stiff string, hammered, in two decays."""
    lasting, bright, stiff = rng.uniform(2, 6), rng.uniform(0.9, 1.7), 10 ** rng.uniform(-4.2, -3)

    def play(frequency: float, duration: float, loudness: float) -> Signal:
        n = np.arange(1, min(14, int(NYQUIST * 0.9 / frequency)) + 1, dtype=np.float64)
        partials = n * frequency * np.sqrt(1 + stiff * n**2)
        times = lasting * (200 / frequency) ** 0.5 / (0.6 + 0.4 * n)
        return ring(partials, times, (0.4 + loudness) ** (n / 6) / n**bright, seconds(duration + 0.25), 0.003)

    return play


def make_reed(rng: np.random.Generator) -> Play:
    """Accordion, harmonica, oboe: dense steady harmonics, two reeds that beat."""
    n = number_harmonics()
    phases, beat, dark = draw_phases(rng), rng.uniform(0.5, 5), rng.uniform(0.6, 1.3)
    centre = rng.uniform(800, 2200)

    def play(frequency: float, duration: float, loudness: float) -> Signal:
        length = seconds(duration + 0.05)
        spectrum = (0.4 + np.exp(-(np.log2(n * frequency / centre) ** 2))) / n**dark
        tone = play_table(frequency, length, [spectrum], [0.0], phases)
        tone += play_table(frequency + beat, length, [spectrum], [0.0], phases[::-1])
        return tone * swell(length, 0.04, 0.05)

    return play


def make_choir(rng: np.random.Generator) -> Play:
    """Voices on a vowel: three slightly wavering sources behind formants."""
    n = number_harmonics()
    vowel = pick(rng, ((730, 1090, 2440), (530, 1840, 2480), (570, 840, 2410), (300, 870, 2240), (270, 2290, 3010)))
    phases, depth = [draw_phases(rng) for _ in range(2)], rng.uniform(0.004, 0.012)

    def play(frequency: float, duration: float, loudness: float) -> Signal:
        length = seconds(duration + 0.2)
        formants = sum(np.exp(-(((n * frequency - peak) / (90 + 0.08 * peak)) ** 2)) for peak in vowel)
        spectrum = (formants + 0.02) / n**0.6
        tones = [
            play_table(
                bend(rng, frequency * rng.uniform(0.995, 1.005), length, depth, 5), length, [spectrum], [0.0], phase
            )
            for phase in phases
        ]
        return (tones[0] + tones[1]) * swell(length, 0.12, 0.2)

    return play


def make_distorted(rng: np.random.Generator) -> Play:
    """Electric guitar: a plucked string, clipped."""
    pluck, drive = make_plucked(rng), rng.uniform(3, 15)

    def play(frequency: float, duration: float, loudness: float) -> Signal:
        tone = pluck(frequency / 2, duration, loudness)
        return np.tanh(np.float32(drive) * tone) * swell(len(tone), 0.003, 0.05)

    return play


def make_chip(rng: np.random.Generator) -> Play:
    """The pulse wave of an early computer."""
    n = number_harmonics()
    width, lasting, phases = rng.uniform(0.1, 0.5), rng.uniform(0.5, 5), np.zeros(HARMONICS)

    def play(frequency: float, duration: float, loudness: float) -> Signal:
        length = seconds(duration)
        spectrum = np.sin(np.pi * n * width) / n
        return play_table(frequency, length, [spectrum], [0.0], phases) * decay(length, lasting, 0.003)

    return play


def make_clarinet(rng: np.random.Generator) -> Play:
    """Clarinet: odd harmonics for the most part."""
    n = number_harmonics()
    even, phases, depth = rng.uniform(0.02, 0.15), draw_phases(rng), rng.uniform(0.0, 0.004)
    bright, dark = rng.uniform(0.9, 1.3), rng.uniform(1.6, 2.2)

    def play(frequency: float, duration: float, loudness: float) -> Signal:
        length = seconds(duration + 0.06)
        odd = np.where(n % 2 == 1, 1.0, even)
        knots = [0.0, 0.08, duration, duration + 0.06]
        spectra = [odd / n**dark, odd / n**bright, odd / n**bright, odd / n**dark]
        tone = play_table(bend(rng, frequency, length, depth, 5), length, spectra, knots, phases)
        return tone * swell(length, 0.05, 0.06)

    return play


def make_vibraphone(rng: np.random.Generator) -> Play:
    """Vibraphone, glass harp: long pure modes that pulse."""
    speed, depth, lasting = rng.uniform(3, 8), rng.uniform(0.2, 0.7), rng.uniform(1.5, 4)

    def play(frequency: float, duration: float, loudness: float) -> Signal:
        modes = (frequency, frequency * 4, frequency * 10.1)
        tone = ring(modes, (lasting, lasting / 3, lasting / 9), (1.0, 0.25, 0.06), seconds(duration + 0.8))
        return tone * (1 - np.float32(depth) * (0.5 + 0.5 * sine(speed, len(tone))))

    return play


Kind = Callable[[np.random.Generator], Play]
TRAINED_INSTRUMENTS: dict[str, Kind] = {
    "plucked": make_plucked,
    "organ": make_organ,
    "flute": make_flute,
    "bell": make_bell,
    "bowed": make_bowed,
    "pad": make_pad,
    "brass": make_brass,
    "struck": make_struck,
    "piano": make_piano,
    "reed": make_reed,
    "choir": make_choir,
    "distorted": make_distorted,
    "chip": make_chip,
}
HELD_OUT_INSTRUMENTS: dict[str, Kind] = {"clarinet": make_clarinet, "vibraphone": make_vibraphone}


def instruments_of(split: Split) -> dict[str, Kind]:
    """The instruments a split may use: the held-out set has the trained ones too, for tunes of its own."""
    return TRAINED_INSTRUMENTS if split == "train" else TRAINED_INSTRUMENTS | HELD_OUT_INSTRUMENTS


def draw_instrument(rng: np.random.Generator, split: Split) -> Play:
    """An instrument of `split`; half of the held-out ones are of a kind that is never trained on."""
    unheard = split == "held-out" and rng.random() < 0.5
    kinds = HELD_OUT_INSTRUMENTS if unheard else TRAINED_INSTRUMENTS
    return kinds[pick(rng, list(kinds))](rng)


def draw_drums(rng: np.random.Generator) -> dict[str, Signal]:
    """A kit: each drum as it sounds in this clip."""
    length = seconds(0.5)
    high, low, drop = rng.uniform(100, 250), rng.uniform(38, 65), rng.uniform(15, 45)
    sweep = low + (high - low) * np.exp(-clock(length) * np.float32(drop))
    kick = sine(sweep.astype(np.float32), length) * decay(length, rng.uniform(0.25, 0.5))
    body = rng.uniform(150, 260)
    rattle = band_noise(rng, length, rng.uniform(300, 1500), 7500, 1)
    snare = ring((body, body * 1.6), (0.15, 0.1), (0.5, 0.3), length)
    snare += np.float32(0.3) * rattle * decay(length, rng.uniform(0.12, 0.35))
    cymbal = band_noise(rng, length, rng.uniform(3500, 6000), 7900, 3) * np.float32(0.25)
    clap = np.zeros(length, np.float32)
    for start in (0.0, 0.012, 0.023):
        place(clap, rattle * decay(length, 0.12), start, 0.25)
    tom = rng.uniform(80, 160)
    return {
        "kick": kick,
        "snare": snare if rng.random() < 0.7 else clap,
        "hat": cymbal * decay(length, rng.uniform(0.05, 0.15)),
        "open": cymbal * decay(length, rng.uniform(0.3, 0.9)),
        "tom": ring((tom, tom * 1.5), (0.4, 0.2), (0.8, 0.2), length),
    }


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


@dataclass(frozen=True)
class Score:
    """A tune with what is left to say of how it is played."""

    tune: Tune
    beats: int  #: in a bar
    beat: float  #: seconds
    duration: float  #: seconds to fill

    @property
    def bar(self) -> float:
        return self.beats * self.beat

    def chord(self, bar: int) -> tuple[int, ...]:
        """Degrees of the chord of a bar."""
        root = self.tune.progression[bar % len(self.tune.progression)]
        return (root, root + 2, root + 4)


def play_melody(rng: np.random.Generator, score: Score, play: Play, octave: int) -> Signal:
    """The motif over and over, moved to the chord of the bar it starts in."""
    track = np.zeros(seconds(score.duration), np.float32)
    size = len(SCALES[score.tune.scale])
    time = 0.0
    while time < score.duration:
        shift = score.chord(int(time / score.bar))[0] % size - (size if rng.random() < 0.3 else 0)
        for degree, eighths in score.tune.motif:
            lasts = eighths * score.beat / 2
            if degree != REST and time < score.duration:
                loudness = float(rng.uniform(0.4, 1.0))
                tone = play(score.tune.pitch(degree + shift) * 2.0**octave, lasts * 0.95, loudness)
                place(track, tone, time + rng.normal(0, 0.004), loudness)
            time += lasts
    return track


def play_chords(rng: np.random.Generator, score: Score, play: Play, octave: int) -> Signal:
    """Chords held, repeated or broken, by bars."""
    track = np.zeros(seconds(score.duration), np.float32)
    style = pick(rng, ("held", "held", "repeated", "broken", "strummed"))
    for bar in range(int(score.duration / score.bar) + 1):
        pitches = [score.tune.pitch(degree) * 2.0**octave for degree in score.chord(bar)]
        start = bar * score.bar
        if style in ("held", "strummed"):
            apart = 0.03 if style == "strummed" else 0.0
            for number, pitch in enumerate(pitches):
                place(track, play(pitch, score.bar * 0.98, 0.6), start + number * apart, 0.6)
        elif style == "repeated":
            chord = [play(pitch, score.beat * 0.5, 0.6) for pitch in pitches]
            for beat in range(score.beats):
                for tone in chord:
                    place(track, tone, start + beat * score.beat, 0.6 if beat else 0.8)
        else:
            tones = [play(pitch, score.beat, 0.6) for pitch in pitches]
            order = pick(rng, ((0, 1, 2, 1), (0, 2, 1, 2), (2, 1, 0, 1), (0, 1, 2, 2)))
            for eighth in range(score.beats * 2):
                place(track, tones[order[eighth % 4]], start + eighth * score.beat / 2, 0.7)
    return track


def play_bass(rng: np.random.Generator, score: Score, play: Play) -> Signal:
    """The roots of the chords, with fifths now and then."""
    track = np.zeros(seconds(score.duration), np.float32)
    every = pick(rng, (0.5, 1.0, 1.0, 2.0))
    for bar in range(int(score.duration / score.bar) + 1):
        chord = score.chord(bar)
        for step in range(max(1, int(score.beats / every))):
            degree = chord[2] if rng.random() < 0.2 else chord[0]
            tone = play(score.tune.pitch(degree - len(SCALES[score.tune.scale])) * 2, every * score.beat * 0.9, 0.8)
            place(track, tone, bar * score.bar + step * every * score.beat)
    return track


def play_drums(rng: np.random.Generator, score: Score, split: Split) -> Signal:
    track = np.zeros(seconds(score.duration), np.float32)
    pattern = draw_within(split, functools.partial(draw_pattern, rng, score.beats), str)
    kit = draw_drums(rng)
    gains = {"kick": 1.0, "snare": 0.8, "hat": 0.5, "open": 0.4, "tom": 0.5}
    for bar in range(int(score.duration / score.bar) + 1):
        for drum, steps in pattern.items():
            for step in steps:
                start = bar * score.bar + step * score.beat / 4 + rng.normal(0, 0.002)
                place(track, kit[drum], start, gains[drum] * float(rng.uniform(0.6, 1.0)))
    return track


#: What may play together, as often as it stands here.
ENSEMBLES = (
    ("melody", "chords", "bass", "drums"),
    ("melody", "chords", "bass", "drums"),
    ("melody", "chords", "bass"),
    ("melody", "chords", "drums"),
    ("melody", "chords"),
    ("melody", "chords"),
    ("melody", "melody", "bass"),
    ("chords", "bass", "drums"),
    ("chords", "bass"),
    ("chords",),
    ("melody",),
    ("melody",),
    ("bass", "drums"),
    ("drums",),
)


def make_music(rng: np.random.Generator, split: Split, length: int) -> Signal:
    """float32 [length] at 16 kHz: a tune of `split`, in a tempo of 55 to 175 beats a minute, by one to four parts."""
    beat = 60 / float(rng.uniform(55, 175))
    score = Score(draw_tune(rng, split), pick(rng, METRES), beat, length / SAMPLE_RATE)
    track = np.zeros(length, np.float32)
    for part in pick(rng, ENSEMBLES):
        if part == "drums":
            sound = play_drums(rng, score, split)
        elif part == "bass":
            sound = play_bass(rng, score, make_bass(rng))
        elif part == "chords":
            sound = play_chords(rng, score, draw_instrument(rng, split), int(pick(rng, (-1, -1, 0))))
        else:
            sound = play_melody(rng, score, draw_instrument(rng, split), int(pick(rng, (-1, 0, 0, 1))))
        level = float(np.sqrt(np.mean(np.square(sound)))) + 1e-6
        track += sound * np.float32(10 ** rng.uniform(-0.4, 0.0) / level)
    if rng.random() < 0.2:  # an old or small loudspeaker
        track = filter_curve(track, band(float(rng.uniform(30, 250)), float(rng.uniform(2500, 7000)), 1.5))
    return track
