"""kernels/join.cu: compiled for every architecture, and emulated against NumPy."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from sc_runtime.cuda.device import explain_absence
from sc_runtime.cuda.join import RowJoiner
from sc_runtime.cuda.source import compile_source, find_source
from tests.emulated_device import EmulatedDevice, Emulations

ABSENCE = explain_absence()


@pytest.mark.skipif("cuda-core" in (ABSENCE or ""), reason=f"not compiled: {ABSENCE}")
@pytest.mark.parametrize("arch", ["sm_80", "sm_89", "sm_90", "sm_120"])
def test_it_compiles(arch: str) -> None:
    assert compile_source(find_source("join.cu"), arch).startswith(b"\x7fELF")


@pytest.mark.skipif(shutil.which("g++") is None, reason="NOT EMULATED: there is no g++")
def test_rows_are_joined_and_missing_ones_filled(emulations: Emulations) -> None:
    """As tokens are decoded: both codes of a position lie side by side, -1 where a window has none."""
    gpu: Any = EmulatedDevice(emulations)
    generator = np.random.default_rng(0)
    acoustic, semantic = (
        generator.standard_normal((9, 600), np.float32),
        generator.standard_normal((7, 600), np.float32),
    )
    codes = np.stack([generator.integers(0, 7, 50), generator.integers(0, 9, 50)], axis=1).astype(np.int32)
    codes[40:] = -1
    with gpu.lock:
        first, second, given = gpu.upload(acoustic), gpu.upload(semantic), gpu.upload(codes)
        out = gpu.allocate(4 * 50 * 1200)
        RowJoiner(gpu, 600).join(
            first.address, given.address + 4, second.address, given.address, out.address, 50, step=2
        )
        found = np.empty((50, 1200), np.float32)
        gpu.read(out.address, found)
    np.testing.assert_array_equal(
        found[:40], np.concatenate([acoustic[codes[:40, 1]], semantic[codes[:40, 0]]], axis=1)
    )
    assert (found[40:] == -1).all()
