"""The share of tokens that bfloat16 changes is measured when a bundle is built, and shown when bfloat16 is chosen."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from sc_runtime import Codec
from sc_runtime.bundle.manifest import MANIFEST
from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.app import app
from sc_runtime.cli.program import run_command
from sc_runtime.errors import BackendError
from sc_runtime.samples import SPEECH_AND_MUSIC
from tests.conftest import GOLDEN


def has_bfloat16() -> bool:
    openvino = pytest.importorskip("openvino")
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_the_share_is_that_of_the_demos_tokens(tiny_bundle: Path) -> None:
    builder = pytest.importorskip("sc_runtime.export.builder")
    if not has_bfloat16():
        pytest.skip("no bfloat16 here")
    exact, rounded = (
        Codec.load(tiny_bundle, backend="openvino", precision=precision).encode(SPEECH_AND_MUSIC).codes
        for precision in ("float32", "bfloat16")
    )
    share = builder.compare_bfloat16(Bundle.load(tiny_bundle))
    assert share == np.mean(exact == rounded)
    assert 0 < share < 1


def test_the_share_is_unknown_without_bfloat16(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = pytest.importorskip("sc_runtime.export.builder")

    def refuse(*_: object, **__: object) -> None:
        raise BackendError("bfloat16", "float32")

    monkeypatch.setattr(builder, "choose_backend", refuse)
    assert builder.compare_bfloat16(Bundle.load(tiny_bundle)) is None


def test_the_share_of_fp16_is_that_of_the_float32_bundles_tokens(tiny_bundle: Path, tiny_fp16_bundle: Path) -> None:
    rounding = pytest.importorskip("sc_runtime.export.rounding")
    from sc_runtime.export.registry import find_export
    from sc_runtime.export.seeded import SeededWeights

    clip, bundle = GOLDEN / "mixed_4s.wav", Bundle.load(tiny_fp16_bundle)
    sizes = find_export("semanticodec").choose_sizes("tiny", 50, 4096)
    exact = Codec.load(tiny_bundle, backend="onnxruntime").encode(clip, vocab=4096).codes
    networks = Codec(bundle, rounding.TorchBackend(sizes, SeededWeights(1))).encode(clip).codes
    np.testing.assert_array_equal(networks, exact)
    rounded = Codec(bundle, rounding.RoundedBackend()).encode(clip).codes
    share = rounding.compare_fp16(bundle, sizes, SeededWeights(1), [clip])
    assert share == np.mean(rounded == exact)
    assert share > 0.9
    assert rounding.compare_fp16(bundle, sizes, SeededWeights(2), [clip]) < 0.5  # the networks of other weights
    assert {clip.name for clip in rounding.list_clips()} >= {"speech_and_music.flac", "speech_0.flac", "music_0.flac"}


def test_a_build_of_trained_weights_records_and_prints_the_share(
    tiny_fp16_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The graphs are taken from a neighbour, so only the share is computed."""
    rounding = pytest.importorskip("sc_runtime.export.rounding")
    from sc_runtime.export.build import print_table
    from sc_runtime.export.builder import build_bundle
    from sc_runtime.export.registry import find_export
    from sc_runtime.export.seeded import SeededWeights

    class Trained(SeededWeights):
        trained = True

    clips = [GOLDEN / "mixed_4s.wav"]
    monkeypatch.setattr(rounding, "list_clips", lambda: clips)
    shutil.copytree(tiny_fp16_bundle, tmp_path / "neighbour")
    sizes = find_export("semanticodec").choose_sizes("tiny", 50, 4096)
    built = build_bundle(tmp_path / "built", sizes, (4096,), Trained(1), size="tiny", precision="fp16")
    share = rounding.compare_fp16(Bundle.load(tiny_fp16_bundle), sizes, SeededWeights(1), clips)
    assert Bundle.load(built.path).manifest.equal_in_fp16 == share
    print_table(Console(width=100, highlight=False), built)
    assert f"Tokens that stay equal in FP16: {share:.2%}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("share", "told"), [(0.97, "3.00% in the bundle's self-test"), (None, "does not state"), (1, None)]
)
def test_encoding_with_an_fp16_bundle_says_what_it_costs(
    share: float | None, told: str | None, tiny_fp16_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_fp16_bundle, copy)
    manifest = dataclasses.replace(Bundle.load(copy).manifest, equal_in_fp16=share)
    (copy / MANIFEST).write_text(manifest.to_json())
    arguments = ["encode", str(GOLDEN / "mixed_4s.wav"), "-o", str(tmp_path / "a.sct"), "--bundle", str(copy)]
    assert run_command(app, [*arguments, "--backend", "onnxruntime"]) == 0
    printed = capsys.readouterr().err
    assert told in printed if told else "changes tokens" not in printed


@pytest.mark.parametrize(("share", "told"), [(0.9875, "1.25% in the bundle's self-test"), (None, "does not state")])
def test_encoding_in_bfloat16_says_what_it_costs(
    share: float | None, told: str, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not has_bfloat16():
        pytest.skip("no bfloat16 here")
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy)
    manifest = dataclasses.replace(Bundle.load(copy).manifest, equal_in_bfloat16=share)
    (copy / MANIFEST).write_text(manifest.to_json())
    arguments = ["encode", str(GOLDEN / "mixed_4s.wav"), "-o", str(tmp_path / "a.sct"), "--bundle", str(copy)]
    assert run_command(app, [*arguments, "--precision", "bfloat16"]) == 0
    assert told in capsys.readouterr().err
    assert run_command(app, [*arguments, "--force", "--backend", "openvino"]) == 0
    assert "bfloat16 changes" not in capsys.readouterr().err
