"""Graphs rewritten for an engine compute what they computed, in float32 to rounding, in few nodes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from sc_runtime.accuracy import relative_error
from sc_runtime.bundle.store import Bundle
from sc_runtime.export.rewrite import ENGINES, rewrite, save_variant
from sc_runtime.export.rewrite.counting import count_launches
from sc_runtime.export.verify import draw_inputs
from tests.reference_operators import expand_operators

#: Engine and graph -> the places that each pass changes in the tiny networks.
CHANGED = {
    "cuda": {
        "join_step_products": 11,
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


@pytest.mark.slow
def test_tensorrt_rtx_parses_the_variant(tiny_fp16_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    from sc_runtime.export.plans import collecting, import_polygraphy

    for path in tiny_fp16_bundle.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    variant = save_variant(tmp_path / "tunet_step.onnx", "tensorrt")
    trt, _ = import_polygraphy("rtx")
    with collecting() as said:
        _, network, _ = trt.network_from_onnx_path(str(variant), strongly_typed=True)
    assert not said
    kinds = Counter(str(network.get_layer(i).type).rpartition(".")[2] for i in range(network.num_layers))
    assert kinds["NORMALIZATION"] + kinds["NORMALIZATION_V2"] >= 37
    assert not kinds["SOFTMAX"], kinds


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
    onnx.shape_inference.infer_shapes(onnx.load(variant, load_external_data=False), True, True, True)  # or raises
    assert save_variant(tmp_path / "acoustic_encoder.onnx", "cuda") is None
