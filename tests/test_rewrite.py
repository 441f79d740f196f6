"""Graphs rewritten for an engine compute what they computed, in float32 to rounding, in few nodes."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from bench.gpu_pack import pack_graph
from sc_runtime.accuracy import relative_error
from sc_runtime.bundle.manifest import FileEntry
from sc_runtime.bundle.store import Bundle
from sc_runtime.export.registry import find_export
from sc_runtime.export.rewrite import ENGINES, rewrite, save_variant
from sc_runtime.export.rewrite.counting import count_launches
from sc_runtime.export.rewrite.editing import remove_unused
from sc_runtime.export.rewrite.step_embedding import STEPS, join_step_products, tabulate_steps
from sc_runtime.export.rounding import TorchBackend
from sc_runtime.export.seeded import SeededWeights
from sc_runtime.export.semanticodec.networks.tunet import ResidualBlock, embed_steps
from sc_runtime.export.verify import draw_inputs
from sc_runtime.semanticodec.config import Schedule
from tests.reference_operators import expand_operators

#: Engine and graph -> the places that each pass changes in the tiny networks.
CHANGED = {
    "cuda": {
        "join_step_products": 11,
        "tabulate_steps": 1,
        "fuse_attention": 28,
        "fuse_gelu": 14,
        "split_gates": 14,
        "fuse_group_norm": 37,
        "move_channels_last": 64,
        "lower_layer_norms": 0,
        "join_residuals": 28,
    },
    "tensorrt": {"join_step_products": 11, "use_attention_operator": 28, "use_group_normalization": 37},
}

#: Bundle in FP16 and graph -> the engines that it has a variant for. The other graphs run as they were exported.
VARIANTS = {
    ("tiny_fp16_bundle", "audiomae"): {"cuda", "tensorrt"},
    ("tiny_fp16_bundle", "tunet_step"): {"cuda", "tensorrt"},
    ("tiny_fp16_bundle", "vae_decoder"): {"cuda", "tensorrt"},
    ("tiny_fp16_unicodec", "encoder"): {"cuda"},
    ("tiny_fp16_unicodec", "decoder"): {"cuda"},
}
AUDIOMAE_LAYERS = 4
MOST_LAUNCHES = 900  #: of a T-UNet call on ONNX Runtime


def run(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("graph", ["tunet_step", "vae_decoder", "audiomae"])
def test_a_rewritten_graph_computes_the_same(tiny_bundle: Path, engine: str, graph: str) -> None:
    bundle = Bundle.load(tiny_bundle)
    path = bundle.find_graph(graph)
    model = ir.load(path)
    changed = rewrite(model, engine)
    if graph == "tunet_step":
        assert changed == CHANGED[engine]
    if graph == "audiomae":
        assert changed["fuse_attention" if engine == "cuda" else "use_attention_operator"] == AUDIOMAE_LAYERS
    expand_operators(model)
    variant = path.with_name(f".{graph}.{engine}.test.onnx")  # beside the weights, which it reads
    try:
        ir.save(model, variant)
        for feeds in draw_inputs(bundle.manifest.graphs[graph].inputs):
            found, truth = run(variant, feeds), run(path, feeds)
            assert found.keys() == truth.keys()
            for name in truth:
                assert relative_error(found[name], truth[name]) < 1e-5
    finally:
        variant.unlink(missing_ok=True)


@pytest.mark.parametrize("bundle", ["tiny_fp16_bundle", "tiny_fp16_unicodec"])
def test_the_manifest_names_the_variants(bundle: str, request: pytest.FixtureRequest) -> None:
    found = Bundle.load(request.getfixturevalue(bundle))
    for graph, entry in found.manifest.graphs.items():
        engines = VARIANTS.get((bundle, graph), set())
        assert set(entry.variants) == engines, graph
        for engine in ENGINES:
            name = f"{graph}.{engine}.onnx" if engine in engines else f"{graph}.onnx"
            assert found.find_graph(graph, engine).name == name
            assert name in entry.files


@pytest.mark.parametrize(
    ("source", "graph", "engine"), [(*place, engine) for place in VARIANTS for engine in sorted(VARIANTS[place])]
)
def test_a_variant_is_near_the_torch_network(
    source: str, graph: str, engine: str, request: pytest.FixtureRequest
) -> None:
    """The variants of FP16 graphs, as a GPU loads them, against torch in float32.

    The CPU's provider computes in float32 where it has no FP16, so what is left is the rounding of weights.
    """
    bundle = Bundle.load(request.getfixturevalue(source))
    codec, config = bundle.manifest.codec, bundle.choose_config()
    tps = config.tps if codec == "semanticodec" else None
    sizes = find_export(codec).choose_sizes("tiny", tps, bundle.manifest.vocabularies[-1])
    reference = TorchBackend(sizes, SeededWeights(1)).open(bundle, graph)
    path = bundle.find_graph(graph, engine)
    model = ir.load(path)
    expand_operators(model, ir.DataType.FLOAT16)
    expanded = path.with_name(f".{graph}.{engine}.near.onnx")
    try:
        ir.save(model, expanded)
        for feeds in draw_inputs(bundle.manifest.graphs[graph].inputs):
            found, truth = run(expanded, feeds), reference.run(feeds)
            assert found.keys() == truth.keys()
            for name in truth:
                assert relative_error(found[name], truth[name]) < 1e-2
    finally:
        expanded.unlink(missing_ok=True)


@pytest.mark.slow
def test_the_table_of_steps_is_the_torch_networks_embedding(tiny_bundle: Path, tmp_path: Path) -> None:
    """All 1000 rows, in float32 and in any order. ONNX Runtime computes the table when it loads the graph."""
    assert Schedule().steps == STEPS
    for path in tiny_bundle.glob("tunet_step.*"):
        shutil.copy(path, tmp_path)
    model = ir.load(tmp_path / "tunet_step.onnx")
    assert join_step_products(model) == 11
    assert tabulate_steps(model) == 1
    remove_unused(model)
    (split,) = (node for node in model.graph if node.op_type == "Split" and len(node.outputs) == 11)
    row = split.inputs[0]
    assert row is not None and row.producer() is not None
    row.shape = ir.Shape(["batch", sum(split.inputs[1].const_value.numpy())])  # type: ignore[union-attr]
    model.graph.outputs.append(row)
    ir.save(model, tmp_path / "rows.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "rows.onnx", options, providers=["CPUExecutionProvider"])

    loaded = ir.load(tmp_path / "loaded.onnx")
    (gather,) = (node for node in loaded.graph if row.name in [value.name for value in node.outputs])
    table, given = gather.inputs
    assert gather.op_type == "Gather" and given is loaded.graph.inputs[1] and given.name == "step"
    assert table is not None and table.const_value is not None and table.const_value.shape[0] == STEPS
    assert list(given.consumers()) == [gather]

    bundle = Bundle.load(tiny_bundle)
    sizes = find_export("semanticodec").choose_sizes("tiny", 50, bundle.manifest.vocabularies[-1])
    network: Any = TorchBackend(sizes, SeededWeights(1)).open(bundle, "tunet_step")._module
    steps = np.random.default_rng(0).permutation(STEPS)
    with torch.inference_mode():
        embedding = network.time_embed(embed_steps(torch.from_numpy(steps), network.time_channels))
        blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
        truth = torch.cat([block.emb_layers(embedding) for block in blocks], dim=1).numpy()
    feeds = next(iter(draw_inputs(bundle.manifest.graphs["tunet_step"].inputs)))
    batch = len(feeds["step"])
    found = [
        session.run([row.name], feeds | {"step": steps[start : start + batch]})[0] for start in range(0, STEPS, batch)
    ]
    assert relative_error(np.concatenate(found), truth) < 1e-6


def test_only_what_follows_from_the_step_alone_is_tabulated() -> None:
    """A product with a latent is not, nor what mixes the rows; and a value that goes on to two places is one row."""
    text = """
        <ir_version: 10, opset_import: ["" : 20]>
        step_net (int64[batch] step, float[batch, 3] latent) => (float[batch, 3] first, float[batch, 3] second)
        <float[1, 3] w = {1, 2, 3}, float[3] b = {4, 5, 6}, int64[1] one = {1}> {
            number = Cast <to = 1> (step)
            column = Unsqueeze (number, one)
            product = Gemm (column, w, b)
            sums = ReduceSum <keepdims = 1, noop_with_empty_axes = 0> (product)
            first = Mul (product, latent)
            second = Add (product, sums)
        }"""
    before, after = (onnx.parser.parse_model(text) for _ in range(2))
    model = ir.from_proto(after)
    assert tabulate_steps(model) == 1
    kinds = [node.op_type for node in model.graph]
    assert kinds == ["Cast", "Unsqueeze", "Gemm", "Gather", "ReduceSum", "Mul", "Add"]
    assert tabulate_steps(model) == 0
    feeds = {"step": np.array([999, 0, 7]), "latent": np.arange(9, dtype=np.float32).reshape(3, 3)}
    for found, truth in zip(*(run_bytes(each, feeds) for each in (ir.to_proto(model), before)), strict=True):
        np.testing.assert_array_equal(found, truth)


def run_bytes(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


@pytest.mark.slow
def test_a_tunet_of_the_published_depth_launches_few_kernels(tmp_path: Path) -> None:
    """Its nodes are those of the full size: only widths differ. Most queries, keys and values are one product."""
    export = find_export("semanticodec")
    sizes = dataclasses.replace(
        export.choose_sizes("tiny", 50, 4096), tunet_multipliers=(1, 2, 3, 5), tunet_residual_blocks=2
    )
    with torch.no_grad():
        entry = pack_graph(export, "tunet_step", sizes, SeededWeights(1), tmp_path, {})
    before, after = (ir.load(tmp_path / name).graph for name in (entry.files[0], entry.variants["cuda"]))
    assert (count_launches(before), count_launches(after)) == (2466, 849)
    assert count_launches(after) <= MOST_LAUNCHES
    attentions = [node for node in after if node.op_type == "MultiHeadAttention"]
    packed = [node for node in attentions if len(node.inputs) == 1]
    assert (len(attentions), len(packed)) == (64, 48)
    kinds = Counter(node.op_type for node in after)
    assert kinds["NhwcConv"] == 131 and not kinds["Conv"]
    assert kinds["GroupNorm"] == 77


@pytest.mark.parametrize("graph", ["audiomae", "tunet_step", "vae_decoder"])
def test_tensorrt_rtx_parses_the_variant(tiny_fp16_bundle: Path, tmp_path: Path, graph: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    from sc_runtime.export.plans import collecting, import_polygraphy

    for path in tiny_fp16_bundle.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    variant = save_variant(tmp_path / f"{graph}.onnx", "tensorrt")
    trt, _ = import_polygraphy("rtx")
    with collecting() as said:
        _, network, _ = trt.network_from_onnx_path(str(variant), strongly_typed=True)
    assert not said
    kinds = Counter(str(network.get_layer(i).type).rpartition(".")[2] for i in range(network.num_layers))
    norms = sum(node.op_type == "InstanceNormalization" for node in ir.load(tmp_path / f"{graph}.onnx").graph)
    assert kinds["NORMALIZATION"] + kinds["NORMALIZATION_V2"] >= norms
    assert kinds["SOFTMAX"] == (1 if graph == "vae_decoder" else 0), kinds  # one head as wide as the VAE is not fused


@pytest.mark.full_size
@pytest.mark.parametrize("graph", ["audiomae", "tunet_step", "vae_decoder"])
def test_tensorrt_rtx_parses_the_variant_of_full_size(tmp_path: Path, graph: str) -> None:
    """All attention and normalisation as one layer each. The parser reads types and shapes, not weights: zeros do."""
    pytest.importorskip("tensorrt_rtx")
    from sc_runtime.export.plans import collecting, import_polygraphy

    export, files = find_export("semanticodec"), dict[str, FileEntry]()
    with torch.no_grad():
        sizes = export.choose_sizes("full", 50, 32768)
        entry = pack_graph(export, graph, sizes, SeededWeights(1), tmp_path, files)
    (data,) = (name for name in files if name.endswith(".data"))
    with (tmp_path / data).open("wb") as file:
        file.truncate(files[data].bytes)
    trt, _ = import_polygraphy("rtx")
    with collecting() as said:
        _, network, _ = trt.network_from_onnx_path(str(tmp_path / entry.variants["tensorrt"]), strongly_typed=True)
    assert not said
    kinds = Counter(str(network.get_layer(i).type).rpartition(".")[2] for i in range(network.num_layers))
    nodes = Counter(node.op_type for node in ir.load(tmp_path / entry.files[0]).graph)
    alone = 1 if graph == "vae_decoder" else 0  # one head as wide as the VAE is not fused
    assert kinds["SOFTMAX"] == alone and kinds["ATTENTION_INPUT"] == nodes["Softmax"] - alone, kinds
    norms = nodes["InstanceNormalization"] + nodes["LayerNormalization"]
    assert kinds["NORMALIZATION"] + kinds["NORMALIZATION_V2"] == norms, kinds


def test_a_variant_reads_the_same_data(tiny_fp16_bundle: Path, tmp_path: Path) -> None:
    """No weight is computed or copied, and the conversions around softmax and normalisations are gone."""
    for path in tiny_fp16_bundle.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    variant = save_variant(tmp_path / "tunet_step.onnx", "cuda")
    assert variant == tmp_path / "tunet_step.cuda.onnx"
    assert variant.stat().st_size < 1.2 * (tmp_path / "tunet_step.onnx").stat().st_size
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in tiny_fp16_bundle.iterdir()} | {
        variant.name
    }
    again = variant.read_bytes()
    assert save_variant(tmp_path / "tunet_step.onnx", "cuda") == variant
    assert variant.read_bytes() == again  # the same file every time
    before, after = ir.load(tmp_path / "tunet_step.onnx"), ir.load(variant)
    assert count_launches(after.graph) < 0.45 * count_launches(before.graph)
    kinds = Counter(node.op_type for node in after.graph)
    assert not kinds["Softmax"] and not kinds["InstanceNormalization"]
    assert kinds["Split"] == 1  # of the step's embedding
    attentions = [node for node in after.graph if node.op_type == "MultiHeadAttention"]
    assert sum(len(node.inputs) == 1 for node in attentions) == 21  # queries, keys and values are one product
    onnx.shape_inference.infer_shapes(onnx.load(variant, load_external_data=False), True, True, True)  # or raises
    assert save_variant(tmp_path / "acoustic_encoder.onnx", "cuda") is None
