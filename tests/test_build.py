"""A bundle is written whole, correct and verified, or not at all. An unchanged bundle is not written again."""

from __future__ import annotations

import ast
import dataclasses
import errno
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from filelock import FileLock

from sc_runtime.bundle.manifest import MANIFEST
from sc_runtime.bundle.store import VERIFIED, Bundle
from sc_runtime.errors import BundleError, CheckpointError, CodecError, OutputError, VerificationError
from sc_runtime.export import build, builder, recipes, verify
from sc_runtime.export.builder import build_bundle, name_bundle
from sc_runtime.export.code import describe_code
from sc_runtime.export.recipes import write_recipe
from sc_runtime.export.registry import read_tensors
from sc_runtime.export.seeded import SeededWeights
from sc_runtime.export.semanticodec import export as semanticodec
from sc_runtime.export.semanticodec.checkpoint import Folder
from sc_runtime.export.semanticodec.export import SEMANTICODEC
from sc_runtime.export.semanticodec.graphs import GRAPHS, NETWORKS, AcousticEncoderGraph
from sc_runtime.export.semanticodec.networks.sizes import NetworkSizes, choose_sizes
from sc_runtime.export.spec import Origin, list_origins, load_network, make_tensor
from tests.conftest import ROOT, keep_graphs, load_manifest
from tests.golden.seeded_weights import centroids
from tests.published_layout import PARTS, make_state, write_codebook

SIZES = choose_sizes("tiny", 50, 4096)
WIDTH = SIZES.config.feature_width
FEW = ("acoustic_encoder", "vae_decoder")  #: one graph of each checkpoint file, the quickest to trace
SMALL = dataclasses.replace(SIZES, vae_residual_blocks=0)
RATELESS = ("vae_decoder", "hifigan")  #: graphs that are the same at every rate


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread is fastest for networks as small as these. On busy cores several are a hundred times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # of the commands
        yield
    torch.set_num_threads(threads)


def list_files(folder: Path) -> set[str]:
    """The files in a bundle's folder, without the runtime's record of verified files."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")} - {VERIFIED}


def hash_folder(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(list_files(folder))}


def stamp_folder(folder: Path) -> dict[str, tuple[int, int]]:
    stamps = {name: (folder / name).stat() for name in list_files(folder)}
    return {name: (stamp.st_mtime_ns, stamp.st_ino) for name, stamp in stamps.items()}


def list_leftovers(parent: Path) -> list[str]:
    """The files that builds left beside their bundles, without the empty lock files."""
    names = [path.name for path in parent.iterdir() if path.name.startswith(".")]
    return [name for name in names if not name.endswith(".lock")]


# A whole bundle


def test_the_manifest_is_true(tiny_bundle: Path) -> None:
    raw = load_manifest(tiny_bundle)
    schedule = {"steps": 1000, "beta_start": 0.0015, "beta_end": 0.0195}
    assert (raw["codec"], raw["vocabularies"]) == ("semanticodec", [4096, 32768])
    assert raw["settings"] == {"tps": 50, "acoustic_vocab": 8192, "width": 16, "schedule": schedule}
    assert raw["command"] == "sc-runtime build --tps 50 --vocab 4096,32768 --seeded 1 --size tiny"
    assert list(raw["graphs"]) == list(GRAPHS)
    assert raw["made_with"]["torch"] == torch.__version__
    hashes = hash_folder(tiny_bundle)
    del hashes[MANIFEST]
    assert {name: entry["sha256"] for name, entry in raw["files"].items()} == hashes
    assert all((tiny_bundle / name).stat().st_size == entry["bytes"] for name, entry in raw["files"].items())
    in_graphs = [file for entry in raw["graphs"].values() for file in entry["files"]]
    assert sorted([*in_graphs, "acoustic.npy", "semantic-4096.npy", "semantic-32768.npy"]) == sorted(raw["files"])


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_takes_and_gives_what_the_manifest_says(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    entry = load_manifest(tiny_bundle)["graphs"][name]
    model = onnx.load(tiny_bundle / entry["files"][0], load_external_data=False)
    for file in entry["files"]:  # a copy: bundles share files by hard links, from which onnx reads no weights
        shutil.copyfile(tiny_bundle / file, tmp_path / file)
    onnx.checker.check_model(str(tmp_path / entry["files"][0]))
    for values, specs in ((model.graph.input, entry["inputs"]), (model.graph.output, entry["outputs"])):
        assert [value.name for value in values] == list(specs)
        for value, spec in zip(values, specs.values(), strict=True):
            tensor = value.type.tensor_type
            assert onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name == spec["dtype"]
            assert tensor.shape.dim[0].dim_param == spec["shape"][0] == "batch"
            for axis, said in zip(tensor.shape.dim, spec["shape"], strict=True):
                assert bool(axis.dim_param) if isinstance(said, str) else axis.dim_value == said
    assert 0 <= entry["error"] <= verify.TOLERANCE


@pytest.mark.parametrize("name", GRAPHS)
def test_weights_lie_outside_the_graph_file(tiny_bundle: Path, name: str) -> None:
    """A protobuf holds 2 GB at most, so tensors that grow with the network must lie beside it."""
    files = load_manifest(tiny_bundle)["graphs"][name]["files"]
    assert files == [f"{name}.onnx", f"{name}.onnx.data"]
    model = onnx.load(tiny_bundle / files[0], load_external_data=False)
    outside = 0
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            assert entries["location"] == files[1]
            outside += int(entries["length"])
        else:
            assert tensor.ByteSize() < 1000, tensor.name
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    assert max((attribute.ByteSize() for attribute in attributes), default=0) < 1000
    assert 0 < outside <= (tiny_bundle / files[1]).stat().st_size


def test_nothing_of_this_machine_is_in_a_bundle(tiny_bundle: Path) -> None:
    traces = [str(ROOT), str(Path.home()), sys.prefix, sys.base_prefix, "site-packages", "/tmp", "torch/onnx"]
    for name in list_files(tiny_bundle):
        if name.endswith((".onnx", MANIFEST)):
            data = (tiny_bundle / name).read_bytes()
            assert not [trace for trace in traces if trace.encode() in data], name


def find_error(table: str, graph: str) -> float:
    """The error of one graph in the command's table."""
    row = re.search(rf"\b{graph}\b\D+[\d.]+\D+(\d\.\de[-+]\d\d)\b", table)
    assert row, f"{graph} is not in the table\n{table}"
    return float(row[1])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in weights of seed 1 as a checkpoint folder, tiny."""
    folder = tmp_path_factory.mktemp("checkpoints") / "my checkpoint"
    folder.mkdir()
    for part in PARTS:
        torch.save(make_state(part, SIZES, choose_sizes("full", 50, 4096)), folder / f"{part}.ckpt")
    write_codebook(folder, 50, 4096, WIDTH)
    return folder


@pytest.mark.slow
def test_a_checkpoint_builds_the_bundle_of_the_same_weights(
    tiny_bundle: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """The whole command. Every graph and codebook equals the seeded one byte for byte, so the codec is the same."""
    arguments = ["--tps", "50", "--vocab", "4096", "--checkpoint", str(checkpoint), "--size", "tiny"]
    command = [sys.executable, "-m", "export.build", *arguments, "--out", str(tmp_path / "bundle")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for name in GRAPHS:
        assert find_error(result.stderr, name) <= verify.TOLERANCE
    found, seeded = hash_folder(tmp_path / "bundle"), hash_folder(tiny_bundle)
    for files in (found, seeded):
        del files[MANIFEST]
    del seeded["semantic-32768.npy"]
    assert found == seeded
    manifest = Bundle.load(tmp_path / "bundle").manifest
    assert manifest.weights == "checkpoint my checkpoint"
    assert manifest.command == (f"sc-runtime build --tps 50 --vocab 4096 --checkpoint '{checkpoint}' --size tiny")


# A bundle of a few graphs, built by each test as it likes


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_graphs(monkeypatch, *FEW)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a few graphs that tests copy."""
    folder = tmp_path_factory.mktemp("original") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        keep_graphs(patch, *FEW)
        return build_few(folder)


@pytest.fixture
def built(few: None, original: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "engines" / "bundle"
    shutil.copytree(original, folder)
    (folder / VERIFIED).unlink(missing_ok=True)
    return folder


def build_few(folder: Path, vocabularies: tuple[int, ...] = (4096,), seed: int = 1, **options: Any) -> Path:
    return build_bundle(folder, SMALL, vocabularies, SeededWeights(seed), size="tiny", **options).path


@pytest.fixture
def untraceable(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        pytest.fail("traced again")

    monkeypatch.setattr(builder, "trace", fail)


def test_what_is_built_and_unchanged_is_left_alone(built: Path, untraceable: None) -> None:
    before = stamp_folder(built)
    assert build_few(built) == built
    assert stamp_folder(built) == before
    assert list_leftovers(built.parent) == []


def test_a_relative_folder_names_the_same_bundle(
    built: Path, untraceable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(built)
    before = stamp_folder(built)
    assert build_few(Path()) == built
    assert build_few(Path("../bundle")) == built
    assert stamp_folder(built) == before


@pytest.mark.slow
def test_force_builds_again_and_gives_the_same_bytes(built: Path) -> None:
    hashes, stamps = hash_folder(built), stamp_folder(built)
    build_few(built, force=True)
    again = stamp_folder(built)
    assert all(again[name] != stamps[name] for name in stamps)
    assert hash_folder(built) == hashes
    assert list_leftovers(built.parent) == []


def test_another_vocabulary_takes_the_graphs_of_the_neighbour(built: Path, untraceable: None) -> None:
    other = build_few(built.with_name("other"), (8192, 4096))
    for name in FEW:
        for suffix in (".onnx", ".onnx.data"):
            assert (other / f"{name}{suffix}").samefile(built / f"{name}{suffix}")
    expected = centroids(1, 8192, WIDTH)
    np.testing.assert_array_equal(Bundle.load(other).load_codebook("semantic-8192"), expected)
    manifest = load_manifest(other)
    hashes = hash_folder(other)
    assert hashes.pop(MANIFEST)
    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == hashes
    assert list(manifest["graphs"]) == list(FEW)
    shutil.rmtree(built)
    Bundle.load(other).find_graph("vae_decoder")


def test_a_vocabulary_is_added_in_place(built: Path, untraceable: None) -> None:
    build_few(built, (4096, 8192))
    assert {"semantic-4096.npy", "semantic-8192.npy"} < list_files(built)
    build_few(built, (8192,))
    assert "semantic-4096.npy" not in list_files(built)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The inputs of every graph that is traced."""
    names: list[str] = []
    trace = builder.trace

    def note(module: Any, inputs: dict[str, Any], *rest: Any) -> Any:
        names.extend(inputs)
        return trace(module, inputs, *rest)

    monkeypatch.setattr(builder, "trace", note)
    return names


@pytest.mark.parametrize(
    ("damage", "again"),
    [
        ("altered weights", ["features"]),
        ("missing graph", ["features"]),
        ("missing codebook", []),
        ("altered codebook", []),
    ],
)
def test_a_damaged_bundle_is_mended_with_its_intact_files(
    built: Path, traced: list[str], damage: str, again: list[str]
) -> None:
    hashes = hash_folder(built)
    if damage == "altered weights":
        data = bytearray((built / "acoustic_encoder.onnx.data").read_bytes())
        data[100] ^= 1
        (built / "acoustic_encoder.onnx.data").write_bytes(data)
    elif damage == "missing graph":
        (built / "acoustic_encoder.onnx").unlink()
    elif damage == "missing codebook":
        (built / "semantic-4096.npy").unlink()
    else:
        np.save(built / "semantic-4096.npy", np.zeros((4096, WIDTH), np.float32))
    build_few(built)
    assert traced == again
    assert hash_folder(built) == hashes


def test_other_weights_make_another_graph(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_graphs(monkeypatch, "acoustic_encoder")
    other = build_few(built.with_name("other"), seed=2)
    ours, theirs = hash_folder(built), hash_folder(other)
    assert ours["acoustic_encoder.onnx"] == theirs["acoustic_encoder.onnx"]
    for name in ("acoustic_encoder.onnx.data", "acoustic.npy", "semantic-4096.npy"):
        assert ours[name] != theirs[name]


def write(graph: str, size: str = "tiny", tps: int = 50, vocab: int = 4096, seed: int = 1, **options: Any) -> str:
    return write_recipe(graph, choose_sizes(size, tps, vocab), SeededWeights(seed), **options)


def test_recipes_cover_weights_and_sizes_but_not_the_vocabulary() -> None:
    before = {graph: write(graph) for graph in GRAPHS}
    assert len(set(before.values())) == len(GRAPHS)
    for graph, recipe in before.items():
        assert write(graph, vocab=32768) == recipe
        assert len({recipe, write(graph, seed=2), write(graph, size="full")}) == 3
        assert (write(graph, tps=25) == recipe) == (graph in RATELESS)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of the export's code, that a test may change."""
    folder = tmp_path / "export"
    shutil.copytree(ROOT / "export", folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_recipes_cover_the_code_that_makes_the_graph_and_no_other(code: Path) -> None:
    before = {graph: write(graph) for graph in GRAPHS}
    assert {graph: write(graph, folder=code) for graph in GRAPHS} == before
    for path in code.rglob("*.py"):
        source = path.read_text()
        path.write_text(source + "\nCHANGED = 1\n")
        changed = {graph for graph in GRAPHS if write(graph, folder=code) != before[graph]}
        name = path.relative_to(code).as_posix()
        assert changed == {graph for graph, entry in GRAPHS.items() if shapes_graph(name, entry.network)}, name
        path.write_text(source)


def shapes_graph(source: str, network: str) -> bool:
    """Whether the file `source` of the export makes graphs of `network`."""
    return source in ("trace.py", f"semanticodec/networks/{network}.py")


def test_recipes_do_not_cover_comments_and_docstrings(code: Path) -> None:
    before = {graph: write(graph) for graph in GRAPHS}
    for path in code.rglob("*.py"):
        source = path.read_text()
        source = re.sub(r'"""(?=\w)', '"""Changed: ', source)
        path.write_text(f"# changed\n{source}\n\n\n# changed\n")
    assert {graph: write(graph, folder=code) for graph in GRAPHS} == before
    ast.parse(source)


def test_recipes_cover_what_a_network_imports(code: Path) -> None:
    """The file of a helper, and the value of a constant that lies outside the export or among the sizes."""
    network = code / "semanticodec" / "networks" / "hifigan.py"
    source, before = network.read_text(), write("hifigan")
    (code / "semanticodec" / "networks" / "helper.py").write_text("KIND = 1\n")
    network.write_text(source + "\nfrom .helper import KIND\n")
    first = write("hifigan", folder=code)
    (code / "semanticodec" / "networks" / "helper.py").write_text("KIND = 2\n")
    assert len({before, first, write("hifigan", folder=code)}) == 3
    roots = ["semanticodec.networks.vae_decoder", "unicodec.networks.decoder"]
    described = dict(describe_code(roots, apart=["semanticodec.networks.sizes", "unicodec.networks.sizes"]))
    assert described.keys() == {
        *roots,
        "sc_runtime.semanticodec.config.LATENT_SHAPE",
        "sc_runtime.export.unicodec.networks.sizes.OVERLAP",
    }
    assert described["sc_runtime.semanticodec.config.LATENT_SHAPE"] == "(8, 256, 16)"


def test_recipes_cover_the_published_names(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {graph: write(graph) for graph in GRAPHS}
    monkeypatch.setitem(NETWORKS, "hifigan", dataclasses.replace(NETWORKS["hifigan"], prefix="another."))
    recipes.describe_graph.cache_clear()
    changed = {graph for graph in GRAPHS if write(graph) != before[graph]}
    recipes.describe_graph.cache_clear()
    assert changed == {"hifigan"}


def test_a_recipe_is_the_same_however_the_command_is_started() -> None:
    """`python -m export.build` and `python -m sc_runtime.export.build` give modules different names."""
    script = (
        "from {0}.recipes import write_recipe; from {0}.seeded import SeededWeights\n"
        "from {0}.registry import find_export\n"
        "print(write_recipe('hifigan', find_export('semanticodec').choose_sizes('tiny', 50, 4096), SeededWeights(1)))"
    )
    command = [sys.executable, "-c", script.format("export")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == write("hifigan")


@pytest.mark.parametrize("name", GRAPHS)
def test_every_size_that_is_read_is_in_the_recipe(name: str) -> None:
    """The torch reference reads no other size, and no module keeps the record to read it later."""
    graph, read = GRAPHS[name], {}
    noted: Any = recipes.Noted(SIZES, read)
    network = NETWORKS[graph.network]
    tensors = read_tensors(network.file, SeededWeights(1), SIZES)
    graph.refer(load_network(network, noted, tensors), noted)
    with torch.device("meta"):
        module = graph.build(noted)
    for origin in list_origins(graph, noted).values():
        make_tensor(origin, tensors)
    assert read.items() <= recipes.describe_graph(graph, SIZES).sizes.items()
    kept = [part for part in module.modules() if any(type(v) is recipes.Noted for v in vars(part).values())]
    assert not kept


@pytest.mark.slow
def test_what_does_not_depend_on_the_rate_is_built_once_for_all_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traced: list[str]
) -> None:
    keep_graphs(monkeypatch, *FEW)
    folders = []
    for tps in (50, 100):
        sizes = dataclasses.replace(choose_sizes("tiny", tps, 4096), vae_residual_blocks=0)
        folders.append(build_bundle(tmp_path / str(tps), sizes, (4096,), SeededWeights(1), size="tiny").path)
    assert traced == ["features", "latent", "features"]
    assert (folders[0] / "vae_decoder.onnx.data").samefile(folders[1] / "vae_decoder.onnx.data")
    assert hash_folder(folders[0])["acoustic_encoder.onnx"] != hash_folder(folders[1])["acoustic_encoder.onnx"]


def test_a_changed_codebook_of_a_checkpoint_is_noticed(
    few: None, tiny_bundle: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the change, the checkpoint's graph and codebooks equal those of the same seeded weights."""
    folder, copy = tmp_path / "bundle", tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    keep_graphs(monkeypatch, "acoustic_encoder")
    build_bundle(folder, SIZES, (4096,), Folder(copy, 50), size="tiny")
    found, seeded = hash_folder(folder), hash_folder(tiny_bundle)
    del found[MANIFEST]
    assert found.items() <= seeded.items()
    write_codebook(copy, 50, 4096, WIDTH, seed=2)
    monkeypatch.setattr(builder, "trace", lambda *_: pytest.fail("the graph is the same"))
    bundle = build_bundle(folder, SIZES, (4096,), Folder(copy, 50), size="tiny")
    np.testing.assert_array_equal(bundle.load_codebook("semantic-4096"), centroids(2, 4096, WIDTH))


# Verification


def test_graphs_are_verified_at_two_batch_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_graphs(monkeypatch, "acoustic_encoder")
    seen: dict[str, list[int]] = {}

    def measure(bundle: Bundle, name: str, cases: list) -> float:
        seen[name] = [len(array) for feeds, _ in cases for array in feeds.values()]
        for feeds, expected in cases:
            assert all(array.std() > 0 for array in feeds.values())
            assert all(len(array) == len(next(iter(feeds.values()))) for array in expected.values())
        return verify.measure_error(bundle, name, cases)

    monkeypatch.setattr(builder, "measure_error", measure)
    build_few(tmp_path / "bundle")
    assert set(seen) == {"acoustic_encoder"}
    assert len(set(seen["acoustic_encoder"])) >= 2


class SpoiledGraph(AcousticEncoderGraph):
    """The acoustic encoder with one tensor a thousandth too large."""

    def trace_origin(self, name: str, shape: tuple[int, ...], sizes: NetworkSizes) -> Origin:
        origin = super().trace_origin(name, shape, sizes)
        return Origin(origin.shapes, enlarge) if name == "encoder_output_linear.weight" else origin


def enlarge(tensor: torch.Tensor) -> torch.Tensor:
    return tensor * 1.001


def spoil(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(SEMANTICODEC.graphs, "acoustic_encoder", SpoiledGraph("acoustic_encoder"))


def raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def fill_disk(model: object, path: Path, shared: Path | None) -> None:
    path.write_bytes(bytes(100))
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


FAILURES: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], type[BaseException], str | None]] = {
    "a wrong weight": (
        spoil,
        VerificationError,
        r"graph acoustic_encoder: relative error \d\.\d+e-0[34] against its torch network; expected at most 1e-04",
    ),
    "tolerance": (
        lambda patch: patch.setattr(verify, "TOLERANCE", 1e-12),
        VerificationError,
        r"graph acoustic_encoder: relative error .*no bundle was written",
    ),
    "interrupt": (lambda patch: patch.setattr(builder, "measure_error", raise_interrupt), KeyboardInterrupt, None),
    "full disk": (
        lambda patch: patch.setattr(builder, "save_model", fill_disk),
        OutputError,
        r"bundle: No space left on device; expected a place that can be written to",
    ),
}


@pytest.mark.parametrize("older", [False, True], ids=["first", "over an older bundle"])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_build_that_fails_leaves_nothing(
    few: None, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str, older: bool
) -> None:
    folder = tmp_path / "engines" / "bundle"
    if older:
        shutil.copytree(original, folder)
        before = hash_folder(folder)
    inject, error, message = FAILURES[failure]
    inject(monkeypatch)
    with pytest.raises(error, match=message):
        build_few(folder, force=True)
    assert list_leftovers(folder.parent) == []
    assert folder.exists() == older
    if older:
        assert hash_folder(folder) == before
        Bundle.load(folder)


def test_an_interrupt_while_the_folders_are_exchanged_restores_the_old_one(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def interrupt(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            raise KeyboardInterrupt
        return rename(path, target)

    before = hash_folder(built)
    monkeypatch.setattr(Path, "rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_few(built, (8192,))
    assert hash_folder(built) == before
    assert list_leftovers(built.parent) == []


def test_wrong_weights_are_an_error_before_tracing(
    few: None, checkpoint: Path, tmp_path: Path, untraceable: None
) -> None:
    folder = tmp_path / "engines" / "bundle"
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    with pytest.raises(CheckpointError, match=r"no codebook \[8192, 32\]"):
        build_bundle(folder, SIZES, (4096, 8192), Folder(copy, 50), size="tiny")
    torch.save({"novelty": torch.zeros(1)}, copy / "decoder.ckpt")
    with pytest.raises(CheckpointError, match=r"decoder\.ckpt: tensors \d+ missing"):
        build_bundle(folder, SIZES, (4096,), Folder(copy, 50), size="tiny")
    assert list(folder.parent.glob("[!.]*")) == []
    assert list_leftovers(folder.parent) == []


# What killed builds leave, and builds at the same time


def test_what_a_killed_build_has_left_is_cleared(built: Path) -> None:
    stage, old = (built.with_name(f".bundle.{role}") for role in ("partial", "old"))
    for folder in (stage, old):
        folder.mkdir()
        (folder / "gigabytes.onnx.data").write_bytes(bytes(1000))
    build_few(built, (8192,))
    assert list_leftovers(built.parent) == []
    assert "gigabytes.onnx.data" not in list_files(built)


def test_a_bundle_that_a_killed_build_had_set_aside_is_used(built: Path, untraceable: None) -> None:
    hashes = hash_folder(built)
    built.rename(built.with_name(".bundle.old"))
    build_few(built)
    assert hash_folder(built) == hashes
    assert list_leftovers(built.parent) == []


def test_two_builds_of_one_folder_take_turns(built: Path, untraceable: None) -> None:
    """The second build does not touch the first's unfinished folder before the first is done."""
    stage = built.with_name(".bundle.partial")
    stage.mkdir()
    second = threading.Thread(target=build_few, args=(built, (8192,)))
    with FileLock(built.with_name(".bundle.lock")):
        second.start()
        time.sleep(0.5)
        assert stage.exists()
        assert "semantic-8192.npy" not in list_files(built)
        stage.rmdir()
    second.join(60)
    assert "semantic-8192.npy" in list_files(built)


def start_build(folder: Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sc_runtime.export.build", "--seeded", "1", "--size", "tiny", "--vocab", "4096"]
    return subprocess.Popen(
        [*command, "--out", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        **options,
    )


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.slow
def test_a_signal_ends_the_command_with_nothing_left(tmp_path: Path, number: int, code: int) -> None:
    process = start_build(
        tmp_path / "bundle",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background run of tests ignores it
    )
    # The second graph: an interrupt while ONNX Runtime is first imported becomes its ImportError.
    while not (tmp_path / ".bundle.partial" / "acoustic_encoder.onnx").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    # The signal is sent more than once, because Python loses a signal that arrives in a callback of the garbage
    # collector. The second comes late: a Python that is ending, which takes seconds on a busy machine, has no handlers
    # left, and a second signal would kill it.
    for _ in range(5):
        process.send_signal(number)
        try:
            output, errors = process.communicate(timeout=20)
            break
        except subprocess.TimeoutExpired:
            continue
    assert (process.returncode, output) == (code, ""), errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == [tmp_path / ".bundle.lock"]


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_full_disk_ends_the_command_in_one_line(tmp_path: Path) -> None:
    """A limit on the size of a file stands for the full disk. The acoustic encoder's weights exceed it."""
    import resource

    process = start_build(
        tmp_path / "bundle", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
    )
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, output) == (1, "")
    (line,) = errors.splitlines()
    assert re.fullmatch(rf"error: {tmp_path}/bundle: .+; expected a place that can be written to", line)
    assert list(tmp_path.iterdir()) == [tmp_path / ".bundle.lock"]


# Where a bundle may go


@pytest.mark.parametrize("content", ["notes.txt", "manifest.json", ".hidden"])
def test_a_folder_that_holds_something_else_is_refused(
    few: None, tmp_path: Path, untraceable: None, content: str
) -> None:
    """A manifest.json alone does not make a bundle: web pages and browser extensions have one too."""
    folder = tmp_path / "holiday"
    folder.mkdir()
    (folder / content).write_text('{"name": "my extension"}')
    for force in (False, True):
        with pytest.raises(BundleError, match=r"holiday holds something else than a bundle; .*another --out"):
            build_few(folder, force=force)
    assert [path.name for path in folder.iterdir()] == [content]
    assert list_leftovers(tmp_path) == []


def test_an_empty_folder_is_as_good_as_none(built: Path, untraceable: None) -> None:
    empty = built.with_name("empty")
    empty.mkdir()
    assert "semantic-4096.npy" in list_files(build_few(empty))


@pytest.mark.parametrize("out", ["file", "file/bundle"])
def test_a_file_in_the_way_is_named(few: None, tmp_path: Path, untraceable: None, out: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match=rf"{out}: (Not a directory|File exists); expected a place that can be"):
        build_few(tmp_path / out)
    assert (tmp_path / "file").read_text() == "mine"


# Words of the command line


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str]]]:
    """Runs the build command in this process -> exit code, standard error."""
    grad, handler = torch.is_grad_enabled(), signal.getsignal(signal.SIGTERM)

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["build", *arguments])
        with pytest.raises(SystemExit) as caught:
            build.run()
        captured = capfd.readouterr()
        assert captured.out == ""
        return int(caught.value.code or 0), captured.err

    yield call
    torch.set_grad_enabled(grad)
    signal.signal(signal.SIGTERM, handler)


WRONG = {
    "--tps 60 --seeded 1": r"tps 60; expected 25, 50 or 100",
    "--tps fast": r".*--tps.*integer",
    "--vocab 5000 --seeded 1": r"--vocab 5000; expected one or more of 4096, 8192, 16384, 32768",
    "--vocab 4096,many --seeded 1": r"--vocab 4096,many; expected",
    "--vocab , --seeded 1": r"--vocab ,; expected",
    "--size huge --seeded 1": r"size 'huge'; expected \"full\", \"embedded\" or \"tiny\"",
    "--size tiny": r"--size tiny with the published weights; .*add --seeded 1",
    "--seeded 1 --checkpoint .": r"--checkpoint and --seeded together; expected one source",
    "--seeded -1": r"--seeded -1; expected 0 to",
    "--seeded": r"--seeded",
    "--checkpoint /nowhere": r"/nowhere: no encoder\.ckpt",
    "--frobnicate": r"--frobnicate",
    "left over": r"left",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_usage_is_one_line(command: Callable[..., tuple[int, str]], untraceable: None, words: str) -> None:
    code, errors = command(*words.split())
    assert code in (1, 2)
    (line,) = errors.splitlines()
    assert re.match(rf"error: .*{WRONG[words]}", line)


def test_the_command_says_where_the_bundle_is_and_how_exact(
    command: Callable[..., tuple[int, str]], built: Path, untraceable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semanticodec, "choose_sizes", lambda *_: SMALL)
    code, errors = command("--vocab", "4096", "--seeded", "1", "--size", "tiny", "--out", str(built))
    assert code == 0
    assert f"Bundle: {built}" in errors
    for name in FEW:
        assert find_error(errors, name) <= verify.TOLERANCE


def test_bundles_are_named_after_what_they_hold(
    command: Callable[..., tuple[int, str]], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def note(folder: Path, *_: object, **__: object) -> None:
        asked.append(folder.name)
        raise CodecError("stop", "here")

    monkeypatch.setattr(build, "build_bundle", note)
    command("--seeded", "1", "--size", "tiny")
    command("--seeded", "7", "--tps", "25", "--vocab", "4096,32768,4096")
    command("--checkpoint", str(checkpoint), "--size", "tiny")
    assert asked == [
        "tps50-v32768-seeded1-tiny",
        "tps25-v4096-v32768-seeded7",
        "tps50-v32768-my checkpoint-tiny",
    ]
    assert name_bundle(choose_sizes("full", 100, 8192), (8192,), "", "full") == "tps100-v8192"
