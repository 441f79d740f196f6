"""Held-out clips: int16 files of three domains, and the ceiling's version of each clip."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.harness.printing import log
from sc_runtime.errors import SettingsError
from sc_runtime.semanticodec.config import SAMPLE_RATE, SEGMENT_SAMPLES

from .metrics import explain_absence, mel_distance, speech_pesq, speech_stoi, stft_distance
from .results import DISTANCES, DOMAINS

#: One sample less than a window: 163 840 samples are 260 positions, and four of them would need a second window.
CLIP_SAMPLES = SEGMENT_SAMPLES - 1
METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float | None]] = {
    "mel": mel_distance,
    "stft": stft_distance,
    "stoi": speech_stoi,
    "pesq": speech_pesq,
}


@dataclass(frozen=True)
class Domain:
    """Held-out clips of one domain.

    whole: all its clips, int16 [N, n].
    clips: those that are measured, float32 [M, n].
    ceiling: what VAE and vocoder alone made of `clips`, float32 [M, n']. If None, `ceiling_absence` says why.
    """

    name: str
    whole: np.ndarray
    clips: np.ndarray
    ceiling: np.ndarray | None
    ceiling_absence: str = ""

    @property
    def metrics(self) -> list[str]:
        """The metrics that are measured on it: those that it is for and that are installed."""
        wanted = METRICS if self.name == "speech" else DISTANCES
        return [name for name in wanted if explain_absence(name) is None]


def load_domains(held_out: Path, ceiling: Path | None, count: int | None) -> list[Domain]:
    """The domains that `held_out` holds, `count` clips of each; None is all.

    Raises SettingsError if there is none, and for damaged files.
    """
    domains = []
    for name in DOMAINS:
        path = held_out / f"held-out-{name}.npy"
        if not path.is_file():
            log.print(f"No {name}: {path} is not there", soft_wrap=True)
            continue
        whole = load_clips(path)
        chosen = choose_clips(len(whole), count or len(whole))
        clips = to_float(whole[chosen, :CLIP_SAMPLES])
        if ceiling is None:
            domains.append(Domain(name, whole, clips, None, "no --ceiling folder given"))
            continue
        path = ceiling / f"ceiling-{name}.npy"
        if not path.is_file():
            domains.append(Domain(name, whole, clips, None, f"no {path.name} in the --ceiling folder"))
            continue
        bound = load_clips(path)
        if len(bound) != len(whole):
            raise SettingsError(f"{path}: {len(bound)} clips", f"one for each of the {len(whole)} held out")
        domains.append(Domain(name, whole, clips, to_float(bound[chosen])))
    if not domains:
        names = ", ".join(f"held-out-{name}.npy" for name in DOMAINS)
        raise SettingsError(f"--held-out {held_out}", f"a folder with one of {names}")
    return domains


def load_clips(path: Path) -> np.ndarray:
    """The clips of a file, int16 [N, n], memory-mapped. Raises SettingsError."""
    try:
        clips = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise SettingsError(f"{path} cannot be read ({error})", "an .npy of int16 [clips, samples]") from error
    if clips.dtype != np.int16 or clips.ndim != 2 or not len(clips) or clips.shape[1] < SAMPLE_RATE:
        expected = "int16 [clips, samples] at 16 kHz, a second at least"
        raise SettingsError(f"{path}: {clips.dtype} {list(clips.shape)}", expected)
    return clips


def choose_clips(total: int, count: int) -> list[int]:
    """`count` of `total` indices, evenly spread because clips may be sorted. All, if there are fewer."""
    return [i * total // count for i in range(count)] if count < total else list(range(total))


def to_float(clips: np.ndarray) -> np.ndarray:
    """int16 -> float32, full scale 1."""
    return clips.astype(np.float32) / 32768


def digest(array: np.ndarray) -> str:
    """SHA-256 of the array's bytes, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
