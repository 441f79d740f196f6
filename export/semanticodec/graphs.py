"""SemantiCodec's networks and graphs: what each takes and gives, and which published tensors it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from sc_runtime.export.spec import Graph, Origin, Specs
from sc_runtime.semanticodec.config import LATENT_SHAPE, MEL_BINS, SEGMENT_FRAMES
from sc_runtime.spec import TensorSpec

from .networks import hifigan
from .networks.acoustic_encoder import AcousticEncoder, OnnxAcousticEncoder, convert_lstm, list_lstm_parts
from .networks.audiomae import AudioMAE
from .networks.hifigan import HifiGan
from .networks.sizes import NetworkSizes
from .networks.tunet import Conditioning, TUNet, embed_positions
from .networks.vae_decoder import VaeDecoder


@dataclass(frozen=True)
class PrefixedNetwork:
    """One network of the checkpoint: its torch module, the file it lies in and the prefix of its names there."""

    module: type[nn.Module]
    file: str  #: "encoder" or "decoder"
    prefix: str

    def build(self, sizes: NetworkSizes) -> nn.Module:
        return self.module(sizes)

    def publish_name(self, name: str) -> str:
        """The checkpoint's name of the module's tensor `name`."""
        return name if name == "scale_factor" else self.prefix + name

    def trace_origin(self, name: str, shape: tuple[int, ...], sizes: NetworkSizes) -> Origin:
        return Origin({self.publish_name(name): shape})


NETWORKS = {
    "audiomae": PrefixedNetwork(AudioMAE, "encoder", "audiomae.model."),
    "acoustic_encoder": PrefixedNetwork(AcousticEncoder, "encoder", ""),
    "tunet": PrefixedNetwork(TUNet, "decoder", "model.diffusion_model."),
    "vae_decoder": PrefixedNetwork(VaeDecoder, "decoder", "first_stage_model."),
    "hifigan": PrefixedNetwork(HifiGan, "decoder", "first_stage_model.vocoder."),
}


class WholeNetworkGraph:
    """A graph of one network as it is. The subclasses say what it takes and gives."""

    shares = None

    def __init__(self, network: str) -> None:
        self.network = network

    def build(self, sizes: NetworkSizes) -> nn.Module:
        return NETWORKS[self.network].build(sizes)

    def refer(self, network: nn.Module, sizes: NetworkSizes) -> nn.Module:
        return network

    def trace_origin(self, name: str, shape: tuple[int, ...], sizes: NetworkSizes) -> Origin:
        return NETWORKS[self.network].trace_origin(name, shape, sizes)


class AudioMaeGraph(WholeNetworkGraph):
    def inputs(self, sizes: NetworkSizes) -> Specs:
        return {"fbank": float32(SEGMENT_FRAMES, MEL_BINS)}

    def outputs(self, sizes: NetworkSizes) -> Specs:
        return {"features": features(sizes)}


class AcousticEncoderGraph(WholeNetworkGraph):
    """The acoustic encoder with ONNX's LSTM instead of PyTorch's."""

    def inputs(self, sizes: NetworkSizes) -> Specs:
        return {"features": pairs(sizes)}

    def outputs(self, sizes: NetworkSizes) -> Specs:
        return {"acoustic": features(sizes)}

    def build(self, sizes: NetworkSizes) -> nn.Module:
        return OnnxAcousticEncoder(sizes)

    def trace_origin(self, name: str, shape: tuple[int, ...], sizes: NetworkSizes) -> Origin:
        parts = list_lstm_parts(name, shape)
        return Origin(parts, convert_lstm) if parts else super().trace_origin(name, shape, sizes)


class ConditioningGraph(WholeNetworkGraph):
    """The keys and values of the T-UNet's cross-attentions."""

    def inputs(self, sizes: NetworkSizes) -> Specs:
        return {"features": pairs(sizes)}

    def outputs(self, sizes: NetworkSizes) -> Specs:
        return list_context(sizes)

    def build(self, sizes: NetworkSizes) -> nn.Module:
        return Conditioning(TUNet(sizes), sizes)

    def refer(self, network: nn.Module, sizes: NetworkSizes) -> nn.Module:
        return Conditioning(network, sizes)  # type: ignore[arg-type]

    def trace_origin(self, name: str, shape: tuple[int, ...], sizes: NetworkSizes) -> Origin:
        if name == "positions":
            return Origin({}, partial(embed_positions, *shape))
        return super().trace_origin(name.removeprefix("tunet."), shape, sizes)


class TUNetStepGraph(WholeNetworkGraph):
    def inputs(self, sizes: NetworkSizes) -> Specs:
        return {"latent": LATENT, "step": TensorSpec("int64", ("batch",)), **list_context(sizes)}

    def outputs(self, sizes: NetworkSizes) -> Specs:
        return {"v": LATENT}


class VaeDecoderGraph(WholeNetworkGraph):
    def inputs(self, sizes: NetworkSizes) -> Specs:
        return {"latent": LATENT}

    def outputs(self, sizes: NetworkSizes) -> Specs:
        return {"mel": float32(hifigan.MEL_BINS, SEGMENT_FRAMES)}


class HifiGanGraph(WholeNetworkGraph):
    """The vocoder is convolutional: it takes any number of frames."""

    def inputs(self, sizes: NetworkSizes) -> Specs:
        return {"mel": float32(hifigan.MEL_BINS, "frames")}

    def outputs(self, sizes: NetworkSizes) -> Specs:
        return {"waveform": float32("samples")}


def float32(*shape: int | str) -> TensorSpec:
    return TensorSpec("float32", ("batch", *shape))


def features(sizes: NetworkSizes) -> TensorSpec:
    """[batch, L, D]"""
    return float32(sizes.config.positions, sizes.config.feature_width)


def pairs(sizes: NetworkSizes) -> TensorSpec:
    """Two features at each position, [batch, L, 2D]."""
    return float32(sizes.config.positions, 2 * sizes.config.feature_width)


def list_context(sizes: NetworkSizes) -> Specs:
    """The keys and values of every cross-attention, [batch, heads, L, head channels] each."""
    with torch.device("meta"):
        attentions = TUNet(sizes).cross_attentions()
    channels = sizes.tunet_head_channels
    return {
        f"{kind}_{i}": float32(attention.to_k.out_features // channels, sizes.config.positions, channels)
        for i, attention in enumerate(attentions)
        for kind in ("key", "value")
    }


LATENT = float32(*LATENT_SHAPE)

GRAPHS: dict[str, Graph] = {
    "audiomae": AudioMaeGraph("audiomae"),
    "acoustic_encoder": AcousticEncoderGraph("acoustic_encoder"),
    "conditioning": ConditioningGraph("tunet"),
    "tunet_step": TUNetStepGraph("tunet"),
    "vae_decoder": VaeDecoderGraph("vae_decoder"),
    "hifigan": HifiGanGraph("hifigan"),
}
