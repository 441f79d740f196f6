"""SemantiCodec's networks, what each exported graph takes and gives, and which published tensors it is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sc_runtime.export.registry import CodecExport, Graph, Shapes, Specs, Tensors, read_tensors
from sc_runtime.export.semanticodec.networks.acoustic_encoder import AcousticEncoder, OnnxAcousticEncoder, convert_lstm
from sc_runtime.export.semanticodec.networks.audiomae import AudioMAE
from sc_runtime.export.semanticodec.networks.hifigan import HifiGan
from sc_runtime.export.semanticodec.networks.sizes import NetworkSizes, choose_sizes
from sc_runtime.export.semanticodec.networks.tunet import Conditioning, TUNet, embed_positions
from sc_runtime.export.semanticodec.networks.vae_decoder import VaeDecoder
from sc_runtime.semanticodec.config import LATENT_SHAPE, MEL_BINS, SEGMENT_FRAMES
from sc_runtime.semanticodec.spec import VOCABULARIES
from sc_runtime.spec import TensorSpec

from .checkpoint import ACOUSTIC_CODEBOOK, Folder, SemantiCodecWeights, fetch_published
from .networks import hifigan


@dataclass(frozen=True)
class PrefixedNetwork:
    """One network of the checkpoint: its torch module, the file it lives in and its prefix there."""

    module: Callable[[NetworkSizes], nn.Module]
    file: str  #: "encoder" or "decoder"
    prefix: str
    sources: tuple[str, ...]

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
    "audiomae": PrefixedNetwork(
        AudioMAE, "encoder", "audiomae.model.", ("semanticodec/graphs.py", "semanticodec/networks/audiomae.py")
    ),
    "acoustic_encoder": PrefixedNetwork(
        AcousticEncoder, "encoder", "", ("semanticodec/graphs.py", "semanticodec/networks/acoustic_encoder.py")
    ),
    "tunet": PrefixedNetwork(
        TUNet, "decoder", "model.diffusion_model.", ("semanticodec/graphs.py", "semanticodec/networks/tunet.py")
    ),
    "vae_decoder": PrefixedNetwork(
        VaeDecoder, "decoder", "first_stage_model.", ("semanticodec/graphs.py", "semanticodec/networks/vae_decoder.py")
    ),
    "hifigan": PrefixedNetwork(
        HifiGan, "decoder", "first_stage_model.vocoder.", ("semanticodec/graphs.py", "semanticodec/networks/hifigan.py")
    ),
}


def list_others(file: str, sizes: NetworkSizes) -> Shapes:
    config = sizes.config
    return {ACOUSTIC_CODEBOOK: (1, config.acoustic_vocab, config.feature_width)} if file == "encoder" else {}


def make_codebooks(
    sizes: NetworkSizes, vocabularies: tuple[int, ...], weights: SemantiCodecWeights
) -> Iterator[tuple[str, np.ndarray]]:
    for vocab in vocabularies:
        yield f"semantic-{vocab}", weights.centroids(vocab, sizes)
    yield "acoustic", read_tensors("encoder", weights, sizes)[ACOUSTIC_CODEBOOK][0].numpy()


def keep(module: nn.Module, sizes: NetworkSizes) -> nn.Module:
    return module


def find_tensor(network: PrefixedNetwork, tensors: Tensors, sizes: NetworkSizes, name: str) -> Tensor:
    return tensors[network.publish_name(name)]


def find_lstm_tensor(network: PrefixedNetwork, tensors: Tensors, sizes: NetworkSizes, name: str) -> Tensor:
    published = network.publish_name(name)
    return tensors[published] if published in tensors else convert_lstm(tensors, name)


def find_conditioning_tensor(network: PrefixedNetwork, tensors: Tensors, sizes: NetworkSizes, name: str) -> Tensor:
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

SEMANTICODEC = CodecExport(
    NETWORKS,
    GRAPHS,
    VOCABULARIES,
    lambda config, vocabularies: "-".join([f"tps{config.tps}", *(f"v{vocab}" for vocab in vocabularies)]),
    lambda config, vocabularies: f"--tps {config.tps} --vocab {','.join(map(str, vocabularies))}",
    lambda size, tps, vocab: choose_sizes(size, tps or 50, vocab),
    list_others,
    make_codebooks,
    lambda path, sizes: Folder(path, sizes.config.tps),
    lambda sizes, vocabularies: fetch_published(sizes.config.tps, vocabularies),
    int8=("tunet_step", "vae_decoder"),
)
