"""The table of weights restores every tensor that a graph uses, as in the module. Errors name false tables."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from sc_runtime.bundle.manifest import Manifest, WeightEntry
from sc_runtime.bundle.store import EMBEDDED, Bundle
from sc_runtime.bundle.weights import MappedWeights
from sc_runtime.errors import BundleError
from sc_runtime.export.registry import EXPORTS, read_tensors
from sc_runtime.export.seeded import SeededWeights
from sc_runtime.export.semanticodec.networks import sizes as semanticodec
from sc_runtime.export.semanticodec.networks.acoustic_encoder import (
    AcousticEncoder,
    OnnxAcousticEncoder,
    convert_lstm,
    list_lstm_parts,
    restore_lstm,
)
from sc_runtime.export.semanticodec.networks.hifigan import HifiGan
from sc_runtime.export.semanticodec.networks.tunet import TUNet
from sc_runtime.export.semanticodec.networks.vae_decoder import VaeDecoder
from sc_runtime.export.spec import list_origins, make_tensor
from sc_runtime.export.storage import store_half
from sc_runtime.export.trace import save_model, trace
from sc_runtime.export.weights import locate_weights, read_weights
from sc_runtime.spec import TensorSpec
from tests.conftest import load_manifest

GRAPHS = [(codec, graph) for codec, export in EXPORTS.items() for graph in export.graphs]
BUNDLES = {"semanticodec": "tiny_bundle", "unicodec": "tiny_unicodec"}


def find_unused(codec: str, graph: str, names: set[str]) -> set[str]:
    """The tensors of a traced module that its graph does not use, because the T-UNet is traced in two parts."""
    context = {name for name in names if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))}
    context = {name for name in context if ".2.transformer_blocks" in name}
    if graph == "tunet_step":
        return context
    return names - context - {"positions"} if graph == "conditioning" else set()


@pytest.mark.parametrize(("codec", "graph"), GRAPHS)
def test_every_weight_of_a_graph_is_read_back_exactly(codec: str, graph: str, request: pytest.FixtureRequest) -> None:
    bundle, export = Bundle.load(request.getfixturevalue(BUNDLES[codec])), EXPORTS[codec]
    sizes = export.choose_sizes("tiny", None, export.vocabularies[-1])
    entry = export.graphs[graph]
    tensors = read_tensors(export.networks[entry.network].file, SeededWeights(1), sizes)
    origins = list_origins(entry, sizes)
    found = read_weights(bundle, graph)
    assert found.keys() == origins.keys() - find_unused(codec, graph, set(origins))
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, make_tensor(origins[name], tensors)), name


def test_the_embedded_networks_are_read_back(tmp_path: Path) -> None:
    """Every tensor of the networks is in the bundle. Most of its weights are float16."""
    bundle, sizes = Bundle.load(EMBEDDED), semanticodec.EMBEDDED
    with torch.device("meta"):
        networks: dict[str, nn.Module] = {"vae_decoder": VaeDecoder(sizes), "hifigan": HifiGan(sizes)}
        encoder, tunet = AcousticEncoder(sizes), TUNet(sizes)
    for name, network in networks.items():
        network.load_state_dict(read_weights(bundle, name), assign=True)
    encoder.load_state_dict(restore_lstm(read_weights(bundle, "acoustic_encoder")), assign=True)
    conditioning = read_weights(bundle, "conditioning")
    del conditioning["positions"]
    tunet.load_state_dict(
        read_weights(bundle, "tunet_step")
        | {name.removeprefix("tunet."): tensor for name, tensor in conditioning.items()},
        assign=True,
    )


def test_the_lstm_is_restored_from_onnxs_layout() -> None:
    sizes = semanticodec.choose_sizes("tiny", 100, 4096)
    state = AcousticEncoder(sizes).state_dict()
    converted = {}
    for name, tensor in OnnxAcousticEncoder(sizes).state_dict().items():
        parts = list_lstm_parts(name, tuple(tensor.shape))
        converted[name] = convert_lstm(*(state[part] for part in parts)) if parts else state[name]
        assert converted[name].shape == tensor.shape
    restored = restore_lstm(converted)
    assert restored.keys() == state.keys()
    assert all(torch.equal(restored[name], state[name]) for name in state)


class Twins(nn.Module):
    """Equal and unequal tensors, plain, transposed in two ways, and given another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.cube = nn.Parameter(torch.empty(2, 3, 6))
        self.norm1, self.norm2 = nn.GroupNorm(2, 6), nn.GroupNorm(2, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(self.first(x)) + x @ self.first.weight
        y = y + (x @ self.cube.permute(0, 2, 1)).sum(dim=(0, 2)).unsqueeze(-1)
        y = y + (x @ self.cube.permute(1, 2, 0)).sum(dim=(0, 2)).unsqueeze(-1)
        return self.norm2(self.norm1(y.unsqueeze(-1))).squeeze(-1)


@pytest.mark.parametrize("half", [False, True])
def test_equal_weights_share_a_place_and_each_has_an_entry(tmp_path: Path, half: bool) -> None:
    values = {name: draw(tuple(tensor.shape)) for name, tensor in Twins().state_dict().items()}
    for kind in ("weight", "bias"):
        values[f"norm2.{kind}"] = values[f"norm1.{kind}"]
        values[f"second.{kind}"] = values[f"first.{kind}"]
    spec = TensorSpec("float32", ("batch", 6))
    traced = trace(Twins, {"x": spec}, {"y": spec}, values.__getitem__)
    if half:
        store_half(traced.model)
    (path, *_) = save_model(traced.model, tmp_path / "graph.onnx")
    table = locate_weights(path, traced.weights)
    assert table.keys() == values.keys()
    for name, array in MappedWeights(tmp_path, table).arrays.items():
        np.testing.assert_array_equal(array, values[name].numpy(), err_msg=name)
    assert table["norm1.weight"].offset == table["norm2.weight"].offset
    onnx.checker.check_model(str(path))


def draw(shape: tuple[int, ...]) -> torch.Tensor:
    values = np.random.default_rng(len(shape)).integers(-99, 99, shape)
    return torch.tensor(values / 8, dtype=torch.float32)


def test_an_fp16_graphs_weights_are_rounded(tiny_bundle: Path, tiny_fp16_bundle: Path) -> None:
    single, half = (read_weights(Bundle.load(path), "vae_decoder") for path in (tiny_bundle, tiny_fp16_bundle))
    assert single.keys() == half.keys()
    for name, tensor in half.items():
        assert torch.equal(tensor, single[name]) or torch.equal(tensor, single[name].half().float()), name


# The mapping


@pytest.fixture
def mapped(tmp_path: Path) -> tuple[Path, WeightEntry]:
    np.arange(24, dtype=np.float32).tofile(tmp_path / "data")
    return tmp_path, WeightEntry("data", 8, (2, 3), "float32", (1, 0))


def test_weights_are_mapped_given_back_and_read_again(mapped: tuple[Path, WeightEntry]) -> None:
    folder, entry = mapped
    weights = MappedWeights(folder, {"w": entry})
    for _ in range(2):
        np.testing.assert_array_equal(weights.arrays["w"], [[2, 4, 6], [3, 5, 7]])
        weights.release()
    assert not weights.arrays["w"].flags.writeable


@pytest.mark.parametrize(
    "change",
    [
        {"file": "absent"},
        {"offset": 96 - 20},
        {"offset": 10**6},
        {"shape": (5, 5)},
        {"dtype": "tensor"},
    ],
)
def test_a_weight_that_cannot_be_read_is_named(mapped: tuple[Path, WeightEntry], change: dict[str, Any]) -> None:
    folder, entry = mapped
    with pytest.raises(BundleError, match=r"(data|absent): the weight w cannot be read .*at byte \d+"):
        MappedWeights(folder, {"w": dataclasses.replace(entry, **change)})


def test_a_bundle_without_a_table_is_named(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    entry = dataclasses.replace(bundle.manifest.graphs["hifigan"], weights={})
    old = Bundle(bundle.path, dataclasses.replace(bundle.manifest, graphs={"hifigan": entry}))
    with pytest.raises(BundleError, match=r"no table of the weights of hifigan; .*rebuild it"):
        read_weights(old, "hifigan")


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: entry.update(file="../elsewhere"),
        lambda entry: entry.update(file="hifigan.onnx"),
        lambda entry: entry.update(offset=-1),
        lambda entry: entry.update(permutation=[0, 2]),
        lambda entry: entry.pop("offset"),
        lambda entry: entry.update(surprise=1),
    ],
)
def test_a_table_that_cannot_be_true_is_refused(tiny_bundle: Path, damage: Callable[[dict[str, Any]], None]) -> None:
    raw = load_manifest(tiny_bundle)
    damage(raw["graphs"]["acoustic_encoder"]["weights"]["encoder_output_linear.weight"])
    with pytest.raises((ValueError, KeyError, TypeError)):
        Manifest.from_json(json.dumps(raw))


def test_an_older_manifest_has_no_table(tiny_bundle: Path) -> None:
    raw = load_manifest(tiny_bundle)
    for entry in raw["graphs"].values():
        del entry["weights"]
    assert all(not entry.weights for entry in Manifest.from_json(json.dumps(raw)).graphs.values())
