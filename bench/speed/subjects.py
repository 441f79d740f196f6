"""The codecs as `bench/rtf.py` times them: their stages, their windows, and the published procedure of each."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.speed.semanticodec import take_config
from sc_runtime.bundle.store import Bundle
from sc_runtime.errors import SettingsError
from sc_runtime.semanticodec.noise import SeededNoise
from sc_runtime.spec import DecodeOptions
from sc_runtime.unicodec.windows import split_positions

SEEDED = re.compile(r"stand-in weights, seed (\d+)")  #: as a manifest says it
Lap = Callable[[str], None]  #: called with a stage's name when it ends


class Procedure(Protocol):
    """A published codec in PyTorch eager, on the weights that a bundle was made from."""

    def encode(self, sound: np.ndarray) -> np.ndarray:
        """Sound float32 [n] at the codec's rate -> codes [T, C]."""
        ...

    def decode(self, codes: np.ndarray, options: DecodeOptions) -> np.ndarray:
        """Codes [T, C] -> sound float32 [n]."""
        ...


@dataclass(frozen=True)
class Subject:
    """One codec."""

    stages: dict[str, tuple[str, ...]]  #: of encoding and decoding
    window_seconds: float  #: between two decoding windows; so many seconds a window fill a batch in either direction
    count_encoded: Callable[[int, Any], int]  #: positions, config -> windows that are encoded
    open_published: Callable[[Bundle, Path | None, Lap], Procedure]  #: bundle, checkpoint


class SemantiCodecProcedure:
    """`bench/published.py`."""

    def __init__(self, bundle: Bundle, checkpoint: Path | None, lap: Lap) -> None:
        from bench.reference.semanticodec import PublishedCodec
        from sc_runtime.export.seeded import SeededWeights
        from sc_runtime.export.semanticodec.checkpoint import Folder, SemantiCodecWeights
        from sc_runtime.export.semanticodec.networks.sizes import choose_sizes

        config = take_config(bundle)
        known = [choose_sizes(size, config.tps, config.vocab) for size in ("full", "tiny")]
        sizes = next((sizes for sizes in known if sizes.config == config), None)
        if sizes is None:
            raise SettingsError(f"--baseline with {bundle.name}, {config}", "networks of the full or the tiny size")
        weights: SemantiCodecWeights
        weights = Folder(checkpoint, config.tps) if checkpoint else SeededWeights(find_seed(bundle))
        self.codec = PublishedCodec(sizes, weights, lap)

    def encode(self, sound: np.ndarray) -> np.ndarray:
        return self.codec.encode(sound)

    def decode(self, codes: np.ndarray, options: DecodeOptions) -> np.ndarray:
        assert options.steps is not None and options.guidance is not None and options.eta is not None
        return self.codec.decode(
            codes, steps=options.steps, guidance=options.guidance, eta=options.eta, noise=SeededNoise(0)
        )


class UniCodecProcedure:
    """`bench/unicodec_procedure.py`: a whole file at once, as published."""

    #: The runtime's graphs hold several of its stages.
    STAGES = {"convolutions": "encoder", "transformer": "encoder", "search": "centroids"} | dict.fromkeys(
        ("backbone", "head"), "decoder"
    )

    def __init__(self, bundle: Bundle, checkpoint: Path | None, lap: Lap) -> None:
        from bench.reference.unicodec import PublishedUniCodec
        from sc_runtime.export.registry import Weights, find_export, read_tensors
        from sc_runtime.export.seeded import SeededWeights
        from sc_runtime.export.unicodec.checkpoint import FILE, CheckpointFile

        export, config = find_export("unicodec"), bundle.choose_config()
        known = [export.choose_sizes(size, None, config.vocab) for size in ("full", "tiny")]
        sizes = next(sizes for sizes in known if sizes.config == config)
        weights: Weights = CheckpointFile(checkpoint) if checkpoint else SeededWeights(find_seed(bundle))
        tensors = read_tensors(FILE, weights, sizes)
        self.codec = PublishedUniCodec(
            sizes,  # type: ignore[arg-type]
            {name: tensors[name] for name in tensors},
            lambda stage: lap(self.STAGES[stage]),
        )

    def encode(self, sound: np.ndarray) -> np.ndarray:
        return self.codec.encode(sound)[:, np.newaxis]

    def decode(self, codes: np.ndarray, options: DecodeOptions) -> np.ndarray:
        return self.codec.decode(codes[:, 0])


SUBJECTS = {
    "semanticodec": Subject(
        {
            "encode": ("fbank", "audiomae", "centroids", "acoustic_encoder", "rest"),
            "decode": ("conditioning", "tunet", "vae_decoder", "hifigan", "rest"),
        },
        9.6,
        lambda positions, config: -(-positions // config.positions),
        SemantiCodecProcedure,
    ),
    "unicodec": Subject(
        {"encode": ("encoder", "centroids", "rest"), "decode": ("decoder", "rest")},
        28,
        lambda positions, config: len(split_positions(positions)),
        UniCodecProcedure,
    ),
}


def find_seed(bundle: Bundle) -> int:
    """The seed of the bundle's stand-in weights. Raises SettingsError when they are no stand-ins."""
    match = SEEDED.fullmatch(bundle.manifest.weights)
    if match is None:
        raise SettingsError(
            f"--baseline with {bundle.name}, whose weights are {bundle.manifest.weights!r}",
            "the checkpoint that the bundle was made from",
            "add --checkpoint",
        )
    return int(match[1])
