"""UniCodec as its paper's Figure 1: sound to one token a position and back, one line a stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..audio import Audio, Mono, measure
from ..backends.base import ResidentBackend
from ..config import CodecConfig
from ..encoding import Cut
from ..errors import AudioError
from ..overlap_add import overlap_add
from .config import HOP, TPS, UniCodecConfig
from .windows import LENGTH, OVERLAP, cut_samples, join_codes, split_positions

if TYPE_CHECKING:
    from ..codecs import DecodeOptions, EncodeOptions, Progress
    from ..parts import Parts

CODEBOOK = "unified"
TYPICAL = 10 * TPS  #: positions of what is most often encoded and decoded: what the network was trained on


class UniCodecModel:
    """One bundle's UniCodec. See `sc_runtime.codecs.Model`, which this is.

    Windows run one at a time: each is 30 s of attention already, and a recording of up to 30 s is one. `batch` is
    taken and changes nothing.
    """

    number: ClassVar[int] = 1
    config: ClassVar[type[CodecConfig]] = UniCodecConfig
    published: ClassVar[tuple[CodecConfig, ...]] = (UniCodecConfig(),)
    mono: ClassVar[Mono] = "mean"
    batches: ClassVar[bool] = False
    exact: ClassVar[frozenset[str]] = frozenset({"encoder", "routed_encoder"})
    encode_options: ClassVar[frozenset[str]] = frozenset({"domain"})
    decode_options: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        # Where shapes may follow the data, an expert runs on the positions that chose it, and on no others.
        routed = "routed_encoder" in parts.bundle.manifest.graphs and not isinstance(parts.backend, ResidentBackend)
        self.encoder = "routed_encoder" if routed else "encoder"

    @staticmethod
    def profile(graph: str) -> dict[str, tuple[int, int, int]]:
        if graph == "routed_encoder":
            return {}
        if graph == "encoder":
            return {"batch": (1, 1, 4), "samples": (1, HOP * TYPICAL, HOP * LENGTH)}
        return {"batch": (1, 1, 4), "positions": (1, TYPICAL, LENGTH)}

    @staticmethod
    def measure_axes(graph: str, given: Mapping[str, int]) -> dict[str, int]:
        if graph in ("encoder", "routed_encoder"):
            return {**given, "positions": -(-given["samples"] // HOP)}
        return {**given, "samples": HOP * given["positions"]}

    def check(self, config: UniCodecConfig, options: EncodeOptions) -> None:
        config.find_entries(options.domain)

    def cut(self, recording: Audio, config: UniCodecConfig) -> Cut:
        """Recording -> windows float32 [n] of its waveform. Reads it twice, as its length comes first."""
        samples, _ = measure(recording)
        windows = split_positions(config.count_positions(samples))

        def read() -> Iterator[np.ndarray]:
            for window, waveform in zip(windows, cut_samples(recording.blocks(), windows), strict=True):
                if len(waveform) != min(HOP * window.stop, samples) - HOP * window.start:
                    given = f"audio that ends after {HOP * window.start + len(waveform)} samples"
                    remedy = "do not write to the file while it is read"
                    raise AudioError(given, f"the {samples} of its first reading", remedy)
                yield waveform

        return Cut(samples, len(windows), read(), lambda codes: join_codes(windows, codes))

    def encode_windows(
        self, windows: list[np.ndarray], config: UniCodecConfig, options: EncodeOptions
    ) -> list[np.ndarray]:
        """Waveforms float32 [n] -> codes [T, 1] of each, T = ceil(n / 320); one by one, as their lengths differ.

        `options.domain` confines the search to its part of the codebook.
        """
        entries = config.find_entries(options.domain)
        search = self.parts.open_search(CODEBOOK, entries)

        def encode(waveform: np.ndarray) -> np.ndarray:
            features = self.parts.run(self.encoder, waveform=waveform[np.newaxis])["features"][0]
            return (search.search(features) + np.int32(entries.start))[:, np.newaxis]

        return [encode(waveform) for waveform in windows]

    def settle(self, options: DecodeOptions) -> dict[str, Any]:
        return {}

    @staticmethod
    def count_windows(positions: int, config: UniCodecConfig) -> int:
        return len(split_positions(positions))

    def decode(
        self,
        codes: np.ndarray,
        config: UniCodecConfig,
        samples: int,
        options: DecodeOptions,
        batch: int | None,
        progress: Progress | None,
    ) -> Iterator[np.ndarray]:
        """codes [T, 1] -> pieces float32 [n], window by window."""
        self.parts.bundle.find_graph("decoder")  # a damaged file is named now
        windows = split_positions(len(codes))

        def synthesise() -> Iterator[Iterable[np.ndarray]]:
            for number, window in enumerate(windows, 1):
                vectors = self.embed(codes[window], config)[np.newaxis]
                yield self.parts.run("decoder", vectors=vectors)["waveform"]  # [1, n]: a window in one piece
                if progress:
                    progress(number, len(windows))

        return overlap_add(synthesise(), samples, HOP * OVERLAP)

    def embed(self, codes: np.ndarray, config: UniCodecConfig) -> np.ndarray:
        """The codebook's vectors, float32 [T, D], D = 512 as published: what the decoder takes."""
        return self.parts.load_codebook(CODEBOOK)[codes[:, 0]]
