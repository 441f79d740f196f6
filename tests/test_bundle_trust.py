"""Bundles from strangers: nothing outside their folder is read, and every value of a manifest is checked."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from sc_runtime.bundle.external_data import list_locations
from sc_runtime.bundle.locate import is_candidate
from sc_runtime.bundle.manifest import MALFORMED, MANIFEST, Manifest
from sc_runtime.bundle.store import EMBEDDED, Bundle
from sc_runtime.errors import BundleError

#: Values that take the place of each value in a manifest.
FALSE_VALUES = (None, True, -1, 0, 1.5, "x", "", [], {}, [None], {"a": 1}, 1e400, 10**30, "../x", "\x00", "\ud800")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the embedded bundle, which may be changed."""
    target = tmp_path / "copy"
    shutil.copytree(EMBEDDED, target)
    return target


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as an attacker would who knows the format: correct its own hash too."""
    raw = json.loads((folder / MANIFEST).read_text())
    raw.pop("sha256", None)
    change(raw)
    (folder / MANIFEST).write_text(json.dumps(raw))


def state_file(folder: Path, name: str) -> None:
    """Make the manifest state the file's present size and hash."""
    data = (folder / name).read_bytes()
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit_manifest(folder, lambda raw: raw["files"].update({name: entry}))


def test_a_manifest_states_its_own_hash(copy: Path) -> None:
    """A number that a person or a disk changed is detected. White space and the order of keys do not matter."""
    path = copy / MANIFEST
    path.write_text(Bundle.load(copy).manifest.to_json())
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(raw.items())), indent=3))
    Bundle.load(copy)
    raw["settings"]["schedule"]["beta_end"] = 0.0196
    path.write_text(json.dumps(raw))
    with pytest.raises(BundleError, match="the manifest has been altered: its SHA-256 differs"):
        Bundle.load(copy)
    assert not is_candidate(copy)


@pytest.mark.parametrize("name", ["../x.onnx", "/etc/passwd", "a/b.onnx", "", ".hidden", "..", "x\n.onnx", "a" * 101])
def test_names_that_leave_the_folder_are_refused(copy: Path, name: str) -> None:
    """They are refused before any file is opened: an error about a wrong size would reveal the size of another file."""

    def rename(raw: dict[str, Any]) -> None:
        raw["files"][name] = {"bytes": 1, "sha256": "0" * 64}

    edit_manifest(copy, rename)
    with pytest.raises(BundleError, match="expected a manifest of format 2") as caught:
        Bundle.load(copy)
    assert "\n" not in str(caught.value) and "bytes;" not in str(caught.value)


def test_a_graph_that_the_codec_does_not_have_is_refused(copy: Path) -> None:
    edit_manifest(copy, lambda raw: raw["graphs"].update(evil=raw["graphs"]["hifigan"]))
    with pytest.raises(BundleError, match="graph 'evil', which semanticodec does not have"):
        Bundle.load(copy)


def test_a_link_that_leads_outside_is_refused(copy: Path, tmp_path: Path) -> None:
    file = copy / "hifigan.onnx.data"
    shutil.move(file, tmp_path / "outside")
    file.symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match=r"hifigan\.onnx\.data is a link that leads out of the bundle"):
        Bundle.load(copy)
    file.unlink()
    shutil.move(tmp_path / "outside", copy / "inside")
    file.symlink_to("inside")
    Bundle.load(copy).find_graph("hifigan")


def test_a_named_pipe_does_not_hang(copy: Path) -> None:
    (copy / "hifigan.onnx.data").unlink()
    os.mkfifo(copy / "hifigan.onnx.data")
    with pytest.raises(BundleError, match=r"hifigan\.onnx\.data is missing"):
        Bundle.load(copy)


def hide_in_branch(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    constant = onnx.helper.make_node("Constant", [], ["y"], value=tensor)
    branch = onnx.helper.make_graph([constant], "branch", [], [])
    model.graph.node.append(onnx.helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))


def hide_in_function(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    constant = onnx.helper.make_node("Constant", [], ["y"], value=tensor)
    model.functions.append(onnx.helper.make_function("d", "f", [], ["y"], [constant], []))


def hide_in_sparse(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=tensor))


@pytest.mark.parametrize(
    "hide",
    [
        lambda model, tensor: model.graph.initializer.append(tensor),
        hide_in_branch,
        hide_in_function,
        hide_in_sparse,
    ],
    ids=["initializer", "branch", "function", "sparse"],
)
def test_a_graph_that_reads_other_files_is_refused(copy: Path, hide: Callable[..., object]) -> None:
    """The manifest's hashes are right: an attacker can write them too."""
    tensor = onnx.TensorProto(name="stolen", data_type=onnx.TensorProto.FLOAT, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="../secret.bin")
    model = onnx.load(copy / "hifigan.onnx", load_external_data=False)
    hide(model, tensor)
    onnx.save(model, copy / "hifigan.onnx")
    assert list_locations(copy / "hifigan.onnx") == {"../secret.bin", "hifigan.onnx.data"}
    state_file(copy, "hifigan.onnx")
    with pytest.raises(BundleError, match=r"hifigan\.onnx reads '\.\./secret\.bin'; expected no other files than"):
        Bundle.load(copy).find_graph("hifigan")


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, b"no protobuf", b"\x0a\xff\xff\xff\xff\x0f"])
def test_a_graph_that_is_no_onnx_is_one_clear_error(copy: Path, data: bytes) -> None:
    (copy / "hifigan.onnx").write_bytes(data)
    state_file(copy, "hifigan.onnx")
    bundle = Bundle.load(copy)
    try:
        bundle.find_graph("hifigan")
    except BundleError as error:
        assert "\n" not in str(error)
    else:
        assert not list_locations(copy / "hifigan.onnx")


@pytest.mark.parametrize(
    "codebook",
    [np.zeros((10, 96), np.float32), np.zeros((4096, 3), np.float32), np.zeros((4096, 96)), np.zeros(5, np.float32)],
)
def test_a_codebook_of_another_shape_is_refused(copy: Path, codebook: np.ndarray) -> None:
    np.save(copy / "acoustic.npy", codebook)
    state_file(copy, "acoustic.npy")
    expected = r"acoustic\.npy: float\d\d \[.*\]; expected float32 \[4096, 96\], as the settings state"
    with pytest.raises(BundleError, match=expected):
        Bundle.load(copy).load_codebook("acoustic")


def test_a_codebook_that_claims_more_than_it_holds_is_refused(copy: Path) -> None:
    data = (copy / "acoustic.npy").read_bytes()
    (copy / "acoustic.npy").write_bytes(data[:1000])
    state_file(copy, "acoustic.npy")
    with pytest.raises(BundleError, match=r"acoustic\.npy: .*expected a codebook"):
        Bundle.load(copy).load_codebook("acoustic")


def list_places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield from list_places(value[key], (*place, key))


def test_a_false_value_of_a_manifest_raises_a_known_error() -> None:
    """A changed manifest is read, or raises one of MALFORMED: 300 of some 5 000 places and values, drawn by a seed."""
    raw = json.loads((EMBEDDED / MANIFEST).read_text())
    raw.pop("sha256", None)
    for graph in raw["graphs"].values():
        graph["weights"] = dict(list(graph["weights"].items())[:2])
    generator = random.Random(0)
    cases = [(place, value) for place in list_places(raw) if place for value in FALSE_VALUES]
    for place, value in generator.sample(cases, 300):
        changed = json.loads(json.dumps(raw))
        owner = changed
        for key in place[:-1]:
            owner = owner[key]
        owner[place[-1]] = value
        try:
            Manifest.from_json(json.dumps(changed))
        except MALFORMED as error:
            assert str(error), place


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 5000, "nul", '"x"', "[]", "", "\x00", "\ufeff{}"])
def test_text_that_is_no_manifest_is_one_clear_error(copy: Path, text: str) -> None:
    (copy / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match="expected a manifest of format 2") as caught:
        Bundle.load(copy)
    assert "\n" not in str(caught.value)
    assert not is_candidate(copy)


def test_bytes_that_are_no_text_are_one_clear_error(copy: Path) -> None:
    (copy / MANIFEST).write_bytes(b"\xff\xfe{}")
    with pytest.raises(BundleError, match="expected a manifest of format 2"):
        Bundle.load(copy)


def test_a_codebook_that_is_cut_after_loading_is_one_clear_error(copy: Path) -> None:
    """A mapping longer than the file would kill the process at the first access."""
    bundle = Bundle.load(copy)
    bundle.load_codebook("acoustic")
    os.truncate(copy / "acoustic.npy", 5000)
    with pytest.raises(BundleError, match=r"acoustic\.npy has been altered or swapped"):
        bundle.load_codebook("acoustic")
    with pytest.raises(BundleError, match=r"acoustic\.npy holds 5000 bytes"):
        Bundle.load(copy)
    state_file(copy, "acoustic.npy")
    with pytest.raises(BundleError, match=r"acoustic\.npy: .*expected a codebook"):
        Bundle.load(copy).load_codebook("acoustic")


@pytest.mark.parametrize(
    "data", [b"PK\x05\x06" + bytes(18), b"\x93NUMPY\x01\x00\x10\x00{'descr': (((  \n", b"\x80\x04N."]
)
def test_a_codebook_that_is_no_array_is_one_clear_error(copy: Path, data: bytes) -> None:
    """A zip archive, a header that Python's tokenizer refuses (found by tests.fuzz), a pickle."""
    (copy / "acoustic.npy").write_bytes(data)
    state_file(copy, "acoustic.npy")
    with pytest.raises(BundleError, match=r"acoustic\.npy: .*expected a codebook"):
        Bundle.load(copy).load_codebook("acoustic")
