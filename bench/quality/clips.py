"""Held-out clips: int16 files of three domains, and the ceiling's version of each clip."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness.printing import log
from sc_runtime.errors import SettingsError
from sc_runtime.semanticodec.config import SAMPLE_RATE, SEGMENT_SAMPLES

from .metrics import explain_absence, mel_distance, speech_pesq, speech_stoi, stft_distance
from .perception import speech_dnsmos, speech_plcmos, visqol_audio, visqol_speech
from .results import DISTANCES, DOMAINS
from .words import word_error_rate

#: One sample less than a window: 163 840 samples are 260 positions, and four of them would need a second window.
CLIP_SAMPLES = SEGMENT_SAMPLES - 1
#: Name -> (original [n], decoded [n]) -> its value, None where it is not defined.
METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float | None]] = {
    "mel": mel_distance,
    "stft": stft_distance,
    "stoi": speech_stoi,
    "pesq": speech_pesq,
    "visqol": visqol_speech,
    "visqol_audio": visqol_audio,
    "dnsmos": speech_dnsmos,
    "plcmos": speech_plcmos,
    "wer": word_error_rate,
}
Arrays = Mapping[str, tuple[str, ...]]  #: domain -> the names of the arrays of its clips
HELD_OUT: Arrays = {domain: (f"held-out-{domain}",) for domain in DOMAINS}
#: Recordings that are never trained on.
RECORDED: Arrays = {"speech": ("recorded-french", "recorded-italian"), "sound": ("recorded-effects",)}
NOT_SPEECH = (
    *DISTANCES,
    "visqol_audio",
)  #: metrics of music and sound; the others of METRICS but ViSQOL's are of speech


@dataclass(frozen=True)
class Domain:
    """Held-out clips of one domain.

    whole: all its clips, int16 [N, n].
    clips: those that are measured, float32 [M, n].
    ceiling: what VAE and vocoder alone made of `clips`, float32 [M, n']. If None, `ceiling_absence` says why.
    texts: what is said in each of `clips`; None if no file says it.
    chosen: the metrics that the user wants; None for all.
    """

    name: str
    whole: np.ndarray
    clips: np.ndarray
    ceiling: np.ndarray | None
    ceiling_absence: str = ""
    texts: tuple[str, ...] | None = None
    chosen: tuple[str, ...] | None = None

    @property
    def metrics(self) -> list[str]:
        """The metrics that are measured on it: those that are for it, that are wanted and that are installed."""
        own = [name for name in METRICS if name != "visqol_audio"] if self.name == "speech" else NOT_SPEECH
        wanted = [name for name in own if self.chosen is None or name in self.chosen]
        return [name for name in wanted if explain_absence(name) is None]

    def score(self, metric: str, number: int, decoded: np.ndarray) -> float | None:
        """`metric` of what became of clip `number`."""
        if metric == "wer":
            return word_error_rate(self.clips[number], decoded, self.texts[number] if self.texts else None)
        return METRICS[metric](self.clips[number], decoded)


def load_domains(
    held_out: Path,
    ceiling: Path | None,
    count: int | None,
    metrics: Sequence[str] | None = None,
    arrays: Arrays = HELD_OUT,
) -> list[Domain]:
    """The domains whose `arrays` `held_out` holds, `count` clips of each, with the wanted `metrics`; None is all.

    Raises SettingsError if there is none, and for damaged files.
    """
    domains = []
    for name, files in arrays.items():
        paths = [held_out / f"{file}.npy" for file in files]
        if missing := [path for path in paths if not path.is_file()]:
            log.print(f"No {name}: {missing[0]} is not there", soft_wrap=True)
            continue
        parts = [load_clips(path) for path in paths]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        chosen = choose_clips(len(whole), count or len(whole))
        clips = to_float(whole[chosen, :CLIP_SAMPLES])
        lines = [load_texts(path.with_suffix(".txt"), len(part)) for path, part in zip(paths, parts, strict=True)]
        texts = [text for each in lines if each for text in each]
        said = tuple(texts[i] for i in chosen) if None not in lines else None
        wanted = None if metrics is None else tuple(metrics)
        domain = Domain(name, whole, clips, None, "no --ceiling folder given", said, wanted)
        if ceiling is not None:
            bounds = [ceiling / f"ceiling-{file.removeprefix('held-out-')}.npy" for file in files]
            domain = replace(domain, **load_ceiling(bounds, len(whole), chosen))
        domains.append(domain)
    if not domains:
        names = ", ".join(f"{file}.npy" for files in arrays.values() for file in files)
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


def load_ceiling(paths: Sequence[Path], count: int, chosen: list[int]) -> dict[str, Any]:
    """The fields of a Domain that hold its ceiling, for the clips `chosen` of `count`. Raises SettingsError."""
    if missing := [path for path in paths if not path.is_file()]:
        return {"ceiling_absence": f"no {missing[0].name} in the --ceiling folder"}
    bound = np.concatenate([load_clips(path) for path in paths])
    if len(bound) != count:
        found = f"{', '.join(map(str, paths))}: {len(bound)} clips"
        raise SettingsError(found, f"one for each of the {count} held out")
    return {"ceiling": to_float(bound[chosen]), "ceiling_absence": ""}


def load_texts(path: Path, count: int) -> list[str] | None:
    """What is said in each of `count` clips, a line each, or None without the file. Raises SettingsError."""
    if not path.is_file():
        return None
    texts = path.read_text(encoding="utf-8").splitlines()
    if len(texts) != count:
        raise SettingsError(f"{path}: {len(texts)} lines", f"one for each of the {count} clips")
    return texts


def choose_clips(total: int, count: int) -> list[int]:
    """`count` of `total` indices, evenly spread because clips may be sorted. All, if there are fewer."""
    return [i * total // count for i in range(count)] if count < total else list(range(total))


def to_float(clips: np.ndarray) -> np.ndarray:
    """int16 -> float32, full scale 1."""
    return clips.astype(np.float32) / 32768


def digest(array: np.ndarray) -> str:
    """SHA-256 of the array's bytes, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
