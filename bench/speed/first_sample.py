"""From command to first sample: a fresh process decodes a token file of 10 s, loading included.

    python bench/first_sample.py --bundle tps100-v16384-seeded1

Writes bench/results/first-sample-BUNDLE.json: seconds until Python has imported, the codec is loaded, and the first
samples are there, at the first start (no compiled graphs on disk) and at the second.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, Python looks in bench/ only

from bench.machine import ROOT, describe_commit, describe_machine, list_versions
from bench.speed.sides import make_codes
from sc_runtime.bundle.locate import locate_bundle
from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.program import run_app
from sc_runtime.files import write_atomically
from sc_runtime.tokens import Tokens

SECONDS = 10.0  #: of audio
STARTS = ("first start", "second start", "third start")

#: Arguments: the bundle, the tokens, the preset. Prints when each thing was there, by the clock of the system.
PROGRAM = """
import sys, time
from sc_runtime import Codec
imported = time.time()
codec = Codec.load(sys.argv[1])
loaded = time.time()
piece = next(codec.decode_stream(sys.argv[2], preset=sys.argv[3] or None))
print(imported, loaded, time.time(), len(piece), codec.backend.name, sep="\\t")
"""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    bundle: Annotated[str | None, typer.Option(help="A bundle's folder or name.")] = None,
    preset: Annotated[str, typer.Option(help="Of SemantiCodec; empty for another codec.")] = "fast",
    out: Annotated[Path | None, typer.Option(help="The JSON.")] = None,
) -> None:
    """Time fresh processes up to their first sample."""
    loaded = Bundle.load(locate_bundle(bundle))
    config = loaded.choose_config()
    results: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": describe_commit(),
        "bundle": loaded.name,
        "preset": preset,
        "seconds_of_audio": SECONDS,
        "machine": describe_machine(),
        "versions": list_versions(),
        "starts": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder, "tokens.sct")
        Tokens.from_array(make_codes(SECONDS, config), config, round(SECONDS * config.sample_rate)).save(tokens)
        environment = os.environ | {"XDG_CACHE_HOME": folder}  # where the compiled graphs go
        for start in STARTS:
            results["starts"][start] = time_start([str(loaded.path), str(tokens), preset], environment)
    table = Table("seconds until", *STARTS, title=f"{loaded.name}, preset {preset}" if preset else loaded.name)
    for event in ("imported", "loaded", "first_sample"):
        table.add_row(event.replace("_", " "), *(f"{results['starts'][start][event]:.2f}" for start in STARTS))
    Console(width=100).print(table)
    target = out or ROOT / "bench" / "results" / f"first-sample-{loaded.name}.json"
    write_atomically(target, (json.dumps(results, indent=1) + "\n").encode())


def time_start(arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Seconds from the start of a process of PROGRAM to each of its events."""
    started = time.time()
    command = [sys.executable, "-c", PROGRAM, *arguments]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    imported, loaded, sounded, samples, backend = result.stdout.split("\t")
    events = {"imported": imported, "loaded": loaded, "first_sample": sounded}
    return {name: float(at) - started for name, at in events.items()} | {
        "samples": int(samples),
        "backend": backend.strip(),
    }


if __name__ == "__main__":
    run_app(app)
