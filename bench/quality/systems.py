"""The codec in its forms, and the tokens and the sound of the clips."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from bench.harness.printing import log
from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.store import Bundle
from sc_runtime.codec import Codec
from sc_runtime.errors import MissingExtraError
from sc_runtime.semanticodec.conditioning import Codebooks
from sc_runtime.semanticodec.config import SemantiCodecConfig
from sc_runtime.semanticodec.model import SemantiCodecModel
from sc_runtime.semanticodec.presets import Sampling
from sc_runtime.spec import DecodeOptions
from sc_runtime.tokens import Tokens

from .clips import CLIP_SAMPLES, Domain, to_float


class SemanticModel(SemantiCodecModel):
    """The codec without acoustic tokens: zeros in place of Ea.

    The paper's ablation (Table II, "w.o. Acoustic VQ") trained a decoder without them, which is another model. This
    decoder was trained with zeros in both halves as its unconditional input, so zeros in one half carry no information.
    The most frequent token, the alternative, would carry some, mostly wrong.
    """

    def open_codebooks(self, config: SemantiCodecConfig) -> Codebooks:
        nothing = np.zeros((config.acoustic_vocab, config.feature_width), np.float32)
        return Codebooks(super().open_codebooks(config).semantic, nothing)


def drop_acoustic(codec: Codec) -> Codec:
    """The codec of the same bundle on the same backend, without acoustic tokens."""
    return Codec(codec.bundle, codec.backend, SemanticModel)


class Systems:
    """Our codec in its forms, each loaded once: as it is, without acoustic tokens, and in OpenVINO's precisions."""

    def __init__(self, codec: Codec, threads: int | None, folder: Path) -> None:
        """`folder` is empty; the int8 bundle is written there."""
        self.codec, self.semantic, self.threads, self.folder = codec, drop_acoustic(codec), threads, folder
        self._precise: dict[str, Codec] = {}

    def choose_precision(self, precision: str) -> Codec:
        """The codec with every network in `precision`, by OpenVINO.

        With "int8" the graphs that the export rounds are int8, the others float32. Raises MissingExtraError,
        BackendError.
        """
        if precision not in self._precise:
            bundle = self.round_bundle() if precision == "int8" else self.codec.bundle
            backend = choose_backend("openvino", self.threads, "float32" if precision == "int8" else precision)
            self._precise[precision] = Codec(bundle, backend)
        return self._precise[precision]

    def round_bundle(self) -> Bundle:
        """The bundle with int8 graphs. Raises MissingExtraError."""
        try:
            from sc_runtime.export.int8 import require_nncf, round_bundle
        except ImportError as error:
            given = f"int8 without {error.name}"
            raise MissingExtraError(given, "the extra `int8`", "pip install 'sc-runtime[int8]'") from None
        require_nncf()
        return round_bundle(self.codec.bundle, Path(mkdtemp(dir=self.folder)), log.print)


class Source:
    """The clips of a domain, and their tokens, which are computed when they are first needed."""

    def __init__(self, codec: Codec, domain: Domain) -> None:
        self.codec, self.domain = codec, domain
        self.clips = list(domain.clips)

    @cached_property
    def tokens(self) -> list[Tokens]:
        log.print(f"{self.domain.name}: encoding {len(self.clips)} clips")
        return [self.codec.encode(clip) for clip in self.clips]

    @cached_property
    def whole_codes(self) -> np.ndarray:
        """Codes int32 [T, 2] of every held-out clip, also of those on which nothing else is measured."""
        log.print(f"{self.domain.name}: encoding all {len(self.domain.whole)} clips")
        return np.concatenate([self.codec.encode(to_float(clip[:CLIP_SAMPLES])).codes for clip in self.domain.whole])

    def decode(self, codec: Codec, sampling: Sampling, chosen: Iterable[int]) -> list[np.ndarray]:
        """The sound of the chosen clips' tokens. Clip i always has the noise of seed i."""
        return [codec.decode(self.tokens[i], DecodeOptions(**asdict(sampling), seed=i)) for i in chosen]
