"""Sound to tokens and back, by whichever codec a bundle holds.

Axis letters, here and everywhere: B windows run together, T positions of a whole recording, C codebooks (columns of
codes), D feature width, n samples at the codec's rate.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .audio import Audio
from .backends.base import Backend
from .backends.select import choose_backend
from .bundle import Bundle, locate_bundle
from .codecs import DecodeOptions, EncodeOptions, Noise, Progress, refuse_others
from .config import CodecConfig
from .encoding import Report, encode_recordings
from .errors import AudioError, SettingsError
from .parts import Parts
from .tokens import Tokens

AudioSource = str | os.PathLike[str] | bytes | BinaryIO | np.ndarray
TokensSource = Tokens | str | os.PathLike[str] | np.ndarray


class Codec:
    """One bundle on one backend. Graphs and codebooks are loaded when first needed.

    `Codec.load("tps50-v32768")`, then `encode`, `decode`, `decode_stream`, `embed`.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle, self.backend = bundle, backend
        self.parts = Parts(bundle, backend)
        self.model = bundle.manifest.model(self.parts)

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
        `precision` "auto" (float32 for tokens, what is fastest for sound), "float32" or "bfloat16" for both, but
        for what the bundle itself holds in int8.
        Raises BundleError, SettingsError, MissingExtraError, BackendError.
        """
        loaded = Bundle.load(locate_bundle(None if bundle is None else os.fspath(bundle)))
        return cls(loaded, choose_backend(backend, threads, precision, loaded))

    @property
    def config(self) -> CodecConfig:
        """The codec's settings, with the default vocabulary."""
        return self.bundle.choose_config()

    @property
    def sample_rate(self) -> int:
        """Hz of decoded audio."""
        return self.config.sample_rate

    def encode(
        self,
        audio: AudioSource,
        sample_rate: int | None = None,
        *,
        vocab: int | None = None,
        domain: str | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> Tokens:
        """Sound to tokens.

        `audio`: a file's path, bytes or stream, or an array [n] or [n, channels] at `sample_rate` Hz, by default the
        codec's. `vocab`: a vocabulary of the bundle. `domain`: an option that not every codec has. `batch` windows run
        together, by default as many as the backend gains by; it changes speed and memory, not tokens. Memory does not
        grow with the recording. Raises AudioError, SettingsError.
        """

        def report(number: int, done: int, windows: int) -> None:
            if progress:
                progress(done, windows)

        found = self.encode_many([audio], sample_rate, vocab=vocab, domain=domain, batch=batch, progress=report)
        tokens = next(found)
        if isinstance(tokens, AudioError):
            raise tokens
        return tokens

    def encode_many(
        self,
        audios: Iterable[AudioSource],
        sample_rate: int | None = None,
        *,
        vocab: int | None = None,
        domain: str | None = None,
        batch: int | None = None,
        progress: Report | None = None,
    ) -> Iterator[Tokens | AudioError]:
        """The tokens of each of `audios`, in order: those of `encode`, with windows of several recordings together.

        One that cannot be encoded gives its AudioError instead, and the others go on. `audios` are taken one by one as
        their windows come due, at most `batch` windows ahead of what is returned. `progress` hears (number of the
        recording, its windows that are done, all it has). Other arguments as of `encode`. Raises SettingsError.
        """
        check_batch(batch)
        config = self.bundle.choose_config(vocab)
        options = EncodeOptions(domain)
        refuse_others(options, self.model.encode_options, config.codec)
        self.model.check(config, options)
        rate, mono = config.sample_rate, self.model.mono
        openings = (partial(Audio, audio, sample_rate, rate=rate, mono=mono) for audio in audios)
        together = (batch or self.backend.encode_batch) if self.model.batches else 1
        encoded = encode_recordings(self.model, openings, config, options, together, progress)
        return (found if isinstance(found, AudioError) else Tokens(found[0], config, found[1]) for found in encoded)

    def decode(
        self,
        tokens: TokensSource,
        *,
        preset: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        eta: float | None = None,
        solver: str | None = None,
        interval: tuple[int, int] | None = None,
        seed: int | None = None,
        noise: Noise | None = None,
        vocab: int | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Tokens to sound, float32 [n] at `sample_rate` Hz: the original's length where the tokens know it.

        See `decode_stream`, of which this is the whole.
        """
        pieces = self.decode_stream(
            tokens,
            preset=preset,
            steps=steps,
            guidance=guidance,
            eta=eta,
            solver=solver,
            interval=interval,
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
        preset: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        eta: float | None = None,
        solver: str | None = None,
        interval: tuple[int, int] | None = None,
        seed: int | None = None,
        noise: Noise | None = None,
        vocab: int | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> Iterator[np.ndarray]:
        """Tokens to sound, as it is made: pieces float32 [n] that `decode` would join.

        `tokens`: Tokens, their file, or codes [T, C] or [1, T, C], then in vocabulary `vocab`. The options from
        `preset` to `noise` are SemantiCodec's; a codec without diffusion refuses them. `preset` of
        `semanticodec.presets`, by default "reference", the published 50 steps of DDIM with guidance 2 and eta 1;
        `steps`, `guidance`, `eta`, `solver` and `interval` change it (see `Sampling`). Noise is a function of (`seed`,
        by default 0, window, draw), or `noise(window, draw)` -> standard normal float32 [8, 256, 16], where draw 0 is
        x_T and draw 1 + i the noise of step i. `batch` windows run together, by default as many as the backend gains
        by. Raises TokensError, SettingsError and BundleError before anything is computed.
        """
        check_batch(batch)
        tokens = self._take_tokens(tokens, vocab)
        config = tokens.config
        options = DecodeOptions(preset, steps, guidance, eta, solver, interval, seed, noise)
        self.settle(options)
        samples = tokens.samples or config.count_samples(len(tokens))
        return self.model.decode(tokens.codes, config, samples, options, batch, progress)

    def settle(self, options: DecodeOptions) -> dict[str, object]:
        """All settings that decoding with `options` will have. Raises SettingsError."""
        refuse_others(options, self.model.decode_options, self.config.codec)
        return self.model.settle(options)

    def count_windows(self, tokens: Tokens) -> int:
        """Windows that `tokens` are decoded in. Raises TokensError where they are of another codec or bundle."""
        config = self._take_tokens(tokens, None).config
        return self.model.count_windows(len(tokens), config)

    def embed(self, tokens: TokensSource, *, vocab: int | None = None) -> np.ndarray:
        """The quantised features, float32 [T, D], for models on top: of SemantiCodec E = [Es, Ea] (eq. 5), [T, 2D]."""
        tokens = self._take_tokens(tokens, vocab)
        return self.model.embed(tokens.codes, tokens.config)

    def _take_tokens(self, tokens: TokensSource, vocab: int | None) -> Tokens:
        """`tokens` as Tokens of this bundle. Raises TokensError where they are of other settings than the bundle's."""
        if isinstance(tokens, (str, os.PathLike)):
            tokens = load_tokens(Path(tokens), self.bundle.choose_config(vocab))
        elif not isinstance(tokens, Tokens):
            tokens = Tokens.from_array(tokens, self.bundle.choose_config(vocab))
        if tokens.config.vocab in self.bundle.manifest.vocabularies:
            return tokens.require(self.bundle.choose_config(tokens.config.vocab))
        return tokens.require(self.config)  # raises, naming both


def load_tokens(path: Path, config: CodecConfig) -> Tokens:
    """Tokens of a file: an .sct says what it is, an .npy is taken to be of `config`."""
    return Tokens.load(path, config if path.suffix.lower() == ".npy" else None)


def check_batch(batch: int | None) -> None:
    if batch is not None and batch < 1:
        raise SettingsError(f"batch {batch}", "at least 1 window")
