"""The least time that each stage needs on a GPU: its arithmetic or its weights, whichever takes longer."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from bench.harness.bundles import find_sizes, take_config
from bench.harness.parts import Skipped
from sc_runtime.bundle.store import Bundle
from sc_runtime.semanticodec.config import SAMPLE_RATE
from sc_runtime.semanticodec.windows import split_windows

from .stages import GRAPH_STAGES


def count_work(bundle: Bundle) -> dict[str, Any]:
    """Counts, for every graph, the FLOP of one window, the bytes of the weights and the nodes.

    torch counts the FLOP from shapes.

    `launches` is the number of nodes that compute on activations, as exported and in each variant. A node may launch
    more than one kernel.
    """
    if importlib.util.find_spec("torch") is None:
        raise Skipped("torch, which counts the FLOP, is not installed")
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from sc_runtime.export.semanticodec.graphs import GRAPHS

    config, sizes = take_config(bundle), find_sizes(bundle)
    work: dict[str, Any] = {}
    for name, graph in GRAPHS.items():
        work[name] = {"bytes": bundle.count_bytes(name), "launches": count_nodes(bundle, name)}
        if name == "acoustic_encoder":  # each weight acts at each position; the LSTM's R is read at each anew
            width = 2 if bundle.manifest.is_half(name) else 4
            work[name]["flop"] = 2 * config.positions * work[name]["bytes"] // width
            work[name]["recurrent_bytes"] = width * sizes.lstm_layers * 2 * 4 * (2 * config.feature_width) ** 2
            continue
        with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.inference_mode():
            specs = graph.inputs(sizes).values()
            shapes = [(spec.resolve(batch=1, frames=1024), getattr(torch, spec.dtype)) for spec in specs]
            graph.build(sizes).eval()(*(torch.empty(shape, dtype=dtype) for shape, dtype in shapes))
        work[name]["flop"] = counter.get_total_flops()
    return work


def count_nodes(bundle: Bundle, graph: str) -> dict[str, int]:
    """The nodes of `graph` that compute, as it was exported and in its variant for each engine."""
    import onnx_ir as ir

    from sc_runtime.export.rewrite.counting import count_launches

    engines: dict[str, str | None] = {"exported": None}
    engines |= {engine: engine for engine in bundle.manifest.graphs[graph].variants}
    return {name: count_launches(ir.load(bundle.find_graph(graph, engine)).graph) for name, engine in engines.items()}


def find_floors(row: Mapping[str, Any], bundle: Bundle, steps: int, results: Mapping[str, Any]) -> dict[str, Any]:
    """For each stage of `row` the floor in seconds, whether arithmetic or memory sets it, and the time over the floor.

    results: parts "ceilings" and "work". Without them there are no floors.
    """
    ceilings, work = results.get("ceilings"), results.get("work")
    if not ceilings or not work:
        return {}
    config, floors = take_config(bundle), {}
    positions = config.count_positions(round(row["seconds"] * SAMPLE_RATE))
    windows = -(-positions // config.positions)
    #: graph -> (windows that it computes, times that its weights are read)
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
