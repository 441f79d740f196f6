"""Bundles to measure: finding them, building one of stand-in weights, and checking that they are of the right codec."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from sc_runtime.bundle.locate import bundles_folder, list_bundles
from sc_runtime.bundle.store import Bundle
from sc_runtime.errors import BundleError, CodecError, SettingsError
from sc_runtime.semanticodec.config import SemantiCodecConfig

from .printing import log

SEEDED = re.compile(r"stand-in weights, seed (\d+)")  #: the weights' description in a manifest
STAND_IN = (
    "--tps",
    "50",
    "--seeded",
    "1",
)  #: arguments of `export.build` if no bundle is built yet
SIZES = ("full", "tiny")  #: of networks
TINY_WIDTH = 16  #: `SemantiCodecConfig.width` of the tiny networks


def take_config(bundle: Bundle) -> SemantiCodecConfig:
    """The settings of a bundle of SemantiCodec. Raises SettingsError, which names the codec, for another's bundle."""
    config = bundle.choose_config()
    if not isinstance(config, SemantiCodecConfig):
        given = f"bundle {bundle.name} of {config.codec}"
        raise SettingsError(given, "one of semanticodec, which is what this measures", "name another with --bundle")
    return config


def find_seed(bundle: Bundle) -> int:
    """The seed of the bundle's stand-in weights. Raises SettingsError if its weights are no stand-ins."""
    match = SEEDED.fullmatch(bundle.manifest.weights)
    if match is None:
        raise SettingsError(
            f"--baseline with {bundle.name}, whose weights are {bundle.manifest.weights!r}",
            "the checkpoint that the bundle was made from",
            "add --checkpoint",
        )
    return int(match[1])


def remake_weights(bundle: Bundle) -> Any:
    """The export's `SeededWeights` that the bundle was made from. Raises SettingsError if it was made from others."""
    from sc_runtime.export.seeded import SeededWeights

    return SeededWeights(find_seed(bundle))


def find_sizes(bundle: Bundle) -> Any:
    """The export's sizes of the bundle's networks. Raises SettingsError if they are neither full-size nor tiny."""
    from sc_runtime.export.registry import find_export

    config = bundle.choose_config()
    tps = config.tps if isinstance(config, SemantiCodecConfig) else None
    for size in SIZES:
        sizes = find_export(config.codec).choose_sizes(size, tps, config.vocab)
        if sizes.config == config:
            return sizes
    raise SettingsError(f"bundle {bundle.name}, {config}", "networks of the full or the tiny size")


def count_parameters(bundle: Bundle) -> int | None:
    """Number of weights of the bundle's networks, codebooks not counted. None if it does not list them all.

    Graphs that share a file of weights count once.
    """
    tables = [graph.weights for graph in bundle.manifest.graphs.values()]
    if not all(tables):
        return None
    return sum(
        {(entry.file, entry.offset): math.prod(entry.shape) for table in tables for entry in table.values()}.values()
    )


def find_newest() -> Path:
    """The newest built bundle. If there is none, one of stand-in weights is built.

    The embedded model does not count: it costs a hundredth of the published one.
    """
    if not list_bundles():
        log.print("No bundle is built. Building one of stand-in weights: they cost the same time as trained weights.")
        build_bundle(*STAND_IN)
    return list_bundles()[0]


def find_half(size: str) -> Path:
    """The newest FP16 bundle of SemantiCodec of `size`, "full" or "tiny". If there is none, one is built."""
    for path in list_bundles():
        with suppress(CodecError):
            bundle = Bundle.load(path)
            is_tiny = take_config(bundle).width == TINY_WIDTH
            if bundle.manifest.precision == "fp16" and is_tiny == (size == "tiny"):
                return path
    out = bundles_folder() / f"gpu-bench-{size}"
    build_bundle(*STAND_IN, "--size", size, "--precision", "fp16", "--out", str(out))
    return out


def build_bundle(*arguments: str, module: str = "sc_runtime.export.build") -> None:
    """Run `module` with `arguments`, to build a bundle. Raises BundleError if it fails; it prints the reason."""
    command = ["-m", module, *arguments]
    shown = " ".join(["python", *command])
    log.print(shown, soft_wrap=True)
    if subprocess.run([sys.executable, *command], check=False).returncode:
        raise BundleError("no bundle to measure", "one that is built", f"run {shown}")
