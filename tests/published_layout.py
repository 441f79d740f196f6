"""Checkpoint folders in the published layout, at any size, made from `golden/`; tiny shapes come from the export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sc_runtime.export import spec
from sc_runtime.export.semanticodec.export import SEMANTICODEC
from sc_runtime.export.semanticodec.networks.sizes import NetworkSizes
from sc_runtime.export.spec import Shapes
from tests.golden.seeded_weights import SCALE_FACTOR, centroids, fill, layout, schedule_buffers

PARTS = ("encoder", "decoder")
State = dict[str, torch.Tensor]


def list_needed(part: str, sizes: NetworkSizes) -> Shapes:
    """Name -> shape of every tensor that the export takes from one file."""
    return spec.list_needed(SEMANTICODEC, part, sizes)


def list_training_only(part: str, tps: int, full: NetworkSizes) -> set[str]:
    """Published names that the full-size networks of inference do not use."""
    return set(layout(part, tps)) - set(list_needed(part, full))


def make_state(part: str, sizes: NetworkSizes, full: NetworkSizes, seed: int = 1) -> State:
    """Stand-in tensors at `sizes`, and small ones for all other names of the published file."""
    published, schedule = layout(part, sizes.config.tps), schedule_buffers()
    state = {}
    for name, shape in list_needed(part, sizes).items():
        state[name] = np.float32(SCALE_FACTOR) if name == "scale_factor" else fill(seed, name, shape)
    for name in sorted(list_training_only(part, sizes.config.tps, full)):
        dtype = np.dtype(published[name][1].removeprefix("torch."))
        state[name] = schedule.get(name, np.ones((), dtype))
    return {name: torch.tensor(value) for name, value in state.items()}


def write_codebook(folder: Path, tps: int, vocab: int, width: int, seed: int = 1) -> Path:
    """Write the semantic codebook under its published name. The number in that name is half the vocabulary."""
    path = folder / f"codebook_idx/combine_{512 * tps // 100}_audioset_dominate/codebook_{vocab // 2}_0.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, centroids(seed, vocab, width))
    return path
