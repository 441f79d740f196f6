"""The first minute: a sample through the whole codec, and a picture of what it kept."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from ..audio import Audio, save_audio
from ..codec import Codec
from ..errors import MissingExtraError, OutputError
from ..files import replacing
from ..semanticodec.config import PATCH_ROWS, SAMPLE_RATE
from ..semanticodec.windows import split_windows
from ..tokens import Tokens
from .report import Report

SAMPLE = Path(__file__).with_name("demo.flac")  #: six seconds of speech, six of music, held out of training
SHOWN = 12  #: positions whose tokens are printed

FFT_SIZE, HOP = 512, 160  #: of the spectrograms that are drawn
DECIBELS = 75  #: from the brightest colour to the darkest


def run_demo(report: Report, codec: Codec, folder: Path, preset: str, seed: int) -> None:
    """Encode the sample, decode its tokens, and leave all of it in `folder`. Raises CodecError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror}", "a folder that can be made") from error
    with Audio(SAMPLE) as audio:
        original = np.concatenate(list(audio.blocks()))
    started = time.perf_counter()
    tokens = codec.encode(original)
    encoded = time.perf_counter()
    codes = " ".join(f"({semantic} {acoustic})" for semantic, acoustic in tokens.codes[:SHOWN].tolist())
    size = f"{2 * len(tokens)} tokens, {tokens.bitrate / 1000:.2f} kbps"
    report.result(f"{tokens.seconds:.2f} s of speech and music: {size}")
    report.result(f"(semantic acoustic): {codes} ...")
    with report.follow(SAMPLE.name, 0, 1) as show:
        windows = len(split_windows(len(tokens), tokens.config))
        progress = (lambda units, total: show(units, total, windows)) if show else None
        decoded = codec.decode(tokens, preset=preset, seed=seed, progress=progress)
    finished = time.perf_counter()
    spent = f"encoded in {encoded - started:.1f} s, decoded in {finished - encoded:.1f} s"
    report.result(f"{spent} on {codec.backend.device}")
    tokens.save(folder / "tokens.sct")
    for name, samples in (("original.wav", original), ("decoded.wav", decoded)):
        save_audio(folder / name, samples)
    written = ["original.wav", "tokens.sct", "decoded.wav"]
    title = f"Bundle {codec.bundle.name}: {tokens.seconds:.1f} s of speech and music in {size}"
    try:
        draw_demo(original, decoded, tokens, title, folder / "demo.png")
        written.append("demo.png")
    except MissingExtraError as error:
        report.note(f"no picture: {error}")
    report.result("written: " + ", ".join(str(folder / name) for name in written))


def draw_demo(original: np.ndarray, decoded: np.ndarray, tokens: Tokens, title: str, path: Path) -> None:
    """Write a PNG: spectrograms of `original` and `decoded` (float32 [n], 16 kHz) side by side, tokens underneath.

    Both have the colours of the original's loudest moment. Raises MissingExtraError without matplotlib, OutputError.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("matplotlib is not installed", "the extra `cpu`", "pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        2, 2, figsize=(13, 6.4), height_ratios=(3, 1), sharex="col", layout="constrained", squeeze=False
    )
    pictures = [spectrogram(original), spectrogram(decoded)]
    loudest = max(float(pictures[0].max()), -100.0)
    for axes, picture, name in zip(panels[0], pictures, ("original", "decoded from the tokens"), strict=True):
        axes.imshow(
            picture,
            origin="lower",
            aspect="auto",
            extent=(0, picture.shape[1] * HOP / SAMPLE_RATE, 0, SAMPLE_RATE / 2000),
            vmin=loudest - DECIBELS,
            vmax=loudest,
            cmap="magma",
            interpolation="nearest",
        )
        axes.set_title(name)
        axes.set_ylabel("kHz")
    columns = tokens.config.positions // PATCH_ROWS or 1  # positions of one moment, one above the other in frequency
    for axes, kind, column, size in zip(
        panels[1], ("semantic", "acoustic"), (0, 1), (tokens.config.vocab, tokens.config.acoustic_vocab), strict=True
    ):
        codes = tokens.codes[:, column]
        seconds = np.arange(len(codes)) * tokens.seconds / max(len(codes), 1)
        axes.scatter(seconds, codes, s=3, c=np.arange(len(codes)) % columns, cmap="viridis", linewidths=0)
        axes.set_ylim(0, size)
        axes.set_ylabel(f"{kind} token")
        axes.set_xlabel("seconds")
    figure.suptitle(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    pyplot.close(figure)


def spectrogram(samples: np.ndarray) -> np.ndarray:
    """float32 [n] -> magnitudes in dB, float32 [257, frames], by a Hann window of 32 ms every 10 ms."""
    padded = np.pad(samples, (0, max(FFT_SIZE - len(samples), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT_SIZE)[::HOP]
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(FFT_SIZE).astype(np.float32), axis=1)).T
    return (20 * np.log10(np.maximum(spectrum, 1e-6))).astype(np.float32)
