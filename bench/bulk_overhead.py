"""What a collection costs beyond encoding: locally, and on Ray. `bulk.py` is the command."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

import numpy as np
import psutil
import soundfile

from bench.harness.timing import time_in_turns
from bench.kills import NICENESS
from sc_runtime.codec import Codec
from sc_runtime.collection.local import split
from sc_runtime.collection.tokenize import tokenize_collection
from sc_runtime.collection.worker import Worker, WorkerSettings
from sc_runtime.errors import CodecError

RATE = 16000
REPEATS = 5


def write_recordings(folder: Path, lengths: Sequence[float], rate: int = RATE) -> list[Path]:
    """A FLAC file of tones and noise for each of `lengths`, in seconds."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(16)
    paths = []
    for number, seconds in enumerate(lengths):
        times = np.arange(round(seconds * rate)) / rate
        sound = 0.2 * np.sin(2 * np.pi * (100 + number % 900) * times) + 0.05 * generator.standard_normal(len(times))
        paths.append(folder / f"{number:06}.flac")
        soundfile.write(paths[-1], sound.astype(np.float32), rate)
    return paths


def prepare(source: Path, out: Path, bundle: str, shard_files: int) -> tuple[Worker, list[int]]:
    """A worker whose networks are loaded, and the shards of a plan for `source`, none of which exists."""
    tokenize_collection(source, out, bundle=bundle, shard_files=shard_files)
    worker = Worker(WorkerSettings(str(out), bundle))
    remove_shards(out)
    return worker, list(range(len(worker.plan.shards)))


def remove_shards(out: Path) -> None:
    for path in out.glob("shard-*"):
        path.unlink()


def compare(bundle: str, lengths: Sequence[float], bare: Callable[[Codec, list[Path]], None]) -> dict[str, Any]:
    """Encoding files of `lengths` by `bare`, and as a collection, in turns with the same codec.

    Beside the seconds there are those of CPU time, which other programs disturb less.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = write_recordings(Path(folder, "in"), lengths)
        out = Path(folder, "out")
        worker, numbers = prepare(Path(folder, "in"), out, bundle, max(1, len(paths) // 4))

        def run_shards() -> None:
            remove_shards(out)
            list(worker.run(numbers))

        cpu: dict[str, list[float]] = {"bare": [], "collection": []}

        def count_cpu(case: str, run: Callable[[], object]) -> None:
            begun = time.process_time()
            run()
            cpu[case].append(time.process_time() - begun)

        cases = {
            "bare": partial(count_cpu, "bare", lambda: bare(worker.codec, paths)),
            "collection": partial(count_cpu, "collection", run_shards),
        }
        seconds = time_in_turns(cases, REPEATS)
    return {
        "files": len(lengths),
        "seconds_of_sound": sum(lengths),
        "seconds": seconds,
        "real_time_factor": {case: sum(lengths) / median(times) for case, times in seconds.items()},
        "cpu_seconds": {case: found[1:] for case, found in cpu.items()},  # the first is not counted
        "overhead": compute_overhead(seconds),
        "cpu_overhead": compute_overhead({case: found[1:] for case, found in cpu.items()}),
    }


def compute_overhead(seconds: dict[str, list[float]]) -> float:
    """The median of what the collection takes more, as a share, turn by turn."""
    return median(after / before for before, after in zip(seconds["bare"], seconds["collection"], strict=True)) - 1


def encode_together(codec: Codec, paths: list[Path]) -> None:
    for tokens in codec.encode_many(paths):
        assert not isinstance(tokens, CodecError)


def encode_one_by_one(codec: Codec, paths: list[Path]) -> None:
    for path in paths:
        codec.encode(path)


def measure_overhead(bundle: str) -> dict[str, Any]:
    """Against the loop over `encode_many` on the same files, of 5 s: at most 5 %."""
    return compare(bundle, [5.0] * 96, encode_together)


def measure_mixed(bundle: str) -> dict[str, Any]:
    """Lengths of 1 to 40 s, against encoding one by one."""
    return compare(bundle, np.random.default_rng(16).uniform(1, 40, 40).round(3).tolist(), encode_one_by_one)


RAY_SHARD_FILES = 12
RAY_FILES = 96


def measure_ray(bundle: str) -> dict[str, Any]:
    """Ray with one worker against the loop over `encode_many`, each on one thread, in turns: at most 15 %.

    The time of Ray is that from the first group of shards to the last one, for the files between, so that start-up is
    apart. The CPU time is that of this process and of the worker. Ray's other processes use a share of a core that does
    not depend on the work; it is stated beside.
    """
    os.environ.setdefault(NICENESS, "0")  # both sides alike
    found: dict[str, list[float]] = {"bare": [], "ray": [], "cpu_bare": [], "cpu_ray": [], "cores_of_the_rest": []}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in")
        paths = write_recordings(source, [5.0] * RAY_FILES)
        codec = Codec.load(bundle, threads=1)
        encode_together(codec, paths[:12])
        for turn in range(REPEATS):
            begun, cpu = time.perf_counter(), time.process_time()
            encode_together(codec, paths)
            found["bare"].append((time.perf_counter() - begun) / len(paths))
            found["cpu_bare"].append((time.process_time() - cpu) / len(paths))
            seconds, work, rest, files = time_ray(source, Path(folder, f"out{turn}"), bundle)
            found["ray"].append(seconds / files)
            found["cpu_ray"].append(work / files)
            found["cores_of_the_rest"].append(rest / seconds)
    return {
        "files": RAY_FILES,
        "seconds_a_file": found,
        "overhead": compute_overhead({"bare": found["bare"], "collection": found["ray"]}),
        "cpu_overhead": compute_overhead({"bare": found["cpu_bare"], "collection": found["cpu_ray"]}),
    }


def time_ray(source: Path, out: Path, bundle: str) -> tuple[float, float, float, int]:
    """After the first group of shards: seconds, CPU seconds of driver and worker, those of the rest of Ray, files.

    A thread looks when shards appear: the driver learns it later, when the worker has begun the next group.
    """
    shards = RAY_FILES // RAY_SHARD_FILES
    first = len(split(list(range(shards)), RAY_SHARD_FILES, 1)[0])
    moments: dict[int, tuple[float, float, float]] = {}

    def watch() -> None:
        while shards not in moments:
            present = len(list(out.glob("shard-*")))
            if present >= first and present not in moments:
                moments[present] = time.perf_counter(), *count_cpu_seconds()
            time.sleep(0.02)

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    tokenize_collection(source, out, bundle=bundle, shard_files=RAY_SHARD_FILES, engine="ray", workers=1, threads=1)
    watcher.join()
    begun = min(moments)  # the thread may miss some
    seconds, work, rest = np.subtract(moments[shards], moments[begun]).tolist()
    return seconds, work, rest, (shards - begun) * RAY_SHARD_FILES


def count_cpu_seconds() -> tuple[float, float]:
    """CPU seconds of this process and the workers below it; of all else below it. Only processes that live count."""
    work, rest = time.process_time(), 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            times, name = process.cpu_times(), " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        if "MapWorker" in name:
            work += times.user + times.system
        else:
            rest += times.user + times.system
    return work, rest
