"""The codec that a command uses, and notes about it."""

from __future__ import annotations

import os
from typing import Any

from sc_runtime.bundle.locate import BUNDLE_VARIABLE, locate_bundle
from sc_runtime.bundle.store import EMBEDDED
from sc_runtime.codec import Codec
from sc_runtime.config import CodecConfig

from .console import Console


def load_codec(
    console: Console,
    name: str | None,
    backend: str,
    threads: int | None,
    precision: str,
    config: CodecConfig | None = None,
) -> Codec:
    """The codec of bundle `name`. Without a name, one that decodes `config` is chosen, and a note states which."""
    path = locate_bundle(name, config)
    codec = Codec.load(path, backend=backend, threads=threads, precision=precision)
    if not (name or os.environ.get(BUNDLE_VARIABLE)):
        if path != EMBEDDED:
            choice = "the newest built; choose with --bundle"
        else:
            choice = "no published one is built" if config is None else "no other suits these tokens"
        console.note(f"bundle: {path.name}, {codec.bundle.manifest.weights} ({choice})")
    if precision == "float32" and codec.bundle.manifest.precision == "int8":
        console.note(f"bundle {path.name} decodes in int8, whatever --precision says")
    return codec


def note_rounding(console: Console, codec: Codec, precision: str) -> None:
    """Note how many tokens encoding in bfloat16 changes, if that was asked for, or encoding with FP16 graphs."""
    manifest = codec.bundle.manifest
    if precision == "bfloat16":
        kind, equal = "bfloat16", manifest.equal_in_bfloat16
    elif manifest.precision == "fp16":
        kind, equal = "an FP16 bundle", manifest.equal_in_fp16
    else:
        return
    if equal != 1:
        share = "the bundle does not state how many" if equal is None else f"{1 - equal:.2%} in the bundle's self-test"
        console.note(f"{kind} changes tokens: {share}")


def describe_codec(codec: Codec) -> dict[str, Any]:
    """Bundle, codec, weights, backend and device, for --json."""
    return {
        "bundle": str(codec.bundle.path),
        "codec": codec.config.codec,
        "weights": codec.bundle.manifest.weights,
        "backend": codec.backend.name,
        "device": codec.backend.device,
    }
