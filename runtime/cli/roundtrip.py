"""`sc-runtime roundtrip`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from sc_runtime.spec import DecodeOptions, EncodeOptions

from .console import Console, ShowProgress, show_windows
from .options import (
    AllowTruncated,
    BackendName,
    BundleName,
    Force,
    Json,
    Precision,
    Threads,
    Vocabulary,
    spread_options,
)
from .program import muted_libraries

if TYPE_CHECKING:
    from .jobs import Facts, Job


@spread_options()
def roundtrip(
    source: Annotated[str, typer.Argument(metavar="IN", help="An audio file, or - for standard input.")],
    *,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="A .wav, .flac or .ogg file, a folder, or - for standard output; by default IN.roundtrip.wav.",
        ),
    ] = None,
    decoding: DecodeOptions,
    vocab: Vocabulary = None,
    encoding: EncodeOptions,
    bundle: BundleName = None,
    backend: BackendName = "auto",
    threads: Threads = None,
    precision: Precision = "auto",
    allow_truncated: AllowTruncated = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Turn sound into tokens and back.

    The output lets you hear what the codec keeps. The time of encoding and of decoding is printed.
    """
    from sc_runtime.audio import OUTPUT_FORMATS
    from sc_runtime.audio.folders import ROUNDTRIP

    from .describe import describe_tokens
    from .jobs import open_input, run_jobs
    from .loading import describe_codec, load_codec, note_rounding
    from .planning import plan_jobs, refuse_folder

    plan = plan_jobs([source], output, refuse_folder, OUTPUT_FORMATS, ROUNDTRIP)
    with Console(as_json) as console:
        codec = load_codec(console, bundle, backend, threads, precision)
        note_rounding(console, codec, precision)

        def work(job: Job, progress: ShowProgress | None) -> Facts:
            started = time.perf_counter()
            with muted_libraries():
                sound = job.source or open_input()
                tokens = codec.encode(
                    sound, vocab=vocab, domain=encoding.domain, allow_truncated=allow_truncated, progress=progress
                )
            encoded = time.perf_counter()
            shown = show_windows(progress, codec.count_windows(tokens))
            job.write_audio(codec.decode_stream(tokens, decoding, progress=shown), codec.sample_rate)
            seconds = {"encode": encoded - started, "decode": time.perf_counter() - encoded}
            return describe_tokens(tokens) | {
                name: {"seconds": spent, "real_time_factor": spent / tokens.seconds} for name, spent in seconds.items()
            }

        document = describe_codec(codec) | codec.resolve_options(decoding)
        (record,) = run_jobs(console, plan, lambda jobs: work, force, document)
        for name in ("encode", "decode"):
            if name in record:
                seconds, factor = record[name]["seconds"], record[name]["real_time_factor"]
                console.result(f"{name} took {seconds:.2f} s with loading, {factor:.3g} of real time")
