"""Whether a melody keeps its pitch: the share of frames within 50 cents of the written pitch, found by pYIN.

    python -m bench.quality.melodies --held-out FOLDER --ceiling FOLDER --bundle BUNDLE

FOLDER holds `held-out-melody.npy`, int16 [N, 163840] at 16 kHz, and `held-out-melody-pitch.npy`, float32 [N, 1024], the
written pitch in Hz every 10 ms, 0 where it is not defined (`python -m export.embedded.corpus` writes both). The
originals, the codec, VAE and vocoder alone, and other codecs are measured. pYIN (Mauch and Dixon 2014) is librosa's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bench.harness.arguments import require_package
from bench.harness.printing import log
from bench.harness.results import RESULTS, describe_run, write_results
from sc_runtime.bundle.locate import locate_bundle
from sc_runtime.cli.program import run_app
from sc_runtime.codec import Codec
from sc_runtime.errors import SettingsError
from sc_runtime.semanticodec.config import SAMPLE_RATE

from .baselines import BASELINES, explain_absence
from .clips import CLIP_SAMPLES, load_ceiling, load_clips, to_float
from .measure import summarise
from .metrics import find_delay, undo_delay

CENTS = 50.0
LOWEST, HIGHEST = 25.0, 2500.0  #: Hz, in which pYIN looks
FRAME, HOP = 2048, 160  #: samples of pYIN

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    held_out: Annotated[Path, typer.Option(help="The folder of held-out-melody.npy and held-out-melody-pitch.npy.")],
    bundle: Annotated[str | None, typer.Option(help="A bundle's folder or name.")] = None,
    ceiling: Annotated[Path | None, typer.Option(help="The folder of ceiling-melody.npy.")] = None,
    out: Annotated[Path | None, typer.Option(help="The JSON; by default bench/results/melodies-BUNDLE.json.")] = None,
) -> None:
    """Measure the pitch of held-out melodies after the codec and after others, and write JSON."""
    require_package("librosa", "train")
    whole, written = load_melodies(held_out)
    codec = Codec.load(locate_bundle(bundle))
    clips = list(to_float(whole[:, :CLIP_SAMPLES]))
    systems = {
        "original": clips,
        "codec": [codec.decode(codec.encode(clip), seed=i) for i, clip in enumerate(clips)],
    }
    if ceiling is not None:
        found = load_ceiling([ceiling / "ceiling-melody.npy"], len(clips), list(range(len(clips))))
        systems |= {"VAE and vocoder alone": list(found["ceiling"])} if "ceiling" in found else {}
    for baseline in BASELINES:
        if reason := explain_absence(baseline):
            log.print(f"No {baseline.name}: {reason}")
        else:
            systems[baseline.name] = [baseline.run(clip).samples for clip in clips]
    rows = []
    for name, sounds in systems.items():
        rows.append({"row": name, **measure_pitch(clips, sounds, written)})
        log.print(f"{name}: {100 * rows[-1]['in_tune']['mean']:.0f} % of frames within {CENTS:.0f} cents")
    path = out or RESULTS / f"melodies-{codec.bundle.name}.json"
    write_results(path, {**describe_run("librosa"), "bundle": codec.bundle.manifest.weights, "rows": rows})
    log.print(f"Wrote {path}", soft_wrap=True)


def load_melodies(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The clips int16 [N, n] and their written pitch float32 [N, frames]. Raises SettingsError."""
    path = folder / "held-out-melody-pitch.npy"
    if not path.is_file():
        raise SettingsError(f"--held-out {folder}", f"a folder with {path.name}: python -m export.embedded.corpus")
    clips, written = load_clips(folder / "held-out-melody.npy"), np.load(path)
    if len(clips) != len(written):
        raise SettingsError(f"{path}: {len(written)} melodies", f"{len(clips)}, as many as clips")
    return clips, written


def measure_pitch(clips: Sequence[np.ndarray], sounds: Sequence[np.ndarray], written: np.ndarray) -> dict[str, Any]:
    """The delay of a system, and the share of frames in tune: mean, standard error and the value of each melody."""
    delay = find_delay(zip(clips, sounds, strict=True))
    shares = [
        share_in_tune(undo_delay(sound, delay, len(clip)), pitch)
        for clip, sound, pitch in zip(clips, sounds, written, strict=True)
    ]
    return {"delay_samples": delay, "in_tune": summarise(shares) | {"values": shares}}


def share_in_tune(sound: np.ndarray, written: np.ndarray) -> float | None:
    """The share of the frames with a written pitch in which pYIN finds a pitch within 50 cents of it.

    `sound` float32 [n] at 16 kHz, `written` Hz [frames] every 10 ms. A frame in which no pitch is found is out of
    tune. None if no frame has a written pitch.
    """
    import librosa

    found = librosa.pyin(sound, fmin=LOWEST, fmax=HIGHEST, sr=SAMPLE_RATE, frame_length=FRAME, hop_length=HOP)[0]
    count = min(len(found), len(written))
    defined = written[:count] > 0
    if not defined.any():
        return None
    cents = 1200 * np.abs(np.log2(found[:count][defined] / written[:count][defined]))
    return float(np.mean(np.nan_to_num(cents, nan=np.inf) <= CENTS))


if __name__ == "__main__":
    run_app(app)
