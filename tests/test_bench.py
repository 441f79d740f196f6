"""`bench/rtf.py` and the other measurements of speed, on tiny bundles: what they write and refuse, not the speeds."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import rtf
from bench.harness.bundles import STAND_IN, build_bundle, find_seed
from bench.harness.machine import measure_peak_memory
from bench.harness.processes import Child
from bench.harness.results import describe_command, round_floats, write_results
from bench.harness.timing import time_in_turns
from bench.speed import first_sample, levers, together
from bench.speed.inputs import make_codes, make_sound
from bench.speed.rows import Plan, SideRow
from bench.speed.sides import DIRECTIONS, Run, Settings, SideProgram
from bench.speed.stages import StageClock, open_timed_codec
from bench.speed.subjects import SUBJECTS, find_subject
from sc_runtime.accuracy import relative_error
from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.program import run_command
from sc_runtime.codec import Codec
from sc_runtime.errors import BundleError, CodecError, SettingsError
from sc_runtime.semanticodec.config import SemantiCodecConfig
from tests.conftest import ROOT

pytestmark = pytest.mark.slow  # of the benches, not of the runtime

STAGES = {
    "encode": {"fbank", "audiomae", "centroids", "acoustic_encoder", "rest"},
    "decode": {"conditioning", "tunet", "vae_decoder", "hifigan", "rest"},
}


def run_bench(*arguments: str | Path, module: bool = False) -> subprocess.CompletedProcess[str]:
    program = ["-m", "bench.rtf"] if module else ["bench/rtf.py"]
    command = [sys.executable, *program, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def result(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str]:
    """The JSON, the chart and the table of one run of both sides."""
    out = tmp_path_factory.mktemp("bench") / "new" / "tiny.json"
    options = ("--seconds", "12,1", "--steps", "2", "--repeats", "1", "--threads", "1", "--baseline")
    options += ("--backend", "onnxruntime")
    done = run_bench("--bundle", tiny_bundle, *options, "--out", out)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), out.with_suffix(".png"), done.stdout


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_both_sides_of_unicodec_agree(tiny_unicodec: Path, direction: str) -> None:
    settings = Settings(tiny_unicodec, None, None, backend="onnxruntime")
    runtime, published = (SideProgram(side, direction, settings).answer(1, 1) for side in ("runtime", "published"))
    stages = {"encoder", "centroids", "rest"} if direction == "encode" else {"decoder", "rest"}
    assert set(runtime.stages) == set(published.stages) == stages
    assert relative_error(runtime.output, published.output) < (1e-3 if direction == "decode" else 1e-30)


@pytest.mark.slow
def test_unicodec_is_timed_beside_its_published_procedure(tiny_unicodec: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.json"
    options = ("--seconds", "1,31", "--repeats", "1", "--threads", "1", "--baseline", "--backend", "onnxruntime")
    done = run_bench("--bundle", tiny_unicodec, *options, "--out", out)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert (found["bundle"]["codec"], found["bundle"]["tps"]) == ("unicodec", 75)
    rows = {(row["direction"], row["seconds"]): row for row in found["rows"]}
    assert [row["windows"] for row in rows.values()] == [1, 2, 1, 2]
    for (direction, seconds), row in rows.items():
        stages = {"encoder", "centroids", "rest"} if direction == "encode" else {"decoder", "rest"}
        for side in (row["runtime"], row["published"]):
            assert side["how"] == "measured"
            assert set(side["stages_s"]) == stages
        if seconds == 1:  # one window, as in the published procedure
            assert row["equal_tokens"] == 1 if direction == "encode" else row["relative_error"] < 1e-3
    refused = run_bench("--bundle", tiny_unicodec, "--steps", "2")
    assert refused.returncode == 1 and "unicodec has none" in refused.stderr


def test_json_says_what_was_measured_on_what(result: tuple[dict[str, Any], Path, str], tiny_bundle: Path) -> None:
    found = result[0]
    assert found["bundle"].pop("parameters") == pytest.approx(7.4e5, rel=0.01)
    assert found["bundle"] == {
        "name": tiny_bundle.name,
        "codec": "semanticodec",
        "tps": 50,
        "vocab": 32768,
        "settings": Bundle.load(tiny_bundle).manifest.settings,
        "weights": "stand-in weights, seed 1",
        "bitrate": 700,
    }
    assert found["settings"] == {
        "solver": "ddim",
        "steps": 2,
        "guidance": 2.0,
        "eta": 1.0,
        "interval": [0, 1000],
        "published": {"solver": "ddim", "steps": 2, "guidance": 2.0, "eta": 1.0, "interval": [0, 1000]},
        "backend": "onnxruntime",
        "precision": "auto",
        "threads": 1,
        "batch": {"encode": 8, "decode": 1},
        "repeats": 1,
        "row_seconds": 60,
        "measure_steps": 5,
    }
    assert found["machine"]["cpu"]
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["memory_bytes"] > 1e8
    assert {"python", "numpy", "torch"} <= set(found["versions"])
    assert {"format", "date", "took_s", "commit", "command"} <= set(found)


def test_rows(result: tuple[dict[str, Any], Path, str]) -> None:
    rows = result[0]["rows"]
    wanted = [("encode", 1, 1), ("encode", 12, 2), ("decode", 1, 1), ("decode", 12, 2)]
    assert [(row["direction"], row["seconds"], row["windows"]) for row in rows] == wanted
    for row in rows:
        for side in (row["runtime"], row["published"]):
            assert side["how"] == "measured"
            assert side["device"]
            assert 0 < side["peak_rss_bytes"] < 1e10
            assert side["rtf"] == pytest.approx(side["total_s"] / row["seconds"], rel=1e-4)
            assert len(side["runs"]) == 1


def test_stages_make_up_the_total(result: tuple[dict[str, Any], Path, str]) -> None:
    for row in result[0]["rows"]:
        for side in (row["runtime"], row["published"]):
            low, high = side["spread_s"]
            assert low <= side["total_s"] <= high
            assert set(side["stages_s"]) == STAGES[row["direction"]]
            for run in side["runs"]:
                assert sum(run["stages_s"].values()) == pytest.approx(run["total_s"], rel=1e-3)
            busy = {name for name, seconds in side["stages_s"].items() if seconds > 0}
            absent = {"conditioning"} if side is row["published"] else set()  # it is inside its T-UNet
            assert busy == STAGES[row["direction"]] - absent


def test_ratios_and_agreement(result: tuple[dict[str, Any], Path, str]) -> None:
    for row in result[0]["rows"]:
        ratio = row["ratio"]
        assert ratio["total"] == pytest.approx(row["published"]["total_s"] / row["runtime"]["total_s"], rel=1e-3)
        assert set(ratio["stages"]) == STAGES[row["direction"]] - {"conditioning"}
        if row["direction"] == "encode":
            assert row["equal_tokens"] == 1
            tokens = row["differences"].pop("tokens")
            assert tokens == 2 * SemantiCodecConfig(50, 32768).count_positions(round(16_000 * row["seconds"]))
            assert row["differences"] == {"different": 0, "largest_margin": None, "largest_rank": None}
        else:
            assert row["relative_error"] < 1e-3


def test_peak_memory_does_not_fall(result: tuple[dict[str, Any], Path, str]) -> None:
    rows = result[0]["rows"]
    for direction in STAGES:
        peaks = [row["runtime"]["peak_rss_bytes"] for row in rows if row["direction"] == direction]
        assert peaks == sorted(peaks)


def test_chart_is_a_png_of_a_size_to_read(result: tuple[dict[str, Any], Path, str]) -> None:
    data = result[1].read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", data[16:24])
    assert 1000 <= width <= 4000
    assert 500 <= height <= 3000
    assert len(data) > 20_000


def test_table(result: tuple[dict[str, Any], Path, str]) -> None:
    for word in ("encode", "decode", "hifigan", "published", "ratio", "measured", "RTF", "12 s"):
        assert word in result[2]
    assert "…" not in result[2]  # nothing is cut


@pytest.mark.slow
def test_long_decodes_are_extrapolated_and_say_so(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "long.json"
    options = ("--seconds", "1", "--measure-steps", "2", "--row-seconds", "0", "--repeats", "3")
    done = run_bench("--bundle", tiny_bundle, *options, "--no-chart", "--out", out, module=True)
    assert done.returncode == 0, done.stderr
    assert "2 of 50" in done.stdout
    encode, decode = (row["runtime"] for row in json.loads(out.read_text())["rows"])
    assert encode["how"] == "measured"
    assert decode["how"] == "extrapolated from 2 of 50 steps"
    (run,) = decode["runs"]
    beside = run["total_s"] - run["stages_s"]["tunet"]
    assert run["timed_s"] == pytest.approx(beside + run["stages_s"]["tunet"] / 25, rel=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == ["long.json"]


@pytest.mark.parametrize(
    "options",
    [
        ("--bundle", "no-such-bundle"),
        ("--seconds", "5,x"),
        ("--seconds", "-1"),
        ("--batch", "0"),
        ("--repeats", "0"),
        ("--steps", "3"),
        ("--eta", "2", "--seconds", "1"),
        ("--backend", "abacus"),
    ],
    ids=" ".join,
)
def test_what_cannot_work_is_one_line(
    tiny_bundle: Path, tmp_path: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--bundle", str(tiny_bundle), *options, "--out", str(tmp_path / "x.json")]
    assert run_command(rtf.app, arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert options[1].split(",")[-1] in line
    assert not list(tmp_path.iterdir())


def test_baseline_needs_weights(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    assert find_seed(bundle) == 1
    object.__setattr__(bundle.manifest, "weights", "checkpoint some-folder")
    with pytest.raises(SettingsError, match="add --checkpoint"):
        find_seed(bundle)


def test_failed_build_is_an_error() -> None:
    assert STAND_IN == ("--tps", "50", "--seeded", "1")
    expected = r"no bundle to measure; .*: run python -m no_such_module --tps 50 --seeded 1"
    with pytest.raises(BundleError, match=expected):
        build_bundle(*STAND_IN, module="no_such_module")


class StubChild:
    """Answers with runs whose T-UNet takes a second a step and everything else two seconds."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def ask(self, task: str, seconds: float, steps: int) -> Run:
        self.steps.append(steps)
        return Run({"tunet": float(steps), "hifigan": 2.0}, 1000, "stub", np.zeros(1, np.float32))


def time_stub(row_seconds: float, repeats: int = 3) -> tuple[dict[str, Any], list[int]]:
    plan = Plan(Settings(Path()), SemantiCodecConfig(50, 32768), SUBJECTS["semanticodec"], repeats, row_seconds, 5)
    child = StubChild()
    row = SideRow(child, "runtime", "decode", 10.0, plan)  # type: ignore[arg-type]
    row.prepare()
    for count in range(1, repeats + 1):
        row.repeat(count)
    return row.summarise(), child.steps


def test_a_decode_that_takes_too_long_is_extrapolated() -> None:
    """5 of 50 steps take 7 s, the whole 52 s."""
    found, steps = time_stub(row_seconds=20)
    assert steps == [5, 5]  # a third run would end after 21 s
    assert found["how"] == "extrapolated from 5 of 50 steps"
    assert (found["total_s"], found["rtf"], found["stages_s"]["tunet"]) == (52, 5.2, 50)
    assert [run["timed_s"] for run in found["runs"]] == [7, 7]
    assert "estimate_s" not in found


def test_a_decode_that_is_quick_enough_is_run_in_full() -> None:
    found, steps = time_stub(row_seconds=104)
    assert steps == [5, 50, 50]
    assert (found["how"], found["total_s"], found["estimate_s"]) == ("measured", 52, 52)


def test_every_second_is_in_one_stage() -> None:
    clock = StageClock()
    clock.lap("rest")
    assert clock.stages == {}  # not started
    clock.start()
    began = clock.mark
    for stage in ("conditioning", "tunet"):
        clock.lap_host()
        clock.lap(stage)
    clock.lap_host()  # the solver's, between two calls
    assert list(clock.stages) == ["rest", "conditioning", "tunet"]
    assert sum(clock.stages.values()) == pytest.approx(clock.mark - began, abs=1e-9)


def test_inputs_are_the_same_every_time(tiny_bundle: Path) -> None:
    sound, config = make_sound(8.5), Bundle.load(tiny_bundle).choose_config()
    assert sound.dtype == np.float32
    assert sound.shape == (136_000,)
    assert 0.3 < np.abs(sound).max() < 1
    np.testing.assert_array_equal(sound, make_sound(8.5))
    codes = make_codes(8.5, config)
    assert codes.shape == (config.count_positions(136_000), 2)
    assert (codes.max(axis=0) < [config.vocab, config.acoustic_vocab]).all()
    np.testing.assert_array_equal(codes, make_codes(8.5, config))


def test_peak_memory_is_of_this_process() -> None:
    before = measure_peak_memory()
    block = np.ones(1 << 26, np.uint8)
    assert measure_peak_memory() >= before
    assert before > 1 << 24
    assert block.nbytes == 1 << 26


def test_a_timed_codec_gives_what_the_codec_gives(tiny_bundle: Path) -> None:
    bundle, backend, clock = Bundle.load(tiny_bundle), choose_backend("onnxruntime", 1), StageClock()
    codec, timed = Codec(bundle, backend), open_timed_codec(bundle, backend, clock)
    sound = make_sound(1)
    tokens = codec.encode(sound)
    np.testing.assert_array_equal(timed.encode(sound).codes, tokens.codes)
    assert clock.stages == {}
    clock.start()
    np.testing.assert_array_equal(timed.decode(tokens, steps=1), codec.decode(tokens, steps=1))
    assert {"conditioning", "tunet", "vae_decoder", "hifigan"} <= set(clock.stages)


def test_a_codec_without_a_timed_model_is_timed_by_graph(tiny_bundle: Path) -> None:
    bundle, backend, clock = Bundle.load(tiny_bundle), choose_backend("onnxruntime", 1), StageClock()
    timed = open_timed_codec(bundle, backend, clock, models={})
    clock.start()
    tokens = timed.encode(make_sound(1))
    assert tokens == Codec(bundle, backend).encode(make_sound(1))
    assert {"audiomae", "centroids", "acoustic_encoder"} <= set(clock.stages)


def test_a_codec_without_a_subject_is_refused(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    object.__setattr__(bundle.manifest, "codec", "another")
    with pytest.raises(SettingsError, match="a bundle of another; expected one of semanticodec, unicodec"):
        find_subject(bundle)


class Divider:
    """A program for a child process."""

    def __init__(self, dividend: int) -> None:
        self.dividend = dividend

    def answer(self, divisor: int) -> int:
        if divisor == 0:
            raise SettingsError("0", "another divisor")
        if divisor < 0:
            os._exit(3)
        return self.dividend // divisor


def test_a_child_answers_until_it_fails() -> None:
    with Child("division", Divider, 12) as child:
        assert [child.ask("dividing", divisor) for divisor in (3, 5)] == [4, 2]
        with pytest.raises(SettingsError, match="0; expected another divisor"):
            child.ask("dividing by 0", 0)
    with Child("division", Divider, 12) as child, pytest.raises(CodecError, match="code 3 during: dividing by -1"):
        child.ask("dividing by -1", -1)


def test_cases_take_turns() -> None:
    runs: list[str] = []
    seconds = time_in_turns({"a": lambda: runs.append("a"), "b": lambda: runs.append("b")}, 2)
    assert runs == ["a", "b"] * 3
    assert [len(spent) for spent in seconds.values()] == [2, 2]


def test_results_are_rounded_and_lists_of_numbers_are_one_line(tmp_path: Path) -> None:
    document = {"a": [1.23456789, 2], "b": [{"c": np.float32(0.5)}], "d": np.int64(3), "e": ["x", "y"]}
    write_results(tmp_path / "new" / "x.json", document)
    text = (tmp_path / "new" / "x.json").read_text()
    assert json.loads(text) == {"a": [1.23457, 2], "b": [{"c": 0.5}], "d": 3, "e": ["x", "y"]}
    assert ' "a": [ 1.23457, 2 ],\n' in text
    assert round_floats({"x": (1 / 3, "text", None, True)}) == {"x": [0.333333, "text", None, True]}


@pytest.mark.slow
def test_the_first_sample_comes_after_all_that_it_needs(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "first.json"
    assert run_command(first_sample.app, ["--bundle", str(tiny_bundle), "--out", str(out)]) == 0
    starts = json.loads(out.read_text())["starts"]
    assert list(starts) == ["first start", "second start", "third start"]
    for start in starts.values():
        assert 0 < start["imported"] < start["loaded"] < start["first_sample"]
        assert start["samples"] == 42_880 - 10_240  # a part of a window; its end is cross-faded with the next piece


@pytest.mark.slow
def test_recordings_together_are_timed_against_the_published_procedure(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "together.json"
    arguments = ["--recordings", "5", "--block", "2", "--published", "1", "--out", str(out)]
    assert run_command(together.app, ["--bundle", str(tiny_bundle), *arguments]) == 0
    found = json.loads(out.read_text())
    ours, theirs = found["sides"].values()
    assert found["ratio"] == pytest.approx(theirs["seconds"] / ours["seconds"], rel=1e-4)
    for side in (ours, theirs):
        assert 0 < side["spread_s"][0] <= side["seconds"] <= side["spread_s"][1]
        assert side["rtf"] == pytest.approx(side["seconds"] / 10, rel=1e-4)


@pytest.mark.slow
def test_levers_are_timed_case_by_case(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino")
    out = tmp_path / "levers.json"
    code = run_command(levers.app, ["--bundle", str(tiny_bundle), "--repeats", "1", "--out", str(out)])
    said = capsys.readouterr().err
    if "bfloat16 on this processor" in said:
        pytest.skip("a processor without bfloat16")
    assert code == 0, said
    found = json.loads(out.read_text())["levers"]
    together = next(cases for lever, cases in found.items() if lever.startswith("encoding 12 recordings"))
    assert list(together) == ["alone", "together"]
    assert all(seconds > 0 for cases in found.values() for seconds in cases.values())


def test_a_published_command_names_no_place_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = ["--bundle", str(ROOT / "engines" / "b"), "--out", str(tmp_path / "a.json"), "--seconds", "5,10", "./c"]
    given += [f"--out={tmp_path}/b.json", f"-o{tmp_path}/c.json", f"--sides={ROOT}/x,{tmp_path}/y", "a/b", "s3://c/d"]
    given += [f"file://{tmp_path}/d.json", "--rate=1/2"]
    monkeypatch.setattr("sys.argv", ["rtf.py", *given])
    expected = "python bench/rtf.py --bundle engines/b --out a.json --seconds 5,10 ./c"
    expected += " --out=b.json -oc.json --sides=x,y a/b s3://c/d file://d.json --rate=1/2"
    assert describe_command("bench/rtf.py") == expected
