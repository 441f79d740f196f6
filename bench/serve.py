"""The server under load: `python bench/serve.py`. Needs the extras `serve` and `bench`, and httpx.

    python bench/serve.py                                   # the embedded bundle: all parts but the soak
    python bench/serve.py --bundle FOLDER --parts soak      # twenty minutes at the capacity

Parts: clients, first_sound, hostile, overload, soak. Server and clients share this machine and loopback. A part
replaces the same part in bench/results/serve-BUNDLE.json, with the machine's load when it began.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import httpx
import numpy as np
import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, Python looks in bench/ only

from bench.harness.printing import make_table, open_console, warn_if_busy
from bench.harness.results import RESULTS, describe_run, write_results
from bench.serving.hostile import attack
from bench.serving.load import Tally, Task, find_expected, measure_first_sound, run_arrivals, run_clients
from bench.serving.process import ServedProcess, serve_process
from sc_runtime.bundle.locate import locate_bundle
from sc_runtime.cli.program import run_app
from sc_runtime.codec import Codec
from sc_runtime.errors import SettingsError

CLIENTS = (1, 4, 16, 64)
CLIPS = 8  #: different recordings
CLIP_SECONDS, STREAM_SECONDS = 3.0, 20.0
SAMPLE_SECONDS = 5.0  #: between two readings of memory
DECODE = "/v1/audio?preset=fast"

app = typer.Typer(add_completion=False, rich_markup_mode=None)

PARTS = ("clients", "first_sound", "hostile", "overload", "soak")


@app.command()
def main(
    bundle: Annotated[str, typer.Option(help="A bundle's folder or name.")] = "embedded",
    backend: Annotated[str, typer.Option(help="What runs the networks.")] = "auto",
    parts: Annotated[str, typer.Option(help="Comma-separated.")] = "clients,first_sound,hostile,overload",
    seconds: Annotated[float, typer.Option(help="Of load for each number of clients.")] = 15.0,
    overload: Annotated[float, typer.Option(help="Seconds at ten times the capacity.")] = 120.0,
    soak: Annotated[float, typer.Option(help="Seconds of load at the capacity.")] = 1200.0,
    connections: Annotated[int, typer.Option(help="Hostile connections.")] = 500,
    out: Annotated[Path | None, typer.Option(help="The JSON.")] = None,
) -> None:
    """Measure throughput, latencies, time to first sound, overload and a long run; print a table, write JSON."""
    wanted = parts.split(",")
    if unknown := set(wanted).difference(PARTS):
        raise SettingsError(f"--parts {','.join(sorted(unknown))}", ", ".join(PARTS))
    path = locate_bundle(bundle)
    out = out or RESULTS / f"serve-{path.name}.json"
    document: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    encode, decode, stream = make_tasks(Codec.load(path, backend=backend))
    with serve_process(bundle=str(path), backend=backend) as served:
        encode = [find_expected(served.url, task) for task in encode]
        decode = [find_expected(served.url, task) for task in decode]
        mixed = [task for pair in zip(encode, decode, strict=True) for task in pair]
        for part in wanted:
            run = describe_run("fastapi", "uvicorn", "httpx", "h11") | {"backend": backend}
            warn_if_busy(run["machine"])
            if part == "clients":
                found: Any = measure_clients(served, encode, decode, mixed, seconds)
            elif part == "first_sound":
                found = [asyncio.run(measure_first_sound(served.url, stream, clients, 3)) for clients in (1, 4)]
            elif part == "hostile":
                found = measure_hostile(served, decode[0], connections)
            elif part == "overload":
                warm = asyncio.run(run_clients(served.url, mixed, 16, seconds))  # so that memory holds full batches
                found = measure_overload(served, mixed, 10 * warm.describe()["requests_per_s"], overload)
            else:
                found = measure_soak(served, mixed, soak)
            document |= {"bundle": path.name, part: {"run": run, "found": found}}
            write_results(out, document)
            show(part, found)


def make_tasks(codec: Codec) -> tuple[list[Task], list[Task], Task]:
    """Recordings to encode, their tokens to decode, and longer tokens to stream."""
    import soundfile

    generator = np.random.default_rng(0)
    rate = codec.sample_rate
    encode, decode = [], []
    for number in range(CLIPS):
        samples = np.cumsum(generator.standard_normal(int(CLIP_SECONDS * rate)), dtype=np.float64)
        samples = (0.3 * samples / np.abs(samples).max()).astype(np.float32)
        file = io.BytesIO()
        soundfile.write(file, samples, rate, format="WAV")
        encode.append(Task("encode", "/v1/tokens?format=sct", file.getvalue(), CLIP_SECONDS))
        decode.append(Task("decode", f"{DECODE}&seed={number}", codec.encode(samples).to_bytes(), CLIP_SECONDS))
    long = np.tile(samples, int(STREAM_SECONDS / CLIP_SECONDS) + 1)[: int(STREAM_SECONDS * rate)]
    stream = Task("stream", f"{DECODE}&response_format=pcm", codec.encode(long).to_bytes(), STREAM_SECONDS)
    return encode, decode, stream


def measure_clients(
    served: ServedProcess, encode: list[Task], decode: list[Task], mixed: list[Task], seconds: float
) -> list[dict[str, Any]]:
    """Throughput and latencies of each kind of request, by the number of clients, against one client."""
    rows = []
    for name, tasks in (("encode", encode), ("decode", decode), ("mixed", mixed)):
        alone = None
        for clients in CLIENTS:
            before = served.read_metrics()
            row = asyncio.run(run_clients(served.url, tasks, clients, seconds)).describe()
            alone = alone or row["requests_per_s"]
            row |= {"times_one_client": row["requests_per_s"] / alone, "batch": count_batch(before, served)}
            rows.append({"task": name, "clients": clients, **row})
    return rows


def measure_hostile(served: ServedProcess, task: Task, connections: int) -> dict[str, Any]:
    """Descriptors and memory before, during and after; the seconds of a good request meanwhile."""
    before = served.measure()
    opened = attack(served.port, connections, task.body)
    started = time.perf_counter()
    answer = httpx.get(f"{served.url}/healthz", timeout=60)
    health = time.perf_counter() - started
    during = served.measure()
    for connection in opened:
        connection.close()
    settle(served)
    answer = httpx.post(served.url + task.address, content=task.body, timeout=120)
    return {
        "connections": connections,
        "healthz_s": health,
        "before": before,
        "during": during,
        "after": served.measure(),
        "right_afterwards": answer.content == task.expected,
    }


def settle(served: ServedProcess, seconds: float = 60.0) -> None:
    """Wait until the server has no request."""
    deadline = time.monotonic() + seconds
    while served.read_metrics()["sc_runtime_queue"] and time.monotonic() < deadline:
        time.sleep(0.5)


def run_watched(
    served: ServedProcess, load: Coroutine[Any, Any, Tally], every: float
) -> tuple[dict[str, Any], list[dict[str, int]]]:
    """What became of the requests of `load`, and what the server held, read `every` seconds meanwhile."""
    readings: list[dict[str, int]] = []

    async def read() -> None:
        while True:
            readings.append(served.measure())
            await asyncio.sleep(every)

    async def run() -> dict[str, Any]:
        reader = asyncio.create_task(read())
        tally = await load
        reader.cancel()
        return tally.describe()

    return asyncio.run(run()), readings


def measure_overload(served: ServedProcess, tasks: list[Task], rate: float, seconds: float) -> dict[str, Any]:
    before = served.measure()
    found, readings = run_watched(served, run_arrivals(served.url, tasks, rate, seconds), 1.0)
    settle(served)
    time.sleep(5)
    after, peak = served.measure(), max(reading["rss_bytes"] for reading in readings)
    return found | {
        "offered_per_s": rate,
        "before": before,
        "after": after,
        "peak_rss_bytes": peak,
        "rss_after_to_before": after["rss_bytes"] / before["rss_bytes"],
    }


def measure_soak(served: ServedProcess, tasks: list[Task], seconds: float) -> dict[str, Any]:
    """Memory and descriptors over a long run: the median of the second quarter against that of the last."""
    every = min(SAMPLE_SECONDS, seconds / 20)
    found, readings = run_watched(served, run_clients(served.url, tasks, 8, seconds), every)
    quarter = len(readings) // 4
    second, last = readings[quarter : 2 * quarter], readings[-quarter:]
    for name in ("rss_bytes", "descriptors"):
        found[name] = [reading[name] for reading in readings]
        found[f"{name}_last_to_second_quarter"] = median(r[name] for r in last) / median(r[name] for r in second)
    return found


def count_batch(before: dict[str, float], served: ServedProcess) -> float:
    """Mean number of windows that were encoded together since `before` was read; 0 if none were."""
    now = served.read_metrics()
    windows, batches = (
        now[f"sc_runtime_batch_windows_{name}"] - before[f"sc_runtime_batch_windows_{name}"]
        for name in ("sum", "count")
    )
    return windows / batches if batches else 0.0


def show(part: str, found: Any) -> None:
    if part == "clients":
        names = ("requests_per_s", "sound_s_per_s", "times_one_client", "batch", "p50_s", "p95_s", "p99_s", "wrong")
        table = make_table("", "task", "clients", *names, left=("task",))
        for row in found:
            table.add_row(row["task"], str(row["clients"]), *(f"{row[name]:.3g}" for name in names))
        open_console().print(table)
        return
    found = found if isinstance(found, list) else [found]
    for each in found:
        open_console().print(part, {name: value for name, value in each.items() if not isinstance(value, list)})


if __name__ == "__main__":
    run_app(app)
