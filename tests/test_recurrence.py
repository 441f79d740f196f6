"""The BiLSTM that is split into its operators, against a plain LSTM in float64."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from sc_runtime.accuracy import relative_error
from sc_runtime.backends.fastest import FastestBackend
from sc_runtime.backends.openvino.backend import OpenVinoGraph
from sc_runtime.backends.openvino.recurrence import OUTPUT, ROWS, RecurrentGraph, is_recurrent
from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.store import Bundle

openvino = pytest.importorskip("openvino")

Weights = dict[str, np.ndarray]


def draw_weights(width: int, layers: int, seed: int = 0) -> Weights:
    """Weights of a stack [L, B, 2H] -> [L, B, H / 2]. They are large, so that the gates leave their linear part."""
    generator = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {OUTPUT: (width // 2, 2 * width)}
    for layer in range(layers):
        shapes |= {
            f"w{layer}": (2, 4 * width, 2 * width if layer else width),
            f"r{layer}": (2, 4 * width, width),
            f"b{layer}": (2, 8 * width),
        }
    return {
        name: generator.standard_normal(shape, np.float32) / np.float32(width**0.25) for name, shape in shapes.items()
    }


def run_plainly(weights: Weights, x: np.ndarray) -> np.ndarray:
    """The definition: torch's documentation of `nn.LSTM`, in ONNX's gate order and float64."""

    def sigmoid(values: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-values))

    layer, sequence = 0, x.astype(np.float64)
    while f"w{layer}" in weights:
        w, r, b = (weights[f"{kind}{layer}"].astype(np.float64) for kind in "wrb")
        outputs = []
        for side, times in enumerate((range(x.shape[1]), reversed(range(x.shape[1])))):
            hidden = cell = np.zeros((len(x), r.shape[2]))
            states: dict[int, np.ndarray] = {}
            for time in times:
                gates = sequence[:, time] @ w[side].T + hidden @ r[side].T + b[side].reshape(2, -1).sum(axis=0)
                i, o, f, candidate = np.split(gates, 4, axis=1)
                cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(candidate)
                states[time] = hidden = sigmoid(o) * np.tanh(cell)
            outputs.append(np.stack([states[time] for time in range(x.shape[1])], axis=1))
        sequence = np.concatenate(outputs, axis=2)
        layer += 1
    return sequence @ weights[OUTPUT].T.astype(np.float64)


def open_graph(weights: Weights, precision: str = "f32") -> RecurrentGraph:
    return RecurrentGraph(openvino.Core(), weights, {"INFERENCE_PRECISION_HINT": precision})


@pytest.fixture(scope="module")
def weights() -> Weights:
    return draw_weights(width=32, layers=3)


@pytest.fixture(scope="module")
def graph(weights: Weights) -> RecurrentGraph:
    return open_graph(weights)


@pytest.mark.parametrize(
    ("batch", "length"),
    [
        (1, 1),
        (1, 40),
        (3, 41),
        (2, ROWS // 2),  # exactly one part
        (2, ROWS // 2 + 1),  # and a part of a single position
        (5, ROWS // 2 + 7),  # parts of unequal length
        (ROWS + 1, 3),  # parts of one position
    ],
)
def test_float32_is_the_plain_lstm(graph: RecurrentGraph, weights: Weights, batch: int, length: int) -> None:
    x = np.random.default_rng(length).standard_normal((batch, length, 32), np.float32)
    found = graph.run({"features": x})["acoustic"]
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert relative_error(found, run_plainly(weights, x)) < 1e-5


def test_answers_do_not_change_when_the_graph_runs_again(graph: RecurrentGraph) -> None:
    x = np.random.default_rng(0).standard_normal((2, 300, 32), np.float32)
    first = graph.run({"features": x})["acoustic"]
    kept = first.copy()
    graph.run({"features": -x})
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(graph.run({"features": x})["acoustic"], kept)


def test_windows_of_a_batch_do_not_influence_each_other(graph: RecurrentGraph) -> None:
    x = np.random.default_rng(0).standard_normal((4, 100, 32), np.float32)
    alone = np.concatenate([graph.run({"features": window[None]})["acoustic"] for window in x])
    assert relative_error(graph.run({"features": x})["acoustic"], alone) < 1e-6


def test_bfloat16_rounds_products_only(weights: Weights) -> None:
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")
    x = np.random.default_rng(0).standard_normal((3, 200, 32), np.float32)
    truth = run_plainly(weights, x)
    error = relative_error(open_graph(weights, "bf16").run({"features": x})["acoustic"], truth)
    assert 1e-5 < error < 0.05


def test_the_exported_encoder_gives_what_onnxruntime_gives(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    x = np.random.default_rng(0).standard_normal((3, 256, 64), np.float32)
    graph = choose_backend("openvino", precision="float32").open(bundle, "acoustic_encoder")
    assert isinstance(graph, RecurrentGraph)
    found = graph.run({"features": x})
    truth = choose_backend("onnxruntime").open(bundle, "acoustic_encoder").run({"features": x})
    assert found.keys() == truth.keys()
    assert relative_error(found["acoustic"], truth["acoustic"]) < 1e-5


def test_auto_takes_it_for_a_large_encoder(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.load(tiny_bundle)
    assert not isinstance(FastestBackend().open(bundle, "acoustic_encoder"), RecurrentGraph)
    monkeypatch.setattr("sc_runtime.backends.fastest.SMALL_BYTES", 0)
    assert isinstance(FastestBackend().open(bundle, "acoustic_encoder"), RecurrentGraph)


def test_the_output_may_lie_in_memory_either_way(graph: RecurrentGraph, weights: Weights) -> None:
    x = np.random.default_rng(0).standard_normal((2, 30, 32), np.float32)
    transposed = {**weights, OUTPUT: np.ascontiguousarray(weights[OUTPUT].T).T}
    found = open_graph(transposed).run({"features": x})["acoustic"]
    assert relative_error(found, graph.run({"features": x})["acoustic"]) < 1e-6


def test_memory_is_given_back_after_each_weight(weights: Weights) -> None:
    """These are two weights for each direction of each of three layers, and the output."""
    calls: list[None] = []
    RecurrentGraph(openvino.Core(), weights, {}, release=lambda: calls.append(None))
    assert len(calls) == 3 * 2 * 2 + 1


def test_only_a_float32_encoder_with_a_table_is_taken_apart(tiny_bundle: Path) -> None:
    table = Bundle.load(tiny_bundle).manifest.graphs["acoustic_encoder"].weights
    assert is_recurrent(table)
    assert not is_recurrent({name: dataclasses.replace(entry, dtype="float16") for name, entry in table.items()})
    assert not is_recurrent({name: entry for name, entry in table.items() if name != OUTPUT})
    assert not is_recurrent({})


def test_a_bundle_without_a_table_runs_in_openvinos_own_lstm(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    entry = dataclasses.replace(bundle.manifest.graphs["acoustic_encoder"], weights={})
    old = Bundle(bundle.path, dataclasses.replace(bundle.manifest, graphs={"acoustic_encoder": entry}))
    x = np.random.default_rng(0).standard_normal((2, 256, 64), np.float32)
    graph = choose_backend("openvino", precision="float32").open(old, "acoustic_encoder")
    assert isinstance(graph, OpenVinoGraph)
    truth = choose_backend("onnxruntime").open(bundle, "acoustic_encoder").run({"features": x})
    assert relative_error(graph.run({"features": x})["acoustic"], truth["acoustic"]) < 1e-5


def test_openvino_compiles_audiomae_once_whatever_the_batch(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    graph = choose_backend("openvino", precision="float32").open(bundle, "audiomae")
    assert isinstance(graph, OpenVinoGraph)
    fbank = np.random.default_rng(0).standard_normal((3, 1024, 128), np.float32)
    found = graph.run({"fbank": fbank})["features"]
    graph.run({"fbank": fbank[:1]})
    assert len(graph.compiled) == 1
    truth = choose_backend("onnxruntime").open(bundle, "audiomae").run({"fbank": fbank})["features"]
    assert relative_error(found, truth) < 1e-5
