"""How many tokens the FP16 graphs of a bundle change: clips encoded with them, and with the float32 networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from sc_runtime.bundle.store import Bundle
from sc_runtime.centroids import NearestCentroid
from sc_runtime.codec import Codec
from sc_runtime.networks import Arrays, Graph
from sc_runtime.samples import SPEECH_AND_MUSIC
from sc_runtime.spec import TensorSpec

from .registry import find_export
from .spec import Sizes, Weights, load_network, read_file
from .verify import open_rounded, run_reference

HELD_OUT = Path(__file__).resolve().parents[1] / "tests" / "held_out"  #: in a checkout; the wheel has no clips


class TorchGraph:
    """The float32 torch network of a graph."""

    def __init__(self, module: nn.Module, outputs: dict[str, TensorSpec]) -> None:
        self._module, self._outputs = module, outputs

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        return run_reference(self._module, dict(feeds), self._outputs)


class TorchBackend:
    """Runs the torch networks of `weights` in place of a bundle's graphs."""

    name, device, gpu, encode_batch = "torch", "CPU", None, 1

    def __init__(self, sizes: Sizes, weights: Weights) -> None:
        self._sizes, self._weights = sizes, weights

    def open(self, bundle: Bundle, graph: str) -> TorchGraph:
        export = find_export(bundle.manifest.codec)
        described = export.graphs[graph]
        network = export.networks[described.network]
        tensors = read_file(export, network.file, self._weights, self._sizes)
        module = described.refer(load_network(network, self._sizes, tensors), self._sizes)
        return TorchGraph(module, described.outputs(self._sizes))

    def open_search(self, codebook: np.ndarray) -> NearestCentroid:
        return NearestCentroid(codebook)


class RoundedBackend:
    """Runs FP16 graphs on the CPU with every half-precision value rounded, as `verify.open_rounded` does."""

    name, device, gpu, encode_batch = "rounded", "CPU", None, 1

    def open(self, bundle: Bundle, graph: str) -> Graph:
        return open_rounded(bundle, graph)

    def open_search(self, codebook: np.ndarray) -> NearestCentroid:
        return NearestCentroid(codebook)


def list_clips() -> list[Path]:
    """The demo's recording, and the held-out clips where this is a checkout."""
    return [SPEECH_AND_MUSIC, *sorted(HELD_OUT.glob("*.flac"))]


def compare_fp16(bundle: Bundle, sizes: Sizes, weights: Weights, clips: Sequence[Path] | None = None) -> float:
    """The share of the tokens of `clips` that the FP16 graphs of `bundle` make as the float32 networks do.

    The search in the codebooks is exact in both. A GPU adds in another order, so its share differs a little.
    """
    codes = []
    for backend in (TorchBackend(sizes, weights), RoundedBackend()):
        codec = Codec(bundle, backend)
        codes.append(np.concatenate([codec.encode(clip).codes for clip in clips or list_clips()]))
        del codec  # its networks are as large as the checkpoint
    exact, rounded = codes
    return float((exact == rounded).mean())
