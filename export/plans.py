"""ONNX graph to TensorRT plan, by polygraphy, for TensorRT and TensorRT-RTX alike.

Networks are strongly typed: a plan computes in the types that its graph states, and float32 is float32, not TF32. A
plan that matches is kept. A neighbouring bundle's plan of the same graph is linked.

TensorRT times its kernels on the GPU at hand, and keeps the times in the user's cache folder for the next build.
TensorRT-RTX compiles kernels when a plan is loaded, so it builds without a GPU and without timing.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sc_runtime.backends.tensorrt.plans import (
    FOLDER,
    MODULES,
    PlanEntry,
    Shape,
    Target,
    find_plan,
    hash_source,
    import_library,
    is_recorded,
    list_planned,
    list_profiles,
    locate_plan,
    read_entry,
    record,
)
from sc_runtime.bundle.locate import list_bundles
from sc_runtime.bundle.store import Bundle, hash_file
from sc_runtime.caches import Cache
from sc_runtime.cuda.device import find_capability
from sc_runtime.errors import BackendError, BundleError, MissingExtraError, SettingsError, first_line
from sc_runtime.files import link_or_copy, make_folder, replacing, write_atomically

DEFAULT_CAPABILITY = (8, 9)  #: compute capability of TensorRT-RTX's plans if there is no GPU
TIMINGS = Cache("tensorrt", ".timings")  #: measured times of kernels; TensorRT need not measure them again
LOGGER = "Polygraphy"  #: the name under which polygraphy logs


@dataclass(frozen=True)
class BuiltPlan:
    graph: str
    target: Target
    bytes: int
    seconds: float  #: the time that its building took, now or earlier


def choose_targets(engines: str | None, capabilities: str | None) -> list[Target]:
    """The targets that `--engines` and `--compute-capability` name.

    Raises SettingsError for an unknown value or a contradiction, BackendError if TensorRT finds no GPU,
    MissingExtraError if a library is not installed.
    """
    if engines is None:
        if capabilities is not None:
            raise SettingsError(f"--compute-capability {capabilities} without engines", "--engines rtx")
        return []
    if engines not in MODULES:
        raise SettingsError(f"--engines {engines}", f"one of {', '.join(MODULES)}")
    if engines == "tensorrt" and capabilities is not None:
        raise SettingsError(
            f"--compute-capability {capabilities} with TensorRT", "none: its plans are for the GPU at hand"
        )
    module, present = import_library(engines), find_capability()
    if engines == "tensorrt":
        if present is None:
            raise BackendError(
                "--engines tensorrt without a GPU",
                "the GPU that the plans are for",
                "or --engines rtx, which needs none",
            )
        chosen = [present]
    elif capabilities is None:
        chosen = [present or DEFAULT_CAPABILITY]
    else:
        chosen = parse_capabilities(capabilities)
    if engines == "rtx":
        check_capabilities(chosen, module)
    return [Target(engines, module.__version__, capability) for capability in chosen]


def parse_capabilities(text: str) -> list[tuple[int, int]]:
    """Such as "8.9,12.0"."""
    parts = [re.fullmatch(r"(\d+)\.(\d)", part.strip()) for part in text.split(",")]
    if not all(parts):
        raise SettingsError(f"--compute-capability {text}", 'numbers such as "8.9" or "8.9,12.0"')
    return list(dict.fromkeys((int(part[1]), int(part[2])) for part in parts if part))


def check_capabilities(capabilities: list[tuple[int, int]], module: Any) -> None:
    known = sorted(int(name[2:]) for name in dir(module.ComputeCapability) if re.fullmatch(r"SM\d+", name))
    for major, minor in capabilities:
        if 10 * major + minor not in known:
            raise SettingsError(
                f"compute capability {major}.{minor}",
                f"one that TensorRT-RTX {module.__version__} builds for: "
                + ", ".join(f"{number // 10}.{number % 10}" for number in known),
            )


def build_plans(
    bundle: Bundle, target: Target, *, force: bool = False, report: Callable[[str], None] = lambda line: None
) -> list[BuiltPlan]:
    """Build a plan for `target` of every graph in `bundle` that is for GPUs. `force` rebuilds plans that exist.

    Raises BundleError, BackendError, OutputError, SettingsError.
    """
    if not force:
        reuse_plans(bundle, [path for path in list_bundles(bundle.path.parent) if path != bundle.path], str(target))
    built = []
    for graph in list_planned(bundle):
        try:
            plan = None if force else find_plan(bundle, graph, target)
        except BundleError:
            plan = None
        if plan is None:
            report(f"{graph}: compiling for {target}")
            plan = build_plan(bundle, graph, target)
        entry = read_entry(plan)
        assert entry is not None
        built.append(BuiltPlan(graph, target, entry.bytes, entry.seconds))
    return built


def build_plan(bundle: Bundle, graph: str, target: Target) -> Path:
    """Compile one graph and write its plan. An older plan is replaced."""
    path, started = bundle.find_graph(graph, "tensorrt"), time.perf_counter()
    compiled = memoryview(compile_graph(path, list_profiles(bundle, graph), target))
    plan = locate_plan(bundle, graph, target)
    make_folder(plan.parent, bundle.path)
    with replacing(plan) as temporary:
        temporary.write_bytes(compiled)
        sha256 = hash_file(temporary)
    seconds = round(time.perf_counter() - started, 2)
    entry = PlanEntry(hash_source(bundle, graph), compiled.nbytes, sha256, seconds)
    write_atomically(plan.with_suffix(".json"), (json.dumps(dataclasses.asdict(entry), indent=1) + "\n").encode())
    record(plan, entry)
    return plan


def reuse_plans(bundle: Bundle, donors: Iterable[Path], target: str = "*") -> None:
    """Link the donors' plans for `target` (its name, or "*" for any) of graphs that `bundle` has too.

    Plans that another user built are not linked.
    """
    for donor in donors:
        for plan in donor.glob(f"{FOLDER}/{target}/*.plan"):
            entry, own = read_entry(plan), bundle.path / plan.relative_to(donor)
            if entry is None or plan.stem not in bundle.manifest.graphs or own.exists() or own.is_symlink():
                continue
            if not is_recorded(plan, entry) or entry.source != hash_source(bundle, plan.stem):
                continue
            if plan.is_file() and hash_file(plan) == entry.sha256:
                make_folder(own.parent, bundle.path)
                link_or_copy(plan, own)
                write_atomically(own.with_suffix(".json"), plan.with_suffix(".json").read_bytes())


def compile_graph(path: Path, given: Sequence[dict[str, tuple[Shape, Shape, Shape]]], target: Target) -> Any:
    """The plan of the ONNX file `path` with one profile for each of `given`, in TensorRT's own buffer.

    Raises BackendError with TensorRT's message.
    """
    trt, rtx = import_polygraphy(target.library)
    profiles = []
    for shapes in given:
        profiles.append(trt.Profile())
        for name, (least, typical, most) in shapes.items():
            profiles[-1].add(name, least, typical, most)
    with collecting() as said, keeping_timings(target) as cache:
        if target.library == "rtx":
            config = rtx.CreateConfigRTX(compute_capabilities=[target.capability], profiles=profiles)
        else:
            config = trt.CreateConfig(load_timing_cache=cache, profiles=profiles)
        try:
            builder, network, parser = trt.network_from_onnx_path(str(path), strongly_typed=True)
            allow_decomposition(target.library, network)
            return trt.engine_bytes_from_network(
                (builder, network, parser),
                config=trt.PostprocessConfig(config, partial(use_float32, target.library)),
                save_timing_cache=cache,
            )
        except Exception as error:  # polygraphy's exceptions and those of the bindings have no common base
            reason = first_line(next(iter(said), error))
            raise BackendError(
                f"{path}: {MODULES[target.library]} {target.version} refuses it ({reason})",
                "a graph that it can compile",
                "try another version of the library",
            ) from error


def allow_decomposition(library: str, network: Any) -> None:
    """Let attention be computed as products and a softmax where no fused kernel takes its shape and types.

    Fused kernels lack float32 and small heads. Without this, TensorRT then refuses the graph.
    """
    module = import_library(library)
    if not hasattr(module, "IAttentionOutputLayer"):
        return
    for place in range(network.num_layers):
        layer = network.get_layer(place)
        if layer.type == module.LayerType.ATTENTION_OUTPUT:
            layer.__class__ = module.IAttentionOutputLayer  # as the bindings have it: get_layer returns the base class
            layer.attention.decomposable = True


def use_float32(library: str, builder: Any, network: Any, config: Any) -> None:
    """Float32 without TF32: TF32 has the 11 bits of half precision, which do not suffice for the islands."""
    config.clear_flag(import_library(library).BuilderFlag.TF32)


@contextmanager
def keeping_timings(target: Target) -> Iterator[str | None]:
    """Yield the path of the timings of kernels for `target`, and keep what the block writes there.

    None for TensorRT-RTX, which times no kernels.
    """
    if target.library == "rtx":
        yield None
        return
    key = str(target).replace(".", "_")
    with tempfile.TemporaryDirectory(prefix="sc-runtime-") as folder:
        path = Path(folder, "timings")
        path.write_bytes(b"" if (kept := TIMINGS.read(key)) is None else kept.tobytes())
        yield str(path)
        if data := path.read_bytes():
            TIMINGS.write(key, data)


def import_polygraphy(library: str) -> tuple[Any, Any]:
    """Polygraphy's modules for TensorRT and for TensorRT-RTX. A process can use one of the two libraries."""
    try:
        import polygraphy.config
        from polygraphy.logger import G_LOGGER
    except ImportError:
        raise MissingExtraError(
            "polygraphy is not installed", "the extra `export`", "pip install 'sc-runtime[export]'"
        ) from None
    G_LOGGER.module_severity, G_LOGGER.use_python_logging_system = G_LOGGER.ERROR, True
    G_LOGGER.colors = G_LOGGER.letter = False
    wanted = library == "rtx"
    if "polygraphy.backend.trt" in sys.modules and wanted != polygraphy.config.USE_TENSORRT_RTX:
        raise SettingsError(f"engines of {library} after those of the other library", "one of them in a process")
    polygraphy.config.USE_TENSORRT_RTX = wanted
    import polygraphy.backend.tensorrt_rtx
    import polygraphy.backend.trt

    return polygraphy.backend.trt, polygraphy.backend.tensorrt_rtx


@contextmanager
def collecting() -> Iterator[Sequence[str]]:
    """Yields the error messages of polygraphy and TensorRT, line by line, instead of printing them."""
    lines: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(LOGGER)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
