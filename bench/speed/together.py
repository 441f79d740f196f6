"""Many recordings of 10 s: together by `encode_many`, against the published procedure, one by one.

    python -m bench.speed.together --bundle tps100-v16384-seeded1 --recordings 96

The two sides take turns on blocks of recordings, because the speed of a machine varies. The published side encodes a
share of each block. Writes bench/results/together-BUNDLE.json.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer

from bench.harness.arguments import check_positive
from bench.harness.printing import log, make_table, open_console, warn_if_busy
from bench.harness.processes import Child
from bench.harness.results import RESULTS, describe_command, describe_run, write_results
from sc_runtime.bundle.locate import locate_bundle
from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.program import run_app

from .inputs import make_sound
from .short_clips import EncoderProgram
from .sides import Settings, SideProgram
from .subjects import find_subject

SECONDS = 10.0  #: duration of a recording
RUNTIME, PUBLISHED = "runtime, together", "published, one by one"

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    bundle: Annotated[str | None, typer.Option(help="A bundle's folder or name.")] = None,
    recordings: Annotated[int, typer.Option(help="Number of recordings.")] = 96,
    block: Annotated[int, typer.Option(help="Recordings that the runtime encodes in its turn.")] = 24,
    published: Annotated[int, typer.Option(help="Recordings that the published side encodes in its turn.")] = 2,
    out: Annotated[Path | None, typer.Option(help="The JSON.")] = None,
) -> None:
    """Time both sides in turns; print a table, write JSON."""
    for option, number in {"--recordings": recordings, "--block": block, "--published": published}.items():
        check_positive(option, number)
    loaded = Bundle.load(locate_bundle(bundle))
    find_subject(loaded)  # raises for a codec without a published side
    run = describe_run()
    warn_if_busy(run["machine"])
    rate = loaded.choose_config().sample_rate
    sound, generator = make_sound(SECONDS, rate), np.random.default_rng(0)
    sounds = [generator.uniform(0.3, 1.0) * np.roll(sound, int(generator.integers(rate))) for _ in range(recordings)]
    seconds: dict[str, list[float]] = {RUNTIME: [], PUBLISHED: []}
    with (
        Child("the runtime", EncoderProgram, loaded.path, None) as ours,
        Child("the published side", SideProgram, "published", "encode", Settings(loaded.path)) as theirs,
    ):
        ours.ask("warming up", sounds[:2], True)
        theirs.ask("warming up", SECONDS, 1, 0.0)
        for start in range(0, recordings, block):
            part = sounds[start : start + block]
            started = time.perf_counter()
            ours.ask(f"encoding {len(part)} recordings", part, True)
            seconds[RUNTIME].append((time.perf_counter() - started) / len(part))
            seconds[PUBLISHED] += [theirs.ask("encoding one", SECONDS, 1).total for _ in range(published)]
            ours_s, theirs_s = seconds[RUNTIME][-1], seconds[PUBLISHED][-1]
            log.print(f"{start + len(part)} recordings: {ours_s:.2f} s each, published {theirs_s:.2f} s")
    results = run | {
        "command": describe_command("-m", "bench.speed.together"),
        "bundle": loaded.name,
        "recordings": recordings,
        "seconds_of_audio": SECONDS,
        "sides": {side: summarise(times) for side, times in seconds.items()},
        "ratio": median(seconds[PUBLISHED]) / median(seconds[RUNTIME]),
    }
    table = make_table(f"{loaded.name}: recordings of {SECONDS:g} s", "side", "seconds each", "RTF", left=("side",))
    for side, entry in results["sides"].items():
        table.add_row(side, f"{entry['seconds']:.2f}", f"{entry['rtf']:.3f}")
    open_console().print(table)
    open_console().print(f"{results['ratio']:.2f} times as fast as the published procedure")
    write_results(out or RESULTS / f"together-{loaded.name}.json", results)


def summarise(times: list[float]) -> dict[str, Any]:
    """Seconds of work for a recording: the median of the turns, their spread, and the real-time factor."""
    return {"seconds": median(times), "spread_s": [min(times), max(times)], "rtf": median(times) / SECONDS}


if __name__ == "__main__":
    run_app(app)
