"""Many short clips: one by one, together by `encode_many`, and by several processes with a part of the cores each.

    python -m bench.speed.short_clips --bundle unicodec-seeded1 --clips 500

Clips last 1 to 3 s. They are encoded block by block, and the ways take turns, because the speed of a machine varies.
Every way must give the same tokens. Writes bench/results/short-clips-BUNDLE.json.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer

from bench.harness.arguments import check_positive
from bench.harness.machine import count_cores, measure_peak_memory
from bench.harness.printing import log, make_table, open_console, warn_if_busy
from bench.harness.processes import Child
from bench.harness.results import RESULTS, describe_command, describe_run, write_results
from bench.quality.varied import make_clips
from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.locate import locate_bundle
from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.program import run_app
from sc_runtime.codec import Codec
from sc_runtime.errors import AudioError, BackendError

SHORTEST, LONGEST = 1.0, 3.0  #: seconds of a clip
ALONE, TOGETHER = "one by one", "encode_many"

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class EncoderProgram:
    """A process that encodes clips (`bench.harness.processes.Program`)."""

    def __init__(self, bundle: Path, threads: int | None) -> None:
        loaded = Bundle.load(bundle)
        self.codec = Codec(loaded, choose_backend("auto", threads, bundle=loaded))

    def answer(self, clips: Sequence[np.ndarray], together: bool) -> tuple[list[np.ndarray], int]:
        """The codes of `clips`, and the process's peak memory in bytes."""
        if not together:
            return [self.codec.encode(clip).codes for clip in clips], measure_peak_memory()
        codes = []
        for found in self.codec.encode_many(clips):
            if isinstance(found, AudioError):
                raise found
            codes.append(found.codes)
        return codes, measure_peak_memory()


class Way:
    """A way to encode clips: by one child or several, which share the clips."""

    def __init__(self, name: str, children: Sequence[Child], together: bool, share: float = 1.0) -> None:
        """`share` of the clips is encoded, so that a slow way does not take all the time."""
        self.name, self.children, self.together, self.share = name, children, together, share
        self.seconds_per_clip: list[float] = []
        self.clips = 0
        self.peak_bytes = 0

    def encode(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Encode a part of `clips`, time it, and return the codes."""
        chosen = clips[: max(1, round(self.share * len(clips)))]
        parts = [chosen[i :: len(self.children)] for i in range(len(self.children))]
        started = time.perf_counter()
        with ThreadPoolExecutor(len(parts)) as pool:
            answers = list(pool.map(self.ask, self.children, parts))
        self.seconds_per_clip.append((time.perf_counter() - started) / len(chosen))
        self.clips += len(chosen)
        self.peak_bytes = max(self.peak_bytes, sum(peak for _, peak in answers))
        codes: list[np.ndarray] = [np.empty(0)] * len(chosen)
        for i, (found, _) in enumerate(answers):
            codes[i :: len(self.children)] = found
        return codes

    def ask(self, child: Child, clips: Sequence[np.ndarray]) -> tuple[list[np.ndarray], int]:
        answer: tuple[list[np.ndarray], int] = child.ask(f"encoding {len(clips)} clips", list(clips), self.together)
        return answer

    def summarise(self, seconds: float) -> dict[str, Any]:
        """`seconds`: mean duration of a clip."""
        per_clip = median(self.seconds_per_clip)
        return {
            "clips": self.clips,
            "processes": len(self.children),
            "seconds_per_clip": per_clip,
            "spread_s": [min(self.seconds_per_clip), max(self.seconds_per_clip)],
            "rtf": per_clip / seconds,
            "peak_rss_bytes": self.peak_bytes,
        }


@app.command()
def main(
    bundle: Annotated[str | None, typer.Option(help="A bundle's folder or name.")] = None,
    clips: Annotated[int, typer.Option(help="Number of clips.")] = 500,
    block: Annotated[int, typer.Option(help="Clips that each way encodes in its turn.")] = 50,
    processes: Annotated[int | None, typer.Option(help="Processes; by default one for each core.")] = None,
    alone_share: Annotated[float, typer.Option(help="Share of the clips that are encoded one by one.")] = 0.2,
    out: Annotated[Path | None, typer.Option(help="The JSON.")] = None,
) -> None:
    """Time the ways of encoding short clips; print a table, write JSON."""
    check_positive("--clips", clips)
    check_positive("--block", block)
    check_positive("--processes", processes)
    loaded, cores = Bundle.load(locate_bundle(bundle)), count_cores()
    workers = processes or cores
    sounds = cut_clips(clips, loaded.choose_config().sample_rate)
    run = describe_run()
    warn_if_busy(run["machine"])
    with ExitStack() as stack:

        def start(threads: int | None) -> Child:
            return stack.enter_context(Child("an encoder", EncoderProgram, loaded.path, threads))

        whole = start(None)
        ways = [Way(ALONE, [whole], together=False, share=alone_share), Way(TOGETHER, [whole], together=True)]
        split = [start(max(1, cores // workers)) for _ in range(workers)]
        ways.append(Way(f"encode_many in {workers} processes", split, together=True))
        for way in ways:
            log.print(f"{way.name}: warming up")
            for child in way.children:
                way.ask(child, sounds[:1])
        for at in range(0, clips, block):
            group = sounds[at : at + block]
            compare_codes([way.encode(group) for way in ways])
            log.print(f"{at + len(group)} of {clips} clips")
    seconds = sum(map(len, sounds)) / loaded.choose_config().sample_rate / clips
    rows = {way.name: way.summarise(seconds) for way in ways}
    results = run | {
        "command": describe_command("-m", "bench.speed.short_clips"),
        "bundle": {"name": loaded.name, "weights": loaded.manifest.weights},
        "clips": clips,
        "block": block,
        "mean_seconds_of_a_clip": seconds,
        "ways": rows,
    }
    print_rows(loaded.name, rows)
    write_results(out or RESULTS / f"short-clips-{loaded.name}.json", results)


def cut_clips(count: int, rate: int) -> list[np.ndarray]:
    """Varied clips of `SHORTEST` to `LONGEST` seconds, float32 [n] at `rate`."""
    lengths = np.random.default_rng(0).uniform(SHORTEST, LONGEST, count)
    clips = make_clips(count, LONGEST, rate)
    return [clip[: round(seconds * rate)] for clip, seconds in zip(clips, lengths, strict=True)]


def compare_codes(found: Sequence[Sequence[np.ndarray]]) -> None:
    """Raises BackendError unless all ways gave the same codes, as far as each went."""
    for other in found[:-1]:
        for number, (first, second) in enumerate(zip(other, found[-1], strict=False)):
            if not np.array_equal(first, second):
                given = f"codes of clip {number} of a block that depend on the way of encoding"
                raise BackendError(given, "the same codes each way", "report it as a fault")


def print_rows(name: str, rows: dict[str, dict[str, Any]]) -> None:
    columns = ("way", "clips", "s a clip", "min–max", "times the first", "RTF", "peak MB of all")
    table = make_table(f"{name}: clips of {SHORTEST:g} to {LONGEST:g} s", *columns, left=("way",))
    first = next(iter(rows.values()))["seconds_per_clip"]
    for way, row in rows.items():
        spread = "–".join(f"{bound:.3f}" for bound in row["spread_s"])
        figures = (f"{row['seconds_per_clip']:.3f}", spread, f"{first / row['seconds_per_clip']:.2f}")
        table.add_row(way, str(row["clips"]), *figures, f"{row['rtf']:.3g}", f"{row['peak_rss_bytes'] / 1e6:.0f}")
    open_console().print(table)


if __name__ == "__main__":
    run_app(app)
