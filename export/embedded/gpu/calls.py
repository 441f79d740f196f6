"""The calls of a training on a GPU that is lent for minutes: shell commands, each with what it carries."""

from __future__ import annotations

from pathlib import Path

from bench.gpu_calls import Call, enter_copy
from bench.harness.machine import ROOT

from .taking import RETURNED_TAR

CARRY = ROOT / ".carry"
OUT = "/tmp/trained"  #: folder of the weights on the machine with the GPU
PART_BYTES = 15 * 2**20  #: of the results; a file that comes back has at most 16 MiB
PACK = "training"  #: folder of the pieces in `CARRY`; "wheels" is beside it
MOST_PIECES = 5  #: calls besides the training for which there is time

#: Tracked files that the training does not read. They are moved aside for the calls, to make room.
ASIDE = ("runtime/embedded/*.data", "runtime/embedded/*.npy", "tests/golden", "tests/held_out", "bench/results")


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
    send = f"tar -C {OUT} -cf - . | split -b {PART_BYTES} -a 3 -d - $OUT/{RETURNED_TAR}; tail -c 6000 /tmp/train.log"
    return [*calls, Call(limit, [], wait + send)]


def detach(command: str, name: str) -> str:
    """Shell code that starts `command` so that it outlives the call, with its log and its PID in /tmp/NAME.*."""
    return f"(setsid nohup {command} >/tmp/{name}.log 2>&1 </dev/null & echo $! >/tmp/{name}.pid); "
