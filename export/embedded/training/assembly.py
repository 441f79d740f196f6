"""Writes the trained networks as a checkpoint in the published layout, which `export.build` reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sc_runtime.export.semanticodec.checkpoint import ACOUSTIC_CODEBOOK, DECODER, ENCODER, name_codebook
from sc_runtime.export.semanticodec.graphs import NETWORKS
from sc_runtime.export.semanticodec.networks.sizes import NetworkSizes
from sc_runtime.export.spec import list_shapes
from sc_runtime.files import replacing

from .preparation import CENTROIDS, SCALE_FACTOR
from .states import load_average, load_decoder, load_hifigan

AUTOENCODER = "autoencoder"  #: network of stage `audiomae`
CHECKPOINT = "embedded"  #: folder of the checkpoint, and so the label of bundles built from it


def assemble(folder: Path, sizes: NetworkSizes) -> Path:
    """Write `folder`/embedded from the averaged weights of every stage in `folder`, as float16; returns that folder.

    Weights are rounded here and nowhere else, so the numbers that are built, verified and shipped are the same.
    """
    states = {
        "audiomae": load_audiomae(folder),
        "acoustic_encoder": load_average(folder, "tokens", "acoustic_encoder"),
        "tunet": load_average(folder, "diffusion", "tunet"),
        "vae_decoder": load_decoder(folder),
        "hifigan": load_hifigan(folder),
    }
    scale = json.loads((folder / SCALE_FACTOR).read_text())
    states["vae_decoder"]["scale_factor"] = torch.tensor(scale)
    files: dict[str, dict[str, Tensor]] = {"encoder": {}, "decoder": {}}
    for name, state in states.items():
        network = NETWORKS[name]
        for key in list_shapes(network, sizes):
            files[network.file][key] = state[key.removeprefix(network.prefix)].half()
    codebook = load_average(folder, "tokens", "quantizer")["embed"]
    files["encoder"][ACOUSTIC_CODEBOOK] = codebook[None].half()
    checkpoint = folder / CHECKPOINT
    config = sizes.config
    centroids = checkpoint / name_codebook(config.tps, config.vocab)
    centroids.parent.mkdir(parents=True, exist_ok=True)
    for name, path in (("encoder", checkpoint / ENCODER), ("decoder", checkpoint / DECODER)):
        with replacing(path) as temporary:
            torch.save(files[name], temporary)
    with replacing(centroids) as temporary:
        np.save(temporary, np.load(folder / CENTROIDS).astype(np.float16))
    return checkpoint


def load_audiomae(folder: Path) -> dict[str, Tensor]:
    """The averaged weights of the trained autoencoder's encoder, under AudioMAE's names."""
    return take_encoder(load_average(folder, "audiomae", AUTOENCODER))


def take_encoder(autoencoder: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the encoder in those of a masked autoencoder, under AudioMAE's names."""
    prefix = "encoder."
    return {name.removeprefix(prefix): tensor for name, tensor in autoencoder.items() if name.startswith(prefix)}
