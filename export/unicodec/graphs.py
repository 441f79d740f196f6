"""UniCodec's networks and graphs: what each takes and gives, and which published tensors it is made of.

Some tensors are computed from published ones: convolutions from their weight-normalised halves, plain LayerNorms from
row 0 of the adaptive ones, the inverse STFT from its window.
"""

from __future__ import annotations

import re

from torch import nn

from sc_runtime.export.spec import Graph, Network, Origin, Specs
from sc_runtime.spec import TensorSpec

from .checkpoint import FILE
from .networks.decoder import Decoder, make_basis, make_power, take_first_condition
from .networks.encoder import Encoder, Mixture, RoutedMixture, fold_norm
from .networks.sizes import UniCodecSizes

ENCODER = "feature_extractor.encodec.encoder."
WINDOW = "head.istft.window"
CONDITIONS = 4  #: rows of an adaptive LayerNorm; inference uses row 0

#: Name of a part of the encoder's layers -> its published name.
RENAMED = {
    "attention.qkv.weight": "self_attn.in_proj_weight",
    "attention.out.weight": "self_attn.out_proj.weight",
    "scale": "layer_scale_1.scale",
}


class EncoderNetwork:
    file = FILE

    def build(self, sizes: UniCodecSizes) -> nn.Module:
        return Encoder(sizes, Mixture)

    def trace_origin(self, name: str, shape: tuple[int, ...], sizes: UniCodecSizes) -> Origin:
        root, _, rest = name.partition(".")
        if root == "transformer":
            _, layer, part = rest.split(".", 2)
            part = RENAMED.get(part, part.replace("mixture.", "FFNMOE."))
            return Origin({f"{ENCODER}transformer_enocoder.transformer.layers.{layer}.{part}": shape})
        convolution, _, kind = rest.rpartition(".")
        published = f"{ENCODER}model.{locate_convolution(convolution, sizes)}.conv.conv"
        if kind == "bias":
            return Origin({f"{published}.bias": shape})
        return Origin({f"{published}.weight_g": (shape[0], 1, 1), f"{published}.weight_v": shape}, fold_norm)


class DecoderNetwork:
    file = FILE

    def build(self, sizes: UniCodecSizes) -> nn.Module:
        return Decoder(sizes)

    def trace_origin(self, name: str, shape: tuple[int, ...], sizes: UniCodecSizes) -> Origin:
        if adaptive := re.fullmatch(r"(backbone\.(?:convnext\.\d+\.)?norm)\.(weight|bias)", name):
            kind = {"weight": "scale", "bias": "shift"}[adaptive[2]]
            return Origin({f"{adaptive[1]}.{kind}.weight": (CONDITIONS, *shape)}, take_first_condition)
        if name == "head.istft.basis":
            return Origin({WINDOW: (sizes.n_fft,)}, make_basis)
        if name == "head.istft.power":
            return Origin({WINDOW: (sizes.n_fft,)}, make_power)
        return Origin({name: shape})


class EncoderGraph(EncoderNetwork):
    """The encoder in which every expert runs on every position, so that no shape depends on the data."""

    network = "encoder"
    shares: str | None = None

    def inputs(self, sizes: UniCodecSizes) -> Specs:
        return {"waveform": float32("samples")}

    def outputs(self, sizes: UniCodecSizes) -> Specs:
        return {"features": float32("positions", sizes.width)}

    def refer(self, network: nn.Module, sizes: UniCodecSizes) -> nn.Module:
        return network


class RoutedEncoderGraph(EncoderGraph):
    """The encoder in which an expert runs on the positions that chose it, with the weights of `encoder`."""

    shares = "encoder"

    def build(self, sizes: UniCodecSizes) -> nn.Module:
        return Encoder(sizes, RoutedMixture)


class DecoderGraph(DecoderNetwork):
    network = "decoder"
    shares: str | None = None

    def inputs(self, sizes: UniCodecSizes) -> Specs:
        return {"vectors": float32("positions", sizes.width)}

    def outputs(self, sizes: UniCodecSizes) -> Specs:
        return {"waveform": float32("samples")}

    def refer(self, network: nn.Module, sizes: UniCodecSizes) -> nn.Module:
        return network


def float32(*shape: int | str) -> TensorSpec:
    return TensorSpec("float32", ("batch", *shape))


def locate_convolution(name: str, sizes: UniCodecSizes) -> str:
    """The index of the part `name` of Convolutions in the published sequence, which counts activations too."""
    kind, *rest = name.split(".")
    if kind == "first":
        return "0"
    if kind == "last":
        return str(3 * len(sizes.strides) + 2)
    level = 3 * int(rest[0]) + 1
    if kind == "downsamplings":
        return str(level + 2)
    return f"{level}.{ {'narrow': 'block.1', 'widen': 'block.3', 'shortcut': 'shortcut'}[rest[1]] }"


NETWORKS: dict[str, Network] = {"encoder": EncoderNetwork(), "decoder": DecoderNetwork()}

GRAPHS: dict[str, Graph] = {
    "encoder": EncoderGraph(),
    "routed_encoder": RoutedEncoderGraph(),
    "decoder": DecoderGraph(),
}
