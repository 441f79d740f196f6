"""Small collections for the tests, and the command in another process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from bench.kills import start_command
from sc_runtime.collection.outcome import Outcome
from sc_runtime.collection.tokenize import tokenize_collection

RATE = 16000
SECONDS = (0.4, 0.9, 0.2)  #: of the recordings, in turn


def make_sound(number: int, seconds: float, rate: int = RATE) -> np.ndarray:
    """A tone with noise, float32 [n]. Each `number` has another tone and other noise."""
    generator = np.random.default_rng(number)
    times = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * (100 + 37 * number) * times)
    return (0.3 * tone + 0.05 * generator.standard_normal(len(times))).astype(np.float32)


def write_recordings(folder: Path, count: int, seconds: Sequence[float] = SECONDS) -> list[Path]:
    """`count` FLAC files in two folders."""
    paths = []
    for number in range(count):
        path = folder / f"speaker{number % 2}" / f"{number:04}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, make_sound(number, seconds[number % len(seconds)]), RATE)
        paths.append(path)
    return sorted(paths)


def write_with_a_broken_one(folder: Path, count: int, seconds: Sequence[float] = SECONDS) -> Path:
    """`write_recordings`, and a file that is no recording. Returns the folder."""
    write_recordings(folder, count, seconds)
    (folder / "speaker0" / "broken.wav").write_bytes(b"RIFF")
    return folder


def tokenize(sources: Any, output: Any, **options: Any) -> Outcome:
    """`tokenize_collection` with the embedded bundle, on ONNX Runtime, which loads fast."""
    return tokenize_collection(sources, output, **{"bundle": "embedded", "backend": "onnxruntime", **options})


def run_command(*arguments: object, variables: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `start_command`."""
    process = start_command(*arguments, variables=variables)
    output, errors = process.communicate()
    return process.returncode, output, errors
