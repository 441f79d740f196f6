"""Parts of `bench/gpu.py`: graphs, tokens and sound on a GPU against those of ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.harness.bundles import take_config
from bench.speed.inputs import make_sound
from sc_runtime.backends.select import choose_backend
from sc_runtime.codec import Codec
from sc_runtime.export.accuracy import relative_error
from sc_runtime.semanticodec.model import SemantiCodecModel
from sc_runtime.semanticodec.presets import resolve_sampling
from sc_runtime.semanticodec.windows import split_windows
from sc_runtime.spec import DecodeOptions

SECONDS = 12  #: of the recording
OPTIONS = DecodeOptions(steps=4, seed=1)  #: few steps, as the CPU runs them too


def compare_graphs(codec: Codec) -> dict[str, Any]:
    """Of each graph the largest relative error of its outputs, for two windows of standard normal inputs."""
    cpu, generator, errors = choose_backend("onnxruntime"), np.random.default_rng(0), {}
    for name, entry in codec.bundle.manifest.graphs.items():
        feeds = {}
        for key, spec in entry.inputs.items():
            shape = spec.resolve(batch=2, frames=1024)
            drawn = generator.integers(1, 1000, shape) if spec.dtype == "int64" else generator.standard_normal(shape)
            feeds[key] = drawn.astype(spec.dtype)
        found, truth = codec.networks.open_graph(name).run(feeds), cpu.open(codec.bundle, name).run(feeds)
        errors[name] = max(relative_error(found[key], truth[key]) for key in truth)
    return errors


def compare_whole(codec: Codec) -> dict[str, Any]:
    """Tokens and sound of a recording against those of ONNX Runtime on the CPU, from one bundle and one seed."""
    reference, sound = Codec(codec.bundle, choose_backend("onnxruntime")), make_sound(SECONDS)
    found, expected = codec.encode(sound).codes, reference.encode(sound)
    equal = (found == expected.codes).mean(axis=0)
    decoded, truth = (each.decode(expected, OPTIONS) for each in (codec, reference))
    return {
        "equal_semantic_tokens": equal[0],
        "equal_acoustic_tokens": equal[1],
        "waveform_error": relative_error(decoded, truth),
        "steps": OPTIONS.steps,
        "loop_not_captured": list_refusals(codec, len(expected.codes)),
    }


def list_refusals(codec: Codec, positions: int) -> list[str]:
    """Why denoising loops of a decode of `positions` positions are not CUDA graphs; empty if all are."""
    config = take_config(codec.bundle)
    assert isinstance(codec.model, SemantiCodecModel) and codec.model.decoder is not None
    decoder, windows = codec.model.decoder, len(split_windows(positions, config))
    batches = {min(decoder.batch, windows - start) for start in range(0, windows, decoder.batch)}
    with decoder.device.lock:
        groups = [decoder.prepare(batch, resolve_sampling(OPTIONS), config.schedule) for batch in sorted(batches)]
    return [group.loop.refusal for group in groups if group.loop.refusal]
