"""How SemantiCodec is exported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from sc_runtime.export.spec import Shapes, read_file
from sc_runtime.semanticodec.config import SemantiCodecConfig
from sc_runtime.semanticodec.spec import VOCABULARIES

from .checkpoint import ACOUSTIC_CODEBOOK, Folder, SemantiCodecWeights, fetch_published
from .graphs import GRAPHS, NETWORKS
from .networks.sizes import NetworkSizes, choose_sizes

USUAL_TPS = 50


class SemantiCodecExport:
    networks = NETWORKS
    graphs = GRAPHS
    vocabularies = VOCABULARIES
    int8: Mapping[str, bool] = MappingProxyType({"tunet_step": True, "vae_decoder": False})

    def name_bundle(self, config: SemantiCodecConfig, vocabularies: tuple[int, ...]) -> str:
        return "-".join([f"tps{config.tps}", *(f"v{vocab}" for vocab in vocabularies)])

    def list_arguments(self, config: SemantiCodecConfig, vocabularies: tuple[int, ...]) -> str:
        return f"--tps {config.tps} --vocab {','.join(map(str, vocabularies))}"

    def choose_sizes(self, size: str, tps: int | None, vocab: int) -> NetworkSizes:
        return choose_sizes(size, tps or USUAL_TPS, vocab)

    def list_others(self, file: str, sizes: NetworkSizes) -> Shapes:
        config = sizes.config
        return {ACOUSTIC_CODEBOOK: (1, config.acoustic_vocab, config.feature_width)} if file == "encoder" else {}

    def make_codebooks(
        self, sizes: NetworkSizes, vocabularies: tuple[int, ...], weights: SemantiCodecWeights
    ) -> Iterator[tuple[str, np.ndarray]]:
        for vocab in vocabularies:
            yield f"semantic-{vocab}", weights.centroids(vocab, sizes.config.feature_width)
        yield "acoustic", read_file(self, "encoder", weights, sizes)[ACOUSTIC_CODEBOOK][0].numpy()

    def open_local(self, path: Path, sizes: NetworkSizes) -> Folder:
        return Folder(path, sizes.config.tps)

    def fetch(self, sizes: NetworkSizes, vocabularies: tuple[int, ...], revision: str) -> Folder:
        return fetch_published(sizes.config.tps, vocabularies, revision)


SEMANTICODEC = SemantiCodecExport()
