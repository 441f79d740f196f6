"""The codec as a whole, on the tiny bundle: batching, streaming, inputs, vocabularies, memory, and no torch."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sc_runtime import Codec, Tokens
from sc_runtime.audio import Audio
from sc_runtime.bundle.store import Bundle
from sc_runtime.errors import AudioError, BackendError, CodecError, MissingExtraError, SettingsError, TokensError
from sc_runtime.model import WindowPlan
from sc_runtime.networks import Graph
from sc_runtime.semanticodec.config import SemantiCodecConfig
from sc_runtime.semanticodec.presets import PRESETS
from sc_runtime.spec import DecodeOptions
from sc_runtime.unicodec.config import UniCodecConfig
from tests.conftest import ROOT

SPEECH = "speech_12s.wav"


@pytest.fixture(scope="module")
def tokens(codec: Codec) -> Tokens:
    """26 s: three decoding windows."""
    generator = np.random.default_rng(0)
    samples = 26 * 16000
    codes = generator.integers(0, [codec.config.vocab, 8192], (codec.config.count_positions(samples), 2))
    return Tokens.from_array(codes, codec.config, samples)


def test_batching_and_streaming_change_nothing(codec: Codec, tokens: Tokens) -> None:
    whole = codec.decode(tokens, steps=2, seed=4)
    assert whole.dtype == np.float32
    assert whole.shape == (26 * 16000,)
    for batch in (2, 3, 8):
        np.testing.assert_allclose(codec.decode(tokens, steps=2, seed=4, batch=batch), whole, atol=1e-5)
    pieces = list(codec.decode_stream(tokens, steps=2, seed=4))
    assert len(pieces) == 11  # four parts of two windows, two of the shorter third, and its end
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-5)
    scale = np.abs(whole - whole.mean()).max()
    assert scale > 1e-4, "the stand-in decoder must make some sound for this to mean anything"
    assert np.abs(codec.decode(tokens, steps=2, seed=4, batch=3) - whole).max() < 1e-3 * scale


def test_encoding_in_batches_changes_nothing(codec: Codec, golden: Path) -> None:
    sound, _ = soundfile.read(golden / SPEECH, dtype="float32")
    long = np.tile(sound, 4)
    expected = codec.encode(long, batch=1)
    assert codec.encode(long, batch=3) == expected
    assert codec.encode(long, batch=16) == expected


def test_recordings_encoded_together_have_the_tokens_of_each_alone(
    codec: Codec, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, _ = soundfile.read(golden / SPEECH, dtype="float32")
    lengths = [16_000, 180_000, 5, 170_000, 400_000]  # 1, 2, 1, 2 and 3 windows
    recordings = [np.tile(sound, 3)[:length] for length in lengths]
    expected = [codec.encode(recording, batch=1) for recording in recordings]
    batches: list[int] = []
    encode_windows = codec.model.encode_windows

    def count(windows: list[np.ndarray], *others: Any) -> list[np.ndarray]:
        batches.append(len(windows))
        return encode_windows(windows, *others)

    monkeypatch.setattr(codec.model, "encode_windows", count)
    for batch, wanted in ((1, [1] * 9), (2, [2] * 4 + [1]), (4, [4, 4, 1]), (16, [9])):
        batches.clear()
        assert list(codec.encode_many(recordings, batch=batch)) == expected
        assert batches == wanted
    assert list(codec.encode_many([])) == []


def test_a_recording_that_cannot_be_encoded_does_not_stop_the_others(
    codec: Codec, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, damaged, shrinking = golden / SPEECH, np.zeros(200_000, np.float32), np.zeros(180_000, np.float32)
    damaged[190_000] = np.nan
    expected = codec.encode(good)
    plan_windows = codec.model.plan_windows

    def lose_the_second_window(recording: Audio, config: SemantiCodecConfig) -> WindowPlan:
        found = plan_windows(recording, config)

        def read() -> Iterator[np.ndarray]:
            yield next(found.windows)
            raise AudioError("audio that ends early", "all of it")

        return replace(found, windows=read()) if found.samples == len(shrinking) else found

    monkeypatch.setattr(codec.model, "plan_windows", lose_the_second_window)
    for batch in (1, 2, 3, 16):
        found = list(codec.encode_many([b"", good, damaged, shrinking, "not there.wav", good], batch=batch))
        assert [found[1], found[5]] == [expected] * 2
        messages = ["empty file", "a sample of nan at 11.875 s", "ends early", "No such file"]
        for i, message in zip((0, 2, 3, 4), messages, strict=True):
            assert isinstance(found[i], AudioError)
            assert message in str(found[i])


def test_a_bad_recording_is_reported_before_more_are_opened(codec: Codec) -> None:
    taken: list[int] = []
    found = codec.encode_many((taken.append(number) or b"" for number in range(100)), batch=4)  # type: ignore[func-returns-value]
    assert isinstance(next(found), AudioError)
    assert len(taken) == 4


def test_recordings_are_taken_as_their_windows_come_due(codec: Codec) -> None:
    taken: list[int] = []
    heard: list[tuple[int, int, int]] = []

    def record() -> Iterator[np.ndarray]:
        for number in range(6):
            taken.append(number)
            yield np.full(1000 + number, 0.1, np.float32)

    found = codec.encode_many(record(), batch=2, progress=lambda *facts: heard.append(facts))
    assert taken == []
    samples = [(tokens.samples, len(taken)) for tokens in found if isinstance(tokens, Tokens)]
    assert samples == [(1000, 2), (1001, 2), (1002, 4), (1003, 4), (1004, 6), (1005, 6)]
    assert heard == [(number, 1, 1) for number in range(6)]


def test_the_first_piece_comes_after_the_first_part_of_a_window(codec: Codec, tokens: Tokens) -> None:
    seen = []
    stream = codec.decode_stream(tokens, steps=2, progress=lambda done, total: seen.append((done, total)))
    piece = next(stream)
    assert len(piece) == 160 * (292 - 24) - 10_240
    assert seen[-1][0] <= seen[-1][1] / 3


def test_an_error_while_the_vocoder_loads_is_raised(
    tiny_bundle: Path, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = Codec.load(tiny_bundle, backend="onnxruntime")
    opened = codec.backend.open

    def refuse(bundle: Bundle, graph: str) -> Graph:
        if graph == "hifigan":
            raise BackendError("hifigan", "a graph it can load")
        return opened(bundle, graph)

    monkeypatch.setattr(codec.backend, "open", refuse)
    with pytest.raises(BackendError, match="hifigan; expected a graph it can load"):
        next(codec.decode_stream(tokens, steps=1))


def test_progress_ends_at_its_total(codec: Codec, tokens: Tokens) -> None:
    seen: list[tuple[int, int]] = []
    codec.decode(tokens, steps=2, progress=lambda done, total: seen.append((done, total)), batch=2)
    done = [count for count, _ in seen]
    assert done == sorted(done)
    assert seen[-1][0] == seen[-1][1]


def test_a_seed_gives_the_same_sound_and_another_seed_another(codec: Codec, tokens: Tokens) -> None:
    first = codec.decode(tokens, steps=2, seed=1)
    np.testing.assert_array_equal(codec.decode(tokens, steps=2, seed=1), first)
    assert np.abs(codec.decode(tokens, steps=2, seed=2) - first).max() > 1e-6


def test_injected_noise_is_used_draw_by_draw(codec: Codec, tokens: Tokens) -> None:
    asked = []

    def noise(window: int, draw: int) -> np.ndarray:
        asked.append((window, draw))
        return np.zeros((8, 256, 16), np.float32)

    codec.decode(tokens, steps=2, noise=noise)
    assert sorted(asked) == [(window, draw) for window in range(3) for draw in range(3)]


def test_noise_of_another_shape_or_dtype_is_refused(codec: Codec, tokens: Tokens) -> None:
    for wrong in (np.zeros((8, 256, 16)), np.zeros((8, 16, 256), np.float32)):
        with pytest.raises(SettingsError, match=r"noise .* expected float32 \[8, 256, 16\]"):
            codec.decode(tokens, steps=2, noise=lambda window, draw, wrong=wrong: wrong)


def test_files_arrays_bytes_and_streams_give_the_same_tokens(codec: Codec, golden: Path) -> None:
    path = golden / SPEECH
    sound, rate = soundfile.read(path, dtype="float32")
    expected = codec.encode(path)
    assert expected.samples == len(sound)
    assert codec.encode(str(path)) == expected
    assert codec.encode(sound, sample_rate=rate) == expected
    assert codec.encode(np.stack([sound, -sound], axis=1)) == expected
    assert codec.encode(path.read_bytes()) == expected
    with path.open("rb") as stream:
        assert codec.encode(stream) == expected


def test_decoding_an_sct_gives_the_original_number_of_samples(codec: Codec, tmp_path: Path) -> None:
    for samples in (1, 12_345, 163_840):
        sound = np.random.default_rng(samples).uniform(-0.5, 0.5, samples).astype(np.float32)
        path = tmp_path / f"{samples}.sct"
        codec.encode(sound).save(path)
        assert codec.decode(path, steps=1).shape == (samples,)


def test_an_npy_decodes_to_every_position(codec: Codec, tokens: Tokens, tmp_path: Path) -> None:
    path = tmp_path / "tokens.npy"
    tokens.save(path)
    assert codec.decode(path, steps=1).shape == (codec.config.count_samples(len(tokens)),)


def test_other_rates_are_resampled(codec: Codec) -> None:
    sound = np.sin(np.arange(44_100) * 0.05).astype(np.float32)
    assert codec.encode(sound, sample_rate=44_100).samples == 16_000


def test_vocabularies_share_the_networks_and_tokens_carry_theirs(codec: Codec, golden: Path) -> None:
    small, large = codec.encode(golden / SPEECH, vocab=4096), codec.encode(golden / SPEECH)
    assert (small.config.vocab, large.config.vocab) == (4096, 32768)
    assert small.codes[:, 0].max() < 4096
    assert not np.array_equal(small.codes[:, 0], large.codes[:, 0])
    assert codec.decode(small, steps=1).shape == codec.decode(large, steps=1).shape
    with pytest.raises(SettingsError, match="vocabulary 8192; expected one that"):
        codec.encode(golden / SPEECH, vocab=8192)


def test_embed_gives_both_codebooks_vectors(codec: Codec, tiny_bundle: Path, golden: Path) -> None:
    """E = [Es, Ea] of eq. 5, read from the codebook files themselves."""
    tokens = codec.encode(golden / SPEECH, vocab=4096)
    semantic, acoustic = (np.load(tiny_bundle / f"{name}.npy") for name in ("semantic-4096", "acoustic"))
    features = codec.embed(tokens)
    assert features.dtype == np.float32
    for position, (s, a) in enumerate(tokens.codes):
        np.testing.assert_array_equal(features[position], np.concatenate([semantic[s], acoustic[a]]))


@pytest.mark.parametrize("steps", [0, -1, 3, 1001])
def test_steps_that_cannot_work_are_refused_before_anything_runs(codec: Codec, tokens: Tokens, steps: int) -> None:
    with pytest.raises(SettingsError, match=f"{steps} steps"):
        codec.decode_stream(tokens, steps=steps)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eta": 1.5}, "eta 1.5"),
        ({"eta": float("nan")}, "eta nan"),
        ({"guidance": float("inf")}, "guidance inf"),
        ({"eta": "1"}, "eta '1'"),
        ({"guidance": "2"}, "guidance '2'; expected a finite number"),
        ({"steps": 1.5}, "steps 1.5; expected a whole number of steps"),
        ({"steps": True}, "steps True; expected a whole number of steps"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 1.5}, "seed 1.5; expected a whole number from 0 to"),
        ({"batch": 0}, "batch 0"),
        ({"batch": 2.5}, "batch 2.5; expected a whole number of windows, at least 1"),
        ({"step": 8}, "option step=8; expected one of preset, steps"),
    ],
)
def test_other_settings_are_refused(codec: Codec, tokens: Tokens, settings: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        codec.decode_stream(tokens, **settings)


def test_tokens_of_another_rate_or_vocabulary_are_refused(codec: Codec, tokens: Tokens) -> None:
    with pytest.raises(TokensError, match="tokens at 25 tps; expected 50"):
        codec.decode(Tokens.from_array(tokens.codes, SemantiCodecConfig(25, 32768)), steps=1)
    with pytest.raises(TokensError, match="vocabulary"):
        codec.decode(Tokens.from_array(tokens.codes % 8000, SemantiCodecConfig(50, 8192)), steps=1)
    with pytest.raises(TokensError, match=r"semantic token 40000 at position 0.*choose the vocabulary"):
        codec.decode(np.array([[40000, 0]]), steps=1)
    with pytest.raises(TokensError, match="acoustic token 9000 at position 1; expected 0 to 8191: the tokens are dam"):
        codec.decode(np.array([[4, 0], [4, 9000]]), steps=1)


def test_a_vocabulary_other_than_the_tokens_own_is_refused(codec: Codec, tokens: Tokens, tmp_path: Path) -> None:
    tokens.save(tmp_path / "a.sct")
    given = "vocab 4096 for tokens that state the vocabulary 32768; expected the same: leave vocab out"
    for source in (tokens, tmp_path / "a.sct"):
        with pytest.raises(TokensError, match=given):
            codec.decode_stream(source, vocab=4096)
        with pytest.raises(TokensError, match=given):
            codec.embed(source, vocab=4096)


def test_tokens_of_another_codec_are_refused_by_name(codec: Codec, tmp_path: Path) -> None:
    tokens = Tokens.from_array(np.zeros((8, 1), int), UniCodecConfig())
    tokens.save(tmp_path / "a.sct")
    tokens.save(tmp_path / "a.npy")
    message = (
        r"tokens of unicodec; expected tokens of semanticodec, the codec of the bundle: decode them with a bundle of"
    )
    for take, given in (
        (codec.decode_stream, tokens),
        (codec.decode_stream, tmp_path / "a.sct"),
        (codec.embed, tokens),
        (codec.count_windows, tokens),
    ):
        with pytest.raises(TokensError, match=f"{message} unicodec"):
            take(given)
    with pytest.raises(TokensError, match=r"an array of shape \[1, 8, 1\]; expected \[T, 2\] or \[1, T, 2\]"):
        codec.decode(tmp_path / "a.npy")


def test_options_of_another_codec_are_refused(codec: Codec, golden: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        codec.encode(golden / SPEECH, domain="speech")
    expected = "domain speech; expected an option of semanticodec (it has none): leave it out"
    assert str(caught.value) == expected


def test_settings_that_are_left_out_are_the_published_ones(codec: Codec, tokens: Tokens) -> None:
    reference = {"solver": "ddim", "steps": 50, "guidance": 2.0, "eta": 1.0, "interval": (0, 1000)}
    assert codec.resolve_options(DecodeOptions()) == {"preset": "reference", "seed": 0, **reference}
    changed = codec.resolve_options(DecodeOptions(preset="fast", steps=4, seed=7))
    assert (changed["preset"], changed["steps"], changed["seed"]) == ("fast", 4, 7)
    assert changed["solver"] == PRESETS["fast"].solver
    seeded = codec.decode(tokens, preset="reference", steps=2, seed=0)
    np.testing.assert_array_equal(codec.decode(tokens, steps=2), seeded)


def test_backends_are_chosen_by_name(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Codec.load(tiny_bundle, backend="onnxruntime", threads=1).backend.name == "onnxruntime"
    with pytest.raises(SettingsError, match="backend 'cuda'; expected one of"):
        Codec.load(tiny_bundle, backend="cuda")
    with pytest.raises(SettingsError, match="0 threads"):
        Codec.load(tiny_bundle, threads=0)
    with pytest.raises(BackendError, match="bfloat16 with the backend onnxruntime"):
        Codec.load(tiny_bundle, backend="onnxruntime", precision="bfloat16")
    with pytest.raises(SettingsError, match="precision 'int4'; expected one of auto, float32, bfloat16"):
        Codec.load(tiny_bundle, precision="int4")
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    for backend, extra in (("auto", "cpu"), ("onnxruntime", "cpu"), ("openvino", "openvino")):
        with pytest.raises(MissingExtraError, match=rf"pip install 'sc-runtime\[{extra}\]'"):
            Codec.load(tiny_bundle, backend=backend)


def test_a_graph_the_backend_cannot_load_is_one_clear_error(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("protobuf parsing failed\nsecond line")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(
        BackendError, match=r"hifigan\.onnx: ONNX Runtime refuses it \(protobuf parsing failed\)"
    ) as error:
        codec.backend.open(codec.bundle, "hifigan")
    assert isinstance(error.value, CodecError)
    assert "\n" not in str(error.value)


def run_program(program: str, *arguments: object) -> str:
    """Run `program` in another process, so that only its own imports and its own memory count."""
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def test_import_encode_and_decode_never_import_torch(tiny_bundle: Path, golden: Path) -> None:
    program = """
        import sys

        class Forbidden:
            def find_spec(self, name, path=None, target=None):
                assert name.split(".")[0] not in {"torch", "onnx", "onnxscript"}, f"{name} imported"

        sys.meta_path.insert(0, Forbidden())
        import sc_runtime
        codec = sc_runtime.Codec.load(sys.argv[1], backend="onnxruntime")
        audio = codec.decode(codec.encode(sys.argv[2]), steps=1)
        assert "torch" not in sys.modules
        print(len(audio))
    """
    assert run_program(program, tiny_bundle, golden / SPEECH).strip() == "196800"


@pytest.mark.slow
def test_encoding_memory_does_not_grow_with_the_file(tiny_bundle: Path, tmp_path: Path) -> None:
    """Twenty minutes against five, the first length that fills every buffer: fifteen minutes are 58 MB as float32.

    A tone in FLAC is a small file. The reader maps files, and a mapped file counts as resident.
    """
    program = """
        import sys
        from bench.harness.machine import measure_peak_memory
        from sc_runtime import Codec
        codec = Codec.load(sys.argv[1], backend="onnxruntime")
        codec.encode(sys.argv[2], vocab=4096)
        print(measure_peak_memory())
    """
    peaks = []
    for minutes in (5, 20):
        path = tmp_path / f"{minutes}.flac"
        block = 0.3 * np.sin(2 * np.pi * 100 * np.arange(60 * 16000) / 16000)
        with soundfile.SoundFile(path, "w", 16000, 1, "PCM_16") as file:
            for _ in range(minutes):
                file.write(block)
        peaks.append(int(run_program(program, tiny_bundle, path)))
    assert peaks[1] - peaks[0] < 10e6, f"peak resident bytes {peaks}"


@pytest.mark.parametrize("value", [None, 5, True, b"SCTK", object()])
def test_what_is_no_tokens_is_named_by_its_type(codec: Codec, value: Any) -> None:
    with pytest.raises(TokensError) as caught:
        codec.decode(value)
    assert caught.value.given == f"tokens of type {type(value).__name__}"
    assert caught.value.expected.startswith("Tokens, the name of a file, an array [T, C]") and caught.value.remedy


def test_a_missing_recording_has_a_remedy(codec: Codec, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"No such file or directory; expected .*: check its name and permissions"):
        codec.encode(tmp_path / "gone.wav")
