"""What tokenising a collection costs beyond encoding, and whether it survives kills.

    python bench/bulk.py [overhead mixed reading plan short memory kills ray ray-kills] [--bundle embedded]

Each part of the result is kept in bench/results/bulk.json, for each bundle, with the machine's record. The other parts
stay as they are. Parts that are ratios time both cases in turns. Start-up (loading the bundle, starting Ray) is apart.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import soundfile

from bench.harness.machine import measure_peak_memory
from bench.harness.printing import log
from bench.harness.processes import Child
from bench.harness.results import RESULTS, describe_command, describe_run, write_results
from bench.harness.timing import time_in_turns
from bench.kills import Victims, find_local_victims, ray_cluster, read_folder, start_command, survive
from sc_runtime.codec import Codec
from sc_runtime.collection.tokenize import tokenize_collection
from sc_runtime.collection.worker import Worker, WorkerSettings
from sc_runtime.errors import CodecError, SettingsError

RATE = 16000
REPEATS = 5
PACKAGES = ("pyarrow", "fsspec", "ray")
RESULT = RESULTS / "bulk.json"


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


def measure_reading(bundle: str) -> dict[str, Any]:
    """Seconds of sound a second of one core's time: decoding FLAC, and the whole way to the codec's windows."""
    found: dict[str, dict[str, float]] = {}
    codec = Codec.load(bundle)
    with tempfile.TemporaryDirectory() as folder:
        for rate in (16000, 48000):
            (path,) = write_recordings(Path(folder, str(rate)), [600.0], rate)

            def read_windows(path: Path = path) -> None:
                from sc_runtime.audio import Audio

                with Audio(path, rate=codec.sample_rate, mono=codec.model.spec.mono) as audio:
                    for _ in codec.model.plan_windows(audio, codec.config).windows:
                        pass

            cases: dict[str, Callable[[], object]]
            cases = {"decoding": partial(soundfile.read, path), "windows": read_windows}
            for case, run in cases.items():
                times = []
                for _ in range(REPEATS):
                    begun = time.process_time()
                    run()
                    times.append(time.process_time() - begun)
                found.setdefault(f"flac_{rate}", {})[case] = 600.0 / median(times)
    return found


def measure_plan(bundle: str) -> dict[str, Any]:
    """100 000 files planned: at most 20 s and 500 MB."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(100_000):
            path = Path(folder, "in", f"{number // 1000:03}", f"{number:06}.flac")
            if number % 1000 == 0:
                path.parent.mkdir(parents=True)
            path.touch()
        with Child("planning", PlanOnly, bundle) as child:
            first = child.ask("planning", folder)
        with Child("planning again", PlanOnly, bundle) as child:
            return {"files": 100_000, "first": first, "again": child.ask("planning again", folder)}


class PlanOnly:
    """Plans a collection and encodes a part of it that has no shard."""

    def __init__(self, bundle: str) -> None:
        self.bundle = bundle

    def answer(self, folder: str) -> dict[str, float]:
        outcome = tokenize_collection(f"{folder}/in", f"{folder}/out", bundle=self.bundle, part=(200, 200))
        return {"seconds": outcome.planning, "peak_bytes": measure_peak_memory()}


class EncodeAll:
    """Encodes a collection."""

    def __init__(self, bundle: str) -> None:
        self.bundle = bundle

    def answer(self, source: str, out: str) -> dict[str, Any]:
        outcome = tokenize_collection(source, out, bundle=self.bundle, verify=5)
        assert outcome.verification and not outcome.verification.differing and not outcome.failures
        written = sum(path.stat().st_size for path in Path(out).glob("shard-*"))
        facts = outcome.to_json()
        kept = ("files", "seconds", "elapsed", "planning", "real_time_factor")
        return {name: facts[name] for name in kept} | {"peak_bytes": measure_peak_memory(), "bytes_written": written}


def measure_collection(bundle: str, lengths: Sequence[float]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        write_recordings(Path(folder, "in"), lengths)
        with Child("encoding", EncodeAll, bundle) as child:
            return child.ask("encoding", f"{folder}/in", f"{folder}/out")


def measure_short(bundle: str) -> dict[str, Any]:
    """2 000 short files end to end."""
    return measure_collection(bundle, np.random.default_rng(16).uniform(0.2, 2.0, 2000).round(3).tolist())


def measure_memory(bundle: str) -> dict[str, Any]:
    """Peak memory of 1 h and of 20 h, in recordings of 10 minutes: within 200 MB of each other."""
    found = {f"{hours} h": measure_collection(bundle, [600.0] * 6 * hours) for hours in (1, 20)}
    peaks = [entry["peak_bytes"] for entry in found.values()]
    return {**found, "difference_bytes": peaks[1] - peaks[0]}


def measure_kills(bundle: str, kills: int = 60) -> dict[str, Any]:
    """Kills of drivers and workers. The folder is that of an undisturbed run, byte for byte, or this raises."""
    return kill_runs(bundle, kills, ["--workers", 2])


def measure_ray_kills(bundle: str, kills: int = 40) -> dict[str, Any]:
    """Kills of drivers, workers and nodes of a Ray cluster of three."""
    with ray_cluster() as (address, find_victims):
        return kill_runs(bundle, kills, ["--engine", "ray"], find_victims, {"RAY_ADDRESS": address})


def kill_runs(
    bundle: str,
    kills: int,
    options: list[object],
    find_victims: Victims = find_local_victims,
    variables: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    if bundle != "embedded":  # which `start_command` takes
        raise SettingsError(f"kills with --bundle {bundle}", "embedded")
    with tempfile.TemporaryDirectory() as folder:
        source, out, expected = (Path(folder, name) for name in ("in", "out", "expected"))
        write_recordings(source, np.random.default_rng(16).uniform(0.2, 2.0, 300).round(3).tolist())
        start = partial(start_command, source, "--shard-files", 6, *options, variables=variables)
        started = time.perf_counter()
        assert start("-o", expected).wait() == 0
        undisturbed = time.perf_counter() - started
        files = read_folder(expected)
        found = survive(partial(start, "-o", out), find_victims, out, files, kills, undisturbed)
    return {**found, "shards": len(files) - 2, "undisturbed_seconds": undisturbed, "equal": True}


def measure_ray(bundle: str) -> dict[str, Any]:
    """Ray with one worker against the loop over `encode_many`, both from N to 2 N files, so that start-up cancels."""
    lengths, seconds = [5.0] * 192, []
    with tempfile.TemporaryDirectory() as folder:
        codec = Codec.load(bundle, threads=1)
        for count in (len(lengths) // 2, len(lengths)):
            paths = write_recordings(Path(folder, f"in{count}"), lengths[:count])
            encode_together(codec, paths[:2])
            started = time.perf_counter()
            encode_together(codec, paths)
            bare = time.perf_counter() - started
            source, target = Path(folder, f"in{count}"), Path(folder, f"out{count}")
            outcome = tokenize_collection(
                source, target, bundle=bundle, shard_files=24, engine="ray", workers=1, threads=1
            )
            seconds.append((bare, outcome.elapsed))
    bare, on_ray = (after - before for before, after in zip(*seconds, strict=True))
    return {"files": len(lengths) // 2, "bare_seconds": bare, "ray_seconds": on_ray, "overhead": on_ray / bare - 1}


PARTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "overhead": measure_overhead,
    "mixed": measure_mixed,
    "reading": measure_reading,
    "plan": measure_plan,
    "short": measure_short,
    "memory": measure_memory,
    "kills": measure_kills,
    "ray": measure_ray,
    "ray-kills": measure_ray_kills,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="what to measure; all by default")
    parser.add_argument("--bundle", default="embedded")
    arguments = parser.parse_args()
    for part in arguments.parts or PARTS:
        run, begun = describe_run(*PACKAGES), time.perf_counter()
        found = PARTS[part](arguments.bundle)
        log.print(f"{part}: {time.perf_counter() - begun:.0f} s\n{json.dumps(found, indent=1)}")
        kept = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
        entry = {**run, "command": describe_command("bench/bulk.py"), "measured": found}
        kept.setdefault(part, {})[Path(arguments.bundle).name] = entry
        write_results(RESULT, kept)


if __name__ == "__main__":
    main()
