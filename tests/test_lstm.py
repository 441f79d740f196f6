"""kernels/product.cu and kernels/recurrence.cu: compiled for every architecture, and emulated against float64.

The emulation runs the threads of all blocks as fibers and adds as tensor cores were measured to add. The reference
rounds what the kernels round, weights, inputs and h, and computes everything else in float64.
"""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sc_runtime.accuracy import relative_error
from sc_runtime.cuda import lstm_layout
from sc_runtime.cuda.device import Device, explain_absence
from sc_runtime.cuda.lstm import OUTPUT, BiLstm
from sc_runtime.cuda.lstm_layout import divide
from sc_runtime.cuda.nearest import choose_macro
from sc_runtime.cuda.source import compile_source, find_source
from tests.conftest import ROOT
from tests.emulated_device import EMULATIONS, OPTIONS, EmulatedDevice, Emulations

ABSENCE = explain_absence()
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
needs_gpu = pytest.mark.skipif(ABSENCE is not None, reason=f"NOT RUN ON A GPU: {ABSENCE}")
has_core = pytest.mark.skipif("cuda-core" in (ABSENCE or ""), reason=f"not compiled: {ABSENCE}")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="NOT EMULATED: there is no g++")
H100_BYTES = 227 * 1024  #: of shared memory that a block may have

Weights = dict[str, np.ndarray]


def draw_weights(width: int, layers: int, seed: int = 0) -> Weights:
    """Float16 weights of a stack [B, L, H] -> [B, L, H / 2]. They are large, so that gates leave their linear part."""
    generator = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {OUTPUT: (width // 2, 2 * width)}
    for layer in range(layers):
        inputs = 2 * width if layer else width
        shapes |= {
            f"w{layer}": (2, 4 * width, inputs),
            f"r{layer}": (2, 4 * width, width),
            f"b{layer}": (2, 8 * width),
        }
    scale = np.float32(width**0.25)
    drawn = {name: generator.standard_normal(shape, np.float32) / scale for name, shape in shapes.items()}
    return {name: array.astype(np.float16) for name, array in drawn.items()}


def run_in_float64(weights: Weights, x: np.ndarray) -> np.ndarray:
    """The LSTM of ONNX's definition and the linear map; x and h are rounded to float16."""

    def squash(values: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-values))

    layer, sequence = 0, x.astype(np.float16).astype(np.float64)
    while f"w{layer}" in weights:
        w, r, b = (weights[f"{kind}{layer}"].astype(np.float64) for kind in "wrb")
        outputs = np.empty((*sequence.shape[:2], 2, r.shape[2]))
        for side, times in enumerate((range(x.shape[1]), reversed(range(x.shape[1])))):
            hidden = cell = np.zeros((len(x), r.shape[2]))
            for time in times:
                gates = sequence[:, time] @ w[side].T + hidden @ r[side].T + b[side].reshape(2, -1).sum(axis=0)
                i, o, f, candidate = np.split(gates, 4, axis=1)
                cell = squash(f) * cell + squash(i) * np.tanh(candidate)
                hidden = (squash(o) * np.tanh(cell)).astype(np.float16).astype(np.float64)
                outputs[:, time, side] = hidden
        sequence = outputs.reshape(*outputs.shape[:2], -1)
        layer += 1
    return sequence @ weights[OUTPUT].T.astype(np.float64)


def run(lstm: BiLstm, x: np.ndarray, times: int = 1, order: int = 2) -> np.ndarray:
    """x [B, L, H] -> [B, L, D] by the kernels. All runs must give the same."""
    device, (batch, length, _) = lstm.device, x.shape
    found = np.empty((times, batch, length, lstm.features), np.float32)
    with device.lock:
        features, acoustic = device.upload(x), device.allocate(found[0].nbytes)
        call = lstm.bind(features.address, acoustic.address, batch, length)
        configure(device, order)
        for each in found:
            call.enqueue()
            device.read(acoustic.address, each)
    for each in found[1:]:
        np.testing.assert_array_equal(each, found[0])
    return found[0]


def draw_inputs(batch: int, length: int, width: int) -> np.ndarray:
    return np.random.default_rng(length).standard_normal((batch, length, width), np.float32)


def emulate(emulations: Emulations, processors: int) -> Any:
    return EmulatedDevice(emulations, processors)


def configure(device: Any, order: int) -> None:
    """Let the warps of an emulated GPU run in an order that emulated_gpu.h explains. Copies are late."""
    if isinstance(device, EmulatedDevice) and device.emulations:
        for (source, _), library in device.emulations._loaded.items():
            if source in ("product.cu", "recurrence.cu"):
                library.configure(order, 1, 16)


# --- compiled ---------------------------------------------------------------------------------------------------------


@has_core
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_they_compile(arch: str) -> None:
    assert compile_source(find_source("product.cu"), arch, choose_macro(arch)).startswith(b"\x7fELF")
    for shape in ("12", "31", "62"):
        assert compile_source(find_source("recurrence.cu"), arch, ("SHAPE", shape)).startswith(b"\x7fELF")


@has_core
@pytest.mark.skipif(shutil.which("cuobjdump") is None, reason="there is no cuobjdump")
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_recurrence_spills_no_registers(arch: str, tmp_path: Path) -> None:
    for shape in [f"{tiles}{panels}" for tiles in range(1, lstm_layout.MOST_TILES + 1) for panels in (1, 2)]:
        cubin = tmp_path / "recurrence.cubin"
        cubin.write_bytes(compile_source(find_source("recurrence.cu"), arch, ("SHAPE", shape)))
        command = ["cuobjdump", "--dump-resource-usage", str(cubin)]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "STACK:0 " in usage and "LOCAL:0 " in usage, usage


def test_no_lambda_of_a_kernel_is_generic() -> None:
    """NVRTC 13.0, which torch 2.11 brings, takes one for a function of the host. NVRTC 13.5 does not."""
    for source in (*ROOT.glob("kernels/*.cu"), *ROOT.glob("kernels/*.cuh")):
        found = re.search(r"\[[&=\w, ]*\]\s*\([^)]*\bauto\b", source.read_text(encoding="utf-8"))
        assert found is None, f"{source.name}: {found and found[0]}"
    assert re.search(r"\[[&=\w, ]*\]\s*\([^)]*\bauto\b", "const auto run = [&](int row, const auto& fetch) {")


def test_sizes_are_those_of_the_kernels() -> None:
    """The sizes that both sides of the launch must agree on."""
    for name, wanted in {
        "product.cu": {"TILE_ROWS": lstm_layout.TILE_ROWS, "TILE_COLUMNS": lstm_layout.TILE_COLUMNS, "SLICE": 64},
        "recurrence.cu": {"AHEAD": lstm_layout.AHEAD, "THREADS": lstm_layout.THREADS},
    }.items():
        source = find_source(name).read_text(encoding="utf-8")
        for constant, value in wanted.items():
            assert f"constexpr int {constant} = {value};" in source, constant
    recurrence = find_source("recurrence.cu").read_text(encoding="utf-8")
    assert f"HELD = {lstm_layout.HELD_MATRICES} / TILES / AHEAD * AHEAD;" in recurrence
    assert f"PANEL = 4 * 32 + {lstm_layout.PANEL_FLOATS - 128};" in recurrence


@pytest.mark.parametrize(
    ("width", "in_turn", "rows"), [(1536, False, 12), (1536, True, 12), (3072, True, 24), (6144, False, 192)]
)
def test_what_stays_on_an_h100(width: int, in_turn: bool, rows: int) -> None:
    """At 100 tokens a second all of R; the registers and the shared memory of 128 multiprocessors are used up."""
    for windows in (1, 16):
        division = divide(width, windows, 132, H100_BYTES, in_turn)
        assert division.blocks * (1 if in_turn else 2) == 128
        assert division.tiles * division.blocks * 4 == width
        passes = division.tiles // division.pass_tiles
        assert passes * lstm_layout.count_slices(width) // 8 == rows
        held = lstm_layout.HELD_MATRICES // division.pass_tiles // 2 * 2
        assert division.kept == min(8, rows - held) if not in_turn or width > 1536 else division.kept == rows - held
        on_chip = held + division.kept == rows
        assert on_chip == (width == 1536)


@pytest.mark.parametrize("processors", [1, 2, 20, 84, 108, 148])
@pytest.mark.parametrize("width", [32, 384, 1536, 6144])
@pytest.mark.parametrize("shared_kib", [99, 163, 227])
def test_every_division_fits(processors: int, width: int, shared_kib: int) -> None:
    for windows in (1, 8, 9, 16):
        for in_turn in (False, True):
            division = divide(width, windows, processors, shared_kib * 1024, in_turn)
            assert division.blocks * (1 if division.in_turn else 2) <= processors
            assert division.blocks * division.tiles * 4 >= width
            assert division.tiles % division.pass_tiles == 0 and 1 <= division.pass_tiles <= 6
            assert division.panels == (1 if windows <= 8 else 2)
            partial = 4 * 8 * ((division.pass_tiles + 1) // 2) * division.panels * lstm_layout.PANEL_FLOATS
            cells = 16 * division.tiles * 8 * division.panels
            if division.kept:
                assert partial + cells + 4096 * division.pass_tiles * division.kept <= shared_kib * 1024


# --- emulated ---------------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize(
    ("width", "layers", "batch", "length", "processors", "in_turn"),
    [
        (32, 1, 1, 5, 2, False),  # a block for each direction
        (48, 3, 3, 4, 5, False),  # a width that fills neither a slice of a product nor the blocks
        (48, 1, 2, 1, 1, False),  # one multiprocessor: the directions take turns; one position
        (160, 1, 9, 3, 4, True),  # two panels of windows
        (96, 1, 17, 2, 4, False),  # more windows than run at once
    ],
)
def test_it_is_the_lstm_of_float64(
    emulations: Emulations, width: int, layers: int, batch: int, length: int, processors: int, in_turn: bool
) -> None:
    weights, x = draw_weights(width, layers), draw_inputs(batch, length, width)
    lstm = BiLstm(emulate(emulations, processors), weights, in_turn)
    assert relative_error(run(lstm, x, times=2), run_in_float64(weights, x)) < 2e-4


@needs_compiler
@pytest.mark.parametrize("order", range(3), ids=["first warp first", "last warp first", "random"])
def test_nothing_depends_on_the_order_and_the_place_of_the_work(emulations: Emulations, order: int) -> None:
    """Blocks, directions in turn, what stays on the chip, the other windows: the same bits."""
    width = 272  # more slices than a warp holds
    weights, x = draw_weights(width, 1), draw_inputs(3, 3, width)
    truth = run_in_float64(weights, x)
    found = []
    for processors, in_turn, shared_bytes in [(8, False, H100_BYTES), (6, True, 60_000), (4, False, 40_000)]:
        lstm = BiLstm(emulate(emulations, processors), weights, in_turn, shared_bytes)
        found.append(run(lstm, x, order=order))
        assert relative_error(found[-1], truth) < 2e-4
        np.testing.assert_array_equal(found[-1], found[0])
    alone = np.concatenate([run(lstm, window[None]) for window in x])
    np.testing.assert_array_equal(alone, found[0])
    kept = {lstm_layout.divide(width, 3, *sizes).kept for sizes in ((8, H100_BYTES), (4, 40_000))}
    assert len(kept) == 2 and 0 in kept  # so that both ways were taken


#: Mistake -> text of the kernel, and what replaces it. An empty text is no mistake.
MISTAKES = {
    "none": ("", ""),
    "no wait for the other blocks": ("await_count(arrived, step * blocks)", "(void)0"),
    "counted too early": ("*arrived = 0", "*arrived = 1"),
    "one copy of h": ("(step + 1) % 2 * copy_size", "0 * copy_size"),
    "no barrier between rounds": ("if (pass + round > 0) __syncthreads();", ""),
    "no barrier before the sums are read": (
        "                    __syncthreads();\n                    if (find",
        "if (find",
    ),
}


@needs_compiler
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_emulation_finds_mistakes(emulations: Emulations, tmp_path: Path, mistake: str) -> None:
    """A kernel with one mistake gives something else, in a random order of warps, or never ends."""
    before, after = MISTAKES[mistake]
    source = find_source("recurrence.cu")
    text = source.read_text(encoding="utf-8")
    assert not before or text.count(before) == 1
    changed, library = tmp_path / source.name, tmp_path / "changed.so"
    changed.write_text(text.replace(before, after), encoding="utf-8")
    shutil.copy(source.with_name("tensor_cores.cuh"), tmp_path)
    emulation, options = EMULATIONS[source.name]
    macros = [f'-DKERNELS="{changed}"', "-DSHAPE=61"]
    command = ["g++", *OPTIONS, *options, *macros, str(ROOT / "tests" / emulation), "-o", str(library)]
    subprocess.run(command, check=True)
    emulations.load("product.cu", ("STAGES", "4"))
    process = multiprocessing.get_context("fork").Process(target=check_emulation, args=(emulations, library))
    process.start()
    process.join(60)
    ended = process.exitcode
    process.kill()
    # 0: the right result; 1: another one; negative: every thread waits; None: it goes on for ever.
    assert (ended == 0) == (mistake == "none"), ended


def check_emulation(emulations: Emulations, library: Path) -> None:
    """In a process of its own: run the recurrence in `library`. Raises AssertionError if the result is not right."""
    faulthandler.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what it reports is wanted
    emulations._loaded["recurrence.cu", ("SHAPE", "61")] = ctypes.CDLL(str(library))
    weights, x = draw_weights(96, 1), draw_inputs(2, 4, 96)
    lstm = BiLstm(emulate(emulations, 4), weights)
    assert relative_error(run(lstm, x, times=3), run_in_float64(weights, x)) < 2e-4


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@needs_gpu
@pytest.mark.parametrize("in_turn", [False, True])
@pytest.mark.parametrize(
    ("width", "batch", "length"), [(48, 3, 9), (1536, 1, 40), (1536, 16, 40), (3072, 5, 10), (6144, 16, 4)]
)
def test_a_gpu_gives_the_lstm_of_float64(width: int, batch: int, length: int, in_turn: bool) -> None:
    weights, x = draw_weights(width, 1), draw_inputs(batch, length, width)
    lstm = BiLstm(Device(), weights, in_turn)
    assert relative_error(run(lstm, x, times=10), run_in_float64(weights, x)) < 1e-3
