"""The drop-in class has the published package's shapes and dtypes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from sc_runtime import Codec, SemantiCodec, drop_in
from sc_runtime.bundle import locate
from sc_runtime.errors import BundleError, SettingsError


def test_checkpoints_in_folders_of_one_name_are_two_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The build is asked for each, under a name of its own. Before, the second one got the first one's weights."""
    asked: list[Path] = []

    def build(command: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
        out = Path(command[command.index("--out") + 1])
        out.mkdir(parents=True)
        (out / "manifest.json").write_text("{}")
        asked.append(out)
        return subprocess.CompletedProcess(command, 0)

    for module in (drop_in, locate):
        monkeypatch.setattr(module, "bundles_folder", lambda: tmp_path / "bundles")
    monkeypatch.setattr(drop_in.subprocess, "run", build)
    checkpoints = [tmp_path / person / "run" for person in ("anna", "bert")]
    found = [drop_in.find_or_build(50, 4096, checkpoint) for checkpoint in checkpoints]
    assert found == asked and len(set(found)) == 2
    assert drop_in.find_or_build(50, 4096, checkpoints[0]) == found[0] and len(asked) == 2


def test_an_existing_script_only_changes_its_import(tiny_bundle: Path, golden: Path) -> None:
    semanticodec = SemantiCodec(
        token_rate=50, semantic_vocab_size=4096, ddim_sample_step=2, checkpoint_path=tiny_bundle, backend="onnxruntime"
    )
    tokens = semanticodec.encode(str(golden / "mixed_4s.wav"))
    assert tokens.shape == (1, 96, 2)
    assert tokens.dtype == np.int64
    waveform = semanticodec.decode(tokens)
    assert waveform.shape == (1, 1, 61440)
    assert waveform.dtype == np.float32
    codec = Codec.load(tiny_bundle, backend="onnxruntime")
    np.testing.assert_array_equal(codec.encode(golden / "mixed_4s.wav", vocab=4096).codes, tokens[0])
    np.testing.assert_array_equal(codec.decode(tokens, steps=2, vocab=4096), waveform[0, 0])


@pytest.mark.parametrize(
    ("rate", "vocab", "bundle", "expected"),
    [
        (25, 4096, "tiny_bundle", "semanticodec, 50 tps, vocabulary 4096 or 32768"),
        (50, 8192, "tiny_bundle", "semanticodec, 50 tps, vocabulary 4096 or 32768"),
        (50, 4096, "tiny_unicodec", "unicodec, 75 tps, vocabulary 16384"),
    ],
)
def test_a_bundle_of_other_settings_is_refused(
    rate: int, vocab: int, bundle: str, expected: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(bundle)
    given = f"token_rate {rate} and semantic_vocab_size {vocab} with the bundle {path}"
    with pytest.raises(SettingsError) as caught:
        SemantiCodec(rate, vocab, checkpoint_path=path)
    assert str(caught.value).startswith(f"{given}; expected those of the bundle: {expected}: ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"token_rate": 30}, "tps 30"),
        ({"ddim_sample_step": 3}, "3 steps"),
        ({"cfg_scale": float("nan")}, "guidance nan"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(tiny_bundle: Path, settings: dict, message: str) -> None:
    arguments = {"token_rate": 50, "semantic_vocab_size": 4096, "checkpoint_path": tiny_bundle, **settings}
    with pytest.raises(SettingsError, match=message):
        SemantiCodec(**arguments)


def test_a_torch_tensor_of_tokens_is_taken(tiny_bundle: Path) -> None:
    torch = pytest.importorskip("torch")
    semanticodec = SemantiCodec(50, 4096, 1, checkpoint_path=tiny_bundle, backend="onnxruntime")
    tokens = torch.zeros(1, 8, 2, dtype=torch.int64)
    np.testing.assert_array_equal(semanticodec.decode(tokens), semanticodec.decode(tokens.numpy()))


def test_a_missing_bundle_is_built_once(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The build runs as another command. Here a stand-in for it puts the tiny bundle in place."""
    commands = []

    def build(command: list[str], check: bool) -> subprocess.CompletedProcess:
        commands.append(command)
        (tmp_path / "tps50-v4096").symlink_to(tiny_bundle)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("sc_runtime.bundle.locate.bundles_folder", lambda: tmp_path)
    monkeypatch.setattr(drop_in.subprocess, "run", build)
    for _ in range(2):
        assert SemantiCodec(50, 4096).codec.config.tps == 50
    assert len(commands) == 1
    assert commands[0][1:] == ["-m", "sc_runtime.export.build", "--tps", "50", "--vocab", "4096"]


def test_a_build_that_fails_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sc_runtime.bundle.locate.bundles_folder", lambda: tmp_path)
    monkeypatch.setattr(drop_in.subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 1))
    with pytest.raises(BundleError, match=r"no bundle tps25-v8192.*run python -m sc_runtime\.export\.build --tps 25"):
        SemantiCodec(25, 8192)
