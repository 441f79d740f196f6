"""Recorded prompts of telephone systems: human speech that Debian packages carry, a speaker a package."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sc_runtime.errors import BackendError, MissingExtraError
from sc_runtime.semanticodec.config import SAMPLE_RATE, SEGMENT_SAMPLES

from .signals import Signal, seconds
from .sources import FFMPEG, FRENCH, ITALIAN, RUSSIAN, Source
from .splits import Split, pick
from .voices import trim

#: Prompts without speech, by the beginning of their names: tones, silence, applause and monkeys.
WITHOUT_SPEECH = ("beep", "ascending", "descending", "silence", "tt-monkeys", "confbridge-begin-glorious")
SHORTEST = 0.4  #: seconds; drops empty files and single letters
BYTES_PER_SECOND = 8000  #: of G.722 at 64 kbit/s
PAUSE = 0.35  #: seconds between two prompts of an evaluation clip
EVALUATED = {"french": FRENCH, "italian": ITALIAN}


@dataclass(frozen=True)
class Recorded:
    """A recorded speaker."""

    source: Source

    def utter(self, rng: np.random.Generator, split: Split) -> Signal:
        """One prompt, drawn at random: float32 [samples] at 16 kHz. The speaker belongs to training as a whole."""
        if split != "train":
            raise ValueError(f"a recorded speaker trains and is not part of the {split} split")
        return read_prompt(pick(rng, list_prompts(self.source)))


TRAINED = Recorded(RUSSIAN)


@cache
def list_prompts(source: Source) -> tuple[Path, ...]:
    """The prompts of `source` that hold speech, by name. Raises MissingExtraError if there are none."""
    folder = Path(source.needs)
    spoken = [
        path
        for path in sorted(folder.rglob("*.g722"))
        if not str(path.relative_to(folder)).startswith(WITHOUT_SPEECH)
        and path.stat().st_size >= SHORTEST * BYTES_PER_SECOND
    ]
    if not spoken:
        raise MissingExtraError(f"{source.name} is not installed", "recorded prompts", source.install)
    return tuple(spoken)


@cache
def decode_prompt(path: Path) -> npt.NDArray[np.int16]:
    """The samples of a G.722 file, int16 [samples] at 16 kHz."""
    command = [str(FFMPEG.needs), "-v", "error", "-f", "g722", "-i", str(path), "-f", "s16le", "-ac", "1"]
    try:
        result = subprocess.run([*command, "-ar", str(SAMPLE_RATE), "-"], capture_output=True, check=False)
    except FileNotFoundError as error:
        raise MissingExtraError(f"{FFMPEG.needs} is not installed", "a decoder of G.722", FFMPEG.install) from error
    if result.returncode or not result.stdout:
        raise BackendError(f"{path}: {result.stderr.decode(errors='replace').strip()}", "a G.722 file")
    return np.frombuffer(result.stdout, "<i2")


def read_prompt(path: Path) -> Signal:
    """A prompt without the silence around it: float32 [samples] at 16 kHz."""
    return trim(decode_prompt(path).astype(np.float32) / 32768)


def make_recorded(source: Source, index: int) -> Signal:
    """Evaluation clip `index` of a recorded speaker: float32 [163840] of whole prompts, none of which is in two clips.

    Prompts are taken in the order of their names. Raises IndexError after the last whole clip.
    """
    parts: list[Signal] = []
    length = clip = 0
    for path in list_prompts(source):
        prompt = read_prompt(path)
        if seconds(SHORTEST) <= len(prompt) <= SEGMENT_SAMPLES:
            if length + len(prompt) > SEGMENT_SAMPLES:
                if clip == index:
                    return np.pad(np.concatenate(parts), (0, SEGMENT_SAMPLES))[:SEGMENT_SAMPLES]
                parts, length, clip = [], 0, clip + 1
            parts += [prompt, np.zeros(seconds(PAUSE), np.float32)]
            length += len(prompt) + seconds(PAUSE)
    raise IndexError(f"{source.name} has {clip} clips, not {index + 1}")
