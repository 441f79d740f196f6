"""A measurement in parts: each runs in a process of its own, with a time limit, and leaves its results in a file.

A part that crashes, hangs or is killed loses nothing but what it had not yet reported. A part that has run is not run
again: a second call with the same folder goes on where the first one ended.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sc_runtime.errors import CodecError, first_line

from .machine import ROOT
from .printing import log
from .results import write_results

FOLDER = "parts"  #: of the files of parts, in the folder of the measurement
POLL_SECONDS = 0.1
PATIENCE = 20  #: times the limits, in a rehearsal on a machine without a GPU
RAN, RUNNING = "ran", "running"
LEAST_SECONDS = 5.0  #: that must be left for a part to begin


class Skipped(Exception):
    """Raised by a part that cannot run here; the message says why."""


@dataclass(frozen=True)
class Part:
    """One part of a measurement.

    name: of its file, too.
    function: "module:function", which takes a `Session` and returns the results.
    limit: seconds after which its process is killed.
    background: it prepares something for later parts, and runs beside them.
    """

    name: str
    function: str
    limit: float
    background: bool = False


@dataclass(frozen=True)
class State:
    """What a part has left so far. `state` is "running", "ran", "skipped: why" or "failed: why"."""

    state: str
    results: dict[str, Any] = field(default_factory=dict)
    took_s: float = 0.0
    process: int = 0

    @property
    def is_final(self) -> bool:
        return self.state != RUNNING

    @property
    def is_alive(self) -> bool:
        """Whether the process that runs it is still there."""
        if self.is_final or not self.process:
            return False
        with suppress(OSError):
            os.kill(self.process, 0)
            return not Path(f"/proc/{self.process}/stat").exists() or read_process_state(self.process) != "Z"
        return False


def read_process_state(process: int) -> str:
    """The letter that Linux gives the state of a process; "Z" has ended and waits for its parent."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


@dataclass(frozen=True)
class Session:
    """What a part runs on.

    part: its name.
    work: folder of the measurement.
    deadline: in seconds of `time.time`.
    rehearsal: the CPU stands in for the GPU, at tiny size.
    pack: folder of the graphs without weights.
    """

    part: str
    work: Path
    deadline: float
    rehearsal: bool = False
    pack: Path | None = None

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.time()

    def keep(self, results: dict[str, Any]) -> None:
        """Write what has been measured so far. It stays if the part is killed."""
        write_state(self.work, self.part, State(RUNNING, results, process=os.getpid()))

    def find(self, part: str) -> dict[str, Any]:
        """The results of another part; empty if it has none."""
        return read_state(self.work, part).results

    def wait_for(self, part: str) -> dict[str, Any]:
        """The results of a background part, when it has ended. Raises Skipped if it has none, or takes too long."""
        while (found := read_state(self.work, part)).is_alive and self.seconds_left > 0:
            time.sleep(POLL_SECONDS)
        if found.state != RAN:
            raise Skipped(f"{part}: {found.state}")
        return found.results

    def to_json(self) -> str:
        return json.dumps({each.name: getattr(self, each.name) for each in dataclasses.fields(self)}, default=str)

    @classmethod
    def from_json(cls, text: str) -> Session:
        raw = json.loads(text)
        pack = raw.pop("pack")
        return cls(**raw | {"work": Path(raw["work"]), "pack": None if pack is None else Path(pack)})


def locate_state(work: Path, part: str) -> Path:
    return work / FOLDER / f"{part}.json"


def read_state(work: Path, part: str) -> State:
    try:
        return State(**json.loads(locate_state(work, part).read_text()))
    except (OSError, ValueError, TypeError):
        return State("not run")


def write_state(work: Path, part: str, state: State) -> None:
    write_results(locate_state(work, part), dataclasses.asdict(state))


class Parts:
    """Runs parts one after the other, and writes everything that they have left to `out` after each."""

    def __init__(self, session: Session, out: Path, head: dict[str, Any]) -> None:
        """
        session: the template of every part's session, with the deadline of the whole.
        out: folder of "gpu.json" and "gpu.log".
        head: what the JSON begins with.
        """
        self.session, self.out, self.head = session, out, head
        self.names: list[str] = []
        self.started: dict[str, tuple[subprocess.Popen[bytes], float, float]] = {}
        out.mkdir(parents=True, exist_ok=True)
        (self.session.work / FOLDER).mkdir(parents=True, exist_ok=True)

    def run(self, parts: Sequence[Part], only: Sequence[str] = ()) -> None:
        """Run `parts` in order, those in the background first, or `only` those named. These run again if they ran.

        Background parts that are still at work at the end are waited for until their limit.
        """
        self.names = [part.name for part in parts]
        chosen = [part for part in parts if not only or part.name in only]
        with (self.out / "gpu.log").open("ab") as output:
            for part in sorted(chosen, key=lambda part: not part.background):
                if not part.background:
                    self.wait_for_another(part)
                if self.has_ended(part.name) and part.name not in only:
                    log.print(f"{part.name}: {read_state(self.session.work, part.name).state}, earlier")
                elif not read_state(self.session.work, part.name).is_alive:
                    self.start(part, output)
                    if not part.background:
                        self.wait(part.name)
                self.write()
            for part in chosen:
                if part.background and part.name in self.started:
                    self.wait(part.name)
        self.write()

    def wait_for_another(self, part: Part) -> None:
        """Wait while a process of an earlier call, which was stopped, is still at this part; kill it at the limit."""
        until = time.time() + part.limit
        while (state := read_state(self.session.work, part.name)).is_alive:
            if time.time() > until:
                os.killpg(state.process, signal.SIGKILL)
            time.sleep(POLL_SECONDS)

    def has_ended(self, name: str) -> bool:
        state = read_state(self.session.work, name).state
        return state == RAN or state.startswith("skipped: no GPU")

    def start(self, part: Part, output: IO[bytes]) -> None:
        """Start the process of `part`, with what it prints going to `output`."""
        now, left = time.time(), self.session.seconds_left
        limit = min(part.limit * (PATIENCE if self.session.rehearsal else 1), left)
        log.print(f"{part.name} (limit {limit:.0f} s, {left:.0f} s left)")
        if limit < min(LEAST_SECONDS, part.limit):
            write_state(self.session.work, part.name, State("failed: no time was left"))
            return
        session = dataclasses.replace(self.session, part=part.name, deadline=now + limit)
        command = [sys.executable, "-m", "bench.harness.parts", part.function, session.to_json()]
        output.write(f"--- {part.name}\n".encode())
        output.flush()
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
        write_state(self.session.work, part.name, State(RUNNING, process=process.pid))
        self.started[part.name] = process, now, limit

    def wait(self, name: str) -> None:
        """Wait until the part has ended, or kill its process group at the limit, and say how it ended."""
        if name not in self.started:
            return
        process, began, limit = self.started.pop(name)
        killed = False
        while process.poll() is None:
            if time.time() - began > limit:
                killed = True
                with suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            time.sleep(POLL_SECONDS)
        state, took = read_state(self.session.work, name), time.time() - began
        if not state.is_final:
            why = f"stopped after {took:.0f} s" if killed else f"its process ended with code {process.returncode}"
            state = State(f"failed: {why}", state.results, took)
            write_state(self.session.work, name, state)
        log.print(f"{name}: {state.state} ({took:.0f} s)", markup=False, soft_wrap=True)

    def collect(self) -> dict[str, Any]:
        """Everything so far: `states` and `results`, by part."""
        states = {name: read_state(self.session.work, name) for name in self.names}
        return {
            **self.head,
            "states": {name: state.state for name, state in states.items()},
            "took_s": {name: state.took_s for name, state in states.items()},
            "results": {name: state.results for name, state in states.items() if state.results},
        }

    def write(self) -> None:
        write_results(self.out / "gpu.json", self.collect())


def run_part(function: str, session: Session) -> None:
    """In the child: run the part, and leave its results, or the reason why there are none."""
    started = time.time()
    session.keep({})
    results: dict[str, Any] = {}
    try:
        module, _, name = function.partition(":")
        results, state = getattr(importlib.import_module(module), name)(session), RAN
    except (Skipped, CodecError) as reason:
        state = f"skipped: {reason}"
    except Exception as error:  # any error: time on a GPU is too short to lose the other parts
        traceback.print_exc()
        state = f"failed: {type(error).__name__}: {first_line(error)}"
    kept = read_state(session.work, session.part).results
    write_state(session.work, session.part, State(state, results or kept, time.time() - started))


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    from bench.harness import parts as module  # the one that the parts import, not __main__

    module.run_part(sys.argv[1], module.Session.from_json(sys.argv[2]))
