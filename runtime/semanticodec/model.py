"""SemantiCodec as the paper's Figure 2: sound to tokens and back, one line a stage.

L positions of one window (512, 256, 128 at 100, 50, 25 tps), D feature width (768 K); other letters as in `codec.py`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, ClassVar

import numpy as np

from sc_runtime.audio import Audio, measure
from sc_runtime.errors import SettingsError
from sc_runtime.model import WindowPlan
from sc_runtime.networks import Arrays, Graph, Networks
from sc_runtime.once import OnceEach
from sc_runtime.overlap_add import overlap_add
from sc_runtime.spec import CodecSpec, DecodeOptions, EncodeOptions, Noise, Progress

from .acoustic import join_features
from .conditioning import Codebooks
from .config import (
    ACOUSTIC_CODEBOOK,
    LATENT_SHAPE,
    OVERLAP_SAMPLES,
    WINDOW_STRIDE,
    Schedule,
    SemantiCodecConfig,
)
from .fbank import count_frames, fbank_segments
from .guidance import guide
from .noise import SeededNoise
from .presets import resolve_sampling
from .resident import DECODER_GRAPHS, ResidentDecoder
from .resident_encoder import ResidentEncoder
from .samplers import SOLVERS, Predict
from .schedule import choose_timesteps, compute_alphas_cumprod
from .spec import SPEC
from .vocode import plan_runs, vocode
from .windows import split_windows

DECODE_BATCH = 1  #: windows decoded together by default: on a CPU more only costs memory; a GPU has its own default


class SemantiCodecModel:
    """The SemantiCodec of one bundle; it implements `sc_runtime.model.Model`."""

    spec: ClassVar[CodecSpec] = SPEC

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        self._empty: OnceEach[str, Arrays] = OnceEach()
        self._decoders: OnceEach[str, ResidentDecoder] = OnceEach()
        self._encoders: OnceEach[str, ResidentEncoder] = OnceEach()

    def check_encode_options(self, options: EncodeOptions, config: SemantiCodecConfig) -> None:
        pass  # it has none

    def plan_windows(self, recording: Audio, config: SemantiCodecConfig) -> WindowPlan:
        """Recording -> windows fbank [1024, 128]. It is read twice: its mean is needed first."""
        samples, total = measure(recording)
        positions = config.count_positions(samples)
        windows = -(-positions // config.positions)  # a further, wholly padded segment holds no tokens
        segments = islice(fbank_segments(recording.blocks(), samples, total), windows)
        return WindowPlan(samples, windows, segments, lambda codes: np.concatenate(codes)[:positions])

    def encode_windows(
        self, windows: list[np.ndarray], config: SemantiCodecConfig, options: EncodeOptions
    ) -> list[np.ndarray]:
        """fbanks [1024, 128] -> codes [L, 2] of each: semantic tokens, then acoustic tokens beside them."""
        fbank = np.stack(windows)
        if self.encoder:
            return list(self.encoder.run(fbank, config))
        shape = (len(fbank), config.positions)
        semantic_book, acoustic_book = config.semantic_codebook, ACOUSTIC_CODEBOOK
        features = self.networks.run("audiomae", fbank=fbank)["features"]
        semantic = self.networks.open_search(semantic_book).search(features.reshape(-1, config.feature_width))
        semantic = semantic.reshape(shape)
        centroids = self.networks.load_codebook(semantic_book)[semantic]
        joined = join_features(features, centroids, [count_frames(window) for window in fbank])
        encoded = self.networks.run("acoustic_encoder", features=joined)["acoustic"]
        acoustic = self.networks.open_search(acoustic_book).search(encoded.reshape(-1, config.feature_width))
        return list(np.stack([semantic, acoustic.reshape(shape)], axis=-1))

    def resolve_options(self, options: DecodeOptions) -> dict[str, Any]:
        sampling, noise = resolve_sampling(options), SeededNoise(options.seed or 0)
        choose_timesteps(sampling.steps, Schedule(), SOLVERS[sampling.solver].spacing)  # raises if they do not fit
        return {"preset": options.preset or "reference", "seed": noise.seed, **dataclasses.asdict(sampling)}

    @staticmethod
    def count_windows(positions: int, config: SemantiCodecConfig) -> int:
        return len(split_windows(positions, config))

    def decode(
        self,
        codes: np.ndarray,
        config: SemantiCodecConfig,
        samples: int,
        options: DecodeOptions,
        batch: int | None,
        progress: Progress | None,
    ) -> Iterator[np.ndarray]:
        """codes [T, 2] -> pieces float32 [n]: halves of windows that run one by one, whole windows of a batch.

        Draw 0 of a window's noise is x_T, draw 1 + i is the noise of step i.
        """
        sampling = resolve_sampling(options)
        chosen = SOLVERS[sampling.solver]
        timesteps = choose_timesteps(sampling.steps, config.schedule, chosen.spacing)
        draw_noise = check_draws(options.noise) if options.noise else SeededNoise(options.seed or 0)
        for graph in DECODER_GRAPHS:
            self.networks.verify_graph(graph)  # a damaged file is reported now, not after the first window's steps
        alphas_cumprod = compute_alphas_cumprod(config.schedule)
        windows = split_windows(len(codes), config)
        work = len(timesteps)  # units of one window: its T-UNet calls, and one for VAE decoder and vocoder
        units = len(windows) * work
        decoder = self.decoder
        together = batch or (decoder.batch if decoder else DECODE_BATCH)

        def denoise(features: np.ndarray, group: range) -> np.ndarray:
            draw = partial(draw_windows, draw_noise, group)
            predict = guide(
                self.networks.open_graph("tunet_step"),
                self.networks.run("conditioning", features=features),
                self.unconditional,
                sampling.guidance,
                sampling.interval,
            )
            if progress:
                calls = (group.start * work + len(group) * call for call in itertools.count(1))
                predict = report_calls(predict, progress, calls, units)
            return chosen.sample(predict, draw(0), draw, timesteps, alphas_cumprod, sampling.eta)

        def synthesise() -> Iterator[Iterable[np.ndarray]]:
            for start in range(0, len(windows), together):
                group = range(start, min(start + together, len(windows)))
                cut = [codes[windows[i]] for i in group]
                needed = max(samples - WINDOW_STRIDE * window for window in group)
                if decoder:
                    yield from zip(decoder.run(cut, config, sampling, draw_noise, group, needed))
                else:
                    features = self.embed_windows(cut, config)
                    with ThreadPoolExecutor(1) as loader:  # the last graphs are loaded while the first ones run
                        vocoder = loader.submit(self.load_vocoder, len(group), needed)
                        latent = denoise(features, group)
                    pieces = vocode(*vocoder.result(), latent, needed)
                    if len(group) == 1:
                        yield (piece[0] for piece in pieces)  # as they are made
                    else:
                        yield from zip(*pieces, strict=True)
                if progress:
                    progress(group.stop * work, units)

        return overlap_add(synthesise(), samples, OVERLAP_SAMPLES)

    def load_vocoder(self, batch: int, samples: int) -> tuple[Graph, Graph]:
        """The VAE decoder and HiFi-GAN, ready for `batch` windows of `samples` samples."""
        span, _ = plan_runs(batch, samples)[0]
        return (
            self.networks.prepare_graph("vae_decoder", batch=batch),
            self.networks.prepare_graph("hifigan", batch=batch, frames=span.stop),
        )

    def embed_windows(self, windows: list[np.ndarray], config: SemantiCodecConfig) -> np.ndarray:
        """codes [<= L, 2] of B windows -> the conditioning of the T-UNet, float32 [B, L, 2D]."""
        codebooks = self.open_codebooks(config)
        return np.stack([codebooks.condition(codes, config) for codes in windows])

    def embed(self, codes: np.ndarray, config: SemantiCodecConfig) -> np.ndarray:
        """E = [Es, Ea], float32 [T, 2D] (paper, eq. 5 and Table III)."""
        return self.open_codebooks(config).embed(codes)

    def open_codebooks(self, config: SemantiCodecConfig) -> Codebooks:
        return Codebooks(*map(self.networks.load_codebook, (config.semantic_codebook, ACOUSTIC_CODEBOOK)))

    @property
    def unconditional(self) -> Arrays:
        """Keys and values of the empty conditioning: zeros in place of E."""

        def compute() -> Arrays:
            shape = self.networks.describe_inputs("conditioning")["features"].resolve(batch=1)
            return self.networks.run("conditioning", features=np.zeros(shape, np.float32))

        return self._empty.get("conditioning", compute)

    @property
    def decoder(self) -> ResidentDecoder | None:
        """The decoder on a GPU, which keeps the tensors between the stages in its memory. None on the host."""
        device = self.networks.device
        return None if device is None else self._decoders.get("gpu", lambda: ResidentDecoder(device, self.networks))

    @property
    def encoder(self) -> ResidentEncoder | None:
        """The same of encoding."""
        device = self.networks.device
        return None if device is None else self._encoders.get("gpu", lambda: ResidentEncoder(device, self.networks))


def report_calls(predict: Predict, progress: Callable[[int, int], None], done: Iterator[int], units: int) -> Predict:
    """`predict`, with a call of `progress` after each call, with the next value of `done`."""

    def reporting(latent: np.ndarray, step: int) -> np.ndarray:
        v = predict(latent, step)
        progress(next(done), units)
        return v

    return reporting


def draw_windows(noise: Noise, windows: range, draw: int) -> np.ndarray:
    """Draw `draw` of every window, [B, 8, 256, 16]."""
    return np.stack([noise(window, draw) for window in windows])


def check_draws(noise: Noise) -> Noise:
    """`noise`, with a check of every draw."""
    return lambda window, draw: check_noise(noise(window, draw))


def check_noise(noise: Any) -> np.ndarray:
    """Raises SettingsError unless `noise` is float32 [8, 256, 16]."""
    array = np.asarray(noise)
    if array.shape != LATENT_SHAPE or array.dtype != np.float32:
        raise SettingsError(f"noise {array.dtype} {list(array.shape)}", f"float32 {list(LATENT_SHAPE)}")
    return array
