"""Every backend that is installed computes what ONNX Runtime computes."""

from __future__ import annotations

import dataclasses
import importlib.util
import locale
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bench.quality.metrics import mel_distance
from sc_runtime import Codec
from sc_runtime.accuracy import relative_error
from sc_runtime.backends.failures import describe_failure
from sc_runtime.backends.openvino.backend import OpenVinoBackend
from sc_runtime.backends.openvino.graphs import OpenVinoGraph
from sc_runtime.backends.select import ABSENCES, choose_backend
from sc_runtime.bundle.store import EMBEDDED, Bundle
from sc_runtime.errors import BackendError
from sc_runtime.loaded import LoadedBundle
from sc_runtime.registry import MODELS
from sc_runtime.semanticodec.spec import SPEC
from tests.conftest import ROOT

needs_openvino = pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="openvino is not installed")


def error_of_variation(found: np.ndarray, truth: np.ndarray) -> float:
    """The error relative to what varies: a stand-in vocoder's waveform has a large constant part."""
    return relative_error(found - truth.mean(), truth - truth.mean())


@pytest.fixture(scope="module")
def reference(tiny_bundle: Path) -> Codec:
    return Codec.load(tiny_bundle, backend="onnxruntime")


@needs_openvino
def test_openvino_in_float32_gives_the_same_tokens_and_sound(tiny_bundle: Path, reference: Codec, golden: Path) -> None:
    codec = Codec.load(tiny_bundle, backend="openvino", precision="float32")
    tokens = codec.encode(golden / "speech_12s.wav")
    assert tokens == reference.encode(golden / "speech_12s.wav")
    sound = codec.decode(tokens, steps=4, seed=1)
    assert error_of_variation(sound, reference.decode(tokens, steps=4, seed=1)) < 1e-3


#: Encodes and decodes while another thread reads, for each thread of the process, which cores it may run on.
WATCH = """
import os, sys, threading
import numpy as np
from sc_runtime import Codec

seen, done = set(), threading.Event()

def watch():
    while not done.is_set():
        for thread in os.listdir("/proc/self/task"):
            try:
                seen.add(frozenset(os.sched_getaffinity(int(thread))))
            except OSError:  # it has ended
                pass

threading.Thread(target=watch, daemon=True).start()
codec = Codec.load(sys.argv[1], backend="openvino", threads=int(sys.argv[2]) or None)
codec.decode(codec.encode(np.ones(16000, np.float32)), steps=1, guidance=1.0)
done.set()
print(seen == {frozenset(os.sched_getaffinity(0))}, seen)
"""


@needs_openvino
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.parametrize("threads", [0, 1])
def test_openvino_binds_no_thread_to_a_core(tiny_bundle: Path, threads: int) -> None:
    """Else two processes of one thread each run on the same core."""
    command = [sys.executable, "-c", WATCH, str(tiny_bundle), str(threads)]
    seen = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=True).stdout
    assert seen.startswith("True"), seen


@needs_openvino
def test_openvino_by_default_keeps_tokens_exact(tiny_bundle: Path, reference: Codec, golden: Path) -> None:
    codec = Codec.load(tiny_bundle, backend="openvino")
    assert codec.encode(golden / "mixed_4s.wav") == reference.encode(golden / "mixed_4s.wav")


@needs_openvino
def test_openvino_decoding_in_bfloat16_stays_near(tiny_bundle: Path, reference: Codec, golden: Path) -> None:
    """The graphs one by one: over the steps the stand-in networks amplify an error, which trained networks damp."""
    bundle = Bundle.load(tiny_bundle)
    backend = choose_backend("openvino")
    if "bfloat16" not in backend.device:
        pytest.skip("this processor has no bfloat16")
    generator = np.random.default_rng(0)
    for name, bound in {"conditioning": 0.01, "tunet_step": 0.1, "vae_decoder": 0.05, "hifigan": 0.05}.items():
        inputs = bundle.manifest.graphs[name].inputs
        feeds = {
            key: generator.integers(1, 1000, spec.resolve(batch=2, frames=128))
            if spec.dtype == "int64"
            else generator.standard_normal(spec.resolve(batch=2, frames=128), np.float32)
            for key, spec in inputs.items()
        }
        truth = reference.networks.open_graph(name).run(feeds)
        found = backend.open(bundle, name).run(feeds)
        assert found.keys() == truth.keys()
        for key, array in truth.items():
            assert found[key].dtype == np.float32
            error = error_of_variation(found[key], array)
            assert 1e-6 < error < bound, f"{name} {key}: {error}"


@pytest.mark.slow
@needs_openvino
def test_the_vocoders_last_stage_is_not_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loud channels cancel in it. If it is rounded too, the trained vocoder is noisy in this clip's quiet passages."""
    if "bfloat16" not in choose_backend("openvino").device:
        pytest.skip("this processor has no bfloat16")
    exact, rounded = (Codec.load(EMBEDDED, backend="openvino", precision=name) for name in ("float32", "auto"))
    tokens = exact.encode(Path(__file__).parent / "held_out" / "speech_2.flac")
    truth = exact.decode(tokens, preset="fast")
    distance = mel_distance(truth, rounded.decode(tokens, preset="fast"))
    monkeypatch.setitem(SPEC.graphs, "hifigan", dataclasses.replace(SPEC.graphs["hifigan"], float32_tail=None))  # type: ignore[arg-type]
    all_rounded = Codec.load(EMBEDDED, backend="openvino").decode(tokens, preset="fast")
    assert distance < 0.6 * mel_distance(truth, all_rounded)


@needs_openvino
def test_prepare_compiles_the_graph_that_runs(tiny_bundle: Path) -> None:
    parts = LoadedBundle(Bundle.load(tiny_bundle), choose_backend("openvino", precision="float32"))
    graph = parts.prepare_graph("hifigan", batch=1, frames=128)
    graph.run({"mel": np.zeros((1, 64, 128), np.float32)})
    assert len(graph.compiled) == 1  # type: ignore[attr-defined]
    for precision in ("float32", "auto"):
        parts = LoadedBundle(Bundle.load(tiny_bundle), choose_backend("openvino", precision=precision))
        with pytest.raises(BackendError, match=r"OpenVINO failed on shapes \(1, 64, 0\)"):
            parts.prepare_graph("hifigan", batch=1, frames=0)


@needs_openvino
def test_the_locale_stays_when_two_threads_load_graphs(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO sets the locale C while it reads a graph. If two threads restore the locale they found, C may stay."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # so that the graphs are read, compiled and written
    bundle, backend = Bundle.load(tiny_bundle), choose_backend("openvino")
    before = locale.setlocale(locale.LC_ALL)
    for frames in range(64, 64 * 6, 64):
        with ThreadPoolExecutor(2) as pool:
            parts = [LoadedBundle(bundle, backend) for _ in range(2)]
            loaded = [
                pool.submit(parts[0].prepare_graph, "hifigan", batch=1, frames=frames),
                pool.submit(parts[1].prepare_graph, "vae_decoder", batch=frames),
            ]
        assert all(not part.exception() for part in loaded)
        assert locale.setlocale(locale.LC_ALL) == before


def test_no_codec_and_no_graph_is_named_in_the_backends() -> None:
    """Names that are everyday words ("encoder") count only in quotes."""
    names = {name for model in MODELS for name in (model.spec.name, *model.spec.graphs)}
    common = {"encoder", "decoder", "conditioning"}
    anywhere, quoted = ("|".join(sorted(part)) for part in (names - common, names & common))
    pattern = re.compile(rf"\b({anywhere})\b|[\"'`]({quoted})[\"'`]", re.IGNORECASE)
    folders = [ROOT / "runtime" / name for name in ("backends", "cuda")]
    files = [*(file for folder in folders for file in folder.rglob("*.py")), ROOT / "runtime" / "loaded.py"]
    found = [f"{file.name}: {line.strip()}" for file in files for line in file.open() if pattern.search(line)]
    assert not found


@needs_openvino
def test_auto_takes_each_graph_where_it_runs_better(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, auto = Bundle.load(tiny_bundle), choose_backend("auto")
    assert auto.name == "openvino+onnxruntime"
    opened = {name: type(auto.open(bundle, name)).__name__ for name in bundle.manifest.graphs}
    assert opened.pop("acoustic_encoder") == "OnnxRuntimeGraph"
    assert opened.pop("hifigan") == ("JoinedGraph" if "bfloat16" in auto.device else "OpenVinoGraph")
    assert set(opened.values()) == {"OpenVinoGraph"}
    assert choose_backend("auto", precision="bfloat16").name == "openvino"  # asked for all graphs
    monkeypatch.setattr("sc_runtime.backends.openvino.backend.explain_absence", lambda: "gone")
    monkeypatch.setitem(ABSENCES, "openvino", lambda: "gone")
    assert choose_backend("auto").name == "onnxruntime"


@needs_openvino
def test_auto_keeps_tokens_exact(tiny_bundle: Path, reference: Codec, golden: Path) -> None:
    assert Codec.load(tiny_bundle).encode(golden / "speech_12s.wav") == reference.encode(golden / "speech_12s.wav")


def test_a_librarys_message_is_kept_and_a_lack_of_memory_is_named() -> None:
    short = describe_failure("ONNX Runtime failed", RuntimeError("Failed to allocate memory for requested buffer"))
    assert str(short) == (
        "ONNX Runtime failed (Failed to allocate memory for requested buffer); expected inputs that fit in memory: "
        "use a smaller batch"
    )
    assert "memory" in describe_failure("It failed", MemoryError()).expected
    assert (
        "GPU's memory"
        in describe_failure("It failed", RuntimeError("CUDA_ERROR_OUT_OF_MEMORY"), memory="the GPU's memory").expected
    )
    other = describe_failure("OpenVINO failed", RuntimeError("Infer Request is busy"))
    assert "Infer Request is busy" in str(other)
    assert "memory" not in str(other)
    assert "batch" not in str(other)


@needs_openvino
def test_openvinos_message_is_shown_without_its_source_locations(tiny_bundle: Path) -> None:
    graph = choose_backend("openvino").open(Bundle.load(tiny_bundle), "vae_decoder")
    with pytest.raises(BackendError) as error:
        graph.run({"latent": np.zeros((1, 8, 255, 15, 3), np.float32)})
    assert "Exception from" not in str(error.value)
    assert "\n" not in str(error.value)
    assert "memory" not in str(error.value)


@needs_openvino
def test_a_graph_that_openvino_cannot_read_is_one_clear_error(tmp_path: Path) -> None:
    """It is read when it is first compiled."""
    backend, path = OpenVinoBackend(), tmp_path / "graph.onnx"
    path.write_bytes(b"not a graph")
    graph = OpenVinoGraph(backend.core, partial(backend.read_model, path, "build it again"), {})
    with pytest.raises(BackendError, match=r"graph\.onnx: OpenVINO refuses it \(.+\); expected a graph .* build it"):
        graph.prepare({"x": (1,)})


@needs_openvino
def test_bfloat16_on_a_processor_without_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    class Plain:
        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32"]

        def set_property(self, properties: dict) -> None: ...

    monkeypatch.setattr(openvino, "Core", Plain)
    with pytest.raises(BackendError, match="bfloat16 on this processor"):
        choose_backend("openvino", precision="bfloat16")
    assert choose_backend("openvino").device == "CPU"
