"""TensorRT plans of a bundle: where they lie and what they must match. TensorRT is imported when it is first needed.

A plan is one graph compiled by one version of one library for one kind of GPU. It lies in
`BUNDLE/plans/LIBRARY-VERSION-smNN/GRAPH.plan`, with a description of what it was made from beside it (GRAPH.json).

Plans are programs, so a plan is loaded only if this user's own build has recorded it. The records lie in the user's
cache folder, named by a hash of the description and of what the plan is for. Emptying the caches keeps them.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from pydantic import TypeAdapter

from sc_runtime.bundle.store import Bundle
from sc_runtime.caches import Cache, make_key
from sc_runtime.errors import BundleError, MissingExtraError

MODULES = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}  #: library, as `--engines` and extras name it -> its module
FOLDER = "plans"
RECORDS = Cache("plans", ".record")  #: of the plans that this user has built; not one of the caches that are emptied
BUILDER = 1  #: version of how `export.plans` builds: plans of another one are stale

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Target:
    """What a plan is for: `library` "tensorrt" or "rtx", its version, the GPU's compute capability."""

    library: str
    version: str
    capability: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.library}-{self.version}-sm{self.capability[0]}{self.capability[1]}"


@dataclass(frozen=True)
class PlanEntry:
    """The description of a plan: `source` is `hash_source` of the graph that it was built from."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "strict": True}

    source: str
    bytes: int
    sha256: str
    seconds: float  #: how long building took


def list_planned(bundle: Bundle) -> list[str]:
    """The graphs of `bundle` that are for GPUs."""
    return [graph for graph in bundle.manifest.graphs if bundle.spec.graphs[graph].profile]


def list_shapes(bundle: Bundle, graph: str) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Input -> its smallest, typical (what a plan is tuned for) and largest shape in a plan of `graph`."""
    return resolve_profile(bundle, graph, bundle.spec.graphs[graph].profile)


def list_profiles(bundle: Bundle, graph: str) -> list[dict[str, tuple[Shape, Shape, Shape]]]:
    """The same of every profile of a plan, the one for the fewest windows first."""
    spec = bundle.spec.graphs[graph]
    return [resolve_profile(bundle, graph, profile) for profile in (spec.few, spec.profile) if profile]


def resolve_profile(
    bundle: Bundle, graph: str, profile: Mapping[str, tuple[int, int, int]]
) -> dict[str, tuple[Shape, Shape, Shape]]:
    sizes = [{axis: sizes[i] for axis, sizes in profile.items()} for i in range(3)]
    inputs = bundle.manifest.graphs[graph].inputs
    return {name: tuple(spec.resolve(**axes) for axes in sizes) for name, spec in inputs.items()}  # type: ignore[misc]


def hash_source(bundle: Bundle, graph: str) -> str:
    """A hash of what a plan of `graph` is built from: the graph's files, the shapes, how it is built."""
    source = [BUILDER, bundle.list_hashes(graph), list_profiles(bundle, graph)]
    return hashlib.sha256(json.dumps(source).encode()).hexdigest()


def locate_plan(bundle: Bundle, graph: str, target: Target) -> Path:
    """Where the plan of `graph` for `target` is, or would be."""
    return bundle.path / FOLDER / str(target) / f"{graph}.plan"


def find_plan(bundle: Bundle, graph: str, target: Target) -> Path:
    """The verified plan of `graph` for `target`. Raises BundleError where it is missing, stale or altered."""
    plan, remedy = locate_plan(bundle, graph, target), describe_remedy(bundle, target)
    entry = read_entry(plan)
    if entry is None or not plan.is_file():
        others = sorted(path.parent.name for path in bundle.path.glob(f"{FOLDER}/*/{plan.name}") if path != plan)
        found = f"there are plans for {', '.join(others)}" if others else "there is none"
        raise BundleError(
            f"{bundle.path}: no plan of {graph} for {target} ({found})", "one for this library and GPU", remedy
        )
    if entry.source != hash_source(bundle, graph):
        raise BundleError(f"{plan} was built from another graph", f"a plan of {bundle.path}/{graph}.onnx", remedy)
    if not is_recorded(plan, entry):
        raise BundleError(f"{plan} was not built by this user", "a plan of your own: plans are programs", remedy)
    bundle.verify_hash(plan.relative_to(bundle.path).as_posix(), entry.sha256, remedy)
    return plan


def read_entry(plan: Path) -> PlanEntry | None:
    """The description beside `plan` of how it was made, or None. Anybody may have written it."""
    try:
        return make_adapter().validate_json(plan.with_suffix(".json").read_bytes())
    except (OSError, ValueError):
        return None


@cache
def make_adapter() -> TypeAdapter[PlanEntry]:
    return TypeAdapter(PlanEntry)


def record(plan: Path, entry: PlanEntry) -> None:
    """Record that this user has built `plan`, whose folder is named by what it is for."""
    RECORDS.write(make_record_key(plan, entry), json.dumps(asdict(entry)).encode())


def is_recorded(plan: Path, entry: PlanEntry | None) -> bool:
    """Whether this user has built the plan that `entry` describes. The caller compares the hash of the file."""
    return entry is not None and RECORDS.read(make_record_key(plan, entry)) is not None


def make_record_key(plan: Path, entry: PlanEntry) -> str:
    return make_key(plan.parent.name, plan.stem, *asdict(entry).values())


def describe_remedy(bundle: Bundle, target: Target) -> str:
    major, minor = target.capability
    named = f" --compute-capability {major}.{minor}" if target.library == "rtx" else ""
    # A command without a precision builds float32 graphs, but with --engines mixed ones.
    stated = " --precision float32" if bundle.manifest.precision == "float32" else ""
    folder = shlex.quote(str(bundle.path))
    return f"build it: {bundle.manifest.command}{stated} --engines {target.library}{named} --out {folder}"


def import_library(library: str) -> ModuleType:
    """The module of `library` "tensorrt" or "rtx". Raises MissingExtraError."""
    try:
        return importlib.import_module(MODULES[library])
    except (ImportError, OSError) as error:  # OSError: a library that it links is not found
        raise MissingExtraError(
            f"{MODULES[library]} cannot be imported ({error})",
            f"the extra `{library}`",
            f"pip install 'sc-runtime[{library}]'",
        ) from error
