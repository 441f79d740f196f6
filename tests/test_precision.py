"""FP16 graphs are in half precision except for their islands, near float32, and in range. The check detects errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from sc_runtime import Codec
from sc_runtime.audio import Audio
from sc_runtime.backends.onnxruntime import OnnxRuntimeBackend
from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.manifest import Manifest
from sc_runtime.bundle.store import Bundle
from sc_runtime.centroids import NearestCentroid
from sc_runtime.errors import VerificationError
from sc_runtime.export import build, precision, verify
from sc_runtime.export.builder import build_bundle, name_bundle
from sc_runtime.export.precision import TYPELESS, lower_precision
from sc_runtime.export.recipes import write_recipe
from sc_runtime.export.seeded import SeededWeights
from sc_runtime.export.semanticodec.graphs import GRAPHS
from sc_runtime.export.semanticodec.networks.sizes import choose_sizes
from sc_runtime.export.spec import Shapes, Tensors
from sc_runtime.export.verify import CHOICES, draw_inputs, keep_nearest, open_rounded, relative_error, save_rounded
from sc_runtime.spec import TensorSpec
from sc_runtime.unicodec.config import HOP
from sc_runtime.unicodec.windows import LENGTH
from tests.conftest import ROOT, build_test_bundle, keep_graphs, load_manifest

SIZES = choose_sizes("tiny", 50, 4096)
HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT
NORMALISATIONS = ("InstanceNormalization", "LayerNormalization", "Softmax")
#: What multiplies activations by weights, or holds them between the layers: in half precision everywhere.
HEAVY = ("Conv", "ConvTranspose", "MatMul", "LSTM")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def copy_graph(folder: Path, name: str, target: Path) -> Path:
    """The graph's file in `target`: bundles share files by hard links, from which onnx reads no weights."""
    for suffix in (".onnx.data", ".onnx"):
        shutil.copyfile(folder / f"{name}{suffix}", target / f"{name}{suffix}")
    return target / f"{name}.onnx"


def load_typed(folder: Path, name: str) -> tuple[onnx.GraphProto, dict[str, int]]:
    """A graph, and the types of its values, which ONNX infers from inputs and weights, not from the file."""
    model = onnx.load(folder / f"{name}.onnx", load_external_data=False)
    del model.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return graph, types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def list_types(node: onnx.NodeProto, types: dict[str, int]) -> set[int]:
    """Floating-point types among what a node takes and gives; scales of a Resize are float32 by its definition."""
    inputs = node.input[:1] if node.op_type == "Resize" else node.input
    return {types[name] for name in (*inputs, *node.output) if name} & {HALF, SINGLE}


# What the graphs are


@pytest.mark.parametrize("name", GRAPHS)
def test_the_heavy_operators_are_half_and_the_islands_are_not(
    tiny_bundle: Path, tiny_fp16_bundle: Path, tmp_path: Path, name: str
) -> None:
    onnx.checker.check_model(str(copy_graph(tiny_fp16_bundle, name, tmp_path)), full_check=True)
    graph, types = load_typed(tiny_fp16_bundle, name)
    found: dict[str, list[set[int]]] = {}
    for node in graph.node:
        found.setdefault(node.op_type, []).append(list_types(node, types))
    assert any(op in found for op in HEAVY)
    for op, expected in ((HEAVY, {HALF}), (NORMALISATIONS, {SINGLE})):
        assert all(kinds == expected for kind in op for kinds in found.get(kind, [])), op
    mixed = {node.op_type for node in graph.node if list_types(node, types) == {HALF, SINGLE}}
    assert mixed == {"Cast"}
    original, _ = load_typed(tiny_bundle, name)
    for kind in (*NORMALISATIONS, *HEAVY):
        assert len(found.get(kind, [])) == sum(node.op_type == kind for node in original.node)


def test_what_depends_on_the_step_alone_is_float32(tiny_fp16_bundle: Path) -> None:
    """These are the sinusoids, the time embedding's two layers, and one projection for each residual block."""
    graph, types = load_typed(tiny_fp16_bundle, "tunet_step")
    inputs = {value.name for value in graph.input}
    alone, kinds = {"step"}, []
    for node in graph.node:
        sources = {name for name in node.input if name in inputs or name not in {t.name for t in graph.initializer}}
        if sources and sources <= alone and not (node.op_type == "Cast" and types[node.output[0]] == HALF):
            alone |= set(node.output)
            kinds.append(node.op_type)
            assert list_types(node, types) == {SINGLE}, node.name
    blocks = sum("emb_layers" in tensor.name and tensor.name.endswith("weight") for tensor in graph.initializer)
    assert {"Cos", "Sin"} < set(kinds)
    assert blocks > 10
    assert kinds.count("Gemm") == 2 + blocks == sum(node.op_type == "Gemm" for node in graph.node)


@pytest.mark.parametrize("name", GRAPHS)
def test_only_keys_and_values_pass_in_half_precision(tiny_bundle: Path, tiny_fp16_bundle: Path, name: str) -> None:
    entry, usual = (Bundle.load(path).manifest.graphs[name] for path in (tiny_fp16_bundle, tiny_bundle))
    model = onnx.load(tiny_fp16_bundle / f"{name}.onnx", load_external_data=False)
    for values, specs, before in (
        (model.graph.input, entry.inputs, usual.inputs),
        (model.graph.output, entry.outputs, usual.outputs),
    ):
        assert [value.name for value in values] == list(specs) == list(before)
        for value, (key, spec) in zip(values, specs.items(), strict=True):
            assert helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name == spec.dtype
            if key.split("_")[0] in ("key", "value"):
                assert spec == TensorSpec("float16", before[key].shape)
            else:
                assert spec == before[key]


@pytest.mark.parametrize("name", GRAPHS)
def test_weights_are_the_float32_ones_rounded(
    tiny_bundle: Path, tiny_fp16_bundle: Path, tmp_path: Path, name: str
) -> None:
    def read(folder: Path) -> dict[str, np.ndarray]:
        tensors = onnx.load(copy_graph(folder, name, tmp_path)).graph.initializer
        return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}

    before, after = read(tiny_bundle), read(tiny_fp16_bundle)
    single = {key for key, array in before.items() if array.dtype == np.float32}
    halves = {key for key, array in after.items() if array.dtype == np.float16}
    assert halves
    assert halves <= single
    for key in halves:
        np.testing.assert_array_equal(after[key], before[key].astype(np.float16))
    for key in after.keys() & single - halves:
        np.testing.assert_array_equal(after[key], before[key])


def test_the_manifest_states_the_precision(tiny_bundle: Path, tiny_fp16_bundle: Path) -> None:
    manifest = Bundle.load(tiny_fp16_bundle).manifest
    assert tiny_fp16_bundle.name == "tps50-v4096-seeded1-tiny-fp16"
    assert manifest.precision == "fp16"
    assert manifest.command == "sc-runtime build --tps 50 --vocab 4096 --seeded 1 --size tiny --precision fp16"
    assert Bundle.load(tiny_bundle).manifest.precision == "float32"
    assert name_bundle(choose_sizes("full", 100, 8192), (8192,), "", "full", "fp16") == "tps100-v8192-fp16"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "makers"),
    [
        (("tiny_bundle", "tiny_fp16_bundle"), {"audiomae", "acoustic_encoder"}),
        (("tiny_unicodec", "tiny_fp16_unicodec"), {"encoder", "routed_encoder"}),
    ],
)
def test_a_mixed_bundle_makes_the_tokens_of_float32_and_the_sound_of_fp16(
    names: tuple[str, str], makers: set[str], golden: Path, request: pytest.FixtureRequest
) -> None:
    single, half = (Bundle.load(request.getfixturevalue(name)) for name in names)
    vocab, codec = half.manifest.vocabularies[0], half.manifest.codec
    tps = 50 if codec == "semanticodec" else None
    mixed = Bundle.load(build_test_bundle(tps, (vocab,), "tiny", precision="mixed", codec=codec))
    for name, entry in mixed.manifest.graphs.items():
        source = (single if name in makers else half).manifest
        assert [mixed.manifest.files[file].sha256 for file in entry.files] == [
            source.files[file].sha256 for file in source.graphs[name].files
        ]
        assert entry.variants == source.graphs[name].variants
        assert mixed.manifest.is_half(name) == (name not in makers)
    assert set(mixed.manifest.graphs) == set(single.manifest.graphs)
    made, exact = (Codec.load(bundle.path, backend="onnxruntime") for bundle in (mixed, single))
    tokens = made.encode(golden / "mixed_4s.wav", vocab=vocab)
    np.testing.assert_array_equal(tokens.codes, exact.encode(golden / "mixed_4s.wav", vocab=vocab).codes)
    options = {"steps": 2} if codec == "semanticodec" else {}
    sounds = (Codec.load(bundle.path, backend="onnxruntime").decode(tokens, **options) for bundle in (mixed, half))
    np.testing.assert_array_equal(*sounds)


@pytest.mark.parametrize(
    ("name", "engines", "chosen"),
    [("auto", None, "float32"), ("auto", "rtx", "mixed"), ("fp16", "rtx", "fp16"), ("float32", "rtx", "float32")],
)
def test_auto_keeps_tokens_exact(name: str, engines: str | None, chosen: str) -> None:
    assert build.choose_precision(name, engines) == chosen


def test_a_manifest_without_a_precision_is_float32(tiny_bundle: Path) -> None:
    raw = load_manifest(tiny_bundle)
    raw.pop("precision", None)
    assert Manifest.from_json(json.dumps(raw)).precision == "float32"


def test_recipes_cover_the_precision_and_the_code_that_makes_it(tmp_path: Path) -> None:
    copy = tmp_path / "export"

    def write(kind: str, folder: Path = copy) -> list[str]:
        return [write_recipe(name, SIZES, SeededWeights(1), kind, folder=folder) for name in GRAPHS]

    shutil.copytree(ROOT / "export", copy, ignore=shutil.ignore_patterns("__pycache__"))
    single, half = write("float32"), write("fp16")
    assert (write("float32", ROOT / "export"), write("fp16", ROOT / "export")) == (single, half)
    assert len({*single, *half}) == 2 * len(GRAPHS)
    with (copy / "precision.py").open("a") as file:
        file.write("CHANGED = 1\n")
    assert write("float32") == single
    assert not set(half) & set(write("fp16"))


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_the_islands_of_unicodec(tiny_unicodec: Path, tiny_fp16_unicodec: Path, tmp_path: Path, name: str) -> None:
    """Normalisations and softmax, and in the encoder the rotary positions; no product with weights."""
    onnx.checker.check_model(str(copy_graph(tiny_fp16_unicodec, name, tmp_path)), full_check=True)
    graph, types = load_typed(tiny_fp16_unicodec, name)
    assert {node.op_type for node in graph.node if list_types(node, types) == {HALF, SINGLE}} == {"Cast"}
    numbers = [node for node in graph.node if node.op_type not in TYPELESS]
    singles = [node.op_type for node in numbers if list_types(node, types) == {SINGLE}]
    rotary = ["Mul", "Cos", "Sin", "Unsqueeze", "Unsqueeze", "Concat", "Gather", "Gather"] if name == "encoder" else []
    assert sorted(kind for kind in singles if kind not in NORMALISATIONS) == sorted(rotary)
    original, _ = load_typed(tiny_unicodec, name)
    for kind in NORMALISATIONS:
        assert singles.count(kind) == sum(node.op_type == kind for node in original.node)


def test_repeated_weights_do_not_stay_float32() -> None:
    """The converter alone: positions are float32. Weights that are only repeated to the number of positions are not."""
    graph = helper.make_graph(
        [
            helper.make_node("Shape", ["x"], ["sizes"]),
            helper.make_node("Expand", ["weight", "sizes"], ["spread"]),
            helper.make_node("Add", ["x", "spread"], ["a"]),
            helper.make_node("Cast", ["sizes"], ["numbers"], to=SINGLE),
            helper.make_node("Mul", ["numbers", "weight"], ["angles"]),
            helper.make_node("Neg", ["angles"], ["rates"]),
            helper.make_node("Mul", ["a", "rates"], ["y"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", SINGLE, ["batch", 2])],
        [helper.make_tensor_value_info("y", SINGLE, ["batch", 2])],
        [helper.make_tensor("weight", SINGLE, [2], [0.5, 0.25])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    lower_precision(model)
    lowered = ir.to_proto(model)
    onnx.checker.check_model(lowered, full_check=True)
    types = {value.name: value.type.tensor_type.elem_type for value in lowered.graph.value_info}
    kinds = {name: types[name] for name in ("spread", "a", "numbers", "angles", "rates")}
    assert kinds == {"spread": HALF, "a": HALF, "numbers": SINGLE, "angles": SINGLE, "rates": SINGLE}


# How far they are from float32


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_unicodecs_graphs_are_near_float32_and_finite_on_large_inputs(
    tiny_unicodec: Path, tiny_fp16_unicodec: Path, name: str
) -> None:
    half, single = Bundle.load(tiny_fp16_unicodec), Bundle.load(tiny_unicodec)
    truth, rounded = OnnxRuntimeBackend().open(single, name), open_rounded(half, name)
    (output,) = half.manifest.graphs[name].outputs
    for feeds in draw_inputs(half.manifest.graphs[name].inputs):
        found, expected = rounded.run(feeds)[output], truth.run(feeds)[output]
        assert 1e-5 < relative_error(*keep_nearest(found, expected, CHOICES if name == "encoder" else 0)) <= 1e-2
        large = rounded.run({key: 10 * array for key, array in feeds.items()})
        assert np.isfinite(large[output]).all()
    assert 0 < half.manifest.graphs[name].error <= 1e-2


def test_positions_past_half_precision(tiny_unicodec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 30 s, 2250 positions: without the island the angles are off by up to a whole radian."""
    samples = {"waveform": np.random.default_rng(0).standard_normal((1, HOP * LENGTH), np.float32)}
    truth = OnnxRuntimeBackend().open(Bundle.load(tiny_unicodec), "encoder").run(samples)["features"]
    single = ir.load(copy_graph(tiny_unicodec, "encoder", tmp_path))
    errors = []
    for number, find in enumerate((precision.find_counted, lambda graph: set())):
        monkeypatch.setattr(precision, "find_counted", find)
        model = single.clone()
        lower_precision(model)
        path = tmp_path / f"{number}.onnx"
        save_rounded(model, path)
        found = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, samples)[0]
        errors.append(relative_error(*keep_nearest(found, truth, CHOICES)))
    assert errors[0] < 1e-2
    assert errors[0] < errors[1]


def test_a_few_other_choices_of_experts_do_not_count() -> None:
    truth = np.random.default_rng(0).standard_normal((2, 20, 8))
    found = truth + 1e-3
    found[0, 3] += 5
    found[1, 7] -= 5
    assert relative_error(*keep_nearest(found, truth, 0.05)) < 2e-3
    found[1, 8] -= 5
    assert relative_error(*keep_nearest(found, truth, 0.05)) > 0.1
    assert relative_error(*keep_nearest(found, truth, 0)) == pytest.approx(relative_error(found, truth))


@pytest.mark.full_size
def test_unicodec_at_full_size_in_half_precision(golden: Path, record_property: Callable[[str, object], None]) -> None:
    """The recorded sound, every value rounded: both graphs' errors, and the share of codes that stay equal."""
    half = Bundle.load(build_test_bundle(None, (16384,), "full", precision="fp16", codec="unicodec"))
    for name, entry in half.manifest.graphs.items():
        assert 1e-5 < entry.error <= 1e-2, name
    truth = np.load(golden / "unicodec.npz")
    with Audio(golden / "mixed_24k.wav", rate=24_000, mono="mean") as recording:
        sound = np.concatenate(list(recording.blocks()))
    book = half.load_codebook("unified")
    features = open_rounded(half, "encoder").run({"waveform": sound[np.newaxis]})["features"][0]
    waveform = open_rounded(half, "decoder").run({"vectors": book[truth["codes_all"]][np.newaxis]})["waveform"][0]
    equal = (NearestCentroid(book).search(features) == truth["codes_all"]).mean()
    expected = truth["emb"].T
    figures = {
        "codes equal": equal,
        "features": relative_error(features, expected),
        "features, without choices": relative_error(*keep_nearest(features, expected, CHOICES)),
        "waveform": relative_error(waveform, truth["waveform"]),
    }
    for key, value in figures.items():
        record_property(key, float(value))
        print(f"UniCodec, fp16: {key} {value:.3g}")
    assert equal >= 0.97
    assert figures["features, without choices"] <= 1e-2
    assert figures["features"] <= 3e-2
    assert figures["waveform"] <= 1e-2


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_are_near_float32_and_finite_on_large_inputs(
    tiny_bundle: Path, tiny_fp16_bundle: Path, name: str
) -> None:
    """Every value rounded, against the float32 graph (which is verified against torch)."""
    half, single = Bundle.load(tiny_fp16_bundle), Bundle.load(tiny_bundle)
    feeds = next(draw_inputs(half.manifest.graphs[name].inputs))
    usual = {key: array.astype(np.float32) if array.dtype == np.float16 else array for key, array in feeds.items()}
    truth = OnnxRuntimeBackend().open(single, name).run(usual)
    graph = open_rounded(half, name)
    found = graph.run(feeds)
    errors = [relative_error(found[key], array) for key, array in truth.items()]
    assert 1e-5 < max(errors) <= 1e-2
    assert 0 < half.manifest.graphs[name].error <= 1e-2
    large = {key: 10 * array if array.dtype.kind == "f" else array for key, array in feeds.items()}
    assert all(np.isfinite(array).all() for array in graph.run(large).values())
    assert [path.name for path in tiny_fp16_bundle.glob(".*.onnx")] == []


def test_the_rounding_check_rounds_every_value(tmp_path: Path) -> None:
    """Against NumPy's float16, operator by operator. ONNX Runtime alone would pass on float32."""
    rows = np.array([[300, 1.0009, 3e-5, -7.77, 0]], np.float32)
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["squares"]),
        helper.make_node("Mul", ["squares", "small"], ["scaled"]),
        helper.make_node("Add", ["scaled", "x"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, SINGLE, [1, 5]) for name in ("x", "y")]
    small = helper.make_tensor("small", SINGLE, [], [0.001])
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], [small])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    lower_precision(model)
    save_rounded(model, tmp_path / "rounded.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "rounded.onnx", providers=["CPUExecutionProvider"])
    with np.errstate(over="ignore"):
        x = rows.astype(np.float16)
        truth = x * x * np.float16(0.001) + x
    np.testing.assert_array_equal(session.run(None, {"x": rows})[0], truth.astype(np.float32))
    assert np.isinf(truth[0, 0])


class ScaledWeights(SeededWeights):
    """Stand-in weights, those whose name ends with `ending` multiplied by `factor`."""

    def __init__(self, ending: str, factor: float) -> None:
        super().__init__(1)
        self.ending, self.factor = ending, factor

    def read(self, file: str, shapes: Shapes) -> Tensors:
        tensors = dict(super().read(file, shapes))
        return {key: tensor * self.factor if key.endswith(self.ending) else tensor for key, tensor in tensors.items()}


def build_few(folder: Path, patch: pytest.MonkeyPatch, name: str, weight: str, factor: float) -> None:
    """An FP16 bundle of the graph `name` alone, one of its weights scaled in torch and ONNX alike."""
    keep_graphs(patch, name)
    build_bundle(folder, SIZES, (4096,), ScaledWeights(weight, factor), size="tiny", precision="fp16")


@pytest.mark.parametrize(
    ("name", "weight", "factor", "message"),
    [
        ("acoustic_encoder", "encoder_output_linear.weight", 1e6, r"values not finite"),
        ("conditioning", "attn2.to_k.weight", 5e3, r"not finite on inputs 10 times the usual; .*--precision float32"),
    ],
)
def test_overflow_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, weight: str, factor: float, message: str
) -> None:
    with pytest.raises(VerificationError, match=f"graph {name}, output .*{message}"):
        build_few(tmp_path / "bundle", monkeypatch, name, weight, factor)
    assert [path.name for path in tmp_path.iterdir()] == [".bundle.lock"]


def test_too_large_an_error_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "FP16_TOLERANCE", 1e-5)
    with pytest.raises(VerificationError, match=r"relative error \d\.\d+e-0[34].*at most 1e-05.*--precision float32"):
        build_few(tmp_path / "bundle", monkeypatch, "acoustic_encoder", "encoder_output_linear.weight", 1.0)


# What runs them on a CPU


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_cpu_backends_run_them(tiny_bundle: Path, tiny_fp16_bundle: Path, golden: Path, backend: str) -> None:
    """In float32 with rounded weights; tokens that differ are those of near ties."""
    if backend == "openvino":
        pytest.importorskip("openvino")
    half, single = Bundle.load(tiny_fp16_bundle), Bundle.load(tiny_bundle)
    chosen = choose_backend(backend, precision="float32")
    for name in GRAPHS:
        feeds = next(draw_inputs(half.manifest.graphs[name].inputs))
        usual = {key: array.astype(np.float32) if array.dtype == np.float16 else array for key, array in feeds.items()}
        truth, found = OnnxRuntimeBackend().open(single, name).run(usual), chosen.open(half, name).run(feeds)
        for key, spec in half.manifest.graphs[name].outputs.items():
            assert found[key].dtype.name == spec.dtype, f"{name} {key}"
            assert relative_error(found[key], truth[key]) <= 1e-2, f"{name} {key}"
    codec = Codec.load(tiny_fp16_bundle, backend=backend, precision="float32")
    usual_codec = Codec.load(tiny_bundle, backend="onnxruntime")
    tokens, exact = (c.encode(golden / "mixed_4s.wav", vocab=4096) for c in (codec, usual_codec))
    assert (tokens.codes == exact.codes).mean() > 0.95
    sound, truth_sound = (c.decode(exact, steps=2, seed=1) for c in (codec, usual_codec))
    assert relative_error(sound, truth_sound) < 0.05


def test_unknown_precisions_are_refused(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["build", "--precision", "int4", "--seeded", "1"])
    with pytest.raises(SystemExit) as caught:
        build.run()
    assert caught.value.code == 1
    assert capfd.readouterr().err.strip() == "error: --precision int4; expected one of auto, float32, mixed, fp16, int8"


def test_islands_hold_in_a_network_of_another_shape() -> None:
    """The converter alone: a value that both precisions use is cast once; a weight that both use is stored twice."""
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "scale"], ["a"]),
            helper.make_node("LayerNormalization", ["a", "scale"], ["b"]),
            helper.make_node("Softmax", ["a"], ["c"]),
            helper.make_node("Add", ["b", "c"], ["y"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", SINGLE, ["batch", 4])],
        [helper.make_tensor_value_info("y", SINGLE, ["batch", 4])],
        [helper.make_tensor("scale", SINGLE, [4], [1, 2, 3, 4])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    lower_precision(model)
    lowered = ir.to_proto(model)
    onnx.checker.check_model(lowered, full_check=True)
    kinds = [node.op_type for node in lowered.graph.node]
    assert kinds == ["Cast", "Mul", "Cast", "LayerNormalization", "Cast", "Softmax", "Cast", "Add", "Cast"]
    weights = {tensor.name: tensor.data_type for tensor in lowered.graph.initializer}
    assert sorted(weights.values()) == sorted([SINGLE, HALF])
    assert weights["scale"] == SINGLE
