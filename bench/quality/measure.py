"""Measuring: the rows, the use of the codebooks, and the curves. Only what the results lack is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from bench.harness.bundles import take_config
from sc_runtime.codec import Codec
from sc_runtime.errors import BackendError, MissingExtraError, SettingsError
from sc_runtime.semanticodec.presets import PRESETS, Sampling
from sc_runtime.semanticodec.samplers import SOLVERS
from sc_runtime.semanticodec.schedule import choose_timesteps

from .baselines import BASELINES, explain_absence
from .clips import Domain, choose_clips, digest
from .metrics import find_delay, measure_use, undo_delay
from .results import ALL, CEILING, CODEC, FLOOR, SEMANTIC, Results, write_sampling
from .systems import Source, Systems

CURVE_METRICS = ("mel", "stft", "stoi")
SOLVER_LINES = (("ddim", 1.0), ("ddim", 0.0), ("dpm", 0.0), ("unipc", 0.0))  #: (solver, eta) of the curves


@dataclass(frozen=True)
class CurvePlan:
    """The points of the curves: samplings, the yardstick first, and the yardstick in OpenVINO's `precisions`."""

    samplings: list[Sampling]
    precisions: list[str]
    clips: int


def measure_rows(source: Source, systems: Systems, sampling: Sampling, results: Results) -> None:
    """Measure every row of one domain that the results lack."""
    domain, config = source.domain, systems.codec.config
    chosen = list(range(len(source.clips)))

    def is_missing(row: str, **more: Any) -> bool:
        return results.find("rows", {"row": row, "domain": domain.name, **more}, domain.metrics) is None

    def add(row: str, decoded: list[np.ndarray], bitrate: float | None, **more: Any) -> None:
        result = {"bitrate": bitrate, **more} | measure(domain, chosen, decoded, domain.metrics)
        results.add("rows", {"row": row, "domain": domain.name}, result)

    def skip(row: str, reason: str) -> None:
        if is_missing(row):
            results.skip("rows", {"row": row, "domain": domain.name}, reason)

    several = len(source.clips) > 1
    if is_missing(CODEC) or (several and is_missing(FLOOR)):
        decoded = source.decode(systems.codec, sampling, chosen)
        add(CODEC, decoded, config.bitrate)
        if several:
            add(FLOOR, [decoded[i - 1] for i in chosen], config.bitrate)
    if not several:
        skip(FLOOR, "it takes two clips")
    if domain.ceiling is None:
        skip(CEILING, domain.ceiling_absence)
    elif is_missing(CEILING, source=digest(domain.ceiling)):
        add(CEILING, list(domain.ceiling), None, source=digest(domain.ceiling))
    if is_missing(SEMANTIC):
        share = config.bits[0] / sum(config.bits)
        add(SEMANTIC, source.decode(systems.semantic, sampling, chosen), config.bitrate * share)
    for baseline in BASELINES:
        if reason := explain_absence(baseline):
            skip(baseline.name, reason)
        elif is_missing(baseline.name):
            trips = [baseline.run(clip) for clip in source.clips]
            add(baseline.name, [trip.samples for trip in trips], float(np.mean([trip.bitrate for trip in trips])))


def measure(domain: Domain, chosen: Sequence[int], decoded: list[np.ndarray], metrics: list[str]) -> dict[str, Any]:
    """One system's delay, and for each metric the mean, the standard error and the value of each clip.

    decoded: what became of the clips `chosen`.
    """
    originals = [domain.clips[i] for i in chosen]
    delay = find_delay(zip(originals, decoded, strict=True))
    aligned = [undo_delay(sound, delay, len(clip)) for clip, sound in zip(originals, decoded, strict=True)]
    scores = {}
    for name in metrics:
        values = [domain.score(name, i, sound) for i, sound in zip(chosen, aligned, strict=True)]
        scores[name] = summarise(values) | {"values": values}
    return {"clips": len(originals), "delay_samples": delay, "metrics": scores}


def summarise(values: list[float | None]) -> dict[str, Any]:
    """The mean and the standard error of the values that are not None, and their number."""
    known = [value for value in values if value is not None]
    error = float(np.std(known, ddof=1) / len(known) ** 0.5) if len(known) > 1 else None
    return {"mean": float(np.mean(known)) if known else None, "standard_error": error, "of": len(known)}


def measure_codebooks(sources: list[Source], results: Results) -> None:
    """Measure how much of both codebooks the tokens use, in each domain and in all together.

    The tokens are those of every held-out clip. Few tokens would show too little: 3072 tokens, drawn evenly from 4096
    entries, use 53 % of the entries.
    """
    clips = {source.domain.name: len(source.domain.whole) for source in sources}
    clips[ALL] = sum(clips.values())
    for column, (book, entries) in enumerate(sources[0].codec.config.codebook_sizes.items()):
        keys = {domain: {"codebook": book, "domain": domain, "clips": count} for domain, count in clips.items()}
        if all(results.find("codebooks", key) for key in keys.values()):
            continue
        codes = {source.domain.name: source.whole_codes[:, column] for source in sources}
        for domain, part in (codes | {ALL: np.concatenate(list(codes.values()))}).items():
            results.add("codebooks", keys[domain], asdict(measure_use(part, entries)))


def list_samplings(reference: Sampling, steps: str, guidance: str, intervals: str = "none") -> list[Sampling]:
    """The samplings of the curves, each once: the yardstick `reference` first, then the presets, then its variations.

    steps: numbers of steps; every solver runs each.
    guidance: scales of guidance for the yardstick.
    intervals: pairs LOW-HIGH of timesteps in which the yardstick's guidance acts, or "none".

    All three are comma-separated. Raises SettingsError.
    """
    try:
        counts, scales = [int(part) for part in steps.split(",")], [float(part) for part in guidance.split(",")]
        bounds = [part.split("-") for part in intervals.split(",") if intervals != "none"]
        spans = [(int(low), int(high)) for low, high in bounds]
    except ValueError:
        given = f"--curve-steps {steps} --curve-guidance {guidance} --curve-intervals {intervals}"
        raise SettingsError(given, "numbers, comma-separated, such as 5,10 and 1,2 and 0-800,200-1000") from None
    samplings = [reference, *(preset for name, preset in PRESETS.items() if name != "reference")]
    for solver, eta in SOLVER_LINES:
        samplings += [replace(reference, solver=solver, eta=eta, steps=count) for count in counts]
    samplings += [replace(reference, guidance=scale) for scale in scales]
    samplings += [replace(reference, interval=span) for span in spans]
    return list(dict.fromkeys(samplings))


def count_branches(sampling: Sampling, codec: Codec) -> int:
    """Number of T-UNet branches that one window costs. Raises SettingsError for steps that cannot work."""
    nodes = choose_timesteps(sampling.steps, take_config(codec.bundle).schedule, SOLVERS[sampling.solver].spacing)[:-1]
    low, high = sampling.interval
    guided = 0 if sampling.guidance == 1 else sum(low <= node <= high for node in nodes.tolist())
    return len(nodes) + guided


def measure_curves(source: Source, systems: Systems, plan: CurvePlan, results: Results) -> None:
    """Measure every point of the curves of one domain that the results lack."""
    domain = source.domain
    metrics = [name for name in domain.metrics if name in CURVE_METRICS]
    chosen = choose_clips(len(source.clips), plan.clips)
    base = {"domain": domain.name, "clips": len(chosen)}

    def add(sampling: Sampling, open_codec: Callable[[], Codec], backend: str, precision: str) -> None:
        key = base | {"sampling": write_sampling(sampling), "backend": backend, "precision": precision}
        if results.find("curves", key, metrics):
            return
        try:
            codec = open_codec()
            branches = count_branches(sampling, codec)
        except (SettingsError, BackendError, MissingExtraError) as error:
            results.skip("curves", key, str(error))
            return
        result = {"branches": branches} | measure(domain, chosen, source.decode(codec, sampling, chosen), metrics)
        if codec is not systems.codec:
            pairs = [(codec.encode(source.clips[i]).codes, source.tokens[i].codes) for i in chosen]
            result["equal_tokens"] = float(np.mean([(ours == theirs).mean() for ours, theirs in pairs]))
        results.add("curves", key, result)

    for sampling in plan.samplings:
        add(sampling, lambda: systems.codec, **results.document["task"]["backend"])
    for precision in plan.precisions:
        open_precise = partial(systems.choose_precision, precision)
        add(plan.samplings[0], open_precise, "openvino", precision)
