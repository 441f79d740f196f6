"""`bench/gpu.py` as a program where there is no GPU, and what does not need one: parts that fail, floors, counts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from bench import gpu
from bench.harness.bundles import find_sizes, take_config
from bench.harness.parts import Parts
from bench.quality.on_gpu import compare_graphs
from bench.speed.floors import count_work, find_floors
from bench.speed.inputs import make_codes, make_sound
from bench.speed.stages import StageClock, open_timed_codec
from sc_runtime.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend, Provider
from sc_runtime.backends.select import ABSENCES, choose_backend
from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.program import run_command
from sc_runtime.codec import Codec
from sc_runtime.cuda.device import Device, explain_absence
from sc_runtime.errors import BackendError, SettingsError
from tests.conftest import ROOT
from tests.emulated_device import EmulatedDevice, Emulations

ABSENCE = explain_absence()


@pytest.fixture(scope="module")
def bundle(tiny_fp16_bundle: Path) -> Bundle:
    return Bundle.load(tiny_fp16_bundle)


@pytest.mark.skipif(ABSENCE is None, reason="there is a GPU: the bench would measure it")
def test_without_a_gpu_every_part_says_why_it_is_skipped(tiny_fp16_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "bench/gpu.py", "--bundle", tiny_fp16_bundle, "--size", "tiny", "--out", out]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["bundle"]["precision"] == "fp16"
    assert found["gpu"] is None
    assert {"torch", "numpy", "python"} <= set(found["versions"])
    assert list(found["results"]) == ["work"]
    reasons = {"tensorrt, opened": ABSENCES["tensorrt"](), "onnxruntime-cuda, opened": ABSENCES["onnxruntime-cuda"]()}
    for part in ("ceilings", "centroids, exact", "centroids, time", "published, speed"):
        reasons[part] = ABSENCE
    assert found["skipped"] == reasons | {"ratios": "there is nothing to compare with"}
    for reason in found["skipped"].values():
        assert reason in done.stdout


def test_a_bundle_of_another_codec_is_refused(
    tiny_unicodec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(gpu.app, ["--bundle", str(tiny_unicodec), "--out", str(tmp_path / "gpu.json")]) == 1
    name = tiny_unicodec.name
    assert capsys.readouterr().err.startswith(f"error: bundle {name} of unicodec; expected one of semanticodec")
    assert not list(tmp_path.iterdir())
    with pytest.raises(SettingsError, match="of unicodec; expected one of semanticodec"):
        take_config(Bundle.load(tiny_unicodec))


def test_a_part_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "new" / "gpu.json", time.perf_counter() + 1000, {"format": 1})

    def fail(error: Exception) -> dict[str, Any]:
        raise error

    parts.run("good", lambda: {"value": 1})
    parts.run("bad", lambda: fail(ZeroDivisionError("by zero\nin a stack")))
    parts.run("refused", lambda: fail(BackendError("no GPU", "one")))
    parts.deadline = time.perf_counter()
    parts.run("late", lambda: {"value": 2})
    document = json.loads(parts.out.read_text())
    assert document["results"]["good"]["value"] == 1
    assert list(document["results"]) == ["good"]
    assert document["skipped"] == {
        "bad": "failed: ZeroDivisionError: by zero",
        "refused": "no GPU; expected one",
        "late": "no time left",
    }


@pytest.mark.skipif(shutil.which("g++") is None, reason="NOT EMULATED: there is no g++")
def test_stages_on_a_gpu_are_timed_and_change_nothing(bundle: Bundle, emulations: Emulations) -> None:
    """On an emulated device, with the CPU's provider in the place of CUDA's."""
    clock, device = StageClock(), cast(Device, EmulatedDevice(emulations, quick_search=True))
    backend = OnnxRuntimeCudaBackend(device, Provider("CPUExecutionProvider", "cpu"))
    codec = open_timed_codec(bundle, backend, clock)
    sound, codes = make_sound(1), make_codes(1, take_config(bundle))
    codes_untimed, sound_untimed = codec.encode(sound).codes, codec.decode(codes, steps=2)
    assert clock.stages == {}
    clock.start()
    np.testing.assert_array_equal(codec.encode(sound).codes, codes_untimed)
    assert set(clock.stages) == {"fbank", "audiomae", "centroids", "acoustic_encoder", "rest"}
    clock.start()
    np.testing.assert_array_equal(codec.decode(codes, steps=2), sound_untimed)
    assert set(clock.stages) == {"conditioning", "tunet", "vae_decoder", "hifigan", "rest"}


def test_graphs_tokens_and_sound_are_compared_with_the_cpu(bundle: Bundle) -> None:
    """A backend of the CPU agrees with itself, but for the order of sums."""
    codec = Codec(bundle, choose_backend("onnxruntime", 1))
    errors = compare_graphs(codec)
    assert set(errors) == set(bundle.manifest.graphs)
    assert max(errors.values()) < 1e-4


def test_floors_are_the_larger_of_arithmetic_and_memory(bundle: Bundle) -> None:
    """Two windows of 12 s, 50 steps of two branches. The recurrent weights of the LSTM are read once a position."""
    stages = {"audiomae": 1.0, "acoustic_encoder": 1.0, "tunet": 2.0, "hifigan": 1.0}
    row = {"direction": "decode", "seconds": 12, "stages_s": stages}
    assert find_floors(row, bundle, 50, {}) == {}
    work = {name: {"flop": 1e9, "bytes": 1e6} for name in bundle.manifest.graphs}
    work["acoustic_encoder"]["recurrent_bytes"] = 1e6
    results = {"ceilings": {"fp16_flop_per_s": 1e12, "bytes_per_s": 1e9}, "work": work}
    decode = find_floors(row, bundle, 50, results)
    assert decode["tunet"] == {"floor_s": pytest.approx(0.2), "held_by": "arithmetic", "times": pytest.approx(10)}
    assert decode["hifigan"]["floor_s"] == pytest.approx(2e-3)
    encode = find_floors(row | {"direction": "encode"}, bundle, 50, results)
    assert encode["acoustic_encoder"] == {"floor_s": 0.256, "held_by": "memory", "times": pytest.approx(1 / 0.256)}
    assert set(encode) == {"audiomae", "acoustic_encoder"}


def test_arithmetic_is_counted_as_by_hand(bundle: Bundle) -> None:
    """The acoustic encoder: its weights, twice, at every position; the conditioning: linear maps of [L, 48]."""
    sizes, work = find_sizes(bundle), count_work(bundle)
    width, length = 2 * sizes.config.feature_width, sizes.config.positions
    lstm = sum(8 * width * (inputs + width + 2) for inputs in (width, *[2 * width] * (sizes.lstm_layers - 1)))
    params = lstm + 2 * width * sizes.config.feature_width
    assert work["acoustic_encoder"]["flop"] == pytest.approx(2 * length * params, rel=0.05)
    keys = bundle.manifest.graphs["conditioning"].outputs.values()
    linear = sum(spec.shape[1] * spec.shape[3] for spec in keys)  # type: ignore[operator]
    assert work["conditioning"]["flop"] == 2 * length * sizes.context_width * linear
    assert all(entry["bytes"] == bundle.count_bytes(name) for name, entry in work.items())
