"""`sc-runtime decode`."""

from __future__ import annotations

from itertools import starmap
from typing import TYPE_CHECKING, Annotated

import typer

from sc_runtime.errors import TokensError
from sc_runtime.spec import DecodeOptions

from .console import Console, ShowProgress
from .options import BackendName, BundleName, Force, Json, Precision, Threads, spread_options

if TYPE_CHECKING:
    from sc_runtime.codec import Codec
    from sc_runtime.model import DecodePlan
    from sc_runtime.tokens import Tokens

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

    Outputs that exist are kept, so that an interrupted run over a collection goes on where it stopped. If the file
    that -o names exists, that is an error, because it may belong to another recording. A file that cannot be decoded
    is reported, the others are decoded, and the exit code is 1.
    """
    from sc_runtime.audio import OUTPUT_FORMATS
    from sc_runtime.audio.folders import DECODED

    from .jobs import run_jobs
    from .loading import describe_codec, load_codec
    from .planning import peek_config, plan_jobs, scan_tokens

    plan = plan_jobs(inputs, output, scan_tokens, OUTPUT_FORMATS, DECODED)
    with Console(as_json) as console:
        config = None if bundle else peek_config(plan.jobs)
        codec = load_codec(console, bundle, backend, threads, precision, config)
        codec.bundle.choose_config(vocab)  # an unknown vocabulary ends the command here

        def start(jobs: list[Job]) -> DecodingWork:
            return DecodingWork(codec, jobs, vocab, options)

        run_jobs(console, plan, start, force, describe_codec(codec) | codec.resolve_options(options))


class DecodingWork:
    """Decodes `jobs` in their order. On a GPU windows of several jobs run together."""

    def __init__(self, codec: Codec, jobs: list[Job], vocab: int | None, options: DecodeOptions) -> None:
        from sc_runtime.decoding import decode_recordings

        self.codec, self.options = codec, options
        self.config = codec.bundle.choose_config(vocab)
        self.displays: list[ShowProgress | None] = []  #: of each job that was begun
        self.tokens: dict[int, Tokens] = {}  #: of each job that was read and is not done, by its number
        plans = starmap(self.plan, enumerate(jobs))
        self.streams = decode_recordings(codec.model, plans, None, self.show_progress)

    def plan(self, number: int, job: Job) -> DecodePlan | TokensError:
        """What is decoded for job `number`, or why it cannot be."""
        try:
            self.tokens[number] = job.read_tokens(self.config)
            return self.codec.plan_decoding(self.tokens[number], self.options)
        except TokensError as error:
            return error

    def __call__(self, job: Job, progress: ShowProgress | None) -> Facts:
        """Write the sound of the next job, which must be `job`. Returns the description of its tokens."""
        from .describe import describe_tokens

        self.displays.append(progress)
        pieces = next(self.streams)
        if isinstance(pieces, TokensError):
            raise pieces
        job.write_audio(pieces, self.codec.sample_rate)
        return describe_tokens(self.tokens.pop(len(self.displays) - 1))

    def show_progress(self, number: int, done: int, total: int) -> None:
        """Show the units of work of job `number`, if that job was begun."""
        if number < len(self.displays) and (show := self.displays[number]):
            show(done, total, windows=self.codec.count_windows(self.tokens[number]))
