"""A bundle equals the description in its manifest, or an error names the file that differs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from sc_runtime.bundle import locate, store
from sc_runtime.bundle.locate import BUNDLE_VARIABLE, is_candidate, list_bundles, locate_bundle
from sc_runtime.bundle.manifest import MANIFEST, Manifest
from sc_runtime.bundle.store import BUILD_AGAIN, EMBEDDED, VERIFIED, Bundle
from sc_runtime.codec import Codec
from sc_runtime.errors import BundleError
from tests.conftest import load_manifest


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that tests may damage, without the record of verified files."""
    target = tmp_path / "copy"
    shutil.copytree(tiny_bundle, target)
    (target / VERIFIED).unlink(missing_ok=True)
    return target


def open_everything(path: Path) -> None:
    codec = Codec.load(path)
    codec.decode(codec.encode(np.zeros(1000, np.float32)), steps=1)


def test_an_intact_bundle_opens_and_is_hashed_once(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_everything(copy)
    assert not (copy / VERIFIED).exists()  # nothing is written to a bundle
    monkeypatch.setattr(store, "hash_file", lambda path: pytest.fail(f"{path} hashed twice"))
    open_everything(copy)


def test_manifest_survives_its_json(tiny_bundle: Path) -> None:
    manifest = Bundle.load(tiny_bundle).manifest
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize("name", ["hifigan.onnx", "tunet_step.onnx.data", "acoustic.npy", "semantic-32768.npy"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=rf"{name} is missing.*rebuild it: sc-runtime build --tps 50"):
        Codec.load(copy)


@pytest.mark.parametrize("name", ["hifigan.onnx", "acoustic_encoder.onnx.data", "acoustic.npy", "semantic-32768.npy"])
def test_one_altered_bit_is_found(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} has been altered or swapped"):
        open_everything(copy)


def test_an_alteration_after_a_first_use_is_found(copy: Path) -> None:
    open_everything(copy)
    file = copy / "hifigan.onnx.data"
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleError, match="altered"):
        open_everything(copy)


def test_a_truncated_file_is_found_at_once(copy: Path) -> None:
    os.truncate(copy / "vae_decoder.onnx.data", 1000)
    with pytest.raises(BundleError, match="holds 1000 bytes; expected"):
        Codec.load(copy)


def test_swapped_files_are_found(copy: Path) -> None:
    first, second = copy / "semantic-4096.npy", copy / "semantic-32768.npy"
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)
    with pytest.raises(BundleError, match=r"semantic-\d+\.npy holds"):
        Codec.load(copy)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw.update(format=99),
        lambda raw: raw.update(format=1),
        lambda raw: raw.pop("graphs"),
        lambda raw: raw.update(graphs=[]),
        lambda raw: raw.update(surprise=1),
        lambda raw: raw["files"].update({"x": {"bytes": 1}}),
        lambda raw: raw["settings"].update(schedule=None),
        lambda raw: raw["settings"].update(surprise=1),
        lambda raw: raw["settings"].pop("tps"),
        lambda raw: raw.update(settings=[]),
        lambda raw: raw.pop("settings"),
        lambda raw: raw.update(vocabularies=[]),
        lambda raw: raw.update(vocabularies=["4096"]),
        lambda raw: raw.update(vocabularies=4096),
        lambda raw: raw.pop("codec"),
        lambda raw: raw["files"].pop("hifigan.onnx"),
    ],
)
def test_a_damaged_manifest_is_one_clear_error(copy: Path, damage) -> None:
    raw = load_manifest(copy)
    damage(raw)
    (copy / MANIFEST).write_text(json.dumps(raw))
    with pytest.raises(BundleError, match=r"manifest\.json: .*expected a manifest of format 2") as error:
        Bundle.load(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw.update(codec="abacus"), "codec 'abacus'; expected one of semanticodec, unicodec"),
        (lambda raw: raw.update(codec=None), "codec None; expected one of semanticodec, unicodec"),
        (lambda raw: raw["settings"].update(tps=75), "tps 75; expected 25, 50 or 100 tokens per second"),
        (lambda raw: raw.update(vocabularies=[4096, 0]), "vocab 0; expected a positive number"),
    ],
)
def test_an_unknown_codec_or_setting_of_a_manifest_is_named(copy: Path, damage, message: str) -> None:
    raw = load_manifest(copy)
    damage(raw)
    (copy / MANIFEST).write_text(json.dumps(raw | {"trained": True}))
    with pytest.raises(BundleError) as error:
        Bundle.load(copy)
    assert str(error.value) == f"{copy / MANIFEST}: {message}: {BUILD_AGAIN}"
    assert not is_candidate(copy)


def test_a_manifest_of_the_other_codec_does_not_fit_these_settings(copy: Path) -> None:
    raw = load_manifest(copy)
    (copy / MANIFEST).write_text(json.dumps(raw | {"codec": "unicodec"}))
    with pytest.raises(BundleError, match="expected a manifest"):
        Bundle.load(copy)


@pytest.mark.parametrize("bundle", ["tiny_bundle", "tiny_unicodec"])
def test_settings_come_back_from_a_manifest(bundle: str, request: pytest.FixtureRequest) -> None:
    """For both codecs and every vocabulary the manifest restores the configuration that it was made from."""
    manifest = Bundle.load(request.getfixturevalue(bundle)).manifest
    assert manifest.vocabularies
    for vocab in manifest.vocabularies:
        config = manifest.configure(vocab)
        assert config.vocab == vocab
        assert (config.codec, json.loads(json.dumps(config.settings))) == (manifest.codec, manifest.settings)
        assert type(config) is manifest.spec.config
    assert manifest.configure().vocab == manifest.vocabularies[-1]


def test_a_manifest_that_is_not_json(copy: Path) -> None:
    (copy / MANIFEST).write_text("{")
    with pytest.raises(BundleError, match="expected a manifest"):
        Bundle.load(copy)


def test_a_manifest_cannot_point_outside_its_folder(copy: Path) -> None:
    raw = load_manifest(copy)
    raw["graphs"]["hifigan"]["files"] = ["../../elsewhere.onnx"]
    (copy / MANIFEST).write_text(json.dumps(raw))
    with pytest.raises(BundleError, match=r"graphs\.hifigan\.files\.0: .*expected a manifest"):
        Bundle.load(copy)


def test_a_read_only_bundle_works(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    open_everything(copy)
    assert not (copy / VERIFIED).exists()


def test_bundles_are_found_newest_first(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bundles"
    monkeypatch.setattr(locate, "bundles_folder", lambda: folder)
    monkeypatch.delenv(BUNDLE_VARIABLE, raising=False)
    assert locate_bundle() == EMBEDDED
    manifest = load_manifest(copy)
    for age, (name, trained) in enumerate({"stand-in": False, "new": True, "old": True, ".partial": True}.items()):
        (folder / name).mkdir(parents=True)
        (folder / name / MANIFEST).write_text(json.dumps(manifest | {"trained": trained}))
        os.utime(folder / name / MANIFEST, (1000 - age, 1000 - age))
    assert [path.name for path in list_bundles()] == ["stand-in", "new", "old"]
    assert locate_bundle() == folder / "new"
    assert locate_bundle("old") == folder / "old"
    assert locate_bundle("embedded") == EMBEDDED
    (folder / "new" / MANIFEST).write_text("{}")
    assert locate_bundle() == folder / "old"
    monkeypatch.setenv(BUNDLE_VARIABLE, "stand-in")
    assert locate_bundle() == folder / "stand-in"
    with pytest.raises(BundleError, match=r"'absent' not found; expected a folder or the name .*\(.*old, embedded\)"):
        locate_bundle("absent")
