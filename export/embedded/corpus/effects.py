"""Recorded effects: short recordings from freesound.org that Debian's package sonic-pi-samples carries.

A list names them, so that a clip does not depend on what else is in the folder. The package's copyright file lists
each of them as CC0. It does not list ambi_sauna, perc_bell2, perc_door, perc_impact1, perc_impact2, perc_swoosh and
the family glitch_, so these are not used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sc_runtime.errors import BackendError, MissingExtraError
from sc_runtime.semanticodec.config import SAMPLE_RATE

from .evaluation import choose_group, group_recordings, join_recordings
from .signals import Signal, place, scatter, unit
from .sources import SONIC_PI
from .splits import Split, pick, split_of

#: The names of the recordings by their families.
FAMILIES = {
    "ambi": "choir dark_woosh drone glass_hum glass_rub haunted_hum lunar_land piano soft_buzz swoosh",
    "elec": "beep bell blip blip2 blup bong chime cymbal filt_snare flip fuzz_tom hi_snare hollow_kick lo_snare "
    "mid_snare ping plip pop snare soft_kick tick triangle twang twip wood",
    "loop": "safari",
    "misc": "burp cineboom crow",
    "perc": "bell snap snap2 swash till",
    "vinyl": "backspin hiss rewind scratch",
}
RECORDINGS = tuple(f"{family}_{name}" for family, names in FAMILIES.items() for name in names.split())

PROGRAM = "recordings"  #: the name of `make_recordings` among the sound programs
SLOWEST, FASTEST = 0.6, 1.6  #: speeds of a training recording
FEWEST, MOST = 2, 6  #: recordings in a training clip
LOOPED = 0.25  #: share of the recordings in a training clip that repeat at equal distances
QUIETEST = -20.0  #: RMS of a recording in a training clip, dB below the loudest

Read = Callable[[str], Signal]  #: the recording of a name: float32 [samples] at 16 kHz


def recordings_of(split: Split) -> tuple[str, ...]:
    """The names of the recordings of a split. The rule for words decides, by the name of the file without ".flac"."""
    return tuple(name for name in RECORDINGS if split_of(name) == split)


@cache
def decode_recording(name: str) -> npt.NDArray[np.int16]:
    """The samples of a recording, int16 [samples] at 16 kHz: the mean of its channels.

    Raises MissingExtraError if the recording is not installed.
    """
    import soundfile
    import soxr

    path = Path(SONIC_PI.needs) / f"{name}.flac"
    if not path.is_file():
        raise MissingExtraError(f"{SONIC_PI.name}: {path} is not there", "recorded effects", SONIC_PI.install)
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise BackendError(f"{path}: {error}", "a FLAC file", f"apt install --reinstall {SONIC_PI.name}") from error
    resampled = soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE, quality="HQ")
    return np.clip(np.round(resampled * 32768), -32768, 32767).astype(np.int16)


def read_recording(name: str) -> Signal:
    """A recording at its own speed: float32 [samples] at 16 kHz."""
    return decode_recording(name).astype(np.float32) / np.float32(32768)


def make_recordings(rng: np.random.Generator, length: int, read: Read = read_recording) -> Signal:
    """Some training recordings at random speeds, levels and times; one in four of them repeats as a loop.

    `read` gives the recording of a name.
    """
    import soxr

    track = np.zeros(length, np.float32)
    duration = length / SAMPLE_RATE
    for _ in range(int(rng.integers(FEWEST, MOST + 1))):
        speed = float(rng.uniform(SLOWEST, FASTEST))
        recording = read(pick(rng, recordings_of("train")))
        sound = unit(soxr.resample(recording, SAMPLE_RATE * speed, SAMPLE_RATE, quality="HQ"))
        gain = float(10 ** (rng.uniform(QUIETEST, 0) / 20))
        if rng.random() < LOOPED:
            period = max(0.1, len(sound) / SAMPLE_RATE * float(rng.uniform(1, 2)))
            starts = np.arange(float(rng.uniform(0, min(period, duration))), duration, period)
        else:
            starts = scatter(rng, float(rng.uniform(0.05, 0.5)), duration)
        for start in starts:
            place(track, sound, float(start), gain)
    return track


def make_effects(index: int) -> Signal:
    """Evaluation clip `index`: float32 [163840] of whole held-out recordings at their own speeds.

    Each held-out recording is in one clip, unless it is longer than a clip; none is. Raises IndexError after the last
    clip.
    """
    return join_recordings(map(read_recording, choose_group(SONIC_PI.name, group_effects(), index)))


@cache
def group_effects() -> list[list[str]]:
    """The held-out recordings in groups that fill a clip with pauses between them, the shortest first."""
    durations = {name: len(decode_recording(name)) / SAMPLE_RATE for name in recordings_of("held-out")}
    return group_recordings(sorted(durations.items(), key=lambda item: item[1]))
