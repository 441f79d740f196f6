"""What a file or a bundle holds, as values that JSON can hold. `sc-runtime info` prints them."""

from __future__ import annotations

from io import BufferedReader
from pathlib import Path
from typing import Any

from numpy.lib import format as npy
from numpy.typing import NDArray

from sc_runtime.audio import Audio, count_resampled
from sc_runtime.bundle.locate import locate_bundle
from sc_runtime.bundle.store import Bundle
from sc_runtime.config import CodecConfig
from sc_runtime.errors import TokensError
from sc_runtime.registry import MODELS
from sc_runtime.token_files import MAGIC, count_bytes
from sc_runtime.tokens import Tokens, read_npy

from .planning import TOKEN_SUFFIXES

Description = dict[str, Any]


def describe(name: str, allow_truncated: bool = False) -> Description:
    """Describe the token file, audio file or bundle `name`. Raises CodecError.

    "kind" is "tokens" (an .sct file), "array" (an .npy file), "audio" or "bundle". `allow_truncated`: see `Audio`.
    """
    path = Path(name)
    if path.is_dir() or not (path.exists() or path.suffix):
        return describe_bundle(Bundle.load(locate_bundle(name)))
    if path.suffix.lower() == ".npy":
        return describe_array(read_npy(path), name)
    if path.suffix.lower() in TOKEN_SUFFIXES:
        return {"kind": "tokens", "path": name, **describe_tokens(Tokens.load(path))}
    return describe_audio(path, name, allow_truncated)


def describe_stream(stream: BufferedReader, allow_truncated: bool = False) -> Description:
    """Describe the token file or audio file that `stream` holds, by its first bytes. Raises CodecError."""
    name, start = "standard input", stream.peek(len(MAGIC))
    if start.startswith(MAGIC):
        return {"kind": "tokens", "path": name, **describe_tokens(Tokens.read(stream))}
    if start.startswith(npy.MAGIC_PREFIX):
        return describe_array(read_npy(stream), name)
    return describe_audio(stream, name, allow_truncated)


def describe_tokens(tokens: Tokens) -> Description:
    """Describe tokens. "samples" is None if the original's length is not known, "bytes" are those of an .sct file."""
    return {
        **describe_config(tokens.config),
        "positions": len(tokens),
        "tokens": tokens.codes.size,
        "samples": tokens.samples,
        "seconds": tokens.seconds,
        "bits": len(tokens) * sum(tokens.config.bits),
        "bytes": count_bytes(len(tokens), tokens.config),
        "bitrate": tokens.bitrate,
    }


def describe_config(config: CodecConfig) -> Description:
    """Codec, rate and vocabularies."""
    return {
        "codec": config.codec,
        "tps": config.tps,
        "sample_rate": config.sample_rate,
        "vocabularies": config.codebook_sizes,
    }


def describe_array(codes: NDArray[Any], name: str) -> Description:
    """Describe the codes [T, C] of an .npy file. "seconds" has a value for each codec and rate that fits them."""
    published = list_published()
    fits = [config for config in published if len(config.codebook_sizes) == codes.shape[1]]
    if not fits:
        shapes = dict.fromkeys(f"[T, {len(config.codebook_sizes)}] of {config.codec}" for config in published)
        raise TokensError(f"{name}: an array of shape {list(codes.shape)}", " or ".join(shapes))
    return {
        "kind": "array",
        "path": name,
        "shape": list(codes.shape),
        "positions": len(codes),
        "tokens": codes.size,
        "largest": dict(zip(fits[0].codebook_sizes, codes.max(axis=0).tolist(), strict=True)),
        "seconds": {name_rate(config): config.count_samples(len(codes)) / config.sample_rate for config in fits},
    }


def describe_audio(source: Path | BufferedReader, name: str, allow_truncated: bool = False) -> Description:
    """Describe an audio file. "tokens" has a row for each codec, rate and vocabulary that may encode it."""
    configs = list_published()
    with Audio(source, rate=configs[0].sample_rate, allow_truncated=allow_truncated) as audio:
        given, samples = audio.sample_rate, audio.count()
    rates = dict.fromkeys(config.sample_rate for config in configs)
    lengths = {rate: count_resampled(samples, given, rate) for rate in rates}
    return {
        "kind": "audio",
        "path": name,
        "sample_rate": given,
        "samples": {str(rate): samples for rate, samples in lengths.items()},
        "seconds": max(samples / rate for rate, samples in lengths.items()),
        "tokens": [
            {
                **describe_config(config),
                "positions": (positions := config.count_positions(lengths[config.sample_rate])),
                "tokens": positions * len(config.codebook_sizes),
                "bytes": count_bytes(positions, config),
                "bitrate": config.bitrate,
            }
            for config in configs
        ],
    }


def list_published() -> list[CodecConfig]:
    """The settings of each codec at each of its rates, with the smallest and the largest published vocabulary."""
    found: list[CodecConfig] = []
    for model in MODELS:
        for tps in sorted({config.tps for config in model.spec.published}):
            configs = {config.vocab: config for config in model.spec.published if config.tps == tps}
            found += [configs[vocab] for vocab in dict.fromkeys((min(configs), max(configs)))]
    return found


def name_rate(config: CodecConfig) -> str:
    return f"{config.codec} at {config.tps} tps"


def describe_bundle(bundle: Bundle) -> Description:
    """Describe a bundle. "vocabularies" are the default ones, "choices" are all sizes of the first."""
    manifest = bundle.manifest
    return {
        "kind": "bundle",
        "path": str(bundle.path),
        "name": bundle.name,
        **describe_config(bundle.choose_config()),
        "choices": list(manifest.vocabularies),
        "settings": manifest.settings,
        "precision": manifest.precision,
        "weights": manifest.weights,
        "command": manifest.command,
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "graphs": {
            name: {"bytes": sum(manifest.files[file].bytes for file in entry.files), "error": entry.error}
            for name, entry in manifest.graphs.items()
        },
        "made_with": manifest.made_with,
    }
