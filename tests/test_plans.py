"""TensorRT plans: real ones, by TensorRT-RTX, which needs no GPU to build; found where they match, named where not."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from sc_runtime import caches
from sc_runtime.backends.tensorrt import backend as tensorrt
from sc_runtime.backends.tensorrt import plans as runtime_plans
from sc_runtime.backends.tensorrt.plans import (
    Target,
    find_plan,
    hash_source,
    list_planned,
    list_shapes,
    locate_plan,
    read_entry,
)
from sc_runtime.bundle.manifest import MANIFEST, Manifest
from sc_runtime.bundle.store import VERIFIED, Bundle, hash_file
from sc_runtime.errors import BackendError, BundleError, MissingExtraError, OutputError, SettingsError
from sc_runtime.export import build, plans
from sc_runtime.export.plans import build_plan, build_plans, choose_targets, compile_graph, reuse_plans
from sc_runtime.export.semanticodec.graphs import GRAPHS
from sc_runtime.semanticodec.model import SemantiCodecModel
from sc_runtime.semanticodec.spec import SPEC
from sc_runtime.unicodec.config import HOP
from sc_runtime.unicodec.windows import LENGTH
from tests.conftest import ROOT, build_test_bundle, keep_graphs, load_manifest

QUICK = "conditioning"  #: the graph that compiles quickest

FULL_PLANS = "SC_RUNTIME_FULL_PLANS"  #: set in the environment, lets the full-size plans be built


def find_library() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx cannot be imported", exc_type=ImportError)


@pytest.fixture(scope="module")
def target() -> Target:
    return Target("rtx", find_library().__version__, (8, 9))


def copy_bundle(source: Path, folder: Path, graphs: tuple[str, ...] = (QUICK,)) -> Bundle:
    """A bundle of a few graphs of `source`."""
    folder.mkdir(parents=True)
    manifest = Bundle.load(source).manifest
    chosen = {name: manifest.graphs[name] for name in graphs}
    wanted = {file for entry in chosen.values() for file in entry.files}
    files = {name: entry for name, entry in manifest.files.items() if name in wanted}
    for name in files:
        shutil.copyfile(source / name, folder / name)
    (folder / MANIFEST).write_text(dataclasses.replace(manifest, graphs=chosen, files=files).to_json())
    return Bundle.load(folder)


@pytest.fixture(scope="module")
def planned(tiny_fp16_bundle: Path, target: Target, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of one graph with its plan, that tests copy."""
    bundle = copy_bundle(tiny_fp16_bundle, tmp_path_factory.mktemp("planned") / "bundle")
    build_plans(bundle, target)
    return bundle.path


@pytest.fixture
def bundle(planned: Path, tmp_path: Path) -> Bundle:
    shutil.copytree(planned, tmp_path / "engines" / "bundle", ignore=shutil.ignore_patterns(VERIFIED))
    return Bundle.load(tmp_path / "engines" / "bundle")


@pytest.fixture
def uncompilable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "compile_graph", lambda *_: pytest.fail("compiled again"))


# Real plans


#: Codec's bundle -> its graphs that are for GPUs.
CODECS = {"tiny_fp16_bundle": list(GRAPHS), "tiny_fp16_unicodec": ["encoder", "decoder"]}
every_graph = pytest.mark.parametrize(
    ("source", "name"), [(source, name) for source, graphs in CODECS.items() for name in graphs], indirect=["source"]
)


@pytest.fixture
def source(request: pytest.FixtureRequest) -> Path:
    return Path(request.getfixturevalue(request.param))


def diagnose(plan: bytes) -> int:
    """TensorRT-RTX's objections to a plan, except to the GPU. It checks a plan without a GPU too."""
    module = find_library()
    runtime = module.Runtime(module.Logger(module.Logger.INTERNAL_ERROR))
    return int(runtime.get_engine_validity(plan)[1])


@every_graph
def test_rtx_compiles_every_graph(source: Path, target: Target, tmp_path: Path, name: str) -> None:
    bundle = copy_bundle(source, tmp_path / "bundle", (name,))
    plan = build_plan(bundle, name, target)
    assert find_plan(bundle, name, target) == plan == tmp_path / "bundle" / "plans" / str(target) / f"{name}.plan"
    entry = read_entry(plan)
    assert entry is not None
    assert (entry.bytes, entry.sha256) == (plan.stat().st_size, hash_file(plan))
    weights = (source / f"{name}.onnx.data").stat().st_size
    assert entry.bytes > weights
    assert diagnose(plan.read_bytes()) == 0
    assert diagnose(b"no plan" * 1000) != 0
    assert sorted(path.name for path in plan.parent.iterdir()) == [f"{name}.json", f"{name}.plan"]


@every_graph
def test_tensorrt_reads_a_graph_as_it_is_meant(source: Path, name: str) -> None:
    """The parsed network is strongly typed, has the manifest's names and types, and leaves dynamic axes free."""
    trt = find_library()
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(source / f"{name}.onnx"))
    entry = Bundle.load(source).manifest.graphs[name]
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    for tensors, specs in ((inputs, entry.inputs), (outputs, entry.outputs)):
        assert [tensor.name for tensor in tensors] == list(specs)
        for tensor, spec in zip(tensors, specs.values(), strict=True):
            assert np.dtype(trt.nptype(tensor.dtype)).name == spec.dtype
            sizes = [-1 if isinstance(axis, str) else axis for axis in spec.shape]
            assert all(found in (size, -1) for found, size in zip(tensor.shape, sizes, strict=True)), tensor.name
            assert tensor.shape[0] == -1


def test_every_size_the_runtime_asks_for_is_in_the_profile(tiny_fp16_bundle: Path) -> None:
    bundle = Bundle.load(tiny_fp16_bundle)
    for name, entry in bundle.manifest.graphs.items():
        shapes = list_shapes(bundle, name)
        assert list(shapes) == list(entry.inputs)
        for spec, (least, typical, most) in zip(entry.inputs.values(), shapes.values(), strict=True):
            assert least[0] == 1
            assert most[0] == (32 if name == "tunet_step" else 16)
            for axis, low, middle, high in zip(spec.shape, least, typical, most, strict=True):
                assert low <= middle <= high
                assert isinstance(axis, str) or low == high == axis
    assert list_shapes(bundle, "hifigan")["mel"] == ((1, 64, 64), (4, 64, 1024), (16, 64, 1024))


def test_what_is_for_processors_alone_gets_no_plan(tiny_unicodec: Path, tiny_fp16_unicodec: Path) -> None:
    for path in (tiny_unicodec, tiny_fp16_unicodec):
        assert list_planned(Bundle.load(path)) == CODECS["tiny_fp16_unicodec"]


def test_unicodecs_plans_are_for_up_to_a_whole_window(tiny_fp16_unicodec: Path) -> None:
    bundle = Bundle.load(tiny_fp16_unicodec)
    assert list_shapes(bundle, "encoder") == {"waveform": ((1, 1), (1, 240_000), (4, HOP * LENGTH))}
    assert list_shapes(bundle, "decoder") == {"vectors": ((1, 1, 16), (1, 750, 16), (4, LENGTH, 16))}


def test_a_refused_graph_is_named_with_the_reason(tiny_fp16_bundle: Path, target: Target, tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    node = onnx.helper.make_node("Unheard", ["x"], ["y"], domain="nowhere")
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "graph", values[:1], values[1:])
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("nowhere", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    with pytest.raises(BackendError, match=rf"graph\.onnx: tensorrt_rtx {target.version} refuses it \(.*Unheard"):
        compile_graph(path, [{"x": ((1, 4), (2, 4), (3, 4))}], target)


def test_nothing_is_printed(tiny_fp16_bundle: Path, target: Target, tmp_path: Path) -> None:
    """Not by polygraphy, not by TensorRT: standard output is the user's."""
    script = (
        "import sys; from pathlib import Path; from sc_runtime.bundle.store import Bundle\n"
        "from sc_runtime.export.plans import build_plans, choose_targets\n"
        "build_plans(Bundle.load(Path(sys.argv[1])), choose_targets('rtx', '8.6')[0])"
    )
    bundle = copy_bundle(tiny_fp16_bundle, tmp_path / "bundle")
    result = subprocess.run(
        [sys.executable, "-c", script, str(bundle.path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (result.stdout, result.stderr) == ("", "")
    assert find_plan(bundle, QUICK, dataclasses.replace(target, capability=(8, 6))).is_file()


# Kept, shared, rebuilt


def test_a_plan_that_matches_is_kept(bundle: Bundle, target: Target, uncompilable: None) -> None:
    plan = find_plan(bundle, QUICK, target)
    before = plan.stat()
    (built,) = build_plans(bundle, target)
    assert (built.graph, built.target, built.bytes) == (QUICK, target, before.st_size)
    assert plan.stat().st_mtime_ns == before.st_mtime_ns


def test_force_builds_again(bundle: Bundle, target: Target) -> None:
    """Also from files with a second hard link, as in bundles that share graphs."""
    before = find_plan(bundle, QUICK, target).stat()
    for file in (f"{QUICK}.onnx", f"{QUICK}.onnx.data"):
        (bundle.path.parent / file).hardlink_to(bundle.path / file)
    build_plans(bundle, target, force=True)
    assert find_plan(bundle, QUICK, target).stat().st_ino != before.st_ino


def test_a_neighbour_shares_its_plan(bundle: Bundle, target: Target, uncompilable: None) -> None:
    other = copy_bundle(bundle.path, bundle.path.with_name("other"))
    build_plans(other, target)
    assert find_plan(other, QUICK, target).samefile(find_plan(bundle, QUICK, target))


def test_a_damaged_or_foreign_plan_is_not_shared(bundle: Bundle, target: Target) -> None:
    plan = find_plan(bundle, QUICK, target)
    other = copy_bundle(bundle.path, bundle.path.with_name("other"))
    damage(plan)
    reuse_plans(other, [bundle.path])
    assert not (other.path / "plans").exists()
    entry = json.loads(plan.with_suffix(".json").read_text())
    plan.with_suffix(".json").write_text(json.dumps({**entry, "sha256": hash_file(plan), "source": "another"}))
    reuse_plans(other, [bundle.path])
    assert not (other.path / "plans").exists()


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# Found, or named with the command that builds it


@pytest.fixture
def command(bundle: Bundle) -> str:
    return (
        r"build it: sc-runtime build --tps 50 --vocab 4096 --seeded 1 --size tiny --precision fp16"
        rf" --engines rtx --compute-capability \d+\.\d --out {bundle.path}$"
    )


@pytest.mark.parametrize(
    "change",
    [{"version": "9.9.9"}, {"capability": (8, 6)}, {"library": "tensorrt"}],
    ids=["another version", "another GPU", "the other library"],
)
def test_a_foreign_plan_is_named(bundle: Bundle, target: Target, command: str, change: dict[str, Any]) -> None:
    wanted = dataclasses.replace(target, **change)
    if wanted.library == "tensorrt":
        command = command.replace(r"rtx --compute-capability \d+\.\d", "tensorrt")
    named = rf"no plan of {QUICK} for {wanted} \(there are plans for {target}\); expected one for this library and GPU"
    with pytest.raises(BundleError, match=f"{named}: {command}"):
        find_plan(bundle, QUICK, wanted)


def test_a_missing_plan_is_named(bundle: Bundle, target: Target, command: str) -> None:
    shutil.rmtree(bundle.path / "plans")
    with pytest.raises(BundleError, match=rf"no plan of {QUICK} for {target} \(there is none\).*{command}"):
        find_plan(bundle, QUICK, target)


@pytest.mark.parametrize("record", [None, "", "[]", '{"bytes": 1}'])
def test_a_plan_without_its_record_is_none(bundle: Bundle, target: Target, record: str | None) -> None:
    path = locate_plan(bundle, QUICK, target).with_suffix(".json")
    path.unlink()
    if record is not None:
        path.write_text(record)
    with pytest.raises(BundleError, match=f"no plan of {QUICK}"):
        find_plan(bundle, QUICK, target)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 5000, "\x00", '{"source": 1, "bytes": "x"}', "NaN"])
def test_a_malformed_description_raises_nothing(bundle: Bundle, target: Target, text: str) -> None:
    locate_plan(bundle, QUICK, target).with_suffix(".json").write_text(text)
    with pytest.raises(BundleError, match=f"no plan of {QUICK}"):
        find_plan(bundle, QUICK, target)
    assert not tensorrt.has_plans(bundle)


def test_a_plan_from_a_stranger_is_not_loaded(
    bundle: Bundle, target: Target, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attacker can make every value of its description right. The bundle is as another user receives it."""
    assert find_plan(bundle, QUICK, target)
    monkeypatch.setattr(tensorrt, "choose_target", lambda bundle: target)
    assert tensorrt.has_plans(bundle)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache of another user"))
    named = rf"{QUICK}\.plan was not built by this user; expected a plan of your own: plans are programs: {command}"
    with pytest.raises(BundleError, match=named):
        find_plan(Bundle.load(bundle.path), QUICK, target)
    assert not tensorrt.has_plans(bundle)
    other = copy_bundle(bundle.path, bundle.path.with_name("other"))
    reuse_plans(other, [bundle.path])
    assert not (other.path / "plans").exists()


def test_emptying_the_caches_keeps_the_records_of_plans(bundle: Bundle, target: Target) -> None:
    caches.empty()
    assert find_plan(bundle, QUICK, target)


def test_a_plan_is_not_written_through_links(bundle: Bundle, target: Target, tmp_path: Path) -> None:
    """This holds for a link under the plan's name and for one in place of its folder."""
    (victim := tmp_path / "victim").mkdir()
    (victim / "file").write_text("mine")
    plan = locate_plan(bundle, QUICK, target)
    for name in (plan, plan.with_suffix(".json")):
        name.unlink()
        name.symlink_to(victim / "file")
        with pytest.raises(OutputError, match=r"a link that leads to .*file; expected a file in this folder"):
            build_plan(bundle, QUICK, target)
        name.unlink()
    shutil.rmtree(bundle.path / "plans")
    (bundle.path / "plans").symlink_to(victim)
    with pytest.raises(OutputError, match="a link that leads out of"):
        build_plan(bundle, QUICK, target)
    assert (victim / "file").read_text() == "mine"
    assert [path.name for path in victim.rglob("*.*")] == []


def test_a_plan_of_another_graph_is_named(bundle: Bundle, target: Target, command: str) -> None:
    raw = load_manifest(bundle.path)
    raw["files"][f"{QUICK}.onnx.data"]["sha256"] = "0" * 64
    stale = Bundle(bundle.path, Manifest.from_json(json.dumps(raw)))
    with pytest.raises(BundleError, match=rf"{QUICK}\.plan was built from another graph; .*{command}"):
        find_plan(stale, QUICK, target)


def test_plans_of_another_builder_or_other_sizes_are_stale(
    bundle: Bundle, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = dataclasses.replace(SPEC.graphs[QUICK], profile={"batch": (1, 2, 3)})
    spec = dataclasses.replace(SPEC, graphs={**SPEC.graphs, QUICK: graph})
    for holder, name, value in ((runtime_plans, "BUILDER", 0), (SemantiCodecModel, "spec", spec)):
        with monkeypatch.context() as patch:
            patch.setattr(holder, name, value)
            with pytest.raises(BundleError, match="was built from another graph"):
                find_plan(bundle, QUICK, target)
    assert find_plan(bundle, QUICK, target)


def test_an_altered_plan_is_named(bundle: Bundle, target: Target, command: str) -> None:
    plan = find_plan(bundle, QUICK, target)
    damage(plan)
    with pytest.raises(BundleError, match=rf"{QUICK}\.plan has been altered or swapped; .*{command}"):
        find_plan(bundle, QUICK, target)
    build_plans(bundle, target)
    assert find_plan(bundle, QUICK, target) == plan


def test_a_plan_is_hashed_once(bundle: Bundle, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    find_plan(bundle, QUICK, target)
    monkeypatch.setattr("sc_runtime.bundle.store.hash_file", lambda path: pytest.fail(f"{path} hashed twice"))
    find_plan(Bundle.load(bundle.path), QUICK, target)


def test_sources_differ_between_graphs_and_precisions(tiny_bundle: Path, tiny_fp16_bundle: Path) -> None:
    bundles = [Bundle.load(path) for path in (tiny_bundle, tiny_fp16_bundle)]
    assert len({hash_source(bundle, name) for bundle in bundles for name in GRAPHS}) == 2 * len(GRAPHS)


# The command line


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "find_capability", lambda: None)


def test_targets_are_those_of_the_options(target: Target, without_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_targets(None, None) == []
    assert choose_targets("rtx", None) == [target]
    assert [t.capability for t in choose_targets("rtx", "12.0, 8.6,12.0")] == [(12, 0), (8, 6)]
    monkeypatch.setattr(plans, "find_capability", lambda: (12, 0))
    assert choose_targets("rtx", None) == [dataclasses.replace(target, capability=(12, 0))]


WRONG = {
    ("cudnn", None): (SettingsError, "--engines cudnn; expected one of tensorrt, rtx"),
    (None, "8.9"): (SettingsError, "--compute-capability 8.9 without engines; expected --engines rtx"),
    ("tensorrt", "8.9"): (SettingsError, "--compute-capability 8.9 with TensorRT; expected none"),
    ("rtx", "ada"): (SettingsError, "--compute-capability ada; expected numbers such as"),
    ("rtx", "8.9,"): (SettingsError, "--compute-capability 8.9,; expected numbers such as"),
    ("rtx", "9.0"): (
        SettingsError,
        "compute capability 9.0; expected one that TensorRT-RTX .* builds for: .*8.9, 12.0",
    ),
}


@pytest.mark.parametrize("asked", WRONG)
def test_wrong_usage_is_named(target: Target, without_gpu: None, asked: tuple[str | None, str | None]) -> None:
    kind, message = WRONG[asked]
    with pytest.raises(kind, match=message):
        choose_targets(*asked)


def test_tensorrt_without_a_gpu_or_a_library_is_an_error(without_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(plans, "import_library", lambda library: sys)
        with pytest.raises(BackendError, match=r"--engines tensorrt without a GPU; .*--engines rtx"):
            choose_targets("tensorrt", None)
    for library, module in runtime_plans.MODULES.items():
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingExtraError, match=rf"{module} cannot be imported.*sc-runtime\[{library}\]"):
            choose_targets(library, None)


@pytest.mark.parametrize("library", runtime_plans.MODULES)
def test_a_library_whose_own_libraries_are_missing_is_not_installed(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its import raises OSError, not ImportError."""

    def fail(name: str) -> None:
        raise OSError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(runtime_plans.importlib, "import_module", fail)
    with pytest.raises(MissingExtraError, match=r"cannot be imported \(libnvinfer.so.10: .*sc-runtime\["):
        runtime_plans.import_library(library)


def test_one_library_in_a_process(target: Target) -> None:
    plans.import_polygraphy("rtx")
    with pytest.raises(SettingsError, match="engines of tensorrt after those of the other library"):
        plans.import_polygraphy("tensorrt")


def test_the_runtime_part_imports_no_tensorrt() -> None:
    script = (
        "import sys, sc_runtime.backends.tensorrt.plans\n"
        "print({n.split('.')[0] for n in sys.modules} & set(sys.argv[1:]))"
    )
    names = ["tensorrt", "tensorrt_rtx", "polygraphy", "cuda", "torch", "onnx"]
    result = subprocess.run([sys.executable, "-c", script, *names], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.fixture
def one_graph(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The build command makes bundles of one graph, and leaves torch and signals as they were."""
    keep_graphs(monkeypatch, QUICK)
    grad, handler = torch.is_grad_enabled(), signal.getsignal(signal.SIGTERM)
    yield
    torch.set_grad_enabled(grad)
    signal.signal(signal.SIGTERM, handler)


def test_the_command_builds_plans_and_keeps_them(
    target: Target,
    without_gpu: None,
    one_graph: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The command that an error names equals the one that was given, so it builds the missing plan."""
    folder = tmp_path / "engines" / "bundle"

    def run(words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["build", *words.split(), "--out", str(folder)])
        with pytest.raises(SystemExit) as caught:
            build.run()
        captured = capfd.readouterr()
        assert (caught.value.code or 0, captured.out) == (0, ""), captured.err
        assert str(target) in captured.err

    words = "--seeded 1 --size tiny --vocab 4096 --precision fp16 --engines rtx"
    run(words)
    plan = find_plan(Bundle.load(folder), QUICK, target)
    before = plan.stat()
    with monkeypatch.context() as patch:
        patch.setattr(plans, "compile_graph", lambda *_: pytest.fail("compiled again"))
        run(words.replace("4096", "4096,8192"))  # another bundle in the same place
    bundle = Bundle.load(folder)
    assert bundle.manifest.vocabularies == (4096, 8192)
    assert find_plan(bundle, QUICK, target).stat().st_ino == before.st_ino
    shutil.rmtree(folder / "plans")
    with pytest.raises(BundleError) as caught:
        find_plan(bundle, QUICK, target)
    assert caught.value.remedy.startswith("build it: sc-runtime build ")
    run(caught.value.remedy.removeprefix("build it: sc-runtime build ").split(" --out ")[0])
    assert find_plan(bundle, QUICK, target) == plan


# Full size


@pytest.mark.full_size
@pytest.mark.skipif(not os.environ.get(FULL_PLANS), reason=f"{FULL_PLANS} is not set: an hour of two cores")
@pytest.mark.parametrize(
    ("codec", "tps", "vocab"),
    [
        ("semanticodec", 100, 16384),
        ("semanticodec", 50, 32768),
        ("semanticodec", 25, 4096),
        ("unicodec", None, 16384),
    ],
)
def test_full_size_graphs_are_near_float32_and_compile(target: Target, codec: str, tps: int | None, vocab: int) -> None:
    """Every graph of a rate: verified as it is built, then compiled. Minutes, and gigabytes of disk and memory."""
    bundle = Bundle.load(build_test_bundle(tps, (vocab,), "full", precision="fp16", codec=codec))
    for name, entry in bundle.manifest.graphs.items():
        assert 1e-5 < entry.error <= 1e-2, name
    for built in build_plans(bundle, target):
        assert built.bytes > bundle.manifest.files[f"{built.graph}.onnx.data"].bytes
        assert find_plan(bundle, built.graph, target).is_file()
