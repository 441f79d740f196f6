"""UniCodec on a GPU, emulated: the tokens and the sound of the CPU, and no copies between the stages."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.speed.stages import StageClock, open_timed_codec
from sc_runtime import Codec
from sc_runtime.bundle.store import Bundle
from sc_runtime.errors import BackendError
from sc_runtime.spec import EncodeOptions
from sc_runtime.unicodec.model import UniCodecModel
from tests.emulated_device import Emulations
from tests.test_resident_encoder import open_backend

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="NOT EMULATED: there is no g++")


def make_sound(samples: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(samples).standard_normal(samples, np.float32)


@pytest.mark.parametrize("domain", [None, "sound"])
def test_tokens_and_sound_are_those_of_the_cpu(tiny_unicodec: Path, emulations: Emulations, domain: str | None) -> None:
    bundle = Bundle.load(tiny_unicodec)
    codec, reference = Codec(bundle, open_backend(emulations)), Codec.load(tiny_unicodec, backend="onnxruntime")
    for samples in (1, 7777, 320, 24_000, 7777):
        tokens = codec.encode(make_sound(samples), domain=domain)
        assert tokens == reference.encode(make_sound(samples), domain=domain)
        expected = reference.decode(tokens)
        assert np.linalg.norm(codec.decode(tokens) - expected) < 1e-4 * np.linalg.norm(expected)


def test_only_waveforms_and_tokens_are_copied(tiny_unicodec: Path, emulations: Emulations) -> None:
    """The second time, when weights, codebooks and memory are there. A token goes there as two row numbers."""
    backend = open_backend(emulations)
    codec, samples, positions = Codec(Bundle.load(tiny_unicodec), backend), 7777, 25
    device: Any = backend.gpu
    for copies in ([], [([4 * samples], [4 * positions]), ([8 * positions], [4 * 320 * positions])]):
        device.written.clear()
        device.fetched.clear()
        tokens = codec.encode(make_sound(samples))
        encoded = device.written.copy(), device.fetched.copy()
        device.written.clear()
        device.fetched.clear()
        codec.decode(tokens)
        if copies:
            assert [encoded, (device.written, device.fetched)] == copies


def test_features_that_are_not_finite_are_refused_as_on_the_cpu(tiny_unicodec: Path, emulations: Emulations) -> None:
    bundle = Bundle.load(tiny_unicodec)
    window = np.full(960, np.inf, np.float32)
    for codec in (Codec(bundle, open_backend(emulations)), Codec.load(tiny_unicodec, backend="onnxruntime")):
        with pytest.raises(BackendError, match="expected finite features"):
            codec.model.encode_windows([window], codec.config, EncodeOptions())


def test_a_codebook_that_the_kernel_cannot_copy_is_used_on_the_host(
    tiny_unicodec: Path, emulations: Emulations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sc_runtime.unicodec.resident.find_width", lambda networks: 12)
    codec = Codec(Bundle.load(tiny_unicodec), open_backend(emulations))
    assert isinstance(codec.model, UniCodecModel) and codec.model.resident is None
    reference = Codec.load(tiny_unicodec, backend="onnxruntime")
    assert codec.encode(make_sound(7777)) == reference.encode(make_sound(7777))


def test_stages_are_timed_and_change_nothing(tiny_unicodec: Path, emulations: Emulations) -> None:
    clock = StageClock()
    codec = open_timed_codec(Bundle.load(tiny_unicodec), open_backend(emulations), clock)
    tokens = codec.encode(make_sound(7777))
    sound = codec.decode(tokens)
    clock.start()
    assert codec.encode(make_sound(7777)) == tokens
    assert set(clock.stages) == {"encoder", "centroids", "rest"}
    clock.start()
    np.testing.assert_array_equal(codec.decode(tokens), sound)
    assert {"decoder"} <= set(clock.stages) <= {"decoder", "rest"}


def test_a_timed_codec_uses_the_host_where_the_codec_does(
    tiny_unicodec: Path, emulations: Emulations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sc_runtime.unicodec.resident.find_width", lambda networks: 12)
    bundle, clock = Bundle.load(tiny_unicodec), StageClock()
    codec = open_timed_codec(bundle, open_backend(emulations), clock)
    clock.start()
    assert codec.encode(make_sound(7777)) == Codec(bundle, open_backend(emulations)).encode(make_sound(7777))
    assert set(clock.stages) <= {"rest"}  # on a GPU only the resident classes are split


def test_a_codec_without_a_timed_model_runs_on_a_gpu(tiny_unicodec: Path, emulations: Emulations) -> None:
    bundle, clock = Bundle.load(tiny_unicodec), StageClock()
    codec = open_timed_codec(bundle, open_backend(emulations), clock, models={})
    clock.start()
    assert codec.encode(make_sound(7777)) == Codec(bundle, open_backend(emulations)).encode(make_sound(7777))
    assert clock.stages == {}
