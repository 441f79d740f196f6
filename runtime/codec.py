"""Sound to tokens and back, with the codec that a bundle holds.

Axis letters, here and everywhere: B windows run together, T positions of a whole recording, C codebooks (columns of
codes), D feature width, n samples at the codec's rate.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np

from .audio import Audio, AudioSource, check_seconds
from .backends.base import Backend
from .backends.select import choose_backend
from .bundle.locate import locate_bundle
from .bundle.store import Bundle
from .config import CodecConfig
from .decoding import DecodeProgress, decode_recording, decode_recordings
from .encoding import EncodeProgress, encode_recordings
from .errors import AudioError, TokensError
from .loaded import LoadedBundle
from .model import DecodePlan, Model, WindowPlan
from .networks import Networks
from .registry import find_model
from .spec import DecodeOptions, EncodeOptions, Progress, change_options, check_batch, check_options
from .token_sources import TokensSource, take_tokens
from .tokens import Tokens


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

        Raises AudioError for sound that cannot be read, SettingsError for an option, BackendError for a failed run.
        """

        def report(number: int, done: int, windows: int) -> None:
            if progress:
                progress(done, windows)

        many = partial(self.encode_many, allow_truncated=allow_truncated, max_seconds=max_seconds)
        tokens = next(many([audio], sample_rate, vocab=vocab, domain=domain, batch=batch, progress=report))
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
        plan = self.plan_decoding(tokens, change_options(options, changes), vocab)
        return decode_recording(self.model, plan, batch, progress).pieces

    def decode_many(
        self,
        recordings: Iterable[TokensSource],
        options: DecodeOptions | Iterable[DecodeOptions] | None = None,
        *,
        vocab: int | None = None,
        batch: int | None = None,
        progress: DecodeProgress | None = None,
        **changes: Any,
    ) -> Iterator[np.ndarray | TokensError]:
        """The sound of each of `recordings`, in order, float32 [n].

        It joins the pieces of `decode_many_streams`. The arguments and errors are the same.
        """
        streams = self.decode_many_streams(recordings, options, vocab=vocab, batch=batch, progress=progress, **changes)
        return (found if isinstance(found, TokensError) else np.concatenate(list(found)) for found in streams)

    def decode_many_streams(
        self,
        recordings: Iterable[TokensSource],
        options: DecodeOptions | Iterable[DecodeOptions] | None = None,
        *,
        vocab: int | None = None,
        batch: int | None = None,
        progress: DecodeProgress | None = None,
        **changes: Any,
    ) -> Iterator[Iterator[np.ndarray] | TokensError]:
        """The pieces of each of `recordings`, in order. Take those of one before you ask for the next.

        On a GPU windows of several recordings run together, if their options are equal but for seed and noise. The
        sound of each is that of `decode`, up to rounding. On a CPU a group does not pay: the recordings are decoded one
        after the other, and the sound is that of `decode`, sample for sample.

        Tokens that cannot be decoded give their TokensError in their place; the others go on. `options` are those of
        all recordings, or of each in turn. `progress` is called with (number of the recording, its units of work done,
        its units in all). The rest is as in `decode_stream`.
        """
        check_batch(batch)
        if options is None or isinstance(options, DecodeOptions):
            self.resolve_options(change_options(options, changes))
            options = repeat(options or DecodeOptions())

        def plan(recording: TokensSource, chosen: DecodeOptions) -> DecodePlan | TokensError:
            try:
                return self.plan_decoding(recording, change_options(chosen, changes), vocab)
            except TokensError as error:
                return error

        return decode_recordings(self.model, map(plan, recordings, options), batch, progress)

    def plan_decoding(self, tokens: TokensSource, options: DecodeOptions, vocab: int | None = None) -> DecodePlan:
        """The windows that `decode_stream` decodes. Raises TokensError, SettingsError and BundleError."""
        found = take_tokens(tokens, self.bundle, vocab)
        self.resolve_options(options)
        samples = found.samples or found.config.count_samples(len(found))
        return self.model.plan_decoding(found.codes, found.config, samples, options)

    def resolve_options(self, options: DecodeOptions) -> dict[str, object]:
        """Every setting of decoding with `options`, by name. Raises SettingsError."""
        check_options(options, self.model.spec)
        return self.model.resolve_options(options)

    def count_windows(self, tokens: Tokens) -> int:
        """The number of windows that `tokens` are decoded in. Raises TokensError for tokens of another bundle."""
        return self.model.count_windows(len(tokens), take_tokens(tokens, self.bundle, None).config)

    def embed(self, tokens: TokensSource, *, vocab: int | None = None) -> np.ndarray:
        """The quantised features, float32 [T, D], for models on top. For SemantiCodec E = [Es, Ea] (eq. 5), [T, 2D].

        `tokens` and `vocab` are those of `decode_stream`. Raises TokensError, BundleError.
        """
        found = take_tokens(tokens, self.bundle, vocab)
        return self.model.embed(found.codes, found.config)
