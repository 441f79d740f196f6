"""Cost must grow with length and memory must not: hours against one minute, through the command line's own paths.

    python bench/memory.py            # the embedded bundle; three hours encoded, one hour decoded

Writes bench/results/memory.json: seconds and peak resident memory of a fresh process for each length.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import typer
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, Python looks in bench/ only

from bench.machine import ROOT, describe_commit, describe_machine, list_versions
from bench.speed.sides import make_codes
from sc_runtime.bundle.locate import locate_bundle
from sc_runtime.bundle.store import EMBEDDED, Bundle
from sc_runtime.cli.program import run_app
from sc_runtime.files import write_atomically
from sc_runtime.tokens import Tokens

LIMIT_BYTES = 300e6  #: what hours may cost above one minute
MINUTES = {"encode": (1, 30, 180), "decode": (1, 10, 60)}

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    bundle: Annotated[str | None, typer.Option(help="A bundle; by default the embedded one.")] = None,
    out: Annotated[Path, typer.Option(help="The JSON.")] = ROOT / "bench" / "results" / "memory.json",
) -> None:
    """Measure peak memory and time over lengths from a minute to hours."""
    loaded = Bundle.load(locate_bundle(bundle or EMBEDDED))
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(direction, minutes, loaded, Path(folder))
            for direction, lengths in MINUTES.items()
            for minutes in lengths
        ]
    for row in rows:
        first = next(other for other in rows if other["direction"] == row["direction"])
        row["above_one_minute_bytes"] = row["peak_rss_bytes"] - first["peak_rss_bytes"]
    results = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": describe_commit(),
        "bundle": loaded.name,
        "machine": machine,
        "versions": list_versions(),
        "limit_bytes": LIMIT_BYTES,
        "rows": rows,
    }
    write_atomically(out, (json.dumps(results, indent=1) + "\n").encode())
    table = Table("direction", "minutes", "seconds", "s per minute", "peak MB", "above 1 min", title=loaded.name)
    for row in rows:
        table.add_row(
            row["direction"],
            f"{row['minutes']}",
            f"{row['seconds']:.1f}",
            f"{row['seconds'] / row['minutes']:.2f}",
            f"{row['peak_rss_bytes'] / 1e6:.0f}",
            f"{row['above_one_minute_bytes'] / 1e6:+.0f} MB",
        )
    Console(width=100).print(table)


def measure(direction: str, minutes: int, bundle: Bundle, folder: Path) -> dict[str, Any]:
    """Run the command line on `minutes` of made input; its seconds and peak resident memory."""
    config = bundle.choose_config()
    rate = config.sample_rate
    samples = minutes * 60 * rate
    if direction == "encode":
        source, target = folder / f"{minutes}.wav", folder / f"{minutes}.sct"
        block = np.random.default_rng(0).uniform(-0.3, 0.3, 60 * rate).astype(np.float32)
        with soundfile.SoundFile(source, "w", rate, 1, "PCM_16") as file:
            for _ in range(minutes):
                file.write(block)
        settings: list[str] = []
    else:
        source, target = folder / f"{minutes}-codes.sct", folder / f"{minutes}-codes.wav"
        Tokens.from_array(make_codes(60.0 * minutes, config), config, samples).save(source)
        settings = ["--steps", "1"] if "steps" in bundle.spec.decode_options else []
    command = [
        "-m",
        "sc_runtime.cli.app",
        direction,
        str(source),
        "-o",
        str(target),
        "--bundle",
        str(bundle.path),
        *settings,
    ]
    program = (
        "import resource, subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]], check=True, "
        "stdout=subprocess.DEVNULL); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    started = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", program, *command], check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    for path in (source, target):
        path.unlink()
    kilobytes = int(result.stdout) * (1 if sys.platform == "darwin" else 1024)
    return {"direction": direction, "minutes": minutes, "seconds": seconds, "peak_rss_bytes": kilobytes}


if __name__ == "__main__":
    run_app(app)
