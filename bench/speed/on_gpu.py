"""Parts of `bench/gpu.py`: encoding and decoding by stage on a GPU, the runtime and the published procedure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any

from bench.harness.bundles import find_sizes, remake_weights, take_config
from bench.harness.gpu import read_free_memory, require_torch_gpu
from bench.harness.parts import RESERVED, Parts, Skipped
from sc_runtime.bundle.store import Bundle
from sc_runtime.codec import Codec
from sc_runtime.semanticodec.noise import SeededNoise
from sc_runtime.semanticodec.presets import Sampling
from sc_runtime.spec import DecodeOptions

from .floors import find_floors
from .inputs import make_codes, make_sound
from .sides import DIRECTIONS
from .stages import StageClock

REPEATS = 3  #: runs of a row of the runtime; the published procedure does one


@dataclass(frozen=True)
class Plan:
    """What is timed: a bundle, DDIM with these settings on both sides, and durations in seconds."""

    bundle: Bundle
    sampling: Sampling
    durations: list[float]


def time_runtime(codec: Codec, clock: StageClock, plan: Plan, parts: Parts) -> dict[str, Any]:
    """Medians of `REPEATS` runs of each row by stage, after one that is not counted; the GPU's memory in bytes.

    `codec` charges its stages to `clock`.
    """
    config, options = take_config(plan.bundle), DecodeOptions(steps=plan.sampling.steps)
    rows = []
    for direction, seconds in product(DIRECTIONS, plan.durations):
        sound, codes = make_sound(seconds), make_codes(seconds, config)
        runs: list[dict[str, float]] = []
        while len(runs) <= REPEATS and parts.seconds_left > RESERVED:
            clock.start()
            if direction == "encode":
                codec.encode(sound)
            else:
                codec.decode(codes, options)
            clock.lap("rest")
            runs.append(clock.stages)
        if runs[1:]:
            row = describe_row(direction, seconds, runs[1:])
            rows.append(row | {"floors": find_floors(row, plan.bundle, plan.sampling.steps, parts.results)})
    free, before = read_free_memory(), parts.results[f"{codec.backend.name}, opened"]["free_bytes"]
    return {"rows": rows, "gpu_bytes": before - free}


def time_published(plan: Plan, parts: Parts) -> dict[str, Any]:
    """One run of each row, after a short one that is not counted. Rows that would end too late are left out."""
    require_torch_gpu()
    import torch

    from bench.reference.semanticodec import PublishedCodec

    clock, sampling, noise = StageClock(), plan.sampling, SeededNoise(0)

    def lap(stage: str) -> None:
        torch.cuda.synchronize()
        clock.lap(stage)

    codec = PublishedCodec(find_sizes(plan.bundle), remake_weights(plan.bundle), lap, "cuda")

    def run(direction: str, seconds: float, steps: int) -> dict[str, Any]:
        sound, codes = make_sound(seconds), make_codes(seconds, codec.config)
        clock.start()
        if direction == "encode":
            codec.encode(sound)
        else:
            codec.decode(codes, steps=steps, guidance=sampling.guidance, eta=sampling.eta, noise=noise)
        lap("rest")
        return describe_row(direction, seconds, [clock.stages])

    for direction in DIRECTIONS:
        run(direction, 1, 2)
    rows: list[dict[str, Any]] = []
    for direction, seconds in product(DIRECTIONS, plan.durations):
        rtf = max((row["rtf"] for row in rows if row["direction"] == direction), default=0.0)
        if rtf * seconds < parts.seconds_left - RESERVED:
            rows.append(run(direction, seconds, sampling.steps))
    return {"rows": rows, "gpu_bytes": torch.cuda.max_memory_allocated()}


def describe_row(direction: str, seconds: float, runs: list[dict[str, float]]) -> dict[str, Any]:
    """Medians of the runs, given in seconds by stage."""
    names = dict.fromkeys(name for run in runs for name in run)
    stages = {name: median(run.get(name, 0.0) for run in runs) for name in names}
    total = median(sum(run.values()) for run in runs)
    return {"direction": direction, "seconds": seconds, "total_s": total, "rtf": total / seconds, "stages_s": stages}


def compare_speeds(backends: Sequence[str], parts: Parts) -> dict[str, Any]:
    """How many times as fast as the published procedure each backend is, row by row."""
    if (published := parts.results.get("published, speed")) is None:
        raise Skipped("there is nothing to compare with")
    rows = [
        {"backend": backend, "direction": ours["direction"], "seconds": ours["seconds"]}
        | {"times": theirs["total_s"] / ours["total_s"]}
        for backend in backends
        for ours in parts.results.get(f"{backend}, speed", {}).get("rows", [])
        for theirs in published["rows"]
        if (ours["direction"], ours["seconds"]) == (theirs["direction"], theirs["seconds"])
    ]
    return {"rows": rows}
