"""What tokenising a collection costs beyond encoding, and whether it survives kills.

    python bench/bulk.py [overhead mixed reading plan short memory kills ray ray-kills] [--bundle embedded]

Each part of the result is kept in bench/results/bulk.json, for each bundle, with the machine's record. The other parts
stay as they are. Parts that are ratios time both cases in turns. Start-up (loading the bundle, starting Ray) is apart.
"""

from __future__ import annotations

import argparse
import json
import os
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

from bench.bulk_overhead import REPEATS, measure_mixed, measure_overhead, measure_ray, write_recordings
from bench.harness.machine import measure_peak_memory
from bench.harness.printing import log
from bench.harness.processes import Child
from bench.harness.results import RESULTS, describe_command, describe_run, write_results
from bench.kills import (
    LOCAL_KINDS,
    RAY_KINDS,
    Victims,
    find_local_victims,
    ray_cluster,
    read_folder,
    start_command,
    survive,
)
from sc_runtime.codec import Codec
from sc_runtime.collection.tokenize import tokenize_collection
from sc_runtime.errors import SettingsError

SHARDS = 30  #: of the collections that are killed
PACKAGES = ("pyarrow", "fsspec", "ray")
RESULT = RESULTS / "bulk.json"


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
        begun = time.process_time()
        outcome = tokenize_collection(f"{folder}/in", f"{folder}/out", bundle=self.bundle, part=(200, 200))
        cpu = time.process_time() - begun
        return {"seconds": outcome.planning, "cpu_seconds": cpu, "peak_bytes": measure_peak_memory()}


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


def measure_collection(bundle: str, lengths: Sequence[float], times: int = 1) -> dict[str, Any]:
    """Encode recordings of `lengths`, each of which has `times` names."""
    with tempfile.TemporaryDirectory() as folder:
        for path in write_recordings(Path(folder, "in"), lengths):
            for number in range(1, times):
                path.with_name(f"{path.stem}-{number}.flac").hardlink_to(path)
        with Child("encoding", EncodeAll, bundle) as child:
            return child.ask("encoding", f"{folder}/in", f"{folder}/out")


def measure_short(bundle: str) -> dict[str, Any]:
    """2 000 short files end to end."""
    return measure_collection(bundle, np.random.default_rng(16).uniform(0.2, 2.0, 2000).round(3).tolist())


def measure_memory(bundle: str) -> dict[str, Any]:
    """Peak memory of 1 h and of 20 h, in recordings of 10 minutes: within 200 MB of each other."""
    found = {f"{hours} h": measure_collection(bundle, [600.0] * 6, times=hours) for hours in (1, 20)}
    peaks = [entry["peak_bytes"] for entry in found.values()]
    return {**found, "difference_bytes": peaks[1] - peaks[0]}


def measure_kills(bundle: str, kills: int = 60) -> dict[str, Any]:
    """Kills of drivers and workers. The folder is that of an undisturbed run, byte for byte, or this raises."""
    return kill_runs(bundle, kills, 60, ["--workers", 2], LOCAL_KINDS, find_local_victims)


def measure_ray_kills(bundle: str, kills: int = 40) -> dict[str, Any]:
    """Kills of drivers, workers and nodes of a Ray cluster of three.

    There are more recordings than locally: the others go on while a node starts in the place of one that was killed.
    """
    with ray_cluster() as (address, find_victims):
        return kill_runs(bundle, kills, 240, ["--engine", "ray"], RAY_KINDS, find_victims, {"RAY_ADDRESS": address})


def kill_runs(
    bundle: str,
    kills: int,
    recordings: int,
    options: list[object],
    kinds: Sequence[str],
    find_victims: Victims,
    variables: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    if bundle != "embedded":  # which `start_command` takes
        raise SettingsError(f"kills with --bundle {bundle}", "embedded")
    with tempfile.TemporaryDirectory() as folder:
        source, out, expected = (Path(folder, name) for name in ("in", "out", "expected"))
        write_recordings(source, np.random.default_rng(16).uniform(0.2, 2.0, recordings).round(3).tolist())
        start = partial(start_command, source, "--shard-files", recordings // SHARDS, *options, variables=variables)
        started = time.perf_counter()
        assert start("-o", expected).wait() == 0
        undisturbed = time.perf_counter() - started
        files = read_folder(expected)
        times = [path.stat().st_mtime for path in expected.glob("shard-*")]
        pause = 2 * (max(times) - min(times)) / len(times)  # without the start
        found = survive(partial(start, "-o", out), find_victims, kinds, out, files, kills, pause)
    return {**found, "undisturbed_seconds": undisturbed, "equal": True}


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
        after = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        entry = {**run, "command": describe_command("bench/bulk.py"), "load_after": after, "measured": found}
        kept.setdefault(part, {})[Path(arguments.bundle).name] = entry
        write_results(RESULT, kept)


if __name__ == "__main__":
    main()
