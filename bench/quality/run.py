"""How good what comes back is, on held-out clips, beside bounds and other codecs: `python bench/quality.py`.

    python bench/quality.py --bundle PATH --held-out FOLDER --ceiling FOLDER --curves

FOLDER holds `held-out-speech.npy`, `-music` and `-sound`: int16 [M, n] at 16 kHz. Every result goes into the JSON when
it is there, and a run that is started again computes what is missing. `bench/README.md` says how to read it.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Annotated, Any

import numpy as np
import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, Python looks in bench/ only

from bench.machine import describe_commit, describe_machine, list_versions
from bench.quality.baselines import BASELINES
from bench.quality.chart import draw_curves, draw_quality
from bench.quality.metrics import (
    explain_absence,
    find_delay,
    measure_use,
    mel_distance,
    speech_pesq,
    speech_stoi,
    stft_distance,
    undo_delay,
)
from bench.quality.results import ALL, CEILING, CODEC, DISTANCES, DOMAINS, FLOOR, SEMANTIC, Results, log, write_sampling
from bench.quality.tables import print_results
from bench.rtf import RESULTS, require
from bench.speed.semanticodec import take_config
from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.locate import locate_bundle
from sc_runtime.bundle.manifest import MANIFEST
from sc_runtime.bundle.store import Bundle, hash_file
from sc_runtime.cli.program import run_app
from sc_runtime.codec import Codec
from sc_runtime.errors import BackendError, MissingExtraError, SettingsError
from sc_runtime.files import replacing
from sc_runtime.semanticodec.conditioning import Codebooks
from sc_runtime.semanticodec.config import SAMPLE_RATE, SEGMENT_SAMPLES, SemantiCodecConfig
from sc_runtime.semanticodec.model import SemantiCodecModel
from sc_runtime.semanticodec.presets import PRESETS, Sampling, resolve_sampling
from sc_runtime.semanticodec.samplers import SOLVERS
from sc_runtime.semanticodec.schedule import choose_timesteps
from sc_runtime.spec import DecodeOptions
from sc_runtime.tokens import Tokens

#: One sample less than a window: 163 840 are 260 positions, and a second window would be decoded for four of them.
CLIP_SAMPLES = SEGMENT_SAMPLES - 1
METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float | None]] = {
    "mel": mel_distance,
    "stft": stft_distance,
    "stoi": speech_stoi,
    "pesq": speech_pesq,
}
CURVE_METRICS = ("mel", "stft", "stoi")
SOLVER_LINES = (("ddim", 1.0), ("ddim", 0.0), ("dpm", 0.0), ("unipc", 0.0))  #: (solver, eta) of the curves
VERSIONS = ("scipy", "soxr", "pystoi", "pesq")  #: of packages that take part beside the codec's

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    held_out: Annotated[Path, typer.Option(help="The folder of held-out-speech.npy, -music and -sound.")],
    bundle: Annotated[
        str | None, typer.Option(help="A bundle's folder or name; else $SC_RUNTIME_BUNDLE, else the newest.")
    ] = None,
    ceiling: Annotated[
        Path | None, typer.Option(help="A folder of ceiling-speech.npy and so on: the clips through VAE and HiFi-GAN.")
    ] = None,
    clips: Annotated[int | None, typer.Option(help="Clips of a domain, evenly chosen; by default all.")] = None,
    steps: Annotated[int | None, typer.Option(help="Diffusion steps, instead of the reference's 50.")] = None,
    curves: Annotated[
        bool, typer.Option("--curves", help="Quality against steps, solver, guidance and precision, and the presets.")
    ] = False,
    curve_clips: Annotated[int, typer.Option(help="Clips of a domain for the curves, of those above.")] = 8,
    curve_steps: Annotated[str, typer.Option(help="Steps of the curves.")] = "5,8,10,20,50",
    curve_guidance: Annotated[str, typer.Option(help="Guidances of the curves.")] = "1,1.5,2,3,4",
    curve_intervals: Annotated[
        str, typer.Option(help="Intervals of guidance of the curves; none to skip.")
    ] = "0-800,200-1000,400-1000",
    curve_precision: Annotated[
        str, typer.Option(help="Precisions of OpenVINO; none to skip.")
    ] = "float32,bfloat16,int8",
    backend: Annotated[str, typer.Option(help="What runs the networks.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; all by default.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The JSON; charts lie beside it. By default bench/results/quality-BUNDLE.json."),
    ] = None,
    no_chart: Annotated[bool, typer.Option("--no-chart", help="Write no PNG.")] = False,
) -> None:
    """Measure quality on held-out clips; print tables, write JSON and charts."""
    for name, count in (("--clips", clips), ("--curve-clips", curve_clips)):
        if count is not None and count < 1:
            raise SettingsError(f"{name} {count}", "at least 1")
    require("matplotlib", "bench", wanted=not no_chart)
    sampling = resolve_sampling(DecodeOptions(steps=steps))
    precisions = [] if curve_precision == "none" else curve_precision.split(",")
    if not set(precisions) <= {"float32", "bfloat16", "int8"}:
        raise SettingsError(f"--curve-precision {curve_precision}", "float32,bfloat16,int8, some of them or none")
    plan = Plan(list_samplings(sampling, curve_steps, curve_guidance, curve_intervals), precisions, curve_clips)
    domains = load_domains(held_out, ceiling, clips)
    loaded = Bundle.load(locate_bundle(bundle))
    take_config(loaded)  # raises for another codec
    if loaded.manifest.precision != "float32":
        plan = replace(plan, precisions=[])  # its graphs have the one they have
    codec = Codec(loaded, choose_backend(backend, threads, precision, loaded))
    count_branches(sampling, codec)  # raises for steps that cannot work
    out = out or RESULTS / f"quality-{loaded.name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    results = Results.open(out, describe_task(loaded, domains, sampling, backend, precision))
    log.print(f"Bundle {loaded.name}: {loaded.manifest.weights}")
    for metric in METRICS:
        if reason := explain_absence(metric):
            log.print(f"No {metric}: {reason}")

    sources = [Source(codec, domain) for domain in domains]
    with TemporaryDirectory() as folder:
        systems = Systems(codec, drop_acoustic(codec), threads, Path(folder))
        for source in sources:
            measure_rows(source, systems, sampling, results)
        measure_codebooks(sources, results)
        for source in sources if curves else []:
            measure_curves(source, systems, plan, results)
    results.finish(describe_run(codec), curve_clips)
    print_results(results.document)
    log.print(f"Wrote {out}", soft_wrap=True)
    if not no_chart:
        for path, draw in list_charts(out, results.document):
            with replacing(path) as temporary:
                draw(results.document, temporary)
            log.print(f"Wrote {path}", soft_wrap=True)


@dataclass(frozen=True)
class Plan:
    """What the curves are of: samplings, the yardstick first, which also runs in OpenVINO's `precisions`."""

    samplings: list[Sampling]
    precisions: list[str]
    clips: int


@dataclass(frozen=True)
class Domain:
    """Held-out clips of one kind, float32 [M, n], and what the ceiling made of them, where that is to be had.

    `whole` are the clips that these were chosen from, int16.
    """

    name: str
    whole: np.ndarray
    clips: np.ndarray
    ceiling: np.ndarray | None
    ceiling_absence: str = ""

    @property
    def metrics(self) -> list[str]:
        """What is measured on it, of what is installed."""
        wanted = METRICS if self.name == "speech" else DISTANCES
        return [name for name in wanted if explain_absence(name) is None]


def load_domains(held_out: Path, ceiling: Path | None, count: int | None) -> list[Domain]:
    """The domains that `held_out` holds, `count` clips of each. Raises SettingsError for none and for damaged files."""
    domains = []
    for name in DOMAINS:
        path = held_out / f"held-out-{name}.npy"
        if not path.is_file():
            log.print(f"No {name}: {path} is not there", soft_wrap=True)
            continue
        whole = load_clips(path)
        chosen = choose_clips(len(whole), count or len(whole))
        clips = to_float(whole[chosen, :CLIP_SAMPLES])
        if ceiling is None:
            domains.append(Domain(name, whole, clips, None, "no --ceiling folder given"))
            continue
        path = ceiling / f"ceiling-{name}.npy"
        if not path.is_file():
            domains.append(Domain(name, whole, clips, None, f"no {path.name} in the --ceiling folder"))
            continue
        bound = load_clips(path)
        if len(bound) != len(whole):
            raise SettingsError(f"{path}: {len(bound)} clips", f"one for each of the {len(whole)} held out")
        domains.append(Domain(name, whole, clips, to_float(bound[chosen])))
    if not domains:
        names = ", ".join(f"held-out-{name}.npy" for name in DOMAINS)
        raise SettingsError(f"--held-out {held_out}", f"a folder with one of {names}")
    return domains


def load_clips(path: Path) -> np.ndarray:
    """int16 [M, n], mapped. Raises SettingsError."""
    try:
        clips = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise SettingsError(f"{path} cannot be read ({error})", "an .npy of int16 [clips, samples]") from error
    if clips.dtype != np.int16 or clips.ndim != 2 or not len(clips) or clips.shape[1] < SAMPLE_RATE:
        expected = "int16 [clips, samples] at 16 kHz, a second at least"
        raise SettingsError(f"{path}: {clips.dtype} {list(clips.shape)}", expected)
    return clips


def choose_clips(total: int, count: int) -> list[int]:
    """`count` of `total` indices, evenly spread, as clips may be sorted; all where there are not so many."""
    return [i * total // count for i in range(count)] if count < total else list(range(total))


def to_float(clips: np.ndarray) -> np.ndarray:
    return clips.astype(np.float32) / 32768


class SemanticModel(SemantiCodecModel):
    """The codec without acoustic tokens: zeros in place of Ea, Es as ever.

    The paper's ablation (Table II, "w.o. Acoustic VQ") trained a decoder without them, which is another model. Zeros
    are what this decoder knows as "nothing said": its unconditional input is zeros in both halves. (The most frequent
    token, the alternative, says something, and mostly something wrong.)
    """

    def open_codebooks(self, config: SemantiCodecConfig) -> Codebooks:
        nothing = np.zeros((config.acoustic_vocab, config.feature_width), np.float32)
        return Codebooks(super().open_codebooks(config).semantic, nothing)


def drop_acoustic(codec: Codec) -> Codec:
    """The codec of the same bundle on the same backend, as a `SemanticModel`."""
    semantic = Codec(codec.bundle, codec.backend)
    semantic.model = SemanticModel(semantic.networks)
    return semantic


class Systems:
    """Our codec in its forms, each loaded once: as it is, without acoustic tokens, and in OpenVINO's precisions.

    `folder`, empty, takes what has to be made for them.
    """

    def __init__(self, codec: Codec, semantic: Codec, threads: int | None, folder: Path) -> None:
        self.codec, self.semantic, self.threads, self.folder = codec, semantic, threads, folder
        self._precise: dict[str, Codec] = {}

    def choose_precision(self, precision: str) -> Codec:
        """Every network in `precision` with OpenVINO; "int8" is that of the graphs that are built so, else float32.

        Raises MissingExtraError, BackendError where that cannot be.
        """
        if precision not in self._precise:
            bundle = self.round_bundle() if precision == "int8" else self.codec.bundle
            backend = choose_backend("openvino", self.threads, "float32" if precision == "int8" else precision)
            self._precise[precision] = Codec(bundle, backend)
        return self._precise[precision]

    def round_bundle(self) -> Bundle:
        """The bundle with int8 graphs. Raises MissingExtraError."""
        try:
            from sc_runtime.export.int8 import require_nncf, round_bundle
        except ImportError as error:
            given = f"int8 without {error.name}"
            raise MissingExtraError(given, "the extra `int8`", "pip install 'sc-runtime[int8]'") from None
        require_nncf()
        return round_bundle(self.codec.bundle, Path(mkdtemp(dir=self.folder)), log.print)


class Source:
    """The clips of a domain and their tokens, which are computed when first asked for."""

    def __init__(self, codec: Codec, domain: Domain) -> None:
        self.codec, self.domain = codec, domain
        self.clips = list(domain.clips)

    @cached_property
    def tokens(self) -> list[Tokens]:
        log.print(f"{self.domain.name}: encoding {len(self.clips)} clips")
        return [self.codec.encode(clip) for clip in self.clips]

    @cached_property
    def whole_codes(self) -> np.ndarray:
        """Codes int32 [T, 2] of every held-out clip, those that nothing else is measured on too."""
        log.print(f"{self.domain.name}: encoding all {len(self.domain.whole)} clips")
        return np.concatenate([self.codec.encode(to_float(clip[:CLIP_SAMPLES])).codes for clip in self.domain.whole])

    def decode(self, codec: Codec, sampling: Sampling, chosen: Iterable[int]) -> list[np.ndarray]:
        """The sound of the chosen clips' tokens; clip i always with the noise of seed i."""
        return [
            codec.decode(
                self.tokens[i],
                solver=sampling.solver,
                steps=sampling.steps,
                guidance=sampling.guidance,
                eta=sampling.eta,
                interval=sampling.interval,
                seed=i,
            )
            for i in chosen
        ]


def describe_task(
    bundle: Bundle, domains: list[Domain], sampling: Sampling, backend: str, precision: str
) -> dict[str, Any]:
    """What results must agree in to stand in one file."""
    config = take_config(bundle)
    return {
        "bundle": {
            "name": bundle.name,
            "weights": bundle.manifest.weights,
            "tps": config.tps,
            "vocab": config.vocab,
            "acoustic_vocab": config.acoustic_vocab,
            "bitrate": config.bitrate,
            "sha256": hash_file(bundle.path / MANIFEST),
        },
        "clips": {
            domain.name: {"clips": len(domain.clips), "samples": domain.clips.shape[1], "sha256": digest(domain.clips)}
            for domain in domains
        },
        "sampling": write_sampling(sampling),
        "backend": {"backend": backend, "precision": precision},
    }


def describe_run(codec: Codec) -> dict[str, Any]:
    """When, on what and with what the latest run was."""
    versions = list_versions(*VERSIONS)
    for package in dict.fromkeys(baseline.package for baseline in BASELINES):
        if version := ask_debian(package):
            versions[package] = version
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": describe_commit(),
        "machine": describe_machine(),
        "device": f"{codec.backend.name}: {codec.backend.device}",
        "versions": versions,
        "absent": {metric: reason for metric in METRICS if (reason := explain_absence(metric))},
    }


def ask_debian(package: str) -> str | None:
    """The version of a Debian package, where there is Debian: c2enc does not tell its own."""
    command = ["dpkg-query", "-W", "-f=${Version}", package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout or None


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def measure_rows(source: Source, systems: Systems, sampling: Sampling, results: Results) -> None:
    """Every row of one domain that is not in the results yet."""
    domain, config = source.domain, systems.codec.config
    chosen = range(len(source.clips))

    def is_missing(row: str, **more: Any) -> bool:
        return results.find("rows", {"row": row, "domain": domain.name, **more}, domain.metrics) is None

    def add(row: str, decoded: list[np.ndarray], bitrate: float | None, **more: Any) -> None:
        result = {"bitrate": bitrate, **more} | measure(source.clips, decoded, domain.metrics)
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
        if reason := baseline.explain_absence():
            skip(baseline.name, reason)
        elif is_missing(baseline.name):
            trips = [baseline.run(clip) for clip in source.clips]
            add(baseline.name, [trip.samples for trip in trips], float(np.mean([trip.bitrate for trip in trips])))


def measure(originals: list[np.ndarray], decoded: list[np.ndarray], metrics: list[str]) -> dict[str, Any]:
    """What one system made of the clips: its delay, and each metric's mean, standard error and value of each clip."""
    delay = find_delay(zip(originals, decoded, strict=True))
    aligned = [undo_delay(sound, delay, len(clip)) for clip, sound in zip(originals, decoded, strict=True)]
    scores = {}
    for name in metrics:
        values = [METRICS[name](clip, sound) for clip, sound in zip(originals, aligned, strict=True)]
        scores[name] = summarise(values) | {"values": values}
    return {"clips": len(originals), "delay_samples": delay, "metrics": scores}


def summarise(values: list[float | None]) -> dict[str, Any]:
    """Mean and standard error of the values there are, and how many those are."""
    known = [value for value in values if value is not None]
    error = float(np.std(known, ddof=1) / len(known) ** 0.5) if len(known) > 1 else None
    return {"mean": float(np.mean(known)) if known else None, "standard_error": error, "of": len(known)}


def measure_codebooks(sources: list[Source], results: Results) -> None:
    """How much of both codebooks the tokens use, of each domain and of all together: those of every held-out clip.

    Not of a few: 3072 tokens drawn evenly from 4096 entries would be of 53 % of them.
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
    """The yardstick, the presets, every solver at every one of `steps`, and the yardstick at every one of `guidance`.

    And with guidance in every one of `intervals`, if that is not "none". All are comma-separated. Raises SettingsError.
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
    """T-UNet branches that one window costs. Raises SettingsError for steps that cannot work."""
    nodes = choose_timesteps(sampling.steps, take_config(codec.bundle).schedule, SOLVERS[sampling.solver].spacing)[:-1]
    low, high = sampling.interval
    guided = 0 if sampling.guidance == 1 else sum(low <= node <= high for node in nodes.tolist())
    return len(nodes) + guided


def measure_curves(source: Source, systems: Systems, plan: Plan, results: Results) -> None:
    """Every point of the curves of one domain that is not in the results yet."""
    domain = source.domain
    metrics = [name for name in domain.metrics if name in CURVE_METRICS]
    chosen = choose_clips(len(source.clips), plan.clips)
    originals = [source.clips[i] for i in chosen]
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
        result = {"branches": branches} | measure(originals, source.decode(codec, sampling, chosen), metrics)
        if codec is not systems.codec:
            pairs = [(codec.encode(source.clips[i]).codes, source.tokens[i].codes) for i in chosen]
            result["equal_tokens"] = float(np.mean([(ours == theirs).mean() for ours, theirs in pairs]))
        results.add("curves", key, result)

    for sampling in plan.samplings:
        add(sampling, lambda: systems.codec, **results.document["task"]["backend"])
    for precision in plan.precisions:
        open_precise = partial(systems.choose_precision, precision)
        add(plan.samplings[0], open_precise, "openvino", precision)


def list_charts(out: Path, document: dict[str, Any]) -> list[tuple[Path, Callable[[dict[str, Any], Path], None]]]:
    """The charts that the results allow: quality-NAME.png, and curves-NAME.png beside it."""
    charts: list[tuple[Path, Callable[[dict[str, Any], Path], None]]] = [(out.with_suffix(".png"), draw_quality)]
    if document["samplings"]:
        charts.append((out.with_name(f"curves-{out.stem.removeprefix('quality-')}.png"), draw_curves))
    return charts


if __name__ == "__main__":
    run_app(app)
