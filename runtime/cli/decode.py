"""`sc-runtime decode`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sc_runtime.spec import DecodeOptions

from .console import Console, ShowProgress, show_windows
from .options import BackendName, BundleName, Force, Json, Precision, Threads, spread_options

if TYPE_CHECKING:
    from .jobs import Facts, Job


@spread_options()
def decode(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="TOKENS", help=".sct or .npy files, folders of them, or - for standard input."),
    ],
    *,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="A .wav, .flac or .ogg file, a folder, or - for standard output; by default IN.decoded.wav.",
        ),
    ] = None,
    options: DecodeOptions,
    vocab: Annotated[
        int | None, typer.Option(help="The vocabulary of .npy files, which do not state it.", show_default=False)
    ] = None,
    bundle: BundleName = None,
    backend: BackendName = "auto",
    threads: Threads = None,
    precision: Precision = "auto",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Turn tokens into sound.

    Outputs that exist are kept, so that an interrupted run over a collection goes on where it stopped. A file that
    cannot be decoded is reported, the others are decoded, and the exit code is 1.
    """
    from sc_runtime.audio import OUTPUT_FORMATS
    from sc_runtime.audio.folders import DECODED

    from .describe import describe_tokens
    from .jobs import run_jobs
    from .loading import describe_codec, load_codec
    from .planning import peek_config, plan_jobs, scan_tokens

    plan = plan_jobs(inputs, output, scan_tokens, OUTPUT_FORMATS, DECODED)
    with Console(as_json) as console:
        config = None if bundle else peek_config(plan.jobs)
        codec = load_codec(console, bundle, backend, threads, precision, config)
        config = codec.bundle.choose_config(vocab)

        def work(job: Job, progress: ShowProgress | None) -> Facts:
            tokens = job.read_tokens(config)
            shown = show_windows(progress, codec.count_windows(tokens))
            job.write_audio(codec.decode_stream(tokens, options, progress=shown), codec.sample_rate)
            return describe_tokens(tokens)

        document = describe_codec(codec) | codec.resolve_options(options)
        run_jobs(console, plan, lambda jobs: work, force, document)
