"""Full-size networks against the recorded outputs of the published implementation (`golden/README.md`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sc_runtime import Codec
from sc_runtime.accuracy import relative_error
from sc_runtime.audio import Audio, measure
from sc_runtime.backends.onnxruntime import OnnxRuntimeBackend
from sc_runtime.bundle.store import Bundle
from sc_runtime.networks import Arrays, Search
from sc_runtime.semanticodec.fbank import fbank_segments
from tests.conftest import GOLDEN, build_test_bundle, drop_large_bundles
from tests.golden import seeded_weights

TOLERANCE = 1e-3  #: relative error ||a - b|| / ||b||
RATES = (100, 50, 25)

pytestmark = [
    pytest.mark.full_size,
    pytest.mark.skipif(not (GOLDEN / "tps50.npz").is_file(), reason="no golden outputs here"),
]


class Recorder:
    """A backend that keeps the inputs and outputs of each graph's first and last run."""

    name, device, encode_batch, gpu = "recorder", "CPU", 4, None

    def __init__(self) -> None:
        self.backend = OnnxRuntimeBackend()
        self.runs: dict[str, list[tuple[Arrays, Arrays]]] = {}

    def open(self, bundle: Bundle, graph: str) -> RecordedGraph:
        return RecordedGraph(self.backend.open(bundle, graph), self.runs.setdefault(graph, []))

    def open_search(self, codebook: np.ndarray) -> Search:
        return self.backend.open_search(codebook)


class RecordedGraph:
    def __init__(self, graph, runs: list) -> None:
        self.graph, self.runs = graph, runs

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        result = self.graph.run(feeds)
        self.runs.append(({"latent": feeds["latent"]} if "latent" in feeds else {}, dict(result)))
        return result


class Case:
    """One golden case, encoded and decoded by the runtime on the same stand-in weights and noise."""

    def __init__(self, tps: int) -> None:
        self.truth = np.load(GOLDEN / f"tps{tps}.npz")
        vocab, steps = int(self.truth["vocab"]), int(self.truth["steps"])
        self.wav: Path = GOLDEN / str(self.truth["wav"])
        self.recorder = Recorder()
        codec = Codec(Bundle.load(build_test_bundle(tps, (vocab,), "full")), self.recorder)
        self.config = codec.config
        self.tokens = codec.encode(self.wav)
        seed = int(self.truth["seed"])
        self.waveform = codec.decode(
            self.truth["tokens"],
            steps=steps,
            guidance=float(self.truth["cfg_scale"]),
            eta=float(self.truth["eta"]),
            noise=lambda window, draw: seeded_weights.gaussian(seed, f"noise/{window}/{draw}", (8, 256, 16)),
        )
        self.runs = self.recorder.runs


@pytest.fixture(scope="module", params=RATES, ids=lambda tps: f"{tps}tps")
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    yield Case(request.param)
    drop_large_bundles()


def test_fbank(case: Case) -> None:
    with Audio(case.wav, rate=16_000) as recording:
        segments = list(fbank_segments(recording.blocks(), *measure(recording)))
    assert relative_error(segments[0], case.truth["fbank"]) < TOLERANCE
    if len(case.truth["fbank_tail"]):
        assert relative_error(segments[-1], case.truth["fbank_tail"]) < TOLERANCE


def test_audiomae_features(case: Case) -> None:
    stacked = case.runs["audiomae"][0][1]["features"][0]
    columns = min(case.config.stack, 2)
    rows = case.config.stack // columns
    grid = stacked.reshape(64 // rows, 8 // columns, rows, columns, 768).transpose(0, 2, 1, 3, 4)
    positions = grid.reshape(512, 768)[:32]
    assert relative_error(positions, case.truth["audiomae"][1:]) < TOLERANCE  # row 0 is the class token


def test_tokens_are_equal_to_the_last_one(case: Case) -> None:
    np.testing.assert_array_equal(case.tokens.codes, case.truth["tokens"])


def test_both_tunet_outputs(case: Case) -> None:
    unconditional, conditional = case.runs["tunet_step"][0][1]["v"]
    assert relative_error(unconditional, case.truth["v_uncond"]) < TOLERANCE
    assert relative_error(conditional, case.truth["v_cond"]) < TOLERANCE


def test_latent_after_the_loop(case: Case) -> None:
    assert relative_error(case.runs["vae_decoder"][0][0]["latent"][0], case.truth["latent"]) < TOLERANCE


def test_log_mel(case: Case) -> None:
    assert relative_error(case.runs["vae_decoder"][0][1]["mel"][0].T, case.truth["mel"]) < TOLERANCE


def test_waveform(case: Case) -> None:
    assert relative_error(case.waveform, case.truth["waveform"]) < TOLERANCE
