"""Everything that a GPU is for, on the GPU at hand, in one JSON: `python bench/gpu.py`.

- the centroid search: exact on a thousand random and adversarial cases, and its time (as `bench/nearest.py` takes it);
- every graph, whole encodes and whole decodes on each backend for GPUs, against ONNX Runtime on the CPU;
- encoding and decoding by stage beside the published procedure (PyTorch eager, same GPU), memory, and each stage's
  floor: its arithmetic at the rate of a large FP16 product, or its weights at the speed of a large copy, both measured
  here, whichever takes longer.
What cannot run is skipped, and the JSON says why. It is written after each part, so a time limit cuts off only what
comes later; `--minutes` bounds the whole.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Annotated, Any

with suppress(ImportError):
    import torch  # first: the CUDA libraries that it loads are those that ONNX Runtime looks for

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, Python looks in bench/ only

from bench.kernels import nearest
from bench.machine import ROOT, describe_commit, describe_machine, list_versions
from bench.rtf import parse_seconds
from bench.speed.semanticodec import take_config, take_model
from bench.speed.sides import (
    GRAPH_STAGES,
    StageClock,
    TimedGraph,
    TimedSearch,
    make_codes,
    make_sound,
    time_host_stages,
)
from bench.speed.subjects import SUBJECTS, find_seed
from sc_runtime import Codec, CodecError
from sc_runtime.backends.select import ABSENCES, choose_backend
from sc_runtime.backends.tensorrt import backend as tensorrt
from sc_runtime.bundle.locate import bundles_folder, list_bundles, locate_bundle
from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.program import run_app
from sc_runtime.cuda import device
from sc_runtime.cuda.nearest import CudaNearestCentroid
from sc_runtime.cuda.source import check
from sc_runtime.errors import first_line
from sc_runtime.files import write_atomically
from sc_runtime.semanticodec.config import SAMPLE_RATE, Schedule
from sc_runtime.semanticodec.noise import SeededNoise
from sc_runtime.semanticodec.presets import Sampling
from sc_runtime.semanticodec.resident import ResidentDecoder
from sc_runtime.semanticodec.windows import split_windows
from sc_runtime.spec import Noise

FORMAT = 1  #: of the JSON
BACKENDS = ("tensorrt", "onnxruntime-cuda")
TINY_WIDTH = 16  #: of the networks of size tiny
CASES = 1000  #: of the centroid search
REPEATS = 3  #: runs of a row; the published procedure does one
COMPARED_STEPS = 4  #: of the decode that the CPU repeats
RESERVED = 30.0  #: seconds that a part must have left to begin

STAGES = SUBJECTS["semanticodec"].stages

log = Console(stderr=True, highlight=False)
app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Skipped(Exception):
    """Why a part is not run."""


@app.command()
def main(
    bundle: Annotated[str | None, typer.Option(help="A bundle's folder or name; else the newest FP16 one.")] = None,
    size: Annotated[str, typer.Option(help="full or tiny: what to look for, and to build if there is none.")] = "full",
    seconds: Annotated[str, typer.Option(help="Durations of audio, comma-separated.")] = "5,10,30,60",
    steps: Annotated[int, typer.Option(help="Of DDIM, on both sides.")] = 50,
    minutes: Annotated[float, typer.Option(help="For all parts together; building a bundle comes before.")] = 8.0,
    out: Annotated[Path | None, typer.Option(help="The JSON; by default bench/results/gpu-GPU.json.")] = None,
) -> None:
    """Run every part that can run here; print a summary and write the JSON."""
    loaded, gpu = Bundle.load(locate_bundle(bundle) if bundle else find_bundle(size)), describe_gpu()
    take_config(loaded)  # raises for another codec
    label = re.sub(r"\W+", "-", gpu["name"].lower()) if gpu else "none"
    out = out or ROOT / "bench" / "results" / f"gpu-{label}.json"
    bench = Bench(loaded, Sampling(steps=steps), parse_seconds(seconds), time.perf_counter() + 60 * minutes, out, gpu)
    bench.run("ceilings", measure_ceilings)
    bench.run("work", partial(count_work, loaded))
    bench.run("centroids, exact", partial(check_centroids, bench))
    bench.run("centroids, time", partial(time_centroids, bench))
    for backend in BACKENDS:
        opened: list[Codec] = []
        bench.run(f"{backend}, opened", partial(open_codec, backend, loaded, opened))
        for codec in opened:
            bench.run(f"{backend}, graphs", partial(compare_graphs, codec))
            bench.run(f"{backend}, whole", partial(compare_whole, codec))
            bench.run(f"{backend}, speed", partial(time_runtime, codec, bench))
    bench.run("published, speed", partial(time_published, bench))
    bench.run("ratios", partial(compare_speeds, bench))
    bench.print_summary()


@dataclass
class Bench:
    """What is measured on what, the parts' results, why others have none, and the file that they go to."""

    bundle: Bundle
    sampling: Sampling
    durations: list[float]
    deadline: float
    out: Path
    gpu: dict[str, Any] | None
    results: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        manifest = self.bundle.manifest
        self.head = {
            "format": FORMAT,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "commit": describe_commit(),
            "command": " ".join(["python", "bench/gpu.py", *sys.argv[1:]]),
            "machine": describe_machine(),
            "gpu": self.gpu,
            "versions": list_versions(*nearest.PACKAGES),
            "bundle": {"name": self.bundle.name, "weights": manifest.weights, "precision": manifest.precision},
        }

    @property
    def left(self) -> float:
        return self.deadline - time.perf_counter()

    def run(self, part: str, work: Callable[[], dict[str, Any]]) -> None:
        """Keep what `work` gives, or in `skipped` why it gives nothing. A part that fails does not end the others."""
        log.print(f"{part} ({self.left:.0f} s left)")
        started = time.perf_counter()
        try:
            if self.left < RESERVED:
                raise Skipped("no time left")
            self.results[part] = work() | {"took_s": time.perf_counter() - started}
        except (Skipped, CodecError) as reason:
            self.skipped[part] = str(reason)
        except Exception as error:  # whatever it is, a lease is too short to lose the rest
            self.skipped[part] = f"failed: {type(error).__name__}: {first_line(error)}"
            log.print(traceback.format_exc(), markup=False)
        document = {**self.head, "skipped": self.skipped, "results": self.results}
        self.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.out, (json.dumps(document, indent=1, default=np.generic.item) + "\n").encode())

    def print_summary(self) -> None:
        console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 140)
        for part, result in self.results.items():
            console.print(f"{part}: {format_value({k: v for k, v in result.items() if not isinstance(v, list)})}")
            if rows := result.get("rows"):
                table = Table(*rows[0])
                for row in rows:
                    table.add_row(*map(format_value, row.values()))
                console.print(table)
        for part, reason in self.skipped.items():
            console.print(f"skipped: {part}: {reason}", soft_wrap=True)
        console.print(f"Wrote {self.out}", soft_wrap=True)


# --- ceilings, kernels ------------------------------------------------------------------------------------------------


def measure_ceilings() -> dict[str, Any]:
    """FLOP/s of a large FP16 product, bytes/s read and written by a large copy."""
    need_gpu(with_torch=True)
    source = torch.empty(1 << 31, dtype=torch.int8, device="cuda").random_()
    target = torch.empty_like(source)
    task = nearest.Task(lambda: target.copy_(source), lambda: np.empty(0))
    copied = nearest.time_on_gpu(task, 10)["warm_s"]["median"]
    return {"fp16_flop_per_s": nearest.measure_rate(20), "bytes_per_s": 2 * len(source) / copied}


def check_centroids(bench: Bench) -> dict[str, Any]:
    """The random and adversarial cases of the tests, in other sizes, against float64."""
    need_gpu()
    try:
        from tests import test_kernels as cases
    except ImportError as error:
        raise Skipped(f"the cases are in tests/test_kernels.py ({error})") from None
    gpu, wrong, exact = nearest.Device(), [], dict.fromkeys(cases.CASES, 0)
    for seed in range(CASES):
        kind = list(exact)[seed % len(exact)]
        generator = np.random.default_rng(seed)
        count, size = int(generator.integers(1, 33)), int(generator.integers(1, 700))
        width = int(generator.choice([1, 7, 16, 64, 192, 768]))
        codebook, queries = cases.CASES[kind](generator, count, size, width)
        try:
            cases.check_nearest(codebook, queries, CudaNearestCentroid(codebook, gpu).search(queries))
            exact[kind] += 1
        except AssertionError as error:
            wrong.append(f"{kind}, seed {seed}, {count} x {size} x {width}: {first_line(error)}")
        if bench.left < 2 * RESERVED:
            break
    return {"exact": sum(exact.values()), "wrong": len(wrong), "by_kind": exact, "first_wrong": wrong[:20]}


def time_centroids(bench: Bench) -> dict[str, Any]:
    need_gpu(with_torch=True)
    rate, ways = bench.results["ceilings"]["fp16_flop_per_s"], nearest.list_gpu_ways(nearest.Device(), {})
    return {"rows": [nearest.measure_row(shape, ways, True, 5, rate) for shape in nearest.parse_rows(nearest.ROWS)]}


# --- backends against the CPU -----------------------------------------------------------------------------------------


def open_codec(backend: str, bundle: Bundle, opened: list[Codec]) -> dict[str, Any]:
    """Put the codec on `backend` into `opened`, with plans where it needs them and there are none."""
    if reason := ABSENCES[backend]():
        raise Skipped(reason)
    if backend == "tensorrt" and not tensorrt.has_plans(bundle):
        from sc_runtime.export.plans import build_plans

        build_plans(bundle, tensorrt.choose_target(bundle), report=log.print)
    opened.append(Codec(bundle, choose_backend(backend, bundle=bundle)))
    return {"device": opened[0].backend.device, "free_bytes": read_free_memory()}


def compare_graphs(codec: Codec) -> dict[str, Any]:
    """Relative error of every graph's worst output, two windows at once, standard normal inputs."""
    cpu, generator, errors = choose_backend("onnxruntime"), np.random.default_rng(0), {}
    for name, entry in codec.bundle.manifest.graphs.items():
        feeds = {}
        for key, spec in entry.inputs.items():
            shape = spec.resolve(batch=2, frames=1024)
            drawn = generator.integers(1, 1000, shape) if spec.dtype == "int64" else generator.standard_normal(shape)
            feeds[key] = drawn.astype(spec.dtype)
        found, truth = codec.networks.open_graph(name).run(feeds), cpu.open(codec.bundle, name).run(feeds)
        errors[name] = max(relative_error(found[key], truth[key]) for key in truth)
    return errors


def compare_whole(codec: Codec) -> dict[str, Any]:
    """Tokens and sound of 12 s beside those of ONNX Runtime on the CPU, from the same seed and bundle."""
    reference, sound = Codec(codec.bundle, choose_backend("onnxruntime")), make_sound(12)
    decoder = take_model(codec).decoder
    found, expected = codec.encode(sound).codes, reference.encode(sound)
    equal = (found == expected.codes).mean(axis=0)
    decoded, truth = (each.decode(expected, steps=COMPARED_STEPS, seed=1) for each in (codec, reference))
    assert isinstance(decoder, ResidentDecoder)
    return {
        "equal_semantic_tokens": equal[0],
        "equal_acoustic_tokens": equal[1],
        "waveform_error": relative_error(decoded, truth),
        "steps": COMPARED_STEPS,
        "loop_not_captured": [group.loop.refusal for group in decoder._groups.values() if group.loop.refusal],
    }


def relative_error(found: np.ndarray, truth: np.ndarray) -> float:
    truth = truth.astype(np.float64)
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


# --- speed ------------------------------------------------------------------------------------------------------------


class TimedDecoder:
    """A decoder that waits for the GPU after each stage, some ten microseconds a time."""

    def __init__(self, decoder: ResidentDecoder, clock: StageClock) -> None:
        self.decoder, self.clock, self.batch = decoder, clock, decoder.batch

    def run(
        self, features: np.ndarray, sampling: Sampling, schedule: Schedule, noise: Noise, windows: range, samples: int
    ) -> np.ndarray:
        group = self.decoder.prepare(len(features), sampling, schedule)
        stages: dict[str, Callable[[], None]] = {
            "conditioning": partial(group.condition, features),
            "tunet": partial(group.denoise, noise, windows),
            "vae_decoder": group.decode_latent,
        }
        self.clock.lap("rest")
        for stage, enqueue in stages.items():
            enqueue()
            self.decoder.device.sync()
            self.clock.lap(stage)
        sound = group.vocode(samples)
        self.clock.lap("hifigan")
        return sound


def time_runtime(codec: Codec, bench: Bench) -> dict[str, Any]:
    """Medians of `REPEATS` runs of each row by stage, after one that is not counted; memory of the GPU."""
    clock, config, decoder = StageClock(), take_config(codec.bundle), take_model(codec).decoder
    clock.start()
    time_host_stages(clock)
    for name in ("audiomae", "acoustic_encoder"):
        codec.networks.graphs[name] = TimedGraph(codec.networks.open_graph(name), name, clock)
    for book in (f"semantic-{config.vocab}", "acoustic"):
        codec.networks.searches[book] = TimedSearch(codec.networks.open_search(book), clock)
    assert isinstance(decoder, ResidentDecoder)
    codec.model.__dict__["decoder"] = TimedDecoder(decoder, clock)
    rows = []
    for direction, length in product(STAGES, bench.durations):
        sound, codes = make_sound(length), make_codes(length, config)
        runs: list[dict[str, float]] = []
        while len(runs) <= REPEATS and bench.left > RESERVED:
            clock.start()
            if direction == "encode":
                codec.encode(sound)
            else:
                codec.decode(codes, steps=bench.sampling.steps)
            clock.lap("rest")
            runs.append(clock.stages)
        if runs[1:]:
            row = describe_row(direction, length, runs[1:])
            rows.append(row | {"floors": find_floors(row, bench)})
    free, before = read_free_memory(), bench.results[f"{codec.backend.name}, opened"]["free_bytes"]
    return {"rows": rows, "gpu_bytes": before - free}


def time_published(bench: Bench) -> dict[str, Any]:
    """One run of each row, after a short one that is not counted; rows that would not end in time are left out."""
    need_gpu(with_torch=True)
    from bench.reference.semanticodec import PublishedCodec
    from sc_runtime.export.seeded import SeededWeights

    clock, sampling, noise = StageClock(), bench.sampling, SeededNoise(0)

    def lap(stage: str) -> None:
        torch.cuda.synchronize()
        clock.lap(stage)

    codec = PublishedCodec(find_sizes(bench.bundle), SeededWeights(find_seed(bench.bundle)), lap, "cuda")

    def run(direction: str, length: float, steps: int) -> dict[str, Any]:
        sound, codes = make_sound(length), make_codes(length, codec.config)
        clock.start()
        if direction == "encode":
            codec.encode(sound)
        else:
            codec.decode(codes, steps=steps, guidance=sampling.guidance, eta=sampling.eta, noise=noise)
        lap("rest")
        return describe_row(direction, length, [clock.stages])

    for direction in STAGES:
        run(direction, 1, 2)
    rows: list[dict[str, Any]] = []
    for direction, length in product(STAGES, bench.durations):
        rtf = max((row["rtf"] for row in rows if row["direction"] == direction), default=0.0)
        if rtf * length < bench.left - RESERVED:
            rows.append(run(direction, length, sampling.steps))
    return {"rows": rows, "gpu_bytes": torch.cuda.max_memory_allocated()}


def describe_row(direction: str, length: float, runs: list[dict[str, float]]) -> dict[str, Any]:
    names = dict.fromkeys(name for run in runs for name in run)
    stages = {name: median(run.get(name, 0.0) for run in runs) for name in names}
    total = median(sum(run.values()) for run in runs)
    return {"direction": direction, "seconds": length, "total_s": total, "rtf": total / length, "stages_s": stages}


def compare_speeds(bench: Bench) -> dict[str, Any]:
    """How many times as fast as the published procedure each backend is, by row."""
    if (published := bench.results.get("published, speed")) is None:
        raise Skipped("there is nothing to compare with")
    rows = [
        {"backend": backend, "direction": ours["direction"], "seconds": ours["seconds"]}
        | {"times": theirs["total_s"] / ours["total_s"]}
        for backend in BACKENDS
        for ours in bench.results.get(f"{backend}, speed", {}).get("rows", [])
        for theirs in published["rows"]
        if (ours["direction"], ours["seconds"]) == (theirs["direction"], theirs["seconds"])
    ]
    return {"rows": rows}


# --- floors -----------------------------------------------------------------------------------------------------------


def count_work(bundle: Bundle) -> dict[str, Any]:
    """FLOP of every graph for one window, counted on shapes alone, and bytes of its weights."""
    if "torch" not in sys.modules:
        raise Skipped("torch, which counts, is not installed")
    from torch.utils.flop_counter import FlopCounterMode

    from sc_runtime.export.semanticodec.graphs import GRAPHS

    config, sizes, work = take_config(bundle), find_sizes(bundle), {}
    for name, graph in GRAPHS.items():
        work[name] = {"bytes": bundle.count_bytes(name)}
        if name == "acoustic_encoder":  # every weight is used at every position; R of the LSTM has to come anew
            width = 2 if bundle.manifest.precision == "fp16" else 4
            work[name]["flop"] = 2 * config.positions * work[name]["bytes"] // width
            work[name]["recurrent_bytes"] = width * sizes.lstm_layers * 2 * 4 * (2 * config.feature_width) ** 2
            continue
        with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.inference_mode():
            specs = graph.inputs(sizes).values()
            shapes = [(spec.resolve(batch=1, frames=1024), getattr(torch, spec.dtype)) for spec in specs]
            graph.build(sizes).eval()(*(torch.empty(shape, dtype=dtype) for shape, dtype in shapes))
        work[name]["flop"] = counter.get_total_flops()
    return work


def find_floors(row: dict[str, Any], bench: Bench) -> dict[str, Any]:
    """For each stage the seconds it cannot do without here, what asks for them, and how many times that it takes."""
    ceilings, work = bench.results.get("ceilings"), bench.results.get("work")
    if not ceilings or not work:
        return {}
    config, steps, floors = take_config(bench.bundle), bench.sampling.steps, {}
    positions = config.count_positions(round(row["seconds"] * SAMPLE_RATE))
    windows = -(-positions // config.positions)
    #: graph -> windows that it does arithmetic for, times that its weights are read
    loads = {"audiomae": (windows, 1), "acoustic_encoder": (windows, 1)}
    if row["direction"] == "decode":
        windows = len(split_windows(positions, config))
        loads = {"conditioning": (windows, 1), "vae_decoder": (windows, 1), "hifigan": (windows, 1)}
        loads["tunet_step"] = (2 * windows * steps, steps)
    for graph, (count, passes) in loads.items():
        read = work[graph]["bytes"] * passes + work[graph].get("recurrent_bytes", 0) * (config.positions - 1)
        arithmetic, memory = count * work[graph]["flop"] / ceilings["fp16_flop_per_s"], read / ceilings["bytes_per_s"]
        floor, held_by = max((arithmetic, "arithmetic"), (memory, "memory"))
        stage = GRAPH_STAGES.get(graph, graph)
        floors[stage] = {"floor_s": floor, "held_by": held_by, "times": row["stages_s"].get(stage, 0.0) / floor}
    return floors


# --- the machine, the bundle ------------------------------------------------------------------------------------------


def need_gpu(with_torch: bool = False) -> None:
    if reason := device.explain_absence():
        raise Skipped(reason)
    if with_torch and ("torch" not in sys.modules or not torch.cuda.is_available()):
        raise Skipped("torch is not installed, or finds no GPU")


def describe_gpu() -> dict[str, Any] | None:
    if device.explain_absence():
        return None
    gpu, query = device.Device(), ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
    found = {"name": gpu.name, "arch": gpu.arch, "multiprocessors": gpu.processors}
    with suppress(OSError, subprocess.CalledProcessError):
        found["driver_and_memory"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    return found


def read_free_memory() -> int:
    from cuda.bindings import driver

    return int(check(driver.cuMemGetInfo())[0])


def find_bundle(size: str) -> Path:
    """The newest FP16 bundle of `size`; one of stand-in weights is built first where there is none."""
    for path in list_bundles():
        with suppress(CodecError):
            bundle = Bundle.load(path)
            is_tiny = take_config(bundle).width == TINY_WIDTH
            if bundle.manifest.precision == "fp16" and is_tiny == (size == "tiny"):
                return path
    out = bundles_folder() / f"gpu-bench-{size}"
    command = [sys.executable, "-m", "sc_runtime.export.build", "--tps", "50", "--seeded", "1", "--size", size]
    subprocess.run([*command, "--precision", "fp16", "--out", str(out)], check=True)
    return out


def find_sizes(bundle: Bundle) -> Any:
    """`NetworkSizes` of the bundle's networks."""
    from sc_runtime.export.semanticodec.networks.sizes import choose_sizes

    config = take_config(bundle)
    return choose_sizes("tiny" if config.width == TINY_WIDTH else "full", config.tps, config.vocab)


def format_value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {format_value(entry)}" for key, entry in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run_app(app)
