"""A checkpoint folder in the published layout is read. Any other is refused in one line that names the fault."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sc_runtime.errors import CheckpointError
from sc_runtime.export.checkpoint import read_state
from sc_runtime.export.registry import read_tensors
from sc_runtime.export.seeded import SeededWeights
from sc_runtime.export.semanticodec.checkpoint import Folder
from sc_runtime.export.semanticodec.networks.sizes import choose_sizes
from tests.golden.seeded_weights import centroids, fill
from tests.published_layout import PARTS, list_training_only, make_state, write_codebook

TPS, VOCAB = 50, 4096
SIZES, FULL = choose_sizes("tiny", TPS, VOCAB), choose_sizes("full", TPS, VOCAB)
WIDTH = SIZES.config.feature_width
PROJECTION = "encoder_output_linear.weight"
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def states() -> dict[str, State]:
    return {part: make_state(part, SIZES, FULL) for part in PARTS}


@pytest.fixture
def folder(states: dict[str, State], tmp_path: Path) -> Path:
    """A checkpoint of tiny networks, with everything that training left in the published one."""
    path = tmp_path / "semanticodec_tokenrate_50"
    path.mkdir()
    for part, state in states.items():
        torch.save(state, path / f"{part}.ckpt")
    write_codebook(path, TPS, VOCAB, WIDTH)
    return path


def read_all(folder: Path, tps: int = TPS) -> dict[str, State]:
    weights = Folder(folder, tps)
    return {part: dict(read_tensors(part, weights, SIZES)) for part in PARTS}


def assert_stand_in(tensors: dict[str, State]) -> None:
    """Every tensor is the golden one of its name."""
    for part in PARTS:
        for name, tensor in tensors[part].items():
            assert tensor.dtype == torch.float32
            assert not tensor.requires_grad
            if name != "scale_factor":
                assert np.array_equal(tensor.numpy(), fill(1, name, tuple(tensor.shape))), name
    assert tensors["decoder"]["scale_factor"].item() == pytest.approx(0.9227)


def test_a_folder_gives_what_inference_needs_and_nothing_else(folder: Path, states: dict[str, State]) -> None:
    tensors = read_all(folder)
    assert_stand_in(tensors)
    for part in PARTS:
        unused = list_training_only(part, TPS, FULL)
        assert unused
        assert set(tensors[part]) == set(states[part]) - unused
    np.testing.assert_array_equal(Folder(folder, TPS).centroids(VOCAB, WIDTH), centroids(1, VOCAB, WIDTH))


def test_seeded_weights_of_the_same_seed_are_the_same(folder: Path) -> None:
    found, seeded = read_all(folder), SeededWeights(1)
    for part in PARTS:
        truth = read_tensors(part, seeded, SIZES)
        assert list(truth) == list(found[part])
        assert all(torch.equal(truth[name], found[part][name]) for name in truth)


def test_tensors_are_mapped_from_the_disk(folder: Path) -> None:
    """Tensors lie in the file's pages, because two copies of the largest network would not fit into memory."""
    tensors = read_tensors("encoder", Folder(folder, TPS), SIZES)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    mapped = [line for line in maps.read_text().splitlines() if line.endswith(str(folder / "encoder.ckpt"))]
    ranges = [tuple(int(part, 16) for part in line.split()[0].split("-")) for line in mapped]
    assert ranges
    for name, tensor in tensors.items():
        assert any(start <= tensor.data_ptr() < end for start, end in ranges), name


def save_old(state: State, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def save_nested(state: State, path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": state}, path)


def save_parameters(state: State, path: Path) -> None:
    floats = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    torch.save({name: torch.nn.Parameter(tensor) for name, tensor in floats.items()}, path)


def save_double(state: State, path: Path) -> None:
    torch.save({name: tensor.double() for name, tensor in state.items()}, path)


@pytest.mark.parametrize("save", [save_old, save_nested, save_parameters, save_double])
def test_other_ways_of_saving_the_same_tensors(folder: Path, states: dict[str, State], save: Any) -> None:
    for part, state in states.items():
        save(state, folder / f"{part}.ckpt")
    assert_stand_in(read_all(folder))


@pytest.mark.parametrize("name", ["encoder.ckpt", "decoder.ckpt"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=rf"no {name}; .*codebook_idx/: .*semanticodec_tokenrate_50/"):
        Folder(folder, TPS)
    with pytest.raises(CheckpointError, match=r"nowhere: no encoder\.ckpt"):
        Folder(folder / "nowhere", TPS)


def drop(state: State) -> None:
    del state[PROJECTION]


def add(state: State) -> None:
    state["first_stage_model.loss.logvar"] = torch.zeros(())


def transpose(state: State) -> None:
    state[PROJECTION] = state[PROJECTION].T.contiguous()


def quantise(state: State) -> None:
    state[PROJECTION] = state[PROJECTION].to(torch.int8)


def drop_many(state: State) -> None:
    for name in [name for name in state if name.startswith("audiomae.model.blocks.1.")]:
        del state[name]
    state["novelty"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop, r"encoder\.ckpt: tensors 1 missing \(encoder_output_linear\.weight\); expected the published layout"),
        (add, r"encoder\.ckpt: tensors 1 extra \(first_stage_model\.loss\.logvar\); "),
        (transpose, r"1 misshapen \(encoder_output_linear\.weight \[128, 32\] for \[32, 128\]\); .*--tps and --size$"),
        (quantise, r"1 not floating-point \(encoder_output_linear\.weight torch\.int8\); "),
        (drop_many, r"12 missing \(audiomae\.model\.blocks\.1\.\S+, \S+, \S+, …\); 1 extra \(novelty\); "),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder: Path, states: dict[str, State], damage: Any, message: str) -> None:
    state = dict(states["encoder"])
    damage(state)
    torch.save(state, folder / "encoder.ckpt")
    with pytest.raises(CheckpointError, match=message) as caught:
        read_all(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_a_decoder_in_the_encoders_place_is_refused(folder: Path) -> None:
    shutil.copy(folder / "decoder.ckpt", folder / "encoder.ckpt")
    with pytest.raises(CheckpointError, match=r"encoder\.ckpt: tensors \d+ missing .*; \d+ extra "):
        read_all(folder)


def test_tensors_of_another_size_are_named(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"misshapen .* for .*check --tps and --size"):
        read_tensors("encoder", Folder(folder, TPS), FULL)


@pytest.mark.parametrize("actual", [25, 100])
def test_a_checkpoint_of_another_rate_names_the_right_one(folder: Path, actual: int) -> None:
    state = make_state("encoder", choose_sizes("tiny", actual, VOCAB), choose_sizes("full", actual, VOCAB))
    torch.save(state, folder / "encoder.ckpt")
    with pytest.raises(CheckpointError, match=rf"is a checkpoint of {actual} tps; expected one of 50 tps: .*{actual}$"):
        read_all(folder)


@pytest.mark.parametrize(
    "betas",
    [
        torch.linspace(0.0015**0.5, 0.0195**0.5, 1000).square() * 1.01,
        torch.linspace(0.0015, 0.0195, 1000),
        torch.linspace(0.0015**0.5, 0.0195**0.5, 100).square(),
        torch.zeros(0),
        torch.tensor(0.1, requires_grad=True),
        torch.full((1000,), torch.nan),
    ],
    ids=["scaled", "linear", "shorter", "empty", "scalar", "nan"],
)
def test_another_noise_schedule_is_named(folder: Path, states: dict[str, State], betas: torch.Tensor) -> None:
    torch.save({**states["decoder"], "betas": betas}, folder / "decoder.ckpt")
    with pytest.raises(CheckpointError, match=r"another noise schedule.*; expected 1000 from 0\.0015 to 0\.0195"):
        read_all(folder)


def test_a_checkpoint_without_a_schedule_is_taken(folder: Path, states: dict[str, State]) -> None:
    torch.save({k: v for k, v in states["decoder"].items() if k != "betas"}, folder / "decoder.ckpt")
    assert_stand_in(read_all(folder))


class Malice:
    """Creates the file `path` when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("form", ["new", "old", "pickle"])
def test_code_in_a_checkpoint_is_refused_not_run(
    folder: Path, states: dict[str, State], tmp_path: Path, form: str
) -> None:
    trap, path = tmp_path / "sprung", folder / "encoder.ckpt"
    state = {**states["encoder"], "extra": Malice(trap)}
    if form == "pickle":
        with path.open("wb") as file:
            pickle.dump(state, file)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "new")
    with pytest.raises(CheckpointError, match=r"encoder\.ckpt: .*expected a file of tensors") as caught:
        read_all(folder)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert "\x1b" not in message
    assert "weights_only=False" not in message
    assert not trap.exists()
    torch.load(path, weights_only=False) if form != "pickle" else pickle.loads(path.read_bytes())
    assert trap.exists(), "the trap would not have sprung at all"


CONTENTS = {
    "empty": b"",
    "text": b"hello world",
    "web page": b"<!doctype html><title>404</title>",
    "git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
    "zip": b"PK\x05\x06" + bytes(18),
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "decoder.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"decoder\.ckpt: .+; expected a file of tensors .*download it again$"):
        read_state(path)


@pytest.mark.parametrize(
    "value", [torch.zeros(3), {"a": [1]}, {0: torch.zeros(3)}, [torch.zeros(3)], {"state_dict": {"a": 1}}]
)
def test_what_is_no_dictionary_of_tensors_is_refused(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "encoder.ckpt")
    with pytest.raises(CheckpointError, match=r"holds \w+; expected a dictionary of tensors by name"):
        read_state(tmp_path / "encoder.ckpt")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
@pytest.mark.parametrize("new", [True, False])
def test_a_truncated_checkpoint_is_refused(folder: Path, states: dict[str, State], share: float, new: bool) -> None:
    path = folder / "encoder.ckpt"
    torch.save(states["encoder"], path, _use_new_zipfile_serialization=new)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(CheckpointError, match=r"encoder\.ckpt: .+download it again$"):
        read_all(folder)


@pytest.mark.parametrize("new", [True, False])
def test_damaged_bytes_end_in_an_error_of_this_package(tmp_path: Path, new: bool) -> None:
    path, dice = tmp_path / "encoder.ckpt", random.Random(0)
    torch.save({"a": torch.zeros(3, 4), "b": torch.zeros(2)}, path, _use_new_zipfile_serialization=new)
    sound, refused = path.read_bytes(), 0
    for _ in range(500):
        damaged = bytearray(sound)
        for _ in range(dice.choice([1, 2, 8])):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            read_state(path)
        except CheckpointError:
            refused += 1
    assert refused > 100


def test_a_codebook_is_known_by_its_shape_not_its_name(folder: Path) -> None:
    right = next(folder.glob("codebook_idx/*/*.npy"))
    np.save(right.with_name("codebook_4096_0.npy"), centroids(1, 8192, WIDTH))  # as published: 8192 under 4096
    right.rename(right.with_name("codebook_99_7.npy"))
    np.save(right.with_name("codebook_2048_0.npy"), centroids(1, 16384, WIDTH))  # 16384 under the name of 4096
    np.testing.assert_array_equal(Folder(folder, TPS).centroids(4096, WIDTH), centroids(1, 4096, WIDTH))
    np.testing.assert_array_equal(Folder(folder, TPS).centroids(8192, WIDTH), centroids(1, 8192, WIDTH))
    np.testing.assert_array_equal(Folder(folder, TPS).centroids(16384, WIDTH), centroids(1, 16384, WIDTH))


def test_the_published_name_decides_between_codebooks_of_one_shape(folder: Path) -> None:
    other = folder / "codebook_idx" / "a_first_folder" / "codebook_2048_0.npy"
    other.parent.mkdir()
    np.save(other, centroids(2, VOCAB, WIDTH))
    np.testing.assert_array_equal(Folder(folder, TPS).centroids(VOCAB, WIDTH), centroids(1, VOCAB, WIDTH))


def test_codebooks_beside_the_folder_are_found_as_the_hub_keeps_them(folder: Path) -> None:
    (folder / "codebook_idx").rename(folder.parent / "codebook_idx")
    write_codebook(folder.parent, 100, VOCAB, 16)
    np.testing.assert_array_equal(Folder(folder, TPS).centroids(VOCAB, WIDTH), centroids(1, VOCAB, WIDTH))


def test_a_codebook_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no codebook \[8192, 32\] \(found: combine_256_\w+/codebook_2048_0\.npy \[4096, 32\]"
    ):
        Folder(folder, TPS).centroids(8192, WIDTH)
    shutil.rmtree(folder / "codebook_idx")
    with pytest.raises(CheckpointError, match=r"no codebook \[4096, 32\] \(found: none\); .*choose another --vocab"):
        Folder(folder, TPS).centroids(VOCAB, WIDTH)


def damage_codebook(path: Path, kind: str) -> None:
    if kind == "truncated":
        os.truncate(path, path.stat().st_size - 1)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "pickled":
        array = np.empty((VOCAB, WIDTH), object)
        array[0, 0] = Malice(path.with_name("sprung"))
        np.save(path, array, allow_pickle=True)
    elif kind == "header":
        path.write_bytes(path.read_bytes().replace(b"'shape'", b"\"shape'"))
    elif kind == "integers":
        np.save(path, np.zeros((VOCAB, WIDTH), np.int64))
    elif kind == "archive":
        with path.open("wb") as file:
            np.savez(file, np.zeros((VOCAB, WIDTH), np.float32))


@pytest.mark.parametrize("kind", ["truncated", "empty", "pickled", "header", "integers", "archive"])
def test_a_damaged_codebook_is_named_and_does_not_hide_an_intact_one(folder: Path, kind: str) -> None:
    path = next(folder.glob("codebook_idx/*/codebook_2048_0.npy"))
    sound = path.read_bytes()
    damage_codebook(path, kind)
    with pytest.raises(CheckpointError, match=r"no codebook \[4096, 32\] \(found: \S+/codebook_2048_0\.npy ") as caught:
        Folder(folder, TPS).centroids(VOCAB, WIDTH)
    assert len(str(caught.value).splitlines()) == 1
    assert not path.with_name("sprung").exists()
    path.with_name("codebook_2048_1.npy").write_bytes(sound)
    np.testing.assert_array_equal(Folder(folder, TPS).centroids(VOCAB, WIDTH), centroids(1, VOCAB, WIDTH))


def test_identity_is_of_the_bytes_not_of_the_place(folder: Path, states: dict[str, State], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert Folder(copy, TPS).identity == Folder(folder, TPS).identity
    state = dict(states["decoder"])
    state["scale_factor"] = torch.tensor(0.9)
    torch.save(state, copy / "decoder.ckpt")
    assert Folder(copy, TPS).identity != Folder(folder, TPS).identity


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(CheckpointError, match=rf"--seeded {seed}; expected 0 to 2\^64 - 1"):
        SeededWeights(seed)


# Bytes that are not what torch wrote, and tensors that are no arrays


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_compressed_archive_is_refused(tmp_path: Path, compression: int) -> None:
    """torch maps the compressed bytes as if they were the tensors: 80 of 80 were garbage."""
    torch.save({"a": torch.arange(1000.0)}, tmp_path / "plain.ckpt")
    path = tmp_path / "again.ckpt"
    with zipfile.ZipFile(tmp_path / "plain.ckpt") as plain, zipfile.ZipFile(path, "w", compression) as again:
        for member in plain.namelist():
            again.writestr(member, plain.read(member))
    with pytest.raises(CheckpointError, match=r"again\.ckpt: ValueError: the member .* is compressed or encrypted"):
        read_state(path)


def test_an_archive_with_two_members_of_one_name_is_refused(tmp_path: Path) -> None:
    """zipfile may check one of them while torch reads the other."""
    path = tmp_path / "twice.ckpt"
    torch.save({"a": torch.arange(1000.0)}, path)
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = next(name for name in archive.namelist() if name.endswith("data/0"))
        archive.writestr(name, bytes(4000))
    with pytest.raises(CheckpointError, match=r"2 members named twice/data/0"):
        read_state(path)


def test_a_flipped_bit_never_changes_a_tensor(tmp_path: Path) -> None:
    """Each bit of a small file is flipped: reading raises an error of this package, or gives the saved tensors."""
    state = {"a": torch.arange(6.0), "b": torch.ones(2, 2, dtype=torch.float16)}
    path = tmp_path / "small.ckpt"
    torch.save(state, path)
    data, generator = path.read_bytes(), random.Random(0)
    (start,) = (data.find(tensor.numpy().tobytes()) for tensor in [state["a"]])
    places = {*range(start, start + 24), *generator.sample(range(len(data)), 250)}
    refused = 0
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            found = read_state(path)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert found.keys() == state.keys(), place
            assert all(torch.equal(found[name], state[name]) for name in state), place
    assert refused >= 24


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.zeros(2, 2, device="meta"), "without values"),
        (torch.eye(2).to_sparse(), "sparse"),
        (torch.complex(torch.zeros(2), torch.ones(2)).conj().imag, "a view that negates"),
        (torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "nested"),
        (torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8), "quantised"),
    ],
    ids=["meta", "sparse", "negative", "nested", "quantised"],
)
def test_tensors_that_are_no_arrays_are_named(tmp_path: Path, tensor: torch.Tensor, kind: str) -> None:
    path = tmp_path / "odd.ckpt"
    torch.save({"fine": torch.zeros(1), "odd": tensor}, path)
    with pytest.raises(CheckpointError) as caught:
        read_state(path)
    assert "\n" not in str(caught.value)
    assert f"tensor odd is {kind}" in str(caught.value) or "odd.ckpt: " in str(caught.value)
    if kind in ("without values", "sparse", "a view that negates"):
        assert f"tensor odd is {kind}" in str(caught.value)


def test_the_hashes_of_the_files_are_recorded(folder: Path) -> None:
    weights = Folder(folder, TPS)
    weights.centroids(VOCAB, WIDTH)
    files = ["encoder.ckpt", "decoder.ckpt", "combine_256_audioset_dominate/codebook_2048_0.npy"]
    assert list(weights.sources) == files
    assert weights.sources["encoder.ckpt"] == hashlib.sha256((folder / "encoder.ckpt").read_bytes()).hexdigest()
