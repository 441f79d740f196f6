"""The picture of the demo: two spectrograms, and the tokens under them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sc_runtime.errors import MissingExtraError
from sc_runtime.files import replacing
from sc_runtime.tokens import Tokens

FFT_SIZE, HOP = 512, 160  #: samples: the windows of the spectrograms, and the distance from one to the next
DECIBELS = 75  #: from the brightest colour to the darkest


def draw_demo(original: np.ndarray, decoded: np.ndarray, tokens: Tokens, title: str, path: Path) -> None:
    """Write a PNG: spectrograms of `original` and `decoded` (float32 [n]) side by side, tokens underneath.

    The colours of both are relative to the loudest moment of the original. Raises MissingExtraError without matplotlib,
    OutputError.
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
