"""UniCodec's checkpoint, from a file or from the hub, becomes a bundle. A faulty one is an error of one line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.program import run_command
from sc_runtime.export.build import app
from sc_runtime.export.registry import find_export, read_tensors
from sc_runtime.export.seeded import SeededWeights
from sc_runtime.export.unicodec.checkpoint import FILE
from tests.conftest import keep_graphs
from tests.test_hub import COMMIT, Hub, serving, start

SIZES = find_export("unicodec").choose_sizes("tiny", None, 16384)
FETCH = """
import json
from sc_runtime.export.unicodec.checkpoint import fetch_published
weights = fetch_published()
print(json.dumps([str(weights.path), weights.identity, weights.description, weights.arguments, weights.label]))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the published layout: tensors of inference, some of training, and other objects that trainers save."""
    path = tmp_path_factory.mktemp("checkpoint") / FILE
    tensors = read_tensors(FILE, SeededWeights(1), SIZES)
    state = {name: tensors[name] for name in tensors}
    state |= {name: torch.zeros(3) for name in ("multiperioddisc.x", "feature_extractor.encodec.decoder.model.0.bias")}
    torch.save({"state_dict": state, "epoch": 3}, path)
    return path


def build(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = run_command(app, ["--codec", "unicodec", *arguments])
    return code, capsys.readouterr().err


@pytest.mark.slow
def test_a_file_makes_the_bundle_of_its_weights(
    checkpoint: Path, tiny_unicodec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_bundle(checkpoint, tmp_path / "bundle", capsys) == hash_files(tiny_unicodec)


@pytest.mark.slow
def test_a_file_makes_the_decoder_of_its_weights(
    checkpoint: Path,
    tiny_unicodec: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep_graphs(monkeypatch, "decoder", codec="unicodec")
    files = make_bundle(checkpoint, tmp_path / "bundle", capsys)
    assert files.keys() == {"decoder.onnx", "decoder.onnx.data", "unified.npy"}
    assert files.items() <= hash_files(tiny_unicodec).items()


def make_bundle(checkpoint: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Build a bundle of the checkpoint by the command -> the hashes of its files."""
    code, errors = build(capsys, "--checkpoint", str(checkpoint), "--size", "tiny", "--out", str(out))
    assert code == 0, errors
    found = Bundle.load(out).manifest
    assert (found.codec, found.vocabularies, found.trained) == ("unicodec", (16384,), True)
    assert found.weights == f"checkpoint {FILE}"
    assert found.command == f"sc-runtime build --codec unicodec --checkpoint {checkpoint} --size tiny"
    return hash_files(out)


def hash_files(path: Path) -> dict[str, str]:
    return {name: entry.sha256 for name, entry in Bundle.load(path).manifest.files.items()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tps", "50", "--seeded", "1"), "50 tps for UniCodec; expected 75, its only rate"),
        (("--vocab", "4096", "--seeded", "1"), "--vocab 4096; expected one or more of 16384"),
        (("--checkpoint", "nowhere.ckpt"), "nowhere.ckpt: no such file; expected UniCodec's checkpoint"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors = build(capsys, *arguments)
    (line,) = errors.splitlines()
    assert (code, line.startswith(f"error: {message}")) == (1, True), line


def test_another_size_is_named(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, errors = build(capsys, "--checkpoint", str(checkpoint), "--out", str(tmp_path / "bundle"))
    assert code == 1
    assert "misshapen" in errors and not (tmp_path / "bundle").exists()


def test_an_unknown_codec_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(app, ["--codec", "abacus", "--seeded", "1"]) == 1
    assert "codec 'abacus'; expected one of semanticodec, unicodec" in capsys.readouterr().err


def test_the_hub_is_asked_for_the_published_file_once(checkpoint: Path, tmp_path: Path) -> None:
    with serving(Hub(checkpoint.parent, repository="Yidiii/UniCodec_ckpt")) as hub:
        answers = []
        for _ in range(2):
            client: subprocess.Popen[str] = start(hub.address, tmp_path, "-c", FETCH)
            output, errors = client.communicate(timeout=120)
            assert client.returncode == 0, errors
            answers.append(json.loads(output))
        assert hub.list_downloads() == [(FILE, None)]
    path, _, *words = answers[0]
    assert answers[1] == answers[0]
    assert Path(path).read_bytes() == checkpoint.read_bytes()
    assert words == [f"Yidiii/UniCodec_ckpt/{FILE}", f"--revision {COMMIT}", ""]
