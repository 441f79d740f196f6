"""`sc-runtime encode`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sc_runtime.errors import AudioError
from sc_runtime.spec import EncodeOptions

from .console import Console, ShowProgress
from .options import (
    AllowTruncated,
    BackendName,
    BundleName,
    Force,
    Json,
    MaxSeconds,
    Precision,
    Threads,
    Vocabulary,
    spread_options,
)
from .program import muted_libraries

if TYPE_CHECKING:
    from sc_runtime.codec import Codec

    from .jobs import Facts, Job


@spread_options()
def encode(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="IN", help="Audio files, folders of them, or - for standard input."),
    ],
    *,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="A .sct or .npy file, a folder, or - for standard output; by default .sct beside each input.",
        ),
    ] = None,
    vocab: Vocabulary = None,
    options: EncodeOptions,
    bundle: BundleName = None,
    backend: BackendName = "auto",
    threads: Threads = None,
    precision: Precision = "auto",
    allow_truncated: AllowTruncated = False,
    max_seconds: MaxSeconds = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Turn sound into tokens.

    Outputs that exist are kept, so that an interrupted run over a collection goes on where it stopped. If the file
    that -o names exists, that is an error, because it may belong to another recording. A file that cannot be encoded
    is reported, the others are encoded, and the exit code is 1.
    """
    from sc_runtime.audio.folders import scan_audio

    from .jobs import run_jobs
    from .loading import describe_codec, load_codec, note_rounding
    from .planning import TOKEN_SUFFIXES, plan_jobs

    plan = plan_jobs(inputs, output, scan_audio, TOKEN_SUFFIXES)
    with Console(as_json) as console:
        codec = load_codec(console, bundle, backend, threads, precision)
        codec.bundle.choose_config(vocab)  # an unknown vocabulary ends the command here
        note_rounding(console, codec, precision)

        def start(jobs: list[Job]) -> EncodingWork:
            return EncodingWork(codec, jobs, vocab, options, allow_truncated, max_seconds)

        run_jobs(console, plan, start, force, describe_codec(codec))


class EncodingWork:
    """Encodes `jobs` in their order. Windows of several jobs run together."""

    def __init__(
        self,
        codec: Codec,
        jobs: list[Job],
        vocab: int | None,
        options: EncodeOptions,
        allow_truncated: bool,
        max_seconds: float | None,
    ) -> None:
        from .jobs import open_input

        self.displays: list[ShowProgress | None] = []  #: of each job that was begun
        self.results = codec.encode_many(
            (job.source or open_input() for job in jobs),
            vocab=vocab,
            domain=options.domain,
            allow_truncated=allow_truncated,
            max_seconds=max_seconds,
            progress=self.show_progress,
        )

    def __call__(self, job: Job, progress: ShowProgress | None) -> Facts:
        """Write the tokens of the next job, which must be `job`. Returns their description."""
        from .describe import describe_tokens

        self.displays.append(progress)
        with muted_libraries():
            tokens = next(self.results)
        if isinstance(tokens, AudioError):
            raise tokens
        job.write_tokens(tokens)
        return describe_tokens(tokens)

    def show_progress(self, number: int, windows: int, total: int) -> None:
        """Show that `windows` of the `total` windows of job `number` are encoded, if that job was begun."""
        if number < len(self.displays) and (show := self.displays[number]):
            show(windows, total)
