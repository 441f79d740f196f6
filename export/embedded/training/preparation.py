"""The inputs of the stages, computed once from the corpus and cached: filterbanks, features, tokens, latents."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from sc_runtime.errors import SettingsError
from sc_runtime.export.embedded.corpus.speeds import list_sets
from sc_runtime.export.embedded.corpus.splits import DOMAINS
from sc_runtime.files import write_atomically
from sc_runtime.semanticodec.acoustic import join_features
from sc_runtime.semanticodec.config import LATENT_SHAPE, SemantiCodecConfig
from sc_runtime.semanticodec.fbank import count_frames

from .caching import Sources, cached, digest_rows, digest_weights, drop, is_current, write_record
from .clusters import cluster_domains
from .diffusion import Conditioned
from .filterbanks import choose_lengths, compute_fbanks
from .mel import LogMel
from .tokens import Features, quantize_features

BATCH = 16
MAKE_CORPUS = "run python -m export.embedded.corpus again"  #: a remedy
SCALE_FACTOR, CENTROIDS, CONTEXT = "scale_factor.json", "centroids.npy", "context.npy"


def load_clips(corpus: Path) -> np.ndarray:
    """Training clips int16 [N, 163840], in the order of `list_sets`: in each set the domains, of equal counts.

    Raises SettingsError if an array is missing or if the counts are not equal.
    """
    paths = [path for arrays in list_sets(corpus) for path in arrays]
    for path in paths:
        if not path.exists():
            raise SettingsError(f"no {path}", "a whole corpus", MAKE_CORPUS)
    clips = [np.load(path, mmap_mode="r") for path in paths]
    for path, array in zip(paths, clips, strict=True):
        if len(array) != len(clips[0]):
            found, expected = f"{path}: {len(array)} clips", f"{len(clips[0])}, as in {paths[0].name}"
            raise SettingsError(found, expected, f"remove {path.name}, then {MAKE_CORPUS}")
    return np.concatenate(clips)


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


def prepare_fbanks(folder: Path, clips: np.ndarray) -> np.ndarray:
    """The filterbanks of `clips`, float16 [N, 1024, 128]."""
    path = folder / "fbanks.npy"
    linked = path.is_symlink()  # to those of the corpus, which export.embedded.gpu makes
    return cached(path, lambda path: compute_fbanks(clips, path), {"clips": digest_rows(clips)}, linked)


def prepare_semantic(
    folder: Path, fbanks: np.ndarray, audiomae: nn.Module, config: SemantiCodecConfig, sets: int
) -> tuple[np.ndarray, ...]:
    """Features [N, L, D], centroids, semantic tokens [N, L], and the number of positions that hold tokens [N].

    sets: as of `prepare_centroids`. Raises SettingsError if the centroids are those of another AudioMAE and tokens or a
    T-UNet have been trained with them.
    """
    device = next(audiomae.parameters()).device
    network, inputs = describe_audiomae(audiomae.state_dict()), {"fbanks": digest_rows(fbanks)}
    path = folder / CENTROIDS
    refuse_another(path, network, "AudioMAE")
    features = cached(
        folder / "features.npy",
        lambda path: compute_features(fbanks, audiomae, config, path),
        network | inputs,
    )
    positions = count_all_positions(len(fbanks), config)
    centroids = cached(  # of any clips: more of them change nothing that tokens were trained on
        path, lambda path: prepare_centroids(features, positions, config, sets, path), network, may_be_given=True
    )
    semantic = cached(
        folder / "semantic.npy",
        lambda path: compute_semantic(features, centroids, device, path),
        network | inputs | {"centroids": digest_rows(centroids)},
    )
    return features, centroids, semantic, positions


def prepare_latents(
    folder: Path,
    clips: np.ndarray,
    audiomae: nn.Module,
    encoder: nn.Module,
    decoder: Mapping[str, Tensor],
    config: SemantiCodecConfig,
    sets: int = 1,
) -> Features:
    """The data of stage `tokens`; `sets` is as of `prepare_centroids`.

    The VAE's scale factor, one over the standard deviation of the latents, is kept too. It belongs to the VAE with the
    weights `decoder`: `vae_encoder` trains another encoder of the same latents. Raises SettingsError as `prepare_scale`
    and `prepare_semantic` do.
    """
    fbanks = prepare_fbanks(folder, clips)
    features, centroids, semantic, positions = prepare_semantic(folder, fbanks, audiomae, config, sets)
    joined = np.empty((*features.shape[:2], 2 * config.feature_width), np.float16)
    for rows in batches(len(features)):
        frames = [count_frames(np.asarray(fbank, np.float32)) for fbank in fbanks[rows]]
        joined[rows] = join_features(np.asarray(features[rows], np.float32), centroids[semantic[rows]], frames)
    raw = cached(
        folder / "latents.npy",
        lambda path: compute_latents(clips, encoder, path),
        {"encoder": digest_weights(encoder.state_dict()), "clips": digest_rows(clips)},
    )
    scale = prepare_scale(folder / SCALE_FACTOR, raw, describe_vae(decoder))
    scaled = (np.asarray(raw, np.float32) * scale).astype(np.float16)
    return Features(scaled, joined, np.asarray(semantic), positions, np.asarray(centroids))


def prepare_scale(path: Path, latents: np.ndarray, sources: Sources) -> float:
    """The VAE's scale factor: the one in `path`, else one over the deviation of `latents`.

    Raises SettingsError if the one in `path` is that of another VAE and tokens or a T-UNet have been trained with it. A
    given one without a record is taken for another VAE's if it is off by a factor of two.
    """
    deviation = float(np.std(latents[::7], dtype=np.float64))
    refuse_another(path, sources, "VAE")
    if not is_current(path, sources, may_be_given=True):
        drop(path)
        write_record(path, sources)
        write_atomically(path, json.dumps(1.0 / deviation).encode())
    scale = json.loads(path.read_text())
    if not 0.5 < scale * deviation < 2:
        raise SettingsError(
            f"{path}: scaled by it, the latents of this VAE have a deviation of {scale * deviation:.2f}",
            "one near 1",
            f"remove {path.name}, tokens.pt and diffusion.pt, which belong to another VAE",
        )
    return float(scale)


def describe_audiomae(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """What the centroids belong to: AudioMAE with these weights."""
    return {"audiomae": digest_weights(weights)}


def describe_vae(decoder: Mapping[str, Tensor]) -> dict[str, str]:
    """What the scale factor belongs to: the VAE whose decoder has these weights, whatever its encoder."""
    return {"decoder": digest_weights(decoder)}


def refuse_another(path: Path, sources: Sources, network: str) -> None:
    """Raises SettingsError if tokens or a T-UNet lie beside `path` and it belongs to another `network`."""
    trained = [name for name in ("tokens.pt", "diffusion.pt") if (path.parent / name).exists()]
    if trained and path.exists() and not is_current(path, sources, may_be_given=True):
        named = " and ".join(trained)
        raise SettingsError(
            f"{path} and {named}, of another {network}",
            f"the {network} that they were trained with",
            f"remove {path.name} and {named} to train them for this one",
        )


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

    sources = {
        "joined": digest_rows(data.joined),
        "semantic": digest_rows(data.semantic),
        "acoustic_encoder": digest_weights(acoustic_encoder.state_dict()),
        "entries": digest_rows(entries.cpu().numpy()),
    }
    return Conditioned(data.latents, cached(folder / CONTEXT, compute, sources))


def load_weights(module: nn.Module, state: dict[str, Tensor], device: torch.device) -> nn.Module:
    """`module` with `state`, for evaluation."""
    module.load_state_dict(state)
    return module.to(device).eval().requires_grad_(False)
