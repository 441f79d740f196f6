"""Time and memory of the command line over lengths from a minute to hours: time may grow, memory must not.

    python -m bench.speed.memory      # the embedded bundle; up to three hours encoded and one hour decoded

Writes bench/results/memory.json: seconds and peak resident memory of a fresh process for each length.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import typer

from bench.harness.printing import make_table, open_console
from bench.harness.processes import run_python
from bench.harness.results import RESULTS, describe_run, write_results
from sc_runtime.bundle.locate import locate_bundle
from sc_runtime.bundle.store import EMBEDDED, Bundle
from sc_runtime.cli.program import run_app
from sc_runtime.tokens import Tokens

from .inputs import make_codes

LIMIT_BYTES = 300e6  #: peak memory that hours may take above that of one minute
MINUTES = {"encode": (1, 30, 180), "decode": (1, 10, 60)}

#: Runs Python with its arguments and prints the peak resident memory of that child, in the unit of getrusage.
PROGRAM = """
import resource, subprocess, sys
subprocess.run([sys.executable, *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    bundle: Annotated[str | None, typer.Option(help="A bundle; by default the embedded one.")] = None,
    out: Annotated[Path, typer.Option(help="The JSON.")] = RESULTS / "memory.json",
) -> None:
    """Measure peak memory and time over lengths from a minute to hours; print a table, write JSON."""
    loaded = Bundle.load(locate_bundle(bundle or EMBEDDED))
    run = describe_run()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(direction, minutes, loaded, Path(folder))
            for direction, lengths in MINUTES.items()
            for minutes in lengths
        ]
    for row in rows:
        first = next(other for other in rows if other["direction"] == row["direction"])
        row["above_one_minute_bytes"] = row["peak_rss_bytes"] - first["peak_rss_bytes"]
    write_results(out, run | {"bundle": loaded.name, "limit_bytes": LIMIT_BYTES, "rows": rows})
    columns = ("direction", "minutes", "seconds", "s per minute", "peak MB", "above 1 min")
    table = make_table(loaded.name, *columns, left=("direction",))
    for row in rows:
        table.add_row(
            row["direction"],
            f"{row['minutes']}",
            f"{row['seconds']:.1f}",
            f"{row['seconds'] / row['minutes']:.2f}",
            f"{row['peak_rss_bytes'] / 1e6:.0f}",
            f"{row['above_one_minute_bytes'] / 1e6:+.0f} MB",
        )
    open_console().print(table)


def measure(direction: str, minutes: int, bundle: Bundle, folder: Path) -> dict[str, Any]:
    """Run the command line on `minutes` of noise, or of random tokens: its seconds and its peak resident memory."""
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
    command = ["-m", "sc_runtime.cli.app", direction, str(source), "-o", str(target), "--bundle", str(bundle.path)]
    started = time.perf_counter()
    peak = run_python("-c", PROGRAM, *command, *settings)
    seconds = time.perf_counter() - started
    for path in (source, target):
        path.unlink()
    unit = 1 if sys.platform == "darwin" else 1024
    return {"direction": direction, "minutes": minutes, "seconds": seconds, "peak_rss_bytes": int(peak) * unit}


if __name__ == "__main__":
    run_app(app)
