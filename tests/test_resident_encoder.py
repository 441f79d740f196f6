"""Encoding on a GPU, emulated: the tokens of the CPU, no copies between the stages, and the choice of the BiLSTM."""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sc_runtime import Codec
from sc_runtime.accuracy import relative_error
from sc_runtime.backends import lstm_choice
from sc_runtime.backends.lstm_child import compare
from sc_runtime.backends.lstm_choice import IN_TURN, LIBRARY_LSTM, TOGETHER, WAYS, Trial
from sc_runtime.backends.lstm_reference import run_in_float32
from sc_runtime.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend
from sc_runtime.bundle.store import Bundle
from sc_runtime.bundle.weights import MappedWeights
from sc_runtime.cuda.lstm import LstmCall
from sc_runtime.errors import BackendError
from sc_runtime.export.registry import find_export
from sc_runtime.export.semanticodec.networks.acoustic_encoder import AcousticEncoder, restore_lstm
from sc_runtime.export.weights import read_weights
from tests.emulated_device import EmulatedDevice, Emulations
from tests.test_tensorrt import PROCESSOR

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="NOT EMULATED: there is no g++")
RATE = 16_000


class CountingDevice(EmulatedDevice):
    """It notes the bytes of every copy from the host (`written`) and to it (`fetched`)."""

    def __init__(self, emulations: Emulations) -> None:
        super().__init__(emulations, processors=2, quick_search=True)
        self.written: list[int] = []
        self.fetched: list[int] = []

    def write(self, address: int, array: np.ndarray) -> None:
        self.written.append(array.nbytes)
        super().write(address, array)

    def read(self, address: int, array: np.ndarray) -> None:
        self.fetched.append(array.nbytes)
        super().read(address, array)


def open_backend(emulations: Emulations, way: str = LIBRARY_LSTM) -> OnnxRuntimeCudaBackend:
    gpu: Any = CountingDevice(emulations)
    backend = OnnxRuntimeCudaBackend(gpu, PROCESSOR)
    backend.lstm = way
    return backend


def make_sound(seconds: float, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(int(RATE * seconds), np.float32)


@needs_compiler
def test_tokens_are_those_of_the_cpu(tiny_bundle: Path, emulations: Emulations) -> None:
    """Short sound, whose other positions are padding; silence; several windows at once; another vocabulary."""
    bundle = Bundle.load(tiny_bundle)
    codec, reference = Codec(bundle, open_backend(emulations)), Codec.load(tiny_bundle, backend="onnxruntime")
    sounds = [make_sound(0.02), make_sound(3.3), np.zeros(RATE, np.float32), make_sound(21, seed=1)]
    for sound in sounds:
        assert codec.encode(sound) == reference.encode(sound)
    together = list(codec.encode_many(sounds, batch=3))
    assert together == [reference.encode(sound) for sound in sounds]
    assert codec.encode(sounds[1], vocab=4096) == reference.encode(sounds[1], vocab=4096)


@needs_compiler
def test_only_filterbanks_go_there_and_only_tokens_come_back(tiny_bundle: Path, emulations: Emulations) -> None:
    backend = open_backend(emulations)
    codec = Codec(Bundle.load(tiny_bundle), backend)
    codec.encode(make_sound(12))
    device: Any = backend.gpu
    device.written.clear()
    device.fetched.clear()
    codec.encode(make_sound(12))
    windows, positions = 2, 256
    assert device.written == [4 * windows * 1024 * 128, 4 * windows * positions]  # and a row number a position
    assert device.fetched == [2 * 4 * windows * positions]


@needs_compiler
def test_features_that_are_not_finite_are_refused_as_on_the_cpu(tiny_bundle: Path, emulations: Emulations) -> None:
    bundle = Bundle.load(tiny_bundle)
    codec, reference = Codec(bundle, open_backend(emulations)), Codec.load(tiny_bundle, backend="onnxruntime")
    window = np.full((1024, 128), np.inf, np.float32)
    for each in (codec, reference):
        with pytest.raises(BackendError, match="expected finite features"):
            each.model.encode_windows([window], each.config, None)  # type: ignore[arg-type]


# --- the kernel -------------------------------------------------------------------------------------------------------


@needs_compiler
def test_the_kernel_encodes_an_fp16_bundle(tiny_fp16_bundle: Path, emulations: Emulations) -> None:
    """Nearly all tokens are those of the FP16 graphs on the CPU, where ONNX Runtime does not round h."""
    backend = open_backend(emulations, TOGETHER)
    codec, reference = (
        Codec(Bundle.load(tiny_fp16_bundle), backend),
        Codec.load(tiny_fp16_bundle, backend="onnxruntime"),
    )
    sound = make_sound(1)
    found, expected = codec.encode(sound).codes, reference.encode(sound).codes
    np.testing.assert_array_equal(found[:, 0], expected[:, 0])
    assert (found[:, 1] == expected[:, 1]).mean() > 0.9
    graph: Any = codec.networks.open_graph("acoustic_encoder")
    assert isinstance(graph.bind(dict.fromkeys(("features", "acoustic"), 256), batch=1), LstmCall)


@pytest.mark.slow
@needs_compiler
def test_a_trial_compares_all_ways(tiny_fp16_bundle: Path, emulations: Emulations) -> None:
    trial = compare(open_backend(emulations), Bundle.load(tiny_fp16_bundle), "acoustic_encoder", windows=(1,), runs=1)
    assert list(trial.seconds) == list(trial.errors) == list(WAYS)
    assert 0 < trial.errors[LIBRARY_LSTM] < 2e-3
    assert 0 < trial.errors[TOGETHER] == trial.errors[IN_TURN] < 2e-3
    assert trial.choose() == LIBRARY_LSTM  # an emulation is slower


def test_the_truth_of_a_trial_is_the_lstm_of_torch_in_float64(tiny_fp16_bundle: Path) -> None:
    """From the same weights, which are float16; 1e-6 is the rounding of float32."""
    bundle = Bundle.load(tiny_fp16_bundle)
    sizes = find_export("semanticodec").choose_sizes("tiny", 50, bundle.manifest.vocabularies[-1])
    network = AcousticEncoder(sizes).double()
    network.load_state_dict(restore_lstm(read_weights(bundle, "acoustic_encoder")))
    x = np.random.default_rng(0).standard_normal((9, 2 * sizes.config.feature_width), np.float32)
    with torch.inference_mode():
        truth = network(torch.from_numpy(x).double()).numpy()
    weights = MappedWeights(bundle.path, bundle.manifest.graphs["acoustic_encoder"].weights).arrays
    found = run_in_float32(weights, x)
    assert found.dtype == np.float32
    assert relative_error(found, truth) < 1e-6


class WrongGraph:
    """A graph whose results are a factor off, as those of a library that adds too coarsely."""

    def __init__(self, graph: Any, factor: float) -> None:
        self._graph, self._factor = graph, factor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._graph, name)

    def bind(self, addresses: dict[str, int], **axes: int) -> Any:
        call = self._graph.bind(addresses, **axes)

        def enqueue() -> None:
            call.enqueue()
            result = np.empty(self._graph.resolve(**axes)["acoustic"], np.float32)
            self._graph.device.read(addresses["acoustic"], result)
            self._graph.device.write(addresses["acoustic"], result * np.float32(self._factor))

        return SimpleNamespace(enqueue=enqueue)


@needs_compiler
@pytest.mark.parametrize("factor", [1.0, 1.03, float("nan")])
def test_a_library_that_is_not_right_is_not_chosen(
    factor: float, tiny_fp16_bundle: Path, emulations: Emulations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However fast it is: it is no truth. The ways are all the library's here, so that this is quick."""
    backend: Any = open_backend(emulations)
    opened = type(backend).open

    def open_graph(bundle: Bundle, graph: str) -> Any:
        way, backend.lstm = backend.lstm, LIBRARY_LSTM
        found = opened(backend, bundle, graph)
        return WrongGraph(found, factor) if way == LIBRARY_LSTM else WrongGraph(found, 1.0)

    monkeypatch.setattr(backend, "open", open_graph)
    trial = compare(backend, Bundle.load(tiny_fp16_bundle), "acoustic_encoder", windows=(1, 4), runs=1)
    assert list(trial.errors) == list(WAYS)
    fast = dataclasses.replace(trial, seconds=trial.seconds | {LIBRARY_LSTM: [0, 0]})  # type: ignore[operator]
    assert (fast.choose() == LIBRARY_LSTM) == (factor == 1)
    assert max(trial.errors[way] for way in WAYS[1:]) < 2e-3
    if factor == 1.03:
        assert 0.02 < trial.errors[LIBRARY_LSTM] < 0.04


def test_float32_bundles_keep_the_librarys_lstm(tiny_bundle: Path, tiny_fp16_bundle: Path) -> None:
    """The kernel would round their weights, and tokens would change."""
    assert not lstm_choice.has_choice(Bundle.load(tiny_bundle), "acoustic_encoder")
    assert lstm_choice.has_choice(Bundle.load(tiny_fp16_bundle), "acoustic_encoder")
    assert not lstm_choice.has_choice(Bundle.load(tiny_fp16_bundle), "audiomae")


def test_the_fastest_way_that_is_right_is_chosen() -> None:
    seconds = {LIBRARY_LSTM: [0.05, 0.05], TOGETHER: [0.01, 0.02], IN_TURN: [0.02, 0.02]}
    assert Trial(seconds, dict.fromkeys(WAYS, 1e-3)).choose() == TOGETHER
    assert Trial(seconds, {LIBRARY_LSTM: 0, TOGETHER: 0.5, IN_TURN: 1e-3}).choose() == IN_TURN
    assert Trial(seconds, {LIBRARY_LSTM: 0, TOGETHER: float("nan"), IN_TURN: 0.02}).choose() == LIBRARY_LSTM
    assert Trial(seconds, {LIBRARY_LSTM: 0.02, TOGETHER: 0.02, IN_TURN: 1e-3}).choose() == IN_TURN
    assert Trial(seconds, dict.fromkeys(WAYS, 0.02)).choose() == LIBRARY_LSTM  # nothing is right
    assert Trial({**seconds, LIBRARY_LSTM: [0.001, 0.001]}, dict.fromkeys(WAYS, 1e-3)).choose() == LIBRARY_LSTM
    assert Trial({}, {}, "it failed").choose() == LIBRARY_LSTM


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        pytest.param("import time; time.sleep(60)", "timed out", marks=pytest.mark.slow),
        ("raise SystemExit('no GPU')", "ended with code 1: no GPU"),
        ("pass", "ended with code 0: it printed nothing"),
        ("print('[]')", r"ended with code 0: \[\]"),
        ("import os; os.abort()", "ended with code -6"),
    ],
)
def test_a_trial_that_fails_says_why(program: str, reason: str) -> None:
    trial = lstm_choice.run_trial([sys.executable, "-c", program], seconds=5)
    assert trial.choose() == LIBRARY_LSTM
    assert trial.failure
    assert re.search(reason, trial.failure)


def test_a_trial_runs_once(tiny_fp16_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls: list[tuple[str, ...]] = []

    def run(command: list[str]) -> Trial:
        calls.append(tuple(command[1:]))
        return Trial({LIBRARY_LSTM: [2, 2], IN_TURN: [1, 1]}, {IN_TURN: 1e-3})

    monkeypatch.setattr(lstm_choice, "run_trial", run)
    bundle = Bundle.load(tiny_fp16_bundle)
    for gpu in ("one", "one", "another"):
        trial = lstm_choice.find_trial(bundle, "acoustic_encoder", "onnxruntime-cuda", "onnxruntime 1.31", gpu)
        assert trial.choose() == IN_TURN
    wanted = ("-m", lstm_choice.CHILD, "onnxruntime-cuda", str(bundle.path), "acoustic_encoder")
    assert calls == [wanted, wanted]


@pytest.mark.parametrize("trial", [Trial({}, {}, "timed out"), Trial({IN_TURN: [1, 1]}, {IN_TURN: 0.5})])
def test_a_trial_that_keeps_the_librarys_lstm_says_so_in_every_process(
    trial: Trial, tiny_fp16_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And how to try again: after that, one is run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(lstm_choice, "run_trial", lambda command: trial)
    arguments = (Bundle.load(tiny_fp16_bundle), "acoustic_encoder", "onnxruntime-cuda", "onnxruntime 1.31", "one")
    said: list[list[str]] = []
    monkeypatch.setattr(lstm_choice.log, "warning", lambda text, *given: said[-1].append(text % given))
    for _ in range(3):
        said.append([])
        assert lstm_choice.find_trial(*arguments).choose() == LIBRARY_LSTM
        if len(said) == 2:
            pattern, folder = re.search(r"remove (\S+) from (\S+)$", said[1][0]).groups()  # type: ignore[union-attr]
            (kept,) = Path(folder).glob(pattern)
            kept.unlink()
    first, second, third = said
    assert len(first) == 2 and "comparing the ways" in first[0]
    assert second[0].startswith(f"{first[1]}; to compare again, ") and len(second) == 1
    assert third == first


def test_without_a_gpu_a_trial_leaves_the_librarys_lstm(tiny_fp16_bundle: Path) -> None:
    trial = lstm_choice.run_trial(
        [sys.executable, "-m", lstm_choice.CHILD, "onnxruntime-cuda", str(tiny_fp16_bundle), "acoustic_encoder"]
    )
    if trial.failure is None:
        pytest.skip("there is a GPU")
    assert "onnxruntime-gpu is not installed" in trial.failure or "GPU" in trial.failure
