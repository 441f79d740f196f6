"""Weights that travel to a GPU and come back, the plan of its training, and the logic of CUDA graphs without one."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from sc_runtime.cli.program import run_command
from sc_runtime.errors import SettingsError
from sc_runtime.export.embedded.gpu import captured, command, plan, sharing, taking
from sc_runtime.export.embedded.gpu.packing import INPUTS, STAGES, copy_starts, copy_whole, write_halves
from sc_runtime.export.embedded.gpu.starts import check_starts, lay_starts
from sc_runtime.export.embedded.training.assembly import load_audiomae, take_encoder
from sc_runtime.export.embedded.training.caching import digest_weights, is_current, write_record
from sc_runtime.export.embedded.training.preparation import CENTROIDS, SCALE_FACTOR, load_weights
from sc_runtime.export.embedded.training.sizes import TRAINED
from sc_runtime.export.embedded.training.states import load_average, read_curves
from sc_runtime.export.semanticodec.networks.audiomae import AudioMAE


def test_the_shipped_weights_are_the_start(tmp_path: Path) -> None:
    assert set(copy_starts(None, tmp_path)) == set(STAGES)
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


def write_stage(folder: Path, stage: str, steps: int, network: str = "tunet", **more: object) -> None:
    whole = folder.with_name("whole")
    for each in (folder, whole):
        each.mkdir(exist_ok=True)
    networks = {network: {"weight": torch.ones(2)}}
    write_halves(whole / f"{stage}.pt", networks, networks, steps, 1.0, **more)
    copy_whole(whole / f"{stage}.pt", folder / f"{stage}.pt")


@pytest.mark.parametrize("only", ["vocoder", "diffusion,vocoder", "tokens"])
def test_stages_that_would_lack_weights_are_refused_before_anything_is_packed(
    only: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shipped model has no encoder of the VAE. On the machine these stages were skipped."""
    arguments = ["pack", "--corpus", "nowhere", "--wheels", "no", "--out", str(tmp_path), "--only", only]
    assert run_command(command.app, arguments) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.match(f"error: --only {only}: .* needs the encoder of mel_vae, which .*: add mel_vae", line)
    assert not (tmp_path / "wheels").exists()


def test_stages_that_have_their_weights_are_accepted(tmp_path: Path) -> None:
    def write(stage: str, network: str) -> None:
        write_halves(tmp_path / f"{stage}.pt", {network: {"weight": torch.zeros(2)}}, {}, 0, 0.0)

    for only in ("", "mel_vae,vocoder", "audiomae,mel_vae,tokens,diffusion"):
        check_starts(only, tmp_path)
    write("audiomae", "autoencoder")
    write("mel_vae", "encoder")
    check_starts("vocoder,tokens,diffusion", tmp_path)
    with pytest.raises(SettingsError, match="diffusion needs the acoustic_encoder of tokens"):
        check_starts("diffusion", tmp_path)
    write("tokens", "acoustic_encoder")
    check_starts("diffusion", tmp_path)
    with pytest.raises(SettingsError, match="--only mel_vae,diffusion; expected tokens too"):
        check_starts("mel_vae,diffusion", tmp_path)


def test_an_encoder_that_was_trained_for_a_restored_decoder_travels(tmp_path: Path) -> None:
    """`restore` gives a VAE without encoder; stage `vae_encoder` trains one."""
    state, pack = tmp_path / "state", tmp_path / "pack"
    for each in (state, pack):
        each.mkdir()
    for stage, network, value in (("mel_vae", "decoder", 1.0), ("vae_encoder", "encoder", 2.0)):
        networks = {network: {"weight": torch.full((2,), value)}}
        write_halves(state / f"{stage}.pt", networks, networks, 5, 1.0)
    assert copy_starts(state, pack) == {"mel_vae": 5}
    check_starts("vocoder", pack)
    found = torch.load(pack / "mel_vae.pt", weights_only=True)
    for kept in (found["averages"], found["networks"]):
        assert {name: weights["weight"].tolist() for name, weights in kept.items()} == {
            "decoder": [1.0, 1.0],
            "encoder": [2.0, 2.0],
        }


def test_the_decoder_and_the_vocoder_that_are_shipped_travel(tmp_path: Path) -> None:
    """Those of stage `sound`, as `assemble` takes them."""
    state, pack = tmp_path / "state", tmp_path / "pack"
    for each in (state, pack):
        each.mkdir()
    starts = {"mel_vae": {"decoder": 1.0}, "vocoder": {"hifigan": 2.0}, "sound": {"decoder": 3.0, "hifigan": 4.0}}
    for stage, values in starts.items():
        networks = {name: {"weight": torch.full((2,), value)} for name, value in values.items()}
        write_halves(state / f"{stage}.pt", networks, networks, 5, 1.0)
    copy_starts(state, pack)
    assert load_average(pack, "mel_vae", "decoder")["weight"].tolist() == [3.0, 3.0]
    assert load_average(pack, "vocoder", "hifigan")["weight"].tolist() == [4.0, 4.0]


def test_what_tokens_were_trained_with_travels_and_comes_back_with_them(tmp_path: Path) -> None:
    """Also if only the vocoder was trained there."""
    state, pack, new = tmp_path / "state", tmp_path / "pack", tmp_path / "new"
    for each in (state, pack):
        each.mkdir()
    networks = {"decoder": {"weight": torch.ones(2)}}
    write_halves(state / "mel_vae.pt", networks, networks, 5, 1.0)
    write_stage(state, "tokens", 5)
    np.save(state / CENTROIDS, np.ones((4, 2), np.float32))
    (state / SCALE_FACTOR).write_text("0.5")
    copy_starts(state, pack)
    taking.take_back(pack, new)
    assert np.load(new / CENTROIDS).shape == (4, 2) and json.loads((new / SCALE_FACTOR).read_text()) == 0.5
    assert is_current(new / SCALE_FACTOR, {"decoder": digest_weights(networks["decoder"])})
    write_record(state / SCALE_FACTOR, {"decoder": "another"})
    with pytest.raises(SettingsError, match=r"tokens.pt, and scale_factor.json of another AudioMAE or VAE"):
        copy_starts(state, pack)


def test_tokens_without_what_they_were_trained_with_are_refused(tmp_path: Path) -> None:
    write_stage(tmp_path / "state", "tokens", 5)
    (tmp_path / "pack").mkdir()
    with pytest.raises(SettingsError, match=r"tokens.pt, and centroids.npy missing; .*: remove both"):
        copy_starts(tmp_path / "state", tmp_path / "pack")


def make_pack(folder: Path) -> tuple[Path, Path, Path]:
    """A pack of all stages, a folder for the work, and one for what comes back."""
    pack, work, out = folder / "pack", folder / "work", folder / "out"
    for each in (pack, out, work / "corpus"):
        each.mkdir(parents=True)
    (work / "corpus" / "fbanks.npy").touch()
    for stage in STAGES:
        write_stage(pack, stage, 0)
    for name in INPUTS:
        (pack / name).write_text("of the pack")
    return pack, work, out


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
    pack, work, out = make_pack(tmp_path)
    lay_starts(pack, work, out, trained)
    assert {path.stem for path in out.iterdir()} == returned
    assert {path.stem for path in (work / "state").glob("*.pt")} == set(STAGES)
    assert all((work / "state" / name).exists() == inputs_stay for name in INPUTS)


@pytest.mark.parametrize("made", ["audiomae", "mel_vae"])
def test_tokens_of_the_pack_are_not_used_with_weights_of_an_earlier_call(made: str, tmp_path: Path) -> None:
    """The earlier call ended before its tokens were trained."""
    pack, work, out = make_pack(tmp_path)
    lay_starts(pack, work, out, STAGES)
    write_stage(work / "returned", made, 500)
    lay_starts(pack, work, out, ("diffusion",))
    assert not (work / "returned" / "tokens.pt").exists() and not (out / "tokens.pt").exists()
    assert not any((work / "state" / name).exists() for name in INPUTS)
    write_stage(work / "returned", "tokens", 7)
    lay_starts(pack, work, out, ("diffusion",))
    assert torch.load(out / "tokens.pt", weights_only=True)["steps"] == 7


def test_tokens_of_the_pack_go_when_what_they_were_made_of_is_trained_after_all(tmp_path: Path) -> None:
    pack, work, out = make_pack(tmp_path)
    lay_starts(pack, work, out, ("vocoder",))
    assert (out / "tokens.pt").exists()
    lay_starts(pack, work, out, ("mel_vae", "diffusion"))
    assert not (work / "returned" / "tokens.pt").exists() and not (out / "tokens.pt").exists()


def test_weights_of_different_calls_are_not_taken_together(tmp_path: Path) -> None:
    came, state = tmp_path / "came", tmp_path / "state"
    write_stage(came, "mel_vae", 7)
    made = {"centroids": torch.ones(4, 2), "scale_factor": 0.5, "made_with": {"mel_vae": 8}}
    write_stage(came, "diffusion", 3, **made)
    state.mkdir()
    (state / "sound.pt").touch()
    with pytest.raises(SettingsError, match=r"with sound.pt; expected a folder without a training"):
        taking.take_back(came, state)
    (state / "sound.pt").unlink()
    state.rmdir()
    with pytest.raises(SettingsError, match=r"mel_vae.pt of 7 updates; expected of 8, with which diffusion.pt"):
        taking.take_back(came, state)
    assert not state.exists()
    write_stage(came, "mel_vae", 8, network="decoder")
    (came / "losses.jsonl").write_text('{"stage": "mel_vae", "step": 8, "l1": 0.5}\n')
    assert taking.take_back(came, state) == (["mel_vae", "diffusion"], ["audiomae", "vocoder", "tokens"])
    assert set(torch.load(state / "diffusion.pt", weights_only=True)["networks"]) == {"tunet"}
    assert json.loads((state / "scale_factor.json").read_text()) == 0.5
    assert np.load(state / "centroids.npy").shape == (4, 2)
    assert read_curves(state, "mel_vae") == [{"step": 8, "l1": 0.5}]
    with pytest.raises(SettingsError, match="expected a folder without a training"):
        taking.take_back(came, state)


@pytest.mark.parametrize("maker", ["tokens", "diffusion"])
def test_what_came_back_says_of_which_audiomae_and_vae_it_is(maker: str, tmp_path: Path) -> None:
    """Tokens bring centroids and scale factor too. A stage that is trained on notices another AudioMAE or VAE."""
    came, state = tmp_path / "came", tmp_path / "state"
    audiomae = torch.load(start_of(tmp_path, "audiomae"), weights_only=True)["averages"]["autoencoder"]
    came.mkdir()
    write_halves(came / "audiomae.pt", {"autoencoder": audiomae}, {}, 3, 1.0)
    write_stage(came, "mel_vae", 4, network="decoder")
    made = {"centroids": torch.ones(4, 2), "scale_factor": 0.5, "made_with": {"audiomae": 3, "mel_vae": 4}}
    write_stage(came, maker, 3, **made)
    taking.take_back(came, state)
    network = load_weights(AudioMAE(TRAINED), load_audiomae(state), torch.device("cpu"))
    assert is_current(state / CENTROIDS, {"audiomae": digest_weights(network.state_dict())})
    assert is_current(state / SCALE_FACTOR, {"decoder": digest_weights(load_average(state, "mel_vae", "decoder"))})
    assert not is_current(state / CENTROIDS, {"audiomae": "another"})


def start_of(folder: Path, stage: str) -> Path:
    """The state of a stage of the shipped model."""
    (folder / "shipped").mkdir()
    copy_starts(None, folder / "shipped")
    return folder / "shipped" / f"{stage}.pt"


def test_a_half_written_file_is_not_taken(tmp_path: Path) -> None:
    came = tmp_path / "came"
    write_stage(came, "vocoder", 1)
    (came / "vocoder.pt").write_bytes((came / "vocoder.pt").read_bytes()[:500])
    with pytest.raises(SettingsError, match=r"vocoder.pt of .*came; expected a whole state of a stage"):
        taking.take_back(came, tmp_path / "state")
    with pytest.raises(SettingsError, match=r"expected a folder with one of audiomae.pt"):
        taking.take_back(tmp_path / "nothing", tmp_path / "state")


PART_BYTES = 4096


def send_parts(folder: Path, **sizes: int) -> None:
    """Files NAME.pt of so many bytes in one archive, in parts, as the last call sends them."""
    sent = folder.with_name("sent")
    for each in (folder, sent):
        each.mkdir()
    for name, size in sizes.items():
        (sent / f"{name}.pt").write_bytes(np.random.default_rng(size).bytes(size))
    pack = f"tar -C {sent} --sort=name -cf - . | split -b {PART_BYTES} -a 3 -d - {folder}/{taking.RETURNED_TAR}"
    subprocess.run(["bash", "-c", pack], check=True)


@pytest.mark.parametrize(("part", "reason"), [(0, "no part 0"), (3, "no part 3"), (9, "no part 9")])
def test_a_part_that_is_missing_is_named(part: int, reason: str, tmp_path: Path) -> None:
    """Python's reader stops at a header that it cannot read, as if the archive ended there."""
    send_parts(tmp_path / "came", a=20_000, b=20_000)
    (tmp_path / "came" / f"{taking.RETURNED_TAR}{part:03}").unlink()
    with pytest.raises(SettingsError) as raised, taking.join_parts(tmp_path / "came"):
        pass
    assert reason in raised.value.given and str(tmp_path / "came") in raised.value.given
    assert "copy" in raised.value.remedy


def test_an_archive_without_its_end_or_with_a_hole_is_refused(tmp_path: Path) -> None:
    """Each file ends where a part does, so that what is there looks whole without the parts after it."""
    came, sizes = tmp_path / "came", {"a": 3072, "b": 3584, "c": 3584}
    send_parts(came, **sizes)
    parts = sorted(came.iterdir())
    assert [part.stat().st_size for part in parts] == [PART_BYTES] * 5, "a folder and three files; then zeros"

    def check_refused() -> None:
        expected = r"came with \d parts of trained\.tar.*; expected a whole archive: copy"
        with pytest.raises(SettingsError, match=expected), taking.join_parts(came):
            pass

    with taking.join_parts(came) as joined:
        assert {path.stem: path.stat().st_size for path in joined.iterdir()} == sizes
    for part in parts[:2]:
        whole = part.read_bytes()
        part.write_bytes(whole[:512] + whole[1024:])
        check_refused()
        part.write_bytes(whole)
    for last in reversed(parts[1:]):
        last.unlink()
        if last != parts[4]:
            check_refused()


def test_errors_name_the_folder_that_came_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not the one in which its parts were joined, which is gone when the error is printed."""
    send_parts(tmp_path / "came", vocoder=9000)
    assert run_command(command.app, ["take", str(tmp_path / "came"), str(tmp_path / "state")]) == 1
    assert capsys.readouterr().err.startswith(f"error: vocoder.pt of {tmp_path}/came; expected a whole state")


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


CONTROL_PROGRAM = """\
#!/bin/sh
here=$(dirname "$0") running="$CUDA_MPS_PIPE_DIRECTORY/control"
if [ "$1" = -d ]; then
    echo "-d $CUDA_MPS_PIPE_DIRECTORY" >> "$here/asked"
    [ -e "$running" ] && { echo An instance of this daemon is already running >&2; exit 1; }
    touch "$running"
else
    [ -e "$running" ] || { echo Cannot find MPS control daemon process >&2; exit 1; }
    read question
    echo "$question" >> "$here/asked"
    [ "$question" = quit ] && rm "$running" || true
fi
"""  #: stands in for the control program; it writes down what a running or a starting service is asked


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the stand-in for the control program writes down what it is asked."""
    program = tmp_path / sharing.CONTROL
    program.write_text(CONTROL_PROGRAM)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name in (sharing.PIPES, sharing.LOGS):
        monkeypatch.setenv(name, "")
    return tmp_path / "asked"


@pytest.mark.parametrize(("trial", "works"), [("pass", True), ("raise SystemExit(1)", False)])
def test_the_card_is_shared_where_a_trial_succeeds(trial: str, works: bool, control: Path, tmp_path: Path) -> None:
    said: list[str] = []
    sharing.share_card(tmp_path / "work", said.append, trial)
    pipes = str(tmp_path / "work" / "mps")
    assert control.read_text().splitlines() == [f"-d {pipes}", *([] if works else ["quit"])]
    assert os.environ[sharing.PIPES] == (pipes if works else "")
    assert said == ["the stages share the card"] if works else "take turns" in said[0]


@pytest.mark.parametrize(("trial", "works"), [("pass", True), ("raise SystemExit(1)", False)])
def test_a_second_training_leaves_the_service_of_the_first_running(
    trial: str, works: bool, control: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It uses the service if its trial succeeds."""
    said: list[str] = []
    sharing.share_card(tmp_path / "work", said.append, "pass")
    for name in (sharing.PIPES, sharing.LOGS):  # of another process
        monkeypatch.setenv(name, "")
    sharing.share_card(tmp_path / "work", said.append, trial)
    pipes = tmp_path / "work" / "mps"
    assert control.read_text().splitlines() == [f"-d {pipes}", "get_server_list"]
    assert os.environ[sharing.PIPES] == (str(pipes) if works else "")
    assert said[1] == "the stages share the card" if works else "take turns" in said[1]


def test_without_the_program_the_stages_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sharing, "DRIVER", str(tmp_path))
    said: list[str] = []
    sharing.share_card(tmp_path, said.append)
    assert said == [f"{sharing.CONTROL} is not there: the stages take turns on the card"]
