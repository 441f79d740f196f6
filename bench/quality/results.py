"""The results of `bench.quality.run`: the JSON, written after each result, and the goals and losses derived from it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness.printing import log
from bench.harness.results import name_moment, round_floats, write_results
from sc_runtime.errors import SettingsError
from sc_runtime.semanticodec.presets import PRESETS, Sampling

FORMAT = 1  #: of the JSON
DOMAINS = ("speech", "music", "sound")
ALL = "all"  #: the domains together
CODEC, CEILING, FLOOR, SEMANTIC = "codec", "ceiling", "floor", "no acoustic tokens"  #: rows; other codecs add theirs
DISTANCES = ("mel", "stft")  #: metrics of which less is better
SETTING = ("sampling", "backend", "precision")  #: fields that identify a point of the curves
Goals = Mapping[tuple[str, str, str], float]  #: (row, domain, metric) -> at least this STOI, at most this mel distance
#: What the embedded model should reach on held-out clips.
GOALS: Goals = {
    (CODEC, "speech", "stoi"): 0.75,
    (CEILING, "speech", "stoi"): 0.92,
    (CODEC, "speech", "mel"): 1.9,
    (CODEC, "music", "mel"): 1.7,
    (CODEC, "sound", "mel"): 1.7,
}
#: And on recordings that it was never trained on.
RECORDED_GOALS: Goals = {(CODEC, "speech", "stoi"): 0.75}
#: The codecs that it should be no worse than, by domain and metric.
RIVALS = {("speech", "stoi"): "Codec2 700C", ("music", "mel"): "Opus 6k", ("sound", "mel"): "Opus 6k"}


class Results:
    """What was measured so far. The file is written again after each result."""

    def __init__(self, path: Path, document: dict[str, Any]) -> None:
        self.path, self.document = path, document
        self.started, self.changed = time.perf_counter(), False

    @classmethod
    def open(cls, path: Path, task: dict[str, Any]) -> Results:
        """Read the results at `path`, or begin new ones. Raises SettingsError if the file holds another task's."""
        document: dict[str, Any] = {"format": FORMAT, "task": task, "rows": [], "codebooks": [], "curves": []}
        if not path.exists():
            return cls(path, document)
        try:
            found = json.loads(path.read_text())
            earlier = found["task"] if found["format"] == FORMAT else {}
        except (ValueError, KeyError, TypeError):
            earlier = {}
        changed = [key for key, value in task.items() if earlier.get(key) != value]
        if changed:
            given = f"{path} holds results of another task (other {' and '.join(changed)})"
            raise SettingsError(given, "results of the same task to go on with", "remove it or choose another --out")
        return cls(path, found)

    def find(self, section: str, key: dict[str, Any], metrics: Sequence[str] = ()) -> dict[str, Any] | None:
        """The result of `key`, or None if there is none with all `metrics`."""
        for cell in self.document[section]:
            if matches(cell, key) and set(metrics) <= set(cell.get("metrics", {})):
                return cell
        return None

    def add(self, section: str, key: dict[str, Any], result: dict[str, Any]) -> None:
        """Keep a result. It replaces an older one of the same key."""
        cell = key | round_floats(result) | {"date": name_moment()}
        others = [other for other in self.document[section] if not matches(other, key)]
        self.document[section] = [*others, cell]
        self.changed = True
        self.write()
        said = f"skipped, {cell['skipped']}" if "skipped" in cell else describe_means(cell)
        log.print(f"{describe_key(key)}: {said}", soft_wrap=True)

    def skip(self, section: str, key: dict[str, Any], reason: str) -> None:
        """Keep the reason why a result is missing."""
        if self.find(section, key | {"skipped": reason}):
            log.print(f"{describe_key(key)}: skipped, {reason}", soft_wrap=True)
        else:
            self.add(section, key, {"skipped": reason})

    def finish(self, run: dict[str, Any], curve_clips: int, goals: Goals = GOALS) -> None:
        """Add what is derived from the results: the goals, and the curves against their yardstick.

        run: describes this run. It is kept if the run measured anything.
        curve_clips: number of clips of each domain in the curves.
        """
        if self.changed:
            took = self.document.get("took_s", 0) + time.perf_counter() - self.started
            self.document |= round_floats(run | {"took_s": took})
        self.document["goals"] = round_floats(list_goals(self.document, goals))
        self.document["samplings"] = round_floats(compare_samplings(self.document, curve_clips))
        self.write()

    def write(self) -> None:
        write_results(self.path, self.document)


def matches(cell: dict[str, Any], key: dict[str, Any]) -> bool:
    return all(cell.get(name) == value for name, value in key.items())


def describe_key(key: dict[str, Any]) -> str:
    """The name of a result in the log."""
    if "sampling" not in key:
        return f"{key['domain']}, {key.get('row') or key['codebook'] + ' codebook'}"
    return f"{key['domain']}, {label_sampling(key['sampling'])}, {key['backend']} {key['precision']}"


def describe_means(cell: dict[str, Any]) -> str:
    if "perplexity" in cell:
        return f"{cell['share']:.1%} used, {cell['bits']:.2f} bits"
    scores = [f"{name} {format_score(name, score['mean'])}" for name, score in cell["metrics"].items()]
    return f"{', '.join(scores)} (delay {cell['delay_samples'] / 16:.1f} ms)"


def write_sampling(sampling: Sampling) -> dict[str, Any]:
    """`sampling` as it stands in the JSON."""
    return asdict(sampling) | {"interval": list(sampling.interval)}


def label_sampling(sampling: dict[str, Any]) -> str:
    low, high = sampling["interval"]
    within = "" if (low, high) == Sampling().interval else f" in {low}-{high}"
    settings = f"guidance {sampling['guidance']:g}{within}, η {sampling['eta']:g}"
    return f"{sampling['solver']} {sampling['steps']} steps, {settings}"


def format_score(metric: str, score: float | None) -> str:
    return "none" if score is None else f"{score:.3f}" if metric in ("stoi", "wer") else f"{score:.2f}"


def compare_samplings(document: dict[str, Any], clips: int) -> list[dict[str, Any]]:
    """Each sampling of the curves against the yardstick: means over the domains, losses in percent.

    The yardstick is the codec of the rows, and comes first. All samplings had the same clips and noise, so the standard
    error of a loss is that of the clips' differences. STOI is for speech only. Only samplings that were measured in
    every domain, on `clips` clips, are compared.
    """
    task = document["task"]
    wanted = {name: min(clips, entry["clips"]) for name, entry in task["clips"].items()}
    groups: dict[str, dict[str, Any]] = {}
    for cell in document["curves"]:
        if "metrics" in cell and wanted.get(cell["domain"]) == cell["clips"]:
            groups.setdefault(name_setting(cell), {})[cell["domain"]] = cell
    complete = {name: cells for name, cells in groups.items() if set(cells) == set(wanted)}
    yardsticks = complete.get(name_setting({"sampling": task["sampling"], **task["backend"]}), {})
    presets = {name: write_sampling(preset) for name, preset in PRESETS.items()} | {"reference": task["sampling"]}
    compared = []
    for cells in [yardsticks, *(cells for cells in complete.values() if cells is not yardsticks)] if yardsticks else []:
        any_cell = next(iter(cells.values()))
        equal = [cell["equal_tokens"] for cell in cells.values() if "equal_tokens" in cell]
        entry = {name: any_cell[name] for name in (*SETTING, "branches")} | {
            "presets": [name for name, sampling in presets.items() if sampling == any_cell["sampling"]],
            "equal_tokens": float(np.mean(equal)) if equal else None,
        }
        for metric in ("mel", "stft", "stoi"):
            if scores := compare_metric(metric, list(cells.values()), list(yardsticks.values())):
                entry[metric] = scores
        compared.append(entry)
    return compared


def name_setting(cell: dict[str, Any]) -> str:
    return json.dumps([cell[name] for name in SETTING], sort_keys=True)


def compare_metric(metric: str, cells: list[dict[str, Any]], yardsticks: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The mean over the domains that have `metric`, and its loss on the yardstick in percent. None if none has it."""
    ours, theirs, errors = [], [], []
    for cell in cells:
        yardstick = next(other for other in yardsticks if other["domain"] == cell["domain"])
        if metric not in cell["metrics"] or metric not in yardstick["metrics"]:
            continue
        values = zip(cell["metrics"][metric]["values"], yardstick["metrics"][metric]["values"], strict=True)
        pairs = np.array([pair for pair in values if None not in pair], np.float64).reshape(-1, 2)
        if len(pairs):
            ours.append(pairs[:, 0].mean())
            theirs.append(pairs[:, 1].mean())
            errors.append(np.std(pairs[:, 0] - pairs[:, 1], ddof=1) / len(pairs) ** 0.5 if len(pairs) > 1 else np.nan)
    if not ours or not np.mean(theirs):
        return None
    percent = 100 / float(np.mean(theirs))
    loss = float(np.mean(ours) - np.mean(theirs)) if metric in DISTANCES else float(np.mean(theirs) - np.mean(ours))
    error = float(np.sqrt(np.square(errors).sum())) / len(errors)
    return {
        "mean": float(np.mean(ours)),
        "loss_percent": percent * loss,
        "standard_error_percent": None if np.isnan(error) else percent * error,
    }


def list_goals(document: dict[str, Any], wanted: Goals = GOALS) -> list[dict[str, Any]]:
    """The `wanted` goals of the embedded model that were measured, and the values that it reached."""
    means = {
        (cell["row"], cell["domain"], metric): score["mean"]
        for cell in document["rows"]
        for metric, score in cell.get("metrics", {}).items()
        if score["mean"] is not None
    }
    goals = []

    def add(goal: str, reached: float, bound: float, at_least: bool) -> None:
        met = reached >= bound if at_least else reached <= bound
        goals.append({"goal": goal, "reached": reached, "at_least" if at_least else "at_most": bound, "met": met})

    for (row, domain, metric), bound in wanted.items():
        if (reached := means.get((row, domain, metric))) is not None:
            add(f"{metric} of {domain}, {row}", reached, bound, at_least=metric == "stoi")
    for (domain, metric), rival in RIVALS.items():
        ours, theirs = means.get((CODEC, domain, metric)), means.get((rival, domain, metric))
        if ours is not None and theirs is not None:
            add(f"{metric} of {domain}, less that of {rival}", ours - theirs, 0.0, at_least=metric == "stoi")
    for cell in document["codebooks"]:
        if cell["domain"] == ALL:
            add(f"share of the {cell['codebook']} codebook used", cell["share"], 0.5, at_least=True)
    return goals
