"""The first minute: a sample through the whole codec, and a picture of what it kept."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from sc_runtime.audio import Audio, save_audio
from sc_runtime.codec import Codec
from sc_runtime.errors import MissingExtraError, OutputError
from sc_runtime.files import replacing
from sc_runtime.samples import SPEECH_AND_MUSIC
from sc_runtime.spec import DecodeOptions
from sc_runtime.tokens import Tokens

from .report import Report, over_windows

SHOWN = 12  #: positions whose tokens are printed

FFT_SIZE, HOP = 512, 160  #: of the spectrograms that are drawn
DECIBELS = 75  #: from the brightest colour to the darkest


def run_demo(report: Report, codec: Codec, folder: Path, preset: str | None, seed: int | None) -> None:
    """Encode the sample, decode its tokens, and leave all of it in `folder`. Raises CodecError."""
    codec.resolve_options(DecodeOptions(preset=preset, seed=seed))  # raises before anything is computed
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror}", "a folder that can be made") from error
    rate = codec.sample_rate
    with Audio(SPEECH_AND_MUSIC, rate=rate) as audio:
        original = np.concatenate(list(audio.blocks()))
    started = time.perf_counter()
    tokens = codec.encode(original)
    encoded = time.perf_counter()
    position = "({})" if len(tokens.config.codebook_sizes) > 1 else "{}"
    codes = " ".join(position.format(" ".join(map(str, row))) for row in tokens.codes[:SHOWN].tolist())
    size = f"{tokens.codes.size} tokens, {tokens.bitrate / 1000:.2f} kbps"
    report.result(f"{tokens.seconds:.2f} s of speech and music: {size}")
    report.result(f"{position.format(' '.join(tokens.config.codebook_sizes))}: {codes} ...")
    with report.follow(SPEECH_AND_MUSIC.name, 0, 1) as show:
        progress = over_windows(show, codec.count_windows(tokens))
        decoded = codec.decode(tokens, preset=preset, seed=seed, progress=progress)
    finished = time.perf_counter()
    spent = f"encoded in {encoded - started:.1f} s, decoded in {finished - encoded:.1f} s"
    report.result(f"{spent} on {codec.backend.device}")
    tokens.save(folder / "tokens.sct")
    for name, samples in (("original.wav", original), ("decoded.wav", decoded)):
        save_audio(folder / name, samples, rate)
    written = ["original.wav", "tokens.sct", "decoded.wav"]
    title = f"Bundle {codec.bundle.name}: {tokens.seconds:.1f} s of speech and music in {size}"
    try:
        draw_demo(original, decoded, tokens, title, folder / "demo.png")
        written.append("demo.png")
    except MissingExtraError as error:
        report.note(f"no picture: {error}")
    report.result("written: " + ", ".join(str(folder / name) for name in written))


def draw_demo(original: np.ndarray, decoded: np.ndarray, tokens: Tokens, title: str, path: Path) -> None:
    """Write a PNG: spectrograms of `original` and `decoded` (float32 [n]) side by side, tokens underneath.

    Both have the colours of the original's loudest moment. Raises MissingExtraError without matplotlib, OutputError.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("matplotlib is not installed", "the extra `cpu`", "pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rate, books = tokens.config.sample_rate, tokens.config.codebook_sizes
    names = ("original", "decoded from the tokens")
    layout: list[Any] = [[name for name in names for _ in books], [book for book in books for _ in names]]
    figure, panels = pyplot.subplot_mosaic(layout, figsize=(13, 6.4), height_ratios=(3, 1), layout="constrained")
    pictures = [spectrogram(original), spectrogram(decoded)]
    loudest = max(float(pictures[0].max()), -100.0)
    for name, picture in zip(names, pictures, strict=True):
        axes = panels[name]
        axes.imshow(
            picture,
            origin="lower",
            aspect="auto",
            extent=(0, picture.shape[1] * HOP / rate, 0, rate / 2000),
            vmin=loudest - DECIBELS,
            vmax=loudest,
            cmap="magma",
            interpolation="nearest",
        )
        axes.set_title(name)
        axes.set_ylabel("kHz")
    for codes, (book, entries) in zip(tokens.codes.T, books.items(), strict=True):
        axes = panels[book]
        axes.scatter(np.arange(len(codes)) * tokens.seconds / len(codes), codes, s=3, linewidths=0)
        axes.set_xlim(0, tokens.seconds)
        axes.set_ylim(0, entries)
        axes.set_ylabel(f"{book} token")
        axes.set_xlabel("seconds")
    figure.suptitle(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    pyplot.close(figure)


def spectrogram(samples: np.ndarray) -> np.ndarray:
    """float32 [n] -> magnitudes in dB, float32 [257, frames], by a Hann window of 512 samples every 160."""
    padded = np.pad(samples, (0, max(FFT_SIZE - len(samples), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT_SIZE)[::HOP]
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(FFT_SIZE).astype(np.float32), axis=1)).T
    return (20 * np.log10(np.maximum(spectrum, 1e-6))).astype(np.float32)
