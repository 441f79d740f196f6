"""The training of the embedded model, at tiny size on a few synthetic clips. Its results become a bundle."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sc_runtime.bundle.store import EMBEDDED as EMBEDDED_BUNDLE
from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.program import run_command
from sc_runtime.codec import Codec
from sc_runtime.errors import BundleError
from sc_runtime.export.build import build_bundle
from sc_runtime.export.embedded.corpus.splits import DOMAINS
from sc_runtime.export.embedded.training import command as training
from sc_runtime.export.embedded.training.alignment import align_positions, number_tokens
from sc_runtime.export.embedded.training.assembly import assemble, load_audiomae
from sc_runtime.export.embedded.training.clusters import cluster_domains
from sc_runtime.export.embedded.training.diffusion import (
    Conditioned,
    DiffusionStage,
    draw_steps,
)
from sc_runtime.export.embedded.training.filterbanks import choose_lengths
from sc_runtime.export.embedded.training.loop import Stage, fit, read_clock, scale_rates, schedule_rate
from sc_runtime.export.embedded.training.masked_autoencoder import (
    MaskedAutoencoder,
    MaskedAutoencoderStage,
    cut_patches,
    draw_positions,
)
from sc_runtime.export.embedded.training.mel import LogMel
from sc_runtime.export.embedded.training.mel_vae import MelVaeStage, VaeEncoder, VaeEncoderStage
from sc_runtime.export.embedded.training.outcome import write_ceilings
from sc_runtime.export.embedded.training.preparation import (
    CENTROIDS,
    SCALE_FACTOR,
    load_weights,
    prepare_centroids,
    prepare_context,
    prepare_fbanks,
    prepare_latents,
)
from sc_runtime.export.embedded.training.quantizer import VectorQuantizer
from sc_runtime.export.embedded.training.restoring import restore_bundle
from sc_runtime.export.embedded.training.rows import use_rows
from sc_runtime.export.embedded.training.samples import Samples, crop_latents, prepare_samples
from sc_runtime.export.embedded.training.sound import SoundStage
from sc_runtime.export.embedded.training.states import (
    load_average,
    load_decoder,
    load_encoder,
    load_hifigan,
    read_curves,
)
from sc_runtime.export.embedded.training.tokens import Features, TokenDecoder, TokensStage
from sc_runtime.export.embedded.training.vocoder import VocoderStage
from sc_runtime.export.semanticodec.checkpoint import Folder
from sc_runtime.export.semanticodec.networks.acoustic_encoder import AcousticEncoder
from sc_runtime.export.semanticodec.networks.audiomae import AudioMAE
from sc_runtime.export.semanticodec.networks.hifigan import HifiGan
from sc_runtime.export.semanticodec.networks.sizes import EMBEDDED, NetworkSizes, choose_sizes
from sc_runtime.export.semanticodec.networks.tunet import SpatialTransformer, TUNet, embed_positions
from sc_runtime.export.semanticodec.networks.vae_decoder import VaeDecoder
from sc_runtime.semanticodec.config import SEGMENT_SAMPLES

librosa = pytest.importorskip("librosa", reason="the extra `train` is not installed")
pytest.importorskip("sklearn", reason="the extra `train` is not installed")

SIZES = choose_sizes("tiny", 50, 4096)
AT_50_TPS = replace(EMBEDDED, config=replace(EMBEDDED.config, tps=50))
CPU = torch.device("cpu")
TRAINED = [  #: (stage, network) of all that a bundle keeps
    ("audiomae", "autoencoder"),
    ("mel_vae", "decoder"),
    ("vocoder", "hifigan"),
    ("diffusion", "tunet"),
    ("tokens", "acoustic_encoder"),
    ("tokens", "quantizer"),
]
STEPS = 3  #: of one piece, on a clock that a step moves by a second


@pytest.fixture(autouse=True)
def gradients():
    """Turn gradients on: `export.build` turns them off for its process, which here is the tests' process."""
    before, threads = torch.is_grad_enabled(), torch.get_num_threads()
    torch.set_grad_enabled(True)
    yield
    torch.set_grad_enabled(before)
    torch.set_num_threads(threads)


def count_seconds() -> Callable[[], float]:
    """A clock that advances by a second each time it is read: once a step, on any machine."""
    ticks = itertools.count()
    return lambda: float(next(ticks))


def train_piece(stage: Stage, folder: Path) -> bool:
    """Train `stage` for STEPS steps, which are its whole budget."""
    return fit(stage, folder, STEPS / 60, STEPS / 60, clock=count_seconds())


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    """Tones of a few pitches, int16 [36, 163840]: something that can be learnt in a second."""
    time = np.arange(SEGMENT_SAMPLES) / 16000
    tones = [0.2 * np.sin(2 * np.pi * 110 * (1 + i % 6) * time) * (0.6 + 0.4 * np.sin(3 * time)) for i in range(36)]
    return (np.stack(tones) * 32767).astype(np.int16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, clips: np.ndarray) -> Path:
    """A folder where every stage has had a piece, one after another as `train.py` does."""
    folder = tmp_path_factory.mktemp("training")
    torch.manual_seed(0)
    with torch.enable_grad():
        train_piece(MaskedAutoencoderStage(SIZES, prepare_fbanks(folder, clips), CPU), folder)
        train_piece(MelVaeStage(SIZES, clips, CPU), folder)
        encoder = load_average(folder, "mel_vae", "encoder")
        decoder = load_average(folder, "mel_vae", "decoder")
        train_piece(VocoderStage(SIZES, clips, encoder, decoder, CPU), folder)
        audiomae = load_weights(AudioMAE(SIZES), load_audiomae(folder), CPU)
        vae = load_weights(VaeEncoder(SIZES), encoder, CPU)
        data = prepare_latents(folder, clips, audiomae, vae, decoder, SIZES.config)
        train_piece(TokensStage(SIZES, data, CPU, 4), folder)
        train_piece(DiffusionStage(SIZES, condition(folder, data), CPU), folder)
    return folder


def condition(folder: Path, data: Features) -> Conditioned:
    """The data of the T-UNet, of the tokens that were trained in `folder`."""
    encoder = load_weights(AcousticEncoder(SIZES), load_average(folder, "tokens", "acoustic_encoder"), CPU)
    return prepare_context(folder, data, encoder, load_average(folder, "tokens", "quantizer"))


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    with torch.no_grad():
        weights = Folder(assemble(folder, SIZES), 50)
        assert weights.half
        return build_bundle(tmp_path_factory.mktemp("built") / "bundle", SIZES, (4096,), weights, size="tiny")


@pytest.mark.slow
def test_the_trained_networks_become_a_bundle_that_codes_sound(bundle: Bundle, clips: np.ndarray) -> None:
    assert bundle.manifest.trained
    assert max(entry.error for entry in bundle.manifest.graphs.values()) < 1e-4
    float16 = np.load(bundle.path / "semantic-4096.npy").dtype
    assert float16 == np.float16
    assert bundle.load_codebook("semantic-4096").dtype == np.float32
    codec = Codec.load(bundle.path)
    tokens = codec.encode(clips[0, :40_000].astype(np.float32) / 32768)
    decoded = codec.decode(tokens, steps=2)
    assert decoded.shape == (40_000,)
    assert np.isfinite(decoded).all() and np.abs(decoded).max() > 0


@pytest.mark.slow
def test_training_goes_on_from_a_bundle(bundle: Bundle, folder: Path, clips: np.ndarray, tmp_path: Path) -> None:
    """Every restored weight equals the stored, rounded one. Then every stage that can continue trains for a piece."""
    assert restore_bundle(bundle, SIZES, SIZES, tmp_path) == ("audiomae", "mel_vae", "vocoder", "tokens", "diffusion")
    for stage, name in TRAINED:
        before, after = (load_average(where, stage, name) for where in (folder, tmp_path))
        kept = [key for key in before if stage != "audiomae" or key.startswith("encoder.")]
        if name == "quantizer":
            kept = ["embed"]
        for key in kept:
            assert torch.equal(before[key].half().float(), after[key]), f"{stage} {name} {key}"
    centroids = np.load(folder / "centroids.npy")
    assert np.array_equal(centroids.astype(np.float16), np.load(tmp_path / "centroids.npy"))
    scales = [json.loads((where / SCALE_FACTOR).read_text()) for where in (folder, tmp_path)]
    assert scales[1] == pytest.approx(scales[0], rel=1e-3)

    decoder = load_average(tmp_path, "mel_vae", "decoder")
    train_piece(VaeEncoderStage(SIZES, clips, decoder, CPU), tmp_path)
    encoder = load_encoder(tmp_path)
    audiomae = load_weights(AudioMAE(SIZES), load_audiomae(tmp_path), CPU)
    vae = load_weights(VaeEncoder(SIZES), encoder, CPU)
    data = prepare_latents(tmp_path, clips, audiomae, vae, decoder, SIZES.config)
    assert json.loads((tmp_path / SCALE_FACTOR).read_text()) == scales[1]
    for resumed in (TokensStage(SIZES, data, CPU, 4), VocoderStage(SIZES, clips, encoder, decoder, CPU)):
        assert train_piece(resumed, tmp_path)
    assert train_piece(DiffusionStage(SIZES, condition(tmp_path, data), CPU), tmp_path)

    with pytest.raises(BundleError, match=r"holds a training already"):
        restore_bundle(bundle, SIZES, SIZES, tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "sound.pt").touch()
    with pytest.raises(BundleError, match=r"holds a training already \(sound.pt\)"):
        restore_bundle(bundle, SIZES, SIZES, tmp_path / "other")


@pytest.mark.slow
def test_only_a_bundle_of_the_same_sizes_is_taken(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected a float32 bundle of"):
        restore_bundle(bundle, EMBEDDED, EMBEDDED, tmp_path)


def test_a_stage_of_other_sizes_starts_anew(tmp_path: Path) -> None:
    """The shipped model, in a training whose VAE is wider."""
    sizes = replace(EMBEDDED, vae_channels=32)
    bundle = Bundle.load(EMBEDDED_BUNDLE)
    assert restore_bundle(bundle, EMBEDDED, sizes, tmp_path) == ("audiomae", "vocoder", "tokens", "diffusion")
    assert not (tmp_path / "mel_vae.pt").exists()
    assert not (tmp_path / SCALE_FACTOR).exists()
    HifiGan(sizes).load_state_dict(load_average(tmp_path, "vocoder", "hifigan"))


def test_a_training_at_another_rate_keeps_what_has_its_size(tmp_path: Path) -> None:
    sizes = AT_50_TPS
    assert restore_bundle(Bundle.load(EMBEDDED_BUNDLE), EMBEDDED, sizes, tmp_path) == ("audiomae", "mel_vae", "vocoder")
    assert not (tmp_path / CENTROIDS).exists()


@pytest.mark.slow
def test_decoder_and_vocoder_learn_from_latents_that_decoding_draws(
    bundle: Bundle, folder: Path, clips: np.ndarray, tmp_path: Path
) -> None:
    """Such a latent, through torch's VAE decoder and vocoder, is the decoded sound of its clip and seed."""
    samples = prepare_samples(tmp_path, clips, bundle, 2)
    assert samples.latents.shape == (2, 8, 256, 16) and np.array_equal(samples.clips, clips[[0, 18]])
    scale = json.loads((folder / SCALE_FACTOR).read_text())
    before = load_average(folder, "mel_vae", "decoder")
    decoder = load_weights(VaeDecoder(SIZES), before | {"scale_factor": torch.tensor(scale)}, CPU)
    hifigan = load_weights(HifiGan(SIZES), load_average(folder, "vocoder", "hifigan"), CPU)
    codec = Codec.load(bundle.path)
    sound = clips[18, :-1].astype(np.float32) / 32768
    decoded = codec.decode(codec.encode(sound), steps=20, seed=1)
    with torch.no_grad():
        made = hifigan(decoder(torch.from_numpy(samples.latents[1:]).float()))[0, : len(sound)].numpy()
    assert_allclose(made, decoded, atol=0.02 * np.abs(decoded).max())

    starts = {"decoder": before, "hifigan": load_average(folder, "vocoder", "hifigan")}
    stage = SoundStage(SIZES, clips, samples, scale, **starts, device=CPU)
    generator = torch.Generator().manual_seed(0)
    losses = [stage.update((False, False), generator) for _ in range(40)]
    for name in ("l1", "spectral"):
        values = [float(each[name]) for each in losses]
        assert np.mean(values[-5:]) < 0.9 * np.mean(values[:5])
    assert torch.equal(stage.decoder.scale_factor, before["scale_factor"])
    for name in ("mel_vae.pt", "vocoder.pt"):
        shutil.copy(folder / name, tmp_path)
    for name, load in (("decoder", load_decoder), ("hifigan", load_hifigan)):
        assert all(torch.equal(load(tmp_path)[key], tensor) for key, tensor in starts[name].items())
    train_piece(SoundStage(SIZES, clips, samples, scale, **starts, device=CPU), tmp_path)
    for name, load in (("decoder", load_decoder), ("hifigan", load_hifigan)):
        found = load(tmp_path)
        assert any(not torch.equal(found[key], tensor) for key, tensor in starts[name].items())
        assert all(torch.equal(found[key], each) for key, each in load_average(tmp_path, "sound", name).items())


def test_drawn_log_mels_and_sounds_are_of_the_same_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips and latents that hold their own row and time; a decoder and a log-mel that keep them."""
    clips = (1000 * np.arange(2)[:, None] + np.arange(SEGMENT_SAMPLES) // 640).astype(np.int16)
    latents = np.broadcast_to(clips[:, None, ::640, None], (2, 8, 256, 16)).astype(np.float16)
    starts = (VaeDecoder(SIZES).state_dict(), HifiGan(SIZES).state_dict())
    stage = SoundStage(SIZES, clips, Samples(latents, clips), 2.0, *starts, device=CPU)

    def decode(latent: torch.Tensor) -> torch.Tensor:
        return 2 * latent[:, :1, :, 0].repeat_interleave(4, dim=2).expand(-1, 64, -1)

    monkeypatch.setattr(stage.decoder, "forward", decode)
    monkeypatch.setattr(stage.log_mel, "forward", lambda sound: 32768 * sound[:, None, ::160].expand(-1, 64, -1))
    assert stage.draw(1, torch.Generator().manual_seed(0))[0].shape == (1, 48 * 160)
    real, drawn, error, l1 = stage.draw(20, torch.Generator().manual_seed(0))
    assert real.shape == (20, 48 * 160) and drawn.shape == (20, 64, 48)
    assert torch.equal(32768 * real[:, ::160], drawn[:, 0]) and torch.equal(drawn[:, 0], drawn[:, 63])
    assert float(error) == 0 and float(l1) == 0
    times = drawn[:, 0, 0].remainder(1000)
    assert float(times.min()) < 60 and float(times.max()) > 190
    assert set(drawn[:, 0, 0].div(1000).int().tolist()) == {0, 1}


def test_crops_of_latents_and_clips_are_of_the_same_moment() -> None:
    """Latents and clips that hold their own row and time: 4 frames of 160 samples for each row of a latent."""
    clips = 1000 * torch.arange(3)[:, None] + torch.arange(SEGMENT_SAMPLES) // 640
    latents = (1000 * torch.arange(3)[:, None] + torch.arange(256))[:, None, :, None].expand(3, 8, 256, 16).half()
    rows, starts, crops = crop_latents(latents, 50, 48, torch.Generator().manual_seed(0))
    assert crops.shape == (50, 8, 12, 16) and crops.dtype == torch.float32
    for row, start, crop in zip(rows, starts, crops, strict=True):
        wanted = clips[row, 160 * start : 160 * (start + 48)][::640].half().float()
        assert torch.equal(crop, wanted[None, :, None].expand(8, 12, 16))
    assert int(starts.min()) < 100 and int(starts.max()) > 870 and set(rows.tolist()) == {0, 1, 2}


def test_ceilings_are_the_clips_after_vae_and_vocoder(folder: Path, clips: np.ndarray, tmp_path: Path) -> None:
    names = ("speech", "music", "sound", "melody", "recorded-french")
    for name in names:
        np.save(tmp_path / f"{'' if '-' in name else 'held-out-'}{name}.npy", clips[:2])
    errors = write_ceilings(folder, tmp_path, SIZES)
    assert tuple(errors) == names
    assert len(set(errors.values())) == 1 and 0 < errors["speech"] < 10
    for name in names:
        assert np.load(tmp_path / f"ceiling-{name}.npy").shape == (2, SEGMENT_SAMPLES)
        assert np.load(tmp_path / f"ceiling-{name}.npy").dtype == np.int16


@pytest.mark.parametrize("name", ["audiomae", "mel_vae", "vocoder", "tokens", "diffusion"])
def test_a_stage_writes_its_state(folder: Path, name: str) -> None:
    state = torch.load(folder / f"{name}.pt", weights_only=True)
    assert (state["steps"], state["seconds"]) == (STEPS, STEPS)
    assert state["averages"]


class Line:
    """A stage that fits y = 3x."""

    name = "line"
    averaged = ("model",)

    def __init__(self) -> None:
        self.model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.model.weight)
        self.networks = {"model": self.model}
        self.optimizers = {"model": torch.optim.AdamW(self.model.parameters(), 0.05, weight_decay=0)}
        self.seen: list[float] = []

    def choose(self, progress: float, generator: torch.Generator) -> None:
        self.seen.append(progress)

    def update(self, choice: None, generator: torch.Generator | None) -> dict[str, torch.Tensor]:
        x = torch.randn(8, 1, generator=generator)
        loss = (self.model(x) - 3 * x).square().mean()
        self.optimizers["model"].zero_grad()
        loss.backward()
        self.optimizers["model"].step()
        return {"loss": loss.detach()}


def test_pieces_go_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    first, second = Line(), Line()
    assert not fit(first, tmp_path, 100 / 60, 400 / 60, clock=count_seconds(), log_seconds=9)
    assert fit(second, tmp_path, 1000 / 60, 400 / 60, clock=count_seconds(), log_seconds=9)
    assert len(first.seen) == 100
    assert second.seen == [(100 + step) / 400 for step in range(300)]
    assert abs(float(load_average(tmp_path, "line", "model")["weight"]) - 3) < 0.1
    curves = read_curves(tmp_path, "line")
    assert len(curves) == 40
    assert [point["step"] for point in curves] == sorted(point["step"] for point in curves)
    assert curves[-1]["loss"] < curves[0]["loss"]
    third = Line()
    assert fit(third, tmp_path, 1.0, 400 / 60, clock=count_seconds())
    assert third.seen == []


def test_a_rate_is_scaled_for_the_whole_stage(tmp_path: Path) -> None:
    """Also if a later piece states another factor."""
    for piece, factor in enumerate((0.5, 3.0)):
        stage = Line()
        scale_rates(stage, factor)
        fit(stage, tmp_path, 10 / 60, 400 / 60, clock=count_seconds())
        saved = torch.load(tmp_path / "line.pt", weights_only=True)
        assert saved["steps"] == 10 * (piece + 1)
        assert saved["optimizers"]["model"]["param_groups"][0]["lr"] == 0.025


def test_a_stage_that_has_begun_keeps_its_rate_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command continues, and another rate changes nothing."""
    for domain in DOMAINS:
        np.save(tmp_path / f"train-{domain}.npy", np.ones((1, SEGMENT_SAMPLES), np.int16))
    state = tmp_path / "state"
    arguments = ["mel_vae", str(state), "--corpus", str(tmp_path), "--minutes", "0", "--batch", "1"]
    for piece, rate in enumerate(("0.5", "0.5", "3")):
        assert run_command(training.app, [*arguments, "--rate", rate]) == 0
        said = capsys.readouterr().err
        (group,) = torch.load(state / "mel_vae.pt", weights_only=True)["optimizers"]["autoencoder"]["param_groups"]
        assert group["lr"] == 0.5e-3
        assert ("mel_vae: has begun and keeps its learning rate" in said) == (piece > 0)


def test_a_loss_that_is_not_finite_stops_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage: Stage = Line()
    monkeypatch.setattr(stage, "update", lambda choice, generator: {"loss": torch.tensor(float("nan"))})
    with pytest.raises(FloatingPointError, match="line: a loss is not finite"):
        fit(stage, tmp_path, 1.0, 1.0, clock=count_seconds(), log_seconds=2)
    assert not (tmp_path / "line.pt").exists()


def test_a_stopped_piece_keeps_its_last_update(tmp_path: Path) -> None:
    first, second = Line(), Line()
    stopped = lambda: len(first.seen) == 7  # noqa: E731
    assert not fit(first, tmp_path, 1.0, 1.0, stopped=stopped, clock=count_seconds())
    assert torch.load(tmp_path / "line.pt", weights_only=True)["steps"] == 7
    assert fit(second, tmp_path, 1.0, 1.0, clock=count_seconds())
    assert second.seen[0] == 7 / 60


def test_paused_time_is_not_training_time() -> None:
    before = read_clock()
    time.sleep(0.3)
    assert read_clock() - before < 0.1


def test_sigterm_saves_the_state_and_says_so(tmp_path: Path) -> None:
    """The command in a process of its own, on a corpus of one clip a domain. It gets longer if it had not begun."""
    for domain in DOMAINS:
        np.save(tmp_path / f"train-{domain}.npy", np.ones((1, SEGMENT_SAMPLES), np.int16))
    state = tmp_path / "state" / "mel_vae.pt"
    program = [sys.executable, "-m", "sc_runtime.export.embedded.training", "mel_vae", str(state.parent)]
    for delay in (6, 20, 60):
        arguments = ["--corpus", str(tmp_path), "--minutes", "5", "--threads", "1", "--batch", "1", "--rate", "0.25"]
        process = subprocess.Popen([*program, *arguments], stderr=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(delay)
        process.terminate()
        said = process.communicate(timeout=120)[1]
        if state.exists() and (saved := torch.load(state, weights_only=True))["steps"] > 0:
            break
    assert process.returncode == 128 + signal.SIGTERM
    assert "not yet complete" in said and saved["steps"] > 0
    (group,) = saved["optimizers"]["autoencoder"]["param_groups"]
    assert group["lr"] == pytest.approx(1e-3 / 4)


def test_rows_compute_the_network_with_its_own_parameters() -> None:
    torch.manual_seed(0)
    hifigan = HifiGan(SIZES)
    mel = torch.randn(2, 64, 20)
    expected, names = hifigan(mel), list(hifigan.state_dict())
    use_rows(hifigan)
    assert list(hifigan.state_dict()) == names
    assert not any(isinstance(module, torch.nn.Conv1d) for module in hifigan.modules())
    assert_allclose(hifigan(mel).detach().numpy(), expected.detach().numpy(), atol=1e-5)


def test_masking_keeps_the_chosen_positions_alone() -> None:
    """With all positions visible the features are the codec's. A masked position has no influence on the others."""
    torch.manual_seed(0)
    with torch.no_grad():
        encoder = MaskedAutoencoder(SIZES).encoder
        fbank = torch.randn(2, 1024, 128)
        assert torch.equal(encoder.embed(fbank, torch.arange(512).expand(2, -1)), encoder.embed(fbank))
        visible = torch.tensor([[5, 300, 17], [0, 1, 511]])
        features = encoder.embed(fbank, visible)
        other = fbank.clone()
        other[:, 16 * 10 : 16 * 12] += 1  # positions 80 to 95
        assert features.shape == (2, 4, SIZES.config.width)
        assert torch.equal(encoder.embed(other, visible), features)


def test_the_rate_rises_then_falls() -> None:
    rates = [schedule_rate(progress) for progress in np.linspace(0, 1, 101)]
    assert max(rates) == 1.0
    assert rates[0] < 0.02 and rates[-1] == pytest.approx(0.02)
    assert np.argmax(rates) == 2


def test_log_mel_equals_librosas() -> None:
    samples = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1
    mine = LogMel()(torch.from_numpy(samples)[None])[0].numpy()
    padded = np.pad(samples, 432, mode="reflect")
    magnitudes = np.abs(librosa.stft(padded, n_fft=1024, hop_length=160, window="hann", center=False))
    filters = librosa.filters.mel(sr=16000, n_fft=1024, n_mels=64, fmin=0, fmax=8000)
    wanted = np.log(np.maximum(filters @ magnitudes, 1e-5))
    assert mine.shape == (64, 100)
    assert_allclose(mine, wanted, atol=2e-3)


def test_patches_are_cut_as_by_the_encoders_convolution() -> None:
    fbank = torch.randn(2, 1024, 128)
    patches = cut_patches(fbank)
    assert torch.equal(patches[1, 8 * 3 + 5], fbank[1, 48:64, 80:96].reshape(-1))


def test_every_patch_has_a_position_of_its_own() -> None:
    positions = draw_positions(16)
    distances = torch.cdist(positions, positions) + torch.eye(len(positions)) * 9
    assert float(distances.min()) > 1e-3


def test_places_number_the_tokens_of_their_time_and_frequency() -> None:
    """At 50 tps the tokens are a grid of 64 by 4."""
    tokens = number_tokens(AT_50_TPS.config, 256, 16)
    assert torch.equal(tokens.reshape(64, 4, 4, 4)[:, 0, :, 0], torch.arange(256).reshape(64, 4))
    assert torch.equal(tokens[4 * 37 + 3, 4 * 2 + 1], torch.tensor(37 * 4 + 2))
    assert torch.equal(number_tokens(AT_50_TPS.config, 32, 2)[5], torch.tensor([40, 42]))


def test_each_share_of_a_place_is_another_of_its_tokens() -> None:
    """At 100 tps the tokens are a grid of 64 by 8."""
    config = EMBEDDED.config
    first, second = (number_tokens(config, 64, 4, share) for share in (0, 0.5))
    assert torch.equal(first, torch.arange(512).reshape(64, 8)[:, ::2])
    assert torch.equal(second, first + 1)
    covered = [int(number_tokens(config, 32, 2, share)[5, 1]) for share in torch.arange(8) / 8]
    assert covered == [84, 85, 86, 87, 92, 93, 94, 95]


def test_a_token_draws_the_latent_of_its_time_and_frequency() -> None:
    """Without the blocks, which see neighbours, one position changes one patch."""
    config = EMBEDDED.config
    decoder = TokenDecoder(config, width=16, blocks=0)
    context = torch.zeros(1, config.positions, 2 * config.feature_width)
    before = decoder(context)
    context[0, 8 * 37 + 5] = 1
    changed = (decoder(context) != before)[0].any(dim=0).nonzero()
    assert changed.min(dim=0).values.tolist() == [4 * 37, 2 * 5]
    assert changed.max(dim=0).values.tolist() == [4 * 37 + 3, 2 * 5 + 1]


@pytest.mark.parametrize("sizes", [AT_50_TPS, EMBEDDED], ids=["50 tps", "100 tps"])
def test_attention_begins_at_the_token_of_each_place(sizes: NetworkSizes) -> None:
    torch.manual_seed(0)
    length, width = sizes.config.positions, 2 * sizes.config.feature_width
    with torch.no_grad():
        tunet = TUNet(sizes)
        align_positions(tunet, sizes)
        context = torch.cat([torch.zeros(1, length, width), embed_positions(length, 64)[None]], dim=2)
        for transformer in tunet.modules():
            if not (isinstance(transformer, SpatialTransformer) and transformer.has_position_map):
                continue
            attention = transformer.transformer_blocks[0].attn2
            places = transformer.position_map.flatten(2).transpose(1, 2)
            keys, _ = attention.project(context)
            weights = attention.split_heads(attention.to_q(places)) @ keys.transpose(-1, -2)
            heads = weights.shape[1]
            wanted = [
                number_tokens(sizes.config, *transformer.position_map.shape[2:], head / heads).flatten()
                for head in range(heads)
            ]
            assert torch.equal(weights.argmax(dim=3)[0], torch.stack(wanted))


def test_noisier_steps_are_likelier() -> None:
    steps = draw_steps(1000, 100_000, torch.Generator().manual_seed(0))
    assert int(steps.min()) >= 0 and int(steps.max()) == 999
    assert_allclose(np.histogram(steps, bins=4, range=(0, 1000))[0] / 1e5, [1 / 16, 3 / 16, 5 / 16, 7 / 16], atol=0.01)


def make_quantizer(entries: int, width: int) -> tuple[VectorQuantizer, Callable[[int], torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return VectorQuantizer(entries, width), lambda n: torch.randn(n, width, generator=generator)


def test_the_quantizer_gives_the_nearest_entry_straight_through() -> None:
    quantizer, draw = make_quantizer(16, 4)
    generator = torch.Generator().manual_seed(1)
    quantizer(draw(64), generator)
    x = draw(32).requires_grad_()
    book = quantizer.embed.clone().double()
    chosen, commitment = quantizer.eval()(x, generator)
    nearest = ((x.detach().double()[:, None] - book) ** 2).sum(2).argmin(1)
    after = quantizer.embed[nearest]
    assert_allclose(chosen.detach().numpy(), after.numpy(), atol=1e-6)
    assert_allclose(float(commitment.detach()), float((x.detach() - after).square().mean()), rtol=1e-5)
    chosen.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_the_codebook_moves_to_the_centres_of_its_vectors() -> None:
    quantizer, _ = make_quantizer(2, 2)
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[5.0, 0.0], [-5.0, 1.0]])
    for _ in range(400):
        points = centres[torch.arange(40) % 2] + 0.1 * torch.randn(40, 2, generator=generator)
        quantizer(points, generator)
    order = quantizer.embed[:, 0].argsort(descending=True)
    assert_allclose(quantizer.embed[order].numpy(), centres.numpy(), atol=0.05)


def test_unused_entries_are_replaced() -> None:
    quantizer, draw = make_quantizer(32, 3)
    generator = torch.Generator().manual_seed(0)
    quantizer(draw(256), generator)
    with torch.no_grad():
        quantizer.embed[8:] = 1000.0
        quantizer.embed_avg[8:] = 1000.0
        quantizer.cluster_size[8:] = 0.0
    for _ in range(100):
        quantizer(draw(256), generator)
    codes = torch.cdist(draw(4096), quantizer.embed).argmin(dim=1)
    assert len(codes.unique()) >= 28


def test_domains_share_the_vocabulary_with_sound_twice() -> None:
    generator = np.random.default_rng(0)
    means = {"speech": 0, "music": 50, "sound": 100}
    centroids = cluster_domains({name: generator.normal(mean, 1, (500, 6)) for name, mean in means.items()}, 64)
    assert centroids.shape == (64, 6) and centroids.dtype == np.float32
    centres = centroids.mean(axis=1)
    assert [int((np.abs(centres - mean) < 25).sum()) for mean in means.values()] == [16, 16, 32]


def test_some_clips_are_cut_short() -> None:
    lengths = choose_lengths(60)
    assert (lengths[::6] < SEGMENT_SAMPLES).all()
    assert (np.delete(lengths, np.s_[::6]) == SEGMENT_SAMPLES).all()
    assert np.array_equal(lengths, choose_lengths(60))


def test_centroids_come_from_the_domain_of_each_clip_in_every_set(tmp_path: Path) -> None:
    """Two sets of three domains, two clips each: features near 0, 10 and 20 give centroids near them, in that order.

    The last position of each clip holds no token: its feature is far away.
    """
    generator = np.random.default_rng(0)
    means = np.tile(np.repeat([0.0, 10.0, 20.0], 2), 2)
    features = generator.normal(means[:, None, None], 0.5, (12, 40, 4)).astype(np.float16)
    features[:, -1] = 1000
    prepare_centroids(features, np.full(12, 39), replace(SIZES.config, vocab=16), 2, tmp_path / "centroids.npy")
    centroids = np.load(tmp_path / "centroids.npy").mean(axis=1)
    assert np.abs(centroids - np.repeat([0.0, 10.0, 20.0], [4, 4, 8])).max() < 2
