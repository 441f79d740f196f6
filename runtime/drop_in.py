"""A drop-in for the published package: existing scripts change their import and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from sc_runtime.bundle.locate import list_bundles, locate_bundle
from sc_runtime.bundle.manifest import MANIFEST

from .codec import Codec
from .errors import BundleError


class SemantiCodec:
    """The published class, on this runtime.

    `token_rate` 25, 50 or 100; `semantic_vocab_size` 4096, 8192, 16384 or 32768; `checkpoint_path` a checkpoint
    folder in the published layout, or a built bundle; None for the published weights. Where the bundle is not built
    yet, it is built first, in a process of its own (`python -m sc_runtime.export.build`, which needs the extra
    `export`): once. Raises BundleError when that fails.
    """

    def __init__(
        self,
        token_rate: int,
        semantic_vocab_size: int,
        ddim_sample_step: int = 50,
        cfg_scale: float = 2.0,
        checkpoint_path: str | os.PathLike[str] | None = None,
        *,
        seed: int = 0,
        backend: str = "auto",
    ) -> None:
        bundle = find_or_build(token_rate, semantic_vocab_size, checkpoint_path)
        self.codec = Codec.load(bundle, backend=backend)
        self.vocab, self.steps, self.guidance, self.seed = semantic_vocab_size, ddim_sample_step, cfg_scale, seed

    def encode(self, filepath: str | os.PathLike[str]) -> np.ndarray:
        """Audio file -> tokens int64 [1, T, 2]."""
        return self.codec.encode(filepath, vocab=self.vocab).codes[np.newaxis].astype(np.int64)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens [1, T, 2], an array or a tensor on the CPU -> waveform float32 [1, 1, n] at 16 kHz."""
        audio = self.codec.decode(
            np.asarray(tokens), steps=self.steps, guidance=self.guidance, seed=self.seed, vocab=self.vocab
        )
        return audio[np.newaxis, np.newaxis]


def find_or_build(tps: int, vocab: int, checkpoint: str | os.PathLike[str] | None) -> Path:
    """The bundle for these settings, built first if there is none."""
    if checkpoint is not None and (Path(checkpoint) / MANIFEST).is_file():
        return Path(checkpoint)
    name = f"tps{tps}-v{vocab}"
    arguments = ["--tps", str(tps), "--vocab", str(vocab)]
    if checkpoint is not None:
        name += f"-{Path(checkpoint).resolve().name}"
        arguments += ["--checkpoint", os.fspath(checkpoint)]
    if name in (path.name for path in list_bundles()):
        return locate_bundle(name)
    command = [sys.executable, "-m", "sc_runtime.export.build", *arguments]
    if subprocess.run(command, check=False).returncode:  # it has said why
        raise BundleError(f"no bundle {name}", "one that is built", f"run {' '.join(['python', *command[1:]])}")
    return locate_bundle(name)
