"""Graphs in int8 for processors: NNCF quantises weights and activations after training, OpenVINO runs them.

Which graphs, a codec says (`CodecExport.int8`): those whose rounding was measured on the embedded model to be harmless
(`bench/quality.py --curves`, `bench/results/curves-embedded.png`). Of SemantiCodec these are `tunet_step` and
`vae_decoder`. Not the vocoder: 8 bits leave quiet passages full of noise, and the mel distance of music grows by half
or more, even where only its widest convolutions are rounded. Not what encodes: tokens stay exact.

The graphs are OpenVINO's own files. As ONNX (QuantizeLinear, DequantizeLinear) OpenVINO 2026.4 computes the T-UNet
wrongly, by 38 %, and ONNX Runtime runs it no faster than float32.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from sc_runtime.backends.openvino.backend import OpenVinoBackend
from sc_runtime.bundle.manifest import FileEntry
from sc_runtime.bundle.store import Bundle, hash_file
from sc_runtime.codec import Codec
from sc_runtime.errors import MissingExtraError, SettingsError, VerificationError
from sc_runtime.files import link_or_copy
from sc_runtime.networks import Arrays, Graph, Search
from sc_runtime.samples import SPEECH_AND_MUSIC

from .registry import find_export
from .verify import relative_error

TOLERANCE = 0.3  #: relative error over the inputs of a real decoding
PRESET = "fast"  #: what is decoded to see what numbers occur: its steps span the whole schedule


def require_nncf() -> None:
    """Raises MissingExtraError where it is not installed."""
    try:
        import_nncf()
        import openvino  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"--precision int8 without {error.name}", "the extra `int8`", "pip install 'sc-runtime[int8]'"
        ) from None


def import_nncf() -> ModuleType:
    os.environ.setdefault("NNCF_CI", "1")  # it tells its makers nothing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nncf
    return nncf


def round_bundle(bundle: Bundle, folder: Path, report: Callable[[str], None] = lambda line: None) -> Bundle:
    """`bundle` once more with int8 graphs, its files in `folder`, empty; for measurements: no manifest is written.

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


def round_graphs(bundle: Bundle, recipes: Mapping[str, str], report: Callable[[str], None] = lambda line: None) -> None:
    """Replace the float32 graphs named in `recipes` (name -> recipe) by int8 ones, in the folder and the manifest.

    Quantised on every second input that decoding the demo's sample, of two windows, gives them, verified on the others.
    The manifest takes the relative error there, against the float32 graph. Raises VerificationError where it passes
    TOLERANCE.
    """
    report("Decoding the demo's sample, to see what numbers occur")
    backend = OpenVinoBackend(precision="float32")
    recorder = Recorder(backend, frozenset(recipes))
    codec = Codec(bundle, recorder)
    codec.decode(codec.encode(SPEECH_AND_MUSIC), preset=PRESET)
    for name, recipe in recipes.items():
        report(f"{name}: quantising")
        recorded = recorder.inputs[name]
        expected = [recorder.graphs[name].run(feeds) for feeds in recorded[1::2]]
        old = bundle.manifest.graphs[name]
        path = bundle.path / f"{name}.xml"
        quantise(bundle.find_graph(name), recorded[::2], path, attends=name == "tunet_step")
        files = (path.name, path.with_suffix(".bin").name)
        for file in files:
            made = bundle.path / file
            bundle.manifest.files[file] = FileEntry(made.stat().st_size, hash_file(made))
        bundle.manifest.graphs[name] = dataclasses.replace(old, files=files, recipe=recipe, weights={})
        rounded = backend.open(bundle, name)
        found = [rounded.run(feeds) for feeds in recorded[1::2]]
        error = max(
            relative_error(*(np.concatenate([outputs[output] for outputs in cases]) for cases in (found, expected)))
            for output in old.outputs
        )
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


def quantise(source: Path, feeds: list[Arrays], target: Path, attends: bool) -> None:
    """Write the graph `source` to `target` (.xml, weights beside it in .bin), its ranges taken from `feeds`."""
    import openvino

    nncf = import_nncf()
    import logging

    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(source)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        rounded = nncf.quantize(
            model,
            nncf.Dataset(feeds),
            subset_size=len(feeds),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER if attends else None,
        )
    openvino.save_model(rounded, target, compress_to_fp16=False)


class Recorder:
    """A backend that keeps what the graphs `wanted` are given."""

    encode_batch = 1
    gpu = None

    def __init__(self, backend: OpenVinoBackend, wanted: frozenset[str]) -> None:
        self.backend, self.wanted = backend, wanted
        self.name, self.device = backend.name, backend.device
        self.graphs: dict[str, Graph] = {}
        self.inputs: dict[str, list[Arrays]] = {name: [] for name in wanted}

    def open(self, bundle: Bundle, graph: str) -> Graph:
        self.graphs[graph] = self.backend.open(bundle, graph)
        return RecordedGraph(self.graphs[graph], self.inputs[graph]) if graph in self.wanted else self.graphs[graph]

    def open_search(self, codebook: np.ndarray) -> Search:
        return self.backend.open_search(codebook)


class RecordedGraph:
    def __init__(self, graph: Graph, inputs: list[Arrays]) -> None:
        self.graph, self.inputs = graph, inputs

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        self.inputs.append(dict(feeds))  # not copied: a window's keys and values are the same arrays in every step
        return self.graph.run(feeds)
