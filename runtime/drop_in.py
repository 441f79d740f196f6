"""A drop-in for the published package: existing scripts change their import and nothing else."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from .bundle.locate import bundles_folder, list_bundles, locate_bundle
from .bundle.manifest import MANIFEST
from .bundle.store import Bundle
from .codec import Codec
from .errors import BundleError, SettingsError
from .semanticodec.config import SemantiCodecConfig
from .spec import DecodeOptions


class SemantiCodec:
    """The published class, on this runtime.

    Arguments:
        token_rate: 25, 50 or 100 tokens per second.
        semantic_vocab_size: 4096, 8192, 16384 or 32768.
        ddim_sample_step: number of diffusion steps, 1 to 999.
        cfg_scale: scale of classifier-free guidance.
        checkpoint_path: a checkpoint folder in the published layout, or a built bundle. None uses the published
            weights.
        seed: of the noise.
        backend: as in `Codec.load`.

    A bundle that is not built yet is built once, in a process of its own, which needs the extra `export`. Raises
    BundleError if that fails, and SettingsError if a built bundle is of another codec, rate or vocabulary.
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
        wanted = SemantiCodecConfig(token_rate, semantic_vocab_size)
        bundle = find_or_build(token_rate, semantic_vocab_size, checkpoint_path)
        self.codec = Codec.load(bundle, backend=backend)
        check_bundle(self.codec.bundle, wanted)
        self.vocab = semantic_vocab_size
        self.options = DecodeOptions(steps=ddim_sample_step, guidance=cfg_scale, seed=seed)
        self.codec.resolve_options(self.options)  # raises now for a value that cannot work

    def encode(self, filepath: str | os.PathLike[str]) -> np.ndarray:
        """Audio file -> tokens int64 [1, T, 2]."""
        return self.codec.encode(filepath, vocab=self.vocab).codes[np.newaxis].astype(np.int64)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens [1, T, 2], an array or a tensor on the CPU -> waveform float32 [1, 1, n] at 16 kHz."""
        return self.codec.decode(np.asarray(tokens), self.options, vocab=self.vocab)[np.newaxis, np.newaxis]


def check_bundle(bundle: Bundle, wanted: SemantiCodecConfig) -> None:
    """Raises SettingsError unless `bundle` is of the codec, the rate and a vocabulary of `wanted`."""
    manifest, found = bundle.manifest, bundle.choose_config()
    if (found.codec, found.tps) == (wanted.codec, wanted.tps) and wanted.vocab in manifest.vocabularies:
        return
    vocabularies = " or ".join(map(str, manifest.vocabularies))
    raise SettingsError(
        f"token_rate {wanted.tps} and semantic_vocab_size {wanted.vocab} with the bundle {bundle.path}",
        f"those of the bundle: {found.codec}, {found.tps} tps, vocabulary {vocabularies}",
        "name another checkpoint_path, or leave it out",
    )


def find_or_build(tps: int, vocab: int, checkpoint: str | os.PathLike[str] | None) -> Path:
    """The bundle for these settings, built first if there is none.

    The name of a checkpoint's bundle has a hash of its path: two checkpoints in folders of one name are two bundles.
    """
    if checkpoint is not None and (Path(checkpoint) / MANIFEST).is_file():
        return Path(checkpoint)
    name = f"tps{tps}-v{vocab}"
    arguments = ["--tps", str(tps), "--vocab", str(vocab)]
    if checkpoint is not None:
        folder = Path(checkpoint).resolve()
        name += f"-{folder.name}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]}"
        arguments += ["--checkpoint", os.fspath(checkpoint), "--out", str(bundles_folder() / name)]
    if name in (path.name for path in list_bundles()):
        return locate_bundle(name)
    command = [sys.executable, "-m", "sc_runtime.export.build", *arguments]
    if subprocess.run(command, check=False).returncode:  # it has printed why
        raise BundleError(f"no bundle {name}", "one that is built", f"run {' '.join(['python', *command[1:]])}")
    return locate_bundle(name)
