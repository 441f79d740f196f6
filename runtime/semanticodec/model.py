"""SemantiCodec as the paper's Figure 2: sound to tokens and back, one line a stage.

L positions of one window (512, 256, 128 at 100, 50, 25 tps), D feature width (768 K); other letters as in `codec.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import numpy as np

from sc_runtime.audio import Audio, measure
from sc_runtime.model import DecodePlan, WindowPlan
from sc_runtime.networks import Arrays, Graph, Networks
from sc_runtime.once import OnceEach
from sc_runtime.spec import CodecSpec, DecodeOptions, EncodeOptions

from .acoustic import join_features
from .conditioning import Codebooks
from .config import (
    ACOUSTIC_CODEBOOK,
    OVERLAP_SAMPLES,
    WINDOW_STRIDE,
    Schedule,
    SemantiCodecConfig,
)
from .fbank import count_frames, fbank_segments
from .guidance import guide
from .noise import SeededNoise, WindowNoise
from .presets import Sampling, resolve_sampling
from .resident import DECODER_GRAPHS, ResidentDecoder
from .resident_encoder import ResidentEncoder
from .samplers import SOLVERS
from .schedule import choose_timesteps, compute_alphas_cumprod
from .spec import SPEC
from .vocode import plan_runs, vocode
from .windows import split_windows

DECODE_BATCH = 1  #: windows decoded together by default: on a CPU more only costs memory; a GPU has its own default


@dataclass(frozen=True)
class DecodeSettings:
    """What windows that are decoded together have in common."""

    config: SemantiCodecConfig
    sampling: Sampling

    def choose_timesteps(self) -> np.ndarray:
        """Raises SettingsError if the steps do not fit the schedule."""
        return choose_timesteps(self.sampling.steps, self.config.schedule, SOLVERS[self.sampling.solver].spacing)


@dataclass(frozen=True)
class DecodeWindow:
    """One window: its codes [<= L, 2], its noise, and the number of its samples that are needed."""

    codes: np.ndarray
    settings: DecodeSettings
    noise: WindowNoise
    samples: int


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

    @property
    def decode_batch(self) -> int:
        decoder = self.decoder
        return decoder.batch if decoder else DECODE_BATCH

    def plan_decoding(
        self, codes: np.ndarray, config: SemantiCodecConfig, samples: int, options: DecodeOptions
    ) -> DecodePlan:
        """codes [T, 2] -> overlapping windows. Draw 0 of a window's noise is x_T, draw 1 + i is the noise of step i."""
        settings = DecodeSettings(config, resolve_sampling(options))
        noise = options.noise or SeededNoise(options.seed or 0)
        with ThreadPoolExecutor() as readers:  # a damaged file is reported now, not after the first window's steps
            list(readers.map(self.networks.verify_graph, DECODER_GRAPHS))
        windows = [
            DecodeWindow(codes[span], settings, WindowNoise(noise, number), samples - WINDOW_STRIDE * number)
            for number, span in enumerate(split_windows(len(codes), config))
        ]
        # A unit for each T-UNet call, and one for VAE decoder and vocoder.
        return DecodePlan(windows, settings, len(settings.choose_timesteps()), samples, OVERLAP_SAMPLES)

    def decode_windows(self, windows: list[DecodeWindow], report: Callable[[], None]) -> Iterator[Iterable[np.ndarray]]:
        """Windows -> pieces of the waveform of each: up to four parts of a window that runs alone, else the whole."""
        settings, codes = windows[0].settings, [window.codes for window in windows]
        noises, needed = [window.noise for window in windows], max(window.samples for window in windows)
        if decoder := self.decoder:
            sounds = decoder.run(codes, settings.config, settings.sampling, noises, needed)
            yield from ((sound.copy(),) for sound in sounds)  # so that none keeps the others in memory
            return
        branches = 1 if settings.sampling.guidance == 1.0 else 2
        with ThreadPoolExecutor(2) as loader:  # the graphs are loaded side by side, and while others run
            tunet_step = loader.submit(self.networks.prepare_graph, "tunet_step", branches, batch=len(windows))
            features = self.embed_windows(codes, settings.config)  # meanwhile the T-UNet, needed first, begins to load
            vocoder = loader.submit(self.load_vocoder, len(windows), needed)
            latent = self.denoise(tunet_step, features, settings, noises, report)
        pieces = vocode(*vocoder.result(), latent, needed)
        if len(windows) == 1:
            yield (piece[0] for piece in pieces)  # as they are made
        else:
            yield from zip(*pieces, strict=True)

    def denoise(
        self,
        tunet_step: Future[Graph],
        features: np.ndarray,
        settings: DecodeSettings,
        noises: Sequence[WindowNoise],
        report: Callable[[], None],
    ) -> np.ndarray:
        """Features [B, L, 2D] -> z_0, float32 [B, 8, 256, 16]. `report` is called after each call of the T-UNet."""
        sampling, schedule = settings.sampling, settings.config.schedule
        conditional, empty = self.networks.run("conditioning", features=features), self.unconditional
        guided = guide(tunet_step.result(), conditional, empty, sampling.guidance, sampling.interval)

        def predict(latent: np.ndarray, step: int) -> np.ndarray:
            v = guided(latent, step)
            report()
            return v

        def draw(number: int) -> np.ndarray:
            return np.stack([noise(number) for noise in noises])

        alphas_cumprod = compute_alphas_cumprod(schedule)
        solver = SOLVERS[sampling.solver]
        return solver.sample(predict, draw(0), draw, settings.choose_timesteps(), alphas_cumprod, sampling.eta)

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
