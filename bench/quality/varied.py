"""Varied sound of any length: recordings of speech, music and sounds, mixed at many levels, speeds and offsets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soxr

from bench.harness.machine import ROOT
from sc_runtime.audio import Audio
from sc_runtime.errors import SettingsError

FOLDER = ROOT / "tests" / "held_out"  #: of the recordings by default: speech, music and sounds
LEVELS = (-30.0, 0.0)  #: dB by which a recording is changed
NOISE_LEVELS = (-100.0, -40.0)  #: dB of the noise's standard deviation below full scale
SPEEDS = (0.8, 1.25)


def make_clips(count: int, seconds: float, rate: int, folder: Path = FOLDER, seed: int = 0) -> Iterator[np.ndarray]:
    """`count` clips float32 [n] at `rate`, each different: one or two recordings and noise.

    Raises SettingsError for a folder without recordings, AudioError for one that cannot be read.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix in (".flac", ".wav", ".ogg"))
    if not paths:
        raise SettingsError(f"--sound {folder}", "a folder with .flac, .wav or .ogg files")
    sources = [read_recording(path, rate) for path in paths]
    samples = round(seconds * rate)
    for number in range(count):
        generator = np.random.default_rng((seed, number))
        noise = generator.standard_normal(samples) * 10 ** (generator.uniform(*NOISE_LEVELS) / 20)
        clip = noise.astype(np.float32)
        for chosen in generator.integers(len(sources), size=generator.integers(1, 3)):
            source = sources[chosen]
            source = soxr.resample(source, rate, rate * generator.uniform(*SPEEDS))
            source = np.resize(np.roll(source, generator.integers(len(source))), samples)
            clip += source * np.float32(10 ** (generator.uniform(*LEVELS) / 20))
        yield np.clip(clip, -1, 1)


def read_recording(path: Path, rate: int) -> np.ndarray:
    """The mean of its channels, float32 [n] at `rate`."""
    with Audio(path, rate=rate, mono="mean") as recording:
        return np.concatenate(list(recording.blocks()))
