"""Programs that encode clips and keep the features: this runtime on a backend, and the published procedure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness.bundles import find_sizes, remake_weights
from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.store import Bundle
from sc_runtime.codec import Codec
from sc_runtime.errors import AudioError, SettingsError

from .margins import RecordingBackend

PUBLISHED = "published"

#: clips -> (codes [T, C] of each, features [T', D] of each column and clip, T' >= T)
Encode = Callable[[Sequence[np.ndarray]], tuple[list[np.ndarray], list[list[np.ndarray]]]]


@dataclass(frozen=True)
class Variant:
    """Settings that must not change tokens: windows together, CPU threads, whether the clips run in another order."""

    batch: int | None = None
    threads: int | None = None
    is_shuffled: bool = False


class EncodingProgram:
    """A process that encodes by one program (`bench.harness.processes.Program`)."""

    def __init__(self, bundle: Path, program: str, variant: Variant) -> None:
        """`program` is the name of a backend, or `PUBLISHED`. Raises MissingExtraError, SettingsError."""
        loaded = Bundle.load(bundle)
        self.encode = open_published(loaded) if program == PUBLISHED else open_runtime(loaded, program, variant)

    def answer(self, clips: Sequence[np.ndarray], out: str) -> None:
        """Encode `clips` and write `out`, .npz: "codes" [T, C], "clips" [T], and "queries0" [T, D] for each column."""
        codes, features = self.encode(clips)
        counts = [len(entry) for entry in codes]
        arrays: dict[str, Any] = {
            f"queries{i}": np.concatenate([part[:count] for part, count in zip(column, counts, strict=True)])
            for i, column in enumerate(features)
        }
        np.savez(out, codes=np.concatenate(codes), clips=np.repeat(np.arange(len(codes)), counts), **arrays)


def open_runtime(bundle: Bundle, backend: str, variant: Variant) -> Encode:
    """This runtime in float32. Every clip must be one window."""
    recorder = RecordingBackend(choose_backend(backend, variant.threads, "float32", bundle))
    codec = Codec(bundle, recorder)

    def encode(clips: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
        order = list(range(len(clips)))
        if variant.is_shuffled:
            np.random.default_rng(0).shuffle(order)
        codes: dict[int, np.ndarray] = {}
        for number, found in zip(order, codec.encode_many((clips[i] for i in order), batch=variant.batch), strict=True):
            if isinstance(found, AudioError):
                raise found
            codes[number] = found.codes
        features = []
        for column in recorder.take_columns():
            parts = np.split(column.queries, len(clips))
            features.append([parts[order.index(i)] for i in range(len(clips))])
        return [codes[i] for i in range(len(clips))], features

    return encode


def open_published(bundle: Bundle) -> Encode:
    """The published procedure in PyTorch eager. Raises SettingsError for weights that cannot be made again."""
    sizes, weights, codec_name = find_sizes(bundle), remake_weights(bundle), bundle.manifest.codec
    kept: list[list[np.ndarray]] = []
    if codec_name == "semanticodec":
        from bench.reference.semanticodec import PublishedCodec

        codec: Any = PublishedCodec(sizes, weights)
        kept += [[], []]
        for module, parts in zip((codec.audiomae, codec.lstm), kept, strict=True):
            module.register_forward_hook(lambda module, given, output, parts=parts: parts.append(output[0].numpy()))
    elif codec_name == "unicodec":
        from bench.reference.unicodec import PublishedUniCodec
        from sc_runtime.export.registry import read_tensors
        from sc_runtime.export.unicodec.checkpoint import FILE

        class KeepingUniCodec(PublishedUniCodec):
            def search(self, features: Any, domain: str | None) -> Any:
                kept[0].append(features[0].numpy())
                return super().search(features, domain)

        tensors = read_tensors(FILE, weights, sizes)
        codec = KeepingUniCodec(sizes, {name: tensors[name] for name in tensors})
        kept.append([])
    else:
        raise SettingsError(f"bundle of {codec_name}", "one of semanticodec or unicodec")

    def encode(clips: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
        codes = [codec.encode(clip) for clip in clips]
        return [entry.reshape(len(entry), -1) for entry in codes], kept

    return encode
