"""What is installed here, which backends work, why the others do not, and where bundles are found."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from sc_runtime.backends.select import ABSENCES, choose_backend
from sc_runtime.bundle.locate import BUNDLE_VARIABLE, bundles_folder, list_bundles, locate_bundle
from sc_runtime.bundle.store import Bundle
from sc_runtime.errors import CodecError

DISTRIBUTION = "sc-runtime"
#: The CPU features that the speed of networks depends on.
CPU_FEATURES = (
    *("avx", "f16c", "fma", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
)

Findings = dict[str, Any]


def examine() -> Findings:
    """All findings of `sc-runtime doctor`. Raises nothing: a fault is a finding."""
    chosen, bundles = examine_bundles()
    backends = [examine_backend(name, chosen) for name in ABSENCES]
    return {
        "works": any(backend["works"] for backend in backends),
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "cpu": examine_cpu(),
        **examine_packages(),
        "backends": backends,
        "bundles": bundles,
    }


def examine_cpu() -> Findings:
    """Model, number of threads, and features."""
    model, flags = platform.processor() or platform.machine(), set[str]()
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    if found := re.search(r"^model name\s*: (.+)$", text, re.MULTILINE):
        model = found[1]
    if found := re.search(r"^(?:flags|Features)\s*: (.+)$", text, re.MULTILINE):
        flags = set(found[1].split())
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "model": model,
        "threads": os.cpu_count(),
        "usable_threads": usable,
        "features": [feature for feature in CPU_FEATURES if feature in flags],
    }


def examine_packages() -> Findings:
    """Installed versions of the packages that this one requires, and those of each of its extras."""
    packages: dict[str, str | None] = {DISTRIBUTION: find_version(DISTRIBUTION)}
    extras: dict[str, dict[str, str | None]] = {}
    for requirement in metadata.requires(DISTRIBUTION) or [] if packages[DISTRIBUTION] else []:
        if found := re.match(r"[\w.-]+", requirement):
            extra = re.search(r"extra *== *['\"]([\w.-]+)", requirement)
            (extras.setdefault(extra[1], {}) if extra else packages)[found[0]] = find_version(found[0])
    return {"packages": packages, "extras": extras}


def find_version(distribution: str) -> str | None:
    """The installed version. None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def name_bundles_folder() -> str:
    """Where built bundles lie, or why there is no such folder."""
    try:
        return str(bundles_folder())
    except CodecError as error:
        return str(error)


def examine_bundles() -> tuple[Bundle | None, Findings]:
    """The bundle that commands use by default, or None; and findings on all bundles."""
    found = []
    for path in list_bundles():
        problem = None
        try:
            manifest = Bundle.load(path).manifest
            config = manifest.configure()
            facts = {"codec": config.codec, "tps": config.tps, "vocabularies": list(manifest.vocabularies)}
        except CodecError as error:
            facts, problem = {"codec": None, "tps": None, "vocabularies": []}, str(error)
        found.append({"name": path.name, "path": str(path), **facts, "problem": problem})
    findings = {
        "folder": name_bundles_folder(),
        "variable": os.environ.get(BUNDLE_VARIABLE),
        "found": found,
        "chosen": None,
        "problem": None,
    }
    try:
        chosen = Bundle.load(locate_bundle())
        chosen.find_graph(choose_smallest(chosen))
    except CodecError as error:
        return None, findings | {"problem": str(error)}
    return chosen, findings | {"chosen": str(chosen.path)}


def examine_backend(name: str, bundle: Bundle | None) -> Findings:
    """Whether backend `name` works: it is installed, and opens a graph. "tried" is False without a `bundle`."""
    findings: Findings = {"name": name, "works": False, "tried": False, "device": None, "reason": ABSENCES[name]()}
    if findings["reason"] is None:
        try:
            backend = choose_backend(name, bundle=bundle)
            findings["device"] = backend.device
            if bundle:
                findings["tried"] = True
                backend.open(bundle, choose_smallest(bundle))
            findings["works"] = True
        except Exception as error:  # any failure is the finding
            findings["reason"] = f"{type(error).__name__}: {error}"
    return findings


def choose_smallest(bundle: Bundle) -> str:
    """The name of the smallest graph of `bundle`, which loads fastest."""
    manifest = bundle.manifest
    return min(
        manifest.graphs, key=lambda name: sum(manifest.files[file].bytes for file in manifest.graphs[name].files)
    )
