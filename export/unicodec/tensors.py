"""Where UniCodec's weights come from, and which published tensors each tensor of the networks is made of.

One file, `unicode.ckpt`, holds everything. Some tensors are computed from it at export: convolutions from their
weight-normalised halves, plain LayerNorms from row 0 of the adaptive ones, the inverse STFT from its window, the
codebook from its embedding and a linear layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sc_runtime.export.registry import Shapes
from sc_runtime.export.semanticodec.checkpoint import check_state, read_state
from sc_runtime.export.unicodec.networks.decoder import Decoder, make_basis
from sc_runtime.export.unicodec.networks.encoder import Encoder, Mixture, RoutedMixture
from sc_runtime.export.unicodec.networks.sizes import UniCodecSizes

PREFIXES = ("feature_extractor.", "backbone.", "head.")  #: of inference; the rest are discriminators and losses
ENCODER = "feature_extractor.encodec.encoder."
EMBEDDING = "feature_extractor.encodec.quantizer.vq.embedding.weight"  #: [entries, width]
PROJECTION = "feature_extractor.encodec.quantizer.vq.embedding_proj"
WINDOW = "head.istft.window"
CONDITIONS = 4  #: rows of an adaptive LayerNorm; inference asks for row 0

#: What has one of PREFIXES and takes no part in inference.
UNUSED = re.compile(
    r"feature_extractor\.encodec\.(decoder\.|encoder\.mask_emb$"
    r"|encoder\.transformer_enocoder\.transformer\.layers\.\d+\.(linear[12]\.weight|layer_scale_2\.scale)$)"
)

NETWORKS: dict[str, Callable[[UniCodecSizes], nn.Module]] = {
    "encoder": lambda sizes: Encoder(sizes, Mixture),
    "routed_encoder": lambda sizes: Encoder(sizes, RoutedMixture),
    "decoder": Decoder,
}

RENAMED = {
    "attention.qkv.weight": "self_attn.in_proj_weight",
    "attention.out.weight": "self_attn.out_proj.weight",
    "scale": "layer_scale_1.scale",
}


@dataclass(frozen=True)
class Source:
    """The published tensors that one tensor of a network is made of, and how."""

    shapes: dict[str, tuple[int, ...]]  #: published name -> shape
    make: Callable[..., Tensor]  #: takes them in order


def trace_source(name: str, shape: tuple[int, ...], sizes: UniCodecSizes) -> Source:
    """What the tensor `name` of Encoder or Decoder, of `shape`, is made of."""
    root, _, rest = name.partition(".")
    if root == "convolutions":
        convolution, _, kind = rest.rpartition(".")
        published = f"{ENCODER}model.{locate_convolution(convolution, sizes)}.conv.conv"
        if kind == "bias":
            return keep(f"{published}.bias", shape)
        return Source({f"{published}.weight_g": (shape[0], 1, 1), f"{published}.weight_v": shape}, fold_norm)
    if root == "transformer":
        _, layer, part = rest.split(".", 2)
        part = RENAMED.get(part, part.replace("mixture.", "FFNMOE."))
        return keep(f"{ENCODER}transformer_enocoder.transformer.layers.{layer}.{part}", shape)
    if adaptive := re.fullmatch(r"(backbone\.(?:convnext\.\d+\.)?norm)\.(weight|bias)", name):
        kind = {"weight": "scale", "bias": "shift"}[adaptive[2]]
        return Source({f"{adaptive[1]}.{kind}.weight": (CONDITIONS, *shape)}, lambda rows: rows[0])
    if name == "head.istft.basis":
        return Source({WINDOW: (sizes.n_fft,)}, make_basis)
    if name == "head.istft.power":
        return Source({WINDOW: (sizes.n_fft,)}, lambda window: window.square().reshape(shape))
    return keep(name, shape)


def keep(name: str, shape: tuple[int, ...]) -> Source:
    return Source({name: shape}, lambda tensor: tensor)


def locate_convolution(name: str, sizes: UniCodecSizes) -> str:
    """Where `name` of Convolutions stands in the published sequence, in which activations count too."""
    kind, *rest = name.split(".")
    if kind == "first":
        return "0"
    if kind == "last":
        return str(3 * len(sizes.strides) + 2)
    level = 3 * int(rest[0]) + 1
    if kind == "downsamplings":
        return str(level + 2)
    return f"{level}.{ {'narrow': 'block.1', 'widen': 'block.3', 'shortcut': 'shortcut'}[rest[1]] }"


def fold_norm(gain: Tensor, direction: Tensor) -> Tensor:
    """The plain weight of a weight-normalised convolution (arXiv 1602.07868, eq. 2)."""
    return direction * (gain / direction.square().sum(dim=(1, 2), keepdim=True).sqrt())


def list_sources(network: str, sizes: UniCodecSizes) -> dict[str, Source]:
    """Name -> source of every tensor of `network`, one of NETWORKS."""
    with torch.device("meta"):
        state = NETWORKS[network](sizes).state_dict()
    return {name: trace_source(name, tuple(tensor.shape), sizes) for name, tensor in state.items()}


def list_quantizer_shapes(sizes: UniCodecSizes) -> dict[str, tuple[int, ...]]:
    """Published name -> shape of what the codebook is made of."""
    width = sizes.width
    return {EMBEDDING: (sizes.entries, width), f"{PROJECTION}.weight": (width, width), f"{PROJECTION}.bias": (width,)}


def list_shapes(sizes: UniCodecSizes) -> dict[str, tuple[int, ...]]:
    """Published name -> shape of every tensor that inference needs."""
    shapes = list_quantizer_shapes(sizes)
    for network in NETWORKS:
        for source in list_sources(network, sizes).values():
            shapes |= source.shapes
    return shapes


def find_tensor(sources: Mapping[str, Source], tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """The network's tensor `name`, float32, made of the published `tensors`."""
    source = sources[name]
    return source.make(*(tensors[published] for published in source.shapes))


def load_network(network: str, sizes: UniCodecSizes, tensors: Mapping[str, Tensor]) -> nn.Module:
    """One of NETWORKS with its weights, for evaluation."""
    sources = list_sources(network, sizes)
    with torch.device("meta"):
        module = NETWORKS[network](sizes)
    module.load_state_dict({name: find_tensor(sources, tensors, name) for name in sources}, assign=True)
    return module.eval().requires_grad_(False)


def make_codebook(tensors: Mapping[str, Tensor]) -> np.ndarray:
    """The vectors that features are compared with and the decoder takes: float32 [entries, width].

    The published code computes them anew in every call. In float64, so that every machine rounds to the same ones.
    """
    weight, bias = tensors[f"{PROJECTION}.weight"], tensors[f"{PROJECTION}.bias"]
    return (tensors[EMBEDDING].double() @ weight.double().T + bias.double()).float().numpy()


def select_tensors(path: Path, shapes: Shapes) -> dict[str, Tensor]:
    """The tensors `shapes` of a .ckpt file. Raises CheckpointError when they are not all there."""
    state = {name: tensor for name, tensor in read_state(path).items() if name.startswith(PREFIXES)}
    return check_state(path, state, shapes, UNUSED)
