"""Training goes on from a built bundle: its graphs' weights, back in the networks they were traced from.

A checkpoint or the state of a former training is not needed, and neither is in the repository. What a bundle does
not hold begins anew: the VAE's encoder (`train.py vae_encoder` fits one to the decoder), discriminators,
optimisers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from sc_runtime.bundle.store import Bundle
from sc_runtime.errors import BundleError
from sc_runtime.export.semanticodec.graphs import GRAPHS, NETWORKS
from sc_runtime.export.semanticodec.networks.acoustic_encoder import AcousticEncoder
from sc_runtime.export.semanticodec.networks.hifigan import HifiGan
from sc_runtime.export.semanticodec.networks.sizes import NetworkSizes
from sc_runtime.export.semanticodec.networks.tunet import TUNet
from sc_runtime.export.semanticodec.networks.vae_decoder import VaeDecoder
from sc_runtime.export.trace import trace
from sc_runtime.files import replacing, write_atomically

from .diffusion import VectorQuantizer
from .masked_autoencoder import MaskedAutoencoder
from .preparation import CENTROIDS, SCALE_FACTOR

FIRST, LAST = 1024, 2**24  #: numbers of elements: past what a graph computes with itself, and exact in float32


def restore_bundle(bundle: Bundle, sizes: NetworkSizes, folder: Path) -> None:
    """Begin the training in `folder` with the weights and codebooks of `bundle`, instead of with random ones.

    Raises BundleError where its networks are not of `sizes`, and where `folder` holds a training already.
    """
    if bundle.choose_config() != sizes.config or bundle.manifest.precision != "float32":
        raise BundleError(f"{bundle.path}: {bundle.choose_config()}", f"a float32 bundle of {sizes.config}")
    networks: dict[str, dict[str, nn.Module]] = {
        "audiomae": {"autoencoder": MaskedAutoencoder(sizes)},
        "mel_vae": {"decoder": VaeDecoder(sizes)},
        "vocoder": {"hifigan": HifiGan(sizes)},
        "diffusion": {
            "tunet": TUNet(sizes),
            "acoustic_encoder": AcousticEncoder(sizes),
            "quantizer": VectorQuantizer(sizes.config.acoustic_vocab, sizes.config.feature_width),
        },
    }
    for stage in networks:
        if (folder / f"{stage}.pt").exists():
            raise BundleError(f"{folder} holds a training already ({stage}.pt)", "a folder to begin in")
    decoder = networks["mel_vae"]["decoder"]
    load = partial(read_network, bundle, sizes)
    networks["audiomae"]["autoencoder"].encoder.load_state_dict(load("audiomae"))  # type: ignore[union-attr]
    decoder.load_state_dict(load("vae_decoder"))
    networks["vocoder"]["hifigan"].load_state_dict(load("hifigan"))
    networks["diffusion"]["tunet"].load_state_dict(load("tunet"))
    networks["diffusion"]["acoustic_encoder"].load_state_dict(load("acoustic_encoder"))
    networks["diffusion"]["quantizer"].begin_with(torch.from_numpy(bundle.load_codebook("acoustic")))  # type: ignore
    scale = float(decoder.scale_factor.detach())  # type: ignore[operator]
    with torch.no_grad():
        decoder.scale_factor.fill_(1.0)  # type: ignore[operator]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / SCALE_FACTOR, json.dumps(scale).encode())
    with replacing(folder / CENTROIDS) as temporary:
        np.save(temporary, bundle.load_codebook(f"semantic-{sizes.config.vocab}"))
    for stage, modules in networks.items():
        write_start(folder / f"{stage}.pt", modules)


def write_start(path: Path, modules: Mapping[str, nn.Module]) -> None:
    """A stage's state before its first step, with the weights of `modules`; the rest of it is left to the stage."""
    states = {name: module.state_dict() for name, module in modules.items()}
    with replacing(path) as temporary:
        torch.save({"steps": 0, "seconds": 0.0, "networks": states, "averages": states, "optimizers": {}}, temporary)


def read_network(bundle: Bundle, sizes: NetworkSizes, name: str) -> dict[str, Tensor]:
    """The weights of the network `name`, by the names of its module, from the graphs that are made of it.

    A graph holds them transposed, stacked or reordered, some under no name of theirs. So it is traced again with
    numbers in place of the weights: where a number comes to stand, there the bundle's graph has its weight.
    """
    network = NETWORKS[name]
    shapes = network.list_shapes(sizes)
    numbers = number_elements(shapes)
    weights = np.full(sum(tensor.numel() for tensor in numbers.values()), np.nan, np.float32)
    for graph_name, graph in GRAPHS.items():
        if graph.network != name:
            continue
        find = partial(graph.find, network, numbers, sizes)
        model = trace(partial(graph.trace, sizes), graph.inputs(sizes), graph.outputs(sizes), find)
        path = bundle.find_graph(graph_name)
        numbered, stored = list_weights(model), list_weights(ir.load(path))
        if len(numbered) != len(stored):
            raise BundleError(f"{path}: another graph than is traced now", "a bundle of this version", bundle.remedy)
        for numbers_of_it, weight in zip(numbered, stored, strict=True):
            places = np.zeros(0) if numbers_of_it is None else numbers_of_it.numpy()
            if places.dtype != np.float32 or not places.size or places.max() > -FIRST:
                continue  # the graph's own: a shape, a constant
            if weight is None or tuple(weight.shape.numpy()) != places.shape:
                raise BundleError(
                    f"{path}: no weight of {list(places.shape)}", "a bundle of this version", bundle.remedy
                )
            weights[-FIRST - places.astype(np.int64)] = weight.numpy()
    if np.isnan(weights).any():
        raise BundleError(f"{bundle.path}: {int(np.isnan(weights).sum())} weights of {name} are lost", "all of them")
    parts = torch.from_numpy(weights).split([tensor.numel() for tensor in numbers.values()])
    published = dict(zip(numbers, parts, strict=True))
    with torch.device("meta"):
        state = network.module(sizes).state_dict()
    return {key: published[network.publish_name(key)].reshape(tensor.shape).clone() for key, tensor in state.items()}


def list_weights(model: ir.Model) -> list[ir.TensorProtocol | None]:
    """What every node of the graph reads, in order: a weight, or None. Names say less: equal weights share one."""
    halves = {
        node.outputs[0]: node.inputs[0]
        for node in model.graph
        if node.op_type == "Cast" and node.inputs[0] is not None and node.inputs[0].is_initializer()
    }
    nodes = (node for node in model.graph if node.outputs[0] not in halves)
    read = (halves.get(value, value) for node in nodes for value in node.inputs if value is not None)
    return [value.const_value if value.is_initializer() else None for value in read]


def number_elements(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors of `shapes` whose elements are counted down from -FIRST, through all of them."""
    numbers, next_number = {}, FIRST
    for name, shape in shapes.items():
        count = int(np.prod(shape, dtype=np.int64))
        numbers[name] = -torch.arange(next_number, next_number + count, dtype=torch.float32).reshape(shape)
        next_number += count
    assert next_number <= LAST, f"{next_number} weights"
    return numbers
