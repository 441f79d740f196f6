"""The corpus the embedded model is trained and measured on: clips as pure functions of their number, in arrays.

`python -m export.embedded.corpus FOLDER --clips 600` writes FOLDER/train-speech.npy and its kin, int16
[clips, 163840] of 10.24 s at 16 kHz each. What is interrupted goes on where it was.
"""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from filelock import FileLock
from numpy.lib.format import open_memmap
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sc_runtime.cli.program import run_app
from sc_runtime.errors import OutputError, SettingsError
from sc_runtime.semanticodec.config import SAMPLE_RATE, SEGMENT_SAMPLES

from .environment import make_sound
from .music import make_music
from .signals import Signal, band_noise, convolve, filter_curve, seconds, unit, white
from .speech import check_program, make_speech
from .splits import DOMAINS, SPLITS, Domain, Split, check_split, pick

LOUDEST, QUIETEST = -14.0, -35.0  #: RMS of a clip, dB below full scale
PEAK = 0.98
MIXED, REVERBERANT, PADDED, NOISY, COLOURED = 0.25, 0.33, 0.15, 0.3, 0.3  #: shares of the clips
SAMPLE_SECONDS, CROSS_FADE = 6.25, 0.5  #: of each half of a shipped sample

GENERATORS: dict[str, Callable[[np.random.Generator, Split, int], Signal]] = {
    "speech": make_speech,
    "music": make_music,
    "sound": make_sound,
}

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="Where the arrays go; made if it is not there.")],
    clips: Annotated[int, typer.Option(min=0, help="Training clips of each domain, 10.24 s each.")] = 600,
    held_out: Annotated[int, typer.Option(min=0, help="Held-out clips of each domain.")] = 16,
    workers: Annotated[int, typer.Option(min=1, help="Processes at work.")] = os.cpu_count() or 1,
) -> None:
    """Write the embedded model's corpus: synthetic speech, music and environmental sound."""
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        write_corpus(folder, {"train": clips, "held-out": held_out}, workers, progress)
    console.print(f"Corpus: {folder}", soft_wrap=True)


def make_clip(domain: Domain, split: Split, index: int) -> Signal:
    """Clip `index` of a domain and split: float32 [163840] at 16 kHz, RMS at most -14 dBFS, peaks below 1.

    A pure function of its arguments, for one version of espeak-ng and NumPy. Of the training clips a quarter mix
    two domains; held-out clips do not, so that a figure of a domain is of that domain alone. Raises SettingsError for
    a domain or split that does not exist, MissingExtraError where espeak-ng is needed and not installed.
    """
    if domain not in GENERATORS:
        raise SettingsError(f"domain {domain!r}", " or ".join(DOMAINS))
    rng = seed_generator(domain, check_split(split), index)
    lead, tail = draw_silence(rng)
    sound = unit(GENERATORS[domain](rng, split, SEGMENT_SAMPLES - lead - tail))
    if split == "train" and rng.random() < MIXED:
        other = pick(rng, [name for name in DOMAINS if name != domain])
        behind = unit(GENERATORS[other](rng, split, len(sound)))
        sound = sound + behind * np.float32(10 ** (-rng.uniform(3, 20) / 20))
    return record(rng, np.pad(sound, (lead, tail)))


def seed_generator(*parts: str | int) -> np.random.Generator:
    """Random numbers of their own for whatever `parts` name."""
    return np.random.default_rng([zlib.crc32(part.encode()) if isinstance(part, str) else part for part in parts])


def draw_silence(rng: np.random.Generator) -> tuple[int, int]:
    """Samples of silence before and after: files are shorter than a window, and begin late."""
    if rng.random() >= PADDED:
        return 0, 0
    lead, tail = rng.uniform(0, 2), rng.uniform(0, 4)
    which = pick(rng, ("lead", "tail", "both"))
    return (seconds(lead) if which != "tail" else 0), (seconds(tail) if which != "lead" else 0)


def record(rng: np.random.Generator, sound: Signal) -> Signal:
    """`sound` [n] as a recording of it may be: in a room, by a microphone, with noise, at some level."""
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
    """`sound` by a microphone or loudspeaker that is not flat: gains within 8 dB at every octave, a band limit."""
    octaves = np.log2([31, 62, 125, 250, 500, 1000, 2000, 4000, 8000])
    gains = rng.uniform(-8, 8, len(octaves)) * rng.uniform(0.3, 1)
    limit = float(rng.uniform(3000, 8000)) if rng.random() < 0.3 else 1e6
    return filter_curve(
        sound,
        lambda f: 10 ** (np.interp(np.log2(np.maximum(f, 1)), octaves, gains) / 20) / np.sqrt(1 + (f / limit) ** 12),
    )


def set_level(sound: Signal, level: float) -> Signal:
    """`sound` at an RMS of `level` dBFS, or lower where its peak would pass 0.98."""
    sound = unit(sound)
    return sound * np.float32(min(10 ** (level / 20), PEAK / max(float(np.abs(sound).max()), 1e-9)))


def make_sample(index: int = 0) -> Signal:
    """A shipped sample: float32 [192000], 12 s at 16 kHz: held-out speech, cross-faded to held-out music.

    A pure function of `index`, in no clip of the corpus. Raises MissingExtraError where espeak-ng is not installed.
    """
    rng, length, fade = seed_generator("sample", index), seconds(SAMPLE_SECONDS), seconds(CROSS_FADE)
    speech = set_level(make_speech(rng, "held-out", length), -20.0)
    music = set_level(make_music(rng, "held-out", length), -20.0)
    slope = np.sin(np.linspace(0, np.pi / 2, fade, dtype=np.float32))
    overlap = speech[-fade:] * slope[::-1] + music[:fade] * slope
    return np.concatenate([speech[:-fade], overlap, music[fade:]])


def write_corpus(folder: Path, counts: dict[Split, int], workers: int, progress: Progress) -> None:
    """Write FOLDER/SPLIT-DOMAIN.npy, int16 [counts[split], 163840], for each domain and each split that has clips.

    Finished arrays of that many clips stay as they are, also if the generators have changed since: use another folder
    then. Raises MissingExtraError where espeak-ng is not installed, OutputError where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".corpus.lock"):
            for split in SPLITS:
                for domain in DOMAINS:
                    if counts.get(split):
                        write_clips(folder, domain, split, counts[split], workers, progress)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{folder}: {error.strerror or error}", "a folder that can be written") from error


def write_clips(folder: Path, domain: Domain, split: Split, count: int, workers: int, progress: Progress) -> None:
    """Write one array; the clips that an interrupted run has made are kept."""
    path = folder / f"{split}-{domain}.npy"
    task = progress.add_task(path.name, total=count)
    if has_shape(path, (count, SEGMENT_SAMPLES)):
        progress.update(task, completed=count)
        return
    check_program()  # also music and sound are mixed with speech
    partial_path, done_path = (folder / f".{path.stem}.{role}.npy" for role in ("partial", "done"))
    if not has_shape(partial_path, (count, SEGMENT_SAMPLES)):
        done_path.unlink(missing_ok=True)
    clips, done = (
        open_array(partial_path, (count, SEGMENT_SAMPLES), np.int16),
        open_array(done_path, (count,), np.uint8),
    )
    progress.update(task, completed=int(done.sum()))
    missing = np.flatnonzero(done == 0).tolist()
    for index, clip in zip(missing, make_clips(domain, split, missing, workers), strict=True):
        clips[index] = clip
        done[index] = 1
        progress.advance(task)
    clips.flush()
    del clips, done
    partial_path.replace(path)
    done_path.unlink()


def has_shape(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether an array of that shape is at `path`."""
    try:
        return bool(np.load(path, mmap_mode="r", allow_pickle=False).shape == shape)
    except (OSError, ValueError, EOFError):
        return False


def open_array(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.memmap:
    """The array at `path` as it was left, or a new one of zeros when there is none of that shape."""
    if has_shape(path, shape):
        return open_memmap(path, "r+")
    array = open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):  # a full disk is an error now, and not a signal at some write
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def make_clips(domain: Domain, split: Split, indices: Iterable[int], workers: int) -> Iterator[npt.NDArray[np.int16]]:
    """The clips of `indices`, in their order, each int16 [163840]."""
    make = partial(make_pcm, domain, split)
    if workers == 1:
        yield from map(make, indices)
        return
    executor = ProcessPoolExecutor(workers, get_context("spawn"), initializer=leave_signals)
    try:
        yield from executor.map(make, indices)
    finally:
        executor.shutdown(cancel_futures=True)


def make_pcm(domain: Domain, split: Split, index: int) -> npt.NDArray[np.int16]:
    return np.round(make_clip(domain, split, index) * 32767).astype(np.int16)


def leave_signals() -> None:
    """Ctrl-C reaches every process of a terminal; the parent alone answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def run() -> None:
    run_app(app)
