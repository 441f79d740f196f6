"""Clips of the corpus as pure functions of their number: a sound of a domain, as if it had been recorded."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

import numpy as np

from sc_runtime.errors import SettingsError
from sc_runtime.semanticodec.config import SAMPLE_RATE, SEGMENT_SAMPLES

from .environment import make_sound
from .music import make_melody, make_music
from .signals import Signal, band_noise, convolve, filter_curve, seconds, unit, white
from .speech import make_speech
from .splits import DOMAINS, Domain, Split, check_split, pick

LOUDEST, QUIETEST = -14.0, -35.0  #: RMS of a clip, dB below full scale
EVALUATION_LEVEL = -20.0  #: RMS of a clip that is measured as it is, dB below full scale
PEAK = 0.98
MIXED, REVERBERANT, PADDED, NOISY, COLOURED = 0.25, 0.33, 0.15, 0.3, 0.3  #: shares of the clips

Generators = Mapping[str, Callable[[np.random.Generator, Split, int], Signal]]

GENERATORS: Generators = {
    "speech": make_speech,
    "music": make_music,
    "sound": make_sound,
}


def make_clip(domain: Domain, split: Split, index: int, generators: Generators = GENERATORS) -> Signal:
    """Clip `index` of a domain and split: float32 [163840] at 16 kHz, RMS at most -14 dBFS, peaks below 1.

    A pure function of its arguments, for one version of the sources (sources.py) and of NumPy. `generators` make the
    sounds of each domain, at any level. A quarter of the
    training clips mix two domains. Held-out clips do not, so that a domain's figures measure that domain alone.
    Raises SettingsError for a domain or split that does not exist, MissingExtraError if a source is not installed.
    """
    if domain not in GENERATORS:
        raise SettingsError(f"domain {domain!r}", " or ".join(DOMAINS))
    rng = seed_generator(domain, check_split(split), index)
    lead, tail = draw_silence(rng)
    sound = unit(generators[domain](rng, split, SEGMENT_SAMPLES - lead - tail))
    if split == "train" and rng.random() < MIXED:
        other = pick(rng, [name for name in DOMAINS if name != domain])
        behind = unit(generators[other](rng, split, len(sound)))
        sound = sound + behind * np.float32(10 ** (-rng.uniform(3, 20) / 20))
    return record(rng, np.pad(sound, (lead, tail)))


def seed_generator(*parts: str | int) -> np.random.Generator:
    """A random generator that is seeded by `parts`."""
    return np.random.default_rng([zlib.crc32(part.encode()) if isinstance(part, str) else part for part in parts])


def draw_silence(rng: np.random.Generator) -> tuple[int, int]:
    """Samples of silence before and after the sound, in some clips: files are shorter than a window and begin late."""
    if rng.random() >= PADDED:
        return 0, 0
    lead, tail = rng.uniform(0, 2), rng.uniform(0, 4)
    which = pick(rng, ("lead", "tail", "both"))
    return (seconds(lead) if which != "tail" else 0), (seconds(tail) if which != "lead" else 0)


def record(rng: np.random.Generator, sound: Signal) -> Signal:
    """`sound` [n] as a recording of it: in a room, by a microphone, with noise, at some level."""
    if rng.random() < REVERBERANT:
        sound = reverberate(rng, sound)
    if rng.random() < COLOURED:
        sound = colour(rng, sound)
    if rng.random() < NOISY:
        noise = white(rng, len(sound)) if rng.random() < 0.5 else band_noise(rng, len(sound), 30, 1500, 0.7)
        sound = unit(sound) + noise * np.float32(10 ** (-rng.uniform(25, 60) / 20))
    return set_level(sound, float(rng.uniform(QUIETEST, LOUDEST)))


def reverberate(rng: np.random.Generator, sound: Signal) -> Signal:
    """`sound` in a room: noise that decays exponentially, faster at high frequencies, behind the direct sound."""
    time = float(np.exp(rng.uniform(np.log(0.15), np.log(2.0))))
    length = seconds(time)
    position = np.arange(length) / SAMPLE_RATE
    noise = white(rng, length)
    corner = rng.uniform(1000, 4000)
    dull = filter_curve(noise, lambda f: 1 / (1 + (f / corner) ** 2))
    damped = dull * np.exp(-6.91 * position / time) + (noise - dull) * np.exp(-6.91 * position / (time * 0.5))
    delay = seconds(rng.uniform(0.001, 0.03))
    energy = float(np.sqrt(np.sum(np.square(damped))))
    response = np.zeros(delay + length, np.float32)
    response[delay:] = damped * (10 ** (rng.uniform(-14, 2) / 20) / energy)
    response[0] = 1.0
    return convolve(sound, response)


def colour(rng: np.random.Generator, sound: Signal) -> Signal:
    """`sound` by a microphone that is not flat: random gains of at most 8 dB at each octave, and a band limit."""
    octaves = np.log2([31, 62, 125, 250, 500, 1000, 2000, 4000, 8000])
    gains = rng.uniform(-8, 8, len(octaves)) * rng.uniform(0.3, 1)
    limit = float(rng.uniform(3000, 8000)) if rng.random() < 0.3 else 1e6
    return filter_curve(
        sound,
        lambda f: 10 ** (np.interp(np.log2(np.maximum(f, 1)), octaves, gains) / 20) / np.sqrt(1 + (f / limit) ** 12),
    )


def set_level(sound: Signal, level: float) -> Signal:
    """`sound` at an RMS of `level` dBFS, or lower if its peak would exceed 0.98."""
    sound = unit(sound)
    return sound * np.float32(min(10 ** (level / 20), PEAK / max(float(np.abs(sound).max()), 1e-9)))


def make_melody_clip(index: int) -> Signal:
    """Held-out melody `index`, of one sustained voice and nothing else: float32 [163840], RMS at most -20 dBFS."""
    return set_level(make_melody(seed_generator("melody", index), "held-out", SEGMENT_SAMPLES)[0], EVALUATION_LEVEL)


def make_melody_pitch(index: int) -> Signal:
    """The pitch of held-out melody `index` in each frame of 10 ms: float32 [1024], Hz; 0 where it is not defined."""
    return make_melody(seed_generator("melody", index), "held-out", SEGMENT_SAMPLES)[1]
