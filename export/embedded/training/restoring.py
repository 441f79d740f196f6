"""Starts a training from a built bundle, through the table of weights in its manifest.

No checkpoint or state of a former training is needed, and neither is in the repository. A bundle does not hold the
VAE's encoder (stage `vae_encoder` trains one for the decoder), the discriminators and the optimisers: they start
anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sc_runtime.bundle.store import Bundle
from sc_runtime.errors import BundleError
from sc_runtime.export.semanticodec.networks.acoustic_encoder import AcousticEncoder, restore_lstm
from sc_runtime.export.semanticodec.networks.hifigan import HifiGan
from sc_runtime.export.semanticodec.networks.sizes import NetworkSizes
from sc_runtime.export.semanticodec.networks.tunet import TUNet
from sc_runtime.export.semanticodec.networks.vae_decoder import VaeDecoder
from sc_runtime.export.weights import read_weights
from sc_runtime.files import replacing, write_atomically

from .caching import write_record
from .masked_autoencoder import MaskedAutoencoder
from .preparation import CENTROIDS, SCALE_FACTOR, describe_audiomae, describe_vae
from .quantizer import VectorQuantizer
from .states import FURTHER


def restore_bundle(bundle: Bundle, stored: NetworkSizes, sizes: NetworkSizes, folder: Path) -> tuple[str, ...]:
    """Start a training of networks of `sizes` in `folder` with the weights and codebooks of `bundle`.

    `stored` are the sizes of the bundle's networks. A stage whose networks have other sizes starts with random
    weights. Returns the names of the other stages. Raises BundleError if the bundle is not of `stored` or not
    float32, and if `folder` holds a training already.
    """
    if bundle.choose_config() != stored.config or bundle.manifest.precision != "float32":
        raise BundleError(f"{bundle.path}: {bundle.choose_config()}", f"a float32 bundle of {stored.config}")
    restored = build_networks(stored)
    wanted = build_networks(sizes)
    kept = tuple(stage for stage in restored if list_shapes(restored[stage]) == list_shapes(wanted[stage]))
    for stage in (*kept, *FURTHER):
        if (folder / f"{stage}.pt").exists():
            raise BundleError(f"{folder} holds a training already ({stage}.pt)", "a folder without one")
    for name, weights in read_networks(bundle).items():
        for networks in restored.values():
            if name in networks:
                networks[name].load_state_dict(weights, strict=name != "autoencoder")
    scale = float(read_weights(bundle, "vae_decoder")["scale_factor"])
    folder.mkdir(parents=True, exist_ok=True)
    if sizes.config == stored.config:
        autoencoder = restored["audiomae"]["autoencoder"]
        assert isinstance(autoencoder, MaskedAutoencoder)
        write_record(folder / CENTROIDS, describe_audiomae(autoencoder.encoder.state_dict()))
        with replacing(folder / CENTROIDS) as temporary:
            np.save(temporary, bundle.load_codebook(stored.config.semantic_codebook))
    if "mel_vae" in kept:
        write_record(folder / SCALE_FACTOR, describe_vae(restored["mel_vae"]["decoder"].state_dict()))
        write_atomically(folder / SCALE_FACTOR, json.dumps(scale).encode())
    for stage in kept:
        write_start(folder / f"{stage}.pt", restored[stage])
    return kept


def build_networks(sizes: NetworkSizes) -> dict[str, dict[str, nn.Module]]:
    """By stage and name, the networks that a bundle holds, with random weights."""
    config = sizes.config
    return {
        "audiomae": {"autoencoder": MaskedAutoencoder(sizes)},
        "mel_vae": {"decoder": VaeDecoder(sizes)},
        "vocoder": {"hifigan": HifiGan(sizes)},
        "tokens": {
            "acoustic_encoder": AcousticEncoder(sizes),
            "quantizer": VectorQuantizer(config.acoustic_vocab, config.feature_width),
        },
        "diffusion": {"tunet": TUNet(sizes)},
    }


def list_shapes(networks: Mapping[str, nn.Module]) -> dict[str, torch.Size]:
    return {f"{name}.{key}": tensor.shape for name in networks for key, tensor in networks[name].state_dict().items()}


def read_networks(bundle: Bundle) -> dict[str, dict[str, Tensor]]:
    """The weights of `bundle` for each network of `build_networks`, by the names of its module.

    The autoencoder's decoder is in no bundle. The VAE's scale factor is 1 in training.
    """
    audiomae = read_weights(bundle, "audiomae")
    entries = torch.from_numpy(bundle.load_codebook("acoustic"))
    quantizer = VectorQuantizer(*entries.shape)
    quantizer.begin_with(entries)
    return {
        "autoencoder": {f"encoder.{name}": tensor for name, tensor in audiomae.items()},
        "decoder": read_weights(bundle, "vae_decoder") | {"scale_factor": torch.ones(())},
        "hifigan": read_weights(bundle, "hifigan"),
        "tunet": read_tunet(bundle),
        "acoustic_encoder": restore_lstm(read_weights(bundle, "acoustic_encoder")),
        "quantizer": quantizer.state_dict(),
    }


def read_tunet(bundle: Bundle) -> dict[str, Tensor]:
    """The weights of the T-UNet, by the names of its module: two graphs share them."""
    conditioning = read_weights(bundle, "conditioning")
    return read_weights(bundle, "tunet_step") | {
        name.removeprefix("tunet."): tensor for name, tensor in conditioning.items() if name != "positions"
    }


def write_start(path: Path, modules: Mapping[str, nn.Module]) -> None:
    """Write a stage's state before its first step, with the weights of `modules`. The stage initialises the rest."""
    states = {name: module.state_dict() for name, module in modules.items()}
    with replacing(path) as temporary:
        torch.save({"steps": 0, "seconds": 0.0, "networks": states, "averages": states, "optimizers": {}}, temporary)
