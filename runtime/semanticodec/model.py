"""SemantiCodec as the paper's Figure 2: sound to tokens and back, one line a stage.

L positions of one window (512, 256, 128 at 100, 50, 25 tps), D feature width (768 K); other letters as in `codec.py`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..audio import Audio, Mono, measure
from ..backends.base import GPU_WINDOWS, Arrays, Decoder, Graph, ResidentBackend
from ..config import CodecConfig
from ..encoding import Cut
from ..errors import SettingsError
from ..overlap_add import overlap_add
from .acoustic import join_features
from .conditioning import Codebooks
from .config import (
    FRAME_SHIFT,
    LATENT_SHAPE,
    OVERLAP_SAMPLES,
    SEGMENT_FRAMES,
    SEGMENT_SAMPLES,
    TOKEN_RATES,
    WINDOW_SAMPLES,
    WINDOW_STRIDE,
    SemantiCodecConfig,
)
from .fbank import count_frames, fbank_segments
from .guidance import guide
from .presets import Sampling, choose_sampling
from .samplers import SOLVERS, Noise, Predict, choose_nodes, compute_alphas, seeded_noise
from .vocode import FRAME_STEP, plan_runs, vocode
from .windows import split_windows

if TYPE_CHECKING:
    from ..codecs import DecodeOptions, EncodeOptions, Progress
    from ..parts import Parts

DECODER_GRAPHS = ("conditioning", "tunet_step", "vae_decoder", "hifigan")
DECODE_BATCH = 1  #: windows decoded together by default: on a CPU more only costs memory; a GPU says for itself
VOCABULARIES = (4096, 8192, 16384, 32768)  #: semantic, as published


class SemantiCodecModel:
    """One bundle's SemantiCodec. See `sc_runtime.codecs.Model`, which this is."""

    number: ClassVar[int] = 0
    config: ClassVar[type[CodecConfig]] = SemantiCodecConfig
    published: ClassVar[tuple[CodecConfig, ...]] = tuple(
        SemantiCodecConfig(tps, vocab) for tps in TOKEN_RATES for vocab in VOCABULARIES
    )
    mono: ClassVar[Mono] = "first"
    batches: ClassVar[bool] = True
    exact: ClassVar[frozenset[str]] = frozenset({"audiomae", "acoustic_encoder"})
    encode_options: ClassVar[frozenset[str]] = frozenset()
    decode_options: ClassVar[frozenset[str]] = frozenset(
        {"preset", "steps", "guidance", "eta", "solver", "interval", "seed", "noise"}
    )

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    @staticmethod
    def profile(graph: str) -> dict[str, tuple[int, int, int]]:
        branches = 2 if graph == "tunet_step" else 1  # of guidance, both of which it takes at once
        sizes = {"batch": (1, 4 * branches, GPU_WINDOWS * branches)}
        return {**sizes, "frames": (FRAME_STEP, SEGMENT_FRAMES, SEGMENT_FRAMES)} if graph == "hifigan" else sizes

    @staticmethod
    def measure_axes(graph: str, given: Mapping[str, int]) -> dict[str, int]:
        """A vocoder of n frames gives 160 n samples and a little more."""
        if "frames" not in given:
            return dict(given)
        return {**given, "samples": FRAME_SHIFT * given["frames"] + WINDOW_SAMPLES - SEGMENT_SAMPLES}

    def check(self, config: SemantiCodecConfig, options: EncodeOptions) -> None:
        pass  # it has no options

    def cut(self, recording: Audio, config: SemantiCodecConfig) -> Cut:
        """Recording -> windows fbank [1024, 128]. Reads it twice, as its mean comes first."""
        samples, total = measure(recording)
        positions = config.count_positions(samples)
        windows = -(-positions // config.positions)  # a further, wholly padded segment holds no tokens
        segments = islice(fbank_segments(recording.blocks(), samples, total), windows)
        return Cut(samples, windows, segments, lambda codes: np.concatenate(codes)[:positions])

    def encode_windows(
        self, windows: list[np.ndarray], config: SemantiCodecConfig, options: EncodeOptions
    ) -> list[np.ndarray]:
        """fbanks [1024, 128] -> codes [L, 2] of each: semantic tokens, then acoustic tokens beside them."""
        fbank = np.stack(windows)
        shape = (len(fbank), config.positions)
        semantic_book, acoustic_book = f"semantic-{config.vocab}", "acoustic"
        features = self.parts.run("audiomae", fbank=fbank)["features"]
        semantic = self.parts.open_search(semantic_book).search(features.reshape(-1, config.feature_width))
        semantic = semantic.reshape(shape)
        centroids = self.parts.load_codebook(semantic_book)[semantic]
        joined = join_features(features, centroids, [count_frames(window) for window in fbank])
        encoded = self.parts.run("acoustic_encoder", features=joined)["acoustic"]
        acoustic = self.parts.open_search(acoustic_book).search(encoded.reshape(-1, config.feature_width))
        return list(np.stack([semantic, acoustic.reshape(shape)], axis=-1))

    def settle(self, options: DecodeOptions) -> dict[str, Any]:
        return {
            "preset": options.preset or "reference",
            "seed": options.seed or 0,
            **dataclasses.asdict(choose_options(options)),
        }

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
        """codes [T, 2] -> pieces float32 [n]: half a window, where windows run one by one, or a whole.

        Draw 0 of a window's noise is x_T, draw 1 + i the noise of step i.
        """
        sampling = choose_options(options)
        chosen = SOLVERS[sampling.solver]
        nodes = choose_nodes(sampling.steps, config.schedule, chosen.spacing)
        draw_noise = check_draws(options.noise) if options.noise else seeded_noise(options.seed or 0)
        for graph in DECODER_GRAPHS:
            self.parts.bundle.find_graph(graph)  # a damaged file is named now, not after the first window's steps
        alphas = compute_alphas(config.schedule)
        windows = split_windows(len(codes), config)
        work = len(nodes)  # units of one window: its T-UNet calls, and the way from latent to sound
        units = len(windows) * work
        decoder = self.decoder
        together = batch or (decoder.batch if decoder else DECODE_BATCH)

        def denoise(features: np.ndarray, group: range) -> np.ndarray:
            draw = partial(draw_windows, draw_noise, group)
            predict = guide(
                self.parts.open_graph("tunet_step"),
                self.parts.run("conditioning", features=features),
                self.unconditional,
                sampling.guidance,
                sampling.interval,
            )
            if progress:
                calls = (group.start * work + len(group) * call for call in itertools.count(1))
                predict = report_calls(predict, progress, calls, units)
            return chosen.sample(predict, draw(0), draw, nodes, alphas, sampling.eta)

        def synthesise() -> Iterator[Iterable[np.ndarray]]:
            for start in range(0, len(windows), together):
                group = range(start, min(start + together, len(windows)))
                features = self.embed_windows([codes[windows[i]] for i in group], config)
                needed = max(samples - WINDOW_STRIDE * window for window in group)
                if decoder:  # all of it on a device that keeps what passes between the stages
                    yield from zip(decoder.run(features, sampling, draw_noise, group, needed))
                else:
                    with ThreadPoolExecutor(1) as loader:  # the last graphs are loaded beside the first
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
        """VAE decoder and HiFi-GAN, ready for so many windows of so many samples."""
        span, _ = plan_runs(batch, samples)[0]
        return (
            self.parts.prepare_graph("vae_decoder", batch=batch),
            self.parts.prepare_graph("hifigan", batch=batch, frames=span.stop),
        )

    def embed_windows(self, windows: list[np.ndarray], config: SemantiCodecConfig) -> np.ndarray:
        """codes [<= L, 2] of B windows -> what the T-UNet is conditioned on, float32 [B, L, 2D]."""
        codebooks = self.open_codebooks(config)
        return np.stack([codebooks.condition(codes, config) for codes in windows])

    def embed(self, codes: np.ndarray, config: SemantiCodecConfig) -> np.ndarray:
        """E = [Es, Ea], float32 [T, 2D] (paper, eq. 5 and Table III)."""
        return self.open_codebooks(config).embed(codes)

    def open_codebooks(self, config: SemantiCodecConfig) -> Codebooks:
        return Codebooks(*map(self.parts.load_codebook, (f"semantic-{config.vocab}", "acoustic")))

    @cached_property
    def unconditional(self) -> Arrays:
        """Keys and values of the empty conditioning: zeros in place of E."""
        shape = self.parts.bundle.manifest.graphs["conditioning"].inputs["features"].resolve(batch=1)
        return self.parts.run("conditioning", features=np.zeros(shape, np.float32))

    @cached_property
    def decoder(self) -> Decoder | None:
        """What decodes on a device with memory of its own, where the backend has one."""
        backend = self.parts.backend
        return backend.open_decoder(self.parts.bundle) if isinstance(backend, ResidentBackend) else None


def choose_options(options: DecodeOptions) -> Sampling:
    """The preset with its changes. Raises SettingsError."""
    return choose_sampling(
        options.preset or "reference",
        steps=options.steps,
        guidance=options.guidance,
        eta=options.eta,
        solver=options.solver,
        interval=options.interval,
    )


def report_calls(predict: Predict, progress: Callable[[int, int], None], done: Iterator[int], units: int) -> Predict:
    """`predict`, telling `progress` the next of `done` after each call."""

    def reporting(latent: np.ndarray, step: int) -> np.ndarray:
        v = predict(latent, step)
        progress(next(done), units)
        return v

    return reporting


def draw_windows(noise: Noise, windows: range, draw: int) -> np.ndarray:
    """Draw `draw` of every window, [B, 8, 256, 16]."""
    return np.stack([noise(window, draw) for window in windows])


def check_draws(noise: Noise) -> Noise:
    """`noise`, each of whose draws is checked."""
    return lambda window, draw: check_noise(noise(window, draw))


def check_noise(noise: Any) -> np.ndarray:
    """Injected noise must be what the arithmetic expects: float32 [8, 256, 16]."""
    array = np.asarray(noise)
    if array.shape != LATENT_SHAPE or array.dtype != np.float32:
        raise SettingsError(f"noise {array.dtype} {list(array.shape)}", f"float32 {list(LATENT_SHAPE)}")
    return array
