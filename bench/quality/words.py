"""The word error rate of decoded speech, by Debian's PocketSphinx, a recogniser that runs offline.

`apt-get install pocketsphinx pocketsphinx-en-us`. It is a small recogniser of US English: it mistakes words of clear
recordings too. So its rates compare codecs with each other and with the original; they are not those of people.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile

from sc_runtime.errors import BackendError
from sc_runtime.semanticodec.config import SAMPLE_RATE

PROGRAM = "pocketsphinx_continuous"
MODEL = Path("/usr/share/pocketsphinx/model/en-us")
TIMEOUT = 1800  #: seconds; ten seconds of speech take a few, and minutes on a machine that others keep busy
KEPT = 256  #: transcripts that are kept: the originals of a run


def explain_absence() -> str | None:
    """Why no words can be recognised here, or None."""
    missing = [PROGRAM] if shutil.which(PROGRAM) is None else []
    missing += [] if MODEL.is_dir() else [str(MODEL)]
    packages = "apt-get install pocketsphinx pocketsphinx-en-us"
    return f"{' and '.join(missing)} not found: {packages}" if missing else None


def word_error_rate(original: np.ndarray, decoded: np.ndarray, text: str | None = None) -> float | None:
    """Wrong words of `decoded`, over the words of the reference: 0 if it is recognised in full, and may exceed 1.

    Waveforms float32 [n] at 16 kHz. The reference is `text`, or without one what the recogniser makes of `original`:
    then the rate is the words that the codec changed. None if the reference has no words. Raises BackendError.
    """
    reference = split_words(recognise(original) if text is None else text)
    return count_errors(reference, split_words(recognise(decoded))) / len(reference) if reference else None


def recognise(samples: np.ndarray) -> str:
    """The words that PocketSphinx recognises in speech float32 [n] at 16 kHz, lower case. Raises BackendError."""
    return recognise_bytes(np.ascontiguousarray(samples, np.float32).tobytes())


@lru_cache(KEPT)
def recognise_bytes(samples: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "speech.wav")
        soundfile.write(path, np.clip(np.frombuffer(samples, np.float32), -1, 1), SAMPLE_RATE, "PCM_16")
        command = [PROGRAM, "-infile", str(path), "-logfn", "/dev/null"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackendError(f"{PROGRAM} did not run ({error})", "a program that works", "try it by hand") from error
    if done.returncode:
        given = f"{PROGRAM} failed with {done.returncode}"
        raise BackendError(given, "a program that works", "try it by hand: pocketsphinx_continuous -infile FILE.wav")
    return " ".join(done.stdout.split())


def split_words(text: str) -> list[str]:
    """Lower-case words without punctuation; apostrophes stay."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())


def count_errors(reference: Sequence[str], found: Sequence[str]) -> int:
    """The least number of words to insert, delete or replace to turn `reference` into `found` (Levenshtein)."""
    row = list(range(len(found) + 1))
    for i, wanted in enumerate(reference, 1):
        above, row = row, [i]
        for j, word in enumerate(found, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (wanted != word)))
    return row[-1]
