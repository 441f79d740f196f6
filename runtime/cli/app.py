"""The command line: parsing and printing only."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import typer

from sc_runtime.errors import AudioError, CodecError, OutputError, SettingsError, TokensError

from .program import muted_libraries, own_streams, run_app
from .report import Report, ShowProgress, over_windows, tell_description, tell_findings

if TYPE_CHECKING:
    from sc_runtime.codec import Codec
    from sc_runtime.config import CodecConfig

    from .jobs import Job

Work = Callable[["Job", ShowProgress | None], dict[str, Any]]  #: does one job; what there is to say of it

app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})

Domain = Annotated[
    str | None,
    typer.Option(help="What the sound is, for codecs that take it: speech, music or sound.", show_default=False),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="reference (the default, as published: 50 steps, guidance 2, eta 1), balanced (20 steps) or fast (8).",
        show_default=False,
    ),
]
Steps = Annotated[int | None, typer.Option(help="Diffusion steps, instead of the preset's.", show_default=False)]
Guidance = Annotated[
    float | None,
    typer.Option(help="Classifier-free guidance; 1 is none, and halves the work.", show_default=False),
]
Eta = Annotated[
    float | None, typer.Option(help="Fresh noise at each step: 0 (deterministic) to 1.", show_default=False)
]
SolverName = Annotated[
    str | None, typer.Option("--solver", help="ddim, dpm or unipc, instead of the preset's.", show_default=False)
]
Interval = Annotated[
    tuple[int, int] | None,
    typer.Option(
        metavar="LOW HIGH",
        help="Guidance only in these diffusion steps, of 0 to 1000; the others cost half.",
        show_default=False,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(help="Of the noise, by default 0; a seed gives the same sound everywhere.", show_default=False),
]
BundleName = Annotated[
    str | None,
    typer.Option(
        "--bundle",
        metavar="FOLDER|NAME",
        help="The bundle to use; else $SC_RUNTIME_BUNDLE, else the newest built of trained weights, else the embedded.",
    ),
]
BackendName = Annotated[str, typer.Option(help="What runs the networks; `sc-runtime doctor` lists what works.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; all by default.", show_default=False)]
Precision = Annotated[
    str, typer.Option(help="auto (float32 for tokens, what is fastest for sound), float32 or bfloat16 for both.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace outputs that exist, which are kept otherwise.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


class Settings(TypedDict):
    """What decoding takes."""

    preset: str | None
    steps: int | None
    guidance: float | None
    eta: float | None
    solver: str | None
    interval: tuple[int, int] | None
    seed: int | None


def print_version(wanted: bool) -> None:
    if wanted:
        from sc_runtime import __version__

        print(f"sc-runtime {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Semantic audio codecs, SemantiCodec and UniCodec: sound to tokens, and back."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def encode(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="IN", help="Audio files, folders of them, or - for standard input."),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="A .sct or .npy file, a folder, or - for standard output; by default .sct beside each input.",
        ),
    ] = None,
    vocab: Annotated[int | None, typer.Option(help="A vocabulary of the bundle.", show_default=False)] = None,
    domain: Domain = None,
    bundle: BundleName = None,
    backend: BackendName = "auto",
    threads: Threads = None,
    precision: Precision = "auto",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Turn sound into tokens.

    Outputs that exist are kept, so that an interrupted run over a collection goes on where it stopped. A file that
    cannot be encoded is reported, the others are done, and the exit code is 1.
    """
    from sc_runtime.audio import find_audio

    from .describe import describe_tokens
    from .jobs import TOKEN_SUFFIXES, open_input, plan_jobs

    jobs, problems = plan_jobs(inputs, output, find_audio, TOKEN_SUFFIXES)
    with Report(as_json) as report:
        codec = open_codec(report, bundle, backend, threads, precision)
        codec.bundle.choose_config(vocab)
        tell_rounding(report, codec, precision)

        def start(jobs: list[Job]) -> Work:
            shown: dict[int, ShowProgress | None] = {}

            def progress(number: int, windows: int, total: int) -> None:
                if show := shown.get(number):
                    show(windows, total)

            sources = (job.source or open_input() for job in jobs)
            found = codec.encode_many(sources, vocab=vocab, domain=domain, progress=progress)

            def work(job: Job, show: ShowProgress | None) -> dict[str, Any]:
                shown[len(shown)] = show
                with muted_libraries():
                    tokens = next(found)
                if isinstance(tokens, AudioError):
                    raise tokens
                job.write_tokens(tokens)
                return describe_tokens(tokens)

            return work

        run_jobs(report, jobs, problems, start, force, describe_codec(codec))


@app.command()
def decode(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="TOKENS", help=".sct or .npy files, folders of them, or - for standard input."),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="A .wav, .flac or .ogg file, a folder, or - for standard output; by default .wav beside each input.",
        ),
    ] = None,
    preset: Preset = None,
    steps: Steps = None,
    guidance: Guidance = None,
    eta: Eta = None,
    solver: SolverName = None,
    interval: Interval = None,
    seed: Seed = None,
    vocab: Annotated[
        int | None, typer.Option(help="The vocabulary of .npy files, which do not say it.", show_default=False)
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
    cannot be decoded is reported, the others are done, and the exit code is 1.
    """
    from sc_runtime.audio import OUTPUT_FORMATS
    from sc_runtime.spec import DecodeOptions

    from .describe import describe_tokens
    from .jobs import find_tokens, peek_config, plan_jobs

    jobs, problems = plan_jobs(inputs, output, find_tokens, OUTPUT_FORMATS)
    with Report(as_json) as report:
        codec = open_codec(report, bundle, backend, threads, precision, None if bundle else peek_config(jobs))
        codec.bundle.choose_config(vocab)

        settings = Settings(
            preset=preset, steps=steps, guidance=guidance, eta=eta, solver=solver, interval=interval, seed=seed
        )

        def work(job: Job, progress: ShowProgress | None) -> dict[str, Any]:
            tokens = job.read_tokens(codec.bundle.choose_config(vocab))
            shown = over_windows(progress, codec.count_windows(tokens))
            job.write_audio(codec.decode_stream(tokens, **settings, progress=shown), codec.sample_rate)
            return describe_tokens(tokens)

        facts = describe_codec(codec) | codec.resolve_options(DecodeOptions(**settings))
        run_jobs(report, jobs, problems, lambda jobs: work, force, facts)


@app.command()
def roundtrip(
    source: Annotated[str, typer.Argument(metavar="IN", help="An audio file, or - for standard input.")],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="A .wav, .flac or .ogg file, a folder, or - for standard output; by default IN.roundtrip.wav.",
        ),
    ] = None,
    preset: Preset = None,
    steps: Steps = None,
    guidance: Guidance = None,
    eta: Eta = None,
    solver: SolverName = None,
    interval: Interval = None,
    seed: Seed = None,
    vocab: Annotated[int | None, typer.Option(help="A vocabulary of the bundle.", show_default=False)] = None,
    domain: Domain = None,
    bundle: BundleName = None,
    backend: BackendName = "auto",
    threads: Threads = None,
    precision: Precision = "auto",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Turn sound into tokens and back.

    To hear what the codec keeps, and to see how long it takes.
    """
    from sc_runtime.audio import OUTPUT_FORMATS
    from sc_runtime.spec import DecodeOptions

    from .describe import describe_tokens
    from .jobs import find_nothing, open_input, plan_jobs

    jobs, problems = plan_jobs([source], output, find_nothing, OUTPUT_FORMATS, ".roundtrip.wav")
    with Report(as_json) as report:
        codec = open_codec(report, bundle, backend, threads, precision)
        tell_rounding(report, codec, precision)
        settings = Settings(
            preset=preset, steps=steps, guidance=guidance, eta=eta, solver=solver, interval=interval, seed=seed
        )

        def work(job: Job, progress: ShowProgress | None) -> dict[str, Any]:
            started = time.perf_counter()
            with muted_libraries():
                tokens = codec.encode(job.source or open_input(), vocab=vocab, domain=domain, progress=progress)
            encoded = time.perf_counter()
            shown = over_windows(progress, codec.count_windows(tokens))
            job.write_audio(codec.decode_stream(tokens, **settings, progress=shown), codec.sample_rate)
            seconds = {"encode": encoded - started, "decode": time.perf_counter() - encoded}
            return describe_tokens(tokens) | {
                name: {"seconds": spent, "real_time_factor": spent / tokens.seconds} for name, spent in seconds.items()
            }

        facts = describe_codec(codec) | codec.resolve_options(DecodeOptions(**settings))
        records = run_jobs(report, jobs, problems, lambda jobs: work, force, facts)
        for name in ("encode", "decode"):
            if name in records[0]:
                seconds, factor = records[0][name]["seconds"], records[0][name]["real_time_factor"]
                report.result(f"{name} took {seconds:.2f} s with loading, {factor:.3g} of real time")


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the files go; it is made if need be.")
    ] = Path("demo"),
    preset: Preset = None,
    seed: Seed = None,
    bundle: BundleName = None,
    backend: BackendName = "auto",
    threads: Threads = None,
) -> None:
    """Take a sample through the whole codec: its tokens, its sound, and a picture of both.

    Needs no download: the sample and a small trained model come with the package.
    """
    from .demo import run_demo

    with Report() as report:
        run_demo(report, open_codec(report, bundle, backend, threads, "auto"), folder, preset, seed)


@app.command()
def info(
    name: Annotated[str, typer.Argument(metavar="FILE|BUNDLE", help="A token file, an audio file, or a bundle.")],
    as_json: Json = False,
) -> None:
    """Say what a file or a bundle holds."""
    from .describe import describe

    with muted_libraries():
        description = describe(name)
    Report(as_json).finish(description)
    if not as_json:
        tell_description(description)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what works here, and why the rest does not.

    What is installed, which backends work, where bundles are found. The exit code is 1 if no backend works.
    """
    from .doctor import examine

    findings = examine()
    Report(as_json).finish(findings)
    if not as_json:
        tell_findings(findings)
    if not findings["works"]:
        raise typer.Exit(1)


def open_codec(
    report: Report,
    name: str | None,
    backend: str,
    threads: int | None,
    precision: str,
    config: CodecConfig | None = None,
) -> Codec:
    """The codec of bundle `name`; without a name one that suits tokens of `config`, and it says which was taken."""
    from sc_runtime.bundle.locate import BUNDLE_VARIABLE, locate_bundle
    from sc_runtime.bundle.store import EMBEDDED
    from sc_runtime.codec import Codec

    path = locate_bundle(name, config)
    codec = Codec.load(path, backend=backend, threads=threads, precision=precision)
    if not (name or os.environ.get(BUNDLE_VARIABLE)):
        if path != EMBEDDED:
            choice = "the newest built; choose with --bundle"
        else:
            choice = "no published one is built" if config is None else "no other suits these tokens"
        report.note(f"bundle: {path.name}, {codec.bundle.manifest.weights} ({choice})")
    if precision == "float32" and codec.bundle.manifest.precision == "int8":
        report.note(f"bundle {path.name} decodes in int8, whatever --precision says")
    return codec


def tell_rounding(report: Report, codec: Codec, precision: str) -> None:
    """Say how many tokens encoding in bfloat16 changes, where that was asked for."""
    if precision == "bfloat16":
        equal = codec.bundle.manifest.equal_in_bfloat16
        share = "how many, this bundle does not know" if equal is None else f"{1 - equal:.2%} in the bundle's self-test"
        report.note(f"bfloat16 changes tokens: {share}")


def run_jobs(
    report: Report,
    jobs: list[Job],
    problems: list[CodecError],
    start: Callable[[list[Job]], Work],
    force: bool,
    document: dict[str, Any],
) -> list[dict[str, Any]]:
    """Do the work for each job whose output is not there; report it all, in `document` too. Exits 1 if any failed.

    `start` hears what is to be done, and returns what does each job in turn. What is wrong with one file concerns that
    file; any other error ends the run.
    """
    if report.as_json and any(job.target is None for job in jobs):
        raise SettingsError("--json with the output on standard output", "one of them", "name a file with -o")
    records: list[dict[str, Any]] = [{} for _ in problems]

    def fail(error: CodecError, name: str, record: dict[str, Any]) -> None:
        text = str(error) if name in str(error) else f"{name}: {error}"
        report.error(text)
        record.update(status="failed", error=text)

    for problem, record in zip(problems, records, strict=True):
        fail(problem, "", record)
    todo: list[tuple[Job, dict[str, Any]]] = []
    for job in jobs:
        record = {"input": str(job.source or "-"), "output": str(job.target or "-")}
        records.append(record)
        if job.is_done() and not force:
            report.note(f"kept {job.target}: it exists already (-o names another, --force replaces it)")
            record["status"] = "kept"
            continue
        try:
            job.check_target()
        except OutputError as error:
            fail(error, job.name, record)
        else:
            todo.append((job, record))
    work = start([job for job, _ in todo])
    begun = time.perf_counter()
    for number, (job, record) in enumerate(todo):
        started = time.perf_counter()
        try:
            with report.follow(job.name, len(jobs) - len(todo) + number, len(jobs)) as progress:
                facts = work(job, progress)
        except (AudioError, TokensError, OutputError) as error:
            if isinstance(error.__cause__, BrokenPipeError):
                raise
            fail(error, job.name, record)
            continue
        facts["elapsed"] = time.perf_counter() - started  # since the last: files may be done together
        record |= {"status": "written", **facts}
        if job.target:
            took = f"; took {facts['elapsed']:.1f} s" if len(todo) == 1 else ""
            report.result(
                f"{job.target}: {facts['seconds']:.2f} s, {facts['positions']} positions, "
                f"{facts['bitrate'] / 1000:.3g} kbps{took}"
            )
    elapsed = time.perf_counter() - begun
    if len(todo) > 1:
        states = [record["status"] for record in records]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states, reverse=True)))
        seconds = sum(record.get("seconds", 0.0) for record in records)
        report.result(f"{counts}: {seconds:.2f} s of sound; took {elapsed:.1f} s")
    report.finish({**document, "elapsed": elapsed, "files": records})
    if any(record["status"] == "failed" for record in records):
        raise typer.Exit(1)
    return records


def describe_codec(codec: Codec) -> dict[str, Any]:
    return {
        "bundle": str(codec.bundle.path),
        "codec": codec.config.codec,
        "weights": codec.bundle.manifest.weights,
        "backend": codec.backend.name,
        "device": codec.backend.device,
    }


def main() -> None:
    """The program `sc-runtime`."""
    own_streams()
    run_app(app)


if __name__ == "__main__":
    main()
