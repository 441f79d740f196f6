"""What each exported graph takes and gives, and which published tensors it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sc_runtime.bundle import TensorSpec
from sc_runtime.semanticodec.config import LATENT_SHAPE, MEL_BINS, SEGMENT_FRAMES

from .checkpoint import ACOUSTIC_CODEBOOK, Weights
from .networks import hifigan
from .networks.acoustic_encoder import AcousticEncoder, OnnxAcousticEncoder, convert_lstm
from .networks.audiomae import AudioMAE
from .networks.hifigan import HifiGan
from .networks.sizes import NetworkSizes
from .networks.tunet import Conditioning, TUNet, embed_positions
from .networks.vae_decoder import VaeDecoder

Tensors = Mapping[str, Tensor]
Specs = dict[str, TensorSpec]


@dataclass(frozen=True)
class Network:
    """One network of the checkpoint: its torch module, the file it lives in and its prefix there."""

    module: Callable[[NetworkSizes], nn.Module]
    file: str  #: "encoder" or "decoder"
    prefix: str

    def publish_name(self, name: str) -> str:
        """The checkpoint's name of the module's tensor `name`."""
        return name if name == "scale_factor" else self.prefix + name

    def list_shapes(self, sizes: NetworkSizes) -> dict[str, tuple[int, ...]]:
        """Published name -> shape of every tensor of the network."""
        with torch.device("meta"):
            state = self.module(sizes).state_dict()
        return {self.publish_name(name): tuple(tensor.shape) for name, tensor in state.items()}

    def load(self, sizes: NetworkSizes, tensors: Tensors) -> nn.Module:
        """The network with its weights, for evaluation."""
        with torch.device("meta"):
            module = self.module(sizes)
        state = {name: tensors[self.publish_name(name)] for name in module.state_dict()}
        module.load_state_dict(state, assign=True)
        return module.eval().requires_grad_(False)


NETWORKS = {
    "audiomae": Network(AudioMAE, "encoder", "audiomae.model."),
    "acoustic_encoder": Network(AcousticEncoder, "encoder", ""),
    "tunet": Network(TUNet, "decoder", "model.diffusion_model."),
    "vae_decoder": Network(VaeDecoder, "decoder", "first_stage_model."),
    "hifigan": Network(HifiGan, "decoder", "first_stage_model.vocoder."),
}


def read_tensors(file: str, weights: Weights, sizes: NetworkSizes) -> Tensors:
    """Every tensor inference needs of one checkpoint file ("encoder" or "decoder"), checked as a whole."""
    shapes: dict[str, tuple[int, ...]] = {}
    for network in NETWORKS.values():
        if network.file == file:
            shapes |= network.list_shapes(sizes)
    if file == "encoder":
        config = sizes.config
        shapes[ACOUSTIC_CODEBOOK] = (1, config.acoustic_vocab, config.feature_width)
        return weights.encoder(shapes)
    return weights.decoder(shapes)


@dataclass(frozen=True)
class Graph:
    """One exported graph.

    `trace` builds the module that is traced; `reference` turns the loaded network into the torch function the graph
    must equal; `find` gives the tensor that the traced module calls `name`.
    """

    network: str
    inputs: Callable[[NetworkSizes], Specs]
    outputs: Callable[[NetworkSizes], Specs]
    trace: Callable[[NetworkSizes], nn.Module]
    reference: Callable[[Any, NetworkSizes], nn.Module]
    find: Callable[[Network, Tensors, NetworkSizes, str], Tensor]


def keep(module: nn.Module, sizes: NetworkSizes) -> nn.Module:
    return module


def find_tensor(network: Network, tensors: Tensors, sizes: NetworkSizes, name: str) -> Tensor:
    return tensors[network.publish_name(name)]


def find_lstm_tensor(network: Network, tensors: Tensors, sizes: NetworkSizes, name: str) -> Tensor:
    published = network.publish_name(name)
    return tensors[published] if published in tensors else convert_lstm(tensors, name)


def find_conditioning_tensor(network: Network, tensors: Tensors, sizes: NetworkSizes, name: str) -> Tensor:
    if name == "positions":
        return embed_positions(sizes.config.positions, sizes.position_channels)
    return tensors[network.publish_name(name.removeprefix("tunet."))]


def float32(*shape: int | str) -> TensorSpec:
    return TensorSpec("float32", ("batch", *shape))


def features(factor: int) -> Callable[[NetworkSizes], TensorSpec]:
    return lambda sizes: float32(sizes.config.positions, factor * sizes.config.feature_width)


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


MEL = float32(hifigan.MEL_BINS, SEGMENT_FRAMES)
ANY_MEL = float32(hifigan.MEL_BINS, "frames")  #: the vocoder is convolutional: it takes any number of frames
LATENT = float32(*LATENT_SHAPE)
WAVEFORM = float32("samples")

GRAPHS = {
    "audiomae": Graph(
        "audiomae",
        lambda sizes: {"fbank": float32(SEGMENT_FRAMES, MEL_BINS)},
        lambda sizes: {"features": features(1)(sizes)},
        AudioMAE,
        keep,
        find_tensor,
    ),
    "acoustic_encoder": Graph(
        "acoustic_encoder",
        lambda sizes: {"features": features(2)(sizes)},
        lambda sizes: {"acoustic": features(1)(sizes)},
        OnnxAcousticEncoder,
        keep,
        find_lstm_tensor,
    ),
    "conditioning": Graph(
        "tunet",
        lambda sizes: {"features": features(2)(sizes)},
        list_context,
        lambda sizes: Conditioning(TUNet(sizes), sizes),
        Conditioning,
        find_conditioning_tensor,
    ),
    "tunet_step": Graph(
        "tunet",
        lambda sizes: {"latent": LATENT, "step": TensorSpec("int64", ("batch",)), **list_context(sizes)},
        lambda sizes: {"v": LATENT},
        TUNet,
        keep,
        find_tensor,
    ),
    "vae_decoder": Graph(
        "vae_decoder",
        lambda sizes: {"latent": LATENT},
        lambda sizes: {"mel": MEL},
        VaeDecoder,
        keep,
        find_tensor,
    ),
    "hifigan": Graph(
        "hifigan", lambda sizes: {"mel": ANY_MEL}, lambda sizes: {"waveform": WAVEFORM}, HifiGan, keep, find_tensor
    ),
}
