"""Parts of `bench/gpu.py`: the denoising loop, encoding and decoding by stage, the published procedure and a peer."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from bench.harness.bundles import find_sizes, remake_weights, take_config
from bench.harness.gpu import (
    choose_torch_device,
    open_backend,
    open_bundle,
    read_free_memory,
    require_real_gpu,
    time_calls,
    wait_for_torch,
)
from bench.harness.parts import Session
from sc_runtime.accuracy import relative_error
from sc_runtime.bundle.store import Bundle
from sc_runtime.codec import Codec
from sc_runtime.cuda.graph import RECENT
from sc_runtime.errors import CodecError, first_line
from sc_runtime.once import OnceEach
from sc_runtime.semanticodec.config import LATENT_SHAPE
from sc_runtime.semanticodec.model import SemantiCodecModel
from sc_runtime.semanticodec.noise import SeededNoise, WindowNoise
from sc_runtime.semanticodec.presets import PRESETS, Sampling
from sc_runtime.semanticodec.resident import ResidentDecoder

from .floors import count_work, find_floors
from .inputs import make_codes, make_sound
from .stages import StageClock, open_timed_codec

REPEATS = 3  #: runs of a row of the runtime; the published procedure does one
WINDOWS = (1, 7, 16)  #: decoded together
WINDOW_SECONDS = 9.6  #: between the starts of two windows
PUBLISHED_SECONDS = (10, 60)
PEER_BATCHES = (2, 32)
STEPS, REHEARSED_STEPS = 50, 2


def count_floors(session: Session) -> dict[str, Any]:
    """The arithmetic and the bytes of every graph, for the floors of other parts."""
    return count_work(open_bundle(session))


def choose_steps(session: Session) -> int:
    return REHEARSED_STEPS if session.rehearsal else STEPS


def choose_windows(session: Session) -> tuple[int, ...]:
    return (1, 2) if session.rehearsal else WINDOWS


def time_loop(session: Session) -> dict[str, Any]:
    """The denoising loop alone, step by step on the host and then captured, and how far their latents are apart.

    A loop that fails has the reason in its row; the others are timed all the same. Sums of GroupNorm are added in any
    order on a GPU, so there the two latents need not be equal.
    """
    bundle = open_bundle(session)
    codec = Codec(bundle, open_backend(session))
    decoder, config, steps = decoder_of(codec), take_config(bundle), choose_steps(session)
    sampling, rows = Sampling(steps=steps), []
    for windows in choose_windows(session):
        codes = [make_codes(WINDOW_SECONDS, config)[: config.positions].astype(np.int64)] * windows
        latents: list[np.ndarray] = []
        for capture in (False, True):
            row: dict[str, Any] = {"windows": windows, "captured": capture}
            try:
                spent, latent = time_one_loop(decoder, codes, config, sampling, capture)
            except CodecError as error:
                row["failed"] = first_line(error)
            else:
                row |= spent
                latents.append(latent)
            if len(latents) == 2:
                row["latent_error"] = relative_error(latents[1], latents[0])
            rows.append(row)
            session.keep({"rows": rows, "steps": steps})
    return {"rows": rows, "steps": steps}


def time_one_loop(
    decoder: ResidentDecoder, codes: list[np.ndarray], config: Any, sampling: Sampling, capture: bool
) -> tuple[dict[str, Any], np.ndarray]:
    """Seconds of the loop for these windows, and the latents [B, 8, 256, 16] after it. Raises BackendError."""
    device = decoder.device
    with device.lock:
        decoder._groups = OnceEach(RECENT)
        group = decoder.prepare(len(codes))
        decoder.condition(group, codes, config)
        started = time.perf_counter()
        step = group.prepare_step(True, capture)
        device.sync()
        prepared = time.perf_counter() - started
        noises = [WindowNoise(SeededNoise(0), window) for window in range(len(codes))]
        run = partial(group.denoise, sampling, config.schedule, noises)
        spent = time_calls(run, device.sync, REPEATS, 1)
        latents = np.empty((len(codes), *LATENT_SHAPE), np.float32)
        device.read(group.latents, latents)
    row = {"s": spent["median"], "min_s": spent["min"], "max_s": spent["max"], "prepared_s": prepared}
    return row | {"refusal": step.refusal if capture else None}, latents


def time_runtime(session: Session) -> dict[str, Any]:
    """Encoding and decoding 1, 7 and 16 windows, by stage, with the floor of each; the GPU's memory.

    Encoding comes first: it is quick, and the first decoding of each number of windows is not. The stages of the first
    run are kept too. They hold what is done once: a trial of the capture, and cuDNN's plans for these shapes. A row
    that fails has the reason, and the others follow.
    """
    bundle, before = open_bundle(session), read_free_memory()
    clock = StageClock()
    codec = open_timed_codec(bundle, open_backend(session), clock)
    config, steps = take_config(bundle), choose_steps(session)
    measured = {"ceilings": session.find("ceilings"), "work": session.find("work")}
    rows: list[dict[str, Any]] = []
    for windows, direction in itertools.product(choose_windows(session), ("encode", "decode")):
        seconds = 10.24 + WINDOW_SECONDS * (windows - 1) if direction == "decode" else 10.24 * windows - 0.2
        seconds = 1.0 * windows if session.rehearsal else seconds
        sound, codes = make_sound(seconds), make_codes(seconds, config)
        runs: list[dict[str, float]] = []
        row: dict[str, Any] = {"windows": windows, "direction": direction}
        rows.append(row)
        try:
            for number in range(1 + REPEATS):
                clock.start()
                if direction == "encode":
                    codec.encode(sound)
                else:
                    codec.decode(codes, steps=steps)
                clock.lap("rest")
                runs.append(clock.stages)
                if number == 0:
                    row |= {"first_run_s": sum(runs[0].values()), "first_stages_s": runs[0]}
                    session.keep({"rows": rows, "steps": steps})
        except CodecError as error:
            row["failed"] = first_line(error)
        else:
            row |= describe_row(direction, seconds, runs[1:])
            row["floors"] = find_floors(row, bundle, steps, measured)
            if direction == "decode":
                row["loop_not_captured"] = list_refusals(decoder_of(codec))
        session.keep({"rows": rows, "steps": steps})
    after = read_free_memory()
    used = None if before is None or after is None else before - after
    return {"rows": rows, "steps": steps, "gpu_bytes": used}


def list_refusals(decoder: ResidentDecoder) -> list[str]:
    """Why loops of `decoder` are no CUDA graphs; empty if all are."""
    return [why for group in decoder._groups.values() for why in group.refusals]


def decoder_of(codec: Codec) -> ResidentDecoder:
    assert isinstance(codec.model, SemantiCodecModel) and codec.model.decoder is not None
    return codec.model.decoder


def time_unicodec(session: Session) -> dict[str, Any]:
    """UniCodec on the GPU: encoding and decoding 10 and 30 s."""
    bundle = open_bundle(session, "unicodec")
    codec, rows = Codec(bundle, open_backend(session)), []
    for seconds in (1.0,) if session.rehearsal else (10.0, 30.0):
        sound, codes = make_sound(seconds, codec.sample_rate), make_codes(seconds, codec.config)
        runs: dict[str, Callable[[], object]] = {
            "encode": partial(codec.encode, sound),
            "decode": partial(codec.decode, codes),
        }
        for direction, run in runs.items():
            spent = time_calls(run, lambda: None, REPEATS)
            rows.append({"direction": direction, "seconds": seconds, **spent, "rtf": spent["median"] / seconds})
            session.keep({"rows": rows})
    return {"rows": rows}


def time_published(session: Session) -> dict[str, Any]:
    """The published procedure in PyTorch eager: one run of each row, after a short one that is not counted."""
    device = choose_torch_device(session)
    import torch

    from bench.reference.semanticodec import PublishedCodec

    bundle, clock, sampling, noise = open_bundle(session), StageClock(), PRESETS["reference"], SeededNoise(0)
    wait = wait_for_torch(device)

    def lap(stage: str) -> None:
        wait()
        clock.lap(stage)

    codec = PublishedCodec(find_sizes(bundle), remake_weights(bundle), lap, device)

    def run(direction: str, seconds: float, steps: int) -> dict[str, Any]:
        sound, codes = make_sound(seconds), make_codes(seconds, codec.config)
        clock.start()
        if direction == "encode":
            codec.encode(sound)
        else:
            codec.decode(codes, steps=steps, guidance=sampling.guidance, eta=sampling.eta, noise=noise)
        lap("rest")
        return describe_row(direction, seconds, [clock.stages])

    rows: list[dict[str, Any]] = []
    for seconds, direction in itertools.product((1,) if session.rehearsal else PUBLISHED_SECONDS, ("encode", "decode")):
        if not rows and not session.rehearsal:
            run("encode", 1, 2)
            run("decode", 1, 2)
        rows.append(run(direction, seconds, choose_steps(session)))
        session.keep({"rows": rows})
    return {"rows": rows, "gpu_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None}


def describe_row(direction: str, seconds: float, runs: list[dict[str, float]]) -> dict[str, Any]:
    """Medians of the runs, given in seconds by stage."""
    names = dict.fromkeys(name for run in runs for name in run)
    stages = {name: median(run.get(name, 0.0) for run in runs) for name in names}
    total = median(sum(run.values()) for run in runs)
    return {"direction": direction, "seconds": seconds, "total_s": total, "rtf": total / seconds, "stages_s": stages}


def warm_peer(session: Session) -> dict[str, Any]:
    """In the background: compile the T-UNet with torch.compile for both batches, so that its cache is warm."""
    return run_peer(session, repeats=0)


def time_peer(session: Session) -> dict[str, Any]:
    """The T-UNet by torch.compile in a CUDA graph, FP16, at 2 and 32 branches: what a compiler makes of it."""
    return run_peer(session, repeats=10)


def run_peer(session: Session, repeats: int) -> dict[str, Any]:
    require_real_gpu(session)
    import torch

    torch.set_grad_enabled(False)
    from sc_runtime.export.registry import read_tensors
    from sc_runtime.export.semanticodec.graphs import GRAPHS, NETWORKS
    from sc_runtime.export.spec import load_network

    bundle: Bundle = open_bundle(session)
    sizes, weights = find_sizes(bundle), remake_weights(bundle)
    network: Any = load_network(NETWORKS["tunet"], sizes, read_tensors("decoder", weights, sizes)).cuda().half()
    network.time_embed.register_forward_pre_hook(round_embedding)
    rows: list[dict[str, Any]] = []
    for batch in PEER_BATCHES:
        torch._dynamo.reset()
        specs = GRAPHS["tunet_step"].inputs(sizes).values()
        inputs = [
            torch.full(spec.resolve(batch=batch), 500, device="cuda")
            if spec.dtype == "int64"
            else torch.randn(spec.resolve(batch=batch), device="cuda", dtype=torch.float16)
            for spec in specs
        ]
        started = time.perf_counter()
        compiled = torch.compile(network, mode="reduce-overhead" if repeats else "default")
        with torch.device("cuda"):
            for _ in range(3):
                compiled(*inputs)
            torch.cuda.synchronize()
            row: dict[str, Any] = {"batch": batch, "compiled_in_s": time.perf_counter() - started}
            if repeats:
                spent = time_calls(partial(compiled, *inputs), torch.cuda.synchronize, repeats)
                row |= {"s": spent["median"], "min_s": spent["min"]}
        rows.append(row)
        session.keep({"rows": rows})
    return {"rows": rows}


def round_embedding(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The embedding of the step, which is computed in float32, in the type of the network that takes it."""
    return tuple(argument.half() for argument in arguments)


def compare_speeds(results: dict[str, Any]) -> dict[str, Any]:
    """How many times as fast as the published procedure the runtime is, by windows: from the RTF of the longest row."""
    published = {row["direction"]: row["rtf"] for row in results.get("published", {}).get("rows", [])}
    rows = [
        {"direction": row["direction"], "windows": row["windows"], "times": published[row["direction"]] / row["rtf"]}
        for row in results.get("decode", {}).get("rows", [])
        if row["direction"] in published and "rtf" in row
    ]
    return {"rows": rows}
