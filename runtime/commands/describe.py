"""What a file or a bundle is, as plain values that print and serialise: what `sc-runtime info` says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..audio import Audio, measure
from ..bundle import Bundle, locate_bundle
from ..semanticodec.config import SAMPLE_RATE, TOKEN_RATES, SemantiCodecConfig
from ..tokens import HEADER_BYTES, Tokens
from .jobs import TOKEN_SUFFIXES

SMALLEST, LARGEST = 4096, 32768  #: semantic vocabularies as published
ANY_VOCABULARY = 2**31 - 1  #: of an .npy, which does not say its own

Description = dict[str, Any]


def describe(name: str) -> Description:
    """The token file, audio file or bundle `name`; its "kind" says which. Raises CodecError."""
    path = Path(name)
    if path.is_dir() or not (path.exists() or path.suffix):
        return describe_bundle(Bundle.load(locate_bundle(name)))
    if path.suffix.lower() == ".npy":
        return describe_array(path)
    if path.suffix.lower() in TOKEN_SUFFIXES:
        return {"kind": "tokens", "path": name, **describe_tokens(Tokens.load(path))}
    return describe_audio(path)


def describe_tokens(tokens: Tokens) -> Description:
    """`samples` is null where the original's length is not known; `bytes` are those of an .sct file."""
    return {
        "tps": tokens.config.tps,
        "vocab": tokens.config.vocab,
        "acoustic_vocab": tokens.config.acoustic_vocab,
        "positions": len(tokens),
        "samples": tokens.samples,
        "seconds": tokens.seconds,
        "bits": len(tokens) * sum(tokens.config.bits),
        "bytes": count_bytes(len(tokens), tokens.config),
        "bitrate": tokens.bitrate,
    }


def describe_array(path: Path) -> Description:
    """An .npy holds codes alone: neither rate nor vocabulary, so that its length has one value a rate."""
    tokens = Tokens.load(path, SemantiCodecConfig(TOKEN_RATES[0], ANY_VOCABULARY, ANY_VOCABULARY))
    largest = tokens.codes.max(axis=0).tolist()
    return {
        "kind": "array",
        "path": str(path),
        "shape": list(tokens.codes.shape),
        "positions": len(tokens),
        "largest": dict(zip(("semantic", "acoustic"), largest, strict=True)),
        "seconds": {
            str(tps): SemantiCodecConfig(tps, LARGEST).count_samples(len(tokens)) / SAMPLE_RATE for tps in TOKEN_RATES
        },
    }


def describe_audio(path: Path) -> Description:
    """An audio file, and the tokens it would become."""
    with Audio(path) as audio:
        rate, (samples, _) = audio.sample_rate, measure(audio)
    configs = [SemantiCodecConfig(tps, vocab) for tps in TOKEN_RATES for vocab in (SMALLEST, LARGEST)]
    return {
        "kind": "audio",
        "path": str(path),
        "sample_rate": rate,
        "samples": samples,
        "seconds": samples / SAMPLE_RATE,
        "tokens": [
            {
                "tps": config.tps,
                "vocab": config.vocab,
                "positions": config.count_positions(samples),
                "bytes": count_bytes(config.count_positions(samples), config),
                "bitrate": config.bitrate,
            }
            for config in configs
        ],
    }


def describe_bundle(bundle: Bundle) -> Description:
    manifest = bundle.manifest
    return {
        "kind": "bundle",
        "path": str(bundle.path),
        "name": bundle.name,
        "tps": manifest.tps,
        "vocabularies": list(manifest.vocabularies),
        "acoustic_vocab": manifest.acoustic_vocab,
        "width": manifest.width,
        "weights": manifest.weights,
        "command": manifest.command,
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "graphs": {
            name: {"bytes": sum(manifest.files[file].bytes for file in entry.files), "error": entry.error}
            for name, entry in manifest.graphs.items()
        },
        "made_with": manifest.made_with,
    }


def count_bytes(positions: int, config: SemantiCodecConfig) -> int:
    """Of an .sct file, its header included."""
    return HEADER_BYTES + -(-positions * sum(config.bits) // 8)
