"""Bundles that the tests run on, built once and kept in `build/` (git-ignored) until their recipe changes."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
BUNDLES = ROOT / "build" / "test-bundles"


def build_test_bundle(
    tps: int, vocabularies: tuple[int, ...], size: str, seed: int = 1, precision: str = "float32"
) -> Path:
    """A bundle of stand-in weights; found built when nothing that shapes it has changed."""
    from sc_runtime.export.build import build_bundle, name_bundle
    from sc_runtime.export.checkpoint import SeededWeights
    from sc_runtime.export.networks.sizes import choose_sizes

    weights = SeededWeights(seed)
    folder = BUNDLES / name_bundle(tps, vocabularies, weights.label, size, precision)
    sizes = choose_sizes(size, tps, vocabularies[-1])
    return build_bundle(folder, sizes, vocabularies, weights, size=size, precision=precision).path


@pytest.fixture(scope="session")
def tiny_bundle() -> Path:
    """50 tps, vocabularies 4096 and 32768, tiny networks."""
    return build_test_bundle(50, (4096, 32768), "tiny")


@pytest.fixture(scope="session")
def tiny_fp16_bundle() -> Path:
    """50 tps, vocabulary 4096, tiny networks in FP16."""
    return build_test_bundle(50, (4096,), "tiny", precision="fp16")


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN
