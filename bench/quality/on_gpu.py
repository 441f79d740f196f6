"""Parts of `bench/gpu.py`: graphs, tokens and sound on a GPU against torch in float32 on the same GPU."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from bench.harness.bundles import find_sizes, remake_weights
from bench.harness.gpu import VARIANT, choose_torch_device, open_backend, open_bundle
from bench.harness.parts import Session
from bench.speed.inputs import make_sound
from sc_runtime.accuracy import relative_error
from sc_runtime.backends.base import Backend
from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.store import Bundle
from sc_runtime.codec import Codec
from sc_runtime.errors import first_line
from sc_runtime.export.registry import find_export, read_tensors
from sc_runtime.export.spec import load_network
from sc_runtime.export.verify import draw_inputs
from sc_runtime.spec import DecodeOptions

SECONDS = 12  #: of the recording that UniCodec encodes
TOKEN_SECONDS = 60  #: of the one whose tokens SemantiCodec makes, 1500 positions at 50 tokens a second
DECODED_SECONDS = 10  #: of it that are decoded too
REHEARSED_SECONDS = 1
OPTIONS = DecodeOptions(steps=4, seed=1)
CASES = 2  #: sets of inputs, of different sizes
KEPT: list[object] = []  #: graphs, until the process ends: dropping one has aborted it (part "release")


def check_graphs(session: Session) -> dict[str, Any]:
    """Every graph of SemantiCodec on ONNX Runtime against its torch network."""
    return compare_graphs(session, open_bundle(session))


def check_unicodec_graphs(session: Session) -> dict[str, Any]:
    return compare_graphs(session, open_bundle(session, "unicodec"))


def compare_graphs(session: Session, bundle: Bundle) -> dict[str, Any]:
    """Of each graph, as it was exported and as its variant, the relative error of its outputs against torch in float32.

    A graph that cannot be run has the reason instead.
    """
    import torch

    device = choose_torch_device(session)
    backends = {"exported": open_backend(session, None)}
    if not session.rehearsal:
        backends[VARIANT] = open_backend(session)
    export, sizes, weights = find_export(bundle.manifest.codec), find_sizes(bundle), remake_weights(bundle)
    errors: dict[str, Any] = {name: {} for name in backends}
    modules: dict[str, torch.nn.Module] = {}
    for name, entry in bundle.manifest.graphs.items():
        graph = export.graphs[name]
        if graph.network not in modules:
            modules.clear()
            network = export.networks[graph.network]
            tensors = read_tensors(network.file, weights, sizes)
            modules[graph.network] = load_network(network, sizes, tensors).to(device)
        reference = graph.refer(modules[graph.network], sizes).to(device)
        for kind, backend in backends.items():
            if kind == VARIANT and VARIANT not in entry.variants:
                continue
            try:
                errors[kind][name] = compare_graph(backend, bundle, name, reference, device)
            except Exception as error:  # one graph that fails must not hide the others
                errors[kind][name] = f"failed: {type(error).__name__}: {first_line(error)}"
            session.keep(errors)
    return errors


def compare_graph(backend: Backend, bundle: Bundle, name: str, reference: Any, device: str) -> list[float]:
    """The largest relative error of the graph's outputs, for each set of inputs; not a number if one is none."""
    import torch

    entry, graph = bundle.manifest.graphs[name], backend.open(bundle, name)
    KEPT.append(graph)
    errors = []
    for feeds in itertools.islice(draw_inputs(entry.inputs), CASES):
        found = graph.run(feeds)
        with torch.inference_mode(), torch.device(device):
            given = (torch.from_numpy(feed).to(device) for feed in feeds.values())
            truth = reference(*(tensor.float() if tensor.is_floating_point() else tensor for tensor in given))
        truths = truth if isinstance(truth, tuple) else (truth,)
        pairs = zip(entry.outputs, truths, strict=True)
        errors.append(float(np.max([relative_error(found[key], tensor.cpu().numpy()) for key, tensor in pairs])))
    return errors


def compare_tokens(session: Session) -> dict[str, Any]:
    """Tokens and sound of a recording against those of ONNX Runtime on the CPU, from one bundle and one seed.

    A share of equal tokens has a standard error of about sqrt(p (1 - p) / positions). The acoustic tokens are counted
    once more where the semantic tokens are equal: the acoustic encoder reads the semantic centroids.
    """
    bundle = open_bundle(session)
    codec = Codec(bundle, open_backend(session))
    reference = Codec(bundle, choose_backend("onnxruntime"))
    sound = make_sound(REHEARSED_SECONDS if session.rehearsal else TOKEN_SECONDS)
    results = count_equal(codec.encode(sound).codes, reference.encode(sound).codes)
    session.keep(results)
    expected = reference.encode(sound[: round(DECODED_SECONDS * codec.sample_rate)])
    decoded, truth = (each.decode(expected, OPTIONS) for each in (codec, reference))
    return results | {"waveform_error": relative_error(decoded, truth), "steps": OPTIONS.steps}


def count_equal(found: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    """The share of equal semantic and acoustic tokens, of codes [T, 2]."""
    equal = found == expected
    semantic, acoustic = equal.mean(axis=0)
    same = equal[equal[:, 0], 1]
    return {
        "positions": len(equal),
        "equal_semantic_tokens": semantic,
        "equal_acoustic_tokens": acoustic,
        "equal_acoustic_tokens_where_semantic_are": float(same.mean()) if len(same) else None,
    }


def check_unicodec(session: Session) -> dict[str, Any]:
    """UniCodec end to end on the GPU: the share of equal tokens and the sound's error against the CPU."""
    bundle = open_bundle(session, "unicodec")
    codec, reference = Codec(bundle, open_backend(session)), Codec(bundle, choose_backend("onnxruntime"))
    sound = make_sound(REHEARSED_SECONDS if session.rehearsal else SECONDS, codec.sample_rate)
    found, expected = codec.encode(sound), reference.encode(sound)
    decoded, truth = codec.decode(expected), reference.decode(expected)
    return {
        "equal_tokens": float(np.mean(found.codes == expected.codes)),
        "waveform_error": relative_error(decoded, truth),
    }
