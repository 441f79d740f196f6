"""Sound to tokens and back, with the codec that a bundle holds.

Axis letters, here and everywhere: B windows run together, T positions of a whole recording, C codebooks (columns of
codes), D feature width, n samples at the codec's rate.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .audio import Audio, AudioSource, check_seconds
from .backends.base import Backend
from .backends.select import choose_backend
from .bundle.locate import locate_bundle
from .bundle.store import Bundle
from .config import CodecConfig
from .encoding import EncodeProgress, encode_recordings
from .errors import AudioError, BackendError, SettingsError, TokensError, check_whole
from .loaded import LoadedBundle
from .model import Model, WindowPlan
from .networks import Networks
from .registry import find_model
from .spec import DecodeOptions, EncodeOptions, Progress, change_options, check_options
from .tokens import Tokens

TokensSource = Tokens | str | os.PathLike[str] | np.ndarray | Mapping[str, Any]


class Codec:
    """One bundle on one backend. Graphs and codebooks are loaded when they are first needed.

    `Codec.load("tps50-v32768")`, then `encode`, `decode`, `decode_stream`, `embed`.

    Threads: any number of threads may call any of these methods at once, on every backend. The results are those of one
    thread. An iterator that `encode_many` or `decode_stream` returned belongs to one thread at a time. It may be
    abandoned half-way. On a CPU the threads share its cores, so a pool of threads gains only the time that reading,
    resampling and searching leave idle. On a GPU runs of a graph, searches and groups of windows take turns.

    Processes: a codec can be pickled. It is then loaded again, by the other process, from the bundle's folder and with
    the settings of the backend. Choose "spawn" as the start method: after a fork the libraries' threads are missing.
    """

    def __init__(self, bundle: Bundle, backend: Backend, model: Callable[[Networks], Model] | None = None) -> None:
        """`model` makes the model from the networks; None makes the bundle's own codec."""
        self.bundle, self.backend = bundle, backend
        self.networks = LoadedBundle(bundle, backend)
        self.model = (model or find_model(bundle.manifest.codec))(self.networks)

    def __reduce__(self) -> tuple[type[Codec], tuple[Bundle, Backend]]:
        return type(self), (self.bundle, self.backend)

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | None = None,
        *,
        backend: str = "auto",
        threads: int | None = None,
        precision: str = "auto",
    ) -> Codec:
        """Open a bundle.

        Arguments:
            bundle: a folder, or the name of a built bundle. None uses $SC_RUNTIME_BUNDLE, else the newest built bundle
                of trained weights, else the embedded model.
            backend: "auto", "openvino", "onnxruntime", "onnxruntime-cuda" or "tensorrt".
            threads: number of CPU threads. None uses all.
            precision: "auto" computes tokens in float32 and sound in the fastest type. "float32" and "bfloat16" hold
                for both, except for graphs that the bundle stores in int8.

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
        sample_rate: float | None = None,
        *,
        vocab: int | None = None,
        domain: str | None = None,
        batch: int | None = None,
        allow_truncated: bool = False,
        max_seconds: float | None = None,
        progress: Progress | None = None,
    ) -> Tokens:
        """Sound to tokens. Memory does not grow with the recording.

        Arguments:
            audio: a path, the bytes of a file, a binary stream, or an array [n] or [n, channels] of int16, int32 or
                floats. Full scale of floats is 1. A tensor of another library in the CPU's memory counts as an array.
            sample_rate: in Hz. For an array, None means the codec's rate. For a file, it must equal the rate that the
                file states.
            vocab: entries of the semantic codebook, one of those that the bundle holds. None is its default.
            domain: "speech", "music" or "sound", for codecs that have this option.
            batch: number of windows that run together, at least 1. It changes speed and memory, not tokens. None
                uses what suits the backend.
            allow_truncated: whether a file that was cut short is encoded as far as it goes, with an AudioWarning.
            max_seconds: the longest recording that is encoded; a longer one is an AudioError. None is no limit. A file
                of a few megabytes may hold hours of silence.
            progress: called with (windows done, windows in all).

        Raises AudioError for sound that cannot be read, SettingsError for an option that cannot work.
        """

        def report(number: int, done: int, windows: int) -> None:
            if progress:
                progress(done, windows)

        found = self.encode_many(
            [audio],
            sample_rate,
            vocab=vocab,
            domain=domain,
            batch=batch,
            allow_truncated=allow_truncated,
            max_seconds=max_seconds,
            progress=report,
        )
        tokens = next(found)
        if isinstance(tokens, AudioError):
            raise tokens
        return tokens

    def encode_many(
        self,
        audios: Iterable[AudioSource],
        sample_rate: float | None = None,
        *,
        vocab: int | None = None,
        domain: str | None = None,
        batch: int | None = None,
        allow_truncated: bool = False,
        max_seconds: float | None = None,
        progress: EncodeProgress | None = None,
    ) -> Iterator[Tokens | AudioError]:
        """The tokens of each of `audios`, in order. They equal those of `encode`.

        It is faster than `encode` in a loop, because windows of several recordings run together. A recording that
        cannot be encoded gives its AudioError in its place; the others go on. `audios` is read at most `batch` windows
        ahead of what is returned. `progress` is called with (number of the recording, its windows done, its windows in
        all). The other arguments are those of `encode`. Raises SettingsError.
        """
        together = self.choose_batch(batch)
        check_seconds(max_seconds)
        options, mono = EncodeOptions(domain), self.model.spec.mono
        config = self.check_encoding(vocab, options)
        opening = partial(
            Audio, rate=config.sample_rate, mono=mono, allow_truncated=allow_truncated, max_seconds=max_seconds
        )
        openings = (partial(self.open_plan, partial(opening, audio, sample_rate), config) for audio in audios)
        encoded = encode_recordings(self.model, openings, config, options, together, progress)
        return (found if isinstance(found, AudioError) else Tokens(found[0], config, found[1]) for found in encoded)

    def check_encoding(self, vocab: int | None, options: EncodeOptions) -> CodecConfig:
        """The settings that the tokens of these options have. Raises SettingsError."""
        config = self.bundle.choose_config(vocab)
        check_options(options, self.model.spec)
        self.model.check_encode_options(options, config)
        return config

    def choose_batch(self, batch: int | None = None) -> int:
        """The number of windows that are encoded together. Raises SettingsError."""
        check_batch(batch)
        return (batch or self.backend.encode_batch) if self.model.spec.batches else 1

    @contextmanager
    def open_plan(self, opening: Callable[[], Audio], config: CodecConfig) -> Iterator[WindowPlan]:
        """Yield the windows of the recording that `opening` opens. It is closed after the block. Raises AudioError."""
        with opening() as recording:
            yield self.model.plan_windows(recording, config)

    def decode(
        self,
        tokens: TokensSource,
        options: DecodeOptions | None = None,
        *,
        vocab: int | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
        **changes: Any,
    ) -> np.ndarray:
        """Tokens to sound, float32 [n] at `sample_rate` Hz: the original's length where the tokens state it.

        It joins the pieces of `decode_stream`. The arguments and errors are the same.
        """
        stream = self.decode_stream(tokens, options, vocab=vocab, batch=batch, progress=progress, **changes)
        return np.concatenate(list(stream))

    def decode_stream(
        self,
        tokens: TokensSource,
        options: DecodeOptions | None = None,
        *,
        vocab: int | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
        **changes: Any,
    ) -> Iterator[np.ndarray]:
        """Tokens to sound, as it is made: pieces float32 [n] at `sample_rate` Hz.

        Arguments:
            tokens: Tokens, the path of their file, an array of integers [T, C] or [1, T, C], or a row of a collection:
                a mapping with `codes`, of T × C integers, and `samples`.
            options: see `DecodeOptions`. None leaves every choice to the codec.
            vocab: entries of the semantic codebook that an array, a row or an .npy file was made with. None is the
                bundle's default. Tokens and .sct files state theirs.
            batch: number of windows that run together, at least 1. None uses what suits the backend.
            progress: called with (units of work done, units in all).
            changes: fields of `DecodeOptions` that replace those of `options`: `steps=8, seed=1`.

        Raises TokensError, SettingsError and BundleError when it is called, before anything is computed; BackendError
        from the iterator for a run that fails or gives values that are not finite.
        """
        check_batch(batch)
        tokens = self._take_tokens(tokens, vocab)
        config = tokens.config
        chosen = change_options(options, changes)
        self.resolve_options(chosen)
        samples = tokens.samples or config.count_samples(len(tokens))
        return require_finite(self.model.decode(tokens.codes, config, samples, chosen, batch, progress))

    def resolve_options(self, options: DecodeOptions) -> dict[str, object]:
        """Every setting of decoding with `options`, by name. Raises SettingsError."""
        check_options(options, self.model.spec)
        return self.model.resolve_options(options)

    def count_windows(self, tokens: Tokens) -> int:
        """The number of windows that `tokens` are decoded in. Raises TokensError for tokens of another bundle."""
        config = self._take_tokens(tokens, None).config
        return self.model.count_windows(len(tokens), config)

    def embed(self, tokens: TokensSource, *, vocab: int | None = None) -> np.ndarray:
        """The quantised features, float32 [T, D], for models on top. For SemantiCodec E = [Es, Ea] (eq. 5), [T, 2D].

        `tokens` and `vocab` are those of `decode_stream`. Raises TokensError, BundleError.
        """
        tokens = self._take_tokens(tokens, vocab)
        return self.model.embed(tokens.codes, tokens.config)

    def _take_tokens(self, tokens: TokensSource, vocab: int | None) -> Tokens:
        """`tokens` as Tokens of this bundle. Raises TokensError if their settings differ from the bundle's."""
        if isinstance(tokens, (str, os.PathLike)):
            tokens = load_tokens(Path(tokens), self.bundle.choose_config(vocab))
        elif isinstance(tokens, Mapping):
            tokens = Tokens.from_row(tokens, self.bundle.choose_config(vocab))
        elif not isinstance(tokens, Tokens):
            tokens = Tokens.from_array(tokens, self.bundle.choose_config(vocab))
        if vocab is not None and tokens.config.vocab != vocab:
            given = f"vocab {vocab} for tokens that state the vocabulary {tokens.config.vocab}"
            raise TokensError(given, "the same", "leave vocab out: it is for arrays and .npy files")
        if tokens.config.vocab in self.bundle.manifest.vocabularies:
            return tokens.require(self.bundle.choose_config(tokens.config.vocab))
        return tokens.require(self.config)  # raises a TokensError that names both vocabularies


def require_finite(pieces: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """`pieces` of sound, as they come. Raises BackendError at the first value that is not finite."""
    for piece in pieces:
        if not np.isfinite(piece).all():
            raise BackendError(
                "decoded samples that are not finite", "finite samples", "try another backend (--backend)"
            )
        yield piece


def load_tokens(path: Path, config: CodecConfig) -> Tokens:
    """Tokens of a file. An .sct file states its settings; an .npy file is read with those of `config`."""
    return Tokens.load(path, config if path.suffix.lower() == ".npy" else None)


def check_batch(batch: int | None) -> None:
    expected = "a whole number of windows, at least 1"
    if batch is not None and check_whole("batch", batch, expected) < 1:
        raise SettingsError(f"batch {batch}", expected)
