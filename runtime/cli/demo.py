"""`sc-runtime demo`: a recording is encoded and decoded, and a picture shows what the codec kept."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sc_runtime.errors import MissingExtraError, OutputError
from sc_runtime.samples import SPEECH_AND_MUSIC
from sc_runtime.spec import DecodeOptions

from .console import Console, show_windows
from .options import BackendName, BundleName, Threads, spread_options

if TYPE_CHECKING:
    from sc_runtime.codec import Codec
    from sc_runtime.tokens import Tokens

SHOWN = 12  #: positions whose tokens are printed


@spread_options("preset", "seed")
def demo(
    *,
    folder: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="The folder of the files; it is made if missing."),
    ] = Path("demo"),
    options: DecodeOptions,
    bundle: BundleName = None,
    backend: BackendName = "auto",
    threads: Threads = None,
) -> None:
    """Encode and decode a recording, and write its tokens, its sound and a picture of both.

    It needs no download: the recording and a small trained model come with the package.
    """
    from .loading import load_codec

    with Console() as console:
        run_demo(console, load_codec(console, bundle, backend, threads, "auto"), folder, options)


def run_demo(
    console: Console, codec: Codec, folder: Path, options: DecodeOptions, sample: Path = SPEECH_AND_MUSIC
) -> None:
    """Encode `sample`, decode its tokens, and write sound, tokens and picture to `folder`. Raises CodecError."""
    import numpy as np

    from sc_runtime.audio import Audio, save_audio

    from .picture import draw_demo

    codec.resolve_options(options)  # raises before anything is computed
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror}", "a folder that can be made", "name another with -o") from error
    rate = codec.sample_rate
    with Audio(sample, rate=rate) as audio:
        original = np.concatenate(list(audio.blocks()))
    started = time.perf_counter()
    tokens = codec.encode(original)
    encoded = time.perf_counter()
    size = f"{tokens.codes.size} tokens, {tokens.bitrate / 1000:.2f} kbps"
    console.result(f"{tokens.seconds:.2f} s of speech and music: {size}")
    console.result(format_codes(tokens))
    with console.follow(sample.name, 0, 1) as show:
        decoded = codec.decode(tokens, options, progress=show_windows(show, codec.count_windows(tokens)))
    finished = time.perf_counter()
    spent = f"encoded in {encoded - started:.1f} s, decoded in {finished - encoded:.1f} s"
    console.result(f"{spent} on {codec.backend.device}")
    tokens.save(folder / "tokens.sct")
    for name, samples in (("original.wav", original), ("decoded.wav", decoded)):
        save_audio(folder / name, samples, rate)
    written = ["original.wav", "tokens.sct", "decoded.wav"]
    title = f"Bundle {codec.bundle.name}: {tokens.seconds:.1f} s of speech and music in {size}"
    try:
        draw_demo(original, decoded, tokens, title, folder / "demo.png")
        written.append("demo.png")
    except MissingExtraError as error:
        console.note(f"no picture: {error}")
    console.result("written: " + ", ".join(str(folder / name) for name in written))


def format_codes(tokens: Tokens) -> str:
    """The names of the codebooks and the first positions, such as "(semantic acoustic): (12 7) (3 90) ..."."""
    position = "({})" if len(tokens.config.codebook_sizes) > 1 else "{}"
    codes = " ".join(position.format(" ".join(map(str, row))) for row in tokens.codes[:SHOWN].tolist())
    return f"{position.format(' '.join(tokens.config.codebook_sizes))}: {codes} ..."
