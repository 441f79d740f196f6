"""`bench.quality.run` on a tiny bundle, whose sound is noise: its results, what it skips, and its errors."""

from __future__ import annotations

import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from bench.quality import run as quality
from bench.quality.baselines import BASELINES, Baseline, count_packet_bytes, run_program
from bench.quality.baselines import explain_absence as explain_missing_programs
from bench.quality.clips import RECORDED, choose_clips, load_domains
from bench.quality.measure import list_samplings
from bench.quality.melodies import load_melodies, measure_pitch, share_in_tune
from bench.quality.metrics import explain_absence, find_delay, mel_distance, stft_distance, undo_delay
from bench.quality.results import RECORDED_GOALS, compare_samplings, list_goals, write_sampling
from bench.quality.systems import drop_acoustic
from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.program import run_command
from sc_runtime.codec import Codec
from sc_runtime.errors import BackendError, SettingsError
from sc_runtime.semanticodec.presets import PRESETS, Sampling

pytestmark = pytest.mark.slow  # of the benches, not of the runtime

SETTINGS = ("--backend", "onnxruntime", "--threads", "1", "--steps", "2", "--metrics", "mel,stft,stoi,pesq")
CURVES = ("--curves", "--curve-clips", "1", "--curve-steps", "2", "--curve-guidance", "1", "--curve-precision", "none")
CURVES += ("--curve-intervals", "200-1000")
OURS = ["codec", "floor", "no acoustic tokens"]
OTHERS = [baseline.name for baseline in BASELINES]


@pytest.fixture(scope="module")
def folders(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two clips of 10.24 s of speech and one of 2 s of a mixture; the ceiling of speech is noisy speech."""
    held_out, ceiling = tmp_path_factory.mktemp("held-out"), tmp_path_factory.mktemp("ceiling")
    speech, _ = soundfile.read(golden / "speech_12s.wav", dtype="int16")
    mixture, _ = soundfile.read(golden / "mixed_4s.wav", dtype="int16")
    clips = np.stack([speech[:163_840], speech[-163_840:]])
    np.save(held_out / "held-out-speech.npy", clips)
    np.save(held_out / "held-out-sound.npy", mixture[None, :32_000])
    noise = np.random.default_rng(0).integers(-200, 200, (2, 163_872))
    np.save(ceiling / "ceiling-speech.npy", (np.pad(clips, ((0, 0), (0, 32))) // 2 + noise).astype(np.int16))
    return held_out, ceiling


def run_quality(*arguments: str | Path) -> int:
    return run_command(quality.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def measured(
    tiny_bundle: Path, folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str | Path]]:
    """The JSON of a whole run, and the arguments that made it."""
    out = tmp_path_factory.mktemp("quality") / "new" / "quality-tiny.json"
    held_out, ceiling = folders
    arguments = [
        "--bundle",
        tiny_bundle,
        "--held-out",
        held_out,
        "--ceiling",
        ceiling,
        "--out",
        out,
        *SETTINGS,
        *CURVES,
    ]
    assert run_quality(*arguments) == 0
    return out, arguments


@pytest.fixture
def document(measured: tuple[Path, list[str | Path]]) -> dict[str, Any]:
    return json.loads(measured[0].read_text())


def test_a_bundle_of_another_codec_is_refused(
    tiny_unicodec: Path, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "quality.json"
    assert run_quality("--bundle", tiny_unicodec, "--held-out", folders[0], "--out", out) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "of unicodec; expected one of semanticodec, which is what this measures" in line
    assert not list(tmp_path.iterdir())


def find_row(document: dict[str, Any], row: str, domain: str = "speech") -> dict[str, Any]:
    (cell,) = [cell for cell in document["rows"] if (cell["row"], cell["domain"]) == (row, domain)]
    return cell


def test_every_row_is_measured_or_says_why_not(document: dict[str, Any]) -> None:
    wanted = {"speech": ["mel", "stft", "stoi", "pesq"], "sound": ["mel", "stft"]}
    for domain, metrics in wanted.items():
        present = {metric for metric in metrics if explain_absence(metric) is None}
        for row in [*OURS, "ceiling", *OTHERS]:
            cell = find_row(document, row, domain)
            if domain == "sound" and row in ("floor", "ceiling"):
                assert cell["skipped"]
            elif row in OTHERS and explain_missing_programs(BASELINES[OTHERS.index(row)]):
                assert "apt-get install" in cell["skipped"]
            else:
                assert set(cell["metrics"]) == present
                assert all(len(score["values"]) == cell["clips"] for score in cell["metrics"].values())
    assert {cell["domain"] for cell in document["rows"]} == set(wanted)


def test_values_are_those_of_the_codec(document: dict[str, Any], tiny_bundle: Path, folders: tuple[Path, Path]) -> None:
    """Encoded, decoded and compared here by hand."""
    clips = np.load(folders[0] / "held-out-speech.npy")[:, :163_839].astype(np.float32) / 32768
    codec = Codec.load(tiny_bundle, backend="onnxruntime", threads=1)
    decoded = [codec.decode(codec.encode(clip), steps=2, seed=i) for i, clip in enumerate(clips)]
    for row, sounds in (("codec", decoded), ("floor", decoded[::-1])):
        cell = find_row(document, row)
        delay = find_delay(list(zip(clips, sounds, strict=True)))
        assert cell["delay_samples"] == delay
        for metric, measure in (("mel", mel_distance), ("stft", stft_distance)):
            pairs = zip(clips, sounds, strict=True)
            values = [measure(clip, undo_delay(sound, delay, len(clip))) for clip, sound in pairs]
            assert cell["metrics"][metric]["values"] == pytest.approx(values, rel=1e-4)
            assert cell["metrics"][metric]["mean"] == pytest.approx(sum(values) / 2, rel=1e-4)
            error = abs(values[0] - values[1]) / 2  # of two values
            assert cell["metrics"][metric]["standard_error"] == pytest.approx(error, rel=1e-2, abs=1e-3)


def test_ceiling_is_the_file(document: dict[str, Any], folders: tuple[Path, Path]) -> None:
    clips = np.load(folders[0] / "held-out-speech.npy")[:, :163_839].astype(np.float32) / 32768
    bound = np.load(folders[1] / "ceiling-speech.npy")[:, :163_839].astype(np.float32) / 32768
    cell = find_row(document, "ceiling")
    assert cell["delay_samples"] == 0
    values = [mel_distance(clip, sound) for clip, sound in zip(clips, bound, strict=True)]
    assert cell["metrics"]["mel"]["values"] == pytest.approx(values, rel=1e-4)


def test_codebooks(document: dict[str, Any], tiny_bundle: Path, folders: tuple[Path, Path]) -> None:
    codec = Codec.load(tiny_bundle, backend="onnxruntime", threads=1)
    codes = []
    for name in ("speech", "sound"):
        clips = np.load(folders[0] / f"held-out-{name}.npy")[:, :163_839].astype(np.float32) / 32768
        codes += [codec.encode(clip).codes for clip in clips]
    joined = np.concatenate(codes)
    for column, book in enumerate(("semantic", "acoustic")):
        cells = {cell["domain"]: cell for cell in document["codebooks"] if cell["codebook"] == book}
        assert set(cells) == {"speech", "sound", "all"}
        assert cells["all"]["used"] == len(set(joined[:, column].tolist()))
        assert cells["all"]["tokens"] == len(joined) == 2 * 256 + 52
        assert cells["all"]["entries"] == (codec.config.vocab, codec.config.acoustic_vocab)[column]


def test_curves_and_presets(document: dict[str, Any]) -> None:
    first, *others = document["samplings"]
    assert first["presets"] == ["reference"]
    assert first["sampling"] == write_sampling(Sampling(steps=2))
    assert first["branches"] == 4
    assert first["mel"]["loss_percent"] == 0
    presets = {entry["presets"][0]: entry for entry in others if entry["presets"]}
    assert set(presets) == set(PRESETS) - {"reference"}
    assert [presets[name]["branches"] for name in ("balanced", "fast")] == [40, 16]
    (unguided,) = [entry for entry in others if entry["sampling"]["guidance"] == 1]
    assert unguided["branches"] == 2
    solvers = {(entry["sampling"]["solver"], entry["sampling"]["eta"]) for entry in document["samplings"]}
    assert solvers == {("ddim", 1), ("ddim", 0), ("dpm", 0), ("unipc", 0)}
    assert all("stoi" in entry for entry in document["samplings"]) == (explain_absence("stoi") is None)


def test_json_says_what_was_measured_on_what(document: dict[str, Any], tiny_bundle: Path) -> None:
    assert document["task"]["bundle"]["name"] == tiny_bundle.name
    assert document["task"]["clips"]["speech"] | {"sha256": ""} == {"clips": 2, "samples": 163_839, "sha256": ""}
    assert document["task"]["sampling"]["steps"] == 2
    assert {"date", "commit", "machine", "versions", "device", "took_s", "goals"} <= set(document)
    assert all("date" in cell for cell in document["rows"] + document["curves"])


@pytest.mark.parametrize("name", ["quality-tiny.png", "curves-tiny.png"])
def test_charts_are_pngs_of_a_size_to_read(measured: tuple[Path, list[str | Path]], name: str) -> None:
    data = (measured[0].parent / name).read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    assert 1000 <= width <= 4000
    assert 500 <= height <= 3000
    assert len(data) > 20_000


def test_nothing_is_computed_again(
    measured: tuple[Path, list[str | Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "quality-tiny.json"
    shutil.copy(measured[0], path)

    def refuse(*_: object, **__: object) -> np.ndarray:
        raise AssertionError("decoded again")

    monkeypatch.setattr(Codec, "decode", refuse)
    monkeypatch.setattr(Codec, "encode", refuse)
    assert run_quality(*measured[1], "--no-chart", "--out", path) == 0
    assert path.read_text() == measured[0].read_text()
    assert "no acoustic tokens" in capsys.readouterr().out


def test_what_is_missing_is_computed(
    measured: tuple[Path, list[str | Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "quality-tiny.json"
    whole = json.loads(measured[0].read_text())
    taken = find_row(whole, "no acoustic tokens", "sound")
    path.write_text(json.dumps(whole | {"rows": [cell for cell in whole["rows"] if cell != taken]}))
    decoded = []
    decode = Codec.decode
    monkeypatch.setattr(Codec, "decode", lambda *args, **named: decoded.append(1) or decode(*args, **named))
    assert run_quality(*measured[1], "--no-chart", "--out", path) == 0
    assert len(decoded) == 1
    again = find_row(json.loads(path.read_text()), "no acoustic tokens", "sound")
    assert again["metrics"] == taken["metrics"]


def test_results_of_another_task_are_not_mixed(
    measured: tuple[Path, list[str | Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    before = measured[0].read_text()
    assert run_quality(*measured[1], "--steps", "5") == 1
    assert "(other sampling)" in capsys.readouterr().err
    assert run_quality(*measured[1], "--clips", "1") == 1
    assert "(other clips)" in capsys.readouterr().err
    assert measured[0].read_text() == before


def test_missing_programs_skip_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert [explain_missing_programs(baseline) for baseline in BASELINES] == [
        "c2enc and c2dec not found: apt-get install codec2",
        "c2enc and c2dec not found: apt-get install codec2",
        "opusenc and opusdec not found: apt-get install opus-tools",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--held-out", "nowhere"), "held-out-speech.npy"),
        (("--clips", "0"), "--clips 0"),
        (("--curve-clips", "-1"), "--curve-clips -1"),
        (("--curve-steps", "5,x"), "--curve-steps 5,x"),
        (("--metrics", "mel,loudness"), "--metrics loudness; expected all, or some of mel, stft, stoi"),
        (("--curve-precision", "fp16"), "--curve-precision fp16"),
        (("--steps", "3"), "3 steps"),
        (("--bundle", "no-such-bundle"), "no-such-bundle"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_what_cannot_work_is_one_line(
    tiny_bundle: Path,
    folders: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    said: str,
) -> None:
    arguments = ("--bundle", tiny_bundle, "--held-out", folders[0], "--out", tmp_path / "x.json")
    assert run_quality(*arguments, *options) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 20_000), np.float32), np.zeros(20_000, np.int16), np.zeros((0, 20_000), np.int16)],
    ids=["float", "one axis", "no clips"],
)
def test_clips_must_be_int16(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "held-out-music.npy", array)
    with pytest.raises(SettingsError, match=re.escape(f"{array.dtype} {list(array.shape)}")):
        load_domains(tmp_path, None, None)
    (tmp_path / "held-out-music.npy").write_bytes(b"not an array")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_domains(tmp_path, None, None)


def test_recordings_have_the_texts_of_all_their_arrays(tmp_path: Path) -> None:
    """Or none, if one array has none."""
    for language, count in (("french", 3), ("italian", 2)):
        np.save(tmp_path / f"recorded-{language}.npy", np.zeros((count, 20_000), np.int16))
        lines = [f"{language} {row}" for row in range(count)]
        (tmp_path / f"recorded-{language}.txt").write_text("\n".join(lines), encoding="utf-8")
    arrays = {"speech": RECORDED["speech"]}
    (domain,) = load_domains(tmp_path, None, None, arrays=arrays)
    assert domain.texts == ("french 0", "french 1", "french 2", "italian 0", "italian 1")
    (tmp_path / "recorded-italian.txt").unlink()
    (domain,) = load_domains(tmp_path, None, None, arrays=arrays)
    assert domain.texts is None


def test_clips_are_evenly_chosen() -> None:
    assert choose_clips(10, 3) == [0, 3, 6]
    assert choose_clips(3, 10) == [0, 1, 2]
    assert choose_clips(64, 8) == list(range(0, 64, 8))


def test_the_codec_without_acoustic_tokens_ignores_them(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    backend = choose_backend("onnxruntime", 1)
    whole = Codec(bundle, backend)
    semantic = drop_acoustic(whole)
    config = whole.config
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, config.vocab, 200), rng.integers(0, config.acoustic_vocab, 200)], axis=1)
    acoustic, meaning = codes.copy(), codes.copy()
    acoustic[:, 1] = (codes[:, 1] + 1) % config.acoustic_vocab
    meaning[:, 0] = (codes[:, 0] + 1) % config.vocab

    def differs(codec: Codec, other: np.ndarray) -> bool:
        here, there = (codec.model.embed_windows([window], config) for window in (codes, other))
        return not np.array_equal(here, there)

    assert not differs(semantic, acoustic)
    assert differs(semantic, meaning)
    assert differs(whole, acoustic)


def make_cell(domain: str, sampling: Sampling, **values: list[float | None]) -> dict[str, Any]:
    scores = {metric: {"values": numbers} for metric, numbers in values.items()}
    cell = {"domain": domain, "clips": 2, "sampling": write_sampling(sampling), "branches": 1, "metrics": scores}
    return cell | {"backend": "auto", "precision": "auto"}


def test_losses_by_hand() -> None:
    """Means 4 and 5 of speech and music against 2 and 4: 4.5 / 3 is 50 % more. STOI 0.6 of 0.8 is a quarter less."""
    reference, fast = Sampling(), PRESETS["fast"]
    document = {
        "task": {
            "clips": {"speech": {"clips": 7}, "music": {"clips": 2}},
            "sampling": write_sampling(reference),
            "backend": {"backend": "auto", "precision": "auto"},
        },
        "curves": [
            make_cell("music", fast, mel=[5.0, 5.0]),
            make_cell("speech", fast, mel=[3.0, 5.0], stoi=[0.6, None]),
            make_cell("speech", reference, mel=[2.0, 2.0], stoi=[0.8, 0.1]),
            make_cell("music", reference, mel=[4.0, 4.0]),
            make_cell("music", PRESETS["balanced"], mel=[4.0, 4.0]),  # not of both domains
        ],
    }
    first, second = compare_samplings(document, 2)
    assert (first["presets"], second["presets"]) == (["reference"], ["fast"])
    assert first["mel"] == {"mean": 3.0, "loss_percent": 0.0, "standard_error_percent": 0.0}
    assert second["mel"]["mean"] == 4.5
    assert second["mel"]["loss_percent"] == pytest.approx(50)
    # differences of speech 1 and 3: standard deviation √2, error 1 of the mean; of music 0. Half their sum, over 3.
    assert second["mel"]["standard_error_percent"] == pytest.approx(100 * 0.5 / 3)
    assert second["stoi"]["loss_percent"] == pytest.approx(25)
    assert second["stoi"]["standard_error_percent"] is None
    assert compare_samplings(document | {"curves": document["curves"][:2]}, 2) == []


def test_goals_by_hand() -> None:
    def row(name: str, domain: str, **means: float | None) -> dict[str, Any]:
        return {"row": name, "domain": domain, "metrics": {metric: {"mean": mean} for metric, mean in means.items()}}

    document = {
        "rows": [
            row("codec", "speech", mel=1.8, stoi=0.82, pesq=None),
            row("Codec2 700C", "speech", mel=6.0, stoi=0.7),
            row("ceiling", "speech", mel=1.0, stoi=0.9),
            row("codec", "music", mel=3.0),
            row("Opus 6k", "music", mel=4.0),
            {"row": "ceiling", "domain": "music", "skipped": "absent"},
        ],
        "codebooks": [{"codebook": "semantic", "domain": "all", "share": 0.4}],
    }
    recorded = [goal["goal"] for goal in list_goals(document, RECORDED_GOALS)]
    assert recorded[0] == "stoi of speech, codec" and not any(
        "ceiling" in goal or "mel of speech" in goal for goal in recorded
    )
    reached = [(goal["reached"], goal["met"]) for goal in list_goals(document)]
    assert reached == [
        (0.82, True),
        (0.9, False),
        (1.8, True),
        (3.0, False),
        (pytest.approx(0.12), True),
        (-1.0, True),
        (0.4, False),
    ]


def test_samplings_begin_with_the_yardstick_and_repeat_none() -> None:
    samplings = list_samplings(Sampling(), "8,20,50", "1,2", "0-1000,200-1000")
    assert samplings[0] == Sampling()
    assert len(samplings) == len(set(samplings)) == 12 + 1 + 1  # the presets are among the twelve
    assert samplings[-1] == Sampling(interval=(200, 1000))
    assert set(PRESETS.values()) <= set(samplings)


@pytest.mark.parametrize("baseline", BASELINES, ids=OTHERS)
def test_other_codecs_give_the_speech_back(golden: Path, baseline: Baseline) -> None:
    if absence := explain_missing_programs(baseline):
        pytest.skip(absence)
    speech, _ = soundfile.read(golden / "speech_12s.wav", dtype="float32", frames=80_000)
    trip = baseline.run(speech)
    low, high = {"Codec2 700C": (700, 700), "Codec2 1200": (1200, 1200), "Opus 6k": (4000, 8000)}[baseline.name]
    assert low <= trip.bitrate <= high
    delay = find_delay([(speech, trip.samples)])
    assert 0 <= delay <= 640
    assert len(trip.samples) >= len(speech) + (delay if "Codec2" in baseline.name else 0)
    aligned = undo_delay(trip.samples, delay, len(speech))
    assert mel_distance(speech, aligned) < 0.8 * mel_distance(speech, aligned[::-1])


def make_page(granule: int, sizes: list[int]) -> bytes:
    """An Ogg page (RFC 3533, section 6)."""
    header = struct.pack("<4sBBqIIIB", b"OggS", 0, 0, granule, 1, 0, 0, len(sizes))
    return header + bytes(sizes) + b"x" * sum(sizes)


def test_bytes_of_opus_packets_are_counted() -> None:
    file = make_page(0, [19]) + make_page(0, [255, 255, 3]) + make_page(960, [40, 41]) + make_page(2880, [255, 10, 7])
    assert count_packet_bytes(file) == 40 + 41 + 255 + 10 + 7
    with pytest.raises(BackendError, match="byte 47"):
        count_packet_bytes(make_page(0, [19]) + b"garbage" * 9)


def test_program_that_fails_is_named() -> None:
    with pytest.raises(BackendError, match="sh -c exit 3 failed with 3"):
        run_program(["sh", "-c", "exit 3"], b"")
    with pytest.raises(BackendError, match="no-such-program did not run"):
        run_program(["no-such-program"], b"")


def test_a_frame_within_fifty_cents_of_the_written_pitch_is_in_tune() -> None:
    """A harmonic tone of 220 Hz against written pitches 0, 40 and 60 cents away, and rests, which do not count."""
    pytest.importorskip("librosa")
    time = np.arange(32_000) / 16_000
    tone = sum(np.sin(2 * np.pi * 220 * k * time) / k for k in range(1, 6)).astype(np.float32)
    for cents, expected in ((0, 1.0), (40, 1.0), (-40, 1.0), (60, 0.0), (1200, 0.0)):
        written = np.full(200, 220 * 2 ** (cents / 1200), np.float32)
        assert share_in_tune(tone, written) == pytest.approx(expected, abs=0.05)
    written = np.where(np.arange(200) < 100, 220.0, 0.0)
    assert share_in_tune(np.concatenate([tone[:16_000], np.zeros(16_000, np.float32)]), written) > 0.9
    assert share_in_tune(np.zeros(32_000, np.float32), written) == 0
    assert share_in_tune(tone, np.zeros(200)) is None


def test_melodies_are_measured_against_their_written_pitch(tmp_path: Path) -> None:
    """Systems that keep, lower and lose the pitch; the file of the pitch is asked for by name."""
    pytest.importorskip("librosa")
    time = np.arange(32_000) / 16_000
    clips = [np.sin(2 * np.pi * pitch * time).astype(np.float32) for pitch in (220.0, 330.0)]
    written = np.repeat([[220.0], [330.0]], 200, axis=1)
    kept = measure_pitch(clips, [np.concatenate([np.zeros(80, np.float32), clip]) for clip in clips], written)
    assert kept["delay_samples"] == 80 and kept["in_tune"]["mean"] > 0.95 and kept["in_tune"]["of"] == 2
    swapped = measure_pitch(clips, clips[::-1], written)
    assert swapped["in_tune"]["mean"] < 0.05
    np.save(tmp_path / "held-out-melody.npy", np.zeros((2, 32_000), np.int16))
    with pytest.raises(SettingsError, match=r"expected a folder with held-out-melody-pitch\.npy"):
        load_melodies(tmp_path)
    np.save(tmp_path / "held-out-melody-pitch.npy", written[:1])
    with pytest.raises(SettingsError, match="1 melodies; expected 2, as many as clips"):
        load_melodies(tmp_path)
