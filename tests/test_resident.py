"""Decoding on a GPU, emulated: what is copied, who records the step, and several files of the command line together."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sc_runtime import Codec
from sc_runtime.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend
from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.app import app
from sc_runtime.cli.program import run_command
from sc_runtime.cuda.graph import Addresses, Call, DeviceGraph, Shapes
from sc_runtime.semanticodec import resident
from sc_runtime.tokens import Tokens
from tests.emulated_device import Emulations
from tests.test_backends import error_of_variation
from tests.test_resident_encoder import CountingDevice, open_backend
from tests.test_tensorrt import PROCESSOR

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="NOT EMULATED: there is no g++")
TOLERANCE = 1e-4  #: float32, the solver's sums in another order


def draw_codes(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 4096, (count, 2))


def test_only_tokens_go_there_and_only_sound_comes_back(tiny_bundle: Path, emulations: Emulations) -> None:
    """Once weights and codebooks are there. The solver's table and its seeds, some bytes a step, go there too."""
    backend = open_backend(emulations)
    codec, steps = Codec(Bundle.load(tiny_bundle), backend), 2
    device: Any = backend.gpu
    for _ in range(2):
        device.written.clear()
        device.fetched.clear()
        sound = codec.decode(draw_codes(256), steps=steps, vocab=4096)
    positions = 256
    tokens, table, counter, sources = 4 * 2 * positions, (steps + 1) * resident.ROW.itemsize, 8, 24
    assert device.written == [tokens, table, counter, sources]
    assert len(device.fetched) == 1
    assert device.fetched[0] >= sound.nbytes


class RecordingBackend(OnnxRuntimeCudaBackend):
    """Its T-UNet records itself, unless there is a `refusal`. It notes the batch of each call that it binds so."""

    refusal: str | None = None

    def __init__(self, device: Any) -> None:
        super().__init__(device, PROCESSOR)
        self.recorded: list[int] = []
        self.runs = 0

    def open(self, bundle: Bundle, graph: str) -> DeviceGraph:
        opened = super().open(bundle, graph)
        if graph != "tunet_step":
            return opened

        def prepare(shapes: Shapes, addresses: Addresses) -> Call:
            return CountedCall(self, opened._prepare(shapes, addresses))

        def record(shapes: Shapes, addresses: Addresses) -> Call:
            self.recorded.append(shapes["latent"][0])
            return prepare(shapes, addresses)

        explain = {"explain": lambda axes: self.refusal, "record": record}
        return DeviceGraph(self.gpu, opened.spec, opened.inputs, opened.outputs, prepare, **explain)


class CountedCall:
    def __init__(self, backend: RecordingBackend, call: Call) -> None:
        self.backend, self.call = backend, call

    def enqueue(self) -> None:
        self.backend.runs += 1
        self.call.enqueue()


@pytest.mark.parametrize("refusal", [None, "a trial found: replay 0 differs from a run by 1.4"])
def test_a_tunet_that_records_itself_runs_once_a_step_and_a_refusal_is_said(
    refusal: str | None, tiny_bundle: Path, emulations: Emulations, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, bundle = CountingDevice(emulations), Bundle.load(tiny_bundle)
    backend = RecordingBackend(device)
    backend.refusal = refusal
    said: list[str] = []
    monkeypatch.setattr(resident.log, "warning", lambda text, *values: said.append(text % values))
    codec, codes = Codec(bundle, backend), draw_codes(100)
    found = codec.decode(codes, steps=2, seed=3, vocab=4096)
    assert backend.recorded == ([] if refusal else [2])
    assert device.captured == 0  # a library that records itself must not be recorded
    before = backend.runs
    again = codec.decode(codes, steps=3, solver="unipc", eta=0.0, vocab=4096)  # the same step, launched again
    assert backend.runs == before + 3
    assert len(backend.recorded) == (0 if refusal else 1)
    reference = Codec.load(tiny_bundle, backend="onnxruntime")
    assert error_of_variation(found, reference.decode(codes, steps=2, seed=3, vocab=4096)) < TOLERANCE
    expected = reference.decode(codes, steps=3, solver="unipc", eta=0.0, vocab=4096)
    assert error_of_variation(again, expected) < TOLERANCE
    slower = f"the denoising loop runs without a CUDA graph, which is slower: {refusal}"
    assert said == ([slower] if refusal else [])


def test_the_command_line_decodes_windows_of_several_files_together(
    tiny_bundle: Path, emulations: Emulations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = Codec(Bundle.load(tiny_bundle), open_backend(emulations))
    monkeypatch.setattr("sc_runtime.cli.loading.load_codec", lambda *_: codec)
    decoder: Any = codec.model.decoder  # type: ignore[attr-defined]
    run, groups = decoder.run, list[int]()
    monkeypatch.setattr(decoder, "run", lambda codes, *rest: (groups.append(len(codes)), run(codes, *rest))[1])
    recordings = {name: draw_codes(count) for name, count in (("a", 20), ("b", 300), ("c", 9))}
    for name, codes in recordings.items():
        Tokens.from_array(codes, codec.bundle.choose_config(4096)).save(tmp_path / f"{name}.sct")
    files = [str(tmp_path / f"{name}.sct") for name in recordings]
    assert run_command(app, ["decode", *files, "--steps", "1", "--seed", "3"]) == 0
    assert groups == [4]  # of one, two and one windows
    reference = Codec.load(tiny_bundle, backend="onnxruntime")
    for name, codes in recordings.items():
        sound, _ = soundfile.read(tmp_path / f"{name}.decoded.wav", dtype="float32")
        assert (
            error_of_variation(sound, reference.decode(codes, steps=1, seed=3, vocab=4096)) < 0.3
        )  # of 16 bits: a quiet sound
