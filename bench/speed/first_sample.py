"""From the command to the first sample: a fresh process decodes a token file of 10 s, loading included.

    python -m bench.speed.first_sample --bundle tps100-v16384-seeded1

Writes bench/results/first-sample-BUNDLE.json: seconds until Python has imported the package, the codec is loaded, and
the first samples are decoded. The first start finds no compiled graphs on disk; the second and the third do.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.harness.printing import make_table, open_console
from bench.harness.processes import run_python
from bench.harness.results import RESULTS, describe_run, write_results
from sc_runtime.bundle.locate import locate_bundle
from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.program import run_app
from sc_runtime.tokens import Tokens

from .inputs import make_codes

SECONDS = 10.0  #: duration of the audio
STARTS = ("first start", "second start", "third start")

#: Arguments: the bundle, the tokens, the preset. It prints the time of each event by the system's clock.
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
    preset: Annotated[str, typer.Option(help="A preset of SemantiCodec; empty for another codec.")] = "fast",
    out: Annotated[Path | None, typer.Option(help="The JSON.")] = None,
) -> None:
    """Time fresh processes up to their first sample; print a table, write JSON."""
    loaded = Bundle.load(locate_bundle(bundle))
    config = loaded.choose_config()
    results: dict[str, Any] = describe_run() | {
        "bundle": loaded.name,
        "preset": preset,
        "seconds_of_audio": SECONDS,
        "starts": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder, "tokens.sct")
        Tokens.from_array(make_codes(SECONDS, config), config, round(SECONDS * config.sample_rate)).save(tokens)
        environment = os.environ | {"XDG_CACHE_HOME": folder}  # compiled graphs are kept there
        for start in STARTS:
            results["starts"][start] = time_start([str(loaded.path), str(tokens), preset], environment)
    title = f"{loaded.name}, preset {preset}" if preset else loaded.name
    table = make_table(title, "seconds until", *STARTS, left=("seconds until",))
    for event in ("imported", "loaded", "first_sample"):
        table.add_row(event.replace("_", " "), *(f"{results['starts'][start][event]:.2f}" for start in STARTS))
    open_console().print(table)
    write_results(out or RESULTS / f"first-sample-{loaded.name}.json", results)


def time_start(arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Seconds from the start of a process of `PROGRAM` to each of its events."""
    started = time.time()
    imported, loaded, decoded, samples, backend = run_python("-c", PROGRAM, *arguments, environment=environment).split(
        "\t"
    )
    events = {"imported": imported, "loaded": loaded, "first_sample": decoded}
    return {name: float(at) - started for name, at in events.items()} | {
        "samples": int(samples),
        "backend": backend.strip(),
    }


if __name__ == "__main__":
    run_app(app)
