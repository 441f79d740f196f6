"""Parts of `bench/gpu.py` that run one graph again and again: under other options, profiled, and dropped."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from bench.harness.gpu import open_backend, open_bundle, require_real_gpu, time_calls
from bench.harness.parts import Session
from sc_runtime.cuda.device import Device, Memory
from sc_runtime.cuda.graph import Call, DeviceGraph
from sc_runtime.errors import BackendError, first_line

RELEASES = 8  #: sessions that are dropped
KERNELS = 40  #: of a graph that are named in a profile
PROFILED: tuple[tuple[str, dict[str, int]], ...] = (
    ("tunet_step", {"batch": 2}),
    ("tunet_step", {"batch": 32}),
    ("vae_decoder", {"batch": 16}),
    ("hifigan", {"batch": 16, "frames": 1024}),
    ("audiomae", {"batch": 16}),
    ("acoustic_encoder", {"batch": 16}),
)
LEVERS: dict[str, dict[str, str]] = {
    "none": {},  # as the runtime runs it
    "without Tensor Cores": {"use_tf32": "0"},
    "exported": {},  # the graph without the passes of export/rewrite
    "EXHAUSTIVE": {"cudnn_conv_algo_search": "EXHAUSTIVE"},
    "biases apart": {"fuse_conv_bias": "0"},
    "[N, C, T, 1]": {"cudnn_conv1d_pad_to_nc1d": "0"},
    "prefer_nhwc": {"prefer_nhwc": "1"},
}  #: of ONNX Runtime's CUDA provider
LEVER_SHAPES: dict[str, tuple[dict[str, int], ...]] = {
    "tunet_step": ({"batch": 2}, {"batch": 32}),
    "hifigan": ({"batch": 1, "frames": 1024}, {"batch": 16, "frames": 1024}),
}


def try_levers(session: Session) -> dict[str, Any]:
    """The T-UNet, one call with both branches, and HiFi-GAN under each option of ONNX Runtime's CUDA provider.

    The T-UNet runs call by call, and as the CUDA graph that ONNX Runtime makes of it.
    """
    bundle, rows = open_bundle(session), []
    for name, options in LEVERS.items():
        backend = open_backend(session)
        if not session.rehearsal:
            engine = None if name == "exported" else backend.provider.engine
            backend.provider = dataclasses.replace(backend.provider, engine=engine, options=options)
        for key, shapes in LEVER_SHAPES.items():
            try:
                graph = backend.open(bundle, key)
            except BackendError as error:
                rows.append({"lever": name, "graph": key, "failed": first_line(error)[:300]})
                continue
            for axes in shapes[:1] if session.rehearsal else shapes:
                for recorded in (False, True) if graph.records_itself else (False,):
                    row: dict[str, Any] = {"lever": name, "graph": key, **axes, "recorded": recorded}
                    try:
                        row |= time_graph(backend.gpu, graph, axes, recorded)
                    except BackendError as error:
                        row["failed"] = first_line(error)[:300]
                    rows.append(row)
                    session.keep({"rows": rows})
    return {"rows": rows}


def time_graph(gpu: Device, graph: DeviceGraph, axes: dict[str, int], recorded: bool) -> dict[str, Any]:
    """Seconds of a run of `graph` on inputs of ones, and of the first one, in which cuDNN makes its plans."""
    with gpu.lock:
        _held, call = bind_ones(gpu, graph, axes, recorded)
        first = time_calls(call.enqueue, gpu.sync, 1, 0)
        spent = time_calls(call.enqueue, gpu.sync, 5, 1)
    return {"s": spent["median"], "min_s": spent["min"], "first_s": first["median"]}


def bind_ones(gpu: Device, graph: DeviceGraph, axes: dict[str, int], recorded: bool) -> tuple[dict[str, Memory], Call]:
    """Memory for all inputs and outputs of `graph`, the inputs filled with ones, and the graph bound to it."""
    held = {key: gpu.allocate(size) for key, size in graph.count_bytes(**axes).items()}
    for key, spec in graph.inputs.items():
        gpu.write(held[key].address, np.ones(spec.resolve(**axes), spec.dtype))
    bind = graph.bind_recorded if recorded else graph.bind
    return held, bind({key: memory.address for key, memory in held.items()}, **axes)


def profile_graphs(session: Session) -> dict[str, Any]:
    """The GPU's time in each kernel of a run of the decoder's graphs: what is worth making faster."""
    require_real_gpu(session)
    from torch.profiler import ProfilerActivity, profile

    bundle, backend = open_bundle(session), open_backend(session)
    found: dict[str, Any] = {}
    for key, axes in PROFILED:
        graph = backend.open(bundle, key)
        with backend.gpu.lock:
            _held, call = bind_ones(backend.gpu, graph, axes, False)
            for _ in range(2):
                call.enqueue()
            backend.gpu.sync()
            with profile(activities=[ProfilerActivity.CUDA]) as profiler:
                call.enqueue()
                backend.gpu.sync()
        events = [event for event in profiler.key_averages() if event.self_device_time_total]
        events.sort(key=lambda event: -event.self_device_time_total)
        found[f"{key} {axes}"] = {
            "us": sum(event.self_device_time_total for event in events),
            "launches": sum(event.count for event in events),
            "kernels": {event.key[:90]: [event.count, event.self_device_time_total] for event in events[:KERNELS]},
        }
        session.keep(found)
    return found


def release_sessions(session: Session) -> dict[str, Any]:
    """Open, run and drop a graph with an LSTM many times, with and without CUDA graphs: it must not end the process."""
    bundle, backend = open_bundle(session), open_backend(session)
    options = {"with": {"enable_cuda_graph": "1"}, "without": {"enable_cuda_graph": "0"}}
    if session.rehearsal:
        options = {"without": {}}
    found: dict[str, Any] = {}
    for name, chosen in options.items():
        backend.provider = dataclasses.replace(backend.provider, options=chosen)
        for count in range(1, RELEASES + 1):
            graph = backend.open(bundle, "acoustic_encoder")
            entry = graph.inputs["features"]
            graph.run({"features": np.ones(entry.resolve(batch=1 + count % 2), entry.dtype)})
            del graph
            found[f"{name} CUDA graphs, sessions dropped"] = count
            session.keep(found)
    return found
