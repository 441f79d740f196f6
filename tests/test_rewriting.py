"""Models rewritten for OpenVINO compute what they computed: in float32 to rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sc_runtime.accuracy import relative_error
from sc_runtime.bundle.locate import EMBEDDED
from sc_runtime.bundle.store import Bundle
from sc_runtime.export.verify import draw_inputs

openvino = pytest.importorskip("openvino")

from openvino import opset13  # noqa: E402

from sc_runtime.backends.openvino import rewriting  # noqa: E402

#: Graph -> the places that each pass changes in the tiny networks.
CHANGED = {
    "tunet_step": {"separate_products": 14, "multiply_by_keys": 21, "exchange_axes": 64, "split_upsampling": 2},
    "vae_decoder": {"split_upsampling": 2},
    "hifigan": {"split_transposed": 5},
}


def run(model: Any, feeds: dict[Any, np.ndarray]) -> list[np.ndarray]:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled(feeds)
    return [np.array(results[output]) for output in compiled.outputs]


@pytest.mark.parametrize("graph", CHANGED)
@pytest.mark.parametrize("which", ["tiny", "embedded"])
def test_a_rewritten_model_computes_the_same(tiny_bundle: Path, graph: str, which: str) -> None:
    """The embedded bundle has position maps, and weights stored in float16."""
    bundle = Bundle.load(tiny_bundle if which == "tiny" else EMBEDDED)
    for feeds in draw_inputs(bundle.manifest.graphs[graph].inputs):
        plain, rewritten = (openvino.Core().read_model(bundle.find_graph(graph)) for _ in range(2))
        for model in (plain, rewritten):
            model.reshape({name: list(array.shape) for name, array in feeds.items()})
        changed = rewriting.rewrite(rewritten, bfloat16=True)
        if which == "tiny":
            assert {name: count for name, count in changed.items() if count} == CHANGED[graph]
        assert all(changed[name] for name in CHANGED[graph])
        for found, truth in zip(run(rewritten, feeds), run(plain, feeds), strict=True):
            assert found.shape == truth.shape
            assert relative_error(found, truth) < 5e-6


@pytest.mark.parametrize(
    ("stride", "kernel", "pad"), [(5, 16, 5), (4, 16, 6), (2, 8, 3), (2, 4, 1), (3, 3, 0), (3, 2, 0), (4, 9, 7)]
)
@pytest.mark.parametrize("length", [1, 2, 11])
def test_a_transposed_convolution_is_one_convolution(stride: int, kernel: int, pad: int, length: int) -> None:
    made = (length - 1) * stride - 2 * pad + kernel
    if made < 1:
        pytest.skip("nothing comes out")
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((3, 4, kernel)).astype(np.float32)
    x = generator.standard_normal((2, 3, length)).astype(np.float32)
    truth = np.zeros((2, 4, (length - 1) * stride + kernel))  # the definition, in float64
    for place in range(length):
        truth[:, :, place * stride : place * stride + kernel] += np.einsum("bc,cok->bok", x[:, :, place], weight)
    parameter = opset13.parameter(list(x.shape), np.float32)
    node = opset13.convolution_backprop_data(parameter, opset13.constant(weight), [stride], None, [pad], [pad])
    model = openvino.Model([node], [parameter])
    assert rewriting.split_transposed(model, bfloat16=True) == 1
    (found,) = run(model, {0: x})
    assert relative_error(found, truth[:, :, pad : pad + made]) < 1e-6


def test_few_outputs_in_float32_stay_transposed() -> None:
    for outputs, expected in ((127, 0), (128, 1)):
        x = opset13.parameter([1, 2, 8], np.float32)
        weight = opset13.constant(np.zeros((2, outputs, 4), np.float32))
        node = opset13.convolution_backprop_data(x, weight, [2], None, [1], [1])
        assert rewriting.split_transposed(openvino.Model([node], [x]), bfloat16=False) == expected


def test_doubling_and_convolution_are_four_convolutions() -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((2, 3, 5, 4)).astype(np.float32)
    weight = generator.standard_normal((6, 3, 3, 3)).astype(np.float32)
    padded = np.pad(x.repeat(2, 2).repeat(2, 3).astype(np.float64), [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    truth = np.einsum("bchwij,ocij->bohw", windows, weight)
    parameter = opset13.parameter(list(x.shape), np.float32)
    scales = opset13.constant(np.array([2, 2], np.float32))
    doubled = opset13.interpolate(
        parameter,
        scales,
        "nearest",
        "scales",
        axes=opset13.constant(np.array([2, 3])),
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    node = opset13.convolution(doubled, opset13.constant(weight), [1, 1], [1, 1], [1, 1], [1, 1])
    model = openvino.Model([node], [parameter])
    assert rewriting.split_upsampling(model) == 1
    (found,) = run(model, {0: x})
    assert relative_error(found, truth) < 1e-6


def build_maps(position_axis: bool, summed: str = "none") -> Any:
    """A convolution over maps of 6 rows and 2 columns, then tokens, then maps again. `position_axis` adds to the
    tokens what differs from position to position; `summed` "positions" multiplies the positions with a weight."""
    generator = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return opset13.constant(generator.standard_normal(shape).astype(np.float32))

    x = opset13.parameter([2, 4, 6, 2], np.float32)
    maps = opset13.convolution(x, draw(4, 4, 3, 3), [1, 1], [1, 1], [1, 1], [1, 1])
    maps = opset13.add(maps, draw(1, 4, 6, 2))
    tokens = opset13.transpose(opset13.reshape(maps, [2, 4, 12], False), [0, 2, 1])
    if position_axis:
        tokens = opset13.add(tokens, draw(1, 12, 1))
    if summed == "positions":
        tokens = opset13.matmul(draw(12, 12), tokens, False, False)
    scores = opset13.softmax(opset13.matmul(tokens, tokens, False, True), 2)
    mixed = opset13.transpose(opset13.matmul(scores, tokens, False, False), [0, 2, 1])
    maps = opset13.add(maps, opset13.reshape(mixed, [2, 4, 6, 2], False))
    return openvino.Model([opset13.convolution(maps, draw(3, 4, 3, 2), [2, 1], [1, 0], [0, 1], [1, 1])], [x])


def test_exchanged_maps_give_the_same() -> None:
    feeds = {0: np.random.default_rng(1).standard_normal((2, 4, 6, 2)).astype(np.float32)}
    model = build_maps(False)
    assert rewriting.exchange_axes(model) == 2
    assert relative_error(run(model, feeds)[0], run(build_maps(False), feeds)[0]) < 1e-6


@pytest.mark.parametrize(("position_axis", "summed"), [(True, "none"), (False, "positions")])
def test_maps_stay_where_positions_have_an_order(position_axis: bool, summed: str) -> None:
    feeds = {0: np.random.default_rng(1).standard_normal((2, 4, 6, 2)).astype(np.float32)}
    model = build_maps(position_axis, summed)
    assert rewriting.exchange_axes(model) == 0
    np.testing.assert_array_equal(run(model, feeds)[0], run(build_maps(position_axis, summed), feeds)[0])


def read_tunet(bundle: Bundle) -> Any:
    return openvino.Core().read_model(bundle.find_graph("tunet_step"))


def fix_rows(model: Any, feeds: dict[str, np.ndarray], rows: int) -> Any:
    model.reshape({name: [rows, *array.shape[1:]] for name, array in feeds.items()})
    rewriting.fold_constants(model)
    return model


@pytest.mark.parametrize("which", ["tiny", "embedded"])
@pytest.mark.parametrize("windows", [1, 2])
def test_branches_share_what_their_conditioning_does_not_reach(tiny_bundle: Path, which: str, windows: int) -> None:
    """Against the exported graph with every row given. The windows differ, so their order counts."""
    bundle, generator = Bundle.load(tiny_bundle if which == "tiny" else EMBEDDED), np.random.default_rng(1)
    inputs, shared = bundle.manifest.graphs["tunet_step"].inputs, frozenset({"latent", "step"})
    assert bundle.spec.graphs["tunet_step"].shared_inputs == shared
    feeds: dict[str, np.ndarray] = {}
    for name, spec in inputs.items():
        shape = spec.resolve(batch=windows * (1 if name in shared else 2))
        feeds[name] = generator.standard_normal(shape).astype(np.float32)
    feeds["step"] = np.array([999, 1][:windows])
    models = (fix_rows(read_tunet(bundle), feeds, rows) for rows in (windows, 2 * windows))
    model, repeated = rewriting.share_rows(*models, shared)
    assert repeated == {"tiny": 15, "embedded": 19}[which]
    whole = feeds | {name: np.concatenate([feeds[name]] * 2) for name in shared}
    (truth,) = run(fix_rows(read_tunet(bundle), whole, 2 * windows), whole)
    assert relative_error(run(model, feeds)[0], truth) < 1e-6
    convolutions = [each for each in model.get_ordered_ops() if each.get_type_name() == "Convolution"]
    rows = [each.get_output_shape(0)[0] for each in convolutions]
    assert set(rows) == {windows, 2 * windows}
    assert rows.count(windows) == {"tiny": 10, "embedded": 14}[which]


@pytest.mark.parametrize(
    ("turned", "differs", "multiplied"), [(False, False, 2), (True, False, 4), (False, True, 4), (True, True, 4)]
)
def test_only_what_is_surely_the_same_is_shared(turned: bool, differs: bool, multiplied: int) -> None:
    """|y| - x. Nothing is shared where axis 0 is not the batch, nor in models whose operators differ.

    Two operators have one friendly name, as a graph may have them.
    """
    feeds = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "y": np.ones((4, 3), np.float32)}
    swap = np.array([1, 0])

    def build(rows: int, extra: bool) -> Any:
        x, y = (opset13.parameter([rows, 3], np.float32, name) for name in ("x", "y"))
        for place, name in ((x, "x"), (y, "y")):
            place.output(0).set_names({name})
        minus = opset13.constant(np.float32(-1))
        changed = opset13.multiply(opset13.transpose(x, swap), minus) if turned else opset13.multiply(x, minus)
        back = opset13.transpose(changed, swap) if turned else changed
        size = opset13.abs(y)
        changed.set_friendly_name("same")
        size.set_friendly_name("same")
        return openvino.Model([opset13.add(opset13.relu(opset13.relu(back)) if extra else back, size)], [x, y])

    model, repeated = rewriting.share_rows(build(2, differs), build(4, False), frozenset({"x"}))
    np.testing.assert_array_equal(run(model, feeds)[0], 1 - np.concatenate([feeds["x"]] * 2))
    assert repeated == 1
    (product,) = (each for each in model.get_ordered_ops() if each.get_type_name() == "Multiply")
    assert product.get_output_shape(0)[1 if turned else 0] == multiplied


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_guided_decode_is_that_of_a_backend_that_shares_nothing(tiny_bundle: Path, guidance: float) -> None:
    """Windows of two recordings run as a batch, in float32."""
    from sc_runtime import Codec

    sharing, plain = (
        Codec.load(tiny_bundle, backend=backend, precision="float32") for backend in ("openvino", "onnxruntime")
    )
    codes = np.random.default_rng(1).integers(0, 4096, (1, 500, 2))
    sounds = [codec.decode(codes, steps=4, guidance=guidance, interval=(0, 900), batch=2) for codec in (sharing, plain)]
    assert relative_error(*sounds) < 1e-4
    assert relative_error(sounds[1], np.zeros_like(sounds[1])) > 0.5


def test_graphs_that_make_tokens_are_not_rewritten(tiny_bundle: Path) -> None:
    from sc_runtime.backends.openvino.backend import OpenVinoBackend
    from sc_runtime.backends.openvino.graphs import OpenVinoGraph

    bundle, backend = Bundle.load(tiny_bundle), OpenVinoBackend()
    opened = {name: backend.open(bundle, name) for name in ("audiomae", "tunet_step")}
    assert opened["tunet_step"].shared == {"latent", "step"}  # type: ignore[attr-defined]
    assert not OpenVinoGraph(backend.core, lambda: None, {}, None, True, False, True, frozenset({"latent"})).shared
    assert {name: graph.rewritten for name, graph in opened.items() if isinstance(graph, OpenVinoGraph)} == {
        "audiomae": False,
        "tunet_step": True,
    }
