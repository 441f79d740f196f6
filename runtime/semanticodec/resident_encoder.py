"""Filterbanks to tokens on a GPU; nothing but filterbanks goes there, and nothing but tokens comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from sc_runtime.cuda.device import Device
from sc_runtime.cuda.graph import RECENT, DeviceGraph, RunStage, enqueue_stage
from sc_runtime.cuda.join import RowJoiner
from sc_runtime.cuda.nearest import CudaNearestCentroid
from sc_runtime.networks import Networks, open_device_graph, open_device_search
from sc_runtime.once import OnceEach

from .acoustic import count_filled
from .config import ACOUSTIC_CODEBOOK, SemantiCodecConfig
from .fbank import count_frames

ENCODER_GRAPHS = ("audiomae", "acoustic_encoder")
NO_ROW = -1  #: of a position that is padding


class ResidentEncoder:
    """Encodes on `device`, with graphs of `networks` that run there. Raises BundleError or BackendError."""

    def __init__(self, device: Device, networks: Networks, run_stage: RunStage = enqueue_stage) -> None:
        self.device, self._networks, self._run_stage = device, networks, run_stage
        self._graphs = {name: open_device_graph(networks, name) for name in ENCODER_GRAPHS}
        self._groups: OnceEach[int, EncodeGroup] = OnceEach(RECENT)

    def run(self, fbank: np.ndarray, config: SemantiCodecConfig) -> np.ndarray:
        """fbanks [B, 1024, 128] -> codes int32 [B, L, 2], as `SemantiCodecModel.encode_windows` computes them.

        Several threads may call this; their windows run one group after the other.
        """
        books = (config.semantic_codebook, ACOUSTIC_CODEBOOK)
        semantic, acoustic = (open_device_search(self._networks, book) for book in books)
        with self.device.lock:
            group = self._groups.get(len(fbank), partial(EncodeGroup, self.device, self._graphs, len(fbank)))
            for stage, enqueue in group.list_stages(fbank, semantic, acoustic):
                self._run_stage(stage, enqueue)
            return group.read(semantic, acoustic)


class EncodeGroup:
    """`batch` windows encoded together: the memory between the stages on the GPU, and the graphs bound to it."""

    def __init__(self, device: Device, graphs: Mapping[str, DeviceGraph], batch: int) -> None:
        audiomae, encoder = (graphs[name] for name in ENCODER_GRAPHS)
        self._device, self._batch = device, batch
        shape = audiomae.resolve(batch=batch)["features"]
        self._positions, self._width = shape[1:]
        count = self._count = batch * self._positions
        given, between = audiomae.count_bytes(batch=batch), encoder.count_bytes(batch=batch)
        self._fbank, self._features = device.allocate(given["fbank"]), device.allocate(given["features"])
        self._joined, self._acoustic = device.allocate(between["features"]), device.allocate(between["acoustic"])
        self._rows, self._codes = device.allocate(4 * count), device.allocate(2 * 4 * count)
        self._joiner = RowJoiner(device, self._width)
        first = {"fbank": self._fbank.address, "features": self._features.address}
        self._audiomae = audiomae.bind(first, batch=batch)
        second = {"features": self._joined.address, "acoustic": self._acoustic.address}
        self._encoder = encoder.bind(second, batch=batch)

    def list_stages(
        self, fbank: np.ndarray, semantic: CudaNearestCentroid, acoustic: CudaNearestCentroid
    ) -> list[tuple[str, Callable[[], None]]]:
        """The stages of `SemantiCodecModel.encode_windows`, in its order, and what enqueues each."""

        def embed() -> None:
            self._device.write(self._fbank.address, fbank)
            self._audiomae.enqueue()

        def encode() -> None:
            rows, codes, joined = self._rows.address, self._codes.address, self._joined.address
            self._device.write(rows, self._number_rows(fbank))
            self._joiner.join(self._features.address, rows, semantic.address, codes, joined, self._count)
            self._encoder.enqueue()

        second = self._codes.address + 4 * self._count
        return [
            ("audiomae", embed),
            ("centroids", partial(semantic.search_on_device, self._features.address, self._count, self._codes.address)),
            ("acoustic_encoder", encode),
            ("centroids", partial(acoustic.search_on_device, self._acoustic.address, self._count, second)),
        ]

    def read(self, semantic: CudaNearestCentroid, acoustic: CudaNearestCentroid) -> np.ndarray:
        """Wait for the GPU. Returns the codes [B, L, 2]. Raises BackendError for features that are not finite."""
        codes = np.empty((2, self._batch, self._positions), np.int32)
        self._device.read(self._codes.address, codes)
        for search, found, queries in zip((semantic, acoustic), codes, (self._features, self._acoustic), strict=True):
            search.check_found(found, queries.address)
        return np.stack([*codes], axis=-1)

    def _number_rows(self, fbank: np.ndarray) -> np.ndarray:
        """The row of each position's feature, int32 [B L]; NO_ROW for padding."""
        rows = np.arange(self._count, dtype=np.int32).reshape(self._batch, self._positions)
        for window, row in zip(fbank, rows, strict=True):
            row[count_filled(self._positions, count_frames(window)) :] = NO_ROW
        return rows
