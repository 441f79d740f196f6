"""Training the embedded model on a GPU that is lent for minutes: what travels, the rehearsal, what comes back."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.gpu_calls import print_calls
from bench.gpu_wheel import LIMIT
from bench.harness.machine import ROOT
from sc_runtime.cli.program import run_command
from sc_runtime.errors import SettingsError
from sc_runtime.export.embedded.corpus import effects
from sc_runtime.export.embedded.corpus.environment import TRAINED_PROGRAMS
from sc_runtime.export.embedded.corpus.sources import SONIC_PI
from sc_runtime.export.embedded.corpus.splits import DOMAINS
from sc_runtime.export.embedded.gpu import calls, command
from sc_runtime.export.embedded.gpu.clip_files import (
    CARRIED,
    HELD_OUT,
    INDEX,
    RECORDINGS,
    check_pieces,
    decode,
    encode_opus,
    list_programs,
    make_sound_clip,
    name_archive,
    name_clip,
    plan_carried,
    read_held_out,
    read_recording,
)
from sc_runtime.export.embedded.gpu.packing import (
    STAGES,
    copy_starts,
    cut_pieces,
    encode_recordings,
    list_clips,
    write_index,
)
from sc_runtime.export.embedded.gpu.taking import join_parts
from sc_runtime.export.embedded.training import command as training
from sc_runtime.export.embedded.training.assembly import assemble
from sc_runtime.export.embedded.training.filterbanks import compute_fbanks
from sc_runtime.export.embedded.training.sizes import TRAINED
from sc_runtime.export.embedded.training.states import load_average, read_curves
from sc_runtime.export.semanticodec.checkpoint import Folder
from sc_runtime.export.semanticodec.networks.tunet import TUNet
from sc_runtime.semanticodec.config import SEGMENT_SAMPLES

pytestmark = pytest.mark.slow  # a training in little

CLIPS = 12  #: of each domain: 2048 centroids of sound need as many positions


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tones in noise: CLIPS of speech and music, and two held-out clips of each domain."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)
    time = np.arange(SEGMENT_SAMPLES) / 16000

    def draw(count: int) -> np.ndarray:
        tones = [np.sin(2 * np.pi * generator.uniform(100, 900) * time) for _ in range(count)]
        noise = generator.standard_normal((count, SEGMENT_SAMPLES)) * 0.1
        return ((np.stack(tones) + noise) * 6000).astype(np.int16)

    for domain in CARRIED:
        np.save(folder / f"train-{domain}.npy", draw(CLIPS))
    for domain in DOMAINS:
        np.save(folder / f"held-out-{domain}.npy", draw(2))
    return folder


@pytest.fixture(scope="module")
def pieces(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `pack` wrote, from the weights of the shipped model; with recordings if they are installed."""
    out = tmp_path_factory.mktemp("carry")
    recordings = "--recordings" if SONIC_PI.is_installed() else "--no-recordings"
    arguments = [recordings, "--clips", str(CLIPS), "--held-out", "1", "--rate", "32"]
    arguments += ["--out", str(out), "--wheels", "no"]
    assert run_command(command.app, ["pack", "--corpus", str(corpus), *arguments]) == 0
    return out / calls.PACK


@pytest.fixture(scope="module")
def pack(pieces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All pieces in one folder, as on the machine."""
    folder = tmp_path_factory.mktemp("pack")
    for path in pieces.glob("piece*/*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.slow
def test_a_rehearsal_trains_every_stage_and_what_comes_back_is_a_checkpoint(pack: Path, tmp_path: Path) -> None:
    """Five processes on the CPU. The vocoder tries to capture a graph, which fails here, and starts again without.

    Then a pack of what came back trains the T-UNet alone, on the same tokens, centroids and scale factor.
    """
    out, work, state = tmp_path / "out", tmp_path / "work", tmp_path / "state"
    document = rehearse(pack, out, work, "--eager", "mel_vae,audiomae,tokens,diffusion")
    assert set(document["states"].values()) == {"ran"}
    assert document["rehearsal"] and document["gpu"] is None
    assert "vocoder: no CUDA graph, (False, False): " in (out / "gpu.log").read_text()
    assert document["results"]["vocoder"]["eager"][0] == "(False, False)"
    assert 0 < document["results"]["mel_vae"]["held_out_l1"] < 20
    files = sorted(path.name for path in out.iterdir())
    assert files == sorted([*(f"{stage}.pt" for stage in STAGES), "gpu.json", "gpu.log", "losses.jsonl"])

    assert run_command(command.app, ["take", str(out), str(state)]) == 0
    for stage in STAGES:
        assert read_curves(state, stage)[-1]["step"] > 0
    weights = Folder(assemble(state, TRAINED), TRAINED.config.tps)
    assert weights.half
    second, again = shutil.copytree(pack, tmp_path / "second"), tmp_path / "again"
    copy_starts(state, second)
    for stage in ("mel_vae", "vocoder"):  # those with discriminators
        goes_on = [stage, str(state), "--corpus", str(work / "corpus"), "--minutes", "0.01", "--budget", "1"]
        assert run_command(training.app, goes_on) == 0
    started, trained = (load_average(folder, "vocoder", "hifigan") for folder in (pack, state))
    assert any(not torch.equal(started[key], trained[key]) for key in started)
    TUNet(TRAINED).load_state_dict(load_average(state, "diffusion", "tunet"))

    (tmp_path / "third").mkdir()
    with pytest.raises(SettingsError, match=r"scale_factor\.json of another AudioMAE or VAE"):
        copy_starts(state, tmp_path / "third")  # the VAE has been trained on
    document = rehearse(second, again, tmp_path / "work2", "--only", "diffusion", "--eager", "diffusion")
    assert document["states"]["diffusion"] == "ran" and document["results"]["diffusion"]["steps"] > 0
    assert run_command(command.app, ["take", str(again), str(tmp_path / "state2")]) == 0
    folders = (state, tmp_path / "state2")
    assert np.allclose(*(np.load(folder / "centroids.npy") for folder in folders), rtol=1e-3)
    scales = [json.loads((folder / "scale_factor.json").read_text()) for folder in folders]
    assert scales[0] == scales[1]
    for network in ("acoustic_encoder", "quantizer"):
        before, after = (load_average(folder, "tokens", network) for folder in folders)
        assert all(torch.equal(before[key], after[key]) for key in before)
    before, after = (load_average(folder, "diffusion", "tunet") for folder in folders)
    assert any(not torch.equal(before[key], after[key]) for key in before)


def rehearse(pack: Path, out: Path, work: Path, *options: str) -> dict[str, Any]:
    """Run `train --rehearse` in a process of its own; returns its JSON."""
    arguments = ["train", "--pack", pack, "--out", out, "--work", work, "--rehearse", "--workers", "1", *options]
    program = [sys.executable, "-m", "export.embedded.gpu", *map(str, arguments)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    document: dict[str, Any] = json.loads((out / "gpu.json").read_text())
    return document


def test_the_training_call_can_name_its_stages() -> None:
    call, _ = calls.list_calls(calls.CARRY, ["piece0"], 8.5, "vocoder,diffusion")
    assert "--minutes 8.5 --only vocoder,diffusion >/tmp/train.log" in call.command


def test_calls_bring_every_piece_and_the_last_one_trains(
    pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With room for some of the clips beside the weights, so that there are several pieces."""
    first = sorted((pieces / "first").iterdir())
    room = sum(path.stat().st_size for path in first) + 400_000
    place = tmp_path / calls.PACK
    folders = cut_pieces(first, list_clips(pieces / "opus-32", CARRIED, CLIPS), place, room)
    names = [zipfile.ZipFile(folder / name_archive(i)).namelist() for i, folder in enumerate(folders)]
    assert sorted(itertools.chain(*names)) == sorted(
        name_clip(domain, row) for domain in CARRIED for row in range(CLIPS)
    )
    assert {name.split("-")[0] for name in names[0]} == set(CARRIED)
    assert all(sum(path.stat().st_size for path in folder.iterdir()) <= room for folder in folders)

    print_calls(calls.list_calls(tmp_path, [folder.name for folder in folders], 8), calls.ASIDE, "")
    shown = capsys.readouterr().out.split("\nCall ")[1:]
    assert len(shown) == len(folders) + 1 > 2
    assert [" unpack /tmp/pack" in call for call in shown] == [True] + [False] * (len(shown) - 1)
    assert [" train --pack /tmp/pack" in call for call in shown] == [False] * (len(shown) - 2) + [True, False]
    assert "timeout_s=540" in shown[-1] and f"MiB of {LIMIT // 2**20}" in shown[-1]


def test_what_comes_back_in_parts_is_what_was_trained(tmp_path: Path) -> None:
    """The last call's own commands wait for a process and send its files; a part that is missing is noticed."""
    (call,) = calls.list_calls(calls.CARRY, [], 1)
    trained, returned = tmp_path / "trained", tmp_path / "returned"
    for folder in (trained, returned):
        folder.mkdir()
    contents = {name: np.random.default_rng(0).bytes(20 * 2**20) for name in ("diffusion.pt", "vocoder.pt")}
    for name, content in contents.items():
        (trained / name).write_bytes(content)
    began = calls.detach("sh -c 'sleep 1; printf end'", "train")
    script = f"{began} sleep 0.2; {call.command}".replace("/tmp/train", str(tmp_path / "train"))
    environment = {**os.environ, "OUT": str(returned)}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout == "end", done
    parts = sorted(returned.iterdir())
    assert len(parts) == 3 and max(part.stat().st_size for part in parts) < 16 * 2**20
    with join_parts(returned) as whole:
        assert {path.name: path.read_bytes() for path in whole.iterdir()} == contents
    parts[-1].unlink()
    with pytest.raises(SettingsError, match=r"2 parts of trained\.tar.*; expected a whole"), join_parts(returned):
        pass


def test_a_file_that_fits_no_piece_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(1000))
    with pytest.raises(SettingsError, match="weights and held-out clips of 1000 bytes; expected at most 999"):
        cut_pieces([tmp_path / "weights"], [], tmp_path / "out", 999)


def test_a_missing_piece_is_named(pack: Path, tmp_path: Path) -> None:
    (tmp_path / "pack.json").write_bytes((pack / "pack.json").read_bytes())
    with pytest.raises(SettingsError, match=r"24 clips are not in .*, speech-00000.opus for one; expected 24 clips"):
        check_pieces(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pack", "nowhere"], "error: --pack .*nowhere; expected a folder with pack.json"),
        (["--pack", "nowhere", "--only", "vae"], "error: stage 'vae'; expected of audiomae, mel_vae"),
        (["--pack", "nowhere", "--seconds", "mel_vae=0"], "error: --seconds mel_vae=0; expected STAGE=NUMBER"),
    ],
)
def test_wrong_options_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--rehearse"]
    assert run_command(command.app, ["train", *arguments, *where]) == 1
    shown = capsys.readouterr().err
    assert len(shown.strip().splitlines()) == 1
    assert re.match(message, shown), shown


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_training_is_refused(pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(command.app, ["train", "--pack", str(pack), "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "error: no GPU; expected one that torch can use, or --rehearse\n"


def test_opus_keeps_length_and_sound() -> None:
    time = np.arange(SEGMENT_SAMPLES) / 16000
    clip = (8000 * np.sin(2 * np.pi * 440 * time)).astype(np.int16)
    sizes = [len(encode_opus(rate, clip)) for rate in (32, 64)]
    assert sizes[0] < sizes[1] < 2 * 64_000 / 8 * 10.24
    heard = decode(encode_opus(64, clip))
    assert heard.shape == clip.shape and heard.dtype == np.int16
    error = (heard - clip.astype(np.float64))[1600:-1600]
    assert np.sqrt(np.mean(error**2)) < 0.05 * 8000


def test_held_out_clips_come_back_bit_by_bit(corpus: Path, pack: Path) -> None:
    expected = np.concatenate([np.load(corpus / f"held-out-{domain}.npy")[:1] for domain in DOMAINS])
    assert np.array_equal(read_held_out(pack), expected)
    assert (pack / HELD_OUT).stat().st_size < expected.nbytes


def test_a_sound_is_the_same_each_time_and_some_hold_carried_clips(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the clips mix in another domain: a clip of the pack."""
    used = []
    original = zipfile.ZipFile.read
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda self, name: used.append(name) or original(self, name))
    clips = [make_sound_clip(pack, index) for index in range(6)]
    assert all(clip.shape == (SEGMENT_SAMPLES,) and clip.dtype == np.int16 for clip in clips)
    assert used and all(name.split("-")[0] in CARRIED for name in used)
    assert np.array_equal(clips[0], make_sound_clip(pack, 0)) and not np.array_equal(clips[0], clips[1])


@pytest.mark.skipif(not SONIC_PI.is_installed(), reason="not installed: sonic-pi-samples")
def test_carried_recordings_make_the_sound_of_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sample for sample, on a machine that lacks the package. The held-out recordings do not travel."""
    write_index(tmp_path / INDEX, CLIPS, True, {})
    encode_recordings(tmp_path / RECORDINGS)
    with zipfile.ZipFile(tmp_path / RECORDINGS) as archive:
        assert archive.namelist() == [f"{name}.flac" for name in effects.recordings_of("train")]
    for name in effects.recordings_of("train"):
        assert np.array_equal(read_recording(tmp_path, name), effects.read_recording(name))
    expected = effects.make_recordings(np.random.default_rng(0), 30_000)
    monkeypatch.setattr(effects, "decode_recording", None)
    programs = list_programs(tmp_path)
    assert list(programs) == list(TRAINED_PROGRAMS)
    assert np.array_equal(programs[effects.PROGRAM](np.random.default_rng(0), 30_000), expected)


def test_a_pack_without_recordings_leaves_their_program_out(tmp_path: Path) -> None:
    write_index(tmp_path / INDEX, CLIPS, False, {})
    assert list(list_programs(tmp_path)) == [name for name in TRAINED_PROGRAMS if name != effects.PROGRAM]


def test_a_pack_with_recordings_needs_them(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(effects, "SONIC_PI", dataclasses.replace(SONIC_PI, needs=tmp_path))
    effects.decode_recording.cache_clear()
    arguments = ["--corpus", str(corpus), "--out", str(tmp_path / "carry"), "--wheels", "no"]
    assert run_command(command.app, ["pack", *arguments]) == 1
    assert "apt install sonic-pi-samples" in capsys.readouterr().err


def test_filterbanks_in_rows_are_those_of_the_training(pack: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    clips = generator.integers(-3000, 3000, (3 * CLIPS, SEGMENT_SAMPLES)).astype(np.int16)
    for domain, rows in zip(DOMAINS, np.array_split(clips, 3), strict=True):
        np.save(tmp_path / f"train-{domain}.npy", rows)
    compute_fbanks(clips, tmp_path / "expected.npy")
    make = plan_carried(pack, tmp_path, 0)[-1].make
    for row in (0, 1, CLIPS, 3 * CLIPS - 6):
        assert np.array_equal(make(row), np.load(tmp_path / "expected.npy", mmap_mode="r")[row])
