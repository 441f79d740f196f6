"""The rows of `bench/rtf.py`: both sides on one duration in turns, summarised and compared."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from bench.harness.printing import log
from bench.harness.processes import Child
from bench.quality.margins import summarise_differences
from sc_runtime.accuracy import relative_error
from sc_runtime.config import CodecConfig
from sc_runtime.registry import find_model
from sc_runtime.semanticodec.config import Schedule
from sc_runtime.semanticodec.presets import Sampling
from sc_runtime.semanticodec.samplers import SOLVERS
from sc_runtime.semanticodec.schedule import choose_timesteps

from .differences import DifferencesProgram
from .peers import PEERS, PeerProgram
from .sides import SIDES, Run, Settings, SideProgram
from .subjects import Subject


@dataclass(frozen=True)
class Plan:
    """What is measured, how often, and what may be extrapolated.

    repeats: runs of a row at most, each side.
    row_seconds: time that a side may spend on a row. A decode that takes longer is extrapolated.
    measure_steps: diffusion steps that are timed where a decode is extrapolated.
    """

    settings: Settings
    config: CodecConfig
    subject: Subject
    repeats: int
    row_seconds: float
    measure_steps: int

    def choose_sampling(self, side: str) -> Sampling | None:
        """The sampling of a side; None for a side without one, which all peers are."""
        return {"runtime": self.settings.sampling, "published": self.settings.published_sampling}.get(side)

    def choose_batch(self, side: str, direction: str) -> int:
        """Number of windows that run together."""
        batches = {"encode": self.settings.encode_batch, "decode": self.settings.decode_batch}
        return batches[direction] if side == "runtime" else 1

    def count_windows(self, direction: str, seconds: float) -> int:
        """Number of windows in which the runtime encodes or decodes `seconds` of audio."""
        positions = self.config.count_positions(round(seconds * self.config.sample_rate))
        if direction == "encode":
            return self.subject.count_encoded(positions, self.config)
        return find_model(self.config.codec).count_windows(positions, self.config)


class SideRow:
    """The runs of one side for one row."""

    def __init__(self, child: Child, side: str, direction: str, seconds: float, plan: Plan) -> None:
        self.child, self.side, self.direction, self.seconds, self.plan = child, side, direction, seconds, plan
        self.sampling = plan.choose_sampling(side)
        self.steps = self.sampling.steps if self.sampling else 1
        self.runs: list[Run] = []
        self.estimate: float | None = None  #: seconds that the extrapolation predicts for a row that is run in full
        self.spent = 0.0

    @property
    def factor(self) -> float:
        """Length of the whole denoising loop, divided by that of the timed one."""
        if self.sampling is None:
            return 1.0
        return count_steps(self.sampling, self.sampling.steps) / count_steps(self.sampling, self.steps)

    def prepare(self) -> None:
        """Time a decode of few steps. If the whole would take too long, the row is extrapolated from it."""
        if self.direction == "encode" or not self.sampling or self.plan.measure_steps >= self.sampling.steps:
            return
        self.steps = self.plan.measure_steps
        run = self.run_once()
        self.estimate = sum(extrapolate(run.stages, self.factor).values())
        if self.estimate <= self.plan.row_seconds:
            self.steps, self.runs, self.spent = self.sampling.steps, [], 0.0

    def run_once(self) -> Run:
        run: Run = self.child.ask(f"{self.direction} {self.seconds:g} s", self.seconds, self.steps)
        self.runs.append(run)
        self.spent += run.total
        steps = f" for {self.steps} steps" if self.direction == "decode" and self.sampling else ""
        log.print(f"{self.direction} {self.seconds:g} s, {self.side}: {run.total:.2f} s{steps}")
        return run

    def repeat(self, count: int) -> None:
        """Add a run if there are fewer than `count` and there is time for one more."""
        if len(self.runs) < count and (not self.runs or self.spent + self.runs[-1].total <= self.plan.row_seconds):
            self.run_once()

    def summarise(self) -> dict[str, Any]:
        """The side's part of the row, as JSON has it."""
        named = self.plan.subject.stages[self.direction] if self.side in SIDES else ()
        names = dict.fromkeys([*named, *(name for run in self.runs for name in run.stages)])
        stages = [extrapolate({name: run.stages.get(name, 0.0) for name in names}, self.factor) for run in self.runs]
        totals = [sum(run.values()) for run in stages]
        how = "measured"
        if self.sampling and self.steps != self.sampling.steps:
            timed, whole = (count_steps(self.sampling, steps) for steps in (self.steps, self.sampling.steps))
            how = f"extrapolated from {timed} of {whole} steps"
        result: dict[str, Any] = {
            "how": how,
            "total_s": median(totals),
            "spread_s": [min(totals), max(totals)],
            "rtf": median(totals) / self.seconds,
            "cpu_rtf": median(run.cpu_seconds for run in self.runs) / self.seconds if how == "measured" else None,
            "stages_s": {name: median(run[name] for run in stages) for name in names},
            "peak_rss_bytes": self.runs[-1].peak_bytes,
            "device": self.runs[0].device,
            "runs": [
                {"timed_s": run.total, "total_s": total, "stages_s": whole}
                for run, total, whole in zip(self.runs, totals, stages, strict=True)
            ],
        }
        if how == "measured" and self.estimate is not None:
            result["estimate_s"] = self.estimate
        return result


def measure_direction(direction: str, durations: list[float], sides: list[str], plan: Plan) -> list[dict[str, Any]]:
    """The rows of encoding or decoding. The shortest is first, because a process's peak memory never falls.

    sides: of `SIDES` and `PEERS`.
    """
    rows = []
    warm: set[tuple[str, float]] = set()
    with ExitStack() as stack:
        children = {side: stack.enter_context(start_side(side, direction, plan.settings)) for side in sides}
        for seconds in durations:
            for side, child in children.items():
                few = min(seconds, plan.subject.window_seconds * plan.choose_batch(side, direction))
                if (side, few) not in warm:
                    log.print(f"{direction} {few:g} s, {side}: warming up")
                    child.ask(f"{direction} {few:g} s", few, 1, 0.0)
                    warm.add((side, few))
            entries = [SideRow(child, side, direction, seconds, plan) for side, child in children.items()]
            for entry in entries:
                entry.prepare()
            for count in range(1, plan.repeats + 1):
                for entry in entries:
                    entry.repeat(count)
            rows.append(summarise_row(direction, seconds, entries, plan))
    return rows


def start_side(side: str, direction: str, settings: Settings) -> Child:
    if side in PEERS:
        return Child(side, PeerProgram, side, direction, settings.threads, settings.peer_device)
    return Child(f"the {side} side", SideProgram, side, direction, settings)


def summarise_row(direction: str, seconds: float, entries: list[SideRow], plan: Plan) -> dict[str, Any]:
    """One row of the results. With the published side it has the ratios to it and how far the outputs agree."""
    sides = {entry.side: entry for entry in entries if entry.side in SIDES}
    row: dict[str, Any] = {
        "direction": direction,
        "seconds": seconds,
        "windows": plan.count_windows(direction, seconds),
        **{side: entry.summarise() for side, entry in sides.items()},
    }
    if peers := {entry.side: entry.summarise() for entry in entries if entry.side in PEERS}:
        row["peers"] = peers
    if len(sides) == 2:
        runtime, published = sides["runtime"], sides["published"]
        row["ratio"] = compare_sides(row["runtime"], row["published"])
        ours, theirs = runtime.runs[0].output, published.runs[0].output
        if direction == "encode":
            row["equal_tokens"] = float((ours == theirs).mean())
            if row["windows"] == 1 or plan.subject.windows_abut:
                row["differences"] = compare_tokens(seconds, ours, theirs, plan)
        elif (runtime.sampling, runtime.steps) == (published.sampling, published.steps):
            row["relative_error"] = relative_error(ours, theirs)
    return row


def compare_tokens(seconds: float, ours: np.ndarray, theirs: np.ndarray, plan: Plan) -> dict[str, Any]:
    """How many tokens of the two sides differ, and how near a tie those are; see `bench.quality.margins`."""
    if np.array_equal(ours, theirs):
        return summarise_differences([], ours.size)
    with Child("the margins", DifferencesProgram, plan.settings) as child:
        found: dict[str, Any] = child.ask(f"encode {seconds:g} s", seconds, ours, theirs)
    return found


def count_steps(sampling: Sampling, steps: int) -> int:
    """Number of steps that the sampling's solver runs if it is asked for `steps`. Raises SettingsError."""
    return len(choose_timesteps(steps, Schedule(), SOLVERS[sampling.solver].spacing)) - 1


def extrapolate(stages: Mapping[str, float], factor: float) -> dict[str, float]:
    """Seconds by stage with a denoising loop `factor` times as long."""
    return {name: seconds * factor if name == "tunet" else seconds for name, seconds in stages.items()}


def compare_sides(runtime: Mapping[str, Any], published: Mapping[str, Any]) -> dict[str, Any]:
    """Time and memory of the published procedure divided by the runtime's. Times are medians.

    The published T-UNet projects its conditioning in every call, so it is compared with our conditioning and loop
    together.
    """
    ours, theirs = dict(runtime["stages_s"]), published["stages_s"]
    if "tunet" in ours:
        ours["tunet"] += ours.pop("conditioning", 0.0)
    return {
        "total": published["total_s"] / runtime["total_s"],
        "peak_rss": published["peak_rss_bytes"] / runtime["peak_rss_bytes"],
        "stages": {name: theirs[name] / ours[name] for name in ours if theirs.get(name) and ours[name]},
    }
