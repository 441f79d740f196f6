"""`bench/gpu.py` as a program where there is no GPU, and what does not need one: parts that fail, floors, counts."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from bench import gpu
from bench.gpu_calls import CODE, enter_copy, print_calls
from bench.gpu_fill import fill_bundle
from bench.gpu_pack import ASIDE, INPUTS, list_calls, strip_bundle
from bench.gpu_wheel import CONTAINER, CUBIN, ENTRY, LIMIT, MAGIC, SPARE, clear_cubins, cut_pieces, shrink_wheel
from bench.harness.bundles import find_sizes, take_config
from bench.harness.gpu import is_near
from bench.harness.parts import Part, Parts, Session, Skipped
from bench.kernels import compiling
from bench.kernels.compiling import REHEARSED_ARCH, explain_no_compiler, list_kernels
from bench.quality.on_gpu import count_equal
from bench.speed import on_gpu
from bench.speed.floors import count_work, find_floors
from bench.speed.graphs_on_gpu import RELEASES
from bench.speed.inputs import make_codes, make_sound
from bench.speed.stages import StageClock, open_timed_codec
from sc_runtime.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend, Provider
from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.program import run_command
from sc_runtime.cuda.device import Device
from sc_runtime.errors import BackendError, SettingsError
from sc_runtime.semanticodec.resident import Group, ResidentDecoder
from tests import reaching_parts
from tests.conftest import ROOT
from tests.emulated_device import EmulatedDevice, Emulations
from tests.refused_network import CAN_REFUSE, needs_refusal, refuse_network


@pytest.fixture(scope="module")
def bundle(tiny_fp16_bundle: Path) -> Bundle:
    return Bundle.load(tiny_fp16_bundle)


def rehearse(out: Path, *arguments: object) -> tuple[dict[str, Any], str]:
    """`bench/gpu.py --rehearse`: its JSON and what it printed. No process of it may reach for the network."""
    command = [sys.executable, "bench/gpu.py", "--rehearse", "--out", out, *arguments]
    out.mkdir(exist_ok=True)
    network = refuse_network(out) if CAN_REFUSE else None
    environment = os.environ | (network.variables if network else {})
    done = subprocess.run([str(part) for part in command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if network:
        assert network.attempts == []
        assert network.processes > 1  # the parts' too
    return json.loads((out / "gpu.json").read_text()), done.stdout


@pytest.fixture(scope="module")
def pack(tiny_fp16_bundle: Path, tiny_fp16_unicodec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graphs without weights of both tiny bundles."""
    folder = tmp_path_factory.mktemp("pack")
    strip_bundle(Bundle.load(tiny_fp16_bundle), folder / "semanticodec")
    strip_bundle(Bundle.load(tiny_fp16_unicodec), folder / "unicodec")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="NOT EMULATED: there is no g++")
def test_every_part_runs_in_a_rehearsal(tmp_path: Path) -> None:
    """A process for each part, on what bench/gpu_pack.py makes. What a CPU cannot stand in for says so. None fails."""
    found, shown = rehearse(tmp_path)
    assert list(found["states"]) == [part.name for part in gpu.PARTS]
    skipped = {name for name, state in found["states"].items() if state.startswith("skipped: no GPU")}
    assert skipped - {"compile"} == {"peer", "peer-compile", "profile"}
    assert ("compile" in skipped) == (explain_no_compiler(REHEARSED_ARCH) is not None)
    assert max(row["error"] for row in found["results"]["lstm"]["rows"]) < 2e-3
    assert {state for name, state in found["states"].items() if name not in skipped} == {"ran"}
    results = found["results"]
    assert results["kernels"]["wrong"] == []
    assert max(results["lstm-choice"]["errors"].values()) < 2e-3
    assert results["release"] == {"without CUDA graphs, sessions dropped": RELEASES}
    assert max(error for name, error in results["solver"].items() if "latent" in name) < 1e-5
    assert max(max(errors) for errors in results["graphs"]["exported"].values()) < 1e-2
    assert [row["latent_error"] for row in results["loop"]["rows"] if row["captured"]] == [0, 0]
    assert [(row["direction"], row["windows"]) for row in results["decode"]["rows"]] == [
        (direction, windows) for windows in (1, 2) for direction in ("encode", "decode")
    ]
    assert all(row["first_stages_s"].keys() == row["stages_s"].keys() for row in results["decode"]["rows"])
    assert results["tokens"]["equal_acoustic_tokens"] == results["tokens"]["equal_semantic_tokens"] == 1
    assert results["unicodec"]["equal_tokens"] == 1
    assert f"{len(gpu.PARTS) - len(skipped)} of {len(gpu.PARTS)} parts ran" in shown


@pytest.mark.slow
def test_a_part_runs_alone_and_stays_run(tmp_path: Path) -> None:
    """No bundle is needed. A second call takes what the first one left; a part that is named runs again."""
    pack = tmp_path / "none"
    found, _ = rehearse(tmp_path / "out", "--pack", pack, "--only", "ceilings")
    states = tmp_path / "out" / "work" / "parts"
    before = (states / "ceilings.json").stat().st_mtime_ns
    later, _ = rehearse(tmp_path / "later", "--pack", pack, "--work", tmp_path / "out" / "work", "--only", "machine")
    assert (later["states"]["ceilings"], later["states"]["machine"]) == ("ran", "ran")
    assert later["results"]["ceilings"] == found["results"]["ceilings"]
    assert (states / "ceilings.json").stat().st_mtime_ns == before
    rehearse(tmp_path / "out", "--pack", pack, "--only", "ceilings")
    assert (states / "ceilings.json").stat().st_mtime_ns > before
    assert {name for name, state in found["states"].items() if state == "ran"} == {"ceilings"}
    assert found["states"]["loop"] == "not run"
    assert found["results"]["ceilings"]["fp16_flop_per_s"] > 0
    assert found["rehearsal"] and found["gpu"] == explain_gpu()


def test_parts_run_without_a_network(tmp_path: Path) -> None:
    """Two quick ones. `rehearse` checks it, here and in the slow test of every part."""
    found, _ = rehearse(tmp_path, "--pack", tmp_path / "none", "--only", "machine,ceilings")
    assert (found["states"]["machine"], found["states"]["ceilings"]) == ("ran", "ran")


@needs_refusal
def test_a_part_that_reaches_for_the_network_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the part hides it."""
    network = refuse_network(tmp_path)
    for name, value in network.variables.items():
        monkeypatch.setenv(name, value)
    functions = ["stay_here", "call_out", "call_out_natively", "look_up", "send"]
    plan = [Part(each, f"{reaching_parts.__name__}:{each}", 60) for each in functions]
    parts = Parts(Session("", tmp_path / "work", time.time() + 1000), tmp_path / "out", {})
    parts.run(plan[:1])
    assert parts.collect()["states"] == {"stay_here": "ran"}
    assert (network.attempts, network.processes) == ([], 1)
    parts.run(plan)
    found = parts.collect()
    states = found["states"]
    assert states["call_out"] == states["call_out_natively"] == "ran"
    assert found["results"]["call_out_natively"] == {"code": 1}
    assert states["look_up"].startswith("failed: gaierror") and states["send"].startswith("failed: OSError")
    assert network.attempts == [
        "connect 192.0.2.1",
        "connect 192.0.2.2",
        "getaddrinfo nobody.invalid",
        "sendto 2001:db8::1",
    ]


def test_a_kernel_that_nvrtc_refuses_is_named_and_the_others_are_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kernel of kernels/ is listed."""
    listed = list_kernels(REHEARSED_ARCH)
    assert {name for name, _ in listed} == {path.name for path in (ROOT / "kernels").glob("*.cu")}

    def compile_one(source: Path, arch: str, macro: tuple[str, str] | None) -> bytes:
        if macro == ("SHAPE", "31"):
            raise BackendError("kernels/recurrence.cu cannot be compiled", "NVRTC of CUDA 13")
        return b""

    monkeypatch.setattr(compiling, "explain_no_compiler", lambda arch: None)
    monkeypatch.setattr(compiling, "compile_source", compile_one)
    session = Session("compile", tmp_path, time.time() + 1000, rehearsal=True)
    with pytest.raises(RuntimeError, match=r"1 refused: kernels/recurrence.cu cannot be compiled"):
        compiling.compile_kernels(session)
    found = session.find("compile")
    assert list(found["refused"]) == ["recurrence.cu SHAPE 31"]
    assert len(found["seconds"]) == len(listed) - 1
    monkeypatch.setattr(compiling, "explain_no_compiler", lambda arch: "libnvrtc is not there")
    with pytest.raises(Skipped, match="no GPU compiler: libnvrtc is not there"):
        compiling.compile_kernels(session)


def explain_gpu() -> object:
    from bench.harness.gpu import describe_gpu

    return describe_gpu()


@pytest.mark.parametrize(
    ("errors", "near"),
    [([0.001, 0.002], True), ([0.001, 0.03], False), ([0.001, math.nan], False), ([math.nan, 0.001], False)],
)
def test_a_variant_that_is_not_near_its_network_is_not_used(errors: list[float], near: bool) -> None:
    assert is_near({"vae_decoder": [0.001], "tunet_step": errors}) == near
    assert not is_near({"vae_decoder": [0.001], "tunet_step": "failed: BackendError: no plan"})
    assert is_near({})  # nothing was compared


def test_an_unknown_part_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(gpu.app, ["--out", str(tmp_path), "--only", "nothing"]) == 1
    assert capsys.readouterr().err.startswith("error: --only nothing; expected of fill-semanticodec")


def test_a_bundle_of_another_codec_is_refused(tiny_unicodec: Path) -> None:
    with pytest.raises(SettingsError, match="of unicodec; expected one of semanticodec"):
        take_config(Bundle.load(tiny_unicodec))


# --- parts in processes -----------------------------------------------------------------------------------------------


def succeed(session: Session) -> dict[str, Any]:
    return {"value": 1, "of": session.find("first") if session.part == "last" else {}}


def read_document(session: Session) -> dict[str, Any]:
    """What is written by then."""
    return {"states": json.loads((session.work.parent / "out" / "gpu.json").read_text())["states"]}


def refuse(session: Session) -> dict[str, Any]:
    raise BackendError("no GPU", "one")


def fail(session: Session) -> dict[str, Any]:
    session.keep({"kept": 3})
    raise ZeroDivisionError("by zero\nin a stack")


def abort(session: Session) -> dict[str, Any]:
    session.keep({"kept": 4})
    os.abort()


def hang(session: Session) -> dict[str, Any]:
    session.keep({"kept": 5})
    time.sleep(1000)
    return {}


@pytest.mark.slow
def test_parts_that_fail_abort_and_hang_do_not_end_the_others(tmp_path: Path) -> None:
    """What they had measured stays."""
    here = "tests.test_gpu_bench"
    functions = {"first": succeed, "refused": refuse, "failed": fail, "aborted": abort, "hung": hang}
    functions |= {"reader": read_document, "last": succeed}
    plan = [Part(name, f"{here}:{each.__name__}", 60 if name != "hung" else 0.5) for name, each in functions.items()]
    session = Session("", tmp_path / "work", time.time() + 1000)
    Parts(session, tmp_path / "out", {"format": 1}).run(plan)
    document = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert document["format"] == 1
    states = document["states"]
    assert states["first"] == states["last"] == "ran"
    assert states["refused"] == "skipped: no GPU; expected one"
    assert states["failed"] == "failed: ZeroDivisionError: by zero"
    assert states["aborted"] == "failed: its process ended with code -6"
    assert states["hung"].startswith("failed: stopped after")
    assert document["results"]["last"] == {"value": 1, "of": {"value": 1, "of": {}}}
    written = {name: state for name, state in states.items() if name not in ("reader", "last")}
    assert document["results"]["reader"]["states"] == written | {"reader": "not run", "last": "not run"}
    assert document["results"]["failed"] == {"kept": 3}
    assert document["results"]["aborted"] == {"kept": 4}


@pytest.mark.slow
def test_parts_that_ran_are_left_and_others_are_tried_again(tmp_path: Path) -> None:
    def run(**functions: Any) -> dict[str, Any]:
        plan = [Part(name, f"tests.test_gpu_bench:{each.__name__}", 60) for name, each in functions.items()]
        session = Session("", tmp_path / "work", time.time() + 1000)
        Parts(session, tmp_path / "out", {}).run(plan)
        return json.loads((tmp_path / "out" / "gpu.json").read_text())["states"]

    assert run(one=succeed, two=fail) == {"one": "ran", "two": "failed: ZeroDivisionError: by zero"}
    assert run(one=fail, two=succeed) == {"one": "ran", "two": "ran"}


# --- what travels -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny_fp16_bundle", "tiny_fp16_unicodec"])
def test_a_filled_pack_is_the_bundle(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Byte for byte: weights of convolutions and LSTMs, transposed ones, constants, codebooks."""
    built = Bundle.load(request.getfixturevalue(name))
    strip_bundle(built, tmp_path / "pack")
    assert not list((tmp_path / "pack").glob("*.data"))
    filled = fill_bundle(tmp_path / "pack", tmp_path / "filled")
    assert filled.manifest.graphs == built.manifest.graphs
    for file, entry in built.manifest.files.items():
        assert filled.manifest.files[file].bytes == entry.bytes
        if file.endswith(".data"):
            for graph in built.manifest.graphs.values():
                for weight in graph.weights.values():
                    if weight.file == file:
                        size = math.prod(weight.shape) * np.dtype(weight.dtype).itemsize
                        span = slice(weight.offset, weight.offset + size)
                        assert (filled.path / file).read_bytes()[span] == (built.path / file).read_bytes()[span]
        else:
            assert filled.manifest.files[file] == entry


def test_code_for_other_gpus_is_cleared(tmp_path: Path) -> None:
    def make_entry(arch: int, code: bytes) -> bytes:
        return ENTRY.pack(CUBIN, 0x101, ENTRY.size, len(code), 0, 0, 0, 0, arch) + code

    def make_container(*entries: bytes) -> bytes:
        return CONTAINER.pack(MAGIC, 1, CONTAINER.size, sum(map(len, entries))) + b"".join(entries)

    ours, theirs, only = b"ninety" * 4, b"eighty" * 4, b"single" * 4
    library = b"ELF" + make_container(make_entry(80, theirs), make_entry(90, ours)) + b"middle"
    library += (
        MAGIC.to_bytes(4, "little") + b"no container, but the same four bytes" + make_container(make_entry(80, only))
    )
    cleared, kept, gone = clear_cubins(library, 90)
    assert len(cleared) == len(library)
    assert (kept, gone) == (len(ours) + len(only), len(theirs))
    assert cleared == library.replace(theirs, bytes(len(theirs)))


def test_pieces_are_joined_and_the_package_is_linked(tmp_path: Path) -> None:
    carry, site = tmp_path / "carry", tmp_path / "site"
    with zipfile.ZipFile(tmp_path / "onnxruntime_gpu-1.whl", "w") as wheel:
        wheel.writestr("onnxruntime/__init__.py", "__version__ = '1'\n" + "# filling\n" * 100)
        wheel.writestr("onnxruntime/transformers/left_out.py", "")
    archive = shrink_wheel(tmp_path / "onnxruntime_gpu-1.whl", 90)
    pieces = cut_pieces(archive, carry, SPARE + len(archive) // 2, SPARE + len(archive))
    assert len(pieces) == 2
    install = [sys.executable, ROOT / "bench" / "gpu_install.py", carry, site]
    last = carry / "piece1"
    last.rename(tmp_path / "later")
    assert "so far" in subprocess.run(install, capture_output=True, text=True, check=True).stdout
    (tmp_path / "later").rename(last)
    linked = (site / "sc_runtime").stat().st_ino
    assert "from 2 pieces" in subprocess.run(install, capture_output=True, text=True, check=True).stdout
    assert (site / "sc_runtime").stat().st_ino == linked  # a process of the first call may use it
    assert (site / "onnxruntime" / "__init__.py").read_text().startswith("__version__ = '1'")
    assert not (site / "onnxruntime" / "transformers").exists()
    (site / "sc_runtime" / "tokens.py").unlink()  # as if the checkout had got it after the links were made
    (site / "sc_runtime" / "gone.py").symlink_to(ROOT / "runtime" / "gone.py")
    subprocess.run(install, capture_output=True, check=True)
    linked_names = {path.name for path in (site / "sc_runtime").iterdir()}
    assert "tokens.py" in linked_names and "gone.py" not in linked_names
    found = subprocess.run(
        [sys.executable, "-c", "import sc_runtime.export, sc_runtime; print(sc_runtime.__file__)"],
        env={"PYTHONPATH": str(site), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith(str(site))


def test_a_process_that_outlives_its_call_finds_its_modules(tmp_path: Path) -> None:
    """The second call has replaced the working tree. On an H200 the first one's process then found no module."""
    tree, code = tmp_path / "tree", tmp_path / "code"
    (tree / ".carry").mkdir(parents=True)
    (tree / "late.py").write_text("print('found')\n")
    (tree / ".carry" / "piece").write_text("large")
    enter = enter_copy(Path(".carry"), str(code))
    wait = f"import time, os\nwhile os.path.exists('{tree}/late.py'): time.sleep(0.01)\nimport late"

    def call(command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", enter + command], cwd=tree, env=os.environ | {"OUT": "."}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = call(f'(setsid nohup {sys.executable} -c "{wait}" >/{tmp_path}/log 2>&1 </dev/null &); echo $CARRY $OUT')
    assert first.split() == [str(tree / ".carry"), str(tree)]
    assert not (code / ".carry").exists()
    (tree / "late.py").unlink()
    assert call("ls; pwd").split() == ["late.py", str(code)]
    until = time.monotonic() + 30
    while (said := (tmp_path / "log").read_text()) == "" and time.monotonic() < until:
        time.sleep(0.05)
    assert said == "found\n"


def test_a_copy_that_failed_half_way_is_made_again(tmp_path: Path) -> None:
    """The disk is full at the first call: a `tar` that stops early stands for that."""
    tree, code, programs = (tmp_path / name for name in ("tree", "code", "programs"))
    for folder in (tree / ".carry", programs):
        folder.mkdir(parents=True)
    for name in "abc":
        (tree / name).write_bytes(bytes(100_000))
    tar = programs / "tar"
    real = shutil.which("tar")
    tar.write_text(f'#!/bin/sh\n[ "$1" = -xC ] || exec {real} "$@"\nhead -c 150000 | {real} "$@" 2>/dev/null\nexit 2\n')
    tar.chmod(0o755)

    def call(path: str) -> subprocess.CompletedProcess[str]:
        command = enter_copy(Path(".carry"), str(code)) + "pwd; ls"
        environment = os.environ | {"OUT": ".", "PATH": path}
        return subprocess.run(["bash", "-c", command], cwd=tree, env=environment, capture_output=True, text=True)

    failed = call(f"{programs}:{os.environ['PATH']}")
    assert failed.returncode != 0 and failed.stdout == ""
    assert "the checkout could not be copied" in failed.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["programs", "tree"]
    assert call(os.environ["PATH"]).stdout.split() == [str(code), "a", "b", "c"]


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


@pytest.mark.skipif(shutil.which("g++") is None, reason="NOT EMULATED: there is no g++")
@pytest.mark.parametrize(("part", "failures"), [("loop", 2), ("decode", 1)])
def test_a_row_that_fails_says_why_and_the_others_are_timed(
    part: str, failures: int, bundle: Bundle, emulations: Emulations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two windows cannot be decoded: the first calls fail."""
    calls: list[int] = []

    def prepare(decoder: ResidentDecoder, batch: int) -> Group:
        calls.append(batch)
        if len(calls) <= failures:
            raise BackendError("the GPU's memory", "more")
        return make(decoder, batch)

    make = ResidentDecoder.prepare
    monkeypatch.setattr(ResidentDecoder, "prepare", prepare)
    monkeypatch.setattr(on_gpu, "open_bundle", lambda session: bundle)
    backend = OnnxRuntimeCudaBackend(
        cast(Device, EmulatedDevice(emulations, quick_search=True)), Provider("CPUExecutionProvider", "cpu")
    )
    monkeypatch.setattr(on_gpu, "open_backend", lambda session: backend)
    monkeypatch.setattr(on_gpu, "REHEARSED_STEPS", 1)
    monkeypatch.setattr(on_gpu, "choose_windows", lambda session: (2, 1))
    session = Session(part, tmp_path, time.time() + 600, rehearsal=True)
    (tmp_path / "parts").mkdir()
    rows = {"loop": on_gpu.time_loop, "decode": on_gpu.time_runtime}[part](session)["rows"]
    assert [list(row) for row in session.find(part)["rows"]] == [list(row) for row in rows]
    failed = [row for row in rows if "failed" in row]
    assert [row["windows"] for row in failed] == [2] * failures and [row["windows"] for row in rows] == [2, 2, 1, 1]
    assert all("the GPU's memory" in row["failed"] for row in failed)
    if part == "loop":
        assert [row["captured"] for row in failed] == [False, True] and rows[-1]["latent_error"] == 0
    else:
        assert [row["direction"] for row in failed] == ["decode"] and rows[-1]["rtf"] > 0
        assert rows[-1]["loop_not_captured"] == []


def test_acoustic_tokens_are_counted_again_where_semantic_ones_are_equal() -> None:
    expected = np.zeros((4, 2), int)
    found = np.array([[0, 0], [1, 1], [0, 0], [0, 1]])
    assert count_equal(found, expected) == {
        "positions": 4,
        "equal_semantic_tokens": 0.75,
        "equal_acoustic_tokens": 0.5,
        "equal_acoustic_tokens_where_semantic_are": pytest.approx(2 / 3),
    }
    assert count_equal(1 - expected, expected)["equal_acoustic_tokens_where_semantic_are"] is None


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


def test_launches_are_reported_before_and_after_rewriting(bundle: Bundle) -> None:
    launches = {name: entry["launches"] for name, entry in count_work(bundle).items()}
    assert launches["tunet_step"].keys() == {"exported", "cuda", "tensorrt"}
    assert 2 * launches["tunet_step"]["cuda"] < launches["tunet_step"]["exported"]
    assert launches["hifigan"].keys() == {"exported"}


def test_the_calls_to_paste_are_sized_and_one_that_is_too_large_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.gpu_calls.count_tracked", lambda aside: 10 << 20)
    pieces = [tmp_path / f"piece{number}" for number in range(2)]
    for folder, size in (
        (pieces[0], 3 << 20),
        (pieces[1], 3 << 20),
        (tmp_path / INPUTS, 1 << 20),
        (tmp_path / "wheels", 2 << 20),
    ):
        folder.mkdir()
        with (folder / "data").open("wb") as file:
            file.truncate(size)
    print_calls(list_calls(tmp_path, pieces), ASIDE, "")
    shown = capsys.readouterr().out.split("\nCall ")
    assert f"rm -r {' '.join(ASIDE)}" in shown[0]
    assert [call.partition(" MiB")[0].rpartition(" ")[2] for call in shown[1:]] == ["16.0", "14.0", "13.0"]
    assert all(call.count(f"cd {CODE} || exit 1;") == 1 for call in shown[1:])
    assert "--only fill-semanticodec,fill-unicodec" in shown[1]
    assert "bench/gpu.py" not in shown[2]
    assert "bench/gpu.py" in shown[3] and "--only" not in shown[3] and "--out $OUT" in shown[3]
    with (tmp_path / "wheels" / "data").open("wb") as file:
        file.truncate(LIMIT)
    with pytest.raises(SystemExit, match="call 1 is too large"):
        print_calls(list_calls(tmp_path, pieces), ASIDE, "")
