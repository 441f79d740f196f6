"""The codecs as `bench/rtf.py` times them: their stages, their windows, and the published procedure of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from bench.harness.bundles import find_sizes, remake_weights
from sc_runtime.bundle.store import Bundle
from sc_runtime.errors import SettingsError
from sc_runtime.semanticodec.noise import SeededNoise
from sc_runtime.semanticodec.presets import Sampling
from sc_runtime.unicodec.windows import split_positions

Lap = Callable[[str], None]  #: called with a stage's name when the stage ends


class Procedure(Protocol):
    """A published codec in PyTorch eager, on the weights that a bundle was made from."""

    def encode(self, sound: np.ndarray) -> np.ndarray:
        """Sound float32 [n] at the codec's rate -> codes [T, C]."""
        ...

    def decode(self, codes: np.ndarray, sampling: Sampling | None) -> np.ndarray:
        """Codes [T, C] -> sound float32 [n]. `sampling` is None for a codec without a sampler."""
        ...


Stages = Mapping[str, tuple[str, ...]]


class Subject(Protocol):
    """One codec.

    stages: of encoding and of decoding, in order.
    window_seconds: between the starts of two windows that are decoded; B times as much fills a batch of B windows.
    windows_abut: whether windows that are encoded do not overlap, as in the published procedure.
    """

    stages: ClassVar[Stages]
    window_seconds: float
    windows_abut: bool

    def count_encoded(self, positions: int, config: Any) -> int:
        """Number of windows in which `positions` positions are encoded."""
        ...

    def open_published(self, bundle: Bundle, checkpoint: Path | None, lap: Lap) -> Procedure:
        """The published procedure on `checkpoint`, or on the bundle's stand-in weights. Raises SettingsError."""
        ...


class SemantiCodecSubject:
    stages: ClassVar[Stages] = {
        "encode": ("fbank", "audiomae", "centroids", "acoustic_encoder", "rest"),
        "decode": ("conditioning", "tunet", "vae_decoder", "hifigan", "rest"),
    }
    window_seconds = 9.6
    windows_abut = True

    def count_encoded(self, positions: int, config: Any) -> int:
        return -(-positions // config.positions)

    def open_published(self, bundle: Bundle, checkpoint: Path | None, lap: Lap) -> Procedure:
        return SemantiCodecProcedure(bundle, checkpoint, lap)


class UniCodecSubject:
    stages: ClassVar[Stages] = {"encode": ("encoder", "centroids", "rest"), "decode": ("decoder", "rest")}
    window_seconds = 28.0
    windows_abut = False

    def count_encoded(self, positions: int, config: Any) -> int:
        return len(split_positions(positions))

    def open_published(self, bundle: Bundle, checkpoint: Path | None, lap: Lap) -> Procedure:
        return UniCodecProcedure(bundle, checkpoint, lap)


SUBJECTS: dict[str, Subject] = {"semanticodec": SemantiCodecSubject(), "unicodec": UniCodecSubject()}


def find_subject(bundle: Bundle) -> Subject:
    """The subject of the codec of `bundle`. Raises SettingsError if there is none."""
    name = bundle.manifest.codec
    if name not in SUBJECTS:
        raise SettingsError(f"a bundle of {name}", f"one of {', '.join(SUBJECTS)}, whose stages bench/rtf.py times")
    return SUBJECTS[name]


class SemantiCodecProcedure:
    """`bench.reference.semanticodec`, one window at a time."""

    def __init__(self, bundle: Bundle, checkpoint: Path | None, lap: Lap) -> None:
        from bench.reference.semanticodec import PublishedCodec
        from sc_runtime.export.semanticodec.checkpoint import Folder

        sizes = find_sizes(bundle)
        weights = Folder(checkpoint, sizes.config.tps) if checkpoint else remake_weights(bundle)
        self.codec = PublishedCodec(sizes, weights, lap)

    def encode(self, sound: np.ndarray) -> np.ndarray:
        return self.codec.encode(sound)

    def decode(self, codes: np.ndarray, sampling: Sampling | None) -> np.ndarray:
        assert sampling is not None
        steps, guidance, eta = sampling.steps, sampling.guidance, sampling.eta
        return self.codec.decode(codes, steps=steps, guidance=guidance, eta=eta, noise=SeededNoise(0))


class UniCodecProcedure:
    """`bench.reference.unicodec`, a whole file at once."""

    #: Stage of the procedure -> stage of the runtime. A graph of the runtime holds several of the procedure's stages.
    STAGES = {"convolutions": "encoder", "transformer": "encoder", "search": "centroids"} | dict.fromkeys(
        ("backbone", "head"), "decoder"
    )

    def __init__(self, bundle: Bundle, checkpoint: Path | None, lap: Lap) -> None:
        from bench.reference.unicodec import PublishedUniCodec
        from sc_runtime.export.registry import read_tensors
        from sc_runtime.export.unicodec.checkpoint import FILE, CheckpointFile

        sizes = find_sizes(bundle)
        weights = CheckpointFile(checkpoint) if checkpoint else remake_weights(bundle)
        tensors = read_tensors(FILE, weights, sizes)
        state = {name: tensors[name] for name in tensors}
        self.codec = PublishedUniCodec(sizes, state, lambda stage: lap(self.STAGES[stage]))

    def encode(self, sound: np.ndarray) -> np.ndarray:
        return self.codec.encode(sound)[:, np.newaxis]

    def decode(self, codes: np.ndarray, sampling: Sampling | None) -> np.ndarray:
        return self.codec.decode(codes[:, 0])
