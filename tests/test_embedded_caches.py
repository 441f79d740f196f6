"""What a training keeps is computed anew when what it was computed from has changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the export extra is not installed")

import torch

from sc_runtime.cli.program import run_command
from sc_runtime.errors import SettingsError
from sc_runtime.export.embedded.corpus.splits import DOMAINS
from sc_runtime.export.embedded.training import caching, command, preparation
from sc_runtime.export.embedded.training.caching import cached, digest_rows, digest_weights
from sc_runtime.export.embedded.training.mel_vae import VaeEncoder
from sc_runtime.export.embedded.training.preparation import CENTROIDS, SCALE_FACTOR, prepare_latents
from sc_runtime.export.embedded.training.restoring import build_networks, write_start
from sc_runtime.export.embedded.training.sizes import TRAINED
from sc_runtime.export.embedded.training.states import load_average, load_encoder
from sc_runtime.export.semanticodec.networks.audiomae import AudioMAE
from tests.test_embedded_training import SIZES

SAMPLES = 163_840


def write_arrays(corpus: Path, **counts: int) -> None:
    """Arrays of noise: NAME of COUNT clips for each domain."""
    corpus.mkdir(exist_ok=True)
    for name, count in counts.items():
        for number, domain in enumerate(DOMAINS):
            noise = np.random.default_rng([number, count]).integers(-3000, 3000, (count, SAMPLES), np.int16)
            np.save(corpus / f"{name.replace('held', 'held-')}-{domain}.npy", noise)


def make_networks(seed: int) -> tuple[AudioMAE, VaeEncoder]:
    torch.manual_seed(seed)
    networks = AudioMAE(SIZES).eval(), VaeEncoder(SIZES).eval()
    for network in networks:
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return networks


def stamp(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_an_array_is_computed_once_for_its_sources(tmp_path: Path) -> None:
    computed: list[str] = []

    def keep(name: str, **sources: str) -> np.ndarray:
        def compute(path: Path) -> None:
            computed.append(name)
            with path.open("wb") as file:
                np.save(file, np.array([len(computed)]))

        return cached(tmp_path / "a.npy", compute, sources)

    assert [int(keep(name, clips="x")[0]) for name in ("first", "same")] == [1, 1]
    assert int(keep("other", clips="y")[0]) == 2
    assert int(keep("more", clips="y", network="n")[0]) == 3
    assert computed == ["first", "other", "more"]


def test_an_array_without_a_record_is_kept_only_where_one_may_be_given(tmp_path: Path) -> None:
    def compute(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, np.arange(2))

    np.save(tmp_path / "a.npy", np.arange(3))
    assert len(cached(tmp_path / "a.npy", compute, {"clips": "x"}, may_be_given=True)) == 3
    caching.write_record(tmp_path / "a.npy", {"encoder": "x"})  # of an older version, which named other sources
    assert len(cached(tmp_path / "a.npy", compute, {"clips": "x"}, may_be_given=True)) == 3
    assert len(cached(tmp_path / "a.npy", compute, {"clips": "x"})) == 2


def test_an_array_whose_computation_was_interrupted_is_computed(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        raise KeyboardInterrupt

    for old in (False, True):
        if old:
            np.save(tmp_path / "a.npy", np.zeros(1))
            caching.write_record(tmp_path / "a.npy", {"clips": "old"})
        with pytest.raises(KeyboardInterrupt):
            cached(tmp_path / "a.npy", fail, {"clips": "new"})
        assert not (tmp_path / "a.npy").exists()
        assert not caching.is_current(tmp_path / "a.npy", {"clips": "new"})


def test_digests_know_values_shapes_and_types() -> None:
    rows = np.arange(1000).reshape(200, 5)
    others = [rows + 1, rows[:100], rows.reshape(100, 10), rows.astype(np.float32)]
    assert len({digest_rows(array) for array in (rows, *others)}) == 5
    assert digest_rows(rows) == digest_rows(rows.copy())
    first, second = (make_networks(seed)[0] for seed in (0, 1))
    again = make_networks(0)[0]
    digests = [digest_weights(network.state_dict()) for network in (first, again, second)]
    assert digests[0] == digests[1] != digests[2]


def test_features_tokens_and_latents_follow_their_networks_and_clips(tmp_path: Path) -> None:
    clips = np.random.default_rng(0).integers(-3000, 3000, (3, SAMPLES)).astype(np.int16)
    kept = ("fbanks.npy", "features.npy", CENTROIDS, "semantic.npy", "latents.npy", SCALE_FACTOR)

    def prepare(clips: np.ndarray, audiomae: AudioMAE, encoder: VaeEncoder, vae: float = 0.0) -> set[str]:
        """The files that were written anew."""
        before = {name: stamp(tmp_path / name) for name in kept if (tmp_path / name).exists()}
        prepare_latents(tmp_path, clips, audiomae, encoder, {"weight": torch.tensor(vae)}, SIZES.config)
        return {name for name in kept if stamp(tmp_path / name) != before.get(name)}

    (audiomae, encoder), (other_audiomae, other_encoder) = make_networks(0), make_networks(1)
    small = pytest.MonkeyPatch()
    small.setattr(preparation, "cluster_domains", lambda rows, entries: np.stack([row[0] for row in rows.values()]))
    try:
        assert prepare(clips, audiomae, encoder) == set(kept)
        assert prepare(clips, audiomae, encoder) == set()
        assert prepare(clips, other_audiomae, encoder) == {"features.npy", CENTROIDS, "semantic.npy"}
        assert prepare(clips, other_audiomae, other_encoder) == {"latents.npy"}, "another encoder for the decoder"
        assert prepare(clips, other_audiomae, encoder, 1.0) == {"latents.npy", SCALE_FACTOR}
        more = np.concatenate([clips, clips])
        assert prepare(more, other_audiomae, encoder, 1.0) == {
            *("fbanks.npy", "features.npy", "semantic.npy", "latents.npy")
        }
        for trained in ("tokens.pt", "diffusion.pt"):
            (tmp_path / trained).touch()
            with pytest.raises(SettingsError, match=rf"scale_factor.json and .*{trained}, of another VAE; .*: remove"):
                prepare(more, other_audiomae, encoder, 2.0)
            with pytest.raises(SettingsError, match=rf"centroids.npy and .*{trained}, of another AudioMAE; .*: remove"):
                prepare(more, audiomae, encoder, 1.0)
    finally:
        small.undo()


def test_a_scale_factor_of_another_vae_is_refused(tmp_path: Path) -> None:
    """One that was restored, while the VAE was trained further."""
    clips = np.random.default_rng(0).integers(-3000, 3000, (3, SAMPLES)).astype(np.int16)
    (tmp_path / SCALE_FACTOR).write_text("1000.0")
    np.save(tmp_path / CENTROIDS, np.zeros((3, SIZES.config.feature_width), np.float32))
    with pytest.raises(SettingsError, match=r"scale_factor.json: .* a deviation of .*; expected one near 1: remove"):
        prepare_latents(tmp_path, clips, *make_networks(0), {"weight": torch.zeros(1)}, SIZES.config)


@pytest.mark.parametrize(
    ("counts", "missing"), [({"train": 3, "sped0": 2}, ""), ({"train": 3, "sped0": 3}, "sped0-music.npy")]
)
def test_arrays_of_unequal_counts_are_refused(
    tmp_path: Path, counts: dict[str, int], missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_arrays(tmp_path / "corpus", **counts)
    if missing:
        (tmp_path / "corpus" / missing).unlink()
    arguments = ["audiomae", str(tmp_path / "state"), "--corpus", str(tmp_path / "corpus")]
    assert run_command(command.app, arguments) != 0
    said = capsys.readouterr().err
    assert "python -m export.embedded.corpus" in said and said.count("\n") == 1, said
    assert (missing or "sped0-speech.npy: 2 clips; expected 3, as in train-speech.npy") in said


@pytest.mark.parametrize(
    ("stage", "options", "said"),
    [
        ("vocoder", [], "train stage vae_encoder first"),
        ("tokens", [], "train stage vae_encoder first"),
        ("sound", [], "sound without --bundle"),
        ("sound", ["--bundle", "embedded"], "train stage tokens first"),
        ("assemble", [], "train stage"),
    ],
)
def test_what_must_be_trained_first_is_said_in_a_line(
    stage: str, options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A state that was restored from a bundle has a VAE without its encoder."""
    write_arrays(tmp_path / "corpus", train=1)
    folder = tmp_path / "state"
    folder.mkdir()
    networks = build_networks(TRAINED)
    for restored in ("mel_vae", "audiomae", "vocoder"):
        write_start(folder / f"{restored}.pt", networks[restored])
    assert run_command(command.app, [stage, str(folder), "--corpus", str(tmp_path / "corpus"), *options]) != 0
    found = capsys.readouterr().err
    assert said in found and found.count("\n") == 1, found
    assert not (folder / "samples.npy").exists()


def test_a_bundle_of_another_vae_draws_no_latents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_arrays(tmp_path / "corpus", train=1)
    networks = build_networks(TRAINED)
    for restored in ("mel_vae", "vocoder"):
        write_start(tmp_path / f"{restored}.pt", networks[restored])
    (tmp_path / SCALE_FACTOR).write_text("0.5")
    arguments = ["sound", str(tmp_path), "--corpus", str(tmp_path / "corpus"), "--bundle", "embedded"]
    assert run_command(command.app, arguments) != 0
    assert "--bundle embedded, of another VAE; expected the bundle that was built from" in capsys.readouterr().err
    assert not (tmp_path / "samples.npy").exists()


@pytest.mark.parametrize("stage", ["audiomae", "mel_vae", "vocoder", "tokens", "diffusion"])
def test_what_stage_sound_builds_on_is_not_trained_under_it(
    stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sound.pt").touch()
    assert run_command(command.app, [stage, str(tmp_path), "--corpus", str(tmp_path)]) != 0
    found = capsys.readouterr().err
    assert f"trained on what {stage}.pt and others make" in found and "remove sound.pt" in found, found
    assert found.count("\n") == 1, found


def test_a_stage_that_was_not_trained_is_named(tmp_path: Path) -> None:
    for load in (load_encoder, lambda folder: load_average(folder, "mel_vae", "decoder")):
        with pytest.raises(SettingsError, match=r"no .*mel_vae.pt; expected .*: train stage mel_vae first"):
            load(tmp_path)
