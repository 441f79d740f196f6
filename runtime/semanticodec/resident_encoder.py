"""Filterbanks to tokens on a GPU; nothing but filterbanks goes there, and nothing but tokens comes back."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from sc_runtime.cuda.device import Device
from sc_runtime.cuda.graph import DeviceGraph, keep_recent
from sc_runtime.cuda.join import RowJoiner
from sc_runtime.cuda.nearest import CudaNearestCentroid
from sc_runtime.networks import Networks

from .acoustic import count_filled
from .config import ACOUSTIC_CODEBOOK, SemantiCodecConfig
from .fbank import count_frames
from .resident import open_device_graph

ENCODER_GRAPHS = ("audiomae", "acoustic_encoder")
NO_ROW = -1  #: of a position that is padding


class ResidentEncoder:
    """Encodes on `device`, with graphs of `networks` that run there. Raises BundleError or BackendError."""

    def __init__(self, device: Device, networks: Networks) -> None:
        self.device, self._networks = device, networks
        self._graphs = {name: open_device_graph(networks, name) for name in ENCODER_GRAPHS}
        self._groups: dict[int, EncodeGroup] = {}

    def run(self, fbank: np.ndarray, config: SemantiCodecConfig) -> np.ndarray:
        """fbanks [B, 1024, 128] -> codes int32 [B, L, 2], as `SemantiCodecModel.encode_windows` computes them.

        Several threads may call this; their windows run one group after the other.
        """
        semantic, acoustic = map(self._open_search, (config.semantic_codebook, ACOUSTIC_CODEBOOK))
        with self.device.lock:
            group = keep_recent(self._groups, len(fbank), partial(EncodeGroup, self.device, self._graphs, len(fbank)))
            return group.run(fbank, semantic, acoustic)

    def _open_search(self, codebook: str) -> CudaNearestCentroid:
        search = self._networks.open_search(codebook)
        assert isinstance(search, CudaNearestCentroid), codebook
        return search


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

    def run(self, fbank: np.ndarray, semantic: CudaNearestCentroid, acoustic: CudaNearestCentroid) -> np.ndarray:
        """The stages of `SemantiCodecModel.encode_windows`, in its order. It waits for the GPU once, at the end.

        Raises SettingsError for features that are not finite.
        """
        device, count, features = self._device, self._count, self._features.address
        device.write(self._fbank.address, fbank)
        self._audiomae.enqueue()
        first, second = self._codes.address, self._codes.address + 4 * count
        semantic.search_on_device(features, count, first)
        device.write(self._rows.address, self._number_rows(fbank))
        self._joiner.join(features, self._rows.address, semantic.address, first, self._joined.address, count)
        self._encoder.enqueue()
        acoustic.search_on_device(self._acoustic.address, count, second)
        codes = np.empty((2, self._batch, self._positions), np.int32)
        device.read(self._codes.address, codes)
        for search, found, queries in zip((semantic, acoustic), codes, (self._features, self._acoustic), strict=True):
            if found.min() < 0:  # the search on the host raises the error that describes it
                values = np.empty((count, self._width), np.float32)
                device.read(queries.address, values)
                search.search(values)
        return np.stack([*codes], axis=-1)

    def _number_rows(self, fbank: np.ndarray) -> np.ndarray:
        """The row of each position's feature, int32 [B L]; NO_ROW for padding."""
        rows = np.arange(self._count, dtype=np.int32).reshape(self._batch, self._positions)
        for window, row in zip(fbank, rows, strict=True):
            row[count_filled(self._positions, count_frames(window)) :] = NO_ROW
        return rows
