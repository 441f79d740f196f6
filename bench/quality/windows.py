"""How results in UniCodec's windows differ from those of the whole recording at once.

    python -m bench.quality.windows --bundle unicodec-seeded1

The published code runs a whole file at once. This runtime runs recordings of more than 30 s in windows
(runtime/unicodec/windows.py). Here both run on the same recording of real sound. The results are the share of codes
that are equal, and the relative error of the sound decoded from the same codes, near a seam and elsewhere. On stand-in
weights they show how far context reaches through the networks, not what a listener would hear.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from bench.harness.machine import ROOT
from bench.harness.printing import make_table, open_console
from bench.harness.results import RESULTS, describe_run, write_results
from sc_runtime import Codec
from sc_runtime.accuracy import relative_error
from sc_runtime.audio import Audio
from sc_runtime.cli.program import run_app
from sc_runtime.errors import SettingsError
from sc_runtime.spec import EncodeOptions
from sc_runtime.unicodec.config import HOP, SAMPLE_RATE, TPS
from sc_runtime.unicodec.model import UniCodecModel
from sc_runtime.unicodec.windows import OVERLAP, split_positions

#: Recordings of real sound, which are joined.
SOURCES = (
    *(ROOT / "tests" / "golden" / name for name in ("speech_12s.wav", "mixed_24k.wav")),
    *sorted((ROOT / "tests" / "held_out").glob("*.flac")),
)
SEAM = OVERLAP // 2  #: positions; as far from a seam a position is near it: these are all that two windows share

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    bundle: Annotated[str, typer.Option(help="A bundle of UniCodec.")] = "unicodec-seeded1",
    seconds: Annotated[int, typer.Option(help="Seconds of audio; memory grows with their square.")] = 75,
    out: Annotated[Path, typer.Option(help="The JSON.")] = RESULTS / "windows-unicodec.json",
) -> None:
    """Encode and decode in windows and at once; print a table, write JSON."""
    run = describe_run()
    codec = Codec.load(bundle, precision="float32")
    if not isinstance(codec.model, UniCodecModel):
        raise SettingsError(f"bundle {bundle} of {codec.config.codec}", "one of unicodec")
    sound = read_sound(seconds)
    windows = split_positions(-(-len(sound) // HOP))
    if len(windows) < 2:
        raise SettingsError(f"--seconds {seconds}", "more than 30, so that there are windows")
    windowed = codec.encode(sound).codes
    whole = codec.model.encode_windows([sound], codec.config, EncodeOptions())[0]  # type: ignore[arg-type]
    decoded = codec.decode(whole)
    vectors = codec.model.embed(whole, codec.config)[np.newaxis]  # type: ignore[arg-type]
    truth = codec.networks.run("decoder", vectors=vectors)["waveform"][0]

    near = find_seams(windows)
    near_samples = np.repeat(near, HOP)
    rows = [
        {
            "where": where,
            "seconds": float(chosen.sum() / TPS),
            "equal_codes": float((windowed == whole)[chosen].mean()),
            "relative_error": relative_error(decoded[samples], truth[samples]),
        }
        for where, chosen, samples in (("near a seam", near, near_samples), ("elsewhere", ~near, ~near_samples))
    ]
    results = run | {
        "bundle": {"name": codec.bundle.name, "weights": codec.bundle.manifest.weights},
        "seconds": len(sound) / SAMPLE_RATE,
        "windows": len(windows),
        "rows": rows,
    }
    write_results(out, results)
    columns = ("where", "seconds", "equal codes", "relative error of the sound")
    table = make_table(codec.bundle.name, *columns, left=("where",))
    for row in rows:
        error = f"{row['relative_error']:.2e}"
        table.add_row(str(row["where"]), f"{row['seconds']:.1f}", f"{row['equal_codes']:.2%}", error)
    open_console().print(table)


def read_sound(seconds: int) -> np.ndarray:
    """float32 [24000 · seconds]: `SOURCES`, joined and repeated."""
    pieces: list[np.ndarray] = []
    for source in SOURCES:
        with Audio(source, rate=SAMPLE_RATE, mono="mean") as recording:
            pieces.extend(recording.blocks())
    return np.resize(np.concatenate(pieces), seconds * SAMPLE_RATE)


def find_seams(windows: list[slice]) -> np.ndarray:
    """Whether each position is at most `SEAM` positions from one where the codes of the next window begin, bool [T]."""
    seams = np.array([window.start + OVERLAP // 2 for window in windows[1:]])
    return (np.abs(np.arange(windows[-1].stop)[:, np.newaxis] - seams) <= SEAM).any(axis=1)


if __name__ == "__main__":
    run_app(app)
