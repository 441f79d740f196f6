"""Bundles that the tests run on, built once and kept in `build/` (git-ignored) until their recipe changes."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sc_runtime import Codec
    from tests.emulated_device import Emulations

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
BUNDLES = ROOT / "build" / "test-bundles"
# With pytest-xdist the OpenMP threads of several processes wait for each other: the same tests took four times as long.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # for the tests that import ONNX Runtime themselves


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The caches of this session, and those of other programs, lie in a temporary folder, not in the user's.

    They are cold. A test that counts on a cold or a warm cache sets XDG_CACHE_HOME to a folder of its own.
    """
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        for variable in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "MPLCONFIGDIR", "TORCH_HOME", "HF_HOME"):
            patch.setenv(variable, str(folder / variable.lower()))
        yield


LARGE_BUNDLES: set[Path] = set()  #: those of full size that this process uses, up to 7 GB each
#: Free space that a bundle of full size needs, GB. A test that would not have it is skipped, and says so.
NEEDED_SPACE = {25: 8, 50: 5, 100: 3, None: 4}


def drop_large_bundles() -> None:
    """Remove the bundles of full size that this process has used, where SC_RUNTIME_DROP_BUNDLES is set (`.ci/run`)."""
    while LARGE_BUNDLES and "SC_RUNTIME_DROP_BUNDLES" in os.environ:
        shutil.rmtree(LARGE_BUNDLES.pop(), ignore_errors=True)  # one that could not be built is not there


@pytest.fixture(scope="module", autouse=True)
def drop_after_module() -> Iterator[None]:
    yield
    drop_large_bundles()


def build_test_bundle(
    tps: int | None,
    vocabularies: tuple[int, ...],
    size: str,
    seed: int = 1,
    precision: str = "float32",
    codec: str = "semanticodec",
) -> Path:
    """A bundle of stand-in weights. It is built again only if its recipes have changed."""
    from sc_runtime.export.builder import build_bundle, name_bundle
    from sc_runtime.export.registry import find_export
    from sc_runtime.export.seeded import SeededWeights

    weights = SeededWeights(seed)
    sizes = find_export(codec).choose_sizes(size, tps, vocabularies[-1])
    folder = BUNDLES / name_bundle(sizes, vocabularies, weights.label, size, precision)
    if size == "full":
        free = shutil.disk_usage(ROOT).free / 1e9
        if not folder.exists() and free < NEEDED_SPACE[tps]:
            pytest.skip(f"{folder.name} needs {NEEDED_SPACE[tps]} GB of disk, and {free:.1f} GB are free")
        LARGE_BUNDLES.add(folder)
    return build_bundle(folder, sizes, vocabularies, weights, size=size, precision=precision).path


#: Fixtures that build a bundle of half precision. A test that uses one is a slow test, so that the quick ones need
#: two bundles.
SLOW_FIXTURES = {"tiny_fp16_bundle", "tiny_mixed_bundle", "tiny_fp16_unicodec"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of SLOW_FIXTURES, which they use as arguments or name as parameters."""
    for item in items:
        if isinstance(item, pytest.Function):
            given = item.callspec.params.values() if hasattr(item, "callspec") else ()
            if not SLOW_FIXTURES.isdisjoint([*item.fixturenames, *(each for each in given if isinstance(each, str))]):
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def tiny_bundle() -> Path:
    """50 tps, vocabularies 4096 and 32768, tiny networks."""
    return build_test_bundle(50, (4096, 32768), "tiny")


@pytest.fixture(scope="module")
def codec(tiny_bundle: Path) -> Codec:
    """`tiny_bundle` on ONNX Runtime. Files that test another codec have a fixture of their own."""
    from sc_runtime import Codec

    return Codec.load(tiny_bundle, backend="onnxruntime")


@pytest.fixture(scope="session")
def tiny_fp16_bundle() -> Path:
    """50 tps, vocabulary 4096, tiny networks in FP16."""
    return build_test_bundle(50, (4096,), "tiny", precision="fp16")


@pytest.fixture(scope="session")
def tiny_mixed_bundle() -> Path:
    """50 tps, vocabulary 4096, tiny networks: tokens in float32, sound in FP16."""
    return build_test_bundle(50, (4096,), "tiny", precision="mixed")


@pytest.fixture(scope="session")
def tiny_unicodec() -> Path:
    """UniCodec, tiny networks."""
    return build_test_bundle(None, (16384,), "tiny", codec="unicodec")


@pytest.fixture(scope="session")
def tiny_fp16_unicodec() -> Path:
    """UniCodec, tiny networks in FP16."""
    return build_test_bundle(None, (16384,), "tiny", precision="fp16", codec="unicodec")


def keep_graphs(patch: pytest.MonkeyPatch, *names: str, codec: str = "semanticodec") -> None:
    """Make bundles of `codec` hold only the graphs `names`, until `patch` is undone."""
    from sc_runtime.export.registry import find_export

    export = find_export(codec)
    patch.setattr(export, "graphs", {name: graph for name, graph in export.graphs.items() if name in names})
    patch.setattr("sc_runtime.export.builder.compare_bfloat16", lambda bundle: None)  # it needs every graph


def flush_compiled() -> None:
    """Write the compiled graphs of OpenVINO that are not in the cache yet."""
    if importlib.util.find_spec("openvino"):
        from sc_runtime.backends.openvino.compiled import KEEPER

        KEEPER.flush()


@pytest.fixture(scope="session")
def emulations(tmp_path_factory: pytest.TempPathFactory) -> Emulations:
    """The CUDA kernels for the CPU, compiled once a session."""
    from tests.emulated_device import Emulations

    return Emulations(tmp_path_factory.mktemp("emulations"))


def load_manifest(folder: Path) -> dict[str, Any]:
    """The JSON of a manifest, without its hash of itself, so that a test may change it."""
    raw = json.loads((folder / "manifest.json").read_text())
    raw.pop("sha256", None)
    return raw


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN
