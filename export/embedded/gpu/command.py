"""`python -m export.embedded.gpu`: `pack` here, `unpack` and `train` on the machine with the GPU, `take` here again."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from bench.gpu_calls import count_bytes, print_calls
from bench.gpu_wheel import LIMIT, SPARE, count_tracked, fetch_wheels
from bench.harness.parts import PATIENCE, Part, Parts, Session
from bench.harness.results import describe_run
from sc_runtime.cli.program import run_app
from sc_runtime.errors import SettingsError
from sc_runtime.export.embedded.corpus.command import write_corpus

from .calls import ASIDE, CARRY, MOST_PIECES, PACK, list_calls
from .clip_files import CARRIED, HELD_OUT, INDEX, RECORDINGS, check_pieces, plan_carried, plan_sound, read_count
from .packing import (
    STAGES,
    copy_starts,
    cut_pieces,
    encode_clips,
    encode_held_out,
    encode_recordings,
    list_clips,
    write_index,
)
from .plan import BATCHES, REHEARSED_BATCHES, REHEARSED_SECONDS, SECONDS, Plan, parse_numbers
from .sharing import share_card
from .stages import ENTRY
from .starts import check_starts, lay_starts
from .taking import join_parts, take_back

#: Tokens and diffusion come last: they wait for those that are before them.
PARTS = tuple(
    Part(stage, f"{ENTRY}:{function}", 600, background=True)
    for stage, function in {
        "mel_vae": "train_vae",
        "audiomae": "train_audiomae",
        "vocoder": "train_vocoder",
        "tokens": "train_tokens",
        "diffusion": "train_diffusion",
    }.items()
)

app = typer.Typer(add_completion=False, rich_markup_mode=None, help=__doc__)


def open_progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, console=Console(stderr=True, highlight=False))


@app.command()
def pack(
    corpus: Annotated[Path, typer.Option(help="The folder that `python -m export.embedded.corpus` wrote.")],
    state: Annotated[
        Path | None, typer.Option(help="State of a training to continue from; by default the shipped model.")
    ] = None,
    clips: Annotated[int, typer.Option(min=1, help="Training clips of each domain.")] = 1000,
    held_out: Annotated[int, typer.Option(min=1, help="Held-out clips of each domain.")] = 8,
    rate: Annotated[float, typer.Option(min=6, max=256, help="Of Opus, in kbit/s.")] = 64.0,
    minutes: Annotated[float, typer.Option(min=1, max=9, help="Of the training call.")] = 8.5,
    only: Annotated[str, typer.Option(help="Stages of the training call, comma-separated; all by default.")] = "",
    recordings: Annotated[
        bool, typer.Option(help="Recorded effects travel too, for the sound that is made there.")
    ] = True,
    out: Annotated[Path, typer.Option(help="Folder of everything that travels.")] = CARRY,
    wheels: Annotated[str, typer.Option(help="yes, or no to fetch none.")] = "yes",
) -> None:
    """Write what travels, in pieces of at most what a call takes, and print the calls."""
    check_stages(only)
    out = out.absolute()
    folder = out / PACK
    first = folder / "first"
    shutil.rmtree(first, ignore_errors=True)
    first.mkdir(parents=True)
    steps = copy_starts(state, first)
    check_starts(only, first)
    if recordings:
        encode_recordings(first / RECORDINGS)
    if wheels == "yes":
        fetch_wheels(out / "wheels")
    encoded = folder / f"opus-{rate:g}"
    with open_progress() as progress:
        for domain in CARRIED:
            encode_clips(corpus, domain, clips, rate, encoded, progress)
    encode_held_out(corpus, held_out, first / HELD_OUT)
    write_index(first / INDEX, clips, recordings, steps)
    room = LIMIT - count_tracked(ASIDE) - SPARE - count_bytes(out / "wheels")
    pieces = cut_pieces(sorted(first.iterdir()), list_clips(encoded, CARRIED, clips), folder, room)
    starts = ", ".join(f"{stage} ({count} updates)" for stage, count in steps.items())
    print(f"To continue from: {starts}; random weights: {', '.join(set(STAGES) - set(steps)) or 'none'}")
    if len(pieces) > MOST_PIECES:
        raise SettingsError(f"{len(pieces)} pieces", f"at most {MOST_PIECES}", "use a lower --rate or fewer --clips")
    calls = list_calls(out, [piece.name for piece in pieces], minutes, only)
    print_calls(calls, ASIDE, "python -m export.embedded.gpu take")


@app.command()
def unpack(
    folder: Annotated[Path, typer.Argument(help="The pack.")],
    work: Annotated[Path, typer.Argument(help="As of `train`.")],
    workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = os.cpu_count() or 1,
) -> None:
    """Make the environmental sound, for which the first piece is enough. `train` waits for it, or does it."""
    with open_progress() as progress:
        write_corpus(work / "corpus", [plan_sound(folder, work / "corpus")], workers, progress)


@app.command()
def train(
    pack: Annotated[Path, typer.Option(help="The folder that all pieces were copied to.")],
    out: Annotated[Path, typer.Option(help="Folder of what comes back.")],
    work: Annotated[Path, typer.Option(help="Folder that a later call goes on from.")] = Path("/tmp/training"),
    minutes: Annotated[float, typer.Option(help="For everything, from the start of this command.")] = 8.5,
    seconds: Annotated[str, typer.Option(help="Of stages, as in mel_vae=150,diffusion=300.")] = "",
    batches: Annotated[str, typer.Option(help="Of stages, as in mel_vae=32.")] = "",
    eager: Annotated[str, typer.Option(help="Stages that run without CUDA graphs, comma-separated.")] = "",
    only: Annotated[str, typer.Option(help="Stages to train, again too, comma-separated.")] = "",
    speeds: Annotated[int, typer.Option(min=0, help="Copies of every clip at other speeds.")] = 2,
    workers: Annotated[int, typer.Option(min=1, help="Processes that unpack.")] = os.cpu_count() or 1,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="On the CPU, for seconds.")] = False,
) -> None:
    """Train the stages side by side, and write the averaged weights to --out twice a minute."""
    deadline = time.time() + 60 * minutes * (PATIENCE if rehearse else 1)
    if not rehearse:
        share_card(work.absolute(), lambda line: print(line, flush=True))
    if not rehearse and not torch.cuda.is_available():
        raise SettingsError("no GPU", "one that torch can use, or --rehearse")
    check_stages(f"{eager},{only}")
    pack, out, work = pack.absolute(), out.absolute(), work.absolute()
    chosen = parse_numbers("batches", batches, dict(REHEARSED_BATCHES if rehearse else BATCHES))
    plan = Plan(
        *(pack, work / "corpus", out),
        parse_numbers("seconds", seconds, REHEARSED_SECONDS if rehearse else SECONDS),
        {name: int(number) for name, number in chosen.items()},
        eager=tuple(filter(None, eager.split(","))),
    )
    read_count(pack)
    check_pieces(pack)
    plan.write(work)
    out.mkdir(parents=True, exist_ok=True)
    started = time.time()
    with open_progress() as progress:
        arrays = [plan_sound(pack, plan.corpus), *plan_carried(pack, plan.corpus, speeds)]
        write_corpus(plan.corpus, arrays, workers, progress)
    unpacked = round(time.time() - started, 1)
    print(f"unpacked in {unpacked} s", flush=True)
    trained = tuple(filter(None, only.split(",")))
    lay_starts(pack, work, out, trained or STAGES)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    described = {"plan": dataclasses.asdict(plan) | {"pack": None, "corpus": None, "out": None}, "gpu": gpu}
    head = {**describe_run("scikit-learn", "soundfile"), **described, "unpacked_s": unpacked, "rehearsal": rehearse}
    parts = Parts(Session("", work, deadline, rehearse), out, head)
    parts.run(PARTS, trained)
    for name, state in parts.collect()["states"].items():
        print(f"{name}: {state} {parts.collect()['results'].get(name, {})}")
    print((out / "gpu.log").read_text()[-6000:])


def check_stages(names: str) -> None:
    """Raises SettingsError if one of the comma-separated `names` is no stage."""
    if unknown := [name for name in names.split(",") if name and name not in STAGES]:
        raise SettingsError(f"stage {unknown[0]!r}", f"of {', '.join(STAGES)}")


@app.command()
def take(
    folder: Annotated[Path, typer.Argument(help="The folder that came back.")],
    state: Annotated[Path, typer.Argument(help="Folder of the training's state, without a training in it.")],
) -> None:
    """Put the weights that came back where `python -m export.embedded.training` continues from and assembles."""
    with join_parts(folder) as whole:
        taken, missing = take_back(whole, state, folder)
    print(f"taken: {', '.join(taken)}")
    if missing:
        print(f"not there: {', '.join(missing)}; train them with python -m export.embedded.training before `assemble`")


def run() -> None:
    run_app(app)
