"""`python -m export.embedded.gpu`: `pack` here, `unpack` and `train` on the machine with the GPU, `take` here again."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from bench.gpu_calls import Call, count_bytes, enter_copy, print_calls
from bench.gpu_wheel import LIMIT, SPARE, count_tracked, fetch_wheels
from bench.harness.machine import ROOT
from bench.harness.parts import PATIENCE, Part, Parts, Session
from bench.harness.results import describe_run
from sc_runtime.cli.program import run_app
from sc_runtime.errors import SettingsError
from sc_runtime.export.embedded.corpus.command import write_corpus

from .clip_files import CARRIED, HELD_OUT, INDEX, RECORDINGS, check_pieces, plan_carried, plan_sound, read_count
from .packing import (
    INPUTS,
    STAGES,
    copy_starts,
    copy_whole,
    cut_pieces,
    encode_clips,
    encode_held_out,
    encode_recordings,
    list_clips,
    write_index,
)
from .plan import BATCHES, REHEARSED_BATCHES, REHEARSED_SECONDS, SECONDS, Plan, parse_numbers
from .sharing import share_card
from .stages import ENTRY, RETURNED, STATE
from .taking import RETURNED_TAR, join_parts, take_back

CARRY = ROOT / ".carry"
OUT = "/tmp/trained"  #: folder of the weights on the machine with the GPU
PART_BYTES = 15 * 2**20  #: of the results; a file that comes back has at most 16 MiB
PACK = "training"  #: folder of the pieces in `CARRY`; "wheels" is beside it
MOST_PIECES = 5  #: calls besides the training for which there is time

#: Tracked files that the training does not read. They are moved aside for the calls, to make room.
ASIDE = ("runtime/embedded/*.data", "runtime/embedded/*.npy", "tests/golden", "tests/held_out", "bench/results")

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
    if recordings:
        encode_recordings(first / RECORDINGS)
    if wheels == "yes":
        fetch_wheels(out / "wheels")
    encoded = folder / f"opus-{rate:g}"
    with open_progress() as progress:
        for domain in CARRIED:
            encode_clips(corpus, domain, clips, rate, encoded, progress)
    encode_held_out(corpus, held_out, first / HELD_OUT)
    steps = copy_starts(state, first)
    write_index(first / INDEX, clips, recordings, steps)
    room = LIMIT - count_tracked(ASIDE) - SPARE - count_bytes(out / "wheels")
    pieces = cut_pieces(sorted(first.iterdir()), list_clips(encoded, CARRIED, clips), folder, room)
    starts = ", ".join(f"{stage} ({count} updates)" for stage, count in steps.items())
    print(f"To continue from: {starts}; random weights: {', '.join(set(STAGES) - set(steps)) or 'none'}")
    if len(pieces) > MOST_PIECES:
        raise SettingsError(f"{len(pieces)} pieces", f"at most {MOST_PIECES}", "use a lower --rate or fewer --clips")
    calls = list_calls(out, [piece.name for piece in pieces], minutes, only)
    print_calls(calls, ASIDE, "python -m export.embedded.gpu take")


def list_calls(out: Path, pieces: list[str], minutes: float, only: str = "") -> list[Call]:
    """The calls, in order: each brings a piece. The first begins to make sound, the last piece's begins to train.

    One more call waits for the training and brings its results, in parts that are small enough to come back. Other
    calls can be made meanwhile, if they leave the GPU alone.

    only: stages, comma-separated; "" trains all.
    """
    carry = out.relative_to(ROOT) if out.is_relative_to(ROOT) else out
    prepare = f"{enter_copy(Path(carry))}export SITE=/tmp/site PYTHONPATH=/tmp/site PYTHONUNBUFFERED=1; "
    install = "python3 bench/gpu_install.py $CARRY $SITE; mkdir -p /tmp/pack; "
    gpu = "python3 -m export.embedded.gpu"
    chosen = f" --only {only}" if only else ""
    makes = detach(f"{gpu} unpack /tmp/pack /tmp/training", "unpack")
    folders = f"--pack /tmp/pack --work /tmp/training --out {OUT}"
    train = detach(f"{gpu} train {folders} --minutes {minutes:g}{chosen}", "train")
    calls = []
    for number, piece in enumerate(pieces):
        is_first, is_last = number == 0, piece == pieces[-1]
        copy = f"cp $CARRY/{PACK}/{piece}/* /tmp/pack/; "
        begin = prepare + (install + copy + makes if is_first else copy)
        command = begin + (train if is_last else "ls -l /tmp/pack; ")
        carried = [f"{carry}/{PACK}/{piece}", *([f"{carry}/wheels"] if is_first and (out / "wheels").exists() else [])]
        calls.append(Call(60, carried, command + "tail -c 2000 /tmp/unpack.log"))
    limit = min(600, round(60 * minutes) + 60)
    wait = f"timeout {limit - 30} tail --pid=$(cat /tmp/train.pid) -f /dev/null; "
    send = f"tar -C {OUT} -cf - . | split -b {PART_BYTES} -d - $OUT/{RETURNED_TAR}; tail -c 6000 /tmp/train.log"
    return [*calls, Call(limit, [], wait + send)]


def detach(command: str, name: str) -> str:
    """Shell code that starts `command` so that it outlives the call, with its log and its PID in /tmp/NAME.*."""
    return f"(setsid nohup {command} >/tmp/{name}.log 2>&1 </dev/null & echo $! >/tmp/{name}.pid); "


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


def lay_starts(pack: Path, work: Path, out: Path, trained: Sequence[str]) -> None:
    """Lay the weights of the pack where training continues from, unless an earlier call has done so.

    Those of an earlier call, or of the pack, come back too, so that what comes back is complete. The T-UNet's do not
    before they have been trained on this call's latents. The tokens' do if they are not `trained` now. Their centroids
    and scale factor are those of the pack unless AudioMAE or the VAE is trained.
    """
    state, returned = work / STATE, work / RETURNED
    for folder in (state, returned):
        folder.mkdir(parents=True, exist_ok=True)
    if not (state / "fbanks.npy").exists():
        (state / "fbanks.npy").symlink_to(work / "corpus" / "fbanks.npy")
    inputs_are_kept = (pack / "tokens.pt").exists() and not {"audiomae", "mel_vae"} & set(trained)
    tokens_are_kept = inputs_are_kept and "tokens" not in trained
    made_now = {"diffusion"} if tokens_are_kept else {"tokens", "diffusion"}
    for name in INPUTS if inputs_are_kept else ():
        if not (state / name).exists():
            copy_whole(pack / name, state / name)
    for stage in STAGES:
        start = pack / f"{stage}.pt"
        for folder in (state,) if stage in made_now else (state, returned):
            if start.exists() and not (folder / start.name).exists():
                copy_whole(start, folder / start.name)
        if (returned / start.name).exists():
            copy_whole(returned / start.name, out / start.name)


@app.command()
def take(
    folder: Annotated[Path, typer.Argument(help="The folder that came back.")],
    state: Annotated[Path, typer.Argument(help="Folder of the training's state, without a training in it.")],
) -> None:
    """Put the weights that came back where `python -m export.embedded.training` continues from and assembles."""
    with join_parts(folder) as whole:
        taken, missing = take_back(whole, state)
    print(f"taken: {', '.join(taken)}")
    if missing:
        print(f"not there: {', '.join(missing)}; train them with python -m export.embedded.training before `assemble`")


def run() -> None:
    run_app(app)
