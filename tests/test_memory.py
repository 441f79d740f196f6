"""Memory does not grow with the number of different lengths. Counts and bytes, not seconds."""

from __future__ import annotations

import gc
import importlib.util
import weakref
from pathlib import Path

import numpy as np
import pytest

from sc_runtime import Codec
from sc_runtime.backends.openvino.graphs import KEPT_SHAPES
from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.store import Bundle
from tests.conftest import flush_compiled

STATUS = Path("/proc/self/statm")
needs_openvino = pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="openvino is not installed")


def measure_memory() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    return int(STATUS.read_text().split()[1]) * 4096


@needs_openvino
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_a_graph_stays_compiled_for_a_few_shapes(precision: str, tiny_bundle: Path) -> None:
    graph = choose_backend("openvino", precision=precision).open(Bundle.load(tiny_bundle), "hifigan")
    halves = [graph.head, graph.tail] if hasattr(graph, "head") else [graph]
    compiled: list[weakref.ref] = []
    sounds = {}
    for frames in [64 * (1 + turn % 6) for turn in range(8)]:
        mel = np.random.default_rng(frames).standard_normal((1, 64, frames), np.float32)
        sound = graph.run({"mel": mel})["waveform"]
        np.testing.assert_array_equal(sounds.setdefault(frames, sound), sound)  # the same after it was dropped
        for half in halves:
            assert len(half.compiled) <= KEPT_SHAPES
            newest = half.compiled.keys()[-1]
            compiled.append(weakref.ref(half.compiled.get(newest, lambda: pytest.fail("gone"))))
    gc.collect()
    assert len({id(alive()) for alive in compiled if alive() is not None}) <= KEPT_SHAPES * len(halves)


@needs_openvino
@pytest.mark.skipif(not STATUS.exists(), reason="not Linux")
def test_new_lengths_take_no_more_memory_than_the_longest(tiny_unicodec: Path) -> None:
    """Without a bound each new length took some megabytes, for good."""
    codec = Codec.load(tiny_unicodec, backend="openvino")
    generator = np.random.default_rng(0)

    def use(samples: int) -> None:
        codec.decode(codec.encode(0.1 * generator.standard_normal(samples, np.float32)))

    for samples in (48_000, *generator.integers(2000, 48_000, 9).tolist()):  # the longest first
        use(samples)
    flush_compiled()  # the graphs of this test and of those before it
    before = measure_memory()
    for samples in generator.integers(2000, 48_000, 20).tolist():
        use(samples)
    assert measure_memory() - before < 50e6
