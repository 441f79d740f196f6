"""How UniCodec is exported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from sc_runtime.export.spec import Shapes, Tensors, Weights, read_file
from sc_runtime.unicodec.config import VOCABULARY, UniCodecConfig
from sc_runtime.unicodec.model import CODEBOOK

from .checkpoint import FILE, CheckpointFile, fetch_published
from .graphs import GRAPHS, NETWORKS
from .networks.sizes import UniCodecSizes, choose_sizes

EMBEDDING = "feature_extractor.encodec.quantizer.vq.embedding.weight"  #: [entries, width]
PROJECTION = "feature_extractor.encodec.quantizer.vq.embedding_proj"


class UniCodecExport:
    networks = NETWORKS
    graphs = GRAPHS
    vocabularies = (VOCABULARY,)
    int8: Mapping[str, bool] = MappingProxyType({})

    def name_bundle(self, config: UniCodecConfig, vocabularies: tuple[int, ...]) -> str:
        return config.codec

    def list_arguments(self, config: UniCodecConfig, vocabularies: tuple[int, ...]) -> str:
        return f"--codec {config.codec}"

    def choose_sizes(self, size: str, tps: int | None, vocab: int) -> UniCodecSizes:
        return choose_sizes(size, tps)

    def list_others(self, file: str, sizes: UniCodecSizes) -> Shapes:
        width = sizes.width
        return {
            EMBEDDING: (sizes.entries, width),
            f"{PROJECTION}.weight": (width, width),
            f"{PROJECTION}.bias": (width,),
        }

    def make_codebooks(
        self, sizes: UniCodecSizes, vocabularies: tuple[int, ...], weights: Weights
    ) -> Iterator[tuple[str, np.ndarray]]:
        yield CODEBOOK, make_codebook(read_file(self, FILE, weights, sizes))

    def open_local(self, path: Path, sizes: UniCodecSizes) -> CheckpointFile:
        return CheckpointFile(path)

    def fetch(self, sizes: UniCodecSizes, vocabularies: tuple[int, ...], revision: str) -> CheckpointFile:
        return fetch_published(revision)


UNICODEC = UniCodecExport()


def make_codebook(tensors: Tensors) -> np.ndarray:
    """The vectors that features are compared with and that the decoder takes: float32 [entries, width].

    The published code computes them in every call. Here they are computed in float64, so that every machine rounds to
    the same ones.
    """
    weight, bias = tensors[f"{PROJECTION}.weight"], tensors[f"{PROJECTION}.bias"]
    return (tensors[EMBEDDING].double() @ weight.double().T + bias.double()).float().numpy()
