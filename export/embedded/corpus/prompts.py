"""Recorded prompts of telephone systems: human speech that Debian packages carry, a speaker a package."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sc_runtime.errors import BackendError, MissingExtraError
from sc_runtime.semanticodec.config import SAMPLE_RATE

from .evaluation import choose_group, group_recordings, join_recordings
from .signals import Signal
from .sources import FFMPEG, FRENCH, ITALIAN, RUSSIAN, Source
from .splits import Split, pick
from .voices import trim

#: Prompts without speech, by the beginning of their names: tones, silence, applause and monkeys.
WITHOUT_SPEECH = ("beep", "ascending", "descending", "silence", "tt-monkeys", "confbridge-begin-glorious")
SHORTEST = 0.4  #: seconds; drops empty files and single letters
BYTES_PER_SECOND = 8000  #: of G.722 at 64 kbit/s
EVALUATED = {"french": FRENCH, "italian": ITALIAN}


@dataclass(frozen=True)
class Recorded:
    """A recorded speaker."""

    source: Source

    def utter(self, rng: np.random.Generator, split: Split) -> Signal:
        """One prompt, drawn at random: float32 [samples] at 16 kHz. The speaker belongs to training as a whole."""
        if split != "train":
            raise ValueError(f"a recorded speaker is for training and not part of the {split} split")
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
    if result.returncode or not result.stdout or len(result.stdout) % 2:
        raise BackendError(f"{path}: {result.stderr.decode(errors='replace').strip()}", "a G.722 file")
    return np.frombuffer(result.stdout, "<i2")


def read_prompt(path: Path) -> Signal:
    """A prompt without the silence around it: float32 [samples] at 16 kHz."""
    return trim(decode_prompt(path).astype(np.float32) / np.float32(32768))


def make_recorded(source: Source, index: int) -> Signal:
    """Evaluation clip `index` of a recorded speaker: float32 [163840] of whole prompts. Each prompt is in one clip.

    Raises IndexError after the last clip.
    """
    return join_recordings(map(read_prompt, choose_group(source.name, group_prompts(source), index)))


@cache
def group_prompts(source: Source) -> list[list[Path]]:
    """The prompts of `source`, in the order of their names, in groups that fill a clip with pauses between them.

    The length of a prompt is that of its file, with the silence around it. Prompts longer than a clip are left out.
    """
    return group_recordings((path, path.stat().st_size / BYTES_PER_SECOND) for path in list_prompts(source))
