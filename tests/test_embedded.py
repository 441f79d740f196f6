"""The trained model in the package encodes and decodes held-out clips, which are compared with the originals."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bench.quality.metrics import mel_distance
from sc_runtime import Codec
from sc_runtime.bundle.locate import bundles_folder, locate_bundle
from sc_runtime.bundle.store import EMBEDDED, Bundle
from sc_runtime.semanticodec.config import SemantiCodecConfig
from sc_runtime.tokens import Tokens
from tests.conftest import ROOT

CLIPS = sorted((Path(__file__).parent / "held_out").glob("*.flac"))
SPEECH = [path for path in CLIPS if path.stem.startswith("speech")]
BACKENDS = [name for name in ("onnxruntime", "openvino") if importlib.util.find_spec(name)]
MEASURED_STOI = 0.748  #: mean over the held-out speech here, ONNX Runtime, 50 steps, seed 0
MARGIN = 0.05

pytestmark = pytest.mark.skipif(not BACKENDS, reason="no backend is installed")


@cache
def read(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="float32")[0]


@cache
def load(backend: str = BACKENDS[0] if BACKENDS else "auto") -> Codec:
    return Codec.load("embedded", backend=backend)


@cache
def encode(path: Path) -> Tokens:
    return load().encode(read(path))


@cache
def decode(path: Path) -> np.ndarray:
    return load().decode(encode(path))


def test_it_is_whole_and_small() -> None:
    bundle = Bundle.load(EMBEDDED)
    for file in bundle.manifest.files:
        bundle.verify(file)
    assert bundle.manifest.trained
    assert bundle.choose_config() == SemantiCodecConfig(100, 4096, acoustic_vocab=4096, width=96)
    assert max(entry.error for entry in bundle.manifest.graphs.values()) < 1e-4
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) <= 35e6


def test_it_is_the_default_until_a_trained_bundle_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SC_RUNTIME_BUNDLE", raising=False)
    monkeypatch.setattr("sc_runtime.bundle.locate.bundles_folder", lambda: tmp_path)
    assert locate_bundle() == EMBEDDED
    assert bundles_folder() == ROOT / "engines"


@pytest.mark.parametrize("path", SPEECH, ids=lambda path: path.stem)
def test_a_round_trip_of_speech_is_nearest_to_its_original(path: Path) -> None:
    distances = {other.stem: mel_distance(read(other), decode(path)) for other in CLIPS}
    assert min(distances, key=distances.__getitem__) == path.stem


def test_speech_is_as_intelligible_as_was_measured() -> None:
    pystoi = pytest.importorskip("pystoi")
    scores = [pystoi.stoi(read(path), decode(path), 16_000) for path in SPEECH]
    assert np.mean(scores) > MEASURED_STOI - MARGIN


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.stem)
def test_every_backend_gives_the_same_tokens(path: Path, backend: str) -> None:
    assert np.array_equal(load(backend).encode(read(path)).codes, encode(path).codes)


def test_tokens_differ_between_clips() -> None:
    for column in (0, 1):
        codes = [set(encode(path).codes[:, column].tolist()) for path in CLIPS]
        assert len(set().union(*codes)) > 150
