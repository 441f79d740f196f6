"""The inputs of the stages, computed once from the corpus and cached: filterbanks, features, tokens, latents."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from sc_runtime.export.embedded.corpus.speeds import list_sets
from sc_runtime.export.embedded.corpus.splits import DOMAINS
from sc_runtime.files import replacing, write_atomically
from sc_runtime.semanticodec.acoustic import join_features
from sc_runtime.semanticodec.config import LATENT_SHAPE, SemantiCodecConfig
from sc_runtime.semanticodec.fbank import count_frames

from .clusters import cluster_domains
from .diffusion import Conditioned
from .filterbanks import choose_lengths, compute_fbanks
from .mel import LogMel
from .tokens import Features, quantize_features

BATCH = 16
SCALE_FACTOR, CENTROIDS, CONTEXT = "scale_factor.json", "centroids.npy", "context.npy"


def load_clips(corpus: Path) -> np.ndarray:
    """Training clips int16 [N, 163840], in the order of `list_sets`: in each set the domains, of equal counts."""
    return np.concatenate([np.load(path, mmap_mode="r") for paths in list_sets(corpus) for path in paths])


def cached(path: Path, compute: Callable[[Path], None]) -> np.ndarray:
    """The array in `path`. If there is none, `compute` writes it to a temporary file, which is then renamed."""
    if not path.exists():
        with replacing(path) as temporary:
            compute(temporary)
    return np.load(path, mmap_mode="c")  # never written to; torch wants arrays that could be


@torch.inference_mode()
def compute_features(fbanks: np.ndarray, audiomae: nn.Module, config: SemantiCodecConfig, path: Path) -> None:
    """Filterbanks -> stacked features, float16 [N, L, D]."""
    shape = (len(fbanks), config.positions, config.feature_width)
    features = open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    device = next(audiomae.parameters()).device
    for rows in batches(len(fbanks)):
        features[rows] = (
            audiomae(torch.tensor(np.asarray(fbanks[rows]), dtype=torch.float32, device=device)).cpu().numpy()
        )
    features.flush()


@torch.inference_mode()
def compute_latents(clips: np.ndarray, encoder: nn.Module, path: Path) -> None:
    """Clips -> the means of their latents, float16 [N, 8, 256, 16], not yet scaled."""
    latents = open_memmap(path, mode="w+", dtype=np.float16, shape=(len(clips), *LATENT_SHAPE))
    device = next(encoder.parameters()).device
    log_mel = LogMel().to(device)
    lengths = choose_lengths(len(clips))
    for rows in batches(len(clips)):
        waveforms = clips[rows].astype(np.float32) / 32768
        for waveform, samples in zip(waveforms, lengths[rows], strict=True):
            waveform[samples:] = 0
        latents[rows] = encoder(log_mel(torch.from_numpy(waveforms).to(device)))[0].cpu().numpy()
    latents.flush()


def batches(count: int) -> Iterator[slice]:
    return (slice(start, min(start + BATCH, count)) for start in range(0, count, BATCH))


def prepare_centroids(
    features: np.ndarray, positions: np.ndarray, config: SemantiCodecConfig, sets: int, path: Path
) -> None:
    """Cluster the features of positions that hold tokens and save the centroids.

    sets: how often the domains lie one after another (`load_clips`), each time of equal counts.
    """
    domains = np.arange(len(features)) * len(DOMAINS) * sets // len(features) % len(DOMAINS)
    rows = {
        domain: np.concatenate([features[clip, : positions[clip]] for clip in np.flatnonzero(domains == number)])
        for number, domain in enumerate(DOMAINS)
    }
    np.save(path, cluster_domains(rows, config.vocab))


@torch.inference_mode()
def compute_semantic(features: np.ndarray, centroids: np.ndarray, device: torch.device, path: Path) -> None:
    """Features -> semantic tokens, int64 [N, L]: the nearest centroids, in float32 on `device`."""
    book = torch.tensor(centroids, dtype=torch.float32, device=device)
    halves = book.square().sum(dim=1) / 2
    rows = (torch.tensor(np.asarray(features[rows]), device=device).float() for rows in batches(len(features)))
    np.save(path, np.concatenate([(x @ book.T - halves).argmax(dim=2).cpu().numpy() for x in rows]))


def count_all_positions(clips: int, config: SemantiCodecConfig) -> np.ndarray:
    """Positions that hold tokens in each clip, int64 [N]."""
    return np.array([min(config.count_positions(int(n)), config.positions) for n in choose_lengths(clips)])


def prepare_semantic(
    folder: Path, fbanks: np.ndarray, audiomae: nn.Module, config: SemantiCodecConfig, sets: int
) -> tuple[np.ndarray, ...]:
    """Features [N, L, D], centroids, semantic tokens [N, L], and the number of positions that hold tokens [N].

    sets: as of `prepare_centroids`.
    """
    device = next(audiomae.parameters()).device
    features = cached(folder / "features.npy", lambda path: compute_features(fbanks, audiomae, config, path))
    positions = count_all_positions(len(fbanks), config)
    centroids = cached(folder / CENTROIDS, lambda path: prepare_centroids(features, positions, config, sets, path))
    semantic = cached(folder / "semantic.npy", lambda path: compute_semantic(features, centroids, device, path))
    return features, centroids, semantic, positions


def prepare_latents(
    folder: Path, clips: np.ndarray, audiomae: nn.Module, encoder: nn.Module, config: SemantiCodecConfig, sets: int = 1
) -> Features:
    """The data of stage `tokens`; `sets` is as of `prepare_centroids`.

    The VAE's scale factor, one over the standard deviation of the latents, is cached too.
    """
    fbanks = cached(folder / "fbanks.npy", lambda path: compute_fbanks(clips, path))
    features, centroids, semantic, positions = prepare_semantic(folder, fbanks, audiomae, config, sets)
    joined = np.empty((*features.shape[:2], 2 * config.feature_width), np.float16)
    for rows in batches(len(features)):
        frames = [count_frames(np.asarray(fbank, np.float32)) for fbank in fbanks[rows]]
        joined[rows] = join_features(np.asarray(features[rows], np.float32), centroids[semantic[rows]], frames)
    raw = cached(folder / "latents.npy", lambda path: compute_latents(clips, encoder, path))
    if not (folder / SCALE_FACTOR).exists():
        scale = 1.0 / float(np.std(raw[::7], dtype=np.float64))
        write_atomically(folder / SCALE_FACTOR, json.dumps(scale).encode())
    scale = json.loads((folder / SCALE_FACTOR).read_text())
    scaled = (np.asarray(raw, np.float32) * scale).astype(np.float16)
    return Features(scaled, joined, np.asarray(semantic), positions, np.asarray(centroids))


def prepare_context(
    folder: Path, data: Features, acoustic_encoder: nn.Module, quantizer: dict[str, Tensor]
) -> Conditioned:
    """The data of stage `diffusion`: the latents, and the quantised features of the trained tokens."""
    device = next(acoustic_encoder.parameters()).device
    entries = quantizer["embed"].to(device).float()

    def compute(path: Path) -> None:
        context = open_memmap(path, mode="w+", dtype=np.float16, shape=data.joined.shape)
        for rows in batches(len(context)):
            context[rows] = quantize_features(data, acoustic_encoder, entries, rows, device).cpu().numpy()
        context.flush()

    return Conditioned(data.latents, cached(folder / CONTEXT, compute))


def load_weights(module: nn.Module, state: dict[str, Tensor], device: torch.device) -> nn.Module:
    """`module` with `state`, for evaluation."""
    module.load_state_dict(state)
    return module.to(device).eval().requires_grad_(False)
