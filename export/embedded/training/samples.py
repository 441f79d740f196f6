"""Latents as decoding draws them: training clips through a built bundle, up to the VAE decoder.

They differ from the VAE encoder's latents by what tokens and T-UNet lose. Stage `sound` trains VAE decoder and vocoder
on them, so that both meet in training what they meet in use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.manifest import MANIFEST
from sc_runtime.bundle.store import Bundle, hash_file
from sc_runtime.codec import Codec
from sc_runtime.networks import Graph, Networks
from sc_runtime.semanticodec.config import LATENT_SHAPE, SEGMENT_FRAMES, SEGMENT_SAMPLES
from sc_runtime.semanticodec.model import DecodeWindow, SemantiCodecModel
from sc_runtime.spec import DecodeOptions

from .caching import cached, digest_rows
from .loop import pick

SAMPLES = "samples.npy"
LATENT_FRAMES = SEGMENT_FRAMES // LATENT_SHAPE[1]  #: mel frames of a row of the latent
COUNT = 800  #: clips that are drawn
#: Every other clip is drawn by the preset `fast`, the others by the reference's solver in fewer steps.
OPTIONS = ({"preset": "fast"}, {"steps": 20})


class LatentModel(SemantiCodecModel):
    """SemantiCodec that keeps the latents of decoding, float32 [8, 256, 16] each, and makes no sound of them."""

    def __init__(self, networks: Networks) -> None:
        super().__init__(networks)
        self.latents: list[np.ndarray] = []

    def decode_windows(self, windows: list[DecodeWindow], report: Callable[[], None]) -> Iterator[Iterable[np.ndarray]]:
        settings = windows[0].settings
        tunet_step: Future[Graph] = Future()
        tunet_step.set_result(self.networks.prepare_graph("tunet_step", 2, batch=len(windows)))
        features = self.embed_windows([window.codes for window in windows], settings.config)
        self.latents += list(self.denoise(tunet_step, features, settings, [window.noise for window in windows], report))
        yield from ((np.zeros(window.samples, np.float32),) for window in windows)


@dataclass(frozen=True)
class Samples:
    """`latents` float16 [M, 8, 256, 16] that were drawn for `clips`, int16 [M, 163840], as the T-UNet makes them."""

    latents: np.ndarray
    clips: np.ndarray


def prepare_samples(folder: Path, clips: np.ndarray, bundle: Bundle, count: int) -> Samples:
    """Draw latents for `count` clips, evenly chosen. `folder`/samples.npy keeps them, for these clips and bundle."""
    chosen = clips[np.arange(count) * len(clips) // count]

    def draw(path: Path) -> None:
        codec = Codec(bundle, choose_backend("auto", bundle=bundle), LatentModel)
        model = codec.model
        assert isinstance(model, LatentModel)
        latents = open_memmap(path, mode="w+", dtype=np.float16, shape=(count, *LATENT_SHAPE))
        for row, clip in enumerate(chosen):
            sound = clip[: SEGMENT_SAMPLES - 1].astype(np.float32) / 32768  # one sample less: a single window
            codec.decode(codec.encode(sound), DecodeOptions(**OPTIONS[row % len(OPTIONS)], seed=row))
            latents[row] = model.latents.pop()
        latents.flush()

    sources = {"clips": digest_rows(chosen), "bundle": hash_file(bundle.path / MANIFEST)}
    return Samples(cached(folder / SAMPLES, draw, sources), chosen)


def crop_latents(
    latents: Tensor, count: int, frames: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """`count` random crops of latents float16 [M, 8, 256, 16], each of `frames` mel frames, a multiple of 4.

    Returns the row numbers [B], the first mel frame of each crop [B], and the crops, float32 [B, 8, frames / 4, 16].
    """
    length = frames // LATENT_FRAMES
    rows = pick(len(latents), count, generator, latents.device)
    starts = pick(latents.shape[2] - length + 1, count, generator, latents.device)
    places = starts[:, None] + torch.arange(length, device=latents.device)
    return rows, LATENT_FRAMES * starts, latents.transpose(1, 2)[rows[:, None], places].transpose(1, 2).float()
