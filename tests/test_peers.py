"""The peers of `bench/rtf.py --peers`: their facts, their shapes, and the results, table and chart of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.speed.peers import OFFLINE, PEERS, STAGE, Facts, PeerProgram, find_facts, make_network, make_random_codes
from bench.speed.peers_chart import choose_factor, place_labels
from tests.conftest import ROOT

#: Name -> parameters in millions, Hz, positions a second, codebooks, bits a second: those that the papers state.
STATED: dict[str, tuple[float, int, float, int, float]] = {
    "EnCodec 24 kHz": (14.9, 24_000, 75, 8, 6000),
    "DAC 16 kHz": (74, 16_000, 50, 12, 6000),
    "DAC 24 kHz": (74.7, 24_000, 75, 32, 24_000),
    "Mimi": (79.3, 24_000, 12.5, 8, 1100),
    "WavTokenizer": (72, 24_000, 75, 1, 900),
}


@pytest.fixture(autouse=True)
def restore_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `make_network` sets is gone after a test: tests of the hub must not be offline."""
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_facts_are_those_of_the_published_codecs(name: str) -> None:
    pytest.importorskip("transformers")
    facts = find_facts(make_network(name))
    parameters, rate, positions, codebooks, bitrate = STATED[name]
    assert facts.parameters / 1e6 == pytest.approx(parameters, rel=0.01)
    assert (facts.sample_rate, facts.frame_rate, facts.codebooks) == (rate, positions, codebooks)
    assert facts.bitrate == pytest.approx(bitrate)
    assert facts.tokens_per_second == positions * codebooks


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_encodes_and_decodes(name: str) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    network = make_network(name)
    facts = find_facts(network)
    with torch.inference_mode():
        noise = 0.1 * torch.randn(1, 1, 2 * facts.sample_rate, generator=torch.Generator().manual_seed(0))
        codes = network.encode(noise)
        random = make_random_codes(2, facts, network.model.config.codebook_size)
        assert random.shape == codes.shape and random.dtype == codes.dtype
        sound = network.decode(random)
    assert sound.isfinite().all() and sound.abs().max() > 0
    assert sound.numel() == pytest.approx(2 * facts.sample_rate, rel=0.01)
    run = PeerProgram(name, "decode", 1, "cpu").answer(0.5, 1, 0.0)
    assert run.stages[STAGE] > 0 and run.device == "torch, CPU" and run.peak_bytes > 1e8


@pytest.fixture(scope="module")
def result(tiny_unicodec: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str]:
    pytest.importorskip("transformers")
    out = tmp_path_factory.mktemp("peers") / "tiny.json"
    command = [sys.executable, "bench/rtf.py", "--bundle", str(tiny_unicodec), "--peers", "--seconds", "0.5,1"]
    command += ["--repeats", "1", "--threads", "1", "--backend", "onnxruntime", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), out, done.stdout


@pytest.mark.slow
def test_peers_are_timed_beside_the_runtime(result: tuple[dict[str, Any], Path, str]) -> None:
    found = result[0]
    assert list(found["peers"]) == list(PEERS) == list(STATED)
    assert "transformers" in found["versions"]
    assert found["bundle"]["bitrate"] == 1050
    assert {*Facts.__annotations__, "flop_per_second"} == set(found["peers"]["Mimi"])
    flop = {name: peer["flop_per_second"] for name, peer in found["peers"].items()}
    assert flop["DAC 24 kHz"]["encode"] == pytest.approx(1.5 * flop["DAC 16 kHz"]["encode"], rel=0.01)  # by their rates
    assert 1e9 < flop["EnCodec 24 kHz"]["decode"] < flop["Mimi"]["decode"] < flop["DAC 16 kHz"]["decode"] < 1e11
    for row in found["rows"]:
        assert list(row["peers"]) == list(PEERS)
        assert "ratio" not in row and "published" not in row
        for side in row["peers"].values():
            assert side["stages_s"] == {STAGE: side["total_s"]}
            assert side["rtf"] == pytest.approx(side["total_s"] / row["seconds"], rel=1e-4)
            assert side["how"] == "measured" and side["cpu_rtf"] > 0


@pytest.mark.slow
def test_table_and_chart_show_every_peer(result: tuple[dict[str, Any], Path, str]) -> None:
    _, out, printed = result
    for name in ("this runtime", *PEERS):
        assert name in printed
    assert "…" not in printed
    chart = out.with_name("tiny-peers.png").read_bytes()
    assert chart.startswith(b"\x89PNG") and len(chart) > 20_000


def test_cpu_time_is_shown_where_other_programs_ran() -> None:
    def choose(load: float | None, threads: int | None, cpu: float | None = 0.1) -> str:
        row = {"runtime": {"rtf": 1.0, "cpu_rtf": 0.2}, "peers": {"Mimi": {"rtf": 1.0, "cpu_rtf": cpu}}}
        machine = {"load_before": load, "cores": 2}
        return choose_factor({"machine": machine, "settings": {"threads": threads}, "rows": [row]})

    assert choose(load=9.5, threads=1) == "cpu_rtf"
    assert choose(load=0.1, threads=1) == choose(load=None, threads=1) == "rtf"
    assert choose(load=9.5, threads=None) == choose(load=9.5, threads=2) == "rtf"  # waiting threads spend CPU time
    assert choose(load=9.5, threads=1, cpu=None) == "rtf"  # extrapolated


def test_labels_are_near_their_lines_and_apart() -> None:
    """On a logarithmic axis from 0.01 to 100 a gap of a twentieth is a factor of 10^0.2."""
    heights = place_labels({"a": 10.0, "b": 0.1, "c": 0.11, "d": 0.1}, (0.01, 100.0))
    assert list(heights) == ["b", "d", "c", "a"]
    assert heights == pytest.approx({"b": 0.1, "d": 0.1 * 10**0.2, "c": 0.1 * 10**0.4, "a": 10.0})
