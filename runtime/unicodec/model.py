"""UniCodec as its paper's Figure 1: sound to one token a position and back, one line a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import numpy as np

from sc_runtime.audio import Audio, measure
from sc_runtime.cuda.device import Device
from sc_runtime.errors import AudioError
from sc_runtime.model import DecodePlan, WindowPlan
from sc_runtime.networks import Networks
from sc_runtime.once import OnceEach
from sc_runtime.spec import CodecSpec, DecodeOptions, EncodeOptions

from .config import CODEBOOK, HOP, UniCodecConfig
from .resident import ResidentUniCodec, can_run
from .spec import SPEC
from .windows import OVERLAP, cut_samples, join_codes, split_positions


class UniCodecModel:
    """The UniCodec of one bundle; it implements `sc_runtime.model.Model`.

    Windows run one at a time: each is 30 s of attention already, and a recording of up to 30 s is one. A batch is
    accepted and changes nothing.
    """

    spec: ClassVar[CodecSpec] = SPEC

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        # On a CPU shapes may depend on the data: an expert runs only on the positions that are routed to it.
        routed = "routed_encoder" in networks.graph_names and networks.device is None
        self.encoder = "routed_encoder" if routed else "encoder"
        self._residents: OnceEach[str, ResidentUniCodec] = OnceEach()

    def check_encode_options(self, options: EncodeOptions, config: UniCodecConfig) -> None:
        config.find_entries(options.domain)

    def plan_windows(self, recording: Audio, config: UniCodecConfig) -> WindowPlan:
        """Recording -> windows float32 [n] of its waveform. It is read twice: its length is needed first."""
        samples, _ = measure(recording)
        windows = split_positions(config.count_positions(samples))

        def read() -> Iterator[np.ndarray]:
            for window, waveform in zip(windows, cut_samples(recording.blocks(), windows), strict=True):
                if len(waveform) != min(HOP * window.stop, samples) - HOP * window.start:
                    given = f"audio that ends after {HOP * window.start + len(waveform)} samples"
                    remedy = "do not write to the file while it is read"
                    raise AudioError(given, f"the {samples} of its first reading", remedy)
                yield waveform

        return WindowPlan(samples, len(windows), read(), lambda codes: join_codes(windows, codes))

    def encode_windows(
        self, windows: list[np.ndarray], config: UniCodecConfig, options: EncodeOptions
    ) -> list[np.ndarray]:
        """Waveforms float32 [n] -> codes [T, 1] of each, T = ceil(n / 320). Each runs alone, as their lengths differ.

        `options.domain` confines the search to its part of the codebook.
        """
        entries, resident = config.find_entries(options.domain), self.resident
        search = self.networks.open_search(CODEBOOK, entries)

        def encode(waveform: np.ndarray) -> np.ndarray:
            if resident:
                return resident.encode(waveform, entries)
            features = self.networks.run(self.encoder, waveform=waveform[np.newaxis])["features"][0]
            return search.search(features)

        return [(encode(waveform) + np.int32(entries.start))[:, np.newaxis] for waveform in windows]

    def resolve_options(self, options: DecodeOptions) -> dict[str, Any]:
        return {}

    @staticmethod
    def count_windows(positions: int, config: UniCodecConfig) -> int:
        return len(split_positions(positions))

    @property
    def decode_batch(self) -> int:
        return 1

    def plan_decoding(
        self, codes: np.ndarray, config: UniCodecConfig, samples: int, options: DecodeOptions
    ) -> DecodePlan:
        """codes [T, 1] -> windows [t, 1] of them."""
        self.networks.verify_graph("decoder")  # a damaged file is reported now
        windows = [codes[window] for window in split_positions(len(codes))]
        return DecodePlan(windows, config, 1, samples, HOP * OVERLAP)

    def decode_windows(self, windows: list[np.ndarray], report: Callable[[], None]) -> Iterator[Iterable[np.ndarray]]:
        """codes [t, 1] -> the waveform of each window in one piece, computed when it is taken."""

        resident = self.resident

        def decode(codes: np.ndarray) -> Iterator[np.ndarray]:
            if resident:
                yield resident.decode(codes[:, 0])
                return
            vectors = self.networks.load_codebook(CODEBOOK)[codes[:, 0]]
            yield self.networks.run("decoder", vectors=vectors[np.newaxis])["waveform"][0]

        return map(decode, windows)

    @property
    def resident(self) -> ResidentUniCodec | None:
        """The codec on a GPU, which keeps the tensors between the stages in its memory. None where the host runs it."""
        device = self.networks.device
        if device is None or not can_run(self.networks):
            return None
        return self._residents.get("gpu", lambda: self.open_resident(device))

    def open_resident(self, device: Device) -> ResidentUniCodec:
        return ResidentUniCodec(device, self.networks)

    def embed(self, codes: np.ndarray, config: UniCodecConfig) -> np.ndarray:
        """The codebook's vectors, float32 [T, D], the input of the decoder. The published D is 512."""
        return self.networks.load_codebook(CODEBOOK)[codes[:, 0]]
