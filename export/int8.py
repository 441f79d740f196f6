"""Bundles with graphs in int8, for processors.

`CodecExport.int8` lists the graphs: those whose rounding proved harmless in measurements on the embedded model
(`bench.quality.run --curves`, `bench/results/curves-embedded.png`). For SemantiCodec these are `tunet_step` and
`vae_decoder`. The vocoder stays float32: 8 bits leave quiet passages full of noise, and the mel distance of music grows
by half or more, even if only its widest convolutions are rounded. Graphs that encode stay float32, so that tokens
stay exact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sc_runtime.accuracy import relative_error
from sc_runtime.backends.openvino.backend import OpenVinoBackend
from sc_runtime.bundle.manifest import FileEntry
from sc_runtime.bundle.store import Bundle, hash_file
from sc_runtime.errors import MissingExtraError, SettingsError, VerificationError
from sc_runtime.files import link_or_copy
from sc_runtime.libraries import import_openvino
from sc_runtime.networks import Arrays, Graph

from .calibration import import_nncf, quantise, record_decoding
from .registry import find_export
from .spec import Report

TOLERANCE = 0.3  #: relative error over the inputs of a real decoding


def require_nncf() -> None:
    """Raises MissingExtraError if NNCF or OpenVINO is not installed."""
    try:
        import_nncf()
        import_openvino()
    except ImportError as error:
        raise MissingExtraError(
            f"--precision int8 without {error.name}", "the extra `int8`", "pip install 'sc-runtime[int8]'"
        ) from None


def round_bundle(bundle: Bundle, folder: Path, report: Report = lambda line: None) -> Bundle:
    """A copy of `bundle` with int8 graphs, its files in the empty `folder`. For measurements: it has no manifest file.

    Raises SettingsError unless `bundle` is float32.
    """
    if bundle.manifest.precision != "float32":
        raise SettingsError(f"int8 of {bundle.name}, which is {bundle.manifest.precision}", "a float32 bundle")
    manifest = dataclasses.replace(
        bundle.manifest, precision="int8", graphs=dict(bundle.manifest.graphs), files=dict(bundle.manifest.files)
    )
    for file in manifest.files:
        link_or_copy(bundle.path / file, folder / file)
    rounded = Bundle(folder, manifest)
    round_graphs(rounded, dict.fromkeys(find_export(manifest.codec).int8, ""), report)
    return rounded


def round_graphs(bundle: Bundle, recipes: Mapping[str, str], report: Report = lambda line: None) -> None:
    """Replace the float32 graphs named in `recipes` (name -> recipe) by int8 ones, in the folder and the manifest.

    Each graph is calibrated on every second input that it gets when the demo's recording is decoded. It is verified on
    the others, against the float32 graph. The manifest states the relative error. Raises VerificationError if that is
    over TOLERANCE.
    """
    report("Decoding the demo's recording, for the ranges of numbers")
    backend = OpenVinoBackend(precision="float32")
    recorder = record_decoding(bundle, recipes, backend)
    attends = find_export(bundle.manifest.codec).int8
    for name, recipe in recipes.items():
        report(f"{name}: quantising")
        recorded = recorder.inputs[name]
        expected = [recorder.graphs[name].run(feeds) for feeds in recorded[1::2]]
        old = bundle.manifest.graphs[name]
        path = bundle.path / f"{name}.xml"
        quantise(bundle.find_graph(name), recorded[::2], path, attends=attends[name])
        files = (path.name, path.with_suffix(".bin").name)
        for file in files:
            made = bundle.path / file
            bundle.manifest.files[file] = FileEntry(made.stat().st_size, hash_file(made))
        bundle.manifest.graphs[name] = dataclasses.replace(old, files=files, recipe=recipe, weights={})
        error = compare(backend.open(bundle, name), recorded[1::2], expected)
        if not error <= TOLERANCE:
            raise VerificationError(
                f"graph {name}: relative error {error:.2e} in int8",
                f"at most {TOLERANCE}",
                "no bundle was written; build with --precision float32",
            )
        bundle.manifest.graphs[name] = dataclasses.replace(bundle.manifest.graphs[name], error=error)
        for file in old.files:
            del bundle.manifest.files[file]
            (bundle.path / file).unlink()


def compare(graph: Graph, inputs: list[Arrays], expected: list[dict[str, np.ndarray]]) -> float:
    """The largest relative error among the outputs of `graph`, each over all `inputs` together."""
    found = [graph.run(feeds) for feeds in inputs]
    return max(
        relative_error(*(np.concatenate([outputs[output] for outputs in cases]) for cases in (found, expected)))
        for output in expected[0]
    )
