"""Parts of `bench/gpu.py`: the BiLSTM by kernels/recurrence.cu and by cuDNN, timed, and compared with float32."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from bench.harness.gpu import (
    choose_torch_device,
    open_backend,
    open_bundle,
    open_device,
    time_calls,
    wait_for_torch,
)
from bench.harness.parts import Session
from sc_runtime.backends.lstm_child import compare
from sc_runtime.backends.lstm_choice import IN_TURN, TOGETHER, find_trial
from sc_runtime.cuda.lstm import BiLstm
from sc_runtime.libraries import import_onnxruntime

GRAPH = "acoustic_encoder"
RATES, WINDOWS = (100, 50, 25), (1, 16)
REHEARSED_POSITIONS = 8
REPEATS = 5


def choose_lstm(session: Session) -> dict[str, Any]:
    """The trial that chooses the BiLSTM of the bundle, whose outcome the parts behind this one use.

    `errors` are against float32 on the CPU. A rehearsal compares one window in the emulation, in this process.
    """
    choose_torch_device(session)
    bundle, backend = open_bundle(session), open_backend(session)
    if session.rehearsal:
        trial = compare(backend, bundle, GRAPH, windows=WINDOWS[:1], runs=1)
        return asdict(trial) | {"chosen": trial.choose()}
    library = f"onnxruntime {import_onnxruntime().__version__}"
    trial = find_trial(bundle, GRAPH, backend.name, library, backend.gpu.name)
    return asdict(trial) | {"chosen": trial.choose()}


def time_lstm(session: Session) -> dict[str, Any]:
    """Each rate, for 1 and 16 windows, by cuDNN in FP16 and by the kernel in its two ways: seconds and relative error.

    The error is that of the encoder's output against torch in float32. The weights are torch's usual random ones, made
    on the GPU: at 25 tokens a second they are 1.5 billion, which take a core of a CPU seconds.
    """
    device = choose_torch_device(session)
    import torch

    from sc_runtime.export.semanticodec.networks.acoustic_encoder import AcousticEncoder
    from sc_runtime.export.semanticodec.networks.sizes import choose_sizes

    rows: list[dict[str, Any]] = []
    opened: list[dict[str, Any]] = []  #: seconds until the kernel's weights are packed and on the GPU
    torch.set_grad_enabled(False)

    def add(way: str, windows: int, found: np.ndarray, spent: dict[str, Any], tps: int, truth: np.ndarray) -> None:
        error = float(np.linalg.norm(found - truth) / np.linalg.norm(truth))
        times = {"s": spent["median"], "min_s": spent["min"]}
        rows.append({"tps": tps, "windows": windows, "way": way, **times, "error": error})
        session.keep({"rows": rows, "opened": opened})

    for tps in RATES[1:2] if session.rehearsal else RATES:
        sizes = choose_sizes("tiny" if session.rehearsal else "full", tps, 32768)
        length = REHEARSED_POSITIONS if session.rehearsal else sizes.config.positions
        torch.manual_seed(0)
        with torch.device(device):
            exact = AcousticEncoder(sizes)
        kind = torch.float32 if session.rehearsal else torch.float16  # torch has no LSTM in half precision on the CPU
        half = deepcopy(exact).to(kind)
        half.encoder.flatten_parameters()
        inputs = {windows: torch.randn(windows, length, 2 * sizes.config.feature_width) for windows in WINDOWS}
        truths = {windows: exact(x.to(device)).double().cpu().numpy() for windows, x in inputs.items()}
        for windows, x in inputs.items():
            given = x.to(device, kind)
            spent = time_calls(partial(half, given), wait_for_torch(device), REPEATS)
            add("cuDNN", windows, half(given).double().cpu().numpy(), spent, tps, truths[windows])
        weights = list_weights(exact, sizes)
        del exact, half
        if not session.rehearsal:
            torch.cuda.empty_cache()
        for way in (TOGETHER, IN_TURN):
            started = time.perf_counter()
            lstm = BiLstm(open_device(session), weights, way == IN_TURN)
            opened.append({"tps": tps, "way": way, "s": time.perf_counter() - started})
            for windows, x in inputs.items():
                add(way, windows, *time_kernel(lstm, x.numpy()), tps, truths[windows])
    return {"rows": rows, "opened": opened}


def list_weights(network: Any, sizes: Any) -> dict[str, np.ndarray]:
    """The weights of an `AcousticEncoder` in float16, by the names of the exported module."""
    import torch

    from sc_runtime.export.semanticodec.networks.acoustic_encoder import (
        OnnxAcousticEncoder,
        convert_lstm,
        list_lstm_parts,
    )

    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in OnnxAcousticEncoder(sizes).state_dict().items()}
    state, weights = network.state_dict(), {}
    for name, shape in shapes.items():
        parts = [state[part] for part in list_lstm_parts(name, shape)]
        weights[name] = (convert_lstm(*parts) if parts else state[name]).half().cpu().numpy()
    return weights


def time_kernel(lstm: BiLstm, x: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """The output for x [B, L, H], and the seconds of a run."""
    device, (batch, length, _) = lstm.device, x.shape
    found = np.empty((batch, length, lstm.features), np.float32)
    with device.lock:
        features, acoustic = device.upload(x), device.allocate(found.nbytes)
        run: Callable[[], None] = lstm.bind(features.address, acoustic.address, batch, length).enqueue
        spent = time_calls(run, device.sync, REPEATS)
        device.read(acoustic.address, found)
    return found, spent
