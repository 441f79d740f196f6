"""SemantiCodec, as the paper's Figure 2: sound to tokens and back, one line a stage.

Axis letters, here and everywhere: B windows run together, T positions of a whole recording, L positions of one
window (512, 256, 128 at 100, 50, 25 tps), D feature width (768 K), n samples at 16 kHz.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .audio import Audio, measure
from .backends.base import Arrays, Backend, Decoder, Graph, ResidentBackend, Search
from .backends.select import choose_backend
from .bundle import Bundle, locate_bundle
from .centroids import NearestCentroid
from .errors import SettingsError
from .overlap_add import STRIDE, overlap_add
from .semanticodec.acoustic import join_features
from .semanticodec.conditioning import Codebooks
from .semanticodec.config import LATENT_SHAPE, SAMPLE_RATE, SemantiCodecConfig
from .semanticodec.fbank import count_frames, fbank_segments
from .semanticodec.guidance import guide
from .semanticodec.presets import choose_sampling
from .semanticodec.samplers import SOLVERS, Noise, Predict, choose_nodes, compute_alphas, seeded_noise
from .semanticodec.vocode import vocode
from .semanticodec.windows import split_windows
from .tokens import Tokens

AudioSource = str | os.PathLike[str] | bytes | BinaryIO | np.ndarray
TokensSource = Tokens | str | os.PathLike[str] | np.ndarray
Progress = Callable[[int, int], None]  #: (units of work done, units in all)

DECODER_GRAPHS = ("conditioning", "tunet_step", "vae_decoder", "hifigan")
DECODE_BATCH = 1  #: windows decoded together by default: on a CPU more only costs memory; a GPU says for itself


class Codec:
    """One bundle on one backend. Graphs and codebooks are loaded when first needed.

    `Codec.load("tps50-v32768")`, then `encode`, `decode`, `decode_stream`, `embed`.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle, self.backend = bundle, backend
        self._graphs: dict[str, Graph] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self._searches: dict[str, Search] = {}

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | None = None,
        *,
        backend: str = "auto",
        threads: int | None = None,
        precision: str = "auto",
    ) -> Codec:
        """The codec of `bundle`: a folder, a built bundle's name, or None for $SC_RUNTIME_BUNDLE or the newest.

        `backend` is "auto" or a name of `sc_runtime.backends.select`; `threads` those of the CPU, None for all;
        `precision` "auto" (float32 for tokens, what is fastest for sound), "float32" or "bfloat16" for everything.
        Raises BundleError, SettingsError, MissingExtraError, BackendError.
        """
        loaded = Bundle.load(locate_bundle(None if bundle is None else os.fspath(bundle)))
        return cls(loaded, choose_backend(backend, threads, precision, loaded))

    @property
    def config(self) -> SemantiCodecConfig:
        """Rate and default vocabulary."""
        return self.bundle.choose_config()

    @property
    def sample_rate(self) -> int:
        """Hz of decoded audio."""
        return SAMPLE_RATE

    def encode(
        self,
        audio: AudioSource,
        sample_rate: int = SAMPLE_RATE,
        *,
        vocab: int | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> Tokens:
        """Sound to tokens.

        `audio`: a file's path, bytes or stream, or an array [n] or [n, channels] at `sample_rate` Hz; of several
        channels the first. `vocab`: a vocabulary of the bundle. `batch` windows run together, by default as many as
        the backend gains by; it changes speed and memory, not tokens. Reads the audio twice (its mean comes first),
        one window at a time, whatever its length. Raises AudioError, SettingsError.
        """
        batch = self.backend.encode_batch if batch is None else batch
        check_batch(batch)
        config = self.bundle.choose_config(vocab)
        with Audio(audio, sample_rate) as recording:
            samples, total = measure(recording)
            positions = config.count_positions(samples)
            windows = -(-positions // config.positions)  # a further, wholly padded segment holds no tokens
            segments = islice(fbank_segments(recording.blocks(), samples, total), windows)
            codes: list[np.ndarray] = []
            while fbanks := list(islice(segments, batch)):
                codes.extend(self.encode_windows(np.stack(fbanks), config))
                if progress:
                    progress(len(codes), windows)
        return Tokens(np.concatenate(codes)[:positions], config, samples)

    def encode_windows(self, fbank: np.ndarray, config: SemantiCodecConfig) -> np.ndarray:
        """fbank [B, 1024, 128] -> codes [B, L, 2]: semantic tokens, then acoustic tokens beside them."""
        shape = (len(fbank), config.positions)
        semantic_book, acoustic_book = f"semantic-{config.vocab}", "acoustic"
        features = self._run("audiomae", fbank=fbank)["features"]
        semantic = self._search(semantic_book).search(features.reshape(-1, config.feature_width)).reshape(shape)
        centroids = self._codebook(semantic_book)[semantic]
        joined = join_features(features, centroids, [count_frames(window) for window in fbank])
        encoded = self._run("acoustic_encoder", features=joined)["acoustic"]
        acoustic = self._search(acoustic_book).search(encoded.reshape(-1, config.feature_width)).reshape(shape)
        return np.stack([semantic, acoustic], axis=-1)

    def decode(
        self,
        tokens: TokensSource,
        *,
        preset: str = "reference",
        steps: int | None = None,
        guidance: float | None = None,
        eta: float | None = None,
        solver: str | None = None,
        seed: int = 0,
        noise: Noise | None = None,
        vocab: int | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Tokens to sound, float32 [n] at 16 kHz: the original's length where the tokens know it.

        See `decode_stream`, of which this is the whole.
        """
        pieces = self.decode_stream(
            tokens,
            preset=preset,
            steps=steps,
            guidance=guidance,
            eta=eta,
            solver=solver,
            seed=seed,
            noise=noise,
            vocab=vocab,
            batch=batch,
            progress=progress,
        )
        return np.concatenate(list(pieces))

    def decode_stream(
        self,
        tokens: TokensSource,
        *,
        preset: str = "reference",
        steps: int | None = None,
        guidance: float | None = None,
        eta: float | None = None,
        solver: str | None = None,
        seed: int = 0,
        noise: Noise | None = None,
        vocab: int | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> Iterator[np.ndarray]:
        """Tokens to sound, window by window: pieces float32 [n] that `decode` would join.

        `tokens`: Tokens, their file, or codes [T, 2] or [1, T, 2], then in vocabulary `vocab`. `preset` of
        `semanticodec.presets`; by default the published 50 steps of DDIM with guidance 2 and eta 1. `steps`, `guidance`,
        `eta` and `solver` change it (see `Sampling`). Noise is a function of (`seed`, window, draw), or
        `noise(window, draw)` -> standard normal float32 [8, 256, 16], where draw 0 is x_T and draw 1 + i the noise of
        step i. `batch` windows run together, by default as many as the backend gains by. Raises TokensError,
        SettingsError and BundleError before anything is computed.
        """
        check_batch(DECODE_BATCH if batch is None else batch)
        tokens = self._take_tokens(tokens, vocab)
        sampling = choose_sampling(preset, steps=steps, guidance=guidance, eta=eta, solver=solver)
        schedule = self.bundle.manifest.schedule
        chosen = SOLVERS[sampling.solver]
        nodes = choose_nodes(sampling.steps, schedule, chosen.spacing)
        draw_noise = check_draws(noise) if noise else seeded_noise(seed)
        for graph in DECODER_GRAPHS:
            self.bundle.find_graph(graph)  # a damaged file is named now, not after the first window's steps
        alphas = compute_alphas(schedule)
        windows = split_windows(len(tokens), tokens.config)
        work = len(nodes)  # units of one window: its T-UNet calls, and the way from latent to sound
        units = len(windows) * work
        total = tokens.samples or tokens.config.count_samples(len(tokens))
        decoder = self._decoder
        together = batch or (decoder.batch if decoder else DECODE_BATCH)

        def synthesise() -> Iterator[np.ndarray]:
            for start in range(0, len(windows), together):
                group = range(start, min(start + together, len(windows)))
                codes = [tokens.codes[windows[i]] for i in group]
                needed = max(total - STRIDE * window for window in group)
                if decoder:  # all of it on a device that keeps what passes between the stages
                    features = self.embed_windows(codes, tokens.config)
                    yield from decoder.run(features, sampling, draw_noise, group, needed)
                else:
                    draw = partial(draw_windows, draw_noise, group)
                    context = self.condition_windows(codes, tokens.config)
                    predict = guide(
                        self.open_graph("tunet_step"),
                        context,
                        self._unconditional,
                        sampling.guidance,
                        sampling.interval,
                    )
                    if progress:
                        calls = (group.start * work + len(group) * call for call in itertools.count(1))
                        predict = report_calls(predict, progress, calls, units)
                    latent = chosen.sample(predict, draw(0), draw, nodes, alphas, sampling.eta)
                    yield from vocode(self.open_graph("vae_decoder"), self.open_graph("hifigan"), latent, needed)
                if progress:
                    progress(group.stop * work, units)

        return overlap_add(synthesise(), total)

    def condition_windows(self, windows: list[np.ndarray], config: SemantiCodecConfig) -> Arrays:
        """codes [<= L, 2] of B windows -> keys and values of every cross-attention, [B, heads, L, channels]."""
        return self._run("conditioning", features=self.embed_windows(windows, config))

    def embed_windows(self, windows: list[np.ndarray], config: SemantiCodecConfig) -> np.ndarray:
        """codes [<= L, 2] of B windows -> what the T-UNet is conditioned on, float32 [B, L, 2D]."""
        codebooks = self._codebooks(config)
        return np.stack([codebooks.condition(codes, config) for codes in windows])

    def embed(self, tokens: TokensSource, *, vocab: int | None = None) -> np.ndarray:
        """The quantised features E = [Es, Ea], float32 [T, 2D] (paper, eq. 5 and Table III), for models on top."""
        tokens = self._take_tokens(tokens, vocab)
        return self._codebooks(tokens.config).embed(tokens.codes)

    def _take_tokens(self, tokens: TokensSource, vocab: int | None) -> Tokens:
        """`tokens` as Tokens of this bundle. Raises TokensError where rate or vocabulary are not the bundle's."""
        if isinstance(tokens, (str, os.PathLike)):
            tokens = load_tokens(Path(tokens), self.bundle.choose_config(vocab))
        elif not isinstance(tokens, Tokens):
            tokens = Tokens.from_array(tokens, self.bundle.choose_config(vocab))
        if tokens.config.vocab in self.bundle.manifest.vocabularies:
            return tokens.require(self.bundle.choose_config(tokens.config.vocab))
        return tokens.require(self.config)  # raises, naming both

    def _run(self, graph: str, **feeds: np.ndarray) -> dict[str, np.ndarray]:
        return self.open_graph(graph).run(feeds)

    def open_graph(self, name: str) -> Graph:
        """The graph `name` of the bundle, verified and loaded when first asked for."""
        if name not in self._graphs:
            self._graphs[name] = self.backend.open(self.bundle, name)
        return self._graphs[name]

    @cached_property
    def _unconditional(self) -> dict[str, np.ndarray]:
        """Keys and values of the empty conditioning: zeros in place of E."""
        config = self.config
        return self._run("conditioning", features=np.zeros((1, config.positions, 2 * config.feature_width), np.float32))

    @cached_property
    def _decoder(self) -> Decoder | None:
        """What decodes on a device with memory of its own, where the backend has one."""
        return self.backend.open_decoder(self.bundle) if isinstance(self.backend, ResidentBackend) else None

    def _codebook(self, name: str) -> np.ndarray:
        """The codebook `name` ("acoustic", "semantic-32768", ...), float32 [entries, D], mapped from its file."""
        if name not in self._arrays:
            self._arrays[name] = self.bundle.load_codebook(name)
        return self._arrays[name]

    def _search(self, name: str) -> Search:
        if name not in self._searches:
            if isinstance(self.backend, ResidentBackend):
                self._searches[name] = self.backend.open_search(self._codebook(name))
            else:
                self._searches[name] = NearestCentroid(self._codebook(name))
        return self._searches[name]

    def _codebooks(self, config: SemantiCodecConfig) -> Codebooks:
        return Codebooks(self._codebook(f"semantic-{config.vocab}"), self._codebook("acoustic"))


def load_tokens(path: Path, config: SemantiCodecConfig) -> Tokens:
    """Tokens of a file: an .sct says what it is, an .npy is taken to be of `config`."""
    return Tokens.load(path, config if path.suffix.lower() == ".npy" else None)


def report_calls(predict: Predict, progress: Progress, done: Iterator[int], units: int) -> Predict:
    """`predict`, telling `progress` the next of `done` after each call."""

    def reporting(latent: np.ndarray, step: int) -> np.ndarray:
        v = predict(latent, step)
        progress(next(done), units)
        return v

    return reporting


def check_batch(batch: int) -> None:
    if batch < 1:
        raise SettingsError(f"batch {batch}", "at least 1 window")


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
