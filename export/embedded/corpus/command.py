"""`python -m export.embedded.corpus FOLDER`: the corpus that the embedded model is trained and measured on.

Every array holds clips of 10.24 s at 16 kHz, int16 [clips, 163840]:
- `train-DOMAIN.npy` and `held-out-DOMAIN.npy` for speech, music and sound;
- `sped0-DOMAIN.npy`, the training clips at other speeds;
- `held-out-melody.npy`, and `held-out-melody-pitch.npy`, float32 [clips, 1024], the written pitch in Hz every 10 ms;
- `recorded-LANGUAGE.npy`, human speech that is never trained on;
- `recorded-effects.npy`, recorded effects that are never trained on.
`--recorded N` writes N clips of each recorded array, or as many as there are.
An interrupted run continues where it stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sc_runtime.cli.program import run_app
from sc_runtime.errors import OutputError, SettingsError
from sc_runtime.files import write_atomically
from sc_runtime.semanticodec.config import SEGMENT_FRAMES, SEGMENT_SAMPLES

from .arrays import ArrayPlan, write_array
from .clips import EVALUATION_LEVEL, make_clip, make_melody_clip, make_melody_pitch, set_level
from .effects import group_effects, make_effects
from .prompts import EVALUATED, group_prompts, make_recorded
from .signals import Signal
from .sources import check_sources
from .speeds import plan_sped
from .splits import DOMAINS, Domain, Split

FIRST = "first.json"  #: the number of the first training clip

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="Where the arrays go. It is made if it does not exist.")],
    clips: Annotated[int, typer.Option(min=0, help="Training clips of each domain, 10.24 s each.")] = 600,
    first: Annotated[
        int, typer.Option(min=0, help="Number of the first training clip: a corpus of other clips than one from 0.")
    ] = 0,
    speeds: Annotated[int, typer.Option(min=0, help="Copies of every training clip at other speeds.")] = 1,
    held_out: Annotated[int, typer.Option(min=0, help="Held-out clips of each domain, and melodies.")] = 16,
    recorded: Annotated[int, typer.Option(min=0, help="Clips of each recorded speaker and of effects.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = os.cpu_count() or 1,
) -> None:
    """Write the embedded model's corpus: speech, music and environmental sound."""
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        plans = plan_arrays(folder, clips, speeds, held_out, recorded, first)
        write_corpus(folder, plans, workers, progress, first if clips else None)
    console.print(f"Corpus: {folder}", soft_wrap=True)


def plan_arrays(folder: Path, clips: int, speeds: int, held_out: int, recorded: int, first: int = 0) -> list[ArrayPlan]:
    """The arrays of a corpus; those without clips are left out. `first` is the number of the first training clip.

    Raises MissingExtraError if a source is not installed.
    """
    plans = []
    if clips:
        check_sources("training")
        plans += [plan_clips(folder, domain, "train", clips, first) for domain in DOMAINS]
        plans += plan_sped(folder, clips, speeds)
    if held_out:
        check_sources("held-out")
        plans += [plan_clips(folder, domain, "held-out", held_out) for domain in DOMAINS]
        plans += [
            plan_sounds(folder / "held-out-melody.npy", held_out, make_melody_clip),
            ArrayPlan(folder / "held-out-melody-pitch.npy", held_out, (SEGMENT_FRAMES,), np.float32, make_melody_pitch),
        ]
    if recorded:
        check_sources("evaluation")
        plans += plan_recorded(folder, recorded)
    return plans


def plan_recorded(folder: Path, most: int) -> list[ArrayPlan]:
    """The arrays of recordings for evaluation: `most` clips of each speaker and of effects, or as many as there are."""
    speakers = [
        plan_sounds(
            folder / f"recorded-{language}.npy",
            min(most, len(group_prompts(source))),
            partial(make_recorded_clip, language),
        )
        for language, source in EVALUATED.items()
    ]
    effects = plan_sounds(folder / "recorded-effects.npy", min(most, len(group_effects())), make_effects_clip)
    return [*speakers, effects]


def plan_clips(folder: Path, domain: Domain, split: Split, count: int, first: int = 0) -> ArrayPlan:
    """The clips from number `first` on."""
    return plan_sounds(folder / f"{split}-{domain}.npy", count, partial(make_numbered, domain, split, first))


def make_numbered(domain: Domain, split: Split, first: int, index: int) -> Signal:
    return make_clip(domain, split, first + index)


def plan_sounds(path: Path, count: int, make: Callable[[int], Signal]) -> ArrayPlan:
    return ArrayPlan(path, count, (SEGMENT_SAMPLES,), np.int16, partial(make_pcm, make))


def make_recorded_clip(language: str, index: int) -> Signal:
    """Evaluation clip `index` of the recorded speaker of `language`, RMS at most -20 dBFS."""
    return set_level(make_recorded(EVALUATED[language], index), EVALUATION_LEVEL)


def make_effects_clip(index: int) -> Signal:
    """Evaluation clip `index` of recorded effects, RMS at most -20 dBFS."""
    return set_level(make_effects(index), EVALUATION_LEVEL)


def make_pcm(make: Callable[[int], Signal], index: int) -> npt.NDArray[np.int16]:
    """The sound make(index), full scale 1, as int16."""
    return np.round(make(index) * 32767).astype(np.int16)


def write_corpus(
    folder: Path, plans: list[ArrayPlan], workers: int, progress: Progress, first: int | None = None
) -> None:
    """Write the arrays of `plans` into `folder`. Training clips among them begin with number `first`.

    A finished array of the right shape is kept, also if the generators have changed since: use another folder then.
    Raises OutputError if the folder cannot be written, SettingsError if it has training clips of another `first`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".corpus.lock"):
            if first is not None:
                check_first(folder, first)
            for plan in plans:
                write_array(plan, workers, progress)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{folder}: {error.strerror or error}", "a folder that can be written") from error


def check_first(folder: Path, first: int) -> None:
    """Record the number of the first training clip. Raises SettingsError if the folder has clips of another one."""
    record = folder / FIRST
    there = [path for pattern in ("train-*.npy", ".train-*.npy") for path in folder.glob(pattern)]
    found = json.loads(record.read_text()) if record.exists() else 0
    if there and found != first:
        given = f"--first {first}: {folder} has training clips from number {found} on"
        raise SettingsError(given, f"--first {found}, or another folder")
    write_atomically(record, json.dumps(first).encode())


def run() -> None:
    run_app(app)
