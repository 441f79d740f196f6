"""Weights that travel to a GPU and come back, the plan of its training, and the logic of CUDA graphs without one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sc_runtime.errors import SettingsError
from sc_runtime.export.embedded.gpu import captured, plan, taking
from sc_runtime.export.embedded.gpu.command import lay_starts
from sc_runtime.export.embedded.gpu.packing import INPUTS, STAGES, copy_starts, copy_whole, write_halves
from sc_runtime.export.embedded.training.assembly import take_encoder
from sc_runtime.export.embedded.training.loop import load_average, read_curves
from sc_runtime.export.embedded.training.sizes import TRAINED
from sc_runtime.export.semanticodec.networks.audiomae import AudioMAE


def test_the_shipped_weights_are_the_start(tmp_path: Path) -> None:
    assert set(copy_starts(None, tmp_path)) == {"audiomae"}  # the others have other sizes
    weights = load_average(tmp_path, "audiomae", "autoencoder")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    AudioMAE(TRAINED).load_state_dict(take_encoder(weights))
    with pytest.raises(SettingsError, match="expected a folder with a state of the training"):
        copy_starts(tmp_path / "none", tmp_path)


def test_discriminators_are_written_but_have_no_averages(tmp_path: Path) -> None:
    """As the loop expects that reads them."""
    networks = {name: {"weight": torch.full((2,), value)} for name, value in (("encoder", 1.0), ("discriminator", 2.0))}
    write_halves(tmp_path / "mel_vae.pt", {"encoder": {"weight": torch.zeros(2)}}, networks, 3, 4.0)
    state = torch.load(tmp_path / "mel_vae.pt", weights_only=True)
    assert set(state["averages"]) == {"encoder"} and state["averages"]["encoder"]["weight"].tolist() == [0, 0]
    assert {name: float(tensors["weight"][0]) for name, tensors in state["networks"].items()} == {
        "encoder": 0.0,
        "discriminator": 2.0,
    }


def write_stage(folder: Path, stage: str, steps: int, **more: object) -> None:
    whole = folder.with_name("whole")
    for each in (folder, whole):
        each.mkdir(exist_ok=True)
    networks = {"tunet": {"weight": torch.ones(2)}}
    write_halves(whole / f"{stage}.pt", networks, networks, steps, 1.0, **more)
    copy_whole(whole / f"{stage}.pt", folder / f"{stage}.pt")


@pytest.mark.parametrize(
    ("trained", "returned", "inputs_stay"),
    [
        (("vocoder", "diffusion"), {"audiomae", "mel_vae", "vocoder", "tokens"}, True),
        (("tokens", "diffusion"), {"audiomae", "mel_vae", "vocoder"}, True),
        (STAGES, {"audiomae", "mel_vae", "vocoder"}, False),
        (("mel_vae",), {"audiomae", "mel_vae", "vocoder"}, False),
    ],
)
def test_what_is_not_trained_stays_as_it_came(
    trained: tuple[str, ...], returned: set[str], inputs_stay: bool, tmp_path: Path
) -> None:
    """The centroids and the scale factor of the pack belong to its AudioMAE and its VAE."""
    pack, work, out = tmp_path / "pack", tmp_path / "work", tmp_path / "out"
    for folder in (pack, out):
        folder.mkdir()
    for stage in STAGES:
        write_stage(pack, stage, 5)
    for name in INPUTS:
        (pack / name).write_text("of the pack")
    lay_starts(pack, work, out, trained)
    assert {path.stem for path in out.iterdir()} == returned
    assert {path.stem for path in (work / "state").glob("*.pt")} == set(STAGES)
    assert all((work / "state" / name).exists() == inputs_stay for name in INPUTS)


def test_weights_of_different_calls_are_not_taken_together(tmp_path: Path) -> None:
    came, state = tmp_path / "came", tmp_path / "state"
    write_stage(came, "mel_vae", 7)
    made = {"centroids": torch.ones(4, 2), "scale_factor": 0.5, "made_with": {"mel_vae": 8}}
    write_stage(came, "diffusion", 3, **made)
    with pytest.raises(SettingsError, match=r"mel_vae.pt of 7 updates; expected of 8, with which diffusion.pt"):
        taking.take_back(came, state)
    assert not state.exists()
    write_stage(came, "mel_vae", 8)
    (came / "losses.jsonl").write_text('{"stage": "mel_vae", "step": 8, "l1": 0.5}\n')
    assert taking.take_back(came, state) == (["mel_vae", "diffusion"], ["audiomae", "vocoder", "tokens"])
    assert set(torch.load(state / "diffusion.pt", weights_only=True)["networks"]) == {"tunet"}
    assert json.loads((state / "scale_factor.json").read_text()) == 0.5
    assert np.load(state / "centroids.npy").shape == (4, 2)
    assert read_curves(state, "mel_vae") == [{"step": 8, "l1": 0.5}]
    with pytest.raises(SettingsError, match="expected a folder without a training"):
        taking.take_back(came, state)


def test_a_half_written_file_is_not_taken(tmp_path: Path) -> None:
    came = tmp_path / "came"
    write_stage(came, "vocoder", 1)
    (came / "vocoder.pt").write_bytes((came / "vocoder.pt").read_bytes()[:500])
    with pytest.raises(SettingsError, match=r"vocoder.pt; expected a whole state of a stage"):
        taking.take_back(came, tmp_path / "state")
    with pytest.raises(SettingsError, match=r"expected a folder with one of audiomae.pt"):
        taking.take_back(tmp_path / "nothing", tmp_path / "state")


class FakeGraph:
    """What stands for a CUDA graph where there is none: it counts its replays."""

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1

    def pool(self) -> tuple[int, int]:
        return (0, 1)


def test_a_choice_is_captured_after_its_warm_up_and_then_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logic alone: the capture itself needs a GPU."""
    done: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)

    def advance(choice: object) -> dict[str, torch.Tensor]:
        done.append(choice)
        return {}

    run = captured.Captured(advance, ["late"], lambda line: None)
    graphs: list[FakeGraph] = []

    def capture(choice: object) -> tuple[FakeGraph, dict[str, torch.Tensor]]:
        graphs.append(FakeGraph())
        return graphs[-1], advance(choice)

    monkeypatch.setattr(run, "capture", capture)
    for _ in range(captured.WARM_UPS + 3):
        run("early")
    for _ in range(captured.WARM_UPS + 3):
        run("late")
    assert done == ["early"] * (captured.WARM_UPS + 1) + ["late"] * (captured.WARM_UPS + 3)
    assert [graph.replays for graph in graphs] == [3]


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    seconds = plan.parse_numbers("seconds", "mel_vae=60,diffusion=1.5", plan.SECONDS)
    assert seconds == {**plan.SECONDS, "mel_vae": 60.0, "diffusion": 1.5}
    written = plan.Plan(tmp_path, tmp_path / "corpus", tmp_path / "out", seconds, plan.BATCHES, eager=("vocoder",))
    written.write(tmp_path)
    assert plan.Plan.read(tmp_path) == written
