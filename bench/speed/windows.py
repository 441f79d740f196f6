"""What UniCodec's windows change, against the whole recording at once: `python bench/windows.py`.

The published code runs a whole file at once. Beyond 30 s this runtime runs windows (sc_runtime/unicodec/windows.py).
Both are done here on the same recording of real sound, and compared by how far they are from a seam: the share of codes
that stay equal, and the relative error of the sound decoded from the same codes. On stand-in weights the shares say how
far context reaches through the networks, not what a listener would hear.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, Python looks in bench/ only

from bench.machine import ROOT, describe_commit, describe_machine, list_versions
from bench.rtf import round_floats
from sc_runtime import Codec
from sc_runtime.audio import Audio
from sc_runtime.cli.program import run_app
from sc_runtime.errors import SettingsError
from sc_runtime.files import write_atomically
from sc_runtime.spec import EncodeOptions
from sc_runtime.unicodec.config import HOP, SAMPLE_RATE, TPS
from sc_runtime.unicodec.model import UniCodecModel
from sc_runtime.unicodec.windows import OVERLAP, split_positions

#: Real sound, one after the other.
SOURCES = (
    *(ROOT / "tests" / "golden" / name for name in ("speech_12s.wav", "mixed_24k.wav")),
    *sorted((ROOT / "tests" / "held_out").glob("*.flac")),
)
SEAM = OVERLAP // 2  #: positions on either side of a seam that count as near it: all that two windows share

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    bundle: Annotated[str, typer.Option(help="A bundle of UniCodec.")] = "unicodec-seeded1",
    seconds: Annotated[int, typer.Option(help="Of sound; memory grows with the square.")] = 75,
    out: Annotated[Path, typer.Option(help="The JSON.")] = ROOT / "bench" / "results" / "windows-unicodec.json",
) -> None:
    """Encode and decode in windows and at once, and compare."""
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
    results: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": describe_commit(),
        "bundle": {"name": codec.bundle.name, "weights": codec.bundle.manifest.weights},
        "machine": describe_machine(),
        "versions": list_versions(),
        "seconds": len(sound) / SAMPLE_RATE,
        "windows": len(windows),
        "rows": rows,
    }
    write_atomically(out, (json.dumps(round_floats(results), indent=1) + "\n").encode())
    table = Table("where", "seconds", "equal codes", "relative error of the sound", title=codec.bundle.name)
    for row in rows:
        error = f"{row['relative_error']:.2e}"
        table.add_row(str(row["where"]), f"{row['seconds']:.1f}", f"{row['equal_codes']:.2%}", error)
    Console(width=100).print(table)


def read_sound(seconds: int) -> np.ndarray:
    """float32 [24000 seconds], from `SOURCES` over and over."""
    pieces: list[np.ndarray] = []
    for source in SOURCES:
        with Audio(source, rate=SAMPLE_RATE, mono="mean") as recording:
            pieces.extend(recording.blocks())
    return np.resize(np.concatenate(pieces), seconds * SAMPLE_RATE)


def find_seams(windows: list[slice]) -> np.ndarray:
    """Whether each position is at most `SEAM` away from where one window's codes end and the next one's begin."""
    seams = np.array([window.start + OVERLAP // 2 for window in windows[1:]])
    return (np.abs(np.arange(windows[-1].stop)[:, np.newaxis] - seams) <= SEAM).any(axis=1)


def relative_error(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm((found - truth).astype(np.float64)) / np.linalg.norm(truth.astype(np.float64)))


if __name__ == "__main__":
    run_app(app)
